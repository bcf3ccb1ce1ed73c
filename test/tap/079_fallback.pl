# Several planner models, and tiers: which is called when the first one is unavailable, cannot do it, or has no room at the tier.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('fallback', preload => 1, model => $model, conf => <<'END');
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '1s'
mana_ai.planner_model = 'test/first, test/second, test/third'
mana_ai.compact_model = 'test/compact'
END
wait_for_worker($node);

my $done = { content => 'Fertig' };
my $call = { tool_calls => [ { name => 'create_task', arguments => { title => 'Eins' } } ] };
sub does { my ($text, @steps) = @_; $model->control({ match => $text, steps => \@steps, repeat => 'last' }); return }
sub asked { return map { $_->{body}{model} . ($_->{body}{service_tier} ? "@" . $_->{body}{service_tier} : '') } $model->requests }
sub push_one { my ($id, %fields) = @_; push_mission($node, $id, cadence => { kind => 'manual' }, %fields); return }
sub is_planned { my ($id, $times) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = wait_for($node, "$id is planned", 40, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'", $times // 1);
    diag(why_of($node, $id)) unless $ok;
    return $ok }
sub states { return join ' ', map { "$_->{name}=$_->{state}" } @{ rows($node, q{SELECT name, state FROM mana_ai.services() WHERE service = 'model' ORDER BY name}) } }
# A worker that has learned nothing of the services yet.
sub restart_worker
{
    my $pid = worker_pid($node);
    value($node, "SELECT pg_terminate_backend($pid)");
    wait_until('another worker runs', 20, sub { my $new = worker_pid($node); return $new ne '' && $new ne $pid });
    wait_for_worker($node);
    return;
}

# ---------------------------------------------------------------- the first does it

does('"model":"test/', $done);
push_one('plain');
is_planned('plain');
is_deeply([ asked() ], ['test/first'], 'the first model is asked');
is(last_run($node, 'plain')->{model}, 'test/first', 'and is on record');

# ---------------------------------------------------------------- it cannot

for my $case (
    [ 'capability', { status => 413, error => { kind => 'capability', message => 'context too long' } } ],
    [ 'no_healthy_provider', { status => 503, error => { kind => 'no_healthy_provider', message => 'none' } } ])
{
    my ($kind, $refusal) = @$case;
    restart_worker();
    $model->reset;
    does('"model":"test/first"', $refusal);
    does('"model":"test/second"', { %$call, model => 'real/second' }, { %$done, model => 'real/second' });
    push_one("no-$kind");
    is_planned("no-$kind");
    is_deeply([ asked() ], [ 'test/first', 'test/second', 'test/second' ], "$kind: the next one is asked, and stays for the run");
    my $run = last_run($node, "no-$kind");
    is_deeply([ @$run{qw(model answered_by rounds)} ], [ 'test/second', 'real/second', 2 ], 'who was asked and who answered is on record');
    is(value($node, "SELECT string_agg(DISTINCT model, ',') FROM mana_ai.token_usage WHERE mission_id = 'no-$kind'"), 'real/second', 'in the ledger as well');
    is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'no-$kind'"), 0, 'and no failure counts');
}

restart_worker();
$model->reset;
does('"model":"test/', { status => 413, error => { kind => 'capability', message => 'context too long' } });
push_one('nobody');
wait_for($node, 'where none can the run fails', 40, "SELECT outcome || ' ' || error_kind FROM mana_ai.runs WHERE mission_id = 'nobody'", 'failed capability');
is_deeply([ asked() ], [ 'test/first', 'test/second', 'test/third' ], 'each has been asked once');

# Of those that cannot and those that are away the latter may do it later.
restart_worker();
$model->reset;
does('"model":"test/first"', { status => 503, error => { kind => 'no_healthy_provider', message => 'none' } });
does('"model":"test/', { status => 413, error => { kind => 'capability', message => 'context too long' } });
push_one('later');
wait_for($node, 'who is away is waited for', 40, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'later' AND lease_owner IS NULL", 'skipped-service');
$model->reset;
does('"model":"test/', $done);
is_planned('later');

# ---------------------------------------------------------------- it is away

restart_worker();
$model->reset;
does('"model":"test/first"', { status => 503 });
does('"model":"test/second"', $done);
push_one("away-$_", user => "user-$_") for 1 .. 8;
is_planned("away-$_") for 1 .. 8;
wait_until('the gate of the first is closed', 20, sub { return states() =~ m{test/first=unavailable} });
like(states(), qr{test/second=open}, 'that of the second is open');
is(value($node, q{SELECT coalesce(worker_problem, 'none') FROM mana_ai.status()}), 'none', 'which is no problem of the worker');
my $before = () = grep { $_ eq 'test/first' } asked();
push_one("after-$_") for 1 .. 10;
is_planned("after-$_") for 1 .. 10;
my $probes = (() = grep { $_ eq 'test/first' } asked()) - $before;
cmp_ok($probes, '<', 10, 'a closed gate is only probed');
is(value($node, q{SELECT count(*) FROM mana_ai.mission_schedule WHERE attempts > 0 AND mission_id LIKE 'a%'}), 0, 'no attempt is charged');
does('"model":"test/first"', $done);
wait_until('the first one is asked again when it is back', 60, sub {
    push_one('back-' . ++$before);
    is_planned("back-$before");
    return last_run($node, "back-$before")->{model} eq 'test/first';
});

$model->control({ down => 503 });
push_one("out-$_", user => "user-$_") for 1 .. 8;
wait_for($node, 'when all are away that is the problem', 60, q{SELECT worker_problem ~ '^the model service has been unavailable since' FROM mana_ai.status()}, 't');
$model->control({ down => 0 });
is_planned("out-$_") for 1 .. 8;

# ---------------------------------------------------------------- an operator has stopped one of them

restart_worker();
$model->reset;
does('"model":"test/', $done);
value($node, q{SELECT mana_ai.stop('model:test/first', 'zu teuer')});
wait_until('the next one plans', 20, sub {
    push_one('braked-' . ++$before);
    is_planned("braked-$before");
    return last_run($node, "braked-$before")->{model} eq 'test/second';
});
is(value($node, q{SELECT coalesce(worker_problem, 'none') FROM mana_ai.status()}), 'none', 'planning is not stopped');
$model->reset;
does('"model":"test/second"', { %$done, latency_ms => 30_000 });
does('"model":"test/', $done);
push_one('cut');
$model->wait_in_flight(1, 20);
value($node, q{SELECT mana_ai.stop('model:test/second', 'auch')});
is_planned('cut');
is(value($node, q{SELECT string_agg(outcome || ' ' || model, ', ' ORDER BY started_at) FROM mana_ai.runs WHERE mission_id = 'cut'}),
    'canceled test/first, planned test/third', 'a call under way of the one that is stopped is given up');
value($node, q{SELECT mana_ai.stop('model:test/third', 'alle')});
like(value($node, q{SELECT worker_problem FROM mana_ai.status()}), qr/^model:test\/first was stopped by postgres/, 'without any left planning is stopped');
value($node, qq{SELECT mana_ai.resume('model:test/$_')}) for qw(first second third);

# A stopped one is not called even when all others are unavailable.
$model->reset;
does('"model":"test/second"', { status => 503, error => 'overloaded' });
does('"model":"test/', $done);
value($node, qq{SELECT mana_ai.stop('model:test/$_', 'nie')}) for qw(first third);
push_one("none-$_", user => "user-$_") for 1 .. 8;
wait_for($node, 'the only one that is left is away, which is the problem', 60,
    q{SELECT worker_problem ~ '^the model service has been unavailable since' FROM mana_ai.status()}, 't');
push_one("late-$_", user => "user-$_") for 1 .. 8;
wait_until('it is probed', 30, sub { $model->count >= 8 });
is_deeply([ do { my %asked; $asked{ $_->{body}{model} }++ for $model->requests; keys %asked } ], ['test/second'],
    'no other is asked');
$model->reset;
does('"model":"test/', $done);
value($node, qq{SELECT mana_ai.resume('model:test/$_')}) for qw(first third);
is_planned($_) for map { ("none-$_", "late-$_") } 1 .. 8;

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;
$model->stop;
done_testing();
