//! Putting new tasks in, however many at once.

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::spec::{NewTask, OnChildFailure, OnDependencyFailure, Retry};
use orca_proto::task::{State, Step};
use sqlx::PgConnection;
use uuid::Uuid;

use super::apply::{Effects, stored};
use super::event::Entered;
use super::queue::Plain;
use super::{Time, as_word, gate, timer, to_json};

/// Tasks written by one statement.
const CHUNK: usize = 5_000;

/// A task that is ready to be written: its id, its place and its first state are decided.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) id: TaskId,
    pub(crate) lane: i32,
    /// The task it is under, and that one's fencing token.
    pub(crate) parent: Option<(TaskId, i64)>,
    pub(crate) depth: i16,
    pub(crate) step: Option<Step>,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    pub(crate) open_dependencies: i32,
    pub(crate) open_gates: i32,
    /// The tasks it depends on, each with whether it counts as open.
    pub(crate) needs: Vec<(TaskId, bool)>,
    /// Whether others that are written with it depend on it.
    pub(crate) needed: bool,
    /// Not before this instant: `run_at`, or the end of `delay`.
    pub(crate) run_at: Option<Timestamp>,
    pub(crate) retry_of: Option<TaskId>,
    /// The schedule that it comes from.
    pub(crate) schedule: Option<String>,
    pub(crate) spec: NewTask,
}

impl Prepared {
    /// Whether nothing follows from its success but the success.
    pub(crate) const fn is_plain(&self) -> bool {
        self.parent.is_none() && self.step.is_none() && !self.needed && self.spec.unique.is_none()
    }

    /// Whether it needs nothing but a row and a place in line.
    pub(crate) fn is_simple(&self) -> bool {
        let spec = &self.spec;
        self.is_plain()
            && self.state == State::Ready
            && self.needs.is_empty()
            && self.run_at.is_none()
            && self.retry_of.is_none()
            && self.schedule.is_none()
            && spec.deadline.is_none()
            && spec.timeouts.schedule_to_start.is_none()
            && spec.artifacts.is_empty()
            && spec.on_dependency_failure == OnDependencyFailure::default()
            && spec.on_child_failure == OnChildFailure::default()
    }
}

/// A retry policy as its column has it: nothing where all but `max_attempts` is the default.
fn retry_column(spec: &NewTask) -> sqlx::Result<Option<String>> {
    let usual = Retry { max_attempts: spec.retry.max_attempts, ..Retry::default() };
    if spec.retry == usual { Ok(None) } else { to_json(&spec.retry).map(Some) }
}

fn labels_column(spec: &NewTask) -> sqlx::Result<Option<String>> {
    if spec.labels.is_empty() { Ok(None) } else { to_json(&spec.labels).map(Some) }
}

/// Adds a simple task to the columns that one statement enqueues.
pub(crate) fn push_plain(plain: &mut Plain, namespace: &str, task: &Prepared) -> sqlx::Result<()> {
    plain.namespaces.push(namespace.to_owned());
    plain.ids.push(task.id.0);
    plain.lanes.push(task.lane);
    plain.names.push(task.spec.display_name().to_owned());
    plain.max_attempts.push(task.spec.retry.max_attempts);
    plain.specs.push(to_json(&task.spec)?);
    plain.keys.push(task.spec.key.clone());
    plain.labels.push(labels_column(&task.spec)?);
    plain.retries.push(retry_column(&task.spec)?);
    Ok(())
}

/// The columns of a chunk.
#[derive(Default)]
struct Columns {
    id: Vec<Uuid>,
    lane: Vec<i32>,
    plain: Vec<bool>,
    parent: Vec<Option<Uuid>>,
    parent_token: Vec<Option<i64>>,
    depth: Vec<i16>,
    state: Vec<String>,
    step: Vec<Option<String>>,
    key: Vec<Option<String>>,
    name: Vec<String>,
    labels: Vec<Option<String>>,
    on_dependency_failure: Vec<Option<String>>,
    on_child_failure: Vec<Option<String>>,
    max_attempts: Vec<i32>,
    retry: Vec<Option<String>>,
    schedule_to_start_ms: Vec<Option<i64>>,
    deadline_us: Vec<Option<i64>>,
    spec: Vec<String>,
    open_dependencies: Vec<i32>,
    open_gates: Vec<i32>,
    reason: Vec<Option<String>>,
    retry_of: Vec<Option<Uuid>>,
    schedule: Vec<Option<String>>,
    unique_key: Vec<Option<String>>,
    run_at_us: Vec<Option<i64>>,
    inputs: (Vec<Uuid>, Vec<Uuid>),
    needs: (Vec<Uuid>, Vec<Uuid>, Vec<bool>),
}

