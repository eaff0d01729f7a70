//! Unique keys: at most one open task of a namespace has each, and it stands in for the others.

use orca_proto::attempt::Children;
use orca_proto::duration::Span;
use orca_proto::plan::{Batch, Enqueued};
use orca_proto::problem::Kind;
use orca_proto::spec::{NewTask, Unique, UniqueWhile};
use orca_proto::task::{Cancellation, State, TaskFilter};
use orca_proto::token::Access;
use serde_json::json;

use super::support::{TestApp, after, kind, lease, principal, task};

fn unique(name: &str, key: &str, r#while: UniqueWhile) -> NewTask {
    NewTask { unique: Some(Unique { key: key.to_owned(), r#while }), ..task(name) }
}

fn only(name: &str) -> NewTask {
    unique(name, "only", UniqueWhile::Open)
}

async fn batch(test: &TestApp, tasks: Vec<NewTask>) -> Enqueued {
    test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap()
}

async fn count(test: &TestApp) -> usize {
    test.app.task_list(&test.operator(), TaskFilter::default()).await.unwrap().items.len()
}

#[tokio::test]
async fn twenty_enqueues_of_one_key_at_once_give_one_task() {
    let test = TestApp::start().await;
    let replica = test.replica().await;
    let operator = test.operator();
    let apps = [&test.app, &replica];
    let sends = (0..20).map(|n| apps[n % 2].task_enqueue(&operator, only("a"), None));
    let answers = futures_util::future::join_all(sends).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
    let first = answers[0].0.summary.id;
    assert!(answers.iter().all(|(task, _)| task.summary.id == first));
    assert_eq!(answers.iter().filter(|(_, existed)| !existed).count(), 1);
    assert_eq!(count(&test).await, 1);
    test.stop().await;
}

#[tokio::test]
async fn a_key_that_changes_hands_again_and_again_is_never_held_by_two() {
    let test = TestApp::start().await;
    let operator = test.operator();
    for _ in 0..10 {
        let id = test.enqueue(only("a")).await;
        let cancel = test.app.task_cancel(&operator, id, Cancellation::default());
        let sends = (0..4).map(|_| test.app.task_enqueue(&operator, only("a"), None));
        let (cancelled, sent) = tokio::join!(cancel, futures_util::future::join_all(sends));
        cancelled.unwrap();
        let open = TaskFilter { state: Some("ready".into()), ..TaskFilter::default() };
        let open = test.app.task_list(&operator, open).await.unwrap().items;
        assert!(open.len() <= 1, "{open:?}");
        for answer in sent {
            let answered = answer.unwrap().0.summary.id;
            assert!(answered == id || Some(answered) == open.first().map(|task| task.id));
        }
        for task in open {
            test.app.task_cancel(&operator, task.id, Cancellation::default()).await.unwrap();
        }
    }
    test.stop().await;
}

#[tokio::test]
async fn a_key_is_free_again_once_its_task_has_ended_in_whatever_way() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let first = test.enqueue(only("a")).await;
    let grant = node.claim_one().await;
    assert_eq!(test.enqueue(only("b")).await, first);
    node.succeed(&grant, json!(1)).await;
    let second = test.enqueue(only("a")).await;
    assert_ne!(second, first);
    let grant = node.claim_one().await;
    node.fail(&grant).await;
    let third = test.enqueue(only("a")).await;
    assert_ne!(third, second);
    test.app.task_cancel(&test.operator(), third, Cancellation::default()).await.unwrap();
    let fourth = test.enqueue(only("a")).await;
    assert_ne!(fourth, third);
    // The wall stands between keys too.
    let stranger = principal("other", "ann", Access::Operator);
    let (other, existed) = test.app.task_enqueue(&stranger, only("a"), None).await.unwrap();
    assert!(!existed && other.summary.id != fourth);
    test.stop().await;
}

#[tokio::test]
async fn a_key_stays_taken_between_attempts() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let mut spec = only("a");
    spec.retry.max_attempts = 2;
    let id = test.enqueue(spec).await;
    let grant = node.claim_one().await;
    assert_eq!(node.fail(&grant).await, State::Scheduled);
    assert_eq!(test.enqueue(only("a")).await, id);
    test.stop().await;
}

#[tokio::test]
async fn a_key_that_is_kept_while_queued_is_free_once_the_task_is_granted() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let queued = |name| unique(name, "k", UniqueWhile::Queued);
    let first = test.enqueue(queued("a")).await;
    assert_eq!(test.enqueue(queued("b")).await, first);
    let grant = node.claim_one().await;
    let second = test.enqueue(queued("b")).await;
    assert_ne!(second, first);
    assert_eq!(test.enqueue(queued("c")).await, second);
    // The end of the first does not give back what is the second's.
    node.succeed(&grant, json!(1)).await;
    assert_eq!(test.enqueue(queued("c")).await, second);
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_could_never_run_does_not_keep_its_key() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let failed = test.enqueue(task("failed")).await;
    node.fail(&node.claim_one().await).await;
    let never = NewTask { depends_on: vec![failed.to_string()], ..only("a") };
    assert_eq!(kind(test.app.task_enqueue(&test.operator(), never, None).await), Kind::Validation);
    let (_, existed) = test.app.task_enqueue(&test.operator(), only("a"), None).await.unwrap();
    assert!(!existed);
    test.stop().await;
}

