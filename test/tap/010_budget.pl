# An agent's tokens in 24 hours, and how many of its missions run at once.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node  = new_cluster('budget', preload => 1, model => $model, conf => "mana_ai.tick_enabled = off\nmana_ai.llm_max_tokens = 1000");

# A call's prompt has as many tokens as the estimate before the first reply says.
$model->control({ steps => [ { content => 'Fertig', latency_ms => 1500 } ] });
push_mission($node, 'probe', cadence => { kind => 'manual' });
my $probe = background($node, 'SELECT mana_ai.run_tick()');
$model->wait_in_flight(1);
my $call = value($node, "SELECT reserved_tokens FROM mana_ai.runs WHERE mission_id = 'probe'");
$probe->finish;
sub call { return { tool_calls => [ { name => 'create_task', arguments => { title => 'T' } } ], usage => { prompt_tokens => $call - 1000, completion_tokens => 1000, total_tokens => $call } } }
sub used { return value($node, "SELECT coalesce(sum(tokens_used), 0) FROM mana_ai.token_usage WHERE agent_id = '$_[0]'") }

# ---------------------------------------------------------------- in the middle of a run

my $cap = int(2.5 * $call);
push_agent($node, 'some', maxTokensPerDay => $cap);
push_mission($node, 'b1', agentId => 'some', cadence => { kind => 'manual' });
$model->reset;
$model->control({ steps => [ call() ], repeat => 'last' });
is(run_tick($node)->{plans_written_back}, 1, 'a budget that is used up in the middle of a run');
my $run = last_run($node, 'b1');
is_deeply([ @$run{qw(outcome rounds steps total_tokens)} ], [ 'planned', 2, 2, 2 * $call ],
    'ends the run before the call that would exceed it, with the steps that it has');
like(iterations_of($node, 'b1')->[0]{summary}, qr/^Das Tagesbudget des Agenten ist aufgebraucht\./, 'and says so');
is(iterations_of($node, 'b1')->[0]{overallStatus}, 'awaiting-review', 'for review');

push_mission($node, 'b2', agentId => 'some');
my $before = $model->count;
my $tick = run_tick($node);
is_deeply([ @$tick{qw(due_mission_count plans_produced skipped)} ], [ 1, 0, 1 ], 'the agent\'s next mission is skipped');
is($model->count, $before, 'before anything is spent');
is(last_run($node, 'b2')->{decision}, 'skipped-budget', 'with its decision on record');
is(why_of($node, 'b2'), "agent Agent some has used @{[ 2 * $call ]} of $cap tokens in the last 24 hours; at the last look the rest was reserved, or less than a call needs", 'why()');
push_mission($node, 'free', cadence => { kind => 'manual' });
is(run_tick($node)->{plans_written_back}, 1, 'missions without agent have no budget');

value($node, "UPDATE mana_ai.token_usage SET ts = ts - interval '24 hours 1 second' WHERE agent_id = 'some'");
like(why_of($node, 'b2'), qr/ has used 0 of \d+ tokens in the last 24 hours; at the last look /, 'why(): the budget is free again');
value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = now() WHERE mission_id = 'b2'");
is(run_tick($node)->{plans_written_back}, 1, 'tokens older than 24 hours do not count');

push_agent($node, 'cap0', maxTokensPerDay => 0);
push_mission($node, 'never', agentId => 'cap0');
is(run_tick($node)->{skipped}, 1, 'a budget of 0 never runs');
push_change($node, table => 'agents', id => 'cap0', data => { maxTokensPerDay => 10 * $call }, stamps => { maxTokensPerDay => iso(0) });
is(run_tick($node)->{plans_written_back}, 1, 'a change of the agent is looked at in the next tick');

# ---------------------------------------------------------------- a failed run has spent too

push_agent($node, 'fails', maxTokensPerDay => 10 * $call);
push_mission($node, 'f1', agentId => 'fails', cadence => { kind => 'manual' });
$model->reset;
$model->control({ steps => [ call(), { status => 500 } ] });
run_tick($node);
$run = last_run($node, 'f1');
is_deeply([ @$run{qw(outcome rounds total_tokens)} ], [ 'failed', 1, $call ], 'a run that failed in its second round');
is(used('fails'), $call, 'its first reply is charged');

# ---------------------------------------------------------------- several missions at once

