//! `orca schedule`: tasks that are enqueued again and again.

mod show;

use std::collections::HashSet;
use std::path::PathBuf;

use jiff::Timestamp;
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::plan::Enqueued;
use orca_proto::queue::Pause;
use orca_proto::schedule::{Backfill, Overlap, ScheduleSpec};

use super::enqueue::file::read_one;
use super::enqueue::{PolicyArgs, TaskArgs, not_valid, upload};
use super::{confirm, moment};
use crate::error::{Exit, Failure};
use crate::output::{Output, count, escape};

/// Runs that are enqueued at once without a question.
const UNASKED: u64 = 100;

/// Enqueue tasks again and again, by a cron expression
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Make a schedule, or give the one of that name another spec
    ///
    /// Examples:
    ///   orca schedule set nightly --cron '0 3 * * *' --timezone Europe/Berlin my/report:2 -- --all
    ///   orca schedule set poll --cron '*/30 * * * * *' --overlap skip --jitter 5s my/poller:1
    ///   orca schedule set nightly -f nightly.yaml
    #[command(verbatim_doc_comment)]
    Set(Box<SetArgs>),
    /// List schedules
    Ls,
    /// Show a schedule and its next runs
    Get {
        /// The schedule
        name: String,
    },
    /// Remove a schedule; what it has enqueued stays
    Rm {
        /// The schedule
        name: String,
    },
    /// Let it enqueue nothing
    Pause {
        /// The schedule
        name: String,
        /// Why, for whoever looks later
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let it enqueue again; missed runs are made up as far as its catch-up time says
    Resume {
        /// The schedule
        name: String,
    },
    /// Enqueue its task now, besides its runs; prints the id
    Run {
        /// The schedule
        name: String,
    },
    /// Enqueue the runs of a window that has passed, oldest first; prints the ids
    ///
    /// Whether they were enqueued before does not matter: the same window again makes the runs again.
    ///
    /// Example:
    ///   orca schedule backfill nightly --from 2026-01-01T00:00:00Z --to 2026-01-08T00:00:00Z
    #[command(verbatim_doc_comment)]
    Backfill {
        /// The schedule
        name: String,
        /// From this instant (RFC 3339) on, or from so long ago, such as 7d
        #[arg(long, value_name = "TIME", value_parser = moment::past, allow_hyphen_values = true)]
        from: Timestamp,
        /// Up to this instant (RFC 3339), or up to so long ago; now unless told
        #[arg(long, value_name = "TIME", value_parser = moment::past, allow_hyphen_values = true)]
        to: Option<Timestamp>,
        /// Do not ask, however many there are
        #[arg(long, short)]
        yes: bool,
    },
}

/// A schedule, from flags or from a file.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// Its name: letters, digits, `.`, `_`, `-`
    #[arg(value_name = "SCHEDULE")]
    schedule: String,
    #[command(flatten)]
    task: Option<TaskArgs>,
    /// File with the whole schedule ({cron: …, task: …}), in YAML or JSON; - for standard input
    #[arg(long, short, value_name = "PATH")]
    file: Option<PathBuf>,
    #[command(flatten)]
    when: Option<WhenArgs>,
    #[command(flatten)]
    policy: Option<PolicyArgs>,
}

