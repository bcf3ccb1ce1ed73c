#!/usr/bin/env bash
# make bench: prints the figures of docs/performance.md.
# PART=inserts,fold,idle,plan,latency,wake,provider,totals,inputs,research,traces,metrics,status,http,partitions,instructions,
# plan-instructions,partition-instructions,ceilings runs only these; instructions, which need valgrind, and ceilings, which
# takes long, only when they are named.
source "$(dirname "$0")/../environment.sh"
parts=${PART:-inserts,fold,idle,plan,latency,wake,provider,totals,inputs,research,traces,metrics,status,http,partitions}
wanted() { [[ ",$parts," == *",$1,"* ]]; }

enter
bench=$work/tree/test/bench
psql=("$pg_bin/psql" -X -q -A -t -v ON_ERROR_STOP=1)
q() { "${psql[@]}" -d mana_sync "$@"; }

# new_cluster NAME [LINE]...: a cluster with mana-sync's table and no extension yet.
new_cluster() {
    start_cluster "$@" "shared_buffers = 1GB" "max_wal_size = 8GB" "checkpoint_timeout = 1h" "autovacuum_naptime = 10s"
    "$pg_bin/createdb" mana_sync
    export PGDATABASE=mana_sync
    q -f "$work/tree/test/data/sync_changes.sql"
}
end_cluster() {
    stop_cluster "$1"
    as_tester rm -rf "$work/run/$1"
}
worker_pid() { q -c "SELECT worker_pid FROM mana_ai.status()"; }
wait_for_worker() {
    local tries=0
    until [ -n "$(worker_pid)" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "no worker"; return 1; }
        sleep 0.1
    done
}
cpu_ns() { awk '{print $1}' "/proc/$1/schedstat"; }
now_ms() { date +%s%3N; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }
# server_stat NAME: one of the model server's numbers.
server_stat() { perl -MHTTP::Tiny -MJSON::PP -e 'print decode_json(HTTP::Tiny->new->get("$ARGV[0]/control/stats")->{content})->{$ARGV[1]}, "\n"' "$model_url" "$1"; }
# with_slow_clock COMMAND...: runs it with clocks slowed down as much as valgrind slows a server.
with_slow_clock() {
    [ -e "$work/bin/slow_clock.so" ] || gcc -O2 -shared -fPIC -o "$work/bin/slow_clock.so" "$bench/slow_clock.c" -ldl
    as_tester env "LD_PRELOAD=$work/bin/slow_clock.so" SLOW_CLOCK=50 "$@"
}
median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

echo "machine: $(nproc) x $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo), $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo), $("$pg_bin/postgres" --version)"

# ---------------------------------------------------------------- instructions of the trigger
if wanted instructions; then
    source "$top/test/bench/instructions.sh"
fi
if wanted plan-instructions; then
    source "$top/test/bench/plan_instructions.sh"
fi

# ---------------------------------------------------------------- a partitioned log
if wanted partitions || wanted partition-instructions; then
    source "$top/test/bench/partitions.sh"
fi

