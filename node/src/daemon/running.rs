//! The attempts of one daemon: those that it claimed, those that it took up from an earlier one, and how it leaves them to a
//! later one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use orca_proto::client::worker::{Begun, ClaimSettings, Resumed, Room, Use, WorkerError, claim};
use orca_proto::limits;
use orca_proto::node::{Grant, LeaseRef};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Node;
use crate::attempt;
use crate::attempt::resume::{self, Left};
use crate::state_dir::empty_trash;

/// Claims under way at once: one with all the room there is, one with what came free meanwhile.
const CLAIMS: usize = 2;
/// How long a hand-over waits for attempts that are being prepared or settled.
const BUSY: Duration = Duration::from_secs(60);

/// What runs.
pub(super) struct Running {
    pub(super) node: Arc<Node>,
    pub(super) room: Arc<Room>,
    pub(super) attempts: TaskTracker,
    /// Every attempt is left as it is.
    pub(super) cut: CancellationToken,
}

impl Running {
    /// Goes on with those that an earlier daemon left and whose leases stand, and removes the others.
    pub(super) fn take_up(&self, left: Vec<Left>, resumed: &Resumed) {
        let stands: HashSet<LeaseRef> = resumed.leases.iter().copied().collect();
        let with_inputs = TaskTracker::new();
        let has_inputs = left.iter().any(Left::has_inputs);
        for left in left {
            let node = Arc::clone(&self.node);
            let inputs = left.has_inputs().then(|| with_inputs.token());
            if !stands.contains(&left.lease()) {
                self.spawn(async move {
                    resume::abandon(&node, left).await;
                    drop(inputs);
                });
                continue;
            }
            let taken = self.room.take(left.uses());
            let deadline = left.deadline_in().map(|left| Instant::now() + left);
            let lease = node.member.leases().hold(left.lease(), resumed.until, deadline);
            self.spawn(async move {
                Box::pin(resume::resume(&node, left, lease)).await;
                drop((taken, inputs));
            });
        }
        if has_inputs {
            // Their containers see files of the cache of before, which lies in the trash by now.
            with_inputs.close();
            let trash = self.node.state.trash();
            self.spawn(async move {
                with_inputs.wait().await;
                std::thread::spawn(move || empty_trash(&trash));
            });
        }
    }

    /// Claims until `ending` is cancelled; each grant becomes an attempt.
    pub(super) async fn claim(&self, ending: &CancellationToken) -> Result<(), WorkerError> {
        let queues = self.node.settings.placement.queues.clone();
        let settings = ClaimSettings { batch: limits::CLAIM, in_flight: CLAIMS, queues };
        let (node, attempts, cut) = (Arc::clone(&self.node), self.attempts.clone(), self.cut.clone());
        let begin = move |begun: Vec<Begun<_>>| {
            for begun in begun {
                let lease = node.member.leases().hold(begun.lease(), begun.until, begun.deadline);
                let node = Arc::clone(&node);
                attempts.spawn(cut.clone().run_until_cancelled_owned(async move {
                    let Begun { grant, taken, .. } = begun;
                    Box::pin(attempt::run(&node, grant, lease)).await;
                    drop(taken);
                }));
            }
        };
        let uses = |grant: &Grant| Use::of(&grant.spec.resources);
        claim(&self.node.member, &self.room, &settings, ending, uses, begin).await
    }

    /// Leaves every container as it is, once no attempt is in the middle of what another daemon could not take up.
    pub(super) async fn hand_over(&self) {
        tracing::info!(running = self.attempts.len(), "handing over: what runs is left to the next daemon");
        self.node.busy.close();
        if tokio::time::timeout(BUSY, self.node.busy.wait()).await.is_err() {
            tracing::warn!("some attempts are still being prepared or settled; they may run again elsewhere");
        }
        self.cut.cancel();
        self.attempts.close();
        self.attempts.wait().await;
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.attempts.spawn(self.cut.clone().run_until_cancelled_owned(work));
    }
}
