# A planner on a separate server (docs/operations.md): the users' server has no mana_ai, changes go to the planner by
# logical replication, and plans come back the same way.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $logical = "wal_level = logical\nmax_wal_senders = 10\n";
my $users = new_cluster('users', extension => 0, streaming => 'logical', conf => $logical);
plan skip_all => 'row filters of publications need PostgreSQL 15' if value($users, 'SHOW server_version_num') < 150000;
my $planner = new_cluster('planner', preload => 1, streaming => 'logical', model => $model, conf => $logical);

sub subscription
{
    my ($node, $from, $name, $publication, $options) = @_;
    return $node->safe_psql('mana_sync', "CREATE SUBSCRIPTION $name CONNECTION '" . $from->connstr . " dbname=mana_sync user=postgres' PUBLICATION $publication $options");
}

push_mission($users, 'before');
$users->safe_psql('mana_sync', <<'END');
CREATE PUBLICATION changes FOR TABLE public.sync_changes
  WHERE (client_id <> 'mana-ai-runner') WITH (publish = 'insert');
END
$planner->safe_psql('mana_sync', <<'END');
CREATE PUBLICATION plans FOR TABLE public.sync_changes
  WHERE (client_id = 'mana-ai-runner') WITH (publish = 'insert');
END
subscription($planner, $users, 'changes', 'changes', '');
subscription($users, $planner, 'plans', 'plans', 'WITH (copy_data = false)');

# What docs/scaling.md does after a failover: rows of one side that the other does not have.
sub copy_missing
{
    my ($from, $to, $filter) = @_;
    my $file = PostgreSQL::Test::Utils::tempdir() . '/rows';
    $from->safe_psql('mana_sync', "COPY (SELECT * FROM public.sync_changes WHERE $filter AND created_at > now() - interval '1 day') TO '$file'");
    $to->safe_psql('mana_sync', <<"END");
BEGIN;
CREATE TEMP TABLE missing (LIKE public.sync_changes) ON COMMIT DROP;
COPY missing FROM '$file';
INSERT INTO public.sync_changes SELECT * FROM missing ON CONFLICT (id) DO NOTHING;
COMMIT;
END
    return;
}

sub plans_of
{
    my ($node, $id) = @_;
    return value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id = '$id' AND client_id = 'mana-ai-runner'");
}

wait_until('a mission from before is copied, planned, and its plan comes back', 60, sub { plans_of($users, 'before') eq '1' });
push_missions($users, [ map { "m$_" } 1 .. 10 ]);
wait_until('so does one that is pushed now', 60, sub { plans_of($users, 'm10') eq '1' });
wait_until('and all others', 60, sub { !grep { plans_of($users, "m$_") ne '1' } 1 .. 10 });
is(value($planner, 'SELECT count(*) FROM public.sync_changes'), 22, 'the planner has each change and each plan once');
is(value($users, 'SELECT count(*) FROM public.sync_changes'), 22, 'and so has the server of the users');

# A user's changes of a plan are replicated in the same way.
push_change($users, id => 'm1', data => { state => 'paused' });
wait_for($planner, 'the user pauses a mission', 30,
    q(SELECT record ->> 'state' FROM mana_ai.mission_snapshots WHERE mission_id = 'm1'), 'paused');
is(value($planner, q(SELECT jsonb_array_length(record -> 'iterations') FROM mana_ai.mission_snapshots WHERE mission_id = 'm1')), 1, 'which keeps its plan');
is(snapshots_differ($planner), '', 'the snapshots are what the log says');
is(value($planner, 'SELECT count(*) FROM mana_ai.dirty_records'), 0, 'nothing waits for repair');
# ---------------------------------------------------------------- feedback within the lag

# The user's device as it sees the mission on its server: the newest write of the iterations.
sub shown
{
    my ($id) = @_;
    return json_value($users, <<"END");
SELECT data -> 'iterations' FROM public.sync_changes WHERE record_id = '$id' AND data ? 'iterations'
 ORDER BY coalesce(field_timestamps ->> 'iterations', data ->> 'updatedAt') COLLATE "C" DESC NULLS LAST, created_at DESC LIMIT 1
END
}

