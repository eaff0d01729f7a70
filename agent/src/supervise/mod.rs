//! The agent as entrypoint: one attempt from the brief to the report.
//!
//! Order matters at the end: the program is collected, everything it left running is ended, the report is on disk, the
//! log is delivered, and only then is the report. So a report means that nothing of the attempt runs any more.

mod ending;
mod program;
mod signals;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use orca_proto::agent::{AgentReport, Brief, Started, Stop, files, routes};
use orca_proto::log::Stream;
use orca_proto::task::{Outcome, Timeout};
use rustix::process::{Pid, Signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use self::ending::{Ending, Why};
use self::program::{Program, StartError};
use self::signals::{Heard, Signals};
use crate::attempt_dir::AttemptDir;
use crate::contact::{Contact, Gone, Undelivered};
use crate::logs::{self, LogQueue};
use crate::node_client::{CallError, NodeClient};
use crate::oom::KillCount;
use crate::server::{self, Desk};
use crate::{egress, oom, reap, report, secrets, socket};

/// How long to look for a node before there has been any contact.
const CONNECT: Duration = Duration::from_secs(60);
/// How long one try to get the brief may take.
const BRIEF: Duration = Duration::from_secs(10);
/// Between two such tries.
const RETRY: Duration = Duration::from_millis(20);
/// Farther than any time limit that a task may have.
const FAR: Duration = Duration::from_secs(400 * 86_400);

/// Why the agent ended without a report that the node has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The directory lacks its token.
    #[error("cannot read {} (is ORCA_DIR right?): {source}", path.display())]
    Token {
        /// Where it should be.
        path: std::path::PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No brief could be had.
    #[error("cannot get the attempt's brief: {0}")]
    Brief(CallError),
    /// The brief makes no sense.
    #[error("the attempt's brief cannot be read; are agent and node of one version? {0}")]
    BriefText(serde_json::Error),
    /// The secrets that the brief speaks of could not be had.
    #[error("cannot get the task's secrets: {0}")]
    Secrets(String),
    /// Something that the agent needs of its machine.
    #[error("{what}: {source}")]
    Machine {
        /// What could not be done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The node took no report at all.
    #[error("the node refused the report: {0}")]
    Refused(String),
    /// Stopped by a signal before the brief was there.
    #[error("told to stop before the attempt began")]
    Stopped,
    /// The node was silent for too long.
    #[error("the node did not answer for {0}; the program was stopped")]
    Orphaned(orca_proto::duration::Span),
    /// The lease was lost.
    #[error("the lease was lost; the program was stopped")]
    LeaseLost,
}

impl AgentError {
    /// As `main` documents them.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Orphaned(_) => 75,
            Self::LeaseLost => 76,
            _ => 70,
        }
    }
}

type UntilGone = Pin<Box<dyn Future<Output = Gone>>>;

/// What outlives the program within one attempt.
struct Attempt {
    dir: AttemptDir,
    brief: Brief,
    contact: Arc<Contact>,
    desk: Arc<Desk>,
    stops: mpsc::Receiver<Stop>,
    signals: Signals,
    until_gone: UntilGone,
    egress: Option<egress::Served>,
}

/// Runs the attempt of `dir`.
///
/// # Errors
/// [`AgentError`], whenever the node has no report from this agent.
pub(crate) async fn run(dir: AttemptDir) -> Result<(), AgentError> {
    let mut signals = Signals::listen()
        .map_err(|source| AgentError::Machine { what: "cannot listen for signals", source })?;
    reap::adopt_orphans();
    let token = dir.token().map_err(|source| AgentError::Token { path: dir.path(files::TOKEN), source })?;
    let listener = socket::listen(&dir.path(files::AGENT_SOCKET))
        .map_err(|source| AgentError::Machine { what: "cannot serve agent.sock", source })?;
    let (desk, stops) = Desk::new(token.clone());
    tokio::spawn(server::serve(listener, Arc::clone(&desk)));
    let client = NodeClient::new(&dir, token);
    let brief = get_brief(&client, &mut signals).await?;
    // Before the program, which finds its address in the environment.
    let egress = if brief.egress {
        let served = egress::serve(client.clone()).await;
        Some(served.map_err(|source| AgentError::Machine {
            what: "cannot offer the program a proxy on its loopback",
            source,
        })?)
    } else {
        None
    };
    let contact = Arc::new(Contact::new(client));
    let orphan_after = brief.orphan_after.get();
    let watched = Arc::clone(&contact);
    let until_gone = Box::pin(async move { watched.until_gone(orphan_after).await });
    Attempt { dir, brief, contact, desk, stops, signals, until_gone, egress }.run().await
}

