//! The daemon's directory: its lock, its identity, and the places of everything in it.
//!
//! | name | what |
//! |---|---|
//! | `lock` | held by the one daemon that works here |
//! | `id` | written once; containers carry it as a label, so that a restarted daemon knows its own |
//! | `heartbeat` | see [`crate::heartbeat`] |
//! | `agent/orca-agent` | a copy of the agent, mounted read-only into containers |
//! | `attempts/TASK-TOKEN/` | shared with a container, so hostile once it runs |
//! | `intents/TASK-TOKEN/` | what the node itself knows of the attempt: intent, start, staged result and plan, the agent's report |
//! | `cache/` | input artifacts |
//! | `images.json` | the images that this node pulled, and when each was last used |
//! | `trash/` | what an earlier daemon left, on its way out |

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use orca_proto::ids::FencingToken;
use orca_proto::node::LeaseRef;
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::NodeError;
use crate::remove_tree::remove_tree;

/// A locked state directory.
#[derive(Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
    id: Uuid,
    _lock: File,
}

impl StateDir {
    /// Creates what is missing, takes the lock, and reads or writes the identity.
    ///
    /// # Errors
    /// [`NodeError::StateDirInUse`] or [`NodeError::Io`].
    pub(crate) fn open(path: &Path) -> Result<Self, NodeError> {
        private(path).map_err(NodeError::io("create", path))?;
        let root = path.canonicalize().map_err(NodeError::io("resolve", path))?;
        let lock_path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(NodeError::io("open", &lock_path))?;
        flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| NodeError::StateDirInUse { path: root.clone() })?;
        for name in ["agent", "attempts", "intents", "cache", "trash"] {
            private(&root.join(name)).map_err(NodeError::io("create", root.join(name)))?;
        }
        let id = identity(&root.join("id"))?;
        Ok(Self { root, id, _lock: lock })
    }

    /// Its absolute path.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What its containers are labelled with.
    pub(crate) const fn id(&self) -> Uuid {
        self.id
    }

    /// The directory that holds nothing but the agent.
    pub(crate) fn agent_dir(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// The directory of all attempts' directories.
    pub(crate) fn attempts(&self) -> PathBuf {
        self.root.join("attempts")
    }

    /// The directory that an attempt shares with its container.
    pub(crate) fn attempt(&self, lease: LeaseRef) -> PathBuf {
        self.attempts().join(format!("{}-{}", lease.task, lease.token))
    }

    /// The directory that an attempt shares with nobody.
    pub(crate) fn intent(&self, lease: LeaseRef) -> PathBuf {
        self.root.join("intents").join(format!("{}-{}", lease.task, lease.token))
    }

    /// The file of the images that this node pulled.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images.json")
    }

    /// The directory of input artifacts.
    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The attempts of which an earlier daemon noted something.
    pub(crate) fn leases(&self) -> Vec<LeaseRef> {
        let entries = fs::read_dir(self.root.join("intents")).into_iter().flatten().flatten();
        entries.filter_map(|entry| lease_of(entry.file_name().to_str()?)).collect()
    }

    /// Puts aside what an earlier daemon left, but for these attempts, for [`empty_trash`] to remove. Only after the containers of
    /// the rest are gone. Quick, however much it is: a restarted node must not make its queue wait.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn wipe(&self, but: &HashSet<LeaseRef>) -> Result<(), NodeError> {
        for dir in [self.attempts(), self.root.join("intents"), self.cache()] {
            let aside = self.trash().join(Uuid::now_v7().to_string());
            fs::rename(&dir, &aside).map_err(NodeError::io("put aside", &dir))?;
            private(&dir).map_err(NodeError::io("create", &dir))?;
            for name in but.iter().map(|lease| format!("{}-{}", lease.task, lease.token)) {
                // A directory that a container sees stays the same one when it is moved.
                match fs::rename(aside.join(&name), dir.join(&name)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(NodeError::io("keep", aside.join(&name))(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Where things wait for their removal.
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
}

/// The lease that an attempt's directory is named after.
fn lease_of(name: &str) -> Option<LeaseRef> {
    let (task, token) = name.rsplit_once('-')?;
    Some(LeaseRef { task: task.parse().ok()?, token: FencingToken(token.parse().ok()?) })
}

/// Creates a directory that only the node may enter, with its parents, unless it is there.
fn private(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes what was put aside, here or by an earlier daemon. Blocks.
pub(crate) fn empty_trash(trash: &Path) {
    let doomed = fs::read_dir(trash).into_iter().flatten().flatten();
    for path in doomed.map(|entry| entry.path()) {
        if let Err(error) = remove_tree(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove what an earlier run left");
        }
    }
}

fn identity(path: &Path) -> Result<Uuid, NodeError> {
    let known = fs::read_to_string(path).unwrap_or_default();
    if let Ok(id) = Uuid::parse_str(known.trim()) {
        return Ok(id);
    }
    let id = Uuid::now_v7();
    write_durably(path, id.to_string().as_bytes()).map_err(NodeError::io("write", path))?;
    Ok(id)
}

/// Writes a file whole or not at all, on disk before this returns; readable by the node alone.
///
/// # Errors
/// What the file system says.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_on_the_same_directory_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(NodeError::StateDirInUse { .. })));
        let id = first.id();
        drop(first);
        assert_eq!(StateDir::open(dir.path()).unwrap().id(), id);
    }
}
