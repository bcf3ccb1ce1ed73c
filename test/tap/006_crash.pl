# kill -9 at any moment: the mission runs again, and its plan is written exactly once.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node  = new_cluster('crash', preload => 1, model => $model,
    # A mission that is killed three times would end with a report to its user instead of a plan.
    conf => "restart_after_crash = on\nmana_ai.report_failures = off");

sub hang
{
    my (@ids) = @_;
    $model->reset;
    $model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
    push_missions($node, \@ids);
    $model->wait_in_flight(scalar @ids);
    # Clients after the crash get an answer.
    $model->reset;
    return;
}

# The postmaster ends and starts all processes when one was killed.
sub wait_for_server
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_until("$what: the server is back", 20, sub { accepts_sessions($node) });
}

sub written
{
    my ($id) = @_;
    return value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id = '$id' AND client_id = 'mana-ai-runner'");
}

sub outcomes
{
    my ($id) = @_;
    return value($node, "SELECT string_agg(outcome, ',' ORDER BY started_at) FROM mana_ai.runs WHERE mission_id = '$id'");
}

sub kill_postmaster
{
    my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
    $node->kill9;
    # Where nobody reaps orphans it stays a zombie, which a new postmaster takes for a living one.
    wait_until('the postmaster is dead', 5, sub {
        return 1 unless kill 0, $postmaster;
        return -e "/proc/$postmaster/stat" && slurp_file("/proc/$postmaster/stat") =~ /\) Z /;
    });
    unlink $node->data_dir . '/postmaster.pid' if kill 0, $postmaster;
    return;
}

# The dead postmaster's children notice by themselves; before that no new one can start.
sub start_again
{
    my $end = time + 20;
    until ($node->start(fail_ok => 1))
    {
        last if time > $end;
        $node->stop('fast', fail_ok => 1);
        sleep 0.2;
    }
    return;
}

# ---------------------------------------------------------------- the worker, in the middle of a call

my $pid = wait_for_worker($node);
hang('w1');
kill 9, $pid;
sleep 0.2;
wait_for_server('kill -9 of the worker');
wait_for_iterations($node, 'w1', 1, 15);
is(outcomes('w1'), 'crashed,planned', 'the run is on record as crashed, the next one as planned');
is(written('w1'), 1, 'the plan is written once');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'"), 0, 'no run is left open');
is(snapshots_differ($node), '', 'snapshots are replays');

# ---------------------------------------------------------------- the postmaster

hang('p1');
kill_postmaster();
start_again();
wait_for_iterations($node, 'p1', 1, 15);
is(outcomes('p1'), 'crashed,planned', 'kill -9 of the postmaster: crashed, then planned');
is(written('p1'), 1, 'the plan is written once');

# ---------------------------------------------------------------- a mission that takes its worker down

