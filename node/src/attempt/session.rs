//! What the routes of an attempt's socket, its relays and its watch share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use orca_proto::agent::{AgentReport, Brief};
use orca_proto::client::worker::HeldLease;
use orca_proto::ids::ArtifactId;
use orca_proto::task::{Progress, Timeout};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::directory::Directory;
use super::intent::Intent;
use super::redact::Redactor;
use crate::daemon::Node;
use crate::egress::Allowance;

/// JSON bodies that one attempt may have under way at once.
const BODIES: usize = 4;
/// Artifacts that one attempt may have under way at once, in either direction.
const TRANSFERS: usize = 8;
/// Signals that one attempt may wait for at once.
const SIGNALS: usize = 8;

/// Backs the socket of one attempt.
#[derive(Clone)]
pub(super) struct Token(Arc<str>);

impl Token {
    pub(super) fn generate() -> std::io::Result<Self> {
        let mut bytes = [0_u8; 32];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if filled != bytes.len() {
            return Err(std::io::Error::other("the system has no randomness to give"));
        }
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()))
    }

    /// One that was generated before.
    pub(super) fn of(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// Compares hashes: the time it takes tells nothing of the token.
    pub(super) fn matches(&self, given: &str) -> bool {
        Sha256::digest(given) == Sha256::digest(self.expose())
    }
}

/// What an attempt is given beside its brief. It is in memory alone, for as long as the attempt is.
pub(super) struct Given {
    /// The secrets as its agent gets them; empty where the task names none.
    pub(super) secrets: Bytes,
    /// Takes them out of what leaves the node.
    pub(super) redactor: Redactor,
    /// What it may reach, where its task names hosts.
    pub(super) egress: Option<Allowance>,
}

/// One attempt, as its socket sees it.
pub(super) struct Session {
    pub(super) node: Arc<Node>,
    pub(super) lease: Arc<HeldLease>,
    pub(super) brief: Brief,
    pub(super) token: Token,
    pub(super) directory: Directory,
    /// Exactly which image it runs, where that is known.
    pub(super) image: Option<String>,
    /// How many lines the node wrote into the log before the agent.
    pub(super) log_start: i64,
    /// Artifacts that it may read.
    pub(super) readable: HashSet<ArtifactId>,
    /// What it may reach; nothing where its task names no hosts.
    pub(super) egress: Option<Allowance>,
    /// Cancelled once its socket is served no longer.
    pub(super) over: CancellationToken,
    /// The brief as its agent gets it. The one above goes without the input, which may be large.
    pub(super) brief_text: Bytes,
    /// The secrets as its agent gets them; empty where the task names none.
    pub(super) secrets_text: Bytes,
    /// Takes them out of what leaves the node.
    pub(super) redactor: Redactor,
    pub(super) bodies: Arc<Semaphore>,
    pub(super) large_body: Arc<Semaphore>,
    pub(super) transfers: Arc<Semaphore>,
    pub(super) signals: Semaphore,
    /// True once the program was started.
    pub(super) started: watch::Sender<bool>,
    /// The latest, until it is relayed.
    pub(super) progress: watch::Sender<Option<Progress>>,
    /// The limit for which this node had the program stopped.
    pub(super) limit: OnceLock<Timeout>,
    report: Mutex<Option<AgentReport>>,
    reported: Notify,
}

impl Session {
    pub(super) fn new(
        node: Arc<Node>,
        lease: Arc<HeldLease>,
        intent: Intent,
        directory: Directory,
        given: Given,
    ) -> serde_json::Result<Self> {
        let Intent { token, mut brief, readable, image, log_start, .. } = intent;
        let brief_text = serde_json::to_vec(&brief)?.into();
        brief.input = serde_json::Value::Null;
        Ok(Self {
            node,
            lease,
            brief,
            token: Token::of(&token),
            directory,
            image,
            log_start,
            readable,
            egress: given.egress,
            over: CancellationToken::new(),
            brief_text,
            secrets_text: given.secrets,
            redactor: given.redactor,
            bodies: Arc::new(Semaphore::new(BODIES)),
            large_body: Arc::new(Semaphore::new(1)),
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            signals: Semaphore::new(SIGNALS),
            limit: OnceLock::new(),
            started: watch::Sender::new(false),
            progress: watch::Sender::new(None),
            report: Mutex::new(None),
            reported: Notify::new(),
        })
    }

    /// Takes the agent's report; `false` if there already is another.
    pub(super) fn report(&self, report: AgentReport) -> bool {
        let mut known = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref() {
            Some(known) => *known == report,
            None => {
                *known = Some(report);
                self.reported.notify_one();
                true
            }
        }
    }

    /// The report, if there is one.
    pub(super) fn known_report(&self) -> Option<AgentReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns once there is a report.
    pub(super) async fn wait_for_report(&self) -> AgentReport {
        loop {
            if let Some(report) = self.known_report() {
                return report;
            }
            self.reported.notified().await;
        }
    }
}
