# A partitioned sync_changes, by user, by time, and both: missions are planned once, plans and feedback find their way
# through the parent, and nothing is paid for that could not be written.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use JSON::PP ();
use Test::More;

my $model = start_model();
my $tasks = { latency_ms => 10, tool_calls => [ { name => 'create_task', arguments => { title => 'Eins' } } ] };
my @users = map { "user-$_" } 1 .. 8;

sub planned { my ($node, $id) = @_; return "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'" }
sub problem { my ($node) = @_; return value($node, 'SELECT coalesce(worker_problem, $$none$$) FROM mana_ai.status()') }

# In which relations rows of the log are.
sub leaves_of { my ($node, $id) = @_; return value($node, "SELECT string_agg(DISTINCT tableoid::regclass::text, ' ' ORDER BY tableoid::regclass::text) FROM public.sync_changes WHERE record_id = '$id'") }

my %nodes;
for my $shape (qw(hash range nested))
{
    my $node = $nodes{$shape} = new_cluster("partitions_$shape", preload => 1, model => $model, shape => $shape, conf => <<'END');
mana_ai.database = 'mana_sync, restored'
mana_ai.tick_interval = '500ms'
mana_ai.max_unreviewed = 0
END
    wait_for_worker($node);
    is(value($node, 'SELECT sync_table FROM mana_ai.status()'), 'public.sync_changes', "$shape: attached by CREATE EXTENSION");
    is(problem($node), 'none', "$shape: nothing is wrong");

    # Its inputs are records of other apps, in the log of the same user.
    push_change($node, user => $_, app => 'todo', table => 'tasks', id => "task-of-$_", op => 'insert', data => { title => "Aufgabe von $_", isCompleted => JSON::PP::false }) for @users;
    push_mission($node, 'm', user => $_, cadence => { kind => 'manual' }, inputs => [ { module => 'todo', table => 'tasks', id => "task-of-$_" } ]) for @users;
    wait_for($node, "$shape: all are planned", 30, planned($node, 'm'), scalar @users);
    is(value($node, "SELECT count(*) FROM public.sync_changes WHERE client_id = 'mana-ai-runner' AND record_id = 'm'"), scalar @users, "$shape: once each");
    is(value($node, "SELECT count(*) FROM mana_ai.runs, jsonb_array_elements(inputs) i WHERE (i ->> 'used')::boolean"), scalar @users, "$shape: with their inputs");
    is(value($node, "SELECT count(*) FROM public.sync_changes WHERE client_id = 'mana-ai-runner' AND tableoid = 'public.sync_changes'::regclass"), 0, "$shape: through the parent");
    is(snapshots_differ($node), '', "$shape: snapshots agree with the log");
    is(value($node, "SELECT count(*) FROM mana_ai.runs r, mana_ai.rebuild_request(r.run_id) q WHERE q.status = 'rebuilt'"), scalar @users, "$shape: their requests can be rebuilt");

    # A device removes a plan that it has not seen, and then answers it.
    my $plan = iterations_of($node, 'm', 'user-1')->[0];
    push_change($node, user => 'user-1', id => 'm', data => { iterations => [], title => 'Neuer Titel' }, stamps => { iterations => iso(0), title => iso(0) });
    wait_until("$shape: a plan that was taken away comes back", 20, sub { @{ iterations_of($node, 'm', 'user-1') } == 1 });
    is_deeply(iterations_of($node, 'm', 'user-1'), [$plan], "$shape: as it was");
    my $answered = { %$plan, userFeedback => "Gut so in $shape" };
    push_change($node, user => 'user-1', id => 'm', data => { iterations => [$answered], nextRunAt => iso(-1) }, stamps => { iterations => iso(1), nextRunAt => iso(1) });
    wait_until("$shape: it is planned again", 20, sub { @{ iterations_of($node, 'm', 'user-1') } == 2 });
    is(iterations_of($node, 'm', 'user-1')->[0]{userFeedback}, "Gut so in $shape", "$shape: feedback stays");
    ok((grep { /Gut so in $shape/ } $model->bodies), "$shape: and the model has read it");
    is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'failed'"), 0, "$shape: no run has failed");
    is(value($node, 'SELECT trigger_errors + dirty_records + unmarked_changes FROM mana_ai.status()'), 0, "$shape: nor the trigger");
}

# ---------------------------------------------------------------- dump and restore

