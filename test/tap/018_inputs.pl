# What a mission reads: records of every module, opened under the user's grant and recorded in the audit,
# and never anything else.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use ManaAi::Device;
use ManaAi::Missions;
use JSON::PP;
use Test::More;

my $model = start_model();
my $node  = new_cluster('inputs', preload => 1, model => $model, conf => "mana_ai.tick_enabled = off\n");
my $key   = ManaAi::Device::new_key($node, 'server');
settings($node, 'mana_ai.grant_private_key_file' => $key);

sub audit_of
{
    my ($mission) = @_;
    return rows($node, 'SELECT table_name, record_id, status, reason, iteration_id FROM mana_ai.decrypt_audit '
          . "WHERE mission_id = '$mission' ORDER BY id");
}

sub plans
{
    my ($mission, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $tick = run_tick($node);
    is($tick->{plans_written_back}, 1, $what) or diag(explain $tick, why_of($node, $mission));
    return;
}

# ---------------------------------------------------------------- plaintext records of every module

push_record($node, 'companion', 'companionGoals', 'g1',
    { title => 'Mehr Wasser', currentValue => 3, target => { value => 8, period => 'daily' } });
push_record($node, 'notes', 'notes', 'n1', { title => 'Einkauf', content => 'Hafermilch und ' . 'x' x 600 });
push_record($node, 'todo', 'tasks', 't1',
    { title => 'Steuer', status => 'open', description => 'Belege ordnen', dueDate => '2030-05-01' });
push_record($node, 'calendar', 'events', 'e1',
    { title => 'Zahnarzt', startDate => '2030-05-02T10:00:00Z', location => 'Bonn' });
push_record($node, 'journal', 'journalEntries', 'j1', { title => 'Montag', content => 'Gut geschlafen' });
push_record($node, 'kontext', 'kontextDoc', 'k1', { content => 'Ich arbeite halbtags' });
push_record($node, 'profile', 'userContext', 'p1', { about => 'Gärtnerin', interests => [ 'Rosen', 'Bienen' ] });
push_record($node, 'profile', 'userContext', 'p2',
    { about => { 'zwölf' => 12, 'viel' => 12345678901234567890123, 'teils' => [ -2.50, JSON::PP::true, JSON::PP::false, undef, [], {} ] },
      interests => [ { 'Ort' => 'Köln' }, [ 'a', [ 'b', 'c' ] ], 8.25 ], routine => undef, unrendered => [ 1 .. 40 ] });
push_record($node, 'notes', 'notes', 'n9', { title => 'Fremd', content => 'Notiz-einer-anderen-Nutzerin' }, user => 'user-2');
push_mission($node, 'plain', inputs => [
    { module => 'goals',    table => 'companionGoals', id => 'g1' },
    { module => 'notes',    table => 'notes',          id => 'n1' },
    { module => 'tasks',    table => 'tasks',          id => 't1' },
    { module => 'todo',     table => 'tasks',          id => 'missing' },
    { module => 'calendar', table => 'events',         id => 'e1' },
    { module => 'journal',  table => 'journalEntries', id => 'j1' },
    { module => 'kontext',  table => 'kontextDoc',     id => 'k1' },
    { module => 'profile',  table => 'userContext',    id => 'p1' },
    { module => 'profile',  table => 'userContext',    id => 'p2' },
    { module => 'notes',    table => 'notes',          id => 'n9' },
    { module => 'nothing',  table => 'notes',          id => 'n1' },
    'no reference' ]);
plans('plain', 'a mission with inputs is planned');
my $prompt = newest_prompt($model);
like($prompt, qr/\Q$_/, "the prompt has $_")
  for 'Mehr Wasser', 'Hafermilch', 'Belege ordnen', 'Zahnarzt', 'Bonn', 'Gut geschlafen', 'Ich arbeite halbtags',
  'Gärtnerin', 'Rosen';
like($prompt, qr/\nÜber mich: teils: -2\.5, ja, nein, viel: 1\.2345678\d*e\+22, zwölf: 12\nInteressen: Ort: Köln; a; b, c, 8\.25\n/, 'values of every kind');
unlike($prompt, qr/Tagesablauf|unrendered/, 'and only what is rendered');
unlike($prompt, qr/x{500}/, 'a note is cut');
unlike($prompt, qr/anderen-Nutzerin/, 'a record of another user is not read');
is(inputs_of($node, 'plain'),
    'companionGoals:g1=used notes:n1=used tasks:t1=used tasks:missing=missing events:e1=used journalEntries:j1=used '
      . 'kontextDoc:k1=used userContext:p1=used userContext:p2=used notes:n9=missing notes:n1=no-resolver',
    'the run says what it was based on');
like(last_run($node, 'plain')->{inputs}[1]{clock}, qr/^20\d\d-/, 'with the clock of the newest field');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE inputs::text LIKE '%Hafermilch%'"), 0, 'and without content');
is_deeply(audit_of('plain'), [], 'plaintext needs no audit');

# ---------------------------------------------------------------- encrypted records under a grant

my $device = ManaAi::Device->new($key, 'sealed', [ 'notes:s1', 'notes:s2', 'notes:s3', 'userContext:s4', 'notes:n1' ]);
my $stranger = ManaAi::Device->new($key, 'sealed', ['notes:s1']);
push_record($node, 'notes', 'notes', 's1', { title => $device->seal('Geheim'), content => $device->seal('Tresor-4711 "ä"') });
push_record($node, 'notes', 'notes', 's2', { title => 'Offen', content => $stranger->seal('Fremd-verschlüsselt') });
push_record($node, 'notes', 'notes', 's3', { title => 'Kaputt', content => 'enc:1:kein-base64' });
push_record($node, 'profile', 'userContext', 's4', { about => $device->seal('Über-mich-0815'), interests => $device->seal([ 'Schach', 'Go' ]) });
push_record($node, 'notes', 'notes', 's5', { content => $device->seal('Nicht-freigegeben-99') });
my @sealed_inputs = (
    (map { { module => 'notes', table => 'notes', id => $_ } } qw(s1 s2 s3 s5 n1)),
    { module => 'profile', table => 'userContext', id => 's4' });
push_mission($node, 'sealed', inputs => \@sealed_inputs, grant => $device->grant);
plans('sealed', 'a mission with encrypted inputs is planned');
$prompt = newest_prompt($model);
like($prompt, qr/\Q$_/, "the prompt has $_") for 'Tresor-4711 "ä"', 'Geheim', 'Über-mich-0815', 'Schach', 'Hafermilch';
unlike($prompt, qr/enc:1:|Fremd-versch|Nicht-freigegeben/, 'what the grant does not open is not there');
my $iteration = iterations_of($node, 'sealed')->[0]{id};
is_deeply(
    [ map { "$_->{table_name}:$_->{record_id} $_->{status} " . ($_->{reason} // '-') } @{ audit_of('sealed') } ],
    [
        'notes:s1 ok -',
        'notes:s2 failed ciphertext-tampered-or-wrong-key',
        'notes:s3 failed ciphertext-malformed',
        'notes:s5 scope-violation record-not-in-grant-allowlist',
        'userContext:s4 ok -'
    ],
    'every attempt is on record');
is_deeply([ map { $_->{iteration_id} } @{ audit_of('sealed') } ], [ ($iteration) x 5 ], 'with the iteration');
is(inputs_of($node, 'sealed'),
    'notes:s1=used notes:s2=ciphertext-tampered-or-wrong-key notes:s3=ciphertext-malformed '
      . 'notes:s5=record-not-in-grant-allowlist notes:n1=used userContext:s4=used', 'and the run says what was used');

# Users can read the audit of their own data, through a role that may do nothing else.
$node->safe_psql('mana_sync',
    'GRANT USAGE ON SCHEMA mana_ai TO nobody_special; GRANT EXECUTE ON FUNCTION mana_ai.read_decrypt_audit(text, int) TO nobody_special');
for my $case ([ 'user-1', 5 ], [ 'user-2', 0 ], [ '', 0 ])
{
    my ($user, $expected) = @$case;
    my $count = $node->safe_psql('mana_sync',
        "SET app.current_user_id = '$user'; SELECT count(*) FROM mana_ai.read_decrypt_audit('sealed')",
        extra_params => [ '-U', 'nobody_special' ]);
    is($count, $expected, "user \"$user\" sees $expected rows of the audit");
}
fails_like($node, 'SELECT * FROM mana_ai.decrypt_audit', qr/42501/, 'and no table', user => 'nobody_special');

# ---------------------------------------------------------------- grants that give no key

my $other_key = ManaAi::Device::new_key($node, 'other');
my %no_key = (
    'expired'      => ManaAi::Device->new($key, 'nokey', ['notes:s1'], expires => -10)->grant,
    'malformed'    => ManaAi::Device->new($key, 'nokey', ['notes:s1'], mission => 'another')->grant,
    'wrap-rejected' => ManaAi::Device->new($other_key, 'nokey', ['notes:s1'])->grant,
    'no-grant'     => undef);
my $number = 0;
for my $reason (sort keys %no_key)
{
    my $id = 'nokey';
    push_mission($node, $id, updatedAt => iso($number), nextRunAt => iso(-5 + $number), grant => $no_key{$reason},
        iterations => [], inputs => [ map { { module => 'notes', table => 'notes', id => $_ } } qw(n1 s1) ]);
    $number++;
    my $result = run_mission($node, $id);
    is($result->{outcome}, 'planned', "$reason: the mission is planned all the same");
    my ($n1, $s1) = split ' ', inputs_of($node, $id);
    is($s1, "notes:s1=$reason", 'without the encrypted input');
    is($n1, 'notes:n1=used', 'a plaintext one is read, whatever the grant lists');
    unlike(newest_prompt($model), qr/Tresor|enc:1:/, 'and nothing of it reaches the model');
}
is(value($node, "SELECT count(*) FROM mana_ai.decrypt_audit WHERE mission_id = 'nokey'"), 0, 'no record was touched, and nothing is a violation');

# ---------------------------------------------------------------- the mission's own texts

my $own = ManaAi::Device->new($key, 'own', []);
$model->reset;
push_mission($node, 'own', title => $own->seal('Titel-geheim'), objective => $own->seal('Ziel-geheim-55'),
    conceptMarkdown => $own->seal('Konzept-geheim'), grant => $own->grant);
plans('own', 'an encrypted mission is planned under its grant');
like(newest_prompt($model), qr/Titel-geheim.*Konzept-geheim.*Ziel-geheim-55/s, 'the model gets the plaintext');
is_deeply([ map { "$_->{table_name}:$_->{record_id} $_->{status}" } @{ audit_of('own') } ], ['aiMissions:own ok'], 'on record');
is(json_value($node, "SELECT actor FROM public.sync_changes WHERE record_id = 'own' AND client_id = 'mana-ai-runner'")->{rationale},
    '', 'the rationale of the plan is left empty');
my $requests = $model->count;
push_mission($node, 'closed', title => $own->seal('x'), grant => ManaAi::Device->new($other_key, 'closed', [])->grant);
is(run_tick($node)->{skipped}, 1, 'a mission that no grant opens is skipped');
is($model->count, $requests, 'without a model call');
is(last_run($node, 'closed')->{decision}, 'skipped-encrypted', 'as skipped-encrypted');
like(why_of($node, 'closed'), qr/grant does not open it: wrap-rejected/, 'why() says why');
value($node, "UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at WHERE mission_id = 'closed'");
is(run_tick($node)->{skipped}, 1, 'it stays so at the next look');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'closed'"), 1, 'which is not recorded again');
is(run_mission($node, 'closed')->{outcome}, 'skipped-encrypted', 'run_mission() says so, too');
push_change($node, id => 'closed', data => { grant => ManaAi::Device->new($key, 'closed', [])->grant }, stamps => { grant => iso(1) });
is(run_tick($node)->{skipped}, 1, 'a grant whose key did not encrypt the texts opens nothing');
is(audit_of('closed')->[-1]{status}, 'failed', 'which is on record');
push_change($node, id => 'closed', data => { state => 'paused' }, stamps => { state => iso(1) });

# A new key under the same name: what did not open is tried again at once.
push_mission($node, 'rotated', title => $own->seal('x'), grant => ManaAi::Device->new($other_key, 'rotated', [])->grant);
is(run_tick($node)->{skipped}, 1, 'a grant for another key opens nothing');
is(value($node, "SELECT not_before > now() + interval '30 minutes' FROM mana_ai.mission_schedule WHERE mission_id = 'rotated'"), 't',
    'and is not tried every minute');
is(run_tick($node)->{due_mission_count}, 0, 'nor at the next tick');
rename $key, "$key.old" or die $!;
rename $other_key, $key or die $!;
my $rotated = ManaAi::Device->new($key, 'rotated', []);
is(run_tick($node)->{due_mission_count}, 1, 'until the server has another key');
is(last_run($node, 'rotated')->{decision}, 'skipped-encrypted', 'with which it still may not open');
push_change($node, id => 'rotated', data => { title => $rotated->seal('Nach dem Wechsel'), grant => $rotated->grant },
    stamps => { title => iso(1), grant => iso(1) });
plans('rotated', 'a new grant for the new key');
like(newest_prompt($model), qr/Nach dem Wechsel/, 'opens the texts');
rename $key, $other_key or die $!;
rename "$key.old", $key or die $!;

# ---------------------------------------------------------------- what cannot be put on record is not used

$node->safe_psql('mana_sync', <<'END');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON mana_ai.decrypt_audit FOR EACH ROW EXECUTE FUNCTION public.refuse();
END
push_mission($node, 'unrecorded', grant => ManaAi::Device->new($key, 'unrecorded', ['notes:u1', 'notes:n1'])->grant,
    inputs => [ map { { module => 'notes', table => 'notes', id => $_ } } qw(u1 n1) ]);
my $unrecorded = ManaAi::Device->new($key, 'unrecorded', [ 'notes:u1', 'notes:n1' ]);
push_record($node, 'notes', 'notes', 'u1', { content => $unrecorded->seal('Nicht-auf-Akte-31') });
push_change($node, id => 'unrecorded', data => { grant => $unrecorded->grant }, stamps => { grant => iso(1) });
plans('unrecorded', 'a mission is planned when the audit cannot be written');
like(newest_prompt($model), qr/Hafermilch/, 'with what is not encrypted');
unlike(newest_prompt($model), qr/Nicht-auf-Akte/, 'and without what is');
is(inputs_of($node, 'unrecorded'), 'notes:u1=audit-not-written notes:n1=used', 'the run says so');
$node->safe_psql('mana_sync', 'DROP TRIGGER refuse ON mana_ai.decrypt_audit');

# ---------------------------------------------------------------- explain()

$model->reset;
my $audited = value($node, 'SELECT count(*) FROM mana_ai.decrypt_audit');
my $explained = rows($node, "SELECT * FROM mana_ai.explain('user-1', 'sealed')")->[0];
like($explained->{user_prompt}, qr/Titel: \[encrypted\].*\[encrypted\]/s, 'explain() shows what is encrypted as [encrypted]');
like($explained->{user_prompt}, qr/Hafermilch/, 'and the rest as it is');
unlike($explained->{user_prompt}, qr/Tresor|enc:1:|Nicht-freigegeben/, 'and nothing else');
is($explained->{decision}, 'ran', 'with the decision of the gates');
ok(scalar @{ $explained->{tools} } > 5, 'and the tools');
like($explained->{system_prompt}, qr/user_data/, 'and the system prompt');
like(rows($node, "SELECT * FROM mana_ai.explain('user-1', 'own')")->[0]{user_prompt}, qr/Mission\n<user_data>\n\[encrypted\]/,
    'the mission\'s own texts too');
is($model->count, 0, 'no call was made');
is(value($node, 'SELECT count(*) FROM mana_ai.decrypt_audit'), $audited, 'nothing was opened');
fails_like($node, "SELECT * FROM mana_ai.explain('user-1', 'nothing')", qr/02000: .*does not exist/, 'an unknown mission is an error');
fails_like($node, "SELECT * FROM mana_ai.explain('user-1', 'own')", qr/42501/, 'explain() is not for everybody', user => 'nobody_special');

# ---------------------------------------------------------------- the key file

my $position = log_position($node);
chmod 0644, $key;
$node->reload;
$model->reset;
push_mission($node, 'mode', grant => ManaAi::Device->new($key, 'mode', ['notes:s1'])->grant,
    inputs => [ { module => 'notes', table => 'notes', id => 's1' } ]);
plans('mode', 'a key file that others may read disables grants');
is(inputs_of($node, 'mode'), 'notes:s1=not-configured', 'as if there were none');
like(log_since($node, $position), qr/key grants are disabled: mana_ai\.grant_private_key_file cannot be used: the file/, 'the log says so');
like(value($node, 'SELECT grant_key FROM mana_ai.status()'), qr/^the file /, 'and status()');
chmod 0600, $key;
run_tick($node);
is(value($node, 'SELECT grant_key FROM mana_ai.status()'), 'loaded', 'until it is mended');

# The worker: reads the file again at a reload, and leaves no core file once it has a key.
chmod 0644, $key;
settings($node, 'mana_ai.tick_enabled' => 'on');
my $pid = wait_for_worker($node);
wait_for($node, 'the worker sees that the file is not as it must be', 10, 'SELECT grant_key LIKE \'the file%\' FROM mana_ai.status()', 't');
$position = log_position($node);
$node->reload;
$node->reload;
chmod 0600, $key;
$node->reload;
wait_for($node, 'the worker loads it at a reload', 10, 'SELECT grant_key FROM mana_ai.status()', 'loaded');
unlike(log_since($node, $position), qr/key grants are disabled/, 'what was said once is not repeated');
is((stat "/proc/$pid/maps")[4] // -1, 0, 'the process of the worker cannot be dumped or attached to');

$node->stop;
$model->stop;
done_testing();
