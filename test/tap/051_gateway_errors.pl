# What model gateways answer when something is wrong, in their own formats: how often they are asked, when the mission
# is tried again, and what is charged.
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
}
run_tick($node);
my %requests;
for my $request ($model->requests)
{
    $requests{$1}++ if $request->{body}{messages}[1]{content} =~ /szenario:gateway-(\d+)\]/;
}
for my $i (0 .. $#cases)
{
    my $case = $cases[$i];
    my $run  = last_run($node, "m$i");
    is_deeply([ @$run{qw(outcome error_kind)} ], [ 'failed', $case->{kind} ], "$case->{case}: $case->{kind}");
    is($requests{$i}, $case->{calls}, "$case->{case}: asked $case->{calls} times");
    is($run->{total_tokens}, $case->{tokens}, "$case->{case}: tokens of the run");
    is(value($node, "SELECT coalesce(sum(tokens_used), 0) FROM mana_ai.token_usage WHERE mission_id = 'm$i'"), $case->{tokens},
        "$case->{case}: and of the ledger");
    my $wait = value($node, "SELECT extract(epoch FROM not_before - decided_at)::int FROM mana_ai.mission_schedule WHERE mission_id = 'm$i'");
    ok($wait >= $case->{wait}[0] && $wait <= $case->{wait}[1], "$case->{case}: tried again in time") or diag("after $wait s");
    is(scalar @{ iterations_of($node, "m$i") }, 0, "$case->{case}: no plan is made of it");
}
like(value($node, 'SELECT mana_ai.metrics()'), qr/^mana_ai_provider_errors_total\{.*kind="no_healthy_provider".*\} 1$/m, 'each kind has a metric of its own');

# The gateway's trouble lasts: it does not add up against the mission.
my ($nobody) = grep { $cases[$_]{kind} eq 'no_healthy_provider' } 0 .. $#cases;
for (1 .. 3)
{
    run_mission($node, "m$nobody");
}
is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'm$nobody'"), 1, 'four times nobody to ask: one failure in a row');
like(value($node, "SELECT mana_ai.why('user-1', 'm$nobody')"), qr/no_healthy_provider/, 'and why() names it');

# A reply that is cut off in a later round: what was paid before is charged once, and no half plan is written.
$model->control({ scenario => 'later', steps => [
    { tool_calls => [ { name => 'create_task', arguments => { title => 'Milch' } } ], usage => { prompt_tokens => 90, completion_tokens => 10, total_tokens => 100 } },
    { body => JSON::PP->new->encode({ choices => [ { message => { content => 'Der Pl' }, finish_reason => 'length' } ], usage => { prompt_tokens => 40, completion_tokens => 10, total_tokens => 50 } }) } ] });
push_mission($node, 'later', objective => '[[szenario:later]] Ziel');
run_tick($node);
my $run = last_run($node, 'later');
is_deeply([ @$run{qw(outcome error_kind rounds total_tokens)} ], [ 'failed', 'truncated', 2, 150 ], 'a cut reply in the second round');
is(value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE mission_id = 'later'"), 150, 'all of it is charged, once');

is(snapshots_differ($node), '', 'all snapshots are replays');
unlike(log_since($node), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$model->stop;
done_testing();
