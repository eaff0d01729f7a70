//! Reports, gathered: what ends while a request is under way goes with the next one. Each is sent again until it is answered
//! or its lease is over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Counts;
use super::leases::HeldLease;
use super::membership::Membership;
use super::room::Taken;
use crate::attempt::{AttemptReport, Report, Reports, ReportsSettled, Settled};
use crate::client::ClientError;
use crate::limits;
use crate::node::LeaseRef;
use crate::problem::{Kind, Problem};
use crate::task::{Outcome, State};

/// Bytes of one request, beyond which no further report joins it.
const BODY: usize = limits::BODY - (64 << 10);
/// What a report takes besides its result and its reason, in bytes and generously.
const FRAME: usize = 256;
/// The first wait between two tries; each is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(50);
/// The longest.
const LONGEST: Duration = Duration::from_secs(2);

/// How long the answer to a report is waited for once its lease is over.
const ANSWER: Duration = Duration::from_secs(10);

/// Why a report was not recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrecorded {
    /// The lease was over before the coordinator answered: another attempt counts.
    #[error("the lease was over before the report was recorded")]
    LeaseOver,
    /// The coordinator will not have it.
    #[error("{0}")]
    Refused(Problem),
}

/// What became of reports and grants, since the start.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) granted: AtomicU64,
    pub(super) settled: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) given_up: AtomicU64,
}

impl Tally {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            granted: self.granted.load(Ordering::Relaxed),
            settled: self.settled.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
        }
    }
}

type Answer = Result<State, Unrecorded>;

/// A report on its way, with what goes free once it is settled.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) report: AttemptReport<Box<RawValue>>,
    pub(super) claim: Claim,
}

/// What stands behind a report.
#[derive(Debug)]
pub(super) struct Claim {
    /// When the lease ends, where nobody renews it.
    pub(super) until: Instant,
    /// The lease, where it is renewed.
    pub(super) held: Option<Arc<HeldLease>>,
    /// Whether the lease is to be released in the end.
    pub(super) release: bool,
    pub(super) taken: Option<Taken>,
    pub(super) answer: Option<oneshot::Sender<Answer>>,
}

impl Claim {
    fn is_over(&self) -> bool {
        self.held.as_ref().map_or_else(|| self.until <= Instant::now(), |held| held.is_over())
    }
}

#[derive(Debug)]
struct Queue {
    member: Arc<Membership>,
    waiting: Mutex<Waiting>,
    added: Notify,
    settled: Notify,
    linger: Duration,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    /// Reports that were taken out and are not settled yet.
    under_way: usize,
}

/// Sends reports. Stops when it is dropped, whatever is under way.
#[derive(Debug)]
pub struct Reporter {
    queue: Arc<Queue>,
    _senders: JoinSet<()>,
}

impl Reporter {
    /// Sends reports of `member`, in at most `in_flight` requests at a time. A request waits `linger` for more to join it.
    #[must_use]
    pub fn start(member: Arc<Membership>, in_flight: usize, linger: Duration) -> Self {
        Self::counting(member, in_flight, linger, Arc::default())
    }

    pub(super) fn counting(
        member: Arc<Membership>,
        in_flight: usize,
        linger: Duration,
        tally: Arc<Tally>,
    ) -> Self {
        let queue = Arc::new(Queue {
            member,
            waiting: Mutex::default(),
            added: Notify::new(),
            settled: Notify::new(),
            linger,
            tally,
        });
        let mut senders = JoinSet::new();
        for _ in 0..in_flight.max(1) {
            let queue = Arc::clone(&queue);
            senders.spawn(async move { queue.send().await });
        }
        Self { queue, _senders: senders }
    }

    /// Reports how the attempt of `held` ended, and waits until that is recorded. Whoever holds the lease releases it.
    ///
    /// # Errors
    /// [`Unrecorded`]; then it never will be.
    pub async fn report(
        &self,
        held: &Arc<HeldLease>,
        outcome: Outcome,
        result: Option<Box<RawValue>>,
    ) -> Answer {
        let (answer, answered) = oneshot::channel();
        let LeaseRef { task, token } = held.lease;
        let claim = Claim {
            until: Instant::now(),
            held: Some(Arc::clone(held)),
            release: false,
            taken: None,
            answer: Some(answer),
        };
        self.queue([Entry { report: AttemptReport { task, token, outcome, result }, claim }]);
        tokio::pin!(answered);
        tokio::select! {
            answer = &mut answered => return answer.unwrap_or(Err(Unrecorded::LeaseOver)),
            () = held.over() => {}
        }
        // A report that is recorded ends the lease, and a renewal may say so before the answer to the report is here, as that one
        // waits for the others in its request.
        match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(answer)) => answer,
            _ => Err(Unrecorded::LeaseOver),
        }
    }

    /// Takes reports to send.
    pub(super) fn queue(&self, entries: impl IntoIterator<Item = Entry>) {
        self.queue.lock().entries.extend(entries);
        self.queue.added.notify_one();
    }

    /// Returns once nothing is left to report.
    pub(super) async fn idle(&self) {
        loop {
            let settled = self.queue.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            {
                let waiting = self.queue.lock();
                if waiting.entries.is_empty() && waiting.under_way == 0 {
                    return;
                }
            }
            settled.await;
        }
    }
}

