# Metrics: counts are right with concurrent processes; no user's ids can break the
# exposition; Prometheus' own tools accept it, the alerts and the dashboard.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $docs     = "$FindBin::RealBin/../../docs";
my $promtool = "$ENV{MANA_AI_BIN}/promtool";
$promtool = (grep { -x } map { "$_/promtool" } split /:/, $ENV{PATH})[0] // '' unless -x $promtool;

my $model = start_model();
my $node  = new_cluster('metrics', preload => 1, model => $model, conf => "mana_ai.tick_enabled = off");

# The sum of the series of a name that have these labels.
sub metric
{
    my ($name, %labels) = @_;
    my $json = JSON::PP->new->canonical->encode(\%labels);
    $json =~ s/'/''/g;
    return 0 + value($node, "SELECT coalesce(sum(value), 0) FROM mana_ai.metrics WHERE name = 'mana_ai_$name' AND labels @> '$json'");
}

# name => { label value => number }
sub by_label
{
    my ($name, $label) = @_;
    return { map { $_->{label} => 0 + $_->{n} } @{ rows($node,
        "SELECT labels ->> '$label' AS label, sum(value) AS n FROM mana_ai.metrics WHERE name = 'mana_ai_$name' GROUP BY 1") } };
}

sub by_query
{
    my ($sql) = @_;
    return { map { $_->{label} => 0 + $_->{n} } @{ rows($node, $sql) } };
}

my $elsewhere = 0;    # plans of another database

