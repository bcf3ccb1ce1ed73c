-- A log that loses rows: what snapshots hold of them stays, whatever happens then. Only a rebuild forgets.
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\set QUIET on
\i :setup
SET client_min_messages = warning;
DO $$ BEGIN EXECUTE pg_read_file(current_setting('mana_ai_test.data') || '/invariants.sql'); END $$;
-- Missions with a history of which the oldest rows go: all but the title was written in August.
CREATE FUNCTION test.old_missions(prefix text) RETURNS void LANGUAGE sql AS $$
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
  SELECT 'ai', 'aiMissions', prefix || i, 'u1', 'insert', jsonb_build_object('title', 'T', 'objective', 'O', 'state', 'active',
         'cadence', '{"kind": "manual"}'::jsonb, 'nextRunAt', '2030-01-01T00:00:00.000Z', 'iterations', '[{"id": "i1", "feedback": "good"}]'::jsonb,
         'createdAt', '2026-08-01T00:00:00.000Z', 'updatedAt', '2026-08-01T00:00:00.000Z'), 'c', '2026-08-01'
    FROM generate_series(1, 3) i;
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at)
  SELECT 'ai', 'aiMissions', prefix || i, 'u1', 'update', '{"title": "edited", "updatedAt": "2026-11-01T00:00:00.000Z"}',
         '{"title": "2026-11-01T00:00:00.000Z", "updatedAt": "2026-11-01T00:00:00.000Z"}', 'c', '2026-11-01'
    FROM generate_series(1, 3) i
$$;
CREATE FUNCTION test.retention() RETURNS void LANGUAGE sql AS $$ DELETE FROM public.sync_changes WHERE created_at < '2026-10-01' $$;
-- A difference would show as missions that have changed in more than the title.
CREATE VIEW test.lost AS
SELECT m.mission_id, m.record, s.due_at FROM mana_ai.mission_snapshots m LEFT JOIN mana_ai.mission_schedule s USING (user_id, mission_id)
 WHERE m.record - 'title' - 'updatedAt' - 'id' - 'n' IS DISTINCT FROM jsonb '{"objective": "O", "state": "active", "cadence": {"kind": "manual"},
         "nextRunAt": "2030-01-01T00:00:00.000Z", "createdAt": "2026-08-01T00:00:00.000Z", "iterations": [{"id": "i1", "feedback": "good"}]}'
    OR s.due_at IS DISTINCT FROM '2030-01-01T00:00:00Z';
\set QUIET off

SELECT test.old_missions('m');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
VALUES ('ai', 'agents', 'a1', 'u1', 'insert', '{"name": "A", "state": "active"}', 'c', '2026-08-01'),
       ('ai', 'aiMissions', 'dead', 'u1', 'insert', '{"title": "D", "state": "active"}', 'c', '2026-08-01'),
       ('ai', 'aiMissions', 'dead', 'u1', 'delete', '{"deletedAt": "2026-08-02T00:00:00Z"}', 'c', '2026-08-02'),
       ('ai', 'aiMissions', 'dead', 'u1', 'update', '{"title": "a late edit"}', 'c', '2026-11-02');
CREATE TABLE test.before AS SELECT * FROM mana_ai.mission_snapshots;
SELECT * FROM public.broken_invariants();

-- Compaction: updates none of whose fields is the newest may go, and the log is whole all the same.
SELECT test.change('m1', '{"n": 1}'), test.change('m1', '{"n": 2}');
DELETE FROM public.sync_changes WHERE data = '{"n": 1}';
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT * FROM public.broken_invariants();

