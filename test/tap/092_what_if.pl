# What another model would have planned: a past run's first request goes to it, and nothing but its cost is written.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Find;
use ManaAi;
use ManaAi::Device;
use JSON::PP;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $model = start_model();
my $node  = new_cluster('what_if', preload => 1, model => $model, conf => <<'END');
mana_ai.tick_enabled = off
mana_ai.max_unreviewed = 0
mana_ai.planner_model = 'test/large'
mana_ai.database = 'mana_sync'
restart_after_crash = on
END
my $key = ManaAi::Device::new_key($node, 'server');
settings($node, 'mana_ai.grant_private_key_file' => $key);

store_plainly($node);

sub task { return { name => 'create_task', arguments => { title => $_[0] } } }
my $answering = 'test/large';
sub script { my ($content, @calls) = @_; $model->control({ steps => [ { content => 'Mache ich.', tool_calls => \@calls, model => $answering }, { content => $content, model => $answering } ], repeat => 'all', per_mission => JSON::PP::true }); return }
sub planned
{
    my ($id, %fields) = @_;
    push_mission($node, $id, cadence => { kind => 'manual' }, %fields);
    is(run_mission($node, $id)->{outcome}, 'planned', "$id is planned");
    return value($node, "SELECT run_id FROM mana_ai.runs WHERE mission_id = '$id'");
}
sub what_if { my ($run, $model_sql) = @_; return rows($node, "SELECT * FROM mana_ai.what_if('$run'" . ($model_sql // '') . ')')->[0] }
sub tools_of { return join ' ', map { "$_->{tool}:" . ($_->{params}{title} // '') } @{ $_[0] } }

# What is a user's: nothing of it may change.
sub state_of_user { return value($node, <<'END') }
SELECT md5(string_agg(x, ' ' ORDER BY x)) FROM (
  SELECT t::text AS x FROM public.sync_changes t
  UNION ALL SELECT t::text FROM mana_ai.mission_snapshots t
  UNION ALL SELECT t::text FROM mana_ai.mission_schedule t
  UNION ALL SELECT t::text FROM mana_ai.runs t
  UNION ALL SELECT t::text FROM mana_ai.run_requests t
  UNION ALL SELECT t::text FROM mana_ai.token_usage t WHERE purpose = 'plan') s
END

push_agent($node, 'bob', name => 'Bob', systemPrompt => 'Sei lang.', maxTokensPerDay => 1_000_000);
my $marker = 'Vorhabenmarke-5120';
script('Fertig.', task('Belege'), task('Steuerberater anrufen'));
my $run    = planned('plain', agentId => 'bob', objective => $marker);
my $before = state_of_user();
my $first_request = ($model->bodies)[0];

# ---------------------------------------------------------------- the same plan, and another one

$node->safe_psql('mana_sync', "INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million) VALUES ('test/small', 'EUR', 1, 2), ('test/large', 'EUR', 10, 20)");
my $sent = () = $model->bodies;
$answering = 'test/small';
script('Fertig.', task(' Belege '), task('Steuerberater  anrufen'));
my $same = what_if($run, ", 'test/small'");
is($same->{status}, 'planned', 'another model plans');
is($same->{reason}, undef, 'without a reason why not');
is(tools_of($same->{planned_steps}), 'create_task:Belege create_task:Steuerberater anrufen', 'what was planned');
is_deeply($same->{difference}, { same => $same->{planned_steps}, added => [], missing => [], same_tool => 0 }, 'is the same but for blanks');
is_deeply($same->{accepted_steps}, [], 'nothing was approved yet');
is($same->{rounds}, 2, 'in two rounds');
is($same->{model}, 'test/small', 'by that model');
my @asked = map { JSON::PP->new->decode($_) } ($model->bodies)[ $sent .. $sent + 1 ];
my $then = JSON::PP->new->decode($first_request);
is_deeply([ @{ $asked[0] }{qw(messages tools)} ], [ @{$then}{qw(messages tools)} ], 'it was asked the same');
is($asked[0]{model}, 'test/small', 'under its name');
is(scalar @{ $asked[1]{messages} }, 5, 'and its calls were answered');
is(state_of_user(), $before, 'nothing of the user has changed');

is_deeply(rows($node, "SELECT user_id, agent_id, mission_id, run_id, model, tokens_used > 0 AS used, currency FROM mana_ai.token_usage WHERE purpose = 'what_if' ORDER BY ts"),
    [ map { { user_id => 'user-1', agent_id => undef, mission_id => 'plain', run_id => $run, model => 'test/small', used => JSON::PP::true, currency => 'EUR' } } 1 .. 2 ], 'each reply is charged, under a purpose of its own');
is($same->{cost} + 0, value($node, "SELECT sum(cost) FROM mana_ai.token_usage WHERE purpose = 'what_if'") + 0, 'the cost is theirs');
is("$same->{currency} $same->{tokens}", value($node, "SELECT 'EUR ' || sum(tokens_used) FROM mana_ai.token_usage WHERE purpose = 'what_if'"), 'and so are currency and tokens');
is(value($node, "SELECT count(*) FROM mana_ai.what_if_running"), 0, 'nothing is reserved any more');
is(value($node, "SELECT sum(tokens) FROM mana_ai.user_costs"), value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE purpose = 'plan'"), 'it is not among what the user has cost');
is(value($node, "SELECT string_agg(purpose || ' ' || model, ', ' ORDER BY purpose) FROM mana_ai.daily_costs"), 'plan test/large, what_if test/small', 'but among what models have cost');
like(value($node, 'SELECT mana_ai.metrics()'), qr/^mana_ai_tokens_used_total\{[^}]*agent_id="what-if"[^}]*\} [1-9]/m, 'and metrics know it');

# A device carries out one step.
my $iterations = iterations_of($node, 'plain');
$iterations->[0]{plan}[0]{status} = 'approved';
$iterations->[0]{plan}[1]{status} = 'rejected';
push_change($node, id => 'plain', data => { iterations => $iterations }, stamps => { iterations => iso(1) });
$before = state_of_user();
script('Fertig.', task('Belege'), task('Anderes'), { name => 'create_note', arguments => { content => 'Neu' } });
my $other = what_if($run, ", 'test/small'");
is(tools_of($other->{accepted_steps}), 'create_task:Belege', 'what the device has approved');
is(tools_of($other->{difference}{same}), 'create_task:Belege', 'is in the other plan too');
is(tools_of($other->{difference}{missing}), 'create_task:Steuerberater anrufen', 'what is missing');
is(tools_of($other->{difference}{added}), 'create_task:Anderes create_note:', 'and what came in addition');
is($other->{difference}{same_tool}, 1, 'one of them is of the same tool');

# Of a mission: its latest run; and without a name, the run's model.
is(rows($node, "SELECT * FROM mana_ai.what_if('user-1', 'plain', NULL)")->[0]{run_id}, $run, 'the latest run of a mission is asked about');
is(JSON::PP->new->decode(($model->bodies)[-1])->{model}, 'test/large', 'of its own model');
is_deeply([ @{ rows($node, "SELECT * FROM mana_ai.what_if('user-1', 'nothing', 'm')")->[0] }{qw(status model cost)} ], [ 'lost', undef, undef ], 'a mission without runs');
is(state_of_user(), $before, 'nothing of the user has changed');

# ---------------------------------------------------------------- what cannot be rebuilt costs nothing

script('Fertig.', task('Belege'));
my $device = ManaAi::Device->new($key, 'secret', [ 'notes:s1' ], expires => 3600);
push_change($node, app => 'notes', table => 'notes', id => 's1', op => 'insert', data => { id => 's1', title => $device->seal('Geheim'), content => $device->seal('Noch geheimer') });
my $secret = planned('secret', grant => $device->grant, inputs => [ { module => 'notes', table => 'notes', id => 's1' } ]);
$node->safe_psql('mana_sync', "CREATE FUNCTION public.weather(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql AS \$\$ SELECT '{\"title\": \"Wetter\", \"content\": \"Regen\"}'::jsonb \$\$; SELECT mana_ai.register_resolver('weather', 'public.weather(text, jsonb)')");
my $resolved  = planned('resolved', inputs => [ { module => 'weather', table => 'days', id => 'd1' } ]);
my $shortened = planned('shortened');
$node->safe_psql('mana_sync', "DELETE FROM public.sync_changes WHERE record_id = 'shortened' AND op = 'insert'");
my $requests = () = $model->bodies;
is_deeply([ @{ what_if($secret) }{qw(status reason steps cost)} ], [ 'encrypted', 'record "s1" of notes was opened under a grant', undef, undef ], 'what was encrypted');
is(what_if($resolved)->{status}, 'withheld', 'what a resolver has said');
is(what_if($shortened)->{status}, 'lost', 'what is lost');
is(what_if('00000000-0000-0000-0000-000000000001')->{status}, 'lost', 'and a run that never was');
$node->safe_psql('mana_sync', "UPDATE mana_ai.tools SET enabled = false WHERE name = 'create_note'");
is(what_if($run)->{status}, 'changed', 'or tools that have changed');
$node->safe_psql('mana_sync', "UPDATE mana_ai.tools SET enabled = true WHERE name = 'create_note'");
is(scalar(() = $model->bodies), $requests, 'none of them is sent');

# ---------------------------------------------------------------- errors, budgets, the brake

$model->control({ steps => [ { status => 400, body => '{"error": {"message": "Nein danke"}}' } ], repeat => 'last' });
my $refused = what_if($run, ", 'test/small'");
is_deeply([ @{$refused}{qw(status rounds tokens cost difference)} ], [ 'unknown', 0, 0, undef, undef ], 'an error of the model is its status');
like($refused->{reason}, qr/Nein danke/, 'with its words');
script('Fertig.', task('Belege'));
my $used = value($node, 'SELECT sum(tokens_used) FROM mana_ai.token_usage');
settings($node, 'mana_ai.total_tokens_per_day' => $used);
is_deeply([ @{ what_if($run) }{qw(status reason tokens)} ], [ 'budget', 'the total budget has no room for the call', 0 ], 'the budget of all together holds');
$model->control({ steps => [ { reply => { choices => [ { index => 0, finish_reason => 'length', message => { role => 'assistant', content => 'Ich wo' } } ], usage => { prompt_tokens => 100, completion_tokens => 300, total_tokens => 400 } } } ], repeat => 'last' });
settings($node, 'mana_ai.total_tokens_per_day' => $used + 25_000);
is_deeply([ @{ what_if($run) }{qw(status reason tokens)} ], [ 'budget', 'the reply was cut off where the total budget ends', 400 ], 'also when it shortens a reply');
script('Fertig.', task('Belege'));
settings($node, 'mana_ai.total_tokens_per_day' => undef);
$node->safe_psql('mana_sync', "INSERT INTO mana_ai.cost_budgets (cost_per_day, currency) VALUES (0, 'EUR')");
is(what_if($run)->{status}, 'budget', 'in money as well');
$node->safe_psql('mana_sync', 'DELETE FROM mana_ai.cost_budgets');
# The last answer tells at which price tokens are counted; that of a question is not one of a run.
my $tokens_left = q(SELECT tokens_left FROM mana_ai.cost_budgets_of('user-1', '') WHERE scope = 'user');
$node->safe_psql('mana_sync', "INSERT INTO mana_ai.cost_budgets (user_id, cost_per_day, currency) VALUES ('user-1', 1, 'EUR')");
my $left = value($node, $tokens_left);
$answering = 'test/large';
script('Fertig.', task('Belege'));
is(what_if($run, ", 'test/large'")->{status}, 'planned', 'a dear model is asked');
is(value($node, $tokens_left), $left, 'what is left for a user is what it was');
$node->safe_psql('mana_sync', 'DELETE FROM mana_ai.cost_budgets');
settings($node, 'mana_ai.user_tokens_per_day' => 1);
is(what_if($run)->{status}, 'planned', 'a user has nothing to do with it');
settings($node, 'mana_ai.user_tokens_per_day' => undef);
is(value($node, "SELECT used FROM mana_ai.budgets_of_mission('user-1', 'plain') WHERE scope = 'user'"), value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE purpose = 'plan'"), 'and is not charged');
for my $scope ('all', 'user:user-1', 'agent:bob', 'model:test/small')
{
    $node->safe_psql('mana_sync', "SET client_min_messages = error; SELECT mana_ai.stop('$scope', 'test')");
    is(what_if($run, ", 'test/small'")->{status}, 'stopped', "what is stopped ($scope) is not asked");
    $node->safe_psql('mana_sync', "SELECT mana_ai.resume('$scope')");
}

# A refusal with a time is waited for, as in a run.
$model->control({ steps => [ { status => 429, retry_after => '1' }, { content => 'Ja.', tool_calls => [ task('Belege') ], model => 'test/small' }, { content => 'Fertig.', model => 'test/small' } ], repeat => 'last' });
is_deeply([ @{ what_if($run, ", 'test/small'") }{qw(status rounds)} ], [ 'planned', 2 ], 'a refusal is not the end');

# In the middle of a call.
$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
my $hanging = sub { return background($node, "SELECT status FROM mana_ai.what_if('$run', 'test/small')") };
my $call    = $hanging->();
wait_for($node, 'a call is in progress', 20, 'SELECT count(*) FROM mana_ai.what_if_running WHERE reserved_tokens > 0', 1);
is(value($node, "SELECT reserved FROM mana_ai.budgets_of_mission('user-1', 'plain') WHERE scope = 'agent'"), 0, 'it reserves nothing of the agent');
$node->safe_psql('mana_sync', "SET client_min_messages = error; SELECT mana_ai.stop('all', 'test')");
is(($call->finish(20))[1], "stopped\n", 'the brake ends it');
$node->safe_psql('mana_sync', "SELECT mana_ai.resume('all')");
is(value($node, 'SELECT count(*) FROM mana_ai.what_if_running'), 0, 'and nothing is reserved');

$call = $hanging->();
wait_for($node, 'another call is in progress', 20, 'SELECT count(*) FROM mana_ai.what_if_running WHERE reserved_tokens > 0', 1);
is(value($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai what_if'"), 1, 'by a process of its own');
$node->safe_psql('mana_sync', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%what_if(%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'");
like(($call->finish(20))[2], qr/ERROR:  57014: canceling statement due to user request/, 'a cancel ends it');
wait_for($node, 'and its process', 20, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai what_if'", 0);
is(value($node, 'SELECT count(*) FROM mana_ai.what_if_running'), 0, 'which leaves nothing');

$call = $hanging->();
wait_for($node, 'a third call is in progress', 20, 'SELECT count(*) FROM mana_ai.what_if_running WHERE reserved_tokens > 0', 1);
$node->safe_psql('mana_sync', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%what_if(%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'");
$call->finish(20);
wait_for($node, 'a caller that is terminated takes it along', 20, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_ai what_if'", 0);

# A crash leaves a reservation, which housekeeping finds.
$call = $hanging->();
wait_for($node, 'a fourth call is in progress', 20, 'SELECT count(*) FROM mana_ai.what_if_running WHERE reserved_tokens > 0', 1);
kill 'KILL', value($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'mana_ai what_if'");
$call->finish(30);
wait_until('the server is there again', 60, sub { accepts_sessions($node) });
script('Fertig.', task('Belege'));
run_tick($node);
is(value($node, 'SELECT count(*) FROM mana_ai.what_if_running'), 0, 'what a dead process had reserved is free');

# The user is erased during a call: their ids do not come back.
my $gone = do { script('Fertig.', task('Belege')); push_mission($node, 'theirs', user => 'user-9', cadence => { kind => 'manual' }); run_mission($node, 'theirs', 'user-9'); value($node, "SELECT run_id FROM mana_ai.runs WHERE mission_id = 'theirs'") };
$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
$call = background($node, "SELECT status FROM mana_ai.what_if('$gone', 'test/small')");
wait_for($node, 'a call for a user is in progress', 20, "SELECT count(*) FROM mana_ai.what_if_running WHERE user_id = 'user-9' AND reserved_tokens > 0", 1);
$node->safe_psql('mana_sync', "SELECT * FROM mana_ai.erase_user('user-9')");
is(($call->finish(20))[1], "stopped\n", 'an erasure ends it');
run_tick($node);
is(value($node, "SELECT count(*) FROM mana_ai.export_user('user-9')"), 0, 'and nothing of the user is left');

# ---------------------------------------------------------------- who may

fails_like($node, "SELECT mana_ai.what_if('$run')", qr/permission denied for schema mana_ai/, 'nobody may ask', user => 'nobody_special');
$node->safe_psql('mana_sync', <<'END');
GRANT USAGE ON SCHEMA mana_ai TO mana_sync_service;
GRANT EXECUTE ON FUNCTION mana_ai.what_if(uuid, text) TO mana_sync_service;
GRANT SELECT ON mana_ai.tools, mana_ai.stops, mana_ai.run_reads, mana_ai.run_requests TO mana_sync_service;
END
script('Fertig.', task('Belege'));
my $as = sub { return $node->safe_psql('mana_sync', "SELECT set_config('app.current_user_id', '$_[0]', false) \\g /dev/null\nSELECT status, jsonb_array_length(planned_steps) FROM mana_ai.what_if('$run', 'test/small')", extra_params => [ '-U', 'mana_sync_service' ]) };
is($as->('user-1'), 'planned|2', 'who may read the rows of the user may ask');
is($as->('user-2'), 'lost|', 'others get nothing');
is(value($node, "SELECT count(*) FROM mana_ai.token_usage WHERE user_id = 'user-2'"), 0, 'at no cost');

# ---------------------------------------------------------------- no text of it is kept

my $answer = 'Antwortmarke-8231';
my $note   = 'Schrittmarke-9917';
script($answer, task($note));
is(tools_of(what_if($run, ", 'test/small'")->{steps}), "create_task:$note", 'a plan arrives');
$node->safe_psql('mana_sync', 'CHECKPOINT; VACUUM');
$node->stop;
my (%found, %seen);
find({ no_chdir => 1, wanted => sub {
    return unless -f $_;
    my $content = slurp_file($_);
    $seen{$marker} = 1 if index($content, $marker) >= 0;
    for my $text ($answer, $note, '<user_data>', 'Du planst die nächsten Schritte einer Mission', '"messages":', 'Nein danke')
    {
        $found{"$text in $_"} = 1 if index($content, ManaAi::encoded($text)) >= 0;
    }
} }, $node->data_dir, $node->logfile);
is_deeply(\%seen, { $marker => 1 }, 'what a mission itself says was found in the files');
is(join("\n", sort keys %found), '', 'neither prompts nor replies are in any of them');

done_testing();
