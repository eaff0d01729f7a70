//! Taking a step: what is asked of the coordinators, and that each answer is one that may be given.

use std::time::Duration;

use jiff::Timestamp;
use orca_coordinator::app::Error;
use orca_proto::attempt::{AttemptReport, AttemptStart, Children, RefusedKind, Report, Reports, Settled};
use orca_proto::duration::Span;
use orca_proto::node::{ClaimRequest, LeaseRef, RenewRequest};
use orca_proto::plan::Batch;
use orca_proto::problem::Kind;
use orca_proto::spec::{
    Approval, Backoff, NewTask, OnDependencyFailure, OnTimeout, Retry, Unique, UniqueWhile,
};
use orca_proto::task::{Cancellation, Outcome, State};
use serde_json::json;
use serde_json::value::RawValue;

use super::super::support::{LEASE, lease, parsed};
use super::expected::{self, BACKOFF_MS};
use super::invariants::holds_key;
use super::record::{Held, Known, Reported, Under};
use super::step::{How, Step, Wish};
use super::world::{LIMIT, SLOTS, World};

impl World {
    /// Does it, and takes in what was answered.
    pub(crate) async fn take(&mut self, step: Step) {
        match step {
            Step::Enqueue { at, wish, repeat } => self.enqueue(at, &wish, repeat).await,
            Step::EnqueueMany { at, count } => self.enqueue_many(at, count).await,
            Step::Claim { at, node, slots } => self.claim(at, node, slots).await,
            Step::Start { at, lease } => self.start(at, lease).await,
            Step::Report { at, lease, how, together } => self.report(at, lease, how, together).await,
            Step::ReportAgain { at, lease, same } => self.report_again(at, lease, same).await,
            Step::ReportLost { at, lease } => self.report_lost(at, lease).await,
            Step::Spawn { at, lease, count } => self.spawn(at, lease, count).await,
            Step::Cancel { at, task } => self.cancel(at, task).await,
            Step::Renew { at, node, mask } => self.renew(at, node, mask).await,
            Step::Replace { node } => {
                let (id, instance) = self.register(&self.nodes[node].who.clone(), node).await;
                assert_eq!(id, self.nodes[node].id);
                self.nodes[node].instance = instance;
                self.lose(|_, of| of == node);
            }
            Step::Advance { seconds } => self.advance(Duration::from_secs(seconds)),
            Step::Pause { other_queue, paused } => {
                self.paused[usize::from(other_queue)] = paused;
                self.set_queues().await;
            }
        }
    }

    fn spec(&self, wish: &Wish) -> NewTask {
        let mut spec = plain(wish.max_attempts);
        spec.priority = wish.priority;
        spec.queue = if wish.other_queue { "other" } else { "default" }.to_owned();
        spec.group = wish.grouped.then(|| "g".to_owned());
        spec.unique = wish.unique.map(|(key, queued)| Unique {
            key: format!("u{key}"),
            r#while: if queued { UniqueWhile::Queued } else { UniqueWhile::Open },
        });
        if wish.run_anyway {
            spec.on_dependency_failure = OnDependencyFailure::Run;
        }
        spec.approval = wish.gate.map(|proceed| Approval {
            prompt: None,
            timeout: Some(Span::secs(50)),
            on_timeout: if proceed { OnTimeout::Proceed } else { OnTimeout::Cancel },
        });
        spec.delay = wish.delayed.then_some(Span::secs(70));
        spec.deadline = wish.deadline.then(|| Timestamp::from_millisecond(self.now() + 150_000).unwrap());
        spec.timeouts.schedule_to_start = wish.start_limit.then_some(Span::secs(100));
        spec
    }

