//! What holds for all attempts of a node: the addresses that none may reach, and how much they may ask for together.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use orca_proto::spec::Destination;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Refusal;
use super::address::{Closed, host_of, is_closed, is_opened};
use super::coordinator::Coordinator;
use super::lookup::{Lookup, by_system};
use crate::NodeError;
use crate::settings::NodeSettings;

/// Tunnels that all attempts may have open at once; each takes two file descriptors and two small buffers.
const TUNNELS: usize = 4_096;
/// Names that are being resolved at once. The system's resolver takes a thread for each, and cannot be stopped.
const LOOKUPS: usize = 64;
/// How long one may take.
const LOOKUP: Duration = Duration::from_secs(10);
/// Addresses of one name that are used.
const ADDRESSES: usize = 8;

/// The node's own half of every decision.
pub(crate) struct Gate {
    opened: Vec<IpNet>,
    forbidden: bool,
    coordinator: Coordinator,
    lookup: Lookup,
    tunnels: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

impl Gate {
    /// The gate that `settings` ask for.
    ///
    /// # Errors
    /// If the coordinator's address is none.
    pub(crate) fn new(settings: &NodeSettings) -> Result<Self, NodeError> {
        let forbidden = settings.egress.forbidden;
        Ok(Self {
            forbidden,
            ..Self::with(&settings.coordinator.url, settings.egress.allow.clone(), by_system())?
        })
    }

    /// The gate of a node of the coordinator at `url` whose operator opened `opened`, and where `lookup` resolves names.
    pub(super) fn with(url: &str, opened: Vec<IpNet>, lookup: Lookup) -> Result<Self, NodeError> {
        Ok(Self {
            opened,
            forbidden: false,
            coordinator: Coordinator::at(url, Arc::clone(&lookup))?,
            lookup,
            tunnels: Arc::new(Semaphore::new(TUNNELS)),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
        })
    }

    /// Whether no task of this node reaches anything.
    pub(crate) const fn is_shut(&self) -> bool {
        self.forbidden
    }

    /// The right to one more tunnel.
    pub(super) fn admit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let all = || Refusal::TooMany(format!("all {TUNNELS} tunnels of this node are in use; try again"));
        Arc::clone(&self.tunnels).try_acquire_owned().map_err(|_| all())
    }

    /// The addresses of a name, at most [`ADDRESSES`], found in turn. A turn ends when the resolver is done, however late that is.
    pub(super) async fn resolve(
        &self,
        name: &str,
        to: &Destination,
        turns: &Arc<Semaphore>,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let unresolved = |source| Refusal::Unresolved { to: to.clone(), source };
        let looked_up = async {
            let turn = Arc::clone(turns).acquire_owned().await.map_err(io::Error::other)?;
            let shared = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
            let found = (self.lookup)(name.to_owned());
            let lookup = tokio::spawn(async move {
                let _turns = (turn, shared);
                found.await
            });
            lookup.await.map_err(io::Error::other)?
        };
        let found = timeout(LOOKUP, looked_up)
            .await
            .map_err(|_| Refusal::Slow { to: to.clone(), what: "resolving" })?
            .map_err(unresolved)?;
        let mut addresses = Vec::new();
        for address in found {
            if addresses.len() < ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(unresolved(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
        }
        Ok(addresses)
    }

    /// Whether a task may be connected to `to` at these addresses: to all of them or to none. A name with addresses of both
    /// kinds is either a mistake or an attack.
    pub(super) async fn check(&self, to: &Destination, addresses: &[IpAddr]) -> Result<(), Refusal> {
        let refuse = |at: &IpAddr, why| Err(Refusal::Address { to: to.clone(), at: *at, why });
        for address in addresses {
            if let Some(why) = is_closed(*address, &self.opened) {
                return refuse(address, why);
            }
            if is_own(host_of(*address)) && !is_opened(*address, &self.opened) {
                return refuse(address, Closed::own_machine());
            }
        }
        let coordinator = self.coordinator.addresses().await.ok_or(Refusal::Blind)?;
        // On this very machine it can be reached by each of its addresses, and beside it are services that may be opened.
        let beside = coordinator.iter().copied().any(is_own);
        let is_coordinators = |address: &IpAddr| {
            let host = host_of(*address);
            if is_own(host) {
                beside && to.port == self.coordinator.port
            } else {
                coordinator.contains(&host)
            }
        };
        if addresses.iter().any(is_coordinators) { Err(Refusal::Coordinator(to.clone())) } else { Ok(()) }
    }
}

/// Whether `address` is this machine's own: what is sent there would come from there. Sends nothing.
fn is_own(address: IpAddr) -> bool {
    let from: IpAddr = match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    address.is_loopback() || source().is_ok_and(|source: std::net::SocketAddr| source.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beside_a_coordinator_on_this_machine_only_what_was_opened_is_reached() {
        let check = async |opened: &[&str], to: &str| {
            let opened = opened.iter().map(|range| range.parse().unwrap()).collect();
            let gate = Gate::with("http://127.0.0.1:7070", opened, by_system()).unwrap();
            let to: Destination = to.parse().unwrap();
            let orca_proto::spec::Host::Address(address) = to.host else { panic!("{to} is no address") };
            gate.check(&to, &[address]).await
        };
        for to in ["127.0.0.1:7070", "127.0.0.2:7070", "[::1]:7070"] {
            let refused = check(&["127.0.0.0/8", "::1/128"], to).await;
            assert!(matches!(refused, Err(Refusal::Coordinator(_))), "{to}: {refused:?}");
            let refused = check(&["10.0.0.0/8"], to).await;
            assert!(matches!(refused, Err(Refusal::Address { .. })), "{to}: {refused:?}");
        }
        check(&["127.0.0.0/8"], "127.0.0.1:7071").await.unwrap();
        check(&[], "198.41.0.4:7070").await.unwrap();
    }

    #[test]
    fn this_machines_addresses_are_known_from_those_of_others() {
        for own in ["127.0.0.1", "127.255.0.1", "::1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in ["198.41.0.4", "2001:500:2::c", "255.255.255.255", "224.0.0.1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }
}
