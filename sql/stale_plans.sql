-- Plans whose records have changed since (docs/lineage.md).
--
-- The functions return when a record that a run has read was changed: null = it was not, infinity = at an unknown time,
-- -infinity = it is unknown whether it was.

-- A change of one of these fields. The seen clocks may be those of more fields.
CREATE FUNCTION mana_ai.changed_since(record jsonb, clocks bytea, fields text[], seen text)
RETURNS timestamptz LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_changed_since';

-- By the results of clocks_of_fields(), then and now.
CREATE FUNCTION mana_ai.change_of_clocks(seen text, now text)
RETURNS timestamptz LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_change_of_clocks';

-- A record that a mission refers to, read under the policies for its user. linked_seen: null = the run could not read it.
CREATE FUNCTION mana_ai.input_changed_since(
  user_id text, module text, table_name text, record_id text, seen text, linked_id text, linked_seen text)
RETURNS timestamptz LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_input_changed_since';

-- The agent of this id for a mission of the user. seen: null = there was none; begins with fe = it was another member's,
-- of which less is read.
CREATE FUNCTION mana_ai.agent_changed_since(user_id text, agent_id text, space_id text, seen text)
RETURNS timestamptz LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE
           WHEN h.is_ambiguous THEN timestamptz 'infinity'
           WHEN h.record IS NOT NULL AND h.read_clocks IS NULL THEN '-infinity'
           WHEN h.record IS NOT NULL AND starts_with($4, 'fe') THEN mana_ai.change_of_clocks(substr($4, 3), h.read_clocks)
           WHEN h.record IS NOT NULL THEN 'infinity'
           WHEN o.record IS NULL AND $4 IS NULL THEN NULL
           WHEN o.record IS NULL OR $4 IS NULL OR starts_with($4, 'fe') THEN 'infinity'
           WHEN mana_ai.raw_size(o.record, o.clocks) > pg_size_bytes(current_setting('mana_ai.max_record_size')) THEN '-infinity'
           ELSE mana_ai.changed_since(o.record, o.clocks, ARRAY['name', 'role', 'systemPrompt', 'memory', 'policy'], $4) END
    FROM (SELECT 1) one
    LEFT JOIN mana_ai.agent_snapshots o ON o.user_id = $1 AND o.agent_id = $2
    LEFT JOIN LATERAL (SELECT * FROM mana_ai.shared_agent($1, $2, $3)
                        WHERE o.record IS NULL OR ($3 IS NOT NULL AND NOT o.record ? 'name')) h ON true
$$;

-- A mission's iterations do not count: its plan is one of them. Results of resolvers are unknown.
CREATE FUNCTION mana_ai.stale_reads(
  run_id uuid, OUT role text, OUT module text, OUT table_name text, OUT record_id text, OUT state text,
  OUT changed_at timestamptz)
RETURNS SETOF record LANGUAGE sql VOLATILE STRICT SECURITY DEFINER ROWS 2
SET search_path = pg_catalog, pg_temp SET row_security = on AS $$
  SELECT r.role, r.module, r.table_name, r.record_id, CASE WHEN c.at = '-infinity' THEN 'unknown' ELSE 'changed' END,
         CASE WHEN isfinite(c.at) THEN c.at END
    FROM mana_ai.run_reads r
    LEFT JOIN mana_ai.run_reads l ON l.run_id = r.run_id AND l.ordinal = r.ordinal + 1 AND l.role = 'linked'
    LEFT JOIN mana_ai.run_reads o ON o.run_id = r.run_id AND r.role = 'agent' AND o.role = 'mission'
    LEFT JOIN mana_ai.mission_snapshots m
      ON m.user_id = r.user_id AND m.mission_id = CASE r.role WHEN 'mission' THEN r.record_id ELSE o.record_id END
   CROSS JOIN LATERAL (
     SELECT CASE r.role
       WHEN 'mission' THEN
         CASE WHEN m.record IS NULL THEN timestamptz 'infinity'
              WHEN r.clocks IS NULL OR mana_ai.raw_size(m.record, m.clocks) > pg_size_bytes(current_setting('mana_ai.max_record_size'))
              THEN '-infinity'
              ELSE mana_ai.changed_since(m.record, m.clocks, ARRAY['title', 'objective', 'conceptMarkdown', 'inputs', 'agentId'],
                                         encode(r.clocks, 'hex')) END
       WHEN 'agent' THEN
         mana_ai.agent_changed_since(r.user_id, r.record_id, m.space_id,
                                     CASE WHEN r.left_out IS NULL THEN coalesce(encode(r.clocks, 'hex'), '') END)
       WHEN 'input' THEN
         mana_ai.input_changed_since(r.user_id, r.module, r.table_name, r.record_id,
                                     CASE WHEN r.left_out IS NULL THEN coalesce(encode(r.clocks, 'hex'), '') END,
                                     l.record_id,
                                     CASE WHEN l.left_out IS NULL THEN coalesce(encode(l.clocks, 'hex'), '') END)
       END AS at) c
   WHERE r.run_id = $1 AND (r.left_out IS NULL OR r.left_out = 'missing') AND c.at IS NOT NULL
   ORDER BY r.ordinal
