-- A partitioned log: by user, by time, and both. Leaves come and go, and differ in their columns.
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\set hash :here '/data/sync_changes_hash.sql'
\set range :here '/data/sync_changes_range.sql'
\set nested :here '/data/sync_changes_nested.sql'
\i :setup
\set QUIET on
SET client_min_messages = warning;
SET mana_ai.tick_enabled = off;
DO $$ BEGIN EXECUTE pg_read_file(current_setting('mana_ai_test.data') || '/invariants.sql'); END $$;
-- A row of the past.
CREATE FUNCTION test.add(id text, user_id text, op text, fields jsonb, at timestamptz, into_table text DEFAULT 'public.sync_changes')
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('INSERT INTO %s (app_id, table_name, record_id, user_id, op, client_id, data, created_at)'
                 ' VALUES (''ai'', ''aiMissions'', $1, $2, $3, ''test'', $4, $5)', into_table) USING id, user_id, op, fields, at;
END $$;
CREATE FUNCTION test.titles() RETURNS TABLE (user_id text, mission_id text, title text, objective text, note text) LANGUAGE sql AS $$
  SELECT user_id, mission_id, record ->> 'title', record ->> 'objective', record ->> 'note' FROM mana_ai.mission_snapshots ORDER BY 1, 2 $$;
-- Snapshots of twelve users, each with one old and one new row.
CREATE FUNCTION test.fill() RETURNS void LANGUAGE sql AS $$
  SELECT test.add('m', 'u' || i, 'insert', '{"title": "old", "objective": "o", "state": "active", "cadence": {"kind": "manual"}}', '2020-06-01') FROM generate_series(1, 12) i;
  SELECT test.add('m', 'u' || i, 'update', jsonb_build_object('title', 'spring ' || i), '2021-03-01') FROM generate_series(1, 12) i;
  SELECT test.add('m', 'u' || i, 'update', '{"note": "autumn"}', '2021-10-01') FROM generate_series(1, 12, 2) i;
  SELECT test.add('gone', 'u' || i, 'insert', '{"title": "t"}', '2020-06-01') FROM generate_series(1, 12, 3) i;
  SELECT test.add('gone', 'u' || i, 'delete', '{}', '2021-10-01') FROM generate_series(1, 12, 3) i;
$$;
CREATE FUNCTION test.anew() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF mana_ai.attached_table() IS NOT NULL THEN
    PERFORM mana_ai.detach();
  END IF;
  DROP TABLE IF EXISTS public.sync_changes CASCADE;
  TRUNCATE mana_ai.mission_snapshots, mana_ai.agent_snapshots, mana_ai.mission_schedule, mana_ai.record_tombstones, mana_ai.dirty_records;
END $$;
\set ECHO all
\set QUIET off

-- ---------------------------------------------------------------- by user
\set QUIET on
SELECT test.anew() \gset
\set ECHO none
\i :hash
\set ECHO all
\set QUIET off
SELECT test.fill();
SELECT mana_ai.attach('public.sync_changes');
SELECT * FROM test.titles();
SELECT count(*) FROM mana_ai.record_tombstones;
SELECT count(*) FROM mana_ai.folded_leaves;
SELECT tgrelid::regclass AS on_table, tgenabled FROM pg_trigger WHERE tgname = 'mana_ai_fold' ORDER BY tgrelid::regclass::text COLLATE "C";
SELECT sync_table, worker_problem LIKE '%preload%' AS only_not_preloaded FROM mana_ai.status();
SELECT mana_ai.sync_table_problem();
-- The trigger, in each leaf: existing records, new ones, many rows of one in a statement.
SELECT test.change('m', jsonb_build_object('title', 'now ' || i), user_id => 'u' || i) FROM generate_series(1, 12) i;
SELECT test.mission('n', user_id => 'u' || i) FROM generate_series(1, 12) i;
SELECT test.agent('a', user_id => 'u' || i) FROM generate_series(1, 12) i;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', 'aiMissions', 'many', 'u' || i % 12, CASE WHEN i < 12 THEN 'insert' ELSE 'update' END, 'c', jsonb_build_object('title', 'row ' || i)
  FROM generate_series(0, 99) i;
