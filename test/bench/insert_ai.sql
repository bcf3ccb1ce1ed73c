\set id random(1, 2000)
BEGIN;
SELECT set_config('app.current_user_id', 'u1', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id)
SELECT 'ai', 'aiMissions', 'b' || :id, 'u1', 'update', d.data,
       jsonb_build_object('conceptMarkdown', s.now, 'title', s.now, 'updatedAt', s.now), 'browser-1'
  FROM (SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS now) s,
       LATERAL (SELECT jsonb_build_object('conceptMarkdown', t.body, 'title', 'x' || :id, 'updatedAt', s.now) AS data
                  FROM bench_text t WHERE t.id = :id % 50) d;
COMMIT;
