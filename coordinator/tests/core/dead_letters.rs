//! Dead letters: what failed or expired is listed until somebody tries it again or purges it.

use std::time::Duration;

use orca_proto::dead_letter::DeadLetterFilter;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::problem::Kind;
use orca_proto::selector::Selector;
use orca_proto::spec::{NewTask, Unique, UniqueWhile};
use orca_proto::task::{Cancellation, State, Task};
use orca_proto::token::Access;
use serde_json::json;

use super::support::{TestApp, TestNode, after, goal, kind, principal, task};

fn all() -> Selector {
    Selector { all: true, ..Selector::default() }
}

async fn dead(test: &TestApp, filter: DeadLetterFilter) -> Vec<TaskId> {
    let page = test.app.dead_letters(&test.operator(), filter).await.unwrap();
    page.items.into_iter().map(|task| task.id).collect()
}

async fn fail(test: &TestApp, node: &TestNode, spec: NewTask) -> TaskId {
    let id = test.enqueue(spec).await;
    let grant = node.claim_one().await;
    assert_eq!(grant.task, id);
    assert_eq!(node.fail(&grant).await, State::Failed);
    id
}

#[tokio::test]
async fn what_failed_or_expired_is_listed_newest_first_and_nothing_else_is() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let failed = fail(&test, &node, NewTask { queue: "mails".into(), ..task("a") }).await;
    let grouped = fail(&test, &node, NewTask { group: Some("g".into()), ..task("b") }).await;
    let succeeded = test.enqueue(task("c")).await;
    let grant = node.claim_one().await;
    assert_eq!((grant.task, node.succeed(&grant, json!(1)).await), (succeeded, State::Succeeded));
    let cancelled = test.enqueue(task("d")).await;
    test.app.task_cancel(&test.operator(), cancelled, Cancellation::default()).await.unwrap();
    let deadline = Some(test.clock.now().checked_add(Duration::from_secs(60)).unwrap());
    let expired = test.enqueue(NewTask { deadline, ..task("e") }).await;
    test.enqueue(after("skipped", &[&expired.to_string()])).await;
    test.advance(Duration::from_secs(61)).await;
    assert_eq!(dead(&test, DeadLetterFilter::default()).await, [expired, grouped, failed]);
    let only = DeadLetterFilter { queue: Some("mails".into()), ..Default::default() };
    assert_eq!(dead(&test, only).await, [failed]);
    let only = DeadLetterFilter { group: Some("g".into()), ..Default::default() };
    assert_eq!(dead(&test, only).await, [grouped]);
    let only = DeadLetterFilter { name: Some("e".into()), ..Default::default() };
    assert_eq!(dead(&test, only).await, [expired]);
    let stranger = principal("other", "eve", Access::Operator);
    assert!(test.app.dead_letters(&stranger, DeadLetterFilter::default()).await.unwrap().items.is_empty());

    let mut filter = DeadLetterFilter { limit: Some(2), ..Default::default() };
    let first = test.app.dead_letters(&test.operator(), filter.clone()).await.unwrap();
    filter.cursor = first.next;
    let second = test.app.dead_letters(&test.operator(), filter).await.unwrap();
    assert_eq!((first.items.len(), second.items.len(), second.next), (2, 1, None));
    assert_eq!(second.items[0].id, failed);
    test.stop().await;
}

