//! Breaking one thing, and making it whole again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::sleep;

use super::Fault;
use crate::clock;
use crate::history::{Phase, Recorder, What};
use crate::system::{Break, Link, Mode, System};

/// Who writes of faults.
const WHO: &str = "faults";
/// The most connections that are taken.
const CONNECTIONS: usize = 60;

pub(super) struct Inflictor {
    system: Arc<System>,
    recorder: Recorder,
    offset_ms: AtomicI64,
}

impl Inflictor {
    pub(super) fn new(system: Arc<System>, recorder: Recorder) -> Self {
        Self { system, recorder, offset_ms: AtomicI64::new(0) }
    }

    fn note(&self, fault: &str, target: &str, phase: Phase) {
        let what = What::Fault { fault: fault.to_owned(), target: target.to_owned(), phase };
        self.recorder.note(WHO, what);
    }

    /// Notes the begin, does `work`, notes the end.
    async fn during<T>(&self, fault: &str, target: &str, work: impl Future<Output = T>) -> T {
        self.note(fault, target, Phase::Begin);
        let done = work.await;
        self.note(fault, target, Phase::End);
        done
    }

    pub(super) async fn inflict(&self, fault: &Fault) -> Result<()> {
        match *fault {
            Fault::KillNode(number, pause) => self.kill_node(number, pause).await,
            Fault::StopNode(number, time) => {
                let node = self.system.nodes.get(number).context("no such node")?.lock().await;
                let work = async {
                    node.signal(Signal::STOP);
                    sleep(time).await;
                    node.signal(Signal::CONT);
                };
                self.during("stop", &node.name, work).await;
                Ok(())
            }
            Fault::KillCoordinator(number, pause) => self.kill_coordinator(number, pause).await,
            Fault::StopCoordinator(number, time) => {
                let coordinator =
                    self.system.coordinators.get(number).context("no such coordinator")?.lock().await;
                let work = async {
                    coordinator.signal(Signal::STOP);
                    sleep(time).await;
                    coordinator.signal(Signal::CONT);
                };
                self.during("stop", &coordinator.name, work).await;
                Ok(())
            }
            Fault::RestartPostgres => self.restart_postgres("restart immediately", Signal::QUIT).await,
            Fault::KillPostgres => self.restart_postgres("kill", Signal::KILL).await,
            Fault::StopPostgres(time) => {
                let postgres = self.system.postgres.lock().await;
                let work = async {
                    postgres.signal_all(Signal::STOP);
                    sleep(time).await;
                    postgres.signal_all(Signal::CONT);
                };
                self.during("stop", "postgres", work).await;
                Ok(())
            }
            Fault::ExhaustConnections(time) => {
                let _postgres = self.system.postgres.lock().await;
                self.during("take all connections", "postgres", exhaust(&self.system.database, time)).await;
                Ok(())
            }
            Fault::MoveClock(by) => {
                let postgres = self.system.postgres.lock().await;
                let offset_ms = self.offset_ms.fetch_add(by, Ordering::Relaxed) + by;
                let since = clock::micros();
                postgres.set_clock(offset_ms)?;
                self.recorder.note(WHO, What::ClockMoved { since, offset_ms });
                let fault = if by > 0 { "clock forward" } else { "clock back" };
                self.note(fault, "postgres", Phase::Once);
                Ok(())
            }
            Fault::DelayLink(link, by, time) => self.mode(link, "delay", Mode::Delay(by), time).await,
            Fault::StallLink(link, time) => self.mode(link, "stall", Mode::Stall, time).await,
            Fault::RefuseLink(link, time) => {
                self.link(link)?.break_open(Break::Cut);
                self.mode(link, "refuse", Mode::Refuse, time).await
            }
            Fault::CutLink(link) => self.broken(link, "cut", Break::Cut),
            Fault::HalfCloseLink(link) => self.broken(link, "half-close", Break::HalfClose),
        }
    }

    async fn kill_node(&self, number: usize, pause: Duration) -> Result<()> {
        let mut node = self.system.nodes.get(number).context("no such node")?.lock().await;
        let name = node.name.clone();
        let work = async {
            node.kill().await;
            sleep(pause).await;
            node.start()
        };
        self.during("kill", &name, work).await
    }

    async fn kill_coordinator(&self, number: usize, pause: Duration) -> Result<()> {
        let process = self.system.coordinators.get(number).context("no such coordinator")?;
        let mut coordinator = process.lock().await;
        let name = coordinator.name.clone();
        let work = async {
            coordinator.kill().await;
            sleep(pause).await;
            drop(coordinator);
            self.system.start_coordinator(number).await
        };
        self.during("kill", &name, work).await
    }

    async fn restart_postgres(&self, fault: &str, signal: Signal) -> Result<()> {
        let postgres = self.system.postgres.clone().lock_owned().await;
        let work = tokio::task::spawn_blocking(move || {
            let mut postgres = postgres;
            postgres.restart(signal)
        });
        self.during(fault, "postgres", work).await?
    }

    fn link(&self, number: usize) -> Result<&Link> {
        let count = self.system.links.len().max(1);
        Ok(self.system.links.get(number % count).context("there are no links")?)
    }

    async fn mode(&self, number: usize, fault: &str, mode: Mode, time: Duration) -> Result<()> {
        let link = self.link(number)?;
        let work = async {
            link.set(mode);
            sleep(time).await;
            link.set(Mode::Pass);
        };
        self.during(fault, &link.name, work).await;
        Ok(())
    }

    fn broken(&self, number: usize, fault: &str, how: Break) -> Result<()> {
        let link = self.link(number)?;
        link.break_open(how);
        self.note(fault, &link.name, Phase::Once);
        Ok(())
    }
}

/// Takes every connection that is to be had. Two of them hold a transaction open that has seen the queue and does nothing.
async fn exhaust(database: &str, time: Duration) {
    let until = tokio::time::Instant::now() + time;
    let mut taken = Vec::new();
    while tokio::time::Instant::now() < until {
        if taken.len() < CONNECTIONS
            && let Ok(Ok(mut connection)) =
                tokio::time::timeout(Duration::from_millis(500), PgConnection::connect(database)).await
        {
            if taken.len() < 2 {
                let idle = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
                let _ = connection.execute(idle).await;
            }
            taken.push(connection);
        } else {
            sleep(Duration::from_millis(50)).await;
        }
    }
    for connection in taken {
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
    }
}
