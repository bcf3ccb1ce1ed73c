# shellcheck shell=bash
# What make demo and make demo-up share: the scripted services, the user's device, and the cluster's settings.
# Sourced after environment.sh and enter.

demo=$work/tree/test/demo
psql=("$pg_bin/psql" -X -q)

# start_services [OPTION]...: the model, with these options, and the news search.
start_services() {
    start_server model --script "$demo/model.json" "$@" </dev/null
    start_server research --script "$demo/research.json" </dev/null
}

# The server's key for grants, and what the user's device creates with it: a grant for one note, and the encrypted note.
encrypt_note() {
    local client=$work/bin/mana_client made
    as_tester "$client" keygen "$work/run/grant_key.pem"
    made=$(as_tester "$client" grant "$work/run/grant_key.pem" mission-steuer 2099-01-01T00:00:00Z notes:note-steuer)
    grant=$(sed 's/^{"grant":\(.*\),"key":"[0-9a-f]*"}$/\1/' <<<"$made")
    key=$(sed 's/.*"key":"\([0-9a-f]*\)"}$/\1/' <<<"$made")
    sealed_title=$(as_tester "$client" seal "$key" <<<'Notiz für Ada')
    sealed_content=$(as_tester "$client" seal "$key" <<<'Die Zugangsdaten fürs Portal liegen im Tresor. Frau Brandt prüft die Zahlen immer freitags.')
}

# keep_service_key KEY: in the file that the cluster's settings name.
keep_service_key() {
    as_tester sh -c 'umask 077 && cat >"$1"' sh "$work/run/service_key" <<<"$1"
}

# start_demo_cluster [LINE]...: with the database mana_sync as mana-sync has it, and the extension in it.
start_demo_cluster() {
    start_cluster demo \
        "mana_ai.crash_limit = 3" \
        "shared_preload_libraries = 'mana_ai'" \
        "mana_ai.database = 'mana_sync'" \
        "mana_ai.llm_url = '$model_url'" \
        "mana_ai.api_url = '$research_url'" \
        "mana_ai.grant_private_key_file = '$work/run/grant_key.pem'" \
        "mana_ai.service_key_file = '$work/run/service_key'" \
        "$@"
    "$pg_bin/createdb" mana_sync
    export PGDATABASE=mana_sync
    (cd "$work/tree/test/data" && "${psql[@]}" -f "$demo/set_up.sql")
}

push_mission() {
    "${psql[@]}" -U mana_sync_service -v sealed_title="$sealed_title" -v sealed_content="$sealed_content" \
        -v grant="$grant" -f "$demo/push.sql"
}
