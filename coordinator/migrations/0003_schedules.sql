-- Tasks that are enqueued again and again. What the columns mean to a run is decided in `schedule/`, not here.
CREATE TABLE orca.schedules (
    namespace     text NOT NULL,
    name          text NOT NULL,
    -- Stands for the schedule in `inputs`, so that the files its runs need are kept.
    id            uuid NOT NULL,
    spec          json NOT NULL,
    -- The next run, as the expression has it; none where there will be no other.
    next_run      timestamptz,
    -- When that run is looked at: later by its jitter, and once more later after it was refused.
    next_at       timestamptz,
    paused_at     timestamptz,
    paused_by     text,
    paused_reason text,
    -- The latest run and the task that was enqueued for it.
    last_at       timestamptz,
    last_task     uuid,
    -- Of the run that was enqueued last, which is not the latest where runs of the past were made up.
    open_task     uuid,
    -- The newest run that was left out because the one before it had not ended, and how often that happened.
    skipped_at    timestamptz,
    skipped       bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT orca.now(),
    updated_at    timestamptz NOT NULL DEFAULT orca.now(),
    PRIMARY KEY (namespace, name),
    CONSTRAINT schedules_next_check CHECK ((next_run IS NULL) = (next_at IS NULL)),
    CONSTRAINT schedules_last_check CHECK ((last_at IS NULL) = (last_task IS NULL))
);

-- When the next one is due, whoever's it is; and each namespace's next one, so that they take turns.
CREATE INDEX schedules_next ON orca.schedules (next_at) WHERE paused_at IS NULL AND next_at IS NOT NULL;
CREATE INDEX schedules_due ON orca.schedules (namespace, next_at) WHERE paused_at IS NULL AND next_at IS NOT NULL;
