# The HTTP endpoint with its real clients: the workbench in a browser, the operator's monitoring, and
# the operator.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";

use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use ManaAi;
use TokenIssuer;

my $port   = PostgreSQL::Test::Cluster::get_free_port();
my $model  = start_model();
my $issuer = TokenIssuer->new("$PostgreSQL::Test::Utils::tmp_check/issuer");
$issuer->new_key('ed', 'ed25519');
$issuer->serve_keys(['ed']);
my $node = new_cluster('endpoint_clients', preload => 1, model => $model, conf => <<"END");
mana_ai.http_listen = '127.0.0.1:$port'
mana_ai.auth_url = '@{[ $issuer->url ]}'
mana_ai.service_key_file = '@{[ key_file('the-key') ]}'
mana_ai.tick_enabled = off
END
wait_for_worker($node);

sub ask
{
    my ($method, $path, %headers) = @_;
    my $client = HTTP::Tiny->new(timeout => 10, keep_alive => 0, proxy => undef, http_proxy => undef);
    return $client->request($method, "http://127.0.0.1:$port$path", { headers => \%headers });
}

sub json_of { return JSON::PP->new->utf8->decode($_[0]->{content}) }

# What a browser sends first when a page of that origin fetches the audit with a token.
sub preflight
{
    my ($origin, %more) = @_;
    return ask('OPTIONS', '/api/v1/me/ai-audit?missionId=m1&limit=100',
        Origin => $origin, 'Access-Control-Request-Method' => 'GET', 'Access-Control-Request-Headers' => 'authorization', %more);
}

