-- Views and functions for operators (docs/contract/interface.md, status() and why()).
CREATE FUNCTION mana_ai.worker_status(
  OUT library_version text, OUT preloaded boolean, OUT worker_pid int, OUT worker_state text,
  OUT worker_since timestamptz, OUT in_flight int, OUT trigger_errors bigint)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_worker_status';

-- Why plans cannot be made for the attached table and written to it; null if they can. The worker checks it before each
-- claim: if it is not null, nothing is claimed and nothing spent.
CREATE FUNCTION mana_ai.attached_problem()
RETURNS text LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_attached_problem';

-- How far the fold in batches is; null if none is under way.
CREATE FUNCTION mana_ai.folding()
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('%s %% of %s, since %s%s',
                floor(100 * sum(least(f.agents_until, f.blocks) + least(f.missions_until, f.blocks)) / greatest(1, 2 * sum(f.blocks))),
                pg_size_pretty(sum(f.blocks) * current_setting('block_size')::int), min(f.began_at), '; ' || max(f.problem))
    FROM mana_ai.fold_progress f HAVING count(*) > 0
$$;

CREATE FUNCTION mana_ai.sync_table_problem()
RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(mana_ai.attached_problem(),
                  (SELECT format('table %s is another one than mana_ai is attached to', f.log_name)
                     FROM mana_ai.folded_log f
                    WHERE f.log = mana_ai.attached_table() AND to_regclass(f.log_name)::oid <> f.log),
                  (SELECT format('the history of table %s is being folded', mana_ai.attached_table())
                    WHERE EXISTS (SELECT FROM mana_ai.fold_progress f
                                   WHERE f.holds_claims = 'end' OR f.holds_claims = 'agents' AND f.agents_until < f.blocks)))
$$;
COMMENT ON FUNCTION mana_ai.sync_table_problem() IS
  'what keeps plans from being written to the attached table; null when nothing does';

-- The crashes that caused safe mode in this database; all null without it.
CREATE FUNCTION mana_ai.safe_mode(
  OUT since timestamptz, OUT last_crash timestamptz, OUT crashes int, OUT process text,
  OUT activity text, OUT user_id text, OUT mission_id text)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_safe_mode';
COMMENT ON FUNCTION mana_ai.safe_mode() IS
  'crashes because of which no worker runs in this database; all null when there is no safe mode';

CREATE FUNCTION mana_ai.resume_after_crash()
RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_resume_after_crash';
COMMENT ON FUNCTION mana_ai.resume_after_crash() IS
  'ends safe mode in this database; false when there was none';

-- Slots of max_worker_processes, which all background processes of the server share: how many mana_ai needs, including one
-- for a manual tick, and how many are free now.
CREATE FUNCTION mana_ai.worker_slots(OUT needed int, OUT free int)
RETURNS record LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
  SELECT 1 + CASE WHEN w.preloaded THEN
           1 + (SELECT count(DISTINCT btrim(d, ' "'))::int
                  FROM unnest(string_to_array(current_setting('mana_ai.database', true), ',')) d WHERE btrim(d, ' "') <> '')
             + CASE WHEN current_setting('mana_ai.http_listen', true) <> '' THEN 3 ELSE 0 END
           ELSE 0 END,
         greatest(0, current_setting('max_worker_processes')::int -
           (SELECT count(*)::int FROM pg_stat_activity
             WHERE backend_type NOT IN ('client backend', 'autovacuum launcher', 'autovacuum worker', 'walsender',
                     'walreceiver', 'checkpointer', 'walwriter', 'background writer', 'startup', 'archiver', 'logger',
                     'slotsync worker', 'walsummarizer', 'io worker', 'standalone backend')))
    FROM mana_ai.worker_status() w
$$;
COMMENT ON FUNCTION mana_ai.worker_slots() IS
  'places of max_worker_processes that mana_ai needs, and those that are free now';

-- The services that this database's worker calls, as the worker sees them.
CREATE FUNCTION mana_ai.services(
  OUT service text, OUT name text, OUT state text, OUT since timestamptz, OUT call_limit int, OUT in_flight int,
  OUT waiting int, OUT calls_per_minute float8, OUT refused bigint, OUT failed bigint, OUT next_try_at timestamptz)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_services';
COMMENT ON FUNCTION mana_ai.services() IS
  'the services that the worker calls: their state, how many calls they get, how many they refused';

-- Why the model service makes due missions wait; null if it does not.
CREATE FUNCTION mana_ai.service_problem(also_limited boolean DEFAULT false)
RETURNS text LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT format(CASE s.state
                  WHEN 'key_refused' THEN 'the model service has refused the service key since %1$s; %2$s'
                  WHEN 'limited' THEN 'the model service limits the rate of calls%3$s; %2$s'
                  ELSE 'the model service has been unavailable since %1$s; %2$s' END,
                s.since,
                CASE w.missions WHEN 1 THEN '1 mission waits' WHEN 1001 THEN 'more than 1000 missions wait'
                     ELSE w.missions || ' missions wait' END,
                CASE WHEN s.next_try_at > clock_timestamp() THEN ' and wants none until ' || s.next_try_at
                     WHEN s.calls_per_minute >= 1 THEN format(' to about %s a minute', round(s.calls_per_minute)) END)
    -- The first planner model that is not stopped and available, else the first.
    FROM (SELECT v.* FROM unnest(mana_ai.planner_models()) WITH ORDINALITY AS p(name, place)
            LEFT JOIN mana_ai.services() v ON v.service = 'model' AND v.name = left(p.name, 79)
           WHERE NOT EXISTS (SELECT FROM mana_ai.stops x WHERE x.scope = 'model:' || p.name AND x.resumed_at IS NULL)
           ORDER BY coalesce(v.state IN ('unavailable', 'key_refused'), false), p.place LIMIT 1) s
   CROSS JOIN LATERAL (
         SELECT count(*) AS missions
           FROM (SELECT FROM mana_ai.mission_schedule m
                  WHERE m.wake_at <= clock_timestamp() + interval '30 seconds' AND m.lease_owner IS NULL
                    AND m.due_at <= clock_timestamp() LIMIT 1001) d) w
   WHERE s.state IN ('unavailable', 'key_refused') OR s.state = 'limited' AND also_limited
