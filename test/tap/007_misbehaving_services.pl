# Model services that misbehave: what the run makes of it, when it is tried again, what operators see.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node  = new_cluster('services', model => $model, conf => "mana_ai.llm_timeout = '1s'");

# ---------------------------------------------------------------- one mission after the other

# scenario => [outcome, error_kind, requests, backoff from, to in seconds, pattern of error_message]
# A failure is retried after a minute ± 20 %, a permanent refusal after six hours. If only the service is to blame,
# it is not a failure: the mission is retried when the service allows it. Each mission has a separate tick, and so a
# process that does not know of the others: together they would look like an outage.
my ($minute, $refused, $soon) = ([ 47, 73 ], [ 21599, 21601 ], [ 0.5, 31 ]);
my %cases = (
    '400'       => [ 'failed',  'unknown',     1, $minute,  qr/^HTTP 400: scripted failure$/ ],
    '401'       => [ 'skipped',  'auth',        1, $soon,  qr/^HTTP 401: / ],
    '403'       => [ 'failed',  'auth',        1, $minute,  qr/^HTTP 403: / ],
    '422'       => [ 'failed',  'blocked',     1, $refused, qr/^HTTP 422: content filter$/ ],
    '429'       => [ 'skipped',  'rate_limit',  undef, $soon,  qr/^HTTP 429: / ],
    '429-long'  => [ 'skipped',  'rate_limit',  1, $soon, qr/^HTTP 429: / ],
    '429-seconds' => [ 'planned', undef, 3 ],
    '429-date'  => [ 'planned', undef,         3 ],
    '500'       => [ 'failed',  'unknown',     1, $minute, qr/^HTTP 500: scripted failure$/ ],
    '503'       => [ 'skipped',  'unknown',     3, $soon, qr/^HTTP 503: / ],
    '503-once'  => [ 'planned', undef,         3 ],
    '503-twice' => [ 'planned', undef,         4 ],
    'redirect'  => [ 'failed',  'unknown',     1, $minute, qr/^HTTP 302/ ],
    'reset'     => [ 'failed',  'unreachable', 3, $minute, qr/./ ],
    'close'     => [ 'failed',  'unreachable', 3, $minute, qr/./ ],
    'truncated' => [ 'failed',  'unreachable', 3, $minute, qr/./ ],
    'hang'      => [ 'failed',  'timeout',     3, $minute, qr/./ ],
    'trickle'   => [ 'failed',  'timeout',     3, $minute, qr/./ ],
    'garbage'   => [ 'failed',  'malformed',   3, $minute, qr/./ ],
    'raw-garbage' => [ 'failed', qr/^(unreachable|malformed)$/, 3, $minute, qr/./ ],
    'empty'     => [ 'failed',  'malformed',   3, $minute, qr/./ ],
    'no-choices' => [ 'failed', 'malformed',   3, $minute, qr/./ ],
    'oversized' => [ 'failed',  'malformed',   3, $minute, qr/./ ],
    'good'      => [ 'planned', undef,         2 ],
);
my @names = sort keys %cases;
push_changes($node, 'mana_sync',
    map { mission_change_of("c-$_", $_ eq 'good' ? '' : "[[szenario:$_]]") } @names);

sub mission_change_of
{
    my ($id, $objective) = @_;
    return { id => $id, op => 'insert', data => {
        title => "T $id", objective => "$objective geheimes Ziel", state => 'active', iterations => [],
        cadence => { kind => 'manual' }, nextRunAt => iso(-60), updatedAt => iso(-60) } };
}

my $log     = log_position($node);
my $planned = grep { $cases{$_}[0] eq 'planned' } @names;
my $failed  = grep { $cases{$_}[0] eq 'failed' } @names;
run_mission($node, "c-$_") for @names;
is(value($node, 'SELECT count(*) FROM mana_ai.runs'), scalar @names, 'all missions have run');
my ($tick, $took);

my %requests;
for my $request ($model->requests)
{
    my ($id) = $request->{body}{messages}[1]{content} =~ /T (c-[\w-]+)/;
    $requests{$id}++;
}
for my $name (@names)
{
    my ($outcome, $kind, $count, $backoff, $message) = @{ $cases{$name} };
    my $run = last_run($node, "c-$name");
    is($run->{outcome}, $outcome, "$name: outcome");
    is($requests{"c-$name"}, $count, "$name: requests") if defined $count;
    if ($outcome eq 'planned')
    {
        is($run->{error_kind}, undef, "$name: no error");
        is(scalar @{ iterations_of($node, "c-$name") }, 1, "$name: an iteration");
        is(value($node, "SELECT attempts || ' ' || (not_before IS NULL) FROM mana_ai.mission_schedule WHERE mission_id = 'c-$name'"),
            '0 true', "$name: no backoff");
        next;
    }
    ref $kind ? like($run->{error_kind}, $kind, "$name: error_kind") : is($run->{error_kind}, $kind, "$name: error_kind");
    like($run->{error_message}, $message, "$name: error_message");
    is(scalar @{ iterations_of($node, "c-$name") }, 0, "$name: no iteration");
    my $wait = value($node,
        "SELECT extract(epoch FROM s.not_before - r.finished_at) FROM mana_ai.mission_schedule s JOIN mana_ai.runs r USING (user_id, mission_id) WHERE mission_id = 'c-$name'");
    ok($wait >= $backoff->[0] && $wait <= $backoff->[1], "$name: tried again after $backoff->[0] to $backoff->[1] s") or diag($wait);
    if ($outcome eq 'skipped')
    {
        is($run->{decision}, 'skipped-service', "$name: decision");
        is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'c-$name'"), 0, "$name: no attempt");
        next;
    }
    # On a slow machine the minute is over by now.
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = greatest(not_before, now() + interval '1 hour') WHERE mission_id = 'c-$name'");
    like(why_of($node, "c-$name"), qr/^backing off until .* after 1 failure: $run->{error_kind}/, "$name: why()");
}
is(value($node, 'SELECT count(*) FROM mana_ai.mission_problems'), $failed,
    'missions that failed are in mission_problems');