push_agent($node, 'many', maxTokensPerDay => int(1.5 * $call), maxConcurrentMissions => 5);
push_missions($node, [ map { "p$_" } 1 .. 5 ], agentId => 'many', cadence => { kind => 'manual' });
$model->reset;
$model->control({ steps => [ { %{ call() }, latency_ms => 150 } ], repeat => 'last' });
$tick = run_tick($node);
is_deeply([ @$tick{qw(plans_written_back skipped)} ], [ 1, 4 ], 'a budget smaller than two calls: one mission of the agent goes out');
is($model->stats->{max_in_flight}, 1, 'one call at a time');
is(used('many'), $call, 'and the budget is not exceeded');
# They are checked again after five seconds, which must not interfere with the rest.
push_change($node, id => "p$_", data => { state => 'done' }, stamps => { state => iso(1) }) for 1 .. 5;
push_agent($node, 'plenty', maxTokensPerDay => 10_000_000, maxConcurrentMissions => 5);
push_missions($node, [ map { "q$_" } 1 .. 5 ], agentId => 'plenty', cadence => { kind => 'manual' });
$model->reset;
$model->control({ steps => [ { %{ call() }, latency_ms => 500 } ], repeat => 'last' });
$tick = run_tick($node);
is($tick->{plans_written_back}, 5, 'five missions of one agent at once');
is($model->stats->{max_in_flight}, 5, 'all in flight together');

# ---------------------------------------------------------------- concurrency: run_tick

push_agent($node, 'one');
push_missions($node, [ map { "o$_" } 1 .. 3 ], agentId => 'one', cadence => { kind => 'manual' });
push_agent($node, 'two', maxConcurrentMissions => 2);
push_missions($node, [ map { "t$_" } 1 .. 3 ], agentId => 'two', cadence => { kind => 'manual' });
$model->reset;
$model->control({ latency_ms => 100 });
$tick = run_tick($node);
is_deeply([ @$tick{qw(due_mission_count plans_written_back skipped)} ], [ 6, 3, 3 ],
    'run_tick() runs as many missions of an agent as it may');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE decision = 'skipped-concurrency' AND outcome = 'skipped'"), 3, 'and leaves the others');
my ($left) = value($node, "SELECT min(mission_id) FROM mana_ai.mission_snapshots WHERE mission_id ~ '^o[123]' AND record -> 'iterations' = '[]'");
like(why_of($node, $left), qr/^waiting until .* after decision skipped-concurrency/, 'why()');

# ---------------------------------------------------------------- concurrency: the worker

$model->reset;
$model->control({ latency_ms => 150 });
settings($node, 'mana_ai.tick_enabled' => 'on');
push_missions($node, [ map { "s$_" } 1 .. 4 ], agentId => 'one', cadence => { kind => 'manual' });
is_faster_than(10, 'the worker takes the next one up when one ends, not a tick_interval (30 s) later', sub {
    wait_for($node, 'all missions of the agent are planned', 15,
        "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id ~ '^[os][1-4]' AND jsonb_array_length(record -> 'iterations') = 1", 7);
});
is(value($node, <<'END'), 0, 'one after the other');
SELECT count(*) FROM mana_ai.runs a JOIN mana_ai.runs b
    ON a.agent_id = 'one' AND b.agent_id = 'one' AND a.run_id <> b.run_id AND a.outcome = 'planned' AND b.outcome = 'planned'
   AND a.started_at < b.finished_at AND b.started_at < a.finished_at
 WHERE a.mission_id ~ '^s' AND b.mission_id ~ '^s'
END
is(value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE jsonb_array_length(record -> 'iterations') > 1"), 0, 'each of them once');

# A manual run counts as well.
settings($node, 'mana_ai.tick_enabled' => undef);
wait_for($node, 'the worker is paused', 5, 'SELECT worker_state FROM mana_ai.status()', 'paused');
$model->reset;
$model->control({ steps => [ { latency_ms => 1500, content => 'langsam' } ] });
push_missions($node, [qw(z1 z2)], agentId => 'one', cadence => { kind => 'manual' }, nextRunAt => undef);
my $session = background($node, "SELECT outcome FROM mana_ai.run_mission('@{[USER_ID]}', 'z1')");
$model->wait_in_flight(1);
is(run_mission($node, 'z2')->{outcome}, 'skipped-concurrency', 'two missions of an agent by hand: the second is skipped');
my (undef, $out) = $session->finish(10);
is($out, "planned\n", 'the first is planned');
is(run_mission($node, 'z2')->{outcome}, 'planned', 'then the second');

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;
$model->stop;
done_testing();
