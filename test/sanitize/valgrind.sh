#!/usr/bin/env bash
# Valgrind's memcheck over the trigger: what clients wrote (test/data/client_edits.jsonl) and vectors of
# test/data/lww.jsonl go through it in `postgres --single`, in one transaction each and half of them rolled back before,
# and then attach(), refresh_snapshots(), replay() and the views that read what was kept. A fault of a test module shows
# that one would be reported.
#
# VECTORS=176 says how many. The last line is "N passed, N failed, N skipped".
source "$(dirname "$0")/../environment.sh"

vectors=${VECTORS:-176}
if ! command -v valgrind >/dev/null; then
    echo "valgrind is not installed"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
enter
module=$work/install/control.so
as_builder g++ -O1 -g -fPIC -shared -isystem "$("$PG_CONFIG" --includedir-server)" -o "$module" "$top/test/sanitize/control.cpp"

start_cluster memcheck "shared_buffers = 4MB"
"$pg_bin/createdb" mana_sync
"$pg_bin/psql" -Xq -d mana_sync -v ON_ERROR_STOP=1 -c "SET client_min_messages = warning" \
    -f "$work/tree/test/data/sync_changes.sql" -c "CREATE EXTENSION mana_ai" \
    -c "CREATE TABLE line (n int GENERATED ALWAYS AS IDENTITY, body text)" \
    -c "\\copy line (body) FROM '$work/tree/test/data/client_edits.jsonl' WITH (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')" \
    -c "\\copy line (body) FROM '$work/tree/test/data/lww.jsonl' WITH (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')" \
    -c "CREATE FUNCTION control(int) RETURNS int LANGUAGE c STRICT AS '$module', 'read_past_the_end'"
stop_cluster memcheck

as_tester tee "$work/run/statements" >/dev/null <<END
DO \$\$
DECLARE
  line record; change jsonb;
BEGIN
  FOR line IN SELECT n, body::jsonb AS v FROM line ORDER BY n LIMIT $vectors LOOP
    FOR again IN 0..(line.n % 2) LOOP
      BEGIN
        FOR change IN SELECT c FROM jsonb_array_elements(line.v -> 'rows') WITH ORDINALITY AS e(c, i) ORDER BY md5(i::text) LOOP
          INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at)
          VALUES ('ai', COALESCE(line.v ->> 'table', CASE WHEN line.n % 5 = 0 THEN 'agents' ELSE 'aiMissions' END), line.v ->> 'record_id', 'u1', change ->> 'op',
                  change -> 'data', change -> 'field_timestamps', 'c', (change ->> 'created_at')::timestamptz);
        END LOOP;
        IF again < line.n % 2 THEN RAISE EXCEPTION 'undone'; END IF;
      EXCEPTION WHEN raise_exception THEN NULL;
      END;
    END LOOP;
  END LOOP;
END \$\$;

SELECT 'pushed', count(*) FROM public.sync_changes;

SELECT 'differ', count(*) FROM mana_ai.mission_snapshots s WHERE record IS DISTINCT FROM mana_ai.replay(user_id, 'ai', 'aiMissions', mission_id);

SELECT 'kept', count(*) FROM mana_ai.mission_snapshots;

SELECT mana_ai.detach();

SELECT mana_ai.attach('public.sync_changes');

SELECT mana_ai.refresh_snapshots();

SELECT count(mana_ai.why(user_id, mission_id)) FROM mana_ai.mission_snapshots;

SELECT count(*) FROM mana_ai.mission_problems;

SELECT 'control', control(4);
END
log=$work/run/memcheck.log
as_tester valgrind --log-file="$log" --num-callers=40 --error-limit=no --leak-check=no \
    --suppressions="$work/tree/test/sanitize/valgrind.supp" \
    "$pg_bin/postgres" --single -j -D "$cluster" mana_sync <"$work/run/statements" >"$work/run/answers" 2>"$work/run/messages" || true

failed=0 passed=0
# check WHAT COMMAND...
check() {
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "memcheck: not so: $what"
    fi
}
answer() { sed -nE "/\"$1\"/,/count|control/ s/.*(count|control) = \"([0-9]+)\".*/\\2/p" "$work/run/answers" | head -n 1; }
says() { grep -qE "$1" "$2"; }
# Reports whose stack contains mana_ai.so; those of the control are separate.
ours() { awk -v RS='==[0-9]+== \n' '/mana_ai\.so/ && /(Invalid|uninitialised|Syscall param|overlap)/' "$log"; }
no_report_of_ours() {
    ours >"$work/run/ours"
    head -n 100 "$work/run/ours"
    [ ! -s "$work/run/ours" ]
}
check "more rows than vectors were pushed" test "$(answer pushed)" -gt "$vectors"
check "snapshots were kept" test "$(answer kept)" -gt 10
check "snapshots are replays" test "$(answer differ)" -eq 0
check "no statement failed" eval '! grep -E "ERROR|FATAL|PANIC" "$work/run/messages"'
check "a fault of the control is reported" says 'Invalid read' "$log"
check "the control is named" says 'control\.so|read_past_the_end' "$log"
check "no report names the extension" no_report_of_ours
check "there is no other report" says 'ERROR SUMMARY: 1 errors from 1 contexts' "$log"
if [ "$failed" -gt 0 ]; then tail -n 30 "$work/run/messages" "$work/run/answers" "$log"; fi
grep -E 'ERROR SUMMARY' "$log" || true
echo "memcheck: $(answer pushed) rows of $vectors vectors"
echo
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
