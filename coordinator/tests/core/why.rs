//! `why`: each condition as it is told of a task that it holds for, and that it blocks exactly when a claim gives nothing.

use std::time::Duration;

use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::plan::Batch;
use orca_proto::problem::Kind;
use orca_proto::queue::Pause;
use orca_proto::spec::{Approval, NewTask, WaitFor};
use orca_proto::task::{Cancellation, State};
use orca_proto::token::Access;
use orca_proto::why::{Condition, ConditionKind, Why};
use serde_json::json;

use super::support::{SOON, TestApp, after, goal, kind, principal, task};

mod agreement;
mod later;
mod placement;

async fn why(test: &TestApp, id: TaskId) -> Why {
    test.app.task_why(&test.operator(), id).await.unwrap()
}

/// The only condition there is, of this kind, which says whether it blocks.
fn only(why: &Why, kind: ConditionKind, blocks: bool) -> &Condition {
    assert_eq!(why.conditions.len(), 1, "{why:#?}");
    let condition = &why.conditions[0];
    assert_eq!((condition.kind, condition.blocks), (kind, blocks), "{why:#?}");
    assert_eq!(why.summary, condition.message);
    condition
}

fn kinds(why: &Why) -> Vec<ConditionKind> {
    why.conditions.iter().map(|condition| condition.kind).collect()
}

#[tokio::test]
async fn a_dependency_is_named_with_its_state_and_only_while_it_is_open() {
    let test = TestApp::start().await;
    let (first, second) = (test.enqueue(task("first")).await, test.enqueue(task("second")).await);
    let id = test.enqueue(after("last", &[&first.to_string(), &second.to_string()])).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let told = why(&test, id).await;
    assert_eq!(kinds(&told), [ConditionKind::Dependency; 2]);
    let of = |id: TaskId| told.conditions.iter().find(|told| told.facts["task"] == json!(id)).unwrap();
    assert_eq!(of(first).message, format!("it waits for task {first} (first), which is running"));
    assert_eq!(of(second).facts["state"], "ready");
    assert!(told.summary.ends_with("(and 1 more)"), "{}", told.summary);
    node.succeed(&grant, json!(null)).await;
    let told = why(&test, id).await;
    assert_eq!(only(&told, ConditionKind::Dependency, true).facts["task"], json!(second));
    test.stop().await;
}

#[tokio::test]
async fn of_many_dependencies_twenty_are_named_and_the_rest_is_counted() {
    let test = TestApp::start().await;
    test.worker("w").await;
    let tasks = (0..25).map(|n| task(&format!("t{n}"))).collect();
    let ids = test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap().ids;
    let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let told = why(&test, test.enqueue(after("last", &names)).await).await;
    assert_eq!(kinds(&told), [ConditionKind::Dependency; 21]);
    assert_eq!(told.conditions[20].message, "it waits for 5 tasks besides");
    test.stop().await;
}

#[tokio::test]
async fn approval_and_signals_are_told_with_what_was_asked_and_the_time_left() {
    let test = TestApp::start().await;
    test.worker("w").await;
    let approval = Approval { prompt: Some("Ship it?".into()), ..Approval::default() };
    let signal =
        WaitFor { signal: "paid".into(), timeout: Some(Span::secs(3_600)), on_timeout: Default::default() };
    let spec = NewTask { approval: Some(approval), wait_for: vec![signal], ..task("a") };
    let told = why(&test, test.enqueue(spec).await).await;
    assert_eq!(
        (told.state, kinds(&told)),
        (State::Blocked, vec![ConditionKind::Approval, ConditionKind::Signal])
    );
    assert_eq!(told.conditions[0].message, "nobody has approved it yet: “Ship it?”");
    assert!(told.conditions[1].message.starts_with("signal paid has not arrived yet ("));
    assert!(told.conditions[1].facts.contains_key("until"));
    test.stop().await;
}

#[tokio::test]
async fn a_delayed_task_says_when_it_is_due_also_while_it_is_blocked() {
    let test = TestApp::start().await;
    test.worker("w").await;
    let delayed = NewTask { delay: Some(Span::secs(240)), ..task("a") };
    let told = why(&test, test.enqueue(delayed.clone()).await).await;
    assert_eq!(told.state, State::Scheduled);
    assert!(only(&told, ConditionKind::Due, true).message.starts_with("it is due in 4m, at "));
    let blocked = NewTask { approval: Some(Approval::default()), ..delayed };
    let told = why(&test, test.enqueue(blocked).await).await;
    assert_eq!(kinds(&told), [ConditionKind::Approval, ConditionKind::Due]);
    test.stop().await;
}

#[tokio::test]
async fn a_retry_says_how_the_last_attempt_ended_and_when_the_next_follows() {
    let test = TestApp::start().await;
    let mut spec = task("a");
    spec.retry.max_attempts = 3;
    spec.retry.backoff.initial = Span::secs(3_600);
    spec.retry.backoff.max = Span::secs(3_600);
    let id = test.enqueue(spec).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    assert_eq!(node.fail(&grant).await, State::Scheduled);
    let told = why(&test, id).await;
    let backoff = only(&told, ConditionKind::Backoff, true);
    assert!(backoff.message.contains("attempt 2 of 3 follows in"), "{}", backoff.message);
    assert_eq!(backoff.facts["outcome"]["exit_code"], 3);
    test.stop().await;
}

