# The scripted model server does what the other tests rely on.
use strict;
use warnings;
use Test::More;

use HTTP::Tiny;
use IPC::Run ();
use JSON::PP qw(decode_json encode_json);
use Time::HiRes qw(time);

my ($out, $err) = ('', '');
my $server = IPC::Run::start([ $ENV{MANA_AI_MODEL_SERVER}, '--port', '0' ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(60));
$server->pump until $out =~ /^(\d+)\n/;
my $url = "http://127.0.0.1:$1";
my $http = HTTP::Tiny->new(timeout => 10);

sub post {
    my ($path, $body) = @_;
    return $http->post("$url$path", { headers => { Authorization => 'Bearer key' }, content => encode_json($body) });
}
sub ask {
    my ($text, @more) = @_;
    return post('/v1/chat/completions', { messages => [ { role => 'user', content => $text } ], @more });
}
sub message { return decode_json($_[0]{content})->{choices}[0]{message} }

my @tools = map {
    { type => 'function', function => { name => $_->[0], parameters => { type => 'object', properties => $_->[1], required => [ grep { $_ ne 'none' } sort keys %{ $_->[1] } ] } } }
} ([ undo_drink => { none => { type => 'string' } } ], [ create_task => { title => { type => 'string' }, priority => { type => 'string', enum => [ 'low', 'high' ] } } ],
    [ log_mood => { level => { type => 'number' } } ], [ create_note => { content => { type => 'string' } } ]);

my $first = message(ask('Plane', tools => \@tools));
is_deeply([ map { $_->{function}{name} } @{ $first->{tool_calls} } ], [ 'create_task', 'log_mood' ], 'the first turn calls two of the offered tools');
is_deeply(decode_json($first->{tool_calls}[0]{function}{arguments}), { title => 'Beispieltext', priority => 'low' }, 'with arguments that fit their schema');
my $second = message(post('/v1/chat/completions',
    { tools => \@tools, messages => [ { role => 'assistant', content => undef, tool_calls => [ { id => 'c1' } ] }, { role => 'tool', tool_call_id => 'c1', content => '{}' } ] }));
ok(!$second->{tool_calls} && length $second->{content}, 'the next turn is a summary');

my @received = @{ decode_json($http->get("$url/control/requests")->{content}) };
is($received[0]{headers}{authorization} // $received[0]{headers}{Authorization}, 'Bearer key', 'requests are kept with their headers');
is($received[0]{body}{messages}[0]{content}, 'Plane', 'and their bodies');

is(ask('[[szenario:429-seconds]] a')->{headers}{'retry-after'}, '1', 'a scenario is chosen by the prompt');
is(ask('[[szenario:429-seconds]] a')->{status}, 200, 'and goes on for the same mission');
is(ask('[[szenario:429-seconds]] b')->{status}, 429, 'while another mission has its own place');
like(ask('[[szenario:429-date]]')->{headers}{'retry-after'}, qr/^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/, 'Retry-After can be a date');
is(ask('[[szenario:reset]]')->{status}, 599, 'a connection can be reset');
is(ask('[[szenario:truncated]]')->{status}, 599, 'an answer can be cut short');
cmp_ok(length ask('[[szenario:oversized]]')->{content}, '>', 8 * 1024 * 1024, 'an answer can be too large');
is(ask('[[szenario:misspelt]]')->{status}, 500, 'an unknown scenario is not overlooked');

is(post('/control', { steps => [ { status => 503 }, { slow_ms => 300, content => 'spät' } ] })->{status}, 200, 'a script is accepted');
is(ask('x')->{status}, 503, 'its first step comes first');
my $start = time;
is(message(ask('x'))->{content}, 'spät', 'then the second');
cmp_ok(time - $start, '>=', 0.3, 'which is slow');
is(post('/control', { steps => [ { staus => 503 } ] })->{status}, 400, 'a misspelt step is refused');

# Messages and tools that real providers refuse.
open my $rules, '<', "$ENV{MANA_AI_TEST_DATA}/message_rules.jsonl" or die "message_rules.jsonl: $!";
my ($taken, $refused) = (0, 0);
for my $case (map { decode_json($_) } <$rules>) {
    my $reply = post('/v1/chat/completions', { messages => $case->{messages}, $case->{tools} ? (tools => $case->{tools}) : () });
    if (my $words = $case->{refusal}) {
        $refused++;
        is($reply->{status}, $case->{status}, "refused: $case->{case}");
        like($reply->{content}, qr/\Q$words\E/, '... with words that say why');
    } else {
        $taken++;
        is($reply->{status}, 200, "taken: $case->{case}");
    }
}
cmp_ok($_, '>', 1, 'cases were read') for $taken, $refused;

my $stats = decode_json($http->get("$url/control/stats")->{content});
is($stats->{requests}, scalar @{ $stats->{arrivals_us} }, 'all requests are counted');
is($stats->{in_flight}, 0, 'none is in flight any more');
$http->post("$url/control/reset");
is(decode_json($http->get("$url/control/stats")->{content})->{requests}, 0, 'a reset forgets them');

$server->signal('TERM');
$server->finish;
is($server->result(0), 0, 'it ends by itself');
done_testing();
