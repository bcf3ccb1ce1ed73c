# A research answer with which the model service fails, on a server that has nobody else's calls to compare with: it is
# not offered for ever, its mission has a problem, and other missions are planned.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model    = start_model(latency_ms => 20);
my $research = start_research();
my $node     = new_cluster('poisoned', preload => 1, model => $model, conf => <<"END");
mana_ai.research_url = '@{[$research->url]}'
mana_ai.api_url = '@{[$research->url]}'
mana_ai.deep_research_enabled = on
mana_ai.deep_research_timeout = '1s'
mana_ai.tick_interval = '300ms'
END
wait_for_worker($node);

$research->control({ polls => 0 });
$model->control({ match => 'Die Antwort der langen Recherche', steps => [ { status => 503 } ], repeat => 'last' });
push_mission($node, 'poisoned', objective => 'Bitte eine umfassende Recherche über Wärmepumpen', cadence => { kind => 'manual' });
wait_for($node, 'its run counts as failed after a few', 120, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'poisoned' AND outcome = 'failed'", 1);
is(value($node, "SELECT given_back || ' ' || offered FROM mana_ai.mission_research_jobs"), '5 1', 'five times it was given back');
is(value($node, "SELECT attempts || ' ' || problem FROM mana_ai.mission_schedule WHERE mission_id = 'poisoned'"), '1 failed', 'the mission has a problem');
is(value($node, "SELECT count(*) FROM mana_ai.mission_problems WHERE mission_id = 'poisoned'"), 1, 'which is shown');
push_mission($node, 'other', user => 'user-2', cadence => { kind => 'manual' });
wait_for($node, 'others are planned', 60, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'other' AND outcome = 'planned'", 'planned');
# Its next times come after pauses that grow.
for my $time (2, 3)
{
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id = 'poisoned' AND lease_owner IS NULL");
    push_change($node, id => 'poisoned', data => { title => "Zum $time. Mal" }, stamps => { title => iso(0) });
    wait_for($node, "it fails for the $time. time", 60, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'poisoned' AND outcome = 'failed'", $time);
}
push_change($node, id => 'poisoned', data => { title => 'Endlich' }, stamps => { title => iso(1) });
wait_for($node, 'then it is planned without the answer', 60, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'poisoned' AND outcome = 'planned'", 'planned');
is($research->stats->{submit}, 1, 'which was ordered once');

unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$_->stop for $model, $research;
done_testing();
