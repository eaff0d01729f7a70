//! The daemon itself: what it prints, its health check, its exit codes.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use orca_proto::token::SigningKey;

use crate::harness::{Database, SOON};

const PASSWORD: &str = "swordfish";

/// The command with nothing of this process's settings.
fn daemon() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orca-coordinator"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ORCA_")) {
        command.env_remove(name);
    }
    command.env_remove("DATABASE_URL");
    command
}

fn key(dir: &Path, mode: u32) -> std::path::PathBuf {
    let path = dir.join("key.pem");
    std::fs::write(&path, SigningKey::generate().unwrap().to_pem()).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn wait(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > SOON {
            child.kill().unwrap();
            panic!("the daemon did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn help_does_not_show_the_database_password_of_the_environment() {
    let url = format!("postgres://orca:{PASSWORD}@localhost/orca");
    let output = daemon().arg("--help").env("DATABASE_URL", url).output().unwrap();
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains(PASSWORD));
}

#[test]
fn a_start_that_cannot_work_ends_with_1_and_one_line_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let run = |mode: u32, setting: (&str, &str)| {
        let mut command = daemon();
        command.env("DATABASE_URL", format!("postgres://orca:{PASSWORD}@127.0.0.1:1/orca"));
        command.env("ORCA_LISTEN", "127.0.0.1:0").env("ORCA_DATA_DIR", dir.path().join("data"));
        command.env("ORCA_SIGNING_KEY_FILE", key(dir.path(), mode)).env(setting.0, setting.1);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        let lines: Vec<String> =
            told(&output).lines().filter(|line| line.starts_with("error: ")).map(ToOwned::to_owned).collect();
        assert_eq!(lines.len(), 1, "{}", told(&output));
        assert!(!told(&output).contains(PASSWORD));
        lines.concat()
    };
    assert!(run(0o644, ("X", "")).contains("run: chmod 600 "));
    assert!(run(0o600, ("ORCA_LEASE", "1ms")).contains("ORCA_LEASE is 1ms; it must be 1s to 1h"));
    assert!(run(0o600, ("ORCA_LOG", "a=b=c")).contains("ORCA_LOG"));
    assert!(run(0o600, ("DATABASE_URL", "mysql://x")).contains("DATABASE_URL"));
    assert!(run(0o600, ("ORCA_LISTEN", "192.0.2.1:7070")).contains("choose another address"));
}

#[test]
fn a_health_check_of_nothing_ends_with_1_and_needs_no_other_setting() {
    let output = daemon().arg("--healthcheck").env("ORCA_LISTEN", "127.0.0.1:1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("127.0.0.1:1 does not answer"), "{}", told(&output));
}

#[tokio::test]
async fn the_daemon_tells_its_address_is_found_healthy_logs_json_and_drains_on_sigterm() {
    let database = Database::create().await;
    let dir = tempfile::tempdir().unwrap();
    let mut command = daemon();
    command.env("DATABASE_URL", &database.url).env("ORCA_LISTEN", "127.0.0.1:0");
    command.env("ORCA_DATA_DIR", dir.path().join("data")).env("ORCA_LOG_FORMAT", "json");
    command.env("ORCA_SIGNING_KEY_FILE", key(dir.path(), 0o600));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("orca-coordinator listens on http://").unwrap().to_owned();
    let began = Instant::now();
    loop {
        let check = daemon().arg("--healthcheck").env("ORCA_LISTEN", &address).output().unwrap();
        if check.status.success() {
            break;
        }
        assert!(began.elapsed() < SOON, "it never became healthy: {}", told(&check));
    }
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let log = told(&output);
    assert!(log.contains("going down"), "{log}");
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "not JSON: {line}");
    }
}
