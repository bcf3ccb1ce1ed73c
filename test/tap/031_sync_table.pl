# A table that is swapped, dropped, turned into a partition or cut off from its trigger: this is noticed, and nothing is
# claimed or paid for until it is repaired.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $node  = new_cluster('sync_table', preload => 1, model => $model, conf => "mana_ai.tick_interval = '300ms'");
wait_for_worker($node);

sub problem { return value($node, 'SELECT coalesce(worker_problem, $$none$$) FROM mana_ai.status()') }

my $number = 0;

# A mission is due while the table is as $break leaves it; $mend repairs it.
sub is_held
{
    my ($what, $break, $problem, $mend) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $id   = 'm' . ++$number;
    my $asks = $model->count;
    # Not due before the table is broken: a transaction does both.
    push_mission($node, $id, nextRunAt => iso(3600));
    my $position = log_position($node);
    $node->safe_psql('mana_sync', "BEGIN; $break; UPDATE mana_ai.mission_schedule SET due_at = now(), wake_at = now() WHERE mission_id = '$id'; COMMIT");
    wait_for($node, "$what: seen", 10, 'SELECT worker_problem FROM mana_ai.status()', $problem);
    wait_until("$what: in the log", 15, sub { log_since($node, $position) =~ /missions are not planned: \Q$problem\E/ });
    my $tick = run_tick_quietly();
    is($tick->{due}, 0, "$what: a manual tick claims nothing") if defined $tick->{due};
    like($tick->{errors}, qr/\Q$problem\E/, "$what: and says why") if defined $tick->{due};
    fails_like($node, "SELECT * FROM mana_ai.run_mission('user-1', '$id')", qr/\Q$problem\E/, "$what: run_mission() says why");
    is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id'"), 0, "$what: nothing was claimed");
    is($model->count, $asks, "$what: nothing was paid for");
    return unless defined $mend;
    $node->safe_psql('mana_sync', $mend);
    is(problem(), 'none', "$what: put right");
    wait_for($node, "$what: then it is planned", 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'", '1');
    return;
}

# The worker may hold the tick; then there is nothing to see.
sub run_tick_quietly
{
    my $row = json_value($node, "SELECT json_build_object('due', due_mission_count, 'errors', array_to_string(errors, ' ')) FROM mana_ai.run_tick()");
    return $row->{errors} =~ /overlap/ ? {} : $row;
}

is(problem(), 'none', 'at first nothing is wrong');
is_held('trigger disabled', 'ALTER TABLE public.sync_changes DISABLE TRIGGER mana_ai_fold',
    'trigger mana_ai_fold of table sync_changes is disabled',
    'ALTER TABLE public.sync_changes ENABLE ALWAYS TRIGGER mana_ai_fold');
is_held('trigger for replicas only', 'ALTER TABLE public.sync_changes ENABLE REPLICA TRIGGER mana_ai_fold',
    'trigger mana_ai_fold of table sync_changes fires for replicated rows only',
    'ALTER TABLE public.sync_changes ENABLE ALWAYS TRIGGER mana_ai_fold');
is_held('a column renamed', 'ALTER TABLE public.sync_changes RENAME data TO payload',
    'table sync_changes cannot be used: columns of the table are not as expected',
    'ALTER TABLE public.sync_changes RENAME payload TO data');
is_held('swapped by renaming',
    'ALTER TABLE public.sync_changes RENAME TO sync_changes_old; CREATE TABLE public.sync_changes (LIKE public.sync_changes_old INCLUDING ALL)',
    'table public.sync_changes is another one than mana_ai is attached to',
    'DROP TABLE public.sync_changes; ALTER TABLE public.sync_changes_old RENAME TO sync_changes');

# Locked for long, as by VACUUM FULL.
push_mission($node, 'locked', nextRunAt => iso(3600));
my $before = log_position($node);
my $holder = background($node, 'BEGIN; LOCK TABLE public.sync_changes IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600);');
wait_for($node, 'the table is locked', 20, "SELECT count(*) FROM pg_locks WHERE relation = 'public.sync_changes'::regclass AND mode = 'AccessExclusiveLock' AND granted", '1');
is_faster_than(5, 'status() does not wait for it', sub {
    is(problem(), 'table public.sync_changes is locked by another session', 'but says so');
});
value($node, "UPDATE mana_ai.mission_schedule SET due_at = now(), wake_at = now() WHERE mission_id = 'locked'");
wait_until('the worker sees it', 20,
    sub { log_since($node, $before) =~ /missions are not planned: the attached table is locked by another session/ });
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'locked'"), 0, 'and claims nothing');
value($node, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()");
$holder->finish;
is(problem(), 'none', 'then it is let go');
wait_for($node, 'and the mission is planned', 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'locked' AND outcome = 'planned'", '1');
unlike(log_since($node, $before), qr/a pass over the schedule failed/, 'no pass has failed for it');

# Only renamed: it is the same table.
$node->safe_psql('mana_sync', 'ALTER TABLE public.sync_changes RENAME TO changes');
is(problem(), 'none', 'a table that is only renamed is no problem');
$node->safe_psql('mana_sync', 'ALTER TABLE public.changes RENAME TO sync_changes');

is_held('turned into a partition', <<'END', 'table sync_changes_1 cannot be used: the log is a partition', <<'END2');
ALTER TABLE public.sync_changes RENAME TO sync_changes_1;
CREATE TABLE public.changes (LIKE public.sync_changes_1 INCLUDING DEFAULTS) PARTITION BY LIST (app_id);
ALTER TABLE public.changes ATTACH PARTITION public.sync_changes_1 FOR VALUES IN ('ai', 'todo')
END
ALTER TABLE public.changes DETACH PARTITION public.sync_changes_1;
DROP TABLE public.changes;
ALTER TABLE public.sync_changes_1 RENAME TO sync_changes
END2
is_held('dropped', 'DROP TABLE public.sync_changes', 'mana_ai is not attached to a table', undef);

done_testing();
