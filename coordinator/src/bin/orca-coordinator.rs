//! The coordinator's daemon: reads settings, serves until SIGTERM or SIGINT, drains, and exits with 0.

use std::io::{IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use orca_coordinator::Settings;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Most of what a held claim costs is buffers of which little is ever written; this allocator leaves the rest to the system.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long a health check may take.
const HEALTHCHECK: Duration = Duration::from_secs(5);

/// Serves the Postgres-backed task queue over REST
#[derive(Parser)]
#[command(name = "orca-coordinator", version)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    log: LogSettings,
    /// Ask the coordinator on the listen address whether it is ready, and exit with 0 or 1. Needs no other setting
    #[arg(long)]
    healthcheck: bool,
}

/// What is logged, and how.
#[derive(Args)]
struct LogSettings {
    /// What is logged, such as `info` or `orca_coordinator=debug,warn`
    #[arg(long = "log", env = "ORCA_LOG", default_value = "info", value_name = "FILTER")]
    filter: String,
    /// How it is written
    #[arg(long, env = "ORCA_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The flags of a health check, so that it asks for no database.
#[derive(Parser)]
#[command(name = "orca-coordinator", ignore_errors = true)]
struct Healthcheck {
    #[arg(long)]
    healthcheck: bool,
    #[arg(long, env = "ORCA_LISTEN", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    if std::env::args_os().any(|argument| argument == "--healthcheck") {
        let check = Healthcheck::parse();
        return exit(if check.healthcheck { healthcheck(check.listen) } else { Ok(()) });
    }
    let cli = Cli::parse();
    if let Err(why) = start_log(&cli.log) {
        return exit(Err(why));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => exit(runtime.block_on(serve(cli.settings))),
        Err(error) => exit(Err(format!("cannot start the runtime: {error}"))),
    }
}

fn exit(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(settings: &LogSettings) -> Result<(), String> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|error| format!("ORCA_LOG is not a filter such as `info`: {error}"))?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match settings.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(|error| format!("cannot start the log: {error}"))
}

async fn serve(settings: Settings) -> Result<(), String> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let asked = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("going down: finishing what is in flight");
        asked.cancel();
    });
    settings.check().map_err(|error| error.to_string())?;
    let wanted = settings.server.listen;
    let listener = TcpListener::bind(wanted).await.map_err(|error| {
        format!("cannot listen on {wanted}: {error}; choose another address with --listen or ORCA_LISTEN")
    })?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    // Whoever reads the line may have gone; that is no reason to stop.
    let _ = writeln!(std::io::stdout(), "orca-coordinator listens on http://{address}");
    orca_coordinator::run(settings, listener, shutdown).await.map_err(|error| error.to_string())
}

fn healthcheck(listen: SocketAddr) -> Result<(), String> {
    let address = reachable(listen);
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, HEALTHCHECK)?;
        stream.set_read_timeout(Some(HEALTHCHECK))?;
        stream.set_write_timeout(Some(HEALTHCHECK))?;
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    };
    match ask() {
        Ok(head) if head.ends_with(" 200") => Ok(()),
        Ok(head) => Err(format!("{address} is not ready: it answered {head}")),
        Err(error) => Err(format!("{address} does not answer: {error}")),
    }
}

/// A server on every address is asked on the loopback one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
