//! The built command against a coordinator of canned answers: what is sent, what is printed, how it ends.

#[path = "cli/night.rs"]
mod night;
#[path = "cli/queue.rs"]
mod queue;
#[path = "cli/secret.rs"]
mod secret;
mod support;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Fake, Orca, Ran, ok, problem, stream_of};

const ID: &str = "0192f0c4-0000-7000-8000-000000000001";

fn summary(state: &str) -> Value {
    json!({
        "id": ID, "name": "count", "role": "work", "queue": "default", "priority": 0, "state": state,
        "cancel_requested": false, "attempt": 1, "max_attempts": 3, "created_at": "2026-01-01T00:00:00Z"
    })
}

fn task(state: &str, rest: Value) -> Value {
    let mut task = json!({
        "summary": summary(state), "spec": {"container": {"image": "debian"}}, "attempts": []
    });
    if let (Some(task), Value::Object(rest)) = (task.as_object_mut(), rest) {
        task.extend(rest);
    }
    task
}

fn page(items: &[Value]) -> Value {
    json!({"items": items})
}

#[test]
fn a_task_from_flags_is_sent_with_token_and_key_and_its_id_is_printed() {
    let fake = Fake::start(vec![("POST /v1/tasks", vec![ok(&task("ready", json!({})))])]);
    let ran = Orca::with(&fake).run(&[
        "enqueue",
        "--name",
        "count",
        "--input",
        "{\"n\":1}",
        "--idempotency-key",
        "k1",
        "debian",
        "--",
        "wc",
        "-l",
    ]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), format!("{ID}\n").as_str()), "{ran:?}");
    let seen = fake.seen();
    let body: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(body["container"]["command"], json!(["wc", "-l"]));
    assert_eq!((&body["name"], &body["input"]), (&json!("count"), &json!({"n": 1})));
    assert!(seen[0].headers.contains("authorization: bearer t0ken"), "{}", seen[0].headers);
    assert!(seen[0].headers.contains("idempotency-key: k1"), "{}", seen[0].headers);
}

#[test]
fn json_output_is_one_document_of_the_wire_type() {
    let fake = Fake::start(vec![
        ("GET /v1/tasks/", vec![ok(&task("succeeded", json!({"result": {"lines": 3}})))]),
        ("GET /v1/tasks?", vec![ok(&page(&[summary("running")]))]),
    ]);
    let orca = Orca::with(&fake);
    let got: Value = serde_json::from_str(&orca.run(&["get", ID, "-o", "json"]).out).unwrap();
    assert_eq!((&got["result"], &got["summary"]["id"]), (&json!({"lines": 3}), &json!(ID)));
    let listed: Value = serde_json::from_str(&orca.run(&["--output", "json", "ls"]).out).unwrap();
    assert_eq!(listed["items"][0]["state"], "running");
}

#[test]
fn every_page_is_fetched_when_all_are_wanted() {
    let first = json!({"items": [summary("ready")], "next": "c2"});
    let fake = Fake::start(vec![("GET /v1/tasks?", vec![ok(&first), ok(&page(&[summary("failed")]))])]);
    let ran = Orca::with(&fake).run(&["ls", "--all"]);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 3), "{ran:?}");
    assert!(fake.seen()[1].line.contains("cursor=c2"), "{:?}", fake.seen());
}

#[test]
fn problems_become_exit_codes_and_lines_without_debris() {
    for (status, slug, rest, code, words) in [
        (401, "unauthenticated", json!({}), 4, "orca login"),
        (403, "forbidden", json!({"detail": "operators only"}), 4, "operators only"),
        (404, "not-found", json!({}), 3, ID),
        (409, "conflict", json!({"detail": "it has ended"}), 6, "it has ended"),
        (
            422,
            "validation",
            json!({"errors": [{"pointer": "/reason", "detail": "is long"}]}),
            2,
            "/reason: is long",
        ),
        (500, "internal", json!({"request_id": "r-17"}), 7, "request r-17"),
        (409, "conflict", json!({"request_id": "r-18"}), 6, "request r-18"),
        (503, "unavailable", json!({}), 5, "try again"),
    ] {
        let title = if slug == "not-found" { "Not found" } else { "T" };
        let fake = Fake::start(vec![("POST /v1/tasks/", vec![problem(status, slug, title, rest)])]);
        let ran = Orca::with(&fake).run(&["cancel", ID]);
        assert_eq!(ran.code, Some(code), "{slug}: {ran:?}");
        assert!(ran.err.starts_with("error: ") && ran.err.contains(words), "{slug}: {ran:?}");
        assert!(!ran.err.contains("Problem") && !ran.err.contains("panicked"), "{slug}: {ran:?}");
    }
}