# ---------------------------------------------------------------- inserts with and without trigger
if wanted inserts; then
    echo; echo "inserts: 3 KB records; single-row transactions of 4 clients (fsync on), and COPY; pairs in turn, medians"
    new_cluster inserts "shared_preload_libraries = 'mana_ai'" "mana_ai.tick_enabled = off" "fsync = on"
    # Half of it compresses, as prose does.
    q -c "CREATE TABLE bench_text AS SELECT i AS id, (SELECT string_agg(md5(i::text || k::text) || ' und dann noch etwas mehr Text ', '') FROM generate_series(1, 46) k) AS body FROM generate_series(0, 49) i"
    q -c "ALTER TABLE bench_text ADD PRIMARY KEY (id)"
    q -c "CREATE EXTENSION mana_ai"
    q -c "INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, data, client_id) SELECT 'ai', 'aiMissions', 'b' || i, 'u1', 'insert', jsonb_build_object('title', 'x', 'state', 'paused', 'conceptMarkdown', (SELECT body FROM bench_text WHERE id = i % 50)), 'c' FROM generate_series(1, 2000) i" >/dev/null
    q -c "VACUUM ANALYZE"
    for kind in ai other; do
        : >"$work/ratios"; : >"$work/on"; : >"$work/off"
        for order in "off on" "on off" "off on" "on off" "off on"; do
            for mode in $order; do
                q -c "ALTER TABLE sync_changes $([ $mode = on ] && echo ENABLE ALWAYS || echo DISABLE) TRIGGER mana_ai_fold" >/dev/null
                tps=$("$pg_bin/pgbench" -n -c 4 -j 2 -T 5 -f "$bench/insert_$kind.sql" mana_sync 2>/dev/null | awk '/^tps/ {print $3}')
                echo "$tps" >>"$work/$mode"
                eval "$mode=$tps"
            done
            ratio "$off" "$on" >>"$work/ratios"; echo >>"$work/ratios"
        done
        echo "  $kind rows, transactions/s: without $(median <"$work/off"), with $(median <"$work/on"), time ratio $(median <"$work/ratios")"
    done
    for kind in ai other; do
        app=ai; table=aiMissions; [ $kind = ai ] || { app=todo; table=tasks; }
        q -c "COPY (SELECT '$app', '$table', 'b' || (1 + i % 2000), 'u1', 'update', jsonb_build_object('conceptMarkdown', t.body, 'title', 'x' || i), jsonb_build_object('conceptMarkdown', to_char(timestamp '2027-01-01' + i * interval '1 s', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')), 'c' FROM generate_series(1, 20000) i JOIN bench_text t ON t.id = i % 50) TO STDOUT" >"$work/run/copy.$kind"
        : >"$work/ratios"; : >"$work/on"; : >"$work/off"
        for order in "off on" "on off" "off on" "on off" "off on" "on off" "off on"; do
            for mode in $order; do
                q -c "ALTER TABLE sync_changes $([ $mode = on ] && echo ENABLE ALWAYS || echo DISABLE) TRIGGER mana_ai_fold" -c CHECKPOINT >/dev/null
                start=$(now_ms)
                q -c "COPY sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id) FROM STDIN" <"$work/run/copy.$kind" >/dev/null
                eval "$mode=$(($(now_ms) - start))"
                echo "$((20000 * 1000 / ($(now_ms) - start)))" >>"$work/$mode"
            done
            ratio "$on" "$off" >>"$work/ratios"; echo >>"$work/ratios"
        done
        echo "  $kind rows, COPY rows/s: without $(median <"$work/off"), with $(median <"$work/on"), time ratio $(median <"$work/ratios")"
    done
    end_cluster inserts
fi

