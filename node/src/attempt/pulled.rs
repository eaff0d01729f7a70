//! An attempt's image, and the words in its log while that takes long to come.
//!
//! The agent numbers its lines from 0, as if nobody had written before it. Where the node did, [`Preface`] says so, and its
//! lines are moved behind those.

use std::time::Duration;

use jiff::Timestamp;
use orca_proto::client::worker::HeldLease;
use orca_proto::duration::Span;
use orca_proto::log::{LogAppend, LogLine, Stream};
use orca_proto::node::Grant;
use orca_proto::task::Outcome;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Interrupted;
use crate::daemon::Node;
use crate::retry::a_few_times;
use crate::runtime::Image;

/// Nothing is said of an image that is there sooner, so that most attempts cost nothing.
const QUIET: Duration = Duration::from_secs(2);
/// Time between two lines.
const PERIOD: Duration = Duration::from_secs(5);
/// How long one line may be on its way.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the node may have written lines into the log before the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preface {
    /// Surely not.
    None,
    /// Some were sent; the coordinator knows how many it has.
    Some,
}

/// Makes the image ready.
///
/// # Errors
/// [`Interrupted::Unfit`].
pub(super) async fn image(
    node: &Node,
    grant: &Grant,
    lease: &HeldLease,
) -> Result<(Image, Preface), Interrupted> {
    let (news, mut heard) = watch::channel(String::new());
    let begun = Instant::now();
    let mut log = Log { node, lease, next: 0, is_lost: false };
    let mut coming = node.runtime.image(&grant.spec.container, &news);
    let mut due = begun + QUIET;
    let mut said = String::new();
    let image = loop {
        tokio::select! {
            image = &mut coming => break image?,
            () = tokio::time::sleep_until(due) => {}
        }
        let now = heard.borrow_and_update().clone();
        if !now.is_empty() && now != said {
            log.say(&now).await;
            said = now;
        }
        due = Instant::now() + PERIOD;
    };
    if log.next > 0 {
        let took = Span::secs(begun.elapsed().as_secs());
        log.say(&format!("pulled {} in {took}", grant.spec.container.image)).await;
    }
    let preface = if log.next == 0 && !log.is_lost { Preface::None } else { Preface::Some };
    Ok((image, preface))
}

/// Where in the log the agent's first line belongs.
///
/// # Errors
/// [`Interrupted::Unfit`] if the coordinator cannot be asked.
pub(super) async fn log_start(node: &Node, lease: &HeldLease, preface: Preface) -> Result<i64, Interrupted> {
    if preface == Preface::None {
        return Ok(0);
    }
    let nothing = LogAppend { lines: Vec::new() };
    let asked = a_few_times(|| node.client().append_logs(lease.lease, &nothing)).await;
    asked.map(|ack| ack.next_seq).map_err(|error| {
        let reason = format!("the node could not ask how far the log has come: {error}");
        Interrupted::Unfit(Outcome::RuntimeError { reason })
    })
}

/// The attempt's log, as long as nobody else writes to it.
struct Log<'a> {
    node: &'a Node,
    lease: &'a HeldLease,
    next: i64,
    /// One line was not acknowledged; whether it is there is not known, so there are no more.
    is_lost: bool,
}

impl Log<'_> {
    async fn say(&mut self, text: &str) {
        if self.is_lost {
            return;
        }
        let text = text.replace('\0', "\u{2400}").replace('\n', " ");
        let line = LogLine { seq: self.next, stream: Stream::System, at: Timestamp::now(), text };
        let lines = LogAppend { lines: vec![line] };
        let sent = self.node.client().append_logs(self.lease.lease, &lines);
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok(ack)) => self.next = ack.next_seq,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a line about the image was not taken");
                self.is_lost = true;
            }
            Err(_) => self.is_lost = true,
        }
    }
}
