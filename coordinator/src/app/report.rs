//! Settling an attempt: what its node reports, once and for all.

use std::collections::HashSet;

use jiff::Timestamp;
use orca_proto::attempt::{Report, Reported};
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::node::LeaseRef;
use orca_proto::plan::{self, Graph};
use orca_proto::problem::{Kind, Problem};
use orca_proto::spec::{NewTask, OnChildFailure, OnDependencyFailure, Role, holds_nul, nests_deeper_than};
use orca_proto::task::{Outcome, State, Step};
use sqlx::PgConnection;

use super::check::{Check, aside};
use super::enqueue::fingerprint;
use super::graph::{Place, check_dates, prepare};
use super::lines::Lines;
use super::transaction::{sample, statement, transaction};
use super::{App, Error, Principal, quota};
use crate::db::apply::{Effects, apply};
use crate::db::insert::Prepared;
use crate::db::snapshot::{self, Locked};
use crate::db::{attempt, insert, lease, queue, task, word};
use crate::lifecycle::{Event, Open, Returned, Snapshot, transition};

/// A report that was checked before any transaction.
struct Checked {
    outcome: Outcome,
    result: Option<String>,
    plan: Option<(Vec<NewTask>, Graph)>,
    hash: Vec<u8>,
}

impl App {
    /// Settles the attempt. The same report again is answered the same, also after the lease has gone. A result that comes
    /// with another outcome than success is passed over.
    ///
    /// # Errors
    /// `lease-lost`; `result-conflict` if another report settled it; `plan-invalid`, `validation`: nothing has changed then.
    pub async fn attempt_report(
        &self,
        who: &Principal,
        lease: LeaseRef,
        report: Report,
    ) -> Result<Reported, Error> {
        let now = self.0.clock.now();
        let checked = match report.plan {
            Some(_) => aside(move || check(report, now)).await?,
            None => check(report, now)?,
        };
        if checked.outcome == Outcome::Succeeded
            && checked.plan.is_none()
            && self.finish(who, vec![lease], vec![checked.result.clone()]).await?.contains(&0)
        {
            return Ok(Reported { state: State::Succeeded });
        }
        let (app, who) = (self.clone(), who.clone());
        self.spawned(async move {
            transaction!(app, |tx, effects| settle(tx, effects, &app.0.lines, &who, lease, &checked).await)
        })
        .await
    }
}

impl App {
    /// Settles those of these successes that nothing else follows from, by one statement; answers their places. Each lease
    /// may be there once only.
    pub(crate) async fn finish(
        &self,
        who: &Principal,
        leases: Vec<LeaseRef>,
        results: Vec<Option<String>>,
    ) -> Result<HashSet<usize>, Error> {
        let (app, who) = (self.clone(), who.clone());
        self.spawned(async move {
            let settled = statement!(app, |connection| {
                queue::finish(connection, &who.namespace, &who.subject, &leases, &results).await
            })?;
            if !settled.is_empty() {
                let ended = settled.iter().filter_map(|place| leases.get(*place)).map(|lease| lease.task);
                let effects = Effects {
                    events: true,
                    ended: ended.collect(),
                    released: [who.namespace.clone()].into(),
                    ..Effects::default()
                };
                app.learn_bounds(&effects).await;
                app.publish(&effects);
            }
            Ok(settled.into_iter().collect())
        })
        .await
    }
}

fn check(report: Report, now: Timestamp) -> Result<Checked, Error> {
    let mut check = Check::default();
    check.outcome(&report.outcome);
    let success = report.outcome == Outcome::Succeeded;
    if report.plan.is_some() && report.result.is_some() {
        check.fail("/result", "must not come together with a plan");
    }
    if report.plan.is_some() && !success {
        check.fail("/plan", "must come with the outcome `succeeded`");
    }
    let mut result = None;
    if let Some(value) = report.result.as_ref().filter(|_| success) {
        let text = crate::db::to_json(value)?;
        if text.len() > limits::RESULT {
            check.fail("/result", "is larger than 1 MiB; keep it as an artifact");
        }
        if nests_deeper_than(value, limits::NESTING) {
            check.fail("/result", "is nested deeper than 64 levels; keep it as an artifact");
        }
        if holds_nul(value) {
            check.fail("/result", "must not hold NUL characters");
        }
        result = Some(text);
    }
    check.done()?;
    let graph = match &report.plan {
        None => None,
        Some(plan) => {
            let graph = plan::validate(&plan.tasks, limits::PLAN_TASKS).map_err(invalid)?;
            check_dates(&plan.tasks, now, |index| format!("/tasks/{index}")).map_err(as_invalid)?;
            Some(graph)
        }
    };
    // Last: what is refused need not be read through for it.
    let hash = fingerprint("report", &report)?;
    let plan = report.plan.map(|plan| plan.tasks).zip(graph);
    Ok(Checked { outcome: report.outcome, result, plan, hash })
}

