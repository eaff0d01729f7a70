//! Dead letters: looked at, tried again, taken off the list.
//!
//! Orders for many are carried out in many transactions. What is tried again leaves the list in the transaction that enqueues
//! the new task, so an order that was cut off is made good by giving it again.

use jiff::Timestamp;
use orca_proto::dead_letter::DeadLetterFilter;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::page::Page;
use orca_proto::plan::{Enqueued, Graph};
use orca_proto::problem::Kind;
use orca_proto::selector::{Affected, Selector};
use orca_proto::spec::NewTask;
use orca_proto::task::TaskSummary;
use sqlx::PgConnection;
use uuid::Uuid;

use super::check::Check;
use super::enqueue::operator_key;
use super::graph::{Place, prepare_again};
use super::inbox::{never_valid, was_valid};
use super::task::PAGE;
use super::transaction::transaction;
use super::{App, Error, Principal, quota};
use crate::db::apply::Effects;
use crate::db::dead_letter;
use crate::db::selection::{self, Wanted};
use crate::db::{dependency, from_json, idempotency, insert, session, task};

/// The most that one order tries again.
const MOST: i64 = 100_000;
/// What one transaction tries again: tasks, and bytes of their specs.
const CHUNK: (i64, i64) = (500, 16 << 20);
/// What one transaction takes off the list.
const PURGE: u64 = 5_000;

/// An order to try dead letters again.
#[derive(Clone)]
struct Order {
    namespace: String,
    wanted: Wanted,
    key: Option<(String, Vec<u8>)>,
    /// No newer ones: else what fails again at once were tried for ever.
    upto: Uuid,
}

/// What one transaction did of it.
enum Step {
    /// It went so far.
    Went { upto: Uuid, enqueued: Enqueued },
    /// Nothing is left; under an idempotency key, all that it made.
    Done(Option<Vec<TaskId>>),
}

impl App {
    /// A page of dead letters, newest first.
    ///
    /// # Errors
    /// `validation` for a filter that makes no sense, or the database's.
    pub async fn dead_letters(
        &self,
        who: &Principal,
        filter: DeadLetterFilter,
    ) -> Result<Page<TaskSummary>, Error> {
        let mut check = Check::default();
        let limit = filter.limit.unwrap_or(PAGE);
        if !(1..=limits::PAGE).contains(&limit) {
            check.fail("?limit", "must lie between 1 and 500");
        }
        let before = filter.cursor.as_deref().map(str::parse::<TaskId>);
        if matches!(before, Some(Err(_))) {
            check.fail("?cursor", "is no cursor of this list; leave it out to begin anew");
        }
        for (text, pointer) in [(&filter.queue, "?queue"), (&filter.group, "?group"), (&filter.name, "?name")]
        {
            check.text(text.as_deref().unwrap_or_default(), pointer, 2 * limits::NAME + 1);
        }
        check.done()?;
        let flow = (filter.queue.as_deref(), filter.group.as_deref());
        self.check_flow(&who.namespace, flow, ("?queue", "?group")).await?;
        let wanted = dead_letter::Filter {
            queue: filter.queue.as_deref(),
            group: filter.group.as_deref(),
            name: filter.name.as_deref(),
            before: before.and_then(Result::ok),
            limit: i64::from(limit) + 1,
        };
        let mut connection = self.0.pool.acquire().await?;
        let mut ids = dead_letter::page(&mut connection, &who.namespace, &wanted).await?;
        let more = ids.len() > limit as usize;
        ids.truncate(limit as usize);
        let next = ids.last().filter(|_| more).map(ToString::to_string);
        Ok(Page { items: task::summaries(&mut connection, &who.namespace, &ids).await?, next })
    }

    /// Enqueues each dead letter of a selection once more, as a new task, and takes the old one off the list. A repeat under
    /// the same idempotency key answers the same tasks, and goes on where it was cut off. What came by SQL and never had a valid
    /// spec stays on the list.
    ///
    /// # Errors
    /// `validation`, also for a selection of more than 100,000; `conflict` if it names one that never had a valid spec;
    /// `idempotency-conflict`; `quota-exceeded`, and the database's:
    /// a part may have been done then, and a repeat goes on with the rest.
    pub async fn retry_dead_letters(
        &self,
        who: &Principal,
        selector: Selector,
        idempotency_key: Option<&str>,
    ) -> Result<Enqueued, Error> {
        self.check_selector(who, &selector).await?;
        let key = operator_key(idempotency_key, "retry dead letters", &selector)?;
        let Some(TaskId(upto)) =
            selection::newest(&mut *self.0.pool.acquire().await?, &who.namespace).await?
        else {
            return Ok(Enqueued::from(Vec::new()));
        };
        let order = Order { namespace: who.namespace.clone(), wanted: Wanted::new(&selector)?, key, upto };
        let mut all = Enqueued::from(Vec::new());
        let mut after = None;
        loop {
            match self.retry_some(order.clone(), after).await? {
                Step::Went { upto, mut enqueued } => {
                    after = Some(upto);
                    all.ids.append(&mut enqueued.ids);
                    all.existing.append(&mut enqueued.existing);
                }
                Step::Done(under_key) => {
                    all.ids = under_key.unwrap_or(all.ids);
                    all.existing.sort_unstable();
                    all.existing.dedup();
                    return Ok(all);
                }
            }
            self.going_on()?;
        }
    }

