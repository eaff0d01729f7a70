//! A coordinator that grants what a test gives it and remembers what it was told. No database, no tokens.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use jiff::Timestamp;
use orca_proto::artifact::Artifact;
use orca_proto::attempt::{
    AttemptReport, AttemptStart, Children, Dependencies, Received, Refused, RefusedKind, Report, Reported,
    Reports, ReportsSettled, Settled, SignalQuery,
};
use orca_proto::duration::Span;
use orca_proto::ids::{ArtifactId, FencingToken, NodeId, TaskId};
use orca_proto::log::{LogAck, LogAppend, LogLine};
use orca_proto::node::{
    ClaimRequest, Claimed, Grant, LeaseRef, Registered, Registration, RenewRequest, Renewed,
};
use orca_proto::plan::Enqueued;
use orca_proto::problem::{Kind, Problem};
use orca_proto::secret::{AttemptSecrets, Delivered};
use orca_proto::task::{Outcome, Progress, State as TaskState};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use uuid::Uuid;

/// What it was told, and what it will say.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) registrations: Vec<Registration>,
    pub(crate) queue: VecDeque<Grant>,
    pub(crate) cancel: Vec<LeaseRef>,
    pub(crate) lost: Vec<LeaseRef>,
    pub(crate) renewals: usize,
    pub(crate) claims: Vec<ClaimRequest>,
    pub(crate) signals: HashMap<String, serde_json::Value>,
    /// How many waited for a signal.
    pub(crate) awaited: usize,
    pub(crate) draining: bool,
    /// What the last renewal said.
    pub(crate) unwell: Option<String>,
    pub(crate) started: Vec<LeaseRef>,
    /// Exactly which image each ran.
    pub(crate) images: HashMap<LeaseRef, String>,
    pub(crate) progress: Vec<Progress>,
    pub(crate) logs: HashMap<LeaseRef, Vec<LogLine>>,
    pub(crate) reports: Vec<(LeaseRef, Report)>,
    pub(crate) children: Vec<Children>,
    pub(crate) dependencies: Option<Dependencies>,
    pub(crate) secrets: Vec<Delivered>,
    /// Answer this to whoever asks for secrets.
    pub(crate) refuse_secrets: Option<Kind>,
    pub(crate) artifacts: HashMap<ArtifactId, (Artifact, Bytes)>,
    /// Answer 503 to everything.
    pub(crate) away: bool,
    /// Answer this to claims and renewals.
    pub(crate) refuse: Option<Kind>,
    /// Answer this to a report that carries a plan or a result.
    pub(crate) refuse_report: Option<Kind>,
}

/// A fake coordinator on a port of its own.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) url: String,
    pub(crate) lease: Duration,
    book: Arc<Mutex<Book>>,
    changed: watch::Sender<u64>,
}

type Answer<T> = Result<Json<T>, Refusal>;

struct Refusal(Kind);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status()).unwrap();
        (status, Json(Problem::new(self.0, "said the fake"))).into_response()
    }
}

impl Fake {
    pub(crate) async fn start(lease: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self { url, lease, book: Arc::default(), changed: watch::Sender::new(0) };
        let app = Router::new()
            .route("/v1/nodes", post(register))
            .route("/v1/nodes/{node}/claims", post(claim))
            .route("/v1/nodes/{node}/renewals", post(renew))
            .route("/v1/nodes/{node}/reports", post(reports))
            .route("/v1/tasks/{task}/attempts/{token}/start", post(start))
            .route("/v1/tasks/{task}/attempts/{token}/progress", post(progress))
            .route("/v1/tasks/{task}/attempts/{token}/logs", post(logs))
            .route("/v1/tasks/{task}/attempts/{token}/children", post(children))
            .route("/v1/tasks/{task}/attempts/{token}/dependencies", get(dependencies))
            .route("/v1/tasks/{task}/attempts/{token}/secrets", get(secrets))
            .route("/v1/tasks/{task}/attempts/{token}/report", post(report))
            .route("/v1/tasks/{task}/attempts/{token}/signals/{name}", get(signal))
            .route("/v1/tasks/{task}/attempts/{token}/artifacts/{name}", put(keep))
            .route("/v1/artifacts/{id}", get(artifact))
            .route("/v1/artifacts/{id}/content", get(content))
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(fake.clone(), maybe_away))
            .with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        fake
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// Changes the book and wakes whoever waits.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let made = change(&mut self.book());
        self.changed.send_modify(|count| *count += 1);
        made
    }

    pub(crate) fn store(&self, name: &str, bytes: impl Into<Bytes>, task: Option<TaskId>) -> Artifact {
        let bytes = bytes.into();
        let artifact = Artifact {
            id: ArtifactId::new(),
            name: name.into(),
            size: bytes.len() as u64,
            sha256: Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
            task,
            created_at: Timestamp::now(),
        };
        self.change(|book| book.artifacts.insert(artifact.id, (artifact.clone(), bytes)));
        artifact
    }

    /// Waits until `look` finds something in the book.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut Book) -> Option<T>) -> T {
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
        match tokio::time::timeout(Duration::from_secs(60), found).await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain for {what}"),
        }
    }

    /// Waits for the report of one lease.
    pub(crate) async fn report_of(&self, lease: LeaseRef) -> Report {
        self.until("a report", |book| {
            book.reports.iter().find(|(of, _)| *of == lease).map(|(_, report)| report.clone())
        })
        .await
    }
}

