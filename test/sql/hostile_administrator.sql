-- What an administrator may do to mana-sync's table. The server survives, inserts succeed unless PostgreSQL itself
-- refuses them, and what could not be kept is recorded and repaired later.
\set srcdir `echo "$PG_ABS_SRCDIR"`
\set table_ddl :srcdir '/data/sync_changes.sql'
\set QUIET on
SET client_min_messages = error;
DROP EXTENSION IF EXISTS mana_ai;
DROP TABLE IF EXISTS public.sync_changes;
\i :table_ddl
CREATE EXTENSION mana_ai;
SET mana_ai.tick_enabled = off;
DO $$ BEGIN EXECUTE pg_read_file(current_setting('mana_ai_test.data') || '/invariants.sql'); END $$;
-- The state of a record.
CREATE FUNCTION public.look(record text) RETURNS text LANGUAGE sql AS $$
  SELECT coalesce((SELECT 'kept' FROM mana_ai.mission_snapshots s WHERE s.mission_id = $1),
                  (SELECT string_agg('marked: ' || d.reason, '; ') FROM mana_ai.dirty_records d WHERE d.record_id = $1),
                  CASE WHEN (SELECT unmarked_changes FROM mana_ai.status()) > 0 THEN 'to be folded anew' END,
                  'lost')
$$;
-- Inserts a row in whatever shape the table has now: values go by position.
CREATE FUNCTION public.try_insert(id text, columns text DEFAULT 'app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id')
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('INSERT INTO public.sync_changes (%s) VALUES (''ai'', ''aiMissions'', %L, ''u'', ''insert'', ''{"title": "t", "state": "active"}'', ''{}'', ''c'')', columns, id);
  RETURN 'inserted';
EXCEPTION WHEN OTHERS THEN
  RETURN 'refused: ' || SQLSTATE;
END $$;
-- Everything of mana_ai that reads the log: it may fail, but must not crash the server.
CREATE FUNCTION public.use_all() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  said text[] := '{}';
  statement text;
BEGIN
  FOREACH statement IN ARRAY ARRAY[
    'SELECT mana_ai.run_tick()', 'SELECT mana_ai.refresh_snapshots()', 'SELECT mana_ai.replay(''u'', ''ai'', ''aiMissions'', ''m'')',
    'SELECT mana_ai.status()', 'SELECT count(*) FROM mana_ai.mission_problems', 'SELECT mana_ai.why(''u'', ''m'')'] LOOP
    BEGIN
      EXECUTE statement;
    EXCEPTION WHEN OTHERS THEN
      said := said || (split_part(split_part(statement, '.', 2), '(', 1) || ' ' || SQLSTATE);
    END;
  END LOOP;
  RETURN array_to_string(said, ', ');
END $$;
CREATE TABLE public.outcomes (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, change text, inserted text, became text, errors text, at_last text);
-- One change, in separate transactions: make it, insert a row, use all of mana_ai, undo it, refresh.
CREATE FUNCTION public.steps(change text, back text, columns text DEFAULT 'app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id')
RETURNS SETOF text LANGUAGE sql AS $$
  SELECT unnest(ARRAY[
    change,
    format('INSERT INTO outcomes (change, inserted) VALUES (%L, try_insert(md5(%L), %L))', replace(change, 'ALTER TABLE public.sync_changes ', ''), change, columns),
    format('UPDATE outcomes SET became = look(md5(%L)) WHERE n = (SELECT max(n) FROM outcomes)', change),
    'UPDATE outcomes SET errors = use_all() WHERE n = (SELECT max(n) FROM outcomes)',
    back,
    'SELECT mana_ai.refresh_snapshots()',
    format('UPDATE outcomes SET at_last = look(md5(%L)) WHERE n = (SELECT max(n) FROM outcomes)', change)])
$$;
\set QUIET off

-- Each column that we need, renamed and retyped, one after the other. Policies and checks of the table would refuse much of
-- that themselves.
\set QUIET on
ALTER TABLE public.sync_changes NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
SELECT format('DROP POLICY %I ON public.sync_changes', polname) FROM pg_policy WHERE polrelid = 'public.sync_changes'::regclass
UNION ALL SELECT format('ALTER TABLE public.sync_changes DROP CONSTRAINT %I', conname) FROM pg_constraint
 WHERE conrelid = 'public.sync_changes'::regclass AND contype = 'c' \gexec
\set ECHO none
\o /dev/null
SELECT s FROM unnest(ARRAY['app_id', 'table_name', 'record_id', 'user_id', 'op', 'data', 'field_timestamps', 'created_at']) col,
  steps(format('ALTER TABLE public.sync_changes RENAME COLUMN %I TO other', col), format('ALTER TABLE public.sync_changes RENAME COLUMN other TO %I', col),
   regexp_replace('app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id', '\m' || col || '\M', 'other')) s \gexec
