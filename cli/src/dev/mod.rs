//! `orca dev`: the whole system in one process: Postgres (beside it), the coordinator, a planner node, a worker node.
//!
//! Start: data directory and lock, address, keys, database, parts, profile, banner. End, in the reverse order: nodes
//! drain, the coordinator answers what it has begun, Postgres shuts down, an ephemeral directory goes.

mod banner;
mod credentials;
mod data_dir;
mod engine;
mod parts;
pub(crate) mod postgres;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use orca_node::IpNet;
use orca_node::settings::read_range;
use orca_proto::client::Client;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::banner::{Reach, Ready};
use self::credentials::Credentials;
use self::data_dir::DataDir;
use self::parts::Parts;
use self::postgres::Database;
use crate::connection::Given;
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::profile::{Profile, Profiles};
use crate::secret_file::{self, Existing};

/// The profile that is saved.
const PROFILE: &str = "dev";

/// Start the whole system here, in this one process
///
/// Uses, in this order: the Postgres that DATABASE_URL names; this machine's own Postgres binaries, as a private cluster
/// on a unix socket; a downloaded Postgres. Data survives a restart, unless --ephemeral. Ctrl-C drains and stops
/// everything; a second Ctrl-C hurries.
#[derive(Debug, clap::Args)]
pub(crate) struct DevArgs {
    /// Directory for everything that is kept [default: $XDG_DATA_HOME/orca/dev, for root /var/lib/orca/dev]
    #[arg(long, value_name = "DIR", env = "ORCA_DEV_DATA")]
    data: Option<PathBuf>,
    /// Forget everything at the end
    #[arg(long)]
    ephemeral: bool,
    /// Address to serve on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7070", env = "ORCA_LISTEN", value_parser = listen_address)]
    listen: SocketAddr,
    /// A Postgres to use instead of a private one
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// What runs the tasks; auto is docker where an engine answers, else process, which isolates nothing
    #[arg(long, value_enum, default_value_t, env = "ORCA_RUNTIME")]
    runtime: RuntimeChoice,
    /// Address of the Docker engine
    #[arg(long, value_name = "URL", env = "DOCKER_HOST")]
    docker_host: Option<String>,
    /// Attempts that each of the two nodes runs at once [default: twice the number of processors]
    #[arg(long, value_name = "N", env = "ORCA_SLOTS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: Option<u32>,
    /// Let tasks ask for an open network
    #[arg(long, env = "ORCA_ALLOW_NETWORK")]
    allow_network: bool,
    /// Let tasks reach the hosts that they name (--egress) in this range, too, such as 10.1.0.0/16; public ones they may anyway
    #[arg(long, value_name = "CIDR", env = "ORCA_EGRESS_ALLOW", value_delimiter = ',', value_parser = read_range)]
    egress_allow: Vec<IpNet>,
    /// Reject tasks that name hosts to reach
    #[arg(long, env = "ORCA_NO_EGRESS")]
    no_egress: bool,
    /// The static agent that goes into containers [default: orca-agent beside this command]
    #[arg(long, value_name = "PATH", env = "ORCA_AGENT_BINARY")]
    agent: Option<PathBuf>,
    /// Also write what is up to this file, as JSON, once it is; DATA/dev.json always is written
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Do not save a profile
    #[arg(long)]
    no_profile: bool,
    /// Say more: -v for what happens, -vv for everything (or ORCA_LOG)
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl DevArgs {
    /// The engine's address, if one is named: an empty `DOCKER_HOST` names none.
    fn docker_host(&self) -> Option<&str> {
        self.docker_host.as_deref().filter(|host| !host.is_empty())
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an IP address with a port, such as 127.0.0.1:7070 or [::1]:7070".to_owned())
}

/// What `--runtime` may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum RuntimeChoice {
    /// Docker where an engine answers, else child processes
    #[default]
    Auto,
    /// A Docker engine
    Docker,
    /// Child processes: isolates nothing
    Process,
}

/// What runs the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runtime {
    Docker,
    Process,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
        }
    }
}

