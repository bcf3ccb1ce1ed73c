#!/usr/bin/env bash
# What preloading mana_ai adds to a client's process: memory, and the time of a connection with one query. Two
# clusters, one with the library and one without, measured alternately. "load" is the cost for a session that loads it
# itself. Not part of make bench.
source "$(dirname "$0")/../environment.sh"
enter
rounds=${ROUNDS:-15} connections=${CONNECTIONS:-100}

# Of a backend that has run one query.
memory() {
    "$pg_bin/psql" -XAtq -c "SELECT pg_backend_pid()" -c "SELECT pg_sleep(3)" >"$work/run/pid.$1" &
    local pid=
    until [ -n "$pid" ]; do sleep 0.1; pid=$(head -n 1 "$work/run/pid.$1" 2>/dev/null || true); done
    awk -v name="$1" '/^Rss/ { rss = $2 } /^Pss:/ { pss = $2 } /^Private/ { own += $2 }
        END { printf "%-10s resident %6d kB, proportional %6d kB, private %6d kB\n", name, rss, pss, own }' "/proc/$pid/smaps_rollup"
    wait
}

connect() {
    "$pg_bin/pgbench" -n -C -t "$connections" -f "$work/run/one.sql" 2>/dev/null |
        sed -nE 's/^latency average = ([0-9.]+) ms$/\1/p'
}

echo 'SELECT 1;' >"$work/run/one.sql"
start_cluster plain
plain=$PGHOST
mkdir "$work/run/socket2"
[ "$(id -u)" -ne 0 ] || chown "$tester" "$work/run/socket2"
start_cluster preloaded "shared_preload_libraries = 'mana_ai'" "unix_socket_directories = '$work/run/socket2'"
preloaded=$work/run/socket2

PGHOST=$plain memory plain
PGHOST=$preloaded memory preloaded
for ((round = 0; round < rounds; round++)); do
    PGHOST=$plain connect >>"$work/run/plain.ms"
    PGHOST=$preloaded connect >>"$work/run/preloaded.ms"
done
# Where it is not preloaded, the first insert into sync_changes loads it.
for ((round = 0; round < rounds; round++)); do
    PGHOST=$plain "$pg_bin/psql" -XAtq -c '\timing' -c "LOAD 'mana_ai'" | sed -nE 's/^Time: ([0-9.]+) ms.*/\1/p' >>"$work/run/load.ms"
done
for name in plain preloaded load; do
    sort -n "$work/run/$name.ms" | awk -v name=$name '{ v[NR] = $1 } END { printf "%-10s median %.3f ms, least %.3f ms\n", name, v[int((NR + 1) / 2)], v[1] }'
done
