-- An operator's queries do not read all missions, agents and replies (docs/performance.md). Rows read from our tables are
-- counted, so a slow machine makes no difference.
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\set many :here '/bench/many_missions.sql'
\set missions 100000
\set ECHO none
\i :setup
\i :many
CREATE FUNCTION test.rows_read(look text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  before bigint := sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_all_tables WHERE schemaname = 'mana_ai';
BEGIN
  EXECUTE look;
  RETURN sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) - before FROM pg_stat_xact_all_tables WHERE schemaname = 'mana_ai';
END $$;
\set ECHO all

SELECT count(*) FROM mana_ai.mission_problems;
SELECT test.rows_read('SELECT * FROM mana_ai.mission_problems') BETWEEN 200 AND 1000 AS problems;
SELECT jsonb_array_length(s -> 'problems') AS problems, jsonb_array_length(s -> 'agents') AS agents,
       jsonb_array_length(s -> 'due') AS due, jsonb_array_length(s -> 'runs') AS runs
  FROM mana_ai.http_status() s;
-- 10,000 of them are replies.
SELECT test.rows_read('SELECT mana_ai.http_status()') BETWEEN 200 AND 20000 AS page;
SELECT test.rows_read('SELECT * FROM mana_ai.status()') < 100 AS status;
SELECT test.rows_read($$SELECT mana_ai.why('u1', 'm1')$$) < 100 AS why;

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA test CASCADE;
DROP EXTENSION mana_ai;
DROP TABLE public.sync_changes;
