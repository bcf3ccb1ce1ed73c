# What users and others do while a mission is being planned, and every shape of sync_changes.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model();
my $node  = new_cluster('write_back', model => $model);
my $user  = USER_ID;

# Runs a tick over one mission and calls $meanwhile while its first model call is in flight.
sub tick_with
{
    my ($meanwhile, $step) = @_;
    $model->reset;
    $model->control({ steps => [ $step // { latency_ms => 700, content => 'Zusammenfassung' } ] });
    my $session = background($node, "SELECT row_to_json(t) FROM mana_ai.run_tick() t");
    $model->wait_in_flight(1);
    my $took = timed($meanwhile);
    cmp_ok($took, '<', 0.5, 'the user\'s change does not wait for the model');
    my ($status, $out, $err) = $session->finish(10);
    is($err, '', 'the tick ends without an error');
    return JSON::PP->new->decode($out || '{}');
}

sub edit
{
    my ($id, $data, $at) = @_;
    push_change($node, id => $id, data => $data, stamps => { map { $_ => $at // iso(0) } keys %$data });
    return;
}

# ---------------------------------------------------------------- a user's edit during the run

my $first = { id => 'i1', startedAt => iso(-3600), summary => 'Alt', plan => [], overallStatus => 'awaiting-review', source => 'server' };
push_mission($node, 'feedback', iterations => [$first]);
my $tick = tick_with(sub {
    edit('feedback', { iterations => [ { %$first, overallStatus => 'rejected', userFeedback => 'Bitte kürzer' } ], title => 'Neuer Titel' });
});
is($tick->{plans_written_back}, 1, 'feedback during the run: the plan is written');
my $record = record_of($node, 'feedback');
is(scalar @{ $record->{iterations} }, 2, 'in addition to the existing iteration');
is($record->{iterations}[0]{userFeedback}, 'Bitte kürzer', 'the feedback is kept');
is($record->{iterations}[0]{overallStatus}, 'rejected', 'so is its status');
is($record->{iterations}[1]{summary}, 'Zusammenfassung', 'the new iteration follows');
is($record->{iterations}[1]{overallStatus}, 'approved', 'a plan without steps needs no review');
is($record->{title}, 'Neuer Titel', 'the new title is kept');
edit('feedback', { iterations => $record->{iterations}, nextRunAt => iso(-1) });
$model->reset;
is(run_tick($node)->{plans_written_back}, 1, 'the next run');
like(($model->requests)[0]{body}{messages}[1]{content}, qr/Bitte kürzer/, 'reads the feedback');

push_mission($node, 'paused');
$tick = tick_with(sub { edit('paused', { state => 'paused' }) });
is_deeply([ @$tick{qw(plans_produced plans_written_back)} ], [ 1, 0 ], 'paused during the run: planned, not written');
is_deeply(iterations_of($node, 'paused'), [], 'no iteration');
is(last_run($node, 'paused')->{outcome}, 'discarded', 'the run is on record as discarded');
is(last_run($node, 'paused')->{total_tokens}, 1560, 'with what it cost');
is(why_of($node, 'paused'), 'mission is not active but paused', 'why()');

push_mission($node, 'deleted');
$tick = tick_with(sub { push_change($node, id => 'deleted', op => 'delete', data => { deletedAt => iso(0) }) });
is_deeply([ @$tick{qw(plans_produced plans_written_back)} ], [ 1, 0 ], 'deleted during the run: planned, not written');
is(record_of($node, 'deleted'), undef, 'it stays deleted');
is(value($node, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'deleted'"), 'discarded', 'discarded');
is(why_of($node, 'deleted'), 'mission was deleted', 'why()');
is(value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id IN ('paused', 'deleted') AND client_id = 'mana-ai-runner'"),
    0, 'nothing was written for either');

push_mission($node, 'cadence');
$tick = tick_with(sub { edit('cadence', { cadence => { kind => 'interval', everyMinutes => 5 } }) });
is(value($node, "SELECT (record ->> 'nextRunAt')::timestamptz - (record ->> 'updatedAt')::timestamptz FROM mana_ai.mission_snapshots WHERE mission_id = 'cadence'"),
    '00:05:00', 'a cadence that changed during the run counts');

push_mission($node, 'moved');
my $tomorrow = iso(86400);
$tick = tick_with(sub { edit('moved', { nextRunAt => $tomorrow }) });
$record = record_of($node, 'moved');
is(scalar @{ $record->{iterations} }, 1, 'nextRunAt moved during the run: the plan is written');
isnt($record->{nextRunAt}, $tomorrow, 'and the cadence decides about the next run');

push_mission($node, 'manual-now', cadence => { kind => 'manual' });
tick_with(sub { });
is(record_of($node, 'manual-now')->{nextRunAt}, undef, 'a manual mission is not scheduled again');
like(why_of($node, 'manual-now'), qr/^not scheduled: nextRunAt is not set/, 'why()');

# A client whose clock is ahead must not win over later writes.
my $future = iso(40 * 3600);
push_mission($node, 'clock');
edit('clock', { iterations => [], nextRunAt => iso(-60) }, $future);
is(run_tick($node)->{plans_written_back}, 1, 'a record from the future is planned');
$record = record_of($node, 'clock');
is(scalar @{ $record->{iterations} }, 1, 'its iteration wins over the older clock');
cmp_ok($record->{updatedAt}, 'gt', $future, 'at an instant later than the newest clock');
is(value($node, "SELECT (record ->> 'nextRunAt')::timestamptz < now() + interval '1 day' FROM mana_ai.mission_snapshots WHERE mission_id = 'clock'"),
    't', 'but the cadence counts from now');
is(run_tick($node)->{due_mission_count}, 0, 'and which ends its being due');

# Microseconds of a clock: written in milliseconds, yet not older.
push_mission($node, 'micros');
(my $fine = iso(3600)) =~ s/Z$/999Z/;
edit('micros', { iterations => [], nextRunAt => iso(-60) }, $fine);
run_tick($node);
is(scalar @{ iterations_of($node, 'micros') }, 1, 'a clock with microseconds is not underbid');

# ---------------------------------------------------------------- a change during a run that fails

push_agent($node, 'careless');
for my $case ([ 'changed', sub { edit('changed', { objective => 'harmlos' }) } ],
    [ 'agent-changed', sub { push_change($node, table => 'agents', id => 'careless', data => { role => 'vorsichtig' }, stamps => { role => iso(0) }) } ],
    [ 'unchanged', sub { } ])
{
    my ($id, $change) = @$case;
    push_mission($node, $id, $id eq 'agent-changed' ? (agentId => 'careless') : ());
    tick_with($change, { latency_ms => 400, status => 422, error => { kind => 'blocked', message => 'nein' } });
    is(last_run($node, $id)->{error_kind}, 'blocked', "$id: the run failed");
    $model->reset;
    is(run_tick($node)->{plans_written_back}, $id eq 'unchanged' ? 0 : 1,
        $id eq 'unchanged' ? "$id: the mission waits" : "$id: what the run did not know yet lets the mission run again at once");
}

# ---------------------------------------------------------------- records with odd fields

push_mission($node, 'odd', iterations => 'no array', title => 42, inputs => {}, cadence => { kind => 'cron', expression => '0 3 1 1 *' });
is(run_tick($node)->{plans_written_back}, 1, 'a record with fields of wrong types is planned');
is(ref iterations_of($node, 'odd'), 'ARRAY', 'iterations become an array');
push_mission($node, 'nocadence', cadence => undef);
run_tick($node);
is(record_of($node, 'nocadence')->{nextRunAt}, undef, 'no cadence, no next run');

# ---------------------------------------------------------------- a lease that was taken over

push_mission($node, 'taken');
$tick = tick_with(sub {
    value($node, "UPDATE mana_ai.mission_schedule SET lease_owner = 1, run_id = gen_random_uuid() WHERE mission_id = 'taken'");
});
is_deeply([ @$tick{qw(plans_produced plans_written_back)} ], [ 1, 0 ], 'a lease that was taken over: nothing is written');
is(last_run($node, 'taken')->{outcome}, 'discarded', 'discarded');
is(value($node, "SELECT lease_owner FROM mana_ai.mission_schedule WHERE mission_id = 'taken'"), 1, 'the other\'s lease is left alone');
value($node, "UPDATE mana_ai.mission_schedule SET wake_at = now() - interval '1 s' WHERE mission_id = 'taken'");
is(run_tick($node)->{plans_written_back}, 1, 'a lease that ran out is taken over');

# A user's transaction that stays open on the record: the write-back waits for it, and the others continue.
push_mission($node, 'open');
my $held;
$tick = tick_with(sub {
    $held = background($node, "BEGIN; SELECT 1 FROM mana_ai.mission_snapshots WHERE mission_id = 'open' FOR UPDATE; SELECT pg_sleep(1.5); COMMIT;");
    sleep 0.2;
});
$held->finish(5);
is($tick->{plans_written_back}, 1, 'a plan outlasts a lock on its record');

# ---------------------------------------------------------------- rows that cannot be written

value($node, <<'END');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.record_id = 'refused' AND NEW.client_id = 'mana-ai-runner' THEN RAISE EXCEPTION 'not today'; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION public.refuse();
SET mana_ai.llm_timeout = '1s';
END
push_missions($node, [qw(refused fine)]);
my $session = background($node, 'SELECT row_to_json(t) FROM mana_ai.run_tick() t');
wait_for_iterations($node, 'fine', 1, 10);
is_deeply(iterations_of($node, 'refused'), [], 'a plan that the table refuses does not take another\'s with it');
is(last_run($node, 'refused')->{outcome}, 'running', 'it was paid for, so it is tried again for a while');
value($node, 'DROP TRIGGER refuse ON public.sync_changes');
my (undef, $out) = $session->finish(10);
is(JSON::PP->new->decode($out)->{plans_written_back}, 2, 'and written as soon as the table takes it');
is(scalar @{ iterations_of($node, 'refused') }, 1, 'once');
like(log_since($node), qr/WARNING:  mana_ai: results of run [0-9a-f-]+ of mission refused could not be written and are tried again: SQLSTATE P0001\n/,
    'the log says so, without what the table said');

# ---------------------------------------------------------------- agents as actors

push_agent($node, 'ada', name => 'Ada', systemPrompt => 'Sei knapp.', memory => 'Merkt sich alles',
    policy => { tools => { create_task => 'deny' }, defaultForAi => 'propose' });
push_mission($node, 'with-agent', agentId => 'ada');
$model->reset;
run_tick($node);
my $actor = json_value($node, "SELECT actor FROM public.sync_changes WHERE record_id = 'with-agent' AND client_id = 'mana-ai-runner'");
is_deeply([ @$actor{qw(kind principalId displayName missionId rationale)} ],
    [ 'ai', 'ada', 'Ada', 'with-agent', 'Ziel von with-agent' ], 'the actor of a mission with agent');
my $body = ($model->requests)[0]{body};
like($body->{messages}[0]{content}, qr/Ada.*Sei knapp\..*Merkt sich alles/s, 'agent, persona and memory are in the system prompt');
ok(!(grep { $_->{function}{name} eq 'create_task' } @{ $body->{tools} }), 'a tool that the agent\'s policy denies is not offered');
ok(scalar @{ $body->{tools} }, 'others are');

# ---------------------------------------------------------------- other shapes of the table

create_sync_database($node, 'newer', shape => 'field_meta');
push_changes($node, 'newer', { id => 'm1', op => 'insert', stamps_column => 'field_meta', data => {
    title => 'T', objective => 'O', state => 'active', cadence => { kind => 'manual' }, nextRunAt => iso(-60), createdAt => iso(-60) } });
push_changes($node, 'newer', { id => 'm1', stamps_column => 'field_meta', data => { title => 'T2' },
    stamps => { title => { at => iso(0), actor => { kind => 'user' }, origin => 'user' } } });
is(run_tick($node, 'newer')->{plans_written_back}, 1, 'field_meta: planned');
my $row = rows($node, "SELECT * FROM public.sync_changes WHERE client_id = 'mana-ai-runner'", 'newer')->[0];
is($row->{origin}, 'agent', 'field_meta: origin is agent');
is_deeply([ sort keys %{ $row->{field_meta} } ], [qw(iterations nextRunAt)], 'field_meta: slots for the fields that were written');
my %at = map { (ref $_ ? $_->{at} : $_) => 1 } values %{ $row->{field_meta} };
is(scalar keys %at, 1, 'field_meta: one instant');
ok(!exists $row->{data}{updatedAt}, 'field_meta: no updatedAt, as its clients keep none');
is(record_of($node, 'm1', USER_ID, 'newer')->{title}, 'T2', 'field_meta: objects with "at" are clocks');
is(snapshots_differ($node, 'newer'), '', 'field_meta: snapshots are replays');

# A table with only the required columns.
create_sync_database($node, 'lean', extension => 0);
value($node, <<'END', 'lean');
SET client_min_messages = warning;
DROP INDEX sync_changes_space;
DROP POLICY sync_changes_shared ON public.sync_changes;
ALTER TABLE public.sync_changes DROP COLUMN space_id, DROP COLUMN actor, DROP COLUMN schema_version;
CREATE EXTENSION mana_ai;
END
push_changes($node, 'lean', { id => 'm1', op => 'insert', data => {
    title => 'T', objective => 'O', state => 'active', cadence => { kind => 'manual' }, nextRunAt => iso(-60) } });
is(run_tick($node, 'lean')->{plans_written_back}, 1, 'without space_id, actor and schema_version: planned');
is(snapshots_differ($node, 'lean'), '', 'and snapshots are replays');

# The column is renamed during a run.
push_mission($node, 'renamed');
tick_with(sub { value($node, 'ALTER TABLE public.sync_changes RENAME COLUMN field_timestamps TO field_meta; ALTER TABLE public.sync_changes ADD COLUMN origin text') });
is(scalar @{ iterations_of($node, 'renamed') }, 1, 'field_timestamps renamed to field_meta during the run: written');
$row = rows($node, "SELECT * FROM public.sync_changes WHERE record_id = 'renamed' AND client_id = 'mana-ai-runner'")->[0];
is($row->{origin}, 'agent', 'into the new columns');
value($node, 'ALTER TABLE public.sync_changes RENAME COLUMN field_meta TO field_timestamps; ALTER TABLE public.sync_changes DROP COLUMN origin');

# ---------------------------------------------------------------- whose rights

value($node, <<'END');
CREATE ROLE table_owner;
ALTER TABLE public.sync_changes OWNER TO table_owner;
CREATE TABLE public.seen (who text, session_who text, searched text, super boolean);
GRANT INSERT ON public.seen TO PUBLIC;
CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO public.seen SELECT current_user, session_user, current_setting('search_path'),
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
  RETURN NEW;
END $$;
CREATE TRIGGER look BEFORE INSERT ON public.sync_changes FOR EACH ROW
  WHEN (NEW.client_id = 'mana-ai-runner') EXECUTE FUNCTION public.look();
CREATE CONSTRAINT TRIGGER look_late AFTER INSERT ON public.sync_changes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
  WHEN (NEW.client_id = 'mana-ai-runner') EXECUTE FUNCTION public.look();
END
push_mission($node, 'owned');
is(run_tick($node)->{plans_written_back}, 1, 'forced row-level security and an owner that is no superuser: written');
is(value($node, "SELECT string_agg(DISTINCT who || ' ' || super, ',') FROM public.seen"), 'table_owner false',
    'triggers of others run as the table\'s owner');
is(value($node, 'SELECT count(*) FROM public.seen'), 2, 'the deferred one too');
is(value($node, "SELECT string_agg(DISTINCT searched, ';') FROM public.seen"), 'pg_catalog, pg_temp', 'with a safe search_path');
value($node, <<'END');
DROP TRIGGER look ON public.sync_changes;
DROP TRIGGER look_late ON public.sync_changes;
CREATE FUNCTION public.grab() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RESET ROLE;
  ALTER ROLE table_owner SUPERUSER;
  RETURN NEW;
EXCEPTION WHEN OTHERS THEN
  INSERT INTO public.seen VALUES (SQLERRM, '', '', false);
  RETURN NEW;
END $$;
TRUNCATE public.seen;
CREATE TRIGGER grab BEFORE INSERT ON public.sync_changes FOR EACH ROW
  WHEN (NEW.client_id = 'mana-ai-runner') EXECUTE FUNCTION public.grab();
END
push_mission($node, 'grabbed');
run_tick($node);
is(value($node, "SELECT rolsuper FROM pg_roles WHERE rolname = 'table_owner'"), 'f', 'they cannot become superuser');
like(value($node, 'SELECT who FROM public.seen'), qr/security-restricted operation|within security-definer function|permission denied/, 'and are told so');
value($node, 'DROP TRIGGER grab ON public.sync_changes');

# The policy of another user's rows is the table's.
push_changes($node, 'mana_sync', { user => 'other', id => 'm1', op => 'insert', data => {
    title => 'T', objective => 'O', state => 'active', cadence => { kind => 'manual' }, nextRunAt => iso(-60) } });
is(run_tick($node)->{plans_written_back}, 1, 'another user\'s mission');
is(value($node, "SELECT count(*) FROM public.sync_changes", 'mana_sync'), value($node, 'SELECT count(*) FROM public.sync_changes'), 'superusers see all');
is($node->safe_psql('mana_sync', "SELECT set_config('app.current_user_id', 'other', false); SELECT count(*) FROM public.sync_changes WHERE client_id = 'mana-ai-runner'",
        extra_params => [ '-U', 'mana_sync_service' ]), "other\n1", 'its row belongs to that user alone');

is(snapshots_differ($node), '', 'all snapshots are replays');
is(value($node, 'SELECT count(*) FROM mana_ai.dirty_records'), 0, 'no record waits for repair');
unlike(log_since($node), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$model->stop;
done_testing();
