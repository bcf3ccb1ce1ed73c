-- Microseconds of CPU that replay() takes for one of the records of the missions; the machine may have other work.
SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1) AS before \gset
SELECT count(mana_ai.replay(user_id, app_id, table_name, record_id)) AS records
  FROM public.sync_changes WHERE app_id <> 'ai' AND op = 'insert' \gset
SELECT round((split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::numeric - :before) / 1000 / greatest(:records, 1));
