//! Locks are taken in one order: whoever waits for one holds none that comes after it, and so nobody waits in a circle.
//!
//! Each test stops a call at a lock that the test holds, and looks what the call holds by then.

use std::future::Future;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use orca_coordinator::app::App;
use orca_proto::attempt::Children;
use orca_proto::ids::TaskId;
use orca_proto::log::{LogAppend, LogLine, Stream};
use orca_proto::namespace::Quota;
use orca_proto::node::ClaimRequest;
use orca_proto::plan::Batch;
use orca_proto::problem::Kind;
use orca_proto::selector::{BulkCancel, Selector};
use orca_proto::signal::Signal;
use orca_proto::spec::{NewTask, Unique};
use orca_proto::task::{Cancellation, Progress, State};
use orca_proto::token::Access;
use sqlx::PgConnection;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::support::{LEASE, SOON, TestApp, after, failure, kind, lease, principal, task};

/// Somebody else at the database.
struct Other(PgConnection);

impl Other {
    async fn of(test: &TestApp) -> Self {
        Self(test.connection().await)
    }

    async fn does(&mut self, statement: &'static str) {
        sqlx::query(statement).execute(&mut self.0).await.unwrap();
    }

    async fn does_to(&mut self, statement: &'static str, task: TaskId) {
        sqlx::query(statement).bind(task.0).execute(&mut self.0).await.unwrap();
    }

    async fn locks(&mut self, task: TaskId) {
        self.does("BEGIN").await;
        self.does_to("SELECT FROM orca.tasks WHERE id = $1 FOR UPDATE", task).await;
    }

    /// Whether nobody holds any of these rows.
    async fn finds_free(&mut self, rows: &'static str) -> bool {
        self.does("BEGIN").await;
        let free = sqlx::query(rows).execute(&mut self.0).await.is_ok();
        self.does("ROLLBACK").await;
        free
    }

    /// Waits until a statement like this one waits for a lock, or none is under way any more.
    async fn sees_waiting<T>(&mut self, statement: &'static str, call: &JoinHandle<T>) {
        let limit = Instant::now() + SOON;
        while !call.is_finished() && !self.sees(statement).await {
            assert!(Instant::now() < limit, "nothing like {statement} waits");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn sees(&mut self, statement: &'static str) -> bool {
        let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                       AND wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%')";
        sqlx::query_scalar(waiting).bind(statement).fetch_one(&mut self.0).await.unwrap()
    }
}

const GRANTS: &str = "SELECT FROM orca.grants FOR UPDATE NOWAIT";

fn begun<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(call)
}

async fn ended<T>(call: JoinHandle<T>) -> T {
    tokio::time::timeout(SOON, call).await.expect("the call waits still").unwrap()
}

async fn children(
    test: &TestApp,
    parent: &str,
    tasks: Vec<NewTask>,
) -> (super::support::TestNode, TaskId, Vec<TaskId>) {
    let id = test.enqueue(task(parent)).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let children = Children { idempotency_key: "k".into(), tasks };
    let under = test.app.attempt_children(&node.who, lease(&grant), children).await.unwrap().ids;
    (node, id, under)
}

fn cancelled(test: &TestApp, selector: Selector) -> JoinHandle<u64> {
    let (app, operator): (App, _) = (test.app.clone(), test.operator());
    begun(async move {
        let cancel = BulkCancel { selector, reason: None };
        app.cancel_matching(&operator, cancel).await.unwrap().count
    })
}

#[tokio::test]
async fn progress_waits_for_the_task_before_it_holds_the_grant() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    test.stop().await;
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.locks(id).await;
    let (app, who, held) = (test.app.clone(), node.who.clone(), lease(&grant));
    let call = begun(async move {
        app.attempt_progress(&who, held, Progress { percent: Some(1.0), message: None }).await
    });
    two.sees_waiting("orca.tasks", &call).await;
    assert!(two.finds_free(GRANTS).await, "it held the grant while it waited for the task");
    one.does("COMMIT").await;
    ended(call).await.unwrap();
}

