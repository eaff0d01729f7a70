//! `orca-agent spawn task.json`: tasks under this one, which ends only when they have.

use clap::Args;
use hyper::Method;
use orca_proto::agent::routes;
use orca_proto::attempt::Children;
use orca_proto::limits;
use orca_proto::plan::{Batch, Enqueued};
use orca_proto::spec::NewTask;
use serde_json::Value;
use uuid::Uuid;

use super::source::{self, Inline};
use super::{VerbError, call, print};
use crate::attempt_dir::AttemptDir;

#[derive(Args)]
pub(crate) struct Spawn {
    /// A file, or @FILE, with one task, a list, or {"tasks": […]}; - reads standard input
    #[arg(value_name = "FILE|@FILE|-")]
    tasks: String,
    /// The same key again in the same attempt spawns nothing new and prints the same ids
    #[arg(long)]
    key: Option<String>,
}

impl Spawn {
    pub(super) async fn run(self, dir: &AttemptDir) -> Result<(), VerbError> {
        let text = source::read(&self.tasks, Inline::IfBracketed, limits::PLAN_BODY)?;
        let children = Children {
            idempotency_key: self.key.unwrap_or_else(|| Uuid::now_v7().to_string()),
            tasks: tasks(&text)?,
        };
        let answer = call(dir, Method::POST, routes::CHILDREN, source::text(&children)?).await?;
        let enqueued: Enqueued = source::parse(&answer, "an answer of this version's node")?;
        let ids: Vec<String> = enqueued.ids.iter().map(ToString::to_string).collect();
        print(ids.join("\n").as_bytes())
    }
}

/// One task, a list of tasks, or an object with a list.
fn tasks(text: &[u8]) -> Result<Vec<NewTask>, VerbError> {
    let shape: Value = source::parse(text, "JSON")?;
    if shape.is_array() {
        source::parse(text, "a list of tasks")
    } else if shape.get("tasks").is_some() {
        source::parse::<Batch>(text, "{\"tasks\": […]}").map(|batch| batch.tasks)
    } else {
        source::parse::<NewTask>(text, "a task").map(|task| vec![task])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_a_list_and_an_object_are_the_same() {
        let task = r#"{"container":{"image":"debian"}}"#;
        for text in [task.to_owned(), format!("[{task}]"), format!(r#"{{"tasks":[{task}]}}"#)] {
            assert_eq!(tasks(text.as_bytes()).unwrap(), [NewTask::new("debian")], "{text}");
        }
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let error = tasks(br#"{"container":{"image":"debian"},"quue":"fast"}"#).unwrap_err();
        assert!(error.to_string().contains("quue"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
