#!/usr/bin/env bash
# make demo: a mission that a client pushed is planned by the database, in a cluster that is thrown away
# afterwards, with a scripted model in place of a real one.
source "$(dirname "$0")/../environment.sh"

enter
demo=$work/tree/test/demo
psql=("$pg_bin/psql" -X -q)

start_model_server --script "$demo/model.json"
start_cluster demo \
    "shared_preload_libraries = 'mana_ai'" \
    "mana_ai.database = 'mana_sync'" \
    "mana_ai.tick_enabled = off" \
    "mana_ai.service_key = 'demo'" \
    "mana_ai.llm_url = '$model_url'"
"$pg_bin/createdb" mana_sync
export PGDATABASE=mana_sync

cd "$work/tree/test/data"
"${psql[@]}" -f "$demo/set_up.sql"

echo
echo "--- a client pushes an agent and a due mission through mana-sync (test/demo/push.sql)"
"${psql[@]}" -U mana_sync_service -f "$demo/push.sql"
"${psql[@]}" -P footer=off -P border=0 -P expanded=on -c "
    SELECT record ->> 'title' AS mission, record ->> 'objective' AS objective, record -> 'cadence' AS cadence
    FROM mana_ai.mission_snapshots"

echo
echo "--- SELECT * FROM mana_ai.run_tick()     (the worker does this by itself; here it is switched off)"
"${psql[@]}" -P footer=off -P border=0 -P expanded=on -c "SELECT * FROM mana_ai.run_tick()"

echo
"${psql[@]}" -f "$demo/show.sql"

# The demo is a test too: it fails when no plan came back.
steps=$("${psql[@]}" -A -t -c "SELECT jsonb_array_length(data -> 'iterations' -> -1 -> 'plan') FROM public.sync_changes WHERE client_id = 'mana-ai-runner'")
if [ "$steps" != 3 ]; then
    echo "demo: expected one iteration with 3 steps in sync_changes, found: ${steps:-none}"
    tail -n 40 "$cluster/server.log"
    exit 1
fi

cat <<'END'

The mission was planned inside PostgreSQL and its plan is back in sync_changes, where every client syncs it.
Look at next:
  README.md                 what this is and how to install it for real
  docs/operations.md        preloading, roles, settings, what to watch
  test/demo/*.sql           the statements that you just saw
  make test, make bench     the tests and the figures
END