async fn get_brief(client: &NodeClient, signals: &mut Signals) -> Result<Brief, AgentError> {
    let end = Instant::now() + CONNECT;
    loop {
        let call = client.call(Method::GET, routes::ATTEMPT, Bytes::new(), BRIEF);
        let answer = tokio::select! {
            answer = call => answer,
            () = terminated(signals) => return Err(AgentError::Stopped),
        };
        match answer {
            Ok(text) => return serde_json::from_slice(&text).map_err(AgentError::BriefText),
            Err(error) if error.is_lease_lost() => return Err(AgentError::LeaseLost),
            Err(error) if !error.is_passing() || Instant::now() >= end => {
                return Err(AgentError::Brief(error));
            }
            Err(_) => sleep(RETRY).await,
        }
    }
}

async fn terminated(signals: &mut Signals) {
    while !matches!(signals.next().await, Heard::Terminate | Heard::Forward(Signal::INT)) {}
}

impl Attempt {
    async fn run(mut self) -> Result<(), AgentError> {
        if self.brief.has_secrets {
            self.fetch_secrets().await?;
        }
        let mut kills = KillCount::begin();
        let program = match program::start(&self.brief, &self.dir, self.proxy()) {
            Ok(program) => program,
            Err(StartError::Rejected(reason)) => {
                return self.settle(Outcome::Rejected { reason }, None, kills.is_seen()).await;
            }
            Err(StartError::Failed { what, source }) => return Err(AgentError::Machine { what, source }),
        };
        let limit = Instant::now() + self.brief.start_to_close.get().min(FAR);
        // A whole input may hang on it, and only the program needs that.
        self.brief.input = serde_json::Value::Null;
        let Program { pid, stdout, stderr } = program;
        self.desk.set_pid(pid.as_raw_nonzero().get().unsigned_abs());
        let (queue, shipper) = logs::queue();
        let (ended, program_ended) = watch::channel(false);
        let readers = [
            tokio::spawn(queue.clone().read(stdout, Stream::Stdout, program_ended.clone())),
            tokio::spawn(queue.clone().read(stderr, Stream::Stderr, program_ended)),
        ];
        let started = tokio::spawn(tell_started(Arc::clone(&self.contact), pid));
        let shipped = tokio::spawn(shipper.ship(Arc::clone(&self.contact)));

        let mut ending = Ending::default();
        let status = self.attend(pid, limit, &mut ending, &queue, &mut kills).await;
        if let Some(mut egress) = self.egress.take() {
            while let Ok(note) = egress.notes.try_recv() {
                queue.note(note);
            }
        }
        kills.look();
        let killed = kills.kills(Instant::now());
        reap::sweep(pid).await;
        self.desk.set_pid(0);
        ended.send_replace(true);
        drop(queue);
        match ending.outcome(status, killed) {
            Ok(outcome) => {
                let deliveries = Deliveries { readers, started, shipped };
                self.settle(outcome, Some(deliveries), kills.is_seen()).await
            }
            Err(gone) => Err(self.gone(gone)),
        }
    }

    /// Puts the task's secrets where its program looks for them.
    async fn fetch_secrets(&mut self) -> Result<(), AgentError> {
        let contact = Arc::clone(&self.contact);
        let answer = tokio::select! {
            answer = contact.deliver(Method::GET, routes::SECRETS, Bytes::new()) => answer,
            gone = &mut self.until_gone => return Err(self.gone(gone)),
            () = terminated(&mut self.signals) => return Err(AgentError::Stopped),
            Some(_) = self.stops.recv() => return Err(AgentError::Stopped),
        };
        let answer = answer.map_err(|error| match error {
            Undelivered::LeaseLost => AgentError::LeaseLost,
            Undelivered::Refused(problem) => AgentError::Secrets(problem.to_string()),
        })?;
        let given = secrets::read(&answer).map_err(AgentError::Secrets)?;
        secrets::write(&self.dir, &given)
            .map_err(|source| AgentError::Machine { what: "cannot write the task's secrets", source })
    }

