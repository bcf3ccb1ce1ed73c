# While a service refuses our key or is unavailable, nothing waits with a lease, status() and why() say what is wrong, and
# answers of research are kept. Runs that end early settle what they owe, also when that itself is interrupted.
# needs: FAILPOINTS=1
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP ();
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep);

my $model    = start_model(latency_ms => 20);
my $research = start_research();
my $node     = new_cluster('closed_gates', preload => 1, model => $model, conf => <<"END");
restart_after_crash = on
mana_ai.research_url = '@{[$research->url]}'
mana_ai.api_url = '@{[$research->url]}'
mana_ai.deep_research_enabled = on
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '500ms'
mana_ai.planner_model = 'test/plan'
END
wait_for_worker($node);

my %manual = (cadence => { kind => 'manual' });
sub are_planned { my ($like, $number) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "$like: $number are planned", 90, "SELECT count(DISTINCT mission_id) FROM mana_ai.runs WHERE mission_id LIKE '$like' AND outcome = 'planned'", $number) }
sub has_state { my ($state) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "the gate is $state", 40, q{SELECT state FROM mana_ai.services() WHERE service = 'model'}, $state) }
sub push_for_users { my ($prefix, $number) = @_; push_mission($node, "$prefix-$_", user => "user-$prefix-$_", %manual) for 1 .. $number; return }

# The greatest numbers that several looks find.
sub looks
{
    my ($times) = @_;
    my ($leases, $waiting) = (0, 0);
    for (1 .. $times)
    {
        my ($l, $w) = split / /, value($node, q{SELECT (SELECT count(*) FROM mana_ai.mission_schedule WHERE lease_owner IS NOT NULL) || ' ' || coalesce((SELECT sum(waiting) FROM mana_ai.services()), 0)});
        $leases  = $l if $l > $leases;
        $waiting = $w if $w > $waiting;
        sleep 0.2;
    }
    return ($leases, $waiting);
}

# ---------------------------------------------------------------- a refused key

for my $case ([ 401, 'key' ], [ 403, 'forbidden' ])
{
    my ($status, $name) = @$case;
    $model->reset;
    $model->control({ down => $status });
    push_for_users($name, 10);
    has_state('key_refused');
    my $words = qr/^the model service has refused the service key since \d{4}-\d\d-\d\d .*; \d+ missions? waits?$/;
    wait_until("$status: status() has words for it", 20, sub { return value($node, 'SELECT worker_problem FROM mana_ai.status()') =~ $words });
    push_for_users("$name-more", 10);
    my $why;
    wait_until("$status: so has why()", 20, sub { $why = why_of($node, "$name-more-3", "user-$name-more-3"); return $why =~ $words }) or diag($why);
    my ($leases, $waiting) = looks(15);
    cmp_ok($leases, '<=', 1, "$status: nothing but the probe has a lease");
    is($waiting, 0, "$status: and nothing waits at the gate");
    # A call may be forbidden because of its mission, until the same happens to others.
    my $most = $status == 403 ? 5 : 0;
    cmp_ok(value($node, "SELECT count(*) FROM mana_ai.mission_schedule WHERE mission_id LIKE '$name%' AND attempts > 0"), '<=', $most, "$status: no further attempt is counted");
    is(value($node, "SELECT count(*) FROM mana_ai.mission_schedule WHERE mission_id LIKE '$name-more-%' AND attempts > 0"), 0, "$status: least of all of a mission that came later");
    $model->control({ down => 0 });
    # Those that count as failed back off.
    are_planned("$name-more-%", 10);
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id LIKE '$name%' AND lease_owner IS NULL AND attempts > 0");
    are_planned("$name%", 20);
    wait_for($node, "$status: status() says nothing any more", 20, q{SELECT coalesce(worker_problem, 'none') FROM mana_ai.status()}, 'none');
}

# ---------------------------------------------------------------- replies that break off

$model->reset;
my $cut = { choices => [ { message => { content => 'Der Plan beginnt mit' }, finish_reason => 'error' } ], usage => { total_tokens => 95 } };
$model->control({ steps => [ { body => JSON::PP->new->encode($cut) } ], repeat => 'last' });
push_for_users('broken', 10);
has_state('unavailable');
$model->reset;
wait_for($node, 'the gate opens again', 60, q{SELECT state FROM mana_ai.services() WHERE service = 'model'}, 'open');
value($node, q{UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id LIKE 'broken%' AND lease_owner IS NULL AND attempts > 0});
are_planned('broken%', 10);

