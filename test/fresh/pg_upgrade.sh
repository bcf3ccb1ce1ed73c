#!/usr/bin/env bash
# pg_upgrade.sh OLD_PG_CONFIG NEW_PG_CONFIG: a cluster with planned missions goes from one major to another with
# pg_upgrade, and keeps everything. Both servers and their headers must be there; they are not touched.
# OLD_LIBRARY=file is a mana_ai.so for the old server that was built elsewhere. Prints TAP; the last line counts.
new_pg_config=${2:?usage: pg_upgrade.sh OLD_PG_CONFIG NEW_PG_CONFIG}
old_pg_config=$1
export PG_CONFIG=$new_pg_config
source "$(dirname "$0")/../environment.sh"
enter
new_private=$private_pg_config

mkdir "$work/install_old"
[ "$(id -u)" -ne 0 ] || chown "$(stat -c %u:%g "$top")" "$work/install_old"
if [ -n "${OLD_LIBRARY:-}" ]; then
    as_builder env PG_CONFIG="$old_pg_config" MANA_AI_LIBRARY="$OLD_LIBRARY" "$top/test/private_install.sh" "$work/install_old" >"$work/old_pg_config"
else
    PG_CONFIG=$old_pg_config build all
    as_builder env PG_CONFIG="$old_pg_config" "$top/test/private_install.sh" "$work/install_old" >"$work/old_pg_config"
    build all
fi
old_bin=$(dirname "$(cat "$work/old_pg_config")")
new_bin=$(dirname "$new_private")

