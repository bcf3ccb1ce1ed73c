# What all users together have used is added up by minute. The sums follow everything that changes the ledger, also what
# other transactions do meanwhile, and a budget of all together reads the same little, however many replies a day has.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP ();
use ManaAi;
use Test::More;

my $model = start_model(latency_ms => 20);
my $node  = new_cluster('usage_sums', preload => 1, model => $model, conf => <<'END');
restart_after_crash = on
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '500ms'
mana_ai.planner_model = 'test/plan'
END
wait_for_worker($node);

my $day = "clock_timestamp() - interval '24 hours'";
# By the sums, and by the rows themselves.
my $summed  = "SELECT string_agg(format('%s %s %s', u.currency, u.tokens, trim_scale(u.cost)), ', ' ORDER BY u.currency) FROM mana_ai.usage_of_all(d.since) u WHERE u.tokens <> 0 OR u.cost <> 0";
my $counted = q{SELECT string_agg(format('%s %s %s', c.currency, c.tokens, trim_scale(c.cost)), ', ' ORDER BY c.currency) FROM (
  SELECT coalesce(u.currency, '') AS currency, sum(u.tokens_used) AS tokens, sum(u.cost) AS cost FROM mana_ai.token_usage u WHERE u.ts > d.since GROUP BY 1) c};
sub sums_hold
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $differ = value($node, "SELECT coalesce(($summed), 'nothing') || ' instead of ' || coalesce(($counted), 'nothing') FROM (SELECT $day AS since OFFSET 0) d WHERE ($summed) IS DISTINCT FROM ($counted)");
    is($differ, '', $what) or diag(value($node, "SELECT string_agg(format('%s %s: %s', k.minute, k.kept, k.is), E'\\n') FROM (SELECT coalesce(s.minute, u.minute) AS minute, s.tokens AS kept, u.tokens AS is FROM (SELECT minute, sum(tokens) AS tokens FROM mana_ai.usage_sums GROUP BY 1) s FULL JOIN (SELECT date_bin('1 minute', ts, 'epoch') AS minute, sum(tokens_used) AS tokens FROM mana_ai.token_usage GROUP BY 1) u ON u.minute = s.minute WHERE s.tokens IS DISTINCT FROM u.tokens AND coalesce(s.minute, u.minute) < mana_ai.usage_sums_end() ORDER BY 1 DESC LIMIT 40) k"));
    return;
}
sub has_caught_up { local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, 'the worker has added up everything but the last minutes', 60, "SELECT mana_ai.usage_sums_end() >= now() - interval '5 minutes' FROM mana_ai.usage_sums_end()", 't') }
sub end_sleep { return value($node, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}) }
# Replies of the day, evenly; each third has no price.
sub replies
{
    my ($number, $user) = @_;
    value($node, <<"END");
INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used, ts, run_id, model, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, cost, currency)
SELECT '$user', 'ada', 'm', 100 + i % 7, clock_timestamp() - interval '26 hours' * i / $number, gen_random_uuid(), CASE i % 3 WHEN 0 THEN 'test/other' ELSE 'test/plan' END, 90, 0, 10 + i % 7, 0,
       CASE WHEN i % 3 <> 0 THEN 0.0001 END, CASE WHEN i % 3 <> 0 THEN 'EUR' END
  FROM generate_series(1, $number) i
END
    return;
}

# ---------------------------------------------------------------- they follow the ledger

sums_hold('nothing was used');
replies(20_000, 'user-1');
sums_hold('replies that arrive with old times count');
has_caught_up();
sums_hold('and are added up');
replies(3000, 'user-2');
sums_hold('so are those that come into minutes that were complete');
value($node, q{INSERT INTO mana_ai.model_prices (model, currency, input_per_million, output_per_million) VALUES ('test/other', 'USD', 1, 1)});
wait_for($node, 'a price that is entered later holds for them', 60, q{SELECT count(*) FROM mana_ai.token_usage WHERE cost IS NULL}, 0);
sums_hold('sums follow prices');
value($node, q{UPDATE mana_ai.model_prices SET input_per_million = 20; SELECT mana_ai.reprice_usage('-infinity')});
sums_hold('and corrected ones');
value($node, q{DELETE FROM mana_ai.token_usage WHERE id IN (SELECT id FROM mana_ai.token_usage WHERE model = 'test/plan' LIMIT 10)});
sums_hold('and rows that go');
value($node, q{SELECT mana_ai.erase_user('user-2')});
sums_hold('and erased users');
push_mission($node, 'm1', user => 'user-3', cadence => { kind => 'manual' });
wait_for($node, 'a mission is planned', 30, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'm1' AND outcome = 'planned'}, 1);
sums_hold('and new replies');
value($node, q{UPDATE mana_ai.token_usage SET ts = ts - interval '30 minutes' WHERE mission_id = 'm1'});
sums_hold('and moved ones');

