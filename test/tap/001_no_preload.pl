# Without preloading: run_tick() and run_mission() start their own background worker.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node  = new_cluster('no_preload', model => $model);

# ---------------------------------------------------------------- nothing to do

my $tick = run_tick($node);
is($tick->{due_mission_count}, 0, 'a tick without missions finds nothing due');
is_deeply($tick->{errors}, [], 'and has no errors');
like($tick->{scanned_at}, qr/^\d{4}-/, 'and says when it looked');
is($model->count, 0, 'the model was not asked');

my $status = rows($node, 'SELECT * FROM mana_ai.status()')->[0];
is($status->{preloaded}, JSON::PP::false, 'status() says that the library is not preloaded');
is($status->{worker_pid}, undef, 'and that there is no worker');
like($status->{worker_problem}, qr/shared_preload_libraries/, 'and what to do about it');
is($status->{last_tick_by}, 'run_tick', 'and who made the last tick');
is($status->{sync_table}, 'public.sync_changes', 'and which table is attached');

# ---------------------------------------------------------------- a plan comes back as an iteration

push_mission($node, 'm1', space => 'space-7', conceptMarkdown => 'Ein *Konzept*',
    cadence => { kind => 'interval', everyMinutes => 90 });
is(why_of($node, 'm1'),
    'worker is not running: mana_ai is not in shared_preload_libraries',
    'why() says that no worker will take the mission up');
my $before = time;
$tick = run_tick($node);
is_deeply(
    [ @$tick{qw(due_mission_count plans_produced plans_written_back parse_failures skipped)} ],
    [ 1, 1, 1, 0, 0 ],
    'one mission is due, planned and written back');
is_deeply($tick->{errors}, [], 'without errors');

my $changes = rows($node, "SELECT * FROM public.sync_changes WHERE client_id = 'mana-ai-runner'");
is(scalar @$changes, 1, 'one row was added to sync_changes');
my $row = $changes->[0];
is_deeply(
    [ @$row{qw(app_id table_name record_id user_id space_id op client_id schema_version)} ],
    [ 'ai', 'aiMissions', 'm1', USER_ID, 'space-7', 'update', 'mana-ai-runner', 1 ],
    'its columns are those of the contract');
is_deeply([ sort keys %{ $row->{data} } ], [qw(iterations nextRunAt updatedAt)], 'it changes three fields');
is_deeply([ sort keys %{ $row->{field_timestamps} } ],
    [qw(iterations nextRunAt updatedAt)], 'and stamps exactly those');
my $stamp = $row->{data}{updatedAt};
like($stamp, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'the instant is written as toISOString() does');
is_deeply([ values %{ $row->{field_timestamps} } ], [ ($stamp) x 3 ], 'all stamps are that instant');

is(scalar @{ $row->{data}{iterations} }, 1, 'there is one iteration');
my $iteration = $row->{data}{iterations}[0];
is_deeply([ sort keys %$iteration ],
    [qw(finishedAt id overallStatus plan promptVersion source startedAt summary)], 'with the fields of the contract');
like($iteration->{id}, qr/^[0-9a-f-]{36}$/, 'its id is a uuid');
is($iteration->{source},        'server',          'its source is the server');
is($iteration->{overallStatus}, 'awaiting-review', 'it waits for review');
like($iteration->{summary}, qr/^Ich habe zwei Schritte vorgeschlagen/, 'its summary is the model\'s');
like($iteration->{$_}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, "$_ is an instant")
  for qw(startedAt finishedAt);
cmp_ok($iteration->{startedAt}, 'le', $iteration->{finishedAt}, 'it started before it finished');
cmp_ok($iteration->{startedAt}, 'ge', iso($before - time - 0.01), 'and not before the tick');
is(scalar @{ $iteration->{plan} }, 2, 'two steps');
for my $i (0, 1)
{
    my $step = $iteration->{plan}[$i];
    is_deeply([ sort keys %$step ], [qw(id intent status summary)], "step $i has the fields of the contract");
    is($step->{id},           "$iteration->{id}-$i", "step $i: id");
    is($step->{status},       'planned',             "step $i: status");
    is($step->{intent}{kind}, 'toolCall',            "step $i: kind");
    is(value($node, "SELECT default_policy FROM mana_ai.tools WHERE name = '$step->{intent}{toolName}'"),
        'propose', "step $i: an offered tool");
    is(ref $step->{intent}{params}, 'HASH', "step $i: parameters");
    ok(length $step->{summary}, "step $i: a summary");
}
is_deeply(
    $row->{actor},
    {   kind        => 'ai',
        principalId => 'legacy:ai-default',
        displayName => 'Mana',
        missionId   => 'm1',
        iterationId => $iteration->{id},
        rationale   => 'Ziel von m1'
    },
    'the actor of a mission without agent');
is(value($node,
        "SELECT '$row->{data}{nextRunAt}'::timestamptz = '$stamp'::timestamptz + interval '90 minutes'"),
    't', 'the next run is 90 minutes after the writing');

