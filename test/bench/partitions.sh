#!/usr/bin/env bash
# Sourced by run.sh: what a partitioned log costs, compared with one table: an insert, a fold, a repair and replay(). CPU
# time of the backend, which other work on the machine disturbs little; layouts in turn, medians of 5.
echo; echo "partitions: CPU of the backend, one table and 100 partitions in turn, medians of 5"
rows=100000

# log_of LAYOUT: the statements that make the table.
log_of() {
    local columns="id uuid NOT NULL DEFAULT gen_random_uuid(), app_id text NOT NULL, table_name text NOT NULL, record_id text NOT NULL,
      user_id text NOT NULL, space_id text, op text NOT NULL, data jsonb, field_timestamps jsonb DEFAULT '{}', client_id text NOT NULL,
      created_at timestamptz DEFAULT now(), schema_version integer DEFAULT 1, actor jsonb"
    case $1 in
        plain) echo "CREATE TABLE sync_changes ($columns);" ;;
        hash)
            echo "CREATE TABLE sync_changes ($columns) PARTITION BY HASH (user_id);"
            for ((i = 0; i < 100; i++)); do echo "CREATE TABLE part_$i PARTITION OF sync_changes FOR VALUES WITH (MODULUS 100, REMAINDER $i);"; done
            ;;
        range)
            echo "CREATE TABLE sync_changes ($columns) PARTITION BY RANGE (created_at);"
            # The history's day, in steps of a quarter of an hour, and one for all that is later.
            for ((i = 0; i < 99; i++)); do
                echo "SELECT format('CREATE TABLE part_$i PARTITION OF sync_changes FOR VALUES FROM (%L) TO (%L)', timestamptz '2026-02-01' + interval '$((i * $rows / 99)) s', timestamptz '2026-02-01' + interval '$(((i + 1) * $rows / 99)) s') \\gexec"
            done
            echo "SELECT format('CREATE TABLE part_99 PARTITION OF sync_changes FOR VALUES FROM (%L) TO (MAXVALUE)', timestamptz '2026-02-01' + interval '$rows s') \\gexec"
            ;;
    esac
    echo "CREATE INDEX ON sync_changes (user_id, app_id, created_at);"
    echo "CREATE INDEX ON sync_changes (table_name, record_id, created_at);"
    echo "CREATE INDEX ON sync_changes (user_id, app_id, table_name, created_at);"
}

start_cluster partitions "shared_preload_libraries = 'mana_ai'" "mana_ai.tick_enabled = off" "shared_buffers = 1GB" "max_wal_size = 8GB" \
    "checkpoint_timeout = 1h" "autovacuum = off" "max_locks_per_transaction = 512" "jit = off"
for layout in plain hash range; do
    "$pg_bin/createdb" "log_$layout"
    "${psql[@]}" -d "log_$layout" -c "SET client_min_messages = warning" -f <(log_of $layout) >/dev/null
    "${psql[@]}" -d "log_$layout" -v rows=$rows -f "$bench/history.sql" >/dev/null
    "${psql[@]}" -d "log_$layout" -c "SET client_min_messages = warning" -c "CREATE EXTENSION mana_ai" >/dev/null
done

