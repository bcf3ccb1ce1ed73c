# Plans that were made of what has changed since: those written after a change during their run say so, and those that wait
# for their user are shown as soon as the change is there.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use ManaAi::Missions;
use Digest::SHA qw(sha256_hex);
use JSON::PP;
use Test::More;

my $model = start_model();
my $node  = new_cluster('stale', preload => 1, model => $model, conf => "mana_ai.tick_enabled = off\nmana_ai.max_unreviewed = 0\n");

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

# Of the newest plan.
sub stale
{
    my ($id) = @_;
    my $newest = iterations_of($node, $id)->[-1]{id};
    return join ' ', map { "$_->{table_name}:$_->{record_id}" . ($_->{state} eq 'changed' ? '' : " is $_->{state}") }
      @{ rows($node, "SELECT * FROM mana_ai.stale_plans WHERE mission_id = '$id' AND iteration_id = '$newest' ORDER BY table_name, record_id") };
}

push_agent($node, 'ada', name => 'Ada', memory => 'Nichts');
push_record($node, 'notes', 'notes', 'n1', { title => 'Notiz', content => 'Hafermilch' });
push_record($node, 'notes', 'notes', 'n2', { title => 'Zweite', content => 'Brot' });
push_record($node, 'calendar', 'events', 'e1', { title => 'Zahnarzt', timeBlockId => 'tb1' });
push_record($node, 'timeblocks', 'timeBlocks', 'tb1', { startDate => '2030-12-01T09:00:00.000Z', endDate => '2030-12-01T09:30:00.000Z' });
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
is(changed(plan_beside('m1', sub { push_record($node, 'notes', 'notes', 'later', { content => 'Da' }) })), 'notes:later', 'so is one that was not there');
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

# Also in the transaction of the change.
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

like(why_of($node, 'm2'), qr/^not due until [^;]+; the plan of \S+ \S+ waits for the user, and since then there were changes of m2 of aiMissions, ada of agents, n1 of notes$/, 'why() names three of them');
is(value($node, "SELECT array_to_string(mana_ai.stale_records('user-1', run_id), ', ') FROM mana_ai.runs WHERE mission_id = 'm2'"), 'm2 of aiMissions, ada of agents, n1 of notes', 'so does the page');
is(json_value($node, "SELECT r -> 'stale' FROM jsonb_array_elements(mana_ai.http_status() -> 'runs') r WHERE r ->> 'missionId' = 'm2'")->[0], 'm2 of aiMissions', 'in its table of runs');
is(why_of($node, 'alone'), 'not scheduled: nextRunAt is not set', 'of a plan that is fresh there is nothing to say');

# A policy decides what is read, as in a run.
$node->safe_psql('mana_sync', "GRANT SELECT ON public.sync_changes TO nobody_special");
fails_like($node, 'SELECT * FROM mana_ai.stale_plans', qr/permission denied for schema mana_ai/, 'nobody may look', user => 'nobody_special');
$node->safe_psql('mana_sync', 'GRANT USAGE ON SCHEMA mana_ai TO nobody_special; GRANT SELECT ON mana_ai.stale_plans TO nobody_special');
fails_like($node, 'SELECT * FROM mana_ai.stale_plans', qr/permission denied for function (?:stale_reads|waiting_plans)/, 'until they are granted', user => 'nobody_special');
$node->safe_psql('mana_sync', 'GRANT EXECUTE ON FUNCTION mana_ai.stale_reads(uuid), mana_ai.waiting_plans(text, text) TO nobody_special');
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