# The counters must match our tables.
sub counters_agree
{
    my ($when) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_deeply(by_label('mission_outcomes_total', 'outcome'),
        by_query("SELECT outcome AS label, count(*) AS n FROM mana_ai.runs WHERE outcome <> 'running' GROUP BY 1"),
        "$when: mission_outcomes_total are the rows of mana_ai.runs");
    is_deeply(by_label('tokens_used_total', 'agent_id'),
        by_query("SELECT coalesce(agent_id, 'legacy:ai-default') AS label, sum(tokens_used) AS n FROM mana_ai.token_usage GROUP BY 1"),
        "$when: tokens_used_total is mana_ai.token_usage");
    is(metric('plans_written_back_total') - $elsewhere, value($node, "SELECT count(*) FROM public.sync_changes WHERE client_id = 'mana-ai-runner'"),
        "$when: plans_written_back_total are the rows in sync_changes");
    is(metric('mission_errors_total'), value($node, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'failed'"),
        "$when: mission_errors_total are the failed runs");
    return;
}

# ---------------------------------------------------------------- nothing has happened

is(metric($_), 0, "$_ begins at 0") for qw(ticks_total plans_produced_total planner_rounds_count due_lag_seconds_count trigger_errors_total);
is(value($node, "SELECT count(*) FROM mana_ai.metrics WHERE name = 'mana_ai_tool_calls_total'"), 0, 'no series before there is a label value');

# ---------------------------------------------------------------- one tick of everything

push_agent($node, 'a1', maxConcurrentMissions => 9);
push_agent($node, 'asleep', state => 'paused');
push_mission($node, 'plain');
push_mission($node, 'by-agent', agentId => 'a1');
push_mission($node, 'held', agentId => 'asleep');
push_mission($node, 'orphan', agentId => 'nobody');
push_mission($node, 'another', agentId => 'a1');
push_mission($node, 'third', agentId => 'a1');
my $tick = run_tick($node);
is_deeply([ @$tick{qw(due_mission_count plans_written_back skipped)} ], [ 6, 4, 2 ], 'a tick');
is(metric('ticks_total'), 1, 'is counted');
is(metric('tick_duration_seconds_count'), 1, 'and timed');
cmp_ok(metric('tick_duration_seconds_sum'), '>', 0, 'in seconds');
cmp_ok(metric('tick_duration_seconds_sum'), '<', 30, 'not in another unit');
is(metric('plans_produced_total'), 4, 'plans produced');
is(metric('planner_rounds_sum'), 8, 'in two rounds each');
is(metric('planner_rounds_bucket', le => '1'), 0, 'none in one');
is(metric('planner_rounds_bucket', le => '2'), 4, 'all in two');
is(metric('planner_request_duration_seconds_count'), $model->count, 'every request to the model is timed');
is(metric('due_lag_seconds_count'), 4, 'the lag of each mission that ran');
cmp_ok(metric('due_lag_seconds_sum'), '<', 4 * 30, 'from when it was pushed, not from a minute before');
is_deeply(by_label('agent_decisions_total', 'decision'), { 'ran' => 3, 'skipped-paused' => 1, 'skipped-agent-missing' => 1 },
    'decisions on missions that have an agent');
is(metric('tool_calls_total', outcome => 'deferred', policy => 'propose'),
    value($node, "SELECT sum(steps) FROM mana_ai.runs"), 'accepted tool calls are the steps');
is(metric('snapshots_new_total'), 8, 'a snapshot for each record');
is(metric('snapshot_rows_applied_total'), value($node, "SELECT count(*) FROM public.sync_changes WHERE app_id = 'ai'"),
    'every row of the log was folded once');
cmp_ok(metric('longest_transaction_seconds'), '>', 0, 'the longest transaction');
counters_agree('after a tick');

# ---------------------------------------------------------------- failures

$model->reset;
$model->control({ steps => [
    { status => 503 }, { status => 429, error => 'slow down', retry_after => '1' },
    { tool_calls => [ { name => 'no_such_tool', arguments => {} }, { name => 'create_task', arguments => {} },
                      { name => 'create_task', arguments => { title => 'T' } } ] },
    { content => 'Fertig.' } ] });
push_mission($node, 'stumbles', agentId => 'a1', cadence => { kind => 'manual' });
is(run_mission($node, 'stumbles')->{outcome}, 'planned', 'a mission whose first requests fail');
is_deeply(by_query("SELECT (labels ->> 'provider') || '/' || (labels ->> 'kind') AS label, value AS n FROM mana_ai.metrics WHERE name = 'mana_ai_provider_errors_total'"),
    { 'google/unknown' => 1, 'google/rate_limit' => 1 }, 'each failed attempt is a provider error');
is(metric('tool_calls_total', tool => 'unknown', policy => 'unknown', outcome => 'rejected'), 1, 'a tool that was not offered');
is(metric('tool_calls_total', tool => 'create_task', outcome => 'rejected'), 1, 'a call without its arguments');
is(metric('ticks_total'), 1, 'run_mission() is no tick');
$model->reset;
$model->control({ steps => [ { body => 'kein JSON' } ], repeat => 'last' });
push_mission($node, 'unreadable', cadence => { kind => 'manual' });
is(run_mission($node, 'unreadable')->{outcome}, 'failed', 'replies that cannot be read');
is(metric('parse_failures_total'), 1, 'are a parse failure');
is(metric('provider_errors_total', kind => 'malformed'), 3, 'of three attempts');
$model->reset;
counters_agree('after failures');

# ---------------------------------------------------------------- what runs twice counts once

# The first insert of one of them fails: all steps of that transaction run again, each alone.
value($node, <<'END');
CREATE SEQUENCE public.attempts;
CREATE FUNCTION public.fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF nextval('public.attempts') = 1 THEN RAISE 'not this time'; END IF;
  RETURN NEW;
END $$;
ALTER FUNCTION public.fail_once() SECURITY DEFINER;
CREATE TRIGGER fail_once BEFORE INSERT ON public.sync_changes FOR EACH ROW
  WHEN (NEW.client_id = 'mana-ai-runner' AND NEW.record_id = 'twice-7') EXECUTE FUNCTION public.fail_once();
END
push_missions($node, [ map { "twice-$_" } 1 .. 12 ], cadence => { kind => 'manual' });
$model->control({ latency_ms => 100 });
is(run_tick($node)->{plans_written_back}, 12, 'a write-back that fails once takes its whole batch with it');
is(value($node, 'SELECT last_value > 1 FROM public.attempts'), 't', 'it did fail');
counters_agree('after steps that ran twice');
is(metric('plans_produced_total'), value($node, "SELECT count(*) FROM mana_ai.runs WHERE outcome IN ('planned', 'discarded')"), 'plans are counted once');
value($node, 'DROP TRIGGER fail_once ON public.sync_changes');

# ---------------------------------------------------------------- concurrent writers

my $before_new  = metric('snapshots_new_total');
my $before_rows = metric('snapshot_rows_applied_total');
my $script = $node->basedir . '/insert.sql';
append_to_file($script, <<'END');
SELECT set_config('app.current_user_id', 'u' || :client_id, false);
BEGIN;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', gen_random_uuid()::text, 'u' || :client_id, 'insert', 'c', '{"state": "paused"}');
COMMIT;
BEGIN;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ('ai', 'aiMissions', gen_random_uuid()::text, 'u' || :client_id, 'insert', 'c', '{"state": "paused"}');
ROLLBACK;
END
$node->command_ok([ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 100, '-f', $script, '-U', 'postgres', $node->connstr('mana_sync') ],
    'eight sessions insert at once, and roll every other insert back');
is(metric('snapshots_new_total') - $before_new,           800, 'every committed snapshot is counted, no other');
is(metric('snapshot_rows_applied_total') - $before_rows, 800, 'and every row');

# The same agents in two databases, planned by two processes at the same time: each new series is wanted by
# both of them.
create_sync_database($node, 'second');
my $missions = <<'END';
SELECT set_config('app.current_user_id', 'both', false);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', 'agents', 'both-' || i, 'both', 'insert', 'c', jsonb_build_object('name', 'A', 'state', 'active')
  FROM generate_series(1, 200) i;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', 'aiMissions', 'both-' || i, 'both', 'insert', 'c', jsonb_build_object(
    'state', 'active', 'title', 'M' || i, 'objective', 'O', 'agentId', 'both-' || i, 'iterations', '[]'::jsonb,
    'cadence', '{"kind": "manual"}'::jsonb, 'nextRunAt', '2020-01-01T00:00:00Z')
  FROM generate_series(1, 200) i;