/// Runs until Ctrl-C, SIGTERM or SIGHUP.
///
/// # Errors
/// A [`Failure`] if something cannot start, or a part ends by itself.
pub(crate) async fn run(args: DevArgs, given: Given, output: Output) -> Result<Exit, Failure> {
    // ORCA_DEV_DATA says where data is kept, and none is.
    if args.ephemeral && given.data {
        return Err(Failure::invalid("--ephemeral keeps nothing, and --data says where to keep it")
            .hint("leave one of them out"));
    }
    start_logging(args.verbose, output);
    let mut interrupts = Interrupts::listen()?;
    let data = if args.ephemeral { DataDir::ephemeral()? } else { DataDir::open(args.data.as_deref())? };
    let ended = in_data_dir(&args, &data, &mut interrupts, output).await;
    remove_ready_files(&args, &data);
    let closed = data.close();
    let exit = ended?;
    closed?;
    Ok(exit)
}

async fn in_data_dir(
    args: &DevArgs,
    data: &DataDir,
    interrupts: &mut Interrupts,
    output: Output,
) -> Result<Exit, Failure> {
    let listener = bind(args.listen).await?;
    let url = address_of(&listener)?;
    let credentials = Credentials::open(data.path())?;
    let runtime = choose_runtime(args, output).await?;
    let database = tokio::select! {
        database = start_database(args, data, output) => database?,
        () = interrupts.next() => return Ok(Exit::Interrupted),
    };
    let (database, ended) =
        with_database(args, data, credentials, database, listener, &url, runtime, interrupts, output).await;
    database.stop().await;
    ended
}

#[expect(clippy::too_many_arguments, reason = "one call; each is used up here")]
async fn with_database(
    args: &DevArgs,
    data: &DataDir,
    credentials: Credentials,
    mut database: Database,
    listener: TcpListener,
    url: &str,
    runtime: Runtime,
    interrupts: &mut Interrupts,
    output: Output,
) -> (Database, Result<Exit, Failure>) {
    let client = match Client::new(url, &credentials.operator) {
        Ok(client) => client,
        Err(error) => return (database, Err(error.into())),
    };
    let mut parts = Parts::start(args, data, &credentials, &database.url, listener, url, runtime);
    let lived = async {
        tokio::select! {
            up = parts.up(&client) => up?,
            () = interrupts.next() => return Ok(Exit::Interrupted),
        }
        announce(args, data, &credentials, &database, url, runtime, output).await?;
        tokio::select! {
            failure = parts.ended() => Err(failure),
            why = database.ended() => Err(Failure::new(Exit::Other, why)
                .hint(format!("its log is {}", data.path().join("postgres.log").display()))),
            () = interrupts.next() => Ok(Exit::Done),
        }
    }
    .await;
    if lived.is_ok() {
        output.remark(
            "stopping: running tasks get 10 seconds, then they go back to the queue (Ctrl-C hurries)",
        );
    }
    forget_profile(args, data, url);
    parts.stop(interrupts.next()).await;
    (database, lived)
}

/// Says that everything is up: to people, to other programs, to the next `orca` command.
async fn announce(
    args: &DevArgs,
    data: &DataDir,
    credentials: &Credentials,
    database: &Database,
    url: &str,
    runtime: Runtime,
    output: Output,
) -> Result<(), Failure> {
    let ready = Ready {
        url: url.to_owned(),
        openapi_url: format!("{url}/openapi.json"),
        pid: std::process::id(),
        token_file: credentials.operator_file.display().to_string(),
        data: data.path().display().to_string(),
        runtime: runtime.name(),
        database: database.description.clone(),
    };
    let reach = save_profile(args, url, credentials, output);
    let image = match runtime {
        Runtime::Docker => engine::suggested_image(args.docker_host()).await,
        // Any name will do, as images are ignored.
        Runtime::Process => "none",
    };
    for path in ready_files(args, data) {
        let text = serde_json::to_string(&ready).map_err(|error| {
            Failure::new(Exit::Other, "cannot write the ready file").because(error.to_string())
        })?;
        secret_file::write(&path, &text, Existing::Replace)?;
    }
    if args.ephemeral && !database.is_private() {
        output.remark("note: --ephemeral does not forget what is in the database of DATABASE_URL");
    }
    if !args.listen.ip().is_loopback() {
        output.remark("note: the API is open to the network without TLS; its tokens can be read on the way");
    }
    banner::print(output, &ready, data.is_ephemeral(), image, reach)
}

async fn start_database(args: &DevArgs, data: &DataDir, output: Output) -> Result<Database, Failure> {
    match args.database_url.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => Ok(Database::existing(url)),
        None => Database::start(data.path(), &data_dir::home()?.join("postgresql"), output).await,
    }
}

