-- What missions read: who decrypted what, and resolvers of operators (docs/contract/inputs.md).

-- One row per attempt to decrypt a record under a grant. Append-only, with row-level security: a role that may read the
-- table sees the rows of app.current_user_id.
CREATE TABLE mana_ai.decrypt_audit (
  id           bigint      GENERATED ALWAYS AS IDENTITY,
  user_id      text COLLATE "C" NOT NULL,
  mission_id   text COLLATE "C" NOT NULL,
  iteration_id text COLLATE "C" NOT NULL,
  table_name   text COLLATE "C" NOT NULL,
  record_id    text COLLATE "C" NOT NULL,
  status       text        NOT NULL CONSTRAINT decrypt_audit_status_check
                             CHECK (status IN ('ok', 'failed', 'scope-violation')),
  reason       text,
  ts           timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (user_id, id)
);
CREATE INDEX decrypt_audit_ts ON mana_ai.decrypt_audit (ts);

ALTER TABLE mana_ai.decrypt_audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE mana_ai.decrypt_audit FORCE ROW LEVEL SECURITY;
CREATE POLICY decrypt_audit_own_rows ON mana_ai.decrypt_audit FOR SELECT
  USING (user_id = current_setting('app.current_user_id', true));

-- Only DELETE needs a row trigger. ALWAYS: also if session_replication_role is replica.
CREATE FUNCTION mana_ai.protect_decrypt_audit()
RETURNS trigger LANGUAGE c SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_protect_decrypt_audit';
COMMENT ON FUNCTION mana_ai.protect_decrypt_audit() IS
  'refuses every change of decrypt_audit but the deletion of rows older than mana_ai.audit_retention';
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON mana_ai.decrypt_audit
  FOR EACH STATEMENT EXECUTE FUNCTION mana_ai.protect_decrypt_audit();
CREATE TRIGGER keep_until_expiry BEFORE DELETE ON mana_ai.decrypt_audit
  FOR EACH ROW EXECUTE FUNCTION mana_ai.protect_decrypt_audit();
ALTER TABLE mana_ai.decrypt_audit ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE mana_ai.decrypt_audit ENABLE ALWAYS TRIGGER keep_until_expiry;

CREATE FUNCTION mana_ai.read_decrypt_audit(
  mission_id text DEFAULT NULL, max_rows int DEFAULT 200,
  OUT id bigint, OUT mission_id text, OUT iteration_id text, OUT table_name text, OUT record_id text,
  OUT status text, OUT reason text, OUT ts timestamptz)
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER ROWS 200
SET search_path = pg_catalog, pg_temp AS $$
  SELECT a.id, a.mission_id, a.iteration_id, a.table_name, a.record_id, a.status, a.reason, a.ts
    FROM mana_ai.decrypt_audit a
   WHERE a.user_id = nullif(current_setting('app.current_user_id', true), '')
     AND ($1 IS NULL OR a.mission_id = $1)
   ORDER BY a.id DESC
   LIMIT greatest(1, least(coalesce($2, 200), 1000))
$$;
COMMENT ON FUNCTION mana_ai.read_decrypt_audit(text, int) IS
  'what was decrypted for the user of app.current_user_id, newest first';

-- Operators' resolvers for modules without a built-in one. The function is named by its signature, as text: pg_upgrade
-- refuses a column of type regprocedure.
CREATE TABLE mana_ai.resolvers (
  module         text        PRIMARY KEY,
  resolver       text        NOT NULL,
  registered_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  failures       bigint      NOT NULL DEFAULT 0,
  last_failure   text,
  last_failed_at timestamptz
);
COMMENT ON TABLE mana_ai.resolvers IS
  'functions that turn references of a module into inputs; see mana_ai.register_resolver()';
COMMENT ON COLUMN mana_ai.resolvers.last_failure IS
  'SQLSTATE or reason of the last call that failed; never what the function said, which may quote users';

-- With its caller's privileges: roles that are granted these register their own functions, superusers any.
CREATE FUNCTION mana_ai.register_resolver(module text, resolver regprocedure)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_register_resolver';
COMMENT ON FUNCTION mana_ai.register_resolver(text, regprocedure) IS
  'has inputs of a module read by a function (user_id text, ref jsonb) returns jsonb {title, content}';

CREATE FUNCTION mana_ai.unregister_resolver(module text)
RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_unregister_resolver';
COMMENT ON FUNCTION mana_ai.unregister_resolver(text) IS
  'forgets the resolver of a module; its inputs are dropped from then on';

-- With the sequence: ids that restart after a restore would collide.
SELECT pg_catalog.pg_extension_config_dump('mana_ai.decrypt_audit', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.decrypt_audit_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('mana_ai.resolvers', '');
