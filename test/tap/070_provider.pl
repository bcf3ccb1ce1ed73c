# A model service that limits the rate of calls, is unavailable, or refuses the key; and users who share it.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model(latency_ms => 50);
my $node  = new_cluster('provider', preload => 1, model => $model,
    conf => "mana_ai.max_unreviewed = 0\nmana_ai.tick_interval = '30s'");
wait_for_worker($node);

sub planned { my ($like) = @_; return value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE '$like' AND outcome = 'planned'") }
sub service { return rows($node, q{SELECT * FROM mana_ai.services() WHERE service = 'model'})->[0] }

# Missions of many users that are all due at once.
sub push_for_users
{
    my ($prefix, $missions, $users) = @_;
    value($node, <<"END");
BEGIN;
SET LOCAL row_security = off;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', 'aiMissions', '$prefix-' || i, '$prefix-user-' || i % $users, 'insert', 'restore', jsonb_build_object(
    'state', 'active', 'title', 'B' || i, 'objective', 'O', 'iterations', '[]'::jsonb,
    'cadence', '{"kind": "manual"}'::jsonb, 'nextRunAt', '2020-01-01T00:00:00Z')
  FROM generate_series(1, $missions) i;
COMMIT;
END
    return;
}

# ---------------------------------------------------------------- too many calls

$model->control({ rate => { per_second => 20, burst => 20, retry_after_s => 1 } });
push_for_users('rate', 100, 20);
wait_for($node, 'all missions are planned despite refusals', 60,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'rate-%' AND outcome = 'planned'", 100);
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'rate-%' AND outcome = 'failed'"), 0,
    'and no run has failed');
is(value($node, "SELECT count(*) FROM mana_ai.mission_schedule WHERE attempts > 0"), 0, 'nor counts an attempt');
my $stats = $model->stats;
cmp_ok($stats->{turned_away}, '>', 0, 'the service has refused calls');
cmp_ok($stats->{turned_away}, '<', 0.15 * $stats->{requests}, 'but few of them');
is(service()->{state}, 'limited', 'services() says that it limits the rate');
cmp_ok(service()->{refused}, '==', $stats->{turned_away}, 'and how many calls it has refused');
cmp_ok(service()->{calls_per_minute}, '>', 300, 'and about how many it takes');
is(value($node, 'SELECT worker_problem FROM mana_ai.status()'), '', 'which is no problem of the worker');

# The limits in the headers are observed: hardly any call is refused.
for my $spelling (qw(openai anthropic)) {
    restart_worker();
    $model->reset;
    $model->control({ rate => { per_second => 20, burst => 30, spelling => $spelling, retry_after_s => -1 } });
    push_for_users($spelling, 60, 10);
    wait_for($node, "all missions are planned by what $spelling says", 60,
        "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE '$spelling-%' AND outcome = 'planned'", 60);
    cmp_ok($model->stats->{turned_away}, '<=', 12, "$spelling: nearly no call is refused");
}
$model->reset;
$model->control({ latency_ms => 50 });

# ---------------------------------------------------------------- away

restart_worker();
my $begin = log_position($node);
$model->control({ down => 503 });
push_for_users('away', 100, 20);
wait_for($node, 'the service is found to be away', 20,
    q{SELECT state FROM mana_ai.services() WHERE service = 'model'}, 'unavailable');
wait_for($node, 'no run goes on', 20, q{SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'}, 0);
# One of them may be probing.
wait_until('status() says since when, and who waits', 20,
    sub { return value($node, 'SELECT worker_problem FROM mana_ai.status()') =~ /^the model service has been unavailable since .*; 100 missions wait$/ });
is(value($node, q{SELECT s ->> 'state' FROM jsonb_array_elements(mana_ai.http_status() -> 'services') s WHERE s ->> 'service' = 'model'}), 'unavailable', 'so does the page');
like(value($node, q{SELECT mana_ai.why('away-user-1', 'away-1')}), qr/^the model service has been unavailable since /,
    'why() says so of each of them');
sleep 8;
cmp_ok($model->stats->{turned_away}, '<=', 60, 'few calls are made into the outage');
is(value($node, q{SELECT count(*) FROM mana_ai.mission_schedule WHERE attempts > 0}), 0, 'no attempt is charged to a mission');
is(value($node, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'away-%' AND outcome NOT IN ('skipped', 'running')}), 0,
    'no run counts as failed');
cmp_ok(value($node, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'away-%'}), '<=', 60,
    'nor does each look leave a row');
my $tick = run_tick($node);
$model->control({ down => 0 });
wait_for($node, 'everything is planned when it is back', 40,
    q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'away-%' AND outcome = 'planned'}, 100);
wait_for($node, 'and there is no problem any more', 10, 'SELECT coalesce(worker_problem, $$none$$) FROM mana_ai.status()', 'none');
my @changes = log_since($node, $begin) =~ /service model "[^"]*" is (\w+ \(was \w+\))/g;
is_deeply(\@changes, [ 'unavailable (was open)', 'open (was unavailable)' ], 'each change of state is in the log, once');
my $metrics = value($node, 'SELECT mana_ai.metrics()');
like($metrics, qr/^mana_ai_service_state\{[^}]*state="open"[^}]*\} 1$/m, 'the state is a metric');
like($metrics, qr/^mana_ai_service_calls_failed_total\{[^}]*upstream="model"[^}]*\} [1-9]/m, 'calls that failed are counted');

