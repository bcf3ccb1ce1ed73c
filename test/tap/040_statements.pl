# Memory that our functions keep in a session, and how it reports errors that PostgreSQL raises inside them.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use ManaAi;

my $node = new_cluster('statements', preload => 1, conf => "mana_ai.tick_enabled = off\n");
my $sql = sub { return value($node, $_[0]) };

# ---------------------------------------------------------------- plans

push_mission($node, 'm1');
# One session: the plans of a function that is called often must not pile up in it.
my $calls = join '', map { "SELECT count(*) FROM mana_ai.refresh_snapshots();\n" } 1 .. 30;
my $plans = "SELECT 'plans ' || count(*) FROM pg_backend_memory_contexts WHERE name = 'CachedPlanSource';\n";
my ($first, $later) = $node->safe_psql('mana_sync', "SELECT count(*) FROM mana_ai.refresh_snapshots();\n$plans$calls$plans") =~ /plans (\d+)/g;
cmp_ok($first, '>', 0, 'a session keeps plans');
is($later, $first, 'but not more with every refresh_snapshots()');
($first, $later) = $node->safe_psql('mana_sync', join '', (map { "SELECT mana_ai.detach(); SELECT mana_ai.attach('public.sync_changes');\n" } 1 .. 2),
    $plans, (map { "SELECT mana_ai.detach(); SELECT mana_ai.attach('public.sync_changes');\n" } 1 .. 10), $plans) =~ /plans (\d+)/g;
cmp_ok($later, '<=', $first, 'nor with every attach()');

# ---------------------------------------------------------------- errors

$node->safe_psql('mana_sync', <<'END');
CREATE FUNCTION public.reads(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql STABLE AS 'SELECT NULL::jsonb';
ALTER TABLE mana_ai.resolvers ADD CONSTRAINT no_such_module CHECK (module <> 'forbidden');
CREATE TABLE public.seen (field text, value text);
CREATE FUNCTION public.fail() RETURNS void LANGUAGE plpgsql AS $$
DECLARE s text; t text; c text; x text; k text; m text;
BEGIN
  PERFORM mana_ai.register_resolver('forbidden', 'public.reads(text, jsonb)');
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS s = SCHEMA_NAME, t = TABLE_NAME, c = CONSTRAINT_NAME, x = PG_EXCEPTION_CONTEXT, k = RETURNED_SQLSTATE, m = MESSAGE_TEXT;
  INSERT INTO public.seen VALUES ('schema', s), ('table', t), ('constraint', c), ('context', x), ('sqlstate', k), ('message', m);
END $$;
END
$node->safe_psql('mana_sync', 'SELECT public.fail()');
my %seen = map { $_->{field} => $_->{value} } @{ rows($node, 'SELECT * FROM public.seen') };
is_deeply([ @seen{qw(sqlstate schema table constraint)} ], [ '23514', 'mana_ai', 'resolvers', 'no_such_module' ],
    'an error says what it was about');
like($seen{message}, qr/violates check constraint "no_such_module"/, 'and what happened');
like($seen{context}, qr/^SQL statement "\s*INSERT INTO mana_ai\.resolvers/, 'and in which statement of mana_ai');
is(scalar(() = $seen{context} =~ /PL\/pgSQL function fail\(\)/g), 1, 'and who called, once');

# ---------------------------------------------------------------- the service key

# Our tables, and backups of them, must contain nothing on which keys could be tried.
my $key_file = "$PostgreSQL::Test::Utils::tmp_check/service_key";
append_to_file($key_file, "a-key\n");
utime 1_700_000_000, 1_700_000_000, $key_file;
settings($node, 'mana_ai.service_key_file' => $key_file);
my $fingerprint = sub { run_tick($node); return $sql->('SELECT settings_fingerprint FROM mana_ai.engine_state') };
wait_until('the file is part of the settings', 30, sub { $sql->('SHOW mana_ai.service_key_file') eq $key_file });
my $of_a_key = $fingerprint->();
isnt($of_a_key, '', 'settings are remembered');
open my $handle, '>', $key_file or die $!;
print $handle "another-key\n";
close $handle;
utime 1_700_000_000, 1_700_000_000, $key_file;
is($fingerprint->(), $of_a_key, 'what is remembered says nothing of the key');
utime 1_700_000_001, 1_700_000_001, $key_file;
isnt($fingerprint->(), $of_a_key, 'but that it was written');

# ---------------------------------------------------------------- dumps

# pg_dump reads the tables of extensions under any role.
$node->safe_psql('postgres', <<'END');
CREATE ROLE dumps_all LOGIN BYPASSRLS; GRANT pg_read_all_data TO dumps_all;
CREATE ROLE dumps_some LOGIN;
END
$node->safe_psql('mana_sync', 'GRANT SELECT ON ALL TABLES IN SCHEMA public TO dumps_some; ALTER TABLE public.sync_changes DISABLE ROW LEVEL SECURITY');
my @dump = ('pg_dump', '-f', "$PostgreSQL::Test::Utils::tmp_check/dump", '-d', $node->connstr('mana_sync'), '-U');
command_ok([ @dump, 'dumps_all' ], 'a role that may read all data can dump the database');
command_fails_like([ @dump, 'dumps_some' ], qr/permission denied for (?:schema mana_ai|\w+ \w+)|user may lack SELECT privilege on the sequence/, 'one that may not cannot');
command_ok([ @dump, 'dumps_some', '--schema=public' ], 'but it can dump what it may read');

done_testing();
