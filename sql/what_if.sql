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
