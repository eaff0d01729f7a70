//! Approvals and signals that a task waits for before it runs: who lets it go on, and what becomes of it when nobody does.

use std::time::Duration;

use orca_coordinator::app::Error;
use orca_proto::approval::Decision;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::problem::Kind;
use orca_proto::signal::Signal;
use orca_proto::spec::{Approval, NewTask, OnTimeout, WaitFor};
use orca_proto::task::{State, Task, TaskSummary};
use orca_proto::token::Access;
use orca_proto::why::ConditionKind;
use serde_json::{Value, json};

use super::support::{TestApp, after, kind, principal, task};

const HOUR: Duration = Duration::from_secs(3_600);

fn asking(name: &str, timeout: Option<Span>, on_timeout: OnTimeout) -> NewTask {
    NewTask { approval: Some(Approval { prompt: None, timeout, on_timeout }), ..task(name) }
}

fn waiting(name: &str, signals: &[&str]) -> NewTask {
    let wait = |signal: &&str| WaitFor {
        signal: (*signal).to_owned(),
        timeout: None,
        on_timeout: OnTimeout::Cancel,
    };
    NewTask { wait_for: signals.iter().map(wait).collect(), ..task(name) }
}

async fn decide(test: &TestApp, id: TaskId, approve: bool) -> Result<TaskSummary, Error> {
    let decision = Decision { approve, comment: Some("looks good".into()) };
    test.app.task_decide(&test.operator(), id, decision).await
}

async fn send(test: &TestApp, id: TaskId, name: &str, payload: Value) -> Result<(), Error> {
    test.app.task_signal(&test.operator(), id, Signal { name: name.to_owned(), payload }).await
}

#[tokio::test]
async fn a_task_waits_until_it_is_approved_and_then_runs() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let id = test.enqueue(asking("deploy", None, OnTimeout::Cancel)).await;
    let before = test.task(id).await.summary;
    assert_eq!((before.state, before.waits_for), (State::Blocked, vec!["approval".to_owned()]));
    assert!(node.claim(10).await.is_empty());
    let approved = decide(&test, id, true).await.unwrap();
    assert_eq!((approved.state, approved.waits_for), (State::Ready, vec![]));
    let grant = node.claim_one().await;
    assert_eq!(node.succeed(&grant, json!(1)).await, State::Succeeded);
    assert_eq!(kind(decide(&test, id, true).await), Kind::NotAwaited);
    test.stop().await;
}

#[tokio::test]
async fn a_refused_task_is_cancelled_and_says_by_whom_and_why() {
    let test = TestApp::start().await;
    let id = test.enqueue(asking("deploy", None, OnTimeout::Proceed)).await;
    let behind = test.enqueue(after("behind", &[&id.to_string()])).await;
    let refused = decide(&test, id, false).await.unwrap();
    assert_eq!(refused.state, State::Cancelled);
    assert_eq!(refused.reason.as_deref(), Some("ann refused it: looks good"));
    assert!(refused.waits_for.is_empty());
    let decided = test.task(id).await.approval.unwrap();
    assert_eq!((decided.approved, decided.by.as_str()), (false, "ann"));
    test.reconcile().await;
    assert_eq!(test.state(behind).await, State::Skipped);
    assert_eq!(kind(decide(&test, id, true).await), Kind::NotAwaited);
    test.stop().await;
}

#[tokio::test]
async fn who_approved_a_task_and_with_which_words_is_told_to_whoever_looks_later() {
    let test = TestApp::start().await;
    let id = test.enqueue(asking("deploy", None, OnTimeout::Cancel)).await;
    assert_eq!(test.task(id).await.approval, None);
    decide(&test, id, true).await.unwrap();
    let decided = test.task(id).await.approval.unwrap();
    assert_eq!(
        (decided.approved, decided.by.as_str(), decided.comment.as_deref()),
        (true, "ann", Some("looks good"))
    );
    test.worker("w").await;
    let why = test.app.task_why(&test.operator(), id).await.unwrap();
    let told: Vec<_> = why.conditions.iter().map(|told| (told.kind.as_str(), told.blocks)).collect();
    assert_eq!(told, [("approval", false)]);
    let message = &why.conditions[0].message;
    assert!(
        message.starts_with("it was approved by ann at 20") && message.ends_with("“looks good”"),
        "{message}"
    );
    test.stop().await;
}

