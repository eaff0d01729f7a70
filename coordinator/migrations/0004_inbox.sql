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
-- is all that a role needs. It may enqueue in every namespace then, and read nothing by itself (a task that it enqueues may name
-- the namespace's secrets and do with them what it likes, as one that an operator enqueues); but it learns which namespaces there are,
-- as a name that is none of theirs is raised, and whether an idempotency key was used by SQL.
--
-- It can also hold the queue up, as can every role that can log in to this database, whatever it was granted: Postgres lets all of
-- them take any advisory lock, such as those that coordinators work by, and send notices to any channel. Nothing is lost or
-- told to it by that. Give it to programs that are trusted not to; others enqueue by REST.

CREATE TABLE orca.inbox (
    seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              uuid NOT NULL,
    namespace       text NOT NULL,
    spec            text NOT NULL,
    idempotency_key text,
    -- SHA-256 of the spec.
    request         bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Namespaces take turns, each with its oldest.
CREATE INDEX inbox_turns ON orca.inbox (namespace, seq);
CREATE INDEX inbox_key ON orca.inbox (namespace, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- A new UUIDv7.
CREATE FUNCTION orca.new_id() RETURNS uuid
    LANGUAGE sql VOLATILE
    RETURN encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid;

-- Whether a namespace is one: somebody set it up, or has used it.
CREATE FUNCTION orca.is_namespace(p_name text) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN p_name = 'default'
        OR EXISTS (SELECT FROM orca.namespaces n WHERE n.name = p_name)
        OR EXISTS (SELECT FROM orca.lanes l WHERE l.namespace = p_name)
        OR EXISTS (SELECT FROM orca.queues q WHERE q.namespace = p_name)
        OR EXISTS (SELECT FROM orca.nodes n WHERE n.namespace = p_name);

-- What of a spec and a namespace is soon found to be wrong, in the words of the REST API; nothing where that is nothing.
CREATE FUNCTION orca.fault(p_spec jsonb, p_namespace text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_field text;
BEGIN
    IF p_spec IS NULL OR jsonb_typeof(p_spec) <> 'object' THEN
        RETURN 'spec must be a JSON object, as for POST /v1/tasks';
    ELSIF octet_length(p_spec::text) > 4194304 THEN
        RETURN 'spec is longer than 4 MiB';
    ELSIF p_namespace IS NULL OR p_namespace !~ '^[A-Za-z0-9._@-]{1,128}$' OR p_namespace IN ('.', '..') THEN
        RETURN 'namespace must be 1 to 128 letters, digits or any of ._-@';
    END IF;
    SELECT k INTO v_field FROM jsonb_object_keys(p_spec) AS k
    WHERE k <> ALL ('{key,name,role,queue,group,priority,run_at,delay,deadline,container,input,artifacts,secrets,resources,network,requires,prefers,retry,timeouts,depends_on,on_dependency_failure,on_child_failure,unique,approval,wait_for,labels,annotations}'::text[])
    LIMIT 1;
    IF v_field IS NOT NULL THEN
        RETURN format('/%s unknown field `%s`', v_field, v_field);
    ELSIF p_spec -> 'container' IS NULL THEN
        RETURN '/container missing field `container`';
    ELSIF jsonb_typeof(p_spec -> 'container') <> 'object' THEN
        RETURN '/container must be an object';
    ELSIF p_spec #> '{container,image}' IS NULL THEN
        RETURN '/container/image missing field `image`';
    ELSIF jsonb_typeof(p_spec #> '{container,image}') <> 'string' OR p_spec #>> '{container,image}' = '' THEN
        RETURN '/container/image must not be empty';
    ELSIF jsonb_typeof(p_spec -> 'priority') <> 'number' THEN
        RETURN '/priority must be a number';
    ELSIF (p_spec ->> 'priority')::numeric NOT BETWEEN -100 AND 100 THEN
        RETURN '/priority must lie between -100 and 100';
    END IF;
    FOREACH v_field IN ARRAY '{queue,group}'::text[] LOOP
        -- A group may be none.
        IF jsonb_typeof(p_spec -> v_field) <> 'string' AND (v_field = 'queue' OR jsonb_typeof(p_spec -> v_field) <> 'null')
            OR p_spec ->> v_field !~ '^[A-Za-z0-9._-]{1,128}$' OR p_spec ->> v_field IN ('.', '..') THEN
            RETURN format('/%s must be 1 to 128 letters, digits or any of ._-', v_field);
        END IF;
    END LOOP;
    IF NOT orca.is_namespace(p_namespace) THEN
        RETURN format('there is no namespace %s; an admin makes one by orca namespace set NAME --max-open none', p_namespace);
    END IF;
    RETURN NULL;
END $$;

-- Enqueues a task under a new id, or answers the one that it has under its idempotency key. For the two below alone.
CREATE FUNCTION orca.put_in_inbox(p_id uuid, p_spec jsonb, p_namespace text, p_key text) RETURNS uuid
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_fault text := orca.fault(p_spec, p_namespace);
    v_request bytea;
    v_id uuid;
    v_before bytea;
BEGIN
    IF v_fault IS NOT NULL THEN
        RAISE EXCEPTION '%', v_fault USING ERRCODE = 'invalid_parameter_value';
    END IF;
    v_request := sha256(convert_to(p_spec::text, 'UTF8'));
    IF p_key IS NOT NULL THEN
        IF p_key !~ '^[!-~]{1,128}$' THEN
            RAISE EXCEPTION 'idempotency_key must be 1 to 128 visible ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- In this order: what a coordinator takes out of the one in between is in the other then.
        SELECT i.id, i.request INTO v_id, v_before FROM orca.inbox i
        WHERE i.namespace = p_namespace AND i.idempotency_key = p_key ORDER BY i.seq LIMIT 1;
        IF v_id IS NULL THEN
            SELECT k.ids[1], k.request INTO v_id, v_before FROM orca.idempotency_keys k
            WHERE k.namespace = p_namespace AND k.key = 'sql/' || p_key;
        END IF;
        IF v_id IS NOT NULL THEN
            IF v_before <> v_request THEN
                RAISE EXCEPTION 'idempotency_key % was used for another task within the last 24 hours', p_key
                    USING ERRCODE = 'unique_violation';
            END IF;
            RETURN v_id;
        END IF;
    END IF;
    INSERT INTO orca.inbox (id, namespace, spec, idempotency_key, request)
    VALUES (p_id, p_namespace, p_spec::text, p_key, v_request);
    RETURN p_id;
END $$;

-- Enqueues a task, given as for `POST /v1/tasks`, and returns its id. The same idempotency key and spec again (within a day)
-- return the same id; keys given here and keys given to the REST API do not meet. What is soon found to be wrong is raised. The
-- rest is found out later: it becomes a task that has failed, with the reason. Where the namespace has as many open tasks as
-- it may, the task waits until some have ended.
CREATE FUNCTION orca.enqueue(spec jsonb, namespace text DEFAULT 'default', idempotency_key text DEFAULT NULL) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN orca.put_in_inbox(orca.new_id(), $1, $2, $3);
END $$;

-- Enqueues several tasks, and returns their ids in the same order. They may depend on one another by their keys.
CREATE FUNCTION orca.enqueue_many(specs jsonb[], namespace text DEFAULT 'default') RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_specs jsonb[] := coalesce($1, '{}');
    v_count integer := cardinality(v_specs);
    v_ids uuid[] := '{}';
    v_keys jsonb := '{}';
    v_key text;
    v_needs jsonb;
    v_need integer;
    -- 1: what it depends on is being looked at; 2: enqueued.
    v_done integer[] := array_fill(0, ARRAY[v_count]);
    v_stack integer[];
    v_top integer;
    v_at integer;
BEGIN
    SELECT coalesce(array_agg(orca.new_id() ORDER BY i), '{}') INTO v_ids FROM generate_series(1, v_count) AS i;
    SELECT coalesce(jsonb_object_agg(u.spec ->> 'key', u.place), '{}') INTO v_keys
    FROM unnest(v_specs) WITH ORDINALITY AS u(spec, place) WHERE jsonb_typeof(u.spec -> 'key') = 'string';
    SELECT u.spec ->> 'key' INTO v_key FROM unnest(v_specs) AS u(spec)
    WHERE jsonb_typeof(u.spec -> 'key') = 'string' GROUP BY 1 HAVING count(*) > 1 LIMIT 1;
    IF v_key IS NOT NULL THEN
        RAISE EXCEPTION '/key "%" is used twice', v_key USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- A task after those that it depends on, as they are taken out in this order.
    FOR i IN 1 .. v_count LOOP
        v_stack := ARRAY[i];
        v_top := 1;
        WHILE v_top > 0 LOOP
            v_at := v_stack[v_top];
            IF v_done[v_at] > 1 THEN
                v_top := v_top - 1;
                CONTINUE;
            END IF;
            v_needs := v_specs[v_at] -> 'depends_on';
            IF v_done[v_at] = 0 AND jsonb_typeof(v_needs) = 'array' THEN
                v_done[v_at] := 1;
                FOR v_need IN
                    SELECT DISTINCT (v_keys ->> e)::integer FROM jsonb_array_elements_text(v_needs) AS e WHERE v_keys ? e
                LOOP
                    IF v_done[v_need] = 1 THEN
                        RAISE EXCEPTION '/depends_on "%" waits for itself', v_specs[v_need] ->> 'key'
                            USING ERRCODE = 'invalid_parameter_value';
                    ELSIF v_done[v_need] = 0 THEN
                        v_top := v_top + 1;
                        v_stack[v_top] := v_need;
                    END IF;
                END LOOP;
                CONTINUE;
            END IF;
            IF jsonb_typeof(v_needs) = 'array' THEN
                SELECT coalesce(jsonb_agg(CASE WHEN jsonb_typeof(e) = 'string' AND v_keys ? (e #>> '{}')
                                               THEN to_jsonb(v_ids[(v_keys ->> (e #>> '{}'))::integer]) ELSE e END), '[]')
                    INTO v_needs FROM jsonb_array_elements(v_needs) AS e;
                v_specs[v_at] := jsonb_set(v_specs[v_at], '{depends_on}', v_needs);
            END IF;
            PERFORM orca.put_in_inbox(v_ids[v_at], v_specs[v_at], $2, NULL);
            v_done[v_at] := 2;
            v_top := v_top - 1;
        END LOOP;
    END LOOP;
    RETURN QUERY SELECT unnest(v_ids);
END $$;

REVOKE ALL ON FUNCTION orca.enqueue(jsonb, text, text), orca.enqueue_many(jsonb[], text),
    orca.put_in_inbox(uuid, jsonb, text, text), orca.fault(jsonb, text), orca.is_namespace(text) FROM PUBLIC;
