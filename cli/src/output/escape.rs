//! Keeps text from elsewhere from driving the terminal: control characters, and the marks that reorder or hide text.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character does something to a terminal or a reader's eyes other than show itself.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `text` on one line: every character that acts is written as an escape. Tabs become spaces.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\t' => safe.push_str("    "),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            c if acts(c) && u32::from(c) < 0x80 => {
                let _ = write!(safe, "\\x{:02x}", u32::from(c));
            }
            c if acts(c) => {
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// JSON text with the same meaning in which no string holds a character that acts. JSON's own line breaks stay.
pub(crate) fn json(text: String) -> String {
    if !text.chars().any(|c| c != '\n' && acts(c)) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // serde_json writes C0 controls as escapes already, so what is left is in a string and in the first plane.
        if c != '\n' && acts(c) {
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_sequence_is_shown_and_not_obeyed() {
        assert_eq!(line("a\u{1b}]0;x\u{7}b\r\n\u{9b}2J"), "a\\x1b]0;x\\x07b\\r\\n\\u{9b}2J");
        assert_eq!(line("evil\u{202e}gpj.exe"), "evil\\u{202e}gpj.exe");
        assert_eq!(line("naïve 日本 🐋"), "naïve 日本 🐋");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({"a": "\u{9b}2J \u{202e} \u{7f} \n", "b": "plain"});
        let safe = json(serde_json::to_string_pretty(&value).unwrap());
        assert!(!safe.chars().any(|c| c != '\n' && acts(c)));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
