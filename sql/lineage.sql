-- What runs were based on (docs/lineage.md): ids, clocks and digests, never a text. A role that may read the tables sees
-- the rows of app.current_user_id. Rows are deleted with their runs.

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
