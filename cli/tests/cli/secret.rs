//! Secrets on the command line: where a value may come from, and that none is ever printed.

#![expect(clippy::unwrap_used, reason = "a test ends where its support fails")]

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::page;
use crate::support::{Fake, Orca, Ran, created, ok, problem};

fn secret(version: i64) -> Value {
    json!({
        "name": "db", "version": version, "created_at": "2026-01-01T00:00:00Z", "created_by": "ann",
        "updated_at": "2026-01-02T00:00:00Z", "updated_by": "bob"
    })
}

fn with_stdin(orca: &Orca, arguments: &[&str], stdin: &[u8]) -> Ran {
    let mut child = orca.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    Ran::from(child.wait_with_output().unwrap())
}

#[test]
fn a_value_comes_from_standard_input_or_a_file_and_is_not_printed() {
    let fake = Fake::start(vec![("PUT /v1/secrets/db", vec![created(&secret(1)), ok(&secret(2))])]);
    let orca = Orca::with(&fake);
    std::fs::write(orca.home.path().join("key"), "sword\nfish\n").unwrap();
    let piped = with_stdin(&orca, &["secret", "set", "db"], b"swordfish\n");
    let filed = orca.run(&["secret", "set", "db", "--file", "key"]);
    let json = with_stdin(&orca, &["secret", "set", "db", "-o", "json"], b"swordfish");
    for (ran, value) in [(&piped, "swordfish"), (&filed, "sword\nfish\n"), (&json, "swordfish")] {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(!ran.out.contains("fish") && !ran.err.contains("fish"), "{ran:?}");
        assert!(fake.seen().iter().any(|seen| seen.body == json!({"value": value}).to_string().as_bytes()));
    }
    assert_eq!(piped.err, "set db, version 1\n");
    assert_eq!(serde_json::from_str::<Value>(&json.out).unwrap()["version"], 2);
}

#[test]
fn what_cannot_be_a_secret_is_refused_before_anything_is_sent() {
    let fake = Fake::start(vec![]);
    let orca = Orca::with(&fake);
    for (name, stdin) in [
        ("db", b"".to_vec()),
        ("db", b"\n".to_vec()),
        ("db", b"swordfish\xff".to_vec()),
        ("db", vec![b'x'; (64 << 10) + 1]),
        ("../db", b"swordfish".to_vec()),
        (".db", b"swordfish".to_vec()),
        ("a/b", b"swordfish".to_vec()),
    ] {
        let ran = with_stdin(&orca, &["secret", "set", name], &stdin);
        assert_eq!(ran.code, Some(2), "{name} {ran:?}");
        assert!(!ran.err.contains("sword"), "{ran:?}");
    }
    assert_eq!(orca.run(&["secret", "set", "db", "swordfish"]).code, Some(2));
    assert!(fake.seen().is_empty(), "{:?}", fake.seen());
}

#[test]
fn secrets_are_listed_over_all_pages_and_removed_by_name() {
    let mut first = page(&[secret(3)]);
    first["next"] = json!("db");
    let mut other = secret(1);
    other["name"] = json!("zoo\u{1b}[2J");
    let gone = problem(404, "not-found", "Not found", json!({}));
    let fake = Fake::start(vec![
        ("GET /v1/secrets?cursor=db", vec![ok(&page(&[other]))]),
        ("GET /v1/secrets", vec![ok(&first)]),
        ("DELETE /v1/secrets/db", vec![gone]),
    ]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["secret", "ls"]);
    for words in ["NAME", "db ", "3", "bob", "zoo\\x1b[2J"] {
        assert!(ran.out.contains(words), "{words}: {ran:?}");
    }
    let told: Value = serde_json::from_str(&orca.run(&["secret", "ls", "-o", "json"]).out).unwrap();
    assert_eq!(told["items"].as_array().map(Vec::len), Some(2));
    let ran = orca.run(&["secret", "rm", "db"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.err.contains("there is no secret db"), "{ran:?}");
}

#[test]
fn a_rotation_that_leaves_something_is_no_success() {
    let rotated = |unreadable: u64| ok(&json!({"rotated": 4, "unreadable": unreadable}));
    let fake = Fake::start(vec![("POST /v1/secret-rotations", vec![rotated(0), rotated(2)])]);
    let orca = Orca::with(&fake);
    let ran = orca.run(&["secret", "rotate"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), "4 encrypted anew\n"));
    let ran = orca.run(&["secret", "rotate"]);
    assert_eq!(ran.code, Some(6));
    assert!(ran.err.contains("2 cannot be decrypted"), "{ran:?}");
}

#[test]
fn a_new_key_is_for_its_owner_alone_and_replaces_none() {
    use std::os::unix::fs::PermissionsExt;
    let orca = Orca::new();
    let ran = orca.run(&["secret", "key", "--out", "secrets.key"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let path = orca.home.path().join("secrets.key");
    let key = std::fs::read_to_string(&path).unwrap();
    assert_eq!((key.len(), std::fs::metadata(&path).unwrap().permissions().mode() & 0o777), (45, 0o600));
    assert!(!ran.out.contains(key.trim()) && !ran.err.contains(key.trim()));
    assert_ne!(orca.run(&["secret", "key", "--out", "secrets.key"]).code, Some(0));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), key);
}
