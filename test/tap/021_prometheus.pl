# A real Prometheus scrapes the endpoint, understands every line, and evaluates the alerts.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use ManaAi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $prometheus = "$ENV{MANA_AI_BIN}/prometheus";
$prometheus = (grep { -x } map { "$_/prometheus" } split /:/, $ENV{PATH})[0] // '' unless -x $prometheus;
plan skip_all => 'Prometheus is not installed (Debian package prometheus)' unless $prometheus ne '' && -x $prometheus;

my $endpoint = PostgreSQL::Test::Cluster::get_free_port();
my $own_port = PostgreSQL::Test::Cluster::get_free_port();
my $model    = start_model();
my $node     = new_cluster('prometheus', preload => 1, model => $model, conf => "mana_ai.http_listen = '127.0.0.1:$endpoint'\n");
# Names that a label must be able to hold.
my $odd = qq{Agent "eins"\\zwei\nÄ};
push_agent($node, $odd);
push_mission($node, 'm1', agentId => $odd);
wait_for_iterations($node, 'm1', 1);
push_mission($node, 'm2', title => 'enc:1:AAAA.BBBB');

# What an operator writes: a job with an address, and our alerts.
my $home   = $node->basedir . '/prometheus';
mkdir $home or die $!;
my $alerts = "$ENV{MANA_AI_TEST_DATA}/../../docs/prometheus/alerts.yml";
append_to_file("$home/prometheus.yml", <<"END");
global:
  scrape_interval: 500ms
  evaluation_interval: 500ms
rule_files: ['$alerts']
scrape_configs:
  - job_name: mana-ai
    static_configs:
      - targets: ['127.0.0.1:$endpoint']
END
my ($out, $err) = ('', '');
my $process = IPC::Run::start(
    [
        $prometheus, "--config.file=$home/prometheus.yml", "--storage.tsdb.path=$home/data",
        "--web.listen-address=127.0.0.1:$own_port", '--log.level=warn'
    ],
    '<', \undef, '>', \$out, '2>', \$err);

sub api
{
    my ($path) = @_;
    my $response = HTTP::Tiny->new(timeout => 5, proxy => undef, http_proxy => undef)
      ->get("http://127.0.0.1:$own_port/api/v1/$path");
    return undef unless $response->{success};
    return JSON::PP->new->utf8->decode($response->{content})->{data};
}

sub sample
{
    my ($query) = @_;
    my $data = api("query?query=$query") or return undef;
    return @{ $data->{result} } ? $data->{result}[0]{value}[1] : undef;
}

my $target;
wait_until('the endpoint is scraped', 30, sub {
    $process->pump_nb;
    my $targets = api('targets') or return 0;
    ($target) = @{ $targets->{activeTargets} };
    return $target && $target->{health} eq 'up';
}) or diag($err, explain $target);
is($target->{lastError}, '', 'without a complaint');
wait_until('its samples can be queried', 10, sub { (sample('mana_ai_mission_outcomes_total%7Boutcome%3D%22planned%22%7D') // '') eq '1' });
is(sample('mana_ai_tokens_used_total'), value($node, 'SELECT sum(tokens_used) FROM mana_ai.token_usage'), 'tokens are those of the tables');
my ($series) = @{ (api('query?query=mana_ai_tokens_used_total') // {})->{result} };
is($series->{metric}{agent_id}, $odd, 'a label survives quotes, backslashes and line ends');
is($series->{metric}{service}, 'mana-ai', 'the service is a label');
wait_until('histograms can be asked for quantiles', 10, sub {
    (sample('histogram_quantile(0.5%2C%20mana_ai_planner_request_duration_seconds_bucket)') // 'NaN') =~ /^[\d.]+$/ });

# Every metric of the exposition has arrived, with its type.
my %types = HTTP::Tiny->new(timeout => 5, proxy => undef, http_proxy => undef)->get("http://127.0.0.1:$endpoint/metrics")->{content}
  =~ /^# TYPE (\S+) (\S+)$/mg;
cmp_ok(scalar keys %types, '>', 35, 'the exposition has all metrics');
my $metadata = api('metadata');
is_deeply([ map { "$_ $types{$_}" } grep { ($metadata->{$_}[0]{type} // '') ne $types{$_} } sort keys %types ], [], 'Prometheus knows the type of each');

# The alerts can be evaluated, and none of them should fire here.
my @rules;
wait_until('the alerts are evaluated', 10, sub {
    my $data = api('rules') or return 0;
    @rules = map { @{ $_->{rules} } } @{ $data->{groups} };
    return @rules && !grep { $_->{health} eq 'unknown' } @rules;
});
is_deeply([ map { "$_->{name}: $_->{lastError}" } grep { $_->{health} ne 'ok' } @rules ], [], 'without an error');
is_deeply([ map { $_->{name} } grep { $_->{state} eq 'firing' } @rules ], [], 'and none fires on a healthy server');

$process->kill_kill(grace => 2);
$node->stop;
$model->stop;
done_testing();
