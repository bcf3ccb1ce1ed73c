-- The check that all rings use (test/data/invariants.sql) sees everything that can be wrong.
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\set QUIET on
\i :setup
SET client_min_messages = warning;
DO $$ BEGIN EXECUTE pg_read_file(current_setting('mana_ai_test.data') || '/invariants.sql'); END $$;
\set QUIET off
SELECT test.mission('m' || i, jsonb_build_object('nextRunAt', at, 'agentId', 'a1'))
  FROM unnest(ARRAY['2030-01-01T00:00:00.1234567Z', '2030-01-01T23:59+23:59', '2030-02-30T00:00:00Z', '2024-02-29T00:00:00-00:30', 'soon']) WITH ORDINALITY AS u(at, i);
SELECT test.mission('m6', '{"nextRunAt": 7, "agentId": 7}'), test.mission('m7', '{"state": "paused"}'), test.agent('a1');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id) VALUES ('ai', 'aiMissions', 'm7', 'u1', 'delete', '{}', 'c');
SELECT mission_id, due_at FROM mana_ai.mission_schedule ORDER BY 1;
SELECT * FROM public.broken_invariants();
CREATE FUNCTION test.broken_by(statement text) RETURNS TABLE (record_id text, problem text, expected text, found text) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE statement;
  RETURN QUERY SELECT b.record_id, b.problem, left(b.expected, 30), left(b.found, 30) FROM public.broken_invariants() b;
  RAISE SQLSTATE '01000' USING MESSAGE = 'undo';
EXCEPTION WHEN SQLSTATE '01000' THEN
END $$;
SELECT * FROM test.broken_by($$UPDATE mana_ai.mission_snapshots SET record = record || '{"title": "X"}' WHERE mission_id = 'm1'$$);
SELECT * FROM test.broken_by($$DELETE FROM mana_ai.agent_snapshots$$);
SELECT * FROM test.broken_by($$DELETE FROM mana_ai.record_tombstones$$);
SELECT * FROM test.broken_by($$INSERT INTO mana_ai.record_tombstones VALUES ('u1', 'agents', 'a1', now())$$);
SELECT * FROM test.broken_by($$DELETE FROM mana_ai.mission_schedule WHERE mission_id = 'm1'$$);
SELECT * FROM test.broken_by($$UPDATE mana_ai.mission_schedule SET due_at = NULL, wake_at = NULL WHERE mission_id = 'm1'$$);
SELECT * FROM test.broken_by($$UPDATE mana_ai.mission_schedule SET due_at = '2030-02-28', wake_at = '2030-02-28' WHERE mission_id = 'm3'$$);
SELECT * FROM test.broken_by($$UPDATE mana_ai.mission_schedule SET agent_id = NULL WHERE mission_id = 'm1'$$);
SELECT * FROM test.broken_by($$UPDATE mana_ai.mission_schedule SET wake_at = NULL WHERE mission_id = 'm1'$$);
SELECT * FROM test.broken_by($$UPDATE mana_ai.mission_schedule SET not_before = '2031-01-01' WHERE mission_id = 'm1'$$);
SELECT * FROM test.broken_by($$UPDATE mana_ai.mission_schedule SET lease_owner = 1, wake_at = NULL WHERE mission_id = 'm1'$$);
SELECT * FROM test.broken_by($$DELETE FROM public.sync_changes WHERE record_id IN ('m2', 'm7')$$);
SELECT * FROM public.broken_invariants();
DROP FUNCTION public.broken_invariants;
DROP SCHEMA test CASCADE;
DROP EXTENSION mana_ai;
DROP TABLE public.sync_changes;
