#!/usr/bin/env bash
# Runs the rings of tests, from the innermost out, or only those that are named:
#
#   layering   no layer includes what it must not
#   packaging  versions, META.json and the install script agree; a first build on any Debian finds what it needs
#   unit       core, crypto and net, without PostgreSQL, under sanitizers
#   regress    SQL against a throwaway cluster (pg_regress)
#   isolation  concurrent sessions (pg_isolation_regress)
#   tap        whole clusters: workers, crashes, standbys, misbehaving services
#   torture    all faults at once (test/torture); runs only if it is named
#
# Two more belong to a server with sanitizers (test/sanitize/run.sh): control, reports.
#
# The last line is "N passed, N failed, N skipped". FILTER=text runs only the TAP files and unit tests whose
# names contain it; of TAP files it may be a pattern (FILTER='006|009').
source "$(dirname "$0")/environment.sh"

rings=("$@")
[ ${#rings[@]} -gt 0 ] || rings=(layering packaging unit regress isolation tap)

passed=0 failed=0 skipped=0
skips=()
logs=

# count RING PASSED FAILED SKIPPED
count() {
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
    printf '%-10s %5d passed, %d failed, %d skipped (%d s)\n' "$1" "$2" "$3" "$4" "$((SECONDS - ring_start))"
}

# lines_like PATTERN FILE: how many there are.
lines_like() {
    grep -acE -- "$1" "$2" || true
}

# count_tap RING NAME STATUS LOG: adds one program's TAP to ring_passed, ring_failed, ring_skipped.
count_tap() {
    local ring=$1 name=$2 status=$3 log=$4 ok not_ok skip reason
    ok=$(grep -aE '^ok\b' "$log" | grep -aciEv '# *(skip|todo)' || true)
    not_ok=$(grep -aE '^not ok\b' "$log" | grep -aciEv '# *todo' || true)
    skip=$(grep -aciE '^(ok\b.*|1\.\.0 .*)# *skip' "$log" || true)
    while IFS= read -r reason; do
        skips+=("$ring $name: $reason")
    done < <(grep -aiE '^(ok\b.*|1\.\.0 .*)# *skip' "$log" | sed -E 's/.*# *[Ss][Kk][Ii][Pp][A-Za-z]* *//')
    if [ "$status" -ne 0 ] && [ "$not_ok" -eq 0 ]; then
        not_ok=1
        echo "$ring $name: ended with status $status"
    fi
    if [ "$not_ok" -gt 0 ]; then
        echo "---- $ring $name"
        tail -n 200 "$log"
    fi
    ring_passed=$((ring_passed + ok)) ring_failed=$((ring_failed + not_ok)) ring_skipped=$((ring_skipped + skip))
}

ring_programs() { # RING PROGRAM...: such as print TAP
    local ring=$1 program status
    shift
    ring_passed=0 ring_failed=0 ring_skipped=0
    for program in "$@"; do
        status=0
        "$top/test/$program" >"$logs/$program.log" 2>&1 </dev/null || status=$?
        count_tap "$ring" "$program" "$status" "$logs/$program.log"
    done
    count "$ring" "$ring_passed" "$ring_failed" "$ring_skipped"
}

ring_unit() {
    local log=$logs/unit.log status=0 ok bad skip name
    if ! build unit-program; then
        echo "unit: does not build"
        count unit 0 1 0
        return
    fi
    UBSAN_OPTIONS=print_stacktrace=1 as_builder "$top/build/bin/unit_tests" --gtest_color=no \
        --gtest_filter="${FILTER:+*$FILTER}*" >"$log" 2>&1 </dev/null || status=$?
    ok=$(lines_like '^\[       OK \]' "$log")
    bad=$(lines_like '^\[  FAILED  \] .* \([0-9]+ ms\)$' "$log")
    skip=$(lines_like '^\[  SKIPPED \] .* \([0-9]+ ms\)$' "$log")
    while IFS= read -r name; do
        skips+=("unit $name")
    done < <(awk '/^\[ RUN / { reason = "" }
        /^\[  SKIPPED \] .* ms\)$/ { print $4 ":" reason }
        !/^\[/ && !/: Skipped$/ && NF { reason = reason " " $0 }' "$log")
    # Each failing test's own output, not that of the passing ones.
    awk '/^\[ RUN / { text = "" } { text = text $0 "\n" } /^\[  FAILED  \] .* ms\)$/ { printf "%s", text }' "$log"
    if ! grep -qE '^\[==========\] .* ran\.' "$log"; then
        bad=$((bad + 1))
        tail -n 100 "$log"
        echo "unit: ended in the middle, with status $status"
    elif [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1
        tail -n 100 "$log"
        echo "unit: ended with status $status"
    fi
    count unit "$ok" "$bad" "$skip"
}

# The cluster of regress and isolation. Nothing listens at the model's address: what needs a model is
# tested by TAP, so that `make installcheck` works on any server.
regress_cluster() {
    [ -z "${regress_cluster_runs:-}" ] || return 0
    start_cluster regress "shared_preload_libraries = 'mana_ai'" "mana_ai.llm_url = 'http://127.0.0.1:1'" || return 1
    regress_cluster_runs=yes
}

# ring_installcheck RING DIFFS MAKE-ARGUMENT...
ring_installcheck() {
    local ring=$1 diffs=$2 log=$logs/$1.log status=0 ok bad
    shift 2
    if ! regress_cluster; then
        count "$ring" 0 1 0
        return
    fi
    (cd "$work/tree" && as_tester make -s installcheck PG_CONFIG="$private_pg_config" "$@") >"$log" 2>&1 || status=$?
    # PostgreSQL 14 and 15 write "test name ... ok", later versions TAP.
    ok=$(lines_like '(\.\.\. ok|^ok [0-9]+)' "$log")
    bad=$(lines_like '(\.\.\. FAILED|^not ok [0-9]+)' "$log")
    if [ "$status" -ne 0 ]; then
        [ "$bad" -gt 0 ] || bad=1
        echo "---- $ring"
        grep -vE '(\.\.\. ok|^ok [0-9]+)' "$log" | tail -n 40
        if [ -s "$work/tree/$diffs" ]; then
            head -n 400 "$work/tree/$diffs"
        fi
        grep -E 'PANIC|FATAL|terminated by signal' "$cluster/server.log" | tail -n 20 || true
    fi
    count "$ring" "$ok" "$bad" 0
}

# The installation that a TAP file is to run in: one with failpoints for files that say "needs: FAILPOINTS=1".
pg_config_of() { # FILE
    if [ -z "${MANA_AI_VARIANT:-}" ] && grep -q '^# needs: FAILPOINTS=1$' "$1"; then
        if [ -z "${failpoints_pg_config:-}" ]; then
            build_variant FAILPOINTS || return 1
            failpoints_pg_config=$variant_pg_config
        fi
        file_pg_config=$failpoints_pg_config
    else
        file_pg_config=$private_pg_config
    fi
}

ring_tap() {
    local file name status at file_pg_config
    local -A running=()
    local files=()
    ring_passed=0 ring_failed=0 ring_skipped=0
    # A server built from source may lack PostgreSQL's modules for tests.
    if [ ! -e "$(dirname "$("$private_pg_config" --pgxs)")/../../src/test/perl/PostgreSQL/Test/Cluster.pm" ]; then
        skips+=("tap: the server was built without --enable-tap-tests")
        count tap 0 0 1
        return
    fi
    for file in "$work"/tree/test/tap/*.pl; do
        name=$(basename "$file" .pl)
        if [ -e "$file" ] && [[ $name =~ ${FILTER:-.} ]]; then files+=("$name"); fi
    done
    # Two at a time: they mostly wait.
    for name in "${files[@]}"; do
        pg_config_of "$work/tree/test/tap/$name.pl" || exit 1
        while [ "$(jobs -rp | wc -l)" -ge "${TAP_JOBS:-2}" ]; do sleep 0.1; done
        (
            status=0
            "${tester_prefix[@]}" env PG_CONFIG="$file_pg_config" MANA_AI_BIN="$work/bin" TMPDIR="$work/run" \
                TESTDIR="$work/run/tap/$name" timeout -k 10 "${TAP_TIMEOUT:-900}" \
                "$work/tree/test/run_tap.sh" perl "test/tap/$name.pl" >"$logs/tap_$name.log" 2>&1 </dev/null || status=$?
            # The shell forgets its status when another process gets its number.
            echo "$status" >"$logs/tap_$name.status"
        ) &
        running[$name]=$!
    done
    for name in "${files[@]}"; do
        wait "${running[$name]}" 2>/dev/null || true
        status=$(cat "$logs/tap_$name.status" 2>/dev/null || echo 127)
        at=$ring_failed
        count_tap tap "$name" "$status" "$logs/tap_$name.log"
        if [ "$ring_failed" -gt "$at" ]; then
            tail -n 60 "$work/run/tap/$name"/tmp_check/log/*.log 2>/dev/null || true
        fi
    done
    count tap "$ring_passed" "$ring_failed" "$ring_skipped"
}

# run_perl RING NAME SCRIPT: one script in the tester's tree; adds to ring_passed, ring_failed, ring_skipped.
run_perl() {
    local status=0
    "${tester_prefix[@]}" env PG_CONFIG="$private_pg_config" MANA_AI_BIN="$work/bin" TMPDIR="$work/run" \
        TESTDIR="$work/run/$1/$2" "$work/tree/test/run_tap.sh" perl "$3" >"$logs/$1_$2.log" 2>&1 </dev/null || status=$?
    count_tap "$1" "$2" "$status" "$logs/$1_$2.log"
    grep -hE '^# (round|seed|[0-9]+ (rounds|rows|kills))' "$logs/$1_$2.log" || true
}

ring_torture() {
    ring_passed=0 ring_failed=0 ring_skipped=0
    if [ -n "${TORTURE_KILLS:-}" ] || [ -z "${TORTURE_ROWS:-}${LINEAGE_MISSIONS:-}" ] || [ -n "${TORTURE_MINUTES:-}" ]; then
        # A small file system for a disk that is full.
        as_tester mkdir "$work/run/small"
        if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=64m,mode=777 none "$work/run/small" 2>/dev/null; then
            export TORTURE_SMALL=$work/run/small
        else
            ring_skipped=1
            skips+=("torture: no full disk, since no file system can be mounted here")
        fi
        run_perl torture torture test/torture/torture.pl
    fi
    if [ -n "${TORTURE_ROWS:-}" ]; then
        run_perl torture hostile test/torture/hostile.pl
    fi
    if [ -n "${LINEAGE_MISSIONS:-}" ]; then
        run_perl torture lineage test/torture/lineage.pl
    fi
    count torture "$ring_passed" "$ring_failed" "$ring_skipped"
}

# reports_in FOLDER: what the sanitizers have reported: the address sanitizer in its own files, the other in the
# servers' logs.
reports_in() {
    local file
    for file in "$reports"/*; do
        [ ! -e "$file" ] || head -n 60 "$file"
    done
    grep -rhE -A 12 'runtime error:' "$1" --include='*.log' || true
}

# One fault of each kind, which must be reported (test/sanitize).
ring_control() {
    local fault found=0 module=$work/install/control.so folder=$work/run/control
    local -A faults=([heap-buffer-overflow]='read_past_the_end(4)' ['signed integer overflow']='overflow(2147483647)')
    if ! as_builder g++ -fsanitize=address,undefined -fno-sanitize=vptr,object-size -O1 -g -fPIC -shared \
        -isystem "$("$PG_CONFIG" --includedir-server)" -o "$module" "$top/test/sanitize/control.cpp" ||
        ! start_cluster control "restart_after_crash = on" ||
        ! "$pg_bin/psql" -XAtq -c "CREATE FUNCTION read_past_the_end(int) RETURNS int LANGUAGE c STRICT AS '$module';
            CREATE FUNCTION overflow(int) RETURNS int LANGUAGE c STRICT AS '$module'"; then
        count control 0 1 0
        return
    fi
    for fault in "${!faults[@]}"; do
        until "$pg_bin/psql" -XAtqc 'SELECT 1' >/dev/null 2>&1; do sleep 0.2; done
        "$pg_bin/psql" -XAtq -c "SELECT ${faults[$fault]}" >/dev/null 2>&1 || true
        if reports_in "$folder" | grep -q "$fault"; then
            found=$((found + 1))
        else
            echo "control: ${faults[$fault]} is not reported"
        fi
    done
    stop_cluster control || true
    # So that they are not taken for findings.
    rm -rf "$folder" "$reports"/*
    count control "$found" "$((2 - found))" 0
}

# What the sanitizers have reported while the rings before ran.
ring_reports() {
    if [ -z "${reports:-}" ]; then
        echo "reports: the server has no sanitizers"
        count reports 0 1 0
        return
    fi
    reports_in "$work/run" >"$logs/reports.log"
    head -n 400 "$logs/reports.log"
    if [ -s "$logs/reports.log" ]; then count reports 0 1 0; else count reports 1 0 0; fi
}

# Some rings only read the sources.
case " ${rings[*]} " in
    " layering " | " packaging " | " layering packaging ") make_workplace ;;
    *) enter ;;
esac
logs=$work/logs
mkdir "$logs"

for ring in "${rings[@]}"; do
    ring_start=$SECONDS
    before=$((passed + failed + skipped))
    case $ring in
        layering) ring_programs layering layering_test ;;
        packaging) ring_programs packaging packaging_test bootstrap_test ;;
        unit) ring_unit ;;
        regress) ring_installcheck regress regression.diffs ISOLATION= ;;
        isolation) ring_installcheck isolation output_iso/regression.diffs REGRESS= ;;
        tap) ring_tap ;;
        torture) ring_torture ;;
        control) ring_control ;;
        reports) ring_reports ;;
        *)
            echo >&2 "there is no ring named $ring"
            exit 2
            ;;
    esac
    if [ $((passed + failed + skipped)) -eq "$before" ] && [ -z "${FILTER:-}" ]; then
        echo "$ring: ran no test, which counts as a failure"
        failed=$((failed + 1))
    fi
done

if [ "$skipped" -gt 0 ]; then
    echo
    echo "skipped:"
    printf '  %s\n' "${skips[@]}"
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