# ---------------------------------------------------------------- folding history, and ticks with nothing due
if wanted fold || wanted idle; then
    for rows in 10000 100000 1000000; do
        new_cluster "history$rows" "shared_preload_libraries = 'mana_ai'" "mana_ai.tick_interval = '100ms'"
        q -v rows="$rows" -f "$bench/history.sql"
        start=$(now_ms)
        q -c "SET client_min_messages = warning" -c "CREATE EXTENSION mana_ai"
        took=$(($(now_ms) - start))
        if wanted fold; then
            echo; echo "fold: CREATE EXTENSION over $rows rows of history: $took ms, $((rows * 1000 / (took > 0 ? took : 1))) rows/s"
            q -c "TRUNCATE mana_ai.mission_snapshots, mana_ai.mission_schedule"
            start=$(now_ms)
            q -c "SET client_min_messages = warning" -c "SELECT * FROM mana_ai.refresh_snapshots()" >/dev/null
            took=$(($(now_ms) - start))
            echo "fold: refresh_snapshots() over $rows rows: $took ms, $((rows * 1000 / (took > 0 ? took : 1))) rows/s"
        fi
        if wanted idle; then
            wait_for_worker
            pid=$(worker_pid)
            sleep 1
            before=$(cpu_ns "$pid")
            sleep 10
            after=$(cpu_ns "$pid")
            full_pass=$((after - before))
            q -c "ALTER SYSTEM SET mana_ai.tick_interval = '10min'" -c "SELECT pg_reload_conf()" >/dev/null
            sleep 0.5
            before=$(cpu_ns "$pid")
            for _ in $(seq 200); do
                echo "INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, data, client_id) VALUES ('ai', 'aiMissions', 'm5', 'u5', 'update', jsonb_build_object('title', clock_timestamp()), 'c'); SELECT pg_sleep(0.01);"
            done | q >/dev/null
            after=$(cpu_ns "$pid")
            start=$(now_ms)
            for _ in 1 2 3 4 5; do q -c "SELECT mana_ai.run_tick()" >/dev/null; done
            echo "idle: $rows ai rows, nothing due: $(awk -v n=$((after - before)) 'BEGIN { printf "%.3f", n / 1e6 / 200 }') ms CPU a wake-up by a commit, with its pass; $(awk -v n=$full_pass 'BEGIN { printf "%.3f", n / 1e6 / 100 }') ms a full pass; run_tick() with its process $((($(now_ms) - start) / 5)) ms"
        fi
        end_cluster "history$rows"
    done
fi

