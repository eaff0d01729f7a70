//! One attempt, from its grant to its report: [`prepare`], serve its [`socket`], [`watch`] it, give the [`verdict`],
//! [`settle`]. Each phase can be cut short by the end of the lease, a cancel, or the node's own shutdown. What a daemon that
//! ended in the middle of it left is taken up by [`resume`].

mod agent_socket;
mod directory;
mod disk;
mod intent;
mod prepare;
mod pulled;
mod redact;
mod relay;
pub(crate) mod resume;
mod session;
mod settle;
mod socket;
mod verdict;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use orca_proto::client::worker::HeldLease;
use orca_proto::ids::FencingToken;
use orca_proto::node::{Grant, LeaseRef};
use orca_proto::task::Outcome;

use crate::daemon::Node;
use crate::runtime::{Fault, Launch};
use prepare::Prepared;
use verdict::{Ending, Stop};

/// How much longer an engine may take to start a container once the lease is over.
const MOMENT: Duration = Duration::from_secs(5);

/// Why an attempt ended before its container could be watched.
#[derive(Debug)]
enum Interrupted {
    /// From outside.
    Stopped(Stop),
    /// By its own preparation.
    Unfit(Outcome),
}

impl From<Fault> for Interrupted {
    fn from(fault: Fault) -> Self {
        Self::Unfit(match fault {
            Fault::Rejected(reason) => Outcome::Rejected { reason },
            Fault::Engine(reason) | Fault::Silent(reason) => Outcome::RuntimeError { reason },
        })
    }
}

/// Runs one attempt. Returns once it is reported or its lease is over, and in every case nothing of it is left.
#[tracing::instrument(skip_all, fields(task = %grant.task, attempt = grant.attempt, token = %grant.token))]
pub(crate) async fn run(node: &Arc<Node>, grant: Grant, lease: Arc<HeldLease>) {
    tracing::info!(image = %grant.spec.container.image, "begins");
    let busy = node.busy.token();
    let making = prepare::make_directories(node, &grant, &lease);
    let prepared = tokio::select! {
        prepared = prepare::prepare(node, &grant, &lease, making.clone()) => prepared,
        stop = stopped(node, &lease) => Err(Interrupted::Stopped(stop)),
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(interrupted) => {
            let _made_or_not = making.await;
            return settle::unstarted(node, &lease, interrupted).await;
        }
    };
    // It holds the input, which may be large and is on disk by now.
    drop(grant);
    let Prepared { launch, attended } = prepared;
    let started = start(node, &launch, &lease).await;
    drop(busy);
    let ending = match started {
        Some(Ok(())) => Box::pin(watch::watch(node, &attended, &lease)).await,
        Some(Err(fault)) => {
            let uncertain = matches!(fault, Fault::Silent(_));
            Ending::Unstarted { fault: fault.into(), uncertain }
        }
        // Another node may run the task by now. The engine may still carry out what it was asked.
        None => Ending::Unstarted { fault: Interrupted::Stopped(Stop::LeaseOver), uncertain: true },
    };
    let _busy = node.busy.token();
    Box::pin(settle::settle(node, attended, &lease, ending)).await;
}

/// Starts the container; `None` if the lease is over and it is not known whether there is one now.
async fn start(node: &Node, launch: &Launch, lease: &HeldLease) -> Option<Result<(), Fault>> {
    let mut starting = node.runtime.start(launch);
    tokio::select! {
        started = &mut starting => Some(started),
        // A call that is broken off leaves everybody guessing, so it is given a moment to end.
        () = lease.over() => tokio::time::timeout(MOMENT, starting).await.ok(),
    }
}

/// Returns once something outside asks that an attempt end before its container is there.
async fn stopped(node: &Node, lease: &HeldLease) -> Stop {
    tokio::select! {
        biased;
        () = lease.over() => Stop::LeaseOver,
        () = lease.cancel.cancelled() => Stop::Cancelled,
        () = node.evict.cancelled() => Stop::Evicted,
        () = lease.deadline_reached() => Stop::Deadline,
    }
}

fn container_name(grant: &Grant) -> String {
    format!("orca-{}-{}-{}", grant.task, grant.attempt, grant.token)
}

/// Whose container has this name; the inverse of [`container_name`].
pub(crate) fn lease_of(name: &str) -> Option<LeaseRef> {
    let (rest, token) = name.strip_prefix("orca-")?.rsplit_once('-')?;
    let (task, _attempt) = rest.rsplit_once('-')?;
    Some(LeaseRef { task: task.parse().ok()?, token: FencingToken(token.parse().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_name_tells_its_lease() {
        let lease = LeaseRef { task: orca_proto::ids::TaskId::new(), token: FencingToken(7) };
        assert_eq!(lease_of(&format!("orca-{}-2-{}", lease.task, lease.token)), Some(lease));
        for name in ["", "orca-", "orca-1-2-3", "postgres", "orca-a-b-c-d"] {
            assert_eq!(lease_of(name), None, "{name}");
        }
    }
}