$$;
COMMENT ON FUNCTION mana_ai.stale_reads(uuid) IS
  'the records of a run that are others now than it has read, and since when; or of which that cannot be told';

-- By the rule of mana_ai.max_unreviewed.
CREATE FUNCTION mana_ai.waiting_plans(record jsonb)
RETURNS text[] LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_waiting_plans';
COMMENT ON FUNCTION mana_ai.waiting_plans(jsonb) IS
  'the ids of the iterations of a mission''s record that wait for their user; null when it is too large';

-- A function, since a view on the column would keep administrators from altering it. Of a record that is too large to be
-- read all recent plans may wait.
CREATE FUNCTION mana_ai.waiting_plans(user_id text, mission_id text)
RETURNS SETOF text LANGUAGE sql STABLE STRICT SECURITY DEFINER ROWS 1
SET search_path = pg_catalog, pg_temp AS $$
  SELECT unnest(coalesce(mana_ai.waiting_plans(m.record),
                         (SELECT array_agg(r.iteration_id) FROM mana_ai.runs r
                           WHERE r.mission_id = m.mission_id AND r.user_id = m.user_id AND r.outcome = 'planned'
                             AND r.started_at > clock_timestamp() - interval '7 days')))
    FROM mana_ai.mission_snapshots m WHERE m.user_id = $1 AND m.mission_id = $2
$$;
COMMENT ON FUNCTION mana_ai.waiting_plans(text, text) IS
  'the ids of the iterations of a mission that wait for their user, or may wait if its record is too large';

-- Waiting plans are at most a week old, and a run takes less than a day.
CREATE VIEW mana_ai.stale_plans AS
SELECT r.user_id, r.mission_id, r.run_id, r.iteration_id, r.finished_at AS planned_at, s.role, s.module, s.table_name,
       s.record_id, s.state, s.changed_at
  FROM mana_ai.mission_snapshots m
 CROSS JOIN LATERAL mana_ai.waiting_plans(m.user_id, m.mission_id) AS w(iteration_id)
 CROSS JOIN LATERAL (SELECT * FROM mana_ai.runs x
                      WHERE x.mission_id = m.mission_id AND x.user_id = m.user_id AND x.outcome = 'planned'
                        AND x.iteration_id = w.iteration_id AND x.started_at > clock_timestamp() - interval '8 days'
                     OFFSET 0) r  -- one plan after the other
 CROSS JOIN LATERAL mana_ai.stale_reads(r.run_id) s;
COMMENT ON VIEW mana_ai.stale_plans IS
  'plans that wait for their user, with each record that has changed since they were made, or of which nobody can tell';

-- For why() and the page: the first three records of a waiting plan that have changed. Not for plans with very many
-- records, since all of them are read. Null also when the statement has taken two seconds already: the page asks this of
-- many plans.
CREATE FUNCTION mana_ai.stale_records(user_id text, run_id uuid)
RETURNS text[] LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET mana_ai.sync_table_timeout = '100ms' AS $$
  SELECT CASE WHEN clock_timestamp() < statement_timestamp() + interval '2 seconds' THEN (
  SELECT array_agg(format('%s of %s', left(c.record_id, 100), left(c.table_name, 100)))
    FROM (SELECT s.record_id, s.table_name
            FROM mana_ai.runs r
           CROSS JOIN LATERAL mana_ai.waiting_plans(r.user_id, r.mission_id) AS w(iteration_id)
           CROSS JOIN LATERAL mana_ai.stale_reads(r.run_id) s
           WHERE r.user_id = $1 AND r.run_id = $2 AND r.outcome = 'planned' AND r.iteration_id = w.iteration_id
             AND s.state = 'changed' AND (SELECT count(*) FROM mana_ai.run_reads x WHERE x.run_id = $2) <= 50
           LIMIT 3) c) END
$$;
