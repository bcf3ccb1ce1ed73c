\echo Use "ALTER EXTENSION mana_ai UPDATE TO '0.2.0'" to load this file. \quit

-- The result is what a fresh installation of 0.2.0 has; test/tap/023_upgrade.pl compares the two.

-- ---------------------------------------------------------------- the log: attach, fold, refresh
ALTER TABLE mana_ai.folded_log ADD COLUMN generation oid;

COMMENT ON FUNCTION mana_ai.refresh_snapshots() IS
  'adds what the log says to the snapshots and repairs dirty records; takes nothing away';

ALTER FUNCTION mana_ai.refresh_snapshots() SET session_replication_role = origin;
ALTER FUNCTION mana_ai.attach(regclass) SET session_replication_role = origin;
ALTER FUNCTION mana_ai.detach() SET session_replication_role = origin;

-- A function of its own, so that who may refresh may not also forget.
CREATE FUNCTION mana_ai.refresh_snapshots(
  rebuild boolean, OUT new_snapshots int, OUT updated_snapshots int, OUT rows_applied bigint)
RETURNS record LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin
AS 'MODULE_PATHNAME', 'mana_ai_refresh_snapshots';
COMMENT ON FUNCTION mana_ai.refresh_snapshots(boolean) IS
  'with true: makes all snapshots anew from the log, and forgets what the log does not say any more';
REVOKE ALL ON FUNCTION mana_ai.refresh_snapshots(boolean) FROM PUBLIC;

-- ---------------------------------------------------------------- the trigger, marks and our tables

-- Marks have a key that needs no sequence, and an index to find them by. What no repair can change is no mark.
DELETE FROM mana_ai.dirty_records WHERE reason = 'ids too long';
ALTER TABLE mana_ai.dirty_records DROP COLUMN id;
ALTER TABLE mana_ai.dirty_records ADD COLUMN id uuid PRIMARY KEY DEFAULT gen_random_uuid();
CREATE INDEX dirty_records_of_user ON mana_ai.dirty_records (user_id, table_name, record_id);
CREATE TABLE mana_ai.oversized_records (
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  ts         timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (user_id, table_name, record_id)
) USING heap;

REVOKE ALL ON mana_ai.oversized_records FROM PUBLIC;

-- The iterations that missions had when their runs began. A device with an old copy of them may write it during
-- the run, and the log need not have the rows any more that said more. Nothing of it outlives its run.
CREATE UNLOGGED TABLE mana_ai.iterations_at_claim (
  user_id    text COLLATE "C" NOT NULL,
  run_id     uuid  NOT NULL,
  iterations jsonb NOT NULL,
  PRIMARY KEY (user_id, run_id)
);
REVOKE ALL ON mana_ai.iterations_at_claim FROM PUBLIC;

ALTER TABLE mana_ai.token_usage ADD COLUMN id uuid PRIMARY KEY DEFAULT gen_random_uuid();

-- The trigger function needs neither its owner's rights nor a search_path, and the trigger no WHEN clause.
CREATE OR REPLACE FUNCTION mana_ai.fold_sync_change()
RETURNS trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'mana_ai_fold_sync_change';
DO $$
DECLARE
  t record;
BEGIN
  FOR t IN SELECT g.tgname, g.tgrelid::regclass AS log, g.tgenabled FROM pg_catalog.pg_trigger g
            WHERE g.tgfoid = 'mana_ai.fold_sync_change()'::regprocedure AND g.tgparentid = 0 LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s FOR EACH ROW'
                   ' EXECUTE FUNCTION mana_ai.fold_sync_change()', t.tgname, t.log);
    EXECUTE format('ALTER TABLE %s %s TRIGGER %I', t.log,
                   CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                                    WHEN 'O' THEN 'ENABLE' ELSE 'ENABLE ALWAYS' END, t.tgname);
    EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION mana_ai', t.tgname, t.log);
  END LOOP;
END $$;

CREATE FUNCTION mana_ai.drop_replicated_row()
RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN NULL;
END $$;
COMMENT ON FUNCTION mana_ai.drop_replicated_row() IS
  'keeps rows that arrive by logical replication out of tables that each server makes for itself';

