//! Secrets: the program gets them, and neither the engine, the disk nor anybody who reads what an attempt says does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::query_parameters::{InspectContainerOptions, LogsOptionsBuilder};
use futures_util::TryStreamExt;
use orca_node::RuntimeKind;
use orca_proto::node::LeaseRef;
use orca_proto::problem::Kind;
use orca_proto::secret::{Delivered, SecretValue};
use orca_proto::spec::{NewTask, SecretFile};
use orca_proto::task::Outcome;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::docker::Bench;
use crate::rig::{Rig, shell};
use crate::socket::Inside;

const VALUE: &str = "sword+fish/42";
/// As base64 and backwards: nobody else writes these either.
const SPELLINGS: [&str; 3] = [VALUE, "c3dvcmQrZmlzaC80M", "73776f72642b66697368"];

fn with_secret(rig: &Rig, mut task: NewTask) -> NewTask {
    task.secrets = vec![SecretFile { name: "db".into(), r#as: Some("password.txt".into()) }];
    let value = SecretValue::new(VALUE);
    let delivered = Delivered { name: "db".into(), file: "password.txt".into(), value };
    rig.fake.change(|book| book.secrets = vec![delivered]);
    task
}

/// The files below a directory that hold the secret.
fn files_with_it(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with_it(&path));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            let holds = |text: &&str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            if SPELLINGS.iter().any(holds) {
                found.push(path);
            }
        }
    }
    found
}

fn logged(rig: &Rig, lease: LeaseRef) -> Vec<String> {
    let book = rig.fake.book();
    book.logs.get(&lease).into_iter().flatten().map(|line| line.text.clone()).collect()
}

/// What is in memory of the secrets of a rig's attempts.
fn in_memory(rig: &Rig) -> Vec<PathBuf> {
    let mark = mark(rig.state.path());
    let entries = fs::read_dir("/dev/shm").unwrap().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(&mark)).collect()
}

fn mark(state: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let hash = Sha256::digest(state.join("attempts").as_os_str().as_bytes());
    let mark: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("orca-secrets-{mark}-")
}

#[tokio::test]
async fn a_container_finds_its_secret_in_memory_and_neither_the_engine_nor_the_disk_holds_it() {
    let bench = Bench::start().await;
    let mut task = with_secret(&bench.rig, bench.task(&["secrets"]));
    task.container.user = Some("1234:1234".into());
    let lease = bench.rig.grant(task);
    bench.rig.said(lease, "ready").await;
    let name = Bench::name(lease);
    let told = bench.api.inspect_container(&name, None::<InspectContainerOptions>).await.unwrap();
    let told = serde_json::to_string(&told).unwrap();
    assert!(told.contains("/orca/secrets"), "{told}");
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
    let said = bench.api.logs(&name, Some(options)).map_ok(|line| line.to_string());
    let said = said.try_collect::<String>().await.unwrap();
    for text in SPELLINGS {
        assert!(!told.contains(text) && !said.contains(text), "{told}\n{said}");
    }
    assert_eq!(files_with_it(bench.rig.state.path()), Vec::<PathBuf>::new());
    let dir = bench.rig.state.path().join(format!("attempts/{}-{}", lease.task, lease.token));
    assert_eq!(fs::read_dir(dir.join("secrets")).unwrap().count(), 0, "secrets are on the node's disk");
    fs::write(dir.join("out/go"), "").unwrap();

    let report = bench.rig.fake.report_of(lease).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    let result = report.result.unwrap();
    assert_eq!(result["backwards"], VALUE.chars().rev().collect::<String>());
    assert_eq!((&result["mode"], &result["owner"]), (&json!("400"), &json!(1234)));
    let mount = result["mount"].as_str().unwrap();
    assert!(
        mount.starts_with("tmpfs ") && mount.contains("noexec") && mount.contains("size=512k"),
        "{mount}"
    );
    assert!(!result["env"].as_str().unwrap().contains(VALUE));
    let lines = logged(&bench.rig, lease);
    assert_eq!(&lines[..2], ["the password is ***!", "***"], "{lines:?}");
    assert_eq!(files_with_it(bench.rig.state.path()), Vec::<PathBuf>::new());
    bench.end().await;
}

