-- What an administrator may put on tables of mana_ai: all of it counts as if SQL had written the rows, except row triggers and
-- rules. What a rule refuses is marked; the insert succeeds; the server survives.
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
CREATE ROLE regress_mana_service;
GRANT SELECT, INSERT ON public.sync_changes TO regress_mana_service;
GRANT USAGE ON SCHEMA public TO regress_mana_service;
-- Inserts as mana-sync's role, under forced row-level security, with a hostile search_path.
CREATE SCHEMA evil AUTHORIZATION regress_mana_service;
CREATE FUNCTION public.push(id text, data jsonb, op text DEFAULT 'update', tab text DEFAULT 'aiMissions') RETURNS text LANGUAGE plpgsql
SET search_path = evil, pg_catalog AS $$
#variable_conflict use_variable
BEGIN
  PERFORM set_config('role', 'regress_mana_service', true), set_config('app.current_user_id', 'u', true);
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id)
  SELECT 'ai', tab, id, 'u', op, data, (SELECT jsonb_object_agg(k, clock_timestamp()) FROM jsonb_object_keys(data) k), 'c';
  PERFORM set_config('role', 'none', true);
  RETURN coalesce((SELECT string_agg('marked: ' || d.reason, '; ') FROM mana_ai.dirty_records d WHERE d.record_id = id), 'kept');
END $$;
-- Changes of every kind: a new record, a change of content, of the schedule, a deletion, and back to life.
CREATE FUNCTION public.try_all(OUT created text, OUT changed text, OUT scheduled text, OUT deleted text, OUT revived text, OUT agent text) LANGUAGE plpgsql AS $$
DECLARE
  id text := gen_random_uuid();
BEGIN
  created := public.push(id, '{"title": "t", "state": "active", "nextRunAt": "2031-01-01T00:00:00Z"}', 'insert');
  changed := public.push(id, '{"title": "changed"}');
  scheduled := public.push(id, '{"nextRunAt": "2032-01-01T00:00:00Z", "agentId": "a"}');
  deleted := public.push(id, '{"deletedAt": "2099-01-01T00:00:00Z"}', 'delete');
  revived := public.push(id, '{"deletedAt": null, "title": "back"}');
  agent := public.push(id, '{"name": "a"}', 'insert', 'agents');
END $$;
-- After a change that is undone the marks are repaired and all is right again.
CREATE FUNCTION public.all_is_right() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM mana_ai.refresh_snapshots();
  RETURN format('%s marks, %s wrong', (SELECT count(*) FROM mana_ai.dirty_records), (SELECT count(*) FROM broken_invariants()));
END $$;
\set QUIET off
SELECT * FROM try_all();
SELECT all_is_right();

-- Indexes: on expressions, partial, unique, of other kinds. They match the rows.
CREATE FUNCTION public.who() RETURNS text LANGUAGE sql STABLE AS 'SELECT current_user::text';
CREATE FUNCTION public.as_owner(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF current_user = 'regress_mana_service' OR current_setting('search_path') LIKE '%evil%' THEN
    RAISE EXCEPTION 'evaluated as the inserting role';
  END IF;
  RETURN lower($1);
END $$;
CREATE INDEX added_1 ON mana_ai.dirty_records (lower(user_id));
CREATE INDEX added_2 ON mana_ai.dirty_records (record_id) WHERE public.as_owner(reason) <> 'never';
CREATE INDEX added_3 ON mana_ai.mission_snapshots ((record ->> 'title')) WHERE public.as_owner(mission_id) > '';
CREATE INDEX added_4 ON mana_ai.mission_snapshots USING gin (record);
CREATE UNIQUE INDEX added_5 ON mana_ai.mission_schedule (mission_id, user_id, public.as_owner(user_id));
CREATE INDEX added_6 ON mana_ai.record_tombstones (public.as_owner(record_id));
CREATE INDEX added_7 ON mana_ai.agent_snapshots (updated_at) WHERE updated_at IS NULL;
CREATE INDEX added_8 ON mana_ai.mission_schedule USING brin (wake_at);
SELECT * FROM try_all();
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*) FROM mana_ai.mission_snapshots WHERE record ->> 'title' = 'back' AND public.as_owner(mission_id) > '';
RESET enable_seqscan;
RESET enable_bitmapscan;
DROP INDEX mana_ai.added_1, mana_ai.added_2, mana_ai.added_3, mana_ai.added_4, mana_ai.added_5, mana_ai.added_6, mana_ai.added_7, mana_ai.added_8;
SELECT all_is_right();

