//! Counting words in a stream of bytes.
//!
//! A word is a maximal run of at least two letters (Unicode's `Alphabetic`), each lower-cased by itself. Bytes that are not
//! UTF-8 are no letters. A run of more than [`LONGEST`] bytes is no word (it is data), which also bounds memory.

use std::collections::HashMap;

/// Longest word, in bytes of its lower-case form.
const LONGEST: usize = 64;

/// Words and how often each was seen.
#[derive(Debug, Default)]
pub(crate) struct WordCounter {
    counts: HashMap<String, u64>,
    word: String,
    letters: usize,
    /// The first bytes of a character whose rest has not come yet.
    cut: Vec<u8>,
}

impl WordCounter {
    /// Takes the next bytes of a file.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.cut.is_empty() {
            self.scan(bytes);
        } else {
            let mut joined = std::mem::take(&mut self.cut);
            joined.extend_from_slice(bytes);
            self.scan(&joined);
        }
    }

    /// The file ends here; a word does not go on in the next.
    pub(crate) fn end_file(&mut self) {
        self.cut.clear();
        self.end_word();
    }

    /// All words so far.
    pub(crate) fn into_counts(mut self) -> HashMap<String, u64> {
        self.end_file();
        self.counts
    }

    fn scan(&mut self, mut bytes: &[u8]) {
        loop {
            match std::str::from_utf8(bytes) {
                Ok(text) => return self.text(text),
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    self.text(std::str::from_utf8(valid).unwrap_or_default());
                    match error.error_len() {
                        None => {
                            self.cut = rest.to_vec();
                            return;
                        }
                        Some(length) => {
                            self.end_word();
                            bytes = rest.get(length..).unwrap_or_default();
                        }
                    }
                }
            }
        }
    }

    fn text(&mut self, text: &str) {
        for char in text.chars() {
            if !char.is_alphabetic() {
                self.end_word();
            } else {
                self.letters += 1;
                if self.word.len() <= LONGEST {
                    self.word.extend(char.to_lowercase());
                }
            }
        }
    }

    fn end_word(&mut self) {
        if self.letters >= 2 && self.word.len() <= LONGEST {
            match self.counts.get_mut(&self.word) {
                Some(count) => *count += 1,
                None => {
                    self.counts.insert(self.word.clone(), 1);
                }
            }
        }
        self.word.clear();
        self.letters = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn count(chunks: &[&[u8]]) -> BTreeMap<String, u64> {
        let mut words = WordCounter::default();
        chunks.iter().for_each(|chunk| words.push(chunk));
        words.into_counts().into_iter().collect()
    }

    #[test]
    fn words_are_runs_of_letters_in_lower_case() {
        let counted = count(&["The tree, the TREE; a x1y Straße über_all".as_bytes()]);
        let expected = [("all", 1), ("straße", 1), ("the", 2), ("tree", 2), ("über", 1)];
        assert_eq!(counted, expected.map(|(word, count)| (word.to_owned(), count)).into());
    }

    #[test]
    fn how_the_bytes_arrive_does_not_matter() {
        let text = "grüße aus 東京都\u{1F600}ende".as_bytes();
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(count(&bytes), count(&[text]));
    }

    #[test]
    fn bytes_that_are_not_text_part_words() {
        assert_eq!(count(&[b"ab\xffcd\xc3"]).into_keys().collect::<Vec<_>>(), ["ab", "cd"]);
    }

    #[test]
    fn a_word_ends_with_its_file() {
        let mut words = WordCounter::default();
        words.push(b"one\xc3");
        words.end_file();
        words.push(b"two");
        assert_eq!(words.into_counts().len(), 2);
    }

    #[test]
    fn an_endless_run_of_letters_is_no_word() {
        assert!(count(&[&[b'q'; 100_000]]).is_empty());
        assert_eq!(count(&[&[b'q'; LONGEST]]).len(), 1);
    }
}
