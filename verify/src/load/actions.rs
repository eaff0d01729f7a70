//! What an operator does.

use std::time::Duration;

use orca_proto::duration::Span;
use orca_proto::plan::Batch;
use orca_proto::spec::{
    Approval, NewTask, OnChildFailure, OnDependencyFailure, Role, Unique, UniqueWhile, WaitFor,
};
use orca_proto::task::{Cancellation, Task};

use super::operator::Operator;
use super::tasks::{behaviour, pretend};
use super::{GROUPS, QUEUES};
use crate::history::{Answer, Asked, Call};
use crate::node::{Behaviour, patiently};

/// Unique keys that are fought over.
const KEYS: usize = 5;

impl Operator {
    pub(super) fn task(&mut self) -> NewTask {
        let ask = self.ask();
        let queue = self.rng.choice(QUEUES).unwrap_or("default");
        let behaviour = behaviour(&mut self.rng, self.mix.hang);
        let mut task = pretend(&ask, queue, &behaviour);
        task.priority = self.rng.i16(-3..=3);
        if queue == "grouped" {
            task.group = self.rng.choice(GROUPS).map(str::to_owned);
        }
        if self.rng.u8(0..10) == 0 {
            task.delay = Some(Span::millis(self.rng.u64(50..1_500)));
        }
        if behaviour.children > 0 && self.rng.bool() {
            task.on_child_failure = OnChildFailure::Continue;
        }
        task
    }

    pub(super) async fn plain(&mut self) {
        let task = self.task();
        let _ = self.enqueue(&task, None).await;
    }

    /// Several times, by turns over both coordinators, some of them at once.
    pub(super) async fn keyed(&mut self) {
        let task = self.task();
        let key = format!("key-{}", task.labels.get("ask").cloned().unwrap_or_default());
        let ask = task.labels.get("ask").cloned().unwrap_or_default();
        let call = Call::Enqueue {
            namespace: self.namespace.to_owned(),
            tasks: vec![Asked { ask: ask.clone() }],
            key: Some(key.clone()),
            unique: None,
            bad: false,
        };
        let sent = self.coordinators.all().iter().map(|client| {
            let request = patiently(Duration::ZERO, client.enqueue(&task, Some(&key)));
            self.recorder
                .call(&self.who, call.clone(), request, |task: &Task| super::operator::enqueued(task, &ask))
        });
        for made in futures_util::future::join_all(sent).await.into_iter().flatten() {
            self.remember(made.summary.id);
        }
        for _ in 0..self.rng.u8(1..3) {
            self.coordinators.turn();
            let _ = self.enqueue(&task, Some(&key)).await;
        }
    }

