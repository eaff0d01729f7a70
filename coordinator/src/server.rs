//! Serving connections: what the HTTP library leaves open is bounded here.
//!
//! Headers must arrive within a time and a size, writes must not stall, connections are counted, and a shutdown stops
//! accepting, lets every request in flight finish for a while, and then cuts what is left.

mod stalled;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use stalled::WriteLimit;

/// What the server allows its clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections open at once; more wait in the system's backlog.
    pub(crate) connections: u32,
    /// For a request's headers to arrive; also how long a connection may be idle between requests.
    pub(crate) headers: Duration,
    /// For the client to take what was written.
    pub(crate) stall: Duration,
    /// After a shutdown began, for the requests in flight to finish.
    pub(crate) drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            headers: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Bytes of a request's headers.
const HEADER_BYTES: usize = 32 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// The pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `shutdown`, then drains.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let cut = CancellationToken::new();
    let slots = Arc::new(Semaphore::new(limits.connections as usize));
    let accepting = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection =
                        connection(stream, router.clone(), limits, shutdown.clone(), cut.clone());
                    tracker.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    // Every await in there can be dropped without losing anything but a connection that was not answered yet.
    let _ = shutdown.run_until_cancelled(accepting).await;
    drop(listener);
    tracker.close();
    if tokio::time::timeout(limits.drain, tracker.wait()).await.is_err() {
        tracing::warn!(connections = tracker.len(), "cutting connections that did not finish in time");
        cut.cancel();
        tracker.wait().await;
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
    cut: CancellationToken,
) {
    // Answers are small; one that cannot be hurried is still an answer.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(WriteLimit::new(stream, limits.stall));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_header_size(HEADER_BYTES)
        .max_headers(HEADERS);
    let mut serving = pin!(http.serve_connection(io, TowerToHyperService::new(router)));
    let draining = async {
        shutdown.cancelled().await;
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = draining => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = cut.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn start(limits: Limits, router: Router) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, limits, shutdown.clone()));
        (address, shutdown, server)
    }

    async fn read_to_end(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_is_slow_with_its_headers_is_cut_off() {
        let limits = Limits { headers: Duration::from_millis(100), ..Limits::default() };
        let (address, shutdown, server) = start(limits, Router::new()).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        assert!(!read_to_end(&mut client).await.contains("200"));
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn headers_beyond_their_size_are_refused() {
        let (address, shutdown, server) = start(Limits::default(), Router::new()).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(HEADER_BYTES + 1));
        // The server may cut it off before all is written.
        let _ = client.write_all(head.as_bytes()).await;
        assert!(!read_to_end(&mut client).await.starts_with("HTTP/1.1 404"));
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_shutdown_closes_idle_connections_and_lets_a_request_in_flight_finish() {
        let gate = CancellationToken::new();
        let (entered, inside) = (CancellationToken::new(), gate.clone());
        let began = entered.clone();
        let router = Router::new().route(
            "/held",
            get(move || async move {
                began.cancel();
                inside.cancelled().await;
                "done"
            }),
        );
        let (address, shutdown, server) = start(Limits::default(), router).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        let mut busy = TcpStream::connect(address).await.unwrap();
        busy.write_all(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        tokio::time::timeout(SOON, entered.cancelled()).await.unwrap();
        shutdown.cancel();
        assert_eq!(read_to_end(&mut idle).await, "");
        gate.cancel();
        assert!(read_to_end(&mut busy).await.ends_with("done"));
        tokio::time::timeout(SOON, server).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_request_that_never_finishes_is_cut_after_the_drain_time() {
        let entered = CancellationToken::new();
        let began = entered.clone();
        let router = Router::new().route(
            "/stuck",
            get(move || async move {
                began.cancel();
                std::future::pending::<()>().await;
            }),
        );
        let limits = Limits { drain: Duration::from_millis(50), ..Limits::default() };
        let (address, shutdown, server) = start(limits, router).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        tokio::time::timeout(SOON, entered.cancelled()).await.unwrap();
        shutdown.cancel();
        tokio::time::timeout(SOON, server).await.unwrap().unwrap();
        assert_eq!(read_to_end(&mut client).await, "");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut_off() {
        let body = "x".repeat(64 << 20);
        let router = Router::new().route("/large", get(move || async move { body }));
        let limits = Limits { stall: Duration::from_millis(200), ..Limits::default() };
        let (address, shutdown, server) = start(limits, router).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        // With nothing in flight any more the drain ends well within its ten seconds.
        let begun = client.readable();
        tokio::time::timeout(SOON, begun).await.unwrap().unwrap();
        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_for_a_free_place() {
        let router = Router::new().route("/", get(|| async { "hello" }));
        let limits = Limits { connections: 1, ..Limits::default() };
        let (address, shutdown, server) = start(limits, router).await;
        let first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), second.readable()).await;
        assert!(early.is_err(), "the second connection was served beside the first");
        drop(first);
        assert!(read_to_end(&mut second).await.ends_with("hello"));
        shutdown.cancel();
        server.await.unwrap();
    }
}