impl Columns {
    fn push(&mut self, task: &Prepared) -> sqlx::Result<()> {
        let spec = &task.spec;
        let unless_default = |word: String, usual: bool| (!usual).then_some(word);
        self.id.push(task.id.0);
        self.lane.push(task.lane);
        self.plain.push(task.is_plain());
        self.parent.push(task.parent.map(|(id, _)| id.0));
        self.parent_token.push(task.parent.map(|(_, token)| token));
        self.depth.push(task.depth);
        self.state.push(stored(task.state).to_owned());
        self.step.push(task.step.map(|step| as_word(&step)));
        self.key.push(spec.key.clone());
        self.name.push(spec.display_name().to_owned());
        self.labels.push(labels_column(spec)?);
        self.on_dependency_failure.push(unless_default(
            as_word(&spec.on_dependency_failure),
            spec.on_dependency_failure == OnDependencyFailure::default(),
        ));
        self.on_child_failure.push(unless_default(
            as_word(&spec.on_child_failure),
            spec.on_child_failure == OnChildFailure::default(),
        ));
        self.max_attempts.push(spec.retry.max_attempts);
        self.retry.push(retry_column(spec)?);
        self.schedule_to_start_ms.push(spec.timeouts.schedule_to_start.map(|span| span.as_millis()));
        self.deadline_us.push(spec.deadline.map(|at| at.as_microsecond()));
        self.spec.push(to_json(spec)?);
        self.open_dependencies.push(task.open_dependencies);
        self.open_gates.push(task.open_gates);
        self.reason.push(task.reason.clone());
        self.retry_of.push(task.retry_of.map(|id| id.0));
        self.schedule.push(task.schedule.clone());
        self.unique_key.push(spec.unique.as_ref().map(|unique| unique.key.clone()));
        self.run_at_us.push(task.run_at.map(|at| at.as_microsecond()));
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

/// Writes tasks with their dependencies, gates, timers, places in line and events. It is the last thing that its transaction
/// locks anything for: tasks without anything to them come in line at once.
pub(crate) async fn tasks(
    connection: &mut PgConnection,
    namespace: &str,
    tasks: &[Prepared],
    effects: &mut Effects,
) -> sqlx::Result<()> {
    if tasks.iter().all(Prepared::is_simple) {
        let mut plain = Plain::default();
        for task in tasks {
            push_plain(&mut plain, namespace, task)?;
            effects.entered(task.id, task.lane, task.state);
        }
        return super::queue::enqueue_plain(connection, &plain).await.map(drop);
    }
    let mut entered = Vec::with_capacity(tasks.len());
    for chunk in tasks.chunks(CHUNK) {
        let mut columns = Columns::default();
        for task in chunk {
            columns.push(task)?;
            effects.entered(task.id, task.lane, task.state);
            entered.push(Entered {
                namespace: namespace.to_owned(),
                task: task.id.0,
                state: task.state,
                reason: task.reason.clone(),
                attempt: 0,
            });
        }
        write(connection, namespace, &columns).await?;
        dependencies(connection, &columns).await?;
        inputs(connection, &columns).await?;
    }
    super::event::entered(connection, &entered).await?;
    waits(connection, tasks, effects).await?;
    let ended: Vec<Uuid> =
        tasks.iter().filter(|task| task.state.is_terminal()).map(|task| task.id.0).collect();
    if !ended.is_empty() {
        effects.unsettled |= super::settlement::ended(connection, &ended).await?;
        // Born skipped: the unique key that it took is nobody's.
        super::unique::free(connection, &ended).await?;
    }
    tasks
        .iter()
        .filter(|task| task.state == State::Ready)
        .for_each(|task| effects.line_up(task.lane, task.id.0));
    Ok(())
}

/// Gates and timers.
async fn waits(connection: &mut PgConnection, tasks: &[Prepared], effects: &mut Effects) -> sqlx::Result<()> {
    let open = || tasks.iter().filter(|task| !task.state.is_terminal());
    let mut timers = Vec::new();
    let mut gates = Vec::new();
    for task in open() {
        if let Some(at) = task.spec.deadline {
            timers.push((task.id.0, timer::DEADLINE.to_owned(), Time(at)));
        }
        if task.open_gates > 0 {
            gates.extend(gate::of(task.id, &task.spec));
        }
    }
    effects.scheduled |= !timers.is_empty() || gates.iter().any(|gate| gate.timeout_ms.is_some());
    timer::set(connection, &timers).await?;
    gate::set(connection, &gates).await?;
    let timed: Vec<Uuid> = open()
        .filter(|task| task.state == State::Ready && task.spec.timeouts.schedule_to_start.is_some())
        .map(|task| task.id.0)
        .collect();
    effects.scheduled |= !timed.is_empty();
    timer::set_start(connection, &timed).await
}

async fn write(connection: &mut PgConnection, namespace: &str, columns: &Columns) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.tasks (namespace, id, lane, plain, parent, parent_token, depth, state, step, key, name, labels,
               on_dependency_failure, on_child_failure, max_attempts, retry, schedule_to_start_ms, deadline, spec,
               open_dependencies, open_gates, reason, retry_of, schedule, unique_key, run_at, created_at, start_by, finished_at)
           SELECT $1, c.id, c.lane, c.plain, c.parent, c.parent_token, c.depth, c.state, c.step, c.key, c.name,
               c.labels::jsonb, c.on_dependency_failure, c.on_child_failure, c.max_attempts, c.retry,
               c.schedule_to_start_ms, orca.instant(c.deadline_us), c.spec, c.open_dependencies, c.open_gates, c.reason,
               c.retry_of, c.schedule, c.unique_key, orca.instant(c.run_at_us), now.at,
               CASE WHEN c.state = 'queued' THEN least(orca.instant(c.deadline_us),
                                                       now.at + c.schedule_to_start_ms * interval '1 millisecond') END,
               CASE WHEN c.state IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped') THEN now.at END
           FROM unnest($2::uuid[], $3::int[], $4::bool[], $5::uuid[], $6::bigint[], $7::smallint[], $8::text[], $9::text[],
                   $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::int[], $16::text[], $17::bigint[],
                   $18::bigint[], $19::text[], $20::int[], $21::int[], $22::text[], $23::uuid[], $24::text[], $25::text[],
                   $26::bigint[])
                   AS c(id, lane, plain, parent, parent_token, depth, state, step, key, name, labels,
                        on_dependency_failure, on_child_failure, max_attempts, retry, schedule_to_start_ms, deadline_us,
                        spec, open_dependencies, open_gates, reason, retry_of, schedule, unique_key, run_at_us),
               (SELECT orca.now() AS at) AS now"#,
        namespace,
        &columns.id,
        &columns.lane,
        &columns.plain,
        &columns.parent as &[Option<Uuid>],
        &columns.parent_token as &[Option<i64>],
        &columns.depth,
        &columns.state,
        &columns.step as &[Option<String>],
        &columns.key as &[Option<String>],
        &columns.name,
        &columns.labels as &[Option<String>],
        &columns.on_dependency_failure as &[Option<String>],
        &columns.on_child_failure as &[Option<String>],
        &columns.max_attempts,
        &columns.retry as &[Option<String>],
        &columns.schedule_to_start_ms as &[Option<i64>],
        &columns.deadline_us as &[Option<i64>],
        &columns.spec,
        &columns.open_dependencies,
        &columns.open_gates,
        &columns.reason as &[Option<String>],
        &columns.retry_of as &[Option<Uuid>],
        &columns.schedule as &[Option<String>],
        &columns.unique_key as &[Option<String>],
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
