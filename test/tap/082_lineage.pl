# What runs were based on: every request is recorded by its digest, and can be rebuilt from the log as the run saw it,
# whatever is written meanwhile and afterwards; and its text is nowhere but in the log.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Digest::SHA qw(sha256_hex);
use File::Find;
use ManaAi;
use ManaAi::Device;
use JSON::PP;
use PostgreSQL::Test::Utils qw(run_command slurp_file);
use Test::More;

my $missions = $ENV{LINEAGE_MISSIONS} // 60;
my $model    = start_model();

# The rounds of a plan: a call of a tool, then words.
my $answer = 'Antwortmarke-8231';
$model->control({ steps => [ { content => $answer, tool_calls => [ { name => 'create_task', arguments => { title => 'Belege' } } ] }, { content => 'Fertig.' } ], repeat => 'all', per_mission => JSON::PP::true });

sub requests_of { return rows($_[0], "SELECT q.*, r.mission_id FROM mana_ai.runs r, mana_ai.rebuild_request(r.run_id) q WHERE r.mission_id LIKE '$_[1]' ORDER BY r.started_at, q.request") }
sub counts_of { my %count; $count{ $_->{status} }++ for @{ $_[0] }; return \%count }
sub reasons_of { my %reason; $reason{ $_->{reason} // '' }++ for @{ $_[0] }; return join ' | ', sort keys %reason }

# ---------------------------------------------------------------- runs concurrent with edits, in both shapes of the table

# Edits of everything that the missions read, in transactions short and long: what commits late has an early time.
sub edits
{
    my ($number, $stamps) = @_;
    return ManaAi::encoded(<<"END");
DO \$\$
DECLARE
  n int;
BEGIN
  LOOP
    n := 1 + (random() * ($missions - 1))::int;
    PERFORM set_config('app.current_user_id', 'user-1', true);
    INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, $stamps)
    SELECT e.app, e.tab, e.id, 'user-1', 'update', 'device-$number', e.data,
           (SELECT jsonb_object_agg(k, to_char(clock_timestamp() AT TIME ZONE 'UTC' + random() * interval '200 ms' - interval '100 ms', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
              FROM jsonb_object_keys(e.data) k)
      FROM (VALUES ('ai', 'aiMissions', 'm' || n, jsonb_build_object('objective', 'Ziel ' || random(), 'conceptMarkdown', 'Konzept ' || n)),
                   ('ai', 'aiMissions', 'm' || n, jsonb_build_object('title', 'Titel ' || random())),
                   ('ai', 'agents', 'ada', jsonb_build_object('memory', 'Gemerkt ' || random())),
                   ('notes', 'notes', 'n' || n % 5, jsonb_build_object('content', 'Notiz ' || random())),
                   ('calendar', 'events', 'e1', jsonb_build_object('title', 'Termin ' || random(), 'timeBlockId', 'tb' || (random() * 2)::int)),
                   ('timeblocks', 'timeBlocks', 'tb1', jsonb_build_object('startDate', '2030-01-0' || 1 + n % 9 || 'T10:00:00Z')))
           AS e(app, tab, id, data)
     WHERE random() < 0.4;
    IF random() < 0.2 THEN
      PERFORM pg_sleep(0.03);
    END IF;
    COMMIT;
    EXIT WHEN EXISTS (SELECT FROM public.test_is_over);
  END LOOP;
END \$\$
END
}

for my $shape (qw(field_timestamps field_meta))
{
    my @shape = $shape eq 'field_meta' ? (shape => 'field_meta') : ();
    my $node  = new_cluster("lineage_$shape", preload => 1, model => $model, @shape, conf => <<'END');
mana_ai.database = 'mana_sync'
mana_ai.tick_enabled = off
mana_ai.max_unreviewed = 0
END
    my @stamps = $shape eq 'field_meta' ? (stamps_column => $shape) : ();
    my $record = sub {
        my ($app, $table, $id, $data) = @_;
        push_change($node, app => $app, table => $table, id => $id, op => 'insert', @stamps, data => { id => $id, createdAt => iso(-300), updatedAt => iso(-200), %$data });
    };
    push_agent($node, 'ada', name => 'Ada', systemPrompt => 'Sei kurz.', memory => 'Nichts', maxTokensPerDay => 100_000_000, @stamps);
    $record->('notes', 'notes', "n$_", { title => "Notiz $_", content => 'Hafermilch' }) for 0 .. 4;
    $record->('calendar', 'events', 'e1', { title => 'Zahnarzt', timeBlockId => 'tb1' });
    $record->('timeblocks', 'timeBlocks', 'tb1', { startDate => '2030-12-01T09:00:00.000Z', endDate => '2030-12-01T09:30:00.000Z' });
    my @inputs = ({ module => 'calendar', table => 'events', id => 'e1' }, { module => 'notes', table => 'notes', id => 'gone' });
    push_changes($node, map { mission_change("m$_", @stamps,
        ($_ % 2 ? (agentId => 'ada') : ()),
        ($_ % 3 ? (inputs => [ @inputs, { module => 'notes', table => 'notes', id => 'n' . $_ % 5 } ]) : ()),
        cadence => { kind => 'interval', everyMinutes => 1 }) } 1 .. $missions);
    $node->safe_psql('mana_sync', 'CREATE TABLE public.test_is_over ()');
    my @devices = map { background($node, edits($_, $shape)) } 1 .. 2;
    settings($node, 'mana_ai.tick_enabled' => 'on', 'mana_ai.tick_interval' => '1s');
    wait_for($node, "$shape: all are planned", 120, "SELECT count(DISTINCT mission_id) FROM mana_ai.runs WHERE outcome = 'planned'", $missions);
    settings($node, 'mana_ai.tick_enabled' => 'off');
    wait_for($node, "$shape: nothing runs", 60, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'", 0);
    $node->safe_psql('mana_sync', 'INSERT INTO public.test_is_over DEFAULT VALUES');
    is(($_->finish(30))[2], '', "$shape: a device has written all the time") for @devices;

    my %sent    = map { sha256_hex($_) => $_ } $model->bodies;
    my $rebuilt = requests_of($node, 'm%');
    my @first   = grep { $_->{round} == 1 } @$rebuilt;
    my @later   = grep { $_->{round} > 1 } @$rebuilt;
    is(scalar(grep { !exists $sent{ $_->{sha256} } } @$rebuilt), 0, "$shape: every digest is that of a body that was sent");
    cmp_ok(scalar @first, '>=', $missions, "$shape: each run has a first request");
    is_deeply(counts_of(\@first), { rebuilt => scalar @first }, "$shape: all " . @first . ' first requests are made again') or diag reasons_of(\@first);
    is(scalar(grep { ManaAi::encoded($_->{body}) ne $sent{ $_->{sha256} } } grep { $_->{status} eq 'rebuilt' } @$rebuilt), 0, "$shape: byte by byte");
    is_deeply(counts_of(\@later), { withheld => scalar @later }, "$shape: later ones hold replies, which are not kept");
    cmp_ok(value($node, "SELECT count(DISTINCT md5(q.body)) FROM mana_ai.runs r, mana_ai.rebuild_request(r.run_id) q WHERE q.body LIKE '%Gemerkt 0%'"), '>', 1, "$shape: what they were based on was edited meanwhile");
    is(value($node, "SELECT count(*) FROM mana_ai.run_reads WHERE record_id = 'gone' AND left_out = 'missing' AND clocks IS NULL") > 0, 1, "$shape: what was not there is on record too");
    $node->stop;
}

# ---------------------------------------------------------------- what cannot be made again, and why

my $node = new_cluster('rebuild', preload => 1, model => $model, conf => "mana_ai.tick_enabled = off\nmana_ai.max_unreviewed = 0\n");
my $key  = ManaAi::Device::new_key($node, 'server');

store_plainly($node);
settings($node, 'mana_ai.grant_private_key_file' => $key);
my $marker = 'Vorhabenmarke-5120';

sub planned
{
    my ($id, %fields) = @_;
    push_mission($node, $id, cadence => { kind => 'manual' }, %fields);
    $model->control({ steps => [ { content => $answer, tool_calls => [ { name => 'create_task', arguments => { title => 'Belege' } } ] }, { content => 'Fertig.' } ], repeat => 'all', per_mission => JSON::PP::true });
    is(run_mission($node, $id)->{outcome}, 'planned', "$id is planned");
    return;
}
sub first_of { my ($first) = grep { $_->{round} == 1 } @{ requests_of($node, $_[0]) }; return $first }

push_agent($node, 'bob', name => 'Bob', systemPrompt => 'Sei lang.');
my $wide = 'Breitenmarke-7719';
planned('long', conceptMarkdown => 'lang und breit ' x 600 . $wide);
planned('plain', agentId => 'bob', objective => $marker);
my $first = first_of('plain');
is($first->{status}, 'rebuilt', 'a request is made again');
like($first->{body}, qr/$marker/, 'with what the mission said');

# Later writes change nothing, and neither does a deletion.
push_change($node, id => 'plain', data => { objective => 'Anders' }, stamps => { objective => iso(1) });
push_change($node, id => 'plain', data => { objective => 'Zu alt' }, stamps => { objective => iso(-9000) });
push_change($node, id => 'bob', table => 'agents', data => { 'policy.tools' => {}, name => 'Robert' });
is(first_of('plain')->{body}, $first->{body}, 'after further changes it is still the same');
push_change($node, id => 'plain', op => 'delete', data => { deletedAt => iso(2) });
is(first_of('plain')->{body}, $first->{body}, 'and so it is after the mission was deleted');
$node->safe_psql('mana_sync', 'VACUUM FULL public.sync_changes');
is(first_of('plain')->{body}, $first->{body}, 'and after the log was rewritten');

# Settings of the past shape the request of the past.
settings($node, 'mana_ai.planner_model' => 'test/other', 'mana_ai.llm_max_tokens' => 777, 'mana_ai.prompt_cache_key' => 'off', 'mana_ai.timezone' => 'Asia/Tokyo');
is(first_of('plain')->{body}, $first->{body}, 'other settings do not change it');
planned('other');
like(first_of('other')->{body}, qr/"model":"test\/other".*"max_tokens":777/s, 'nor are those forgotten that a run had');
settings($node, map { ("mana_ai.$_" => undef) } qw(planner_model llm_max_tokens prompt_cache_key timezone));
is(first_of('other')->{status}, 'rebuilt', 'when they are set otherwise again');

# A reminder names what the agent has used.
push_agent($node, 'capped', name => 'Carla', maxTokensPerDay => 1_000_000);
$node->safe_psql('mana_sync', "INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used) VALUES ('user-1', 'capped', 'x', 800000)");
planned('reminded', agentId => 'capped');
like(first_of('reminded')->{body}, qr/Carla.*800000 von 1000000/s, 'a reminder is made again as well');

my $device = ManaAi::Device->new($key, 'secret', [ 'notes:s1' ], expires => 3600);
push_change($node, app => 'notes', table => 'notes', id => 's1', op => 'insert', data => { id => 's1', title => $device->seal('Geheim'), content => $device->seal('Noch geheimer') });
planned('secret', grant => $device->grant, inputs => [ { module => 'notes', table => 'notes', id => 's1' } ]);
is_deeply([ @{ first_of('secret') }{qw(status reason body)} ], [ 'encrypted', 'record "s1" of notes was opened under a grant', undef ], 'what was opened is not made again');
is(value($node, q{SELECT count(*), count(q.sha256), count(q.bytes) FROM mana_ai.run_requests q JOIN mana_ai.runs r USING (run_id) WHERE r.mission_id = 'secret'}),
    '2|0|0', 'and no digest tells it to whoever tries what it may be');

$node->safe_psql('mana_sync', "CREATE FUNCTION public.weather(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql AS \$\$ SELECT '{\"title\": \"Wetter\", \"content\": \"Regen\"}'::jsonb \$\$; SELECT mana_ai.register_resolver('weather', 'public.weather(text, jsonb)')");
planned('resolved', inputs => [ { module => 'weather', table => 'days', id => 'd1' } ]);
is_deeply([ @{ first_of('resolved') }{qw(status reason)} ], [ 'withheld', 'what the resolver of weather has said is not kept' ], 'nor what a resolver has said');
is(first_of('resolved')->{sha256}, undef, 'and no digest tells that');

planned('shortened');
$node->safe_psql('mana_sync', "DELETE FROM public.sync_changes WHERE record_id = 'shortened' AND op = 'insert'");
is_deeply([ @{ first_of('shortened') }{qw(status reason body)} ],
    [ 'lost', 'record "shortened" of aiMissions is not in the log as it was then, or cannot be read by this user', undef ], 'nor what the log has lost');

# A row that no run would read any more comes later: what the run had seen is still there.
planned('grown', objective => 'Klein');
$first = first_of('grown');
push_change($node, id => 'grown', data => { objective => 'Riesig ' x 100_000 }, stamps => { objective => iso(1) });
push_change($node, id => 'grown', data => { conceptMarkdown => 'x', junk => join('', map { chr(33 + int rand 90) } 1 .. 900_000) }, stamps => { conceptMarkdown => iso(-9000), junk => iso(1) });
settings($node, 'mana_ai.max_record_size' => '64kB');
is_deeply([ @{ first_of('grown') }{qw(status body)} ], [ 'rebuilt', $first->{body} ], 'rows that have come since may be of any size');
settings($node, 'mana_ai.max_record_size' => undef);

planned('versioned');
$node->safe_psql('mana_sync', "UPDATE mana_ai.tools SET enabled = false WHERE name = 'create_task'");
is(first_of('versioned')->{status}, 'changed', 'nor what was offered with other tools');
like(first_of('versioned')->{reason}, qr/^prompt or offered tools are not those of version [0-9a-f]{12} any more$/, 'and that is said');
$node->safe_psql('mana_sync', "UPDATE mana_ai.tools SET enabled = true WHERE name = 'create_task'");
is(first_of('versioned')->{status}, 'rebuilt', 'until they are offered again');
$node->safe_psql('mana_sync', "UPDATE mana_ai.run_requests SET sha256 = sha256('x') WHERE run_id = (SELECT run_id FROM mana_ai.runs WHERE mission_id = 'versioned')");
is_deeply([ @{ first_of('versioned') }{qw(status body)} ], [ 'changed', undef ], 'nothing is given out whose digest is another');

# A request that got no reply is on record as well, with the run.
$model->control({ steps => [ { status => 400, body => '{"error": {"message": "no"}}' } ], repeat => 'last' });
push_mission($node, 'refused', cadence => { kind => 'manual' });
is(run_mission($node, 'refused')->{outcome}, 'failed', 'a run fails');
is_deeply([ map { $_->{status} } @{ requests_of($node, 'refused') } ], ['rebuilt'], 'and its request can be made again');

# ---------------------------------------------------------------- who sees what

fails_like($node, "SELECT * FROM mana_ai.rebuild_request(gen_random_uuid())", qr/permission denied for schema mana_ai/, 'nobody may ask', user => 'nobody_special');
$node->safe_psql('mana_sync', <<'END');
GRANT USAGE ON SCHEMA mana_ai TO mana_sync_service, nobody_special;
GRANT EXECUTE ON FUNCTION mana_ai.rebuild_request(uuid) TO mana_sync_service, nobody_special;
GRANT SELECT ON mana_ai.tools, mana_ai.stops TO mana_sync_service;
END
my $run = value($node, "SELECT run_id FROM mana_ai.runs WHERE mission_id = 'other'");
fails_like($node, "SELECT * FROM mana_ai.rebuild_request('$run')", qr/permission denied for table run_requests/, 'nor without rights on the tables', user => 'mana_sync_service');
$node->safe_psql('mana_sync', 'GRANT SELECT ON mana_ai.run_reads, mana_ai.run_requests TO mana_sync_service, nobody_special');
my $as = sub {
    my ($role, $user, $what) = @_;
    return $node->safe_psql('mana_sync', ManaAi::encoded("SELECT set_config('app.current_user_id', '$user', false) \\g /dev/null\nSELECT $what FROM mana_ai.rebuild_request('$run') WHERE round = 1"), extra_params => [ '-U', $role ]);
};
is($as->('mana_sync_service', 'user-1', 'status'), 'rebuilt', 'who may read the rows of the user gets the request');
is($as->('mana_sync_service', 'user-2', 'count(*)'), 0, 'another user gets nothing');
is($as->('mana_sync_service', '', 'count(*)'), 0, 'nor does nobody');

# Row-level security of the tables themselves, also for whoever owns them; nobody but us writes.
for my $table (qw(run_reads run_requests))
{
    my $count = sub { my ($role, $user) = @_; return $node->safe_psql('mana_sync', "SELECT set_config('app.current_user_id', '$user', false) \\g /dev/null\nSELECT count(*) FROM mana_ai.$table", extra_params => [ '-U', $role ]) };
    my $all = value($node, "SELECT count(*) FROM mana_ai.$table");
    $node->safe_psql('mana_sync', "INSERT INTO mana_ai.$table SELECT (jsonb_populate_record(t, '{\"run_id\": \"00000000-0000-0000-0000-000000000002\", \"user_id\": \"user-2\"}')).* FROM mana_ai.$table t LIMIT 1");
    is(join(' ', map { $count->('mana_sync_service', $_) } 'user-1', 'user-2', 'user-3', ''), "$all 1 0 0", "$table: everybody sees their own rows");
    is(value($node, "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = 'mana_ai.$table'::regclass"), 't', "$table: its owner too");
    fails_like($node, "SET app.current_user_id = 'user-1'; $_ mana_ai.$table", qr/permission denied for table $table/, "$table: $_ is refused", user => 'mana_sync_service') for 'DELETE FROM', 'TRUNCATE';
    $node->safe_psql('mana_sync', "GRANT ALL ON mana_ai.$table TO mana_sync_service");
    is($node->safe_psql('mana_sync', "SET app.current_user_id = 'user-1'; WITH d AS (DELETE FROM mana_ai.$table RETURNING 1) SELECT count(*) FROM d", extra_params => [ '-U', 'mana_sync_service' ]), 0, "$table: there is no policy for writing");
    $node->safe_psql('mana_sync', "REVOKE ALL ON mana_ai.$table FROM mana_sync_service; GRANT SELECT ON mana_ai.$table TO mana_sync_service; DELETE FROM mana_ai.$table WHERE user_id = 'user-2'");
}
$node->safe_psql('mana_sync', "CREATE POLICY hidden ON public.sync_changes AS RESTRICTIVE FOR SELECT USING (record_id <> 'other')");
is($as->('mana_sync_service', 'user-1', 'status || coalesce(body, \'\')'), 'lost', 'what a policy of the log hides is not given out');
$node->safe_psql('mana_sync', 'DROP POLICY hidden ON public.sync_changes');
fails_like($node, "SET app.current_user_id = 'user-1'; SELECT * FROM mana_ai.rebuild_request('$run')", qr/permission denied for table (?:tools|sync_changes)/, 'without rights on the log there is nothing', user => 'nobody_special');

# ---------------------------------------------------------------- no text of a request or reply is kept

$node->safe_psql('mana_sync', 'CHECKPOINT; VACUUM');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-U', 'postgres', '-f', $dump, '-d', $node->connstr('mana_sync') ], 'a dump');
like(slurp_file($dump), qr/^COPY mana_ai\.run_requests /m, 'has what requests were made of');
$node->stop;
my (%found, %seen, $files);
find({ no_chdir => 1, wanted => sub {
    return unless -f $_;
    $files++;
    my $content = slurp_file($_);
    $seen{$marker} = 1 if index($content, $marker) >= 0;
    $seen{$wide} = 1 if index($content, $wide) >= 0;
    for my $text ($answer, '<user_data>', 'Du planst die nächsten Schritte einer Mission', '"messages":')
    {
        $found{"$text in $_"} = 1 if index($content, ManaAi::encoded($text)) >= 0;
    }
} }, $node->data_dir, $node->logfile, $dump);
cmp_ok($files, '>', 500, 'the files of the cluster, its log and the dump were read');
is_deeply(\%seen, { $marker => 1, $wide => 1 }, 'what a mission itself says was found in them, also where it is long');
is(join("\n", sort keys %found), '', 'neither prompts nor replies are in any of them');
$node->start;

# ---------------------------------------------------------------- as long as the runs

is(value($node, 'SELECT count(*) > 10 FROM mana_ai.run_reads'), 't', 'they are there');
$node->safe_psql('mana_sync', "UPDATE mana_ai.runs SET started_at = started_at - interval '2 hours' WHERE mission_id <> 'other'");
settings($node, 'mana_ai.runs_retention' => '1h', 'mana_ai.database' => 'mana_sync', 'mana_ai.tick_interval' => '1s');
$node->restart;
wait_for($node, 'expired runs are deleted', 30, 'SELECT count(*) FROM mana_ai.runs', 1);
is(value($node, "SELECT count(*) FROM mana_ai.run_requests q FULL JOIN mana_ai.run_reads r USING (run_id) WHERE run_id <> '$run'"), 0, 'and what they were based on');
is(first_of('other')->{status}, 'rebuilt', 'what is left can be made again');
$node->safe_psql('mana_sync', <<'END');
INSERT INTO mana_ai.run_reads (run_id, ordinal, user_id, role, table_name, record_id, was_encrypted)
SELECT gen_random_uuid(), o, 'user-1', 'input', 'notes', 'n', false FROM generate_series(1, 700) r, generate_series(1, 3) o;
INSERT INTO mana_ai.run_requests (run_id, ordinal, user_id, purpose, round, sent_at, model, max_tokens, prompt_cache_key, agent_tokens, prompt_version, local_time)
SELECT gen_random_uuid(), 1, 'user-1', 'plan', 1, now(), 'm', 1, false, 0, 'v', now() FROM generate_series(1, 700) r;
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, started_at, finished_at, outcome, decision)
SELECT gen_random_uuid(), 'user-1', 'old', now() - interval '3 hours', now(), 'planned', 'ran' FROM generate_series(1, 450);
INSERT INTO mana_ai.run_reads (run_id, ordinal, user_id, role, table_name, record_id, was_encrypted)
SELECT r.run_id, o, 'user-1', 'input', 'notes', 'n', false FROM mana_ai.runs r, generate_series(1, 20) o WHERE r.mission_id = 'old';
END
wait_for($node, 'lineage without a run is deleted, and expired runs with much of it', 30, "SELECT (SELECT count(*) FROM mana_ai.run_reads WHERE run_id <> '$run') + (SELECT count(*) FROM mana_ai.run_requests WHERE run_id <> '$run') + (SELECT count(*) FROM mana_ai.runs WHERE run_id <> '$run')", 0);
is(first_of('other')->{status}, 'rebuilt', 'that of a run is kept');

done_testing();