push_mission($users, 'lag', cadence => { kind => 'manual' });
wait_until('a mission is planned', 60, sub { plans_of($users, 'lag') eq '1' });
$planner->safe_psql('mana_sync', 'ALTER SUBSCRIPTION changes DISABLE');
wait_for($planner, 'then nothing more reaches the planner', 20, "SELECT count(*) FROM pg_stat_subscription WHERE subname = 'changes' AND pid IS NOT NULL", 0);
my ($plan) = @{ shown('lag') };
my $done = { %$plan, overallStatus => 'approved', userFeedback => 'Gut', plan => [ map { { %$_, status => 'approved' } } @{ $plan->{plan} } ] };
push_change($users, id => 'lag', data => { iterations => [$done] }, stamps => { iterations => iso(0) });
is(shown('lag')->[0]{userFeedback}, 'Gut', 'a user carries the plan out and gives feedback');
is(run_mission($planner, 'lag')->{outcome}, 'planned', 'meanwhile the planner plans the mission again');
wait_until('the new plan reaches the user', 60, sub { plans_of($users, 'lag') eq '2' });
is(shown('lag')->[0]{userFeedback}, undef, 'and overwrites the feedback, which the planner did not have');
$planner->safe_psql('mana_sync', 'ALTER SUBSCRIPTION changes ENABLE');
wait_until('it is restored as soon as the planner has it', 60, sub { (shown('lag')->[0]{userFeedback} // '') eq 'Gut' });
is_deeply(shown('lag')->[0], $done, 'with all that was done');
is(scalar @{ shown('lag') }, 2, 'and the new plan is kept');

# ---------------------------------------------------------------- failures of either side

$model->control({ latency_ms => 2000 });
push_missions($users, [ map { "k$_" } 1 .. 5 ]);
$model->wait_in_flight(5);
$planner->stop('immediate');
push_missions($users, [ map { "k$_" } 6 .. 10 ]);
$users->stop('immediate');
$planner->start;
$users->start;
$model->wait_in_flight(5);
$users->stop('immediate');
wait_for($planner, 'without the users\' server the planner goes on', 60,
    "SELECT count(*) >= 5 FROM public.sync_changes WHERE record_id LIKE 'k%' AND client_id = 'mana-ai-runner'", 't');
$users->start;
wait_until('after crashes of both all missions get their plan', 90, sub { !grep { plans_of($users, "k$_") ne '1' } 1 .. 10 });
for my $node ($users, $planner)
{
    is(value($node, <<'END'), 10, 'each one once, on ' . $node->name);
SELECT count(DISTINCT i ->> 'id') FROM public.sync_changes, jsonb_array_elements(data -> 'iterations') i
 WHERE record_id LIKE 'k%' AND client_id = 'mana-ai-runner'
END
}
is(snapshots_differ($planner), '', 'the snapshots are what the log says');
# What docs/scaling.md tells to watch.
is(value($users, q(SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'changes' AND active)), 1, 'the lag is that of the slot of the planner\'s subscription');
# ---------------------------------------------------------------- failover of the planner

# Its standby has everything that it had, also how far its subscription was. Only the slot of the users' subscription is gone.
$planner->backup('base');
my $planner2 = PostgreSQL::Test::Cluster->new('planner2');
$planner2->init_from_backup($planner, 'base', has_streaming => 1);
$planner2->start;
push_mission($users, 'before-failover');
wait_until('a plan is on its way', 60, sub { plans_of($users, 'before-failover') eq '1' });
$users->safe_psql('mana_sync', 'ALTER SUBSCRIPTION plans DISABLE');
wait_for($users, 'the users\' server receives nothing more', 20, "SELECT count(*) FROM pg_stat_subscription WHERE subname = 'plans' AND pid IS NOT NULL", 0);
push_mission($users, 'in-transit');
wait_until('a plan is only at the planner', 60, sub { plans_of($planner, 'in-transit') eq '1' });
$planner->wait_for_catchup($planner2);
$planner->stop('immediate');
$planner2->promote;
$users->safe_psql('mana_sync', 'ALTER SUBSCRIPTION plans SET (slot_name = NONE); DROP SUBSCRIPTION plans');
subscription($users, $planner2, 'plans', 'plans', 'WITH (copy_data = false)');
is(plans_of($users, 'in-transit'), 0, 'the plan that was in transit is missing');
copy_missing($planner2, $users, q(client_id = 'mana-ai-runner'));
is(plans_of($users, 'in-transit'), 1, 'until what is missing is copied');
push_mission($users, 'after-failover');
wait_until('the new planner plans', 60, sub { plans_of($users, 'after-failover') eq '1' });

# ---------------------------------------------------------------- failover of the users' server

$users->backup('base');
my $users2 = PostgreSQL::Test::Cluster->new('users2');
$users2->init_from_backup($users, 'base', has_streaming => 1);
$users2->start;
$planner2->safe_psql('mana_sync', 'ALTER SUBSCRIPTION changes DISABLE');
wait_for($planner2, 'the planner receives nothing more', 20, "SELECT count(*) FROM pg_stat_subscription WHERE subname = 'changes' AND pid IS NOT NULL", 0);
push_mission($users, 'not-sent');
$users->wait_for_catchup($users2);
$users->stop('immediate');
$users2->promote;
$planner2->safe_psql('mana_sync', 'ALTER SUBSCRIPTION changes SET (slot_name = NONE); DROP SUBSCRIPTION changes');
subscription($planner2, $users2, 'changes', 'changes', 'WITH (copy_data = false)');
copy_missing($users2, $planner2, q(client_id <> 'mana-ai-runner'));
wait_until('a mission that was not sent before is planned', 60, sub { plans_of($users2, 'not-sent') eq '1' });
push_mission($users2, 'last');
wait_until('and a new one', 60, sub { plans_of($users2, 'last') eq '1' });
for my $node ($users2, $planner2)
{
    is(value($node, "SELECT count(*) FROM (SELECT record_id FROM public.sync_changes WHERE client_id = 'mana-ai-runner' AND record_id IN ('before-failover', 'in-transit', 'after-failover', 'not-sent', 'last') GROUP BY 1 HAVING count(*) = 1) once"),
        5, 'each has one plan on ' . $node->name);
}
is(snapshots_differ($planner2), '', 'the snapshots are what the log says');
($users, $planner) = ($users2, $planner2);
for my $node ($users, $planner)
{
    unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/duplicate key|ERROR:.*replica/, 'no row went in a circle on ' . $node->name);
}
$planner->stop;
$users->stop;
$model->stop;
done_testing();
