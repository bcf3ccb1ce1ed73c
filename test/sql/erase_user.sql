-- erase_user() and export_user(): every table of mana_ai, the right rows and no others, and it stays so (docs/erasure.md).
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all

-- For every table of mana_ai it is known which rows belong to single users, or that none do.
SELECT c.relname AS neither
  FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'mana_ai'
 WHERE c.relkind IN ('r', 'p', 'm', 'f')
   AND c.relname NOT IN (SELECT table_name FROM mana_ai.tables_of_users())
   AND c.relname NOT IN (
       'tools', 'tool_catalogs', 'chosen_tool_catalog', 'model_prices', 'resolvers', 'folded_log', 'folded_leaves', 'fold_progress',  -- the operator's, the log's
       'evaluations',          -- figures of many users; evaluation_runs names them
       'engine_state',         -- the worker takes the user's missions out of what the last tick could not do
       'erased_users',         -- digests
       'erasures_under_way',  -- the ids, until nothing of theirs can come back
       'usage_sums');         -- of all users together
-- No table has another column that names users.
SELECT table_name, column_name FROM information_schema.columns
 WHERE table_schema = 'mana_ai' AND column_name ~ 'user' AND column_name NOT IN ('user_id', 'user_digest');

-- A row of the user in each of them, whatever columns it has.
CREATE FUNCTION test.fill(of_user text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  t text;
  columns text;
  vals text;
BEGIN
  FOR t IN SELECT table_name FROM mana_ai.tables_of_users() LOOP
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
           string_agg(CASE
             WHEN a.attname = 'user_id' THEN quote_literal(of_user)
             WHEN a.attname = 'scope' THEN quote_literal('user:' || of_user)
             WHEN a.attname IN ('outcome') THEN quote_literal('planned')
             WHEN a.attname = 'role' THEN quote_literal('mission')
             WHEN a.attname = 'purpose' THEN quote_literal('plan')
             WHEN a.attname = 'status' THEN quote_literal('ok')
             WHEN a.attname = 'currency' THEN quote_literal('EUR')
             WHEN a.atttypid = 'uuid'::regtype THEN 'gen_random_uuid()'
             WHEN a.atttypid = 'jsonb'::regtype THEN '''{"marker": "' || of_user || '"}'''
             WHEN a.atttypid = 'bytea'::regtype THEN '''\x00'''
             WHEN a.atttypid = 'timestamptz'::regtype THEN 'clock_timestamp()'
             WHEN a.atttypid = 'timestamp'::regtype THEN 'localtimestamp'
             WHEN a.atttypid = 'text[]'::regtype THEN '''{}'''
             WHEN a.atttypid = 'bool'::regtype THEN 'false'
             WHEN a.atttypid = 'text'::regtype THEN '''x'''
             ELSE '''1''' END, ', ' ORDER BY a.attnum)
      INTO columns, vals
      FROM pg_attribute a
     WHERE a.attrelid = ('mana_ai.' || t)::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attidentity = ''
       AND (a.attname IN ('user_id', 'scope', 'task_id', 'agent_id') OR a.attnotnull AND NOT a.atthasdef);
    EXECUTE format('INSERT INTO mana_ai.%I (%s) VALUES (%s)', t, columns, vals);
  END LOOP;
END $$;
SELECT test.fill(u) FROM unnest(ARRAY['antje', 'ben']) u;
-- An agent of antje's that an operator has stopped, one that ben also has, and budgets of everybody.
SELECT test.agent('nur-antje', '{}', 'antje'), test.agent('beide', '{}', 'antje'), test.agent('beide', '{}', 'ben');
INSERT INTO mana_ai.record_tombstones (user_id, table_name, record_id, deleted_at)
VALUES ('antje', 'agents', 'geloescht', now()), ('antje', 'aiMissions', 'ä 1', now());
INSERT INTO mana_ai.stops (scope, reason) VALUES ('agent:nur-antje', 'r'), ('agent:geloescht', 'r'), ('agent:beide', 'r'), ('user:antjelle', 'r'), ('all', 'r');
INSERT INTO mana_ai.cost_budgets (user_id, cost_per_day, currency) VALUES ('', 1, 'EUR'), ('*', 1, 'EUR');
INSERT INTO mana_ai.engine_state (errors) VALUES ('{mission antje-1: http_500,mission ???1: http_500,mission ben-1: timeout}');
SELECT test.mission('antje-1', '{}', 'antje'), test.mission('ben-1', '{}', 'ben');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('notes', 'notes', 'n', 'antje', 'insert', 'c', '{}');

-- The export has a row of each table, and every row.
SELECT t.table_name FROM mana_ai.tables_of_users() t
EXCEPT SELECT replace(e.table_name, 'mana_ai.', '') FROM mana_ai.export_user('antje') e;
CREATE FUNCTION test.held(of_user text) RETURNS TABLE(table_name text, record jsonb) LANGUAGE plpgsql AS $$
DECLARE
  t text;
BEGIN
  FOR t IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'mana_ai'::regnamespace AND c.relkind = 'r' LOOP
    RETURN QUERY EXECUTE format('SELECT %L::text, to_jsonb(t) FROM mana_ai.%I t', 'mana_ai.' || t, t);
  END LOOP;
END $$;
-- It contains everything in our tables that names the user; in engine_state that is a mission of the last tick.
SELECT h.table_name FROM test.held('antje') h WHERE h.record::text ~ '\mantje\M'
EXCEPT ALL SELECT e.table_name FROM mana_ai.export_user('antje') e;
SELECT count(*) FROM mana_ai.export_user('antje') e WHERE e.record::text ~ '\mben\M' OR e.record ->> 'user_id' <> 'antje';
SELECT count(*) FROM mana_ai.export_user('nobody');
SELECT test.error_of('SELECT mana_ai.export_user(NULL)');

-- Erasing an unknown id does not delete budgets of everybody.
SELECT sum(removed) FROM mana_ai.erase_user('*') WHERE table_name LIKE 'mana_ai.%';
SELECT sum(removed) FROM mana_ai.erase_user('') WHERE table_name LIKE 'mana_ai.%';
SELECT count(*) FROM mana_ai.cost_budgets WHERE user_id IN ('', '*');
SELECT test.error_of('SELECT mana_ai.erase_user(NULL)');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT test.error_of('SELECT mana_ai.erase_user(''antje'')');
ROLLBACK;
-- A rollback undoes all of it.
CREATE TEMP TABLE held AS SELECT e.table_name, count(*) AS n FROM mana_ai.export_user('antje') e GROUP BY 1;
CREATE TEMP TABLE held_of_ben AS SELECT * FROM mana_ai.export_user('ben');
BEGIN;
SELECT count(*) FROM mana_ai.erase_user('antje') e JOIN held h USING (table_name) WHERE e.removed + e.kept <> h.n;
ROLLBACK;
SELECT e.table_name, count(*) FROM mana_ai.export_user('antje') e GROUP BY 1 EXCEPT SELECT * FROM held;

-- Everything is removed; the rows that are left:
SELECT e.* FROM mana_ai.erase_user('antje') e LEFT JOIN held h USING (table_name)
 WHERE e.removed IS DISTINCT FROM h.n OR e.kept > 0 ORDER BY e.table_name COLLATE "C";
SELECT h.table_name FROM test.held('antje') h WHERE h.record::text ~ '\mantje\M' ORDER BY 1;
SELECT table_name, count(*) FROM mana_ai.export_user('antje') GROUP BY 1;
SELECT scope FROM mana_ai.stops ORDER BY 1;
-- Others lose nothing.
SELECT count(*) FROM (TABLE held_of_ben EXCEPT ALL SELECT * FROM mana_ai.export_user('ben')) lost;
-- The id itself is deleted once nobody can write anything of the user any more; its digest is left.
SELECT user_id, engines FROM mana_ai.erasures_under_way ORDER BY 1;
SELECT user_digest = encode(sha256('antje'), 'hex') AS digest, erased_by = current_user AS by, erased_at <= clock_timestamp() AS at
  FROM mana_ai.erased_users WHERE user_digest = mana_ai.digest_of_user('antje');
-- A transaction anywhere on the server may be older than the erasure.
DO $$ BEGIN
  FOR i IN 1..300 LOOP
    PERFORM mana_ai.settle_erasures('{antje}', '{}');
    COMMIT;
    EXIT WHEN NOT EXISTS (SELECT FROM mana_ai.erasures_under_way u WHERE u.user_id = 'antje');
    PERFORM pg_sleep(0.1);
  END LOOP;
END $$;
-- By then the last tick could do nothing for their missions.
SELECT errors FROM mana_ai.engine_state;
SELECT user_id, failures FROM mana_ai.erasures_under_way ORDER BY 1;
CREATE FUNCTION test.settle() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1..300 LOOP
    PERFORM mana_ai.run_tick();
    EXIT WHEN NOT EXISTS (SELECT FROM mana_ai.erasures_under_way);
    PERFORM pg_sleep(0.1);
  END LOOP;
  RETURN (SELECT count(*) FROM mana_ai.erasures_under_way);
END $$;
SELECT test.settle();
SELECT h.table_name FROM test.held('antje') h WHERE h.record::text ~ '\mantje\M' ORDER BY 1;

-- It stays so: new rows, a fold of the whole log, a rebuild, a mark, another table.
SELECT test.mission('antje-2', '{}', 'antje'), test.mission('antje-1', '{"title": "Neu"}', 'antje'), test.mission('ben-2', '{}', 'ben');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', 'aiMissions', 'viele-' || n, 'antje', 'insert', 'c', '{"title": "T"}' FROM generate_series(1, 100) n;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots(rebuild => true);
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES
  ('antje', 'aiMissions', 'antje-1', 'test'), ('antje', '', '', 'test');
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT mana_ai.detach();
SELECT mana_ai.attach('public.sync_changes');
SELECT table_name, count(*) FROM mana_ai.export_user('antje') GROUP BY 1;
SELECT mission_id FROM mana_ai.mission_snapshots WHERE user_id = 'ben' ORDER BY 1;
SELECT regexp_replace(mana_ai.why('antje', 'antje-1'), 'at .*;', 'at ...;') AS why;
SELECT test.error_of('SELECT mana_ai.run_mission(''antje'', ''antje-1'')');
-- A second call finds nothing, and reports what the log still has.
SELECT * FROM mana_ai.erase_user('antje') WHERE removed > 0 OR kept > 0 ORDER BY table_name COLLATE "C";

-- The audit goes when its retention is over.
SET mana_ai.audit_retention = '1h';
SELECT * FROM mana_ai.erase_user('antje') WHERE table_name = 'mana_ai.decrypt_audit';
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status, ts)
VALUES ('antje', 'm', 'i', 'notes', 'n', 'ok', clock_timestamp() - interval '2 hours');
SELECT * FROM mana_ai.erase_user('antje') WHERE table_name = 'mana_ai.decrypt_audit';
-- It ends after that many seconds. If the session's clock has been put forward since, calendar days end earlier.
SELECT set_config('TimeZone', x.zone, false) = x.zone AS zone, set_config('mana_ai.audit_retention', x.days || 'd', false) <> '' AS retention
  FROM (SELECT z AS zone, n AS days FROM unnest(ARRAY['Europe/Berlin', 'Australia/Sydney']) z, generate_series(1, 300) n
         WHERE (clock_timestamp() AT TIME ZONE z - make_interval(days => n)) AT TIME ZONE z
               > clock_timestamp() - make_interval(hours => 24 * n) + interval '50 minutes'
         ORDER BY n LIMIT 1) x;
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status, ts)
SELECT 'antje', 'm', 'i', 'notes', 'n', 'ok',
       clock_timestamp() - make_interval(secs => extract(epoch FROM current_setting('mana_ai.audit_retention')::interval)::int) + x.age
  FROM unnest(ARRAY[interval '30 minutes', interval '-1 minute']) AS x(age);
