-- Waking on data (docs/contract/data.md). A mission that is to be planned when its inputs change: the changes since its last
-- plan, and when it is woken for them; null = there are none. woken: when that was done in the last hour.
CREATE TABLE mana_ai.input_watches (
  user_id         text COLLATE "C" NOT NULL,
  mission_id      text COLLATE "C" NOT NULL,
  debounce        interval    NOT NULL,
  min_interval    interval    NOT NULL,
  planned_at      timestamptz,
  changed_at      timestamptz,
  last_changed_at timestamptz,
  wake_at         timestamptz,
  woken           timestamptz[] NOT NULL DEFAULT '{}',
  PRIMARY KEY (user_id, mission_id)
);
CREATE INDEX input_watches_wake_at ON mana_ai.input_watches (wake_at) WHERE wake_at IS NOT NULL;

-- The records that these missions wait for. A row's hash is in the filter of shared memory before it is committed.
CREATE TABLE mana_ai.watched_records (
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  mission_id text COLLATE "C" NOT NULL,
  PRIMARY KEY (user_id, table_name, record_id, mission_id)
) USING heap;
CREATE INDEX watched_records_of_mission ON mana_ai.watched_records (user_id, mission_id);

-- Changes of such records, written by the trigger in the transaction of the change, until the worker has taken them; of
-- missions: they may have other inputs now. Empty ids of the record: a transaction has changed very many of the user.
CREATE TABLE mana_ai.input_changes (
  user_id    text COLLATE "C" NOT NULL,
  table_name text COLLATE "C" NOT NULL,
  record_id  text COLLATE "C" NOT NULL,
  id         uuid PRIMARY KEY DEFAULT gen_random_uuid()
) USING heap;
CREATE INDEX input_changes_of_user ON mana_ai.input_changes (user_id, table_name, record_id);

-- Made on each server (see mana_ai.drop_replicated_row()).
DO $$
DECLARE
  made_here text;
BEGIN
  FOREACH made_here IN ARRAY ARRAY['input_watches', 'watched_records', 'input_changes'] LOOP
    EXECUTE format('CREATE TRIGGER mana_ai_drop_replicated BEFORE INSERT OR UPDATE OR DELETE ON mana_ai.%I'
                   ' FOR EACH ROW EXECUTE FUNCTION mana_ai.drop_replicated_row()', made_here);
    EXECUTE format('ALTER TABLE mana_ai.%I ENABLE REPLICA TRIGGER mana_ai_drop_replicated', made_here);
  END LOOP;
END $$;

-- For why(): what a mission that its inputs wake waits for; null = it is not one.
CREATE FUNCTION mana_ai.waits_for_change(user_id text, mission_id text)
RETURNS text LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN w.wake_at IS NULL THEN 'waits for a change of its inputs'
              ELSE format('an input was changed at %s; woken for that at %s', w.last_changed_at, w.wake_at) END
    FROM mana_ai.input_watches w WHERE w.user_id = $1 AND w.mission_id = $2
$$;
