//! What one attempt may reach: its task's list, the addresses that its names were found to have, and how much of it at once.

use std::collections::{HashMap, HashSet};
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
/// Hosts of one attempt of which the node's log tells that they were refused.
const TOLD: usize = 64;
/// How long a connection to one address may take, and to all addresses of a name together.
const CONNECT: Duration = Duration::from_secs(8);
const CONNECT_ALL: Duration = Duration::from_secs(20);

/// What one attempt may reach.
pub(crate) struct Allowance {
    gate: Arc<Gate>,
    rules: Vec<EgressRule>,
    /// What each name was found to be, once for the whole attempt: a name that changes its address changes nothing here.
    pins: Mutex<HashMap<String, Pin>>,
    /// What was refused and logged.
    told: Mutex<HashSet<Destination>>,
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
            told: Mutex::default(),
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

    /// Whether the node's log is to tell that `to` was refused: once each, and not of hosts without end.
    pub(crate) fn is_news(&self, to: &Destination) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < TOLD && told.insert(to.clone())
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
        pin.get_or_try_init(|| self.gate.resolve(name, to, &self.lookups)).await.cloned()
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::AtomicUsize;

    use tokio::net::TcpListener;

    use super::super::lookup::Lookup;
    use super::*;

    const COORDINATOR: &str = "http://coordinator.example:7070";

    /// An attempt that may reach `entries` where each name has these addresses, however often it is asked for.
    fn attempt(entries: &[&str], opened: &[&str], found: &'static [(&str, &[&str])]) -> Allowance {
        let read = |address: &&str| address.parse::<IpAddr>().unwrap();
        let lookup = move |name: String| {
            let addresses = found.iter().find(|(of, _)| *of == name);
            addresses
                .map(|(_, addresses)| addresses.iter().map(read).collect())
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name"))
        };
        with(entries, opened, Arc::new(move |name| Box::pin(std::future::ready(lookup(name)))))
    }

    fn with(entries: &[&str], opened: &[&str], lookup: Lookup) -> Allowance {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        let opened = opened.iter().map(|range| range.parse().unwrap()).collect();
        Allowance::new(Arc::new(Gate::with(COORDINATOR, opened, lookup).unwrap()), &entries).unwrap()
    }

    async fn refused(attempt: &Allowance, to: &str) -> Refusal {
        match attempt.open(&to.parse().unwrap()).await {
            Ok(_) => panic!("{to} was opened"),
            Err(refusal) => refusal,
        }
    }

    /// Every name but the coordinator's under one, so that one wildcard covers them.
    const FOUND: &[(&str, &[&str])] = &[
        ("coordinator.example", &["198.41.0.4", "2001:500:2::c"]),
        ("inside.t.example", &["10.0.0.1"]),
        ("mixed.t.example", &["198.41.0.5", "10.0.0.1"]),
        ("mapped.t.example", &["::ffff:127.0.0.1"]),
        ("metadata.t.example", &["169.254.169.254"]),
        ("nat64.t.example", &["64:ff9b::a00:1"]),
        ("empty.t.example", &[]),
        ("alias.t.example", &["2001:500:2::c"]),
        ("beside.t.example", &["198.41.0.5", "198.41.0.4"]),
        ("localhost", &["127.0.0.1"]),
    ];

    #[tokio::test]
    async fn a_name_is_refused_if_any_of_its_addresses_is() {
        let list =
            ["*.t.example:80", "localhost:80", "10.0.0.1:80", "[64:ff9b::7f00:1]:80", "[2002:7f00:1::]:80"];
        let attempt = attempt(&list, &[], FOUND);
        for to in [
            "inside.t.example:80",
            "mixed.t.example:80",
            "mapped.t.example:80",
            "metadata.t.example:80",
            "nat64.t.example:80",
            "localhost:80",
            "LOCALHOST.:80",
            "10.0.0.1:80",
            "[::ffff:10.0.0.1]:80",
            "[64:ff9b::7f00:1]:80",
            "[2002:7f00:1::]:80",
        ] {
            let refusal = refused(&attempt, to).await;
            assert!(matches!(refusal, Refusal::Address { .. }), "{to}: {refusal}");
            let told = refusal.to_string();
            let found = ["10.0.0.1", "127.0.0.1", "169.254"]
                .iter()
                .find(|found| told.contains(**found) && !to.contains(**found));
            assert_eq!(found, None, "the node's own knowledge is told: {told}");
        }
        for to in ["empty.t.example:80", "absent.t.example:80"] {
            assert!(matches!(refused(&attempt, to).await, Refusal::Unresolved { .. }), "{to}");
        }
    }

    #[tokio::test]
    async fn the_coordinator_is_refused_under_every_name_and_whatever_is_opened() {
        let list = [
            "coordinator.example",
            "*.t.example",
            "198.41.0.4:22",
            "[2001:500:2::c]",
            "[64:ff9b::c629:4]:80",
        ];
        for opened in [&[][..], &["0.0.0.0/0", "::/0"]] {
            let attempt = attempt(&list, opened, FOUND);
            for to in [
                "coordinator.example:443",
                "alias.t.example:80",
                "beside.t.example:443",
                "198.41.0.4:22",
                "[2001:500:2::c]:443",
                "[64:ff9b::c629:4]:80",
            ] {
                let refusal = refused(&attempt, to).await;
                assert!(matches!(refusal, Refusal::Coordinator(_)), "{to}: {refusal}");
            }
        }
    }

