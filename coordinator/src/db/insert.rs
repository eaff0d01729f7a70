//! Putting new tasks in, however many at once.

use orca_proto::ids::TaskId;
use orca_proto::spec::NewTask;
use orca_proto::task::{State, Step};
use sqlx::PgConnection;
use uuid::Uuid;

use super::apply::Effects;
use super::{as_word, to_json};

/// Tasks written by one statement.
const CHUNK: usize = 5_000;

/// A task that is ready to be written: its id, its place and its first state are decided.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) id: TaskId,
    /// The task it is under, and that one's fencing token.
    pub(crate) parent: Option<(TaskId, i64)>,
    pub(crate) depth: i16,
    pub(crate) step: Option<Step>,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    pub(crate) open_dependencies: i32,
    /// The tasks it depends on, each with whether it counts as open.
    pub(crate) needs: Vec<(TaskId, bool)>,
    pub(crate) retry_of: Option<TaskId>,
    pub(crate) spec: NewTask,
}

/// The columns of a chunk.
#[derive(Default)]
struct Columns {
    id: Vec<Uuid>,
    parent: Vec<Option<Uuid>>,
    parent_token: Vec<Option<i64>>,
    depth: Vec<i16>,
    state: Vec<String>,
    role: Vec<String>,
    step: Vec<Option<String>>,
    key: Vec<Option<String>>,
    name: Vec<String>,
    queue: Vec<String>,
    priority: Vec<i16>,
    labels: Vec<Option<String>>,
    on_dependency_failure: Vec<String>,
    on_child_failure: Vec<String>,
    max_attempts: Vec<i32>,
    retry: Vec<Option<String>>,
    schedule_to_start_ms: Vec<Option<i64>>,
    spec: Vec<String>,
    open_dependencies: Vec<i32>,
    reason: Vec<Option<String>>,
    retry_of: Vec<Option<Uuid>>,
    run_at_us: Vec<Option<i64>>,
    inputs: (Vec<Uuid>, Vec<Uuid>),
    needs: (Vec<Uuid>, Vec<Uuid>, Vec<bool>),
}

impl Columns {
    fn push(&mut self, task: &Prepared) -> sqlx::Result<()> {
        let spec = &task.spec;
        let retry_default =
            orca_proto::spec::Retry { max_attempts: spec.retry.max_attempts, ..Default::default() };
        self.id.push(task.id.0);
        self.parent.push(task.parent.map(|(id, _)| id.0));
        self.parent_token.push(task.parent.map(|(_, token)| token));
        self.depth.push(task.depth);
        self.state.push(task.state.as_str().to_owned());
        self.role.push(super::apply::role_word(spec.role).to_owned());
        self.step.push(task.step.map(|step| as_word(&step)));
        self.key.push(spec.key.clone());
        self.name.push(spec.display_name().to_owned());
        self.queue.push(spec.queue.clone());
        self.priority.push(spec.priority);
        self.labels.push(if spec.labels.is_empty() { None } else { Some(to_json(&spec.labels)?) });
        self.on_dependency_failure.push(as_word(&spec.on_dependency_failure));
        self.on_child_failure.push(as_word(&spec.on_child_failure));
        self.max_attempts.push(spec.retry.max_attempts);
        self.retry.push(if spec.retry == retry_default { None } else { Some(to_json(&spec.retry)?) });
        self.schedule_to_start_ms.push(spec.timeouts.schedule_to_start.map(|span| span.as_millis()));
        self.spec.push(to_json(spec)?);
        self.open_dependencies.push(task.open_dependencies);
        self.reason.push(task.reason.clone());
        self.retry_of.push(task.retry_of.map(|id| id.0));
        self.run_at_us.push(spec.run_at.map(|at| at.as_microsecond()));
        let mut artifacts: Vec<Uuid> = spec.artifacts.iter().map(|input| input.id.0).collect();
        artifacts.sort_unstable();
        artifacts.dedup();
        for artifact in artifacts {
            self.inputs.0.push(task.id.0);
            self.inputs.1.push(artifact);
        }
        for (needs, open) in &task.needs {
            self.needs.0.push(task.id.0);
            self.needs.1.push(needs.0);
            self.needs.2.push(*open);
        }
        Ok(())
    }
}

