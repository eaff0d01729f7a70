//! What a pretend task does: its input says so.

use orca_proto::task::{Outcome, Timeout};
use serde::{Deserialize, Serialize};

/// The input of a pretend task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// How long its program runs, in milliseconds.
    pub ms: u64,
    /// How each attempt ends, by number; the last stands for all after it. None at all: success.
    pub ends: Vec<End>,
    /// Log lines.
    pub lines: i64,
    /// The lines are also sent again, out of order, and with gaps.
    pub messy: bool,
    /// Tasks that it puts under itself.
    pub children: u32,
    /// For planners: tasks in its plan, each needing the one before.
    pub plan: u32,
    /// For planners: the plan holds a cycle, and is sent before the right one.
    pub bad_plan: bool,
    /// The report is sent again.
    pub repeat: bool,
    /// Another report is sent after the report.
    pub contradict: bool,
    /// It speaks on after its end.
    pub afterwards: bool,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// With a result.
    #[default]
    Succeed,
    /// With an exit code.
    Fail(i32),
    /// By its time limit.
    TimeOut,
    /// By the kernel, for memory.
    OutOfMemory,
    /// By a signal.
    Kill,
    /// By the engine's fault.
    RuntimeError,
    /// By the node's refusal.
    Reject,
    /// Not: its lease runs out, and then it speaks.
    Hang,
}

impl Behaviour {
    /// How the attempt with this number ends.
    #[must_use]
    pub fn end(&self, attempt: i32) -> End {
        let at = usize::try_from(attempt - 1).unwrap_or_default();
        self.ends.get(at).or(self.ends.last()).copied().unwrap_or_default()
    }
}

impl End {
    /// What is reported.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        let reason = "as its input says".to_owned();
        match self {
            Self::Succeed | Self::Hang => Outcome::Succeeded,
            Self::Fail(exit_code) => Outcome::Failed { exit_code, reason: None },
            Self::TimeOut => Outcome::TimedOut { which: Timeout::StartToClose },
            Self::OutOfMemory => Outcome::OutOfMemory,
            Self::Kill => Outcome::Killed { signal: 11 },
            Self::RuntimeError => Outcome::RuntimeError { reason },
            Self::Reject => Outcome::Rejected { reason },
        }
    }
}
