-- Data of the HTTP endpoint (docs/contract/interface.md, HTTP endpoints). Only the endpoint's own process calls these, as
-- the extension's owner.

-- A text of a record for display: null if it was encrypted on the user's device, empty if there is none, the record no
-- longer exists, or is so large that reading many of them would take long.
CREATE FUNCTION mana_ai.readable_text(record jsonb, field text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN mana_ai.raw_size(record) > 4194304 THEN ''
              WHEN record ->> field LIKE 'enc:1:%' THEN NULL
              ELSE left(coalesce(record ->> field, ''), 200) END
$$;

-- Research in progress; empty while its table does not exist.
CREATE FUNCTION mana_ai.research_under_way()
RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  jobs jsonb;
BEGIN
  IF to_regclass('mana_ai.mission_research_jobs') IS NULL THEN
    RETURN '[]';
  END IF;
  EXECUTE $query$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
             'userId', j.user_id, 'missionId', j.mission_id,
             'title', mana_ai.readable_text(m.record, 'title'),
             'provider', j.provider_id, 'submittedAt', j.submitted_at,
             'lastPolledAt', j.last_polled_at) ORDER BY j.submitted_at), '[]')
      FROM (SELECT * FROM mana_ai.mission_research_jobs ORDER BY submitted_at LIMIT 50) j
      LEFT JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
  $query$ INTO jobs;
  RETURN jobs;
END $$;

-- Everything that the page shows. Null means an encrypted title or name; it contains nothing that was decrypted for a run.
CREATE FUNCTION mana_ai.http_status()
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

-- One user's rows of the audit, newest first, with the workbench's names.
CREATE FUNCTION mana_ai.http_audit(of_user text, of_mission text, max_rows int)
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
