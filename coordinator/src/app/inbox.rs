//! Enqueueing what came by SQL: checked as a request to the REST API is, and stored under the id that the caller was told.
//!
//! Nobody waits for an answer here. So what cannot be enqueued becomes a task that has failed, with the reason: it is never
//! lost, and never in the way of what comes after it. What its namespace has no room for now waits here until it has, and with
//! it all that the namespace enqueued later, which may depend on it.
//!
//! Namespaces take turns, each with few entries and transactions, so that what one has much of is late for it alone. Within
//! one, what was enqueued first is stored first.

use std::collections::HashMap;
use std::time::Duration;

use orca_proto::ids::TaskId;
use orca_proto::plan::{self, Graph};
use orca_proto::problem::{Kind, Problem};
use orca_proto::spec::{DEFAULT_QUEUE, NewTask, is_valid_name};
use orca_proto::strict;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::time::Instant;

use super::enqueue::take_key;
use super::gather::is_simple;
use super::graph::{Place, check_dates, prepare, refused};
use super::transaction::transaction;
use super::{App, Error, fault, quota};
use crate::db::apply::Effects;
use crate::db::inbox::{self, Entry};
use crate::db::insert;

/// Entries that are taken in one round of turns, if there are not more namespaces that have some.
const TAKEN: usize = 500;
/// Entries that every namespace may have taken in a turn.
const FEWEST: usize = 20;
/// Transactions of one turn: what cannot be stored together takes one for each entry.
const TRANSACTIONS: usize = 20;
/// Specs that are taken in one turn, in bytes.
const TAKEN_BYTES: i64 = 8 << 20;
/// That a namespace has as many open tasks as it may.
const NO_ROOM: &str = "the namespace has no room for another task";
/// The most of what is wrong that a reason tells, in bytes.
const REASON: usize = 1_000;

/// An entry that holds, as far as can be told without the database.
struct Valid {
    spec: NewTask,
    outside: Vec<TaskId>,
}

impl App {
    /// Enqueues some of the oldest that came by SQL, of each namespace that has room; answers how many entries were looked at.
    ///
    /// # Errors
    /// The database's; what was not enqueued is still there then.
    pub(crate) async fn take_inbox(&self, turns: &mut Turns) -> Result<usize, Error> {
        match self.take_round(turns).await {
            // It is taken care of.
            Err(Error::Unavailable(_)) => Ok(0),
            taken => taken,
        }
    }

    async fn take_round(&self, turns: &mut Turns) -> Result<usize, Error> {
        let mut namespaces = inbox::namespaces(&mut *self.0.pool.acquire().await?).await?;
        turns.order(&mut namespaces);
        let most = (TAKEN / namespaces.len().max(1)).max(FEWEST);
        let mut taken = 0;
        for namespace in namespaces {
            if self.0.shutdown.is_cancelled() {
                break;
            }
            // Also where it comes to an error: the others must not wait until it does no more.
            turns.last.clone_from(&namespace);
            taken += self.take_turn(&namespace, most, turns).await?;
        }
        Ok(taken)
    }

