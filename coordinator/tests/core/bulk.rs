//! Cancelling what a selection means: all of it, nothing else, and with what is under it.

use std::time::Duration;

use orca_coordinator::app::Error;
use orca_proto::attempt::Children;
use orca_proto::ids::TaskId;
use orca_proto::plan::Batch;
use orca_proto::selector::{BulkCancel, Selector};
use orca_proto::spec::{Approval, NewTask};
use orca_proto::task::{State, TaskFilter};
use orca_proto::token::Access;
use serde_json::json;

use super::support::{TestApp, goal, lease, principal, task};

fn matching(selector: Selector) -> BulkCancel {
    BulkCancel { selector, reason: Some("spring cleaning".into()) }
}

fn all() -> Selector {
    Selector { all: true, ..Selector::default() }
}

async fn cancel(test: &TestApp, selector: Selector) -> u64 {
    test.app.cancel_matching(&test.operator(), matching(selector)).await.unwrap().count
}

#[tokio::test]
async fn everything_open_is_cancelled_whatever_it_waits_for_and_nothing_that_ended() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let done = test.enqueue(task("done")).await;
    node.succeed(&node.claim_one().await, json!(1)).await;
    let failed = test.enqueue(task("failed")).await;
    node.fail(&node.claim_one().await).await;
    let running = test.enqueue(task("running")).await;
    let grant = node.claim_one().await;
    let later = test.clock.now().checked_add(Duration::from_secs(60)).unwrap();
    let open = [
        test.enqueue(task("ready")).await,
        test.enqueue(NewTask { run_at: Some(later), ..task("scheduled") }).await,
        test.enqueue(NewTask { approval: Some(Approval::default()), ..task("blocked") }).await,
    ];
    let stranger = principal("other", "eve", Access::Operator);
    assert_eq!(test.app.cancel_matching(&stranger, matching(all())).await.unwrap().count, 0);
    assert_eq!(cancel(&test, all()).await, 4);
    for id in open {
        let summary = test.task(id).await.summary;
        assert_eq!((summary.state, summary.reason.as_deref()), (State::Cancelled, Some("spring cleaning")));
    }
    assert!(test.task(running).await.summary.cancel_requested);
    assert_eq!((test.state(done).await, test.state(failed).await), (State::Succeeded, State::Failed));
    assert_eq!(node.renew(&[lease(&grant)], Duration::ZERO).await.cancel, [lease(&grant)]);
    // Who was asked already is not counted again.
    assert_eq!(cancel(&test, all()).await, 0);
    test.stop().await;
}

#[tokio::test]
async fn trees_go_whole_and_each_of_their_tasks_is_counted_once() {
    let test = TestApp::start().await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let goals = [test.enqueue(goal("g")).await, test.enqueue(goal("g")).await];
    for _ in goals {
        planner.plan(&planner.claim_one().await, vec![task("a"), task("b")]).await.unwrap();
    }
    let grant = worker.claim_one().await;
    let children = Children { idempotency_key: "c".into(), tasks: vec![task("under")] };
    worker.app.attempt_children(&worker.who, lease(&grant), children).await.unwrap();
    // Two goals, each with two parts and a finish step, and what one part spawned.
    assert_eq!(cancel(&test, Selector { name: Some("g".into()), ..Selector::default() }).await, 9);
    assert!(worker.claim(10).await.is_empty() && planner.claim(10).await.is_empty());
    for id in goals {
        assert_eq!(test.state(id).await, State::Cancelled);
    }
    assert_eq!(cancel(&test, all()).await, 0);
    test.stop().await;
}

