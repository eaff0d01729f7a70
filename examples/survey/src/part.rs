//! `survey part`: a range of the tree's files.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use crate::tally::Surveyor;
use crate::{Failure, orca, tree};

/// How often to say how far it is.
const PACE: Duration = Duration::from_millis(300);

#[derive(Debug, Deserialize)]
struct Input {
    first: usize,
    count: usize,
}

/// Surveys the files from `first`, keeps all about them as `part.json`, and returns the totals.
///
/// # Errors
/// When a file cannot be read, or the node does not take the artifact or the result.
pub(crate) fn run() -> Result<(), Failure> {
    let input: Input = orca::input()?;
    let root = orca::artifact_dir("tree")?;
    let files = tree::files(&root)?;
    let range = input.first..input.first.saturating_add(input.count);
    let files = files.get(range).ok_or("the tree has fewer files than were planned for")?;
    let mut surveyor = Surveyor::new();
    let mut told = Instant::now();
    for (done, file) in files.iter().enumerate() {
        if told.elapsed() >= PACE {
            let percent = done * 100 / files.len();
            orca::progress(percent as u64, &format!("{done} of {} files", files.len()));
            told = Instant::now();
        }
        surveyor
            .survey(&root, file)
            .map_err(|error| format!("cannot read {:?}: {error}", tree::name(file.as_os_str())))?;
    }
    let tally = surveyor.finish();
    orca::keep("part.json", &tally)?;
    println!("{} files, {} bytes, {} lines", tally.files, tally.bytes, tally.lines);
    orca::set_result(&json!({"files": tally.files, "bytes": tally.bytes, "lines": tally.lines}))
}
