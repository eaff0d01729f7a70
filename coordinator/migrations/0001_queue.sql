-- The queue's schema. A task that goes the plain way (in line, granted, succeeded) costs two rows, both only ever appended:
-- one in `tasks`, one in `done`. Lines and grants are kept by the hundred, in arrays, and nothing that claims read is
-- updated or searched from its beginning: dead rows and a long backlog cost a claim nothing. Whatever else may happen to a
-- task is written into its row of `tasks`.
--
-- `_sqlx_migrations` and the schema `orca` itself are made before this runs.

-- The clock that decides: the database's, plus an offset that only tests set. STABLE so that it can bound an index scan.
CREATE FUNCTION orca.now() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN clock_timestamp()
        + coalesce(nullif(current_setting('orca.clock_offset_ms', true), '')::double precision, 0) * interval '1 millisecond';

-- Microseconds since 1970 as an instant, and nothing for nothing.
CREATE FUNCTION orca.instant(micros bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN timestamptz 'epoch' + micros * interval '1 microsecond';

-- The first id (UUIDv7) that can have been made at an instant.
CREATE FUNCTION orca.id_at(at timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (lpad(to_hex(greatest(floor(extract(epoch FROM at) * 1000), 0)::bigint), 12, '0') || '70008000000000000000')::uuid;

-- What stands for two sets of labels in an index, whose entries are short. The database's encoding never changes, so neither
-- does this.
CREATE FUNCTION orca.labels_digest(requires text, prefers text) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN sha256(convert_to(requires || chr(10) || prefers, 'UTF8'));

-- What is the same to dispatch: tasks in one lane differ in nothing that decides who may take them, and are granted in the
-- order in which they entered it. Never changed.
CREATE TABLE orca.lanes (
    id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace text NOT NULL,
    role      text NOT NULL,
    queue     text NOT NULL,
    -- The empty text for none.
    grp       text NOT NULL,
    priority  smallint NOT NULL,
    millicpus bigint NOT NULL,
    memory    bigint NOT NULL,
    -- Labels of nodes, as JSON with sorted keys.
    requires  text NOT NULL,
    prefers   text NOT NULL,
    digest    bytea NOT NULL GENERATED ALWAYS AS (orca.labels_digest(requires, prefers)) STORED,
    CONSTRAINT lanes_key UNIQUE (namespace, role, queue, grp, priority, millicpus, memory, digest)
);

-- `state` is where a task is in its life but for two things that other tables know: a task that is `queued` is running if an
-- open grant holds it, has succeeded if it is in `done`, and is ready otherwise. `orca.task_now` says it in one place.
CREATE TABLE orca.tasks (
    id                    uuid NOT NULL,
    namespace             text NOT NULL,
    lane                  integer NOT NULL,
    state                 text NOT NULL,
    -- Nothing follows from its success but the success: no parent, no dependents, no unique key, first attempt.
    plain                 boolean NOT NULL,
    depth                 smallint NOT NULL,
    max_attempts          integer NOT NULL,
    fence                 bigint NOT NULL DEFAULT 0,
    attempt               integer NOT NULL DEFAULT 0,
    attempts_used         integer NOT NULL DEFAULT 0,
    runtime_errors        integer NOT NULL DEFAULT 0,
    rounds                integer NOT NULL DEFAULT 0,
    open_dependencies     integer NOT NULL DEFAULT 0,
    open_children         integer NOT NULL DEFAULT 0,
    -- Approval and signals that have not come.
    open_gates            integer NOT NULL DEFAULT 0,
    cancel_requested      boolean NOT NULL DEFAULT false,
    created_at            timestamptz NOT NULL,
    name                  text NOT NULL,
    spec                  text NOT NULL,
    key                   text,
    labels                jsonb,
    parent                uuid,
    -- The parent's fencing token when this was enqueued: a later attempt does not answer for an earlier one's children.
    parent_token          bigint,
    step                  text,
    -- Where they are not the defaults.
    on_dependency_failure text,
    on_child_failure      text,
    retry                 text,
    schedule_to_start_ms  bigint,
    deadline              timestamptz,
    -- Not granted from this instant on.
    start_by              timestamptz,
    -- A goal's newest finish step.
    finish                uuid,
    child_failure         text,
    outcome               text,
    reason                text,
    -- Held while `waiting`, shown once `succeeded`.
    result                text,
    progress              text,
    progress_event_at     timestamptz,
    retry_of              uuid,
    schedule              text,
    unique_key            text,
    -- A dead letter that somebody retried or purged.
    dismissed             boolean,
    run_at                timestamptz,
    started_at            timestamptz,
    finished_at           timestamptz,
    PRIMARY KEY (id),
    CONSTRAINT tasks_state_check CHECK (state IN ('blocked', 'scheduled', 'queued', 'waiting', 'succeeded', 'failed',
        'cancelled', 'expired', 'skipped')),
    CONSTRAINT tasks_attempts_check CHECK (attempts_used <= attempt AND attempt <= max_attempts),
    CONSTRAINT tasks_counters_check CHECK (open_dependencies >= 0 AND open_children >= 0 AND open_gates >= 0),
    CONSTRAINT tasks_finished_check CHECK (
        (finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped')))
) PARTITION BY RANGE (id);

CREATE INDEX tasks_list ON orca.tasks (namespace, id);
CREATE INDEX tasks_children ON orca.tasks (parent, id) WHERE parent IS NOT NULL;
CREATE INDEX tasks_retries ON orca.tasks (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX tasks_due ON orca.tasks (run_at) WHERE state = 'scheduled';
CREATE INDEX tasks_stuck ON orca.tasks (state) WHERE state IN ('blocked', 'waiting');
CREATE INDEX tasks_dead ON orca.tasks (namespace, id) WHERE state IN ('failed', 'expired') AND dismissed IS NULL;

-- Tasks that succeeded by the plain way.
CREATE TABLE orca.done (
    task        uuid NOT NULL,
    token       bigint NOT NULL,
    node        uuid NOT NULL,
    granted_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    result      text,
    PRIMARY KEY (task)
) PARTITION BY RANGE (task);

-- Lines: for each lane the tasks that entered it, in order, by the hundred. Appended under the lane's tail lock, so that
-- the order of `seq` is the order of commits. What lies before the newest grant of the lane has been taken; it is removed
-- in passing, and never read again.
CREATE TABLE orca.segments (
    lane     integer NOT NULL,
    seq      bigint NOT NULL,
    ready_at timestamptz NOT NULL,
    size     smallint NOT NULL,
    tasks    uuid[] NOT NULL,
    PRIMARY KEY (lane, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

ALTER TABLE orca.segments ALTER COLUMN tasks SET STORAGE EXTERNAL;

CREATE SEQUENCE orca.line;
CREATE SEQUENCE orca.fence;

-- The lanes that have segments: those in which something waits, and those in which nothing has for a moment only. From lane
-- to lane through the index, so that it costs nothing what lanes there have ever been; backwards, because what was put in
-- line last is there the longest.
CREATE VIEW orca.lined AS
WITH RECURSIVE l(lane) AS (
    SELECT max(s.lane) FROM orca.segments s
    UNION ALL
    SELECT (SELECT s.lane FROM orca.segments s WHERE s.lane < l.lane ORDER BY s.lane DESC, s.seq DESC LIMIT 1)
    FROM l WHERE l.lane IS NOT NULL)
SELECT l.lane FROM l WHERE l.lane IS NOT NULL;

-- Grants: what a node took from one segment in one go, under one fencing token. `seq` and `upto` say how far the lane has
-- been taken with it: a lane's newest grant is its head, and is kept for that even when nothing of it is left to do. Only of a
-- lane that has had nothing in it for a while it goes, after the segments that it speaks of: whoever reads the head first, and
-- then the segments, finds none that were taken. Those that come later have a higher `seq` than all before.
CREATE TABLE orca.grants (
    token      bigint NOT NULL,
    -- Leases that a node did not renew with the others are set apart under the same token.
    part       smallint NOT NULL DEFAULT 0,
    lane       integer NOT NULL,
    seq        bigint NOT NULL,
    upto       smallint NOT NULL,
    node       uuid NOT NULL,
    node_name  text NOT NULL,
    granted_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Tasks that are held still: those of `tasks` that are not in `done`.
    open       integer NOT NULL,
    tasks      uuid[] NOT NULL,
    -- Those whose end takes more than a row in `done`.
    special    uuid[] NOT NULL,
    PRIMARY KEY (token, part)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

ALTER TABLE orca.grants ALTER COLUMN tasks SET STORAGE EXTERNAL;
CREATE INDEX grants_head ON orca.grants (lane, seq, upto);
CREATE INDEX grants_open ON orca.grants (lane) WHERE open > 0;
CREATE INDEX grants_node ON orca.grants (node, token) WHERE open > 0;
CREATE INDEX grants_expiry ON orca.grants (expires_at) WHERE open > 0;

-- Attempts of which there is more to tell than that they succeeded: they began, wrote logs, or ended otherwise.
CREATE TABLE orca.attempts (
    task           uuid NOT NULL,
    token          bigint NOT NULL,
    number         integer NOT NULL,
    node           uuid NOT NULL,
    node_name      text NOT NULL,
    granted_at     timestamptz NOT NULL,
    started_at     timestamptz,
    -- Exactly which image it ran, with its digest.
    image          text,
    ended_at       timestamptz,
    outcome        text,
    -- SHA-256 of the report that settled it, and what was answered: the same report again is answered the same.
    report_hash    bytea,
    reported_state text,
    log_next       bigint NOT NULL DEFAULT 0,
    log_bytes      bigint NOT NULL DEFAULT 0,
    log_dropped    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (task, token)
) PARTITION BY RANGE (task);

-- Instants at which something is to happen to an open task: nobody took it in time, its deadline, the end of a wait.
CREATE TABLE orca.timers (
    at   timestamptz NOT NULL,
    task uuid NOT NULL,
    -- `start`, `deadline`, `gate:` for an approval, `gate:NAME` for a signal.
    kind text NOT NULL,
    PRIMARY KEY (task, kind)
);

CREATE INDEX timers_at ON orca.timers (at);

-- What a task waits for beside other tasks: an operator's approval (the empty name), signals.
CREATE TABLE orca.gates (
    task       uuid NOT NULL,
    name       text NOT NULL,
    on_timeout text NOT NULL,
    opened_at  timestamptz,
    opened_by  text,
    comment    text,
    -- It was decided by whom `opened_by` says, but by a no.
    refused    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (task, name)
);

-- Signals that were sent to a task.
CREATE TABLE orca.signals (
    task    uuid NOT NULL,
    name    text NOT NULL,
    payload text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT orca.now(),
    sent_by text NOT NULL,
    -- Whether the task waited for it before it ran, or an attempt has asked for it.
    read    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (task, name)
);

CREATE TABLE orca.unique_keys (
    namespace text NOT NULL,
    key       text NOT NULL,
    task      uuid NOT NULL,
    -- Given back when the task is granted, instead of when it ends.
    queued    boolean NOT NULL,
    PRIMARY KEY (namespace, key)
);

CREATE INDEX unique_keys_task ON orca.unique_keys (task);

-- Settings of queues, and of groups inside of them (the empty group is the queue itself). Absent where all is default.
CREATE TABLE orca.queues (
    namespace     text NOT NULL,
    queue         text NOT NULL,
    grp           text NOT NULL,
    max_running   integer,
    rate_tasks    integer,
    rate_per_ms   bigint,
    -- What is left of the rate, in tasks, and when that was.
    allowance     double precision,
    allowance_at  timestamptz,
    ageing_ms     bigint,
    weight        integer,
    paused_at     timestamptz,
    paused_by     text,
    paused_reason text,
    PRIMARY KEY (namespace, queue, grp)
);

CREATE TABLE orca.namespaces (
    name        text PRIMARY KEY,
    max_open    bigint,
    max_running integer,
    max_queues  integer
);

CREATE TABLE orca.dependencies (
    task  uuid NOT NULL,
    needs uuid NOT NULL,
    -- Whether it counts in the task's `open_dependencies`: `needs` had not ended when this was written.
    open  boolean NOT NULL,
    PRIMARY KEY (task, needs)
);

CREATE INDEX dependencies_needs ON orca.dependencies (needs, task);

-- Tasks that ended (or whose children are to be cancelled) and whose dependents or parents do not know yet. Written with
-- the change itself, consumed by one settler at a time.
CREATE TABLE orca.unsettled (
    seq  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task uuid NOT NULL,
    kind text NOT NULL,
    -- What hangs on it is settled up to here, where it is more than one turn takes.
    after      uuid,
    -- Set where it could not be settled, so that it does not keep the others from being.
    not_before timestamptz,
    CONSTRAINT unsettled_kind_check CHECK (kind IN ('ended', 'cancel_children'))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE orca.nodes (
    id            uuid PRIMARY KEY,
    namespace     text NOT NULL,
    name          text NOT NULL,
    -- The `sub` of the credential that registered it: nobody else's can act for it.
    subject       text NOT NULL,
    instance      uuid NOT NULL,
    -- Where its daemon keeps its files.
    home          uuid,
    role          text NOT NULL,
    slots         integer NOT NULL,
    -- What its tasks may use in all; nothing where that is not counted.
    millicpus     bigint,
    memory        bigint,
    queues        text[] NOT NULL DEFAULT '{}',
    version       text NOT NULL,
    runtime       text NOT NULL,
    labels        json NOT NULL,
    draining      boolean NOT NULL DEFAULT false,
    -- Why it takes no work for now, by its own words.
    unwell        text,
    -- An operator has it take no more work. Stays when the node registers again.
    cordoned_at   timestamptz,
    cordoned_by   text,
    cordon_reason text,
    takes         boolean NOT NULL GENERATED ALWAYS AS (NOT draining AND unwell IS NULL AND cordoned_at IS NULL) STORED,
    registered_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    CONSTRAINT nodes_name_key UNIQUE (namespace, name)
) WITH (fillfactor = 50);

-- Log lines as they came, some thousands in a row: a row each would cost more than what they say.
CREATE TABLE orca.log_chunks (
    task   uuid NOT NULL,
    token  bigint NOT NULL,
    -- The number of its first line.
    first  bigint NOT NULL,
    lines  integer NOT NULL,
    -- [[seq, stream, microseconds since 1970, text], …]
    body   text NOT NULL,
    PRIMARY KEY (task, token, first)
) PARTITION BY RANGE (task);

-- Fast rather than small, where the server was built with it.
DO $$
BEGIN
    ALTER TABLE orca.log_chunks ALTER COLUMN body SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

-- Readers see only events of transactions older than every one still under way, in the order (xid, seq): so none that
-- commits late is ever passed over. One that stays open, in whatever database of the server, holds up all
-- readers. What happened to many tasks at once is one row.
CREATE TABLE orca.events (
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq       bigint GENERATED ALWAYS AS IDENTITY,
    namespace text NOT NULL,
    -- As on the wire, or `done`: these attempts, and with them their tasks, succeeded.
    kind      text NOT NULL,
    at        timestamptz NOT NULL DEFAULT orca.now(),
    tasks     uuid[] NOT NULL,
    state     text,
    reason    text,
    attempt   integer,
    token     bigint,
    node      uuid,
    outcome   text,
    progress  text,
    PRIMARY KEY (xid, seq)
);

ALTER TABLE orca.events ALTER COLUMN tasks SET STORAGE EXTERNAL;

CREATE TABLE orca.artifacts (
    id         uuid PRIMARY KEY,
    namespace  text NOT NULL,
    task       uuid,
    token      bigint,
    name       text NOT NULL,
    size       bigint NOT NULL,
    sha256     bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT orca.now(),
    CONSTRAINT artifacts_attempt_key UNIQUE (task, token, name)
);

CREATE INDEX artifacts_sha256 ON orca.artifacts (sha256);
CREATE INDEX artifacts_uploads ON orca.artifacts (created_at) WHERE task IS NULL;

-- Which artifacts a task's spec names: an upload is kept for as long as one of them is.
CREATE TABLE orca.inputs (
    task     uuid NOT NULL,
    artifact uuid NOT NULL,
    PRIMARY KEY (artifact, task)
);

CREATE INDEX inputs_task ON orca.inputs (task);

-- Contents whose last record went away; their bytes are removed a while later if none came back.
CREATE TABLE orca.blob_garbage (
    sha256 bytea PRIMARY KEY,
    since  timestamptz NOT NULL DEFAULT orca.now()
);

CREATE TABLE orca.idempotency_keys (
    namespace  text NOT NULL,
    key        text NOT NULL,
    request    bytea NOT NULL,
    ids        uuid[] NOT NULL,
    -- Not while a request is carried out in several transactions: then a repeat goes on with it.
    complete   boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT orca.now(),
    PRIMARY KEY (namespace, key)
);

CREATE INDEX idempotency_keys_age ON orca.idempotency_keys (created_at);

CREATE TABLE orca.tasks_default PARTITION OF orca.tasks DEFAULT
    WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.1);
CREATE TABLE orca.done_default PARTITION OF orca.done DEFAULT;
CREATE TABLE orca.attempts_default PARTITION OF orca.attempts DEFAULT WITH (fillfactor = 80);
CREATE TABLE orca.log_chunks_default PARTITION OF orca.log_chunks DEFAULT;

-- A task as it is now: its row, what its grant knows, what `done` knows.
CREATE VIEW orca.task_now AS
SELECT t.id, t.namespace, t.lane, l.role, l.queue, l.grp, l.priority, t.plain, t.depth, t.max_attempts, t.rounds,
       t.attempts_used, t.runtime_errors, t.open_dependencies, t.open_children, t.open_gates, t.cancel_requested,
       t.created_at, t.name, t.spec, t.key, t.labels, t.parent, t.parent_token, t.step,
       t.on_dependency_failure, t.on_child_failure, t.retry, t.schedule_to_start_ms, t.deadline, t.start_by,
       t.finish, t.child_failure, t.reason, t.progress, t.retry_of, t.schedule, t.unique_key, t.dismissed, t.run_at,
       t.state AS stored,
       CASE WHEN d.task IS NOT NULL THEN 'succeeded'
            WHEN t.state <> 'queued' THEN t.state
            WHEN g.token IS NOT NULL THEN 'running'
            ELSE 'ready' END AS state,
       coalesce(d.token, g.token, t.fence) AS fence,
       CASE WHEN d.task IS NOT NULL OR g.token IS NOT NULL THEN t.attempts_used + 1 ELSE t.attempt END AS attempt,
       CASE WHEN d.task IS NOT NULL THEN '{"kind":"succeeded"}' ELSE t.outcome END AS outcome,
       CASE WHEN d.task IS NOT NULL THEN d.result ELSE t.result END AS result,
       coalesce(t.started_at, d.granted_at, g.granted_at) AS started_at,
       coalesce(d.finished_at, t.finished_at) AS finished_at
FROM orca.tasks t
JOIN orca.lanes l ON l.id = t.lane
LEFT JOIN orca.done d ON d.task = t.id AND t.state = 'queued'
LEFT JOIN LATERAL (
    SELECT g.token, g.granted_at FROM orca.grants g
    WHERE t.state = 'queued' AND d.task IS NULL AND g.lane = t.lane AND g.open > 0 AND t.id = ANY (g.tasks)
    LIMIT 1) g ON true;

-- Every grant of a task that there is anything to tell of.
CREATE VIEW orca.attempt_now AS
SELECT a.task, a.token, a.number, a.node, a.node_name, a.granted_at, a.started_at, a.image,
       coalesce(a.ended_at, d.finished_at) AS ended_at,
       coalesce(a.outcome, CASE WHEN d.task IS NOT NULL THEN '{"kind":"succeeded"}' END) AS outcome
FROM orca.attempts a LEFT JOIN orca.done d ON d.task = a.task AND d.token = a.token
UNION ALL
SELECT d.task, d.token, 1, d.node, coalesce(n.name, ''), d.granted_at, NULL, NULL, d.finished_at, '{"kind":"succeeded"}'
FROM orca.done d LEFT JOIN orca.nodes n ON n.id = d.node
WHERE NOT EXISTS (SELECT FROM orca.attempts a WHERE a.task = d.task AND a.token = d.token)
UNION ALL
SELECT t.id, g.token, t.attempts_used + 1, g.node, g.node_name, g.granted_at, NULL, NULL, NULL, NULL
FROM orca.tasks t JOIN orca.grants g ON g.lane = t.lane AND g.open > 0 AND t.id = ANY (g.tasks)
WHERE t.state = 'queued' AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = t.id)
  AND NOT EXISTS (SELECT FROM orca.attempts a WHERE a.task = t.id AND a.token = g.token);