SELECT removed, kept FROM mana_ai.erase_user('antje') WHERE table_name = 'mana_ai.decrypt_audit';
RESET TimeZone;
RESET mana_ai.audit_retention;

-- After readmit_user() the content of the log counts again.
SELECT test.error_of('SELECT mana_ai.readmit_user(''antje'')');
SELECT test.settle();
SELECT mana_ai.readmit_user('antje'), mana_ai.readmit_user('nobody');
SELECT user_id, table_name, reason FROM mana_ai.dirty_records WHERE user_id = 'antje';
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT mission_id FROM mana_ai.mission_snapshots WHERE user_id = 'antje' AND mission_id LIKE 'antje%' ORDER BY 1;
SELECT count(*) FROM mana_ai.dirty_records;
SELECT test.mission('antje-3', '{}', 'antje');
SELECT count(*) FROM mana_ai.mission_snapshots WHERE user_id = 'antje';

-- Privileges.
CREATE ROLE regress_mana_eraser;
GRANT USAGE ON SCHEMA mana_ai, test TO regress_mana_eraser;
SET ROLE regress_mana_eraser;
SELECT test.error_of('SELECT mana_ai.erase_user(''ben'')');
SELECT test.error_of('SELECT mana_ai.export_user(''ben'')');
SELECT test.error_of('SELECT mana_ai.readmit_user(''ben'')');
SELECT test.error_of('SELECT mana_ai.settle_erasures(''{}'', ''{}'')');
SELECT test.error_of('TABLE mana_ai.erased_users');
RESET ROLE;
GRANT EXECUTE ON FUNCTION mana_ai.erase_user(text), mana_ai.export_user(text) TO regress_mana_eraser;
SET ROLE regress_mana_eraser;
SELECT count(*) > 10 FROM mana_ai.export_user('ben');
SELECT sum(removed) > 10 FROM mana_ai.erase_user('ben');
RESET ROLE;
SELECT erased_by = session_user FROM mana_ai.erased_users WHERE user_digest = mana_ai.digest_of_user('ben');
DROP OWNED BY regress_mana_eraser;
DROP ROLE regress_mana_eraser;
