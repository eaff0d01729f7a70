//! The command line of `orca-planner` and `orca-worker`: options, environment, logging, signals.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use orca_proto::duration::Span;
use orca_proto::quantity::Bytes;
use orca_proto::spec::Role;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::settings::{read_range, role_name};
use crate::{
    Capacity, CoordinatorSettings, EgressSettings, ImageGcSettings, ImageSettings, NodeError, NodeSettings,
    PlacementSettings, PullSettings, RuntimeKind, RuntimeSettings, Secret, heartbeat,
};

/// Threads of the daemon: it waits far more than it computes.
const THREADS: usize = 2;

/// Runs containerised work from the coordinator's queue until SIGTERM, then drains. On SIGHUP it ends at once and leaves its
/// containers running; the next daemon with the same state directory goes on with them, also after a crash.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The coordinator's address
    #[arg(long, env = "ORCA_COORDINATOR", default_value = "http://127.0.0.1:7070")]
    coordinator: String,
    /// The file that holds the node's token (`orca token issue --role worker --name NAME --key FILE`, or `--role planner`, makes one)
    #[arg(long, env = "ORCA_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The node's name, unique in its namespace [default: HOSTNAME-ROLE]
    #[arg(long, env = "ORCA_NODE_NAME")]
    name: Option<String>,
    /// Attempts at once, 1 to 10000 [default: twice the number of processors]
    #[arg(long, env = "ORCA_SLOTS")]
    slots: Option<u32>,
    /// Processor cores that tasks may use in all [default: those of this machine]
    #[arg(long, env = "ORCA_CPUS")]
    cpus: Option<f64>,
    /// Memory that tasks may use in all [default: nine tenths of this machine's]
    #[arg(long, env = "ORCA_MEMORY")]
    memory: Option<Bytes>,
    /// GPUs that tasks may use, 0 to 16: the machine's first ones, by the engine's NVIDIA runtime
    #[arg(long, env = "ORCA_GPUS", default_value_t = 0)]
    gpus: u32,
    /// Take tasks of these queues only, separated by commas
    #[arg(long = "queue", env = "ORCA_QUEUES", value_delimiter = ',')]
    queues: Vec<String>,
    /// Labels for people and placement: k=v,k=v
    #[arg(long = "label", env = "ORCA_NODE_LABELS", value_delimiter = ',')]
    labels: Vec<String>,
    /// The directory of the node's files; one daemon each
    #[arg(long, env = "ORCA_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// What runs the containers; `process` isolates nothing
    #[arg(long, env = "ORCA_RUNTIME", default_value = "docker")]
    runtime: RuntimeKind,
    /// The engine's address [default: unix:///var/run/docker.sock]
    #[arg(long, env = "DOCKER_HOST")]
    docker_host: Option<String>,
    /// The static agent [default: orca-agent next to this program]
    #[arg(long = "agent", env = "ORCA_AGENT_BINARY")]
    agent: Option<PathBuf>,
    /// Let tasks ask for an open network
    #[arg(long, env = "ORCA_ALLOW_NETWORK", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    allow_network: bool,
    /// Reject tasks that name hosts to reach (network egress)
    #[arg(long, env = "ORCA_NO_EGRESS", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    no_egress: bool,
    /// Let tasks reach the hosts that they name in this range, too, such as 10.1.0.0/16; public addresses they always may,
    /// the coordinator and metadata services never. May be repeated, or separated by commas
    #[arg(long, value_name = "CIDR", env = "ORCA_EGRESS_ALLOW", value_delimiter = ',')]
    egress_allow: Vec<String>,
    /// How much of input artifacts to keep for later attempts
    #[arg(long, env = "ORCA_CACHE_SIZE", default_value = "10GiB")]
    cache_size: Bytes,
    /// Take no work while less than this is free where the state directory lies
    #[arg(long, env = "ORCA_MIN_DISK", default_value = "1GiB")]
    min_disk: Bytes,
    /// Run only images that look so, such as debian:* or registry.example.com/team/*; may be repeated [default: all]
    #[arg(long = "allow-image", env = "ORCA_ALLOW_IMAGES", value_delimiter = ',', value_name = "PATTERN")]
    allow_images: Vec<String>,
    /// Credentials for registries: a file as `docker login` writes it, readable by the node alone. Helpers are not run
    #[arg(long, env = "ORCA_REGISTRY_AUTH", value_name = "FILE")]
    registry_auth: Option<PathBuf>,
    /// Break off a pull when nothing moved for so long
    #[arg(long, env = "ORCA_PULL_IDLE_TIMEOUT", default_value = "2m")]
    pull_idle_timeout: Span,
    /// Give up a pull, with all its tries, after so long
    #[arg(long, env = "ORCA_PULL_TIMEOUT", default_value = "20m")]
    pull_timeout: Span,
    /// How long to ask a registry that fails again before the task goes to another node
    #[arg(long, env = "ORCA_PULL_PATIENCE", default_value = "5m")]
    pull_patience: Span,
    /// Remove images that this node pulled once they are unused for long or the disk gets full
    #[arg(long, env = "ORCA_IMAGE_GC", num_args = 0..=1, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    image_gc: bool,
    /// How long an image may be unused
    #[arg(long, env = "ORCA_IMAGE_MAX_AGE", default_value = "7d")]
    image_max_age: Span,
    /// Percent of the engine's disk that should be free; with less, the images unused for longest go. 0 for never
    #[arg(long, env = "ORCA_IMAGE_MIN_FREE", default_value = "10", value_name = "PERCENT")]
    image_min_free: f64,
    /// How long a shutdown waits for running attempts before it gives them back
    #[arg(long, env = "ORCA_DRAIN_TIMEOUT", default_value = "60s")]
    drain_timeout: Span,
    /// What to log, such as `info` or `orca_node=debug`
    #[arg(long, env = "ORCA_LOG", default_value = "info")]
    log: String,
    /// How to log it
    #[arg(long, env = "ORCA_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Exit with 0 if the daemon that uses the state directory renewed its leases lately, with 1 if not
    #[arg(long)]
    healthcheck: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// The whole of a node's `main`.
