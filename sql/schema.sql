-- The schema and its tables (docs/contract/interface.md, Tables).
DO $$
BEGIN
  IF getdatabaseencoding() <> 'UTF8' THEN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
      MESSAGE = format('mana_ai needs a database with encoding UTF8, this one has %s', getdatabaseencoding()),
      HINT = 'Create the database anew with ENCODING ''UTF8'' TEMPLATE template0.';
  END IF;
END $$;

-- This fails if the schema exists already: a schema that another role owns would not be safe.
CREATE SCHEMA mana_ai;

-- Ids are compared bytewise (COLLATE "C"): they are not sorted for readers, and the trigger looks up several of them in
-- every insert. Tables that the trigger writes are heaps (USING heap), whatever the database's default is.

-- The replay of every live mission. "clocks" holds the instant of each field's last write in the
-- form that include/mana_ai/core/record/clock_table.hpp describes. toast_tuple_target keeps ordinary records
-- inline and uncompressed: they are rewritten with every change of the mission.
CREATE TABLE mana_ai.mission_snapshots (
  user_id         text COLLATE "C" NOT NULL,
  mission_id      text COLLATE "C" NOT NULL,
  space_id        text,
  record          jsonb       NOT NULL,
  clocks          bytea       NOT NULL,
  version         bigint      NOT NULL,
  last_applied_at timestamptz NOT NULL,
  updated_at      timestamptz NOT NULL,
  problems        text[],
  PRIMARY KEY (user_id, mission_id)
) USING heap WITH (toast_tuple_target = 8160, fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
-- The result of record_problems(), null = none. Not indexed by updated_at: that changes with every change of the mission,
-- which would then cost an entry in every index.
CREATE INDEX mission_snapshots_problems ON mana_ai.mission_snapshots (user_id, mission_id)
 WHERE problems IS NOT NULL;

CREATE TABLE mana_ai.agent_snapshots (
  user_id         text COLLATE "C" NOT NULL,
  agent_id        text COLLATE "C" NOT NULL,
  space_id        text,
  record          jsonb       NOT NULL,
  clocks          bytea       NOT NULL,
  version         bigint      NOT NULL,
  last_applied_at timestamptz NOT NULL,
  updated_at      timestamptz NOT NULL,
  PRIMARY KEY (user_id, agent_id)
) USING heap WITH (toast_tuple_target = 8160, fillfactor = 70);
CREATE INDEX agent_snapshots_updated_at ON mana_ai.agent_snapshots (updated_at);

-- Deleted records. Concurrent changes of a deleted record serialize on its row here. was_whole: the record had a name, so
-- it was an agent and not a fragment of one.
CREATE TABLE mana_ai.record_tombstones (
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  deleted_at timestamptz NOT NULL,
  space_id   text,
  was_whole  boolean,
  PRIMARY KEY (user_id, table_name, record_id)
) USING heap;
-- Records of the same name that members of a space have. Not of the space's id, which may be of any length.
CREATE INDEX record_tombstones_shared ON mana_ai.record_tombstones (record_id) WHERE space_id IS NOT NULL;
CREATE INDEX mission_snapshots_shared ON mana_ai.mission_snapshots (mission_id) WHERE space_id IS NOT NULL;
CREATE INDEX agent_snapshots_shared ON mana_ai.agent_snapshots (agent_id) WHERE space_id IS NOT NULL;

-- The next check of a mission: wake_at is the later of due_at and not_before, or the expiry of the lease while a run holds
-- one; null = never. A tick scans the index on it, and by user if more is due than there is room for. research_spent: long
-- research was ordered and failed; no more is ordered until there is a new iteration. problem: not null if
-- mission_problems may have a row: 'failed', or the decision. held_since: since when the gates make the same decision.
-- told: the causes that the user was told by a failed iteration since the last plan.
CREATE TABLE mana_ai.mission_schedule (
  user_id         text COLLATE "C" NOT NULL,
  mission_id      text COLLATE "C" NOT NULL,
  wake_at         timestamptz,
  due_at          timestamptz,
  not_before      timestamptz,
  agent_id        text COLLATE "C",
  lease_owner     bigint,
  run_id          uuid,
  attempts        int         NOT NULL DEFAULT 0,
  decision        text,
  decided_at      timestamptz,
  error_kind      text,
  agent_version   bigint,
  plan_basis_digest text,
  research_spent  boolean     NOT NULL DEFAULT false,
  problem         text,
  held_since      timestamptz,
  told            text[],
  -- A device may have removed a plan: when the worker checks. Null = no check.
  check_iterations_at timestamptz,
  -- A reply that a budget has cut off at this length, in tokens; known for a day.
  cut_reply_length int,
  cut_reply_at     timestamptz,
  -- Since then due because an input has changed, whatever nextRunAt says; due_at is the earlier of the two.
  woken_at         timestamptz,
  PRIMARY KEY (user_id, mission_id)
) USING heap WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
-- Each run leaves two dead rows, with an entry in each index: the scale factor keeps them few where most missions wait.
CREATE INDEX mission_schedule_wake_at ON mana_ai.mission_schedule (wake_at);
CREATE INDEX mission_schedule_user ON mana_ai.mission_schedule (user_id, wake_at);
CREATE INDEX mission_schedule_agent ON mana_ai.mission_schedule (user_id, agent_id);
CREATE INDEX mission_schedule_check_iterations ON mana_ai.mission_schedule (check_iterations_at)
 WHERE check_iterations_at IS NOT NULL;
CREATE INDEX mission_schedule_problem ON mana_ai.mission_schedule (decided_at) WHERE problem IS NOT NULL;

-- Marks of records whose snapshot the trigger could not update, and that wait for repair from the log; with empty
-- table_name, of all records of a user. One row per record, but without a constraint: marking a record must not wait for
-- another transaction that marks it.
CREATE TABLE mana_ai.dirty_records (
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  reason     text        NOT NULL,
  ts         timestamptz NOT NULL DEFAULT clock_timestamp(),
  id         uuid        PRIMARY KEY DEFAULT gen_random_uuid()
) USING heap;
CREATE INDEX dirty_records_of_user ON mana_ai.dirty_records (user_id, table_name, record_id);

-- Records that are too large for a snapshot: replayed again after a newer row.
CREATE TABLE mana_ai.oversized_records (
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  ts         timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (user_id, table_name, record_id)
) USING heap;

-- One row per attempt at a mission; outcome 'running' is committed before the first model call.
CREATE TABLE mana_ai.runs (
  run_id            uuid        NOT NULL,
  user_id           text COLLATE "C" NOT NULL,
  mission_id        text COLLATE "C" NOT NULL,
  agent_id          text COLLATE "C",
  started_at        timestamptz NOT NULL,
  finished_at       timestamptz,
  -- 'running', 'planned', 'discarded', 'failed', 'skipped', 'canceled' or 'crashed'. Only mana_ai writes this table, and a
  -- CHECK would be read and prepared again for each of a run's updates.
  outcome           text        NOT NULL,
  decision          text        NOT NULL,
  rounds            int         NOT NULL DEFAULT 0,
  steps             int         NOT NULL DEFAULT 0,
  prompt_tokens     bigint      NOT NULL DEFAULT 0,
  completion_tokens bigint      NOT NULL DEFAULT 0,
  total_tokens      bigint      NOT NULL DEFAULT 0,
  model             text,
  iteration_id      text,
  error_kind        text,
  error_message     text,
  lease_owner       bigint,
  -- What the run was based on: [{module, table, id, clock, used, reason}], never any content.
  inputs            jsonb,
  prompt_version    text,
  -- The reservation in tokens for the run's next or present call; counts while the run is active.
  reserved_tokens   bigint      NOT NULL DEFAULT 0,
  -- "model" is the requested name; this is the model that answered, as the reply says.
  answered_by       text,
  cached_tokens     bigint      NOT NULL DEFAULT 0,
  reasoning_tokens  bigint      NOT NULL DEFAULT 0,
  -- When a change of an input made the mission due; null = due by its cadence, or manual.
  woken_at          timestamptz,
  PRIMARY KEY (user_id, run_id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
-- On a new table all usable indexes look equally good to the planner, and it keeps its choice while the table grows. So of
-- those without a predicate only the primary key begins with user_id. The fillfactor keeps the two to five updates of a
-- run off the indexes.
CREATE INDEX runs_of_mission ON mana_ai.runs (mission_id, user_id, started_at);
CREATE INDEX runs_started_at ON mana_ai.runs (started_at);
CREATE INDEX runs_running ON mana_ai.runs (user_id, agent_id) WHERE outcome = 'running';
CREATE INDEX runs_lease_owner ON mana_ai.runs (lease_owner) WHERE lease_owner IS NOT NULL;

-- The iterations that missions had when their runs began. A device may write an old copy during the run, and the log may
-- have lost the rows with the others. Rows are deleted with the end of their run.
CREATE UNLOGGED TABLE mana_ai.iterations_at_claim (
  user_id    text COLLATE "C" NOT NULL,
  run_id     uuid  NOT NULL,
  iterations jsonb NOT NULL,
  PRIMARY KEY (user_id, run_id)
);

-- Iterations that devices have overwritten and the worker has restored: how often, and whether it has given up. A row without
-- an iteration id is for the mission: how often putting back has failed.
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

-- What each model reply cost, written as soon as the reply arrives (docs/contract/tick.md, Budgets). "model" is the one that
-- answered; completion_tokens includes reasoning_tokens. cost is null as long as no price is known. What an operator asks of
-- a past run (what_if) counts only in budgets of all users together.
CREATE TABLE mana_ai.token_usage (
  user_id     text COLLATE "C" NOT NULL,
  agent_id    text COLLATE "C",
  mission_id  text COLLATE "C" NOT NULL,
  tokens_used int         NOT NULL,
  ts          timestamptz NOT NULL DEFAULT clock_timestamp(),
  id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
  run_id      uuid,
  model       text COLLATE "C" NOT NULL DEFAULT '',
  service_tier text COLLATE "C" NOT NULL DEFAULT '',
  prompt_tokens int,
  cached_tokens int,
  completion_tokens int,
  reasoning_tokens int,
  cost        numeric,
  currency    text COLLATE "C",
  purpose     text COLLATE "C" NOT NULL DEFAULT 'plan',  -- or 'what_if'
  CHECK ((cost IS NULL) = (currency IS NULL))
);
CREATE INDEX token_usage_ts ON mana_ai.token_usage (ts);
-- Also used for an agent and a mission: a user's rows of a day are few.
CREATE INDEX token_usage_of_user ON mana_ai.token_usage (user_id, ts) INCLUDE (tokens_used, purpose);
CREATE INDEX token_usage_of_run ON mana_ai.token_usage (run_id);
CREATE INDEX token_usage_unpriced ON mana_ai.token_usage (model, service_tier, ts)
 WHERE cost IS NULL AND prompt_tokens IS NOT NULL;
-- Research is charged under these names.
CREATE INDEX token_usage_research ON mana_ai.token_usage (user_id, model, ts) WHERE model IN ('web-research', 'deep-research');

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

-- The table whose history was folded; at most one row. Not dumped: after a restore the table with the trigger is a
-- different one, and the next tick folds its history. "generation" identifies the table's file (pg_relation_filenode) when
-- ties were last checked: a rewrite moves rows, and places of rows decide exact ties. "log_name" is the table's name: if
-- another table has that name now, the table was swapped. "clean" is false from the first pass of a worker until it ends
-- without unmarked changes.
CREATE TABLE mana_ai.folded_log (
  only_row  boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
  log       oid         NOT NULL,
  folded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  log_name  text,
  generation oid,
  clean boolean NOT NULL DEFAULT true
);

-- The leaves of a partitioned log that are folded. A partition that is attached with rows in it fires no trigger for them.
-- "trigger" is the clone that it got when it was attached, "generation" as in folded_log.
CREATE TABLE mana_ai.folded_leaves (
  leaf       oid PRIMARY KEY,
  trigger    oid NOT NULL,
  generation oid NOT NULL,
  folded_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The fold in batches that is under way: a row for each leaf of it, until the last one is folded. "blocks" are those that the
-- leaf had when its fold began; before block "agents_until" all rows of agents are folded, before "missions_until" those of
-- missions. All agents come first. "trigger" and "generation" are as in folded_leaves: of another file it begins anew.
-- "holds_claims": nothing is claimed until the agents, or all, are folded. "problem": why the next batch is not.
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

-- The last report of the engine; at most one row (docs/contract/interface.md, status()).
CREATE TABLE mana_ai.engine_state (
  only_row             boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  worker_pid           int,
  worker_state         text,
  worker_since         timestamptz,
  last_tick_at         timestamptz,
  last_tick_finished   timestamptz,
  last_tick_by         text,
  due_mission_count    int,
  plans_produced       int,
  plans_written_back   int,
  parse_failures       int,
  skipped              int,
  errors               text[],
  settings_fingerprint text,
  grant_key            text,
  grant_key_digest     text,
  problem              text,
  -- Where the walk over names without a price continues; null: at the first.
  priced_model         text COLLATE "C",
  priced_tier          text COLLATE "C",
  -- The digests of erased users, and the fold, with which all users were last compared.
  compared_digests     text
) WITH (fillfactor = 50);

-- Snapshots and the schedule are rebuilt from the log after a restore. Costs and results of runs exist nowhere else.
SELECT pg_catalog.pg_extension_config_dump('mana_ai.runs', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.token_usage', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.user_budgets', '');

-- Data that is derived from the log, and the engine's reports, are made on each server. If they arrive by logical
-- replication (a publication FOR ALL TABLES), they are dropped: they would collide with this server's own.
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
                                   'dirty_records', 'oversized_records', 'restored_iterations', 'folded_log', 'folded_leaves', 'fold_progress', 'engine_state'] LOOP
    EXECUTE format('CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.%I'
                   ' FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row()', made_here);
    EXECUTE format('ALTER TABLE mana_ai.%I ENABLE REPLICA TRIGGER mana_ai_drop_replicated', made_here);
  END LOOP;
END $$;