/// When it enqueues.
#[derive(Debug, clap::Args)]
#[group(id = "WhenArgs", multiple = true)]
#[command(next_help_heading = "When")]
pub(crate) struct WhenArgs {
    /// Minute, hour, day of month, month, day of week, with seconds in front where there are six; or @hourly, @daily, …
    #[arg(long, value_name = "EXPRESSION", required_unless_present = "file")]
    cron: Option<String>,
    /// Time zone of the expression, such as Europe/Berlin; UTC unless told
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Each run comes later by a part of this
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    jitter: Option<Span>,
    /// What happens when the run before has not ended
    #[arg(long, value_enum, value_name = "WHAT")]
    overlap: Option<WhenOverlapping>,
    /// No run before this instant (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = moment::instant, allow_hyphen_values = true)]
    starting: Option<Timestamp>,
    /// No run after this instant (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = moment::instant, allow_hyphen_values = true)]
    ending: Option<Timestamp>,
    /// Runs missed by no more than this are made up; 1h unless told
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    catch_up: Option<Span>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum WhenOverlapping {
    /// This run is left out
    Skip,
    /// This run waits for the one before
    Queue,
    /// The run before is cancelled
    Replace,
}

impl ScheduleCommand {
    /// Does it. What was given is checked before anything is sent.
    pub(crate) async fn run(
        self,
        client: impl FnOnce() -> Result<Client, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        let about = |name: &str| {
            let name = name.to_owned();
            move |error| Failure::about(error, "schedule", name)
        };
        match self {
            Self::Set(args) => args.run(client, output).await?,
            Self::Ls => show::list(&client()?.schedules().await?, output)?,
            Self::Get { name } => {
                show::one(&client()?.schedule(&name).await.map_err(about(&name))?, output)?;
            }
            Self::Rm { name } => {
                client()?.remove_schedule(&name).await.map_err(about(&name))?;
                output.remark(&format!("removed {}", escape::line(&name)));
            }
            Self::Pause { name, reason } => {
                let paused = client()?.pause_schedule(&name, &Pause { reason }).await;
                show::one(&paused.map_err(about(&name))?, output)?;
            }
            Self::Resume { name } => {
                show::one(&client()?.resume_schedule(&name).await.map_err(about(&name))?, output)?;
            }
            Self::Run { name } => {
                enqueued(&client()?.run_schedule(&name).await.map_err(about(&name))?, output)?;
            }
            Self::Backfill { name, from, to, yes } => {
                let window = Backfill { from, to: to.unwrap_or_else(Timestamp::now) };
                let mut errors = Vec::new();
                window.validate(&mut errors);
                if !errors.is_empty() {
                    return Err(not_valid("the window is not valid", errors));
                }
                let client = client()?;
                if !yes && let Some(runs) = many_runs(&client, &name, &window).await {
                    let question = format!("Enqueue about {} runs of {name} at once?", count(runs));
                    confirm::agreed(&question, async || Ok(Some(question.clone())), false).await?;
                }
                let made = client.backfill_schedule(&name, &window).await;
                enqueued(&made.map_err(about(&name))?, output)?;
            }
        }
        Ok(Exit::Done)
    }
}

/// About how many runs are in a window, by how far apart the next ones are, if they are too many not to be asked about.
async fn many_runs(client: &Client, name: &str, window: &Backfill) -> Option<u64> {
    // Where this cannot be had, the order itself says why.
    let next = client.schedule(name).await.ok()?.next;
    about_how_many(&next, window).filter(|runs| *runs > UNASKED)
}

fn about_how_many(next: &[Timestamp], window: &Backfill) -> Option<u64> {
    let (first, last) = (next.first()?, next.last()?);
    let gaps = i64::try_from(next.len().checked_sub(1)?).ok()?;
    let apart = last.as_second().checked_sub(first.as_second())?.checked_div(gaps)?.max(1);
    let long = window.to.as_second().saturating_sub(window.from.as_second());
    u64::try_from(long / apart).ok()
}

fn enqueued(enqueued: &Enqueued, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(enqueued);
    }
    if enqueued.ids.is_empty() {
        output.remark("nothing to enqueue");
    }
    let mut told = HashSet::new();
    for id in enqueued.ids.iter().filter(|id| told.insert(**id)) {
        output.line(&id.to_string())?;
    }
    if let Some(remark) = merged(enqueued) {
        output.remark(&remark);
    }
    Ok(())
}

