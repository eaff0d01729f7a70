//! Dependencies between tasks that exist, and what may not be.

use std::collections::HashSet;

use orca_proto::attempt::Children;
use orca_proto::plan::Batch;
use orca_proto::problem::Kind;
use orca_proto::spec::{InputArtifact, NewTask, OnDependencyFailure};
use orca_proto::task::{State, TaskFilter};
use orca_proto::token::Access;
use serde_json::json;

use super::support::{TestApp, after, kind, lease, principal, task};

#[tokio::test]
async fn a_failure_skips_everything_behind_it_but_what_wants_to_run() {
    let test = TestApp::start().await;
    let carry_on = NewTask { on_dependency_failure: OnDependencyFailure::Run, ..after("d", &["b"]) };
    let batch = Batch { tasks: vec![task("a"), after("b", &["a"]), after("c", &["b"]), carry_on] };
    let ids = test.app.batch_enqueue(&test.operator(), batch, None).await.unwrap().ids;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.fail(&grant).await;
    let last = node.claim_one().await;
    assert_eq!(last.task, ids[3]);
    let inputs = test.app.attempt_dependencies(&node.who, lease(&last)).await.unwrap().tasks;
    assert_eq!((inputs.len(), inputs[0].state), (1, State::Skipped));
    for (id, state) in ids.iter().zip([State::Failed, State::Skipped, State::Skipped, State::Running]) {
        assert_eq!(test.state(*id).await, state);
    }
    test.stop().await;
}

#[tokio::test]
async fn a_chain_of_a_thousand_is_skipped_at_once_and_each_tells_the_one_that_failed() {
    let test = TestApp::start().await;
    let mut tasks = vec![task("first")];
    tasks.extend((1..1_000).map(|n| match n {
        1 => after("t1", &["first"]),
        n => after(&format!("t{n}"), &[&format!("t{}", n - 1)]),
    }));
    // Two ways lead to the last: it is skipped once.
    tasks.push(after("last", &["t999", "t500", "first"]));
    let ids = test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap().ids;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.fail(&grant).await;
    test.reconcile().await;
    for id in [ids[1], ids[999], ids[1_000]] {
        let summary = test.task(id).await.summary;
        assert_eq!(summary.state, State::Skipped);
        let reason = summary.reason.unwrap();
        assert!(reason.starts_with("a dependency did not succeed: first failed: "), "{reason}");
        assert!(reason.len() < 1_024, "{reason}");
    }
    let mut connection = test.connection().await;
    let steps: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT xid::text) FROM orca.events WHERE state = 'skipped'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(steps, 1, "each link took a transaction of its own");
    test.stop().await;
}

#[tokio::test]
async fn a_dependency_that_has_ended_counts_as_it_ended() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let (good, bad) = (test.enqueue(task("good")).await, test.enqueue(task("bad")).await);
    let grants = [node.claim_one().await, node.claim_one().await];
    node.succeed(&grants[0], json!(1)).await;
    node.fail(&grants[1]).await;
    let free = test.enqueue(after("a", &[&good.to_string()])).await;
    assert_eq!(test.state(free).await, State::Ready);
    let late = NewTask { on_dependency_failure: OnDependencyFailure::Run, ..after("b", &[&bad.to_string()]) };
    let late = test.enqueue(late).await;
    assert_eq!(test.state(late).await, State::Ready);
    test.stop().await;
}

#[tokio::test]
async fn what_depends_on_a_failure_and_could_never_run_is_refused_and_nothing_is_stored() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let bad = test.enqueue(task("bad")).await;
    node.fail(&node.claim_one().await).await;
    let error =
        test.app.task_enqueue(&test.operator(), after("b", &[&bad.to_string()]), None).await.unwrap_err();
    let fault = &error.problem().errors[0];
    assert_eq!(fault.pointer, "/depends_on/0");
    assert!(fault.detail.contains("exited with code 3"), "{}", fault.detail);
    let batch = Batch { tasks: vec![task("c"), after("d", &["c", &bad.to_string()])] };
    let error = test.app.batch_enqueue(&test.operator(), batch, None).await.unwrap_err();
    assert_eq!(error.problem().errors[0].pointer, "/tasks/1/depends_on/1");
    let there = test.app.task_list(&test.operator(), TaskFilter::default()).await.unwrap();
    assert_eq!(there.items.len(), 1);
    test.stop().await;
}

