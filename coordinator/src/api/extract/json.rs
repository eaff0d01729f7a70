//! JSON bodies: one parser, with the place of every fault.
//!
//! What is not JSON at all is `malformed`, with line and column; what is JSON but not the type is `validation`, with a JSON
//! pointer. The path is only tracked in a second pass over a body that was refused, so good requests do not pay for it.

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use orca_proto::limits;
use orca_proto::problem::Kind;
use orca_proto::strict;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use super::super::Api;
use super::super::refusal::Refusal;
use super::body;
use crate::app::fault;

/// Bodies beyond this are parsed where blocking is allowed.
const INLINE: usize = 256 << 10;

/// A JSON body of at most `LIMIT` bytes, or a JSON answer.
pub(crate) struct Json<T, const LIMIT: usize = { limits::BODY }>(pub(crate) T);

impl<T: DeserializeOwned + Send + 'static, const LIMIT: usize> FromRequest<Api> for Json<T, LIMIT> {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        body::refuse_encoded(&parts.headers)?;
        // Boxed: every handler's future has room for this one in it, and some wait for a minute once it is done.
        let whole = Box::pin(body::read(&parts, body, LIMIT, api)).await?;
        if whole.bytes.len() <= INLINE {
            return parse(&whole.bytes).map(Self);
        }
        let parsed = tokio::task::spawn_blocking(move || {
            let whole = whole;
            parse(&whole.bytes)
        })
        .await;
        parsed.unwrap_or_else(|_| Err(Refusal::new(Kind::Internal, "reading the body failed"))).map(Self)
    }
}

impl<T: Serialize, const LIMIT: usize> IntoResponse for Json<T, LIMIT> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => ([(CONTENT_TYPE, "application/json")], bytes).into_response(),
            Err(error) => {
                tracing::error!(%error, "an answer could not be written as JSON");
                Refusal::new(Kind::Internal, "the answer could not be written").into_response()
            }
        }
    }
}

/// Refuses every media type but JSON.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    match body::media_type(headers) {
        Some(kind) if kind == "application/json" => Ok(()),
        _ => Err(Refusal::new(Kind::UnsupportedMediaType, "send JSON with Content-Type: application/json")),
    }
}

