-- What every regression test begins with: a table as mana-sync has it, the extension anew, and
-- test.push(), which pushes a change as mana-sync does. Included by test/sql/*.sql.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mana_ai CASCADE;
DROP TABLE IF EXISTS public.sync_changes CASCADE;
DROP SCHEMA IF EXISTS test CASCADE;
\set here `echo "$PG_ABS_SRCDIR"`
\set ddl :here '/data/sync_changes.sql'
\i :ddl
CREATE EXTENSION mana_ai;
CREATE SCHEMA test;

-- Nobody listens there, so that a test that would call a model fails at once.
SET mana_ai.llm_url = 'http://127.0.0.1:1';

-- Fields that are not given are those of a mission that is due.
CREATE FUNCTION test.mission(id text, fields jsonb DEFAULT '{}', user_id text DEFAULT 'u1')
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('app.current_user_id', user_id, true);
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
  VALUES ('ai', 'aiMissions', id, user_id, 'insert', 'test', jsonb_build_object(
    'id', id, 'title', 'T', 'objective', 'O', 'state', 'active', 'iterations', '[]'::jsonb,
    'cadence', '{"kind": "manual"}'::jsonb, 'nextRunAt', '2020-01-01T00:00:00.000Z',
    'createdAt', '2020-01-01T00:00:00.000Z', 'updatedAt', '2020-01-01T00:00:00.000Z') || fields);
END $$;

CREATE FUNCTION test.agent(id text, fields jsonb DEFAULT '{}', user_id text DEFAULT 'u1')
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('app.current_user_id', user_id, true);
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
  VALUES ('ai', 'agents', id, user_id, 'insert', 'test', jsonb_build_object(
    'id', id, 'name', 'Agent ' || id, 'role', 'R', 'state', 'active',
    'policy', '{"tools": {}, "defaultForAi": "propose"}'::jsonb,
    'createdAt', '2020-01-01T00:00:00.000Z', 'updatedAt', '2020-01-01T00:00:00.000Z') || fields);
END $$;

CREATE FUNCTION test.change(id text, fields jsonb, table_name text DEFAULT 'aiMissions', user_id text DEFAULT 'u1')
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('app.current_user_id', user_id, true);
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
  VALUES ('ai', table_name, id, user_id, 'update', 'test', fields);
END $$;

-- The error of a statement with what a user sees of it.
CREATE FUNCTION test.error_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  message text; detail text; hint text;
BEGIN
  EXECUTE statement;
  RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN SQLSTATE || ' ' || message || coalesce(E'\nDETAIL: ' || nullif(detail, ''), '')
         || coalesce(E'\nHINT: ' || nullif(hint, ''), '');
END $$;
RESET client_min_messages;
