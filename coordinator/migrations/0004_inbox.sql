-- Enqueueing from SQL, inside of the caller's own transaction: what it commits is enqueued, what it rolls back never was.
--
-- A call writes one row and takes no lock that anybody else waits for, however long the caller's transaction stays open: tasks
-- are enqueued, run and settled meanwhile. Only event streams wait for it, as for every transaction of the server that has
-- written anything: they tell nothing that came after it before it has ended. A call notifies nobody: a transaction that does
-- takes a lock at its commit that no two of the whole server can hold. Coordinators look here ten times a second while there is
-- anything, else once a second. Until then there is no task of that id.
--
--     GRANT USAGE ON SCHEMA orca TO app;
--     GRANT EXECUTE ON FUNCTION orca.enqueue(jsonb, text, text), orca.enqueue_many(jsonb[], text) TO app;
--
-- is all that a role needs. It may enqueue in every namespace then, and read nothing.

CREATE TABLE orca.inbox (
    seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              uuid NOT NULL,
    namespace       text NOT NULL,
    spec            text NOT NULL,
    idempotency_key text,
    -- SHA-256 of the spec.
    request         bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE INDEX inbox_key ON orca.inbox (namespace, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- A new UUIDv7.
CREATE FUNCTION orca.new_id() RETURNS uuid
    LANGUAGE sql VOLATILE
    RETURN encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid;

-- Enqueues a task, given as for `POST /v1/tasks`, and returns its id. The same idempotency key and spec again (within a day)
-- return the same id; keys given here and keys given to the REST API do not meet. A spec that does not hold is found out later:
-- it becomes a task that has failed, with the reason.
CREATE FUNCTION orca.enqueue(spec jsonb, namespace text DEFAULT 'default', idempotency_key text DEFAULT NULL) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_spec text := $1::text;
    v_request bytea := sha256(convert_to($1::text, 'UTF8'));
    v_id uuid;
    v_before bytea;
BEGIN
    IF $1 IS NULL OR jsonb_typeof($1) <> 'object' THEN
        RAISE EXCEPTION 'spec must be a JSON object, as for POST /v1/tasks' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(v_spec) > 4194304 THEN
        RAISE EXCEPTION 'spec is longer than 4 MiB' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF $2 IS NULL OR $2 !~ '^[A-Za-z0-9._-]{1,128}$' THEN
        RAISE EXCEPTION 'namespace must be 1 to 128 letters, digits or any of ._-'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF $3 IS NOT NULL THEN
        IF $3 !~ '^[!-~]{1,128}$' THEN
            RAISE EXCEPTION 'idempotency_key must be 1 to 128 visible ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- In this order: what a coordinator takes out of the one in between is in the other then.
        SELECT i.id, i.request INTO v_id, v_before FROM orca.inbox i
        WHERE i.namespace = $2 AND i.idempotency_key = $3 ORDER BY i.seq LIMIT 1;
        IF v_id IS NULL THEN
            SELECT k.ids[1], k.request INTO v_id, v_before FROM orca.idempotency_keys k
            WHERE k.namespace = $2 AND k.key = 'sql/' || $3;
        END IF;
        IF v_id IS NOT NULL THEN
            IF v_before <> v_request THEN
                RAISE EXCEPTION 'idempotency_key % was used for another task within the last 24 hours', $3
                    USING ERRCODE = 'unique_violation';
            END IF;
            RETURN v_id;
        END IF;
    END IF;
    v_id := orca.new_id();
    INSERT INTO orca.inbox (id, namespace, spec, idempotency_key, request) VALUES (v_id, $2, v_spec, $3, v_request);
    RETURN v_id;
END $$;

-- Enqueues several tasks, and returns their ids in the same order.
CREATE FUNCTION orca.enqueue_many(specs jsonb[], namespace text DEFAULT 'default') RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_spec jsonb;
BEGIN
    FOREACH v_spec IN ARRAY coalesce($1, '{}') LOOP
        RETURN NEXT orca.enqueue(v_spec, $2);
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION orca.enqueue(jsonb, text, text), orca.enqueue_many(jsonb[], text) FROM PUBLIC;