sub may_read { return $_[0]->{headers}{'access-control-allow-origin'} // 'nobody' }

# ---------------------------------------------------------------- /health

wait_until('/health is good', 10, sub { ask('GET', '/health')->{status} == 200 });
is_deeply(json_of(ask('GET', '/health'))->{tick}, { enabled => JSON::PP::false, running => JSON::PP::false }, 'paused: not running');
settings($node, 'mana_ai.tick_enabled' => 'on');
wait_until('on: running, though no tick is under way', 10,
    sub { my $tick = json_of(ask('GET', '/health'))->{tick}; return $tick->{enabled} && $tick->{running} });

# ---------------------------------------------------------------- the audit, from a page

my $token = $issuer->token(claims => { sub => USER_ID });
value($node, "INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status, reason)"
      . " VALUES ('@{[USER_ID]}', 'm1', 'i1', 'notes', 'n1', 'ok', NULL)");
is(may_read(preflight('https://mana.how')), 'nobody', 'without origins in the configuration no page may ask');
is(preflight('https://mana.how')->{status}, 403, 'and is told so');

for my $case ([ '*', 'a wildcard' ], [ 'https://*.mana.how', 'a wildcard in it' ], [ 'https://mana.how/', 'a path' ], [ 'mana.how', 'no scheme' ],
    [ 'https://Mana.how', 'upper case, which browsers never send' ], [ 'https://mana.how, null', 'one of them bad' ])
{
    my ($value, $what) = @$case;
    fails_like($node, "LOAD 'mana_ai'; ALTER SYSTEM SET mana_ai.http_cors_origins = '$value'", qr/invalid value for parameter "mana_ai\.http_cors_origins"/, "refused: $what");
}
settings($node, 'mana_ai.http_cors_origins' => 'https://mana.how, http://localhost:5173');
wait_until('an origin of the configuration may ask', 10, sub { may_read(preflight('https://mana.how')) eq 'https://mana.how' });
my $answer = preflight('http://localhost:5173');
is($answer->{status}, 204, 'a preflight is answered');
is(may_read($answer), 'http://localhost:5173', 'with the origin that asked, not with all of them');
is($answer->{headers}{'access-control-allow-methods'}, 'GET', 'the method');
is(lc $answer->{headers}{'access-control-allow-headers'}, 'authorization', 'the header that carries the token');
ok(!exists $answer->{headers}{'access-control-allow-credentials'}, 'no cookies');
is($answer->{headers}{vary}, 'Origin', 'and caches keep origins apart');
for my $stranger ('https://mana.how.evil.example', 'http://mana.how', 'https://MANA.HOW', 'https://mana.how:443', 'https://mana.how/', 'null', '*',
    'https://mana.how, http://localhost:5173')
{
    $answer = preflight($stranger);
    is("$answer->{status} " . may_read($answer), '403 nobody', "not for the origin $stranger");
}
is(preflight('https://mana.how', 'Access-Control-Request-Method' => 'DELETE')->{status}, 403, 'nor another method');

$answer = ask('GET', '/api/v1/me/ai-audit?missionId=m1&limit=100', Origin => 'https://mana.how', Authorization => "Bearer $token");
is("$answer->{status} " . may_read($answer), '200 https://mana.how', 'the page reads the audit');
my ($row) = @{ json_of($answer)->{rows} };
like($answer->{content}, qr/"id": ?"\d+"/, 'ids are strings, as the workbench declares them');
is_deeply([ sort keys %$row ], [qw(id iterationId missionId reason recordId status tableName ts)], 'the members that it reads');
is_deeply([ @$row{qw(missionId iterationId tableName recordId status reason)} ], [ 'm1', 'i1', 'notes', 'n1', 'ok', undef ], 'and their values');
$answer = ask('GET', '/api/v1/me/ai-audit', Origin => 'https://mana.how', Authorization => 'Bearer nonsense');
is("$answer->{status} " . may_read($answer), '401 https://mana.how', 'and sees why it may not');
$answer = ask('GET', '/api/v1/me/ai-audit', Origin => 'https://evil.example', Authorization => "Bearer $token");
is("$answer->{status} " . may_read($answer), '200 nobody', 'another page\'s browser keeps the answer to itself');
is(may_read(ask('GET', $_, Origin => 'https://mana.how', 'X-Service-Key' => 'the-key')), 'nobody', "$_ is for no page")
  for '/health', '/metrics', '/api/v1/status', '/internal/missions/' . USER_ID;

# ---------------------------------------------------------------- one user's missions

push_mission($node, 'm-plain', title => 'Steuer', objective => 'Geheimes Ziel', state => 'paused');
push_mission($node, 'm-sealed', title => 'enc:1:AAAA.BBBB', nextRunAt => iso(86400));
push_mission($node, 'm-other', user => 'user/2 ä');
is(ask('GET', '/internal/missions/' . USER_ID)->{status}, 401, 'the missions of a user need the key');
is(ask('GET', '/internal/missions/' . USER_ID, 'X-Service-Key' => 'wrong')->{status}, 401, 'the right one');
is(ask('POST', '/internal/missions/' . USER_ID, 'X-Service-Key' => 'the-key')->{status}, 405, 'they are only read');
$answer = ask('GET', '/internal/missions/' . USER_ID, 'X-Service-Key' => 'the-key');
is($answer->{status}, 200, 'with it they are shown');
my $found = json_of($answer);
is_deeply([ map { $_->{id} } @{ $found->{missions} } ], [qw(m-plain m-sealed)], 'those of the user');
ok(!$found->{truncated}, 'all of them');
my ($plain, $sealed) = @{ $found->{missions} };
is_deeply([ @$plain{qw(title state running why problems)} ], [ 'Steuer', 'paused', JSON::PP::false, 'mission is not active but paused', [] ], 'what it is and why it does not run');
is($sealed->{title}, undef, 'an encrypted title stays so');
like($sealed->{why}, qr/^not due until/, 'when it runs');
unlike($answer->{content}, qr/Geheim|Ziel von|enc:1/, 'no further texts of the user');
for my $decision (qw(skipped-archived ran))
{
    value($node, "UPDATE mana_ai.mission_schedule SET decision = '$decision', held_since = now() WHERE mission_id = 'm-sealed'");
    ($sealed) = grep { $_->{id} eq 'm-sealed' } @{ json_of(ask('GET', '/internal/missions/' . USER_ID, 'X-Service-Key' => 'the-key'))->{missions} };
    is(defined $sealed->{heldSince}, $decision ne 'ran', "$decision: since when it is held back, if it is");
}
is_deeply([ map { $_->{id} } @{ json_of(ask('GET', '/internal/missions/user%2F2%20%C3%A4', 'X-Service-Key' => 'the-key'))->{missions} } ],
    ['m-other'], 'a user id with all kinds of characters');
is_deeply(json_of(ask('GET', '/internal/missions/nobody', 'X-Service-Key' => 'the-key'))->{missions}, [], 'nobody has none');
is(ask('GET', '/internal/missions/%ff', 'X-Service-Key' => 'the-key')->{status}, 400, 'what is no text is no user');
is(ask('GET', '/internal/missions/a%00b', 'X-Service-Key' => 'the-key')->{status}, 400, 'nor what has a NUL');
is(ask('GET', "/internal/missions$_", 'X-Service-Key' => 'the-key')->{status}, 404, "there is nothing at /internal/missions$_") for '', '/', '/a/b', '/a/';

# ---------------------------------------------------------------- metrics

sub metric
{
    my ($series) = @_;
    my ($value) = ask('GET', '/metrics')->{content} =~ /^\Q$series\E (\S+)$/m;
    return $value // 0;
}

sub parse_failures { return metric('mana_ai_parse_failures_total{service="mana-ai"}') }

my $before = parse_failures();
push_mission($node, 'refused', objective => '[[szenario:422]]');
wait_for($node, 'the mission fails', 20, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'refused' AND lease_owner IS NULL", 1);
is(parse_failures() - $before, 1, 'a mission that the service does not plan counts as a failed plan, as alerts expect');
push_mission($node, 'fine');
wait_for_iterations($node, 'fine', 1);
is(parse_failures() - $before, 1, 'one that succeeds does not');

my $labels = 'service="mana-ai",method="GET",path="/api/v1/me/ai-audit",status="401"';
is(metric("mana_ai_http_request_duration_seconds_count{$labels}"), metric("mana_ai_http_requests_total{$labels}"), 'durations are labelled as requests are');
is(metric("mana_ai_http_request_duration_seconds_bucket{$labels,le=\"+Inf\"}"), 1, 'with their buckets');
ok(metric('mana_ai_http_requests_total{service="mana-ai",method="GET",path="/internal/missions/:userId",status="200"}') >= 3, 'a route with a parameter is one path');
unlike(ask('GET', '/metrics')->{content}, qr/user%2F2/, 'and users are in no label');
my $text = ask('GET', '/metrics')->{content};
my %sums;
$sums{$1}{$2} = $3 while $text =~ /^mana_ai_http_(requests_total|request_duration_seconds_count)\{(service="mana-ai",method="[A-Z]+",path="[^"]+",status="\d+")\} (\d+)$/mg;
is_deeply($sums{request_duration_seconds_count}, $sums{requests_total}, 'for each method, path and status');

settings($node, 'mana_ai.http_cors_origins' => undef);
wait_until('origins that are taken away may not ask any more', 10, sub { may_read(preflight('https://mana.how')) eq 'nobody' });
done_testing();
