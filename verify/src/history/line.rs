//! The lines of a history: JSON, one thing that somebody saw per line.

use std::collections::BTreeMap;

use orca_proto::event::Event;
use orca_proto::ids::{FencingToken, InstanceId, NodeId, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::task::{State, Task};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// When, by [`crate::clock::micros`].
    pub at: i64,
    /// Who saw it: a client or node of the run.
    pub who: String,
    /// What it was.
    pub what: What,
}

/// What a line says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// The first line of a run.
    Begin {
        /// The same moment by the wall clock, in microseconds since 1970.
        unix: i64,
        /// What the run was made from.
        seed: u64,
        /// How long a lease lasts, in milliseconds.
        lease_ms: i64,
    },
    /// A request, before it is sent.
    Call {
        /// Ties the answer to it; unique for who sent it.
        id: u64,
        /// The request.
        call: Call,
    },
    /// What came of a request.
    Answer {
        /// The request's.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// A node began to run a granted attempt.
    ProgramStarted {
        /// The attempt.
        lease: LeaseRef,
    },
    /// Something was broken, or is whole again.
    Fault {
        /// What was done, such as `kill`.
        fault: String,
        /// What to, such as `coordinator-1`.
        target: String,
        /// Whether it begins, ends, or was over at once.
        phase: Phase,
    },
    /// The database's clock was moved, between `since` and this line.
    ClockMoved {
        /// Just before, by [`crate::clock::micros`].
        since: i64,
        /// By how much the database's clock is ahead of the machine's now, in milliseconds.
        offset_ms: i64,
    },
    /// From here on the coordinator is asked for all it knows. What is done later may be missing in its answers.
    Questions,
    /// At the end: all that the coordinator says of a task.
    Task {
        /// The namespace it was found in.
        namespace: String,
        /// The task.
        task: Box<Task>,
    },
    /// At the end: the stored log of an attempt.
    Log {
        /// The attempt.
        lease: LeaseRef,
        /// Number and text of each line, as the coordinator lists them.
        lines: Vec<(i64, String)>,
    },
    /// At the end: one event of the stream.
    Event {
        /// The namespace it was found in.
        namespace: String,
        /// The event.
        event: Box<Event>,
    },
}

/// Where a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It lasts until its end.
    Begin,
    /// It is over.
    End,
    /// It was done, and that is all.
    Once,
}

/// A task as it was asked for: what the checks need to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The value of the task's label `ask`: unique in the run.
    pub ask: String,
}

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Call {
    /// One task, or a batch.
    Enqueue {
        /// Of the caller.
        namespace: String,
        /// What was asked for.
        tasks: Vec<Asked>,
        /// The idempotency key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// The unique key of the only task.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unique: Option<String>,
        /// It must be refused: nothing of it may be there.
        #[serde(default)]
        bad: bool,
    },
    /// An ended task once more.
    Retry {
        /// Which.
        task: TaskId,
    },
    /// The end of a task and all under it.
    Cancel {
        /// Which.
        task: TaskId,
    },
    /// A signal, or the approval under the name `approval`.
    Signal {
        /// To which.
        task: TaskId,
        /// Its name.
        name: String,
    },
    /// A look at a task.
    Read {
        /// Which.
        task: TaskId,
    },
    /// The limits of a queue, or of a group in it.
    Limit {
        /// Of the caller.
        namespace: String,
        /// Which queue.
        queue: String,
        /// Which group of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// At once; 0 while it is paused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_running: Option<u32>,
        /// So many may begin at once, and as many more in so many milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<(u32, u32)>,
    },
    /// A node makes itself known.
    Register {
        /// Of the node.
        namespace: String,
        /// Its name.
        name: String,
        /// Its run.
        instance: InstanceId,
        /// Attempts at once.
        slots: u32,
    },
    /// A node asks for work.
    Claim {
        /// Of the node.
        namespace: String,
        /// The node.
        node: NodeId,
        /// Its run.
        instance: InstanceId,
        /// How many.
        slots: u32,
    },
    /// A node keeps its leases.
    Renew {
        /// The node.
        node: NodeId,
        /// Its run.
        instance: InstanceId,
        /// Which.
        leases: Vec<LeaseRef>,
        /// Those of them that it knows are to be cancelled.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cancelling: Vec<LeaseRef>,
    },
    /// Something said under a fencing token that is neither a log nor a report.
    Fenced {
        /// The attempt.
        lease: LeaseRef,
        /// What: `start`, `progress`, `dependencies`.
        verb: String,
    },
    /// Log lines.
    Log {
        /// The attempt.
        lease: LeaseRef,
        /// The number of the first line; the others follow.
        first: i64,
        /// How many lines.
        count: i64,
    },
    /// Tasks under the attempt's task.
    Spawn {
        /// The attempt.
        lease: LeaseRef,
        /// What was asked for.
        tasks: Vec<Asked>,
    },
    /// How the attempt ended.
    Report {
        /// The attempt.
        lease: LeaseRef,
        /// The outcome's name.
        outcome: String,
        /// All of the report that must be equal for two of them to be the same, as JSON.
        body: Value,
        /// The tasks of the plan that came with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Vec<Asked>>,
        /// The plan must be refused.
        #[serde(default)]
        bad: bool,
    },
    /// Something that the caller's token does not allow, or that is not there.
    Probe {
        /// What was tried, such as `read`.
        verb: String,
        /// Why it must be refused.
        why: Trespass,
        /// The other namespace's task, where it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thing: Option<String>,
    },
}

/// Why a request must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trespass {
    /// No such thing.
    Absent,
    /// Another namespace's; must be answered as if it were absent.
    Foreign,
    /// Not with this token's role.
    Role,
    /// There is no token.
    Anonymous,
    /// Another node's lease.
    OthersLease,
}

/// What came of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    /// A problem.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The last part of the problem's URN.
        problem: String,
        /// For people.
        detail: String,
    },
    /// None: it may or may not have been carried out.
    None {
        /// What is known of it.
        why: String,
    },
    /// Tasks were enqueued.
    Enqueued {
        /// In the order of the request.
        ids: Vec<TaskId>,
        /// Those that were there already.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        existing: Vec<TaskId>,
    },
    /// A task's state.
    Seen {
        /// Where it is.
        state: State,
        /// Its result.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
    },
    /// A node is known.
    Registered {
        /// By this id.
        node: NodeId,
    },
    /// Work.
    Granted {
        /// All of it.
        grants: Vec<Granted>,
    },
    /// Leases that go on, but for these.
    Renewed {
        /// No longer the node's.
        lost: Vec<LeaseRef>,
        /// To be cancelled.
        cancel: Vec<LeaseRef>,
    },
    /// Log lines were stored.
    Logged {
        /// Which is wanted next.
        next: i64,
    },
    /// An attempt was settled.
    Reported {
        /// The task's state after it.
        state: State,
    },
    /// Done, and nothing to tell.
    Done,
}

/// A grant, as a node saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    /// The task.
    pub task: TaskId,
    /// The fencing token.
    pub token: FencingToken,
    /// The attempt's number.
    pub attempt: i32,
    /// Attempts in all.
    pub max_attempts: i32,
    /// The value of the task's label `ask`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<String>,
}

impl Granted {
    /// Its lease.
    #[must_use]
    pub const fn lease(&self) -> LeaseRef {
        LeaseRef { task: self.task, token: self.token }
    }
}

/// How often each fault was done to each target.
pub type Faults = BTreeMap<(String, String), usize>;
