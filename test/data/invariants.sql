-- The invariant of docs/contract/data.md, "Snapshots", for all rings of tests: one row for each thing that is
-- not as the log in public.sync_changes says. To be asked when nothing waits for repair and the log is whole.
-- SQL and isolation tests make it with  EXECUTE pg_read_file(current_setting('mana_ai_test.data') || '/invariants.sql'),
-- TAP tests have it in each database of ManaAi::create_sync_database().
CREATE OR REPLACE FUNCTION public.broken_invariants()
RETURNS TABLE (user_id text, table_name text, record_id text, problem text, expected text, found text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
#variable_conflict use_column
DECLARE
  r record;
  due timestamptz;
  next_run text;
  actual text;  -- FOUND is taken
BEGIN
  FOR r IN
    WITH log AS (
      SELECT DISTINCT c.user_id, c.table_name, c.record_id FROM public.sync_changes c
       WHERE c.app_id = 'ai' AND c.table_name IN ('aiMissions', 'agents')
         AND octet_length(c.user_id) + octet_length(c.record_id) <= 1000),
    kept AS (
      SELECT m.user_id, 'aiMissions' AS table_name, m.mission_id AS record_id, m.record FROM mana_ai.mission_snapshots m
      UNION ALL
      SELECT a.user_id, 'agents', a.agent_id, a.record FROM mana_ai.agent_snapshots a)
    SELECT user_id, table_name, record_id, l.record_id IS NOT NULL AS in_log, k.record, t.record_id IS NOT NULL AS is_dead,
           s.mission_id IS NOT NULL AS is_scheduled, s.due_at, s.wake_at, s.not_before, s.agent_id, s.lease_owner,
           (s.whole ->> 'woken_at')::timestamptz AS woken_at  -- 0.1.0 has none
      FROM log l
      FULL JOIN kept k USING (user_id, table_name, record_id)
      FULL JOIN mana_ai.record_tombstones t USING (user_id, table_name, record_id)
      FULL JOIN (SELECT x.*, to_jsonb(x) AS whole, 'aiMissions' AS table_name, x.mission_id AS record_id FROM mana_ai.mission_schedule x) s
                USING (user_id, table_name, record_id)
  LOOP
    IF NOT r.in_log THEN
      problem := 'not in the log'; expected := NULL;
      actual := concat_ws(', ', CASE WHEN r.record IS NOT NULL THEN 'snapshot' END, CASE WHEN r.is_dead THEN 'tombstone' END,
                         CASE WHEN r.is_scheduled THEN 'schedule' END);
      RETURN QUERY SELECT r.user_id, r.table_name, r.record_id, problem, expected, actual;
      CONTINUE;
    END IF;
    expected := mana_ai.replay(r.user_id, 'ai', r.table_name, r.record_id)::text;
    IF r.record::text IS DISTINCT FROM expected THEN
      problem := 'snapshot'; actual := r.record::text;
      RETURN QUERY SELECT r.user_id, r.table_name, r.record_id, problem, expected, actual;
    END IF;
    IF r.is_dead <> (expected IS NULL) THEN
      problem := 'tombstone'; actual := r.is_dead::text; expected := (expected IS NULL)::text;
      RETURN QUERY SELECT r.user_id, r.table_name, r.record_id, problem, expected, actual;
    END IF;
    CONTINUE WHEN r.table_name <> 'aiMissions';
    IF r.is_scheduled <> (r.record IS NOT NULL) THEN
      problem := 'schedule'; actual := r.is_scheduled::text; expected := (r.record IS NOT NULL)::text;
      RETURN QUERY SELECT r.user_id, r.table_name, r.record_id, problem, expected, actual;
    END IF;
    CONTINUE WHEN NOT r.is_scheduled OR r.record IS NULL;
    due := NULL;
    next_run := r.record ->> 'nextRunAt';
    IF (coalesce(r.record -> 'title', '""') NOT IN ('""', 'null', 'false', '0')
        OR coalesce(r.record -> 'objective', '""') NOT IN ('""', 'null', 'false', '0')) AND r.record -> 'state' = '"active"' AND jsonb_typeof(r.record -> 'nextRunAt') = 'string'
       AND next_run ~ '^\d\d\d\d-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$' THEN
      BEGIN
        -- As UTC, and the offset by hand: PostgreSQL's ends at 15:59. Digits beyond the sixth are cut.
        due := regexp_replace(regexp_replace(next_run, '(Z|[+-]\d\d:\d\d)$', ''), '(\.\d\d\d\d\d\d)\d+$', '\1')::timestamp
               AT TIME ZONE 'UTC';
        IF right(next_run, 1) <> 'Z' THEN
          due := due - (left(right(next_run, 6), 1) || '1')::int * right(next_run, 5)::interval;
        END IF;
      EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
        due := NULL;  -- not a day of the calendar
      END;
    END IF;
    IF (coalesce(r.record -> 'title', '""') NOT IN ('""', 'null', 'false', '0')
        OR coalesce(r.record -> 'objective', '""') NOT IN ('""', 'null', 'false', '0')) AND r.record -> 'state' = '"active"' THEN
      due := least(due, r.woken_at);
    END IF;
    IF r.due_at IS DISTINCT FROM due THEN
      problem := 'due_at'; expected := due::text; actual := r.due_at::text;
      RETURN QUERY SELECT r.user_id, r.table_name, r.record_id, problem, expected, actual;
    END IF;
    expected := CASE WHEN jsonb_typeof(r.record -> 'agentId') = 'string' THEN r.record ->> 'agentId' END;
    IF left(r.agent_id, 200) IS DISTINCT FROM left(expected, 200) THEN
      problem := 'agent_id'; actual := r.agent_id;
      RETURN QUERY SELECT r.user_id, r.table_name, r.record_id, problem, expected, actual;
    END IF;
    -- While a run holds the mission wake_at is the end of its lease. A mission that cannot be read is parked.
    expected := (CASE WHEN r.due_at IS NOT NULL THEN greatest(r.due_at, r.not_before) END)::text;
    IF (CASE WHEN r.lease_owner IS NOT NULL THEN r.wake_at IS NULL ELSE r.wake_at::text IS DISTINCT FROM expected END)
       AND NOT (r.wake_at IS NULL AND r.due_at <= clock_timestamp()
                AND EXISTS (SELECT FROM mana_ai.mission_problems p WHERE p.user_id = r.user_id AND p.mission_id = r.record_id)) THEN
      problem := 'wake_at'; actual := r.wake_at::text;
      RETURN QUERY SELECT r.user_id, r.table_name, r.record_id, problem, expected, actual;
    END IF;
  END LOOP;
  RETURN QUERY
  SELECT r.user_id, 'runs', r.mission_id, 'outcome', NULL::text, r.outcome
    FROM mana_ai.runs r
   WHERE r.outcome NOT IN ('running', 'planned', 'discarded', 'failed', 'skipped', 'canceled', 'crashed');
END $body$;
