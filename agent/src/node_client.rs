//! HTTP to the node over `node.sock`: one connection per request, one try per call. Who may wait tries again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use orca_proto::agent::{TUNNEL, files, routes};
use orca_proto::limits;
use orca_proto::problem::{Kind, Problem};
use orca_proto::spec::Destination;

use crate::attempt_dir::{AttemptDir, Token};
use crate::socket;

/// Longest problem that is read whole.
const LONGEST_PROBLEM: usize = 256 << 10;
/// Longest answer to a JSON call: a brief with its input, or the ids of a batch of children.
const LONGEST_ANSWER: usize = limits::BODY;

/// The node, as one attempt sees it.
#[derive(Clone, Debug)]
pub(crate) struct NodeClient {
    socket: PathBuf,
    token: Token,
}

/// Why a call got no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The socket does not answer.
    #[error("the node does not answer on {}: {source}", socket.display())]
    Unreachable {
        /// Which socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An answer outside 2xx.
    #[error("{}", refusal(.0))]
    Refused(Box<Problem>),
    /// A good answer that cannot be read.
    #[error("the node's answer cannot be read: {0}")]
    Unreadable(String),
}

impl CallError {
    /// Whether the same call may go well later: nobody answered, or somebody who could not help just now.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(problem) => {
                problem.status >= 500 || matches!(problem.status, 401 | 404 | 408 | 425 | 429)
            }
            Self::Unreadable(_) => false,
        }
    }

    /// Whether the attempt's lease is gone.
    pub(crate) fn is_lease_lost(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.kind == Kind::LeaseLost)
    }
}

fn refusal(problem: &Problem) -> &str {
    if problem.detail.is_empty() { &problem.title } else { &problem.detail }
}

impl NodeClient {
    /// The node of `dir`.
    pub(crate) fn new(dir: &AttemptDir, token: Token) -> Self {
        Self { socket: dir.path(files::NODE_SOCKET), token }
    }

    /// A JSON call: `body` is JSON text, or empty for none. The answer's bytes, once it is 2xx.
    ///
    /// # Errors
    /// [`CallError`]; an answer that takes longer than `limit` counts as unreachable.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let media = if body.is_empty() { None } else { Some("application/json") };
        let exchange = async {
            let response = self.open(method, path, media, Full::new(body)).await?;
            read(response.into_body(), LONGEST_ANSWER).await.map_err(|error| self.unreachable(error))
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(silent(limit))),
        }
    }

    /// Sends a request and returns its 2xx answer with the body still to be read.
    ///
    /// # Errors
    /// [`CallError`]. Sets no time limit.
    pub(crate) async fn open<B>(
        &self,
        method: Method,
        path: &str,
        media: Option<&str>,
        body: B,
    ) -> Result<Response<Incoming>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "node")
            .header(header::AUTHORIZATION, self.token.header());
        if let Some(media) = media {
            request = request.header(header::CONTENT_TYPE, media);
        }
        let request = request.body(body).map_err(|error| CallError::Unreadable(error.to_string()))?;
        let response = self.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    /// A connection to a host outside, through the node.
    ///
    /// # Errors
    /// [`CallError`]; an answer that takes longer than `limit` counts as unreachable.
    pub(crate) async fn tunnel(&self, to: &Destination, limit: Duration) -> Result<Upgraded, CallError> {
        let opened = async {
            let request = Request::get(format!("{}/{to}", routes::EGRESS))
                .header(header::HOST, "node")
                .header(header::AUTHORIZATION, self.token.header())
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, TUNNEL)
                .body(Full::<Bytes>::default())
                .map_err(|error| CallError::Unreadable(error.to_string()))?;
            let response = self.send(request).await?;
            let status = response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS {
                let upgraded = hyper::upgrade::on(response).await;
                return upgraded.map_err(|error| self.unreachable(io::Error::other(error)));
            }
            Err(refused(response).await)
        };
        match tokio::time::timeout(limit, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(self.unreachable(silent(limit))),
        }
    }

    async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = socket::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(io::Error::other(error)))?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|error| self.unreachable(io::Error::other(error)))
    }

    fn unreachable(&self, source: io::Error) -> CallError {
        CallError::Unreachable { socket: self.socket.clone(), source }
    }
}

fn silent(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs_f64()))
}

async fn refused(response: Response<Incoming>) -> CallError {
    let status = response.status().as_u16();
    let text = read(response.into_body(), LONGEST_PROBLEM).await.unwrap_or_default();
    CallError::Refused(Box::new(problem(status, &text)))
}

async fn read(body: Incoming, most: usize) -> io::Result<Bytes> {
    let whole = Limited::new(body, most).collect().await.map_err(io::Error::other)?;
    Ok(whole.to_bytes())
}

fn problem(status: u16, text: &[u8]) -> Problem {
    serde_json::from_slice(text).unwrap_or_else(|_| {
        let mut problem = Problem::new(Kind::Unknown, format!("the node answered with status {status}"));
        problem.status = status;
        problem
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_problem_still_carries_its_status() {
        let error = CallError::Refused(Box::new(problem(503, b"<html>")));
        assert!(error.is_passing() && !error.is_lease_lost());
        assert_eq!(error.to_string(), "the node answered with status 503");
    }

    #[test]
    fn a_lost_lease_does_not_pass() {
        let text = serde_json::to_vec(&Problem::new(Kind::LeaseLost, "token 3 is old")).unwrap();
        let error = CallError::Refused(Box::new(problem(409, &text)));
        assert!(error.is_lease_lost() && !error.is_passing());
        assert_eq!(error.to_string(), "token 3 is old");
    }
}