# ---------------------------------------------------------------- an answer of research while the model is away

$research->control({ polls => 3 });
push_mission($node, 'asks', user => 'user-asks', objective => 'Bitte eine umfassende Recherche', %manual);
wait_for($node, 'research is ordered', 30, q{SELECT state FROM mana_ai.mission_research_jobs}, 'waiting');
$model->control({ down => 503 });
push_for_users('away', 10);
has_state('unavailable');
wait_for($node, 'its answer is there', 40, q{SELECT state FROM mana_ai.mission_research_jobs}, 'ready');
my ($leases, $waiting) = looks(15);
cmp_ok($leases, '<=', 1, 'nothing but the probe has a lease');
# It may be the mission that is sent as a probe.
cmp_ok(value($node, 'SELECT offered FROM mana_ai.mission_research_jobs'), '<=', 1, 'the answer is offered to no run that cannot use it');
is(value($node, 'SELECT given_back FROM mana_ai.mission_research_jobs'), 0, 'an outage that others see is not held against the answer');
$model->control({ down => 0 });
are_planned('asks', 1);
are_planned('away%', 10);
is($research->stats->{submit}, 1, 'research was ordered once');
is(value($node, q{SELECT count(*) FROM mana_ai.runs r, jsonb_array_elements(r.inputs) i WHERE r.mission_id = 'asks' AND r.outcome = 'planned' AND i ->> 'id' = '__web-research__' AND i ->> 'used' = 'true'}), 1, 'and its answer used');

# mana-api away: its gate closes by itself, and missions are planned without it.
$research->control({ discover => { steps => [ { status => 503 } ], repeat => 'last' } });
push_mission($node, "web-$_", user => "user-web-$_", conceptMarkdown => 'recherchiere', %manual) for 1 .. 8;
are_planned('web%', 8);
is(value($node, q{SELECT state FROM mana_ai.services() WHERE service = 'model'}), 'open', 'the gate of the model is not concerned');
is(value($node, q{SELECT count(*) FROM mana_ai.token_usage WHERE model = 'web-research' AND user_id LIKE 'user-web-%'}), 0, 'nothing is charged for it');
$research->control({ discover => { steps => [] } });

