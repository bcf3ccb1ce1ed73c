# ALTER EXTENSION mana_ai UPDATE: a database of 0.1.0 becomes what a fresh installation is, and keeps what it has.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $node  = new_cluster('upgrade', preload => 1, model => $model, conf => <<'END');
mana_ai.database = 'mana_sync, old'
mana_ai.tick_interval = '1s'
END

plan skip_all => 'the install script of 0.1.0 is not installed (test/private_install.sh does it)'
  if value($node, "SELECT count(*) FROM pg_available_extension_versions WHERE name = 'mana_ai' AND version = '0.1.0'") == 0;

# What an installation consists of, as sorted lines of text. Columns are compared by name: an added one is the last.
my $inventory = <<'END';
WITH member AS (
  SELECT classid, objid FROM pg_depend
   WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
     AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'mana_ai')),
relation AS (SELECT c.* FROM pg_class c JOIN member m ON m.objid = c.oid AND m.classid = 'pg_class'::regclass)
SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM (
  SELECT format('object %s', pg_describe_object(classid, objid, 0)) FROM member
  UNION ALL
  SELECT format('relation %s %s %s %s %s', relname, relkind, relreplident, array_to_string(reloptions, ','),
                (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(relacl) a)) FROM relation
  UNION ALL
  SELECT format('column %s.%s %s %s %s %s %s', r.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                a.attidentity, (SELECT collname FROM pg_collation WHERE oid = a.attcollation),
                (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = r.oid AND adnum = a.attnum))
    FROM pg_attribute a JOIN relation r ON r.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT format('index %s', pg_get_indexdef(i.indexrelid)) FROM pg_index i JOIN relation r ON r.oid = i.indrelid
  UNION ALL
  SELECT format('constraint %s %s %s', r.relname, k.conname, pg_get_constraintdef(k.oid))
    FROM pg_constraint k JOIN relation r ON r.oid = k.conrelid
  UNION ALL
  SELECT format('view %s %s', relname, pg_get_viewdef(oid)) FROM relation WHERE relkind = 'v'
  UNION ALL
  SELECT format('policy %s %s %s', r.relname, p.polname, pg_get_expr(p.polqual, p.polrelid))
    FROM pg_policy p JOIN relation r ON r.oid = p.polrelid
  UNION ALL
  SELECT format('function %s %s', pg_get_functiondef(p.oid), (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(p.proacl) a))
    FROM pg_proc p JOIN member m ON m.objid = p.oid AND m.classid = 'pg_proc'::regclass
  UNION ALL
  SELECT format('trigger %s %s %s', pg_get_triggerdef(oid), tgenabled,
                (SELECT string_agg(deptype::text, '') FROM pg_depend d
                  WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_extension'::regclass))
    FROM pg_trigger t WHERE NOT tgisinternal
  UNION ALL
  SELECT format('comment %s %s', pg_describe_object(d.classoid, d.objoid, d.objsubid), description)
    FROM pg_description d JOIN member m ON m.objid = d.objoid AND m.classid = d.classoid
  UNION ALL
  SELECT format('dumped %s %s', c::regclass, w) FROM pg_extension, unnest(extconfig, extcondition) AS u(c, w)
   WHERE extname = 'mana_ai'
  UNION ALL
  SELECT format('tool %s', to_jsonb(t)) FROM mana_ai.tools t
  UNION ALL
  SELECT format('catalog %s', to_jsonb(c)) FROM mana_ai.tool_catalogs c) AS lines(line)
END

create_sync_database($node, 'old', extension => 0);
$node->safe_psql('old', "CREATE EXTENSION mana_ai VERSION '0.1.0'");
push_agent($node, 'ada', database => 'old', name => 'Ada');
push_mission($node, 'before', database => 'old', agentId => 'ada', nextRunAt => iso(3600));
# Snapshots of 0.1.0 showed paths as fields.
push_mission($node, 'paths', database => 'old', nextRunAt => iso(3600), cadence => { kind => 'daily', atHour => 8, atMinute => 0 });
push_change($node, database => 'old', id => 'paths', data => { 'cadence_atHour' => 21 }, stamps => { 'cadence_atHour' => iso(0) });
$node->safe_psql('old', <<'END');
UPDATE mana_ai.mission_snapshots SET record = replace(record::text, 'cadence_', 'cadence.')::jsonb WHERE mission_id = 'paths';
UPDATE public.sync_changes SET data = replace(data::text, 'cadence_', 'cadence.')::jsonb,
       field_timestamps = replace(field_timestamps::text, 'cadence_', 'cadence.')::jsonb WHERE record_id = 'paths';
END
# Version 0.1.0 kept of a deleted record only when it was deleted.
push_agent($node, 'shared', database => 'old', space => 's1', name => 'Geteilt');
push_change($node, database => 'old', space => 's1', table => 'agents', id => 'shared', op => 'delete', data => { deletedAt => iso(0) });
wait_for($node, 'the worker waits for the update', 10, 'SELECT worker_state FROM mana_ai.status()', 'wrong version', 'old');
$node->safe_psql('old', 'ALTER EXTENSION mana_ai UPDATE');
is($node->safe_psql('old', "SELECT extversion FROM pg_extension WHERE extname = 'mana_ai'"),
    $node->safe_psql('mana_sync', "SELECT extversion FROM pg_extension WHERE extname = 'mana_ai'"), 'the version is the newest');

my @fresh    = split /\n/, $node->safe_psql('mana_sync', $inventory);
my @upgraded = split /\n/, $node->safe_psql('old', $inventory);
my %fresh    = map { $_ => 1 } @fresh;
my %upgraded = map { $_ => 1 } @upgraded;
cmp_ok(scalar @fresh, '>', 100, 'there is something to compare');
is_deeply([ grep { !$upgraded{$_} } @fresh ], [], 'the upgraded database lacks nothing');
is_deeply([ grep { !$fresh{$_} } @upgraded ], [], 'and has nothing that a fresh one does not have');

wait_for($node, 'writes to parts of a value are in the value', 15, <<'END', '{"kind": "daily", "atHour": 21, "atMinute": 0}', 'old');
SELECT record -> 'cadence' FROM mana_ai.mission_snapshots WHERE mission_id = 'paths' AND NOT record ? 'cadence.atHour'
END
wait_for($node, 'of deleted records it is known where they were', 15,
    "SELECT space_id, was_whole FROM mana_ai.record_tombstones WHERE record_id = 'shared'", 's1|t', 'old');
is(snapshots_differ($node, 'old'), '', 'its snapshots are those of the log');
push_mission($node, 'after', database => 'old', agentId => 'ada');
wait_for($node, 'a mission is planned after the update', 15,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'after' AND outcome = 'planned'", '1', 'old');

done_testing();
