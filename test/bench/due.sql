-- :missions missions that become due at :due, as clients push them.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'due-' || :'wave' || '-' || i, 'u' || i % 50, 'insert',
       jsonb_build_object('title', 'Mission ' || i, 'state', 'active', 'objective', 'Räume auf und plane die Woche.',
         'conceptMarkdown', repeat('Notiz ', 100), 'cadence', '{"kind": "manual"}'::jsonb, 'iterations', '[]'::jsonb,
         'inputs', '[]'::jsonb, 'nextRunAt', :'due'), 'browser-1'
  FROM generate_series(1, :missions) AS i;