-- Columns with a default, NOT NULL, generated, an identity.
ALTER TABLE mana_ai.mission_schedule ADD COLUMN priority int NOT NULL DEFAULT 7;
ALTER TABLE mana_ai.mission_snapshots ADD COLUMN made_by text NOT NULL DEFAULT public.who(), ADD COLUMN title text GENERATED ALWAYS AS (record ->> 'title') STORED;
ALTER TABLE mana_ai.agent_snapshots ADD COLUMN n int GENERATED ALWAYS AS IDENTITY;
ALTER TABLE mana_ai.dirty_records ADD COLUMN extra text NOT NULL DEFAULT 'x';
ALTER TABLE mana_ai.record_tombstones ADD COLUMN extra text NOT NULL DEFAULT 'x' CHECK (extra = 'x');
SELECT * FROM try_all();
SELECT count(*) FILTER (WHERE priority = 7) = count(*) AS defaults FROM mana_ai.mission_schedule;
SELECT count(*) FILTER (WHERE made_by = 'regress_mana_service') AS as_the_role, count(*) FILTER (WHERE title IS DISTINCT FROM record ->> 'title') AS stale FROM mana_ai.mission_snapshots;
-- Refused rows are marked, and the insert succeeds, also in a bulk load whose first rows were accepted.
ALTER TABLE mana_ai.mission_schedule ADD COLUMN owner text;
ALTER TABLE mana_ai.mission_schedule ADD CHECK (mission_id NOT LIKE 'bulk%' OR mission_id < 'bulk500');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'bulk' || i, 'u', 'insert', '{"state": "paused"}', 'c' FROM generate_series(400, 599) i;
SELECT reason, count(*) FROM mana_ai.dirty_records GROUP BY 1;
SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'bulk%';
ALTER TABLE mana_ai.mission_schedule DROP CONSTRAINT mission_schedule_mission_id_check;
SELECT all_is_right();
ALTER TABLE mana_ai.mission_schedule ALTER owner SET DEFAULT 'nobody', ADD CHECK (1 / (CASE WHEN owner = 'nobody' THEN 0 ELSE 1 END) > 0) NOT VALID;
SELECT * FROM try_all();
ALTER TABLE mana_ai.mission_schedule DROP COLUMN owner;
ALTER TABLE mana_ai.mission_snapshots ADD COLUMN must text;
UPDATE mana_ai.mission_snapshots SET must = 'x';
ALTER TABLE mana_ai.mission_snapshots ALTER must SET NOT NULL;
SELECT * FROM try_all();
ALTER TABLE mana_ai.mission_snapshots DROP COLUMN must, DROP COLUMN title;
SELECT all_is_right();
CREATE UNIQUE INDEX added ON mana_ai.mission_schedule (due_at) WHERE due_at > '2039-01-01Z';
SELECT push('same-1', '{"title": "T", "state": "active", "nextRunAt": "2040-01-01T00:00:00Z"}', 'insert'), push('same-2', '{"title": "T", "state": "active", "nextRunAt": "2040-01-01T00:00:00Z"}', 'insert');
DROP INDEX mana_ai.added;
ALTER TABLE mana_ai.mission_schedule ADD EXCLUDE USING btree (user_id WITH =, mission_id WITH =);
SELECT push('excluded', '{"state": "active"}', 'insert');
ALTER TABLE mana_ai.mission_schedule DROP CONSTRAINT mission_schedule_user_id_mission_id_excl;
ALTER TABLE mana_ai.mission_schedule ADD UNIQUE (mission_id, user_id) DEFERRABLE INITIALLY DEFERRED;
SELECT * FROM try_all();
ALTER TABLE mana_ai.mission_schedule DROP CONSTRAINT mission_schedule_mission_id_user_id_key;
SELECT all_is_right();

