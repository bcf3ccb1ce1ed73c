-- attach(), detach() and refresh_snapshots() over tables of every shape that mana-sync has or might have.
\set srcdir `echo "$PG_ABS_SRCDIR"`
\set old_shape :srcdir '/data/sync_changes.sql'
\set new_shape :srcdir '/data/sync_changes_field_meta.sql'
\set QUIET on
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mana_ai;
DROP TABLE IF EXISTS public.sync_changes;
RESET client_min_messages;
\set QUIET off

-- Without the table the extension is created, with a notice.
CREATE EXTENSION mana_ai;
SET mana_ai.tick_enabled = off;
SELECT mana_ai.attached_table();
SELECT mana_ai.replay('u', 'ai', 'aiMissions', 'm');
SELECT * FROM mana_ai.refresh_snapshots();
SELECT mana_ai.detach();

-- A table that is not mana-sync's is refused, with the reason.
SELECT mana_ai.attach('pg_catalog.pg_tables');
CREATE TABLE public.unlike (app_id text, table_name text, record_id text, user_id text, op text, data json,
                            field_timestamps jsonb, created_at timestamptz);
SELECT mana_ai.attach('public.unlike');
ALTER TABLE public.unlike ALTER data TYPE jsonb, DROP field_timestamps;
SELECT mana_ai.attach('public.unlike');
ALTER TABLE public.unlike ADD field_timestamps jsonb, DROP user_id;
SELECT mana_ai.attach('public.unlike');
DROP TABLE public.unlike;
CREATE TABLE public.parts (app_id text, table_name text, record_id text, user_id text, op text, data jsonb,
                           field_timestamps jsonb, created_at timestamptz) PARTITION BY LIST (lower(app_id));
SELECT mana_ai.attach('public.parts');
DROP TABLE public.parts;
SELECT mana_ai.attached_table();

-- A history, in the older shape.
\set QUIET on
SET client_min_messages = warning;
\i :old_shape
RESET client_min_messages;
\set QUIET off
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at)
VALUES ('ai', 'aiMissions', 'm1', 'u1', 'insert', '{"title": "one", "state": "active", "nextRunAt": "2030-01-01T00:00:00Z"}', '{}', 'c', '2026-01-01'),
       ('ai', 'aiMissions', 'm1', 'u1', 'update', '{"title": "two"}', '{"title": "2026-02-01T00:00:00Z"}', 'c', '2026-01-02'),
       ('ai', 'aiMissions', 'm1', 'u2', 'insert', '{"title": "of another user"}', '{}', 'c', '2026-01-01'),
       ('ai', 'aiMissions', 'm2', 'u1', 'insert', '{"title": "deleted"}', '{}', 'c', '2026-01-01'),
       ('ai', 'aiMissions', 'm2', 'u1', 'delete', '{}', '{}', 'c', '2026-01-03'),
       ('ai', 'agents', 'a1', 'u1', 'update', '{"name": "without an insert"}', '{}', 'c', '2026-01-01'),
       ('todo', 'aiMissions', 'm3', 'u1', 'insert', '{"title": "of another app"}', '{}', 'c', '2026-01-01');
SELECT mana_ai.attach('public.sync_changes');
SELECT mana_ai.attached_table();
SELECT user_id, mission_id, record FROM mana_ai.mission_snapshots ORDER BY 1, 2;
SELECT user_id, agent_id, record FROM mana_ai.agent_snapshots;
SELECT user_id, table_name, record_id FROM mana_ai.record_tombstones;
SELECT user_id, mission_id, due_at AT TIME ZONE 'UTC' AS due FROM mana_ai.mission_schedule ORDER BY 1, 2;
SELECT mana_ai.replay('u1', 'todo', 'aiMissions', 'm3');
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'public.sync_changes'::regclass;

-- One table at a time.
SELECT mana_ai.attach('public.sync_changes');
CREATE TABLE public.other_changes (LIKE public.sync_changes INCLUDING ALL);
SELECT mana_ai.attach('public.other_changes');
DROP TABLE public.other_changes;

-- mana-sync renames the column while we are installed, and gets another one.
ALTER TABLE public.sync_changes RENAME field_timestamps TO field_meta;
ALTER TABLE public.sync_changes ADD origin text;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, created_at)
VALUES ('ai', 'aiMissions', 'm1', 'u1', 'update', '{"title": "three", "state": "paused", "x": 1}',
        '{"title": {"at": "2026-01-31T23:59:59Z", "actor": {"kind": "user"}, "origin": "user"}, "state": {"at": "2026-03-01T00:00:00Z"}, "x": {"origin": "user"}}', 'c', '2026-01-04');
