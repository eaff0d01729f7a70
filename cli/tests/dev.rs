//! `orca dev` for real: its own Postgres, coordinator and nodes, on the process runtime.
//!
//! Needs the static agent: `ORCA_AGENT_BINARY`, which `cargo xtask test` sets.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its support fails")]

#[expect(dead_code, reason = "shared with other tests, which use other parts")]
mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{LIMIT, Orca, Ran, until};
use tempfile::TempDir;

/// A running `orca dev`, killed at the end whatever happens.
struct Dev {
    child: Child,
    ready: Value,
    log: PathBuf,
}

impl Dev {
    fn start(orca: &Orca, arguments: &[&str]) -> Self {
        let agent = std::env::var_os("ORCA_AGENT_BINARY")
            .expect("set ORCA_AGENT_BINARY to the static agent, or run `cargo xtask test`, which does");
        let (ready, log) = (orca.home.path().join("ready.json"), orca.home.path().join("dev.log"));
        let _ = std::fs::remove_file(&ready);
        let file = std::fs::File::create(&log).unwrap();
        let mut command = orca.command(["dev", "--runtime", "process", "--listen", "127.0.0.1:0", "-v"]);
        command.args(arguments).arg("--ready-file").arg(&ready).env("ORCA_AGENT_BINARY", agent);
        let child = command.stdout(Stdio::from(file.try_clone().unwrap())).stderr(file).spawn().unwrap();
        let mut dev = Self { child, ready: Value::Null, log };
        let deadline = Instant::now() + LIMIT;
        while !ready.exists() {
            let ended = dev.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "not up ({ended:?}):\n{}", dev.said());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        dev.ready = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        dev
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "does not end:\n{}", self.said());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Only after a failed assertion is it still there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A data directory that Postgres's own account can reach when the tests run as root.
fn data_dir() -> (TempDir, PathBuf) {
    let parent = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let path = parent.path().join("data");
    (parent, path)
}

/// Processes with `text` in their command line or environment.
fn processes_with(text: &Path) -> Vec<(Pid, String)> {
    let text = text.to_str().unwrap();
    let read = |pid: i32, name: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != std::process::id().cast_signed())
        .filter(|pid| read(*pid, "cmdline").contains(text) || read(*pid, "environ").contains(text))
        .filter_map(|pid| Some((Pid::from_raw(pid)?, read(pid, "cmdline"))))
        .collect()
}

fn enqueue_echo(orca: &Orca) -> Value {
    let ran = orca.run(&["enqueue", "--wait", "-o", "json", "none", "--", "echo", "hello"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn a_fresh_machine_gets_a_whole_system_that_keeps_its_data_over_a_restart() {
    let (_parent, data) = data_dir();
    let data_text = data.to_str().unwrap();
    let orca = Orca::new();
    let mut dev = Dev::start(&orca, &["--data", data_text]);
    assert!(dev.said().contains("isolates NOTHING"), "{}", dev.said());
    // The saved profile is all that the next commands need.
    let task = enqueue_echo(&orca);
    let id = task["summary"]["id"].as_str().unwrap();
    assert_eq!(orca.run(&["logs", id]).out, "hello\n");
    let nodes: Value = serde_json::from_str(&orca.run(&["nodes", "-o", "json"]).out).unwrap();
    assert_eq!(nodes["items"].as_array().unwrap().len(), 2);
    let failed = orca.run(&["enqueue", "--wait", "--max-attempts", "1", "none", "--", "sh", "-c", "exit 3"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");

    let second = Ran::from(orca.command(["dev", "--data", data_text]).output().unwrap());
    assert_eq!(second.code, Some(6), "{second:?}");
    let taken = dev.ready["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let other = Ran::from(orca.command(["dev", "--ephemeral", "--listen", &taken]).output().unwrap());
    assert!(other.code == Some(7) && other.err.contains("--listen"), "{other:?}");

    assert_eq!(dev.end(Signal::INT), Some(0), "{}", dev.said());
    assert_eq!(processes_with(&data), []);
    assert!(!data.join("dev.json").exists() && !data.join("postgres/postmaster.pid").exists());

    let mut dev = Dev::start(&orca, &["--data", data_text]);
    assert_eq!(orca.run(&["logs", id]).out, "hello\n");
    assert_eq!(dev.end(Signal::TERM), Some(0), "{}", dev.said());
}

#[test]
fn a_killed_one_leaves_no_postgres_and_the_next_one_finds_everything() {
    let (_parent, data) = data_dir();
    let data_text = data.to_str().unwrap();
    let orca = Orca::new();
    let mut dev = Dev::start(&orca, &["--data", data_text]);
    let task = enqueue_echo(&orca);
    dev.end(Signal::KILL);
    until(|| processes_with(&data.join("postgres")).is_empty(), "Postgres ends with its orca dev");
    // As it is after the machine itself went down: a lock file of a process that is no more.
    std::fs::write(data.join("postgres/postmaster.pid"), format!("{}\n{data_text}\n", std::process::id()))
        .unwrap();
    let mut dev = Dev::start(&orca, &["--data", data_text]);
    assert_eq!(orca.run(&["get", task["summary"]["id"].as_str().unwrap()]).code, Some(0));
    assert_eq!(dev.end(Signal::INT), Some(0), "{}", dev.said());
}

#[test]
fn an_ephemeral_one_leaves_nothing() {
    let orca = Orca::new();
    let mut dev = Dev::start(&orca, &["--ephemeral"]);
    enqueue_echo(&orca);
    let data = PathBuf::from(dev.ready["data"].as_str().unwrap());
    assert!(data.join("postgres/PG_VERSION").exists());
    assert_eq!(dev.end(Signal::INT), Some(0), "{}", dev.said());
    assert!(!data.exists() && processes_with(&data).is_empty());
    assert_eq!(orca.run(&["ls"]).code, Some(2), "its profile is gone too");
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_running_tasks() {
    let orca = Orca::new();
    let mut dev = Dev::start(&orca, &["--ephemeral"]);
    let ran = orca.run(&["enqueue", "none", "--", "sleep", "600"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let running = || orca.run(&["ls", "-o", "json", "--state", "running"]).out.contains(ran.out.trim());
    until(running, "the task runs");
    kill_process(Pid::from_child(&dev.child), Signal::INT).unwrap();
    until(|| dev.said().contains("stopping: running tasks"), "the first is heard");
    assert_eq!(dev.end(Signal::INT), Some(0), "{}", dev.said());
    assert!(dev.said().contains("stopping at once"), "{}", dev.said());
    let data = PathBuf::from(dev.ready["data"].as_str().unwrap());
    let left = processes_with(&data);
    assert!(left.is_empty(), "{left:?}");
}
