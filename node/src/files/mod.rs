//! Input artifacts: each fetched once per content, verified, and kept for later attempts up to a bound.
//!
//! The cache is emptied when the daemon starts, so nothing on disk is ever trusted that this run did not write.

mod unpack;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use orca_proto::artifact::Artifact;
use orca_proto::client::{Client, ClientError};
use orca_proto::ids::ArtifactId;
use orca_proto::limits;
use orca_proto::problem::Kind;
use orca_proto::spec::InputArtifact;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::remove_tree::remove_tree;
use crate::retry::a_few_times;
use unpack::{UnpackError, unpack};

/// Artifacts whose description is remembered.
const REMEMBERED: usize = 4_096;

/// Why an input artifact cannot be given to a task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// It would be the same on any node.
    #[error("input artifact {name}: {why}")]
    Rejected { name: String, why: String },
    /// Nothing is wrong with the artifact itself.
    #[error("input artifact {name} could not be fetched: {why}")]
    Failed { name: String, why: String },
}

/// What one content is kept as.
type Key = (String, bool);

#[derive(Debug, Default)]
struct Kept {
    /// Serialises the fetch; true once it is there.
    ready: Arc<tokio::sync::Mutex<bool>>,
    is_there: bool,
    bytes: u64,
    uses: usize,
    last_use: u64,
}

#[derive(Debug, Default)]
struct Index {
    kept: HashMap<Key, Kept>,
    clock: u64,
}

/// The cache.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    capacity: u64,
    index: Arc<Mutex<Index>>,
    known: Arc<Mutex<HashMap<ArtifactId, Artifact>>>,
}

