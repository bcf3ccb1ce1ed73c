# shellcheck shell=bash
# Sourced by the scripts that run something against PostgreSQL (tests, demo, benchmarks). It gives them
#
#   $top            the checkout
#   enter           makes $work, builds the extension and the test programs, and makes a private installation
#                   of PostgreSQL with the extension in it
#   $work           a temporary directory of this run, removed at its end: bin/ the test programs, tree/ a copy
#                   of the tests, run/ what the tester may write
#   $pg_bin, $private_pg_config   of the private installation
#   as_tester       runs a command as the user who runs PostgreSQL
#   as_builder      runs a command as the checkout's owner
#   build_variant   the extension as a test needs it, in addition to the ordinary one
#   quickly         before enter: only what the demo needs, and without optimization if nothing has been built
#   start_cluster, stop_cluster, start_server   see below; all is ended when the script ends
#
# Nothing is written outside $work, except build/ and mana_ai.so in the checkout.

set -euo pipefail
umask 022

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PG_CONFIG=${PG_CONFIG:-pg_config}

# make's own variables must not reach the makes that we start.
unset MAKEFLAGS MFLAGS MAKELEVEL

# PostgreSQL refuses to run as root, and root must leave nothing in a checkout that its owner could not
# remove. So for root the checkout's owner builds and tests. If the owner is root too, or has no account here
# (a mounted folder), the tester is an unprivileged user, who cannot access the machine's own clusters either.
builder_prefix=()
tester_prefix=()
tester=$(id -un)
if [ "$(id -u)" -eq 0 ]; then
    owner=$(stat -c %u "$top")
    if [ "$owner" -ne 0 ]; then
        builder_prefix=(setpriv --reuid "$owner" --regid "$(stat -c %g "$top")" --clear-groups env "HOME=${TMPDIR:-/tmp}")
    fi
    tester=nobody
    if [ "$owner" -ne 0 ] && getent passwd "$owner" >/dev/null; then
        tester=$(getent passwd "$owner" | cut -d: -f1)
    fi
    tester_prefix=(setpriv --reuid "$tester" --regid "$(id -g "$tester")" --clear-groups
        env "HOME=${TMPDIR:-/tmp}" "USER=$tester" "LOGNAME=$tester")
fi

as_builder() { "${builder_prefix[@]}" "$@"; }
as_tester() { "${tester_prefix[@]}" "$@"; }

leave() {
    local status=$? file pid
    trap - EXIT INT TERM HUP
    # Errors here would hide the exit status.
    set +e
    for pid in $(jobs -p); do
        kill "$pid" 2>/dev/null
    done
    wait 2>/dev/null
    # Also the clusters of interrupted TAP tests.
    while IFS= read -r file; do
        as_tester "$pg_bin/pg_ctl" stop -D "${file%/postmaster.pid}" -m immediate >/dev/null 2>&1
    done < <(find "$work/run" -name postmaster.pid)
    cd /
    if mountpoint -q "$work/run/small"; then umount -l "$work/run/small"; fi
    rm -rf "$work"
    exit "$status"
}

# build TARGET...: shows the progress, other output only if it fails. In a log one line in twenty is enough.
build() {
    local every=20 line shown=0
    if [ -t 1 ]; then every=1; fi
    as_builder make -s -C "$top" -j"$(nproc)" PG_CONFIG="$PG_CONFIG" "$@" 2>&1 | tee "$work/build.log" |
        while IFS= read -r line; do
            if [[ $line =~ ^\[\ *[0-9]+/[0-9]+\]\  ]] && [ $((shown++ % every)) -eq 0 ]; then echo "$line"; fi
        done || {
        cat "$work/build.log"
        return 1
    }
}

programs=programs
# The first demo is built without optimization, to be quick. If the library exists or flags are given, the build is ordinary.
quickly() {
    programs=demo-programs
    [ -z "${PG_CXXFLAGS:-}" ] || return 0
    if [ ! -e "$top/mana_ai.so" ] || grep -q '_quick ' "$top/build/linked_for" 2>/dev/null; then export QUICK=1; fi
}

make_workplace() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/mana_ai.XXXXXX")
    trap leave EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    chmod 755 "$work"
    mkdir "$work/install" "$work/run"
    if [ "$(id -u)" -eq 0 ]; then
        chown "$(stat -c %u:%g "$top")" "$work/install"
        chown "$tester" "$work/run"
    fi
}

