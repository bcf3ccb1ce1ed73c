# A log that loses rows or is rewritten, under a worker: missions keep what they had, and so do devices.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('shortened', preload => 1, model => $model, conf => <<'END');
mana_ai.database = 'mana_sync'
mana_ai.tick_interval = '1s'
END
my $user = USER_ID;
wait_for_worker($node);

# ---------------------------------------------------------------- retention, and then a plan

my @old = map { { id => "i$_", startedAt => iso(-7_000_000), summary => "Plan $_", plan => [], overallStatus => 'rejected', source => 'server', userFeedback => "Rückmeldung $_" } } 1 .. 12;
push_mission($node, 'kept', iterations => \@old, nextRunAt => iso(3600));
push_mission($node, 'busy', iterations => \@old, nextRunAt => iso(3600));
$node->safe_psql('mana_sync', "UPDATE public.sync_changes SET created_at = now() - interval '80 days'");
push_change($node, id => $_, data => { title => 'Neuer Titel' }, stamps => { title => iso(0) }) for qw(kept busy);
is(value($node, "WITH gone AS (DELETE FROM public.sync_changes WHERE created_at < now() - interval '30 days' RETURNING 1) SELECT count(*) FROM gone"),
    2, 'rows of a month ago are deleted');
is_deeply(record_of($node, 'kept'), { id => 'kept', title => 'Neuer Titel' }, 'the log knows the title and nothing else');
$node->safe_psql('mana_sync', 'SELECT mana_ai.refresh_snapshots()');

# Two devices at once: the second transaction waits, gives up and marks.
my $first = background($node, ManaAi::encoded(<<"END"));
BEGIN;
SELECT set_config('app.current_user_id', '$user', true);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data) VALUES ('ai', 'aiMissions', 'busy', '$user', 'update', 'one', '{"a": 1}');
SELECT pg_sleep(0.7);
COMMIT
END
wait_for($node, 'a device holds the mission', 10, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", 1);
push_change($node, id => 'busy', data => { b => 2 });
is(($first->finish(20))[2], '', 'both have written');
wait_for($node, 'what could not be folded at once is repaired', 20, 'SELECT dirty_records FROM mana_ai.status()', 0);
is(value($node, "SELECT record ->> 'a' || (record ->> 'b') FROM mana_ai.mission_snapshots WHERE mission_id = 'busy'"), '12', 'with both writes');

for my $id (qw(kept busy))
{
    push_change($node, id => $id, data => { nextRunAt => iso(-1) }, stamps => { nextRunAt => iso(0) });
    wait_for($node, "$id is planned after that", 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'", 1);
    my $iterations = iterations_of($node, $id);
    is(scalar @$iterations, 13, 'every device gets all iterations and the new one');
    is($iterations->[11]{userFeedback}, 'Rückmeldung 12', 'with their feedback');
}
is(value($node, "SELECT record ->> 'objective' FROM mana_ai.mission_snapshots WHERE mission_id = 'kept'"), 'Ziel von kept', 'the rest of the mission is there');

# ---------------------------------------------------------------- an old copy of the iterations, written during a run

push_mission($node, 'stale', iterations => [ @old[ 0 .. 2 ] ], nextRunAt => iso(3600));
$model->control({ steps => [ { latency_ms => 1500, content => 'Zusammenfassung' } ] });
push_change($node, id => 'stale', data => { nextRunAt => iso(-1) }, stamps => { nextRunAt => iso(0) });
$model->wait_in_flight(1, 10);
push_change($node, id => 'stale',
    data => { iterations => [ { %{ $old[0] }, userFeedback => 'Neue Rückmeldung' } ] }, stamps => { iterations => iso(0) });
# Nor does the log know it any more.
$node->safe_psql('mana_sync', "DELETE FROM public.sync_changes WHERE record_id = 'stale' AND op = 'insert'");
is(value($node, 'SELECT count(*) FROM mana_ai.iterations_at_claim'), 1, 'what a mission had is kept during its run');
wait_for($node, 'planned', 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'stale' AND outcome = 'planned'", 1);
my $iterations = iterations_of($node, 'stale');
is_deeply([ map { $_->{id} } @$iterations[ 0 .. 2 ] ], [ 'i1', 'i2', 'i3' ], 'what the device did not know is put back');
is($iterations->[0]{userFeedback}, 'Neue Rückmeldung', 'what it wrote counts');
is($iterations->[3]{summary}, 'Zusammenfassung', 'the new iteration is the last');
is(scalar @$iterations, 4, 'and there is nothing else');
is(value($node, 'SELECT count(*) FROM mana_ai.iterations_at_claim'), 0, 'nothing is kept after the run');
# What somebody takes away while nothing runs stays away, but for plans of mana_ai (046_lost_plans.pl).
push_change($node, id => 'stale', data => { iterations => [], nextRunAt => iso(-1) }, stamps => { iterations => iso(1), nextRunAt => iso(1) });
$model->reset;
wait_for($node, 'planned again', 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'stale' AND outcome = 'planned'", 2);
wait_until('a plan that was taken away comes back', 10, sub { @{ iterations_of($node, 'stale') } == 2 });
is((map { $_->{summary} } @{ iterations_of($node, 'stale') })[0], 'Zusammenfassung', 'of iterations that were taken away before a run, plans of mana_ai are put back and no others');

# ---------------------------------------------------------------- a rewritten log

$node->safe_psql('mana_sync', 'TRUNCATE public.sync_changes; SELECT mana_ai.refresh_snapshots(rebuild => true)');
$node->safe_psql('mana_sync', <<'END');
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id)
SELECT 'ai', 'aiMissions', 't' || i, 'user-1', 'update', jsonb_build_object('title', 'write ' || k), '{"title": "2026-01-01T00:00:00Z"}', 'c'
  FROM generate_series(1, 100) i, generate_series(1, 4) k ORDER BY k, i
END
is(snapshots_differ($node), '', 'of writes of the same time the later row counts');
$node->safe_psql('mana_sync', 'CLUSTER public.sync_changes USING sync_changes_pkey');
wait_for($node, 'the worker sees that the log was rewritten', 30, <<'END', 't');
SELECT generation = pg_relation_filenode('public.sync_changes') FROM mana_ai.folded_log
END
wait_for($node, 'and looks at them again', 30, 'SELECT count(*) FROM mana_ai.dirty_records', 0);
is(snapshots_differ($node), '', 'snapshots are what the log says now');

# ---------------------------------------------------------------- the fold after a restore

$node->safe_psql('mana_sync', <<'END');
CREATE ROLE sync_owner;
GRANT CREATE, USAGE ON SCHEMA public TO sync_owner;
ALTER TABLE public.sync_changes OWNER TO sync_owner;
SET ROLE sync_owner;
CREATE FUNCTION public.become_superuser() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
    ALTER ROLE sync_owner SUPERUSER;
  END IF;
END $$;
CREATE FUNCTION public.take_over(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.become_superuser(); RETURN i; END $$;
CREATE INDEX ON public.sync_changes ((public.take_over(1)));
CREATE INDEX ON public.sync_changes (table_name, record_id) WHERE public.take_over(2) = 2;
RESET ROLE;
DELETE FROM mana_ai.folded_log;
DELETE FROM mana_ai.mission_snapshots;
DELETE FROM mana_ai.mission_schedule;
END
wait_for($node, 'the worker folds by itself', 30, 'SELECT count(*) FROM mana_ai.mission_snapshots', 100);
is(value($node, "SELECT rolsuper FROM pg_roles WHERE rolname = 'sync_owner'"), 'f', 'and code of the owner of the table had no rights of mana_ai');

done_testing();
