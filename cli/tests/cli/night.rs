//! What an operator meets when something is wrong: slips on the command line, interrupts, tasks that do not start.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Child;

use serde_json::{Value, json};

use crate::support::{Fake, Orca, Ran, created, ok, page_of_a_proxy, problem, silence, stream_of};
use crate::{ID, page, summary, task};

const OTHER: &str = "0192f0c4-0000-7000-8000-000000000002";

#[expect(clippy::unwrap_used, reason = "a test ends where its support fails")]
fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn a_flag_that_says_two_things_is_refused_and_nothing_is_sent() {
    let fake = Fake::start(vec![("POST", vec![ok(&task("ready", json!({})))])]);
    let orca = Orca::with(&fake);
    for (flags, told) in [
        (&["--require", "gpu=a", "--require", "gpu=b"][..], "--require gpu is given twice"),
        (&["--env", "A=1", "--env", "A=2"], "--env A is given twice"),
        (&["--label", "a=1", "-l", "a=1"], "--label a is given twice"),
        (&["--prefer", "z=1", "--prefer", "z=2"], "--prefer z is given twice"),
        (&["--annotation", "t=1", "--annotation", "t=2"], "--annotation t is given twice"),
        (&["--retry-exit-code", "1", "--no-retry-exit-code", "1"], "exit code 1"),
        (&["--env", "1 A=x"], "is not a name"),
        (&["--require", "gpu="], "has no value"),
    ] {
        let ran = orca.run(&[&["enqueue"][..], flags, &["debian"]].concat());
        assert!(ran.code == Some(2) && ran.err.contains(told), "{flags:?}: {ran:?}");
    }
    let ran = orca.run(&["cancel", "--label", "a=1", "--label", "a=2", "--yes"]);
    assert!(ran.code == Some(2) && ran.err.contains("given twice"), "{ran:?}");
    assert!(fake.seen().is_empty(), "{:?}", fake.seen());
}

#[test]
fn a_value_that_cannot_be_is_told_by_its_own_rule_and_never_with_a_hint_to_double_dashes() {
    let orca = Orca::new();
    for (line, told) in [
        (&["enqueue", "--delay", "-5m", "debian"][..], "a duration cannot be negative"),
        (&["enqueue", "--timeout", "-5", "debian"], "a duration cannot be negative"),
        (&["enqueue", "--memory", "-1GiB", "debian"], "not an amount"),
        (&["enqueue", "--approval", "--approval-timeout", "-1h", "debian"], "a duration cannot be negative"),
        (&["enqueue", "--deadline", "-2h", "debian"], "a duration cannot be negative"),
        (&["wait", "--timeout", "-3s", ID], "a duration cannot be negative"),
        (&["schedule", "set", "x", "--cron", "@daily", "--jitter", "-1s", "debian"], "cannot be negative"),
        (&["queue", "set", "q", "--ageing", "-1s"], "a duration cannot be negative"),
        (&["queue", "set", "q", "--max-running", "-1"], "must not be negative"),
        (&["logs", "-n", "-1", ID], "must not be negative"),
        (&["ls", "--limit", "-1"], "must not be negative"),
        (&["cancel", "--before", "-2d"], "a duration cannot be negative"),
        (
            &["token", "issue", "--role", "worker", "--name", "w", "--key", "k", "--ttl", "-1d"],
            "cannot be negative",
        ),
        (&["enqueue", "--delay", "1mo", "debian"], "months and years"),
        (&["enqueue", "--timeout", "10", "debian"], "needs a unit: 10s or 10m?"),
        (&["enqueue", "--delay", "99999999999999d", "debian"], "at most 366d"),
        (&["enqueue", "--priority", "high", "debian"], "not a whole number"),
        (&["enqueue", "--run-at", "9999-12-31T23:59:59Z", "debian"], "too far ahead"),
        (&["enqueue", "--label", "a", "debian"], "KEY=VALUE"),
        (&["ls", "--label", "a"], "KEY=VALUE"),
        (&["signal", ID, "go", "{bad"], "keys and text need double quotes"),
    ] {
        let ran = orca.run(line);
        assert!(ran.code == Some(2) && ran.err.contains(told), "{line:?}: {ran:?}");
        assert!(!ran.err.contains("-- -"), "{line:?}: {ran:?}");
    }
}