async fn maybe_away(State(fake): State<Fake>, request: Request, next: Next) -> Response {
    if fake.book().away {
        return Refusal(Kind::Unavailable).into_response();
    }
    next.run(request).await
}

async fn register(State(fake): State<Fake>, Json(registration): Json<Registration>) -> Json<Registered> {
    let resumed = fake.change(|book| {
        let mut resumed = registration.resumes.clone();
        resumed.retain(|lease| !book.lost.contains(lease));
        book.registrations.push(registration);
        book.refuse = None;
        book.draining = false;
        resumed
    });
    Json(Registered { id: NodeId(Uuid::nil()), lease: Span::from(fake.lease), resumed })
}

async fn claim(State(fake): State<Fake>, Json(request): Json<ClaimRequest>) -> Answer<Claimed> {
    fake.change(|book| book.claims.push(request.clone()));
    let mut changed = fake.changed.subscribe();
    let granted = async {
        loop {
            changed.mark_unchanged();
            {
                let mut book = fake.book();
                if let Some(kind) = book.refuse {
                    return Err(Refusal(kind));
                }
                if book.draining {
                    return Ok(Vec::new());
                }
                let count = book.queue.len().min(request.slots as usize);
                if count > 0 {
                    return Ok(book.queue.drain(..count).collect());
                }
            }
            changed.changed().await.unwrap();
        }
    };
    let grants = tokio::time::timeout(request.wait.get(), granted).await.unwrap_or(Ok(Vec::new()))?;
    Ok(Json(Claimed { grants }))
}

async fn renew(State(fake): State<Fake>, Json(request): Json<RenewRequest>) -> Answer<Renewed> {
    fake.change(|book| {
        book.renewals += 1;
        book.draining |= request.draining;
        book.unwell.clone_from(&request.unwell);
    });
    let mut changed = fake.changed.subscribe();
    let news = async {
        loop {
            changed.mark_unchanged();
            {
                let book = fake.book();
                if let Some(kind) = book.refuse {
                    return Err(Refusal(kind));
                }
                let held = |lease: &&LeaseRef| request.leases.contains(lease);
                let lost: Vec<_> = book.lost.iter().filter(held).copied().collect();
                let new = |lease: &&LeaseRef| !request.cancelling.contains(lease);
                let cancel: Vec<_> = book.cancel.iter().filter(held).filter(new).copied().collect();
                if !lost.is_empty() || !cancel.is_empty() {
                    return Ok((lost, cancel));
                }
            }
            changed.changed().await.unwrap();
        }
    };
    let (lost, cancel) =
        tokio::time::timeout(request.wait.get(), news).await.unwrap_or(Ok(Default::default()))?;
    Ok(Json(Renewed { lease: Span::from(fake.lease), lost, cancel }))
}

type Lease = Path<(TaskId, FencingToken)>;

fn lease(Path((task, token)): Lease) -> LeaseRef {
    LeaseRef { task, token }
}

async fn start(State(fake): State<Fake>, at: Lease, Json(start): Json<AttemptStart>) -> StatusCode {
    fake.change(|book| {
        let lease = lease(at);
        book.started.push(lease);
        if let Some(image) = start.image {
            book.images.insert(lease, image);
        }
    });
    StatusCode::NO_CONTENT
}

