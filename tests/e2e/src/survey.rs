//! An independent count of a directory, to hold what the surveying goal returns against.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

/// What `find`, `wc` and `sha256sum` would say of a directory's regular files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Regular files; links are neither counted nor followed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their newlines.
    pub lines: u64,
    /// SHA-256 of each, in lowercase hexadecimal, by path relative to the directory.
    pub hashes: BTreeMap<String, String>,
}

/// Counts `dir`.
///
/// # Panics
/// If it cannot be read, or holds a name that is not UTF-8.
#[must_use]
pub fn count(dir: &Path) -> Count {
    let mut count = Count::default();
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry.expect("the directory can be read");
        if !entry.file_type().is_file() {
            continue;
        }
        let content = std::fs::read(entry.path()).expect("the file can be read");
        let name = entry.path().strip_prefix(dir).expect("it is below the directory");
        let hash = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        count.files += 1;
        count.bytes += u64::try_from(content.len()).expect("a small file");
        count.lines += content.iter().filter(|byte| **byte == b'\n').map(|_| 1).sum::<u64>();
        count.hashes.insert(name.to_str().expect("a UTF-8 name").to_owned(), hash);
    }
    count
}
