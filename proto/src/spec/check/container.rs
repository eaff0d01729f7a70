//! The rules for what a task runs.

use super::{Errors, Pointer, fail};
use crate::spec::ContainerSpec;

pub(super) fn container(spec: &ContainerSpec, at: Pointer<'_>, errors: &mut Errors) {
    if !image_reference(&spec.image) {
        fail(errors, at.field("image"), "is not an OCI image reference such as debian:bookworm-slim");
    }
    let argument_bytes: usize = spec.command.iter().map(String::len).sum();
    if spec.command.len() > 4_096 || argument_bytes > 128 << 10 {
        fail(errors, at.field("command"), "has more than 4,096 arguments or 128 KiB of text");
    }
    for (index, argument) in spec.command.iter().enumerate() {
        if argument.contains('\0') {
            fail(errors, at.field("command").index(index), "must not hold NUL");
        }
    }
    if spec.command.first().is_some_and(String::is_empty) {
        fail(errors, at.field("command").index(0), "must not be empty");
    }
    if spec.env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > 128 << 10 {
        fail(errors, at.field("env"), "has more than 128 KiB of text");
    }
    for (key, value) in &spec.env {
        let all = at.field("env");
        let pointer = all.key(key);
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            fail(errors, pointer, "names must not be empty or hold '=' or NUL, nor values NUL");
        } else if key.starts_with("ORCA_") {
            fail(errors, pointer, "names that begin with ORCA_ are set by Orca");
        }
    }
    if let Some(user) = &spec.user {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if user.is_empty() || user.len() > 64 || !user.chars().all(allowed) {
            fail(errors, at.field("user"), "must be a name, a uid or uid:gid");
        }
    }
    if let Some(dir) = &spec.workdir
        && (!dir.starts_with('/') || dir.contains('\0') || dir.len() > 4_096)
    {
        fail(errors, at.field("workdir"), "must be an absolute path");
    }
}

/// Whether `text` follows the reference grammar of the OCI distribution specification:
/// `[host[:port]/]path[:tag][@digest]`.
pub(super) fn image_reference(text: &str) -> bool {
    if text.is_empty() || text.len() > 512 {
        return false;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest {
        let Some((algorithm, hex)) = digest.split_once(':') else { return false };
        let hex_ok = hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if algorithm.is_empty()
            || !algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            || !hex_ok
        {
            return false;
        }
    }
    let last_slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match rest[last_slash..].find(':') {
        Some(colon) => (&rest[..last_slash + colon], Some(&rest[last_slash + colon + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        let mut bytes = tag.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !first || tag.len() > 128 || !bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return false;
        }
    }
    let mut parts = path.split('/');
    if let Some((host, rest)) = path.split_once('/')
        && (host.contains(['.', ':']) || host == "localhost")
    {
        parts = rest.split('/');
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b"[]".contains(&b));
        if !edge(host.bytes().next())
            || !edge(host.bytes().last())
            || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
        {
            return false;
        }
    }
    parts.all(|part| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        edge(part.bytes().next()) && edge(part.bytes().last()) && part.bytes().all(inner)
    })
}