my $text = log_since($node, $log);
like($text, qr/mission=c-500 agent=- outcome=failed error=unknown rounds=0 steps=0 tokens=0/, 'the log has a line for each');
unlike($text, qr/geheimes Ziel|content filter|scripted failure/, 'without what users or services wrote');

# ---------------------------------------------------------------- backoff

$model->reset;
value($node, "UPDATE mana_ai.mission_schedule SET not_before = not_before + interval '1 hour', wake_at = wake_at + interval '1 hour' WHERE not_before IS NOT NULL");
is(run_tick($node)->{due_mission_count}, 0, 'the next tick leaves those alone that back off');
is($model->count, 0, 'and asks nobody');

# As if the minute had passed.
sub backoff_passed
{
    my ($id) = @_;
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = now(), wake_at = now() WHERE mission_id = '$id'");
    return;
}
for my $attempt (2, 3)
{
    backoff_passed('c-500');
    run_tick($node);
    my ($low, $high) = (60 * 2**($attempt - 1) * 0.79, 60 * 2**($attempt - 1) * 1.21);
    my $wait = value($node, "SELECT extract(epoch FROM not_before - decided_at) FROM mana_ai.mission_schedule WHERE mission_id = 'c-500'");
    ok($wait > $low && $wait < $high, "failure $attempt doubles the wait") or diag($wait);
    like(why_of($node, 'c-500'), qr/after $attempt failures: unknown/, "and why() counts it");
}
push_change($node, id => 'c-422', data => { objective => 'harmlos' }, stamps => { objective => iso(0) });
is(run_tick($node)->{plans_written_back}, 1, 'what was refused is tried again when the mission changes');
push_change($node, id => 'c-500', data => { objective => 'harmlos' }, stamps => { objective => iso(0) });
is(run_tick($node)->{plans_written_back}, 1, 'so is what failed');
is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'c-500'"), 0, 'a success forgets the failures');