async fn progress(State(fake): State<Fake>, Json(progress): Json<Progress>) -> StatusCode {
    fake.change(|book| book.progress.push(progress));
    StatusCode::NO_CONTENT
}

async fn logs(State(fake): State<Fake>, at: Lease, Json(append): Json<LogAppend>) -> Json<LogAck> {
    let next_seq = fake.change(|book| {
        let lines = book.logs.entry(lease(at)).or_default();
        for line in append.lines {
            if line.seq == lines.len() as i64 {
                lines.push(line);
            }
        }
        lines.len() as i64
    });
    Json(LogAck { next_seq })
}

async fn children(State(fake): State<Fake>, Json(children): Json<Children>) -> (StatusCode, Json<Enqueued>) {
    let ids = children.tasks.iter().map(|_| TaskId::new()).collect();
    fake.change(|book| book.children.push(children));
    (StatusCode::CREATED, Json(Enqueued { ids, existing: Vec::new() }))
}

async fn dependencies(State(fake): State<Fake>) -> Answer<Dependencies> {
    fake.book().dependencies.clone().map(Json).ok_or(Refusal(Kind::NotFound))
}

async fn secrets(State(fake): State<Fake>) -> Answer<AttemptSecrets> {
    let book = fake.book();
    match book.refuse_secrets {
        Some(kind) => Err(Refusal(kind)),
        None => Ok(Json(AttemptSecrets { secrets: book.secrets.clone() })),
    }
}

async fn report(State(fake): State<Fake>, at: Lease, Json(report): Json<Report>) -> Answer<Reported> {
    let carries = report.plan.is_some() || report.result.is_some();
    if let Some(kind) = fake.book().refuse_report.filter(|_| carries) {
        return Err(Refusal(kind));
    }
    let state = if report.outcome == Outcome::Succeeded { TaskState::Succeeded } else { TaskState::Failed };
    fake.change(|book| book.reports.push((lease(at), report)));
    Ok(Json(Reported { state }))
}

async fn reports(State(fake): State<Fake>, Json(reports): Json<Reports>) -> Json<ReportsSettled> {
    let settle = |book: &mut Book, report: AttemptReport| {
        let lease = report.lease();
        let AttemptReport { outcome, result, .. } = report;
        let refused = result.is_some().then_some(book.refuse_report).flatten();
        if refused.is_some() {
            let detail = "said the fake".to_owned();
            return Settled::Refused(Refused { kind: RefusedKind::Validation, detail });
        }
        let succeeded = outcome == Outcome::Succeeded;
        book.reports.push((lease, Report { outcome, result, plan: None }));
        Settled::State(if succeeded { TaskState::Succeeded } else { TaskState::Failed })
    };
    let settled =
        fake.change(|book| reports.reports.into_iter().map(|report| settle(book, report)).collect());
    Json(ReportsSettled { settled })
}

async fn signal(
    State(fake): State<Fake>,
    Path((_, _, name)): Path<(TaskId, FencingToken, String)>,
    Query(query): Query<SignalQuery>,
) -> Response {
    fake.change(|book| book.awaited += 1);
    let mut changed = fake.changed.subscribe();
    let received = async {
        loop {
            changed.mark_unchanged();
            if let Some(payload) = fake.book().signals.get(&name).cloned() {
                return Received { payload };
            }
            changed.changed().await.unwrap();
        }
    };
    match tokio::time::timeout(query.wait.get(), received).await {
        Ok(received) => Json(received).into_response(),
        Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn keep(
    State(fake): State<Fake>,
    Path((task, _, name)): Path<(TaskId, FencingToken, String)>,
    bytes: Bytes,
) -> Json<Artifact> {
    Json(fake.store(&name, bytes, Some(task)))
}

async fn artifact(State(fake): State<Fake>, Path(id): Path<ArtifactId>) -> Answer<Artifact> {
    fake.book().artifacts.get(&id).map(|(artifact, _)| Json(artifact.clone())).ok_or(Refusal(Kind::NotFound))
}

async fn content(State(fake): State<Fake>, Path(id): Path<ArtifactId>) -> Result<Body, Refusal> {
    fake.book().artifacts.get(&id).map(|(_, bytes)| Body::from(bytes.clone())).ok_or(Refusal(Kind::NotFound))
}
