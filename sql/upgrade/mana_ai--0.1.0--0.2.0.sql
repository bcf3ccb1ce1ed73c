\echo Use "ALTER EXTENSION mana_ai UPDATE TO '0.2.0'" to load this file. \quit

-- The result is what a fresh installation of 0.2.0 has; test/tap/023_upgrade.pl compares the two.

-- ---------------------------------------------------------------- the log: attach, fold, refresh
ALTER TABLE mana_ai.folded_log ADD COLUMN generation oid;

COMMENT ON FUNCTION mana_ai.refresh_snapshots() IS
  'adds what the log says to the snapshots and repairs dirty records; takes nothing away';

ALTER FUNCTION mana_ai.refresh_snapshots() SET session_replication_role = origin;
ALTER FUNCTION mana_ai.attach(regclass) SET session_replication_role = origin;
ALTER FUNCTION mana_ai.detach() SET session_replication_role = origin;

-- A separate function, so that the privilege to refresh does not include forgetting.
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

-- The iterations that missions had when their runs began. A device may write an old copy during the run, and the log may
-- have lost the rows with the others. Rows are deleted with the end of their run.
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

-- ---------------------------------------------------------------- the brake
CREATE TABLE mana_ai.stops (
  scope      text        COLLATE "C" NOT NULL CHECK (scope ~ '^(all|(user|agent|model|tool):.+)$'),
  reason     text        NOT NULL CHECK (btrim(reason) <> ''),
  stopped_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  stopped_by text        NOT NULL DEFAULT session_user,
  resumed_at timestamptz,
  resumed_by text,
  PRIMARY KEY (scope, stopped_at),
  CHECK ((resumed_at IS NULL) = (resumed_by IS NULL))
);
CREATE UNIQUE INDEX stops_in_force ON mana_ai.stops (scope) WHERE resumed_at IS NULL;
COMMENT ON TABLE mana_ai.stops IS 'what stop() has stopped; in force while resumed_at is null';
SELECT pg_catalog.pg_extension_config_dump('mana_ai.stops', '');

-- Wakes the worker when the transaction commits.
CREATE FUNCTION mana_ai.wake_worker()
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_wake_worker';

-- The models that plan, the preferred one first.
CREATE FUNCTION mana_ai.planner_models()
RETURNS text[] LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT array_agg(btrim(m.name) ORDER BY m.place)
    FROM unnest(string_to_array(current_setting('mana_ai.planner_model'), ',')) WITH ORDINALITY AS m(name, place)
$$;

-- The stop for missions of this user and agent; the widest of several. Without a user: a stop of all planning.
CREATE FUNCTION mana_ai.stop_in_force(user_id text DEFAULT NULL, agent_id text DEFAULT NULL)
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('%s stopped by %s since %s: %s',
                CASE WHEN t.scope = 'all' THEN 'all planning was' ELSE t.scope || ' was' END,
                t.stopped_by, t.stopped_at, t.reason)
    FROM mana_ai.stops t
   WHERE t.resumed_at IS NULL
     AND (t.scope IN ('all', 'user:' || $1, 'agent:' || $2)
          -- As long as one of them is left, it plans.
          OR (t.scope = 'model:' || (mana_ai.planner_models())[1]
              AND NOT EXISTS (SELECT FROM unnest(mana_ai.planner_models()) AS p(name)
                               WHERE NOT EXISTS (SELECT FROM mana_ai.stops x
                                                  WHERE x.scope = 'model:' || p.name AND x.resumed_at IS NULL))))
   ORDER BY t.scope <> 'all', t.stopped_at LIMIT 1
$$;

CREATE FUNCTION mana_ai.stop(scope text, reason text)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  kind    text := split_part(stop.scope, ':', 1);
  id      text := substr(stop.scope, length(split_part(stop.scope, ':', 1)) + 2);
  unknown boolean;
BEGIN
  IF stop.scope IS NULL OR stop.scope !~ '^(all|(user|agent|model|tool):.+)$' THEN
    RAISE EXCEPTION 'scope "%" is not valid', left(coalesce(stop.scope, ''), 200)
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Use all, user:ID, agent:ID, model:NAME or tool:NAME.';
  ELSIF coalesce(btrim(stop.reason), '') = '' THEN
    RAISE EXCEPTION 'a reason is required'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  INSERT INTO mana_ai.stops (scope, reason) VALUES (stop.scope, stop.reason)
      ON CONFLICT (scope) WHERE resumed_at IS NULL DO NOTHING;
  IF NOT FOUND THEN
    RAISE NOTICE '% is stopped already', stop.scope;
    RETURN;
  END IF;
  -- A mistyped id must not look like an effective stop.
  unknown := CASE kind
    WHEN 'user' THEN NOT EXISTS (SELECT FROM mana_ai.mission_schedule s WHERE s.user_id = id)
    WHEN 'agent' THEN NOT EXISTS (SELECT FROM mana_ai.mission_schedule s WHERE s.agent_id = id)
                      AND NOT EXISTS (SELECT FROM mana_ai.agent_snapshots a WHERE a.agent_id = id)
    WHEN 'model' THEN id <> ALL (mana_ai.planner_models() || current_setting('mana_ai.compact_model'))
    WHEN 'tool' THEN NOT EXISTS (SELECT FROM mana_ai.tools t WHERE t.name = id)
    ELSE false END;
  IF unknown THEN
    RAISE WARNING '% is not known here', stop.scope
      USING DETAIL = 'It is on record as stopped all the same.';
  END IF;
  PERFORM mana_ai.wake_worker();
END $$;
COMMENT ON FUNCTION mana_ai.stop(text, text) IS
  'stops planning at once: all, user:ID, agent:ID, model:NAME or tool:NAME; calls in flight are cancelled';

CREATE FUNCTION mana_ai.resume(scope text)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE mana_ai.stops t SET resumed_at = clock_timestamp(), resumed_by = session_user
   WHERE t.scope = resume.scope AND t.resumed_at IS NULL;
  IF NOT FOUND THEN
    RAISE EXCEPTION '"%" is not stopped', left(coalesce(resume.scope, ''), 200)
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'SELECT scope FROM mana_ai.stops WHERE resumed_at IS NULL says what is.';
  END IF;
  -- Missions that another stop concerns are held back again at their next check.
  UPDATE mana_ai.mission_schedule s SET not_before = NULL, wake_at = s.due_at
   WHERE s.decision = 'skipped-stopped' AND s.lease_owner IS NULL AND s.due_at IS NOT NULL;
  PERFORM mana_ai.wake_worker();
END $$;
COMMENT ON FUNCTION mana_ai.resume(text) IS 'ends what stop() with the same scope has begun';

REVOKE ALL ON mana_ai.stops FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.wake_worker(), mana_ai.stop_in_force(text, text), mana_ai.stop(text, text),
                       mana_ai.resume(text) FROM PUBLIC;
GRANT SELECT ON mana_ai.stops TO pg_monitor;

-- ---------------------------------------------------------------- runs, status and problems
ALTER TABLE mana_ai.mission_snapshots ADD COLUMN problems text[];
ALTER TABLE mana_ai.mission_research_jobs ADD COLUMN given_back int NOT NULL DEFAULT 0;
ALTER TABLE mana_ai.mission_schedule ADD COLUMN problem text;
-- What users are told of missions that do not run.
ALTER TABLE mana_ai.mission_schedule ADD COLUMN held_since timestamptz;
ALTER TABLE mana_ai.mission_schedule ADD COLUMN told text[];
ALTER TABLE mana_ai.mission_schedule ADD COLUMN check_iterations_at timestamptz;
ALTER TABLE mana_ai.mission_schedule ADD COLUMN cut_reply_length int;
ALTER TABLE mana_ai.mission_schedule ADD COLUMN cut_reply_at timestamptz;
ALTER TABLE mana_ai.mission_schedule ADD COLUMN woken_at timestamptz;
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

CREATE TABLE mana_ai.folded_leaves (
  leaf       oid PRIMARY KEY,
  trigger    oid NOT NULL,
  generation oid NOT NULL,
  folded_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.folded_leaves
  FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row();
ALTER TABLE mana_ai.folded_leaves ENABLE REPLICA TRIGGER mana_ai_drop_replicated;
REVOKE ALL ON mana_ai.folded_leaves FROM PUBLIC;

ALTER TABLE mana_ai.mission_snapshots SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE mana_ai.mission_schedule SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE mana_ai.runs SET (autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE mana_ai.fold_progress (
  leaf           oid PRIMARY KEY,
  trigger        oid NOT NULL,
  generation     oid NOT NULL,
  blocks         bigint NOT NULL,
  agents_until   bigint NOT NULL DEFAULT 0,
  missions_until bigint NOT NULL DEFAULT 0,
  holds_claims   text CHECK (holds_claims IN ('agents', 'end')),
  problem        text,
  began_at       timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.fold_progress
  FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row();
ALTER TABLE mana_ai.fold_progress ENABLE REPLICA TRIGGER mana_ai_drop_replicated;
REVOKE ALL ON mana_ai.fold_progress FROM PUBLIC;

DROP FUNCTION mana_ai.gate_decision(jsonb, jsonb, int, bigint, boolean);
CREATE FUNCTION mana_ai.gate_decision(
  mission jsonb, agent jsonb, agent_running int, agent_tokens_24h bigint,
  research_pending boolean DEFAULT false, clocks bytea DEFAULT NULL)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_gate_decision';

-- The uncompressed size of a value, determined without reading it.
CREATE FUNCTION mana_ai.raw_size(value jsonb)
RETURNS bigint LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_raw_size';

-- The larger of the two: clocks hold the writes that the record does not show.
CREATE FUNCTION mana_ai.raw_size(record jsonb, clocks bytea)
RETURNS bigint LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_raw_size';

-- The parts of a mission's and of an agent's record that planning reads, as JSON.
CREATE FUNCTION mana_ai.planning_record(record jsonb, clocks bytea)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_planning_record';

CREATE FUNCTION mana_ai.planning_agent(record jsonb, clocks bytea DEFAULT NULL)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_planning_agent';

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
REVOKE ALL ON FUNCTION mana_ai.folding() FROM PUBLIC;

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

CREATE OR REPLACE FUNCTION mana_ai.readable_text(record jsonb, field text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN mana_ai.raw_size(record) > 4194304 THEN ''
              WHEN record ->> field LIKE 'enc:1:%' THEN NULL
              ELSE left(coalesce(record ->> field, ''), 200) END
$$;

REVOKE ALL ON FUNCTION mana_ai.gate_decision(jsonb, jsonb, int, bigint, boolean, bytea), mana_ai.raw_size(jsonb),
  mana_ai.raw_size(jsonb, bytea),
  mana_ai.planning_record(jsonb, bytea), mana_ai.planning_agent(jsonb, bytea), mana_ai.attached_problem(),
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
-- The agents with the highest costs, more than are shown since some are archived or deleted; then the newest. On a day
-- with very many replies only the last ones are read to find them.
recent AS MATERIALIZED (
  SELECT u.user_id, u.agent_id, u.model, u.service_tier, u.currency, u.cost, u.tokens_used, u.prompt_tokens,
         u.cached_tokens, u.purpose
    FROM mana_ai.token_usage u
   WHERE u.ts > clock_timestamp() - interval '24 hours' ORDER BY u.ts DESC LIMIT 10000),
spenders AS (
  SELECT r.user_id, r.agent_id, x.tokens, x.cost
    FROM (SELECT user_id, agent_id FROM recent WHERE agent_id IS NOT NULL AND purpose <> 'what_if'
           GROUP BY user_id, agent_id ORDER BY sum(tokens_used) DESC LIMIT 100) r
   CROSS JOIN LATERAL (
         SELECT sum(c.tokens)::bigint AS tokens,
                jsonb_agg(jsonb_build_object('currency', c.currency, 'cost', c.cost, 'tokens', c.tokens)
                          ORDER BY c.currency) AS cost
           FROM (SELECT u.currency, round(sum(u.cost), 6) AS cost, sum(u.tokens_used) AS tokens
                   FROM mana_ai.token_usage u
                  WHERE u.user_id = r.user_id AND u.agent_id = r.agent_id AND u.purpose <> 'what_if'
                    AND u.ts > clock_timestamp() - interval '24 hours'
                  GROUP BY u.currency) c) x),
paid_models AS (
  SELECT p.model, p.service_tier, p.currency, count(*) AS replies, sum(p.tokens_used) AS tokens,
         sum(p.prompt_tokens) AS prompt_tokens, sum(p.cached_tokens) AS cached_tokens, round(sum(p.cost), 6) AS cost
    FROM recent p GROUP BY p.model, p.service_tier, p.currency
   ORDER BY sum(p.cost) DESC NULLS FIRST, sum(p.tokens_used) DESC LIMIT 50),
paying_users AS (
  SELECT p.user_id, p.currency, count(*) AS replies, sum(p.tokens_used) AS tokens, round(sum(p.cost), 6) AS cost
    FROM recent p WHERE p.purpose <> 'what_if' GROUP BY p.user_id, p.currency
   ORDER BY sum(p.cost) DESC NULLS LAST, sum(p.tokens_used) DESC LIMIT 20),
newest AS (
  SELECT a.user_id, a.agent_id, 0::bigint AS tokens, NULL::jsonb AS cost
    FROM (SELECT * FROM mana_ai.agent_snapshots ORDER BY updated_at DESC LIMIT 500) a
   WHERE a.record ->> 'state' IS DISTINCT FROM 'archived'
   ORDER BY a.updated_at DESC LIMIT 50),
agents AS (
  SELECT a.user_id, a.agent_id, a.record, c.tokens, c.cost,
         -- A JSON number may have thousands of digits.
         CASE WHEN jsonb_typeof(a.record -> 'maxTokensPerDay') = 'number'
              THEN trim_scale(trunc(least(greatest((a.record ->> 'maxTokensPerDay')::numeric, -1e18), 1e18), 3))
          END AS budget
    FROM (SELECT user_id, agent_id, max(tokens) AS tokens,
                 (array_agg(cost) FILTER (WHERE cost IS NOT NULL))[1] AS cost
            FROM (TABLE spenders UNION ALL TABLE newest) u GROUP BY user_id, agent_id) c
   CROSS JOIN LATERAL (SELECT x.* FROM mana_ai.agent_snapshots x
                        WHERE x.user_id = c.user_id AND x.agent_id = c.agent_id
                       OFFSET 0) a  -- one agent after the other
   WHERE a.record ->> 'state' IS DISTINCT FROM 'archived'
   ORDER BY c.tokens DESC, a.updated_at DESC LIMIT 50),
-- Only some if there are very many; the view has them all.
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
             s.trigger_errors AS "triggerErrors", s.in_flight AS "inFlight", s.folding
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
      'stale', mana_ai.stale_records(r.user_id, r.run_id),
      'promptTokens', r.prompt_tokens, 'completionTokens', r.completion_tokens,
      'tokens', r.total_tokens, 'cachedTokens', r.cached_tokens, 'model', r.model,
      'answeredBy', left(r.answered_by, 200),
      'cost', (SELECT jsonb_agg(jsonb_build_object('currency', c.currency, 'cost', round(c.cost, 6),
                                                   'tokens', c.tokens) ORDER BY c.currency)
                 FROM mana_ai.run_costs c WHERE c.run_id = r.run_id)) ORDER BY r.started_at DESC), '[]')
      FROM last_runs r LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
      LEFT JOIN mana_ai.agent_snapshots a ON a.user_id = r.user_id AND a.agent_id = r.agent_id),
  'agents', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', a.user_id, 'agentId', a.agent_id,
      'name', mana_ai.readable_text(a.record, 'name'), 'state', mana_ai.readable_text(a.record, 'state'),
      'tokens', a.tokens, 'budget', a.budget,
      'cost', a.cost) ORDER BY a.tokens DESC), '[]') FROM agents a),
  'costs', jsonb_build_object(
      'truncated', (SELECT count(*) >= 10000 FROM recent),
      'models', (SELECT coalesce(jsonb_agg(jsonb_build_object(
          'model', left(m.model, 200), 'tier', m.service_tier, 'currency', m.currency, 'cost', m.cost,
          'replies', m.replies, 'tokens', m.tokens, 'promptTokens', m.prompt_tokens,
          'cachedTokens', m.cached_tokens) ORDER BY m.cost DESC NULLS FIRST, m.tokens DESC), '[]')
          FROM paid_models m),
      'users', (SELECT coalesce(jsonb_agg(jsonb_build_object(
          'userId', u.user_id, 'currency', u.currency, 'cost', u.cost, 'replies', u.replies,
          'tokens', u.tokens) ORDER BY u.cost DESC NULLS LAST, u.tokens DESC), '[]')
          FROM paying_users u)),
  'research', mana_ai.research_under_way(),
  'services', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'service', v.service, 'name', v.name, 'state', v.state, 'since', v.since, 'callLimit', v.call_limit,
      'inFlight', v.in_flight, 'waiting', v.waiting, 'refused', v.refused, 'failed', v.failed,
      'nextTryAt', v.next_try_at) ORDER BY v.service, v.name), '[]')
      FROM mana_ai.services() v),
  'evaluations', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'model', left(e.model, 200), 'state', e.state, 'startedAt', e.started_at, 'runs', e.runs, 'asked', e.asked,
      'comparable', e.comparable, 'same', e.same, 'added', e.added, 'missing', e.missing,
      'accepted', e.accepted_steps, 'acceptedSame', e.accepted_same, 'acceptedSameTool', e.accepted_same_tool,
      'tokens', e.tokens_per_run, 'tokensThen', e.planned_tokens_per_run, 'cost', e.cost_per_run, 'currency', e.currency,
      'costThen', e.planned_cost_per_run, 'currencyThen', e.planned_currency) ORDER BY e.started_at DESC), '[]')
      FROM (SELECT x.evaluation_id FROM mana_ai.evaluations x ORDER BY x.started_at DESC LIMIT 10) n
     CROSS JOIN LATERAL (SELECT * FROM mana_ai.evaluation_report v WHERE v.evaluation_id = n.evaluation_id OFFSET 0) e),
  'stops', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'scope', left(t.scope, 200), 'reason', left(t.reason, 500), 'by', t.stopped_by, 'at', t.stopped_at)
      ORDER BY t.stopped_at), '[]')
      FROM (SELECT * FROM mana_ai.stops WHERE resumed_at IS NULL ORDER BY stopped_at LIMIT 50) t),
  'problems', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'userId', p.user_id, 'missionId', p.mission_id,
      'title', mana_ai.readable_text(m.record, 'title'), 'problem', left(p.problem, 500),
      'since', p.since, 'why', left(mana_ai.why(p.user_id, p.mission_id), 500))
      ORDER BY p.since DESC, p.mission_id, p.problem), '[]')
      FROM problems p LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)))
$$;

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
REVOKE ALL ON FUNCTION mana_ai.worker_slots() FROM PUBLIC;

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

-- ---------------------------------------------------------------- shared spaces
ALTER TABLE mana_ai.record_tombstones ADD COLUMN space_id text;
ALTER TABLE mana_ai.record_tombstones ADD COLUMN was_whole boolean;
CREATE INDEX record_tombstones_shared ON mana_ai.record_tombstones (record_id) WHERE space_id IS NOT NULL;
CREATE INDEX mission_snapshots_shared ON mana_ai.mission_snapshots (mission_id) WHERE space_id IS NOT NULL;
CREATE INDEX agent_snapshots_shared ON mana_ai.agent_snapshots (agent_id) WHERE space_id IS NOT NULL;

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

REVOKE ALL ON FUNCTION mana_ai.member_hold(text, text, text, jsonb, bytea), mana_ai.shared_agent(text, text, text),
  mana_ai.agent_of_mission(text, text, text), mana_ai.clocks_of_fields(jsonb, bytea, text[]) FROM PUBLIC;

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

-- ---------------------------------------------------------------- inputs, resolvers, endpoint

-- ---------------------------------------------------------------- the endpoint
-- One user's missions as the engine sees them, for operators.
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
           'decision', m.decision, 'heldSince', CASE WHEN m.decision <> 'ran' THEN m.held_since END,
           'errorKind', m.error_kind, 'told', m.told,
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

-- ---------------------------------------------------------------- tools as clients take them
-- Parameters may say from now on how large values are and what objects have. In 0.1.0 these members
-- meant nothing; where they have another shape they are taken out.
-- Whether the bounds and properties of a parameter are what the worker takes: of the right type, and
-- properties {name, type, ...} in their turn, each name once, four levels deep at the most.
CREATE FUNCTION mana_ai.bounds_fit(parameter jsonb, depth int DEFAULT 1)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  types    text[] := '{string,number,integer,boolean,object,array}';
  of_type  text := parameter->>'type';
  property jsonb;
