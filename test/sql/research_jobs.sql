-- Deep research as SQL sees it: what the table accepts, and what why(), the gates and status() say (inputs.md).
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all
SET timezone = 'UTC';

\set VERBOSITY terse
SELECT test.mission('m'), test.mission('none', '{"nextRunAt": "2100-01-01T08:00:00.000Z"}');
-- A job without a task id is an intent, and only waiting jobs are polled.
INSERT INTO mana_ai.mission_research_jobs (user_id, mission_id) VALUES ('u1', 'm');
INSERT INTO mana_ai.mission_research_jobs (user_id, mission_id, state, task_id, next_poll_at) VALUES ('u1', 'm', 'intent', 't', NULL);
INSERT INTO mana_ai.mission_research_jobs (user_id, mission_id, state, task_id) VALUES ('u1', 'm', 'ready', 't');
INSERT INTO mana_ai.mission_research_jobs (user_id, mission_id, state, task_id, next_poll_at) VALUES ('u1', 'm', 'done', 't', NULL);

INSERT INTO mana_ai.mission_research_jobs (user_id, mission_id, task_id, submitted_at, next_poll_at)
VALUES ('u1', 'm', 't', '2026-05-01 08:00Z', now() + interval '1 hour');
SELECT mana_ai.why('u1', 'm');
UPDATE mana_ai.mission_research_jobs SET last_polled_at = '2026-05-01 08:01Z';
SELECT mana_ai.why('u1', 'm');
SELECT mana_ai.why('u1', 'none') ~ 'research' AS waits;
SELECT research_jobs FROM mana_ai.status();
-- A later poll holds the mission back until then, without a run.
SELECT due_mission_count, skipped, errors FROM mana_ai.run_tick();
SELECT mission_id, decision, not_before > now() + interval '80 minutes' AS waits_long, attempts FROM mana_ai.mission_schedule WHERE mission_id = 'm';
SELECT outcome, decision FROM mana_ai.runs WHERE mission_id = 'm';
SELECT due_mission_count FROM mana_ai.run_tick();

-- This gate is the last.
SELECT mana_ai.gate_decision('{"state": "active"}', NULL, 0, 0, true), mana_ai.gate_decision('{"state": "active"}', NULL, 0, 0, false),
       mana_ai.gate_decision('{"state": "active"}', NULL, 0, 0), mana_ai.gate_decision('{"state": "active"}', NULL, 0, 0, NULL),
       mana_ai.gate_decision('{"state": "active", "agentId": "a"}', '{"state": "paused"}', 0, 0, true);
