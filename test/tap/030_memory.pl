# Whatever users push, the worker's memory stays small and other users' missions are planned.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => '/proc is needed' unless -e '/proc/self/status';

# Far below the 150 MB that are promised, and below two copies of the largest record pushed here.
my $limit_kb = 110 * 1024;

# A server with sanitizers is several times slower, and its memory means nothing, so a few of each kind suffice.
sub many { my ($count) = @_; return is_sanitized() ? 2 : $count }

my $model = start_model();
my $node  = new_cluster('memory', preload => 1, model => $model, conf => <<'END');
mana_ai.tick_interval = '1s'
mana_ai.skip_unchanged = on
END
my $pid = wait_for_worker($node);

# The private memory of the worker at its peak, read by a separate process.
my $peak_file = $node->basedir . '/peak';
my $watcher   = fork // die "fork: $!";
if ($watcher == 0)
{
    my $peak = 0;
    while (open my $status, '<', "/proc/$pid/status")
    {
        my ($now) = map { /^RssAnon:\s+(\d+)/ ? $1 : () } <$status>;
        close $status;
        if (defined $now && $now > $peak)
        {
            $peak = $now;
            open my $file, '>', "$peak_file.new" or last;
            print $file $peak;
            close $file;
            rename "$peak_file.new", $peak_file;
        }
        sleep 0.01;
    }
    POSIX::_exit(0);
}
END { kill 'TERM', $watcher if $watcher }

# Missions of the user "big" whose fields an SQL expression makes; `i` numbers them.
sub push_big
{
    my ($prefix, $count, $fields, $table) = @_;
    $table //= 'aiMissions';
    $node->safe_psql('mana_sync', <<"END");
INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', '$table', '$prefix' || i, 'big', 'insert', 'test',
       jsonb_build_object('title', 'T', 'objective', 'O', 'state', 'active', 'cadence', '{"kind": "manual"}'::jsonb,
                          'iterations', '[]'::jsonb, 'nextRunAt', '2026-01-01T00:00:00.000Z') || $fields
  FROM generate_series(1, $count) i
END
    return;
}

my $canaries = 0;

sub canary
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $id    = 'canary' . ++$canaries;
    my $start = time;
    push_mission($node, $id, user => 'small');
    wait_for($node, "$what: another user's mission is planned", 60,
        "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'", '1');
    note sprintf '%s: after %.1f s', $what, time - $start;
    return;
}

sub decided
{
    my ($prefix, $decision, $count) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "$prefix: $count times $decision", 120,
        "SELECT count(*) FROM mana_ai.mission_schedule WHERE mission_id LIKE '$prefix%' AND decision = '$decision' AND lease_owner IS NULL", $count);
}

# ---------------------------------------------------------------- too large

push_big('long', many(16), q(jsonb_build_object('blob', repeat('x', 50000000))));
# A part of a text is not shown: it stays behind the clocks.
push_big('hidden', many(8), q(jsonb_build_object('x', 'text', 'x.a', repeat('x', 15000000))));
canary('long texts');
decided('long', 'skipped-too-large', many(16));
decided('hidden', 'skipped-too-large', many(8));
is(value($node, "SELECT max(mana_ai.raw_size(record)) < 10000 AND min(mana_ai.raw_size(record, clocks)) > 15000000 FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'hidden%'"),
    't', 'what a record does not show counts as well');
like(value($node, "SELECT mana_ai.why('big', 'hidden1')"), qr/^record is larger than mana_ai.max_record_size: 14 MB/, 'why() says so');
is(value($node, "SELECT outcome FROM mana_ai.run_mission('big', 'hidden1')"), 'skipped-too-large', 'by hand it is not planned');
is(value($node, "SELECT decision FROM mana_ai.explain('big', 'hidden1')"), 'skipped-too-large', 'nor explained');
is(value($node, "SELECT count(*) FROM mana_ai.mission_problems WHERE mission_id LIKE 'hidden%' AND problem LIKE '%larger than mana_ai.max_record_size'"), many(8), 'they are problems');
# Nor are other members' records of that kind read.
$node->safe_psql('mana_sync', <<'END');
INSERT INTO sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id, data)
SELECT 'ai', t, 'shared', u, 'family', 'update', 'test',
       '{"name": "n", "state": "paused"}'::jsonb || CASE u WHEN 'member' THEN jsonb_build_object('x', 'text') || jsonb_build_object('x.a', repeat('x', 5000000)) ELSE '{}' END
  FROM unnest(ARRAY['aiMissions', 'agents']) t, unnest(ARRAY['member', 'guest']) u