SELECT s FROM (VALUES
  ('data', 'TYPE text USING data::text', 'TYPE jsonb USING data::jsonb'), ('data', 'TYPE json', 'TYPE jsonb'),
  ('data', 'TYPE bytea USING NULL', 'TYPE jsonb USING ''{"title": "t"}'''),
  ('field_timestamps', 'DROP DEFAULT, ALTER field_timestamps TYPE text', 'TYPE jsonb USING field_timestamps::jsonb'),
  ('created_at', 'TYPE timestamp', 'TYPE timestamptz'),
  ('created_at', 'DROP DEFAULT, ALTER created_at TYPE text', 'TYPE timestamptz USING created_at::timestamptz, ALTER created_at SET DEFAULT now()'),
  ('app_id', 'TYPE varchar', 'TYPE text'), ('app_id', 'TYPE name', 'TYPE text'), ('app_id', 'TYPE bytea USING app_id::bytea', 'TYPE text USING ''ai'''),
  ('table_name', 'TYPE varchar(40)', 'TYPE text'), ('table_name', 'TYPE name', 'TYPE text'),
  ('record_id', 'TYPE varchar', 'TYPE text'), ('record_id', 'TYPE bytea USING record_id::bytea', 'TYPE text USING convert_from(record_id, ''UTF8'')'),
  ('user_id', 'TYPE varchar', 'TYPE text'), ('user_id', 'TYPE name', 'TYPE text'), ('op', 'TYPE varchar', 'TYPE text'), ('op', 'TYPE name', 'TYPE text')
 ) AS v(col, change, back),
  steps(format('ALTER TABLE public.sync_changes ALTER %I %s', col, change), format('ALTER TABLE public.sync_changes ALTER %I %s', col, back)) s \gexec
\o
\set ECHO all
\set QUIET off
SELECT change, inserted, became, errors, at_last FROM outcomes ORDER BY n;
SELECT count(*) FROM mana_ai.refresh_snapshots(rebuild => true);  -- some changes above rewrote what the log says
SELECT * FROM broken_invariants();