#[tokio::test]
async fn a_dead_letter_that_is_tried_again_leaves_the_list_for_a_new_task() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let old = [fail(&test, &node, task("a")).await, fail(&test, &node, task("b")).await];
    let before = test.task(old[0]).await;
    let made = test.app.retry_dead_letters(&test.operator(), all(), None).await.unwrap();
    assert_eq!((made.ids.len(), made.existing.len()), (2, 0));
    for (id, old) in made.ids.iter().zip(old) {
        let new = test.task(*id).await;
        assert_eq!((new.retry_of, new.summary.state), (Some(old), State::Ready));
    }
    let after = test.task(old[0]).await;
    assert_eq!(after.retried_as, [made.ids[0]]);
    assert_eq!(Task { retried_as: Vec::new(), ..after }, before);
    assert!(dead(&test, DeadLetterFilter::default()).await.is_empty());
    assert!(test.app.retry_dead_letters(&test.operator(), all(), None).await.unwrap().ids.is_empty());
    let grant = node.claim_one().await;
    node.fail(&grant).await;
    assert_eq!(dead(&test, DeadLetterFilter::default()).await, [grant.task]);
    let again = test.app.task_retry(&test.operator(), grant.task, None).await.unwrap();
    assert_eq!(test.task(grant.task).await.retried_as, [again.summary.id]);
    assert!(dead(&test, DeadLetterFilter::default()).await.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn only_what_is_selected_is_tried_again() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let label = |value: &str| [("for".to_owned(), value.to_owned())].into();
    let mine = fail(&test, &node, NewTask { labels: label("ann"), ..task("a") }).await;
    let theirs = fail(&test, &node, NewTask { labels: label("bob"), ..task("a") }).await;
    let now = test.clock.now();
    test.clock.advance(Duration::from_secs(60));
    let late = fail(&test, &node, NewTask { labels: label("ann"), ..task("b") }).await;
    let selections = [
        (Selector { states: vec![State::Expired], ..Selector::default() }, vec![]),
        (
            Selector { ids: vec![theirs, TaskId::new()], name: Some("b".into()), ..Selector::default() },
            vec![],
        ),
        (Selector { labels: label("ann"), created_before: Some(now), ..Selector::default() }, vec![mine]),
        (Selector { ids: vec![late, mine], ..Selector::default() }, vec![late]),
        (
            Selector { states: vec![State::Failed], name: Some("a".into()), ..Selector::default() },
            vec![theirs],
        ),
    ];
    for (selector, expected) in selections {
        let made = test.app.retry_dead_letters(&test.operator(), selector, None).await.unwrap();
        let mut retried = Vec::new();
        for id in made.ids {
            retried.push(test.task(id).await.retry_of.unwrap());
        }
        assert_eq!(retried, expected);
    }
    test.stop().await;
}

#[tokio::test]
async fn an_order_to_retry_with_an_idempotency_key_is_carried_out_once() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    fail(&test, &node, task("a")).await;
    let operator = test.operator();
    let retry = |key| test.app.retry_dead_letters(&operator, all(), Some(key));
    let (one, two, three) = tokio::join!(retry("k"), retry("k"), retry("k"));
    let first = one.unwrap();
    assert_eq!(first.ids.len(), 1);
    assert_eq!((two.unwrap().ids, three.unwrap().ids), (first.ids.clone(), first.ids.clone()));
    node.fail(&node.claim_one().await).await;
    assert_eq!(retry("k").await.unwrap().ids, first.ids);
    assert_eq!(dead(&test, DeadLetterFilter::default()).await, first.ids);
    let other = Selector { name: Some("a".into()), ..Selector::default() };
    let other = test.app.retry_dead_letters(&operator, other, Some("k")).await;
    assert_eq!(kind(other), Kind::IdempotencyConflict);
    assert_ne!(retry("k2").await.unwrap().ids, first.ids);
    test.stop().await;
}

#[tokio::test]
async fn orders_to_retry_at_once_try_each_dead_letter_again_once() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    for n in 0..6 {
        fail(&test, &node, task(&format!("t{n}"))).await;
    }
    let replica = test.replica().await;
    let operator = test.operator();
    let apps = [&test.app, &replica, &test.app, &replica];
    let orders = apps.map(|app| app.retry_dead_letters(&operator, all(), None));
    let made = futures_util::future::join_all(orders).await;
    let made: usize = made.into_iter().map(|made| made.unwrap().ids.len()).sum();
    assert_eq!((made, node.claim(100).await.len()), (6, 6));
    test.stop().await;
}