    async fn enqueue(&mut self, at: usize, wish: &Wish, repeat: bool) {
        let mut spec = self.spec(wish);
        let mut needs: Vec<usize> = wish
            .needs
            .iter()
            .filter(|_| !self.tasks.is_empty())
            .map(|need| need % self.tasks.len())
            .collect();
        needs.sort_unstable();
        needs.dedup();
        spec.depends_on = needs.iter().map(|need| self.tasks[*need].id.to_string()).collect();
        let key = repeat.then(|| uuid::Uuid::now_v7().to_string());
        let operator = self.operator();
        let enqueue = async |at| self.app(at).task_enqueue(&operator, spec.clone(), key.as_deref()).await;
        let doomed = !wish.run_anyway && self.any_in_vain(&needs).await;
        let (task, existed) = match enqueue(at).await {
            Ok(answer) => answer,
            Err(error) => {
                let now = !wish.run_anyway && self.any_in_vain(&needs).await;
                assert!(now && error.problem().kind == Kind::Validation, "1: refused for no reason: {error}");
                return;
            }
        };
        assert!(existed || !doomed, "6: what depends on a failure is refused");
        if repeat {
            let (again, _) = enqueue(1 - at).await.unwrap();
            assert_eq!(task.summary.id, again.summary.id, "7: one idempotency key gives one task");
        }
        let holder = self.tasks.iter().find(|other| holds_key(other) && same_key(&other.spec, &spec));
        if existed {
            let holder = holder.expect("7: only who holds a unique key keeps others out");
            assert_eq!(task.summary.id, holder.id, "7: the holder of the unique key is answered");
        } else {
            let taken = holder.filter(|_| spec.unique.is_some());
            assert!(taken.is_none(), "7: at most one open task per unique key: {taken:?}");
            let now = self.now();
            self.tasks.push(Known::new(task.summary.id, spec, needs, None, now));
        }
    }

    /// Whether any of these has ended without success.
    async fn any_in_vain(&self, needs: &[usize]) -> bool {
        for need in needs {
            let state =
                self.app(0).task_get(&self.operator(), self.tasks[*need].id).await.unwrap().summary.state;
            if state.is_terminal() && state != State::Succeeded {
                return true;
            }
        }
        false
    }

    async fn enqueue_many(&mut self, at: usize, count: usize) {
        let tasks = vec![plain(2); count];
        let batch = Batch { tasks: tasks.clone() };
        let ids = self.app(at).batch_enqueue(&self.operator(), batch, None).await.unwrap().ids;
        assert_eq!(ids.len(), count);
        let now = self.now();
        self.tasks
            .extend(ids.into_iter().zip(tasks).map(|(id, spec)| Known::new(id, spec, Vec::new(), None, now)));
    }

    async fn claim(&mut self, at: usize, node: usize, slots: u32) {
        let by = &self.nodes[node];
        let request = ClaimRequest {
            instance: by.instance,
            slots,
            wait: Span::default(),
            queues: Vec::new(),
            free: None,
        };
        let grants = self.app(at).node_claim(&by.who, by.id, request).await.unwrap().grants;
        assert!(grants.len() <= usize::try_from(slots).unwrap(), "8: no more than was asked for");
        let until = self.now() + i64::try_from(LEASE.as_millis()).unwrap();
        for grant in grants.into_iter().map(parsed) {
            let of = self.tasks.iter().position(|task| task.id == grant.task);
            let of = of.expect("1: nothing appears that nobody asked for");
            self.check_grant(of, grant.token.0, grant.attempt);
            let task = &mut self.tasks[of];
            task.tokens.push(grant.token.0);
            task.held = Some(Held { node, grant, until, started: false });
        }
        let held = |which: &dyn Fn(&Known, &Held) -> bool| {
            self.tasks.iter().filter(|task| task.held.as_ref().is_some_and(|held| which(task, held))).count()
        };
        let mine = held(&|_, held| held.node == node);
        assert!(mine <= usize::try_from(SLOTS).unwrap(), "8: the limit of a node is never exceeded: {mine}");
        let others = held(&|task, _| task.spec.queue == "other");
        let most = if self.limited { usize::try_from(LIMIT).unwrap() } else { usize::MAX };
        assert!(others <= most, "8: the limit of a queue is never exceeded: {others}");
    }