for my $shape (qw(hash nested))
{
    my $node = $nodes{$shape};
    settings($node, 'mana_ai.tick_enabled' => 'off');
    my $file = $node->backup_dir . '/dump.sql';
    command_ok([ 'pg_dump', '-Fp', '-f', $file, $node->connstr('mana_sync') ], "$shape: pg_dump");
    $node->safe_psql('postgres', 'CREATE DATABASE restored');
    restore_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $node->connstr('restored') ], "$shape: restore");
    settings($node, 'mana_ai.tick_enabled' => 'on');
    wait_for($node, "$shape: the restored log is folded", 30, 'SELECT count(*) FROM mana_ai.mission_snapshots', scalar @users, 'restored');
    wait_for($node, "$shape: all of its leaves", 10, "SELECT count(*) FROM mana_ai.folded_leaves", 4, "restored");
    is(snapshots_differ($node, 'restored'), '', "$shape: as the log says");
    is(value($node, 'SELECT coalesce(worker_problem, $$none$$) FROM mana_ai.status()', 'restored'), 'none', "$shape: and it works");
    push_mission($node, 'after', user => 'user-3', database => 'restored', cadence => { kind => 'manual' });
    wait_for($node, "$shape: missions are planned there", 20, planned($node, 'after'), 1, 'restored');
}

# ---------------------------------------------------------------- partitions come and go, by time

my $node = $nodes{range};
# A month comes with the rows of a mission and of one that exists.
$node->safe_psql('mana_sync', <<"END");
ALTER TABLE public.sync_changes DETACH PARTITION public.changes_2021;
INSERT INTO public.changes_2021 (app_id, table_name, record_id, user_id, op, data, client_id, created_at) VALUES
  ('ai', 'aiMissions', 'archived', 'user-1', 'insert', '{"title": "aus dem Archiv", "state": "paused", "objective": "o", "cadence": {"kind": "manual"}}', 'c', '2021-02-01'),
  ('ai', 'aiMissions', 'm', 'user-1', 'update', '{"note": "aus dem Archiv", "title": "alt"}', 'c', '2021-02-01');
