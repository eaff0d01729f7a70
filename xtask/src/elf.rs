//! Whether a binary is static: an ELF file whose program headers name no interpreter.

use std::path::Path;

use anyhow::{Context, Result, bail};

const PT_INTERP: u32 = 3;

/// Checks that the file at `path` is an ELF executable that needs no dynamic loader.
///
/// # Errors
/// If it is something else, or cannot be read.
pub(crate) fn check_static(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match interpreter(&bytes) {
        None => bail!("{} is not a 64-bit little-endian ELF executable", path.display()),
        Some(true) => bail!("{} is dynamically linked: it names a program interpreter", path.display()),
        Some(false) => Ok(()),
    }
}

/// Whether there is a `PT_INTERP`; `None` where the bytes are no 64-bit little-endian ELF.
fn interpreter(bytes: &[u8]) -> Option<bool> {
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let offset = usize::try_from(u64::from_le_bytes(bytes.get(0x20..0x28)?.try_into().ok()?)).ok()?;
    let size = usize::from(u16::from_le_bytes(bytes.get(0x36..0x38)?.try_into().ok()?));
    let count = usize::from(u16::from_le_bytes(bytes.get(0x38..0x3a)?.try_into().ok()?));
    for index in 0..count {
        let at = offset.checked_add(index.checked_mul(size)?)?;
        let header = bytes.get(at..at.checked_add(size)?)?;
        let kind = u32::from_le_bytes(header.get(..4)?.try_into().ok()?);
        if kind == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + kinds.len() * 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[0x20..0x28].copy_from_slice(&64_u64.to_le_bytes());
        bytes[0x36..0x38].copy_from_slice(&56_u16.to_le_bytes());
        bytes[0x38..0x3a].copy_from_slice(&u16::try_from(kinds.len()).unwrap().to_le_bytes());
        for (index, kind) in kinds.iter().enumerate() {
            let at = 64 + index * 56;
            bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn an_interpreter_among_the_headers_makes_a_binary_dynamic() {
        assert_eq!(interpreter(&elf(&[6, PT_INTERP, 1])), Some(true));
        assert_eq!(interpreter(&elf(&[1, 2])), Some(false));
    }

    #[test]
    fn a_script_and_a_cut_file_are_no_executables() {
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(interpreter(&elf(&[1])[..80]), None);
    }
}