$$;
COMMENT ON FUNCTION mana_ai.service_problem(boolean) IS
  'why the model service keeps due missions waiting; null when it does not';

-- Why the worker of this database does no work; null if it does.
CREATE FUNCTION mana_ai.worker_problem()
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms' AS $$
DECLARE
  w record;
  c record;
BEGIN
  IF pg_is_in_recovery() THEN
    RETURN 'this server is a standby; the worker starts when it is promoted';
  END IF;
  SELECT * INTO w FROM mana_ai.worker_status();
  IF NOT w.preloaded THEN
    RETURN 'worker is not running: mana_ai is not in shared_preload_libraries';
  END IF;
  SELECT * INTO c FROM mana_ai.safe_mode();
  IF c.since IS NOT NULL THEN
    RETURN format('safe mode since %s: %s crashes of mana_ai, the last one at %s in the %s%s%s; '
                  'when the cause is gone, call mana_ai.resume_after_crash()',
                  c.since, c.crashes, c.last_crash, c.process,
                  ', activity "' || c.activity || '"',
                  ', mission ' || c.mission_id || ' of user ' || c.user_id);
  ELSIF w.worker_pid IS NULL AND NOT current_database() = ANY (
      SELECT btrim(d, ' "') FROM unnest(string_to_array(current_setting('mana_ai.database'), ',')) d) THEN
    RETURN format('worker is not running: mana_ai.database does not name %s', current_database());
  ELSIF w.worker_pid IS NULL THEN
    SELECT * INTO c FROM mana_ai.worker_slots();
    IF c.free = 0 THEN
      RETURN format('worker is not running: all %s places of max_worker_processes are taken, mana_ai alone needs %s',
                    current_setting('max_worker_processes'), c.needed);
    END IF;
    RETURN 'worker is not running';
  ELSIF w.worker_state = 'wrong version' THEN
    -- The action depends on which of the two is older.
    SELECT extversion AS version INTO c FROM pg_extension WHERE extname = 'mana_ai';
    IF string_to_array(w.library_version, '.')::int[] > string_to_array(c.version, '.')::int[] THEN
      RETURN format('worker waits: the library has version %s, the extension in this database %s; '
                    'call ALTER EXTENSION mana_ai UPDATE', w.library_version, c.version);
    END IF;
    RETURN format('worker waits: the extension in this database has version %s, the library that the server has '
                  'loaded %s; install the library of version %s and restart the server',
                  c.version, w.library_version, c.version);
  ELSIF NOT current_setting('mana_ai.tick_enabled')::boolean THEN
    RETURN 'worker is paused: mana_ai.tick_enabled is off';
  ELSIF EXISTS (SELECT FROM pg_stat_activity a
                 WHERE a.pid = w.worker_pid AND a.wait_event = 'SyncRep'
                   AND a.query_start < clock_timestamp() - interval '2 seconds') THEN
    RETURN 'worker waits for a synchronous standby (synchronous_standby_names)';
  END IF;
  -- A query of the state must not wait for the end of a VACUUM FULL.
  BEGIN
    RETURN coalesce(mana_ai.stop_in_force(), mana_ai.sync_table_problem(), mana_ai.service_problem());
  EXCEPTION WHEN lock_not_available THEN
    RETURN format('table %s is locked by another session', mana_ai.attached_table());
  END;
END $$;

-- Whether no grant of the user has opened anything lately: all of their last attempts, at most a hundred, failed because of
-- the key. This happens with clients that encrypt with a key that no grant contains.
CREATE FUNCTION mana_ai.grants_open_nothing(of_user text)
RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(bool_and(a.status = 'failed' AND a.reason = 'ciphertext-tampered-or-wrong-key'), false)
    FROM (SELECT d.status, d.reason FROM mana_ai.decrypt_audit d
           WHERE d.user_id = of_user AND d.status <> 'scope-violation' ORDER BY d.id DESC LIMIT 100) a
$$;

-- The number of such users among the last thousand attempts.
CREATE FUNCTION mana_ai.users_without_opens()
RETURNS int LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*)::int
    FROM (SELECT DISTINCT a.user_id
            FROM (SELECT d.user_id FROM mana_ai.decrypt_audit d ORDER BY d.ts DESC LIMIT 1000) a) u
   WHERE mana_ai.grants_open_nothing(u.user_id)
$$;

CREATE FUNCTION mana_ai.status(
  OUT library_version text, OUT extension_version text, OUT preloaded boolean, OUT worker_pid int,
  OUT worker_state text, OUT worker_since timestamptz, OUT worker_problem text, OUT in_flight int,
  OUT last_tick_at timestamptz, OUT last_tick_finished timestamptz, OUT last_tick_by text,
  OUT due_mission_count int, OUT plans_produced int, OUT plans_written_back int,
  OUT parse_failures int, OUT skipped int, OUT errors text[], OUT next_due timestamptz,
  OUT dirty_records bigint, OUT trigger_errors bigint, OUT sync_table text, OUT grant_key text,
  OUT research_jobs int, OUT unmarked_changes bigint, OUT worker_slots_needed int, OUT worker_slots_free int,
  OUT users_without_opens int, OUT stops text[], OUT folding text)
