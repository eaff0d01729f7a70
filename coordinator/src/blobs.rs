//! Artifacts' bytes: files named by their SHA-256 under `<data>/blobs/`, written whole or not at all.
//!
//! A blob is streamed into a temporary file, hashed on the way, fsynced, and only then linked under its name; who stores
//! the same bytes again finds them there. Removal goes by way of a trash directory, so that a blob which found a new
//! record in the meantime can be put back ([`Blobs::discard`]).

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use orca_proto::limits;
use sha2::{Digest, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

/// The longest that the next bytes of an upload are waited for.
const IDLE: Duration = Duration::from_secs(60);
/// Temporary files older than this were left behind by a crash.
const STALE: Duration = Duration::from_secs(86_400);

/// Why a blob was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    /// Larger than [`limits::ARTIFACT`].
    #[error("larger than an artifact may be")]
    TooLarge,
    /// The sender stopped sending, or the connection broke.
    #[error("the content did not arrive: {0}")]
    Incomplete(#[source] io::Error),
    /// The disk's fault.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

/// The directory of blobs.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
}

/// A blob whose bytes are on disk. Its temporary file goes with it; the linked one stays.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) sha256: [u8; 32],
    pub(crate) size: u64,
    temporary: PathBuf,
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a temporary file of the artifact store stays behind");
        }
    }
}

/// Bytes as lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Blobs {
    /// The blobs under `data`, whose directories are made where they are missing.
    pub(crate) async fn open(data: &Path) -> io::Result<Self> {
        let root = data.join("blobs");
        for directory in ["incoming", "trash"] {
            fs::create_dir_all(root.join(directory)).await?;
        }
        let blobs = Self { root };
        blobs.remove_stale().await?;
        Ok(blobs)
    }

    async fn remove_stale(&self) -> io::Result<()> {
        let mut entries = fs::read_dir(self.root.join("incoming")).await?;
        while let Some(entry) = entries.next_entry().await? {
            let age = entry.metadata().await.ok().and_then(|meta| meta.modified().ok()?.elapsed().ok());
            if age.is_some_and(|age| age > STALE) {
                fs::remove_file(entry.path()).await?;
            }
        }
        Ok(())
    }

    /// Takes in a whole stream.
    pub(crate) async fn write(
        &self,
        content: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Stored, BlobError> {
        let temporary = self.root.join("incoming").join(Uuid::now_v7().to_string());
        let mut file = File::create_new(&temporary).await?;
        let mut stored = Stored { sha256: [0; 32], size: 0, temporary };
        let mut hash = Sha256::new();
        let mut content = pin!(content);
        loop {
            let next = tokio::time::timeout(IDLE, content.next())
                .await
                .map_err(|_| BlobError::Incomplete(io::ErrorKind::TimedOut.into()))?;
            let Some(chunk) = next else { break };
            let chunk = chunk.map_err(BlobError::Incomplete)?;
            stored.size += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if stored.size > limits::ARTIFACT {
                return Err(BlobError::TooLarge);
            }
            hash.update(&chunk);
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        stored.sha256 = hash.finalize().into();
        Ok(stored)
    }

    /// Makes a stored blob readable under its name; harmless when it is already.
    pub(crate) async fn link(&self, stored: &Stored) -> io::Result<()> {
        let path = self.path(&stored.sha256);
        if fs::try_exists(&path).await? {
            return Ok(());
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).await?;
        }
        match fs::hard_link(&stored.temporary, &path).await {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(directory) = path.parent() {
            File::open(directory).await?.sync_all().await?;
        }
        Ok(())
    }

    /// Opens a blob. One that is just being put back out of the trash is waited for.
    pub(crate) async fn read(&self, sha256: &str) -> io::Result<File> {
        let path = self.path_of(sha256);
        match File::open(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                File::open(&path).await
            }
            other => other,
        }
    }

    /// Takes a blob out of sight. What comes back goes to [`Self::remove`] or [`Self::restore`].
    pub(crate) async fn discard(&self, sha256: &[u8]) -> io::Result<bool> {
        match fs::rename(self.path(sha256), self.trash(sha256)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Removes a discarded blob for good.
    pub(crate) async fn remove(&self, sha256: &[u8]) -> io::Result<()> {
        fs::remove_file(self.trash(sha256)).await
    }

    /// Puts a discarded blob back.
    pub(crate) async fn restore(&self, sha256: &[u8]) -> io::Result<()> {
        fs::rename(self.trash(sha256), self.path(sha256)).await
    }

    fn trash(&self, sha256: &[u8]) -> PathBuf {
        self.root.join("trash").join(hex(sha256))
    }

    fn path(&self, sha256: &[u8]) -> PathBuf {
        self.path_of(&hex(sha256))
    }

    fn path_of(&self, hex: &str) -> PathBuf {
        let (front, rest) = hex.split_at_checked(2).unwrap_or(("", hex));
        self.root.join(front).join(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(parts: &[&'static str]) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        futures_util::stream::iter(
            parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect::<Vec<_>>(),
        )
    }

    async fn content(blobs: &Blobs, sha256: &[u8]) -> String {
        let mut text = String::new();
        let mut file = blobs.read(&hex(sha256)).await.unwrap();
        tokio::io::AsyncReadExt::read_to_string(&mut file, &mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_blob_is_found_by_its_hash_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).await.unwrap();
        let stored = blobs.write(chunks(&["ab", "c"])).await.unwrap();
        blobs.link(&stored).await.unwrap();
        assert_eq!(hex(&stored.sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((stored.size, content(&blobs, &stored.sha256).await.as_str()), (3, "abc"));
        drop(stored);
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_broken_upload_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).await.unwrap();
        let broken =
            chunks(&["ab"]).chain(futures_util::stream::iter([Err(io::ErrorKind::ConnectionReset.into())]));
        assert!(matches!(blobs.write(broken).await, Err(BlobError::Incomplete(_))));
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/incoming")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_discarded_blob_can_be_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).await.unwrap();
        let stored = blobs.write(chunks(&["abc"])).await.unwrap();
        blobs.link(&stored).await.unwrap();
        assert!(blobs.discard(&stored.sha256).await.unwrap());
        assert!(blobs.read(&hex(&stored.sha256)).await.is_err());
        blobs.restore(&stored.sha256).await.unwrap();
        assert_eq!(content(&blobs, &stored.sha256).await, "abc");
    }
}
