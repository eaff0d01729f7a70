//! A directory as a stream of tar: regular files only, links not followed, names of any bytes. Nothing is kept in memory
//! but one small file or one chunk at a time.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use rustix::fs::OFlags;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use walkdir::WalkDir;

use crate::workspace;

/// A file of up to this size is read whole before its header is written, so that both agree even if it changes.
const WHOLE: u64 = 4 << 20;
/// Bytes per chunk, and chunks that may wait to be sent.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 8;

/// What to survey.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    /// Directories directly under the root that are left out.
    left_out: HashSet<&'static str>,
}

impl Tree {
    /// This repository, without what is built in it and without git's own files: those change while one looks.
    pub(crate) fn repository() -> Self {
        Self { root: workspace::root().to_owned(), left_out: HashSet::from(["target", "dist", ".git"]) }
    }

    /// A directory with everything in it.
    ///
    /// # Errors
    /// If it is not a directory that can be read.
    pub(crate) fn whole(root: &Path) -> Result<Self> {
        let what = || format!("cannot survey {}", root.display());
        let root = root.canonicalize().with_context(what)?;
        std::fs::read_dir(&root).with_context(what)?;
        Ok(Self { root, left_out: HashSet::new() })
    }

    /// What is surveyed, for people.
    pub(crate) fn describe(&self) -> String {
        let mut left_out: Vec<_> = self.left_out.iter().map(|name| format!("{name}/")).collect();
        left_out.sort_unstable();
        let root = self.root.display().to_string().escape_debug().to_string();
        if left_out.is_empty() { root } else { format!("{root} (without {})", left_out.join(", ")) }
    }

    /// Starts to read. The failure that ended the stream early, if one did, is in the second value afterwards.
    pub(crate) fn stream(&self) -> (reqwest::Body, Failure) {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let failure = Failure::default();
        let (tree, noted) = (self.clone(), failure.clone());
        tokio::task::spawn_blocking(move || {
            let mut out = Chunks { sender: sender.clone(), buffer: Vec::with_capacity(CHUNK) };
            if let Err(error) = tree.write(&mut out).and_then(|()| Ok(out.flush()?)) {
                noted.set(error);
                let _ = sender.blocking_send(Err(std::io::Error::other("the directory could not be read")));
            }
        });
        (reqwest::Body::wrap_stream(ReceiverStream::new(receiver)), failure)
    }

    /// Writes the archive.
    fn write(&self, out: impl Write) -> Result<()> {
        let mut archive = tar::Builder::new(out);
        let walk = WalkDir::new(&self.root).follow_links(false).sort_by_file_name().into_iter();
        let kept = walk.filter_entry(|entry| {
            entry.depth() != 1 || entry.file_name().to_str().is_none_or(|name| !self.left_out.contains(name))
        });
        for entry in kept {
            let entry = entry.context("cannot read the directory")?;
            if entry.file_type().is_file() {
                let name = entry.path().strip_prefix(&self.root)?;
                append(&mut archive, entry.path(), name)
                    .with_context(|| format!("cannot survey {:?}", entry.path()))?;
            }
        }
        archive.finish()?;
        Ok(())
    }
}

fn append(archive: &mut tar::Builder<impl Write>, path: &Path, name: &Path) -> Result<()> {
    // Between the walk and now the name may have become a link or a pipe: neither is followed nor waited for.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits())?;
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        bail!("it is not a regular file any more");
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    let size = about.len();
    if size <= WHOLE {
        let mut bytes = Vec::with_capacity(usize::try_from(size)?);
        Read::by_ref(&mut file).take(WHOLE).read_to_end(&mut bytes)?;
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes.as_slice())?;
    } else {
        header.set_size(size);
        let mut part = file.take(size);
        archive.append_data(&mut header, name, &mut part)?;
        if part.limit() > 0 {
            bail!("it became shorter while it was read");
        }
    }
    Ok(())
}

/// Why a stream ended early.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<anyhow::Error>>>);

impl Failure {
    fn set(&self, error: anyhow::Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// The failure itself, instead of what the upload made of it.
    pub(crate) fn or(&self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| error.into())
    }
}

/// Collects what is written into chunks and hands them on, waiting while too many are on their way.
struct Chunks {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender
            .blocking_send(Ok(full.into()))
            .map_err(|_| std::io::Error::other(anyhow!("the upload ended before the directory did")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::os::unix::fs::symlink;

    use super::*;

    fn unpacked(tree: &Tree) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut bytes = Vec::new();
        tree.write(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().into_owned().into_os_string().into_vec(), content)
            })
            .collect()
    }

    #[test]
    fn names_of_any_bytes_and_lengths_arrive_whole() {
        let directory = tempfile::tempdir().unwrap();
        let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
        let names: Vec<&[u8]> =
            vec![b"a b", b"new\nline", "größe".as_bytes(), b"not\xffutf8", b"-dash", long.as_bytes()];
        for name in &names {
            let path = directory.path().join(OsStr::from_bytes(name));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let found = unpacked(&Tree::whole(directory.path()).unwrap());
        assert_eq!(found.len(), names.len());
        for name in names {
            assert_eq!(found.get(name).map(Vec::as_slice), Some(name));
        }
    }

    #[test]
    fn links_and_sockets_are_passed_over_and_large_files_are_whole() {
        let directory = tempfile::tempdir().unwrap();
        let large = vec![7_u8; usize::try_from(WHOLE).unwrap() + 1];
        std::fs::write(directory.path().join("large"), &large).unwrap();
        symlink("large", directory.path().join("link")).unwrap();
        symlink("/", directory.path().join("directory link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
        let found = unpacked(&Tree::whole(directory.path()).unwrap());
        assert_eq!(found, BTreeMap::from([(b"large".to_vec(), large)]));
    }

    #[test]
    fn directories_are_left_out_at_the_top_only() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["target/x", "kept/target/x"] {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut tree = Tree::whole(directory.path()).unwrap();
        tree.left_out.insert("target");
        assert_eq!(unpacked(&tree).into_keys().collect::<Vec<_>>(), [b"kept/target/x".to_vec()]);
    }

    #[tokio::test]
    async fn an_empty_directory_is_an_empty_archive() {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::whole(directory.path()).unwrap();
        assert!(unpacked(&tree).is_empty());
        assert!(Tree::whole(&directory.path().join("absent")).is_err());
    }
}
