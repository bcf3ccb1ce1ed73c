#!/usr/bin/env bash
# make demo-down: ends what make demo-up has started and removes all of it. Does nothing when nothing runs.
source "$(dirname "$0")/../environment.sh"

state=$top/build/demo.state
if [ ! -e "$state" ]; then
    echo "no demo runs"
    exit 0
fi
work=$(sed -n 's/^work=//p' "$state")
server_pids=$(sed -n 's/^server_pids=//p' "$state")
# Never removes a folder that does not look like the demo's.
if [[ $work != */mana_ai.?????? || ! -d $work/run ]]; then
    as_builder rm -f "$state"
    echo "the demo is gone already"
    exit 0
fi
pg_bin=$(dirname "$(find "$work/install" -name pg_ctl -type f | head -n 1)")
if [ -e "$work/run/demo/postmaster.pid" ]; then
    as_tester "$pg_bin/pg_ctl" stop -D "$work/run/demo" -m fast -w -s
fi
# The process id may have been reused.
for pid in $server_pids; do
    if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$work/bin/"; then
        kill "$pid" 2>/dev/null || as_tester kill "$pid"
    fi
done
rm -rf "$work"
as_builder rm -f "$state"
echo "the demo has ended"
