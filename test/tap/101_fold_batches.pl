# A large log is folded in batches, by the worker: with kills at every point, inserts meanwhile, missions that are planned
# while the rest is not folded, and the result of a fold at once.
# needs: FAILPOINTS=1
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model(latency_ms => 5);
my $node = new_cluster('fold_batches', preload => 1, model => $model, conf => <<'END');
mana_ai.database = 'mana_sync'
mana_ai.tick_interval = '300ms'
restart_after_crash = on
END
plan(skip_all => 'the server has no failpoints (make FAILPOINTS=1)')
  if value($node, "SELECT count(*) FROM pg_settings WHERE name = 'mana_ai.failpoints'") eq '0';
wait_for_worker($node);
# "@once" is once per failpoint, as long as the file is there that says so.
sub failpoints
{
    my ($what) = @_;
    unlink map { $node->data_dir . "/mana_ai_failpoint.$_" } ($what // '') =~ /([a-z_.]+)=\w+\@once/g;
    settings($node, 'mana_ai.failpoints' => $what);
    return;
}
# No batch succeeds; and batches of 50 rows at most, after the first.
my ($frozen, $slow) = ('batch.before_commit=error:55P03', 'fold.record=sleep:1');
sub sql { my ($sql) = @_; $node->safe_psql('mana_sync', ManaAi::encoded($sql)); return }

# All agents' and missions' blocks that are folded.
my $folded = 'SELECT coalesce(sum(agents_until + missions_until), 0) FROM mana_ai.fold_progress';
my $left   = 'SELECT count(*) FROM mana_ai.fold_progress';
my $rows   = <<'END';
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id)
END
my $mission = q('state', 'active', 'objective', 'Ziel', 'cadence', '{"kind": "manual"}'::jsonb, 'iterations', '[]'::jsonb);

# Everything that a fold has made, one line a record.
sub everything
{
    return value($node, <<'END');
SELECT string_agg(line, E'\n' ORDER BY line) FROM (
  SELECT format('%s %s %s %s %s', user_id, mission_id, space_id, record, clocks) FROM mana_ai.mission_snapshots
  UNION ALL SELECT format('%s %s %s %s %s', user_id, agent_id, space_id, record, clocks) FROM mana_ai.agent_snapshots
  UNION ALL SELECT format('%s %s %s %s', user_id, table_name, record_id, deleted_at) FROM mana_ai.record_tombstones
  UNION ALL SELECT format('%s %s %s', user_id, mission_id, due_at) FROM mana_ai.mission_schedule) AS l(line)
END
}

# ---------------------------------------------------------------- the history

