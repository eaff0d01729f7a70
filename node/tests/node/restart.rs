//! A daemon that is killed or handed over, and the next one with the same state directory: what ran goes on, and nothing of it
//! is lost or doubled.

use std::time::Duration;

use orca_proto::node::LeaseRef;
use orca_proto::secret::{Delivered, SecretValue};
use orca_proto::spec::{InputArtifact, SecretFile};
use orca_proto::task::{Outcome, Timeout};
use serde_json::json;

use crate::docker::Bench;

/// The numbers of the lines that the attempt printed, in the order in which they arrived.
fn lines(bench: &Bench, lease: LeaseRef) -> Vec<u32> {
    let book = bench.rig.fake.book();
    let said = book.logs.get(&lease).map(Vec::as_slice).unwrap_or_default();
    said.iter().filter_map(|line| line.text.strip_prefix("line ")?.parse().ok()).collect()
}

/// How often the attempt was reported.
fn reports(bench: &Bench, lease: LeaseRef) -> usize {
    bench.rig.fake.book().reports.iter().filter(|(of, _)| *of == lease).count()
}

/// The leases that the newest daemon asked to go on with.
fn resumed(bench: &Bench) -> Vec<LeaseRef> {
    bench.rig.fake.book().registrations.last().unwrap().resumes.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_is_followed_by_one_that_goes_on_and_no_line_is_lost_or_doubled() {
    let bench = Bench::start().await;
    let first = bench.rig.replaced().await;
    let lease = bench.rig.grant(bench.task(&["count", "60"]));
    bench.rig.said(lease, "line 5").await;
    first.kill().await;

    let second = bench.rig.daemon().await;
    assert_eq!(resumed(&bench), [lease]);
    let report = bench.rig.fake.report_of(lease).await;
    assert_eq!((report.outcome, report.result), (Outcome::Succeeded, Some(json!(60))));
    assert_eq!(lines(&bench, lease), (0..60).collect::<Vec<_>>());
    second.shutdown.cancel();
    second.ended().await.unwrap();
    assert_eq!(reports(&bench, lease), 1);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_hands_over_leaves_its_containers_running() {
    let bench = Bench::start().await;
    let stored = bench.rig.fake.store("data", "content", None);
    let mut task = bench.task(&["count", "40"]);
    task.artifacts = vec![InputArtifact { id: stored.id, name: "data".into(), unpack: false }];
    let first = bench.rig.replaced().await;
    let lease = bench.rig.grant(task);
    bench.rig.said(lease, "line 3").await;
    first.hand_over.cancel();
    first.ended().await.unwrap();
    assert_eq!(bench.containers().await.len(), 1);

    let second = bench.rig.daemon().await;
    let report = bench.rig.fake.report_of(lease).await;
    assert_eq!((report.outcome, report.result), (Outcome::Succeeded, Some(json!(40))));
    assert_eq!(lines(&bench, lease), (0..40).collect::<Vec<_>>());
    second.shutdown.cancel();
    second.ended().await.unwrap();
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_while_no_daemon_ran_is_reported_by_the_next() {
    let bench = Bench::start().await;
    let first = bench.rig.replaced().await;
    let done = bench.rig.grant(bench.task(&["count", "10"]));
    let mut gone = bench.task(&["sleep", "60"]);
    gone.resources.pids = 32;
    let gone = bench.rig.grant_with(gone, |grant| grant.token.0 = 2);
    let gone = LeaseRef { token: orca_proto::ids::FencingToken(2), ..gone };
    bench.rig.said(done, "line 1").await;
    bench.rig.said(gone, "ready").await;
    first.kill().await;
    let kill = bollard::query_parameters::KillContainerOptionsBuilder::new().signal("SIGKILL").build();
    bench.api.kill_container(&format!("orca-{}-1-2", gone.task), Some(kill)).await.unwrap();
    // Its agent waits with the report for a node.
    tokio::time::sleep(Duration::from_secs(1)).await;

    let second = bench.rig.daemon().await;
    assert_eq!(bench.rig.fake.report_of(done).await.outcome, Outcome::Succeeded);
    assert_eq!(bench.rig.fake.report_of(gone).await.outcome, Outcome::Killed { signal: 9 });
    assert_eq!(lines(&bench, done), (0..10).collect::<Vec<_>>());
    second.shutdown.cancel();
    second.ended().await.unwrap();
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lost_its_lease_while_no_daemon_ran_is_removed_and_not_reported() {
    let bench = Bench::start().await;
    let first = bench.rig.replaced().await;
    let lease = bench.rig.grant(bench.task(&["sleep", "60"]));
    bench.rig.said(lease, "ready").await;
    first.kill().await;
    bench.rig.fake.change(|book| book.lost.push(lease));

    let second = bench.rig.daemon().await;
    let gone = async {
        while !bench.containers().await.is_empty() || !bench.rig.no_files() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    assert_eq!(reports(&bench, lease), 0);
    second.shutdown.cancel();
    second.ended().await.unwrap();
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_cancels_reach_a_container_that_was_taken_up() {
    let bench = Bench::start().await;
    let first = bench.rig.replaced().await;
    let mut limited = bench.task(&["sleep", "60"]);
    limited.timeouts.heartbeat = Some(orca_proto::duration::Span::secs(3));
    let limited = bench.rig.grant(limited);
    let cancelled = bench.rig.grant(bench.task(&["sleep", "60"]));
    for lease in [limited, cancelled] {
        bench.rig.said(lease, "ready").await;
    }
    first.kill().await;
    let second = bench.rig.daemon().await;
    bench.rig.fake.change(|book| book.cancel.push(cancelled));
    assert_eq!(bench.rig.fake.report_of(cancelled).await.outcome, Outcome::Cancelled);
    let late = bench.rig.fake.report_of(limited).await.outcome;
    assert_eq!(late, Outcome::TimedOut { which: Timeout::Heartbeat });
    second.shutdown.cancel();
    second.ended().await.unwrap();
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_was_taken_up_is_still_kept_from_telling_its_secrets() {
    let bench = Bench::start().await;
    let first = bench.rig.replaced().await;
    let mut task = bench.task(&["count", "50"]);
    task.secrets = vec![SecretFile { name: "db".into(), r#as: None }];
    let secret = Delivered { name: "db".into(), file: "db".into(), value: SecretValue::new("line 40") };
    bench.rig.fake.change(|book| book.secrets = vec![secret]);
    let lease = bench.rig.grant(task);
    bench.rig.said(lease, "line 5").await;
    first.kill().await;

    let second = bench.rig.daemon().await;
    assert_eq!(bench.rig.fake.report_of(lease).await.outcome, Outcome::Succeeded);
    let said: Vec<String> = bench.rig.fake.book().logs[&lease].iter().map(|line| line.text.clone()).collect();
    let expected = (0..50).map(|number| if number == 40 { "***".into() } else { format!("line {number}") });
    assert_eq!(said, expected.collect::<Vec<String>>());
    second.shutdown.cancel();
    second.ended().await.unwrap();
    bench.end().await;
}
