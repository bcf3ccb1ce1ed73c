# The brake on the page: whoever is logged in, or has the service key, stops planning and resumes it.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use HTTP::Tiny;
use JSON::PP;
use ManaAi;
use PostgreSQL::Test::Cluster;
use Test::More;

my $port  = PostgreSQL::Test::Cluster::get_free_port();
my $model = start_model(latency_ms => 60_000);
my $node  = new_cluster('page_brake', preload => 1, model => $model, conf => <<"END");
mana_ai.http_listen = '127.0.0.1:$port'
mana_ai.service_key_file = '@{[ key_file('the-key') ]}'
mana_ai.max_unreviewed = 0
END
wait_for_worker($node);

sub post
{
    my ($path, $fields, %headers) = @_;
    my $client = HTTP::Tiny->new(timeout => 10, keep_alive => 0, max_redirect => 0, proxy => undef, http_proxy => undef);
    return $client->request('POST', "http://127.0.0.1:$port$path", {
        headers => { 'Content-Type' => 'application/x-www-form-urlencoded', %headers }, content => $client->www_form_urlencode($fields) });
}
sub status_of { my ($answer) = @_; return $answer->{status} . ' ' . (JSON::PP->new->utf8->decode($answer->{content})->{error} // 'ok') }
sub in_force { return value($node, q{SELECT coalesce(string_agg(format('%s by %s: %s', scope, stopped_by, reason), ', ' ORDER BY scope), 'nothing') FROM mana_ai.stops WHERE resumed_at IS NULL}) }

wait_until('the endpoint answers', 20, sub { my $answer = HTTP::Tiny->new(timeout => 5)->get("http://127.0.0.1:$port/health"); return $answer->{status} == 200 });
my ($cookie) = (post('/login', { key => 'the-key' })->{headers}{'set-cookie'} // '') =~ /^(mana_ai_ticket=[\w.-]+);/;
ok($cookie, 'a browser logs in');
my %page = (Cookie => $cookie, 'X-Requested-With' => 'mana_ai page');

push_mission($node, 'm1', cadence => { kind => 'manual' });
$model->wait_in_flight(1, 20);
is(status_of(post('/api/v1/stop', { scope => 'all', reason => 'x' })), '401 unauthorized', 'nobody else may stop');
is(status_of(post('/api/v1/stop', { scope => 'all', reason => 'x' }, 'X-Service-Key' => 'wrong')), '401 unauthorized', 'nor with a wrong key');
is(status_of(post('/api/v1/stop', { scope => 'all', reason => 'x' }, Cookie => $cookie)), '403 only the page may ask for this', 'nor a form of another page in that browser');
is(in_force(), 'nothing', 'nothing was stopped');
is(status_of(post('/api/v1/stop', { scope => 'all', reason => 'Kosten & mehr: 100 %' }, %page)), '200 ok', 'the page stops all');
wait_until('calls in flight end', 10, sub { return $model->in_flight == 0 });
is(in_force(), 'all by page: Kosten & mehr: 100 %', 'who did it and why is on record');
like(value($node, 'SELECT worker_problem FROM mana_ai.status()'), qr/^all planning was stopped by page since .*: Kosten & mehr: 100 %$/, 'status() tells');
my $data = JSON::PP->new->utf8->decode(HTTP::Tiny->new->get("http://127.0.0.1:$port/api/v1/status", { headers => { Cookie => $cookie } })->{content});
is_deeply([ map { "$_->{scope} $_->{by}" } @{ $data->{stops} } ], [ 'all page' ], 'so does the page');
is(status_of(post('/api/v1/stop', { scope => 'user:ä', reason => 'key' }, 'X-Service-Key' => 'the-key')), '200 ok', 'the key may, too');
is(status_of(post('/api/v1/stop', { scope => 'everything', reason => 'x' }, %page)), '400 scope "everything" is not valid', 'a wrong scope is named');
is(status_of(post('/api/v1/stop', { scope => 'all', reason => ' ' }, %page)), '400 a reason is required', 'and a missing reason');
is(status_of(post('/api/v1/stop', { scope => "user:\xff\xfe", reason => 'x' }, %page)) =~ /^(200|400)/ ? 1 : 0, 1, 'strange letters do no harm');
is(status_of(post('/api/v1/stop', { scope => "user:a\0b", reason => 'x' }, %page)), '400 invalid scope or reason', 'zero bytes are refused');
$model->control({ latency_ms => 20 });
is(status_of(post('/api/v1/resume', { scope => 'all' }, %page)), '200 ok', 'the page resumes');
is(value($node, q{SELECT resumed_by FROM mana_ai.stops WHERE scope = 'all'}), 'page', 'which is on record');
is(status_of(post('/api/v1/resume', { scope => 'all' }, %page)), '400 "all" is not stopped', 'once');
wait_for_iterations($node, 'm1', 1);
is(HTTP::Tiny->new->get("http://127.0.0.1:$port/api/v1/stop", { headers => \%page })->{status}, 405, 'only as a POST');

unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$model->stop;
done_testing();
