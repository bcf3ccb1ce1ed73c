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

# After several more checks there is no further notice.
sub stays_at
{
    my ($id, $count, $what) = @_;
    wait_for_looks($id);
    is(scalar notices_of($id), $count, $what);
    is(value($node, "SELECT count(*) FROM public.sync_changes WHERE record_id = '$id' AND client_id = 'mana-ai-runner'"), $count,
        "$id: as many rows in the log");
    return;
}

sub has_been_held
{
    my ($id, $decision, $minutes) = @_;
    wait_for($node, "$id: $decision", 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = '$id' AND lease_owner IS NULL", $decision);
    value($node, "UPDATE mana_ai.mission_schedule SET held_since = held_since - interval '$minutes min' WHERE mission_id = '$id'");
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
like($details->{message}, qr/^Das Sprachmodell lehnt den Inhalt der Mission ab\. Lege sie mit einem anders formulierten Ziel neu an\.$/, 'its message');
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

# run_mission() returns the failure in its answer.
push_mission($node, 'by-hand', objective => '[[szenario:422]]', nextRunAt => iso(86400));
is(run_mission($node, 'by-hand')->{outcome}, 'failed', "by hand: failure $_") for 1 .. 3;
is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'by-hand'"), 3, 'all of them count');
is(scalar notices_of('by-hand'), 0, 'but the user is told nothing');

# ---------------------------------------------------------------- shut gates

push_agent($node, 'gone', state => 'archived', name => 'Geheimer Agent');
push_mission($node, 'archived', agentId => 'gone', nextRunAt => iso(-600), iterations => [
    { id => 'b1', startedAt => iso(-900), finishedAt => iso(-880), plan => [], overallStatus => 'approved', summary => 'Im Browser' } ]);
has_been_held('archived', 'skipped-archived', 4);
stays_at('archived', 0, 'an open device would run it by itself within four minutes');
has_been_held('archived', 'skipped-archived', 2);
wait_for_notices('archived', 1);
($notice) = notices_of('archived');
is($notice->{errorDetails}{name}, 'Agent archiviert', 'an archived agent');
like($notice->{errorDetails}{message}, qr/mit einem anderen Agenten neu an, oder lösche den Agenten: Dann läuft sie ohne ihn weiter/, 'what can be done');
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

# The client can do one thing with an archived agent, which is what users are told: delete it.
push_agent($node, 'left', state => 'archived');
push_mission($node, 'left', agentId => 'left');
wait_for($node, 'left: held back', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'left' AND lease_owner IS NULL", 'skipped-archived');
push_change($node, table => 'agents', id => 'left', op => 'delete', data => { deletedAt => iso(0) });
wait_until('left: the agent is deleted, and it is planned', 20, sub { return (last_run($node, 'left') // {})->{outcome} eq 'planned' });

push_mission($node, 'encrypted', objective => 'enc:1:AAAAAAAAAAAAAAAA.BBBBBBBBBBBBBBBBBBBBBBBB', nextRunAt => iso(-600));
has_been_held('encrypted', 'skipped-encrypted', 6);
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

# A user's own budget, which an operator sets, is told of in other words.
value($node, "INSERT INTO mana_ai.user_budgets VALUES ('poor', 0)");
push_mission($node, 'user-budget', user => 'poor', nextRunAt => iso(-3 * 86400));
has_been_held('user-budget', 'skipped-user-budget', 23 * 60 + 58);
wait_for_looks('user-budget');
is_deeply(iterations_of($node, 'user-budget', 'poor'), [], 'nor is that of a user told of at once');
value($node, "UPDATE mana_ai.mission_schedule SET held_since = held_since - interval '3 min' WHERE mission_id = 'user-budget'");
my $told = sub { return grep { $_->{errorDetails} } @{ iterations_of($node, 'user-budget', 'poor') // [] } };
wait_until('user-budget: its user is told', 20, sub { return $told->() == 1 });
my ($of_user) = $told->();
is($of_user->{errorDetails}{name}, 'Token-Budget auf dem Server aufgebraucht', 'but after a day');
like($of_user->{errorDetails}{message}, qr/Pausiere Missionen, oder bitte den Betreiber/, 'what can be done');
is($of_user->{errorDetails}{phase}, 'calling-llm', 'its phase');
$run = last_run($node, 'user-budget', 'poor');
is_deeply([ @$run{qw(outcome decision iteration_id total_tokens)} ], [ 'skipped', 'skipped-user-budget', $of_user->{id}, 0 ], 'its run, which cost nothing');
wait_for_looks('user-budget');
is(scalar $told->(), 1, 'once');

# Held for a day, but due only now.
push_mission($node, 'fresh', agentId => 'spent', nextRunAt => iso(-60));
wait_for($node, 'fresh: held back', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'fresh' AND lease_owner IS NULL", 'skipped-budget');
value($node, "UPDATE mana_ai.mission_schedule SET held_since = held_since - interval '3 days' WHERE mission_id = 'fresh'");
stays_at('fresh', 0, 'the time before it was due does not count');

# Gates that open by themselves, or by what their user is about to do anyway.
push_agent($node, 'resting', state => 'paused');
push_mission($node, 'resting', agentId => 'resting');
wait_for($node, 'resting: held back', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'resting' AND lease_owner IS NULL", 'skipped-paused');
stays_at('resting', 0, 'a pause is not told of');

# What the user's own browser runs does run, whatever holds ours back.
push_agent($node, 'archived-agent', state => 'archived');
my %browser_run = (id => 'b1', startedAt => iso(-5), plan => [], overallStatus => 'running', currentPhase => 'calling-llm', phaseStartedAt => iso(-4));
push_mission($node, 'in-browser', agentId => 'archived-agent', nextRunAt => iso(-600), iterations => [ {%browser_run} ]);
has_been_held('in-browser', 'skipped-archived', 10);
stays_at('in-browser', 0, 'while a browser runs the mission nothing is said');
edit('in-browser', iterations => [ { %browser_run, overallStatus => 'failed', finishedAt => iso(0) } ]);
wait_for_notices('in-browser', 1);

# ---------------------------------------------------------------- a grant that opens nothing

my $device   = ManaAi::Device->new($key, 'unopened', []);
my $stranger = ManaAi::Device->new($key, 'unopened', []);
push_mission($node, 'unopened', title => $stranger->seal('Geheim'), grant => $device->grant, nextRunAt => iso(-600));
wait_for($node, 'unopened: tried', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'unopened' AND lease_owner IS NULL", 'skipped-encrypted');
is(scalar notices_of('unopened'), 0, 'the first try says nothing');
my $tries = "SELECT count(*) FROM mana_ai.decrypt_audit WHERE mission_id = 'unopened'";
my $tried = value($node, $tries);
has_been_held('unopened', 'skipped-encrypted', 6);
make_due('unopened');
wait_until('unopened: tried again', 20, sub { return value($node, $tries) > $tried });
has_been_held('unopened', 'skipped-encrypted', 0);
is(scalar notices_of('unopened'), 0, 'nothing is said to users whose clients encrypt with keys that no grant carries');
push_mission($node, 'ungranted', objective => 'enc:1:AAAAAAAAAAAAAAAA.EEEEEEEEEEEEEEEEEEEEEEEE', nextRunAt => iso(-600));
has_been_held('ungranted', 'skipped-encrypted', 6);
stays_at('ungranted', 0, 'nor are they asked for another grant, which would not help');
my $opening = ManaAi::Device->new($key, 'opened', []);
push_mission($node, 'opened', objective => $opening->seal('Lesbar'), grant => $opening->grant);
wait_for_iterations($node, 'opened', 1, 20);
make_due('unopened');
wait_for_notices('unopened', 1);
wait_for_notices('ungranted', 1);
is((notices_of('unopened'))[0]{errorDetails}{name}, 'Server-Zugriff passt nicht zu dieser Mission', 'but to those of whose missions some open');
is(value($node, "SELECT not_before > now() + interval '50 min' FROM mana_ai.mission_schedule WHERE mission_id = 'unopened'"), 't',
    'and the mission waits as it would have');

# ---------------------------------------------------------------- after a restore, and a table that refuses

value($node, "UPDATE mana_ai.mission_schedule SET told = NULL WHERE mission_id = 'encrypted'");
wait_for($node, 'told is made up for from the record', 20, "SELECT told::text FROM mana_ai.mission_schedule WHERE mission_id = 'encrypted'", '{encrypted}');
is(scalar notices_of('encrypted'), 1, 'what only the record knows is not told again');

# What a refused insert counts stays counted.
value($node, q{
CREATE SEQUENCE public.refusals;
GRANT USAGE ON SEQUENCE public.refusals TO PUBLIC;
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM nextval('public.refusals');
  RAISE EXCEPTION 'refused';
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON public.sync_changes FOR EACH ROW
  WHEN (NEW.record_id = 'refused' AND NEW.client_id = 'mana-ai-runner') EXECUTE FUNCTION public.refuse()});
push_mission($node, 'refused', agentId => 'archived-agent', nextRunAt => iso(-600));
has_been_held('refused', 'skipped-archived', 6);
wait_for($node, 'refused: the table refuses the notice', 20, 'SELECT is_called FROM public.refusals', 't');
is(value($node, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'refused' AND lease_owner IS NOT NULL"),
    'skipped-archived', 'a mission that is claimed for a notice is held back all the same');
$node->stop('immediate');
$node->start;
wait_for_worker($node);
wait_for($node, 'refused: given up', 120, "SELECT told::text FROM mana_ai.mission_schedule WHERE mission_id = 'refused' AND lease_owner IS NULL", '{archived}');
is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'refused'"), 0, 'a crash during a notice is no failure of the mission');
my $refusals = value($node, 'SELECT last_value FROM public.refusals');
stays_at('refused', 0, 'nothing was told');
is(value($node, 'SELECT last_value FROM public.refusals'), $refusals, 'and the table is not asked again');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'refused' AND outcome = 'running'"), 0, 'nor is the mission claimed');
like(log_since($node), qr/the user of mission refused could not be told/, 'the log says so');

# ---------------------------------------------------------------- a server without a key for grants

settings($node, 'mana_ai.grant_private_key_file' => '');
push_mission($node, 'keyless', objective => 'enc:1:AAAAAAAAAAAAAAAA.DDDDDDDDDDDDDDDDDDDDDDDD', nextRunAt => iso(-600));
has_been_held('keyless', 'skipped-encrypted', 6);
stays_at('keyless', 0, 'where no key is configured, encrypted missions run on devices alone');
settings($node, 'mana_ai.grant_private_key_file' => $key);
wait_for_notices('keyless', 1);

# ---------------------------------------------------------------- switched off

settings($node, 'mana_ai.report_failures' => 'off');
push_mission($node, 'silent', objective => 'enc:1:AAAAAAAAAAAAAAAA.CCCCCCCCCCCCCCCCCCCCCCCC', nextRunAt => iso(-600));
has_been_held('silent', 'skipped-encrypted', 6);
stays_at('silent', 0, 'with mana_ai.report_failures = off nobody is told');

# ---------------------------------------------------------------- the service's failures are nobody's news

settings($node, 'mana_ai.report_failures' => undef);
push_mission($node, 'service', objective => '[[szenario:422]] Ziel');
wait_for($node, 'service: a failure of its own', 20, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'service' AND lease_owner IS NULL", 1);
value($node, "UPDATE mana_ai.mission_schedule SET attempts = 2 WHERE mission_id = 'service'");
$model->control({ down => 503 });
make_due('service');
wait_for($node, 'service: the model service is away', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'service' AND lease_owner IS NULL", 'skipped-service');
stays_at('service', 0, 'runs that end so tell the user nothing, however often');
is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'service'"), 2, 'and are no further failures');
$model->control({ down => 0 });
wait_for_notices('service', 1, 60);

is(snapshots_differ($node), '', 'snapshots equal the log');
unlike(log_since($node), qr/Geheim/, 'nothing private is in the log');
$node->stop;

# ---------------------------------------------------------------- runs that take the process down

$node = new_cluster('crashes', preload => 1, model => $model, conf => "restart_after_crash = on\nmana_ai.tick_interval = '400ms'\n");
$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });

# Kills the worker in the middle of the mission's run.
sub crash
{
    my ($id) = @_;
    my $runs = "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = ";
    my $crashes = value($node, "$runs 'crashed'");
    wait_for($node, "$id: it runs", 20, "$runs 'running' AND decision = 'ran'", 1);
    my $position = log_position($node);
    kill 9, worker_pid($node);
    wait_until("$id: the server starts anew", 30, sub { log_since($node, $position) =~ /all server processes terminated; reinitializing/ });
    wait_until("$id: it is back", 30, sub { accepts_sessions($node) });
    return $crashes + 1;
}

sub crash_counts
{
    my ($id, $count) = @_;
    wait_for($node, "$id: crash $count is on record", 30, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = '$id' AND user_id = '$user'", $count);
    make_due($id);
    return;
}

push_mission($node, 'crashing', objective => 'Geheimes Ziel', title => 'Geheimer Titel', nextRunAt => $due);
for my $crashes (1, 2)
{
    crash('crashing');
    is(scalar notices_of('crashing'), 0, "after crash $crashes nothing is said");
    crash_counts('crashing', $crashes);
}
crash('crashing');
crash_counts('crashing', 3);
wait_for_notices('crashing', 1);
($notice) = notices_of('crashing');
is($notice->{errorDetails}{name}, 'Planung auf dem Server fehlgeschlagen', 'three crashes in a row are a failure like others');
like($notice->{errorDetails}{message}, qr/^Der Server ist mehrmals abgestürzt, während er diese Mission plante\. /, 'whose message says so');
ok(!exists $notice->{errorDetails}{phase}, 'in no phase that could be known');
$run = rows($node, "SELECT * FROM mana_ai.runs WHERE mission_id = 'crashing' AND iteration_id IS NOT NULL")->[0];
is_deeply([ @$run{qw(outcome decision iteration_id error_kind total_tokens)} ], [ 'skipped', 'skipped-crashing', $notice->{id}, undef, 0 ], 'the attempt to tell is no run that failed');
is(value($node, "SELECT problem FROM mana_ai.mission_problems WHERE mission_id = 'crashing'"), 'failed 3 times in a row, the last time: crashed', 'why the mission fails stays on record');
crash('crashing');
crash_counts('crashing', 4);
wait_for($node, 'after a further crash it is tried again', 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'crashing' AND outcome = 'running'", 1);
is(scalar notices_of('crashing'), 1, 'and not told again');
unlike(value($node, "SELECT c::text FROM public.sync_changes c WHERE record_id = 'crashing' AND client_id = 'mana-ai-runner'"), qr/Geheim/, 'nothing private is in it');
push_change($node, id => 'crashing', data => { state => 'paused' }, stamps => { state => iso(1) });
crash('crashing');

# A gate that has shut meanwhile says why the mission does not run; crashes are told of when it opens.
push_agent($node, 'shut');
push_mission($node, 'gated', agentId => 'shut', nextRunAt => $due);
for my $crashes (1, 2) { crash('gated'); crash_counts('gated', $crashes) }
wait_for($node, 'gated: it runs a third time', 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'gated' AND outcome = 'running' AND decision = 'ran'", 1);
push_change($node, table => 'agents', id => 'shut', data => { state => 'paused' }, stamps => { state => iso(0) });
crash('gated');
crash_counts('gated', 3);
wait_for($node, 'gated: the gates decide', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'gated' AND lease_owner IS NULL", 'skipped-paused');
is(scalar notices_of('gated'), 0, 'gated: while its agent is paused nothing is said of crashes');
push_change($node, table => 'agents', id => 'shut', data => { state => 'active' }, stamps => { state => iso(1) });
wait_for_notices('gated', 1);
push_change($node, id => 'gated', data => { state => 'paused' }, stamps => { state => iso(1) });

# What was wrong before says nothing of the last time.
push_mission($node, 'mixed', nextRunAt => $due);
crash('mixed');
value($node, "UPDATE mana_ai.mission_schedule SET error_kind = 'blocked' WHERE mission_id = 'mixed'");
crash_counts('mixed', 1);
crash('mixed');
wait_for($node, 'mixed: the last failure is the one that is named', 20, "SELECT problem FROM mana_ai.mission_problems WHERE mission_id = 'mixed'", 'failed 2 times in a row, the last time: crashed');
push_change($node, id => 'mixed', data => { state => 'paused' }, stamps => { state => iso(1) });

# A notice that crashes the process is not a failure of the mission, and is not tried again and again.
value($node, q{
CREATE FUNCTION public.hold_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3); RETURN NEW; END $$;
CREATE TRIGGER hold_up BEFORE INSERT ON public.sync_changes FOR EACH ROW
  WHEN (NEW.record_id IN ('deadly', 'large-deadly') AND NEW.client_id = 'mana-ai-runner') EXECUTE FUNCTION public.hold_up()});
for my $id ('deadly', 'large-deadly')
{
    push_mission($node, $id, nextRunAt => $due, $id =~ /large/ ? (conceptMarkdown => 'Geheim ' x 15_000) : ());
    for my $crashes (1, 2) { crash($id); crash_counts($id, $crashes) }
    crash($id);
    crash_counts($id, 3);
    my $runs = "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND decision = 'skipped-crashing' AND outcome = ";
    wait_for($node, "$id: its user is being told", 20, "$runs 'running'", 1);
    is(value($node, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = '$id'"), 'skipped-crashing', "$id: that is what it is held back for");
    my $position = log_position($node);
    kill 9, worker_pid($node);
    wait_until("$id: the server starts anew", 30, sub { log_since($node, $position) =~ /all server processes terminated; reinitializing/ });
    wait_until("$id: it is back", 30, sub { accepts_sessions($node) });
    wait_for($node, "$id: that it crashed is on record", 30, "$runs 'crashed'", 1);
    is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = '$id'"), 3, "$id: which is no failure of the mission");
    make_due($id);
    wait_for($node, "$id: then the mission is tried again", 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'running' AND decision = 'ran'", 1);
    is(scalar notices_of($id), 0, "$id: untold");
    push_change($node, id => $id, data => { state => 'paused' }, stamps => { state => iso(1) });
    crash($id);
}
value($node, 'DROP FUNCTION public.hold_up() CASCADE');

# Two that are told in one transaction, and the table refuses the other one: what is written by itself says the same.
value($node, q{
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON public.sync_changes FOR EACH ROW
  WHEN (NEW.record_id = 'together-2' AND NEW.client_id = 'mana-ai-runner') EXECUTE FUNCTION public.refuse()});
push_mission($node, "together-$_", nextRunAt => iso(-70 - 10 / $_)) for 1, 2;
for my $crashes (1 .. 3)
{
    wait_for($node, "together: both run", 20, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'together-%' AND outcome = 'running' AND decision = 'ran'", 2);
    crash('together-1');
    wait_for($node, "together: crash $crashes is on record of both", 30, "SELECT min(attempts) FROM mana_ai.mission_schedule WHERE mission_id LIKE 'together-%'", $crashes);
    value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id LIKE 'together-%' AND lease_owner IS NULL; SELECT pg_reload_conf()");
}
wait_for_notices('together-1', 1);
like((notices_of('together-1'))[0]{errorDetails}{message}, qr/^Der Server ist mehrmals abgestürzt/, 'a notice whose transaction was rolled back is written again as it was');
push_change($node, id => "together-$_", data => { state => 'paused' }, stamps => { state => iso(1) }) for 1, 2;
value($node, 'DROP FUNCTION public.refuse() CASCADE');

# One that cannot be written, since another member has ended the mission: read alone, the gates have not said so yet.
push_mission($node, 'ended', space => 'space-1', conceptMarkdown => 'Geheim ' x 15_000, nextRunAt => $due);
for my $crashes (1, 2) { crash('ended'); crash_counts('ended', $crashes) }
crash('ended');
push_change($node, id => 'ended', user => 'user-2', space => 'space-1', data => { state => 'done' }, stamps => { state => iso(0) });
crash_counts('ended', 3);
wait_for($node, 'a notice that cannot be written leaves the mission to its gates', 20, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'ended' AND user_id = '$user' AND lease_owner IS NULL", 'skipped-member-hold');
is(scalar notices_of('ended'), 0, 'and nothing is written');

# A record that is read alone, since reading it may be what crashes, need not be read for it.
push_mission($node, 'large', conceptMarkdown => 'Geheim ' x 15_000, nextRunAt => $due);
for my $crashes (1, 2) { crash('large'); crash_counts('large', $crashes) }

# Safe mode comes first: nothing runs, and nothing is told until it ends.
settings($node, 'mana_ai.crash_limit' => 3);
crash('large');
wait_for($node, 'safe mode begins', 10, 'SELECT since IS NOT NULL FROM mana_ai.safe_mode()', 't');
is(scalar notices_of('large'), 0, 'in safe mode nobody is told');
settings($node, 'mana_ai.crash_limit' => 0);
$model->reset;
is(value($node, 'SELECT mana_ai.resume_after_crash()'), 't', 'safe mode ends');
crash_counts('large', 3);
wait_for_notices('large', 1);

# A plan ends it.
wait_until('large: it is planned', 20, sub { return (last_run($node, 'large') // {})->{outcome} eq 'planned' })
    or diag(why_of($node, 'large'));
is(value($node, "SELECT told IS NULL AND attempts = 0 FROM mana_ai.mission_schedule WHERE mission_id = 'large'"), 't', 'a plan makes a new start');
is(snapshots_differ($node), '', 'snapshots equal the log');
done_testing();
