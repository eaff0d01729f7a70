//! The lines themselves: what has ended in one is passed over for little, and many of them take few locks.

use orca_proto::plan::Batch;
use orca_proto::spec::NewTask;
use orca_proto::task::Cancellation;

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
    let grants: i64 = sqlx::query_scalar("SELECT count(*) FROM orca.grants")
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
