-- The statements that every task goes through, as functions: one round trip each, with plans that are kept.
--
-- Locks. A lane has two advisory locks: its tail (who appends) and its head (who takes, and who must know whether a queued
-- task was taken). Lanes share them, 512 of each kind, taken in order: one transaction may be about 100,000 lanes, and the
-- server's lock table is small. Each statement of a function sees what was committed before it began: so what is read after
-- a lock is what the holder before left.

-- Locks the tails of these lanes until the transaction ends.
CREATE FUNCTION orca.lock_tails(p_lanes integer[]) RETURNS void
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7024420, u.lock)
        FROM (SELECT DISTINCT x.lane & 511 AS lock FROM unnest(p_lanes) AS x(lane) ORDER BY 1) AS u;
END $$;

-- Locks the heads of these lanes until the transaction ends: nothing is granted of them meanwhile.
CREATE FUNCTION orca.lock_heads(p_lanes integer[]) RETURNS void
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7024421, u.lock)
        FROM (SELECT DISTINCT x.lane & 511 AS lock FROM unnest(p_lanes) AS x(lane) ORDER BY 1) AS u;
END $$;

-- Locks the heads of those of these lanes that nobody else has locked.
CREATE FUNCTION orca.lock_free_heads(p_lanes integer[]) RETURNS SETOF integer
    LANGUAGE sql AS $$
    SELECT x.lane FROM unnest(p_lanes) AS x(lane) WHERE pg_try_advisory_xact_lock(7024421, x.lane & 511)
$$;