RETURNS record LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
  SELECT w.library_version,
         (SELECT extversion FROM pg_extension WHERE extname = 'mana_ai'),
         w.preloaded, w.worker_pid, w.worker_state, w.worker_since, mana_ai.worker_problem(),
         (SELECT count(*)::int FROM mana_ai.runs WHERE outcome = 'running'),
         e.last_tick_at, e.last_tick_finished, e.last_tick_by, e.due_mission_count,
         e.plans_produced, e.plans_written_back, e.parse_failures, e.skipped, e.errors,
         (SELECT min(s.wake_at) FROM mana_ai.mission_schedule s),
         (SELECT count(*) FROM (SELECT FROM mana_ai.dirty_records LIMIT 10000) d),
         w.trigger_errors,
         mana_ai.attached_table()::text,
         coalesce(e.grant_key, 'not configured'),
         (SELECT count(*)::int FROM mana_ai.mission_research_jobs j WHERE j.state = 'waiting'),
         mana_ai.unmarked_changes(), p.needed, p.free, mana_ai.users_without_opens(),
         ARRAY(SELECT format('%s since %s by %s: %s', t.scope, t.stopped_at, t.stopped_by, t.reason)
                 FROM mana_ai.stops t WHERE t.resumed_at IS NULL ORDER BY t.stopped_at),
         mana_ai.folding()
    FROM mana_ai.worker_status() w CROSS JOIN mana_ai.worker_slots() p LEFT JOIN mana_ai.engine_state e ON true
$$;
COMMENT ON FUNCTION mana_ai.status() IS
  'is the worker alive, what is it doing, how did the last tick end, what is next';

-- Whether the mission's snapshot differs from the log: it has a mark, or its user has one for all records, or it is too
-- large.
CREATE FUNCTION mana_ai.waits_for_repair(user_id text, mission_id text)
RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT FROM mana_ai.dirty_records d
                  WHERE d.user_id = $1 AND d.table_name = 'aiMissions' AND d.record_id = $2)
      OR EXISTS (SELECT FROM mana_ai.dirty_records d WHERE d.user_id = $1 AND d.table_name = '')
      OR EXISTS (SELECT FROM mana_ai.oversized_records o
                  WHERE o.user_id = $1 AND o.table_name = 'aiMissions' AND o.record_id = $2)
$$;

-- The state that another member of the mission's space has set, or 'deleted', if that is later than the owner's. Null:
-- nothing holds it back. Nothing else of other members' rows counts, so that none of them can make a mission run, read or
-- cost more than its owner wants (docs/contract/data.md, Shared spaces).
CREATE FUNCTION mana_ai.member_hold(user_id text, mission_id text, space_id text, record jsonb, clocks bytea)
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN h.state <> 'active' THEN h.state END
    FROM (SELECT x.record ->> 'state' AS state, mana_ai.newest_clock(x.record, x.clocks, ARRAY['state']) AS at
            FROM mana_ai.mission_snapshots x
           WHERE x.mission_id = $2 AND x.space_id = $3 AND x.user_id <> $1
             AND CASE WHEN mana_ai.raw_size(x.record, x.clocks) <= pg_size_bytes(current_setting('mana_ai.max_record_size'))
                      THEN x.record ->> 'state' IN ('active', 'paused', 'done', 'archived') END
          UNION ALL
          SELECT 'deleted', t.deleted_at FROM mana_ai.record_tombstones t
           WHERE t.table_name = 'aiMissions' AND t.record_id = $2 AND t.space_id = $3 AND t.user_id <> $1) h
   WHERE $3 NOT LIKE '\_personal:%'
     AND h.at > coalesce(mana_ai.newest_clock($4, $5, ARRAY['state', 'deletedAt']), '-infinity')
     AND h.at <= clock_timestamp() + interval '48 hours'
   ORDER BY h.at DESC LIMIT 1
$$;

-- Of some fields the clocks that lineage keeps (include/mana_ai/extension/sync/clock_vector.hpp), as hexadecimal digits;
-- null when they are damaged.
CREATE FUNCTION mana_ai.clocks_of_fields(record jsonb, clocks bytea, fields text[])
RETURNS text LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_clocks_of_fields';

-- An agent of which the user has no whole record: another member's of the same space, or its deletion. A whole record has
-- a name; others are fragments of edits, which count only if they pause the agent. Anybody can write rows for a space. So
-- only name, role, state, policy and limits of a foreign agent are used, never systemPrompt and memory; of two whole ones
-- none, since one may be a stranger's (is_ambiguous); and a deletion counts only by a member who had a whole record
-- (docs/contract/data.md, Shared spaces).
CREATE FUNCTION mana_ai.shared_agent(
  user_id text, agent_id text, space_id text,
  OUT record jsonb, OUT version bigint, OUT updated_at timestamptz, OUT is_deleted boolean, OUT is_ambiguous boolean,
  OUT read_clocks text)
RETURNS SETOF record LANGUAGE sql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp AS $$
  WITH shared AS MATERIALIZED (
    SELECT x.user_id AS owner, x.record, x.clocks, x.version, x.updated_at,
           mana_ai.newest_clock(x.record, x.clocks, ARRAY['state']) AS at
      FROM mana_ai.agent_snapshots x
     WHERE $3 NOT LIKE '\_personal:%' AND x.agent_id = $2 AND x.space_id = $3
       AND mana_ai.raw_size(x.record, x.clocks) <= pg_size_bytes(current_setting('mana_ai.max_record_size'))),
  whole AS (SELECT * FROM shared WHERE owner <> $1 AND jsonb_typeof(shared.record -> 'name') = 'string'),
  -- A record that is too large to be read may be whole.
  known AS (
    SELECT (SELECT count(*) FROM whole)
         + (SELECT count(*) FROM mana_ai.agent_snapshots x
             WHERE $3 NOT LIKE '\_personal:%' AND x.agent_id = $2 AND x.space_id = $3 AND x.user_id <> $1
               AND NOT EXISTS (SELECT FROM shared s WHERE s.owner = x.user_id)) AS agents),
  said AS (
    SELECT s.record ->> 'state' AS state FROM shared s, whole w
     WHERE s.record ->> 'state' IN ('active', 'paused', 'archived') AND s.at > coalesce(w.at, '-infinity')
       AND s.at <= clock_timestamp() + interval '48 hours'
     ORDER BY s.at DESC LIMIT 1)
  SELECT (SELECT jsonb_object_agg(f.key, f.value)
            FROM jsonb_each(CASE WHEN (SELECT said.state FROM said) <> 'active'
                                 THEN jsonb_set(w.record, '{state}', to_jsonb((SELECT said.state FROM said))) ELSE w.record END) f
           WHERE f.key IN ('id', 'name', 'role', 'state', 'policy', 'maxConcurrentMissions', 'maxTokensPerDay')),
         w.version, w.updated_at,
         k.agents = 0 AND EXISTS (
           SELECT FROM mana_ai.record_tombstones t
            WHERE t.table_name = 'agents' AND t.record_id = $2
              AND (t.user_id = $1 OR (t.was_whole AND t.space_id = $3 AND $3 NOT LIKE '\_personal:%'))),
         k.agents > 1, mana_ai.clocks_of_fields(w.record, w.clocks, ARRAY['name', 'role', 'policy'])
    FROM known k LEFT JOIN whole w ON k.agents = 1
