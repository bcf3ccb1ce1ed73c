# Devices push the whole list of iterations with every edit: what one of them has made of a plan is overwritten by the older
# copy of another one, or by a plan that was written while it was offline. Another device would then carry out the steps
# again. So it is restored.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('lost_progress', preload => 1, model => $model, conf => <<'END');
mana_ai.database = 'mana_sync'
mana_ai.tick_interval = '1s'
END
wait_for_worker($node);

# Plans a mission, a new one if need be, and returns the iteration.
sub planned
{
    my ($id, %fields) = @_;
    push_mission($node, $id, cadence => { kind => 'manual' }, %fields);
    wait_for_iterations($node, $id, 1);
    return iterations_of($node, $id)->[-1];
}

sub device_writes
{
    my ($id, $iterations, $at, %more) = @_;
    push_change($node, id => $id, data => { iterations => $iterations, %more }, stamps => { map { $_ => $at } 'iterations', keys %more });
    return;
}

# As the client's executor leaves it.
sub carried_out { my ($plan) = @_; return { %$plan, overallStatus => 'approved', plan => [ map { { %$_, status => 'approved' } } @{ $plan->{plan} } ] } }

sub state_of
{
    my ($id, $n) = @_;
    my $iteration = iterations_of($node, $id)->[ $n // 0 ];
    return join ' ', $iteration->{overallStatus}, (map { $_->{status} } @{ $iteration->{plan} }), $iteration->{userFeedback} // '-';
}

sub wait_for_state
{
    my ($id, $expected, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = wait_until($what, 20, sub { state_of($id) eq $expected });
    diag('it is: ' . state_of($id)) unless $ok;
    return;
}

sub rows_of_runner
{
    my ($id) = @_;
    return value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id = '$id' AND client_id = 'mana-ai-runner'");
}

# ---------------------------------------------------------------- another device with an older copy

my $plan = planned('flipped');
is(state_of('flipped'), 'awaiting-review planned planned -', 'a plan waits');
device_writes('flipped', [ carried_out($plan) ], iso(1));
is(state_of('flipped'), 'approved approved approved -', 'a device carries it out');
device_writes('flipped', [$plan], iso(2), title => 'Neuer Titel');
wait_for_state('flipped', 'approved approved approved -', 'another one that has not seen that edits the mission: the steps stay carried out');
is(record_of($node, 'flipped')->{title}, 'Neuer Titel', 'and its edit is kept');
my @written = @{ rows($node, "SELECT data, actor FROM public.sync_changes WHERE record_id = 'flipped' AND client_id = 'mana-ai-runner' ORDER BY created_at") };
is(scalar @written, 2, 'with one row');
is_deeply([ keys %{ $written[1]{data} } ], ['iterations'], 'of the iterations alone');
wait_for_checks($node);
is(rows_of_runner('flipped'), 2, 'and no more');
is(value($node, "SELECT iteration_id FROM mana_ai.restored_iterations WHERE mission_id = 'flipped'"), $plan->{id}, 'it is on record');
wait_for($node, 'and counted', 10, "SELECT value::int FROM mana_ai.metrics WHERE name = 'mana_ai_iterations_restored_total'", 1);

# ---------------------------------------------------------------- a device that was offline while the next plan was written

$plan = planned('offline');
my $between = value($node, "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')");
is(run_mission($node, 'offline')->{outcome}, 'planned', 'a second plan is written');
device_writes('offline', [ { %{ carried_out($plan) }, userFeedback => 'Gut so' } ], $between);
wait_for_state('offline', 'approved approved approved Gut so', 'what a device had made of the first one before it saw the second is kept');
is(scalar @{ iterations_of($node, 'offline') }, 2, 'and so is the second');
is(state_of('offline', 1), 'awaiting-review planned planned -', 'which still waits');

# ---------------------------------------------------------------- from different devices

$plan = planned('both');
device_writes('both', [ { %$plan, userFeedback => 'Bitte kürzer' } ], iso(1));
device_writes('both', [ carried_out($plan) ], iso(2));
wait_for_state('both', 'approved approved approved Bitte kürzer', 'steps of one device and feedback of another one are both kept');

$plan = planned('steps');
my ($first, $second) = @{ $plan->{plan} };
device_writes('steps', [ { %$plan, plan => [ { %$first, status => 'rejected' }, $second ] } ], iso(1));
device_writes('steps', [ { %$plan, overallStatus => 'approved', plan => [ $first, { %$second, status => 'approved' } ] } ], iso(2));
wait_for_state('steps', 'approved rejected approved -', 'so are steps that different devices have dealt with');

# A mission that backs off goes on waiting if a late row brings nothing new, and then one that does.
$plan = planned('backs-off');
push_change($node, id => 'backs-off', data => { objective => '[[szenario:422]]', nextRunAt => iso(-60), cadence => { kind => 'interval', everyMinutes => 60 } });
wait_for($node, 'a mission fails', 20, "SELECT not_before > now() + interval '1 minute' FROM mana_ai.mission_schedule WHERE mission_id = 'backs-off' AND lease_owner IS NULL", 't');
my $until = value($node, "SELECT not_before FROM mana_ai.mission_schedule WHERE mission_id = 'backs-off'");
$node->safe_psql('mana_sync', "UPDATE mana_ai.mission_schedule SET check_iterations_at = now() WHERE mission_id = 'backs-off'");
wait_for_checks($node);
is(value($node, "SELECT not_before FROM mana_ai.mission_schedule WHERE mission_id = 'backs-off'"), $until, 'a check that finds nothing does not end its wait');

# ---------------------------------------------------------------- what is not restored

$plan = planned('edited');
device_writes('edited', [ { %$plan, userFeedback => 'Alt' } ], iso(1));
device_writes('edited', [ { %$plan, userFeedback => 'Neu' } ], iso(2));
my $browser = { id => 'own', source => 'browser', startedAt => iso(0), overallStatus => 'approved', plan => [ { id => 's', status => 'approved' } ] };
my $forged  = { %$browser, id => 'forged', source => 'server' };
device_writes('edited', [ { %$plan, userFeedback => 'Neu' }, $browser, $forged ], iso(3));
device_writes('edited', [ { %$plan, userFeedback => 'Neu' }, map { { %$_, plan => [ { id => 's', status => 'planned' } ] } } $browser, $forged ], iso(4));
wait_for_checks($node);
is(rows_of_runner('edited'), 1, 'edited feedback, and iterations that are not mana_ai\'s, are left alone');

# ---------------------------------------------------------------- how often

$plan = planned('again');
device_writes('again', [ carried_out($plan) ], iso(1));
for my $time (1 .. 6)
{
    device_writes('again', [$plan], iso(10 * $time));
    next if $time == 6;
    wait_until("the $time. loss is mended", 90, sub {
        $node->safe_psql('mana_sync', <<'END');
UPDATE mana_ai.restored_iterations SET restored_at = restored_at - interval '1 hour' WHERE mission_id = 'again';
UPDATE mana_ai.mission_schedule SET check_iterations_at = now() WHERE mission_id = 'again' AND check_iterations_at > now();
SELECT pg_reload_conf()
END
        state_of('again') eq 'approved approved approved -';
    });
}
wait_for($node, 'the sixth one is not', 20, "SELECT problem FROM mana_ai.mission_problems WHERE mission_id = 'again'",
    "devices have overwritten iteration $plan->{id} 6 times: it is not restored any more");
is(state_of('again'), 'awaiting-review planned planned -', 'the plan stays as the device says');

# ---------------------------------------------------------------- what a mission waits for

# Plans that nobody has looked at keep a mission from being planned; a device that was offline has.
my @plans = planned('waits');
for my $n (2 .. 3)
{
    run_mission($node, 'waits');
    push @plans, iterations_of($node, 'waits')->[-1];
}
push_change($node, id => 'waits', data => { cadence => { kind => 'interval', everyMinutes => 60 }, nextRunAt => iso(-60) }, stamps => { cadence => iso(1), nextRunAt => iso(1) });
wait_until('a mission waits for its user', 20, sub { why_of($node, 'waits') =~ /wait for a device/ });
device_writes('waits', [ map { carried_out($_) } @plans[ 0, 1 ] ], $plans[1]{finishedAt} // $plans[1]{startedAt});
wait_for_iterations($node, 'waits', 4);

is(snapshots_differ($node), '', 'snapshots are those of the log');

# ---------------------------------------------------------------- switched off

$node->safe_psql('mana_sync', 'ALTER SYSTEM SET mana_ai.restore_iterations = off');
$node->reload;
$plan = planned('off');
device_writes('off', [ carried_out($plan) ], iso(1));
device_writes('off', [$plan], iso(2));
is(value($node, "SELECT check_iterations_at FROM mana_ai.mission_schedule WHERE mission_id = 'off'"), '', 'with restore_iterations off nothing is checked');

is(value($node, 'SELECT count(*) FROM mana_ai.dirty_records'), 0, 'nothing waits for repair');
$node->stop;
$model->stop;
done_testing();
