-- The brake (docs/operations.md): what operators have stopped, and when they resumed it. A scope is 'all', 'user:ID',
-- 'agent:ID', 'model:NAME' or 'tool:NAME'. Rows are kept as a record of who stopped what, and why.
CREATE TABLE mana_ai.stops (
  scope      text        COLLATE "C" NOT NULL CHECK (scope ~ '^(all|(user|agent|model|tool):.+)$'),
  reason     text        NOT NULL CHECK (btrim(reason) <> ''),
  stopped_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  stopped_by text        NOT NULL DEFAULT session_user,
  resumed_at timestamptz,
  resumed_by text,
  PRIMARY KEY (scope, stopped_at),
  CHECK ((resumed_at IS NULL) = (resumed_by IS NULL))
);
CREATE UNIQUE INDEX stops_in_force ON mana_ai.stops (scope) WHERE resumed_at IS NULL;
COMMENT ON TABLE mana_ai.stops IS 'what stop() has stopped; in force while resumed_at is null';
SELECT pg_catalog.pg_extension_config_dump('mana_ai.stops', '');

-- Wakes the worker when the transaction commits.
CREATE FUNCTION mana_ai.wake_worker()
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_wake_worker';

-- The models that plan, the preferred one first.
CREATE FUNCTION mana_ai.planner_models()
RETURNS text[] LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT array_agg(btrim(m.name) ORDER BY m.place)
    FROM unnest(string_to_array(current_setting('mana_ai.planner_model'), ',')) WITH ORDINALITY AS m(name, place)
$$;

-- The stop for missions of this user and agent; the widest of several. Without a user: a stop of all planning.
CREATE FUNCTION mana_ai.stop_in_force(user_id text DEFAULT NULL, agent_id text DEFAULT NULL)
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('%s stopped by %s since %s: %s',
                CASE WHEN t.scope = 'all' THEN 'all planning was' ELSE t.scope || ' was' END,
                t.stopped_by, t.stopped_at, t.reason)
    FROM mana_ai.stops t
   WHERE t.resumed_at IS NULL
     AND (t.scope IN ('all', 'user:' || $1, 'agent:' || $2)
          -- As long as one of them is left, it plans.
          OR (t.scope = 'model:' || (mana_ai.planner_models())[1]
              AND NOT EXISTS (SELECT FROM unnest(mana_ai.planner_models()) AS p(name)
                               WHERE NOT EXISTS (SELECT FROM mana_ai.stops x
                                                  WHERE x.scope = 'model:' || p.name AND x.resumed_at IS NULL))))
   ORDER BY t.scope <> 'all', t.stopped_at LIMIT 1
$$;

CREATE FUNCTION mana_ai.stop(scope text, reason text)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  kind    text := split_part(stop.scope, ':', 1);
  id      text := substr(stop.scope, length(split_part(stop.scope, ':', 1)) + 2);
  unknown boolean;
BEGIN
  IF stop.scope IS NULL OR stop.scope !~ '^(all|(user|agent|model|tool):.+)$' THEN
    RAISE EXCEPTION 'scope "%" is not valid', left(coalesce(stop.scope, ''), 200)
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Use all, user:ID, agent:ID, model:NAME or tool:NAME.';
  ELSIF coalesce(btrim(stop.reason), '') = '' THEN
    RAISE EXCEPTION 'a reason is required'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  INSERT INTO mana_ai.stops (scope, reason) VALUES (stop.scope, stop.reason)
      ON CONFLICT (scope) WHERE resumed_at IS NULL DO NOTHING;
  IF NOT FOUND THEN
    RAISE NOTICE '% is stopped already', stop.scope;
    RETURN;
  END IF;
  -- A mistyped id must not look like an effective stop.
  unknown := CASE kind
    WHEN 'user' THEN NOT EXISTS (SELECT FROM mana_ai.mission_schedule s WHERE s.user_id = id)
    WHEN 'agent' THEN NOT EXISTS (SELECT FROM mana_ai.mission_schedule s WHERE s.agent_id = id)
                      AND NOT EXISTS (SELECT FROM mana_ai.agent_snapshots a WHERE a.agent_id = id)
    WHEN 'model' THEN id <> ALL (mana_ai.planner_models() || current_setting('mana_ai.compact_model'))
    WHEN 'tool' THEN NOT EXISTS (SELECT FROM mana_ai.tools t WHERE t.name = id)
    ELSE false END;
  IF unknown THEN
    RAISE WARNING '% is not known here', stop.scope
      USING DETAIL = 'It is on record as stopped all the same.';
  END IF;
  PERFORM mana_ai.wake_worker();
END $$;
COMMENT ON FUNCTION mana_ai.stop(text, text) IS
  'stops planning at once: all, user:ID, agent:ID, model:NAME or tool:NAME; calls in flight are cancelled';

CREATE FUNCTION mana_ai.resume(scope text)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE mana_ai.stops t SET resumed_at = clock_timestamp(), resumed_by = session_user
   WHERE t.scope = resume.scope AND t.resumed_at IS NULL;
  IF NOT FOUND THEN
    RAISE EXCEPTION '"%" is not stopped', left(coalesce(resume.scope, ''), 200)
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'SELECT scope FROM mana_ai.stops WHERE resumed_at IS NULL says what is.';
  END IF;
  -- Missions that another stop concerns are held back again at their next check.
  UPDATE mana_ai.mission_schedule s SET not_before = NULL, wake_at = s.due_at
   WHERE s.decision = 'skipped-stopped' AND s.lease_owner IS NULL AND s.due_at IS NOT NULL;
  PERFORM mana_ai.wake_worker();
END $$;
COMMENT ON FUNCTION mana_ai.resume(text) IS 'ends what stop() with the same scope has begun';
