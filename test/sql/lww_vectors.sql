-- Every case of test/data/lww.jsonl, pushed row by row through the trigger: the snapshot equals the
-- expected record, and so does the replay of the log, in the order of the file and in reverse.
\set srcdir `echo "$PG_ABS_SRCDIR"`
\set vectors :srcdir '/data/lww.jsonl'
\set table_ddl :srcdir '/data/sync_changes.sql'
\set QUIET on
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mana_ai;
DROP TABLE IF EXISTS public.sync_changes;
\i :table_ddl
CREATE EXTENSION mana_ai;
CREATE TEMP TABLE line (n int GENERATED ALWAYS AS IDENTITY, body text);
-- A delimiter and a quote that JSON text cannot hold.
COPY line (body) FROM :'vectors' WITH (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02');
CREATE TEMP TABLE vector AS SELECT n, body::jsonb AS v FROM line;

CREATE FUNCTION pg_temp.push(suffix text, reversed boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  r record;
  pushed bigint := 0;
BEGIN
  FOR r IN
    SELECT v ->> 'record_id' AS record_id, change
      FROM vector, jsonb_array_elements(v -> 'rows') WITH ORDINALITY AS e(change, i)
     ORDER BY n, CASE WHEN reversed THEN -i ELSE i END
  LOOP
    INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data,
                                     field_timestamps, client_id, created_at)
    VALUES ('ai', 'aiMissions', (r.record_id || suffix), 'u1', r.change ->> 'op', r.change -> 'data',
            r.change -> 'field_timestamps', 'c', (r.change ->> 'created_at')::timestamptz);
    pushed := pushed + 1;
  END LOOP;
  RETURN pushed;
END $$;

CREATE FUNCTION pg_temp.differences(suffix text)
RETURNS TABLE (record_id text, what text, found jsonb, expected jsonb) LANGUAGE sql AS $$
  SELECT v ->> 'record_id', k.what, k.found, k.expected
    FROM vector
    LEFT JOIN mana_ai.mission_snapshots s
      ON s.user_id = 'u1' AND s.mission_id = (v ->> 'record_id') || suffix
   CROSS JOIN LATERAL (
     SELECT CASE WHEN v -> 'expected' = 'null' THEN NULL
                 ELSE v -> 'expected' || jsonb_build_object('id', (v ->> 'record_id') || suffix) END
   ) AS x(expected)
   CROSS JOIN LATERAL (VALUES
     ('snapshot', s.record, x.expected),
     ('replay', mana_ai.replay('u1', 'ai', 'aiMissions', (v ->> 'record_id') || suffix), x.expected)
   ) AS k(what, found, expected)
   WHERE k.found IS DISTINCT FROM k.expected
$$;
\set QUIET off
SELECT pg_temp.push('', false);
SELECT * FROM pg_temp.differences('') LIMIT 3;
SELECT count(*) FROM mana_ai.mission_snapshots;
SELECT count(*) FROM mana_ai.record_tombstones;
-- In reverse only the clocks decide. Rows that tie in all of them are settled by physical order, so the
-- expectation is the replay of these very rows.
SELECT pg_temp.push('-r', true);
SELECT count(*) AS snapshots_that_differ_from_replay
  FROM vector
  LEFT JOIN mana_ai.mission_snapshots s ON s.mission_id = (v ->> 'record_id') || '-r'
 WHERE s.record IS DISTINCT FROM
       mana_ai.replay('u1', 'ai', 'aiMissions', (v ->> 'record_id') || '-r');
SELECT * FROM mana_ai.refresh_snapshots();
SELECT count(*) FROM mana_ai.dirty_records;
-- From nothing: the fold makes the same snapshots as the trigger did.
CREATE TEMP TABLE before AS SELECT user_id, mission_id, record FROM mana_ai.mission_snapshots;
TRUNCATE mana_ai.mission_snapshots, mana_ai.mission_schedule, mana_ai.record_tombstones;
SELECT * FROM mana_ai.refresh_snapshots();
SELECT count(*) FROM before b FULL JOIN mana_ai.mission_snapshots s USING (user_id, mission_id)
 WHERE s.record IS DISTINCT FROM b.record;
\set QUIET on
DROP EXTENSION mana_ai;
DROP TABLE public.sync_changes;
