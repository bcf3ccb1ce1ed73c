# The log on several servers (docs/scaling.md): in front of them one whose sync_changes has foreign partitions by user, and
# mana_ai on the servers that hold the rows.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $front = new_cluster('front', extension => 0);
my @data  = map { new_cluster("data$_", preload => 1, model => $model, conf => "mana_ai.database = 'mana_sync'\n") } 0 .. 1;

for my $node (@data)
{
    # The table's owner is an ordinary role, and the front is one that sees all users: the front has the policies.
    $node->safe_psql('mana_sync', <<'END');
CREATE ROLE mana_owner;
ALTER TABLE public.sync_changes OWNER TO mana_owner;
CREATE ROLE mana_front LOGIN BYPASSRLS;
GRANT SELECT, INSERT ON public.sync_changes TO mana_front;
END
    wait_for_worker($node);
}

# A unique index over foreign partitions is not possible; each server checks the ids of its rows.
my $table = slurp_file("$ENV{MANA_AI_TEST_DATA}/sync_changes.sql");
$table =~ s/PRIMARY KEY DEFAULT/NOT NULL DEFAULT/ or die;
$table =~ s/\n\);/\n) PARTITION BY HASH (user_id);/ or die;
$table =~ s/CREATE INDEX.*?;//gs;
$front->safe_psql('mana_sync', "DROP TABLE public.sync_changes; $table; GRANT SELECT, INSERT ON public.sync_changes TO mana_sync_service; CREATE EXTENSION postgres_fdw");
for my $n (0 .. 1)
{
    my ($host, $port) = ($data[$n]->host, $data[$n]->port);
    $front->safe_psql('mana_sync', <<"END");
CREATE SERVER data$n FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'mana_sync');
CREATE USER MAPPING FOR mana_sync_service SERVER data$n OPTIONS (user 'mana_front', password_required 'false');
CREATE USER MAPPING FOR postgres SERVER data$n OPTIONS (user 'mana_front');
CREATE FOREIGN TABLE public.sync_changes_$n PARTITION OF public.sync_changes FOR VALUES WITH (MODULUS 2, REMAINDER $n)
  SERVER data$n OPTIONS (schema_name 'public', table_name 'sync_changes');
END
}

# PostgreSQL does not check the policies' WITH CHECK for rows that go to a foreign partition.
$front->safe_psql('mana_sync', <<'END');
CREATE FUNCTION public.check_own_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id IS DISTINCT FROM current_setting('app.current_user_id', true) THEN
    RAISE EXCEPTION 'row of another user in sync_changes' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER check_own_row BEFORE INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION public.check_own_row();
END

sub plans_at { my ($node) = @_; return value($node, "SELECT count(*) FROM public.sync_changes WHERE client_id = 'mana-ai-runner'") }

# ---------------------------------------------------------------- each server plans the users that it holds

push_changes($front, map { mission_change("m$_", user => "user-$_") } 1 .. 40);
my @missions = map { value($_, 'SELECT count(*) FROM mana_ai.mission_snapshots') } @data;
is($missions[0] + $missions[1], 40, 'all missions are on one of the servers');
cmp_ok($missions[$_], '>', 5, "not all on the other one than data$_") for 0 .. 1;
wait_until('all are planned, and the plans are seen through the front', 60, sub { plans_at($front) == 40 });
is(value($front, "SELECT count(DISTINCT record_id) FROM public.sync_changes WHERE client_id = 'mana-ai-runner'"), 40, 'each one once');
is(plans_at($data[$_]), $missions[$_], "those of data$_ are on it") for 0 .. 1;

# What a device writes through the front reaches the mission.
push_change($front, id => 'm1', user => 'user-1', data => { state => 'paused' });
my ($holder) = grep { value($_, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'm1'") } @data;
is(value($holder, "SELECT record ->> 'state' FROM mana_ai.mission_snapshots WHERE mission_id = 'm1'"), 'paused', 'a user pauses a mission');
is(value($holder, "SELECT jsonb_array_length(record -> 'iterations') FROM mana_ai.mission_snapshots WHERE mission_id = 'm1'"), 1, 'which keeps its plan');

# ---------------------------------------------------------------- users see their own rows

my $as_user = sub {
    my ($sql) = @_;
    return $front->safe_psql('mana_sync', "SET app.current_user_id = 'user-2'; $sql", extra_params => [ '-U', 'mana_sync_service' ]);
};
is($as_user->('SELECT string_agg(DISTINCT user_id, \' \') FROM public.sync_changes'), 'user-2', 'the policies of the front apply');
my ($code, undef, $error) = $front->psql('mana_sync',
    "SET app.current_user_id = 'user-2'; INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES ('ai', 'aiMissions', 'm3', 'user-3', 'delete', 'x')",
    extra_params => [ '-U', 'mana_sync_service' ]);
like($error, qr/row of another user/, 'and its trigger refuses rows that are written for somebody else');

# ---------------------------------------------------------------- one server is away

$model->control({ latency_ms => 1500 });
push_changes($front, map { mission_change("n$_", user => "user-$_") } 1 .. 40);
wait_until('calls are in flight', 20, sub { $model->in_flight > 10 });
$data[0]->stop('immediate');
my ($on_0) = grep { value($data[1], "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'n$_'") == 0 } 1 .. 40;
my ($on_1) = grep { value($data[1], "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'n$_'") == 1 } 1 .. 40;
push_mission($front, 'while-away', user => "user-$on_1");
is(value($data[1], "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id = 'while-away'"), 1, 'changes of users on the other one are taken');
($code, undef, $error) = $front->psql('mana_sync',
    "SET app.current_user_id = 'user-$on_0'; INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES ('ai', 'aiMissions', 'lost', 'user-$on_0', 'delete', 'x')",
    extra_params => [ '-U', 'mana_sync_service' ]);
like($error, qr/could not connect to server "data0"/, 'those of its own users are refused: their devices push again later');
$data[0]->start;
wait_until('it goes on with what was in flight', 90, sub {
    value($front, "SELECT count(DISTINCT record_id) FROM public.sync_changes WHERE client_id = 'mana-ai-runner' AND (record_id LIKE 'n%' OR record_id = 'while-away')") == 41;
});
is(value($front, "SELECT count(*) FROM public.sync_changes WHERE client_id = 'mana-ai-runner' AND (record_id LIKE 'n%' OR record_id = 'while-away')"), 41, 'each mission has one plan');
is(snapshots_differ($_), '', 'the snapshots of ' . $_->name . ' are what its log says') for @data;

$_->stop for @data, $front;
$model->stop;
done_testing();
