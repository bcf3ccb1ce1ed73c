-- What another model would have planned (docs/lineage.md).

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
