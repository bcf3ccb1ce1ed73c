# Evaluations: another model is asked about a sample of past runs, within a budget; only ids and figures are kept, and
# what is recorded is not paid for again after a crash.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Find;
use ManaAi;
use JSON::PP;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $model = start_model();
my $node  = new_cluster('evaluate', preload => 1, model => $model, conf => <<'END');
mana_ai.tick_enabled = off
mana_ai.max_unreviewed = 0
mana_ai.llm_max_tokens = 400
mana_ai.database = 'mana_sync'
restart_after_crash = on
END
sub task { return { name => 'create_task', arguments => { title => $_[0] } } }
sub script { my ($answering, @calls) = @_; $model->control({ steps => [ { content => 'Mache ich.', tool_calls => \@calls, model => $answering }, { content => 'Fertig.', model => $answering } ], repeat => 'all', per_mission => JSON::PP::true }); return }
sub evaluate { return rows($node, "SELECT * FROM mana_ai.evaluate($_[0])")->[0] }
sub asked { return scalar(() = $model->bodies) }

# Eight runs: six plans are decided about; two of m1 to m4 approved, m5 and m6 rejected.
script('test/large', task('Belege'), task('Anruf'));
for my $n (1 .. 8)
{
    push_mission($node, "m$n", user => $n % 2 ? 'user-1' : 'user-2', cadence => { kind => 'manual' });
    is(run_mission($node, "m$n", $n % 2 ? 'user-1' : 'user-2')->{outcome}, 'planned', "m$n is planned");
    next if $n > 6;
    my $iterations = iterations_of($node, "m$n", $n % 2 ? 'user-1' : 'user-2');
    $_->{status} = $n < 5 ? 'approved' : 'rejected' for @{ $iterations->[0]{plan} };
    push_change($node, id => "m$n", user => $n % 2 ? 'user-1' : 'user-2', data => { iterations => $iterations }, stamps => { iterations => iso(1) });
}
$node->safe_psql('mana_sync', "INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million) VALUES ('test/small', 'EUR', 1, 2), ('test/large', 'EUR', 10, 20); SELECT mana_ai.price_usage()");

# ---------------------------------------------------------------- a report

script('test/small', task('Belege'), task('Etwas anderes'));
my $requests = asked();
my $report   = evaluate("interval '1 day', 'test/small', 6, 1000000");
is_deeply([ @{$report}{qw(state runs asked comparable planned_steps accepted_steps same added missing accepted_same accepted_same_tool)} ],
    [ 'complete', 6, 6, 6, 12, 8, 6, 6, 6, 4, 8 ], 'six runs are compared, those whose users have decided');
