//! An attempt's two directories: the one it shares with its container, and the one it shares with nobody.
//!
//! The shared one is open to every user (the container's may be any), but lies in a directory that only the node may enter.
//! Once the container runs, everything in it is hostile: it is opened without following links, and only regular files of a
//! bounded size are read.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use orca_proto::agent::files;
use orca_proto::attempt::Dependencies;
use orca_proto::node::{Grant, LeaseRef};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use serde::Serialize;
use serde_json::Value;

use super::intent::Intent;
use crate::remove_tree::remove_tree;
use crate::state_dir::{StateDir, write_durably};

/// What the node itself keeps of an attempt, under these names.
pub(super) mod private {
    /// Written before there can be a container: [`super::Intent`].
    pub(in crate::attempt) const INTENT: &str = "intent.json";
    /// There once the program was started; its time tells when.
    pub(in crate::attempt) const STARTED: &str = "started";
    /// What the dependencies returned.
    pub(in crate::attempt) const DEPENDENCIES: &str = "dependencies.json";
    /// The result that the program posted.
    pub(in crate::attempt) const RESULT: &str = "result.json";
    /// The plan that the program posted.
    pub(in crate::attempt) const PLAN: &str = "plan.json";
    /// A body on its way in.
    pub(in crate::attempt) const BODY: &str = "body";
    /// The agent's report.
    pub(in crate::attempt) const REPORT: &str = "report.json";
}

/// The two directories. Removed by [`Directory::remove`], not by a drop: the container must be gone first.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    /// Shared with the container.
    pub(super) shared: PathBuf,
    /// The node's own.
    pub(super) private: PathBuf,
}

impl Directory {
    pub(super) fn of(state: &StateDir, lease: LeaseRef) -> Self {
        Self { shared: state.attempt(lease), private: state.intent(lease) }
    }

    /// Makes both, the shared one with the token and the input in it. Blocks.
    pub(super) fn create(&self, grant: &Grant, token: &str, mounted: bool) -> io::Result<()> {
        make(&self.private, 0o700)?;
        make(&self.shared, 0o777)?;
        for (name, mode) in
            [("in", 0o755), ("bin", 0o755), (files::FILES, 0o755), ("out", 0o777), ("spool", 0o777)]
        {
            make(&self.shared.join(name), mode)?;
        }
        if mounted && !grant.spec.secrets.is_empty() {
            // An engine mounts memory over it, which gets this very mode: the container's user may be any. Nothing is ever written
            // into what lies beneath.
            make(&self.shared.join(files::SECRETS), 0o1777)?;
        }
        write_readable(&self.shared.join(files::TOKEN), token.as_bytes())?;
        write_readable(&self.shared.join(files::INPUT), &serde_json::to_vec(&grant.spec.input)?)?;
        if mounted {
            // An engine mounts over what is there, and cannot make a place for it in a directory that it does not own.
            for artifact in &grant.spec.artifacts {
                let place = self.shared.join(files::FILES).join(&artifact.name);
                if artifact.unpack { make(&place, 0o755)? } else { write_readable(&place, b"")? }
            }
        }
        Ok(())
    }

    /// Writes the intent, durably. Blocks.
    pub(super) fn put_intent(&self, intent: &Intent) -> io::Result<()> {
        write_durably(&self.private.join(private::INTENT), &serde_json::to_vec(intent)?)
    }

    /// The intent, if it was written. Blocks.
    pub(super) fn intent(&self) -> io::Result<Option<Intent>> {
        self.staged(private::INTENT)
    }

    /// Notes that the program runs. Blocks.
    pub(super) fn note_start(&self) -> io::Result<()> {
        fs::write(self.private.join(private::STARTED), b"")
    }

    /// How long ago the start was noted, if it was. Blocks.
    pub(super) fn started_ago(&self) -> Option<Duration> {
        let noted = fs::metadata(self.private.join(private::STARTED)).ok()?.modified().ok()?;
        Some(noted.elapsed().unwrap_or_default())
    }