#[tokio::test]
async fn in_a_batch_the_open_task_stands_in_also_for_those_that_depend_on_it() {
    let test = TestApp::start().await;
    let there = test.enqueue(only("there")).await;
    let made = batch(&test, vec![only("x"), after("y", &["x"]), task("z")]).await;
    assert_eq!((made.ids[0], made.existing.as_slice()), (there, &[there][..]));
    assert_eq!(test.task(made.ids[1]).await.depends_on, vec![there]);
    assert_eq!(test.state(made.ids[2]).await, State::Ready);
    let twice = unique("one", "twin", UniqueWhile::Open);
    let made = batch(&test, vec![twice.clone(), NewTask { key: Some("two".into()), ..twice }]).await;
    assert_eq!((made.ids[0], made.existing.len()), (made.ids[1], 0));
    assert_eq!(count(&test).await, 4);
    test.stop().await;
}

#[tokio::test]
async fn a_batch_whose_tasks_would_wait_for_themselves_by_their_keys_is_refused_whole() {
    let test = TestApp::start().await;
    let first = NewTask { depends_on: vec!["between".into()], ..only("first") };
    let tasks = vec![first, after("between", &["last"]), only("last")];
    let refused =
        test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap_err().problem();
    assert_eq!(refused.kind, Kind::PlanInvalid);
    assert_eq!(refused.errors[0].pointer, "/tasks/0/depends_on");
    assert_eq!(count(&test).await, 0);
    let id = test.enqueue(only("a")).await;
    assert_eq!(test.state(id).await, State::Ready);
    test.stop().await;
}

#[tokio::test]
async fn an_idempotent_repeat_answers_the_task_that_stood_in_also_when_it_has_ended() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let there = test.enqueue(only("there")).await;
    let operator = test.operator();
    let (answered, existed) = test.app.task_enqueue(&operator, only("a"), Some("key-1")).await.unwrap();
    assert_eq!((answered.summary.id, existed), (there, true));
    node.succeed(&node.claim_one().await, json!(1)).await;
    let again = test.app.task_enqueue(&operator, only("a"), Some("key-1")).await.unwrap();
    assert_eq!(again.0.summary.id, there);
    test.stop().await;
}

#[tokio::test]
async fn a_spawned_task_with_a_taken_key_is_the_one_there_is() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    test.enqueue(task("parent")).await;
    let grant = node.claim_one().await;
    let there = test.enqueue(only("there")).await;
    let children = Children { idempotency_key: "c".into(), tasks: vec![only("child")] };
    let spawned = node.app.attempt_children(&node.who, lease(&grant), children.clone()).await.unwrap();
    assert_eq!((spawned.ids, spawned.existing), (vec![there], vec![there]));
    let again = node.app.attempt_children(&node.who, lease(&grant), children).await.unwrap();
    assert_eq!(again.ids, vec![there]);
    // Nothing was put under it, so it need not wait.
    assert_eq!(node.succeed(&grant, json!(1)).await, State::Succeeded);
    test.stop().await;
}

#[tokio::test]
async fn a_key_that_makes_no_sense_is_refused() {
    let test = TestApp::start().await;
    for key in [String::new(), "x".repeat(257), "a\0b".to_owned(), "a\nb".to_owned()] {
        let spec = unique("a", &key, UniqueWhile::Open);
        let error = test.app.task_enqueue(&test.operator(), spec, None).await.unwrap_err().problem();
        assert_eq!(error.errors[0].pointer, "/unique/key");
    }
    let longest = unique("a", &"x".repeat(256), UniqueWhile::Open);
    test.enqueue(NewTask { delay: Some(Span::secs(60)), ..longest }).await;
    test.stop().await;
}
