//! What is wrong with a document that is JSON but not of the type that was wanted: where, as a JSON pointer, and what.

use orca_proto::problem::FieldError;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

/// Says where in the document the fault is.
pub(crate) fn field<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> FieldError {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Err(located) = serde_path_to_error::deserialize::<_, T>(&mut deserializer) else {
        return FieldError::new("", told(&error.to_string()));
    };
    let mut pointer = pointer(located.path());
    let message = located.inner().to_string();
    // The fault of a field that should be there, or should not, is told of the object around it.
    if let Some(name) = named_field(&message)
        && !pointer.ends_with(&format!("/{}", escape(name)))
    {
        pointer = format!("{pointer}/{}", escape(name));
    }
    FieldError::new(pointer, told(&message))
}

/// The field that a message of serde is about.
pub(crate) fn named_field(message: &str) -> Option<&str> {
    let rest = message
        .strip_prefix("unknown field `")
        .or_else(|| message.strip_prefix("missing field `"))
        .or_else(|| message.strip_prefix("duplicate field `"))?;
    rest.split_once('`').map(|(name, _)| name)
}

/// The message without its place in the text, which the pointer tells better.
fn told(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(before, _)| before)
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
