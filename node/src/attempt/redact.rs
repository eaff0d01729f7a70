//! Takes the values of an attempt's secrets out of whatever text of it leaves the node.
//!
//! What is looked for of each value: every line of at least four characters, without the blanks around it, because log lines are
//! the unit in which text comes; the value in base64, wherever in the encoded text it begins; and, of a value of up to 4 KiB, each
//! such line as JSON and as a part of a URL write it. Long lines are looked for in pieces as well. What is shorter stays, for it would be found everywhere. One pass over the
//! text finds all of them, in a time that does not depend on how many there are.
//!
//! This keeps accidents out of logs. A program that wants to tell its secrets can: it need only write them backwards.

use std::collections::BTreeSet;

use aho_corasick::Anchored;
use aho_corasick::automaton::Automaton;
use aho_corasick::nfa::contiguous::NFA;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use orca_proto::secret::Delivered;
use orca_proto::task::Outcome;

/// What stands in a secret's place.
const MARK: &str = "***";
/// The fewest characters that are looked for.
const SHORTEST: usize = 4;
/// The longest value that is looked for in other spellings, in bytes.
const ENCODED: usize = 4 << 10;
/// Lines of a value that are longer than this are looked for in pieces too: the agent cuts what is too long for a line of a log, and
/// programs wrap it. In bytes.
const LONG: usize = 128;
/// Characters of such a piece: as many, and one less, may be seen next to a cut.
const PIECE: usize = 32;
/// How long the lines are into which programs wrap base64.
const WRAPPED: [usize; 2] = [64, 76];

/// Finds an attempt's secrets in text.
pub(super) struct Redactor(Option<Patterns>);

struct Patterns {
    automaton: NFA,
    /// Which of them are base64: the characters next to these hold some bits of the value as well.
    encoded: Vec<bool>,
}

impl Redactor {
    /// One that finds nothing.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// One that finds these.
    ///
    /// # Errors
    /// When there is more to look for than the library can; not with what a task may be given.
    pub(super) fn new(secrets: &[Delivered]) -> Result<Self, String> {
        let (mut plain, mut encoded) = (BTreeSet::new(), BTreeSet::new());
        for secret in secrets {
            let value = secret.value.expose();
            for line in value.split('\n').map(str::trim) {
                spellings(line, value.len() <= ENCODED, &mut plain);
                pieces(line, &mut plain);
            }
            in_base64(value, &mut encoded);
        }
        plain.retain(|pattern| pattern.chars().nth(SHORTEST - 1).is_some());
        encoded.retain(|pattern| pattern.len() >= SHORTEST && !plain.contains(pattern));
        if plain.is_empty() && encoded.is_empty() {
            return Ok(Self::none());
        }
        let kinds = std::iter::repeat_n(false, plain.len()).chain(std::iter::repeat_n(true, encoded.len()));
        let automaton = NFA::new(plain.iter().chain(&encoded)).map_err(|error| error.to_string())?;
        Ok(Self(Some(Patterns { automaton, encoded: kinds.collect() })))
    }

    /// Puts a mark in the place of every secret.
    pub(super) fn redact(&self, text: &mut String) {
        let Some(patterns) = &self.0 else { return };
        let found = patterns.find(text);
        if found.is_empty() {
            return;
        }
        let mut clean = String::with_capacity(text.len());
        let mut from = 0;
        for (start, end) in found {
            clean.push_str(text.get(from..start).unwrap_or_default());
            clean.push_str(MARK);
            from = end;
        }
        clean.push_str(text.get(from..).unwrap_or_default());
        *text = clean;
    }

    /// Whether there is a secret in it.
    pub(super) fn finds(&self, text: &str) -> bool {
        self.0.as_ref().is_some_and(|patterns| !patterns.find(text).is_empty())
    }

    /// The same for what an outcome says.
    pub(super) fn redact_outcome(&self, outcome: &mut Outcome) {
        if let Outcome::Failed { reason: Some(reason), .. }
        | Outcome::Rejected { reason }
        | Outcome::RuntimeError { reason } = outcome
        {
            self.redact(reason);
        }
    }
}

impl Patterns {
    /// Where there is any of them: apart from one another, in order.
    fn find(&self, text: &str) -> Vec<(usize, usize)> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        let Ok(mut state) = self.automaton.start_state(Anchored::No) else { return found };
        let bytes = text.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            state = self.automaton.next_state(Anchored::No, state, *byte);
            if !self.automaton.is_special(state) || !self.automaton.is_match(state) {
                continue;
            }
            // The first of those that end here is the longest; the others lie within it.
            let pattern = self.automaton.match_pattern(state, 0);
            let mut end = at + 1;
            let mut start = end - self.automaton.pattern_len(pattern);
            if self.encoded.get(pattern.as_usize()) == Some(&true) {
                start -=
                    usize::from(start.checked_sub(1).and_then(|at| bytes.get(at)).is_some_and(is_base64));
                end += usize::from(bytes.get(end).is_some_and(is_base64));
            }
            while let Some(last) = found.pop_if(|last| last.1 >= start) {
                (start, end) = (start.min(last.0), end.max(last.1));
            }
            found.push((start, end));
        }
        found
    }
}