/// Keeps a file or directory of the cache in place for as long as this lives.
#[derive(Debug)]
pub(crate) struct InUse {
    /// Where it is.
    pub(crate) path: PathBuf,
    key: Key,
    index: Arc<Mutex<Index>>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut index = lock(&self.index);
        if let Some(kept) = index.kept.get_mut(&self.key) {
            kept.uses = kept.uses.saturating_sub(1);
            if kept.uses == 0 && !kept.is_there {
                index.kept.remove(&self.key);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    /// A cache in `dir` of about `capacity` bytes. What is in use is never removed.
    pub(crate) fn new(dir: PathBuf, capacity: u64) -> Self {
        Self { dir, capacity, index: Arc::default(), known: Arc::default() }
    }

    /// Fetches what `input` names, unless it is there already.
    ///
    /// # Errors
    /// [`FilesError`].
    pub(crate) async fn fetch(&self, client: &Client, input: &InputArtifact) -> Result<InUse, FilesError> {
        let artifact = self.describe(client, input).await?;
        let key = (artifact.sha256.clone(), input.unpack);
        let path = self.dir.join(if input.unpack { format!("{}.d", key.0) } else { key.0.clone() });
        let ready = {
            let mut index = lock(&self.index);
            index.clock += 1;
            let now = index.clock;
            let kept = index.kept.entry(key.clone()).or_default();
            kept.uses += 1;
            kept.last_use = now;
            Arc::clone(&kept.ready)
        };
        // From here on a drop of `in_use` gives the use back.
        let in_use = InUse { path, key, index: Arc::clone(&self.index) };
        // A task of its own: an attempt that ends meanwhile must not leave half of it behind, nor half a rename.
        let (files, client, input) = (self.clone(), client.clone(), input.clone());
        let name = input.name.clone();
        let fetching = tokio::spawn(async move {
            let mut ready = ready.lock_owned().await;
            if !*ready {
                let size = files.obtain(&client, &input, &artifact, &in_use.path).await?;
                *ready = true;
                if let Some(kept) = lock(&files.index).kept.get_mut(&in_use.key) {
                    kept.is_there = true;
                    kept.bytes = size;
                }
                drop(ready);
                files.shrink();
            }
            Ok(in_use)
        });
        match fetching.await {
            Ok(fetched) => fetched,
            Err(error) => Err(FilesError::Failed { name, why: error.to_string() }),
        }
    }

    async fn describe(&self, client: &Client, input: &InputArtifact) -> Result<Artifact, FilesError> {
        if let Some(known) = lock(&self.known).get(&input.id) {
            return Ok(known.clone());
        }
        let artifact =
            a_few_times(|| client.artifact(input.id)).await.map_err(|error| from_client(input, &error))?;
        let hex = artifact.sha256.len() == 64
            && artifact.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !hex || artifact.size > limits::ARTIFACT {
            return Err(failed(input, "the coordinator describes it in a way that cannot be right"));
        }
        let mut known = lock(&self.known);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(input.id, artifact.clone());
        Ok(artifact)
    }

    async fn obtain(
        &self,
        client: &Client,
        input: &InputArtifact,
        artifact: &Artifact,
        path: &Path,
    ) -> Result<u64, FilesError> {
        let temporary = Temporary(self.dir.join(format!("new-{}", Uuid::now_v7())));
        download(client, input, artifact, &temporary.0).await?;
        if !input.unpack {
            tokio::fs::rename(&temporary.0, path).await.map_err(|error| failed(input, error))?;
            return Ok(artifact.size);
        }
        let tree = Temporary(self.dir.join(format!("new-{}", Uuid::now_v7())));
        let (target, path, input) = (tree.0.clone(), path.to_path_buf(), input.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            let archive = File::open(&temporary.0).map_err(|error| failed(&input, error))?;
            std::fs::create_dir(&target).map_err(|error| failed(&input, error))?;
            let size = unpack(io::BufReader::with_capacity(256 << 10, archive), &target).map_err(
                |error| match error {
                    UnpackError::Refused(why) => FilesError::Rejected { name: input.name.clone(), why },
                    UnpackError::Io(error) => failed(&input, error),
                },
            )?;
            std::fs::rename(&target, &path).map_err(|error| failed(&input, error))?;
            Ok(size)
        });
        match unpacking.await {
            Ok(unpacked) => unpacked,
            Err(error) => Err(FilesError::Failed { name: String::new(), why: error.to_string() }),
        }
    }

    /// Removes what was not used for longest, until the rest fits.
    fn shrink(&self) {
        let mut index = lock(&self.index);
        let mut total: u64 = index.kept.values().map(|kept| kept.bytes).sum();
        while total > self.capacity {
            let idle = index.kept.iter().filter(|(_, kept)| kept.uses == 0);
            let Some(oldest) = idle.min_by_key(|(_, kept)| kept.last_use).map(|(key, _)| key.clone()) else {
                return;
            };
            let Some(kept) = index.kept.remove(&oldest) else { return };
            total = total.saturating_sub(kept.bytes);
            let (sha256, unpacked) = oldest;
            let path = self.dir.join(if unpacked { format!("{sha256}.d") } else { sha256 });
            let doomed = self.dir.join(format!("old-{}", Uuid::now_v7()));
            // Moved away under the lock, so that a fetch of the same content never meets it half removed.
            if std::fs::rename(&path, &doomed).is_ok() {
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = remove_tree(&doomed) {
                        tracing::warn!(path = %doomed.display(), %error, "cannot remove from the cache");
                    }
                });
            }
        }
    }
}

/// A path that is removed when this is dropped, unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a temporary file");
        }
    }
}

async fn download(
    client: &Client,
    input: &InputArtifact,
    artifact: &Artifact,
    path: &Path,
) -> Result<(), FilesError> {
    let mut stream =
        a_few_times(|| client.download(input.id)).await.map_err(|error| from_client(input, &error))?;
    let mut file = tokio::fs::File::create(path).await.map_err(|error| failed(input, error))?;
    let (mut hash, mut size) = (Sha256::new(), 0_u64);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| failed(input, error))?;
        size += chunk.len() as u64;
        if size > artifact.size {
            return Err(failed(input, "it is longer than the coordinator said"));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(|error| failed(input, error))?;
    }
    file.flush().await.map_err(|error| failed(input, error))?;
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if size != artifact.size || hex != artifact.sha256 {
        return Err(failed(input, "its bytes are not those that were stored (SHA-256 differs)"));
    }
    Ok(())
}

fn failed(input: &InputArtifact, why: impl ToString) -> FilesError {
    FilesError::Failed { name: input.name.clone(), why: why.to_string() }
}

fn from_client(input: &InputArtifact, error: &ClientError) -> FilesError {
    if error.kind() == Some(Kind::NotFound) {
        let why = format!("there is no artifact {}", input.id);
        return FilesError::Rejected { name: input.name.clone(), why };
    }
    failed(input, error)
}
