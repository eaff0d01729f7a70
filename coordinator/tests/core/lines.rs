//! The lines themselves: what has ended in one is passed over for little, and many of them take few locks.

use orca_proto::plan::Batch;
use orca_proto::queue::Pause;
use orca_proto::selector::{BulkCancel, Selector};
use orca_proto::spec::NewTask;
use orca_proto::task::{Cancellation, State};

use super::support::{TestApp, task};

#[tokio::test]
async fn what_ended_in_line_is_passed_over_by_the_segment_and_what_stands_between_is_granted_in_order() {
    let test = TestApp::start().await;
    let tasks: Vec<NewTask> = (0..400).map(|n| task(&format!("t{n}"))).collect();
    let ids = test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap().ids;
    let live = [3, 130, 131, 239, 399];
    for id in (0..400).filter(|at| !live.contains(at)).map(|at| ids[at]) {
        test.app.task_cancel(&test.operator(), id, Cancellation::default()).await.unwrap();
    }
    let node = test.worker("w").await;
    let mut got = vec![node.claim_one().await.task];
    let two: Vec<_> = node.claim(2).await.iter().map(|grant| grant.task).collect();
    got.extend(two);
    got.extend([node.claim_one().await.task, node.claim_one().await.task]);
    assert_eq!(got, live.map(|at| ids[at]));
    assert!(node.claim(1).await.is_empty());
    // What the background passed over while the tasks were cancelled is no claim's.
    let grants: i64 = sqlx::query_scalar("SELECT count(*) FROM orca.grants WHERE node_name = 'w'")
        .fetch_one(&mut test.connection().await)
        .await
        .unwrap();
    assert!(grants <= 8, "{grants} grants for five tasks");
    test.stop().await;
}

#[tokio::test]
async fn a_claim_comes_through_a_line_that_is_longer_than_one_transaction_passes_over() {
    let test = TestApp::start().await;
    let first = test.enqueue(task("first")).await;
    let node = test.worker("w").await;
    assert_eq!(node.claim_one().await.task, first);
    sqlx::query(
        "INSERT INTO orca.segments (lane, seq, ready_at, size, tasks)
         SELECT l.id, nextval('orca.line'), now(), 120, ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 120 + 0 * i))
         FROM orca.lanes l CROSS JOIN generate_series(1, 600) AS i",
    )
    .execute(&mut test.connection().await)
    .await
    .unwrap();
    let last = test.enqueue(task("last")).await;
    assert_eq!(node.claim_one().await.task, last);
    test.stop().await;
}

/// What stands in line by the two counts that operators see.
async fn counted(test: &TestApp) -> (u64, i64) {
    let queue = test.app.queue_get(&test.operator(), "default").await.unwrap();
    let stats = test.app.queue_stats().await.unwrap();
    let ready = stats.tasks.iter().find(|(state, _)| *state == State::Ready).unwrap();
    (queue.ready, ready.1)
}

#[tokio::test]
async fn a_line_that_was_cancelled_whole_is_empty_though_nobody_claims_and_one_in_part_begins_with_what_waits()
 {
    let test = TestApp::start().await;
    let operator = test.operator();
    test.app.queue_pause(&operator, "default", Pause::default()).await.unwrap();
    let tasks: Vec<NewTask> = (0..10_000)
        .map(|n| NewTask { name: Some(format!("t{}", n / 9_000)), ..NewTask::new("image") })
        .collect();
    let ids = test.app.batch_enqueue(&operator, Batch { tasks }, None).await.unwrap().ids;
    assert_eq!(counted(&test).await, (10_000, 10_000));
    let named = |name: &str| BulkCancel {
        selector: Selector { name: Some(name.to_owned()), ..Selector::default() },
        reason: None,
    };
    assert_eq!(test.app.cancel_matching(&operator, named("t0")).await.unwrap().count, 9_000);
    test.reconcile().await;
    assert_eq!(counted(&test).await, (1_000, 1_000));
    // In the middle of what is left.
    test.app.task_cancel(&operator, ids[9_500], Cancellation::default()).await.unwrap();
    test.reconcile().await;
    assert_eq!(counted(&test).await.0, 999);
    assert_eq!(test.app.cancel_matching(&operator, named("t1")).await.unwrap().count, 999);
    test.reconcile().await;
    assert_eq!(counted(&test).await, (0, 0));
    // The line goes on behind what was passed over.
    test.app.queue_resume(&operator, "default").await.unwrap();
    let id = test.enqueue(task("last")).await;
    assert_eq!(counted(&test).await, (1, 1));
    assert_eq!(test.worker("w").await.claim_one().await.task, id);
    test.stop().await;
}

#[tokio::test]
async fn ten_thousand_lines_take_a_bounded_number_of_locks() {
    let test = TestApp::start().await;
    test.enqueue(task("a")).await;
    let mut connection = test.connection().await;
    let (lanes, tasks): (Vec<i32>, Vec<uuid::Uuid>) =
        (1..=10_000).map(|lane| (lane, uuid::Uuid::now_v7())).unzip();
    sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
    sqlx::query("SELECT orca.lock_heads($1), orca.line_up($1, $2, now())")
        .bind(&lanes)
        .bind(&tasks)
        .execute(&mut connection)
        .await
        .unwrap();
    let locks: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert!((1..=1_024).contains(&locks), "{locks} locks");
    sqlx::query("ROLLBACK").execute(&mut connection).await.unwrap();
    test.stop().await;
}