sql('SELECT mana_ai.detach()');
# Missions that wait, edited and in part deleted later; rows of other apps between them.
sql("$rows SELECT 'ai', 'aiMissions', 'm' || i, 'u' || i % 40, 'insert', jsonb_build_object('title', 'Mission ' || i, 'agentId', 'a' || i % 40, 'nextRunAt', '2099-01-01T00:00:00Z', $mission), NULL, 'c' FROM generate_series(1, 3000) i");
# Two of each user are due.
sql("$rows SELECT 'ai', 'aiMissions', 'due' || i, 'u' || i % 40, 'insert', jsonb_build_object('title', 'due ' || i, 'agentId', 'a' || i % 40, 'nextRunAt', '2020-01-01T00:00:00Z', $mission), NULL, 'c' FROM generate_series(1, 80) i");
# These seem to be due until their last row is read.
sql("$rows SELECT 'ai', 'aiMissions', 'paused' || i, 'u' || i % 40, 'insert', jsonb_build_object('title', 'paused ' || i, 'agentId', 'a' || i % 40, 'nextRunAt', '2020-01-01T00:00:00Z', $mission), NULL, 'c' FROM generate_series(1, 40) i");
# Their agent seems to be active until its last row is read.
sql("$rows SELECT 'ai', 'aiMissions', 'archived' || i, 'u' || i % 40, 'insert', jsonb_build_object('title', 'archived ' || i, 'agentId', 'archived' || i % 40, 'nextRunAt', '2020-01-01T00:00:00Z', $mission), NULL, 'c' FROM generate_series(1, 40) i");
sql("$rows SELECT 'ai', 'agents', x || i, 'u' || i, 'insert', jsonb_build_object('name', 'Ada', 'role', 'Assistenz', 'state', 'active', 'policy', '{\"tools\": {}, \"defaultForAi\": \"propose\"}'::jsonb, 'maxConcurrentMissions', 5), NULL, 'c' FROM generate_series(0, 39) i, unnest('{a,archived}'::text[]) x");
sql("$rows SELECT 'todo', 'tasks', 't' || i, 'u' || i % 40, 'insert', jsonb_build_object('title', repeat('Aufgabe ', 40)), NULL, 'c' FROM generate_series(1, 3000) i");
sql("$rows SELECT 'ai', 'aiMissions', 'm' || 1 + i % 3000, 'u' || (1 + i % 3000) % 40, 'update', jsonb_build_object('title', 'Anders ' || i), jsonb_build_object('title', to_char(timestamp '2026-01-01' + i * interval '1 s', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')), 'c' FROM generate_series(1, 9000) i");
sql("$rows SELECT 'ai', 'aiMissions', 'm' || i, 'u' || i % 40, 'delete', jsonb_build_object('deletedAt', '2026-06-01T00:00:00Z'), NULL, 'c' FROM generate_series(1, 3000, 7) i");
sql("$rows SELECT 'ai', 'aiMissions', 'paused' || i, 'u' || i % 40, 'update', '{\"state\": \"paused\"}', '{\"state\": \"2026-06-01T00:00:00Z\"}', 'c' FROM generate_series(1, 40) i");
sql("$rows SELECT 'ai', 'agents', 'archived' || i, 'u' || i, 'update', '{\"state\": \"archived\"}', '{\"state\": \"2026-06-01T00:00:00Z\"}', 'c' FROM generate_series(0, 39) i");
sql("$rows SELECT 'ai', 'aiMissions', 'late' || i, 'u' || i % 40, 'insert', jsonb_build_object('title', 'late ' || i, 'nextRunAt', '2099-01-01T00:00:00Z', $mission), NULL, 'c' FROM generate_series(1, 100) i");

# ---------------------------------------------------------------- attach() returns, the worker folds

settings($node, 'mana_ai.fold_at_once' => 0);
failpoints($frozen);
sql(q(SELECT mana_ai.attach('public.sync_changes')));
is(value($node, "SELECT ($left), (SELECT count(*) FROM mana_ai.agent_snapshots)"), '1|0', 'attach() has returned before anything is folded');
like(value($node, 'SELECT folding FROM mana_ai.status()'), qr/^0 % of \d+ \w+, since /, 'status() says how far the fold is');
like(why_of($node, 'late1', 'u1'), qr/^no such mission; the log is being folded/, 'so does why()');
like(value($node, 'SELECT worker_problem FROM mana_ai.status()'), qr/^the history of table public\.sync_changes is being folded$/, 'while agents are not folded nothing is claimed');
push_mission($node, 'early', user => 'u5', agentId => 'a5');
is(value($node, 'SELECT count(*) FROM mana_ai.mission_snapshots'), 1, 'a new mission is known at once');
failpoints($slow);

# ---------------------------------------------------------------- kills do not make it begin anew

for my $point (qw(batch.read batch.before_commit batch.after_commit))
{
    my $before   = value($node, $folded);
    my $position = log_position($node);
    failpoints("$point=kill\@once, $slow");
    wait_until("the worker is killed at $point", 60, sub { log_since($node, $position) =~ /terminated by signal 9/ });
    wait_until('the server is back', 60, sub { accepts_sessions($node) });
    failpoints($slow);
    cmp_ok(value($node, $folded), '>=', $before, "$point: what was folded stays folded");
    wait_for_worker($node);
    my $after = value($node, $folded);
    wait_for($node, "$point: the fold goes on", 60, "SELECT ($folded) > $after OR ($left) = 0", 't');
}
cmp_ok(value($node, $left), '==', 1, 'the fold is still under way') or diag('the log is too small for this test');

# ---------------------------------------------------------------- missions that are folded are planned, others are written to