$$;

-- The agent of a mission: its user's own, else one that is shared with them.
CREATE FUNCTION mana_ai.agent_of_mission(
  user_id text, agent_id text, space_id text, OUT record jsonb, OUT is_deleted boolean, OUT is_ambiguous boolean)
RETURNS SETOF record LANGUAGE sql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN h.is_ambiguous THEN NULL ELSE coalesce(h.record, o.record) END,
         coalesce(h.is_deleted, false) AND o.record IS NULL, coalesce(h.is_ambiguous, false)
    FROM (SELECT 1) one
    LEFT JOIN mana_ai.agent_snapshots o ON o.user_id = $1 AND o.agent_id = $2
    LEFT JOIN LATERAL (SELECT * FROM mana_ai.shared_agent($1, $2, $3)
                        WHERE $2 IS NOT NULL
                          AND (o.record IS NULL OR ($3 IS NOT NULL AND NOT o.record ? 'name'))) h ON true
$$;

-- Missions that cannot run as they are, and why. Problems are stored when they arise, so that this reads nothing of missions
-- without problems.
CREATE VIEW mana_ai.mission_problems AS
SELECT m.user_id, m.mission_id, p.problem, m.updated_at AS since
  FROM mana_ai.mission_snapshots m
 CROSS JOIN LATERAL unnest(m.problems) AS p(problem)
 WHERE m.problems IS NOT NULL
UNION ALL
SELECT s.user_id, s.mission_id,
       format(CASE s.attempts WHEN 1 THEN 'failed: %2$s' ELSE 'failed %1$s times in a row, the last time: %2$s' END,
              s.attempts, coalesce(s.error_kind, 'crashed')),
       s.decided_at
  FROM mana_ai.mission_schedule s
 WHERE s.problem IS NOT NULL AND s.attempts > 0 AND s.due_at IS NOT NULL
UNION ALL
SELECT s.user_id, s.mission_id,
       CASE s.decision
         WHEN 'skipped-too-large' THEN 'record of the mission or its agent is larger than mana_ai.max_record_size'
         WHEN 'skipped-unreadable' THEN 'record of the mission or its agent cannot be read'
         WHEN 'skipped-clock-ahead' THEN 'clock of the record is too far ahead'
         ELSE s.decision END,
       s.decided_at
  FROM mana_ai.mission_schedule s
 WHERE s.problem IS NOT NULL AND s.problem = s.decision AND s.not_before IS NOT NULL AND s.due_at IS NOT NULL
UNION ALL
SELECT d.user_id, d.record_id, 'the snapshot waits for repair: ' || d.reason, d.ts
  FROM mana_ai.dirty_records d
 WHERE d.table_name = 'aiMissions'
UNION ALL
SELECT d.user_id, NULL, 'all snapshots of the user wait for repair', d.ts
  FROM mana_ai.dirty_records d
 WHERE d.table_name = '' AND d.record_id = ''
UNION ALL
SELECT r.user_id, r.mission_id,
       CASE r.iteration_id
         WHEN '' THEN format('plans that devices have overwritten could not be restored: %s attempts have failed', r.restores)
         ELSE format('devices have overwritten iteration %s %s times: it is not restored any more', left(r.iteration_id COLLATE "default", 100), r.restores + 1)
       END,
       r.given_up_at
  FROM mana_ai.restored_iterations r
 WHERE r.given_up_at IS NOT NULL
UNION ALL
SELECT o.user_id, o.record_id, 'record too large for a snapshot', o.ts
  FROM mana_ai.oversized_records o
 WHERE o.table_name = 'aiMissions';
COMMENT ON VIEW mana_ai.mission_problems IS 'missions that cannot run as they are, and why';

-- The budgets that apply to a mission: tokens of the last 24 hours, and the reservations of calls in flight.
CREATE FUNCTION mana_ai.budgets_of_mission(
  user_id text, mission_id text,
  OUT scope text, OUT tokens_per_day bigint, OUT used bigint, OUT reserved bigint)
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER ROWS 4
SET search_path = pg_catalog, pg_temp AS $$
WITH mission AS (
  SELECT m.user_id, m.mission_id, s.agent_id, m.record, a.record AS agent
    FROM mana_ai.mission_snapshots m
    LEFT JOIN mana_ai.mission_schedule s ON s.user_id = m.user_id AND s.mission_id = m.mission_id
    LEFT JOIN LATERAL mana_ai.agent_of_mission(m.user_id, s.agent_id, m.space_id) a ON true
   WHERE m.user_id = budgets_of_mission.user_id AND m.mission_id = budgets_of_mission.mission_id),
records AS (
  SELECT 'agent' AS scope, m.agent AS record FROM mission m
  UNION ALL
  SELECT 'mission', m.record FROM mission m),
caps AS (
  -- A number of JSON may have thousands of digits.
  SELECT r.scope, floor(least(greatest((r.record ->> 'maxTokensPerDay')::numeric, 0), 9223372036854775807))::bigint AS cap
    FROM records r WHERE jsonb_typeof(r.record -> 'maxTokensPerDay') = 'number'
  UNION ALL
  SELECT 'user', coalesce(b.tokens_per_day, nullif(current_setting('mana_ai.user_tokens_per_day')::bigint, 0))
    FROM mission m LEFT JOIN mana_ai.user_budgets b ON b.user_id = m.user_id
  UNION ALL
  SELECT 'total', nullif(current_setting('mana_ai.total_tokens_per_day')::bigint, 0) FROM mission m)
