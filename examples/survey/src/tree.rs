//! The regular files of a directory tree, always in the same order, so that each part can find its own range.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// The paths of all regular files under `root`, relative to it, sorted by their raw bytes. Links are not followed (`root`
/// itself may be one); devices, sockets and pipes are passed over.
///
/// # Errors
/// When a directory cannot be read.
pub(crate) fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<Vec<u8>> = Vec::new();
    for entry in WalkDir::new(root) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).display().to_string();
            io::Error::other(format!("cannot read {path}: {error}"))
        })?;
        if entry.file_type().is_file()
            && let Ok(relative) = entry.path().strip_prefix(root)
        {
            files.push(relative.as_os_str().as_bytes().to_vec());
        }
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes))).collect())
}

/// `path` as text that no other path becomes.
///
/// A path that is UTF-8 stays as it is. Any other gets `//` in front, which no relative path has; each of its bytes that
/// are not UTF-8 becomes `\xNN`, and each backslash `\\`.
pub(crate) fn name(path: &OsStr) -> String {
    if let Some(text) = path.to_str() {
        return text.to_owned();
    }
    let mut name = String::from("//");
    for chunk in path.as_bytes().utf8_chunks() {
        name.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            name.push_str(&format!("\\x{byte:02x}"));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_sorted_by_bytes_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir(at("a")).unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        for name in ["a/z", "a-b", "with space", "new\nline", "äöü", "B"] {
            std::fs::write(at(name), "x").unwrap();
        }
        symlink("B", at("link-to-file")).unwrap();
        symlink("a", at("link-to-dir")).unwrap();
        symlink("/", at("link-to-root")).unwrap();
        let found = files(root.path()).unwrap();
        let expected = ["B", "a-b", "a/z", "new\nline", "with space", "äöü"];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn the_root_may_be_a_link() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("real")).unwrap();
        std::fs::write(root.path().join("real/file"), "x").unwrap();
        symlink("real", root.path().join("tree")).unwrap();
        assert_eq!(files(&root.path().join("tree")).unwrap(), [PathBuf::from("file")]);
    }

    #[test]
    fn an_empty_tree_has_no_files_and_a_missing_one_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(files(root.path()).unwrap().is_empty());
        assert!(files(&root.path().join("absent")).unwrap_err().to_string().contains("absent"));
    }

    #[test]
    fn every_name_is_told_apart() {
        let paths: [&[u8]; 6] = [b"a\\xff", b"a\xff", b"a\xfe", b"\\a\xff", b"\\\\a\xff", "ä".as_bytes()];
        let names: Vec<String> = paths.iter().map(|bytes| name(OsStr::from_bytes(bytes))).collect();
        assert_eq!(names, ["a\\xff", "//a\\xff", "//a\\xfe", "//\\\\a\\xff", "//\\\\\\\\a\\xff", "ä"]);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }
}
