//! The Compose stack, from the images to a result on the operator's terminal.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt;
use orca_e2e::command::{printed, run};
use orca_e2e::compose::Stack;
use orca_e2e::settings;
use orca_proto::spec::{NewTask, Role};
use serde_json::{Value, json};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stack_comes_up_takes_a_goal_from_the_hosts_command_and_leaves_nothing_behind() {
    let stack = Box::pin(Stack::new()).await;
    let outcome = AssertUnwindSafe(Box::pin(goal_by_command(&stack))).catch_unwind().await;
    if outcome.is_err() {
        stack.describe().await;
    }
    let wrong = Box::pin(stack.down()).await;
    if let Err(panic) = outcome {
        wrong.iter().for_each(|what| eprintln!("--- and at the end: {what}"));
        resume_unwind(panic);
    }
    assert!(wrong.is_empty(), "at the end: {}", wrong.join("; "));
}

/// What the head of `compose.yaml` tells an operator to do.
async fn goal_by_command(stack: &Stack) {
    stack.up().await;
    let token = stack.compose(&["exec", "-T", "coordinator", "cat", "/run/orca/operator.token"]).await;
    assert!(token.status.success(), "{}", printed(&token));

    let orca = |arguments: &[&str]| {
        let mut command = Command::new(settings::binary("orca"));
        command.env_clear().env("HOME", stack.home()).args(arguments);
        command
    };
    let login = run(orca(&["login", "--url", &stack.url()]), &token.stdout, Duration::from_secs(20)).await;
    assert!(login.status.success(), "{}", printed(&login));

    let spec = goal().to_string();
    let enqueue = orca(&["enqueue", "--wait", "--output", "json", "-f", "-"]);
    let done = run(enqueue, spec.as_bytes(), Duration::from_secs(90)).await;
    assert!(done.status.success(), "{}", printed(&done));
    let task: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
    assert_eq!(task["result"]["tasks"][0]["result"], 42, "{}", printed(&done));
}

/// A goal that plans one task, and returns what that found.
fn goal() -> Value {
    let base = settings::base_image();
    let mut planned = NewTask::new(&base);
    planned.container.command = vec!["sh".into(), "-euc".into(), "\"$ORCA_AGENT\" result -".into()];
    planned.input = json!(42);
    let mut goal = NewTask::new(&base);
    goal.role = Role::Plan;
    goal.input = json!({ "tasks": [planned] });
    let script = r#"case $ORCA_STEP in
        plan) cat "$ORCA_INPUT" > "$ORCA_PLAN" ;;
        finish) cat "$ORCA_DEPENDENCIES" > "$ORCA_RESULT" ;;
    esac"#;
    goal.container.command = vec!["sh".into(), "-euc".into(), script.into()];
    json!(goal)
}
