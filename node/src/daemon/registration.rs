//! Makes the daemon known to the coordinator, for as long as that takes.

use std::time::Duration;

use orca_proto::client::{Client, ClientError};
use orca_proto::ids::InstanceId;
use orca_proto::node::{Registered, Registration};

use super::Node;
use crate::NodeError;
use crate::settings::NodeSettings;

/// The longest wait between two tries.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn describe(settings: &NodeSettings, instance: InstanceId, runtime: &str) -> Registration {
    Registration {
        name: settings.placement.name.clone(),
        instance,
        role: settings.role,
        slots: settings.placement.slots,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime: runtime.to_owned(),
        labels: settings.placement.labels.clone(),
        cpus: None,
        memory: None,
    }
}

/// Registers; while the coordinator is away, tries again.
///
/// # Errors
/// [`NodeError::Refused`] if it answers that it will not have this node.
pub(super) async fn register(client: &Client, registration: &Registration) -> Result<Registered, NodeError> {
    let mut wait = Duration::from_millis(100);
    loop {
        match client.register(registration).await {
            Ok(registered) => return Ok(registered),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "cannot register yet; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(PATIENCE);
            }
            Err(error) => return Err(NodeError::Refused(error)),
        }
    }
}

/// What a failed claim or renewal asks of its loop.
pub(super) enum Next {
    /// Wait, and go on.
    Again,
    /// End the daemon.
    Stop(NodeError),
}

/// Deals with a failed claim or renewal: an unknown node registers anew, a superseded one stops, the rest is waited out.
pub(super) async fn recover(
    node: &Node,
    registration: &Registration,
    error: ClientError,
    what: &'static str,
) -> Next {
    use orca_proto::problem::Kind;
    match error.kind() {
        Some(Kind::Conflict) => Next::Stop(NodeError::Superseded { name: registration.name.clone() }),
        Some(Kind::NotFound) => {
            tracing::warn!("the coordinator does not know this node any more; registering again");
            match register(&node.client, registration).await {
                Ok(registered) => {
                    node.set_registered(registered);
                    Next::Again
                }
                Err(error) => Next::Stop(error),
            }
        }
        _ => {
            tracing::warn!(%error, "{what} failed; trying again");
            Next::Again
        }
    }
}
