# A browser that runs a mission itself: ours waits, and the two never do the same work twice. Iterations
# are as the web client writes them (no source; phases while they run).
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('browser_run', preload => 1, model => $model);
my $user  = USER_ID;
wait_for_worker($node);

# What a browser writes when it begins to run a mission, and during the run.
sub running
{
    my ($id, $started, %more) = @_;
    return {
        id => $id, startedAt => iso($started), plan => [], overallStatus => 'running',
        currentPhase => 'calling-llm', phaseStartedAt => iso($started + 1), phaseDetail => 'Planner…', %more };
}

sub finished
{
    my ($iteration, $status) = @_;
    my %finished = (%$iteration, finishedAt => iso(0), overallStatus => $status, summary => 'Im Browser geplant');
    delete @finished{qw(currentPhase phaseStartedAt phaseDetail)};
    $finished{errorDetails} = { name => 'CancelledError', message => 'timeout after 180s', phase => 'calling-llm' }
      if $status eq 'failed';
    return \%finished;
}

# Every edit of a device carries the whole list.
sub browser_writes
{
    my ($id, %fields) = @_;
    $fields{updatedAt} = iso(0);
    push_change($node, id => $id, data => \%fields, stamps => { map { $_ => $fields{updatedAt} } keys %fields });
    return;
}

sub schedule_of
{
    my ($id) = @_;
    return rows($node, "SELECT decision, lease_owner, extract(epoch FROM wake_at - clock_timestamp()) AS left FROM mana_ai.mission_schedule WHERE mission_id = '$id'")->[0];
}

sub wait_for_decision
{
    my ($id, $decision) = @_;
    return wait_for($node, "$id: $decision", 10,
        "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = '$id' AND lease_owner IS NULL", $decision);
}

# ---------------------------------------------------------------- a mission that comes due during it

push_mission($node, 'busy', iterations => [ running('b1', -20) ]);
wait_for_decision('busy', 'skipped-browser-run');
my $schedule = schedule_of('busy');
cmp_ok($schedule->{left}, '>', 130, 'a run in a browser of 20 seconds ago has time left');
cmp_ok($schedule->{left}, '<=', 160, 'until 180 seconds after its start');
like(why_of($node, 'busy'),
    qr/^a browser of the user runs the mission itself; held back until \d{4}-\d\d-\d\d [0-9:.]+\+00, or until that run ends$/, 'why()');
is(value($node, "SELECT decision FROM mana_ai.explain('$user', 'busy')"), 'skipped-browser-run', 'explain()');
is(run_mission($node, 'busy')->{outcome}, 'skipped-browser-run', 'a manual run does not plan it twice either');
is($model->count, 0, 'no model was asked');

# Its phases are edits of the mission.
browser_writes('busy', iterations => [ running('b1', -20, currentPhase => 'staging-proposals', phaseDetail => 'create_task') ]);
wait_for_decision('busy', 'skipped-browser-run');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'busy'"), 1, 'held back on record once');
browser_writes('busy', iterations => [ finished(running('b1', -20), 'approved') ], nextRunAt => iso(3600));
like(why_of($node, 'busy'), qr/^not due until /, 'when it has ended, the client has set the next run');
is($model->count, 0, 'and ours is not needed');

# Clocks of devices: ahead by an hour, and a tab that was closed in the middle long ago.
push_mission($node, 'ahead', iterations => [ running('b1', 3600) ]);
wait_for_decision('ahead', 'skipped-browser-run');
cmp_ok(schedule_of('ahead')->{left}, '<=', 180, 'a start in the future counts as now');
push_mission($node, 'closed', iterations => [ running('b1', -181) ]);
wait_for_iterations($node, 'closed', 2);

# A running iteration that is not the last of the list, as others can be appended behind it.
push_mission($node, 'behind', iterations => [ running('b1', -5),
    { id => 's1', source => 'server', startedAt => iso(-90), plan => [], overallStatus => 'approved' } ]);
wait_for_decision('behind', 'skipped-browser-run');
# Nothing of mana_ai is ever running in a record.
push_mission($node, 'named', iterations => [ running('b1', -5, source => 'browser') ]);
wait_for_decision('named', 'skipped-browser-run');
push_mission($node, 'server', iterations => [ running('b1', -5, source => 'server') ]);
wait_for_iterations($node, 'server', 2);

# ---------------------------------------------------------------- its tab is closed

push_mission($node, 'ends', iterations => [ running('b1', -174) ]);
wait_for_decision('ends', 'skipped-browser-run');
wait_for_iterations($node, 'ends', 2, 30);
is(value($node, "SELECT started_at >= (record -> 'iterations' -> 0 ->> 'startedAt')::timestamptz + interval '180 s'
                   FROM mana_ai.runs r JOIN mana_ai.mission_snapshots m USING (user_id, mission_id)
                  WHERE mission_id = 'ends' AND outcome = 'planned'"), 't', 'ours starts when its time is over, not before');

# ---------------------------------------------------------------- a browser that begins during our run

# Calls $meanwhile while the first model call of mission $id is in flight.
sub while_planning
{
    my ($id, $meanwhile) = @_;
    $model->reset;
    $model->control({ steps => [ { latency_ms => 1500, content => 'Vom Server' } ] });
    push_mission($node, $id);
    $model->wait_in_flight(1);
    $meanwhile->();
    wait_for($node, "$id: the run ends", 15,
        "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome NOT IN ('running', 'skipped')", 1);
    return last_run($node, $id);
}

my $start = running('b1', 0);
my $run = while_planning('overtaken', sub { browser_writes('overtaken', iterations => [$start]) });
is("$run->{outcome} $run->{decision}", 'discarded skipped-browser-run', 'begun during ours: our plan is discarded');
is($run->{total_tokens}, 1560, 'what it cost is on record');
is(value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE mission_id = 'overtaken'"), 1560, 'and in the ledger');
is_deeply([ map { $_->{id} } @{ iterations_of($node, 'overtaken') } ], ['b1'], 'only the browser\'s iteration is there');
is(schedule_of('overtaken')->{lease_owner}, undef, 'the lease is given back');
cmp_ok(schedule_of('overtaken')->{left}, '>', 120, 'and the mission waits for the browser');

my $count = $model->count;
$run = while_planning('outrun', sub {
    my $begun = running('b1', 0);
    browser_writes('outrun', iterations => [$begun]);
    browser_writes('outrun', iterations => [ finished($begun, 'approved') ], nextRunAt => iso(3600));
});
is("$run->{outcome} $run->{decision}", 'discarded skipped-browser-run', 'begun and finished during ours: the work is done');
is(scalar @{ iterations_of($node, 'outrun') }, 1, 'no second plan of it');
like(why_of($node, 'outrun'), qr/^not due until /, 'and it is not due any more');

$run = while_planning('broken', sub {
    my $begun = running('b1', 0);
    browser_writes('broken', iterations => [$begun]);
    browser_writes('broken', iterations => [ finished($begun, 'failed') ], nextRunAt => iso(3600));
});
is($run->{outcome}, 'planned', 'begun and failed during ours: ours is written');
is(scalar @{ iterations_of($node, 'broken') }, 2, 'in addition to the failed one');

# A browser's plan that was known before does not make our plan invalid.
$model->reset;
push_mission($node, 'known', iterations => [ finished(running('b1', -30), 'approved') ]);
wait_for_iterations($node, 'known', 2);

is(snapshots_differ($node), '', 'snapshots equal the log');
done_testing();
