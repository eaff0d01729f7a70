//! `orca-agent`: the one static process that Orca puts into every container.
//!
//! Without arguments it is the container's entrypoint: it fetches the attempt's brief from its node, runs the task's
//! program, relays its output, and reports how it ended ([`supervise`]). With a verb it is the small command with which
//! the program talks to the node ([`command`]); any HTTP client on `$ORCA_SOCKET` can do the same.
//!
//! Exit codes of the entrypoint: 0 the report is with the node; 70 the agent could not do its work (standard error says
//! why); 75 the node was away for longer than it may be; 76 the lease was lost.
//! Exit codes of the verbs: 0 done; 1 the node refused (its reason is on standard error); 2 wrong usage, or a file that
//! cannot be read; 3 no node could be reached, or a signal did not come in time.
//!
//! Architecture invariant: the agent talks to its node over one unix socket and to nobody else (what it carries for programs goes
//! to the node, too), and holds no credential
//! but that socket's token.

mod attempt_dir;
mod command;
mod contact;
mod egress;
mod logs;
mod node_client;
mod oom;
mod reap;
mod report;
mod secrets;
mod server;
mod socket;
mod supervise;

use std::process::ExitCode;

use clap::Parser;

/// Runs a task's program and reports to its node; with a verb, talks to the node on the program's behalf.
#[derive(Parser)]
#[command(name = "orca-agent", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Option<command::Verb>,
}

const EXIT_CODES: &str = "\
Without a verb it runs the attempt that the node describes on $ORCA_DIR/node.sock.

Exit codes with a verb: 0 done; 1 refused by the node; 2 wrong usage or unreadable input; 3 no node reachable, or no signal in time.
Without: 0 reported; 70 the agent failed; 75 the node was away for too long; 76 the lease was lost.";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("orca-agent: cannot start: {error}");
            return ExitCode::from(70);
        }
    };
    let dir = attempt_dir::AttemptDir::from_env();
    let code = match cli.verb {
        Some(verb) => match runtime.block_on(verb.run(&dir)) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("orca-agent: {error}");
                error.exit_code()
            }
        },
        None => match runtime.block_on(supervise::run(dir)) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("orca-agent: {error}");
                error.exit_code()
            }
        },
    };
    // Dropping the runtime would wait for nothing of worth: whatever had to be delivered has been.
    runtime.shutdown_background();
    ExitCode::from(code)
}
