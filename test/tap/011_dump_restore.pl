# pg_dump and restore: the operator's data comes back, derived data is derived again, and the
# worker continues.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node  = new_cluster('dump', preload => 1, model => $model, conf => <<'END');
mana_ai.database = 'mana_sync, restored, custom'
mana_ai.tick_interval = '1s'
END
wait_for_worker($node);

push_agent($node, 'ada', name => 'Ada');
push_mission($node, 'planned', agentId => 'ada');
push_mission($node, 'later', nextRunAt => iso(3600));
push_mission($node, 'deleted');
push_change($node, id => 'deleted', op => 'delete', data => { deletedAt => iso(0) });
wait_for_iterations($node, 'planned', 1, 10);
value($node, <<'END');
INSERT INTO mana_ai.tools (name, module, description, default_policy, parameters)
VALUES ('water_plants', 'garden', 'Gießt die Pflanzen', 'propose', '[{"name": "minutes", "type": "number", "required": true, "description": "Dauer"}]');
UPDATE mana_ai.tools SET enabled = false WHERE name = 'create_task';
UPDATE mana_ai.tools SET description = 'Unsere eigene Beschreibung' WHERE name = 'create_note';
END
value($node, <<'END');
CREATE FUNCTION public.read_recipe(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
SELECT mana_ai.register_resolver('cookbook', 'public.read_recipe(text, jsonb)');
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status)
SELECT 'u1', 'planned', 'i', 'notes', n, 'ok' FROM generate_series(1, 3) n;
END
my $audit = 'SELECT json_agg(a ORDER BY id) FROM mana_ai.decrypt_audit a';
my $resolvers = 'SELECT json_agg(json_build_array(module, resolver::regprocedure)) FROM mana_ai.resolvers';
my $tools = 'SELECT json_agg(t ORDER BY name) FROM (SELECT name, module, description, default_policy, parameters, enabled FROM mana_ai.tools) t';
my $records = "SELECT json_agg(t ORDER BY mission_id) FROM (SELECT user_id, mission_id, record, space_id FROM mana_ai.mission_snapshots) t";
my $agents = 'SELECT json_agg(record ORDER BY agent_id) FROM mana_ai.agent_snapshots';

# While a mission is due, so that the restored worker has something to do.
settings($node, 'mana_ai.tick_enabled' => 'off');
wait_for($node, 'the worker is paused', 5, 'SELECT worker_state FROM mana_ai.status()', 'paused');
push_mission($node, 'due');

my $backups = $node->backup_dir;
my %restores = (
    restored => [
        [ 'pg_dump', '-Fp', '-f', "$backups/plain.sql", $node->connstr('mana_sync') ],
        [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$backups/plain.sql", '-d', $node->connstr('restored') ] ],
    custom => [
        [ 'pg_dump', '-Fc', '-f', "$backups/custom.dump", $node->connstr('mana_sync') ],
        [ 'pg_restore', '--exit-on-error', '-d', $node->connstr('custom'), "$backups/custom.dump" ] ]);

for my $database (qw(restored custom))
{
    my ($dump, $restore) = @{ $restores{$database} };
    value($node, "CREATE DATABASE $database TEMPLATE template0", 'postgres');
    command_ok($dump, "$database: pg_dump");
    # pg_restore brings sync_changes' rows after CREATE EXTENSION, its triggers at the end.
    restore_ok($restore, "$database: restore");
    is(value($node, 'SELECT count(*) FROM public.sync_changes', $database),
        value($node, 'SELECT count(*) FROM public.sync_changes'), "$database: all changes are there");
    is(value($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.sync_changes'::regclass AND NOT tgisinternal AND tgenabled <> 'D'", $database),
        value($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.sync_changes'::regclass AND NOT tgisinternal"), "$database: our trigger is on the table, once");
    is(value($node, 'SELECT sync_table FROM mana_ai.status()', $database), 'public.sync_changes', "$database: it is attached");
    is(value($node, $tools, $database), value($node, $tools), "$database: the operator's tools are there");
    is(value($node, $resolvers, $database), value($node, $resolvers), "$database: so are resolvers");
    is(value($node, $audit, $database), value($node, $audit), "$database: the audit of decryptions is there");
    is(value($node, <<'END', $database), 4, "$database: and goes on behind its last row");
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status)
VALUES ('u1', 'planned', 'i', 'notes', '4', 'ok') RETURNING id
END
    wait_for($node, "$database: snapshots are replays", 10, 'SELECT count(*) FROM mana_ai.mission_snapshots', 3, $database)
      or diag(value($node, 'SELECT * FROM mana_ai.refresh_snapshots()', $database));
    is(snapshots_differ($node, $database), '', "$database: snapshots are replays, without anybody's help");
    is(value($node, $records, $database), value($node, $records), "$database: the same records");
    is(value($node, $agents, $database), value($node, $agents), "$database: the same agents");
    is(value($node, 'SELECT count(*) FROM mana_ai.dirty_records', $database), 0, "$database: no record waits for repair");
    is(value($node, "SELECT due_at IS NOT NULL FROM mana_ai.mission_schedule WHERE mission_id = 'later'", $database), 't', "$database: what is later is scheduled");
    is(value($node, 'SELECT new_snapshots, updated_snapshots FROM mana_ai.refresh_snapshots()', $database), '0|0',
        "$database: refresh_snapshots() finds nothing to do");
    push_changes($node, $database, { id => 'fresh', op => 'insert', data => {
        title => 'T', objective => 'O', state => 'active', cadence => { kind => 'manual' }, nextRunAt => iso(-60) } });
    is(snapshots_differ($node, $database), '', "$database: changes after the restore are kept as well");
}

$model->reset;
settings($node, 'mana_ai.tick_enabled' => 'on');
for my $database (qw(restored custom))
{
    wait_for_worker($node, $database, 10);
    wait_for($node, "$database: its worker plans what is due", 10,
        "SELECT count(*) FROM mana_ai.runs WHERE mission_id IN ('due', 'fresh') AND outcome = 'planned'", 2, $database);
    is(snapshots_differ($node, $database), '', "$database: snapshots are replays");
}
my ($request) = $model->requests;
my %offered = map { $_->{function}{name} => $_->{function}{description} } @{ $request->{body}{tools} };
is($offered{water_plants}, 'Gießt die Pflanzen', 'the operator\'s tool is offered');
ok(!exists $offered{create_task}, 'the one that was switched off is not');
is($offered{create_note}, 'Unsere eigene Beschreibung', 'a changed description is used');

unlike(log_since($node), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$model->stop;
done_testing();
