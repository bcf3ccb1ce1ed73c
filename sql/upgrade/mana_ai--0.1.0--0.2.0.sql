\echo Use "ALTER EXTENSION mana_ai UPDATE TO '0.2.0'" to load this file. \quit

-- The result is what a fresh installation of 0.2.0 has; test/tap/023_upgrade.pl compares the two.

-- ---------------------------------------------------------------- the log: attach, fold, refresh
ALTER TABLE mana_ai.folded_log ADD COLUMN generation oid;

COMMENT ON FUNCTION mana_ai.refresh_snapshots() IS
  'adds what the log says to the snapshots and repairs dirty records; takes nothing away';

-- A function of its own, so that who may refresh may not also forget.
CREATE FUNCTION mana_ai.refresh_snapshots(
  rebuild boolean, OUT new_snapshots int, OUT updated_snapshots int, OUT rows_applied bigint)
RETURNS record LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_refresh_snapshots';
COMMENT ON FUNCTION mana_ai.refresh_snapshots(boolean) IS
  'with true: makes all snapshots anew from the log, and forgets what the log does not say any more';
REVOKE ALL ON FUNCTION mana_ai.refresh_snapshots(boolean) FROM PUBLIC;

-- ---------------------------------------------------------------- the trigger, marks and our tables

-- ---------------------------------------------------------------- runs, status and problems
ALTER TABLE mana_ai.mission_snapshots ADD COLUMN problems text[];
ALTER TABLE mana_ai.mission_schedule ADD COLUMN problem text;
UPDATE mana_ai.mission_snapshots SET problems = mana_ai.record_problems(record)
 WHERE cardinality(mana_ai.record_problems(record)) > 0;
UPDATE mana_ai.mission_schedule
   SET problem = CASE WHEN decision IN ('skipped-encrypted', 'skipped-unreviewed', 'skipped-agent-missing') THEN decision
                      ELSE 'failed' END
 WHERE attempts > 0 OR decision IN ('skipped-encrypted', 'skipped-unreviewed', 'skipped-agent-missing');
CREATE INDEX mission_snapshots_problems ON mana_ai.mission_snapshots (user_id, mission_id)
 WHERE problems IS NOT NULL;
CREATE INDEX mission_schedule_problem ON mana_ai.mission_schedule (decided_at) WHERE problem IS NOT NULL;

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
SELECT s.user_id, s.mission_id, s.decision, s.decided_at
  FROM mana_ai.mission_schedule s
 WHERE s.problem IS NOT NULL AND s.problem = s.decision AND s.not_before IS NOT NULL AND s.due_at IS NOT NULL
UNION ALL
SELECT d.user_id, d.record_id, 'the snapshot waits for repair: ' || d.reason, min(d.ts)
  FROM mana_ai.dirty_records d
 WHERE d.table_name = 'aiMissions'
 GROUP BY d.user_id, d.record_id, d.reason;

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

-- ---------------------------------------------------------------- processes and crashes
CREATE OR REPLACE FUNCTION mana_ai.worker_problem()
RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  w record;
BEGIN
  IF pg_is_in_recovery() THEN
    RETURN 'this server is a standby; the worker starts when it is promoted';
  END IF;
  SELECT * INTO w FROM mana_ai.worker_status();
  IF NOT w.preloaded THEN
    RETURN 'worker is not running: mana_ai is not in shared_preload_libraries';
  ELSIF w.worker_pid IS NULL AND NOT current_database() = ANY (
      SELECT btrim(d, ' "') FROM unnest(string_to_array(current_setting('mana_ai.database'), ',')) d) THEN
    RETURN format('worker is not running: mana_ai.database does not name %s', current_database());
  ELSIF w.worker_pid IS NULL THEN
    RETURN 'worker is not running';
  ELSIF w.worker_state = 'wrong version' THEN
    RETURN format('worker waits: the server has loaded version %s of the library and must be restarted',
                  w.library_version);
  ELSIF NOT current_setting('mana_ai.tick_enabled')::boolean THEN
    RETURN 'worker is paused: mana_ai.tick_enabled is off';
  ELSIF EXISTS (SELECT FROM pg_stat_activity a
                 WHERE a.pid = w.worker_pid AND a.wait_event = 'SyncRep'
                   AND a.query_start < clock_timestamp() - interval '2 seconds') THEN
    RETURN 'worker waits for a synchronous standby (synchronous_standby_names)';
  END IF;
  RETURN NULL;
END $$;

-- ---------------------------------------------------------------- inputs, resolvers, endpoint
