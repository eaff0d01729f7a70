//! Where a verb's JSON comes from: a file, standard input, or the argument itself.

use std::fs::File;
use std::io::{self, Read};

use orca_proto::strict;

use super::VerbError;

/// The JSON text that `argument` names: `-` is standard input, `@PATH` a file; anything else is the text itself where it
/// cannot be a path (`inline`), or a path.
///
/// # Errors
/// When it cannot be read or is longer than `most` bytes.
pub(super) fn read(argument: &str, inline: Inline, most: usize) -> Result<Vec<u8>, VerbError> {
    let path = match (argument.strip_prefix('@'), inline) {
        (Some(path), _) => path,
        (None, _) if argument == "-" => return bounded(&mut io::stdin().lock(), "standard input", most),
        (None, Inline::Always) => return Ok(argument.as_bytes().to_vec()),
        (None, Inline::IfBracketed) if argument.trim_start().starts_with(['{', '[']) => {
            return Ok(argument.as_bytes().to_vec());
        }
        (None, Inline::IfBracketed) => argument,
    };
    let mut file =
        File::open(path).map_err(|error| VerbError::Usage(format!("cannot read {path:?}: {error}")))?;
    bounded(&mut file, path, most)
}

/// When an argument is JSON and not a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inline {
    /// Always; a path needs its `@`.
    Always,
    /// When it begins like an object or an array.
    IfBracketed,
}

fn bounded(from: &mut dyn Read, name: &str, most: usize) -> Result<Vec<u8>, VerbError> {
    let mut text = Vec::new();
    from.take(most as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|error| VerbError::Usage(format!("cannot read {name:?}: {error}")))?;
    if text.len() > most {
        return Err(VerbError::Usage(format!("{name:?} is longer than {most} bytes")));
    }
    Ok(text)
}

/// Parses `text`, which came from `argument`.
///
/// # Errors
/// When it is not JSON of that kind.
pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &[u8], what: &str) -> Result<T, VerbError> {
    let text = std::str::from_utf8(text).map_err(|error| VerbError::Usage(format!("not {what}: {error}")))?;
    strict::from_str(text).map_err(|error| VerbError::Usage(format!("not {what}: {error}")))
}

/// As JSON text.
///
/// # Errors
/// Never for the types of the contract.
pub(super) fn text(value: &impl serde::Serialize) -> Result<Vec<u8>, VerbError> {
    serde_json::to_vec(value).map_err(|error| VerbError::Usage(error.to_string()))
}
