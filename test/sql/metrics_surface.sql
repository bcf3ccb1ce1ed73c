-- metrics() and the view of the same name. Counters are the server's, or this session's when the library is
-- not preloaded, so only changes are compared.
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
CREATE FUNCTION test.metric(name text, labels jsonb DEFAULT '{}') RETURNS float8 LANGUAGE sql AS $$
  SELECT coalesce(sum(m.value), 0) FROM mana_ai.metrics m WHERE m.name = $1 AND m.labels @> $2
$$;
-- Since the last call, or the first.
CREATE TABLE test.seen (name text PRIMARY KEY, value float8);
CREATE FUNCTION test.moved(VARIADIC names text[]) RETURNS TABLE (name text, moved float8) LANGUAGE sql AS $$
  WITH now AS (SELECT n AS name, test.metric(n) AS value FROM unnest(names) n),
       before AS (SELECT s.name, s.value FROM test.seen s),
       kept AS (INSERT INTO test.seen SELECT * FROM now ON CONFLICT (name) DO UPDATE SET value = excluded.value)
  SELECT now.name, now.value - before.value FROM now LEFT JOIN before USING (name) ORDER BY 1
$$;
CREATE FUNCTION test.snapshots_moved() RETURNS TABLE (name text, moved float8) LANGUAGE sql AS $$
  SELECT * FROM test.moved('mana_ai_snapshots_new_total', 'mana_ai_snapshots_updated_total', 'mana_ai_snapshot_rows_applied_total')
$$;
\set ECHO all

\d mana_ai.metrics
SELECT pg_get_function_result('mana_ai.metrics()'::regprocedure);

-- Every metric has a description and a type, even before it has a value.
SELECT substr(line, 8) AS metric FROM regexp_split_to_table(mana_ai.metrics(), '\n') line WHERE line LIKE '# TYPE %';

-- Without preloading the first line says so; nothing else may precede the first metric.
SELECT CASE WHEN preloaded THEN mana_ai.metrics() ~ '^# HELP mana_ai_agent_decisions_total '
            ELSE mana_ai.metrics() ~ '^# mana_ai is not in shared_preload_libraries: [^\n]*\n# HELP mana_ai_agent_decisions_total ' END AS begins_well
  FROM mana_ai.status();

-- Text and view hold the same series, each once, all with the service's label.
WITH lines AS (
  SELECT line FROM regexp_split_to_table(mana_ai.metrics(), '\n') line WHERE line ~ '^mana_ai_')
SELECT (SELECT count(*) FROM lines) = (SELECT count(*) FROM mana_ai.metrics) AS as_many,
       (SELECT bool_and(line ~ '^mana_ai_[a-z_]+\{service="mana-ai"[^\n]*\} [0-9.e+-]+$') FROM lines) AS well_formed,
       (SELECT count(*) FROM mana_ai.metrics) = (SELECT count(DISTINCT (name, labels)) FROM mana_ai.metrics) AS once,
       (SELECT bool_and(labels ->> 'service' = 'mana-ai') FROM mana_ai.metrics) AS labelled;

-- Buckets count everything up to their bound.
SELECT labels ->> 'le' AS le FROM mana_ai.metrics WHERE name = 'mana_ai_tick_duration_seconds_bucket';
SELECT bool_and(value >= before) AS rising
  FROM (SELECT value, lag(value, 1, 0) OVER (PARTITION BY name ORDER BY (labels ->> 'le')::float8) AS before
          FROM mana_ai.metrics WHERE name LIKE '%\_bucket') b;

-- The trigger counts what is committed, once.
SELECT FROM test.snapshots_moved();
SELECT test.mission('m1');
SELECT * FROM test.snapshots_moved();
SELECT test.change('m1', '{"title": "new"}');
SELECT * FROM test.snapshots_moved();
BEGIN;
SELECT test.mission('m2');
ROLLBACK;
SELECT * FROM test.snapshots_moved();
BEGIN;
SELECT test.mission('m3');
SAVEPOINT a;
SELECT test.mission('m4');
SAVEPOINT b;
SELECT test.mission('m5');
RELEASE b;
ROLLBACK TO a;
SELECT test.mission('m6');
SAVEPOINT c;
SELECT test.mission('m7');
RELEASE c;
COMMIT;
SELECT * FROM test.snapshots_moved();
DO $$
BEGIN
  PERFORM test.mission('m8');
  BEGIN
    PERFORM test.mission('m9');
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN PERFORM test.mission('m10');
  END;
END $$;
SELECT * FROM test.snapshots_moved();
SELECT count(*) FROM mana_ai.mission_snapshots;

-- So does a fold of the history: what is there already is only read.
TRUNCATE mana_ai.mission_snapshots, mana_ai.mission_schedule;
SELECT new_snapshots, updated_snapshots, rows_applied FROM mana_ai.refresh_snapshots();
SELECT * FROM test.snapshots_moved();
BEGIN;
SELECT rows_applied FROM mana_ai.refresh_snapshots();
ROLLBACK;
SELECT * FROM test.snapshots_moved();

-- Gauges are computed at each call.
SELECT test.metric('mana_ai_dirty_records') AS dirty, test.metric('mana_ai_missions_in_flight') AS in_flight;
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('u1', 'aiMissions', 'm1', 'test'), ('u1', 'aiMissions', 'm1', 'again'), ('u1', 'agents', 'a', 'test');
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, started_at, outcome, decision) VALUES (gen_random_uuid(), 'u1', 'm1', now(), 'running', 'ran');
SELECT test.metric('mana_ai_dirty_records') AS dirty, test.metric('mana_ai_missions_in_flight') AS in_flight;
DELETE FROM mana_ai.dirty_records;
DELETE FROM mana_ai.runs;

-- pg_monitor may read them, others may not, and neither sees the tables.
CREATE ROLE regress_mana_metrics;
SET ROLE regress_mana_metrics;
SELECT mana_ai.metrics();
SELECT * FROM mana_ai.metrics;
SELECT * FROM mana_ai.metric_samples();
RESET ROLE;
GRANT pg_monitor TO regress_mana_metrics;
SET ROLE regress_mana_metrics;
SELECT mana_ai.metrics() LIKE '%# HELP mana_ai_ticks_total %' AS readable;
SELECT count(*) > 50 AS readable FROM mana_ai.metrics;
SELECT count(*) FROM mana_ai.dirty_records;
RESET ROLE;
DROP ROLE regress_mana_metrics;
BEGIN READ ONLY;
SELECT mana_ai.metrics() LIKE '%# HELP mana_ai_ticks_total %' AS readable;
COMMIT;
DROP EXTENSION mana_ai CASCADE;
