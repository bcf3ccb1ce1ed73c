#!/usr/bin/env bash
# Sourced by run.sh: the trigger's cost for a transaction with one insert, and for a row of a COPY, in instructions.
# callgrind counts them in a single-process server. The server's clocks are slowed down as much as the server, so that
# statistics are not reported more often on a busy machine; the figures repeat within a few ten-thousandths. The library is
# preloaded on both sides, as it should be on a server. The row is inserted by a prepared statement, as an ordinary role
# under row-level security; COPY, which row-level security refuses, runs as superuser. Waits and cache misses are not
# counted: they add to both sides.

command -v valgrind >/dev/null || { echo "instructions: valgrind is not installed (Debian package valgrind)"; exit 1; }
echo; echo "instructions: of one transaction with one insert of 3 KB, with and without the trigger"
new_cluster instructions "jit = off" "autovacuum = off" "shared_preload_libraries = 'mana_ai'" "mana_ai.tick_enabled = off"
q -c "CREATE EXTENSION mana_ai"
q -c "CREATE ROLE service; GRANT SELECT, INSERT ON sync_changes TO service"
q -c "INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
      SELECT app, tab, 'r' || i, 'u1', 'insert', jsonb_build_object('title', 'x', 'objective', 'y', 'state', 'active', 'cadence', '{\"kind\": \"manual\"}'::jsonb, 'nextRunAt', '2040-01-01T00:00:00Z', 'updatedAt', '2020-01-01T00:00:00Z'), 'c'
        FROM generate_series(0, 9) i, (VALUES ('ai', 'aiMissions'), ('todo', 'tasks'), ('ai', 'aiChats')) v(app, tab)"
q -c "INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
      SELECT 'ai', 'aiMissions', 'c' || i, 'u1', 'insert', jsonb_build_object('title', 'x', 'objective', 'y', 'state', 'paused', 'cadence', '{\"kind\": \"manual\"}'::jsonb, 'updatedAt', '2020-01-01T00:00:00Z'), 'c'
        FROM generate_series(0, 59) i"
q -c "VACUUM ANALYZE"
stop_cluster instructions

# body NUMBER: 3 KB of which half compresses, as prose does.
body() {
    local k
    for k in {1..46}; do printf '%s und dann noch etwas mehr Text ' "$(printf '%s %s' "$1" "$k" | md5sum | cut -c1-32)"; done
}
# instructions_of SQL: of a whole process that runs the file in a copy ($data) of the cluster.
instructions_of() {
    local copy=$work/run/counted
    as_tester rm -rf "$copy"
    as_tester cp -a "$data" "$copy"
    chmod a+r "$1"
    with_slow_clock valgrind --tool=callgrind --callgrind-out-file="$work/run/callgrind.${CALLGRIND_KEEP:-out}" \
        "$pg_bin/postgres" --single -c synchronous_commit=off -c fsync=off -D "$copy" mana_sync \
        <"$1" >"$work/run/single.log" 2>&1
    if grep -q 'ERROR' "$work/run/single.log"; then grep -m1 'ERROR' "$work/run/single.log" >&2; fi
    awk '/Collected :/ { print $4 }' "$work/run/single.log"
}
# transactions APP TABLE ROWS
transactions() {
    local app=$1 table=$2 rows=$3 file=$work/run/rows.sql
    {
        echo "SET ROLE service"
        echo "PREPARE ins(uuid, text, jsonb) AS INSERT INTO sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id) VALUES (\$1, '$app', '$table', \$2, 'u1', 'update', \$3, '{\"title\": \"2030-01-01T00:00:00Z\"}'::jsonb, 'c')"
        for ((i = 0; i < rows; i++)); do
            echo "BEGIN"
            echo "SELECT set_config('app.current_user_id', 'u1', true)"
            printf "EXECUTE ins('00000000-0000-4000-8000-%012d', 'r%d', '{\"title\": \"title %d\", \"conceptMarkdown\": \"%s\"}')\n" "$i" $((i % 10)) "$i" "${bodies[i]}"
            echo "COMMIT"
        done
    } >"$file"
    instructions_of "$file"
}
# per_transaction APP TABLE: what 40 more transactions cost, by 40.
per_transaction() {
    local few many
    few=$(transactions "$1" "$2" 20)
    many=$(transactions "$1" "$2" 60)
    echo $(((many - few) / 40))
}
# copied ROWS RECORDS: this many changes of existing missions, in turn.
copied() {
    local rows=$1 records=$2 file=$work/run/rows.copy
    for ((i = 0; i < rows; i++)); do
        printf '00000000-0000-4000-8000-%012d\tai\taiMissions\tc%d\tu1\tupdate\t{"title": "title %d", "conceptMarkdown": "%s"}\t{"title": "2030-01-01T00:00:%02dZ"}\tc\n' \
            "$i" $((i % records)) "$i" "${bodies[i % 60]}" $((i / records))
    done >"$file"
    chmod a+r "$file"
    echo "COPY sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id) FROM '$file'" >"$work/run/copy.sql"
    instructions_of "$work/run/copy.sql"
}
# per_copied_row CHANGES: what a row of a COPY with so many changes of each mission costs.
per_copied_row() {
    local few many
    few=$(copied $((20 * $1)) 20)
    many=$(copied $((60 * $1)) 60)
    echo $(((many - few) / (40 * $1)))
}

bodies=()
for ((i = 0; i < 60; i++)); do bodies+=("$(body "$i")"); done
with=$work/run/instructions without=$work/run/instructions_without
as_tester cp -a "$with" "$without"
echo "ALTER TABLE sync_changes DISABLE TRIGGER mana_ai_fold" |
    as_tester "$pg_bin/postgres" --single -D "$without" mana_sync >/dev/null 2>&1
for what in "todo tasks other_apps 1.005" "ai aiChats other_tables_of_ai 1.005" "ai aiMissions missions 1.10"; do
    read -r app table name goal <<<"$what"
    data=$without; off=$(per_transaction "$app" "$table")
    data=$with; on=$(per_transaction "$app" "$table")
    echo "  ${name//_/ }: without $off, with $on, ratio $(ratio "$on" "$off") (goal: $goal)"
done
for changes in 1 10; do
    data=$without; off=$(per_copied_row $changes)
    data=$with; on=$(per_copied_row $changes)
    echo "  COPY, a row of $changes for each mission: without $off, with $on, ratio $(ratio "$on" "$off") (goal: 1.3)"
done
as_tester rm -rf "$with" "$without" "$work/run/counted"
