//! Tasks from a file: one, a list, or `{tasks: […]}`, in YAML or JSON. What is wrong is told by line and column.

use std::io::Read;
use std::path::Path;

use orca_proto::limits;
use orca_proto::plan::Batch;
use orca_proto::spec::NewTask;
use orca_proto::strict::Strict;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::command::json_argument::breaks;
use crate::error::Failure;

/// What a file holds.
#[derive(Debug, PartialEq)]
pub(super) enum Tasks {
    /// A task of its own.
    One(Box<NewTask>),
    /// A list: enqueued whole or not at all.
    Many(Vec<NewTask>),
}

/// Reads the tasks in `path`; `-` is standard input.
///
/// # Errors
/// A [`Failure`] that says where and what.
pub(super) fn read(path: &Path) -> Result<Tasks, Failure> {
    let Source { text, from, json } = source(path)?;
    parse(&text, json).map_err(|why| not_valid(&from, why))
}

/// Reads one thing of another kind in `path`; `-` is standard input.
///
/// # Errors
/// A [`Failure`] that says where and what.
pub(in crate::command) fn read_one<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let Source { text, from, json } = source(path)?;
    let read = if is_json(&text, json) { from_json(&text) } else { from_yaml(&text) };
    read.map_err(|why| not_valid(&from, why))
}

fn not_valid(from: &str, why: String) -> Failure {
    Failure::invalid(format!("{from} is not valid")).because(why)
}

struct Source {
    text: String,
    /// What it is called in messages.
    from: String,
    /// Whether its name says that it is JSON.
    json: bool,
}

