//! Lanes that nobody uses any more: nothing is kept of them that anybody looks at, and what comes later goes on as before.

use std::collections::HashSet;
use std::time::Duration;

use orca_proto::ids::TaskId;
use orca_proto::spec::NewTask;
use orca_proto::task::State;
use serde_json::json;
use sqlx::Connection;

use super::support::{TestApp, TestNode, task};

/// After this, a lane in which nothing was granted is idle.
const IDLE: Duration = Duration::from_secs(61);
const LANES: usize = 5;
const ROUNDS: usize = 30;

fn of_lane(lane: usize) -> NewTask {
    NewTask { group: Some(format!("g{lane}")), key: None, ..task("t") }
}

/// Segments, and grants of which nothing is left to do.
async fn kept(test: &TestApp) -> (i64, i64) {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM orca.segments), (SELECT count(*) FROM orca.grants WHERE open = 0)",
    )
    .fetch_one(&mut test.connection().await)
    .await
    .unwrap()
}

async fn succeed_all(node: &TestNode) -> Vec<TaskId> {
    let grants = node.claim(1_000).await;
    for grant in &grants {
        assert_eq!(node.succeed(grant, json!(null)).await, State::Succeeded);
    }
    grants.into_iter().map(|grant| grant.task).collect()
}

#[tokio::test]
async fn of_a_lane_that_is_idle_nothing_is_kept_and_nothing_is_granted_twice() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    test.fill(LANES * 2, |n| of_lane(n % LANES)).await;
    assert_eq!(succeed_all(&node).await.len(), LANES * 2);
    test.reconcile().await;
    assert_eq!(kept(&test).await, (5, 5), "what was used just now is kept for the next claim");
    test.advance(IDLE).await;
    assert_eq!(kept(&test).await, (0, 0));
    assert!(node.claim(1_000).await.is_empty());
    test.fill(LANES, of_lane).await;
    assert_eq!(succeed_all(&node).await.len(), LANES);
    test.advance(IDLE).await;
    assert_eq!(kept(&test).await, (0, 0));
    test.stop().await;
}

#[tokio::test]
async fn a_lane_of_which_something_waits_or_runs_is_not_forgotten() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    test.fill(3, |_| of_lane(0)).await;
    let first = node.claim_one().await;
    node.succeed(&first, json!(null)).await;
    test.advance(IDLE).await;
    // One grant says how far the lane was taken, and what waits is still there.
    assert_eq!(kept(&test).await, (1, 1));
    let second = node.claim_one().await;
    let third = node.claim_one().await;
    test.advance(IDLE).await;
    assert_eq!(kept(&test).await, (0, 0), "the two that run have open grants");
    assert_eq!(HashSet::from([first.task, second.task, third.task]).len(), 3);
    for grant in [&second, &third] {
        assert_eq!(test.state(grant.task).await, State::Running);
        assert_eq!(node.succeed(grant, json!(null)).await, State::Succeeded);
    }
    assert!(node.claim(10).await.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn what_is_about_to_come_into_an_idle_lane_while_that_is_forgotten_is_granted_once() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let before = test.enqueue(of_lane(0)).await;
    assert_eq!(succeed_all(&node).await, [before]);
    let mut connection = test.connection().await;
    let mut enqueue = connection.begin().await.unwrap();
    let next = TaskId::new();
    sqlx::query(
        "SELECT orca.enqueue_plain(ARRAY[namespace], ARRAY[$1::uuid], ARRAY[lane], ARRAY[name], ARRAY[1], ARRAY[spec],
                                   ARRAY[NULL], ARRAY[NULL], ARRAY[NULL]) FROM orca.tasks WHERE id = $2",
    )
    .bind(next.0)
    .bind(before.0)
    .execute(&mut *enqueue)
    .await
    .unwrap();
    test.advance(IDLE).await;
    assert_eq!(kept(&test).await, (0, 0));
    enqueue.commit().await.unwrap();
    test.reconcile().await;
    assert_eq!(succeed_all(&node).await, [next]);
    assert!(node.claim(10).await.is_empty());
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_enqueued_and_claimed_while_idle_lanes_are_forgotten_is_granted_once() {
    let test = TestApp::start().await;
    let other = test.replica().await;
    let node = test.worker("w").await;
    let mut granted = Vec::new();
    for _ in 0..ROUNDS {
        test.clock.advance(IDLE);
        let sweeps = async {
            for _ in 0..3 {
                other.reconcile().await.unwrap();
            }
        };
        let work = async {
            let mut taken = Vec::new();
            for n in 0..LANES * 3 {
                test.enqueue(of_lane(n % LANES)).await;
                taken.extend(succeed_all(&node).await);
            }
            taken
        };
        let ((), taken) = tokio::join!(sweeps, work);
        granted.extend(taken);
        granted.extend(succeed_all(&node).await);
    }
    let different: HashSet<_> = granted.iter().copied().collect();
    assert_eq!((granted.len(), different.len()), (ROUNDS * LANES * 3, ROUNDS * LANES * 3));
    test.stop().await;
}
