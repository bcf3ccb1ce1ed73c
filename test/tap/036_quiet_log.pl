# The trigger's log messages in a client's session contain neither the calling statement nor the line of a COPY, since
# both contain text of users.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster('quiet');
my $id   = 'x' x 1001;
my $said = qr/LOG:  mana_ai: .*ids that are too long|LOG:  mana_ai: .*ids too long/;

my $position = log_position($node);
push_mission($node, $id, title => 'Geheim-im-Insert');
like(log_since($node, $position), $said, 'a record that cannot be kept is said in the log');
unlike(log_since($node, $position), qr/Geheim-im-Insert|STATEMENT/, 'without the statement');

$position = log_position($node);
my $file = $node->basedir . '/rows';
append_to_file($file, "ai\taiMissions\t$id\tuser-1\tinsert\tbrowser-1\t{\"title\": \"Geheim-im-Copy\"}\n");
$node->safe_psql('mana_sync', "COPY public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data) FROM '$file'");
like(log_since($node, $position), $said, 'in a COPY too');
unlike(log_since($node, $position), qr/Geheim-im-Copy|CONTEXT|STATEMENT/, 'without its line');

$node->stop;
done_testing();
