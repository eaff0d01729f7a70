//! What a node is told: one struct per concern. [`crate::arguments`] names the option and the environment variable of each.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use orca_proto::limits;
use orca_proto::spec::Role;

use crate::NodeError;
pub use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

/// Attempts that a node may run at once.
pub const MOST_SLOTS: u32 = orca_proto::client::worker::MOST_SLOTS;

/// Ranges that an operator may open.
const RANGES: usize = 256;

/// Everything that a node is told.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Planner or worker; must be what the token allows. Given by the binary.
    pub role: Role,
    /// Whom it works for.
    pub coordinator: CoordinatorSettings,
    /// What it takes.
    pub placement: PlacementSettings,
    /// How it runs it.
    pub runtime: RuntimeSettings,
    /// What its tasks may reach.
    pub egress: EgressSettings,
    /// Where it keeps its files; one daemon per directory. `--state-dir`, `ORCA_STATE_DIR`; default
    /// `/var/lib/orca/ROLE` for root, else `~/.local/state/orca/ROLE`.
    pub state_dir: PathBuf,
    /// How long a shutdown waits for running attempts before it stops them and gives them back.
    /// `--drain-timeout`, `ORCA_DRAIN_TIMEOUT`; default 60 s.
    pub drain_timeout: Duration,
    /// Once cancelled, a drain waits no longer: what still runs is stopped and given back. Never, unless the caller does.
    pub hurry: CancellationToken,
    /// Once cancelled, the daemon ends without a drain and leaves its running containers to the next one with the same state
    /// directory. SIGHUP.
    pub hand_over: CancellationToken,
}

/// Where the coordinator is and who the node is to it.
#[derive(Clone, Debug)]
pub struct CoordinatorSettings {
    /// Its address. `--coordinator`, `ORCA_COORDINATOR`; default `http://127.0.0.1:7070`.
    pub url: String,
    /// The node's token, read from `--token-file`, `ORCA_TOKEN_FILE`.
    pub token: Secret,
}

/// What the node is called and what it takes.
#[derive(Clone, Debug)]
pub struct PlacementSettings {
    /// Unique in its namespace. `--name`, `ORCA_NODE_NAME`; default `HOSTNAME-ROLE`.
    pub name: String,
    /// Attempts at once, 1 to 10,000. `--slots`, `ORCA_SLOTS`; default twice the number of processors.
    pub slots: u32,
    /// Only these queues; all when empty. `--queue`, `ORCA_QUEUES`.
    pub queues: Vec<String>,
    /// For people and placement; at most 32. `--label`, `ORCA_NODE_LABELS`.
    pub labels: BTreeMap<String, String>,
    /// What tasks may use in all; not counted when absent. `--cpus`, `ORCA_CPUS` and `--memory`, `ORCA_MEMORY`; default
    /// [`Capacity::of_this_machine`].
    pub capacity: Option<Capacity>,
}

/// What tasks may use in all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Processor cores; 0.01 to 1,000,000.
    pub cpus: f64,
    /// Memory in bytes; at least 16 MiB.
    pub memory: u64,
}

impl Capacity {
    /// The processors that this process may use, and nine tenths of the machine's memory.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let system = rustix::system::sysinfo();
        // The types of the fields differ between machines.
        let memory = u128::from(system.totalram) * u128::from(system.mem_unit) / 10 * 9;
        Self { cpus: processors as f64, memory: u64::try_from(memory).unwrap_or(u64::MAX) }
    }
}

/// What runs the containers.
#[derive(Clone, Debug)]
pub struct RuntimeSettings {
    /// `--runtime`, `ORCA_RUNTIME`; default `docker`.
    pub kind: RuntimeKind,
    /// The engine's address, such as `unix:///var/run/docker.sock` (the default). `--docker-host`, `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// The static agent. `--agent`, `ORCA_AGENT_BINARY`; default `orca-agent` next to the node's own executable.
    pub agent: Option<PathBuf>,
    /// Whether tasks may ask for `network: open`. `--allow-network`, `ORCA_ALLOW_NETWORK`; default false.
    pub allow_network: bool,
    /// Bytes of input artifacts to keep for later attempts. `--cache-size`, `ORCA_CACHE_SIZE`; default 10 GiB.
    pub cache_bytes: u64,
    /// Bytes that must be free where the state directory lies for the node to take work. `--min-disk`, `ORCA_MIN_DISK`;
    /// default 1 GiB.
    pub min_disk: u64,
}

/// What tasks that name hosts (`network: {egress: [...]}`) may reach.
#[derive(Clone, Debug, Default)]
pub struct EgressSettings {
    /// Reject every task that names hosts. `--no-egress`, `ORCA_NO_EGRESS`; default false.
    pub forbidden: bool,
    /// Ranges that such tasks may reach beside public addresses, for services of the operator's own; at most 256. What is in
    /// them is still reached only by tasks that name it. The coordinator, link-local addresses and metadata services stay closed.
    /// `--egress-allow`, `ORCA_EGRESS_ALLOW`.
    pub allow: Vec<IpNet>,
}

/// Reads a range of `--egress-allow`: CIDR, or one address.
///
/// # Errors
/// What would be right.
pub fn read_range(text: &str) -> Result<IpNet, String> {
    let one = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    let range = text.parse().or_else(|_| one());
    range.map_err(|_| "not a range of addresses such as 10.1.0.0/16 or fd12::/48, nor an address".to_owned())
}

/// The kinds of runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RuntimeKind {
    /// A Docker engine.
    Docker,
    /// Child processes of the node. Isolates nothing: for trying Orca out.
    Process,
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The role's daemon in a word: `planner` or `worker`.
#[must_use]
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Plan => "planner",
        Role::Work => "worker",
    }
}

impl NodeSettings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`NodeError::Setting`] with what would be right.
    pub fn check(&self) -> Result<(), NodeError> {
        let wrong = |setting, why: &str| Err(NodeError::Setting { setting, why: why.to_owned() });
        if !(1..=MOST_SLOTS).contains(&self.placement.slots) {
            return wrong("--slots", "must lie between 1 and 10,000");
        }
        let name = &self.placement.name;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > limits::NAME || !name.chars().all(allowed) {
            return wrong("--name", "must be 1 to 128 letters, digits or any of ._-");
        }
        if self.placement.labels.len() > limits::LABELS {
            return wrong("--label", "may be given at most 32 times");
        }
        if self.egress.allow.len() > RANGES {
            return wrong("--egress-allow", "may be given at most 256 times");
        }
        if let Some(capacity) = self.placement.capacity {
            if !(0.01..=1e6).contains(&capacity.cpus) {
                return wrong("--cpus", "must lie between 0.01 and 1,000,000");
            }
            if !(16 << 20..=i64::MAX as u64).contains(&capacity.memory) {
                return wrong("--memory", "must be at least 16MiB: no task uses less");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cidr_or_one_address() {
        for (text, range) in [
            ("10.1.0.0/16", "10.1.0.0/16"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("fd12::/48", "fd12::/48"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(read_range(text).map(|range| range.to_string()).as_deref(), Ok(range));
        }
        for wrong in ["", "10.1.0.0/33", "10.1/16", "example.com", "10.0.0.0-10.0.0.9", "fe80::1%eth0"] {
            assert!(read_range(wrong).is_err(), "{wrong}");
        }
    }
}