#[tokio::test]
async fn each_filter_holds_by_itself_and_all_together() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let label = |value: &str| [("for".to_owned(), value.to_owned())].into();
    let running = test.enqueue(NewTask { priority: 9, ..task("running") }).await;
    assert_eq!(node.claim_one().await.task, running);
    let mails = NewTask { queue: "mails".into(), group: Some("g".into()), labels: label("ann"), ..task("m") };
    let ids = [
        test.enqueue(mails.clone()).await,
        test.enqueue(NewTask { group: None, ..mails.clone() }).await,
        test.enqueue(NewTask { labels: label("bob"), ..mails.clone() }).await,
        test.enqueue(task("x")).await,
    ];
    let before = test.clock.now();
    test.clock.advance(Duration::from_secs(60));
    let late = test.enqueue(mails).await;
    let open = async || {
        let filter = TaskFilter { state: Some("ready".into()), ..TaskFilter::default() };
        let page = test.app.task_list(&test.operator(), filter).await.unwrap();
        page.items.into_iter().map(|task| task.id).rev().collect::<Vec<TaskId>>()
    };
    let [first, ungrouped, bobs, x] = ids;
    let narrow = Selector {
        queue: Some("mails".into()),
        group: Some("g".into()),
        name: Some("m".into()),
        labels: label("ann"),
        states: vec![State::Ready],
        created_before: Some(before),
        ..Selector::default()
    };
    let no_such_state = Selector { states: vec![State::Running, State::Failed], ..narrow.clone() };
    assert_eq!(cancel(&test, no_such_state).await, 0);
    assert_eq!(cancel(&test, narrow).await, 1);
    assert_eq!(open().await, [ungrouped, bobs, x, late]);
    assert_eq!(
        cancel(&test, Selector { ids: vec![x, first, TaskId::new()], ..Selector::default() }).await,
        1
    );
    assert_eq!(cancel(&test, Selector { group: Some("g".into()), ..Selector::default() }).await, 2);
    assert_eq!(open().await, [ungrouped]);
    assert_eq!(cancel(&test, Selector { states: vec![State::Running], ..Selector::default() }).await, 1);
    assert!(test.task(running).await.summary.cancel_requested);
    assert_eq!(open().await, [ungrouped]);
    test.stop().await;
}

#[tokio::test]
async fn more_than_fit_into_one_transaction_are_cancelled_once_by_two_orders_at_once() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let tasks = (0..2_500).map(|_| NewTask::new("image")).collect();
    test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap();
    let replica = test.replica().await;
    let operator = test.operator();
    let (one, two) = tokio::join!(
        test.app.cancel_matching(&operator, matching(all())),
        replica.cancel_matching(&operator, matching(all()))
    );
    assert_eq!(one.unwrap().count + two.unwrap().count, 2_500);
    assert!(node.claim(10).await.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused_and_cancel_nothing() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let many = Selector { ids: vec![id; 1_001], ..Selector::default() };
    let nul = BulkCancel { reason: Some("\0".into()), ..matching(all()) };
    for (order, pointer) in [
        (matching(Selector::default()), "/selector"),
        (matching(many), "/selector/ids"),
        (matching(Selector { group: Some(String::new()), ..Selector::default() }), "/selector/group"),
        (nul, "/reason"),
    ] {
        let error = test.app.cancel_matching(&test.operator(), order).await.unwrap_err().problem();
        assert_eq!(error.errors[0].pointer, pointer);
    }
    assert_eq!(test.state(id).await, State::Ready);
    test.stop().await;
}

#[tokio::test]
async fn a_filter_that_names_a_queue_or_group_that_nobody_has_seen_is_refused_by_its_field() {
    let test = TestApp::start().await;
    test.enqueue(NewTask { queue: "mails".into(), group: Some("a".into()), ..task("t") }).await;
    let who = test.operator();
    let pointers = |error: Error| -> Vec<String> {
        error.problem().errors.into_iter().map(|error| error.pointer).collect()
    };
    for (queue, group, wrong) in [
        (Some("mials"), None, Some("queue")),
        (Some("mails"), Some("b"), Some("group")),
        (None, Some("b"), Some("group")),
        (Some("mails"), Some("a"), None),
        (None, Some("a"), None),
    ] {
        let (queue, group) = (queue.map(str::to_owned), group.map(str::to_owned));
        let filter = TaskFilter { queue: queue.clone(), group: group.clone(), ..TaskFilter::default() };
        let listed = test.app.task_list(&who, filter).await.map(drop);
        let selector = Selector { queue, group, ..Selector::default() };
        let purged = test.app.purge_dead_letters(&who, selector.clone()).await.map(drop);
        let order = BulkCancel { selector, ..BulkCancel::default() };
        let cancelled = test.app.cancel_matching(&who, order).await.map(drop);
        match wrong {
            None => assert!(listed.is_ok() && purged.is_ok() && cancelled.is_ok()),
            Some(field) => {
                assert_eq!(pointers(listed.unwrap_err()), [format!("?{field}")]);
                assert_eq!(pointers(purged.unwrap_err()), [format!("/{field}")]);
                assert_eq!(pointers(cancelled.unwrap_err()), [format!("/selector/{field}")]);
            }
        }
    }
    test.stop().await;
}