-- Our own columns, keys and rows changed.
SELECT push('m', '{"title": "m", "state": "active"}', 'insert');
\set QUIET on
CREATE TABLE public.outcomes (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, change text, outcome text, after text);
\set ECHO none
\o /dev/null
SELECT s FROM (VALUES
  ('ALTER TABLE mana_ai.mission_snapshots ALTER record TYPE text USING record::text', 'ALTER TABLE mana_ai.mission_snapshots ALTER record TYPE jsonb USING record::jsonb'),
  ('ALTER TABLE mana_ai.mission_snapshots ALTER clocks TYPE text USING ''x''', 'ALTER TABLE mana_ai.mission_snapshots ALTER clocks TYPE bytea USING clocks::bytea'),
  ('ALTER TABLE mana_ai.mission_snapshots ALTER version TYPE numeric', 'ALTER TABLE mana_ai.mission_snapshots ALTER version TYPE bigint'),
  ('ALTER TABLE mana_ai.mission_snapshots ALTER record DROP NOT NULL, ALTER clocks DROP NOT NULL', 'SELECT 1'),
  ('UPDATE mana_ai.mission_snapshots SET record = NULL', 'SELECT 1'),
  ('UPDATE mana_ai.mission_snapshots SET clocks = NULL', 'SELECT 1'),
  ('UPDATE mana_ai.mission_snapshots SET clocks = ''\x00ff''', 'SELECT 1'),
  ('ALTER TABLE mana_ai.mission_snapshots DROP CONSTRAINT mission_snapshots_pkey', 'ALTER TABLE mana_ai.mission_snapshots ADD PRIMARY KEY (user_id, mission_id)'),
  ('ALTER TABLE mana_ai.mission_snapshots DROP CONSTRAINT mission_snapshots_pkey, ADD PRIMARY KEY (mission_id, user_id)', 'ALTER TABLE mana_ai.mission_snapshots DROP CONSTRAINT mission_snapshots_pkey, ADD PRIMARY KEY (user_id, mission_id)'),
  ('ALTER TABLE mana_ai.mission_schedule ALTER lease_owner TYPE text', 'ALTER TABLE mana_ai.mission_schedule ALTER lease_owner TYPE bigint USING lease_owner::bigint'),
  ('ALTER TABLE mana_ai.mission_schedule RENAME COLUMN wake_at TO other', 'ALTER TABLE mana_ai.mission_schedule RENAME COLUMN other TO wake_at'),
  ('ALTER TABLE mana_ai.mission_schedule RENAME TO other', 'ALTER TABLE mana_ai.other RENAME TO mission_schedule'),
  ('ALTER TABLE mana_ai.record_tombstones ALTER deleted_at DROP NOT NULL', 'SELECT 1'),
  ('ALTER TABLE mana_ai.record_tombstones ALTER deleted_at TYPE date', 'ALTER TABLE mana_ai.record_tombstones ALTER deleted_at TYPE timestamptz'),
  ('DROP INDEX mana_ai.dirty_records_of_user', 'CREATE INDEX dirty_records_of_user ON mana_ai.dirty_records (user_id, table_name, record_id)'),
  ('ALTER TABLE mana_ai.dirty_records ALTER id TYPE text', 'ALTER TABLE mana_ai.dirty_records ALTER id TYPE uuid USING id::uuid'),
  ('ALTER TABLE mana_ai.mission_snapshots ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', 'ALTER TABLE mana_ai.mission_snapshots DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY'),
  ('ALTER TABLE mana_ai.mission_snapshots SET UNLOGGED', 'ALTER TABLE mana_ai.mission_snapshots SET LOGGED'),
  ('ALTER TABLE mana_ai.mission_snapshots REPLICA IDENTITY NOTHING', 'ALTER TABLE mana_ai.mission_snapshots REPLICA IDENTITY DEFAULT'),
  ('CREATE PUBLICATION added FOR TABLE mana_ai.mission_snapshots, mana_ai.mission_schedule; ALTER TABLE mana_ai.mission_snapshots REPLICA IDENTITY NOTHING', 'ALTER TABLE mana_ai.mission_snapshots REPLICA IDENTITY DEFAULT; DROP PUBLICATION added'),
  ('CREATE TRIGGER added BEFORE INSERT OR UPDATE ON mana_ai.mission_snapshots FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row()', 'DROP TRIGGER added ON mana_ai.mission_snapshots')
 ) AS v(change, back),
  unnest(ARRAY[change, format('INSERT INTO outcomes (change, outcome) SELECT %L, push(''m'', ''{"n": 1}'')', regexp_replace(change, 'ALTER TABLE mana_ai.', '')),
    back, 'UPDATE outcomes SET after = all_is_right() WHERE n = (SELECT max(n) FROM outcomes)']) s \gexec
\o
\set ECHO all
\set QUIET off
SELECT change, outcome, after FROM outcomes ORDER BY n;

-- One mark for all records of a user, and a record that was set aside as too large.
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('u', '', '', 'busy');
INSERT INTO mana_ai.oversized_records (user_id, table_name, record_id) VALUES ('v', 'aiMissions', 'large');
SELECT user_id, mission_id, problem FROM mana_ai.mission_problems WHERE problem ~ '^all snapshots|too large';
SELECT mana_ai.why('u', 'nothing'), mana_ai.why('v', 'large'), mana_ai.why('v', 'nothing');
SELECT all_is_right();
SELECT count(*) FROM mana_ai.oversized_records;

-- Housekeeping and ticks under a publication of everything, and every table of mana_ai has what that needs.
CREATE PUBLICATION added FOR ALL TABLES;
SELECT mana_ai.run_tick() IS NOT NULL AS ticked;
SELECT * FROM try_all();
DROP PUBLICATION added;
SELECT c.relname FROM pg_class c
 WHERE c.relnamespace = 'mana_ai'::regnamespace AND c.relkind = 'r' AND c.relreplident = 'd'
   AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);
SELECT all_is_right();

\set QUIET on
DROP EXTENSION mana_ai;
DROP TABLE public.sync_changes, public.outcomes;
DROP SCHEMA evil CASCADE;
DROP FUNCTION public.push, public.try_all, public.all_is_right, public.who, public.as_owner, broken_invariants;
REVOKE ALL ON SCHEMA public FROM regress_mana_service;
DROP ROLE regress_mana_service;
