//! Serves `node.sock`: the routes of [`orca_proto::agent::routes`], for one attempt. Whoever connects is hostile.

mod artifact;
mod attempt;
mod egress;
mod json;
mod outcome;
mod problem;
mod signal;

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use orca_proto::agent::{files, routes};
use orca_proto::problem::{Kind, Problem};
use rustix::fs::{AtFlags, Mode, OFlags, renameat, unlinkat};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::directory::Directory;
use super::session::Session;
pub(super) use outcome::left_report;
use problem::ApiProblem;

/// Connections that one attempt may have open at once.
const CONNECTIONS: usize = 32;
/// How long a request's head may take, and how long a connection may wait for the next one.
const HEAD: Duration = Duration::from_secs(30);
/// Bytes of a request's head, and of what is read ahead of its body.
const BUFFER: usize = 64 << 10;
/// How long a request that is under way may take once the attempt is settled.
const FAREWELL: Duration = Duration::from_secs(5);
/// The wait after a connection that could not be accepted: for want of file descriptors, for one.
const PAUSE: Duration = Duration::from_millis(100);

/// A served socket; no more is accepted once this is dropped.
pub(super) struct Server(DropGuard);

impl Server {
    /// Binds the socket and serves it.
    pub(super) fn start(session: Arc<Session>) -> std::io::Result<Self> {
        let listener = bind(&session.directory)?;
        let stop = session.over.clone();
        tokio::spawn(serve(listener, router(session), stop.clone()));
        Ok(Self(stop.drop_guard()))
    }

    /// Stops serving.
    pub(super) fn stop(self) {
        drop(self.0);
    }
}

/// Binds where no container can reach, and moves the socket to where its container looks for it: that may run already, and have put
/// anything there. Binds through the directory's descriptor, as the path itself may be longer than a socket's address can be.
fn bind(directory: &Directory) -> std::io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let private = rustix::fs::open(&directory.private, flags, Mode::empty())?;
    let shared = rustix::fs::open(&directory.shared, flags, Mode::empty())?;
    match unlinkat(&private, files::NODE_SOCKET, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let path = format!("/proc/self/fd/{}/{}", private.as_raw_fd(), files::NODE_SOCKET);
    let listener = UnixListener::bind(&path)?;
    // The container's user may be any; the directory around the attempt's keeps everyone else out.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    renameat(&private, files::NODE_SOCKET, &shared, files::NODE_SOCKET)?;
    Ok(listener)
}

/// Serves a bounded number of connections, each with bounds of its own, until `stop` is cancelled.
async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    let open = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let permit = Arc::clone(&open).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (service, stop) = (TowerToHyperService::new(router.clone()), stop.clone());
                tokio::spawn(async move {
                    converse(stream, service, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on an attempt's socket");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, service: TowerToHyperService<Router>, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        _ended = &mut connection => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ended_or_not = tokio::time::timeout(FAREWELL, connection).await;
        }
    }
}

fn router(session: Arc<Session>) -> Router {
    Router::new()
        .route(routes::ATTEMPT, get(attempt::show))
        .route(routes::STARTED, post(attempt::started))
        .route(routes::PROGRESS, post(attempt::progress))
        .route(routes::LOGS, post(attempt::logs))
        .route(routes::SECRETS, get(attempt::secrets))
        .route(routes::DEPENDENCIES, get(attempt::dependencies))
        .route(&format!("{}/{{name}}", routes::SIGNALS), get(signal::receive))
        .route(&format!("{}/{{to}}", routes::EGRESS), get(egress::tunnel))
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
