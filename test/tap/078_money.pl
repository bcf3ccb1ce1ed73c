# What replies cost: who answered, which tokens came from a cache or were thoughts, and the price that holds.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('money', preload => 1, model => $model, conf => <<'END');
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '1s'
mana_ai.planner_model = 'test/plan'
mana_ai.compact_model = 'test/compact'
END
wait_for_worker($node);

sub metric { my ($name, %labels) = @_; return value($node, "SELECT coalesce(sum(value), 0) FROM mana_ai.metrics WHERE name = 'mana_ai_$name' AND labels @> '@{[JSON::PP->new->encode(\%labels)]}'") }
sub ledger { my ($id) = @_; return rows($node, "SELECT * FROM mana_ai.token_usage WHERE mission_id = '$id' ORDER BY ts") }
sub cost_of_run { my ($id) = @_; return value($node, "SELECT string_agg(format('%s %s of %s tokens', coalesce(trim_scale(c.cost)::text, '?'), coalesce(c.currency, '?'), c.tokens), ', ' ORDER BY c.currency) FROM mana_ai.run_costs c WHERE c.mission_id = '$id'") }
sub is_planned { my ($id, $times) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "$id is planned", 40, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'", $times // 1) }

# ---------------------------------------------------------------- what replies say of themselves

my $call = { tool_calls => [ { name => 'create_task', arguments => { title => 'Eins' } } ] };
$model->control({ steps => [
    { %$call, model => 'test/plan-2026', service_tier => 'default',
        usage => { prompt_tokens => 1000, completion_tokens => 100, total_tokens => 1100, prompt_tokens_details => { cached_tokens => 600 }, completion_tokens_details => { reasoning_tokens => 70 } } },
    # As DeepSeek and Gemini spell it; a gateway names another model than the body.
    { content => 'Fertig', model => 'alias', headers => { 'X-Mana-LLM-Resolved' => 'ollama/gemma3' }, usage => { prompt_tokens => 1200, completion_tokens => 10, total_tokens => 1260, prompt_cache_hit_tokens => 1100 } },
] });
push_agent($node, 'ada');
push_mission($node, 'told', agentId => 'ada', cadence => { kind => 'manual' });
is_planned('told');
my @paid = @{ ledger('told') };
my $run  = last_run($node, 'told');
is_deeply([ map { join ' ', map { $_ // '-' } @$_{qw(model service_tier prompt_tokens cached_tokens completion_tokens reasoning_tokens tokens_used cost)} } @paid ],
    [ 'test/plan-2026 default 1000 600 100 70 1100 -', 'ollama/gemma3  1200 1100 60 50 1260 -' ], 'the ledger has what the replies say');
is_deeply([ map { $_->{run_id} } @paid ], [ ($run->{run_id}) x 2 ], 'and of which run they are');
is_deeply([ @$run{qw(model answered_by prompt_tokens cached_tokens completion_tokens reasoning_tokens total_tokens)} ],
    [ 'test/plan', 'ollama/gemma3', 2200, 1700, 160, 120, 2360 ], 'so has the run: who was asked, and who answered last');
is(cost_of_run('told'), '? ? of 2360 tokens', 'without a price it counts in tokens');
is(metric('tokens_unpriced_total', model => 'ollama/gemma3'), 1260, 'which a metric tells of each model');
is(metric('cost_total'), 0, 'and costs are not counted');

$model->reset;
$model->control({ steps => [ { content => 'Fertig', model => undef } ], repeat => 'last' });
push_mission($node, 'silent', cadence => { kind => 'manual' });
is_planned('silent');
is(ledger('silent')->[0]{model}, 'test/plan', 'who does not say who answers is the one who was asked');

# ---------------------------------------------------------------- prices

value($node, <<'END');
INSERT INTO mana_ai.model_prices (model, service_tier, valid_from, currency, input_per_million, cached_input_per_million, output_per_million) VALUES
  ('test/plan*', '', '-infinity', 'EUR', 10, 1, 100), ('test/plan*', 'flex', '-infinity', 'EUR', 5, NULL, 50), ('test/compact', '', '-infinity', 'USD', 1, NULL, 2)
END
wait_for($node, 'what came before its price is priced later', 20, "SELECT count(*) FROM mana_ai.token_usage WHERE model LIKE 'test/plan%' AND cost IS NULL", 0);
# 400 * 10 + 600 * 1 + 100 * 100 millionths
is(cost_of_run('told'), '0.0146 EUR of 1100 tokens, ? ? of 1260 tokens', 'a run shows its cost and the usage without a price');
is(metric('cost_total'), 0, 'the metric counts only what has a price when it comes');

# Names that have no price are passed by, however many there are.
value($node, <<'END');
INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, model, service_tier, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens)
SELECT 'made-up', 'm', 10, m.name, '', 5, 0, 5, 0 FROM (SELECT 'made-up/' || i FROM generate_series(1, 3000) i UNION ALL VALUES ('real'), ('a-first')) AS m(name);
INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million) VALUES ('real', 'EUR', 1, 1), ('a-first', 'EUR', 1, 1)
END
wait_for($node, "$_ is priced behind 3000 names without a price", 30, "SELECT count(cost) FROM mana_ai.token_usage WHERE user_id = 'made-up' AND model = '$_'", 1) for qw(real a-first);
value($node, "INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, model, service_tier, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens) SELECT 'made-up', 'm', 10, 'a-first', '', 5, 0, 5, 0");
wait_for($node, 'and the walk begins anew', 30, "SELECT count(cost) FROM mana_ai.token_usage WHERE user_id = 'made-up' AND model = 'a-first'", 2);
wait_for($node, 'another process goes on where this one has stopped', 30, q{SELECT count(*) FROM mana_ai.engine_state WHERE priced_model LIKE 'made-up/%' AND priced_tier = ''}, 1);
is(value($node, <<'END'), "2 b\n1", 'a name of which more is left is come back to');
BEGIN;
INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million) VALUES ('b-many', 'EUR', 1, 1);
INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, model, service_tier, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens)
SELECT 'made-up', 'm', 10, 'b-many', '', 5, 0, 5, 0 FROM generate_series(1, 3);
SELECT priced || ' ' || last_model FROM mana_ai.price_usage_after('b', '', 10, 2);
SELECT priced FROM mana_ai.price_usage_after('b', '', 10, 2);
ROLLBACK;
END
value($node, "DELETE FROM mana_ai.token_usage WHERE user_id = 'made-up'; DELETE FROM mana_ai.model_prices WHERE model IN ('real', 'a-first')");

