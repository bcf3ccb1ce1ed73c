# Records that cannot be planned cost nothing: clocks far ahead, unreadable values. And replies with impossible
# numbers.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $node  = new_cluster('unplannable', preload => 0, model => $model);

sub run_of { return value($node, "SELECT outcome FROM mana_ai.run_mission('user-1', '$_[0]')") }
sub problem_of { return value($node, "SELECT string_agg(problem, '; ') FROM mana_ai.mission_problems WHERE mission_id = '$_[0]'") }

# ---------------------------------------------------------------- clocks

for my $case ([ 'year 9999', '9999-12-31T23:59:59.999999Z' ], [ 'in a month', iso(30 * 86400) ])
{
    my ($what, $stamp) = @$case;
    (my $id = $what) =~ s/ /-/g;
    push_mission($node, $id);
    push_change($node, id => $id, data => { title => 'T2', updatedAt => iso(0) }, stamps => { title => iso(0), updatedAt => $stamp });
    is(run_of($id), 'skipped-clock-ahead', "$what: not planned");
    is(problem_of($id), 'clock of the record is too far ahead', "$what: a problem");
    like(why_of($node, $id), qr/^clock of the record is more than two days ahead: /, "$what: why()");
    is(value($node, "SELECT decision FROM mana_ai.explain('user-1', '$id')"), 'skipped-clock-ahead', "$what: explain()");
}
is($model->count, 0, 'nothing was paid for');

push_mission($node, 'zone');
push_change($node, id => 'zone', data => { iterations => [] }, stamps => { iterations => iso(26 * 3600) });
is(run_of('zone'), 'planned', 'a clock in a wrong time zone is no reason');
is(scalar @{ iterations_of($node, 'zone') }, 1, 'and the plan wins over it');
push_mission($node, 'other-field');
push_change($node, id => 'other-field', data => { title => 'T2' }, stamps => { title => iso(30 * 86400) });
is(run_of('other-field'), 'planned', 'nor is a clock of a field that no plan writes');

# ---------------------------------------------------------------- values that cannot be read

my $asks = $model->count;
push_mission($node, 'deep');
$node->safe_psql('mana_sync', <<'END');
INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', 'deep', 'user-1', 'update', 'test',
        jsonb_build_object('grant', jsonb_build_object('x', (repeat('[', 500) || repeat(']', 500))::jsonb)));
END
is(run_of('deep'), 'skipped-unreadable', 'a grant nested too deep: not planned');
is(problem_of('deep'), 'record of the mission or its agent cannot be read', 'a problem');
like(why_of($node, 'deep'), qr/^record of the mission or its agent cannot be read: /, 'why()');
is($model->count, $asks, 'nothing was paid for');

# Fields that planning does not read may have any value.
push_mission($node, 'odd');
$node->safe_psql('mana_sync', <<'END');
INSERT INTO sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', 'odd', 'user-1', 'update', 'test',
        jsonb_build_object('x', (repeat('[', 3000) || repeat(']', 3000))::jsonb, 'y', ('1' || repeat('0', 100000))::jsonb));
END
is(run_of('odd'), 'planned', 'values that planning does not read are no obstacle');

# ---------------------------------------------------------------- replies

push_agent($node, 'capped', maxTokensPerDay => 1_000_000, maxConcurrentMissions => 5);
push_mission($node, 'absurd', agentId => 'capped');
$model->control({ steps => [ { content => 'fertig', usage => { prompt_tokens => 9223372036854775807, total_tokens => 9223372036854775807 } } ], repeat => 'last' });
is(run_of('absurd'), 'planned', 'a reply with an absurd usage');
my $tokens = value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE mission_id = 'absurd'");
cmp_ok($tokens, '>', 100, 'is charged by its size');
cmp_ok($tokens, '<', 100_000, 'and does not use up the budget');

push_mission($node, 'surrogate');
$model->reset;
$model->control({ steps => [ { body => '{"choices":[{"message":{"content":"a\\\\ud83d b \\ud83d \\ude00\\ud83d\\ude00"}}],"usage":{"total_tokens":7}}' } ], repeat => 'last' });
is(run_of('surrogate'), 'planned', 'a reply with half a character');
is($model->count, 1, 'is taken at once');
is(iterations_of($node, 'surrogate')->[0]{summary}, "a\\ud83d b \x{fffd} \x{fffd}\x{1f600}", 'with a mark in its place');
is(value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE mission_id = 'surrogate'"), 7, 'and charged');

done_testing();
