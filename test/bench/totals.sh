#!/usr/bin/env bash
# Sourced by run.sh: what a look at a budget of all together costs with 1,000 to 1,000,000 replies in the day.

echo; echo "totals: a look at what all have used in 24 hours; medians of 5, warm"
new_cluster totals "shared_preload_libraries = 'mana_ai'" "mana_ai.tick_interval = '500ms'" "autovacuum = off"
q -c "CREATE EXTENSION mana_ai" 2>/dev/null
wait_for_worker
q -c "INSERT INTO mana_ai.cost_budgets (cost_per_day, currency) VALUES (1000000000, 'EUR')" \
    -c "INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million) VALUES ('*', 'EUR', 1, 1)" >/dev/null
for replies in 1000 10000 100000 "${MISSIONS:-1000000}"; do
    # Only what the worker adds up later: no sums of single rows.
    q -c "TRUNCATE mana_ai.token_usage" -c "ALTER TABLE mana_ai.token_usage DISABLE TRIGGER follow_insert" \
        -c "INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, ts, run_id, model, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, cost, currency)
            SELECT 'u' || i % 1000, 'm', 1000, clock_timestamp() - interval '24 hours' * i / $replies, gen_random_uuid(), 'm', 900, 0, 100, 0, 0.001, 'EUR'
              FROM generate_series(1, $replies) i" \
        -c "ALTER TABLE mana_ai.token_usage ENABLE ALWAYS TRIGGER follow_insert" -c "TRUNCATE mana_ai.usage_sums" \
        -c "VACUUM ANALYZE mana_ai.token_usage" >/dev/null
    start=$(now_ms)
    until [ "$(q -c "SELECT coalesce(mana_ai.usage_sums_end() >= now() - interval '5 minutes', false)")" = t ]; do sleep 0.2; done
    took=$(($(now_ms) - start))
    q -c "VACUUM ANALYZE mana_ai.usage_sums"
    for what in "tokens|SELECT sum(tokens) FROM mana_ai.usage_of_all(clock_timestamp() - interval '24 hours')" \
        "money|SELECT * FROM mana_ai.cost_budgets_of('u1', '')" \
        "the ledger itself|SELECT sum(tokens_used), sum(cost) FROM mana_ai.token_usage WHERE ts > clock_timestamp() - interval '24 hours'"; do
        { echo "\\timing on"; for _ in 1 2 3 4 5 6; do echo "${what#*|};"; done; } |
            "${psql[@]}" -d mana_sync | awk '/^Time/ {print $2}' | tail -n 5 | median | sed "s/^/totals: $replies replies: ${what%%|*} /; s/$/ ms/"
    done
    echo "totals: $replies replies: added up in $took ms"
done
end_cluster totals