DO $$
DECLARE
  made_here text;
BEGIN
  FOREACH made_here IN ARRAY ARRAY['mission_snapshots', 'agent_snapshots', 'record_tombstones', 'mission_schedule',
                                   'dirty_records', 'oversized_records', 'folded_log', 'engine_state', 'tools'] LOOP
    EXECUTE format('CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.%I'
                   ' FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row()', made_here);
    EXECUTE format('ALTER TABLE mana_ai.%I ENABLE REPLICA TRIGGER mana_ai_drop_replicated', made_here);
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION mana_ai.drop_replicated_row() FROM PUBLIC;

CREATE FUNCTION mana_ai.unmarked_changes()
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_unmarked_changes';

REVOKE ALL ON FUNCTION mana_ai.unmarked_changes() FROM PUBLIC;

CREATE FUNCTION mana_ai.waits_for_repair(user_id text, mission_id text)
RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT FROM mana_ai.dirty_records d
                  WHERE d.user_id = $1 AND d.table_name = 'aiMissions' AND d.record_id = $2)
      OR EXISTS (SELECT FROM mana_ai.dirty_records d WHERE d.user_id = $1 AND d.table_name = '')
      OR EXISTS (SELECT FROM mana_ai.oversized_records o
                  WHERE o.user_id = $1 AND o.table_name = 'aiMissions' AND o.record_id = $2)
$$;

REVOKE ALL ON FUNCTION mana_ai.waits_for_repair(text, text) FROM PUBLIC;

-- ---------------------------------------------------------------- runs, status and problems
ALTER TABLE mana_ai.mission_snapshots ADD COLUMN problems text[];
ALTER TABLE mana_ai.mission_schedule ADD COLUMN problem text;
-- What users are told of missions that do not run.
ALTER TABLE mana_ai.mission_schedule ADD COLUMN held_since timestamptz;
ALTER TABLE mana_ai.mission_schedule ADD COLUMN told text[];
ALTER TABLE mana_ai.mission_schedule ADD COLUMN check_iterations_at timestamptz;
CREATE INDEX mission_schedule_check_iterations ON mana_ai.mission_schedule (check_iterations_at)
 WHERE check_iterations_at IS NOT NULL;
CREATE TABLE mana_ai.restored_iterations (
  user_id      text COLLATE "C" NOT NULL,
  mission_id   text COLLATE "C" NOT NULL,
  iteration_id text COLLATE "C" NOT NULL,
  restores     int         NOT NULL DEFAULT 1,
  restored_at  timestamptz NOT NULL,
  given_up_at  timestamptz,
  PRIMARY KEY (user_id, mission_id, iteration_id)
);
CREATE INDEX restored_iterations_at ON mana_ai.restored_iterations (restored_at);
CREATE INDEX restored_iterations_given_up ON mana_ai.restored_iterations (given_up_at) WHERE given_up_at IS NOT NULL;
CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.restored_iterations
   FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row();
ALTER TABLE mana_ai.restored_iterations ENABLE REPLICA TRIGGER mana_ai_drop_replicated;
REVOKE ALL ON mana_ai.restored_iterations FROM PUBLIC;
UPDATE mana_ai.mission_snapshots SET problems = mana_ai.record_problems(record)
 WHERE cardinality(mana_ai.record_problems(record)) > 0;
UPDATE mana_ai.mission_schedule
   SET problem = CASE WHEN decision IN ('skipped-encrypted', 'skipped-unreviewed', 'skipped-agent-missing') THEN decision
                      ELSE 'failed' END
 WHERE attempts > 0 OR decision IN ('skipped-encrypted', 'skipped-unreviewed', 'skipped-agent-missing');
CREATE INDEX mission_snapshots_problems ON mana_ai.mission_snapshots (user_id, mission_id)
 WHERE problems IS NOT NULL;
CREATE INDEX mission_schedule_problem ON mana_ai.mission_schedule (decided_at) WHERE problem IS NOT NULL;

