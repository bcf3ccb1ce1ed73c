# Changes that could be neither folded nor marked, and that the server forgets: the next worker folds the log.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

# No timer folds the log.
my $node = new_cluster('lost_marks', preload => 1, conf => <<'END');
mana_ai.database = 'mana_sync'
mana_ai.tick_interval = '1h'
END
wait_for_worker($node);
wait_for($node, 'a worker is there', 30, 'SELECT clean FROM mana_ai.folded_log', 'f');

my $snapshots = 'SELECT count(*) FROM mana_ai.mission_snapshots';

# A change that leaves only a counter in memory.
sub leave_unmarked
{
    my ($id) = @_;
    my $holder = background($node, <<'END');
BEGIN;
LOCK TABLE mana_ai.mission_snapshots, mana_ai.dirty_records IN ACCESS EXCLUSIVE MODE;
SELECT pg_sleep(600);
END
    wait_for($node, 'tables are held', 20, q(SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'), 1);
    $node->safe_psql('mana_sync', <<"END");
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
VALUES ('ai', 'aiMissions', '$id', 'user-1', 'insert', '{"title": "t", "state": "paused"}', 'c')
END
    is(value($node, 'SELECT mana_ai.unmarked_changes()'), 1, "the change of $id is not marked");
    return $holder;
}

# Has happened before the server let go of the tables.
sub is_found_again
{
    my ($what, $count) = @_;
    wait_for_worker($node);
    wait_for($node, "the log is folded after $what", 60, $snapshots, $count);
    wait_for($node, 'nothing waits', 20, 'SELECT mana_ai.unmarked_changes()', 0);
    is(snapshots_differ($node), '', 'all snapshots are right');
    return;
}

my $holder = leave_unmarked('stopped');
$node->stop('fast');
$holder->finish;
$node->start;
is_found_again('a stop', 1);

$holder = leave_unmarked('crashed');
$node->stop('immediate');
$holder->finish;
$node->start;
is_found_again('a crash', 2);

# With nothing missing a stop leaves nothing to do: rows that only a fold would find stay out.
$node->safe_psql('mana_sync', <<'END');
ALTER TABLE public.sync_changes DISABLE TRIGGER mana_ai_fold;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
VALUES ('ai', 'aiMissions', 'unseen', 'user-1', 'insert', '{"title": "t"}', 'c');
ALTER TABLE public.sync_changes ENABLE ALWAYS TRIGGER mana_ai_fold;
END
$node->restart;
wait_for_worker($node);
wait_for($node, 'the worker has begun', 30, 'SELECT clean FROM mana_ai.folded_log', 'f');
is(value($node, 'SELECT mana_ai.unmarked_changes()'), 0, 'after an orderly stop nothing is taken for missing');
is(value($node, $snapshots), 2, 'and the log is not folded');

$node->stop;
done_testing();