value($node, q{CREATE ROLE importer; GRANT USAGE ON SCHEMA mana_ai TO importer; GRANT INSERT ON mana_ai.token_usage TO importer});
value($node, q{SET ROLE importer; INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, ts) VALUES ('user-7', 'm', 33, now() - interval '3 hours')});
sums_hold('and rows of a role that may do nothing but insert them');
is(value($node, q{SELECT sum(u.tokens) FROM mana_ai.usage_of_all(now() - interval '40 hours') u}),
    value($node, q{SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE ts > now() - interval '40 hours'}), 'what is older than the sums is read from the ledger');

# Nothing is added up while somebody else may be charging.
my $charging = background($node, q{BEGIN; SELECT mana_ai.lock_budgets(); SELECT pg_sleep(600)});
wait_for($node, 'a transaction has the lock of budgets', 20, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 1);
value($node, q{DELETE FROM mana_ai.usage_sums});
is(value($node, q{SELECT coalesce(mana_ai.advance_usage_sums(100000)::text, 'busy')}), 'busy', 'the sums do not advance meanwhile');
is(value($node, q{SELECT count(*) FROM mana_ai.usage_sums}), 0, 'not by the worker either');
sums_hold('looks read the ledger');
end_sleep();
$charging->finish(20);
has_caught_up();
sums_hold('the next housekeeping adds everything up anew');

# Sums are thrown away while minutes are being completed: these do not stay as if all before them had been added up.
my $holder = background($node, q{SELECT pg_advisory_lock(72); SELECT pg_sleep(600)});
wait_for($node, 'a session has a lock', 20, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 1);
my $completing = background($node, q{BEGIN; SELECT mana_ai.lock_budgets(); DELETE FROM mana_ai.usage_sums WHERE minute > now() - interval '1 hour'; SELECT mana_ai.advance_usage_sums(100000); SELECT pg_advisory_xact_lock(72); COMMIT});
wait_for($node, 'the last hour is completed, and not committed', 20, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'SELECT pg_advisory_xact_lock%'}, 1);
my $remaking = background($node, q{SELECT mana_ai.remake_usage_sums()});
wait_for($node, 'who throws the sums away waits', 20, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'SELECT mana_ai.remake%'}, 1);
end_sleep();
$holder->finish(20);
is(($completing->finish(20))[0], 0, 'the hour is committed');
is(($remaking->finish(20))[0], 0, 'then everything is thrown away');
sums_hold('no minute is missing');
has_caught_up();
sums_hold('all are added up anew');
fails_like($node, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT mana_ai.$_", qr/25000: .* must be called in a READ COMMITTED transaction/, "$_ has to see what others commit")
  for 'advance_usage_sums(100000)', 'remake_usage_sums()';

# An operator's transaction that ends long after its rows' minute was added up, and one that does not end well.
my $late = background($node, q{BEGIN; INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, ts) VALUES ('user-4', 'm', 777, now() - interval '1 hour'); UPDATE mana_ai.token_usage SET tokens_used = tokens_used + 1 WHERE user_id = 'user-1'; SELECT pg_sleep(3); COMMIT});
wait_for($node, 'a transaction has written to the ledger', 20, q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 1);
sums_hold('what is not committed does not count');
value($node, q{TRUNCATE mana_ai.usage_sums});
has_caught_up();
sums_hold('sums that were thrown away are made anew, without it');
$late->finish(20);
my $truncated = log_position($node);  # TRUNCATE had to wait for that transaction, and housekeeping for TRUNCATE
is(value($node, q{SELECT tokens_used FROM mana_ai.token_usage WHERE user_id = 'user-4'}), 777, 'it commits');
sums_hold('and counts once');
value($node, q{BEGIN; DELETE FROM mana_ai.token_usage WHERE user_id = 'user-1'; ROLLBACK});
sums_hold('what was rolled back has changed nothing');

# Merged entries say the same.
value($node, q{INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, ts) SELECT 'user-5', 'm', 1, now() - i * interval '5 seconds' FROM generate_series(100, 5000) i});
my $before = value($node, 'SELECT count(*) FROM mana_ai.usage_sums');
wait_for($node, 'many entries are merged', 100, "SELECT count(*) < $before / 2 FROM mana_ai.usage_sums", 't');
sums_hold('merging changes nothing');

