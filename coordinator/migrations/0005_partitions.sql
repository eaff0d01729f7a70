-- Old tasks go with the table that they are in. `tasks`, `done`, `attempts` and `log_chunks` are partitioned by the task's id,
-- which begins with the time at which it was made; partitions are made ahead and dropped when all in them is old enough. What
-- no partition was made for is in the default one, from which it is removed row by row.

CREATE TABLE orca.partitions (
    starts     timestamptz PRIMARY KEY,
    ends       timestamptz NOT NULL UNIQUE,
    -- When it is looked at next; once it is as old as tasks are kept unless this says otherwise.
    look_at    timestamptz,
    -- An open task keeps it from being dropped: what else is old in it is removed row by row.
    kept       boolean NOT NULL DEFAULT false,
    -- Its tables are gone; what other tables say of its tasks is being removed.
    dropped_at timestamptz
);

CREATE FUNCTION orca.partition_name(p_table text, p_starts timestamptz) RETURNS text
    LANGUAGE sql STABLE
    RETURN p_table || '_p' || to_char(p_starts AT TIME ZONE 'UTC', 'YYYYMMDD_HH24MI');

-- Makes a partition of each table, with the storage settings of the default one. Answers false where there are tasks of that
-- time in the default partition already. They are attached rather than created in place: that takes the lesser lock.
CREATE FUNCTION orca.make_partition(p_starts timestamptz, p_ends timestamptz) RETURNS boolean
    LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    v_table text;
    v_name text;
    v_options text;
    v_found boolean;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['tasks', 'done', 'attempts', 'log_chunks'] LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM orca.%I WHERE %I >= $1 AND %2$I < $2)',
                       v_table || '_default', CASE v_table WHEN 'tasks' THEN 'id' ELSE 'task' END)
            INTO v_found USING orca.id_at(p_starts), orca.id_at(p_ends);
        IF v_found THEN
            RETURN false;
        END IF;
    END LOOP;
    FOREACH v_table IN ARRAY ARRAY['tasks', 'done', 'attempts', 'log_chunks'] LOOP
        v_name := orca.partition_name(v_table, p_starts);
        SELECT coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '') INTO v_options
        FROM pg_class c WHERE c.oid = format('orca.%I', v_table || '_default')::regclass;
        EXECUTE format('CREATE TABLE orca.%I (LIKE orca.%I INCLUDING ALL)%s', v_name, v_table, v_options);
        EXECUTE format('ALTER TABLE orca.%I ATTACH PARTITION orca.%I FOR VALUES FROM (%L) TO (%L)',
                       v_table, v_name, orca.id_at(p_starts), orca.id_at(p_ends));
    END LOOP;
    INSERT INTO orca.partitions (starts, ends) VALUES (p_starts, p_ends);
    RETURN true;
END $$;

-- Keeps tasks from being written to a partition, and from being locked in it, until the transaction ends: whoever enqueues
-- what depends on one of them locks it first.
CREATE FUNCTION orca.close_partition(p_starts timestamptz) RETURNS void
    LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
BEGIN
    EXECUTE format('LOCK TABLE orca.%I IN EXCLUSIVE MODE', orca.partition_name('tasks', p_starts));
END $$;

-- Drops a partition of all tables. Nobody reads or writes tasks meanwhile, so it gives up soon where it has to wait.
CREATE FUNCTION orca.drop_partition(p_starts timestamptz) RETURNS void
    LANGUAGE plpgsql SET lock_timeout = '200ms' AS $$
DECLARE
    v_table text;
    v_name text;
BEGIN
    LOCK TABLE ONLY orca.tasks, ONLY orca.done, ONLY orca.attempts, ONLY orca.log_chunks IN ACCESS EXCLUSIVE MODE;
    FOREACH v_table IN ARRAY ARRAY['tasks', 'done', 'attempts', 'log_chunks'] LOOP
        v_name := orca.partition_name(v_table, p_starts);
        EXECUTE format('ALTER TABLE orca.%I DETACH PARTITION orca.%I', v_table, v_name);
        EXECUTE format('DROP TABLE orca.%I', v_name);
    END LOOP;
    UPDATE orca.partitions SET dropped_at = orca.now() WHERE starts = p_starts;
END $$;
