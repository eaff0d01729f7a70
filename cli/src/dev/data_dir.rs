//! The directory of one `orca dev`: database, artifacts, keys, nodes' files. One `orca dev` at a time, by a lock.

use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::{Exit, Failure};
use crate::profile::directory_of;

/// Where the coordinator keeps artifacts.
const COORDINATOR: &str = "coordinator";
/// How long a temporary directory may refuse to go.
const REMOVE: Duration = Duration::from_secs(10);
/// Between two tries.
const LOOK: Duration = Duration::from_millis(50);

/// A directory that this process alone uses until it ends.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    temporary: Option<TempDir>,
    /// Held, never read: the lock is the process's, so the system lets go of it however the process ends.
    _lock: File,
}

impl DataDir {
    /// Opens `path`, or the default place.
    ///
    /// # Errors
    /// A [`Failure`] if it cannot be used, or another `orca dev` uses it.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => home()?.join("dev"),
        };
        let failed = |error: io::Error| {
            Failure::file(format!("cannot use the data directory {}", path.display()), &error)
                .hint("choose another with --data, or --ephemeral for one that is forgotten at the end")
        };
        if !path.is_dir() {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            std::fs::DirBuilder::new().mode(mode()).create(&path).map_err(failed)?;
        }
        // Absolute and without links: Postgres, the engine and a later `orca dev` must all mean the same place.
        let path = std::fs::canonicalize(&path).map_err(failed)?;
        let lock = lock(&path)?;
        open_way(&path).map_err(failed)?;
        keep_private(&path).map_err(failed)?;
        Ok(Self { path, temporary: None, _lock: lock })
    }

    /// A directory that is removed at the end.
    ///
    /// # Errors
    /// A [`Failure`] if it cannot be made.
    pub(super) fn ephemeral() -> Result<Self, Failure> {
        let failed = |error| Failure::file("cannot make a temporary directory", &error);
        let directory = tempfile::Builder::new()
            .prefix("orca-dev-")
            .permissions(Permissions::from_mode(mode()))
            .tempdir()
            .map_err(failed)?;
        let path = std::fs::canonicalize(directory.path()).map_err(failed)?;
        let lock = lock(&path)?;
        keep_private(&path).map_err(failed)?;
        Ok(Self { path, temporary: Some(directory), _lock: lock })
    }

    /// The coordinator's part of it: what tasks kept, for nobody else to read.
    pub(super) fn coordinator(&self) -> PathBuf {
        self.path.join(COORDINATOR)
    }

    /// Where it is; absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is removed at the end.
    pub(super) fn is_ephemeral(&self) -> bool {
        self.temporary.is_some()
    }

    /// Removes it, if it is ephemeral.
    ///
    /// # Errors
    /// A [`Failure`] that names what was left.
    pub(super) fn close(self) -> Result<(), Failure> {
        let Some(directory) = self.temporary else { return Ok(()) };
        let deadline = Instant::now() + REMOVE;
        // What was cut off in the middle of unpacking an archive may write for a moment longer.
        while std::fs::remove_dir_all(directory.path()).is_err() && Instant::now() < deadline {
            if !directory.path().exists() {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        match directory.close() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::file(format!("cannot remove {}", self.path.display()), &error))
            }
            _ => Ok(()),
        }
    }
}

/// Where Orca's own things are kept on this machine: root's are under `/var/lib`, as Postgres's account may not enter
/// root's home.
///
/// # Errors
/// A [`Failure`] if there is no home.
pub(super) fn home() -> Result<PathBuf, Failure> {
    if let Some(data) = directory_of("XDG_DATA_HOME") {
        return Ok(data.join("orca"));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/orca"));
    }
    let home = directory_of("HOME").map(|home| home.join(".local/share/orca"));
    home.ok_or_else(|| Failure::invalid("there is no home for the data").hint("name a directory with --data"))
}

/// Root's Postgres runs under another account, which must be able to pass.
fn mode() -> u32 {
    if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 }
}

/// Others may pass through root's directory, as Postgres must; into the artifacts they may not.
fn keep_private(path: &Path) -> io::Result<()> {
    let directory = path.join(COORDINATOR);
    match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => std::fs::set_permissions(&directory, Permissions::from_mode(0o700)),
    }
}

fn open_way(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if rustix::process::geteuid().is_root() && metadata.uid() == 0 && metadata.mode() & 0o001 == 0 {
        let passable = metadata.mode() & 0o7777 | 0o011;
        std::fs::set_permissions(path, Permissions::from_mode(passable))?;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, Failure> {
    let name = path.join("lock");
    let failed = |error: io::Error| Failure::file(format!("cannot lock {}", name.display()), &error);
    let file = File::options().create(true).truncate(false).write(true).open(&name).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::new(Exit::Conflict, format!("another orca dev uses {}", path.display()))
                .hint("stop it, choose another directory with --data, or use --ephemeral"))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_uses_a_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = DataDir::open(Some(&path)).unwrap();
        assert_eq!(DataDir::open(Some(&path)).unwrap_err().exit(), Exit::Conflict);
        drop(first);
        DataDir::open(Some(&path)).unwrap();
    }

    #[test]
    fn nobody_else_reads_artifacts_whatever_the_directory_was_like_before() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::create_dir(parent.path().join(COORDINATOR)).unwrap();
        std::fs::set_permissions(parent.path().join(COORDINATOR), Permissions::from_mode(0o755)).unwrap();
        let data = DataDir::open(Some(parent.path())).unwrap();
        assert_eq!(std::fs::metadata(data.coordinator()).unwrap().mode() & 0o7777, 0o700);
        assert!(data.coordinator().starts_with(data.path()));
    }

    #[test]
    fn an_ephemeral_directory_is_gone_at_the_end() {
        let data = DataDir::ephemeral().unwrap();
        let path = data.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        data.close().unwrap();
        assert!(!path.exists());
    }
}
