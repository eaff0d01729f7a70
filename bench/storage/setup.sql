-- One million tasks of 200 bytes in a line, under four designs of the storage. Run by `cargo xtask bench storage`.
DROP SCHEMA IF EXISTS storage CASCADE;
CREATE SCHEMA storage;
CREATE SEQUENCE storage.tokens;
CREATE FUNCTION storage.id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
    $$ SELECT (lpad(to_hex(n), 16, '0') || lpad(to_hex((n * 2654435761) % 4294967296), 16, '0'))::uuid $$;
CREATE TABLE storage.tasks (
    id uuid PRIMARY KEY, namespace text NOT NULL, state text NOT NULL, name text NOT NULL, queue text NOT NULL,
    priority smallint NOT NULL, fence bigint NOT NULL DEFAULT 0, attempt integer NOT NULL DEFAULT 0, outcome text, result text,
    created_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz, spec text NOT NULL);
CREATE TABLE storage.segments (lane integer, seq bigint GENERATED ALWAYS AS IDENTITY, tasks uuid[], PRIMARY KEY (lane, seq));
CREATE TABLE storage.grants (token bigint PRIMARY KEY, lane integer, seq bigint, node integer, tasks uuid[], expires_at timestamptz);
CREATE INDEX ON storage.grants (lane, seq);
CREATE TABLE storage.done (task uuid PRIMARY KEY, token bigint, result text, granted_at timestamptz, finished_at timestamptz);
CREATE TABLE storage.leases (task uuid PRIMARY KEY, token bigint, node integer, expires_at timestamptz, granted_at timestamptz);
CREATE TABLE storage.attempts (task uuid, token bigint, node integer, granted_at timestamptz, ended_at timestamptz, PRIMARY KEY (task, token));
CREATE TABLE storage.ready (lane integer, seq bigint, task uuid, PRIMARY KEY (lane, seq));
INSERT INTO storage.tasks (id, namespace, state, name, queue, priority, spec)
SELECT storage.id(s), 'default', 'ready', 'debian:bookworm-slim', 'default', 0,
       '{"container":{"image":"debian:bookworm-slim"},"input":"' || repeat('x', 200) || '"}'
FROM generate_series(1, 1000000) AS s;
INSERT INTO storage.segments (lane, tasks)
SELECT 1, array_agg(storage.id(g * 500 + i)) FROM generate_series(0, 1999) AS g, generate_series(1, 500) AS i GROUP BY g ORDER BY g;
INSERT INTO storage.ready SELECT 1, s, storage.id(s) FROM generate_series(1, 1000000) AS s;
VACUUM ANALYZE storage.tasks;
VACUUM ANALYZE storage.segments;
VACUUM ANALYZE storage.ready;
CHECKPOINT;

-- Lines in segments, grants by the segment; with `leased`, a lease for each task beside it.
CREATE FUNCTION storage.claim_segment(leased boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE head bigint; segment record; fence bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1);
    SELECT seq INTO head FROM storage.grants WHERE lane = 1 ORDER BY seq DESC LIMIT 1;
    SELECT * INTO segment FROM storage.segments WHERE lane = 1 AND seq > coalesce(head, 0) ORDER BY seq LIMIT 1;
    IF segment IS NULL THEN RETURN 0; END IF;
    fence := nextval('storage.tokens');
    INSERT INTO storage.grants VALUES (fence, 1, segment.seq, 1, segment.tasks, now() + interval '30 s');
    IF leased THEN
        INSERT INTO storage.leases SELECT u, fence, 1, now() + interval '30 s', now() FROM unnest(segment.tasks) AS u;
    END IF;
    PERFORM sum(length(t.spec)) FROM unnest(segment.tasks) AS u JOIN storage.tasks t ON t.id = u;
    RETURN fence;
END $$;

-- The line as a table of entries, taken by SKIP LOCKED and deleted.
CREATE FUNCTION storage.claim_entries() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE fence bigint := nextval('storage.tokens'); ids uuid[];
BEGIN
    WITH picked AS (SELECT lane, seq, task FROM storage.ready WHERE lane = 1 ORDER BY seq LIMIT 500 FOR UPDATE SKIP LOCKED),
    taken AS (DELETE FROM storage.ready r USING picked p WHERE r.lane = p.lane AND r.seq = p.seq RETURNING r.task)
    SELECT array_agg(task) INTO ids FROM taken;
    IF ids IS NULL THEN RETURN 0; END IF;
    INSERT INTO storage.grants VALUES (fence, 1, fence, 1, ids, now() + interval '30 s');
    INSERT INTO storage.leases SELECT u, fence, 1, now() + interval '30 s', now() FROM unnest(ids) AS u;
    PERFORM sum(length(t.spec)) FROM unnest(ids) AS u JOIN storage.tasks t ON t.id = u;
    RETURN fence;
END $$;

-- A success is a row of its own.
CREATE FUNCTION storage.finish_append(fence bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE held record;
BEGIN
    SELECT * INTO held FROM storage.grants WHERE token = fence FOR UPDATE;
    INSERT INTO storage.done SELECT u, fence, '{"ok":true}', now(), now() FROM unnest(held.tasks) AS u;
END $$;

-- A success is written into the task's row.
CREATE FUNCTION storage.finish_update(fence bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE held record;
BEGIN
    SELECT * INTO held FROM storage.grants WHERE token = fence FOR UPDATE;
    UPDATE storage.tasks t SET state = 'succeeded', attempt = 1, fence = held.token, result = '{"ok":true}', finished_at = now()
    FROM unnest(held.tasks) AS u WHERE t.id = u;
END $$;

-- And the lease goes, and a record of the attempt is made.
CREATE FUNCTION storage.finish_leased(fence bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE held record;
BEGIN
    SELECT * INTO held FROM storage.grants WHERE token = fence FOR UPDATE;
    WITH gone AS (DELETE FROM storage.leases l USING unnest(held.tasks) AS u WHERE l.task = u AND l.token = fence RETURNING l.*),
    kept AS (INSERT INTO storage.attempts SELECT task, token, 1, granted_at, now() FROM gone)
    UPDATE storage.tasks t SET state = 'succeeded', attempt = 1, fence = held.token, result = '{"ok":true}', finished_at = now()
    FROM gone g WHERE t.id = g.task;
END $$;
