#!/usr/bin/env bash
# make demo: a mission that a client pushed is planned by the database, in a cluster that is thrown away
# afterwards, with a scripted model and a scripted news search in place of real ones.
source "$(dirname "$0")/../environment.sh"

enter
demo=$work/tree/test/demo
psql=("$pg_bin/psql" -X -q)

start_server model --script "$demo/model.json"
start_server research --script "$demo/research.json"

# The server's key for grants, and what the user's device makes of it: a grant for one note, and the note.
client=$work/bin/mana_client
as_tester "$client" keygen "$work/run/grant_key.pem"
granted=$(as_tester "$client" grant "$work/run/grant_key.pem" mission-steuer 2099-01-01T00:00:00Z notes:note-steuer)
mission_key=${granted##*\"key\":\"}
mission_key=${mission_key%%\"*}
seal() { printf '%s\n' "$1" | as_tester "$client" seal "$mission_key"; }
sealed_title=$(seal 'Notiz für Ada')
sealed_content=$(seal 'Die Zugangsdaten fürs Portal liegen im Tresor. Frau Brandt prüft die Zahlen immer freitags.')

start_cluster demo \
    "shared_preload_libraries = 'mana_ai'" \
    "mana_ai.database = 'mana_sync'" \
    "mana_ai.tick_enabled = off" \
    "mana_ai.service_key = 'demo'" \
    "mana_ai.llm_url = '$model_url'" \
    "mana_ai.api_url = '$research_url'" \
    "mana_ai.grant_private_key_file = '$work/run/grant_key.pem'"
"$pg_bin/createdb" mana_sync
export PGDATABASE=mana_sync

cd "$work/tree/test/data"
"${psql[@]}" -f "$demo/set_up.sql"

echo
echo "--- a client pushes an agent, a goal, an encrypted note and a due mission through mana-sync (test/demo/push.sql)"
"${psql[@]}" -U mana_sync_service -v sealed_title="$sealed_title" -v sealed_content="$sealed_content" \
    -v grant="$(printf '%s' "$granted" | sed 's/^{"grant":\(.*\),"key":"[0-9a-f]*"}$/\1/')" -f "$demo/push.sql"
"${psql[@]}" -P footer=off -P border=0 -P expanded=on -c "
    SELECT record ->> 'title' AS mission, record ->> 'objective' AS objective, record -> 'cadence' AS cadence
    FROM mana_ai.mission_snapshots"

echo
echo "--- what the model will be told: SELECT user_prompt FROM mana_ai.explain('user-anna', 'mission-steuer')"
echo "    (explain() makes no call and opens nothing: the note shows as [encrypted])"
"${psql[@]}" -A -t -c "SELECT user_prompt FROM mana_ai.explain('user-anna', 'mission-steuer')" | sed 's/^/    /'

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
opened=$("${psql[@]}" -A -t -c "SELECT count(*) FROM mana_ai.decrypt_audit WHERE record_id = 'note-steuer' AND status = 'ok'")
if [ "$opened" != 1 ]; then
    echo "demo: expected the note to be opened once, found: ${opened:-none}"
    tail -n 40 "$cluster/server.log"
    exit 1
fi

cat <<'END'

The mission was planned inside PostgreSQL and its plan is back in sync_changes, where every client syncs it.
Look at next:
  README.md                 what this is and how to install it for real
  docs/operations.md        preloading, roles, settings, what to watch
  docs/security.md          what the server can read, grants and their key
  test/demo/*.sql           the statements that you just saw
  make test, make bench     the tests and the figures
END