is_deeply(record_of($node, 'm1')->{iterations}, $row->{data}{iterations}, 'every client sees the iteration');
is(snapshots_differ($node), '', 'the snapshot is the replay');
my $run = last_run($node, 'm1');
is_deeply(
    [ @$run{qw(outcome decision rounds steps prompt_tokens completion_tokens total_tokens model iteration_id)} ],
    [ 'planned', 'ran', 2, 2, 2700, 140, 2840, 'google/gemini-2.5-flash', $iteration->{id} ],
    'the run is on record');
is($run->{error_kind}, undef, 'without an error');
ok($run->{finished_at}, 'with its end');
is(value($node, "SELECT string_agg(tokens_used::text, ',' ORDER BY ts) FROM mana_ai.token_usage WHERE user_id = '@{[USER_ID]}'"),
    '1280,1560', 'each reply\'s usage is on record');
like(why_of($node, 'm1'), qr/^not due until /, 'why() says when it is due again');
is(value($node, 'SELECT count(*) FROM mana_ai.mission_schedule WHERE lease_owner IS NOT NULL'), 0,
    'no lease is left');
is(run_tick($node)->{due_mission_count}, 0, 'the next tick does not plan it again');

# What was sent to the model.
my @requests = $model->requests;
is(scalar @requests, 2, 'the model was asked twice');
my $body = $requests[0]{body};
is($requests[0]{path}, '/v1/chat/completions', 'at the path of the contract');
is_deeply([ sort keys %$body ], [qw(max_tokens messages model stream temperature tool_choice tools)], 'the body\'s members');
is($body->{temperature}, 0.3, 'temperature');
is_deeply([ map { $_->{role} } @{ $body->{messages} } ], [qw(system user)], 'it starts with system and user');
like($body->{messages}[1]{content}, qr/Ziel von m1/, 'the objective is in the user prompt');
like($body->{messages}[1]{content}, qr/Ein \*Konzept\*/, 'so is the concept');
is_deeply([ map { $_->{role} } @{ $requests[1]{body}{messages} } ],
    [qw(system user assistant tool tool)], 'calls and their answers are in the second request');
is_deeply(
    [ sort map { $_->{function}{name} } @{ $body->{tools} } ],
    [ split /\n/, value($node, "SELECT name FROM mana_ai.tools WHERE default_policy = 'propose' AND enabled ORDER BY name COLLATE \"C\"") ],
    'exactly the tools that may be proposed are offered');

# ---------------------------------------------------------------- run_mission

push_mission($node, 'manual', nextRunAt => undef, cadence => { kind => 'manual' });
my $result = run_mission($node, 'manual');
is_deeply([ @$result{qw(outcome steps rounds tokens error)} ], [ 'planned', 2, 2, 2840, undef ],
    'run_mission() plans a mission that is not due');
is($result->{iteration_id}, iterations_of($node, 'manual')->[0]{id}, 'and returns its iteration');
is(record_of($node, 'manual')->{nextRunAt}, undef, 'a manual mission has no next run');
fails_like($node, "SELECT * FROM mana_ai.run_mission('@{[USER_ID]}', 'unheard-of')",
    qr/ERROR:  02000: mission "unheard-of" of user "user-1" does not exist/, 'a mission that does not exist');
push_mission($node, 'done', state => 'done');
is(run_mission($node, 'done')->{outcome}, 'skipped-inactive', 'a mission that is done is not run');
push_agent($node, 'a1', state => 'paused');
push_mission($node, 'paused', agentId => 'a1', nextRunAt => undef);
is(run_mission($node, 'paused')->{outcome}, 'skipped-paused', 'gates apply to run_mission()');

# ---------------------------------------------------------------- inside the caller's transaction

push_mission($node, 'in-block');
my ($id) = ('uncommitted');
my $out = value($node, <<"END");
BEGIN;
SET LOCAL app.current_user_id = '@{[USER_ID]}';
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', '$id', '@{[USER_ID]}', 'insert', 'c',
  '{"state": "active", "nextRunAt": "2020-01-01T00:00:00Z", "cadence": {"kind": "manual"}}');
SELECT due_mission_count FROM mana_ai.run_tick();
SELECT count(*) FROM public.sync_changes WHERE record_id = 'in-block' AND client_id = 'mana-ai-runner';
ROLLBACK;
END
is($out, "1\n1", 'run_tick() in a transaction block plans what is committed, not the block\'s own changes');
is(scalar @{ iterations_of($node, 'in-block') }, 1, 'the plan outlives the caller\'s rollback');
is(record_of($node, $id), undef, 'the block\'s own mission is gone with it');

push_mission($node, 'locked');
$out = value($node, <<'END');
BEGIN;
SELECT 1 FROM mana_ai.mission_schedule WHERE mission_id = 'locked' FOR UPDATE;
SELECT due_mission_count FROM mana_ai.run_tick();
ROLLBACK;
END
is($out, "1\n0", 'a row that the caller holds itself is left out and does not hang the tick');
is(run_tick($node)->{plans_written_back}, 1, 'the next tick takes it up');

# ---------------------------------------------------------------- errors with a hint

fails_like($node, 'BEGIN READ ONLY; SELECT * FROM mana_ai.run_tick();',
    qr/ERROR:  25006: cannot execute mana_ai\.run_tick\(\) in a read-only transaction\n.*HINT:  /s,
    'a read-only transaction');
