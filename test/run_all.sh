#!/usr/bin/env bash
# Runs the rings of tests, from the innermost out, or only those that are named:
#
#   layering   no layer includes what it must not
#   packaging  versions, META.json and the install script agree
#   unit       core, crypto and net, without PostgreSQL, under sanitizers
#   regress    SQL against a throwaway cluster (pg_regress)
#   isolation  concurrent sessions (pg_isolation_regress)
#   tap        whole clusters: workers, crashes, standbys, misbehaving services
#
# The last line is "N passed, N failed, N skipped". FILTER=text runs only the TAP files and unit tests whose
# names contain it.
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
    grep -cE -- "$1" "$2" || true
}

# count_tap RING NAME STATUS LOG: adds one program's TAP to ring_passed, ring_failed, ring_skipped.
count_tap() {
    local ring=$1 name=$2 status=$3 log=$4 ok not_ok skip reason
    ok=$(grep -E '^ok\b' "$log" | grep -ciEv '# *(skip|todo)' || true)
    not_ok=$(grep -E '^not ok\b' "$log" | grep -ciEv '# *todo' || true)
    skip=$(grep -ciE '^(ok\b.*|1\.\.0 .*)# *skip' "$log" || true)
    while IFS= read -r reason; do
        skips+=("$ring $name: $reason")
    done < <(grep -iE '^(ok\b.*|1\.\.0 .*)# *skip' "$log" | sed -E 's/.*# *[Ss][Kk][Ii][Pp][A-Za-z]* *//')
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

ring_program() { # RING PROGRAM: one that prints TAP
    local status=0
    ring_passed=0 ring_failed=0 ring_skipped=0
    "$top/test/$2" >"$logs/$1.log" 2>&1 || status=$?
    count_tap "$1" "$2" "$status" "$logs/$1.log"
    count "$1" "$ring_passed" "$ring_failed" "$ring_skipped"
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

ring_tap() {
    local file name status at
    local -A running=()
    local files=()
    ring_passed=0 ring_failed=0 ring_skipped=0
    for file in "$work"/tree/test/tap/*.pl; do
        name=$(basename "$file" .pl)
        if [ -e "$file" ] && [[ $name == *"${FILTER:-}"* ]]; then files+=("$name"); fi
    done
    # Two at a time: they mostly wait.
    for name in "${files[@]}"; do
        while [ "$(jobs -rp | wc -l)" -ge "${TAP_JOBS:-2}" ]; do sleep 0.1; done
        "${tester_prefix[@]}" env PG_CONFIG="$private_pg_config" MANA_AI_BIN="$work/bin" TMPDIR="$work/run" \
            TESTDIR="$work/run/tap/$name" timeout -k 10 "${TAP_TIMEOUT:-300}" \
            "$work/tree/test/run_tap.sh" perl "test/tap/$name.pl" >"$logs/tap_$name.log" 2>&1 </dev/null &
        running[$name]=$!
    done
    for name in "${files[@]}"; do
        status=0
        wait "${running[$name]}" || status=$?
        at=$ring_failed
        count_tap tap "$name" "$status" "$logs/tap_$name.log"
        if [ "$ring_failed" -gt "$at" ]; then
            tail -n 60 "$work/run/tap/$name"/tmp_check/log/*.log 2>/dev/null || true
        fi
    done
    count tap "$ring_passed" "$ring_failed" "$ring_skipped"
}

enter
logs=$work/logs
mkdir "$logs"

for ring in "${rings[@]}"; do
    ring_start=$SECONDS
    before=$((passed + failed + skipped))
    case $ring in
        layering) ring_program layering layering_test ;;
        packaging) ring_program packaging packaging_test ;;
        unit) ring_unit ;;
        regress) ring_installcheck regress regression.diffs ISOLATION= ;;
        isolation) ring_installcheck isolation output_iso/regression.diffs REGRESS= ;;
        tap) ring_tap ;;
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
