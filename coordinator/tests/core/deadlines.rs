//! Deadlines: a task that has not begun by its own is expired, wherever it waits; one that runs is not tried again.

use std::time::Duration;

use jiff::Timestamp;
use orca_proto::attempt::Report;
use orca_proto::duration::Span;
use orca_proto::spec::{Approval, NewTask};
use orca_proto::task::{Outcome, State, Timeout};
use serde_json::json;

use super::support::{LEASE, TestApp, TestNode, after, task};

const MINUTE: Duration = Duration::from_secs(60);

fn due(test: &TestApp, spec: NewTask) -> NewTask {
    NewTask { deadline: Some(test.clock.now().checked_add(MINUTE).unwrap()), ..spec }
}

async fn nothing_is_granted(node: &TestNode) {
    assert!(node.claim(10).await.is_empty());
}

#[tokio::test]
async fn a_deadline_that_passes_before_the_task_has_begun_ends_it_wherever_it_waits() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let first = test.enqueue(task("first")).await;
    let held = node.claim_one().await;
    assert_eq!(held.task, first);
    let later = test.clock.now().checked_add(MINUTE / 2).unwrap();
    let waiting = [
        (State::Blocked, NewTask { approval: Some(Approval::default()), ..task("approval") }),
        (State::Blocked, after("dependency", &[&first.to_string()])),
        (State::Scheduled, NewTask { delay: Some(Span::secs(59)), ..task("delayed") }),
        (State::Scheduled, NewTask { run_at: Some(later), ..task("later") }),
        (State::Ready, task("ready")),
    ];
    let mut ids = Vec::new();
    for (state, spec) in waiting {
        let id = test.enqueue(due(&test, spec)).await;
        let summary = test.task(id).await.summary;
        assert_eq!(summary.state, state, "{}", summary.name);
        assert!(summary.deadline.is_some());
        ids.push(id);
    }
    test.advance(MINUTE + Duration::from_secs(1)).await;
    for id in ids {
        let summary = test.task(id).await.summary;
        assert_eq!(summary.state, State::Expired, "{}", summary.name);
        assert_eq!(summary.reason.as_deref(), Some("it had not begun by its deadline"));
    }
    nothing_is_granted(&node).await;
    node.succeed(&held, json!(1)).await;
    test.reconcile().await;
    nothing_is_granted(&node).await;
    test.stop().await;
}

#[tokio::test]
async fn a_task_is_not_granted_after_its_deadline_even_before_anybody_looked() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    test.enqueue(due(&test, task("a"))).await;
    test.clock.advance(MINUTE + Duration::from_secs(1));
    nothing_is_granted(&node).await;
    test.stop().await;
}

#[tokio::test]
async fn a_node_is_told_how_long_there_is_and_a_running_attempt_that_ran_over_is_not_tried_again() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let mut spec = due(&test, task("a"));
    spec.retry.max_attempts = 3;
    let id = test.enqueue(spec).await;
    let grant = node.claim_one().await;
    let left = grant.deadline_in.unwrap();
    assert!(left <= Span::secs(60) && left > Span::secs(30), "{left}");
    node.start(&grant).await;
    test.advance(MINUTE + Duration::from_secs(1)).await;
    assert_eq!(test.state(id).await, State::Running);
    let outcome = Outcome::TimedOut { which: Timeout::Deadline };
    let report = Report { outcome: outcome.clone(), result: None, plan: None };
    assert_eq!(node.report(&grant, report).await.unwrap().state, State::Failed);
    assert_eq!(test.task(id).await.attempts[0].outcome, Some(outcome));
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_succeeds_after_its_deadline_has_succeeded() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let id = test.enqueue(due(&test, task("a"))).await;
    let grant = node.claim_one().await;
    test.advance(MINUTE + Duration::from_secs(1)).await;
    assert_eq!(node.succeed(&grant, json!(1)).await, State::Succeeded);
    test.advance(MINUTE).await;
    assert_eq!(test.state(id).await, State::Succeeded);
    test.stop().await;
}

#[tokio::test]
async fn an_attempt_that_fails_or_is_lost_after_the_deadline_is_the_last() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let spec = || {
        let mut spec = due(&test, task("a"));
        spec.retry.max_attempts = 3;
        spec
    };
    let immediate = || {
        let mut spec = spec();
        spec.retry.backoff.initial = Span::secs(0);
        spec
    };
    let ids = [test.enqueue(spec()).await, test.enqueue(immediate()).await, test.enqueue(spec()).await];
    let grants = node.claim(3).await;
    for grant in &grants {
        node.start(grant).await;
    }
    test.advance(MINUTE + Duration::from_secs(1)).await;
    node.fail(&grants[0]).await;
    node.fail(&grants[1]).await;
    test.reconcile().await;
    nothing_is_granted(&node).await;
    test.advance(LEASE).await;
    for id in ids {
        let summary = test.task(id).await.summary;
        assert_eq!((summary.state, summary.attempt), (State::Failed, 1));
    }
    test.stop().await;
}

#[tokio::test]
async fn an_attempt_that_fails_before_the_deadline_is_tried_again_until_it_passes() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let mut spec = due(&test, task("a"));
    spec.retry.max_attempts = 3;
    spec.retry.backoff.initial = Span::secs(0);
    let id = test.enqueue(spec).await;
    node.fail(&node.claim_one().await).await;
    node.fail(&node.claim_one().await).await;
    assert_eq!(test.state(id).await, State::Ready);
    test.advance(MINUTE + Duration::from_secs(1)).await;
    let summary = test.task(id).await.summary;
    assert_eq!((summary.state, summary.attempt), (State::Expired, 2));
    assert_eq!(summary.reason.as_deref(), Some("its deadline passed before it could be tried again"));
    test.stop().await;
}

#[tokio::test]
async fn a_deadline_that_makes_no_sense_is_refused() {
    let test = TestApp::start().await;
    let now = test.clock.now();
    let at = |seconds: i64| now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
    for spec in [
        NewTask { deadline: Some(at(-1)), ..task("a") },
        NewTask { deadline: Some(Timestamp::MAX), ..task("a") },
        NewTask { deadline: Some(at(10)), run_at: Some(at(10)), ..task("a") },
        NewTask { deadline: Some(at(10)), delay: Some(Span::secs(60)), ..task("a") },
    ] {
        let error = test.app.task_enqueue(&test.operator(), spec, None).await.unwrap_err().problem();
        assert_eq!(error.errors[0].pointer, "/deadline");
    }
    test.stop().await;
}

#[tokio::test]
async fn timers_that_go_off_together_are_written_together() {
    let test = TestApp::start().await;
    let deadline = due(&test, task("t")).deadline;
    test.fill(200, |n| NewTask { deadline, ..task(&format!("t{n}")) }).await;
    test.advance(MINUTE * 2).await;
    let (events, tasks): (i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(cardinality(tasks)), 0)::bigint FROM orca.events WHERE state = 'expired'",
    )
    .fetch_one(&mut test.connection().await)
    .await
    .unwrap();
    assert_eq!((events, tasks), (1, 200));
    test.stop().await;
}
