# The extension never delays a shutdown, and paid replies are on the ledger afterwards.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# The goal is two seconds; a machine that is busy with other things gets more.
use constant SOON => 10;

my $model = start_model();
my $node  = new_cluster('shutdown', preload => 1, streaming => 1, model => $model,
    # One user has all missions; what the calls in flight reserve is more than a day's allowance.
    conf => "mana_ai.max_concurrency = 500\nmana_ai.llm_timeout = '120s'\nmana_ai.user_tokens_per_day = 0");
wait_for_worker($node);

sub stops_soon
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $pid = worker_pid($node);
    my $stopped;
    my $took = timed(sub { $stopped = $node->stop('fast', fail_ok => 1, timeout => 60) });
    ok($took < SOON, "$what: a fast shutdown ends soon");
    note sprintf "%s: %.2f s", $what, $took;
    unless (defined $stopped && !-e $node->data_dir . '/postmaster.pid')
    {
        diag("it does not end at all");
        $node->stop('immediate', fail_ok => 1);
    }
    return;
}

sub hang
{
    my (@ids) = @_;
    $model->reset;
    $model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
    push_missions($node, \@ids);
    # Missions of before may be among them.
    wait_until(scalar(@ids) . ' model calls are in flight', 30, sub { $model->in_flight >= @ids });
    return;
}

# Plans what is left. Reset the model before the worker comes back: it never answers a call that it has left hanging.
sub settle
{
    wait_for_worker($node, 'mana_sync', 20);
    wait_for($node, 'afterwards all are planned, once each', 60,
        "SELECT count(*) FROM mana_ai.mission_schedule WHERE due_at <= clock_timestamp() OR lease_owner IS NOT NULL", 0);
    is(value($node, "SELECT count(*) FROM (SELECT record_id FROM public.sync_changes WHERE client_id = 'mana-ai-runner' GROUP BY 1 HAVING count(*) > 1) d"),
        0, 'none twice');
    return;
}

# ---------------------------------------------------------------- many calls in flight

my @many = map { "many$_" } 1 .. 400;
hang(@many);
stops_soon('400 calls in flight');
$model->reset;
$node->start;
settle();
is(value($node, "SELECT string_agg(DISTINCT outcome, ',' ORDER BY outcome) FROM mana_ai.runs WHERE mission_id LIKE 'many%'"),
    'canceled,planned', 'the runs were canceled, not lost');

# The postmaster signals a child and then its process group: SIGTERM comes more than once.
my @signaled = map { "signaled$_" } 1 .. 100;
hang(@signaled);
my $signaled_pid = worker_pid($node);
$model->reset;
wait_until('the worker ends while SIGTERM keeps coming', SOON, sub {
    kill('TERM', $signaled_pid), sleep 0.0005 for 1 .. 100;
    return !kill 0, $signaled_pid;
});
settle();
is(value($node, "SELECT string_agg(DISTINCT outcome, ',' ORDER BY outcome) FROM mana_ai.runs WHERE mission_id LIKE 'signaled%'"),
    'canceled,planned', 'it has given its leases back');

# ---------------------------------------------------------------- tables of mana_ai locked by somebody else