    pub(super) async fn unique(&mut self) {
        let mut task = self.task();
        let slow = Behaviour { ms: self.rng.u64(50..600), ..Behaviour::default() };
        task.input = serde_json::to_value(slow).unwrap_or_default();
        let r#while = if self.rng.u8(0..3) == 0 { UniqueWhile::Queued } else { UniqueWhile::Open };
        // Keys of the two kinds are kept apart: what holds a key is judged by how the holder was made.
        let key = format!("{while:?}-{}", self.rng.usize(0..KEYS));
        task.unique = Some(Unique { key, r#while });
        let _ = self.enqueue(&task, None).await;
    }

    /// A diamond with a tail, or a chain; now and then with a root that fails.
    pub(super) async fn graph(&mut self) {
        let size = self.rng.usize(3..9);
        let ask = self.ask();
        let queue = self.rng.choice(QUEUES).unwrap_or("default");
        let mut tasks = Vec::new();
        for n in 0..size {
            let behaviour = behaviour(&mut self.rng, 0);
            let mut task = pretend(&format!("{ask}/{n}"), queue, &behaviour);
            task.key = Some(format!("t{n}"));
            for _ in 0..self.rng.usize(0..3) {
                if n > 0 {
                    let needs = format!("t{}", self.rng.usize(0..n));
                    if !task.depends_on.contains(&needs) {
                        task.depends_on.push(needs);
                    }
                }
            }
            if self.rng.u8(0..4) == 0 {
                task.on_dependency_failure = OnDependencyFailure::Run;
            }
            if n == 0
                && let Some(known) = self.any()
            {
                task.depends_on.push(known.to_string());
            }
            tasks.push(task);
        }
        self.batch(tasks, false).await;
    }

    pub(super) async fn batch(&mut self, tasks: Vec<NewTask>, bad: bool) {
        let asked = |task: &NewTask| Asked { ask: task.labels.get("ask").cloned().unwrap_or_default() };
        let call = Call::Enqueue {
            namespace: self.namespace.to_owned(),
            tasks: tasks.iter().map(asked).collect(),
            key: None,
            unique: None,
            bad,
        };
        let batch = Batch { tasks };
        let request = patiently(Duration::ZERO, self.coordinators.current().enqueue_batch(&batch, None));
        let answer = |done: &orca_proto::plan::Enqueued| Answer::Enqueued {
            ids: done.ids.clone(),
            existing: Vec::new(),
        };
        match self.recorder.call(&self.who, call, request, answer).await {
            Ok(done) => done.ids.into_iter().for_each(|id| self.remember(id)),
            Err(error) => self.turn_from(&error),
        }
    }

    pub(super) async fn goal(&mut self) {
        let ask = self.ask();
        let plan = Behaviour {
            plan: self.rng.u32(1..5),
            bad_plan: self.rng.bool(),
            repeat: self.rng.bool(),
            ..Behaviour::default()
        };
        let mut goal = pretend(&ask, "default", &plan);
        goal.role = Role::Plan;
        // No planner of the other tenant is in the run.
        if self.namespace == crate::system::NAMESPACES[0] {
            let _ = self.enqueue(&goal, None).await;
        }
    }

    /// What waits is let go by and by: half of it at once, half at the end.
    pub(super) async fn waiting(&mut self) {
        let mut task = self.task();
        if self.rng.bool() {
            task.approval = Some(Approval { prompt: Some("may it?".to_owned()), ..Approval::default() });
        } else {
            let wait = |signal: &str| WaitFor {
                signal: signal.to_owned(),
                timeout: None,
                on_timeout: Default::default(),
            };
            task.wait_for = vec![wait("green")];
            if self.rng.bool() {
                task.wait_for.push(wait("loaded"));
            }
        }
        if let Ok(made) = self.enqueue(&task, None).await
            && self.rng.bool()
        {
            self.let_go(made.summary.id, &task).await;
        }
    }

    /// Any task, or the newest: that one may well be running.
    pub(super) async fn cancel(&mut self) {
        let newest = self.known.back().copied().filter(|_| self.rng.bool());
        let Some(task) = newest.or_else(|| self.any()) else { return };
        let cancellation = Cancellation { reason: Some("at random".to_owned()) };
        let request = patiently(Duration::ZERO, self.coordinators.current().cancel(task, &cancellation));
        // The summary is not a state to hold it to: what runs goes on for a while.
        if let Err(error) =
            self.recorder.call(&self.who, Call::Cancel { task }, request, |_| Answer::Done).await
        {
            self.turn_from(&error);
        }
    }

    pub(super) async fn retry(&mut self) {
        let Some(task) = self.any() else { return };
        let request = patiently(Duration::ZERO, self.coordinators.current().retry(task));
        let answer = |task: &Task| Answer::Enqueued { ids: vec![task.summary.id], existing: Vec::new() };
        match self.recorder.call(&self.who, Call::Retry { task }, request, answer).await {
            Ok(made) => self.remember(made.summary.id),
            Err(error) => self.turn_from(&error),
        }
    }

    pub(super) async fn read(&mut self) {
        let Some(task) = self.any() else { return };
        let request = patiently(Duration::ZERO, self.coordinators.current().task(task));
        let answer = |task: &Task| Answer::Seen { state: task.summary.state, result: task.result.clone() };
        if let Err(error) = self.recorder.call(&self.who, Call::Read { task }, request, answer).await {
            self.turn_from(&error);
        }
    }

    /// A batch with a cycle, or with one task that cannot be.
    pub(super) async fn bad(&mut self) {
        let ask = self.ask();
        let mut tasks: Vec<NewTask> = (0..4)
            .map(|n| {
                let mut task = pretend(&format!("{ask}/{n}"), "default", &Behaviour::default());
                task.key = Some(format!("t{n}"));
                task
            })
            .collect();
        let kind = self.rng.u8(0..3);
        if let [first, .., last] = tasks.as_mut_slice() {
            match kind {
                0 => {
                    first.depends_on = vec!["t3".to_owned()];
                    last.depends_on = vec!["t0".to_owned()];
                }
                1 => last.depends_on = vec!["ghost".to_owned()],
                _ => last.priority = 1_000,
            }
        }
        self.batch(tasks, true).await;
    }
}