$model->reset;
push_changes($node, 'mana_sync', map { { id => "c-$_", data => { state => 'done' }, stamps => { state => iso(0) } } }
      grep { ($cases{$_}[2] // 0) == 3 && $cases{$_}[0] ne 'planned' } @names);
settings($node, 'mana_ai.planner_model' => 'other/model');
$tick = run_tick($node);
cmp_ok($tick->{due_mission_count}, '>', 3, 'new settings free what a service refused');
is(value($node, "SELECT count(DISTINCT model) FROM mana_ai.runs"), 2, 'and are used');

# ---------------------------------------------------------------- replies at the edge of the format

value($node, 'DELETE FROM mana_ai.runs');
$model->reset;
my %edges = (
    'summary-only'        => { summary => 'Heute ist nichts zu tun.', steps => 0, status => 'approved', tokens => 1560 },
    'content-null'        => { summary => 'Es wurde kein Schritt vorgeschlagen.', steps => 0, status => 'approved' },
    'content-missing'     => { summary => 'Es wurde kein Schritt vorgeschlagen.', steps => 0, status => 'approved' },
    'content-parts'       => { summary => qr/^Erster Teil\.\s+Zweiter Teil\.$/, steps => 0, status => 'approved' },
    'missing-ids'         => { summary => 'Fertig.', steps => 1, status => 'awaiting-review' },
    'no-usage'            => { summary => 'Ohne Verbrauch.', steps => 0, tokens => 0 },
    'usage-without-total' => { summary => 'Ohne Summe.', steps => 0, tokens => 42 },
    'chunked'             => { summary => 'In Stücken.', steps => 0 },
    'always-calls'        => { steps => 5, rounds => 5, status => 'awaiting-review', summary => qr/5 Runden/ },
    'many-steps'          => { steps => 25, rounds => 2, summary => 'Fertig.' },
    'unknown-tool'        => { steps => 0, summary => qr/./, rounds => 2 },
    'bad-arguments'       => { steps => 0, summary => qr/./, rounds => 3 },
);
push_changes($node, 'mana_sync', map { mission_change_of("e-$_", "[[szenario:$_]]") } sort keys %edges);
$tick = run_tick($node);
is_deeply([ @$tick{qw(plans_written_back parse_failures)} ], [ scalar keys %edges, 0 ], 'odd replies are all taken');
for my $name (sort keys %edges)
{
    my %want = %{ $edges{$name} };
    my $run  = last_run($node, "e-$name");
    my ($iteration) = @{ iterations_of($node, "e-$name") // [] };
    ref $want{summary}
      ? like($iteration->{summary}, $want{summary}, "$name: summary")
      : is($iteration->{summary}, $want{summary}, "$name: summary");
    is($run->{steps}, $want{steps}, "$name: steps") if exists $want{steps};
    is(scalar @{ $iteration->{plan} }, $want{steps}, "$name: steps of the iteration");
    is($run->{rounds}, $want{rounds}, "$name: rounds") if exists $want{rounds};
    is($run->{total_tokens}, $want{tokens}, "$name: tokens") if exists $want{tokens};
    is($iteration->{overallStatus}, $want{status}, "$name: status") if exists $want{status};
}

# The model is told precisely what was wrong.
my %answers;
for my $request ($model->requests)
{
    my @messages = @{ $request->{body}{messages} };
    my ($id) = $messages[1]{content} =~ /T e-([\w-]+)/;
    push @{ $answers{$id} }, map { JSON::PP->new->decode($_->{content}) } grep { $_->{role} eq 'tool' } $messages[-1];
}
for my $name (qw(unknown-tool bad-arguments))
{
    ok(!$answers{$name}[0]{success}, "$name: the call is answered with success false");
    ok(length $answers{$name}[0]{message}, "$name: and a message");
}
like($answers{'unknown-tool'}[0]{message}, qr/erase_everything/, 'which names the unknown tool');
like($answers{'bad-arguments'}[1]{message}, qr/title/, 'or the missing parameter');
ok($answers{'many-steps'} && !$answers{'many-steps'}[0]{success}, 'the 26th step is refused');

# 128 calls in one turn, bytes that are not UTF-8, text that JSON can hold but jsonb cannot.
push_changes($node, 'mana_sync', mission_change_of('e-flood', ''));
$model->control({ steps => [
    { tool_calls => [ map { { name => 'create_task', arguments => { title => "Schritt $_" } } } 1 .. 128 ] },
    { content => 'Viel.' } ] });
is(run_tick($node)->{plans_written_back}, 1, '128 calls in one turn');
is(scalar @{ iterations_of($node, 'e-flood')->[0]{plan} }, 25, 'become 25 steps');
is(scalar(grep { $_->{role} eq 'tool' } @{ ($model->requests)[-1]{body}{messages} }), 128, 'all of them are answered');

push_changes($node, 'mana_sync', mission_change_of('e-utf8', ''));
$model->control({ steps => [ { body_base64 => 'eyJjaG9pY2VzIjpbeyJtZXNzYWdlIjp7ImNvbnRlbnQiOiJh/2IifX1dfQ==' } ], repeat => 'last' });
$tick = run_tick($node);
my $run = last_run($node, 'e-utf8');
ok($run->{outcome} eq 'planned' || $run->{error_kind} eq 'malformed', 'invalid UTF-8 does no harm') or diag(explain($run));

push_changes($node, 'mana_sync', mission_change_of('e-nul', ''));
$model->control({ steps => [
    { body => '{"choices":[{"message":{"content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"create_task","arguments":"{\"title\":\"A\\\\u0000B\"}"}}]}}]}' },
    { body => '{"choices":[{"message":{"content":"Null\u0000Byte und \ud83d halbes Zeichen"}}]}' } ] });
is(run_tick($node)->{plans_written_back}, 1, 'NUL and half a surrogate pair do not keep a plan from being written');
unlike(iterations_of($node, 'e-nul')->[0]{summary}, qr/\0/, 'NUL is gone');

# ---------------------------------------------------------------- nobody there

$model->stop;
push_changes($node, 'mana_sync', mission_change_of('refused', ''));
$took = timed(sub { $tick = run_tick($node) });
$run = last_run($node, 'refused');
is_deeply([ @$run{qw(outcome error_kind)} ], [ 'skipped', 'unreachable' ], 'a refused connection');
cmp_ok($took, '>', 1.5, 'is tried three times with pauses');
settings($node, 'mana_ai.llm_url' => 'http://no-such-host.invalid');
push_changes($node, 'mana_sync', mission_change_of('nowhere', ''));
run_tick($node);
is(last_run($node, 'nowhere')->{error_kind}, 'unreachable', 'a host that does not exist');

is(value($node, 'SELECT count(*) FROM mana_ai.mission_schedule WHERE lease_owner IS NOT NULL'), 0, 'no lease is left');
is(snapshots_differ($node), '', 'all snapshots are replays');
unlike(log_since($node), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
done_testing();