-- Retention.
SELECT test.retention();
SELECT mana_ai.replay('u1', 'ai', 'aiMissions', 'm1');
-- A refresh.
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT * FROM test.lost;
-- A record that is marked.
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('u1', 'aiMissions', 'm1', 'busy');
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT count(*) FROM mana_ai.dirty_records;
SELECT * FROM test.lost;
-- Six changes of one record in one transaction.
BEGIN;
SELECT test.change('m2', jsonb_build_object('n', i)) FROM generate_series(1, 6) i;
COMMIT;
SELECT * FROM test.lost;
SELECT record -> 'n' AS n FROM mana_ai.mission_snapshots WHERE mission_id = 'm2';
-- The table is rewritten, and then a write comes that is as new as one that is held: the log is asked.
VACUUM FULL public.sync_changes;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at)
VALUES ('ai', 'aiMissions', 'm3', 'u1', 'update', '{"title": "as new"}', '{"title": "2026-11-01T00:00:00.000Z"}', 'c', '2026-11-01');
SELECT record ->> 'title' AS title FROM mana_ai.mission_snapshots WHERE mission_id = 'm3';
SELECT * FROM test.lost;
-- Also against a write whose row is gone: then the row that is there wins.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at)
VALUES ('ai', 'aiMissions', 'm3', 'u1', 'insert', '{"objective": "O", "createdAt": "2026-08-01T00:00:00.000Z", "updatedAt": "2026-08-01T00:00:00.000Z"}', '{}', 'c', '2026-08-01');
SELECT * FROM test.lost;
-- Detached and attached again.
SELECT mana_ai.detach();
SELECT mana_ai.attach('public.sync_changes');
SELECT * FROM test.lost;
-- A snapshot with damaged clocks keeps its fields, and the log is added.
UPDATE mana_ai.mission_snapshots SET clocks = '\x00' WHERE mission_id = 'm2';
UPDATE mana_ai.mission_snapshots SET record = record || '{"title": "damaged"}' WHERE mission_id = 'm1';
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT mission_id, record ->> 'title' AS title, record -> 'n' AS n FROM mana_ai.mission_snapshots ORDER BY 1;
SELECT * FROM test.lost;
-- A tombstone keeps out older edits although its row is gone; a newer insert brings the record back.
SELECT count(*) FROM mana_ai.record_tombstones;
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('u1', 'aiMissions', 'dead', 'busy');
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT test.change('dead', '{"title": "a later edit"}');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
VALUES ('ai', 'aiMissions', 'dead', 'u1', 'insert', '{"title": "as old as the delete", "updatedAt": "2026-08-02T00:00:00Z"}', 'c');
SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'dead';
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
VALUES ('ai', 'aiMissions', 'dead', 'u1', 'insert', '{"title": "back", "updatedAt": "2026-12-01T00:00:00Z"}', 'c');
SELECT record FROM mana_ai.mission_snapshots WHERE mission_id = 'dead';
SELECT count(*) FROM mana_ai.record_tombstones;
-- An agent of which nothing is left in the log.
SELECT agent_id, record FROM mana_ai.agent_snapshots;

-- Nothing is left.
TRUNCATE public.sync_changes;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT count(*) FROM mana_ai.mission_snapshots;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots(rebuild => false);
SELECT count(*) FROM mana_ai.mission_snapshots;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots(rebuild => NULL);
-- A rebuild forgets what the log does not say: records, fields, tombstones.
SELECT test.old_missions('m');
SELECT test.retention();
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
VALUES ('ai', 'agents', 'a2', 'u1', 'insert', '{"name": "B"}', 'c'), ('ai', 'agents', 'a2', 'u1', 'delete', '{}', 'c'), ('ai', 'agents', 'a3', 'u1', 'insert', '{"name": "C"}', 'c');
DELETE FROM public.sync_changes WHERE record_id IN ('m2', 'm3');
DELETE FROM public.sync_changes WHERE record_id = 'a2' AND op = 'delete';
DELETE FROM mana_ai.agent_snapshots WHERE agent_id = 'a3';
SELECT * FROM mana_ai.refresh_snapshots(rebuild => true);
SELECT mission_id, record FROM mana_ai.mission_snapshots ORDER BY 1;
SELECT agent_id, record FROM mana_ai.agent_snapshots ORDER BY 1;
SELECT mission_id, due_at FROM mana_ai.mission_schedule ORDER BY 1;
SELECT count(*) FROM mana_ai.record_tombstones;
SELECT * FROM public.broken_invariants();
SELECT * FROM mana_ai.refresh_snapshots(rebuild => true);

-- Values that are stored out of line are sorted as references and read when their record comes up.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'big' || i, 'u1', 'insert', jsonb_build_object('state', 'paused', 'conceptMarkdown', (SELECT string_agg(md5(k::text || i), '') FROM generate_series(1, 3000) k)), 'c'
  FROM generate_series(1, 20) i;
SELECT count(*) FROM public.sync_changes WHERE pg_column_size(data) > 50000;
DELETE FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'big%';
SELECT new_snapshots FROM mana_ai.refresh_snapshots();
SELECT * FROM public.broken_invariants();

-- Exact ties: of two writes with the same time the later row counts, and CLUSTER changes which that is.
TRUNCATE public.sync_changes;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots(rebuild => true);
CREATE FUNCTION test.ties(how_many int, prefix text) RETURNS void LANGUAGE sql AS $$
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, space_id, created_at)
  SELECT 'ai', CASE i % 2 WHEN 0 THEN 'agents' ELSE 'aiMissions' END, prefix || i, 'u1', CASE k WHEN 0 THEN 'insert' ELSE 'update' END,
         jsonb_build_object('title', 'write ' || k, 'same', 1, 'f' || k, k), CASE k WHEN 0 THEN '{}' ELSE '{"title": "2026-01-01T00:00:00Z", "same": "2026-01-01T00:00:00Z"}'::jsonb END,
         'c', nullif(i % 3 * k, 0)::text, '2026-01-01'
    FROM generate_series(1, how_many) i, generate_series(0, 4) k ORDER BY k, i