ALTER TABLE mana_ai.folded_log ADD COLUMN log_name text;
ALTER TABLE mana_ai.folded_log ADD COLUMN clean boolean NOT NULL DEFAULT true;
-- The log is folded once more: clocks that version 0.1.0 has made do not say where places of rows decided.
DELETE FROM mana_ai.folded_log;

DROP FUNCTION mana_ai.gate_decision(jsonb, jsonb, int, bigint, boolean);
CREATE FUNCTION mana_ai.gate_decision(
  mission jsonb, agent jsonb, agent_running int, agent_tokens_24h bigint,
  research_pending boolean DEFAULT false, clocks bytea DEFAULT NULL)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_gate_decision';

-- The size of a value in memory, known without reading it.
CREATE FUNCTION mana_ai.raw_size(value jsonb)
RETURNS bigint LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_raw_size';

-- The larger of the two: clocks hold the writes that the record does not show.
CREATE FUNCTION mana_ai.raw_size(record jsonb, clocks bytea)
RETURNS bigint LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_raw_size';

-- What planning reads of a mission's and of an agent's record, as JSON.
CREATE FUNCTION mana_ai.planning_record(record jsonb, clocks bytea)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_planning_record';

CREATE FUNCTION mana_ai.planning_agent(record jsonb)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_planning_agent';

CREATE FUNCTION mana_ai.attached_problem()
RETURNS text LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_attached_problem';

CREATE FUNCTION mana_ai.sync_table_problem()
RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(mana_ai.attached_problem(),
                  (SELECT format('table %s is another one than mana_ai is attached to', f.log_name)
                     FROM mana_ai.folded_log f
                    WHERE f.log = mana_ai.attached_table() AND to_regclass(f.log_name)::oid <> f.log))
$$;
COMMENT ON FUNCTION mana_ai.sync_table_problem() IS
  'what keeps plans from being written to the attached table; null when nothing does';

