//! What the program returns, and the agent's report. Each is on the node's own disk before it is acknowledged.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use orca_proto::agent::AgentReport;
use orca_proto::limits;
use orca_proto::plan::{self, Plan};
use orca_proto::problem::{FieldError, Kind, Problem};
use orca_proto::spec::{Role, holds_nul};
use serde::Serialize;
use serde_json::Value;

use super::json::{self, Holds};
use super::problem::ApiProblem;
use crate::attempt::directory::private;
use crate::attempt::session::Session;
use crate::attempt::verdict::is_for_agents;

pub(super) async fn result(
    State(session): State<Arc<Session>>,
    request: Request,
) -> Result<StatusCode, ApiProblem> {
    let read = json::tree::<Value>(&session, request, limits::BODY, Holds::Values).await?;
    let result = read.value;
    if serde_json::to_string(&result).map_or(usize::MAX, |text| text.len()) > limits::RESULT {
        let detail = "a result may have at most 1 MiB; keep it as an artifact";
        return Err(ApiProblem::new(Kind::BodyTooLarge, detail));
    }
    if holds_nul(&result) {
        // It could not be stored, and who posts it may still mend it.
        let detail = "a string in it holds the character U+0000, which a result cannot";
        return Err(ApiProblem::new(Kind::Malformed, detail));
    }
    stage(&session, private::RESULT, result).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn plan(
    State(session): State<Arc<Session>>,
    request: Request,
) -> Result<StatusCode, ApiProblem> {
    planners_only(&session)?;
    let holds = Holds::Tasks(Kind::PlanInvalid);
    let read = json::tree::<Plan>(&session, request, limits::PLAN_BODY, holds).await?;
    let plan = read.value;
    let check = move || match plan::validate(&plan.tasks, limits::PLAN_TASKS) {
        Ok(_) => Ok(plan),
        Err(errors) => Err(Problem::with_errors(Kind::PlanInvalid, errors)),
    };
    let plan = tokio::task::spawn_blocking(check).await.map_err(ApiProblem::internal)??;
    stage(&session, private::PLAN, plan).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn report(
    State(session): State<Arc<Session>>,
    request: Request,
) -> Result<StatusCode, ApiProblem> {
    let most = if session.brief.role == Role::Plan { limits::PLAN_BODY } else { limits::BODY };
    let holds = Holds::Tasks(Kind::PlanInvalid);
    let read = json::tree::<AgentReport>(&session, request, most, holds).await?;
    let mut report = read.value;
    // It is put on the node's disk.
    session.redactor.redact_outcome(&mut report.outcome);
    if !is_for_agents(&report.outcome) {
        let error = FieldError::new("/outcome/kind", "is not for the agent to say");
        return Err(Problem::validation(vec![error]).into());
    }
    if let Some(known) = session.known_report() {
        return settled(known == report);
    }
    stage(&session, private::REPORT, report.clone()).await?;
    settled(session.report(report))
}

/// The report in `bytes`, which a container left; none if it cannot be one.
pub(in crate::attempt) fn left_report(bytes: &[u8]) -> Option<AgentReport> {
    let report: AgentReport = json::parse_tree(bytes, Holds::Tasks(Kind::PlanInvalid)).ok()?;
    is_for_agents(&report.outcome).then_some(report)
}

fn settled(same: bool) -> Result<StatusCode, ApiProblem> {
    if same {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiProblem::new(Kind::ResultConflict, "another report was made for this attempt"))
    }
}

fn planners_only(session: &Session) -> Result<(), ApiProblem> {
    match session.brief.role {
        Role::Plan => Ok(()),
        Role::Work => Err(ApiProblem::new(Kind::Forbidden, "only a planner's program returns a plan")),
    }
}

async fn stage(
    session: &Session,
    name: &'static str,
    value: impl Serialize + Send + 'static,
) -> Result<(), ApiProblem> {
    let directory = session.directory.clone();
    tokio::task::spawn_blocking(move || directory.stage(name, &value))
        .await
        .map_err(ApiProblem::internal)?
        .map_err(ApiProblem::internal)
}