BEGIN
  IF EXISTS (SELECT FROM jsonb_each(parameter) AS m
              WHERE m.key IN ('minimum', 'maximum', 'minLength', 'maxLength')
                AND (jsonb_typeof(m.value) <> 'number'
                     OR CASE WHEN m.key IN ('minimum', 'maximum') THEN of_type NOT IN ('number', 'integer')
                             ELSE of_type <> 'string' END)) THEN
    RETURN false;
  ELSIF EXISTS (SELECT FROM jsonb_each(parameter) AS m
                 WHERE m.key IN ('minLength', 'maxLength')
                   AND m.value::numeric NOT BETWEEN 0 AND 1000000000) THEN
    RETURN false;
  ELSIF NOT parameter ? 'properties' THEN
    RETURN true;
  ELSIF jsonb_typeof(parameter->'properties') <> 'array' OR depth >= 4
        OR NOT (of_type = 'object'
                OR of_type = 'array' AND coalesce(parameter->>'items', 'object') = 'object') THEN
    RETURN false;
  END IF;
  FOR property IN SELECT p FROM jsonb_array_elements(parameter->'properties') AS p LOOP
    IF jsonb_typeof(property) <> 'object'
       OR coalesce(jsonb_typeof(property->'name') <> 'string' OR property->>'name' !~ '^[A-Za-z0-9_-]{1,64}$', true)
       OR coalesce(jsonb_typeof(property->'type') <> 'string' OR property->>'type' <> ALL (types), true)
       OR jsonb_typeof(property->'required') <> 'boolean'
       OR property ? 'enum' AND (property->>'type' <> 'string' OR jsonb_typeof(property->'enum') <> 'array'
                                 OR property->'enum' = '[]' OR property @? 'strict $.enum[*].type() ? (@ != "string")')
       OR property ? 'items' AND (property->>'type' <> 'array' OR coalesce(property->>'items' <> ALL (types), true))
       OR NOT mana_ai.bounds_fit(property, depth + 1) THEN
      RETURN false;
    END IF;
  END LOOP;
  RETURN NOT EXISTS (SELECT FROM jsonb_array_elements(parameter->'properties') AS p
                      GROUP BY p->'name' HAVING count(*) > 1);
END
$$;
REVOKE ALL ON FUNCTION mana_ai.bounds_fit(jsonb, int) FROM PUBLIC;

UPDATE mana_ai.tools SET parameters = (
  SELECT jsonb_agg(CASE WHEN mana_ai.bounds_fit(p.parameter) THEN p.parameter
                        ELSE p.parameter - '{minimum,maximum,minLength,maxLength,properties}'::text[] END ORDER BY p.n)
    FROM jsonb_array_elements(parameters) WITH ORDINALITY AS p(parameter, n))
 WHERE EXISTS (SELECT FROM jsonb_array_elements(parameters) AS p(parameter) WHERE NOT mana_ai.bounds_fit(p.parameter));
CREATE OR REPLACE FUNCTION mana_ai.keep_tool_changes() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  misfits text[];
BEGIN
  IF TG_OP <> 'DELETE' THEN
    -- The table's CHECK refuses everything that is no array of objects, but cannot see this.
    IF jsonb_typeof(NEW.parameters) = 'array'
       AND EXISTS (SELECT FROM jsonb_array_elements(NEW.parameters) AS parameter
                    GROUP BY parameter->'name' HAVING count(*) > 1) THEN
      RAISE check_violation USING
        MESSAGE = format('tool "%s" has two parameters of the same name', NEW.name);
    END IF;
    -- Nor all of this.
    misfits := ARRAY(SELECT p.parameter->>'name'
                       FROM jsonb_array_elements(CASE WHEN jsonb_typeof(NEW.parameters) = 'array'
                                                      THEN NEW.parameters ELSE '[]' END)
                            WITH ORDINALITY AS p(parameter, n)
                      WHERE CASE WHEN jsonb_typeof(p.parameter) = 'object'
                                 THEN NOT mana_ai.bounds_fit(p.parameter) END
                      ORDER BY p.n);
    IF misfits <> '{}' AND TG_OP = 'UPDATE' THEN
      RAISE check_violation USING
        MESSAGE = format('bounds or properties of parameter "%s" of tool "%s" do not fit', misfits[1], NEW.name),
        CONSTRAINT = 'tools_parameters_check';
    ELSIF misfits <> '{}' THEN
      -- In a dump of version 0.1.0 they may have any shape: there they meant nothing.
      RAISE WARNING 'bounds and properties of parameters of tool "%" are left out, since they do not fit', NEW.name
        USING DETAIL = format('Parameters: %s.', array_to_string(misfits, ', '));
      NEW.parameters := (
        SELECT jsonb_agg(CASE WHEN p.parameter->>'name' = ANY (misfits)
                              THEN p.parameter - '{minimum,maximum,minLength,maxLength,properties}'::text[]
                              ELSE p.parameter END ORDER BY p.n)
          FROM jsonb_array_elements(NEW.parameters) WITH ORDINALITY AS p(parameter, n));
    END IF;
  END IF;

  IF TG_OP = 'INSERT' THEN
    UPDATE mana_ai.tools AS ours
       SET module = CASE WHEN NEW.module = NEW.shipped->>'module'
                         THEN ours.module ELSE NEW.module END,
           description = CASE WHEN NEW.description = NEW.shipped->>'description'
                              THEN ours.description ELSE NEW.description END,
           default_policy = CASE WHEN NEW.default_policy = NEW.shipped->>'default_policy'
                                 THEN ours.default_policy ELSE NEW.default_policy END,
           parameters = CASE WHEN NEW.parameters = NEW.shipped->'parameters'
                             THEN ours.parameters ELSE NEW.parameters END,
           enabled = NEW.enabled
     WHERE ours.name = NEW.name AND ours.shipped IS NOT NULL;
    IF FOUND THEN
      RETURN NULL;
    END IF;
    -- A dumped row of a tool that is no longer built in: the operator had changed it, so it stays.
    NEW.shipped := NULL;
    RETURN NEW;
  END IF;

  -- A built-in tool that is gone would come back with the next restore.
  IF OLD.shipped IS NOT NULL AND (TG_OP = 'DELETE' OR NEW.name <> OLD.name) THEN
    RAISE object_not_in_prerequisite_state USING
      MESSAGE = format('built-in tool "%s" cannot be deleted or renamed', OLD.name),
      HINT = 'Set "enabled" to false, and insert a tool of your own if you need another name.';
  END IF;
  RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;