-- Puts tasks at the end of their lanes, in the order given.
CREATE FUNCTION orca.line_up(p_lanes integer[], p_tasks uuid[], p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
BEGIN
    PERFORM orca.lock_tails(p_lanes);
    INSERT INTO orca.segments (lane, seq, ready_at, size, tasks)
    SELECT x.lane, nextval('orca.line'), p_now, cardinality(x.tasks), x.tasks
    FROM (SELECT l.lane, l.tasks[i + 1 : i + 120] AS tasks
          FROM (SELECT u.lane, array_agg(u.task ORDER BY u.place) AS tasks
                FROM unnest(p_lanes, p_tasks) WITH ORDINALITY AS u(lane, task, place) GROUP BY u.lane) AS l
          CROSS JOIN generate_series(0, cardinality(l.tasks) - 1, 120) AS i ORDER BY l.lane, i) AS x;
END $$;

-- Writes tasks that go the plain way and are ready at once.
CREATE FUNCTION orca.insert_plain(
    p_namespaces text[], p_ids uuid[], p_lanes integer[], p_names text[], p_max_attempts integer[], p_specs text[],
    p_keys text[], p_labels text[], p_retries text[], p_now timestamptz) RETURNS void
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
BEGIN
    INSERT INTO orca.tasks (id, namespace, lane, state, plain, depth, max_attempts, created_at, name, spec, key, labels, retry)
    SELECT u.id, u.namespace, u.lane, 'queued', true, 0, u.max_attempts, p_now, u.name, u.spec, u.key, u.labels::jsonb, u.retry
    FROM unnest(p_namespaces, p_ids, p_lanes, p_names, p_max_attempts, p_specs, p_keys, p_labels, p_retries)
        AS u(namespace, id, lane, name, max_attempts, spec, key, labels, retry);
    INSERT INTO orca.events (namespace, kind, at, tasks, state)
    SELECT u.namespace, 'orca.task.state', p_now, array_agg(u.id ORDER BY u.place), 'ready'
    FROM unnest(p_namespaces, p_ids) WITH ORDINALITY AS u(namespace, id, place)
    GROUP BY u.namespace, u.place / 500 ORDER BY min(u.place);
END $$;

-- Enqueues such tasks; answers when that was.
CREATE FUNCTION orca.enqueue_plain(
    p_namespaces text[], p_ids uuid[], p_lanes integer[], p_names text[], p_max_attempts integer[], p_specs text[],
    p_keys text[], p_labels text[], p_retries text[]) RETURNS timestamptz
    LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := orca.now();
BEGIN
    PERFORM orca.insert_plain(p_namespaces, p_ids, p_lanes, p_names, p_max_attempts, p_specs, p_keys, p_labels, p_retries,
        v_now);
    PERFORM orca.line_up(p_lanes, p_ids, v_now);
    RETURN v_now;
END $$;

-- How many tasks wait in a lane. What ended in line counts until it is passed over; not so where no more than `p_exact` are there.
CREATE FUNCTION orca.in_line(p_lane integer, p_exact bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE SET plan_cache_mode = 'force_generic_plan' AS $$
DECLARE
    v_seq bigint;
    v_upto integer;
    v_count bigint;
BEGIN
    SELECT g.seq, g.upto INTO v_seq, v_upto FROM orca.grants g
    WHERE g.lane = p_lane ORDER BY g.seq DESC, g.upto DESC LIMIT 1;
    SELECT coalesce(sum(s.size), 0) - CASE WHEN bool_or(s.seq = v_seq) THEN v_upto ELSE 0 END INTO v_count
    FROM orca.segments s WHERE s.lane = p_lane AND s.seq >= coalesce(v_seq, 0);
    IF v_count BETWEEN 1 AND p_exact THEN
        SELECT count(*) INTO v_count FROM orca.segments s
        CROSS JOIN LATERAL unnest(s.tasks[CASE WHEN s.seq = v_seq THEN v_upto + 1 ELSE 1 END :]) AS u(id)
        JOIN orca.tasks t ON t.id = u.id AND t.state = 'queued'
        WHERE s.lane = p_lane AND s.seq >= coalesce(v_seq, 0);
    END IF;
    RETURN v_count;
END $$;

-- Waits until these lanes' limits and rates are this transaction's to count: in one order, and before anything is counted, so
-- that claims that want several wait for each other but never in a circle. Whoever changes settings waits for the claims under
-- way, and they for it.
CREATE FUNCTION orca.lock_limits(p_namespace text, p_lanes integer[]) RETURNS void
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7024422, hashtext(p_namespace));
    IF EXISTS (SELECT FROM orca.namespaces n WHERE n.name = p_namespace AND n.max_running IS NOT NULL) THEN
        PERFORM pg_advisory_xact_lock(7024423, hashtext(p_namespace));
    END IF;
    PERFORM FROM orca.queues q
    WHERE q.namespace = p_namespace AND (q.max_running IS NOT NULL OR q.rate_tasks IS NOT NULL)
      AND EXISTS (SELECT FROM orca.lanes l WHERE l.id = ANY (p_lanes) AND l.queue = q.queue AND q.grp IN ('', l.grp))
    ORDER BY q.queue, q.grp FOR UPDATE;
END $$;

-- What there is of a rate at an instant, in tasks. A clock that went back takes nothing away.
CREATE FUNCTION orca.rate_left(p_tasks integer, p_per_ms bigint, p_left double precision, p_at timestamptz, p_now timestamptz)
    RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN least(p_tasks, coalesce(p_left, p_tasks)
        + greatest(coalesce(extract(epoch FROM p_now - p_at), 0), 0) * 1000 * p_tasks / p_per_ms);

-- How many tasks of a lane may be granted now, of so many wanted: what the settings of its queue, its group and its
-- namespace leave. `orca.lock_limits` comes before it.
CREATE FUNCTION orca.allowance(p_lane integer, p_want integer) RETURNS integer
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
DECLARE
    v_lane orca.lanes;
    v_set orca.queues;
    v_want bigint := p_want;
    v_running bigint;
    v_max integer;
BEGIN
    SELECT * INTO v_lane FROM orca.lanes WHERE id = p_lane;
    SELECT max_running INTO v_max FROM orca.namespaces WHERE name = v_lane.namespace;
    IF v_max IS NOT NULL THEN
        SELECT coalesce(sum(g.open), 0) INTO v_running FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane
        WHERE l.namespace = v_lane.namespace AND g.open > 0;
        v_want := least(v_want, v_max - v_running);
    END IF;
    FOR v_set IN
        SELECT * FROM orca.queues q
        WHERE q.namespace = v_lane.namespace AND q.queue = v_lane.queue AND q.grp IN ('', v_lane.grp) ORDER BY q.grp
    LOOP
        IF v_set.paused_at IS NOT NULL OR v_want <= 0 THEN
            RETURN 0;
        END IF;
        IF v_set.max_running IS NOT NULL THEN
            SELECT coalesce(sum(g.open), 0) INTO v_running FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane
            WHERE l.namespace = v_lane.namespace AND l.queue = v_lane.queue AND (v_set.grp = '' OR l.grp = v_set.grp)
              AND g.open > 0;
            v_want := least(v_want, v_set.max_running - v_running);
        END IF;
        IF v_set.rate_tasks IS NOT NULL THEN
            v_want := least(v_want, floor(orca.rate_left(v_set.rate_tasks, v_set.rate_per_ms, v_set.allowance,
                v_set.allowance_at, orca.now()) + 1e-6)::bigint);
        END IF;
    END LOOP;
    RETURN greatest(v_want, 0);
END $$;

-- Takes what was granted of a lane off the rates of its queue and group.
CREATE FUNCTION orca.spend(p_lane integer, p_taken integer) RETURNS void
    LANGUAGE sql AS $$
    UPDATE orca.queues q SET
        allowance = orca.rate_left(q.rate_tasks, q.rate_per_ms, q.allowance, q.allowance_at, orca.now()) - p_taken,
        allowance_at = greatest(q.allowance_at, orca.now())
    FROM orca.lanes l
    WHERE l.id = p_lane AND q.namespace = l.namespace AND q.queue = l.queue AND q.grp IN ('', l.grp)
      AND q.rate_tasks IS NOT NULL
$$;

-- Grants the node tasks of these lanes, of each at most so many, and no more than it has slots for. One row a task; and
-- for each lane one without a task, that says whether more stands in it and since when, and whether that is because so much
-- had to be passed over that it is better to go on in another transaction.
CREATE FUNCTION orca.claim(
    p_node uuid, p_instance uuid, p_lanes integer[], p_wants integer[], p_most integer, p_lease_ms bigint)
    RETURNS TABLE (lane integer, token bigint, task uuid, attempt integer, max_attempts integer, step text, parent uuid,
                   has_dependencies boolean, deadline_ms bigint, spec text, waiting_since timestamptz, unfinished boolean)
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_node orca.nodes;
    v_most integer := p_most;
    v_lane integer;
    v_want integer;
    v_seq bigint;
    v_upto integer;
    v_segment record;
    v_first integer;
    v_take integer;
    v_next integer;
    v_token bigint;
    v_got integer;
    v_of_lane integer;
    v_passed integer;
    v_marked boolean;
    v_since timestamptz;
    v_unfinished boolean;
    v_rated boolean;
BEGIN
    -- A node's claims one after the other: its slots are counted, and it may begin to drain, be cordoned or be replaced meanwhile.
    SELECT * INTO v_node FROM orca.nodes n WHERE n.id = p_node FOR NO KEY UPDATE;
    PERFORM orca.lock_heads(p_lanes);
    PERFORM orca.lock_limits(v_node.namespace, p_lanes);
    v_rated := EXISTS (SELECT FROM orca.queues q WHERE q.namespace = v_node.namespace AND q.rate_tasks IS NOT NULL);
    SELECT CASE WHEN NOT v_node.takes OR v_node.instance IS DISTINCT FROM p_instance THEN 0
                ELSE least(v_most, v_node.slots - coalesce(sum(g.open), 0)) END INTO v_most
        FROM orca.grants g WHERE g.node = p_node AND g.open > 0;
    v_now := orca.now();
    FOR i IN 1 .. cardinality(p_lanes) LOOP
        v_lane := p_lanes[i];
        v_want := least(p_wants[i], v_most);
        v_of_lane := 0;
        v_passed := 0;
        v_marked := true;
        v_since := NULL;
        v_unfinished := false;
        IF v_want > 0 THEN
            v_want := orca.allowance(v_lane, v_want);
        END IF;
        SELECT g.seq, g.upto INTO v_seq, v_upto FROM orca.grants g
        WHERE g.lane = v_lane ORDER BY g.seq DESC, g.upto DESC LIMIT 1;
        FOR v_segment IN
            SELECT s.seq, s.size, s.ready_at, s.tasks FROM orca.segments s
            WHERE s.lane = v_lane AND s.seq >= coalesce(v_seq, 0) ORDER BY s.seq
        LOOP
            v_first := CASE WHEN v_segment.seq = v_seq THEN v_upto ELSE 0 END;
            v_unfinished := v_passed >= 60000;
            -- As many as are wanted; and where some of those have ended, what else is needed of all that is left of the segment.
            v_take := v_want;
            WHILE v_first < v_segment.size AND v_want > 0 AND NOT v_unfinished LOOP
                v_next := least(v_first + v_take, v_segment.size);
                v_token := nextval('orca.fence');
                RETURN QUERY
                WITH picked AS MATERIALIZED (
                    SELECT u.place, t.id, t.attempts_used, t.max_attempts, t.step, t.parent, t.plain, t.deadline, t.spec
                    FROM unnest(v_segment.tasks[v_first + 1 : v_next]) WITH ORDINALITY AS u(id, place)
                    JOIN orca.tasks t ON t.id = u.id
                    WHERE t.state = 'queued' AND (t.start_by IS NULL OR t.start_by > v_now)
                    ORDER BY u.place LIMIT v_want),
                granted AS (
                    INSERT INTO orca.grants (token, lane, seq, upto, node, node_name, granted_at, expires_at, open, tasks,
                        special)
                    SELECT v_token, v_lane, v_segment.seq,
                           CASE WHEN count(*) < v_want THEN v_next ELSE v_first + max(p.place) END,
                           p_node, v_node.name, v_now, v_now + p_lease_ms * interval '1 millisecond', count(*),
                           array_agg(p.id ORDER BY p.place), coalesce(array_agg(p.id) FILTER (WHERE NOT p.plain), '{}')
                    FROM picked p HAVING count(*) > 0),
                freed AS (
                    DELETE FROM orca.unique_keys k USING picked p WHERE NOT p.plain AND k.task = p.id AND k.queued),
                told AS (
                    INSERT INTO orca.events (namespace, kind, at, tasks, state, attempt, token, node)
                    SELECT v_node.namespace, 'orca.task.state', v_now, array_agg(p.id ORDER BY p.place), 'running',
                           p.attempts_used + 1, v_token, p_node
                    FROM picked p GROUP BY p.attempts_used)
                SELECT v_lane, v_token, p.id, p.attempts_used + 1, p.max_attempts, p.step, p.parent,
                       NOT p.plain AND (p.step IS NOT DISTINCT FROM 'finish'
                           OR EXISTS (SELECT FROM orca.dependencies d WHERE d.task = p.id)),
                       ceil(extract(epoch FROM p.deadline - v_now) * 1000)::bigint, p.spec, NULL::timestamptz, NULL::boolean
                FROM picked p ORDER BY p.place;
                GET DIAGNOSTICS v_got = ROW_COUNT;
                IF v_got = v_want AND v_got < v_next - v_first THEN
                    SELECT g.upto INTO v_next FROM orca.grants g WHERE g.token = v_token;
                END IF;
                v_passed := v_passed + v_next - v_first - v_got;
                v_marked := v_got > 0;
                v_seq := v_segment.seq;
                v_upto := v_next;
                v_first := v_next;
                v_take := v_segment.size;
                v_want := v_want - v_got;
                v_most := v_most - v_got;
                v_of_lane := v_of_lane + v_got;
            END LOOP;
            IF v_first < v_segment.size THEN
                v_since := v_segment.ready_at;
                EXIT;
            END IF;
        END LOOP;
        -- What was passed over last is not looked at again.
        IF NOT v_marked THEN
            INSERT INTO orca.grants (token, lane, seq, upto, node, node_name, granted_at, expires_at, open, tasks, special)
            VALUES (nextval('orca.fence'), v_lane, v_seq, v_upto, p_node, v_node.name, v_now, v_now, 0, '{}', '{}');
        END IF;
        IF v_of_lane > 0 AND v_rated THEN
            PERFORM orca.spend(v_lane, v_of_lane);
        END IF;
        RETURN QUERY SELECT v_lane, NULL::bigint, NULL::uuid, v_of_lane, NULL::integer, NULL::text, NULL::uuid, NULL::boolean,
                            NULL::bigint, NULL::text, v_since, v_unfinished;
    END LOOP;
END $$;

-- Enqueues plain tasks of one lane and grants all of them to a node that waits for such, without their ever standing in line:
-- answers the fencing token. Where the node has no room after all, anything stands in the lane, or any limit, rate or pause
-- may concern them, they are only enqueued. Waits for nothing that an enqueue does not wait for.
CREATE FUNCTION orca.enqueue_granted(
    p_namespaces text[], p_ids uuid[], p_lanes integer[], p_names text[], p_max_attempts integer[], p_specs text[],
    p_keys text[], p_labels text[], p_retries text[], p_node uuid, p_instance uuid, p_lease_ms bigint,
    OUT at timestamptz, OUT token bigint)
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
DECLARE
    v_lane integer := p_lanes[1];
    v_count integer := cardinality(p_ids);
    v_node orca.nodes;
    v_free boolean;
BEGIN
    -- First, although it is the last elsewhere: nothing after it is waited for.
    PERFORM orca.lock_tails(p_lanes[1 : 1]);
    SELECT * INTO v_node FROM orca.nodes n
    WHERE n.id = p_node AND n.instance = p_instance AND n.takes FOR NO KEY UPDATE SKIP LOCKED;
    v_free := FOUND AND pg_try_advisory_xact_lock(7024421, v_lane & 511)
        AND pg_try_advisory_xact_lock_shared(7024422, hashtext(v_node.namespace));
    IF v_free THEN
        v_free := v_node.slots >= v_count
                + (SELECT coalesce(sum(g.open), 0) FROM orca.grants g WHERE g.node = p_node AND g.open > 0)
            AND NOT EXISTS (SELECT FROM orca.namespaces n WHERE n.name = v_node.namespace AND n.max_running IS NOT NULL)
            AND NOT EXISTS (SELECT FROM orca.queues q JOIN orca.lanes l ON l.id = v_lane
                            WHERE q.namespace = l.namespace AND q.queue = l.queue AND q.grp IN ('', l.grp)
                              AND (q.paused_at IS NOT NULL OR q.max_running IS NOT NULL OR q.rate_tasks IS NOT NULL))
            AND NOT EXISTS (
                SELECT FROM orca.segments s
                LEFT JOIN LATERAL (SELECT g.seq, g.upto FROM orca.grants g WHERE g.lane = v_lane
                                   ORDER BY g.seq DESC, g.upto DESC LIMIT 1) h ON true
                WHERE s.lane = v_lane AND s.seq >= coalesce(h.seq, 0) AND (s.seq > coalesce(h.seq, 0) OR s.size > h.upto));
    END IF;
    at := orca.now();
    PERFORM orca.insert_plain(p_namespaces, p_ids, p_lanes, p_names, p_max_attempts, p_specs, p_keys, p_labels, p_retries, at);
    IF NOT v_free THEN
        PERFORM orca.line_up(p_lanes, p_ids, at);
        RETURN;
    END IF;
    token := nextval('orca.fence');
    -- As if they had stood in the line, and been taken: what comes in line later has a higher place.
    INSERT INTO orca.grants (token, lane, seq, upto, node, node_name, granted_at, expires_at, open, tasks, special)
    VALUES (token, v_lane, nextval('orca.line'), v_count, p_node, v_node.name, at,
            at + p_lease_ms * interval '1 millisecond', v_count, p_ids, '{}');
    INSERT INTO orca.events (namespace, kind, at, tasks, state, attempt, token, node)
    VALUES (v_node.namespace, 'orca.task.state', at, p_ids, 'running', 1, token, p_node);
END $$;

-- Settles attempts that succeeded and of which nothing else follows; answers the places (from 1) of those it settled. The
-- others are for the long way.
CREATE FUNCTION orca.finish(p_namespace text, p_subject text, p_tasks uuid[], p_tokens bigint[], p_results text[])
    RETURNS SETOF bigint
    -- The planner cannot know how long the arrays are, and would compare each with each.
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' SET enable_nestloop = 'off' AS $$
DECLARE
    v_now timestamptz;
    v_tokens bigint[] := ARRAY(SELECT DISTINCT u FROM unnest(p_tokens) AS u);
    v_locked bigint;
    v_done uuid[] := '{}';
BEGIN
    LOOP
        -- In the order of tokens, so that two of these wait for each other but never in a circle.
        PERFORM FROM orca.grants g WHERE g.token = ANY (v_tokens) ORDER BY g.token, g.part FOR NO KEY UPDATE;
        GET DIAGNOSTICS v_locked = ROW_COUNT;
        -- Whoever held one of them may have set a part of it aside, which is not locked then.
        EXIT WHEN v_locked >= (SELECT count(*) FROM orca.grants g WHERE g.token = ANY (v_tokens));
    END LOOP;
    -- Whoever settles an attempt holds its grant's lock: so what is not in `done` now does not come there meanwhile.
    IF EXISTS (SELECT FROM orca.grants g WHERE g.token = ANY (v_tokens) AND g.open < cardinality(g.tasks)) THEN
        v_done := ARRAY(SELECT d.task FROM orca.done d WHERE d.task = ANY (p_tasks));
    END IF;
    v_now := orca.now();
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT w.place, w.task, w.result, g.token, g.part, g.node, g.granted_at
        FROM orca.grants g
        JOIN orca.nodes n ON n.id = g.node AND n.namespace = p_namespace AND n.subject = p_subject
        CROSS JOIN LATERAL unnest(g.tasks) AS x(task)
        JOIN unnest(p_tasks, p_tokens, p_results) WITH ORDINALITY AS w(task, token, result, place)
            ON w.task = x.task AND w.token = g.token
        -- The sum keeps the planner to the tokens' index.
        WHERE g.token = ANY (v_tokens) AND g.open + 0 > 0 AND g.expires_at + interval '0' > v_now
          AND (g.special = '{}' OR NOT x.task = ANY (g.special)) AND (v_done = '{}' OR NOT x.task = ANY (v_done))),
    settled AS (
        INSERT INTO orca.done (task, token, node, granted_at, finished_at, result)
        SELECT h.task, h.token, h.node, h.granted_at, v_now, h.result FROM held h ORDER BY h.place),
    counted AS (
        UPDATE orca.grants g SET open = g.open - f.count
        FROM (SELECT f.token, f.part, count(*) AS count FROM held f GROUP BY 1, 2) AS f
        WHERE g.token = ANY (v_tokens) AND g.token = f.token AND g.part = f.part),
    told AS (
        INSERT INTO orca.events (namespace, kind, at, tasks, attempt, token, node)
        SELECT p_namespace, 'done', v_now, array_agg(f.task ORDER BY f.place), 1, f.token, f.node
        FROM held f GROUP BY f.token, f.node)
    SELECT f.place FROM held f;