#[tokio::test]
async fn whoever_waits_for_the_head_of_a_lane_holds_no_grant() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let running = test.enqueue(task("a")).await;
    assert_eq!(node.claim_one().await.task, running);
    let ready = test.enqueue(task("b")).await;
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.does("SELECT pg_advisory_lock(7024421, id) FROM orca.lanes").await;
    let call = cancelled(&test, Selector { ids: vec![running, ready], ..Selector::default() });
    two.sees_waiting("orca.lock_heads", &call).await;
    assert!(two.finds_free(GRANTS).await, "it held a grant while it waited for the head");
    one.does("SELECT pg_advisory_unlock_all()").await;
    assert_eq!(ended(call).await, 2);
    assert_eq!(test.state(ready).await, State::Cancelled);
    test.stop().await;
}

#[tokio::test]
async fn a_large_cancel_locks_no_grant_but_those_that_hold_what_it_cancels() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let unrelated = test.enqueue(task("a")).await;
    assert_eq!(node.claim_one().await.task, unrelated);
    let tasks = vec![NewTask { name: Some("many".into()), ..NewTask::new("image") }; 250];
    test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap();
    assert_eq!(node.claim(250).await.len(), 250);
    let mut one = Other::of(&test).await;
    one.does("BEGIN").await;
    one.does_to("SELECT FROM orca.grants WHERE $1 = ANY (tasks) FOR UPDATE", unrelated).await;
    let call = cancelled(&test, Selector { name: Some("many".into()), ..Selector::default() });
    assert_eq!(ended(call).await, 250);
    one.does("COMMIT").await;
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_renewals_set_apart_again_and_again_is_still_known_to_run() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let tasks = vec![task("a"), task("b")];
    let ids = test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap().ids;
    let grants = node.claim(2).await;
    test.stop().await;
    let (mut one, mut two, mut three) =
        (Other::of(&test).await, Other::of(&test).await, Other::of(&test).await);
    // What a renewal does that names only the other one of the two; nothing where the task is not there any more.
    let apart = "WITH old AS (
            UPDATE orca.grants SET tasks = array_remove(tasks, $1), open = open - 1
            WHERE open > 0 AND $1 = ANY (tasks) RETURNING *)
        INSERT INTO orca.grants
        SELECT token, part + 1, lane, seq, upto, node, node_name, granted_at, expires_at, 1, ARRAY[$1], '{}' FROM old";
    one.does("SELECT pg_advisory_lock(7024421, id) FROM orca.lanes").await;
    two.does("BEGIN").await;
    two.does_to(apart, ids[1]).await;
    let (app, who, held) = (test.app.clone(), node.who.clone(), lease(&grants[1]));
    let call = begun(async move { app.attempt_report(&who, held, failure()).await });
    three.sees_waiting("orca.grants", &call).await;
    two.does("COMMIT").await;
    // Only who takes the task for one that nobody holds waits for the head.
    three.sees_waiting("orca.lock_heads", &call).await;
    two.does("BEGIN").await;
    two.does_to(apart, ids[1]).await;
    one.does("SELECT pg_advisory_unlock_all()").await;
    three.sees_waiting("orca.grants", &call).await;
    two.does("COMMIT").await;
    assert_eq!(ended(call).await.unwrap().state, State::Failed);
}

#[tokio::test]
async fn what_does_not_run_is_dropped_from_a_grant_that_ran_out() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    for name in ["ended", "gone"] {
        let id = test.enqueue(task(name)).await;
        let grant = node.claim_one().await;
        node.fail(&grant).await;
        let mut other = Other::of(&test).await;
        other.does_to("UPDATE orca.grants SET tasks = tasks || $1, open = 1 WHERE open = 0", id).await;
        if name == "gone" {
            other.does_to("DELETE FROM orca.tasks WHERE id = $1", id).await;
        }
    }
    let lost = test.enqueue(task("lost")).await;
    node.claim_one().await;
    test.advance(LEASE + Duration::from_secs(1)).await;
    assert_eq!(test.state(lost).await, State::Scheduled);
    let held: i64 = sqlx::query_scalar("SELECT coalesce(sum(open), 0)::bigint FROM orca.grants")
        .fetch_one(&mut test.connection().await)
        .await
        .unwrap();
    assert_eq!(held, 0);
    test.stop().await;
}