ALTER TABLE mana_ai.tools DROP CONSTRAINT tools_parameters_check,
  ADD CONSTRAINT tools_parameters_check CHECK (
    CASE WHEN jsonb_typeof(parameters) = 'array' THEN
      NOT parameters @? '$[*].type() ? (@ != "object")'
      AND jsonb_array_length(parameters) = jsonb_array_length(jsonb_path_query_array(parameters, '
        $[*] ? (
          @.name.type() == "string" && @.name like_regex "^[A-Za-z0-9_-]{1,64}$"
          && (@."type" == "string" || @."type" == "number" || @."type" == "integer"
              || @."type" == "boolean" || @."type" == "object" || @."type" == "array")
          && @."type".type() == "string"
          && @.required.type() == "boolean"
          && @.description.type() == "string"
          && (!exists(@.enum)
              || (@."type" == "string" && @.enum.type() == "array" && @.enum.size() > 0
                  && !(@.enum[*].type() != "string")))
          && (!exists(@.items)
              || (@."type" == "array" && @.items.type() == "string"
                  && (@.items == "string" || @.items == "number" || @.items == "integer"
                      || @.items == "boolean" || @.items == "object" || @.items == "array")))
          && (!exists(@.minimum) || (@.minimum.type() == "number"
              && (@."type" == "number" || @."type" == "integer")))
          && (!exists(@.maximum) || (@.maximum.type() == "number"
              && (@."type" == "number" || @."type" == "integer")))
          && (!exists(@.minLength) || (@."type" == "string" && @.minLength.type() == "number"
              && @.minLength >= 0 && @.minLength <= 1000000000))
          && (!exists(@.maxLength) || (@."type" == "string" && @.maxLength.type() == "number"
              && @.maxLength >= 0 && @.maxLength <= 1000000000))
          && (!exists(@.properties) || (@.properties.type() == "array"
              && (@."type" == "object"
                  || (@."type" == "array" && (!exists(@.items) || @.items == "object")))
              && !exists(@.properties[*] ? (!(@.name.type() == "string"
                                              && @."type".type() == "string"))))))'))
    ELSE false END);
COMMENT ON COLUMN mana_ai.tools.parameters IS
  'array of {name, type, required, description, enum?, items?, properties?, minimum?, maximum?, minLength?, maxLength?}';

-- What an operator has changed stays, column by column.
WITH ours(name, module, default_policy, description, parameters) AS (VALUES
  ('create_task', 'todo', 'propose',
   'Aufgabe anlegen. Für alles, was der Mensch selbst erledigen soll; eine Aufgabe je Handlung.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Kurzer Titel, der die Handlung nennt"},
    {"name": "dueDate", "type": "string", "required": false, "description": "Fälligkeit als Tag ohne Uhrzeit, JJJJ-MM-TT, z. B. 2026-04-15; weglassen, wenn offen"},
    {"name": "priority", "type": "string", "required": false, "enum": ["low", "medium", "high"], "description": "Dringlichkeit; weglassen, wenn gewöhnlich"},
    {"name": "description", "type": "string", "required": false, "description": "Einzelheiten, die nicht in den Titel passen"}
  ]'),
  ('complete_tasks_by_title', 'todo', 'propose',
   'Aufgaben nach Titel als erledigt markieren. Trifft jede offene Aufgabe, deren Titel den Text enthält, und scheitert, wenn es keine gibt.',
   '[
    {"name": "titleMatch", "type": "string", "required": true, "description": "Teil des Titels, so eindeutig wie möglich; Groß- und Kleinschreibung ist gleich"}
  ]'),
  ('update_note', 'notes', 'propose',
   'Notiz überschreiben. Ersetzt die angegebenen Felder ganz, mindestens title oder content; zum Ergänzen append_to_note verwenden.',
   '[
    {"name": "noteId", "type": "string", "required": true, "description": "ID der Notiz"},
    {"name": "title", "type": "string", "required": false, "description": "Neuer Titel"},
    {"name": "content", "type": "string", "required": false, "description": "Neuer vollständiger Text in Markdown"}
  ]'),
  ('add_tag_to_note', 'notes', 'propose',
   'Notiz mit einem Schlagwort versehen. Es wird als #Schlagwort an den Text angehängt; steht es schon da, ändert sich nichts.',
   '[
    {"name": "noteId", "type": "string", "required": true, "description": "ID der Notiz"},
    {"name": "tag", "type": "string", "required": true, "description": "Schlagwort ohne #, am besten ein Wort; Leerzeichen werden zu _"}
  ]'),
  ('save_news_article', 'news', 'propose',
   'Nachrichtenartikel merken. Nur mit einer Adresse aus den Eingaben.',
   '[
    {"name": "url", "type": "string", "required": true, "description": "Vollständige Adresse, beginnt mit http:// oder https://"},
    {"name": "title", "type": "string", "required": false, "description": "Überschrift, nur zur Anzeige im Plan: gespeichert wird, was unter der Adresse steht"},
    {"name": "summary", "type": "string", "required": false, "description": "Warum sich das Lesen lohnt, nur zur Anzeige im Plan"}
  ]'),
  ('save_article', 'articles', 'propose',
   'Artikel zum Lesen speichern. Nur mit einer Adresse aus den Eingaben.',
   '[
    {"name": "url", "type": "string", "required": true, "description": "Vollständige Adresse, beginnt mit http:// oder https://"},
    {"name": "title", "type": "string", "required": false, "description": "Überschrift, nur zur Anzeige im Plan: gespeichert wird, was unter der Adresse steht"},
    {"name": "reason", "type": "string", "required": false, "description": "Warum sich das Lesen lohnt, ein Satz, nur zur Anzeige im Plan"}
  ]'),
  ('tag_article', 'articles', 'propose',
   'Artikel mit einem Schlagwort versehen. Ein fehlendes Schlagwort wird angelegt.',
   '[
    {"name": "articleId", "type": "string", "required": true, "description": "ID des Artikels"},
    {"name": "tagName", "type": "string", "required": true, "description": "Schlagwort ohne #, höchstens 60 Zeichen"}
  ]'),
  ('add_article_highlight', 'articles', 'propose',
   'Textstelle in einem Artikel markieren. Die Stelle muss wörtlich im Artikel stehen.',
   '[
    {"name": "articleId", "type": "string", "required": true, "description": "ID des Artikels"},
    {"name": "text", "type": "string", "required": true, "minLength": 10, "maxLength": 500, "description": "Wortlaut der Stelle, 10 bis 500 Zeichen"},
    {"name": "color", "type": "string", "required": false, "enum": ["yellow", "green", "blue", "pink"], "description": "Farbe der Markierung"},
    {"name": "note", "type": "string", "required": false, "description": "Anmerkung zur Stelle"}
  ]'),
  ('research_news', 'news-research', 'propose',
   'Nachrichten recherchieren. Die Suche läuft später auf dem Gerät; ihre Ergebnisse liegen hier nicht vor und werden nicht gespeichert.',
   '[
    {"name": "query", "type": "string", "required": true, "description": "Suchbegriffe, knapp und treffend"},
    {"name": "language", "type": "string", "required": false, "description": "Sprache der Quellen: de oder en"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Artikel, 1 bis 50; ohne Angabe 15"}
  ]'),
  ('create_habit', 'habits', 'propose',
   'Gewohnheit anlegen. Für etwas, das regelmäßig getan und abgehakt wird.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Name der Gewohnheit, kurz"},
    {"name": "icon", "type": "string", "required": true, "description": "Name eines Symbols, kein Emoji (das bliebe unsichtbar), z. B. star, heart, barbell, bicycle, person-simple-run, person-simple-walk, person-simple-tai-chi, coffee, drop, fork-knife, pill, bed, shower, book-open, brain, pencil-simple, notebook, music-note, palette, camera, leaf, sun, moon, clock, timer, target, flag, check-square"},
    {"name": "color", "type": "string", "required": true, "description": "Farbe als Hexwert, z. B. #22c55e"}
  ]'),
  ('log_habit', 'habits', 'propose',
   'Gewohnheit abhaken. Gilt für den Zeitpunkt der Ausführung; nur mit einer ID, die in den Eingaben steht.',
   '[
    {"name": "habitId", "type": "string", "required": true, "description": "ID der Gewohnheit"},
    {"name": "note", "type": "string", "required": false, "description": "Anmerkung zu heute"}
  ]'),
  ('create_goal', 'goals', 'propose',
   'Ziel anlegen. Entweder aus einer Vorlage, dann nur templateId, oder frei: dann sind title und eventType nötig, dazu targetValue und period.',
   '[
    {"name": "templateId", "type": "string", "required": false, "description": "Eine dieser Vorlagen; alles andere gilt dann nicht: tpl-water-daily (8 Gläser Wasser am Tag), tpl-tasks-daily (5 Aufgaben am Tag), tpl-meals-daily (3 Mahlzeiten am Tag erfassen), tpl-calories-daily (höchstens 2000 kcal am Tag), tpl-places-weekly (3 Orte in der Woche), tpl-coffee-limit (höchstens 3 Kaffee am Tag)"},
    {"name": "title", "type": "string", "required": false, "description": "Name des Ziels; ohne Vorlage nötig"},
    {"name": "description", "type": "string", "required": false, "description": "Worum es geht und warum"},
    {"name": "targetValue", "type": "number", "required": false, "description": "Zielwert je Zeitraum, größer als 0; ohne Angabe 1"},
    {"name": "period", "type": "string", "required": false, "enum": ["day", "week", "month"], "description": "Zeitraum, in dem gezählt wird; ohne Angabe day"},
    {"name": "comparison", "type": "string", "required": false, "enum": ["gte", "lte"], "description": "gte: mindestens den Zielwert erreichen; lte: höchstens; ohne Angabe gte"},
    {"name": "eventType", "type": "string", "required": false, "description": "Ereignis, das gezählt wird; ohne Vorlage nötig. Eines von: TaskCompleted, DrinkLogged, MealLogged, HabitLogged, WorkoutFinished, MeditationCompleted, SleepLogged, JournalEntryCreated, NoteCreated, PlaceVisited, TimerStopped, LibraryEntryCompleted"},
    {"name": "moduleId", "type": "string", "required": false, "description": "Modul, zu dem das Ziel gehört, z. B. todo, drink, food, body, habits; ohne Angabe general"}
  ]'),
  ('log_mood', 'mood', 'propose',
   'Stimmung eintragen. Nur, was der Mensch selbst gesagt hat.',
   '[
    {"name": "level", "type": "number", "required": true, "description": "Befinden als ganze Zahl von 1 (sehr schlecht) bis 10 (sehr gut)"},
    {"name": "emotion", "type": "string", "required": true, "enum": ["happy", "calm", "energized", "grateful", "excited", "loved", "hopeful", "neutral", "bored", "tired", "sad", "anxious", "angry", "stressed", "frustrated", "overwhelmed"], "description": "Vorherrschendes Gefühl"},
    {"name": "activity", "type": "string", "required": false, "enum": ["work", "exercise", "social", "alone", "commute", "eating", "resting", "creative", "outdoors", "screen", "chores", "other"], "description": "Was dabei getan wurde"},
    {"name": "notes", "type": "string", "required": false, "description": "Anmerkungen"}
  ]'),
  ('add_transaction', 'finance', 'propose',
   'Buchung eintragen. Eine Einnahme oder Ausgabe je Aufruf.',
   '[
    {"name": "type", "type": "string", "required": true, "enum": ["income", "expense"], "description": "income: Einnahme; expense: Ausgabe"},
    {"name": "amount", "type": "number", "required": true, "description": "Betrag in Euro, größer als 0, ohne Vorzeichen"},
    {"name": "description", "type": "string", "required": true, "description": "Wofür, in wenigen Worten"},
    {"name": "date", "type": "string", "required": false, "description": "Buchungstag, JJJJ-MM-TT; ohne Angabe heute"}
  ]'),
  ('stop_timer', 'times', 'propose',
   'Laufende Zeiterfassung beenden. Speichert die gemessene Zeit und scheitert, wenn keine läuft.',
   '[]'),
  ('suggest_event', 'events', 'propose',
   'Gefundene Veranstaltung übernehmen. Legt sie unter den eigenen Veranstaltungen an; nur eine, deren ID in den Eingaben steht.',
   '[
    {"name": "discovered_event_id", "type": "string", "required": true, "description": "ID der gefundenen Veranstaltung"},
    {"name": "reason", "type": "string", "required": false, "description": "Warum sie passt, ein Satz"}
  ]'),
  ('update_quiz', 'quiz', 'propose',
   'Quiz ändern. Nur die angegebenen Felder ändern sich, mindestens eines.',
   '[
    {"name": "quizId", "type": "string", "required": true, "description": "ID des Quiz"},
    {"name": "title", "type": "string", "required": false, "description": "Neuer Titel, nicht leer"},
    {"name": "description", "type": "string", "required": false, "description": "Neue Beschreibung; leerer Text löscht sie"},
    {"name": "category", "type": "string", "required": false, "description": "Neues Themengebiet; leerer Text löscht es"},
    {"name": "isPinned", "type": "boolean", "required": false, "description": "true heftet das Quiz an, false löst es"},
    {"name": "isArchived", "type": "boolean", "required": false, "description": "true archiviert das Quiz, false holt es zurück"}
  ]'),
  ('add_quiz_question', 'quiz', 'propose',
   'Quizfrage hinzufügen. Eine Frage je Aufruf, zu einem Quiz, das es schon gibt.',
   '[
    {"name": "quizId", "type": "string", "required": true, "description": "ID des Quiz"},
    {"name": "type", "type": "string", "required": true, "enum": ["single", "multi", "truefalse", "text"], "description": "single: eine richtige Antwort; multi: mehrere; truefalse: wahr oder falsch; text: freie Eingabe"},
    {"name": "questionText", "type": "string", "required": true, "description": "Wortlaut der Frage"},
    {"name": "optionsJson", "type": "string", "required": true, "description": "Antworten als Text, je nach type: bei single und multi ein JSON-Array mit mindestens zwei Objekten wie {\"text\": \"Bern\", \"correct\": true}, bei single genau eines mit correct true, bei multi mindestens eines; bei truefalse nur das Wort true oder false; bei text die erwartete Antwort als Klartext"},
    {"name": "explanation", "type": "string", "required": false, "description": "Erklärung, die nach der Antwort erscheint"}
  ]'),
  ('update_quiz_question', 'quiz', 'propose',
   'Quizfrage ändern. Nur die angegebenen Felder ändern sich, mindestens eines.',
   '[
    {"name": "questionId", "type": "string", "required": true, "description": "ID der Frage"},
    {"name": "questionText", "type": "string", "required": false, "description": "Neuer Wortlaut, nicht leer"},
    {"name": "type", "type": "string", "required": false, "enum": ["single", "multi", "truefalse", "text"], "description": "Neue Art, nur zusammen mit optionsJson; single: eine richtige Antwort; multi: mehrere; truefalse: wahr oder falsch; text: freie Eingabe"},
    {"name": "optionsJson", "type": "string", "required": false, "description": "Alle Antworten neu, als Text, je nach type: bei single und multi ein JSON-Array mit mindestens zwei Objekten wie {\"text\": \"Bern\", \"correct\": true}, bei single genau eines mit correct true, bei multi mindestens eines; bei truefalse nur das Wort true oder false; bei text die erwartete Antwort als Klartext"},
    {"name": "explanation", "type": "string", "required": false, "description": "Neue Erklärung; leerer Text löscht sie"}
  ]'),
  ('create_invoice', 'invoices', 'propose',
   'Rechnung entwerfen. Sie wird nicht verschickt; ihre Nummer bekommt sie von selbst.',
   '[
    {"name": "clientName", "type": "string", "required": true, "description": "Name der Kundschaft"},
    {"name": "clientEmail", "type": "string", "required": false, "description": "E-Mail-Adresse der Kundschaft"},
    {"name": "clientAddress", "type": "string", "required": false, "description": "Anschrift, Zeilen durch Umbruch getrennt"},
    {"name": "subject", "type": "string", "required": false, "description": "Betreff"},
    {"name": "currency", "type": "string", "required": false, "enum": ["CHF", "EUR", "USD"], "description": "Währung; ohne Angabe CHF"},
    {"name": "dueDate", "type": "string", "required": false, "description": "Zahlbar bis, JJJJ-MM-TT; ohne Angabe nach der eingestellten Frist, gewöhnlich 30 Tage"},
    {"name": "lines", "type": "array", "required": true, "properties": [{"name": "title", "type": "string", "required": true}, {"name": "quantity", "type": "number", "required": true}, {"name": "unitPrice", "type": "number", "required": true}, {"name": "unit", "type": "string"}, {"name": "vatRate", "type": "number"}, {"name": "description", "type": "string"}, {"name": "discount", "type": "number"}], "description": "Posten, mindestens einer, je ein Objekt {title, quantity, unitPrice, unit?, vatRate?, description?, discount?}. quantity und unitPrice sind Zahlen, unitPrice in ganzer Währung (150 heißt 150,00); unit z. B. Stunden; vatRate in Prozent, ohne Angabe 8.1 (Schweiz), in Deutschland meist 19. Posten ohne title, quantity oder unitPrice fallen weg"}
  ]'),
  ('mark_invoice_paid', 'invoices', 'propose',
   'Rechnung als bezahlt markieren. Nur, wenn die Zahlung belegt ist; wirkt nur bei verschickten und überfälligen Rechnungen, nicht bei Entwürfen.',
   '[
    {"name": "invoiceId", "type": "string", "required": true, "description": "ID der Rechnung"},
    {"name": "paidAt", "type": "string", "required": false, "description": "Tag der Zahlung, JJJJ-MM-TT; ohne Angabe heute"}
  ]'),
  ('create_library_entry', 'library', 'propose',
   'Titel in die Bibliothek aufnehmen. Ein Buch, Film, eine Serie oder ein Comic je Aufruf.',
   '[
    {"name": "kind", "type": "string", "required": true, "enum": ["book", "movie", "series", "comic"], "description": "Art des Werks"},
    {"name": "title", "type": "string", "required": true, "description": "Titel des Werks"},
    {"name": "creators", "type": "string", "required": false, "description": "Urheber, durch Komma getrennt"},
    {"name": "year", "type": "number", "required": false, "description": "Erscheinungsjahr, vierstellig"},
    {"name": "status", "type": "string", "required": false, "enum": ["planned", "active", "completed", "paused", "dropped"], "description": "planned: vorgemerkt; active: angefangen; completed: beendet; paused: unterbrochen; dropped: abgebrochen; ohne Angabe planned"},
    {"name": "rating", "type": "number", "required": false, "minimum": 1, "maximum": 5, "description": "Bewertung von 1 bis 5; weglassen, wenn keine bekannt ist"},
    {"name": "tags", "type": "string", "required": false, "description": "Schlagwörter, durch Komma getrennt"},
    {"name": "genres", "type": "string", "required": false, "description": "Genres, durch Komma getrennt"}
  ]'),
  ('rate_library_entry', 'library', 'propose',
   'Bibliothekstitel bewerten. Nur mit einer Bewertung, die der Mensch geäußert hat.',
   '[
    {"name": "entryId", "type": "string", "required": true, "description": "ID des Eintrags"},
    {"name": "rating", "type": "number", "required": true, "minimum": 1, "maximum": 5, "description": "Bewertung von 1 bis 5"}
  ]'),
  ('create_campaign_draft', 'broadcast', 'propose',
   'Newsletter entwerfen. Er wird nicht verschickt; die Empfänger wählt der Mensch.',
   '[
    {"name": "name", "type": "string", "required": true, "description": "Interner Name"},
    {"name": "subject", "type": "string", "required": true, "description": "Betreffzeile, am besten unter 60 Zeichen"},
    {"name": "preheader", "type": "string", "required": false, "description": "Vorschautext nach dem Betreff, ein Satz"},
    {"name": "htmlContent", "type": "string", "required": true, "description": "Inhalt als HTML, nur mit p, h1, h2, h3, ul, ol, li, a, strong, em und br"}
  ]'),
  ('create_website', 'website', 'propose',
   'Website anlegen. Mit leerer Startseite und nicht öffentlich; mit Inhalt beginnt apply_website_template. Ihre ID gibt es erst nach der Ausführung.',
   '[
    {"name": "name", "type": "string", "required": true, "description": "Name der Website"},
    {"name": "slug", "type": "string", "required": true, "maxLength": 40, "description": "Kurzname für die Adresse, 2 bis 40 Zeichen: Kleinbuchstaben, Ziffern und Bindestriche, am Anfang und Ende kein Bindestrich, noch nicht vergeben. Nicht erlaubt: app, api, auth, admin, settings, docs, blog, www, mail, dashboard, login, logout, register, signup, signin, account, billing, help, support, s"}
  ]'),
  ('apply_website_template', 'website', 'propose',
   'Website aus einer Vorlage anlegen. Nicht öffentlich, bis publish_website ausgeführt ist.',
   '[
    {"name": "templateId", "type": "string", "required": true, "enum": ["portfolio", "personal-linktree", "event", "blank"], "description": "Vorlage; blank ist die leere"},
    {"name": "name", "type": "string", "required": true, "description": "Name der Website"},
    {"name": "slug", "type": "string", "required": true, "maxLength": 40, "description": "Kurzname für die Adresse, 2 bis 40 Zeichen: Kleinbuchstaben, Ziffern und Bindestriche, am Anfang und Ende kein Bindestrich, noch nicht vergeben. Nicht erlaubt: app, api, auth, admin, settings, docs, blog, www, mail, dashboard, login, logout, register, signup, signin, account, billing, help, support, s"}
  ]'),
  ('create_website_page', 'website', 'propose',
   'Seite zu einer Website hinzufügen. Die Website muss es schon geben.',
   '[
    {"name": "siteId", "type": "string", "required": true, "description": "ID der Website"},
    {"name": "path", "type": "string", "required": true, "description": "Pfad, beginnt mit /, Teile aus Kleinbuchstaben, Ziffern und Bindestrichen, z. B. /kontakt oder /team/anna; / ist die Startseite, die es schon gibt"},
    {"name": "title", "type": "string", "required": true, "description": "Titel der Seite"}
  ]'),
  ('add_website_block', 'website', 'propose',
   'Block auf einer Website-Seite einfügen. Er kommt ans Ende der Seite oder des Fachs.',
   '[
    {"name": "pageId", "type": "string", "required": true, "description": "ID der Seite"},
    {"name": "type", "type": "string", "required": true, "enum": ["hero", "richText", "cta", "image", "gallery", "faq", "form", "moduleEmbed", "columns", "spacer"], "description": "Art des Blocks"},
    {"name": "props", "type": "object", "required": false, "properties": [{"name": "title", "type": "string"}, {"name": "subtitle", "type": "string"}, {"name": "eyebrow", "type": "string"}, {"name": "ctaLabel", "type": "string"}, {"name": "ctaHref", "type": "string"}, {"name": "content", "type": "string"}, {"name": "description", "type": "string"}, {"name": "buttonLabel", "type": "string"}, {"name": "buttonHref", "type": "string"}, {"name": "url", "type": "string"}, {"name": "altText", "type": "string"}, {"name": "caption", "type": "string"}, {"name": "images", "type": "array", "properties": [{"name": "url", "type": "string"}, {"name": "altText", "type": "string"}, {"name": "caption", "type": "string"}]}, {"name": "items", "type": "array", "properties": [{"name": "question", "type": "string"}, {"name": "answer", "type": "string"}]}, {"name": "fields", "type": "array", "properties": [{"name": "name", "type": "string"}, {"name": "label", "type": "string"}, {"name": "type", "type": "string"}, {"name": "required", "type": "boolean"}]}, {"name": "submitLabel", "type": "string"}, {"name": "source", "type": "string"}, {"name": "sourceId", "type": "string"}, {"name": "layout", "type": "string"}, {"name": "maxItems", "type": "number"}, {"name": "count", "type": "number"}, {"name": "size", "type": "string"}], "description": "Eigenschaften je nach type; ohne Angabe gilt ein Beispielinhalt, unbekannte fallen weg. hero: title (Pflicht, bis 240 Zeichen), subtitle, eyebrow, ctaLabel, ctaHref. richText: content (Klartext bis 10000 Zeichen, Absätze durch Leerzeilen getrennt, kein Markdown). cta: title, description, buttonLabel, buttonHref. image: url, altText, caption. gallery: title, images als [{url, altText, caption}]. faq: title, items als [{question, answer}]. form: title, description, fields als [{name, label, type, required}], mindestens eines, name aus Buchstaben, Ziffern und _, type text, email, tel, url, textarea oder number; submitLabel. moduleEmbed: source picture.board oder library.entries, sourceId, title, layout grid oder list, maxItems 1 bis 48. columns: count 2 oder 3. spacer: size sm, md, lg oder xl"},
    {"name": "parentBlockId", "type": "string", "required": false, "description": "ID des umgebenden Blocks, z. B. eines columns-Blocks"},
    {"name": "slotKey", "type": "string", "required": false, "description": "Fach im umgebenden Block, nur mit parentBlockId; in columns col-0, col-1 oder col-2"}
  ]'),
  ('update_website_block', 'website', 'propose',
   'Block einer Website ändern. Nur die angegebenen Eigenschaften ändern sich.',
   '[
    {"name": "blockId", "type": "string", "required": true, "description": "ID des Blocks"},
    {"name": "patch", "type": "object", "required": true, "properties": [{"name": "title", "type": "string"}, {"name": "subtitle", "type": "string"}, {"name": "eyebrow", "type": "string"}, {"name": "ctaLabel", "type": "string"}, {"name": "ctaHref", "type": "string"}, {"name": "content", "type": "string"}, {"name": "description", "type": "string"}, {"name": "buttonLabel", "type": "string"}, {"name": "buttonHref", "type": "string"}, {"name": "url", "type": "string"}, {"name": "altText", "type": "string"}, {"name": "caption", "type": "string"}, {"name": "images", "type": "array", "properties": [{"name": "url", "type": "string"}, {"name": "altText", "type": "string"}, {"name": "caption", "type": "string"}]}, {"name": "items", "type": "array", "properties": [{"name": "question", "type": "string"}, {"name": "answer", "type": "string"}]}, {"name": "fields", "type": "array", "properties": [{"name": "name", "type": "string"}, {"name": "label", "type": "string"}, {"name": "type", "type": "string"}, {"name": "required", "type": "boolean"}]}, {"name": "submitLabel", "type": "string"}, {"name": "source", "type": "string"}, {"name": "sourceId", "type": "string"}, {"name": "layout", "type": "string"}, {"name": "maxItems", "type": "number"}, {"name": "count", "type": "number"}, {"name": "size", "type": "string"}], "description": "Geänderte Eigenschaften als Objekt, mindestens eine; welche es je Art gibt, steht bei add_website_block. Listen wie items ersetzen die bisherigen ganz"}
  ]')
)
UPDATE mana_ai.tools t
   SET module = CASE WHEN t.module = t.shipped->>'module' THEN o.module ELSE t.module END,
       description = CASE WHEN t.description = t.shipped->>'description'
                          THEN o.description ELSE t.description END,
       default_policy = CASE WHEN t.default_policy = t.shipped->>'default_policy'
                             THEN o.default_policy ELSE t.default_policy END,
       parameters = CASE WHEN t.parameters = t.shipped->'parameters'
                         THEN o.parameters::jsonb ELSE t.parameters END,
       shipped = jsonb_build_object('module', o.module, 'description', o.description,
                                    'default_policy', o.default_policy,
                                    'parameters', o.parameters::jsonb)
  FROM ours o
 WHERE o.name = t.name AND t.shipped IS NOT NULL;

-- Clients of different age carry out different tools: what one does not know fails there as a step.
-- mana_ai.tools holds those of one catalog, '2026-04' unless another has been chosen; here are all.
CREATE TABLE mana_ai.tool_catalogs (
  name           text   NOT NULL,
  catalogs       text[] NOT NULL,
  module         text   NOT NULL,
  description    text   NOT NULL,
  default_policy text   NOT NULL,
  parameters     jsonb  NOT NULL,
  PRIMARY KEY (name, catalogs)
);
COMMENT ON TABLE mana_ai.tool_catalogs IS
  'the built-in tools of all catalogs that mana_ai.set_tool_catalog() knows; not to be changed';

-- No row: '2026-04'.
CREATE TABLE mana_ai.chosen_tool_catalog (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  catalog  text NOT NULL
);
COMMENT ON TABLE mana_ai.chosen_tool_catalog IS
  'the catalog that mana_ai.set_tool_catalog() has chosen; empty: 2026-04';

INSERT INTO mana_ai.tool_catalogs (name, catalogs, module, description, default_policy, parameters)
SELECT t.name,
       -- The newest client does not have these modules and tools any more, though its catalog
       -- still names some of them; create_goal counts other events there.
       CASE WHEN t.name IN ('create_place', 'visit_place', 'save_news_article', 'save_article',
                            'archive_article', 'tag_article', 'add_article_highlight',
                            'log_meal', 'nutrition_summary', 'create_goal')
            THEN '{2026-04}' ELSE '{2026-04,2026-05}' END::text[],
       t.shipped->>'module', t.shipped->>'description', t.shipped->>'default_policy',
       t.shipped->'parameters'
  FROM mana_ai.tools t WHERE t.shipped IS NOT NULL;

INSERT INTO mana_ai.tool_catalogs (name, catalogs, module, default_policy, description, parameters)
SELECT v.name, '{2026-05}', v.module, v.default_policy, v.description, v.parameters::jsonb
  FROM (VALUES
  ('create_goal', 'goals', 'propose',
   'Ziel anlegen. Entweder aus einer Vorlage, dann nur templateId, oder frei: dann sind title und eventType nötig, dazu targetValue und period.',
   '[
    {"name": "templateId", "type": "string", "required": false, "description": "Eine dieser Vorlagen; alles andere gilt dann nicht: tpl-water-daily (8 Gläser Wasser am Tag), tpl-tasks-daily (5 Aufgaben am Tag), tpl-coffee-limit (höchstens 3 Kaffee am Tag)"},
    {"name": "title", "type": "string", "required": false, "description": "Name des Ziels; ohne Vorlage nötig"},
    {"name": "description", "type": "string", "required": false, "description": "Worum es geht und warum"},
    {"name": "targetValue", "type": "number", "required": false, "description": "Zielwert je Zeitraum, größer als 0; ohne Angabe 1"},
    {"name": "period", "type": "string", "required": false, "enum": ["day", "week", "month"], "description": "Zeitraum, in dem gezählt wird; ohne Angabe day"},
    {"name": "comparison", "type": "string", "required": false, "enum": ["gte", "lte"], "description": "gte: mindestens den Zielwert erreichen; lte: höchstens; ohne Angabe gte"},
    {"name": "eventType", "type": "string", "required": false, "description": "Ereignis, das gezählt wird; ohne Vorlage nötig. Eines von: TaskCompleted, DrinkLogged, HabitLogged, WorkoutFinished, MeditationCompleted, SleepLogged, JournalEntryCreated, NoteCreated, TimerStopped, LibraryEntryCompleted"},
    {"name": "moduleId", "type": "string", "required": false, "description": "Modul, zu dem das Ziel gehört, z. B. todo, drink, body, habits; ohne Angabe general"}
  ]'),
  ('import_articles_from_urls', 'articles', 'auto',
   'Mehrere Artikel speichern. Läuft im Hintergrund.',
   '[
    {"name": "urls", "type": "array", "required": true, "items": "string", "description": "Vollständige Adressen, höchstens 50"}
  ]'),
  ('list_drafts', 'writing', 'auto',
   'Textentwürfe auflisten. Liefert Art, Titel, Status, Länge und ID.',
   '[
    {"name": "kind", "type": "string", "required": false, "enum": ["blog", "essay", "email", "social", "story", "letter", "speech", "cover-letter", "product-description", "press-release", "bio", "other"], "description": "Nur diese Textart"},
    {"name": "status", "type": "string", "required": false, "enum": ["draft", "refining", "complete", "published"], "description": "Nur dieser Status"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Entwürfe"}
  ]'),
  ('get_draft', 'writing', 'auto',
   'Textentwurf abrufen. Liefert Auftrag, Text, Stil und Quellen.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID des Entwurfs"}
  ]'),
  ('list_writing_styles', 'writing', 'auto',
   'Schreibstile auflisten. Liefert Namen, Kurzbeschreibungen und IDs.',
   '[]'),
  ('create_draft', 'writing', 'propose',
   'Textentwurf anlegen. Nur der Auftrag, noch ohne Text; seine ID gibt es erst nach der Ausführung.',
   '[
    {"name": "kind", "type": "string", "required": true, "enum": ["blog", "essay", "email", "social", "story", "letter", "speech", "cover-letter", "product-description", "press-release", "bio", "other"], "description": "Textart"},
    {"name": "title", "type": "string", "required": true, "description": "Titel oder Arbeitstitel"},
    {"name": "topic", "type": "string", "required": true, "description": "Worum es im Text gehen soll"},
    {"name": "audience", "type": "string", "required": false, "description": "Für wen der Text ist"},
    {"name": "tone", "type": "string", "required": false, "description": "Ton, z. B. sachlich oder herzlich"},
    {"name": "language", "type": "string", "required": false, "description": "Sprache als ISO-639-1-Kürzel; ohne Angabe de"},
    {"name": "targetWords", "type": "number", "required": false, "description": "Angestrebte Länge in Wörtern"},
    {"name": "styleId", "type": "string", "required": false, "description": "ID eines Schreibstils, die in den Eingaben steht"},
    {"name": "extraInstructions", "type": "string", "required": false, "description": "Weitere Vorgaben für den Text"}
  ]'),
  ('generate_draft_content', 'writing', 'propose',
   'Text zu einem Entwurf schreiben lassen. Das Gerät lässt ihn nach dem Auftrag des Entwurfs erzeugen und legt ihn als neue Fassung an.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID eines Entwurfs, den es schon gibt"}
  ]'),
  ('refine_draft_selection', 'writing', 'propose',
   'Ausschnitt eines Entwurfs überarbeiten lassen. Ändert die aktuelle Fassung; die Zeichenpositionen müssen aus den Eingaben bekannt sein.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID eines Entwurfs, der schon Text hat"},
    {"name": "operation", "type": "string", "required": true, "enum": ["shorten", "expand", "tone", "rewrite", "translate"], "description": "shorten: kürzen; expand: ausbauen; tone: anderer Ton; rewrite: neu fassen; translate: übersetzen"},
    {"name": "selectionStart", "type": "number", "required": true, "minimum": 0, "description": "Erstes Zeichen des Ausschnitts, von 0 an gezählt"},
    {"name": "selectionEnd", "type": "number", "required": true, "description": "Zeichen nach dem Ausschnitt, größer als selectionStart"},
    {"name": "targetTone", "type": "string", "required": false, "description": "Gewünschter Ton, nur bei tone; ohne Angabe neutral"},
    {"name": "instruction", "type": "string", "required": false, "description": "Anweisung, bei rewrite nötig"},
    {"name": "targetLanguage", "type": "string", "required": false, "description": "Zielsprache als ISO-639-1-Kürzel, nur bei translate; ohne Angabe en"}
  ]'),
  ('set_draft_status', 'writing', 'propose',
   'Status eines Entwurfs ändern. Veröffentlicht nichts, sondern hält nur den Stand fest.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID des Entwurfs"},
    {"name": "status", "type": "string", "required": true, "enum": ["draft", "refining", "complete", "published"], "description": "draft: Entwurf; refining: in Überarbeitung; complete: fertig; published: veröffentlicht"}
  ]'),
  -- In the client's own catalog, but carried out nowhere.
  ('save_draft_as_article', 'writing', 'deny',
   'Entwurf als Artikel speichern. Legt die aktuelle Fassung in der Leseliste ab.',
   '[
    {"name": "draftId", "type": "string", "required": true, "description": "ID des Entwurfs"}
  ]'),
  ('capture_sign', 'augur', 'propose',
   'Zeichen festhalten. Ein Omen, eine Weissagung oder ein Bauchgefühl, das der Mensch selbst genannt hat.',
   '[
    {"name": "kind", "type": "string", "required": true, "enum": ["omen", "fortune", "hunch"], "description": "omen: Omen; fortune: Weissagung; hunch: Bauchgefühl"},
    {"name": "source", "type": "string", "required": true, "description": "Woher es kommt, z. B. Glückskeks"},
    {"name": "claim", "type": "string", "required": true, "description": "Was es besagt"},
    {"name": "sourceCategory", "type": "string", "required": false, "enum": ["gut", "tarot", "horoscope", "fortune-cookie", "iching", "dream", "person", "media", "natural", "other"], "description": "Art der Quelle"},
    {"name": "vibe", "type": "string", "required": false, "enum": ["good", "bad", "mysterious"], "description": "Grundstimmung; ohne Angabe mysterious"},
    {"name": "feltMeaning", "type": "string", "required": false, "description": "Deutung des Menschen"},
    {"name": "expectedOutcome", "type": "string", "required": false, "description": "Was eintreten soll"},
    {"name": "expectedBy", "type": "string", "required": false, "description": "Bis wann es sich zeigt, JJJJ-MM-TT"},
    {"name": "probability", "type": "number", "required": false, "minimum": 0, "maximum": 1, "description": "Wahrscheinlichkeit von 0 bis 1"},
    {"name": "tags", "type": "string", "required": false, "description": "Schlagwörter, durch Komma getrennt"}
  ]'),
  ('resolve_sign', 'augur', 'propose',
   'Zeichen auflösen. Hält fest, ob es eingetreten ist; nur, wenn der Mensch es gesagt hat.',
   '[
    {"name": "entryId", "type": "string", "required": true, "description": "ID des Zeichens"},
    {"name": "outcome", "type": "string", "required": true, "enum": ["fulfilled", "partly", "not-fulfilled"], "description": "fulfilled: eingetreten; partly: teilweise; not-fulfilled: nicht eingetreten"},
    {"name": "note", "type": "string", "required": false, "description": "Wie es kam"}
  ]'),
  ('list_open_signs', 'augur', 'auto',
   'Offene Zeichen auflisten. Liefert Art, Quelle, Aussage und ID.',
   '[
    {"name": "kind", "type": "string", "required": false, "enum": ["omen", "fortune", "hunch"], "description": "Nur diese Art"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Zeichen"}
  ]'),
  ('consult_oracle', 'augur', 'auto',
   'Frühere Zeichen befragen. Liefert, was bei ähnlichen Zeichen geschah.',
   '[
    {"name": "kind", "type": "string", "required": true, "enum": ["omen", "fortune", "hunch"], "description": "Art des Zeichens"},
    {"name": "sourceCategory", "type": "string", "required": true, "enum": ["gut", "tarot", "horoscope", "fortune-cookie", "iching", "dream", "person", "media", "natural", "other"], "description": "Art der Quelle"},
    {"name": "vibe", "type": "string", "required": true, "enum": ["good", "bad", "mysterious"], "description": "Grundstimmung"},
    {"name": "source", "type": "string", "required": false, "description": "Stichwort zur Quelle"},
    {"name": "claim", "type": "string", "required": false, "description": "Stichwort zur Aussage"},
    {"name": "tags", "type": "string", "required": false, "description": "Schlagwörter, durch Komma getrennt"}
  ]'),
  ('augur_year_recap', 'augur', 'auto',
   'Jahr der Zeichen zusammenfassen. Liefert Anzahl und Trefferquote.',
   '[
    {"name": "year", "type": "number", "required": false, "description": "Jahr, vierstellig; ohne Angabe das laufende"}
  ]'),
  ('create_last', 'lasts', 'propose',
   'Letztes Mal festhalten. Etwas, das der Mensch zum letzten Mal getan hat oder vermutlich getan hat.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Was zum letzten Mal geschah"},
    {"name": "category", "type": "string", "required": false, "enum": ["culinary", "adventure", "travel", "people", "career", "creative", "nature", "culture", "health", "tech", "other"], "description": "Lebensbereich"},
    {"name": "status", "type": "string", "required": false, "enum": ["suspected", "confirmed"], "description": "suspected: vermutet; confirmed: sicher, nur wenn der Mensch es gesagt hat; ohne Angabe suspected"},
    {"name": "date", "type": "string", "required": false, "description": "Tag, JJJJ-MM-TT, falls bekannt"},
    {"name": "confidence", "type": "string", "required": false, "enum": ["probably", "likely", "certain"], "description": "Wie sicher es ist; zählt nur bei suspected"},
    {"name": "meaning", "type": "string", "required": false, "description": "Was es bedeutet hat"},
    {"name": "note", "type": "string", "required": false, "description": "Anmerkung"}
  ]'),
  ('confirm_last', 'lasts', 'propose',
   'Vermutetes letztes Mal bestätigen. Nur, was der Mensch selbst gesagt hat.',
   '[
    {"name": "lastId", "type": "string", "required": true, "description": "ID des Eintrags"},
    {"name": "date", "type": "string", "required": false, "description": "Tag, JJJJ-MM-TT; ohne Angabe heute"},
    {"name": "meaning", "type": "string", "required": false, "description": "Was es bedeutet hat"},
    {"name": "whatIKnewThen", "type": "string", "required": false, "description": "Was damals nicht bekannt war"},
    {"name": "whatIKnowNow", "type": "string", "required": false, "description": "Was heute klar ist"},
    {"name": "tenderness", "type": "number", "required": false, "minimum": 1, "maximum": 5, "description": "Wie sehr es heute berührt, 1 bis 5"},
    {"name": "wouldReclaim", "type": "string", "required": false, "enum": ["no", "maybe", "yes"], "description": "Ob der Mensch es zurückholen würde"}
  ]'),
  ('reclaim_last', 'lasts', 'propose',
   'Letztes Mal aufheben. Es ist wieder geschehen; geht nur bei bestätigten Einträgen.',
   '[
    {"name": "lastId", "type": "string", "required": true, "description": "ID eines Eintrags mit Status confirmed"},
    {"name": "reclaimedNote", "type": "string", "required": false, "description": "Was wieder geschehen ist"}
  ]'),
  ('list_lasts', 'lasts', 'auto',
   'Letzte Male auflisten. Liefert Titel, Status, Tag und ID.',
   '[
    {"name": "status", "type": "string", "required": false, "enum": ["suspected", "confirmed", "reclaimed"], "description": "Nur dieser Status"},
    {"name": "category", "type": "string", "required": false, "enum": ["culinary", "adventure", "travel", "people", "career", "creative", "nature", "culture", "health", "tech", "other"], "description": "Nur dieser Lebensbereich"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Einträge"}
  ]'),
  ('suggest_lasts', 'lasts', 'auto',
   'Letzte Male vermuten. Sucht in Orten, Gewohnheiten und Kontakten nach solchem, was seltener wurde.',
   '[]'),
  ('forms_create', 'forms', 'propose',
   'Formular anlegen. Als Entwurf, nicht öffentlich; seine ID gibt es erst nach der Ausführung, also alle Felder gleich mitgeben.',
   '[
    {"name": "title", "type": "string", "required": true, "description": "Titel des Formulars"},
    {"name": "description", "type": "string", "required": false, "description": "Text über den Feldern"},
    {"name": "fields", "type": "array", "required": false, "properties": [{"name": "type", "type": "string", "required": true, "enum": ["short_text", "long_text", "single_choice", "multi_choice", "number", "date", "email", "yes_no", "rating", "section", "consent"]}, {"name": "label", "type": "string", "required": true}, {"name": "required", "type": "boolean"}, {"name": "helpText", "type": "string"}, {"name": "options", "type": "array", "properties": [{"name": "label", "type": "string", "required": true}]}], "description": "Felder, je ein Objekt {type, label, required?, helpText?, options?}; type ist short_text, long_text, single_choice, multi_choice, number, date, email, yes_no, rating, section oder consent; options bei single_choice und multi_choice als [{label}]. Felder ohne gültigen type und label fallen weg"}
  ]'),
  ('forms_add_field', 'forms', 'propose',
   'Feld an ein Formular anhängen. Es kommt ans Ende.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID eines Formulars, das es schon gibt"},
    {"name": "type", "type": "string", "required": true, "enum": ["short_text", "long_text", "single_choice", "multi_choice", "number", "date", "email", "yes_no", "rating", "section", "consent"], "description": "Art des Feldes; section ist nur eine Überschrift"},
    {"name": "label", "type": "string", "required": true, "description": "Frage oder Beschriftung"},
    {"name": "helpText", "type": "string", "required": false, "description": "Hinweis unter dem Feld"},
    {"name": "required", "type": "boolean", "required": false, "description": "true, wenn das Feld ausgefüllt werden muss"},
    {"name": "options", "type": "array", "required": false, "properties": [{"name": "label", "type": "string", "required": true}], "description": "Auswahl bei single_choice und multi_choice, als [{label}]"}
  ]'),
  ('forms_publish', 'forms', 'propose',
   'Formular veröffentlichen. Braucht mindestens ein Feld, das nicht section oder consent ist.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID des Formulars"}
  ]'),
  ('forms_close', 'forms', 'propose',
   'Formular schließen. Nimmt keine Antworten mehr an; die bisherigen bleiben.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID des Formulars"}
  ]'),
  ('forms_list', 'forms', 'auto',
   'Formulare auflisten. Liefert Titel, Status, Zahl der Felder und Antworten und ID.',
   '[
    {"name": "status", "type": "string", "required": false, "enum": ["draft", "published", "closed"], "description": "Nur dieser Status"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Formulare"}
  ]'),
  ('forms_get_responses', 'forms', 'auto',
   'Antworten eines Formulars abrufen. Liefert Häufigkeiten und Texte.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID des Formulars"},
    {"name": "limit", "type": "number", "required": false, "description": "Höchstzahl der Texte je Feld"}
  ]'),
  ('forms_summarize_responses', 'forms', 'auto',
   'Antworten eines Formulars sammeln. Liefert sie zum Zusammenfassen.',
   '[
    {"name": "formId", "type": "string", "required": true, "description": "ID des Formulars"},
    {"name": "sinceDays", "type": "number", "required": false, "description": "Nur die letzten so vielen Tage"}
  ]')
  ) AS v(name, module, default_policy, description, parameters);

CREATE FUNCTION mana_ai.tool_catalog()
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((SELECT c.catalog FROM mana_ai.chosen_tool_catalog c), '2026-04')
$$;
COMMENT ON FUNCTION mana_ai.tool_catalog() IS 'the catalog that mana_ai.tools follows';

-- Makes mana_ai.tools that of a catalog. Rows that an operator has added are left alone; so are
-- columns that an operator has changed. A changed tool that the catalog does not have stays and
-- becomes the operator's own.
CREATE FUNCTION mana_ai.apply_tool_catalog(new_catalog text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  kept text;
  gone text[];
  come text[];
BEGIN
  WITH wanted AS (
    SELECT c.*, jsonb_build_object('module', c.module, 'description', c.description,
                                   'default_policy', c.default_policy,
                                   'parameters', c.parameters) AS shipped
      FROM mana_ai.tool_catalogs c WHERE new_catalog = ANY (c.catalogs))
  UPDATE mana_ai.tools t
     SET module = CASE WHEN t.module = t.shipped->>'module' THEN w.module ELSE t.module END,
         description = CASE WHEN t.description = t.shipped->>'description'
                            THEN w.description ELSE t.description END,
         default_policy = CASE WHEN t.default_policy = t.shipped->>'default_policy'
                               THEN w.default_policy ELSE t.default_policy END,
         parameters = CASE WHEN t.parameters = t.shipped->'parameters'
                           THEN w.parameters ELSE t.parameters END,
         shipped = w.shipped
    FROM wanted w
   WHERE t.name = w.name AND t.shipped IS NOT NULL AND t.shipped <> w.shipped;

  FOR kept IN
    UPDATE mana_ai.tools t SET shipped = NULL
     WHERE t.shipped IS NOT NULL AND NOT t.as_shipped
       AND NOT EXISTS (SELECT FROM mana_ai.tool_catalogs c
                        WHERE c.name = t.name AND new_catalog = ANY (c.catalogs))
    RETURNING t.name
  LOOP
    RAISE NOTICE 'tool "%" is not in catalog % and stays, since it was changed here', kept,
      new_catalog;
  END LOOP;

  FOR kept IN
    SELECT t.name FROM mana_ai.tools t
     WHERE t.shipped IS NULL
       AND EXISTS (SELECT FROM mana_ai.tool_catalogs c
                    WHERE c.name = t.name AND new_catalog = ANY (c.catalogs))
     ORDER BY t.name
  LOOP
    RAISE NOTICE 'tool "%" of catalog % is not taken, since there is another one of that name here', kept,
      new_catalog;
  END LOOP;

  -- Two steps, and so for what comes: the table's trigger deletes no tool that is built in, and
  -- makes every tool that is inserted the operator's.
  gone := ARRAY(SELECT t.name FROM mana_ai.tools t
                 WHERE t.as_shipped
                   AND NOT EXISTS (SELECT FROM mana_ai.tool_catalogs c
                                    WHERE c.name = t.name AND new_catalog = ANY (c.catalogs)));
  UPDATE mana_ai.tools t SET shipped = NULL WHERE t.name = ANY (gone);
  DELETE FROM mana_ai.tools t WHERE t.name = ANY (gone);

  come := ARRAY(SELECT c.name FROM mana_ai.tool_catalogs c
                 WHERE new_catalog = ANY (c.catalogs)
                   AND NOT EXISTS (SELECT FROM mana_ai.tools t WHERE t.name = c.name));
  INSERT INTO mana_ai.tools (name, module, description, default_policy, parameters)
  SELECT c.name, c.module, c.description, c.default_policy, c.parameters
    FROM mana_ai.tool_catalogs c WHERE c.name = ANY (come) AND new_catalog = ANY (c.catalogs);
  UPDATE mana_ai.tools t
     SET shipped = jsonb_build_object('module', t.module, 'description', t.description,
                                      'default_policy', t.default_policy,
                                      'parameters', t.parameters)
   WHERE t.name = ANY (come);
END
$$;

CREATE FUNCTION mana_ai.follow_chosen_catalog() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Also when a dump is restored, whose row comes with no call of ours.
  PERFORM mana_ai.apply_tool_catalog(NEW.catalog);
  RETURN NULL;
END
$$;
CREATE TRIGGER follow_chosen_catalog AFTER INSERT ON mana_ai.chosen_tool_catalog
  FOR EACH ROW EXECUTE FUNCTION mana_ai.follow_chosen_catalog();

CREATE FUNCTION mana_ai.set_tool_catalog(catalog text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  known text[] := ARRAY(SELECT DISTINCT unnest(c.catalogs) FROM mana_ai.tool_catalogs c ORDER BY 1);
BEGIN
  IF catalog IS NULL OR catalog <> ALL (known) THEN
    RAISE invalid_parameter_value USING
      MESSAGE = format('there is no tool catalog "%s"', catalog),
      HINT = format('Catalogs are: %s.', array_to_string(known, ', '));
  END IF;
  LOCK TABLE mana_ai.chosen_tool_catalog IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM mana_ai.chosen_tool_catalog;
  INSERT INTO mana_ai.chosen_tool_catalog (catalog) VALUES (catalog);
END
$$;
COMMENT ON FUNCTION mana_ai.set_tool_catalog(text) IS
  'makes the built-in tools those that a client of that age carries out: 2026-04 or 2026-05';

DO $$
DECLARE
  made_here text;
BEGIN
  FOREACH made_here IN ARRAY ARRAY['tool_catalogs', 'chosen_tool_catalog'] LOOP
    EXECUTE format('CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.%I'
                   ' FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row()', made_here);
    EXECUTE format('ALTER TABLE mana_ai.%I ENABLE REPLICA TRIGGER mana_ai_drop_replicated', made_here);
  END LOOP;
END $$;

SELECT pg_catalog.pg_extension_config_dump('mana_ai.chosen_tool_catalog', '');

REVOKE ALL ON mana_ai.tool_catalogs, mana_ai.chosen_tool_catalog FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.tool_catalog(), mana_ai.apply_tool_catalog(text), mana_ai.follow_chosen_catalog(),
  mana_ai.set_tool_catalog(text) FROM PUBLIC;

-- ---------------------------------------------------------------- what becomes of plans
ALTER TABLE mana_ai.runs ADD COLUMN prompt_version text;
-- It would be read and prepared again for each of a run's updates.
ALTER TABLE mana_ai.runs DROP CONSTRAINT runs_outcome_check;

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

REVOKE ALL ON mana_ai.tool_outcomes FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.public_failure(text), mana_ai.count_tool_outcomes(timestamptz) FROM PUBLIC;

-- ---------------------------------------------------------------- services and turns
CREATE INDEX mission_schedule_user ON mana_ai.mission_schedule (user_id, wake_at);

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
REVOKE ALL ON FUNCTION mana_ai.services(), mana_ai.service_problem(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mana_ai.services() TO pg_monitor;

-- ---------------------------------------------------------------- budgets
-- Tokens that the run's next call, or the one under way, is held to use; counts while the run goes on.
ALTER TABLE mana_ai.runs ADD COLUMN reserved_tokens bigint NOT NULL DEFAULT 0;

-- Users with other limits than the settings say; filled by operators. In each column null is what the setting says, and 0
-- is nothing at all.
CREATE TABLE mana_ai.user_budgets (
  user_id        text COLLATE "C" PRIMARY KEY,
  tokens_per_day bigint CHECK (tokens_per_day >= 0),
  note           text,
  web_research_per_day int CHECK (web_research_per_day >= 0),
  deep_research_per_day int CHECK (deep_research_per_day >= 0)
);
COMMENT ON TABLE mana_ai.user_budgets IS
  'users with other daily limits than mana_ai.user_tokens_per_day, user_web_research_per_day and user_deep_research_per_day say; null is what the setting says';
SELECT pg_catalog.pg_extension_config_dump('mana_ai.user_budgets', '');
REVOKE ALL ON mana_ai.user_budgets FROM PUBLIC;

-- Questions in progress: their reservations count in budgets of all users together. "engine" is the number of the process
-- that asks; rows of dead ones are deleted by housekeeping.
CREATE TABLE mana_ai.what_if_running (
  what_if_id      uuid PRIMARY KEY,
  user_id         text COLLATE "C" NOT NULL,
  mission_id      text COLLATE "C" NOT NULL,
  run_id          uuid        NOT NULL,
  model           text COLLATE "C" NOT NULL,
  service_tier    text COLLATE "C" NOT NULL,
  engine          bigint      NOT NULL,
  started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  reserved_tokens bigint      NOT NULL DEFAULT 0
);
COMMENT ON TABLE mana_ai.what_if_running IS
  'past runs that another model is being asked about at the moment, and what these calls have reserved';
CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.what_if_running
  FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row();
ALTER TABLE mana_ai.what_if_running ENABLE REPLICA TRIGGER mana_ai_drop_replicated;
REVOKE ALL ON mana_ai.what_if_running FROM PUBLIC;
-- What all users together have used, by minute, so that a budget of all together costs the same however many replies a day
-- has (docs/architecture.md, "Budgets of all together").
--
-- Rows are only inserted, and their sum counts: nobody who changes the ledger waits for anybody else. Up to a certain
-- minute they are complete: what was charged is added by advance_usage_sums() some minutes later, with is_complete; what
-- changes afterwards, by the triggers below, in the same transaction. Later minutes are read from the ledger.
CREATE TABLE mana_ai.usage_sums (
  minute      timestamptz NOT NULL,
  currency    text COLLATE "C" NOT NULL,  -- '' is usage without a price
  tokens      bigint      NOT NULL,
  cost        numeric,
  is_complete boolean     NOT NULL DEFAULT false,
  id          uuid        PRIMARY KEY DEFAULT gen_random_uuid()
);
CREATE INDEX usage_sums_minute ON mana_ai.usage_sums (minute);
COMMENT ON TABLE mana_ai.usage_sums IS
  'what all users have used by minute, as sums of its rows; made from token_usage, and made anew when it is empty';

-- From then on the ledger itself must be read; null: all of it.
CREATE FUNCTION mana_ai.usage_sums_end()
RETURNS timestamptz LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.minute + interval '1 minute' FROM mana_ai.usage_sums s WHERE s.is_complete ORDER BY s.minute DESC LIMIT 1
$$;

-- What all users together have used since then, by currency ('' is usage without a price). only_kept: without what must be
-- read from the ledger since read_from; no row if that is all.
CREATE FUNCTION mana_ai.usage_of_all(
  since timestamptz, only_kept boolean DEFAULT false,
  OUT read_from timestamptz, OUT currency text, OUT tokens bigint, OUT cost numeric)
RETURNS SETOF record LANGUAGE plpgsql STABLE ROWS 3
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  whole timestamptz := date_bin('1 minute', since, 'epoch') + interval '1 minute';
  kept  timestamptz := mana_ai.usage_sums_end();
BEGIN
  -- Older sums are deleted; and the clock may have been set back.
  IF kept <= whole OR kept > clock_timestamp() OR whole < clock_timestamp() - interval '25 hours' THEN
    kept := NULL;
  END IF;
  IF kept IS NULL AND only_kept THEN
    RETURN;
  END IF;
  RETURN QUERY
    SELECT kept, x.currency, sum(x.tokens)::bigint, sum(x.cost)
      FROM (SELECT s.currency, s.tokens, s.cost FROM mana_ai.usage_sums s WHERE s.minute >= whole AND s.minute < kept
            UNION ALL
            SELECT coalesce(u.currency, ''), u.tokens_used, u.cost FROM mana_ai.token_usage u
             WHERE u.ts > since AND u.ts < whole AND kept IS NOT NULL
            UNION ALL
            SELECT coalesce(u.currency, ''), u.tokens_used, u.cost FROM mana_ai.token_usage u
             WHERE u.ts > since AND u.ts >= coalesce(kept, '-infinity') AND NOT only_kept) x
     GROUP BY x.currency;
END $$;
COMMENT ON FUNCTION mana_ai.usage_of_all(timestamptz, boolean) IS
  'what all users together have used since then, by currency; without reading all replies';

-- The lock of budgets, until the end of the transaction: whoever charges holds it until the commit.
CREATE FUNCTION mana_ai.lock_budgets()
RETURNS void LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'mana_ai_lock_budgets';
-- false: it is taken.
CREATE FUNCTION mana_ai.try_lock_budgets()
RETURNS boolean LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'mana_ai_try_lock_budgets';

-- Completes further minutes, about max_rows replies in a call; returns whether more are left. Under the lock of budgets, so
-- that all charges before now() are visible. null: somebody else has it, and nothing was done.
CREATE FUNCTION mana_ai.advance_usage_sums(max_rows int)
RETURNS boolean LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  begin_at timestamptz;
  end_at   timestamptz := date_bin('1 minute', now(), 'epoch') - interval '2 minutes';
  oldest   timestamptz := end_at - interval '25 hours';
  piece    timestamptz;
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'mana_ai.advance_usage_sums() must be called in a READ COMMITTED transaction'
      USING ERRCODE = 'invalid_transaction_state',
            DETAIL = 'It would not see what others have committed since the transaction began.';
  END IF;
  IF NOT mana_ai.try_lock_budgets() THEN
    RETURN NULL;
  END IF;
  begin_at := mana_ai.usage_sums_end();
  IF begin_at > clock_timestamp() THEN
    -- The clock was set back, and will come past these minutes again.
    DELETE FROM mana_ai.usage_sums;
    begin_at := NULL;
  END IF;
  begin_at := greatest(begin_at, oldest);
  IF begin_at >= end_at THEN
    RETURN false;
  END IF;
  SELECT date_bin('1 minute', u.ts, 'epoch') INTO piece FROM mana_ai.token_usage u
   WHERE u.ts >= begin_at AND u.ts < end_at ORDER BY u.ts OFFSET max_rows LIMIT 1;
  IF piece IS NOT NULL THEN
    end_at := greatest(piece, begin_at + interval '1 minute');
  END IF;
  -- In one statement: what commits later than its snapshot is in neither table, or in both.
  INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost, is_complete)
  SELECT x.minute, x.currency, sum(x.tokens), sum(x.cost), true
    FROM (SELECT date_bin('1 minute', u.ts, 'epoch') AS minute, coalesce(u.currency, '') AS currency,
                 u.tokens_used::bigint AS tokens, u.cost
            FROM mana_ai.token_usage u WHERE u.ts >= begin_at AND u.ts < end_at
          UNION ALL
          SELECT s.minute, s.currency, -s.tokens, -s.cost
            FROM mana_ai.usage_sums s WHERE s.minute >= begin_at AND s.minute < end_at
          UNION ALL
          SELECT end_at - interval '1 minute', '', 0, NULL) x
   GROUP BY x.minute, x.currency;
  DELETE FROM mana_ai.usage_sums s WHERE s.minute < oldest;
  IF (SELECT count(*) FROM mana_ai.usage_sums s WHERE NOT s.is_complete) > 2000 THEN
    WITH gone AS (DELETE FROM mana_ai.usage_sums RETURNING *)
    INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost, is_complete)
    SELECT g.minute, g.currency, sum(g.tokens), sum(g.cost), g.minute < end_at FROM gone g GROUP BY g.minute, g.currency;
  END IF;
  RETURN piece IS NOT NULL;
END $$;
COMMENT ON FUNCTION mana_ai.advance_usage_sums(int) IS
  'adds up what was used until two minutes ago; for housekeeping';

-- Not without the lock: minutes that advance_usage_sums() completes meanwhile would stay, as if all before them had been
-- added up.
CREATE FUNCTION mana_ai.remake_usage_sums()
RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'mana_ai.remake_usage_sums() must be called in a READ COMMITTED transaction'
      USING ERRCODE = 'invalid_transaction_state',
            DETAIL = 'It would not see what others have committed since the transaction began.';
  END IF;
  PERFORM mana_ai.lock_budgets();
  DELETE FROM mana_ai.usage_sums;
END $$;
COMMENT ON FUNCTION mana_ai.remake_usage_sums() IS
  'throws the sums of what all users have used away; housekeeping makes them anew from mana_ai.token_usage';

CREATE FUNCTION mana_ai.follow_usage()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin AS $$
DECLARE
  oldest timestamptz := clock_timestamp() - interval '26 hours';
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM mana_ai.usage_sums;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost)
    SELECT date_bin('1 minute', o.ts, 'epoch'), coalesce(o.currency, ''), -sum(o.tokens_used), -sum(o.cost)
      FROM old_usage o WHERE o.ts >= oldest GROUP BY 1, 2;
  ELSE
    INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost)
    SELECT x.minute, x.currency, sum(x.tokens), sum(x.cost)
      FROM (SELECT date_bin('1 minute', n.ts, 'epoch') AS minute, coalesce(n.currency, '') AS currency,
                   n.tokens_used::bigint AS tokens, n.cost
              FROM new_usage n WHERE n.ts >= oldest
            UNION ALL
            SELECT date_bin('1 minute', o.ts, 'epoch'), coalesce(o.currency, ''), -o.tokens_used::bigint, -o.cost
              FROM old_usage o WHERE o.ts >= oldest) x
     GROUP BY x.minute, x.currency HAVING sum(x.tokens) <> 0 OR coalesce(sum(x.cost), 0) <> 0;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION mana_ai.follow_usage() IS 'keeps mana_ai.usage_sums when replies are priced, taken back or erased';

CREATE FUNCTION mana_ai.add_to_usage_sums(at timestamptz, currency text, tokens bigint, cost numeric)
RETURNS void LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin AS $$
  INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost) VALUES (date_bin('1 minute', $1, 'epoch'), $2, $3, $4)
$$;

-- In C, since each reply passes it: only rows that advance_usage_sums() may have passed by are added at once, which are
-- those of the past, and those that are not ours (an operator's transaction may take long).
CREATE FUNCTION mana_ai.follow_new_usage()
RETURNS trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'mana_ai_follow_new_usage';

CREATE FUNCTION mana_ai.follow_replicated_usage()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM mana_ai.add_to_usage_sums(OLD.ts, coalesce(OLD.currency, ''), -OLD.tokens_used, -OLD.cost);
  IF TG_OP = 'UPDATE' THEN
    PERFORM mana_ai.add_to_usage_sums(NEW.ts, coalesce(NEW.currency, ''), NEW.tokens_used, NEW.cost);
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER follow_insert AFTER INSERT ON mana_ai.token_usage
  FOR EACH ROW EXECUTE FUNCTION mana_ai.follow_new_usage();
CREATE TRIGGER follow_update AFTER UPDATE ON mana_ai.token_usage
  REFERENCING OLD TABLE AS old_usage NEW TABLE AS new_usage FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.follow_usage();
CREATE TRIGGER follow_delete AFTER DELETE ON mana_ai.token_usage
  REFERENCING OLD TABLE AS old_usage FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.follow_usage();
CREATE TRIGGER follow_truncate AFTER TRUNCATE ON mana_ai.token_usage
  FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.follow_usage();
-- Also for rows that arrive by replication, since these sums do not. It fires no triggers of statements, except at TRUNCATE.
CREATE TRIGGER follow_replicated AFTER UPDATE OR DELETE ON mana_ai.token_usage
  FOR EACH ROW EXECUTE FUNCTION mana_ai.follow_replicated_usage();
ALTER TABLE mana_ai.token_usage ENABLE ALWAYS TRIGGER follow_insert;
ALTER TABLE mana_ai.token_usage ENABLE ALWAYS TRIGGER follow_truncate;
ALTER TABLE mana_ai.token_usage ENABLE REPLICA TRIGGER follow_replicated;
CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.usage_sums
  FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row();
ALTER TABLE mana_ai.usage_sums ENABLE REPLICA TRIGGER mana_ai_drop_replicated;
REVOKE ALL ON mana_ai.usage_sums FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.usage_sums_end(), mana_ai.usage_of_all(timestamptz, boolean), mana_ai.advance_usage_sums(int),
  mana_ai.lock_budgets(), mana_ai.try_lock_budgets(), mana_ai.remake_usage_sums(),
  mana_ai.follow_usage(), mana_ai.add_to_usage_sums(timestamptz, text, bigint, numeric), mana_ai.follow_new_usage(),
  mana_ai.follow_replicated_usage() FROM PUBLIC;

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

REVOKE ALL ON FUNCTION mana_ai.budgets_of_mission(text, text) FROM PUBLIC;

-- ---------------------------------------------------------------- money
ALTER TABLE mana_ai.engine_state ADD COLUMN priced_model text COLLATE "C";
ALTER TABLE mana_ai.engine_state ADD COLUMN priced_tier text COLLATE "C";
ALTER TABLE mana_ai.engine_state ADD COLUMN compared_digests text;
ALTER TABLE mana_ai.runs ADD COLUMN answered_by text;
ALTER TABLE mana_ai.runs ADD COLUMN cached_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE mana_ai.runs ADD COLUMN reasoning_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE mana_ai.runs ADD COLUMN woken_at timestamptz;
ALTER TABLE mana_ai.token_usage ADD COLUMN run_id uuid;
ALTER TABLE mana_ai.token_usage ADD COLUMN model text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE mana_ai.token_usage ADD COLUMN service_tier text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE mana_ai.token_usage ADD COLUMN prompt_tokens int;
ALTER TABLE mana_ai.token_usage ADD COLUMN cached_tokens int;
ALTER TABLE mana_ai.token_usage ADD COLUMN completion_tokens int;
ALTER TABLE mana_ai.token_usage ADD COLUMN reasoning_tokens int;
ALTER TABLE mana_ai.token_usage ADD COLUMN cost numeric;
ALTER TABLE mana_ai.token_usage ADD COLUMN currency text COLLATE "C";
ALTER TABLE mana_ai.token_usage ADD COLUMN purpose text COLLATE "C" NOT NULL DEFAULT 'plan';
ALTER TABLE mana_ai.token_usage ADD CHECK ((cost IS NULL) = (currency IS NULL));
DROP INDEX mana_ai.token_usage_of_agent;
CREATE INDEX token_usage_of_user ON mana_ai.token_usage (user_id, ts) INCLUDE (tokens_used, purpose);
CREATE INDEX token_usage_of_run ON mana_ai.token_usage (run_id);
CREATE INDEX token_usage_unpriced ON mana_ai.token_usage (model, service_tier, ts)
 WHERE cost IS NULL AND prompt_tokens IS NOT NULL;
-- Research is charged under these names.
CREATE INDEX token_usage_research ON mana_ai.token_usage (user_id, model, ts) WHERE model IN ('web-research', 'deep-research');

-- Filled by operators. A name may contain "*", which matches any characters; a name without it takes precedence, then the
-- longest pattern. service_tier '' applies to every tier without its own price.
CREATE TABLE mana_ai.model_prices (
  model                    text COLLATE "C" NOT NULL CHECK (btrim(model) <> ''),
  service_tier             text COLLATE "C" NOT NULL DEFAULT '',
  valid_from               timestamptz NOT NULL DEFAULT '-infinity',
  currency                 text COLLATE "C" NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  -- NaN and infinity are larger than every number.
  input_per_million        numeric NOT NULL CHECK (input_per_million >= 0 AND input_per_million <= 1000000),
  cached_input_per_million numeric CHECK (cached_input_per_million >= 0 AND cached_input_per_million <= 1000000),
  output_per_million       numeric NOT NULL CHECK (output_per_million >= 0 AND output_per_million <= 1000000),
  note                     text,
  per_call                 numeric CHECK (per_call >= 0 AND per_call <= 1000000),
  pattern                  text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
    replace(replace(replace(replace(model, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')) STORED,
  PRIMARY KEY (model, service_tier, valid_from)
);
COMMENT ON TABLE mana_ai.model_prices IS 'what models cost per million tokens; for operators to fill';
COMMENT ON COLUMN mana_ai.model_prices.cached_input_per_million IS 'null: as other input';
COMMENT ON COLUMN mana_ai.model_prices.per_call IS 'in addition to its tokens; the cost of research, under the names web-research and deep-research';
SELECT pg_catalog.pg_extension_config_dump('mana_ai.model_prices', '');

-- What a reply costs at the price of its time; null without one. Tokens that a reply does not attribute count as output.
CREATE FUNCTION mana_ai.cost_of(
  model text, service_tier text, at timestamptz, prompt_tokens bigint, cached_tokens bigint, total_tokens bigint,
  OUT cost numeric, OUT currency text)
RETURNS record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  SELECT ((cost_of.prompt_tokens - cost_of.cached_tokens) * p.input_per_million
          + cost_of.cached_tokens * coalesce(p.cached_input_per_million, p.input_per_million)
          + greatest(cost_of.total_tokens - cost_of.prompt_tokens, 0) * p.output_per_million) * 0.000001
         + coalesce(p.per_call, 0),
         p.currency
    INTO cost_of.cost, cost_of.currency
    FROM mana_ai.model_prices p
   WHERE p.valid_from <= cost_of.at AND p.service_tier IN ('', cost_of.service_tier)
     AND cost_of.model LIKE p.pattern AND (cost_of.model NOT IN ('web-research', 'deep-research') OR p.per_call IS NOT NULL)
   ORDER BY p.model = cost_of.model DESC, length(p.model) DESC, p.model, p.service_tier = '', p.valid_from DESC
   LIMIT 1;
  IF cost_of.cost IS NULL THEN
    cost_of.currency := NULL;
  END IF;
END $$;
COMMENT ON FUNCTION mana_ai.cost_of(text, text, timestamptz, bigint, bigint, bigint) IS
  'what a reply of that many tokens costs by mana_ai.model_prices; null without a price';

-- Prices replies that arrived before their price was known: of the models after this one, in the order of their names
-- (null: from the first one), limited in models and replies. Each waiting model is looked up once, so that those without
-- a price cost almost nothing. A caller that continues with last_model and last_tier, which are null at the end, reaches
-- every model, however many names without a price there are.
CREATE FUNCTION mana_ai.price_usage_after(
  after_model text, after_tier text, max_names int, max_rows int,
  OUT priced bigint, OUT last_model text, OUT last_tier text)
RETURNS record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  priced_since timestamptz;
  done         bigint;
  model_before text;
  tier_before  text;
BEGIN
  priced := 0;
  IF NOT EXISTS (SELECT FROM mana_ai.model_prices) THEN
    RETURN;
  END IF;
  last_model := after_model;
  last_tier := after_tier;
  FOR n IN 1 .. max_names LOOP
    model_before := last_model;
    tier_before := last_tier;
    IF last_model IS NULL THEN
      SELECT u.model, u.service_tier INTO last_model, last_tier FROM mana_ai.token_usage u
       WHERE u.cost IS NULL AND u.prompt_tokens IS NOT NULL
       ORDER BY u.model, u.service_tier LIMIT 1;
    ELSE
      SELECT u.model, u.service_tier INTO last_model, last_tier FROM mana_ai.token_usage u
       WHERE u.cost IS NULL AND u.prompt_tokens IS NOT NULL AND (u.model, u.service_tier) > (last_model, last_tier)
       ORDER BY u.model, u.service_tier LIMIT 1;
    END IF;
    EXIT WHEN last_model IS NULL;
    SELECT min(p.valid_from) INTO priced_since FROM mana_ai.model_prices p
     WHERE p.service_tier IN ('', last_tier) AND last_model LIKE p.pattern
       AND (last_model NOT IN ('web-research', 'deep-research') OR p.per_call IS NOT NULL);
    CONTINUE WHEN priced_since IS NULL;
    UPDATE mana_ai.token_usage u SET cost = c.cost, currency = c.currency
      FROM (SELECT w.id, k.cost, k.currency
              FROM (SELECT * FROM mana_ai.token_usage x
                     WHERE x.cost IS NULL AND x.prompt_tokens IS NOT NULL
                       AND x.model = last_model AND x.service_tier = last_tier AND x.ts >= priced_since
                     ORDER BY x.ts LIMIT max_rows - priced FOR UPDATE SKIP LOCKED) w
             CROSS JOIN LATERAL mana_ai.cost_of(w.model, w.service_tier, w.ts, w.prompt_tokens, w.cached_tokens,
                                                w.tokens_used) k) c
     WHERE u.id = c.id AND c.cost IS NOT NULL;
    GET DIAGNOSTICS done = ROW_COUNT;
    priced := priced + done;
    -- More of this name may be left.
    IF priced >= max_rows THEN
      last_model := model_before;
      last_tier := tier_before;
      EXIT;
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION mana_ai.price_usage_after(text, text, int, int) IS
  'prices replies of the models after this one; for housekeeping, which goes on where it has stopped';

CREATE FUNCTION mana_ai.price_usage(max_rows int DEFAULT 2000)
RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT p.priced FROM mana_ai.price_usage_after(NULL, NULL, 2147483647, max_rows) p
$$;
COMMENT ON FUNCTION mana_ai.price_usage(int) IS
  'prices replies that came before their price was known; returns how many';

-- After a price was corrected.
CREATE FUNCTION mana_ai.reprice_usage(since timestamptz)
RETURNS bigint LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  priced bigint;
BEGIN
  UPDATE mana_ai.token_usage u SET cost = c.cost, currency = c.currency
    FROM (SELECT w.id, k.cost, k.currency
            FROM mana_ai.token_usage w
           CROSS JOIN LATERAL mana_ai.cost_of(w.model, w.service_tier, w.ts, w.prompt_tokens, w.cached_tokens,
                                              w.tokens_used) k
           WHERE w.ts >= reprice_usage.since AND w.prompt_tokens IS NOT NULL) c
   WHERE u.id = c.id AND (u.cost, u.currency) IS DISTINCT FROM (c.cost, c.currency);
  GET DIAGNOSTICS priced = ROW_COUNT;
  RETURN priced;
END $$;
COMMENT ON FUNCTION mana_ai.reprice_usage(timestamptz) IS
  'prices anew what replies since then have cost; returns how many have another cost now';

-- Operators' options for single agents.
CREATE TABLE mana_ai.agent_options (
  user_id      text COLLATE "C" NOT NULL,
  agent_id     text COLLATE "C" NOT NULL,
  -- Instead of mana_ai.service_tier: '' is the standard tier, null as is set for all.
  service_tier text COLLATE "C" CHECK (service_tier ~ '^[!-~]{0,40}$'),
  note         text,
  wake_on_change boolean,  -- instead of mana_ai.wake_on_change; null as is set for all
  PRIMARY KEY (user_id, agent_id)
);
COMMENT ON TABLE mana_ai.agent_options IS 'what operators want of single agents';
SELECT pg_catalog.pg_extension_config_dump('mana_ai.agent_options', '');

-- Budgets in money, in addition to those in tokens: of all together (user_id ''), of every user ('*'), of one user, of one
-- of a user's agents or missions.
CREATE TABLE mana_ai.cost_budgets (
  user_id      text COLLATE "C" NOT NULL DEFAULT '',
  agent_id     text COLLATE "C" NOT NULL DEFAULT '',
  mission_id   text COLLATE "C" NOT NULL DEFAULT '',
  cost_per_day numeric NOT NULL CHECK (cost_per_day >= 0 AND cost_per_day <= 1000000000),
  currency     text COLLATE "C" NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  note         text,
  PRIMARY KEY (user_id, agent_id, mission_id),
  CHECK ((agent_id = '' AND mission_id = '') OR user_id NOT IN ('', '*')),
  CHECK (agent_id = '' OR mission_id = '')
);
COMMENT ON TABLE mana_ai.cost_budgets IS
  'what may be spent in a day; user_id '''' is all together, ''*'' every user; for operators to fill';
SELECT pg_catalog.pg_extension_config_dump('mana_ai.cost_budgets', '');

-- The budgets in money that apply to a call of this user, agent and mission. Only costs in the budget's currency count;
-- usage without a price is reported. What operators ask of past runs counts in that of all together.
-- tokens_left: the tokens that the rest pays for at the highest price that the next call
-- may have, and that call's own price; null if no price of tokens is known and money is left. reserved_tokens: what calls in
-- flight may use, their own prices as tokens (call_tokens each). cost_left: the money that is neither used nor reserved.
CREATE FUNCTION mana_ai.cost_budgets_of(
  user_id text, agent_id text, but_run uuid DEFAULT NULL, mission_id text DEFAULT '',
  OUT scope text, OUT cost_per_day numeric, OUT currency text, OUT used numeric, OUT unpriced_tokens bigint,
  OUT reserved_tokens bigint, OUT tokens_left bigint, OUT cost_left numeric, OUT call_tokens bigint)
RETURNS SETOF record LANGUAGE plpgsql STABLE ROWS 4
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  since timestamptz := clock_timestamp() - interval '24 hours';
  b     record;
  calls bigint;
  price numeric;
  call_price numeric;
BEGIN
  FOR b IN
    SELECT 'agent' AS scope, c.* FROM mana_ai.cost_budgets c
     WHERE c.user_id = cost_budgets_of.user_id AND c.agent_id = cost_budgets_of.agent_id AND c.agent_id <> ''
    UNION ALL
    SELECT 'mission', c.* FROM mana_ai.cost_budgets c
     WHERE c.user_id = cost_budgets_of.user_id AND c.agent_id = '' AND c.mission_id = cost_budgets_of.mission_id
       AND c.mission_id <> ''
    UNION ALL
    (SELECT 'user', c.* FROM mana_ai.cost_budgets c
      WHERE c.user_id IN (cost_budgets_of.user_id, '*') AND c.user_id <> '' AND c.agent_id = '' AND c.mission_id = ''
      ORDER BY c.user_id = '*' LIMIT 1)
    UNION ALL
    SELECT 'total', c.* FROM mana_ai.cost_budgets c WHERE c.user_id = '' AND c.agent_id = '' AND c.mission_id = ''
  LOOP
    scope := b.scope;
    cost_per_day := b.cost_per_day;
    currency := b.currency;
    IF b.scope = 'total' THEN
      SELECT coalesce(sum(u.cost) FILTER (WHERE u.currency = b.currency), 0),
             coalesce(sum(u.tokens) FILTER (WHERE u.currency <> b.currency), 0)
        INTO used, unpriced_tokens FROM mana_ai.usage_of_all(since) u;
      SELECT coalesce(sum(r.reserved_tokens), 0), count(*) FILTER (WHERE r.reserved_tokens > 0)
        INTO reserved_tokens, calls
        FROM (SELECT x.run_id, x.reserved_tokens FROM mana_ai.runs x WHERE x.outcome = 'running'
              UNION ALL
              SELECT w.what_if_id, w.reserved_tokens FROM mana_ai.what_if_running w) r
       WHERE r.run_id IS DISTINCT FROM but_run;
    ELSE
      SELECT coalesce(sum(u.cost) FILTER (WHERE u.currency = b.currency), 0),
             coalesce(sum(u.tokens_used) FILTER (WHERE u.currency IS DISTINCT FROM b.currency), 0)
        INTO used, unpriced_tokens FROM mana_ai.token_usage u
       WHERE u.user_id = cost_budgets_of.user_id AND u.ts > since
         AND u.purpose <> 'what_if'
         AND CASE b.scope WHEN 'agent' THEN u.agent_id = cost_budgets_of.agent_id
                          WHEN 'mission' THEN u.mission_id = cost_budgets_of.mission_id ELSE true END;
      SELECT coalesce(sum(r.reserved_tokens), 0), count(*) FILTER (WHERE r.reserved_tokens > 0)
        INTO reserved_tokens, calls FROM mana_ai.runs r
       WHERE r.user_id = cost_budgets_of.user_id AND r.outcome = 'running' AND r.run_id IS DISTINCT FROM but_run
         AND CASE b.scope WHEN 'agent' THEN r.agent_id = cost_budgets_of.agent_id
                          WHEN 'mission' THEN r.mission_id = cost_budgets_of.mission_id ELSE true END;
    END IF;
    -- The requested name may have no price because another model answers: then the last one that answered.
    SELECT nullif(max((p.cost - c.cost) / 1000000), 0), coalesce(max(c.cost), 0) INTO price, call_price
      FROM (SELECT m.name FROM unnest(mana_ai.planner_models()) AS m(name)
            UNION
            SELECT current_setting('mana_ai.compact_model')
            UNION
            SELECT w.model FROM mana_ai.what_if_running w WHERE b.scope = 'total'
            UNION
            SELECT u.model FROM (SELECT x.model FROM mana_ai.token_usage x WHERE x.model NOT IN ('web-research', 'deep-research')
                                    AND x.purpose <> 'what_if'
                                  ORDER BY x.ts DESC LIMIT 1) u) m(name)
     CROSS JOIN (SELECT ''
                 UNION
                 SELECT current_setting('mana_ai.service_tier')
                 UNION
                 SELECT w.service_tier FROM mana_ai.what_if_running w WHERE b.scope = 'total'
                 UNION
                 SELECT o.service_tier FROM mana_ai.agent_options o
                  WHERE o.user_id = cost_budgets_of.user_id AND o.service_tier IS NOT NULL) AS s(tier)
     CROSS JOIN LATERAL (SELECT k.cost FROM mana_ai.cost_of(m.name, s.tier, clock_timestamp(), 0, 0, 0) k
                          WHERE k.currency = b.currency) c
     CROSS JOIN LATERAL (VALUES (1000000, 1000000), (0, 1000000)) AS t(prompt, total)
     CROSS JOIN LATERAL mana_ai.cost_of(m.name, s.tier, clock_timestamp(), t.prompt, 0, t.total) p;
    cost_left := cost_per_day - used - reserved_tokens * coalesce(price, 0) - calls * call_price;
    call_tokens := CASE WHEN price > 0 THEN least(ceil(call_price / price), 1000000000000) ELSE 0 END;
    IF price IS NULL AND call_price > 0 THEN
      -- Only calls have a price. Each counts as so many tokens that its own do not matter.
      call_tokens := 1000000000000;
      price := call_price / call_tokens;
    END IF;
    reserved_tokens := reserved_tokens + calls * call_tokens;
    tokens_left := CASE WHEN used >= cost_per_day OR used + call_price > cost_per_day THEN 0
                        WHEN call_tokens = 1000000000000
                        THEN (least(floor((cost_per_day - used) / call_price), 1000000) - 1) * call_tokens + 1000000000
                        WHEN price > 0 THEN floor(least(greatest((cost_per_day - used - call_price) / price, 0), 9000000000000000000)) END;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION mana_ai.cost_budgets_of(text, text, uuid, text) IS
  'the budgets in money that hold for a call of this user, agent and mission, and what is left of them';

-- One row for each currency, and one with null cost and currency for usage without a price.
CREATE VIEW mana_ai.run_costs AS
SELECT u.user_id, u.mission_id, u.agent_id, u.run_id, u.currency, sum(u.cost) AS cost, count(*) AS replies,
       sum(u.tokens_used)::bigint AS tokens, sum(u.prompt_tokens)::bigint AS prompt_tokens,
       sum(u.cached_tokens)::bigint AS cached_tokens, sum(u.completion_tokens)::bigint AS completion_tokens,
       sum(u.reasoning_tokens)::bigint AS reasoning_tokens, array_agg(DISTINCT u.model ORDER BY u.model) AS models
  FROM mana_ai.token_usage u
 WHERE u.run_id IS NOT NULL AND u.purpose <> 'what_if'
 GROUP BY u.user_id, u.mission_id, u.agent_id, u.run_id, u.currency;
COMMENT ON VIEW mana_ai.run_costs IS
  'what each run has cost; a row without currency is what has no price';

CREATE VIEW mana_ai.agent_costs AS
SELECT (u.ts AT TIME ZONE coalesce(nullif(current_setting('mana_ai.timezone', true), ''),
                                    current_setting('TimeZone')))::date AS day,
       u.user_id, u.agent_id, u.currency, sum(u.cost) AS cost, count(*) AS replies,
       sum(u.tokens_used)::bigint AS tokens, sum(u.prompt_tokens)::bigint AS prompt_tokens,
       sum(u.cached_tokens)::bigint AS cached_tokens, sum(u.completion_tokens)::bigint AS completion_tokens,
       sum(u.reasoning_tokens)::bigint AS reasoning_tokens
  FROM mana_ai.token_usage u
 WHERE u.purpose <> 'what_if'
 GROUP BY 1, u.user_id, u.agent_id, u.currency;
COMMENT ON VIEW mana_ai.agent_costs IS
  'what agents have cost by day; a row without currency is what has no price';

CREATE VIEW mana_ai.user_costs AS
SELECT c.day, c.user_id, c.currency, sum(c.cost) AS cost, sum(c.replies)::bigint AS replies,
       sum(c.tokens)::bigint AS tokens, sum(c.prompt_tokens)::bigint AS prompt_tokens,
       sum(c.cached_tokens)::bigint AS cached_tokens, sum(c.completion_tokens)::bigint AS completion_tokens,
       sum(c.reasoning_tokens)::bigint AS reasoning_tokens
  FROM mana_ai.agent_costs c
 GROUP BY c.day, c.user_id, c.currency;
COMMENT ON VIEW mana_ai.user_costs IS
  'what users have cost by day; a row without currency is what has no price';

CREATE VIEW mana_ai.daily_costs AS
SELECT (u.ts AT TIME ZONE coalesce(nullif(current_setting('mana_ai.timezone', true), ''),
                                    current_setting('TimeZone')))::date AS day,
       u.model, u.service_tier, u.currency, sum(u.cost) AS cost, count(*) AS replies,
       sum(u.tokens_used)::bigint AS tokens, sum(u.prompt_tokens)::bigint AS prompt_tokens,
       sum(u.cached_tokens)::bigint AS cached_tokens, sum(u.completion_tokens)::bigint AS completion_tokens,
       sum(u.reasoning_tokens)::bigint AS reasoning_tokens, u.purpose
  FROM mana_ai.token_usage u
 GROUP BY 1, u.model, u.service_tier, u.currency, u.purpose;
COMMENT ON VIEW mana_ai.daily_costs IS
  'what models have cost by day and purpose; a row without currency is what has no price';

REVOKE ALL ON mana_ai.cost_budgets, mana_ai.model_prices, mana_ai.agent_options, mana_ai.run_costs, mana_ai.agent_costs, mana_ai.user_costs, mana_ai.daily_costs FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.planner_models() FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.cost_budgets_of(text, text, uuid, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.cost_of(text, text, timestamptz, bigint, bigint, bigint), mana_ai.price_usage(int),
  mana_ai.price_usage_after(text, text, int, int), mana_ai.reprice_usage(timestamptz) FROM PUBLIC;
GRANT SELECT ON mana_ai.run_costs, mana_ai.agent_costs, mana_ai.user_costs, mana_ai.daily_costs TO pg_monitor;

-- Erasing and exporting a user's data (docs/erasure.md).

-- Users who were erased: nothing is stored under their ids any more, whatever the log says. The digest is the SHA-256 of
-- the id. Rows are inserted and deleted but never updated: the trigger looks them up without waiting.
CREATE TABLE mana_ai.erased_users (
  user_digest text COLLATE "C" PRIMARY KEY CHECK (user_digest ~ '^[0-9a-f]{64}$'),
  erased_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  erased_by   text        NOT NULL DEFAULT session_user
) USING heap;
COMMENT ON TABLE mana_ai.erased_users IS
  'users whose rows in sync_changes mana_ai passes over; by the SHA-256 of their ids';

-- Invalidates what every process has cached of the table.
CREATE FUNCTION mana_ai.forget_known_erasures()
RETURNS trigger LANGUAGE c SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_forget_known_erasures';
CREATE TRIGGER tell_row AFTER INSERT OR UPDATE OR DELETE ON mana_ai.erased_users
  FOR EACH ROW EXECUTE FUNCTION mana_ai.forget_known_erasures();
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON mana_ai.erased_users
  FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.forget_known_erasures();
ALTER TABLE mana_ai.erased_users ENABLE ALWAYS TRIGGER tell_row;
ALTER TABLE mana_ai.erased_users ENABLE ALWAYS TRIGGER tell_truncate;

-- Rows exist until nothing can write data of the user any more: earlier transactions, and processes that were planning.
-- The id itself is stored only for this time. settle_after: transactions with a lower id may not have seen the erasure;
-- null: not determined yet. missions and stops are facts about the user that are lost with its rows; failures: how often
-- the worker has failed with it.
CREATE TABLE mana_ai.erasures_under_way (
  user_id      text COLLATE "C" PRIMARY KEY,
  engines      bigint[] NOT NULL DEFAULT '{}',
  settle_after xid8,
  missions     text[] NOT NULL DEFAULT '{}',
  stops        text[] NOT NULL DEFAULT '{}',
  failures     int    NOT NULL DEFAULT 0
);
COMMENT ON TABLE mana_ai.erasures_under_way IS
  'erasures that transactions and calls in flight may still undo; the worker ends them';

-- Dumped, so that an erasure survives a restore, which folds the whole log.
SELECT pg_catalog.pg_extension_config_dump('mana_ai.erased_users', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.erasures_under_way', '');

CREATE FUNCTION mana_ai.digest_of_user(user_id text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT encode(sha256(convert_to($1, 'UTF8')), 'hex')
$$;

-- Whether the user, and nobody else, has or had the agent.
CREATE FUNCTION mana_ai.is_agent_of(agent_id text, user_id text)
RETURNS boolean LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp AS $$
  SELECT (EXISTS (SELECT FROM mana_ai.agent_snapshots a WHERE a.user_id = $2 AND a.agent_id = $1)
          OR EXISTS (SELECT FROM mana_ai.record_tombstones d
                      WHERE d.user_id = $2 AND d.table_name = 'agents' AND d.record_id = $1)
          OR EXISTS (SELECT FROM mana_ai.mission_schedule m WHERE m.user_id = $2 AND m.agent_id = $1)
          OR EXISTS (SELECT FROM mana_ai.runs r WHERE r.user_id = $2 AND r.agent_id = $1)
          OR EXISTS (SELECT FROM mana_ai.token_usage t WHERE t.user_id = $2 AND t.agent_id = $1)
          OR EXISTS (SELECT FROM mana_ai.erasures_under_way u
                      WHERE u.user_id = $2 AND 'agent:' || $1 = ANY (u.stops)))
     AND NOT EXISTS (SELECT FROM mana_ai.agent_snapshots a WHERE a.agent_id = $1 AND a.user_id <> $2)
     AND NOT EXISTS (SELECT FROM mana_ai.mission_schedule m WHERE m.agent_id = $1 AND m.user_id <> $2)
$$;

-- The tables with rows of single users: those with a column user_id, and stops. condition selects the rows of the user
-- ($1), erasable those that may be deleted now, kept_because says why others stay.
CREATE FUNCTION mana_ai.tables_of_users(
  OUT table_name text, OUT condition text, OUT erasable text, OUT kept_because text)
RETURNS SETOF record LANGUAGE sql STABLE ROWS 20
SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.relname::text,
         CASE c.relname
           -- '' is all users together, '*' each of them.
           WHEN 'cost_budgets' THEN $sql$t.user_id = $1 AND t.user_id NOT IN ('', '*')$sql$
           -- Of agents, only those that nobody else has.
           WHEN 'stops' THEN
             $sql$(t.scope = 'user:' || $1
               OR starts_with(t.scope, 'agent:') AND mana_ai.is_agent_of(substr(t.scope, 7), $1))$sql$
           ELSE 't.user_id = $1' END,
         CASE WHEN c.relname <> 'decrypt_audit' THEN 'true'
              WHEN r.retention = interval '0' THEN 'false'
              ELSE format('t.ts < clock_timestamp() - %L::interval', r.retention) END,
         CASE WHEN c.relname <> 'decrypt_audit' THEN 'another transaction holds them; removed when it is over'
              WHEN r.retention = interval '0' THEN 'mana_ai.audit_retention is 0: kept for ever'
              ELSE format('younger than mana_ai.audit_retention (%s)', r.setting) END
    FROM pg_class c
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
                    AND d.refclassid = 'pg_extension'::regclass
                    AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'mana_ai')
   -- In seconds, like the trigger: a calendar day may be an hour shorter.
   CROSS JOIN (SELECT x.setting, make_interval(secs => extract(epoch FROM x.setting::interval)::float8) AS retention
                 FROM (SELECT coalesce(nullif(current_setting('mana_ai.audit_retention', true), ''), '0') AS setting) x) r
   WHERE c.relkind = 'r' AND c.relname <> 'erasures_under_way'
     AND (c.relname = 'stops'
          OR EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attname = 'user_id' AND NOT a.attisdropped))
   -- Stops read agents, so they come first; so do questions, whose charges do not name the user without their row. Tables that workers write to come last, so that they do not wait for the rest,
   -- and in the common order of locks. Runs come after the schedule: a mission claimed by then has a row in both.
   ORDER BY CASE c.relname WHEN 'stops' THEN 1 WHEN 'what_if_running' THEN 1 WHEN 'mission_snapshots' THEN 3 WHEN 'agent_snapshots' THEN 4
                           WHEN 'mission_schedule' THEN 5 WHEN 'runs' THEN 6 ELSE 2 END, c.relname
$$;
COMMENT ON FUNCTION mana_ai.tables_of_users() IS
  'the tables of mana_ai that hold rows of single users, and which of those rows can be erased';

-- What the agent has cost counts as "other" in metrics from now on.
CREATE FUNCTION mana_ai.erase_agent_from_metrics(agent_id text)
RETURNS void LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_erase_agent_from_metrics';

-- Removes rows without waiting for those that others have locked. Processes that were planning for the user are added to
-- erasures_under_way.
CREATE FUNCTION mana_ai.erase_rows_of_user(
  of_user text, OUT table_name text, OUT removed bigint, OUT kept bigint, OUT why text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE ROWS 20
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t       record;
  planned bigint[];
BEGIN
  PERFORM mana_ai.erase_agent_from_metrics(a.agent_id)
     FROM (SELECT s.agent_id FROM mana_ai.agent_snapshots s WHERE s.user_id = of_user
           UNION
           SELECT u.agent_id FROM mana_ai.token_usage u WHERE u.user_id = of_user) a;
  FOR t IN SELECT * FROM mana_ai.tables_of_users() LOOP
    EXECUTE format(
      'WITH gone AS (
         DELETE FROM mana_ai.%1$I x
          USING (SELECT t.ctid FROM mana_ai.%1$I t WHERE %2$s AND %3$s FOR UPDATE OF t SKIP LOCKED) s
          WHERE x.ctid = s.ctid RETURNING %4$s AS engine)
       SELECT count(*), array_agg(DISTINCT engine) FILTER (WHERE engine IS NOT NULL) FROM gone',
      t.table_name, t.condition, t.erasable,
      CASE t.table_name WHEN 'runs' THEN $sql$CASE x.outcome WHEN 'running' THEN x.lease_owner END$sql$
           ELSE 'NULL::bigint' END)
      INTO removed, planned USING of_user;
    EXECUTE format('SELECT count(*) FROM mana_ai.%I t WHERE %s', t.table_name, t.condition)
      INTO kept USING of_user;
    IF planned IS NOT NULL THEN
      UPDATE mana_ai.erasures_under_way u
         SET engines = ARRAY(SELECT DISTINCT e FROM unnest(u.engines || planned) e)
       WHERE u.user_id = of_user;
    END IF;
    table_name := 'mana_ai.' || t.table_name;
    why := CASE WHEN kept > 0 THEN t.kept_because END;
    RETURN NEXT;
  END LOOP;
END $$;

-- An id in the form of the log and engine_state.
CREATE FUNCTION mana_ai.printable_id(id text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT regexp_replace(left(x.bytes, 64), '[^!-~]', '?', 'g') || CASE WHEN length(x.bytes) > 64 THEN '...' ELSE '' END
    FROM (SELECT convert_from(convert_to($1, 'UTF8'), 'LATIN1') COLLATE "C" AS bytes) x
$$;

-- Registers the erasure for the worker, before anything of the user is removed.
CREATE FUNCTION mana_ai.begin_erasure(of_user text)
RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO mana_ai.erasures_under_way AS u (user_id, missions, stops)
  VALUES ($1,
          ARRAY(SELECT m.mission_id FROM mana_ai.mission_schedule m WHERE m.user_id = $1
                UNION
                SELECT d.record_id FROM mana_ai.record_tombstones d WHERE d.user_id = $1),
          ARRAY(SELECT DISTINCT t.scope FROM mana_ai.stops t
                 WHERE starts_with(t.scope, 'agent:') AND mana_ai.is_agent_of(substr(t.scope, 7), $1)))
      ON CONFLICT (user_id) DO UPDATE
     SET settle_after = NULL,
         missions = ARRAY(SELECT unnest(u.missions) UNION SELECT unnest(excluded.missions)),
         stops = ARRAY(SELECT unnest(u.stops) UNION SELECT unnest(excluded.stops))
$$;

-- Removes the user from the crashes on record in a file of the data directory, when the transaction commits; returns
-- their number.
CREATE FUNCTION mana_ai.erase_user_from_crashes(user_id text)
RETURNS bigint LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_erase_user_from_crashes';

-- Logs when the transaction commits. With RAISE the log would quote the statement, and with it the id.
CREATE FUNCTION mana_ai.write_to_log(message text)
RETURNS void LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_write_to_log';

-- The number of the user's rows in the attached table, of all apps; null without a readable table.
CREATE FUNCTION mana_ai.log_rows_of_user(user_id text)
RETURNS bigint LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_log_rows_of_user';

CREATE FUNCTION mana_ai.erase_user(
  user_id text, OUT table_name text, OUT removed bigint, OUT kept bigint, OUT why text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 20
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin SET row_security = off
SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  t             record;
  total_removed bigint := 0;
  total_kept    bigint := 0;
  digest        text := mana_ai.digest_of_user(erase_user.user_id);
  in_log        bigint;
BEGIN
  IF erase_user.user_id IS NULL THEN
    RAISE EXCEPTION 'user id must not be null'
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'mana_ai.erase_user() must be called in a READ COMMITTED transaction'
      USING ERRCODE = 'invalid_transaction_state',
            DETAIL = 'It would not see what others have committed since the transaction began.';
  END IF;
  -- First: it may read the whole log, and nobody must wait for that.
  IF mana_ai.attached_table() IS NOT NULL THEN
    in_log := mana_ai.log_rows_of_user(erase_user.user_id);
  END IF;
  -- An existing row must also stay until this has ended: somebody may be readmitting the user.
  LOOP
    INSERT INTO mana_ai.erased_users (user_digest) VALUES (digest) ON CONFLICT (user_digest) DO NOTHING;
    PERFORM FROM mana_ai.erased_users e WHERE e.user_digest = digest FOR KEY SHARE;
    EXIT WHEN FOUND;
  END LOOP;
  PERFORM mana_ai.begin_erasure(erase_user.user_id);
  FOR t IN SELECT * FROM mana_ai.erase_rows_of_user(erase_user.user_id) LOOP
    table_name := t.table_name;
    removed := t.removed;
    kept := t.kept;
    why := t.why;
    total_removed := total_removed + t.removed;
    total_kept := total_kept + t.kept;
    RETURN NEXT;
  END LOOP;
  table_name := 'file mana_ai.crashes';
  removed := mana_ai.erase_user_from_crashes(erase_user.user_id);
  kept := 0;
  why := NULL;
  RETURN NEXT;
  IF mana_ai.attached_table() IS NOT NULL THEN
    table_name := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = mana_ai.attached_table());
    removed := 0;
    kept := in_log;
    why := CASE WHEN kept > 0 THEN 'mana-sync''s: not touched; rows of all apps are counted'
                WHEN kept IS NULL THEN 'mana-sync''s: not touched; cannot be read at the moment' END;
    RETURN NEXT;
  END IF;
  PERFORM mana_ai.wake_worker();
  PERFORM mana_ai.write_to_log(format('a user was erased: by=%s digest=%s removed=%s kept=%s', session_user,
            digest, total_removed, total_kept));
END $$;
COMMENT ON FUNCTION mana_ai.erase_user(text) IS
  'removes everything that mana_ai holds of a user, for good; returns what was removed and what stays, by table';

-- Called by processes that no longer plan for these users; "gone" are those processes and those that have ended. Returns
-- how many could not be settled because of an error.
CREATE FUNCTION mana_ai.settle_erasures(users text[], gone text[])
RETURNS int LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
  u              record;
  horizon        xid8;
  next_xid       xid8;
  left_over      bigint;
  audit_kept     bigint;
  errors_of_user text[];
  failed         int := 0;
BEGIN
  -- An erasing transaction holds this lock until all other processes have been told.
  BEGIN
    LOCK TABLE mana_ai.erasures_under_way IN SHARE ROW EXCLUSIVE MODE NOWAIT;
  EXCEPTION WHEN lock_not_available THEN
    RETURN 0;
  END;
  SELECT pg_snapshot_xmin(s.now), pg_snapshot_xmax(s.now) INTO horizon, next_xid
    FROM (SELECT pg_current_snapshot() AS now) s;
  FOR u IN SELECT w.user_id, w.failures FROM mana_ai.erasures_under_way w
            WHERE w.user_id = ANY (users) ORDER BY w.user_id LOOP
    -- A failure does not prevent the completion of other users' erasures.
    BEGIN
      -- A user without a digest was readmitted.
      DELETE FROM mana_ai.erasures_under_way w
       WHERE w.user_id = u.user_id
         AND NOT EXISTS (SELECT FROM mana_ai.erased_users e WHERE e.user_digest = mana_ai.digest_of_user(u.user_id));
      CONTINUE WHEN FOUND;
      UPDATE mana_ai.erasures_under_way w
         SET engines = ARRAY(SELECT e FROM unnest(w.engines) e WHERE e::text <> ALL (gone)),
             settle_after = coalesce(w.settle_after, next_xid)
       WHERE w.user_id = u.user_id
         AND (w.settle_after IS NULL OR w.engines && ARRAY(SELECT g::bigint FROM unnest(gone) g));
      -- A row from before a restore may name transactions that are far ahead.
      UPDATE mana_ai.erasures_under_way w SET settle_after = next_xid
       WHERE w.user_id = u.user_id AND w.settle_after > next_xid;
      CONTINUE WHEN NOT EXISTS (SELECT FROM mana_ai.erasures_under_way w
                                 WHERE w.user_id = u.user_id AND w.engines = '{}' AND w.settle_after <= horizon);
      SELECT coalesce(sum(r.kept) FILTER (WHERE r.table_name <> 'mana_ai.decrypt_audit'), 0),
             coalesce(sum(r.kept) FILTER (WHERE r.table_name = 'mana_ai.decrypt_audit'), 0)
        INTO left_over, audit_kept
        FROM mana_ai.erase_rows_of_user(u.user_id) r;
      -- The errors of the last tick name missions.
      SELECT array_agg(e.error) INTO errors_of_user
        FROM mana_ai.engine_state s CROSS JOIN LATERAL unnest(s.errors) AS e(error)
       WHERE EXISTS (SELECT FROM mana_ai.erasures_under_way w CROSS JOIN LATERAL unnest(w.missions) AS m(id)
                      WHERE w.user_id = u.user_id
                        AND starts_with(e.error, 'mission ' || mana_ai.printable_id(m.id) || ': '));
      UPDATE mana_ai.engine_state s
         SET errors = ARRAY(SELECT e.error FROM unnest(s.errors) WITH ORDINALITY AS e(error, place)
                             WHERE e.error <> ALL (errors_of_user) ORDER BY e.place)
       WHERE s.errors && errors_of_user;
      -- A process that had begun to plan must first learn of the erasure.
      DELETE FROM mana_ai.erasures_under_way w
       WHERE w.user_id = u.user_id AND w.engines = '{}' AND left_over = 0;
      IF FOUND THEN
        PERFORM mana_ai.erase_user_from_crashes(u.user_id);
        PERFORM mana_ai.write_to_log(format('the erasure of a user is complete: digest=%s audit_kept=%s',
                  mana_ai.digest_of_user(u.user_id), audit_kept));
      END IF;
    EXCEPTION WHEN OTHERS THEN
      failed := failed + 1;
      UPDATE mana_ai.erasures_under_way w SET failures = w.failures + 1 WHERE w.user_id = u.user_id;
      IF u.failures % 100 = 0 THEN
        PERFORM mana_ai.write_to_log(format('the erasure of a user cannot be completed at the moment: digest=%s failures=%s SQLSTATE=%s',
                  mana_ai.digest_of_user(u.user_id), u.failures + 1, SQLSTATE));
      END IF;
    END;
  END LOOP;
  RETURN failed;
END $$;

-- Compares digests that were added in another way, by a publisher or from a dump after the log was folded, with the
-- stored data. All users are compared, so only once for the same digests and the same fold. Each call compares 500 users
-- and takes the result of the previous call, nulls at first; last_user: null = all are compared.
CREATE FUNCTION mana_ai.begin_missed_erasures(INOUT compared text, INOUT last_user text)
RETURNS record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
  few CONSTANT int := 500;
  slice        text[];
  u            record;
BEGIN
  IF compared IS NULL OR last_user IS NULL THEN
    SELECT format('%s %s %s', count(*), sum(hashtextextended(e.user_digest, 0)),
                  (SELECT f.folded_at FROM mana_ai.folded_log f))
      INTO compared FROM mana_ai.erased_users e;
    last_user := '';
    IF EXISTS (SELECT FROM mana_ai.engine_state s WHERE s.compared_digests = compared) THEN
      last_user := NULL;
      RETURN;
    END IF;
  END IF;
  -- A few index lookups for each user, however many rows they have.
  WITH RECURSIVE users(user_id, place) AS (
    SELECT last_user COLLATE "C", 0
     UNION ALL
    SELECT least((SELECT min(m.user_id) FROM mana_ai.mission_schedule m WHERE m.user_id > w.user_id),
                 (SELECT min(a.user_id) FROM mana_ai.agent_snapshots a WHERE a.user_id > w.user_id),
                 (SELECT min(r.user_id) FROM mana_ai.runs r WHERE r.user_id > w.user_id),
                 (SELECT min(t.user_id) FROM mana_ai.token_usage t WHERE t.user_id > w.user_id),
                 (SELECT min(e.user_id) FROM mana_ai.evaluation_runs e WHERE e.user_id > w.user_id)),
           w.place + 1
      FROM users w WHERE w.user_id IS NOT NULL AND w.place < few)
  SELECT array_agg(w.user_id ORDER BY w.place) INTO slice
    FROM users w WHERE w.place > 0 AND w.user_id IS NOT NULL;
  -- The lock keeps the digest until the erasure has begun: a readmission waits, and then sees it.
  FOR u IN
    WITH digests AS MATERIALIZED (
      SELECT x.user_id, mana_ai.digest_of_user(x.user_id) AS digest FROM unnest(slice) AS x(user_id))
    SELECT d.user_id FROM digests d JOIN mana_ai.erased_users e ON e.user_digest = d.digest
     WHERE NOT EXISTS (SELECT FROM mana_ai.erasures_under_way w WHERE w.user_id = d.user_id)
       FOR KEY SHARE OF e
  LOOP
    PERFORM mana_ai.begin_erasure(u.user_id);
  END LOOP;
  last_user := CASE WHEN cardinality(slice) = few THEN slice[few] END;
  IF last_user IS NULL THEN
    UPDATE mana_ai.engine_state s SET compared_digests = compared;
  END IF;
END $$;

CREATE FUNCTION mana_ai.readmit_user(user_id text)
RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  was_erased boolean;
BEGIN
  DELETE FROM mana_ai.erased_users e WHERE e.user_digest = mana_ai.digest_of_user(readmit_user.user_id);
  was_erased := FOUND;
  -- Afterwards: a concurrent erasure of the user has then ended.
  IF EXISTS (SELECT FROM mana_ai.erasures_under_way u WHERE u.user_id = readmit_user.user_id) THEN
    RAISE EXCEPTION 'the erasure of the user is still under way'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'The worker completes it when transactions that had begun before are over.';
  END IF;
  IF NOT was_erased THEN
    RETURN false;
  END IF;
  -- All records of the user are rebuilt from the rows that the log still has.
  INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
  VALUES (readmit_user.user_id, '', '', 'user was readmitted');
  PERFORM mana_ai.wake_worker();
  PERFORM mana_ai.write_to_log(format('an erased user was readmitted: by=%s digest=%s', session_user,
            mana_ai.digest_of_user(readmit_user.user_id)));
  RETURN true;
END $$;
COMMENT ON FUNCTION mana_ai.readmit_user(text) IS
  'has mana_ai work for an erased user again, beginning with what sync_changes holds; false: was not erased';

CREATE FUNCTION mana_ai.export_user(user_id text, OUT table_name text, OUT record jsonb)
RETURNS SETOF record LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
  t record;
BEGIN
  IF export_user.user_id IS NULL THEN
    RAISE EXCEPTION 'user id must not be null'
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  FOR t IN SELECT * FROM mana_ai.tables_of_users() LOOP
    RETURN QUERY EXECUTE format('SELECT %L::text, to_jsonb(t) FROM mana_ai.%I t WHERE %s',
                                'mana_ai.' || t.table_name, t.table_name, t.condition)
           USING export_user.user_id;
  END LOOP;
END $$;
COMMENT ON FUNCTION mana_ai.export_user(text) IS
  'everything that mana_ai holds of a user, a row of each table as JSON; decrypts nothing';

REVOKE ALL ON mana_ai.erased_users, mana_ai.erasures_under_way FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.forget_known_erasures(), mana_ai.digest_of_user(text), mana_ai.tables_of_users(),
  mana_ai.erase_rows_of_user(text), mana_ai.erase_user_from_crashes(text), mana_ai.write_to_log(text),
  mana_ai.erase_agent_from_metrics(text), mana_ai.is_agent_of(text, text), mana_ai.printable_id(text),
  mana_ai.begin_erasure(text), mana_ai.begin_missed_erasures(text, text),
  mana_ai.log_rows_of_user(text), mana_ai.erase_user(text), mana_ai.settle_erasures(text[], text[]),
  mana_ai.readmit_user(text), mana_ai.export_user(text) FROM PUBLIC;
-- ---------------------------------------------------------------- what runs were based on
-- clocks: of the fields that prompts are made of (include/mana_ai/extension/sync/clock_vector.hpp); null = the log
-- does not tell. role: 'mission', 'agent', 'input', 'linked'. Only mana_ai writes these tables, and their values have no
-- CHECK: PostgreSQL reads its expression again in each statement.
CREATE TABLE mana_ai.run_reads (
  run_id        uuid     NOT NULL,
  ordinal       smallint NOT NULL,
  user_id       text COLLATE "C" NOT NULL,
  role          text     NOT NULL,
  module        text,
  table_name    text     NOT NULL,
  record_id     text     NOT NULL,
  clocks        bytea,
  was_encrypted boolean  NOT NULL,
  left_out      text,
  PRIMARY KEY (run_id, ordinal)
);
COMMENT ON TABLE mana_ai.run_reads IS
  'the records that runs have read, with the clocks that their fields had then';

-- sha256, bytes: null if the body contains opened or fetched text, which could be found by trial from them.
-- agent_tokens: what the agent had used before the run, which a reminder may name. purpose: 'plan' or 'compaction'.
-- research: 'used', 'failed' or null.
CREATE TABLE mana_ai.run_requests (
  run_id           uuid        NOT NULL,
  ordinal          smallint    NOT NULL,
  user_id          text COLLATE "C" NOT NULL,
  purpose          text        NOT NULL,
  round            smallint    NOT NULL,
  sha256           bytea,
  bytes            bigint,
  sent_at          timestamptz NOT NULL,
  model            text        NOT NULL,
  max_tokens       bigint      NOT NULL,
  service_tier     text,
  prompt_cache_key boolean     NOT NULL,
  agent_tokens     bigint      NOT NULL,
  prompt_version   text        NOT NULL,
  local_time       timestamp   NOT NULL,
  research         text,
  PRIMARY KEY (run_id, ordinal)
);
COMMENT ON TABLE mana_ai.run_requests IS
  'the requests that runs have sent to models: digests of their bodies, and what shaped them';

ALTER TABLE mana_ai.run_reads ENABLE ROW LEVEL SECURITY;
ALTER TABLE mana_ai.run_reads FORCE ROW LEVEL SECURITY;
CREATE POLICY run_reads_own_rows ON mana_ai.run_reads FOR SELECT
  USING (user_id = current_setting('app.current_user_id', true));
ALTER TABLE mana_ai.run_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE mana_ai.run_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY run_requests_own_rows ON mana_ai.run_requests FOR SELECT
  USING (user_id = current_setting('app.current_user_id', true));

SELECT pg_catalog.pg_extension_config_dump('mana_ai.run_reads', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.run_requests', '');
-- With the privileges of its caller: row-level security decides what it sees of the log and of these tables.
CREATE FUNCTION mana_ai.rebuild_request(
  run_id uuid, OUT request int, OUT purpose text, OUT round int, OUT sha256 text, OUT status text, OUT reason text,
  OUT body text)
RETURNS SETOF record LANGUAGE c STABLE STRICT PARALLEL UNSAFE ROWS 5
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_rebuild_request';
COMMENT ON FUNCTION mana_ai.rebuild_request(uuid) IS
  'the requests of a past run, made again from the log; their digests are those that were recorded';

-- Plans whose records have changed since (docs/lineage.md).
--
-- The functions return when a record that a run has read was changed: null = it was not, infinity = at an unknown time,
-- -infinity = it is unknown whether it was.

-- A change of one of these fields. The seen clocks may be those of more fields.
CREATE FUNCTION mana_ai.changed_since(record jsonb, clocks bytea, fields text[], seen text)
RETURNS timestamptz LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_changed_since';

-- By the results of clocks_of_fields(), then and now.
CREATE FUNCTION mana_ai.change_of_clocks(seen text, now text)
RETURNS timestamptz LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_change_of_clocks';

-- A record that a mission refers to, read under the policies for its user. linked_seen: null = the run could not read it.
CREATE FUNCTION mana_ai.input_changed_since(
  user_id text, module text, table_name text, record_id text, seen text, linked_id text, linked_seen text)
RETURNS timestamptz LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_input_changed_since';

-- The agent of this id for a mission of the user. seen: null = there was none; begins with fe = it was another member's,
-- of which less is read.
CREATE FUNCTION mana_ai.agent_changed_since(user_id text, agent_id text, space_id text, seen text)
RETURNS timestamptz LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE
           WHEN h.is_ambiguous THEN timestamptz 'infinity'
           WHEN h.record IS NOT NULL AND h.read_clocks IS NULL THEN '-infinity'
           WHEN h.record IS NOT NULL AND starts_with($4, 'fe') THEN mana_ai.change_of_clocks(substr($4, 3), h.read_clocks)
           WHEN h.record IS NOT NULL THEN 'infinity'
           WHEN o.record IS NULL AND $4 IS NULL THEN NULL
           WHEN o.record IS NULL OR $4 IS NULL OR starts_with($4, 'fe') THEN 'infinity'
           WHEN mana_ai.raw_size(o.record, o.clocks) > pg_size_bytes(current_setting('mana_ai.max_record_size')) THEN '-infinity'
           ELSE mana_ai.changed_since(o.record, o.clocks, ARRAY['name', 'role', 'systemPrompt', 'memory', 'policy'], $4) END
    FROM (SELECT 1) one
    LEFT JOIN mana_ai.agent_snapshots o ON o.user_id = $1 AND o.agent_id = $2
    LEFT JOIN LATERAL (SELECT * FROM mana_ai.shared_agent($1, $2, $3)
                        WHERE o.record IS NULL OR ($3 IS NOT NULL AND NOT o.record ? 'name')) h ON true
$$;

-- A mission's iterations do not count: its plan is one of them. Results of resolvers are unknown.
CREATE FUNCTION mana_ai.stale_reads(
  run_id uuid, OUT role text, OUT module text, OUT table_name text, OUT record_id text, OUT state text,
  OUT changed_at timestamptz)
RETURNS SETOF record LANGUAGE sql VOLATILE STRICT SECURITY DEFINER ROWS 2
SET search_path = pg_catalog, pg_temp SET row_security = on AS $$
  SELECT r.role, r.module, r.table_name, r.record_id, CASE WHEN c.at = '-infinity' THEN 'unknown' ELSE 'changed' END,
         CASE WHEN isfinite(c.at) THEN c.at END
    FROM mana_ai.run_reads r
    LEFT JOIN mana_ai.run_reads l ON l.run_id = r.run_id AND l.ordinal = r.ordinal + 1 AND l.role = 'linked'
    LEFT JOIN mana_ai.run_reads o ON o.run_id = r.run_id AND r.role = 'agent' AND o.role = 'mission'
    LEFT JOIN mana_ai.mission_snapshots m
      ON m.user_id = r.user_id AND m.mission_id = CASE r.role WHEN 'mission' THEN r.record_id ELSE o.record_id END
   CROSS JOIN LATERAL (
     SELECT CASE r.role
       WHEN 'mission' THEN
         CASE WHEN m.record IS NULL THEN timestamptz 'infinity'
              WHEN r.clocks IS NULL OR mana_ai.raw_size(m.record, m.clocks) > pg_size_bytes(current_setting('mana_ai.max_record_size'))
              THEN '-infinity'
              ELSE mana_ai.changed_since(m.record, m.clocks, ARRAY['title', 'objective', 'conceptMarkdown', 'inputs', 'agentId'],
                                         encode(r.clocks, 'hex')) END
       WHEN 'agent' THEN
         mana_ai.agent_changed_since(r.user_id, r.record_id, m.space_id,
                                     CASE WHEN r.left_out IS NULL THEN coalesce(encode(r.clocks, 'hex'), '') END)
       WHEN 'input' THEN
         mana_ai.input_changed_since(r.user_id, r.module, r.table_name, r.record_id,
                                     CASE WHEN r.left_out IS NULL THEN coalesce(encode(r.clocks, 'hex'), '') END,
                                     l.record_id,
                                     CASE WHEN l.left_out IS NULL THEN coalesce(encode(l.clocks, 'hex'), '') END)
       END AS at) c
   WHERE r.run_id = $1 AND (r.left_out IS NULL OR r.left_out = 'missing') AND c.at IS NOT NULL
   ORDER BY r.ordinal
$$;
COMMENT ON FUNCTION mana_ai.stale_reads(uuid) IS
  'the records of a run that are others now than it has read, and since when; or of which that cannot be told';

-- By the rule of mana_ai.max_unreviewed.
CREATE FUNCTION mana_ai.waiting_plans(record jsonb)
RETURNS text[] LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_waiting_plans';
COMMENT ON FUNCTION mana_ai.waiting_plans(jsonb) IS
  'the ids of the iterations of a mission''s record that wait for their user; null when it is too large';

-- A function, since a view on the column would keep administrators from altering it. Of a record that is too large to be
-- read all recent plans may wait.
CREATE FUNCTION mana_ai.waiting_plans(user_id text, mission_id text)
RETURNS SETOF text LANGUAGE sql STABLE STRICT SECURITY DEFINER ROWS 1
SET search_path = pg_catalog, pg_temp AS $$
  SELECT unnest(coalesce(mana_ai.waiting_plans(m.record),
                         (SELECT array_agg(r.iteration_id) FROM mana_ai.runs r
                           WHERE r.mission_id = m.mission_id AND r.user_id = m.user_id AND r.outcome = 'planned'
                             AND r.started_at > clock_timestamp() - interval '7 days')))
    FROM mana_ai.mission_snapshots m WHERE m.user_id = $1 AND m.mission_id = $2
$$;
COMMENT ON FUNCTION mana_ai.waiting_plans(text, text) IS
  'the ids of the iterations of a mission that wait for their user, or may wait if its record is too large';

-- Waiting plans are at most a week old, and a run takes less than a day.
CREATE VIEW mana_ai.stale_plans AS
SELECT r.user_id, r.mission_id, r.run_id, r.iteration_id, r.finished_at AS planned_at, s.role, s.module, s.table_name,
       s.record_id, s.state, s.changed_at
  FROM mana_ai.mission_snapshots m
 CROSS JOIN LATERAL mana_ai.waiting_plans(m.user_id, m.mission_id) AS w(iteration_id)
 CROSS JOIN LATERAL (SELECT * FROM mana_ai.runs x
                      WHERE x.mission_id = m.mission_id AND x.user_id = m.user_id AND x.outcome = 'planned'
                        AND x.iteration_id = w.iteration_id AND x.started_at > clock_timestamp() - interval '8 days'
                     OFFSET 0) r  -- one plan after the other
 CROSS JOIN LATERAL mana_ai.stale_reads(r.run_id) s;
COMMENT ON VIEW mana_ai.stale_plans IS
  'plans that wait for their user, with each record that has changed since they were made, or of which nobody can tell';

-- For why() and the page: the first three records of a waiting plan that have changed. Not for plans with very many
-- records, since all of them are read.
CREATE FUNCTION mana_ai.stale_records(user_id text, run_id uuid)
RETURNS text[] LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET mana_ai.sync_table_timeout = '100ms' AS $$
  SELECT CASE WHEN clock_timestamp() < statement_timestamp() + interval '2 seconds' THEN (
  SELECT array_agg(format('%s of %s', left(c.record_id, 100), left(c.table_name, 100)))
    FROM (SELECT s.record_id, s.table_name
            FROM mana_ai.runs r
           CROSS JOIN LATERAL mana_ai.waiting_plans(r.user_id, r.mission_id) AS w(iteration_id)
           CROSS JOIN LATERAL mana_ai.stale_reads(r.run_id) s
           WHERE r.user_id = $1 AND r.run_id = $2 AND r.outcome = 'planned' AND r.iteration_id = w.iteration_id
             AND s.state = 'changed' AND (SELECT count(*) FROM mana_ai.run_reads x WHERE x.run_id = $2) <= 50
           LIMIT 3) c) END
$$;

REVOKE ALL ON mana_ai.run_reads, mana_ai.run_requests, mana_ai.stale_plans FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.rebuild_request(uuid), mana_ai.stale_reads(uuid), mana_ai.waiting_plans(jsonb), mana_ai.waiting_plans(text, text), mana_ai.stale_records(text, uuid),
  mana_ai.changed_since(jsonb, bytea, text[], text),
  mana_ai.change_of_clocks(text, text), mana_ai.agent_changed_since(text, text, text, text),
  mana_ai.input_changed_since(text, text, text, text, text, text, text) FROM PUBLIC;

-- ---------------------------------------------------------------- what another model would have planned
-- Reads with the privileges of its caller, like rebuild_request(). The model call is made and charged by a background
-- process, at the expense of all users together.
CREATE FUNCTION mana_ai.what_if(
  run_id uuid, model text DEFAULT NULL,
  OUT run_id uuid, OUT status text, OUT reason text, OUT model text, OUT steps jsonb, OUT planned_steps jsonb,
  OUT accepted_steps jsonb, OUT difference jsonb, OUT rounds int, OUT prompt_tokens bigint, OUT cached_tokens bigint,
  OUT completion_tokens bigint, OUT tokens bigint, OUT cost numeric, OUT currency text, OUT duration interval)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_what_if';
COMMENT ON FUNCTION mana_ai.what_if(uuid, text) IS
  'what another model would have planned in a past run, and how that differs; paid for, and not written to the user';

-- The mission's latest run.
CREATE FUNCTION mana_ai.what_if(
  user_id text, mission_id text, model text,
  OUT run_id uuid, OUT status text, OUT reason text, OUT model text, OUT steps jsonb, OUT planned_steps jsonb,
  OUT accepted_steps jsonb, OUT difference jsonb, OUT rounds int, OUT prompt_tokens bigint, OUT cached_tokens bigint,
  OUT completion_tokens bigint, OUT tokens bigint, OUT cost numeric, OUT currency text, OUT duration interval)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_what_if_of_mission';
COMMENT ON FUNCTION mana_ai.what_if(text, text, text) IS
  'the same for the latest run of a mission';

-- Evaluations: many past runs, one after the other (docs/lineage.md). Only ids and figures are stored. ended: why;
-- null: in progress, or interrupted if the process with the number "engine" no longer exists.
CREATE TABLE mana_ai.evaluations (
  evaluation_id uuid PRIMARY KEY,
  model         text COLLATE "C" NOT NULL,
  since         timestamptz NOT NULL,
  sample        int         NOT NULL,
  max_tokens    bigint      NOT NULL,
  max_cost      numeric,
  started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  started_by    text        NOT NULL,
  ended_at      timestamptz,
  ended         text,
  engine        bigint      NOT NULL,
  tokens        bigint      NOT NULL DEFAULT 0,
  cost          numeric,
  currency      text COLLATE "C",
  has_unpriced  boolean     NOT NULL DEFAULT false  -- some replies have no price in that currency
);
COMMENT ON TABLE mana_ai.evaluations IS 'samples of past runs that another model was asked about';

-- status: null = not asked yet. accepted_*: of the steps that the user's device had approved when the run was asked about.
-- planned_tokens, planned_cost: of the run itself.
CREATE TABLE mana_ai.evaluation_runs (
  evaluation_id      uuid   NOT NULL,
  run_id             uuid   NOT NULL,
  ordinal            int    NOT NULL,
  user_id            text COLLATE "C" NOT NULL,
  mission_id         text COLLATE "C" NOT NULL,
  status             text,
  asked_at           timestamptz,
  planned_steps      int,
  accepted_steps     int,
  steps              int,
  same               int,
  added              int,
  missing            int,
  same_tool          int,
  accepted_same      int,
  accepted_same_tool int,
  rounds             int    NOT NULL DEFAULT 0,
  prompt_tokens      bigint NOT NULL DEFAULT 0,
  cached_tokens      bigint NOT NULL DEFAULT 0,
  completion_tokens  bigint NOT NULL DEFAULT 0,
  tokens             bigint NOT NULL DEFAULT 0,
  cost               numeric,
  currency           text COLLATE "C",
  planned_tokens     bigint,
  planned_cost       numeric,
  planned_currency   text COLLATE "C",
  PRIMARY KEY (evaluation_id, run_id)
);
COMMENT ON TABLE mana_ai.evaluation_runs IS
  'the past runs of evaluations: how the other model''s plans differ, and what they have cost';
ALTER TABLE mana_ai.evaluation_runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE mana_ai.evaluation_runs FORCE ROW LEVEL SECURITY;
CREATE POLICY evaluation_runs_own_rows ON mana_ai.evaluation_runs FOR SELECT
  USING (user_id = current_setting('app.current_user_id', true));
CREATE INDEX evaluation_runs_of_user ON mana_ai.evaluation_runs (user_id);
SELECT pg_catalog.pg_extension_config_dump('mana_ai.evaluations', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.evaluation_runs', '');

-- What a token of a call of the model costs at most; null without a price.
CREATE FUNCTION mana_ai.dearest_token(model text, service_tier text, OUT price numeric, OUT currency text)
RETURNS record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  SELECT max(k.cost) / 1000000, min(k.currency) INTO dearest_token.price, dearest_token.currency
    FROM (VALUES (1000000, 1000000), (0, 1000000)) AS t(prompt, total)
   CROSS JOIN LATERAL mana_ai.cost_of(dearest_token.model, dearest_token.service_tier, clock_timestamp(), t.prompt, 0, t.total) k;
END $$;

-- The lock is that of a process's number (LockKey::Engine).
CREATE VIEW mana_ai.evaluation_report AS
SELECT e.evaluation_id, e.model,
       coalesce(e.ended, CASE WHEN EXISTS (
         SELECT FROM pg_locks l
          WHERE l.locktype = 'advisory' AND l.classid = 2 AND l.objsubid = 28001 AND l.objid::bigint = e.engine
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
       THEN 'running' ELSE 'interrupted' END) AS state,
       e.since, e.sample, e.started_at, e.started_by, e.ended_at,
       r.runs, r.asked, r.comparable, r.planned_steps, r.accepted_steps, r.same, r.added, r.missing,
       r.accepted_same, r.accepted_same_tool,
       round(r.accepted_same::numeric / nullif(r.accepted_steps, 0), 4) AS accepted_share,
       round(r.accepted_same_tool::numeric / nullif(r.accepted_steps, 0), 4) AS accepted_share_by_tool,
       e.max_tokens, e.tokens, r.tokens_per_run, r.planned_tokens_per_run,
       e.max_cost, e.cost, e.currency, r.cost_per_run, r.planned_cost_per_run, r.planned_currency
  FROM mana_ai.evaluations e
 CROSS JOIN LATERAL (
   SELECT count(*)::int AS runs, count(x.status)::int AS asked,
          count(*) FILTER (WHERE x.status = 'planned')::int AS comparable,
          sum(x.planned_steps) FILTER (WHERE x.status = 'planned')::bigint AS planned_steps,
          sum(x.accepted_steps) FILTER (WHERE x.status = 'planned')::bigint AS accepted_steps,
          sum(x.same)::bigint AS same, sum(x.added)::bigint AS added, sum(x.missing)::bigint AS missing,
          sum(x.accepted_same)::bigint AS accepted_same, sum(x.accepted_same_tool)::bigint AS accepted_same_tool,
          round(avg(x.tokens) FILTER (WHERE x.status = 'planned'))::bigint AS tokens_per_run,
          round(avg(x.planned_tokens) FILTER (WHERE x.status = 'planned'))::bigint AS planned_tokens_per_run,
          round(avg(x.cost) FILTER (WHERE x.status = 'planned' AND x.currency = e.currency), 6) AS cost_per_run,
          CASE WHEN count(DISTINCT x.planned_currency) FILTER (WHERE x.status = 'planned') = 1
               THEN round(avg(x.planned_cost) FILTER (WHERE x.status = 'planned'), 6) END AS planned_cost_per_run,
          CASE WHEN count(DISTINCT x.planned_currency) FILTER (WHERE x.status = 'planned') = 1
               THEN min(x.planned_currency) FILTER (WHERE x.status = 'planned') END AS planned_currency
     FROM mana_ai.evaluation_runs x WHERE x.evaluation_id = e.evaluation_id) r;
COMMENT ON VIEW mana_ai.evaluation_report IS
  'evaluations: would the other model have planned the steps that users have accepted, and at what price';

-- Reads with the privileges of its caller. Each run is recorded as soon as it is paid for, whatever becomes of the call.
CREATE FUNCTION mana_ai.evaluate(
  since timestamptz, model text, sample int, max_tokens bigint, max_cost numeric DEFAULT NULL)
RETURNS mana_ai.evaluation_report LANGUAGE c VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_evaluate';
COMMENT ON FUNCTION mana_ai.evaluate(timestamptz, text, int, bigint, numeric) IS
  'asks another model about a sample of the runs since then, within a budget, and reports how its plans differ';

CREATE FUNCTION mana_ai.evaluate(
  period interval, model text, sample int, max_tokens bigint, max_cost numeric DEFAULT NULL)
RETURNS mana_ai.evaluation_report LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT mana_ai.evaluate(clock_timestamp() - $1, $2, $3, $4, $5)
$$;
COMMENT ON FUNCTION mana_ai.evaluate(interval, text, int, bigint, numeric) IS
  'the same for the runs of the last days';

CREATE FUNCTION mana_ai.continue_evaluation(
  evaluation_id uuid, max_tokens bigint DEFAULT NULL, max_cost numeric DEFAULT NULL)
RETURNS mana_ai.evaluation_report LANGUAGE c VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_continue_evaluation';
COMMENT ON FUNCTION mana_ai.continue_evaluation(uuid, bigint, numeric) IS
  'goes on with an evaluation that was interrupted, or whose budget was spent; null: the limit as before';

REVOKE ALL ON mana_ai.evaluations, mana_ai.evaluation_runs, mana_ai.evaluation_report FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.what_if(uuid, text), mana_ai.what_if(text, text, text), mana_ai.dearest_token(text, text),
  mana_ai.evaluate(timestamptz, text, int, bigint, numeric), mana_ai.evaluate(interval, text, int, bigint, numeric),
  mana_ai.continue_evaluation(uuid, bigint, numeric) FROM PUBLIC;
GRANT SELECT ON mana_ai.evaluation_report TO pg_monitor;

-- ---------------------------------------------------------------- waking on data
-- Waking on data (docs/contract/data.md). A mission that is to be planned when its inputs change: the changes since its last
-- plan, and when it is woken for them; null = there are none. woken: when that was done in the last hour.
CREATE TABLE mana_ai.input_watches (
  user_id         text COLLATE "C" NOT NULL,
  mission_id      text COLLATE "C" NOT NULL,
  debounce        interval    NOT NULL,
  min_interval    interval    NOT NULL,
  planned_at      timestamptz,
  changed_at      timestamptz,
  last_changed_at timestamptz,
  wake_at         timestamptz,
  woken           timestamptz[] NOT NULL DEFAULT '{}',
  PRIMARY KEY (user_id, mission_id)
);
CREATE INDEX input_watches_wake_at ON mana_ai.input_watches (wake_at) WHERE wake_at IS NOT NULL;

-- The records that these missions wait for. A row's hash is in the filter of shared memory before it is committed.
CREATE TABLE mana_ai.watched_records (
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  mission_id text COLLATE "C" NOT NULL,
  PRIMARY KEY (user_id, table_name, record_id, mission_id)
) USING heap;
CREATE INDEX watched_records_of_mission ON mana_ai.watched_records (user_id, mission_id);

-- Changes of such records, written by the trigger in the transaction of the change, until the worker has taken them; of
-- missions: they may have other inputs now. Empty ids of the record: a transaction has changed very many of the user.
CREATE TABLE mana_ai.input_changes (
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  id         uuid PRIMARY KEY DEFAULT gen_random_uuid()
) USING heap;
CREATE INDEX input_changes_of_user ON mana_ai.input_changes (user_id, table_name, record_id);

-- Made on each server (see mana_ai.drop_replicated_row()).
DO $$
DECLARE
  made_here text;
BEGIN
  FOREACH made_here IN ARRAY ARRAY['input_watches', 'watched_records', 'input_changes'] LOOP
    EXECUTE format('CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.%I'
                   ' FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row()', made_here);
    EXECUTE format('ALTER TABLE mana_ai.%I ENABLE REPLICA TRIGGER mana_ai_drop_replicated', made_here);
  END LOOP;
END $$;

-- For why(): what a mission that its inputs wake waits for; null = it is not one.
CREATE FUNCTION mana_ai.waits_for_change(user_id text, mission_id text)
RETURNS text LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN w.wake_at IS NULL THEN 'waits for a change of its inputs'
              ELSE format('an input was changed at %s; woken for that at %s', w.last_changed_at, w.wake_at) END
    FROM mana_ai.input_watches w WHERE w.user_id = $1 AND w.mission_id = $2
$$;

REVOKE ALL ON mana_ai.input_watches, mana_ai.watched_records, mana_ai.input_changes FROM PUBLIC;
REVOKE ALL ON FUNCTION mana_ai.waits_for_change(text, text) FROM PUBLIC;

-- For the page's brake: null, or what is wrong. Without a reason it resumes. Whoever has the service key may use it.
CREATE FUNCTION mana_ai.http_brake(scope text, reason text)
RETURNS text LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF http_brake.reason IS NULL THEN
    PERFORM mana_ai.resume(http_brake.scope);
    UPDATE mana_ai.stops t SET resumed_by = 'page' WHERE t.scope = http_brake.scope AND t.resumed_at >= now();
  ELSE
    PERFORM mana_ai.stop(http_brake.scope, http_brake.reason);
    UPDATE mana_ai.stops t SET stopped_by = 'page'
     WHERE t.scope = http_brake.scope AND t.resumed_at IS NULL AND t.stopped_at >= now();
  END IF;
  RETURN NULL;
EXCEPTION WHEN invalid_parameter_value OR object_not_in_prerequisite_state THEN
  RETURN SQLERRM;
END $$;
REVOKE ALL ON FUNCTION mana_ai.http_brake(text, text) FROM PUBLIC;
