//! The claim loop: asks for as much work as there are free slots, and starts an attempt per grant.

use std::sync::Arc;
use std::time::Duration;

use orca_proto::duration::Span;
use orca_proto::limits;
use orca_proto::node::{ClaimRequest, Grant, LeaseRef, Registration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Node;
use super::registration::{Next, recover};
use crate::{NodeError, attempt};

/// The longest that a claim is held.
const HOLD: Duration = Duration::from_secs(30);
/// The longest wait after a failed claim.
const PATIENCE: Duration = Duration::from_secs(5);

/// Claims until `shutdown` is cancelled (`None`) or the node must stop.
pub(super) async fn run(
    node: &Arc<Node>,
    registration: &Registration,
    attempts: &TaskTracker,
    shutdown: &CancellationToken,
) -> Option<NodeError> {
    let slots = Arc::new(Semaphore::new(registration.slots as usize));
    let mut wait = Duration::from_millis(100);
    loop {
        let first = tokio::select! {
            permit = Arc::clone(&slots).acquire_owned() => permit.ok()?,
            () = shutdown.cancelled() => return None,
        };
        let free = u32::try_from(slots.available_permits() + 1).unwrap_or(limits::CLAIM);
        let request = ClaimRequest {
            instance: node.instance,
            slots: free.min(limits::CLAIM),
            // The lease counts from when this is sent: a longer hold would eat it up.
            wait: Span::from(HOLD.min(node.lease() / 3)),
            queues: node.settings.placement.queues.clone(),
            free: None,
        };
        let sent = Instant::now();
        let claimed = tokio::select! {
            claimed = node.client.claim(node.id(), &request) => claimed,
            () = shutdown.cancelled() => return None,
        };
        let error = match claimed {
            Ok(claimed) => {
                wait = Duration::from_millis(100);
                let mut permits = Some(first);
                for grant in claimed.grants {
                    let permit = permits.take().or_else(|| Arc::clone(&slots).try_acquire_owned().ok());
                    begin(node, attempts, grant, sent, permit);
                }
                continue;
            }
            Err(error) => error,
        };
        drop(first);
        let next = tokio::select! {
            // It may have to register anew, with a coordinator that is away for long.
            next = recover(node, registration, error, "a claim") => next,
            () = shutdown.cancelled() => return None,
        };
        if let Next::Stop(error) = next {
            return Some(error);
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(PATIENCE),
            () = shutdown.cancelled() => return None,
        }
    }
}

fn begin(
    node: &Arc<Node>,
    attempts: &TaskTracker,
    grant: Grant,
    sent: Instant,
    permit: Option<OwnedSemaphorePermit>,
) {
    let lease = LeaseRef { task: grant.task, token: grant.token };
    let Some(permit) = permit else {
        // More grants than were asked for. The lease runs out and another node gets the task.
        tracing::error!(task = %grant.task, "the coordinator granted more than there are slots");
        return;
    };
    let held = node.leases.hold(lease, sent + grant.lease.get());
    let node = Arc::clone(node);
    attempts.spawn(async move {
        Box::pin(attempt::run(&node, grant, held)).await;
        drop(permit);
    });
}
