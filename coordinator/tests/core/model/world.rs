//! A life: a namespace with three nodes on two coordinators, what was answered so far, and how it is looked at.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use orca_coordinator::app::{App, Principal};
use orca_proto::ids::{InstanceId, NodeId, TaskId};
use orca_proto::node::{LeaseRef, Registration};
use orca_proto::task::{State, TaskFilter};
use orca_proto::token::Access;
use sqlx::PgConnection;

use super::super::support::{SOON, principal, registration};
use super::record::{Known, Reported};
use super::step::{How, NODES, Step};
use super::{Rig, expected, invariants};

/// How many attempts a node may hold.
pub(crate) const SLOTS: u32 = 10;
/// How many of the other queue may run where it is limited.
pub(crate) const LIMIT: i64 = 2;
/// How long what one coordinator does may take to be seen by the other.
const LAG: Duration = Duration::from_secs(5);
/// Nothing is to happen by itself so soon after a step: the life's own steps take time, too.
const QUIET_MS: i64 = 20_000;

/// A node of the life.
pub(crate) struct Node {
    pub(crate) who: Principal,
    pub(crate) id: NodeId,
    pub(crate) instance: InstanceId,
}

pub(crate) struct World {
    rig: Rc<Rig>,
    pub(crate) namespace: String,
    pub(crate) limited: bool,
    pub(crate) nodes: Vec<Node>,
    pub(crate) tasks: Vec<Known>,
    pub(crate) reported: Vec<Reported>,
    /// Leases that went otherwise than by a report, and whose they were.
    pub(crate) lost: Vec<(LeaseRef, usize)>,
    /// Whether the default queue, and the other one, is paused.
    pub(crate) paused: [bool; 2],
    pub(crate) connection: PgConnection,
}

/// A task as it is seen.
pub(crate) struct Seen {
    pub(crate) state: State,
    pub(crate) result: Option<String>,
}

impl World {
    pub(crate) async fn begin(rig: Rc<Rig>, limited: bool) -> Self {
        let namespace = format!("life-{}", uuid::Uuid::now_v7().simple());
        let connection = rig.test.connection().await;
        let mut world = Self {
            rig,
            namespace,
            limited,
            nodes: Vec::new(),
            tasks: Vec::new(),
            reported: Vec::new(),
            lost: Vec::new(),
            paused: [false; 2],
            connection,
        };
        world.set_queues().await;
        for node in 0..NODES {
            let who = principal(&world.namespace, &format!("node-{node}"), Access::Worker);
            let (id, instance) = world.register(&who, node).await;
            world.nodes.push(Node { who, id, instance });
        }
        world
    }

    pub(crate) fn rig(&self) -> Rc<Rig> {
        Rc::clone(&self.rig)
    }

    pub(crate) fn app(&self, at: usize) -> App {
        self.rig.app(at).clone()
    }

    pub(crate) fn operator(&self) -> Principal {
        principal(&self.namespace, "ann", Access::Operator)
    }

    /// Milliseconds since 1970, by the clock that decides.
    pub(crate) fn now(&self) -> i64 {
        self.rig.test.clock.now().as_millisecond()
    }

    /// Registers a new instance of a node.
    pub(crate) async fn register(&self, who: &Principal, node: usize) -> (NodeId, InstanceId) {
        let instance = InstanceId::new();
        let registration =
            Registration { slots: SLOTS, ..registration(&format!("n{node}"), Access::Worker, instance) };
        (self.app(0).node_register(who, registration).await.unwrap().id, instance)
    }

