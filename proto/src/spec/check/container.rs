//! The rules for what a task runs.

use super::{Errors, Pointer, fail};
use crate::image::ImageReference;
use crate::spec::ContainerSpec;

pub(super) fn container(spec: &ContainerSpec, at: Pointer<'_>, errors: &mut Errors) {
    if spec.image.parse::<ImageReference>().is_err() {
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