# All of it: also builds, and installs in $work.
enter() {
    make_workplace
    if [ -n "${QUICK:-}" ]; then
        echo "building without optimization (the first time takes a minute or two)"
    else
        echo "building (the first time takes a few minutes)"
    fi
    build all
    build "$programs"
    # Everything runs in a variant if MANA_AI_VARIANT names one.
    if [ -n "${MANA_AI_VARIANT:-}" ]; then
        build_variant "$MANA_AI_VARIANT" || return 1
        private_pg_config=$variant_pg_config
    else
        private_pg_config=$(as_builder "$top/test/private_install.sh" "$work/install")
    fi
    pg_bin=$(dirname "$private_pg_config")

    # The tester may not be able to read the checkout, which can be in root's home.
    cp -R "$top/build/bin${QUICK:+_quick}" "$work/bin"
    mkdir "$work/tree"
    cp -RP "$top/test" "$top/docs" "$top/expected" "$top/include" "$top/sql" "$top/Makefile" "$top/mana_ai.control" "$work/tree/"
    if [ "$(id -u)" -eq 0 ]; then
        chown -R "$tester" "$work/tree"
    fi
    cd "$work/run"
}

# build_variant VARIABLE: the extension built with `make VARIABLE=1`, in a separate private installation, whose
# pg_config is then $variant_pg_config. Afterwards mana_ai.so is the ordinary one again. With SANITIZE reports of
# faults go to $reports.
build_variant() {
    local folder=$work/install_$1
    mkdir -p "$folder"
    if [ "$(id -u)" -eq 0 ]; then
        chown "$(stat -c %u:%g "$top")" "$folder"
    fi
    build "$1=1" all || return 1
    variant_pg_config=$(as_builder env "$1=1" "$top/test/private_install.sh" "$folder")
    if [ "$1" = SANITIZE ]; then
        reports=$work/run/reports
        as_tester mkdir -p "$reports"
        as_builder "$top/test/sanitize/wrap_postgres.sh" "$variant_pg_config" "$reports"
    fi
    build all
}

# start_cluster NAME [LINE]...: a throwaway cluster with these lines in its configuration, listening only on its
# own socket. Sets $cluster, and PGHOST, PGPORT, PGUSER and PGDATABASE for clients.
start_cluster() {
    local name=$1
    shift
    cluster=$work/run/$name
    as_tester "$pg_bin/initdb" -D "$cluster" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$work/$name.initdb.log" 2>&1 || {
        cat "$work/$name.initdb.log"
        return 1
    }
    as_tester mkdir -p "$work/run/socket"
    {
        echo "listen_addresses = ''"
        echo "unix_socket_directories = '$work/run/socket'"
        echo "fsync = off"
        echo "max_worker_processes = 32"
        echo "mana_ai.crash_limit = 0"
        printf '%s\n' "$@"
    } >>"$cluster/postgresql.conf"
    as_tester "$pg_bin/pg_ctl" start -D "$cluster" -w -s -l "$cluster/server.log" || {
        tail -n 30 "$cluster/server.log"
        return 1
    }
    export PGHOST=$work/run/socket PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
}

# stop_cluster NAME
stop_cluster() {
    as_tester "$pg_bin/pg_ctl" stop -D "$work/run/$1" -m fast -w -s
}

# start_server NAME [OPTION]...: the scripted NAME_server. Sets $NAME_url and $NAME_server_pid.
start_server() {
    local name=$1 port_file=$work/$1_server.port tries=0 pid
    shift
    rm -f "$port_file"
    "${tester_prefix[@]}" "$work/bin/${name}_server" --port 0 "$@" >"$port_file" 2>"$work/${name}_server.log" &
    pid=$!
    until [ -s "$port_file" ]; do
        tries=$((tries + 1))
        if [ "$tries" -eq 200 ] || ! kill -0 "$pid" 2>/dev/null; then
            cat "$work/${name}_server.log"
            return 1
        fi
        sleep 0.05
    done
    printf -v "${name}_url" 'http://127.0.0.1:%s' "$(cat "$port_file")"
    printf -v "${name}_server_pid" '%s' "$pid"
}
