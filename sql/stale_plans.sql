-- Plans whose records have changed since (docs/lineage.md).

-- When one of the fields was last written, if that was after the seen clocks.
CREATE FUNCTION mana_ai.changed_since(record jsonb, clocks bytea, fields text[], seen text)
RETURNS timestamptz LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_changed_since';

-- The same for a record that a mission refers to, read under the policies for its user.
CREATE FUNCTION mana_ai.input_changed_since(
  user_id text, module text, table_name text, record_id text, seen text, linked_id text, linked_seen text)
RETURNS timestamptz LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_input_changed_since';

-- A mission's iterations do not count: its plan is one of them. Results of resolvers are not checked.
CREATE FUNCTION mana_ai.stale_reads(
  run_id uuid, OUT role text, OUT module text, OUT table_name text, OUT record_id text, OUT changed_at timestamptz)
RETURNS SETOF record LANGUAGE sql VOLATILE STRICT SECURITY DEFINER ROWS 2
SET search_path = pg_catalog, pg_temp SET row_security = on AS $$
  SELECT r.role, r.module, r.table_name, r.record_id, nullif(c.at, 'infinity')
    FROM mana_ai.run_reads r
    LEFT JOIN mana_ai.run_reads l ON l.run_id = r.run_id AND l.ordinal = r.ordinal + 1 AND l.role = 'linked'
   CROSS JOIN LATERAL (
     SELECT CASE r.role
       WHEN 'mission' THEN
         (SELECT mana_ai.changed_since(m.record, m.clocks, ARRAY['title', 'objective', 'conceptMarkdown', 'inputs', 'agentId'],
                                       encode(r.clocks, 'hex'))
            FROM mana_ai.mission_snapshots m WHERE m.user_id = r.user_id AND m.mission_id = r.record_id
             AND mana_ai.raw_size(m.record, m.clocks) <= pg_size_bytes(current_setting('mana_ai.max_record_size')))
       WHEN 'agent' THEN
         -- A record without clocks is another member's.
         CASE WHEN r.clocks IS NOT NULL AND NOT EXISTS (
                SELECT FROM mana_ai.agent_snapshots a WHERE a.user_id = r.user_id AND a.agent_id = r.record_id)
              THEN 'infinity'
              ELSE (SELECT mana_ai.changed_since(a.record, a.clocks, ARRAY['name', 'role', 'systemPrompt', 'memory', 'policy'],
                                                 encode(r.clocks, 'hex'))
                      FROM mana_ai.agent_snapshots a WHERE a.user_id = r.user_id AND a.agent_id = r.record_id
                       AND mana_ai.raw_size(a.record, a.clocks) <= pg_size_bytes(current_setting('mana_ai.max_record_size'))) END
       WHEN 'input' THEN
         mana_ai.input_changed_since(r.user_id, r.module, r.table_name, r.record_id, encode(r.clocks, 'hex'),
                                     l.record_id, encode(l.clocks, 'hex'))
       END AS at) c
   WHERE r.run_id = $1 AND (r.left_out IS NULL OR r.left_out = 'missing') AND c.at IS NOT NULL
   ORDER BY r.ordinal
$$;
COMMENT ON FUNCTION mana_ai.stale_reads(uuid) IS
  'the records of a run that are others now than it has read, and since when';

-- Whether a server's iteration waits for its user, by the rule of mana_ai.max_unreviewed.
CREATE FUNCTION mana_ai.plan_waits(user_id text, mission_id text, iteration_id text)
RETURNS boolean LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM mana_ai.mission_snapshots m
     CROSS JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_typeof(m.record -> 'iterations') = 'array'
                                                  THEN m.record -> 'iterations' ELSE '[]' END) AS e(iteration)
     WHERE m.user_id = $1 AND m.mission_id = $2
       AND mana_ai.raw_size(m.record, m.clocks) <= pg_size_bytes(current_setting('mana_ai.max_record_size'))
       AND e.iteration ->> 'id' = $3 AND e.iteration ->> 'overallStatus' = 'awaiting-review'
       AND coalesce(e.iteration ->> 'userFeedback', e.iteration ->> 'feedback', '') = ''
       AND NOT jsonb_path_exists(e.iteration, '$.plan[*].status ? (@ != "planned" && @ != "staged")'))
$$;

CREATE VIEW mana_ai.stale_plans AS
SELECT r.user_id, r.mission_id, r.run_id, r.iteration_id, r.finished_at AS planned_at, s.role, s.module, s.table_name,
       s.record_id, s.changed_at
  FROM mana_ai.runs r
 CROSS JOIN LATERAL mana_ai.stale_reads(r.run_id) s
 WHERE r.outcome = 'planned' AND r.started_at > clock_timestamp() - interval '7 days'
   AND mana_ai.plan_waits(r.user_id, r.mission_id, r.iteration_id);
COMMENT ON VIEW mana_ai.stale_plans IS
  'plans that wait for their user, with each record that has changed since they were made';
