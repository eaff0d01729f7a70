//! The attempt's directory: where its sockets, token and files are, and how a file that a program wrote is read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use orca_proto::agent::{env, files};
use rustix::fs::{Mode, OFlags};

/// Where the directory is inside a container.
const DEFAULT_DIR: &str = "/orca";
/// A token is a few dozen bytes; more is not one.
const LONGEST_TOKEN: u64 = 4_096;

/// The directory that the node and the agent share for one attempt.
#[derive(Clone, Debug)]
pub(crate) struct AttemptDir {
    root: PathBuf,
}

/// The secret that backs both sockets. Prints as nothing.
#[derive(Clone)]
pub(crate) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// As the value of an `Authorization` header.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether `header` is [`Self::header`], found in a time that does not depend on where they differ.
    pub(crate) fn matches(&self, header: &[u8]) -> bool {
        let own = self.header();
        let own = own.as_bytes();
        own.len() == header.len() && own.iter().zip(header).fold(0, |bits, (a, b)| bits | (a ^ b)) == 0
    }
}

impl AttemptDir {
    /// `$ORCA_DIR`, or `/orca`.
    pub(crate) fn from_env() -> Self {
        let root = std::env::var_os(env::DIR).filter(|dir| !dir.is_empty());
        Self { root: root.map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from) }
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// One of the names in [`files`].
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The token.
    ///
    /// # Errors
    /// When the file is absent, not readable by this user, or holds no token.
    pub(crate) fn token(&self) -> io::Result<Token> {
        let mut text = String::new();
        File::open(self.path(files::TOKEN))?.take(LONGEST_TOKEN).read_to_string(&mut text)?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no token"));
        }
        Ok(Token(token.to_owned()))
    }

    /// What is in the file `name`, or `None` where there is none.
    ///
    /// # Errors
    /// When it is anything but a regular file (a pipe or a device would never end), is longer than `most` bytes, or cannot
    /// be read.
    pub(crate) fn read_left(&self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(self.path(name), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("it is a symbolic link")),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut content = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut content)?;
        if content.len() > most {
            return Err(io::Error::other(format!("it is longer than {most} bytes")));
        }
        Ok(Some(content))
    }

    /// Puts `content` into the file `name` so that a reader, also one after a power cut, finds all of it or nothing.
    ///
    /// # Errors
    /// When the directory is not writable, or its disk full.
    pub(crate) fn write_durably(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let parent = path.parent().unwrap_or(&self.root).to_path_buf();
        // Not what lies above it: a directory that the node removed must not come back.
        match std::fs::create_dir(&parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let unfinished = path.with_extension("tmp");
        let mut file = File::create(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        File::open(parent)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, AttemptDir) {
        let root = tempfile::tempdir().unwrap();
        let dir = AttemptDir { root: root.path().to_path_buf() };
        (root, dir)
    }

    #[test]
    fn a_left_file_that_is_a_pipe_a_link_or_too_long_is_refused() {
        let (root, dir) = dir();
        std::fs::write(root.path().join("long"), b"12345").unwrap();
        std::os::unix::fs::symlink("long", root.path().join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for name in ["long", "link", "pipe"] {
            dir.read_left(name, 4).unwrap_err();
        }
        assert_eq!(dir.read_left("long", 5).unwrap().as_deref(), Some(b"12345".as_slice()));
        assert_eq!(dir.read_left("absent", 5).unwrap(), None);
    }

    #[test]
    fn a_durable_write_replaces_what_was_there_and_leaves_nothing_else() {
        let (root, dir) = dir();
        dir.write_durably("spool/report.json", b"one").unwrap();
        dir.write_durably("spool/report.json", b"two").unwrap();
        assert_eq!(std::fs::read(root.path().join("spool/report.json")).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(root.path().join("spool")).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_the_node_removed_does_not_come_back() {
        let (root, dir) = dir();
        let path = root.path().to_path_buf();
        drop(root);
        dir.write_durably("spool/report.json", b"late").unwrap_err();
        assert!(!path.exists());
    }

    #[test]
    fn only_the_whole_token_matches() {
        let (root, dir) = dir();
        std::fs::write(root.path().join("token"), "s3cret\n").unwrap();
        let token = dir.token().unwrap();
        assert!(token.matches(b"Bearer s3cret"));
        for wrong in ["Bearer s3creT", "Bearer s3cre", "Bearer s3crett", "s3cret", ""] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