async fn choose_runtime(args: &DevArgs, output: Output) -> Result<Runtime, Failure> {
    let host = args.docker_host();
    let asked = host.unwrap_or(engine::DEFAULT_HOST);
    match args.runtime {
        RuntimeChoice::Process => Ok(Runtime::Process),
        RuntimeChoice::Auto if engine::answers(host).await => Ok(Runtime::Docker),
        RuntimeChoice::Auto => {
            output.remark(&format!("note: no Docker engine answers at {asked}"));
            Ok(Runtime::Process)
        }
        RuntimeChoice::Docker if engine::answers(host).await => Ok(Runtime::Docker),
        RuntimeChoice::Docker => Err(Failure::new(Exit::Other, "no Docker engine answers")
            .because(format!("asked at {asked}"))
            .hint("is it running, and may you use its socket? --runtime process works without, and isolates nothing")),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let failure =
            Failure::new(Exit::Other, format!("cannot serve on {address}")).because(error.to_string());
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure.hint(
                "another program, perhaps another orca dev, has it; --listen 127.0.0.1:0 takes a free port",
            ),
            _ => failure.hint("choose another address with --listen"),
        }
    })
}

/// Where the parts and people of this machine reach the listener.
fn address_of(listener: &TcpListener) -> Result<String, Failure> {
    let mut address =
        listener.local_addr().map_err(|error| Failure::file("the listener has no address", &error))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    Ok(format!("http://{address}"))
}

/// Saves the profile, unless told not to, and says how a command will reach this `orca dev`. No profile is no failure:
/// everything else works.
fn save_profile(args: &DevArgs, url: &str, credentials: &Credentials, output: Output) -> Reach {
    if args.no_profile {
        return Reach::ByFlags;
    }
    let saved = Profiles::load().and_then(|mut profiles| {
        let profile = Profile { url: url.to_owned(), token: credentials.operator.clone() };
        profiles.put(PROFILE, profile, false);
        profiles.save()?;
        Ok(profiles.current.as_deref() == Some(PROFILE))
    });
    let environment = ["ORCA_URL", "ORCA_TOKEN", "ORCA_TOKEN_FILE", "ORCA_PROFILE"];
    let overruled =
        environment.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    match saved {
        Ok(true) if !overruled => Reach::Plain,
        Ok(_) => Reach::ByProfile,
        Err(failure) => {
            output.remark(failure.render().trim_end());
            output.remark("note: no profile was saved; commands need --url and --token-file");
            Reach::ByFlags
        }
    }
}

/// Takes the profile of an ephemeral `orca dev` away again: nothing will ever answer there. Another's is left alone.
fn forget_profile(args: &DevArgs, data: &DataDir, url: &str) {
    if args.no_profile || !data.is_ephemeral() {
        return;
    }
    let forgotten = Profiles::load().and_then(|mut profiles| {
        if profiles.profiles.get(PROFILE).is_some_and(|profile| profile.url == url) {
            profiles.remove(PROFILE);
            profiles.save()?;
        }
        Ok(())
    });
    if let Err(failure) = forgotten {
        tracing::warn!("the profile could not be removed: {failure}");
    }
}

fn ready_files(args: &DevArgs, data: &DataDir) -> impl Iterator<Item = PathBuf> {
    std::iter::once(data.path().join("dev.json")).chain(args.ready_file.clone())
}

/// Whoever finds a ready file may expect something to answer.
fn remove_ready_files(args: &DevArgs, data: &DataDir) {
    for path in ready_files(args, data) {
        remove_if_ours(&path);
    }
}

fn remove_if_ours(path: &Path) {
    let pid = std::fs::read_to_string(path)
        .ok()
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .and_then(|ready| ready.get("pid")?.as_u64());
    if pid == Some(u64::from(std::process::id())) {
        // Nothing depends on it: its process is gone in a moment.
        let _ = std::fs::remove_file(path);
    }
}

fn start_logging(verbose: u8, output: Output) {
    use tracing_subscriber::EnvFilter;
    let unless_told = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("ORCA_LOG").unwrap_or_else(|_| EnvFilter::new(unless_told));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output.shows_progress() && output.is_coloured())
        .init();
}

/// The ways in which people and systems ask a program to end.
struct Interrupts {
    signals: [Signal; 3],
}

impl Interrupts {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::file("cannot listen for signals", &error));
        Ok(Self {
            signals: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ],
        })
    }

    /// Resolves at the next one.
    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
