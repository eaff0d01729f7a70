//! What a node is told: one struct per concern. [`crate::arguments`] names the option and the environment variable of each.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use orca_proto::limits;
use orca_proto::spec::{Role, gpu_label};

use crate::NodeError;
pub use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

/// Attempts that a node may run at once.
pub const MOST_SLOTS: u32 = orca_proto::client::worker::MOST_SLOTS;

/// Ranges that an operator may open.
const RANGES: usize = 256;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

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
    /// Which images it runs, and how it gets and keeps them. Nothing of it counts without an engine.
    pub images: ImageSettings,
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
    /// GPUs that tasks may use, at most 16: the machine's first ones, each by one task at a time. `--gpus`, `ORCA_GPUS`; default 0.
    pub gpus: u32,
    /// What tasks may use in all; not counted when absent. `--cpus`, `ORCA_CPUS` and `--memory`, `ORCA_MEMORY`; default
    /// [`Capacity::of_this_machine`].
    pub capacity: Option<Capacity>,
}

impl PlacementSettings {
    /// The labels that the node has for the coordinator: its own, and those that tell of its GPUs.
    pub(crate) fn all_labels(&self) -> BTreeMap<String, String> {
        let gpus = (1..=self.gpus).map(|count| (gpu_label(count), "true".to_owned()));
        self.labels.clone().into_iter().chain(gpus).collect()
    }
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

/// Which images a node runs, and how it gets and keeps them.
#[derive(Clone, Debug)]
pub struct ImageSettings {
    /// Patterns of images that may be run; all when empty. `--allow-image`, `ORCA_ALLOW_IMAGES`.
    pub allow: Vec<String>,
    /// Credentials for registries, as `docker login` writes them. `--registry-auth`, `ORCA_REGISTRY_AUTH`; default none.
    pub registry_auth: Option<PathBuf>,
    /// How long pulls may take.
    pub pull: PullSettings,
    /// When images go that this node pulled; `None`: never. `--image-gc`, `ORCA_IMAGE_GC`; default on.
    pub gc: Option<ImageGcSettings>,
}

/// How long pulls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullSettings {
    /// Without any progress; 1 s to a day. `--pull-idle-timeout`, `ORCA_PULL_IDLE_TIMEOUT`; default 2 min.
    pub idle: Duration,
    /// In all, with every try; 1 s to a day. `--pull-timeout`, `ORCA_PULL_TIMEOUT`; default 20 min.
    pub total: Duration,
    /// How long a registry that fails is asked again before the attempt is given back; at most a day. `--pull-patience`,
    /// `ORCA_PULL_PATIENCE`; default 5 min.
    pub patience: Duration,
}

/// When images go that a node pulled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageGcSettings {
    /// Unused for so long. `--image-max-age`, `ORCA_IMAGE_MAX_AGE`; default 7 days.
    pub max_age: Duration,
    /// The share of the engine's disk that should be free, 0 to 1: with less, those unused for longest go first, but none
    /// that was used within `every`. 0 for never. `--image-min-free`, `ORCA_IMAGE_MIN_FREE` in percent; default 10 %.
    pub min_free: f64,
    /// Time between two looks; no option, 10 min.
    pub every: Duration,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            registry_auth: None,
            pull: PullSettings::default(),
            gc: Some(ImageGcSettings::default()),
        }
    }
}

impl Default for PullSettings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(120),
            total: Duration::from_secs(20 * 60),
            patience: Duration::from_secs(5 * 60),
        }
    }
}

impl Default for ImageGcSettings {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(7 * 86_400), min_free: 0.1, every: Duration::from_secs(600) }
    }
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
        let PullSettings { idle, total, patience } = self.images.pull;
        for (setting, span) in [("--pull-idle-timeout", idle), ("--pull-timeout", total)] {
            if !(SECOND..=DAY).contains(&span) {
                return wrong(setting, "must lie between 1s and 24h");
            }
        }
        if patience > DAY {
            return wrong("--pull-patience", "must be at most 24h");
        }
        if let Some(gc) = &self.images.gc
            && !(0.0..=1.0).contains(&gc.min_free)
        {
            return wrong("--image-min-free", "must lie between 0 and 100");
        }
        if self.placement.gpus > limits::GPUS {
            return wrong("--gpus", "must be at most 16");
        }
        if self.placement.gpus > 0 && self.runtime.kind == RuntimeKind::Process {
            return wrong("--gpus", "needs a container engine: processes have no GPU of their own");
        }
        if self.placement.all_labels().len() > limits::LABELS {
            return wrong("--label", "may be given at most 32 times, less one for each GPU");
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
