# What research may cost: long research has a daily limit as research on the web has; a price per call is reserved before
# the call goes out, also when many go out at once; and a run that is stopped settles what it was charged.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP ();
use ManaAi;
use Test::More;

my $model    = start_model(latency_ms => 20);
my $research = start_research();
my $node     = new_cluster('researchmoney', preload => 1, model => $model, conf => <<"END");
mana_ai.api_url = '@{[$research->url]}'
mana_ai.research_url = '@{[$research->url]}'
mana_ai.deep_research_enabled = on
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '500ms'
mana_ai.user_deep_research_per_day = 2
mana_ai.llm_max_tokens = 1000
mana_ai.planner_model = 'test/plan'
END
wait_for_worker($node);

my %deep = (objective => 'Bitte eine umfassende Recherche über Wärmepumpen', cadence => { kind => 'manual' });
my %web  = (conceptMarkdown => 'recherchiere', cadence => { kind => 'manual' });

sub reason_of { my ($id, $input) = @_; return value($node, "SELECT coalesce((SELECT i ->> 'reason' FROM mana_ai.runs r, jsonb_array_elements(r.inputs) i WHERE r.mission_id = '$id' AND i ->> 'id' = '$input' ORDER BY r.started_at DESC LIMIT 1), 'none')") }
sub charged { my ($user, $kind) = @_; return value($node, "SELECT count(*) || ' ' || coalesce(trim_scale(sum(cost))::text, 'unpriced') FROM mana_ai.token_usage WHERE model = '$kind-research' AND user_id = '$user'") }
sub are_planned { my ($like, $number) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "$number of $like are planned", 60, "SELECT count(DISTINCT mission_id) FROM mana_ai.runs WHERE mission_id LIKE '$like' AND outcome = 'planned'", $number) }
sub metric { my ($name, $labels) = @_; return value($node, "SELECT coalesce(sum(value), 0)::int FROM mana_ai.metrics WHERE name = 'mana_ai_$name' AND labels @> '$labels'") }

# ---------------------------------------------------------------- long research has a limit

$research->control({ polls => 0 });
push_missions($node, [ map { "d$_" } 1 .. 5 ], %deep);
push_mission($node, 'd-other', user => 'user-2', %deep);
are_planned('d%', 6);
is($research->stats->{submit}, 3, 'two of one user and one of another were ordered');
is(charged('user-1', 'deep'), '2 unpriced', 'and are on the ledger');
my @limited = map { $_->{mission_id} } @{ rows($node, q{SELECT DISTINCT r.mission_id FROM mana_ai.runs r, jsonb_array_elements(r.inputs) i WHERE i ->> 'id' = '__deep-research__' AND i ->> 'reason' = 'daily-limit' AND i ->> 'used' = 'false' AND r.outcome = 'planned' ORDER BY 1}) };
is(scalar @limited, 3, 'runs say so of the others, which were planned all the same');
is(reason_of($limited[0], '__web-research__'), 'none', 'with research on the web');
is(metric('research_jobs_limited_total', '{"provider": "gemini-deep-research-max"}'), 3, 'a metric counts them');
push_mission($node, 'd-daily', %deep, cadence => { kind => 'interval', everyMinutes => 600 });
are_planned('d-daily', 1);
like(why_of($node, 'd-daily'), qr/^not due until .*; planned without long research: its user has had 2 in the last 24 hours, as many as are allowed$/, 'why() tells');
value($node, q{INSERT INTO mana_ai.user_budgets (user_id, deep_research_per_day) VALUES ('user-1', 3)});
unlike(why_of($node, 'd-daily'), qr/planned without/, 'not if more are allowed now');
push_mission($node, 'd-more', %deep);
are_planned('d-more', 1);
is(charged('user-1', 'deep'), '3 unpriced', 'a limit of the user\'s own allows one more');
value($node, q{UPDATE mana_ai.user_budgets SET deep_research_per_day = 0});
push_mission($node, 'd-none', %deep);
are_planned('d-none', 1);
is(reason_of('d-none', '__deep-research__'), 'daily-limit', '0 of their own is none at all');
value($node, q{DELETE FROM mana_ai.user_budgets});