    /// Takes some of a namespace's oldest entries, in their order; answers how many were looked at.
    async fn take_turn(&self, namespace: &str, most: usize, turns: &mut Turns) -> Result<usize, Error> {
        let entries = {
            let mut connection = self.0.pool.acquire().await?;
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            // Before anything is read: what there is no room for is looked at again and again.
            let room = quota::room(&mut connection, namespace).await?.unwrap_or(most);
            if room == 0 || self.0.lines.is_full(namespace) {
                turns.add_full(namespace.to_owned());
                return Ok(0);
            }
            inbox::oldest(&mut connection, namespace, most.min(room), TAKEN_BYTES).await?
        };
        // Runs of what needs nothing but a row and a place in line are stored together, all else one by one.
        let mut run: Vec<(Entry, NewTask)> = Vec::new();
        let (mut taken, mut transactions) = (0, 0);
        for entry in entries {
            let valid = self.check(&entry);
            let simple = match &valid {
                Ok(valid) => {
                    entry.idempotency_key.is_none()
                        && valid.outside.is_empty()
                        && is_simple(&valid.spec)
                        && !self.counts_open(namespace).await?
                }
                Err(_) => false,
            };
            if !simple && !run.is_empty() {
                transactions += 1;
                if !self.store_run(std::mem::take(&mut run), turns).await? {
                    return Ok(taken);
                }
            }
            if transactions >= TRANSACTIONS || turns.is_full(namespace) {
                break;
            }
            taken += 1;
            transactions += usize::from(!simple);
            match valid {
                Ok(valid) if simple => run.push((entry, valid.spec)),
                Ok(valid) => self.store(entry, valid, turns).await?,
                Err(problem) => self.refuse(entry, None, told(&problem)).await?,
            }
        }
        self.store_run(run, turns).await?;
        Ok(taken)
    }

    fn check(&self, entry: &Entry) -> Result<Valid, Problem> {
        let spec: NewTask = strict::from_str(&entry.spec)
            .map_err(|error| Problem::validation(vec![fault::field::<NewTask>(&entry.spec, &error)]))?;
        let outside = plan::validate_one(&spec).map_err(Problem::validation)?;
        check_dates(std::slice::from_ref(&spec), self.0.clock.now(), |_| String::new())
            .map_err(|error| error.problem())?;
        Ok(Valid { spec, outside })
    }

    /// Stores entries of a namespace; answers whether all of them. Nothing that is younger may be stored before they are.
    async fn store_run(&self, run: Vec<(Entry, NewTask)>, turns: &mut Turns) -> Result<bool, Error> {
        match self.store_together(run.clone()).await {
            // One of them it is: each by itself then, as many as a turn may.
            Err(error) if is_of_data(&error) || matches!(error, Error::Refused(_)) => {
                let all = run.len() <= TRANSACTIONS;
                for (entry, spec) in run.into_iter().take(TRANSACTIONS) {
                    self.store(entry, Valid { spec, outside: Vec::new() }, turns).await?;
                }
                Ok(all)
            }
            stored => stored.map(|()| true),
        }
    }

