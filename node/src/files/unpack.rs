//! Unpacks a tar archive that nobody trusts: directories and regular files only, into an empty directory of the node's own.
//!
//! Names may be any bytes. Because links are never made, no name can lead out of the directory once `..` and absolute
//! names are refused.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tar::{Archive, EntryType};

/// Entries of one archive.
const ENTRIES: u64 = 5_000_000;
/// Bytes of one name.
const NAME: usize = 3_000;

/// Why an archive was not unpacked whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    /// The archive is broken, or asks for something that is not allowed.
    #[error("{0}")]
    Refused(String),
    /// This machine's fault.
    #[error(transparent)]
    Io(io::Error),
}

/// Unpacks `archive` into `target`, an empty directory.
///
/// # Errors
/// [`UnpackError`]; what was unpacked so far stays.
pub(super) fn unpack(archive: impl Read, target: &Path) -> Result<(), UnpackError> {
    let mut archive = Archive::new(archive);
    let entries = archive.entries().map_err(broken)?;
    for (count, entry) in (1_u64..).zip(entries) {
        let mut entry = entry.map_err(broken)?;
        if count > ENTRIES {
            return Err(UnpackError::Refused(format!("the archive has more than {ENTRIES} entries")));
        }
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        let name = entry.path_bytes().into_owned();
        if !matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::Directory) {
            let shown = show(&name);
            return Err(UnpackError::Refused(format!(
                "the archive holds {shown}, which is neither a regular file nor a directory"
            )));
        }
        let Some(inside) = relative(&name)? else { continue };
        let path = target.join(inside);
        // A regular file whose name ends in a slash is how old archives write a directory.
        if kind == EntryType::Directory || name.ends_with(b"/") {
            fs::create_dir_all(&path).map_err(|error| placed(&name, error))?;
            continue;
        }
        let runs = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        let mut file =
            create(&path, if runs { 0o755 } else { 0o644 }).map_err(|error| placed(&name, error))?;
        copy(&mut entry, &mut file)?;
    }
    Ok(())
}

/// The path below the target; `None` for the target itself.
fn relative(name: &[u8]) -> Result<Option<PathBuf>, UnpackError> {
    let refuse = |why: &str| Err(UnpackError::Refused(format!("the archive holds {}, {why}", show(name))));
    if name.len() > NAME {
        return refuse("a name that is too long");
    }
    if name.first() == Some(&b'/') {
        return refuse("an absolute name");
    }
    if name.contains(&0) {
        return refuse("a name with NUL");
    }
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("a name that leads out of it"),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(if path.as_os_str().is_empty() { None } else { Some(path) })
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let open = || File::options().write(true).create(true).truncate(true).mode(mode).open(path);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            open()
        }
        opened => opened,
    }
}

/// Copies, and tells the archive's faults from the disk's.
fn copy(entry: &mut impl Read, file: &mut File) -> Result<(), UnpackError> {
    use std::io::Write;
    let mut buffer = [0; 32 << 10];
    loop {
        let count = entry.read(&mut buffer).map_err(broken)?;
        if count == 0 {
            return Ok(());
        }
        file.write_all(buffer.get(..count).unwrap_or_default()).map_err(UnpackError::Io)?;
    }
}

fn broken(error: io::Error) -> UnpackError {
    UnpackError::Refused(format!("it is not a whole tar archive: {error}"))
}

/// Errors of one name: a clash with an earlier entry, or a name that no file system takes, is the archive's fault.
fn placed(name: &[u8], error: io::Error) -> UnpackError {
    use io::ErrorKind::{AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory};
    match error.kind() {
        AlreadyExists | InvalidFilename | InvalidInput | IsADirectory | NotADirectory => {
            UnpackError::Refused(format!("the archive's {} cannot be unpacked: {error}", show(name)))
        }
        _ => UnpackError::Io(error),
    }
}

fn show(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(200).collect();
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tar::{Builder, Header};

    use super::*;

    fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &[u8], content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn unpacked(entries: &[(EntryType, &[u8])]) -> (tempfile::TempDir, Result<(), UnpackError>) {
        let mut builder = Builder::new(Vec::new());
        for (kind, name) in entries {
            entry(&mut builder, *kind, name, if kind.is_file() { b"content" } else { b"" });
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        let result = unpack(builder.into_inner().unwrap().as_slice(), &dir.path().join("in"));
        (dir, result)
    }

    #[test]
    fn names_of_any_bytes_are_unpacked_as_they_are() {
        let names: [&[u8]; 4] = [b"a b", b"new\nline", b"\xff\xfe", "größe/ö".as_bytes()];
        let (dir, result) = unpacked(&names.map(|name| (EntryType::Regular, name)));
        result.unwrap();
        for name in names {
            let path = dir.path().join("in").join(OsStr::from_bytes(name));
            assert_eq!(fs::read(path).unwrap(), b"content");
        }
    }

    #[test]
    fn links_and_devices_are_refused() {
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Char,
            EntryType::Block,
            EntryType::Fifo,
            EntryType::GNUSparse,
        ] {
            let (dir, result) = unpacked(&[(kind, b"evil")]);
            assert!(matches!(result, Err(UnpackError::Refused(_))), "{kind:?}");
            assert!(fs::symlink_metadata(dir.path().join("in/evil")).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in [&b"/etc/x"[..], b"../x", b"a/../../x", b"..", b"a/.."] {
            let (dir, result) = unpacked(&[(EntryType::Regular, name)]);
            assert!(matches!(result, Err(UnpackError::Refused(_))), "{name:?}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_name_that_is_both_file_and_directory_is_refused() {
        let (_dir, result) = unpacked(&[(EntryType::Regular, b"a"), (EntryType::Regular, b"a/b")]);
        assert!(matches!(result, Err(UnpackError::Refused(_))), "{result:?}");
    }

    #[test]
    fn an_archive_that_was_cut_is_refused() {
        let mut builder = Builder::new(Vec::new());
        entry(&mut builder, EntryType::Regular, b"a", &[7; 2_000]);
        let bytes = builder.into_inner().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let result = unpack(&bytes[..1_000], dir.path());
        assert!(matches!(result, Err(UnpackError::Refused(_))), "{result:?}");
    }

    proptest! {
        #[test]
        fn no_name_at_all_writes_outside(name in prop::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), 1_u8..], 1..60)) {
            let (dir, _) = unpacked(&[(EntryType::Regular, &name)]);
            prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