    /// Waits for the program's end, and brings it about where that is asked for.
    async fn attend(
        &mut self,
        pid: Pid,
        limit: Instant,
        ending: &mut Ending,
        queue: &LogQueue,
        kills: &mut KillCount,
    ) -> ExitStatus {
        let mut look = tokio::time::interval(oom::LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let grace = self.brief.grace.get();
        let mut killed = false;
        let mut is_gone = false;
        loop {
            if let Some(status) = reap::collect(pid) {
                return status;
            }
            let kill_at = ending.kill_at().filter(|_| !killed);
            let (why, grace) = tokio::select! {
                heard = self.signals.next() => match heard {
                    Heard::Child => continue,
                    Heard::Forward(signal) => {
                        reap::signal(pid, signal);
                        continue;
                    }
                    Heard::Terminate => (Why::Cancelled, grace),
                },
                Some(stop) = self.stops.recv() => {
                    (stop.limit.map_or(Why::Cancelled, Why::Limit), stop.grace.map_or(grace, |grace| grace.get()))
                }
                _ = look.tick(), if kills.is_seen() => {
                    kills.look();
                    continue;
                }
                () = sleep_until(limit), if ending.why().is_none() => (Why::Limit(Timeout::StartToClose), grace),
                gone = &mut self.until_gone, if !is_gone => {
                    is_gone = true;
                    // Another node may run the task already.
                    (Why::Gone(gone), if gone == Gone::LeaseLost { Duration::ZERO } else { grace })
                }
                Some(note) = next_note(&mut self.egress) => {
                    queue.note(note);
                    continue;
                }
                () = sleep_until(kill_at.unwrap_or(limit)), if kill_at.is_some() => {
                    killed = true;
                    reap::signal(pid, Signal::KILL);
                    continue;
                }
            };
            if ending.ask(why, Instant::now(), grace) {
                queue.note(notice(why, grace));
                reap::signal(pid, Signal::TERM);
                // A stopped program could not act on it.
                reap::signal(pid, Signal::CONT);
            }
        }
    }

    fn proxy(&self) -> Option<SocketAddr> {
        self.egress.as_ref().map(|egress| egress.address)
    }

    /// Puts the report on disk, then delivers what is still under way, then the report.
    async fn settle(
        mut self,
        outcome: Outcome,
        deliveries: Option<Deliveries>,
        memory_watched: bool,
    ) -> Result<(), AgentError> {
        let report = AgentReport { memory_watched, ..report::compose(&self.dir, outcome) };
        if let Err(error) = report::spool(&self.dir, &report) {
            // A full disk, or a program that took its directory apart. The node puts the report on its own disk anyway.
            eprintln!("orca-agent: cannot write the report to {}: {error}", files::REPORT);
        }
        let delivered = async {
            if let Some(deliveries) = deliveries {
                deliveries.finish().await;
            }
            report::deliver(&self.dir, &self.contact, report).await
        };
        let end = tokio::select! {
            end = delivered => end,
            gone = &mut self.until_gone => return Err(self.gone(gone)),
        };
        match end {
            Ok(()) => Ok(()),
            Err(Undelivered::LeaseLost) => Err(AgentError::LeaseLost),
            Err(Undelivered::Refused(problem)) => Err(AgentError::Refused(problem.to_string())),
        }
    }

    fn gone(&self, gone: Gone) -> AgentError {
        match gone {
            Gone::LeaseLost => AgentError::LeaseLost,
            Gone::Orphaned => AgentError::Orphaned(self.brief.orphan_after),
        }
    }
}

/// What is on its way to the node when the program ends.
struct Deliveries {
    readers: [JoinHandle<()>; 2],
    started: JoinHandle<()>,
    shipped: JoinHandle<()>,
}

impl Deliveries {
    async fn finish(self) {
        for task in self.readers.into_iter().chain([self.started, self.shipped]) {
            let _ = task.await;
        }
    }
}

/// What the proxy has to say, where there is one.
async fn next_note(egress: &mut Option<egress::Served>) -> Option<String> {
    match egress {
        Some(egress) => egress.notes.recv().await,
        None => std::future::pending().await,
    }
}

async fn tell_started(contact: Arc<Contact>, pid: Pid) {
    let started = Started { pid: pid.as_raw_nonzero().get().unsigned_abs() };
    let body = serde_json::to_vec(&started).unwrap_or_default();
    if let Err(Undelivered::Refused(problem)) =
        contact.deliver(Method::POST, routes::STARTED, body.into()).await
    {
        eprintln!("orca-agent: the node does not want to know of the start: {problem}");
    }
}

fn notice(why: Why, grace: Duration) -> String {
    let why = match why {
        Why::Cancelled => "cancelled",
        Why::Limit(Timeout::StartToClose) => "the time limit is reached",
        Why::Limit(Timeout::Heartbeat) => "no progress was reported for as long as its heartbeat allows",
        Why::Limit(Timeout::Deadline) => "the deadline is reached",
        Why::Gone(Gone::LeaseLost) => "the lease is lost",
        Why::Gone(Gone::Orphaned) => "the node does not answer",
    };
    format!("{why}: sent SIGTERM, SIGKILL follows in {}", orca_proto::duration::Span::from(grace))
}
