//! Why a node cannot start or go on. Each says what to do next.

use std::path::PathBuf;

use orca_proto::client::ClientError;
use orca_proto::client::worker::WorkerError;

/// Why a node ended otherwise than by a drain.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A setting is out of its range.
    #[error("{setting} {why}")]
    Setting {
        /// The option, as on the command line.
        setting: &'static str,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// A file or directory of the node's own cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another daemon works in the same state directory.
    #[error(
        "another node is using {}; stop it, or give this one a directory of its own with --state-dir",
        path.display()
    )]
    StateDirInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The agent cannot be put into containers.
    #[error("the agent {} cannot be used: {why}", path.display())]
    Agent {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// The container engine cannot be used.
    #[error("{0}")]
    Engine(String),
    /// The coordinator refused the node.
    #[error("the coordinator refused this node: {0}")]
    Refused(#[source] ClientError),
    /// The address of the coordinator or the token cannot be used at all.
    #[error(transparent)]
    Client(ClientError),
    /// Another daemon registered the same name.
    #[error(
        "another daemon registered the name {name:?}, so this one stopped all its containers; give each node its own --name"
    )]
    Superseded {
        /// The name.
        name: String,
    },
}

impl From<WorkerError> for NodeError {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Refused(error) => Self::Refused(error),
            WorkerError::Superseded { name } => Self::Superseded { name },
            WorkerError::Setting(why) => Self::Setting { setting: "a setting", why: why.to_owned() },
        }
    }
}

impl NodeError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
