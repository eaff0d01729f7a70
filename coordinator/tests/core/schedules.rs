//! Schedules: runs come once, at their time, by the policies of their schedule; and what makes no sense is not stored.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use orca_coordinator::app::Error;
use orca_proto::ids::TaskId;
use orca_proto::problem::Kind;
use orca_proto::queue::Pause;
use orca_proto::schedule::{Backfill, LastRun, Overlap, Schedule, ScheduleFilter, ScheduleSpec};
use orca_proto::spec::{InputArtifact, NewTask};
use orca_proto::task::{Outcome, State, TaskFilter, TaskSummary};
use orca_proto::token::Access;
use serde_json::json;

use super::support::{RETENTION, SOON, TestApp, kind, lease, principal, success};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);

fn once() -> NewTask {
    let mut task = NewTask::new("image");
    task.retry.max_attempts = 1;
    task
}

/// A schedule of every day at the minute two hours from now, and that minute: no test lasts until then by itself.
fn daily(overlap: Overlap) -> (ScheduleSpec, Timestamp) {
    let minute = (Timestamp::now() + SignedDuration::from_hours(2)).as_second() / 60 * 60;
    let first = Timestamp::from_second(minute).unwrap();
    let cron = first.strftime("%-M %-H * * *").to_string();
    (ScheduleSpec { overlap, ..ScheduleSpec::new(cron, once()) }, first)
}

impl TestApp {
    async fn set(&self, name: &str, spec: &ScheduleSpec) -> Schedule {
        self.app.schedule_put(&self.operator(), name, spec.clone()).await.unwrap().0
    }

    async fn schedule(&self, name: &str) -> Schedule {
        self.app.schedule_get(&self.operator(), name).await.unwrap()
    }

    /// All tasks, oldest first.
    async fn tasks(&self) -> Vec<TaskSummary> {
        let mut tasks = self.app.task_list(&self.operator(), TaskFilter::default()).await.unwrap().items;
        tasks.reverse();
        tasks
    }

    async fn states(&self) -> Vec<State> {
        self.tasks().await.into_iter().map(|task| task.state).collect()
    }

    /// The instant that the run was for, as its program finds it.
    async fn run_at(&self, task: TaskId) -> Timestamp {
        self.task(task).await.spec.container.env["ORCA_RUN_AT"].parse().unwrap()
    }

    /// Everything that is due is enqueued: by this call, or by the timer, which may be at it.
    async fn look(&self) {
        self.reconcile().await;
        self.execute("SELECT FROM orca.schedules FOR UPDATE").await;
        self.reconcile().await;
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.look().await;
    }

    /// Refuses to set this, and says of which fields.
    async fn refused(&self, name: &str, spec: ScheduleSpec) -> Vec<String> {
        pointers(self.app.schedule_put(&self.operator(), name, spec).await.map(drop))
    }

    async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(&mut self.connection().await).await.unwrap();
    }
}

fn pointers<T: std::fmt::Debug>(result: Result<T, Error>) -> Vec<String> {
    let problem = result.unwrap_err().problem();
    assert_eq!(problem.kind, Kind::Validation, "{problem:?}");
    problem.errors.into_iter().map(|error| error.pointer).collect()
}

#[tokio::test]
async fn a_due_run_is_enqueued_once_however_many_coordinators_look() {
    let test = TestApp::start().await;
    let (spec, first) = daily(Overlap::Queue);
    let set = test.set("nightly", &spec).await;
    let days: Vec<Timestamp> = (0..5).map(|day| first + SignedDuration::from_hours(24 * day)).collect();
    assert_eq!((set.next, set.last, set.spec), (days.clone(), None, spec));
    let replica = test.replica().await;
    test.clock.advance(2 * HOUR);
    let (a, b, c) = tokio::join!(test.app.reconcile(), replica.reconcile(), test.app.reconcile());
    for looked in [a, b, c] {
        looked.unwrap();
    }
    test.look().await;
    let tasks = test.tasks().await;
    assert_eq!(tasks.len(), 1);
    let schedule = test.schedule("nightly").await;
    assert_eq!(schedule.last, Some(LastRun { at: first, task: tasks[0].id }));
    assert_eq!(schedule.next[..4], days[1..]);
    let task = test.task(tasks[0].id).await;
    assert_eq!((task.summary.name.as_str(), task.summary.state), ("nightly", State::Ready));
    assert_eq!(task.spec.container.env["ORCA_SCHEDULE"], "nightly");
    assert_eq!(task.spec.container.env["ORCA_RUN_AT"], first.to_string());
    test.stop().await;
}

