# Databases and servers with unusual setups: encodings, ICU, checksums, few slots for background workers.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $port  = PostgreSQL::Test::Cluster::get_free_port();
my $node  = new_cluster('environments', preload => 1, model => $model, initdb => ['--data-checksums'], conf => <<'END');
mana_ai.database = 'mana_sync, icu'
mana_ai.tick_interval = '1s'
huge_pages = try
END
is(value($node, 'SHOW data_checksums'), 'on', 'the cluster has checksums');
is(value($node, 'SHOW wal_level'), 'minimal', 'and writes as little WAL as there can be');

for my $encoding ('LATIN1', 'SQL_ASCII') {
    $node->safe_psql('postgres', "CREATE DATABASE other ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
    fails_like($node, 'CREATE EXTENSION mana_ai',
        qr/0A000: mana_ai needs a database with encoding UTF8, this one has $encoding\nHINT:  Create the database anew/,
        "a database with encoding $encoding is refused", database => 'other');
    is($node->safe_psql('other', "SELECT count(*) FROM pg_namespace WHERE nspname = 'mana_ai'"), 0, 'and nothing is left in it');
    $node->safe_psql('postgres', 'DROP DATABASE other');
}

push_mission($node, 'm1', title => 'Straße');
wait_for_iterations($node, 'm1', 1, 20);

SKIP: {
    my $made = $node->psql('postgres',
        "CREATE DATABASE icu ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' LOCALE 'C' TEMPLATE template0");
    skip 'this server makes no databases with ICU', 3 if $made != 0;
    create_sync_database($node, 'icu', exists => 1);
    push_agent($node, 'ada', database => 'icu', name => 'Ädå');
    push_mission($node, 'm2', database => 'icu', agentId => 'ada', title => 'Straße');
    wait_for($node, 'a mission is planned in a database with ICU', 20,
        "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'm2' AND outcome = 'planned'", '1', 'icu');
    # A collation of ICU orders these differently.
    push_mission($node, $_, database => 'icu', state => 'paused') for 'Zebra', 'apfel', 'Äpfel';
    is(snapshots_differ($node, 'icu'), '', 'its snapshots are those of the log');
    is(value($node, "SELECT mana_ai.why('u1', 'Äpfel') IS NOT NULL", 'icu'), 't', 'ids are found');
}

# The replication launcher and ours take both slots.
$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmana_ai.http_listen = '127.0.0.1:$port'\n");
$node->restart;
wait_for($node, 'status() tells of the places that are missing', 20,
    'SELECT worker_problem FROM mana_ai.status()',
    'worker is not running: all 2 places of max_worker_processes are taken, mana_ai alone needs 7');
is(value($node, 'SELECT worker_slots_needed, worker_slots_free FROM mana_ai.status()'), '7|0', 'and of how many there are');
$node->append_conf('postgresql.conf', "max_worker_processes = 16\n");
$node->restart;
wait_for($node, 'with more of them the worker runs', 20, 'SELECT worker_problem IS NULL AND worker_slots_free > 0 FROM mana_ai.status()', 't');

done_testing();