END
wait_for($node, 'a full pass without the partition', 10, 'SELECT count(*) FROM mana_ai.folded_leaves', 2);
$node->safe_psql('mana_sync', "ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_2021 FOR VALUES FROM ('2021-01-01') TO ('2021-07-01')");
wait_for($node, 'its rows are folded by the next full pass', 10, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'archived'", 1);
wait_for($node, 'also into records that exist', 10, "SELECT record ->> 'note' FROM mana_ai.mission_snapshots WHERE mission_id = 'm' AND user_id = 'user-1'", 'aus dem Archiv');
is(record_of($node, 'm', 'user-1')->{title}, 'Neuer Titel', 'newer values stay');
is(snapshots_differ($node), '', 'as the log says');
# Detached and attached again at once: no pass has seen it go.
$node->safe_psql('mana_sync', <<"END");
BEGIN;
ALTER TABLE public.sync_changes DETACH PARTITION public.changes_2021;
INSERT INTO public.changes_2021 (app_id, table_name, record_id, user_id, op, data, client_id, created_at) VALUES
  ('ai', 'aiMissions', 'archived', 'user-2', 'insert', '{"title": "noch eine", "state": "paused", "objective": "o", "cadence": {"kind": "manual"}}', 'c', '2021-02-01');
ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_2021 FOR VALUES FROM ('2021-01-01') TO ('2021-07-01');
COMMIT;
END
wait_for($node, 'a partition that was away for a moment', 10, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'archived'", 2);
$node->safe_psql('mana_sync', 'DROP TABLE public.changes_2021');
wait_for($node, 'a full pass has seen it go', 10, 'SELECT count(*) FROM mana_ai.folded_leaves', 2);
is(value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'archived'"), 2, 'what a dropped partition said stays');
is(value($node, "SELECT record ->> 'note' FROM mana_ai.mission_snapshots WHERE mission_id = 'm' AND user_id = 'user-1'"), 'aus dem Archiv', 'in the records of others, too');

# No partition for a plan: nothing is claimed.
push_mission($node, 'waits', cadence => { kind => 'manual' }, nextRunAt => iso(3600));
my $asks = $model->count;
$node->safe_psql('mana_sync', <<"END");
BEGIN;
ALTER TABLE public.sync_changes DETACH PARTITION public.changes_now;
UPDATE mana_ai.mission_schedule SET due_at = now(), wake_at = now() WHERE mission_id = 'waits';
COMMIT;
END
wait_until('a missing partition is reported', 10, sub { problem($node) =~ /^table sync_changes has no partition that takes a plan/ });
fails_like($node, "SELECT * FROM mana_ai.run_mission('user-1', 'waits')", qr/no partition that takes a plan/, 'also to run_mission()');
my $tick = run_tick($node);
is($tick->{due_mission_count} // 0, 0, 'a tick claims nothing');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'waits'"), 0, 'nor does the worker');
is($model->count, $asks, 'and nothing was paid for');
$node->safe_psql('mana_sync', "ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_now FOR VALUES FROM ('2021-07-01') TO (MAXVALUE)");
push_change($node, id => 'waits', data => { nextRunAt => iso(-1) });
wait_for($node, 'then it is planned', 20, planned($node, 'waits'), 1);
is(problem($node), 'none', 'and all is well');

# ---------------------------------------------------------------- and by user

$node = $nodes{hash};
my $leaf = value($node, "SELECT tableoid::regclass FROM public.sync_changes WHERE user_id = 'user-1' LIMIT 1");
my ($number) = $leaf =~ /(\d)$/;
my $other = value($node, "SELECT user_id FROM public.sync_changes WHERE tableoid <> '$leaf'::regclass LIMIT 1");
push_mission($node, 'away', user => $_, cadence => { kind => 'manual' }, nextRunAt => iso(3600)) for 'user-1', $other;
$asks = $model->count;
$node->safe_psql('mana_sync', <<"END");
BEGIN;
ALTER TABLE public.sync_changes DETACH PARTITION $leaf;
UPDATE mana_ai.mission_schedule SET due_at = now(), wake_at = now() WHERE mission_id = 'away';
COMMIT;
END
wait_for($node, 'missions of other users are planned', 20, planned($node, 'away'), 1);
wait_for($node, 'that of a user whose partition is away is not', 20, "SELECT outcome || ' ' || error_kind FROM mana_ai.runs WHERE mission_id = 'away' AND user_id = 'user-1'", 'failed database');
like(last_run($node, 'away', 'user-1')->{error_message}, qr/table sync_changes has no partition that takes a plan/, 'and says why');
is($model->count, $asks + 2, 'only the other one was paid for');
$node->safe_psql('mana_sync', "ALTER TABLE public.sync_changes ATTACH PARTITION $leaf FOR VALUES WITH (MODULUS 4, REMAINDER $number)");
is(run_mission($node, 'away', 'user-1')->{outcome}, 'planned', 'with the partition it is planned');
# Moved to another server: that one's mana_ai plans them.
push_mission($node, 'moved', user => 'user-1', cadence => { kind => 'manual' }, nextRunAt => iso(3600));
$asks = $model->count;
$node->safe_psql('mana_sync', <<"END");
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
BEGIN;
ALTER TABLE public.sync_changes DETACH PARTITION $leaf;
CREATE FOREIGN TABLE public.remote PARTITION OF public.sync_changes FOR VALUES WITH (MODULUS 4, REMAINDER $number) SERVER elsewhere;
COMMIT;
END
is(run_mission($node, 'moved', 'user-1')->{outcome}, 'failed', 'a mission whose partition is on another server is not planned');
like(last_run($node, 'moved', 'user-1')->{error_message}, qr/partition remote, which takes the plan, is on another server/, 'and its run says so');
is($model->count, $asks, 'nothing is paid for');
$node->safe_psql('mana_sync', "DROP FOREIGN TABLE public.remote; ALTER TABLE public.sync_changes ATTACH PARTITION $leaf FOR VALUES WITH (MODULUS 4, REMAINDER $number)");
is(snapshots_differ($node), '', 'snapshots agree with the log');

# ---------------------------------------------------------------- an attached table becomes a partition

my $plain = new_cluster('becomes', preload => 1, model => $model, conf => "mana_ai.tick_interval = '500ms'");
wait_for_worker($plain);
push_mission($plain, 'm', cadence => { kind => 'manual' });
wait_for($plain, 'planned while the table is a plain one', 20, planned($plain, 'm'), 1);
$asks = $model->count;
$plain->safe_psql('mana_sync', <<'END');
BEGIN;
ALTER TABLE public.sync_changes RENAME TO changes_before;
CREATE TABLE public.sync_changes (LIKE public.changes_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (created_at);
ALTER TABLE public.sync_changes OWNER TO postgres;
ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_before FOR VALUES FROM (MINVALUE) TO ('2090-01-01');
CREATE TABLE public.changes_after PARTITION OF public.sync_changes FOR VALUES FROM ('2090-01-01') TO (MAXVALUE);
GRANT SELECT, INSERT ON public.sync_changes TO mana_sync_service;
COMMIT;
END
wait_until('reported', 10, sub { problem($plain) =~ /the log is a partition/ });
push_mission($plain, 'between', cadence => { kind => 'manual' });
is($model->count, $asks, 'nothing is paid for meanwhile');
$plain->safe_psql('mana_sync', q{SELECT mana_ai.attach('public.sync_changes')});
is(problem($plain), 'none', 'attach() with the parent puts it right');
wait_for($plain, 'what came in between is planned', 20, planned($plain, 'between'), 1);
is(value($plain, planned($plain, 'm')), 1, 'nothing is planned twice');
is(snapshots_differ($plain), '', 'snapshots agree with the log');

done_testing();
