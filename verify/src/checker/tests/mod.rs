//! Handmade histories: a good one that every check has something to say of, and for each check a bad one.

mod lives;
mod rules;
mod story;

use orca_proto::ids::InstanceId;
use orca_proto::spec::{Unique, WaitFor};
use orca_proto::task::{Outcome, State};

use super::check;
use crate::checker::log_text;
use crate::history::{Answer, Call, History, Trespass, What};
use story::{DUMP, Story, asked, lease, lost, refused, task, when};

#[test]
fn a_good_history_breaks_nothing_and_every_check_looks_at_something() {
    let mut story = Story::new();
    let register = Call::Register {
        namespace: "red".into(),
        name: "node".into(),
        instance: InstanceId::new(),
        slots: 2,
    };
    let node = story.node;
    story.call(1, register, Answer::Registered { node });
    let rate = Some((5, 1_000));
    let limit = Call::Limit {
        namespace: "red".into(),
        queue: "default".into(),
        group: None,
        max_running: Some(1),
        rate,
    };
    story.call(1, limit, Answer::Done);
    for group in [None, Some("narrow".to_owned())] {
        let limit = Call::Limit {
            namespace: "red".into(),
            queue: "default".into(),
            group,
            max_running: Some(1),
            rate: None,
        };
        story.call(2, limit, Answer::Done);
    }
    let mut first = task("first", State::Succeeded, 5_000);
    first.spec.group = Some("narrow".into());
    first.spec.wait_for =
        vec![WaitFor { signal: "green".into(), timeout: None, on_timeout: Default::default() }];
    first.spec.unique = Some(Unique { key: "u".into(), r#while: Default::default() });
    let id = first.summary.id;
    story.enqueue(10, &first);
    let unique = Call::Enqueue {
        namespace: "red".into(),
        tasks: vec![asked("again")],
        key: None,
        unique: Some("u".into()),
        bad: false,
    };
    story.call(30, unique, Answer::Enqueued { ids: vec![id], existing: vec![id] });
    story.call(50, Call::Signal { task: id, name: "green".into() }, Answer::Done);
    story.grant(&mut first, 1, 100, 2_700, Outcome::Lost);
    story.renew(400, vec![lease(id, 1)], vec![], vec![]);
    story.grant(&mut first, 2, 2_800, 5_000, Outcome::Succeeded);
    story.note(110, What::ProgramStarted { lease: lease(id, 1) });
    story.note(2_810, What::ProgramStarted { lease: lease(id, 2) });
    story.call(2_900, Call::Fenced { lease: lease(id, 1), verb: "start".into() }, lost());
    story.renew(2_910, vec![lease(id, 1)], vec![lease(id, 1)], vec![]);
    story.call(2_950, Call::Log { lease: lease(id, 2), first: 0, count: 2 }, Answer::Logged { next: 2 });
    let done = || Answer::Reported { state: State::Succeeded };
    story.report(4_990, lease(id, 2), "succeeded", done());
    story.report(5_010, lease(id, 2), "succeeded", done());
    story.report(5_020, lease(id, 2), "failed", refused(409, "result-conflict"));
    for at in [5_100, 5_200] {
        story.call(at, Call::Read { task: id }, Answer::Seen { state: State::Succeeded, result: None });
    }
    let mut second = task("second", State::Cancelled, 6_500);
    second.depends_on = vec![id];
    story.grant(&mut second, 1, 6_000, 6_500, Outcome::Cancelled);
    let mut third = task("third", State::Skipped, 6_500);
    third.depends_on = vec![second.summary.id];
    let both = Call::Enqueue {
        namespace: "red".into(),
        tasks: vec![asked("second"), asked("third")],
        key: Some("k".into()),
        unique: None,
        bad: false,
    };
    let ids = vec![second.summary.id, third.summary.id];
    for at in [5_300, 5_400] {
        story.call(at, both.clone(), Answer::Enqueued { ids: ids.clone(), existing: vec![] });
    }
    let held = lease(second.summary.id, 1);
    story.call(6_100, Call::Cancel { task: second.summary.id }, Answer::Done);
    story.renew(6_200, vec![held], vec![], vec![held]);
    let bad = Call::Enqueue {
        namespace: "red".into(),
        tasks: vec![asked("bad0"), asked("bad1")],
        key: None,
        unique: None,
        bad: true,
    };
    story.call(7_000, bad, refused(422, "plan-invalid"));
    for (why, at) in [(Trespass::Absent, 7_100), (Trespass::Foreign, 7_200)] {
        let probe = Call::Probe { verb: "read".into(), why, thing: Some(id.to_string()) };
        story.call(at, probe, refused(404, "not-found"));
    }
    for task in [&first, &second, &third] {
        story.dump(task);
        story.ends(task, task.summary.state);
    }
    let lines = vec![(0, log_text(lease(id, 2), 0)), (1, log_text(lease(id, 2), 1))];
    story.note(DUMP, What::Log { lease: lease(id, 2), lines });

    story.lines.sort_by_key(|line| line.at);
    for verdict in check(&History::of(story.lines)) {
        for check in verdict.checks {
            assert!(
                check.violations.is_empty(),
                "{}: {}: {:?}",
                verdict.number,
                check.name,
                check.violations
            );
            assert!(check.facts > 0, "{}: {} looked at nothing", verdict.number, check.name);
        }
    }
}

#[test]
fn a_clock_that_was_set_back_explains_what_it_explains_and_no_more() {
    for (moved, broken) in [(true, 0), (false, 1)] {
        let mut story = Story::new();
        let mut task = task("a", State::Succeeded, 300);
        story.enqueue(10, &task);
        story.grant(&mut task, 1, 10_000, 10_100, Outcome::OutOfMemory);
        story.grant(&mut task, 2, 9_200, 9_300, Outcome::Succeeded);
        // The second claim was sent when the machine's clock said 10,200.
        for line in &mut story.lines {
            if line.at / 1_000 == 9_199 || line.at / 1_000 == 9_204 {
                line.at += 1_001_000;
            }
        }
        task.summary.finished_at = Some(when(9_300));
        story.dump(&task);
        if moved {
            story.note(10_150, What::ClockMoved { since: 10_140_000, offset_ms: -1_000 });
        }
        assert_eq!(story.broken().len(), broken);
    }
}
