-- Microseconds that replay() takes for one of the records of the missions.
SELECT set_config('bench.start', extract(epoch FROM clock_timestamp())::text, false) \g /dev/null
SELECT count(mana_ai.replay(user_id, app_id, table_name, record_id)) AS records
  FROM public.sync_changes WHERE app_id <> 'ai' AND op = 'insert' \gset
SELECT round((extract(epoch FROM clock_timestamp()) - current_setting('bench.start')::numeric) * 1e6 / greatest(:records, 1));