    fn check_grant(&self, of: usize, token: i64, attempt: i32) {
        let (task, now) = (&self.tasks[of], self.now());
        assert!(task.held.is_none(), "2: leases of a task never overlap: {task:#?}");
        assert!(
            task.tokens.iter().all(|before| *before < token),
            "3: the fencing token rises with every grant"
        );
        assert_eq!(attempt, task.attempts_used + 1, "4: attempts count up by one: {task:#?}");
        assert!(attempt <= task.spec.retry.max_attempts, "4: attempts never pass max_attempts");
        assert!(task.ended.is_none(), "4: what has ended is not granted: {task:#?}");
        assert!(!task.cancelled, "9: after a cancel is acknowledged nothing is granted: {task:#?}");
        let anyway = task.spec.on_dependency_failure == OnDependencyFailure::Run;
        let fits =
            |need: &usize| self.tasks[*need].succeeded() || (anyway && self.tasks[*need].ended.is_some());
        assert!(task.needs.iter().all(fits), "6: a task is granted only after its dependencies: {task:#?}");
        let early = task.due.into_iter().chain(task.gate.filter(|_| !task.entered)).any(|at| at > now);
        assert!(!early, "6: a task is granted only when it is due: {task:#?}");
        let late = task.deadline.into_iter().chain(task.start_by()).any(|at| at <= now);
        assert!(!late, "1: what is too late to begin is not granted: {task:#?}");
        let paused = self.paused[usize::from(task.spec.queue == "other")];
        assert!(!paused, "8: nothing of a paused queue is granted: {task:#?}");
    }

    /// One of the tasks that run, if any do.
    fn running(&self, lease: usize) -> Option<usize> {
        let running: Vec<usize> = (0..self.tasks.len()).filter(|at| self.tasks[*at].held.is_some()).collect();
        (!running.is_empty()).then(|| running[lease % running.len()])
    }

    async fn start(&mut self, at: usize, lease_of: usize) {
        let Some(of) = self.running(lease_of) else { return };
        let app = self.app(at);
        let held = self.tasks[of].held.as_mut().expect("it runs");
        app.attempt_start(&self.nodes[held.node].who, lease(&held.grant), AttemptStart::default())
            .await
            .unwrap();
        held.started = true;
    }

    async fn report(&mut self, at: usize, lease_of: usize, how: How, together: bool) {
        let Some(of) = self.running(lease_of) else { return };
        let held = self.tasks[of].held.clone().expect("it runs");
        let (lease, report) = (lease(&held.grant), report_of(how, held.grant.token.0));
        let answer = self.send(at, held.node, lease, report.clone(), together).await;
        let state = answer.expect("3: who holds the lease is heard");
        let now = self.now();
        let seen = self.states();
        let disturbed = expected::is_disturbed(&self.tasks, of, &seen);
        let task = &mut self.tasks[of];
        let may = if how == How::Success {
            task.held = None;
            expected::after_success(&self.tasks, of, |child| seen[child])
        } else {
            task.fails(Some(how), now)
        };
        let fits = state == may || (disturbed && state == State::Cancelled);
        assert!(fits, "the report of {how:?} made it {state}, not {may}: {:#?}", self.tasks[of]);
        let task = &mut self.tasks[of];
        task.waiting = state == State::Waiting;
        if state.is_terminal() {
            task.last_word = Some(state);
            task.cancelled = state == State::Cancelled;
        }
        self.reported.push(Reported { lease, node: held.node, report, state });
    }

    /// Where everything was when it was last looked at.
    fn states(&self) -> Vec<State> {
        let state = |task: &Known| {
            let ended = task.ended.as_ref().map(|(state, _)| *state);
            ended.or(task.last_word).unwrap_or(State::Ready)
        };
        self.tasks.iter().map(state).collect()
    }

    async fn report_again(&mut self, at: usize, lease: usize, same: bool) {
        if self.reported.is_empty() {
            return;
        }
        let before = self.reported[lease % self.reported.len()].clone();
        let mut report = before.report.clone();
        if !same {
            report = Report { outcome: Outcome::Killed { signal: 9 }, result: None, plan: None };
        }
        let answer = self.send(at, before.node, before.lease, report, lease.is_multiple_of(2)).await;
        let wanted = if same { Ok(before.state) } else { Err(Kind::ResultConflict) };
        assert_eq!(
            answer, wanted,
            "5: the same report is answered the same, another is refused: {before:#?}"
        );
    }

