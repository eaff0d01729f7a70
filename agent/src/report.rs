//! The report: what the program left as its result or plan, how it ended, put on disk and then delivered.

use bytes::Bytes;
use hyper::Method;
use orca_proto::agent::{AgentReport, files, routes};
use orca_proto::limits;
use orca_proto::plan::Plan;
use orca_proto::spec::holds_nul;
use orca_proto::strict;
use orca_proto::task::Outcome;
use serde_json::Value;

use crate::attempt_dir::AttemptDir;
use crate::contact::{Contact, Undelivered};

/// What to report of a program that ended as `outcome`. A success whose result or plan cannot be read is none.
pub(crate) fn compose(dir: &AttemptDir, outcome: Outcome) -> AgentReport {
    if outcome != Outcome::Succeeded {
        return bare(outcome);
    }
    let left = left_result(dir).and_then(|result| Ok((result, left_plan(dir)?)));
    match left {
        Ok((result, plan)) => AgentReport { outcome, result, plan, memory_watched: false },
        Err(reason) => bare(Outcome::Failed { exit_code: 0, reason: Some(reason) }),
    }
}

/// Writes `report` to the spool, where the node finds it even if it is never delivered.
///
/// # Errors
/// When the spool is not writable.
pub(crate) fn spool(dir: &AttemptDir, report: &AgentReport) -> std::io::Result<()> {
    dir.write_durably(files::REPORT, &serde_json::to_vec(report)?)
}

/// Delivers `report`, or, where the node will never take it, a failure that says so.
///
/// # Errors
/// [`Undelivered`] when the lease is lost, or not even that was taken.
pub(crate) async fn deliver(
    dir: &AttemptDir,
    contact: &Contact,
    report: AgentReport,
) -> Result<(), Undelivered> {
    let problem = match post(contact, &report).await {
        Err(Undelivered::Refused(problem)) => problem,
        done => return done,
    };
    let reason = Some(format!("the node refused the report: {problem}"));
    let plain = bare(Outcome::Failed { exit_code: 0, reason });
    if let Err(error) = spool(dir, &plain) {
        eprintln!("orca-agent: cannot write {}: {error}", files::REPORT);
    }
    post(contact, &plain).await
}

async fn post(contact: &Contact, report: &AgentReport) -> Result<(), Undelivered> {
    let body = Bytes::from(serde_json::to_vec(report).unwrap_or_default());
    contact.deliver(Method::POST, routes::REPORT, body).await.map(|_| ())
}

const fn bare(outcome: Outcome) -> AgentReport {
    AgentReport { outcome, result: None, plan: None, memory_watched: false }
}

fn left_result(dir: &AttemptDir) -> Result<Option<Value>, String> {
    let Some(text) = read(dir, files::RESULT, limits::RESULT)? else { return Ok(None) };
    let result: Value = serde_json::from_slice(&text).map_err(|error| not_readable(files::RESULT, &error))?;
    if holds_nul(&result) {
        return Err(not_readable(files::RESULT, &"a string in it holds the character U+0000"));
    }
    Ok(Some(result))
}

fn left_plan(dir: &AttemptDir) -> Result<Option<Plan>, String> {
    let Some(text) = read(dir, files::PLAN, limits::PLAN_BODY)? else { return Ok(None) };
    let text = std::str::from_utf8(&text).map_err(|error| not_readable(files::PLAN, &error))?;
    strict::from_str(text).map(Some).map_err(|error| not_readable(files::PLAN, &error))
}

fn read(dir: &AttemptDir, name: &str, most: usize) -> Result<Option<Vec<u8>>, String> {
    dir.read_left(name, most).map_err(|error| not_readable(name, &error))
}

fn not_readable(name: &str, why: &dyn std::fmt::Display) -> String {
    format!("the program left {name}, but it cannot be used: {why}")
}
