-- :missions snapshots with their schedule, a fifth as many agents, and a run with two replies for every second mission,
-- in the last 20 hours. One mission in a thousand has a problem in its record, one in a thousand fails.
INSERT INTO mana_ai.mission_snapshots (user_id, mission_id, record, clocks, version, last_applied_at, updated_at, problems)
SELECT 'u' || i / 5, 'm' || i,
       jsonb_build_object('id', 'm' || i, 'title', 'Mission ' || i, 'objective', repeat('Ziel ', 40), 'state', 'active',
                          'agentId', 'a' || i / 5, 'iterations', '[]'::jsonb, 'inputs', '[]'::jsonb,
                          'cadence', CASE WHEN i % 1000 = 0 THEN '{}'::jsonb ELSE '{"kind": "manual"}' END,
                          'nextRunAt', '2099-01-01T00:00:00.000Z'),
       '\x', 1, now(), now(), CASE WHEN i % 1000 = 0 THEN ARRAY['"kind" of the cadence is not known'] END
  FROM generate_series(1, :missions) i;
INSERT INTO mana_ai.mission_schedule (user_id, mission_id, wake_at, due_at, not_before, agent_id, attempts, decision, decided_at, error_kind, problem)
SELECT 'u' || i / 5, 'm' || i, now() + i * interval '1 s', now() + interval '1 h', CASE WHEN f.fails THEN now() + interval '1 h' END, 'a' || i / 5,
       CASE WHEN f.fails THEN 2 ELSE 0 END, 'ran', now(), CASE WHEN f.fails THEN 'timeout' END, CASE WHEN f.fails THEN 'failed' END
  FROM generate_series(1, :missions) i, LATERAL (SELECT i % 1000 = 500) f(fails);
INSERT INTO mana_ai.agent_snapshots (user_id, agent_id, record, clocks, version, last_applied_at, updated_at)
SELECT 'u' || i, 'a' || i, jsonb_build_object('id', 'a' || i, 'name', 'Agent ' || i, 'state', 'active'), '\x', 1, now(), now()
  FROM generate_series(1, :missions / 5) i;
INSERT INTO mana_ai.runs (user_id, mission_id, agent_id, run_id, started_at, finished_at, outcome, decision)
SELECT 'u' || i / 5, 'm' || i, 'a' || i / 5, gen_random_uuid(), now() - i * (interval '20 h' / :missions), now(), 'planned', 'ran'
  FROM generate_series(1, :missions, 2) i;
INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used, ts)
SELECT 'u' || i / 5, 'a' || i / 5, 'm' || i, 1000 + i % 7, now() - i * (interval '20 h' / :missions)
  FROM generate_series(1, :missions) i;
VACUUM ANALYZE;
