//! Idempotency keys and retries by operators.

use std::time::Duration;

use orca_proto::plan::Batch;
use orca_proto::problem::Kind;
use orca_proto::task::{State, Task, TaskFilter};
use orca_proto::token::Access;
use serde_json::json;

use super::support::{TestApp, after, kind, principal, task};

#[tokio::test]
async fn one_key_gives_one_task_however_often_and_at_once_it_is_sent() {
    let test = TestApp::start().await;
    let operator = test.operator();
    let send = || test.app.task_enqueue(&operator, task("a"), Some("key-1"));
    let (a, b, c) = tokio::join!(send(), send(), send());
    let ids = [a.unwrap().0.summary.id, b.unwrap().0.summary.id, c.unwrap().0.summary.id];
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(
        kind(test.app.task_enqueue(&operator, task("b"), Some("key-1")).await),
        Kind::IdempotencyConflict
    );
    let batch = || Batch { tasks: vec![task("x"), task("y")] };
    let first = test.app.batch_enqueue(&operator, batch(), Some("key-2")).await.unwrap();
    assert_eq!(test.app.batch_enqueue(&operator, batch(), Some("key-2")).await.unwrap(), first);
    // The wall stands between keys too.
    let stranger = principal("other", "ann", Access::Operator);
    let other = test.app.task_enqueue(&stranger, task("a"), Some("key-1")).await.unwrap();
    assert_ne!(other.0.summary.id, ids[0]);
    let all = test.app.task_list(&operator, TaskFilter::default()).await.unwrap();
    assert_eq!(all.items.len(), 3);
    test.stop().await;
}

#[tokio::test]
async fn a_refused_request_does_not_use_up_its_key_and_an_old_key_is_forgotten() {
    let test = TestApp::start().await;
    let operator = test.operator();
    let unknown = uuid::Uuid::now_v7().to_string();
    assert!(test.app.task_enqueue(&operator, after("a", &[&unknown]), Some("k")).await.is_err());
    let first = test.app.task_enqueue(&operator, task("a"), Some("k")).await.unwrap();
    test.advance(Duration::from_secs(25 * 3_600)).await;
    let second = test.app.task_enqueue(&operator, task("b"), Some("k")).await.unwrap();
    assert_ne!(first.0.summary.id, second.0.summary.id);
    test.stop().await;
}

#[tokio::test]
async fn a_retry_is_a_new_task_and_the_old_one_stays_as_it_ended() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let id = test.enqueue(task("a")).await;
    assert_eq!(kind(test.app.task_retry(&test.operator(), id, None).await), Kind::Conflict);
    let grant = node.claim_one().await;
    node.fail(&grant).await;
    let before = test.task(id).await;
    let again = test.app.task_retry(&test.operator(), id, Some("again")).await.unwrap();
    let repeated = test.app.task_retry(&test.operator(), id, Some("again")).await.unwrap();
    assert_eq!(repeated.summary.id, again.summary.id);
    assert_eq!((again.retry_of, again.summary.state), (Some(id), State::Ready));
    let grant = node.claim_one().await;
    assert_eq!((grant.task, grant.attempt), (again.summary.id, 1));
    node.succeed(&grant, json!(1)).await;
    let after = test.task(id).await;
    assert_eq!(after.retried_as, [again.summary.id]);
    assert_eq!(Task { retried_as: Vec::new(), ..after }, before);
    test.stop().await;
}
