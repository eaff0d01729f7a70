//! What happens at the same moment: a node's claims, reports beside renewals, timers, keys that change hands.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use orca_coordinator::app::App;
use orca_proto::attempt::{AttemptReport, Reports, Settled};
use orca_proto::duration::Span;
use orca_proto::ids::InstanceId;
use orca_proto::node::{ClaimRequest, Grant, LeaseRef, Registration};
use orca_proto::plan::Batch;
use orca_proto::problem::Kind;
use orca_proto::spec::{Approval, NewTask, OnTimeout, Unique};
use orca_proto::task::{Cancellation, Outcome, Progress, State, TaskFilter};
use orca_proto::token::Access;
use serde_json::json;
use serde_json::value::RawValue;

use super::support::{TestApp, TestNode, lease, parsed, principal, registration, task};

const ROUNDS: usize = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_one_node_at_once_never_grant_more_than_its_slots() {
    let test = TestApp::start().await;
    let other = test.replica().await;
    let (who, instance) = (principal("default", "n", Access::Worker), InstanceId::new());
    let registration = Registration { slots: 3, ..registration("n", Access::Worker, instance) };
    let id = test.app.node_register(&who, registration).await.unwrap().id;
    let claim = async |app: &App, queue: &str| -> Vec<Grant> {
        let queues = vec![queue.to_owned()];
        let request = ClaimRequest { instance, slots: 3, wait: Span::default(), queues, free: None };
        app.node_claim(&who, id, request).await.unwrap().grants.into_iter().map(parsed).collect()
    };
    let node = TestNode { app: test.app.clone(), who: who.clone(), id, instance };
    for round in 0..ROUNDS {
        let tasks = ["a", "b"]
            .into_iter()
            .flat_map(|queue| (0..3).map(move |_| NewTask { queue: queue.into(), ..NewTask::new("image") }));
        test.app.batch_enqueue(&test.operator(), Batch { tasks: tasks.collect() }, None).await.unwrap();
        other.reconcile().await.unwrap();
        let (a, b) = tokio::join!(claim(&test.app, "a"), claim(&other, "b"));
        assert!(a.len() + b.len() <= 3, "round {round}: {} and {} of 3 slots", a.len(), b.len());
        for grant in a.iter().chain(&b) {
            node.succeed(grant, json!(null)).await;
        }
    }
    test.stop().await;
}

#[tokio::test]
async fn a_claim_that_is_held_for_an_instance_that_was_replaced_is_granted_nothing() {
    let test = TestApp::start().await;
    let old = test.worker("w").await;
    let request = ClaimRequest {
        instance: old.instance,
        slots: 1,
        wait: Duration::from_millis(500).into(),
        queues: Vec::new(),
        free: None,
    };
    let held = test.app.node_claim(&old.who, old.id, request);
    let replaced = async {
        let new = test.worker("w").await;
        let id = test.enqueue(task("a")).await;
        (new, id)
    };
    let (held, (new, id)) = tokio::join!(held, replaced);
    match held {
        Ok(claimed) => assert!(claimed.grants.is_empty(), "the old instance was granted a task"),
        Err(error) => assert_eq!(error.problem().kind, Kind::Conflict),
    }
    assert_eq!(new.claim_one().await.task, id);
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_renewal_sets_aside_can_still_be_reported_and_is_heard() {
    let test = TestApp::start().await;
    let other = test.replica().await;
    let node = test.worker("w").await;
    for _ in 0..ROUNDS {
        let tasks = vec![NewTask::new("image"); 20];
        test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap();
        let grants = node.claim(20).await;
        assert_eq!(grants.len(), 20);
        let leases: Vec<LeaseRef> = grants.iter().map(lease).collect();
        let reports = leases[10..15].iter().map(|lease| AttemptReport::<Box<RawValue>> {
            task: lease.task,
            token: lease.token,
            outcome: Outcome::Succeeded,
            result: None,
        });
        let reports = Reports { instance: node.instance, reports: reports.collect() };
        let progress = async {
            for lease in &leases[15..] {
                other
                    .attempt_progress(&node.who, *lease, Progress { percent: Some(1.0), message: None })
                    .await
                    .unwrap();
            }
        };
        let (renewed, settled, ()) = tokio::join!(
            node.renew(&leases[..10], Duration::ZERO),
            other.node_reports(&node.who, node.id, reports),
            progress
        );
        assert_eq!(renewed.lost, []);
        let settled = settled.unwrap().settled;
        assert!(settled.iter().all(|one| *one == Settled::State(State::Succeeded)), "{settled:?}");
        for grant in grants[..10].iter().chain(&grants[15..]) {
            assert_eq!(node.succeed(grant, json!(null)).await, State::Succeeded);
        }
    }
    test.stop().await;
}

#[tokio::test]
async fn an_attempt_that_fails_after_the_deadline_is_the_last() {
    let test = TestApp::start().await;
    let deadline = Timestamp::now() + SignedDuration::from_secs(100);
    let mut spec = NewTask { deadline: Some(deadline), ..task("a") };
    spec.retry.max_attempts = 3;
    let id = test.enqueue(spec).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.start(&grant).await;
    // Its timer goes off while it runs.
    test.advance(Duration::from_secs(150)).await;
    assert_eq!(test.state(id).await, State::Running);
    assert_eq!(node.fail(&grant).await, State::Failed);
    test.stop().await;
}

#[tokio::test]
async fn two_timers_of_a_task_that_went_off_before_anybody_looked_both_count() {
    let test = TestApp::start().await;
    let approval = Approval { prompt: None, timeout: Some(Span::secs(50)), on_timeout: OnTimeout::Proceed };
    let deadline = Timestamp::now() + SignedDuration::from_secs(100);
    let mut ids = Vec::new();
    for n in 0..20 {
        let spec =
            NewTask { approval: Some(approval.clone()), deadline: Some(deadline), ..task(&format!("t{n}")) };
        ids.push(test.enqueue(spec).await);
    }
    test.advance(Duration::from_secs(200)).await;
    for id in ids {
        assert_eq!(test.state(id).await, State::Expired);
    }
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unique_key_that_is_given_back_while_others_want_it_goes_to_one_of_them() {
    let test = TestApp::start().await;
    let other = test.replica().await;
    let operator = test.operator();
    let unique = || NewTask {
        unique: Some(Unique { key: "k".to_owned(), r#while: Default::default() }),
        ..NewTask::new("image")
    };
    let mut holder = test.enqueue(unique()).await;
    for round in 0..ROUNDS {
        let (cancelled, one, two) = tokio::join!(
            test.app.task_cancel(&operator, holder, Cancellation::default()),
            other.task_enqueue(&operator, unique(), None),
            test.app.task_enqueue(&operator, unique(), None)
        );
        cancelled.unwrap();
        one.unwrap();
        two.unwrap();
        let filter = TaskFilter { state: Some("ready".to_owned()), ..TaskFilter::default() };
        let open = test.app.task_list(&operator, filter).await.unwrap().items;
        assert!(open.len() <= 1, "round {round}: {} open tasks have the key", open.len());
        holder = match open.first() {
            Some(task) => task.id,
            None => test.enqueue(unique()).await,
        };
    }
    test.stop().await;
}
