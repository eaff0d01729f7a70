//! Signals: a program waits here for a word from outside; the node waits at the coordinator in its place.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use orca_proto::attempt::SignalQuery;
use orca_proto::duration::Span;
use orca_proto::limits;
use orca_proto::problem::{FieldError, Kind, Problem};
use tokio::time::Instant;

use super::problem::ApiProblem;
use crate::attempt::relay::problem;
use crate::attempt::session::Session;
use crate::retry::until_answered;

/// The longest that a request is held.
const HOLD: Duration = Duration::from_secs(60);
/// How much longer a coordinator that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) async fn receive(
    State(session): State<Arc<Session>>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<SignalQuery>, QueryRejection>,
) -> Result<Response, ApiProblem> {
    let mut errors = Vec::new();
    let name = name.map(|Path(name)| name).unwrap_or_default();
    if !is_name(&name) {
        errors.push(FieldError::new("/name", "must be 1 to 128 letters, digits or any of ._-"));
    }
    let wait = match query {
        Ok(Query(query)) => query.wait.get(),
        Err(error) => {
            errors.push(FieldError::new("?wait", error.body_text()));
            Duration::ZERO
        }
    };
    if wait > HOLD {
        errors.push(FieldError::new("?wait", "must be at most 60s; ask again for more"));
    }
    if !errors.is_empty() {
        return Err(Problem::validation(errors).into());
    }
    let Ok(_turn) = session.signals.try_acquire() else {
        let detail = "this attempt waits for 8 signals already";
        return Err(ApiProblem::new(Kind::TooManyRequests, detail));
    };
    let until = Instant::now() + wait;
    let (client, lease) = (session.node.client(), session.lease.lease);
    let call = || {
        let left = Span::from(until.saturating_duration_since(Instant::now()));
        client.await_signal(lease, &name, left)
    };
    let received = tokio::select! {
        answer = tokio::time::timeout(wait + PATIENCE, until_answered(call)) => match answer {
            Ok(answer) => answer.map_err(problem)?,
            Err(_) => {
                return Err(ApiProblem::new(Kind::Unavailable, "the coordinator cannot be reached now; try again"));
            }
        },
        () = session.lease.over() => {
            return Err(ApiProblem::new(Kind::LeaseLost, "the node lost the lease of this attempt"));
        }
    };
    Ok(match received {
        Some(received) => Json(received).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Dots alone would lead elsewhere as a part of a path.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=limits::NAME).contains(&name.len()) && name.chars().all(allowed) && name.chars().any(|c| c != '.')
}
