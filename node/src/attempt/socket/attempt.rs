//! The attempt itself: what to run, that it runs, how far it is, what it says, what it spawns.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use orca_proto::agent::Started;
use orca_proto::attempt::Children;
use orca_proto::limits;
use orca_proto::log::{LogAck, LogAppend};
use orca_proto::plan::Enqueued;
use orca_proto::problem::{FieldError, Kind, Problem};
use orca_proto::task::Progress;
use tokio_util::io::ReaderStream;

use super::json::{self, Holds};
use super::problem::ApiProblem;
use crate::attempt::directory::private;
use crate::attempt::relay::relay;
use crate::attempt::session::Session;

/// Bytes of a progress message.
const MESSAGE: usize = 1_024;

type Answer<T> = Result<T, ApiProblem>;

pub(super) async fn show(State(session): State<Arc<Session>>) -> Response {
    ([(CONTENT_TYPE, "application/json")], session.brief_text.clone()).into_response()
}

pub(super) async fn started(State(session): State<Arc<Session>>, request: Request) -> Answer<StatusCode> {
    json::note::<Started>(&session, request).await?;
    if !*session.started.borrow() {
        let directory = session.directory.clone();
        let noted = tokio::task::spawn_blocking(move || directory.note_start()).await;
        noted.map_err(ApiProblem::internal)?.map_err(ApiProblem::internal)?;
        session.started.send_replace(true);
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn progress(State(session): State<Arc<Session>>, request: Request) -> Answer<StatusCode> {
    let mut progress = json::note::<Progress>(&session, request).await?.value;
    let mut errors = Vec::new();
    if progress.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        errors.push(FieldError::new("/percent", "must lie between 0 and 100"));
    }
    if progress.message.as_ref().is_some_and(|message| message.len() > MESSAGE) {
        errors.push(FieldError::new("/message", "is longer than 1,024 bytes"));
    }
    if !errors.is_empty() {
        return Err(Problem::validation(errors).into());
    }
    if let Some(message) = &mut progress.message {
        session.redactor.redact(message);
    }
    session.progress.send_replace(Some(progress));
    Ok(StatusCode::NO_CONTENT)
}

/// Relayed before it is acknowledged: the agent holds its lines until then, so the node needs no memory for them.
pub(super) async fn logs(State(session): State<Arc<Session>>, request: Request) -> Answer<Json<LogAck>> {
    let mut lines = json::flat::<LogAppend>(&session, request, limits::BODY).await?;
    if lines.value.lines.len() > limits::LOG_LINES {
        return Err(
            Problem::validation(vec![FieldError::new("/lines", "has more than 5,000 entries")]).into()
        );
    }
    let start = session.log_start;
    for line in &mut lines.value.lines {
        session.redactor.redact(&mut line.text);
        // What is below 0 stays so, and is refused.
        if line.seq >= 0 {
            line.seq = line.seq.saturating_add(start);
        }
    }
    let call = || session.node.client().append_logs(session.lease.lease, &lines.value);
    let ack = relay(&session, call).await?;
    Ok(Json(LogAck { next_seq: ack.next_seq.saturating_sub(start).max(0) }))
}

pub(super) async fn children(
    State(session): State<Arc<Session>>,
    request: Request,
) -> Answer<Json<Enqueued>> {
    let holds = Holds::Tasks(Kind::Validation);
    let children = json::tree::<Children>(&session, request, limits::PLAN_BODY, holds).await?;
    let call = || session.node.client().spawn_children(session.lease.lease, &children.value);
    Ok(Json(relay(&session, call).await?))
}

pub(super) async fn secrets(State(session): State<Arc<Session>>) -> Answer<Response> {
    if session.secrets_text.is_empty() {
        return Err(ApiProblem::new(Kind::NotFound, "this task names no secrets"));
    }
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    Ok((headers, session.secrets_text.clone()).into_response())
}

pub(super) async fn dependencies(State(session): State<Arc<Session>>) -> Answer<Response> {
    if !session.brief.has_dependencies {
        return Err(ApiProblem::new(Kind::NotFound, "this task depends on nothing"));
    }
    let file = tokio::fs::File::open(session.directory.private.join(private::DEPENDENCIES)).await;
    let body = Body::from_stream(ReaderStream::new(file.map_err(ApiProblem::internal)?));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}
