-- No privileges for PUBLIC; pg_monitor may monitor (docs/contract/interface.md).
REVOKE ALL ON SCHEMA mana_ai FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA mana_ai FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA mana_ai FROM PUBLIC;

GRANT USAGE ON SCHEMA mana_ai TO pg_monitor;
GRANT EXECUTE ON FUNCTION mana_ai.status(), mana_ai.services() TO pg_monitor;
GRANT EXECUTE ON FUNCTION mana_ai.metrics(), mana_ai.metric_samples() TO pg_monitor;
GRANT SELECT ON mana_ai.metrics TO pg_monitor;
GRANT SELECT ON mana_ai.runs, mana_ai.stops TO pg_monitor;
GRANT SELECT ON mana_ai.run_costs, mana_ai.agent_costs, mana_ai.user_costs, mana_ai.daily_costs TO pg_monitor;
GRANT SELECT ON mana_ai.evaluation_report TO pg_monitor;