SELECT count(*), count(DISTINCT user_id) FROM mana_ai.mission_snapshots;
SELECT count(*) FROM mana_ai.dirty_records;
SELECT * FROM broken_invariants();
-- Repair and rebuild.
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) SELECT 'u' || i, 'aiMissions', 'm', 'test' FROM generate_series(1, 12) i;
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('u3', '', '', 'test');
UPDATE mana_ai.mission_snapshots SET clocks = 'damaged' WHERE user_id = 'u1';
SELECT new_snapshots, updated_snapshots, rows_applied FROM mana_ai.refresh_snapshots();
SELECT count(*) FROM mana_ai.dirty_records;
SELECT * FROM broken_invariants();
UPDATE mana_ai.mission_snapshots SET record = record || '{"title": "forged"}' WHERE user_id < 'u2';
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots(rebuild => true);
SELECT * FROM broken_invariants();
-- The log under the policies of the parent.
CREATE ROLE regress_reader;
GRANT USAGE ON SCHEMA mana_ai TO regress_reader;
GRANT EXECUTE ON FUNCTION mana_ai.replay(text, text, text, text) TO regress_reader;
GRANT SELECT ON public.sync_changes TO regress_reader;
SET ROLE regress_reader;
SELECT mana_ai.replay('u1', 'ai', 'aiMissions', 'm') IS NOT NULL AS without_user;
SET app.current_user_id = 'u1';
SELECT mana_ai.replay('u1', 'ai', 'aiMissions', 'm') ->> 'title' AS own, mana_ai.replay('u2', 'ai', 'aiMissions', 'm') IS NOT NULL AS of_another;
RESET ROLE;
RESET app.current_user_id;
REVOKE ALL ON SCHEMA mana_ai FROM regress_reader;
REVOKE ALL ON FUNCTION mana_ai.replay(text, text, text, text) FROM regress_reader;
REVOKE ALL ON public.sync_changes FROM regress_reader;
DROP ROLE regress_reader;
-- A leaf is detached, gets rows meanwhile, and comes back: its rows are new.
ALTER TABLE public.sync_changes DETACH PARTITION public.changes_3;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.changes_3'::regclass;
SELECT count(*) AS kept FROM mana_ai.mission_snapshots WHERE mission_id = 'm';
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT count(*) AS kept FROM mana_ai.mission_snapshots WHERE mission_id = 'm';
SELECT test.error_of($$SELECT test.change('m', '{"title": "x"}', user_id => 'u' || i) FROM generate_series(1, 12) i$$);
SELECT user_id AS user_of_3 FROM public.changes_3 WHERE record_id = 'm' ORDER BY 1 LIMIT 1 \gset
SELECT test.add('m', :'user_of_3', 'update', '{"title": "while away"}', '2099-01-01', 'public.changes_3');
SELECT test.add('late', :'user_of_3', 'insert', '{"title": "came with the partition"}', '2099-01-01', 'public.changes_3');
ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_3 FOR VALUES WITH (MODULUS 4, REMAINDER 3);
SELECT record ->> 'title' AS title FROM mana_ai.mission_snapshots WHERE user_id = :'user_of_3' AND mission_id IN ('late', 'm') ORDER BY 1;
SELECT new_snapshots FROM mana_ai.refresh_snapshots();
SELECT record ->> 'title' AS title FROM mana_ai.mission_snapshots WHERE user_id = :'user_of_3' AND mission_id IN ('late', 'm') ORDER BY 1;
SELECT * FROM broken_invariants();
-- A trigger that does not fire in one leaf.
ALTER TABLE public.changes_1 DISABLE TRIGGER mana_ai_fold;
SELECT mana_ai.sync_table_problem();
ALTER TABLE public.changes_1 ENABLE REPLICA TRIGGER mana_ai_fold;
SELECT mana_ai.sync_table_problem();
ALTER TABLE public.changes_1 ENABLE ALWAYS TRIGGER mana_ai_fold;
SELECT mana_ai.sync_table_problem();
-- Rewrites, truncation.
VACUUM FULL public.changes_0;
CLUSTER public.changes_2 USING changes_2_table_name_record_id_created_at_idx;
SELECT updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT * FROM broken_invariants();
SELECT count(*) AS before FROM mana_ai.mission_snapshots \gset
TRUNCATE public.changes_0;
SELECT updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT count(*) = :before AS all_are_kept FROM mana_ai.mission_snapshots;
SELECT mana_ai.detach();
SELECT count(*) FROM pg_trigger WHERE tgname = 'mana_ai_fold';
SELECT count(*) FROM mana_ai.folded_leaves;

