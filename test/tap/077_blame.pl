# Whose failure it is when a model service refuses calls: the service's or the mission's.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('blame', preload => 1, model => $model, conf => 'mana_ai.tick_enabled = off');

sub attempts { return value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = '$_[0]'") }

# A run has paid for a round, and the next one is refused whenever it is asked for: nobody else's calls say that it is the
# service, so it does not pay for the first round again and again.
my @refused = ({ status => 429, body => '{"error": {"message": "slower"}}' });
$model->control({ scenario => 'later', repeat => 'last', steps => [
    { tool_calls => [ { name => 'create_task', arguments => { title => 'Milch' } } ], usage => { total_tokens => 100 } }, @refused ] });
push_mission($node, 'paid', objective => '[[szenario:later]] Ziel');
run_mission($node, 'paid');
is_deeply([ @{ last_run($node, 'paid') }{qw(outcome error_kind rounds)} ], [ 'failed', 'rate_limit', 1 ],
    'a run that has paid and is refused alone has failed');
is(attempts('paid'), 1, 'and counts an attempt');

# What has cost nothing is believed once.
$model->control({ scenario => 'first', repeat => 'last', steps => \@refused });
push_mission($node, 'unpaid', objective => '[[szenario:first]] Ziel');
for my $expected ([ 'skipped', 'skipped-service', 0 ], [ 'failed', 'ran', 1 ])
{
    run_mission($node, 'unpaid');
    my $run = last_run($node, 'unpaid');
    is_deeply([ @$run{qw(outcome decision)}, attempts('unpaid') ], $expected, "refused alone: $expected->[0]");
}

$node->stop;
$model->stop;
done_testing();
