//! What the node writes down of an attempt before there can be a container, so that a daemon that is started again can go on
//! with it: on its own disk, where no container can reach it.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use orca_proto::agent::Brief;
use orca_proto::ids::ArtifactId;
use orca_proto::node::LeaseRef;
use orca_proto::spec::{Network, Resources};
use serde::{Deserialize, Serialize};

/// One attempt. Holds its token and its input: only the node may read it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) lease: LeaseRef,
    /// The container's name.
    pub(super) container: String,
    /// Backs the attempt's sockets.
    pub(super) token: String,
    pub(super) brief: Brief,
    /// Artifacts that it may read.
    pub(super) readable: HashSet<ArtifactId>,
    /// How long the program may go without reporting progress.
    pub(super) heartbeat: Option<Duration>,
    pub(super) resources: Resources,
    /// The numbers of the GPUs that are its own.
    pub(super) gpus: Vec<u32>,
    /// Exactly which image it runs, where that is known.
    pub(super) image: Option<String>,
    /// How many lines the node wrote into the log before the agent.
    pub(super) log_start: i64,
    pub(super) network: Network,
    /// Whether it uses files of the cache.
    pub(super) has_inputs: bool,
    /// When the task's deadline is reached, by this machine's clock.
    pub(super) deadline: Option<SystemTime>,
}

impl Intent {
    /// How long it is until the deadline, by this machine's clock; none at all once it is past.
    pub(super) fn deadline_in(&self) -> Option<Duration> {
        let left = |deadline: SystemTime| deadline.duration_since(SystemTime::now()).unwrap_or_default();
        self.deadline.map(left)
    }
}
