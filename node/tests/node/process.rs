//! The daemon and an attempt's life, with the process runtime: what does not depend on an engine.

use std::time::Duration;

use orca_node::{Capacity, NodeError, RuntimeKind};
use orca_proto::attempt::{Dependencies, Dependency};
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::node::{Free, Grant};
use orca_proto::problem::Kind;
use orca_proto::quantity::Bytes;
use orca_proto::spec::{InputArtifact, Role};
use orca_proto::task::{Outcome, State, Step, Timeout};
use serde_json::json;

use crate::rig::{Rig, shell};

#[tokio::test]
async fn a_task_returns_its_result_its_log_its_progress_and_its_files() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let mut task = shell(
        "cat; echo; echo to-stderr >&2; \"$ORCA_AGENT\" progress 40 --message half; \
         echo kept > \"$ORCA_DIR/out/kept.txt\"; \"$ORCA_AGENT\" put \"$ORCA_DIR/out/kept.txt\"; \
         \"$ORCA_AGENT\" result '{\"answer\": 42}'",
    );
    task.input = json!({"question": "?"});
    let lease = rig.grant(task);
    let report = rig.fake.report_of(lease).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(report.result, Some(json!({"answer": 42})));
    {
        let book = rig.fake.book();
        assert_eq!(book.started, [lease]);
        assert_eq!(book.progress.last().unwrap().percent, Some(40.0));
        let texts: Vec<_> = book.logs[&lease].iter().map(|line| line.text.as_str()).collect();
        assert!(texts.contains(&r#"{"question":"?"}"#) && texts.contains(&"to-stderr"), "{texts:?}");
        assert!(book.artifacts.values().any(|(artifact, bytes)| {
            artifact.name == "kept.txt" && artifact.task == Some(lease.task) && &bytes[..] == b"kept\n"
        }));
        assert!(book.registrations[0].runtime.contains("isolates nothing"));
    }
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn an_exit_code_and_a_signal_are_told_apart() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let failed = rig.grant(shell("echo last words >&2; exit 7"));
    let killed = rig.grant(shell("kill -SEGV $$"));
    let failed = rig.fake.report_of(failed).await.outcome;
    assert!(matches!(failed, Outcome::Failed { exit_code: 7, .. }), "{failed:?}");
    assert_eq!(rig.fake.report_of(killed).await.outcome, Outcome::Killed { signal: 11 });
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_cancel_reaches_a_running_program_and_one_that_does_not_listen_is_killed() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let polite = rig.grant(shell("echo ready; sleep 60"));
    let stubborn = rig.grant(shell("trap '' TERM; echo ready; while :; do sleep 1; done"));
    for lease in [polite, stubborn] {
        rig.said(lease, "ready").await;
    }
    rig.fake.change(|book| book.cancel.extend([polite, stubborn]));
    for lease in [polite, stubborn] {
        assert_eq!(rig.fake.report_of(lease).await.outcome, Outcome::Cancelled);
    }
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_program_that_outlives_its_limit_is_timed_out() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let mut task = shell("sleep 60");
    task.timeouts.start_to_close = Span::millis(300);
    let lease = rig.grant(task);
    let outcome = rig.fake.report_of(lease).await.outcome;
    assert_eq!(outcome, Outcome::TimedOut { which: Timeout::StartToClose });
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_program_that_reports_no_progress_for_its_heartbeat_is_timed_out_and_one_that_does_goes_on() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let task = |script: &str| {
        let mut task = shell(script);
        task.timeouts.heartbeat = Some(Span::secs(1));
        rig.grant(task)
    };
    let silent = task("sleep 60");
    let stubborn = task("trap '' TERM; while :; do sleep 1; done");
    let lively = task(
        "for n in 1 2 3 4 5 6; do \"$ORCA_AGENT\" progress $n; sleep 0.4; done; \"$ORCA_AGENT\" result 1",
    );
    for lease in [silent, stubborn] {
        let outcome = rig.fake.report_of(lease).await.outcome;
        assert_eq!(outcome, Outcome::TimedOut { which: Timeout::Heartbeat });
    }
    assert_eq!(rig.fake.report_of(lively).await.outcome, Outcome::Succeeded);
    rig.said(silent, "no progress was reported").await;
    // Relayed about once a second, whatever is said in between; the last word always.
    let told = rig.fake.book().progress.clone();
    assert!(told.len() < 6, "{told:?}");
    assert_eq!(told.last().unwrap().percent, Some(6.0));
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_running_program_ends_at_its_task_s_deadline() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let soon = |grant: &mut Grant| grant.deadline_in = Some(Span::millis(800));
    let polite = rig.grant_with(shell("sleep 60"), soon);
    let stubborn = rig.grant_with(shell("trap '' TERM; while :; do sleep 1; done"), soon);
    let quick = rig.grant_with(shell("true"), soon);
    for lease in [polite, stubborn] {
        let outcome = rig.fake.report_of(lease).await.outcome;
        assert_eq!(outcome, Outcome::TimedOut { which: Timeout::Deadline });
    }
    assert_eq!(rig.fake.report_of(quick).await.outcome, Outcome::Succeeded);
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_program_waits_for_a_signal_and_gets_what_came_with_it() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let lease = rig.grant(shell(
        "\"$ORCA_AGENT\" signal never --timeout 100ms; echo code $?; \"$ORCA_AGENT\" signal go --timeout 30s",
    ));
    rig.said(lease, "code 3").await;
    rig.fake.until("the second wait", |book| (book.awaited >= 2).then_some(())).await;
    rig.fake.change(|book| book.signals.insert("go".into(), json!({"colour": "green"})));
    assert_eq!(rig.fake.report_of(lease).await.outcome, Outcome::Succeeded);
    rig.said(lease, r#"{"colour":"green"}"#).await;
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_claim_offers_all_free_slots_and_what_running_tasks_leave_of_processors_and_memory() {
    let rig = Rig::with(RuntimeKind::Process, Duration::from_secs(30), |settings| {
        settings.placement.slots = 8;
        settings.placement.capacity = Some(Capacity { cpus: 4.0, memory: 4 << 30 });
    })
    .await;
    let first = rig.fake.until("a claim", |book| book.claims.first().cloned()).await;
    assert_eq!((first.slots, first.free), (8, Some(Free { cpus: 4.0, memory: Bytes::mib(4_096) })));
    {
        let registration = &rig.fake.book().registrations[0];
        assert_eq!((registration.cpus, registration.memory), (Some(4.0), Some(Bytes::mib(4_096))));
    }
    let mut task = shell("echo ready; sleep 60");
    task.resources.cpus = 1.5;
    task.resources.memory = Bytes::mib(1_000);
    let lease = rig.grant(task);
    rig.said(lease, "ready").await;
    let left = Free { cpus: 2.5, memory: Bytes::mib(3_096) };
    let claim = rig.fake.until("another claim", |book| book.claims.get(1).cloned()).await;
    assert_eq!((claim.slots, claim.free), (7, Some(left)));
    rig.fake.change(|book| book.cancel.push(lease));
    rig.fake.report_of(lease).await;
    let whole = |book: &mut crate::fake::Book| {
        let last = book.claims.last()?;
        (last.slots == 8 && last.free == first.free).then_some(())
    };
    rig.fake.until("a claim with everything", whole).await;
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_lost_lease_ends_the_program_and_nothing_is_reported() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let lease = rig.grant(shell("echo ready; sleep 60"));
    rig.said(lease, "ready").await;
    rig.fake.change(|book| book.lost.push(lease));
    let after = rig.grant(shell("true"));
    rig.fake.report_of(after).await;
    let fake = rig.fake.clone();
    rig.stop().await.unwrap();
    assert!(fake.book().reports.iter().all(|(of, _)| *of != lease));
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_runs_out_here_first_and_its_program_is_gone() {
    let rig = Rig::with(RuntimeKind::Process, Duration::from_secs(2), |_| {}).await;
    let marker = rig.state.path().join("alive");
    let lease = rig.grant(shell(&format!("echo ready; sleep 60; touch {}", marker.display())));
    rig.said(lease, "ready").await;
    rig.fake.change(|book| book.away = true);
    let gone = async {
        while !rig.no_files() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    rig.fake.change(|book| book.away = false);
    let fake = rig.fake.clone();
    rig.stop().await.unwrap();
    assert!(fake.book().reports.is_empty());
}

#[tokio::test]
async fn a_report_waits_for_a_coordinator_that_was_away() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let go = rig.state.path().join("go");
    let lease = rig.grant(shell(&format!(
        "echo ready; while [ ! -e {} ]; do sleep 0.05; done; \"$ORCA_AGENT\" result 1",
        go.display()
    )));
    rig.said(lease, "ready").await;
    rig.fake.change(|book| book.away = true);
    std::fs::write(&go, "").unwrap();
    let staged = rig.state.path().join(format!("intents/{}-1/report.json", lease.task));
    let reported = async {
        while !staged.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reported).await.unwrap();
    rig.fake.change(|book| book.away = false);
    assert_eq!(rig.fake.report_of(lease).await.result, Some(json!(1)));
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_the_coordinator_forgot_registers_again() {
    let rig = Rig::start(RuntimeKind::Process).await;
    rig.fake.change(|book| book.refuse = Some(Kind::NotFound));
    rig.fake.until("another registration", |book| (book.registrations.len() > 1).then_some(())).await;
    let lease = rig.grant(shell("true"));
    assert_eq!(rig.fake.report_of(lease).await.outcome, Outcome::Succeeded);
    let instances: Vec<_> = rig.fake.book().registrations.iter().map(|one| one.instance).collect();
    assert!(instances.windows(2).all(|pair| pair[0] == pair[1]));
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_superseded_node_stops_its_programs_and_says_why() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let lease = rig.grant(shell("echo ready; sleep 60"));
    rig.said(lease, "ready").await;
    rig.fake.change(|book| book.refuse = Some(Kind::Conflict));
    rig.ended().await.unwrap();
    assert!(rig.no_files() && rig.fake.book().reports.is_empty());
    assert!(matches!(rig.outcome().await, Err(NodeError::Superseded { .. })));
}

#[tokio::test]
async fn a_drain_waits_for_what_runs_and_takes_no_more() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let go = rig.state.path().join("go");
    let lease =
        rig.grant(shell(&format!("echo ready; while [ ! -e {} ]; do sleep 0.05; done", go.display())));
    rig.said(lease, "ready").await;
    rig.shutdown.cancel();
    rig.fake.until("the drain to be told", |book| book.draining.then_some(())).await;
    rig.grant(shell("true"));
    std::fs::write(&go, "").unwrap();
    let fake = rig.fake.clone();
    rig.stop().await.unwrap();
    let book = fake.book();
    assert_eq!(book.reports.len(), 1);
    assert_eq!(book.reports[0].1.outcome, Outcome::Succeeded);
    assert_eq!(book.queue.len(), 1);
}

#[tokio::test]
async fn what_outlives_the_drain_is_given_back_without_using_up_an_attempt() {
    let rig = Rig::with(RuntimeKind::Process, Duration::from_secs(30), |settings| {
        settings.drain_timeout = Duration::from_millis(100);
    })
    .await;
    let lease = rig.grant(shell("echo ready; sleep 60"));
    rig.said(lease, "ready").await;
    let fake = rig.fake.clone();
    rig.stop().await.unwrap();
    let outcome = fake.report_of(lease).await.outcome;
    assert_eq!(outcome, Outcome::RuntimeError { reason: "the node was shut down".into() });
}

#[tokio::test]
async fn input_artifacts_and_dependencies_are_there_before_the_start() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    builder.append_data(&mut header, "dir/a b\nc", &b"inner"[..]).unwrap();
    let archive = rig.fake.store("src.tar", builder.into_inner().unwrap(), None);
    let plain = rig.fake.store("plain", "plain", None);
    let upstream = rig.fake.store("kept", "from upstream", Some(TaskId::new()));
    rig.fake.change(|book| {
        book.dependencies = Some(Dependencies {
            tasks: vec![Dependency {
                id: TaskId::new(),
                key: Some("first".into()),
                name: "first".into(),
                state: State::Succeeded,
                reason: None,
                result: Some(json!({"n": 1})),
                artifacts: vec![upstream.clone()],
            }],
        });
    });
    let mut task = shell(&format!(
        "cat \"$ORCA_FILES\"/src/dir/*; echo; cat \"$ORCA_FILES/plain\"; echo; cat \"$ORCA_DEPENDENCIES\"; echo; \
         \"$ORCA_AGENT\" get {}",
        upstream.id
    ));
    task.artifacts = vec![
        InputArtifact { id: archive.id, name: "src".into(), unpack: true },
        InputArtifact { id: plain.id, name: "plain".into(), unpack: false },
    ];
    let lease = rig.grant_with(task, |grant| grant.has_dependencies = true);
    assert_eq!(rig.fake.report_of(lease).await.outcome, Outcome::Succeeded);
    let log: Vec<_> = rig.fake.book().logs[&lease].iter().map(|line| line.text.clone()).collect();
    assert_eq!(&log[..2], ["inner", "plain"]);
    let seen: Dependencies = serde_json::from_str(&log[2]).unwrap();
    assert_eq!(seen.tasks[0].result, Some(json!({"n": 1})));
    assert_eq!(log[3], "from upstream");
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn an_artifact_that_is_not_what_was_stored_is_never_shown() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let artifact = rig.fake.store("input", "right", None);
    rig.fake.change(|book| book.artifacts.get_mut(&artifact.id).unwrap().1 = "wrong".into());
    let mut task = shell("true");
    task.artifacts = vec![InputArtifact { id: artifact.id, name: "input".into(), unpack: false }];
    let lease = rig.grant(task);
    let outcome = rig.fake.report_of(lease).await.outcome;
    assert!(
        matches!(&outcome, Outcome::RuntimeError { reason } if reason.contains("SHA-256")),
        "{outcome:?}"
    );
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn an_absent_or_hostile_artifact_is_rejected_for_good() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let rubbish = rig.fake.store("rubbish", vec![7_u8; 2_048], None);
    let mut task = shell("true");
    task.artifacts = vec![InputArtifact { id: rubbish.id, name: "x".into(), unpack: true }];
    let hostile = rig.grant(task.clone());
    task.artifacts[0].id = orca_proto::ids::ArtifactId::new();
    let absent = rig.grant(task);
    for lease in [hostile, absent] {
        let outcome = rig.fake.report_of(lease).await.outcome;
        assert!(matches!(outcome, Outcome::Rejected { .. }), "{outcome:?}");
    }
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_planner_returns_a_plan_and_a_plan_that_is_refused_is_a_failure_with_the_reason() {
    let rig =
        Rig::with(RuntimeKind::Process, Duration::from_secs(30), |settings| settings.role = Role::Plan).await;
    let planner = |script: &str| {
        let mut task = shell(script);
        task.role = Role::Plan;
        rig.grant_with(task, |grant| grant.step = Some(Step::Plan))
    };
    let plan = r#""$ORCA_AGENT" plan '{"tasks": [{"key": "a", "container": {"image": "i"}}]}'"#;
    let report = rig.fake.report_of(planner(plan)).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(report.plan.unwrap().tasks[0].key.as_deref(), Some("a"));

    let cyclic =
        r#""$ORCA_AGENT" plan '{"tasks": [{"key": "a", "container": {"image": "i"}, "depends_on": ["a"]}]}'"#;
    let outcome = rig.fake.report_of(planner(cyclic)).await.outcome;
    assert!(matches!(outcome, Outcome::Failed { exit_code: 1.., .. }), "{outcome:?}");

    let outcome = rig.fake.report_of(planner("true")).await.outcome;
    assert!(matches!(outcome, Outcome::Failed { exit_code: 0, reason: Some(_) }), "{outcome:?}");

    rig.fake.change(|book| book.refuse_report = Some(Kind::PlanInvalid));
    let outcome = rig.fake.report_of(planner(plan)).await.outcome;
    let refused = matches!(&outcome, Outcome::Failed { exit_code: 0, reason: Some(why) } if why.contains("plan was refused"));
    assert!(refused, "{outcome:?}");
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn the_node_s_own_environment_does_not_reach_a_task() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let lease = rig.grant(shell("env; echo done"));
    rig.said(lease, "done").await;
    let leaked = rig.fake.book().logs[&lease].iter().any(|line| line.text.starts_with("CARGO"));
    assert!(!leaked);
    rig.fake.report_of(lease).await;
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_report_that_only_a_node_can_make_is_not_believed_when_a_container_left_it() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let forged = r#"{"outcome": {"kind": "lost"}}"#;
    let script = format!("echo '{forged}' > $ORCA_DIR/spool/report.json; kill -9 $PPID; sleep 60");
    let lease = rig.grant(shell(&script));
    assert_eq!(rig.fake.report_of(lease).await.outcome, Outcome::Killed { signal: 9 });
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_program_that_overfills_its_directory_is_stopped_and_told_what_the_limit_is() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let deep = format!("mkdir -p $ORCA_DIR/out/{}; sleep 60", vec!["d"; 40].join("/"));
    let lease = rig.grant(shell(&deep));
    let outcome = rig.fake.report_of(lease).await.outcome;
    let Outcome::Failed { exit_code: 137, reason: Some(reason) } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("1GiB") && reason.contains("/tmp"), "{reason}");
    rig.stop().await.unwrap();
}
