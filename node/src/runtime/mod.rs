//! One trait over what runs containers. [`docker`] alone knows an engine's API; [`process`] runs child processes.
//!
//! Containers are known by their names, so whoever lost track of a call can still ask. Unknown is not dead: [`Runtime::wait`]
//! returns only when the container has surely ended, however long the engine is silent.

pub(crate) mod agent;
mod docker;
pub(crate) mod gpus;
mod process;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use orca_proto::spec::{ContainerSpec, Network, Resources};
use tokio::sync::watch;

use self::gpus::Gpus;
use crate::NodeError;
use crate::settings::{NodeSettings, RuntimeKind};
use crate::state_dir::StateDir;

/// Why a container could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The task's own fault: it would fail on any node.
    #[error("{0}")]
    Rejected(String),
    /// The engine said no, or failed.
    #[error("{0}")]
    Engine(String),
    /// The engine did not answer; whatever was asked may still happen.
    #[error("{0}")]
    Silent(String),
}

/// What is to be told of an image that is on its way, in a few words; nothing as long as there is nothing to tell.
pub(crate) type News = watch::Sender<String>;

/// What an image says about how to run it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    /// What the engine calls exactly this image.
    pub(crate) id: String,
    /// Its entrypoint, then its command; empty if it has neither.
    pub(crate) command: Vec<String>,
    /// Paths that it declares as volumes.
    pub(crate) volumes: Vec<String>,
    /// What registries call exactly this image: `NAME@sha256:…`.
    pub(crate) digests: Vec<String>,
    /// What to tell of it: one of `digests`, or else its id.
    pub(crate) digest: Option<String>,
    /// Keeps it from being removed.
    pub(crate) hold: Option<docker::image_store::Hold>,
}

/// An input artifact to show to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Its name under `files/`.
    pub(crate) name: String,
    /// Where it is on this machine.
    pub(crate) source: PathBuf,
}

/// A container to start.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) name: String,
    pub(crate) image: Image,
    pub(crate) user: Option<String>,
    pub(crate) resources: Resources,
    pub(crate) network: Network,
    /// The directory that it shares with its node.
    pub(crate) directory: PathBuf,
    pub(crate) artifacts: Vec<Shown>,
    /// Whether the program gets secrets: then there is a directory for them in memory.
    pub(crate) secrets: bool,
    /// The GPUs that are its own.
    pub(crate) gpus: Gpus,
    pub(crate) labels: HashMap<String, String>,
}

/// How a container's first process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Somebody removed it.
    Gone,
}

/// What is found out about a container that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PostMortem {
    /// The kernel killed something in it for memory, at some time.
    pub(crate) out_of_memory: bool,
    /// The deadly signal that somebody had the engine send, where that is known.
    pub(crate) killed_by: Option<i32>,
    /// The last that its agent had to say.
    pub(crate) said: String,
}

/// Most of what an agent said that goes into a reason, in bytes.
const SAID: usize = 2_000;

/// The last lines of what an agent said, as many as a reason takes. Whole ones: of one that is cut nobody knows what is in it.
fn last_words(said: &str) -> String {
    let start = said.ceil_char_boundary(said.len().saturating_sub(SAID));
    let tail = said.get(start..).unwrap_or_default();
    let whole = match start {
        0 => tail,
        _ => tail.split_once('\n').map_or("", |(_, whole)| whole),
    };
    whole.trim().to_owned()
}

/// A signal that a node sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Term,
    Kill,
}

/// What runs containers.
pub(crate) trait Runtime: Send + Sync {
    /// For people, such as `docker 20.10.24 (API 1.41)`.
    fn describe(&self) -> &str;

    /// Whether it answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), Fault>>;

    /// Makes the image ready, and says what it holds. While that takes, `news` says how far it is.
    fn image<'a>(&'a self, spec: &'a ContainerSpec, news: &'a News) -> BoxFuture<'a, Result<Image, Fault>>;

    /// Creates and starts a container. After a fault there may be one all the same: remove it.
    fn start<'a>(&'a self, launch: &'a Launch) -> BoxFuture<'a, Result<(), Fault>>;

    /// Waits until the container's first process has ended.
    fn wait<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Exit>;

    /// Looks at a container that has ended.
    fn post_mortem<'a>(&'a self, name: &'a str) -> BoxFuture<'a, PostMortem>;

    /// Sends a signal to the container's first process.
    fn signal<'a>(&'a self, name: &'a str, signal: Signal) -> BoxFuture<'a, Result<(), Fault>>;

    /// Kills and removes a container; returns `Ok` only once there is none of that name.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Fault>>;

    /// The names of all containers that daemons with this state directory made and that are still there, running or not.
    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, Fault>>;

    /// Starts a container that an earlier daemon created and did not start; leaves any other as it is.
    fn resume<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Fault>>;

    /// Removes all that an earlier daemon with the same state directory left, but the containers of these names; answers how
    /// many.
    fn sweep<'a>(&'a self, but: &'a HashSet<String>) -> BoxFuture<'a, Result<usize, Fault>>;

    /// Removes images that nobody has used for long, where there are some to remove.
    fn tidy(&self) -> BoxFuture<'_, ()>;
}

/// The runtime that the settings ask for.
///
/// # Errors
/// [`NodeError::Engine`] if it does not answer.
pub(crate) async fn connect(
    settings: &NodeSettings,
    state: &StateDir,
    agent: PathBuf,
) -> Result<Arc<dyn Runtime>, NodeError> {
    Ok(match settings.runtime.kind {
        RuntimeKind::Docker => Arc::new(docker::Docker::connect(settings, state).await?),
        RuntimeKind::Process => Arc::new(process::Process::new(agent, state.attempts())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_whole_lines() {
        assert_eq!(last_words("one\ntwo\n"), "one\ntwo");
        let long = format!("{}swordfish\nlast\n", "x".repeat(SAID));
        assert_eq!(last_words(&long), "last");
        assert_eq!(last_words(&"€".repeat(SAID)), "");
    }
}
