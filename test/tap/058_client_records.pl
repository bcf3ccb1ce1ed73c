# Records as today's clients keep them: times of events in time blocks, tasks without a status, the note that is a
# space's context; and grants that open nothing, as the clients encrypt with another key than grants carry.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP;
use ManaAi;
use ManaAi::Device;
use ManaAi::Missions;
use Test::More;

my $model = start_model();
my $node  = new_cluster('client_records', model => $model);
my $key   = ManaAi::Device::new_key($node, 'server');
settings($node, 'mana_ai.grant_private_key_file' => $key);
my $user = USER_ID;

sub input { my ($module, $table, $id) = @_; return { module => $module, table => $table, id => $id } }

# ---------------------------------------------------------------- in clear, as in shared spaces

push_record($node, 'todo', 'tasks', 't1', { title => 'Belege sortieren', priority => 'medium', isCompleted => JSON::PP::false, order => 0, dueDate => '2026-12-10' });
push_record($node, 'todo', 'tasks', 't2', { title => 'Rechnung zahlen', priority => 'medium', isCompleted => JSON::PP::true, order => 1 });
push_record($node, 'calendar', 'events', 'e1', { title => 'Zahnarzt', calendarId => 'c1', timeBlockId => 'tb1', location => 'Praxis' });
push_record($node, 'timeblocks', 'timeBlocks', 'tb1', { startDate => '2026-12-01T09:00:00.000Z', endDate => '2026-12-01T09:30:00.000Z', allDay => JSON::PP::false,
        isLive => JSON::PP::false, kind => 'scheduled', type => 'event', sourceModule => 'calendar', sourceId => 'e1', title => 'Zahnarzt' });