#[test]
fn an_empty_token_is_no_wish_for_the_profiles() {
    let orca = Orca::new();
    let ran = orca.run(&["--token", "", "ls"]);
    assert!(ran.code == Some(2) && ran.err.contains("--token is empty"), "{ran:?}");
    let ran = orca.run(&["login", "--url", "http://127.0.0.1:1", "--token", ""]);
    assert!(ran.code == Some(2) && ran.err.contains("--token is empty"), "{ran:?}");
}

#[test]
fn whoever_answers_in_the_coordinators_place_is_told_apart_from_it() {
    for status in [404, 403, 502] {
        let fake = Fake::start(vec![("GET", vec![page_of_a_proxy(status)])]);
        let ran = Orca::with(&fake).run(&["get", ID]);
        assert!(ran.code == Some(5) && ran.err.contains("does not look like a coordinator"), "{ran:?}");
    }
}

#[test]
fn a_server_without_tls_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            // Until the client goes: what it sent must be read, or its reading is cut short.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    let ran = Orca::new().run(&["--url", &format!("https://{address}"), "--token", "t", "ls"]);
    assert!(ran.code == Some(5) && ran.err.contains("there is no TLS"), "{ran:?}");
    assert!(ran.err.contains(&format!("try http://{address}\n")), "{ran:?}");
}

#[test]
fn a_wait_for_a_coordinator_that_is_away_ends_as_such() {
    let line = ["--url", "http://127.0.0.1:1", "--token", "t", "wait", "--timeout", "300ms", ID];
    let ran = Orca::new().run(&line);
    assert!(ran.code == Some(5) && !ran.err.contains("the tasks go on"), "{ran:?}");
}

#[test]
fn a_program_gets_the_problem_as_it_came() {
    let rest = json!({"detail": "it has ended", "request_id": "r-1"});
    let fake = Fake::start(vec![("POST /v1/tasks/", vec![problem(409, "conflict", "Conflict", rest)])]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["cancel", ID, "-o", "json"]);
    let told: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(
        (ran.code, &told["type"], &told["request_id"]),
        (Some(6), &json!("urn:orca:problem:conflict"), &json!("r-1")),
        "{ran:?}"
    );
    let ran = orca.run(&["enqueue", "-f", "absent.yaml", "-o", "json"]);
    let told: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &told["type"]), (Some(2), &json!("about:blank")), "{ran:?}");
}

#[test]
fn a_wait_for_a_task_that_does_not_start_says_why() {
    let why = json!({"task": ID, "state": "ready", "summary": "no live node has gpu=a100", "conditions": []});
    for line in [&["wait", ID][..], &["enqueue", "--follow", "debian"]] {
        let fake = Fake::start(vec![
            ("GET /v1/events", vec![stream_of(&[])]),
            ("GET /v1/tasks/0192f0c4-0000-7000-8000-000000000001/why", vec![ok(&why)]),
            ("GET /v1/tasks/0192f0c4-0000-7000-8000-000000000001/logs", vec![stream_of(&[])]),
            ("GET /v1/tasks/", vec![ok(&task("ready", json!({})))]),
            ("POST /v1/tasks", vec![ok(&task("ready", json!({})))]),
        ]);
        let mut child = Orca::with(&fake).command(line).spawn().unwrap();
        let told = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let told: Vec<String> = told.take_while(|line| !line.contains("no live node has gpu=a100")).collect();
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{told:?}");
    }
}

#[test]
fn an_interrupted_cancel_of_many_says_what_is_left() {
    let fake = Fake::start(vec![
        ("POST /v1/cancellations", vec![silence()]),
        ("GET /v1/tasks?", vec![ok(&page(&[summary("ready"), summary("running")]))]),
    ]);
    let child = Orca::with(&fake).command(["cancel", "--queue", "default", "--yes"]).spawn().unwrap();
    fake.wait_for("POST /v1/cancellations");
    interrupt(&child);
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(ran.err.contains("2 tasks not told to stop so far; the same command goes on"), "{ran:?}");
}

