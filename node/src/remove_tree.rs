//! Removes a directory that a hostile program wrote into: links are never followed, and neither depth nor breadth costs
//! memory, stack or descriptors. Deep trees are flattened: a directory that is not empty is moved up to the root first.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use uuid::Uuid;

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes `path` and everything below it. An absent path is no error.
///
/// # Errors
/// The first thing that cannot be removed.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let root = match rustix::fs::open(path, FLAGS, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::remove_file(path),
        Err(error) => return Err(error.into()),
    };
    let prefix = Uuid::now_v7();
    let mut moved = 0_u64;
    loop {
        let mut empty = true;
        for entry in Dir::read_from(&root)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            empty = false;
            match unlinkat(&root, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => flatten(&root, name, &prefix, &mut moved)?,
                Err(error) => return Err(error.into()),
            }
        }
        if empty {
            match rustix::fs::rmdir(path) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // Something was written meanwhile, or was passed over while the directory changed.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Empties the directory `name` of `root` by moving its own directories up to `root`, then removes it.
fn flatten(
    root: &impl std::os::fd::AsFd,
    name: &std::ffi::CStr,
    prefix: &Uuid,
    moved: &mut u64,
) -> io::Result<()> {
    let dir = match openat(root, name, FLAGS, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(root, name, Mode::RWXU, AtFlags::empty())?;
            openat(root, name, FLAGS, Mode::empty())?
        }
        Err(error) => return Err(error.into()),
    };
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let child = entry.file_name();
        if matches!(child.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&dir, child, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        match unlinkat(&dir, child, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                *moved += 1;
                renameat(&dir, child, root, format!("{prefix}-{moved}"))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    match unlinkat(root, name, AtFlags::REMOVEDIR) {
        // Entries may be passed over while a directory changes; the caller's loop comes back for them.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_is_removed_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_any_path_or_stack_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at = rustix::fs::open(&tree, FLAGS, Mode::empty()).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", FLAGS, Mode::empty()).unwrap();
        }
        drop(at);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