# ---------------------------------------------------------------- what was not ordered is not charged

$research->control({ submit => { steps => [ { status => 400 } ], repeat => 'last' } });
push_mission($node, 'd-refused', user => 'user-3', %deep);
are_planned('d-refused', 1);
is(charged('user-3', 'deep'), '0 unpriced', 'an order that is refused costs nothing');

# ---------------------------------------------------------------- its price, and that of calls under way

value($node, q{INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million, per_call) VALUES
  ('test/*', 'EUR', 1, 1, NULL), ('web-research', 'EUR', 0, 0, 0.01), ('deep-research', 'EUR', 0, 0, 2)});
value($node, 'SELECT mana_ai.price_usage()');
is(charged('user-1', 'deep'), '3 6', 'long research has a price');

# Eight at once, each of which has to wait; there is money for three, beside what the plans may cost.
value($node, q{INSERT INTO mana_ai.cost_budgets (user_id, cost_per_day, currency) VALUES ('user-4', 0.07, 'EUR')});
$research->control({ search => { steps => [ { latency_ms => 800 } ], repeat => 'last' } });
push_missions($node, [ map { "w$_" } 1 .. 8 ], user => 'user-4', %web);
are_planned('w%', 8);
my ($number, $cost) = split / /, charged('user-4', 'web');
cmp_ok($number, '>=', 1, 'some have researched on the web');
my $spent = value($node, q{SELECT sum(cost) FROM mana_ai.token_usage WHERE user_id = 'user-4'});
cmp_ok($spent, '<=', 0.07, 'all together have not cost more than the budget');
is(value($node, q{SELECT count(DISTINCT r.mission_id) FROM mana_ai.runs r, jsonb_array_elements(r.inputs) i WHERE r.user_id = 'user-4' AND i ->> 'reason' = 'budget'}), 8 - $number,
    'runs say that there was no money for the others');

# A model whose calls have a price of their own: there is money for two, whose tokens cost next to nothing.
value($node, q{UPDATE mana_ai.model_prices SET per_call = 1 WHERE model = 'test/*'});
value($node, q{INSERT INTO mana_ai.cost_budgets (user_id, cost_per_day, currency) VALUES ('user-5', 2.5, 'EUR')});
$model->reset;
$model->control({ steps => [ { content => 'Fertig', latency_ms => 700, model => 'test/plan' } ], repeat => 'last' });
push_missions($node, [ map { "c$_" } 1 .. 6 ], user => 'user-5', cadence => { kind => 'manual' });
are_planned('c%', 2);
wait_for($node, 'the others are held back', 40, q{SELECT count(*) FROM mana_ai.mission_schedule WHERE user_id = 'user-5' AND decision = 'skipped-user-budget' AND lease_owner IS NULL}, 4);
cmp_ok(value($node, q{SELECT sum(cost) FROM mana_ai.token_usage WHERE user_id = 'user-5'}), '<=', 2.5, 'calls under way have reserved their own price');
is($model->count, 2, 'no further call went out');
is(value($node, q{SELECT tokens_left FROM mana_ai.cost_budgets_of('user-5', '')}), 0, 'what is left pays for no call');
value($node, q{UPDATE mana_ai.model_prices SET per_call = NULL WHERE model = 'test/*'; DELETE FROM mana_ai.cost_budgets});
are_planned('c%', 6);