#[test]
fn an_interrupted_file_can_be_sent_again_under_the_key_that_was_sent() {
    let fake = Fake::start(vec![("POST /v1/batches", vec![silence()])]);
    let orca = Orca::with(&fake);
    std::fs::write(orca.home.path().join("tasks.yaml"), "- container: {image: x}\n").unwrap();
    let child = orca.command(["enqueue", "-f", "tasks.yaml"]).spawn().unwrap();
    fake.wait_for("POST /v1/batches");
    interrupt(&child);
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{ran:?}");
    let sent = fake.seen()[0].headers.clone();
    let key = sent.lines().find_map(|line| line.strip_prefix("idempotency-key: ")).unwrap();
    assert!(ran.err.contains(&format!("--idempotency-key {key} ")), "{ran:?}");
    assert!(ran.err.contains("may have been enqueued"), "{ran:?}");
}

#[test]
fn an_order_for_many_tells_how_many_before_it_is_given() {
    let mut labelled = summary("ready");
    labelled["labels"] = json!({"a": "1", "b": "2"});
    let mut told_to_stop = labelled.clone();
    told_to_stop["cancel_requested"] = json!(true);
    let first = json!({"items": [labelled, summary("ready"), told_to_stop], "next": "c2"});
    let fake = Fake::start(vec![
        ("GET /v1/tasks?", vec![ok(&first), ok(&page(&[labelled]))]),
        ("GET /v1/dead-letters", vec![ok(&page(&[summary("failed"), summary("expired")]))]),
    ]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["cancel", "--queue", "default", "-l", "a=1", "-l", "b=2", "--dry-run"]);
    assert_eq!(ran.out, "2 tasks would be cancelled or told to stop\n", "{ran:?}");
    assert!(fake.seen()[0].line.contains("state=blocked"), "{:?}", fake.seen());
    let ran = orca.run(&["dead", "purge", "--state", "expired", "--dry-run"]);
    assert_eq!(ran.out, "1 task would be taken off the list for good\n", "{ran:?}");
    assert!(fake.seen().iter().all(|seen| seen.line.starts_with("GET ")), "nothing was done");
}

