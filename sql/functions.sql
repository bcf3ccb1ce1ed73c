-- Running missions (docs/contract/interface.md, Functions).
CREATE FUNCTION mana_ai.run_tick(
  OUT scanned_at timestamptz, OUT due_mission_count int, OUT plans_produced int,
  OUT plans_written_back int, OUT parse_failures int, OUT skipped int, OUT errors text[])
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_run_tick';
COMMENT ON FUNCTION mana_ai.run_tick() IS
  'plans all missions that are due, in a background worker, and returns the counts';

CREATE FUNCTION mana_ai.run_mission(
  user_id text, mission_id text,
  OUT outcome text, OUT iteration_id text, OUT steps int, OUT rounds int, OUT tokens bigint,
  OUT error text)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_run_mission';
COMMENT ON FUNCTION mana_ai.run_mission(text, text) IS
  'plans one mission now, whether it is due or not; the gates apply';

CREATE FUNCTION mana_ai.next_run(cadence jsonb, from_time timestamptz, timezone text)
RETURNS timestamptz LANGUAGE c STABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_next_run';
COMMENT ON FUNCTION mana_ai.next_run(jsonb, timestamptz, text) IS
  'the next run of a cadence after the given time; null for manual and for what is no cadence';

-- What is wrong with a mission's record; empty if nothing is.
CREATE FUNCTION mana_ai.record_problems(record jsonb)
RETURNS text[] LANGUAGE c STABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'mana_ai_record_problems';

-- The decision of the gates on a mission that the worker would make now.
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

CREATE FUNCTION mana_ai.explain(
  user_id text, mission_id text,
  OUT system_prompt text, OUT user_prompt text, OUT tools jsonb, OUT decision text)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_explain';
COMMENT ON FUNCTION mana_ai.explain(text, text) IS
  'what a model would be told about the mission now; makes no call and opens nothing';
