//! Attempts: fencing, reports, retries, logs, files, and the loss of a node.

use std::time::Duration;

use bytes::Bytes;
use orca_coordinator::lifecycle::{Event, Open, Snapshot, transition};
use orca_proto::limits;
use orca_proto::log::{LogAppend, LogLine, LogQuery, Stream};
use orca_proto::node::{Grant, LeaseRef};
use orca_proto::problem::Kind;
use orca_proto::spec::NewTask;
use orca_proto::task::{Outcome, Progress, State};
use orca_proto::token::Access;
use serde_json::json;

use super::support::{LEASE, LOG_LIMIT, TestApp, failure, kind, lease, principal, success, task};

fn line(seq: i64, text: &str) -> LogLine {
    LogLine { seq, stream: Stream::Stdout, at: jiff::Timestamp::now(), text: text.to_owned() }
}

fn content(text: &'static str) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send {
    futures_util::stream::iter([Ok(Bytes::from_static(text.as_bytes()))])
}

#[tokio::test]
async fn a_task_runs_from_ready_to_its_result_and_the_sql_agrees_with_the_state_machine() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    assert_eq!(test.state(id).await, State::Ready);
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    // A claim grants set-wise in SQL; the state machine says the same of it.
    let fresh = Snapshot::fresh(&task("a"), None, Open::default(), false);
    let ready = transition(&fresh, Event::Enqueued { failure: None }).unwrap();
    let model = transition(&Snapshot { state: ready.state, ..fresh }, Event::Granted).unwrap();
    let granted = test.task(id).await.summary;
    assert_eq!((granted.state, granted.attempt), (model.state, model.attempt));
    assert_eq!((grant.token.0, grant.attempt, grant.has_dependencies), (1, 1, false));
    node.start(&grant).await;
    assert_eq!(node.succeed(&grant, json!({"n": 1})).await, State::Succeeded);
    let done = test.task(id).await;
    assert_eq!((done.result, done.summary.state), (Some(json!({"n": 1})), State::Succeeded));
    assert_eq!(done.attempts.len(), 1);
    assert_eq!(done.attempts[0].outcome, Some(Outcome::Succeeded));
    assert!(done.attempts[0].started_at.is_some() && done.summary.finished_at.is_some());
    test.stop().await;
}

#[tokio::test]
async fn the_same_report_answers_the_same_and_another_is_refused() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let first = node.report(&grant, success(json!(1))).await.unwrap();
    assert_eq!(node.report(&grant, success(json!(1))).await.unwrap(), first);
    assert_eq!(kind(node.report(&grant, success(json!(2))).await), Kind::ResultConflict);
    assert_eq!(kind(node.report(&grant, failure()).await), Kind::ResultConflict);
    assert_eq!(test.task(id).await.result, Some(json!(1)));
    test.stop().await;
}

#[tokio::test]
async fn a_stale_node_cannot_change_anything_of_a_newer_attempt() {
    let test = TestApp::start().await;
    let mut spec = task("a");
    spec.retry.max_attempts = 2;
    spec.retry.backoff.initial = orca_proto::duration::Span::millis(0);
    let id = test.enqueue(spec).await;
    let (old, new) = (test.worker("old").await, test.worker("new").await);
    let stale = old.claim_one().await;
    old.start(&stale).await;
    test.advance(LEASE + Duration::from_secs(1)).await;
    let fresh = new.claim_one().await;
    assert_eq!((fresh.token.0, fresh.attempt), (2, 2));
    let before = test.task(id).await;

    assert_eq!(kind(old.report(&stale, success(json!("stale"))).await), Kind::LeaseLost);
    let lost = lease(&stale);
    assert_eq!(kind(test.app.attempt_start(&old.who, lost).await), Kind::LeaseLost);
    let progress = Progress { percent: Some(1.0), message: None };
    assert_eq!(kind(test.app.attempt_progress(&old.who, lost, progress).await), Kind::LeaseLost);
    let lines = LogAppend { lines: vec![line(0, "stale")] };
    assert_eq!(kind(test.app.attempt_logs(&old.who, lost, lines).await), Kind::LeaseLost);
    let children = orca_proto::attempt::Children { idempotency_key: "k".into(), tasks: vec![task("c")] };
    assert_eq!(kind(test.app.attempt_children(&old.who, lost, children).await), Kind::LeaseLost);
    let file = test.app.artifact_store(&old.who, "f", Some(lost), content("stale")).await;
    assert_eq!(kind(file), Kind::LeaseLost);
    assert_eq!(kind(test.app.attempt_dependencies(&old.who, lost).await), Kind::LeaseLost);
    assert_eq!(old.renew(&[lost], Duration::ZERO).await.lost, vec![lost]);
    assert_eq!(test.task(id).await, before);

    // Neither can another node's credential use the newest token.
    let foreign = test.app.attempt_report(&old.who, lease(&fresh), success(json!("foreign"))).await;
    assert_eq!(kind(foreign), Kind::LeaseLost);
    let elsewhere = principal("other", "node-new", Access::Worker);
    let foreign = test.app.attempt_report(&elsewhere, lease(&fresh), success(json!("foreign"))).await;
    assert_eq!(kind(foreign), Kind::LeaseLost);
    assert_eq!(new.succeed(&fresh, json!("fresh")).await, State::Succeeded);
    assert_eq!(test.task(id).await.result, Some(json!("fresh")));
    test.stop().await;
}