/// That not each run is a task of its own, where a unique key made several of them one, or one of a task that was there.
fn merged(enqueued: &Enqueued) -> Option<String> {
    let made: HashSet<_> = enqueued.ids.iter().filter(|id| !enqueued.existing.contains(id)).collect();
    let (runs, made) = (enqueued.ids.len(), made.len());
    (made < runs).then(|| {
        format!(
            "{} of {} made no task of their own: another holds their unique key",
            count((runs - made) as u64),
            if runs == 1 { "1 run".to_owned() } else { format!("{} runs", count(runs as u64)) }
        )
    })
}

impl SetArgs {
    async fn run(
        self,
        client: impl FnOnce() -> Result<Client, Failure>,
        output: Output,
    ) -> Result<(), Failure> {
        let (mut spec, files) = match &self.file {
            Some(path) => {
                if self.when.is_some() || self.task.is_some() || self.policy.is_some() {
                    return Err(Failure::invalid("--file takes everything about the schedule from the file")
                        .because("an image, a command or flags of the schedule or its task stand beside it")
                        .hint("put them into the file, or leave --file out"));
                }
                (read_one::<ScheduleSpec>(path)?, Vec::new())
            }
            None => self.read_flags()?,
        };
        let mut errors = Vec::new();
        spec.validate(&mut errors);
        if !errors.is_empty() {
            return Err(not_valid("the schedule is not valid", errors));
        }
        let client = client()?;
        upload::inputs(&client, files, &mut spec.task, output).await?;
        show::one(&client.set_schedule(&self.schedule, &spec).await?, output)
    }

    fn read_flags(&self) -> Result<(ScheduleSpec, Vec<super::enqueue::InputFile>), Failure> {
        let (Some(when), Some(task)) = (&self.when, &self.task) else {
            return Err(Failure::invalid("when, and which image?")
                .hint("orca schedule set NAME --cron EXPRESSION IMAGE -- COMMAND, or orca schedule set NAME -f FILE"));
        };
        let (task, files) = task.to_task(self.policy.as_ref())?;
        let mut spec = ScheduleSpec::new(when.cron.clone().unwrap_or_default(), task);
        if let Some(timezone) = &when.timezone {
            spec.timezone.clone_from(timezone);
        }
        spec.jitter = when.jitter.unwrap_or(spec.jitter);
        spec.catch_up = when.catch_up.unwrap_or(spec.catch_up);
        spec.overlap = match when.overlap {
            None | Some(WhenOverlapping::Skip) => Overlap::Skip,
            Some(WhenOverlapping::Queue) => Overlap::Queue,
            Some(WhenOverlapping::Replace) => Overlap::Replace,
        };
        spec.starting = when.starting;
        spec.ending = when.ending;
        Ok((spec, files))
    }
}

#[cfg(test)]
mod tests {
    use orca_proto::ids::TaskId;

    use super::*;

    #[test]
    fn runs_that_a_unique_key_made_one_are_counted() {
        let (one, other) = (TaskId::new(), TaskId::new());
        let told = |ids: &[TaskId], existing: &[TaskId]| {
            merged(&Enqueued { ids: ids.to_vec(), existing: existing.to_vec() })
        };
        assert_eq!(told(&[one, other], &[]), None);
        let text = "2 of 3 runs made no task of their own: another holds their unique key";
        assert_eq!(told(&[one, one, one], &[]).as_deref(), Some(text));
        let text = "1 of 1 run made no task of their own: another holds their unique key";
        assert_eq!(told(&[one], &[one]).as_deref(), Some(text));
    }

    #[test]
    fn the_runs_of_a_window_are_guessed_by_those_to_come() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let window = Backfill { from: at("2026-01-01T00:00:00Z"), to: at("2026-01-02T00:00:00Z") };
        let next = ["2099-01-01T00:00:00Z", "2099-01-01T00:05:00Z", "2099-01-01T00:10:00Z"].map(at);
        assert_eq!(about_how_many(&next, &window), Some(288));
        assert_eq!(about_how_many(&next[..1], &window), None);
        assert_eq!(about_how_many(&[], &window), None);
    }
}
