//! Uploads a file as it is, or a directory as a tar stream, without holding either in memory.
//!
//! Of a directory only directories and regular files are sent; links, sockets and devices are skipped, and said.

use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream;
use orca_proto::artifact::{Artifact, is_valid_name};
use orca_proto::client::Client;
use orca_proto::spec::{InputArtifact, NewTask};
use reqwest::Body;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::flags::InputFile;
use crate::error::{Exit, Failure};
use crate::output::Output;

/// Bytes of a tar stream per chunk.
const CHUNK: usize = 64 << 10;
/// Chunks made ahead of the network.
const AHEAD: usize = 16;

/// Stores what is at `path` under `name`; says whether it is an archive to unpack.
///
/// # Errors
/// A [`Failure`] if it cannot be read whole, or the coordinator does not take it.
pub(crate) async fn upload(
    client: &Client,
    name: &str,
    path: &Path,
    output: Output,
) -> Result<(Artifact, bool), Failure> {
    if !is_valid_name(name) {
        return Err(Failure::invalid(format!("{name:?} is not a name for an artifact"))
            .because("it must be 1 to 128 letters, digits or any of ._- and not begin with a dot"));
    }
    let unreadable = |error: io::Error| Failure::file(format!("cannot read {}", path.display()), &error);
    let metadata = tokio::fs::metadata(path).await.map_err(unreadable)?;
    if metadata.is_dir() {
        return upload_directory(client, name, path, output).await.map(|artifact| (artifact, true));
    }
    if !metadata.is_file() {
        return Err(Failure::invalid(format!("{} is neither a file nor a directory", path.display())));
    }
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let artifact = client.upload(name, Body::wrap_stream(ReaderStream::with_capacity(file, CHUNK))).await?;
    Ok((artifact, false))
}

/// Stores `files` as inputs of `task`.
///
/// # Errors
/// As [`upload`].
pub(in crate::command) async fn inputs(
    client: &Client,
    files: Vec<InputFile>,
    task: &mut NewTask,
    output: Output,
) -> Result<(), Failure> {
    for file in files {
        let (artifact, unpack) = upload(client, &file.name, &file.path, output).await?;
        task.artifacts.push(InputArtifact { id: artifact.id, name: file.name, unpack });
    }
    Ok(())
}

async fn upload_directory(
    client: &Client,
    name: &str,
    path: &Path,
    output: Output,
) -> Result<Artifact, Failure> {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    let root = path.to_owned();
    let archived = tokio::task::spawn_blocking(move || {
        let written = archive(&root, Chunks { sender: sender.clone(), buffer: Vec::with_capacity(CHUNK) });
        if written.is_err() {
            // Cuts the upload, so that half an archive is not stored as a whole one.
            let _ = sender.blocking_send(Err(io::Error::other("the directory could not be read")));
        }
        written
    });
    let chunks = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    let uploaded = client.upload(name, Body::wrap_stream(chunks)).await;
    let archived = archived
        .await
        .map_err(|error| Failure::new(Exit::Other, "cannot read the directory").because(error.to_string()))?;
    match (uploaded, archived) {
        (Ok(artifact), Ok(skipped)) => {
            if skipped > 0 {
                output.remark(&format!(
                    "note: {skipped} links, sockets or devices under {} were skipped",
                    path.display()
                ));
            }
            Ok(artifact)
        }
        (_, Err(Unread { path, error })) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::file(format!("cannot read {}", path.display()), &error))
        }
        (Err(error), _) => Err(error.into()),
        (Ok(_), Err(Unread { path, error })) => {
            Err(Failure::file(format!("cannot send {}", path.display()), &error))
        }
    }
}

/// What could not be read.
#[derive(Debug)]
struct Unread {
    path: PathBuf,
    error: io::Error,
}

/// Writes everything under `root` as a tar archive; answers how many entries were skipped.
fn archive(root: &Path, to: impl Write) -> Result<u64, Unread> {
    let mut archive = tar::Builder::new(to);
    let mut skipped = 0;
    for entry in walkdir::WalkDir::new(root).min_depth(1).follow_root_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| Unread {
            path: error.path().unwrap_or(root).to_owned(),
            error: error.into_io_error().unwrap_or_else(|| io::Error::other("the directory is a loop")),
        })?;
        let unread = |error| Unread { path: entry.path().to_owned(), error };
        let Ok(name) = entry.path().strip_prefix(root) else { continue };
        let kind = entry.file_type();
        if kind.is_dir() {
            let mut header = header(tar::EntryType::Directory, 0, 0o755);
            archive.append_data(&mut header, name, io::empty()).map_err(unread)?;
        } else if kind.is_file() {
            append_file(&mut archive, entry.path(), name).map_err(unread)?;
        } else {
            skipped += 1;
        }
    }
    archive
        .into_inner()
        .and_then(|mut to| to.flush())
        .map_err(|error| Unread { path: root.to_owned(), error })?;
    Ok(skipped)
}

fn append_file(archive: &mut tar::Builder<impl Write>, path: &Path, name: &Path) -> io::Result<()> {
    // Between the listing and this moment the name may have become a link or a pipe.
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    let executable = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0;
    let mut header = header(tar::EntryType::Regular, metadata.len(), if executable { 0o755 } else { 0o644 });
    let mut exact = Exact { file, left: metadata.len() };
    archive.append_data(&mut header, name, &mut exact)
}

fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header
}

/// A file of a known length: what is added meanwhile is left out, and what is missing is an error.
struct Exact {
    file: std::fs::File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let got = self.file.read(buffer)?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        self.left = self.left.saturating_sub(got as u64);
        Ok(got)
    }
}

/// Hands what is written to the upload, in chunks.
struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Chunks {
    fn send(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn an_archive_holds_regular_files_of_any_name_and_skips_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let odd = OsStr::from_bytes(b"line\nbreak \xff");
        let long = "n".repeat(200);
        std::fs::create_dir_all(root.join("empty dir")).unwrap();
        std::fs::create_dir_all(root.join(&long)).unwrap();
        std::fs::write(root.join(odd), "odd").unwrap();
        std::fs::write(root.join(&long).join("naïve"), "long").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        let mut bytes = Vec::new();
        assert_eq!(archive(root, &mut bytes).unwrap(), 1);
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.insert(entry.path_bytes().into_owned(), text);
        }
        assert_eq!(found.get(odd.as_bytes()).map(String::as_str), Some("odd"));
        assert_eq!(found.get(format!("{long}/naïve").as_bytes()).map(String::as_str), Some("long"));
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn a_file_that_shrinks_or_grows_while_it_is_read_cannot_shift_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "12345").unwrap();
        let open = || std::fs::File::open(dir.path().join("f")).unwrap();
        let mut text = String::new();
        assert_eq!(Exact { file: open(), left: 3 }.read_to_string(&mut text).unwrap(), 3);
        assert!(Exact { file: open(), left: 9 }.read_to_string(&mut text).is_err());
    }
}
