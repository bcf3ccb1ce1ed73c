# Budgets of agents, missions, users and all together, while many calls are in flight.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP ();
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('budgets', preload => 1, model => $model, conf => <<'END');
restart_after_crash = on
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '1s'
mana_ai.llm_max_tokens = 1000
END
wait_for_worker($node);

sub used { my ($where) = @_; return value($node, "SELECT coalesce(sum(tokens_used), 0) FROM mana_ai.token_usage WHERE $where") }
sub stops { my ($scope) = @_; return value($node, "SELECT coalesce(sum(value), 0) FROM mana_ai.metrics WHERE name = 'mana_ai_budget_stops_total' AND labels ->> 'scope' = '$scope'") }
sub answers { my ($tokens, %more) = @_; $model->reset; $model->control({ steps => [ { content => 'Fertig', usage => { prompt_tokens => $tokens - 500, completion_tokens => 500, total_tokens => $tokens }, %more } ], repeat => 'last' }); return }
sub is_held { my ($id, $decision, $user) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "$id: $decision", 30, "SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = '$id' AND lease_owner IS NULL AND user_id = '" . ($user // USER_ID) . "'", $decision) }
sub is_planned { my ($id) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, "$id is planned", 40, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = '$id' AND outcome = 'planned'", 1) }

# Between two checks the mission is due.
sub why_is { my ($mission, $words) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $why; my $ok = wait_until('why()', 20, sub { $why = why_of($node, @$mission); return $why eq $words });
    diag("$why, not $words") unless $ok; return $ok }

# ---------------------------------------------------------------- what a call reserves

answers(2000, latency_ms => 2000);
push_agent($node, 'probe', maxTokensPerDay => 10_000_000);
push_mission($node, 'probe', agentId => 'probe', cadence => { kind => 'manual' });
$model->wait_in_flight(1, 20);
my $estimate = value($node, "SELECT reserved_tokens FROM mana_ai.runs WHERE mission_id = 'probe'");
cmp_ok($estimate, '>', 1500, 'a call reserves its prompt and the longest reply');
is(value($node, "SELECT scope || ' ' || used || ' ' || reserved FROM mana_ai.budgets_of_mission('@{[USER_ID]}', 'probe') WHERE scope = 'agent'"),
    "agent 0 $estimate", 'budgets_of_mission() tells');
is_planned('probe');
is(value($node, "SELECT reserved_tokens FROM mana_ai.runs WHERE mission_id = 'probe'"), 0, 'and is settled when the reply is there');
is(($model->requests)[0]{body}{max_tokens}, 1000, 'the longest reply is what the request asks for');

# ---------------------------------------------------------------- many missions of one agent at once

my $reply = $estimate - 100;
my $cap   = 6 * $estimate;
answers($reply, latency_ms => 300);
push_agent($node, 'many', maxTokensPerDay => $cap, maxConcurrentMissions => 50);
push_missions($node, [ map { "many-$_" } 1 .. 30 ], agentId => 'many', cadence => { kind => 'manual' });
wait_for($node, 'the budget is used up', 90, "SELECT coalesce(sum(tokens_used), 0) > $cap - $reply FROM mana_ai.token_usage WHERE agent_id = 'many'", 't');
wait_for($node, 'nothing runs any more', 30, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'", 0);
cmp_ok($model->stats->{max_in_flight}, '>', 1, 'calls went out together');
cmp_ok($model->stats->{max_in_flight}, '<=', 6, 'as many as the budget had room for');
cmp_ok(used("agent_id = 'many'"), '<=', $cap, 'and no reply went beyond it');
my $left = value($node, "SELECT min(mission_id) FROM mana_ai.mission_schedule s WHERE mission_id LIKE 'many-%' AND NOT EXISTS (SELECT FROM mana_ai.runs r WHERE r.mission_id = s.mission_id AND r.outcome = 'planned')");
is_held($left, 'skipped-budget');
why_is([ $left ], "agent Agent many has used @{[used(q{agent_id = 'many'})]} of $cap tokens in the last 24 hours; at the last look the rest was reserved, or less than a call needs");
cmp_ok(stops('agent'), '>', 0, 'the metric counts it');

# Little is left, so only one at a time goes out; the others say what they wait for, and follow soon.
settings($node, 'mana_ai.tick_interval' => '1h');
answers(600, latency_ms => 2000);
push_agent($node, 'tight', maxTokensPerDay => $estimate + 1000, maxConcurrentMissions => 50);
push_missions($node, [ map { "tight-$_" } 1 .. 2 ], agentId => 'tight', cadence => { kind => 'manual' });
$model->wait_in_flight(1, 20);
my ($waits) = value($node, "SELECT mission_id FROM mana_ai.mission_schedule WHERE mission_id LIKE 'tight-%' AND lease_owner IS NULL");
is_held($waits, 'skipped-budget');
like(why_of($node, $waits), qr/^agent Agent tight has used 0 of \d+ tokens in the last 24 hours; calls under way have reserved \d+$/, 'why()');
is_planned('tight-1');
is_planned('tight-2');
is($model->stats->{max_in_flight}, 1, 'one after the other');
settings($node, 'mana_ai.tick_interval' => '1s');

# ---------------------------------------------------------------- a call that alone is larger than what is left

# The reply gets what the prompt leaves; the prompts here differ by some letters.
answers($estimate - 300);
push_agent($node, 'rest', maxTokensPerDay => $estimate - 300);
push_mission($node, 'rest', agentId => 'rest', cadence => { kind => 'manual' });
is_planned('rest');
cmp_ok(($model->requests)[0]{body}{max_tokens}, '>', 600, 'a longer reply than there is room for is not asked for');
cmp_ok(($model->requests)[0]{body}{max_tokens}, '<', 800, 'but as long a one as there is');
cmp_ok(used("agent_id = 'rest'"), '<=', $estimate - 300, 'so the budget holds');
# A reply that needs more than that is not a failure of the mission.
$model->reset;
$model->control({ steps => [ { body => JSON::PP->new->encode({ choices => [ { message => { content => 'Der Pl' }, finish_reason => 'length' } ],
    usage => { prompt_tokens => $estimate - 1000, completion_tokens => 700, total_tokens => $estimate - 300 } }) } ] });
push_agent($node, 'cut-off', maxTokensPerDay => $estimate - 300);
push_mission($node, 'cut-off', agentId => 'cut-off', cadence => { kind => 'manual' });
is_held('cut-off', 'skipped-budget');
is(value($node, "SELECT attempts FROM mana_ai.mission_schedule WHERE mission_id = 'cut-off'"), 0, 'it counts no attempt');
my $cut_off = last_run($node, 'cut-off');
is_deeply([ @$cut_off{qw(outcome decision rounds steps total_tokens error_message)} ],
    [ 'skipped', 'skipped-budget', 1, 0, $estimate - 300, 'the budget was used up before the reply had a step' ], 'runs says why');
is(used("agent_id = 'cut-off'"), $estimate - 300, 'what it cost is charged');
why_is([ 'cut-off' ], "agent Agent cut-off has used @{[ $estimate - 300 ]} of @{[ $estimate - 300 ]} tokens in the last 24 hours");
my $look = value($node, "SELECT decided_at FROM mana_ai.mission_schedule WHERE mission_id = 'cut-off'");
wait_for($node, 'it is looked at again', 20, "SELECT decided_at > '$look' AND lease_owner IS NULL FROM mana_ai.mission_schedule WHERE mission_id = 'cut-off'", 't');
is($model->count, 1, 'without another call');
is(scalar @{ iterations_of($node, 'cut-off') }, 0, 'its user gets no empty plan');
# Room for a reply that would be cut off again is no room, also for a process that has not made that call.
value($node, 'SELECT pg_terminate_backend(worker_pid) FROM mana_ai.status()');
wait_for_worker($node);
answers(2000);
push_change($node, table => 'agents', id => 'cut-off', data => { maxTokensPerDay => 2 * $estimate - 950 }, stamps => { maxTokensPerDay => iso(0) });
$look = value($node, 'SELECT clock_timestamp()');
wait_for($node, 'it is looked at with room for its prompt and a short reply', 20, "SELECT decided_at > '$look' AND lease_owner IS NULL FROM mana_ai.mission_schedule WHERE mission_id = 'cut-off'", 't');
is($model->count, 0, 'what was too short is not asked for again');
push_change($node, table => 'agents', id => 'cut-off', data => { maxTokensPerDay => 3 * $estimate }, stamps => { maxTokensPerDay => iso(1) });
is_planned('cut-off');
is(($model->requests)[0]{body}{max_tokens}, 1000, 'and is planned when there is room for a longer one');
is(value($node, "SELECT num_nulls(cut_reply_length, cut_reply_at) FROM mana_ai.mission_schedule WHERE mission_id = 'cut-off'"), 2, 'which makes good for it');
# The provider's own limit is not the budget's.
$model->reset;
$model->control({ steps => [ { body => JSON::PP->new->encode({ choices => [ { message => { content => 'Der Pl' }, finish_reason => 'length' } ],
    usage => { prompt_tokens => $estimate - 1000, completion_tokens => 100, total_tokens => $estimate - 900 } }) } ], repeat => 'last' });
push_agent($node, 'own-limit', maxTokensPerDay => $estimate - 300);
push_mission($node, 'own-limit', agentId => 'own-limit', cadence => { kind => 'manual' });
wait_for($node, 'a reply that the provider cuts off is a failure', 20, "SELECT outcome FROM mana_ai.runs WHERE mission_id = 'own-limit' AND outcome <> 'running'", 'failed');
is(value($node, "SELECT attempts || ' ' || (not_before > clock_timestamp()) FROM mana_ai.mission_schedule WHERE mission_id = 'own-limit'"), '1 true', 'with an attempt and a backoff');
answers(2000);
push_agent($node, 'none', maxTokensPerDay => $estimate - 900);
push_mission($node, 'none', agentId => 'none', cadence => { kind => 'manual' });
is_held('none', 'skipped-budget');
is($model->count, 0, 'a prompt that leaves no room for a reply is not sent');
why_is([ 'none' ], "agent Agent none has used 0 of @{[ $estimate - 900 ]} tokens in the last 24 hours; at the last look the rest was reserved, or less than a call needs");
my $looks = value($node, "SELECT decided_at FROM mana_ai.mission_schedule WHERE mission_id = 'none'");
wait_for($node, 'it is looked at again', 20, "SELECT decided_at > '$looks' AND lease_owner IS NULL FROM mana_ai.mission_schedule WHERE mission_id = 'none'", 't');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'none'"), 1, 'which leaves no further row');
push_change($node, table => 'agents', id => 'none', data => { maxTokensPerDay => 10 * $estimate }, stamps => { maxTokensPerDay => iso(0) });
is_planned('none');

# ---------------------------------------------------------------- of a mission

# A reply is as long as it may be.
answers($estimate);
my $rest = 'at the last look the rest was reserved, or less than a call needs';
push_mission($node, 'm1', maxTokensPerDay => $estimate + 100);
is_planned('m1');
push_change($node, id => 'm1', data => { nextRunAt => iso(-1) }, stamps => { nextRunAt => iso(0) });
is_held('m1', 'skipped-mission-budget');
why_is([ 'm1' ], "the mission has used $estimate of @{[ $estimate + 100 ]} tokens in the last 24 hours; $rest");
is(last_run($node, 'm1')->{decision}, 'skipped-mission-budget', 'runs says it');
cmp_ok(stops('mission'), '>', 0, 'the metric counts it');
push_change($node, id => 'm1', data => { maxTokensPerDay => 100_000 }, stamps => { maxTokensPerDay => iso(0) });
wait_for($node, 'a larger one counts at once', 30, "SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'm1' AND outcome = 'planned'", 2);

# ---------------------------------------------------------------- of a user

settings($node, 'mana_ai.user_tokens_per_day' => 2 * $estimate + 100);
push_missions($node, [ map { "u$_" } 1 .. 5 ], user => 'user-2', cadence => { kind => 'manual' });
wait_for($node, 'a user\'s missions without an agent use up the user\'s budget', 40, "SELECT coalesce(sum(tokens_used), 0) FROM mana_ai.token_usage WHERE user_id = 'user-2'", 2 * $estimate);
wait_for($node, 'three are held back', 30, "SELECT count(*) FROM mana_ai.mission_schedule WHERE user_id = 'user-2' AND decision = 'skipped-user-budget' AND lease_owner IS NULL", 3);
$left = value($node, "SELECT min(mission_id) FROM mana_ai.mission_schedule WHERE user_id = 'user-2' AND decision = 'skipped-user-budget'");
# Between two checks it is due.
wait_for($node, 'why()', 20, "SELECT mana_ai.why('user-2', '$left')",
    "the user's missions have used @{[ 2 * $estimate ]} of @{[ 2 * $estimate + 100 ]} tokens in the last 24 hours; $rest");
is(last_run($node, $left, 'user-2')->{decision}, 'skipped-user-budget', 'runs says it');
cmp_ok(stops('user'), '>', 0, 'the metric counts it');
push_mission($node, 'other', user => 'user-3', cadence => { kind => 'manual' });
is_planned('other');
# Null in a row of the user's own is what the setting says, in each column.
value($node, "INSERT INTO mana_ai.user_budgets (user_id, web_research_per_day) VALUES ('user-2', 5)");
is(value($node, "SELECT tokens_per_day FROM mana_ai.budgets_of_mission('user-2', '$left') WHERE scope = 'user'"), 2 * $estimate + 100, 'another limit of that user changes nothing');
my $checked = value($node, "SELECT clock_timestamp()");
wait_for($node, 'all three are checked again', 40, "SELECT count(*) FROM mana_ai.mission_schedule WHERE user_id = 'user-2' AND decision = 'skipped-user-budget' AND lease_owner IS NULL AND decided_at > '$checked'", 3);
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE user_id = 'user-2' AND outcome = 'planned'"), 2, 'and none is planned');
value($node, "UPDATE mana_ai.user_budgets SET tokens_per_day = 3 * $estimate + 100 WHERE user_id = 'user-2'");
wait_for($node, 'an own budget is one call larger', 40, "SELECT coalesce(sum(tokens_used), 0) FROM mana_ai.token_usage WHERE user_id = 'user-2'", 3 * $estimate);
$left = value($node, "SELECT min(mission_id) FROM mana_ai.mission_schedule s WHERE user_id = 'user-2' AND due_at IS NOT NULL AND due_at <= now()");
wait_for($node, 'why() knows it', 20, "SELECT mana_ai.why('user-2', '$left')",
    "the user's missions have used @{[ 3 * $estimate ]} of @{[ 3 * $estimate + 100 ]} tokens in the last 24 hours; $rest");
value($node, "UPDATE mana_ai.user_budgets SET tokens_per_day = 9223372036854775807 WHERE user_id = 'user-2'");
wait_for($node, 'the largest number is no limit', 40, "SELECT count(*) FROM mana_ai.runs WHERE user_id = 'user-2' AND outcome = 'planned'", 5);
settings($node, 'mana_ai.user_tokens_per_day' => undef);

# ---------------------------------------------------------------- of all together

my $all = used('true');
my $for_all = $all + 2 * $estimate + 100;
settings($node, 'mana_ai.total_tokens_per_day' => $for_all);
push_mission($node, "t$_", user => "user-t$_", cadence => { kind => 'manual' }) for 1 .. 4;
wait_for($node, 'two are held back', 40, "SELECT count(*) FROM mana_ai.mission_schedule WHERE user_id LIKE 'user-t_' AND decision = 'skipped-total-budget' AND lease_owner IS NULL", 2);
is(used('true'), $all + 2 * $estimate, 'when the budget of all is used up');
my $held = rows($node, "SELECT user_id, mission_id FROM mana_ai.mission_schedule WHERE user_id LIKE 'user-t_' AND decision = 'skipped-total-budget' LIMIT 1")->[0];
why_is([ @$held{qw(mission_id user_id)} ], "all missions together have used @{[ $all + 2 * $estimate ]} of $for_all tokens in the last 24 hours; $rest");
cmp_ok(stops('total'), '>', 0, 'the metric counts it');
settings($node, 'mana_ai.total_tokens_per_day' => undef);
wait_for($node, 'without it they are planned', 40, "SELECT count(*) FROM mana_ai.runs WHERE user_id LIKE 'user-t_' AND outcome = 'planned'", 4);

# ---------------------------------------------------------------- foreign code runs without the lock of budgets

# A transaction that has written to the ledger holds it until the commit.
$node->safe_psql('mana_sync', <<'END');
CREATE TABLE public.charged_meanwhile (replies bigint);
CREATE FUNCTION public.look_at_charges() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF NEW.client_id = 'mana-ai-runner' THEN
    INSERT INTO public.charged_meanwhile SELECT count(*) FROM mana_ai.token_usage WHERE xmin = pg_current_xact_id()::xid;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER look_at_charges AFTER INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION public.look_at_charges();
END
answers(2000, latency_ms => 3000);
push_missions($node, [ map { "mixed-$_" } 1 .. 64 ], user => 'user-mixed', cadence => { kind => 'manual' });
$model->wait_in_flight(64, 20);
my $worker = worker_pid($node);
kill 'STOP', $worker;
wait_until('all replies are on their way', 20, sub { return $model->in_flight == 0 });
kill 'CONT', $worker;
wait_for($node, 'all are planned', 30, "SELECT count(*) FROM mana_ai.runs WHERE user_id = 'user-mixed' AND outcome = 'planned'", 64);
is(value($node, 'SELECT count(*) FROM public.charged_meanwhile'), 64, "the table's owner has looked at each plan");
is(value($node, 'SELECT sum(replies) FROM public.charged_meanwhile'), 0, 'no reply was charged in the same transaction');
$node->safe_psql('mana_sync', 'DROP TABLE public.charged_meanwhile; DROP FUNCTION public.look_at_charges() CASCADE');

# ---------------------------------------------------------------- a process that is killed

settings($node, 'mana_ai.llm_max_tokens' => 0);
answers(2000, latency_ms => 20_000);
push_agent($node, 'cut', maxTokensPerDay => 20_000, maxConcurrentMissions => 2);
push_missions($node, [qw(cut-1 cut-2)], agentId => 'cut', cadence => { kind => 'manual' });
$model->wait_in_flight(1, 20);
ok(!exists((($model->requests)[0] // {})->{body}{max_tokens}), 'a limit of 0 is not sent');
cmp_ok(value($node, "SELECT max(reserved_tokens) FROM mana_ai.runs WHERE agent_id = 'cut'"), '>', 16_384, 'the reply is taken to be long then');
kill 9, worker_pid($node);
wait_until('the server is back', 60, sub { return eval { value($node, "SELECT count(*) FROM mana_ai.runs WHERE agent_id = 'cut' AND outcome = 'crashed'") } });
answers(2000);
is_planned('cut-1');
is_planned('cut-2');
is(value($node, "SELECT sum(reserved) FROM mana_ai.budgets_of_mission('@{[USER_ID]}', 'cut-1')"), 0, 'nothing stays reserved');

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;
$model->stop;
done_testing();
