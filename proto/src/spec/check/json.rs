//! The rules for JSON that is carried and never looked into: its size, its depth, the characters in it.

use std::io;

use serde_json::Value;

/// Whether `value`, as JSON text, is longer than `most` bytes. The text is not made.
pub(super) fn is_longer_than(value: &Value, most: usize) -> bool {
    let mut room = Room { left: most };
    serde_json::to_writer(&mut room, value).is_err()
}

/// Takes so many bytes and no more.
struct Room {
    left: usize,
}

impl io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether arrays and objects are nested in one another more than `levels` deep.
#[must_use]
pub fn nests_deeper_than(value: &Value, levels: usize) -> bool {
    let deeper = |inner: &Value| match levels.checked_sub(1) {
        Some(levels) => nests_deeper_than(inner, levels),
        None => true,
    };
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(deeper),
        Value::Object(map) => levels == 0 || map.values().any(deeper),
        _ => false,
    }
}

/// Whether a JSON value holds the character U+0000 anywhere, names included: Postgres cannot give it back. Recursive, so only
/// for what a parser with a bound on depth has read.
#[must_use]
pub fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_length_is_that_of_the_text(text in ".{0,40}", number in any::<i64>()) {
            let value = serde_json::json!({ text.clone(): [number, text, null, true] });
            let length = value.to_string().len();
            prop_assert!(!is_longer_than(&value, length));
            prop_assert!(is_longer_than(&value, length - 1));
        }
    }
}