push_record($node, 'timeblocks', 'timeBlocks', 'tb-broken', { startDate => '2026-12-02T09:00:00.000Z' });
push_record($node, 'calendar', 'events', 'e5', { title => 'Block nicht lesbar', location => 'Trotzdem da', timeBlockId => 'tb-broken' });
value($node, "CREATE ROLE table_owner; ALTER TABLE public.sync_changes OWNER TO table_owner;
              CREATE POLICY broken ON public.sync_changes AS RESTRICTIVE FOR SELECT
                USING (CASE WHEN record_id = 'tb-broken' THEN 1 / (length(record_id) - 9) = 0 ELSE true END)");
push_record($node, 'calendar', 'events', 'e2', { title => 'Ohne Block', calendarId => 'c1', timeBlockId => 'gone' });
push_record($node, 'calendar', 'events', 'e3', { title => 'Alter Termin', startDate => '2026-11-30T08:00:00.000Z', timeBlockId => 'tb1' });
push_record($node, 'timeblocks', 'timeBlocks', 'tb9', { startDate => '2030-01-01T00:00:00.000Z' }, user => 'user-2');
push_record($node, 'calendar', 'events', 'e4', { title => 'Fremder Block', timeBlockId => 'tb9' });
push_record($node, 'notes', 'notes', 'ctx', { title => 'Unser Haushalt', content => 'Wir sind zu viert. ' . ('x' x 1200) . ' ENDE-DES-KONTEXTS', isSpaceContext => JSON::PP::true });
push_record($node, 'notes', 'notes', 'n1', { title => 'Gewöhnlich', content => ('y' x 1200) . ' ENDE-DER-NOTIZ', isSpaceContext => JSON::PP::false });
push_record($node, 'profile', 'userContext', 'singleton', { leisure => { media => ['Krimis'], sports => [ 'Klettern', 'Laufen' ], pets => 'zwei Katzen' }, goals => ['mehr schlafen'] });
push_mission($node, 'clear', inputs => [ input('todo', 'tasks', 't1'), input('todo', 'tasks', 't2'), (map { input('calendar', 'events', $_) } qw(e1 e2 e3 e4 e5)),
        input('notes', 'notes', 'ctx'), input('notes', 'notes', 'n1'), input('profile', 'userContext', 'singleton') ]);
my $explained = value($node, "SELECT user_prompt FROM mana_ai.explain('$user', 'clear')");
is(run_mission($node, 'clear')->{outcome}, 'planned', 'a mission with inputs of all kinds');
my $prompt = newest_prompt($model);
for my $text ($prompt, $explained)
{
    my $what = $text eq $prompt ? 'prompt' : 'explain()';
    like($text, qr/Status: offen\nTitel: Belege sortieren\nFällig: 2026-12-10/, "$what: a task that is open");
    like($text, qr/Status: erledigt\nTitel: Rechnung zahlen/, "$what: a task that is done");
    like($text, qr/Titel: Zahnarzt\nBeginn: 2026-12-01T09:00:00\.000Z\nEnde: 2026-12-01T09:30:00\.000Z\nGanztägig: nein\nOrt: Praxis/, "$what: an event has the times of its time block");
    like($text, qr/Titel: Ohne Block(?!\nBeginn)/, "$what: one whose block is not there has none");
    like($text, qr/Titel: Alter Termin\nBeginn: 2026-11-30T08:00:00\.000Z/, "$what: its own time counts");
    like($text, qr/Titel: Block nicht lesbar\nOrt: Trotzdem da/, "$what: one whose block cannot be read is there without times");
    unlike($text, qr/2030-01-01/, "$what: another user's block is not read");
    like($text, qr/Dauerhafter Kontext dieses Bereichs:\nWir sind zu viert\..*ENDE-DES-KONTEXTS/s, "$what: the note that is the space's context is whole");
    unlike($text, qr/ENDE-DER-NOTIZ/, "$what: an ordinary note is cut");
    like($text, qr/Freizeit: media: Krimis, pets: zwei Katzen; sports: Klettern, Laufen/, "$what: leisure is part of the profile");
}

# ---------------------------------------------------------------- encrypted with the user's key

# What the device encrypts with, and what mana-auth puts into grants, are two keys.
my $master = ManaAi::Device->new($key, 'any', []);
push_record($node, 'calendar', 'events', 's1', { title => $master->seal('Geheimer-Termin'), timeBlockId => 'tb1', location => undef });
push_record($node, 'notes', 'notes', 's2', { title => $master->seal('Geheime-Notiz'), content => $master->seal('Tresor') });
push_record($node, 'notes', 'notes', 's3', { title => $master->seal('Nicht gelistet'), content => $master->seal('Tresor') });
my $grant = ManaAi::Device->new($key, 'sealed', [ 'events:s1', 'notes:s2' ])->grant;
push_mission($node, 'sealed', cadence => { kind => 'interval', everyMinutes => 600 }, grant => $grant,
    inputs => [ input('calendar', 'events', 's1'), (map { input('notes', 'notes', $_) } qw(s2 s3 n1)), input('profile', 'userContext', 'singleton') ]);
is(value($node, 'SELECT users_without_opens FROM mana_ai.status()'), 0, 'before any attempt there is nothing to say');
is(run_mission($node, 'sealed')->{outcome}, 'planned', 'a mission with encrypted inputs is planned');
my $wrong = 'ciphertext-tampered-or-wrong-key';
is(inputs_of($node, 'sealed'), "events:s1=$wrong notes:s2=$wrong notes:s3=record-not-in-grant-allowlist notes:n1=used userContext:singleton=used",
    'without what its grant does not open; what is in clear is read, listed or not');
unlike(newest_prompt($model), qr/enc:1:|Geheim|Tresor/, 'nothing of it reaches the model');
is_deeply([ map { "$_->{table_name}:$_->{record_id} $_->{status}" } @{ rows($node, "SELECT * FROM mana_ai.decrypt_audit WHERE mission_id = 'sealed' ORDER BY id") } ],
    [ 'events:s1 failed', 'notes:s2 failed', 'notes:s3 scope-violation' ], 'on record is what needed a key, and no more');
is(value($node, 'SELECT users_without_opens FROM mana_ai.status()'), 1, 'status() counts the user');
like(why_of($node, 'sealed'), qr/^not due until .*; no grant of this user has opened anything lately: their clients do not encrypt with the keys that grants carry$/,
    'why() says it plainly');
like(why_of($node, 'clear'), qr/^not due until [0-9-]+ [0-9:.]+\+00$/, 'but not of a mission without a grant');

push_mission($node, 'closed', title => $master->seal('Geheimer Titel'), grant => ManaAi::Device->new($key, 'closed', [])->grant);
is(run_mission($node, 'closed')->{outcome}, 'skipped-encrypted', 'an encrypted mission is held back');
like(why_of($node, 'closed'), qr/^title, objective or concept is encrypted and the grant does not open it: $wrong; no grant of this user/, 'and why() says the same');

# One that opens is enough.
my $device = ManaAi::Device->new($key, 'opens', ['notes:s4']);
push_record($node, 'notes', 'notes', 's4', { title => $device->seal('Mit dem Schlüssel der Mission'), content => 'offen' });
push_mission($node, 'opens', grant => $device->grant, inputs => [ input('notes', 'notes', 's4') ]);
is(run_mission($node, 'opens')->{outcome}, 'planned', 'a client that encrypts with the mission\'s key');
like(newest_prompt($model), qr/Mit dem Schlüssel der Mission/, 'is understood');
is(value($node, 'SELECT users_without_opens FROM mana_ai.status()'), 0, 'status() takes the user off');
like(why_of($node, 'sealed'), qr/^not due until [0-9-]+ [0-9:.]+\+00$/, 'and so does why()');

# ---------------------------------------------------------------- what clients of the newer shape keep

create_sync_database($node, 'newer', shape => 'field_meta');
push_changes($node, 'newer', { id => 'm1', op => 'insert', stamps_column => 'field_meta', data => {
        title => 'T', objective => 'O', state => 'active', cadence => { kind => 'interval', everyMinutes => 60 }, nextRunAt => iso(-60), createdAt => iso(-60) } });
is(rows($node, "SELECT * FROM mana_ai.run_mission('$user', 'm1')", 'newer')->[0]{outcome}, 'planned', 'field_meta: planned');
my $row = rows($node, "SELECT * FROM public.sync_changes WHERE client_id = 'mana-ai-runner'", 'newer')->[0];
is_deeply([ sort keys %{ $row->{data} } ], [qw(iterations nextRunAt)], 'without an updatedAt, which its clients do not keep');
is_deeply([ sort keys %{ $row->{field_meta} } ], [qw(iterations nextRunAt)], 'nor a stamp of one');
is(snapshots_differ($node, 'newer'), '', 'snapshots equal the log');
$row = rows($node, "SELECT * FROM public.sync_changes WHERE client_id = 'mana-ai-runner' AND record_id = 'clear'")->[0];
is_deeply([ sort keys %{ $row->{field_timestamps} } ], [qw(iterations nextRunAt updatedAt)], 'field_timestamps: with one, as its clients do');
done_testing();