settings($node, 'mana_ai.tick_interval' => '500ms');
hang('bad');
$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
for my $round (1, 2)
{
    kill 9, wait_for_worker($node);
    sleep 0.2;
    wait_for_server("crash $round");
    wait_until("crash $round: the mission runs again", 10, sub { $model->count == 1 }) if $round == 1;
}
wait_for_worker($node);
wait_for($node, 'after two crashes in a row the mission waits', 5,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'bad' AND outcome = 'crashed'", 2);
like(why_of($node, 'bad'), qr/^backing off until .* after 2 failures: crashed/, 'and why() says so');
$model->reset;
push_mission($node, 'good');
wait_for_iterations($node, 'good', 1, 10);
is(outcomes('bad'), 'crashed,crashed', 'others go on while it waits');
push_change($node, id => 'bad', data => { title => 'Neu' }, stamps => { title => iso(0) });
wait_for_iterations($node, 'bad', 1, 10);

# ---------------------------------------------------------------- a manual tick

settings($node, 'mana_ai.tick_enabled' => 'off');
wait_for($node, 'the worker is paused', 5, 'SELECT worker_state FROM mana_ai.status()', 'paused');
hang_by_hand('hand');

sub hang_by_hand
{
    my ($id) = @_;
    $model->reset;
    $model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
    push_mission($node, $id);
    my $session = background($node, 'SELECT * FROM mana_ai.run_tick()');
    $model->wait_in_flight(1);
    $model->reset;
    kill 9, value($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'mana_ai tick'");
    my ($status) = $session->finish(10);
    isnt($status, 0, 'kill -9 of a manual tick: its caller gets an error');
    wait_for_server('kill -9 of a manual tick');
    return;
}
is(run_tick($node)->{plans_written_back}, 1, 'the next manual tick plans the mission');
is(outcomes('hand'), 'crashed,planned', 'and records the crash of the first');
is(written('hand'), 1, 'the plan is written once');

# ---------------------------------------------------------------- at any moment

settings($node, 'mana_ai.tick_enabled' => undef, 'mana_ai.tick_interval' => '1s');
$model->reset;
$model->control({ latency_ms => 60 });
my @ids = map { "r$_" } 1 .. 30;
wait_for_worker($node);
push_missions($node, \@ids, cadence => { kind => 'manual' });
my $left = "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id ~ '^r[0-9]+\$' AND jsonb_array_length(record -> 'iterations') = 0";
my ($kills, $edits, $end) = (0, 0, time + 60);
while ($kills < 8 && time < $end)
{
    # Users keep working meanwhile; acknowledged commits must not be lost.
    $edits++;
    my $edited = eval {
        push_change($node, id => $ids[ $edits % @ids ], data => { conceptMarkdown => "Änderung $edits" },
            stamps => { conceptMarkdown => iso(0) });
        1;
    };
    $edits-- unless $edited;
    my $victim = eval { worker_pid($node) } // '';
    if ($victim ne '')
    {
        sleep rand 0.12;
        $kills += kill 9, $victim;
        sleep 0.05;
        # Missions are due again, so that every kill finds a worker at work. The postmaster may not have noticed
        # the last kill yet, and end the session that pushes them.
        wait_until("kill $kills: the server is back", 20,
            sub { eval { push_missions($node, [ "x$kills-1", "x$kills-2" ], cadence => { kind => 'manual' }); 1 } });
    }
}
is($kills, 8, 'the worker was killed eight times');
# Missions that crashed more than once back off; a change to them ends that.
wait_for_worker($node, 'mana_sync', 15);
push_changes($node, 'mana_sync', map { { id => $_, data => { title => "Noch einmal $_" }, stamps => { title => iso(0) } } } @ids);
push_changes($node, 'mana_sync',
    map { my $k = $_; map { { id => "x$k-$_", data => { title => 'Noch einmal' }, stamps => { title => iso(0) } } } 1, 2 } 1 .. $kills);
wait_for($node, 'in the end every mission has an iteration', 30,
    "SELECT count(*) FROM mana_ai.mission_snapshots WHERE jsonb_array_length(record -> 'iterations') = 0", 0);
is(value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE jsonb_array_length(record -> 'iterations') <> 1"),
    0, 'exactly one each');
is(value($node, "SELECT count(*) FROM (SELECT record_id FROM public.sync_changes WHERE client_id = 'mana-ai-runner' GROUP BY record_id HAVING count(*) <> 1) d"),
    0, 'written once');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned'"),
    value($node, "SELECT count(*) FROM public.sync_changes WHERE client_id = 'mana-ai-runner'"),
    'as many planned runs as plans');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'"), 0, 'no run is left open');
is(value($node, "SELECT count(*) FROM public.sync_changes WHERE data ? 'conceptMarkdown' AND op = 'update'"), $edits,
    "all $edits edits are there");
is(snapshots_differ($node), '', 'snapshots are replays');
is(value($node, 'SELECT count(*) FROM mana_ai.dirty_records'), 0, 'no record waits for repair');

$node->stop;
$model->stop;
done_testing();