CREATE OR REPLACE FUNCTION mana_ai.readable_text(record jsonb, field text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN mana_ai.raw_size(record) > 4194304 THEN ''
              WHEN record ->> field LIKE 'enc:1:%' THEN NULL
              ELSE left(coalesce(record ->> field, ''), 200) END
$$;

REVOKE ALL ON FUNCTION mana_ai.gate_decision(jsonb, jsonb, int, bigint, boolean, bytea), mana_ai.raw_size(jsonb),
  mana_ai.raw_size(jsonb, bytea),
  mana_ai.planning_record(jsonb, bytea), mana_ai.planning_agent(jsonb), mana_ai.attached_problem(),
  mana_ai.sync_table_problem() FROM PUBLIC;

CREATE OR REPLACE VIEW mana_ai.mission_problems AS
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
         WHEN '' THEN format('plans that devices have taken away could not be put back: %s attempts have failed', r.restores)
         ELSE format('devices have taken iteration %s away %s times: it is not put back any more', left(r.iteration_id COLLATE "default", 100), r.restores + 1)
       END,
       r.given_up_at
  FROM mana_ai.restored_iterations r
 WHERE r.given_up_at IS NOT NULL
UNION ALL
SELECT o.user_id, o.record_id, 'record too large for a snapshot', o.ts
  FROM mana_ai.oversized_records o
 WHERE o.table_name = 'aiMissions';

CREATE OR REPLACE FUNCTION mana_ai.http_status()
RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
WITH
running AS (
  SELECT r.* FROM mana_ai.runs r WHERE r.outcome = 'running' ORDER BY r.started_at LIMIT 50),
due AS (
  SELECT s.user_id, s.mission_id, s.agent_id, s.wake_at, s.due_at
    FROM mana_ai.mission_schedule s
   WHERE s.wake_at IS NOT NULL AND s.lease_owner IS NULL
   ORDER BY s.wake_at LIMIT 20),
last_runs AS (
  SELECT r.* FROM mana_ai.runs r WHERE r.outcome <> 'running' ORDER BY r.started_at DESC LIMIT 30),
spent AS (
  SELECT u.user_id, u.agent_id, sum(u.tokens_used)::bigint AS tokens
    FROM mana_ai.token_usage u
   WHERE u.ts > clock_timestamp() - interval '24 hours' AND u.agent_id IS NOT NULL
   GROUP BY u.user_id, u.agent_id),
-- Those who spent the most, some more than are shown since some are archived or gone; then the newest.
spenders AS (SELECT * FROM spent ORDER BY tokens DESC LIMIT 100),
newest AS (
  SELECT a.user_id, a.agent_id, 0::bigint AS tokens FROM mana_ai.agent_snapshots a
   WHERE a.record ->> 'state' IS DISTINCT FROM 'archived'
   ORDER BY a.updated_at DESC LIMIT 50),
agents AS (
  SELECT a.user_id, a.agent_id, a.record, c.tokens,
         -- A number of JSON may have thousands of digits.
         CASE WHEN jsonb_typeof(a.record -> 'maxTokensPerDay') = 'number'
              THEN trim_scale(trunc(least(greatest((a.record ->> 'maxTokensPerDay')::numeric, -1e18), 1e18), 3))
          END AS budget
    FROM (SELECT user_id, agent_id, max(tokens) AS tokens
            FROM (TABLE spenders UNION ALL TABLE newest) u GROUP BY user_id, agent_id) c
    JOIN mana_ai.agent_snapshots a USING (user_id, agent_id)
   WHERE a.record ->> 'state' IS DISTINCT FROM 'archived'
   ORDER BY c.tokens DESC, a.updated_at DESC LIMIT 50),
-- Some of them where there are very many; the view has them all.
suspects AS (
  (SELECT s.user_id, s.mission_id FROM mana_ai.mission_schedule s
    WHERE s.problem IS NOT NULL AND s.due_at IS NOT NULL
    ORDER BY s.decided_at DESC NULLS LAST LIMIT 100)
  UNION
  (SELECT m.user_id, m.mission_id FROM mana_ai.mission_snapshots m
    WHERE m.problems IS NOT NULL LIMIT 100)
  UNION
  (SELECT r.user_id, r.mission_id FROM mana_ai.restored_iterations r
    WHERE r.given_up_at IS NOT NULL ORDER BY r.given_up_at DESC LIMIT 100)
  UNION
  (SELECT d.user_id, d.record_id FROM mana_ai.dirty_records d
    WHERE d.table_name = 'aiMissions' LIMIT 100)),
problems AS (
  SELECT p.*
    FROM suspects x
   CROSS JOIN LATERAL (SELECT v.* FROM mana_ai.mission_problems v
                        WHERE v.user_id = x.user_id AND v.mission_id = x.mission_id
                       OFFSET 0) p  -- one suspect after the other
   ORDER BY p.since DESC NULLS LAST LIMIT 50)
SELECT jsonb_build_object(
  'now', clock_timestamp(),
  'database', current_database(),
  'worker', (SELECT to_jsonb(w) FROM (
      SELECT s.library_version AS version, s.worker_state AS state, s.worker_since AS since,
             s.worker_problem AS problem, s.last_tick_at AS "lastTickAt",
             s.due_mission_count AS "lastTickDue", s.plans_written_back AS "lastTickPlans",
             s.next_due AS "nextDue", s.dirty_records AS "dirtyRecords",
             s.trigger_errors AS "triggerErrors", s.in_flight AS "inFlight"
        FROM mana_ai.status() s) w),
  'running', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', r.user_id, 'missionId', r.mission_id,
      'title', mana_ai.readable_text(m.record, 'title'),
      'agent', mana_ai.readable_text(a.record, 'name'), 'agentId', r.agent_id,
      'startedAt', r.started_at, 'tokens', r.total_tokens) ORDER BY r.started_at), '[]')
      FROM running r LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
      LEFT JOIN mana_ai.agent_snapshots a ON a.user_id = r.user_id AND a.agent_id = r.agent_id),
  'due', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', d.user_id, 'missionId', d.mission_id,
      'title', mana_ai.readable_text(m.record, 'title'),
      'agent', mana_ai.readable_text(a.record, 'name'), 'agentId', d.agent_id,
      'at', d.wake_at, 'why', left(mana_ai.why(d.user_id, d.mission_id), 500)) ORDER BY d.wake_at), '[]')
      FROM due d LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
      LEFT JOIN mana_ai.agent_snapshots a ON a.user_id = d.user_id AND a.agent_id = d.agent_id),
  'runs', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', r.user_id, 'missionId', r.mission_id,
      'title', mana_ai.readable_text(m.record, 'title'),
      'agent', mana_ai.readable_text(a.record, 'name'), 'agentId', r.agent_id,
      'startedAt', r.started_at, 'finishedAt', r.finished_at, 'outcome', r.outcome,
      'decision', r.decision, 'errorKind', r.error_kind, 'rounds', r.rounds, 'steps', r.steps,
      'promptTokens', r.prompt_tokens, 'completionTokens', r.completion_tokens,
      'tokens', r.total_tokens, 'model', r.model) ORDER BY r.started_at DESC), '[]')
      FROM last_runs r LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
      LEFT JOIN mana_ai.agent_snapshots a ON a.user_id = r.user_id AND a.agent_id = r.agent_id),
  'agents', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', a.user_id, 'agentId', a.agent_id,
      'name', mana_ai.readable_text(a.record, 'name'), 'state', mana_ai.readable_text(a.record, 'state'),
      'tokens', a.tokens, 'budget', a.budget) ORDER BY a.tokens DESC), '[]') FROM agents a),
  'research', mana_ai.research_under_way(),
  'problems', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', p.user_id, 'missionId', p.mission_id,
      'title', mana_ai.readable_text(m.record, 'title'), 'problem', left(p.problem, 500),
      'since', p.since, 'why', left(mana_ai.why(p.user_id, p.mission_id), 500))
      ORDER BY p.since DESC, p.mission_id, p.problem), '[]')
      FROM problems p LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)))
