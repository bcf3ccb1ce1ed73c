# The service key is sent and appears nowhere else, nor does what users wrote appear in the log.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $file  = key_file('sk-first-7f3a');
my $node  = new_cluster('privacy', preload => 1, model => $model, conf => <<"END");
log_min_messages = debug5
log_min_error_statement = debug5
log_statement = all
log_error_verbosity = verbose
log_min_duration_statement = 0
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
mana_ai.service_key_file = '$file'
mana_ai.tick_enabled = off
END
# debug5 logs everything: the searched text must come from a worker, not from statements of this test.
my @secrets = ('sk-first-7f3a', 'sk-file-99c1');
my $user_text = 'Vertrauliches-Vorhaben-4711';

push_mission($node, 'm1', title => 'T', objective => 'O');
is(run_tick($node)->{plans_written_back}, 1, 'a mission is planned');
is(($model->requests)[0]{headers}{Authorization} // ($model->requests)[0]{headers}{authorization},
    'Bearer sk-first-7f3a', 'the key is sent as Bearer');

# ---------------------------------------------------------------- another key, in a file with more in it

open my $handle, '>', $file or die $!;
print $handle "sk-file-99c1\r\nsecond line\n";
close $handle;
$node->reload;
sleep 0.2;
$model->reset;
push_mission($node, 'm2');
run_tick($node);
my ($request) = $model->requests;
my %headers = map { lc($_) => $request->{headers}{$_} } keys %{ $request->{headers} };
is($headers{authorization}, 'Bearer sk-file-99c1', 'so is the first line of the key file');
is($headers{'content-type'}, 'application/json', 'the body is announced as JSON');

# ---------------------------------------------------------------- nowhere else

$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
push_mission($node, 'm3', objective => $user_text);
my $session = background($node, 'SELECT * FROM mana_ai.run_tick()');
$model->wait_in_flight(1);
my $activity = value($node, 'SELECT string_agg(a::text, E\'\n\') FROM pg_stat_activity a');
value($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'mana_ai tick'");
my (undef, $out, $err) = $session->finish(5);
for my $secret (@secrets)
{
    unlike($activity, qr/\Q$secret/, "pg_stat_activity does not show $secret");
    unlike($out . $err, qr/\Q$secret/, "the caller's error does not");
}
unlike($activity, qr/\Q$user_text/, 'pg_stat_activity does not show what users wrote');
# A service that repeats the key, and errors of every kind.
$model->control({ steps => [ { status => 401, error => 'invalid key' } ], repeat => 'last' });
push_mission($node, 'm4', objective => $user_text);
my $tick = run_tick($node);
is(last_run($node, 'm4')->{error_kind}, 'auth', 'a refused key is an error of kind auth');
unlike(join("\n", @{ $tick->{errors} }), qr/\Q$_/, "errors of run_tick() do not show $_") for @secrets, $user_text;

fails_like($node, 'SHOW mana_ai.service_key_file', qr/42501: (?:must be superuser or .* pg_read_all_settings|permission denied to examine)/,
    'SHOW of the file is for those who may read all settings', user => 'nobody_special');
fails_like($node, "SET mana_ai.service_key_file = 'x'", qr/42501: permission denied/, 'SET is for superusers', user => 'nobody_special');

my $tables = value($node, <<'END');
SELECT string_agg(format('SELECT %L || t::text FROM %s t', c.relname || ': ', c.oid::regclass), E'\nUNION ALL\n')
  FROM pg_class c WHERE relnamespace = 'mana_ai'::regnamespace AND relkind IN ('r', 'v', 'p', 'm')
END
my $contents = value($node, "$tables UNION ALL SELECT t::text FROM public.sync_changes t UNION ALL SELECT t::text FROM mana_ai.status() t");
unlike($contents, qr/\Q$_/, "no table or view of mana_ai shows $_") for @secrets;
my $leaked = value($node, "SELECT count(*) FROM pg_settings WHERE setting LIKE '%sk-first%' OR setting LIKE '%sk-file%' OR reset_val LIKE '%sk-%'");
is($leaked, 0, 'pg_settings does not show it');

# The worker as well.
$node->append_conf('postgresql.conf', "mana_ai.tick_enabled = on\n");
$node->reload;
$model->reset;
push_mission($node, 'm5', title => $user_text, objective => $user_text, conceptMarkdown => $user_text);
wait_for_iterations($node, 'm5', 1, 10);
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'm5' AND error_message IS NOT NULL"), 0, 'planned');

# What this test itself sent to the server is in the log with log_statement = all. Lines that begin
# with a process of mana_ai, and those that continue them, must be clean, whatever the level.
my ($ours, $leaks, $lines) = (0, '', 0);
my @pids = do { my %seen; grep { !$seen{$_}++ } log_since($node) =~ /\[(\d+)\] [^\n]*mana_ai: /g };
my %ours = map { $_ => 1 } @pids;
for my $line (split /\n/, log_since($node))
{
    $ours = $ours{$1} if $line =~ /^\S+ \S+ \S+ \[(\d+)\]/;
    next unless $ours;
    $lines++;
    $leaks .= "$line\n" if grep { index($line, $_) >= 0 } @secrets, $user_text;
}
cmp_ok($lines, '>', 100, 'the log has much of our processes');
is($leaks, '', 'but neither the key nor what users wrote');
my $whole = log_since($node);
# The key file's content was never part of a statement.
unlike($whole, qr/sk-file-99c1|sk-first-7f3a/, 'no process at all logged a key of the file');

# A key file that cannot be read.
unlink $file;
my $position = log_position($node);
$node->reload;
push_mission($node, 'm6');
wait_for_iterations($node, 'm6', 1, 10);
like(log_since($node, $position), qr/WARNING: .*calls go out without a service key: could not read the file/,
    'a key file that is missing is said in the log');
is(grep({ lc $_ eq 'authorization' } keys %{ ($model->requests)[-1]{headers} }) + 0, 0, 'and no header is sent');

$node->stop;
$model->stop;
done_testing();
