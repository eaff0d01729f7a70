//! Tunnels: a connection on the socket becomes one to a host that the task names.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use orca_proto::agent::TUNNEL;
use orca_proto::problem::{Kind, Problem};
use orca_proto::spec::Destination;

use super::problem::ApiProblem;
use crate::attempt::session::Session;
use crate::egress::{Opened, Refusal};

/// How long the answer may take to be on its way.
const HANDOVER: Duration = Duration::from_secs(10);

pub(super) async fn tunnel(
    State(session): State<Arc<Session>>,
    to: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiProblem> {
    let Some(allowance) = &session.egress else {
        let detail = "the task names no hosts that it may reach (network.egress)";
        return Err(ApiProblem::new(Kind::EgressRefused, detail));
    };
    let to = to.map(|Path(to)| to).unwrap_or_default();
    let to: Destination =
        to.parse().map_err(|why| ApiProblem::new(Kind::Malformed, format!("the host and its port {why}")))?;
    if !names(request.headers(), &CONNECTION, "upgrade") || !names(request.headers(), &UPGRADE, TUNNEL) {
        let detail = format!("ask with `Connection: upgrade` and `Upgrade: {TUNNEL}`");
        return Err(ApiProblem::new(Kind::Malformed, detail));
    }
    let opened = tokio::select! {
        opened = allowance.open(&to) => opened.map_err(|refusal| {
            if allowance.is_news(&to) {
                let of = session.lease.lease;
                tracing::info!(task = %of.task, token = %of.token, address = ?refusal.address(), "egress: {refusal}");
            }
            problem(refusal)
        })?,
        () = over(&session) => {
            return Err(ApiProblem::new(Kind::LeaseLost, "the node lost the lease of this attempt"));
        }
    };
    tracing::debug!(task = %session.lease.lease.task, %to, "a tunnel is open");
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(carry(Arc::clone(&session), upgrade, opened));
    Ok((StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, TUNNEL)]).into_response())
}

/// Whether one of the values of `header` is `value`.
fn names(headers: &HeaderMap, header: &HeaderName, value: &str) -> bool {
    let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|values| values.split(',')).any(|one| one.trim().eq_ignore_ascii_case(value))
}

/// Carries for no longer than the attempt lives.
async fn carry(session: Arc<Session>, upgrade: OnUpgrade, opened: Opened) {
    let carried = async {
        if let Ok(Ok(inside)) = tokio::time::timeout(HANDOVER, upgrade).await {
            opened.carry(TokioIo::new(inside)).await;
        }
    };
    tokio::select! {
        () = carried => {}
        () = over(&session) => {}
    }
}

async fn over(session: &Session) {
    tokio::select! {
        () = session.lease.over() => {}
        () = session.over.cancelled() => {}
    }
}

fn problem(refusal: Refusal) -> Problem {
    let kind = match refusal {
        Refusal::Unnamed(_) | Refusal::Address { .. } | Refusal::Coordinator(_) => Kind::EgressRefused,
        Refusal::TooMany(_) => Kind::TooManyRequests,
        Refusal::Unresolved { .. } | Refusal::Unreachable { .. } => Kind::Unreachable,
        Refusal::Slow { .. } => Kind::Timeout,
        Refusal::Blind => Kind::Unavailable,
    };
    Problem::new(kind, refusal.to_string())
}