/// Writes tasks with their dependencies, entries in line and events.
pub(crate) async fn tasks(
    connection: &mut PgConnection,
    namespace: &str,
    tasks: &[Prepared],
    effects: &mut Effects,
) -> sqlx::Result<()> {
    for chunk in tasks.chunks(CHUNK) {
        let mut columns = Columns::default();
        for task in chunk {
            columns.push(task)?;
            effects.entered(task.id, namespace, task.spec.role, &task.spec.queue, task.state);
        }
        write(connection, namespace, &columns).await?;
        dependencies(connection, &columns).await?;
        inputs(connection, &columns).await?;
    }
    let ended: Vec<Uuid> =
        tasks.iter().filter(|task| task.state.is_terminal()).map(|task| task.id.0).collect();
    if !ended.is_empty() {
        effects.unsettled |= super::settlement::ended(connection, &ended).await?;
    }
    Ok(())
}

async fn write(connection: &mut PgConnection, namespace: &str, columns: &Columns) -> sqlx::Result<()> {
    sqlx::query!(
        r#"WITH fresh AS (
               INSERT INTO orca.tasks (namespace, id, parent, parent_token, depth, state, role, step, key, name, queue,
                   priority, labels, on_dependency_failure, on_child_failure, max_attempts, retry,
                   schedule_to_start_ms, spec, open_dependencies, reason, retry_of, run_at, finished_at)
               SELECT $1, c.id, c.parent, c.parent_token, c.depth, c.state, c.role, c.step, c.key, c.name, c.queue,
                   c.priority, c.labels::jsonb, c.on_dependency_failure, c.on_child_failure, c.max_attempts,
                   c.retry::json, c.schedule_to_start_ms, c.spec::json, c.open_dependencies, c.reason, c.retry_of,
                   orca.instant(c.run_at_us),
                   CASE WHEN c.state IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped')
                        THEN orca.now() END
               FROM unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::smallint[], $6::text[], $7::text[], $8::text[],
                   $9::text[], $10::text[], $11::text[], $12::smallint[], $13::text[], $14::text[], $15::text[],
                   $16::int[], $17::text[], $18::bigint[], $19::text[], $20::int[], $21::text[], $22::uuid[],
                   $23::bigint[])
                   AS c(id, parent, parent_token, depth, state, role, step, key, name, queue, priority, labels,
                        on_dependency_failure, on_child_failure, max_attempts, retry, schedule_to_start_ms, spec,
                        open_dependencies, reason, retry_of, run_at_us)
               RETURNING id, namespace, parent, state, role, queue, priority, schedule_to_start_ms, reason),
           lined AS (
               INSERT INTO orca.ready (task, namespace, role, queue, priority, expires_at)
               SELECT id, namespace, role, queue, priority,
                      orca.now() + schedule_to_start_ms * interval '1 millisecond'
               FROM fresh WHERE state = 'ready' ORDER BY id)
           INSERT INTO orca.events (namespace, task, parent, kind, state, reason)
           SELECT namespace, id, parent, 'orca.task.state', state, reason FROM fresh ORDER BY id"#,
        namespace,
        &columns.id,
        &columns.parent as &[Option<Uuid>],
        &columns.parent_token as &[Option<i64>],
        &columns.depth,
        &columns.state,
        &columns.role,
        &columns.step as &[Option<String>],
        &columns.key as &[Option<String>],
        &columns.name,
        &columns.queue,
        &columns.priority,
        &columns.labels as &[Option<String>],
        &columns.on_dependency_failure,
        &columns.on_child_failure,
        &columns.max_attempts,
        &columns.retry as &[Option<String>],
        &columns.schedule_to_start_ms as &[Option<i64>],
        &columns.spec,
        &columns.open_dependencies,
        &columns.reason as &[Option<String>],
        &columns.retry_of as &[Option<Uuid>],
        &columns.run_at_us as &[Option<i64>],
    )
    .execute(connection)
    .await
    .map(drop)
}

async fn dependencies(connection: &mut PgConnection, columns: &Columns) -> sqlx::Result<()> {
    let (tasks, needs, open) = &columns.needs;
    for start in (0..tasks.len()).step_by(50_000) {
        let end = (start + 50_000).min(tasks.len());
        let (Some(tasks), Some(needs), Some(open)) =
            (tasks.get(start..end), needs.get(start..end), open.get(start..end))
        else {
            break;
        };
        sqlx::query!(
            "INSERT INTO orca.dependencies (task, needs, open) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bool[])",
            tasks,
            needs,
            open
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn inputs(connection: &mut PgConnection, columns: &Columns) -> sqlx::Result<()> {
    let (tasks, artifacts) = &columns.inputs;
    if tasks.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO orca.inputs (task, artifact) SELECT * FROM unnest($1::uuid[], $2::uuid[])",
        tasks,
        artifacts
    )
    .execute(connection)
    .await
    .map(drop)
}
