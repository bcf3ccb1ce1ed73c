#!/usr/bin/env bash
# Sourced by run.sh: missions of many users at a model service that limits the rate of calls, becomes unavailable, or is
# slow; and the cost of a claim when one user has a million missions due.

tell_server() { perl -MHTTP::Tiny -e 'exit !HTTP::Tiny->new->post("$ARGV[0]/control", {content => $ARGV[1]})->{success}' "$model_url" "$1"; }

# provider_cluster [LINE]...: a worker and a model server that know nothing of each other yet.
provider_cluster() {
    start_server model --keep-requests 0
    new_cluster provider "shared_preload_libraries = 'mana_ai'" "mana_ai.llm_url = '$model_url'" "log_min_messages = error" "mana_ai.max_unreviewed = 0" "$@"
    q -c "CREATE EXTENSION mana_ai" 2>/dev/null
    wait_for_worker
}
end_provider_cluster() {
    end_cluster provider
    kill "$model_server_pid"
    wait "$model_server_pid" 2>/dev/null || true
}
# push_due PREFIX MISSIONS USERS MINUTES: due for this long.
push_due() {
    q -c "INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
          SELECT 'ai', 'aiMissions', '$1-' || i, '$1-user-' || i % $3, 'insert', jsonb_build_object('title', 'M' || i, 'state', 'active',
            'objective', 'Plane die Woche.', 'cadence', '{\"kind\": \"manual\"}'::jsonb, 'iterations', '[]'::jsonb,
            'nextRunAt', to_char((now() - interval '$4 min') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')), 'c'
            FROM generate_series(1, $2) i"
}
wait_for_planned() { # PREFIX MISSIONS SECONDS
    local until=$((SECONDS + $3))
    while [ "$(q -c "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned' AND mission_id LIKE '$1-%'")" -lt "$2" ]; do
        [ "$SECONDS" -lt "$until" ] || { echo "provider: not planned within $3 s"; break; }
        sleep 0.1
    done
}
outcomes_of() { q -c "SELECT coalesce(sum((outcome = 'failed')::int), 0) FROM mana_ai.runs WHERE mission_id LIKE '$1-%'"; }

# Two calls a mission; what the bucket holds at first goes out at once.
echo; echo "provider: 150 missions of 50 users due at once, 300 calls; 10 calls a second and 10 at once are taken: 29 s at best"
for spelling in none openai anthropic openrouter; do
    provider_cluster
    tell_server "{\"latency_ms\": 50, \"rate\": {\"per_second\": 10, \"burst\": 10, \"retry_after_s\": 1, \"spelling\": \"$spelling\"}}"
    start=$(now_ms)
    push_due rate 150 50 1
    wait_for_planned rate 150 150
    took=$(($(now_ms) - start))
    calls=$(server_stat requests) refused=$(server_stat turned_away)
    echo "provider: headers $spelling: $(ratio "$took" 29000) of the bound, $refused of $calls calls refused ($(ratio "$((refused * 100))" "$calls") %), $(outcomes_of rate) runs failed"
    end_provider_cluster
done

# The sustainable concurrency is found although the first answers are slow.
echo; echo "provider: 1000 missions of 50 users due at once; a call takes 5 s at first, less and less for 20 s, 0.2 s then; 500 in flight"
provider_cluster "mana_ai.max_concurrency = 500"
tell_server '{"latency_ms": 200, "slow_start": {"seconds": 20, "latency_ms": 4800}}'
start=$(now_ms)
push_due slow 1000 50 1
wait_for_planned slow 1000 120
echo "provider: slow start: all planned after $(ratio $(($(now_ms) - start)) 1000) s, $(server_stat max_in_flight) in flight at most, $(server_stat turned_away) calls refused, $(outcomes_of slow) runs failed"
end_provider_cluster

echo; echo "provider: 503 for 40 s while 100 missions are due, 300 calls"
provider_cluster
tell_server '{"latency_ms": 50, "down": 503}'
push_due away 100 20 1
sleep 40
lost=$(server_stat turned_away)
tell_server '{"down": 0}'
start=$(now_ms)
wait_for_planned away 100 60
echo "provider: $lost calls into the outage; all planned $(ratio $(($(now_ms) - start)) 1000) s after it; $(outcomes_of away) runs failed, $(q -c "SELECT count(*) FROM mana_ai.mission_schedule WHERE attempts > 0") missions with an attempt charged"
end_provider_cluster

echo; echo "provider: a user with 300 missions due for longer than 20 others' one each; 10 in flight, 0.4 s a call"
provider_cluster "mana_ai.max_concurrency = 10" "mana_ai.tick_enabled = off"
tell_server '{"latency_ms": 400}'
push_due one 300 1 10
push_due other 20 20 1
start=$(now_ms)
q -c "ALTER SYSTEM SET mana_ai.tick_enabled = on" -c "SELECT pg_reload_conf()" >/dev/null
wait_for_planned other 20 60
echo "provider: the 20 are done after $(ratio $(($(now_ms) - start)) 1000) s; of the one's 300 by then $(q -c "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned' AND mission_id LIKE 'one-%'")"
end_provider_cluster

missions=${MISSIONS:-1000000}
echo; echo "provider: $missions missions of one user due, and then one each of 1000 others; 64 in flight, 50 ms a call"
provider_cluster "mana_ai.tick_enabled = off" "shared_preload_libraries = 'mana_ai, pg_stat_statements'" "pg_stat_statements.track = all" "mana_ai.restore_iterations = off"
q -c "CREATE EXTENSION pg_stat_statements"
tell_server '{"latency_ms": 50}'
q -c "INSERT INTO mana_ai.mission_snapshots (user_id, mission_id, record, clocks, version, last_applied_at, updated_at)
      SELECT u, m, jsonb_build_object('id', m, 'title', 'M', 'objective', 'O', 'state', 'active', 'iterations', '[]'::jsonb,
             'inputs', '[]'::jsonb, 'cadence', '{\"kind\": \"manual\"}'::jsonb, 'nextRunAt', '2020-01-01T00:00:00.000Z'), '\x', 1, now(), now()
        FROM (SELECT 'm-one', 'one-' || i FROM generate_series(1, $missions) i
              UNION ALL SELECT 'u' || i, 'other-' || i FROM generate_series(1, 1000) i) AS v(u, m)"
q -c "INSERT INTO mana_ai.mission_schedule (user_id, mission_id, wake_at, due_at)
      SELECT user_id, mission_id, d.at, d.at FROM mana_ai.mission_snapshots s,
             LATERAL (SELECT now() - CASE WHEN s.user_id = 'm-one' THEN interval '1 h' ELSE interval '1 min' END) d(at)"
q -c "VACUUM ANALYZE" -c CHECKPOINT -c "SELECT pg_stat_statements_reset()" >/dev/null
q -c "ALTER SYSTEM SET mana_ai.tick_enabled = on" -c "SELECT pg_reload_conf()" >/dev/null
until [ "$(q -c "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'other-%'")" -ge 1000 ]; do sleep 0.2; done
q -c "ALTER SYSTEM SET mana_ai.tick_enabled = off" -c "SELECT pg_reload_conf()" >/dev/null
q -F ' ' -c "SELECT 'provider: choosing takes ' || round(sum(total_exec_time)::numeric / (sum(calls) FILTER (WHERE query LIKE '%ORDER BY wake_at LIMIT%')), 2) || ' ms a pass (statements of '
               || sum(calls) FILTER (WHERE query LIKE '%ORDER BY wake_at LIMIT%') || ' passes; worst of one statement ' || round(max(max_exec_time)::numeric, 2) || ' ms)'
               FROM pg_stat_statements
              WHERE query LIKE '%mission_schedule%' AND (query LIKE '%WITH RECURSIVE walk%' OR query LIKE '%SELECT user_id, mission_id, wake_at FROM%' OR query LIKE '%AS c(user_id, mission_id)%CROSS JOIN LATERAL%')"
echo "provider: before the last of the 1000 began, $(q -c "SELECT count(*) FROM mana_ai.runs r WHERE r.user_id = 'm-one' AND r.started_at < (SELECT max(started_at) FROM mana_ai.runs WHERE mission_id LIKE 'other-%')") of the one's had"
end_provider_cluster
