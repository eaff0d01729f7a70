//! Query parameters: unknown ones are refused, and every fault is told of `?name`.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use orca_proto::problem::Kind;
use serde::de::DeserializeOwned;

use super::super::refusal::Refusal;
use crate::app::fault::{named_field, told};

/// The query.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    if std::str::from_utf8(&decoded(text)).is_err() {
        return Err(Refusal::new(Kind::Malformed, "the query is not UTF-8"));
    }
    let pairs = form_urlencoded::parse(text.as_bytes());
    serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs)).map_err(|error| {
        let message = error.inner().to_string();
        let path = error.path().to_string();
        let name = named_field(&message).unwrap_or(if path == "." { "" } else { &path });
        Refusal::field(format!("?{name}"), told(&message))
    })
}

/// The bytes behind the percent signs.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut ahead = rest.clone();
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(u8::MAX));
                rest = ahead;
            }
            _ => bytes.push(byte),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use orca_proto::task::TaskFilter;

    use super::*;

    #[test]
    fn a_query_is_read_and_each_fault_names_its_parameter() {
        let filter: TaskFilter = parse("state=ready,running&limit=7&top=true&name=a%20b").unwrap();
        assert_eq!((filter.limit, filter.top, filter.name.as_deref()), (Some(7), Some(true), Some("a b")));
        for (text, at) in [
            ("colour=red", "?colour"),
            ("limit=many", "?limit"),
            ("top=1", "?top"),
            ("parent=x", "?parent"),
            ("limit=1&limit=2", "?limit"),
        ] {
            let refusal = parse::<TaskFilter>(text).unwrap_err();
            let problem = refusal.problem();
            assert_eq!((problem.kind, problem.errors[0].pointer.as_str()), (Kind::Validation, at), "{text}");
        }
    }

    #[test]
    fn a_query_that_is_not_utf_8_is_malformed() {
        let refusal = parse::<TaskFilter>("name=%ff").unwrap_err();
        assert_eq!(refusal.problem().kind, Kind::Malformed);
    }
}