# A model of which only the calls have a price, all due at once: the others wait for those under way, not for the next day.
my ($input, $output) = split / /, value($node, q{SELECT input_per_million || ' ' || output_per_million FROM mana_ai.model_prices WHERE model = 'test/*'});
value($node, q{UPDATE mana_ai.model_prices SET per_call = 1, input_per_million = 0, output_per_million = 0 WHERE model = 'test/*'});
value($node, q{INSERT INTO mana_ai.cost_budgets (user_id, cost_per_day, currency) VALUES ('user-8', 2.5, 'EUR')});
is(value($node, q{SELECT trim_scale(cost_left) || ' ' || reserved_tokens FROM mana_ai.cost_budgets_of('user-8', '')}), '2.5 0', 'nothing is used or reserved yet');
$model->reset;
$model->control({ steps => [ { content => 'Fertig', latency_ms => 8000, model => 'test/plan' } ], repeat => 'last' });
push_missions($node, [ map { "p$_" } 1 .. 6 ], user => 'user-8', cadence => { kind => 'manual' });
wait_until('two calls are under way', 30, sub { return $model->count == 2 });
wait_for($node, 'the others are held back meanwhile', 40, q{SELECT count(*) FROM mana_ai.mission_schedule WHERE user_id = 'user-8' AND decision = 'skipped-user-budget' AND lease_owner IS NULL}, 4);
my $waiting = value($node, q{SELECT mission_id FROM mana_ai.mission_schedule WHERE user_id = 'user-8' AND decision = 'skipped-user-budget' LIMIT 1});
wait_until('why() counts calls', 20, sub { return why_of($node, $waiting, 'user-8') =~ /^the user's missions have cost 0 of 2\.5 EUR in the last 24 hours; there is money for 2 calls, calls under way have reserved that of 2$/ });
are_planned('p%', 2);
wait_for($node, 'what is left pays for no call', 20, q{SELECT tokens_left FROM mana_ai.cost_budgets_of('user-8', '')}, 0);
wait_until('why() says so', 20, sub { return why_of($node, $waiting, 'user-8') =~ /have cost 2 of 2\.5 EUR in the last 24 hours; there is money for 0 calls, calls under way have reserved that of 0$/ });
is($model->count, 2, 'no further call went out');
$model->reset;
value($node, "UPDATE mana_ai.model_prices SET per_call = NULL, input_per_million = $input, output_per_million = $output WHERE model = 'test/*'; DELETE FROM mana_ai.cost_budgets");
are_planned('p%', 6);

# ---------------------------------------------------------------- a run that is stopped in the middle

$model->reset;
$research->control({ discover => { steps => [ { hang => JSON::PP::true } ] }, search => { steps => [] } });
push_mission($node, 'stopped', user => 'user-6', %web);
wait_for($node, 'research is under way, and charged', 30, q{SELECT count(*) FROM mana_ai.token_usage WHERE user_id = 'user-6' AND model = 'web-research'}, 1);
wait_until('its request has gone out', 20, sub { return scalar(grep { defined } $research->requests_of('discover')) > 0 });
value($node, q{SELECT mana_ai.stop('user:user-6', 'Test')});
wait_for($node, 'the run is canceled', 20, q{SELECT outcome FROM mana_ai.runs WHERE mission_id = 'stopped' ORDER BY started_at LIMIT 1}, 'canceled');
is(charged('user-6', 'web'), '0 unpriced', 'what nobody had answered is not charged');
unlike(log_since($node, 0), qr/could not be recorded/, 'nothing is left to tell');
value($node, q{SELECT mana_ai.resume('user:user-6')});
$research->control({ discover => { steps => [] } });
are_planned('stopped', 1);
is(charged('user-6', 'web'), '1 0.01', 'the next run is charged, once');

# Between the two requests: the first was answered, so it stays.
$research->control({ search => { steps => [ { hang => JSON::PP::true } ] } });
my $searches = scalar $research->requests_of('search');
push_mission($node, 'halfway', user => 'user-7', %web);
wait_until('its second request has gone out', 20, sub { return scalar($research->requests_of('search')) > $searches });
$node->stop('fast');
$node->start;
wait_for_worker($node);
are_planned('halfway', 1);
is(charged('user-7', 'web'), '2 0.02', 'what was answered before a shutdown stays charged, and so is the next run');

unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
unlike(log_since($node, 0), qr/could not be recorded/, 'nothing that was paid for is missing');
$node->stop;
$_->stop for $model, $research;
done_testing();
