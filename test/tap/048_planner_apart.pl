# A planner on a separate server (docs/operations.md): the users' server has no mana_ai, changes go to the planner by
# logical replication, and plans come back the same way.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $logical = "wal_level = logical\nmax_wal_senders = 10\n";
my $users = new_cluster('users', extension => 0, conf => $logical);
plan skip_all => 'row filters of publications need PostgreSQL 15' if value($users, 'SHOW server_version_num') < 150000;
my $planner = new_cluster('planner', preload => 1, model => $model, conf => $logical);

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
for my $node ($users, $planner)
{
    unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/duplicate key|ERROR:.*replica/, 'no row went in a circle on ' . $node->name);
}
$planner->stop;
$users->stop;
$model->stop;
done_testing();
