# Partitions that come and go while the log is folded, and crashes in the middle of it.
# needs: FAILPOINTS=1
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster('partitions_in_use', preload => 1, shape => 'range', conf => <<'END');
mana_ai.database = 'mana_sync'
mana_ai.tick_enabled = off
mana_ai.tick_interval = '300ms'
restart_after_crash = on
END
wait_for_worker($node);
sub snapshots { return value($node, 'SELECT count(*) FROM mana_ai.mission_snapshots') }
sub failpoints { my ($what) = @_; settings($node, 'mana_ai.failpoints' => $what); return }
# Rows that no trigger has seen, in a table that becomes a partition.
sub archive
{
    my ($name, $year, $count) = @_;
    my $next = $year + 1;
    $node->safe_psql('mana_sync', <<"END");
CREATE TABLE public.$name (LIKE public.sync_changes INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
INSERT INTO public.$name (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
SELECT 'ai', 'aiMissions', '$name-' || i, 'user-1', 'insert', '{"title": "t", "objective": "o", "state": "paused", "cadence": {"kind": "manual"}}', 'c', '$year-02-01'
  FROM generate_series(1, $count) i;
END
    return "ALTER TABLE public.sync_changes ATTACH PARTITION public.$name FOR VALUES FROM ('$year-01-01') TO ('$next-01-01')";
}
$node->safe_psql('mana_sync', 'ALTER TABLE public.sync_changes DETACH PARTITION public.changes_old; DROP TABLE public.changes_old');

# ---------------------------------------------------------------- a crash in the middle of a fold

my $attach = archive('first', 2001, 50);
my $position = log_position($node);
failpoints('fold.folded=kill@once');
$node->safe_psql('mana_sync', $attach);
wait_until('the worker is killed when it has folded a partition', 30, sub { log_since($node, $position) =~ /terminated by signal 9/ });
wait_until('the server is back', 30, sub { accepts_sessions($node) });
failpoints(undef);
wait_for($node, 'the next worker folds the partition again', 30, 'SELECT count(*) FROM mana_ai.mission_snapshots', 50);
is(value($node, "SELECT count(*) FROM mana_ai.folded_leaves WHERE leaf = 'public.first'::regclass"), 1, 'and that is on record');
is(snapshots_differ($node), '', 'as the log says');

# ---------------------------------------------------------------- who drops a partition does not wait for a fold of all

my $slow = archive('second', 2002, 100);
$node->safe_psql('mana_sync', $slow);
wait_for($node, 'folded', 30, 'SELECT count(*) FROM mana_ai.mission_snapshots', 150);
# 150 records of which each takes 200 ms: half a minute.
my $fold = background($node, "LOAD 'mana_ai'; SET mana_ai.failpoints = 'fold.record=sleep:200'; SELECT mana_ai.refresh_snapshots();");
my $folds = "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.relation = 'public.second'::regclass AND l.mode = 'AccessShareLock' AND a.query LIKE '%refresh_snapshots%' AND a.pid <> pg_backend_pid()";
wait_for($node, 'a fold has the partition', 20, "SELECT count(*) > 0 $folds", 't');
# It would take far longer than this statement may.
$node->safe_psql('mana_sync', q{SET statement_timeout = '15s'; DROP TABLE public.second});
my ($status, $out, $error) = $fold->finish(30);
like($error, qr/55P03: reading the log gave way to a session that locks table "second"/, 'the fold gave way');
is(snapshots(), 150, 'snapshots stay');
$node->safe_psql('mana_sync', 'SELECT mana_ai.refresh_snapshots()');
is(snapshots(), 150, 'also after a fold of what is left');

# Partitions are created while a fold runs: it does not hold the partitioned table.
$fold = background($node, "LOAD 'mana_ai'; SET mana_ai.failpoints = 'fold.record=sleep:200'; SELECT new_snapshots FROM mana_ai.refresh_snapshots();");
$folds =~ s/second/first/;
wait_for($node, 'another fold', 20, "SELECT count(*) > 0 $folds", 't');
$node->safe_psql('mana_sync', q{SET statement_timeout = '5s'; CREATE TABLE public.third PARTITION OF public.sync_changes FOR VALUES FROM ('2003-01-01') TO ('2004-01-01')});
ok($fold->running, 'a partition is created while it runs');
push_mission($node, 'beside', nextRunAt => iso(3600));
is(value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'beside'"), 1, 'and rows are inserted');
($status, $out, $error) = $fold->finish(60);
is($status, 0, 'the fold ends') or diag($error);

# ---------------------------------------------------------------- the worker's fold gives way, too, and is made up for

settings($node, 'mana_ai.failpoints' => 'fold.record=sleep:200');
$node->restart;
wait_for_worker($node);
my $fourth = archive('fourth', 2004, 100);
$position = log_position($node);
$node->safe_psql('mana_sync', $fourth);
wait_for($node, 'the worker folds it', 30, "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.relation = 'public.fourth'::regclass AND a.backend_type = 'mana_ai worker'", 't');
$node->safe_psql('mana_sync', q{SET statement_timeout = '15s'; ALTER TABLE public.fourth SET (fillfactor = 90); VACUUM FULL public.fourth});
wait_until('its warning', 20, sub { log_since($node, $position) =~ /the log could not be folded \(SQLSTATE 55P03\)/ });
settings($node, 'mana_ai.failpoints' => undef);
$node->restart;
wait_for($node, 'a later pass folds it', 60, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'fourth-%'", 100);

# ---------------------------------------------------------------- attach() to a log in use

$node->safe_psql('mana_sync', 'SELECT mana_ai.detach()');
my $attaching = background($node, "LOAD 'mana_ai'; SET mana_ai.failpoints = 'fold.folded=sleep:2000'; SELECT mana_ai.attach('public.sync_changes');");
wait_for($node, 'attach() reads the log', 20, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%mana_ai.attach%' AND pid <> pg_backend_pid()", 1);
# While it works: a row of a new mission, and a partition with rows.
my $fifth = archive('fifth', 2005, 10);
push_mission($node, 'meanwhile', nextRunAt => iso(3600));
$node->safe_psql('mana_sync', $fifth);
($status, $out, $error) = $attaching->finish(60);
is($status, 0, 'attach() ends') or diag($error);
wait_for($node, 'what came during attach() is folded', 20, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'fifth-%' OR mission_id = 'meanwhile'", 11);
is(value($node, 'SELECT dirty_records FROM mana_ai.status()'), 0, 'nothing is marked');

done_testing();
