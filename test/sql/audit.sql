-- The audit of decryptions: each user's own, append-only, kept as long as mana_ai.audit_retention says
-- (inputs.md, Mission key grant; interface.md).
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all

INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status, reason)
SELECT u, m, 'i1', 'notes', u || '-' || m || '-' || r, s, x
  FROM (VALUES ('u1'), ('u2')) AS users(u), (VALUES ('m1'), ('m2')) AS missions(m),
       (VALUES (1, 'ok', NULL), (2, 'failed', 'ciphertext-malformed'),
               (3, 'scope-violation', 'record-not-in-grant-allowlist')) AS records(r, s, x)
 ORDER BY u, m, r;
\set VERBOSITY terse
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status)
VALUES ('u1', 'm1', 'i1', 'notes', 'n', 'maybe');
\set VERBOSITY default

-- A role with the right to read the table, and one with the right to call the function: no other.
CREATE ROLE regress_mana_reader;
GRANT USAGE ON SCHEMA mana_ai TO regress_mana_reader;
GRANT SELECT ON mana_ai.decrypt_audit TO regress_mana_reader;
CREATE ROLE regress_mana_caller;
GRANT USAGE ON SCHEMA mana_ai TO regress_mana_caller;
GRANT EXECUTE ON FUNCTION mana_ai.read_decrypt_audit(text, int) TO regress_mana_caller;

-- The table shows a user's own rows only, and none without a user.
SET ROLE regress_mana_reader;
SELECT count(*) FROM mana_ai.decrypt_audit;
SET app.current_user_id = '';
SELECT count(*) FROM mana_ai.decrypt_audit;
SET app.current_user_id = 'u2';
SELECT user_id, count(*) FROM mana_ai.decrypt_audit GROUP BY 1;
SELECT count(*) FROM mana_ai.decrypt_audit WHERE user_id = 'u1';
SELECT * FROM mana_ai.read_decrypt_audit();
SET row_security = off;
SELECT count(*) FROM mana_ai.decrypt_audit;
RESET row_security;
RESET app.current_user_id;

-- The function: the same, newest first.
SET ROLE regress_mana_caller;
SELECT count(*) FROM mana_ai.read_decrypt_audit();
SET app.current_user_id = '';
SELECT count(*) FROM mana_ai.read_decrypt_audit();
SET app.current_user_id = 'u3';
SELECT count(*) FROM mana_ai.read_decrypt_audit();
SET app.current_user_id = 'u1';
SELECT id, mission_id, iteration_id, table_name, record_id, status, reason, ts <= now() AS ts
  FROM mana_ai.read_decrypt_audit();
SELECT id, record_id FROM mana_ai.read_decrypt_audit('m2', 2);
SELECT count(*) FROM mana_ai.read_decrypt_audit(mission_id => 'm3');
SELECT count(*) FROM mana_ai.decrypt_audit;
RESET ROLE;

-- From 1 to 1000 rows, by default 200.
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status)
SELECT 'u1', 'many', 'i', 'notes', n, 'ok' FROM generate_series(1, 1100) n;
SET ROLE regress_mana_caller;
SELECT max_rows, (SELECT count(*) FROM mana_ai.read_decrypt_audit(NULL, max_rows)),
       (SELECT max(id) - min(id) + 1 FROM mana_ai.read_decrypt_audit(NULL, max_rows)) AS newest
  FROM unnest(ARRAY[NULL, -2147483648, 0, 1, 250, 1000, 1001, 2147483647]) AS max_rows;
SELECT count(*) FROM mana_ai.read_decrypt_audit();
RESET ROLE;
RESET app.current_user_id;

-- Append-only for every role.
SELECT test.error_of('UPDATE mana_ai.decrypt_audit SET status = ''ok''');
SELECT test.error_of('UPDATE mana_ai.decrypt_audit SET reason = NULL WHERE false');
SELECT test.error_of('INSERT INTO mana_ai.decrypt_audit AS a (id, user_id, mission_id, iteration_id, table_name, record_id, status)
  OVERRIDING SYSTEM VALUE VALUES (1, ''u1'', ''m1'', ''i1'', ''notes'', ''n'', ''ok'') ON CONFLICT (user_id, id) DO UPDATE SET status = ''ok''');
SELECT test.error_of('TRUNCATE mana_ai.decrypt_audit');
SELECT test.error_of('DELETE FROM mana_ai.decrypt_audit WHERE id = 1');
SET session_replication_role = replica;
SELECT test.error_of('DELETE FROM mana_ai.decrypt_audit WHERE id = 1');
RESET session_replication_role;
SELECT test.error_of('DROP TABLE mana_ai.decrypt_audit');
GRANT ALL ON mana_ai.decrypt_audit TO regress_mana_reader;
GRANT USAGE ON SCHEMA test TO regress_mana_reader;
SET ROLE regress_mana_reader;
SET app.current_user_id = 'u1';
SELECT test.error_of('UPDATE mana_ai.decrypt_audit SET status = ''ok''');
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status)
VALUES ('u1', 'm1', 'i1', 'notes', 'forged', 'ok');
RESET ROLE;
RESET app.current_user_id;
SELECT count(*) FROM mana_ai.decrypt_audit;

-- Retention: older rows may be deleted, manually and by the tick.
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status, ts)
SELECT 'u1', 'old', 'i', 'notes', n, 'ok', now() - n * interval '1 day' FROM generate_series(1, 10) n;
SELECT test.error_of('DELETE FROM mana_ai.decrypt_audit WHERE mission_id = ''old''');
SET mana_ai.audit_retention = '228h';
SELECT test.error_of('DELETE FROM mana_ai.decrypt_audit WHERE mission_id = ''old''');
DELETE FROM mana_ai.decrypt_audit WHERE mission_id = 'old' AND record_id = '10';
RESET mana_ai.audit_retention;
SELECT record_id FROM mana_ai.decrypt_audit WHERE mission_id = 'old' ORDER BY id;
ALTER DATABASE :"DBNAME" SET mana_ai.audit_retention = '5d';
SELECT errors FROM mana_ai.run_tick();
ALTER DATABASE :"DBNAME" RESET mana_ai.audit_retention;
SELECT record_id FROM mana_ai.decrypt_audit WHERE mission_id = 'old' ORDER BY id;

-- A restore copies rows in as they were; the sequence is dumped too, so that new ones come after them.
COPY mana_ai.decrypt_audit (id, user_id, mission_id, iteration_id, table_name, record_id, status, reason, ts) FROM stdin;
5000	u9	m1	i1	notes	restored	ok	\N	2020-01-01 00:00:00+00
\.
SELECT id, ts AT TIME ZONE 'UTC' FROM mana_ai.decrypt_audit WHERE user_id = 'u9';
SELECT c.oid::regclass FROM pg_extension e, unnest(extconfig) c(oid)
 WHERE extname = 'mana_ai' AND c.oid::regclass::text LIKE 'mana_ai.decrypt_audit%' ORDER BY 1;

DROP OWNED BY regress_mana_reader, regress_mana_caller;
DROP ROLE regress_mana_reader, regress_mana_caller;
DROP EXTENSION mana_ai;
