//! A Postgres in a container, for machines that have an engine and no Postgres of their own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::command::test::POSTGRES_IMAGE;
use crate::engine::Engine;
use crate::ports;

const START: Duration = Duration::from_secs(60);

/// A running container. [`Container::remove`] takes it away.
pub(crate) struct Container {
    engine: Engine,
    name: String,
    url: String,
}

impl Container {
    /// Starts one of the image that `compose/postgres/` makes.
    ///
    /// # Errors
    /// If it does not come up.
    pub(super) async fn start(engine: &Engine) -> Result<Self> {
        let port = ports::free()?;
        let name = format!("xtask-postgres-{}", std::process::id());
        let binding = PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(port.to_string()) };
        let body = ContainerCreateBody {
            image: Some(POSTGRES_IMAGE.into()),
            cmd: Some(["-c", "fsync=off", "-c", "max_connections=400"].map(str::to_owned).to_vec()),
            // Whoever reaches this port reaches nothing but test data in a container.
            env: Some(vec!["POSTGRES_TRUST=1".into()]),
            host_config: Some(HostConfig {
                port_bindings: Some(HashMap::from([("5432/tcp".to_owned(), Some(vec![binding]))])),
                auto_remove: Some(true),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        engine
            .docker
            .create_container(Some(options), body)
            .await
            .context("cannot create Postgres' container")?;
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let container = Self { engine: engine.clone(), name, url };
        let up = async {
            container.engine.docker.start_container(&container.name, None).await?;
            wait(port).await
        };
        match up.await {
            Ok(()) => Ok(container),
            Err(error) => {
                let _ = container.remove().await;
                Err(error).context("Postgres' container did not come up")
            }
        }
    }

    /// The address of its administrator's database, with the password.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Takes it away.
    ///
    /// # Errors
    /// If the engine refuses.
    pub(super) async fn remove(self) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.engine.docker.remove_container(&self.name, Some(options)).await {
            Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("cannot remove the container {}", self.name)),
        }
    }
}

/// The engine's proxy accepts connections before the server does, so a server is one that keeps the connection open.
async fn wait(port: u16) -> Result<()> {
    let deadline = Instant::now() + START;
    while Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
            let mut byte = [0; 1];
            let read = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut byte)).await;
            if read.is_err() {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("nothing answered on port {port} within {} s", START.as_secs())
}
