//! Claims: order, slots, waiting, and several claimers at once.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use orca_proto::duration::Span;
use orca_proto::node::{ClaimRequest, Registration};
use orca_proto::plan::Batch;
use orca_proto::spec::NewTask;
use orca_proto::task::State;
use orca_proto::token::Access;
use serde_json::json;

use super::support::{LEASE, SOON, TestApp, TestNode, kind, principal, registration, task};

#[tokio::test]
async fn higher_priority_goes_first_and_then_what_was_enqueued_first() {
    let test = TestApp::start().await;
    for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
        test.enqueue(NewTask { priority, ..task(name) }).await;
    }
    let node = test.worker("w").await;
    let names: Vec<String> = node.claim(10).await.into_iter().filter_map(|grant| grant.spec.key).collect();
    assert_eq!(names, ["b", "d", "a", "c"]);
    test.stop().await;
}

#[tokio::test]
async fn two_coordinators_claims_never_overlap_and_miss_nothing() {
    let test = TestApp::start().await;
    let tasks: Vec<NewTask> = (0..300).map(|n| task(&format!("t{n}"))).collect();
    test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap();
    let other = test.replica().await;
    let (first, second) = (test.worker("w1").await, TestNode::register(&other, "w2", Access::Worker).await);
    let drain = async |node: &TestNode| {
        let mut all = Vec::new();
        loop {
            let grants = node.claim(7).await;
            if grants.is_empty() {
                return all;
            }
            for grant in grants {
                assert_eq!(node.succeed(&grant, json!(null)).await, State::Succeeded);
                all.push(grant.task);
            }
        }
    };
    let (a, b) = tokio::join!(drain(&first), drain(&second));
    let both: HashSet<_> = a.iter().chain(&b).copied().collect();
    assert_eq!((both.len(), a.len() + b.len()), (300, 300));
    test.stop().await;
}

#[tokio::test]
async fn a_held_claim_is_answered_when_another_coordinator_makes_a_task_ready() {
    let test = TestApp::start().await;
    let other = test.replica().await;
    let node = TestNode::register(&other, "w", Access::Worker).await;
    let (grants, _) = tokio::join!(node.claim_for(1, SOON), test.enqueue(task("a")));
    assert_eq!(grants.len(), 1);
    test.stop().await;
}

#[tokio::test]
async fn what_is_enqueued_while_a_claim_waits_is_granted_by_the_same_commit() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let mut together = 0;
    // How far the claim has come when the task arrives is not to be told from outside.
    for _ in 0..50 {
        let (grants, id) = tokio::join!(node.claim_for(1, SOON), async {
            tokio::task::yield_now().await;
            test.enqueue(task("a")).await
        });
        assert_eq!(grants.iter().map(|grant| grant.task).collect::<Vec<_>>(), [id]);
        let same: bool = sqlx::query_scalar(
            "SELECT t.xmin = g.xmin FROM orca.tasks t JOIN orca.grants g ON t.id = ANY (g.tasks) WHERE t.id = $1",
        )
        .bind(id.0)
        .fetch_one(&mut test.connection().await)
        .await
        .unwrap();
        together += usize::from(same);
        assert_eq!(node.succeed(&grants[0], json!(null)).await, State::Succeeded);
    }
    assert!(together > 0);
    test.stop().await;
}

#[tokio::test]
async fn what_prefers_another_node_is_not_handed_to_one_that_happens_to_wait() {
    let test = TestApp::start().await;
    let label: BTreeMap<String, String> = [("disk".to_owned(), "ssd".to_owned())].into();
    let who = principal("default", "better", Access::Worker);
    let instance = orca_proto::ids::InstanceId::new();
    let better = Registration { labels: label.clone(), ..registration("better", Access::Worker, instance) };
    test.app.node_register(&who, better).await.unwrap();
    let other = test.worker("other").await;
    for _ in 0..10 {
        let wish = NewTask { prefers: label.clone(), ..task("a") };
        let (grants, _) = tokio::join!(other.claim_for(1, Duration::from_millis(60)), async {
            tokio::task::yield_now().await;
            test.enqueue(wish).await
        });
        assert!(grants.is_empty());
    }
    test.stop().await;
}