END
sub seen_of
{
    my ($owner) = @_;
    return value($node, "SELECT mana_ai.member_hold('$owner', 'shared', 'family', '{}', ''), (SELECT record ->> 'name' FROM mana_ai.shared_agent('$owner', 'shared', 'family'))");
}
is(seen_of('member'), 'paused|n', 'a member sees what a guest has written');
is(seen_of('guest'), '|', 'a guest does not see what is too large');
push_big('steps', 1, q(jsonb_build_object('iterations', jsonb_build_array(jsonb_build_object('id', 'a', 'source', 'server', 'plan',
  (SELECT jsonb_agg(jsonb_build_object('id', k, 'summary', 's', 'status', 'planned')) FROM generate_series(1, 500000) k))))));
push_big('keys', 1, q((SELECT jsonb_object_agg('k' || k, k) FROM generate_series(1, 1000000) k)));
push_big('many', 1, q(jsonb_build_object('iterations', (SELECT jsonb_agg(jsonb_build_object('id', k, 'source', 'server')) FROM generate_series(1, 200000) k))));
push_big('fat', 1, q(jsonb_build_object('memory', repeat('y', 50000000))), 'agents');
push_big('agent', many(8), q(jsonb_build_object('agentId', 'fat1')));
push_big('strict', 1, q(jsonb_build_object('policy', jsonb_build_object('tools', (SELECT jsonb_object_agg('t' || k, 'deny') FROM generate_series(1, 5000) k)))), 'agents');
push_big('policy', 1, q(jsonb_build_object('agentId', 'strict1')));
canary('many values');
decided($_, 'skipped-too-large', 1) for qw(steps keys many policy);
decided('agent', 'skipped-too-large', many(8));
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE user_id = 'big' AND outcome <> 'skipped'"), 0, 'nothing was spent on them');
is(value($node, "SELECT count(*), min(problem), max(problem) FROM mana_ai.mission_problems WHERE mission_id LIKE 'long%'"),
    many(16) . '|record of the mission or its agent is larger than mana_ai.max_record_size|record of the mission or its agent is larger than mana_ai.max_record_size',
    'they are problems');
like(value($node, "SELECT mana_ai.why('big', 'long1')"), qr/^record is larger than mana_ai.max_record_size: 48 MB/, 'why()');
like(value($node, "SELECT mana_ai.why('big', 'agent1')"), qr/^record of agent fat1 is larger/, 'why() of an agent');
is(value($node, "SELECT outcome FROM mana_ai.run_mission('big', 'long1')"), 'skipped-too-large', 'by hand neither');
is(value($node, "SELECT decision FROM mana_ai.explain('big', 'long1')"), 'skipped-too-large', 'explain()');
is(value($node, "SELECT count(*) FROM mana_ai.mission_schedule WHERE mission_id LIKE 'long%' AND wake_at < now() + interval '1 hour'"), 0,
    'nor are they looked at again soon');

# ---------------------------------------------------------------- as large as may be

push_big('just', many(24), q(jsonb_build_object('iterations', (SELECT jsonb_agg(jsonb_build_object('id', k)) FROM generate_series(1, 60000) k))));
push_big('inputs', many(8), q(jsonb_build_object('inputs', (SELECT jsonb_agg(jsonb_build_object('module', 'notes', 'table', 'notes', 'id', 'n' || k)) FROM generate_series(1, 20000) k))));
push_big('texts', many(16), q(jsonb_build_object('objective', repeat('o', 900000), 'conceptMarkdown', repeat('c', 900000))));
push_big('grant', many(8), q(jsonb_build_object('grant', jsonb_build_object('derivation', (SELECT jsonb_agg(1) FROM generate_series(1, 100000))))));
# What an agent does not show is not read with it.
push_big('veiled', 1, q(jsonb_build_object('memory', 'text', 'memory.a', repeat('x', 30000000))), 'agents');
push_big('served', many(8), q(jsonb_build_object('agentId', 'veiled1')));
cmp_ok(value($node, "SELECT min(mana_ai.raw_size(record)) FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'just%' OR mission_id LIKE 'texts%'"),
    '>', 1_500_000, 'records just below the limit');
canary('records just below the limit');
wait_for($node, 'all of them are planned', 180,
    "SELECT count(*) FROM mana_ai.runs WHERE user_id = 'big' AND outcome = 'planned'", many(24) + many(8) + many(16) + many(8) + many(8));
is(value($node, "SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id LIKE 'just%' AND jsonb_array_length(record -> 'iterations') = 60001"),
    many(24), 'with all iterations that they had');

# ---------------------------------------------------------------- a mission comes back

$node->safe_psql('mana_sync', <<'END');
INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', 'long1', 'big', 'update', 'test', '{"blob": ""}')
END
wait_for($node, 'a record that has become small is planned', 30,
    "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'long1' AND outcome = 'planned'", '1');
is(worker_pid($node), $pid, 'it was one worker all the time');
ok(-s $peak_file, 'its memory was looked at');
my $peak = slurp_file($peak_file);
note "peak of private memory: $peak kB";
SKIP: {
    skip 'the sanitizers keep memory of their own in the process', 1 if is_sanitized();
    cmp_ok($peak, '<', $limit_kb, 'and stayed small');
}

done_testing();
