-- The queue's first schema. Bodies and history live in `tasks` and `attempts`; what is hot (ready entries, leases, tasks
-- whose end others wait for) lives in narrow tables of its own.
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

CREATE TABLE orca.tasks (
    id                    uuid PRIMARY KEY,
    namespace             text NOT NULL,
    parent                uuid,
    -- The parent's fencing token when this was enqueued: a later attempt does not answer for an earlier one's children.
    parent_token          bigint,
    depth                 smallint NOT NULL,
    state                 text NOT NULL,
    role                  text NOT NULL,
    step                  text,
    key                   text,
    name                  text NOT NULL,
    queue                 text NOT NULL,
    priority              smallint NOT NULL,
    labels                jsonb,
    on_dependency_failure text NOT NULL,
    on_child_failure      text NOT NULL,
    max_attempts          integer NOT NULL,
    -- The retry policy where it is not the default.
    retry                 json,
    schedule_to_start_ms  bigint,
    spec                  json NOT NULL,
    fence                 bigint NOT NULL DEFAULT 0,
    attempt               integer NOT NULL DEFAULT 0,
    attempts_used         integer NOT NULL DEFAULT 0,
    runtime_errors        integer NOT NULL DEFAULT 0,
    rounds                integer NOT NULL DEFAULT 0,
    -- A goal's newest finish step.
    finish                uuid,
    open_dependencies     integer NOT NULL,
    open_children         integer NOT NULL DEFAULT 0,
    child_failure         text,
    cancel_requested      boolean NOT NULL DEFAULT false,
    outcome               json,
    reason                text,
    -- Held while `waiting`, shown once `succeeded`.
    result                json,
    progress              json,
    progress_event_at     timestamptz,
    retry_of              uuid,
    created_at            timestamptz NOT NULL DEFAULT orca.now(),
    run_at                timestamptz,
    started_at            timestamptz,
    finished_at           timestamptz,
    CONSTRAINT tasks_state_check CHECK (state IN ('blocked', 'scheduled', 'ready', 'running', 'waiting', 'succeeded',
        'failed', 'cancelled', 'expired', 'skipped')),
    CONSTRAINT tasks_attempts_check CHECK (attempts_used <= attempt AND attempt <= max_attempts),
    CONSTRAINT tasks_counters_check CHECK (open_dependencies >= 0 AND open_children >= 0),
    CONSTRAINT tasks_finished_check CHECK (
        (finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped')))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.1);

CREATE INDEX tasks_list ON orca.tasks (namespace, id);
CREATE INDEX tasks_children ON orca.tasks (parent, id) INCLUDE (state) WHERE parent IS NOT NULL;
CREATE INDEX tasks_due ON orca.tasks (run_at) WHERE state = 'scheduled';
CREATE INDEX tasks_stuck ON orca.tasks (state) WHERE state IN ('blocked', 'waiting');
CREATE INDEX tasks_ended_roots ON orca.tasks (finished_at) WHERE parent IS NULL AND finished_at IS NOT NULL;

-- One row per task that waits for a node. Claims take the highest priority first, then the entry that came first.
CREATE TABLE orca.ready (
    task       uuid PRIMARY KEY,
    seq        bigint GENERATED ALWAYS AS IDENTITY,
    namespace  text NOT NULL,
    role       text NOT NULL,
    queue      text NOT NULL,
    priority   smallint NOT NULL,
    expires_at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE INDEX ready_claim ON orca.ready (namespace, role, priority DESC, seq);
CREATE INDEX ready_expiry ON orca.ready (expires_at) WHERE expires_at IS NOT NULL;

-- One row per task that a node runs.
CREATE TABLE orca.leases (
    task       uuid PRIMARY KEY,
    token      bigint NOT NULL,
    node       uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    cancel     boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE INDEX leases_node ON orca.leases (node);
CREATE INDEX leases_expiry ON orca.leases (expires_at);

-- Every grant that ever was.
CREATE TABLE orca.attempts (
    task           uuid NOT NULL,
    token          bigint NOT NULL,
    number         integer NOT NULL,
    node           uuid NOT NULL,
    node_name      text NOT NULL,
    granted_at     timestamptz NOT NULL,
    started_at     timestamptz,
    ended_at       timestamptz,
    outcome        json,
    -- SHA-256 of the report that settled it, and what was answered: the same report again is answered the same.
    report_hash    bytea,
    reported_state text,
    log_next       bigint NOT NULL DEFAULT 0,
    log_bytes      bigint NOT NULL DEFAULT 0,
    log_dropped    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (task, token)
) WITH (fillfactor = 80);

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
    CONSTRAINT unsettled_kind_check CHECK (kind IN ('ended', 'cancel_children'))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE orca.nodes (
    id            uuid PRIMARY KEY,
    namespace     text NOT NULL,
    name          text NOT NULL,
    -- The `sub` of the credential that registered it: nobody else's can act for it.
    subject       text NOT NULL,
    instance      uuid NOT NULL,
    role          text NOT NULL,
    slots         integer NOT NULL,
    version       text NOT NULL,
    runtime       text NOT NULL,
    labels        json NOT NULL,
    draining      boolean NOT NULL DEFAULT false,
    registered_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    CONSTRAINT nodes_name_key UNIQUE (namespace, name)
) WITH (fillfactor = 50);

CREATE TABLE orca.log_lines (
    task   uuid NOT NULL,
    token  bigint NOT NULL,
    seq    bigint NOT NULL,
    stream text NOT NULL,
    at     timestamptz NOT NULL,
    text   text NOT NULL,
    PRIMARY KEY (task, token, seq)
);

-- Readers see only events of transactions older than every one still under way, in the order (xid, seq): so none that
-- commits late is ever passed over.
CREATE TABLE orca.events (
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq       bigint GENERATED ALWAYS AS IDENTITY,
    namespace text NOT NULL,
    task      uuid NOT NULL,
    parent    uuid,
    kind      text NOT NULL,
    at        timestamptz NOT NULL DEFAULT orca.now(),
    state     text,
    reason    text,
    attempt   integer,
    token     bigint,
    node      uuid,
    outcome   json,
    progress  json,
    PRIMARY KEY (xid, seq)
);

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
    created_at timestamptz NOT NULL DEFAULT orca.now(),
    PRIMARY KEY (namespace, key)
);

CREATE INDEX idempotency_keys_age ON orca.idempotency_keys (created_at);
