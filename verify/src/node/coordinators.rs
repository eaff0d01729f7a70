//! Both coordinators, as one client: whoever does not answer is left for the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use orca_proto::client::{Client, ClientError};

/// The longest that an ordinary request is waited for. Whoever waits no longer has closed the connection in the middle of
/// the request.
const PATIENCE: Duration = Duration::from_secs(4);

/// Clients for the same thing, of which one is used until it fails.
#[derive(Clone)]
pub struct Coordinators {
    clients: Arc<[Client]>,
    current: Arc<AtomicUsize>,
}

impl Coordinators {
    /// One client for each address.
    ///
    /// # Errors
    /// If there is no address, or one cannot be used.
    pub fn new(addresses: &[String], token: &str, first: usize) -> Result<Self> {
        if addresses.is_empty() {
            bail!("there is no coordinator");
        }
        let clients: Result<Vec<Client>, _> =
            addresses.iter().map(|address| Client::new(address, token)).collect();
        Ok(Self { clients: clients?.into(), current: Arc::new(AtomicUsize::new(first)) })
    }

    /// The client in use.
    #[must_use]
    pub fn current(&self) -> &Client {
        let at = self.current.load(Ordering::Relaxed) % self.clients.len();
        &self.clients[at]
    }

    /// All clients.
    #[must_use]
    pub fn all(&self) -> &[Client] {
        &self.clients
    }

    /// Leaves the client in use for the next.
    pub fn turn(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits for a request for a few seconds, and `held` longer.
///
/// # Errors
/// The request's own, or that it took too long.
pub async fn patiently<T>(
    held: Duration,
    request: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(PATIENCE + held, request).await.unwrap_or_else(|_| {
        Err(ClientError::Transport { url: String::new(), why: "the caller gave up".to_owned() })
    })
}
