//! `orca queue`: limits, rates, weights, pauses.

use orca_proto::client::{Client, ClientError};
use orca_proto::duration::Span;
use orca_proto::problem::Kind;
use orca_proto::queue::{GroupSettings, Pause, Queue, QueueSettings, Rate};

use super::argument;
use super::queues;
use super::setting::{self, Limit};
use crate::error::{Exit, Failure};
use crate::output::{Output, escape};

/// Set, pause and resume queues and their groups
#[derive(Debug, clap::Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues, or show one with its groups; the same as `orca queues`
    Ls(queues::QueuesArgs),
    /// Set limits; what is not named stays as it is
    ///
    /// Examples:
    ///   orca queue set mails --max-running 20 --rate 100/1m
    ///   orca queue set mails --group tenant-7 --weight 3 --max-running 4
    ///   orca queue set mails --rate none
    #[command(verbatim_doc_comment)]
    Set(SetArgs),
    /// Remove all settings of a queue that has no open tasks
    Rm {
        /// The queue
        queue: String,
    },
    /// Let nothing of it begin; what runs goes on
    Pause {
        #[command(flatten)]
        which: Which,
        /// Why, for whoever looks later
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let it begin again
    Resume {
        #[command(flatten)]
        which: Which,
    },
}

/// A queue, or a group inside it.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The queue
    queue: String,
    /// Only this group inside it
    #[arg(long)]
    group: Option<String>,
}

/// What to set.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    which: Which,
    /// Most tasks that run at once, or none
    #[arg(long, value_name = "N", value_parser = setting::number::<u32>, allow_hyphen_values = true)]
    max_running: Option<Limit<u32>>,
    /// Most tasks that begin in a time, such as 100/1m, or none
    #[arg(long, value_name = "RATE", value_parser = setting::rate, allow_hyphen_values = true)]
    rate: Option<Limit<Rate>>,
    /// Time in line that counts as one level of priority; 0s: none does; none: 60s again
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = setting::span,
        conflicts_with = "group",
        allow_hyphen_values = true
    )]
    ageing: Option<Limit<Span>>,
    /// The group's share against the other groups'; 1 to 1,000
    #[arg(
        long,
        value_name = "N",
        value_parser = argument::number::<u32>,
        requires = "group",
        allow_hyphen_values = true
    )]
    weight: Option<u32>,
}

impl QueueCommand {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        match self {
            Self::Ls(args) => return args.run(client, output).await,
            Self::Set(args) => args.run(client, output).await?,
            Self::Rm { queue } => {
                client.remove_queue(&queue).await.map_err(|error| nowhere(error, "queue", &queue))?;
                output.remark(&format!("removed the settings of {}", escape::line(&queue)));
            }
            Self::Pause { which, reason } => {
                let pause = Pause { reason };
                match &which.group {
                    Some(group) => show_group(client.pause_group(&which.queue, group, &pause).await, output)?,
                    None => show(&client.pause_queue(&which.queue, &pause).await?, output)?,
                }
            }
            Self::Resume { which } => match &which.group {
                Some(group) => {
                    let resumed = client.resume_group(&which.queue, group).await;
                    let name = format!("{group} of queue {}", which.queue);
                    show_group(resumed.map_err(|error| nowhere(error, "group", &name)), output)?;
                }
                None => {
                    let resumed = client.resume_queue(&which.queue).await;
                    let resumed = resumed.map_err(|error| nowhere(error, "queue", &which.queue))?;
                    queues::show(&resumed, output)?;
                }
            },
        }
        Ok(Exit::Done)
    }
}

/// That there is no such queue or group. One is there once it was set, paused, or a task named it.
fn nowhere(error: ClientError, thing: &str, name: &str) -> Failure {
    let missing = error.kind() == Some(Kind::NotFound);
    let failure = Failure::about(error, thing, name);
    if missing {
        failure.hint("`orca queue ls` lists those there are; nothing keeps tasks of any other")
    } else {
        failure
    }
}

fn show(queue: &Queue, output: Output) -> Result<(), Failure> {
    if queue.created {
        output.remark(&format!("there was no queue {}; it is made now", escape::line(&queue.name)));
    }
    queues::show(queue, output)
}

fn show_group(
    group: Result<orca_proto::queue::Group, impl Into<Failure>>,
    output: Output,
) -> Result<(), Failure> {
    let group = group.map_err(Into::into)?;
    if group.created {
        output.remark(&format!("there was no group {}; it is made now", escape::line(&group.name)));
    }
    if output.is_json() { output.json(&group) } else { queues::groups(&[group], output) }
}

impl SetArgs {
    async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let Self { which: Which { queue, group }, max_running, rate, ageing, weight } = self;
        if max_running.is_none() && rate.is_none() && ageing.is_none() && weight.is_none() {
            return Err(Failure::invalid("what is to be set?").hint(
                "--max-running, --rate, --ageing, or for a group --weight; see `orca queue set --help`",
            ));
        }
        // The whole settings are replaced, so what is there comes first.
        let found = match client.queue(&queue).await {
            Ok(found) => Some(found),
            Err(error) if error.kind() == Some(Kind::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        let mut errors = Vec::new();
        if let Some(group) = group {
            let known = found.and_then(|queue| queue.groups.into_iter().find(|known| known.name == group));
            let mut settings = known.map_or_else(GroupSettings::default, |known| known.settings);
            settings.weight = weight.unwrap_or(settings.weight);
            Limit::set(max_running, &mut settings.max_running);
            Limit::set(rate, &mut settings.rate);
            settings.validate(&mut errors);
            check(errors)?;
            return show_group(client.set_group(&queue, &group, &settings).await, output);
        }
        let mut settings = found.map_or_else(QueueSettings::default, |found| found.settings);
        Limit::set(max_running, &mut settings.max_running);
        Limit::set(rate, &mut settings.rate);
        Limit::set(ageing, &mut settings.ageing);
        settings.validate(&mut errors);
        check(errors)?;
        show(&client.set_queue(&queue, &settings).await?, output)
    }
}

fn check(errors: Vec<orca_proto::problem::FieldError>) -> Result<(), Failure> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid("the settings are not valid").fields(errors))
    }
}

#[cfg(test)]
mod tests {
    use orca_proto::problem::Problem;

    use super::*;

    #[test]
    fn a_queue_that_is_not_there_is_named_with_where_to_look() {
        let missing = ClientError::Problem(Box::new(Problem::new(Kind::NotFound, "no such thing")));
        let told = nowhere(missing, "queue", "nosuch").render();
        assert!(told.contains("there is no queue nosuch") && told.contains("orca queue ls"), "{told}");
    }
}