$$;

-- Places for background processes, of which the server has max_worker_processes for all that run in it: how
-- many this server's processes of ours take, with one for a tick by hand, and how many are free now.
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
REVOKE ALL ON FUNCTION mana_ai.worker_slots() FROM PUBLIC;

-- Whether no grant of the user has opened anything lately: of their last attempts, a hundred at most, each failed
-- for its key. So it is with clients that encrypt with a key of the user's that no grant carries.
CREATE FUNCTION mana_ai.grants_open_nothing(of_user text)
RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(bool_and(a.status = 'failed' AND a.reason = 'ciphertext-tampered-or-wrong-key'), false)
    FROM (SELECT d.status, d.reason FROM mana_ai.decrypt_audit d
           WHERE d.user_id = of_user AND d.status <> 'scope-violation' ORDER BY d.id DESC LIMIT 100) a
$$;

-- How many users that is, of those whose attempts are among the last thousand.
CREATE FUNCTION mana_ai.users_without_opens()
RETURNS int LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*)::int
    FROM (SELECT DISTINCT a.user_id
            FROM (SELECT d.user_id FROM mana_ai.decrypt_audit d ORDER BY d.ts DESC LIMIT 1000) a) u
   WHERE mana_ai.grants_open_nothing(u.user_id)
$$;

REVOKE ALL ON FUNCTION mana_ai.grants_open_nothing(text), mana_ai.users_without_opens() FROM PUBLIC;

DROP FUNCTION mana_ai.status();
CREATE FUNCTION mana_ai.status(
  OUT library_version text, OUT extension_version text, OUT preloaded boolean, OUT worker_pid int,
  OUT worker_state text, OUT worker_since timestamptz, OUT worker_problem text, OUT in_flight int,
  OUT last_tick_at timestamptz, OUT last_tick_finished timestamptz, OUT last_tick_by text,
  OUT due_mission_count int, OUT plans_produced int, OUT plans_written_back int,
  OUT parse_failures int, OUT skipped int, OUT errors text[], OUT next_due timestamptz,
  OUT dirty_records bigint, OUT trigger_errors bigint, OUT sync_table text, OUT grant_key text,
  OUT research_jobs int, OUT unmarked_changes bigint, OUT worker_slots_needed int, OUT worker_slots_free int,
  OUT users_without_opens int)
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
         mana_ai.unmarked_changes(), p.needed, p.free, mana_ai.users_without_opens()
    FROM mana_ai.worker_status() w CROSS JOIN mana_ai.worker_slots() p LEFT JOIN mana_ai.engine_state e ON true
