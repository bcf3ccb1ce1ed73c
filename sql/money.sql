-- What replies cost (docs/operations.md, "What it costs").

-- Filled by operators. A name may contain "*", which matches any characters; a name without it takes precedence, then the
-- longest pattern. service_tier '' applies to every tier without its own price.
CREATE TABLE mana_ai.model_prices (
  model                    text COLLATE "C" NOT NULL CHECK (btrim(model) <> ''),
  service_tier             text COLLATE "C" NOT NULL DEFAULT '',
  valid_from               timestamptz NOT NULL DEFAULT '-infinity',
  currency                 text COLLATE "C" NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  -- NaN and infinity are larger than every number.
  input_per_million        numeric NOT NULL CHECK (input_per_million >= 0 AND input_per_million <= 1000000),
  cached_input_per_million numeric CHECK (cached_input_per_million >= 0 AND cached_input_per_million <= 1000000),
  output_per_million       numeric NOT NULL CHECK (output_per_million >= 0 AND output_per_million <= 1000000),
  note                     text,
  per_call                 numeric CHECK (per_call >= 0 AND per_call <= 1000000),
  pattern                  text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
    replace(replace(replace(replace(model, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')) STORED,
  PRIMARY KEY (model, service_tier, valid_from)
);
COMMENT ON TABLE mana_ai.model_prices IS 'what models cost per million tokens; for operators to fill';
COMMENT ON COLUMN mana_ai.model_prices.cached_input_per_million IS 'null: as other input';
COMMENT ON COLUMN mana_ai.model_prices.per_call IS 'in addition to its tokens; the cost of research, under the names web-research and deep-research';
SELECT pg_catalog.pg_extension_config_dump('mana_ai.model_prices', '');

-- What a reply costs at the price of its time; null without one. Tokens that a reply does not attribute count as output.
CREATE FUNCTION mana_ai.cost_of(
  model text, service_tier text, at timestamptz, prompt_tokens bigint, cached_tokens bigint, total_tokens bigint,
  OUT cost numeric, OUT currency text)
RETURNS record LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  SELECT ((cost_of.prompt_tokens - cost_of.cached_tokens) * p.input_per_million
          + cost_of.cached_tokens * coalesce(p.cached_input_per_million, p.input_per_million)
          + greatest(cost_of.total_tokens - cost_of.prompt_tokens, 0) * p.output_per_million) * 0.000001
         + coalesce(p.per_call, 0),
         p.currency
    INTO cost_of.cost, cost_of.currency
    FROM mana_ai.model_prices p
   WHERE p.valid_from <= cost_of.at AND p.service_tier IN ('', cost_of.service_tier)
     AND cost_of.model LIKE p.pattern AND (cost_of.model NOT IN ('web-research', 'deep-research') OR p.per_call IS NOT NULL)
   ORDER BY p.model = cost_of.model DESC, length(p.model) DESC, p.model, p.service_tier = '', p.valid_from DESC
   LIMIT 1;
  IF cost_of.cost IS NULL THEN
    cost_of.currency := NULL;
  END IF;
END $$;
COMMENT ON FUNCTION mana_ai.cost_of(text, text, timestamptz, bigint, bigint, bigint) IS
  'what a reply of that many tokens costs by mana_ai.model_prices; null without a price';

-- Prices replies that arrived before their price was known: of the models after this one, in the order of their names
-- (null: from the first one), limited in models and replies. Each waiting model is looked up once, so that those without
-- a price cost almost nothing. A caller that continues with last_model and last_tier, which are null at the end, reaches
-- every model, however many names without a price there are.
CREATE FUNCTION mana_ai.price_usage_after(
  after_model text, after_tier text, max_names int, max_rows int,
  OUT priced bigint, OUT last_model text, OUT last_tier text)
RETURNS record LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  priced_since timestamptz;
  done         bigint;
  model_before text;
  tier_before  text;
BEGIN
  priced := 0;
  IF NOT EXISTS (SELECT FROM mana_ai.model_prices) THEN
    RETURN;
  END IF;
  last_model := after_model;
  last_tier := after_tier;
  FOR n IN 1 .. max_names LOOP
    model_before := last_model;
    tier_before := last_tier;
    IF last_model IS NULL THEN
      SELECT u.model, u.service_tier INTO last_model, last_tier FROM mana_ai.token_usage u
       WHERE u.cost IS NULL AND u.prompt_tokens IS NOT NULL
       ORDER BY u.model, u.service_tier LIMIT 1;
    ELSE
      SELECT u.model, u.service_tier INTO last_model, last_tier FROM mana_ai.token_usage u
       WHERE u.cost IS NULL AND u.prompt_tokens IS NOT NULL AND (u.model, u.service_tier) > (last_model, last_tier)
       ORDER BY u.model, u.service_tier LIMIT 1;
    END IF;
    EXIT WHEN last_model IS NULL;
    SELECT min(p.valid_from) INTO priced_since FROM mana_ai.model_prices p
     WHERE p.service_tier IN ('', last_tier) AND last_model LIKE p.pattern
       AND (last_model NOT IN ('web-research', 'deep-research') OR p.per_call IS NOT NULL);
    CONTINUE WHEN priced_since IS NULL;
    UPDATE mana_ai.token_usage u SET cost = c.cost, currency = c.currency
      FROM (SELECT w.id, k.cost, k.currency
              FROM (SELECT * FROM mana_ai.token_usage x
                     WHERE x.cost IS NULL AND x.prompt_tokens IS NOT NULL
                       AND x.model = last_model AND x.service_tier = last_tier AND x.ts >= priced_since
                     ORDER BY x.ts LIMIT max_rows - priced FOR UPDATE SKIP LOCKED) w
             CROSS JOIN LATERAL mana_ai.cost_of(w.model, w.service_tier, w.ts, w.prompt_tokens, w.cached_tokens,
                                                w.tokens_used) k) c
     WHERE u.id = c.id AND c.cost IS NOT NULL;
    GET DIAGNOSTICS done = ROW_COUNT;
    priced := priced + done;
    -- More of this name may be left.
    IF priced >= max_rows THEN
      last_model := model_before;
      last_tier := tier_before;
      EXIT;
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION mana_ai.price_usage_after(text, text, int, int) IS
  'prices replies of the models after this one; for housekeeping, which goes on where it has stopped';

CREATE FUNCTION mana_ai.price_usage(max_rows int DEFAULT 2000)
RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT p.priced FROM mana_ai.price_usage_after(NULL, NULL, 2147483647, max_rows) p
$$;
COMMENT ON FUNCTION mana_ai.price_usage(int) IS
  'prices replies that came before their price was known; returns how many';

-- After a price was corrected.
CREATE FUNCTION mana_ai.reprice_usage(since timestamptz)
RETURNS bigint LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  priced bigint;
BEGIN
  UPDATE mana_ai.token_usage u SET cost = c.cost, currency = c.currency
    FROM (SELECT w.id, k.cost, k.currency
            FROM mana_ai.token_usage w
           CROSS JOIN LATERAL mana_ai.cost_of(w.model, w.service_tier, w.ts, w.prompt_tokens, w.cached_tokens,
                                              w.tokens_used) k
           WHERE w.ts >= reprice_usage.since AND w.prompt_tokens IS NOT NULL) c
   WHERE u.id = c.id AND (u.cost, u.currency) IS DISTINCT FROM (c.cost, c.currency);
  GET DIAGNOSTICS priced = ROW_COUNT;
  RETURN priced;
END $$;
COMMENT ON FUNCTION mana_ai.reprice_usage(timestamptz) IS
  'prices anew what replies since then have cost; returns how many have another cost now';

-- Operators' options for single agents.
CREATE TABLE mana_ai.agent_options (
  user_id      text COLLATE "C" NOT NULL,
  agent_id     text COLLATE "C" NOT NULL,
  -- Instead of mana_ai.service_tier: '' is the standard tier, null as is set for all.
  service_tier text COLLATE "C" CHECK (service_tier ~ '^[!-~]{0,40}$'),
  note         text,
  wake_on_change boolean,  -- instead of mana_ai.wake_on_change; null as is set for all
  PRIMARY KEY (user_id, agent_id)
);
COMMENT ON TABLE mana_ai.agent_options IS 'what operators want of single agents';
SELECT pg_catalog.pg_extension_config_dump('mana_ai.agent_options', '');

-- Budgets in money, in addition to those in tokens: of all together (user_id ''), of every user ('*'), of one user, of one
-- of a user's agents or missions.
CREATE TABLE mana_ai.cost_budgets (
  user_id      text COLLATE "C" NOT NULL DEFAULT '',
  agent_id     text COLLATE "C" NOT NULL DEFAULT '',
  mission_id   text COLLATE "C" NOT NULL DEFAULT '',
  cost_per_day numeric NOT NULL CHECK (cost_per_day >= 0 AND cost_per_day <= 1000000000),
  currency     text COLLATE "C" NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  note         text,
  PRIMARY KEY (user_id, agent_id, mission_id),
  CHECK ((agent_id = '' AND mission_id = '') OR user_id NOT IN ('', '*')),
  CHECK (agent_id = '' OR mission_id = '')
);
COMMENT ON TABLE mana_ai.cost_budgets IS
  'what may be spent in a day; user_id '''' is all together, ''*'' every user; for operators to fill';
SELECT pg_catalog.pg_extension_config_dump('mana_ai.cost_budgets', '');

-- The budgets in money that apply to a call of this user, agent and mission. Only costs in the budget's currency count;
-- usage without a price is reported. What operators ask of past runs counts in that of all together.
-- tokens_left: the tokens that the rest pays for at the highest price that the next call
-- may have, and that call's own price; null if no price of tokens is known and money is left. reserved_tokens: what calls in
-- flight may use, their own prices as tokens (call_tokens each). cost_left: the money that is neither used nor reserved.
CREATE FUNCTION mana_ai.cost_budgets_of(
  user_id text, agent_id text, but_run uuid DEFAULT NULL, mission_id text DEFAULT '',
  OUT scope text, OUT cost_per_day numeric, OUT currency text, OUT used numeric, OUT unpriced_tokens bigint,
  OUT reserved_tokens bigint, OUT tokens_left bigint, OUT cost_left numeric, OUT call_tokens bigint)
RETURNS SETOF record LANGUAGE plpgsql STABLE ROWS 4
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  since timestamptz := clock_timestamp() - interval '24 hours';
  b     record;
  calls bigint;
  price numeric;
  call_price numeric;
BEGIN
  FOR b IN
    SELECT 'agent' AS scope, c.* FROM mana_ai.cost_budgets c
     WHERE c.user_id = cost_budgets_of.user_id AND c.agent_id = cost_budgets_of.agent_id AND c.agent_id <> ''
    UNION ALL
    SELECT 'mission', c.* FROM mana_ai.cost_budgets c
     WHERE c.user_id = cost_budgets_of.user_id AND c.agent_id = '' AND c.mission_id = cost_budgets_of.mission_id
       AND c.mission_id <> ''
    UNION ALL
    (SELECT 'user', c.* FROM mana_ai.cost_budgets c
      WHERE c.user_id IN (cost_budgets_of.user_id, '*') AND c.user_id <> '' AND c.agent_id = '' AND c.mission_id = ''
      ORDER BY c.user_id = '*' LIMIT 1)
    UNION ALL
    SELECT 'total', c.* FROM mana_ai.cost_budgets c WHERE c.user_id = '' AND c.agent_id = '' AND c.mission_id = ''
  LOOP
    scope := b.scope;
    cost_per_day := b.cost_per_day;
    currency := b.currency;
    IF b.scope = 'total' THEN
      SELECT coalesce(sum(u.cost) FILTER (WHERE u.currency = b.currency), 0),
             coalesce(sum(u.tokens) FILTER (WHERE u.currency <> b.currency), 0)
        INTO used, unpriced_tokens FROM mana_ai.usage_of_all(since) u;
      SELECT coalesce(sum(r.reserved_tokens), 0), count(*) FILTER (WHERE r.reserved_tokens > 0)
        INTO reserved_tokens, calls
        FROM (SELECT x.run_id, x.reserved_tokens FROM mana_ai.runs x WHERE x.outcome = 'running'
              UNION ALL
              SELECT w.what_if_id, w.reserved_tokens FROM mana_ai.what_if_running w) r
       WHERE r.run_id IS DISTINCT FROM but_run;
    ELSE
      SELECT coalesce(sum(u.cost) FILTER (WHERE u.currency = b.currency), 0),
             coalesce(sum(u.tokens_used) FILTER (WHERE u.currency IS DISTINCT FROM b.currency), 0)
        INTO used, unpriced_tokens FROM mana_ai.token_usage u
       WHERE u.user_id = cost_budgets_of.user_id AND u.ts > since
         AND u.purpose <> 'what_if'
         AND CASE b.scope WHEN 'agent' THEN u.agent_id = cost_budgets_of.agent_id
                          WHEN 'mission' THEN u.mission_id = cost_budgets_of.mission_id ELSE true END;
      SELECT coalesce(sum(r.reserved_tokens), 0), count(*) FILTER (WHERE r.reserved_tokens > 0)
        INTO reserved_tokens, calls FROM mana_ai.runs r
       WHERE r.user_id = cost_budgets_of.user_id AND r.outcome = 'running' AND r.run_id IS DISTINCT FROM but_run
         AND CASE b.scope WHEN 'agent' THEN r.agent_id = cost_budgets_of.agent_id
                          WHEN 'mission' THEN r.mission_id = cost_budgets_of.mission_id ELSE true END;
    END IF;
    -- The requested name may have no price because another model answers: then the last one that answered.
    SELECT nullif(max((p.cost - c.cost) / 1000000), 0), coalesce(max(c.cost), 0) INTO price, call_price
      FROM (SELECT m.name FROM unnest(mana_ai.planner_models()) AS m(name)
            UNION
            SELECT current_setting('mana_ai.compact_model')
            UNION
            SELECT w.model FROM mana_ai.what_if_running w WHERE b.scope = 'total'
            UNION
            SELECT u.model FROM (SELECT x.model FROM mana_ai.token_usage x WHERE x.model NOT IN ('web-research', 'deep-research')
                                    AND x.purpose <> 'what_if'
                                  ORDER BY x.ts DESC LIMIT 1) u) m(name)
     CROSS JOIN (SELECT ''
                 UNION
                 SELECT current_setting('mana_ai.service_tier')
                 UNION
                 SELECT w.service_tier FROM mana_ai.what_if_running w WHERE b.scope = 'total'
                 UNION
                 SELECT o.service_tier FROM mana_ai.agent_options o
                  WHERE o.user_id = cost_budgets_of.user_id AND o.service_tier IS NOT NULL) AS s(tier)
     CROSS JOIN LATERAL (SELECT k.cost FROM mana_ai.cost_of(m.name, s.tier, clock_timestamp(), 0, 0, 0) k
                          WHERE k.currency = b.currency) c
     CROSS JOIN LATERAL (VALUES (1000000, 1000000), (0, 1000000)) AS t(prompt, total)
     CROSS JOIN LATERAL mana_ai.cost_of(m.name, s.tier, clock_timestamp(), t.prompt, 0, t.total) p;
    cost_left := cost_per_day - used - reserved_tokens * coalesce(price, 0) - calls * call_price;
    call_tokens := CASE WHEN price > 0 THEN least(ceil(call_price / price), 1000000000000) ELSE 0 END;
    IF price IS NULL AND call_price > 0 THEN
      -- Only calls have a price. Each counts as so many tokens that its own do not matter.
      call_tokens := 1000000000000;
      price := call_price / call_tokens;
    END IF;
    reserved_tokens := reserved_tokens + calls * call_tokens;
    tokens_left := CASE WHEN used >= cost_per_day OR used + call_price > cost_per_day THEN 0
                        WHEN call_tokens = 1000000000000
                        THEN (least(floor((cost_per_day - used) / call_price), 1000000) - 1) * call_tokens + 1000000000
                        WHEN price > 0 THEN floor(least(greatest((cost_per_day - used - call_price) / price, 0), 9000000000000000000)) END;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION mana_ai.cost_budgets_of(text, text, uuid, text) IS
  'the budgets in money that hold for a call of this user, agent and mission, and what is left of them';

-- One row for each currency, and one with null cost and currency for usage without a price.
CREATE VIEW mana_ai.run_costs AS
SELECT u.user_id, u.mission_id, u.agent_id, u.run_id, u.currency, sum(u.cost) AS cost, count(*) AS replies,
       sum(u.tokens_used)::bigint AS tokens, sum(u.prompt_tokens)::bigint AS prompt_tokens,
       sum(u.cached_tokens)::bigint AS cached_tokens, sum(u.completion_tokens)::bigint AS completion_tokens,
       sum(u.reasoning_tokens)::bigint AS reasoning_tokens, array_agg(DISTINCT u.model ORDER BY u.model) AS models
  FROM mana_ai.token_usage u
 WHERE u.run_id IS NOT NULL AND u.purpose <> 'what_if'
 GROUP BY u.user_id, u.mission_id, u.agent_id, u.run_id, u.currency;
COMMENT ON VIEW mana_ai.run_costs IS
  'what each run has cost; a row without currency is what has no price';

CREATE VIEW mana_ai.agent_costs AS
SELECT (u.ts AT TIME ZONE coalesce(nullif(current_setting('mana_ai.timezone', true), ''),
                                    current_setting('TimeZone')))::date AS day,
       u.user_id, u.agent_id, u.currency, sum(u.cost) AS cost, count(*) AS replies,
       sum(u.tokens_used)::bigint AS tokens, sum(u.prompt_tokens)::bigint AS prompt_tokens,
       sum(u.cached_tokens)::bigint AS cached_tokens, sum(u.completion_tokens)::bigint AS completion_tokens,
       sum(u.reasoning_tokens)::bigint AS reasoning_tokens
  FROM mana_ai.token_usage u
 WHERE u.purpose <> 'what_if'
 GROUP BY 1, u.user_id, u.agent_id, u.currency;
COMMENT ON VIEW mana_ai.agent_costs IS
  'what agents have cost by day; a row without currency is what has no price';

CREATE VIEW mana_ai.user_costs AS
SELECT c.day, c.user_id, c.currency, sum(c.cost) AS cost, sum(c.replies)::bigint AS replies,
       sum(c.tokens)::bigint AS tokens, sum(c.prompt_tokens)::bigint AS prompt_tokens,
       sum(c.cached_tokens)::bigint AS cached_tokens, sum(c.completion_tokens)::bigint AS completion_tokens,
       sum(c.reasoning_tokens)::bigint AS reasoning_tokens
  FROM mana_ai.agent_costs c
 GROUP BY c.day, c.user_id, c.currency;
COMMENT ON VIEW mana_ai.user_costs IS
  'what users have cost by day; a row without currency is what has no price';

CREATE VIEW mana_ai.daily_costs AS
SELECT (u.ts AT TIME ZONE coalesce(nullif(current_setting('mana_ai.timezone', true), ''),
                                    current_setting('TimeZone')))::date AS day,
       u.model, u.service_tier, u.currency, sum(u.cost) AS cost, count(*) AS replies,
       sum(u.tokens_used)::bigint AS tokens, sum(u.prompt_tokens)::bigint AS prompt_tokens,
       sum(u.cached_tokens)::bigint AS cached_tokens, sum(u.completion_tokens)::bigint AS completion_tokens,
       sum(u.reasoning_tokens)::bigint AS reasoning_tokens, u.purpose
  FROM mana_ai.token_usage u
 GROUP BY 1, u.model, u.service_tier, u.currency, u.purpose;
COMMENT ON VIEW mana_ai.daily_costs IS
  'what models have cost by day and purpose; a row without currency is what has no price';