-- A dropped column does not come back, so each is dropped from a separate log. Values of the other columns are inserted.
CREATE TABLE public.whole_log AS SELECT * FROM public.sync_changes;
CREATE FUNCTION public.insert_without(col text, id text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  names  text[] := ARRAY['app_id', 'table_name', 'record_id', 'user_id', 'op', 'data', 'field_timestamps', 'client_id'];
  given  text[] := ARRAY['ai', 'aiMissions', id, 'u', 'insert', '{"title": "t"}', '{}', 'c'];
  kept   text;
  quoted text;
BEGIN
  SELECT string_agg(n, ', '), string_agg(quote_literal(v), ', ') INTO kept, quoted FROM unnest(names, given) AS u(n, v) WHERE n <> col;
  EXECUTE format('INSERT INTO public.sync_changes (%s) VALUES (%s)', kept, quoted);
  RETURN 'inserted';
EXCEPTION WHEN OTHERS THEN
  RETURN 'refused: ' || SQLSTATE;
END $$;
\set QUIET on
TRUNCATE outcomes;
\set ECHO none
\o /dev/null
SELECT s FROM unnest(ARRAY['app_id', 'table_name', 'record_id', 'user_id', 'op', 'data', 'field_timestamps', 'created_at', 'space_id', 'actor', 'schema_version', 'client_id']) col,
  unnest(ARRAY[
    format('ALTER TABLE public.sync_changes DROP COLUMN %I CASCADE', col),
    format('INSERT INTO outcomes (change, inserted) VALUES (%L, insert_without(%L, %L))', 'DROP COLUMN ' || col, col, 'without ' || col),
    format('UPDATE outcomes SET became = look(%L) WHERE n = (SELECT max(n) FROM outcomes)', 'without ' || col),
    'UPDATE outcomes SET errors = use_all() WHERE n = (SELECT max(n) FROM outcomes)',
    'SELECT mana_ai.detach()', 'DROP TABLE public.sync_changes',
    'CREATE TABLE public.sync_changes (LIKE public.whole_log)', 'INSERT INTO public.sync_changes TABLE public.whole_log',
    'ALTER TABLE public.sync_changes ALTER created_at SET DEFAULT now()',
    'CREATE INDEX sync_changes_table_name_record_id_created_at_idx ON public.sync_changes (table_name, record_id, created_at)',
    'SELECT mana_ai.attach(''public.sync_changes'')', 'TRUNCATE mana_ai.dirty_records', 'SELECT mana_ai.refresh_snapshots()']) s \gexec
\o
\set ECHO all
\set QUIET off
SELECT change, inserted, became, errors FROM outcomes ORDER BY n;
SELECT count(*) FROM mana_ai.refresh_snapshots(rebuild => true);
SELECT * FROM broken_invariants();

-- Everything else that may be put on the log.
CREATE SCHEMA evil;
CREATE FUNCTION evil.change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.space_id := 'spaced'; RETURN NEW; END $$;
\set QUIET on
TRUNCATE outcomes;
\set ECHO none
\o /dev/null
SELECT s FROM (VALUES
  ('ALTER TABLE public.sync_changes SET UNLOGGED', 'ALTER TABLE public.sync_changes SET LOGGED'),
  ('ALTER TABLE public.sync_changes ADD COLUMN extra int NOT NULL DEFAULT 7', 'ALTER TABLE public.sync_changes DROP COLUMN extra'),
  ('ALTER TABLE public.sync_changes ADD COLUMN extra text GENERATED ALWAYS AS (upper(record_id)) STORED', 'ALTER TABLE public.sync_changes DROP COLUMN extra'),
  ('ALTER TABLE public.sync_changes ADD CHECK (record_id <> ''none'')', 'SELECT'),
  ('CREATE UNIQUE INDEX added ON public.sync_changes (record_id, op) WHERE record_id > ''~''', 'DROP INDEX added'),
  ('CREATE INDEX added ON public.sync_changes (lower(record_id), (data ->> ''title''))', 'DROP INDEX added'),
  ('CREATE INDEX added ON public.sync_changes USING gin (data)', 'DROP INDEX added'),
  ('CREATE INDEX added ON public.sync_changes USING brin (created_at)', 'DROP INDEX added'),
  ('DROP INDEX sync_changes_table_name_record_id_created_at_idx', 'CREATE INDEX sync_changes_table_name_record_id_created_at_idx ON public.sync_changes (table_name, record_id, created_at)'),
  ('CREATE TRIGGER added BEFORE INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION evil.change()', 'DROP TRIGGER added ON public.sync_changes'),
  ('CREATE RULE added AS ON INSERT TO public.sync_changes DO ALSO SELECT 1', 'DROP RULE added ON public.sync_changes'),
  ('CREATE POLICY added ON public.sync_changes USING (false) WITH CHECK (false)', 'DROP POLICY added ON public.sync_changes'),
  ('ALTER TABLE public.sync_changes REPLICA IDENTITY NOTHING', 'ALTER TABLE public.sync_changes REPLICA IDENTITY DEFAULT'),
  ('CREATE PUBLICATION added FOR ALL TABLES', 'DROP PUBLICATION added'),
  ('ALTER TABLE public.sync_changes DISABLE TRIGGER mana_ai_fold', 'ALTER TABLE public.sync_changes ENABLE ALWAYS TRIGGER mana_ai_fold')
 ) AS v(change, back), steps(change, back) s \gexec
\o
\set ECHO all
\set QUIET off
SELECT change, inserted, became, errors, at_last FROM outcomes ORDER BY n;
SELECT count(*) FROM mana_ai.refresh_snapshots(rebuild => true);  -- some changes above rewrote what the log says
SELECT * FROM broken_invariants();

-- The trigger on a partitioned parent, as pg_dump restores it, and an attached table that becomes a partition.
SELECT mana_ai.detach();
ALTER TABLE public.sync_changes RENAME TO first_part;
CREATE TABLE public.sync_changes (LIKE public.first_part INCLUDING DEFAULTS) PARTITION BY HASH (user_id);
CREATE TABLE public.part_0 PARTITION OF public.sync_changes FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.part_1 PARTITION OF public.sync_changes FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TRIGGER mana_ai_fold AFTER INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION mana_ai.fold_sync_change();
SELECT try_insert('in a partition');
SELECT look('in a partition');
SELECT use_all();
SELECT try_insert('in a partition');
SELECT look('in a partition'), use_all();
DROP TABLE public.sync_changes;
ALTER TABLE public.first_part RENAME TO sync_changes;
TRUNCATE mana_ai.dirty_records;
SELECT mana_ai.attach('public.sync_changes');
CREATE TABLE public.whole (LIKE public.sync_changes) PARTITION BY LIST (op);
ALTER TABLE public.whole ATTACH PARTITION public.sync_changes DEFAULT;
SELECT try_insert('became a partition');
SELECT look('became a partition'), use_all();
ALTER TABLE public.whole DETACH PARTITION public.sync_changes;
SELECT count(*) FROM mana_ai.refresh_snapshots(rebuild => true);  -- what was in the dropped partitions was kept
SELECT look('became a partition');
SELECT count(*) FROM mana_ai.dirty_records;
SELECT * FROM broken_invariants();
-- A child by inheritance is a separate table.
CREATE TABLE public.child () INHERITS (public.sync_changes);
SELECT try_insert('has a child');
SELECT look('has a child'), use_all();

\set QUIET on
DROP TABLE public.child, public.whole, public.whole_log;
DROP EXTENSION mana_ai;
DROP TABLE public.sync_changes, public.outcomes;
DROP SCHEMA evil CASCADE;
DROP FUNCTION public.look, public.try_insert, public.use_all, public.steps, public.insert_without, broken_invariants;