    #[tokio::test]
    async fn what_the_task_does_not_name_is_not_even_resolved() {
        let never: Lookup = Arc::new(|name| panic!("{name} was resolved"));
        let attempt = with(&["api.example.com", "*.t.example:8443"], &["0.0.0.0/0"], never);
        for to in [
            "api.example.com:22",
            "other.example.com:443",
            "api.example.com.t.example:443",
            "t.example:8443",
            "127.0.0.1:443",
            "169.254.169.254:80",
        ] {
            assert!(matches!(refused(&attempt, to).await, Refusal::Unnamed(_)), "{to}");
        }
    }

    #[tokio::test]
    async fn without_knowing_the_coordinator_nothing_is_connected() {
        let attempt = attempt(&["localhost:80"], &["127.0.0.0/8"], &[("localhost", &["127.0.0.1"])]);
        assert!(matches!(refused(&attempt, "localhost:80").await, Refusal::Blind));
    }

    /// A resolver whose every answer is another address of the loopback, and how often it was asked for a name of a task.
    fn rebinding() -> (Lookup, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let lookup = move |name: String| -> io::Result<Vec<IpAddr>> {
            if name == "coordinator.example" {
                return Ok(vec![IpAddr::from([198, 41, 0, 4])]);
            }
            let call = counted.fetch_add(1, Ordering::Relaxed);
            // The first try finds nothing.
            let last = u8::try_from(call).unwrap();
            if call == 0 {
                Err(io::ErrorKind::NotFound.into())
            } else {
                Ok(vec![IpAddr::from([127, 0, 0, last])])
            }
        };
        (Arc::new(move |name| Box::pin(std::future::ready(lookup(name)))), calls)
    }

    #[tokio::test]
    async fn a_name_keeps_the_address_that_it_was_found_to_have_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (lookup, calls) = rebinding();
        let attempt = with(&[&format!("api.example:{port}")], &["127.0.0.0/8"], lookup);
        let to: Destination = format!("api.example:{port}").parse().unwrap();
        assert!(matches!(refused(&attempt, &to.to_string()).await, Refusal::Unresolved { .. }));
        for spelling in ["api.example", "API.EXAMPLE", "api.example."] {
            let to: Destination = format!("{spelling}:{port}").parse().unwrap();
            let opened = attempt.open(&to).await.unwrap_or_else(|refusal| panic!("{refusal}"));
            assert_eq!(opened.outside.peer_addr().unwrap().to_string(), format!("127.0.0.1:{port}"));
        }
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn tunnels_are_bounded_and_one_that_ends_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let attempt = attempt(&[&to], &["127.0.0.0/8"], FOUND);
        let mut open = Vec::new();
        for _ in 0..TUNNELS {
            open.push(attempt.open(&to.parse().unwrap()).await.unwrap_or_else(|refusal| panic!("{refusal}")));
        }
        assert!(matches!(refused(&attempt, &to).await, Refusal::TooMany(_)));
        open.pop();
        assert!(attempt.open(&to.parse().unwrap()).await.is_ok());
    }

    #[tokio::test]
    async fn the_nodes_log_cannot_be_filled_with_refusals() {
        let attempt = attempt(&[], &[], FOUND);
        let news = |n: u16| attempt.is_news(&format!("n.example:{n}").parse().unwrap());
        assert!(news(1) && !news(1));
        assert_eq!((1..=1_000).filter(|n| news(*n)).count(), TOLD - 1);
    }

    #[tokio::test]
    async fn names_without_end_are_not_remembered_without_end() {
        let attempt = attempt(&["*.t.example"], &[], FOUND);
        for n in 0..NAMES {
            assert!(matches!(
                refused(&attempt, &format!("n{n}.t.example:80")).await,
                Refusal::Unresolved { .. }
            ));
        }
        assert!(matches!(refused(&attempt, "one-more.t.example:80").await, Refusal::TooMany(_)));
        assert!(matches!(refused(&attempt, "n0.t.example:80").await, Refusal::Unresolved { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_does_not_answer_is_not_waited_for_and_asked_no_more_than_it_can_take() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let silent: Lookup = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        });
        let attempt = with(&["*.t.example"], &[], silent);
        for n in 0..LOOKUPS * 3 {
            assert!(matches!(refused(&attempt, &format!("n{n}.t.example:80")).await, Refusal::Slow { .. }));
        }
        assert_eq!(asked.load(Ordering::Relaxed), LOOKUPS);
    }

    #[tokio::test]
    async fn a_port_at_which_nobody_listens_is_told_as_that() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap().to_string();
        drop(listener);
        let attempt = attempt(&[&to], &["127.0.0.0/8"], FOUND);
        assert!(matches!(refused(&attempt, &to).await, Refusal::Unreachable { .. }));
    }
}
