# Devices push the whole list of iterations with every edit of a mission, and rarely pull before: a plan that they have
# not seen is taken away. It is put back, once per loss, as often as it may be, unless the mission was deleted.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
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
    my %of = map { $_ => delete $more{$_} } grep { exists $more{$_} } qw(space user);
    push_change($node, id => $id, %of, data => { iterations => $iterations, %more }, stamps => { map { $_ => iso($offset // 0) } 'iterations', keys %more });
    return;
}

sub ids_of { my ($id, $of) = @_; return [ map { $_->{id} } @{ iterations_of($node, $id, $of) } ] }

sub wait_for_ids
{
    my ($id, $expected, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = wait_until($what, 20, sub { join(' ', @{ ids_of($id) }) eq join ' ', @$expected });
    diag('iterations: ' . join ' ', @{ ids_of($id) }) unless $ok;
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
is($record->{title}, 'Neuer Titel', 'in addition to what the device wrote');
is_deeply($record->{iterations}[0], $plan, 'as it was');
my @written = @{ runner_rows('one') };
is(scalar @written, 2, 'with one row');
is_deeply([ sort keys %{ $written[1]{data} } ], ['iterations'], 'of the iterations alone');
is_deeply([ sort keys %{ $written[1]{field_timestamps} } ], ['iterations'], 'with its stamp');
is($written[1]{actor}{iterationId}, $plan->{id}, 'by the actor of the plan');
is($written[1]{space_id}, 'space-1', 'in the mission\'s space');
is($written[1]{op}, 'update', 'as an update');
wait_for_checks($node);
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
# clocks are as their names say, their rows come in any order. What the last one has made of the server's is kept if it was
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
    wait_until("@$order: our iteration is in the record in the end", 20, sub {
        my $iterations = iterations_of($node, $id);
        my ($found) = grep { $_->{id} eq $ours->{id} } @$iterations;
        return $found && ("@$order" !~ /done.*stale/ || ($found->{userFeedback} // '') eq 'Gut');
    });
    wait_for_checks($node);
    is(scalar(grep { $_ eq $ours->{id} } @{ ids_of($id) }), 1, "@$order: once");
    # Devices compare stamps as texts, and of equal ones take what comes later.
    is(value($node, <<"END"), 1, "@$order: and on every device that has pulled all rows");
SELECT count(*) FROM (SELECT data -> 'iterations' AS iterations FROM public.sync_changes WHERE record_id = '$id' AND data ? 'iterations'
                       ORDER BY field_timestamps ->> 'iterations' COLLATE "C" DESC NULLS LAST, ctid DESC LIMIT 1) newest,
       jsonb_array_elements(iterations) i WHERE i ->> 'id' = '$ours->{id}'
END
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
like(value($node, "SELECT problem FROM mana_ai.mission_problems WHERE mission_id = 'again'"), qr/^devices have overwritten iteration \Q$plan->{id}\E 6 times: it is not restored any more$/, 'and that is a mission problem');
wait_for_checks($node);

# What was given up is written down once, not with every further loss.
my $many = planned('many');
$node->safe_psql('mana_sync', "INSERT INTO mana_ai.restored_iterations (user_id, mission_id, iteration_id, restores, restored_at)"
      . " SELECT '$user', 'many', 'gone-' || n, 5, now() - interval '1 hour' FROM generate_series(1, 3) n");
device_writes('many', [], 0);
wait_for_ids('many', [ $many->{id} ], 'a plan comes back although others were given up');
my $given_up = "SELECT string_agg(iteration_id || given_up_at || restored_at, ' ' ORDER BY iteration_id) FROM mana_ai.restored_iterations WHERE mission_id = 'many' AND given_up_at IS NOT NULL";
my $first = value($node, $given_up);
is(scalar(() = $first =~ /gone-/g), 3, 'of which each is a problem');
$node->safe_psql('mana_sync', "UPDATE mana_ai.restored_iterations SET restored_at = now() - interval '20 seconds' WHERE mission_id = 'many' AND given_up_at IS NULL");
device_writes('many', [], 10);
wait_until('and again', 30, sub { value($node, "SELECT max(restores) FROM mana_ai.restored_iterations WHERE mission_id = 'many' AND given_up_at IS NULL") == 2 });
is(value($node, $given_up), $first, 'since the same time');
like(log_since($node), qr/iteration gone-\d and 2 others of mission many of user \S+ will not be restored any more/, 'with one line in the log');

# ---------------------------------------------------------------- what a mission waits for

# A mission whose last run has failed, with a lost plan whose restoring is not due yet.
$plan = planned('waits');
$node->safe_psql('mana_sync', "INSERT INTO mana_ai.restored_iterations (user_id, mission_id, iteration_id, restores, restored_at) VALUES ('$user', 'waits', '$plan->{id}', 4, now())");
device_writes('waits', [], 0, objective => '[[szenario:422]]', nextRunAt => iso(-60));
wait_for($node, 'a mission fails and backs off', 20, "SELECT not_before > now() + interval '1 hour' FROM mana_ai.mission_schedule WHERE mission_id = 'waits' AND lease_owner IS NULL", 't');
is_deeply(ids_of('waits'), [], 'before its plan is put back');
my $wait  = "SELECT not_before || ' ' || wake_at FROM mana_ai.mission_schedule WHERE mission_id = 'waits'";
my $until = value($node, $wait);
my $asked = $model->count;
$node->safe_psql('mana_sync', <<'END');
UPDATE mana_ai.restored_iterations SET restored_at = restored_at - interval '1 hour' WHERE mission_id = 'waits';
UPDATE mana_ai.mission_schedule SET check_iterations_at = now() WHERE mission_id = 'waits';
SELECT pg_reload_conf()
END
wait_for_ids('waits', [ $plan->{id} ], 'the plan comes back');
is(value($node, $wait), $until, 'and the mission waits as long as before');
wait_for_checks($node);
is($model->count, $asked, 'so that the model is not asked again');

# ---------------------------------------------------------------- a long history

# Years of a mission: more than can be read in any time that others could wait, plans that were lost long ago among it. Of a
# user of its own, who waits after that.
$plan = planned('years', user => 'user-5');
# With sanitizers, which are several times slower, a fifth is as long.
my $days = is_sanitized() ? 60 : 300;
$node->safe_psql('mana_sync', <<"END");
ALTER TABLE public.sync_changes DISABLE TRIGGER USER;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, created_at, data, field_timestamps)
SELECT 'ai', 'aiMissions', 'years', 'user-5', 'update', 'browser-1', now() - ($days + 1 - k) * interval '1 day',
       jsonb_build_object('iterations', i.iterations), jsonb_build_object('iterations', '2024-01-01T00:00:00.000Z')
  FROM generate_series(1, $days) k,
       (SELECT jsonb_agg(jsonb_build_object('id', 'y' || n, 'source', 'server', 'startedAt', '2024-01-01T00:00:00.000Z', 'plan',
               (SELECT jsonb_agg(jsonb_build_object('id', s, 'status', 'approved', 'intent', jsonb_build_object('params', jsonb_build_object('text', repeat(md5(n || '-' || s), 4)))))
                  FROM generate_series(1, 8) s))) AS iterations FROM generate_series(1, 600) n) i;
ALTER TABLE public.sync_changes ENABLE TRIGGER USER;
END
note value($node, "SELECT pg_size_pretty(sum(length(data::text))) FROM public.sync_changes WHERE record_id = 'years'");
device_writes('years', [], 0, user => 'user-5');
wait_until('a plan comes back though the history of its mission is too long to be read', 60, sub { join(' ', @{ ids_of('years', 'user-5') }) eq $plan->{id} });
is(value($node, "SELECT count(*) FROM mana_ai.restored_iterations WHERE mission_id = 'years' AND iteration_id = ''"), 0, 'at the first try');

# One that plans every few minutes: thousands of iterations, each row of the log has them all, and so has the device that
# lacks the newest. Of another user, for the same reason.
$plan = planned('frequent', user => 'user-4');
my $history = q(SELECT jsonb_agg(jsonb_build_object('id', md5('i' || n)::uuid, 'source', 'server', 'startedAt', to_char(timestamp '2024-01-01' + n * interval '5 min', 'YYYY-MM-DD"T"HH24:MI:SS".000Z"'),
  'overallStatus', 'approved', 'plan', '[]'::jsonb)) FROM generate_series(1, 6000) n);
$node->safe_psql('mana_sync', <<"END");
ALTER TABLE public.sync_changes DISABLE TRIGGER USER;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, created_at, data, field_timestamps)
SELECT 'ai', 'aiMissions', 'frequent', 'user-4', 'update', 'browser-1', now() - (101 - k) * interval '1 day',
       jsonb_build_object('iterations', i.iterations), jsonb_build_object('iterations', '2024-01-01T00:00:00.000Z')
  FROM generate_series(1, 100) k, ($history) i(iterations);
ALTER TABLE public.sync_changes ENABLE TRIGGER USER;
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, started_at, finished_at, outcome, decision, iteration_id)
SELECT gen_random_uuid(), 'user-4', 'frequent', now() - interval '1 day', now(), 'planned', 'ran', md5('i' || n)::uuid FROM generate_series(1, 6000) n;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, field_timestamps)
SELECT 'ai', 'aiMissions', 'frequent', 'user-4', 'update', 'browser-1', jsonb_build_object('iterations', i.iterations),
       jsonb_build_object('iterations', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
  FROM ($history) i(iterations);
END
wait_until('a plan comes back to a mission that has thousands', 60, sub { (ids_of('frequent', 'user-4')->[-1] // '') eq $plan->{id} });
is(value($node, "SELECT count(*) FROM mana_ai.restored_iterations WHERE mission_id = 'frequent' AND iteration_id = ''"), 0, 'at the first try');

# ---------------------------------------------------------------- what is not put back

$plan = planned('deleted');
push_changes($node,
    { id => 'deleted', data => { iterations => [] }, stamps => { iterations => iso(0) } },
    { id => 'deleted', op => 'delete', data => { deletedAt => iso(1) } });
wait_for_checks($node);
is(record_of($node, 'deleted'), undef, 'a mission that its user has deleted stays deleted');

# Made again under the same id, with a change, so that its record comes to be from the log.
push_changes($node, { id => 'deleted', op => 'insert', data => { %{ ManaAi::mission_change('deleted', nextRunAt => iso(3600), updatedAt => iso(2), cadence => { kind => 'manual' })->{data} } } });
push_changes($node, { id => 'deleted', data => { title => 'Neu' }, stamps => { title => iso(3) } });
$node->safe_psql('mana_sync', 'SELECT mana_ai.refresh_snapshots(rebuild => true)');
$node->safe_psql('mana_sync', "UPDATE mana_ai.mission_schedule SET check_iterations_at = now() WHERE mission_id = 'deleted'; SELECT pg_reload_conf()");
wait_for_checks($node);
is_deeply(ids_of('deleted'), [], 'one that is made again under its id does not get the plans of its former life');

# Deleted while the plan was put back: the deletion's transaction had begun before.
$plan = planned('overtaken');
device_writes('overtaken', [], 0);
wait_for_ids('overtaken', [ $plan->{id} ], 'a plan is put back');
$node->safe_psql('mana_sync', <<"END");
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, created_at, data, field_timestamps)
SELECT 'ai', 'aiMissions', 'overtaken', '$user', 'delete', 'browser-1', max(created_at) - interval '1 ms', jsonb_build_object('deletedAt', '@{[ iso(1) ]}'), '{}'
  FROM public.sync_changes WHERE record_id = 'overtaken' AND client_id = 'mana-ai-runner'
END
is(record_of($node, 'overtaken'), undef, 'while its mission is being deleted');
push_changes($node, { id => 'overtaken', op => 'insert', data => { %{ ManaAi::mission_change('overtaken', nextRunAt => iso(3600), updatedAt => iso(2), cadence => { kind => 'manual' })->{data} } } });
$node->safe_psql('mana_sync', "UPDATE mana_ai.mission_schedule SET check_iterations_at = now() WHERE mission_id = 'overtaken'; SELECT pg_reload_conf()");
wait_for_checks($node);
is_deeply(ids_of('overtaken'), [], 'and does not come back to one that is made again under its id');

my $foreign = { id => 'foreign', startedAt => iso(-60), plan => [], overallStatus => 'awaiting-review', source => 'server' };
push_mission($node, 'foreign', cadence => { kind => 'manual' }, iterations => [$foreign], nextRunAt => iso(3600));
device_writes('foreign', [], 0);
wait_for_checks($node);
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

# ---------------------------------------------------------------- what clients forge

# One transaction of rows each of which has the iterations that $iterations (SQL of k) says, and a last one with none.
sub forge
{
    my ($id, $of, $rows, $iterations, $client, $actor) = @_;
    $node->safe_psql('mana_sync', <<"END");
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, actor, data, field_timestamps)
SELECT 'ai', 'aiMissions', '$id', '$of', 'update', '$client', $actor,
       jsonb_build_object('iterations', CASE WHEN k > $rows THEN '[]'::jsonb ELSE $iterations END),
       jsonb_build_object('iterations', to_char((now() + k * interval '1 ms') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
  FROM generate_series(1, $rows + 1) k
END
    return;
}

# The most memory that the worker has had, in kilobytes.
sub peak_of_worker
{
    my ($peak) = slurp_file('/proc/' . worker_pid($node) . '/status') =~ /^VmHWM:\s+(\d+) kB/m;
    return $peak;
}

settings($node, 'mana_ai.sync_table_timeout' => '60s');
$plan = planned('flood', user => 'user-2');
my ($worker, $peak) = (worker_pid($node), peak_of_worker());
forge('flood', 'user-2', 40, q(jsonb_build_array(jsonb_build_object('id', 'forged-' || k, 'source', 'server', 'x',
    repeat('x', CASE WHEN k % 4 = 0 THEN 9000000 ELSE 1500000 END)))), 'browser-1', 'NULL');
wait_until('a plan comes back out of a flood of iterations that a client calls the server\'s', 120, sub { join(' ', @{ ids_of('flood', 'user-2') }) eq $plan->{id} });
is(worker_pid($node), $worker, 'by the same worker');
cmp_ok(peak_of_worker() - $peak, '<', 100_000, 'which does not grow by what it need not read');
wait_for_checks($node);

# As many rows that say that they are ours: as much comes back as the record may have.
$plan = planned('flood-as-ours', user => 'user-3');
$peak = peak_of_worker();
forge('flood-as-ours', 'user-3', 40, q(jsonb_build_array(jsonb_build_object('id', md5(k::text)::uuid, 'source', 'server', 'x',
    repeat('x', 1500000)))), 'mana-ai-runner', q(jsonb_build_object('iterationId', md5(k::text)::uuid)));
wait_until('the plan comes back first, with some of what looks like ours', 120, sub { scalar(grep { $_ eq $plan->{id} } @{ ids_of('flood-as-ours', 'user-3') }) });
wait_for_checks($node);
cmp_ok(value($node, "SELECT mana_ai.raw_size(record) FROM mana_ai.mission_snapshots WHERE mission_id = 'flood-as-ours'"),
    '<=', 2 * 1024 * 1024, 'only as much as fits into a record');
cmp_ok(peak_of_worker() - $peak, '<', 100_000, 'and the worker does not grow by the rest');
settings($node, 'mana_ai.sync_table_timeout' => undef);

# Longer than an index takes, and incompressible.
$plan = planned('long');
my $long = q((SELECT string_agg(md5(g::text), '') FROM generate_series(1, 300) g));
forge('long', $user, 1, "jsonb_build_array(jsonb_build_object('id', $long, 'source', 'server'))", 'mana-ai-runner', "jsonb_build_object('iterationId', $long)");
wait_for_ids('long', [ $plan->{id} ], 'a long id does not keep a plan away');
wait_for_checks($node);

# Our row is gone; what has the plan is a device's row, whose actor is the device's word.
$plan = planned('actor');
$node->safe_psql('mana_sync', "DELETE FROM public.sync_changes WHERE record_id = 'actor' AND client_id = 'mana-ai-runner'");
forge('actor', $user, 1, q((SELECT record -> 'iterations' FROM mana_ai.mission_snapshots WHERE mission_id = 'actor')), 'browser-1', qq('{"kind": "user", "iterationId": "$plan->{id}"}'));
wait_for_ids('actor', [ $plan->{id} ], 'a plan of which only a device has a copy comes back');
is_deeply([ map { $_->{actor} } @{ runner_rows('actor') } ], [undef], 'in nobody\'s name');

# ---------------------------------------------------------------- what cannot be put back

$plan = planned('fails');
$node->safe_psql('mana_sync', <<'END');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON public.sync_changes FOR EACH ROW
  WHEN (NEW.client_id = 'mana-ai-runner' AND NEW.record_id = 'fails') EXECUTE FUNCTION public.refuse();
END
device_writes('fails', [], 0);
my $failures = "SELECT count(*) FROM mana_ai.restored_iterations WHERE mission_id = 'fails' AND iteration_id = '' AND restores >= ";
wait_for($node, 'a failure is counted', 20, $failures . 1, 1);
is(value($node, "SELECT s.check_iterations_at > r.restored_at + interval '9 seconds' FROM mana_ai.mission_schedule s JOIN mana_ai.restored_iterations r USING (mission_id) WHERE mission_id = 'fails'"), 't', 'it is tried again later');
$node->safe_psql('mana_sync', <<'END');
UPDATE mana_ai.restored_iterations SET restores = 6 WHERE mission_id = 'fails';
UPDATE mana_ai.mission_schedule SET check_iterations_at = now() WHERE mission_id = 'fails';
SELECT pg_reload_conf()
END
wait_for($node, 'the seventh failure', 20, $failures . 7, 1);
is(value($node, "SELECT check_iterations_at IS NULL FROM mana_ai.mission_schedule WHERE mission_id = 'fails'"), 't', 'is the last');
is(value($node, "SELECT problem FROM mana_ai.mission_problems WHERE mission_id = 'fails'"), 'plans that devices have overwritten could not be restored: 7 attempts have failed', 'and a mission problem');
$node->safe_psql('mana_sync', 'DROP FUNCTION public.refuse() CASCADE');
device_writes('fails', [ { id => 'x', startedAt => iso(0), plan => [], source => 'server' } ], 1);
device_writes('fails', [], 2);
wait_for_ids('fails', [ $plan->{id} ], 'the next loss is tried again');
is(value($node, "SELECT count(*) FROM mana_ai.mission_problems WHERE mission_id = 'fails'"), 0, 'and then there is no problem any more');

planned('repair');
$node->safe_psql('mana_sync', <<"END");
UPDATE mana_ai.mission_snapshots SET updated_at = now() - interval '2 hours' WHERE mission_id = 'repair';
INSERT INTO mana_ai.oversized_records VALUES ('$user', 'aiMissions', 'repair', now() - interval '1 hour');
UPDATE mana_ai.mission_schedule SET check_iterations_at = now() WHERE mission_id = 'repair';
SELECT pg_reload_conf()
END
wait_for($node, 'a mission that has long waited for its repair is looked at once a minute', 20, <<'END', 't');
SELECT check_iterations_at > now() + interval '20 seconds' FROM mana_ai.mission_schedule WHERE mission_id = 'repair'
END
$node->safe_psql('mana_sync', "DELETE FROM mana_ai.oversized_records WHERE record_id = 'repair'");

# ---------------------------------------------------------------- deletions

push_change($node, id => 'one', op => 'delete', data => { deletedAt => iso(1) });
wait_for($node, 'the counts of a deleted mission go', 20, "SELECT count(*) FROM mana_ai.restored_iterations WHERE mission_id = 'one'", 0);

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

# The server crashes; the extension is created again from the log.
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
wait_for_ids('anew', [ $plan->{id} ], 'a loss that only the log tells of, by a manual tick');
is(snapshots_differ($node), '', 'snapshots are those of the log');

sub planned_by_hand
{
    my ($id) = @_;
    push_mission($node, $id, cadence => { kind => 'manual' });
    is(run_mission($node, $id)->{outcome}, 'planned', "$id is planned");
    return iterations_of($node, $id)->[-1];
}

done_testing();