SELECT c.scope, c.cap,
       coalesce(CASE c.scope
         WHEN 'agent' THEN (SELECT sum(u.tokens_used) FROM mana_ai.token_usage u
                             WHERE u.user_id = m.user_id AND u.agent_id = m.agent_id AND u.ts > d.begin
                               AND u.purpose <> 'what_if')
         WHEN 'mission' THEN (SELECT sum(u.tokens_used) FROM mana_ai.token_usage u
                               WHERE u.user_id = m.user_id AND u.mission_id = m.mission_id AND u.ts > d.begin
                                 AND u.purpose <> 'what_if')
         WHEN 'user' THEN (SELECT sum(u.tokens_used) FROM mana_ai.token_usage u
                            WHERE u.user_id = m.user_id AND u.ts > d.begin AND u.purpose <> 'what_if')
         ELSE (SELECT sum(u.tokens) FROM mana_ai.usage_of_all(d.begin) u) END, 0)::bigint,
       coalesce(CASE WHEN c.scope = 'total' THEN
           coalesce((SELECT sum(r.reserved_tokens) FROM mana_ai.runs r WHERE r.outcome = 'running'), 0)
           + coalesce((SELECT sum(w.reserved_tokens) FROM mana_ai.what_if_running w), 0)
         ELSE (SELECT sum(r.reserved_tokens) FROM mana_ai.runs r
                WHERE r.user_id = m.user_id AND r.outcome = 'running'
                  AND (c.scope <> 'agent' OR r.agent_id = m.agent_id)
                  AND (c.scope <> 'mission' OR r.mission_id = m.mission_id)) END, 0)::bigint
  FROM caps c CROSS JOIN mission m CROSS JOIN (SELECT clock_timestamp() - interval '24 hours' AS begin) d
 WHERE c.cap IS NOT NULL
$$;
COMMENT ON FUNCTION mana_ai.budgets_of_mission(text, text) IS 'the budgets that hold for a mission, and what is left of them';

-- Why a mission is not running now.
CREATE FUNCTION mana_ai.why(user_id text, mission_id text)
RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  m       mana_ai.mission_snapshots%ROWTYPE;
  s       mana_ai.mission_schedule%ROWTYPE;
  a       jsonb;
  j       mana_ai.mission_research_jobs%ROWTYPE;
  running int;
  tokens  bigint;
  budget  text;
  gate    text;
  name    text;
  remark  text := '';
  stale   text;
  hold    text;
  deleted boolean;
  in_doubt boolean;
