# Text that a grant opens is in the model's request and nowhere else: not in the most verbose log, not in a
# table, not in a file of the cluster. The same holds for keys, also when the run is killed or the service
# repeats what it was sent.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Find;
use ManaAi;
use ManaAi::Device;
use MIME::Base64;
use Test::More;

my $libraries = `"$ENV{PG_CONFIG}" --pkglibdir`;
chomp $libraries;
plan skip_all => 'auto_explain is not installed (it is part of contrib)' unless -e "$libraries/auto_explain.so";

my $model = start_model();
my $node  = new_cluster('secrets', preload => 1, model => $model, conf => <<'END');
log_min_messages = debug5
log_min_error_statement = debug5
log_statement = all
log_error_verbosity = verbose
log_min_duration_statement = 0
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
log_executor_stats = on
debug_print_parse = on
debug_print_plan = on
session_preload_libraries = 'auto_explain'
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_verbose = on
auto_explain.log_nested_statements = on
auto_explain.log_level = log
track_activity_query_size = 65536
mana_ai.tick_interval = '1s'
restart_after_crash = on
END
my $key_file = ManaAi::Device::new_key($node, 'server');
settings($node, 'mana_ai.grant_private_key_file' => $key_file);
wait_for_worker($node);

my $text   = 'Geheimnis-4711-Ampelmann';
my $device = ManaAi::Device->new($key_file, 'm1', ['notes:n1']);
my $own    = ManaAi::Device->new($key_file, 'm2', [ 'notes:n2', 'notes:bad' ]);
my $pem = PostgreSQL::Test::Utils::slurp_file($key_file);
my ($half_of_key) = $pem =~ /-----\s+\S+\s+(\S{40})/;
my %secrets = (
    'the text'                => $text,
    'the text as JSON'        => join('', map { sprintf '\u%04x', ord } split //, $text),
    'the text in base64'      => substr(encode_base64($text, ''), 0, 28),
    'the key of mission m1'   => $device->key_hex,
    'its bytes'               => pack('H*', $device->key_hex),
    'the key of mission m2'   => $own->key_hex,
    'the private key'         => $half_of_key);

sub push_note
{
    my ($id, $by, $content) = @_;
    push_change($node, app => 'notes', table => 'notes', id => $id, op => 'insert',
        data => { id => $id, title => 'Notiz', content => $by->seal($content), updatedAt => iso(-200) });
    return;
}

# Every file of the cluster and the server's log, with what is only in shared buffers written out.
sub places_with
{
    my ($secret) = @_;
    value($node, 'CHECKPOINT');
    my @found;
    find(
        {
            no_chdir => 1,
            wanted   => sub {
                return unless -f $_ && $_ ne $key_file && !/session_\d+\.sql$/;
                push @found, $_ if index(PostgreSQL::Test::Utils::slurp_file($_), $secret) >= 0;
            }
        },
        $node->basedir);
    push @found, 'the log' if index(log_since($node), $secret) >= 0;
    push @found, 'pg_stat_activity'
      if value($node, 'SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '
          . "'%' || convert_from(decode('" . unpack('H*', substr($text, 0, 9)) . "', 'hex'), 'UTF8') || '%'");
    return join ', ', @found;
}

sub is_nowhere
{
    my ($when) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(places_with($secrets{$_}), '', "$when: $_ is nowhere") for sort keys %secrets;
    return;
}

sub model_was_told
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $told = grep { index(JSON::PP->new->encode($_->{body}), $text) >= 0 } $model->requests;
    ok($told, $what);
    return;
}

# A search that would not find anything proves nothing.
append_marker();
sub append_marker
{
    value($node, "CREATE TABLE public.marker AS SELECT 'Fundstelle-' || 99 AS t");
    isnt(places_with('Fundstelle-99'), '', 'what is in a table is found');
    value($node, 'DROP TABLE public.marker');
    return;
}

# ---------------------------------------------------------------- a run by the worker

push_note('n1', $device, "$text in einer Notiz");
push_mission($node, 'm1', grant => $device->grant, inputs => [ { module => 'notes', table => 'notes', id => 'n1' } ]);
wait_for_iterations($node, 'm1', 1, 20);
model_was_told('the model is told what the note says');
is_nowhere('after a run');

# ---------------------------------------------------------------- its own texts, and a service that repeats them

$model->reset;
$model->control({ steps => [ { status => 422, error => "I will not talk about $text" } ], repeat => 'last' });
push_note('n2', $own, "$text noch einmal");
push_change($node, app => 'notes', table => 'notes', id => 'bad', op => 'insert',
    data => { id => 'bad', content => substr($own->seal($text), 0, -8), updatedAt => iso(-200) });
push_mission($node, 'm2', title => $own->seal("$text als Titel"), objective => $own->seal("$text als Ziel, recherchiere"),
    grant => $own->grant, inputs => [ map { { module => 'notes', table => 'notes', id => $_ } } qw(n2 bad) ]);
wait_for($node, 'the run fails', 20, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'm2' AND outcome <> 'running'", 'failed');
model_was_told('the model is told what the mission says');
like(last_run($node, 'm2')->{error_message}, qr/not kept: the run had decrypted texts/, 'the words of the service are not kept');
is_nowhere('after a refusal that quotes it');

# ---------------------------------------------------------------- kill -9 while the model has it

$model->reset;
$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
push_change($node, id => 'm1', data => { nextRunAt => iso(-1) }, stamps => { nextRunAt => iso(1) });
$model->wait_in_flight(1, 20);
my $audited = value($node, "SELECT count(*) FROM mana_ai.decrypt_audit WHERE mission_id = 'm1'");
is($audited, 2, 'the second opening is on record while the model thinks');
kill 9, worker_pid($node);
$model->reset;
# The server starts its processes anew.
wait_until('the server is back', 20, sub { accepts_sessions($node) });
wait_for_iterations($node, 'm1', 2, 60);
is(value($node, "SELECT count(DISTINCT iteration_id) FROM mana_ai.decrypt_audit WHERE mission_id = 'm1'"), 3,
    'each attempt has its own row in the audit');
is(value($node, "SELECT count(*) FROM mana_ai.decrypt_audit a WHERE mission_id = 'm1' AND EXISTS (SELECT FROM mana_ai.mission_snapshots m, "
      . "jsonb_array_elements(m.record -> 'iterations') i WHERE m.mission_id = 'm1' AND i ->> 'id' = a.iteration_id)"), 2,
    'two of which became iterations');
is_nowhere('after kill -9');

$node->stop;
is_nowhere_when_stopped();

sub is_nowhere_when_stopped
{
    my @found;
    find({ no_chdir => 1, wanted => sub {
        push @found, $_ if -f $_ && $_ ne $key_file && !/session_\d+\.sql$/
          && index(PostgreSQL::Test::Utils::slurp_file($_), $text) >= 0;
    } }, $node->basedir);
    is("@found", '', 'the stopped cluster has it in no file');
    return;
}
$model->stop;
done_testing();
