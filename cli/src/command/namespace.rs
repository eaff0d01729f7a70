//! `orca namespace`: quotas. Needs an admin's token.

use orca_proto::client::Client;
use orca_proto::namespace::{Namespace, Quota};
use orca_proto::problem::Kind;

use super::setting::{self, Limit};
use crate::error::{Exit, Failure};
use crate::output::{Output, count};

/// Show a namespace, and set how much it may hold (needs an admin's token)
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NamespaceCommand {
    /// Show what it holds and may hold
    Get {
        /// The namespace
        name: String,
    },
    /// Set its quota; what is not named stays as it is
    ///
    /// Examples:
    ///   orca namespace set team-a --max-open 100000 --max-running 50
    ///   orca namespace set team-a --max-open none
    #[command(verbatim_doc_comment)]
    Set {
        /// The namespace
        name: String,
        /// Most tasks that have not ended, or none
        #[arg(long, value_name = "N", value_parser = setting::number::<u64>, allow_hyphen_values = true)]
        max_open: Option<Limit<u64>>,
        /// Most tasks that run at once, or none
        #[arg(long, value_name = "N", value_parser = setting::number::<u32>, allow_hyphen_values = true)]
        max_running: Option<Limit<u32>>,
        /// Most queues, or none
        #[arg(long, value_name = "N", value_parser = setting::number::<u32>, allow_hyphen_values = true)]
        max_queues: Option<Limit<u32>>,
    },
}

impl NamespaceCommand {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let about = |name: &str| {
            let name = name.to_owned();
            move |error| Failure::about(error, "namespace", name)
        };
        let namespace = match self {
            Self::Get { name } => client.namespace(&name).await.map_err(about(&name))?,
            Self::Set { name, max_open, max_running, max_queues } => {
                if max_open.is_none() && max_running.is_none() && max_queues.is_none() {
                    return Err(Failure::invalid("what is to be set?")
                        .hint("--max-open, --max-running or --max-queues; `none` lifts a limit"));
                }
                // The whole quota is replaced, so what is there comes first.
                let mut quota = match client.namespace(&name).await {
                    Ok(found) => found.quota,
                    Err(error) if error.kind() == Some(Kind::NotFound) => Quota::default(),
                    Err(error) => return Err(error.into()),
                };
                Limit::set(max_open, &mut quota.max_open);
                Limit::set(max_running, &mut quota.max_running);
                Limit::set(max_queues, &mut quota.max_queues);
                let mut errors = Vec::new();
                quota.validate(&mut errors);
                if !errors.is_empty() {
                    return Err(Failure::invalid("the quota is not valid").fields(errors));
                }
                client.set_quota(&name, &quota).await.map_err(about(&name))?
            }
        };
        if output.is_json() {
            output.json(&namespace)?;
        } else {
            print(&namespace, output)?;
        }
        Ok(Exit::Done)
    }
}

fn print(namespace: &Namespace, output: Output) -> Result<(), Failure> {
    let Namespace { name, quota: Quota { max_open, max_running, max_queues }, open, running } = namespace;
    let of = |held: u64, most: Option<u64>| match most {
        Some(most) => format!("{} of {}", count(held), count(most)),
        None => format!("{} (no limit)", count(held)),
    };
    output.line(&crate::output::escape::line(name))?;
    output.line(&format!("open     {}", of(*open, *max_open)))?;
    output.line(&format!("running  {}", of(*running, max_running.map(u64::from))))?;
    let queues = max_queues
        .map_or_else(|| "no limit".to_owned(), |most| format!("at most {}", count(u64::from(most))));
    output.line(&format!("queues   {queues}"))
}