    /// Puts the dependencies' results into both. Blocks.
    pub(super) fn put_dependencies(&self, dependencies: &Dependencies) -> io::Result<()> {
        let bytes = serde_json::to_vec(dependencies)?;
        fs::write(self.private.join(private::DEPENDENCIES), &bytes)?;
        write_readable(&self.shared.join(files::DEPENDENCIES), &bytes)
    }

    /// Stages what a program returned, durably. Blocks.
    pub(super) fn stage(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        write_durably(&self.private.join(name), &serde_json::to_vec(value)?)
    }

    /// What was staged under `name`. Blocks.
    pub(super) fn staged<T: serde::de::DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match fs::read(self.private.join(name)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The result that was staged; `null` is one too. Blocks.
    pub(super) fn staged_result(&self) -> io::Result<Option<Value>> {
        self.staged(private::RESULT)
    }

    /// A file that the container wrote, at most `most` bytes of it. Blocks.
    pub(super) fn read_hostile(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let file = self.open_hostile(name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        let mut bytes = Vec::new();
        File::from(file).take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {most} bytes")));
        }
        Ok(bytes)
    }

    /// A socket that the container made; the path of the descriptor leads to exactly that socket.
    pub(super) fn open_socket(&self, name: &str) -> io::Result<(OwnedFd, PathBuf)> {
        let socket = self.open_hostile(name, OFlags::PATH)?;
        if FileType::from_raw_mode(fstat(&socket)?.st_mode) != FileType::Socket {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a socket"));
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()));
        Ok((socket, path))
    }

    fn open_hostile(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let closed = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at =
            rustix::fs::open(&self.shared, OFlags::PATH | OFlags::DIRECTORY | closed, Mode::empty())?;
        let (dirs, name) = match name.rsplit_once('/') {
            Some((dirs, name)) => (dirs.split('/').collect(), name),
            None => (Vec::new(), name),
        };
        for dir in dirs {
            at = openat(&at, dir, OFlags::PATH | OFlags::DIRECTORY | closed, Mode::empty())?;
        }
        Ok(openat(&at, name, flags | closed, Mode::empty())?)
    }

    /// Removes both. Blocks.
    pub(super) fn remove(&self) {
        for path in [&self.shared, &self.private] {
            if let Err(error) = remove_tree(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove what an attempt left");
            }
        }
    }
}

/// A new directory with exactly this mode, whatever the umask says.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn write_readable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    fs::set_permissions(path, Permissions::from_mode(0o444))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn directory(root: &Path) -> Directory {
        let directory = Directory { shared: root.join("shared"), private: root.join("private") };
        for path in [&directory.shared, &directory.private, &directory.shared.join("spool")] {
            fs::create_dir(path).unwrap();
        }
        directory
    }

    #[test]
    fn links_pipes_and_large_files_of_a_container_are_not_read() {
        let root = tempfile::tempdir().unwrap();
        let directory = directory(root.path());
        fs::write(root.path().join("secret"), "secret").unwrap();
        symlink(root.path().join("secret"), directory.shared.join("spool/link")).unwrap();
        symlink(root.path(), directory.shared.join("away")).unwrap();
        let pipe = directory.shared.join("spool/pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        fs::write(directory.shared.join("spool/large"), [0; 11]).unwrap();
        fs::write(directory.shared.join("spool/small"), "ok").unwrap();
        for name in ["spool/link", "away/secret", "spool/pipe", "spool/large", "spool/absent"] {
            assert!(directory.read_hostile(name, 10).is_err(), "{name}");
        }
        assert_eq!(directory.read_hostile("spool/small", 10).unwrap(), b"ok");
    }

    #[test]
    fn only_a_socket_is_connected_to() {
        let root = tempfile::tempdir().unwrap();
        let directory = directory(root.path());
        let _listener = std::os::unix::net::UnixListener::bind(directory.shared.join("agent.sock")).unwrap();
        let (_held, path) = directory.open_socket("agent.sock").unwrap();
        std::os::unix::net::UnixStream::connect(path).unwrap();
        fs::write(directory.shared.join("file"), "").unwrap();
        symlink(directory.shared.join("agent.sock"), directory.shared.join("link")).unwrap();
        assert!(directory.open_socket("file").is_err());
        assert!(directory.open_socket("link").is_err());
    }
}
