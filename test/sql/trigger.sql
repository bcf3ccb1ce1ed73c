-- The trigger under everything that a client, a restore or a replica may do in one transaction.
\set srcdir `echo "$PG_ABS_SRCDIR"`
\set table_ddl :srcdir '/data/sync_changes.sql'
\set QUIET on
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mana_ai;
DROP TABLE IF EXISTS public.sync_changes;
\i :table_ddl
CREATE EXTENSION mana_ai;
SET mana_ai.tick_enabled = off;
CREATE ROLE regress_mana_service;
GRANT SELECT, INSERT ON public.sync_changes TO regress_mana_service;
DO $$ BEGIN EXECUTE pg_read_file(current_setting('mana_ai_test.data') || '/invariants.sql'); END $$;
CREATE FUNCTION public.push(id text, op text, data jsonb, stamp text DEFAULT NULL, tab text DEFAULT 'aiMissions',
                            at timestamptz DEFAULT now()) RETURNS void LANGUAGE sql AS $$
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at)
  SELECT 'ai', tab, id, 'u1', op, data,
         coalesce((SELECT jsonb_object_agg(k, stamp) FROM jsonb_object_keys(CASE jsonb_typeof(data) WHEN 'object' THEN data ELSE '{}' END) k WHERE stamp IS NOT NULL), '{}'),
         'c', at
$$;
\set QUIET off

-- A role without any right of mana_ai, under forced row-level security.
SET ROLE regress_mana_service;
SELECT set_config('app.current_user_id', 'u1', false);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
VALUES ('ai', 'aiMissions', 'm1', 'u1', 'insert', '{"title": "Eins", "state": "active", "nextRunAt": "2030-01-01T00:00:00Z"}', 'c');
RESET ROLE;
SELECT record, version IS NOT NULL AS versioned FROM mana_ai.mission_snapshots;
SELECT due_at, wake_at = due_at AS wakes FROM mana_ai.mission_schedule;

-- Other apps and tables leave no trace.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
VALUES ('todo', 'tasks', 't1', 'u1', 'insert', '{}', 'c'), ('ai', 'other', 'o1', 'u1', 'insert', '{}', 'c');
SELECT count(*) FROM mana_ai.mission_snapshots;

