//! A whole survey, from the plan to the goal's result, with a shell script in the place of `orca-agent`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Keeps what it is given under `$STORE`, by the key of the task that gives it.
const AGENT: &str = r#"#!/bin/sh
case $1 in
  progress) ;;
  plan|result) cat > "$STORE/$KEY.$1" ;;
  put) cp "$2" "$STORE/$KEY.$(basename "$2")"; echo "{\"id\":\"id-of-$KEY\"}" ;;
  get) cat "$STORE/$(echo "$2" | tr / .)" ;;
  *) echo "unknown verb $1" >&2; exit 2 ;;
esac
"#;

struct Stage {
    root: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for dir in ["files/tree", "store", "out"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let agent = root.path().join("orca-agent");
        fs::write(&agent, AGENT).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        Self { root }
    }

    fn tree(&self) -> PathBuf {
        self.root.path().join("files/tree")
    }

    fn try_run(&self, key: &str, mode: &str, step: &str, input: &Value, dependencies: &[Value]) -> Output {
        let at = |name: &str| self.root.path().join(name);
        fs::write(at("input.json"), input.to_string()).unwrap();
        fs::write(at("dependencies.json"), json!({"tasks": dependencies}).to_string()).unwrap();
        Command::new(env!("CARGO_BIN_EXE_survey"))
            .arg(mode)
            .env("ORCA_AGENT", at("orca-agent"))
            .env("ORCA_STEP", step)
            .env("ORCA_INPUT", at("input.json"))
            .env("ORCA_DEPENDENCIES", at("dependencies.json"))
            .env("ORCA_FILES", at("files"))
            .env("ORCA_RESULT", at("out/result.json"))
            .env("ORCA_IMAGE", "survey:test")
            .env("STORE", at("store"))
            .env("KEY", key)
            .output()
            .unwrap()
    }

    fn run(&self, key: &str, mode: &str, step: &str, input: &Value, dependencies: &[Value]) {
        let output = self.try_run(key, mode, step, input, dependencies);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn stored(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.root.path().join("store").join(name)).unwrap()).unwrap()
    }

    fn done(&self, key: &str) -> Value {
        json!({"id": "x", "name": key, "key": key, "state": "succeeded", "result": self.stored(&format!("{key}.result"))})
    }

    /// Does what planner, coordinator and workers would; the goal's result.
    fn survey(&self, parts: Option<u64>) -> Value {
        let goal = json!({"tree": "id-of-tree", "parts": parts});
        self.run("goal", "goal", "plan", &goal, &[]);
        let plan = self.stored("goal.plan");
        let mut done: Vec<Value> = Vec::new();
        for task in plan["tasks"].as_array().unwrap() {
            let key = task["key"].as_str().unwrap();
            let mode = task["container"]["command"][1].as_str().unwrap();
            let needs = task["depends_on"].as_array().cloned().unwrap_or_default();
            let needed: Vec<Value> =
                done.iter().filter(|task| needs.contains(&task["key"])).cloned().collect();
            assert_eq!(needed.len(), needs.len());
            self.run(key, mode, "", &task["input"], &needed);
            done.push(self.done(key));
        }
        self.run("goal", "goal", "finish", &goal, &done);
        self.stored("goal.result")
    }
}

fn sha256sum(path: &Path) -> String {
    let output = Command::new("sha256sum").stdin(fs::File::open(path).unwrap()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn the_parts_of_a_tree_with_odd_names_come_to_its_totals() {
    let stage = Stage::new();
    let tree = stage.tree();
    fs::create_dir_all(tree.join("sub dir/deeper")).unwrap();
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for (name, content) in [
        ("empty", ""),
        ("with space", "the cat\n"),
        ("sub dir/new\nline", "the dog\nno end"),
        ("sub dir/deeper/größe", "The größe der größe\n"),
        ("back\\slash", "\n\n\n"),
        ("-dash", "the"),
    ] {
        fs::write(tree.join(name), content).unwrap();
        expected.insert(name.to_owned(), sha256sum(&tree.join(name)));
    }
    fs::write(tree.join(OsStr::from_bytes(b"not\xfftext")), "x").unwrap();
    expected.insert("//not\\xfftext".to_owned(), sha256sum(&tree.join(OsStr::from_bytes(b"not\xfftext"))));
    symlink("/etc/passwd", tree.join("link")).unwrap();
    symlink("..", tree.join("sub dir/up")).unwrap();

    let result = stage.survey(Some(3));
    let bytes = 8 + 14 + "The größe der größe\n".len() as u64 + 3 + 3 + 1;
    assert_eq!((&result["files"], &result["bytes"], &result["lines"]), (&json!(7), &json!(bytes), &json!(6)));
    assert_eq!(result["words"][0], json!(["the", 4]));
    assert_eq!(result["words"][1], json!(["größe", 2]));
    assert_eq!(result["report"], json!("id-of-total"));
    let report = stage.stored("total.report.json");
    assert_eq!(report["hashes"], json!(expected));
    assert_eq!(report["words"], result["words"]);
    assert_eq!(stage.survey(Some(1)), result);
}

#[test]
fn an_empty_directory_has_a_result_too() {
    let stage = Stage::new();
    let result = stage.survey(None);
    assert_eq!(result, json!({"files": 0, "bytes": 0, "lines": 0, "words": [], "report": "id-of-total"}));
    assert_eq!(stage.stored("total.report.json")["hashes"], json!({}));
}

#[test]
fn a_tree_that_is_not_there_is_named() {
    let stage = Stage::new();
    fs::remove_dir(stage.tree()).unwrap();
    let output = stage.try_run("goal", "goal", "plan", &json!({"tree": "id"}), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("files/tree"));
}

#[test]
fn an_unknown_mode_prints_the_usage() {
    let output = Stage::new().try_run("goal", "dance", "", &json!({}), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("usage"));
}