#[tokio::test]
async fn the_timer_enqueues_by_itself_and_a_pause_ends_that_at_once() {
    let test = TestApp::start().await;
    let spec = ScheduleSpec { overlap: Overlap::Queue, ..ScheduleSpec::new("* * * * * *", once()) };
    test.set("ticking", &spec).await;
    let three = async {
        while test.tasks().await.len() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, three).await.expect("the timer enqueued nothing");
    let pause = Pause { reason: Some("maintenance".to_owned()) };
    let paused = test.app.schedule_pause(&test.operator(), "ticking", pause).await.unwrap();
    let by = paused.paused.clone().unwrap();
    assert_eq!((by.by.as_str(), by.reason.as_deref(), paused.next.len()), ("ann", Some("maintenance"), 0));
    let before = test.tasks().await.len();
    test.pass(HOUR).await;
    assert_eq!(test.tasks().await.len(), before);
    // A second pause does not hide who paused first.
    let again = test.app.schedule_pause(&test.operator(), "ticking", Pause::default()).await.unwrap();
    assert_eq!(again.paused, paused.paused);
    test.stop().await;
}

#[tokio::test]
async fn while_a_run_is_open_the_next_is_skipped() {
    let test = TestApp::start().await;
    let (spec, first) = daily(Overlap::Skip);
    test.set("nightly", &spec).await;
    test.pass(2 * HOUR).await;
    test.pass(DAY).await;
    test.pass(DAY).await;
    assert_eq!(test.states().await, [State::Ready]);
    assert_eq!(test.schedule("nightly").await.last.unwrap().at, first);
    let noted: (i64, bool) = sqlx::query_as("SELECT skipped, skipped_at > last_at FROM orca.schedules")
        .fetch_one(&mut test.connection().await)
        .await
        .unwrap();
    assert_eq!(noted, (2, true));
    let by_hand = test.app.schedule_run(&test.operator(), "nightly", None).await;
    assert_eq!(kind(by_hand), Kind::Conflict);
    let id = test.tasks().await[0].id;
    test.app.task_cancel(&test.operator(), id, Default::default()).await.unwrap();
    test.pass(DAY).await;
    assert_eq!(test.states().await, [State::Cancelled, State::Ready]);
    test.stop().await;
}

#[tokio::test]
async fn runs_that_queue_begin_one_after_another_whatever_becomes_of_them() {
    let test = TestApp::start().await;
    let (spec, first) = daily(Overlap::Queue);
    test.set("nightly", &spec).await;
    test.pass(2 * HOUR).await;
    test.pass(DAY).await;
    assert_eq!(test.states().await, [State::Ready, State::Blocked]);
    let node = test.worker("w").await;
    node.fail(&node.claim_one().await).await;
    let grant = node.claim_one().await;
    assert_eq!(test.run_at(grant.task).await, first + SignedDuration::from_hours(24));
    node.succeed(&grant, json!(1)).await;
    test.pass(DAY).await;
    assert_eq!(test.states().await, [State::Failed, State::Succeeded, State::Ready]);
    test.stop().await;
}

