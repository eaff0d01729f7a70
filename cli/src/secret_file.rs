//! Files that hold tokens and keys: written with mode 0600 in one step, and refused when others can read them.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::Failure;

/// No key, token or profile file is larger.
const LARGEST: u64 = 1 << 20;

/// What becomes of a file of that name that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and writing fails.
    Keep,
    /// It is replaced at once, never half-way.
    Replace,
}

/// Writes `text` to `path`, readable by nobody else at any moment.
///
/// # Errors
/// A [`Failure`] that names the file.
pub(crate) fn write(path: &Path, text: &str, existing: Existing) -> Result<(), Failure> {
    let written = || -> io::Result<()> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // tempfile makes files of mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        match existing {
            Existing::Keep => file.persist_noclobber(path),
            Existing::Replace => file.persist(path),
        }
        .map_err(|error| error.error)?;
        Ok(())
    };
    written().map_err(|error| {
        let failure = Failure::file(format!("cannot write {}", path.display()), &error);
        match error.kind() {
            io::ErrorKind::AlreadyExists => failure.hint("remove it first if it is no longer needed"),
            io::ErrorKind::NotFound => failure.hint("make its directory first"),
            _ => failure,
        }
    })
}

/// The text of a file that nobody else can read.
///
/// # Errors
/// A [`Failure`] that names the file, also when its mode lets others read it.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let (text, mode) = read_any(path)?;
    if mode & 0o077 != 0 {
        return Err(Failure::invalid(format!("{} can be read by others", path.display()))
            .because(format!("its mode is {mode:04o}; it holds a secret"))
            .hint(format!("chmod 600 {}", path.display())));
    }
    Ok(text)
}

/// The text of a file, and its permission bits.
///
/// # Errors
/// A [`Failure`] that names the file.
pub(crate) fn read_any(path: &Path) -> Result<(String, u32), Failure> {
    let what = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).map_err(|error| Failure::file(what(), &error))?;
    let metadata = file.metadata().map_err(|error| Failure::file(what(), &error))?;
    if metadata.len() > LARGEST {
        return Err(Failure::invalid(what()).because("it is larger than 1 MiB"));
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Failure::invalid(what()).because("it is not UTF-8 text"),
        _ => Failure::file(what(), &error),
    })?;
    Ok((text, metadata.permissions().mode() & 0o777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_written_for_its_owner_alone_and_refused_when_others_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, "secret", Existing::Keep).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), "secret");
        assert!(write(&path, "other", Existing::Keep).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap_err().render().contains("chmod 600"));
    }
}
