//! Reads JSON bodies: bounded in size, time and number, and with the right problem for each way of being wrong.
//!
//! Text of two bytes can become a value of dozens, and a task of thirty bytes one of a thousand. So what may hold a tree is
//! counted before it is made, and whatever is more than small waits on disk until few others are in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use orca_proto::limits;
use orca_proto::problem::{FieldError, Kind, Problem};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::ApiProblem;
use crate::attempt::directory::private;
use crate::attempt::session::Session;

/// The time in which a body must have arrived.
const ARRIVAL: Duration = Duration::from_secs(30);
/// The largest body of a route that takes a few numbers and a short text.
const NOTE: usize = 64 << 10;
/// The largest body that becomes a tree of values without waiting for its turn.
const SMALL: usize = 128 << 10;
/// Values in one body: a plan of as many tasks as there may be has room for seventy in each. One with every default
/// written out, as agents do, takes about forty.
const VALUES: usize = 70 * limits::PLAN_TASKS;

/// A body that was read, with what bounds how many there are at once.
pub(super) struct Read<T> {
    pub(super) value: T,
    _turns: Vec<OwnedSemaphorePermit>,
}

/// What the text may hold besides plain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Nothing.
    Values,
    /// Tasks, as a field or in the field `plan`; too many of them are told as a problem of this kind.
    Tasks(Kind),
}

/// Reads a few numbers and a short text.
pub(super) async fn note<T: DeserializeOwned>(
    session: &Session,
    request: Request,
) -> Result<Read<T>, ApiProblem> {
    flat(session, request, NOTE).await
}

/// Reads a body that takes about as much memory as it has bytes.
pub(super) async fn flat<T: DeserializeOwned>(
    session: &Session,
    request: Request,
    most: usize,
) -> Result<Read<T>, ApiProblem> {
    let body = admit(request)?;
    let turn = take(&session.bodies).await?;
    let bytes = in_time(collect(body, most)).await?;
    Ok(Read { value: parse(&bytes)?, _turns: vec![turn] })
}

/// Reads a body that may take far more memory than it has bytes. Few of these are made at once over all attempts.
pub(super) async fn tree<T: DeserializeOwned + Send + 'static>(
    session: &Session,
    request: Request,
    most: usize,
    holds: Holds,
) -> Result<Read<T>, ApiProblem> {
    let body = admit(request)?;
    let turn = take(&session.bodies).await?;
    if body.size_hint().exact().is_some_and(|size| size <= SMALL as u64) {
        let bytes = in_time(collect(body, SMALL.min(most))).await?;
        return Ok(Read { value: parse_tree(&bytes, holds)?, _turns: vec![turn] });
    }
    // One at a time for each attempt, as they share a file; on disk, as whoever sends slowly must keep nobody waiting.
    let own = take(&session.large_body).await?;
    let path = session.directory.private.join(private::BODY);
    in_time(put_aside(body, &path, most)).await?;
    let large = take(&session.node.large_bodies).await?;
    let parsing = tokio::task::spawn_blocking(move || {
        // With the turns inside, so that nobody who hangs up early can have more made than there are turns for.
        let turns = vec![turn, own, large];
        let bytes = std::fs::read(&path).map_err(ApiProblem::internal)?;
        Ok(Read { value: parse_tree(&bytes, holds)?, _turns: turns })
    });
    parsing.await.map_err(ApiProblem::internal)?
}

fn admit(request: Request) -> Result<Body, ApiProblem> {
    let media_type =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media_type.split(';').next().map(str::trim) != Some("application/json") {
        let detail = "this route reads application/json; say so in Content-Type";
        return Err(ApiProblem::new(Kind::UnsupportedMediaType, detail));
    }
    Ok(request.into_body())
}

async fn take(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiProblem> {
    Arc::clone(semaphore).acquire_owned().await.map_err(ApiProblem::internal)
}

async fn in_time<T>(arrival: impl Future<Output = Result<T, ApiProblem>>) -> Result<T, ApiProblem> {
    tokio::time::timeout(ARRIVAL, arrival)
        .await
        .map_err(|_| ApiProblem::new(Kind::Timeout, "the body took too long to arrive"))?
}

async fn collect(body: Body, most: usize) -> Result<Bytes, ApiProblem> {
    match Limited::new(body, most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(most)),
        Err(error) => Err(broke_off(error)),
    }
}

async fn put_aside(body: Body, path: &Path, most: usize) -> Result<(), ApiProblem> {
    if body.size_hint().lower() > most as u64 {
        return Err(too_large(most));
    }
    let file = tokio::fs::File::create(path).await.map_err(ApiProblem::internal)?;
    let mut file = tokio::io::BufWriter::with_capacity(256 << 10, file);
    let mut chunks = body.into_data_stream();
    let mut size = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(broke_off)?;
        size += chunk.len();
        if size > most {
            return Err(too_large(most));
        }
        file.write_all(&chunk).await.map_err(ApiProblem::internal)?;
    }
    file.flush().await.map_err(ApiProblem::internal)
}

