# The HTTP endpoint with a client that guesses the key, a browser that logs out, and requests that two readers
# could read differently.
use strict;
use warnings;

use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use ManaAi;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $key_file = "$PostgreSQL::Test::Utils::tmp_check/service_key";
append_to_file($key_file, "the-right-key\n");
chmod 0600, $key_file;
my $node = new_cluster('refusals', preload => 1, conf => <<"END");
mana_ai.http_listen = '127.0.0.1:$port'
mana_ai.service_key_file = '$key_file'
mana_ai.tick_enabled = off
END

# All that the server answers to these bytes, until it closes the connection.
sub answer_to
{
    my ($bytes, $from) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, LocalAddr => $from // '127.0.0.1', Timeout => 30)
      or return '';
    syswrite $socket, $bytes;
    my $answer = '';
    while (sysread $socket, my $more, 65536) { $answer .= $more }
    return $answer;
}

sub status_in { return $_[0] =~ m{^HTTP/1\.1 (\d+) } ? $1 : 'no answer' }

sub request
{
    my ($method, $path, %options) = @_;
    my $body = $options{body} // '';
    my $headers = join '', map { "$_\r\n" } @{ $options{headers} // [] };
    $headers .= 'Content-Length: ' . length($body) . "\r\n" if $method eq 'POST';
    return answer_to("$method $path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n$headers\r\n$body", $options{from});
}

sub page_with { my ($key, %options) = @_; return status_in(request('GET', '/', headers => [ "X-Service-Key: $key", @{ $options{headers} // [] } ], from => $options{from})) }

wait_until('the endpoint answers', 30, sub { status_in(request('GET', '/health')) eq '200' });

# ---------------------------------------------------------------- logging out

sub log_in
{
    my ($ticket) = request('POST', '/login', body => 'key=the-right-key') =~ /^Set-Cookie: (mana_ai_ticket=[\w-]+);/m;
    return $ticket // '';
}

sub page_of { my ($ticket) = @_; return status_in(request('GET', '/', headers => ["Cookie: $ticket"])) }

my ($mine, $other) = (log_in(), log_in());
isnt($mine, $other, 'each browser gets a ticket of its own');
is(page_of($_), 200, 'which opens the page') for $mine, $other;
is(status_in(request('POST', '/logout', headers => ["Cookie: $mine"])), 303, 'one logs out');
is(page_of($mine), 401, 'its ticket is void then, also in the hands of somebody who has copied it');
is(page_of($other), 200, 'the other one is not');
is(status_in(request('POST', '/logout', headers => ['Cookie: mana_ai_ticket=made-up'])), 303, 'logging out with a ticket that never was');
is(page_of($other), 200, 'changes nothing');

# ---------------------------------------------------------------- requests with two meanings

my %odd = (
    'a zero byte in the path'     => "GET /\0x HTTP/1.1\r\nHost: x\r\nX-Service-Key: the-right-key\r\n\r\n",
    'a zero byte after the key'   => "GET / HTTP/1.1\r\nHost: x\r\nX-Service-Key: the-right-key\0junk\r\n\r\n",
    'two hosts'                   => "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\nX-Service-Key: the-right-key\r\n\r\n",
    'a request line without CR'   => "GET / HTTP/1.1\nHost: x\r\nX-Service-Key: the-right-key\r\n\r\n",
    'a header without CR'         => "GET / HTTP/1.1\r\nHost: x\nX-Service-Key: the-right-key\r\n\r\n",
    'an empty line without CR'    => "GET / HTTP/1.1\r\nHost: x\r\nX-Service-Key: the-right-key\r\n\n",
    'no CR at all'                => "GET / HTTP/1.1\nHost: x\nX-Service-Key: the-right-key\n\n");
for my $what (sort keys %odd)
{
    my $answer = answer_to($odd{$what} . "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    # libmicrohttpd 1.0 closes the connection at a zero byte in the path.
    my $refusal = $what eq 'a zero byte in the path' ? qr/^(?:400|no answer)$/ : qr/^400$/;
    like(status_in($answer), $refusal, "$what is refused");
    unlike($answer, qr{HTTP/1\.1 200}, 'and so is what follows it');
}
is(page_with('the-right-key'), 200, 'a plain request is served');

# ---------------------------------------------------------------- guessing

my %seen;
$seen{ page_with("guess-$_") }++ for 1 .. 200;
cmp_ok($seen{401} // 0, '>=', 20, 'some wrong keys are judged');
cmp_ok($seen{429} // 0, '>=', 100, 'most of many are not');
is_deeply([ grep { !/^(?:401|429)$/ } keys %seen ], [], 'and nothing else is answered');
# Guesses until one is not checked, then at once the right key: the next try is checked after a second.
my $refused = '';
for (1 .. 500)
{
    next if page_with('another-guess') ne '429';
    $refused = page_with('the-right-key');
    last if $refused eq '429';
}
is($refused, 429, 'whoever guesses is not told when it was right');
like(request('POST', '/login', body => 'key=guess', headers => ['X-Service-Key: x']), qr{^Location: /\?login=\w+\r$}m, 'logging in says it too');
is(page_with('the-right-key', from => '127.0.0.2'), 200, 'another client is let in meanwhile');
is(page_with('the-right-key', headers => ['X-Forwarded-For: 192.0.2.7']), 200, 'and so is one behind a proxy');
is(page_of($other), 200, 'and so is who has logged in, wherever they are');
is(status_in(request('GET', '/health')), 200, 'and what needs no key is served');
wait_until('the right key is taken again from there', 60, sub { page_with('the-right-key') eq '200' });

done_testing();
