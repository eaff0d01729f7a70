//! The renew loop: keeps every lease alive and hears of cancels, from registration to the end of the drain, idle or not.

use std::time::Duration;

use orca_proto::duration::Span;
use orca_proto::node::{Registration, RenewRequest};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::registration::{Next, recover};
use crate::{NodeError, heartbeat};

/// Two renewals are never closer than this, whatever the coordinator answers.
const GAP: Duration = Duration::from_millis(50);
/// The longest wait after a failed renewal.
const PATIENCE: Duration = Duration::from_secs(2);

/// Renews until dropped; returns only if the node must stop.
pub(super) async fn run(node: &Node, registration: &Registration, draining: &CancellationToken) -> NodeError {
    let mut wait = GAP;
    loop {
        let snapshot = node.leases.snapshot();
        let lease = node.lease();
        let sent = Instant::now();
        let hold = snapshot.hold(sent, lease);
        let told = draining.is_cancelled();
        let request = RenewRequest {
            instance: node.instance,
            leases: snapshot.leases,
            cancelling: snapshot.cancelling,
            wait: Span::from(hold),
            draining: told,
        };
        let answer = tokio::select! {
            answer = node.client.renew(node.id(), &request) => answer,
            // A held renewal does not listen for cancels of leases that came after it. One that is not held answers
            // at once, and breaking it off again and again would renew nothing.
            () = node.leases.added(), if !hold.is_zero() => {
                tokio::time::sleep(GAP).await;
                continue;
            }
            () = draining.cancelled(), if !told => continue,
        };
        match answer {
            Ok(renewed) => {
                wait = GAP;
                node.leases.renewed(sent, &request.leases, &renewed);
                heartbeat::beat(node.state.root(), renewed.lease.get());
            }
            Err(error) => {
                if let Next::Stop(error) = recover(node, registration, error, "a renewal").await {
                    return error;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(PATIENCE).min(lease / 6);
            }
        }
        tokio::time::sleep_until(sent + GAP).await;
    }
}