fn source(path: &Path) -> Result<Source, Failure> {
    let from = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let most = limits::PLAN_BODY as u64 + 1;
    let mut bytes = Vec::new();
    let got = if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    got.map_err(|error| Failure::file(format!("cannot read {from}"), &error))?;
    if bytes.len() > limits::PLAN_BODY {
        return Err(Failure::invalid(format!("{from} is larger than 64 MiB")).hint("enqueue it in parts"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        Failure::invalid(format!("{from} is not UTF-8 text"))
            .because(format!("the first byte that is not is number {}", error.utf8_error().valid_up_to()))
    })?;
    let json = path.extension().is_some_and(|extension| extension == "json");
    Ok(Source { text, from, json })
}

/// JSON goes to the JSON reader, which has no bound on nodes; what only looks like JSON may still be YAML.
fn is_json(text: &str, named_so: bool) -> bool {
    let looks_like_json = text.trim_start().starts_with(['{', '[']);
    named_so || (looks_like_json && serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// Reads tasks from `text`.
fn parse(text: &str, json: bool) -> Result<Tasks, String> {
    if is_json(text, json) {
        return shaped(text, from_json, from_json, from_json, from_json);
    }
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    shaped(text, from_yaml, from_yaml, from_yaml, from_yaml)
}

/// Looks at the outermost shape first, so that errors speak of the one thing that was meant.
fn shaped(
    text: &str,
    any: impl Fn(&str) -> Result<Value, String>,
    one: impl Fn(&str) -> Result<NewTask, String>,
    list: impl Fn(&str) -> Result<Vec<NewTask>, String>,
    batch: impl Fn(&str) -> Result<Batch, String>,
) -> Result<Tasks, String> {
    match any(text)? {
        Value::Array(_) => list(text).map(Tasks::Many),
        Value::Object(fields) if fields.contains_key("tasks") => {
            batch(text).map(|batch| Tasks::Many(batch.tasks))
        }
        Value::Object(_) => one(text).map(|task| Tasks::One(Box::new(task))),
        _ => Err("it must be a task, a list of tasks, or {tasks: […]}".to_owned()),
    }
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(Strict(&mut reader)).map_err(|error| {
        let field = field_of(error.path());
        with_field(breaks(&error.into_inner()), field)
    })?;
    reader.end().map_err(|error| breaks(&error))?;
    Ok(read)
}

fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! {
        // A batch may be large; its bytes are bounded already.
        budget: serde_saphyr::budget! { max_nodes: 4_000_000, max_events: 16_000_000 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        with_snippet: false,
    };
    let mut field = None;
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
        serde_path_to_error::deserialize(Strict(reader)).map_err(|error| {
            field = field_of(error.path());
            error.into_inner()
        })
    });
    read.map_err(|error| {
        if matches!(error.without_snippet(), serde_saphyr::Error::MultipleDocuments { .. }) {
            return "it holds several YAML documents; make them one list, or {tasks: […]}".to_owned();
        }
        let error = error.without_snippet();
        let said = error.to_string();
        match error.location() {
            Some(at) if at.line() > 0 && !said.contains("line ") => {
                with_field(format!("line {}, column {}: {said}", at.line(), at.column()), field)
            }
            _ => with_field(said, field),
        }
    })
}

/// The field at fault, where it is not the whole text.
fn field_of(path: &serde_path_to_error::Path) -> Option<String> {
    // Where the text itself is broken, its last part has no name.
    let path = path.to_string();
    let named = path.trim_end_matches(['?', '.']);
    Some(named.to_owned()).filter(|path| !path.is_empty())
}

fn with_field(said: String, field: Option<String>) -> String {
    match field {
        Some(field) => format!("{field}: {said}"),
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_a_list_and_a_batch_are_told_apart_in_both_languages() {
        let one = "container:\n  image: debian\n  command: [echo, hi]\ninput: {n: 1}\n";
        let Tasks::One(task) = parse(one, false).unwrap() else { panic!("not one") };
        assert_eq!((task.container.image.as_str(), &task.input), ("debian", &serde_json::json!({"n": 1})));
        for many in [
            "- container: {image: a}\n- container: {image: b}\n",
            "tasks:\n  - key: x\n    container: {image: a}\n  - container: {image: b}\n    depends_on: [x]\n",
            r#"{"tasks":[{"container":{"image":"a"}},{"container":{"image":"b"}}]}"#,
            "{tasks: [{container: {image: a}}, {container: {image: b}}]}",
        ] {
            assert!(matches!(parse(many, false).unwrap(), Tasks::Many(tasks) if tasks.len() == 2), "{many}");
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let error = parse("container:\n  image: debian\n  comand: [x]\n", false).unwrap_err();
        assert!(error.contains("comand") && error.contains("line 3"), "{error}");
        let error = parse("{\"container\":{\"image\":\"debian\"},\n\"quue\":1}", true).unwrap_err();
        assert!(error.contains("quue") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_value_of_another_type_is_told_with_its_field() {
        for (text, json) in [
            ("container: {image: a, command: echo hi}", false),
            (r#"{"container":{"image":"a","command":"echo hi"}}"#, true),
        ] {
            let error = parse(text, json).unwrap_err();
            assert!(error.starts_with("container.command: ") && error.contains("line 1"), "{error}");
        }
        let error =
            parse("- container: {image: a}\n- container: {image: b}\n  priority: high\n", false).unwrap_err();
        assert!(error.contains("[1].priority: ") && error.contains("line 3"), "{error}");
    }

    #[test]
    fn several_documents_are_refused_in_our_own_words() {
        let error = parse("container: {image: a}\n---\ncontainer: {image: b}\n", false).unwrap_err();
        assert!(error.contains("make them one list"), "{error}");
    }

    #[test]
    fn broken_yaml_and_other_shapes_are_refused() {
        assert!(parse("a: [1, 2\nb: }", false).unwrap_err().contains("line "), "no line");
        assert!(parse("just text", false).unwrap_err().contains("a task, a list of tasks"));
        assert!(parse("  \n", false).unwrap_err().contains("empty"));
        assert!(parse("a: 1\na: 2\n", false).is_err());
    }

    #[test]
    fn aliases_cannot_blow_a_small_file_up() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (next, last) in "bcdefghij".chars().zip("abcdefghi".chars()) {
            let refs = vec![format!("*{last}"); 10].join(", ");
            text.push_str(&format!("{next}: &{next} [{refs}]\n"));
        }
        assert!(parse(&text, false).is_err());
    }
}
