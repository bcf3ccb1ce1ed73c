# A model service behind TLS and HTTP/2, as providers run it: nginx in front of the scripted model server.
# Certificates are verified, calls share connections, and a proxy that reloads, dies or shows another certificate
# costs no run.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IO::Socket::INET;
use IPC::Run;
use ManaAi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $nginx = (grep { -x } "$ENV{MANA_AI_BIN}/nginx", map({ "$_/nginx" } split(/:/, $ENV{PATH})), '/usr/sbin/nginx')[0];
plan skip_all => 'nginx is not there (Debian package nginx)' unless $nginx;

# ---------------------------------------------------------------- certificates and the proxy

my $dir = PostgreSQL::Test::Utils::tempdir();

sub openssl
{
    my (@arguments) = @_;
    my $log = '';
    IPC::Run::run([ 'openssl', @arguments ], '<', \undef, '>', \$log, '2>&1') or die "openssl @arguments: $log";
    return;
}

# An authority, and a certificate that it has signed for the name.
sub authority
{
    my ($name) = @_;
    openssl(qw(req -x509 -newkey rsa:2048 -nodes -days 2 -subj), "/CN=$name", '-keyout', "$dir/$name.key", '-out', "$dir/$name.pem");
    return;
}

sub certificate
{
    my ($file, $authority, $names) = @_;
    append_to_file("$dir/$file.names", "subjectAltName=$names\n");
    openssl(qw(req -newkey rsa:2048 -nodes -subj /CN=model -keyout), "$dir/$file.key", '-out', "$dir/$file.request");
    openssl(qw(x509 -req -days 2 -CAcreateserial -in), "$dir/$file.request", '-CA', "$dir/$authority.pem", '-CAkey', "$dir/$authority.key",
        '-extfile', "$dir/$file.names", '-out', "$dir/$file.pem");
    return;
}

authority('ours');
authority('other');
certificate('right',   'ours',  'IP:127.0.0.1');
certificate('foreign', 'other', 'IP:127.0.0.1');
certificate('misnamed', 'ours', 'DNS:elsewhere.example');

my $model = start_model();
my $port  = PostgreSQL::Test::Cluster::get_free_port();
my $running;

# Connections end after 25 requests, so that the client is told to go away (GOAWAY) with calls in flight.
sub write_configuration
{
    my ($certificate) = @_;
    open my $file, '>', "$dir/nginx.conf" or die $!;
    print $file <<"END";
daemon off;
worker_processes 1;
pid $dir/nginx.pid;
error_log $dir/error.log;
events { worker_connections 512; }
http {
    log_format calls '\$server_protocol \$connection \$request_method \$uri \$status';
    access_log $dir/calls.log calls;
    client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
    server {
        listen 127.0.0.1:$port ssl http2;
        ssl_certificate $dir/$certificate.pem;
        ssl_certificate_key $dir/$certificate.key;
        http2_max_concurrent_streams 8;
        keepalive_requests 25;
        client_max_body_size 8m;
        location / { proxy_pass http://127.0.0.1:@{[ $model->port ]}; proxy_http_version 1.1; proxy_next_upstream off; }
    }
}
END
    close $file;
    return;
}

sub accepts
{
    return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 1) ? 1 : 0;
}

sub start_proxy
{
    my ($certificate) = @_;
    write_configuration($certificate);
    $running = IPC::Run::start([ $nginx, '-e', "$dir/error.log", '-p', $dir, '-c', "$dir/nginx.conf" ], '<', \undef, '>', "$dir/nginx.out", '2>', "$dir/nginx.err");
    wait_until('nginx listens', 10, \&accepts);
    return;
}

# Its worker as well: what is in flight is cut off.
sub kill_proxy
{
    my $master  = slurp_file("$dir/nginx.pid") + 0;
    my @workers = split /\s+/, slurp_file("/proc/$master/task/$master/children");
    kill 'KILL', $master, @workers;
    eval { $running->finish };
    wait_until('nginx is gone', 10, sub { return !accepts() });
    unlink "$dir/nginx.pid";
    return;
}

END { kill 'TERM', slurp_file("$dir/nginx.pid") + 0 if defined $dir && -s "$dir/nginx.pid" }

