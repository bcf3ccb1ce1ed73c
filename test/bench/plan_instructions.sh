#!/usr/bin/env bash
# Sourced by run.sh: the worker's cost of planning a mission, in instructions that callgrind counts in a separate server.
# It plans MISSIONS missions (100) and then twice as many; the difference is divided by MISSIONS, so that starting,
# preparing statements and idling cancel out. There are two model calls per mission. The server's clocks are slowed down
# as much as valgrind slows the server, so that as many database steps share a transaction as usual. The kernel's work is
# not counted.
#
# BASE=checkout compares with another revision, where `make all programs` must have been run: its own model server answers,
# since this revision's may refuse its requests. ONLY_BASE=1 leaves this revision out. PROFILE=directory keeps callgrind's
# files.

command -v valgrind >/dev/null || { echo "plan-instructions: valgrind is not installed (Debian package valgrind)"; exit 1; }
missions=${MISSIONS:-100}
echo; echo "plan-instructions: of the worker for one planned mission, two model calls each, 64 in flight at most"

# planned_in MISSIONS KEEP: instructions of a worker that plans this many.
planned_in() {
    local count=$1 keep=$2 pid server left tries=0
    new_cluster counted "mana_ai.llm_url = '$model_url'" "mana_ai.max_concurrency = 64" "log_min_messages = warning" \
        "shared_preload_libraries = 'mana_ai'" "mana_ai.tick_enabled = off" "autovacuum = off" "jit = off"
    q -c "CREATE EXTENSION mana_ai" 2>/dev/null
    q -v wave=run -v missions="$count" -v due=2020-01-01T00:00:00Z -f "$bench/due.sql"
    q -c "VACUUM ANALYZE"
    stop_cluster counted
    echo "mana_ai.tick_enabled = on" >>"$cluster/postgresql.conf"
    with_slow_clock valgrind --tool=callgrind \
        --callgrind-out-file="$work/run/planned.%p" "$pg_bin/postgres" -D "$cluster" >"$work/run/counted.log" 2>&1 &
    server=$!
    until left=$(q -c "SELECT count(*) FILTER (WHERE due_at IS NOT NULL) FROM mana_ai.mission_schedule" 2>/dev/null) && [ "$left" = 0 ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || { echo "not planned: $left"; tail -n 20 "$work/run/counted.log"; exit 1; } >&2
        sleep 3
    done
    pid=$(worker_pid)
    [ "$(q -c "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned'")" = "$count" ] || { echo "not every run made a plan" >&2; exit 1; }
    as_tester "$pg_bin/pg_ctl" stop -D "$cluster" -m fast -s -t 300
    wait "$server" || true
    [ -z "$keep" ] || cp "$work/run/planned.$pid" "$keep"
    awk '/^totals:/ { print $2 }' "$work/run/planned.$pid"
    as_tester rm -rf "$cluster" "$work"/run/planned.*
}
# per_plan NAME: sets $of_plan.
per_plan() {
    local name=$1 few many keep=${PROFILE:-}
    start_server model --keep-requests 0
    few=$(planned_in "$missions" "${keep:+$keep/$name.few}")
    many=$(planned_in $((2 * missions)) "${keep:+$keep/$name.many}")
    kill "$model_server_pid"
    wait "$model_server_pid" 2>/dev/null || true
    of_plan=$(((many - few) / missions))
    echo "  $name: $of_plan instructions a mission"
}

of_plan=0
[ -n "${ONLY_BASE:-}" ] || per_plan "this revision"
if [ -n "${BASE:-}" ]; then
    own=$of_plan
    pg_bin=$(dirname "$(as_builder "$BASE/test/private_install.sh" "$work/install_base")")
    cp "$BASE/build/bin/model_server" "$work/bin/model_server"
    per_plan "$(git -C "$BASE" rev-parse --short HEAD 2>/dev/null || basename "$BASE")"
    echo "  ratio $(ratio "$own" "$of_plan") (goal: 1.05 to 9de022a, the revision before budgets and gates)"
fi