#[test]
fn a_backfill_of_very_many_runs_is_asked_about() {
    let schedule = json!({
        "name": "often", "spec": {"cron": "* * * * *", "task": {"container": {"image": "debian"}}},
        "next": ["2099-01-01T00:00:00Z", "2099-01-01T00:01:00Z"],
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"
    });
    let fake = Fake::start(vec![
        ("GET /v1/schedules/often", vec![ok(&schedule)]),
        ("POST /v1/schedules/often/backfills", vec![ok(&json!({"ids": [ID]}))]),
    ]);
    let orca = Orca::with(&fake);
    let day =
        ["schedule", "backfill", "often", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"];
    let ran = orca.run(&day);
    assert!(ran.code == Some(2) && ran.err.contains("1,440") && ran.err.contains("--yes"), "{ran:?}");
    assert_eq!(fake.seen().len(), 1, "nothing was enqueued");
    assert_eq!(orca.run(&[&day[..], &["--yes"]].concat()).code, Some(0));
    let hour =
        ["schedule", "backfill", "often", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-01T01:00:00Z"];
    assert_eq!(orca.run(&hour).code, Some(0), "a few are not asked about");
}

#[test]
fn a_task_that_is_no_dead_letter_says_why_it_is_none() {
    let fake = Fake::start(vec![
        ("POST /v1/dead-letters/retries", vec![ok(&json!({"ids": []}))]),
        ("POST /v1/dead-letters/purges", vec![ok(&json!({"count": 1}))]),
        ("GET /v1/tasks/0192f0c4-0000-7000-8000-000000000002", vec![ok(&task("failed", json!({})))]),
        ("GET /v1/tasks/", vec![ok(&task("succeeded", json!({})))]),
    ]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["dead", "retry", ID]);
    assert!(ran.code == Some(6) && ran.err.contains("it succeeded"), "{ran:?}");
    let ran = orca.run(&["dead", "retry", OTHER]);
    assert!(ran.code == Some(6) && ran.err.contains("tried again or purged already"), "{ran:?}");
    let ran = orca.run(&["dead", "purge", ID, OTHER]);
    assert!(ran.code == Some(6) && ran.err.contains(&format!("{ID}: it succeeded")), "{ran:?}");
    assert!(ran.out.contains("1 purged") && !ran.err.contains(OTHER), "{ran:?}");
}

#[test]
fn a_signal_that_the_task_does_not_wait_for_is_told_with_those_it_waits_for() {
    let mut waiting = task("blocked", json!({}));
    waiting["spec"]["wait_for"] = json!([{"signal": "go"}, {"signal": "pay"}]);
    waiting["summary"]["waits_for"] = json!(["go", "pay"]);
    let mut halfway = waiting.clone();
    halfway["summary"]["waits_for"] = json!(["pay"]);
    let fake = Fake::start(vec![
        ("POST /v1/tasks/0192f0c4-0000-7000-8000-000000000001/signals", vec![ok(&json!({}))]),
        ("GET /v1/tasks/", vec![ok(&waiting), ok(&halfway)]),
    ]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["signal", ID, "goo"]);
    assert!(ran.code == Some(0) && ran.err.contains("it waits for go, pay, not for goo"), "{ran:?}");
    let ran = orca.run(&["signal", ID, "go"]);
    assert!(ran.code == Some(0) && ran.err.contains("it still waits for pay"), "{ran:?}");
}

#[test]
fn a_log_that_is_none_says_so() {
    let mut fresh = task("ready", json!({}));
    fresh["summary"]["attempt"] = json!(0);
    let fake = Fake::start(vec![
        ("GET /v1/tasks/0192f0c4-0000-7000-8000-000000000001/logs", vec![ok(&page(&[]))]),
        ("GET /v1/tasks/", vec![ok(&fresh), ok(&task("failed", json!({})))]),
    ]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["logs", ID]);
    assert!(ran.code == Some(0) && ran.err.contains("never ran"), "{ran:?}");
    let ran = orca.run(&["logs", "--attempt", "7", ID]);
    assert!(ran.code == Some(3) && ran.err.contains("no attempt 7"), "{ran:?}");
}

#[test]
fn a_task_is_refused_in_its_own_words_and_one_that_ended_at_once_is_told() {
    let rest = json!({"errors": [{"pointer": "/depends_on/0", "detail": "no such task"}]});
    let mut skipped = task("skipped", json!({}));
    skipped["summary"]["reason"] = json!("a failed");
    let fake = Fake::start(vec![(
        "POST /v1/tasks",
        vec![problem(422, "plan-invalid", "The plan is not valid", rest), created(&skipped)],
    )]);
    let orca = Orca::with(&fake);
    let line = ["enqueue", "--depends-on", OTHER, "debian"];
    let ran = orca.run(&line);
    assert!(ran.code == Some(2) && ran.err.contains("the task is not valid"), "{ran:?}");
    assert!(!ran.err.contains("plan"), "{ran:?}");
    let ran = orca.run(&line);
    assert!(ran.code == Some(0) && ran.err.contains("it is skipped already: a failed"), "{ran:?}");
}

#[test]
fn why_of_a_task_that_ended_is_one_sentence() {
    let why = json!({
        "task": ID, "state": "succeeded", "summary": "it succeeded 3m ago",
        "conditions": [{"kind": "ended", "blocks": true, "message": "it succeeded 3m ago"}]
    });
    let fake = Fake::start(vec![("GET /v1/tasks/", vec![ok(&why)])]);
    assert_eq!(Orca::with(&fake).run(&["why", ID]).out, "succeeded: it succeeded 3m ago\n");
}

#[test]
fn queues_and_nodes_are_found_under_the_names_that_people_try() {
    let queue = json!({"name": "mails", "settings": {}, "ready": 1, "running": 0, "groups": []});
    let node = json!({
        "id": OTHER, "name": "w1", "role": "work", "state": "draining", "slots": 4, "running": 1, "version": "0.1.0",
        "runtime": "docker", "labels": {"gpu": "a100", "zone": "b"}, "registered_at": "2026-01-01T00:00:00Z",
        "last_seen_at": "2026-01-01T00:00:00Z"
    });
    let fake = Fake::start(vec![
        ("GET /v1/queues ", vec![ok(&page(&[queue]))]),
        ("GET /v1/nodes", vec![ok(&page(&[node]))]),
    ]);
    let orca = Orca::with(&fake);
    assert!(orca.run(&["queue", "ls"]).out.contains("mails"));
    let ran = orca.run(&["queues", "ls"]);
    assert!(ran.code == Some(3) && ran.err.contains("`orca queues` lists them"), "{ran:?}");
    let nodes = orca.run(&["nodes"]).out;
    assert!(
        nodes.contains("LABELS") && nodes.contains("gpu=a100, zone=b") && nodes.contains("draining"),
        "{nodes}"
    );
}
