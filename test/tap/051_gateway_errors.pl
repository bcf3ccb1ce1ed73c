# Errors of model gateways, in their own formats: how often they are called, when the mission is tried again, and what
# is charged.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use JSON::PP;
use Test::More;

my $model = start_model();
my $node  = new_cluster('gateway', preload => 1, model => $model, conf => "mana_ai.tick_enabled = off\nmana_ai.planner_model = 'google/test'");

open my $file, '<', "$ENV{MANA_AI_TEST_DATA}/model_errors.jsonl" or die $!;
my @cases = map { JSON::PP->new->utf8->decode($_) } <$file>;
cmp_ok(scalar @cases, '>', 10, 'there are cases');
for my $i (0 .. $#cases)
{
    my $case = $cases[$i];
    $model->control({ scenario => "gateway-$i", repeat => 'last',
        steps => [ { status => $case->{status}, body => JSON::PP->new->encode($case->{body}) } ] });
    push_mission($node, "m$i", objective => "[[szenario:gateway-$i]] Ziel");
    # Each has a separate process, which does not know of the others: together they would look like an outage.
    run_mission($node, "m$i");
}
my %requests;
for my $request ($model->requests)
{
    $requests{$1}++ if $request->{body}{messages}[1]{content} =~ /szenario:gateway-(\d+)\]/;
}
for my $i (0 .. $#cases)
{
    my $case = $cases[$i];
    my $run  = last_run($node, "m$i");
    # A fault of the service alone is not a failure of the mission. The service may be called again soon, and the same run
    # calls it again if it limits the rate of calls.
    my $outcome = $case->{of_service} ? 'skipped' : 'failed';
    my @wait    = $case->{of_service} ? (0, 31) : @{ $case->{wait} };
    is_deeply([ @$run{qw(outcome error_kind)} ], [ $outcome, $case->{kind} ], "$case->{case}: $outcome with $case->{kind}");
    is($requests{$i}, $case->{calls}, "$case->{case}: asked $case->{calls} times") unless $case->{kind} eq 'rate_limit';
    is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'm$i'"), $outcome eq 'failed' ? 1 : 0,
        "$case->{case}: what is the service's alone counts no attempt");
    is($run->{total_tokens}, $case->{tokens}, "$case->{case}: tokens of the run");
    is(value($node, "SELECT coalesce(sum(tokens_used), 0) FROM mana_ai.token_usage WHERE mission_id = 'm$i'"), $case->{tokens},
        "$case->{case}: and of the ledger");
    my $wait = value($node, "SELECT extract(epoch FROM not_before - decided_at)::int FROM mana_ai.mission_schedule WHERE mission_id = 'm$i'");
    ok($wait >= $wait[0] && $wait <= $wait[1], "$case->{case}: tried again in time") or diag("after $wait s");
    is(scalar @{ iterations_of($node, "m$i") }, 0, "$case->{case}: no plan is made of it");
}
like(value($node, 'SELECT mana_ai.metrics()'), qr/^mana_ai_provider_errors_total\{.*kind="no_healthy_provider".*\} 1$/m, 'each kind has a metric of its own');

# While the gateway has a provider for other requests, having none for this one is a failure of the mission, but its
# failures do not accumulate.
my ($nobody) = grep { $cases[$_]{kind} eq 'no_healthy_provider' } 0 .. $#cases;
my $body = JSON::PP->new->encode($cases[$nobody]{body});
$model->control({ scenario => 'for-this', repeat => 'last', steps => [ { status => 503, body => $body, latency_ms => 1500 } ] });
push_mission($node, 'for-this', objective => '[[szenario:for-this]] Ziel');
for my $time (1 .. 3)
{
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = CASE mission_id WHEN 'for-this' THEN now() ELSE now() + interval '1 hour' END");
    push_mission($node, "beside-$time", objective => 'Ziel');
    run_tick($node);
    is(last_run($node, "beside-$time")->{outcome}, 'planned', 'another mission is planned');
    is_deeply([ @{ last_run($node, 'for-this') }{qw(outcome error_kind)} ], [ 'failed', 'no_healthy_provider' ], 'and this one has failed');
    my $wait = value($node, "SELECT extract(epoch FROM not_before - decided_at)::int FROM mana_ai.mission_schedule WHERE mission_id = 'for-this'");
    ok($wait >= 95 && $wait <= 145, 'it is tried again after two minutes') or diag("after $wait s");
}
value($node, 'UPDATE mana_ai.mission_schedule SET wake_at = CASE WHEN due_at IS NOT NULL THEN greatest(due_at, not_before) END');
is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'for-this'"), 1, 'three times nobody to ask: one failure in a row');
like(value($node, "SELECT mana_ai.why('user-1', 'for-this')"), qr/no_healthy_provider/, 'and why() names it');

# A reply that is cut off in a later round: what was paid before is charged once, and no half plan is written.
$model->control({ scenario => 'later', steps => [
    { tool_calls => [ { name => 'create_task', arguments => { title => 'Milch' } } ], usage => { prompt_tokens => 90, completion_tokens => 10, total_tokens => 100 } },
    { body => JSON::PP->new->encode({ choices => [ { message => { content => 'Der Pl' }, finish_reason => 'length' } ], usage => { prompt_tokens => 40, completion_tokens => 10, total_tokens => 50 } }) } ] });
push_mission($node, 'later', objective => '[[szenario:later]] Ziel');
run_mission($node, 'later');
my $run = last_run($node, 'later');
is_deeply([ @$run{qw(outcome error_kind rounds total_tokens)} ], [ 'failed', 'truncated', 2, 150 ], 'a cut reply in the second round');
is(value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE mission_id = 'later'"), 150, 'all of it is charged, once');

is(snapshots_differ($node), '', 'all snapshots are replays');
unlike(log_since($node), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$model->stop;
done_testing();
