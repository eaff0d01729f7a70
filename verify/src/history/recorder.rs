//! Writing a history: each line in one write to a file that only grows, so that a killed process leaves whole lines.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use orca_proto::client::ClientError;

use super::line::{Answer, Call, Line, What};
use crate::clock;

/// Writes what one process sees.
#[derive(Clone)]
pub struct Recorder {
    file: Arc<File>,
    next: Arc<AtomicU64>,
}

impl Recorder {
    /// Appends to `path`, which is made where it is absent.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("cannot write the history {}", path.display()))?;
        // A process that takes up the file of a killed one must not use its numbers again.
        let first = u64::try_from(clock::micros()).unwrap_or_default() << 12;
        Ok(Self { file: Arc::new(file), next: Arc::new(AtomicU64::new(first)) })
    }

    /// Writes a line, now.
    pub fn note(&self, who: &str, what: What) {
        let line = Line { at: clock::micros(), who: who.to_owned(), what };
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        if let Err(error) = (&*self.file).write_all(&text) {
            eprintln!("the history cannot be written: {error}");
        }
    }

    /// Writes that a request is sent, runs it, and writes what came of it.
    pub async fn call<T>(
        &self,
        who: &str,
        call: Call,
        request: impl Future<Output = Result<T, ClientError>>,
        answer: impl FnOnce(&T) -> Answer,
    ) -> Result<T, ClientError> {
        let id = self.sent(who, call);
        let outcome = request.await;
        let told = match &outcome {
            Ok(value) => answer(value),
            Err(error) => refusal(error),
        };
        self.note(who, What::Answer { id, answer: told });
        outcome
    }

    /// Writes that a request is sent; answers the number for its answer.
    pub fn sent(&self, who: &str, call: Call) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.note(who, What::Call { id, call });
        id
    }
}

/// What an error of the client says in a history.
///
/// What a server or proxy answers of its own (5xx) leaves open whether the request was carried out.
#[must_use]
pub fn refusal(error: &ClientError) -> Answer {
    match error {
        ClientError::Problem(problem) if problem.status < 500 => Answer::Refused {
            status: problem.status,
            problem: problem.kind.urn().rsplit(':').next().unwrap_or_default().to_owned(),
            detail: problem.detail.clone(),
        },
        other => Answer::None { why: other.to_string() },
    }
}