/// Reports that go together; index for index, what stands behind each.
struct Batch {
    reports: Reports<Box<RawValue>>,
    claims: Vec<Claim>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self) {
        loop {
            let count = self.lock().entries.len();
            if count == 0 {
                self.added.notified().await;
                continue;
            }
            if count < limits::REPORTS && !self.linger.is_zero() {
                tokio::time::sleep(self.linger).await;
            }
            let batch = self.take();
            let count = batch.claims.len();
            if count > 0 {
                Box::pin(self.deliver(batch)).await;
                self.lock().under_way -= count;
                self.settled.notify_waiters();
            }
        }
    }

    /// The next reports, as many as fit into one request.
    fn take(&self) -> Batch {
        let mut waiting = self.lock();
        let mut reports = Vec::with_capacity(waiting.entries.len().min(limits::REPORTS));
        let mut claims = Vec::with_capacity(reports.capacity());
        let mut size = 0;
        while reports.len() < limits::REPORTS {
            let Some(next) = waiting.entries.front() else { break };
            size += size_of(&next.report);
            if size > BODY && !reports.is_empty() {
                break;
            }
            let Some(entry) = waiting.entries.pop_front() else { break };
            reports.push(entry.report);
            claims.push(entry.claim);
        }
        waiting.under_way += claims.len();
        if !waiting.entries.is_empty() {
            // There is work for another sender.
            self.added.notify_one();
        }
        Batch { reports: Reports { instance: self.member.instance(), reports }, claims }
    }

    async fn deliver(&self, mut batch: Batch) {
        let mut wait = FIRST;
        loop {
            let error = match self.member.client().report_many(self.member.id(), &batch.reports).await {
                Ok(ReportsSettled { settled }) if settled.len() == batch.claims.len() => {
                    return self.settle(batch.claims, settled.into_iter().map(answer_of).collect());
                }
                Ok(_) => ClientError::Decode {
                    url: self.member.client().base().to_string(),
                    why: "it settles another number of reports than were sent".to_owned(),
                },
                Err(error) => error,
            };
            if !error.is_transient() {
                tracing::warn!(%error, "reports were refused together; sending each by itself");
                return self.deliver_each(batch).await;
            }
            tracing::debug!(%error, "the coordinator is away; reporting again");
            self.keep_alive(&mut batch);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST);
            self.drop_those_over(&mut batch);
            if batch.claims.is_empty() {
                return;
            }
        }
    }

    /// One that nobody can read must not keep the others from being recorded.
    async fn deliver_each(&self, batch: Batch) {
        for (report, claim) in batch.reports.reports.into_iter().zip(batch.claims) {
            let answer = self.deliver_alone(report, &claim).await;
            self.settle(vec![claim], vec![answer]);
        }
    }

    async fn deliver_alone(&self, report: AttemptReport<Box<RawValue>>, claim: &Claim) -> Answer {
        let lease = report.lease();
        let result = report.result.and_then(|text| serde_json::from_str(text.get()).ok());
        let report = Report { outcome: report.outcome, result, plan: None };
        let mut wait = FIRST;
        while !claim.is_over() {
            match self.member.client().report(lease, &report).await {
                Ok(reported) => return Ok(reported.state),
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST);
                }
                Err(ClientError::Problem(problem)) => return Err(refused(*problem)),
                Err(error) => {
                    return Err(Unrecorded::Refused(Problem::new(Kind::Unknown, error.to_string())));
                }
            }
        }
        Err(Unrecorded::LeaseOver)
    }

    /// Has the leases renewed while the coordinator does not answer.
    fn keep_alive(&self, batch: &mut Batch) {
        for (report, claim) in batch.reports.reports.iter().zip(&mut batch.claims) {
            if claim.held.is_none() {
                claim.held = Some(self.member.leases().hold(report.lease(), claim.until, None));
                claim.release = true;
            }
        }
    }

    fn drop_those_over(&self, batch: &mut Batch) {
        let reports = std::mem::take(&mut batch.reports.reports);
        let (over, left): (Vec<_>, Vec<_>) =
            reports.into_iter().zip(batch.claims.drain(..)).partition(|(_, claim)| claim.is_over());
        (batch.reports.reports, batch.claims) = left.into_iter().unzip();
        let over: Vec<_> = over.into_iter().map(|(_, claim)| claim).collect();
        let answers = vec![Err(Unrecorded::LeaseOver); over.len()];
        self.settle(over, answers);
    }

    fn settle(&self, claims: Vec<Claim>, answers: Vec<Answer>) {
        let mut taken = Vec::with_capacity(claims.len());
        for (claim, answer) in claims.into_iter().zip(answers) {
            let counter = match &answer {
                Ok(_) => &self.tally.settled,
                Err(Unrecorded::LeaseOver) => &self.tally.given_up,
                Err(Unrecorded::Refused(_)) => &self.tally.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if let (Some(held), true) = (&claim.held, claim.release) {
                self.member.leases().release(held.lease);
            }
            taken.extend(claim.taken);
            match (claim.answer, answer) {
                (Some(waiting), answer) => {
                    // Whoever waited may have given up.
                    let _ = waiting.send(answer);
                }
                (None, Err(error)) => tracing::warn!(%error, "an outcome was not recorded"),
                (None, Ok(_)) => {}
            }
        }
        Taken::give_back_all(taken);
    }
}

fn size_of(report: &AttemptReport<Box<RawValue>>) -> usize {
    let reason = match &report.outcome {
        Outcome::Failed { reason: Some(reason), .. }
        | Outcome::Rejected { reason }
        | Outcome::RuntimeError { reason } => reason.len(),
        _ => 0,
    };
    // A character may become six when it is escaped.
    FRAME + 6 * reason + report.result.as_ref().map_or(0, |result| result.get().len())
}

fn answer_of(settled: Settled) -> Answer {
    match settled {
        Settled::State(state) => Ok(state),
        Settled::Refused(why) => Err(refused(Problem::new(why.kind.into(), why.detail))),
    }
}

fn refused(problem: Problem) -> Unrecorded {
    if problem.kind == Kind::LeaseLost { Unrecorded::LeaseOver } else { Unrecorded::Refused(problem) }
}
