-- What mana-sync does when a client pushes: one row per transaction, under the user's name. The note is
-- encrypted on the device; :grant is the user's permission that this mission may read it.
\set ON_ERROR_STOP on
\set QUIET on
\o /dev/null

SELECT to_char(now() AT TIME ZONE 'UTC' - interval '1 minute', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS past \gset

BEGIN;
SELECT set_config('app.current_user_id', 'user-anna', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'agents', 'agent-ada', 'user-anna', 'insert', 'browser-1', jsonb_build_object(
  'id', 'agent-ada',
  'name', 'Ada',
  'role', 'Assistentin fürs Büro',
  'systemPrompt', 'Du planst knapp und denkst an Fristen.',
  'policy', '{"tools": {}, "defaultForAi": "propose"}'::jsonb,
  'state', 'active',
  'maxConcurrentMissions', 1,
  'maxTokensPerDay', 50000,
  'createdAt', :'past',
  'updatedAt', :'past'));
COMMIT;

BEGIN;
SELECT set_config('app.current_user_id', 'user-anna', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('companion', 'companionGoals', 'goal-belege', 'user-anna', 'insert', 'browser-1', jsonb_build_object(
  'id', 'goal-belege',
  'title', 'Belege am selben Tag ablegen',
  'currentValue', 11,
  'target', '{"value": 20, "period": "Monat"}'::jsonb,
  'createdAt', :'past',
  'updatedAt', :'past'));
COMMIT;

BEGIN;
SELECT set_config('app.current_user_id', 'user-anna', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('notes', 'notes', 'note-steuer', 'user-anna', 'insert', 'browser-1', jsonb_build_object(
  'id', 'note-steuer',
  'title', :'sealed_title',
  'content', :'sealed_content',
  'createdAt', :'past',
  'updatedAt', :'past'));
COMMIT;

BEGIN;
SELECT set_config('app.current_user_id', 'user-anna', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', 'mission-steuer', 'user-anna', 'insert', 'browser-1', jsonb_build_object(
  'id', 'mission-steuer',
  'title', 'Umsatzsteuer im Griff',
  'objective', 'Sorge dafür, dass die Voranmeldung jeden Monat rechtzeitig beim Finanzamt ist. Recherchiere, ob sich etwas geändert hat.',
  'conceptMarkdown', 'Frist ist der 10. des Folgemonats. Belege liegen im Ordner **Rechnungen**.',
  'state', 'active',
  'agentId', 'agent-ada',
  'cadence', '{"kind": "weekly", "dayOfWeek": 1, "atHour": 8}'::jsonb,
  'inputs', '[{"module": "goals", "table": "companionGoals", "id": "goal-belege"},
              {"module": "notes", "table": "notes", "id": "note-steuer"}]'::jsonb,
  'grant', :'grant'::jsonb,
  'iterations', '[]'::jsonb,
  'nextRunAt', :'past',
  'createdAt', :'past',
  'updatedAt', :'past'));
COMMIT;
