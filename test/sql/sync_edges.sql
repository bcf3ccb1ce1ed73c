-- Repair and refresh with unusual users, records and sessions.
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\set QUIET on
\i :setup
SET client_min_messages = warning;
DO $$ BEGIN EXECUTE pg_read_file(current_setting('mana_ai_test.data') || '/invariants.sql'); END $$;
-- Rows that the trigger did not see, so that repair has something to do.
CREATE FUNCTION test.missions_unseen(user_id text, ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  ALTER TABLE public.sync_changes DISABLE TRIGGER mana_ai_fold;
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
  SELECT 'ai', 'aiMissions', id, missions_unseen.user_id, 'insert', '{"title": "t", "state": "paused"}', 'c' FROM unnest(ids) id;
  ALTER TABLE public.sync_changes ENABLE ALWAYS TRIGGER mana_ai_fold;
END $$;
CREATE FUNCTION test.mark_user(user_id text) RETURNS void LANGUAGE sql AS $$
  INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES (user_id, '', '', 'busy')
$$;
\set QUIET off

-- One mark for all records of a user: ids that do not fit are passed over, and the user without a name has a turn as well.
SELECT test.missions_unseen('u1', ARRAY['m1', 'm2', repeat('x', 2000), (SELECT string_agg(md5(i::text), $$$$) FROM generate_series(1, 46) i)]);
SELECT test.missions_unseen('', ARRAY['m3']);
SELECT test.mark_user('u1'), test.mark_user('u1'), test.mark_user('');
SELECT count(mana_ai.run_tick()) AS ticks FROM generate_series(1, 4);
SELECT count(*) AS marks FROM mana_ai.dirty_records;
SELECT user_id, mission_id FROM mana_ai.mission_snapshots ORDER BY 1, 2;

-- A user's records that cannot be repaired have a mark each, but no more than others may have; and are repaired when they can be.
ALTER TABLE mana_ai.mission_snapshots ADD CONSTRAINT not_yet CHECK (mission_id NOT LIKE 'late%');
SELECT test.missions_unseen('u2', ARRAY(SELECT 'late' || i FROM generate_series(1, 1200) i));
SELECT test.mark_user('u2');
SELECT test.missions_unseen('u3', ARRAY['m4']);
SELECT test.mark_user('u3');
SELECT count(mana_ai.run_tick()) AS ticks FROM generate_series(1, 4);
SELECT count(*) <= 1001 AS bounded, count(*) = count(DISTINCT record_id) AS one_each, count(*) > 0 AS kept FROM mana_ai.dirty_records WHERE user_id = 'u2';
SELECT mission_id FROM mana_ai.mission_snapshots WHERE user_id = 'u3';
ALTER TABLE mana_ai.mission_snapshots DROP CONSTRAINT not_yet;
SELECT count(*) FROM mana_ai.refresh_snapshots();
SELECT count(*) AS marks FROM mana_ai.dirty_records;
SELECT * FROM public.broken_invariants();

-- A session that replays somebody else's changes can repair and refresh as well.
SELECT test.missions_unseen('u4', ARRAY['m5']);
SELECT test.mark_user('u4');
SET session_replication_role = replica;
SELECT count(*) FROM mana_ai.refresh_snapshots();
SHOW session_replication_role;
RESET session_replication_role;
SELECT count(*) AS marks FROM mana_ai.dirty_records;
SELECT mission_id FROM mana_ai.mission_snapshots WHERE user_id = 'u4';

-- A later deletion counts, also when the rows that told of it are gone: what was written before it brings nothing back.
CREATE FUNCTION test.at(op text, data jsonb, at timestamptz) RETURNS void LANGUAGE sql AS $$
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
  VALUES ('ai', 'aiMissions', 'dead', 'u5', op, data, 'c', at)
$$;
SELECT test.at('insert', '{"title": "t", "updatedAt": "2026-01-01T00:00:00Z"}', '2026-01-01Z');
SELECT test.at('delete', '{"deletedAt": "2026-02-01T00:00:00Z"}', '2026-02-01Z');
SELECT test.at('delete', '{"deletedAt": "2026-06-01T00:00:00Z"}', '2026-06-01Z');
SELECT test.at('delete', '{"deletedAt": "2026-03-01T00:00:00Z"}', '2026-03-01Z');
SELECT deleted_at AT TIME ZONE 'UTC' FROM mana_ai.record_tombstones WHERE record_id = 'dead';
DELETE FROM public.sync_changes WHERE record_id = 'dead';
SELECT test.at('insert', '{"title": "between", "updatedAt": "2026-04-01T00:00:00Z"}', '2026-11-01Z');
SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'dead';
SELECT test.at('insert', '{"title": "after", "updatedAt": "2026-07-01T00:00:00Z"}', '2026-11-02Z');
SELECT record ->> 'title' FROM mana_ai.mission_snapshots WHERE mission_id = 'dead';

-- A refresh lets missions wait that have not changed.
SELECT test.mission('waiting', '{"nextRunAt": "2026-01-01T00:00:00.000Z"}', 'u6');
UPDATE mana_ai.mission_schedule SET not_before = '2090-01-01Z', wake_at = '2090-01-01Z', attempts = 2 WHERE user_id = 'u6';
SELECT count(*) FROM mana_ai.refresh_snapshots();
SELECT extract(year FROM not_before) AS not_before, extract(year FROM wake_at) AS wake_at, attempts FROM mana_ai.mission_schedule WHERE user_id = 'u6';
SELECT test.change('waiting', '{"title": "changed"}', 'aiMissions', 'u6');
SELECT not_before, extract(year FROM wake_at) AS wake_at FROM mana_ai.mission_schedule WHERE user_id = 'u6';

-- A bulk load continues when rows after the first ones fail for lack of a replica identity.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id) VALUES ('ai', 'aiMissions', 'old', 'u7', 'insert', '{"title": "t"}', 'c');
SET client_min_messages = error;
CREATE PUBLICATION regress_edges FOR TABLE mana_ai.mission_snapshots;
ALTER TABLE mana_ai.mission_snapshots REPLICA IDENTITY NOTHING;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', CASE WHEN i < 50 THEN 'new' || i ELSE 'old' END, 'u7', 'update', '{"title": "later"}', 'c' FROM generate_series(1, 60) i;
SELECT record_id, reason FROM mana_ai.dirty_records WHERE user_id = 'u7';
ALTER TABLE mana_ai.mission_snapshots REPLICA IDENTITY DEFAULT;
DROP PUBLICATION regress_edges;
SELECT count(*) FROM mana_ai.refresh_snapshots();
SELECT count(*), min(record ->> 'title') FROM mana_ai.mission_snapshots WHERE user_id = 'u7';