END $$;

-- Whether this lease stands and is held by a node of this subject. Keeps it from being released until the transaction ends.
CREATE FUNCTION orca.hold(p_namespace text, p_subject text, p_task uuid, p_token bigint) RETURNS boolean
    LANGUAGE plpgsql SET plan_cache_mode = 'force_generic_plan' AS $$
DECLARE
    v_held boolean;
BEGIN
    -- Twice, because a renewal that was waited for may have set the task aside in another row of the grant.
    FOR i IN 1 .. 2 LOOP
        PERFORM FROM orca.grants g
            JOIN orca.nodes n ON n.id = g.node AND n.namespace = p_namespace AND n.subject = p_subject
        WHERE g.token = p_token AND g.open > 0 AND g.expires_at > orca.now() AND p_task = ANY (g.tasks) FOR SHARE OF g;
        v_held := FOUND;
        EXIT WHEN v_held;
    END LOOP;
    RETURN v_held AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = p_task);
END $$;

-- Makes the end of these tasks, where a node holds them, go the long way.
CREATE FUNCTION orca.make_special(p_tasks uuid[], p_tokens bigint[]) RETURNS void
    LANGUAGE sql AS $$
    UPDATE orca.grants g SET special = ARRAY(SELECT unnest(g.special) UNION SELECT unnest(s.tasks))
    FROM (SELECT u.token, array_agg(u.task) AS tasks FROM unnest(p_tasks, p_tokens) AS u(task, token) GROUP BY u.token) AS s
    WHERE g.token = s.token AND g.open > 0 AND g.tasks && s.tasks
$$;
