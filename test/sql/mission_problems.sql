-- Missions that cannot run as they are are counted and visible (interface.md, mission_problems).
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all

SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
 WHERE attrelid = 'mana_ai.mission_problems'::regclass AND attnum > 0 ORDER BY attnum;
SELECT test.mission('fine', '{"nextRunAt": "2100-01-01T00:00:00.000Z"}'),
       test.mission('no-next-run', '{"nextRunAt": null}'),
       test.mission('next-run-text', '{"nextRunAt": "morgen"}'),
       test.mission('next-run-number', '{"nextRunAt": 1767225600000}'),
       test.mission('next-run-date', '{"nextRunAt": "2026-02-30T00:00:00Z"}'),
       test.mission('next-run-local', '{"nextRunAt": "2026-01-01T00:00:00"}'),
       test.mission('title-number', '{"title": 42, "nextRunAt": null}'),
       test.mission('iterations-object', '{"iterations": {}, "nextRunAt": null}'),
       test.mission('inputs-text', '{"inputs": "all", "nextRunAt": null}'),
       test.mission('agent-number', '{"agentId": 7, "nextRunAt": null}'),
       test.mission('cadence-unknown', '{"cadence": {"kind": "hourly"}, "nextRunAt": null}'),
       test.mission('cadence-zero', '{"cadence": {"kind": "interval", "everyMinutes": 0}, "nextRunAt": null}'),
       test.mission('cadence-cron', '{"cadence": {"kind": "cron", "expression": "x"}, "nextRunAt": null}'),
       test.mission('cadence-none', '{"cadence": null, "nextRunAt": null}'),
       test.mission('two-problems', '{"title": [], "nextRunAt": "soon"}'),
       test.mission('paused', '{"state": "paused", "nextRunAt": "soon"}'),
       test.mission('paused-poor', '{"state": "paused", "objective": null, "cadence": null}'),
       test.mission('stateless', '{"state": null}'),
       test.mission('cadence-never', '{"cadence": {"kind": "cron", "expression": "0 8 30 2 *"}, "nextRunAt": null}');
SELECT mission_id, problem, since IS NOT NULL AS since FROM mana_ai.mission_problems ORDER BY mission_id COLLATE "C", problem COLLATE "C";

-- None of them is due, whatever nextRunAt says.
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT mission_id, due_at IS NOT NULL AS due, wake_at IS NOT NULL AS wakes FROM mana_ai.mission_schedule
 WHERE due_at IS NOT NULL OR wake_at IS NOT NULL ORDER BY 1;

-- After a correction the problem is gone.
SELECT test.change('next-run-text', '{"nextRunAt": "2100-01-01T00:00:00.000Z"}'), test.change('cadence-zero', '{"state": "done"}');
SELECT mission_id FROM mana_ai.mission_problems WHERE mission_id IN ('next-run-text', 'cadence-zero');
-- Stored with each snapshot: record_problems() now returns what was stored.
SELECT count(*) > 10 AS some, count(*) FILTER (WHERE problems IS DISTINCT FROM nullif(mana_ai.record_problems(record), '{}')) AS differ
  FROM mana_ai.mission_snapshots;

-- Failures and gates.
SELECT test.mission('fails', '{"nextRunAt": "2020-01-01T00:00:00Z"}'), test.mission('held', '{"agentId": "nobody", "nextRunAt": "2020-01-01T00:00:00Z"}');
-- Nothing listens at the model's address, which is not the mission's problem; an earlier failure of its own is.
UPDATE mana_ai.mission_schedule SET attempts = 1 WHERE mission_id = 'fails';
SELECT outcome FROM mana_ai.run_mission('u1', 'fails');
SELECT outcome FROM mana_ai.run_mission('u1', 'held');
SELECT mission_id, problem FROM mana_ai.mission_problems WHERE mission_id IN ('fails', 'held') ORDER BY 1;

-- A row that does not make a record.
SELECT test.mission('crippled', '{"nextRunAt": null}');
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('u1', 'aiMissions', 'crippled', 'for the test');
SELECT mission_id, problem FROM mana_ai.mission_problems WHERE mission_id = 'crippled';
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT mission_id, problem FROM mana_ai.mission_problems WHERE mission_id = 'crippled';