async fn settle(
    connection: &mut PgConnection,
    effects: &mut Effects,
    lines: &Lines,
    who: &Principal,
    lease: LeaseRef,
    report: &Checked,
) -> Result<Reported, Error> {
    let (goal, locked) = lock(connection, who, lease, report.plan.is_some()).await?;
    if locked.held.is_none()
        || locked.lease() != lease
        || !lease::hold(connection, lease, &who.namespace, &who.subject).await?
    {
        return repeated(connection, who, lease, report).await;
    }
    let outcome = report.outcome.clone();
    let returned = match &report.plan {
        Some(_) if locked.snapshot.role != Role::Plan => {
            return Err(Error::field("/plan", "is only taken from a planner's task"));
        }
        Some((tasks, graph)) if !locked.snapshot.cancel_requested => {
            let goal = goal.as_ref().unwrap_or(&locked);
            let inserted = insert_plan(connection, effects, lines, goal, &locked, (tasks, graph)).await?;
            Returned::Plan { tasks: inserted }
        }
        Some(_) => Returned::Plan { tasks: 0 },
        None if report.result.is_some() => Returned::Result,
        None => Returned::Nothing,
    };
    let change = transition(&locked.snapshot, Event::AttemptEnded { outcome, returned, sample: sample() })
        .map_err(|refusal| {
            Error::Internal(format!("a held lease of a task that is not running: {refusal}"))
        })?;
    if let (Some(result), State::Succeeded | State::Waiting) = (&report.result, change.state) {
        task::set_result(connection, lease.task, result).await?;
    }
    let state = change.state;
    let mut changes = vec![(locked, change)];
    if let (Returned::Plan { tasks }, Some(goal)) = (returned, goal)
        && tasks > 0
    {
        let again = transition(&goal.snapshot, Event::PlannedAgain { tasks })
            .map_err(|_| as_invalid(Error::field("/plan", "comes too late: the goal has ended")))?;
        changes.push((goal, again));
    }
    apply(connection, &changes, effects).await?;
    attempt::remember_report(connection, lease, &report.hash, state.as_str()).await?;
    Ok(Reported { state })
}

/// Locks the attempt's task; before it, where a finish step brings another plan, the goal that the plan goes under.
async fn lock(
    connection: &mut PgConnection,
    who: &Principal,
    lease: LeaseRef,
    has_plan: bool,
) -> Result<(Option<Locked>, Locked), Error> {
    let goal = if has_plan {
        match task::get_summary(connection, &who.namespace, lease.task).await? {
            Some(summary) if summary.step == Some(Step::Finish) => summary.parent,
            _ => None,
        }
    } else {
        None
    };
    let goal = match goal {
        Some(goal) => snapshot::lock_one(connection, &who.namespace, goal).await?,
        None => None,
    };
    let task = snapshot::lock_one(connection, &who.namespace, lease.task).await?;
    Ok((goal, task.ok_or_else(Error::lease_lost)?))
}

/// The answer to a report whose lease is gone: the same as before if it settled the attempt.
async fn repeated(
    connection: &mut PgConnection,
    who: &Principal,
    lease: LeaseRef,
    report: &Checked,
) -> Result<Reported, Error> {
    match attempt::reported(connection, lease, &who.namespace, &who.subject).await? {
        Some(before) if before.hash == report.hash => {
            Ok(Reported { state: word(&before.state, "attempts.reported_state")? })
        }
        Some(_) => Err(conflict()),
        None => match attempt::succeeded(connection, lease, &who.namespace, &who.subject).await? {
            Some(result)
                if report.outcome == Outcome::Succeeded
                    && report.plan.is_none()
                    && report.result == result =>
            {
                Ok(Reported { state: State::Succeeded })
            }
            Some(_) => Err(conflict()),
            None => Err(Error::lease_lost()),
        },
    }
}

