#!/usr/bin/env bash
# make demo-up: the demo's cluster, left running with its HTTP endpoint and some missions and agents.
# make demo-down (test/demo/down.sh) ends it and removes everything.
source "$(dirname "$0")/../environment.sh"

state=$top/build/demo.state
if [ -e "$state" ]; then
    "$top/test/demo/down.sh"
fi

quickly
enter
source "$work/tree/test/demo/parts.sh"

in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port=${DEMO_PORT:-3067}
while in_use "$port"; do port=$((port + 1)); done
service_key=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')

# What is started from here on outlives the terminal.
trap '' HUP
start_services --latency-ms 1500
encrypt_note
keep_service_key "$service_key"
start_demo_cluster "mana_ai.http_listen = '127.0.0.1:$port'"
push_mission
"${psql[@]}" -U mana_sync_service -f "$demo/push_more.sql"

address=http://127.0.0.1:$port
tries=0
until (exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&3 &&
    head -n 1 <&3 | grep -q ' 200 ') 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -eq 100 ]; then
        echo "the endpoint does not answer"
        tail -n 40 "$cluster/server.log"
        exit 1
    fi
    sleep 0.1
done

as_builder tee "$state" >/dev/null <<END
work=$work
server_pids=$model_server_pid $research_server_pid
END
trap - EXIT

cat <<END

The demo runs.
  page          $address/
  service key   $service_key
  health        curl $address/health
  a tick        curl -X POST -H 'X-Service-Key: $service_key' $address/internal/tick
  SQL           $pg_bin/psql -h $PGHOST -U postgres mana_sync

make demo-down ends it and removes everything.
END
