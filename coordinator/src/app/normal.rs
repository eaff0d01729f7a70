//! The one text of a result: as `serde_json` writes the value that it read, so that the same value is the same text however
//! it was sent, and whatever is stored can be read again.

use orca_proto::limits;
use orca_proto::spec::{holds_nul, nests_deeper_than};
use serde_json::Value;

/// Digits that every number of so many can be told exactly by.
const DIGITS: usize = 18;

/// The one text of a result of at most `longest` bytes; nothing where it is longer, cannot be read, or must be refused.
pub(super) fn normal(text: &str, longest: usize) -> Option<String> {
    if text.len() > longest {
        return None;
    }
    if is_normal(text) {
        return Some(text.to_owned());
    }
    let value: Value = serde_json::from_str(text).ok()?;
    if holds_nul(&value) || nests_deeper_than(&value, limits::NESTING) {
        return None;
    }
    crate::db::to_json(&value).ok()
}

/// Whether this text, which is JSON, certainly is the one text of its value: it has no space and no escape, no number but
/// short whole ones, no object with more than one key. A `$` may begin a key by which `serde_json` hides a value in a string.
fn is_normal(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut at, mut opened, mut objects, mut commas) = (0, 0, false, false);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let Some(rest) = bytes.get(at..) else { return false };
                let Some(length) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | b'$')) else {
                    return false;
                };
                if rest.get(length) != Some(&b'"') {
                    return false;
                }
                at += length + 1;
            }
            b'-' | b'0'..=b'9' => {
                let rest = bytes.get(at..).unwrap_or_default();
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let ends = !matches!(rest.get(digits), Some(b'.' | b'e' | b'E'));
                if digits > DIGITS || !ends || byte == b'-' && rest.first() == Some(&b'0') {
                    return false;
                }
                at += digits;
            }
            b'{' => (opened, objects) = (opened + 1, true),
            b'[' => opened += 1,
            b',' => commas = true,
            b' ' | b'\t' | b'\n' | b'\r' => return false,
            _ => {}
        }
    }
    opened <= limits::NESTING && !(objects && commas)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What texts are made of here.
    const PARTS: [&str; 24] = [
        "null",
        "true",
        "0",
        "-0",
        "-7",
        "12",
        "1.0",
        "1.5e2",
        "1e999",
        "999999999999999999",
        "-999999999999999999",
        "9999999999999999999",
        "99999999999999999999",
        r#""""#,
        r#""b""#,
        r#""aé\u00e9""#,
        r#""\u0000""#,
        r#""\ud800""#,
        r#"" ""#,
        "\"\u{7f}\u{2028}\"",
        r#""$serde_json::private::RawValue""#,
        r#""[1, 2]""#,
        r#"{"a":1}"#,
        "[ ]",
    ];

    /// Texts of JSON, of many shapes, some of which no value can be read from.
    fn texts() -> Vec<String> {
        let mut texts: Vec<String> = PARTS.iter().map(|part| (*part).to_owned()).collect();
        for one in PARTS {
            texts.extend([format!("[{one}]"), format!("[[{one}],[{one}]]"), format!("[{one},{{}}]")]);
            for two in PARTS {
                texts.extend([format!("[{one},{two}]"), format!("[{one}, {two}]"), format!(" [{one}]")]);
                if one.starts_with('"') {
                    texts.extend([
                        format!("{{{one}:{two}}}"),
                        format!("{{{one}: {two}}}"),
                        format!("[{{{one}:{two}}}]"),
                        format!("{{\"c\":1,{one}:{two}}}"),
                        format!("{{{one}:{{{one}:{two}}}}}"),
                    ]);
                }
            }
        }
        texts
    }

    #[test]
    fn what_is_taken_as_it_came_is_what_reading_and_writing_it_makes_of_it() {
        let mut taken = 0;
        for text in texts() {
            if is_normal(&text) {
                let value: Value = serde_json::from_str(&text).expect(&text);
                assert_eq!(serde_json::to_string(&value).unwrap(), text);
                assert!(!holds_nul(&value), "{text}");
                taken += 1;
            }
        }
        assert!(taken > 300, "{taken}");
        assert!(is_normal(r#"{"rows":[12]}"#));
    }

    #[test]
    fn a_result_has_one_text_however_it_was_written() {
        for (texts, one) in [
            (
                &[r#"{"b":2,"a":1}"#, r#"{ "a": 1, "b": 2 }"#, r#"{"a":0,"a":1,"b":2}"#][..],
                r#"{"a":1,"b":2}"#,
            ),
            (&["1.0e2", "100.0", "1e2"], "100.0"),
            (&[r#""\u0061""#, r#""a""#], r#""a""#),
            (&["-0"], "-0.0"),
        ] {
            for text in texts {
                assert_eq!(normal(text, 100).as_deref(), Some(one), "{text}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_again_or_must_be_refused_has_none() {
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        for text in ["1e999", r#""\ud800""#, r#"["\u0000"]"#, r#""longer than that""#, &deep] {
            assert_eq!(normal(text, if text == deep { 1_000 } else { 10 }), None, "{text}");
        }
        assert!(normal(&deep[50..150], 1_000).is_some());
    }
}
