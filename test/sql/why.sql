-- why(): the one reason why a mission is not running now (interface.md).
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all
SET timezone = 'UTC';

-- Times are cut out, they differ with every run.
CREATE FUNCTION test.why(id text, user_id text DEFAULT 'u1') RETURNS text LANGUAGE sql AS $$
  SELECT regexp_replace(mana_ai.why(user_id, id), '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00', 'TIME') $$;

SELECT test.why('unheard-of');
SELECT mana_ai.why(NULL, 'm') AS null_user, mana_ai.why('u1', NULL) AS null_mission;

SELECT test.mission('later', '{"nextRunAt": "2100-01-01T08:00:00.000Z"}'), test.mission('paused', '{"state": "paused"}'),
       test.mission('done', '{"state": "done"}'), test.mission('stateless', '{"state": null}'),
       test.mission('unset', '{"nextRunAt": null}'), test.mission('odd', '{"nextRunAt": "morgen"}'),
       test.mission('deleted');
SELECT test.change('deleted', '{"deletedAt": "2030-01-01T00:00:00.000Z"}');
SELECT mana_ai.why('u1', 'later');
SELECT id, test.why(id) FROM unnest(ARRAY['paused', 'done', 'stateless', 'unset', 'odd', 'deleted']) id;
-- Another user's mission of the same id is another mission.
SELECT test.why('later', 'u2');

-- Gates, with the agent's name.
SELECT test.agent('a-paused', '{"state": "paused", "name": "Ada"}'), test.agent('a-archived', '{"state": "archived"}'),
       test.agent('a-broke', '{"maxTokensPerDay": 1000}'), test.agent('a-busy'), test.agent('a-nameless', '{"state": "paused", "name": null}');
INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used) VALUES ('u1', 'a-broke', 'm', 700), ('u1', 'a-broke', 'm', 300), ('u2', 'a-broke', 'm', 9);
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, agent_id, started_at, outcome, decision) VALUES (gen_random_uuid(), 'u1', 'm', 'a-busy', now(), 'running', 'ran');
SELECT test.mission('g-paused', '{"agentId": "a-paused"}'), test.mission('g-archived', '{"agentId": "a-archived"}'),
       test.mission('g-broke', '{"agentId": "a-broke"}'), test.mission('g-busy', '{"agentId": "a-busy"}'),
       test.mission('g-nameless', '{"agentId": "a-nameless"}'), test.mission('g-missing', '{"agentId": "nobody"}'),
       test.mission('g-encrypted', '{"title": "enc:1:a.b"}'),
       test.mission('g-unreviewed', '{"iterations": [{"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}]}');
SELECT mission_id, test.why(mission_id) FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'g-%' ORDER BY mission_id COLLATE "C";
-- A gate that opened a moment ago.
SELECT due_mission_count FROM mana_ai.run_tick();
SET mana_ai.max_unreviewed = 4;
SELECT regexp_replace(test.why('g-unreviewed'), 'until .* after', 'until … after') AS why;
RESET mana_ai.max_unreviewed;

-- Running, backing off, crashed.
SELECT test.mission('r-running'), test.mission('r-failed'), test.mission('r-crashed');
UPDATE mana_ai.mission_schedule SET lease_owner = 1, run_id = '00000000-0000-0000-0000-000000000001', wake_at = now() + interval '1 hour' WHERE mission_id = 'r-running';
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, started_at, outcome, decision)
VALUES ('00000000-0000-0000-0000-000000000001', 'u1', 'r-running', '2026-01-01 00:00:00Z', 'running', 'ran');
UPDATE mana_ai.mission_schedule SET attempts = 3, error_kind = 'rate_limit', not_before = now() + interval '1 hour', wake_at = now() + interval '1 hour' WHERE mission_id = 'r-failed';
UPDATE mana_ai.mission_schedule SET attempts = 1, error_kind = NULL, not_before = now() + interval '1 hour', wake_at = now() + interval '1 hour' WHERE mission_id = 'r-crashed';
SELECT mana_ai.why('u1', 'r-running');
SELECT id, regexp_replace(test.why(id), 'until .* after', 'until … after') AS why FROM unnest(ARRAY['r-failed', 'r-crashed']) id;

-- Only the worker is missing, which this database may not have.
SELECT test.mission('free');
SELECT test.why('free') ~ '^(worker is (not running|paused)|due: )' AS worker;

-- Waiting for repair.
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('u1', 'aiMissions', 'lost', 'for the test');
SELECT test.why('lost');