    async fn report_lost(&mut self, at: usize, lease: usize) {
        if self.lost.is_empty() {
            return;
        }
        let (lease, node) = self.lost[lease % self.lost.len()];
        let report = report_of(How::Success, 0);
        let answer = self.send(at, node, lease, report, lease.token.0 % 2 == 0).await;
        assert_eq!(answer, Err(Kind::LeaseLost), "3: a stale token is refused");
        let started = self.app(at).attempt_start(&self.nodes[node].who, lease, AttemptStart::default()).await;
        assert_eq!(
            started.map_err(|error| error.problem().kind),
            Err(Kind::LeaseLost),
            "3: a stale token is refused"
        );
        let spawned = self.children(at, node, lease, "stale", vec![plain(1)]).await;
        assert_eq!(spawned, Err(Kind::LeaseLost), "3: a stale token is refused");
    }

    async fn send(
        &self,
        at: usize,
        node: usize,
        lease: LeaseRef,
        report: Report,
        together: bool,
    ) -> Result<State, Kind> {
        let (app, node) = (self.app(at), &self.nodes[node]);
        if !together {
            let answer = app.attempt_report(&node.who, lease, report).await;
            return answer.map(|reported| reported.state).map_err(|error| error.problem().kind);
        }
        let result = report.result.map(|value| RawValue::from_string(value.to_string()).unwrap());
        let report = AttemptReport { task: lease.task, token: lease.token, outcome: report.outcome, result };
        let reports = Reports { instance: node.instance, reports: vec![report] };
        let mut answer = app.node_reports(&node.who, node.id, reports).await.unwrap().settled;
        match answer.remove(0) {
            Settled::State(state) => Ok(state),
            Settled::Refused(refused) => Err(match refused.kind {
                RefusedKind::LeaseLost => Kind::LeaseLost,
                RefusedKind::ResultConflict => Kind::ResultConflict,
                RefusedKind::Validation => Kind::Validation,
            }),
        }
    }

    async fn children(
        &self,
        at: usize,
        node: usize,
        lease: LeaseRef,
        key: &str,
        tasks: Vec<NewTask>,
    ) -> Result<Vec<orca_proto::ids::TaskId>, Kind> {
        let children = Children { idempotency_key: key.to_owned(), tasks };
        let answer = self.app(at).attempt_children(&self.nodes[node].who, lease, children).await;
        answer.map(|enqueued| enqueued.ids).map_err(|error: Error| error.problem().kind)
    }

    async fn spawn(&mut self, at: usize, lease_of: usize, count: usize) {
        let Some(of) = self.running(lease_of) else { return };
        let held = self.tasks[of].held.clone().expect("it runs");
        let (lease, tasks, key) =
            (lease(&held.grant), vec![plain(1); count], uuid::Uuid::now_v7().to_string());
        let answer = self.children(at, held.node, lease, &key, tasks.clone()).await;
        let seen = self.states();
        let failed = |child: &Known| {
            child.parent.is_some_and(|under| under.task == of && under.token == lease.token.0)
                && matches!(&child.ended, Some((state, _)) if *state != State::Succeeded)
        };
        let refused = self.tasks[of].cancelled || self.tasks.iter().any(failed);
        let Ok(ids) = answer else {
            let may =
                refused || expected::is_disturbed(&self.tasks, of, &seen) || depth(&self.tasks, of) >= 8;
            assert!(may, "a running task was not let spawn: {answer:?}");
            return;
        };
        assert!(!refused, "9: what is being cancelled, or has failed already, takes no more under it");
        let again = self.children(1 - at, held.node, lease, &key, tasks.clone()).await;
        assert_eq!(again.as_ref(), Ok(&ids), "7: one idempotency key gives the same tasks");
        let (now, under) = (self.now(), Under { task: of, token: lease.token.0 });
        for (id, spec) in ids.into_iter().zip(tasks) {
            self.tasks.push(Known::new(id, spec, Vec::new(), Some(under), now));
        }
    }

    async fn cancel(&mut self, at: usize, task: usize) {
        if self.tasks.is_empty() {
            return;
        }
        let of = task % self.tasks.len();
        let answer =
            self.app(at).task_cancel(&self.operator(), self.tasks[of].id, Cancellation::default()).await;
        if self.tasks[of].ended.is_some() {
            assert_eq!(answer.map_err(|error| error.problem().kind).map(drop), Err(Kind::Conflict));
            return;
        }
        let summary = answer.unwrap();
        let running = self.tasks[of].held.is_some();
        assert_eq!(summary.state, if running { State::Running } else { State::Cancelled });
        // Those under a task come after it.
        let mut tree = vec![of];
        for child in of + 1..self.tasks.len() {
            if self.tasks[child].parent.is_some_and(|under| tree.contains(&under.task)) {
                tree.push(child);
            }
        }
        for one in tree {
            self.tasks[one].cancelled |= self.tasks[one].ended.is_none();
        }
    }