number=0 failed=0
ok() { # STATUS NAME
    number=$((number + 1))
    if [ "$1" -eq 0 ]; then echo "ok $number - $2"; else
        failed=$((failed + 1))
        echo "not ok $number - $2"
    fi
}
is() { # GOT EXPECTED NAME
    if [ "$1" = "$2" ]; then ok 0 "$3"; else
        ok 1 "$3"
        printf '#   got:      %s\n#   expected: %s\n' "$1" "$2"
    fi
}
value() { "$new_bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -c "$1"; }
wait_for() { # SQL EXPECTED NAME
    local got tries
    for ((tries = 0; tries < 300; tries++)); do
        got=$(value "$1" 2>&1 || true)
        [ "$got" != "$2" ] || break
        sleep 0.1
    done
    is "$got" "$2" "$3"
}

# ---------------------------------------------------------------- before
pg_bin=$old_bin # start_cluster uses it
source "$work/tree/test/demo/parts.sh"
start_services
encrypt_note
keep_service_key demo
start_demo_cluster "mana_ai.tick_interval = '1s'" "shared_buffers = 16MB"
"$new_bin/psql" -X -q -f "$work/tree/test/data/invariants.sql"
push_mission
wait_for "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned'" 1 'a mission is planned before'
value "INSERT INTO mana_ai.tools (name, module, description, default_policy, parameters)
         VALUES ('water_plants', 'garden', 'Gießt die Pflanzen', 'propose', '[]');
       UPDATE mana_ai.tools SET enabled = false WHERE name = 'create_event';
       CREATE FUNCTION public.read_recipe(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
       SELECT mana_ai.register_resolver('cookbook', 'public.read_recipe(text, jsonb)')" >/dev/null
declare -A kept=(
    [runs]="SELECT json_agg(r ORDER BY started_at, run_id) FROM mana_ai.runs r"
    [audit]="SELECT json_agg(a ORDER BY id) FROM mana_ai.decrypt_audit a"
    [tools]="SELECT json_agg(t ORDER BY name) FROM mana_ai.tools t"
    [resolvers]="SELECT json_agg(json_build_array(module, resolver::regprocedure::text)) FROM mana_ai.resolvers"
    [tokens]="SELECT json_agg(t ORDER BY t::text) FROM mana_ai.token_usage t"
    [missions]="SELECT json_agg(json_build_array(user_id, mission_id, record) ORDER BY mission_id) FROM mana_ai.mission_snapshots"
    [schedule]="SELECT json_agg(json_build_array(mission_id, due_at) ORDER BY mission_id) FROM mana_ai.mission_schedule"
    [log]="SELECT md5(string_agg(c::text, '' ORDER BY id)) FROM public.sync_changes c"
    [trigger]="SELECT json_agg(tgname ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'public.sync_changes'::regclass AND NOT tgisinternal"
)
declare -A before=()
value "ALTER SYSTEM SET mana_ai.tick_enabled = off" >/dev/null
value "SELECT pg_reload_conf()" >/dev/null
wait_for "SELECT worker_state FROM mana_ai.status()" paused 'the worker is paused'
for name in "${!kept[@]}"; do before[$name]=$(value "${kept[$name]}"); done
old_cluster=$cluster
stop_cluster demo

# ---------------------------------------------------------------- pg_upgrade
pg_bin=$new_bin
new_cluster=$work/run/upgraded
checksums=()
if [ "$("$old_bin/pg_controldata" "$old_cluster" | sed -n 's/^Data page checksum version: *//p')" = 0 ] &&
    "$new_bin/initdb" --help | grep -q no-data-checksums; then
    checksums=(--no-data-checksums)
fi
as_tester "$new_bin/initdb" -D "$new_cluster" -U postgres -A trust -E UTF8 --no-locale --no-sync "${checksums[@]}" >"$work/initdb.log"
grep -E "^[a-z_.]+ = " "$old_cluster/postgresql.conf" | grep -E "^(listen|unix_socket_dir|fsync|max_worker|shared_preload|mana_ai)" |
    as_tester tee -a "$new_cluster/postgresql.conf" >/dev/null
as_tester mkdir -p "$work/run/upgrade"
status=0
(cd "$work/run/upgrade" && as_tester "$new_bin/pg_upgrade" -b "$old_bin" -B "$new_bin" -d "$old_cluster" -D "$new_cluster" \
    -U postgres -s "$work/run/upgrade" >"$work/upgrade.log" 2>&1) || status=$?
ok $status "pg_upgrade from $("$old_bin/postgres" --version) to $("$new_bin/postgres" --version)"
if [ "$status" -ne 0 ]; then
    tail -n 30 "$work/upgrade.log"
    find "$new_cluster/pg_upgrade_output.d" -name '*.log' -exec tail -n 20 {} + 2>/dev/null || true
else
    echo "mana_ai.tick_enabled = off" | as_tester tee -a "$new_cluster/postgresql.conf" >/dev/null
    as_tester "$new_bin/pg_ctl" start -D "$new_cluster" -w -s -l "$new_cluster/server.log"
    for name in $(printf '%s\n' "${!kept[@]}" | sort); do is "$(value "${kept[$name]}")" "${before[$name]}" "kept: $name"; done
    sed -i '/tick_enabled/d' "$new_cluster/postgresql.conf"
    value "SELECT pg_reload_conf()" >/dev/null
    wait_for "SELECT worker_problem IS NULL AND worker_state = 'idle' FROM mana_ai.status()" t 'the worker runs'
    wait_for "SELECT count(*) FROM mana_ai.dirty_records" 0 'nothing waits for repair'
    is "$(value "SELECT count(*) FROM public.broken_invariants()")" 0 'snapshots and schedule are what the log says'
    value "SELECT mana_ai.run_mission('user-anna', 'mission-steuer')" >/dev/null
    wait_for "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned'" 2 'a mission is planned afterwards'
    is "$(value "SELECT jsonb_array_length(record -> 'iterations') FROM mana_ai.mission_snapshots WHERE mission_id = 'mission-steuer'")" 2 'and has two iterations'
    is "$(value "SELECT count(*) FROM mana_ai.refresh_snapshots()")" 1 'the log can be folded again'
    is "$(value "SELECT count(*) FROM public.broken_invariants()")" 0 'with the same result'
    if [ "$failed" -gt 0 ]; then tail -n 30 "$new_cluster/server.log"; fi
    as_tester "$new_bin/pg_ctl" stop -D "$new_cluster" -m fast -w -s
fi
echo "1..$number"
echo "$((number - failed)) passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