#[tokio::test]
async fn a_run_that_replaces_begins_once_the_one_before_has_stopped() {
    let test = TestApp::start().await;
    let (spec, _) = daily(Overlap::Replace);
    test.set("nightly", &spec).await;
    test.pass(2 * HOUR).await;
    test.pass(DAY).await;
    assert_eq!(test.states().await, [State::Cancelled, State::Ready]);
    let reason = test.tasks().await[0].reason.clone().unwrap();
    assert!(reason.contains("replaces"), "{reason}");
    // One that runs is asked to stop, and until it has, the new one waits.
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let asked = test.app.schedule_run(&test.operator(), "nightly", Some("k")).await.unwrap();
    assert!(test.task(grant.task).await.summary.cancel_requested);
    assert_eq!(test.state(asked.ids[0]).await, State::Blocked);
    // The same request once more does not replace what it enqueued.
    assert_eq!(test.app.schedule_run(&test.operator(), "nightly", Some("k")).await.unwrap(), asked);
    let stopped = orca_proto::attempt::Report { outcome: Outcome::Cancelled, ..success(json!(null)) };
    let stopped = orca_proto::attempt::Report { result: None, ..stopped };
    test.app.attempt_report(&node.who, lease(&grant), stopped).await.unwrap();
    assert_eq!(node.claim_one().await.task, asked.ids[0]);
    test.stop().await;
}

#[tokio::test]
async fn what_was_missed_in_a_pause_is_made_up_no_further_back_than_asked() {
    let test = TestApp::start().await;
    for (name, overlap) in [("all", Overlap::Queue), ("newest", Overlap::Skip)] {
        let (mut spec, _) = daily(overlap);
        spec.catch_up = (DAY + HOUR).into();
        test.set(name, &spec).await;
        test.app.schedule_pause(&test.operator(), name, Pause::default()).await.unwrap();
    }
    let (none, first) = daily(Overlap::Queue);
    let none = ScheduleSpec { catch_up: Duration::ZERO.into(), ..none };
    test.set("none", &none).await;
    test.app.schedule_pause(&test.operator(), "none", Pause::default()).await.unwrap();
    test.pass(3 * DAY + 2 * HOUR + HOUR / 2).await;
    assert_eq!(test.states().await, []);
    for (name, expected) in [("all", 2), ("newest", 3), ("none", 3)] {
        test.app.schedule_resume(&test.operator(), name).await.unwrap();
        test.look().await;
        assert_eq!(test.tasks().await.len(), expected, "{name}");
    }
    let mut runs = Vec::new();
    for task in test.tasks().await {
        runs.push((test.run_at(task.id).await.as_second() - first.as_second() + 43_200) / 86_400);
    }
    assert_eq!(runs, [2, 3, 3]);
    let next = test.schedule("none").await.next[0];
    assert_eq!(next, first + SignedDuration::from_hours(4 * 24));
    test.stop().await;
}

#[tokio::test]
async fn a_run_with_jitter_comes_later_but_is_for_its_own_instant() {
    let test = TestApp::start().await;
    let (spec, first) = daily(Overlap::Skip);
    let spec = ScheduleSpec { jitter: (10 * HOUR).into(), catch_up: (2 * HOUR).into(), ..spec };
    test.set("nightly", &spec).await;
    test.pass(HOUR).await;
    assert_eq!(test.states().await, []);
    for _ in 0..11 {
        test.pass(HOUR).await;
    }
    assert_eq!(test.states().await, [State::Ready]);
    let last = test.schedule("nightly").await.last.unwrap();
    assert_eq!(last.at, first);
    let enqueued = test.task(last.task).await.summary.created_at;
    assert!(enqueued >= first, "{enqueued} is before {first}");
    test.stop().await;
}

#[tokio::test]
async fn a_new_spec_keeps_what_was_done_and_a_run_that_is_due() {
    let test = TestApp::start().await;
    let (mut spec, first) = daily(Overlap::Queue);
    let made = test.app.schedule_put(&test.operator(), "nightly", spec.clone()).await.unwrap();
    assert!(made.1);
    test.pass(2 * HOUR).await;
    let done = test.schedule("nightly").await;
    test.clock.advance(DAY);
    spec.task.priority = 7;
    let (changed, new) = test.app.schedule_put(&test.operator(), "nightly", spec.clone()).await.unwrap();
    assert!(!new && changed.created_at == done.created_at && changed.updated_at > done.updated_at);
    test.look().await;
    let priorities: Vec<i16> = test.tasks().await.into_iter().map(|task| task.priority).collect();
    assert_eq!(priorities.len(), 2, "the run that was due was lost");
    let last = test.schedule("nightly").await.last.unwrap();
    assert_eq!(last.at, first + SignedDuration::from_hours(24));
    // Another timing begins anew.
    spec.cron = "0 0 1 1 *".to_owned();
    let changed = test.set("nightly", &spec).await;
    assert_eq!(changed.last, Some(last));
    assert_eq!(changed.next[0].strftime("%m-%d %H:%M").to_string(), "01-01 00:00");
    test.stop().await;
}