    async fn renew(&mut self, at: usize, node: usize, mask: u32) {
        let (app, now) = (self.app(at), self.now());
        let mine =
            self.tasks.iter_mut().filter_map(|task| task.held.as_mut()).filter(|held| held.node == node);
        let named: Vec<&mut Held> =
            mine.enumerate().filter(|(bit, _)| mask >> (bit % 32) & 1 == 1).map(|(_, held)| held).collect();
        let by = &self.nodes[node];
        let leases: Vec<LeaseRef> = named.iter().map(|held| lease(&held.grant)).collect();
        let request = RenewRequest {
            instance: by.instance,
            leases: leases.clone(),
            cancelling: Vec::new(),
            wait: Span::default(),
            draining: false,
            unwell: None,
        };
        let renewed = app.node_renew(&by.who, by.id, request).await.unwrap();
        assert!(renewed.lost.is_empty(), "8: a lease that stands is renewed: {:?}", renewed.lost);
        for held in named {
            held.until = now + i64::try_from(LEASE.as_millis()).unwrap();
        }
        let seen = self.states();
        for (of, task) in self.tasks.iter().enumerate() {
            let Some(held) = task.held.as_ref().filter(|held| leases.contains(&lease(&held.grant))) else {
                continue;
            };
            let told = renewed.cancel.contains(&lease(&held.grant));
            assert!(told || !task.cancelled, "9: a node hears of a cancel by its renewal: {task:#?}");
            assert!(
                !told || task.cancelled || expected::is_disturbed(&self.tasks, of, &seen),
                "9: nobody asked for that"
            );
        }
    }

    /// Sets what is set for the queues: by hand, so that what is held to is the claims' own look at it.
    pub(crate) async fn set_queues(&mut self) {
        let limit = self.limited.then(|| i32::try_from(LIMIT).unwrap());
        for (queue, most, paused) in [("default", None, self.paused[0]), ("other", limit, self.paused[1])] {
            sqlx::query(
                "WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock(7024422, hashtext($1)))
                 INSERT INTO orca.queues (namespace, queue, grp, max_running, paused_at)
                 SELECT $1, $2, '', $3, CASE WHEN $4 THEN orca.now() END FROM locked
                 ON CONFLICT (namespace, queue, grp) DO UPDATE SET paused_at = excluded.paused_at",
            )
            .bind(&self.namespace)
            .bind(queue)
            .bind(most)
            .bind(paused)
            .execute(&mut self.connection)
            .await
            .unwrap();
        }
    }
}

fn depth(tasks: &[Known], of: usize) -> usize {
    tasks[of].parent.map_or(0, |under| 1 + depth(tasks, under.task))
}

fn plain(max_attempts: i32) -> NewTask {
    let wait = Span::from(Duration::from_millis(BACKOFF_MS.unsigned_abs()));
    let backoff = Backoff { initial: wait, factor: 1.0, max: wait, jitter: 0.0 };
    NewTask { retry: Retry { max_attempts, backoff, ..Retry::default() }, ..NewTask::new("image") }
}

/// A success brings a result that no other brings.
fn report_of(how: How, token: i64) -> Report {
    let why = || "the engine is down".to_owned();
    let (outcome, result) = match how {
        How::Success => (Outcome::Succeeded, Some(json!({ "token": token }))),
        How::Failure => (Outcome::Failed { exit_code: 3, reason: None }, None),
        How::RuntimeError => (Outcome::RuntimeError { reason: why() }, None),
        How::Rejected => (Outcome::Rejected { reason: why() }, None),
    };
    Report { outcome, result, plan: None }
}

fn same_key(one: &NewTask, other: &NewTask) -> bool {
    one.unique.as_ref().map(|unique| &unique.key) == other.unique.as_ref().map(|unique| &unique.key)
}
