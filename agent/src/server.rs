//! `agent.sock`, for the node: is the agent alive, and stop the program.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use orca_proto::agent::{Health, Stop, routes};
use orca_proto::problem::{self, Kind, Problem};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::attempt_dir::Token;

/// Longest body of a request.
const LONGEST_BODY: usize = 4 << 10;
/// Connections at one time.
const CONNECTIONS: usize = 16;
/// How long one connection may last.
const CONNECTION: Duration = Duration::from_secs(30);
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);

/// What the node is told, and where its wishes go.
pub(crate) struct Desk {
    token: Token,
    /// The program's process id; 0 while there is none.
    pid: AtomicU32,
    stops: mpsc::Sender<Stop>,
}

impl Desk {
    /// A desk before the program's start, and the requests to stop that it hears.
    pub(crate) fn new(token: Token) -> (Arc<Self>, mpsc::Receiver<Stop>) {
        let (stops, heard) = mpsc::channel(CONNECTIONS);
        (Arc::new(Self { token, pid: AtomicU32::new(0), stops }), heard)
    }

    /// The program runs as `pid`; 0 once it has ended.
    pub(crate) fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }
}

/// Answers on `listener` for as long as the agent lives.
pub(crate) async fn serve(listener: UnixListener, desk: Arc<Desk>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(slot) = Arc::clone(&free).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, for one; the next try may find some.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            let _ = timeout(CONNECTION, converse(stream, desk)).await;
            drop(slot);
        });
    }
}

async fn converse(stream: UnixStream, desk: Arc<Desk>) {
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(answer(request, &desk).await.unwrap_or_else(refuse)) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, desk: &Desk) -> Result<Response<Full<Bytes>>, Problem> {
    let shown = request.headers().get(AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    if !desk.token.matches(shown) {
        return Err(Problem::new(
            Kind::Unauthenticated,
            "send the attempt's token as `Authorization: Bearer …`",
        ));
    }
    match (request.uri().path(), request.method()) {
        (routes::HEALTH, &Method::GET) => Ok(health(desk)),
        (routes::CANCELLATION, &Method::POST) => {
            let stop = read_stop(request).await?;
            if desk.stops.try_send(stop).is_err() {
                return Err(Problem::new(Kind::Unavailable, "the agent is busy stopping; ask again"));
            }
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::ACCEPTED;
            Ok(response)
        }
        (path @ (routes::HEALTH | routes::CANCELLATION), method) => {
            Err(Problem::new(Kind::MethodNotAllowed, format!("{path} does not know {method}")))
        }
        (path, _) => Err(Problem::new(Kind::NotFound, format!("the agent serves no {path}"))),
    }
}

fn health(desk: &Desk) -> Response<Full<Bytes>> {
    let pid = Some(desk.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0);
    let health = Health { version: env!("CARGO_PKG_VERSION").to_owned(), pid };
    json(StatusCode::OK, "application/json", &health)
}

async fn read_stop(request: Request<Incoming>) -> Result<Stop, Problem> {
    let media = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(Kind::UnsupportedMediaType, "send the body as application/json"));
    }
    let body = match Limited::new(request.into_body(), LONGEST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Problem::new(Kind::BodyTooLarge, format!("the most is {LONGEST_BODY} bytes")));
        }
        Err(error) => return Err(Problem::new(Kind::Malformed, error.to_string())),
    };
    serde_json::from_slice(&body).map_err(|error| {
        let kind = if error.is_data() { Kind::Validation } else { Kind::Malformed };
        Problem::new(kind, error.to_string())
    })
}

fn refuse(problem: Problem) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, problem::MEDIA_TYPE, &problem);
    if problem.kind == Kind::MethodNotAllowed {
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, POST"));
    }
    response
}

fn json(status: StatusCode, media: &'static str, body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(media));
    response
}