#[tokio::test]
async fn a_dependency_or_an_artifact_that_is_not_the_namespaces_is_named_and_nothing_is_stored() {
    let test = TestApp::start().await;
    let stranger = principal("other", "bob", Access::Operator);
    let foreign = test.app.task_enqueue(&stranger, task("x"), None).await.unwrap().0.summary.id;
    let error =
        test.app.task_enqueue(&test.operator(), after("a", &[&foreign.to_string()]), None).await.unwrap_err();
    let problem = error.problem();
    assert_eq!(problem.errors[0].pointer, "/depends_on/0");
    let mut needs_file = task("b");
    needs_file.artifacts =
        vec![InputArtifact { id: orca_proto::ids::ArtifactId::new(), name: "f".into(), unpack: false }];
    let batch = Batch { tasks: vec![task("a"), needs_file] };
    let error = test.app.batch_enqueue(&test.operator(), batch, None).await.unwrap_err();
    assert_eq!(error.problem().errors[0].pointer, "/tasks/1/artifacts/0/id");
    let none = test.app.task_list(&test.operator(), TaskFilter::default()).await.unwrap();
    assert!(none.items.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn a_child_cannot_wait_for_what_waits_for_its_parent() {
    let test = TestApp::start().await;
    let parent = test.enqueue(task("parent")).await;
    let behind = test.enqueue(after("behind", &[&parent.to_string()])).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    for target in [parent, behind] {
        let children =
            Children { idempotency_key: target.to_string(), tasks: vec![after("c", &[&target.to_string()])] };
        assert_eq!(
            kind(test.app.attempt_children(&node.who, lease(&grant), children).await),
            Kind::PlanInvalid
        );
    }
    test.stop().await;
}

#[tokio::test]
async fn a_list_pages_through_everything_once_and_its_filters_hold() {
    let test = TestApp::start().await;
    let tasks = (0..25)
        .map(|n| {
            let labels = [("parity".to_owned(), (n % 2).to_string())].into();
            NewTask {
                labels,
                queue: if n < 10 { "slow".into() } else { "default".into() },
                ..task(&format!("t{n}"))
            }
        })
        .collect();
    test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap();
    let mut seen = HashSet::new();
    let mut filter = TaskFilter { limit: Some(10), ..TaskFilter::default() };
    loop {
        let page = test.app.task_list(&test.operator(), filter.clone()).await.unwrap();
        assert!(page.items.windows(2).all(|pair| pair[0].id > pair[1].id), "newest first");
        seen.extend(page.items.iter().map(|task| task.id));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 25);
    let count =
        async |filter: TaskFilter| test.app.task_list(&test.operator(), filter).await.unwrap().items.len();
    let all = TaskFilter { limit: Some(100), ..TaskFilter::default() };
    assert_eq!(count(TaskFilter { queue: Some("slow".into()), ..all.clone() }).await, 10);
    assert_eq!(count(TaskFilter { label: Some("parity=1".into()), ..all.clone() }).await, 12);
    assert_eq!(count(TaskFilter { name: Some("t7".into()), ..all.clone() }).await, 1);
    assert_eq!(count(TaskFilter { state: Some("running,failed".into()), ..all.clone() }).await, 0);
    for bad in [
        TaskFilter { state: Some("nonsense".into()), ..all.clone() },
        TaskFilter { limit: Some(0), ..all.clone() },
        TaskFilter { cursor: Some("x".into()), ..all.clone() },
        TaskFilter { label: Some("novalue".into()), ..all.clone() },
        TaskFilter { name: Some("a\0".into()), ..all },
    ] {
        assert_eq!(kind(test.app.task_list(&test.operator(), bad).await), Kind::Validation);
    }
    test.stop().await;
}
