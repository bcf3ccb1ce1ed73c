# Traces: what a collector gets and must not get, and that it never delays a mission.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use ManaAi::Collector;
use Test::More;
use Time::HiRes qw(sleep time);

my $model     = start_model();
my $collector = ManaAi::Collector->new;
my $node      = new_cluster('traces', preload => 1, model => $model, conf => <<"END");
mana_ai.service_key_file = '@{[key_file('sk-traces-5d21')]}'
mana_ai.tick_enabled = off
mana_ai.max_concurrency = 500
mana_ai.user_tokens_per_day = 0
END

sub dropped { return value($node, "SELECT value FROM mana_ai.metrics WHERE name = 'mana_ai_trace_spans_dropped_total'") }

sub headers_of
{
    my ($request) = @_;
    return { map { lc($_) => $request->{headers}{$_} } keys %{ $request->{headers} } };
}

# The first value of a list of hashes by name.
sub named { my ($name, @spans) = @_; return grep { $_->{name} eq $name } @spans }

sub by_mission
{
    my ($mission, @spans) = @_;
    my ($root) = grep { ($_->{attributes}{'mission.id'} // '') eq $mission } @spans;
    return ($root, grep { $root && $_->{traceId} eq $root->{traceId} && $_->{spanId} ne $root->{spanId} } @spans);
}

my @seen;    # every body that a collector got, for the privacy check at the end
my @problems;

# Those that were refused too.
sub spans_in_requests
{
    return scalar map { @{ $_->{spans} } } map { @{ $_->{scopeSpans} } } map { @{ $_->{body}{resourceSpans} } } $collector->requests;
}

sub forget
{
    push @seen, JSON::PP->new->canonical->encode([ map { $_->{body} } $collector->requests ]);
    push @problems, $collector->problems;
    $collector->reset;
    $model->reset;
    return;
}

# ---------------------------------------------------------------- off

push_mission($node, 'off');
is(run_tick($node)->{plans_written_back}, 1, 'a mission is planned without an endpoint');
ok(!exists headers_of(($model->requests)[0])->{traceparent}, 'calls have no traceparent then');
$model->reset;

# ---------------------------------------------------------------- a plan that cannot be written

# In a separate database with a separate collector, during all the rest: it is tried for 30 s.
my $other_collector = ManaAi::Collector->new;
create_sync_database($node, 'other');
value($node, <<"END", 'other');
ALTER DATABASE other SET mana_ai.otlp_endpoint = '@{[ $other_collector->url ]}';
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN RAISE 'Streng-Geheim-Trigger'; END \$\$;
CREATE TRIGGER refuse BEFORE INSERT ON sync_changes FOR EACH ROW WHEN (NEW.client_id = 'mana-ai-runner')
  EXECUTE FUNCTION refuse();
END
push_mission($node, 'unwritten', database => 'other');
my $unwritten = background($node, "SELECT outcome, error FROM mana_ai.run_mission('@{[USER_ID]}', 'unwritten')", database => 'other');
wait_until('it has been planned', 10, sub { $model->count == 2 && $model->in_flight == 0 });
$model->reset;

# ---------------------------------------------------------------- a run

settings($node, 'mana_ai.otlp_endpoint' => $collector->url . '/');
push_agent($node, 'ada', name => 'Ada "die Erste"');
push_mission($node, 'm1', title => 'Steuer für 2026 🧾', agentId => 'ada', objective => 'Streng-Geheim-Ziel');
my $before = time;
is(run_tick($node)->{plans_written_back}, 1, 'a mission is planned with one');
my ($root, @children) = by_mission('m1', $collector->spans);
ok($root, 'when run_tick() returns the collector has its spans');
my $run = last_run($node, 'm1');
ok(!exists $root->{parentSpanId}, "the run's span is the first of its trace");
is($root->{name}, 'tick.planMission', 'its name');
is($root->{kind}, 1, 'its kind is internal');
is_deeply(
    $root->{attributes},
    {
        'run.id'        => $run->{run_id},
        'mission.id'    => 'm1',
        'mission.title' => 'Steuer für 2026 🧾',
        'user.id'       => USER_ID,
        'agent.id'      => 'ada',
        'agent.name'    => 'Ada "die Erste"',
        'outcome'       => 'planned',
        'rounds'        => $run->{rounds},
        'tokens'        => $run->{total_tokens},
    },
    'its attributes');
ok(!exists $root->{status}, 'it is no error');
is(scalar(grep { $_->{parentSpanId} ne $root->{spanId} } @children), 0, 'the other spans hang under it');
is(join(' ', sort map { $_->{name} } @children), 'db.write_back' . ' planner.complete' x $run->{rounds},
    'one for each model call and one for the write-back');
for my $span ($root, @children)
{
    ok($span->{startTimeUnixNano} >= $before * 1e9 && $span->{endTimeUnixNano} <= (time + 0.001) * 1e9,
        "$span->{name} was just now");
    ok($span->{startTimeUnixNano} ge $root->{startTimeUnixNano} && $span->{endTimeUnixNano} le $root->{endTimeUnixNano},
        'and within the run');
}
my @calls = sort { $a->{startTimeUnixNano} cmp $b->{startTimeUnixNano} } named('planner.complete', @children);
my ($prompt, $completion) = (0, 0);
for my $call (@calls)
{
    is($call->{kind}, 3, 'a model call is of kind client');
    my $attributes = $call->{attributes};
    is($attributes->{'llm.model'}, 'google/gemini-2.5-flash', 'with the model');
    is($attributes->{'http.status_code'}, 200, 'the status');
    is($attributes->{'llm.tokens.total'}, $attributes->{'llm.tokens.prompt'} + $attributes->{'llm.tokens.completion'}, 'the tokens');
    $prompt     += $attributes->{'llm.tokens.prompt'};
    $completion += $attributes->{'llm.tokens.completion'};
}
is_deeply([ $prompt, $completion ], [ @$run{qw(prompt_tokens completion_tokens)} ], 'tokens of all calls are those of the run');
my ($iteration) = @{ iterations_of($node, 'm1') };
is($calls[-1]{attributes}{'llm.response.length'}, length $iteration->{summary}, "the answer's length in characters");
is(named('db.write_back', @children), 1, 'one write-back');
is((named('db.write_back', @children))[0]{attributes}{outcome}, 'planned', 'with its outcome');

my @requests = $model->requests;
is_deeply(
    [ map { headers_of($_)->{traceparent} } @requests ],
    [ map { "00-$_->{traceId}-$_->{spanId}-01" } @calls ],
    "each call's traceparent is its span");
my ($export) = $collector->requests;
is($export->{path}, '/v1/traces', 'an endpoint with a trailing slash has the right path');
ok(!exists headers_of($export)->{authorization}, 'the service key is not sent to the collector');
is_deeply(
    { map { $_->{key} => $_->{value}{stringValue} } @{ $export->{body}{resourceSpans}[0]{resource}{attributes} } },
    { 'service.name' => 'mana-ai', 'service.version' => value($node, "SELECT extversion FROM pg_extension WHERE extname = 'mana_ai'") },
    'the resource names service and version');
forget();

is(run_mission($node, 'm1')->{outcome}, 'planned', 'run_mission()');
is(scalar(named('tick.planMission', $collector->spans)), 1, 'is traced too');
forget();

# ---------------------------------------------------------------- failures and private texts

push_agent($node, 'secret', name => 'enc:1:AAAA-Agent:BBBB', role => 'enc:1:AAAA:BBBB');
push_mission($node, 'p1', title => 'Offen', agentId => 'secret', conceptMarkdown => 'Streng-Geheim-Konzept');
push_mission($node, 'p2', title => 'enc:1:AAAA-Titel:BBBB');
push_mission($node, 'p3', title => 'x' x 5000 . '"' . "\x01");
run_tick($node);
my ($p1) = by_mission('p1', $collector->spans);
is($p1->{attributes}{outcome}, 'planned', 'a mission whose agent has an encrypted name is planned');
ok(!exists $p1->{attributes}{'agent.name'}, 'the name is left out');
my ($p2) = by_mission('p2', $collector->spans);
ok(!$p2 || !exists $p2->{attributes}{'mission.title'}, 'so is an encrypted title');
my ($p3) = by_mission('p3', $collector->spans);
is(length $p3->{attributes}{'mission.title'}, 256, 'a long title is cut');
forget();

$model->control({ steps => [ { status => 401, error => 'Streng-Geheim-Anbieter' } ], repeat => 'last' });
push_mission($node, 'f1');
run_tick($node);
my ($failed, @tries) = by_mission('f1', $collector->spans);
is_deeply($failed->{status}, { code => 2, message => 'auth' }, "the span of a run whose key is refused is an error of that kind");
is($failed->{attributes}{outcome}, 'skipped', 'with the outcome');
is(scalar @tries, 1, 'one call');
is_deeply($tries[0]{status}, { code => 2, message => 'auth' }, 'which is an error too');
is($tries[0]{attributes}{'http.status_code'}, 401, 'with its status');
ok(!exists $tries[0]{attributes}{'llm.tokens.total'}, 'and no tokens');
forget();

$model->control({ steps => [ { close => JSON::PP::true }, { content => 'Gut.' } ] });
push_mission($node, 'f2');
run_tick($node);
my ($second, @attempts) = by_mission('f2', $collector->spans);
ok(!exists $second->{status}, 'a run that a retry has saved is no error');
@attempts = sort { $a->{startTimeUnixNano} cmp $b->{startTimeUnixNano} } named('planner.complete', @attempts);
is_deeply([ map { $_->{status}{message} } @attempts ], [ 'unreachable', undef ], 'its first call is');
is_deeply([ map { headers_of($_)->{traceparent} } $model->requests ],
    [ map { "00-$_->{traceId}-$_->{spanId}-01" } @attempts ], 'each attempt is a span of its own');
forget();

$model->control({ steps => [ { close => JSON::PP::true } ], repeat => 'last' });
push_mission($node, 'f3');
run_tick($node);
my ($lost, @lost_calls) = by_mission('f3', $collector->spans);
is_deeply([ map { $_->{status}{message} } $lost, @lost_calls ], [ ('unreachable') x (1 + @lost_calls) ], 'a lost connection');
ok(!grep({ exists $_->{attributes}{'http.status_code'} } @lost_calls), 'has no status');
# Both would be tried again.
push_change($node, id => $_, data => { state => 'done' }, stamps => { state => iso(0) }) for qw(f1 f3);
forget();

# ---------------------------------------------------------------- a manual tick waits for no collector

# A request to the collector may take ten seconds.
for my $case ([ 'hangs', { hang => JSON::PP::true } ], [ 'answers 500', { status => 500 } ], [ 'answers 503', { status => 503 } ],
    [ 'closes', { close => JSON::PP::true } ])
{
    my ($what, $control) = @$case;
    $collector->control($control);
    push_mission($node, "hand-$what");
    my $dropped = dropped();
    my $tick;
    my $took = timed(sub { $tick = run_tick($node) });
    is_deeply([ @$tick{qw(plans_written_back errors)} ], [ 1, [] ], "a collector that $what does not disturb a tick");
    cmp_ok($took, '<', 8, 'nor does the tick wait for its answer');
    is(dropped() - $dropped, 4, 'its spans count as dropped');
}
$collector->control({ hang => JSON::PP::true });
push_mission($node, 'cancel');
my $dropped = dropped();
my $session = background($node, 'SELECT plans_written_back, errors FROM mana_ai.run_tick()');
wait_until('the collector is asked', 5, sub { $collector->in_flight == 1 });
value($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'mana_ai tick' AND datname = 'mana_sync'");
my ($status, $out) = $session->finish(5);
is($out, "1|{}\n", 'a tick that is terminated while it only waits for the collector has succeeded');
is(dropped() - $dropped, 4, 'and its spans count as dropped');
forget();

# ---------------------------------------------------------------- the worker

settings($node, 'mana_ai.tick_enabled' => 'on');
wait_for_worker($node);

sub plan_with_worker
{
    my ($name, $count) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    push_missions($node, [ map { "$name-$_" } 1 .. $count ]);
    return timed(sub {
        wait_for($node, "$count missions are planned", 60,
            "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE '$name-%' AND outcome = 'planned'", $count);
    });
}

plan_with_worker('w', 3);
wait_until('the worker sends spans by itself', 5, sub { $collector->stats->{spans} == 12 });
forget();

plan_with_worker('burst', 300);
wait_until('many spans arrive', 10, sub { $collector->stats->{spans} == 1200 });
is($collector->stats->{max_in_flight}, 1, 'one request at a time');
cmp_ok($collector->count, '<', 40, 'in batches');
my @burst = $collector->spans;
is(scalar(keys %{ { map { $_->{traceId} => 1 } @burst } }), 300, 'every run has a trace of its own');
is(scalar(keys %{ { map { $_->{spanId} => 1 } @burst } }), 1200, 'every span an id of its own');
forget();

# An unavailable collector: 1100 missions make 4400 spans, 4096 are kept.
my $position = log_position($node);
$collector->control({ status => 503 });
plan_with_worker('away', 1100);
wait_until('it was asked', 5, sub { $collector->count >= 1 });
my $state = q{SELECT state || ' ' || call_limit || ' ' || (failed > 0) || ' ' || (since <= now()) FROM mana_ai.services() WHERE service = 'collector'};
wait_for($node, 'services() tells that it is away', 10, $state, 'unavailable 1 true true');
like(value($node, 'SELECT mana_ai.metrics()'), qr/^mana_ai_service_state\{[^}]*state="unavailable"[^}]*upstream="collector"[^}]*\} 1$|^mana_ai_service_state\{[^}]*upstream="collector"[^}]*state="unavailable"[^}]*\} 1$/m, 'so does a metric');
is(value($node, q{SELECT coalesce(worker_problem, 'none') FROM mana_ai.status()}), 'none', 'which is no problem of the worker');
# A pause may have begun; a newly set endpoint is tried at once.
$collector->control({});
my $port = $collector->port;
settings($node, 'mana_ai.otlp_endpoint' => "http://localhost:$port");
wait_until('what was kept arrives when the collector is back', 15, sub { $collector->stats->{spans} == 4096 });
wait_until('which is said in the log', 5, sub { log_since($node, $position) =~ /takes traces again/ });
wait_for($node, 'and by services()', 10, q{SELECT state FROM mana_ai.services() WHERE service = 'collector'}, 'open');
my $log = log_since($node, $position);
is(scalar(() = $log =~ /WARNING: .*mana_ai: the collector does not take traces \(HTTP 503\)/g), 1, 'so was the outage, once');
like($log, qr/takes traces again; 304 spans were dropped/, 'with the number of spans that were dropped');
# Spans whose run's span was dropped have no parent: not for the check of whole traces.
$collector->reset;
$model->reset;

