//! The proxy that a program without a network finds on its loopback, where its task names hosts that it may reach.
//!
//! It is a convenience and no guard: it speaks the protocol that HTTP clients know ([`proxy`]) and asks the node for a tunnel per
//! connection. What may be reached the node decides, for this proxy as for a program that asks it on its socket.

mod proxy;
mod refusals;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::proxy::Proxy;
use self::refusals::Refusals;
use crate::node_client::NodeClient;

/// Connections to the proxy at one time, those that have become tunnels included. The node allows fewer tunnels, and says so.
const CONNECTIONS: usize = 128;
/// Notes of refusals that wait to be put into the log.
const NOTES: usize = 16;
/// The wait after a connection that could not be accepted: for want of file descriptors, for one.
const PAUSE: Duration = Duration::from_millis(100);

/// A served proxy; no more is accepted once this is dropped.
pub(crate) struct Served {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Lines for the task's log about hosts that were refused, each once.
    pub(crate) notes: mpsc::Receiver<String>,
    _listening: JoinSet<()>,
}

/// Serves a proxy on a free port of the loopback: on IPv4, and on IPv6 where there is one with the same port free.
///
/// # Errors
/// When there is no loopback to listen on.
pub(crate) async fn serve(client: NodeClient) -> io::Result<Served> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let second = TcpListener::bind((Ipv6Addr::LOCALHOST, address.port())).await;
    let (noted, notes) = mpsc::channel(NOTES);
    let proxy = Arc::new(Proxy::new(client, Refusals::to(noted)));
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut listening = JoinSet::new();
    for listener in [Some(listener), second.ok()].into_iter().flatten() {
        listening.spawn(accept(listener, Arc::clone(&free), Arc::clone(&proxy)));
    }
    Ok(Served { address, notes, _listening: listening })
}

async fn accept(listener: TcpListener, free: Arc<Semaphore>, proxy: Arc<Proxy>) {
    let mut connections = JoinSet::new();
    while let Ok(slot) = Arc::clone(&free).acquire_owned().await {
        // What has ended is forgotten before the next is taken: there are never more than slots.
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(Arc::clone(&proxy).converse(stream, slot));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
