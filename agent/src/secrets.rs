//! The task's secrets: fetched from the node, and written as files into a directory in memory before the program is started.

use std::fs::File;
use std::io::{self, Write};

use orca_proto::agent::files;
use orca_proto::secret::{AttemptSecrets, Delivered, is_valid_name};
use rustix::fs::{Mode, OFlags};

use crate::attempt_dir::AttemptDir;

/// Reads what the node answered.
///
/// # Errors
/// When it is not that, which is told without quoting it.
pub(crate) fn read(answer: &[u8]) -> Result<AttemptSecrets, String> {
    serde_json::from_slice(answer)
        .map_err(|error| format!("the node's answer is none of this version (column {})", error.column()))
}

/// Writes each secret into a file that only this user can read.
///
/// # Errors
/// When one is there already, or the directory is not, or is full.
pub(crate) fn write(dir: &AttemptDir, secrets: &AttemptSecrets) -> io::Result<()> {
    let place = dir.path(files::SECRETS);
    for Delivered { name: _, file, value } in &secrets.secrets {
        if !is_valid_name(file) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file's name is not valid"));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR;
        let open = rustix::fs::open(place.join(file), flags, mode)?;
        // Whatever mask of modes the image's user has.
        rustix::fs::fchmod(&open, mode)?;
        File::from(open).write_all(value.expose().as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_wrong_is_not_quoted() {
        for answer in [r#"{"secrets":["swordfish"]}"#, r#""swordfish""#, r#"{"swordfish":1}"#, "swordfish"] {
            let why = read(answer.as_bytes()).unwrap_err();
            assert!(!why.contains("sword"), "{why}");
        }
    }
}
