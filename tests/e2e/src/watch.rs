//! What tests watch of a system: waits with a limit, for a condition and never for a time; logs; artifacts.

use std::time::Duration;

use futures_util::TryStreamExt;
use orca_proto::ids::{ArtifactId, TaskId};
use orca_proto::log::LogQuery;
use orca_proto::task::{State, Task};
use serde_json::Value;

use crate::system::System;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until `probe` answers, at most for `limit`.
///
/// # Panics
/// With `what` in the message, if it never does.
pub async fn eventually<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(limit, looking).await {
        Ok(found) => found,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}

impl System {
    /// The task as it is now. A coordinator that is away for a moment is asked again.
    ///
    /// # Panics
    /// If it does not answer for 10 s, or does not know the task.
    pub async fn task(&self, id: TaskId) -> Task {
        eventually("the coordinator answers", Duration::from_secs(10), async || {
            match self.client().task(id).await {
                Ok(task) => Some(task),
                Err(error) if error.is_transient() => None,
                Err(error) => panic!("task {id}: {error}"),
            }
        })
        .await
    }

    /// Waits until `wanted` holds of the task.
    ///
    /// # Panics
    /// If it does not within `limit`, or the task ends without it.
    pub async fn task_when(
        &self,
        id: TaskId,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Task) -> bool,
    ) -> Task {
        eventually(&format!("{what} (task {id})"), limit, async || {
            let task = self.task(id).await;
            if wanted(&task) {
                return Some(task);
            }
            assert!(
                !task.summary.state.is_terminal(),
                "task {id} ended as {} ({}) before: {what}",
                task.summary.state,
                task.summary.reason.as_deref().unwrap_or("no reason given")
            );
            None
        })
        .await
    }

    /// Waits until the program of the task's newest attempt was started.
    ///
    /// # Panics
    /// If it is not within 20 s.
    pub async fn started(&self, id: TaskId) -> Task {
        self.task_when(id, "its program runs", Duration::from_secs(20), |task| {
            task.summary.state == State::Running
                && task.attempts.last().is_some_and(|attempt| attempt.started_at.is_some())
        })
        .await
    }

    /// Waits until the task has ended, however it did.
    ///
    /// # Panics
    /// If it has not within `limit`.
    pub async fn ended(&self, id: TaskId, limit: Duration) -> Task {
        self.task_when(id, "it ends", limit, |task| task.summary.state.is_terminal()).await
    }

    /// Waits until the task has succeeded.
    ///
    /// # Panics
    /// If it has not within `limit`, or ends otherwise.
    pub async fn succeeded(&self, id: TaskId, limit: Duration) -> Task {
        self.task_when(id, "it succeeds", limit, |task| task.summary.state == State::Succeeded).await
    }

    /// The task's whole log so far, one text per line, as `stream: text`, with the attempt in front.
    ///
    /// # Panics
    /// If it cannot be read.
    pub async fn log(&self, id: TaskId) -> Vec<String> {
        let mut lines = Vec::new();
        let mut query = LogQuery::default();
        loop {
            let page = self.client().logs(id, &query).await.expect("the log can be read");
            lines.extend(
                page.items.iter().map(|line| format!("{} {:?} {}", line.attempt, line.stream, line.text)),
            );
            if page.next.is_none() {
                return lines;
            }
            query.cursor = page.next;
        }
    }

    /// Waits until the task's log holds a line with `text`.
    ///
    /// # Panics
    /// If it does not within 20 s.
    pub async fn logged(&self, id: TaskId, text: &str) {
        eventually(&format!("the log of {id} says {text:?}"), Duration::from_secs(20), async || {
            self.log(id).await.iter().any(|line| line.contains(text)).then_some(())
        })
        .await;
    }

    /// The content of an artifact that is JSON.
    ///
    /// # Panics
    /// If it cannot be read or is something else.
    pub async fn json(&self, id: ArtifactId) -> Value {
        let content = self.client().download(id).await.expect("the artifact is there");
        let bytes = content.try_fold(Vec::new(), async |mut all, chunk| {
            all.extend_from_slice(&chunk);
            Ok(all)
        });
        let bytes = bytes.await.expect("the artifact arrives whole");
        serde_json::from_slice(&bytes).expect("the artifact is JSON")
    }
}
