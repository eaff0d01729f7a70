//! JSON given on the command line: itself, `@FILE`, or `-` for standard input.

use std::io::Read;

use orca_proto::quantity::Bytes;
use serde_json::Value;
use serde_json::error::Category;

use crate::error::Failure;

/// Reads the JSON that `text` is or names; `argument` is what it was given as, such as `--input`.
///
/// # Errors
/// A [`Failure`] if it cannot be read, is longer than `most` bytes, or is not JSON.
pub(super) fn read(text: &str, argument: &str, most: usize) -> Result<Value, Failure> {
    let one_more = most as u64 + 1;
    let (bytes, from) = if text == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .lock()
            .take(one_more)
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::file("cannot read standard input", &error))?;
        (bytes, "standard input".to_owned())
    } else if let Some(path) = text.strip_prefix('@') {
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(one_more).read_to_end(&mut bytes))
            .map_err(|error| Failure::file(format!("cannot read {path}"), &error))?;
        (bytes, path.to_owned())
    } else {
        (text.as_bytes().to_vec(), argument.to_owned())
    };
    if bytes.len() > most {
        return Err(Failure::invalid(format!("{from} is larger than {}", Bytes(most as u64)))
            .hint("store it as an artifact instead (`orca enqueue --artifact`, `orca artifact put`)"));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let failure = Failure::invalid(format!("{from} is not JSON")).because(breaks(&error));
        if matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')) {
            return failure.hint("keys and text need double quotes: '{\"key\": \"text\"}'");
        }
        let flag = if argument.starts_with('-') { format!("{argument} ") } else { String::new() };
        failure.hint(format!("text needs quotes of its own: {flag}'\"text\"'"))
    })
}

/// Where a text stops being JSON.
pub(super) fn breaks(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        Category::Eof => format!("it ends at line {line}, column {column}, before it is whole"),
        Category::Syntax => format!("line {line}, column {column}: here it is no JSON any more"),
        Category::Data | Category::Io => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn text_that_is_not_json_is_told_with_a_hint() {
        let failure = read("hello", "--input", 100).unwrap_err();
        assert_eq!(failure.exit(), Exit::Invalid);
        assert!(failure.render().contains("--input '\"text\"'"), "{}", failure.render());
    }

    #[test]
    fn half_an_object_is_told_by_where_it_breaks() {
        let text = read("{bad", "the payload", 100).unwrap_err().render();
        assert!(text.contains("line 1, column 2") && text.contains("double quotes"), "{text}");
        let text = read("{\"a\": 1", "the payload", 100).unwrap_err().render();
        assert!(text.contains("before it is whole"), "{text}");
        let text = read("bad", "the payload", 100).unwrap_err().render();
        assert!(!text.contains("the payload '") && !text.contains("ident"), "{text}");
    }

    #[test]
    fn no_more_is_read_than_may_be_sent() {
        let failure = read("[1,2,3]", "--input", 6).unwrap_err();
        assert!(failure.render().contains("--input is larger than 6"), "{}", failure.render());
        assert_eq!(read("[1,2,3]", "--input", 7).unwrap(), serde_json::json!([1, 2, 3]));
    }
}
