# The launcher: which databases have a worker, and what happens to it when the extension or the
# database is created or dropped.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node  = new_cluster('databases', preload => 1, model => $model, database => undef,
    conf => "mana_ai.database = 'mana_sync, second, \"Third One\"'");

my $workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai worker'";
sub count_workers { return value($node, $workers, 'postgres') }

# ---------------------------------------------------------------- databases that are missing

sleep 0.5;
is(count_workers(), 0, 'without its databases there is no worker');
is(value($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai launcher'", 'postgres'), 1,
    'but a launcher');
unlike(log_since($node), qr/FATAL|ERROR/, 'and a missing database is no error');

create_sync_database($node, 'mana_sync');
wait_for_worker($node);
push_mission($node, 'first');
wait_for_iterations($node, 'first', 1, 5);

create_sync_database($node, 'second', extension => 0);
sleep 0.3;
is(count_workers(), 1, 'a database without the extension has no worker');
value($node, 'CREATE EXTENSION mana_ai', 'second');
my $second_pid = wait_for_worker($node, 'second', 5);
isnt($second_pid, worker_pid($node), 'the second database has a worker of its own');
create_sync_database($node, 'Third One');
wait_for($node, 'so has one with a name that needs quotes', 5, $workers, 3, 'postgres');
create_sync_database($node, 'unnamed');
sleep 0.3;
is(value($node, 'SELECT worker_problem FROM mana_ai.status()', 'unnamed'),
    'worker is not running: mana_ai.database does not name unnamed', 'status() of a database that is not named');
is(count_workers(), 3, 'which gets no worker');

push_changes($node, 'second', { id => 'm2', op => 'insert',
    data => { title => 'T', objective => 'O', state => 'active', cadence => { kind => 'manual' }, nextRunAt => iso(-1) } });
wait_for($node, 'missions of the second database are planned', 5,
    "SELECT jsonb_array_length(record -> 'iterations') FROM mana_ai.mission_snapshots", 1, 'second');
is(value($node, "SELECT count(*) FROM mana_ai.runs"), 1, 'and do not appear in the first');

# ---------------------------------------------------------------- the extension comes and goes

my $log = log_position($node);
$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
push_mission($node, 'hangs');
$model->wait_in_flight(1);
is_faster_than(3, 'DROP EXTENSION with a call in flight', sub { value($node, 'DROP EXTENSION mana_ai') });
wait_for($node, 'the worker leaves', 5, $workers, 2, 'postgres');
wait_until('the call is dropped', 3, sub { $model->in_flight == 0 });
like(log_since($node, $log), qr/mana_ai: worker ends: the extension was dropped/, 'and says why');
unlike(log_since($node, $log), qr/ERROR|FATAL|PANIC|terminated by signal/, 'quietly');
is(value($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.sync_changes'::regclass"), 0,
    'nothing of mana_ai is left on sync_changes');
push_mission($node, 'meanwhile');
$model->reset;

is_faster_than(4, 'CREATE EXTENSION starts a worker', sub {
    value($node, 'SET client_min_messages = warning; CREATE EXTENSION mana_ai');
    wait_for_worker($node, 'mana_sync', 5);
});
wait_for_iterations($node, $_, 1, 5) for qw(hangs meanwhile);
is(scalar @{ iterations_of($node, 'first') }, 1, 'history was folded in: the first iteration is still there');
is(snapshots_differ($node), '', 'all snapshots are replays');

is_faster_than(8, 'dropped and created again in one transaction', sub {
    value($node, 'SET client_min_messages = warning; BEGIN; DROP EXTENSION mana_ai; CREATE EXTENSION mana_ai; COMMIT;');
    push_mission($node, 'afterwards');
    wait_for_iterations($node, 'afterwards', 1, 6);
});

# ---------------------------------------------------------------- another version

value($node, "UPDATE pg_extension SET extversion = '9.9.9' WHERE extname = 'mana_ai'");
$node->reload;
wait_for($node, 'an extension of another version stops the worker\'s work', 5,
    'SELECT worker_state FROM mana_ai.status()', 'wrong version');
like(value($node, 'SELECT worker_problem FROM mana_ai.status()'), qr/^worker waits: the extension in this database has version 9\.9\.9, the library that the server has loaded .*; install the library of version 9\.9\.9/,
    'status() says so');
is(value($node, 'SELECT extension_version FROM mana_ai.status()'), '9.9.9', 'and which versions these are');
$model->reset;
push_mission($node, 'version');
sleep 0.4;
is($model->count, 0, 'nothing is planned');
like(why_of($node, 'version'), qr/version/, 'why() says so');
value($node, "UPDATE pg_extension SET extversion = (SELECT library_version FROM mana_ai.status()) WHERE extname = 'mana_ai'");
$node->reload;
wait_for_iterations($node, 'version', 1, 5);

# ---------------------------------------------------------------- the launcher itself

my %pids = map { $_ => worker_pid($node, $_) } 'mana_sync', 'second', 'Third One';
my $launcher = "SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE backend_type = 'mana_ai launcher'";
my $first_launcher = value($node, $launcher, 'postgres');
value($node, "SELECT pg_terminate_backend($first_launcher)", 'postgres');
wait_until('another launcher is started', 15, sub { value($node, $launcher, 'postgres') !~ /^(0|$first_launcher)$/ });
sleep 0.5;
is(count_workers(), 3, 'which starts no second worker');
is(worker_pid($node, $_), $pids{$_}, "$_: the worker is the same") for sort keys %pids;
value($node, "SELECT pg_terminate_backend($pids{mana_sync})", 'postgres');
wait_until('a worker that the first launcher had started is started anew as well', 10,
    sub { worker_pid($node) !~ /^($pids{mana_sync})?$/ });
is(count_workers(), 3, 'there is one for each database');

# ---------------------------------------------------------------- settings that would harm it

value($node, "ALTER DATABASE mana_sync SET $_", 'postgres')
  for 'default_transaction_read_only = on', "default_transaction_isolation = 'serializable'", "search_path = 'evil'",
  "statement_timeout = '2s'", 'row_security = off', 'enable_indexscan = off', "role = 'mana_sync_service'";
{
    local $ENV{PGOPTIONS} = '-c default_transaction_read_only=off -c role=none -c search_path=public -c row_security=on';
    value($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'mana_ai worker' AND datname = 'mana_sync'", 'postgres');
    push_mission($node, 'settings');
    wait_for_iterations($node, 'settings', 1, 10);
    $model->reset;
    push_mission($node, 'settings-by-hand', nextRunAt => undef);
    is(run_mission($node, 'settings-by-hand')->{outcome}, 'planned', 'nor do they harm a manual run');
    is(snapshots_differ($node), '', 'snapshots are replays');
}
value($node, 'ALTER DATABASE mana_sync RESET ALL', 'postgres');

# ---------------------------------------------------------------- a worker that ends at once

# Each commit requests a worker; it is not restarted for each of them.
my $before = log_position($node);
my $commits = background($node, <<'END');
DO $$
BEGIN
  FOR i IN 1..60 LOOP
    INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
    VALUES ('ai', 'aiMissions', 'calls', 'caller', 'update', '{"title": "t"}', 'c');
    COMMIT;
    PERFORM pg_sleep(0.1);
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE backend_type = 'mana_ai worker' AND datname = current_database();
  END LOOP;
END $$
END
my ($ended, undef, $complaint) = $commits->finish(60);
is($complaint, '', 'commits of a session, which ends the worker after each');
my $starts = () = log_since($node, $before) =~ /mana_ai: worker started/g;
cmp_ok($starts, '>', 0, 'it is started again');
cmp_ok($starts, '<', 12, "but $starts times only");
wait_for_worker($node, 'mana_sync', 60);

# ---------------------------------------------------------------- databases that go

is_faster_than(3, 'DROP DATABASE ... WITH (FORCE) of a database that has a worker', sub {
    value($node, 'DROP DATABASE second WITH (FORCE)', 'postgres');
});
wait_for($node, 'its worker is gone', 3, $workers, 2, 'postgres');
create_sync_database($node, 'second');
wait_for_worker($node, 'second', 10);
pass('a database of the same name gets a worker again');

# DROP OWNED, ALTER EXTENSION and others must not take the server down either.
my $after = log_since($node);
unlike($after, qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
is_faster_than(2, 'fast shutdown with three workers', sub { $node->stop('fast') });
unlike(log_since($node), qr/FATAL:[^\n]*mana_ai/, 'and without a fuss');

# ---------------------------------------------------------------- slots are scarce

$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_parallel_workers = 0\n");
$node->start;
wait_until('the log says that slots are missing', 8,
    sub { log_since($node, 0) =~ /WARNING:  mana_ai: could not start a worker: all slots/ });
is(value($node, 'SELECT 1', 'postgres'), 1, 'the server works');
$node->stop;
$model->stop;
done_testing();