#[tokio::test]
async fn whatever_an_attempt_says_goes_up_without_its_secret() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let script = format!(
        "s=$(cat \"$ORCA_SECRETS_DIR/password.txt\"); echo \"url=postgres://u:$s@h\"; \
         printf '%s' \"u:$s\" | base64; echo \"$s\" >&2; [ \"$s\" = '{VALUE}' ] && echo right; \
         [ \"$(\"$ORCA_AGENT\" secret db)\" = \"$s\" ] && echo same; \
         \"$ORCA_AGENT\" progress 40 --message \"at $s\"; echo ready; exec sleep 60"
    );
    // Not in the task itself, where whoever reads the script would find it.
    let lease = rig.grant(with_secret(&rig, shell(&script)));
    rig.said(lease, "ready").await;
    let lines = logged(&rig, lease);
    for line in ["url=postgres://u:***@h", "***", "right", "same"] {
        assert!(lines.iter().any(|said| said == line), "{line}: {lines:?}");
    }
    assert!(!lines.iter().any(|line| SPELLINGS.iter().any(|text| line.contains(text))), "{lines:?}");
    let inside = Inside::of(&rig, lease);
    let named = inside.json("PUT", "/v1/artifacts/sword-fish-42", b"x").await;
    assert_eq!(named.0, 200, "{named:?}");
    let message = rig.fake.until("progress", |book| book.progress.last()?.message.clone()).await;
    assert_eq!(message, "at ***");
    let report = json!({"outcome": {"kind": "failed", "exit_code": 3, "reason": format!("cannot log in with {VALUE}")}});
    let answer = inside.json("POST", "/v1/report", report.to_string().as_bytes()).await;
    assert_eq!(answer.0, 204, "{answer:?}");
    let outcome = rig.fake.report_of(lease).await.outcome;
    assert_eq!(outcome, Outcome::Failed { exit_code: 3, reason: Some("cannot log in with ***".into()) });
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn an_artifact_is_not_named_after_a_secret() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let task = with_secret(&rig, shell("echo ready; exec sleep 60"));
    rig.fake.change(|book| book.secrets[0].value = SecretValue::new("swordfish"));
    let lease = rig.grant(task);
    rig.said(lease, "ready").await;
    let inside = Inside::of(&rig, lease);
    let (status, told) = inside.json("PUT", "/v1/artifacts/my-swordfish.txt", b"x").await;
    assert_eq!(status, 422);
    assert!(!told.contains("swordfish"), "{told}");
    assert_eq!(inside.json("PUT", "/v1/artifacts/my-sword.txt", b"x").await.0, 200);
    rig.fake.change(|book| book.cancel.push(lease));
    assert_eq!(rig.fake.report_of(lease).await.outcome, Outcome::Cancelled);
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn without_an_engine_secrets_are_in_memory_too_and_gone_with_the_attempt() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let lease = rig.grant(with_secret(&rig, shell("echo ready; exec sleep 60")));
    rig.said(lease, "ready").await;
    let there = in_memory(&rig);
    assert_eq!(there.len(), 1, "{there:?}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&there[0]).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_to_string(there[0].join("password.txt")).unwrap(), VALUE);
    assert_eq!(files_with_it(rig.state.path()), Vec::<PathBuf>::new());
    rig.fake.change(|book| book.lost.push(lease));
    let gone = async {
        while !in_memory(&rig).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("secrets stay after their lease");
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_killed_daemon_left_of_secrets_goes_when_it_starts_again() {
    let mut left = PathBuf::new();
    let rig = Rig::with(RuntimeKind::Process, Duration::from_secs(30), |settings| {
        left = Path::new("/dev/shm").join(format!("{}orca-x-1-1", mark(&settings.state_dir)));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("db"), VALUE).unwrap();
    })
    .await;
    let there = left.exists();
    let _removed_already = fs::remove_dir_all(&left);
    assert!(!there, "an earlier daemon's secrets are still there");
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_secret_that_is_gone_rejects_the_attempt_and_one_that_cannot_be_read_may_be_tried_again() {
    let rig = Rig::start(RuntimeKind::Process).await;
    for (kind, rejected) in [(Kind::NotFound, true), (Kind::Validation, true), (Kind::Conflict, false)] {
        let task = with_secret(&rig, shell("echo started"));
        rig.fake.change(|book| book.refuse_secrets = Some(kind));
        let lease = rig.grant(task);
        let outcome = rig.fake.report_of(lease).await.outcome;
        match outcome {
            Outcome::Rejected { reason } if rejected => assert!(reason.contains("said the fake"), "{reason}"),
            Outcome::RuntimeError { reason } if !rejected => {
                assert!(reason.contains("secrets") && reason.contains("said the fake"), "{reason}");
            }
            other => panic!("{kind}: {other:?}"),
        }
        assert!(logged(&rig, lease).is_empty());
    }
    rig.stop().await.unwrap();
}
