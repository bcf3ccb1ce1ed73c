# Changes that cannot be folded: nobody waits long for them, they are marked once, repaired in turns of users, and not lost
# even when they cannot be marked.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_cluster('marks', preload => 1, conf => <<'END');
mana_ai.tick_enabled = off
mana_ai.tick_interval = '1s'
END

# Rows of missions of one user, as mana-sync would insert them.
sub rows_of
{
    my ($user, $prefix, $count, %more) = @_;
    my $data = $more{data} // q('{"title": "t", "state": "active"}');
    return "INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
            SELECT 'ai', 'aiMissions', '$prefix' || i, '$user', 'insert', $data, 'c' FROM generate_series(1, $count) i";
}

# How many milliseconds the server took for a statement of one transaction.
sub took_ms
{
    my ($sql) = @_;
    my $out = $node->safe_psql('mana_sync', <<"END");
CREATE TEMP TABLE took AS SELECT clock_timestamp() AS began;
$sql;
SELECT round(extract(epoch FROM clock_timestamp() - began) * 1000) FROM took;
END
    return $out;
}

sub marks { return value($node, 'SELECT count(*) FROM mana_ai.dirty_records') }

# Somebody who holds tables of mana_ai.
sub hold
{
    my (@tables) = @_;
    my $holder = background($node, join("\n", 'BEGIN;', (map {"LOCK TABLE mana_ai.$_ IN ACCESS EXCLUSIVE MODE;"} @tables), 'SELECT pg_sleep(600);'));
    wait_for($node, "@tables held", 20,
        "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname IN ('" . join("', '", @tables) . "') AND l.mode = 'AccessExclusiveLock' AND l.granted",
        scalar @tables);
    return $holder;
}

