# The HTTP endpoint with polite, slow and hostile clients, and all kinds of tokens.
use strict;
use warnings;
use utf8;

use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use ManaAi;
use TokenIssuer;

my $port = PostgreSQL::Test::Cluster::get_free_port();

# ---------------------------------------------------------------- a client

sub connection
{
    return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 5);
}

# Reads one answer; undef when none comes within $seconds. HEAD answers have no body.
sub read_answer
{
    my ($socket, $seconds, $no_body) = @_;
    my ($text, $end) = ('', time + ($seconds // 10));
    my $select = IO::Select->new($socket);
    while (1)
    {
        if ($text =~ /\r\n\r\n/)
        {
            my ($head, $body) = split /\r\n\r\n/, $text, 2;
            my ($length) = $head =~ /^Content-Length: (\d+)/mi;
            if ($no_body || length $body >= ($length // 0))
            {
                my ($status) = $head =~ m{^HTTP/1\.[01] (\d+)};
                return { status => $status, head => "$head\r\n", body => $body };
            }
        }
        my $left = $end - time;
        return undef if $left <= 0 || !$select->can_read($left);
        sysread $socket, my $more, 65536 or return undef;
        $text .= $more;
    }
}

sub ask
{
    my ($method, $path, %options) = @_;
    my $socket = connection() or return { status => 0, head => '', body => '' };
    my $body = $options{body} // '';
    my $headers = join '', map { "$_\r\n" } @{ $options{headers} // [] };
    $headers .= 'Content-Length: ' . length($body) . "\r\n" if $method eq 'POST';
    print $socket "$method $path HTTP/1.1\r\nHost: test\r\nConnection: close\r\n$headers\r\n$body";
    return read_answer($socket, $options{seconds}, $method eq 'HEAD') // { status => 0, head => '', body => '' };
}

sub status_of { return ask(@_)->{status} }
sub json_of { return JSON::PP->new->utf8->decode($_[0]->{body}) }
sub key { return (headers => [ 'X-Service-Key: ' . ($_[0] // 'the-key') ]) }

# ---------------------------------------------------------------- a server

my $model = start_model();
my $issuer = TokenIssuer->new("$PostgreSQL::Test::Utils::tmp_check/issuer");
$issuer->new_key('ed', 'ed25519');
my $node = new_cluster('http', preload => 1, model => $model, database => undef, conf => <<"END");
mana_ai.http_listen = '127.0.0.1:$port'
mana_ai.auth_url = '@{[ $issuer->url ]}'
mana_ai.jwt_issuers = 'https://elsewhere.example'
END

# ---------------------------------------------------------------- before there is a database

wait_until('the endpoint listens although there is no database', 10, sub { status_of('GET', '/health') });
my $health = ask('GET', '/health');
is($health->{status}, 503, '/health says that the database is not usable');
is(json_of($health)->{ok}, JSON::PP::false, 'and so does its body');
is(status_of('GET', '/metrics'), 503, '/metrics has nothing to tell');
is(status_of('POST', '/internal/tick'), 503, 'a tick without a configured key is refused');
is(status_of('POST', '/internal/tick', headers => ['X-Service-Key:']), 503, 'also with an empty one');
is(status_of('GET', '/api/v1/status'), 503, 'the page without a configured key as well');

$node->append_conf('postgresql.conf', "mana_ai.service_key_file = '" . key_file('the-key') . "'\n");
$node->reload;
wait_until('a key that is set later is asked for', 5, sub { status_of('POST', '/internal/tick') == 401 });
is(status_of('POST', '/internal/tick', key()), 503, 'there is no database to tick in');

create_sync_database($node, 'mana_sync');
wait_until('/health is good once the worker runs', 10, sub { status_of('GET', '/health') == 200 });
$health = json_of(ask('GET', '/health'));
is_deeply([ sort keys %$health ], [qw(ok service tick version)], '/health has the members of the contract');
is($health->{service}, 'mana-ai', 'its service');
is($health->{version}, value($node, 'SELECT library_version FROM mana_ai.status()'), 'its version');
is_deeply($health->{tick}, { enabled => JSON::PP::true, running => JSON::PP::true }, 'its tick: on, and somebody is there to do it');

settings($node, 'mana_ai.tick_enabled' => 'off');
wait_until('/health says when ticks are switched off', 5, sub { !json_of(ask('GET', '/health'))->{tick}{enabled} });
is(status_of('GET', '/health'), 200, 'and is good all the same');

# ---------------------------------------------------------------- methods and paths

is(status_of('HEAD', '/health'), 200, 'HEAD is answered as GET is');
my $wrong = ask('POST', '/health');
is($wrong->{status}, 405, 'another method is refused');
like($wrong->{head}, qr/^Allow: GET, HEAD\r$/m, 'with what is allowed');
like(ask('GET', '/internal/tick')->{head}, qr/^Allow: POST\r$/m, 'a tick is a POST');
is(status_of('GET', $_), 404, "$_ is not found") for '/nothing', '/health/', '/api/v1', '/../etc/passwd', '/internal/tick/x';
like(ask('GET', '/health')->{head}, qr/^X-Content-Type-Options: nosniff\r$/m, 'no answer is to be guessed at');
like(ask('GET', '/nothing')->{head}, qr/^Cache-Control: no-store\r$/m, 'nor stored');

my $kept = connection();
for my $i (1 .. 3)
{
    print $kept "GET /health HTTP/1.1\r\nHost: test\r\n\r\n";
    is((read_answer($kept) // {})->{status}, 200, "request $i on one connection");
}

# ---------------------------------------------------------------- metrics

value($node, "CREATE FUNCTION mana_ai.metrics() RETURNS text LANGUAGE sql AS 'SELECT E''mana_ai_up 1\\n'''")
  if value($node, "SELECT to_regprocedure('mana_ai.metrics()') IS NULL") eq 't';
wait_until('/metrics is served', 5, sub { status_of('GET', '/metrics') == 200 });
my $metrics = ask('GET', '/metrics');
like($metrics->{head}, qr{^Content-Type: text/plain; version=0\.0\.4; charset=utf-8\r$}m, 'as Prometheus text 0.0.4');
like($metrics->{body}, qr/^mana_ai_\w+.* \d/m, 'with metrics of mana_ai');

# ---------------------------------------------------------------- ticks

is(status_of('POST', '/internal/tick'), 401, 'a tick needs the key');
is(status_of('POST', '/internal/tick', key($_)), 401, "not '$_'")
  for 'the-ke', 'the-key2', 'THE-KEY', '', 'x' x 4000;
is(status_of('POST', '/internal/tick', headers => ['Authorization: Bearer the-key']), 401, 'nor the key elsewhere');
is($model->count, 0, 'nobody has planned anything');

push_mission($node, 'by-http');
my $tick = ask('POST', '/internal/tick', key(), seconds => 30);
is($tick->{status}, 200, 'with the key a tick runs');
my $counts = json_of($tick);
is_deeply([ sort keys %$counts ],
    [qw(dueMissionCount errors parseFailures plansProduced plansWrittenBack scannedAt)], 'and answers its counts');
is_deeply([ @$counts{qw(dueMissionCount plansProduced plansWrittenBack parseFailures errors)} ], [ 1, 1, 1, 0, [] ],
    'as run_tick() does');
like($counts->{scannedAt}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'with an instant');
is(scalar @{ iterations_of($node, 'by-http') }, 1, 'the plan is there');

$model->control({ latency_ms => 3000 });
push_mission($node, 'slow');
my $slow = connection();
print $slow "POST /internal/tick HTTP/1.1\r\nHost: test\r\nX-Service-Key: the-key\r\nContent-Length: 0\r\n\r\n";
$model->wait_in_flight(1);
is(status_of('GET', '/health'), 200, 'while a tick waits for the model, others are served');
is_deeply(json_of(ask('POST', '/internal/tick', key()))->{errors}, ['overlap-skipped'], 'and a second tick has nothing to do');
ok(!IO::Select->new($slow)->can_read(0), 'the first one is still under way');
my $late = read_answer($slow, 20);
is($late->{status}, 200, 'then it is answered');
is(json_of($late)->{plansWrittenBack}, 1, 'with its counts');
$model->reset;

# ---------------------------------------------------------------- tokens

if (value($node, "SELECT to_regclass('mana_ai.decrypt_audit') IS NULL") eq 't')
{
    value($node, <<'END');
CREATE TABLE mana_ai.decrypt_audit (
  id bigint GENERATED ALWAYS AS IDENTITY, user_id text, mission_id text, iteration_id text, table_name text,
  record_id text, status text, reason text, ts timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION mana_ai.read_decrypt_audit(mission_id text DEFAULT NULL, max_rows int DEFAULT 200)
RETURNS SETOF mana_ai.decrypt_audit LANGUAGE sql STABLE AS $$
  SELECT * FROM mana_ai.decrypt_audit a
   WHERE a.user_id = current_setting('app.current_user_id', true) AND ($1 IS NULL OR a.mission_id = $1)
   ORDER BY a.id DESC LIMIT $2 $$;
END
}
value($node, <<'END');
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status, reason)
SELECT 'user-1', 'm' || i % 2, 'it', 'notes', 'r' || i, 'ok', NULL FROM generate_series(1, 1200) i
UNION ALL SELECT 'user-2', 'm1', 'it', 'notes', 'of another', 'failed', 'wrap-rejected'
END

sub audit
{
    my ($token, $arguments) = @_;
    return ask('GET', '/api/v1/me/ai-audit' . ($arguments // ''),
        headers => defined $token ? ["Authorization: Bearer $token"] : []);
}
sub refused
{
    my ($what, $token) = @_;
    my $answer = audit($token);
    is($answer->{status}, 401, "refused: $what");
    is($answer->{body}, '{"error":"unauthorized"}', 'without saying why');
    return;
}

my $good = $issuer->token;
refused('a good token while the keys are unavailable', $good);
is($issuer->asked, 1, 'they were asked for');
$issuer->serve_keys(['ed']);
refused('a key id that is not known, again within ten minutes', $good);
is($issuer->asked, 1, 'the keys are not asked for again so soon');
# Keys are remembered by the process.
sub forget_keys
{
    my $pid = value($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'mana_ai http'", 'postgres');
    value($node, "SELECT pg_terminate_backend($pid)", 'postgres');
    return wait_until('the endpoint is started again', 10, sub {
        value($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'mana_ai http'", 'postgres') !~ /^($pid)?$/
          && status_of('GET', '/health') == 200;
    });
}
$issuer->new_key('rsa', 'rsa');
$issuer->new_key('ec', 'ec');
$issuer->new_key('stranger', 'ed25519');
my $secret = 'a secret that both know';
$issuer->serve_keys(['ed', 'rsa', 'ec',
    { kty => 'oct', kid => 'oct', alg => 'HS256', k => MIME::Base64::encode_base64url($secret) }]);
forget_keys();

my $answer = audit($good);
is($answer->{status}, 200, 'a good token is accepted');
my $rows = json_of($answer)->{rows};
is(scalar @$rows, 200, 'with as many rows as by default');
is_deeply([ sort keys %{ $rows->[0] } ], [ sort qw(id missionId iterationId tableName recordId status reason ts) ],
    'of the members of the contract');
is($rows->[0]{recordId}, 'r1200', 'newest first');
like($rows->[0]{ts}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'with an instant');
like($answer->{head}, qr/^Cache-Control: no-store\r$/m, 'nobody stores them');
is(scalar(grep { $_->{recordId} eq 'of another' } @{ json_of(audit($good, '?limit=1000'))->{rows} }), 0,
    'no rows of another user');
is(scalar @{ json_of(audit($good, "?limit=$_"))->{rows} }, 1000, "at most 1000 for $_") for 5000, '9' x 30;
my @of_mission = map { $_->{missionId} } @{ json_of(audit($good, '?missionId=m1&limit=10'))->{rows} };
is_deeply(\@of_mission, [ ('m1') x 10 ], 'of one mission');
is_deeply(json_of(audit($good, '?missionId=%27%3B%20DROP'))->{rows}, [], 'an odd mission has none');
is(audit($good, $_)->{status}, 400, "refused: $_") for '?limit=0', '?limit=x', '?limit=-1', '?limit=-' . '9' x 30, '?missionId=%ff', '?missionId=a%00b';
is_deeply(json_of(audit($issuer->token(claims => { sub => 'user-2' })))->{rows}[0]{reason}, 'wrap-rejected',
    'each user sees their own');
is_deeply(json_of(audit($issuer->token(claims => { sub => 'nobody' }))), { rows => [] }, 'also who has none');

is(audit($issuer->token(key => 'rsa', alg => 'RS256'))->{status}, 200, 'RS256 is accepted');
is(audit($issuer->token(key => 'ec', alg => 'ES256'))->{status}, 200, 'ES256 is accepted');
is(audit($issuer->token(claims => { iss => 'https://elsewhere.example' }))->{status}, 200, 'an issuer of jwt_issuers too');
is(audit($issuer->token(claims => { aud => [ 'x', 'mana' ] }))->{status}, 200, 'an audience among others');

refused('no token', undef);
refused('an empty token', '');
refused('garbage', 'a.b.c');
refused('alg none', $issuer->token(alg => 'none', signature => ''));
refused('no signature', $issuer->token(signature => ''));
refused('HMAC with the public key', $issuer->token(key => 'rsa', alg => 'HS256', secret => $issuer->public_pem('rsa')));
refused('HMAC with the public key under the name of RS256',
    $issuer->token(key => 'rsa', alg => 'RS256', secret => $issuer->public_pem('rsa')));
refused('HMAC with a key of the set', $issuer->token(kid => 'oct', alg => 'HS256', secret => $secret));
refused('the key of a stranger', $issuer->token(key => 'stranger', kid => 'ed'));
refused('a key id that nobody knows', $issuer->token(key => 'stranger'));
refused('no key id where there are several keys', $issuer->token(kid => undef));
refused('an algorithm that does not fit the key', $issuer->token(key => 'rsa', alg => 'EdDSA'));
refused('a critical extension', $issuer->token(header => { crit => ['b64'], b64 => JSON::PP::false }));
refused('another audience', $issuer->token(claims => { aud => 'other' }));
refused('no audience', $issuer->token(claims => { aud => undef }));
refused('another issuer', $issuer->token(claims => { iss => 'https://evil.example' }));
refused('expired', $issuer->token(claims => { exp => time - 120 }));
refused('no expiry', $issuer->token(claims => { exp => undef }));
refused('not yet valid', $issuer->token(claims => { nbf => time + 120 }));
refused('no subject', $issuer->token(claims => { sub => undef }));
refused('a subject that is a number', $issuer->token(claims => { sub => 7 }));
refused('a huge token', $issuer->token(claims => { x => 'x' x 14_000 }));
{
    my ($head, undef, $signature) = split /\./, $good;
    refused('another payload under the signature',
        join '.', $head, MIME::Base64::encode_base64url('{"sub":"user-2","aud":"mana","exp":9999999999}'), $signature);
}
is($issuer->asked, 2, 'for all of these the keys were fetched once');

settings($node, 'mana_ai.auth_url' => 'http://127.0.0.1:1');
wait_until('while the keys are unavailable, everybody is refused', 5, sub { audit($good)->{status} == 401 });
my $away = sub { scalar(() = log_since($node, 0) =~ /keys of users' tokens could not be fetched/g) };
is($away->(), 1, 'and the log says so');
sleep 6;
refused('a good token at the next attempt', $good);
refused('garbage meanwhile', 'a.b.c');
is($away->(), 1, 'once');
settings($node, 'mana_ai.auth_url' => undef);

# ---------------------------------------------------------------- the page

my $page = ask('GET', '/');
is($page->{status}, 401, 'the page asks who is not logged in for the key');
like($page->{head}, qr/^Content-Security-Policy: default-src 'none'/m, 'with a policy');
unlike($page->{body}, qr/user-1|by-http/, 'and holds no data');
unlike($page->{body}, qr{(?:src|href)\s*=\s*"(?:https?:)?//}, 'and asks no third party');
is(status_of('GET', '/api/v1/status'), 401, 'nor is there any without the key');
is(status_of('GET', '/api/v1/status', key('wrong')), 401, 'or with another one');
my $status = ask('GET', '/api/v1/status', key());
is($status->{status}, 200, 'with the key there is');
is_deeply([ sort keys %{ json_of($status) } ], [qw(agents costs database due evaluations now problems research running runs services stops worker)], 'all of it');
is(json_of($status)->{runs}[0]{outcome}, 'planned', 'for example how runs ended');

my $login = ask('POST', '/login', body => 'key=wrong');
is($login->{status}, 303, 'a wrong key');
like($login->{head}, qr{^Location: /\?login=failed\r$}m, 'leads back');
unlike($login->{head}, qr/Set-Cookie/, 'without a ticket');
$login = ask('POST', '/login', body => 'x=1&key=the%2Dkey', headers => ['Content-Type: application/x-www-form-urlencoded']);
my ($cookie, $attributes) = $login->{head} =~ /^Set-Cookie: (mana_ai_ticket=[\w.-]+); ([^\r]+)\r$/m;
like($attributes, qr/\bHttpOnly; SameSite=Strict; Max-Age=43200$/, 'the right key gives a ticket');
unlike($cookie, qr/the-key/, 'that is not the key');
is(status_of('GET', '/api/v1/status', headers => ["Cookie: $cookie"]), 200, 'which opens the page');
is(status_of('GET', '/api/v1/status', headers => ["Cookie: ${cookie}x"]), 401, 'but not when it was changed');
is(status_of('POST', '/internal/tick', headers => ["Cookie: $cookie"]), 401, 'and starts no tick');
like(ask('POST', '/login', body => 'key=the-key', headers => ['X-Forwarded-Proto: https'])->{head}, qr/; Secure\r$/m,
    'behind TLS the ticket stays there');
like(ask('POST', '/logout')->{head}, qr/^Set-Cookie: mana_ai_ticket=; .*Max-Age=0\r$/m, 'logging out takes it back');

# User text, ciphertext and nonsense in the data.
push_mission($node, 'odd', title => '<script>alert(1)</script> "ä" 𝄞', nextRunAt => iso(3600));
push_mission($node, 'sealed', title => 'enc:1:AAAAAAAAAAAAAAAA.c2VjcmV0c2VjcmV0c2VjcmV0', nextRunAt => iso(3600));
push_agent($node, 'broke', maxTokensPerDay => 'many');
push_agent($node, 'rich', name => 'enc:1:AAAAAAAAAAAAAAAA.c2VjcmV0c2VjcmV0c2VjcmV0', state => 'paused', maxTokensPerDay => 1e30);
push_mission($node, 'of-sealed-agent', agentId => 'rich');
push_mission($node, 'of-long-agent', agentId => 'long' x 200);
push_mission($node, 'unscheduled', nextRunAt => 'soon', iterations => 7);
$status = ask('GET', '/api/v1/status', key());
my %due = map { $_->{missionId} => $_ } @{ json_of($status)->{due} };
is($due{odd}{title}, '<script>alert(1)</script> "ä" 𝄞', 'titles are as users wrote them');
is($due{sealed}{title}, undef, 'but for those that are encrypted');
unlike($status->{body}, qr/enc:1:/, 'no ciphertext goes out');
is($due{'of-sealed-agent'}{why}, 'agent rich is paused', 'an agent with an encrypted name is called by its id');
is(length $due{'of-long-agent'}{why}, length('agent  does not exist or is not synced yet') + 200, 'long names are cut');
my ($rich) = grep { $_->{agentId} eq 'rich' } @{ json_of($status)->{agents} };
is_deeply([ @$rich{qw(name budget tokens)} ], [ undef, '1000000000000000000', 0 ], 'and so are budgets');
is_deeply([ sort map { "$_->{problem} ($_->{why})" } grep { $_->{missionId} eq 'unscheduled' } @{ json_of($status)->{problems} } ],
    [ sort map { $_->{problem} . ' (not scheduled: nextRunAt is not an instant)' }
          @{ rows($node, "SELECT problem FROM mana_ai.mission_problems WHERE mission_id = 'unscheduled'") } ],
    'problems that stop a mission are shown, with their why');

SKIP:
{
    my ($chromium) = grep { -x } map { "$_/chromium" } split /:/, $ENV{PATH};
    skip 'chromium is not installed', 3 unless $chromium;
    # The page's own script, logged in by the header that a proxy adds: how it renders the data.
    my $profile = "$PostgreSQL::Test::Utils::tmp_check/chromium";
    my $proxy = TokenIssuer::forward_with_header($port, 'X-Service-Key: the-key');
    my ($dom, $errors) = ('', '');
    my $run = IPC::Run::start([ $chromium, qw(--headless --no-sandbox --disable-gpu --disable-dev-shm-usage),
            "--user-data-dir=$profile", '--virtual-time-budget=4000', '--dump-dom', $proxy->{url} ],
        '<', \undef, '>', \$dom, '2>', \$errors, IPC::Run::timeout(90));
    eval { $run->finish };
    kill 'TERM', $proxy->{pid};
    waitpid $proxy->{pid}, 0;
    utf8::decode($dom);
    like($dom, qr/&lt;script&gt;alert\(1\)&lt;\/script&gt; "ä" 𝄞/, 'chromium shows user text as text');
    like($dom, qr/class="encrypted">encrypted</, 'and encrypted titles as that');
    like($dom, qr/id="login"[^>]*hidden/, 'and no login form');
}

# ---------------------------------------------------------------- clients that mean no good

my @slow = map { connection() } 1 .. 200;
print $_ "GET /health HTTP/1.1\r\nHost: te" for @slow;
is(scalar(grep { defined } @slow), 200, '200 clients have begun a request and send no more');
is(status_of('GET', '/health'), 200, '/health is served meanwhile') for 1 .. 5;
is(status_of('GET', '/api/v1/status', key()), 200, 'and what needs the database too');
is(scalar(my @ended = IO::Select->new(@slow)->can_read(0)), 0, 'the slow ones still hang');
print { $slow[7] } "st\r\n\r\n";
is((read_answer($slow[7]) // {})->{status}, 200, 'one that goes on after all is served');
my @many = map { connection() } 1 .. 100;
is(status_of('GET', '/health'), 200, 'with more connections than there may be, /health is served');
close $_ for grep { defined } @slow, @many;

my $large = ask('POST', '/login', body => 'key=' . 'x' x 70_000);
is($large->{status}, 413, 'a body that is too large is refused');
isnt(status_of('GET', '/health', headers => [ 'X-Long: ' . 'x' x 100_000 ]), 200, 'so are headers');
my $two = connection();
print $two "POST /login HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
  . "0\r\n\r\nGET /health HTTP/1.1\r\nHost: test\r\n\r\n";
is((read_answer($two) // {})->{status}, 400, 'a request with two lengths is refused');
is(read_answer($two, 3), undef, 'and what follows is not answered');
my $odd = connection();
print $odd "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n";
read_answer($odd, 3);
is(status_of('GET', '/health'), 200, 'who speaks TLS to it does no harm');

# ---------------------------------------------------------------- databases that go

my $before = log_position($node);
is(status_of('GET', '/api/v1/status', key()), 200, 'a query has just been answered');
# The worker itself does block it: it is ended, and the launcher waits before it starts another one.
value($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'mana_ai worker'", 'postgres');
wait_for($node, 'the worker is gone', 5, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai worker'", 0, 'postgres');
my $asker = fork // die "fork: $!";
if ($asker == 0)
{
    status_of('GET', '/api/v1/status', key()) while 1;
}
my $drop = background($node, 'DROP DATABASE mana_sync', database => 'postgres');
my ($dropped, undef, $drop_error) = $drop->finish(10);
is($dropped, 0, 'DROP DATABASE is not held up by the endpoint, although somebody asks it all the time') || diag($drop_error);
kill 'KILL', $asker;
waitpid $asker, 0;
is(status_of('GET', '/health'), 503, '/health says that it is gone');
is(status_of('GET', '/api/v1/status', key()), 503, 'so does the page');
create_sync_database($node, 'mana_sync');
wait_until('a new one is served without a restart', 40, sub { status_of('GET', '/health') == 200 && status_of('GET', '/api/v1/status', key()) == 200 });

# ---------------------------------------------------------------- the process itself

my $pids = q{SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_activity WHERE backend_type IN ('mana_ai http', 'mana_ai launcher')};
my $before_cancel = value($node, $pids, 'postgres');
value($node, "SELECT pg_cancel_backend(pid) FROM unnest('{$before_cancel}'::int[]) pid", 'postgres');
is(status_of('GET', '/health'), 200, 'after a cancel /health is served');
is(value($node, $pids, 'postgres'), $before_cancel, 'by the same process');

my $lock = background($node, 'BEGIN; LOCK TABLE pg_database; SELECT pg_sleep(3); COMMIT;', database => 'postgres');
sleep 1;
is_faster_than(1, '/health is served although pg_database is locked', sub { is(status_of('GET', '/health'), 200, 'it is good') });
my ($locked, undef, $lock_error) = $lock->finish(10);
is($locked, 0, 'the lock was had') || diag($lock_error);

# A query that takes too long: it is ended, and neither delays others nor outlives the endpoint.
value($node, 'CREATE FUNCTION public.slow() RETURNS text LANGUAGE sql AS $$SELECT pg_sleep(60)::text$$');
value($node, 'ALTER FUNCTION mana_ai.http_status() RENAME TO http_status_of_mana_ai; '
    . 'CREATE FUNCTION mana_ai.http_status() RETURNS jsonb LANGUAGE sql AS $$SELECT to_jsonb(public.slow())$$');
my @slow_status = map { my $s = connection(); print $s "GET /api/v1/status HTTP/1.1\r\nHost: t\r\nX-Service-Key: the-key\r\n\r\n"; $s } 1 .. 20;
is_faster_than(3, '/metrics does not wait for the status', sub { is(status_of('GET', '/metrics'), 200, 'it is there') });
my @late = map { (read_answer($_, 20) // {})->{status} } @slow_status;
is_deeply(\@late, [ (503) x 20 ], 'all who ask for a status that takes too long are told together');
print { $slow_status[0] } "GET /api/v1/status HTTP/1.1\r\nHost: t\r\nX-Service-Key: the-key\r\n\r\n";
wait_for($node, 'another one begins', 5, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 't', 'postgres');
forget_keys();
wait_for($node, 'and ends with the endpoint', 2, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 0, 'postgres');
value($node, 'DROP FUNCTION mana_ai.http_status(); ALTER FUNCTION mana_ai.http_status_of_mana_ai() RENAME TO http_status; '
    . 'DROP FUNCTION public.slow()');

forget_keys();
my @open = map { connection() } 1 .. 50;
print $_ "GET /he" for @open;
is_faster_than(2, 'fast shutdown with open connections', sub { $node->stop('fast') });
$before = log_position($node);
$node->start;
wait_until('after a restart it has its port back', 10, sub { status_of('GET', '/health') == 200 });
unlike(log_since($node, $before), qr/cannot listen/, 'at once');

$node->stop('fast');
my $squatter = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', LocalPort => $port, ReuseAddr => 1);
ok($squatter, 'another program takes the port');
$before = log_position($node);
$node->start;
wait_until('the log says so', 10, sub { log_since($node, $before) =~ /HTTP endpoint: cannot listen on 127\.0\.0\.1:$port.*: Address already in use/ });
sleep 3;
is(scalar(() = log_since($node, $before) =~ /cannot listen/g), 1, 'once');
close $squatter;
wait_until('and listens when the port is free', 10, sub { status_of('GET', '/health') == 200 });

my $log = log_since($node, 0);
unlike($log, qr/the-key|eyJ|a secret that both know/, 'no key and no token is in the log');
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');

$node->stop;
$model->stop;
done_testing();
