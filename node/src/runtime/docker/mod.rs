//! Containers by a Docker engine. Nothing outside this directory knows bollard.
//!
//! Every call has a deadline. An engine that does not answer ([`Fault::Silent`]) may still do what it was asked to, so
//! nothing is concluded from silence.

mod allow_list;
mod container;
mod host_config;
mod host_paths;
mod image;
pub(super) mod image_store;
mod pull;
mod pull_news;
mod registry_auth;

use std::collections::HashSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use futures_util::future::BoxFuture;
use orca_proto::spec::ContainerSpec;
use tokio::sync::Semaphore;

use self::allow_list::AllowList;
use self::host_paths::HostPaths;
use self::image::look_up;
use self::image_store::ImageStore;
use self::pull::Pulls;
use self::registry_auth::RegistryAuth;
use super::{Exit, Fault, Image, Launch, News, PostMortem, Runtime, Signal};
use crate::NodeError;
use crate::settings::{ImageGcSettings, NodeSettings};
use crate::state_dir::StateDir;

/// Where the engine is unless the settings say otherwise.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// Calls that only look.
const LOOK: Duration = Duration::from_secs(30);
/// The call that finds out whether the engine answers at all.
const PING: Duration = Duration::from_secs(10);
/// Calls that create, start or remove; a busy engine takes long.
const ACT: Duration = Duration::from_secs(120);
/// Containers created at one time; beyond a few, an engine gets slower, not faster.
const CREATES: usize = 4;

/// A Docker engine.
pub(crate) struct Docker {
    api: bollard::Docker,
    description: String,
    paths: HostPaths,
    agent_dir: PathBuf,
    state_id: String,
    allow_network: bool,
    creates: Semaphore,
    allowed: AllowList,
    pulls: Pulls,
    store: Arc<ImageStore>,
    gc: Option<ImageGcSettings>,
}

impl Docker {
    /// Connects, and finds out how this node's files look to the engine.
    pub(super) async fn connect(settings: &NodeSettings, state: &StateDir) -> Result<Self, NodeError> {
        let host = settings.runtime.docker_host.as_deref().unwrap_or(DEFAULT_HOST);
        let absent = |why: String| {
            NodeError::Engine(format!(
                "no Docker engine answers at {host}: {why}. Is it running? May this user use it (group `docker`)? \
                 Is DOCKER_HOST right? Without an engine, --runtime process runs tasks as plain child processes, \
                 which isolates nothing"
            ))
        };
        let api = bollard::Docker::connect_with_host(host).map_err(|error| absent(error.to_string()))?;
        let api = within(LOOK, "version", api.with_timeout(ACT).negotiate_version())
            .await
            .map_err(|fault| absent(fault.to_string()))?;
        let version =
            within(LOOK, "version", api.version()).await.map_err(|fault| absent(fault.to_string()))?;
        let description = format!(
            "docker {} (API {})",
            version.version.unwrap_or_default(),
            version.api_version.unwrap_or_default()
        );
        let paths = HostPaths::discover(&api, state.root()).await?;
        let images = &settings.images;
        let allowed = AllowList::read(&images.allow).map_err(|pattern| NodeError::Setting {
            setting: "--allow-image",
            why: format!("has {pattern:?}, which is no pattern of images such as debian:* or registry.example.com/team/*"),
        })?;
        let auth = images.registry_auth.as_deref().map(RegistryAuth::read).transpose()?.unwrap_or_default();
        let info = within(LOOK, "info", api.info()).await.map_err(|fault| absent(fault.to_string()))?;
        warn_of_no_seccomp(info.security_options.as_deref().unwrap_or_default());
        let disk = info.docker_root_dir.and_then(|root| image_disk(&paths, host, state, root.into()));
        if images.gc.as_ref().is_some_and(|gc| gc.min_free > 0.0) && disk.is_none() {
            tracing::info!("the engine's disk cannot be seen from here: images are removed by age alone");
        }
        let store = Arc::new(ImageStore::open(state.images(), disk));
        Ok(Self {
            allowed,
            pulls: Pulls::new(api.clone(), auth, images.pull, Arc::clone(&store)),
            store,
            gc: images.gc,
            api,
            description,
            paths,
            agent_dir: state.agent_dir(),
            state_id: state.id().to_string(),
            allow_network: settings.runtime.allow_network,
            creates: Semaphore::new(CREATES),
        })
    }
}

impl Runtime for Docker {
    fn describe(&self) -> &str {
        &self.description
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(within(PING, "ping", self.api.ping()).await.map(drop)?) })
    }

    fn image<'a>(&'a self, spec: &'a ContainerSpec, news: &'a News) -> BoxFuture<'a, Result<Image, Fault>> {
        Box::pin(self.ensure_image(spec, news))
    }

    fn start<'a>(&'a self, launch: &'a Launch) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(self.start_container(launch))
    }

    fn wait<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Exit> {
        Box::pin(self.wait_for_exit(name))
    }

    fn post_mortem<'a>(&'a self, name: &'a str) -> BoxFuture<'a, PostMortem> {
        Box::pin(self.examine(name))
    }

    fn signal<'a>(&'a self, name: &'a str, signal: Signal) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(self.kill_container(name, signal))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(self.remove_container(name))
    }

    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, Fault>> {
        Box::pin(self.container_names())
    }

    fn resume<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(self.start_created(name))
    }

    fn sweep<'a>(&'a self, but: &'a HashSet<String>) -> BoxFuture<'a, Result<usize, Fault>> {
        Box::pin(self.sweep_containers(but))
    }

    fn tidy(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(gc) = &self.gc {
                self.store.collect(&self.api, gc).await;
            }
        })
    }
}

/// A path here on the file system where the engine keeps its images, if there is one: the engine's own directory where the node
/// runs beside it, or the state directory where that is a volume of the same engine.
fn image_disk(paths: &HostPaths, host: &str, state: &StateDir, root: PathBuf) -> Option<PathBuf> {
    if !host.starts_with("unix://") && !host.starts_with('/') {
        return None;
    }
    let own = state.root().to_path_buf();
    if paths.are_the_engines() {
        return root.is_dir().then_some(root);
    }
    paths.translate(&own).filter(|there| there.starts_with(&root)).map(|_| own)
}

/// Containers have the engine's own profile; one that filters nothing is worth a word.
fn warn_of_no_seccomp(options: &[String]) {
    let profile = options.iter().find(|option| option.contains("name=seccomp"));
    if profile.is_none_or(|option| option.contains("unconfined")) {
        tracing::warn!(
            "the engine does not filter the system calls of containers (seccomp); tasks reach all of the kernel"
        );
    }
}

/// Why a call to the engine brought nothing.
#[derive(Debug, thiserror::Error)]
enum CallError {
    /// It answered with a status outside 2xx.
    #[error("{message}")]
    Status { code: u16, message: String },
    /// No answer, or none that can be read.
    #[error("the engine did not answer: {0}")]
    Silent(String),
}

impl CallError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Silent(_) => None,
        }
    }
}

impl From<CallError> for Fault {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Status { message, .. } => Self::Engine(message),
            CallError::Silent(_) => Self::Silent(error.to_string()),
        }
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                Self::Status { code: status_code, message: message.trim().to_owned() }
            }
            Error::DockerStreamError { error } => {
                Self::Status { code: 500, message: error.trim().to_owned() }
            }
            other => Self::Silent(other.to_string()),
        }
    }
}

/// Runs a call to the engine under a deadline.
async fn within<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(CallError::from),
        Err(_) => Err(CallError::Silent(format!("{what} took longer than {} s", limit.as_secs()))),
    }
}