$$;
COMMENT ON FUNCTION mana_ai.status() IS
  'is the worker alive, what is it doing, how did the last tick end, what is next';
REVOKE ALL ON FUNCTION mana_ai.status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mana_ai.status() TO pg_monitor;

CREATE OR REPLACE FUNCTION mana_ai.why(user_id text, mission_id text)
RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  m       mana_ai.mission_snapshots%ROWTYPE;
  s       mana_ai.mission_schedule%ROWTYPE;
  a       jsonb;
  j       mana_ai.mission_research_jobs%ROWTYPE;
  running int;
  tokens  bigint;
  gate    text;
  name    text;
  remark  text := '';
  hold    text;
  deleted boolean;
  in_doubt boolean;
BEGIN
  SELECT * INTO m FROM mana_ai.mission_snapshots x
   WHERE x.user_id = why.user_id AND x.mission_id = why.mission_id;
  IF NOT FOUND THEN
    IF EXISTS (SELECT FROM mana_ai.record_tombstones t
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
    RETURN 'no such mission';
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
  IF s.due_at IS NULL THEN
    RETURN CASE
      WHEN coalesce(m.record -> 'title', '""') IN ('""', 'null', 'false', '0')
           AND coalesce(m.record -> 'objective', '""') IN ('""', 'null', 'false', '0') THEN
        'not scheduled: the record has neither title nor objective'
      WHEN coalesce(jsonb_typeof(m.record -> 'nextRunAt'), 'null') = 'null' THEN
        'not scheduled: nextRunAt is not set'
      ELSE 'not scheduled: nextRunAt is not an instant' END;
  ELSIF s.due_at > clock_timestamp() THEN
    RETURN format('not due until %s%s', s.due_at, remark);
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
   WHERE u.user_id = why.user_id AND u.agent_id = s.agent_id
     AND u.ts > clock_timestamp() - interval '24 hours';
  SELECT * INTO j FROM mana_ai.mission_research_jobs x
   WHERE x.user_id = why.user_id AND x.mission_id = why.mission_id;
  gate := mana_ai.gate_decision(CASE WHEN deleted THEN jsonb_set(m.record, '{agentId}', 'null') ELSE m.record END, a,
                                running, tokens, j.state = 'waiting', m.clocks);
  -- A name that was encrypted on the user's device tells nobody anything.
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
    WHEN 'skipped-budget' THEN
      RETURN format('agent %s has used %s of %s tokens in the last 24 hours', name, tokens,
                    left(a ->> 'maxTokensPerDay', 40));
    WHEN 'skipped-encrypted' THEN
      RETURN 'title, objective or concept is encrypted and no grant opens it';
    WHEN 'skipped-unreviewed' THEN
      RETURN format('%s or more iterations wait for a device of the user to carry them out',
                    current_setting('mana_ai.max_unreviewed'));
    WHEN 'skipped-browser-run' THEN
      RETURN format('a browser of the user runs the mission itself; held back until %s, or until that run ends',
                    timestamptz 'epoch' + ((mana_ai.planning_record(m.record, m.clocks)::jsonb
                                            ->> 'browserRunUntil')::bigint) * interval '1 microsecond');
    WHEN 'skipped-research' THEN
      RETURN format('waiting for research since %s, %s', coalesce(j.submitted_at, j.requested_at),
                    coalesce('last asked ' || j.last_polled_at, 'not asked yet'));
    ELSE NULL;
  END CASE;
  IF s.attempts > 0 AND s.not_before > clock_timestamp() THEN
    RETURN format('backing off until %s after %s %s: %s', s.not_before, s.attempts,
                  CASE s.attempts WHEN 1 THEN 'failure' ELSE 'failures' END,
                  coalesce(s.error_kind, 'crashed'));
  ELSIF s.not_before > clock_timestamp() AND s.decision = 'skipped-encrypted' THEN
    RETURN format('title, objective or concept is encrypted and the grant does not open it: %s%s',
                  coalesce(s.error_kind, 'unknown'), remark);
  ELSIF s.not_before > clock_timestamp() THEN
    RETURN format('waiting until %s after decision %s', s.not_before, s.decision);
  END IF;
  RETURN coalesce(mana_ai.worker_problem(), 'due: the worker takes it up as soon as it has room');
END $$;

-- ---------------------------------------------------------------- shared spaces
ALTER TABLE mana_ai.record_tombstones ADD COLUMN space_id text;
ALTER TABLE mana_ai.record_tombstones ADD COLUMN was_whole boolean;
CREATE INDEX record_tombstones_shared ON mana_ai.record_tombstones (record_id) WHERE space_id IS NOT NULL;
CREATE INDEX mission_snapshots_shared ON mana_ai.mission_snapshots (mission_id) WHERE space_id IS NOT NULL;
CREATE INDEX agent_snapshots_shared ON mana_ai.agent_snapshots (agent_id) WHERE space_id IS NOT NULL;

-- What another member of the mission's space has made of it, if that came later than what its owner says: its state, or
-- 'deleted'. Null: nothing that holds it back. Of other members' rows nothing else counts, so none of them can make a
-- mission run, read or cost more than its owner wants (docs/contract/data.md, Shared spaces).
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

-- An agent that the user has no whole record of: another member's of the same space, or that it was deleted. Whole is
-- what has a name; the rest are fragments that edits have made, of which only that they pause the agent counts. Anybody
-- can claim to be of a space. So of a foreign agent only its name, role, state, policy and limits are taken, never
-- systemPrompt and memory; of two whole ones none, since one of them may be a stranger's (is_ambiguous); and that
-- somebody has deleted the agent counts only if they had a whole one (docs/contract/data.md, Shared spaces).
CREATE FUNCTION mana_ai.shared_agent(
  user_id text, agent_id text, space_id text,
  OUT record jsonb, OUT version bigint, OUT updated_at timestamptz, OUT is_deleted boolean, OUT is_ambiguous boolean)
RETURNS SETOF record LANGUAGE sql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp AS $$
  WITH shared AS MATERIALIZED (
    SELECT x.user_id AS owner, x.record, x.version, x.updated_at,
           mana_ai.newest_clock(x.record, x.clocks, ARRAY['state']) AS at
      FROM mana_ai.agent_snapshots x
     WHERE $3 NOT LIKE '\_personal:%' AND x.agent_id = $2 AND x.space_id = $3
       AND mana_ai.raw_size(x.record, x.clocks) <= pg_size_bytes(current_setting('mana_ai.max_record_size'))),
  whole AS (SELECT * FROM shared WHERE owner <> $1 AND jsonb_typeof(shared.record -> 'name') = 'string'),
  -- One that is too large to be read may be whole.
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
         k.agents > 1
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

REVOKE ALL ON FUNCTION mana_ai.member_hold(text, text, text, jsonb, bytea), mana_ai.shared_agent(text, text, text),
  mana_ai.agent_of_mission(text, text, text) FROM PUBLIC;

-- Fragments that other members' edits have made are no missions.
UPDATE mana_ai.mission_schedule s SET due_at = NULL, wake_at = NULL, not_before = NULL
  FROM mana_ai.mission_snapshots m
 WHERE m.user_id = s.user_id AND m.mission_id = s.mission_id AND s.due_at IS NOT NULL AND s.lease_owner IS NULL
   AND coalesce(m.record -> 'title', '""') IN ('""', 'null', 'false', '0')
   AND coalesce(m.record -> 'objective', '""') IN ('""', 'null', 'false', '0');

-- ---------------------------------------------------------------- writes to parts of a value
-- Snapshots of version 0.1.0 show them as fields. They are made anew, from what they hold and the log.
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
SELECT user_id, table_name, record_id, 'made by version 0.1.0'
  FROM (SELECT user_id, 'aiMissions' AS table_name, mission_id AS record_id, record FROM mana_ai.mission_snapshots
        UNION ALL
        SELECT user_id, 'agents', agent_id, record FROM mana_ai.agent_snapshots) s
 WHERE EXISTS (SELECT FROM pg_catalog.jsonb_object_keys(record) AS k WHERE pg_catalog.strpos(k, '.') > 0);

-- ---------------------------------------------------------------- processes and crashes
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
REVOKE ALL ON FUNCTION mana_ai.safe_mode(), mana_ai.resume_after_crash() FROM PUBLIC;

CREATE OR REPLACE FUNCTION mana_ai.worker_problem()
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
    -- Which of the two is the older one tells what to do.
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
  -- Whoever asks for the state must not wait for the end of a VACUUM FULL.
  BEGIN
    RETURN mana_ai.sync_table_problem();
  EXCEPTION WHEN lock_not_available THEN
    RETURN format('table %s is locked by another session', mana_ai.attached_table());
  END;
END $$;

-- ---------------------------------------------------------------- inputs, resolvers, endpoint

-- ---------------------------------------------------------------- the endpoint
-- One user's missions as the engine sees them, for whoever looks after the service.
CREATE FUNCTION mana_ai.http_missions(of_user text)
RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
WITH found AS (
  SELECT m.* FROM mana_ai.mission_snapshots m WHERE m.user_id = of_user ORDER BY m.mission_id LIMIT 101),
shown AS (
  SELECT x.*, s.agent_id, s.due_at, s.not_before, s.attempts, s.decision, s.held_since, s.error_kind, s.told,
         s.lease_owner IS NOT NULL AND s.wake_at > clock_timestamp() AS running
    FROM found x LEFT JOIN mana_ai.mission_schedule s USING (user_id, mission_id)
   ORDER BY x.mission_id LIMIT 100)
SELECT jsonb_build_object('truncated', (SELECT count(*) > 100 FROM found), 'missions', coalesce(jsonb_agg(
         jsonb_build_object(
           'id', m.mission_id, 'spaceId', m.space_id, 'title', mana_ai.readable_text(m.record, 'title'),
           'state', mana_ai.readable_text(m.record, 'state'), 'agentId', m.agent_id, 'dueAt', m.due_at,
           'notBefore', m.not_before, 'running', coalesce(m.running, false), 'attempts', m.attempts,
           'decision', m.decision, 'heldSince', m.held_since, 'errorKind', m.error_kind, 'told', m.told,
           'why', left(mana_ai.why(m.user_id, m.mission_id), 500),
           'problems', (SELECT coalesce(jsonb_agg(left(p.problem, 500) ORDER BY p.problem), '[]')
                          FROM mana_ai.mission_problems p
                         WHERE p.user_id = m.user_id AND p.mission_id = m.mission_id),
           'lastRun', (SELECT jsonb_build_object(
                         'id', r.run_id, 'startedAt', r.started_at, 'finishedAt', r.finished_at,
                         'outcome', r.outcome, 'decision', r.decision, 'errorKind', r.error_kind,
                         'iterationId', r.iteration_id, 'tokens', r.total_tokens)
                         FROM mana_ai.runs r
                        WHERE r.user_id = m.user_id AND r.mission_id = m.mission_id
                        ORDER BY r.started_at DESC LIMIT 1))
         ORDER BY m.mission_id), '[]'))
  FROM shown m
$$;
REVOKE ALL ON FUNCTION mana_ai.http_missions(text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION mana_ai.http_audit(of_user text, of_mission text, max_rows int)
RETURNS jsonb LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  answer jsonb;
BEGIN
  PERFORM set_config('app.current_user_id', of_user, true);
  SELECT jsonb_build_object('rows', coalesce(jsonb_agg(jsonb_build_object(
           'id', r.id::text, 'missionId', r.mission_id, 'iterationId', r.iteration_id,
           'tableName', r.table_name, 'recordId', r.record_id, 'status', r.status,
           'reason', r.reason,
           'ts', to_char(r.ts AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
           ORDER BY r.ts DESC, r.id DESC), '[]'))
    INTO answer
    FROM mana_ai.read_decrypt_audit(of_mission, max_rows) r;
  RETURN answer;
END $$;