#[tokio::test]
async fn a_report_after_the_lease_ran_out_is_refused_even_before_the_sweep() {
    let test = TestApp::start().await;
    test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    test.stop().await;
    test.clock.advance(LEASE + Duration::from_secs(1));
    assert_eq!(kind(node.report(&grant, success(json!(1))).await), Kind::LeaseLost);
}

#[tokio::test]
async fn a_lost_task_is_granted_again_until_its_attempts_are_used_up() {
    let test = TestApp::start().await;
    let mut spec = task("a");
    spec.retry.max_attempts = 2;
    let id = test.enqueue(spec).await;
    let node = test.worker("w").await;
    for attempt in 1..=2 {
        let grant = node.claim_one().await;
        assert_eq!(grant.attempt, attempt);
        node.start(&grant).await;
        test.advance(LEASE + Duration::from_secs(1)).await;
        test.advance(Duration::from_secs(10)).await;
    }
    let task = test.task(id).await;
    assert_eq!((task.summary.state, task.summary.outcome), (State::Failed, Some(Outcome::Lost)));
    assert_eq!(task.attempts.len(), 2);
    assert!(node.claim(1).await.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn a_failed_task_waits_its_backoff_and_then_fails_with_its_last_outcome() {
    let test = TestApp::start().await;
    let mut spec = task("a");
    spec.retry.max_attempts = 2;
    spec.retry.backoff.initial = orca_proto::duration::Span::secs(100);
    spec.retry.backoff.jitter = 0.0;
    let id = test.enqueue(spec).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    assert_eq!(node.fail(&grant).await, State::Scheduled);
    assert!(test.task(id).await.summary.run_at.is_some());
    test.advance(Duration::from_secs(50)).await;
    assert!(node.claim(1).await.is_empty());
    test.advance(Duration::from_secs(51)).await;
    let grant = node.claim_one().await;
    assert_eq!((grant.attempt, grant.token.0), (2, 2));
    assert_eq!(node.fail(&grant).await, State::Failed);
    let task = test.task(id).await;
    assert_eq!(task.summary.outcome, Some(Outcome::Failed { exit_code: 3, reason: None }));
    assert_eq!(task.summary.reason.as_deref(), Some("exited with code 3"));
    test.stop().await;
}

#[tokio::test]
async fn a_runtime_error_is_tried_again_without_using_up_an_attempt_and_a_rejection_never() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let fault = || orca_proto::attempt::Report {
        outcome: Outcome::RuntimeError { reason: "no space".into() },
        result: None,
        plan: None,
    };
    for token in 1..=i64::from(limits::RUNTIME_ERRORS) {
        test.advance(Duration::from_secs(400)).await;
        // The clock moves past the node's other leases, never past this one.
        let grant = node.claim_one().await;
        assert_eq!((grant.attempt, grant.token.0), (1, token));
        node.report(&grant, fault()).await.unwrap();
    }
    assert_eq!(test.state(id).await, State::Failed);

    let id = test.enqueue(NewTask::new("image")).await;
    let grant = node.claim_one().await;
    let rejected = orca_proto::attempt::Report {
        outcome: Outcome::Rejected { reason: "no such image".into() },
        result: None,
        plan: None,
    };
    assert_eq!(node.report(&grant, rejected).await.unwrap().state, State::Failed);
    assert!(test.task(id).await.summary.reason.unwrap().contains("no such image"));
    test.stop().await;
}

#[tokio::test]
async fn log_lines_are_gapless_in_order_and_stored_once() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let append = async |lines: Vec<LogLine>| {
        test.app.attempt_logs(&node.who, lease(&grant), LogAppend { lines }).await.unwrap().next_seq
    };
    assert_eq!(append(vec![line(0, "a"), line(1, "b")]).await, 2);
    assert_eq!(append(vec![line(1, "again"), line(2, "c")]).await, 3);
    assert_eq!(append(vec![line(4, "after a gap")]).await, 3);
    let page = test.app.log_page(&test.operator(), id, &LogQuery::default()).await.unwrap();
    let texts: Vec<&str> = page.items.iter().map(|entry| entry.text.as_str()).collect();
    assert_eq!((texts, page.next), (vec!["a", "b", "c"], None));
    let first = LogQuery { limit: Some(1), ..LogQuery::default() };
    let page = test.app.log_page(&test.operator(), id, &first).await.unwrap();
    let rest = LogQuery { cursor: page.next, ..LogQuery::default() };
    let page = test.app.log_page(&test.operator(), id, &rest).await.unwrap();
    assert_eq!(page.items.len(), 2);
    let bad = LogAppend { lines: vec![line(3, "a\0b")] };
    assert_eq!(kind(test.app.attempt_logs(&node.who, lease(&grant), bad).await), Kind::Validation);
    test.stop().await;
}

