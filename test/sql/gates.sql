-- Which missions may run: every gate, their order, and the rows that they leave (tick.md, Gates).
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all

-- Each gate alone. The mission names agent a1.
SELECT what, mana_ai.gate_decision('{"state": "active", "title": "T", "agentId": "a1"}' || mission, agent, running, tokens)
FROM (VALUES
  (1, 'an active agent', '{}'::jsonb, '{"state": "active"}'::jsonb, 0, 0),
  (2, 'archived', '{}', '{"state": "archived"}', 0, 0),
  (3, 'paused', '{}', '{"state": "paused"}', 0, 0),
  (4, 'state is missing', '{}', '{}', 0, 0),
  (5, 'one runs, one may run', '{}', '{}', 1, 0),
  (6, 'one runs, two may run', '{}', '{"maxConcurrentMissions": 2}', 1, 0),
  (7, 'none may run', '{}', '{"maxConcurrentMissions": 0}', 0, 0),
  (8, 'budget left', '{}', '{"maxTokensPerDay": 100}', 0, 99),
  (9, 'budget reached', '{}', '{"maxTokensPerDay": 100}', 0, 100),
  (10, 'a budget of 0', '{}', '{"maxTokensPerDay": 0}', 0, 0),
  (11, 'no budget', '{}', '{}', 0, 1000000000000),
  (12, 'title is ciphertext', '{"title": "enc:1:abc.def"}', '{}', 0, 0),
  (13, 'objective is ciphertext', '{"objective": "enc:1:abc.def"}', '{}', 0, 0),
  (14, 'concept is ciphertext', '{"conceptMarkdown": "enc:1:abc.def"}', '{}', 0, 0),
  (15, 'text that only mentions it', '{"objective": "see enc:1:abc"}', '{}', 0, 0),
  (16, 'two unreviewed', '{"iterations": [{"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}]}', '{}', 0, 0),
  (17, 'three unreviewed', '{"iterations": [{"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}]}', '{}', 0, 0),
  (18, 'three, one of them a client''s', '{"iterations": [{"source": "client", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}]}', '{}', 0, 0),
  (19, 'three, one of them approved', '{"iterations": [{"source": "server", "overallStatus": "approved"}, {"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}]}', '{}', 0, 0),
  (20, 'the agent is not there', '{}', NULL, 0, 0),
  (21, 'the default agent is not there', '{"agentId": "legacy:ai-default"}', NULL, 0, 0),
  (22, 'no agent', '{"agentId": null}', NULL, 0, 0)
) AS cases (number, what, mission, agent, running, tokens) ORDER BY number;

-- The order: the first in tick.md decides.
SELECT what, mana_ai.gate_decision(mission, agent, running, 100)
FROM (VALUES
  (1, '{"agentId": "a1", "title": "enc:1:x"}'::jsonb, '{"state": "archived", "maxTokensPerDay": 1}'::jsonb, 1, 'archived before all'),
  (2, '{"agentId": "a1", "title": "enc:1:x"}', '{"state": "paused", "maxTokensPerDay": 1}', 1, 'paused before concurrency'),
  (3, '{"agentId": "a1", "title": "enc:1:x"}', '{"maxTokensPerDay": 1}', 1, 'concurrency before budget'),
  (4, '{"agentId": "a1", "title": "enc:1:x"}', '{"maxTokensPerDay": 1}', 0, 'budget before encryption'),
  (5, '{"agentId": "a1", "title": "enc:1:x"}', NULL, 0, 'a missing agent before encryption'),
  (6, '{"title": "enc:1:x", "iterations": [{"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}]}', NULL, 0, 'encryption before review')
) AS cases (number, mission, agent, running, what) ORDER BY number;

SET mana_ai.max_unreviewed = 0;
SELECT mana_ai.gate_decision('{"iterations": [{"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}]}', NULL, 0, 0) AS no_limit;
RESET mana_ai.max_unreviewed;