fn is_base64(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_=".contains(byte)
}

/// What a long line is made of.
fn pieces(line: &str, into: &mut BTreeSet<String>) {
    if line.len() <= LONG {
        return;
    }
    let mut characters = line.chars().map(|char| if char == '\0' { '\u{2400}' } else { char });
    loop {
        let piece: String = characters.by_ref().take(PIECE).collect();
        if piece.is_empty() {
            return;
        }
        into.insert(piece);
    }
}

/// A line as it is, as the agent writes it down, and as it looks in JSON and in a URL.
fn spellings(line: &str, others: bool, into: &mut BTreeSet<String>) {
    if line.is_empty() {
        return;
    }
    into.insert(line.replace('\0', "\u{2400}"));
    if !others {
        return;
    }
    let json = serde_json::Value::from(line).to_string();
    if let Some(inner) = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')) {
        into.insert(inner.to_owned());
    }
    let mut url = String::with_capacity(line.len());
    for byte in line.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    into.insert(url);
}

/// A value as it looks in base64, whatever was encoded with it before and after.
fn in_base64(value: &str, into: &mut BTreeSet<String>) {
    let bytes = value.trim().as_bytes();
    if bytes.is_empty() || value.len() > ENCODED {
        return;
    }
    for before in 0..3_usize {
        let mut shifted = vec![0; before];
        shifted.extend_from_slice(bytes);
        // The first and the last character may hold bits of what is around the value.
        let from = [0, 2, 3].get(before).copied().unwrap_or_default();
        let until = shifted.len() * 8 / 6;
        for text in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            into.extend(text.get(from..until).map(ToOwned::to_owned));
        }
    }
    let whole = STANDARD.encode(value);
    for width in WRAPPED {
        if whole.len() > width {
            let lines = whole.as_bytes().chunks(width);
            into.extend(lines.map(|line| String::from_utf8_lossy(line).into_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use orca_proto::secret::SecretValue;
    use proptest::prelude::*;

    use super::*;

    fn redactor(values: &[&str]) -> Redactor {
        let deliver =
            |value: &&str| Delivered { name: "n".into(), file: "f".into(), value: SecretValue::new(*value) };
        Redactor::new(&values.iter().map(deliver).collect::<Vec<_>>()).unwrap()
    }

    fn redacted(values: &[&str], text: &str) -> String {
        let mut text = text.to_owned();
        redactor(values).redact(&mut text);
        text
    }

    #[test]
    fn every_place_of_a_value_is_marked_and_nothing_else() {
        assert_eq!(
            redacted(&["swordfish"], "a swordfish, aswordfishb; sword fish"),
            "a ***, a***b; sword fish"
        );
        assert_eq!(redacted(&["swordfish"], "swordfish"), "***");
        assert_eq!(redacted(&["ärger€"], "viel ärger€ hier"), "viel *** hier");
        assert_eq!(redacted(&[], "swordfish"), "swordfish");
        // With the newline that an editor leaves, and the blanks of whoever pasted it.
        assert_eq!(redacted(&[" swordfish\n"], "the swordfish."), "the ***.");
    }

    #[test]
    fn values_that_overlap_leave_nothing_of_either() {
        assert_eq!(redacted(&["abcdef", "defghi"], "x abcdefghi y"), "x *** y");
        assert_eq!(redacted(&["abcd", "abcdefgh"], "x abcdefgh y abcdefg"), "x *** y ***efg");
        assert_eq!(redacted(&["aaaa", "aaaaa"], "aaaaaaaaab"), "***b");
        assert_eq!(redacted(&["cdef", "abcdefgh"], "abcdefgh"), "***");
    }

    #[test]
    fn each_line_of_a_value_is_one_and_short_ones_are_left() {
        let key = "-----BEGIN KEY-----\r\nMIIEvQIBADAN\r\n}\r\nabc\r\n-----END KEY-----\r\n";
        assert_eq!(redacted(&[key], "read MIIEvQIBADAN } abc"), "read *** } abc");
        assert_eq!(redacted(&["a"], "a banana"), "a banana");
        assert_eq!(redacted(&["abc"], "abc"), "abc");
        assert_eq!(redacted(&["äöü€"], "äöü€"), "***");
    }

    #[test]
    fn of_a_long_line_that_is_cut_no_more_is_seen_than_a_piece_at_the_cut() {
        let value: String = (0..2_000).map(|number| format!("{number:x}.")).collect();
        let redactor = redactor(&[&value]);
        for at in [100, 1_000, 3_333, 4_000] {
            let (head, tail) = value.split_at(at);
            for mut part in [format!("{head} "), format!(" {tail}")] {
                redactor.redact(&mut part);
                assert!(part.contains("***") && part.len() < 3 + 2 + PIECE, "{part}");
            }
        }
        let mut whole = format!("x {value} y");
        redactor.redact(&mut whole);
        assert_eq!(whole, "x *** y");
    }

    #[test]
    fn a_value_in_base64_is_found_wherever_it_begins() {
        for value in ["swordfish", "sword fish", "swordfishes", "pa>?ss~~ÿwörd"] {
            for before in ["", "u", "us", "user:", "longer than that:"] {
                for after in ["", "\n", " and more"] {
                    let whole = format!("{before}{value}{after}");
                    for text in [STANDARD.encode(&whole), URL_SAFE_NO_PAD.encode(&whole)] {
                        let told = redacted(&[value], &format!("Basic {text} ."));
                        assert!(
                            told.contains("***") && told.starts_with("Basic "),
                            "{whole:?} {text} {told}"
                        );
                        let kept: String =
                            told.split("***").map(|part| part.trim_matches([' ', '.'])).collect();
                        assert!(
                            !kept.contains("c3dv") && kept.len() < 8 + text.len() - value.len(),
                            "{text} {told}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn base64_that_was_wrapped_into_lines_is_found_line_by_line() {
        let value: String = (0..40).map(|number| format!("line {number}\n")).collect();
        let whole = STANDARD.encode(&value);
        for width in [64, 76] {
            for line in whole.as_bytes().chunks(width) {
                let line = String::from_utf8_lossy(line);
                assert!(line.len() < 8 || redacted(&[&value], &line) == "***", "{line}");
            }
        }
    }

    #[test]
    fn a_value_is_found_as_json_and_as_urls_write_it() {
        let value = "p@ss \"w\\ö rd";
        let json = serde_json::json!({"password": value}).to_string();
        assert_eq!(redacted(&[value], &json), r#"{"password":"***"}"#);
        let url = "postgres://u:p%40ss%20%22w%5C%C3%B6%20rd@db/x";
        assert_eq!(redacted(&[value], url), "postgres://u:***@db/x");
        assert_eq!(redacted(&["nul\0nul"], "nul\u{2400}nul"), "***");
    }

    #[test]
    fn reasons_are_cleaned_and_what_says_nothing_stays() {
        let redactor = redactor(&["swordfish"]);
        let told = |text: &str| format!("no swordfish {text}");
        let mut outcomes = [
            Outcome::Failed { exit_code: 1, reason: Some(told("1")) },
            Outcome::Rejected { reason: told("2") },
            Outcome::RuntimeError { reason: told("3") },
            Outcome::Cancelled,
        ];
        outcomes.iter_mut().for_each(|outcome| redactor.redact_outcome(outcome));
        assert!(!format!("{outcomes:?}").contains("sword"), "{outcomes:?}");
    }

    #[test]
    fn as_much_as_a_task_may_be_given_is_looked_for_in_a_time_that_the_text_alone_decides() {
        let values: Vec<String> = (0..32)
            .map(|secret| {
                (0..200).map(|line| format!("secret {secret} line {line} {}\n", "x".repeat(16))).collect()
            })
            .collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let redactor = redactor(&values);
        // The worst there is for whoever tries each value at each place.
        let mut text = "secret 7 line 7 xxxxxxxxxxxxxxx ".repeat(30_000);
        let (length, began) = (text.len(), Instant::now());
        redactor.redact(&mut text);
        assert_eq!(text.len(), length);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?} for {length} bytes", began.elapsed());
    }

    proptest! {
        #[test]
        fn what_is_found_is_all_there_is(
            values in prop::collection::vec("[abä]{4,7}", 1..5),
            text in "[abäc]{0,60}",
        ) {
            let borrowed: Vec<&str> = values.iter().map(String::as_str).collect();
            let mut covered = vec![false; text.len()];
            for value in &values {
                for at in 0..text.len() {
                    if text.as_bytes()[at..].starts_with(value.as_bytes()) {
                        covered[at..at + value.len()].fill(true);
                    }
                }
            }
            let mut expected = Vec::new();
            for (at, byte) in text.bytes().enumerate() {
                match covered[at] {
                    true if at == 0 || !covered[at - 1] => expected.extend_from_slice(MARK.as_bytes()),
                    true => {}
                    false => expected.push(byte),
                }
            }
            prop_assert_eq!(redacted(&borrowed, &text), String::from_utf8(expected).unwrap());
        }
    }
}
