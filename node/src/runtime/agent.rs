//! Finds the static agent and puts a copy of it where containers can be shown it and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::NodeError;

/// The agent's file name.
pub(crate) const NAME: &str = "orca-agent";
/// The largest file that is taken for an agent, in bytes.
const LARGEST: u64 = 64 << 20;
/// Program header type of a dynamic linker's path.
const PT_INTERP: u32 = 3;

/// Copies the agent from `given`, or from next to this program, into `dir`; answers the copy's path.
///
/// # Errors
/// [`NodeError::Agent`] if it is absent or not static; [`NodeError::Io`].
pub(crate) fn install(given: Option<&Path>, dir: &Path) -> Result<PathBuf, NodeError> {
    let beside = || std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(NAME)));
    let path = given.map(Path::to_path_buf).or_else(beside).unwrap_or_else(|| PathBuf::from(NAME));
    let refuse = |why: String| NodeError::Agent { path: path.clone(), why };
    let size = fs::metadata(&path).map_err(|error| {
        refuse(format!("{error}; build it with `cargo xtask dist`, or say where it is with --agent"))
    })?;
    if !size.is_file() || size.len() > LARGEST {
        return Err(refuse("it is not a program of at most 64 MiB".into()));
    }
    let bytes = fs::read(&path).map_err(|error| refuse(error.to_string()))?;
    match is_static(&bytes) {
        Some(true) => {}
        Some(false) => {
            return Err(refuse(
                "it needs a dynamic linker, which an image may not have; build a static one with `cargo xtask dist`".into(),
            ));
        }
        None => return Err(refuse("it is not a 64-bit ELF program".into())),
    }
    let (temporary, installed) = (dir.join("orca-agent.new"), dir.join(NAME));
    fs::write(&temporary, &bytes).map_err(NodeError::io("write", &temporary))?;
    for (path, mode) in [(&temporary, 0o555), (&dir.to_path_buf(), 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(NodeError::io("open", path))?;
    }
    fs::rename(&temporary, &installed).map_err(NodeError::io("write", &installed))?;
    Ok(installed)
}

/// Whether a little-endian 64-bit ELF file names no dynamic linker; `None` if it is no such file.
fn is_static(elf: &[u8]) -> Option<bool> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?));
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for index in 0..count {
        if u32_at(table.checked_add(index * size)?)? == PT_INTERP {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn a_program_with_a_dynamic_linker_is_told_from_a_static_one() {
        assert_eq!(is_static(&elf(PT_INTERP)), Some(false));
        assert_eq!(is_static(&elf(1)), Some(true));
        assert_eq!(is_static(&fs::read(std::env::current_exe().unwrap()).unwrap()), Some(false));
    }

    #[test]
    fn what_is_no_program_at_all_is_refused() {
        assert_eq!(is_static(b"#!/bin/sh\n"), None);
        assert_eq!(is_static(&elf(1)[..70]), Some(true));
        assert_eq!(is_static(&elf(1)[..60]), None);
    }

    #[test]
    fn an_absent_agent_says_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = install(Some(&dir.path().join("nowhere")), dir.path()).unwrap_err();
        assert!(error.to_string().contains("cargo xtask dist"), "{error}");
    }
}
