-- Erasing and exporting a user's data (docs/erasure.md).

-- Users who were erased: nothing is stored under their ids any more, whatever the log says. The digest is the SHA-256 of
-- the id. Rows are inserted and deleted but never updated: the trigger looks them up without waiting.
CREATE TABLE mana_ai.erased_users (
  user_digest text COLLATE "C" PRIMARY KEY CHECK (user_digest ~ '^[0-9a-f]{64}$'),
  erased_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  erased_by   text        NOT NULL DEFAULT session_user
) USING heap;
COMMENT ON TABLE mana_ai.erased_users IS
  'users whose rows in sync_changes mana_ai passes over; by the SHA-256 of their ids';

-- Invalidates what every process has cached of the table.
CREATE FUNCTION mana_ai.forget_known_erasures()
RETURNS trigger LANGUAGE c SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_forget_known_erasures';
CREATE TRIGGER tell_row AFTER INSERT OR UPDATE OR DELETE ON mana_ai.erased_users
  FOR EACH ROW EXECUTE FUNCTION mana_ai.forget_known_erasures();
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON mana_ai.erased_users
  FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.forget_known_erasures();
ALTER TABLE mana_ai.erased_users ENABLE ALWAYS TRIGGER tell_row;
ALTER TABLE mana_ai.erased_users ENABLE ALWAYS TRIGGER tell_truncate;

-- Rows exist until nothing can write data of the user any more: earlier transactions, and processes that were planning.
-- The id itself is stored only for this time. settle_after: transactions with a lower id may not have seen the erasure;
-- null: not determined yet. missions and stops are facts about the user that are lost with its rows; failures: how often
-- the worker has failed with it.
CREATE TABLE mana_ai.erasures_under_way (
  user_id      text COLLATE "C" PRIMARY KEY,
  engines      bigint[] NOT NULL DEFAULT '{}',
  settle_after xid8,
  missions     text[] NOT NULL DEFAULT '{}',
  stops        text[] NOT NULL DEFAULT '{}',
  failures     int    NOT NULL DEFAULT 0
);
COMMENT ON TABLE mana_ai.erasures_under_way IS
  'erasures that transactions and calls in flight may still undo; the worker ends them';