END
$model->reset;
$model->control({ steps => [ { content => 'Nichts zu tun.', usage => { prompt_tokens => 5, completion_tokens => 2, total_tokens => 7 } } ], repeat => 'last' });
value($node, $missions, $_) for qw(mana_sync second);
my @ticks = map { background($node, 'SELECT plans_written_back FROM mana_ai.run_tick()', database => $_) } qw(mana_sync second);
is(($_->finish(60))[1], "200\n", 'two databases plan the same agents at once') for @ticks;
is_deeply(by_query("SELECT labels ->> 'agent_id' AS label, value AS n FROM mana_ai.metrics WHERE name = 'mana_ai_tokens_used_total' AND labels ->> 'agent_id' LIKE 'both-%'"),
    { map { ("both-$_" => 14) } 1 .. 200 }, 'each agent has one series, with the tokens of both');
value($node, 'DROP DATABASE second WITH (FORCE)', 'postgres');
# From here on the counters are again those of one database.
value($node, <<'END');
INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used) SELECT 'gone', agent_id, mission_id, tokens_used FROM mana_ai.token_usage WHERE user_id = 'both';
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, agent_id, started_at, outcome, decision)
SELECT gen_random_uuid(), 'gone', mission_id, agent_id, started_at, outcome, decision FROM mana_ai.runs WHERE user_id = 'both';
END
$elsewhere = 200;

# ---------------------------------------------------------------- a worker's end, and a worker's figures

