-- The last step of CREATE EXTENSION. A table that is not there yet, or not what it should be, is no
-- reason to fail: pg_restore creates the extension before the tables.
DO $$
DECLARE
  why text;
BEGIN
  IF to_regclass('public.sync_changes') IS NULL THEN
    RAISE NOTICE 'mana_ai: table public.sync_changes does not exist; call mana_ai.attach() with mana-sync''s table';
    RETURN;
  END IF;
  BEGIN
    PERFORM mana_ai.attach('public.sync_changes');
  EXCEPTION WHEN invalid_object_definition OR wrong_object_type THEN
    GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
    RAISE WARNING 'mana_ai: table public.sync_changes was not attached: %', SQLERRM
      USING DETAIL = coalesce(nullif(why, ''), SQLERRM), HINT = 'Call mana_ai.attach() with mana-sync''s table.';
  END;
END $$;
