# Large records are read only after the attempt is on disk: a record that crashes its reader is known
# afterwards, waits, and delays nobody else.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node = new_cluster('large', preload => 1, model => $model,
    conf => "restart_after_crash = on\nmana_ai.crash_limit = 10\nmana_ai.tick_interval = '500ms'");

my $large = 'x' x 100_000;

sub outcomes
{
    my ($id) = @_;
    return value($node, "SELECT string_agg(outcome, ',' ORDER BY started_at) FROM mana_ai.runs WHERE mission_id = '$id'");
}

# Reading the record of the mission "bomb" crashes the worker.
sub reading_hangs
{
    my ($hangs) = @_;
    $node->safe_psql('mana_sync', $hangs ? <<'END' : <<'END2');
CREATE OR REPLACE FUNCTION mana_ai.planning_record_of_c(record jsonb, clocks bytea)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE STRICT AS '$libdir/mana_ai', 'mana_ai_planning_record';
CREATE OR REPLACE FUNCTION mana_ai.planning_record(record jsonb, clocks bytea)
RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT AS $$
BEGIN
  IF record ->> 'title' = 'bomb' THEN
    PERFORM pg_sleep(600);
  END IF;
  RETURN mana_ai.planning_record_of_c(record, clocks);
END $$;
END
CREATE OR REPLACE FUNCTION mana_ai.planning_record(record jsonb, clocks bytea)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE STRICT AS '$libdir/mana_ai', 'mana_ai_planning_record';
END2
    return;
}

sub kill_reader
{
    my ($what, $backend) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $pid = '';
    wait_until("$what: the record is being read", 30, sub {
        $pid = value($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = '$backend' AND wait_event = 'PgSleep'");
        $pid ne '';
    });
    is((split /,/, outcomes('bomb'))[-1], 'running', "$what: the attempt is on record");
    my $position = log_position($node);
    kill 9, $pid;
    wait_until("$what: the postmaster starts anew", 30,
        sub { log_since($node, $position) =~ /all server processes terminated; reinitializing/ });
    wait_until("$what: the server is back", 30,
        sub { accepts_sessions($node) });
    return;
}

wait_for_worker($node);

# ---------------------------------------------------------------- nothing goes wrong

push_mission($node, 'plain', blob => $large);
wait_for_iterations($node, 'plain', 1, 30);
is(outcomes('plain'), 'planned', 'a large record is planned in one run');
push_mission($node, 'paused', blob => $large, agentId => 'nobody');
wait_for($node, 'one is held back', 30, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'paused' AND lease_owner IS NULL",
    'skipped-agent-missing');
sleep 2;
is(outcomes('paused'), 'skipped', 'and is so once in the history, however often it is looked at');

# ---------------------------------------------------------------- a record that takes the worker down

reading_hangs(1);
push_mission($node, 'bomb', title => 'bomb', blob => $large);
kill_reader('first crash', 'mana_ai worker');
wait_for_worker($node);
kill_reader('second crash', 'mana_ai worker');
wait_for_worker($node);
wait_for($node, 'after two crashes the mission waits', 30,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'bomb' AND outcome = 'crashed'", 2);
like(why_of($node, 'bomb'), qr/^backing off until .* after 2 failures: crashed/, 'and why() says so');
push_mission($node, 'small', user => 'other');
push_mission($node, 'large', user => 'other', blob => $large);
wait_for($node, "$_ of another user is planned", 30,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$_' AND outcome = 'planned'", 1) for qw(small large);
is(outcomes('bomb'), 'crashed,crashed', 'while it waits');

# ---------------------------------------------------------------- nothing is lost

reading_hangs(0);
push_change($node, id => 'bomb', data => { title => 'Neu' }, stamps => { title => iso(0) });
wait_for_iterations($node, 'bomb', 1, 30);
is(outcomes('bomb'), 'crashed,crashed,planned', 'it is planned when it has changed');
is(value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id = 'bomb' AND client_id = 'mana-ai-runner'"), 1, 'once');
is(value($node, "SELECT length(record ->> 'blob') FROM mana_ai.mission_snapshots WHERE mission_id = 'bomb'"), length $large, 'with all that it had');
wait_for($node, 'no run is left open', 10, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'", 0);
is(snapshots_differ($node), '', 'snapshots and schedule are what the log says');

$node->stop;
$model->stop;
done_testing();
