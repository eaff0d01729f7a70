//! What an operator does with the queue itself: ask why, set limits, schedule, decide, cancel and retry many.

use serde_json::{Value, json};

use crate::support::{Fake, Orca, ok, problem};
use crate::{ID, page, summary, task};

#[expect(clippy::unwrap_used, reason = "a test ends where its support fails")]
fn body(fake: &Fake, index: usize) -> Value {
    serde_json::from_slice(&fake.seen()[index].body).unwrap()
}

#[test]
fn why_is_one_sentence_and_then_each_condition() {
    let why = json!({
        "task": ID, "state": "ready", "summary": "it waits for group g, which runs 4 of 4",
        "conditions": [
            {"kind": "group_limit", "blocks": true, "message": "group g runs 4 of 4\u{1b}[2J", "facts": {"running": 4}},
            {"kind": "node_labels", "blocks": false, "message": "2 live nodes have gpu=a100"}
        ],
        "ahead": 1203, "eligible_nodes": ["a", "b"]
    });
    let fake = Fake::start(vec![("GET /v1/tasks/", vec![ok(&why)])]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["why", ID]);
    assert_eq!(
        ran.out,
        "ready: it waits for group g, which runs 4 of 4\n\
         \n  blocks  group limit  group g runs 4 of 4\\x1b[2J\
         \n  ok      node labels  2 live nodes have gpu=a100\n\
         \n1,203 tasks ahead of it\
         \nnodes that could take it: a, b\n",
        "{ran:?}"
    );
    assert!(fake.seen()[0].line.starts_with(&format!("GET /v1/tasks/{ID}/why")), "{:?}", fake.seen());
    let told: Value = serde_json::from_str(&orca.run(&["why", ID, "-o", "json"]).out).unwrap();
    assert_eq!(told["conditions"][0]["facts"]["running"], 4);
}

fn queue(settings: Value) -> Value {
    json!({
        "name": "mails", "settings": settings, "ready": 1200, "running": 3,
        "paused": {"at": "2026-01-01T00:00:00Z", "by": "ann", "reason": "outage"},
        "groups": [{"name": "g", "settings": {"weight": 3, "max_running": 4}, "ready": 7, "running": 4}]
    })
}

#[test]
fn a_queue_is_shown_with_its_groups_and_who_paused_it() {
    let fake = Fake::start(vec![
        (
            "GET /v1/queues/",
            vec![ok(&queue(json!({"max_running": 10, "rate": {"tasks": 100, "per": "1m"}})))],
        ),
        ("GET /v1/queues", vec![ok(&page(&[queue(json!({}))]))]),
    ]);
    let orca = Orca::with(&fake);
    let one = orca.run(&["queues", "mails"]).out;
    for words in ["1,200", "3 of 10", "100/1m", "by ann: outage", "4 of 4"] {
        assert!(one.contains(words), "{words}: {one}");
    }
    let all = orca.run(&["queues"]);
    assert_eq!((all.code, all.out.lines().count()), (Some(0), 2), "{all:?}");
}

