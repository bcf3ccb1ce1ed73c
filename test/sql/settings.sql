-- Settings: defaults, refused values and their messages (interface.md, Settings).
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all
RESET mana_ai.llm_url;
-- Loads the library where it is not preloaded.
SELECT mana_ai.next_run('{"kind": "manual"}', now(), 'UTC');

SELECT name, CASE WHEN name IN ('mana_ai.llm_url', 'mana_ai.crash_limit') THEN boot_val ELSE setting END AS value, unit, vartype, min_val, max_val
  FROM pg_settings WHERE name LIKE 'mana\_ai.%' ORDER BY name COLLATE "C";
SELECT name FROM pg_settings WHERE name LIKE 'mana\_ai.%' AND context NOT IN ('superuser', 'postmaster', 'sighup');

\set VERBOSITY default
SET mana_ai.max_concurrency = 0;
SET mana_ai.max_concurrency = 2001;
SET mana_ai.max_concurrency = 2000;
SET mana_ai.max_concurrency = 'many';
SET mana_ai.tick_interval = '90s';
SHOW mana_ai.tick_interval;
SET mana_ai.llm_timeout = '1 hour';
SET mana_ai.max_unreviewed = -1;
SET mana_ai.tick_enabled = 'perhaps';
SET mana_ai.llm_url = 'ftp://example.com';
SET mana_ai.llm_url = 'example.com';
SET mana_ai.llm_url = '';
SET mana_ai.llm_url = 'https://llm.example.com:8443/base/';
SET mana_ai.llm_url = 'http://user:secret@example.com';
SET mana_ai.llm_url = E'http://example.com/\nX-Evil: 1';
SET mana_ai.planner_model = '';
SET mana_ai.planner_model = 'with space';
SET mana_ai.planner_model = 'vendor/model-1.5:latest';
SET mana_ai.planner_model = 'vendor/first, vendor/second,third';
SHOW mana_ai.planner_model;
SELECT mana_ai.planner_models();
SET mana_ai.planner_model = 'a,,b';
SET mana_ai.planner_model = ',a';
SET mana_ai.planner_model = 'a,';
SET mana_ai.planner_model = 'a b,c';
SET mana_ai.planner_model = 'ä,b';
SET mana_ai.planner_model = 'a,b,c,d,e,f,g,h';
SET mana_ai.planner_model = 'a,b,c,d,e,f,g,h,i';
SELECT mana_ai.planner_models();
RESET mana_ai.planner_model;
SET mana_ai.service_tier = 'fl ex';
SET mana_ai.service_tier = E'flex\n';
SET mana_ai.service_tier = 'flex';
SET mana_ai.service_tier = '';
SET mana_ai.prompt_cache_key = 'agent';
SET mana_ai.timezone = 'Europe/Nowhere';
SET mana_ai.timezone = 'Europe/Berlin';
SET mana_ai.timezone = '';
SET mana_ai.proxy = 'socks5://x';
SET mana_ai.proxy = 'http://proxy.example.com:3128';
SET mana_ai.runs_retention = '7d';
SHOW mana_ai.runs_retention;
SET mana_ai.api_url = 'nowhere';
SET mana_ai.research_url = 'http://research.example.com:3068/';
SET mana_ai.deep_research_enabled = 'maybe';
SET mana_ai.deep_research_timeout = '2h';
SET mana_ai.audit_retention = '90d';
SHOW mana_ai.audit_retention;
SET mana_ai.compact_model = '';
SET mana_ai.compact_max_context_tokens = -1;
SET mana_ai.policy_mode = 'strict';
SET mana_ai.policy_mode = 'enforce';
SET mana_ai.step_status = 'approved';
SET mana_ai.step_status = 'by-policy';
SET mana_ai.otlp_endpoint = 'localhost:4318';
SET mana_ai.otlp_endpoint = '';
SET mana_ai.jwt_issuers = 'a,,b';
-- With a unit; how the message names the limits depends on PostgreSQL's version.
\set VERBOSITY sqlstate
SET mana_ai.tick_interval = '0';
SET mana_ai.tick_interval = '2d';
SET mana_ai.llm_timeout = '61min';
SET mana_ai.runs_retention = '-1';
SET mana_ai.deep_research_timeout = '500ms';
SET mana_ai.resolver_timeout = '11s';
SET mana_ai.sync_table_timeout = '50ms';
\set VERBOSITY default
-- PostgreSQL 14 reserves no prefix.
DO $$
BEGIN
  PERFORM set_config('mana_ai.no_such_setting', '1', false);
  IF current_setting('server_version_num')::int >= 150000 THEN
    RAISE EXCEPTION 'an unknown setting was taken';
  END IF;
EXCEPTION WHEN invalid_name THEN
  NULL;
END $$;

-- Only superusers.
CREATE ROLE regress_mana_user;
SET ROLE regress_mana_user;
SET mana_ai.max_concurrency = 3;
\set VERBOSITY sqlstate
SHOW mana_ai.service_key_file;
SHOW mana_ai.grant_private_key_file;
\set VERBOSITY default
SHOW mana_ai.max_concurrency;
RESET ROLE;
DROP ROLE regress_mana_user;

-- By database.
SELECT format('ALTER DATABASE %I SET mana_ai.max_concurrency = 5', current_database()) AS alter_database \gset
:alter_database;
SELECT format('ALTER DATABASE %I SET mana_ai.max_concurrency = 5000', current_database()) AS alter_database \gset
:alter_database;
SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
 WHERE d.datname = current_database() AND setrole = 0 AND EXISTS (SELECT FROM unnest(setconfig) c WHERE c LIKE 'mana_ai%') \gset
SELECT 'mana_ai.max_concurrency=5' = ANY (:'setconfig'::text[]) AS kept;
SELECT format('ALTER DATABASE %I RESET mana_ai.max_concurrency', current_database()) AS alter_database \gset
:alter_database;
