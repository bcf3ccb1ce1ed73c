# Tiers of a model service, and what requests do for the caches of providers.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('tier', preload => 1, model => $model, conf => <<'END');
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '1s'
mana_ai.planner_model = 'test/plan'
mana_ai.service_tier = 'flex'
END
wait_for_worker($node);

my $done = { content => 'Fertig' };
my $call = { tool_calls => [ { name => 'create_task', arguments => { title => 'Eins' } } ] };
sub does { my ($text, @steps) = @_; $model->control({ match => $text, steps => \@steps, repeat => 'last' }); return }
sub asked { return map { $_->{body}{service_tier} // 'standard' } $model->requests }
sub push_one { my ($id, %fields) = @_; push_mission($node, $id, cadence => { kind => 'manual' }, %fields); return }
sub is_planned { my ($id) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "$id is planned", 40, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'", 1) }
sub tier_in_ledger { my ($id) = @_; return value($node, "SELECT string_agg(DISTINCT service_tier, ',') FROM mana_ai.token_usage WHERE mission_id = '$id'") }

# ---------------------------------------------------------------- tiers

does('"model":"test/plan"', { %$call, service_tier => 'flex' }, { %$done, service_tier => 'flex' });
push_one('tier');
is_planned('tier');
is_deeply([ asked() ], [qw(flex flex)], 'the tier is asked for');
is(tier_in_ledger('tier'), 'flex', 'and the one that answered is in the ledger');

# As services document it; and one that never answers.
open my $file, '<', "$ENV{MANA_AI_TEST_DATA}/service_tiers.jsonl" or die $!;
my @answers = map { JSON::PP->new->utf8->decode($_) } <$file>;
cmp_ok(scalar @answers, '>', 10, 'there are answers');
my $number = 0;
for my $case ((grep { $_->{refused} } @answers), { case => 'slow', tier => 'flex' })
{
    my ($who, $id) = ($case->{case}, 'refused-' . ++$number);
    settings($node, 'mana_ai.llm_timeout' => '2s') if $who eq 'slow';
    $model->reset;
    does('"service_tier":"flex"', $who eq 'slow' ? { hang => \1 } : { status => $case->{status}, body => JSON::PP->new->encode($case->{body}) });
    does('"model":"test/plan"', $call, $done);
    push_one($id);
    is_planned($id);
    is_deeply([ asked() ], [qw(flex standard standard)], "$who: without room at the tier the run goes on at the standard one");
    is(tier_in_ledger($id), '', 'which is what the ledger says');
    # The worker reports its gates every now and then.
    wait_for($node, "$who: and the gate has learned nothing from it", 10,
        q{SELECT state || ' ' || refused || ' ' || failed FROM mana_ai.services() WHERE name = 'test/plan'}, 'open 0 0');
}
settings($node, 'mana_ai.llm_timeout' => undef);
for my $case (grep { defined $_->{served} } @answers)
{
    my $id = 'served-' . ++$number;
    settings($node, 'mana_ai.service_tier' => $case->{tier});
    $model->reset;
    does('"model":"test/plan"', { content => 'Fertig', headers => $case->{headers} // {}, model => $case->{body}{model},
        defined $case->{body}{service_tier} ? (service_tier => $case->{body}{service_tier}) : () });
    push_one($id);
    is_planned($id);
    is_deeply([ asked() ], [ $case->{tier} ], "$case->{case}: the tier is asked for");
    is(value($node, "SELECT model || ' ' || service_tier FROM mana_ai.token_usage WHERE mission_id = '$id'"), "$case->{model} $case->{served}", 'and the ledger has who has answered');
}
settings($node, 'mana_ai.service_tier' => 'flex');

# What is refused at the standard tier too is refused.
$model->reset;
does('"model":"test/plan"', { status => 400, reply => { error => { message => 'service_tier and everything else is wrong' } } });
push_one('refused');
wait_for($node, 'a refusal of the standard tier is one', 40, q{SELECT outcome FROM mana_ai.runs WHERE mission_id = 'refused'}, 'failed');
is_deeply([ asked() ], [qw(flex standard)], 'it falls back once');

# Single agents have others, by an operator's word.
push_agent($node, $_) for qw(std prio plain);
value($node, q{INSERT INTO mana_ai.agent_options (user_id, agent_id, service_tier) VALUES ('user-1', 'std', ''), ('user-1', 'prio', 'priority'), ('user-2', 'plain', 'priority')});
$model->reset;
does('"model":"test/plan"', $done);
for my $case ([ std => 'standard' ], [ prio => 'priority' ], [ plain => 'flex' ])
{
    push_one("of-$case->[0]", agentId => $case->[0]);
    is_planned("of-$case->[0]");
    is((asked())[-1], $case->[1], "agent $case->[0] asks for its own tier");
}
settings($node, 'mana_ai.service_tier' => '');
push_one('standard', agentId => 'plain');
is_planned('standard');
is((asked())[-1], 'standard', 'without a setting none is asked for');

# ---------------------------------------------------------------- what providers cache

# The system prompt, and the tools, as bytes.
sub system_part { my ($body) = @_; my ($part) = $body =~ /"messages":\[(\{"role":"system","content":"(?:[^"\\]|\\.)*"\})/; return $part }
sub tools_part { my ($body) = @_; my ($part) = $body =~ /"tools":(\[.*\]),"tool_choice"/s; return $part }
settings($node, 'mana_ai.prompt_cache_key' => 'on');
$model->reset;
does('"model":"test/plan"', $call, $call, $done);
push_one('cached-1', agentId => 'plain', title => 'Brot backen');
is_planned('cached-1');
my @rounds = $model->bodies;
is(scalar @rounds, 3, 'a run of three rounds');
for my $round (1, 2)
{
    # Up to the last message of the request before, which may have carried a reminder.
    my $last  = rindex($rounds[ $round - 1 ], ',{"role":');
    my $known = substr($rounds[ $round - 1 ], 0, $last);
    cmp_ok(length $known, '>', 500, 'what a request has in common with the one before is long');
    is(substr($rounds[$round], 0, $last), $known, "round @{[ $round + 1 ]} begins with the same bytes");
    is(tools_part($rounds[$round]), tools_part($rounds[0]), 'and has the same tools');
}
$model->reset;
does('"model":"test/plan"', $done);
push_one('cached-2', agentId => 'plain', title => 'Etwas ganz anderes', objective => 'Ein anderes Ziel');
is_planned('cached-2');
push_one('other', agentId => 'std');
is_planned('other');
push_one('loose');
is_planned('loose');
push_one('strange', user => 'user-3');
is_planned('strange');
my @runs = $model->bodies;
cmp_ok(length system_part($runs[0]), '>', 200, 'the system prompt is the first message');
is(system_part($runs[0]), system_part($rounds[0]), 'and the same in all runs of an agent, to the byte');
is(tools_part($runs[0]), tools_part($rounds[0]), 'as are the tools');
my @keys = map { JSON::PP->new->utf8->decode($_)->{prompt_cache_key} } $rounds[0], @runs;
is($keys[0], $keys[1], 'runs of one agent share their key');
is(scalar keys %{ { map { $_ => 1 } @keys } }, 4, 'other agents and other users have others');
unlike($_, qr/user-|plain|std/, 'which tells of nobody') for @keys;
settings($node, 'mana_ai.prompt_cache_key' => undef);
push_one('keyless');
is_planned('keyless');
ok(!exists((($model->requests)[-1])->{body}{prompt_cache_key}), 'no key is sent by default');

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;
$model->stop;
done_testing();