# cpu_of LAYOUT SETUP STATEMENTS: microseconds of CPU of the statements, after those of the setup.
cpu_of() {
    {
        echo "\\o /dev/null"
        echo "$2"
        echo "SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1) AS before \\gset"
        echo "$3"
        echo "\\o"
        echo "SELECT round((split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::numeric - :before) / 1000)"
    } | "${psql[@]}" -d "log_$1"
}
insert() { # OFFSET RECORDS ID USERS
    echo "DO \$\$ BEGIN FOR i IN 1..$2 LOOP INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id) VALUES ('$4', 'aiMissions', $3, 'u' || i % 100, 'update', jsonb_build_object('title', 'x' || i + $1, 'objective', 'y'), '{}', 'c'); COMMIT; END LOOP; END \$\$;"
}
measure() { # WHAT UNIT DIVISOR SETUP STATEMENTS
    local layout round plain
    for layout in plain hash range; do : >"$work/cpu_$layout"; done
    for round in 1 2 3 4 5; do
        for layout in plain hash range; do cpu_of $layout "${4//ROUND/$round}" "${5//ROUND/$round}" >>"$work/cpu_$layout"; done
    done
    plain=$(median <"$work/cpu_plain")
    for layout in hash range; do
        echo "  $1: one table $(ratio "$plain" "$3") us, $layout $(ratio "$(median <"$work/cpu_$layout")" "$3") us per $2, ratio $(ratio "$(median <"$work/cpu_$layout")" "$plain")"
    done
}
if wanted partitions; then
    warm=$(insert 0 200 "'m' || 10 * (i % 100) + i % 100" ai)
    warm_other=$(insert 0 200 "'m' || i" todo)
    measure "insert of another app's row" row 2000 "$warm_other" "$(insert ROUND 2000 "'m' || i" todo)"
    measure "insert, existing mission" row 2000 "$warm" "$(insert ROUND 2000 "'m' || i % 100 + 100 * (i / 100)" ai)"
    measure "insert, new mission" row 2000 "$warm" "$(insert ROUND 2000 "'new-ROUND-' || i" ai)"
    measure "fold of an empty database" row $rows "SELECT mana_ai.detach(); TRUNCATE mana_ai.mission_snapshots, mana_ai.mission_schedule, mana_ai.agent_snapshots;" "SET client_min_messages = warning; SELECT mana_ai.attach('sync_changes');"
    refresh="SELECT mana_ai.refresh_snapshots();"
    mark="INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) SELECT user_id, 'aiMissions', mission_id, 'bench' FROM mana_ai.mission_snapshots;"
    replay="SELECT count(mana_ai.replay(user_id, 'ai', 'aiMissions', mission_id)) FROM (SELECT * FROM mana_ai.mission_snapshots ORDER BY user_id, mission_id LIMIT 2000) s;"
    measure "refresh_snapshots() without a change" row $rows "$refresh" "$refresh"
    measure "the same with every mission marked" mission 20000 "$refresh $mark" "$refresh"
    measure "replay() of a mission" mission 2000 "$replay" "$replay"
fi

# What callgrind counts does not depend on load: the instructions of one transaction with one insert.
if wanted partition-instructions; then
    stop_cluster partitions
    counted() { # LAYOUT INSERTS APP RECORD: of a single-process server
        local layout=$1 inserts=$2 i
        as_tester rm -rf "$work/run/counted"
        as_tester cp -a "$cluster" "$work/run/counted"
        {
            echo "PREPARE ins(text, text, jsonb) AS INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, data, client_id) VALUES ('$3', 'aiMissions', \$1, \$2, 'update', \$3, 'c')"
            for ((i = 0; i < inserts; i++)); do
                echo "EXECUTE ins('${4//NUMBER/$i}', 'u$((i % 100))', '{\"title\": \"title $i\"}')"
            done
        } >"$work/run/rows.sql"
        chmod a+r "$work/run/rows.sql"
        with_slow_clock valgrind --tool=callgrind --callgrind-out-file=/dev/null "$pg_bin/postgres" --single -c fsync=off \
            -D "$work/run/counted" "log_$layout" <"$work/run/rows.sql" >"$work/run/single.log" 2>&1
        awk '/Collected :/ { print $4 }' "$work/run/single.log"
    }
    for what in "todo NUMBER another_app's_row" "ai mNUMBER existing_mission" "ai new-NUMBER new_mission"; do
        read -r app record name <<<"$what"
        for layout in plain hash range; do
            # Each leaf has been used before the second hundred.
            few=$(counted $layout 200 "$app" "$record")
            many=$(counted $layout 400 "$app" "$record")
            eval "$layout=$(((many - few) / 200))"
        done
        echo "  insert, ${name//_/ }: instructions with one table $plain, hash $hash ($(ratio "$hash" "$plain")), range $range ($(ratio "$range" "$plain"))"
    done
    as_tester rm -rf "$work/run/counted" "$cluster"
else
    end_cluster partitions
fi
