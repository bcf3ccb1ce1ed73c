-- Code of the owner of sync_changes never runs with our rights, whoever calls which function. That includes expressions and
-- predicates of its indexes, which PostgreSQL would evaluate when it plans a query over the table.
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\set QUIET on
\i :setup
SET client_min_messages = warning;
CREATE ROLE regress_sync_owner;
CREATE SCHEMA evil AUTHORIZATION regress_sync_owner;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
GRANT CREATE ON SCHEMA public TO regress_sync_owner;
SELECT mana_ai.detach();
ALTER TABLE public.sync_changes OWNER TO regress_sync_owner;
SET ROLE regress_sync_owner;
-- Called by a superuser it makes its owner one. In two steps, since a function that says it is immutable may not itself.
CREATE FUNCTION evil.become_superuser() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
    ALTER ROLE regress_sync_owner SUPERUSER;
  END IF;
END $$;
CREATE FUNCTION evil.take_over(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  PERFORM evil.become_superuser();
  RETURN i;
END $$;
CREATE INDEX evil_expression ON public.sync_changes ((evil.take_over(1)));
CREATE INDEX evil_predicate ON public.sync_changes (table_name, record_id, user_id, app_id) WHERE evil.take_over(2) = 2;
CREATE INDEX evil_both ON public.sync_changes (table_name, (evil.take_over(3)), record_id) WHERE evil.take_over(length(record_id)) > 0;
ALTER TABLE public.sync_changes ALTER schema_version SET DEFAULT evil.take_over(1);
CREATE STATISTICS evil_statistics ON (evil.take_over(4)), app_id FROM public.sync_changes;
RESET ROLE;
-- Also sets the trap again.
CREATE FUNCTION test.owner_is_superuser() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_sync_owner') THEN
    ALTER ROLE regress_sync_owner NOSUPERUSER;
    RETURN true;
  END IF;
  RETURN false;
END $$;
\set QUIET off

-- The trap works: this is what a superuser's own query does, and why none of mana_ai's is one.
BEGIN;
EXPLAIN (COSTS OFF) SELECT 1 FROM public.sync_changes WHERE evil.take_over(1) = 1 AND table_name = 'x' AND record_id = 'y';
SELECT test.owner_is_superuser();
ROLLBACK;
SELECT test.owner_is_superuser();

SET ROLE regress_sync_owner;
SELECT set_config('app.current_user_id', 'u1', false) AS as_user;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'm' || i, 'u1', 'insert', '{"title": "T"}', 'c' FROM generate_series(1, 20) i;
-- A new session, which knows nothing of the indexes yet.
\set QUIET on
\c -
SET client_min_messages = warning;
\set QUIET off
SELECT mana_ai.attach('public.sync_changes');
SELECT count(*) FROM mana_ai.mission_snapshots;
SELECT test.owner_is_superuser() AS after_attach;
\set QUIET on
\c -
SET client_min_messages = warning;
\set QUIET off
SELECT new_snapshots, updated_snapshots, rows_applied FROM mana_ai.refresh_snapshots();
SELECT test.owner_is_superuser() AS after_refresh;
DELETE FROM mana_ai.mission_snapshots WHERE mission_id = 'm1';
SELECT new_snapshots, updated_snapshots, rows_applied FROM mana_ai.refresh_snapshots(rebuild => true);
SELECT test.owner_is_superuser() AS after_rebuild;
-- A record that is marked, and the fold after a restore, which forgets what was folded.
DELETE FROM mana_ai.mission_snapshots WHERE mission_id IN ('m1', 'm2');
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('u1', 'aiMissions', 'm1', 'busy');
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT count(*) FROM mana_ai.mission_snapshots;
SELECT test.owner_is_superuser() AS after_repair;
DELETE FROM mana_ai.folded_log;
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT count(*) FROM mana_ai.mission_snapshots;
SELECT test.owner_is_superuser() AS after_fold_of_a_restore;
-- Rows that the trigger folds, in the owner's own session.
BEGIN;
SET LOCAL ROLE regress_sync_owner;
SELECT set_config('app.current_user_id', 'u1', true) AS as_user;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'm' || i, 'u1', 'insert', '{"title": "T"}', 'c' FROM generate_series(20, 30) i;
COMMIT;
SELECT count(*) FROM mana_ai.mission_snapshots;
SELECT mana_ai.detach();
SELECT test.owner_is_superuser() AS after_trigger_and_detach;
DROP EXTENSION mana_ai;
CREATE EXTENSION mana_ai;
SELECT count(*) FROM mana_ai.mission_snapshots;
SELECT test.owner_is_superuser() AS after_create_extension;
SELECT sync_table, dirty_records FROM mana_ai.status();
SELECT test.owner_is_superuser();

-- A table that is not the attached log is refused, and snapshots stay.
CREATE FUNCTION test.refused() RETURNS TABLE (what text, error text) LANGUAGE sql AS $$
  VALUES ('refresh', test.error_of('SELECT mana_ai.refresh_snapshots()')),
         ('rebuild', test.error_of('SELECT mana_ai.refresh_snapshots(true)')),
         ('replay', test.error_of($q$SELECT mana_ai.replay('u1', 'ai', 'aiMissions', 'm1')$q$)) $$;
BEGIN;
CREATE TABLE test.parent (LIKE public.sync_changes) PARTITION BY LIST (app_id);
ALTER TABLE test.parent ATTACH PARTITION public.sync_changes DEFAULT;
SELECT * FROM test.refused();
SELECT mana_ai.detach();
SELECT test.error_of($$SELECT mana_ai.attach('public.sync_changes')$$);
SELECT test.error_of($$SELECT mana_ai.attach('test.parent')$$);
SELECT * FROM test.refused();
ROLLBACK;
-- As pg_dump restores a partitioned table.
BEGIN;
SELECT mana_ai.detach();
CREATE TABLE test.parent (LIKE public.sync_changes) PARTITION BY LIST (app_id);
CREATE TABLE test.ai PARTITION OF test.parent FOR VALUES IN ('ai');
CREATE TRIGGER mana_ai_fold AFTER INSERT ON test.parent FOR EACH ROW EXECUTE FUNCTION mana_ai.fold_sync_change();
SELECT mana_ai.attached_table();
SELECT * FROM test.refused();
ROLLBACK;
-- A table without our trigger stands where the attached one was.
BEGIN;
ALTER TABLE public.sync_changes RENAME TO sync_changes_old;
CREATE TABLE public.sync_changes (LIKE public.sync_changes_old INCLUDING ALL);
SELECT mana_ai.attached_table();
SELECT new_snapshots, updated_snapshots, rows_applied FROM mana_ai.refresh_snapshots();
SELECT test.error_of($$SELECT mana_ai.attach('public.sync_changes')$$);
SELECT mana_ai.detach();
SELECT mana_ai.attach('public.sync_changes');
SELECT mana_ai.attached_table(), (SELECT count(*) FROM mana_ai.mission_snapshots);
ROLLBACK;
ALTER TABLE public.sync_changes DROP COLUMN created_at;
SELECT * FROM test.refused();
DROP TABLE public.sync_changes CASCADE;
SELECT * FROM test.refused();
SELECT mana_ai.detach();
SELECT count(*) FROM mana_ai.mission_snapshots;
SELECT test.owner_is_superuser();
\set QUIET on
DROP EXTENSION mana_ai;
DROP SCHEMA test CASCADE;
DROP OWNED BY regress_sync_owner CASCADE;
DROP ROLE regress_sync_owner;