$$;
SELECT test.ties(40, 't');
SELECT * FROM public.broken_invariants();
SELECT count(*) AS snapshots, count(*) FILTER (WHERE get_byte(clocks, 2) & 2 <> 0) AS with_ties FROM mana_ai.mission_snapshots;
CLUSTER public.sync_changes USING sync_changes_pkey;
SELECT count(*) > 0 AS ties_turned FROM public.broken_invariants();
-- The next tick sees it.
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT count(*) FROM mana_ai.dirty_records;
SELECT count(*) FROM public.broken_invariants();
-- So does a refresh, and both together with changes in between.
CREATE INDEX sync_changes_by_text ON public.sync_changes (md5(id::text));
CREATE TABLE test.places AS SELECT id FROM public.sync_changes;
CLUSTER public.sync_changes USING sync_changes_by_text;
SELECT test.change('t1', '{"n": 1}'), test.change('t2', '{"n": 1}', 'agents');
SELECT test.ties(40, 't');
SELECT new_snapshots FROM mana_ai.refresh_snapshots();
SELECT count(*) FROM public.broken_invariants();
SELECT updated_snapshots FROM mana_ai.refresh_snapshots();
VACUUM FULL public.sync_changes;
SELECT test.ties(41, 't');
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT count(*) FROM public.broken_invariants();
-- The next one finds nothing to do.
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT f.generation = pg_relation_filenode('public.sync_changes') AS up_to_date FROM mana_ai.folded_log f;

-- Whichever rows are deleted at any time, snapshots are the replay of all rows ever inserted: here 1200 random ones, most
-- of which are deleted. There are no equal times, since the places of rows are not kept.
\set QUIET on
TRUNCATE public.sync_changes;
SELECT mana_ai.refresh_snapshots(rebuild => true) IS NOT NULL AS rebuilt;
CREATE TABLE test.gone (LIKE public.sync_changes);
CREATE FUNCTION test.random_rows(round int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at, space_id)
  SELECT 'ai', CASE WHEN r < 0.3 THEN 'agents' ELSE 'aiMissions' END, 'r' || (random() * 15)::int, 'u' || (random())::int, CASE WHEN random() < 0.2 THEN 'insert' ELSE 'update' END,
         jsonb_build_object('title', i, 'at', at, 'f' || (random() * 5)::int, i, 'g' || (random() * 5)::int, jsonb_build_object('v', i)),
         CASE WHEN random() < 0.8 THEN jsonb_build_object('title', at, 'f1', at, 'g2', at) ELSE '{}' END, 'c', '2026-01-01'::timestamptz + (random() * 1e9)::int * interval '1 ms', nullif((random() * 3)::int, 0)::text
    FROM (SELECT i, random() AS r, to_char('2026-01-01'::timestamp + (random() * 1e9)::int * interval '1 ms', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS at FROM generate_series(1, 100) i) x;
END $$;
CREATE FUNCTION test.random_loss(part float8) RETURNS void LANGUAGE sql AS $$
  WITH d AS (DELETE FROM public.sync_changes WHERE random() < part RETURNING *) INSERT INTO test.gone SELECT * FROM d;
  INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) SELECT user_id, 'aiMissions', mission_id, 'busy' FROM mana_ai.mission_snapshots WHERE random() < 0.5;
$$;
SELECT setseed(0.5);
\set QUIET off
SELECT test.random_rows(i), test.random_loss(0.5) FROM generate_series(1, 4) i;
SELECT due_mission_count IS NOT NULL AS ticked FROM mana_ai.run_tick();
SELECT test.random_rows(5), test.random_loss(0.9);
VACUUM FULL public.sync_changes;
SELECT test.random_rows(i), test.random_loss(0.5) FROM generate_series(6, 9) i;
SELECT new_snapshots FROM mana_ai.refresh_snapshots();
SELECT mana_ai.detach();
SELECT test.random_rows(10);
SELECT mana_ai.attach('public.sync_changes');
SELECT test.random_rows(i), test.random_loss(0.5) FROM generate_series(11, 12) i;
SELECT count(*) > 500 AS many_are_gone, (SELECT count(*) FROM mana_ai.mission_snapshots) > 20 AS many_records FROM test.gone;
SELECT count(*) > 10 AS log_alone_says_less FROM public.broken_invariants() WHERE problem = 'snapshot';
-- All rows are back, and have not been read yet.
SELECT mana_ai.detach();
WITH back AS (INSERT INTO public.sync_changes SELECT * FROM test.gone RETURNING 1) SELECT count(*) > 500 AS many_are_back FROM back;
SELECT count(*) FROM public.sync_changes;
DO $$ BEGIN EXECUTE 'CREATE TRIGGER mana_ai_fold AFTER INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION mana_ai.fold_sync_change()'; END $$;
SELECT * FROM public.broken_invariants();
DROP TRIGGER mana_ai_fold ON public.sync_changes;
DROP FUNCTION public.broken_invariants;
DROP SCHEMA test CASCADE;
DROP EXTENSION mana_ai;
DROP TABLE public.sync_changes;
