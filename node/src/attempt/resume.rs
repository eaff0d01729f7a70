//! Going on with what an earlier daemon left running: its containers whose lease stands are watched again, the rest is removed.
//!
//! Nothing of an attempt is in the daemon's memory alone. What the program returned and what its agent reported is on the node's
//! disk before it is acknowledged, log lines are held by the agent until the coordinator has them, and whatever the agent
//! could not deliver it sends again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use orca_proto::client::worker::{HeldLease, Use};
use orca_proto::node::LeaseRef;

use super::directory::{Directory, private};
use super::intent::Intent;
use super::prepare::Kept;
use super::session::Given;
use super::settle::{self, remove_container, remove_files};
use super::verdict::Ending;
use super::{Interrupted, prepare, watch};
use crate::daemon::Node;
use crate::runtime::Fault;
use crate::state_dir::StateDir;

/// An attempt that an earlier daemon did not see the end of.
#[derive(Debug)]
pub(crate) struct Left {
    directory: Directory,
    intent: Intent,
}

impl Left {
    /// Its lease.
    pub(crate) const fn lease(&self) -> LeaseRef {
        self.intent.lease
    }

    /// Its container's name.
    pub(crate) fn container(&self) -> &str {
        &self.intent.container
    }

    /// What it uses besides its slot.
    pub(crate) fn uses(&self) -> Use {
        Use::of(&self.intent.resources)
    }

    /// Whether its container shows files of the cache.
    pub(crate) const fn has_inputs(&self) -> bool {
        self.intent.has_inputs
    }

    /// How long it is until the task's deadline, where it has one.
    pub(crate) fn deadline_in(&self) -> Option<Duration> {
        self.intent.deadline_in()
    }
}

/// The attempts of which a container is there, or the agent's report. Blocks.
pub(crate) fn left_behind(state: &StateDir, containers: &HashSet<String>) -> Vec<Left> {
    let mut left = Vec::new();
    for lease in state.leases() {
        let directory = Directory::of(state, lease);
        let intent = match directory.intent() {
            Ok(Some(intent)) if intent.lease == lease => intent,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(task = %lease.task, %error, "cannot read what an earlier run noted of an attempt");
                continue;
            }
        };
        if containers.contains(&intent.container) || directory.private.join(private::REPORT).exists() {
            left.push(Left { directory, intent });
        }
    }
    left
}

/// Goes on with an attempt whose lease stands. Returns once it is reported or its lease is over, and nothing of it is left.
#[tracing::instrument(skip_all, fields(task = %left.intent.brief.task, attempt = left.intent.brief.attempt, token = %left.intent.lease.token))]
pub(crate) async fn resume(node: &Arc<Node>, left: Left, lease: Arc<HeldLease>) {
    let busy = node.busy.token();
    let Left { directory, intent } = left;
    let name = intent.container.clone();
    let from = directory.clone();
    let seen = tokio::task::spawn_blocking(move || (from.started_ago(), from.staged(private::REPORT)));
    let (started_ago, report) = match seen.await {
        Ok((started_ago, Ok(report))) => (started_ago, report),
        Ok((started_ago, Err(error))) => {
            tracing::warn!(%error, "cannot read the report that an earlier run kept");
            (started_ago, None)
        }
        Err(error) => {
            tracing::error!(%error, "cannot look at what an earlier run left");
            (None, None)
        }
    };
    let ran = started_ago.unwrap_or_default();
    // A node that allows less than before lets it reach nothing from now on.
    let egress = prepare::egress(node, &intent.network).unwrap_or_default();
    let attended = async {
        // They were never on disk. Without them its output could not be kept from showing them.
        let (secrets, redactor) = prepare::secrets(node, intent.brief.has_secrets, &lease).await?;
        let given = Given { secrets, redactor, egress };
        let kept = Kept { _inputs: Vec::new(), _gpus: node.gpus.take_again(&intent.gpus) };
        prepare::attend(node, &lease, intent, given, directory, ran, kept).map_err(|error| {
            let reason = format!("the node was started again and could not go on with it: {error}");
            Interrupted::from(Fault::Engine(reason))
        })
    };
    let attended = match attended.await {
        Ok(attended) => attended,
        Err(interrupted) => {
            remove_container(node, &name, false).await;
            return settle::unstarted(node, &lease, interrupted).await;
        }
    };
    if started_ago.is_some() {
        attended.session.started.send_replace(true);
    }
    let is_over = report.is_some_and(|report| attended.session.report(report));
    // An earlier daemon may have ended between the engine's creating and its starting it.
    let begun = if is_over { Ok(()) } else { node.runtime.resume(&name).await };
    tracing::info!(ran = ?ran, reported = is_over, "goes on");
    drop(busy);
    let ending = match begun {
        Ok(()) => Box::pin(watch::watch(node, &attended, &lease)).await,
        Err(fault) => Ending::Unstarted { fault: fault.into(), uncertain: false },
    };
    let _busy = node.busy.token();
    Box::pin(settle::settle(node, attended, &lease, ending)).await;
}

/// Removes what is left of an attempt whose lease does not stand.
#[tracing::instrument(skip_all, fields(task = %left.intent.brief.task, token = %left.intent.lease.token))]
pub(crate) async fn abandon(node: &Node, left: Left) {
    tracing::info!("its lease ended while no daemon ran: removing it");
    remove_container(node, &left.intent.container, false).await;
    remove_files(left.directory).await;
}