-- Dumped, so that an erasure survives a restore, which folds the whole log.
SELECT pg_catalog.pg_extension_config_dump('mana_ai.erased_users', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.erasures_under_way', '');

CREATE FUNCTION mana_ai.digest_of_user(user_id text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT encode(sha256(convert_to($1, 'UTF8')), 'hex')
$$;

-- Whether the user, and nobody else, has or had the agent.
CREATE FUNCTION mana_ai.is_agent_of(agent_id text, user_id text)
RETURNS boolean LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp AS $$
  SELECT (EXISTS (SELECT FROM mana_ai.agent_snapshots a WHERE a.user_id = $2 AND a.agent_id = $1)
          OR EXISTS (SELECT FROM mana_ai.record_tombstones d
                      WHERE d.user_id = $2 AND d.table_name = 'agents' AND d.record_id = $1)
          OR EXISTS (SELECT FROM mana_ai.mission_schedule m WHERE m.user_id = $2 AND m.agent_id = $1)
          OR EXISTS (SELECT FROM mana_ai.runs r WHERE r.user_id = $2 AND r.agent_id = $1)
          OR EXISTS (SELECT FROM mana_ai.token_usage t WHERE t.user_id = $2 AND t.agent_id = $1)
          OR EXISTS (SELECT FROM mana_ai.erasures_under_way u
                      WHERE u.user_id = $2 AND 'agent:' || $1 = ANY (u.stops)))
     AND NOT EXISTS (SELECT FROM mana_ai.agent_snapshots a WHERE a.agent_id = $1 AND a.user_id <> $2)
     AND NOT EXISTS (SELECT FROM mana_ai.mission_schedule m WHERE m.agent_id = $1 AND m.user_id <> $2)
$$;

-- The tables with rows of single users: those with a column user_id, and stops. condition selects the rows of the user
-- ($1), erasable those that may be deleted now, kept_because says why others stay.
CREATE FUNCTION mana_ai.tables_of_users(
  OUT table_name text, OUT condition text, OUT erasable text, OUT kept_because text)
RETURNS SETOF record LANGUAGE sql STABLE ROWS 20
SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.relname::text,
         CASE c.relname
           -- '' is all users together, '*' each of them.
           WHEN 'cost_budgets' THEN $sql$t.user_id = $1 AND t.user_id NOT IN ('', '*')$sql$
           -- Of agents, only those that nobody else has.
           WHEN 'stops' THEN
             $sql$(t.scope = 'user:' || $1
               OR starts_with(t.scope, 'agent:') AND mana_ai.is_agent_of(substr(t.scope, 7), $1))$sql$
           ELSE 't.user_id = $1' END,
         CASE WHEN c.relname <> 'decrypt_audit' THEN 'true'
              WHEN r.retention = interval '0' THEN 'false'
              ELSE format('t.ts < clock_timestamp() - %L::interval', r.retention) END,
         CASE WHEN c.relname <> 'decrypt_audit' THEN 'another transaction holds them; removed when it is over'
              WHEN r.retention = interval '0' THEN 'mana_ai.audit_retention is 0: kept for ever'
              ELSE format('younger than mana_ai.audit_retention (%s)', r.setting) END
    FROM pg_class c
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
                    AND d.refclassid = 'pg_extension'::regclass
                    AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'mana_ai')
   -- In seconds, like the trigger: a calendar day may be an hour shorter.
   CROSS JOIN (SELECT x.setting, make_interval(secs => extract(epoch FROM x.setting::interval)::float8) AS retention
                 FROM (SELECT coalesce(nullif(current_setting('mana_ai.audit_retention', true), ''), '0') AS setting) x) r
   WHERE c.relkind = 'r' AND c.relname <> 'erasures_under_way'
     AND (c.relname = 'stops'
          OR EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attname = 'user_id' AND NOT a.attisdropped))
   -- Stops read agents, so they come first; so do questions, whose charges do not name the user without their row. Tables that workers write to come last, so that they do not wait for the rest,
   -- and in the common order of locks. Runs come after the schedule: a mission claimed by then has a row in both.
   ORDER BY CASE c.relname WHEN 'stops' THEN 1 WHEN 'what_if_running' THEN 1 WHEN 'mission_snapshots' THEN 3 WHEN 'agent_snapshots' THEN 4
                           WHEN 'mission_schedule' THEN 5 WHEN 'runs' THEN 6 ELSE 2 END, c.relname
$$;
COMMENT ON FUNCTION mana_ai.tables_of_users() IS
  'the tables of mana_ai that hold rows of single users, and which of those rows can be erased';

-- What the agent has cost counts as "other" in metrics from now on.
CREATE FUNCTION mana_ai.erase_agent_from_metrics(agent_id text)
RETURNS void LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_erase_agent_from_metrics';

