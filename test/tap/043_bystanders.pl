# What others do to tables of mana_ai, to the clock and in their functions must not affect bystanders.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node = new_cluster('bystanders', preload => 1, model => $model, conf => <<'END');
mana_ai.tick_enabled = off
mana_ai.tick_interval = '1s'
wal_level = logical
END

sub worker
{
    my ($how) = @_;
    settings($node, 'mana_ai.tick_enabled' => $how);
    wait_for($node, "worker: $how", 20, q(SELECT coalesce(worker_problem, '') FROM mana_ai.status()),
        $how eq 'on' ? '' : 'worker is paused: mana_ai.tick_enabled is off');
    return;
}

# How many seconds an insert of missions takes. It ends with an error if somebody makes it wait for long.
sub push_rows
{
    my ($prefix, $count, $data, $number) = @_;
    $data //= q('{"state": "active"}');
    $number //= 'i';
    return timed(sub {
        $node->safe_psql('mana_sync', <<"END");
SET statement_timeout = '20s';
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
SELECT 'ai', 'aiMissions', '$prefix' || ($number), '$prefix', 'insert', $data, 'c' FROM generate_series(1, $count) i
END
    });
}

# Of records of a user that are marked, or set aside after that.
sub marks_of
{
    my ($user) = @_;
    return value($node, "SELECT (SELECT count(*) FROM mana_ai.dirty_records WHERE user_id = '$user') + (SELECT count(*) FROM mana_ai.oversized_records WHERE user_id = '$user')");
}

sub all_is_repaired
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    worker('on');
    wait_for($node, "$what: marks are repaired", 30, 'SELECT (SELECT count(*) FROM mana_ai.dirty_records) + mana_ai.unmarked_changes()', '0');
    is(substr(snapshots_differ($node), 0, 1000), '', "$what: nothing is lost");
    worker('off');
    return;
}

# ---------------------------------------------------------------- what may fail for one row of many

$node->safe_psql('mana_sync', <<'END');
CREATE SEQUENCE public.calls;
CREATE FUNCTION public.fails_late() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  IF nextval('public.calls') > 60 THEN
    RAISE 'not today';
  END IF;
  RETURN 1;
END $$;
END
# Random digits, which do not compress.
my $long = q(jsonb_build_object('state', 'active', 'notes', (SELECT string_agg(md5(random()::text || k), '') FROM generate_series(1, 1000) k)));
my $version = int(value($node, 'SHOW server_version_num') / 10000);
my $updates = sub { push_rows($_[0], 40) };
for my $case (
    [ 'wide', 'CREATE INDEX added ON mana_ai.mission_snapshots (record)', 'DROP INDEX mana_ai.added' ],
    [ 'default', 'ALTER TABLE mana_ai.mission_schedule ADD added int; ALTER TABLE mana_ai.mission_schedule ALTER added SET DEFAULT public.fails_late()',
        'ALTER TABLE mana_ai.mission_schedule DROP added' ],
    [ 'filter', 'CREATE PUBLICATION added FOR TABLE mana_ai.mission_snapshots WHERE (version > 0)', 'DROP PUBLICATION added', $updates, 15 ],
    [ 'columns', 'CREATE PUBLICATION added FOR TABLE mana_ai.mission_snapshots (version)', 'DROP PUBLICATION added', $updates, 15 ])
{
    my ($prefix, $change, $back, $prepare, $since) = @$case;
  SKIP:
    {
        skip "$prefix: PostgreSQL $since has that", 1 if defined $since && $version < $since;
        $prepare->($prefix) if $prepare;
        $node->safe_psql('mana_sync', $change);
        # The first rows are new records, and short. Those that follow are long, or changes.
        push_rows($prefix, 100, "CASE WHEN i <= 60 THEN '{\"state\": \"paused\"}' ELSE $long END", '101 - i');
        is(value($node, "SELECT count(DISTINCT record_id) FROM public.sync_changes WHERE user_id = '$prefix'"), 100, "$prefix: all rows were inserted");
        cmp_ok(marks_of($prefix), '>', 0, "$prefix: those that failed are marked");
        $node->safe_psql('mana_sync', $back);
        # What an index does not take counts as too large, and is not tried again by itself.
        value($node, 'SELECT mana_ai.refresh_snapshots()') if $prefix eq 'wide';
        all_is_repaired($prefix);
    }
}

# ---------------------------------------------------------------- somebody locks less than a table

