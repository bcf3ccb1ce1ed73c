# Budgets in money: of an agent, a user and all together, while calls are in flight; and what has no price.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('cost_budgets', preload => 1, model => $model, conf => <<'END');
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '1s'
mana_ai.llm_max_tokens = 1000
mana_ai.planner_model = 'test/plan'
END
wait_for_worker($node);

# A token costs a millionth. A reply has as many as its call was held to use.
my $estimate = 2000;
sub answers { my (%more) = @_; $model->reset; $model->control({ steps => [ { content => 'Fertig', model => 'test/plan', usage => { prompt_tokens => $estimate - 500, completion_tokens => 500, total_tokens => $estimate }, %more } ], repeat => 'last' }); return }
sub amount { my ($tokens) = @_; return sprintf('%.6f', $tokens / 1e6) }
sub budget { my ($user, $agent, $tokens) = @_; value($node, "INSERT INTO mana_ai.cost_budgets (user_id, agent_id, cost_per_day, currency) VALUES ('$user', '$agent', @{[amount($tokens)]}, 'EUR')"); return }
sub spent { my ($where) = @_; return value($node, "SELECT coalesce(trim_scale(sum(cost)), 0) FROM mana_ai.token_usage WHERE $where") }
sub stops { my ($scope) = @_; return value($node, "SELECT coalesce(sum(value), 0) FROM mana_ai.metrics WHERE name = 'mana_ai_budget_stops_total' AND labels ->> 'scope' = '$scope'") }
sub is_planned { my ($id) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = wait_for($node, "$id is planned", 40, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'", 1);
    diag(why_of($node, $id)) unless $ok;
    return $ok }
value($node, q{INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million) VALUES ('test/plan', 'EUR', 1, 1)});

# ---------------------------------------------------------------- of a user

