# kill -9 of the worker between any two steps of deep research: it is ordered at most once for one
# iteration, what was ordered is used where that can be known, and the iteration appears.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $model    = start_model();
my $research = start_research();
my $url      = $research->url;
my $node = new_cluster('research_crash', preload => 1, model => $model, conf => <<"END");
restart_after_crash = on
mana_ai.api_url = '$url'
mana_ai.research_url = '$url'
mana_ai.deep_research_enabled = on
mana_ai.tick_interval = '300ms'
END
my $true = JSON::PP::true;
my $deep = 'Bitte eine umfassende Recherche';

sub fresh
{
    my (%control) = @_;
    $model->reset;
    $research->reset;
    $research->control(\%control) if %control;
    return;
}

sub kill_worker
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $pid = worker_pid($node);
    kill 9, $pid;
    return wait_until("$what: the server is back", 20, sub {
        my $out = '';
        # A session that the server refuses can break the pipe to psql.
        local $SIG{PIPE} = 'IGNORE';
        return eval { $node->psql('mana_sync', "SELECT worker_pid <> $pid FROM mana_ai.status()", stdout => \$out, stderr => \my $err) == 0 }
          && $out eq 't';
    });
}

sub prompts
{
    return join "\n", map { map { $_->{content} // '' } @{ $_->{body}{messages} } } $model->requests;
}

# After the crash: one order at most, one iteration, no job left, and research of this kind.
sub ends_well
{
    my ($what, $id, $kind) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    wait_for_iterations($node, $id, 1, 15);
    is($research->stats->{submit}, 1, "$what: ordered once");
    is($kind, prompts() =~ /Die Antwort der langen Recherche/ ? 'long' : prompts() =~ /Erster Artikel/ ? 'web' : 'none',
        "$what: planned with the right research");
    is(value($node, 'SELECT count(*) FROM mana_ai.mission_research_jobs'), 0, "$what: no job is left");
    is(value($node, "SELECT research_spent FROM mana_ai.mission_schedule WHERE mission_id = '$id'"), 'f',
        "$what: the next iteration may order again");
    return;
}

wait_for_worker($node);

# The intent is committed; nobody knows whether the order arrived.
fresh(submit => { steps => [ { hang => $true } ] });
push_mission($node, 'intent', objective => $deep);
wait_until('the order is under way', 5, sub { $research->in_flight == 1 });
is(value($node, "SELECT state FROM mana_ai.mission_research_jobs WHERE mission_id = 'intent'"), 'intent', 'the intent is on record');
kill_worker('before the answer to the order');
ends_well('before the answer to the order', 'intent', 'web');

# The order was accepted and will be charged for, but the task id got lost.
fresh(submit => { steps => [ { latency_ms => 3000 } ] });
push_mission($node, 'accepted', objective => $deep);
wait_until('the order is accepted', 5, sub { $research->stats->{submit} == 1 });
kill_worker('before the task id is stored');
ends_well('before the task id is stored', 'accepted', 'web');

# The task id is stored, and the mission waits.
fresh(polls => 1000);
push_mission($node, 'waiting', objective => $deep);
wait_until('the mission waits', 5, sub { $research->stats->{poll} >= 1 });
kill_worker('while the mission waits');
$research->control({ polls => 0 });
ends_well('while the mission waits', 'waiting', 'long');
is(value($node, "SELECT string_agg(outcome, ',' ORDER BY started_at) FROM mana_ai.runs WHERE mission_id = 'waiting'"),
    'skipped,planned', 'a mission that waits has no run that could crash');

# A poll is under way.
fresh(polls => 0, poll => { steps => [ { hang => $true } ] });
push_mission($node, 'polling', objective => $deep);
wait_until('a poll hangs', 5, sub { $research->in_flight == 1 && $research->stats->{poll} == 1 });
kill_worker('while a poll is under way');
ends_well('while a poll is under way', 'polling', 'long');

# The answer is known to be there, but no run has it yet.
fresh(polls => 1000);
push_agent($node, 'ada', name => 'Ada');
push_mission($node, 'ready', objective => $deep, agentId => 'ada');
wait_until('the mission waits', 5, sub { $research->stats->{poll} >= 1 });
push_change($node, table => 'agents', id => 'ada', data => { state => 'paused' }, stamps => { state => iso(0) });
wait_for($node, 'its agent is paused', 5, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'ready'", 'skipped-paused');
$research->control({ polls => 0 });
wait_for($node, 'the answer is there', 5, "SELECT state FROM mana_ai.mission_research_jobs WHERE mission_id = 'ready'", 'ready');
kill_worker('when the answer is there');
wait_for_worker($node);
push_change($node, table => 'agents', id => 'ada', data => { state => 'active' }, stamps => { state => iso(1) });
ends_well('when the answer is there', 'ready', 'long');

# A run fetches the answer.
fresh(polls => 0, poll => { steps => [ { plan => $true }, { hang => $true } ] });
push_mission($node, 'fetching', objective => $deep);
wait_until('the answer is being fetched', 5, sub { $research->in_flight == 1 && $research->stats->{poll} == 2 });
is(value($node, "SELECT offered FROM mana_ai.mission_research_jobs WHERE mission_id = 'fetching'"), 1, 'the run counts before it fetches');
kill_worker('while a run fetches the answer');
ends_well('while a run fetches the answer', 'fetching', 'long');

# A run plans with the answer.
fresh(polls => 0);
$model->control({ steps => [ { hang => $true } ] });
push_mission($node, 'planning', objective => $deep);
$model->wait_in_flight(1);
kill_worker('while a run plans with the answer');
ends_well('while a run plans with the answer', 'planning', 'long');
is(value($node, "SELECT string_agg(outcome, ',' ORDER BY started_at) FROM mana_ai.runs WHERE mission_id = 'planning'"),
    'skipped,crashed,planned', 'the run that crashed is on record');

# A mission that keeps crashing its worker does not get the answer again and again.
fresh(polls => 0);
$model->control({ steps => [ { hang => $true } ], repeat => 'last' });
push_mission($node, 'deadly', objective => $deep);
for my $round (1 .. 4)
{
    $model->wait_in_flight(1);
    kill_worker("crash $round");
    # The crash is found by the next full pass, and backs the mission off.
    wait_for($node, "crash $round is on record", 10,
        "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'deadly' AND outcome = 'crashed'", $round);
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id = 'deadly' AND lease_owner IS NULL");
}
is(scalar(grep { $_->{body}{messages}[1]{content} =~ /Die Antwort der langen Recherche/ } $model->requests), 3,
    'three runs had the answer, the fourth did without');
$model->wait_in_flight(1);
$model->reset;
kill_worker('the last crash');
wait_for($node, 'the last crash is on record', 10,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'deadly' AND outcome = 'crashed'", 5);
value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id = 'deadly' AND lease_owner IS NULL");
wait_for_iterations($node, 'deadly', 1, 15);
is($research->stats->{submit}, 1, 'all of them ordered once');

# At any moment.
fresh(polls => 1);
$model->control({ latency_ms => 50 });
$research->control({ submit => { steps => [ { latency_ms => 40 } ], repeat => 'last' } });
my @ids = map { "any-$_" } 1 .. 12;
push_mission($node, $_, objective => "$deep $_") for @ids;
for my $round (1 .. 6)
{
    sleep 0.05 + rand 0.4;
    kill_worker("at any moment, $round");
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id LIKE 'any-%' AND attempts > 0 AND lease_owner IS NULL");
}
wait_until('at any moment: every mission gets its iteration', 60, sub {
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id LIKE 'any-%' AND attempts > 0 AND lease_owner IS NULL AND not_before > now()");
    return value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'any-%' AND jsonb_array_length(record -> 'iterations') = 1") == @ids;
});
my %orders;
$orders{ $_->{body}{query} }++ for $research->requests_of('submit');
is_deeply([ grep { $orders{$_} > 1 } sort keys %orders ], [], 'at any moment: no mission orders twice');
is(value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id LIKE 'any-%' AND client_id = 'mana-ai-runner'"),
    scalar @ids, 'at any moment: each iteration is written once');
is(value($node, 'SELECT count(*) FROM mana_ai.mission_research_jobs'), 0, 'at any moment: no job is left');
is(snapshots_differ($node), '', 'snapshots are replays');

done_testing();
