# The steps of docs/replacing-mana-ai.md, on a database in which the service that this replaces has run.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $node  = new_cluster('replacing', model => $model, database => undef);
create_sync_database($node, 'mana_sync', extension => 0);
my $user = USER_ID;

# The tables that the service makes at its start, with what it has left in them.
value($node, <<"END");
CREATE SCHEMA mana_ai;
CREATE TABLE mana_ai.mission_snapshots (
  user_id text NOT NULL, mission_id text NOT NULL, record jsonb NOT NULL,
  last_applied_at timestamptz NOT NULL DEFAULT 'epoch', updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_id, mission_id));
CREATE TABLE mana_ai.decrypt_audit (
  id bigserial PRIMARY KEY, user_id text NOT NULL, mission_id text NOT NULL, iteration_id text, table_name text NOT NULL,
  record_id text NOT NULL, status text NOT NULL CHECK (status IN ('ok', 'failed', 'scope-violation')), reason text, ts timestamptz NOT NULL DEFAULT now());
ALTER TABLE mana_ai.decrypt_audit ENABLE ROW LEVEL SECURITY;
CREATE POLICY decrypt_audit_user_scope ON mana_ai.decrypt_audit USING (user_id = current_setting('app.current_user_id', true));
CREATE TABLE mana_ai.token_usage (
  id bigserial PRIMARY KEY, user_id text NOT NULL, agent_id text NOT NULL, mission_id text NOT NULL, tokens_used int NOT NULL,
  ts timestamptz NOT NULL DEFAULT now());
INSERT INTO mana_ai.mission_snapshots (user_id, mission_id, record) VALUES ('$user', 'old', '{"state": "active", "title": "veraltet"}');
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status, reason, ts)
VALUES ('$user', 'm1', NULL, 'notes', 'n1', 'ok', NULL, now() - interval '3 days'),
       ('$user', 'm1', 'i1', 'notes', 'n2', 'failed', 'decrypt-failed', now() - interval '2 days');
INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used, ts)
VALUES ('$user', 'ada', 'm1', 700, now() - interval '1 hour'), ('$user', 'ada', 'm1', 9000, now() - interval '2 days');
END
push_agent($node, 'ada', maxTokensPerDay => 500);
push_mission($node, 'm1', agentId => 'ada', title => 'Neu');

fails_like($node, 'CREATE EXTENSION mana_ai', qr/42P06: schema "mana_ai" already exists/, 'in a schema of somebody else it will not live');

# The page's own statements.
my $page = slurp_file("$ENV{MANA_AI_TEST_DATA}/../../docs/replacing-mana-ai.md");
my @statements = $page =~ /```sql\n(.*?)```/gs;
is(scalar @statements, 2, 'the page has its statements');
value($node, $statements[0]);
value($node, 'CREATE EXTENSION mana_ai');
value($node, $statements[1]);

is_deeply(
    rows($node, "SELECT mission_id, iteration_id, table_name, record_id, status, reason FROM mana_ai.read_decrypt_audit('m1') ORDER BY id"), [],
    'nobody\'s audit is shown to nobody');
is(value($node, "SET app.current_user_id = '$user'; SELECT string_agg(record_id || ' ' || status || ' ' || date_part('day', now() - ts), ', ' ORDER BY id) FROM mana_ai.read_decrypt_audit('m1')"),
    'n1 ok 3, n2 failed 2', 'the user finds the old rows of the audit, in their order');
is(value($node, 'SELECT sum(tokens_used) FROM mana_ai.token_usage'), 700, 'what was spent within a day is taken over');
is(run_mission($node, 'm1')->{outcome}, 'skipped-budget', 'and counts');
is(value($node, "SELECT record ->> 'title' FROM mana_ai.mission_snapshots"), 'Neu', 'snapshots are made of the log');
push_change($node, table => 'agents', id => 'ada', data => { maxTokensPerDay => 100000 }, stamps => { maxTokensPerDay => iso(0) });
is(run_mission($node, 'm1')->{outcome}, 'planned', 'missions run');
value($node, 'DROP SCHEMA mana_ai_service CASCADE');
is(snapshots_differ($node), '', 'and nothing depends on the old schema');
done_testing();
