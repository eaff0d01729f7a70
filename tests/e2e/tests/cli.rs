//! The `orca` command as a person or a script uses it.

use orca_e2e::command::printed;
use orca_e2e::{Shape, scenario, settings};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_enqueued_awaited_and_its_log_read_by_command() {
    scenario(Shape::default(), async |system| {
        let image = settings::base_image();
        let script = r#"echo "hello from $ORCA_ATTEMPT"; "$ORCA_AGENT" result '{"answer": 42}'"#;
        let arguments = [
            "enqueue",
            "--wait",
            "--output",
            "json",
            "--name",
            "by command",
            &image,
            "--",
            "sh",
            "-c",
            script,
        ];
        let output = system.orca(&arguments, b"").await;
        assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
        let task: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        assert_eq!(task["result"]["answer"], 42, "{task}");
        assert_eq!(task["summary"]["state"], "succeeded", "{task}");
        let id = task["summary"]["id"].as_str().unwrap();

        let logs = system.orca(&["logs", id], b"").await;
        assert_eq!(logs.status.code(), Some(0), "{}", printed(&logs));
        assert!(String::from_utf8_lossy(&logs.stdout).contains("hello from 1"), "{}", printed(&logs));

        let list = system.orca(&["ls", "--output", "json"], b"").await;
        let list: Value = serde_json::from_slice(&list.stdout).expect("one JSON document");
        assert_eq!(list["items"][0]["id"], id, "{list}");
        let nodes = system.orca(&["nodes"], b"").await;
        assert!(String::from_utf8_lossy(&nodes.stdout).contains("worker-1-"), "{}", printed(&nodes));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_enqueued_from_standard_input_and_its_failure_is_the_exit_code() {
    scenario(Shape::default(), async |system| {
        let yaml = format!(
            "container:\n  image: {}\n  command: [sh, -c, 'exit 9']\nretry:\n  max_attempts: 1\n",
            settings::base_image()
        );
        let output = system.orca(&["enqueue", "--wait", "-f", "-"], yaml.as_bytes()).await;
        assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
        let all = printed(&output);
        assert!(all.contains("code 9"), "{all}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_ends_the_command_with_a_line_and_a_code_of_its_own() {
    scenario(Shape { workers: 0, ..Shape::default() }, async |system| {
        let misspelt = b"container:\n  image: debian\nprioritty: 3\n";
        let absent = "01890000-0000-7000-8000-000000000000";
        let cases: [(&[&str], &[u8], i32, &str); 4] = [
            (&["enqueue", "-f", "-"], misspelt, 2, "prioritty"),
            (&["enqueue", "-f", "-"], b"container: \xff\xfe", 2, "UTF-8"),
            (&["enqueue", "--no-such-flag", "debian"], b"", 2, "--no-such-flag"),
            (&["get", absent], b"", 3, absent),
        ];
        for (arguments, input, code, told) in cases {
            let output = system.orca(arguments, input).await;
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", printed(&output));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains(told), "{arguments:?}: {stderr}");
            assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
        }

        let forged = system.dir().join("forged.token");
        std::fs::write(&forged, "not.a.token").unwrap();
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        std::fs::set_permissions(&forged, mode).unwrap();
        let mut command = orca_e2e::command::orca(&system.url(), &forged, system.dir());
        command.arg("ls");
        let output = orca_e2e::command::run(command, b"", std::time::Duration::from_secs(20)).await;
        assert_eq!(output.status.code(), Some(4), "{}", printed(&output));

        let nowhere = format!("http://127.0.0.1:{}", settings::free_port());
        let mut command = orca_e2e::command::orca(&nowhere, &system.operator_token_file(), system.dir());
        command.arg("ls");
        let output = orca_e2e::command::run(command, b"", std::time::Duration::from_secs(60)).await;
        assert_eq!(output.status.code(), Some(5), "{}", printed(&output));

        let filter = orca_proto::task::TaskFilter::default();
        assert_eq!(system.client().tasks(&filter).await.unwrap().items, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_reaches_the_program_that_names_it_and_no_log() {
    scenario(Shape::default(), async |system| {
        let set = system.orca(&["secret", "set", "db"], b"swordfish\n").await;
        assert_eq!(set.status.code(), Some(0), "{}", printed(&set));
        let script = r#"cd "$ORCA_SECRETS_DIR"; echo "it is $(cat pw.txt)"; [ "$(cat pw.txt)" = "$(printf 'sword%s' fish)" ]"#;
        let image = settings::base_image();
        let arguments =
            ["enqueue", "--follow", "--user", "1000", "--secret", "db=pw.txt", &image, "--", "sh", "-c", script];
        let ran = system.orca(&arguments, b"").await;
        assert_eq!(ran.status.code(), Some(0), "{}", printed(&ran));
        let all = printed(&ran);
        assert!(all.contains("it is ***") && !all.contains("swordfish"), "{all}");
        let listed = system.orca(&["secret", "ls"], b"").await;
        assert!(String::from_utf8_lossy(&listed.stdout).contains("db"), "{}", printed(&listed));
        let unknown = system.orca(&["enqueue", "--secret", "dbb", &image], b"").await;
        assert_eq!(unknown.status.code(), Some(2), "{}", printed(&unknown));
        assert!(printed(&unknown).contains("/secrets/0/name"), "{}", printed(&unknown));
    })
    .await;
}
