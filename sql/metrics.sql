-- Metrics (docs/contract/interface.md, Metrics). SECURITY DEFINER: some gauges are looked up in tables that monitoring
-- roles may not read.
CREATE FUNCTION mana_ai.metrics()
RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_metrics_text';
COMMENT ON FUNCTION mana_ai.metrics() IS 'all metrics in Prometheus'' text format, version 0.0.4';

CREATE FUNCTION mana_ai.metric_samples(OUT name text, OUT labels jsonb, OUT value float8)
RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 300
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mana_ai_metric_samples';
COMMENT ON FUNCTION mana_ai.metric_samples() IS 'what the view mana_ai.metrics shows';

CREATE VIEW mana_ai.metrics AS SELECT s.name, s.labels, s.value FROM mana_ai.metric_samples() s;
COMMENT ON VIEW mana_ai.metrics IS 'all metrics as rows: the same numbers as mana_ai.metrics() returns';
