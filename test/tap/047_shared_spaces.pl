# Missions and agents of shared spaces. A mission belongs to the user of its rows, whatever other members write; of
# theirs only that they pause or delete it counts. An agent may be another member's.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use JSON::PP ();
use Test::More;

my $model = start_model();
my $node  = new_cluster('spaces', model => $model);
my ($anna, $bert, $carl) = qw(anna bert carl);

# Checks missions that were held back, as if for the first time.
sub look_again
{
    $node->safe_psql('mana_sync', 'UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at, decision = NULL; DELETE FROM mana_ai.runs');
    return;
}

# Runs a tick and returns the outcome of Anna's mission.
sub outcome_of
{
    my ($id, $user) = @_;
    $model->reset;
    run_tick($node);
    my $run = last_run($node, $id, $user // $anna);
    look_again();
    return defined $run ? ($run->{outcome} eq 'skipped' ? $run->{decision} : $run->{outcome}) : 'not due';
}

sub system_prompt { return ($model->requests)[0]{body}{messages}[0]{content} }

sub offered { return { map { $_->{function}{name} => 1 } @{ ($model->requests)[0]{body}{tools} } } }

# ---------------------------------------------------------------- agents

push_agent($node, 'default:s1', user => $bert, space => 's1', name => 'Berta', role => 'Rolle von Bert',
    policy => { tools => { create_task => 'deny' }, defaultForAi => 'propose' });
push_mission($node, 'm1', user => $anna, space => 's1', agentId => 'default:s1');
is(why_of($node, 'm1', $anna), 'worker is not running: mana_ai is not in shared_preload_libraries', 'an agent of another member: nothing is in the way');
is(outcome_of('m1'), 'planned', 'the mission is planned');
like(system_prompt(), qr/Berta/, 'with the agent of the space');
ok(!offered()->{create_task} && offered()->{create_note}, 'under its policy');
is(value($node, "SELECT agent_id FROM mana_ai.token_usage WHERE user_id = 'anna' AND mission_id = 'm1' LIMIT 1"), 'default:s1', 'and at the cost of its user');
is(value($node, "SELECT count(*) FROM mana_ai.token_usage WHERE user_id = 'bert'"), 0, 'not of its owner');

push_mission($node, 'm2', user => $anna, space => 's2', agentId => 'default:s1');
is(outcome_of('m2'), 'skipped-agent-missing', 'an agent of another space is none');
push_mission($node, 'm3', user => $anna, agentId => 'default:s1');
is(outcome_of('m3'), 'skipped-agent-missing', 'nor is one of a space for a personal mission');
push_agent($node, 'evil', user => $carl, space => '_personal:anna', name => 'Fremder');
push_mission($node, 'm4', user => $anna, space => '_personal:anna', agentId => 'evil');
is(outcome_of('m4'), 'skipped-agent-missing', 'a personal space has one member');
push_agent($node, 'private', user => $bert, name => 'Privat');
push_mission($node, 'm5', user => $anna, space => 's1', agentId => 'private');
is(outcome_of('m5'), 'skipped-agent-missing', 'nor is another member\'s personal agent');
push_change($node, user => $anna, id => $_, data => { state => 'done' }, stamps => { state => iso(0) }) for qw(m2 m3 m4 m5);

push_agent($node, 'default:s1', user => $anna, space => 's1', name => 'Anton', policy => { tools => {}, defaultForAi => 'propose' });
push_change($node, user => $anna, space => 's1', id => 'm1', data => { nextRunAt => iso(-1) }, stamps => { nextRunAt => iso(0) });
is(outcome_of('m1'), 'planned', 'planned again');
like(system_prompt(), qr/Anton/, 'the user\'s own agent comes first');

# An edit of another member's agent makes a fragment.
push_agent($node, 'shared', user => $bert, space => 's1', name => 'Geteilt', maxConcurrentMissions => 5);
push_mission($node, 'm6', user => $anna, space => 's1', agentId => 'shared');
push_change($node, user => $anna, space => 's1', table => 'agents', id => 'shared', data => { role => 'Von Anna' }, stamps => { role => iso(0) });
is(outcome_of('m6'), 'planned', 'a fragment of the user\'s own is no agent');
like(system_prompt(), qr/Geteilt/, 'the other member\'s is');
push_change($node, user => $anna, space => 's1', id => 'm6', data => { nextRunAt => iso(-1) }, stamps => { nextRunAt => iso(0) });
push_change($node, user => $carl, space => 's1', table => 'agents', id => 'shared', data => { state => 'paused' }, stamps => { state => iso(0) });
is(outcome_of('m6'), 'skipped-paused', 'a member pauses a shared agent');
is(why_of($node, 'm6', $anna), 'agent Geteilt is paused', 'why()');
push_change($node, user => $bert, space => 's1', table => 'agents', id => 'shared', data => { state => 'active' }, stamps => { state => iso(1) });
is(outcome_of('m6'), 'planned', 'and its owner sets it going again');

# Deleted.
push_agent($node, 'gone', user => $anna, name => 'Weg', maxTokensPerDay => 0, policy => { tools => { create_note => 'deny' }, defaultForAi => 'propose' });
push_mission($node, 'm7', user => $anna, agentId => 'gone');
is(outcome_of('m7'), 'skipped-budget', 'an agent with a budget of nothing');
push_change($node, user => $anna, table => 'agents', id => 'gone', op => 'delete', data => { deletedAt => iso(0) });
unlike(why_of($node, 'm7', $anna), qr/agent/, 'why(): a deleted agent is no obstacle');
is(value($node, "SELECT decision FROM mana_ai.explain('anna', 'm7')"), 'ran', 'explain() says so, too');
is(outcome_of('m7'), 'planned', 'a mission goes on without its agent when that was deleted');
unlike(system_prompt(), qr/Weg/, 'without its persona');
ok(offered()->{create_note}, 'under the default policy');
is(json_value($node, "SELECT actor FROM public.sync_changes WHERE record_id = 'm7' AND client_id = 'mana-ai-runner'")->{principalId}, 'legacy:ai-default', 'in nobody\'s name');
push_agent($node, 'gone2', user => $bert, space => 's1', name => 'Weg');
push_mission($node, 'm8', user => $anna, space => 's1', agentId => 'gone2');
push_change($node, user => $bert, space => 's1', table => 'agents', id => 'gone2', op => 'delete', data => { deletedAt => iso(0) });
is(outcome_of('m8'), 'planned', 'so it does when the agent of the space was deleted');

# ---------------------------------------------------------------- agents of strangers

# Anybody can claim a space. Adam, a stranger whose id comes before all others, has learnt the ids.
my $adam = 'adam';

sub due_again { my ($user, $id) = @_; push_change($node, user => $user, space => 's1', id => $id, data => { nextRunAt => iso(-1) }, stamps => { nextRunAt => iso(0) }); return }

push_agent($node, 'secret', user => $bert, space => 's1', name => 'Sekretär', systemPrompt => 'Geheime Persona', memory => 'Geheimes Gedächtnis',
    policy => { tools => { create_task => 'deny' }, defaultForAi => 'propose' }, maxTokensPerDay => 1_000_000);
push_mission($node, 'spy', user => $adam, space => 's1', agentId => 'secret');
is(outcome_of('spy', $adam), 'planned', 'a stranger names the space and the agent of another user: planned');
like(system_prompt(), qr/Sekretär/, 'with the agent\'s name');
unlike(JSON::PP->new->encode($model->requests), qr/Geheime/, 'but neither persona nor memory is sent');
is(value($node, "SELECT count(*) FROM mana_ai.explain('adam', 'spy') e WHERE e::text LIKE '%Geheime%'"), 0, 'explain() does not show them');
push_mission($node, 'mine', user => $bert, space => 's1', agentId => 'secret');
is(outcome_of('mine', $bert), 'planned', 'its owner\'s own mission');
like(system_prompt(), qr/Geheime Persona/, 'has the persona');
like(system_prompt(), qr/Geheimes Gedächtnis/, 'and the memory');

push_mission($node, 'a1', user => $anna, space => 's1', agentId => 'secret');
is(outcome_of('a1'), 'planned', 'a member\'s mission');
ok(!offered()->{create_task}, 'under the policy of the agent');
due_again($anna, 'a1');
push_agent($node, 'secret', user => $adam, space => 's1', name => 'Falscher Sekretär', systemPrompt => 'Falsche Persona',
    policy => { tools => {}, defaultForAi => 'auto' });
is(why_of($node, 'a1', $anna), 'more than one other member of the space has an agent secret', 'a stranger has an agent of the same name: why()');
is(value($node, "SELECT decision FROM mana_ai.explain('anna', 'a1')"), 'skipped-agent-missing', 'explain()');
is(outcome_of('a1'), 'skipped-agent-missing', 'the mission is held');
is($model->count, 0, 'and costs nothing');
push_change($node, user => $anna, space => 's1', table => 'agents', id => 'secret', data => { role => 'Von Anna' }, stamps => { role => iso(0) });
is(outcome_of('a1'), 'skipped-agent-missing', 'a fragment of the user\'s own does not take its place');
is(run_mission($node, 'a1', $anna)->{outcome}, 'skipped-agent-missing', 'by hand neither');
look_again();
push_change($node, user => $adam, space => 's1', table => 'agents', id => 'secret', op => 'delete', data => { deletedAt => iso(0) });
is(outcome_of('a1'), 'planned', 'when the stranger\'s is deleted the mission goes on');
ok(!offered()->{create_task}, 'under the policy of the one that is left');

push_agent($node, 'large', user => $bert, space => 's1', name => 'Riese', maxTokensPerDay => 0, memory => 'x' x 3_000_000);
push_agent($node, 'large', user => $adam, space => 's1', name => 'Zwerg');
push_mission($node, 'a5', user => $anna, space => 's1', agentId => 'large');
is(outcome_of('a5'), 'skipped-agent-missing', 'so it does when the genuine one is too large to be read');
push_change($node, user => $adam, space => 's1', table => 'agents', id => 'large', op => 'delete', data => { deletedAt => iso(0) });
is(outcome_of('a5'), 'skipped-agent-missing', 'and when the stranger\'s is deleted again');
push_change($node, user => $anna, space => 's1', id => 'a5', data => { state => 'done' }, stamps => { state => iso(0) });

push_agent($node, 'legacy:ai-default', user => $_, space => 's1', name => "Alt $_", maxTokensPerDay => 0) for $adam, $bert;
push_mission($node, 'a2', user => $anna, space => 's1', agentId => 'legacy:ai-default');
is(outcome_of('a2'), 'skipped-agent-missing', 'two of the default agent hold the mission as well');
push_change($node, user => $anna, space => 's1', id => 'a2', data => { state => 'done' }, stamps => { state => iso(0) });

# A stranger cannot be distinguished from a member: an agent that nobody else has is used, but not its persona or memory.
push_agent($node, 'unsynced', user => $adam, space => 's1', name => 'Vorgeschoben', systemPrompt => 'Falsche Persona', memory => 'Falsche Erinnerung');
push_mission($node, 'a3', user => $anna, space => 's1', agentId => 'unsynced');
is(outcome_of('a3'), 'planned', 'an agent that only a stranger has');
unlike(JSON::PP->new->encode($model->requests), qr/Falsche/, 'puts no persona and no memory into the prompt');

push_mission($node, 'a4', user => $anna, space => 's1', agentId => 'never');
push_change($node, user => $adam, space => 's1', table => 'agents', id => 'never', op => 'delete', data => { deletedAt => iso(0) });
is(outcome_of('a4'), 'skipped-agent-missing', 'that a stranger deletes an agent which they never had counts for nothing');
push_change($node, user => $carl, space => 's1', table => 'agents', id => 'never', data => { role => 'Rolle' }, stamps => { role => iso(-2) });
push_change($node, user => $carl, space => 's1', table => 'agents', id => 'never', op => 'delete', data => { deletedAt => iso(0) });
is(outcome_of('a4'), 'skipped-agent-missing', 'nor that somebody deletes a fragment');
is(value($node, "SELECT count(*) FROM mana_ai.record_tombstones WHERE record_id = 'never' AND space_id = 's1' AND NOT was_whole"), 2, 'both are known');
push_change($node, user => $anna, space => 's1', id => 'a4', data => { state => 'done' }, stamps => { state => iso(0) });

# ---------------------------------------------------------------- what other members do to a mission

sub shared_mission
{
    my ($id) = @_;
    push_mission($node, $id, user => $anna, space => 's1');
    return;
}

sub member_writes
{
    my ($user, $space, $id, $offset, %data) = @_;
    push_change($node, user => $user, space => $space, id => $id, data => \%data, stamps => { map { $_ => iso($offset) } keys %data });
    return;
}

shared_mission('p1');
member_writes($bert, 's1', 'p1', 0, state => 'paused');
is(why_of($node, 'p1', $anna), 'another member of the space has made the mission paused', 'a member\'s pause: why()');
is(value($node, "SELECT decision FROM mana_ai.explain('anna', 'p1')"), 'skipped-member-hold', 'explain()');
is(outcome_of('p1'), 'skipped-member-hold', 'holds the mission');
is($model->count, 0, 'and costs nothing');
is(run_mission($node, 'p1', $anna)->{outcome}, 'skipped-member-hold', 'by hand as well');
$node->safe_psql('mana_sync', 'UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at; DELETE FROM mana_ai.runs');
member_writes($carl, 's1', 'p1', 1, state => 'active');
is(outcome_of('p1'), 'planned', 'until a member sets it going again');

shared_mission('p2');
member_writes($bert, 's1', 'p2', 0, state => 'archived');
push_change($node, user => $anna, space => 's1', id => 'p2', data => { state => 'active' }, stamps => { state => iso(1) });
is(outcome_of('p2'), 'planned', 'or its owner does');

shared_mission('p3');
push_change($node, user => $bert, space => 's1', id => 'p3', op => 'delete', data => { deletedAt => iso(0) });
is(why_of($node, 'p3', $anna), 'another member of the space has made the mission deleted', 'a member deletes it');
is(outcome_of('p3'), 'skipped-member-hold', 'and it is held');
is(scalar @{ iterations_of($node, 'p3', $anna) }, 0, 'its record stays as its owner\'s rows make it');

# During a run.
shared_mission('p4');
$model->reset;
$model->control({ steps => [ { latency_ms => 700, content => 'Zusammenfassung' } ] });
my $session = background($node, 'SELECT plans_written_back FROM mana_ai.run_tick()');
$model->wait_in_flight(1);
member_writes($bert, 's1', 'p4', 0, state => 'paused');
like(($session->finish(10))[1], qr/^0$/, 'a pause during the run: nothing is written');
is(last_run($node, 'p4', $anna)->{outcome}, 'discarded', 'the run is discarded');
$node->safe_psql('mana_sync', 'DELETE FROM mana_ai.runs');

# ---------------------------------------------------------------- what they cannot do

my $json = JSON::PP->new->canonical;
my @hostile = (
    [ 'a stranger pauses it in another space' => 's2', { state => 'paused' }, 0 ],
    [ 'without a space'                       => undef, { state => 'paused' }, 0 ],
    [ 'before the owner has activated it'     => 's1', { state => 'paused' }, -3600 ],
    [ 'with the clock of a far future'        => 's1', { state => 'paused' }, 86400 * 400 ],
    [ 'a state that is none'                  => 's1', { state => 'hacked' }, 0 ]);
my $n = 0;
for my $case (@hostile)
{
    my ($what, $space, $data, $offset) = @$case;
    my $id = 'h' . ++$n;
    shared_mission($id);
    member_writes($carl, $space, $id, $offset, %$data);
    is(outcome_of($id), 'planned', "$what: has no effect");
}
shared_mission('h9');
push_change($node, user => $carl, id => 'h9', op => 'delete', data => { deletedAt => iso(0) });
is(outcome_of('h9'), 'planned', 'a stranger\'s delete has none');

push_mission($node, 'w1', user => $anna, space => 's1', state => 'paused', agentId => 'default:s1');
my $before = $json->encode(record_of($node, 'w1', $anna));
member_writes($carl, 's1', 'w1', 1, state => 'active', nextRunAt => iso(-1), agentId => 'shared', title => 'Neu', objective => 'Fremdes Ziel',
    cadence => { kind => 'interval', everyMinutes => 1 }, inputs => [ { module => 'notes', table => 'notes', id => 'n' } ],
    iterations => [], grant => { wrappedKey => 'x' });
is(outcome_of('w1'), 'not due', 'a mission that its owner has paused is not run because a member wants it');
is($json->encode(record_of($node, 'w1', $anna)), $before, 'nor is anything of its record changed');
is($json->encode(json_value($node, "SELECT record FROM mana_ai.mission_snapshots WHERE user_id = 'anna' AND mission_id = 'w1'")), $before, 'or of its snapshot');

# The member's own record says all of that, so it is a mission of his; a fragment is not.
member_writes($bert, 's1', 'f1', 0, state => 'active', nextRunAt => iso(-1));
shared_mission('f1');
is(value($node, "SELECT due_at IS NULL FROM mana_ai.mission_schedule WHERE user_id = 'bert' AND mission_id = 'f1'"), 't', 'a fragment is not scheduled');
is(value($node, "SELECT string_agg(problem, ', ') FROM mana_ai.mission_problems WHERE user_id = 'bert' AND mission_id = 'f1'"),
    'title and objective are missing: not scheduled, cadence is missing', 'and a mission problem');
is(why_of($node, 'f1', $bert), 'not scheduled: the record has neither title nor objective', 'why()');
is(outcome_of('f1'), 'planned', 'the mission itself is planned');
is(value($node, "SELECT count(*) FROM public.sync_changes WHERE user_id = 'bert' AND record_id = 'f1' AND client_id = 'mana-ai-runner'"), 0, 'nothing is written for the member');
is(value($node, "SELECT count(*) FROM mana_ai.token_usage WHERE user_id = 'bert' AND mission_id = 'f1'"), 0, 'and nothing charged');
push_mission($node, 'empty', user => $anna, title => '', objective => '');
like(value($node, "SELECT string_agg(problem, ', ') FROM mana_ai.mission_problems WHERE mission_id = 'empty'"),
    qr/^title and objective are missing: not scheduled/, 'empty texts are a mission problem as well');
is(snapshots_differ($node), '', 'snapshots are those of the log');

# A space's name of any length does not keep a row from being folded.
push_change($node, user => $bert, space => 'x' x 100_000, id => 'long', data => { title => 't' });
is(value($node, "SELECT length(space_id) FROM mana_ai.mission_snapshots WHERE mission_id = 'long'"), 100_000, 'a long space');

done_testing();
