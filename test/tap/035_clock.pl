# The server's clock is set: the worker continues, pays nothing twice, and reports it once.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
# Without jumps nothing here asks for a full pass.
my $node = new_cluster('clock', preload => 1, clock => 1, model => $model,
    conf => "mana_ai.tick_interval = '1h'\nmana_ai.llm_timeout = '5s'");
wait_for_worker($node);
my @manual = (cadence => { kind => 'manual' });

sub jumps { return scalar(() = log_since($node) =~ /the clock was set (?:forward|back) by/g) }

sub expect_jump
{
    my ($what, $count) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_until($what, 20, sub { jumps() == $count });
}

# Dues by the server's clock.
sub due_at
{
    my ($offset) = @_;
    return json_value($node,
        "SELECT to_json(to_char((clock_timestamp() + interval '$offset s') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'))");
}

push_mission($node, 'before', @manual);
wait_for_iterations($node, 'before', 1, 10);

# ---------------------------------------------------------------- set back by an hour

# A mission in a backoff, another that waits for its time.
$model->control({ steps => [ { status => 422, body => '{}' } ], repeat => 'last' });
push_mission($node, 'refused', @manual, nextRunAt => due_at(-1));
wait_for($node, 'a mission backs off', 10,
    "SELECT attempts > 0 AND not_before > clock_timestamp() FROM mana_ai.mission_schedule WHERE mission_id = 'refused'", 't');
$model->reset;
my $waits = "SELECT extract(epoch FROM not_before - clock_timestamp()) FROM mana_ai.mission_schedule WHERE mission_id = 'refused'";
my $backoff = value($node, $waits);

shift_clock($node, -3600);
push_missions($node, [qw(back1 back2)], @manual, nextRunAt => due_at(-1));
wait_for_iterations($node, $_, 1, 20) for qw(back1 back2);
expect_jump('the jump is logged', 1);
like(log_since($node), qr/WARNING:\s+mana_ai: the clock was set back by 3[56]\d{5} ms/, 'with its size');
wait_until('the backoff is not an hour longer for it', 10, sub { value($node, $waits) <= $backoff });

push_mission($node, 'soon', @manual, nextRunAt => due_at(3));
wait_for_iterations($node, 'soon', 1, 20);

# An agent that changes after the clock was set back is seen.
push_agent($node, 'a1', state => 'paused');
push_mission($node, 'of-agent', agentId => 'a1', @manual, nextRunAt => due_at(-1));
wait_for($node, 'a paused agent holds its mission back', 10,
    "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'of-agent'", 'skipped-paused');
push_change($node, table => 'agents', id => 'a1', data => { state => 'active' }, stamps => { state => iso(0) });
wait_for_iterations($node, 'of-agent', 1, 20);

# ---------------------------------------------------------------- set forward, with runs in flight

push_change($node, id => 'refused', data => { state => 'paused' }, stamps => { state => iso(0) });
$model->control({ latency_ms => 12_000 });
settings($node, 'mana_ai.llm_timeout' => '60s');
my @ids = map { "forward$_" } 1 .. 5;
push_missions($node, \@ids, @manual, nextRunAt => due_at(-1));
$model->wait_in_flight(5, 15);
# Far beyond their leases.
shift_clock($node, 10 * 3600);
expect_jump('the jump forward is logged', 2);
wait_for_iterations($node, $_, 1, 40) for @ids;
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'forward%'"), 5,
    'runs in flight are not taken for crashed');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'crashed'"), 0, 'none at all');
is(value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id LIKE 'forward%' AND client_id = 'mana-ai-runner'"),
    5, 'each plan is written once');
is($model->stats->{max_in_flight}, 5, 'no mission was called for twice at a time');
$model->control({ latency_ms => 0 });

# A mission that the jump made due is planned.
wait_for($node, 'nothing due is left over', 20,
    "SELECT count(*) FROM mana_ai.mission_schedule WHERE due_at <= clock_timestamp() AND not_before IS NULL", 0);

# ---------------------------------------------------------------- set back while the worker is down

shift_clock($node, -7200);
my $pid = worker_pid($node);
kill 'TERM', $pid;
my $took = timed(sub {
    wait_until('a worker that is ended after the clock was set back has a successor', 20,
        sub { my $now = worker_pid($node); $now ne '' && $now != $pid });
});
cmp_ok($took, '<', 15, 'within seconds, not half a minute') or diag("took $took s");
push_mission($node, 'later', @manual, nextRunAt => due_at(-1));
wait_for_iterations($node, 'later', 1, 20);

# ---------------------------------------------------------------- a worker that is ended early

for my $round (1 .. 3)
{
    my $old = wait_for_worker($node);
    kill 'TERM', $old;
    my $new = '';
    my $seconds = timed(sub {
        wait_until("round $round: the next worker is there", 40,
            sub { $new = worker_pid($node); $new ne '' && $new ne $old });
    });
    cmp_ok($seconds, '<', 15, "round $round: a worker that was ended in its first moments is soon back")
      or diag("took $seconds s");
}

is(snapshots_differ($node), '', 'snapshots are replays');
$node->stop;
$model->stop;
done_testing();
