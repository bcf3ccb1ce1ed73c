-- mana-sync's table (sync_changes.sql), partitioned by time.
CREATE TABLE public.sync_changes (
  id               uuid        NOT NULL DEFAULT gen_random_uuid(),
  app_id           text        NOT NULL,
  table_name       text        NOT NULL,
  record_id        text        NOT NULL,
  user_id          text        NOT NULL,
  space_id         text,
  op               text        NOT NULL CHECK (op IN ('insert', 'update', 'delete')),
  data             jsonb,
  field_timestamps jsonb       DEFAULT '{}',
  client_id        text        NOT NULL,
  created_at       timestamptz DEFAULT now(),
  schema_version   integer     DEFAULT 1,
  actor            jsonb
) PARTITION BY RANGE (created_at);

CREATE TABLE public.changes_old PARTITION OF public.sync_changes FOR VALUES FROM (MINVALUE) TO ('2021-01-01');
CREATE TABLE public.changes_2021 PARTITION OF public.sync_changes FOR VALUES FROM ('2021-01-01') TO ('2021-07-01');
-- Its columns are in another order, and one was dropped.
CREATE TABLE public.changes_now (
  data jsonb, created_at timestamptz DEFAULT now(), gone text, user_id text NOT NULL, actor jsonb,
  schema_version integer DEFAULT 1, id uuid NOT NULL DEFAULT gen_random_uuid(), op text NOT NULL, space_id text,
  field_timestamps jsonb DEFAULT '{}', client_id text NOT NULL, record_id text NOT NULL, app_id text NOT NULL,
  table_name text NOT NULL, CONSTRAINT sync_changes_op_check CHECK (op IN ('insert', 'update', 'delete')));
ALTER TABLE public.changes_now DROP COLUMN gone;
ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_now FOR VALUES FROM ('2021-07-01') TO (MAXVALUE);

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
