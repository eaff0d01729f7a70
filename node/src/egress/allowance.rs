//! What one attempt may reach: its task's list, the addresses that its names were found to have, and how much of it at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orca_proto::spec::{Destination, EgressRule, Host};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::gate::Gate;
use super::{Refusal, tunnel};

/// Tunnels that one attempt may have open at once, those that are being opened included.
const TUNNELS: usize = 64;
/// Names of one attempt that are being resolved at once.
const LOOKUPS: usize = 4;
/// Names that one attempt may reach in all: wildcards cover any number, and each is remembered.
const NAMES: usize = 1_024;
/// How long a connection to one address may take, and to all addresses of a name together.
const CONNECT: Duration = Duration::from_secs(8);
const CONNECT_ALL: Duration = Duration::from_secs(20);

/// What one attempt may reach.
pub(crate) struct Allowance {
    gate: Arc<Gate>,
    rules: Vec<EgressRule>,
    /// What each name was found to be, once for the whole attempt: a name that changes its address changes nothing here.
    pins: Mutex<HashMap<String, Pin>>,
    tunnels: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    traffic: Arc<Traffic>,
}

type Pin = Arc<OnceCell<Vec<IpAddr>>>;

/// What went through an attempt's tunnels.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(super) tunnels: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// A connection to a host that the attempt may reach.
pub(crate) struct Opened {
    outside: TcpStream,
    traffic: Arc<Traffic>,
    _turns: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Allowance {
    /// The allowance of a task with the list `entries`.
    ///
    /// # Errors
    /// If an entry is none.
    pub(crate) fn new(gate: Arc<Gate>, entries: &[String]) -> Result<Self, String> {
        let read = |entry: &String| {
            EgressRule::parse(entry).map_err(|why| format!("network.egress: {entry:?} {why}"))
        };
        Ok(Self {
            gate,
            rules: entries.iter().map(read).collect::<Result<_, _>>()?,
            pins: Mutex::default(),
            tunnels: Arc::new(Semaphore::new(TUNNELS)),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            traffic: Arc::default(),
        })
    }

    /// Connects to `to`, if the task names it and nothing else speaks against it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) async fn open(&self, to: &Destination) -> Result<Opened, Refusal> {
        if !self.rules.iter().any(|rule| rule.covers(to)) {
            return Err(Refusal::Unnamed(to.clone()));
        }
        let full =
            || Refusal::TooMany(format!("{TUNNELS} connections of this attempt are open; close some first"));
        let own = Arc::clone(&self.tunnels).try_acquire_owned().map_err(|_| full())?;
        let turns = (own, self.gate.admit()?);
        let addresses = match &to.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.pinned(name, to).await?,
        };
        self.gate.check(to, &addresses).await?;
        let outside = connect(to, &addresses).await?;
        self.traffic.tunnels.fetch_add(1, Ordering::Relaxed);
        Ok(Opened { outside, traffic: Arc::clone(&self.traffic), _turns: turns })
    }

    /// Says how much went through, if anything did.
    pub(crate) fn log(&self) {
        let Traffic { tunnels, sent, received } = &*self.traffic;
        let (tunnels, sent) = (tunnels.load(Ordering::Relaxed), sent.load(Ordering::Relaxed));
        if tunnels > 0 {
            tracing::info!(tunnels, sent, received = received.load(Ordering::Relaxed), "bytes of its egress");
        }
    }

    /// The addresses of `name`, as they were found first.
    async fn pinned(&self, name: &str, to: &Destination) -> Result<Vec<IpAddr>, Refusal> {
        let pin = {
            let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
            if pins.len() >= NAMES && !pins.contains_key(name) {
                let detail = format!("this attempt has asked for {NAMES} names, which is the most");
                return Err(Refusal::TooMany(detail));
            }
            Arc::clone(pins.entry(name.to_owned()).or_default())
        };
        let resolve = async || {
            let turn = Arc::clone(&self.lookups).acquire_owned().await.map_err(|_| Refusal::Blind)?;
            self.gate.resolve(name, to, turn).await
        };
        pin.get_or_try_init(resolve).await.cloned()
    }
}

impl Opened {
    /// Carries bytes between `inside` and the host until either is done, or nothing moved for long. Drop it to cut both off.
    pub(crate) async fn carry(self, inside: impl AsyncRead + AsyncWrite) {
        tunnel::carry(inside, self.outside, &self.traffic).await;
    }
}

/// Connects to the first of `addresses` that answers.
async fn connect(to: &Destination, addresses: &[IpAddr]) -> Result<TcpStream, Refusal> {
    let end = Instant::now() + CONNECT_ALL;
    let mut why = Refusal::Slow { to: to.clone(), what: "connecting to" };
    for address in addresses {
        let limit = end.min(Instant::now() + CONNECT);
        why = match timeout_at(limit, TcpStream::connect((*address, to.port))).await {
            Ok(Ok(outside)) => {
                // Who is on the other side decides what goes together, and cannot see that this is not the last hop.
                let _unchanged = outside.set_nodelay(true);
                return Ok(outside);
            }
            Ok(Err(source)) => Refusal::Unreachable { to: to.clone(), source },
            Err(_) => Refusal::Slow { to: to.clone(), what: "connecting to" },
        };
        if Instant::now() >= end {
            break;
        }
    }
    Err(why)
}
