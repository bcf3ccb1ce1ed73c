# Plans that were made of what has changed since: those written after a change during their run say so, and those that wait
# for their user are shown as soon as the change is there.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use JSON::PP;
use Test::More;

my $model = start_model();
my $node  = new_cluster('stale', preload => 1, model => $model, conf => "mana_ai.tick_enabled = off\nmana_ai.max_unreviewed = 0\n");

sub push_record
{
    my ($app, $table, $id, $data) = @_;
    push_change($node, app => $app, table => $table, id => $id, op => 'insert', data => { id => $id, createdAt => iso(-300), updatedAt => iso(-200), %$data });
    return;
}
sub edit { my ($app, $table, $id, $data, $when) = @_; push_change($node, app => $app, table => $table, id => $id, data => $data, stamps => { map { $_ => iso($when // 0) } keys %$data }); return }

# Plans the mission; what `edits` does happens while the model thinks.
sub plan_beside
{
    my ($id, $edits) = @_;
    $model->reset;
    $model->control({ steps => [ { latency_ms => 4000, tool_calls => [ { name => 'create_task', arguments => { title => 'Belege' } } ] }, { content => 'Fertig.' } ] });
    my $run = background($node, "SELECT outcome FROM mana_ai.run_mission('user-1', '$id')");
    $model->wait_in_flight(1, 10);
    $edits->();
    is($model->in_flight, 1, "$id was still being planned then");
    is(($run->finish(30))[1], "planned\n", "$id is planned");
    return iterations_of($node, $id)->[-1];
}
sub changed { my ($iteration) = @_; return join ' ', map { "$_->{table}:$_->{id}" } @{ $iteration->{changedSince} // [] } }
sub stale { my ($id) = @_; return join ' ', map { "$_->{table_name}:$_->{record_id}" } @{ rows($node, "SELECT * FROM mana_ai.stale_plans WHERE mission_id = '$id' ORDER BY table_name, record_id") } }

push_agent($node, 'ada', name => 'Ada', memory => 'Nichts');
push_record('notes', 'notes', 'n1', { title => 'Notiz', content => 'Hafermilch' });
push_record('notes', 'notes', 'n2', { title => 'Zweite', content => 'Brot' });
push_record('calendar', 'events', 'e1', { title => 'Zahnarzt', timeBlockId => 'tb1' });
push_record('timeblocks', 'timeBlocks', 'tb1', { startDate => '2030-12-01T09:00:00.000Z', endDate => '2030-12-01T09:30:00.000Z' });
my @inputs = map { my ($module, $table, $id) = @$_; { module => $module, table => $table, id => $id } }
  [ qw(notes notes n1) ], [ qw(notes notes n2) ], [ qw(calendar events e1) ], [ qw(notes notes later) ];
push_mission($node, $_, agentId => 'ada', inputs => \@inputs, cadence => { kind => 'manual' }) for qw(m1 m2);
push_mission($node, 'alone', cadence => { kind => 'manual' });

# ---------------------------------------------------------------- changes during the run

my $iteration = plan_beside('m1', sub { edit('notes', 'notes', 'other', { content => 'Anderes' }); edit('notes', 'notes', 'n1', { color => 'red' }); edit('ai', 'agents', 'ada', { state => 'active' }); edit('ai', 'aiMissions', 'm1', { maxTokensPerDay => 90_000_000 }) });
is($iteration->{changedSince}, undef, 'what no prompt is made of does not count');
is(stale('m1'), '', 'and the plan is not stale');

$iteration = plan_beside('m1', sub { edit('notes', 'notes', 'n2', { content => 'Käse' }) });
is(changed($iteration), 'notes:n2', 'an input that was changed during the run is named in the iteration');
like($iteration->{changedSince}[0]{at}, qr/^\d{4}-\d\d-\d\dT[\d:.]+Z$/, 'with the time');
is(scalar @{ $iteration->{plan} }, 1, 'the plan is there all the same');
is(changed(plan_beside('m1', sub { edit('notes', 'notes', 'n2', { content => 'Zu alt' }, -4000) })), '', 'a write that loses changes nothing');
is(changed(plan_beside('m1', sub { edit('ai', 'aiMissions', 'm1', { objective => 'Neues Ziel' }) })), 'aiMissions:m1', 'so is the mission');
is(changed(plan_beside('m1', sub { edit('ai', 'agents', 'ada', { memory => 'Etwas' }) })), 'agents:ada', 'so is the agent');
is(changed(plan_beside('m1', sub { edit('timeblocks', 'timeBlocks', 'tb1', { startDate => '2031-01-01T09:00:00.000Z' }) })), 'events:e1', 'so is an input by the record that it is linked to');
is(changed(plan_beside('m1', sub { push_record('notes', 'notes', 'later', { content => 'Da' }) })), 'notes:later', 'so is one that was not there');
is(changed(plan_beside('m1', sub { push_change($node, app => 'timeblocks', table => 'timeBlocks', id => 'tb1', op => 'delete', data => { deletedAt => iso(5) }) })), 'events:e1', 'so is an input whose linked record is gone');
$iteration = plan_beside('m1', sub { push_change($node, app => 'notes', table => 'notes', id => 'later', op => 'delete', data => { deletedAt => iso(5) }) });
is_deeply($iteration->{changedSince}, [ { table => 'notes', id => 'later', at => undef } ], 'so is one that is gone');
$iteration = plan_beside('m1', sub {
    my $all = iterations_of($node, 'm1');
    $all->[0]{userFeedback} = 'Nicht so';
    edit('ai', 'aiMissions', 'm1', { iterations => $all }, 1);
});
is(changed($iteration), 'aiMissions:m1', 'so is what the user has said of earlier plans');
is(changed(plan_beside('alone', sub { })), '', 'and where nothing was changed nothing is named');

# ---------------------------------------------------------------- plans that wait

$model->reset;
$model->control({ steps => [ { tool_calls => [ { name => 'create_task', arguments => { title => 'Belege' } } ] }, { content => 'Fertig.' } ] });
run_mission($node, 'm2');
my $waiting = iterations_of($node, 'm2')->[-1];
is(stale('m2'), '', 'a plan that was made a moment ago is fresh');
edit('notes', 'notes', 'n1', { color => 'blue' });
edit('notes', 'notes', 'n1', { content => 'Zu alt' }, -5000);
edit('ai', 'aiMissions', 'm2', { nextRunAt => iso(7200) });
is(stale('m2'), '', 'it stays so when nothing of what it was made of has changed');

# In the transaction of the change, too.
is(value($node, <<'END'), 'notes|n1', 'it is stale as soon as the change is made, before it is committed');
BEGIN;
SET LOCAL app.current_user_id = 'user-1';
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data) VALUES ('notes', 'notes', 'n1', 'user-1', 'update', 'c', '{"content": "Dinkel"}');
SELECT table_name || '|' || record_id FROM mana_ai.stale_plans WHERE mission_id = 'm2' AND changed_at <= clock_timestamp() AND iteration_id IS NOT NULL;
ROLLBACK
END
is(stale('m2'), '', 'and fresh again when the change is rolled back');
edit('notes', 'notes', 'n1', { content => 'Dinkel' });
is(stale('m2'), 'notes:n1', 'after the commit it is stale');
edit('ai', 'aiMissions', 'm2', { title => 'Umbenannt' });
edit('ai', 'agents', 'ada', { systemPrompt => 'Sei knapp.' });
push_change($node, app => 'notes', table => 'notes', id => 'n2', op => 'delete', data => { deletedAt => iso(2) });
is(stale('m2'), 'agents:ada aiMissions:m2 notes:n1 notes:n2', 'each record that has changed is named');
is(value($node, "SELECT count(*) FROM mana_ai.stale_plans WHERE mission_id = 'm2' AND (changed_at IS NULL) = (record_id = 'n2')"), 4, 'with when, as far as anybody knows');
is(value($node, "SELECT DISTINCT iteration_id FROM mana_ai.stale_plans WHERE mission_id = 'm2'"), $waiting->{id}, 'by the iteration');

# A policy decides what is read, as in a run.
$node->safe_psql('mana_sync', "GRANT SELECT ON public.sync_changes TO nobody_special");
fails_like($node, 'SELECT * FROM mana_ai.stale_plans', qr/permission denied for schema mana_ai/, 'nobody may look', user => 'nobody_special');
$node->safe_psql('mana_sync', 'GRANT USAGE ON SCHEMA mana_ai TO nobody_special; GRANT SELECT ON mana_ai.stale_plans TO nobody_special');
fails_like($node, 'SELECT * FROM mana_ai.stale_plans', qr/permission denied for function (?:stale_reads|plan_waits)/, 'until they are granted', user => 'nobody_special');
$node->safe_psql('mana_sync', 'GRANT EXECUTE ON FUNCTION mana_ai.stale_reads(uuid), mana_ai.plan_waits(text, text, text) TO nobody_special');
is($node->safe_psql('mana_sync', "SELECT count(*) FROM mana_ai.stale_plans WHERE mission_id = 'm2'", extra_params => [ '-U', 'nobody_special' ]), 4, 'then they see the ids');

# Another agent, and an agent that is gone.
for my $case ([ 'moved', sub { edit('ai', 'aiMissions', 'moved', { agentId => 'ada' }, 3) }, 'aiMissions:moved' ],
    [ 'left', sub { push_change($node, app => 'ai', table => 'agents', id => 'bob', op => 'delete', data => { deletedAt => iso(3) }) }, 'agents:bob' ])
{
    my ($id, $edit, $named) = @$case;
    push_agent($node, 'bob', name => 'Bob') if $id eq 'moved';
    push_mission($node, $id, agentId => 'bob', cadence => { kind => 'manual' });
    is(run_mission($node, $id)->{outcome}, 'planned', "$id is planned");
    is(stale($id), '', 'and fresh');
    $edit->();
    is(stale($id), $named, 'until its agent is another or gone');
}

# A record with more fields than are noted says nothing, neither at once nor later.
push_record('notes', 'notes', 'wide', { content => 'Breit' });
push_change($node, app => 'notes', table => 'notes', id => 'wide', data => { map { ("content.k$_" => 1) } 1 .. 300 });
push_mission($node, 'broad', inputs => [ { module => 'notes', table => 'notes', id => 'wide' } ], cadence => { kind => 'manual' });
is(run_mission($node, 'broad')->{outcome}, 'planned', 'it is read all the same');
is(stale('broad'), '', 'and its plan is not called stale');
is(value($node, "SELECT encode(clocks, 'hex') FROM mana_ai.run_reads WHERE record_id = 'wide'"), 'ff', 'since it is noted that nothing is');

# A device deals with it.
my $all = iterations_of($node, 'm2');
$all->[-1]{plan}[$_]{status} = 'approved' for 0 .. $#{ $all->[-1]{plan} };
$all->[-1]{overallStatus} = 'approved';
edit('ai', 'aiMissions', 'm2', { iterations => $all }, 3);
is(stale('m2'), '', 'what a device has carried out waits no more');

done_testing();
