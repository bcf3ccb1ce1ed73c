# A fold in batches that is not finished soon: runs that were in flight before it, a server without a worker, an index or a
# table that is dropped.
# needs: FAILPOINTS=1
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model(latency_ms => 5);
my $node = new_cluster('fold_held', preload => 1, model => $model, conf => <<'END');
mana_ai.database = 'mana_sync'
mana_ai.tick_interval = '300ms'
mana_ai.fold_at_once = 0
END
plan(skip_all => 'the server has no failpoints (make FAILPOINTS=1)')
  if value($node, "SELECT count(*) FROM pg_settings WHERE name = 'mana_ai.failpoints'") eq '0';
wait_for_worker($node);
sub failpoints { my ($what) = @_; settings($node, 'mana_ai.failpoints' => $what); return }
sub sql { my ($sql) = @_; $node->safe_psql('mana_sync', ManaAi::encoded($sql)); return }

my $frozen = 'batch.before_commit=error:55P03';
my $left   = 'SELECT count(*) FROM mana_ai.fold_progress';
my %manual = (cadence => { kind => 'manual' });
sub is_planned { my ($mission) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "$mission is planned", 60, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$mission' AND outcome = 'planned'", 1) }
sub attach_again { sql(q(SELECT mana_ai.detach())); sql(q(SELECT mana_ai.attach('public.sync_changes'))); return }

# ---------------------------------------------------------------- a run that was in flight

failpoints($frozen);
$model->control({ latency_ms => 8000 });
push_mission($node, 'm1', %manual);
wait_for($node, 'a run is in flight', 60, 'SELECT in_flight FROM mana_ai.status()', 1);
sql('SELECT mana_ai.detach()');
push_change($node, id => 'm1', stamps => { title => iso(0), iterations => iso(0) },
    data => { title => 'Unbemerkt', iterations => [ { id => 'by-hand', startedAt => iso(-86400), overallStatus => 'pending', plan => [] } ] });
sql(q(SELECT mana_ai.attach('public.sync_changes')));
is(value($node, 'SELECT in_flight FROM mana_ai.status()'), 1, 'it still is when the log is attached again');
is(value($node, q(SELECT record ->> 'title' FROM mana_ai.mission_snapshots WHERE mission_id = 'm1')), 'Mission m1', 'whose snapshot lacks a row');
$model->control({ latency_ms => 5 });
is_planned('m1');
is(value($node, $left), 1, 'before the fold has got on');
is_deeply([ map { $_->{id} eq 'by-hand' ? 'by hand' : 'plan' } @{ iterations_of($node, 'm1') } ], [ 'by hand', 'plan' ], 'the plan is added to what the user has written');
is(record_of($node, 'm1')->{title}, 'Unbemerkt', 'and nothing is undone');
push_mission($node, 'm2', %manual);
failpoints(undef);
wait_for($node, 'the fold ends', 60, $left, 0);
is_planned('m2');
is(snapshots_differ($node), '', 'all snapshots are what the log says');

# ---------------------------------------------------------------- without an index

failpoints($frozen);
attach_again();
is(value($node, $left), 1, 'a fold is under way');
sql(<<'END');
DO $$
DECLARE
  found regclass;
BEGIN
  FOR found IN SELECT indexrelid FROM pg_index WHERE indrelid = 'public.sync_changes'::regclass AND NOT indisprimary LOOP
    EXECUTE 'DROP INDEX ' || found;
  END LOOP;
END $$
END
my $position = log_position($node);
failpoints(undef);
wait_for($node, 'the fold ends', 60, $left, 0);
like(log_since($node, $position), qr/has no index that finds a record and is folded at once/, 'it was not continued in batches');
is(snapshots_differ($node), '', 'all snapshots are what the log says');
sql('CREATE INDEX ON public.sync_changes (table_name, record_id, created_at)');

# ---------------------------------------------------------------- without a worker

failpoints($frozen);
attach_again();
push_mission($node, 'm3', %manual);
settings($node, 'mana_ai.database' => 'postgres');
$node->restart;
is(value($node, 'SELECT worker_pid FROM mana_ai.status()'), '', 'the database has no worker any more');
is(value($node, $left), 1, 'and a fold that nobody continues');
value($node, 'SELECT due_mission_count FROM mana_ai.run_tick()');
is(value($node, $left), 0, 'a manual tick ends it');
is_planned('m3');
is(snapshots_differ($node), '', 'all snapshots are what the log says');
settings($node, 'mana_ai.database' => undef);
$node->restart;
wait_for_worker($node);

# ---------------------------------------------------------------- without the table

attach_again();
is(value($node, $left), 1, 'a fold is under way');
sql('DROP TABLE public.sync_changes');
failpoints(undef);
wait_for($node, 'it ends with the table', 60, $left, 0);

$node->stop;
done_testing();
