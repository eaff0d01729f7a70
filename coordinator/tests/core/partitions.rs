//! Retention by dropping partitions: what ended goes with its table, what an open task needs stays.

use std::time::Duration;

use bytes::Bytes;
use orca_proto::ids::TaskId;
use orca_proto::problem::Kind;
use orca_proto::spec::{Approval, NewTask};
use orca_proto::task::{Cancellation, State};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::support::{RETENTION, TestApp, after, kind, lease, task};

const HOUR: Duration = Duration::from_secs(3_600);
/// After this, all of the partition that was for now when the test began is old.
const OLD: Duration = Duration::from_secs(7 * 86_400 + 22 * 3_600);

/// The partition of tasks that a task is in.
async fn table_of(test: &TestApp, id: TaskId) -> String {
    sqlx::query_scalar("SELECT tableoid::regclass::text FROM orca.tasks WHERE id = $1")
        .bind(id.0)
        .fetch_one(&mut test.connection().await)
        .await
        .unwrap()
}

async fn exists(test: &TestApp, table: &str) -> bool {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(table)
        .fetch_one(&mut test.connection().await)
        .await
        .unwrap()
}

async fn run_one(test: &TestApp) -> TaskId {
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    assert_eq!(node.succeed(&grant, json!(1)).await, State::Succeeded);
    grant.task
}

#[tokio::test]
async fn a_partition_whose_tasks_ended_long_ago_is_dropped_and_its_files_go() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let content = futures_util::stream::iter([Ok(Bytes::from_static(b"bytes"))]);
    test.app.artifact_store(&node.who, "out", Some(lease(&grant)), content).await.unwrap();
    node.succeed(&grant, json!(1)).await;
    let table = table_of(&test, id).await;
    assert!(table.starts_with("orca.tasks_p"), "{table}");
    test.advance(RETENTION).await;
    assert_eq!(test.state(id).await, State::Succeeded);
    test.advance(OLD - RETENTION).await;
    assert_eq!(kind(test.app.task_get(&test.operator(), id).await), Kind::NotFound);
    for name in ["tasks", "done", "attempts", "log_chunks"] {
        assert!(!exists(&test, &table.replace("tasks", name)).await, "{name}");
    }
    let left: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM orca.artifacts) + (SELECT count(*) FROM orca.partitions WHERE dropped_at IS NOT NULL)",
    )
    .fetch_one(&mut test.connection().await)
    .await
    .unwrap();
    assert_eq!((left, test.files()), (0, 1));
    test.advance(HOUR * 2).await;
    assert_eq!(test.files(), 0);
    test.stop().await;
}

#[tokio::test]
async fn a_partition_with_an_open_task_stays_and_what_is_old_in_it_goes_row_by_row() {
    let test = TestApp::start().await;
    let (ended, open) = (test.enqueue(task("ended")).await, test.enqueue(task("open")).await);
    assert_eq!(run_one(&test).await, ended);
    let table = table_of(&test, open).await;
    test.advance(OLD).await;
    assert_eq!(kind(test.app.task_get(&test.operator(), ended).await), Kind::NotFound);
    assert_eq!((test.state(open).await, exists(&test, &table).await), (State::Ready, true));
    // It still can be run, and is then kept for its own time.
    assert_eq!(run_one(&test).await, open);
    test.advance(RETENTION - HOUR).await;
    assert_eq!(test.state(open).await, State::Succeeded);
    test.advance(HOUR * 2).await;
    assert_eq!(kind(test.app.task_get(&test.operator(), open).await), Kind::NotFound);
    assert!(!exists(&test, &table).await);
    test.stop().await;
}

#[tokio::test]
async fn a_partition_on_which_an_open_task_of_another_depends_stays() {
    let test = TestApp::start().await;
    let needed = test.enqueue(task("needed")).await;
    let approval = Some(Approval::default());
    let late = test.enqueue(NewTask { approval, ..after("late", &[&needed.to_string()]) }).await;
    run_one(&test).await;
    test.reconcile().await;
    // As if it had been enqueued a partition later.
    let moved: Uuid =
        sqlx::query_scalar("SELECT orca.id_at(max(starts) + interval '1 hour') FROM orca.partitions")
            .fetch_one(&mut test.connection().await)
            .await
            .unwrap();
    for statement in [
        "UPDATE orca.tasks SET id = $1 WHERE id = $2",
        "UPDATE orca.dependencies SET task = $1 WHERE task = $2",
        "UPDATE orca.gates SET task = $1 WHERE task = $2",
    ] {
        let done =
            sqlx::query(statement).bind(moved).bind(late.0).execute(&mut test.connection().await).await;
        assert_eq!(done.unwrap().rows_affected(), 1, "{statement}");
    }
    let late = TaskId(moved);
    let table = table_of(&test, needed).await;
    assert_ne!(table, table_of(&test, late).await);
    test.advance(OLD).await;
    assert_eq!((test.state(needed).await, exists(&test, &table).await), (State::Succeeded, true));
    test.app.task_cancel(&test.operator(), late, Cancellation::default()).await.unwrap();
    test.advance(HOUR).await;
    assert_eq!(kind(test.app.task_get(&test.operator(), needed).await), Kind::NotFound);
    assert!(!exists(&test, &table).await);
    assert_eq!(test.state(late).await, State::Cancelled);
    test.stop().await;
}

