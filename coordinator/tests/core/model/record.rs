//! What a life knows of its tasks: what was asked for, what was answered.

use orca_proto::attempt::Report;
use orca_proto::ids::TaskId;
use orca_proto::node::{Grant, LeaseRef};
use orca_proto::spec::NewTask;
use orca_proto::task::State;

/// A task that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: TaskId,
    pub(crate) spec: NewTask,
    /// By their places among the tasks of the life.
    pub(crate) needs: Vec<usize>,
    pub(crate) parent: Option<Under>,
    pub(crate) attempts_used: i32,
    pub(crate) runtime_errors: i32,
    /// All tokens it was granted under, oldest first.
    pub(crate) tokens: Vec<i64>,
    pub(crate) held: Option<Held>,
    /// Was ready once: what it depends on and waits for does not matter any more.
    pub(crate) entered: bool,
    /// Its attempt succeeded, and what it spawned has not ended.
    pub(crate) waiting: bool,
    /// Milliseconds since 1970: when it is due, when its gate gives way, its deadline, since when it is ready.
    pub(crate) due: Option<i64>,
    pub(crate) gate: Option<i64>,
    pub(crate) deadline: Option<i64>,
    pub(crate) ready_since: Option<i64>,
    /// What its last attempt made of it, once and for all.
    pub(crate) last_word: Option<State>,
    /// A cancel of it, or of what it is under, was acknowledged.
    pub(crate) cancelled: bool,
    /// The state and result that it was first seen to have ended with.
    pub(crate) ended: Option<(State, Option<String>)>,
}

/// What a task was spawned by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Under {
    pub(crate) task: usize,
    pub(crate) token: i64,
}

/// A lease that stands.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) node: usize,
    pub(crate) grant: Grant,
    /// Milliseconds since 1970.
    pub(crate) until: i64,
    pub(crate) started: bool,
}

/// An attempt that was reported, and what was answered.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    pub(crate) lease: LeaseRef,
    pub(crate) node: usize,
    pub(crate) report: Report,
    pub(crate) state: State,
}

impl Known {
    pub(crate) fn new(id: TaskId, spec: NewTask, needs: Vec<usize>, parent: Option<Under>, now: i64) -> Self {
        let after = |span: Option<orca_proto::duration::Span>| span.map(|span| now + span.as_millis());
        Self {
            id,
            needs,
            parent,
            attempts_used: 0,
            runtime_errors: 0,
            tokens: Vec::new(),
            held: None,
            entered: false,
            waiting: false,
            due: after(spec.delay),
            gate: after(spec.approval.as_ref().and_then(|approval| approval.timeout)),
            deadline: spec.deadline.map(|at| at.as_millisecond()),
            ready_since: None,
            last_word: None,
            cancelled: false,
            ended: None,
            spec,
        }
    }

    /// The instant from which on nobody may take it any more, where that is known.
    pub(crate) fn start_by(&self) -> Option<i64> {
        let limit = self.spec.timeouts.schedule_to_start?;
        self.ready_since.map(|since| since + limit.as_millis())
    }

    /// Every instant at which something may happen to it by itself.
    pub(crate) fn instants(&self) -> impl Iterator<Item = i64> {
        let until = self.held.as_ref().map(|held| held.until);
        let all = [self.due, self.gate, self.deadline, self.start_by(), until];
        all.into_iter().flatten().filter(|_| self.ended.is_none())
    }

    pub(crate) fn succeeded(&self) -> bool {
        matches!(self.ended, Some((State::Succeeded, _)))
    }
}
