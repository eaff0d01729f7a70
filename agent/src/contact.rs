//! Contact with the node during an attempt: deliveries that are tried until they are answered, and a watch over how long
//! the node has been silent.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use orca_proto::agent::routes;
use orca_proto::problem::Problem;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::node_client::{CallError, NodeClient};

/// First wait between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one try may take.
const TRY: Duration = Duration::from_secs(30);

/// Contact with one attempt's node.
pub(crate) struct Contact {
    client: NodeClient,
    answered: Mutex<Instant>,
    lease_lost: watch::Sender<bool>,
}

/// Why the attempt must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The node said that the lease is lost.
    LeaseLost,
    /// The node has been silent for too long.
    Orphaned,
}

/// Why a delivery was given up.
#[derive(Debug)]
pub(crate) enum Undelivered {
    /// The lease is lost; nothing of this attempt is wanted any more.
    LeaseLost,
    /// The node will never take this.
    Refused(Box<Problem>),
}

impl Contact {
    /// Contact that has just been made.
    pub(crate) fn new(client: NodeClient) -> Self {
        Self { client, answered: Mutex::new(Instant::now()), lease_lost: watch::Sender::new(false) }
    }

    /// Sends `body` again and again until the node answers; who calls bounds that by [`Contact::until_gone`].
    ///
    /// # Errors
    /// When the node answers that it never will.
    pub(crate) async fn deliver(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, Undelivered> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.ask(method.clone(), path, body.clone(), TRY).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_lease_lost() => return Err(Undelivered::LeaseLost),
                Err(CallError::Refused(problem)) if !CallError::Refused(problem.clone()).is_passing() => {
                    return Err(Undelivered::Refused(problem));
                }
                Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Returns once the lease is lost, or the node has answered nothing for `orphan_after`. Asks for a sign of life where
    /// nothing else does.
    pub(crate) async fn until_gone(&self, orphan_after: Duration) -> Gone {
        let mut lost = self.lease_lost.subscribe();
        let often = orphan_after / 3;
        loop {
            if *lost.borrow_and_update() {
                return Gone::LeaseLost;
            }
            let silence = self.last_answer().elapsed();
            let Some(left) = orphan_after.checked_sub(silence).filter(|left| !left.is_zero()) else {
                return Gone::Orphaned;
            };
            if silence < often {
                // Woken early only by a lost lease; an answer in between just makes the next look come later.
                let _ = timeout(often - silence, lost.changed()).await;
                continue;
            }
            if self.ask(Method::GET, routes::ATTEMPT, Bytes::new(), left.min(TRY)).await.is_err() {
                let pause = (often / 4).clamp(Duration::from_millis(10), LONGEST_PAUSE).min(left);
                let _ = timeout(pause, lost.changed()).await;
            }
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let answer = self.client.call(method, path, body, limit).await;
        match &answer {
            Err(error) if error.is_lease_lost() => {
                self.lease_lost.send_replace(true);
            }
            Err(error) if error.is_passing() => return answer,
            _ => {}
        }
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        answer
    }

    fn last_answer(&self) -> Instant {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
