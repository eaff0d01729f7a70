//! The survey's result: fetched, checked, and shown as a table.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use orca_proto::client::Client;
use orca_proto::ids::ArtifactId;
use orca_proto::task::{Task, TaskFilter};
use serde::{Deserialize, Serialize};

use super::watch::printable;

/// The artifact that holds the whole result.
const NAME: &str = "report.json";
/// The most that it may weigh, in bytes.
const MOST: usize = 1 << 30;

/// What `--json` writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    files: u64,
    bytes: u64,
    lines: u64,
    words: Vec<(String, u64)>,
    hashes: BTreeMap<String, String>,
}

impl Report {
    /// The report that the goal's tasks kept.
    ///
    /// # Errors
    /// If there is none, or it contradicts the goal's own result.
    pub(crate) async fn fetch(client: &Client, goal: &Task) -> Result<Self> {
        let id = Self::find(client, goal).await?;
        let mut stream = client.download(id).await.context("cannot download the report")?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.context("the download of the report broke off")?);
            if bytes.len() > MOST {
                bail!("the report is larger than {MOST} bytes");
            }
        }
        let report: Self = serde_json::from_slice(&bytes).context("cannot read the report")?;
        let said =
            goal.result.as_ref().and_then(|result| result.get("files")).and_then(serde_json::Value::as_u64);
        if said != Some(report.files) || report.hashes.len() as u64 != report.files {
            bail!(
                "the goal's result speaks of {said:?} files, the report of {} and holds {} hashes",
                report.files,
                report.hashes.len()
            );
        }
        Ok(report)
    }

    async fn find(client: &Client, goal: &Task) -> Result<ArtifactId> {
        let filter = TaskFilter {
            parent: Some(goal.summary.id),
            name: Some("total".into()),
            state: Some("succeeded".into()),
            ..TaskFilter::default()
        };
        for task in client.tasks(&filter).await?.items {
            let kept = client.artifacts(task.id).await?.items;
            if let Some(artifact) = kept.into_iter().find(|artifact| artifact.name == NAME) {
                return Ok(artifact.id);
            }
        }
        bail!("no task of the goal kept a {NAME}")
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The table for people.
    pub(crate) fn table(&self, took: Duration, tasks: i64, runtime: &str) -> String {
        let mut rows = vec![
            ("files".to_owned(), grouped(self.files)),
            ("bytes".to_owned(), grouped(self.bytes)),
            ("lines".to_owned(), grouped(self.lines)),
        ];
        let words = self.words.iter().take(10);
        rows.extend(words.map(|(word, count)| (format!("\"{}\"", printable(word)), grouped(*count))));
        rows.push(("time".to_owned(), format!("{:.1} s", took.as_secs_f64())));
        rows.push(("tasks".to_owned(), tasks.to_string()));
        rows.push(("runtime".to_owned(), runtime.to_owned()));
        let width = |text: &str| text.chars().count();
        let left = rows.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
        let right = rows.iter().map(|(_, value)| width(value)).max().unwrap_or(0);
        let mut table = format!("{:-<1$}\n", "", left + right + 3);
        for (name, value) in rows {
            let gap = " ".repeat(left + right + 3 - width(&name) - width(&value));
            table.push_str(&format!("{name}{gap}{value}\n"));
        }
        table
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three_from_the_right() {
        assert_eq!(
            ["0", "999", "1 000", "12 345 678"],
            [0, 999, 1_000, 12_345_678].map(grouped).each_ref().map(String::as_str)
        );
    }

    #[test]
    fn the_table_is_aligned_and_escapes_words() {
        let report = Report {
            files: 2,
            bytes: 1_234,
            lines: 7,
            words: vec![("a\u{1b}b".into(), 3)],
            hashes: BTreeMap::new(),
        };
        let table = report.table(Duration::from_millis(1_500), 4, "process");
        assert!(table.contains("\"a\\u{1b}b\""), "{table}");
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }
}
