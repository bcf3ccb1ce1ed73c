-- run_tick(), run_mission() and status() as a caller sees them, without any model.
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all

\df mana_ai.run_*
SELECT due_mission_count, plans_produced, plans_written_back, parse_failures, skipped, errors,
       clock_timestamp() - scanned_at < interval '1 minute' AS scanned_just_now
  FROM mana_ai.run_tick();
SELECT pg_typeof(t) FROM mana_ai.run_tick() t;

-- Strict, and errors that name what is missing.
SELECT * FROM mana_ai.run_mission(NULL, 'm');
SELECT * FROM mana_ai.run_mission('u1', 'm');
SELECT test.error_of($$SELECT mana_ai.run_mission('u1', 'm')$$);

-- Not in a read-only transaction.
BEGIN READ ONLY;
SELECT * FROM mana_ai.run_tick();
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM mana_ai.run_mission('u1', 'm');
ROLLBACK;
SET default_transaction_read_only = on;
SELECT test.error_of('SELECT mana_ai.run_tick()');
RESET default_transaction_read_only;

-- In a transaction block, in a function, in a subtransaction; several times.
BEGIN;
SELECT due_mission_count FROM mana_ai.run_tick();
SAVEPOINT s;
SELECT due_mission_count FROM mana_ai.run_tick();
ROLLBACK TO s;
SELECT due_mission_count FROM mana_ai.run_tick();
COMMIT;
DO $$ BEGIN PERFORM mana_ai.run_tick(); END $$;
SELECT count(*) FROM generate_series(1, 3) g, LATERAL (SELECT mana_ai.run_tick() WHERE g > 0) t;

-- Canceled before it starts, and left without a trace.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT due_mission_count FROM mana_ai.run_tick();
COMMIT;

-- A mission that cannot be planned: nothing listens at the model's address. That is not the mission's failure.
SELECT test.mission('m1');
SELECT outcome, iteration_id, steps, rounds, tokens, error LIKE 'unreachable%' AS unreachable
  FROM mana_ai.run_mission('u1', 'm1');
SELECT outcome, decision, error_kind, rounds, steps, total_tokens, lease_owner, finished_at IS NOT NULL AS finished
  FROM mana_ai.runs;
SELECT attempts, error_kind, lease_owner, run_id, not_before IS NOT NULL AS waits FROM mana_ai.mission_schedule;
UPDATE mana_ai.mission_schedule SET not_before = now() + interval '1 hour', wake_at = now() + interval '1 hour';
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT count(*) FROM public.sync_changes WHERE client_id = 'mana-ai-runner';

-- status() after a tick.
SELECT last_tick_by, last_tick_finished >= last_tick_at AS finished, due_mission_count, skipped, errors, in_flight,
       dirty_records, sync_table, library_version = extension_version AS versions_agree, next_due > now() AS has_next
  FROM mana_ai.status();

-- Without a table of mana-sync there is nothing to plan.
SELECT mana_ai.detach();
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT sync_table FROM mana_ai.status();

-- Without the extension there is no function, and no process is left.
DROP EXTENSION mana_ai;
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai tick';