my $priced = { prompt_tokens => 1000, completion_tokens => 50, total_tokens => 1050, prompt_tokens_details => { cached_tokens => 400 } };
$model->reset;
$model->control({ steps => [ { content => 'Fertig', model => 'test/plan-2026', usage => $priced } ], repeat => 'last' });
push_mission($node, 'priced', agentId => 'ada', cadence => { kind => 'manual' });
is_planned('priced');
# 600 * 10 + 400 * 1 + 50 * 100
is(cost_of_run('priced'), '0.0114 EUR of 1050 tokens', 'a reply costs what the price of its model says');
is(metric('cost_total', agent_id => 'ada', currency => 'EUR'), '0.0114', 'and so counts the metric');
$model->control({ steps => [ { content => 'Fertig', model => 'test/plan-2026', service_tier => 'flex', usage => $priced } ], repeat => 'last' });
push_mission($node, 'tier', user => 'user-2', cadence => { kind => 'manual' });
is_planned('tier');
is(cost_of_run('tier'), '0.0075 EUR of 1050 tokens', 'by the tier that the reply names');
is(metric('cost_total', agent_id => 'legacy:ai-default', currency => 'EUR'), '0.0075', 'missions without an agent count as such');

# Two models in two currencies, one of them for the summary of a long conversation.
settings($node, 'mana_ai.compact_max_context_tokens' => 1500);
$model->reset;
$model->control({ match => '"model":"test/compact"', steps => [ { content => "## Goal\nZiel", model => 'test/compact', usage => { prompt_tokens => 500, completion_tokens => 50, total_tokens => 550 } } ], repeat => 'last' });
$model->control({ steps => [ ({ %$call, model => 'test/plan', usage => $priced }) x 4, { content => 'Fertig', model => 'test/plan', usage => $priced } ] });
push_mission($node, 'folded', agentId => 'ada', cadence => { kind => 'manual' });
is_planned('folded');
is(cost_of_run('folded'), '0.057 EUR of 5250 tokens, 0.0006 USD of 550 tokens', 'the summary is paid in its own currency');
is(last_run($node, 'folded')->{answered_by}, 'test/plan', 'and is no answer of the planner');
settings($node, 'mana_ai.compact_max_context_tokens' => undef);

