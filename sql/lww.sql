-- Last-writer-wins over mana-sync's table (docs/contract/data.md).

-- Neither SECURITY DEFINER nor SET: its body works below SQL, so the caller's privileges and settings do not matter, and
-- both would cost time for every row of every app.
CREATE FUNCTION mana_ai.fold_sync_change()
RETURNS trigger LANGUAGE c
AS 'MODULE_PATHNAME', 'mana_ai_fold_sync_change';
COMMENT ON FUNCTION mana_ai.fold_sync_change() IS
  'folds a new row of sync_changes into its snapshot; never makes the insert fail';

-- Reads with the privileges of its caller: row-level security decides what it sees.
CREATE FUNCTION mana_ai.replay(user_id text, app_id text, table_name text, record_id text)
RETURNS jsonb LANGUAGE c STABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_replay';
COMMENT ON FUNCTION mana_ai.replay(text, text, text, text) IS
  'last-writer-wins replay of one record; null when there is none or it is deleted';

CREATE FUNCTION mana_ai.newest_clock(record jsonb, clocks bytea, fields text[])
RETURNS timestamptz LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mana_ai_newest_clock';

CREATE FUNCTION mana_ai.refresh_snapshots(
  OUT new_snapshots int, OUT updated_snapshots int, OUT rows_applied bigint)
RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin
AS 'MODULE_PATHNAME', 'mana_ai_refresh_snapshots';
COMMENT ON FUNCTION mana_ai.refresh_snapshots() IS
  'adds what the log says to the snapshots and repairs dirty records; takes nothing away';

-- A separate function, so that the privilege to refresh does not include forgetting.
CREATE FUNCTION mana_ai.refresh_snapshots(
  rebuild boolean, OUT new_snapshots int, OUT updated_snapshots int, OUT rows_applied bigint)
RETURNS record LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin
AS 'MODULE_PATHNAME', 'mana_ai_refresh_snapshots';
COMMENT ON FUNCTION mana_ai.refresh_snapshots(boolean) IS
  'with true: makes all snapshots anew from the log, and forgets what the log does not say any more';

-- SECURITY DEFINER here and in detach() and refresh_snapshots(): a fold has to see every row, whatever policies apply to
-- the caller. As origin, since a session with session_replication_role = replica cannot change these tables. Only
-- superusers may call them, unless they are granted.
CREATE FUNCTION mana_ai.attach(sync_table regclass)
RETURNS void LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin
AS 'MODULE_PATHNAME', 'mana_ai_attach';
COMMENT ON FUNCTION mana_ai.attach(regclass) IS
  'folds the history of mana-sync''s table and puts the trigger on it';

CREATE FUNCTION mana_ai.detach()
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = origin
AS 'MODULE_PATHNAME', 'mana_ai_detach';
COMMENT ON FUNCTION mana_ai.detach() IS 'takes the trigger off again; snapshots stay as they are';

-- Changes that wait for a new fold of the log, since they could not even be marked; null if the library is not preloaded.
CREATE FUNCTION mana_ai.unmarked_changes()
RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mana_ai_unmarked_changes';

CREATE FUNCTION mana_ai.attached_table()
RETURNS regclass LANGUAGE c STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_attached_table';
COMMENT ON FUNCTION mana_ai.attached_table() IS 'the table that carries the trigger';
