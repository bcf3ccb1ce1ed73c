-- :rows rows of history: one insert of a 1 KB mission and then small changes, ten rows a record.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at)
SELECT 'ai', 'aiMissions', 'm' || (i / 10), 'u' || (i / 10) % 100, CASE i % 10 WHEN 0 THEN 'insert' ELSE 'update' END,
       CASE i % 10
         WHEN 0 THEN jsonb_build_object('title', 'Mission ' || i, 'state', 'active', 'objective', repeat('Ziel ', 150),
           'conceptMarkdown', repeat('Text ', 40), 'cadence', '{"kind": "daily", "atHour": 8, "atMinute": 0}'::jsonb,
           'iterations', '[]'::jsonb, 'inputs', '[]'::jsonb, 'nextRunAt', '2099-01-01T00:00:00.000Z',
           'createdAt', '2026-01-01T00:00:00.000Z', 'updatedAt', '2026-01-01T00:00:00.000Z')
         ELSE jsonb_build_object('title', 'Title ' || i, 'updatedAt', to_char(timestamp '2026-02-01' + i * interval '1 s', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
       END,
       CASE i % 10 WHEN 0 THEN '{}'
         ELSE jsonb_build_object('title', to_char(timestamp '2026-02-01' + i * interval '1 s', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                 'updatedAt', to_char(timestamp '2026-02-01' + i * interval '1 s', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
       END,
       'browser-1', timestamptz '2026-02-01' + i * interval '1 s'
  FROM generate_series(0, :rows - 1) AS i;
VACUUM ANALYZE public.sync_changes;