#[tokio::test]
async fn a_running_task_names_its_node_and_its_lease_and_a_cancel_comes_first() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    node.claim_one().await;
    let told = why(&test, id).await;
    let held = only(&told, ConditionKind::HeldBy, false);
    assert_eq!(
        (told.state, &held.facts["node"], &held.facts["attempt"]),
        (State::Running, &json!("w"), &json!(1))
    );
    assert!(held.facts["since"].as_str() < held.facts["lease_until"].as_str(), "{held:?}");
    let cancellation = Cancellation { reason: Some("wrong input".into()) };
    test.app.task_cancel(&test.operator(), id, cancellation).await.unwrap();
    let told = why(&test, id).await;
    assert_eq!(kinds(&told), [ConditionKind::CancelRequested, ConditionKind::HeldBy]);
    assert_eq!(told.summary, "somebody asked to cancel it: “wrong input”");
    test.stop().await;
}

#[tokio::test]
async fn a_goal_waits_for_its_tasks_and_its_finish_step_names_them() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let planner = test.planner("p").await;
    let grant = planner.claim_one().await;
    planner.plan(&grant, vec![task("a"), task("b")]).await.unwrap();
    let told = why(&test, id).await;
    assert_eq!(told.state, State::Waiting);
    assert_eq!(only(&told, ConditionKind::Children, true).message, "3 tasks under it have not ended");
    let filter = orca_proto::task::TaskFilter { name: Some("g (finish)".into()), ..Default::default() };
    let finish = test.app.task_list(&test.operator(), filter).await.unwrap().items.remove(0).id;
    let told = why(&test, finish).await;
    assert_eq!(kinds(&told), [ConditionKind::Dependency; 2]);
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_ended_says_how_whether_the_short_way_or_the_long() {
    let test = TestApp::start().await;
    let (good, bad) = (test.enqueue(task("good")).await, test.enqueue(task("bad")).await);
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.succeed(&grant, json!(null)).await;
    let grant = node.claim_one().await;
    node.fail(&grant).await;
    let told = why(&test, good).await;
    assert!(only(&told, ConditionKind::Ended, true).message.starts_with("it ended as succeeded at "));
    let told = why(&test, bad).await;
    assert_eq!(only(&told, ConditionKind::Ended, true).facts["state"], "failed");
    test.stop().await;
}

#[tokio::test]
async fn a_foreign_task_and_one_that_does_not_exist_are_told_alike() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let stranger = principal("elsewhere", "eve", Access::Operator);
    assert_eq!(kind(test.app.task_why(&stranger, id).await), Kind::NotFound);
    assert_eq!(kind(test.app.task_why(&test.operator(), TaskId::new()).await), Kind::NotFound);
    test.stop().await;
}

#[tokio::test]
async fn a_task_in_line_counts_those_before_it_exactly_and_leaves_out_those_that_ended() {
    let test = TestApp::start().await;
    let tasks = (0..700).map(|n| task(&format!("t{n}"))).collect();
    let ids = test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap().ids;
    let node = test.worker("w").await;
    assert_eq!(node.claim(50).await.len(), 50);
    test.app.task_cancel(&test.operator(), ids[300], Cancellation::default()).await.unwrap();
    let told = why(&test, ids[650]).await;
    assert_eq!(told.ahead, Some(599));
    assert_eq!(only(&told, ConditionKind::BehindOthers, true).message, "about 599 tasks go before it");
    let told = why(&test, ids[50]).await;
    assert_eq!((told.ahead, told.conditions.as_slice()), (Some(0), &[][..]));
    assert_eq!(told.eligible_nodes, ["w"]);
    assert_eq!(told.summary, "nothing keeps it: it goes to the next node that asks, such as w");
    test.stop().await;
}

#[tokio::test]
async fn far_back_in_a_long_line_a_task_is_told_about_how_many_go_before_it() {
    let test = TestApp::start().await;
    let mut last = None;
    for _ in 0..3 {
        let tasks = (0..8_000).map(|_| NewTask::new("image")).collect();
        last = test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap().ids.pop();
    }
    let told = tokio::time::timeout(SOON, why(&test, last.unwrap())).await.unwrap();
    // Those that came at the same instant are not told apart.
    assert!((16_000..=24_000).contains(&told.ahead.unwrap()), "{told:?}");
    test.stop().await;
}

#[tokio::test]
async fn a_higher_priority_goes_before_and_a_lower_one_does_not() {
    let test = TestApp::start().await;
    test.worker("w").await;
    let id = test.enqueue(task("a")).await;
    test.enqueue(NewTask { priority: -5, ..task("low") }).await;
    assert_eq!(why(&test, id).await.ahead, Some(0));
    test.enqueue(NewTask { priority: 5, ..task("high") }).await;
    assert_eq!(why(&test, id).await.ahead, Some(1));
    test.clock.advance(Duration::from_secs(3));
    test.stop().await;
}

#[tokio::test]
async fn the_tasks_of_other_groups_that_take_turns_with_its_own_are_counted_also_while_the_queue_is_paused() {
    let test = TestApp::start().await;
    test.worker("w").await;
    let mut last = None;
    for n in 0..40 {
        test.clock.advance(Duration::from_millis(10));
        let group = Some(format!("g{}", n % 4));
        last = Some(test.enqueue(NewTask { queue: "gg".into(), group, ..task("t") }).await);
    }
    let pause = Pause { reason: None };
    test.app.queue_pause(&test.operator(), "gg", pause).await.unwrap();
    let told = why(&test, last.unwrap()).await;
    assert_eq!(told.ahead, Some(39), "{told:?}");
    let behind = told.conditions.iter().find(|one| one.kind == ConditionKind::BehindOthers).unwrap();
    assert_eq!(
        behind.message,
        "about 39 tasks go before it, 30 of them of other groups or queues, which take turns with its own"
    );
    test.stop().await;
}
