//! What every request passes through: its id, the access log, the figures, the time limits.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use orca_proto::problem::Kind;
use tracing::Instrument;
use uuid::Uuid;

use super::Api;
use super::refusal::{self, Refusal};
use super::share::Key;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is taken over from the caller, in bytes.
const REQUEST_ID_LENGTH: usize = 128;

/// How long an ordinary request may take.
const ORDINARY: Duration = Duration::from_secs(30);
/// How long a request that carries a plan, a batch or their results may take.
const LARGE: Duration = Duration::from_secs(120);
/// How long a held request may take: its `wait` of at most 60 s, and what an ordinary one may.
const HELD: Duration = Duration::from_secs(90);

/// Where the authentication leaves who calls, for the access log and for what each may have at a time.
#[derive(Clone, Default)]
pub(super) struct Caller(Arc<OnceLock<Key>>);

impl Caller {
    /// Keeps the name; the first one counts.
    pub(super) fn name(&self, namespace: &str, subject: &str) {
        let _ = self.0.set((namespace.to_owned(), subject.to_owned()));
    }

    /// Who calls, once that is known.
    pub(super) fn key(&self) -> Option<&Key> {
        self.0.get()
    }
}

/// The outermost layer: names the request, times it, logs and counts it, and writes refusals as problem documents.
pub(super) async fn observe(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let method = method_name(request.method());
    let caller = Caller::default();
    request.extensions_mut().insert(caller.clone());

    let in_flight = api.metrics.request_begun();
    let span = tracing::info_span!("request", request.id = id, method, route);
    let mut response = refusal::write(next.run(request).instrument(span).await, &id);
    drop(in_flight);

    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    let took = began.elapsed();
    api.metrics.request_ended(route, method, status, took);
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let subject = caller.key().map_or("-", |(_, subject)| subject);
    if status < 400 && is_chatter(route) {
        tracing::debug!(request.id = id, method, route, status, ms, subject, "answered");
    } else {
        tracing::info!(request.id = id, method, route, status, ms, subject, "answered");
    }
    response
}

/// What machines ask all the time; logged only when it fails or somebody asks for `debug`.
fn is_chatter(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/metrics")
        || route.starts_with("/v1/nodes/{id}/")
        || route.starts_with("/v1/tasks/{id}/attempts/")
}

/// The caller's own id for the request if it has a sane one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|text| !text.is_empty() && text.len() <= REQUEST_ID_LENGTH)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)))
        .map_or_else(|| Uuid::now_v7().to_string(), ToOwned::to_owned)
}

/// The method for logs and figures; a made-up one must not make up a time series.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}

/// The time limit of ordinary routes.
pub(super) async fn ordinary(request: Request, next: Next) -> Response {
    within(ORDINARY, request, next).await
}

/// The time limit of routes that carry plans, batches or their results.
pub(super) async fn large(request: Request, next: Next) -> Response {
    within(LARGE, request, next).await
}

/// The time limit of held requests.
pub(super) async fn held(request: Request, next: Next) -> Response {
    within(HELD, request, next).await
}

/// For routes that read no query: a parameter would be passed over in silence, so it is refused.
pub(super) async fn no_query(request: Request, next: Next) -> Response {
    match form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).next() {
        None => next.run(request).await,
        Some((name, _)) => {
            Refusal::field(format!("?{name}"), "this route has no query parameters").into_response()
        }
    }
}

async fn within(limit: Duration, request: Request, next: Next) -> Response {
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("it took longer than {} s; it may still be carried out", limit.as_secs());
        Refusal::new(Kind::Timeout, detail).into_response()
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use axum::{Router, body};
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        let id = |text: &str| {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            request_id(&HeaderMap::from_iter([(REQUEST_ID, value)]))
        };
        assert_eq!(id("trace-1.2_3:4"), "trace-1.2_3:4");
        for bad in ["", "a b", "naïve", "<script>", &"x".repeat(129)] {
            assert!(id(bad).parse::<Uuid>().is_ok(), "{bad}");
        }
    }

    async fn answer(router: Router, path: &str) -> (u16, serde_json::Value) {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = refusal::write(router.oneshot(request).await.unwrap(), "r-1");
        let status = response.status().as_u16();
        let bytes = body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_beyond_its_time_limit_is_answered_504() {
        let router = Router::new().route("/slow", get(std::future::pending::<()>)).layer(from_fn(ordinary));
        let (status, problem) = answer(router, "/slow").await;
        assert_eq!((status, problem["type"].as_str()), (504, Some("urn:orca:problem:timeout")));
        assert_eq!(problem["request_id"], "r-1");
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_answered_500_without_its_text() {
        async fn boom() {
            panic!("the password is swordfish");
        }
        let router =
            Router::new().route("/boom", get(boom)).layer(CatchPanicLayer::custom(refusal::panicked));
        let (status, problem) = answer(router, "/boom").await;
        assert_eq!((status, problem["type"].as_str()), (500, Some("urn:orca:problem:internal")));
        assert!(!problem.to_string().contains("swordfish"));
    }
}