-- ---------------------------------------------------------------- by time
\set QUIET on
SELECT test.anew() \gset
\set ECHO none
\i :range
\set ECHO all
\set QUIET off
SELECT mana_ai.attach('public.sync_changes');
SELECT test.fill();
SELECT * FROM test.titles() LIMIT 4;
SELECT count(*) FROM mana_ai.record_tombstones;
SELECT * FROM broken_invariants();
-- A new record of all leaves at once, and rows that arrive out of order.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, created_at)
SELECT 'ai', 'aiMissions', 'across', 'u1', CASE WHEN i = 0 THEN 'insert' ELSE 'update' END, 'c', jsonb_build_object('f' || i % 7, i), timestamptz '2020-10-01' + i * interval '5 days'
  FROM generate_series(0, 80) i ORDER BY i % 10;
SELECT test.add('m', 'u1', 'update', '{"title": "older", "late": "yes"}', '2020-12-31');
SELECT test.add('gone', 'u1', 'update', '{"title": "older than the deletion"}', '2021-03-01');
SELECT test.add('gone', 'u4', 'insert', '{"title": "back"}', '2021-11-01');
SELECT count(*) FROM mana_ai.dirty_records;
SELECT * FROM broken_invariants();
-- Exact ties: the same time, one row in each order of the leaf's rows.
SELECT test.add('tie', 'u1', 'insert', '{"title": "first"}', '2021-02-01'), test.add('tie', 'u1', 'insert', '{"title": "second"}', '2021-02-01');
SELECT record ->> 'title' AS title FROM mana_ai.mission_snapshots WHERE mission_id = 'tie';
SELECT updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT * FROM broken_invariants();
-- A month is detached, and then dropped: what it said stays.
ALTER TABLE public.sync_changes DETACH PARTITION public.changes_2021;
SELECT updated_snapshots FROM mana_ai.refresh_snapshots();
DROP TABLE public.changes_2021;
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) SELECT 'u' || i, 'aiMissions', 'm', 'test' FROM generate_series(1, 12) i;
SELECT updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT * FROM test.titles() WHERE mission_id = 'm' AND user_id IN ('u1', 'u2');
SELECT mana_ai.replay('u2', 'ai', 'aiMissions', 'm') ->> 'title' AS of_the_shorter_log;
-- A new one takes its place, with a default beside it.
CREATE TABLE public.changes_2021 PARTITION OF public.sync_changes FOR VALUES FROM ('2021-01-01') TO ('2021-07-01');
SELECT test.add('m', 'u2', 'update', '{"title": "in the new partition"}', '2021-06-01');
SELECT record ->> 'title' AS title FROM mana_ai.mission_snapshots WHERE user_id = 'u2' AND mission_id = 'm';
-- No partition for what is written now, or soon.
ALTER TABLE public.sync_changes DETACH PARTITION public.changes_now;
SELECT mana_ai.sync_table_problem() AS problem;
ALTER TABLE public.changes_now ADD CHECK (created_at < now() + interval '10 minutes');
\set ECHO none
SELECT format('ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_now FOR VALUES FROM (''2021-07-01'') TO (%L)', now() + interval '10 minutes') \gexec
\set ECHO all
SELECT mana_ai.sync_table_problem() AS soon_missing;
CREATE TABLE public.changes_rest PARTITION OF public.sync_changes DEFAULT;
SELECT mana_ai.sync_table_problem();
SELECT mana_ai.detach();