#[tokio::test]
async fn what_waits_already_goes_before_what_is_enqueued_while_a_claim_waits() {
    let test = TestApp::start().await;
    let (first, second) = (test.worker("w1").await, test.worker("w2").await);
    let batch = Batch { tasks: (0..3).map(|n| task(&format!("t{n}"))).collect() };
    let who = test.operator();
    let waiting = tokio::join!(
        first.claim_for(1, SOON),
        second.claim_for(1, SOON),
        test.app.batch_enqueue(&who, batch, None),
    );
    let ids = waiting.2.unwrap().ids;
    let late = test.enqueue(task("late")).await;
    let mut order: Vec<_> = [waiting.0, waiting.1].concat().iter().map(|grant| grant.task).collect();
    order.sort_unstable();
    assert_eq!(order, ids[..2]);
    let third = test.worker("w3").await;
    assert_eq!([third.claim_one().await.task, third.claim_one().await.task], [ids[2], late]);
    test.stop().await;
}

#[tokio::test]
async fn a_node_is_granted_no_more_than_its_slots_and_only_its_queues_namespace_and_role() {
    let test = TestApp::start().await;
    for queue in ["a", "b", "b", "b"] {
        test.enqueue(NewTask { queue: queue.into(), ..task("t") }).await;
    }
    let who = principal("default", "n", Access::Worker);
    let instance = orca_proto::ids::InstanceId::new();
    let registration = Registration { slots: 2, ..registration("n", Access::Worker, instance) };
    let id = test.app.node_register(&who, registration).await.unwrap().id;
    let ask = async |queues: &[&str]| {
        let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
        let request = ClaimRequest { instance, slots: 10, wait: Span::default(), queues, free: None };
        test.app.node_claim(&who, id, request).await.unwrap().grants.len()
    };
    assert_eq!(ask(&["c"]).await, 0);
    assert_eq!(ask(&["a"]).await, 1);
    assert_eq!(ask(&[]).await, 1);
    assert_eq!(ask(&[]).await, 0, "both slots are taken");

    let stranger = principal("other", "n", Access::Worker);
    let request = ClaimRequest { instance, slots: 1, wait: Span::default(), queues: vec![], free: None };
    assert_eq!(kind(test.app.node_claim(&stranger, id, request).await), orca_proto::problem::Kind::NotFound);
    assert!(test.planner("p").await.claim(10).await.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn a_task_is_due_at_its_run_at_and_not_before() {
    let test = TestApp::start().await;
    let run_at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(1_000);
    let id = test.enqueue(NewTask { run_at: Some(run_at), ..task("a") }).await;
    let node = test.worker("w").await;
    assert_eq!(test.state(id).await, State::Scheduled);
    test.advance(Duration::from_secs(900)).await;
    assert!(node.claim(1).await.is_empty());
    test.advance(Duration::from_secs(101)).await;
    assert_eq!(node.claim_one().await.task, id);
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_no_node_takes_in_time_expires() {
    let test = TestApp::start().await;
    let mut spec = task("a");
    spec.timeouts.schedule_to_start = Some(Span::secs(30));
    let id = test.enqueue(spec).await;
    test.advance(Duration::from_secs(31)).await;
    assert_eq!(test.state(id).await, State::Expired);
    assert!(test.worker("w").await.claim(1).await.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn renewing_keeps_a_lease_beyond_its_first_end() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    for _ in 0..3 {
        test.advance(LEASE / 2).await;
        let renewed = node.renew(&[super::support::lease(&grant)], Duration::ZERO).await;
        assert!(renewed.lost.is_empty() && renewed.cancel.is_empty());
    }
    assert_eq!(test.state(id).await, State::Running);
    node.succeed(&grant, json!(null)).await;
    test.stop().await;
}
