-- Prices, the cost of replies, and models without a price.
\set ECHO none
\set here `echo "$PG_ABS_SRCDIR"`
\set setup :here '/data/regress_setup.sql'
\i :setup
\set ECHO all
SET timezone = 'UTC';

-- Prices that no amount could follow from are refused.
CREATE FUNCTION test.price_error(fields jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO mana_ai.model_prices (model, currency, input_per_million, cached_input_per_million, output_per_million)
  SELECT coalesce(fields ->> 'model', 'm'), coalesce(fields ->> 'currency', 'EUR'), (fields ->> 'input')::numeric,
         (fields ->> 'cached')::numeric, coalesce((fields ->> 'output')::numeric, 1);
  RETURN 'taken';
EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE;
END $$;
SELECT f, test.price_error(f)
  FROM unnest(ARRAY['{"input": "-1"}', '{"input": "NaN"}', '{"input": "Infinity"}', '{"input": 1, "output": "NaN"}',
                    '{"input": 1, "output": -0.1}', '{"input": 1, "cached": "NaN"}', '{"input": 1, "cached": -1}', '{}',
                    '{"input": 1, "currency": "euro"}', '{"input": 1, "currency": "€"}', '{"input": 1, "model": " "}',
                    '{"input": 0, "output": 0, "cached": 0, "model": "free/*"}']::jsonb[]) WITH ORDINALITY AS u(f, n) ORDER BY n;

-- The same name goes before patterns, the longer pattern before the shorter, the tier's own price before the common one,
-- the newer before the older.
INSERT INTO mana_ai.model_prices (model, service_tier, valid_from, currency, input_per_million, cached_input_per_million, output_per_million) VALUES
  ('google/gemini-2.5-flash', '', '-infinity', 'USD', 0.30, 0.075, 2.50),
  ('google/gemini-2.5-flash', '', '2026-06-01', 'USD', 0.20, 0.05, 2.00),
  ('google/gemini-2.5-flash', 'flex', '-infinity', 'USD', 0.15, NULL, 1.25),
  ('google/*', '', '-infinity', 'USD', 9, NULL, 9),
  ('google/gemini-*', '', '-infinity', 'USD', 5, NULL, 5),
  ('a_b', '', '-infinity', 'EUR', 1, NULL, 1),
  ('100%', '', '-infinity', 'EUR', 2, NULL, 2),
  ('late', '', '2026-01-01', 'EUR', 1, NULL, 1);
CREATE FUNCTION test.cost(model text, tier text, at timestamptz) RETURNS text LANGUAGE sql AS $$
  SELECT trim_scale(cost) || ' ' || currency FROM mana_ai.cost_of(model, tier, at, 1000000, 400000, 3000000)
$$;
SELECT v.model, v.tier, v.at, test.cost(v.model, v.tier, v.at::timestamptz)
  FROM (VALUES ('google/gemini-2.5-flash', '', '2026-05-31'), ('google/gemini-2.5-flash', '', '2026-06-01'),
               ('google/gemini-2.5-flash', 'flex', '2026-07-01'), ('google/gemini-2.5-flash', 'priority', '2026-05-01'),
               ('google/gemini-2.5-pro', '', '2026-05-01'), ('google/palm', 'flex', '2026-05-01'), ('google', '', '2026-05-01'),
               ('a_b', '', '2026-05-01'), ('axb', '', '2026-05-01'), ('100%', '', '2026-05-01'), ('100 x', '', '2026-05-01'),
               ('free/x', '', '2026-05-01'), ('late', '', '2025-12-31'), ('late', '', '2026-01-01'), ('', '', '2026-05-01')) AS v(model, tier, at);
-- Tokens that the reply does not itemize count as completion; no amount is ever below 0.
SELECT trim_scale(cost), currency FROM mana_ai.cost_of('a_b', '', now(), 0, 0, 1000000);
SELECT trim_scale(cost), currency FROM mana_ai.cost_of('a_b', '', now(), 1000000, 0, 10);
SELECT cost, currency FROM mana_ai.cost_of('a_b', '', now(), NULL, NULL, 10);
SELECT trim_scale(cost), currency FROM mana_ai.cost_of('a_b', '', now(), 20000000, 20000000, 2147483647);

-- Replies that arrived before their price was known.
INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used, ts, run_id, model, service_tier, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens)
SELECT 'u' || i % 2, nullif('a' || i % 3, 'a0'), 'm', 1000, timestamptz '2026-05-01 12:00' + i * interval '1 hour',
       ('00000000-0000-0000-0000-00000000000' || i % 4)::uuid, (ARRAY['new', 'newer', 'unknown'])[1 + i % 3], (ARRAY['', 'flex'])[1 + i % 2], 800, 300, 200, 50
  FROM generate_series(0, 23) i;
INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, ts) VALUES ('u0', 'm', 5, '2026-05-01');
SELECT mana_ai.price_usage();
INSERT INTO mana_ai.model_prices (model, service_tier, valid_from, currency, input_per_million, cached_input_per_million, output_per_million) VALUES
  ('new', '', '2026-05-01 18:00', 'EUR', 1, 0.1, 10), ('newer', 'flex', '-infinity', 'USD', 1, NULL, 10);
SELECT mana_ai.price_usage(3);
SELECT mana_ai.price_usage();
SELECT mana_ai.price_usage();
SELECT model, service_tier, currency, count(*), trim_scale(sum(cost)) AS cost, min(ts) FROM mana_ai.token_usage GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT day, user_id, agent_id, currency, trim_scale(cost) AS cost, replies, tokens, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens FROM mana_ai.agent_costs ORDER BY 1, 2, 3, 4;
SELECT day, user_id, currency, trim_scale(cost) AS cost, replies, tokens FROM mana_ai.user_costs ORDER BY 1, 2, 3;
SELECT day, model, service_tier, currency, trim_scale(cost) AS cost, replies, tokens FROM mana_ai.daily_costs ORDER BY 1, 2, 3, 4;
SELECT user_id, run_id, agent_id, currency, trim_scale(cost) AS cost, replies, models FROM mana_ai.run_costs ORDER BY 1, 2, 3, 4;
-- Days are those of mana_ai.timezone.
SET mana_ai.timezone = 'Pacific/Auckland';
SELECT day, sum(replies) FROM mana_ai.user_costs GROUP BY 1 ORDER BY 1;
RESET mana_ai.timezone;
-- A wrong price is corrected.
UPDATE mana_ai.model_prices SET output_per_million = 20 WHERE model = 'new';
SELECT mana_ai.price_usage();
SELECT mana_ai.reprice_usage('2026-05-02');
SELECT mana_ai.reprice_usage('-infinity');
SELECT mana_ai.reprice_usage('-infinity');
SELECT trim_scale(sum(cost)) FROM mana_ai.token_usage WHERE model = 'new';
DELETE FROM mana_ai.model_prices WHERE model = 'newer';
SELECT mana_ai.reprice_usage('-infinity');
SELECT count(*) FROM mana_ai.token_usage WHERE model = 'newer' AND cost IS NULL AND currency IS NULL;

-- Roles that may see runs may see their costs; prices belong to operators.
CREATE ROLE regress_mana_money;
SET ROLE regress_mana_money;
SELECT count(*) FROM mana_ai.user_costs;
RESET ROLE;
GRANT pg_monitor TO regress_mana_money;
SET ROLE regress_mana_money;
SELECT count(*) > 0 AS visible FROM mana_ai.run_costs;
SELECT count(*) > 0 AS visible FROM mana_ai.agent_costs;
SELECT count(*) > 0 AS visible FROM mana_ai.user_costs;
SELECT count(*) > 0 AS visible FROM mana_ai.daily_costs;
SELECT count(*) FROM mana_ai.model_prices;
SELECT count(*) FROM mana_ai.token_usage;
SELECT mana_ai.price_usage();
SELECT mana_ai.reprice_usage('-infinity');
RESET ROLE;
DROP ROLE regress_mana_money;
