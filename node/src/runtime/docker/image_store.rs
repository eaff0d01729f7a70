//! The images that this node pulled, and their removal: those that nobody used for long, and, where the engine's disk gets full,
//! those that nobody used for longest. What somebody else put into the engine is never touched.
//!
//! Remembered in `images.json` of the state directory. An attempt holds its image from before it looks for it until its
//! container is gone; what is held is not removed, and what is being removed is waited for.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::RemoveImageOptions;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::{ACT, look_up, within};
use crate::settings::ImageGcSettings;
use crate::state_dir::write_durably;

/// What the node remembers of its images.
pub(super) struct ImageStore {
    path: PathBuf,
    ledger: Mutex<BTreeMap<String, Pulled>>,
    holds: Mutex<HashMap<String, Arc<RwLock<()>>>>,
    /// A path on the file system of the engine's images, where there is one to be seen from here.
    disk: Option<PathBuf>,
}

/// One image, known by its reference in full, or by its id if that is all that it still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pulled {
    id: String,
    /// When it was last used, in seconds since 1970 by this machine's clock.
    used: u64,
}

/// Keeps an image from being removed.
pub(crate) type Hold = Arc<OwnedRwLockReadGuard<()>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl ImageStore {
    /// Reads what is remembered. What cannot be read is forgotten, which keeps images.
    pub(super) fn open(path: PathBuf, disk: Option<PathBuf>) -> Self {
        let ledger = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot read which images were pulled; they stay");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { path, ledger: Mutex::new(ledger), holds: Mutex::default(), disk }
    }

    fn turn(&self, name: &str) -> Arc<RwLock<()>> {
        let mut holds = lock(&self.holds);
        holds.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(holds.entry(name.to_owned()).or_default())
    }

    /// Keeps the image of this name until the answer is dropped; waits while it is being removed.
    pub(super) async fn hold(&self, name: &str) -> Hold {
        let guard = self.turn(name).read_owned().await;
        if let Some(pulled) = lock(&self.ledger).get_mut(name) {
            pulled.used = now();
        }
        Arc::new(guard)
    }

    /// Remembers a pull: which image the name stood for before, if any, and which now.
    pub(super) async fn pulled(self: &Arc<Self>, name: &str, before: Option<&str>, after: &str) {
        {
            let mut ledger = lock(&self.ledger);
            let was_ours =
                before.is_some_and(|before| ledger.get(name).is_some_and(|ours| ours.id == before));
            // Somebody else's, and still there under its name or none: not for this node to remove.
            if before == Some(after) && !was_ours {
                return;
            }
            if let Some(before) = before.filter(|before| was_ours && *before != after) {
                ledger.insert(before.to_owned(), Pulled { id: before.to_owned(), used: now() });
            }
            ledger.insert(name.to_owned(), Pulled { id: after.to_owned(), used: now() });
        }
        self.save().await;
    }

    async fn save(self: &Arc<Self>) {
        let store = Arc::clone(self);
        let saved = tokio::task::spawn_blocking(move || {
            // Under the lock, so that an older text never follows a newer one.
            let ledger = lock(&store.ledger);
            let text = serde_json::to_vec(&*ledger).map_err(std::io::Error::other)?;
            write_durably(&store.path, &text)
        });
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot write which images were pulled"),
            Err(error) => tracing::warn!(%error, "cannot write which images were pulled"),
        }
    }

    /// Removes what is old, and while the disk is too full what is least recently used.
    pub(super) async fn collect(self: &Arc<Self>, api: &bollard::Docker, gc: &ImageGcSettings) {
        let known: Vec<String> = lock(&self.ledger).keys().cloned().collect();
        for name in known {
            let turn = self.turn(&name);
            if turn.try_write().is_err()
                && let Some(pulled) = lock(&self.ledger).get_mut(&name)
            {
                pulled.used = now();
            }
        }
        let mut by_use: Vec<(u64, String)> =
            lock(&self.ledger).iter().map(|(name, pulled)| (pulled.used, name.clone())).collect();
        by_use.sort();
        for (used, name) in by_use {
            let idle = Duration::from_secs(now().saturating_sub(used));
            // What was used a moment ago would be pulled again at once.
            let pressed = idle >= gc.every && self.is_disk_full(gc.min_free).await;
            if idle >= gc.max_age || pressed {
                self.remove(api, &name, if pressed { "the disk gets full" } else { "unused for long" }).await;
            }
        }
        self.save().await;
    }

    async fn is_disk_full(&self, min_free: f64) -> bool {
        let Some(disk) = self.disk.clone().filter(|_| min_free > 0.0) else { return false };
        let free = tokio::task::spawn_blocking(move || free_share(&disk)).await;
        free.ok().flatten().is_some_and(|free| free < min_free)
    }

    async fn remove(&self, api: &bollard::Docker, name: &str, why: &str) {
        let turn = self.turn(name);
        let Ok(_alone) = turn.try_write() else { return };
        let Some(pulled) = lock(&self.ledger).get(name).cloned() else { return };
        match look_up(api, name).await {
            Ok(Some(found)) if found.id == pulled.id => {}
            // Gone, or somebody gave the name to another image.
            Ok(_) => {
                lock(&self.ledger).remove(name);
                return;
            }
            Err(fault) => {
                tracing::debug!(name, %fault, "cannot look at an image");
                return;
            }
        }
        let removal = api.remove_image(name, None::<RemoveImageOptions>, None);
        match within(ACT, "image removal", removal).await {
            Ok(_) => {
                tracing::info!(image = name, why, "removed an image");
                lock(&self.ledger).remove(name);
            }
            Err(error) if error.code() == Some(404) => {
                lock(&self.ledger).remove(name);
            }
            // Somebody's container is made of it.
            Err(error) if error.code() == Some(409) => {
                if let Some(pulled) = lock(&self.ledger).get_mut(name) {
                    pulled.used = now();
                }
            }
            Err(error) => tracing::warn!(image = name, %error, "cannot remove an image"),
        }
    }
}

/// How much of a file system is free, 0 to 1. Blocks.
fn free_share(path: &Path) -> Option<f64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    (disk.f_blocks > 0).then(|| disk.f_bavail as f64 / disk.f_blocks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(store: &ImageStore) -> Vec<String> {
        lock(&store.ledger).keys().cloned().collect()
    }

    #[tokio::test]
    async fn only_what_this_node_pulled_is_remembered_and_it_is_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("images.json");
        let store = Arc::new(ImageStore::open(path.clone(), None));
        store.pulled("new", None, "1").await;
        store.pulled("here-before", Some("2"), "2").await;
        assert_eq!(names(&store), ["new"]);
        store.pulled("new", Some("1"), "3").await;
        assert_eq!(names(&store), ["1", "new"]);
        store.pulled("here-before", Some("2"), "4").await;
        assert_eq!(names(&ImageStore::open(path, None)), ["1", "here-before", "new"]);
    }

    #[test]
    fn what_cannot_be_read_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("images.json");
        std::fs::write(&path, "{").unwrap();
        assert!(names(&ImageStore::open(path, None)).is_empty());
    }

    #[test]
    fn the_free_share_of_a_disk_is_a_share() {
        assert!(free_share(Path::new("/")).is_some_and(|free| (0.0..=1.0).contains(&free)));
        assert_eq!(free_share(Path::new("/no/such/place")), None);
    }
}
