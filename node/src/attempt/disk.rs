//! Keeps an attempt from filling its node's disk: the directory that it shares with the node lies on it, and has no quota.
//!
//! A look once a second, so a program can go over by what it writes in one. Files that it deleted but holds open are not
//! seen here; the engine's limit on the size of one file bounds each of them.

use std::os::fd::OwnedFd;
use std::time::Duration;

use orca_proto::quantity::Bytes;
use orca_proto::spec::Resources;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};

use super::directory::Directory;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Files and directories in one attempt's directory.
const ENTRIES: u64 = 100_000;
/// How deep it is looked into; each level holds a file descriptor.
const DEPTH: usize = 32;

/// Returns once the attempt wrote more than it may, with what to tell people.
pub(super) async fn overfull(directory: &Directory, resources: &Resources) -> String {
    let most = resources.disk.0;
    loop {
        tokio::time::sleep(PERIOD).await;
        let shared = directory.shared.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut left = Left { bytes: most, entries: ENTRIES };
            match rustix::fs::open(&shared, flags, Mode::empty()) {
                Ok(root) => look(root, DEPTH, &mut left),
                Err(_) => true,
            }
        });
        if !looked.await.unwrap_or(true) {
            return format!(
                "it was stopped because it wrote more than {}, {ENTRIES} files, or {DEPTH} levels of directories into \
                 $ORCA_DIR (resources.disk); keep large files with `orca-agent put`, and work in /tmp (resources.tmp)",
                Bytes(most)
            );
        }
    }
}

/// What may still be found.
struct Left {
    bytes: u64,
    entries: u64,
}

/// Whether all that is in `dir` is within what is `left`.
fn look(dir: OwnedFd, depth: usize, left: &mut Left) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    // What cannot be read now was there when it was written; the next look may see more.
    let Ok(entries) = Dir::read_from(&dir) else { return true };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(found) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        // Blocks, not length: a hole takes no room. They are counted in units of 512 bytes everywhere.
        let bytes = u64::try_from(found.st_blocks).unwrap_or_default().saturating_mul(512);
        let (Some(bytes), Some(entries)) = (left.bytes.checked_sub(bytes), left.entries.checked_sub(1))
        else {
            return false;
        };
        (left.bytes, left.entries) = (bytes, entries);
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = openat(&dir, name, flags, Mode::empty());
            if below.is_ok_and(|below| !look(below, depth, left)) {
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(root: &std::path::Path, bytes: u64, entries: u64, depth: usize) -> bool {
        let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        look(root, depth, &mut Left { bytes, entries })
    }

    #[test]
    fn bytes_entries_and_depth_are_each_a_bound_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        assert!(fits(dir.path(), 200_000, 3, 2));
        assert!(!fits(dir.path(), 90_000, 3, 2));
        assert!(!fits(dir.path(), 200_000, 2, 2));
        assert!(!fits(dir.path(), 200_000, 3, 1));
    }
}