-- Many rows of one record in one statement, and in one transaction, out of order.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id)
SELECT 'ai', 'aiMissions', 'm2', 'u1', CASE i WHEN 50 THEN 'insert' ELSE 'update' END,
       jsonb_build_object('n', i, 'f' || i % 7, i), jsonb_build_object('n', to_char(timestamptz '2026-01-01' + (i * 37 % 100) * interval '1 s', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), 'c'
  FROM generate_series(1, 100) i;
SELECT * FROM public.broken_invariants();
-- Equal stamps, equal transaction time: inserts first, then physical order.
BEGIN;
SELECT push('m3', 'update', '{"a": "update"}', '2026-01-01T00:00:00Z');
SELECT push('m3', 'insert', '{"a": "insert", "b": "insert"}', '2026-01-01T00:00:00Z');
SELECT push('m3', 'update', '{"b": "first"}', '2026-01-01T00:00:00Z');
SELECT push('m3', 'update', '{"b": "second"}', '2026-01-01T00:00:00Z');
SELECT record FROM mana_ai.mission_snapshots WHERE mission_id = 'm3';
COMMIT;
SELECT * FROM public.broken_invariants();

-- Savepoints and rollback.
BEGIN;
SELECT push('m4', 'insert', '{"title": "kept"}', '2026-01-01T00:00:00Z');
SAVEPOINT a;
SELECT push('m4', 'update', '{"title": "lost"}', '2026-01-02T00:00:00Z'), push('m5', 'insert', '{}');
ROLLBACK TO a;
SELECT push('m4', 'update', '{"state": "active"}', '2026-01-02T00:00:00Z');
COMMIT;
BEGIN;
SELECT push('m6', 'insert', '{}');
ROLLBACK;
SELECT mission_id, record FROM mana_ai.mission_snapshots WHERE mission_id IN ('m4', 'm5', 'm6');

-- Delete, late edits of a deleted record, and back to life.
SELECT push('m1', 'delete', '{"deletedAt": "2026-03-01T00:00:00Z"}', '2026-03-01T00:00:00Z');
SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'm1';
SELECT count(*) FROM mana_ai.mission_schedule WHERE mission_id = 'm1';
SELECT push('m1', 'update', '{"title": "late"}', '2026-03-02T00:00:00Z');
SELECT * FROM public.broken_invariants();
SELECT push('m1', 'insert', '{"title": "again", "state": "active", "updatedAt": "2099-03-03T00:00:00Z"}');
SELECT record ->> 'title' AS title, record ? 'deletedAt' AS deleted FROM mana_ai.mission_snapshots WHERE mission_id = 'm1';
SELECT * FROM public.broken_invariants();
-- An older delete that arrives late loses.
SELECT push('m1', 'delete', '{"deletedAt": "2026-03-01T12:00:00Z"}', '2026-03-01T12:00:00Z');
SELECT * FROM public.broken_invariants();

-- A transaction is never busy with itself: what an earlier one has committed is changed twice, and deleted and made anew.
SELECT push('twice', 'insert', '{"title": "kept", "state": "active", "nextRunAt": "2030-01-01T00:00:00Z", "agentId": "a"}', '2026-01-01T00:00:00Z'),
       push('again', 'insert', '{"title": "old", "state": "active", "nextRunAt": "2030-01-01T00:00:00Z"}', '2026-01-01T00:00:00Z');
BEGIN;
SELECT push('twice', 'update', '{"nextRunAt": "2031-01-01T00:00:00Z"}', '2026-02-01T00:00:00Z');
SELECT push('twice', 'update', '{"nextRunAt": "2032-01-01T00:00:00Z", "state": "paused"}', '2026-02-02T00:00:00Z');
SELECT push('twice', 'update', '{"agentId": "b", "state": "active"}', '2026-02-03T00:00:00Z');
SELECT push('again', 'delete', '{"deletedAt": "2026-02-01T00:00:00Z"}', '2026-02-01T00:00:00Z');
SELECT push('again', 'insert', '{"title": "new", "updatedAt": "2026-02-02T00:00:00Z", "state": "active", "nextRunAt": "2033-01-01T00:00:00Z"}', '2026-02-02T00:00:00Z');
COMMIT;
SELECT count(*) FROM mana_ai.dirty_records;
SELECT mission_id, due_at, agent_id FROM mana_ai.mission_schedule WHERE mission_id IN ('twice', 'again') ORDER BY 1;
SELECT * FROM broken_invariants();
-- The same with savepoints that are rolled back in between.
BEGIN;
SELECT push('twice', 'update', '{"nextRunAt": "2034-01-01T00:00:00Z"}', '2026-03-01T00:00:00Z');
SAVEPOINT a;
SELECT push('twice', 'delete', '{"deletedAt": "2026-03-02T00:00:00Z"}', '2026-03-02T00:00:00Z');
ROLLBACK TO a;
SELECT push('twice', 'update', '{"nextRunAt": "2035-01-01T00:00:00Z"}', '2026-03-03T00:00:00Z');
COMMIT;
SELECT count(*) FROM mana_ai.dirty_records;
SELECT * FROM broken_invariants();

-- Isolation levels that fix the snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) > 0 AS snapshot_taken FROM mana_ai.mission_snapshots;
SELECT push('m1', 'update', '{"title": "rr"}', '2099-04-01T00:00:00Z');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT push('m1', 'update', '{"title": "ser"}', '2099-05-01T00:00:00Z');
COMMIT;
SELECT record ->> 'title' AS title FROM mana_ai.mission_snapshots WHERE mission_id = 'm1';

-- COPY, more rows than are protected by subtransactions.
CREATE TEMP TABLE rows AS
SELECT 'ai' AS app_id, CASE i % 3 WHEN 0 THEN 'agents' ELSE 'aiMissions' END AS table_name, 'c' || i % 40 AS record_id, 'u' || i % 2 AS user_id,
       CASE i % 11 WHEN 0 THEN 'delete' WHEN 1 THEN 'insert' ELSE 'update' END AS op,
       jsonb_build_object('name', repeat('x', i % 300), 'state', 'active', 'i', i, 'f' || i % 5, i) AS data,
       timestamptz '2026-01-01' + (i * 7919 % 1000) * interval '1 min' AS created_at
  FROM generate_series(1, 2000) i;
ALTER TABLE rows ADD client_id text DEFAULT 'c';
\set copy_file `echo /tmp/mana_ai_regress_copy.$$`
COPY rows TO :'copy_file';
COPY public.sync_changes (app_id, table_name, record_id, user_id, op, data, created_at, client_id) FROM :'copy_file';
\set ignored `rm -f /tmp/mana_ai_regress_copy.*`
SELECT count(*) FROM public.broken_invariants();
SELECT count(*) FROM mana_ai.dirty_records;
SELECT * FROM mana_ai.refresh_snapshots();

