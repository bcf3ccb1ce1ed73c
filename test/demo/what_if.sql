-- A note changes after a plan; what the model was told is rebuilt, and another model is asked the same.
\set ON_ERROR_STOP on
\set QUIET on
\pset footer off
\pset null '-'
\pset linestyle unicode
\pset border 0

\o /dev/null
SELECT to_char(now() AT TIME ZONE 'UTC' - interval '1 minute', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS past \gset
BEGIN;
SELECT set_config('app.current_user_id', 'user-anna', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data) VALUES
 ('notes', 'notes', 'note-belege', 'user-anna', 'insert', 'browser-1', jsonb_build_object(
  'id', 'note-belege', 'title', 'Belege', 'content', 'Oktober und November fehlen noch.', 'createdAt', :'past', 'updatedAt', :'past')),
 ('ai', 'aiMissions', 'mission-belege', 'user-anna', 'insert', 'browser-1', jsonb_build_object(
  'id', 'mission-belege', 'title', 'Belege ordnen', 'objective', 'Alle Belege des Quartals liegen sortiert bereit.', 'conceptMarkdown', '',
  'state', 'active', 'cadence', '{"kind": "manual"}'::jsonb, 'iterations', '[]'::jsonb,
  'inputs', '[{"module": "notes", "table": "notes", "id": "note-belege"}]'::jsonb, 'createdAt', :'past', 'updatedAt', :'past'));
COMMIT;
SELECT * FROM mana_ai.run_mission('user-anna', 'mission-belege');
BEGIN;
SELECT set_config('app.current_user_id', 'user-anna', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('notes', 'notes', 'note-belege', 'user-anna', 'update', 'browser-1', '{"content": "Nur noch der November fehlt."}');
COMMIT;
SELECT run_id FROM mana_ai.runs WHERE mission_id = 'mission-belege' ORDER BY started_at DESC LIMIT 1 \gset
\o

\echo '--- a mission was planned on a note, and then its user has edited the note: SELECT * FROM mana_ai.stale_plans'
SELECT mission_id, table_name, record_id, state, date_trunc('milliseconds', changed_at) AS changed_at FROM mana_ai.stale_plans;

\echo
\echo '--- what the model was told is rebuilt from the log: SELECT * FROM mana_ai.rebuild_request(run_id)'
SELECT request, round, status, left(sha256, 16) || '...' AS sha256, octet_length(body) AS bytes,
       position('Oktober und November fehlen noch' IN body) > 0 AS "with the old note"
  FROM mana_ai.rebuild_request(:'run_id');

\echo
\echo '--- what would another model have planned? SELECT * FROM mana_ai.what_if(run_id, \'demo/small\')'
CREATE TEMP TABLE other AS SELECT * FROM mana_ai.what_if(:'run_id', 'demo/small');
SELECT d.key AS difference, s.value ->> 'tool' AS tool, s.value -> 'params' ->> 'title' AS what
  FROM other o, jsonb_each(o.difference) d, jsonb_array_elements(CASE jsonb_typeof(d.value) WHEN 'array' THEN d.value ELSE '[]' END) s
 ORDER BY array_position(ARRAY['same', 'missing', 'added'], d.key);
SELECT status, rounds, tokens, date_trunc('milliseconds', duration) AS duration FROM other;
