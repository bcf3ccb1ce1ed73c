# Devices push the whole list of iterations with every edit of a mission, and rarely pull before: a plan that they have
# not seen is taken away. It is put back, once per loss, as often as it may be, unless the mission was deleted.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('lost_plans', preload => 1, model => $model, conf => <<'END');
mana_ai.database = 'mana_sync'
mana_ai.tick_interval = '1s'
mana_ai.max_unreviewed = 0
END
my $user = USER_ID;
wait_for_worker($node);
my $tasks = { latency_ms => 10, tool_calls => [ { name => 'create_task', arguments => { title => 'Eins' } } ] };

# Plans a new mission and returns the iteration.
sub planned
{
    my ($id, %fields) = @_;
    push_mission($node, $id, cadence => { kind => 'manual' }, %fields);
    wait_for($node, "$id is planned", 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'", 1);
    return iterations_of($node, $id, $fields{user})->[-1];
}

# What a device writes of the iterations, $offset seconds from now.
sub device_writes
{
    my ($id, $iterations, $offset, %more) = @_;
    my $space = delete $more{space};
    push_change($node, id => $id, space => $space, data => { iterations => $iterations, %more }, stamps => { map { $_ => iso($offset // 0) } 'iterations', keys %more });
    return;
}

sub ids_of { return [ map { $_->{id} } @{ iterations_of($node, $_[0]) } ] }

sub wait_for_ids
{
    my ($id, $expected, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = wait_until($what, 20, sub { join(' ', @{ ids_of($id) }) eq join ' ', @$expected });
    diag('iterations: ' . join ' ', @{ ids_of($id) }) unless $ok;
    return;
}

# Nothing is left to look at.
sub wait_for_checks
{
    wait_for($node, 'all suspects were looked at', 20,
        'SELECT count(*) FROM mana_ai.mission_schedule WHERE check_iterations_at <= clock_timestamp()', 0);
    return;
}

sub runner_rows
{
    my ($id) = @_;
    return rows($node, "SELECT data, field_timestamps, actor, space_id, op, schema_version FROM public.sync_changes WHERE record_id = '$id' AND client_id = 'mana-ai-runner' ORDER BY ctid");
}

# ---------------------------------------------------------------- one loss

my $plan = planned('one', space => 'space-1');
device_writes('one', [], 0, title => 'Neuer Titel', space => 'space-1');
wait_for_ids('one', [ $plan->{id} ], 'a plan that a stale device has taken away comes back');
my $record = record_of($node, 'one');
is($record->{title}, 'Neuer Titel', 'beside what the device wrote');
is_deeply($record->{iterations}[0], $plan, 'as it was');
my @written = @{ runner_rows('one') };
is(scalar @written, 2, 'with one row');
is_deeply([ sort keys %{ $written[1]{data} } ], ['iterations'], 'of the iterations alone');
is_deeply([ sort keys %{ $written[1]{field_timestamps} } ], ['iterations'], 'with its stamp');
is($written[1]{actor}{iterationId}, $plan->{id}, 'by the actor of the plan');
is($written[1]{space_id}, 'space-1', 'in the mission\'s space');
is($written[1]{op}, 'update', 'as an update');
wait_for_checks();
is(scalar @{ runner_rows('one') }, 2, 'and no more');
is(value($node, "SELECT restores FROM mana_ai.restored_iterations WHERE mission_id = 'one'"), 1, 'it is on record');
wait_for($node, 'and counted', 10, "SELECT value::int FROM mana_ai.metrics WHERE name = 'mana_ai_iterations_restored_total'", 1);
is(snapshots_differ($node), '', 'snapshots are those of the log');

# ---------------------------------------------------------------- stale devices in every order

sub permutations
{
    my (@items) = @_;
    return [] unless @items;
    return map { my $n = $_; my @rest = @items; splice @rest, $n, 1; map { [ $items[$n], @$_ ] } permutations(@rest) } 0 .. $#items;
}

# Three devices: one has an iteration of its own and not ours, one knew nothing, one has seen and carried out ours. Their
# clocks are as their names say, their rows come in any order. What the last one has made of ours is kept if it was
# in the log when ours was lost.
my $n = 0;
for my $order (permutations(qw(early stale done)))
{
    my $id   = 'order-' . ++$n;
    my $ours = planned($id);
    my $own  = { id => "own-$n", startedAt => iso(-7200), plan => [], overallStatus => 'approved', source => 'browser' };
    my $done = { %$ours, overallStatus => 'approved', plan => [ map { { %$_, status => 'approved' } } @{ $ours->{plan} } ], userFeedback => 'Gut' };
    my %row  = (early => [ [$own], 1 ], stale => [ [], 2 ], done => [ [ $own, $done ], 1.5 ]);
    device_writes($id, @{ $row{$_} }) for @$order;
    wait_until("@$order: every iteration is in the record in the end", 20, sub {
        my $iterations = iterations_of($node, $id);
        my ($found) = grep { $_->{id} eq $ours->{id} } @$iterations;
        return $found && ("@$order" !~ /done.*stale/ || ($found->{userFeedback} // '') eq 'Gut');
    });
    wait_for_checks();
    is(scalar(grep { $_ eq $ours->{id} } @{ ids_of($id) }), 1, "@$order: once");
}

# ---------------------------------------------------------------- where it belongs, and which version

$plan = planned('place', iterations => [ { id => 'before', startedAt => iso(-86400), plan => [], overallStatus => 'approved', source => 'browser' } ]);
my $later = { id => 'later', startedAt => iso(60), plan => [], overallStatus => 'approved', source => 'browser' };
device_writes('place', [ iterations_of($node, 'place')->[0], $later ], 0);
wait_for_ids('place', [ 'before', $plan->{id}, 'later' ], 'a plan comes back where it was by its start');

# ---------------------------------------------------------------- bounds

$plan = planned('again');
for my $loss (1 .. 6)
{
    device_writes('again', [], 10 * $loss);
    next if $loss == 6;
    if ($loss == 5)
    {
        wait_for($node, 'the fifth loss waits for the end of a pause', 20, <<'END', 't');
SELECT check_iterations_at > clock_timestamp() + interval '10 seconds' FROM mana_ai.mission_schedule WHERE mission_id = 'again'
END
        is_deeply(ids_of('again'), [], 'and is not answered before');
        # The pause is over.
        $node->safe_psql('mana_sync', <<'END');
UPDATE mana_ai.restored_iterations SET restored_at = restored_at - interval '1 hour' WHERE mission_id = 'again';
UPDATE mana_ai.mission_schedule SET check_iterations_at = now() WHERE mission_id = 'again' AND check_iterations_at IS NOT NULL;
SELECT pg_reload_conf()
END
    }
    wait_until("loss $loss is mended", 60, sub { join(' ', @{ ids_of('again') }) eq $plan->{id} });
    # So that the test need not wait so long as that.
    $node->safe_psql('mana_sync', "UPDATE mana_ai.restored_iterations SET restored_at = now() - interval '20 seconds' WHERE mission_id = 'again' AND restores < 4");
}
wait_for($node, 'the sixth loss is not', 20, "SELECT count(*) FROM mana_ai.restored_iterations WHERE mission_id = 'again' AND given_up_at IS NOT NULL", 1);
is_deeply(ids_of('again'), [], 'the plan stays away');
like(value($node, "SELECT problem FROM mana_ai.mission_problems WHERE mission_id = 'again'"), qr/^devices have taken iteration \Q$plan->{id}\E away 6 times: it is not put back any more$/, 'and that is a mission problem');
wait_for_checks();

# ---------------------------------------------------------------- what is not put back

$plan = planned('deleted');
push_changes($node,
    { id => 'deleted', data => { iterations => [] }, stamps => { iterations => iso(0) } },
    { id => 'deleted', op => 'delete', data => { deletedAt => iso(1) } });
wait_for_checks();
is(record_of($node, 'deleted'), undef, 'a mission that its user has deleted stays deleted');

# Made again under the same id, with a change, so that its record comes to be from the log.
push_changes($node, { id => 'deleted', op => 'insert', data => { %{ ManaAi::mission_change('deleted', nextRunAt => iso(3600), updatedAt => iso(2), cadence => { kind => 'manual' })->{data} } } });
push_changes($node, { id => 'deleted', data => { title => 'Neu' }, stamps => { title => iso(3) } });
$node->safe_psql('mana_sync', 'SELECT mana_ai.refresh_snapshots(rebuild => true)');
$node->safe_psql('mana_sync', "UPDATE mana_ai.mission_schedule SET check_iterations_at = now() WHERE mission_id = 'deleted'; SELECT pg_reload_conf()");
wait_for_checks();
is_deeply(ids_of('deleted'), [], 'one that is made again under its id does not get the plans of its former life');

my $foreign = { id => 'foreign', startedAt => iso(-60), plan => [], overallStatus => 'awaiting-review', source => 'server' };
push_mission($node, 'foreign', cadence => { kind => 'manual' }, iterations => [$foreign], nextRunAt => iso(3600));
device_writes('foreign', [], 0);
wait_for_checks();
is_deeply(ids_of('foreign'), [], 'nor is what only a client has called the server\'s');

settings($node, 'mana_ai.restore_iterations' => 'off');
$plan = planned('off');
device_writes('off', [], 0);
is(value($node, "SELECT check_iterations_at IS NULL FROM mana_ai.mission_schedule WHERE mission_id = 'off'"), 't', 'with restore_iterations off nothing is looked for');
settings($node, 'mana_ai.restore_iterations' => undef);

$plan = planned('ahead');
device_writes('ahead', [], 3 * 86400);
wait_for($node, 'a loss by a clock that is days ahead waits', 20, <<'END', 't');
SELECT check_iterations_at > now() + interval '20 hours' FROM mana_ai.mission_schedule WHERE mission_id = 'ahead'
END

# ---------------------------------------------------------------- losses while nobody looks

$plan = planned('fold');
my $both = planned('both');
$node->safe_psql('mana_sync', 'SELECT mana_ai.detach()');
device_writes('fold', [], 0);
$node->safe_psql('mana_sync', "SELECT mana_ai.attach('public.sync_changes')");
wait_for_ids('fold', [ $plan->{id} ], 'a loss that a fold notices');

# In one transaction, with its plan and more.
push_changes($node, { id => 'both', data => { iterations => [] }, stamps => { iterations => iso(0) } }, { id => 'both', data => { title => 'x' }, stamps => { title => iso(0) } });
wait_for_ids('both', [ $both->{id} ], 'a loss in a transaction with others');

# While another session holds the mission.
$plan = planned('held');
my $holder = background($node, "BEGIN; SELECT 1 FROM mana_ai.mission_snapshots WHERE mission_id = 'held' FOR UPDATE; SELECT pg_sleep(2); COMMIT");
wait_for($node, 'the mission is held', 10, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", 1);
device_writes('held', [], 0);
$holder->finish(20);
wait_for_ids('held', [ $plan->{id} ], 'a loss of a mission that was held');

# The server dies; the extension is made anew from the log.
$plan = planned('crash');
$node->safe_psql('postgres', "ALTER SYSTEM SET mana_ai.tick_enabled = off; SELECT pg_reload_conf()");
wait_for($node, 'the worker is paused', 10, 'SELECT worker_state FROM mana_ai.status()', 'paused');
device_writes('crash', [], 0);
$node->stop('immediate');
$node->append_conf('postgresql.auto.conf', "mana_ai.tick_enabled = on\n");
$node->start;
wait_for_ids('crash', [ $plan->{id} ], 'a loss before a crash');

$node->safe_psql('postgres', "ALTER SYSTEM SET mana_ai.tick_enabled = off; SELECT pg_reload_conf()");
wait_for($node, 'the worker is paused', 10, 'SELECT worker_state FROM mana_ai.status()', 'paused');
$plan = planned_by_hand('anew');
device_writes('anew', [], 1);
$node->safe_psql('mana_sync', 'SET client_min_messages = warning; DROP EXTENSION mana_ai; CREATE EXTENSION mana_ai');
is(value($node, 'SELECT count(*) FROM mana_ai.runs'), 0, 'nothing is known but the log');
run_tick($node);
wait_for_ids('anew', [ $plan->{id} ], 'a loss that only the log tells of, by a tick by hand');
is(snapshots_differ($node), '', 'snapshots are those of the log');

sub planned_by_hand
{
    my ($id) = @_;
    push_mission($node, $id, cadence => { kind => 'manual' });
    is(run_mission($node, $id)->{outcome}, 'planned', "$id is planned");
    return iterations_of($node, $id)->[-1];
}

done_testing();
