# mana_ai.service_key is no longer a setting: a value that was left in a configuration is not used and not
# shown, and there is a warning.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('service_key', model => $model);
my $used  = qr/WARNING:  mana_ai: setting "mana_ai.service_key" is no longer used\n/;
my $hint  = qr/HINT:  Have the services issue a new key, write it into a file .*mana_ai\.service_key_file/;

sub warnings_of_load
{
    my ($stdout, $stderr) = ('', '');
    $node->psql('mana_sync', "LOAD 'mana_ai'", stdout => \$stdout, stderr => \$stderr);
    return $stderr;
}

unlike(warnings_of_load(), qr/service_key/, 'not preloaded, nothing configured: nothing to say');

# A value as an older version has left it. Without the library PostgreSQL knows the name no more than any other.
$node->append_conf('postgresql.conf', "mana_ai.service_key = 'sk-conf-11'\n");
$node->restart;
my $said = warnings_of_load();
like($said, $used, 'not preloaded: whoever loads the library is warned');
like($said, $hint, 'and told what to do');
unlike($said, qr/sk-conf-11/, 'without the key');

# ---------------------------------------------------------------- preloaded

my $position = log_position($node);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'mana_ai'\n");
$node->restart;
wait_for_worker($node);
wait_until('postgresql.conf: the worker warns', 10,
    sub { log_since($node, $position) =~ /worker started\n.*mana_ai: setting "mana_ai.service_key" is no longer used/s });
my $log = log_since($node, $position);
like($log, qr/$used.*$hint.*worker started/s, 'so does the server at its start');
unlike($log, qr/sk-conf-11/, 'neither shows the key');
# PostgreSQL 14 keeps settings that nobody defines, also of a library that is loaded.
my $keeps = value($node, "SELECT current_setting('server_version_num')::int < 150000") eq 't';
SKIP:
{
    skip 'PostgreSQL 14 shows settings that nobody defines', 1 if $keeps;
    fails_like($node, 'SHOW mana_ai.service_key', qr/42704: unrecognized configuration parameter/, 'SHOW does not know it');
}
is(value($node, "SELECT count(*) FROM pg_settings WHERE name = 'mana_ai.service_key' OR setting LIKE '%sk-conf-11%'"), 0,
    'pg_settings neither');
push_mission($node, 'm1');
wait_for_iterations($node, 'm1', 1, 20);
ok(!(grep { lc $_ eq 'authorization' } keys %{ ($model->requests)[-1]{headers} }), 'it is not sent');

# The warning repeats as long as the value is in any configuration.
sub is_warned_of
{
    my ($where, $expected) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $from = log_position($node);
    my $reads = value($node, 'SELECT count(*) FROM mana_ai.runs');
    $node->reload;
    if ($expected)
    {
        wait_until("$where: warned of at a reload", 10, sub { log_since($node, $from) =~ $used });
    }
    else
    {
        # The worker reads its configuration before it claims due missions.
        wait_until('the server reloads', 10, sub { log_since($node, $from) =~ /received SIGHUP/ });
        push_mission($node, "after-$where");
        wait_for_iterations($node, "after-$where", 1, 20);
        unlike(log_since($node, $from), $used, "$where: nothing to say");
    }
    my $said = log_since($node, $from);
    $said =~ s/^.* LOG:  parameter "mana_ai.service_key" changed to .*\n//mg if $keeps;  # PostgreSQL's own words
    unlike($said, qr/sk-/, "$where: without the key");
    return;
}

sub edit_file
{
    my ($name, $edit) = @_;
    my $file = $node->data_dir . "/$name";
    my $text = PostgreSQL::Test::Utils::slurp_file($file);
    $edit->($text) for $text;
    open my $handle, '>', $file or die $!;
    print $handle $text;
    close $handle or die $!;
    return;
}

is_warned_of('postgresql.conf', 1);
edit_file('postgresql.conf', sub { $_[0] =~ s/^mana_ai\.service_key = .*\n//m });
is_warned_of('nothing', 0);
edit_file('postgresql.auto.conf', sub { $_[0] .= "mana_ai.service_key = 'sk-auto-22'\n" });
is_warned_of('ALTER SYSTEM', 1);
edit_file('postgresql.auto.conf', sub { $_[0] =~ s/^mana_ai\.service_key.*\n//m });
value($node, q{UPDATE pg_db_role_setting SET setconfig = setconfig WHERE false;
INSERT INTO pg_db_role_setting SELECT oid, 0, ARRAY['mana_ai.service_key=sk-database-33'] FROM pg_database WHERE datname = 'mana_sync'});
is_warned_of('ALTER DATABASE', 1);
value($node, 'ALTER DATABASE mana_sync RESET ALL');
is_warned_of('again nothing', 0);

# ---------------------------------------------------------------- what to do instead

settings($node, 'mana_ai.service_key_file' => key_file('sk-file-44'));
push_mission($node, 'm2');
wait_for_iterations($node, 'm2', 1, 20);
wait_until('the key of a file is sent', 20, sub {
    push_mission($node, 'm3', updatedAt => iso(0), createdAt => iso(0), iterations => []);
    my %headers = map { lc($_) => ($model->requests)[-1]{headers}{$_} } keys %{ ($model->requests)[-1]{headers} };
    return ($headers{authorization} // '') eq 'Bearer sk-file-44';
});
$node->stop;
$model->stop;
done_testing();
