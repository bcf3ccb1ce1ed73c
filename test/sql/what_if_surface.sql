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

-- Nobody may.
SELECT proname, proacl IS NOT NULL AND NOT proacl::text LIKE '%{=%' AND NOT proacl::text LIKE '%,=%' AS is_restricted
  FROM pg_proc WHERE proname = 'what_if' AND pronamespace = 'mana_ai'::regnamespace;
