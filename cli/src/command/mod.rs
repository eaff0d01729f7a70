//! The verbs, one file each.

mod artifact;
mod cancel;
mod completions;
mod enqueue;
mod get;
mod list;
mod login;
mod logs;
mod nodes;
mod profile;
mod retry;
mod token;
mod wait;

use std::str::FromStr;

use clap::Subcommand;
use orca_proto::client::Client;

use crate::connection::{ConnectionArgs, Given, connect};
use crate::dev::{self, postgres};
use crate::error::{Exit, Failure};
use crate::output::Output;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the whole system here, in this one process
    Dev(Box<dev::DevArgs>),
    /// Enqueue a task, a goal, or a file of tasks
    Enqueue(Box<enqueue::EnqueueArgs>),
    /// List tasks, newest first
    #[command(visible_alias = "list")]
    Ls(list::ListArgs),
    /// Show everything about a task
    Get(get::GetArgs),
    /// Show a task's log
    Logs(logs::LogsArgs),
    /// Wait until tasks have ended; exit code 1 if one did not succeed
    Wait(wait::WaitArgs),
    /// Cancel tasks and everything under them
    Cancel(cancel::CancelArgs),
    /// Enqueue a task that ended once more, as a new task
    Retry(retry::RetryArgs),
    /// List planner and worker nodes
    Nodes(nodes::NodesArgs),
    /// List, fetch and store files that outlive a container
    #[command(subcommand, visible_alias = "artifacts")]
    Artifact(artifact::ArtifactCommand),
    /// Make signing keys, and tokens from them
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Save a coordinator's address and token as a profile
    Login(login::LoginArgs),
    /// List, choose and remove saved profiles
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Becomes the private Postgres of `orca dev`.
    #[command(name = postgres::SUPERVISED, hide = true)]
    Postgres(postgres::SupervisedArgs),
}

/// Reads an id from the command line.
///
/// # Errors
/// What an id looks like.
fn id<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "not a whole id, such as 01a1f85d-22de-71df-8298-9126b42b20b6".to_owned())
}

impl Command {
    /// What Ctrl-C leaves going, for a command that does nothing but wait by then.
    pub(crate) fn left_going(&self) -> Option<&'static str> {
        let waits = match self {
            Self::Wait(_) => true,
            Self::Enqueue(args) => args.waits(),
            Self::Retry(args) => args.waits(),
            _ => false,
        };
        waits.then_some(
            "interrupted: what was enqueued goes on; `orca wait ID` waits for it, `orca cancel ID` ends it",
        )
    }

    /// Whether the command itself takes care of Ctrl-C.
    pub(crate) fn handles_interrupts(&self) -> bool {
        matches!(self, Self::Dev(_))
    }

    /// Does it.
    ///
    /// # Errors
    /// Any [`Failure`].
    pub(crate) async fn run(
        self,
        connection: &ConnectionArgs,
        given: Given,
        output: Output,
    ) -> Result<Exit, Failure> {
        let client = || -> Result<Client, Failure> { connect(connection, given, output) };
        match self {
            Self::Dev(args) => Box::pin(dev::run(*args, given, output)).await,
            Self::Enqueue(args) => Box::pin(args.run(client, output)).await,
            Self::Ls(args) => args.run(&client()?, output).await,
            Self::Get(args) => args.run(&client()?, output).await,
            Self::Logs(args) => args.run(&client()?, output).await,
            Self::Wait(args) => args.run(&client()?, output).await,
            Self::Cancel(args) => args.run(&client()?, output).await,
            Self::Retry(args) => args.run(&client()?, output).await,
            Self::Nodes(args) => args.run(&client()?, output).await,
            Self::Artifact(command) => command.run(&client()?, output).await,
            Self::Token(command) => command.run(output),
            Self::Login(args) => args.run(connection, output).await,
            Self::Profile(command) => command.run(output),
            Self::Completions(args) => args.run(output),
            Self::Postgres(args) => Err(args.exec()),
        }
    }
}
