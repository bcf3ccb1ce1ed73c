# The preloaded worker: when it wakes, how many missions it runs concurrently, and how it ends.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node  = new_cluster('worker', preload => 1, model => $model);
my $pid   = wait_for_worker($node);

my $status = rows($node, 'SELECT * FROM mana_ai.status()')->[0];
is($status->{preloaded}, JSON::PP::true, 'status(): preloaded');
is($status->{worker_problem}, undef, 'status(): no problem');
ok($status->{worker_since}, 'status(): since when it runs');
is($status->{library_version}, $status->{extension_version}, 'status(): versions agree');
is(value($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'mana_ai%'"), 2,
    'launcher and worker show in pg_stat_activity');
wait_for($node, 'the idle worker waits', 5, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $pid", 'Extension');

# ---------------------------------------------------------------- it wakes by itself

is_faster_than(5, 'a mission that is due when it is pushed is planned (tick_interval is 30 s)', sub {
    push_mission($node, 'now');
    wait_for_iterations($node, 'now', 1, 5);
});
my ($request) = $model->requests;
my $lag = $request->{arrived_us} / 1e6 - value($node,
    "SELECT extract(epoch FROM created_at) FROM public.sync_changes WHERE record_id = 'now' AND op = 'insert'");
cmp_ok($lag, '<', 0.5, 'the model is asked within half a second of the push');

my $due = time + 1.2;
push_mission($node, 'soon', nextRunAt => iso(1.2));
like(why_of($node, 'soon'), qr/^not due until /, 'why(): not due yet');
wait_for_iterations($node, 'soon', 1, 6);
my $arrived = ($model->requests)[2]{arrived_us} / 1e6;
cmp_ok($arrived - $due, '>', -0.01, 'a mission is not planned before it is due');
cmp_ok($arrived - $due, '<', 0.5,   'and soon after');

my $change = mission_change_paused();
push_changes($node, $change);
sleep 0.3;
is(scalar @{ iterations_of($node, 'resumed') }, 0, 'a paused mission is not planned');
push_change($node, id => 'resumed', data => { state => 'active' }, stamps => { state => iso(0) });
wait_for_iterations($node, 'resumed', 1, 5);
is(worker_pid($node), $pid, 'all this was one worker');

sub mission_change_paused
{
    return { id => 'resumed', op => 'insert',
        data => { id => 'resumed', title => 'T', objective => 'O', state => 'paused',
            cadence => { kind => 'manual' }, iterations => [], nextRunAt => iso(-5), updatedAt => iso(-5) } };
}

# COPY and large transactions wake it once, at their commit.
value($node, <<"END");
BEGIN;
SET LOCAL app.current_user_id = 'bulk';
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', 'aiMissions', 'bulk-' || i, 'bulk', 'insert', 'restore', jsonb_build_object(
    'state', 'active', 'title', 'B' || i, 'objective', 'O', 'iterations', '[]'::jsonb,
    'cadence', '{"kind": "manual"}'::jsonb, 'nextRunAt', '2020-01-01T00:00:00Z')
  FROM generate_series(1, 300) i;
COMMIT;
END
wait_for($node, '300 missions of one restore are all planned', 15,
    "SELECT count(*) FROM mana_ai.runs WHERE user_id = 'bulk' AND outcome = 'planned'", 300);
is(value($node, "SELECT count(*) FROM public.sync_changes WHERE user_id = 'bulk' AND client_id = 'mana-ai-runner'"),
    300, 'each of them once');
cmp_ok($model->stats->{max_in_flight}, '<=', 64, 'never more than max_concurrency at once');

# ---------------------------------------------------------------- many at once

$model->reset;
$model->control({ latency_ms => 1000 });
push_missions($node, [ map { "many-$_" } 1 .. 20 ]);
is_faster_than(4, '20 missions of two calls, each of which takes a second, are planned', sub {
    wait_for($node, '20 missions are planned', 10,
        "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'many-%' AND outcome = 'planned'", 20);
});
is($model->stats->{max_in_flight}, 20, 'all of them at the same time');

settings($node, 'mana_ai.max_concurrency' => 3);
sleep 0.2;
$model->reset;
$model->control({ latency_ms => 200 });
push_missions($node, [ map { "few-$_" } 1 .. 9 ]);
wait_for($node, 'with max_concurrency 3 nine missions are planned', 10,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'few-%' AND outcome = 'planned'", 9);
is($model->stats->{max_in_flight}, 3, 'three at a time, from the reload on');
settings($node, 'mana_ai.max_concurrency' => undef);

# ---------------------------------------------------------------- while calls are in flight

sub hang
{
    my (@ids) = @_;
    $model->reset;
    $model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
    push_missions($node, \@ids);
    return $model->wait_in_flight(scalar @ids);
}

hang('h1', 'h2', 'h3');
is(rows($node, 'SELECT in_flight FROM mana_ai.status()')->[0]{in_flight}, 3, 'status() counts the calls in flight');
is(value($node, "SELECT state FROM pg_stat_activity WHERE backend_type = 'mana_ai worker'"), 'idle',
    'the worker is in no transaction meanwhile');
is(value($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai worker' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)"),
    0, 'and holds no snapshot');
is(value($node, "SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype = 'relation'"), 0, 'and no lock on a table');
is_faster_than(2, 'CREATE DATABASE while calls are in flight', sub { value($node, 'CREATE DATABASE other', 'postgres') });
is_faster_than(2, 'DROP DATABASE', sub { value($node, 'DROP DATABASE other', 'postgres') });
is_faster_than(2, 'a full vacuum of our own tables', sub { value($node, 'VACUUM FULL mana_ai.mission_snapshots') });
is_deeply(run_tick($node)->{errors}, ['overlap-skipped'], 'run_tick() leaves the tick to the worker');
push_mission($node, 'by-hand', nextRunAt => undef);
$model->control({ steps => [ { content => 'Sofort.' }, { hang => JSON::PP::true } ], repeat => 'last' });
is(run_mission($node, 'by-hand')->{outcome}, 'planned', 'run_mission() runs at the same time');
is($model->in_flight, 3, 'the calls are still in flight');

is_faster_than(2, 'pg_cancel_backend() of the worker ends the calls', sub {
    value($node, "SELECT pg_cancel_backend($pid)");
    $model->wait_in_flight(0);
});
is(worker_pid($node), $pid, 'the worker itself goes on');
wait_for($node, 'the runs are on record as canceled', 2,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'h_' AND outcome = 'canceled'", 3);
like(why_of($node, 'h1'), qr/^waiting until /, 'the operator\'s cancel is not undone at once');
is(value($node, "SELECT count(*) FROM mana_ai.mission_schedule WHERE lease_owner IS NOT NULL"), 0, 'no lease is left');
$model->reset;
push_change($node, id => 'h1', data => { title => 'Neu' }, stamps => { title => iso(0) });
wait_for_iterations($node, 'h1', 1, 5);

# ---------------------------------------------------------------- with a user's long transaction

push_agent($node, 'paused', state => 'paused');
push_missions($node, [qw(waits-1 waits-2)], agentId => 'paused');
wait_for($node, 'missions of a paused agent are held back', 5,
    "SELECT count(*) FROM mana_ai.mission_schedule WHERE decision = 'skipped-paused' AND not_before > now()", 2);
my $long = background($node, "BEGIN; SELECT 1 FROM mana_ai.mission_schedule WHERE mission_id = 'waits-1' FOR UPDATE; SELECT pg_sleep(3); COMMIT;");
wait_for($node, 'a transaction holds the schedule of one of them', 5,
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3)%' AND wait_event = 'PgSleep'", 1);
push_change($node, table => 'agents', id => 'paused', data => { state => 'active', maxConcurrentMissions => 5 },
    stamps => { state => iso(0), maxConcurrentMissions => iso(0) });
push_mission($node, 'unaffected');
is_faster_than(2, 'others do not wait for it', sub { wait_for_iterations($node, $_, 1, 2) for qw(unaffected waits-2) });
ok($long->running, 'it still holds the row');
$long->finish(10);
push_mission($node, 'afterwards');
wait_for_iterations($node, 'waits-1', 1, 5);

# ---------------------------------------------------------------- terminated, restarted

hang('t1', 't2');
my $log = log_position($node);
value($node, "SELECT pg_terminate_backend($pid)");
wait_until('pg_terminate_backend(): another worker is started', 10, sub {
    my $new = worker_pid($node);
    return $new ne '' && $new ne $pid;
});
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 't_' AND outcome = 'canceled'"), 2,
    'the runs of the first one are on record as canceled');
like(log_since($node, $log), qr/mana_ai: worker ends: termination was requested/, 'the log says why it ended');
# Not only the calls of the first, whose end the model server may not have noticed yet.
wait_for($node, 'they run again', 10, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 't_' AND outcome = 'running'", 2);
$model->wait_in_flight(2, 5);
$pid = worker_pid($node);

is_faster_than(2, 'fast shutdown with calls in flight', sub { $node->stop('fast') });
$model->reset;
settings_file($node, "mana_ai.tick_enabled = off\n");
$node->start;
wait_for_worker($node);
is(value($node, 'SELECT count(*) FROM mana_ai.mission_schedule WHERE lease_owner IS NOT NULL'), 0,
    'the leases were given back before the end');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 't_' AND outcome = 'canceled'"), 4,
    'the runs are canceled, not crashed');

sub settings_file
{
    my ($server, $line) = @_;
    $server->append_conf('postgresql.conf', $line);
    return;
}

# ---------------------------------------------------------------- settings at run time

wait_for($node, 'with tick_enabled off the worker is paused', 5, 'SELECT worker_state FROM mana_ai.status()', 'paused');
is(why_of($node, 't1'), 'worker is paused: mana_ai.tick_enabled is off', 'why() says so');
sleep 0.3;
is($model->count, 0, 'nothing is planned');
settings($node, 'mana_ai.tick_enabled' => 'on');
wait_for_iterations($node, $_, 1, 5) for qw(t1 t2);

my $other = start_model();
value($node, "ALTER DATABASE mana_sync SET mana_ai.llm_url = '" . $other->url . "'", 'postgres');
value($node, "ALTER DATABASE mana_sync SET mana_ai.planner_model = 'openai/gpt-x'", 'postgres');
$node->reload;
sleep 0.3;
push_mission($node, 'elsewhere');
wait_for_iterations($node, 'elsewhere', 1, 5);
is($other->count, 2, 'ALTER DATABASE ... SET is heeded after a reload');
is(($other->requests)[0]{body}{model}, 'openai/gpt-x', 'also for the model');
is(last_run($node, 'elsewhere')->{model}, 'openai/gpt-x', 'which is on record');
value($node, 'ALTER DATABASE mana_sync RESET ALL', 'postgres');

# A worker with old settings would fail here.
settings($node, 'mana_ai.tick_interval' => '200ms');
wait_for($node, 'a shorter tick_interval is heeded', 5,
    "SELECT clock_timestamp() - last_tick_at < interval '1 second' FROM mana_ai.status()", 't');

# ---------------------------------------------------------------- what operators read

$log = log_since($node);
like($log, qr/LOG:  mana_ai: mission run ended: by=worker run=[0-9a-f-]{36} user=user-1 mission=now agent=- outcome=planned rounds=2 steps=\d tokens=2840 ms=\d+/,
    'one line per run in the log');
unlike($log, qr/Ziel von|Mission now/, 'without what users wrote');
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
is(snapshots_differ($node), '', 'all snapshots are replays');
is(value($node, "SELECT count(*) FROM (SELECT user_id, record_id FROM public.sync_changes WHERE client_id = 'mana-ai-runner' GROUP BY 1, 2 HAVING count(*) > 1) d"),
    0, 'no mission was planned twice');

$node->stop;
$_->stop for $model, $other;
done_testing();
