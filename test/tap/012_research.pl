# Research before planning: on the web within the run, and deep research across ticks. Whatever the
# services do, the mission is planned, and research is ordered at most once for one iteration.
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
my $services = "mana_ai.api_url = '" . $research->url . "'\nmana_ai.research_url = '" . $research->url . "'\n";
my $node     = new_cluster('research', preload => 1, model => $model, conf => $services . <<"END");
mana_ai.tick_interval = '300ms'
mana_ai.user_deep_research_per_day = 0
mana_ai.service_key_file = '@{[key_file('key-for-research')]}'
END
my $true = JSON::PP::true;
wait_for_worker($node);

sub fresh
{
    my (%control) = @_;
    $model->reset;
    $research->reset;
    $research->control(\%control) if %control;
    return;
}

# All texts of all model requests.
sub prompts
{
    return join "\n", map { map { $_->{content} // '' } @{ $_->{body}{messages} } } $model->requests;
}

sub outcomes
{
    my ($id) = @_;
    return value($node, "SELECT string_agg(outcome || ' ' || decision, ', ' ORDER BY started_at) FROM mana_ai.runs WHERE mission_id = '$id'");
}

sub jobs { return value($node, 'SELECT count(*) FROM mana_ai.mission_research_jobs') }

sub job { return rows($node, "SELECT * FROM mana_ai.mission_research_jobs WHERE mission_id = '$_[0]'")->[0] }

sub spent { return value($node, "SELECT research_spent FROM mana_ai.mission_schedule WHERE mission_id = '$_[0]'") }

sub wait_until_waiting
{
    my ($id) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "$id waits for research", 10,
        "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = '$id' AND lease_owner IS NULL", 'skipped-research');
}

my $deep    = 'Bitte eine umfassende Recherche über Wärmepumpen';
my $closing = qr/Nenne als Quellen ausschließlich die hier aufgeführten URLs/;

# ---------------------------------------------------------------- on the web

fresh();
push_mission($node, 'web', objective => 'Finde Neues über Wärmepumpen');
wait_for_iterations($node, 'web', 1);
like(prompts(), qr/Erster Artikel.*Auszug des ersten Artikels.*https:\/\/news\.example\/a1.*Zweiter Artikel/s,
    'the model reads the articles');
like(prompts(), $closing, 'and is told to use only their URLs');
my ($discover) = $research->requests_of('discover');
my ($search)   = $research->requests_of('search');
is_deeply($discover->{body}, { query => 'Finde Neues über Wärmepumpen', language => 'de', limit => 5 }, 'the query is the objective');
is_deeply($search->{body}, { query => 'Finde Neues über Wärmepumpen', limit => 8,
        feeds => [ 'https://feeds.example/eins', 'https://feeds.example/zwei' ] }, 'the feeds that were found are searched');
for my $request ($discover, $search)
{
    my %headers = map { lc $_ => $request->{headers}{$_} } keys %{ $request->{headers} };
    is_deeply([ @headers{qw(x-service-key x-user-id x-app-id content-type)} ],
        [ undef, USER_ID, 'mana-ai', 'application/json' ], "headers of $request->{endpoint}: no key leaves the house unasked");
}
fresh();
settings($node, 'mana_ai.api_service_key' => 'on');
push_mission($node, 'web-key', objective => 'Finde Neues über Wärmepumpen');
wait_for_iterations($node, 'web-key', 1);
for my $request ($research->requests_of('discover'), $research->requests_of('search'))
{
    my %headers = map { lc $_ => $request->{headers}{$_} } keys %{ $request->{headers} };
    is($headers{'x-service-key'}, 'key-for-research', "$request->{endpoint}: with the key if the operator says so");
}
settings($node, 'mana_ai.api_service_key' => undef);

fresh();
push_mission($node, 'plain', objective => 'Räume den Keller auf');
wait_for_iterations($node, 'plain', 1);
is($research->count, 0, 'a mission that asks for no research makes no call');

my %failures = (
    'discover fails'       => { discover => { steps => [ { status => 500 } ] } },
    'discover is refused'  => { discover => { steps => [ { status => 403 } ] } },
    'discover is reset'    => { discover => { steps => [ { reset => $true } ] } },
    'discover is garbage'  => { discover => { steps => [ { garbage => $true } ] } },
    'discover is no HTTP'  => { discover => { steps => [ { raw_garbage => $true } ] } },
    'there are no feeds'   => { discover => { steps => [ { reply => { feeds => [] } } ] } },
    'search fails'         => { search => { steps => [ { status => 502 } ] } },
    'search is cut off'    => { search => { steps => [ { truncate => $true } ] } },
    'search is garbage'    => { search => { steps => [ { garbage => $true } ] } },
    'search is too large'  => { search => { steps => [ { oversized_mib => 9 } ] } },
    'there are no articles' => { search => { steps => [ { reply => { articles => [] } } ] } });
my %reasons = (
    'discover fails'        => qr/^http-500$/,
    'discover is refused'   => qr/^http-403$/,
    'discover is reset'     => qr/^[a-z_]+$/,
    'discover is garbage'   => qr/^nothing-found$/,
    'discover is no HTTP'   => qr/^[a-z_]+$/,
    'there are no feeds'    => qr/^nothing-found$/,
    'search fails'          => qr/^http-502$/,
    'search is cut off'     => qr/^[a-z_]+$/,
    'search is garbage'     => qr/^nothing-found$/,
    'search is too large'   => qr/^[a-z_]+$/,
    'there are no articles' => qr/^nothing-found$/);
my $number = 0;
for my $failure (sort keys %failures)
{
    my $id = 'failure-' . ++$number;
    fresh(%{ $failures{$failure} });
    push_mission($node, $id, objective => 'Neueste Nachrichten');
    wait_for_iterations($node, $id, 1);
    is(outcomes($id), 'planned ran', "$failure: the mission is planned at once");
    unlike(prompts(), qr/Web-Recherche|Erster Artikel/, "$failure: and without research");
    like(prompts(), qr/Recherche fehlgeschlagen.*Erfinde keine Quellen/s, "$failure: the model is told, so that it invents nothing");
    my ($input) = @{ last_run($node, $id)->{inputs} // [] };
    is_deeply([ @$input{qw(module table id clock)}, $input->{used} ? 1 : 0 ], [ 'news-research', 'web', '__web-research__', undef, 0 ], "$failure: the run has it");
    like($input->{reason}, $reasons{$failure} // die("no reason for $failure"), "$failure: and why");
}

# mana-api takes users' tokens only and answers 401 to a service key.
my $refused = { discover => { steps => [ { status => 401, body => '{"error":"Missing authorization header"}' } ], repeat => 'last' } };
fresh();
push_mission($node, 'before', objective => 'Neueste Nachrichten');
wait_for_iterations($node, 'before', 1);
my $log = log_position($node);
fresh(%$refused);
push_mission($node, "refused-$_", objective => 'Neueste Nachrichten') for 1 .. 3;
wait_for_iterations($node, "refused-$_", 1) for 1 .. 3;
is(last_run($node, 'refused-2')->{inputs}[0]{reason}, 'http-401', 'a refused search is on record');
is(() = log_since($node, $log) =~ /WARNING: .*web research is refused by mana_ai\.api_url \(http-401\)/g, 1, 'and in the log once, not for each mission');
like(value($node, 'SELECT mana_ai.metrics()'), qr/^mana_ai_web_research_total\{service="mana-ai",outcome="refused"\} [3-9]$/m, 'and counted each time');
fresh();
push_mission($node, 'granted', objective => 'Neueste Nachrichten');
wait_for_iterations($node, 'granted', 1);
ok(last_run($node, 'granted')->{inputs}[0]{used}, 'research that works again');
$log = log_position($node);
fresh(%$refused);
push_mission($node, 'refused-again', objective => 'Neueste Nachrichten');
wait_for_iterations($node, 'refused-again', 1);
like(log_since($node, $log), qr/web research is refused/, 'and then is refused anew is said anew');

fresh();
push_mission($node, 'odd-user', user => "Jürgen\r\nX-User-Id: user-1", objective => 'Suche etwas');
wait_for_iterations($node, 'odd-user', 1);
is($research->count, 0, 'a user id that cannot stand in a header as it is goes into none');

fresh();
push_mission($node, 'secret', objective => 'enc:1:abc.def', title => 'Suche');
wait_for($node, 'a mission with encrypted texts is held back', 5,
    "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'secret'", 'skipped-encrypted');
is($research->count, 0, 'and its ciphertext is not sent to the services');

# ---------------------------------------------------------------- long research

fresh();
push_mission($node, 'off', objective => $deep);
wait_for_iterations($node, 'off', 1);
is($research->stats->{submit}, 0, 'long research is off unless it is switched on');
settings($node, 'mana_ai.deep_research_enabled' => 'on');

fresh(polls => 1000);
push_mission($node, 'deep', objective => $deep);
wait_until_waiting('deep');
is(outcomes('deep'), 'skipped skipped-research', 'the run that ordered it ends as skipped');
like(why_of($node, 'deep'), qr/^waiting for research since \d{4}-.*(last asked \d{4}-|not asked yet)/, 'why() says what it waits for');
is(value($node, 'SELECT research_jobs, in_flight FROM mana_ai.status()'), '1|0', 'status() counts it as research, not as a run');
my ($submit) = $research->requests_of('submit');
is_deeply($submit->{body}, { query => $deep, provider => 'gemini-deep-research-max' }, 'the objective is the query');
my %headers = map { lc $_ => $submit->{headers}{$_} } keys %{ $submit->{headers} };
is_deeply([ @headers{qw(x-service-key x-user-id x-app-id)} ], [ 'key-for-research', USER_ID, 'mana-ai' ], 'the user pays');
is(job('deep')->{cost_credits}, 25, 'what it costs is on record');
wait_until('it is asked for at every tick', 5, sub { $research->stats->{poll} >= 3 });
my ($poll) = $research->requests_of('poll');
is($poll->{headers}{'X-User-Id'}, USER_ID, 'in the name of the user');
wait_for($node, 'each poll is on record', 5, "SELECT polls >= 3 AND last_polled_at > submitted_at FROM mana_ai.mission_research_jobs", 't');
# A change of the mission frees it from other waiting, not from this.
push_change($node, id => 'deep', data => { title => 'Anders' }, stamps => { title => iso(0) });
wait_until('it is still asked for after an edit', 5, sub { $research->stats->{poll} >= 5 });
is(outcomes('deep'), 'skipped skipped-research', 'an edited mission waits on, and its runs say so once');
is(rows($node, "SELECT * FROM mana_ai.run_mission('" . USER_ID . "', 'deep')")->[0]{outcome}, 'skipped-research', 'a manual run finds the answer not there');
is($model->count, 0, 'waiting costs no model call');
is($research->stats->{submit}, 1, 'and no second order');
$research->control({ polls => 0 });
wait_for_iterations($node, 'deep', 1);
is(outcomes('deep'), 'skipped skipped-research, skipped skipped-research, planned ran', 'it is planned when the answer is there');
like(prompts(), qr/Die Antwort der langen Recherche\..*Quelle eins.*https:\/\/quelle\.example\/1.*Quelle zwei/s, 'the model reads answer and citations');
is(jobs(), 0, 'the job goes with the iteration');
is($research->stats->{discover}, 0, 'and nothing was searched on the web');
is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'deep'"), 0, 'waiting is no failure');

push_change($node, id => 'deep', data => { nextRunAt => iso(-1) }, stamps => { nextRunAt => iso(1) });
wait_for_iterations($node, 'deep', 2);
is($research->stats->{submit}, 2, 'the next iteration orders again');

# run_mission() uses an available answer at once, whether the mission is due or not.
fresh(polls => 1000);
push_mission($node, 'by-hand', objective => $deep);
wait_until_waiting('by-hand');
settings($node, 'mana_ai.tick_enabled' => 'off');
wait_for($node, 'the worker is paused', 5, 'SELECT worker_state FROM mana_ai.status()', 'paused');
$research->control({ polls => 0 });
is(run_mission($node, 'by-hand')->{outcome}, 'planned', 'run_mission() asks for the answer and plans with it');
like(prompts(), qr/Die Antwort der langen Recherche/, 'the answer is in the prompt');
is(jobs(), 0, 'and the job is gone');
settings($node, 'mana_ai.tick_enabled' => undef);

# ---------------------------------------------------------------- research that comes to nothing

# A service that never answers is waited for during everything below.
fresh(discover => { steps => [ { hang => $true } ] });
push_mission($node, 'hangs', objective => 'Suche etwas', title => 'Hängt');
wait_until('the call that hangs is under way', 5, sub { $research->in_flight == 1 });
my $hangs_since = time;

my %refusals = (
    'refused'     => { submit => { steps => [ { status => 402 } ] } },
    'failing'     => { submit => { steps => [ { status => 500 } ] } },
    'unreachable' => { submit => { steps => [ { reset => $true } ] } },
    'garbled'     => { submit => { steps => [ { garbage => $true } ] } },
    'no task id'  => { submit => { steps => [ { reply => { status => 'queued' } } ] } },
    'a bad task id' => { submit => { steps => [ { reply => { taskId => "../../x y", status => 'queued' } } ] } },
    'failed'      => { outcome => 'failed', polls => 1 },
    'cancelled'   => { outcome => 'cancelled', polls => 0 },
    'forgotten'   => { poll => { steps => [ { status => 404 } ] } });
$number = 0;
for my $refusal (sort keys %refusals)
{
    my $id = 'refusal-' . ++$number;
    fresh(%{ $refusals{$refusal} });
    push_mission($node, $id, objective => $deep);
    wait_for_iterations($node, $id, 1);
    my $stats = $research->stats;
    is($stats->{submit}, 1, "long research $refusal: it is ordered once");
    is($stats->{discover}, 1, "long research $refusal: the web is searched instead");
    like(prompts(), qr/Erster Artikel/, "long research $refusal: and the mission planned with that");
    is(jobs(), 0, "long research $refusal: no job is left");
    is(spent($id), 'f', "long research $refusal: the next iteration may order again");
}

fresh(polls => 1000);
settings($node, 'mana_ai.deep_research_timeout' => '2s');
push_mission($node, 'slow', objective => $deep);
wait_until_waiting('slow');
is_faster_than(6, 'research that is not finished is given up', sub { wait_for_iterations($node, 'slow', 1) });
like(prompts(), qr/Erster Artikel/, 'the web is searched instead');
fresh(poll => { steps => [ { status => 503 } ], repeat => 'last' });
push_mission($node, 'gone', objective => $deep);
is_faster_than(6, 'so is research whose service is unreachable', sub { wait_for_iterations($node, 'gone', 1) });
is(jobs(), 0, 'no job is left');
settings($node, 'mana_ai.deep_research_timeout' => undef);

fresh(poll => { steps => [ { status => 503 }, { reset => $true }, { garbage => $true } ] });
push_mission($node, 'bumpy', objective => $deep);
wait_for_iterations($node, 'bumpy', 1);
like(prompts(), qr/Die Antwort der langen Recherche/, 'polls that fail for a while lose nothing');
is($research->stats->{submit}, 1, 'and order nothing again');

# Each user has separate credits: a user without any leaves the service open to all others.
fresh(submit => { steps => [ { status => 402 } ], repeat => 'last' });
push_mission($node, "poor-$_", objective => $deep, user => 'poor') for 1 .. 8;
wait_for($node, 'eight orders of a user without credits are refused', 20,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'poor-%' AND outcome = 'planned'", 8);
is(value($node, q{SELECT state FROM mana_ai.services() WHERE service = 'deep_research'}), 'open', 'which says nothing of the service');
is($research->stats->{submit}, 8, 'each of them was asked for');

# Others' failures have closed the gate: an order waits for the probe, and is it.
fresh(polls => 1000, poll => { steps => [ { status => 503 } ], repeat => 'last' });
push_mission($node, "polled-$_", objective => $deep) for 1 .. 3;
wait_for($node, 'polls that fail are found to be an outage', 20,
    q{SELECT state FROM mana_ai.services() WHERE service = 'deep_research'}, 'unavailable');
$research->control({ poll => { steps => [], repeat => 'none' }, polls => 1 });
push_mission($node, 'after-outage', objective => $deep);
wait_for_iterations($node, 'after-outage', 1);
like(prompts(), qr/Die Antwort der langen Recherche/, 'an order that comes in a short outage is not given up');

# ---------------------------------------------------------------- an answer is paid for once

fresh(polls => 0);
$model->control({ match => 'Mission kept', steps => [ { status => 400, error => 'nein' } ], repeat => 'last' });
push_mission($node, 'kept', objective => $deep);
wait_for($node, 'a plan fails after the research', 10,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'kept' AND outcome = 'failed'", 1);
is(job('kept')->{offered}, 1, 'the answer was offered once');
is(job('kept')->{state}, 'ready', 'and is kept');
# Its service is briefly unavailable: the offer does not count, and nothing is lost.
$research->control({ poll => { steps => [ { status => 503 } ] } });
is(run_mission($node, 'kept')->{outcome}, 'skipped-research', 'an answer that cannot be fetched is waited for');
wait_for($node, 'it is fetched again', 5,
    "SELECT state FROM mana_ai.mission_research_jobs WHERE mission_id = 'kept'", 'ready');
wait_for($node, 'and planning fails again', 10,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'kept' AND outcome = 'failed'", 2);
is(job('kept')->{offered}, 2, 'only runs that had the answer count');
is(run_mission($node, 'kept')->{outcome}, 'failed', 'a third plan fails');
my @requests = $model->requests;
is(scalar(grep { $_->{body}{messages}[1]{content} =~ /Die Antwort der langen Recherche/ } @requests), 3, 'three runs had the answer');
is($research->stats->{discover}, 0, 'so far nothing was searched on the web');
is(run_mission($node, 'kept')->{outcome}, 'failed', 'a fourth plan fails');
is(jobs(), 0, 'after three runs the answer is given up');
is(spent('kept'), 't', 'which is remembered');
is($research->stats->{discover}, 1, 'the fourth searched the web instead');
is(run_mission($node, 'kept')->{outcome}, 'failed', 'a fifth plan fails');
$model->reset;
is(run_mission($node, 'kept')->{outcome}, 'planned', 'the sixth plan succeeds');
is($research->stats->{submit}, 1, 'all of that ordered research once');
is(spent('kept'), 'f', 'the iteration makes good for it');

# A run that a budget has kept from planning is not one of the three.
fresh(polls => 0);
push_mission($node, 'short-of-money', objective => $deep, maxTokensPerDay => 400);
wait_for($node, 'the answer is there and the budget has no room for it', 20,
    "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'short-of-money' AND lease_owner IS NULL", 'skipped-mission-budget');
is(run_mission($node, 'short-of-money')->{outcome}, 'skipped-mission-budget', 'nor has it by hand') for 1 .. 3;
is_deeply([ @{ job('short-of-money') }{qw(state offered)} ], [ 'ready', 0 ], 'no run counts that a budget has ended');
is(value($node, "SELECT count(*) FROM mana_ai.token_usage WHERE mission_id = 'short-of-money' AND model <> 'deep-research'"), 0, 'none was paid for');
push_change($node, id => 'short-of-money', data => { maxTokensPerDay => 1_000_000 }, stamps => { maxTokensPerDay => iso(0) });
wait_for_iterations($node, 'short-of-money', 1);
like(prompts(), qr/Die Antwort der langen Recherche/, 'with room the plan uses the answer');
is($research->stats->{submit}, 1, 'which was ordered once');

# ---------------------------------------------------------------- missions that end while they wait

fresh(polls => 1000);
push_mission($node, $_, objective => $deep) for qw(deleted done paused);
wait_until_waiting($_) for qw(deleted done paused);
push_change($node, id => 'deleted', op => 'delete', data => { deletedAt => iso(0) });
push_change($node, id => 'done', data => { state => 'done' }, stamps => { state => iso(0) });
push_change($node, id => 'paused', data => { state => 'paused' }, stamps => { state => iso(0) });
wait_for($node, 'jobs of missions that are deleted or done are dropped', 5,
    "SELECT string_agg(mission_id, ',') FROM mana_ai.mission_research_jobs", 'paused');
$research->control({ polls => 0 });
wait_for($node, 'a paused mission keeps the answer that was paid for', 5,
    "SELECT state FROM mana_ai.mission_research_jobs WHERE mission_id = 'paused'", 'ready');
is(outcomes('paused'), 'skipped skipped-research', 'and is not planned');
push_change($node, id => 'paused', data => { state => 'active' }, stamps => { state => iso(1) });
wait_for_iterations($node, 'paused', 1);
like(prompts(), qr/Die Antwort der langen Recherche/, 'it is used when the mission goes on');

# ---------------------------------------------------------------- agents

fresh(polls => 0);
push_agent($node, 'ada', name => 'Ada');
push_mission($node, "of-ada-$_", objective => $deep, agentId => 'ada') for 1 .. 3;
wait_for_iterations($node, "of-ada-$_", 1) for 1 .. 3;
is($research->stats->{submit}, 3, 'missions of one agent that take turns order once each');

# ---------------------------------------------------------------- the service that never answered

my $left = 20 - (time - $hangs_since);
wait_for_iterations($node, 'hangs', 1, $left > 1 ? $left : 1);

# ---------------------------------------------------------------- an interrupted wait

fresh(polls => 0, poll => { steps => [ { hang => $true } ] });
push_mission($node, 'canceled', objective => $deep);
wait_until('a poll hangs', 5, sub { $research->in_flight == 1 && $research->stats->{poll} == 1 });
sleep 1;
is($research->stats->{poll}, 1, 'as long as it hangs, no other is begun for the same answer');
is(value($node, 'SELECT worker_state || in_flight FROM mana_ai.status()'), 'ticking0', 'a poll is no run, but the tick goes on');
value($node, 'SELECT pg_cancel_backend(' . worker_pid($node) . ')');
wait_until('a cancel drops the poll', 5, sub { $research->in_flight == 0 });
wait_for_iterations($node, 'canceled', 1);
is($research->stats->{submit}, 1, 'and the next poll gets the answer');

fresh(polls => 0, poll => { steps => [ { hang => $true } ], repeat => 'last' });
push_mission($node, 'stopped', objective => $deep);
wait_until('another poll hangs', 5, sub { $research->in_flight == 1 && $research->stats->{poll} == 1 });
is_faster_than(3, 'a fast shutdown drops it', sub { $node->stop('fast') });
fresh(polls => 0);
$node->start;
wait_for_iterations($node, 'stopped', 1);
is($research->stats->{submit}, 0, 'after the start the answer is fetched, and nothing ordered');

# ---------------------------------------------------------------- research that takes long

# A new model service gets sixteen calls at once; missions that still search do not count as such.
restart_worker();
fresh(discover => { steps => [ { hang => $true } ], repeat => 'last' });
push_missions($node, [ map { "searches-$_" } 1 .. 20 ], objective => 'Suche etwas');
wait_until('sixteen missions search', 20, sub { return $research->in_flight >= 16 });
push_mission($node, 'plain', objective => 'Plane die Woche', title => 'Woche');
wait_for_iterations($node, 'plain', 1, 10);
cmp_ok($research->in_flight, '>', 0, 'another one is planned meanwhile');

sub restart_worker
{
    my $old = worker_pid($node);
    value($node, "SELECT pg_terminate_backend($old)");
    wait_for($node, 'another worker', 20,
        "SELECT worker_pid IS NOT NULL AND worker_pid <> $old FROM mana_ai.status()", 't');
    return;
}

# ---------------------------------------------------------------- by hand, without the library preloaded

$node->stop('fast');
my $plain = new_cluster('research_by_hand', model => $model, conf => $services . <<'END');
mana_ai.deep_research_enabled = on
mana_ai.tick_interval = '1s'
END
fresh(polls => 1);
push_mission($plain, 'hand', objective => $deep);
my $tick = run_tick($plain);
is_deeply([ @{$tick}{qw(due_mission_count skipped plans_written_back)} ], [ 1, 1, 0 ], 'run_tick() orders');
$tick = run_tick($plain);
is($tick->{due_mission_count}, 0, 'the next tick has nothing to do');
is($research->stats->{poll}, 0, 'and does not ask before its time');
sleep 1;
run_tick($plain);
is($research->stats->{poll}, 1, 'a tick later it asks, and the answer is not there');
is($model->count, 0, 'nothing is planned');
sleep 1;
$tick = run_tick($plain);
is($tick->{plans_written_back}, 1, 'the tick whose poll gets the answer plans the mission');
like(prompts(), qr/Die Antwort der langen Recherche/, 'with the answer');
is(value($plain, 'SELECT count(*) FROM mana_ai.mission_research_jobs'), 0, 'the job is gone');
is(value($plain, "SELECT 'mana_ai.mission_research_jobs'::regclass = ANY (extconfig) FROM pg_extension WHERE extname = 'mana_ai'"),
    't', 'pg_dump keeps jobs');
# More jobs than the limit of concurrent polls.
fresh(polls => 1000);
my @many = map { "many-$_" } 1 .. 700;
push_missions($plain, \@many, objective => 'Viel');
value($plain, "INSERT INTO mana_ai.mission_research_jobs (user_id, mission_id, task_id) SELECT user_id, mission_id, 'task-of-' || mission_id FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'many-%'");
$tick = run_tick($plain);
is($tick->{skipped}, 700, 'missions that wait are not planned');
is($research->stats->{poll}, 700, 'one tick asks for all of them once');
cmp_ok($research->stats->{max_in_flight}, '<=', 500, 'not more than 500 at the same moment');
is(value($plain, 'SELECT count(*) FROM mana_ai.mission_research_jobs WHERE polls = 1 AND next_poll_at > now()'), 700, 'and notes that it did');

unlike(log_since($node, 0), qr/Wärmepumpen|Die Antwort|key-for-research/, 'no query, answer or key is in the log');

done_testing();
