# A database of 0.1.0 that is in use is upgraded: a run in flight, tools that the operator has changed, an audit, and
# a dump of it. And a library and an extension of different versions, either way round.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $node  = new_cluster('upgrade_in_use', preload => 1, model => $model, conf => <<'END');
mana_ai.database = 'mana_sync, old, restored'
mana_ai.tick_interval = '1s'
END

plan skip_all => 'the install script of 0.1.0 is not installed (test/private_install.sh does it)'
  if value($node, "SELECT count(*) FROM pg_available_extension_versions WHERE name = 'mana_ai' AND version = '0.1.0'") == 0;

create_sync_database($node, 'old', extension => 0);
$node->safe_psql('old', "CREATE EXTENSION mana_ai VERSION '0.1.0'");
wait_for($node, 'the worker waits for the update', 20, 'SELECT worker_state FROM mana_ai.status()', 'wrong version', 'old');
push_agent($node, 'ada', database => 'old', name => 'Ada');
push_mission($node, 'flying', database => 'old', agentId => 'ada');
push_mission($node, 'later', database => 'old', nextRunAt => iso(3600));
push_mission($node, 'gone', database => 'old');
push_change($node, id => 'gone', op => 'delete', database => 'old', data => { deletedAt => iso(0) });

# As the old library left it when the server was stopped: a run under way whose process is gone, and what it had paid.
value($node, <<'END', 'old');
UPDATE mana_ai.mission_schedule SET lease_owner = 424242, run_id = '00000000-0000-4000-8000-000000000001', attempts = 1,
       wake_at = now() + interval '10 minutes' WHERE mission_id = 'flying';
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, agent_id, started_at, outcome, decision, lease_owner)
VALUES ('00000000-0000-4000-8000-000000000001', 'user-1', 'flying', 'ada', now(), 'running', 'ran', 424242),
       ('00000000-0000-4000-8000-000000000002', 'user-1', 'later', NULL, now() - interval '1 day', 'planned', 'ran', NULL);
INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used) VALUES ('user-1', 'ada', 'flying', 777);
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status)
SELECT 'user-1', 'flying', 'i', 'notes', n, 'ok' FROM generate_series(1, 3) n;
INSERT INTO mana_ai.tools (name, module, description, default_policy, parameters)
VALUES ('water_plants', 'garden', 'Gießt die Pflanzen', 'propose', '[]');
UPDATE mana_ai.tools SET enabled = false WHERE name = 'create_task';
UPDATE mana_ai.tools SET description = 'Unsere eigene Beschreibung' WHERE name = 'create_note';
CREATE FUNCTION public.read_recipe(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
SELECT mana_ai.register_resolver('cookbook', 'public.read_recipe(text, jsonb)');
END
my %kept = (
    'the audit'     => 'SELECT json_agg(a ORDER BY id) FROM mana_ai.decrypt_audit a',
    'resolvers'     => 'SELECT json_agg(json_build_array(module, resolver::regprocedure)) FROM mana_ai.resolvers',
    'what was paid' => 'SELECT json_agg(json_build_array(user_id, agent_id, mission_id, tokens_used, ts)) FROM mana_ai.token_usage',
    'the tools of the operator' => "SELECT json_agg(t ORDER BY name) FROM (SELECT name, description, enabled FROM mana_ai.tools
       WHERE name IN ('water_plants', 'create_task', 'create_note')) t",
    'finished runs' => "SELECT json_agg(json_build_array(run_id, mission_id, outcome)) FROM mana_ai.runs WHERE mission_id = 'later'",
);
my %before = map { $_ => value($node, $kept{$_}, 'old') } keys %kept;
unlike($before{$_}, qr/^$/, "$_: there is something to keep") for sort keys %kept;

# pg_dump names no version: CREATE EXTENSION in the restored database makes the new one.
my $dump = $node->backup_dir . '/old.dump';
command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('old') ], 'a dump of 0.1.0');
settings($node, 'mana_ai.tick_enabled' => 'off');
value($node, 'CREATE DATABASE restored TEMPLATE template0', 'postgres');
restore_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'is restored');

$node->safe_psql('old', 'ALTER EXTENSION mana_ai UPDATE');
for my $database ('old', 'restored') {
    is(value($node, "SELECT extversion FROM pg_extension WHERE extname = 'mana_ai'", $database),
        value($node, "SELECT extversion FROM pg_extension WHERE extname = 'mana_ai'"), "$database: the version is the newest");
    is(value($node, $kept{$_}, $database), $before{$_}, "$database: $_ are kept") for sort keys %kept;
    is(value($node, "SELECT json_agg(t ORDER BY name) FROM (SELECT * FROM mana_ai.tools WHERE name NOT IN ('water_plants', 'create_task', 'create_note')) t", $database),
        value($node, "SELECT json_agg(t ORDER BY name) FROM (SELECT * FROM mana_ai.tools WHERE name NOT IN ('water_plants', 'create_task', 'create_note')) t"),
        "$database: the other tools are those of a fresh installation");
}
settings($node, 'mana_ai.tick_enabled' => 'on');
for my $database ('old', 'restored') {
    wait_for($node, "$database: the run in flight is given up", 30,
        "SELECT outcome FROM mana_ai.runs WHERE run_id = '00000000-0000-4000-8000-000000000001'", 'crashed', $database);
    wait_for($node, "$database: its mission is planned", 30,
        "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'flying' AND outcome = 'planned'", '1', $database);
    is(value($node, "SELECT count(*) FROM public.sync_changes WHERE client_id = 'mana-ai-runner' AND record_id = 'flying'", $database),
        '1', "$database: once");
    wait_for($node, "$database: every record of the log is there", 20, 'SELECT count(*) FROM mana_ai.mission_snapshots', 2, $database);
    is(snapshots_differ($node, $database), '', "$database: snapshots are those of the log");
}

# A library that is older than the extension, and one that is newer.
my $sql = "UPDATE pg_extension SET extversion = '%s' WHERE extname = 'mana_ai'";
my $version = value($node, "SELECT extversion FROM pg_extension WHERE extname = 'mana_ai'");
for (['99.0.0', "worker waits: the extension in this database has version 99.0.0, the library that the server has loaded $version; "
        . 'install the library of version 99.0.0 and restart the server'],
    ['0.1.9', "worker waits: the library has version $version, the extension in this database 0.1.9; call ALTER EXTENSION mana_ai UPDATE"]) {
    my ($other, $answer) = @$_;
    value($node, sprintf $sql, $other);
    push_mission($node, "under_$other");
    wait_for($node, "extension $other: status() says what to do", 20, 'SELECT worker_problem FROM mana_ai.status()', $answer);
    is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'under_$other'"), 0, 'and nothing is planned');
}
value($node, sprintf $sql, $version);
wait_for($node, 'with the same version it goes on', 20,
    "SELECT count(DISTINCT mission_id) FROM mana_ai.runs WHERE mission_id LIKE 'under\\_%' AND outcome = 'planned'", 2);

done_testing();
