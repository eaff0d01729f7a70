//! Signals to tasks: kept, first one stands, and seen by an attempt that waits for them while it runs.

use std::time::Duration;

use orca_coordinator::app::Error;
use orca_proto::attempt::Received;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::node::Grant;
use orca_proto::problem::Kind;
use orca_proto::signal::Signal;
use orca_proto::task::State;
use orca_proto::token::Access;
use serde_json::{Value, json};

use super::support::{LEASE, SOON, TestApp, TestNode, kind, lease, principal, task};

async fn send(test: &TestApp, id: TaskId, name: &str, payload: Value) -> Result<(), Error> {
    test.app.task_signal(&test.operator(), id, Signal { name: name.to_owned(), payload }).await
}

async fn look(node: &TestNode, grant: &Grant, name: &str, wait: Span) -> Result<Option<Received>, Error> {
    node.app.attempt_signal(&node.who, lease(grant), name, wait).await
}

#[tokio::test]
async fn a_signal_that_came_before_the_attempt_is_there_at_once_and_for_every_attempt() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let mut spec = task("a");
    spec.retry.max_attempts = 2;
    spec.retry.backoff.initial = Span::secs(0);
    let id = test.enqueue(spec).await;
    send(&test, id, "go", json!({"n": 1})).await.unwrap();
    for _ in 0..2 {
        let grant = node.claim_one().await;
        let got = look(&node, &grant, "go", Span::secs(0)).await.unwrap();
        assert_eq!(got, Some(Received { payload: json!({"n": 1}) }));
        assert_eq!(look(&node, &grant, "other", Span::secs(0)).await.unwrap(), None);
        node.fail(&grant).await;
    }
    test.stop().await;
}

#[tokio::test]
async fn a_held_wait_is_answered_when_the_signal_comes() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let id = test.enqueue(task("a")).await;
    let grant = node.claim_one().await;
    let (got, ()) =
        tokio::join!(tokio::time::timeout(SOON, look(&node, &grant, "go", Span::secs(60))), async {
            send(&test, id, "go", json!("now")).await.unwrap()
        });
    assert_eq!(got.unwrap().unwrap(), Some(Received { payload: json!("now") }));
    assert_eq!(node.succeed(&grant, json!(1)).await, State::Succeeded);
    test.stop().await;
}

#[tokio::test]
async fn a_held_wait_is_answered_when_another_coordinator_took_the_signal() {
    let test = TestApp::start().await;
    let mut node = test.worker("w").await;
    let id = test.enqueue(task("a")).await;
    let grant = node.claim_one().await;
    node.app = test.replica().await;
    let (got, ()) =
        tokio::join!(tokio::time::timeout(SOON, look(&node, &grant, "go", Span::secs(60))), async {
            send(&test, id, "go", Value::Null).await.unwrap()
        });
    assert_eq!(got.unwrap().unwrap(), Some(Received { payload: Value::Null }));
    test.stop().await;
}

#[tokio::test]
async fn a_wait_ends_with_its_time_with_the_lease_and_with_the_coordinator() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    test.enqueue(task("a")).await;
    let grant = node.claim_one().await;
    assert_eq!(look(&node, &grant, "go", Span::millis(20)).await.unwrap(), None);

    let (got, _) =
        tokio::join!(tokio::time::timeout(SOON, look(&node, &grant, "go", Span::secs(60))), async {
            test.advance(LEASE + Duration::from_secs(1)).await
        });
    assert_eq!(kind(got.unwrap()), Kind::LeaseLost);

    test.enqueue(task("b")).await;
    let grant = node.claim_one().await;
    let (got, ()) =
        tokio::join!(tokio::time::timeout(SOON, look(&node, &grant, "go", Span::secs(60))), test.stop());
    assert_eq!(got.unwrap().unwrap(), None);
}

