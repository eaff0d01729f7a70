//! What is left standing when a part is killed, restarted or drained in mid-run.

use std::time::Duration;

use orca_e2e::watch::eventually;
use orca_e2e::{Shape, System, scenario, tasks};
use orca_proto::attempt::Report;
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::node::LeaseRef;
use orca_proto::problem::Kind;
use orca_proto::task::{Outcome, State};
use orca_proto::token::Access;
use rustix::process::Signal;
use serde_json::json;

fn two_workers(slots: u32) -> Shape {
    Shape { lease: Span::secs(3), workers: 2, slots, ..Shape::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_a_killed_worker_finishes_elsewhere_with_one_outcome_per_attempt() {
    scenario(two_workers(1), async |system| {
        let script = r#"[ "$ORCA_ATTEMPT" != 1 ] || sleep 60; "$ORCA_AGENT" result "$ORCA_ATTEMPT""#;
        let id = system.enqueue(&tasks::shell("survivor", script)).await;
        let first = system.started(id).await.attempts.pop().unwrap();
        system.node(&first.node_name).kill().await;

        let done = system.succeeded(id, Duration::from_secs(30)).await;
        assert_eq!(done.result, Some(json!(2)));
        let ends: Vec<_> = done.attempts.iter().map(|attempt| attempt.outcome.clone()).collect();
        assert_eq!(ends, [Some(Outcome::Lost), Some(Outcome::Succeeded)]);
        assert!(done.attempts[1].token > done.attempts[0].token);
        assert_ne!(done.attempts[1].node, done.attempts[0].node);

        // Whoever still speaks for the first attempt changes nothing.
        let stale = Client::new(&system.url(), &system.token(&first.node_name, Access::Worker)).unwrap();
        let report = Report { outcome: Outcome::Succeeded, result: Some(json!("stale")), plan: None };
        let refused = stale.report(LeaseRef { task: id, token: first.token }, &report).await.unwrap_err();
        assert_eq!(refused.kind(), Some(Kind::LeaseLost));
        assert_eq!(system.task(id).await, done);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_frozen_past_its_lease_does_not_settle_what_went_on_elsewhere() {
    scenario(two_workers(1), async |system| {
        let script = r#"[ "$ORCA_ATTEMPT" != 1 ] || sleep 5; "$ORCA_AGENT" result "$ORCA_ATTEMPT""#;
        let id = system.enqueue(&tasks::shell("survivor", script)).await;
        let first = system.started(id).await.attempts.pop().unwrap();
        system.node(&first.node_name).signal(Signal::STOP);
        let done = system.succeeded(id, Duration::from_secs(30)).await;
        system.node(&first.node_name).signal(Signal::CONT);

        assert_eq!(done.result, Some(json!(2)));
        system.nodes_ready(2).await;
        eventually("the frozen worker has removed its container", Duration::from_secs(20), async || {
            system.containers().await.is_empty().then_some(())
        })
        .await;
        assert_eq!(system.task(id).await, done);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_and_started_again_goes_on_with_its_running_containers() {
    const TASKS: usize = 6;
    const LINES: usize = 80;
    scenario(Shape { lease: Span::secs(20), slots: 8, ..Shape::default() }, async |system| {
        let script = format!(
            "i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); sleep 0.1; done; \"$ORCA_AGENT\" result $i"
        );
        let mut ids = Vec::new();
        for number in 0..TASKS {
            let mut task = tasks::shell(&format!("task {number}"), &script);
            task.resources.cpus = 0.1;
            ids.push(system.enqueue(&task).await);
        }
        for id in &ids {
            system.started(*id).await;
        }
        system.node("worker-1").kill().await;
        assert_eq!(system.containers().await.len(), TASKS);
        system.node("worker-1").start();
        for id in ids {
            let done = system.succeeded(id, Duration::from_secs(40)).await;
            assert_eq!((done.result, done.attempts.len()), (Some(json!(LINES)), 1), "{:?}", done.attempts);
            let expected: Vec<String> = (0..LINES).map(|number| format!("1 Stdout line {number}")).collect();
            assert_eq!(system.log(id).await, expected);
        }
    })
    .await;
}

/// Enqueues tasks that each take a moment, breaks something in the middle, and expects each to have succeeded once.
async fn nothing_is_lost(system: &mut System, disturb: impl AsyncFnOnce(&mut System)) {
    const TASKS: usize = 12;
    let mut ids: Vec<TaskId> = Vec::new();
    for number in 0..TASKS {
        let script = format!("sleep 1; \"$ORCA_AGENT\" result {number}");
        ids.push(system.enqueue(&tasks::shell(&format!("task {number}"), &script)).await);
    }
    system.succeeded(ids[0], Duration::from_secs(30)).await;
    disturb(system).await;
    for (number, id) in ids.into_iter().enumerate() {
        let done = system.succeeded(id, Duration::from_secs(60)).await;
        assert_eq!(done.result, Some(json!(number)));
        let settled =
            done.attempts.iter().filter(|attempt| attempt.outcome == Some(Outcome::Succeeded)).count();
        assert_eq!(settled, 1, "{:?}", done.attempts);
        assert!(done.attempts.iter().all(|attempt| attempt.outcome.is_some()), "{:?}", done.attempts);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_coordinator_is_killed_and_restarted_in_mid_run() {
    scenario(two_workers(2), async |system| {
        nothing_is_lost(system, async |system| {
            system.coordinator().kill().await;
            assert!(system.client().ready().await.is_err());
            system.coordinator().start();
            system.ready().await;
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_postgres_is_restarted_in_mid_run() {
    scenario(two_workers(2), async |system| {
        nothing_is_lost(system, async |system| system.restart_postgres().await).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_told_to_stop_lets_its_task_finish_and_takes_no_other() {
    scenario(Shape { slots: 2, ..Shape::default() }, async |system| {
        let running = system.enqueue(&tasks::shell("running", "sleep 3; \"$ORCA_AGENT\" result 1")).await;
        system.started(running).await;
        system.node("worker-1").signal(Signal::TERM);
        eventually("the worker drains", Duration::from_secs(10), async || {
            let nodes = system.client().nodes().await.ok()?;
            nodes.items.iter().all(|node| node.state != orca_proto::node::NodeState::Ready).then_some(())
        })
        .await;
        let late = system.enqueue(&tasks::shell("late", "true")).await;

        let status = system.node("worker-1").gone(Duration::from_secs(20)).await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        let done = system.succeeded(running, Duration::from_secs(5)).await;
        assert_eq!(done.attempts.len(), 1);
        assert_eq!(system.task(late).await.summary.state, State::Ready);
    })
    .await;
}
