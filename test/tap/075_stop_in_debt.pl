# An operator stops runs whose replies cannot be put on the ledger at that moment: their calls still end at once, paid
# replies are charged as soon as possible, and obstacles only delay a stop.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model(latency_ms => 20);
my $node  = new_cluster('indebt', preload => 1, model => $model,
    conf => "mana_ai.max_unreviewed = 0\nmana_ai.tick_interval = '1h'\nmana_ai.planner_model = 'google/test, google/second'");
wait_for_worker($node);

my %manual = (cadence => { kind => 'manual' });

sub hold
{
    my ($sql) = @_;
    my $holder = background($node, "BEGIN; $sql; SELECT pg_sleep(600)");
    wait_for($node, 'somebody holds it', 20,
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND state = 'active' AND wait_event = 'PgSleep'", 1);
    return $holder;
}

sub let_go
{
    my ($holder) = @_;
    value($node, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()");
    $holder->finish(10);
    return;
}

# ---------------------------------------------------------------- the ledger is locked

# Of one user a reply arrives together with the stop and another call hangs; of another user a reply arrives.
$model->control({ match => 'Debt', steps => [ { content => 'Fertig', latency_ms => 1000, usage => { prompt_tokens => 700, completion_tokens => 77 } } ],
    repeat => 'last' });
$model->control({ match => 'Hang', steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
push_mission($node, 'debt1', user => 'careless', title => 'Debt', %manual);
push_mission($node, 'debt2', user => 'careless', title => 'Debt', %manual);
push_mission($node, 'hang1', user => 'careless', title => 'Hang', %manual);
push_mission($node, 'other1', user => 'other', title => 'Debt', %manual);
$model->wait_in_flight(4, 20);
my $worker = worker_pid($node);
kill 'STOP', $worker;
wait_until('the replies are on their way', 20, sub { return $model->in_flight == 1 });
my $holder = hold('LOCK mana_ai.token_usage IN SHARE MODE');
my $log = log_position($node);
value($node, q{SELECT mana_ai.stop('user:careless', 'Kosten laufen davon')});
kill 'CONT', $worker;
wait_until('the call that hangs has ended', 20, sub { return $model->in_flight == 0 });
wait_until('the log says who waits', 20,
    sub { return log_since($node, $log) =~ /runs canceled because an operator has stopped them: 1; those that wait to record what they have cost: 2$/m });
is(value($node, q{SELECT string_agg(outcome, ',' ORDER BY mission_id) FROM mana_ai.runs WHERE user_id = 'careless'}), 'running,running,canceled',
    'runs that owe a charge are not over yet');
my $asked = $model->count;
let_go($holder);
wait_for($node, 'then they are charged', 40, q{SELECT string_agg(mission_id || ' ' || tokens_used, ',' ORDER BY mission_id) FROM mana_ai.token_usage WHERE user_id = 'careless'},
    'debt1 777,debt2 777');
wait_for($node, 'and canceled', 20, q{SELECT string_agg(outcome || ' ' || error_kind || ' ' || total_tokens, ',' ORDER BY mission_id) FROM mana_ai.runs WHERE user_id = 'careless'},
    'canceled stopped 777,canceled stopped 777,canceled stopped 0');
is(value($node, q{SELECT count(*) FROM mana_ai.mission_schedule WHERE user_id = 'careless' AND lease_owner IS NOT NULL}), 0, 'their leases are given back');
is(value($node, q{SELECT count(*) FROM public.sync_changes WHERE user_id = 'careless' AND client_id = 'mana-ai-runner'}), 0, 'nothing came of them');
wait_for($node, 'the other user has a plan of the reply', 40, q{SELECT outcome FROM mana_ai.runs WHERE user_id = 'other'}, 'planned');
is($model->count, $asked, 'nobody has called the model meanwhile');
unlike(log_since($node, $log), qr/could not be recorded/, 'nothing that was paid for is missing');

# ---------------------------------------------------------------- a user is erased meanwhile

push_mission($node, 'gone1', user => 'leaving', title => 'Debt', %manual);
$model->wait_in_flight(1, 20);
kill 'STOP', $worker;
wait_until('the reply is on its way', 20, sub { return $model->in_flight == 0 });
value($node, q{SELECT mana_ai.erase_user('leaving')});
$holder = hold('LOCK mana_ai.token_usage IN SHARE MODE');
kill 'CONT', $worker;
wait_until('the log says that one waits', 20,
    sub { return log_since($node, $log) =~ /them: 0; those that wait to record what they have cost: 1$/m });
let_go($holder);
wait_for($node, 'the erasure comes to its end', 60, q{SELECT count(*) FROM mana_ai.erasures_under_way}, 0);
is(value($node, q{SELECT count(*) FROM mana_ai.token_usage WHERE user_id = 'leaving'}), 0, 'and nothing of the user is left');

# ---------------------------------------------------------------- a lock in the way of what was resumed

value($node, q{SELECT mana_ai.stop('user:held', 'wartet')});
push_mission($node, 'held1', user => 'held', title => 'Debt');
wait_for($node, 'the mission is held back', 20, q{SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'held1' AND lease_owner IS NULL}, 'skipped-stopped');
push_mission($node, 'hang2', user => 'busy', title => 'Hang', %manual);
$model->wait_in_flight(1, 20);
kill 'STOP', $worker;
value($node, q{SELECT mana_ai.resume('user:held')});
# As a claim leaves it that has not heard of that yet.
value($node, q{UPDATE mana_ai.mission_schedule SET not_before = now() + interval '1 hour', wake_at = now() + interval '1 hour' WHERE mission_id = 'held1'});
$holder = hold(q{SELECT 1 FROM mana_ai.mission_schedule WHERE mission_id = 'held1' FOR UPDATE});
value($node, q{SELECT mana_ai.stop('model:google/test', 'zu teuer')});
kill 'CONT', $worker;
wait_for($node, "the model's call ends although the lock is there", 20, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'hang2' AND outcome = 'canceled'}, 1);
push_mission($node, 'other2', user => 'other', title => 'Debt', %manual);
value($node, q{UPDATE mana_ai.stops SET resumed_at = now(), resumed_by = 'test' WHERE scope = 'model:google/test'});
push_mission($node, 'other3', user => 'other', title => 'Debt', %manual);
wait_for_iterations($node, $_, 1) for qw(other2 other3);
is(value($node, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'held1' AND outcome = 'planned'}), 0, 'others are planned while that mission waits for its lock');
let_go($holder);
wait_for_iterations($node, 'held1', 1);

unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal 1?[1-8]\b/, 'nothing crashed');
$node->stop;
$model->stop;
done_testing();