-- A record without a snapshot that has a long history is left to repair: its inserts do not read that history again and again.
CREATE FUNCTION test.long_unseen(id text, rows int, bytes int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  ALTER TABLE public.sync_changes DISABLE TRIGGER mana_ai_fold;
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
  SELECT 'ai', 'aiMissions', id, 'u9', 'update', jsonb_build_object('f' || i % 20, repeat('x', bytes), 'title', 't'), 'c' FROM generate_series(1, rows) i;
  ALTER TABLE public.sync_changes ENABLE ALWAYS TRIGGER mana_ai_fold;
END $$;
-- How many rows of the log three inserts read.
CREATE FUNCTION test.rows_read(id text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  before bigint := idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = 'public.sync_changes'::regclass;
BEGIN
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
  SELECT 'ai', 'aiMissions', id, 'u9', 'update', '{"title": "later"}', 'c' FROM generate_series(1, 3);
  RETURN idx_tup_fetch - before FROM pg_stat_xact_user_tables WHERE relid = 'public.sync_changes'::regclass;
END $$;
SELECT test.long_unseen('short', 10, 100000);
SELECT test.long_unseen('wide', 100, 100000);
SELECT test.long_unseen('many', 5000, 1);
SELECT test.rows_read('short') AS short, test.rows_read('wide') < 50 AS wide, test.rows_read('many') < 1100 AS many;
SELECT record_id, reason FROM mana_ai.dirty_records ORDER BY 1;
SELECT mission_id, record ->> 'title' FROM mana_ai.mission_snapshots WHERE user_id = 'u9';
SELECT test.rows_read('wide') < 50 AS wide, test.rows_read('many') < 1100 AS many;
SELECT count(mana_ai.run_tick());
SELECT mission_id, record ->> 'title' FROM mana_ai.mission_snapshots WHERE user_id = 'u9' ORDER BY 1;
SELECT test.rows_read('wide') < 40 AS wide, test.rows_read('many') < 40 AS many;
SELECT count(*) AS marks FROM mana_ai.dirty_records;
SELECT * FROM public.broken_invariants();

-- A transaction's own rows of a record are read whatever their number, but rarely: a record that one statement writes with
-- thousands of rows is there at the commit, and a few changes of a record do not read its thousands of rows.
CREATE FUNCTION test.rows_read_by(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  before bigint := idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = 'public.sync_changes'::regclass;
BEGIN
  EXECUTE statement;
  RETURN idx_tup_fetch - before FROM pg_stat_xact_user_tables WHERE relid = 'public.sync_changes'::regclass;
END $$;
CREATE FUNCTION test.changes_of(id text, rows int) RETURNS void LANGUAGE sql AS $$
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', id, 'u10', CASE WHEN i = 1 THEN 'insert' ELSE 'update' END, jsonb_build_object('f' || i % 20, i, 'title', i), 'c' FROM generate_series(1, rows) i $$;
SELECT test.rows_read_by($$SELECT test.changes_of('at once', 5000)$$) < 15000 AS at_once;
SELECT record ->> 'title' AS title, record -> 'f7' AS f7 FROM mana_ai.mission_snapshots WHERE mission_id = 'at once';
SELECT test.rows_read_by($$SELECT test.changes_of('at once', 40)$$) < 1500 AS forty_more;
SELECT test.rows_read_by($$SELECT test.changes_of('at once', 1) FROM generate_series(1, 40)$$) AS forty_times_one;
SELECT record ->> 'title' AS title, record -> 'f7' AS f7 FROM mana_ai.mission_snapshots WHERE mission_id = 'at once';
-- Also when the places of the held writes are not known any more, and one of the new rows ties with one of them.
VACUUM FULL public.sync_changes;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
SELECT 'ai', 'aiMissions', 'at once', 'u10', 'update', jsonb_build_object('f' || i % 20, 'tied', 'title', 'tied'), 'c',
       (SELECT max(created_at) FROM public.sync_changes WHERE record_id = 'at once') FROM generate_series(1, 40) i;
SELECT record_id, reason FROM mana_ai.dirty_records;
SELECT count(mana_ai.run_tick());
SELECT record ->> 'title' AS title, record -> 'f7' AS f7 FROM mana_ai.mission_snapshots WHERE mission_id = 'at once';
-- Another user's record of the same id is skipped, up to a limit.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'at once', 'u11', 'update', jsonb_build_object('title', i), 'c' FROM generate_series(1, 3) i;
SELECT user_id, record_id, reason FROM mana_ai.dirty_records;
SELECT count(mana_ai.run_tick());
SELECT record ->> 'title' AS title FROM mana_ai.mission_snapshots WHERE user_id = 'u11';
-- A record that cannot be kept is not read again for each of its rows.
ALTER TABLE mana_ai.mission_snapshots ADD CONSTRAINT no_more CHECK (mission_id <> 'refused') NOT VALID;
SELECT test.rows_read_by($$SELECT test.changes_of('refused', 5000)$$) < 30000 AS refused;
ALTER TABLE mana_ai.mission_snapshots DROP CONSTRAINT no_more;
SELECT count(mana_ai.run_tick());
SELECT count(*) AS marks FROM mana_ai.dirty_records;
SELECT * FROM public.broken_invariants();

-- What the server has compressed is read as it was written, from the row and from the table of long values.
SET default_toast_compression = pglz;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'packed' || i, 'u8', 'insert', jsonb_build_object('title', 't', 'objective',
       (SELECT string_agg(substr(md5((i * k)::text), 1, 1 + (i + k) % 32) || repeat(substr('abcdefghijklmnopqrstuvwxyz', 1, 1 + i % 26), (i * k) % 40), '') FROM generate_series(1, 30 + 20 * i) k)), 'c'
  FROM generate_series(1, 60) i;
SELECT count(*) FILTER (WHERE pg_column_compression(c.data) = 'pglz') AS compressed, max(pg_column_size(c.data)) > 8192 AS outside,
       count(*) FILTER (WHERE s.record -> 'objective' IS DISTINCT FROM c.data -> 'objective') AS differ
  FROM public.sync_changes c LEFT JOIN mana_ai.mission_snapshots s ON s.user_id = c.user_id AND s.mission_id = c.record_id WHERE c.user_id = 'u8';
RESET default_toast_compression;

\set QUIET on
DROP FUNCTION public.broken_invariants;
DROP SCHEMA test CASCADE;
DROP EXTENSION mana_ai;
DROP TABLE public.sync_changes;