fn conflict() -> Error {
    Error::refused(
        Kind::ResultConflict,
        "another report settled this attempt; it stands, and this one changes nothing",
    )
}

/// Inserts a plan under its goal, and the finish step that waits for it. Answers how many tasks that were.
async fn insert_plan(
    connection: &mut PgConnection,
    effects: &mut Effects,
    lines: &Lines,
    goal: &Locked,
    planner: &Locked,
    (tasks, graph): (&[NewTask], &Graph),
) -> Result<i32, Error> {
    if goal.rounds >= limits::PLANNING_ROUNDS {
        let detail =
            format!("is round {}; a goal may plan {} times", goal.rounds + 1, limits::PLANNING_ROUNDS);
        return Err(as_invalid(Error::field("/plan", detail)));
    }
    let place =
        Place { lines, namespace: &goal.namespace, parent: Some(goal), listed: true, answered: false };
    let ids: Vec<TaskId> = tasks.iter().map(|_| TaskId::new()).collect();
    let planned = prepare(connection, &place, &ids, tasks.to_vec(), graph).await.map_err(as_invalid)?;
    let mut prepared = planned.tasks;
    let spec =
        finish_spec(task::spec(connection, planner.id).await?, &goal.name, goal.snapshot.on_child_failure);
    let finish = finish_step(goal, planner, spec, prepared.is_empty())?;
    task::set_finish(connection, goal.id, finish.id).await?;
    prepared.push(finish);
    // What can never fit must not be sent again and again.
    if let Some(most) = quota::too_many(connection, &goal.namespace, prepared.len()).await? {
        let detail = format!(
            "holds {} tasks, the finish step among them; the namespace may have {most} open tasks in all",
            prepared.len()
        );
        return Err(as_invalid(Error::field("/plan/tasks", detail)));
    }
    quota::check(connection, &goal.namespace, prepared.len(), &[]).await?;
    insert::tasks(connection, &goal.namespace, &prepared, effects).await?;
    Ok(i32::try_from(prepared.len()).unwrap_or(i32::MAX))
}

/// The finish step waits for the goal's other tasks as a whole, not for each by name: there may be 100,000 of them.
fn finish_step(goal: &Locked, planner: &Locked, spec: NewTask, at_once: bool) -> Result<Prepared, Error> {
    let open =
        i32::from(!at_once || goal.snapshot.open_children > 0 && goal.snapshot.state == State::Running);
    let open = Open { dependencies: open, gates: 0 };
    let snapshot = Snapshot::fresh(&spec, Some(Step::Finish), open, false);
    let change = transition(&snapshot, Event::Enqueued { failure: None })
        .map_err(|refusal| Error::Internal(refusal.to_string()))?;
    Ok(Prepared {
        id: TaskId::new(),
        lane: planner.lane,
        parent: Some((goal.id, goal.fence)),
        depth: goal.depth + 1,
        step: Some(Step::Finish),
        state: change.state,
        reason: None,
        open_dependencies: change.open_dependencies,
        open_gates: 0,
        needs: Vec::new(),
        needed: false,
        run_at: None,
        retry_of: None,
        schedule: None,
        spec,
    })
}

fn finish_spec(mut spec: NewTask, goal: &str, on_child_failure: OnChildFailure) -> NewTask {
    const SUFFIX: &str = " (finish)";
    let mut name: String = goal.to_owned();
    while name.len() + SUFFIX.len() > limits::NAME {
        name.pop();
    }
    spec.key = Some("finish".to_owned());
    spec.name = Some(name + SUFFIX);
    spec.run_at = None;
    spec.delay = None;
    spec.unique = None;
    spec.approval = None;
    spec.wait_for = Vec::new();
    spec.depends_on = Vec::new();
    spec.on_dependency_failure = match on_child_failure {
        OnChildFailure::Fail => OnDependencyFailure::Skip,
        OnChildFailure::Continue => OnDependencyFailure::Run,
    };
    spec
}

fn invalid(errors: Vec<orca_proto::problem::FieldError>) -> Error {
    Error::Refused(Box::new(Problem::with_errors(Kind::PlanInvalid, errors)))
}

/// Whatever is wrong with a plan's fields makes the plan invalid.
fn as_invalid(error: Error) -> Error {
    match error {
        Error::Refused(problem) if problem.kind == Kind::Validation => invalid(problem.errors),
        other => other,
    }
}