/// Reads `bytes` as one JSON document of type `T`.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let detail =
            format!("the body is not UTF-8: byte {} is where it stops being so", error.valid_up_to());
        Refusal::new(Kind::Malformed, detail)
    })?;
    let error = match strict::from_str(text) {
        Ok(value) => return Ok(value),
        // A field may have been refused before the parser came to where the text stops being JSON.
        Err(error) => serde_json::from_str::<IgnoredAny>(text).err().unwrap_or(error),
    };
    match error {
        error if error.classify() == Category::Data => Err(Refusal::fields(fault::fields::<T>(text, &error))),
        _ if text.trim().is_empty() => {
            Err(Refusal::new(Kind::Malformed, "the body is empty; this route reads a JSON document"))
        }
        error => Err(Refusal::new(Kind::Malformed, format!("the body is not JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use orca_proto::attempt::Report;
    use orca_proto::plan::Batch;
    use orca_proto::selector::BulkCancel;
    use orca_proto::spec::NewTask;

    use super::*;

    fn fault<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> (Kind, String, String) {
        let refusal = parse::<T>(text.as_bytes()).unwrap_err();
        let problem = refusal.problem();
        let pointer = problem.errors.first().map(|error| error.pointer.clone()).unwrap_or_default();
        (problem.kind, pointer, problem.detail.clone())
    }

    #[test]
    fn an_unknown_a_missing_and_a_wrong_field_are_each_pointed_at() {
        for (text, at) in [
            (r#"{"container":{"image":"a"},"colour":1}"#, "/colour"),
            (r#"{"container":{"image":"a","imagee":1}}"#, "/container/imagee"),
            (r#"{"container":{}}"#, "/container/image"),
            (r#"{}"#, "/container"),
            (r#"{"container":{"image":"a"},"priority":"high"}"#, "/priority"),
            (r#"{"container":{"image":"a","command":["x",7]}}"#, "/container/command/1"),
            (
                r#"{"container":{"image":"a"},"retry":{"backoff":{"initial":"soon"}}}"#,
                "/retry/backoff/initial",
            ),
            (r#"{"container":{"image":"a"},"a/b~c":1}"#, "/a~1b~0c"),
            (r#"{"container":["a",["x"]]}"#, "/container"),
            (r#"{"container":{"image":"a"},"retry":[5]}"#, "/retry"),
            (r#"[]"#, ""),
            (r#"{"container":{"image":"a"},"labels":{"x":"1","x":"2"}}"#, "/labels/x"),
            (r#"{"container":{"image":"a","env":{"X":"1","X":"2"}}}"#, "/container/env/X"),
            (r#"{"container":{"image":"a"},"annotations":{"x":"1","x":"2"}}"#, "/annotations/x"),
        ] {
            let (kind, pointer, detail) = fault::<NewTask>(text);
            assert_eq!((kind, pointer.as_str()), (Kind::Validation, at), "{text}: {detail}");
        }
        let (_, pointer, _) =
            fault::<Batch>(r#"{"tasks":[{"container":{"image":"a"}},{"container":{"image":4}}]}"#);
        assert_eq!(pointer, "/tasks/1/container/image");
        let (_, pointer, _) = fault::<BulkCancel>(r#"{"selector":[[],"run"]}"#);
        assert_eq!(pointer, "/selector");
        let (_, pointer, _) = fault::<Report>(r#"{"outcome":["succeeded"]}"#);
        assert_eq!(pointer, "/outcome");
        let (kind, ..) = fault::<Report>(r#"{"outcome":{"kind":"exploded"}}"#);
        assert_eq!(kind, Kind::Validation);
    }

    #[test]
    fn each_task_of_a_list_is_told_its_fault_and_not_only_the_first() {
        let text = r#"{"tasks":[{"container":{"image":"a"},"priority":101},{"container":{"image":"a"},"run_at":"tomorrow"},
            {"container":{"image":"a"}},{"container":["a"]}]}"#;
        let refusal = parse::<Batch>(text.as_bytes()).unwrap_err();
        let pointers: Vec<&str> =
            refusal.problem().errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/tasks/0/priority", "/tasks/1/run_at", "/tasks/3/container"]);
        let many = vec![r#"{"container":1}"#; 3_000].join(",");
        let refusal = parse::<Batch>(format!(r#"{{"tasks":[{many}]}}"#).as_bytes()).unwrap_err();
        assert_eq!(refusal.problem().errors.len(), 100, "as many as are told");
    }

    #[test]
    fn what_is_not_json_is_malformed_and_says_where() {
        for text in ["", "  ", "{", "[1,]", "nul", r#"{"a" 1}"#, "{} {}", "\u{feff}{}"] {
            assert_eq!(fault::<serde_json::Value>(text).0, Kind::Malformed, "{text}");
        }
        assert_eq!(fault::<NewTask>(r#"{"colour":1"#).0, Kind::Malformed);
        assert!(fault::<NewTask>("{\n \"container\" 1}").2.contains("line 2 column 14"));
        let deep = "[".repeat(100_000);
        assert_eq!(fault::<serde_json::Value>(&deep).0, Kind::Malformed);
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_malformed() {
        let refusal = parse::<NewTask>(b"{\"container\":{\"image\":\"\xff\"}}").unwrap_err();
        assert_eq!(refusal.problem().kind, Kind::Malformed);
        assert!(refusal.problem().detail.contains("byte 23"), "{}", refusal.problem().detail);
    }

    #[test]
    fn a_long_made_up_name_does_not_make_a_long_answer() {
        let text = format!(r#"{{"container":{{"image":"a"}},"{}":1}}"#, "x".repeat(1 << 20));
        let refusal = parse::<NewTask>(text.as_bytes()).unwrap_err();
        assert!(serde_json::to_string(refusal.problem()).unwrap().len() < 8_192);
    }
}
