//! The verbs, one file each.

mod argument;
mod artifact;
mod cancel;
mod census;
mod completions;
mod confirm;
mod dead;
mod decide;
mod enqueue;
mod get;
pub(crate) mod interrupt;
mod json_argument;
mod list;
mod login;
mod logs;
mod moment;
mod namespace;
mod node;
mod nodes;
mod profile;
mod queue;
mod queues;
mod retry;
mod schedule;
mod secret;
mod selection;
mod setting;
mod signal;
mod token;
mod wait;
mod why;

use std::str::FromStr;

use clap::Subcommand;
use orca_proto::client::Client;

use crate::connection::{ConnectionArgs, Given, connect};
use crate::dev::{self, postgres};
use crate::error::{Exit, Failure};
use crate::output::Output;

/// What to do. A verb's help is the comment on its arguments: a comment on its line here would take that one's place.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(Box<dev::DevArgs>),
    Enqueue(Box<enqueue::EnqueueArgs>),
    #[command(visible_alias = "list")]
    Ls(list::ListArgs),
    Get(get::GetArgs),
    Why(why::WhyArgs),
    Logs(logs::LogsArgs),
    Wait(wait::WaitArgs),
    Cancel(cancel::CancelArgs),
    Retry(retry::RetryArgs),
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// Let a task run that waits for an approval
    Approve(decide::DecideArgs),
    /// Refuse a task that waits for an approval; it ends as cancelled
    Refuse(decide::DecideArgs),
    Signal(signal::SignalArgs),
    Queues(queues::QueuesArgs),
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    #[command(subcommand, visible_alias = "schedules")]
    Schedule(schedule::ScheduleCommand),
    #[command(subcommand, visible_alias = "secrets")]
    Secret(secret::SecretCommand),
    Nodes(nodes::NodesArgs),
    #[command(subcommand)]
    Node(node::NodeCommand),
    #[command(subcommand, visible_alias = "artifacts")]
    Artifact(artifact::ArtifactCommand),
    #[command(subcommand)]
    Namespace(namespace::NamespaceCommand),
    #[command(subcommand)]
    Token(token::TokenCommand),
    Login(login::LoginArgs),
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
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
            Self::Retry(args) => args.waits(),
            _ => false,
        };
        waits.then_some(
            "interrupted: what was enqueued goes on; `orca wait ID` waits for it, `orca cancel ID` ends it",
        )
    }

    /// Whether the command itself takes care of Ctrl-C.
    pub(crate) fn handles_interrupts(&self) -> bool {
        matches!(self, Self::Dev(_) | Self::Enqueue(_) | Self::Cancel(_) | Self::Dead(_))
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
            Self::Why(args) => args.run(&client()?, output).await,
            Self::Logs(args) => args.run(&client()?, output).await,
            Self::Wait(args) => args.run(&client()?, output).await,
            Self::Cancel(args) => args.run(&client()?, output).await,
            Self::Retry(args) => args.run(&client()?, output).await,
            Self::Dead(command) => command.run(&client()?, output).await,
            Self::Approve(args) => args.run(true, &client()?, output).await,
            Self::Refuse(args) => args.run(false, &client()?, output).await,
            Self::Signal(args) => args.run(client, output).await,
            Self::Queues(args) => args.run(&client()?, output).await,
            Self::Queue(command) => command.run(&client()?, output).await,
            Self::Schedule(command) => Box::pin(command.run(client, output)).await,
            Self::Secret(command) => Box::pin(command.run(client, output)).await,
            Self::Namespace(command) => command.run(&client()?, output).await,
            Self::Nodes(args) => args.run(&client()?, output).await,
            Self::Node(command) => command.run(&client()?, output).await,
            Self::Artifact(command) => command.run(&client()?, output).await,
            Self::Token(command) => command.run(output),
            Self::Login(args) => args.run(connection, given, output).await,
            Self::Profile(command) => command.run(output),
            Self::Completions(args) => args.run(output),
            Self::Postgres(args) => Err(args.exec()),
        }
    }
}