#[tokio::test]
async fn only_the_holder_of_the_lease_sees_a_tasks_signals() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let other = test.worker("other").await;
    let id = test.enqueue(task("a")).await;
    let grant = node.claim_one().await;
    send(&test, id, "go", json!(1)).await.unwrap();
    let at_once = Span::secs(0);
    assert_eq!(kind(look(&other, &grant, "go", at_once).await), Kind::LeaseLost);
    let stranger = principal("elsewhere", "node-w", Access::Worker);
    assert_eq!(kind(test.app.attempt_signal(&stranger, lease(&grant), "go", at_once).await), Kind::LeaseLost);
    node.succeed(&grant, json!(1)).await;
    assert_eq!(kind(look(&node, &grant, "go", at_once).await), Kind::LeaseLost);
    test.stop().await;
}

#[tokio::test]
async fn the_first_signal_of_a_name_stands_also_among_many_at_once() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let id = test.enqueue(task("a")).await;
    let grant = node.claim_one().await;
    let sent = futures_util::future::join_all((0..8).map(|n| send(&test, id, "go", json!({ "n": n })))).await;
    let taken: Vec<usize> = (0..8).filter(|n| sent[*n].is_ok()).collect();
    assert_eq!(taken.len(), 1);
    for error in sent.into_iter().filter(Result::is_err) {
        assert_eq!(kind(error), Kind::Conflict);
    }
    let first = json!({ "n": taken[0] });
    let got = look(&node, &grant, "go", Span::secs(0)).await.unwrap();
    assert_eq!(got, Some(Received { payload: first.clone() }));
    send(&test, id, "go", first).await.unwrap();
    assert_eq!(kind(send(&test, id, "go", Value::Null).await), Kind::Conflict);
    test.stop().await;
}

#[tokio::test]
async fn signals_to_what_has_ended_is_not_there_or_cannot_be_kept_are_refused() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let id = test.enqueue(task("a")).await;
    let grant = node.claim_one().await;
    let stranger = principal("other", "eve", Access::Operator);
    let go = || Signal { name: "go".into(), payload: Value::Null };
    assert_eq!(kind(test.app.task_signal(&stranger, id, go()).await), Kind::NotFound);
    assert_eq!(kind(send(&test, TaskId::new(), "go", Value::Null).await), Kind::NotFound);
    for (name, payload, pointer) in [
        ("", json!(1), "/name"),
        ("..", json!(1), "/name"),
        ("go", json!("\0"), "/payload"),
        ("go", json!("x".repeat(64 << 10)), "/payload"),
    ] {
        let error = send(&test, id, name, payload).await.unwrap_err().problem();
        assert_eq!(error.errors[0].pointer, pointer);
    }
    for (name, wait, pointer) in [("a b", Span::secs(0), "name"), ("go", Span::secs(61), "?wait")] {
        let error = look(&node, &grant, name, wait).await.unwrap_err().problem();
        assert_eq!(error.errors[0].pointer, pointer);
    }
    assert_eq!(look(&node, &grant, "go", Span::secs(0)).await.unwrap(), None);
    node.succeed(&grant, json!(1)).await;
    assert_eq!(kind(send(&test, id, "go", Value::Null).await), Kind::Conflict);
    test.stop().await;
}

#[tokio::test]
async fn a_task_is_sent_so_many_signals_that_it_does_not_read_and_no_more() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let mut spec = task("a");
    spec.wait_for = vec![serde_json::from_value(json!({"signal": "awaited"})).unwrap()];
    let id = test.enqueue(spec).await;
    for n in 0..limits::UNREAD_SIGNALS {
        send(&test, id, &format!("s{n}"), json!(n)).await.unwrap();
    }
    assert_eq!(kind(send(&test, id, "more", json!(1)).await), Kind::Conflict);
    send(&test, id, "s0", json!(0)).await.unwrap();
    send(&test, id, "awaited", json!(1)).await.unwrap();
    let grant = node.claim_one().await;
    assert_eq!(kind(send(&test, id, "more", json!(1)).await), Kind::Conflict);
    assert!(look(&node, &grant, "more", Span::secs(0)).await.unwrap().is_none());
    assert!(look(&node, &grant, "s0", Span::secs(0)).await.unwrap().is_some());
    send(&test, id, "more", json!(1)).await.unwrap();
    assert_eq!(kind(send(&test, id, "another", json!(1)).await), Kind::Conflict);
    test.stop().await;
}