#[tokio::test]
async fn a_task_whose_deadline_passes_while_others_of_its_batch_are_waited_for_still_ends() {
    let test = TestApp::start().await;
    let deadline =
        Timestamp::now() + SignedDuration::try_from(LEASE).unwrap() + SignedDuration::from_secs(60);
    let mut spec = NewTask { deadline: Some(deadline), ..task("limited") };
    spec.retry.max_attempts = 3;
    let first = test.enqueue(task("first")).await;
    let limited = test.enqueue(spec).await;
    let node = test.worker("w").await;
    assert_eq!(node.claim(2).await.len(), 2);
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.locks(first).await;
    test.clock.advance(LEASE + Duration::from_secs(10));
    let app = test.app.clone();
    let call = begun(async move { app.reconcile().await });
    // The leases have run out and are being reclaimed, in the order of the tasks.
    two.sees_waiting("FOR UPDATE OF t", &call).await;
    test.clock.advance(Duration::from_secs(60));
    let limit = Instant::now() + SOON;
    let timers = "SELECT count(*) FROM orca.timers WHERE kind = 'deadline'";
    while sqlx::query_scalar::<_, i64>(timers).fetch_one(&mut two.0).await.unwrap() > 0 {
        assert!(Instant::now() < limit, "the timer did not go off");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    one.does("COMMIT").await;
    ended(call).await.unwrap();
    while !test.state(limited).await.is_terminal() {
        assert!(Instant::now() < limit, "the task is lost: {:?}", test.task(limited).await.summary);
        test.reconcile().await;
    }
    test.stop().await;
}

#[tokio::test]
async fn the_end_of_a_line_is_not_held_while_tasks_are_waited_for() {
    let test = TestApp::start().await;
    let (node, parent, under) = children(&test, "parent", vec![task("c")]).await;
    test.enqueue(after("dependent", &[&under[0].to_string()])).await;
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.locks(parent).await;
    let child = node.claim_one().await;
    node.succeed(&child, serde_json::json!(null)).await;
    let app = test.app.clone();
    let call = begun(async move { app.reconcile().await });
    two.sees_waiting("FOR UPDATE OF t", &call).await;
    let free: bool = sqlx::query_scalar(
        "SELECT bool_and(pg_try_advisory_lock(7024420, id)) AND pg_advisory_unlock_all() IS NOT NULL FROM orca.lanes",
    )
    .fetch_one(&mut two.0)
    .await
    .unwrap();
    assert!(free, "it held the end of a lane while it waited for a task");
    one.does("COMMIT").await;
    ended(call).await.unwrap();
    assert_eq!(node.claim_one().await.spec.key.as_deref(), Some("dependent"));
    test.stop().await;
}

fn unique(name: &str) -> NewTask {
    NewTask { unique: Some(Unique { key: "k".to_owned(), r#while: Default::default() }), ..task(name) }
}

async fn depending(test: &TestApp) -> JoinHandle<Vec<TaskId>> {
    let (app, operator) = (test.app.clone(), test.operator());
    begun(async move {
        let tasks = vec![unique("a"), after("b", &["a"])];
        app.batch_enqueue(&operator, Batch { tasks }, None).await.unwrap().ids
    })
}

#[tokio::test]
async fn a_unique_key_is_not_held_while_the_task_that_has_it_is_waited_for() {
    let test = TestApp::start().await;
    let holder = test.enqueue(unique("holder")).await;
    test.stop().await;
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.locks(holder).await;
    let call = depending(&test).await;
    two.sees_waiting("FOR UPDATE", &call).await;
    assert!(
        two.finds_free("SELECT FROM orca.unique_keys FOR UPDATE NOWAIT").await,
        "it held the key while it waited for the task"
    );
    one.does("COMMIT").await;
    let ids = ended(call).await;
    assert_eq!(ids[0], holder);
    assert_eq!(test.task(ids[1]).await.depends_on, vec![holder]);
}

#[tokio::test]
async fn a_unique_key_that_goes_to_another_while_its_holder_is_waited_for_is_the_others() {
    let test = TestApp::start().await;
    let holder = test.enqueue(unique("holder")).await;
    let next = test.enqueue(task("next")).await;
    test.stop().await;
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.locks(holder).await;
    let call = depending(&test).await;
    two.sees_waiting("FOR UPDATE", &call).await;
    one.does_to("UPDATE orca.unique_keys SET task = $1", next).await;
    one.does("COMMIT").await;
    let ids = ended(call).await;
    assert_eq!(ids[0], next);
    assert_eq!(test.task(ids[1]).await.depends_on, vec![next]);
}

#[tokio::test]
async fn a_cancel_gives_no_unique_key_back_before_it_has_all_its_tasks() {
    let test = TestApp::start().await;
    let top = test.enqueue(unique("top")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let tasks = Children { idempotency_key: "k".into(), tasks: vec![task("c")] };
    let under = test.app.attempt_children(&node.who, lease(&grant), tasks).await.unwrap().ids[0];
    assert_eq!(node.succeed(&grant, serde_json::json!(1)).await, State::Waiting);
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.locks(under).await;
    let call = cancelled(&test, Selector { ids: vec![top], ..Selector::default() });
    two.sees_waiting("FOR UPDATE OF t", &call).await;
    assert!(
        two.finds_free("SELECT FROM orca.unique_keys FOR UPDATE NOWAIT").await,
        "it held the key while it waited for a task"
    );
    one.does("COMMIT").await;
    assert_eq!(ended(call).await, 2);
    test.stop().await;
}

#[tokio::test]
async fn a_quota_is_not_held_while_tasks_are_waited_for() {
    let test = TestApp::start().await;
    let admin = principal("elsewhere", "root", Access::Admin);
    let quota = Quota { max_queues: Some(5), ..Quota::default() };
    test.app.namespace_set(&admin, "default", quota).await.unwrap();
    let needed = test.enqueue(task("needed")).await;
    test.stop().await;
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.locks(needed).await;
    let (app, operator) = (test.app.clone(), test.operator());
    let spec = NewTask { queue: "new".into(), ..after("a", &[&needed.to_string()]) };
    let call = begun(async move { app.task_enqueue(&operator, spec, None).await.map(drop) });
    two.sees_waiting("orca.tasks", &call).await;
    assert!(
        two.finds_free("SELECT FROM orca.namespaces FOR UPDATE NOWAIT").await,
        "it held the quota while it waited for a task"
    );
    one.does("COMMIT").await;
    ended(call).await.unwrap();
}

#[tokio::test]
async fn a_log_that_passes_its_cap_shares_no_grant_that_it_is_about_to_write_to() {
    let test = TestApp::start().await;
    test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.start(&grant).await;
    test.stop().await;
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.does("UPDATE orca.attempts SET log_bytes = 1 << 26").await;
    one.does("BEGIN").await;
    one.does("SELECT FROM orca.grants FOR SHARE").await;
    let lines = vec![LogLine { seq: 0, stream: Stream::Stdout, at: Timestamp::now(), text: "more".into() }];
    let (app, who, held) = (test.app.clone(), node.who.clone(), lease(&grant));
    let call = begun(async move { app.attempt_logs(&who, held, LogAppend { lines }).await });
    two.sees_waiting("orca.", &call).await;
    one.does(GRANTS).await;
    one.does("COMMIT").await;
    assert_eq!(ended(call).await.unwrap().next_seq, 1);
    let special: Vec<Uuid> =
        sqlx::query_scalar("SELECT unnest(special) FROM orca.grants").fetch_all(&mut two.0).await.unwrap();
    assert_eq!(special, vec![grant.task.0]);
}

#[tokio::test]
async fn nobody_waits_for_a_task_of_another_namespace() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let stranger = principal("other", "bob", Access::Operator);
    let own = test.app.task_enqueue(&stranger, task("b"), None).await.unwrap().0.summary.id;
    test.stop().await;
    let mut other = Other::of(&test).await;
    other.locks(id).await;
    let soon = Duration::from_secs(5);
    let cancelled = test.app.task_cancel(&stranger, id, Cancellation::default());
    let cancelled = tokio::time::timeout(soon, cancelled).await.expect("the cancel waits");
    assert_eq!(kind(cancelled), Kind::NotFound);
    let signal = Signal { name: "go".into(), payload: serde_json::Value::Null };
    let signalled = tokio::time::timeout(soon, test.app.task_signal(&stranger, id, signal)).await;
    assert_eq!(kind(signalled.expect("the signal waits")), Kind::NotFound);
    let spec = after("c", &[&own.to_string(), &id.to_string()]);
    let enqueued = test.app.task_enqueue(&stranger, spec.clone(), None);
    let enqueued = tokio::time::timeout(soon, enqueued).await.expect("the enqueue waits").unwrap_err();
    assert_eq!(enqueued.problem().errors[0].pointer, "/depends_on/1");
    let keyed = NewTask { unique: Some(Unique { key: "k".into(), r#while: Default::default() }), ..spec };
    let enqueued = tokio::time::timeout(soon, test.app.task_enqueue(&stranger, keyed, None)).await;
    assert_eq!(
        enqueued.expect("the keyed enqueue waits").unwrap_err().problem().errors[0].pointer,
        "/depends_on/1"
    );
    other.does("COMMIT").await;
}

#[tokio::test]
async fn a_lease_or_timer_whose_task_somebody_holds_keeps_no_other_from_its_end() {
    let test = TestApp::start().await;
    let deadline = Timestamp::now() + SignedDuration::from_secs(2 * LEASE.as_secs().cast_signed());
    let timed = |name| NewTask { deadline: Some(deadline), queue: "nobody".into(), ..task(name) };
    let timers = [test.enqueue(timed("t")).await, test.enqueue(timed("u")).await];
    let batch = Batch { tasks: vec![task("a"), task("b")] };
    let together = test.app.batch_enqueue(&test.operator(), batch, None).await.unwrap().ids;
    let ids = [together[0], together[1], test.enqueue(task("c")).await];
    let node = test.worker("w").await;
    // The first two are of one grant, which is held as well.
    let request = ClaimRequest {
        instance: node.instance,
        slots: 2,
        wait: Duration::ZERO.into(),
        queues: vec!["default".into()],
        free: None,
    };
    assert_eq!(test.app.node_claim(&node.who, node.id, request.clone()).await.unwrap().grants.len(), 2);
    assert_eq!(test.app.node_claim(&node.who, node.id, request).await.unwrap().grants.len(), 1);
    let (mut one, mut two) = (Other::of(&test).await, Other::of(&test).await);
    one.locks(timers[0]).await;
    one.does_to("SELECT FROM orca.tasks WHERE id = $1 FOR UPDATE", ids[0]).await;
    two.does("BEGIN").await;
    two.does_to("SELECT FROM orca.grants WHERE $1 = ANY (tasks) FOR UPDATE", ids[0]).await;
    test.clock.advance(3 * LEASE);
    let swept = tokio::time::timeout(Duration::from_secs(10), test.app.reconcile()).await;
    swept.expect("the sweep waits").unwrap();
    let node = async |id| test.state(id).await;
    assert_eq!([node(timers[0]).await, node(timers[1]).await], [State::Ready, State::Expired]);
    assert_eq!([node(ids[0]).await, node(ids[1]).await], [State::Running; 2]);
    assert_ne!(node(ids[2]).await, State::Running);
    two.does("COMMIT").await;
    one.does("COMMIT").await;
    test.reconcile().await;
    assert_eq!(test.state(timers[0]).await, State::Expired);
    assert!(test.state(ids[0]).await != State::Running && test.state(ids[1]).await != State::Running);
    test.stop().await;
}