# ---------------------------------------------------------------- planning
# plan LATENCY_MS CONCURRENCY MISSIONS [LINE]...: sets $cpu_a_mission, in ms. $due are the arguments of psql that
# push the missions, $after_plan a command that inspects them before the cluster ends.
due=(-f "$bench/due.sql")
after_plan=
plan() {
    local latency=$1 concurrency=$2 missions=$3 pid before after start took peak
    shift 3
    start_server model --latency-ms "$latency" --keep-requests 0
    new_cluster plan "shared_preload_libraries = 'mana_ai'" "mana_ai.llm_url = '$model_url'" "mana_ai.max_concurrency = $concurrency" "log_min_messages = warning" "$@"
    q -c "CREATE EXTENSION mana_ai" 2>/dev/null
    q -v wave=warm -v missions=50 -v due=2020-01-01T00:00:00Z "${due[@]}"
    until [ "$(q -c "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned'")" -ge 50 ]; do sleep 0.2; done
    pid=$(worker_pid)
    q -c "ALTER SYSTEM SET mana_ai.tick_enabled = off" -c "SELECT pg_reload_conf()" >/dev/null
    q -v wave=run -v missions="$missions" -v due=2020-01-01T00:00:00Z "${due[@]}"
    sleep 1
    before=$(cpu_ns "$pid")
    q -c "ALTER SYSTEM RESET mana_ai.tick_enabled" -c "SELECT pg_reload_conf()" >/dev/null
    longest=0
    until [ "$(q -c "SELECT count(*) FROM mana_ai.mission_schedule WHERE due_at IS NOT NULL")" -eq 0 ]; do
        sleep 0.05
        open=$(q -c "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start) * 1000), 0)::int FROM pg_stat_activity WHERE pid = $pid")
        [ "$open" -gt "$longest" ] && longest=$open
    done
    after=$(cpu_ns "$pid")
    peak=$(awk '/VmHWM/ {hwm = $2} /RssShmem/ {shared = $2} END {printf "%.0f", (hwm - shared) / 1024}' "/proc/$pid/status")
    took=$(q -c "SELECT (extract(epoch FROM max(finished_at) - min(started_at)) * 1000)::bigint FROM mana_ai.runs WHERE mission_id LIKE 'due-run-%'")
    planned=$(q -c "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned' AND mission_id LIKE 'due-run-%'")
    cpu_a_mission=$(awk -v n=$((after - before)) -v m="$missions" 'BEGIN { printf "%.4f", n / 1e6 / m }')
    echo "plan: $planned of $missions missions, model latency $latency ms, $concurrency in flight: $((missions * 1000 / (took > 0 ? took : 1))) missions/s, $(awk -v n="$cpu_a_mission" 'BEGIN { printf "%.2f", n }') ms CPU a mission, $peak MiB, longest transaction seen $longest ms, $(server_stat max_in_flight) calls at once at most"
    $after_plan
    end_cluster plan
    kill "$model_server_pid"
    wait "$model_server_pid" 2>/dev/null || true
}
if wanted plan; then
    echo
    plan 0 64 1000
    plan 0 500 1000
    plan 0 64 5000
    plan 1000 50 100
    plan 1000 100 100
    plan 1000 64 640
    plan 1000 500 1000
    plan 5000 2000 4000
fi

# ---------------------------------------------------------------- from due to the first model request
if wanted latency; then
    start_server model --keep-requests 1000
    new_cluster latency "shared_preload_libraries = 'mana_ai'" "mana_ai.llm_url = '$model_url'" "log_min_messages = warning"
    q -c "CREATE EXTENSION mana_ai" 2>/dev/null
    wait_for_worker
    # 200 missions, one every 100 ms. Every request of a run names its mission; the first one counts.
    q -c "INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
          SELECT 'ai', 'aiMissions', 'late-' || i, 'u1', 'insert', jsonb_build_object('title', 'late-' || i || ';', 'state', 'active', 'objective', 'y',
            'cadence', '{\"kind\": \"manual\"}'::jsonb, 'iterations', '[]'::jsonb,
            'nextRunAt', to_char((clock_timestamp() + interval '2 s' + i * interval '100 ms') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')), 'c'
          FROM generate_series(1, 200) i"
    q -c "CREATE TABLE due AS SELECT mission_id, due_at FROM mana_ai.mission_schedule"
    sleep 24
    q -F ' ' -c "SELECT mission_id, (extract(epoch FROM due_at) * 1000000)::bigint FROM due" >"$work/due"
    perl "$bench/first_requests.pl" "$model_url" "$work/due"
    end_cluster latency
fi

# ---------------------------------------------------------------- missions that wait for changes
if wanted wake; then
    source "$top/test/bench/wake.sh"
fi

# ---------------------------------------------------------------- services that say no, and users who share them
if wanted provider; then
    source "$top/test/bench/provider.sh"
fi

# ---------------------------------------------------------------- budgets of all together
if wanted totals; then
    source "$top/test/bench/totals.sh"
fi

# ---------------------------------------------------------------- how much one worker does
if wanted ceilings; then
    source "$top/test/bench/ceilings.sh"
fi

# ---------------------------------------------------------------- what missions read
# with_inputs KIND INPUTS MISSIONS: sets $cpu_a_mission, in ms, and $unused, the inputs that were not used
with_inputs() {
    due=(-v kind="$1" -v inputs="$2" -v grant="$grant" -v sealed="$sealed" -f "$bench/inputs.sql")
    after_plan=inputs_left_out
    plan 0 64 "$3" "mana_ai.grant_private_key_file = '$work/run/grant.pem'" >/dev/null
    due=(-f "$bench/due.sql")
    after_plan=
    [ "$unused" -eq 0 ] || { echo "inputs: $unused inputs were not used"; return 1; }
}
# Also takes the time of replay().
inputs_left_out() {
    unused=$(q -c "SELECT count(*) FROM mana_ai.runs, jsonb_array_elements(inputs) i WHERE NOT (i ->> 'used')::boolean")
    replay_us=$(q -f "$bench/replay.sql")
}
if wanted inputs; then
    echo; echo "inputs: encrypted records under a grant, each an insert and three updates; CPU of the worker, in turn, medians of 3"
    as_tester "$work/bin/mana_client" keygen "$work/run/grant.pem"
    made=$(as_tester "$work/bin/mana_client" grant "$work/run/grant.pem" any 2099-01-01T00:00:00Z notes:any userContext:any)
    grant=$(perl -MJSON::PP -e 'print JSON::PP->new->encode(JSON::PP->new->decode($ARGV[0])->{grant})' "$made")
    key=$(perl -MJSON::PP -e 'print JSON::PP->new->decode($ARGV[0])->{key}' "$made")
    # A title's length and a short note's, in turn.
    sealed=$(perl -e 'for (1 .. 40) { print "Notiz Nummer $_", $_ % 2 ? "" : " und noch einige Worte" x 20, "\n" }' |
        "$work/bin/mana_client" seal "$key" | perl -MJSON::PP -e 'chomp(my @lines = <STDIN>); print JSON::PP->new->encode(\@lines)')
    figures=(none one twenty profile profiles)
    for name in "${figures[@]}"; do : >"$work/inputs.$name"; done
    : >"$work/inputs.replay"
    for _ in 1 2 3; do
        with_inputs notes 0 1000; echo "$cpu_a_mission" >>"$work/inputs.none"
        with_inputs notes 1 1000; echo "$cpu_a_mission" >>"$work/inputs.one"
        with_inputs notes 20 1000; echo "$cpu_a_mission" >>"$work/inputs.twenty"
        with_inputs profile 1 1000; echo "$cpu_a_mission" >>"$work/inputs.profile"
        with_inputs profile 20 500; echo "$cpu_a_mission" >>"$work/inputs.profiles"
        echo "$replay_us" >>"$work/inputs.replay"
    done
    for name in "${figures[@]}"; do eval "$name=$(median <"$work/inputs.$name")"; done
    echo "inputs: ms CPU a mission: without $none, with 1 note $one, with 20 notes $twenty, with 1 profile $profile, with 20 profiles $profiles"
    awk -v none="$none" -v one="$one" -v twenty="$twenty" -v profile="$profile" -v profiles="$profiles" -v replay="$(median <"$work/inputs.replay")" 'BEGIN {
        printf "inputs: 20 notes add %.2f ms CPU to a run (%.2f times), the first note with its grant %.2f ms, each other %.0f us\n", twenty - none, twenty / none, one - none, (twenty - one) * 1000 / 19
        printf "inputs: a record of 20 fields, 20 values opened: %.0f us CPU to read, open, render, put on record and send in two requests (of 20 against 1); replay() alone %.0f us, from SQL\n", (profiles - profile) * 1000 / 19, replay
    }'
fi

# ---------------------------------------------------------------- missions that wait for research
# passes: CPU of 100 full passes, in ms each
full_passes() {
    local before after
    q -c "ALTER SYSTEM SET mana_ai.tick_interval = '100ms'" -c "SELECT pg_reload_conf()" >/dev/null
    sleep 0.5
    before=$(cpu_ns "$pid")
    sleep 10
    after=$(cpu_ns "$pid")
    q -c "ALTER SYSTEM SET mana_ai.tick_interval = '10min'" -c "SELECT pg_reload_conf()" >/dev/null
    sleep 0.5
    awk -v n=$((after - before)) 'BEGIN { printf "%.3f", n / 1e6 / 100 }'
}
if wanted research; then
    start_server research
    new_cluster research "shared_preload_libraries = 'mana_ai'" "mana_ai.research_url = '$research_url'" "mana_ai.deep_research_enabled = on" "mana_ai.tick_interval = '10min'" "log_min_messages = warning"
    q -c "CREATE EXTENSION mana_ai" 2>/dev/null
    wait_for_worker
    pid=$(worker_pid)
    echo; echo "research: a full pass with nothing due and no mission that waits: $(full_passes) ms CPU"
    # The server says "queued" and "running" and then that it is done; the missions are asked for twice at most.
    q -c "ALTER SYSTEM SET mana_ai.tick_enabled = off" -c "SELECT pg_reload_conf()" >/dev/null
    q -v wave=wait -v missions=1000 -v due=2020-01-01T00:00:00Z -f "$bench/due.sql"
    q -c "INSERT INTO mana_ai.mission_research_jobs (user_id, mission_id, task_id, next_poll_at) SELECT user_id, mission_id, 'task-' || mission_id, now() + interval '1 day' FROM mana_ai.mission_snapshots"
    q -c "UPDATE mana_ai.mission_schedule SET decision = 'skipped-research', not_before = now() + interval '1 day', wake_at = now() + interval '1 day'"
    q -c "ALTER SYSTEM RESET mana_ai.tick_enabled" -c "SELECT pg_reload_conf()" >/dev/null
    sleep 1
    echo "research: the same with 1000 missions that wait: $(full_passes) ms CPU"
    for round in first second; do
        before=$(cpu_ns "$pid")
        start=$(now_ms)
        q -c "UPDATE mana_ai.mission_research_jobs SET next_poll_at = now()" -c "SELECT pg_reload_conf()" >/dev/null
        longest=0
        # The state is one turn of the worker old.
        quiet=0
        until [ "$quiet" -ge 3 ]; do
            quiet=$((quiet + 1))
            [ "$(q -c "SELECT count(*) FROM mana_ai.mission_research_jobs WHERE next_poll_at <= now()")" -eq 0 ] && [ "$(q -c "SELECT worker_state FROM mana_ai.status()")" = idle ] || quiet=0
            open=$(q -c "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start) * 1000), 0)::int FROM pg_stat_activity WHERE pid = $pid")
            [ "$open" -gt "$longest" ] && longest=$open
        done
        took=$(($(now_ms) - start))
        after=$(cpu_ns "$pid")
        echo "research: all 1000 polls due, the $round time: $took ms, $(awk -v n=$((after - before)) 'BEGIN { printf "%.3f", n / 1e6 / 1000 }') ms CPU a poll, longest transaction seen $longest ms"
    done
    end_cluster research
    kill "$research_server_pid"
    wait "$research_server_pid" 2>/dev/null || true
fi

# ---------------------------------------------------------------- what traces cost
if wanted traces; then
    echo; echo "traces: 4 spans a mission to a collector; CPU of the worker, pairs in turn, medians"
    start_server collector --keep-requests 0
    : >"$work/ratios"; : >"$work/on"; : >"$work/off"
    for order in "off on" "on off" "off on" "on off" "off on" "on off" "off on"; do
        for mode in $order; do
            if [ $mode = on ]; then
                plan 0 64 5000 "mana_ai.otlp_endpoint = '$collector_url'" >/dev/null
            else
                plan 0 64 5000 >/dev/null
            fi
            echo "$cpu_a_mission" >>"$work/$mode"
            eval "$mode=$cpu_a_mission"
        done
        ratio "$on" "$off" >>"$work/ratios"; echo >>"$work/ratios"
    done
    echo "  ms CPU a mission: without $(median <"$work/off"), with $(median <"$work/on"), ratio $(median <"$work/ratios"); the collector got $(perl -MHTTP::Tiny -e 'print HTTP::Tiny->new->get("$ARGV[0]/control/stats")->{content} =~ /"spans":(\d+)/' "$collector_url") spans"
    kill "$collector_server_pid"
    wait "$collector_server_pid" 2>/dev/null || true
fi

# ---------------------------------------------------------------- counting, and reading what was counted
if wanted metrics; then
    echo
    g++ -std=c++20 -O2 -fPIC -shared -fvisibility=hidden -I"$top/include" '-DPGDLLEXPORT=__attribute__((visibility("default")))' \
        -isystem "$("$PG_CONFIG" --includedir-server)" -o "$work/bin/metrics_module.so" "$bench/metrics_module.cpp" \
        "$top"/src/pg/{metrics,guard}.cpp "$top"/src/core/watch/{metric_catalog,metrics_text}.cpp "$top"/src/core/text/{json,utf8}.cpp
    start_server model --keep-requests 0
    new_cluster metrics "shared_preload_libraries = 'mana_ai'" "mana_ai.llm_url = '$model_url'" "mana_ai.tick_enabled = off" "mana_ai.max_concurrency = 500" "log_min_messages = warning"
    q -c "CREATE EXTENSION mana_ai" 2>/dev/null
    q -c "CREATE FUNCTION metrics_bench(kind int, times bigint) RETURNS float8 LANGUAGE c AS '$work/bin/metrics_module.so'"
    kinds=("a counter" "a counter with a label" "a counter with 1000 label values in turn" "a counter with three labels" "a histogram" "a counter, at commit")
    for kind in "${!kinds[@]}"; do
        echo "metrics: ${kinds[$kind]}: $(q -c "SELECT round(min(metrics_bench($kind, 2000000))::numeric, 1) FROM generate_series(1, 5)") ns"
    done
    q -c "INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
          SELECT 'ai', 'agents', 'agent-' || i, 'u1', 'insert', 'c', jsonb_build_object('name', 'A', 'state', 'active') FROM generate_series(1, 1000) i
          UNION ALL
          SELECT 'ai', 'aiMissions', 'm' || i, 'u1', 'insert', 'c', jsonb_build_object('state', 'active', 'title', 'M' || i, 'objective', 'O', 'agentId', 'agent-' || i,
            'iterations', '[]'::jsonb, 'cadence', '{\"kind\": \"manual\"}'::jsonb, 'nextRunAt', '2020-01-01T00:00:00Z') FROM generate_series(1, 1000) i"
    q -c "SELECT mana_ai.run_tick()" >/dev/null
    series=$(q -c "SELECT count(*) FROM mana_ai.metrics WHERE name = 'mana_ai_tokens_used_total'")
    for statement in "SELECT mana_ai.metrics()" "SELECT * FROM mana_ai.metrics"; do
        echo "$statement;" >"$work/run/metrics.sql"
        echo "metrics: $statement with $series series of agents: $("$pg_bin/pgbench" -n -c 1 -t 200 -f "$work/run/metrics.sql" mana_sync 2>/dev/null | awk '/^latency average/ {print $4, $5}')"
    done
    end_cluster metrics
    kill "$model_server_pid"
    wait "$model_server_pid" 2>/dev/null || true
fi

# ---------------------------------------------------------------- what an operator looks at, with many missions
if wanted status; then
    missions=${MISSIONS:-1000000}
    echo; echo "status: $missions missions, one in a thousand broken, one in a thousand failing; medians of 5, warm"
    new_cluster status "shared_preload_libraries = 'mana_ai'" "mana_ai.tick_enabled = off"
    q -c "CREATE EXTENSION mana_ai" 2>/dev/null
    q -v missions="$missions" -f "$bench/many_missions.sql"
    for what in "mission_problems|SELECT count(*) FROM mana_ai.mission_problems" \
        "the page|SELECT length(mana_ai.http_status()::text)" \
        "status()|SELECT * FROM mana_ai.status()" \
        "why()|SELECT mana_ai.why('u1', 'm1')"; do
        for _ in 1 2 3 4 5 6; do
            { echo "\\timing on"; echo "${what#*|};"; } |
                "${psql[@]}" -d mana_sync | awk '/^Time/ {t = $2} END {print t}'
        done | tail -n 5 | median | sed "s/^/  ${what%%|*}: /; s/$/ ms/"
    done
    end_cluster status
fi

# ---------------------------------------------------------------- the HTTP endpoint with slow clients
if wanted http; then
    echo; echo "http: GET /health, 1000 requests one after the other"
    port=3067
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    new_cluster http "shared_preload_libraries = 'mana_ai'" "mana_ai.http_listen = '127.0.0.1:$port'" "log_min_messages = warning"
    q -c "CREATE EXTENSION mana_ai" 2>/dev/null
    wait_for_worker
    sleep 1
    perl "$bench/health_latency.pl" "$port"
    end_cluster http
fi
