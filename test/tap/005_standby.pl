# A streaming standby: nothing runs there until it is promoted; then it continues where the primary
# stopped, and the dead primary's runs are accounted for.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $model   = start_model();
my $primary = new_cluster('primary', preload => 1, streaming => 1, model => $model, conf => 'hot_standby = on');
wait_for_worker($primary);

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

push_mission($primary, 'before');
wait_for_iterations($primary, 'before', 1, 5);
$primary->wait_for_catchup($standby);

# ---------------------------------------------------------------- as a standby

is(value($standby, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'mana_ai%'"), 0,
    'no process of mana_ai runs on a standby');
fails_like($standby, 'SELECT * FROM mana_ai.run_tick()',
    qr/ERROR:  25006: cannot execute mana_ai\.run_tick\(\) during recovery\n.*HINT:  Run it on the primary/s,
    'run_tick() on a standby');
fails_like($standby, "SELECT * FROM mana_ai.run_mission('@{[USER_ID]}', 'before')",
    qr/ERROR:  25006: .*during recovery\n.*HINT:/s, 'run_mission() on a standby');
my $status = rows($standby, 'SELECT * FROM mana_ai.status()')->[0];
is($status->{worker_problem}, 'this server is a standby; the worker starts when it is promoted', 'status() says so');
is($status->{worker_pid}, undef, 'status(): no worker');
is(scalar @{ iterations_of($standby, 'before') }, 1, 'replay() works on a standby');
like(why_of($standby, 'before'), qr/^not due until /, 'so does why()');
is(value($standby, 'SELECT count(*) FROM mana_ai.mission_problems'), 0, 'and mission_problems');
is(value($standby, q{SELECT mana_ai.next_run('{"kind": "interval", "everyMinutes": 5}', '2026-01-01Z', 'UTC') = '2026-01-01 00:05Z'}),
    't', 'and next_run()');

# ---------------------------------------------------------------- failover with calls in flight

$model->reset;
$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
push_missions($primary, [qw(flight-1 flight-2)]);
$model->wait_in_flight(2);
push_mission($primary, 'later', nextRunAt => iso(3600));
$primary->wait_for_catchup($standby);
like(why_of($standby, 'flight-1'), qr/^running since /, 'the standby knows what the primary is doing');
$primary->stop('immediate');
$model->reset;

my $promoted = time;
$standby->promote;
wait_for_worker($standby, 'mana_sync', 10);
wait_for_iterations($standby, $_, 1, 10) for qw(flight-1 flight-2);
cmp_ok(time - $promoted, '<', 8, 'soon after the promotion');
is(value($standby, "SELECT string_agg(outcome, ',' ORDER BY started_at) FROM mana_ai.runs WHERE mission_id = 'flight-1'"),
    'crashed,planned', 'the dead primary\'s run is on record as crashed, the new one as planned');
is(value($standby, "SELECT count(*) FROM public.sync_changes WHERE record_id LIKE 'flight-%' AND client_id = 'mana-ai-runner'"),
    2, 'each mission has its plan once');
is($model->count, 4, 'two calls for each');

push_mission($standby, 'after');
wait_for_iterations($standby, 'after', 1, 5);
is(run_tick($standby)->{due_mission_count}, 0, 'run_tick() works after the promotion');
is(rows($standby, 'SELECT worker_problem FROM mana_ai.status()')->[0]{worker_problem}, undef, 'status(): no problem');
is(snapshots_differ($standby), '', 'all snapshots are replays');
unlike(log_since($standby), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');

$standby->stop;
$model->stop;
done_testing();