#[tokio::test]
async fn two_coordinators_make_and_drop_partitions_at_once_and_tasks_go_on() {
    let test = TestApp::start().await;
    let other = test.replica().await;
    let old = test.enqueue(task("old")).await;
    run_one(&test).await;
    let table = table_of(&test, old).await;
    test.clock.advance(OLD);
    let enqueue = async {
        for n in 0..20 {
            test.enqueue(task(&format!("t{n}"))).await;
        }
    };
    let (one, two, ()) = tokio::join!(test.app.reconcile(), other.reconcile(), enqueue);
    one.unwrap();
    two.unwrap();
    let node = test.worker("w").await;
    let mut grants = Vec::new();
    while grants.len() < 20 {
        grants.push(node.claim_one().await);
    }
    for grant in &grants {
        node.succeed(grant, json!(null)).await;
        assert_eq!(test.state(grant.task).await, State::Succeeded);
    }
    // Dropped, unless the new tasks came into it first: their ids are of the machine's time.
    test.advance(OLD).await;
    assert!(!exists(&test, &table).await);
    assert_eq!(kind(test.app.task_get(&test.operator(), old).await), Kind::NotFound);
    test.stop().await;
}

#[tokio::test]
async fn tasks_of_a_time_without_a_partition_are_removed_row_by_row() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    for statement in
        ["SELECT orca.drop_partition(starts) FROM orca.partitions", "DELETE FROM orca.partitions"]
    {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let id = test.enqueue(task("a")).await;
    assert_eq!(table_of(&test, id).await, "orca.tasks_default");
    run_one(&test).await;
    // What is there already stays where it is; what comes next gets its partition.
    test.reconcile().await;
    assert_eq!(table_of(&test, id).await, "orca.tasks_default");
    let made: i64 =
        sqlx::query_scalar("SELECT count(*) FROM orca.partitions").fetch_one(&mut connection).await.unwrap();
    assert_eq!(made, 1);
    test.advance(RETENTION - HOUR).await;
    assert_eq!(test.state(id).await, State::Succeeded);
    test.advance(HOUR * 2).await;
    assert_eq!(kind(test.app.task_get(&test.operator(), id).await), Kind::NotFound);
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_on_which_somebody_is_about_to_depend_stays() {
    let test = TestApp::start().await;
    let needed = test.enqueue(task("needed")).await;
    run_one(&test).await;
    let late = test.enqueue(NewTask { approval: Some(Approval::default()), ..task("late") }).await;
    let mut connection = test.connection().await;
    // As if it had been enqueued a partition later.
    let moved: Uuid =
        sqlx::query_scalar("SELECT orca.id_at(max(starts) + interval '1 hour') FROM orca.partitions")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    sqlx::query("UPDATE orca.tasks SET id = $1 WHERE id = $2")
        .bind(moved)
        .bind(late.0)
        .execute(&mut connection)
        .await
        .unwrap();
    let table = table_of(&test, needed).await;
    test.clock.advance(OLD);
    // What an enqueue does that names it: it is locked, and what depends on it written, and committed a while later.
    let mut enqueue = connection.begin().await.unwrap();
    for statement in [
        "SELECT id FROM orca.tasks WHERE id = $1 AND id <> $2 FOR UPDATE",
        "INSERT INTO orca.dependencies (task, needs, open) VALUES ($2, $1, false)",
    ] {
        sqlx::query(statement).bind(needed.0).bind(moved).execute(&mut *enqueue).await.unwrap();
    }
    let app = test.app.clone();
    let dropping = tokio::spawn(async move { app.reconcile().await });
    let mut watching = test.connection().await;
    while !dropping.is_finished() && !waits_for_a_table(&mut watching).await {
        tokio::task::yield_now().await;
    }
    enqueue.commit().await.unwrap();
    dropping.await.unwrap().unwrap();
    assert_eq!((test.state(needed).await, exists(&test, &table).await), (State::Succeeded, true));
    test.stop().await;
}

async fn waits_for_a_table(connection: &mut PgConnection) -> bool {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                        WHERE d.datname = current_database() AND l.locktype = 'relation' AND NOT l.granted)",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}
