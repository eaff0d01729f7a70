//! `orca-agent dependencies` and `orca-agent input`: what the node put into the directory before the start.

use orca_proto::agent::files;
use orca_proto::attempt::Dependencies;

use super::{VerbError, print, source};
use crate::attempt_dir::AttemptDir;

/// More than the node would ever write: 100,000 dependencies with a result each.
const LONGEST: usize = 1 << 30;

/// Prints the dependencies; an empty list where there are none.
pub(super) fn dependencies(dir: &AttemptDir) -> Result<(), VerbError> {
    match read(dir, files::DEPENDENCIES)? {
        Some(text) => print(&text),
        None => print(b"{\"tasks\":[]}"),
    }
}

/// Prints the input; `null` where there is none.
pub(super) fn input(dir: &AttemptDir) -> Result<(), VerbError> {
    print(&read(dir, files::INPUT)?.unwrap_or_else(|| b"null".to_vec()))
}

/// The dependencies, parsed.
pub(super) fn read_dependencies(dir: &AttemptDir) -> Result<Dependencies, VerbError> {
    match read(dir, files::DEPENDENCIES)? {
        Some(text) => source::parse(&text, "a list of dependencies of this version"),
        None => Ok(Dependencies { tasks: Vec::new() }),
    }
}

fn read(dir: &AttemptDir, name: &str) -> Result<Option<Vec<u8>>, VerbError> {
    dir.read_left(name, LONGEST)
        .map_err(|error| VerbError::Usage(format!("cannot read {}: {error}", dir.path(name).display())))
}
