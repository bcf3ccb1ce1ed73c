# An operator stops planning, wholly or for a user, an agent, a model or a tool: calls in flight end within a second,
# nothing new begins, everybody sees who did it and why, and resume() brings everything back.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep);

my $model = start_model(latency_ms => 20);
my $node  = new_cluster('brake', preload => 1, model => $model,
    conf => "mana_ai.max_unreviewed = 0\nmana_ai.tick_interval = '30s'\nmana_ai.planner_model = 'google/test'\nmana_ai.compact_model = 'google/small'");
wait_for_worker($node);

sub stop_it { my ($scope) = @_; return value($node, "SELECT mana_ai.stop('$scope', 'Kosten laufen davon')") }
sub resume_it { my ($scope) = @_; return value($node, "SELECT mana_ai.resume('$scope')") }
sub decision { return value($node, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = '$_[0]' AND lease_owner IS NULL") }

# Missions whose calls hang: with the model, until they are cancelled.
sub hang
{
    my (@missions) = @_;
    $model->reset;
    $model->control({ latency_ms => 60_000 });
    push_mission($node, delete $_->{id}, %$_) for map { {%$_} } @missions;
    wait_until(scalar @missions . ' calls are in flight', 20, sub { return $model->in_flight == @missions });
    return;
}

sub answers { $model->control({ latency_ms => 20 }); return }

sub ends_within_a_second
{
    my ($scope, $left) = @_;
    my $started = Time::HiRes::time();
    stop_it($scope);
    wait_until("$scope: calls in flight have ended", 10, sub { return $model->in_flight == $left });
    # A second, and what a busy machine adds.
    cmp_ok(Time::HiRes::time() - $started, '<', 3, "$scope: at once");
    return;
}

# ---------------------------------------------------------------- everything

hang({ id => 'a1' }, { id => 'a2', user => 'user-2' });
ends_within_a_second('all', 0);
for my $run (rows($node, q{SELECT outcome, error_kind, total_tokens FROM mana_ai.runs ORDER BY mission_id})->@*)
{
    is_deeply([ @$run{qw(outcome error_kind)} ], [ 'canceled', 'stopped' ], 'the run ends as canceled, because it was stopped');
}
is(value($node, q{SELECT count(*) FROM mana_ai.mission_schedule WHERE lease_owner IS NOT NULL OR attempts > 0}), 0,
    'leases are given back, and nothing counts as an attempt');
my $words = qr/^all planning was stopped by postgres since \d{4}-.*: Kosten laufen davon$/;
like(value($node, 'SELECT worker_problem FROM mana_ai.status()'), $words, 'status() says who stopped it, when and why');
like(why_of($node, 'a1'), $words, 'so does why()');
is(value($node, q{SELECT (mana_ai.http_status() -> 'stops' -> 0 ->> 'reason') || ' ' || (mana_ai.http_status() -> 'stops' -> 0 ->> 'by')}),
    'Kosten laufen davon postgres', 'so does the page');
like(value($node, 'SELECT stops[1] FROM mana_ai.status()'), qr/^all since \d{4}-.* by postgres: Kosten laufen davon$/, 'and a list of what is stopped');
answers();
$model->reset;
push_mission($node, 'a3');
my $tick = run_tick($node);
is_deeply([ @$tick{qw(due_mission_count plans_written_back)} ], [ 0, 0 ], 'a manual tick begins nothing either');
is(run_mission($node, 'a3')->{outcome}, 'skipped-stopped', 'nor does run_mission()');
sleep 1;
is($model->count, 0, 'nobody has called the model');
resume_it('all');
wait_for_iterations($node, $_, 1) for qw(a1 a3);
wait_for($node, 'everything that waited is planned', 20, q{SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned'}, 3);
is(value($node, 'SELECT coalesce(worker_problem, $$none$$) FROM mana_ai.status()'), 'none', 'there is no problem any more');
is(value($node, q{SELECT resumed_by || ' ' || (resumed_at > stopped_at) FROM mana_ai.stops}), 'postgres true', 'that it was, and when it ended, stays on record');

# ---------------------------------------------------------------- one user

hang({ id => 'u1', user => 'careless' }, { id => 'u2', user => 'other' });
ends_within_a_second('user:careless', 1);
is(value($node, q{SELECT outcome FROM mana_ai.runs WHERE mission_id = 'u2'}), 'running', 'the others go on');
push_mission($node, 'u3', user => 'careless');
wait_for($node, "the user's missions are held back", 20,
    q{SELECT count(*) FROM mana_ai.mission_schedule WHERE user_id = 'careless' AND decision = 'skipped-stopped' AND lease_owner IS NULL}, 2);
like(value($node, q{SELECT mana_ai.why('careless', 'u3')}), qr/^user:careless was stopped by postgres since .*: Kosten laufen davon$/, 'why() says so');
is(value($node, 'SELECT coalesce(worker_problem, $$none$$) FROM mana_ai.status()'), 'none', 'the worker as a whole has no problem');
value($node, q{SELECT mana_ai.stop('user:other', 'auch')});
wait_until('the other one stops as well', 10, sub { return $model->in_flight == 0 });
answers();
resume_it('user:careless');
wait_for($node, 'one goes on', 20, q{SELECT count(*) FROM mana_ai.runs WHERE user_id = 'careless' AND outcome = 'planned'}, 2);
is(value($node, q{SELECT count(*) FROM mana_ai.runs WHERE user_id = 'other' AND outcome = 'planned'}), 0, 'without the other');
resume_it('user:other');
wait_for($node, 'then the other', 20, q{SELECT count(*) FROM mana_ai.runs WHERE user_id = 'other' AND outcome = 'planned'}, 1);

# Replies of both arrive together with the stop, so that what they cost is written on its account.
$model->reset;
$model->control({ steps => [ { content => 'Fertig', latency_ms => 1000 } ], repeat => 'last' });
push_mission($node, 'u4', user => 'careless', cadence => { kind => 'manual' });
push_mission($node, 'u5', user => 'other', cadence => { kind => 'manual' });
$model->wait_in_flight(2, 20);
my $worker = worker_pid($node);
kill 'STOP', $worker;
wait_until('the replies are on their way', 20, sub { return $model->in_flight == 0 });
stop_it('user:careless');
kill 'CONT', $worker;
wait_for($node, 'one is canceled', 20, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'u4' AND outcome = 'canceled'}, 1);
wait_for($node, 'the other goes on with its reply', 20, q{SELECT outcome FROM mana_ai.runs WHERE mission_id = 'u5'}, 'planned');
is(value($node, q{SELECT string_agg(mission_id, ',' ORDER BY mission_id) FROM mana_ai.token_usage WHERE mission_id IN ('u4', 'u5')}), 'u4,u5', 'both were charged, once');
resume_it('user:careless');
wait_for_iterations($node, 'u4', 1);

# ---------------------------------------------------------------- one agent

push_agent($node, 'ada', name => 'Ada');
push_agent($node, 'bob', name => 'Bob');
hang({ id => 'g1', agentId => 'ada' }, { id => 'g2', agentId => 'bob' });
ends_within_a_second('agent:ada', 1);
wait_for($node, 'missions of the agent are held back', 20, q{SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'g1' AND lease_owner IS NULL}, 'skipped-stopped');
is(value($node, q{SELECT outcome FROM mana_ai.runs WHERE mission_id = 'g2'}), 'running', 'those of another go on');
answers();
resume_it('agent:ada');
wait_for_iterations($node, 'g1', 1);

# ---------------------------------------------------------------- a model

value($node, q{SELECT mana_ai.stop('user:user-1', 'räumt auf')});
wait_until('nothing is in flight', 10, sub { return $model->in_flight == 0 });
resume_it('user:user-1');
wait_for_iterations($node, 'g2', 1);
hang({ id => 'm1' });
ends_within_a_second('model:google/test', 0);
like(value($node, 'SELECT worker_problem FROM mana_ai.status()'), qr/^model:google\/test was stopped by postgres since/, 'status() names the model');
is(value($node, q{SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'}), 0, 'nothing is planned with it');
answers();
settings($node, 'mana_ai.planner_model' => 'google/other');
wait_for_iterations($node, 'm1', 1);
is(($model->requests)[-1]{body}{model}, 'google/other', 'with another model planning goes on');
settings($node, 'mana_ai.planner_model' => 'google/test');
resume_it('model:google/test');

# ---------------------------------------------------------------- a tool

hang({ id => 't1' });
my ($request) = $model->requests;
ok((grep { $_->{function}{name} eq 'create_task' } @{ $request->{body}{tools} }), 'the model is offered the tool');
$model->control({ latency_ms => 20 });
stop_it('tool:create_task');
wait_for_iterations($node, 't1', 1);
my @asked = $model->requests;
is((grep { $_->{function}{name} eq 'create_task' } @{ $asked[-1]{body}{tools} }), 0, 'the mission is planned again, without it');
is(value($node, q{SELECT string_agg(outcome, ',' ORDER BY started_at) FROM mana_ai.runs WHERE mission_id = 't1'}), 'canceled,planned',
    'what had been offered it was canceled');
is(run_mission($node, 't1')->{outcome}, 'planned', 'a manual run');
is((grep { $_->{function}{name} eq 'create_task' } @{ ($model->requests)[-1]{body}{tools} }), 0, 'is not offered it either');
resume_it('tool:create_task');
run_mission($node, 't1');
is((grep { $_->{function}{name} eq 'create_task' } @{ ($model->requests)[-1]{body}{tools} }), 1, 'and is again when it is resumed');

# ---------------------------------------------------------------- a manual run ends as well

settings($node, 'mana_ai.tick_enabled' => 'off');
wait_for($node, 'the worker is paused', 10, 'SELECT worker_state FROM mana_ai.status()', 'paused');
$model->control({ latency_ms => 60_000 });
push_mission($node, 'h1');
my $hand = background($node, q{SELECT errors FROM mana_ai.run_tick()});
wait_until('its call is in flight', 20, sub { return $model->in_flight == 1 });
ends_within_a_second('all', 0);
my (undef, $said) = $hand->finish(20);
like($said, qr/mission h1: stopped/, 'run_tick() ends and says why');
answers();
resume_it('all');
settings($node, 'mana_ai.tick_enabled' => undef);
wait_for_iterations($node, 'h1', 1);

# ---------------------------------------------------------------- what can be wrong

fails_like($node, q{SELECT mana_ai.stop('everything', 'x')}, qr/scope "everything" is not valid/, 'a scope that there is not');
fails_like($node, q{SELECT mana_ai.stop('user:', 'x')}, qr/scope "user:" is not valid/, 'a scope without an id');
fails_like($node, q{SELECT mana_ai.stop('all', ' ')}, qr/a reason is required/, 'no reason');
fails_like($node, q{SELECT mana_ai.resume('user:nobody')}, qr/"user:nobody" is not stopped/, 'what is not stopped cannot go on');
value($node, q{SELECT mana_ai.stop('user:nobody', 'vertippt'); SELECT mana_ai.stop('user:nobody', 'zweimal')});
is(value($node, q{SELECT count(*) || ' ' || min(reason) FROM mana_ai.stops WHERE scope = 'user:nobody'}), '1 vertippt', 'stopped twice is stopped once');
value($node, q{CREATE ROLE oncall LOGIN; GRANT USAGE ON SCHEMA mana_ai TO oncall});
fails_like($node, q{SET ROLE oncall; SELECT mana_ai.stop('all', 'x')}, qr/permission denied/, 'nobody may stop without being allowed to');
value($node, q{GRANT EXECUTE ON FUNCTION mana_ai.stop(text, text), mana_ai.resume(text) TO oncall});
value($node, q{SET SESSION AUTHORIZATION oncall; SELECT mana_ai.stop('user:x', 'darf')});
is(value($node, q{SELECT stopped_by FROM mana_ai.stops WHERE scope = 'user:x'}), 'oncall', 'who may do it can, and is on record by name');
value($node, q{SET SESSION AUTHORIZATION oncall; SELECT mana_ai.resume('user:x')});

# It holds beyond a restart.
value($node, q{SELECT mana_ai.stop('all', 'über Nacht')});
$node->restart;
wait_for_worker($node);
$model->reset;
push_mission($node, 'night');
sleep 1.5;
is($model->count, 0, 'after a restart it is still stopped');
resume_it('all');
wait_for_iterations($node, 'night', 1);

is(snapshots_differ($node), '', 'all snapshots are replays');
unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$model->stop;
done_testing();
