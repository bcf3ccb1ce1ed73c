# Missions that are planned when their inputs change: after a debounce, once per storm, never for what carries out a plan,
# and although the server is killed in between.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use JSON::PP;
use Test::More;

my $model = start_model();
my $node  = new_cluster('wake', preload => 1, model => $model, conf => "restart_after_crash = on\nmana_ai.tick_interval = '1h'\nmana_ai.max_unreviewed = 0\n");
my $plan  = { steps => [ { tool_calls => [ { name => 'create_task', arguments => { title => 'Belege' } } ] }, { content => 'Fertig.' } ], repeat => 'all', per_mission => JSON::PP::true };

sub push_record
{
    my ($table, $id, $data, %more) = @_;
    push_change($node, app => $table, table => $table, id => $id, op => 'insert', data => { id => $id, createdAt => iso(-300), updatedAt => iso(-200), %$data }, %more);
    return;
}
sub edit { my ($table, $id, $data, %more) = @_; push_change($node, app => $table, table => $table, id => $id, data => $data, stamps => { map { $_ => iso(0) } keys %$data }, %more); return }
sub on_change { my (%more) = @_; return { kind => 'onChange', debounceMinutes => 0.01, %more } }
sub push_watcher
{
    my ($id, $inputs, %fields) = @_;
    push_mission($node, $id, cadence => on_change(), nextRunAt => undef, inputs => [ map { { module => 'notes', table => 'notes', id => $_ } } @$inputs ], %fields);
    wait_for($node, "$id is watching", 20, "SELECT count(*) > 0 FROM mana_ai.input_watches WHERE mission_id = '$id'", 't') if ($fields{cadence} // { kind => 'onChange' })->{kind} eq 'onChange';
    return;
}
sub of_wake { my ($id, $column) = @_; return value($node, "SELECT $column FROM mana_ai.input_watches WHERE mission_id = '$id'") }
sub settled { wait_for($node, 'the marks are taken', 20, 'SELECT count(*) FROM mana_ai.input_changes', 0); return }
sub plans_of { my ($id) = @_; return scalar @{ iterations_of($node, $id) } }

wait_for_worker($node);
$model->control($plan);
push_record('notes', $_, { title => "Notiz $_", content => 'Hafermilch' }) for qw(n1 n2 n3 shared own storm);

# ---------------------------------------------------------------- an edit

push_watcher('m1', [qw(n1 n2)]);
is(why_of($node, 'm1'), 'waits for a change of its inputs', 'a mission with that cadence waits');
is(plans_of('m1'), 0, 'and is not planned');
is(value($node, "SELECT problems FROM mana_ai.mission_snapshots WHERE mission_id = 'm1'"), '', 'the cadence is no problem');
edit('notes', 'n3', { content => 'Anderes' });
edit('notes', 'n1', { content => 'Sojamilch' });
wait_for_iterations($node, 'm1', 1);
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'm1' AND outcome = 'planned' AND woken_at <= started_at"), 1, 'an edit makes it planned, and the run says that it was woken');
is(value($node, "SELECT woken_at IS NULL AND due_at IS NULL FROM mana_ai.mission_schedule WHERE mission_id = 'm1'"), 't', 'it is not due any more');
is(record_of($node, 'm1')->{nextRunAt}, undef, 'and has no next run');
is(value($node, 'SELECT count(*) FROM mana_ai.runs'), 1, 'nothing else was planned');
is(value($node, "SELECT sum(value) FROM mana_ai.metrics WHERE name = 'mana_ai_wakeups_total' AND labels ->> 'reason' = 'change'"), 1, 'it is counted');

# The least distance of two plans.
edit('notes', 'n2', { content => 'Roggen' });
settled();
like(why_of($node, 'm1'), qr/^an input was changed at \S+ \S+; woken for that at \S+ \S+/, 'the next change has to wait');
is(of_wake('m1', "wake_at >= planned_at + interval '1 hour'"), 't', 'for the distance of plans');
sub let_wake { my ($id) = @_; value($node, "UPDATE mana_ai.input_watches SET min_interval = '0' , planned_at = planned_at - interval '1 day', wake_at = clock_timestamp() WHERE mission_id = '$id' AND wake_at IS NOT NULL"); value($node, 'SELECT mana_ai.refresh_snapshots()'); push_agent($node, 'clock' . rand); return }
let_wake('m1');
wait_for_iterations($node, 'm1', 2);

# What no prompt shows wakes it for nothing: no request is made.
my $requests = $model->count;
edit('notes', 'n1', { color => 'red' });
settled();
let_wake('m1');
wait_for($node, 'a change that no prompt shows is found to be none', 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'm1' AND decision = 'skipped-unchanged'", 1);
is($model->count, $requests, 'no request was made');
is(of_wake('m1', 'changed_at IS NULL AND wake_at IS NULL'), 't', 'and it waits again');

# ---------------------------------------------------------------- its own doing

# A device that carries out the plan writes the input with the plan's actor; a projection as the system.
push_watcher('loop', ['own']);
edit('notes', 'own', { content => 'Vom Menschen' });
wait_for_iterations($node, 'loop', 1);
my $iteration = iterations_of($node, 'loop')->[0];
my $actor = { kind => 'ai', principalId => 'legacy:ai-default', displayName => 'Mana', missionId => 'loop', iterationId => $iteration->{id}, rationale => 'x' };
edit('notes', 'own', { content => "Vom Agenten $_" }, actor => $actor) for 1 .. 5;
edit('notes', 'own', { content => 'Von der Projektion' }, actor => { kind => 'system', principalId => 'system:projection', displayName => 'x' });
settled();
is(of_wake('loop', 'changed_at IS NULL'), 't', 'what carries out a plan wakes nobody');
edit('notes', 'own', { content => 'Vom Menschen' }, actor => { kind => 'user', principalId => 'user-1', displayName => 'Du' });
settled();
is(of_wake('loop', 'changed_at IS NOT NULL'), 't', 'what a user writes does');

# ---------------------------------------------------------------- two missions, a storm

push_watcher($_, ['shared']) for qw(left right);
push_watcher('only', [qw(n3 shared)], cadence => on_change(inputs => ['n3']));
edit('notes', 'shared', { content => 'Für beide' });
wait_for_iterations($node, $_, 1) for qw(left right);
is(plans_of('only'), 0, 'a mission that names some of its inputs is woken by these alone');
edit('notes', 'n3', { content => 'Genannt' });
wait_for_iterations($node, 'only', 1);

push_watcher('stormy', ['storm'], cadence => on_change(debounceMinutes => 0.05));
push_changes($node, map { { app => 'notes', table => 'notes', id => 'storm', data => { content => "Sturm $_" }, stamps => { content => iso(0) } } } 1 .. 1000);
wait_for_iterations($node, 'stormy', 1);
settled();
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'stormy'"), 1, 'a storm of a thousand changes wakes once');
is(value($node, "SELECT cardinality(woken) FROM mana_ai.input_watches WHERE mission_id = 'stormy'"), 1, 'as the row says');
# In one transaction.
value($node, "UPDATE mana_ai.input_watches SET changed_at = NULL, last_changed_at = NULL, wake_at = NULL WHERE mission_id = 'stormy'");
$node->safe_psql('mana_sync', "INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data) SELECT 'notes', 'notes', 'storm', 'user-1', 'update', 'c', jsonb_build_object('content', n::text) FROM generate_series(1, 5000) n");
settled();
is(of_wake('stormy', 'changed_at IS NOT NULL'), 't', 'one of a single transaction is noticed');

# Of many records in one transaction, after rows that do not count: nobody is forgotten, and another user is not woken.
push_record('notes', "b$_", { content => 'Vorher' }) for 1 .. 40;
push_record('notes', 'other', { content => 'Vorher' }, user => 'user-2');
push_mission($node, "bulk$_", cadence => on_change(debounceMinutes => 5), nextRunAt => undef, inputs => [ { module => 'notes', table => 'notes', id => "b$_" } ]) for 1 .. 40;
push_mission($node, 'other', user => 'user-2', cadence => on_change(debounceMinutes => 5), nextRunAt => undef, inputs => [ { module => 'notes', table => 'notes', id => 'other' } ]);
wait_for($node, 'forty missions wait, and one of another user', 30, "SELECT count(*) FROM mana_ai.input_watches WHERE mission_id LIKE 'bulk%' OR mission_id = 'other'", 41);
$node->safe_psql('mana_sync', <<'END');
BEGIN;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, actor)
SELECT 'notes', 'notes', 'b' || n, 'user-1', 'update', 'c', '{"content": "Vom Agenten"}', '{"kind": "ai"}' FROM generate_series(1, 35) n;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'notes', 'notes', 'b' || n, 'user-1', 'update', 'c', '{"content": "Importiert"}' FROM generate_series(1, 40) n;
SAVEPOINT s;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'notes', 'notes', 'b' || n, 'user-1', 'update', 'c', '{"content": "Verworfen"}' FROM generate_series(1, 40) n;
ROLLBACK TO s;
COMMIT;
END
settled();
is(value($node, "SELECT count(*) FROM mana_ai.input_watches WHERE mission_id LIKE 'bulk%' AND changed_at IS NOT NULL"), 40, 'all that waited for one of forty records have their change');
is(of_wake('other', 'changed_at IS NULL'), 't', 'nobody else has');

# A mission that was woken and is held back is not planned any more when its user chooses another cadence.
$node->safe_psql('mana_sync', "SELECT mana_ai.stop('user:user-2', 'Test')");
push_change($node, app => 'notes', table => 'notes', id => 'other', user => 'user-2', data => { content => 'Nachher' }, stamps => { content => iso(0) });
settled();
let_wake('other');
wait_for($node, 'a mission of a stopped user is woken', 20, "SELECT woken_at IS NOT NULL FROM mana_ai.mission_schedule WHERE mission_id = 'other'", 't');
push_change($node, id => 'other', user => 'user-2', data => { cadence => { kind => 'manual' } }, stamps => { cadence => iso(2) });
wait_for($node, 'it is not due any more when it is to be planned by hand', 20, "SELECT woken_at IS NULL AND due_at IS NULL AND wake_at IS NULL FROM mana_ai.mission_schedule WHERE mission_id = 'other'", 't');
$node->safe_psql('mana_sync', "SELECT mana_ai.resume('user:user-2')");

# ---------------------------------------------------------------- a crash

push_record('notes', 'crash', { content => 'Vorher' });
push_watcher('crash', ['crash'], cadence => on_change(debounceMinutes => 0.1));
my $worker = worker_pid($node);
edit('notes', 'crash', { content => 'Nachher' });
kill 'KILL', $worker;
wait_until('sessions are accepted again', 60, sub { return accepts_sessions($node) });
wait_for_iterations($node, 'crash', 1);
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'crash' AND woken_at IS NOT NULL AND outcome = 'planned'"), 1, 'the edit before a crash wakes after it');
# The filter is empty after a restart of the server; the first changes meet none.
$node->stop('immediate');
$node->append_conf('postgresql.conf', "mana_ai.tick_enabled = off\n");
$node->start;
push_record('notes', 'n9', { content => 'Niemand' });
edit('notes', 'crash', { content => 'Nach dem Neustart' });
wait_for_worker($node);
settings($node, 'mana_ai.tick_enabled' => 'on');
wait_for($node, 'a change right after a restart is noticed', 30, "SELECT changed_at IS NOT NULL FROM mana_ai.input_watches WHERE mission_id = 'crash'", 't');

# ---------------------------------------------------------------- other cadences

settings($node, 'mana_ai.wake_on_change' => 'on', 'mana_ai.wake_debounce' => '0', 'mana_ai.wake_min_interval' => '1s');
push_record('notes', 'daily', { content => 'Vorher' });
my $tomorrow = iso(86_400);
push_mission($node, 'daily', cadence => { kind => 'interval', everyMinutes => 1440 }, inputs => [ { module => 'notes', table => 'notes', id => 'daily' } ]);
wait_for_iterations($node, 'daily', 1);
wait_for($node, 'a recurring mission watches after its first plan', 20, "SELECT count(*) FROM mana_ai.watched_records WHERE mission_id = 'daily'", 1);
like(why_of($node, 'daily'), qr/^not due until [^;]+; or earlier: waits for a change of its inputs/, 'why() says so');
my $next = record_of($node, 'daily')->{nextRunAt};
edit('notes', 'daily', { content => 'Nachher' });
wait_for_iterations($node, 'daily', 2);
cmp_ok(record_of($node, 'daily')->{nextRunAt}, 'gt', $next, 'a change plans it sooner, and its next run is reckoned from then');
edit('notes', 'daily', { color => 'blue' });
wait_for($node, 'an idle change is found to be none', 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'daily' AND decision = 'skipped-unchanged'", 1);
is(value($node, "SELECT due_at = (record ->> 'nextRunAt')::timestamptz FROM mana_ai.mission_schedule s JOIN mana_ai.mission_snapshots m USING (user_id, mission_id) WHERE mission_id = 'daily'"), 't', 'and it is due when it was');

# A limit for the user.
settings($node, 'mana_ai.wakeups_per_user' => '1');
edit('notes', 'daily', { content => 'Zu oft' });
wait_for($node, 'a user is woken only so often', 20, "SELECT wake_at > clock_timestamp() + interval '10 minutes' FROM mana_ai.input_watches WHERE mission_id = 'daily'", 't');
settings($node, 'mana_ai.wakeups_per_user' => undef);

# Switched off, for the agent.
push_agent($node, 'calm');
$node->safe_psql('mana_sync', "INSERT INTO mana_ai.agent_options (user_id, agent_id, wake_on_change) VALUES ('user-1', 'calm', false)");
push_mission($node, 'calm', agentId => 'calm', inputs => [ { module => 'notes', table => 'notes', id => 'daily' } ]);
wait_for_iterations($node, 'calm', 1);
settled();
is(value($node, "SELECT count(*) FROM mana_ai.input_watches WHERE mission_id = 'calm'"), 0, 'an agent can have another setting');

# ---------------------------------------------------------------- the end

push_change($node, id => 'left', op => 'delete', data => { deletedAt => iso(2) });
push_change($node, id => 'right', data => { cadence => { kind => 'manual' } }, stamps => { cadence => iso(2) });
for my $id (qw(left right))
{
    wait_for($node, "$id does not watch any more", 20, "SELECT (SELECT count(*) FROM mana_ai.input_watches WHERE mission_id = '$id') + (SELECT count(*) FROM mana_ai.watched_records WHERE mission_id = '$id')", 0);
}
is(value($node, "SELECT count(*) FROM broken_invariants()"), 0, 'snapshots and schedule agree with the log');
is($node->psql('mana_sync', "SELECT mana_ai.erase_user('user-1')"), 0, 'a user is erased');
wait_for($node, 'what missions waited for is erased, too', 30, "SELECT (SELECT count(*) FROM mana_ai.input_watches) + (SELECT count(*) FROM mana_ai.watched_records) + (SELECT count(*) FROM mana_ai.input_changes)", 0);

done_testing();
