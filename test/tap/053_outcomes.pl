# What became of plans: the version of the prompt, what devices made of the steps, and which of their words are shown.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('outcomes', preload => 1, model => $model, conf => "mana_ai.tick_enabled = off\nmana_ai.planner_model = 'test/plan'\nmana_ai.max_unreviewed = 0");
push_agent($node, 'ada', name => 'Ada');

# Plans a mission anew, with a call of each of these tools.
sub plan_anew
{
    my ($id, @calls) = @_;
    $model->reset;
    $model->control({ steps => [ { tool_calls => [ map { { name => $_->[0], arguments => $_->[1] } } @calls ] }, { content => 'Fertig.' } ] });
    run_mission($node, $id);
    return iterations_of($node, $id)->[-1];
}

# A device carries the newest plan out and writes the whole list back, as the known client does: a step that fails has
# the reason in its summary.
sub carry_out
{
    my ($id, @failures) = @_;
    my $iterations = iterations_of($node, $id);
    my $plan       = $iterations->[-1]{plan};
    for my $i (0 .. $#$plan)
    {
        my $failure = $failures[$i];
        $plan->[$i]{status}  = defined $failure ? 'failed' : 'approved';
        $plan->[$i]{summary} = "$plan->[$i]{summary} (FEHLER: $failure)" if defined $failure;
    }
    $iterations->[-1]{overallStatus} = 'approved';
    push_change($node, id => $id, data => { iterations => $iterations }, stamps => { iterations => iso(1) });
    return;
}

sub outcomes { return rows($node, "SELECT * FROM mana_ai.tool_outcomes WHERE tool = '$_[0]' ORDER BY prompt_version") }
sub counted { return value($node, "SELECT coalesce(sum(value), 0) FROM mana_ai.metrics WHERE name = 'mana_ai_tool_outcomes_total' AND labels @> '{\"tool\": \"$_[0]\", \"outcome\": \"$_[1]\"}'") }

push_mission($node, 'm1', agentId => 'ada', cadence => { kind => 'manual' });
my $iteration = plan_anew('m1', [ create_task => { title => 'Scheidung Müller' } ], [ create_task => { title => 'Milch' } ], [ complete_tasks_by_title => { titleMatch => 'Müller' } ],
    [ delete_quiz_question => { questionId => 'q-4711' } ]);
my $run = last_run($node, 'm1');
like($iteration->{promptVersion}, qr/^[0-9a-f]{12}$/, 'an iteration names the version of the prompt');
is($run->{prompt_version}, $iteration->{promptVersion}, 'and so does the run');
is(outcomes('create_task')->[0]{approved}, 0, 'before a device has the plan nothing is approved');

carry_out('m1', undef, undef, 'Kein offener Task mit "Scheidung Müller" gefunden', 'Frage q-4711 nicht gefunden');
my ($tasks) = @{ outcomes('create_task') };
is_deeply([ @$tasks{qw(agent_id model prompt_version steps approved failed last_messages)} ],
    [ 'ada', 'test/plan', $iteration->{promptVersion}, 2, 2, 0, [] ], 'steps that a device has carried out');
my ($by_title) = @{ outcomes('complete_tasks_by_title') };
is_deeply([ @$by_title{qw(steps approved failed)} ], [ 1, 0, 1 ], 'a step that failed');
is_deeply($by_title->{last_messages}, ['Kein offener Task mit … gefunden'], 'with the words of its message that are no text of the user\'s');
is_deeply(outcomes('delete_quiz_question')->[0]{last_messages}, ['Frage … nicht gefunden'], 'nor an id');
is($by_title->{last_failed}, $iteration->{finishedAt}, 'and when its plan was made');

# No text of a record gets out, whatever it holds.
my $hostile = [ { id => 'x', source => 'server', finishedAt => 'geheim', promptVersion => 'geheim', plan => [
    { status => 'failed', summary => 'S (FEHLER: Geheimnis 4711 anna@example.org)', intent => { toolName => 'geheim' } }, { status => 'approved', intent => 'geheim' }, 'geheim', undef ] },
    { source => 'server', plan => { a => 1 } }, 'geheim', { source => 'browser', plan => [ { status => 'approved', intent => { toolName => 'create_task' } } ] } ];
push_mission($node, 'hostile', nextRunAt => undef, iterations => $hostile);
my $all = value($node, 'SELECT json_agg(o)::text FROM mana_ai.tool_outcomes o');
unlike($all, qr/geheim|Geheimnis|4711|anna|Scheidung|Müller/i, 'no text of a user is in the view');
is_deeply([ @{ outcomes('unknown')->[0] }{qw(failed approved last_messages prompt_version last_failed)} ], [ 1, 1, ['…'], undef, undef ], 'what is not mana_ai\'s is counted as unknown');
is(outcomes('create_task')->[0]{steps}, 2, 'plans of browsers are not ours');

is(counted('create_task', 'approved'), 0, 'a plan is counted when the next one is written');
my $second = plan_anew('m1', [ create_task => { title => 'Brot' } ]);
is(counted('create_task', 'approved'), 2, 'its steps that were carried out');
is(counted('delete_quiz_question', 'failed'), 1, 'and those that failed');
is($second->{promptVersion}, $iteration->{promptVersion}, 'the same prompt has the same version');
value($node, "UPDATE mana_ai.tools SET enabled = false WHERE name = 'create_place'");
my $third = plan_anew('m1', [ create_task => { title => 'Käse' } ]);
isnt($third->{promptVersion}, $iteration->{promptVersion}, 'other tools make another version');
is(counted('create_task', 'open'), 1, 'what no device has touched counts as open');
is(counted('create_task', 'approved'), 2, 'and a plan counts once');
is(scalar @{ outcomes('create_task') }, 2, 'versions can be compared');

# What else clients may say of a step; the view counts it among all steps alone.
push_mission($node, 'm3', cadence => { kind => 'manual' });
plan_anew('m3', map { [ create_note => { content => $_ } ] } qw(eins zwei drei));
my $iterations = iterations_of($node, 'm3');
@{ $iterations->[-1]{plan} }[ 0 .. 2 ] = map { { %{ $iterations->[-1]{plan}[ $_->[0] ] }, status => $_->[1] } } [ 0, 'skipped' ], [ 1, 'rejected' ], [ 2, 'geheim' ];
push_change($node, id => 'm3', data => { iterations => $iterations }, stamps => { iterations => iso(1) });
is_deeply([ @{ outcomes('create_note')->[0] }{qw(steps approved failed)} ], [ 3, 0, 0 ], 'steps that were skipped or rejected are neither approved nor failed');
plan_anew('m3', [ create_note => { content => 'vier' } ]);
is(join(' ', map { counted('create_note', $_) } qw(skipped rejected open approved failed)), '1 1 1 0 0', 'the metric has skipped and rejected, and no word of a record as a label');

value($node, 'CREATE ROLE watcher; GRANT USAGE ON SCHEMA mana_ai TO watcher; GRANT SELECT ON mana_ai.tool_outcomes TO watcher; GRANT EXECUTE ON FUNCTION mana_ai.count_tool_outcomes(timestamptz) TO watcher');
is(value($node, 'SET ROLE watcher; SELECT count(*) > 0 FROM mana_ai.tool_outcomes'), 't', 'who is let look needs no right on records');

# Older plans are not even read.
sub steps_since { return value($node, "SELECT coalesce(sum(steps), 0) FROM mana_ai.count_tool_outcomes($_[0])") }
my $steps = steps_since('NULL');
is(steps_since(q(now() - interval '1 hour')), $steps, 'all plans are of the last hour');
value($node, "UPDATE mana_ai.mission_snapshots SET updated_at = now() - interval '31 days' WHERE mission_id = 'm1'");
is(scalar @{ outcomes('create_task') }, 0, 'the view has the last 30 days');
is(steps_since('NULL'), $steps, 'the function what records hold');
value($node, "UPDATE mana_ai.mission_snapshots SET updated_at = now() WHERE mission_id = 'm1'");
push_mission($node, 'm2', nextRunAt => undef, iterations => [ map { { id => $_, source => 'server', finishedAt => $_, plan => [ { status => 'approved', intent => { toolName => 'create_habit' } } ] } } iso(-31 * 86400), iso(-29 * 86400) ]);
is_deeply([ map { $_->{steps} } @{ outcomes('create_habit') } ], [1], 'of a mission that has changed, plans of that time alone');

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;
$model->stop;
done_testing();
