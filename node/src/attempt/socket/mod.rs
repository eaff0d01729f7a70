//! Serves `node.sock`: the routes of [`orca_proto::agent::routes`], for one attempt. Whoever connects is hostile.

mod artifact;
mod attempt;
mod json;
mod outcome;
mod problem;

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::serve::Listener;
use orca_proto::agent::{files, routes};
use orca_proto::problem::{Kind, Problem};
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::session::Session;
use problem::ApiProblem;

/// Connections that one attempt may have open at once.
const CONNECTIONS: usize = 64;

/// A served socket; no more is accepted once this is dropped.
pub(super) struct Server(DropGuard);

impl Server {
    /// Binds the socket and serves it.
    pub(super) fn start(session: Arc<Session>) -> std::io::Result<Self> {
        let listener = bind(&session.directory.shared)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let limited = Limited { listener, open: Arc::new(Semaphore::new(CONNECTIONS)) };
        let serve = axum::serve(limited, router(session)).with_graceful_shutdown(stopped);
        tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::warn!(%error, "an attempt's socket broke");
            }
        });
        Ok(Self(stop.drop_guard()))
    }

    /// Stops serving.
    pub(super) fn stop(self) {
        drop(self.0);
    }
}

/// Binds through the directory's descriptor: the path itself may be longer than a socket's address can be.
fn bind(directory: &std::path::Path) -> std::io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(directory, flags, Mode::empty())?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), files::NODE_SOCKET))?;
    // The container's user may be any; the directory around the attempt's keeps everyone else out.
    let path = directory.join(files::NODE_SOCKET);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

fn router(session: Arc<Session>) -> Router {
    Router::new()
        .route(routes::ATTEMPT, get(attempt::show))
        .route(routes::STARTED, post(attempt::started))
        .route(routes::PROGRESS, post(attempt::progress))
        .route(routes::LOGS, post(attempt::logs))
        .route(routes::DEPENDENCIES, get(attempt::dependencies))
        .route(routes::CHILDREN, post(attempt::children))
        .route(&format!("{}/{{name}}", routes::ARTIFACTS), get(artifact::fetch).put(artifact::keep))
        .route(routes::RESULT, put(outcome::result))
        .route(routes::PLAN, put(outcome::plan))
        .route(routes::REPORT, post(outcome::report))
        .fallback(async || ApiProblem(Problem::new(Kind::NotFound, "there is no such route on this socket")))
        .method_not_allowed_fallback(async || {
            ApiProblem(Problem::new(Kind::MethodNotAllowed, "this route has other methods"))
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&session), authenticate))
        // Every body is bounded where it is read: JSON by `json`, artifacts by their own cap.
        .layer(DefaultBodyLimit::disable())
        .with_state(session)
}

async fn authenticate(State(session): State<Arc<Session>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match given.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) if session.token.matches(token.trim()) => next.run(request).await,
        _ => {
            let detail = "send the content of the file `token` as `Authorization: Bearer …`";
            ApiProblem(Problem::new(Kind::Unauthenticated, detail)).into_response()
        }
    }
}

/// A listener that accepts no more connections than it has permits.
struct Limited {
    listener: UnixListener,
    open: Arc<Semaphore>,
}

impl Listener for Limited {
    type Io = Counted;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = Arc::clone(&self.open).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Counted { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its permit back when it closes.
struct Counted {
    stream: UnixStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
