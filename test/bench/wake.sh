#!/usr/bin/env bash
# Sourced by run.sh: missions that are planned when an input changes, and plans that become stale. 400 missions of 400 users,
# each with a note of its own; a note is edited every 50 ms, in a transaction of its own.

echo; echo "wake: a note is edited until its mission, which has waited for that, asks the model; debounce 600 ms"
start_server model --keep-requests 4000
new_cluster wake "shared_preload_libraries = 'mana_ai'" "mana_ai.llm_url = '$model_url'" "mana_ai.tick_interval = '1h'" \
    "mana_ai.max_unreviewed = 0" "log_min_messages = warning"
q -c "CREATE EXTENSION mana_ai" 2>/dev/null
wait_for_worker
note_sql() { # OP CONTENT
    echo "INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
        SELECT 'notes', 'notes', 'n' || i, 'u' || i, '$1', 'c', jsonb_build_object('title', 'Notiz', 'content', $2)"
}
q -c "$(note_sql insert "'Hafermilch'") FROM generate_series(1, 400) i" \
    -c "INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
        SELECT 'ai', 'aiMissions', 'late-' || i, 'u' || i, 'insert', 'c', jsonb_build_object('title', 'late-' || i || ';', 'state', 'active', 'objective', 'y',
          'cadence', '{\"kind\": \"onChange\", \"debounceMinutes\": 0.01}'::jsonb, 'iterations', '[]'::jsonb,
          'inputs', jsonb_build_array(jsonb_build_object('module', 'notes', 'table', 'notes', 'id', 'n' || i)))
          FROM generate_series(1, 400) i"
until [ "$(q -c "SELECT count(*) FROM mana_ai.input_watches")" -eq 400 ]; do sleep 0.2; done
sleep 2
for i in $(seq 1 400); do
    echo "$(note_sql update "'Sojamilch ' || i") FROM (VALUES ($i)) v(i);"
    echo "SELECT 'late-$i', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 600000;"
    echo "\\! sleep 0.05"
done >"$work/edits.sql"
q -F ' ' -f "$work/edits.sql" >"$work/due"
until [ "$(q -c "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned'")" -eq 400 ]; do sleep 0.2; done
perl "$bench/first_requests.pl" "$model_url" "$work/due"
# Nothing changes now but what the plans themselves have written.
sleep 3
echo "wake: $(q -c "SELECT count(*) FROM mana_ai.runs") runs after $(q -c "SELECT count(*) FROM mana_ai.runs WHERE woken_at IS NOT NULL") wake-ups"

echo; echo "stale: a note is edited until stale_plans has its mission's plan, asked in another session; median and 99th percentile"
{
    echo "\\timing on"
    for i in $(seq 1 200); do echo "SELECT count(*) FROM mana_ai.stale_plans WHERE user_id = 'u$i';"; done
} >"$work/stale.sql"
q -c "$(note_sql update "'Reismilch ' || i") FROM generate_series(1, 200) i"
q -f "$work/stale.sql" >"$work/stale"
echo "stale: $(grep -c '^1$' "$work/stale") of 200 plans are stale in the first look after the commit; a look takes $(awk '/^Time/ {print $2}' "$work/stale" | median) ms, 99th percentile $(awk '/^Time/ {print $2}' "$work/stale" | sort -g | awk '{ v[NR] = $1 } END { print v[int(NR * 0.99)] }') ms"
end_cluster wake
