# What may happen while a mission reads: a reload that takes the key away, a budget that another mission
# spends meanwhile. And a service key that is part of the text that takes its place.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use ManaAi::Device;
use Test::More;
use Time::HiRes qw(sleep);

my $model    = start_model();
my $research = start_research();
my $node     = new_cluster('readings', preload => 1, model => $model,
    conf => "mana_ai.api_url = '" . $research->url . "'\nmana_ai.resolver_timeout = '3s'\nmana_ai.tick_interval = '1s'\nrestart_after_crash = on\n");
my $key = ManaAi::Device::new_key($node, 'server');
settings($node, 'mana_ai.grant_private_key_file' => $key);
my $pid = wait_for_worker($node);

# ---------------------------------------------------------------- the key goes while records are read

$node->safe_psql('mana_sync', <<'END');
CREATE FUNCTION public.pause(user_id text, ref jsonb) RETURNS jsonb LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_sleep(1.5); RETURN '{"content": "Pause"}'; END $$;
SELECT mana_ai.register_resolver('pause', 'public.pause(text, jsonb)');
END
my $device = ManaAi::Device->new($key, 'm1', ['notes:n1']);
push_change($node, app => 'notes', table => 'notes', id => 'n1', op => 'insert',
    data => { id => 'n1', content => $device->seal('Geheim-77'), updatedAt => iso(-200) });
push_mission($node, 'm1', grant => $device->grant,
    inputs => [ { module => 'notes', table => 'notes', id => 'n1' }, { module => 'pause', table => 't', id => 'x' } ]);
wait_for($node, 'the mission reads', 10, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'm1' AND outcome = 'running'", 1);
unlink $key;
$node->reload;
wait_for_iterations($node, 'm1', 1, 20);
is(worker_pid($node), $pid, 'the worker has survived that its key file went away');
my ($request) = reverse $model->requests;
like(join("\n", map { $_->{content} // '' } @{ $request->{body}{messages} }), qr/Geheim-77/, 'the run had the key for as long as it needed it');
wait_for($node, 'status() says that it is gone', 10, "SELECT grant_key LIKE 'the file%' FROM mana_ai.status()", 't');

# ---------------------------------------------------------------- a budget that is spent while another mission reads

$model->reset;
$model->control({ steps => [ { content => 'Viel', usage => { prompt_tokens => 89_900, completion_tokens => 100, total_tokens => 90_000 } } ], repeat => 'last' });
$research->control({ discover => { repeat => 'last', steps => [ { latency_ms => 2000 } ] } });
# Room for the reservations of both.
push_agent($node, 'a1', maxTokensPerDay => 90_000, maxConcurrentMissions => 2);
push_mission($node, 'slow', agentId => 'a1', objective => 'Suche etwas');
wait_until('one mission waits for the news', 10, sub { $research->stats->{in_flight} == 1 });
push_mission($node, 'quick', agentId => 'a1');
wait_for_iterations($node, 'quick', 1, 10);
cmp_ok(value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE agent_id = 'a1'"), '>=', 90_000, 'the other one has spent the budget');
my $calls = $model->count;
wait_for($node, 'the first one ends', 20, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'slow' AND outcome <> 'running'", 'skipped');
is($model->count, $calls, 'without a call');
is(last_run($node, 'slow')->{decision}, 'skipped-budget', 'and says why');
is(scalar @{ iterations_of($node, 'slow') }, 0, 'an empty plan is no iteration');
is(value($node, "SELECT sum(value) FROM mana_ai.metrics WHERE name = 'mana_ai_agent_decisions_total' AND labels ->> 'decision' = 'ran'"),
    value($node, "SELECT count(*) FROM mana_ai.runs WHERE agent_id IS NOT NULL AND decision = 'ran'"), 'metrics count the decisions of the runs');

# ---------------------------------------------------------------- a short service key

settings($node, 'mana_ai.service_key_file' => key_file('key'));
$model->reset;
$model->control({ steps => [ { status => 401, error => 'bad key, no such key' } ], repeat => 'last' });
push_mission($node, 'm3');
wait_for($node, 'a refused key is an error of the service', 10,
    "SELECT DISTINCT decision || ' ' || error_kind FROM mana_ai.runs WHERE mission_id = 'm3' AND outcome <> 'running'", 'skipped-service auth');
is(value($node, "SELECT DISTINCT error_message FROM mana_ai.runs WHERE mission_id = 'm3' AND outcome <> 'running'"),
    'HTTP 401: bad [key], no such [key]', 'whose text does not have the key');

$node->stop;
$model->stop;
done_testing();
