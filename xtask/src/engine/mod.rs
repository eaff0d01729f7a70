//! The Docker engine that tests, the demo and measurements use: found, or installed and started where that is allowed.

pub(crate) mod base_image;
pub(crate) mod build;
mod install;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;

/// How long an engine may take to answer that it is there.
const HELLO: Duration = Duration::from_secs(5);
/// How long any other call may take to begin its answer, unless it says otherwise.
const CALL: Duration = Duration::from_secs(120);

/// An engine that answers.
#[derive(Clone)]
pub(crate) struct Engine {
    /// The connection.
    pub(crate) docker: Docker,
    /// Such as `docker 20.10.24 (API 1.41)`.
    pub(crate) version: String,
}

impl Engine {
    /// The engine at `DOCKER_HOST` or at the usual socket.
    ///
    /// # Errors
    /// If none answers there; says where that is and why.
    pub(crate) async fn find() -> Result<Self> {
        let place = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "/var/run/docker.sock".into());
        let docker = Docker::connect_with_defaults()
            .with_context(|| format!("no Docker engine can be reached at {place}"))?;
        Self::greet(docker).await.with_context(|| format!("no Docker engine answers at {place}"))
    }

    async fn greet(docker: Docker) -> Result<Self> {
        let hello = async {
            let docker = docker.negotiate_version().await?;
            let version = docker.version().await?;
            Ok::<_, bollard::errors::Error>((docker, version))
        };
        let (docker, version) =
            tokio::time::timeout(HELLO, hello).await.map_err(|_| anyhow!("no answer within 5 s"))??;
        let version = format!(
            "docker {} (API {})",
            version.version.unwrap_or_default(),
            version.api_version.unwrap_or_default()
        );
        Ok(Self { docker: docker.with_timeout(CALL), version })
    }

    /// The engine that answers, or one that is installed and started now.
    ///
    /// # Errors
    /// If there is none and this machine does not allow to make one; says what is missing.
    pub(crate) async fn ensure() -> Result<Self> {
        match Self::find().await {
            Ok(engine) => Ok(engine),
            Err(absent) => {
                install::start(&install::Place::usual()).await.with_context(|| format!("{absent:#}"))?;
                Self::find().await
            }
        }
    }

    /// Whether the engine holds an image of this reference.
    ///
    /// # Errors
    /// If the engine fails.
    pub(crate) async fn has_image(&self, reference: &str) -> Result<bool> {
        match self.docker.inspect_image(reference).await {
            Ok(_) => Ok(true),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot inspect the image {reference}")),
        }
    }

    /// How many containers have this label, running or not.
    ///
    /// # Errors
    /// If the engine fails.
    pub(crate) async fn labelled(&self, label: &str) -> Result<usize> {
        let filters = HashMap::from([("label", vec![label.to_owned()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        Ok(self.docker.list_containers(Some(options)).await?.len())
    }

    /// Removes an image; one that is not there is no error.
    ///
    /// # Errors
    /// If the engine refuses.
    pub(crate) async fn remove_image(&self, reference: &str) -> Result<()> {
        let options = bollard::query_parameters::RemoveImageOptionsBuilder::new().force(true).build();
        match self.docker.remove_image(reference, Some(options), None).await {
            Ok(_) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot remove the image {reference}")),
        }
    }
}