    async fn store_together(&self, run: Vec<(Entry, NewTask)>) -> Result<(), Error> {
        let Some(namespace) = run.first().map(|(entry, _)| entry.namespace.clone()) else { return Ok(()) };
        let (entries, specs): (Vec<Entry>, Vec<NewTask>) = run.into_iter().unzip();
        self.learn_lanes(&namespace, &specs).await?;
        let app = self.clone();
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                if !inbox::lock(tx).await? {
                    return Err(busy());
                }
                let seqs: Vec<i64> = entries.iter().map(|entry| entry.seq).collect();
                // Some of them another coordinator may have taken: then all are looked at again.
                if inbox::remove(tx, &seqs).await? != seqs.len() {
                    return Err(busy());
                }
                let ids: Vec<TaskId> = entries.iter().map(|entry| TaskId(entry.id)).collect();
                let graph =
                    Graph { inside: vec![Vec::new(); ids.len()], outside: vec![Vec::new(); ids.len()] };
                let place = Place {
                    lines: &app.0.lines,
                    namespace: &namespace,
                    parent: None,
                    listed: false,
                    answered: false,
                };
                let planned = prepare(tx, &place, &ids, specs.clone(), &graph).await?;
                insert::tasks(tx, &namespace, &planned.tasks, effects).await?;
                Ok(())
            })
        })
        .await
    }

    /// Stores an entry, unless its namespace has no room for it.
    async fn store(&self, entry: Entry, valid: Valid, turns: &mut Turns) -> Result<(), Error> {
        if turns.is_full(&entry.namespace) {
            return Ok(());
        }
        let (app, spec, kept) = (self.clone(), valid.spec.clone(), entry.clone());
        let stored = self
            .spawned(async move {
                transaction!(app, |tx, effects| store_one(&app, tx, &entry, &valid, effects).await)
            })
            .await;
        match stored {
            Ok(None) => Ok(()),
            Err(Error::Unavailable(NO_ROOM)) => {
                turns.add_full(kept.namespace);
                Ok(())
            }
            // Too many kinds of tasks wait: that passes.
            Err(Error::Refused(problem))
                if problem.kind == Kind::QuotaExceeded && self.0.lines.is_full(&kept.namespace) =>
            {
                turns.add_full(kept.namespace);
                Ok(())
            }
            Ok(Some(reason)) => self.refuse(kept, Some(spec), reason).await,
            Err(Error::Refused(problem)) => {
                // What depends on things that are not there must not run without them at another try.
                let stands = !matches!(problem.kind, Kind::Validation | Kind::PlanInvalid);
                self.refuse(kept, stands.then_some(spec), told(&problem)).await
            }
            Err(error) if is_of_data(&error) => {
                let reason = "it was enqueued by SQL and cannot be stored".to_owned();
                tracing::warn!(task.id = %kept.id, %error, "a task that came by SQL cannot be stored");
                self.refuse(kept, None, reason).await
            }
            Err(error) => Err(error),
        }
    }

    /// Stores an entry that cannot be enqueued as a task that has failed.
    async fn refuse(&self, entry: Entry, spec: Option<NewTask>, reason: String) -> Result<(), Error> {
        let spec = spec.unwrap_or_else(|| placeholder(&entry.spec));
        let app = self.clone();
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                if !inbox::lock(tx).await? {
                    return Err(busy());
                }
                if inbox::remove(tx, &[entry.seq]).await? == 0 {
                    return Ok(());
                }
                let place = Place {
                    lines: &app.0.lines,
                    namespace: &entry.namespace,
                    parent: None,
                    listed: false,
                    answered: false,
                };
                let task = refused(tx, &place, TaskId(entry.id), spec.clone(), reason.clone()).await?;
                insert::tasks(tx, &entry.namespace, &[task], effects).await?;
                tracing::info!(task.id = %entry.id, reason, "a task that came by SQL was refused");
                Ok(())
            })
        })
        .await
    }
}

/// A spec in the place of one that was none: it has no image, so nobody can run it, and what was given is its input.
fn placeholder(given: &str) -> NewTask {
    let input = serde_json::from_str(given).unwrap_or_else(|_| Value::String(given.to_owned()));
    let queue = input.get("queue").and_then(Value::as_str).filter(|queue| is_valid_name(queue));
    let queue = queue.unwrap_or(DEFAULT_QUEUE).to_owned();
    let mut spec = NewTask { queue, ..NewTask::new("") };
    // What it was called by, as far as that is as it should be: by this it is looked for.
    if let Some(name) = kept(&input, "name", |spec, name| spec.name = Some(name)) {
        spec.name = name.name;
    }
    if let Some(key) = kept(&input, "key", |spec, key| spec.key = Some(key)) {
        spec.key = key.key;
    }
    if let Some(labels) = kept(&input, "labels", |spec, labels| spec.labels = labels) {
        spec.labels = labels.labels;
    }
    if spec.name.is_none() && spec.key.is_none() {
        spec.name = Some("invalid".into());
    }
    NewTask { input, ..spec }
}

/// A task with nothing but this field of what was given, where that is valid by itself.
fn kept<T: DeserializeOwned>(
    given: &Value,
    field: &str,
    set: impl FnOnce(&mut NewTask, T),
) -> Option<NewTask> {
    let value = T::deserialize(given.get(field)?).ok()?;
    let mut task = NewTask::new("image");
    set(&mut task, value);
    plan::validate_one(&task).is_ok().then_some(task)
}

