//! What a parser says of a value, in the words of the documents: no names of Rust's types, no parts of a parser's work.

use std::borrow::Cow;

/// The most of a refused text that is quoted, in characters.
const QUOTED: usize = 100;

/// What a parser said, without its place in the text, which a pointer tells better.
pub(super) fn told(message: &str) -> Cow<'_, str> {
    let message = message.rsplit_once(" at line ").map_or(message, |(before, _)| before);
    if message.starts_with("UUID parsing failed") {
        return "must be an id: a UUID such as 019304d1-7a3c-7c11-9d5e-3f0c4a1b2c3d".into();
    }
    match message {
        // Of numbers and truth values in a query.
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            return "must be a whole number, not negative".into();
        }
        "number too large to fit in target type" => return "is too large a number".into(),
        "number too small to fit in target type" => return "is too small a number".into(),
        "invalid float literal" | "cannot parse float from empty string" => return "must be a number".into(),
        "provided string was not `true` or `false`" => return "must be true or false".into(),
        _ => {}
    }
    if let Some((variant, expected)) = split(message, "unknown variant ", ", expected ") {
        let expected = expected.replace('`', "");
        return format!("must be {expected}; not {}", short(variant.trim_matches('`'))).into();
    }
    let wrong = split(message, "invalid type: ", ", expected ")
        .or_else(|| split(message, "invalid value: ", ", expected "));
    match wrong {
        Some((given, wanted)) => {
            format!("must be {}, not {}", self::wanted(wanted), self::given(given)).into()
        }
        None => message.into(),
    }
}

fn split<'m>(message: &'m str, before: &str, between: &str) -> Option<(&'m str, &'m str)> {
    // What is given is quoted and may hold anything; what is expected does not.
    message.strip_prefix(before)?.rsplit_once(between)
}

fn wanted(expected: &str) -> Cow<'_, str> {
    let whole = |least: &str, most: &str| Cow::from(format!("a whole number from {least} to {most}"));
    match expected {
        "i8" => whole("-128", "127"),
        "i16" => whole("-32,768", "32,767"),
        "i32" => whole("-2,147,483,648", "2,147,483,647"),
        "u8" => whole("0", "255"),
        "u16" => whole("0", "65,535"),
        "u32" => whole("0", "4,294,967,295"),
        "i64" | "isize" => "a whole number".into(),
        "u64" | "usize" => "a whole number, not negative".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "an array".into(),
        "a map" => "an object".into(),
        "string or map" | "a borrowed string" | "identifier" => "a string".into(),
        "unit" => "null".into(),
        _ if expected.starts_with("struct ") || expected.starts_with("internally tagged enum ") => {
            "an object".into()
        }
        // A text, by its name: an id, a length of time.
        _ if expected.starts_with("enum ") || expected.starts_with("tuple struct ") => "a string".into(),
        other => other.into(),
    }
}

fn given(unexpected: &str) -> Cow<'_, str> {
    match unexpected {
        "sequence" => "an array".into(),
        "map" => "an object".into(),
        "null" | "unit value" => "null".into(),
        other => ["integer ", "boolean ", "floating point ", "string "]
            .iter()
            .find_map(|kind| other.strip_prefix(kind))
            .map_or(other.into(), |value| short(value.trim_matches('`')).into()),
    }
}

fn short(text: &str) -> String {
    let mut text: String = text.chars().take(QUOTED + 1).collect();
    if text.chars().count() > QUOTED {
        text.pop();
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use orca_proto::spec::NewTask;
    use orca_proto::strict;
    use orca_proto::task::TaskFilter;

    use super::*;

    #[test]
    fn a_value_of_another_kind_is_told_in_the_words_of_the_documents() {
        for (field, expected) in [
            (r#""priority":"high""#, r#"must be a whole number from -32,768 to 32,767, not "high""#),
            (r#""priority":70000"#, "must be a whole number from -32,768 to 32,767, not 70000"),
            (r#""priority":1.5"#, "must be a whole number from -32,768 to 32,767, not 1.5"),
            (r#""resources":{"cpus":"two"}"#, r#"must be a number, not "two""#),
            (r#""resources":{"pids":-1}"#, "must be a whole number from 0 to 4,294,967,295, not -1"),
            (r#""retry":[5]"#, "must be an object, not an array"),
            (r#""labels":[]"#, "must be an object, not an array"),
            (r#""queue":null"#, "must be a string, not null"),
            (r#""depends_on":"a""#, r#"must be an array, not "a""#),
            (r#""role":"cook""#, "must be work or plan; not cook"),
            (
                r#""run_at":"tomorrow""#,
                "must be a point in time with its offset, such as 2026-03-01T10:00:00Z",
            ),
            (r#""artifacts":[{"id":"x","name":"a"}]"#, "must be an id: a UUID such as"),
            (r#""retry":{"backoff":{"initial":"soon"}}"#, "not a duration such as 90s, 5m or 1h30m"),
        ] {
            let text = format!(r#"{{"container":{{"image":"a"}},{field}}}"#);
            let error = strict::from_str::<NewTask>(&text).unwrap_err().to_string();
            assert!(told(&error).starts_with(expected), "{field}: {}", told(&error));
        }
    }

    #[test]
    fn parameters_of_a_query_are_told_alike() {
        for (query, expected) in [
            ("limit=-1", "must be a whole number, not negative"),
            ("limit=99999999999999999999", "is too large a number"),
            ("top=1", "must be true or false"),
            ("parent=x", "must be an id: a UUID"),
        ] {
            let error = serde_urlencoded::from_str::<TaskFilter>(query).unwrap_err().to_string();
            assert!(told(&error).starts_with(expected), "{query}: {}", told(&error));
        }
    }
}
