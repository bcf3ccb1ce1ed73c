-- what_if() as a caller sees it, without any model.
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all

\df mana_ai.what_if
-- Nothing is on record: no process is started for a run, and no call made.
SELECT status, reason, model, steps, rounds, cost, duration FROM mana_ai.what_if('00000000-0000-0000-0000-000000000001', 'test/m');
SELECT run_id, status, reason FROM mana_ai.what_if('u1', 'm', 'test/m');
SELECT count(*) FROM mana_ai.what_if_running;
SELECT count(*) FROM mana_ai.token_usage;

-- Errors.
SELECT mana_ai.what_if(NULL::uuid);
SELECT mana_ai.what_if('u1', NULL, 'test/m');
SELECT mana_ai.what_if('00000000-0000-0000-0000-000000000001', '');
SELECT mana_ai.what_if('00000000-0000-0000-0000-000000000001', 'a,b');
SELECT test.error_of($$SELECT mana_ai.what_if('00000000-0000-0000-0000-000000000001', ' a')$$);
BEGIN READ ONLY;
SELECT mana_ai.what_if('u1', 'm', NULL);
ROLLBACK;

-- Evaluations.
\df mana_ai.*evaluat*
SELECT string_agg(attname || ' ' || format_type(atttypid, -1), ', ' ORDER BY attnum) AS columns
  FROM pg_attribute WHERE attrelid = 'mana_ai.evaluation_report'::regclass AND attnum > 0;
SELECT state, runs, asked, comparable, accepted_share, tokens, cost FROM mana_ai.evaluate(interval '1 day', 'test/m', 5, 1000);
SELECT model, sample, max_tokens, ended, tokens FROM mana_ai.evaluations;
SELECT mana_ai.evaluate(interval '1 day', 'test/m', 0, 1000);
SELECT mana_ai.evaluate(interval '1 day', 'test/m', 5, -1);
SELECT mana_ai.evaluate(interval '1 day', 'test/m', 5, 1000, -0.5);
SELECT mana_ai.evaluate(interval '1 day', 'test/m', 5, NULL);
SELECT mana_ai.evaluate(NULL::timestamptz, 'test/m', 5, 1000);
SELECT test.error_of($$SELECT mana_ai.evaluate(interval '1 day', 'test/m', 5, 1000, 1)$$);
SELECT mana_ai.continue_evaluation(NULL);
SELECT test.error_of($$SELECT mana_ai.continue_evaluation('00000000-0000-0000-0000-000000000001')$$);
BEGIN READ ONLY;
SELECT mana_ai.evaluate(interval '1 day', 'test/m', 5, 1000);
ROLLBACK;
SET ROLE pg_monitor;
SELECT count(*) > 0 AS visible FROM mana_ai.evaluation_report;
SELECT count(*) FROM mana_ai.evaluation_runs;
RESET ROLE;

-- Nobody may.
SELECT proname, proacl IS NOT NULL AND NOT proacl::text LIKE '%{=%' AND NOT proacl::text LIKE '%,=%' AS is_restricted
  FROM pg_proc WHERE proname IN ('what_if', 'evaluate', 'continue_evaluation') AND pronamespace = 'mana_ai'::regnamespace ORDER BY oid::regprocedure::text COLLATE "C";