    /// Moves the clock, and on until nothing is to happen by itself soon; what runs out on the way is lost.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.rig.test.clock.advance(by);
        while self
            .tasks
            .iter()
            .flat_map(Known::instants)
            .any(|at| (self.now() - 1_000..self.now() + QUIET_MS).contains(&at))
        {
            self.rig.test.clock.advance(Duration::from_secs(5));
        }
        let now = self.now();
        self.lose(|held_until, _| held_until <= now);
    }

    /// The leases of which `which` says so, by when they run out and whose they are, are gone.
    pub(crate) fn lose(&mut self, which: impl Fn(i64, usize) -> bool) {
        let now = self.now();
        for task in &mut self.tasks {
            if let Some(held) = task.held.as_ref().filter(|held| which(held.until, held.node)) {
                let lease = LeaseRef { task: held.grant.task, token: held.grant.token };
                self.lost.push((lease, held.node));
                task.fails(None, now);
            }
        }
    }

    /// Looks at everything, and holds it against what must be true; after the consequences of the last step, where it has
    /// any.
    pub(crate) async fn check(&mut self, mut follows: bool) {
        let limit = Instant::now() + LAG;
        loop {
            if follows {
                self.app(0).reconcile().await.unwrap();
            }
            let seen = self.look().await;
            match self.compare(&seen) {
                Ok(()) => break,
                // Another coordinator's turn may be under way.
                Err(_) if Instant::now() < limit => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(why) => panic!("{why}"),
            }
            follows = true;
        }
        invariants::hold(self).await;
    }

    async fn look(&mut self) -> HashMap<TaskId, Seen> {
        let (app, operator) = (self.app(1), self.operator());
        let mut filter = TaskFilter { limit: Some(500), ..TaskFilter::default() };
        let mut seen = HashMap::new();
        loop {
            let page = app.task_list(&operator, filter.clone()).await.unwrap();
            for task in page.items {
                assert!(task.attempt <= task.max_attempts, "4: attempts never pass max_attempts: {task:?}");
                let before = seen.insert(task.id, Seen { state: task.state, result: None });
                assert!(before.is_none(), "1: one acknowledged task, one task: {} is listed twice", task.id);
            }
            filter.cursor = page.next;
            if filter.cursor.is_none() {
                break;
            }
        }
        let results: Vec<(uuid::Uuid, Option<String>)> = sqlx::query_as(
            "SELECT id, result FROM orca.task_now WHERE namespace = $1 AND state = 'succeeded'",
        )
        .bind(&self.namespace)
        .fetch_all(&mut self.connection)
        .await
        .unwrap();
        for (id, result) in results {
            if let Some(seen) = seen.get_mut(&TaskId(id)) {
                seen.result = result;
            }
        }
        seen
    }

    /// Holds what is seen against what is known. What only may lag is answered, everything else fails here.
    fn compare(&mut self, seen: &HashMap<TaskId, Seen>) -> Result<(), String> {
        let now = self.now();
        assert_eq!(
            seen.len(),
            self.tasks.len(),
            "1: nothing is lost, and nothing appears that nobody asked for"
        );
        let states: Vec<State> = self
            .tasks
            .iter()
            .map(|task| seen.get(&task.id).expect("1: an acknowledged task is never lost").state)
            .collect();
        for (task, state) in self.tasks.iter().zip(&states) {
            if let Some((ended, result)) = &task.ended {
                assert_eq!(ended, state, "4: a terminal state never changes: {task:?}");
                assert_eq!(result, &seen[&task.id].result, "4: nor does its result: {task:?}");
            }
        }
        for (at, task) in self.tasks.iter().enumerate().filter(|(_, task)| task.ended.is_none()) {
            let may = expected::states(&self.tasks, at, &states, now);
            if !may.contains(&states[at]) {
                return Err(format!("{at} is {}, but may be {may:?} only, at {now}: {task:#?}", states[at]));
            }
        }
        for (task, state) in self.tasks.iter_mut().zip(states) {
            if state.is_terminal() && task.ended.is_none() {
                task.ended = Some((state, seen[&task.id].result.clone()));
            }
            if state == State::Ready && task.ready_since.is_none() {
                task.ready_since = Some(now);
            }
            task.entered |= matches!(state, State::Ready | State::Scheduled);
        }
        Ok(())
    }

    /// Lets everything come to its end, and looks whether it did.
    pub(crate) async fn drain(&mut self) {
        let limit = Instant::now() + SOON;
        self.paused = [false; 2];
        self.set_queues().await;
        while self.tasks.iter().any(|task| task.ended.is_none()) {
            assert!(
                Instant::now() < limit,
                "1: a drain ends: {:#?}",
                self.tasks.iter().find(|task| task.ended.is_none())
            );
            for node in 0..NODES {
                self.take(Step::Claim { at: 0, node, slots: SLOTS }).await;
            }
            while self.tasks.iter().any(|task| task.held.is_some()) {
                self.take(Step::Report { at: 1, lease: 0, how: How::Success, together: true }).await;
            }
            self.take(Step::Advance { seconds: 71 }).await;
            self.check(true).await;
        }
        invariants::nothing_is_left(self).await;
    }
}
