//! Cancelling: trees, running tasks, and what a node hears of it.

use std::time::Duration;

use orca_proto::attempt::Report;
use orca_proto::problem::Kind;
use orca_proto::task::{Cancellation, Outcome, State};
use serde_json::json;

use super::support::{LEASE, SOON, TestApp, after, goal, kind, lease, task};

fn why() -> Cancellation {
    Cancellation { reason: Some("changed my mind".into()) }
}

#[tokio::test]
async fn a_cancelled_goal_cancels_its_whole_tree_and_nothing_of_it_is_granted() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let grant = planner.claim_one().await;
    planner.plan(&grant, vec![task("a"), task("b"), after("c", &["a"])]).await.unwrap();
    let running = worker.claim_one().await;
    let answer = test.app.task_cancel(&test.operator(), id, why()).await.unwrap();
    assert_eq!((answer.state, answer.reason.as_deref()), (State::Cancelled, Some("changed my mind")));
    assert!(worker.claim(10).await.is_empty() && planner.claim(10).await.is_empty());
    let goal = test.task(id).await.summary;
    assert_eq!(goal.children, [(State::Running, 1), (State::Cancelled, 3)].into());
    assert!(test.task(running.task).await.summary.cancel_requested);

    let cancelled = Report { outcome: Outcome::Cancelled, result: None, plan: None };
    assert_eq!(worker.report(&running, cancelled).await.unwrap().state, State::Cancelled);
    assert_eq!(kind(test.app.task_cancel(&test.operator(), id, why()).await), Kind::Conflict);
    test.stop().await;
}

#[tokio::test]
async fn a_held_renewal_is_answered_as_soon_as_one_of_its_leases_is_to_be_cancelled() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let held = [lease(&grant)];
    let (renewed, _) = tokio::join!(tokio::time::timeout(SOON, node.renew(&held, LEASE)), async {
        test.app.task_cancel(&test.operator(), id, why()).await.unwrap()
    });
    assert_eq!(renewed.unwrap().cancel, vec![lease(&grant)]);
    test.stop().await;
}

#[tokio::test]
async fn a_replica_hears_of_a_cancel_too() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let mut node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.app = test.replica().await;
    let held = [lease(&grant)];
    let (renewed, _) = tokio::join!(tokio::time::timeout(SOON, node.renew(&held, LEASE)), async {
        test.app.task_cancel(&test.operator(), id, why()).await.unwrap()
    });
    assert_eq!(renewed.unwrap().cancel, vec![lease(&grant)]);
    test.stop().await;
}

#[tokio::test]
async fn a_cancelled_task_whose_node_went_away_is_cancelled_and_not_tried_again() {
    let test = TestApp::start().await;
    let mut spec = task("a");
    spec.retry.max_attempts = 3;
    let id = test.enqueue(spec).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.start(&grant).await;
    test.app.task_cancel(&test.operator(), id, why()).await.unwrap();
    assert_eq!(test.state(id).await, State::Running);
    test.advance(LEASE + Duration::from_secs(1)).await;
    let task = test.task(id).await;
    assert_eq!(task.summary.state, State::Cancelled);
    assert_eq!(task.attempts[0].outcome, Some(Outcome::Lost));
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_finishes_before_it_hears_of_the_cancel_has_succeeded() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    test.app.task_cancel(&test.operator(), id, why()).await.unwrap();
    assert_eq!(node.succeed(&grant, json!(1)).await, State::Succeeded);
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_depends_on_a_cancelled_one_is_skipped() {
    let test = TestApp::start().await;
    let first = test.enqueue(task("a")).await;
    let second = test.enqueue(after("b", &[&first.to_string()])).await;
    test.app.task_cancel(&test.operator(), first, why()).await.unwrap();
    test.reconcile().await;
    assert_eq!(test.state(second).await, State::Skipped);
    test.stop().await;
}
