//! One connection of a program to the proxy: `CONNECT host:port` (RFC 9110, 9.3.6), or requests in absolute form for `http`.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use orca_proto::problem::Kind;
use orca_proto::spec::Destination;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::refusals::Refusals;
use crate::node_client::{CallError, NodeClient};

/// How long a request's head may take, and how long a connection may wait for the next one.
const HEAD: Duration = Duration::from_secs(60);
/// Bytes of a head, of either side, and how many fields it may have.
const BUFFER: usize = 32 << 10;
const FIELDS: usize = 100;
/// Tunnels that are being opened at once. Each is a request to the node, and the agent's own must find room beside them.
const OPENING: usize = 16;
/// How long the node may take for one. It has limits of its own, which are shorter.
const OPEN: Duration = Duration::from_secs(60);
/// How long one direction of a tunnel may stay open when the other has ended. One that is idle, the node ends.
const HALF: Duration = Duration::from_secs(600);
/// How long a program may take to get the answer to `CONNECT`.
const HANDOVER: Duration = Duration::from_secs(10);

/// Fields that are between two neighbours only (RFC 9110, 7.6.1), beside those that `Connection` names.
const BETWEEN_NEIGHBOURS: [HeaderName; 9] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// What all connections share.
pub(super) struct Proxy {
    client: NodeClient,
    refusals: Refusals,
    opening: Semaphore,
}

/// Why a program's request is not carried out: what it is answered.
struct Declined(StatusCode, String);

impl Proxy {
    pub(super) fn new(client: NodeClient, refusals: Refusals) -> Self {
        Self { client, refusals, opening: Semaphore::new(OPENING) }
    }

    /// Answers on `stream` until that ends or has become a tunnel, which then holds on to `slot` as well.
    pub(super) async fn converse(self: Arc<Self>, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let slot = Arc::new(slot);
        let service = service_fn(move |request| {
            let (proxy, slot) = (Arc::clone(&self), Arc::clone(&slot));
            async move {
                let answer = match *request.method() {
                    Method::CONNECT => proxy.connect(request, slot).await,
                    _ => proxy.forward(request).await,
                };
                Ok::<_, Infallible>(answer.unwrap_or_else(decline))
            }
        });
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(BUFFER)
            .max_headers(FIELDS)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
    }

    async fn connect(
        &self,
        request: Request<Incoming>,
        slot: Arc<OwnedSemaphorePermit>,
    ) -> Result<Answer, Declined> {
        let to = request.uri().authority().ok_or_else(|| bad("CONNECT needs HOST:PORT"))?;
        let to = to.as_str().parse().map_err(|why| bad(&format!("the host and its port {why}")))?;
        let outside = self.open(&to).await?;
        tokio::spawn(async move {
            let _slot = slot;
            if let Ok(Ok(inside)) = timeout(HANDOVER, hyper::upgrade::on(request)).await {
                carry(TokioIo::new(inside), TokioIo::new(outside)).await;
            }
        });
        Ok(Response::new(Either::Right(Full::default())))
    }

    /// Passes a request on to the host in its target, whatever its `Host` says (RFC 9112, 3.2.2).
    async fn forward(&self, mut request: Request<Incoming>) -> Result<Answer, Declined> {
        let (to, host) = target(request.uri())?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| bad("the path cannot be read"))?;
        *request.version_mut() = hyper::Version::HTTP_11;
        let headers = request.headers_mut();
        strip(headers);
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::HOST, host);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let outside = self.open(&to).await?;
        let broken =
            |error: hyper::Error| Declined(StatusCode::BAD_GATEWAY, format!("{to} broke off: {error}"));
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(BUFFER)
            .max_headers(FIELDS)
            .handshake(outside)
            .await
            .map_err(broken)?;
        tokio::spawn(connection);
        let mut response = sender.send_request(request).await.map_err(broken)?;
        strip(response.headers_mut());
        Ok(response.map(Either::Left))
    }

    /// A tunnel to `to`.
    async fn open(&self, to: &Destination) -> Result<Upgraded, Declined> {
        let gone = |error: &dyn std::fmt::Display| Declined(StatusCode::BAD_GATEWAY, error.to_string());
        let _turn = self.opening.acquire().await.map_err(|error| gone(&error))?;
        self.client.tunnel(to, OPEN).await.map_err(|error| {
            let CallError::Refused(problem) = &error else { return gone(&error) };
            if problem.kind == Kind::EgressRefused {
                self.refusals.note(to, &problem.detail);
            }
            // Others are between the agent and the node, and would tell a program something else.
            let known = [403, 429, 502, 503, 504].contains(&problem.status);
            let status = StatusCode::from_u16(problem.status).ok().filter(|_| known);
            Declined(status.unwrap_or(StatusCode::BAD_GATEWAY), error.to_string())
        })
    }
}

