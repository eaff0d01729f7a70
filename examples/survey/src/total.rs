//! `survey total`: the parts added up.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use crate::tally::Tally;
use crate::{Failure, orca};

/// Words in the report.
const WORDS: usize = 20;

/// `report.json`.
#[derive(Serialize)]
struct Report<'a> {
    files: u64,
    bytes: u64,
    lines: u64,
    words: &'a [(&'a str, u64)],
    hashes: &'a BTreeMap<String, String>,
}

/// Adds up every dependency's `part.json`, keeps `report.json`, and returns it without the hashes but with its id.
///
/// # Errors
/// When a part cannot be had, or the node does not take the artifact or the result.
pub(crate) fn run() -> Result<(), Failure> {
    let mut total = Tally::default();
    let parts = orca::dependencies()?;
    for (index, part) in parts.iter().enumerate() {
        let key = part.key.as_deref().ok_or("a dependency has no key")?;
        total.add(orca::fetch(key, "part.json")?);
        orca::progress(
            ((index + 1) * 100 / parts.len()) as u64,
            &format!("{} of {} parts", index + 1, parts.len()),
        );
    }
    let words = total.commonest(WORDS);
    let (files, bytes, lines) = (total.files, total.bytes, total.lines);
    let report = Report { files, bytes, lines, words: &words, hashes: &total.hashes };
    let id = orca::keep("report.json", &report)?;
    println!("{files} files, {bytes} bytes, {lines} lines");
    orca::set_result(&json!({"files": files, "bytes": bytes, "lines": lines, "words": words, "report": id}))
}