my $worker = wait_for_worker($node);
for my $name (qw(process_resident_memory_bytes process_cpu_seconds_total process_open_fds process_max_fds))
{
    cmp_ok(metric($name, database => 'mana_sync'), '>', 0, "$name of the worker");
}
my $started = metric('process_start_time_seconds');
cmp_ok(abs($started - time), '<', 600, 'process_start_time_seconds is an instant');
my $text = value($node, 'SELECT mana_ai.metrics()');
value($node, "SELECT pg_terminate_backend($worker)");
wait_until('the worker is ended and another one started', 15, sub {
    my $new = worker_pid($node);
    return $new ne '' && $new ne $worker;
});
wait_for_worker($node);
cmp_ok(metric('process_start_time_seconds'), '>', $started, 'another process');
my $after = value($node, 'SELECT mana_ai.metrics()');
$_ = join "\n", grep { !/mana_ai_process_|mana_ai_longest_transaction/ } split /\n/, $_ for $text, $after;
is($after, $text, 'the counters are the same');

settings($node, 'mana_ai.tick_enabled' => 'on', 'mana_ai.tick_interval' => '200ms');
my $begin = time;
my $ticks = metric('ticks_total');
sleep 2.1;
my $made    = metric('ticks_total') - $ticks;
my $elapsed = time - $begin;  # more than that on a busy machine
cmp_ok($made, '>=', 4, 'an idle worker ticks at its interval');
cmp_ok($made, '<=', $elapsed / 0.2 + 3, 'and counts each tick once');
$model->reset;
$model->control({ steps => [ { hang => JSON::PP::true } ], repeat => 'last' });
push_missions($node, [qw(h1 h2 h3)]);
$model->wait_in_flight(3);
is(metric('missions_in_flight'), 3, 'missions_in_flight');
settings($node, 'mana_ai.tick_enabled' => 'off', 'mana_ai.tick_interval' => undef);
value($node, 'SELECT pg_cancel_backend(worker_pid) FROM mana_ai.status()');
wait_for($node, 'they are canceled', 5, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'h_' AND outcome = 'canceled'", 3);
is(metric('missions_in_flight'), 0, 'none is in flight any more');
counters_agree('after a cancel');

# ---------------------------------------------------------------- hostile ids, and many of them

my @hostile = ("quote\"", "back\\slash", "line\nbreak\"} 1\nmana_ai_forged_total 1", "tab\tbell\x07", "emoji \x{1F680}",
    "\x{e9}" x 100, '{}=,"\\n', ' ', "# HELP x", 'other');
$model->reset;
$model->control({ steps => [] });
my $n = 0;
for my $id (@hostile)
{
    push_agent($node, $id);
    push_mission($node, 'hostile-' . $n++, agentId => $id, cadence => { kind => 'manual' });
}
is(run_tick($node)->{plans_written_back}, scalar @hostile, 'agents whose ids are hostile');
my $labels = by_label('tokens_used_total', 'agent_id');
for my $id (grep { length $_ < 50 } @hostile)
{
    my $shown = $id;
    $shown =~ s/([^ -~])/sprintf '\\x{%x}', ord $1/ge;
    is($labels->{$id}, value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE agent_id = " . ManaAi::literal($id)), "agent [$shown] has its own series");
}
is($labels->{ "\x{e9}" x 48 }, value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE length(agent_id) = 100"),
    'a long id is cut between characters');
$text = value($node, 'SELECT mana_ai.metrics()');
unlike($text, qr/^mana_ai_forged_total/m, 'no id makes a line of its own');
like($text, qr/agent_id="line\\nbreak\\"\} 1\\nmana_ai_forged_total 1"\} \d+$/m, 'but is escaped');
is(scalar(grep { !/^(?:# (?:HELP|TYPE) \S+ .+|mana_ai_[a-z_]+\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+\} [-+0-9.eE]+)$/ } split /\n/, $text), 0,
    'every line is well formed');

settings($node, 'mana_ai.max_concurrency' => '500');
value($node, <<'END');
BEGIN;
SET LOCAL app.current_user_id = 'many';
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', 'agents', 'many-' || i, 'many', 'insert', 'c', jsonb_build_object('name', 'A', 'state', 'active', 'policy', '{"defaultForAi": "deny"}'::jsonb)
  FROM generate_series(1, 1500) i;
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
SELECT 'ai', 'aiMissions', 'many-' || i, 'many', 'insert', 'c', jsonb_build_object(
    'state', 'active', 'title', 'M' || i, 'objective', 'O', 'agentId', 'many-' || i, 'iterations', '[]'::jsonb,
    'cadence', '{"kind": "manual"}'::jsonb, 'nextRunAt', '2020-01-01T00:00:00Z')
  FROM generate_series(1, 1500) i;
COMMIT;
END
$model->control({ steps => [ { content => 'Nichts zu tun.', usage => { prompt_tokens => 5, completion_tokens => 2, total_tokens => 7 } } ], repeat => 'last' });
is(run_tick($node)->{plans_written_back}, 1500, '1500 agents in one tick');
my $series = value($node, "SELECT count(*) FROM mana_ai.metrics WHERE name = 'mana_ai_tokens_used_total'");
is($series, 1000, 'have 1000 series together, "other" among them as one agent has that id');
is(metric('tokens_used_total'), value($node, 'SELECT sum(tokens_used) FROM mana_ai.token_usage'), 'no token is lost');
is(metric('tokens_used_total', agent_id => 'other'),
    value($node, <<'END'), 'those beyond are in "other"');
SELECT sum(u.tokens_used) FROM mana_ai.token_usage u
 WHERE u.agent_id = 'other' OR NOT EXISTS (SELECT FROM mana_ai.metrics m WHERE m.name = 'mana_ai_tokens_used_total'
   AND m.labels ->> 'agent_id' IN (u.agent_id, left(u.agent_id, 48)) OR u.agent_id IS NULL)
END
push_mission($node, 'provider', cadence => { kind => 'manual' });
settings($node, 'mana_ai.planner_model' => 'newcomer/model');
$model->reset;
$model->control({ steps => [ { status => 500 } ] });
run_mission($node, 'provider');
is(metric('provider_errors_total', provider => 'newcomer', kind => 'unknown'), 1, 'other metrics still have room');

# ---------------------------------------------------------------- Prometheus' own judgement

SKIP:
{
    skip 'promtool is not installed (Debian package prometheus)', 4 unless -x $promtool;
    my $exposition = $node->basedir . '/metrics.txt';
    append_to_file($exposition, $node->safe_psql('mana_sync', 'SELECT mana_ai.metrics()') . "\n");
    my ($out, $err) = ('', '');
    my $ok = IPC::Run::run([ $promtool, 'check', 'metrics' ], '<', $exposition, '>', \$out, '2>', \$err);
    is("$out$err", '', 'promtool check metrics has nothing to say');
    ok($ok, 'and accepts them');
    $node->command_ok([ $promtool, 'check', 'rules', "$docs/prometheus/alerts.yml" ], 'promtool accepts the alerts');
    $node->command_ok([ $promtool, 'test', 'rules', "$ENV{MANA_AI_TEST_DATA}/alerts_test.yml" ],
        'each alert fires when it must, and only then');
}
my @alerts = slurp_file("$docs/prometheus/alerts.yml") =~ /- alert: (\w+)/g;
my $alert_tests = slurp_file("$ENV{MANA_AI_TEST_DATA}/alerts_test.yml");
cmp_ok(scalar @alerts, '>=', 10, 'there are alerts');
is(join(' ', grep { $alert_tests !~ /alertname="$_"/ } @alerts), '', 'and a case for each in which it fires');

# ---------------------------------------------------------------- alerts and dashboard

my %known;
for my $line (grep { /^# TYPE / } split /\n/, $text)
{
    my (undef, undef, $name, $type) = split / /, $line;
    $known{$_} = 1 for $type eq 'histogram' ? map { $name . $_ } qw(_bucket _sum _count) : $name;
}
my $dashboard = JSON::PP->new->utf8->decode(slurp_file("$docs/grafana/mana_ai.json"));
my @expressions;
my $collect;
$collect = sub {
    my ($node_of_json) = @_;
    if (ref $node_of_json eq 'HASH')
    {
        push @expressions, $node_of_json->{expr} if defined $node_of_json->{expr};
        $collect->($_) for values %$node_of_json;
    }
    elsif (ref $node_of_json eq 'ARRAY') { $collect->($_) for @$node_of_json }
};
$collect->($dashboard->{panels});
cmp_ok(scalar @expressions, '>=', 10, 'the dashboard has expressions');
is(scalar(grep { ($_->{datasource}{uid} // '') !~ /^\$\{?datasource\}?$/ } grep { $_->{targets} } @{ $dashboard->{panels} }), 0,
    'every panel takes the datasource that the user chooses');
ok((grep { $_->{type} eq 'datasource' && $_->{name} eq 'datasource' } @{ $dashboard->{templating}{list} }), 'which is a variable');
my %seen;
my @unknown = grep { !$known{$_} && !$seen{$_}++ } map { /\b(mana_ai_[a-z_]+)/g } @expressions, slurp_file("$docs/prometheus/alerts.yml");
is("@unknown", '', 'dashboard and alerts ask only for metrics that there are');
my $page = slurp_file("$docs/observability.md");
is(join(' ', grep { my $m = $_; $m =~ s/_(?:bucket|sum|count)$//; $page !~ /`\Q$m\E[`{]/ } sort keys %known), '', 'observability.md explains every metric');
my $shown = join ' ', @expressions;
is(join(' ', grep { my $m = $_; $m =~ s/_(?:bucket|sum|count)$//; !/_bucket$/ && $shown !~ /\b\Q$m\E(?:_bucket|_sum|_count)?\b/ } sort keys %known),
    '', 'the dashboard shows every metric');

SKIP:
{
    skip 'promtool is not installed (Debian package prometheus)', 1 unless -x $promtool;
    my $rules = $node->basedir . '/dashboard_rules.yml';
    my $text_of_rules = "groups:\n- name: dashboard\n  rules:\n";
    my $number = 0;
    for my $expr (@expressions)
    {
        (my $plain = $expr) =~ s/\$__rate_interval|\$__range/5m/g;
        $text_of_rules .= '  - record: dashboard:' . $number++ . "\n    expr: " . JSON::PP->new->allow_nonref->encode($plain) . "\n";
    }
    $text_of_rules =~ s/dashboard:(\d+)/dashboard:panel$1/g;
    append_to_file($rules, $text_of_rules);
    $node->command_ok([ $promtool, 'check', 'rules', $rules ], 'promtool can read every expression of the dashboard');
}

is(snapshots_differ($node), '', 'all snapshots are replays');
$node->stop;

# ---------------------------------------------------------------- not preloaded

$node = new_cluster('metrics_alone', model => $model);
my $alone = $node->safe_psql('mana_sync', "SELECT set_config('app.current_user_id', 'u', false);
INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data) VALUES ('ai', 'aiMissions', 'm', 'u', 'insert', 'c', '{}');
SELECT mana_ai.metrics()");
like($alone, qr/^# mana_ai is not in shared_preload_libraries: these counters are those of this process only$/m, 'without preload the text says whose counters these are');
like($alone, qr/^mana_ai_snapshots_new_total\{service="mana-ai"\} 1$/m, 'and this session\'s count');
is(metric('snapshots_new_total'), 0, 'another session has its own');
is(run_tick($node)->{due_mission_count}, 0, 'a tick counts for itself');
$node->stop;
$model->stop;
done_testing();