is("$report->{accepted_share} $report->{accepted_share_by_tool}", '0.5 1', 'half of what users have approved would have been planned, all of it by the tool');
is(asked() - $requests, 12, 'two calls for each');
is($report->{tokens}, value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE purpose = 'what_if'"), 'tokens are those that were charged');
is($report->{cost} + 0, value($node, "SELECT sum(cost) FROM mana_ai.token_usage WHERE purpose = 'what_if'") + 0, 'and so is the cost');
is($report->{currency}, 'EUR', 'in the currency of the price');
cmp_ok($report->{planned_cost_per_run}, '>', 5 * $report->{cost_per_run}, 'the price of either model is known');
is(value($node, "SELECT count(*) FROM mana_ai.evaluation_runs WHERE mission_id IN ('m7', 'm8')"), 0, 'runs that nobody has decided about come last');
is(value($node, "SELECT started_by FROM mana_ai.evaluations"), 'postgres', 'who has asked is on record');
my $again = evaluate("interval '1 day', 'test/small', 6, 1000000");
is(value($node, "SELECT count(DISTINCT runs) FROM (SELECT string_agg(run_id::text, ' ' ORDER BY ordinal) AS runs FROM mana_ai.evaluation_runs GROUP BY evaluation_id) s"), 1, 'the same sample each time');
my $run_7 = value($node, "SELECT run_id FROM mana_ai.runs WHERE mission_id = 'm7'");
$node->safe_psql('mana_sync', "UPDATE mana_ai.runs SET outcome = 'failed' WHERE run_id = '$run_7'");
is(evaluate("interval '1 day', 'test/small', 100, 1000000")->{runs}, 7, 'runs that have failed are not among them');
$node->safe_psql('mana_sync', "UPDATE mana_ai.runs SET outcome = 'planned' WHERE run_id = '$run_7'");
is(value($node, "SET DateStyle = 'SQL, DMY'; SET timezone = 'Asia/Tokyo'; SELECT runs FROM mana_ai.evaluate(interval '1 day', 'test/small', 100, 1000000)"), 8, 'there are no more than there are');
is(evaluate("clock_timestamp() + interval '1 hour', 'test/small', 5, 1000000")->{runs}, 0, 'nor any in the future');

my $shown = json_value($node, "SELECT mana_ai.http_status() -> 'evaluations'");
is(scalar @$shown, 5, 'the page shows them');
is_deeply([ @{ $shown->[-1] }{qw(model state runs comparable accepted acceptedSame acceptedSameTool currency)} ], [ 'test/small', 'complete', 6, 6, 8, 4, 8, 'EUR' ], 'the newest first');
is_deeply([ map { $_ + 0 } @{ $shown->[-1] }{qw(cost costThen)} ], [ map { $_ + 0 } @{$report}{qw(cost_per_run planned_cost_per_run)} ], 'with the price of either model');

# ---------------------------------------------------------------- budgets

$requests = asked();
my $short = evaluate("interval '1 day', 'test/small', 8, 30000");
is($short->{state}, 'max_tokens', 'an evaluation ends with its tokens');
cmp_ok($short->{tokens}, '<=', 30000, 'and does not use more');
cmp_ok($short->{asked}, '<', 8, 'so it has not asked about all');
cmp_ok($short->{asked}, '>', 0, 'but about some');
my $rest = rows($node, "SELECT * FROM mana_ai.continue_evaluation('$short->{evaluation_id}', max_tokens => 1000000)")->[0];
is("$rest->{state} $rest->{asked}", 'complete 8', 'with more of them it is completed');
# What a call was estimated at, or some more; and two runs.
my $money = 0.000002 * (30000 - $report->{tokens} / 6 * ($short->{asked} - 1)) + 2 * $report->{cost_per_run};
my $cheap = evaluate("interval '1 day', 'test/small', 8, 1000000, $money");
is($cheap->{state}, 'max_cost', 'it ends with its money');
cmp_ok($cheap->{cost}, '<=', $money, 'and does not spend more');
cmp_ok($cheap->{asked}, '>', 0, 'but some of it') or diag explain $cheap;
fails_like($node, "SELECT mana_ai.evaluate(interval '1 day', 'test/unknown', 5, 1000, 1)", qr/55000: cannot limit what the model costs, since it has no price/, 'money cannot be limited without a price');
$node->safe_psql('mana_sync', "INSERT INTO mana_ai.cost_budgets (cost_per_day, currency) VALUES (0, 'EUR')");
is(evaluate("interval '1 day', 'test/small', 8, 1000000")->{state}, 'budget', 'the budget of all together holds as well');
$node->safe_psql('mana_sync', 'DELETE FROM mana_ai.cost_budgets');
$node->safe_psql('mana_sync', "SET client_min_messages = error; SELECT mana_ai.stop('model:test/small', 'test')");
is(evaluate("interval '1 day', 'test/small', 8, 1000000")->{state}, 'stopped', 'and the brake');
$node->safe_psql('mana_sync', "SELECT mana_ai.resume('model:test/small')");
$node->safe_psql('mana_sync', "SELECT mana_ai.stop('user:user-2', 'test')");
my $halted = evaluate("interval '1 day', 'test/small', 8, 1000000");
is("$halted->{state} $halted->{asked} $halted->{comparable}", 'complete 8 4', 'a user who is stopped is passed over');
$node->safe_psql('mana_sync', "SELECT mana_ai.resume('user:user-2')");
$model->control({ steps => [ { status => 400, body => '{"error": {"message": "Nein danke"}}' } ], repeat => 'last' });
my $refused = evaluate("interval '1 day', 'test/small', 3, 1000000");
is_deeply([ @{$refused}{qw(state asked comparable accepted_share)} ], [ 'complete', 3, 0, undef ], 'errors are results');
is(value($node, "SELECT string_agg(DISTINCT status, ' ') FROM mana_ai.evaluation_runs WHERE evaluation_id = '$refused->{evaluation_id}'"), 'unknown', 'and on record');

# ---------------------------------------------------------------- a crash

script('test/small', task('Belege'));
my $paid = sub { return value($node, "SELECT count(*) FROM mana_ai.token_usage WHERE purpose = 'what_if' AND run_id IN (SELECT run_id FROM mana_ai.evaluation_runs WHERE evaluation_id = '$_[0]' AND status IS NOT NULL)") };
my $newest = sub { return value($node, 'SELECT evaluation_id FROM mana_ai.evaluations ORDER BY started_at DESC LIMIT 1') };
$model->control({ steps => [ (map { ({ content => 'Ja.', tool_calls => [ task('Belege') ], model => 'test/small' }, { content => 'Fertig.', model => 'test/small' }) } 1 .. 3), { hang => JSON::PP::true } ], repeat => 'last' });
my $call = background($node, "SELECT state FROM mana_ai.evaluate(interval '1 day', 'test/small', 8, 1000000)");
wait_for($node, 'three runs are recorded, a fourth is asked about', 30, "SELECT count(r.status) || ' ' || (SELECT count(*) FROM mana_ai.what_if_running WHERE reserved_tokens > 0) FROM mana_ai.evaluation_runs r WHERE evaluation_id = (SELECT evaluation_id FROM mana_ai.evaluations ORDER BY started_at DESC LIMIT 1)", '3 1');
my $id = $newest->();
is(value($node, "SELECT state FROM mana_ai.evaluation_report WHERE evaluation_id = '$id'"), 'running', 'it is running');
fails_like($node, "SELECT mana_ai.continue_evaluation('$id')", qr/55006: evaluation \S+ is in progress/, 'and cannot be continued');
kill 'KILL', value($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'mana_ai what_if'");
$call->finish(30);
wait_until('the server is there again', 60, sub { accepts_sessions($node) });
is(value($node, "SELECT state FROM mana_ai.evaluation_report WHERE evaluation_id = '$id'"), 'interrupted', 'after a crash it is interrupted');
script('test/small', task('Belege'));
$requests = asked();
my $continued = rows($node, "SELECT * FROM mana_ai.continue_evaluation('$id')")->[0];
is("$continued->{state} $continued->{comparable}", 'complete 8', 'it goes on');
is(asked() - $requests, 10, 'without asking again what is recorded');
is(rows($node, "SELECT * FROM mana_ai.continue_evaluation('$id')")->[0]{tokens}, $continued->{tokens}, 'and costs nothing once it is complete');

# Killed at any moment: every charge is known, and a result stays.
$model->control({ steps => [ { content => 'Ja.', tool_calls => [ task('Belege') ], model => 'test/small', latency_ms => 40 }, { content => 'Fertig.', model => 'test/small', latency_ms => 40 } ], repeat => 'all', per_mission => JSON::PP::true });
$call = background($node, "SELECT state FROM mana_ai.evaluate(interval '1 day', 'test/small', 8, 1000000)");
wait_for($node, 'another evaluation has begun', 30, "SELECT evaluation_id <> '$id' FROM mana_ai.evaluations ORDER BY started_at DESC LIMIT 1", 't');
$id = $newest->();
my $results = 0;
for my $kill (1 .. 4)
{
    select undef, undef, undef, rand 0.4;
    my $pid = value($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'mana_ai what_if'");
    kill 'KILL', $pid if $pid;
    $call->finish(30);
    wait_until("the server is there again after kill $kill", 60, sub { accepts_sessions($node) });
    is(value($node, 'SELECT sum(tokens) FROM mana_ai.evaluations'), value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE purpose = 'what_if'"), 'every token that was charged is known');
    is(value($node, "SELECT count(*) FROM mana_ai.evaluation_runs WHERE evaluation_id = '$id' AND (status IS NULL) <> (steps IS NULL)"), 0, 'a run has a result or none');
    my $now = value($node, "SELECT count(status) FROM mana_ai.evaluation_runs WHERE evaluation_id = '$id'");
    cmp_ok($now, '>=', $results, "no result is lost ($now)");
    $results = $now;
    $call = background($node, "SELECT state FROM mana_ai.continue_evaluation('$id')");
}
is(($call->finish(60))[1], "complete\n", 'in the end it is complete');
# The script goes on where a killed conversation has left it, so some need one call only.
is(value($node, "SELECT string_agg(DISTINCT status, ' ') || ' ' || count(*) || ' ' || bool_and(rounds > 0) FROM mana_ai.evaluation_runs WHERE evaluation_id = '$id'"), 'planned 8 true', 'with a result for each run');

# A cancel, in the middle of a run that has paid for a reply.
$model->control({ steps => [ { content => 'Ja.', tool_calls => [ task('Belege') ], model => 'test/small' }, { hang => JSON::PP::true } ], repeat => 'last' });
$call = background($node, "SELECT state FROM mana_ai.evaluate(interval '1 day', 'test/small', 2, 1000000)");
wait_for($node, 'a second round hangs', 30, "SELECT max(rounds) FROM mana_ai.evaluation_runs WHERE evaluation_id = (SELECT evaluation_id FROM mana_ai.evaluations ORDER BY started_at DESC LIMIT 1) AND status IS NULL", 1);
$node->safe_psql('mana_sync', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%evaluate(%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'");
like(($call->finish(20))[2], qr/57014/, 'it is canceled');
$id = $newest->();
wait_for($node, 'and interrupted', 20, "SELECT state FROM mana_ai.evaluation_report WHERE evaluation_id = '$id'", 'interrupted');
my $tokens = value($node, "SELECT tokens FROM mana_ai.evaluations WHERE evaluation_id = '$id'");
cmp_ok($tokens, '>', 0, 'what was paid for counts');
script('test/small', task('Belege'));
$continued = rows($node, "SELECT * FROM mana_ai.continue_evaluation('$id')")->[0];
is("$continued->{state} $continued->{comparable}", 'complete 2', 'a run that was cut off is asked about again');
is($continued->{tokens} - $tokens, value($node, "SELECT sum(tokens) FROM mana_ai.evaluation_runs WHERE evaluation_id = '$id'"), 'and its row has the figures of the last attempt');

# ---------------------------------------------------------------- who sees what

fails_like($node, "SELECT mana_ai.evaluate(interval '1 day', 'm', 1, 1)", qr/permission denied for schema mana_ai/, 'nobody may', user => 'nobody_special');
$node->safe_psql('mana_sync', <<'END');
GRANT USAGE ON SCHEMA mana_ai TO mana_sync_service;
GRANT EXECUTE ON FUNCTION mana_ai.evaluate(timestamptz, text, int, bigint, numeric) TO mana_sync_service;
GRANT SELECT ON mana_ai.tools, mana_ai.stops, mana_ai.run_reads, mana_ai.run_requests, mana_ai.evaluation_runs TO mana_sync_service;
END
my $as = sub { return $node->safe_psql('mana_sync', "SELECT set_config('app.current_user_id', '$_[0]', false) \\g /dev/null\n$_[1]", extra_params => [ '-U', 'mana_sync_service' ]) };
is($as->('user-2', "SELECT runs, comparable FROM mana_ai.evaluate(now() - interval '1 day', 'test/small', 100, 1000000)"), '4|4', 'a role evaluates what it may read');
is(value($node, 'SELECT started_by FROM mana_ai.evaluations ORDER BY started_at DESC LIMIT 1'), 'mana_sync_service', 'under its name');
$node->safe_psql('mana_sync', 'GRANT EXECUTE ON FUNCTION mana_ai.continue_evaluation(uuid, bigint, numeric) TO mana_sync_service');
fails_like($node, "SELECT mana_ai.continue_evaluation('$id')", qr/42501: must be superuser or the role that began the evaluation/, 'and goes on with none of others', user => 'mana_sync_service');
is($as->('user-2', "SELECT state FROM mana_ai.continue_evaluation('" . $newest->() . "')"), 'complete', 'but with its own');
is(value($node, 'SELECT sum(tokens) FROM mana_ai.evaluations'), value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE purpose = 'what_if'"), 'evaluations know of every token that was charged, whatever has become of them');
is($as->($_, 'SELECT count(*) FILTER (WHERE user_id <> \'' . $_ . '\'), count(*) > 0 FROM mana_ai.evaluation_runs'), '0|t', "$_ sees own rows only") for qw(user-1 user-2);
is($as->('', 'SELECT count(*) FROM mana_ai.evaluation_runs'), 0, 'nobody sees none');
is(value($node, "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = 'mana_ai.evaluation_runs'::regclass"), 't', 'its owner too');
cmp_ok(value($node, "SELECT count(*) FROM mana_ai.export_user('user-2') WHERE table_name = 'mana_ai.evaluation_runs'"), '>', 0, 'they are exported');
$node->safe_psql('mana_sync', "SELECT * FROM mana_ai.erase_user('user-2')");
is(value($node, "SELECT count(*) FROM mana_ai.evaluation_runs WHERE user_id = 'user-2'"), 0, 'and erased');
$node->safe_psql('mana_sync', "INSERT INTO mana_ai.evaluation_runs (evaluation_id, run_id, ordinal, user_id, mission_id) VALUES ('$id', gen_random_uuid(), 99, 'user-7', 'm'); INSERT INTO mana_ai.erased_users (user_digest) VALUES (mana_ai.digest_of_user('user-7'))");
run_tick($node) for 1 .. 3;
is(value($node, "SELECT count(*) FROM mana_ai.evaluation_runs WHERE user_id = 'user-7'"), 0, 'also where an erasure arrives from elsewhere');

# ---------------------------------------------------------------- no text of it is kept; as long as runs

$node->safe_psql('mana_sync', 'CHECKPOINT; VACUUM');
$node->stop;
my %found;
find({ no_chdir => 1, wanted => sub {
    return unless -f $_;
    my $content = slurp_file($_);
    $found{"$_"} = 1 if index($content, 'Etwas anderes') >= 0 || index($content, 'Mache ich.') >= 0;
} }, $node->data_dir, $node->logfile);
is(join("\n", sort keys %found), '', 'no step of the other model is in any file');
$node->start;
$node->safe_psql('mana_sync', "UPDATE mana_ai.evaluations SET started_at = started_at - interval '2 hours' WHERE evaluation_id <> '$id'");
settings($node, 'mana_ai.runs_retention' => '1h');
run_tick($node);
is(value($node, "SELECT string_agg(evaluation_id::text, ' ') FROM mana_ai.evaluations"), $id, 'old evaluations are deleted');
is(value($node, "SELECT count(*) FROM mana_ai.evaluation_runs WHERE evaluation_id <> '$id'"), 0, 'with their runs');

done_testing();
