# What users are told of missions that do not run: once for each cause, by a failed iteration such as the
# web client shows with a button to try again, with nothing private in it.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use ManaAi::Device;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $node  = new_cluster('failure_notices', preload => 1, model => $model, conf => "mana_ai.tick_interval = '400ms'\n");
my $key   = ManaAi::Device::new_key($node, 'server');
settings($node, 'mana_ai.grant_private_key_file' => $key);
my $user = USER_ID;
wait_for_worker($node);

# The phases that the client has words for (PHASE_LABELS of its mission view).
my %phases = map { $_ => 1 } qw(resolving-inputs calling-llm parsing-response staging-proposals finalizing);

sub notices_of
{
    my ($id) = @_;
    return grep { $_->{errorDetails} } @{ iterations_of($node, $id) // [] };
}

sub wait_for_notices
{
    my ($id, $count, $seconds) = @_;
    my $ok = wait_until("$id: its user is told " . ($count == 1 ? 'once' : "$count times"), $seconds // 20,
        sub { return notices_of($id) == $count });
    diag(why_of($node, $id)) unless $ok;
    return;
}

sub wait_for_looks
{
    my ($id) = @_;
    my $looks = "SELECT extract(epoch FROM decided_at) FROM mana_ai.mission_schedule WHERE mission_id = '$id'";
    for (1 .. 3)
    {
        my $last = value($node, $looks);
        wait_until("$id is looked at again", 20, sub { return value($node, $looks) ne $last });
    }
    return;
}

# Several looks later nothing more has been said.
sub stays_at
{
    my ($id, $count, $what) = @_;
    wait_for_looks($id);
    is(scalar notices_of($id), $count, $what);
    is(value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id = '$id' AND client_id = 'mana-ai-runner'"), $count,
        "$id: as many rows in the log");
    return;
}

sub make_due
{
    my ($id) = @_;
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id = '$id' AND lease_owner IS NULL;"
          . ' SELECT pg_reload_conf()');
    return;
}

sub edit
{
    my ($id, %fields) = @_;
    my $at = iso(0);
    push_change($node, id => $id, data => \%fields, stamps => { map { $_ => $at } keys %fields });
    return;
}

# ---------------------------------------------------------------- three failures in a row