    async fn retry_some(&self, order: Order, after: Option<Uuid>) -> Result<Step, Error> {
        let app = self.clone();
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                dead_letter::lock(tx, &order.namespace).await?;
                let mut before = None;
                if let Some((key, request)) = &order.key {
                    let progress = idempotency::go_on(tx, &order.namespace, key, request).await?;
                    if progress.request != *request {
                        return Err(Error::refused(
                            Kind::IdempotencyConflict,
                            "this idempotency key was used for another request within the last 24 hours; choose a new one",
                        ));
                    }
                    let ids: Vec<TaskId> = progress.ids.into_iter().map(TaskId).collect();
                    if progress.complete {
                        return Ok(Step::Done(Some(ids)));
                    }
                    before = Some(ids);
                }
                if after.is_none()
                    && dead_letter::count(tx, &order.namespace, &order.wanted, MOST + 1).await? > MOST
                {
                    let detail = "selects more than 100,000 dead letters; narrow it, as by created_before";
                    return Err(Error::field("", detail));
                }
                let range = (after.unwrap_or_default(), order.upto);
                let found = dead_letter::next(tx, &order.namespace, &order.wanted, range, CHUNK).await?;
                let Some(last) = found.last().map(|letter| letter.id) else {
                    if let Some((key, _)) = &order.key {
                        idempotency::add(tx, &order.namespace, key, &[], true).await?;
                    }
                    return Ok(Step::Done(before));
                };
                let mut letters = Vec::with_capacity(found.len());
                for letter in found {
                    let spec: NewTask = from_json(&letter.spec, "tasks.spec")?;
                    if was_valid(&spec) {
                        letters.push((letter.id, letter.created_at.0, spec));
                    } else if order.wanted.ids.is_some() {
                        return Err(never_valid(TaskId(letter.id)));
                    }
                }
                let enqueued = app.again(tx, &order.namespace, letters, effects).await?;
                if let Some((key, _)) = &order.key {
                    idempotency::add(tx, &order.namespace, key, &enqueued.ids, false).await?;
                }
                Ok(Step::Went { upto: last, enqueued })
            })
        })
        .await
    }

    async fn again(
        &self,
        connection: &mut PgConnection,
        namespace: &str,
        letters: Vec<(Uuid, Timestamp, NewTask)>,
        effects: &mut Effects,
    ) -> Result<Enqueued, Error> {
        let now = session::now(connection).await?;
        let old: Vec<Uuid> = letters.iter().map(|(id, ..)| *id).collect();
        let mut needs = dependency::of_tasks(connection, &old).await?;
        let (mut specs, mut graph) = (Vec::with_capacity(old.len()), Graph::default());
        for (id, created_at, spec) in letters {
            let needs = needs.remove(&id).unwrap_or_default();
            specs.push(once_more(spec, created_at, now, &needs));
            graph.inside.push(Vec::new());
            graph.outside.push(needs);
        }
        let ids: Vec<TaskId> = old.iter().map(|_| TaskId::new()).collect();
        let place = Place { lines: &self.0.lines, namespace, parent: None, listed: true, answered: false };
        let ended: Vec<TaskId> = old.iter().copied().map(TaskId).collect();
        let mut planned = prepare_again(connection, &place, &ended, &ids, specs, &graph).await?;
        let retried: std::collections::HashMap<TaskId, Uuid> =
            ids.into_iter().zip(old.iter().copied()).collect();
        for task in &mut planned.tasks {
            task.retry_of = retried.get(&task.id).copied().map(TaskId);
        }
        dead_letter::dismiss(connection, &old).await?;
        quota::check(connection, namespace, planned.tasks.len(), &[]).await?;
        insert::tasks(connection, namespace, &planned.tasks, effects).await?;
        Ok(Enqueued { ids: planned.ids, existing: planned.existing })
    }

    /// Takes the dead letters of a selection off the list; answers how many. The tasks stay as they are.
    ///
    /// # Errors
    /// `validation`, or the database's.
    pub async fn purge_dead_letters(&self, who: &Principal, selector: Selector) -> Result<Affected, Error> {
        self.check_selector(who, &selector).await?;
        let newest = selection::newest(&mut *self.0.pool.acquire().await?, &who.namespace).await?;
        let Some(TaskId(upto)) = newest else { return Ok(Affected { count: 0 }) };
        let wanted = Wanted::new(&selector)?;
        let mut count = 0;
        loop {
            let (app, namespace, wanted) = (self.clone(), who.namespace.clone(), wanted.clone());
            let purged = self
                .spawned(async move {
                    transaction!(app, |tx, _effects| {
                        dead_letter::lock(tx, &namespace).await?;
                        let most = i64::try_from(PURGE).unwrap_or(i64::MAX);
                        Ok(dead_letter::purge(tx, &namespace, &wanted, upto, most).await?)
                    })
                })
                .await?;
            count += purged;
            if purged < PURGE {
                return Ok(Affected { count });
            }
            self.going_on()?;
        }
    }

    async fn check_selector(&self, who: &Principal, selector: &Selector) -> Result<(), Error> {
        let mut errors = Vec::new();
        selector.validate("", &mut errors);
        if !errors.is_empty() {
            return Err(Error::validation(errors));
        }
        let flow = (selector.queue.as_deref(), selector.group.as_deref());
        self.check_flow(&who.namespace, flow, ("/queue", "/group")).await
    }
}

/// The spec of a task that is tried again. A deadline that has passed is set anew, as long ahead as it was at first.
pub(crate) fn once_more(
    mut spec: NewTask,
    created_at: Timestamp,
    now: Timestamp,
    needs: &[TaskId],
) -> NewTask {
    spec.depends_on = needs.iter().map(ToString::to_string).collect();
    if let Some(deadline) = spec.deadline.filter(|deadline| *deadline <= now) {
        spec.deadline = now.checked_add(deadline.duration_since(created_at)).ok();
    }
    spec
}
