# What devices may do with a plan: the statuses of its steps, and what the model is told of it.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('steps', preload => 1, model => $model, conf => 'mana_ai.tick_enabled = off');

push_agent($node, 'ada', policy => { tools => { create_task => 'auto', create_note => 'propose' }, defaultForAi => 'propose' });

# Plans one mission with a task and a note; returns its iteration.
sub plan_anew
{
    my ($id, %fields) = @_;
    $model->reset;
    $model->control({ steps => [
        { tool_calls => [ { name => 'create_task', arguments => { title => 'Milch kaufen' } }, { name => 'create_note', arguments => { content => 'Milch' } } ] },
        { content => 'Fertig.' } ] });
    push_mission($node, $id, cadence => { kind => 'manual' }, %fields);
    run_tick($node);
    return iterations_of($node, $id)->[-1];
}
sub statuses { return join ' ', map { $_->{status} } @{ $_[0]{plan} } }

# The executor of the known client handles iterations with source "server" that have a step with status "planned",
# carries out exactly those, and hands all others back as they were.
sub carried_out_by_known_client
{
    my ($iteration) = @_;
    return [] if $iteration->{source} ne 'server';
    return [ map { $_->{intent}{toolName} } grep { $_->{status} eq 'planned' && $_->{intent}{kind} eq 'toolCall' } @{ $iteration->{plan} } ];
}

my $iteration = plan_anew('default', agentId => 'ada');
is(statuses($iteration), 'planned planned', 'by default every step is planned');
is_deeply(carried_out_by_known_client($iteration), [qw(create_task create_note)], 'which the known client carries out, whatever the policy proposes');
my ($system) = map { $_->{content} } grep { $_->{role} eq 'system' } @{ ($model->requests)[0]{body}{messages} };
like($system, qr/sofort und ohne Rückfrage/, 'the model is told that nobody may be asked');
unlike($system, qr/prüft|Vorschlag/, 'and of no review');

settings($node, 'mana_ai.step_status' => 'staged');
$iteration = plan_anew('staged', agentId => 'ada');
is(statuses($iteration), 'staged staged', 'staged: all steps wait');
is($iteration->{overallStatus}, 'awaiting-review', 'and so does the plan');
is_deeply(carried_out_by_known_client($iteration), [], 'the known client leaves them alone');

settings($node, 'mana_ai.step_status' => 'by-policy');
is(statuses(plan_anew('by-policy', agentId => 'ada')), 'planned staged', 'by-policy: what the agent may do by itself is planned');
is(statuses(plan_anew('nobody')), 'staged staged', 'and nothing without an agent');

my ($result, $out, $error) = $node->psql('mana_sync', q(SET mana_ai.step_status = 'approved'));
like($error, qr/invalid value for parameter "mana_ai.step_status"/, 'other statuses are none that a plan may begin with');

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;
$model->stop;
done_testing();