# ---------------------------------------------------------------- a refused key

restart_worker();
$model->control({ down => 401 });
push_for_users('key', 10, 10);
wait_for($node, 'a refused key is not taken for an outage', 20,
    q{SELECT state FROM mana_ai.services() WHERE service = 'model'}, 'key_refused');
wait_for($node, 'status() says so', 10,
    q{SELECT worker_problem LIKE 'the model service has refused the service key since %' FROM mana_ai.status()}, 't');
$model->control({ down => 0 });
wait_for($node, 'and goes on when it is accepted', 40,
    q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'key-%' AND outcome = 'planned'}, 10);

# ---------------------------------------------------------------- turns

settings($node, 'mana_ai.max_concurrency' => 4);
$model->reset;
$model->control({ latency_ms => 100 });
push_for_users('many', 200, 1);
push_for_users('single', 20, 20);
wait_for($node, 'those who have one mission each are not kept waiting', 40,
    q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'single-%' AND outcome = 'planned'}, 20);
cmp_ok(planned('many-%'), '<', 60, 'by one who has two hundred');
settings($node, 'mana_ai.max_concurrency_per_user' => 2, 'mana_ai.max_concurrency' => 64);
sleep 1;
$model->reset;
$model->control({ latency_ms => 100 });
sleep 1.5;
cmp_ok($model->stats->{max_in_flight}, '<=', 2, 'nobody has more running than max_concurrency_per_user');
wait_for($node, 'and all of them are planned', 60,
    q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'many-%' AND outcome = 'planned'}, 200);

# A user's first missions are held by somebody's transaction: what is taken instead keeps the limit too.
settings($node, 'mana_ai.tick_enabled' => 'off');
push_for_users('held', 30, 1);
my $holder = background($node, "BEGIN; SELECT FROM mana_ai.mission_schedule WHERE mission_id IN ('held-1', 'held-2') FOR UPDATE; SELECT pg_sleep(600)");
wait_for($node, 'two missions are locked', 20, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%' AND wait_event = 'PgSleep'", 1);
$model->reset;
$model->control({ latency_ms => 100 });
settings($node, 'mana_ai.tick_enabled' => undef);
wait_for($node, 'missions are planned although others are locked', 60,
    q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'held-%' AND outcome = 'planned'}, 28);
cmp_ok($model->stats->{max_in_flight}, '<=', 2, 'no more at once than max_concurrency_per_user');
value($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%' AND wait_event = 'PgSleep'");
eval { $holder->finish };
wait_for($node, 'and the locked ones later', 30,
    q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'held-%' AND outcome = 'planned'}, 30);

# ---------------------------------------------------------------- limits that an operator sets

# A call that arrives late is followed by the next one sooner.
use constant LATE => 0.5;
settings($node, map { ("mana_ai.$_" => undef) } qw(max_concurrency max_concurrency_per_user));
settings($node, 'mana_ai.llm_requests_per_minute' => 120);
restart_worker();
$model->reset;
push_for_users('set', 6, 6);
wait_for($node, 'missions are planned at the rate that is set', 60,
    q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'set-%' AND outcome = 'planned'}, 6);
my @at = sort { $a <=> $b } map { $_->{arrived_us} / 1e6 } $model->requests;
is(scalar @at, 12, 'with two calls each');
my @too_many;
for my $first (0 .. $#at) {
    push @too_many, map { ($_ - $first + 1) . ' in ' . ($at[$_] - $at[$first]) } grep { $_ - $first > 2 * ($at[$_] - $at[$first] + LATE) + 1 } $first .. $#at;
}
is_deeply(\@too_many, [], 'no more than two calls a second arrive, from the first on');
is(service()->{refused}, 0, 'which nobody had to refuse');
# 200 tokens a second, ten seconds' worth at once; a reply has 300, and there is one call at a time.
settings($node, 'mana_ai.llm_requests_per_minute' => undef, 'mana_ai.llm_tokens_per_minute' => 12_000, 'mana_ai.max_concurrency' => 1);
restart_worker();
$model->reset;
$model->control({ steps => [ { content => 'Fertig', usage => { prompt_tokens => 290, completion_tokens => 10, total_tokens => 300 } } ], repeat => 'last' });
push_for_users('tokens', 12, 6);
wait_for($node, 'missions are planned at the rate of tokens that is set', 90,
    q{SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'tokens-%' AND outcome = 'planned'}, 12);
@at = sort { $a <=> $b } map { $_->{arrived_us} / 1e6 } $model->requests;
cmp_ok($at[-1] - $at[0], '>=', (11 * 300 - 2000 - 300) / 200 - LATE, 'no more than the tokens of a minute are asked for');

# What was learned does not count for the next case.
sub restart_worker
{
    my $old = worker_pid($node);
    value($node, "SELECT pg_terminate_backend($old)");
    wait_for($node, 'another worker', 20,
        "SELECT worker_pid IS NOT NULL AND worker_pid <> $old FROM mana_ai.status()", 't');
    return;
}

$node->stop;
done_testing;