-- What counts as waiting for review: plans of mana_ai as a device gets them, and as it leaves them.
CREATE FUNCTION test.waiting(changes jsonb, age interval DEFAULT '1 day') RETURNS jsonb LANGUAGE sql AS $$
  SELECT jsonb_build_object(
    'id', 'it-1', 'summary', 'S', 'overallStatus', 'awaiting-review', 'source', 'server',
    'startedAt', to_char(now() - age, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    'finishedAt', to_char(now() - age, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    'plan', '[{"id": "it-1-0", "summary": "A", "intent": {"kind": "toolCall", "toolName": "create_task", "params": {"title": "A"}}, "status": "planned"},
              {"id": "it-1-1", "summary": "B", "intent": {"kind": "toolCall", "toolName": "create_note", "params": {"title": "B"}}, "status": "planned"}]'::jsonb) || changes $$;
SET timezone = 'UTC';
SET mana_ai.max_unreviewed = 1;
SELECT what, mana_ai.gate_decision(jsonb_build_object('iterations', jsonb_build_array(iteration)), NULL, 0, 0),
       mana_ai.waiting_plans(jsonb_build_object('iterations', jsonb_build_array(iteration))) AS waits
FROM (VALUES
  (1, 'as it was written', test.waiting('{}')),
  (2, 'the user has said something', test.waiting('{"userFeedback": "Zu viel auf einmal."}')),
  (3, 'feedback as older clients name it', test.waiting('{"feedback": "Zu viel."}')),
  (4, 'empty feedback', test.waiting('{"userFeedback": ""}')),
  (5, 'carried out, then written back by a stale device', test.waiting('{"plan": [{"id": "it-1-0", "summary": "A", "status": "approved"}, {"id": "it-1-1", "summary": "B (FEHLER: Unknown tool)", "status": "failed"}]}')),
  (6, 'one step carried out', test.waiting('{"plan": [{"id": "it-1-0", "status": "planned"}, {"id": "it-1-1", "status": "skipped"}]}')),
  (7, 'nothing to carry out', test.waiting('{"plan": []}')),
  (8, 'almost seven days old', test.waiting('{}', '6 days 23 hours')),
  (9, 'seven days old', test.waiting('{}', '7 days 1 minute')),
  (10, 'no end, started eight days ago', test.waiting('{}', '8 days') - 'finishedAt'),
  (11, 'ahead by an hour', test.waiting('{}', '-1 hour')),
  (12, 'ahead by a year', test.waiting('{}', '-1 year')),
  (13, 'no time at all', test.waiting('{"startedAt": "gestern", "finishedAt": null}')),
  (14, 'steps that are no objects', test.waiting('{"plan": [null, 1]}')),
  (15, 'a plan that is no list', test.waiting('{"plan": "none"}')),
  (16, 'steps that wait for the user', test.waiting('{"plan": [{"id": "it-1-0", "status": "staged"}, {"id": "it-1-1", "status": "planned"}]}')),
  (17, 'without a plan', test.waiting('{}') - 'plan'),
  (18, 'a client''s', test.waiting('{"source": "browser"}')),
  (19, 'feedback that is no text', test.waiting('{"userFeedback": {"text": "Nein"}}'))
) AS cases (number, what, iteration) ORDER BY number;
SELECT mana_ai.waiting_plans('{"iterations": "none"}'), mana_ai.waiting_plans('[]'), mana_ai.waiting_plans(NULL),
       mana_ai.waiting_plans(jsonb_build_object('iterations', jsonb_build_array(1, NULL, test.waiting('{"id": 7}'), test.waiting('{}'), test.waiting('{"id": "it-2"}'))));
RESET mana_ai.max_unreviewed;
RESET timezone;

-- A tick over missions that gates hold back: there is no model call.
SELECT test.agent('archived', '{"state": "archived"}'), test.agent('paused', '{"state": "paused"}'),
       test.agent('broke', '{"maxTokensPerDay": 0}'), test.agent('busy', '{"maxConcurrentMissions": 0}'),
       test.agent('gone');
SELECT test.change('gone', '{"deletedAt": "2030-01-01T00:00:00.000Z"}', 'agents');
SELECT test.mission('m-archived', '{"agentId": "archived"}'), test.mission('m-paused', '{"agentId": "paused"}'),
       test.mission('m-broke', '{"agentId": "broke"}'), test.mission('m-busy', '{"agentId": "busy"}'),
       test.mission('m-gone', '{"agentId": "gone"}'), test.mission('m-unknown', '{"agentId": "unheard-of"}'),
       test.mission('m-foreign', '{"agentId": "paused"}', 'u2'),
       test.mission('m-encrypted', '{"objective": "enc:1:aaaa.bbbb"}'),
       test.mission('m-unreviewed', '{"iterations": [{"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}, {"source": "server", "overallStatus": "awaiting-review"}]}');
SELECT due_mission_count, plans_produced, plans_written_back, parse_failures, skipped, errors FROM mana_ai.run_tick();
SELECT user_id, mission_id, agent_id, outcome, decision, rounds, total_tokens, finished_at IS NOT NULL AS finished
  FROM mana_ai.runs ORDER BY mission_id COLLATE "C", user_id;
SELECT user_id, mission_id, problem FROM mana_ai.mission_problems ORDER BY mission_id COLLATE "C", user_id;

-- Held back until the tick interval has passed, and then not recorded a second time.
SELECT due_mission_count, skipped FROM mana_ai.run_tick();
UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at;
SELECT due_mission_count, skipped FROM mana_ai.run_tick();
SELECT count(*) FROM mana_ai.runs;

-- At once when the mission or its agent changes. (Deleted here, so that nothing is due for the model.)
SELECT test.change('m-encrypted', '{"conceptMarkdown": "enc:1:c.d"}');
SELECT test.change('paused', '{"role": "still paused"}', 'agents');
SELECT due_mission_count, skipped FROM mana_ai.run_tick();
SELECT test.change('m-unreviewed', '{"state": "done"}');
SELECT due_mission_count, skipped FROM mana_ai.run_tick();
SELECT outcome FROM mana_ai.run_mission('u1', 'm-unreviewed');
SELECT outcome FROM mana_ai.run_mission('u1', 'm-paused');

-- A lease that ran out is taken from its holder, whose run counts as crashed. (On a slow server others would be due again by now.)
UPDATE mana_ai.mission_schedule SET wake_at = now() + interval '1 hour' WHERE wake_at IS NOT NULL;
SELECT test.mission('m-lost', '{"agentId": "archived"}');
UPDATE mana_ai.mission_schedule SET lease_owner = 7, run_id = '00000000-0000-0000-0000-000000000001', wake_at = now() - interval '1 second'
 WHERE mission_id = 'm-lost';
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, started_at, outcome, decision)
VALUES ('00000000-0000-0000-0000-000000000001', 'u1', 'm-lost', now() - interval '1 hour', 'running', 'ran');
SELECT due_mission_count, skipped FROM mana_ai.run_tick();
SELECT outcome, error_kind, decision FROM mana_ai.runs WHERE mission_id = 'm-lost' ORDER BY started_at;
SELECT lease_owner, run_id, decision FROM mana_ai.mission_schedule WHERE mission_id = 'm-lost';
