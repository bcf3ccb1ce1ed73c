-- :missions missions of a fifth as many users, one agent each, and a log of twenty rows per mission: an insert and two updates
-- of the mission, somewhere between rows of other apps. None is due.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
SELECT 'ai', 'agents', 'a' || i, 'u' || i, 'insert',
       jsonb_build_object('name', 'Agent ' || i, 'role', 'Assistenz', 'state', 'active', 'policy', '{"tools": {}, "defaultForAi": "propose"}'::jsonb),
       'c', timestamptz '2026-01-01'
  FROM generate_series(0, :missions / 5 - 1) i;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
SELECT CASE WHEN k IN (1, 9, 17) THEN 'ai' ELSE 'todo' END,
       CASE WHEN k IN (1, 9, 17) THEN 'aiMissions' ELSE 'tasks' END,
       CASE WHEN k IN (1, 9, 17) THEN 'm' || i ELSE 't' || i % 1000000 END,
       'u' || i % (:missions / 5), CASE k WHEN 1 THEN 'insert' ELSE 'update' END,
       CASE k WHEN 1 THEN jsonb_build_object('title', 'Mission ' || i, 'state', 'active', 'objective', 'Räume auf und plane die Woche.',
                            'agentId', 'a' || i % (:missions / 5), 'conceptMarkdown', repeat('Notiz ', 60), 'cadence', '{"kind": "manual"}'::jsonb,
                            'iterations', '[]'::jsonb, 'inputs', '[]'::jsonb, 'nextRunAt', '2099-01-01T00:00:00.000Z')
              WHEN 9 THEN jsonb_build_object('title', 'Mission ' || i || ' anders')
              WHEN 17 THEN jsonb_build_object('note', i)
              ELSE jsonb_build_object('title', 'Aufgabe ' || k, 'done', false) END,
       'c', timestamptz '2026-01-01' + k * interval '1 day' + i * interval '1 ms'
  FROM generate_series(1, 20) k, generate_series(0, :missions - 1) i;
VACUUM ANALYZE public.sync_changes;