#[must_use]
pub fn main(role: Role) -> ExitCode {
    let arguments = Arguments::parse();
    let state_dir = arguments.state_dir.clone().unwrap_or_else(|| default_state_dir(role));
    if arguments.healthcheck {
        return if heartbeat::is_fresh(&state_dir) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Err(why) = start_logging(&arguments) {
        eprintln!("orca-{}: --log {why}", role_name(role));
        return ExitCode::from(2);
    }
    raise_open_files();
    let ended = settings(arguments, role, state_dir).and_then(|settings| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(NodeError::io("start threads for", PathBuf::from("the daemon")))?;
        runtime.block_on(async {
            let shutdown = CancellationToken::new();
            tokio::spawn(watch_signals(shutdown.clone(), settings.hand_over.clone()));
            crate::run(settings, shutdown).await
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orca-{}: {error}", role_name(role));
            ExitCode::FAILURE
        }
    }
}

fn settings(arguments: Arguments, role: Role, state_dir: PathBuf) -> Result<NodeSettings, NodeError> {
    let Some(token_file) = arguments.token_file else {
        let why = "(or ORCA_TOKEN_FILE) is needed: the file with the token that `orca token` made";
        return Err(NodeError::Setting { setting: "--token-file", why: why.to_owned() });
    };
    let token = std::fs::read_to_string(&token_file).map_err(NodeError::io("read", &token_file))?;
    let mut labels = BTreeMap::new();
    for label in arguments.labels.iter().filter(|label| !label.is_empty()) {
        let Some((key, value)) = label.split_once('=') else {
            let why = format!("has {label:?}, which is not key=value");
            return Err(NodeError::Setting { setting: "--label", why });
        };
        labels.insert(key.to_owned(), value.to_owned());
    }
    let ranges = arguments.egress_allow.iter().filter(|range| !range.is_empty()).map(|range| {
        let wrong =
            |why| NodeError::Setting { setting: "--egress-allow", why: format!("has {range:?}: {why}") };
        read_range(range).map_err(wrong)
    });
    let allow = ranges.collect::<Result<_, _>>()?;
    let machine = Capacity::of_this_machine();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(NodeSettings {
        role,
        coordinator: CoordinatorSettings { url: arguments.coordinator, token: Secret::new(token.trim()) },
        placement: PlacementSettings {
            name: arguments.name.unwrap_or_else(|| default_name(role)),
            slots: arguments.slots.unwrap_or_else(|| u32::try_from(processors * 2).unwrap_or(2)),
            queues: arguments.queues.into_iter().filter(|queue| !queue.is_empty()).collect(),
            labels,
            gpus: arguments.gpus,
            capacity: Some(Capacity {
                cpus: arguments.cpus.unwrap_or(machine.cpus),
                memory: arguments.memory.map_or(machine.memory, |memory| memory.0),
            }),
        },
        runtime: RuntimeSettings {
            kind: arguments.runtime,
            docker_host: arguments.docker_host.filter(|host| !host.is_empty()),
            agent: arguments.agent,
            allow_network: arguments.allow_network,
            cache_bytes: arguments.cache_size.0,
            min_disk: arguments.min_disk.0,
        },
        egress: EgressSettings { forbidden: arguments.no_egress, allow },
        images: ImageSettings {
            allow: arguments.allow_images.into_iter().filter(|pattern| !pattern.is_empty()).collect(),
            registry_auth: arguments.registry_auth.filter(|path| !path.as_os_str().is_empty()),
            pull: PullSettings {
                idle: arguments.pull_idle_timeout.get(),
                total: arguments.pull_timeout.get(),
                patience: arguments.pull_patience.get(),
            },
            gc: arguments.image_gc.then_some(ImageGcSettings {
                max_age: arguments.image_max_age.get(),
                min_free: arguments.image_min_free / 100.0,
                ..ImageGcSettings::default()
            }),
        },
        state_dir,
        drain_timeout: arguments.drain_timeout.get(),
        hurry: CancellationToken::new(),
        hand_over: CancellationToken::new(),
    })
}

fn default_name(role: Role) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    format!("{}-{}", host.chars().map(safe).take(100).collect::<String>(), role_name(role))
}

fn default_state_dir(role: Role) -> PathBuf {
    let base = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/lib")
    } else {
        let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
        std::env::var_os("XDG_STATE_HOME").map_or_else(|| home.join(".local/state"), PathBuf::from)
    };
    base.join("orca").join(role_name(role))
}

fn start_logging(arguments: &Arguments) -> Result<(), String> {
    let filter = EnvFilter::try_new(&arguments.log).map_err(|error| format!("is not a filter: {error}"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|error| error.to_string())
}

/// Takes as many file descriptors as there are to have: containers can make a node hold some dozens each.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The first signal drains; the second ends the process at once, and the next start goes on with what is left.
async fn watch_signals(shutdown: CancellationToken, hand_over: CancellationToken) {
    let listen = |kind| signal(kind);
    let (Ok(mut term), Ok(mut int), Ok(mut hangup)) =
        (listen(SignalKind::terminate()), listen(SignalKind::interrupt()), listen(SignalKind::hangup()))
    else {
        tracing::error!("cannot listen for signals; only SIGKILL will end this node");
        return;
    };
    for first in [true, false] {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hangup.recv() => {
                hand_over.cancel();
                return;
            }
        }
        if !first {
            break;
        }
        tracing::info!("draining; send the signal again to stop at once");
        shutdown.cancel();
        // A signal that is sent to the whole process group often arrives twice.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    std::process::exit(130);
}
