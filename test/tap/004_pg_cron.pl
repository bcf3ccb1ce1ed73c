# pg_cron schedules run_tick(): in its background workers and over separate connections.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $pkglibdir = `$ENV{PG_CONFIG} --pkglibdir`;
chomp $pkglibdir;
plan skip_all => 'pg_cron is not installed' unless -e "$pkglibdir/pg_cron.so";

# Our worker is off, so every plan here comes from pg_cron.
my $model = start_model();
my $node  = new_cluster('pg_cron', model => $model, conf => <<'END');
shared_preload_libraries = 'pg_cron,mana_ai'
cron.database_name = 'mana_sync'
mana_ai.tick_enabled = off
END
$node->append_conf('postgresql.conf', "cron.host = '" . $node->host . "'\n");
$node->restart;
value($node, 'CREATE EXTENSION pg_cron');

# Since 1.5 schedules may name seconds. Before, the shortest is a minute, so a job that starts with
# the server saves the wait; pg_cron runs it in the same way.
my ($major, $minor) =
  value($node, "SELECT extversion FROM pg_extension WHERE extname = 'pg_cron'") =~ /^(\d+)\.(\d+)/;
my $schedule = $major > 1 || $minor >= 5 ? '1 second' : '@reboot';
my $job = value($node, "SELECT cron.schedule('mana-ai', '$schedule', 'SELECT mana_ai.run_tick()')");
like($job, qr/^\d+$/, 'the job is scheduled');

# A job of every second runs only while the test watches it, not while a mission arrives or the server restarts.
sub let_run
{
    my ($active) = @_;
    return if $schedule eq '@reboot';
    value($node, "SELECT cron.alter_job($job, active := $active)");
    return if $active eq 'true';
    # Jobs that pg_cron started before it read that.
    sleep 1.5;
    wait_for($node, 'no job runs', 15,
        "SELECT count(*) FROM cron.job_run_details WHERE status NOT IN ('succeeded', 'failed')", '0');
}

for my $mode ('background workers', 'connections')
{
    my $id = "by $mode";
    let_run('false');
    push_mission($node, $id);
    wait_for_worker($node);
    is(why_of($node, $id), 'worker is paused: mana_ai.tick_enabled is off', "$mode: the worker leaves the mission alone");
    value($node, 'TRUNCATE cron.job_run_details');
    $model->reset;
    $node->append_conf('postgresql.conf',
        'cron.use_background_workers = ' . ($mode eq 'connections' ? 'off' : 'on') . "\n");
    $node->restart;
    let_run('true');
    wait_for($node, "$mode: pg_cron has run the tick", 15,
        "SELECT count(*) > 0 FROM cron.job_run_details WHERE jobid = $job AND status = 'succeeded'", 't')
      or diag(value($node, 'SELECT status, return_message FROM cron.job_run_details'));
    is(scalar @{ iterations_of($node, $id) }, 1, "$mode: the mission was planned");
    is($model->count, 2, "$mode: once");
    is(value($node, 'SELECT last_tick_by FROM mana_ai.status()'), 'run_tick', "$mode: by the tick that pg_cron started");
    is(value($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai tick'"), 0,
        "$mode: whose worker has ended");
    is(value($node, "SELECT count(*) FROM cron.job_run_details WHERE status = 'failed'"), 0, "$mode: no job failed");
}

unlike(log_since($node), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
is_faster_than(3, 'shutdown', sub { $node->stop('fast') });
$model->stop;
done_testing();
