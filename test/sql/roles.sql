-- Who may do what (interface.md): nothing for PUBLIC, watching for pg_monitor.
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all

CREATE ROLE regress_mana_nobody;
CREATE ROLE regress_mana_monitor IN ROLE pg_monitor;
CREATE ROLE regress_mana_sync;
GRANT SELECT, INSERT ON public.sync_changes TO regress_mana_sync;

-- PUBLIC has no privilege on anything of mana_ai.
SELECT nspname FROM pg_namespace WHERE nspname = 'mana_ai' AND has_schema_privilege('regress_mana_nobody', oid, 'USAGE, CREATE');
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'mana_ai'::regnamespace AND has_function_privilege('regress_mana_nobody', oid, 'EXECUTE');
SELECT oid::regclass FROM pg_class WHERE relnamespace = 'mana_ai'::regnamespace AND relkind IN ('r', 'v')
   AND has_table_privilege('regress_mana_nobody', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER');

SET ROLE regress_mana_nobody;
SELECT * FROM mana_ai.run_tick();
SELECT * FROM mana_ai.status();
SELECT * FROM mana_ai.runs;
SELECT mana_ai.why('u1', 'm1');
SELECT mana_ai.replay('u1', 'ai', 'aiMissions', 'm1');
RESET ROLE;

-- pg_monitor may read the state, not what users wrote, and may start nothing.
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'mana_ai'::regnamespace AND has_function_privilege('regress_mana_monitor', oid, 'EXECUTE') ORDER BY 1;
SELECT oid::regclass FROM pg_class WHERE relnamespace = 'mana_ai'::regnamespace AND relkind IN ('r', 'v') AND has_table_privilege('regress_mana_monitor', oid, 'SELECT') ORDER BY 1;
SET ROLE regress_mana_monitor;
SELECT last_tick_by, due_mission_count, dirty_records, sync_table FROM mana_ai.status();
SELECT count(*) FROM mana_ai.runs;
SELECT * FROM mana_ai.run_tick();
SELECT record FROM mana_ai.mission_snapshots;
DELETE FROM mana_ai.runs;
RESET ROLE;

-- mana-sync's role needs no right on anything of mana_ai to push, under forced row-level security.
SET ROLE regress_mana_sync;
BEGIN;
SELECT set_config('app.current_user_id', 'u1', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', 'm1', 'u1', 'insert', 'c', '{"title": "pushed", "state": "paused"}');
COMMIT;
BEGIN;
SELECT set_config('app.current_user_id', 'u2', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', 'm1', 'u1', 'update', 'c', '{"title": "stolen"}');
ROLLBACK;
SELECT record FROM mana_ai.mission_snapshots;
RESET ROLE;
SELECT user_id, mission_id, record ->> 'title' AS title FROM mana_ai.mission_snapshots;

-- EXECUTE is the only privilege that any role needs.
GRANT USAGE ON SCHEMA mana_ai TO regress_mana_nobody;
GRANT EXECUTE ON FUNCTION mana_ai.why(text, text), mana_ai.run_tick() TO regress_mana_nobody;
SET ROLE regress_mana_nobody;
SELECT mana_ai.why('u1', 'm1');
SELECT due_mission_count FROM mana_ai.run_tick();
RESET ROLE;

-- SECURITY DEFINER with a pinned search_path, without exception.
SELECT oid::regprocedure AS unpinned FROM pg_proc
 WHERE pronamespace = 'mana_ai'::regnamespace AND prosecdef
   AND NOT coalesce(proconfig, '{}') && ARRAY['search_path=pg_catalog, pg_temp', 'search_path=""'];
-- Objects of the same name in the caller's path are not taken for ours or PostgreSQL's.
CREATE SCHEMA trap;
CREATE FUNCTION trap.format(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'trapped'::text $$;
CREATE FUNCTION trap.coalesce_count(bigint) RETURNS bigint LANGUAGE sql AS $$ SELECT 42::bigint $$;
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'infinity'::timestamptz $$;
SET search_path = trap, pg_catalog, public;
SELECT mana_ai.why('u1', 'm1');
RESET search_path;
DROP SCHEMA trap CASCADE;

-- The schema is ours alone, and the extension is not relocatable.
ALTER EXTENSION mana_ai SET SCHEMA public;
DROP EXTENSION mana_ai;
SELECT count(*) FROM pg_namespace WHERE nspname = 'mana_ai';
CREATE SCHEMA mana_ai AUTHORIZATION regress_mana_nobody;
\set VERBOSITY terse
CREATE EXTENSION mana_ai;
\set VERBOSITY default
DROP SCHEMA mana_ai;

DROP OWNED BY regress_mana_nobody, regress_mana_monitor, regress_mana_sync;
DROP ROLE regress_mana_nobody, regress_mana_monitor, regress_mana_sync;
