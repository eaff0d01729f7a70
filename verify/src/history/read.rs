//! Reading a history: the files of all processes become one, and each request is joined to its answer.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::line::{Answer, Call, Line, What};

/// A whole history.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// All lines in the order of their times.
    pub lines: Vec<Line>,
    /// All requests in the order in which they were sent.
    pub ops: Vec<Op>,
}

/// A request and what came of it.
#[derive(Clone, Debug)]
pub struct Op {
    /// Who sent it.
    pub who: String,
    /// When it was sent.
    pub sent: i64,
    /// The position of the line that says so.
    pub sent_line: usize,
    /// The request.
    pub call: Call,
    /// When the answer was there, the position of the line that says so, and the answer. `None` if whoever sent it was
    /// killed before.
    pub answered: Option<(i64, usize, Answer)>,
}

impl Op {
    /// The answer, unless none came.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match &self.answered {
            None | Some((_, _, Answer::None { .. })) => None,
            Some((_, _, answer)) => Some(answer),
        }
    }

    /// Whether it was carried out, as far as its sender knows.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.answer().is_some_and(|answer| !matches!(answer, Answer::Refused { .. }))
    }

    /// The name of the problem it was refused with.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        match self.answer() {
            Some(Answer::Refused { problem, .. }) => Some(problem),
            _ => None,
        }
    }

    /// When the answer was there; the end of time if none came.
    #[must_use]
    pub fn received(&self) -> i64 {
        self.answered.as_ref().map_or(i64::MAX, |(at, _, _)| *at)
    }

    /// The lines about it.
    #[must_use]
    pub fn lines(&self) -> Vec<usize> {
        let mut lines = vec![self.sent_line];
        lines.extend(self.answered.as_ref().map(|(_, line, _)| *line));
        lines
    }
}

impl History {
    /// Joins requests and answers of lines that are in order.
    #[must_use]
    pub fn of(lines: Vec<Line>) -> Self {
        let mut ops: Vec<Op> = Vec::new();
        let mut open: HashMap<(&str, u64), usize> = HashMap::new();
        for (position, line) in lines.iter().enumerate() {
            match &line.what {
                What::Call { id, call } => {
                    open.insert((&line.who, *id), ops.len());
                    ops.push(Op {
                        who: line.who.clone(),
                        sent: line.at,
                        sent_line: position,
                        call: call.clone(),
                        answered: None,
                    });
                }
                What::Answer { id, answer } => {
                    if let Some(op) = open.remove(&(line.who.as_str(), *id)).and_then(|at| ops.get_mut(at)) {
                        op.answered = Some((line.at, position, answer.clone()));
                    }
                }
                _ => {}
            }
        }
        Self { lines, ops }
    }

    /// Reads a merged file.
    ///
    /// # Errors
    /// If it cannot be read, or a line of it cannot; names the line.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::of(lines(path)?))
    }
}

/// The lines of one file. A last line that its process was killed over is left out.
fn lines(path: &Path) -> Result<Vec<Line>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = Vec::new();
    let mut torn: Option<(usize, serde_json::Error)> = None;
    for (number, text) in BufReader::new(file).lines().enumerate() {
        if let Some((number, error)) = torn.take() {
            return Err(error).with_context(|| format!("{} line {}", path.display(), number + 1));
        }
        match serde_json::from_str(&text?) {
            Ok(line) => lines.push(line),
            Err(error) => torn = Some((number, error)),
        }
    }
    Ok(lines)
}

/// Writes the lines of `parts` into `whole`, in the order of their times.
///
/// # Errors
/// If a file cannot be read or written.
pub fn merge(parts: &[PathBuf], whole: &Path) -> Result<()> {
    let mut all = Vec::new();
    for part in parts {
        all.extend(lines(part)?);
    }
    // Stable: what one process wrote stays in its order.
    all.sort_by_key(|line| line.at);
    let mut file = BufWriter::new(File::create(whole)?);
    for line in &all {
        serde_json::to_writer(&mut file, line)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    Ok(())
}
