//! Reading bodies: bounded in size, in silence, and the large ones also in how slow they may be and how many there are at a
//! time.

use std::io;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::BodyExt;
use orca_proto::limits;
use orca_proto::problem::Kind;

use super::super::Api;
use super::super::pipeline::Caller;
use super::super::refusal::Refusal;
use super::super::share::LargeBody;

/// How long a body may be silent in its middle.
const SILENCE: Duration = Duration::from_secs(15);
/// How much of a large body must come in each [`WINDOW`] once it has its place: 64 KiB/s.
const WINDOW_BYTES: usize = 640 << 10;
/// Over how long the pace is measured.
const WINDOW: Duration = Duration::from_secs(10);
/// How much of a body that is too large is still read, so that the caller gets to read the answer.
const DRAIN: usize = 64 << 20;
/// And for how long.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// The most that is set aside for a body on the strength of its `Content-Length` alone.
const TRUSTED: usize = 256 << 10;

/// A whole body, and its place among the few large ones that may be in memory at a time.
pub(super) struct Whole {
    /// The bytes.
    pub(super) bytes: Vec<u8>,
    _turn: Option<LargeBody>,
}

/// The whole body, if it has at most `limit` bytes.
pub(super) async fn read(parts: &Parts, mut body: Body, limit: usize, api: &Api) -> Result<Whole, Refusal> {
    let headers = &parts.headers;
    let declared = content_length(headers);
    if declared.is_some_and(|length| length > limit as u64) {
        // Who asks first (`Expect: 100-continue`) has not sent anything yet, and need not.
        if !headers.contains_key(EXPECT) {
            drain(body).await;
        }
        return Err(too_large(limit));
    }
    let declared = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(declared.min(TRUSTED));
    let mut turn: Option<(LargeBody, Pace)> = None;
    while let Some(chunk) = next(&mut body).await? {
        if bytes.len() + chunk.len() > limit {
            drop(bytes);
            drain(body).await;
            return Err(too_large(limit));
        }
        if let Some((_, pace)) = &mut turn {
            pace.came(chunk.len(), Instant::now())?;
        } else if bytes.len() + chunk.len() > limits::BODY {
            let caller = parts.extensions.get::<Caller>().and_then(Caller::key);
            let place = api.shares.large_body(caller).await;
            turn = Some((place, Pace { began: Instant::now(), bytes: 0 }));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Whole { bytes, _turn: turn.map(|(place, _)| place) })
}

/// How fast a large body comes: its place is one of few.
struct Pace {
    began: Instant,
    bytes: usize,
}

impl Pace {
    fn came(&mut self, bytes: usize, now: Instant) -> Result<(), Refusal> {
        self.bytes = self.bytes.saturating_add(bytes);
        if now.saturating_duration_since(self.began) < WINDOW {
            return Ok(());
        }
        if self.bytes < WINDOW_BYTES {
            let detail = format!(
                "the body came too slowly: beyond {} MiB at least {} KiB must come in {} s",
                limits::BODY >> 20,
                WINDOW_BYTES >> 10,
                WINDOW.as_secs()
            );
            return Err(Refusal::new(Kind::Timeout, detail));
        }
        (self.began, self.bytes) = (now, 0);
        Ok(())
    }
}

/// The next piece of data; `None` at the end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    loop {
        match tokio::time::timeout(SILENCE, body.frame()).await {
            Err(_) => {
                let detail = format!("nothing of the body came for {} s", SILENCE.as_secs());
                return Err(Refusal::new(Kind::Timeout, detail));
            }
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(Refusal::new(Kind::Malformed, "the body broke off")),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn drain(mut body: Body) {
    let reading = async {
        let mut left = DRAIN;
        while let Ok(Some(chunk)) = next(&mut body).await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Whether it ended or not, the answer goes out next.
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

fn too_large(limit: usize) -> Refusal {
    let detail = format!(
        "this route reads at most {limit} bytes; send tasks in several batches, and what is large as an artifact"
    );
    Refusal::new(Kind::BodyTooLarge, detail)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The media type without its parameters, in lower case; `None` if there is none.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = String::from_utf8_lossy(headers.get(CONTENT_TYPE)?.as_bytes());
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Bodies are read as they are: what is compressed is refused, so that nothing can unpack to more than its limit.
pub(super) fn refuse_encoded(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Refusal::new(Kind::UnsupportedMediaType, "send the body without a Content-Encoding"))
        }
        _ => Ok(()),
    }
}

/// For routes whose request says everything by its path: an empty body or `{}`.
pub(crate) struct NoBody;

impl FromRequest<Api> for NoBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        const LIMIT: usize = 1_024;
        let (parts, body) = request.into_parts();
        refuse_encoded(&parts.headers)?;
        let bytes = read(&parts, body, LIMIT, api).await?.bytes;
        if bytes.is_empty() {
            return Ok(Self);
        }
        super::json::require_json(&parts.headers)?;
        let nothing: Nothing = super::json::parse(&bytes)?;
        let _ = nothing;
        Ok(Self)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A small JSON body that may be left out.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: serde::de::DeserializeOwned + Default> FromRequest<Api> for OptionalJson<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        const LIMIT: usize = 16 << 10;
        let (parts, body) = request.into_parts();
        refuse_encoded(&parts.headers)?;
        let bytes = read(&parts, body, LIMIT, api).await?.bytes;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        super::json::require_json(&parts.headers)?;
        super::json::parse(&bytes).map(Self)
    }
}

/// The bytes of a file as they arrive: `application/octet-stream`.
pub(crate) struct Upload(Body);

impl<S: Sync> FromRequest<S> for Upload {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        refuse_encoded(&parts.headers)?;
        match media_type(&parts.headers) {
            None => {}
            Some(kind) if kind == "application/octet-stream" => {}
            Some(_) => {
                let detail = "send the file's bytes with Content-Type: application/octet-stream";
                return Err(Refusal::new(Kind::UnsupportedMediaType, detail));
            }
        }
        if content_length(&parts.headers).is_some_and(|length| length > limits::ARTIFACT) {
            let detail = format!("an artifact has at most {} bytes", limits::ARTIFACT);
            return Err(Refusal::new(Kind::BodyTooLarge, detail));
        }
        Ok(Self(body))
    }
}

impl Upload {
    /// The bytes; an error if they break off or nothing comes for a while.
    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        async_stream::stream! {
            let mut body = self.0;
            loop {
                match next(&mut body).await {
                    Ok(Some(chunk)) => yield Ok(chunk),
                    Ok(None) => return,
                    Err(_) => {
                        yield Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the upload broke off"));
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_body_that_trickles_is_cut_off_and_one_that_flows_is_not() {
        let began = Instant::now();
        let mut flowing = Pace { began, bytes: 0 };
        let mut trickling = Pace { began, bytes: 0 };
        for second in 1..=60_u64 {
            let now = began + Duration::from_secs(second);
            assert!(flowing.came(70 << 10, now).is_ok(), "after {second} s");
            assert_eq!(trickling.came(1 << 10, now).is_ok(), second < 10, "after {second} s");
            if second == 10 {
                break;
            }
        }
        for second in 11..=60_u64 {
            assert!(flowing.came(70 << 10, began + Duration::from_secs(second)).is_ok());
        }
        let refusal = trickling.came(1, began + Duration::from_secs(11)).unwrap_err();
        assert_eq!(refusal.problem().kind, Kind::Timeout);
    }
}
