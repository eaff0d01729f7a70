//! How attempts end: each way is told apart from the others.

use std::time::Duration;

use orca_e2e::registry::EmptyRegistry;
use orca_e2e::watch::eventually;
use orca_e2e::{Shape, engine, scenario, tasks};
use orca_proto::quantity::Bytes;
use orca_proto::spec::Pull;
use orca_proto::task::{Cancellation, Outcome, State, Task, Timeout};
use serde_json::json;

fn outcomes(task: &Task) -> Vec<Outcome> {
    task.attempts.iter().filter_map(|attempt| attempt.outcome.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_task_is_retried_and_then_failed_with_its_exit_code_and_its_last_lines() {
    scenario(Shape::default(), async |system| {
        let script = r#"echo "try $ORCA_ATTEMPT"; echo "the end is near" >&2; printf "no newline"; exit 7"#;
        let mut task = tasks::shell("failing", script);
        task.retry.max_attempts = 2;
        let id = system.enqueue(&task).await;
        let done = system.ended(id, Duration::from_secs(30)).await;

        assert_eq!(done.summary.state, State::Failed);
        let failed = Outcome::Failed { exit_code: 7, reason: None };
        assert_eq!(outcomes(&done), [failed.clone(), failed]);
        let numbers: Vec<_> = done.attempts.iter().map(|attempt| (attempt.number, attempt.token.0)).collect();
        assert_eq!(numbers, [(1, 1), (2, 2)]);
        let reason = done.summary.reason.unwrap();
        assert!(reason.contains('7'), "{reason}");
        let log = system.log(id).await;
        for line in ["1 Stdout try 1", "2 Stdout try 2", "2 Stderr the end is near", "2 Stdout no newline"] {
            assert!(log.iter().any(|logged| logged == line), "{line:?} is not in {log:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_memory_is_told_apart_from_a_failure_and_from_being_killed() {
    scenario(Shape::default(), async |system| {
        let mut hungry = tasks::shell("hungry", "");
        hungry.container.command = vec!["tail".into(), "/dev/zero".into()];
        hungry.resources.memory = Bytes::mib(32);
        hungry.retry.max_attempts = 1;
        let mut victim = tasks::shell("victim", "echo up; sleep 60");
        victim.retry.max_attempts = 1;
        let mut suicidal = tasks::shell("suicidal", "kill -SEGV $$");
        suicidal.retry.max_attempts = 1;
        let (hungry, victim) = (system.enqueue(&hungry).await, system.enqueue(&victim).await);
        let suicidal = system.enqueue(&suicidal).await;

        system.logged(victim, "up").await;
        let container = engine::container_of(system.docker(), victim).await;
        engine::kill(system.docker(), &container, "KILL").await;

        let limit = Duration::from_secs(30);
        assert_eq!(outcomes(&system.ended(hungry, limit).await), [Outcome::OutOfMemory]);
        assert_eq!(outcomes(&system.ended(victim, limit).await), [Outcome::Killed { signal: 9 }]);
        assert_eq!(outcomes(&system.ended(suicidal, limit).await), [Outcome::Killed { signal: 11 }]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_past_its_time_is_stopped_and_says_so() {
    scenario(Shape::default(), async |system| {
        let mut task = tasks::shell("slow", "sleep 60");
        task.timeouts.start_to_close = orca_proto::duration::Span::secs(1);
        task.retry.max_attempts = 1;
        let id = system.enqueue(&task).await;
        let done = system.ended(id, Duration::from_secs(20)).await;
        assert_eq!(outcomes(&done), [Outcome::TimedOut { which: Timeout::StartToClose }]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_a_task_that_ignores_sigterm_ends_it_within_its_grace() {
    scenario(Shape::default(), async |system| {
        let task = tasks::shell("stubborn", "trap '' TERM; echo up; while :; do sleep 1; done");
        let grace = task.timeouts.grace.get();
        let id = system.enqueue(&task).await;
        system.logged(id, "up").await;
        let container = engine::container_of(system.docker(), id).await;

        let cancelled = Cancellation { reason: Some("no longer wanted".into()) };
        system.client().cancel(id, &cancelled).await.unwrap();
        let limit = grace + Duration::from_secs(4);
        eventually("its container is gone", limit, async || {
            let left = engine::containers(system.docker(), &format!("orca.task={id}")).await;
            (!left.contains(&container)).then_some(())
        })
        .await;
        let done = system.ended(id, Duration::from_secs(5)).await;
        assert_eq!(done.summary.state, State::Cancelled);
        assert_eq!(outcomes(&done), [Outcome::Cancelled]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_does_not_exist_is_rejected_and_not_tried_again() {
    let registry = EmptyRegistry::start().await;
    scenario(Shape::default(), async |system| {
        let absent = tasks::in_image("absent here", "orca.invalid/never/was:1");
        let mut unknown =
            tasks::in_image("absent there", &format!("127.0.0.1:{}/never/was:1", registry.port()));
        unknown.container.pull = Pull::Missing;
        for task in [absent, unknown] {
            let id = system.enqueue(&task).await;
            let done = system.ended(id, Duration::from_secs(30)).await;
            assert_eq!(done.summary.state, State::Failed);
            assert!(matches!(outcomes(&done).as_slice(), [Outcome::Rejected { .. }]), "{:?}", done.attempts);
            let reason = done.summary.reason.unwrap();
            assert!(reason.contains("never/was:1"), "{reason}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_with_a_user_of_its_own_can_report_and_keep_files() {
    scenario(Shape::default(), async |system| {
        let dockerfile = format!(
            "FROM {}\nUSER 65534:65534\nWORKDIR /tmp\nENTRYPOINT [\"/bin/sh\", \"-euc\"]\n\
             CMD [\"echo kept > file; \\\"$ORCA_AGENT\\\" put file >/dev/null; \\\"$ORCA_AGENT\\\" progress 50; \
             \\\"$ORCA_AGENT\\\" result \\\"$(id -u)\\\"\"]\n",
            orca_e2e::settings::base_image()
        );
        let image = system.image(&dockerfile, &[]).await;
        let id = system.enqueue(&tasks::in_image("unprivileged", &image)).await;
        let done = system.succeeded(id, Duration::from_secs(30)).await;
        assert_eq!(done.result, Some(json!(65534)));
        let kept = system.client().artifacts(id).await.unwrap().items;
        assert_eq!(kept.iter().map(|file| (file.name.as_str(), file.size)).collect::<Vec<_>>(), [("file", 5)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_has_no_network_no_capabilities_and_a_read_only_root() {
    scenario(Shape::default(), async |system| {
        // `set -e` does not look at what `!` turns round.
        let script = r#"
            if touch /here 2>/dev/null; then echo "the root can be written"; exit 1; fi
            touch /tmp/there
            test "$(ls /sys/class/net)" = lo
            grep -q '^CapEff:[[:space:]]*0*$' /proc/self/status
            grep -q '^NoNewPrivs:[[:space:]]*1$' /proc/self/status
            if test -e /var/run/docker.sock; then echo "the engine can be reached"; exit 1; fi
            if env | grep -i -e token -e password; then echo "a secret is in the environment"; exit 1; fi
        "#;
        let mut task = tasks::shell("confined", script);
        task.retry.max_attempts = 1;
        let id = system.enqueue(&task).await;
        system.succeeded(id, Duration::from_secs(30)).await;
    })
    .await;
}
