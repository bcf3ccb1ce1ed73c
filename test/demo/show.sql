-- The plan as a client would read it, and what an operator sees.
\set ON_ERROR_STOP on
\set QUIET on
\pset footer off
\pset null '-'
\pset linestyle unicode
\pset border 0

\echo '--- the row that mana_ai wrote to sync_changes'
\pset expanded on
SELECT op, client_id,
       actor ->> 'displayName' AS "by",
       data -> 'iterations' -> -1 ->> 'overallStatus' AS status,
       data -> 'iterations' -> -1 ->> 'summary' AS summary,
       data ->> 'nextRunAt' AS "next run"
FROM public.sync_changes
WHERE user_id = 'user-anna' AND client_id = 'mana-ai-runner'
ORDER BY created_at DESC LIMIT 1;
\pset expanded off

\echo
\echo '--- its steps: the user\'s device carries out what is planned when it arrives'
WITH newest AS (
  SELECT data -> 'iterations' -> -1 AS iteration
  FROM public.sync_changes
  WHERE user_id = 'user-anna' AND client_id = 'mana-ai-runner'
  ORDER BY created_at DESC LIMIT 1
)
SELECT number, step -> 'intent' ->> 'toolName' AS tool, step ->> 'status' AS status,
       coalesce(step -> 'intent' -> 'params' ->> 'title', step ->> 'summary') AS what
FROM newest, jsonb_array_elements(iteration -> 'plan') WITH ORDINALITY AS plan (step, number)
ORDER BY number;

\echo
\echo '--- the run: SELECT * FROM mana_ai.runs'
\pset expanded on
SELECT outcome, decision, rounds, steps, prompt_tokens, completion_tokens, model,
       date_trunc('milliseconds', finished_at - started_at) AS took, error_kind
FROM mana_ai.runs WHERE user_id = 'user-anna' ORDER BY started_at DESC LIMIT 1;
\pset expanded off

\echo
\echo '--- what the plan was based on: runs.inputs'
SELECT module, "table", id, used, clock
FROM mana_ai.runs r, jsonb_to_recordset(r.inputs) AS i (module text, "table" text, id text, used boolean, clock text)
WHERE user_id = 'user-anna';

\echo
\echo '--- what was decrypted, as its user may ask: SELECT * FROM mana_ai.read_decrypt_audit(\'mission-steuer\')'
SELECT set_config('app.current_user_id', 'user-anna', false) AS user \gset
SELECT table_name, record_id, status, reason, date_trunc('milliseconds', ts) AS ts
FROM mana_ai.read_decrypt_audit('mission-steuer');

\echo
\echo '--- SELECT * FROM mana_ai.status()'
\pset expanded on
SELECT * FROM mana_ai.status();
\pset expanded off

\echo
\echo '--- SELECT mana_ai.why(\'user-anna\', \'mission-steuer\')'
\pset tuples_only on
SELECT mana_ai.why('user-anna', 'mission-steuer');
