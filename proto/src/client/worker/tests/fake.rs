//! A coordinator of a few lines: grants what a test gives it, remembers what it was told, and has its moods.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::attempt::{AttemptReport, Refused, RefusedKind, Report, Reports, ReportsSettled, Settled};
use crate::duration::Span;
use crate::ids::{FencingToken, InstanceId, NodeId, TaskId};
use crate::node::{ClaimRequest, Claimed, Grant, LeaseRef, Registered, Registration, RenewRequest, Renewed};
use crate::problem::{Kind, Problem};
use crate::spec::{NewTask, Role};
use crate::task::{Outcome, State};

/// Longer than anything here may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// What it was told, and what it will say.
#[derive(Default)]
pub(super) struct Book {
    pub(super) queue: VecDeque<Grant>,
    pub(super) registrations: Vec<Registration>,
    pub(super) claims: Vec<ClaimRequest>,
    pub(super) renewals: Vec<RenewRequest>,
    pub(super) cancel: Vec<LeaseRef>,
    pub(super) lost: Vec<LeaseRef>,
    /// How many reports came with each request.
    pub(super) batches: Vec<usize>,
    pub(super) settled: HashMap<LeaseRef, (Outcome, Option<Value>)>,
    /// Reports of a lease that was settled already, or never granted.
    pub(super) unexpected: usize,
    pub(super) granted: usize,
    /// Most leases that were out at one time.
    pub(super) most: usize,
    /// Whether what was reported is only answered once this is over.
    pub(super) hold_reports: bool,
    /// Answer this to reports.
    pub(super) refuse_reports: Option<Kind>,
    /// Answer this to claims and renewals.
    pub(super) refuse: Option<Kind>,
    /// Answers this to each report of a batch.
    pub(super) refuse_each: Option<RefusedKind>,
}

/// A fake coordinator on a port of its own.
#[derive(Clone)]
pub(super) struct Fake {
    pub(super) url: String,
    lease: Duration,
    book: Arc<Mutex<Book>>,
    changed: watch::Sender<()>,
}

type Answer = Result<Value, Kind>;

