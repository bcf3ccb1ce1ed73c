-- The shape of sync_changes in a newer mana-sync: field_meta instead of field_timestamps, and origin
-- (docs/contract/data.md).
CREATE TABLE public.sync_changes (
  id               uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
  app_id           text        NOT NULL,
  table_name       text        NOT NULL,
  record_id        text        NOT NULL,
  user_id          text        NOT NULL,
  space_id         text,
  op               text        NOT NULL CHECK (op IN ('insert', 'update', 'delete')),
  data             jsonb,
  field_meta       jsonb       DEFAULT '{}',
  client_id        text        NOT NULL,
  created_at       timestamptz DEFAULT now(),
  schema_version   integer     DEFAULT 1,
  actor            jsonb,
  origin           text
);

CREATE INDEX sync_changes_user_app ON public.sync_changes (user_id, app_id, created_at);
CREATE INDEX sync_changes_record ON public.sync_changes (table_name, record_id, created_at);
CREATE INDEX sync_changes_user_app_table
  ON public.sync_changes (user_id, app_id, table_name, created_at);
CREATE INDEX sync_changes_space
  ON public.sync_changes (user_id, space_id, app_id, created_at) WHERE space_id IS NOT NULL;

ALTER TABLE public.sync_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.sync_changes FORCE ROW LEVEL SECURITY;

CREATE POLICY sync_changes_own ON public.sync_changes
  USING (user_id = current_setting('app.current_user_id', true))
  WITH CHECK (user_id = current_setting('app.current_user_id', true));
CREATE POLICY sync_changes_shared ON public.sync_changes FOR SELECT
  USING (space_id = ANY (string_to_array(
    coalesce(current_setting('app.current_user_space_ids', true), ''), ',')));