-- Removes rows without waiting for those that others have locked. Processes that were planning for the user are added to
-- erasures_under_way.
CREATE FUNCTION mana_ai.erase_rows_of_user(
  of_user text, OUT table_name text, OUT removed bigint, OUT kept bigint, OUT why text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE ROWS 20
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t       record;
  planned bigint[];
BEGIN
  PERFORM mana_ai.erase_agent_from_metrics(a.agent_id)
     FROM (SELECT s.agent_id FROM mana_ai.agent_snapshots s WHERE s.user_id = of_user
           UNION
           SELECT u.agent_id FROM mana_ai.token_usage u WHERE u.user_id = of_user) a;
  FOR t IN SELECT * FROM mana_ai.tables_of_users() LOOP
    EXECUTE format(
      'WITH gone AS (
         DELETE FROM mana_ai.%1$I x
          USING (SELECT t.ctid FROM mana_ai.%1$I t WHERE %2$s AND %3$s FOR UPDATE OF t SKIP LOCKED) s
          WHERE x.ctid = s.ctid RETURNING %4$s AS engine)
       SELECT count(*), array_agg(DISTINCT engine) FILTER (WHERE engine IS NOT NULL) FROM gone',
      t.table_name, t.condition, t.erasable,
      CASE t.table_name WHEN 'runs' THEN $sql$CASE x.outcome WHEN 'running' THEN x.lease_owner END$sql$
           ELSE 'NULL::bigint' END)
      INTO removed, planned USING of_user;
    EXECUTE format('SELECT count(*) FROM mana_ai.%I t WHERE %s', t.table_name, t.condition)
      INTO kept USING of_user;
    IF planned IS NOT NULL THEN
      UPDATE mana_ai.erasures_under_way u
         SET engines = ARRAY(SELECT DISTINCT e FROM unnest(u.engines || planned) e)
       WHERE u.user_id = of_user;
    END IF;
    table_name := 'mana_ai.' || t.table_name;
    why := CASE WHEN kept > 0 THEN t.kept_because END;
    RETURN NEXT;
  END LOOP;
END $$;