#[tokio::test]
async fn a_passed_deadline_is_set_anew_and_dependencies_stay() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let first = test.enqueue(task("first")).await;
    node.succeed(&node.claim_one().await, json!(1)).await;
    let deadline = test.clock.now().checked_add(Duration::from_secs(60)).unwrap();
    let spec = NewTask { deadline: Some(deadline), ..after("a", &[&first.to_string()]) };
    let expired = test.enqueue(spec).await;
    test.advance(Duration::from_secs(3_600)).await;
    assert_eq!(dead(&test, DeadLetterFilter::default()).await, [expired]);
    let made = test.app.retry_dead_letters(&test.operator(), all(), None).await.unwrap();
    let again = test.task(made.ids[0]).await;
    assert_eq!((again.summary.state, again.depends_on), (State::Ready, vec![first]));
    let ahead = again.summary.deadline.unwrap().duration_since(again.summary.created_at);
    assert!((58..=62).contains(&ahead.as_secs()), "{ahead:?}");
    assert_eq!(node.claim_one().await.task, made.ids[0]);
    test.stop().await;
}

#[tokio::test]
async fn dead_letters_of_one_unique_key_become_one_task() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let unique = Some(Unique { key: "k".into(), r#while: UniqueWhile::Open });
    for name in ["a", "b"] {
        fail(&test, &node, NewTask { unique: unique.clone(), ..task(name) }).await;
    }
    let made = test.app.retry_dead_letters(&test.operator(), all(), None).await.unwrap();
    assert_eq!((made.ids[0], made.existing.len()), (made.ids[1], 0));
    assert_eq!(node.claim(10).await.len(), 1);
    assert!(dead(&test, DeadLetterFilter::default()).await.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn a_goal_is_a_dead_letter_and_its_finish_step_is_not() {
    let test = TestApp::start().await;
    let planner = test.planner("p").await;
    let worker = test.worker("w").await;
    let id = test.enqueue(goal("g")).await;
    planner.plan(&planner.claim_one().await, vec![task("part")]).await.unwrap();
    worker.succeed(&worker.claim_one().await, json!(1)).await;
    test.reconcile().await;
    planner.fail(&planner.claim_one().await).await;
    test.reconcile().await;
    assert_eq!(test.state(id).await, State::Failed);
    assert_eq!(dead(&test, DeadLetterFilter::default()).await, [id]);
    test.stop().await;
}

#[tokio::test]
async fn purged_dead_letters_leave_the_list_and_are_counted_once() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let kept = fail(&test, &node, NewTask { queue: "kept".into(), ..task("a") }).await;
    let purged = [fail(&test, &node, task("b")).await, fail(&test, &node, task("c")).await];
    let selector = Selector { queue: Some("default".into()), ..Selector::default() };
    let operator = test.operator();
    let purge = || test.app.purge_dead_letters(&operator, selector.clone());
    let (one, two) = tokio::join!(purge(), purge());
    assert_eq!(one.unwrap().count + two.unwrap().count, 2);
    assert_eq!(dead(&test, DeadLetterFilter::default()).await, [kept]);
    assert_eq!(test.state(purged[0]).await, State::Failed);
    assert_eq!(test.app.retry_dead_letters(&operator, selector, None).await.unwrap().ids, []);
    test.stop().await;
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let id = fail(&test, &node, NewTask { delay: Some(Span::secs(0)), ..task("a") }).await;
    let operator = test.operator();
    let queue = Selector { queue: Some("no queue".into()), ..Selector::default() };
    for (selector, pointer) in [(Selector::default(), ""), (queue, "/queue")] {
        let retry = test.app.retry_dead_letters(&operator, selector.clone(), None).await.unwrap_err();
        let purge = test.app.purge_dead_letters(&operator, selector).await.unwrap_err();
        for error in [retry, purge] {
            assert_eq!(error.problem().errors[0].pointer, pointer);
        }
    }
    assert_eq!(kind(test.app.retry_dead_letters(&operator, all(), Some("no key")).await), Kind::Validation);
    for filter in [
        DeadLetterFilter { limit: Some(501), ..Default::default() },
        DeadLetterFilter { cursor: Some("x".into()), ..Default::default() },
        DeadLetterFilter { group: Some("\0".into()), ..Default::default() },
    ] {
        assert_eq!(kind(test.app.dead_letters(&operator, filter).await), Kind::Validation);
    }
    assert_eq!(dead(&test, DeadLetterFilter::default()).await, [id]);
    test.stop().await;
}