is(value($node, "SELECT string_agg(format('%s %s', trim_scale(cost), currency), ', ' ORDER BY currency) FROM mana_ai.agent_costs WHERE agent_id = 'ada' AND currency IS NOT NULL"),
    '0.083 EUR, 0.0006 USD', 'agent_costs has the sums of agents');
is(value($node, "SELECT format('%s %s', trim_scale(cost), currency) FROM mana_ai.user_costs WHERE user_id = 'user-2'"), '0.0075 EUR', 'user_costs those of users');
is(value($node, "SELECT sum(tokens) FROM mana_ai.daily_costs"), value($node, 'SELECT sum(tokens_used) FROM mana_ai.token_usage'), 'and daily_costs leaves nothing out');

# ---------------------------------------------------------------- on the page

my $page = json_value($node, 'SELECT mana_ai.http_status()');
my ($shown) = grep { $_->{missionId} eq 'priced' } @{ $page->{runs} };
is_deeply($shown->{cost}, [ { currency => 'EUR', cost => 0.0114, tokens => 1050 } ], 'the page has what a run has cost');
is_deeply([ @$shown{qw(answeredBy cachedTokens)} ], [ 'test/plan-2026', 400 ], 'and who answered it');
my ($half) = grep { $_->{missionId} eq 'told' } @{ $page->{runs} };
is_deeply([ map { defined $_->{currency} ? "$_->{cost} $_->{currency}" : "$_->{tokens} tokens" } @{ $half->{cost} } ], [ '0.0146 EUR', '1260 tokens' ], 'what has no price is no zero there');
my ($ada) = grep { $_->{agentId} eq 'ada' } @{ $page->{agents} };
is_deeply([ map { "$_->{cost} $_->{currency}" } grep { $_->{currency} } @{ $ada->{cost} } ], [ '0.083 EUR', '0.0006 USD' ], 'what an agent has cost in a day');
is_deeply([ map { [ @$_{qw(userId currency cost)} ] } grep { $_->{userId} eq 'user-2' } @{ $page->{costs}{users} } ], [ [ 'user-2', 'EUR', 0.0075 ] ], 'what a user has');
my ($unknown) = grep { $_->{model} eq 'ollama/gemma3' } @{ $page->{costs}{models} };
is_deeply([ @$unknown{qw(tokens cost currency)} ], [ 1260, undef, undef ], 'and which model has no price');

# ---------------------------------------------------------------- how long it is kept

value($node, "UPDATE mana_ai.token_usage SET ts = ts - interval '20 days' WHERE mission_id = 'told'");
value($node, "UPDATE mana_ai.token_usage SET ts = ts - interval '31 days' WHERE mission_id = 'silent'");
wait_for($node, 'costs are kept as long as runs', 20, "SELECT string_agg(DISTINCT mission_id, ',') FROM mana_ai.token_usage WHERE mission_id IN ('told', 'silent')", 'told');
settings($node, 'mana_ai.runs_retention' => '1h');
wait_for($node, 'but not longer', 20, "SELECT count(*) FROM mana_ai.token_usage WHERE mission_id = 'told'", 0);
value($node, "UPDATE mana_ai.token_usage SET ts = ts - interval '47 hours' WHERE mission_id = 'tier'");
run_tick($node);
is(value($node, "SELECT count(*) FROM mana_ai.token_usage WHERE mission_id = 'tier'"), 1, 'two days of them at least, since budgets look back one');

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;
$model->stop;
done_testing();
