//! What is known of a set of files: the content of `part.json`, and what parts add up to.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::tree;
use crate::words::WordCounter;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// Totals, words and hashes.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Regular files.
    pub(crate) files: u64,
    /// Their sizes.
    pub(crate) bytes: u64,
    /// Newline characters in them, as `wc -l` counts lines.
    pub(crate) lines: u64,
    /// Every word and how often.
    pub(crate) words: HashMap<String, u64>,
    /// SHA-256 of each file, by its path.
    pub(crate) hashes: BTreeMap<String, String>,
}

impl Tally {
    /// Adds `other`, which is of other files.
    pub(crate) fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.lines += other.lines;
        self.hashes.extend(other.hashes);
        for (word, count) in other.words {
            *self.words.entry(word).or_default() += count;
        }
    }

    /// The `most` commonest words, the commonest first; equally common ones by their letters.
    pub(crate) fn commonest(&self, most: usize) -> Vec<(&str, u64)> {
        let mut words: Vec<(&str, u64)> =
            self.words.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        let order = |a: &(&str, u64), b: &(&str, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0));
        if words.len() > most {
            words.select_nth_unstable_by(most, order);
            words.truncate(most);
        }
        words.sort_unstable_by(order);
        words
    }
}

/// Takes file after file.
pub(crate) struct Surveyor {
    tally: Tally,
    words: WordCounter,
    piece: Vec<u8>,
}

impl Surveyor {
    /// One that has seen nothing.
    pub(crate) fn new() -> Self {
        Self { tally: Tally::default(), words: WordCounter::default(), piece: vec![0; PIECE] }
    }

    /// Reads the file at `relative` under `root`, a piece at a time.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn survey(&mut self, root: &Path, relative: &Path) -> io::Result<()> {
        let mut file = File::open(root.join(relative))?;
        let mut hash = Sha256::new();
        loop {
            let piece = match file.read(&mut self.piece) {
                Ok(0) => break,
                Ok(count) => self.piece.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hash.update(piece);
            self.tally.bytes += piece.len() as u64;
            self.tally.lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.words.push(piece);
        }
        self.words.end_file();
        self.tally.files += 1;
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.tally.hashes.insert(tree::name(relative.as_os_str()), digest);
        Ok(())
    }

    /// What all files came to.
    pub(crate) fn finish(self) -> Tally {
        Tally { words: self.words.into_counts(), ..self.tally }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const OF_ONE_TWO: &str = "21066d108d5319ecb5a1fc4454f42ef22fc5f1c7df49c31d90294950e0ea8b2c";

    fn survey(files: &[(&str, &[u8])]) -> Tally {
        let root = tempfile::tempdir().unwrap();
        let mut surveyor = Surveyor::new();
        for (name, content) in files {
            std::fs::write(root.path().join(name), content).unwrap();
            surveyor.survey(root.path(), Path::new(name)).unwrap();
        }
        surveyor.finish()
    }

    #[test]
    fn lines_are_counted_as_wc_counts_them() {
        let tally = survey(&[
            ("empty", b""),
            ("no newline at the end", b"one\ntwo"),
            ("näme\nwith newline", b"\n\n"),
        ]);
        assert_eq!((tally.files, tally.bytes, tally.lines), (3, 9, 3));
        assert_eq!(tally.hashes["empty"], OF_NOTHING);
        assert_eq!(tally.hashes["no newline at the end"], OF_ONE_TWO);
        assert!(tally.hashes.contains_key("näme\nwith newline"));
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let [a, b] = [("a", "the cat\nthe dog\n".as_bytes()), ("b", "the end".as_bytes())];
        let mut sum = Tally::default();
        sum.add(survey(&[a]));
        sum.add(survey(&[b]));
        assert_eq!(sum, survey(&[a, b]));
        assert_eq!(sum.commonest(3), [("the", 3), ("cat", 1), ("dog", 1)]);
    }

    #[test]
    fn a_file_larger_than_a_piece_is_read_whole() {
        let content = "words and lines\n".repeat(50_000);
        let tally = survey(&[("large", content.as_bytes())]);
        assert_eq!((tally.bytes, tally.lines, tally.words["lines"]), (800_000, 50_000, 50_000));
    }
}
