# A publication FOR ALL TABLES, as change data capture and upgrades make it: nothing of mana_ai fails under it, and a
# subscriber that has mana_ai too gets the log and makes its own snapshots of it.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $from = new_cluster('from', preload => 1, model => $model, conf => "wal_level = logical\nmax_wal_senders = 10\nmana_ai.tick_interval = '1s'\n");
my $to   = new_cluster('to', conf => "wal_level = logical\nmax_wal_senders = 10\n");
$from->safe_psql('mana_sync', 'CREATE PUBLICATION everything FOR ALL TABLES');

push_mission($from, 'before');
wait_for_iterations($from, 'before', 1);
like(run_tick($from) // '', qr/./, 'a manual tick ends');

# The tables of the extension are in the publication; those that each server makes for itself are dropped on arrival.
$to->safe_psql('mana_sync', "CREATE SUBSCRIPTION everything CONNECTION '" . $from->connstr . " dbname=mana_sync user=postgres' PUBLICATION everything");
wait_for($to, 'what was there is copied', 60, q(SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'), '0');
push_mission($from, 'after');
wait_for_iterations($from, 'after', 1);
$from->safe_psql('mana_sync', q(INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, ts) VALUES ('old', 'old', 1, now() - interval '10 years')));
value($from, 'SELECT mana_ai.run_tick()');
my $rows = value($from, 'SELECT count(*) FROM public.sync_changes');
wait_for($to, 'all rows arrive', 60, 'SELECT count(*) FROM public.sync_changes', $rows);
wait_for($from, 'and what follows them', 60,
    q(SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn() OR pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) < 100000), '1');
is(value($to, q(SELECT count(*) FROM mana_ai.refresh_snapshots())), 1, 'the rows that were copied at first are folded');
is(snapshots_differ($to), '', 'the subscriber has the right snapshots');
is(value($to, 'SELECT count(*) FROM mana_ai.mission_snapshots'), 2, 'of each mission');
is(value($to, 'SELECT count(*) FROM mana_ai.dirty_records'), 0, 'and no marks');

# Changes and deletions of our rows do not stop it either.
push_change($from, id => 'before', op => 'delete', data => { deletedAt => iso(0) });
push_mission($from, 'last');
wait_for_iterations($from, 'last', 1);
$rows = value($from, 'SELECT count(*) FROM public.sync_changes');
wait_for($to, 'it goes on', 60, 'SELECT count(*) FROM public.sync_changes', $rows);
is(snapshots_differ($to), '', 'and its snapshots with it');
unlike(PostgreSQL::Test::Utils::slurp_file($to->logfile), qr/duplicate key|could not be folded/, 'nothing collided');
unlike(PostgreSQL::Test::Utils::slurp_file($from->logfile), qr/replica identity/, 'nothing of mana_ai was refused');
is(value($from, 'SELECT unnest(errors) FROM mana_ai.status()'), '', 'no tick has failed');
done_testing();