#[tokio::test]
async fn a_signal_that_came_is_told_with_its_time_to_whoever_looks_later() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let id = test.enqueue(waiting("a", &["go", "stop"])).await;
    send(&test, id, "go", json!(1)).await.unwrap();
    let names = |task: &Task| task.signals.iter().map(|come| come.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&test.task(id).await), ["go"]);
    send(&test, id, "stop", json!(1)).await.unwrap();
    node.succeed(&node.claim_one().await, json!(1)).await;
    let task = test.task(id).await;
    assert_eq!(
        (names(&task), task.signals[0].by.as_str()),
        (vec!["go".to_owned(), "stop".to_owned()], "ann")
    );
    let told = test.app.task_why(&test.operator(), id).await.unwrap();
    let come = told.conditions.iter().filter(|one| one.kind == ConditionKind::Signal && !one.blocks);
    assert_eq!(come.count(), 2, "{told:?}");
    test.stop().await;
}

#[tokio::test]
async fn of_two_decisions_at_once_one_counts_and_the_other_is_told() {
    let test = TestApp::start().await;
    for _ in 0..5 {
        let id = test.enqueue(asking("deploy", None, OnTimeout::Cancel)).await;
        let (yes, no) = tokio::join!(decide(&test, id, true), decide(&test, id, false));
        let state = test.state(id).await;
        let (won, lost) = if state == State::Ready { (yes, no) } else { (no, yes) };
        assert_eq!(won.unwrap().state, state);
        assert_eq!(kind(lost), Kind::NotAwaited);
    }
    test.stop().await;
}

#[tokio::test]
async fn an_approval_that_does_not_come_in_time_cancels_or_lets_go_on_as_told() {
    let test = TestApp::start().await;
    let within = Some(Span::secs(3_600));
    let strict = test.enqueue(asking("strict", within, OnTimeout::Cancel)).await;
    let lenient = test.enqueue(asking("lenient", within, OnTimeout::Proceed)).await;
    let decided = test.enqueue(asking("decided", within, OnTimeout::Cancel)).await;
    decide(&test, decided, true).await.unwrap();
    test.advance(HOUR - Duration::from_secs(60)).await;
    assert_eq!(test.state(strict).await, State::Blocked);
    assert_eq!(test.state(lenient).await, State::Blocked);
    test.advance(Duration::from_secs(61)).await;
    let strict = test.task(strict).await.summary;
    assert_eq!(strict.state, State::Cancelled);
    assert_eq!(strict.reason.as_deref(), Some("an approval did not come in time"));
    assert_eq!(test.state(lenient).await, State::Ready);
    assert_eq!(test.state(decided).await, State::Ready);
    test.stop().await;
}

#[tokio::test]
async fn a_task_goes_on_once_every_signal_its_approval_and_its_dependencies_have_come() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let first = test.enqueue(task("first")).await;
    let spec = NewTask {
        approval: Some(Approval::default()),
        depends_on: vec![first.to_string()],
        ..waiting("a", &["paid", "packed"])
    };
    let id = test.enqueue(spec).await;
    let awaited = || async { test.task(id).await.summary.waits_for };
    assert_eq!(awaited().await, ["approval", "packed", "paid"]);
    send(&test, id, "paid", json!({"sum": 3})).await.unwrap();
    send(&test, id, "unrelated", Value::Null).await.unwrap();
    assert_eq!(awaited().await, ["approval", "packed"]);
    decide(&test, id, true).await.unwrap();
    let grant = node.claim_one().await;
    node.succeed(&grant, json!(1)).await;
    test.reconcile().await;
    assert_eq!((test.state(id).await, awaited().await), (State::Blocked, vec!["packed".to_owned()]));
    send(&test, id, "packed", Value::Null).await.unwrap();
    assert_eq!(test.state(id).await, State::Ready);
    assert_eq!(node.claim_one().await.task, id);
    test.stop().await;
}