-- An id in the form of the log and engine_state.
CREATE FUNCTION mana_ai.printable_id(id text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT regexp_replace(left(x.bytes, 64), '[^!-~]', '?', 'g') || CASE WHEN length(x.bytes) > 64 THEN '...' ELSE '' END
    FROM (SELECT convert_from(convert_to($1, 'UTF8'), 'LATIN1') COLLATE "C" AS bytes) x
$$;

-- Registers the erasure for the worker, before anything of the user is removed.
CREATE FUNCTION mana_ai.begin_erasure(of_user text)
RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO mana_ai.erasures_under_way AS u (user_id, missions, stops)
  VALUES ($1,
          ARRAY(SELECT m.mission_id FROM mana_ai.mission_schedule m WHERE m.user_id = $1
                UNION
                SELECT d.record_id FROM mana_ai.record_tombstones d WHERE d.user_id = $1),
          ARRAY(SELECT DISTINCT t.scope FROM mana_ai.stops t
                 WHERE starts_with(t.scope, 'agent:') AND mana_ai.is_agent_of(substr(t.scope, 7), $1)))
      ON CONFLICT (user_id) DO UPDATE
     SET settle_after = NULL,
         missions = ARRAY(SELECT unnest(u.missions) UNION SELECT unnest(excluded.missions)),
         stops = ARRAY(SELECT unnest(u.stops) UNION SELECT unnest(excluded.stops))
$$;

-- Removes the user from the crashes on record in a file of the data directory, when the transaction commits; returns
-- their number.
CREATE FUNCTION mana_ai.erase_user_from_crashes(user_id text)
RETURNS bigint LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_erase_user_from_crashes';

-- Logs when the transaction commits. With RAISE the log would quote the statement, and with it the id.
CREATE FUNCTION mana_ai.write_to_log(message text)
RETURNS void LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_write_to_log';

-- The number of the user's rows in the attached table, of all apps; null without a readable table.
CREATE FUNCTION mana_ai.log_rows_of_user(user_id text)
RETURNS bigint LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_log_rows_of_user';

CREATE FUNCTION mana_ai.erase_user(
  user_id text, OUT table_name text, OUT removed bigint, OUT kept bigint, OUT why text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 20
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin SET row_security = off
SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  t             record;
  total_removed bigint := 0;
  total_kept    bigint := 0;
  digest        text := mana_ai.digest_of_user(erase_user.user_id);
  in_log        bigint;
BEGIN
  IF erase_user.user_id IS NULL THEN
    RAISE EXCEPTION 'user id must not be null'
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'mana_ai.erase_user() must be called in a READ COMMITTED transaction'
      USING ERRCODE = 'invalid_transaction_state',
            DETAIL = 'It would not see what others have committed since the transaction began.';
  END IF;
  -- First: it may read the whole log, and nobody must wait for that.
  IF mana_ai.attached_table() IS NOT NULL THEN
    in_log := mana_ai.log_rows_of_user(erase_user.user_id);
  END IF;
  -- An existing row must also stay until this has ended: somebody may be readmitting the user.
  LOOP
    INSERT INTO mana_ai.erased_users (user_digest) VALUES (digest) ON CONFLICT (user_digest) DO NOTHING;
    PERFORM FROM mana_ai.erased_users e WHERE e.user_digest = digest FOR KEY SHARE;
    EXIT WHEN FOUND;
  END LOOP;
  PERFORM mana_ai.begin_erasure(erase_user.user_id);
  FOR t IN SELECT * FROM mana_ai.erase_rows_of_user(erase_user.user_id) LOOP
    table_name := t.table_name;
    removed := t.removed;
    kept := t.kept;
    why := t.why;
    total_removed := total_removed + t.removed;
    total_kept := total_kept + t.kept;
    RETURN NEXT;
  END LOOP;
  table_name := 'file mana_ai.crashes';
  removed := mana_ai.erase_user_from_crashes(erase_user.user_id);
  kept := 0;
  why := NULL;
  RETURN NEXT;
  IF mana_ai.attached_table() IS NOT NULL THEN
    table_name := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = mana_ai.attached_table());
    removed := 0;
    kept := in_log;
    why := CASE WHEN kept > 0 THEN 'mana-sync''s: not touched; rows of all apps are counted'
                WHEN kept IS NULL THEN 'mana-sync''s: not touched; cannot be read at the moment' END;
    RETURN NEXT;
  END IF;
  PERFORM mana_ai.wake_worker();
  PERFORM mana_ai.write_to_log(format('a user was erased: by=%s digest=%s removed=%s kept=%s', session_user,
            digest, total_removed, total_kept));
END $$;
COMMENT ON FUNCTION mana_ai.erase_user(text) IS
  'removes everything that mana_ai holds of a user, for good; returns what was removed and what stays, by table';

-- Called by processes that no longer plan for these users; "gone" are those processes and those that have ended. Returns
-- how many could not be settled because of an error.
CREATE FUNCTION mana_ai.settle_erasures(users text[], gone text[])
RETURNS int LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
  u              record;
  horizon        xid8;
  next_xid       xid8;
  left_over      bigint;
  audit_kept     bigint;
  errors_of_user text[];
  failed         int := 0;
BEGIN
  -- An erasing transaction holds this lock until all other processes have been told.
  BEGIN
    LOCK TABLE mana_ai.erasures_under_way IN SHARE ROW EXCLUSIVE MODE NOWAIT;
  EXCEPTION WHEN lock_not_available THEN
    RETURN 0;
  END;
  SELECT pg_snapshot_xmin(s.now), pg_snapshot_xmax(s.now) INTO horizon, next_xid
    FROM (SELECT pg_current_snapshot() AS now) s;
  FOR u IN SELECT w.user_id, w.failures FROM mana_ai.erasures_under_way w
            WHERE w.user_id = ANY (users) ORDER BY w.user_id LOOP
    -- A failure does not prevent the completion of other users' erasures.
    BEGIN
      -- A user without a digest was readmitted.
      DELETE FROM mana_ai.erasures_under_way w
       WHERE w.user_id = u.user_id
         AND NOT EXISTS (SELECT FROM mana_ai.erased_users e WHERE e.user_digest = mana_ai.digest_of_user(u.user_id));
      CONTINUE WHEN FOUND;
      UPDATE mana_ai.erasures_under_way w
         SET engines = ARRAY(SELECT e FROM unnest(w.engines) e WHERE e::text <> ALL (gone)),
             settle_after = coalesce(w.settle_after, next_xid)
       WHERE w.user_id = u.user_id
         AND (w.settle_after IS NULL OR w.engines && ARRAY(SELECT g::bigint FROM unnest(gone) g));
      -- A row from before a restore may name transactions that are far ahead.
      UPDATE mana_ai.erasures_under_way w SET settle_after = next_xid
       WHERE w.user_id = u.user_id AND w.settle_after > next_xid;
      CONTINUE WHEN NOT EXISTS (SELECT FROM mana_ai.erasures_under_way w
                                 WHERE w.user_id = u.user_id AND w.engines = '{}' AND w.settle_after <= horizon);
      SELECT coalesce(sum(r.kept) FILTER (WHERE r.table_name <> 'mana_ai.decrypt_audit'), 0),
             coalesce(sum(r.kept) FILTER (WHERE r.table_name = 'mana_ai.decrypt_audit'), 0)
        INTO left_over, audit_kept
        FROM mana_ai.erase_rows_of_user(u.user_id) r;
      -- The errors of the last tick name missions.
      SELECT array_agg(e.error) INTO errors_of_user
        FROM mana_ai.engine_state s CROSS JOIN LATERAL unnest(s.errors) AS e(error)
       WHERE EXISTS (SELECT FROM mana_ai.erasures_under_way w CROSS JOIN LATERAL unnest(w.missions) AS m(id)
                      WHERE w.user_id = u.user_id
                        AND starts_with(e.error, 'mission ' || mana_ai.printable_id(m.id) || ': '));
      UPDATE mana_ai.engine_state s
         SET errors = ARRAY(SELECT e.error FROM unnest(s.errors) WITH ORDINALITY AS e(error, place)
                             WHERE e.error <> ALL (errors_of_user) ORDER BY e.place)
       WHERE s.errors && errors_of_user;
      -- A process that had begun to plan must first learn of the erasure.
      DELETE FROM mana_ai.erasures_under_way w
       WHERE w.user_id = u.user_id AND w.engines = '{}' AND left_over = 0;
      IF FOUND THEN
        PERFORM mana_ai.erase_user_from_crashes(u.user_id);
        PERFORM mana_ai.write_to_log(format('the erasure of a user is complete: digest=%s audit_kept=%s',
                  mana_ai.digest_of_user(u.user_id), audit_kept));
      END IF;
    EXCEPTION WHEN OTHERS THEN
      failed := failed + 1;
      UPDATE mana_ai.erasures_under_way w SET failures = w.failures + 1 WHERE w.user_id = u.user_id;
      IF u.failures % 100 = 0 THEN
        PERFORM mana_ai.write_to_log(format('the erasure of a user cannot be completed at the moment: digest=%s failures=%s SQLSTATE=%s',
                  mana_ai.digest_of_user(u.user_id), u.failures + 1, SQLSTATE));
      END IF;
    END;
  END LOOP;
  RETURN failed;
END $$;

-- Compares digests that were added in another way, by a publisher or from a dump after the log was folded, with the
-- stored data. All users are compared, so only once for the same digests and the same fold. Each call compares 500 users
-- and takes the result of the previous call, nulls at first; last_user: null = all are compared.
CREATE FUNCTION mana_ai.begin_missed_erasures(INOUT compared text, INOUT last_user text)
RETURNS record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
  few CONSTANT int := 500;
  slice        text[];
  u            record;
BEGIN
  IF compared IS NULL OR last_user IS NULL THEN
    SELECT format('%s %s %s', count(*), sum(hashtextextended(e.user_digest, 0)),
                  (SELECT f.folded_at FROM mana_ai.folded_log f))
      INTO compared FROM mana_ai.erased_users e;
    last_user := '';
    IF EXISTS (SELECT FROM mana_ai.engine_state s WHERE s.compared_digests = compared) THEN
      last_user := NULL;
      RETURN;
    END IF;
  END IF;
  -- A few index lookups for each user, however many rows they have.
  WITH RECURSIVE users(user_id, place) AS (
    SELECT last_user COLLATE "C", 0
     UNION ALL
    SELECT least((SELECT min(m.user_id) FROM mana_ai.mission_schedule m WHERE m.user_id > w.user_id),
                 (SELECT min(a.user_id) FROM mana_ai.agent_snapshots a WHERE a.user_id > w.user_id),
                 (SELECT min(r.user_id) FROM mana_ai.runs r WHERE r.user_id > w.user_id),
                 (SELECT min(t.user_id) FROM mana_ai.token_usage t WHERE t.user_id > w.user_id),
                 (SELECT min(e.user_id) FROM mana_ai.evaluation_runs e WHERE e.user_id > w.user_id)),
           w.place + 1
      FROM users w WHERE w.user_id IS NOT NULL AND w.place < few)
  SELECT array_agg(w.user_id ORDER BY w.place) INTO slice
    FROM users w WHERE w.place > 0 AND w.user_id IS NOT NULL;
  -- The lock keeps the digest until the erasure has begun: a readmission waits, and then sees it.
  FOR u IN
    WITH digests AS MATERIALIZED (
      SELECT x.user_id, mana_ai.digest_of_user(x.user_id) AS digest FROM unnest(slice) AS x(user_id))
    SELECT d.user_id FROM digests d JOIN mana_ai.erased_users e ON e.user_digest = d.digest
     WHERE NOT EXISTS (SELECT FROM mana_ai.erasures_under_way w WHERE w.user_id = d.user_id)
       FOR KEY SHARE OF e
  LOOP
    PERFORM mana_ai.begin_erasure(u.user_id);
  END LOOP;
  last_user := CASE WHEN cardinality(slice) = few THEN slice[few] END;
  IF last_user IS NULL THEN
    UPDATE mana_ai.engine_state s SET compared_digests = compared;
  END IF;
END $$;

CREATE FUNCTION mana_ai.readmit_user(user_id text)
RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  was_erased boolean;
BEGIN
  DELETE FROM mana_ai.erased_users e WHERE e.user_digest = mana_ai.digest_of_user(readmit_user.user_id);
  was_erased := FOUND;
  -- Afterwards: a concurrent erasure of the user has then ended.
  IF EXISTS (SELECT FROM mana_ai.erasures_under_way u WHERE u.user_id = readmit_user.user_id) THEN
    RAISE EXCEPTION 'the erasure of the user is still under way'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'The worker completes it when transactions that had begun before are over.';
  END IF;
  IF NOT was_erased THEN
    RETURN false;
  END IF;
  -- All records of the user are rebuilt from the rows that the log still has.
  INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
  VALUES (readmit_user.user_id, '', '', 'user was readmitted');
  PERFORM mana_ai.wake_worker();
  PERFORM mana_ai.write_to_log(format('an erased user was readmitted: by=%s digest=%s', session_user,
            mana_ai.digest_of_user(readmit_user.user_id)));
  RETURN true;
END $$;
COMMENT ON FUNCTION mana_ai.readmit_user(text) IS
  'has mana_ai work for an erased user again, beginning with what sync_changes holds; false: was not erased';

CREATE FUNCTION mana_ai.export_user(user_id text, OUT table_name text, OUT record jsonb)
RETURNS SETOF record LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
  t record;
BEGIN
  IF export_user.user_id IS NULL THEN
    RAISE EXCEPTION 'user id must not be null'
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  FOR t IN SELECT * FROM mana_ai.tables_of_users() LOOP
    RETURN QUERY EXECUTE format('SELECT %L::text, to_jsonb(t) FROM mana_ai.%I t WHERE %s',
                                'mana_ai.' || t.table_name, t.table_name, t.condition)
           USING export_user.user_id;
  END LOOP;
END $$;
COMMENT ON FUNCTION mana_ai.export_user(text) IS
  'everything that mana_ai holds of a user, a row of each table as JSON; decrypts nothing';
