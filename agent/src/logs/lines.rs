//! Bytes of a pipe into lines of text: split at newlines and at the longest line, made valid UTF-8 without NUL.

use orca_proto::limits::LOG_LINE;

/// Cuts one stream into lines.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    rest: Vec<u8>,
}

impl LineSplitter {
    /// Takes the next bytes; the lines that are complete with them.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            self.rest.extend_from_slice(text);
            while self.rest.len() > LOG_LINE {
                let tail = self.rest.split_off(boundary(&self.rest));
                let head = std::mem::replace(&mut self.rest, tail);
                decode(&head, &mut lines);
            }
            if ended {
                decode(&self.rest, &mut lines);
                self.rest.clear();
            }
        }
        lines
    }

    /// What came after the last newline.
    pub(crate) fn finish(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.rest.is_empty() {
            decode(&self.rest, &mut lines);
            self.rest.clear();
        }
        lines
    }
}

/// Where to cut bytes that are longer than a line: at the limit, or just before the character that straddles it.
fn boundary(bytes: &[u8]) -> usize {
    let is_inside = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    (LOG_LINE - 3..=LOG_LINE).rev().find(|at| !is_inside(*at)).unwrap_or(LOG_LINE)
}

/// Replacement characters are longer than the bytes they stand for, so one cut of bytes can be several lines.
fn decode(bytes: &[u8], lines: &mut Vec<String>) {
    let text = String::from_utf8_lossy(bytes);
    let mut line = String::with_capacity(text.len().min(LOG_LINE));
    for char in text.chars() {
        let char = if char == '\0' { '\u{2400}' } else { char };
        if line.len() + char.len_utf8() > LOG_LINE {
            lines.push(std::mem::take(&mut line));
        }
        line.push(char);
    }
    lines.push(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        let mut splitter = LineSplitter::default();
        let mut lines: Vec<String> = chunks.iter().flat_map(|chunk| splitter.push(chunk)).collect();
        lines.extend(splitter.finish());
        lines
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_arrive() {
        let text = "one\n\ntwo µ\nlast".as_bytes();
        let whole = split(&[text]);
        assert_eq!(whole, ["one", "", "two µ", "last"]);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(split(&bytes), whole);
    }

    #[test]
    fn bytes_that_are_not_text_become_visible_characters() {
        assert_eq!(split(&[b"a\xffb\0c\r\n"]), ["a\u{fffd}b\u{2400}c\r"]);
    }

    #[test]
    fn a_long_line_is_split_between_characters_and_loses_nothing() {
        for lead in 0..4 {
            let text = "x".repeat(lead) + &"€".repeat(20_000);
            let lines = split(&[text.as_bytes(), b"\n"]);
            assert!(lines.iter().all(|line| line.len() <= LOG_LINE && !line.contains('\u{fffd}')));
            assert_eq!(lines.concat(), text);
        }
    }

    #[test]
    fn long_rubbish_is_split_by_what_it_becomes() {
        let lines = split(&[&vec![0xff; 40_000]]);
        assert!(lines.iter().all(|line| line.len() <= LOG_LINE));
        assert_eq!(lines.concat().chars().count(), 40_000);
    }

    #[test]
    fn a_line_of_exactly_the_limit_stays_one() {
        let text = "y".repeat(LOG_LINE);
        assert_eq!(split(&[text.as_bytes(), b"\nz"]), [text.as_str(), "z"]);
    }
}
