#!/usr/bin/env bash
# Sourced by run.sh: how much one worker does. MISSIONS (200,000; five users' missions share an agent) with a log of twenty
# rows each, of which four are of missions and agents; BURST missions (10,000) due in the same second.

echo; echo "ceilings: missions a minute by the model's latency"
for case in "200 64 2000" "200 500 4000" "1000 64 640" "1000 500 4000" "5000 500 1500" "5000 2000 6000" "20000 2000 4000"; do
    # shellcheck disable=SC2086
    plan $case | sed "s/^/ceilings: /"
done

# updates_a_run: of each table that churns
updates_a_run() {
    q -F ' ' -c "SELECT pg_stat_force_next_flush()" -c "SELECT relname, round(n_tup_upd / $1.0, 2), round(100.0 * n_tup_hot_upd / greatest(n_tup_upd, 1)), n_dead_tup, autovacuum_count
                   FROM pg_stat_user_tables WHERE schemaname = 'mana_ai' AND n_tup_upd > $1 / 10 ORDER BY 1" | tail -n +2 |
        while read -r table updates hot dead vacuums; do
            [ -n "$table" ] && echo "ceilings: $table: $updates updates a run, $hot % of them HOT; $dead dead rows, $vacuums autovacuums"
        done
}

missions=${MISSIONS:-200000}
burst=${BURST:-10000}
start_server model --latency-ms 0 --keep-requests 0
new_cluster ceilings "shared_preload_libraries = 'mana_ai'" "mana_ai.llm_url = '$model_url'" "mana_ai.max_concurrency = 500" "mana_ai.tick_interval = '1s'" "log_min_messages = warning"
q -v missions="$missions" -f "$bench/large_log.sql"
rows=$(q -c "SELECT reltuples::bigint FROM pg_class WHERE oid = 'public.sync_changes'::regclass")
echo; echo "ceilings: $missions missions, $rows rows, $(q -c "SELECT pg_size_pretty(pg_table_size('public.sync_changes'))") and indexes of $(q -c "SELECT pg_size_pretty(pg_indexes_size('public.sync_changes'))")"

start=$(now_ms)
q -c "SET client_min_messages = warning" -c "CREATE EXTENSION mana_ai"
echo "ceilings: CREATE EXTENSION returned after $(($(now_ms) - start)) ms"
wait_for_worker
pid=$(worker_pid)
agents=
until [ -z "$(q -c "SELECT folding FROM mana_ai.status()")" ]; do
    [ -n "$agents" ] || [ "$(q -c "SELECT count(*) FROM mana_ai.fold_progress WHERE agents_until < blocks")" -ne 0 ] || agents=$(($(now_ms) - start))
    sleep 0.5
done
took=$(($(now_ms) - start))
cpu=$(cpu_ns "$pid")
echo "ceilings: folded in batches in $took ms (agents: ${agents:-$took} ms), $((cpu / 1000000)) ms CPU; longest transaction $(q -c "SELECT round(value::numeric * 1000) FROM mana_ai.metrics WHERE name = 'mana_ai_longest_transaction_seconds'") ms; worker $(awk '/VmHWM/ {hwm = $2} /RssShmem/ {shared = $2} END {printf "%.0f", (hwm - shared) / 1024}' "/proc/$pid/status") MiB"
for table in mission_snapshots agent_snapshots mission_schedule; do
    echo "ceilings: $table $(q -c "SELECT pg_size_pretty(pg_table_size('mana_ai.$table')) || ' and indexes of ' || pg_size_pretty(pg_indexes_size('mana_ai.$table'))")"
done
q -c "SET client_min_messages = warning" -c "VACUUM ANALYZE"

before=$(cpu_ns "$pid")
sleep 20
echo "ceilings: idle, a full pass a second: $(awk -v n=$(($(cpu_ns "$pid") - before)) 'BEGIN { printf "%.2f", n / 1e6 / 20 }') ms CPU a second"
for what in "status()|SELECT * FROM mana_ai.status()" "why()|SELECT mana_ai.why('u1', 'm1')" "metrics()|SELECT length(mana_ai.metrics())"; do
    for _ in 1 2 3 4 5 6; do
        { echo "\\timing on"; echo "${what#*|};"; } | "${psql[@]}" -d mana_sync | awk '/^Time/ {t = $2} END {print t}'
    done | tail -n 5 | median | sed "s/^/ceilings: ${what%%|*}: /; s/$/ ms/"
done

# insert_us TRIGGER: median time of an insert into an existing mission, in one session
insert_us() {
    q -c "ALTER TABLE sync_changes $1 TRIGGER mana_ai_fold" >/dev/null
    q <<END | median
CREATE TEMP TABLE took (us float8);
DO \$\$
DECLARE began timestamptz; i int;
BEGIN
  FOR k IN 1..2000 LOOP
    i := 1 + (k * 7919) % $missions;
    began := clock_timestamp();
    INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
    VALUES ('ai', 'aiMissions', 'm' || i, 'u' || i % ($missions / 5), 'update', jsonb_build_object('note', k), 'c');
    INSERT INTO took VALUES (extract(epoch FROM clock_timestamp() - began) * 1000000);
    COMMIT;
  END LOOP;
END \$\$;
SELECT round(us::numeric, 1) FROM took;
END
}
without=$(insert_us DISABLE)
with=$(insert_us "ENABLE ALWAYS")
echo "ceilings: an insert into a mission with its trigger: $with us, without $without us (nothing waits for the disk)"

q -c "ALTER SYSTEM SET mana_ai.tick_enabled = off" -c "SELECT pg_reload_conf()" >/dev/null
q -c "SELECT pg_stat_reset()" >/dev/null
q -v wave=burst -v missions="$burst" -v due=2020-01-01T00:00:00Z -f "$bench/due.sql"
sleep 1
before=$(cpu_ns "$pid")
q -c "ALTER SYSTEM RESET mana_ai.tick_enabled" -c "SELECT pg_reload_conf()" >/dev/null
until [ "$(q -c "SELECT count(*) FROM mana_ai.mission_schedule WHERE mission_id LIKE 'due-burst-%' AND due_at IS NOT NULL")" -eq 0 ]; do sleep 0.5; done
took=$(q -c "SELECT (extract(epoch FROM max(finished_at) - min(started_at)) * 1000)::bigint FROM mana_ai.runs WHERE mission_id LIKE 'due-burst-%'")
claims=$(q -c "SELECT count(DISTINCT started_at) FROM mana_ai.runs WHERE mission_id LIKE 'due-burst-%'")
echo "ceilings: $burst due at once: all planned after $took ms, $(awk -v n=$(($(cpu_ns "$pid") - before)) -v m="$burst" 'BEGIN { printf "%.2f", n / 1e6 / m }') ms CPU a mission, $claims claims of $((burst / claims)) on average"
updates_a_run "$burst"
end_cluster ceilings
kill "$model_server_pid"
wait "$model_server_pid" 2>/dev/null || true