SELECT record FROM mana_ai.mission_snapshots WHERE mission_id = 'm1' AND user_id = 'u1';
SELECT mana_ai.replay('u1', 'ai', 'aiMissions', 'm1');
-- Renamed to an unknown name: the insert succeeds, the record waits until the shape is known again.
ALTER TABLE public.sync_changes RENAME field_meta TO field_something;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_something, client_id, created_at)
VALUES ('ai', 'aiMissions', 'm1', 'u1', 'update', '{"title": "four"}', '{"title": "2026-04-01T00:00:00Z"}', 'c', '2026-01-05');
SELECT record_id, reason FROM mana_ai.dirty_records;
SELECT * FROM mana_ai.refresh_snapshots();
ALTER TABLE public.sync_changes RENAME field_something TO field_meta;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT record FROM mana_ai.mission_snapshots WHERE mission_id = 'm1' AND user_id = 'u1';
SELECT count(*) FROM mana_ai.dirty_records;

-- The table is rewritten: the rows move, results stay the same.
VACUUM FULL public.sync_changes;
BEGIN;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, created_at)
VALUES ('ai', 'aiMissions', 'm1', 'u1', 'update', '{"title": "four, later row"}', '{"title": "2026-04-01T00:00:00Z"}', 'c', '2026-01-05');
COMMIT;
SELECT record ->> 'title' AS title, record = mana_ai.replay('u1', 'ai', 'aiMissions', 'm1') AS same
  FROM mana_ai.mission_snapshots WHERE mission_id = 'm1' AND user_id = 'u1';

-- Damage of every kind is repaired by a refresh; a second one finds nothing to do.
UPDATE mana_ai.mission_snapshots SET record = '{"id": "m1"}' WHERE user_id = 'u1';
UPDATE mana_ai.agent_snapshots SET clocks = '\x00';
DELETE FROM mana_ai.mission_snapshots WHERE user_id = 'u2';
DELETE FROM mana_ai.record_tombstones;
UPDATE mana_ai.mission_schedule SET due_at = NULL;
INSERT INTO mana_ai.mission_snapshots SELECT user_id, 'not in the log', space_id, record, clocks, 1, now(), now() FROM mana_ai.agent_snapshots;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT user_id, mission_id, record = mana_ai.replay(user_id, 'ai', 'aiMissions', mission_id) AS same FROM mana_ai.mission_snapshots ORDER BY 1, 2;
SELECT record = mana_ai.replay(user_id, 'ai', 'agents', agent_id) AS same FROM mana_ai.agent_snapshots;
SELECT count(*) FROM mana_ai.record_tombstones;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();

-- Detached and attached again: rows inserted meanwhile are folded then.
SELECT mana_ai.detach();
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, created_at)
VALUES ('ai', 'aiMissions', 'm2', 'u1', 'update', '{"deletedAt": null, "title": "back"}', '{}', 'c', '2026-06-01');
SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'm2';
SELECT mana_ai.attach('public.sync_changes');
SELECT record FROM mana_ai.mission_snapshots WHERE mission_id = 'm2';
SELECT count(*) FROM mana_ai.record_tombstones;

-- Rows that leave the log leave their snapshots behind. Only a rebuild forgets.
DELETE FROM public.sync_changes WHERE record_id = 'm1';
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots();
SELECT user_id, mission_id FROM mana_ai.mission_snapshots ORDER BY 1, 2;
SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots(rebuild => true);
SELECT user_id, mission_id FROM mana_ai.mission_snapshots ORDER BY 1, 2;
SELECT user_id, mission_id FROM mana_ai.mission_schedule ORDER BY 1, 2;

-- The table is dropped, the extension stays; the extension is dropped without CASCADE, the table stays.
DROP TABLE public.sync_changes;
SELECT mana_ai.attached_table();
\set QUIET on
SET client_min_messages = warning;
\i :new_shape
RESET client_min_messages;
\set QUIET off
SELECT mana_ai.attach('public.sync_changes');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, origin, created_at)
VALUES ('ai', 'agents', 'a2', 'u1', 'insert', '{"name": "in the newer shape"}', '{"name": {"at": "2026-01-01T00:00:00Z"}}', 'c', 'user', '2026-01-01');
SELECT agent_id, record FROM mana_ai.agent_snapshots WHERE agent_id = 'a2';
DROP EXTENSION mana_ai;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.sync_changes'::regclass;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id) VALUES ('ai', 'agents', 'a3', 'u1', 'insert', '{}', 'c');
-- A history that is older than the extension is folded by CREATE EXTENSION.
CREATE EXTENSION mana_ai;
SELECT agent_id, record FROM mana_ai.agent_snapshots ORDER BY 1;
\set QUIET on
DROP EXTENSION mana_ai;
DROP TABLE public.sync_changes;
