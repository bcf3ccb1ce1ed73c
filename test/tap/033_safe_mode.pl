# Three crashes of mana_ai within ten minutes and no more: the database goes into safe mode.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node = new_cluster('safe_mode', preload => 1, model => $model,
    conf => "restart_after_crash = on\nmana_ai.crash_limit = 3\nmana_ai.tick_interval = '1s'");

sub wait_for_server
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_until("$what: the server is back", 30,
        sub { accepts_sessions($node) });
}

# kill -9, and the postmaster's reaction.
sub crash
{
    my ($pid, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $position = log_position($node);
    kill 9, $pid;
    wait_until("$what: the postmaster starts anew", 30,
        sub { log_since($node, $position) =~ /all server processes terminated; reinitializing/ });
    return wait_for_server($what);
}

sub problem { return value($node, 'SELECT worker_problem FROM mana_ai.status()') }
sub is_safe { return value($node, 'SELECT since IS NOT NULL FROM mana_ai.safe_mode()') }

# ---------------------------------------------------------------- what does not count

wait_for_worker($node);
for my $round (1 .. 4)
{
    # Another process crashes while ours are at work; the postmaster ends them too.
    my $other = background($node, 'SELECT pg_sleep(600)');
    my $pid = '';
    wait_until('a session that has nothing to do with us', 10,
        sub { $pid = value($node, "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'"); $pid ne '' });
    crash($pid, "round $round, a crash of another process");
    $other->finish(10);
    wait_for_worker($node, 'mana_sync', 20);
}
for my $round (1 .. 3)
{
    $node->stop('immediate');
    $node->start;
    wait_for_worker($node, 'mana_sync', 20);
}
is(is_safe(), 'f', 'crashes of others and immediate shutdowns do not count');
ok(!-e $node->data_dir . '/mana_ai.crashes', 'there is no record of any crash');

# ---------------------------------------------------------------- the worker crashes

$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
push_mission($node, 'culprit');
for my $round (1 .. 3)
{
    is(is_safe(), 'f', "before crash $round there is no safe mode");
    crash(wait_for_worker($node, 'mana_sync', 20), "crash $round");
}
$model->reset;
wait_for($node, 'after the third there is', 10, 'SELECT crashes FROM mana_ai.safe_mode()', 3);
sleep 3;
is(value($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai worker'"), 0,
    'no worker is started');
like(problem(),
    qr/^safe mode since .*: 3 crashes of mana_ai, the last one at .* in the worker, activity "mana_ai: .*"; when the cause is gone, call mana_ai\.resume_after_crash\(\)$/,
    'status() says so, and why');
like(why_of($node, 'culprit'), qr/^(?:safe mode since|backing off)/, 'why() too');
fails_like($node, 'SELECT * FROM mana_ai.run_tick()',
    qr/55000: mana_ai is in safe mode in this database\nDETAIL: .*3 crashes, the last one in the worker.*\nHINT: .*resume_after_crash/s,
    'run_tick() refuses');
fails_like($node, "SELECT * FROM mana_ai.run_mission('user-1', 'culprit')", qr/55000: mana_ai is in safe mode/,
    'run_mission() refuses');
like(log_since($node), qr/WARNING:  mana_ai: no worker runs in database "mana_sync", in safe mode: 3 crashes, the last one in the worker/,
    'the log says so');
push_mission($node, 'meanwhile');
is(value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'meanwhile'"), 1,
    'the trigger folds on');
is((stat $node->data_dir . '/mana_ai.crashes')[2] & 07777, 0600, 'the file is for the server alone');

my $position = log_position($node);
$node->restart;
wait_until('after a restart the log says it again', 20,
    sub { log_since($node, $position) =~ /no worker runs in database "mana_sync", in safe mode/ });
is(is_safe(), 't', 'a restart does not end it');

fails_like($node, 'SELECT mana_ai.resume_after_crash()', qr/42501/, 'not everybody may end it', user => 'nobody_special');
is(value($node, 'SELECT mana_ai.resume_after_crash()'), 't', 'resume_after_crash() does');
wait_for_worker($node, 'mana_sync', 15);
is(value($node, 'SELECT mana_ai.resume_after_crash()'), 'f', 'once');
wait_for_iterations($node, 'meanwhile', 1, 20);
is(problem(), '', 'all is well again');

# ---------------------------------------------------------------- another version of the library

crash(wait_for_worker($node, 'mana_sync', 20), "another round, crash $_") for 1 .. 3;
is(is_safe(), 't', 'safe mode again');
$node->stop;
my $file = $node->data_dir . '/mana_ai.crashes';
my $bytes = slurp_file($file);
my $version = (slurp_file("$FindBin::RealBin/../../Makefile") =~ /^EXTVERSION = (\S+)/m)[0];
my $replaced = ($bytes =~ s/\Q$version\E\0/'0' x length($version) . "\0"/ge);
cmp_ok($replaced, '>=', 3, 'each record has the version');
open my $out, '>:raw', $file or die $!;
print $out $bytes;
close $out;
$node->start;
wait_for_worker($node, 'mana_sync', 20);
is(is_safe(), 'f', 'crashes of another version do not count');

# A file of another kind does not cause safe mode.
$node->stop;
open $out, '>:raw', $file or die $!;
print $out 'nonsense';
close $out;
$node->start;
wait_for_worker($node, 'mana_sync', 20);

# ---------------------------------------------------------------- the trigger crashes

# A session that inserts this mission stops inside the trigger.
sub slow_down
{
    my ($table, $condition) = @_;
    $node->safe_psql('mana_sync', <<"END");
CREATE OR REPLACE FUNCTION public.slow_$table(mana_ai.$table) RETURNS boolean LANGUAGE plpgsql AS
\$\$ BEGIN IF $condition THEN PERFORM pg_sleep(600); END IF; RETURN true; END \$\$;
ALTER TABLE mana_ai.$table ADD CONSTRAINT slow CHECK (public.slow_$table($table));
END
    return;
}

sub crash_in_trigger
{
    my ($id, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $session = background($node, <<"END");
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', '$id', 'user-1', 'insert', 'browser-1',
        '{"id": "$id", "title": "Langsam", "state": "active", "objective": "Ziel", "cadence": {"kind": "manual"}, "nextRunAt": "2020-01-01T00:00:00.000Z", "iterations": []}');
END
    my $pid = '';
    wait_until("$what: a session is inside of the trigger", 20,
        sub { $pid = value($node, "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE 'INSERT INTO public.sync_changes%'"); $pid ne '' });
    crash($pid, $what);
    $session->finish(10);
    return;
}

$model->reset;
slow_down('mission_snapshots', q{$1.record ->> 'title' = 'Langsam'});
crash_in_trigger('slow1', "trigger, crash $_") for 1 .. 3;
is(is_safe(), 't', 'three crashes in the trigger are safe mode as well');
like(problem(), qr/in the trigger, mission slow1 of user user-1;/, 'status() names the trigger and the record');
push_mission($node, 'slow2', title => 'Langsam');
push_mission($node, 'quick');
is(value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id IN ('slow2', 'quick')"), 0,
    'rows are not folded');
is(value($node, "SELECT string_agg(record_id || ': ' || reason, ', ' ORDER BY record_id) FROM mana_ai.dirty_records"),
    'quick: safe mode, slow2: safe mode', 'but marked');

# Even marking crashes.
slow_down('dirty_records', q{$1.record_id = 'slow3'});
crash_in_trigger('slow3', 'marking');
push_mission($node, 'slow3', title => 'Langsam');
push_mission($node, 'quick2');
is(value($node, "SELECT count(*) FROM mana_ai.dirty_records WHERE record_id IN ('slow3', 'quick2')"), 0,
    'then nothing is marked either');
is(value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id IN ('slow3', 'quick2')"), 2,
    'while all inserts succeed');

$node->safe_psql('mana_sync', 'ALTER TABLE mana_ai.mission_snapshots DROP CONSTRAINT slow; ALTER TABLE mana_ai.dirty_records DROP CONSTRAINT slow');
is(value($node, 'SELECT mana_ai.resume_after_crash()'), 't', 'the cause is gone');
wait_for_iterations($node, $_, 1, 40) for qw(slow2 quick slow3 quick2);
is(snapshots_differ($node), '', 'what was only counted is folded again: snapshots are replays');

# ---------------------------------------------------------------- without a limit

settings($node, 'mana_ai.crash_limit' => '0');
crash(wait_for_worker($node, 'mana_sync', 20), "no limit, crash $_") for 1 .. 4;
wait_for_worker($node, 'mana_sync', 20);
is(is_safe(), 'f', 'with a limit of 0 there is no safe mode');

$node->stop;
$model->stop;
done_testing();