#[tokio::test]
async fn past_the_cap_lines_are_counted_and_one_last_line_tells_how_many() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.start(&grant).await;
    let mut connection = test.connection().await;
    sqlx::query("UPDATE orca.attempts SET log_bytes = $1")
        .bind(LOG_LIMIT - 40)
        .execute(&mut connection)
        .await
        .unwrap();
    let lines = vec![line(0, "fits"), line(1, "does not"), line(2, "nor does this")];
    let ack = test.app.attempt_logs(&node.who, lease(&grant), LogAppend { lines }).await.unwrap();
    assert_eq!(ack.next_seq, 3);
    node.succeed(&grant, json!(null)).await;
    let page = test.app.log_page(&test.operator(), id, &LogQuery::default()).await.unwrap();
    assert_eq!(page.items.len(), 2);
    assert_eq!((page.items[1].seq, page.items[1].stream), (1, Stream::System));
    assert!(page.items[1].text.starts_with("2 more lines were dropped"), "{}", page.items[1].text);
    test.stop().await;
}

#[tokio::test]
async fn a_reader_may_begin_with_the_last_lines_and_go_on_from_there() {
    let test = TestApp::start().await;
    let id = test.enqueue(NewTask::new("image")).await;
    let node = test.worker("w").await;
    let write = async |grant: &Grant, count: i64| {
        let lines = (0..count).map(|seq| line(seq, &format!("{}.{seq}", grant.attempt))).collect();
        test.app.attempt_logs(&node.who, lease(grant), LogAppend { lines }).await.unwrap();
    };
    let first = node.claim_one().await;
    write(&first, 4).await;
    node.fail(&first).await;
    test.advance(Duration::from_secs(600)).await;
    let second = node.claim_one().await;
    write(&second, 3).await;
    let read = async |tail: Option<u32>, attempt: Option<i32>, limit: u32, cursor: Option<String>| {
        let query = LogQuery { tail, attempt, limit: Some(limit), cursor, follow: None };
        let page = test.app.log_page(&test.operator(), id, &query).await.unwrap();
        (page.items.into_iter().map(|line| line.text).collect::<Vec<_>>().join(" "), page.next)
    };
    let (texts, next) = read(Some(4), None, 2, None).await;
    assert_eq!(texts, "1.3 2.0");
    assert_eq!(read(Some(4), None, 2, next).await, ("2.1 2.2".to_owned(), None));
    assert_eq!(read(Some(1), Some(1), 9, None).await, ("1.3".to_owned(), None));
    assert_eq!(read(Some(99), None, 9, None).await.0, "1.0 1.1 1.2 1.3 2.0 2.1 2.2");
    let none = LogQuery { tail: Some(0), ..LogQuery::default() };
    assert_eq!(kind(test.app.log_page(&test.operator(), id, &none).await), Kind::Validation);
    test.stop().await;
}

#[tokio::test]
async fn an_attempts_file_replaces_one_of_the_same_name_and_comes_back_whole() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let held = Some(lease(&grant));
    test.app.artifact_store(&node.who, "out", held, content("one")).await.unwrap();
    let second = test.app.artifact_store(&node.who, "out", held, content("two")).await.unwrap();
    let listed = test.app.artifact_list(&test.operator(), id).await.unwrap().items;
    assert_eq!(listed, vec![second.clone()]);
    let (_, mut file) = test.app.artifact_open(&test.operator(), second.id).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut file, &mut text).await.unwrap();
    assert_eq!((text.as_str(), second.size), ("two", 3));
    let stranger = principal("other", "ann", Access::Operator);
    assert_eq!(kind(test.app.artifact_get(&stranger, second.id).await), Kind::NotFound);
    assert_eq!(kind(test.app.artifact_store(&node.who, "../x", held, content("")).await), Kind::Validation);
    test.stop().await;
}

#[tokio::test]
async fn progress_shows_on_the_task_and_makes_at_most_one_event_a_second() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    test.stop().await;
    for percent in [10.0, 20.0, 30.0] {
        let progress = Progress { percent: Some(percent), message: Some("on it".into()) };
        test.app.attempt_progress(&node.who, lease(&grant), progress).await.unwrap();
    }
    assert_eq!(test.task(id).await.summary.progress.unwrap().percent, Some(30.0));
    let mut connection = test.connection().await;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM orca.events WHERE kind = 'orca.task.progress'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!((1..=3).contains(&count), "{count} events");
    let bad = Progress { percent: Some(101.0), message: None };
    assert_eq!(kind(test.app.attempt_progress(&node.who, lease(&grant), bad).await), Kind::Validation);
    let reference = LeaseRef { task: id, ..lease(&grant) };
    assert_eq!(node.renew(&[reference], Duration::ZERO).await.lost, vec![]);
}
