//! Where the coordinator is, so that no task is connected to it.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::address::host_of;
use super::lookup::Lookup;
use crate::NodeError;

/// How long what its name resolved to is believed.
const FRESH: Duration = Duration::from_secs(30);
/// How long after a try that found nothing the next one is.
const AGAIN: Duration = Duration::from_secs(5);
/// How long resolving it may take.
const LOOKUP: Duration = Duration::from_secs(5);
/// Addresses that are remembered: those of names that change theirs all the time stay refused.
const REMEMBERED: usize = 256;

/// The coordinator's place.
pub(super) struct Coordinator {
    host: String,
    pub(super) port: u16,
    lookup: Lookup,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    addresses: Vec<IpAddr>,
    /// When to look again.
    due: Option<Instant>,
}

impl Coordinator {
    /// The coordinator at `url`, whose name `lookup` resolves.
    ///
    /// # Errors
    /// If that names no host.
    pub(super) fn at(url: &str, lookup: Lookup) -> Result<Self, NodeError> {
        let wrong = |why: String| NodeError::Setting { setting: "--coordinator", why };
        let url = reqwest::Url::parse(url).map_err(|error| wrong(format!("is no address: {error}")))?;
        let host = url.host_str().ok_or_else(|| wrong("names no host".to_owned()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().ok_or_else(|| wrong("names no port".to_owned()))?;
        Ok(Self { host, port, lookup, known: Mutex::default() })
    }

    /// Every address that its name has, or had since this node looked first. `None` where none was ever found.
    pub(super) async fn addresses(&self) -> Option<Vec<IpAddr>> {
        let mut known = self.known.lock().await;
        if known.due.is_none_or(|due| Instant::now() >= due) {
            // Who waits behind a resolver that does not answer must not wait for each of those before it.
            let mut pause = AGAIN;
            match timeout(LOOKUP, (self.lookup)(self.host.clone())).await {
                Ok(Ok(found)) => {
                    for address in found.into_iter().map(host_of) {
                        if !known.addresses.contains(&address) {
                            known.addresses.push(address);
                        }
                    }
                    let excess = known.addresses.len().saturating_sub(REMEMBERED);
                    known.addresses.drain(..excess);
                    pause = FRESH;
                }
                Ok(Err(error)) => tracing::debug!(%error, "the coordinator's name cannot be resolved now"),
                Err(_) => tracing::debug!("the coordinator's name cannot be resolved in time"),
            }
            known.due = Some(Instant::now() + pause);
        }
        (!known.addresses.is_empty()).then(|| known.addresses.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::super::lookup::by_system;
    use super::*;

    #[tokio::test]
    async fn the_coordinators_place_is_read_from_its_address() {
        for (url, address, port) in [
            ("http://127.0.0.1:7070", "127.0.0.1", 7070),
            ("https://[::1]", "::1", 443),
            ("http://[::ffff:10.0.0.1]:80/path", "10.0.0.1", 80),
        ] {
            let coordinator = Coordinator::at(url, by_system()).unwrap();
            assert_eq!(coordinator.addresses().await, Some(vec![address.parse().unwrap()]), "{url}");
            assert_eq!(coordinator.port, port, "{url}");
        }
        for url in ["unix:/run/x", "nowhere", ""] {
            assert!(Coordinator::at(url, by_system()).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn without_an_address_of_the_coordinator_there_is_none_to_tell() {
        let silent: Lookup = Arc::new(|_| Box::pin(async { Err(io::ErrorKind::NotFound.into()) }));
        let coordinator = Coordinator::at("http://coordinator.example", silent).unwrap();
        assert_eq!(coordinator.addresses().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_the_coordinator_had_stays_refused() {
        let calls = AtomicU8::new(0);
        let changing: Lookup = Arc::new(move |_| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            let found = if call < 2 {
                Ok(vec![Ipv4Addr::new(192, 0, 2, call).into()])
            } else {
                Err(io::ErrorKind::NotFound.into())
            };
            Box::pin(async { found })
        });
        let coordinator = Coordinator::at("http://coordinator.example", changing).unwrap();
        for expected in [1, 2, 2, 2] {
            assert_eq!(coordinator.addresses().await.map(|found| found.len()), Some(expected));
            assert_eq!(
                coordinator.addresses().await.map(|found| found.len()),
                Some(expected),
                "believed for a while"
            );
            tokio::time::sleep(FRESH).await;
        }
    }
}