fn too_large(most: usize) -> ApiProblem {
    ApiProblem::new(Kind::BodyTooLarge, format!("a body may have at most {most} bytes here"))
}

fn broke_off(error: impl std::fmt::Display) -> ApiProblem {
    ApiProblem::new(Kind::Malformed, format!("the body broke off: {error}"))
}

/// Parses what may be a tree, after a look at how large it would become. May take long: blocks.
pub(super) fn parse_tree<T: DeserializeOwned>(bytes: &[u8], holds: Holds) -> Result<T, ApiProblem> {
    if count_values(bytes) > VALUES {
        let detail = format!("a body may hold at most {VALUES} values, counted over all its parts");
        return Err(ApiProblem::new(Kind::BodyTooLarge, detail));
    }
    if let Holds::Tasks(kind) = holds {
        let outline: Outline = parse(bytes)?;
        let count = outline.tasks.len().max(outline.plan.map_or(0, |plan| plan.tasks.len()));
        if count > limits::PLAN_TASKS {
            let detail = format!("has {count} tasks; the most is {}", limits::PLAN_TASKS);
            return Err(ApiProblem(Problem::with_errors(kind, vec![FieldError::new("/tasks", detail)])));
        }
    }
    parse(bytes)
}

/// Where tasks are in a body; takes no memory for them.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    tasks: Vec<IgnoredAny>,
    #[serde(default)]
    plan: Option<OutlinedPlan>,
}

#[derive(Deserialize)]
struct OutlinedPlan {
    #[serde(default)]
    tasks: Vec<IgnoredAny>,
}

/// An upper bound of how many values JSON text becomes.
fn count_values(text: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b',' | b'[' | b'{') => count += 1,
            _ => {}
        }
    }
    count
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiProblem> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ApiProblem::new(Kind::Malformed, format!("the body is not UTF-8: {error}")))?;
    orca_proto::strict::from_str(text).map_err(|error| match error.classify() {
        Category::Data => ApiProblem(Problem::validation(vec![FieldError::new("", error.to_string())])),
        _ => ApiProblem::new(Kind::Malformed, format!("the body is not JSON: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use orca_proto::agent::AgentReport;
    use orca_proto::plan::Plan;
    use serde_json::Value;

    use super::*;

    fn kind<T: DeserializeOwned>(text: &str, holds: Holds) -> Option<Kind> {
        parse_tree::<T>(text.as_bytes(), holds).err().map(|problem| problem.0.kind)
    }

    #[test]
    fn values_are_counted_wherever_they_are_and_not_in_strings() {
        assert_eq!(count_values(b"1"), 1);
        assert_eq!(count_values(br#"{"a": [1, 2], "b,[{": "\",,,"}"#), 5);
    }

    #[test]
    fn a_plan_of_as_many_tasks_as_there_may_be_leaves_room_in_each() {
        let mut task = orca_proto::spec::NewTask::new("image");
        task.key = Some("key".into());
        task.name = Some("name".into());
        task.container.command = vec!["part".into(), "of".into(), "a".into(), "command".into()];
        task.input = serde_json::json!({"first": 1, "count": 2});
        task.depends_on = vec!["one".into(), "two".into()];
        let values = count_values(&serde_json::to_vec(&task).unwrap());
        assert!(values * limits::PLAN_TASKS <= VALUES / 3 * 2, "{values}");
    }

    #[test]
    fn text_that_would_become_too_many_values_is_refused_before_it_does() {
        let many = format!("[{}0]", "0,".repeat(VALUES));
        assert_eq!(kind::<Value>(&many, Holds::Values), Some(Kind::BodyTooLarge));
        assert_eq!(kind::<Value>("[0, 0]", Holds::Values), None);
    }

    #[test]
    fn too_many_tasks_are_refused_before_they_are_made_wherever_they_are() {
        let tasks = |count: usize| vec!["{}"; count].join(",");
        let holds = Holds::Tasks(Kind::PlanInvalid);
        let over = tasks(limits::PLAN_TASKS + 1);
        assert_eq!(kind::<Plan>(&format!(r#"{{"tasks": [{over}]}}"#), holds), Some(Kind::PlanInvalid));
        let report = format!(r#"{{"outcome": {{"kind": "succeeded"}}, "plan": {{"tasks": [{over}]}}}}"#);
        assert_eq!(kind::<AgentReport>(&report, holds), Some(Kind::PlanInvalid));
        let twice = format!(r#"{{"tasks": [{over}], "tasks": []}}"#);
        assert_eq!(kind::<Plan>(&twice, holds), Some(Kind::Validation));
        assert_eq!(kind::<Plan>(r#"{"tasks": []}"#, holds), None);
        assert_eq!(kind::<AgentReport>(r#"{"outcome": {"kind": "succeeded"}, "plan": null}"#, holds), None);
    }
}
