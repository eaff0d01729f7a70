//! `orca enqueue`: one task from flags, or any number from a file.

pub(super) mod file;
mod flags;
mod policy;
mod sending;
pub(super) mod upload;

use std::path::PathBuf;

use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::log::LogQuery;
use orca_proto::page::Page;
use orca_proto::plan::{Batch, validate, validate_one};
use orca_proto::problem::{FieldError, Kind, LISTED_ERRORS};
use orca_proto::{limits, spec::NewTask};

pub(super) use self::flags::{InputFile, TaskArgs};
pub(super) use self::policy::PolicyArgs;

use self::file::Tasks;
use self::sending::Sending;
use super::{interrupt, logs, wait};
use crate::error::{Exit, Failure};
use crate::output::{Output, escape};
use crate::watch;

/// Enqueue a task, a goal, or a file of tasks
///
/// Prints the new task's id. With --wait, its result instead; with --follow, its log and then its result.
///
/// Examples:
///   orca enqueue --wait debian:bookworm-slim -- sh -c 'echo hello'
///   orca enqueue --plan --input @goal.json my/planner:1
///   orca enqueue --queue mails --group tenant-7 --backoff fixed:5s --retry-exit-code 75 my/mailer:1
///   orca enqueue --require gpu=a100 --deadline 2h --unique train-17 my/trainer:3
///   orca enqueue --approval='Deploy to production?' --approval-timeout 1h my/deploy:2
///   orca enqueue -f tasks.yaml
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct EnqueueArgs {
    #[command(flatten)]
    task: Option<TaskArgs>,
    /// File with a task, a list of tasks, or {tasks: […]}, in YAML or JSON; - for standard input
    #[arg(long, short, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Makes a repeat harmless: the same key answers the same tasks
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait until it has ended, and print its result; exit code 1 if it did not succeed
    #[arg(long, short)]
    wait: bool,
    /// Print its log while waiting, then its result; implies --wait
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    policy: Option<PolicyArgs>,
}

impl EnqueueArgs {
    /// Does it. What was given is checked before anything is sent.
    pub(crate) async fn run(
        self,
        client: impl FnOnce() -> Result<Client, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        let sending = Sending::new(&self);
        let told = async || Some(sending.interrupted());
        let ended = interrupt::or_told(self.send(client, &sending, output), told, output).await;
        ended.map_err(|failure| sending.explain(failure))
    }

    async fn send(
        &self,
        client: impl FnOnce() -> Result<Client, Failure>,
        sending: &Sending,
        output: Output,
    ) -> Result<Exit, Failure> {
        if let Some(path) = &self.file {
            if self.task.is_some() || self.policy.is_some() {
                return Err(Failure::invalid("--file takes everything about the tasks from the file")
                    .because("an image, a command or a task's flags stand beside it")
                    .hint("put them into the file, or leave --file out"));
            }
            return match file::read(path)? {
                Tasks::One(task) => {
                    check(&task)?;
                    self.one(&client()?, *task, sending, output).await
                }
                Tasks::Many(tasks) => {
                    let batch = Batch { tasks };
                    if let Err(errors) = validate(&batch.tasks, limits::BATCH_TASKS) {
                        return Err(not_valid("the tasks are not valid", errors));
                    }
                    self.many(&client()?, &batch, sending, output).await
                }
            };
        }
        let Some(given) = &self.task else {
            return Err(Failure::invalid("which image?")
                .hint("orca enqueue IMAGE -- COMMAND, or orca enqueue -f FILE"));
        };
        let (mut task, files) = given.to_task(self.policy.as_ref())?;
        check(&task)?;
        let client = client()?;
        upload::inputs(&client, files, &mut task, output).await?;
        self.one(&client, task, sending, output).await
    }

    async fn one(
        &self,
        client: &Client,
        task: NewTask,
        sending: &Sending,
        output: Output,
    ) -> Result<Exit, Failure> {
        let enqueued = sending.during(client.enqueue_or_find(&task, sending.key())).await;
        let (mut task, existed) = enqueued
            .map_err(|error| Failure::from(error).instead_of(Kind::PlanInvalid, "the task is not valid"))?;
        let id = task.summary.id;
        if !existed && task.summary.state.is_terminal() {
            let why = task.summary.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            output.remark(&escape::line(&format!("it is {} already{why}", task.summary.state)));
        }
        if existed && !output.is_json() {
            output.remark("nothing was enqueued: this task has the same unique key");
        }
        if !self.wait && !self.follow {
            if output.is_json() {
                output.json(&task)?;
            } else {
                output.line(&id.to_string())?;
            }
            return Ok(Exit::Done);
        }
        if !existed && !output.is_json() {
            output.remark(&format!("enqueued {} as {id}", escape::line(&task.summary.name)));
        }
        if self.follow {
            let mut printer = logs::Printer::new(output, false);
            let query = LogQuery::default();
            let mut followed = std::pin::pin!(logs::follow(client, id, &query, &mut printer));
            let mut stall = watch::Stall::new(client, &[id]);
            loop {
                tokio::select! {
                    ended = &mut followed => break ended?,
                    sentence = stall.sentence() => output.remark(&sentence),
                }
            }
        }
        if let Some(ended) = watch::until_ended(client, &[id], None, output).await?.pop() {
            task = ended;
        }
        match (output.is_json(), self.follow) {
            // After the log's lines the task is one more.
            (true, true) => output.json_line(&task)?,
            (true, false) => output.json(&task)?,
            (false, true) => wait::report(client, &task, wait::Log::Seen, output).await?,
            (false, false) => wait::report(client, &task, wait::Log::Unseen, output).await?,
        }
        Ok(wait::exit_of(std::slice::from_ref(&task)))
    }

    async fn many(
        &self,
        client: &Client,
        batch: &Batch,
        sending: &Sending,
        output: Output,
    ) -> Result<Exit, Failure> {
        if self.follow {
            return Err(Failure::invalid("--follow shows one task's log, and the file holds a list")
                .hint("use --wait, and `orca logs -f ID` for one of them"));
        }
        let enqueued = sending.during(client.enqueue_batch(batch, sending.key())).await;
        let enqueued = enqueued
            .map_err(|error| Failure::from(error).instead_of(Kind::PlanInvalid, "the tasks are not valid"))?;
        if !enqueued.existing.is_empty() && !output.is_json() {
            output.remark(&format!(
                "{} of them were there already, by their unique keys",
                enqueued.existing.len()
            ));
        }
        if !self.wait {
            if output.is_json() {
                output.json(&enqueued)?;
            } else {
                enqueued.ids.iter().try_for_each(|id: &TaskId| output.line(&id.to_string()))?;
            }
            return Ok(Exit::Done);
        }
        let tasks = watch::until_ended(client, &enqueued.ids, None, output).await?;
        let exit = wait::exit_of(&tasks);
        if output.is_json() {
            output.json(&Page { items: tasks, next: None })?;
        } else {
            for task in &tasks {
                wait::report(client, task, wait::Log::Unseen, output).await?;
            }
        }
        Ok(exit)
    }
}

pub(super) fn check(task: &NewTask) -> Result<(), Failure> {
    validate_one(task).map(drop).map_err(|errors| not_valid("the task is not valid", errors))
}

pub(super) fn not_valid(what: &str, mut errors: Vec<FieldError>) -> Failure {
    let more = errors.len().saturating_sub(LISTED_ERRORS);
    errors.truncate(LISTED_ERRORS);
    let failure = Failure::invalid(what).fields(errors);
    if more > 0 { failure.hint(format!("{more} more are not listed")) } else { failure }
}
