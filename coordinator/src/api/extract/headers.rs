//! Headers that some routes read.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::request::Parts;
use orca_proto::limits;
use orca_proto::problem::Kind;

use super::super::refusal::Refusal;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// `Idempotency-Key`: 1 to 128 visible ASCII characters, or none.
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        value
            .to_str()
            .ok()
            .filter(|_| values.next().is_none())
            .filter(|text| (1..=limits::NAME).contains(&text.len()))
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
            .map(|text| Self(Some(text.to_owned())))
            .ok_or_else(|| {
                let detail = format!(
                    "Idempotency-Key must be there once at most, with 1 to {} visible ASCII characters",
                    limits::NAME
                );
                Refusal::new(Kind::Malformed, detail)
            })
    }
}

/// `Last-Event-ID`: where a broken stream of Server-Sent Events goes on. Whoever reads the stream checks it.
pub(crate) struct LastEventId(pub(crate) Option<String>);

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let text = parts.headers.get(LAST_EVENT_ID).map(|value| String::from_utf8_lossy(value.as_bytes()));
        Ok(Self(text.map(|text| text.into_owned()).filter(|text| !text.is_empty())))
    }
}
