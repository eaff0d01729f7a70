//! Unpacks a tar archive that nobody trusts: directories and regular files only, into an empty directory of the node's own.
//!
//! Names may be any bytes. Because links are never made, no name can lead out of the directory once `..` and absolute
//! names are refused. What a small archive could blow up to is bounded: extension headers, depth, and everything made.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tar::{Archive, EntryType};

/// Entries of one archive, and files and directories that are made from it.
const ENTRIES: u64 = 5_000_000;
/// Bytes of one name.
const NAME: usize = 3_000;
/// Directories in one name.
const DEPTH: usize = 256;
/// What a file or directory takes besides its content, in bytes, and more or less.
const BLOCK: u64 = 4_096;
/// Bytes between the contents of two files: headers, long names, padding. The reader takes long names whole into memory.
const HEADERS: u64 = 256 << 10;

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

/// Unpacks `archive` into `target`, an empty directory; answers about how many bytes of disk that takes.
///
/// # Errors
/// [`UnpackError`]; what was unpacked so far stays.
pub(super) fn unpack(archive: impl Read, target: &Path) -> Result<u64, UnpackError> {
    let allowed = Rc::new(Cell::new(HEADERS));
    let mut archive = Archive::new(Metered { inner: archive, allowed: Rc::clone(&allowed) });
    let mut entries = archive.entries().map_err(broken)?;
    let (mut made, mut bytes) = (0_u64, 0_u64);
    loop {
        allowed.set(HEADERS);
        let Some(entry) = entries.next() else { return Ok(bytes.saturating_add(made * BLOCK)) };
        let mut entry = entry.map_err(broken)?;
        count(&mut made)?;
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
        let path = target.join(&inside);
        // A regular file whose name ends in a slash is how old archives write a directory.
        if kind == EntryType::Directory || name.ends_with(b"/") {
            make_dirs(target, &inside, &mut made).map_err(|error| error.of(&name))?;
            continue;
        }
        let runs = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        let mode = if runs { 0o755 } else { 0o644 };
        let mut file = match create(&path, mode) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = inside.parent() {
                    make_dirs(target, parent, &mut made).map_err(|error| error.of(&name))?;
                }
                create(&path, mode)
            }
            created => created,
        }
        .map_err(|error| placed(&name, error))?;
        allowed.set(u64::MAX);
        bytes = bytes.saturating_add(copy(&mut entry, &mut file)?);
    }
}

/// Counts one more thing that an archive makes.
fn count(made: &mut u64) -> Result<(), UnpackError> {
    *made += 1;
    if *made > ENTRIES {
        return Err(UnpackError::Refused(format!(
            "the archive makes more than {ENTRIES} files and directories"
        )));
    }
    Ok(())
}

/// Why a directory was not made.
enum Unmade {
    Io(io::Error),
    Refused(UnpackError),
}

impl Unmade {
    fn of(self, name: &[u8]) -> UnpackError {
        match self {
            Self::Io(error) => placed(name, error),
            Self::Refused(refused) => refused,
        }
    }
}

/// Makes `inside` below `target`, and counts each directory that was not there: one long name can ask for hundreds.
fn make_dirs(target: &Path, inside: &Path, made: &mut u64) -> Result<(), Unmade> {
    let mut path = target.to_path_buf();
    for part in inside.components() {
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => count(made).map_err(Unmade::Refused)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(Unmade::Io(error)),
        }
    }
    Ok(())
}

/// Reads no more than is allowed at the moment.
struct Metered<R> {
    inner: R,
    allowed: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowed.get();
        if allowed == 0 && !buffer.is_empty() {
            return Err(io::Error::other("a header in it is too long"));
        }
        let most = usize::try_from(allowed).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.allowed.set(allowed.saturating_sub(count as u64));
        Ok(count)
    }
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
    if path.components().count() > DEPTH {
        return refuse("which lies too deep");
    }
    Ok(if path.as_os_str().is_empty() { None } else { Some(path) })
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(mode).open(path)
}

/// Copies, and tells the archive's faults from the disk's.
fn copy(entry: &mut impl Read, file: &mut File) -> Result<u64, UnpackError> {
    use std::io::Write;
    let (mut buffer, mut copied) = ([0; 32 << 10], 0);
    loop {
        let count = entry.read(&mut buffer).map_err(broken)?;
        if count == 0 {
            return Ok(copied);
        }
        file.write_all(buffer.get(..count).unwrap_or_default()).map_err(UnpackError::Io)?;
        copied += count as u64;
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

    fn unpacked(entries: &[(EntryType, &[u8])]) -> (tempfile::TempDir, Result<u64, UnpackError>) {
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
    fn a_long_name_is_not_taken_into_memory_however_long_it_says_it_is() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 33);
        header.set_cksum();
        let taken = Rc::new(Cell::new(0));
        struct Endless(Rc<Cell<u64>>);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.set(self.0.get() + buffer.len() as u64);
                buffer.fill(b'a');
                Ok(buffer.len())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let archive = header.as_bytes().as_slice().chain(Endless(Rc::clone(&taken)));
        assert!(matches!(unpack(archive, dir.path()), Err(UnpackError::Refused(_))));
        assert!(taken.get() <= HEADERS, "{}", taken.get());
    }

    #[test]
    fn a_file_is_copied_however_long_it_is_between_two_headers() {
        let mut builder = Builder::new(Vec::new());
        entry(&mut builder, EntryType::Regular, b"a", &vec![7; HEADERS as usize * 2]);
        entry(&mut builder, EntryType::Regular, b"b", b"");
        let bytes = builder.into_inner().unwrap();
        let dir = tempfile::tempdir().unwrap();
        unpack(bytes.as_slice(), dir.path()).unwrap();
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().len(), HEADERS * 2);
        assert!(dir.path().join("b").exists());
    }

    #[test]
    fn a_name_that_is_nothing_but_depth_is_refused_before_it_is_made() {
        let deep = |count: usize| {
            let mut builder = Builder::new(Vec::new());
            let mut header = Header::new_gnu();
            header.set_size(0);
            builder.append_data(&mut header, "a/".repeat(count) + "f", io::empty()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let result = unpack(builder.into_inner().unwrap().as_slice(), dir.path());
            (fs::read_dir(dir.path()).unwrap().count(), result)
        };
        assert!(matches!(deep(DEPTH - 1), (1, Ok(_))));
        assert!(matches!(deep(DEPTH), (0, Err(UnpackError::Refused(_)))));
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
