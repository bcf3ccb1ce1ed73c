#!/usr/bin/env bash
# make demo: a mission that a client pushed is planned by the database, in a cluster that is thrown away
# afterwards, with a scripted model and a scripted news search in place of real ones.
source "$(dirname "$0")/../environment.sh"

quickly
enter
source "$work/tree/test/demo/parts.sh"
start_services
encrypt_note
keep_service_key demo
start_demo_cluster "mana_ai.tick_enabled = off"

echo
echo "--- a client pushes an agent, a goal, an encrypted note and a due mission through mana-sync (test/demo/push.sql)"
push_mission
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

# The demo is also a test: it fails if there is no plan.
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

echo
"${psql[@]}" -f "$demo/what_if.sql"
what_if=$("${psql[@]}" -A -t -c "SELECT (SELECT count(*) FROM mana_ai.stale_plans WHERE record_id = 'note-belege') || ' ' || (SELECT count(*) FROM mana_ai.token_usage WHERE purpose = 'what_if')")
if [ "$what_if" != '1 2' ]; then
    echo "demo: expected a stale plan and two replies of another model, found: ${what_if:-none}"
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
  make demo-up              the same left running, with its HTML page (make demo-down ends it)
  make test, make bench     the tests and the figures
END