wait_for($node, 'missions are planned', 60, "SELECT count(*) > 0 FROM mana_ai.runs WHERE outcome = 'planned'", 't');
is(value($node, $left), 1, 'before the fold has ended');
is(value($node, 'SELECT min(r.started_at) > (SELECT max(a.updated_at) FROM mana_ai.agent_snapshots a) FROM mana_ai.runs r'), 't',
    'none before all agents were folded');
is(value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'late7'"), 0, 'the end of the log is not folded');
push_change($node, user => 'u7', id => 'late7', data => { title => 'Während der Faltung' }, stamps => { title => iso(0) });
push_change($node, user => 'u1', id => 'm1', data => { title => 'Auch dann' }, stamps => { title => iso(0) });
push_mission($node, 'meanwhile', user => 'u5', nextRunAt => iso(3600));
is(value($node, q(SELECT concat_ws(' ', record ->> 'state', record ->> 'title') FROM mana_ai.mission_snapshots WHERE mission_id = 'late7')),
    'active Während der Faltung', 'the snapshot of a record that the fold has not reached is whole');

failpoints(undef);
wait_for($node, 'the fold ends', 120, $left, 0);
# After the kills it may have lost marks: it looks through the log once more.
wait_for($node, 'nothing waits', 120, "SELECT unmarked_changes = 0 AND dirty_records = 0 AND folding IS NULL FROM mana_ai.status()", 't');
wait_for($node, 'all that is due is planned', 60, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned' AND mission_id LIKE 'due%'", 80);
is(value($node, "SELECT count(*) FROM (SELECT mission_id FROM mana_ai.runs WHERE outcome = 'planned' GROUP BY mission_id HAVING count(*) > 1) t"), 0, 'once each');
is(value($node, "SELECT string_agg(DISTINCT mission_id, ' ') FROM mana_ai.runs WHERE mission_id LIKE 'paused%'"), '', 'nothing was planned from a part of its record');
is(value($node, "SELECT string_agg(DISTINCT outcome, ' ') FROM mana_ai.runs WHERE mission_id LIKE 'archived%'"), 'skipped', 'nor with a part of its agent');
is(value($node, 'SELECT worker_problem FROM mana_ai.status()'), '', 'no problem is left');
is(snapshots_differ($node), '', 'all snapshots are what the log says');

# ---------------------------------------------------------------- the same as a fold at once

settings($node, 'mana_ai.tick_enabled' => 'off');
wait_for($node, 'nothing runs', 30, 'SELECT in_flight FROM mana_ai.status()', 0);
my $in_batches = everything();
sql('SELECT mana_ai.detach(); TRUNCATE mana_ai.mission_snapshots, mana_ai.agent_snapshots, mana_ai.record_tombstones, mana_ai.mission_schedule');
settings($node, 'mana_ai.fold_at_once' => undef);
sql(q(SELECT mana_ai.attach('public.sync_changes')));
is(value($node, $left), 0, 'a small log is folded at once');
ok(everything() eq $in_batches, 'with the same result');

# ---------------------------------------------------------------- snapshots of an earlier time

sql('SELECT mana_ai.detach()');
sql("$rows SELECT 'ai', 'aiMissions', 'm' || i, 'u' || i % 40, 'update', '{\"state\": \"archived\", \"nextRunAt\": \"2020-01-01T00:00:00Z\"}', jsonb_build_object('state', '2026-10-01T00:00:00Z', 'nextRunAt', '2026-10-01T00:00:00Z'), 'c' FROM generate_series(1, 3000) i WHERE i % 7 <> 1");
settings($node, 'mana_ai.fold_at_once' => 0, 'mana_ai.tick_enabled' => 'on', 'mana_ai.failpoints' => $slow);
my $runs = value($node, 'SELECT count(*) FROM mana_ai.runs');
sql(q(SELECT mana_ai.attach('public.sync_changes'); UPDATE mana_ai.mission_schedule SET wake_at = now(), due_at = now(), not_before = NULL));
like(value($node, 'SELECT worker_problem FROM mana_ai.status()'), qr/is being folded/, 'snapshots of an earlier time are not planned from');
wait_for($node, 'missions are folded', 60, "SELECT count(*) > 100 FROM mana_ai.mission_snapshots WHERE record ->> 'state' = 'archived'", 't');
is(value($node, 'SELECT count(*) FROM mana_ai.runs'), $runs, 'also when some of them are folded');
# Records that make a batch fail are marked, and repaired by themselves.
my $position = log_position($node);
failpoints('batch.read=error:XX001, repair.before_commit=error:55P03');
wait_until('a batch fails, and a smaller one, too', 60,
    sub { log_since($node, $position) =~ /could not be folded \(SQLSTATE XX001\); it is tried again with fewer rows.*could not be folded \(SQLSTATE XX001\); its records are repaired/s });
wait_until('marks fail as well', 60, sub { log_since($node, $position) =~ /could not be marked \(SQLSTATE XX001\); tried again in/ });
like(value($node, 'SELECT folding FROM mana_ai.status()'), qr/, since .*; SQLSTATE XX001 at block \d+ of (public\.)?sync_changes$/, 'status() says so');
failpoints("$slow, repair.before_commit=error:55P03");
wait_for($node, 'the records are marked', 60, "SELECT count(*) BETWEEN 1 AND 200 FROM mana_ai.dirty_records WHERE reason = 'error during the fold'", 't');
wait_for($node, 'and the fold goes on', 60, "SELECT coalesce(folding, '') !~ 'SQLSTATE' FROM mana_ai.status()", 't');
failpoints(undef);
wait_for($node, 'the fold ends', 120, $left, 0);
wait_for($node, 'nothing waits', 120, 'SELECT dirty_records FROM mana_ai.status()', 0);
is(snapshots_differ($node), '', 'all snapshots are what the log says');

# ---------------------------------------------------------------- what ends a fold

failpoints($frozen);
sql(q(SELECT mana_ai.detach(); SELECT mana_ai.attach('public.sync_changes')));
is(value($node, $left), 1, 'a fold is under way');
sql('SELECT mana_ai.refresh_snapshots()');
is(value($node, $left), 0, 'refresh_snapshots() does all of it');
sql(q(SELECT mana_ai.detach(); SELECT mana_ai.attach('public.sync_changes')));
sql('SELECT mana_ai.detach()');
is(value($node, $left), 0, 'detach() ends it');

# ---------------------------------------------------------------- partitions

sql(<<'END');
ALTER TABLE public.sync_changes RENAME TO changes_before;
CREATE TABLE public.sync_changes (LIKE public.changes_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (created_at);
ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_before FOR VALUES FROM (MINVALUE) TO ('2100-01-01');
CREATE TABLE public.changes_later PARTITION OF public.sync_changes FOR VALUES FROM ('2100-01-01') TO (MAXVALUE);
CREATE INDEX ON public.sync_changes (table_name, record_id, created_at);
SELECT mana_ai.attach('public.sync_changes');
CREATE TABLE public.changes_new (LIKE public.sync_changes INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES);
INSERT INTO public.changes_new (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
SELECT 'ai', 'aiMissions', 'new' || i, 'u' || i % 40, 'insert', '{"title": "t", "objective": "o", "state": "paused", "cadence": {"kind": "manual"}}', 'c', '2150-01-01' FROM generate_series(1, 2000) i;
END
is(value($node, $left), 2, 'a fold of two partitions');
my $at = value($node, $folded);
failpoints($slow);
wait_for($node, 'goes on', 60, "SELECT ($folded) > $at", 't');
# All rows have new places, so that partition begins anew; the statement gets its lock between two batches.
sql(q(SET statement_timeout = '60s'; VACUUM FULL public.changes_before));
failpoints(undef);
wait_for($node, 'ends', 120, $left, 0);
is(value($node, 'SELECT count(*) FROM mana_ai.folded_leaves'), 2, 'and they are on record');
sql(<<'END');
ALTER TABLE public.sync_changes DETACH PARTITION public.changes_later;
ALTER TABLE public.sync_changes ATTACH PARTITION public.changes_new FOR VALUES FROM ('2100-01-01') TO ('2200-01-01');
END
wait_for($node, 'a partition with rows is folded', 120, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'new%'", 2000);
wait_for($node, 'and is on record', 60, "SELECT count(*) FROM mana_ai.folded_leaves WHERE leaf = 'public.changes_new'::regclass", 1);
is(value($node, $left), 0, 'nothing is left');
is(snapshots_differ($node), '', 'all snapshots are what the log says');

$node->stop;
done_testing();
