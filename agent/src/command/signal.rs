//! `orca-agent signal go`, `orca-agent signal go --timeout 5m`: waits for a word from outside.

use std::time::Duration;

use clap::Args;
use hyper::Method;
use orca_proto::agent::routes;
use orca_proto::attempt::Received;
use orca_proto::duration::Span;
use tokio::time::{Instant, sleep};

use super::{VerbError, call, print, source};
use crate::attempt_dir::AttemptDir;

/// How long one request waits. Shorter than a call may take.
const HOLD: Duration = Duration::from_secs(30);
/// Between two requests: one that is going down may answer before its time.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Signal {
    /// The signal's name
    name: String,
    /// How long to wait, such as 30s or 5m; exits with 3 if none has come by then [default: as long as the task may run]
    #[arg(long)]
    timeout: Option<Span>,
}

impl Signal {
    pub(super) async fn run(self, dir: &AttemptDir) -> Result<(), VerbError> {
        if !self.name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            return Err(VerbError::Usage("a signal's name is of letters, digits and ._-".to_owned()));
        }
        let begin = Instant::now();
        loop {
            let left = self.timeout.map(|limit| limit.get().saturating_sub(begin.elapsed()));
            let wait = Span::from(left.map_or(HOLD, |left| left.min(HOLD)));
            let path = format!("{}/{}?wait={wait}", routes::SIGNALS, self.name);
            let answer = call(dir, Method::GET, &path, Vec::new()).await?;
            if !answer.is_empty() {
                let received: Received = source::parse(&answer, "an answer of this version")?;
                return print(&source::text(&received.payload)?);
            }
            if left.is_some_and(|left| left <= wait.get()) {
                let limit = self.timeout.unwrap_or_default();
                return Err(VerbError::TimedOut(format!("no signal {:?} came within {limit}", self.name)));
            }
            sleep(PAUSE).await;
        }
    }
}