#[test]
fn an_absent_coordinator_and_one_that_is_none_are_told_apart() {
    let ran = Orca::new().run(&["--url", "http://127.0.0.1:1", "--token", "t", "ls"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    let fake = Fake::start(vec![("GET /v1/tasks?", vec![ok(&json!("hello"))])]);
    let ran = Orca::with(&fake).run(&["ls"]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    assert!(ran.err.contains("is this address a coordinator"), "{ran:?}");
}

#[test]
fn names_from_the_server_cannot_drive_the_terminal() {
    let mut evil = summary("failed");
    evil["name"] = json!("a\u{1b}[31mb\u{9b}2J\u{202e}");
    evil["reason"] = json!("line\r\nbreak\u{7}");
    let fake = Fake::start(vec![("GET /v1/tasks?", vec![ok(&page(&[evil]))])]);
    let orca = Orca::with(&fake);
    let plain = orca.run(&["ls"]).out;
    assert!(
        plain.contains("a\\x1b[31mb\\u{9b}2J\\u{202e}") && plain.contains("line\\r\\nbreak\\x07"),
        "{plain}"
    );
    for text in [plain, orca.run(&["ls", "-o", "json"]).out] {
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
    }
}

#[test]
fn waiting_ends_with_the_tasks_own_end() {
    let ended = json!({
        "specversion": "1.0", "id": "2", "source": "/v1/tasks", "type": "orca.task.state", "subject": ID,
        "time": "2026-01-01T00:00:01Z", "data": {"name": "count", "state": "failed"}
    });
    let fake = |end: Value| {
        let ended = ended.clone();
        Fake::start(vec![
            ("GET /v1/events", vec![stream_of(&[ended])]),
            (
                "GET /v1/tasks/0192f0c4-0000-7000-8000-000000000001/logs",
                vec![ok(&page(&[json!({
                    "attempt": 1, "token": 1, "seq": 0, "stream": "stderr", "at": "2026-01-01T00:00:00Z",
                    "text": "no such file"
                })]))],
            ),
            ("GET /v1/tasks/", vec![ok(&task("running", json!({}))), ok(&end)]),
        ])
    };
    let good = fake(task("succeeded", json!({"result": 42})));
    let ran = Orca::with(&good).run(&["wait", ID]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "42\n"), "{ran:?}");
    let mut failed = task("failed", json!({}));
    failed["summary"]["reason"] = json!("exited with code 7");
    let bad = fake(failed);
    let ran = Orca::with(&bad).run(&["wait", ID]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("exited with code 7") && ran.err.contains("no such file"), "{ran:?}");
}

#[test]
fn a_failed_goal_is_told_with_the_task_that_failed_under_it_and_its_last_words() {
    const CHILD: &str = "0192f0c4-0000-7000-8000-000000000002";
    let mut goal = task("failed", json!({}));
    goal["summary"]["children"] = json!({"failed": 1, "cancelled": 2});
    let mut child = summary("failed");
    child["id"] = json!(CHILD);
    child["name"] = json!("part-7");
    child["reason"] = json!("exited with code 9");
    child["attempt"] = json!(3);
    let words = json!({
        "attempt": 3, "token": 3, "seq": 0, "stream": "stderr", "at": "2026-01-01T00:00:00Z", "text": "no such disk"
    });
    let fake = Fake::start(vec![
        ("GET /v1/events", vec![stream_of(&[])]),
        ("GET /v1/tasks/0192f0c4-0000-7000-8000-000000000002/logs?attempt=3", vec![ok(&page(&[words]))]),
        ("GET /v1/tasks/", vec![ok(&goal)]),
        ("GET /v1/tasks?", vec![ok(&page(&[child]))]),
    ]);
    let ran = Orca::with(&fake).run(&["wait", ID]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for told in ["part-7", CHILD, "exited with code 9", "no such disk"] {
        assert!(ran.err.contains(told), "{told}: {ran:?}");
    }
}

#[test]
fn one_task_that_is_not_there_does_not_keep_the_others_from_being_cancelled() {
    const OTHER: &str = "0192f0c4-0000-7000-8000-000000000002";
    let fake = Fake::start(vec![
        (
            "POST /v1/tasks/0192f0c4-0000-7000-8000-000000000002",
            vec![problem(404, "not-found", "Not found", json!({}))],
        ),
        ("POST /v1/tasks/", vec![ok(&summary("cancelled"))]),
    ]);
    let ran = Orca::with(&fake).run(&["cancel", OTHER, ID]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains(OTHER) && ran.out.contains(ID), "{ran:?}");
}

#[test]
fn a_log_is_followed_from_its_last_lines() {
    let entry = |seq: i64| {
        json!({
            "type": "log", "attempt": 1, "token": 1, "seq": seq, "stream": "stdout",
            "at": "2026-01-01T00:00:00Z", "text": format!("line {seq}")
        })
    };
    let fake = Fake::start(vec![(
        "GET /v1/tasks/0192f0c4-0000-7000-8000-000000000001/logs?tail=2&follow=true",
        vec![stream_of(&[entry(1), entry(2), entry(3), json!({"type": "end"})])],
    )]);
    let ran = Orca::with(&fake).run(&["logs", "-f", "-n", "2", ID]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "line 1\nline 2\nline 3\n"), "{ran:?}");
}

#[test]
fn a_wait_has_a_limit_if_told_and_ends_at_once_when_interrupted() {
    let routes = || {
        vec![
            ("GET /v1/events", vec![stream_of(&[])]),
            ("GET /v1/tasks/", vec![ok(&task("running", json!({})))]),
        ]
    };
    let fake = Fake::start(routes());
    let ran = Orca::with(&fake).run(&["wait", ID, "--timeout", "200ms"]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    assert!(ran.err.contains("time is up"), "{ran:?}");

    let fake = Fake::start(routes());
    let child = Orca::with(&fake).command(["wait", ID]).stderr(Stdio::piped()).spawn().unwrap();
    fake.wait_for("GET /v1/tasks/");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130));
    assert!(ran.err.contains("goes on") && ran.err.contains("orca cancel"), "{ran:?}");
}

#[test]
fn a_file_that_is_not_valid_is_told_by_place_and_nothing_is_sent() {
    let fake = Fake::start(vec![("POST", vec![ok(&task("ready", json!({})))])]);
    let orca = Orca::with(&fake);
    let file = orca.home.path().join("tasks.yaml");
    for (content, words) in [
        (&b"container:\n  image: debian\n  comand: [x]\n"[..], "comand"),
        (b"tasks:\n- {key: a, container: {image: x}, depends_on: [a]}\n", "a needs a"),
        (b"- container: {image: x}\n  depends_on: [ghost]\n", "/tasks/0/depends_on/0"),
        (b"container: {image: 'not an image'}\n", "/container/image"),
        (b"container: {image: debian}\nname: \xff\n", "not UTF-8"),
        (b"a: [1, 2\n", "line"),
        (
            b"container:\n  image: debian\n  command: a: b\n",
            "tasks.yaml is not valid\n  container: mapping values are not allowed in this context at line 3",
        ),
    ] {
        std::fs::write(&file, content).unwrap();
        let ran = orca.run(&["enqueue", "-f", "tasks.yaml"]);
        assert_eq!(ran.code, Some(2), "{words}: {ran:?}");
        assert!(ran.err.contains(words), "{words}: {ran:?}");
    }
    for line in [
        &["enqueue", "-f", "absent.yaml"][..],
        &["enqueue", "--input", "@/absent", "debian"],
        &["--token-file", "/absent", "ls"],
        &["token", "issue", "--role", "worker", "--name", "w", "--key", "/absent"],
    ] {
        let ran = orca.run(line);
        assert!(ran.code == Some(2) && ran.err.contains("cannot read"), "{line:?}: {ran:?}");
    }
    assert!(fake.seen().is_empty(), "{:?}", fake.seen());
}

#[test]
fn a_list_on_standard_input_becomes_one_batch() {
    let fake = Fake::start(vec![("POST /v1/batches", vec![ok(&json!({"ids": [ID]}))])]);
    let mut child = Orca::with(&fake).command(["enqueue", "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"- key: a\n  container: {image: x}\n").unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), format!("{ID}\n").as_str()), "{ran:?}");
    let body: Value = serde_json::from_slice(&fake.seen()[0].body).unwrap();
    assert_eq!(body["tasks"][0]["key"], "a");
}

#[test]
fn a_directory_is_uploaded_as_an_archive_and_its_links_are_skipped_and_told() {
    let artifact = json!({
        "id": ID, "name": "tree", "size": 1, "sha256": "00", "created_at": "2026-01-01T00:00:00Z"
    });
    let fake = Fake::start(vec![
        ("POST /v1/artifacts", vec![ok(&artifact)]),
        ("POST /v1/tasks", vec![ok(&task("ready", json!({})))]),
    ]);
    let orca = Orca::with(&fake);
    let tree = orca.home.path().join("tree");
    std::fs::create_dir_all(tree.join("sub dir")).unwrap();
    std::fs::write(tree.join("sub dir/naïve\n"), "inside").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
    let ran = orca.run(&["enqueue", "--artifact", "tree=tree", "debian"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("1 links"), "{ran:?}");
    let seen = fake.seen();
    let names: Vec<Vec<u8>> = tar::Archive::new(seen[0].body.as_slice())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path_bytes().into_owned())
        .collect();
    assert_eq!(names.last().unwrap(), "sub dir/naïve\n".as_bytes());
    let body: Value = serde_json::from_slice(&seen[1].body).unwrap();
    assert_eq!(body["artifacts"], json!([{"id": ID, "name": "tree", "unpack": true}]));
}

#[test]
fn an_artifact_is_saved_whole_under_its_own_name_and_never_outside() {
    let artifact = |name: &str, size: usize| {
        ok(
            &json!({"id": ID, "name": name, "size": size, "sha256": "00", "created_at": "2026-01-01T00:00:00Z"}),
        )
    };
    let content =
        || ("GET /v1/artifacts/0192f0c4-0000-7000-8000-000000000001/content", vec![ok(&json!("abc"))]);
    let fake = Fake::start(vec![content(), ("GET /v1/artifacts/", vec![artifact("report.json", 5)])]);
    let orca = Orca::with(&fake);
    assert_eq!(orca.run(&["artifact", "get", ID]).code, Some(0));
    assert_eq!(std::fs::read_to_string(orca.home.path().join("report.json")).unwrap(), "\"abc\"");
    assert_eq!(orca.run(&["artifact", "get", ID]).code, Some(2), "it is there already");
    assert_eq!(orca.run(&["artifact", "get", ID, "-"]).out, "\"abc\"");

    let fake = Fake::start(vec![content(), ("GET /v1/artifacts/", vec![artifact("../evil", 5)])]);
    assert_eq!(Orca::with(&fake).run(&["artifact", "get", ID]).code, Some(2));
    let fake = Fake::start(vec![content(), ("GET /v1/artifacts/", vec![artifact("short", 9)])]);
    let orca = Orca::with(&fake);
    assert_eq!(orca.run(&["artifact", "get", ID]).code, Some(7));
    assert!(!orca.home.path().join("short").exists());
}

#[test]
fn a_login_saves_a_private_profile_that_the_next_command_uses() {
    let fake = Fake::start(vec![("GET /v1/tasks?", vec![ok(&page(&[]))])]);
    let orca = Orca::new();
    let mut child = orca.command(["login", "--url", &fake.url]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from-stdin\n").unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let file = orca.home.path().join(".config/orca/config.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(orca.run(&["ls"]).code, Some(0));
    assert!(fake.seen().iter().all(|seen| seen.headers.contains("authorization: bearer from-stdin")));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = orca.run(&["ls"]);
    assert!(ran.code == Some(2) && ran.err.contains("chmod 600"), "{ran:?}");
}

#[test]
fn a_token_that_the_coordinator_refuses_is_not_saved() {
    let fake = Fake::start(vec![("GET", vec![problem(401, "unauthenticated", "No valid token", json!({}))])]);
    let orca = Orca::new();
    let ran = orca.run(&["login", "--url", &fake.url, "--token", "wrong"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(!orca.home.path().join(".config/orca/config.toml").exists());
}

#[test]
fn keys_and_tokens_are_made_and_a_key_that_others_can_read_is_refused() {
    let orca = Orca::new();
    assert_eq!(orca.run(&["token", "key", "--out", "key.pem"]).code, Some(0));
    assert_eq!(orca.run(&["token", "key", "--out", "key.pem"]).code, Some(7), "an old key is kept");
    let issue = ["token", "issue", "--role", "worker", "--name", "w1", "--key", "key.pem", "--ttl", "90d"];
    let ran = orca.run(&issue);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let pem = std::fs::read_to_string(orca.home.path().join("key.pem")).unwrap();
    let key = orca_proto::token::SigningKey::from_pem(&pem).unwrap();
    let claims = orca_proto::token::Verifier::new([&key]).verify(ran.out.trim()).unwrap();
    assert_eq!((claims.sub.as_str(), claims.exp - claims.iat), ("w1", 90 * 86_400));
    let path = orca.home.path().join("key.pem");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(orca.run(&issue).code, Some(2));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let orca = Orca::new();
    let ran = Ran::from(orca.command(["completions", "bash"]).stdout(writer).output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn wrong_command_lines_are_exit_code_2_and_nothing_known_names_the_next_step() {
    let orca = Orca::new();
    for line in [
        &["enqueue"][..],
        &["enqueue", "-f", "tasks.yaml", "debian"],
        &["get", "not-an-id"],
        &["ls", "--state", "bogus"],
        &["dev", "--ephemeral", "--data", "somewhere"],
        &["dev", "--listen", "localhost"],
        &["--url", "nonsense", "ls"],
        &["frobnicate"],
    ] {
        let ran = orca.run(line);
        assert!(ran.code == Some(2) && ran.err.starts_with("error: "), "{line:?}: {ran:?}");
    }
    let ran = orca.run(&["ls"]);
    assert!(ran.code == Some(2) && ran.err.contains("orca dev") && ran.err.contains("orca login"), "{ran:?}");
}