sub let_go
{
    my ($holder) = @_;
    value($node, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()");
    $holder->finish;
    wait_for($node, 'and let go', 20, q(SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'), '0');
    return;
}

# ---------------------------------------------------------------- one user's marks are bounded, and one per record
my $holder = hold('mission_snapshots');
my $ms = took_ms(rows_of('many', 'm', 3000));
cmp_ok($ms, '<', 5000, "3000 rows while the snapshots are held: $ms ms");
is(marks(), 1001, 'a thousand records have a mark, all others of the user share one');
is(value($node, q(SELECT count(*) FROM mana_ai.dirty_records WHERE table_name = '' AND record_id = '')), 1, 'which is that of the user');
took_ms(rows_of('many', 'm', 100));
is(marks(), 1001, 'marked again, nothing is added');
$ms = took_ms(rows_of('few', 'one', 1));
cmp_ok($ms, '<', 5000, "another user's row: $ms ms");
is(value($node, q(SELECT count(*) FROM mana_ai.dirty_records WHERE user_id = 'few')), 1, 'is marked for itself');
took_ms(join(';', 'BEGIN', rows_of('few', 'one', 1), rows_of('few', 'one', 1), 'COMMIT'));
is(value($node, q(SELECT count(*) FROM mana_ai.dirty_records WHERE user_id = 'few')), 1, 'once, however often it changes');
is(value($node, q(SELECT mana_ai.waits_for_repair('many', 'm2999'))), 't', 'a record without a mark of its own waits for repair too');
let_go($holder);

# ---------------------------------------------------------------- repair, in turns
settings($node, 'mana_ai.tick_enabled' => 'on');
wait_for($node, 'all marks are repaired', 120, 'SELECT count(*) FROM mana_ai.dirty_records', '0');
is(value($node, q(SELECT count(*) FROM mana_ai.mission_snapshots)), 3001, 'all records have a snapshot, marked or not');
is(snapshots_differ($node), '', 'which is the right one');
settings($node, 'mana_ai.tick_enabled' => 'off');
wait_for($node, 'the worker pauses', 20, q(SELECT worker_problem FROM mana_ai.status()), 'worker is paused: mana_ai.tick_enabled is off');

# Records that cannot be repaired now delay nobody, and idle passes write nothing.
$node->safe_psql('mana_sync', <<'END');
ALTER TABLE mana_ai.mission_snapshots ADD CONSTRAINT not_yet CHECK (user_id NOT LIKE 'stuck%');
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
SELECT 'stuck' || i % 7, 'aiMissions', 's' || i, 'error during repair' FROM generate_series(1, 700) i;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', 's' || i, 'stuck' || i % 7, 'insert', '{"title": "t"}', 'c' FROM generate_series(1, 700) i;
END
is(value($node, q(SELECT count(*) FROM mana_ai.dirty_records WHERE user_id LIKE 'stuck%')), 700, '700 records cannot be repaired');
$node->safe_psql('mana_sync', q(INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('zz', 'aiMissions', 'waits', 'busy')));
settings($node, 'mana_ai.tick_enabled' => 'on');
wait_for($node, 'a mark of another user does not wait for them', 60, q(SELECT count(*) FROM mana_ai.dirty_records WHERE user_id = 'zz'), '0');
my $versions = 'SELECT md5(string_agg(ctid::text, q ORDER BY ctid)) FROM (SELECT ctid, $$,$$ AS q FROM mana_ai.dirty_records) d';
my $before = '';
# Each is tried once first, which may take a slow server some passes.
wait_until('all have been tried', 60, sub { my $last = $before; $before = value($node, $versions); sleep 1; return $before eq $last });
sleep 3;
is(value($node, $versions), $before, 'passes that repair nothing rewrite no mark');
$node->safe_psql('mana_sync', 'ALTER TABLE mana_ai.mission_snapshots DROP CONSTRAINT not_yet');
wait_for($node, 'and all are repaired when that is possible', 180, 'SELECT count(*) FROM mana_ai.dirty_records', '0');
is(snapshots_differ($node), '', 'all snapshots are right');

# ---------------------------------------------------------------- at most 200 ms in a transaction, whatever is held
settings($node, 'mana_ai.tick_enabled' => 'off');
wait_for($node, 'the worker pauses', 20, q(SELECT worker_problem FROM mana_ai.status()), 'worker is paused: mana_ai.tick_enabled is off');
my $free = took_ms(rows_of('timed', 'f', 2000));
$holder = hold('mission_snapshots', 'dirty_records');
$ms = took_ms(rows_of('timed', 'h', 2000));
cmp_ok($ms, '<', 2 * $free + 2000, "2000 rows with the table of marks held too: $ms ms, without that $free ms");
is(value($node, q(SELECT count(*) FROM public.sync_changes WHERE user_id = 'timed' AND record_id LIKE 'h%')), 2000, 'all are inserted');
is(value($node, 'SELECT mana_ai.unmarked_changes()'), 2000, 'and known to be unmarked');
let_go($holder);
like(slurp_file($node->logfile), qr/could not even be marked as dirty/, 'the log says so');
settings($node, 'mana_ai.tick_enabled' => 'on');
wait_for($node, 'the worker folds the log by itself', 60, 'SELECT unmarked_changes FROM mana_ai.status()', '0');
is(value($node, q(SELECT count(*) FROM mana_ai.mission_snapshots WHERE user_id = 'timed')), 4000, 'nothing is lost');
is(snapshots_differ($node), '', 'all snapshots are right');
is(value($node, q(SELECT value FROM mana_ai.metrics WHERE name = 'mana_ai_changes_unmarked_total')), 2000, 'they are counted');

# A transaction that is rolled back leaves nothing to fold.
$holder = hold('mission_snapshots', 'dirty_records');
took_ms('BEGIN; ' . rows_of('undone', 'u', 3) . '; ROLLBACK');
is(value($node, 'SELECT mana_ai.unmarked_changes()'), 0, 'what is rolled back is not missing');
let_go($holder);

# ---------------------------------------------------------------- a record that is too large for the worker
$holder = hold('mission_snapshots');
took_ms(rows_of('huge', 'h', 1, data => q(jsonb_build_object('title', repeat('x', 40000000)))));
is(value($node, q(SELECT reason FROM mana_ai.dirty_records WHERE user_id = 'huge')), 'busy', 'a mission of 40 MB is marked');
let_go($holder);
wait_for($node, 'the worker sets it aside', 60, q(SELECT count(*) FROM mana_ai.oversized_records WHERE user_id = 'huge'), '1');
is(value($node, 'SELECT count(*) FROM mana_ai.dirty_records'), 0, 'so that it is tried once');
is(value($node, q(SELECT problem FROM mana_ai.mission_problems WHERE user_id = 'huge')), 'record too large for a snapshot', 'and it is seen');
is(value($node, q(SELECT count(*) FROM mana_ai.mission_snapshots WHERE user_id = 'huge')), 0, 'there is no snapshot of it');
$node->safe_psql('mana_sync', q(DELETE FROM public.sync_changes WHERE user_id = 'huge'));
is(value($node, q(SELECT count(*) FROM mana_ai.refresh_snapshots())), 1, 'a refresh');
is(value($node, 'SELECT count(*) FROM mana_ai.oversized_records'), 0, 'forgets it, and finds it no more');

# ---------------------------------------------------------------- a repair that fails
# It is tried again after growing pauses, and delays nothing else.
$node->safe_psql('mana_sync', <<'END');
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason) VALUES ('kept', 'aiMissions', 'k', 'busy');
END
my $mark = background($node, "BEGIN; SELECT FROM mana_ai.dirty_records WHERE user_id = 'kept' FOR UPDATE; SELECT pg_sleep(600);");
sleep 2;
SKIP:
{
    skip 'the mark was repaired before it could be held', 2 if marks() == 0;
    $node->safe_psql('mana_sync', <<'END');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
CREATE TRIGGER refuse BEFORE DELETE ON mana_ai.dirty_records FOR EACH ROW EXECUTE FUNCTION public.refuse();
INSERT INTO mana_ai.runs (user_id, mission_id, run_id, started_at, outcome, decision, lease_owner)
VALUES ('kept', 'k', gen_random_uuid(), now(), 'running', 'ran', 4711);
END
    my $position = log_position($node);
    let_go($mark);
    wait_for($node, 'runs of dead processes are ended all the same', 20,
        q(SELECT outcome FROM mana_ai.runs WHERE user_id = 'kept'), 'crashed');
    sleep 5;
    my $failures = () = log_since($node, $position) =~ /housekeeping failed/g;
    cmp_ok($failures, '<', 40, "$failures failures in a row, with pauses");
    $node->safe_psql('mana_sync', 'DROP TRIGGER refuse ON mana_ai.dirty_records; DROP FUNCTION public.refuse()');
    wait_for($node, 'then it is repaired', 90, 'SELECT count(*) FROM mana_ai.dirty_records', '0');
}

# ---------------------------------------------------------------- many marks
$node->safe_psql('mana_sync', <<'END');
ALTER TABLE mana_ai.mission_snapshots ADD CONSTRAINT not_yet CHECK (user_id NOT LIKE 'x%');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id) VALUES ('ai', 'aiMissions', 'x', 'x1', 'insert', '{}', 'c');
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
SELECT 'x' || i % 300, 'nothing', 'x' || i, 'busy' FROM generate_series(1, 200000) i;
ANALYZE mana_ai.dirty_records;
END
is(value($node, 'SELECT dirty_records FROM mana_ai.status()'), 10000, '200,000 marks are not counted but said to be many');
$ms = took_ms('SELECT * FROM mana_ai.status()');
cmp_ok($ms, '<', 1000, "status() takes $ms ms");
$ms = took_ms(q(SELECT mana_ai.waits_for_repair('x1', 'm')));
cmp_ok($ms, '<', 500, "a write-back's look takes $ms ms");
done_testing();
