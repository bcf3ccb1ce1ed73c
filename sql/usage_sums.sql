-- What all users together have used, by minute, so that a budget of all together costs the same however many replies a day
-- has (docs/architecture.md, "Budgets of all together").
--
-- Rows are only inserted, and their sum counts: nobody who changes the ledger waits for anybody else. Up to a certain
-- minute they are complete: what was charged is added by advance_usage_sums() some minutes later, with is_complete; what
-- changes afterwards, by the triggers below, in the same transaction. Later minutes are read from the ledger.
CREATE TABLE mana_ai.usage_sums (
  minute      timestamptz NOT NULL,
  currency    text COLLATE "C" NOT NULL,  -- '' is usage without a price
  tokens      bigint      NOT NULL,
  cost        numeric,
  is_complete boolean     NOT NULL DEFAULT false,
  id          uuid        PRIMARY KEY DEFAULT gen_random_uuid()
);
CREATE INDEX usage_sums_minute ON mana_ai.usage_sums (minute);
COMMENT ON TABLE mana_ai.usage_sums IS
  'what all users have used by minute, as sums of its rows; made from token_usage, and made anew when it is empty';

-- From then on the ledger itself must be read; null: all of it.
CREATE FUNCTION mana_ai.usage_sums_end()
RETURNS timestamptz LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.minute + interval '1 minute' FROM mana_ai.usage_sums s WHERE s.is_complete ORDER BY s.minute DESC LIMIT 1
$$;

-- What all users together have used since then, by currency ('' is usage without a price). only_kept: without what must be
-- read from the ledger since read_from; no row if that is all.
CREATE FUNCTION mana_ai.usage_of_all(
  since timestamptz, only_kept boolean DEFAULT false,
  OUT read_from timestamptz, OUT currency text, OUT tokens bigint, OUT cost numeric)
RETURNS SETOF record LANGUAGE plpgsql STABLE ROWS 3
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  whole timestamptz := date_bin('1 minute', since, 'epoch') + interval '1 minute';
  kept  timestamptz := mana_ai.usage_sums_end();
BEGIN
  -- Older sums are deleted; and the clock may have been set back.
  IF kept <= whole OR kept > clock_timestamp() OR whole < clock_timestamp() - interval '25 hours' THEN
    kept := NULL;
  END IF;
  IF kept IS NULL AND only_kept THEN
    RETURN;
  END IF;
  RETURN QUERY
    SELECT kept, x.currency, sum(x.tokens)::bigint, sum(x.cost)
      FROM (SELECT s.currency, s.tokens, s.cost FROM mana_ai.usage_sums s WHERE s.minute >= whole AND s.minute < kept
            UNION ALL
            SELECT coalesce(u.currency, ''), u.tokens_used, u.cost FROM mana_ai.token_usage u
             WHERE u.ts > since AND u.ts < whole AND kept IS NOT NULL
            UNION ALL
            SELECT coalesce(u.currency, ''), u.tokens_used, u.cost FROM mana_ai.token_usage u
             WHERE u.ts > since AND u.ts >= coalesce(kept, '-infinity') AND NOT only_kept) x
     GROUP BY x.currency;
END $$;
COMMENT ON FUNCTION mana_ai.usage_of_all(timestamptz, boolean) IS
  'what all users together have used since then, by currency; without reading all replies';

-- The lock of budgets, until the end of the transaction: whoever charges holds it until the commit.
CREATE FUNCTION mana_ai.lock_budgets()
RETURNS void LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'mana_ai_lock_budgets';
-- false: it is taken.
CREATE FUNCTION mana_ai.try_lock_budgets()
RETURNS boolean LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'mana_ai_try_lock_budgets';

-- Completes further minutes, about max_rows replies in a call; returns whether more are left. Under the lock of budgets, so
-- that all charges before now() are visible. null: somebody else has it, and nothing was done.
CREATE FUNCTION mana_ai.advance_usage_sums(max_rows int)
RETURNS boolean LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  begin_at timestamptz;
  end_at   timestamptz := date_bin('1 minute', now(), 'epoch') - interval '2 minutes';
  oldest   timestamptz := end_at - interval '25 hours';
  piece    timestamptz;
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'mana_ai.advance_usage_sums() must be called in a READ COMMITTED transaction'
      USING ERRCODE = 'invalid_transaction_state',
            DETAIL = 'It would not see what others have committed since the transaction began.';
  END IF;
  IF NOT mana_ai.try_lock_budgets() THEN
    RETURN NULL;
  END IF;
  begin_at := mana_ai.usage_sums_end();
  IF begin_at > clock_timestamp() THEN
    -- The clock was set back, and will come past these minutes again.
    DELETE FROM mana_ai.usage_sums;
    begin_at := NULL;
  END IF;
  begin_at := greatest(begin_at, oldest);
  IF begin_at >= end_at THEN
    RETURN false;
  END IF;
  SELECT date_bin('1 minute', u.ts, 'epoch') INTO piece FROM mana_ai.token_usage u
   WHERE u.ts >= begin_at AND u.ts < end_at ORDER BY u.ts OFFSET max_rows LIMIT 1;
  IF piece IS NOT NULL THEN
    end_at := greatest(piece, begin_at + interval '1 minute');
  END IF;
  -- In one statement: what commits later than its snapshot is in neither table, or in both.
  INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost, is_complete)
  SELECT x.minute, x.currency, sum(x.tokens), sum(x.cost), true
    FROM (SELECT date_bin('1 minute', u.ts, 'epoch') AS minute, coalesce(u.currency, '') AS currency,
                 u.tokens_used::bigint AS tokens, u.cost
            FROM mana_ai.token_usage u WHERE u.ts >= begin_at AND u.ts < end_at
          UNION ALL
          SELECT s.minute, s.currency, -s.tokens, -s.cost
            FROM mana_ai.usage_sums s WHERE s.minute >= begin_at AND s.minute < end_at
          UNION ALL
          SELECT end_at - interval '1 minute', '', 0, NULL) x
   GROUP BY x.minute, x.currency;
  DELETE FROM mana_ai.usage_sums s WHERE s.minute < oldest;
  IF (SELECT count(*) FROM mana_ai.usage_sums s WHERE NOT s.is_complete) > 2000 THEN
    WITH gone AS (DELETE FROM mana_ai.usage_sums RETURNING *)
    INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost, is_complete)
    SELECT g.minute, g.currency, sum(g.tokens), sum(g.cost), g.minute < end_at FROM gone g GROUP BY g.minute, g.currency;
  END IF;
  RETURN piece IS NOT NULL;