# Rows that arrive by replication fire ordinary triggers in no case.
value($node, q{SET session_replication_role = replica; INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used, ts) VALUES ('user-6', 'm', 50, now() - interval '2 hours'); INSERT INTO mana_ai.usage_sums (minute, currency, tokens) VALUES (now(), 'EUR', 1)});
sums_hold('replicated rows count, and another server\'s sums do not');
value($node, q{SET session_replication_role = replica; UPDATE mana_ai.token_usage SET tokens_used = tokens_used + 7, cost = 0.5, currency = 'EUR' WHERE user_id = 'user-6'});
sums_hold('so do their changes');
value($node, q{SET session_replication_role = replica; DELETE FROM mana_ai.token_usage WHERE user_id = 'user-6'});
sums_hold('and that they go');

# A clock that is set back: complete minutes lie ahead.
value($node, q{INSERT INTO mana_ai.usage_sums (minute, currency, tokens, is_complete) VALUES (now() + interval '3 hours', '', 5000, true)});
sums_hold('sums of the future are not used');
wait_for($node, 'and made anew', 30, q{SELECT count(*) FROM mana_ai.usage_sums WHERE minute > now()}, 0);
has_caught_up();
sums_hold('from the ledger');

# ---------------------------------------------------------------- what a look reads

# The buffers that the two ways read; the first look of a session reads catalogs too.
sub read_by { my ($query) = @_;
    my $plan = value($node, "PREPARE look AS $query; EXECUTE look; EXECUTE look; EXECUTE look; EXPLAIN (ANALYZE, BUFFERS, FORMAT json) EXECUTE look");
    $plan =~ s/^.*?(?=\[\s*\{)//s;
    my $top = JSON::PP->new->decode($plan)->[0]{Plan};
    return $top->{'Shared Hit Blocks'} + $top->{'Shared Read Blocks'} }
my $look = "SELECT sum(tokens) FROM mana_ai.usage_of_all($day)";
my $cost = "SELECT used FROM mana_ai.cost_budgets_of('user-3', '')";
value($node, 'VACUUM ANALYZE mana_ai.token_usage; VACUUM ANALYZE mana_ai.usage_sums');
value($node, q{INSERT INTO mana_ai.cost_budgets (cost_per_day, currency) VALUES (1000000, 'EUR')});
my ($few, $few_cost) = (read_by($look), read_by($cost));
value($node, 'TRUNCATE mana_ai.token_usage');
sums_hold('an emptied ledger has no sums');
value($node, "SET session_replication_role = replica; ALTER TABLE mana_ai.token_usage DISABLE TRIGGER follow_insert");
replies(1_000_000, 'user-1');
value($node, 'ALTER TABLE mana_ai.token_usage ENABLE ALWAYS TRIGGER follow_insert; TRUNCATE mana_ai.usage_sums; VACUUM ANALYZE mana_ai.token_usage');
wait_for($node, 'a million replies are added up', 180, "SELECT mana_ai.usage_sums_end() >= now() - interval '5 minutes' FROM mana_ai.usage_sums_end()", 't');
value($node, 'VACUUM ANALYZE mana_ai.usage_sums');
sums_hold('rightly');
my ($many, $many_cost) = (read_by($look), read_by($cost));
diag("buffers of a look at all tokens: $few, with a million replies $many; at all costs: $few_cost and $many_cost");
# The replies of the last minutes and of the day's first are read: 640 a minute.
cmp_ok($many, '<', $few + 500, 'a look at the tokens of all reads about as much');
cmp_ok($many_cost, '<', $few_cost + 500, 'and one at their cost');
cmp_ok(read_by("SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE ts > $day"), '>', 2000, 'all rows would be much more');

# A budget of all together holds with them, in a process that has just begun.
my $used = value($node, "SELECT sum(tokens_used) FROM mana_ai.token_usage WHERE ts > $day");
settings($node, 'mana_ai.total_tokens_per_day' => 1_000_000);
value($node, 'SELECT pg_terminate_backend(worker_pid) FROM mana_ai.status()');
wait_for_worker($node);
push_mission($node, 'm2', user => 'user-3', cadence => { kind => 'manual' });
wait_for($node, 'it is used up', 30, q{SELECT decision FROM mana_ai.mission_schedule WHERE mission_id = 'm2' AND lease_owner IS NULL}, 'skipped-total-budget');
like(why_of($node, 'm2', 'user-3'), qr/^all missions together have used 9\d{7} of 1000000 tokens in the last 24 hours$/, 'why()');
value($node, q{SELECT mana_ai.erase_user('user-1')});
wait_for($node, 'until what was used goes with its user', 60, q{SELECT count(*) FROM mana_ai.runs WHERE mission_id = 'm2' AND outcome = 'planned'}, 1);

unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
unlike(log_since($node, $truncated), qr/housekeeping failed/, 'housekeeping goes well');
$node->stop;
$model->stop;
done_testing();