-- ---------------------------------------------------------------- both
\set QUIET on
SELECT test.anew() \gset
\set ECHO none
\i :nested
\set ECHO all
\set QUIET off
SELECT test.fill();
SELECT mana_ai.attach('public.sync_changes');
SELECT test.change('m', jsonb_build_object('title', 'now ' || i), user_id => 'u' || i) FROM generate_series(1, 12) i;
SELECT test.add('m', 'u5', 'update', '{"late": true}', '2021-01-01'), test.add('x', 'u6', 'update', '{"title": "late"}', '2021-01-01'), test.add('x', 'u6', 'insert', '{"title": "early", "a": 1}', '2021-09-01');
SELECT tgrelid::regclass AS on_table FROM pg_trigger WHERE tgname = 'mana_ai_fold' ORDER BY tgrelid::regclass::text COLLATE "C";
SELECT count(*) FROM mana_ai.dirty_records;
SELECT * FROM broken_invariants();
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots(rebuild => true);
SELECT * FROM broken_invariants();
SELECT mana_ai.sync_table_problem();
ALTER TABLE public.changes_a DETACH PARTITION public.changes_a_now;
SELECT mana_ai.sync_table_problem() AS of_half_of_the_users;
ALTER TABLE public.changes_b DETACH PARTITION public.changes_b_now;
SELECT mana_ai.sync_table_problem() AS of_all;
-- A whole tree comes with rows.
CREATE TABLE public.tree (LIKE public.sync_changes INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY LIST (op);
CREATE TABLE public.tree_rest PARTITION OF public.tree DEFAULT;
SELECT test.add('in the tree', 'u' || i, 'insert', '{"title": "t"}', '2021-10-01', 'public.tree') FROM generate_series(1, 12) i
 WHERE satisfies_hash_partition('public.sync_changes'::regclass, 2, 0, 'u' || i);
ALTER TABLE public.changes_a ATTACH PARTITION public.tree FOR VALUES FROM ('2021-07-01') TO (MAXVALUE);
SELECT count(*) > 0 FROM mana_ai.refresh_snapshots() WHERE new_snapshots > 0;
SELECT mana_ai.detach();

-- ---------------------------------------------------------------- an attached table becomes a partition
\set QUIET on
SELECT test.anew() \gset
\set ddl :here '/data/sync_changes.sql'
\set ECHO none
\i :ddl
\set ECHO all
\set QUIET off
SELECT mana_ai.attach('public.sync_changes');
SELECT test.add('m', 'u1', 'insert', '{"title": "before", "state": "active"}', '2021-03-01');
ALTER TABLE public.sync_changes RENAME TO changes_before;
CREATE TABLE public.sync_changes (LIKE public.changes_before INCLUDING DEFAULTS) PARTITION BY RANGE (created_at);
ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_before FOR VALUES FROM (MINVALUE) TO ('2021-07-01');
SELECT mana_ai.sync_table_problem();
CREATE TABLE public.changes_after PARTITION OF public.sync_changes FOR VALUES FROM ('2021-07-01') TO (MAXVALUE);
SELECT test.add('m', 'u1', 'update', '{"title": "not seen yet"}', '2021-10-01');
SELECT record ->> 'title' AS title FROM mana_ai.mission_snapshots;
SELECT mana_ai.attach('public.sync_changes');
SELECT mana_ai.sync_table_problem();
SELECT record ->> 'title' AS title FROM mana_ai.mission_snapshots;
SELECT test.add('m', 'u1', 'update', '{"title": "seen"}', '2021-10-02');
SELECT * FROM broken_invariants();
SELECT tgrelid::regclass AS on_table FROM pg_trigger WHERE tgname = 'mana_ai_fold' ORDER BY tgrelid::regclass::text COLLATE "C";

-- ---------------------------------------------------------------- what cannot be
SELECT mana_ai.detach();
SELECT test.error_of($$SELECT mana_ai.attach('public.changes_before')$$);
CREATE FOREIGN DATA WRAPPER regress_nothing;
CREATE SERVER regress_nowhere FOREIGN DATA WRAPPER regress_nothing;
CREATE TABLE public.front (LIKE public.sync_changes INCLUDING DEFAULTS) PARTITION BY HASH (user_id);
CREATE FOREIGN TABLE public.front_0 PARTITION OF public.front FOR VALUES WITH (MODULUS 2, REMAINDER 0) SERVER regress_nowhere;
SELECT test.error_of($$SELECT mana_ai.attach('public.front')$$);
-- One here, one elsewhere: only the users here count.
CREATE TABLE public.front_1 PARTITION OF public.front FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO public.front_1 (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'm', 'u' || i, 'insert', '{"title": "t"}', 'c' FROM generate_series(1, 12) i WHERE satisfies_hash_partition('public.front'::regclass, 2, 1, 'u' || i);
SELECT mana_ai.attach('public.front');
SELECT (SELECT count(*) FROM mana_ai.mission_snapshots s WHERE s.user_id IN (SELECT f.user_id FROM public.front_1 f)) = (SELECT count(*) FROM public.front_1) AS all_here;
SELECT count(*) FROM mana_ai.refresh_snapshots();
SELECT mana_ai.sync_table_problem() AS name_is_not_that_of_the_log;
-- Code of the table's owner in the partition key would run as superuser.
SELECT mana_ai.detach();
CREATE TABLE public.spied (LIKE public.sync_changes INCLUDING DEFAULTS) PARTITION BY HASH (lower(user_id));
CREATE TABLE public.spied_0 PARTITION OF public.spied FOR VALUES WITH (MODULUS 1, REMAINDER 0);
SELECT test.error_of($$SELECT mana_ai.attach('public.spied')$$);
CREATE TRIGGER mana_ai_fold AFTER INSERT ON public.spied FOR EACH ROW EXECUTE FUNCTION mana_ai.fold_sync_change();
SELECT mana_ai.sync_table_problem();
SELECT mana_ai.detach();
CREATE TABLE public.deep (LIKE public.sync_changes INCLUDING DEFAULTS) PARTITION BY RANGE (created_at);
ALTER TABLE public.deep ATTACH PARTITION public.spied DEFAULT;
SELECT test.error_of($$SELECT mana_ai.attach('public.deep')$$);
-- And so would that of a function of an operator class.
CREATE FUNCTION test.spy(text, int8) RETURNS int8 LANGUAGE sql IMMUTABLE AS 'SELECT hashtextextended($1, $2)';
CREATE OPERATOR CLASS test.spying FOR TYPE text USING hash AS OPERATOR 1 =, FUNCTION 2 test.spy(text, int8);
CREATE TABLE public.classy (LIKE public.sync_changes INCLUDING DEFAULTS) PARTITION BY HASH (user_id test.spying);
CREATE TABLE public.classy_0 PARTITION OF public.classy FOR VALUES WITH (MODULUS 1, REMAINDER 0);
SELECT test.error_of($$SELECT mana_ai.attach('public.classy')$$);
-- The rest of a record on another server.
CREATE TABLE public.by_time (LIKE public.sync_changes INCLUDING DEFAULTS) PARTITION BY RANGE (created_at);
CREATE TABLE public.by_time_now PARTITION OF public.by_time FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);
CREATE FOREIGN TABLE public.by_time_archive PARTITION OF public.by_time FOR VALUES FROM (MINVALUE) TO ('2026-01-01') SERVER regress_nowhere;
SELECT test.error_of($$SELECT mana_ai.attach('public.by_time')$$);

-- ---------------------------------------------------------------- exact ties across leaves: the leaf decides
\set QUIET on
SELECT test.anew() \gset
CREATE TABLE public.sync_changes (LIKE public.front INCLUDING DEFAULTS) PARTITION BY LIST (client_id);
CREATE TABLE public.of_first PARTITION OF public.sync_changes FOR VALUES IN ('first');
CREATE TABLE public.of_second PARTITION OF public.sync_changes FOR VALUES IN ('second');
CREATE INDEX ON public.sync_changes (table_name, record_id, created_at);
\set QUIET off
SELECT mana_ai.attach('public.sync_changes');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
SELECT 'ai', 'aiMissions', r, 'u1', 'insert', jsonb_build_object('title', c), c, '2021-01-01'
  FROM (VALUES ('in order', 'first', 1), ('in order', 'second', 2), ('reversed', 'second', 1), ('reversed', 'first', 2)) v(r, c, n) ORDER BY r, n;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at) VALUES ('ai', 'aiMissions', 'apart', 'u1', 'insert', '{"title": "second"}', 'second', '2021-01-01');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at) VALUES ('ai', 'aiMissions', 'apart', 'u1', 'insert', '{"title": "first"}', 'first', '2021-01-01');
SELECT mission_id, record ->> 'title' AS title FROM mana_ai.mission_snapshots ORDER BY 1;
SELECT * FROM broken_invariants();
VACUUM FULL public.of_second;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at) VALUES ('ai', 'aiMissions', 'apart', 'u1', 'insert', '{"title": "first again"}', 'first', '2021-01-01');
SELECT mission_id, record ->> 'title' AS title FROM mana_ai.mission_snapshots ORDER BY 1;
SELECT * FROM broken_invariants();
SELECT mana_ai.detach();

-- The trigger on the partitions goes with the extension.
SELECT mana_ai.attach('public.sync_changes');
\set QUIET on
DROP EXTENSION mana_ai;
\set QUIET off
SELECT count(*) FROM pg_trigger WHERE tgname = 'mana_ai_fold';
\set QUIET on
SET client_min_messages = warning;
DROP TABLE public.sync_changes, public.front, public.deep, public.classy, public.by_time CASCADE;
DROP FUNCTION public.broken_invariants;
DROP FOREIGN DATA WRAPPER regress_nothing CASCADE;
DROP TABLE IF EXISTS public.changes_now, public.changes_a_now, public.changes_b_now;
DROP SCHEMA test CASCADE;
