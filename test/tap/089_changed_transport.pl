# A change of how calls travel holds for new calls at once, also while others are in flight, which go on as they began.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model(latency_ms => 20);
my $node  = new_cluster('transport', preload => 1, model => $model);
wait_for_worker($node);

my %manual = (cadence => { kind => 'manual' });

$model->control({ match => 'Hang', steps => [ { content => 'Endlich', latency_ms => 20_000 } ], repeat => 'last' });
push_mission($node, 'long', title => 'Hang', %manual);
$model->wait_in_flight(1, 20);
# Nobody listens there.
settings($node, 'mana_ai.proxy' => 'http://127.0.0.1:1');
push_mission($node, 'lost', user => 'user-2', %manual);
wait_for($node, 'a new call goes to the new proxy', 40,
    "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'lost' AND lease_owner IS NULL", 'skipped-service');
is($model->in_flight, 1, 'while the one in flight goes on');
settings($node, 'mana_ai.proxy' => undef);
wait_for($node, 'without it the call arrives', 60, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'lost' AND outcome = 'planned'", 'planned');
wait_for($node, 'and the first reply is used', 60, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'long'", 'planned');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'long'"), 1, 'of the one call that was made for it');

unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$model->stop;
done_testing();