BEGIN
  SELECT * INTO m FROM mana_ai.mission_snapshots x
   WHERE x.user_id = why.user_id AND x.mission_id = why.mission_id;
  IF NOT FOUND THEN
    IF EXISTS (SELECT FROM mana_ai.erased_users e WHERE e.user_digest = mana_ai.digest_of_user(why.user_id)) THEN
      RETURN format('the user was erased at %s; nothing is planned for this id any more',
                    (SELECT e.erased_at FROM mana_ai.erased_users e
                      WHERE e.user_digest = mana_ai.digest_of_user(why.user_id)));
    ELSIF EXISTS (SELECT FROM mana_ai.record_tombstones t
                WHERE t.user_id = why.user_id AND t.table_name = 'aiMissions'
                  AND t.record_id = why.mission_id) THEN
      RETURN 'mission was deleted';
    ELSIF EXISTS (SELECT FROM mana_ai.oversized_records o
                   WHERE o.user_id = why.user_id AND o.table_name = 'aiMissions'
                     AND o.record_id = why.mission_id) THEN
      RETURN 'the mission''s record is too large for a snapshot';
    ELSIF mana_ai.waits_for_repair(why.user_id, why.mission_id) THEN
      RETURN 'the mission''s snapshot waits for repair';
    END IF;
    RETURN 'no such mission' || coalesce('; the log is being folded, and the mission may be in what is left: ' || mana_ai.folding(), '');
  END IF;
  IF mana_ai.raw_size(m.record, m.clocks) > pg_size_bytes(current_setting('mana_ai.max_record_size')) THEN
    RETURN format('record is larger than mana_ai.max_record_size: %s', pg_size_pretty(mana_ai.raw_size(m.record, m.clocks)));
  END IF;
  IF m.record ->> 'state' IS DISTINCT FROM 'active' THEN
    RETURN format('mission is not active but %s',
                  CASE WHEN m.record ->> 'state' IS NULL THEN 'without a state'
                       ELSE coalesce(mana_ai.readable_text(m.record, 'state'), 'encrypted') END);
  END IF;
  SELECT * INTO s FROM mana_ai.mission_schedule x
   WHERE x.user_id = why.user_id AND x.mission_id = why.mission_id;
  IF s.lease_owner IS NOT NULL AND s.wake_at > clock_timestamp() THEN
    RETURN (SELECT format('running since %s', r.started_at)
              FROM mana_ai.runs r WHERE r.user_id = why.user_id AND r.run_id = s.run_id);
  END IF;
  IF jsonb_typeof(m.record -> 'grant') = 'object' AND mana_ai.grants_open_nothing(why.user_id) THEN
    remark := '; no grant of this user has opened anything lately: their clients do not encrypt with the keys that grants carry';
  END IF;
  -- Of the last run that was to have research.
  remark := remark || coalesce((
  SELECT string_agg(format('; planned without %s: its user has had %s in the last 24 hours, as many as are allowed', l.kind, l.had), ''
                    ORDER BY l.id DESC)
    FROM (SELECT k.kind, k.id,
                 CASE k.id WHEN '__web-research__' THEN coalesce(b.web_research_per_day, nullif(current_setting('mana_ai.user_web_research_per_day')::int, 0))
                           ELSE coalesce(b.deep_research_per_day, nullif(current_setting('mana_ai.user_deep_research_per_day')::int, 0)) END AS most,
                 (SELECT count(*) FROM mana_ai.token_usage u
                   WHERE u.user_id = why.user_id AND u.model = k.model AND u.model IN ('web-research', 'deep-research')
                     AND u.ts > statement_timestamp() - interval '24 hours') AS had
            FROM (VALUES ('research on the web', 'web-research', '__web-research__'), ('long research', 'deep-research', '__deep-research__'))
              AS k(kind, model, id)
            LEFT JOIN mana_ai.user_budgets b ON b.user_id = why.user_id) l
   WHERE l.had >= l.most
     AND (SELECT r.inputs FROM mana_ai.runs r
           WHERE r.user_id = why.user_id AND r.mission_id = why.mission_id AND r.inputs IS NOT NULL
           ORDER BY r.started_at DESC LIMIT 1) @> jsonb_build_array(jsonb_build_object('id', l.id, 'reason', 'daily-limit'))), '');
  -- The newest plan.
  stale := (SELECT '; the plan of ' || r.finished_at || ' waits for the user, and since then there were changes of '
                   || array_to_string(mana_ai.stale_records(r.user_id, r.run_id), ', ')
              FROM (SELECT * FROM mana_ai.runs x
                     WHERE x.mission_id = why.mission_id AND x.user_id = why.user_id AND x.outcome = 'planned'
                       AND x.started_at > clock_timestamp() - interval '8 days'
                     ORDER BY x.started_at DESC LIMIT 1) r);
  IF s.woken_at IS NOT NULL THEN
    remark := format('; woken by a change at %s', coalesce((SELECT w.last_changed_at FROM mana_ai.input_watches w
                      WHERE w.user_id = why.user_id AND w.mission_id = why.mission_id), s.woken_at)) || remark;
  END IF;
  IF s.due_at IS NULL THEN
    RETURN CASE
      WHEN coalesce(m.record -> 'title', '""') IN ('""', 'null', 'false', '0')
           AND coalesce(m.record -> 'objective', '""') IN ('""', 'null', 'false', '0') THEN
        'not scheduled: the record has neither title nor objective'
      WHEN coalesce(jsonb_typeof(m.record -> 'nextRunAt'), 'null') = 'null' THEN
        coalesce(mana_ai.waits_for_change(why.user_id, why.mission_id), 'not scheduled: nextRunAt is not set') || coalesce(stale, '')
      ELSE 'not scheduled: nextRunAt is not an instant' END;
  ELSIF s.due_at > clock_timestamp() THEN
    RETURN format('not due until %s%s%s%s', s.due_at, '; or earlier: ' || mana_ai.waits_for_change(why.user_id, why.mission_id), remark, stale);
  END IF;

  IF mana_ai.stop_in_force(why.user_id, s.agent_id) IS NOT NULL THEN
    RETURN mana_ai.stop_in_force(why.user_id, s.agent_id);
  END IF;
  hold := CASE WHEN m.space_id IS NOT NULL THEN
            mana_ai.member_hold(m.user_id, m.mission_id, m.space_id, m.record, m.clocks) END;
  IF hold IS NOT NULL THEN
    RETURN format('another member of the space has made the mission %s', hold);
  END IF;
  SELECT x.record, x.is_deleted, x.is_ambiguous INTO a, deleted, in_doubt
    FROM mana_ai.agent_of_mission(why.user_id, s.agent_id, m.space_id) x;
  IF in_doubt THEN
    RETURN format('more than one other member of the space has an agent %s', left(s.agent_id, 200));
  END IF;
  SELECT count(*) INTO running FROM mana_ai.runs r
   WHERE r.user_id = why.user_id AND r.agent_id = s.agent_id AND r.outcome = 'running';
  SELECT coalesce(sum(u.tokens_used), 0) INTO tokens FROM mana_ai.token_usage u
   WHERE u.user_id = why.user_id AND u.agent_id = s.agent_id AND u.purpose <> 'what_if'
     AND u.ts > clock_timestamp() - interval '24 hours';
  SELECT * INTO j FROM mana_ai.mission_research_jobs x
   WHERE x.user_id = why.user_id AND x.mission_id = why.mission_id;
  gate := mana_ai.gate_decision(CASE WHEN deleted THEN jsonb_set(m.record, '{agentId}', 'null') ELSE m.record END, a,
                                running, tokens, j.state = 'waiting', m.clocks);
  -- An encrypted name is of no use.
  name := CASE WHEN gate = 'skipped-too-large' THEN s.agent_id ELSE left(coalesce(nullif(mana_ai.readable_text(a, 'name'), ''), s.agent_id), 200) END;
  CASE gate
    WHEN 'skipped-too-large' THEN
      RETURN format('record of agent %s is larger than mana_ai.max_record_size, or its policy is', left(name, 200));
    WHEN 'skipped-unreadable' THEN
      RETURN 'record of the mission or its agent cannot be read: it is nested too deep or holds a number out of range';
    WHEN 'skipped-clock-ahead' THEN
      RETURN format('clock of the record is more than two days ahead: %s',
                    mana_ai.newest_clock(m.record, m.clocks, ARRAY['iterations', 'nextRunAt', 'updatedAt']));
    WHEN 'skipped-agent-missing' THEN
      RETURN format('agent %s does not exist or is not synced yet', left(s.agent_id, 200));
    WHEN 'skipped-archived' THEN
      RETURN format('agent %s is archived', name);
    WHEN 'skipped-paused' THEN
      RETURN format('agent %s is paused', name);
    WHEN 'skipped-concurrency' THEN
      RETURN format('agent %s is running %s of its missions, as many as it may', name, running);
    WHEN 'skipped-encrypted' THEN
      RETURN 'title, objective or concept is encrypted and no grant opens it';
    WHEN 'skipped-unreviewed' THEN
      RETURN format('%s or more iterations wait for a device of the user to carry them out%s',
                    current_setting('mana_ai.max_unreviewed'), stale);
    WHEN 'skipped-browser-run' THEN
      RETURN format('a browser of the user runs the mission itself; held back until %s, or until that run ends',
                    timestamptz 'epoch' + ((mana_ai.planning_record(m.record, m.clocks)::jsonb
                                            ->> 'browserRunUntil')::bigint) * interval '1 microsecond');
    WHEN 'skipped-research' THEN
      RETURN format('waiting for research since %s, %s', coalesce(j.submitted_at, j.requested_at),
                    coalesce('last asked ' || j.last_polled_at, 'not asked yet'));
    ELSE NULL;
  END CASE;
  -- In money and in tokens: the one with less room has decided.
  SELECT format('%s cost %s of %s %s in the last 24 hours%s%s',
                CASE b.scope WHEN 'agent' THEN format('agent %s has', name) WHEN 'mission' THEN 'the mission has'
                             WHEN 'user' THEN 'the user''s missions have' ELSE 'all missions together have' END,
                trim_scale(b.used), trim_scale(b.cost_per_day), b.currency,
                CASE WHEN b.used >= b.cost_per_day THEN ''
                     WHEN b.call_tokens = 1000000000000  -- mana_ai.cost_budgets_of(): only calls have a price
                     THEN format('; there is money for %s calls, calls under way have reserved that of %s',
                                 (b.tokens_left + 999000000000) / b.call_tokens, b.reserved_tokens / b.call_tokens)
                     ELSE format('; there is money for %s tokens, calls under way have reserved %s', b.tokens_left, b.reserved_tokens) END,
                CASE WHEN b.unpriced_tokens > 0 THEN format('; %s tokens have no price in %s', b.unpriced_tokens, b.currency) END)
    INTO budget
    FROM mana_ai.cost_budgets_of(why.user_id, coalesce(s.agent_id, ''), NULL, why.mission_id) b
   WHERE b.tokens_left = 0
      OR (s.not_before > clock_timestamp()
          AND s.decision = CASE b.scope WHEN 'agent' THEN 'skipped-budget' ELSE format('skipped-%s-budget', b.scope) END
          AND (b.tokens_left < coalesce((SELECT t.tokens_per_day - t.used
                                           FROM mana_ai.budgets_of_mission(why.user_id, why.mission_id) t
                                          WHERE t.scope = b.scope), 9223372036854775807)
               OR (b.call_tokens = 1000000000000 AND b.tokens_left <= b.reserved_tokens)))
   ORDER BY b.tokens_left = 0 DESC, array_position(ARRAY['agent', 'mission', 'user', 'total'], b.scope) LIMIT 1;
  IF budget IS NOT NULL THEN
    RETURN budget;
  END IF;
  -- The budget that is used up, else the one that calls in flight have reserved.
  SELECT format('%s used %s of %s tokens in the last 24 hours%s',
                CASE b.scope WHEN 'agent' THEN format('agent %s has', name) WHEN 'mission' THEN 'the mission has'
                             WHEN 'user' THEN 'the user''s missions have' ELSE 'all missions together have' END,
                b.used, b.tokens_per_day,
                CASE WHEN b.used >= b.tokens_per_day THEN '' WHEN b.reserved > 0 THEN format('; calls under way have reserved %s', b.reserved)
                     ELSE '; at the last look the rest was reserved, or less than a call needs' END)
    INTO budget
    FROM mana_ai.budgets_of_mission(why.user_id, why.mission_id) b
   WHERE b.used >= b.tokens_per_day
      OR (s.not_before > clock_timestamp()
          AND s.decision = CASE b.scope WHEN 'agent' THEN 'skipped-budget' ELSE format('skipped-%s-budget', b.scope) END)
   ORDER BY b.used >= b.tokens_per_day DESC, array_position(ARRAY['agent', 'mission', 'user', 'total'], b.scope) LIMIT 1;
  IF budget IS NOT NULL THEN
    RETURN budget;
  END IF;
  IF s.not_before > clock_timestamp() AND s.decision = 'skipped-service' THEN
    RETURN coalesce(mana_ai.service_problem(true),
                    format('the model service turned it away (%s); it is tried again at %s',
                           coalesce(s.error_kind, 'unknown'), s.not_before));
  ELSIF s.attempts > 0 AND s.not_before > clock_timestamp() THEN
    RETURN format('backing off until %s after %s %s: %s', s.not_before, s.attempts,
                  CASE s.attempts WHEN 1 THEN 'failure' ELSE 'failures' END,
                  coalesce(s.error_kind, 'crashed'));
  ELSIF s.not_before > clock_timestamp() AND s.decision = 'skipped-encrypted' THEN
    RETURN format('title, objective or concept is encrypted and the grant does not open it: %s%s',
                  coalesce(s.error_kind, 'unknown'), remark);
  ELSIF s.not_before > clock_timestamp() THEN
    RETURN format('waiting until %s after decision %s', s.not_before, s.decision);
  END IF;
  RETURN coalesce(mana_ai.worker_problem(), mana_ai.service_problem(true), 'due: the worker takes it up as soon as it has room' || remark);