#[test]
fn setting_one_limit_keeps_the_others() {
    let fake = Fake::start(vec![
        ("GET /v1/queues/mails", vec![ok(&queue(json!({"max_running": 10, "ageing": "5s"})))]),
        ("PUT /v1/queues/mails/groups/g", vec![ok(&queue(json!({}))["groups"][0])]),
        ("PUT /v1/queues/mails", vec![ok(&queue(json!({})))]),
    ]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["queue", "set", "mails", "--rate", "10/s", "--max-running", "none"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(body(&fake, 1), json!({"rate": {"tasks": 10, "per": "1s"}, "ageing": "5s"}));
    let ran = orca.run(&["queue", "set", "mails", "--group", "g", "--weight", "5"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(body(&fake, 3), json!({"weight": 5, "max_running": 4}));
}

#[test]
fn a_queue_that_nothing_named_yet_can_be_set_and_a_bad_limit_is_not_sent() {
    let fake = Fake::start(vec![("PUT /v1/queues/new", vec![ok(&queue(json!({})))])]);
    let orca = Orca::with(&fake);
    assert_eq!(orca.run(&["queue", "set", "new", "--max-running", "2"]).code, Some(0));
    assert_eq!(body(&fake, 1), json!({"max_running": 2}));
    let ran = orca.run(&["queue", "set", "new", "--max-running", "0"]);
    assert!(ran.code == Some(2) && ran.err.contains("/max_running"), "{ran:?}");
    assert_eq!(orca.run(&["queue", "set", "new"]).code, Some(2));
    assert_eq!(orca.run(&["queue", "pause", "../nodes"]).code, Some(2), "a name is not a path");
    assert!(fake.seen().iter().all(|seen| !seen.line.starts_with("POST")), "{:?}", fake.seen());
}

#[test]
fn pausing_says_why_and_resuming_undoes_it() {
    let fake = Fake::start(vec![
        ("POST /v1/queues/mails/groups/g/pause", vec![ok(&queue(json!({}))["groups"][0])]),
        ("POST /v1/queues/mails/pause", vec![ok(&queue(json!({})))]),
        ("POST /v1/queues/mails/resume", vec![ok(&queue(json!({})))]),
    ]);
    let orca = Orca::with(&fake);
    assert_eq!(orca.run(&["queue", "pause", "mails", "--reason", "outage"]).code, Some(0));
    assert_eq!(body(&fake, 0), json!({"reason": "outage"}));
    assert_eq!(orca.run(&["queue", "pause", "mails", "--group", "g"]).code, Some(0));
    assert_eq!(orca.run(&["queue", "resume", "mails"]).code, Some(0));
}

fn schedule() -> Value {
    json!({
        "name": "nightly", "spec": {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "task": {"container": {"image": "debian"}}},
        "next": ["2099-01-01T02:00:00Z", "2099-01-02T02:00:00Z"], "last": {"at": "2026-01-01T02:00:00Z", "task": ID},
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"
    })
}

#[test]
fn a_schedule_is_made_from_flags_or_from_a_file() {
    let fake = Fake::start(vec![("PUT /v1/schedules/nightly", vec![ok(&schedule())])]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&[
        "schedule",
        "set",
        "nightly",
        "--cron",
        "0 3 * * *",
        "--timezone",
        "Europe/Berlin",
        "--overlap",
        "replace",
        "--jitter",
        "5m",
        "-q",
        "reports",
        "--group",
        "g",
        "debian",
        "--",
        "report",
        "--all",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("2099-01-01T02:00:00Z") && ran.out.contains("Europe/Berlin"), "{ran:?}");
    let task = json!({"queue": "reports", "group": "g", "container": {"image": "debian", "command": ["report", "--all"]}});
    let spec = json!({
        "cron": "0 3 * * *", "timezone": "Europe/Berlin", "jitter": "5m", "overlap": "replace", "task": task
    });
    assert_eq!(body(&fake, 0), spec);
    std::fs::write(
        orca.home.path().join("nightly.yaml"),
        "cron: '@daily'\ntask:\n  container: {image: debian}\n",
    )
    .unwrap();
    let ran = orca.run(&["schedule", "set", "nightly", "-f", "nightly.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(body(&fake, 1), json!({"cron": "@daily", "task": {"container": {"image": "debian"}}}));
}

#[test]
fn a_schedule_that_cannot_be_is_not_sent() {
    let orca = Orca::new();
    for line in [
        &["schedule", "set", "x", "--cron", "0 3 * * *"][..],
        &["schedule", "set", "x", "debian"],
        &["schedule", "set", "x", "--cron", "", "debian"],
        &["schedule", "set", "x", "--cron", "@daily", "--delay", "5m", "debian"],
        &["schedule", "set", "x", "--cron", "@daily", "-f", "x.yaml"],
        &[
            "schedule",
            "set",
            "x",
            "--cron",
            "@daily",
            "--starting",
            "2030-01-02T00:00:00Z",
            "--ending",
            "2030-01-01T00:00:00Z",
            "debian",
        ],
        &["schedule", "backfill", "x", "--from", "1d", "--to", "2d"],
        &["schedule", "backfill", "x", "--from", "yesterday"],
    ] {
        let ran = orca.run(line);
        assert!(ran.code == Some(2) && ran.err.starts_with("error: "), "{line:?}: {ran:?}");
    }
}

#[test]
fn schedules_are_listed_run_and_made_up_for() {
    let fake = Fake::start(vec![
        ("POST /v1/schedules/nightly/runs", vec![ok(&json!({"ids": [ID]}))]),
        ("POST /v1/schedules/nightly/backfills", vec![ok(&json!({"ids": [ID, ID]}))]),
        ("POST /v1/schedules/nightly/pause", vec![ok(&schedule())]),
        ("DELETE /v1/schedules/nightly", vec![ok(&json!({}))]),
        ("GET /v1/schedules ", vec![ok(&page(&[schedule()]))]),
    ]);
    let orca = Orca::with(&fake);
    assert!(orca.run(&["schedule", "ls"]).out.contains("0 3 * * *"));
    assert_eq!(orca.run(&["schedule", "run", "nightly"]).out, format!("{ID}\n"));
    let window = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-03T00:00:00Z", "--yes"];
    let ran = orca.run(&[&["schedule", "backfill", "nightly"][..], &window].concat());
    assert_eq!(ran.out, format!("{ID}\n"), "{ran:?}");
    assert!(ran.err.contains("1 of 2 runs made no task of their own"), "{ran:?}");
    assert_eq!(body(&fake, 2), json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z"}));
    assert_eq!(orca.run(&["schedule", "pause", "nightly"]).code, Some(0));
    assert_eq!(orca.run(&["schedule", "rm", "nightly"]).code, Some(0));
    let ran = orca.run(&["schedule", "get", "other"]);
    assert!(ran.code == Some(3) && ran.err.contains("there is no schedule other"), "{ran:?}");
}

#[test]
fn many_are_cancelled_only_when_it_is_meant() {
    let fake = Fake::start(vec![("POST /v1/cancellations", vec![ok(&json!({"count": 12}))])]);
    let orca = Orca::with(&fake);
    let filters = ["cancel", "--queue", "mails", "--label", "run=17", "--reason", "wrong"];
    let ran = orca.run(&filters);
    assert!(ran.code == Some(2) && ran.err.contains("--yes") && ran.err.contains("run=17"), "{ran:?}");
    assert!(fake.seen().is_empty(), "nothing was sent");
    let ran = orca.run(&[&filters[..], &["--yes"]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "12 cancelled or told to stop\n"), "{ran:?}");
    assert_eq!(
        body(&fake, 0),
        json!({"selector": {"queue": "mails", "labels": {"run": "17"}}, "reason": "wrong"})
    );
    assert_eq!(orca.run(&["cancel", "--all", "--yes"]).code, Some(0));
    assert_eq!(body(&fake, 1), json!({"selector": {"all": true}}));
    assert_eq!(orca.run(&["cancel", "--yes"]).code, Some(2), "nothing in particular is not everything");
}

#[test]
fn dead_letters_are_listed_tried_again_and_purged() {
    let fake = Fake::start(vec![
        ("GET /v1/dead-letters?queue=mails", vec![ok(&page(&[summary("failed")]))]),
        ("POST /v1/dead-letters/retries", vec![ok(&json!({"ids": [ID]}))]),
        ("POST /v1/dead-letters/purges", vec![ok(&json!({"count": 1}))]),
    ]);
    let orca = Orca::with(&fake);
    assert!(orca.run(&["dead", "ls", "-q", "mails"]).out.contains("failed"));
    let ran = orca.run(&["dead", "retry", ID]);
    assert_eq!((ran.code, ran.out), (Some(0), format!("{ID}\n")), "ids are not asked about");
    assert_eq!(body(&fake, 1), json!({"ids": [ID]}));
    assert_eq!(orca.run(&["dead", "purge", "--name", "import"]).code, Some(2), "nobody is there to ask");
    let ran = orca.run(&["dead", "purge", "--name", "import", "--yes"]);
    assert_eq!(ran.out, "1 purged\n", "{ran:?}");
}

#[test]
fn a_task_is_approved_refused_and_signalled() {
    let fake = Fake::start(vec![
        (
            "POST /v1/tasks/0192f0c4-0000-7000-8000-000000000001/approval",
            vec![
                ok(&summary("ready")),
                ok(&summary("cancelled")),
                problem(
                    409,
                    "not-awaited",
                    "The task does not wait for this",
                    json!({"detail": "it was approved by ann"}),
                ),
            ],
        ),
        ("POST /v1/tasks/0192f0c4-0000-7000-8000-000000000001/signals", vec![ok(&json!({}))]),
    ]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["approve", ID, "--comment", "go on"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(0), format!("{ID} count: approved, now ready\n").as_str()),
        "{ran:?}"
    );
    assert_eq!(body(&fake, 0), json!({"approve": true, "comment": "go on"}));
    assert_eq!(orca.run(&["refuse", ID]).code, Some(0));
    assert_eq!(body(&fake, 1), json!({"approve": false}));
    let ran = orca.run(&["approve", ID]);
    assert!(ran.code == Some(6) && ran.err.contains("approved by ann"), "{ran:?}");
    assert_eq!(orca.run(&["signal", ID, "paid", "{\"order\": 17}"]).code, Some(0));
    assert_eq!(body(&fake, 3), json!({"name": "paid", "payload": {"order": 17}}));
    for wrong in [&["signal", ID, "a b"][..], &["signal", ID, "go", "hello"]] {
        assert_eq!(orca.run(wrong).code, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_quota_is_shown_and_set_in_part() {
    let namespace =
        json!({"name": "team-a", "quota": {"max_open": 5, "max_queues": 2}, "open": 3, "running": 1});
    let fake = Fake::start(vec![
        ("GET /v1/namespaces/team-a", vec![ok(&namespace)]),
        ("PUT /v1/namespaces/team-a", vec![ok(&namespace)]),
    ]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["namespace", "get", "team-a"]);
    assert!(ran.out.contains("3 of 5") && ran.out.contains("1 (no limit)"), "{ran:?}");
    assert_eq!(
        orca.run(&["namespace", "set", "team-a", "--max-open", "none", "--max-running", "9"]).code,
        Some(0)
    );
    assert_eq!(body(&fake, 2), json!({"max_running": 9, "max_queues": 2}));
}

#[test]
fn the_new_wishes_of_a_task_are_sent_and_shown() {
    let spec = json!({
        "group": "g", "container": {"image": "debian"}, "requires": {"gpu": "a100"}, "deadline": "2099-01-01T00:00:00Z",
        "retry": {"exit_codes": [75], "backoff": {"initial": "5s", "factor": 1.0, "max": "5s", "jitter": 0.0}},
        "unique": {"key": "k"}, "approval": {"prompt": "Deploy?", "timeout": "1h", "on_timeout": "proceed"},
        "wait_for": [{"signal": "go"}], "annotations": {"ticket": "17"}
    });
    let mut answer = task("blocked", json!({"spec": spec}));
    answer["summary"]["group"] = json!("g");
    answer["summary"]["schedule"] = json!("nightly");
    answer["summary"]["waits_for"] = json!(["approval", "go"]);
    let fake =
        Fake::start(vec![("POST /v1/tasks", vec![ok(&answer)]), ("GET /v1/tasks/", vec![ok(&answer)])]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&[
        "enqueue",
        "--group",
        "g",
        "--require",
        "gpu=a100",
        "--deadline",
        "2099-01-01T00:00:00Z",
        "--retry-exit-code",
        "75",
        "--backoff",
        "fixed:5s",
        "--unique",
        "k",
        "--approval=Deploy?",
        "--approval-timeout",
        "1h:proceed",
        "--wait-for",
        "go",
        "--annotation",
        "ticket=17",
        "debian",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(body(&fake, 0), spec);
    let shown = orca.run(&["get", ID]).out;
    for words in [
        "group g",
        "approval, go",
        "nightly",
        "gpu=a100",
        "after 5s each time; only exit codes 75",
        "Deploy? (goes on after 1h)",
        "ticket=17",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let ran = orca.run(&["enqueue", "-f", "x.yaml", "--group", "g"]);
    assert!(ran.code == Some(2) && ran.err.contains("--file takes everything"), "{ran:?}");
}

#[test]
fn the_help_of_a_verb_has_its_examples() {
    let orca = Orca::new();
    for line in [
        &["enqueue"][..],
        &["why"],
        &["cancel"],
        &["signal"],
        &["dead", "retry"],
        &["queue", "set"],
        &["schedule", "set"],
        &["schedule", "backfill"],
        &["namespace", "set"],
    ] {
        let ran = orca.run(&[line, &["--help"]].concat());
        let example = format!("  orca {} ", line.join(" "));
        assert!(ran.code == Some(0) && ran.out.contains(&example), "{line:?}: {}", ran.out);
    }
}