/// Whether a spec is one that somebody gave, and not [`placeholder`]'s.
pub(crate) fn was_valid(spec: &NewTask) -> bool {
    !spec.container.image.is_empty()
}

/// That an order to try again names what can never be tried.
pub(crate) fn never_valid(id: TaskId) -> Error {
    Error::refused(
        Kind::Conflict,
        format!(
            "task {id} never had a valid spec; enqueue it anew, as its reason says how: what was given is its input"
        ),
    )
}

/// Whose turn it is.
#[derive(Default)]
pub(crate) struct Turns {
    /// Namespaces that had no room for more tasks, and when that was.
    full: HashMap<String, Instant>,
    /// Who had the last one.
    last: String,
}

impl Turns {
    fn add_full(&mut self, namespace: String) {
        self.full.insert(namespace, Instant::now());
    }

    fn is_full(&self, namespace: &str) -> bool {
        self.full.contains_key(namespace)
    }

    /// Leaves those out that have no room, and has those come first that come after who had the last turn.
    fn order(&self, namespaces: &mut Vec<String>) {
        namespaces.retain(|namespace| !self.is_full(namespace));
        namespaces.sort_by(|a, b| (*a <= self.last, a).cmp(&(*b <= self.last, b)));
    }

    /// Lets those be looked at again that were full some time ago.
    pub(crate) fn forget_full(&mut self, after: Duration) {
        self.full.retain(|_, since| since.elapsed() < after);
    }
}

/// That another coordinator is at the inbox. Nothing further of it may be looked at then: it may depend on what the other
/// has not stored yet.
fn busy() -> Error {
    Error::Unavailable("another coordinator takes from the inbox")
}

/// Enqueues one entry; answers why not, where it is not a new task.
async fn store_one(
    app: &App,
    tx: &mut PgConnection,
    entry: &Entry,
    valid: &Valid,
    effects: &mut Effects,
) -> Result<Option<String>, Error> {
    if !inbox::lock(tx).await? {
        return Err(busy());
    }
    if !inbox::is_there(tx, entry.seq).await? {
        return Ok(None);
    }
    let ids = [TaskId(entry.id)];
    let key = entry.idempotency_key.as_ref().map(|key| (format!("sql/{key}"), entry.request.clone()));
    if let Some(before) = take_key(tx, &entry.namespace, key.as_ref(), &ids).await? {
        let other = before.first().map(ToString::to_string).unwrap_or_default();
        return Ok(Some(format!(
            "task {other} was enqueued under the same idempotency key at the same time"
        )));
    }
    let place = Place {
        lines: &app.0.lines,
        namespace: &entry.namespace,
        parent: None,
        listed: false,
        answered: false,
    };
    let graph = Graph { inside: vec![Vec::new()], outside: vec![valid.outside.clone()] };
    let planned = prepare(tx, &place, &ids, vec![valid.spec.clone()], &graph).await?;
    if let Some(holder) = planned.existing.first() {
        return Ok(Some(format!("task {holder} holds its unique key")));
    }
    match quota::check(tx, &entry.namespace, 1, &[]).await {
        Err(Error::Refused(_)) => return Err(Error::Unavailable(NO_ROOM)),
        checked => checked?,
    }
    inbox::remove(tx, &[entry.seq]).await?;
    insert::tasks(tx, &entry.namespace, &planned.tasks, effects).await?;
    Ok(None)
}

/// Whether the database will not take it, however often it is tried.
fn is_of_data(error: &Error) -> bool {
    matches!(error, Error::Database(sqlx::Error::Database(error))
        if error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class))))
}

/// A problem in a line.
fn told(problem: &Problem) -> String {
    let fields = problem.errors.iter().map(|error| format!("{} {}", error.pointer, error.detail));
    let fields = fields.collect::<Vec<_>>().join("; ");
    let mut text = if fields.is_empty() { problem.detail.clone() } else { fields };
    let mut end = REASON.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    format!("it was enqueued by SQL and cannot run: {text}")
}