for my $table (qw(mission_schedule runs mission_snapshots agent_snapshots token_usage engine_state dirty_records
    mission_research_jobs decrypt_audit folded_log record_tombstones tools iterations_at_claim))
{
    hang("of_$table");
    my $holder = background($node, "BEGIN; LOCK mana_ai.$table IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)");
    wait_for($node, "$table is locked", 10,
        "SELECT count(*) FROM pg_locks WHERE relation = 'mana_ai.$table'::regclass AND mode = 'AccessExclusiveLock' AND granted", 1);
    # Something to do under that lock.
    eval { push_mission($node, "under_$table", nextRunAt => iso(1)) } unless $table =~ /snapshots|schedule/;
    sleep 0.5;
    # status() would wait for the table.
    my $pid = value($node, 'SELECT worker_pid FROM mana_ai.worker_status()');
    $model->reset;
    my $took = timed(sub {
        kill 'TERM', $pid;
        wait_until("$table: SIGTERM ends the worker", SOON, sub { !kill 0, $pid });
    });
    note sprintf "%s: %.2f s after SIGTERM", $table, $took;
    $holder->kill('TERM');
    $holder->finish(10);
    $node->safe_psql('postgres',
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()");
    wait_for_worker($node, 'mana_sync', 20);
}
settle();

# ---------------------------------------------------------------- the log is being folded

$node->safe_psql('mana_sync', <<'END');
SELECT mana_ai.detach();
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', 'aiMissions', 'f' || n, 'folder-' || n % 100, 'insert', 'browser-1',
       jsonb_build_object('id', 'f' || n, 'title', 'Mission', 'state', 'paused', 'conceptMarkdown', repeat('x', 2000))
  FROM generate_series(1, 60000) n;
TRUNCATE mana_ai.folded_log;
END
my $attach = background($node, "SELECT mana_ai.attach('public.sync_changes')");
wait_for($node, 'a session folds the log', 20,
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT mana_ai.attach%' AND state = 'active' AND pid <> pg_backend_pid()", 1);
sleep 0.3;
stops_soon('a fold');
$attach->finish(10);
$node->start;
$node->safe_psql('mana_sync', "SELECT mana_ai.attach('public.sync_changes')");
wait_for_worker($node, 'mana_sync', 20);

# The worker's own: history that a restore has left without snapshots.
$node->safe_psql('mana_sync', 'TRUNCATE mana_ai.folded_log');
settings($node, 'mana_ai.tick_interval' => '1s');
wait_until('the worker folds the log', 20,
    sub { value($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai worker' AND query = 'mana_ai: keeping up with the log' AND state = 'active'") });
stops_soon("a fold by the worker");
$node->start;
settings($node, 'mana_ai.tick_interval' => undef);
wait_for_worker($node, 'mana_sync', 60);
wait_for($node, 'the fold is made up for', 90, 'SELECT count(*) > 0 FROM mana_ai.folded_log', 't');

# ---------------------------------------------------------------- a synchronous standby is away

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "primary_conninfo = '" . $node->connstr . " application_name=copy'");
$standby->start;

# The worker has replies to write down and waits for the standby, which is gone.
sub without_standby
{
    my ($what, $code) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @these = map { "$what-$_" } 1 .. 100;
    $standby->start unless -e $standby->data_dir . '/postmaster.pid';
    $node->append_conf('postgresql.conf', "synchronous_standby_names = 'copy'");
    $node->reload;
    wait_for($node, "$what: the standby is synchronous", 30, "SELECT sync_state FROM pg_stat_replication", 'sync');
    $model->reset;
    $model->control({ latency_ms => 4000 });
    push_missions($node, \@these);
    $model->wait_in_flight(100, 20);
    $standby->stop('immediate');
    wait_for($node, "$what: the worker waits for the standby", 20,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai worker' AND wait_event = 'SyncRep'", 1);
    $model->reset;
    $code->();
    $node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
    if (-e $node->data_dir . '/postmaster.pid') { $node->reload }
    else { $node->start }
    return settle();
}

without_standby('fast', sub {
    wait_for($node, 'status() says what it waits for', 20,
        "SELECT worker_problem FROM mana_ai.status()",
        'worker waits for a synchronous standby (synchronous_standby_names)');
    stops_soon('a synchronous standby is away');
});

without_standby('term', sub {
    my $pid = worker_pid($node);
    my $took = timed(sub {
        kill 'TERM', $pid;
        wait_until('SIGTERM ends a worker that waits for a standby', SOON, sub { !kill 0, $pid });
    });
    note sprintf "SIGTERM: %.2f s", $took;
});

# ---------------------------------------------------------------- what replies have cost is recorded

for my $how (qw(TERM INT))
{
    $model->reset;
    $model->control({ latency_ms => 3000 });
    my @paid = map { "paid-$how-$_" } 1 .. 64;
    push_missions($node, \@paid, cadence => { kind => 'manual' });
    $model->wait_in_flight(64, 20);
    my $pid = worker_pid($node);
    # Replies arrive while it stands still, and then the signal does.
    kill 'STOP', $pid;
    wait_until("$how: all replies are on their way", 20, sub { $model->in_flight == 0 });
    kill $how, $pid;
    kill 'CONT', $pid;
    wait_for($node, "SIG$how cancels the runs", 20,
        "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'paid-$how%' AND outcome = 'canceled'", 64);
    is(value($node, "SELECT count(*) FROM mana_ai.token_usage WHERE mission_id LIKE 'paid-$how%'"),
        $model->count, "SIG$how: all replies that had arrived are on the ledger");
    $model->reset;
    settle() if $how eq 'TERM';
}

# ---------------------------------------------------------------- what could not be recorded at once

# A reply arrives while somebody holds the ledger, and the worker waits to write it again.
sub unrecorded
{
    my ($id) = @_;
    $model->reset;
    my $from   = log_position($node);
    my $holder = background($node, 'BEGIN; LOCK mana_ai.token_usage IN SHARE MODE; SELECT pg_sleep(600)');
    wait_for($node, "$id: the ledger is locked", 10,
        "SELECT count(*) FROM pg_locks WHERE relation = 'mana_ai.token_usage'::regclass AND mode = 'ShareLock' AND granted", 1);
    push_mission($node, $id, cadence => { kind => 'manual' });
    wait_until("$id: its cost could not be written", 20, sub { log_since($node, $from) =~ /could not be written and are tried again/ });
    sleep 3;    # pauses grow, so that the next try is some seconds away
    return ($from, $holder);
}

sub release
{
    my ($holder) = @_;
    $node->safe_psql('postgres',
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()");
    $holder->finish(10);
    return;
}

sub ends_on_request
{
    my ($what) = @_;
    my $pid = worker_pid($node);
    kill 'TERM', $pid;
    wait_until("$what: the worker ends", SOON, sub { !kill 0, $pid });
    return;
}

# Frozen, so that the next try does not come between.
my ($from, $holder) = unrecorded('owed');
my $pid = worker_pid($node);
kill 'STOP', $pid;
release($holder);
kill 'TERM', $pid;
kill 'CONT', $pid;
wait_until('the ledger is free again: the worker ends', SOON, sub { !kill 0, $pid });
is(value($node, "SELECT count(*) FROM mana_ai.token_usage WHERE mission_id = 'owed' AND run_id = (SELECT run_id FROM mana_ai.runs WHERE mission_id = 'owed' AND outcome = 'canceled')"),
    1, 'what waited for its next try is on the ledger');
unlike(log_since($node, $from), qr/paid for could not be recorded/, 'the log says nothing of it');
settle();

($from, $holder) = unrecorded('logged');
ends_on_request('the ledger is still locked');
like(log_since($node, $from), qr/what has been paid for could not be recorded: run=[-0-9a-f]{36} user=@{[USER_ID]} mission=logged model=\S+ prompt_tokens=\d+ cached_tokens=\d+ completion_tokens=\d+ tokens=[1-9]/,
    'what cannot be put on the ledger is in the log');
release($holder);
settle();

# One that cannot be written keeps none of the others from being written.
$model->reset;
$model->control({ latency_ms => is_sanitized() ? 20_000 : 3000 });
push_missions($node, [ map { "beside-$_" } 1 .. 100 ], cadence => { kind => 'manual' });
$model->wait_in_flight(100, 20);
$from   = log_position($node);
$holder = background($node, "BEGIN; SELECT 1 FROM mana_ai.runs WHERE mission_id = 'beside-50' FOR UPDATE; SELECT pg_sleep(600)");
wait_for($node, 'the row of a run is locked', 10, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND wait_event = 'PgSleep'", 1);
$pid = worker_pid($node);
kill 'STOP', $pid;
wait_until('all replies are on their way', 20, sub { $model->in_flight == 0 });
kill 'TERM', $pid;
kill 'CONT', $pid;
wait_until('the worker says what it could not write', 20, sub { log_since($node, $from) =~ /paid for could not be recorded: \S+ \S+ mission=beside-50 / });
is(value($node, "SELECT count(*) FROM mana_ai.token_usage WHERE mission_id LIKE 'beside-%'"), 99, 'all others are on the ledger');
is(() = log_since($node, $from) =~ /paid for could not be recorded/g, 1, 'and one in the log');
release($holder);
settle();

$node->stop;
$model->stop;
done_testing();