my $due = iso(-60);
push_mission($node, 'failing', objective => '[[szenario:422]] Geheimes Ziel', title => 'Geheimer Titel', nextRunAt => $due);
for my $failures (1, 2)
{
    wait_for($node, "failing: failure $failures", 20, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'failing' AND lease_owner IS NULL", $failures);
    is(scalar notices_of('failing'), 0, "after failure $failures nothing is said");
    make_due('failing');
}
wait_for_notices('failing', 1);
my ($notice) = notices_of('failing');
my $details = $notice->{errorDetails};
is_deeply([ sort keys %$notice ], [qw(errorDetails finishedAt id overallStatus plan source startedAt summary)], 'a whole iteration');
is_deeply([ @$notice{qw(overallStatus source)} ], [ 'failed', 'server' ], 'failed, and the server\'s');
is_deeply($notice->{plan}, [], 'without a plan, so that no device carries anything out');
is($details->{name}, 'Planung auf dem Server fehlgeschlagen', 'its name');
like($details->{message}, qr/^Das Sprachmodell lehnt den Inhalt der Mission ab\. .*„Erneut versuchen“/, 'its message');
ok($phases{ $details->{phase} }, "its phase, $details->{phase}, is one that the client knows");
my $row = rows($node, "SELECT * FROM public.sync_changes WHERE record_id = 'failing' AND client_id = 'mana-ai-runner'")->[0];
is_deeply([ sort keys %{ $row->{data} } ], [ 'iterations', 'updatedAt' ], 'the row leaves nextRunAt alone');
is(record_of($node, 'failing')->{nextRunAt}, $due, 'so the mission stays due');
unlike(JSON::PP->new->encode($row), qr/Geheim|content filter|422/, 'nothing private and nothing of the service\'s words is in it');
my $run = last_run($node, 'failing');
is_deeply([ @$run{qw(outcome error_kind iteration_id)} ], [ 'failed', 'blocked', $notice->{id} ], 'the run names the iteration');
is(value($node, "SELECT attempts || ' ' || (not_before > now() + interval '1 h') || ' ' || (wake_at = not_before) FROM mana_ai.mission_schedule WHERE mission_id = 'failing'"),
    '3 true true', 'the failure is counted, and its pause is not cut short by our own row');
like(why_of($node, 'failing'), qr/^backing off until .* after 3 failures: blocked$/, 'why()');
is($model->count, 3, 'the row wakes no new plan');

make_due('failing');
wait_for($node, 'failing: failure 4', 20, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'failing' AND lease_owner IS NULL", 4);
is(scalar notices_of('failing'), 1, 'after failure 4 nothing more');

# A plan ends it; what fails after that is told again. The model reads nothing of it.
$model->reset;
edit('failing', objective => 'Geht wieder', nextRunAt => iso(-30));
wait_for_iterations($node, 'failing', 2, 20);
my ($request) = $model->requests;
unlike($request->{body}{messages}[1]{content}, qr/Letzte Durchläufe|Sprachmodell/, 'the model is not told of it');
is(value($node, "SELECT told IS NULL AND attempts = 0 FROM mana_ai.mission_schedule WHERE mission_id = 'failing'"), 't', 'a plan makes a new start');
edit('failing', objective => '[[szenario:422]] wieder', nextRunAt => iso(-20));
for my $failures (1, 2)
{
    wait_for($node, "failing again: failure $failures", 20, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'failing' AND lease_owner IS NULL", $failures);
    make_due('failing');
}
wait_for_notices('failing', 2);

# ---------------------------------------------------------------- shut gates

push_agent($node, 'gone', state => 'archived', name => 'Geheimer Agent');
push_mission($node, 'archived', agentId => 'gone', iterations => [
    { id => 'b1', startedAt => iso(-900), finishedAt => iso(-880), plan => [], overallStatus => 'approved', summary => 'Im Browser' } ]);
wait_for_notices('archived', 1);
($notice) = notices_of('archived');
is($notice->{errorDetails}{name}, 'Agent archiviert', 'an archived agent');
ok(!exists $notice->{errorDetails}{phase}, 'no phase fits it');
is(iterations_of($node, 'archived')->[0]{id}, 'b1', 'behind what was there');
$run = last_run($node, 'archived');
is_deeply([ @$run{qw(outcome decision iteration_id total_tokens)} ], [ 'skipped', 'skipped-archived', $notice->{id}, 0 ], 'its run, which cost nothing');
unlike(value($node, "SELECT c::text FROM public.sync_changes c WHERE record_id = 'archived' AND client_id = 'mana-ai-runner'"), qr/Ziel von/, 'no objective in it');
stays_at('archived', 1, 'and that was it');
is(why_of($node, 'archived'), 'agent Geheimer Agent is archived', 'why() says what it said before');
# A device pushes the whole list again, and takes the notice away as it did not know it: not told twice.
edit('archived', iterations => [ iterations_of($node, 'archived')->[0] ], title => 'Anders');
wait_for_looks('archived');
is(value($node, "SELECT count(DISTINCT i ->> 'id') FROM public.sync_changes c, jsonb_array_elements(c.data -> 'iterations') i
                  WHERE c.record_id = 'archived' AND c.client_id = 'mana-ai-runner' AND i ? 'errorDetails'"), 1,
    'nor after a device that did not know it has overwritten it');
push_change($node, table => 'agents', id => 'gone', data => { state => 'active' }, stamps => { state => iso(0) });
wait_until('archived: the agent is back, and it is planned', 20, sub { return (last_run($node, 'archived') // {})->{outcome} eq 'planned' });

push_mission($node, 'encrypted', objective => 'enc:1:AAAAAAAAAAAAAAAA.BBBBBBBBBBBBBBBBBBBBBBBB');
wait_for_notices('encrypted', 1);
($notice) = notices_of('encrypted');
is($notice->{errorDetails}{name}, 'Kein Server-Zugriff', 'an encrypted mission without a grant');
like($notice->{errorDetails}{message}, qr/nicht erteilt oder ist abgelaufen/, 'what can be done');
is($notice->{errorDetails}{phase}, 'resolving-inputs', 'its phase');
stays_at('encrypted', 1, 'once');

# A budget is told of when it has been used up for a day.
push_agent($node, 'spent', maxTokensPerDay => 0);
push_mission($node, 'budget', agentId => 'spent', nextRunAt => iso(-3 * 86400));
wait_for($node, 'budget: held back', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'budget' AND lease_owner IS NULL", 'skipped-budget');
stays_at('budget', 0, 'a budget that is used up is not told of at once');
value($node, "UPDATE mana_ai.mission_schedule SET held_since = held_since - interval '23 h 58 min' WHERE mission_id = 'budget'");
stays_at('budget', 0, 'nor after almost a day');
value($node, "UPDATE mana_ai.mission_schedule SET held_since = held_since - interval '3 min' WHERE mission_id = 'budget'");
wait_for_notices('budget', 1);
is((notices_of('budget'))[0]{errorDetails}{name}, 'Token-Budget aufgebraucht', 'but after a day');
stays_at('budget', 1, 'once');

# Held for a day, but due only now.
push_mission($node, 'fresh', agentId => 'spent', nextRunAt => iso(-60));
wait_for($node, 'fresh: held back', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'fresh' AND lease_owner IS NULL", 'skipped-budget');
value($node, "UPDATE mana_ai.mission_schedule SET held_since = held_since - interval '3 days' WHERE mission_id = 'fresh'");
stays_at('fresh', 0, 'the time before it was due does not count');

# What opens by itself, or by what its user is about to do anyway.
push_agent($node, 'resting', state => 'paused');
push_mission($node, 'resting', agentId => 'resting');
wait_for($node, 'resting: held back', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'resting' AND lease_owner IS NULL", 'skipped-paused');
stays_at('resting', 0, 'a pause is not told of');

# ---------------------------------------------------------------- a grant that opens nothing

my $device   = ManaAi::Device->new($key, 'unopened', []);
my $stranger = ManaAi::Device->new($key, 'unopened', []);
push_mission($node, 'unopened', title => $stranger->seal('Geheim'), grant => $device->grant);
wait_for($node, 'unopened: tried', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'unopened' AND lease_owner IS NULL", 'skipped-encrypted');
is(scalar notices_of('unopened'), 0, 'the first try says nothing');
value($node, "UPDATE mana_ai.mission_schedule SET held_since = held_since - interval '1 min' WHERE mission_id = 'unopened'");
make_due('unopened');
wait_for_notices('unopened', 1);
is((notices_of('unopened'))[0]{errorDetails}{name}, 'Server-Zugriff öffnet die Mission nicht', 'the second one does');
is(value($node, "SELECT not_before > now() + interval '50 min' FROM mana_ai.mission_schedule WHERE mission_id = 'unopened'"), 't',
    'and the mission waits as it would have');

# ---------------------------------------------------------------- after a restore, and a table that refuses

value($node, "UPDATE mana_ai.mission_schedule SET told = NULL WHERE mission_id = 'encrypted'");
wait_for($node, 'told is made up for from the record', 20, "SELECT told::text FROM mana_ai.mission_schedule WHERE mission_id = 'encrypted'", '{encrypted}');
is(scalar notices_of('encrypted'), 1, 'what only the record knows is not told again');

# ---------------------------------------------------------------- switched off

settings($node, 'mana_ai.report_failures' => 'off');
push_mission($node, 'silent', objective => 'enc:1:AAAAAAAAAAAAAAAA.CCCCCCCCCCCCCCCCCCCCCCCC');
wait_for($node, 'silent: held back', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'silent' AND lease_owner IS NULL", 'skipped-encrypted');
stays_at('silent', 0, 'with mana_ai.report_failures = off nobody is told');

is(snapshots_differ($node), '', 'snapshots equal the log');
unlike(log_since($node), qr/Geheim/, 'nothing private is in the log');
done_testing();
