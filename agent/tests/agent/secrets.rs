//! Secrets: files that are there before the program is, and a verb that prints one.

use std::os::unix::fs::PermissionsExt;

use orca_proto::log::Stream;
use orca_proto::secret::{Delivered, SecretValue};
use orca_proto::task::Outcome;

use crate::fake_node::FakeNode;

fn secret(name: &str, file: &str, value: &str) -> Delivered {
    Delivered { name: name.to_owned(), file: file.to_owned(), value: SecretValue::new(value) }
}

fn node_with(script: &str, secrets: &[Delivered]) -> FakeNode {
    let node = FakeNode::new(script).briefed(|brief| brief.has_secrets = true);
    node.told(|told| told.secrets = secrets.to_vec());
    node
}

#[tokio::test]
async fn the_program_finds_its_secrets_as_files_that_only_its_user_can_read() {
    let script = "cat \"$ORCA_SECRETS_DIR/password.txt\"; echo; stat -c '%a %u' \"$ORCA_SECRETS_DIR\"/*; id -u; env; \
                  tr '\\0' ' ' </proc/$PPID/cmdline; tr '\\0' '\\n' </proc/$PPID/environ";
    let node = node_with(
        script,
        &[secret("db", "password.txt", "sword fish"), secret("other", "other", " two\nlines\n")],
    );
    assert_eq!(node.outcome().await, Outcome::Succeeded);
    let lines = node.text(Stream::Stdout);
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(lines[0], "sword fish");
    assert_eq!(lines[1..4], [format!("400 {uid}"), format!("400 {uid}"), uid.to_string()]);
    let rest = lines[4..].join("\n");
    assert!(rest.contains("ORCA_SECRETS_DIR=") && !rest.contains("sword") && !rest.contains("two"), "{rest}");
    assert_eq!(std::fs::read_to_string(node.path("secrets/other")).unwrap(), " two\nlines\n");
    let mode = std::fs::metadata(node.path("secrets/other")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o400);
}

#[tokio::test]
async fn a_task_without_secrets_is_told_of_no_directory() {
    let node = FakeNode::new("echo \"${ORCA_SECRETS_DIR-none}\"");
    node.told(|told| told.secrets = vec![secret("db", "db", "swordfish")]);
    assert_eq!(node.outcome().await, Outcome::Succeeded);
    assert_eq!(node.text(Stream::Stdout), ["none"]);
    assert!(!node.path("secrets/db").exists());
}

#[tokio::test]
async fn a_secret_is_printed_as_it_is() {
    let node = node_with("true", &[secret("db", "password.txt", "sword\nfish"), secret("b", "b", "x\n")]);
    for (name, value) in [("db", "sword\nfish"), ("b", "x\n")] {
        let output = node.verb(&["secret", name]).await;
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
    }
    let output = node.verb(&["secret", "password.txt"]).await;
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("it names db, b") && !told.contains("fish"), "{told}");
    node.told(|told| told.secrets.clear());
    assert_eq!(node.verb(&["secret", "db"]).await.status.code(), Some(1));
}

#[tokio::test]
async fn a_program_does_not_start_without_its_secrets() {
    for name in ["../escaped", "/tmp/orca-escaped", "a/b", "", "..", "a\0b"] {
        let node = node_with("echo started", &[secret("db", name, "swordfish")]);
        assert_eq!(node.start().ended().await.code(), Some(70), "{name:?}");
        node.told(|told| assert!(told.started.is_empty() && told.lines.is_empty()));
        assert!(!node.path("escaped").exists() && !std::path::Path::new("/tmp/orca-escaped").exists());
    }
    // One that was put there by somebody else is not followed, nor written to.
    let node = node_with("echo started", &[secret("db", "db", "swordfish")]);
    std::os::unix::fs::symlink(node.path("elsewhere"), node.path("secrets/db")).unwrap();
    assert_eq!(node.start().ended().await.code(), Some(70));
    assert!(!node.path("elsewhere").exists());
}