# Whatever the collector does, missions are planned. (How fast is a matter for `make bench PART=traces`.)
my $calm = plan_with_worker('calm', 200);
wait_until('spans of the calm arrive', 30, sub { $collector->stats->{spans} == 800 }) or diag('spans: ' . $collector->stats->{spans});
forget();
my %rude = (
    'hangs'       => { hang => JSON::PP::true },
    'answers 500' => { status => 500, body => 'Streng-Geheim-Sammler' },
    'answers 400' => { status => 400 },
    'resets'      => { reset => JSON::PP::true });
for my $what (sort keys %rude)
{
    $collector->control($rude{$what});
    my $took = plan_with_worker("rude-$what", 200);
    note sprintf 'a collector that %s: %.1f s, a calm one %.1f s', $what, $took, $calm;
}
$collector->stop;
plan_with_worker('gone', 200);

$collector = ManaAi::Collector->new(port => $port);
settings($node, 'mana_ai.otlp_endpoint' => "http://127.0.0.1:$port");
# In the order in which they were made.
plan_with_worker('newest', 1);
wait_until('spans come again', 15, sub { grep { /newest/ } map { $_->{attributes}{'mission.id'} // '' } $collector->spans });
cmp_ok($collector->stats->{spans}, '>=', 800, 'those of the time without a collector too');
$collector->reset;

# A permanently refused request is not sent again, but parts of it may be.
$position = log_position($node);
$collector->control({ status => 400 });
plan_with_worker('refused', 1);
wait_until('a refusal', 5, sub { $collector->count == 1 });
wait_until('is said', 5, sub { log_since($node, $position) =~ /refuses traces \(HTTP 400\), they are dropped/ });
$collector->control({ body => '{"partialSuccess":{"rejectedSpans":"2","errorMessage":"x"}}' });
plan_with_worker('partly', 1);
wait_until('after it the next spans go out', 5, sub { $collector->count == 2 });
is(scalar(map { @{ $_->{spans} } } map { @{ $_->{scopeSpans} } } @{ ($collector->requests)[1]{body}{resourceSpans} }), 4,
    'without those that were refused');
$collector->control({});
plan_with_worker('whole', 1);
wait_until('a success', 15, sub { log_since($node, $position) =~ /takes traces again; 6 spans were dropped/ });
# The run's last span may come in a separate request.
wait_until('all that was sent', 15, sub { spans_in_requests() == 12 });

# An operator's cancel of all runs does not touch the request to the collector.
forget();
$collector->control({ latency_ms => 1500 });
plan_with_worker('cancel', 1);
wait_until('the collector is asked', 5, sub { $collector->in_flight == 1 });
$position = log_position($node);
value($node, 'SELECT pg_cancel_backend(worker_pid) FROM mana_ai.status()');
wait_until('all is canceled', 5, sub { log_since($node, $position) =~ /runs canceled by request/ });
is($collector->in_flight, 1, 'but the request to the collector goes on');
wait_until('and is answered', 5, sub { $collector->in_flight == 0 });
sleep 2.5;
is_deeply([ $collector->count, $collector->stats->{spans} ], [ 1, 4 ], 'so that no span is sent twice');
$collector->reset;

# Polls for long research, outside of runs.
my $research = start_research();
settings($node, 'mana_ai.research_url' => $research->url, 'mana_ai.api_url' => $research->url,
    'mana_ai.deep_research_enabled' => 'on', 'mana_ai.tick_interval' => '300ms');
$research->control({ polls => 2 });
push_mission($node, 'deep', objective => 'Bitte eine umfassende Recherche über Wärmepumpen');
wait_for_iterations($node, 'deep', 1);
wait_until('polls are traced', 10, sub { grep { !exists $_->{parentSpanId} } named('research.poll', $collector->spans) });
my ($poll) = grep { !exists $_->{parentSpanId} } named('research.poll', $collector->spans);
is($poll->{kind}, 3, 'a poll is of kind client');
is_deeply($poll->{attributes}, { 'mission.id' => 'deep', 'user.id' => USER_ID, 'http.status_code' => 200 },
    'and says for whom it is');
settings($node, 'mana_ai.deep_research_enabled' => undef, 'mana_ai.tick_interval' => undef);
$research->stop;
forget();

# Off again.
settings($node, 'mana_ai.otlp_endpoint' => '');
$model->reset;
plan_with_worker('last', 2);
sleep 2.5;
is($collector->count, 0, 'without an endpoint nothing is sent any more');
is(scalar(grep { exists headers_of($_)->{traceparent} } $model->requests), 0, 'and calls have no traceparent');

# ---------------------------------------------------------------- what holds for all of it

my (undef, $unwritten_out, $unwritten_err) = $unwritten->finish(40);
like($unwritten_out, qr/^failed\|database/, 'a plan that the database refuses') or diag($unwritten_err);
my ($refused, @refused) = by_mission('unwritten', $other_collector->spans);
is_deeply($refused->{status}, { code => 2, message => 'database' }, 'is an error');
my ($write) = named('db.write_back', @refused);
is_deeply($write->{status}, { code => 2, message => 'internal' }, 'of the write-back');
cmp_ok($write->{endTimeUnixNano} - $write->{startTimeUnixNano}, '>', 15e9, 'whose span holds all tries');
push @seen, JSON::PP->new->encode([ $other_collector->requests ]);
push @problems, $other_collector->problems;

is_deeply([ @problems[ 0 .. ($#problems > 9 ? 9 : $#problems) ] ], [], 'all requests are as OTLP/HTTP JSON must be');
unlike(join('', @seen), qr/Streng-Geheim|enc:1:|sk-traces/, 'no private text was sent');
unlike(log_since($node), qr/Streng-Geheim-Sammler/, "the collector's words are not logged");
unlike(log_since($node), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');

settings($node, 'mana_ai.otlp_endpoint' => $collector->url);
$collector->control({ hang => JSON::PP::true });
plan_with_worker('end', 1);
wait_until('the collector is asked', 5, sub { $collector->in_flight == 1 });
$dropped = dropped();
my $worker = worker_pid($node);
value($node, "SELECT pg_terminate_backend($worker)");
wait_until('the spans of a worker that ends count as dropped', 5, sub { dropped() - $dropped == 4 });
wait_until('another worker begins', 15, sub { (worker_pid($node) || $worker) ne $worker });
wait_for_worker($node);
plan_with_worker('stop', 1);
wait_until('the collector is asked again', 5, sub { $collector->in_flight == 1 });
is_faster_than(3, 'the server stops with a hanging collector', sub { $node->stop });
done_testing();
