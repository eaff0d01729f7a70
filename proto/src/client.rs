//! The typed client of the coordinator's API, for the CLI, for nodes and for other programs.
//!
//! One method per route: operators' in [`operator`], nodes' in [`node`], artifacts' in [`artifact`], live streams in
//! [`stream`]. Every call has a time limit. Nothing is retried here except by [`Client::with_retries`]: whoever calls
//! knows whether a repeat is harmless.

mod artifact;
mod node;
mod operator;
mod stream;
pub mod worker;

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::problem::{Kind, Problem};

pub use artifact::ArtifactStream;
pub use stream::{EventStream, LogItem, LogStream};

/// How long a call may take from the first byte sent to the last byte read, unless the call says otherwise.
const CALL: Duration = Duration::from_secs(30);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Silence on a connection after which the other end is asked whether it is still there.
const PROBE: Duration = Duration::from_secs(15);
/// Between two such probes. Three of them fit in before [`UNANSWERED`]: of ten thousand held requests some lose one.
const PROBE_AGAIN: Duration = Duration::from_secs(4);
/// How long what was sent, or a probe, may go unanswered by the other end's kernel.
const UNANSWERED: Duration = Duration::from_secs(30);
/// Most bytes of an answer that are read into memory.
const ANSWER: usize = 256 << 20;

/// A connection pool to one coordinator with one token.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address or the token cannot be used at all.
    #[error("cannot use {what}: {why}")]
    Setup {
        /// The address or the token.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// The coordinator answered with a problem.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No answer came: refused, cut, or too late. The request may or may not have been carried out.
    #[error("no answer from {url}: {why}")]
    Transport {
        /// Where to.
        url: String,
        /// The innermost reason.
        why: String,
    },
    /// Somebody answered who does not speak as a coordinator does: a proxy, or another server altogether.
    #[error("{url} answered {status} without a problem document; is it a coordinator?")]
    Foreign {
        /// Where to.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer came that this version cannot read.
    #[error("the answer from {url} cannot be read: {why}")]
    Decode {
        /// Where from.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ClientError {
    /// The problem's kind, if the coordinator answered with one.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Problem(problem) => Some(problem.kind),
            _ => None,
        }
    }

    /// Whether the same call may well succeed later: no answer, 429, 503, 504, or a fault of the server's own.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Problem(problem) => transient(problem.status),
            Self::Foreign { status, .. } => transient(*status),
            Self::Transport { .. } => true,
            Self::Setup { .. } | Self::Decode { .. } => false,
        }
    }
}

impl Client {
    /// A client for the coordinator at `base` (such as `http://127.0.0.1:7070`) that sends `token`.
    ///
    /// # Errors
    /// [`ClientError::Setup`] if the address is not http(s) or the token holds characters that a header cannot.
    pub fn new(base: &str, token: &str) -> Result<Self, ClientError> {
        let setup = |what, why: String| ClientError::Setup { what, why };
        let mut base: Url =
            base.parse().map_err(|error| setup("the coordinator's address", format!("{error}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(setup("the coordinator's address", "it must begin with http:// or https://".into()));
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| setup("the token", "it holds characters that no token has".into()))?;
        bearer.set_sensitive(true);
        let http = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .user_agent(concat!("orca/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .tcp_keepalive(PROBE)
            .tcp_keepalive_interval(PROBE_AGAIN)
            .tcp_user_timeout(UNANSWERED)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .build()
            .map_err(|error| setup("the HTTP client", innermost(&error)))?;
        Ok(Self { http, base })
    }

    /// Where the coordinator is.
    #[must_use]
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Runs `call` until it succeeds or fails for good, at most `tries` times, with waits of 0.1 s that double up to 5 s.
    ///
    /// # Errors
    /// The last error.
    pub async fn with_retries<T>(
        tries: u32,
        mut call: impl AsyncFnMut() -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut wait = Duration::from_millis(100);
        for _ in 1..tries {
            match call().await {
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
                settled => return settled,
            }
        }
        call().await
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), path.trim_start_matches('/')));
        url
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).timeout(CALL)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T, ClientError> {
        decode(send(self.request(Method::GET, path).query(query)).await?).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        decode(send(self.request(Method::POST, path).json(body)).await?).await
    }
}

/// Sends, and turns every answer outside 2xx into an error.
async fn send(request: RequestBuilder) -> Result<Response, ClientError> {
    let response = request.send().await.map_err(transport)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let (status, url) = (response.status(), response.url().to_string());
    let bytes = read(response, 1 << 20).await.unwrap_or_default();
    Err(match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => ClientError::Problem(Box::new(problem)),
        Err(_) if status.is_redirection() || status == StatusCode::OK => {
            ClientError::Decode { url, why: format!("status {status}; is this address a coordinator?") }
        }
        Err(_) => ClientError::Foreign { url, status: status.as_u16() },
    })
}

fn transient(status: u16) -> bool {
    status == 429 || status >= 500
}

async fn decode<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let url = response.url().to_string();
    let bytes = read(response, ANSWER).await?;
    serde_json::from_slice(&bytes).map_err(|error| ClientError::Decode { url, why: error.to_string() })
}

async fn read(mut response: Response, most: usize) -> Result<Vec<u8>, ClientError> {
    let url = response.url().to_string();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if bytes.len() + chunk.len() > most {
            return Err(ClientError::Decode { url, why: format!("it is longer than {most} bytes") });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn transport(error: reqwest::Error) -> ClientError {
    let url = error.url().map_or_else(String::new, ToString::to_string);
    let why = if error.is_timeout() { "it took too long".to_owned() } else { innermost(&error) };
    ClientError::Transport { url, why }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
