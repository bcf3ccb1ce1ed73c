#!/usr/bin/env bash
# make matrix PG_CONFIGS="/path/to/pg_config ...": builds for each of these servers and runs the tests with it, in
# throwaway clusters. Nothing is installed. RINGS='regress isolation' runs only these rings; the default is all that
# need a server. The last line is "N passed, N failed, N skipped".
set -uo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ $# -eq 0 ]; then
    echo >&2 "matrix: name the servers: make matrix PG_CONFIGS='/usr/lib/postgresql/15/bin/pg_config …'"
    exit 2
fi
read -ra rings <<<"${RINGS:-regress isolation tap}"

passed=0 failed=0 skipped=0 table=()
for pg_config; do
    echo "== $pg_config"
    PG_CONFIG=$pg_config "$top/test/run_all.sh" "${rings[@]}" 2>&1 | tee "$log"
    last=$(tail -n 1 "$log")
    if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + BASH_REMATCH[3]))
    else
        failed=$((failed + 1)) last='does not build'
    fi
    table+=("$(printf '%-40s %-20s %s' "$("$pg_config" --version)" "${rings[*]}" "$last")")
done
echo
printf '%s\n' "${table[@]}"
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