my $toast = value($node, "SELECT reltoastrelid::regclass FROM pg_class WHERE oid = 'mana_ai.mission_snapshots'::regclass");
for my $case (
    [ 'keys', 'an index', 'ALTER INDEX mana_ai.mission_snapshots_pkey SET TABLESPACE pg_default' ],
    [ 'times', 'an index that is only written', 'ALTER INDEX mana_ai.mission_schedule_wake_at SET TABLESPACE pg_default' ],
    [ 'long', 'the table of long values', "REINDEX TABLE $toast", $long ],
    [ 'marked', 'an index and that of the marks', 'ALTER INDEX mana_ai.mission_snapshots_pkey SET TABLESPACE pg_default; ALTER INDEX mana_ai.dirty_records_of_user SET TABLESPACE pg_default' ])
{
    my ($prefix, $what, $lock, $data) = @$case;
    my $errors = value($node, 'SELECT trigger_errors FROM mana_ai.worker_status()');
    my $holder = background($node, "BEGIN; $lock; SELECT pg_sleep(600);");
    wait_for($node, "$what is locked", 20, q(SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'), 1);
    my $took = push_rows($prefix, 40, $data);
    cmp_ok($took, '<', 10, sprintf '%s: 40 rows were inserted after %.1f s', $what, $took);
    value($node, q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'));
    $holder->finish;
    is(value($node, "SELECT count(*) FROM public.sync_changes WHERE user_id = '$prefix'"), 40, "$what: all of them");
    is(value($node, 'SELECT trigger_errors FROM mana_ai.worker_status()'), $errors, "$what: nor was there an error");
    is(value($node, q(SELECT value FROM mana_ai.metrics WHERE name = 'mana_ai_changes_unmarked_total')), $prefix eq 'marked' ? 40 : 0,
        "$what: records were " . ($prefix eq 'marked' ? 'not even marked' : 'marked'));
    all_is_repaired($what);
}

# ---------------------------------------------------------------- a manual run whose lease has run out

$model->control({ steps => [ { latency_ms => 3000, content => 'Zusammenfassung' } ] });
push_mission($node, 'by_hand', cadence => { kind => 'manual' }, nextRunAt => iso(3600));
my $hand = background($node, "SELECT outcome FROM mana_ai.run_mission('" . USER_ID . "', 'by_hand')");
$model->wait_in_flight(1);
# As when the clock is set forward.
$node->safe_psql('mana_sync', "UPDATE mana_ai.mission_schedule SET wake_at = now() - interval '1 s', due_at = now() - interval '1 s' WHERE mission_id = 'by_hand'");
fails_like($node, "SELECT mana_ai.run_mission('" . USER_ID . "', 'by_hand')", qr/is running already/, 'it is not taken for crashed, by hand');
worker('on');
wait_for($node, 'nor by the worker, which prolongs its lease', 10, "SELECT wake_at > now() + interval '1 min' FROM mana_ai.mission_schedule WHERE mission_id = 'by_hand'", 't');
my (undef, $outcome) = $hand->finish(20);
like($outcome, qr/^planned$/m, 'it ends as if nothing had been');
is(value($node, "SELECT string_agg(outcome, ',') FROM mana_ai.runs WHERE mission_id = 'by_hand'"), 'planned', 'as the only one');
is($model->count, 1, 'and is paid for once');
worker('off');

# ---------------------------------------------------------------- a resolver that keeps locks

$node->safe_psql('mana_sync', <<'END');
CREATE FUNCTION public.keeps_locks(text, jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_lock(4711), pg_advisory_lock(4711), pg_advisory_lock_shared(1), pg_advisory_lock(4, 7);
  RETURN '{"title": "locked", "content": "locked"}';
END $$;
CREATE ROLE resolver_owner;
ALTER FUNCTION public.keeps_locks(text, jsonb) OWNER TO resolver_owner;
SELECT mana_ai.register_resolver('locks', 'public.keeps_locks(text, jsonb)');
END
push_mission($node, 'locking', nextRunAt => iso(3600), inputs => [ { module => 'locks', table => 't', id => 'i' } ]);
my $locks = q(SELECT string_agg(mode || ' ' || objid, ', ' ORDER BY mode, objid) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid());
my $user = USER_ID;
my ($before, $after, $later) = split /\n/, $node->safe_psql('mana_sync', <<"END");
SELECT 'prompt' WHERE (SELECT user_prompt FROM mana_ai.explain('$user', 'locking')) !~ 'locked';
SELECT coalesce(($locks), 'none');
DO \$\$ BEGIN PERFORM pg_advisory_lock(1), pg_advisory_lock(2); END \$\$;
BEGIN;
DO \$\$ BEGIN PERFORM pg_advisory_xact_lock(3), mana_ai.explain('$user', 'locking'); END \$\$;
$locks;
COMMIT;
$locks;
END
is($before, 'none', 'explain() leaves no lock of a resolver in the session');
is($after, 'ExclusiveLock 1, ExclusiveLock 2, ExclusiveLock 3', 'nor takes one of its own away');
is($later, 'ExclusiveLock 1, ExclusiveLock 2', 'they end when they should');

$node->stop;
$model->stop;
done_testing();
