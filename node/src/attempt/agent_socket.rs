//! Asks the agent to stop its program, over the socket that it serves. The other end is hostile: everything is bounded.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use orca_proto::agent::{Stop, files, routes};
use orca_proto::task::Timeout;
use tokio::net::UnixStream;

use super::session::Session;

/// The whole exchange.
const LIMIT: Duration = Duration::from_secs(3);

/// Asks for SIGTERM, the brief's grace, SIGKILL: because of a limit, or else of a cancel.
///
/// # Errors
/// If the agent does not serve its socket or does not accept.
pub(super) async fn request_stop(session: &Session, limit: Option<Timeout>) -> io::Result<()> {
    match tokio::time::timeout(LIMIT, post_stop(session, limit)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the agent does not answer")),
    }
}

async fn post_stop(session: &Session, limit: Option<Timeout>) -> io::Result<()> {
    let (held, path) = session.directory.open_socket(files::AGENT_SOCKET)?;
    let stream = UnixStream::connect(path).await?;
    drop(held);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let body = serde_json::to_vec(&Stop { grace: None, limit })?;
    let request = hyper::Request::post(routes::CANCELLATION)
        .header(HOST, "agent")
        .header(AUTHORIZATION, format!("Bearer {}", session.token.expose()))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let exchange = async { sender.send_request(request).await.map_err(io::Error::other) };
    let response = tokio::select! {
        response = exchange => response?,
        ended = connection => {
            ended.map_err(io::Error::other)?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    };
    if response.status().is_success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("the agent answered {}", response.status())))
    }
}