fails_like($node, 'SELECT * FROM mana_ai.run_tick()', qr/ERROR:  42501: permission denied/,
    'without privileges', user => 'nobody_special');
fails_like($node, "SELECT * FROM mana_ai.run_mission('u', 'm')", qr/ERROR:  42501: permission denied/,
    'run_mission() without privileges', user => 'mana_sync_service');
value($node, 'GRANT USAGE ON SCHEMA mana_ai TO nobody_special; GRANT EXECUTE ON FUNCTION mana_ai.run_tick() TO nobody_special');
is(value($node, 'SET ROLE nobody_special; SELECT due_mission_count FROM mana_ai.run_tick()'), '0',
    'the right to execute it is all that run_tick() needs');
value($node, 'REVOKE ALL ON FUNCTION mana_ai.run_tick() FROM nobody_special; REVOKE USAGE ON SCHEMA mana_ai FROM nobody_special');

# ---------------------------------------------------------------- overlap and cancel

# Sessions that wait for the model, and how each is ended.
sub leases { return value($node, 'SELECT count(*) FROM mana_ai.mission_schedule WHERE lease_owner IS NOT NULL') }
my $tick_workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai tick'";

$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
push_mission($node, 'hangs');
my $session = background($node, 'SELECT * FROM mana_ai.run_tick()');
$model->wait_in_flight(1);
is(value($node, $tick_workers), 1, 'the worker of the tick shows in pg_stat_activity');
is(value($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai tick' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)"),
    0, 'it has no transaction and no snapshot while it waits for the model');
like(why_of($node, 'hangs'), qr/^running since /, 'why() says that the mission runs');
is_deeply(run_tick($node)->{errors}, ['overlap-skipped'], 'a second tick returns at once');
fails_like($node, "SELECT * FROM mana_ai.run_mission('@{[USER_ID]}', 'hangs')",
    qr/ERROR:  55006: mission "hangs" of user "user-1" is running already/, 'a mission runs only once at a time');

sub ended_cleanly
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    wait_for($node, "$what: the worker ends within a second", 1, $tick_workers, 0);
    is(leases(), 0, "$what: the lease is given back");
    my $last = last_run($node, 'hangs');
    is($last->{outcome}, 'canceled', "$what: the run is on record as canceled");
    is($model->in_flight, 0, "$what: the call is dropped");
    is(count_due($node), 1, "$what: the mission is due as before");
    return;
}

value($node, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%run_tick%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'");
my (undef, undef, $stderr) = $session->finish(5);
like($stderr, qr/ERROR:  57014: canceling statement due to user request/, 'pg_cancel_backend(): the caller gets an error');
ended_cleanly('pg_cancel_backend()');

fails_like($node, "SET statement_timeout = '300ms'; SELECT * FROM mana_ai.run_tick();",
    qr/ERROR:  57014: canceling statement due to statement timeout/, 'statement_timeout: the caller gets an error');
ended_cleanly('statement_timeout');

$session = background($node, 'SELECT * FROM mana_ai.run_tick()');
$model->wait_in_flight(1);
value($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%run_tick%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'");
(undef, undef, $stderr) = $session->finish(5);
like($stderr, qr/57P01: terminating connection/, 'pg_terminate_backend(): the caller is gone');
ended_cleanly('pg_terminate_backend()');

$session = background($node, "SELECT * FROM mana_ai.run_mission('@{[USER_ID]}', 'hangs')");
$model->wait_in_flight(1);
value($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'mana_ai tick'");
(undef, undef, $stderr) = $session->finish(5);
like($stderr, qr/ERROR:  57P01: the tick was terminated/, 'termination of the worker: the caller gets an error');
ended_cleanly('termination of the worker');

$session = background($node, 'SELECT * FROM mana_ai.run_tick()');
$model->wait_in_flight(1);
value($node, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'mana_ai tick'");
(undef, undef, $stderr) = $session->finish(5);
like($stderr, qr/ERROR:  57014: canceling statement/, 'cancel of the worker: the caller gets an error');
ended_cleanly('cancel of the worker');

$session = background($node, 'SELECT * FROM mana_ai.run_tick()');
$model->wait_in_flight(1);
$session->kill('KILL');
# A disconnected client is noticed when the answer is sent; the mission is planned meanwhile.
value($node, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%run_tick%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'");
ended_cleanly('a client that was killed');

$model->reset;
is(run_tick($node)->{plans_written_back}, 1, 'afterwards the mission is planned as usual');
is(value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id = 'hangs' AND client_id = 'mana-ai-runner'"),
    1, 'exactly once');

# ---------------------------------------------------------------- no free slot for a worker

settings($node, 'max_worker_processes' => 0, 'max_parallel_workers' => 0);
$node->restart;
fails_like($node, 'SELECT * FROM mana_ai.run_tick()',
    qr/ERROR:  53000: could not start a background worker for the tick\n.*HINT:  .*max_worker_processes/s,
    'no slot for a background worker');

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;
$model->stop;
done_testing();
