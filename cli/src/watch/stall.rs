//! Says why a task that is waited for does not start, so that nobody waits in the dark.

use std::collections::VecDeque;
use std::time::Duration;

use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::task::State;
use orca_proto::why::Why;
use tokio::time::{Instant, sleep_until};

use crate::output::escape;

/// How long a task may take to start before anybody wonders.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked again.
const BETWEEN: Duration = Duration::from_secs(10);

/// Looks at the tasks that have not started, one at a time: the others behind it mostly wait for the same.
pub(crate) struct Stall<'a> {
    client: &'a Client,
    waiting: VecDeque<TaskId>,
    /// Whether the tasks need telling apart.
    several: bool,
    next: Instant,
    said: Option<String>,
}

impl<'a> Stall<'a> {
    /// Nothing is said of tasks that start within some seconds from now.
    pub(crate) fn new(client: &'a Client, ids: &[TaskId]) -> Self {
        Self {
            client,
            waiting: ids.iter().copied().collect(),
            several: ids.len() > 1,
            next: Instant::now() + PATIENCE,
            said: None,
        }
    }

    /// The next sentence that is news; never, once all have started. May be dropped at any point and called again.
    pub(crate) async fn sentence(&mut self) -> String {
        while let Some(id) = self.waiting.front().copied() {
            sleep_until(self.next).await;
            self.next = Instant::now() + BETWEEN;
            // Where there is no answer, whoever waits for the end says so.
            let Ok(why) = self.client.why(id).await else { continue };
            if let Some(sentence) = self.news(&why) {
                return sentence;
            }
        }
        std::future::pending().await
    }

    fn news(&mut self, why: &Why) -> Option<String> {
        if !matches!(why.state, State::Blocked | State::Scheduled | State::Ready) {
            self.waiting.pop_front();
            self.said = None;
            return None;
        }
        if self.said.as_ref() == Some(&why.summary) {
            return None;
        }
        self.said = Some(why.summary.clone());
        let which = if self.several { format!("{}: ", why.task) } else { String::new() };
        Some(format!("{which}not running yet: {}", escape::line(&why.summary)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(task: TaskId, state: State, summary: &str) -> Why {
        Why { task, state, summary: summary.into(), conditions: vec![], ahead: None, eligible_nodes: vec![] }
    }

    #[test]
    fn a_reason_is_told_once_and_again_when_it_changes() {
        let (first, second) = (TaskId::new(), TaskId::new());
        let client = Client::new("http://127.0.0.1:1", "t").unwrap();
        let mut stall = Stall::new(&client, &[first, second]);
        let told = stall.news(&why(first, State::Ready, "no node\u{1b}[2J")).unwrap();
        assert_eq!(told, format!("{first}: not running yet: no node\\x1b[2J"));
        assert_eq!(stall.news(&why(first, State::Ready, "no node\u{1b}[2J")), None);
        assert!(stall.news(&why(first, State::Ready, "the queue is paused")).is_some());
        assert_eq!(stall.news(&why(first, State::Running, "a node holds it")), None);
        assert_eq!(stall.waiting, [second]);
        assert!(stall.news(&why(second, State::Ready, "the queue is paused")).is_some());
    }
}
