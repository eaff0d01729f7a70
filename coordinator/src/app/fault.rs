//! What is wrong with a document that is JSON but not of the type that was wanted: where, as a JSON pointer, and what.

mod words;

use orca_proto::problem::FieldError;
use orca_proto::spec::NewTask;
use orca_proto::strict::{self, Strict};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_path_to_error::Segment;

/// Faults of one list of tasks that are told.
const ENOUGH: usize = 1_000;

/// Says where in the document the faults are: all of a list of tasks, one by task, where one of them is at fault; else the first.
pub(crate) fn fields<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> Vec<FieldError> {
    let first = field::<T>(text, error);
    if !first.pointer.starts_with("/tasks/") {
        return vec![first];
    }
    let faults =
        strict::from_str::<Listed<'_>>(text).map(|listed| of_tasks(&listed.tasks)).unwrap_or_default();
    if faults.is_empty() { vec![first] } else { faults }
}

/// A document with tasks, as batches and children are; the rest of it is not looked at.
#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    tasks: Vec<&'a RawValue>,
}

fn of_tasks(tasks: &[&RawValue]) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let at = format!("/tasks/{index}");
        match strict::from_str::<NewTask>(task.get()) {
            Ok(task) => task.validate(&at, &mut faults),
            Err(error) => {
                let FieldError { pointer, detail } = field::<NewTask>(task.get(), &error);
                faults.push(FieldError::new(at + &pointer, detail));
            }
        }
        if faults.len() >= ENOUGH {
            break;
        }
    }
    faults
}

/// Says where in the document the fault is.
pub(crate) fn field<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> FieldError {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Err(located) = serde_path_to_error::deserialize::<_, T>(Strict(&mut deserializer)) else {
        return FieldError::new("", words::told(&error.to_string()));
    };
    let mut pointer = pointer(located.path());
    let message = located.inner().to_string();
    // The fault of a field that should be there, or should not, is told of the object around it.
    if let Some(name) = named_field(&message)
        && !pointer.ends_with(&format!("/{}", escape(name)))
    {
        pointer = format!("{pointer}/{}", escape(name));
    }
    FieldError::new(pointer, words::told(&message))
}

/// The field that a message of serde is about.
pub(crate) fn named_field(message: &str) -> Option<&str> {
    let rest = message
        .strip_prefix("unknown field `")
        .or_else(|| message.strip_prefix("missing field `"))
        .or_else(|| message.strip_prefix("duplicate field `"))?;
    rest.split_once('`').map(|(name, _)| name)
}

/// What a parser said of a parameter, in the words of the documents.
pub(crate) fn told(message: &str) -> std::borrow::Cow<'_, str> {
    words::told(message)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("/{index}")),
            Segment::Map { key } => Some(format!("/{}", escape(key))),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// RFC 6901: `~` and `/` inside a name.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