# Of a record with more fields than are noted only a digest is, but it tells.
push_record($node, 'notes', 'notes', 'wide', { content => 'Breit' });
push_change($node, app => 'notes', table => 'notes', id => 'wide', data => { map { ("content.k$_" => 1) } 1 .. 300 });
push_mission($node, 'broad', inputs => [ { module => 'notes', table => 'notes', id => 'wide' } ], cadence => { kind => 'manual' });
$iteration = plan_beside('broad', sub { edit('notes', 'notes', 'wide', { color => 'red' }) });
is(join('', map { $_ // '-' } @{$iteration}{qw(changedSince changedSinceIncomplete)}), '--', 'it is read all the same, and fresh');
is(stale('broad'), '', 'and stays so');
like(value($node, "SELECT encode(clocks, 'hex') FROM mana_ai.run_reads WHERE record_id = 'wide'"), qr/^ff[0-9a-f]{16}$/, 'of its clocks there is a digest');
edit('notes', 'notes', 'wide', { 'content.k299' => 2 });
is(stale('broad'), 'notes:wide', 'until it is another one');
is(value($node, "SELECT changed_at IS NULL FROM mana_ai.stale_plans WHERE mission_id = 'broad'"), 't', 'nobody knows since when');

# ---------------------------------------------------------------- what nobody can tell

# A policy of the table's owner, which does what public.weather says with the record "fragile". It can tell whether the
# mission is locked.
$node->safe_psql('mana_sync', ManaAi::encoded(<<'END'));
CREATE TABLE public.weather (today text);
INSERT INTO public.weather VALUES ('fine');
GRANT SELECT ON public.weather TO PUBLIC;
CREATE FUNCTION public.withstands(id text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  today text := CASE WHEN id = 'fragile' THEN (SELECT w.today FROM public.weather w) END;
BEGIN
  IF today = 'snow' THEN
    PERFORM pg_sleep(250);
  END IF;
  IF today = 'hail' OR today = 'fog' AND EXISTS (
       SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
        WHERE l.pid = pg_backend_pid() AND c.relname = 'mission_snapshots' AND l.mode = 'RowShareLock') THEN
    RAISE EXCEPTION 'broken';
  END IF;
  RETURN true;
END $$;
CREATE ROLE table_owner;
ALTER TABLE public.sync_changes OWNER TO table_owner;
CREATE POLICY fragile ON public.sync_changes AS RESTRICTIVE FOR SELECT USING (public.withstands(record_id));
END
sub weather { my ($today) = @_; $node->safe_psql('mana_sync', "UPDATE public.weather SET today = '$today'"); return }
sub told { my ($iteration) = @_; return changed($iteration) . ($iteration->{changedSinceIncomplete} ? ' and nobody can tell' : '') }
push_record($node, 'notes', 'notes', 'fragile', { content => 'Glas' });
push_mission($node, 'careful', inputs => [ map { { module => 'notes', table => 'notes', id => $_ } } qw(fragile n1) ], cadence => { kind => 'manual' });
is(told(plan_beside('careful', sub { weather('fog') })), '', 'inputs are read again before the mission is locked');
is(stale('careful'), '', 'and nothing is open');
is(told(plan_beside('careful', sub { weather('hail'); edit('notes', 'notes', 'n1', { content => 'Roggen' }) })), 'notes:n1 and nobody can tell', 'an input that cannot be read is not called unchanged, and others are looked at');
is(stale('careful'), 'notes:fragile is unknown notes:n1', 'the view says so, too');
weather('fine');
is(stale('careful'), 'notes:n1', 'until it can be read');
settings($node, 'mana_ai.sync_table_timeout' => '1min');
is(told(plan_beside('careful', sub { weather('snow') })), ' and nobody can tell', 'one that is slow is not waited for');
weather('fine');
settings($node, 'mana_ai.sync_table_timeout' => undef);

# A linked record that the run could not read: nobody knows what it was then.
push_record($node, 'timeblocks', 'timeBlocks', 'fragile', { startDate => '2030-12-02T09:00:00.000Z' });
push_record($node, 'calendar', 'events', 'e2', { title => 'Glaser', timeBlockId => 'fragile' });
push_mission($node, 'tied', inputs => [ { module => 'calendar', table => 'events', id => 'e2' } ], cadence => { kind => 'manual' });
weather('hail');
is(told(plan_beside('tied', sub { weather('fine') })), ' and nobody can tell', 'a linked record that can be read by now has not changed for that');
is(stale('tied'), 'events:e2 is unknown', 'and the view says the same');
is(value($node, "SELECT status FROM mana_ai.runs r, mana_ai.rebuild_request(r.run_id) WHERE r.mission_id = 'tied' AND round = 1"), 'rebuilt', 'the request is made again without it');
edit('calendar', 'events', 'e2', { title => 'Glaserei' });
is(stale('tied'), 'events:e2', 'a change of the record itself is one');
$node->safe_psql('mana_sync', 'DROP POLICY fragile ON public.sync_changes');

$node->safe_psql('mana_sync', "CREATE FUNCTION public.tides(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql AS \$\$ SELECT '{\"title\": \"Gezeiten\", \"content\": \"Flut\"}'::jsonb \$\$; SELECT mana_ai.register_resolver('tides', 'public.tides(text, jsonb)')");
push_mission($node, 'resolved', inputs => [ { module => 'tides', table => 'days', id => 'd1' } ], cadence => { kind => 'manual' });
is(told(plan_beside('resolved', sub { })), ' and nobody can tell', 'what a resolver would say now is not known');
is(stale('resolved'), 'days:d1 is unknown', 'nor later');

# A mission that has become too large to be read.
push_mission($node, 'grown', cadence => { kind => 'manual' });
$model->reset;
$model->control({ steps => [ { tool_calls => [ { name => 'create_task', arguments => { title => 'Belege' } } ] }, { content => 'Fertig.' } ] });
is(run_mission($node, 'grown')->{outcome}, 'planned', 'a mission is planned');
is(stale('grown'), '', 'and fresh');
my $of_grown = iterations_of($node, 'grown')->[-1]{id};
settings($node, 'mana_ai.max_record_size' => '64kB');
edit('ai', 'aiMissions', 'grown', { conceptMarkdown => join(' ', map { sha256_hex($_) } 1 .. 2000) });
is(join(' ', map { @{$_}{qw(iteration_id role state)} } @{ rows($node, "SELECT * FROM mana_ai.stale_plans WHERE mission_id = 'grown'") }), "$of_grown mission unknown", 'once it is too large nobody can tell');
settings($node, 'mana_ai.max_record_size' => undef);
is(stale('grown'), 'aiMissions:grown', 'until it may be as large');

# ---------------------------------------------------------------- agents that are not the user's own, or not there

push_agent($node, 'house', user => 'bert', space => 's1', name => 'Haus', role => 'Hilft', memory => 'Nichts');
push_mission($node, 'common', space => 's1', agentId => 'house', cadence => { kind => 'manual' });
my $by_bert = sub { my ($fields) = @_; push_change($node, user => 'bert', space => 's1', table => 'agents', id => 'house', data => $fields, stamps => { map { $_ => iso(0) } keys %$fields }); return };
is(told(plan_beside('common', sub { $by_bert->({ memory => 'Viel' }) })), '', 'of another member\'s agent its memory is not read');
is(stale('common'), '', 'and the plan is fresh');
like(value($node, "SELECT encode(clocks, 'hex') FROM mana_ai.run_reads WHERE record_id = 'house' LIMIT 1"), qr/^fe[0-9a-f]{50}/, 'of what is read there are the clocks');
is_deeply([ map { $_->{status} } @{ rows($node, "SELECT q.status FROM mana_ai.runs r, mana_ai.rebuild_request(r.run_id) q WHERE r.mission_id = 'common' AND q.round = 1") } ], ['withheld'], 'which do not give it out');
is(told(plan_beside('common', sub { $by_bert->({ role => 'Hilft viel' }) })), 'agents:house', 'its role is');
$by_bert->({ 'policy.tools' => { create_note => 'deny' } });
is(stale('common'), 'agents:house', 'and its policy');
is(run_mission($node, 'common')->{outcome}, 'planned', 'planned again');
is(stale('common'), '', 'the new plan is fresh');
push_agent($node, 'house', space => 's1', name => 'Eigenes');
is(stale('common'), 'agents:house', 'until the user has an agent of their own');

push_change($node, table => 'agents', id => 'carla', op => 'insert', data => { id => 'carla', name => 'Carla', createdAt => iso(-300) });
push_change($node, table => 'agents', id => 'carla', op => 'delete', data => { deletedAt => iso(-100) });
push_mission($node, 'orphan', agentId => 'carla', cadence => { kind => 'manual' });
is(told(plan_beside('orphan', sub { })), '', 'a mission whose agent was deleted is planned without');
is(stale('orphan'), '', 'and its plan is fresh');
push_change($node, table => 'agents', id => 'carla', op => 'insert', data => { id => 'carla', name => 'Carla', createdAt => iso(5) });
is(stale('orphan'), 'agents:carla', 'until there is an agent');
is_deeply([ map { $_->{status} } @{ rows($node, "SELECT q.status FROM mana_ai.runs r, mana_ai.rebuild_request(r.run_id) q WHERE r.mission_id = 'orphan' AND q.round = 1") } ], ['rebuilt'], 'and the request is made again as it was, without');

# ---------------------------------------------------------------- planned once more

sub overtaken { return value($node, "SELECT coalesce(sum(value), 0) FROM mana_ai.metrics WHERE name = 'mana_ai_plans_overtaken_total' AND labels ->> 'state' = '$_[0]'") }
cmp_ok(overtaken('changed'), '>', 5, 'plans that were overtaken are counted');
cmp_ok(overtaken('unknown'), '>', 1, 'and those of which nobody can tell');
settings($node, 'mana_ai.replan_overtaken' => 'on');
is(changed(plan_beside('careful', sub { edit('notes', 'notes', 'n1', { content => 'Hafer' }) })), 'notes:n1', 'what is planned by hand is written all the same');
$model->reset;
$model->control({ steps => [ { latency_ms => 4000, content => 'Fertig.' } ], repeat => 'last' });
push_mission($node, 'again', inputs => [ { module => 'notes', table => 'notes', id => 'n1' } ], cadence => { kind => 'interval', everyMinutes => 600 });
settings($node, 'mana_ai.tick_enabled' => 'on');
wait_until('the first attempt is under way', 30, sub { $model->count == 1 });
settings($node, 'mana_ai.tick_enabled' => 'off');
edit('notes', 'notes', 'n1', { content => 'Weizen 1' });
wait_until('it is over', 30, sub { value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'again' AND finished_at IS NOT NULL") == 1 });
# As a look would do that finds another mission of the agent running.
value($node, "UPDATE mana_ai.mission_schedule SET decision = 'skipped-concurrency' WHERE mission_id = 'again'");
settings($node, 'mana_ai.tick_enabled' => 'on');
wait_until('the second attempt is under way', 30, sub { $model->count == 2 });
edit('notes', 'notes', 'n1', { content => 'Weizen 2' });
wait_for_iterations($node, 'again', 1, 30);
settings($node, 'mana_ai.tick_enabled' => 'off');
is_deeply([ map { "$_->{outcome} $_->{decision}" } @{ rows($node, "SELECT outcome, decision FROM mana_ai.runs WHERE mission_id = 'again' ORDER BY started_at") } ],
    [ 'discarded skipped-overtaken', 'planned ran' ], 'a plan that was overtaken is thrown away, and the next one is not');
is(changed(iterations_of($node, 'again')->[-1]), 'notes:n1', 'it says what has changed again');
settings($node, 'mana_ai.replan_overtaken' => undef);

# A device deals with it.
my $all = iterations_of($node, 'm2');
$all->[-1]{plan}[$_]{status} = 'approved' for 0 .. $#{ $all->[-1]{plan} };
$all->[-1]{overallStatus} = 'approved';
edit('ai', 'aiMissions', 'm2', { iterations => $all }, 3);
is(stale('m2'), '', 'what a device has carried out waits no more');

done_testing();