sub calls { return -e "$dir/calls.log" ? map({ [ split / / ] } split /\n/, slurp_file("$dir/calls.log")) : () }

start_proxy('right');
my $node = new_cluster('tls', preload => 1, conf => <<"END");
mana_ai.llm_url = 'https://127.0.0.1:$port'
mana_ai.tick_interval = '1s'
mana_ai.max_concurrency = 40
END
wait_for_worker($node);

# What the last run of a mission ended with.
sub cause
{
    my ($mission) = @_;
    return value($node, "SELECT error_message FROM mana_ai.runs WHERE mission_id = '$mission' AND outcome = 'skipped' ORDER BY started_at DESC LIMIT 1");
}

sub is_unavailable { return value($node, 'SELECT worker_problem FROM mana_ai.status()') =~ /^the model service has been unavailable since/ }

# ---------------------------------------------------------------- who cannot be verified gets nothing

push_mission($node, 'wary');
wait_until('the service of an authority that nobody trusts is unavailable', 30, \&is_unavailable);
like(cause('wary'), qr/certificate/i, 'the run says that it is the certificate');
is($model->count, 0, 'and the model has not been asked');
is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'wary'"), 0, 'it is no failure of the mission');

my $position = log_position($node);
settings($node, 'mana_ai.ca_file' => "$dir/nothing.pem");
wait_until('a file that is not there is told', 30, sub { return log_since($node, $position) =~ /WARNING:.*could not read the file that mana_ai.ca_file names/ });

settings($node, 'mana_ai.ca_file' => "$dir/ours.pem");
wait_for_iterations($node, 'wary', 1, 60);

# ---------------------------------------------------------------- many calls, few connections

$model->control({ latency_ms => 100 });
push_mission($node, "many$_") for 1 .. 60;
wait_for($node, 'all are planned', 120, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'many%' AND outcome = 'planned'", 60);
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'many%' AND outcome <> 'planned'"), 0,
    'connections that end with calls in flight fail no run');
my @calls = grep { $_->[3] eq '/v1/chat/completions' } calls();
is(scalar(grep { $_->[0] ne 'HTTP/2.0' } @calls), 0, 'every call came by HTTP/2');
my %connections = map { $_->[1] => 1 } @calls;
cmp_ok(scalar(keys %connections), '<', @calls / 4, 'connections are shared: ' . keys(%connections) . ' for ' . @calls . ' calls');
is($model->count, scalar(grep { $_->[4] eq '200' } @calls), 'each was made once');
is($model->count, 2 * 61, 'two a plan, as ever');

# ---------------------------------------------------------------- a reload and a death with calls in flight

$model->control({ latency_ms => 3000 });
push_mission($node, "reload$_") for 1 .. 10;
$model->wait_in_flight(10, 20);
kill 'HUP', slurp_file("$dir/nginx.pid") + 0;
wait_for($node, 'a reload of the proxy is not noticed', 60, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'reload%' AND outcome = 'planned'", 10);
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'reload%' AND outcome <> 'planned'"), 0, 'not one run was lost');

push_mission($node, "death$_") for 1 .. 10;
$model->wait_in_flight(10, 20);
kill_proxy();
wait_until('a dead proxy is seen', 30, \&is_unavailable);
$model->control({ latency_ms => 0 });
start_proxy('right');
wait_for($node, 'after its return all are planned', 60,
    "SELECT count(DISTINCT mission_id) FROM mana_ai.runs WHERE mission_id LIKE 'death%' AND outcome = 'planned'", 10);
is(value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'death%' AND jsonb_array_length(record -> 'iterations') <> 1"), 0,
    'each has one plan');

# ---------------------------------------------------------------- another certificate in mid-course

for my $case ([ 'foreign', 'of an authority that is not in the file' ], [ 'misnamed', 'of another name' ])
{
    my ($certificate, $what) = @$case;
    kill_proxy();
    my $before = $model->count;
    start_proxy($certificate);
    push_mission($node, $certificate);
    wait_until("a certificate $what is refused", 60, sub { return cause($certificate) =~ /certificate|subject name/i });
    is($model->count, $before, 'nothing was sent');
    kill_proxy();
    start_proxy('right');
    wait_for_iterations($node, $certificate, 1, 60);
}

is(snapshots_differ($node), '', 'snapshots are what the log says');

done_testing();
