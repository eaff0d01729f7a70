//! Pretend tasks: what is asked for, at random.

use std::collections::BTreeMap;

use orca_proto::duration::Span;
use orca_proto::spec::{Backoff, NewTask, Retry, Timeouts};

use crate::node::{Behaviour, End};

/// A task for pretend nodes. `ask` is its name in the history, unique in the run.
#[must_use]
pub fn pretend(ask: &str, queue: &str, behaviour: &Behaviour) -> NewTask {
    let mut task = NewTask::new("pretend");
    task.name = Some("pretend".to_owned());
    task.queue = queue.to_owned();
    task.input = serde_json::to_value(behaviour).unwrap_or_default();
    task.labels = BTreeMap::from([("ask".to_owned(), ask.to_owned())]);
    task.timeouts = Timeouts { grace: Span::secs(1), ..Timeouts::default() };
    task.retry = Retry {
        max_attempts: 3,
        backoff: Backoff { initial: Span::millis(50), factor: 2.0, max: Span::millis(400), jitter: 0.5 },
        ..Retry::default()
    };
    task
}

/// How a task behaves: mostly well. `hang` of 100 hang.
pub(super) fn behaviour(rng: &mut fastrand::Rng, hang: u8) -> Behaviour {
    let mut behaviour = Behaviour { ms: rng.u64(0..60), ..Behaviour::default() };
    if rng.u8(0..100) < 12 {
        behaviour.ms = rng.u64(300..1_500);
    }
    if rng.u8(0..100) < hang {
        // The next attempt still runs when the one that hung speaks again.
        behaviour.ends = vec![End::Hang, End::Succeed];
        behaviour.ms = rng.u64(1_000..2_500);
        behaviour.lines = 3;
    } else if rng.u8(0..100) < 25 {
        let bad = *rng
            .choice(&[
                End::Fail(3),
                End::TimeOut,
                End::OutOfMemory,
                End::Kill,
                End::RuntimeError,
                End::Reject,
            ])
            .unwrap_or(&End::Fail(1));
        behaviour.ends = match rng.u8(0..3) {
            0 => vec![bad, End::Succeed],
            1 => vec![bad, bad, End::Succeed],
            _ => vec![bad],
        };
    }
    if rng.u8(0..100) < 30 {
        behaviour.lines = rng.i64(1..12);
        behaviour.messy = rng.bool();
    }
    if rng.u8(0..100) < 5 {
        behaviour.children = rng.u32(1..4);
    }
    behaviour.repeat = rng.u8(0..100) < 12;
    behaviour.contradict = rng.u8(0..100) < 12;
    behaviour.afterwards = rng.u8(0..100) < 12;
    behaviour
}