END $$;
COMMENT ON FUNCTION mana_ai.why(text, text) IS 'the one reason why a mission is not running now';

-- A device's message for a failed step, without private parts: words that clients use in their messages stay, everything
-- else (titles, ids, numbers, texts) becomes "…".
CREATE FUNCTION mana_ai.public_failure(step_summary text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT regexp_replace(string_agg(CASE WHEN lower(w.core) = ANY (string_to_array(regexp_replace('
    add additional after aktiv aktualisieren aktuell aktuelle alphanumerics already als and angegeben
    antworten antwortet antwortfeld array articleid artikel at auf aufgehoben aufgehobene ausserhalb
    auswahl available avoid be before belong benutzerdefinierte betreff bibliothek bitte block blockid
    braucht campaignid can cannot choice claim confirmed contain content correct credit darf dass
    deleted der des details die does draft draftid duplicate edited ein eine einen einer eingeloggt
    eintrag eintraege einträge einträgen entry entschlüsselt entschlüsselung entsperren entweder er
    erforderlich erlaubt erreichbar erstellen erwarte erzeugt event eventtype execution exists expected
    extract failed false fehler fehlgeschlagen fehlt feld fetch fingerprint for form formid formular
    found frage fuer für gebaut gefunden genau geparst gesperrt gültige gültiges haben has hat id ids im
    in inhalt instruction invalid invoice ist je jeder json kalender kann kein keine keinen kind konnte
    konnten kundenname können label last lastid lasts leer link lowercase läuft location match mehr
    mindestens missing mit more muss must müssen nach name names network nicht no not note noteid notiz
    number nur objekt oder of offener ohne on one only option optionsjson or out page pageid parameter passen
    patch path pflicht policy position positionen probability props publish published quantity query
    questionid questiontext quiz quizid range rating rechnung rechnungs request required reserved run
    schema segments sein selectionstart server settings setzen single site siteid slug source space spec
    standort start startet status string sub tag tagname task template templateid tenderness text textes
    textstelle the this timeblock timer timeout title to tool topic type unauthorized unbekannt
    unbekannte unbekannter unbekanntes under und ungueltige ungültig ungültiges unique unitprice unknown
    unpublish url use valid validation validierung vault verfuegbar verschlossen version veröffentlichen
    veröffentlicht vor vorhanden waehrung werden with writing würden ziel zu zum zwischen ändern
    öffentlich übergeben
    ', '\s+', ' ', 'g'), ' ')) THEN w.core ELSE '…' END, ' ' ORDER BY w.place), '…( …)+', '…', 'g')
    FROM (SELECT btrim(m.token[1], ' .,;:!?"''()[]{}<>„“”«»–—-…/\') AS core, m.place
            FROM regexp_matches(left(substring(step_summary FROM '\(FEHLER: (.*)\)$'), 300), '\S+', 'g')
                 WITH ORDINALITY AS m(token, place)) w
   WHERE w.core <> ''
$$;
COMMENT ON FUNCTION mana_ai.public_failure(text) IS
  'the words of a failed step''s message that cannot be private';

-- A function, so that the view does not prevent changes of columns, and so that readers of the view see no record. Only
-- counted values leave the records: sorting whole plans costs more than reading them.
CREATE FUNCTION mana_ai.count_tool_outcomes(
  since timestamptz DEFAULT NULL,
  OUT tool text, OUT agent_id text, OUT model text, OUT prompt_version text, OUT steps bigint,
  OUT approved bigint, OUT failed bigint, OUT last_failed text, OUT last_messages text[])
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER ROWS 200
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_memoize = off AS $$
WITH steps AS MATERIALIZED (
  SELECT m.user_id, m.mission_id, i.iteration ->> 'id' AS iteration_id,
         substring(i.iteration ->> 'promptVersion' FROM '^[0-9a-f]{12}$') AS prompt_version,
         left(i.iteration ->> 'finishedAt', 40) AS planned_at,
         left(s.step #>> '{intent,toolName}', 64) AS tool, s.step ->> 'status' AS status,
         CASE WHEN s.step ->> 'status' = 'failed' THEN right(s.step ->> 'summary', 400) END AS failure
    FROM mana_ai.mission_snapshots m
   CROSS JOIN LATERAL jsonb_array_elements(
           CASE WHEN jsonb_typeof(m.record -> 'iterations') = 'array'
                THEN m.record -> 'iterations' ELSE '[]' END) AS i(iteration)
   CROSS JOIN LATERAL jsonb_array_elements(
           CASE WHEN i.iteration ->> 'source' = 'server'
                     AND jsonb_typeof(i.iteration -> 'plan') = 'array'
                     AND (since IS NULL
                          OR i.iteration ->> 'finishedAt' COLLATE "C"
                             >= to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
                THEN i.iteration -> 'plan' ELSE '[]' END) AS s(step)
   WHERE since IS NULL OR m.updated_at >= since),
known AS (
  SELECT t.name FROM mana_ai.tools t UNION SELECT c.name FROM mana_ai.tool_catalogs c),
-- In one join: looking up each step's run among those of its mission takes longer.
planned AS MATERIALIZED (
  SELECT r.user_id, r.mission_id, r.iteration_id, r.agent_id, r.model, r.prompt_version
    FROM mana_ai.runs r WHERE r.iteration_id IS NOT NULL),
counted AS (
  SELECT coalesce(k.name, 'unknown') AS tool, coalesce(r.agent_id, c.agent_id) AS agent_id, r.model,
         coalesce(s.prompt_version, r.prompt_version) AS prompt_version,
         count(*) AS steps,
         count(*) FILTER (WHERE s.status = 'approved') AS approved,
         count(*) FILTER (WHERE s.status = 'failed') AS failed,
         max(s.planned_at) FILTER (WHERE s.status = 'failed') AS last_failed,
         (array_agg(s.failure ORDER BY s.planned_at DESC) FILTER (WHERE s.failure IS NOT NULL))[1:5]
           AS failures
    FROM steps s
    LEFT JOIN known k ON k.name = s.tool
    LEFT JOIN planned r ON r.user_id = s.user_id AND r.mission_id = s.mission_id
                       AND r.iteration_id = s.iteration_id
    LEFT JOIN mana_ai.mission_schedule c ON c.user_id = s.user_id AND c.mission_id = s.mission_id
   GROUP BY 1, 2, 3, 4)
SELECT c.tool, c.agent_id, c.model, c.prompt_version, c.steps, c.approved, c.failed,
       substring(c.last_failed FROM '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z$') AS last_failed,
       ARRAY(SELECT DISTINCT p.words
               FROM unnest(c.failures) AS f
              CROSS JOIN LATERAL (SELECT mana_ai.public_failure(f) AS words OFFSET 0) p
              WHERE p.words IS NOT NULL ORDER BY 1) AS last_messages
  FROM counted c
$$;

CREATE VIEW mana_ai.tool_outcomes AS
SELECT o.tool, o.agent_id, o.model, o.prompt_version, o.steps, o.approved, o.failed, o.last_failed,
       o.last_messages
  FROM mana_ai.count_tool_outcomes(now() - interval '30 days') o;
COMMENT ON VIEW mana_ai.tool_outcomes IS
  'what devices have made of the steps of our plans of the last 30 days, by tool, agent, model and prompt version';
COMMENT ON FUNCTION mana_ai.count_tool_outcomes(timestamptz) IS
  'what devices have made of the steps of our plans since then; null: of all that records hold';