#[tokio::test]
async fn after_its_end_a_schedule_rests() {
    let test = TestApp::start().await;
    let (spec, first) = daily(Overlap::Queue);
    let set = test
        .set("twice", &ScheduleSpec { ending: Some(first + SignedDuration::from_hours(24)), ..spec })
        .await;
    assert_eq!(set.next.len(), 2);
    test.pass(2 * HOUR).await;
    for _ in 0..3 {
        test.pass(DAY).await;
    }
    assert_eq!(test.tasks().await.len(), 2);
    assert_eq!(test.schedule("twice").await.next, []);
    test.stop().await;
}

#[tokio::test]
async fn a_backfill_enqueues_a_past_window_oldest_first_one_after_another() {
    let test = TestApp::start().await;
    let (spec, first) = daily(Overlap::Skip);
    test.set("nightly", &spec).await;
    let days = |count: i64| first - SignedDuration::from_hours(24 * count);
    let window = Backfill { from: days(3), to: days(1) };
    let backfill = |window, key| {
        let (app, who) = (test.app.clone(), test.operator());
        async move { app.schedule_backfill(&who, "nightly", window, key).await }
    };
    let filled = backfill(window, Some("k")).await.unwrap();
    assert_eq!(test.states().await, [State::Ready, State::Blocked, State::Blocked]);
    let node = test.worker("w").await;
    for (id, day) in filled.ids.iter().zip([3, 2, 1]) {
        let grant = node.claim_one().await;
        assert_eq!((grant.task, test.run_at(grant.task).await), (*id, days(day)));
        node.fail(&grant).await;
    }
    assert_eq!(backfill(window, Some("k")).await.unwrap(), filled);
    let latest = test.schedule("nightly").await.last;
    assert_eq!(latest, Some(LastRun { at: days(1), task: filled.ids[2] }));
    let older = Backfill { from: days(9), to: days(9) };
    let made = backfill(older, None).await.unwrap().ids;
    assert_eq!(test.schedule("nightly").await.last, latest, "an older run is not the last");
    let grant = node.claim_one().await;
    assert_eq!(grant.task, made[0]);
    let skipped = test.app.schedule_run(&test.operator(), "nightly", None).await;
    assert_eq!(kind(skipped), Kind::Conflict, "but it is the one that none may overlap");
    node.fail(&grant).await;
    assert_eq!(backfill(window, None).await.unwrap().ids.len(), 3);
    let future = Backfill { to: first, ..window };
    assert_eq!(pointers(backfill(future, None).await), ["/to"]);
    assert_eq!(pointers(backfill(Backfill { from: window.to, to: window.from }, None).await), ["/to"]);
    let empty =
        Backfill { from: days(1) + SignedDuration::from_secs(1), to: days(1) + SignedDuration::from_secs(9) };
    assert_eq!(pointers(backfill(empty, None).await), ["/from"]);
    assert_eq!(pointers(backfill(Backfill { from: days(1_500), to: days(1) }, None).await), ["/to"]);
    assert_eq!(backfill(Backfill { from: days(1_000), to: days(1) }, None).await.unwrap().ids.len(), 1_000);
    test.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_its_field_and_not_stored() {
    let test = TestApp::start().await;
    let (good, first) = daily(Overlap::Skip);
    let with = |change: &dyn Fn(&mut ScheduleSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec
    };
    let cases: Vec<(ScheduleSpec, &[&str])> = vec![
        (with(&|spec| spec.cron = "0 0 30 2 *".into()), &["/cron"]),
        (with(&|spec| spec.cron = "every day".into()), &["/cron"]),
        (with(&|spec| spec.cron = "* * * * *\0".into()), &["/cron"]),
        (with(&|spec| spec.timezone = "Mars/Olympus".into()), &["/timezone"]),
        (with(&|spec| spec.ending = Some(first - SignedDuration::from_secs(1))), &["/cron", "/ending"]),
        (with(&|spec| spec.jitter = DAY.into()), &["/jitter"]),
        (with(&|spec| spec.jitter = (400 * DAY).into()), &["/jitter"]),
        (with(&|spec| spec.catch_up = (400 * DAY).into()), &["/catch_up"]),
        (with(&|spec| spec.task.key = Some("a".into())), &["/task/key"]),
        (with(&|spec| spec.task.run_at = Some(first)), &["/task/run_at"]),
        (with(&|spec| spec.task.priority = 101), &["/task/priority"]),
        (
            with(&|spec| {
                let input =
                    InputArtifact { id: orca_proto::ids::ArtifactId::new(), name: "f".into(), unpack: false };
                spec.task.artifacts = vec![input];
            }),
            &["/task/artifacts/0/id"],
        ),
    ];
    for (spec, expected) in cases {
        let told = format!("{:?} {:?}", spec.cron, spec.timezone);
        assert_eq!(test.refused("nightly", spec).await, expected, "{told}");
    }
    assert_eq!(test.refused("no name", good.clone()).await, ["name"]);
    let all = test.app.schedule_list(&test.operator(), &ScheduleFilter::default()).await.unwrap();
    assert_eq!(all.items, []);
    test.stop().await;
}

#[tokio::test]
async fn a_run_that_cannot_be_enqueued_is_tried_again_and_holds_up_no_other_schedule() {
    let test = TestApp::start().await;
    let (spec, first) = daily(Overlap::Queue);
    test.set("broken", &spec).await;
    test.set("sound", &spec).await;
    test.execute("UPDATE orca.schedules SET spec = '{}', next_at = next_at - interval '1 second' WHERE name = 'broken'")
        .await;
    test.pass(2 * HOUR).await;
    let names = |tasks: Vec<TaskSummary>| tasks.into_iter().map(|task| task.name).collect::<Vec<_>>();
    assert_eq!(names(test.tasks().await), ["sound"]);
    test.execute("UPDATE orca.schedules SET spec = (SELECT spec FROM orca.schedules WHERE name = 'sound')")
        .await;
    test.pass(Duration::from_secs(11)).await;
    assert_eq!(names(test.tasks().await), ["sound", "broken"]);
    assert_eq!(test.schedule("broken").await.last.unwrap().at, first);
    test.stop().await;
}

#[tokio::test]
async fn the_files_of_a_schedules_runs_are_kept_until_it_is_removed() {
    let test = TestApp::start().await;
    let file = test
        .app
        .artifact_store(&test.operator(), "f", None, futures_util::stream::iter([Ok("a file".into())]))
        .await
        .unwrap()
        .id;
    let mut task = once();
    task.artifacts = vec![InputArtifact { id: file, name: "f".into(), unpack: false }];
    test.set("yearly", &ScheduleSpec::new("@yearly", task)).await;
    test.app.schedule_pause(&test.operator(), "yearly", Pause::default()).await.unwrap();
    test.pass(RETENTION + DAY).await;
    assert!(test.app.artifact_get(&test.operator(), file).await.is_ok());
    test.app.schedule_delete(&test.operator(), "yearly").await.unwrap();
    test.look().await;
    assert_eq!(kind(test.app.artifact_get(&test.operator(), file).await), Kind::NotFound);
    assert_eq!(kind(test.app.schedule_delete(&test.operator(), "yearly").await), Kind::NotFound);
    test.stop().await;
}

#[tokio::test]
async fn schedules_are_listed_by_name_in_pages_and_stay_behind_their_namespaces_wall() {
    let test = TestApp::start().await;
    let (spec, _) = daily(Overlap::Skip);
    for name in ["c", "a", "b"] {
        test.set(name, &spec).await;
    }
    let stranger = principal("other", "eve", Access::Operator);
    test.app.schedule_put(&stranger, "a", ScheduleSpec { overlap: Overlap::Queue, ..spec }).await.unwrap();
    let page = |cursor, limit| {
        let (app, who) = (test.app.clone(), test.operator());
        let filter = ScheduleFilter { cursor, limit };
        async move { app.schedule_list(&who, &filter).await }
    };
    let names = |items: Vec<Schedule>| items.into_iter().map(|item| item.name).collect::<Vec<_>>();
    let first = page(None, Some(2)).await.unwrap();
    let second = page(first.next.clone(), Some(2)).await.unwrap();
    assert_eq!(
        (names(first.items), names(second.items), second.next),
        (vec!["a".into(), "b".into()], vec!["c".into()], None)
    );
    assert_eq!(pointers(page(None, Some(0)).await), ["?limit"]);
    assert_eq!(pointers(page(Some("\0".into()), None).await), ["?cursor"]);
    assert_eq!(test.schedule("a").await.spec.overlap, Overlap::Skip);
    for name in ["b", "no name", "\0", ""] {
        assert_eq!(kind(test.app.schedule_get(&stranger, name).await), Kind::NotFound, "{name:?}");
        assert_eq!(kind(test.app.schedule_run(&stranger, name, None).await), Kind::NotFound, "{name:?}");
        assert_eq!(kind(test.app.schedule_pause(&stranger, name, Pause::default()).await), Kind::NotFound);
        assert_eq!(kind(test.app.schedule_resume(&stranger, name).await), Kind::NotFound);
        assert_eq!(kind(test.app.schedule_delete(&stranger, name).await), Kind::NotFound);
    }
    assert!(test.schedule("b").await.paused.is_none());
    test.stop().await;
}

#[tokio::test]
async fn a_schedule_for_which_the_database_always_lacks_something_holds_up_no_other() {
    let test = TestApp::start().await;
    let (spec, _) = daily(Overlap::Queue);
    for name in ["first", "second"] {
        test.set(name, &spec).await;
    }
    test.execute("UPDATE orca.schedules SET next_at = next_at - interval '1 minute' WHERE name = 'first'")
        .await;
    test.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE 'too much' USING ERRCODE = '57014'; END $$",
    )
    .await;
    test.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON orca.tasks FOR EACH ROW WHEN (NEW.schedule = 'first')
         EXECUTE FUNCTION refuse()",
    )
    .await;
    test.pass(HOUR * 2).await;
    let tasks = test.tasks().await;
    assert_eq!(tasks.len(), 1);
    assert_eq!(test.schedule("second").await.last.map(|last| last.task), Some(tasks[0].id));
    // It is tried again, and runs once it can.
    test.execute("DROP TRIGGER refuse ON orca.tasks").await;
    test.pass(Duration::from_secs(60)).await;
    assert_eq!(test.tasks().await.len(), 2);
    test.stop().await;
}

#[tokio::test]
async fn what_one_namespaces_schedules_have_much_of_is_late_for_it_alone() {
    let test = TestApp::start().await;
    let (spec, _) = daily(Overlap::Skip);
    for n in 0..60 {
        test.set(&format!("s{n}"), &spec).await;
    }
    let other = principal("other", "eve", Access::Operator);
    test.app.schedule_put(&other, "only", spec).await.unwrap();
    test.execute(
        "UPDATE orca.schedules SET next_at = next_at - interval '1 minute' WHERE namespace = 'default'",
    )
    .await;
    test.pass(2 * HOUR).await;
    let (all, before): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE t.xmin::text::bigint < o.xmin::text::bigint)
         FROM orca.tasks t JOIN orca.tasks o ON o.namespace = 'other' WHERE t.namespace = 'default'",
    )
    .fetch_one(&mut test.connection().await)
    .await
    .unwrap();
    assert_eq!(all, 60);
    assert!(before <= 20, "{before} of another namespace's 60 came first");
    test.stop().await;
}