answers(latency_ms => 2000);
push_mission($node, 'probe', cadence => { kind => 'manual' });
$model->wait_in_flight(1, 20);
# Between the claim and the call it is only the reply's.
wait_until('the call has reserved its prompt', 10, sub { $estimate = value($node, "SELECT reserved_tokens FROM mana_ai.runs WHERE mission_id = 'probe'"); return $estimate > 1500 });
is_planned('probe');
answers();
budget('user-2', '', 2 * $estimate + 100);
push_missions($node, [ map { "u$_" } 1 .. 5 ], user => 'user-2', cadence => { kind => 'manual' });
wait_for($node, 'the rest of a user\'s missions is held back', 40, "SELECT count(*) FROM mana_ai.mission_schedule WHERE user_id = 'user-2' AND decision = 'skipped-user-budget' AND lease_owner IS NULL", 3);
wait_for($node, 'nothing runs any more', 30, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'", 0);
cmp_ok(spent("user_id = 'user-2'"), '==', amount(2 * $estimate), 'when the budget has no room for another call');
my $left = value($node, "SELECT min(mission_id) FROM mana_ai.mission_schedule WHERE user_id = 'user-2' AND decision = 'skipped-user-budget'");
# Between two checks it is due.
wait_until('why()', 20, sub { return why_of($node, $left, 'user-2') =~ /^the user's missions have cost 0\.\d+ of 0\.\d+ EUR in the last 24 hours; there is money for 100 tokens, calls under way have reserved 0$/ });
is(last_run($node, $left, 'user-2')->{decision}, 'skipped-user-budget', 'runs says it');
cmp_ok(stops('user'), '>', 0, 'the metric counts it');
push_mission($node, 'free', user => 'user-3', cadence => { kind => 'manual' });
is_planned('free');
value($node, q{UPDATE mana_ai.cost_budgets SET cost_per_day = 1 WHERE user_id = 'user-2'});
wait_for($node, 'with more money they are planned', 40, "SELECT count(*) FROM mana_ai.runs WHERE user_id = 'user-2' AND outcome = 'planned'", 5);

# One for every user, and another one of a single user.
value($node, q{INSERT INTO mana_ai.cost_budgets (user_id, cost_per_day, currency) VALUES ('*', 0, 'EUR')});
push_mission($node, 'poor', user => 'user-4', cadence => { kind => 'manual' });
wait_for($node, 'every user has a budget', 30, q{SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'poor' AND lease_owner IS NULL}, 'skipped-user-budget');
push_mission($node, 'rich', user => 'user-2', cadence => { kind => 'manual' });
is_planned('rich');
value($node, q{DELETE FROM mana_ai.cost_budgets});
is_planned('poor');

# ---------------------------------------------------------------- of an agent, with many calls at once

answers(latency_ms => 300);
push_agent($node, 'many', maxConcurrentMissions => 50);
my $cap = 6 * $estimate;
budget('user-1', 'many', $cap);
push_missions($node, [ map { "many-$_" } 1 .. 20 ], agentId => 'many', cadence => { kind => 'manual' });
wait_for($node, 'the budget is used up', 60, "SELECT coalesce(sum(tokens_used), 0) > $cap - $estimate FROM mana_ai.token_usage WHERE agent_id = 'many'", 't');
wait_for($node, 'nothing runs any more', 30, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'", 0);
cmp_ok($model->stats->{max_in_flight}, '>', 1, 'calls went out together');
cmp_ok($model->stats->{max_in_flight}, '<=', 6, 'as many as there was money for');
cmp_ok(spent("agent_id = 'many'"), '<=', amount($cap), 'and no reply went beyond the budget');
cmp_ok(stops('agent'), '>', 0, 'the metric counts it');
value($node, q{DELETE FROM mana_ai.cost_budgets});

# ---------------------------------------------------------------- of a mission

wait_for($node, 'everything is planned without a budget', 60, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'many-%' AND outcome = 'planned'}, 20);
answers();
value($node, "INSERT INTO mana_ai.cost_budgets (user_id, mission_id, cost_per_day, currency) VALUES ('user-6', 'dear', @{[amount($estimate + 100)]}, 'EUR')");
push_mission($node, $_, user => 'user-6', cadence => { kind => 'manual' }) for qw(dear cheap);
is_planned($_) for qw(dear cheap);
push_change($node, id => $_, user => 'user-6', data => { nextRunAt => iso(-1) }, stamps => { nextRunAt => iso(0) }) for qw(dear cheap);
wait_for($node, 'a mission whose money is spent is held back', 30, q{SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'dear' AND lease_owner IS NULL}, 'skipped-mission-budget');
wait_for($node, 'another one of the same user is not', 30, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'cheap' AND outcome = 'planned'}, 2);
is(value($node, q{SELECT count(*) FROM mana_ai.token_usage WHERE mission_id = 'dear'}), 1, 'nothing was asked for it again');
wait_until('why()', 20, sub { return why_of($node, 'dear', 'user-6') =~ /^the mission has cost 0\.\d+ of 0\.\d+ EUR in the last 24 hours; there is money for 100 tokens, calls under way have reserved 0$/ });
is(last_run($node, 'dear', 'user-6')->{decision}, 'skipped-mission-budget', 'runs says it');
cmp_ok(stops('mission'), '>', 0, 'the metric counts it');
is(value($node, q{SELECT string_agg(scope, ',') FROM mana_ai.cost_budgets_of('user-6', '', NULL, 'dear')}), 'mission', 'cost_budgets_of() tells');
fails_like($node, qq{INSERT INTO mana_ai.cost_budgets (user_id, mission_id, cost_per_day, currency) VALUES ('$_', 'dear', 1, 'EUR')}, qr/violates check constraint/, "no mission is that of user '$_'") for '', '*';
value($node, q{UPDATE mana_ai.cost_budgets SET cost_per_day = 1});
wait_for($node, 'with more money it is planned', 40, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'dear' AND outcome = 'planned'}, 2);
value($node, q{DELETE FROM mana_ai.cost_budgets});

# ---------------------------------------------------------------- of all together

wait_for($node, 'everything is planned without it', 60, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'many-%' AND outcome = 'planned'}, 20);
answers();
my $all = value($node, 'SELECT sum(tokens_used) FROM mana_ai.token_usage');
budget('', '', $all + 2 * $estimate + 100);
push_mission($node, "t$_", user => "user-t$_", cadence => { kind => 'manual' }) for 1 .. 4;
wait_for($node, 'what all together may cost holds some back', 40, q{SELECT count(*) > 0 FROM mana_ai.mission_schedule WHERE user_id LIKE 'user-t_' AND decision = 'skipped-total-budget' AND lease_owner IS NULL}, 't');
my $held = rows($node, q{SELECT user_id, mission_id FROM mana_ai.mission_schedule WHERE user_id LIKE 'user-t_' AND decision = 'skipped-total-budget' LIMIT 1})->[0];
like(why_of($node, @$held{qw(mission_id user_id)}), qr/^all missions together have cost [\d.]+ of [\d.]+ EUR in the last 24 hours/, 'why()');
cmp_ok(spent('true'), '<=', amount($all + 2 * $estimate), 'and no reply went beyond it');
value($node, q{DELETE FROM mana_ai.cost_budgets});
is_planned("t$_") for 1 .. 4;

# ---------------------------------------------------------------- what has no price

answers(model => 'test/unknown');
budget('user-5', '', 10 * $estimate);
push_missions($node, [qw(x1 x2)], user => 'user-5', cadence => { kind => 'manual' });
wait_for($node, 'what has no price uses up no money', 40, q{SELECT count(*) FROM mana_ai.runs WHERE user_id = 'user-5' AND outcome = 'planned'}, 2);
is(value($node, q{SELECT format('%s: %s %s, %s tokens without a price', scope, trim_scale(used), currency, unpriced_tokens) FROM mana_ai.cost_budgets_of('user-5', '')}),
    "user: 0 EUR, @{[ 2 * $estimate ]} tokens without a price", 'but is reported separately');
value($node, q{INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million) VALUES ('test/unknown', 'EUR', 1, 1)});
wait_for($node, 'and counts when its price is entered', 30, "SELECT used = @{[amount(2 * $estimate)]} FROM mana_ai.cost_budgets_of('user-5', '')", 't');
value($node, "UPDATE mana_ai.cost_budgets SET cost_per_day = @{[amount($estimate)]}");
push_mission($node, 'x3', user => 'user-5', cadence => { kind => 'manual' });
wait_for($node, 'then the budget is used up', 30, q{SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'x3' AND lease_owner IS NULL}, 'skipped-user-budget');

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;
$model->stop;
done_testing();