-- Rows of any shape.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at)
SELECT 'ai', 'aiMissions', 'odd' || n, 'u1', op, data::jsonb, stamps::jsonb, 'c', created_at
  FROM (VALUES
    (1, 'insert', NULL, NULL, now()), (2, 'insert', '[]', '[]', now()), (3, 'insert', '"text"', '"text"', now()),
    (4, 'update', 'null', 'null', now()), (5, 'update', '{}', '{"a": 1}', NULL), (6, 'insert', '{"a": null}', '{"a": null}', 'infinity'),
    (7, 'update', '{"a": 1}', '{"a": "soon"}', '-infinity'), (8, 'update', '{"a": {"b": [1, {"c": 2}]}}', '{"a": {"at": 7}}', now()),
    (9, 'insert', '{"id": "other", "__x": 1, "": 2, "a.b": 3, "ä": 4}', '{"": "2026-01-01T00:00:00Z"}', now()),
    (10, 'delete', '{"deletedAt": false}', '{}', now()), (11, 'delete', '7', '{}', now()), (12, 'delete', NULL, NULL, NULL),
    (13, 'insert', '{"nextRunAt": "294277-01-01T00:00:00Z", "state": "active"}', '{}', now()),
    (14, 'insert', '{"title": "T", "nextRunAt": "9999-12-31T23:59:59.999999Z", "state": "active"}', '{}', now()),
    (15, 'insert', '{"nextRunAt": {"a": 1}, "state": ["active"], "agentId": 7}', '{}', now())
  ) AS v(n, op, data, stamps, created_at);
SELECT * FROM public.broken_invariants();
SELECT mission_id, record FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'odd%' ORDER BY length(mission_id), mission_id;
SELECT mission_id, due_at FROM mana_ai.mission_schedule WHERE mission_id LIKE 'odd%' AND due_at IS NOT NULL ORDER BY 1;
SELECT count(*) FROM mana_ai.dirty_records;

-- Ids that our index cannot hold: counted, and the insert succeeds. No repair could change that, so there is no mark.
SELECT push(repeat('i', 1500), 'insert', '{"a": 1}');
SELECT count(*) FROM mana_ai.dirty_records;
SELECT value > 0 AS counted FROM mana_ai.metrics WHERE name = 'mana_ai_changes_unkeepable_total';
DELETE FROM public.sync_changes WHERE length(record_id) > 1000;

-- Whatever is wrong with our own tables: the insert succeeds, the record is repaired later.
ALTER TABLE mana_ai.mission_snapshots RENAME COLUMN record TO record_gone;
SELECT push('m7', 'insert', '{"a": 1}');
-- A bulk load as well.
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 'bulk' || i, 'u1', 'insert', '{"a": 1}', 'c' FROM generate_series(1, 200) i;
ALTER TABLE mana_ai.mission_snapshots RENAME COLUMN record_gone TO record;
SELECT regexp_replace(record_id, '[0-9]+', '') AS record, reason, count(*) FROM mana_ai.dirty_records GROUP BY 1, 2 ORDER BY 1;
SELECT new_snapshots FROM mana_ai.refresh_snapshots();
SELECT count(*) FROM mana_ai.dirty_records;
SELECT * FROM public.broken_invariants();
ALTER TABLE mana_ai.mission_schedule RENAME TO mission_schedule_gone;
ALTER TABLE mana_ai.dirty_records RENAME TO dirty_records_gone;
SELECT push('m8', 'insert', '{"a": 1}');
ALTER TABLE mana_ai.mission_schedule_gone RENAME TO mission_schedule;
ALTER TABLE mana_ai.dirty_records_gone RENAME TO dirty_records;
SELECT count(*) FROM public.sync_changes WHERE record_id = 'm8';
SELECT new_snapshots FROM mana_ai.refresh_snapshots();
SELECT * FROM public.broken_invariants();

-- mana-sync renames the column while we are installed.
ALTER TABLE public.sync_changes RENAME COLUMN field_timestamps TO field_meta;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id)
VALUES ('ai', 'aiMissions', 'm9', 'u1', 'update', '{"a": 1, "b": 1}', '{"a": {"at": "2026-06-01T00:00:00Z", "actor": {}}, "b": "2026-06-01T00:00:00Z"}', 'c'),
       ('ai', 'aiMissions', 'm9', 'u1', 'update', '{"a": 2, "b": 2}', '{"a": {"at": "2026-05-01T00:00:00Z"}, "b": "2026-07-01T00:00:00+02:00"}', 'c');
SELECT record FROM mana_ai.mission_snapshots WHERE mission_id = 'm9';
SELECT * FROM public.broken_invariants();
\set QUIET on
DROP FUNCTION public.broken_invariants;
DROP EXTENSION mana_ai;
DROP TABLE public.sync_changes CASCADE;
DROP FUNCTION public.push;
DROP ROLE regress_mana_service;