END $$;
COMMENT ON FUNCTION mana_ai.advance_usage_sums(int) IS
  'adds up what was used until two minutes ago; for housekeeping';

-- Not without the lock: minutes that advance_usage_sums() completes meanwhile would stay, as if all before them had been
-- added up.
CREATE FUNCTION mana_ai.remake_usage_sums()
RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'mana_ai.remake_usage_sums() must be called in a READ COMMITTED transaction'
      USING ERRCODE = 'invalid_transaction_state',
            DETAIL = 'It would not see what others have committed since the transaction began.';
  END IF;
  PERFORM mana_ai.lock_budgets();
  DELETE FROM mana_ai.usage_sums;
END $$;
COMMENT ON FUNCTION mana_ai.remake_usage_sums() IS
  'throws the sums of what all users have used away; housekeeping makes them anew from mana_ai.token_usage';

CREATE FUNCTION mana_ai.follow_usage()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin AS $$
DECLARE
  oldest timestamptz := clock_timestamp() - interval '26 hours';
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM mana_ai.usage_sums;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost)
    SELECT date_bin('1 minute', o.ts, 'epoch'), coalesce(o.currency, ''), -sum(o.tokens_used), -sum(o.cost)
      FROM old_usage o WHERE o.ts >= oldest GROUP BY 1, 2;
  ELSE
    INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost)
    SELECT x.minute, x.currency, sum(x.tokens), sum(x.cost)
      FROM (SELECT date_bin('1 minute', n.ts, 'epoch') AS minute, coalesce(n.currency, '') AS currency,
                   n.tokens_used::bigint AS tokens, n.cost
              FROM new_usage n WHERE n.ts >= oldest
            UNION ALL
            SELECT date_bin('1 minute', o.ts, 'epoch'), coalesce(o.currency, ''), -o.tokens_used::bigint, -o.cost
              FROM old_usage o WHERE o.ts >= oldest) x
     GROUP BY x.minute, x.currency HAVING sum(x.tokens) <> 0 OR coalesce(sum(x.cost), 0) <> 0;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION mana_ai.follow_usage() IS 'keeps mana_ai.usage_sums when replies are priced, taken back or erased';

CREATE FUNCTION mana_ai.add_to_usage_sums(at timestamptz, currency text, tokens bigint, cost numeric)
RETURNS void LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin AS $$
  INSERT INTO mana_ai.usage_sums (minute, currency, tokens, cost) VALUES (date_bin('1 minute', $1, 'epoch'), $2, $3, $4)
$$;

-- In C, since each reply passes it: only rows that advance_usage_sums() may have passed by are added at once, which are
-- those of the past, and those that are not ours (an operator's transaction may take long).
CREATE FUNCTION mana_ai.follow_new_usage()
RETURNS trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'mana_ai_follow_new_usage';

CREATE FUNCTION mana_ai.follow_replicated_usage()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM mana_ai.add_to_usage_sums(OLD.ts, coalesce(OLD.currency, ''), -OLD.tokens_used, -OLD.cost);
  IF TG_OP = 'UPDATE' THEN
    PERFORM mana_ai.add_to_usage_sums(NEW.ts, coalesce(NEW.currency, ''), NEW.tokens_used, NEW.cost);
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER follow_insert AFTER INSERT ON mana_ai.token_usage
  FOR EACH ROW EXECUTE FUNCTION mana_ai.follow_new_usage();
CREATE TRIGGER follow_update AFTER UPDATE ON mana_ai.token_usage
  REFERENCING OLD TABLE AS old_usage NEW TABLE AS new_usage FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.follow_usage();
CREATE TRIGGER follow_delete AFTER DELETE ON mana_ai.token_usage
  REFERENCING OLD TABLE AS old_usage FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.follow_usage();
CREATE TRIGGER follow_truncate AFTER TRUNCATE ON mana_ai.token_usage
  FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.follow_usage();
-- Also for rows that arrive by replication, since these sums do not. It fires no triggers of statements, except at TRUNCATE.
CREATE TRIGGER follow_replicated AFTER UPDATE OR DELETE ON mana_ai.token_usage
  FOR EACH ROW EXECUTE FUNCTION mana_ai.follow_replicated_usage();
ALTER TABLE mana_ai.token_usage ENABLE ALWAYS TRIGGER follow_insert;
ALTER TABLE mana_ai.token_usage ENABLE ALWAYS TRIGGER follow_truncate;
ALTER TABLE mana_ai.token_usage ENABLE REPLICA TRIGGER follow_replicated;
CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.usage_sums
  FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row();
ALTER TABLE mana_ai.usage_sums ENABLE REPLICA TRIGGER mana_ai_drop_replicated;