#[tokio::test]
async fn a_signal_that_does_not_come_in_time_cancels_or_lets_go_on_as_told() {
    let test = TestApp::start().await;
    let wait = |on_timeout| WaitFor { signal: "go".into(), timeout: Some(Span::secs(60)), on_timeout };
    let strict = test.enqueue(NewTask { wait_for: vec![wait(OnTimeout::Cancel)], ..task("a") }).await;
    let lenient = test.enqueue(NewTask { wait_for: vec![wait(OnTimeout::Proceed)], ..task("b") }).await;
    test.advance(Duration::from_secs(61)).await;
    let strict = test.task(strict).await.summary;
    assert_eq!(strict.state, State::Cancelled);
    assert_eq!(strict.reason.as_deref(), Some("the signal go did not come in time"));
    assert_eq!(test.state(lenient).await, State::Ready);
    test.stop().await;
}

#[tokio::test]
async fn a_gate_that_opens_by_its_timeout_and_a_deadline_that_passed_with_it_end_the_task() {
    let test = TestApp::start().await;
    let now = test.clock.now();
    let deadline = now.checked_add(Duration::from_secs(120)).unwrap();
    let spec = NewTask { deadline: Some(deadline), ..asking("a", Some(Span::secs(60)), OnTimeout::Proceed) };
    let id = test.enqueue(spec).await;
    test.advance(Duration::from_secs(300)).await;
    assert_eq!(test.state(id).await, State::Expired);
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_waits_for_later_too_is_scheduled_once_it_is_approved() {
    let test = TestApp::start().await;
    let run_at = test.clock.now().checked_add(HOUR).unwrap();
    let id = test.enqueue(NewTask { run_at: Some(run_at), ..asking("a", None, OnTimeout::Cancel) }).await;
    assert_eq!(decide(&test, id, true).await.unwrap().state, State::Scheduled);
    test.advance(HOUR + Duration::from_secs(1)).await;
    assert_eq!(test.state(id).await, State::Ready);
    test.stop().await;
}

#[tokio::test]
async fn decisions_that_nothing_waits_for_are_refused_and_change_nothing() {
    let test = TestApp::start().await;
    let plain = test.enqueue(task("plain")).await;
    let signals_only = test.enqueue(waiting("signals", &["go"])).await;
    for id in [plain, signals_only] {
        let before = test.task(id).await;
        assert_eq!(kind(decide(&test, id, false).await), Kind::NotAwaited);
        assert_eq!(test.task(id).await, before);
    }
    assert_eq!(kind(decide(&test, TaskId::new(), true).await), Kind::NotFound);
    let asking = test.enqueue(asking("a", None, OnTimeout::Cancel)).await;
    let stranger = principal("other", "eve", Access::Operator);
    let yes = |comment: &str| Decision { approve: true, comment: Some(comment.to_owned()) };
    assert_eq!(kind(test.app.task_decide(&stranger, asking, yes("")).await), Kind::NotFound);
    for comment in ["x".repeat(1_025), "\0".to_owned()] {
        let error =
            test.app.task_decide(&test.operator(), asking, yes(&comment)).await.unwrap_err().problem();
        assert_eq!(error.errors[0].pointer, "/comment");
    }
    assert_eq!(test.state(asking).await, State::Blocked);
    test.stop().await;
}

#[tokio::test]
async fn waits_that_make_no_sense_are_refused_at_enqueueing() {
    let test = TestApp::start().await;
    let prompt = Approval { prompt: Some("\0".into()), ..Approval::default() };
    let never = Approval { timeout: Some(Span::secs(0)), ..Approval::default() };
    for (spec, pointer) in [
        (NewTask { approval: Some(prompt), ..task("a") }, "/approval/prompt"),
        (NewTask { approval: Some(never), ..task("a") }, "/approval/timeout"),
        (waiting("a", &["go", "go"]), "/wait_for/1/signal"),
        (waiting("a", &["no way"]), "/wait_for/0/signal"),
        (waiting("a", &["a", "b", "c", "d", "e", "f", "g", "h", "i"]), "/wait_for"),
    ] {
        let error = test.app.task_enqueue(&test.operator(), spec, None).await.unwrap_err().problem();
        assert_eq!(error.errors[0].pointer, pointer);
    }
    assert!(test.app.task_list(&test.operator(), Default::default()).await.unwrap().items.is_empty());
    test.stop().await;
}