SKIP: {
    skip 'the server has no failpoints (make FAILPOINTS=1)', 1 if value($node, q{SELECT count(*) FROM pg_settings WHERE name = 'mana_ai.failpoints'}) eq '0';

    my $usage = { prompt_tokens => 700, completion_tokens => 77, total_tokens => 777 };
    # Calls of both users are in flight, and their replies arrive while the worker is stopped.
    my $replies_arrive = sub {
        my ($name, %more) = @_;
        $model->reset;
        $model->control({ steps => [ { content => 'Fertig', latency_ms => 1500, usage => $usage } ], repeat => 'last' });
        push_mission($node, "$name-$_", user => "$name-one", %manual) for 1 .. 3;
        push_mission($node, "$name-other", user => "$name-two", %manual);
        $model->wait_in_flight(4, 20);
        $more{before}->() if $more{before};
        my $worker = worker_pid($node);
        kill 'STOP', $worker;
        wait_until('the replies are on their way', 20, sub { return $model->in_flight == 0 && $research->in_flight == 0 });
        return $worker;
    };
    my $is_settled = sub {
        my ($name) = @_;
        local $Test::Builder::Level = $Test::Builder::Level + 1;
        is(value($node, "SELECT string_agg(mission_id || ' ' || tokens_used, ',' ORDER BY mission_id) FROM mana_ai.token_usage WHERE mission_id ~ '^$name-[123]\$'"),
            "$name-1 777,$name-2 777,$name-3 777", "$name: each reply is charged, once");
        return;
    };

    # ------------------------------------------------------------ one that fails while replies are taken in
    $research->control({ polls => 100, poll => { steps => [ { latency_ms => 700 } ], repeat => 'last' } });
    push_mission($node, 'polled', user => 'user-polled', objective => 'Bitte eine umfassende Recherche', %manual);
    wait_for($node, 'research is under way', 30, q{SELECT state FROM mana_ai.mission_research_jobs}, 'waiting');
    my $log = log_position($node);
    my $worker = $replies_arrive->('throws', before => sub {
        settings($node, 'mana_ai.failpoints' => 'poll.answered=throw@once');
        wait_until('a poll is in flight', 20, sub { return $research->in_flight > 0 }) });
    value($node, q{SELECT mana_ai.stop('user:throws-one', 'Test')});
    kill 'CONT', $worker;
    wait_for($node, 'all three are canceled', 30, q{SELECT count(*) FROM mana_ai.runs WHERE user_id = 'throws-one' AND outcome = 'canceled' AND error_kind = 'stopped'}, 3);
    like(log_since($node, $log), qr/failpoint poll.answered: throw/, 'something has failed');
    $is_settled->('throws');
    are_planned('throws-other', 1);
    settings($node, 'mana_ai.failpoints' => undef);
    value($node, q{SELECT mana_ai.resume('user:throws-one')});
    are_planned('throws%', 4);
    value($node, q{DELETE FROM mana_ai.mission_research_jobs; UPDATE mana_ai.mission_schedule SET wake_at = NULL, due_at = NULL WHERE mission_id = 'polled'});
    $research->control({ polls => 0, poll => { steps => [] } });

    # ------------------------------------------------------------ interrupts in the step that records what was paid for
    for my $case ([ canceled => '57014' ], [ ended => '57P01' ])
    {
        my ($name, $sqlstate) = @$case;
        # It is taken once in a cluster.
        unlink $node->data_dir . '/mana_ai_failpoint.usage.recorded';
        $worker = $replies_arrive->($name, before => sub { settings($node, 'mana_ai.failpoints' => "usage.recorded=error:$sqlstate\@once") });
        value($node, "SELECT mana_ai.stop('user:$name-one', 'Test')");
        kill 'CONT', $worker;
        wait_for($node, "$name: the runs end", 40, "SELECT count(*) FROM mana_ai.runs WHERE user_id = '$name-one' AND outcome = 'canceled'", 3);
        $is_settled->($name);
        is(value($node, "SELECT count(*) FROM mana_ai.mission_schedule WHERE user_id = '$name-one' AND lease_owner IS NOT NULL"), 0, "$name: leases are given back");
        settings($node, 'mana_ai.failpoints' => undef);
        value($node, "SELECT mana_ai.resume('user:$name-one')");
        are_planned("$name%", 4);
        is(value($node, "SELECT count(*) FROM mana_ai.mission_schedule WHERE mission_id LIKE '$name%' AND attempts > 0"), 0, "$name: no attempt is counted");
    }

    # ------------------------------------------------------------ a fast shutdown, with an interrupt in the charge's settlement
    unlink $node->data_dir . '/mana_ai_failpoint.research.settled';
    $research->control({ discover => { steps => [ { hang => JSON::PP::true } ] } });
    push_mission($node, 'settles', user => 'user-settles', conceptMarkdown => 'recherchiere', %manual);
    wait_for($node, 'research is charged', 30, q{SELECT count(*) FROM mana_ai.token_usage WHERE user_id = 'user-settles'}, 1);
    settings($node, 'mana_ai.failpoints' => 'research.settled=error:57P01@once');
    $node->stop('fast');
    # Nothing is planned anew before the look at the ledger.
    $node->append_conf('postgresql.conf', "mana_ai.tick_enabled = off");
    $node->start;
    is(value($node, q{SELECT count(*) FROM mana_ai.token_usage WHERE user_id = 'user-settles'}), 0, 'a shutdown settles it, although the first try was interrupted');
    is(value($node, q{SELECT count(*) FROM mana_ai.mission_schedule WHERE mission_id = 'settles' AND lease_owner IS NOT NULL}), 0, 'and the lease is given back');
    settings($node, 'mana_ai.failpoints' => undef);
    like(log_since($node, $log), qr/failpoint research.settled: error/, 'it was interrupted');
    $research->control({ discover => { steps => [] } });
    $node->append_conf('postgresql.conf', "mana_ai.tick_enabled = on");
    $node->reload;
    are_planned('settles', 1);
    unlike(log_since($node, $log), qr/could not be recorded/, 'nothing that was paid for is missing');
}

unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$_->stop for $model, $research;
done_testing();
