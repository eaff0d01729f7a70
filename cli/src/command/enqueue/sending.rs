//! How far an enqueueing has come, for whoever interrupts it or gets no answer.

use std::cell::Cell;

use orca_proto::ids::TaskId;

use super::EnqueueArgs;
use crate::error::{Exit, Failure};

/// Whether the coordinator has the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Certainly not.
    Before,
    /// That is not known.
    Asked,
    /// It has answered.
    Answered,
}

/// One enqueueing. Tasks from a file have a key of their own: a repeat would send the very same, so it can be made harmless.
/// What flags say need not be the same a second time: artifacts are stored anew, and a deadline may count from now.
pub(super) struct Sending {
    phase: Cell<Phase>,
    key: Option<String>,
    /// The key is ours: nobody knows it unless it is told.
    own_key: bool,
}

impl Sending {
    /// Nothing is sent yet.
    pub(super) fn new(args: &EnqueueArgs) -> Self {
        let given = args.idempotency_key.clone();
        let own_key = given.is_none() && args.file.is_some();
        let key = if own_key { Some(format!("orca-{}", TaskId::new())) } else { given };
        Self { phase: Cell::new(Phase::Before), key, own_key }
    }

    /// The idempotency key to send.
    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Notes that `call` is under way, and what is known when it has ended.
    pub(super) async fn during<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.phase.set(Phase::Asked);
        let answer = call.await;
        if answer.is_ok() {
            self.phase.set(Phase::Answered);
        }
        answer
    }

    /// What Ctrl-C leaves.
    pub(super) fn interrupted(&self) -> String {
        let text = match (self.phase.get(), &self.key) {
            (Phase::Before, _) => "nothing was enqueued".to_owned(),
            (Phase::Asked, Some(key)) => format!(
                "it may have been enqueued; the same command with --idempotency-key {key} makes sure, and enqueues \
                 nothing twice"
            ),
            (Phase::Asked, None) => "it may have been enqueued; `orca ls` shows it then".to_owned(),
            (Phase::Answered, _) => {
                "what was enqueued goes on; `orca wait ID` waits for it, `orca cancel ID` ends it".to_owned()
            }
        };
        format!("interrupted: {text}")
    }

    /// Adds the key to a failure that leaves open whether the tasks were enqueued.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        match &self.key {
            Some(key)
                if self.own_key
                    && self.phase.get() == Phase::Asked
                    && failure.exit() == Exit::Unreachable =>
            {
                failure.also(format!("a repeat with --idempotency-key {key} enqueues nothing twice"))
            }
            _ => failure,
        }
    }
}