impl Fake {
    pub(super) async fn start(lease: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self { url, lease, book: Arc::default(), changed: watch::Sender::new(()) };
        let served = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = served.clone();
                tokio::spawn(async move { fake.converse(stream).await });
            }
        });
        fake
    }

    pub(super) fn registration(&self) -> Registration {
        Registration {
            name: "w".into(),
            instance: InstanceId::new(),
            role: Role::Work,
            slots: 1,
            version: "test".into(),
            runtime: "none".into(),
            labels: [].into(),
            cpus: None,
            memory: None,
            resumes: Vec::new(),
            home: None,
        }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// Changes the book and wakes whoever waits.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let made = change(&mut self.book());
        self.changed.send_replace(());
        made
    }

    /// Puts a task into the queue.
    pub(super) fn enqueue(&self, deadline_in: Option<Span>) -> LeaseRef {
        let lease = LeaseRef { task: TaskId::new(), token: FencingToken(1) };
        let grant = Grant {
            task: lease.task,
            token: lease.token,
            attempt: 1,
            max_attempts: 3,
            lease: Span::from(self.lease),
            step: None,
            parent: None,
            has_dependencies: false,
            deadline_in,
            spec: NewTask::new("noop"),
        };
        self.change(|book| book.queue.push_back(grant));
        lease
    }

    /// Waits until `look` finds something in the book.
    pub(super) async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut Book) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                changed.mark_unchanged();
                let found = look(&mut self.book());
                match found {
                    Some(found) => return found,
                    None => changed.changed().await.unwrap(),
                }
            }
        };
        match tokio::time::timeout(LIMIT, found).await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain for {what}"),
        }
    }

    /// Waits for the outcome of one lease.
    pub(super) async fn outcome(&self, lease: LeaseRef) -> Outcome {
        self.until("an outcome", |book| book.settled.get(&lease).map(|(outcome, _)| outcome.clone())).await
    }

    async fn converse(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut path, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                if path.is_empty() {
                    path = line.split(' ').nth(1).unwrap().to_owned();
                } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                } else if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            let (status, text) = match self.answer(&path, &body).await {
                Ok(value) => (200, value.to_string()),
                Err(kind) => {
                    (kind.status(), serde_json::to_string(&Problem::new(kind, "said the fake")).unwrap())
                }
            };
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            if stream.get_mut().write_all(head.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, path: &str, body: &[u8]) -> Answer {
        let tail = path.rsplit('/').next().unwrap();
        match tail {
            "nodes" => {
                self.change(|book| book.registrations.push(serde_json::from_slice(body).unwrap()));
                Ok(json!(Registered {
                    id: NodeId(uuid::Uuid::nil()),
                    lease: Span::from(self.lease),
                    resumed: Vec::new()
                }))
            }
            "claims" => self.claim(serde_json::from_slice(body).unwrap()).await,
            "renewals" => self.renew(serde_json::from_slice(body).unwrap()).await,
            "reports" => {
                let answer = self.reports(serde_json::from_slice(body).unwrap());
                self.held(LIMIT, |book| (!book.hold_reports).then_some(())).await?;
                answer
            }
            "report" => {
                let mut parts = path.rsplit('/').skip(1);
                let token = parts.next().unwrap().parse().unwrap();
                let task = parts.nth(1).unwrap().parse().unwrap();
                let Report { outcome, result, .. } = serde_json::from_slice(body).unwrap();
                self.change(|book| settle(book, AttemptReport { task, token, outcome, result }));
                Ok(json!({"state": State::Succeeded}))
            }
            _ => Err(Kind::NotFound),
        }
    }

    async fn claim(&self, request: ClaimRequest) -> Answer {
        let (slots, wait) = (request.slots as usize, request.wait.get());
        self.change(|book| book.claims.push(request));
        let granted = self.held(wait, |book| {
            let count = book.queue.len().min(slots);
            (count > 0).then(|| {
                let grants: Vec<_> = book.queue.drain(..count).collect();
                book.granted += count;
                book.most = book.most.max(book.granted - book.settled.len());
                grants
            })
        });
        Ok(json!(Claimed { grants: granted.await?.unwrap_or_default() }))
    }

    async fn renew(&self, request: RenewRequest) -> Answer {
        self.change(|book| book.renewals.push(request.clone()));
        let news = self.held(request.wait.get(), |book| {
            let held = |lease: &&LeaseRef| request.leases.contains(lease);
            let lost: Vec<_> = book.lost.iter().filter(held).copied().collect();
            let new = |lease: &&LeaseRef| !request.cancelling.contains(lease);
            let cancel: Vec<_> = book.cancel.iter().filter(held).filter(new).copied().collect();
            (!lost.is_empty() || !cancel.is_empty()).then_some((lost, cancel))
        });
        let (lost, cancel) = news.await?.unwrap_or_default();
        Ok(json!(Renewed { lease: Span::from(self.lease), lost, cancel }))
    }

    /// Holds a request until `look` finds something, for at most `wait`.
    async fn held<T>(
        &self,
        wait: Duration,
        mut look: impl FnMut(&mut Book) -> Option<T>,
    ) -> Result<Option<T>, Kind> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                changed.mark_unchanged();
                {
                    let mut book = self.book();
                    if let Some(kind) = book.refuse {
                        return Err(kind);
                    }
                    if let Some(found) = look(&mut book) {
                        return Ok(Some(found));
                    }
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(wait, found).await.unwrap_or(Ok(None))
    }

    fn reports(&self, reports: Reports) -> Answer {
        self.change(|book| {
            book.batches.push(reports.reports.len());
            if let Some(kind) = book.refuse_reports {
                return Err(kind);
            }
            let refused = book.refuse_each;
            let settled = reports.reports.into_iter().map(|report| match refused {
                Some(kind) => Settled::Refused(Refused { kind, detail: "said the fake".into() }),
                None => {
                    settle(book, report);
                    Settled::State(State::Succeeded)
                }
            });
            Ok(json!(ReportsSettled { settled: settled.collect() }))
        })
    }
}

fn settle(book: &mut Book, report: AttemptReport) {
    let lease = report.lease();
    if book.settled.insert(lease, (report.outcome, report.result)).is_some() {
        book.unexpected += 1;
    }
}
