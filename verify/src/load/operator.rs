//! One operator: does one thing after the other, at random.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use orca_proto::approval::Decision;
use orca_proto::client::ClientError;
use orca_proto::ids::TaskId;
use orca_proto::signal::Signal;
use orca_proto::spec::NewTask;
use orca_proto::task::{Task, TaskFilter};

use super::Mix;
use crate::history::{Answer, Asked, Call, Recorder};
use crate::node::{Coordinators, patiently};
use crate::system::{NAMESPACES, System};

/// Tasks that an operator remembers.
const MEMORY: usize = 200;

pub(super) struct Operator {
    pub(super) who: String,
    pub(super) namespace: &'static str,
    pub(super) recorder: Recorder,
    pub(super) coordinators: Coordinators,
    /// The same namespace's worker token, and the other namespace's operator.
    pub(super) worker: Coordinators,
    pub(super) foreigner: Coordinators,
    pub(super) nobody: Coordinators,
    pub(super) addresses: Vec<String>,
    pub(super) token: String,
    pub(super) rng: fastrand::Rng,
    pub(super) mix: Mix,
    pub(super) known: VecDeque<TaskId>,
    count: u64,
}

impl Operator {
    pub(super) fn new(
        system: &System,
        recorder: &Recorder,
        namespace: &'static str,
        number: u32,
        rng: fastrand::Rng,
        mix: Mix,
    ) -> Result<Self> {
        let first = usize::try_from(number)?;
        let other = if namespace == NAMESPACES[0] { NAMESPACES[1] } else { NAMESPACES[0] };
        let tokens = system.tokens.get(namespace).cloned();
        let (operator, intruder) =
            tokens.map(|tokens| (tokens.operator, tokens.intruder)).unwrap_or_default();
        Ok(Self {
            who: format!("{namespace}-{number}"),
            namespace,
            recorder: recorder.clone(),
            coordinators: system.operator(namespace, first)?,
            worker: Coordinators::new(&system.clients, &intruder, first)?,
            foreigner: system.operator(other, first)?,
            nobody: Coordinators::new(&system.clients, "nobody", first)?,
            addresses: system.clients.clone(),
            token: operator,
            rng,
            mix,
            known: VecDeque::new(),
            count: 0,
        })
    }

    pub(super) async fn work(&mut self) {
        let mix = self.mix;
        let weights = [
            mix.plain,
            mix.keyed,
            mix.unique,
            mix.graphs,
            mix.goals,
            mix.waits,
            mix.cancels,
            mix.retries,
            mix.reads,
            mix.probes,
            mix.bad,
            mix.hang_ups,
        ];
        let all: u32 = weights.iter().sum();
        loop {
            let mut at = self.rng.u32(0..all.max(1));
            let mut chosen = 0;
            for (index, weight) in weights.iter().enumerate() {
                if at < *weight {
                    chosen = index;
                    break;
                }
                at -= weight;
            }
            match chosen {
                0 => self.plain().await,
                1 => self.keyed().await,
                2 => self.unique().await,
                3 => self.graph().await,
                4 => self.goal().await,
                5 => self.waiting().await,
                6 => self.cancel().await,
                7 => self.retry().await,
                8 => self.read().await,
                9 => self.probe().await,
                10 => self.bad().await,
                _ => self.hang_up().await,
            }
            let pause = self.rng.u64(0..=self.mix.pause_ms);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// A name that nothing in the run was asked for by before.
    pub(super) fn ask(&mut self) -> String {
        self.count += 1;
        format!("{}.{}", self.who, self.count)
    }

    pub(super) fn remember(&mut self, task: TaskId) {
        if self.known.len() >= MEMORY {
            self.known.pop_front();
        }
        self.known.push_back(task);
    }

    pub(super) fn any(&mut self) -> Option<TaskId> {
        let at = self.rng.usize(0..self.known.len().max(1));
        self.known.get(at).copied()
    }

    /// Enqueues one task. What no answer came for may be there.
    pub(super) async fn enqueue(&mut self, task: &NewTask, key: Option<&str>) -> Result<Task, ClientError> {
        let ask = task.labels.get("ask").cloned().unwrap_or_default();
        let call = Call::Enqueue {
            namespace: self.namespace.to_owned(),
            tasks: vec![Asked { ask: ask.clone() }],
            key: key.map(str::to_owned),
            unique: task.unique.as_ref().map(|unique| unique.key.clone()),
            bad: false,
        };
        let request = patiently(Duration::ZERO, self.coordinators.current().enqueue(task, key));
        let answer = |task: &Task| enqueued(task, &ask);
        let outcome = self.recorder.call(&self.who, call, request, answer).await;
        match &outcome {
            Ok(task) => self.remember(task.summary.id),
            Err(error) => self.turn_from(error),
        }
        outcome
    }

    pub(super) fn turn_from(&self, error: &ClientError) {
        if error.is_transient() {
            self.coordinators.turn();
        }
    }

    /// Lets a task go on, whatever it waits for.
    pub(super) async fn let_go(&self, id: TaskId, task: &NewTask) {
        let client = self.coordinators.current();
        if task.approval.is_some() {
            let call = Call::Signal { task: id, name: "approval".to_owned() };
            let decision = Decision { approve: true, comment: None };
            let request = patiently(Duration::ZERO, client.decide(id, &decision));
            let _ = self.recorder.call(&self.who, call, request, |_| Answer::Done).await;
        }
        for wait in &task.wait_for {
            let call = Call::Signal { task: id, name: wait.signal.clone() };
            let signal = Signal { name: wait.signal.clone(), payload: serde_json::json!({ "for": id }) };
            let request = patiently(Duration::ZERO, client.signal(id, &signal));
            let _ = self.recorder.call(&self.who, call, request, |()| Answer::Done).await;
        }
    }

    /// Lets go on whatever waits for a signal or an approval; answers how many tasks have not ended yet, up to 500.
    pub(super) async fn release(&self) -> Result<usize> {
        let filter = |state: &str, limit| TaskFilter {
            state: Some(state.to_owned()),
            limit: Some(limit),
            ..TaskFilter::default()
        };
        let client = self.coordinators.current();
        let blocked = patiently(Duration::ZERO, client.tasks(&filter("blocked", 200))).await?;
        for summary in &blocked.items {
            let task = patiently(Duration::ZERO, client.task(summary.id)).await?;
            self.let_go(summary.id, &task.spec).await;
        }
        let open = filter("blocked,scheduled,ready,running,waiting", 500);
        Ok(patiently(Duration::ZERO, client.tasks(&open)).await?.items.len())
    }
}

/// What an enqueue's answer says: the task that was made, or one that was there already.
pub(super) fn enqueued(task: &Task, ask: &str) -> Answer {
    let ids = vec![task.summary.id];
    let mine = task.summary.labels.get("ask").map(String::as_str) == Some(ask);
    Answer::Enqueued { existing: if mine { Vec::new() } else { ids.clone() }, ids }
}
