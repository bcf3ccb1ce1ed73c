# Research on the web costs money: each is on the ledger with its price, and a user's missions have a daily limit,
# also when many ask at once.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model    = start_model(latency_ms => 20);
my $research = start_research();
my $node     = new_cluster('weblimit', preload => 1, model => $model,
    conf => "mana_ai.api_url = '@{[$research->url]}'\nmana_ai.max_unreviewed = 0\nmana_ai.user_web_research_per_day = 3");
wait_for_worker($node);

my %wants = (conceptMarkdown => 'recherchiere', cadence => { kind => 'manual' });

sub reason_of { return value($node, "SELECT coalesce((SELECT i ->> 'reason' FROM mana_ai.runs r, jsonb_array_elements(r.inputs) i WHERE r.mission_id = '$_[0]' AND i ->> 'id' = '__web-research__' ORDER BY r.started_at DESC LIMIT 1), 'none')") }
sub charged { return value($node, "SELECT count(*) || ' ' || coalesce(trim_scale(sum(cost))::text, 'unpriced') FROM mana_ai.token_usage WHERE model = 'web-research' AND user_id = '$_[0]'") }
sub counted { return value($node, "SELECT coalesce(sum(value), 0)::int FROM mana_ai.metrics WHERE name = 'mana_ai_web_research_total' AND labels ->> 'outcome' = '$_[0]'") }

# ---------------------------------------------------------------- a limit for those that ask at once

$research->control({ search => { steps => [ { latency_ms => 500 } ], repeat => 'last' } });
push_missions($node, [ map { "m$_" } 1 .. 8 ], %wants);
push_mission($node, 'other', user => 'user-2', %wants);
wait_for($node, 'all are planned', 40, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned'", 9);
is(charged('user-1'), '3 unpriced', 'three of the first user have researched');
is(charged('user-2'), '1 unpriced', 'the other user has an allowance of their own');
is(scalar($research->requests_of('search')), 4, 'no further request has gone out');
is(value($node, q{SELECT count(*) FROM mana_ai.runs r, jsonb_array_elements(r.inputs) i WHERE i ->> 'reason' = 'daily-limit' AND r.outcome = 'planned'}), 5,
    'runs say why the others have not, and are planned all the same');
is(counted('limited'), 5, 'a metric counts them');
my ($limited) = map { "m$_" } grep { reason_of("m$_") eq 'daily-limit' } 1 .. 8;
like(why_of($node, $limited), qr/^not scheduled|; planned without research on the web: its user has had 3 in the last 24 hours, as many as are allowed$/, 'why() tells of it');
push_mission($node, 'daily', conceptMarkdown => 'recherchiere', cadence => { kind => 'interval', everyMinutes => 600 });
wait_for($node, 'one more', 20, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'daily'", 'planned');
like(why_of($node, 'daily'), qr/^not due until .*; planned without research on the web: its user has had 3 in the last 24 hours, as many as are allowed$/, 'also of one on a cadence');
is(value($node, q{SELECT count(*) FROM mana_ai.daily_costs WHERE model = 'web-research' AND currency IS NULL AND replies = 4}), 1,
    'what has no price is shown as such');

# ---------------------------------------------------------------- a price, a limit of the user's own

value($node, q{INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million) VALUES ('*', 'EUR', 1, 1)});
value($node, q{SELECT mana_ai.price_usage()});
is(charged('user-1'), '3 unpriced', 'a price for tokens is none for a call');
value($node, q{INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million, per_call) VALUES ('web-research', 'EUR', 0, 0, 0.01)});
value($node, q{SELECT mana_ai.price_usage()});
is(charged('user-1'), '3 0.03', 'the price per call holds also for what came before');
value($node, q{INSERT INTO mana_ai.user_budgets (user_id, web_research_per_day) VALUES ('user-1', 4)});
unlike(why_of($node, 'daily'), qr/planned without/, 'with a higher limit of their own there is nothing to tell');
push_mission($node, 'again', %wants);
wait_for($node, 'one more is planned', 20, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'again'", 'planned');
is(reason_of('again'), 'none', 'with research');
is(charged('user-1'), '4 0.04', 'at its price');
is(value($node, q{SELECT value FROM mana_ai.metrics WHERE name = 'mana_ai_cost_total' AND labels ->> 'currency' = 'EUR' AND value >= 0.01 LIMIT 1}) >= 0.01 ? 1 : 0, 1, 'the metric of costs has it');
value($node, q{INSERT INTO mana_ai.cost_budgets (user_id, cost_per_day, currency) VALUES ('user-2', 0.005, 'EUR')});
push_mission($node, 'poor', user => 'user-2', %wants);
wait_for($node, 'a budget in money counts research', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'poor'", 'skipped-user-budget');

# ---------------------------------------------------------------- what nobody has answered costs nothing

$research->control({ discover => { steps => [ { status => 500 } ], repeat => 'last' } });
push_mission($node, 'away', user => 'user-3', %wants);
wait_for($node, 'planned without', 30, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'away'", 'planned');
is(reason_of('away'), 'http-500', 'the service has failed');
is(charged('user-3'), '0 unpriced', 'and nothing is charged');

# An index on the rows of research alone serves the check of the limit.
my $plan = value($node, q{SET enable_seqscan = off; EXPLAIN SELECT count(*) FROM mana_ai.token_usage u WHERE u.user_id = 'x' AND u.model = 'web-research' AND u.ts > now() - interval '1 day'});
like($plan, qr/token_usage_research/, 'by an index of these rows alone');

unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$_->stop for $model, $research;
done_testing();