/// Where a request in absolute form goes, and the `Host` that says so.
fn target(uri: &Uri) -> Result<(Destination, HeaderValue), Declined> {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(bad("this is a proxy; ask it for http://HOST/PATH, or CONNECT HOST:PORT"));
    };
    if scheme != "http" {
        return Err(bad("the proxy itself speaks http only; use CONNECT HOST:PORT for all else"));
    }
    let usual = authority.port().is_none();
    let text = if usual {
        format!("{}:80", authority.as_str().trim_end_matches(':'))
    } else {
        authority.to_string()
    };
    let to: Destination = text.parse().map_err(|why| bad(&format!("the host and its port {why}")))?;
    let host = if usual { to.host.to_string() } else { to.to_string() };
    let host = HeaderValue::try_from(host).map_err(|_| bad("the host cannot be read"))?;
    Ok((to, host))
}

/// Takes out what is between two neighbours.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&BETWEEN_NEIGHBOURS) {
        headers.remove(name);
    }
}

fn bad(why: &str) -> Declined {
    Declined(StatusCode::BAD_REQUEST, why.to_owned())
}

fn decline(Declined(status, why): Declined) -> Answer {
    let mut answer = Response::new(Either::Right(Full::from(format!("orca-agent: {why}\n"))));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    // What is left of the request is read by nobody.
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Carries bytes both ways until both directions have ended, or one has failed.
async fn carry(inside: impl AsyncRead + AsyncWrite, outside: impl AsyncRead + AsyncWrite) {
    let (from_inside, to_inside) = tokio::io::split(inside);
    let (from_outside, to_outside) = tokio::io::split(outside);
    let sent = pump(from_inside, to_outside);
    let received = pump(from_outside, to_inside);
    tokio::pin!(sent, received);
    let _done_or_late = tokio::select! {
        first = &mut sent => match first { Ok(()) => timeout(HALF, received).await.is_ok(), Err(_) => false },
        first = &mut received => match first { Ok(()) => timeout(HALF, sent).await.is_ok(), Err(_) => false },
    };
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uri: &str) -> Result<String, u16> {
        let (to, host) = target(&uri.parse().map_err(|_| 0_u16)?).map_err(|declined| declined.0.as_u16())?;
        Ok(format!("{to} {}", host.to_str().unwrap()))
    }

    #[test]
    fn a_request_goes_where_its_target_says_and_nowhere_else() {
        assert_eq!(status("http://Example.com/x?y").as_deref(), Ok("example.com:80 example.com"));
        assert_eq!(status("http://example.com.:8080").as_deref(), Ok("example.com:8080 example.com:8080"));
        assert_eq!(status("http://[2606:4700::1]/").as_deref(), Ok("[2606:4700::1]:80 [2606:4700::1]"));
        for bad in [
            "/x",
            "*",
            "https://example.com/",
            "ftp://example.com/",
            "http://user:pw@example.com/",
            "http://example.com:0/",
            "http://example.com:65536/",
            "http://2130706433/",
            "http://[fe80::1%25eth0]/",
            "http://[::1/",
            "http://example.com%2f.evil/",
        ] {
            assert!(matches!(status(bad), Err(0 | 400)), "{bad}: {:?}", status(bad));
        }
    }

    #[test]
    fn what_is_between_two_neighbours_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("proxy-authorization", "Basic eDp4"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["accept"]);
    }
}
