//! Planner and worker daemons: they claim tasks from the coordinator and run each in a container.
//!
//! Layout, from the outside in:
//! - [`settings`]: what a daemon is told; [`arguments`] reads it from the command line and the environment.
//! - `daemon`: registration, the claim loop, the renew loop, the drain. Knows nothing of containers.
//! - `egress`: which hosts an attempt may reach, and the connections to them.
//! - `attempt`: one attempt from its grant to its report: prepare, serve its socket, watch, judge, settle.
//! - `files`: input artifacts, fetched once, verified, unpacked with suspicion.
//! - `runtime`: one trait over what runs containers; only `runtime::docker` knows the Docker API.
//! - `state_dir`: the daemon's directory, its lock and its identity.
//!
//! Architecture invariant: a node knows the coordinator only through `orca_proto`, and an attempt reports nothing once its
//! lease is over.

pub mod arguments;
mod attempt;
mod daemon;
mod egress;
mod error;
mod files;
mod heartbeat;
mod remove_tree;
mod retry;
mod runtime;
pub mod settings;
mod state_dir;

use tokio_util::sync::CancellationToken;

pub use error::NodeError;
pub use settings::{
    Capacity, CoordinatorSettings, EgressSettings, ImageGcSettings, ImageSettings, IpNet, NodeSettings,
    PlacementSettings, PullSettings, RuntimeKind, RuntimeSettings, Secret,
};

/// Runs a node until `shutdown` is cancelled, and then until it has drained.
///
/// # Errors
/// [`NodeError`] if the node cannot start, or if another daemon took over its name.
pub async fn run(settings: NodeSettings, shutdown: CancellationToken) -> Result<(), NodeError> {
    Box::pin(daemon::run(settings, shutdown)).await
}
