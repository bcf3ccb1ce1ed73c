# A user is erased during calls in flight, a reply that waits to be written, and open transactions. Nothing of theirs
# comes back, and nobody else loses or waits for anything.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $model = start_model(latency_ms => 20);
my $node  = new_cluster('erasure', preload => 1, model => $model, conf => <<'END');
mana_ai.database = 'mana_sync, restored'
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '1s'
restart_after_crash = on
END
wait_for_worker($node);

# What names the user anywhere in our tables: "table: row", one line each.
sub traces_of
{
    my ($user, $database) = @_;
    my $sql = value($node, <<"END", $database);
SELECT string_agg(format('SELECT %L || t::text FROM mana_ai.%I t WHERE t::text ~ %L', c.relname || ': ', c.relname, '\\m$user\\M'), ' UNION ALL ')
  FROM pg_class c WHERE c.relnamespace = 'mana_ai'::regnamespace AND c.relkind = 'r'
END
    return value($node, $sql, $database);
}

# A transaction that has done something and ends when it is told to.
value($node, 'CREATE TABLE public.gates (name text)');
sub hold
{
    my ($name, $sql, $end) = @_;
    my $session = background($node, <<"END");
BEGIN;
$sql;
SET application_name = 'holds_$name';
DO \$\$ BEGIN WHILE NOT EXISTS (SELECT FROM public.gates WHERE name = '$name') LOOP PERFORM pg_sleep(0.02); END LOOP; END \$\$;
@{[ $end // 'COMMIT' ]};
END
    wait_for($node, "$name has begun", 20, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holds_$name'", 1);
    return sub {
        value($node, "INSERT INTO public.gates VALUES ('$name')");
        my ($status, undef, $err) = $session->finish(30);
        is("$status $err", '0 ', "$name has ended");
        return;
    };
}

sub erase { my ($user) = @_; return { map { $_->{table_name} => $_ } @{ rows($node, "SELECT * FROM mana_ai.erase_user('$user')") } } }
sub log_rows { my ($user) = @_; return value($node, "SELECT count(*) FROM public.sync_changes WHERE user_id = '$user'") }
sub is_complete { my ($what) = @_; return wait_for($node, $what, 30, 'SELECT count(*) FROM mana_ai.erasures_under_way', 0) }

# ---------------------------------------------------------------- calls in flight

push_agent($node, 'ada', user => 'antje', name => 'Ada');
push_mission($node, 'a0', user => 'antje', agentId => 'ada');
push_mission($node, 'b0', user => 'ben');
wait_for_iterations($node, $_, 1) for qw(a0 b0);
$model->reset;
$model->control({ latency_ms => 300_000 });
push_missions($node, [qw(a1 a2)], user => 'antje');
push_mission($node, 'b1', user => 'ben');
wait_until('three calls are in flight', 20, sub { return $model->in_flight == 3 });
my $in_log = log_rows('antje');
my $tokens = q{SELECT sum(value) FROM mana_ai.metrics WHERE name = 'mana_ai_tokens_used_total'};
my $of_ada = q{SELECT count(*) FROM mana_ai.metrics WHERE labels ->> 'agent_id' = 'ada'};
my $used = value($node, $tokens);
cmp_ok(value($node, $of_ada), '>', 0, 'metrics name the agent');
my $position = log_position($node);
my $erased = erase('antje');
is($erased->{'mana_ai.mission_snapshots'}{removed}, 3, 'snapshots are removed');
is($erased->{'mana_ai.runs'}{removed}, 3, 'so are runs, also those that go on');
cmp_ok($erased->{'mana_ai.token_usage'}{removed}, '>', 0, 'and the ledger');
is_deeply([ @{ $erased->{'public.sync_changes'} }{qw(removed kept)} ], [ 0, $in_log ], 'the log is not ours: its rows are counted');
wait_until('calls of the user have ended, that of the other goes on', 20, sub { return $model->in_flight == 1 });
is_complete('nobody can write anything of the user any more');
is(traces_of('antje'), '', 'nothing of the user is left');
is(value($node, $of_ada), 0, 'metrics do not name the agent any more');
is(value($node, $tokens), $used, 'and have lost nothing of what it has cost');
is(value($node, q{SELECT outcome FROM mana_ai.runs WHERE mission_id = 'b1'}), 'running', 'the other run is there');
is(value($node, q{SELECT array_to_string(errors, ',') FROM mana_ai.engine_state}), '', 'what the last tick could not do names no mission of theirs');
my $digest = value($node, q{SELECT encode(sha256('antje'), 'hex')});
like(log_since($node, $position), qr/mana_ai: a user was erased: by=postgres digest=$digest removed=\d+ kept=0\n/, 'who did it is in the log');
unlike(join("\n", grep { /LOG: +mana_ai: / } split /\n/, log_since($node, $position)), qr/\bantje\b/, 'without the id, and without the statement');
$model->control({ latency_ms => 20 });
push_mission($node, 'b2', user => 'ben');
wait_for_iterations($node, 'b2', 1);
is(log_rows('antje'), $in_log, 'no plan was written');
is(value($node, q{SELECT count(*) FROM mana_ai.erased_users}), 1, 'the digest stays');

# ---------------------------------------------------------------- a reply that waits to be written

# Somebody holds the mission's row: the plan cannot be written yet, and the row cannot be removed yet.
push_mission($node, 'c1', user => 'carl', nextRunAt => iso(3600));
my $end = hold('reader', q{SELECT 1 FROM mana_ai.mission_snapshots WHERE mission_id = 'c1' FOR UPDATE});
$model->reset;
my $tick = background($node, q{SELECT * FROM mana_ai.run_mission('carl', 'c1')});
wait_for($node, 'the model has answered in both rounds', 20, q{SELECT count(*) FROM mana_ai.token_usage WHERE user_id = 'carl'}, 2);
$in_log = log_rows('carl');
$erased = erase('carl');
is($erased->{'mana_ai.mission_snapshots'}{kept}, 1, 'a row that somebody holds is not waited for');
like($erased->{'mana_ai.mission_snapshots'}{why}, qr/another transaction holds them/, 'and the result says so');
$end->();
$tick->finish(20);
is_complete('then it goes as well');
is(traces_of('carl'), '', 'nothing of the user is left');
is(log_rows('carl'), $in_log, 'the plan that had been made is not written');

# ---------------------------------------------------------------- transactions that are not over

push_mission($node, 'd1', user => 'dora', nextRunAt => iso(3600));
$end = hold('writer', q{INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
    VALUES ('ai', 'aiMissions', 'd2', 'dora', 'insert', 'c', '{"title": "T", "state": "active"}'),
           ('ai', 'aiMissions', 'd1', 'dora', 'update', 'c', '{"title": "Neu"}')});
my $commit = hold('eraser', q{SELECT count(*) FROM mana_ai.erase_user('dora')});
# Of the same user, and of another, while neither of the two is over.
push_mission($node, 'd3', user => 'dora', nextRunAt => iso(3600));
push_mission($node, 'e1', user => 'emil', nextRunAt => iso(3600));
is(value($node, q{SELECT count(*) FROM mana_ai.mission_snapshots WHERE user_id = 'emil'}), 1, 'inserts of others are folded at once');
$commit->();
push_mission($node, 'd4', user => 'dora', nextRunAt => iso(3600));
is(value($node, q{SELECT count(*) FROM mana_ai.mission_snapshots WHERE mission_id IN ('d3', 'd4')}), 0, 'those of the user are not');
run_tick($node);
is(value($node, q{SELECT user_id FROM mana_ai.erasures_under_way}), 'dora', 'an erasure is not over while a transaction may bring something back');
fails_like($node, q{SELECT mana_ai.readmit_user('dora')}, qr/55000: the erasure of the user is still under way/, 'nor can it be taken back');
$end->();
is_complete('it is when that one is over');
is(traces_of('dora'), '', 'and nothing of the user is left');
# readmit_user() waits for a concurrent erase_user() of the same user.
my $again = hold('eraser_again', q{SELECT count(*) FROM mana_ai.erase_user('dora')});
my $readmission = background($node, q{SELECT mana_ai.readmit_user('dora')});
my $waits = q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%readmit_user(''dora%' AND wait_event_type = 'Lock'};
wait_for($node, 'a readmission waits for the erasure', 20, $waits, 1);
$again->();
my (undef, undef, $refusal) = $readmission->finish(20);
like($refusal, qr/the erasure of the user is still under way|canceling statement due to lock timeout/, 'and does not undo it');
is(value($node, q{SELECT count(*) FROM mana_ai.erased_users WHERE user_digest = mana_ai.digest_of_user('dora')}), 1, 'the user is still erased');
is_complete('that one is complete, too');
is(value($node, q{SELECT string_agg(b::text, E'\n') FROM public.broken_invariants() b
    WHERE NOT EXISTS (SELECT FROM mana_ai.erased_users e WHERE e.user_digest = mana_ai.digest_of_user(b.user_id))}),
    '', 'snapshots of all others are replays');

# Rolled back it was nothing, and what was pushed meanwhile counts.
$position = log_position($node);
my $rollback = hold('thinks_again', q{SELECT count(*) FROM mana_ai.erase_user('emil')}, 'ROLLBACK');
push_mission($node, 'e2', user => 'emil', nextRunAt => iso(3600));
$rollback->();
value($node, q{BEGIN; SAVEPOINT s; SELECT count(*) FROM mana_ai.erase_user('emil'); ROLLBACK TO s; COMMIT});
unlike(log_since($node, $position), qr/mana_ai: a user was erased/, 'what is rolled back is not in the log, neither a transaction nor a part of it');
wait_for($node, 'a rolled back erasure leaves everything as it was', 20, q{SELECT string_agg(mission_id, ',' ORDER BY mission_id) FROM mana_ai.mission_snapshots WHERE user_id = 'emil'}, 'e1,e2');

# ---------------------------------------------------------------- locks and cancels

$end = hold('locker', 'LOCK TABLE mana_ai.user_budgets');
fails_like($node, q{SELECT mana_ai.erase_user('emil')}, qr/55P03: canceling statement due to lock timeout/, 'a locked table is not waited for without end');
$end->();
# Deleting takes long; nothing but the cancel ends it.
value($node, <<'END');
CREATE FUNCTION public.sleeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN OLD; END $$;
CREATE TRIGGER sleeps BEFORE DELETE ON mana_ai.mission_snapshots FOR EACH ROW WHEN (OLD.user_id = 'emil') EXECUTE FUNCTION public.sleeps();
END
my $session = background($node, q{SELECT mana_ai.erase_user('emil')});
wait_for($node, 'an erasure takes long', 20, q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%erase_user(''emil%' AND wait_event = 'PgSleep'}, 1);
value($node, q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%erase_user(''emil%' AND wait_event = 'PgSleep'});
my (undef, undef, $error) = $session->finish(20);
like($error, qr/canceling statement due to user request/, 'it can be cancelled');
value($node, 'DROP TRIGGER sleeps ON mana_ai.mission_snapshots');
is(value($node, q{SELECT count(*) FROM mana_ai.mission_snapshots WHERE user_id = 'emil'}), 2, 'and has done nothing then');

# ---------------------------------------------------------------- others go on

# The transaction that erases somebody stays open, through passes that record ticks.
my $open = hold('slow_eraser', q{SELECT count(*) FROM mana_ai.erase_user('emil')}, 'ROLLBACK');
is(value($node, q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE a.application_name = 'holds_slow_eraser' AND l.relation = 'mana_ai.engine_state'::regclass}), 0, 'an erasure does not touch what workers write at each tick');
push_mission($node, 'b3', user => 'ben');
wait_for_iterations($node, 'b3', 1);
my $ticked = value($node, 'SELECT last_tick_at FROM mana_ai.engine_state');
wait_until('ticks are recorded meanwhile', 20, sub { return value($node, 'SELECT last_tick_at FROM mana_ai.engine_state') ne $ticked });
$open->();
# A lock on the row of the last tick does not delay planning.
$end = hold('state', 'SELECT 1 FROM mana_ai.engine_state FOR UPDATE');
$position = log_position($node);
wait_until('a tick cannot be recorded', 30, sub { return log_since($node, $position) =~ /a tick that goes on could not be recorded \(SQLSTATE 55P03\)|the end of a tick could not be recorded \(SQLSTATE 55P03\)/ });
push_mission($node, 'b4', user => 'ben');
wait_for_iterations($node, 'b4', 1);
$end->();

# An erasure that cannot be completed: what is left of the user cannot be deleted.
$end = hold('reader_again', q{INSERT INTO public.gates VALUES ('holds the horizon')});
erase('hans');
value($node, <<'END');
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, started_at, finished_at, outcome, decision) VALUES (gen_random_uuid(), 'hans', 'h1', now(), now(), 'planned', 'ran');
CREATE FUNCTION public.refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'XX001'; END $$;
CREATE TRIGGER refuses BEFORE DELETE ON mana_ai.runs FOR EACH ROW WHEN (OLD.user_id = 'hans') EXECUTE FUNCTION public.refuses();
END
erase($_) for qw(anna zoe);
$position = log_position($node);
$end->();
wait_for($node, 'others are completed', 30, q{SELECT string_agg(user_id, ',') FROM mana_ai.erasures_under_way}, 'hans');
wait_for($node, 'failures are counted', 30, q{SELECT failures > 0 FROM mana_ai.erasures_under_way}, 't');
my $hans = value($node, q{SELECT encode(sha256('hans'), 'hex')});
like(log_since($node, $position), qr/the erasure of a user cannot be completed at the moment: digest=$hans failures=1 SQLSTATE=XX001\n/, 'and the log says so');
value($node, 'DROP TRIGGER refuses ON mana_ai.runs');
is_complete('it is completed once it can be');
is(traces_of('hans'), '', 'and nothing of the user is left');
like(log_since($node, $position), qr/the erasure of a user is complete: digest=$hans audit_kept=0\n/, 'the log says that as well');

# A digest that comes from elsewhere meets what is there already.
push_agent($node, 'ina', user => 'ida', name => 'Ina');
push_mission($node, 'i1', user => 'ida', nextRunAt => iso(3600));
value($node, q{INSERT INTO mana_ai.erased_users (user_digest) VALUES (encode(sha256('ida'), 'hex'))});
wait_for($node, 'the next tick compares it with all users', 30, q{SELECT count(*) FROM mana_ai.export_user('ida')}, 0);
is_complete('and completes that erasure');
is(traces_of('ida'), '', 'nothing of the user is left');

# ---------------------------------------------------------------- many rows

value($node, q{INSERT INTO mana_ai.runs (run_id, user_id, mission_id, started_at, finished_at, outcome, decision)
    SELECT gen_random_uuid(), 'emil', 'e' || n % 1000, now(), now(), 'planned', 'ran' FROM generate_series(1, 200000) n});
$erased = erase('emil');
is($erased->{'mana_ai.runs'}{removed}, 200_000, 'many rows are removed at once');
is_complete('that erasure is complete, too');

# ---------------------------------------------------------------- a restore folds the whole log

my $backup = $node->backup_dir . '/erased.sql';
command_ok([ 'pg_dump', '-Fp', '-f', $backup, $node->connstr('mana_sync') ], 'pg_dump');
value($node, 'CREATE DATABASE restored TEMPLATE template0', 'postgres');
restore_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $backup, '-d', $node->connstr('restored') ], 'restore');
wait_for($node, 'the restored log is folded', 30, q{SELECT count(*) FROM mana_ai.mission_snapshots WHERE user_id = 'ben'}, 5, 'restored');
is(traces_of($_, 'restored'), '', "nothing of $_ comes back with it") for qw(antje carl dora emil);
value($node, 'SELECT * FROM mana_ai.refresh_snapshots(rebuild => true)', 'restored');
is(traces_of($_, 'restored'), '', "nor with a rebuild, of $_") for qw(antje dora);
is(value($node, 'SELECT count(*) FROM mana_ai.erased_users', 'restored'), 8, 'who was erased is in the dump');
$node->restart;
wait_for_worker($node);
push_mission($node, 'a9', user => 'antje');
push_mission($node, 'b9', user => 'ben');
wait_for_iterations($node, 'b9', 1);
is(traces_of('antje'), '', 'after a restart the user is still erased');

# ---------------------------------------------------------------- on disk

# Texts of the user in files of the data directory, the log and recycled WAL apart.
sub files_with
{
    my ($text) = @_;
    my $base = $node->data_dir;
    my @found;
    for my $file (split /\n/, `find '$base' -type f -not -path '*/pg_wal/*' -not -path '*/log/*'`)
    {
        open my $handle, '<:raw', $file or next;
        local $/;
        my $content = <$handle> // '';
        push @found, $file if index($content, $text) >= 0;
    }
    return \@found;
}
my $marker = 'Unverwechselbar-8813';
settings($node, 'mana_ai.tick_enabled' => 'off');
push_mission($node, 'f1', user => "frida-$marker", title => $marker, objective => $marker, nextRunAt => iso(3600));
push_agent($node, 'f2', user => "frida-$marker", name => $marker, memory => $marker);
value($node, "SELECT mana_ai.stop('user:frida-$marker', 'r'); SELECT mana_ai.resume('user:frida-$marker')");
value($node, 'ANALYZE; CHECKPOINT');
isnt(scalar @{ files_with($marker) }, 0, 'what users wrote is on disk');
my $kept = erase("frida-$marker");
settings($node, 'mana_ai.tick_enabled' => 'on');
is_complete('the erasure is complete');
value($node, "DELETE FROM public.sync_changes WHERE user_id = 'frida-$marker'");
value($node, 'ANALYZE');
# It keeps rows that a snapshot of the running worker may still see.
for (1 .. 10)
{
    value($node, 'VACUUM FULL');
    value($node, 'CHECKPOINT');
    last unless @{ files_with($marker) };
}
is_deeply(files_with($marker), [], 'after VACUUM FULL nothing of an erased user is in any file but the WAL');

unlike(log_since($node), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');

# ---------------------------------------------------------------- crashes on record

# A session that inserts a mission with that title stops inside the trigger, and is killed there.
value($node, <<'END');
CREATE FUNCTION public.slow(mana_ai.mission_snapshots) RETURNS boolean LANGUAGE plpgsql AS
$$ BEGIN IF $1.record ->> 'title' = 'Langsam' THEN PERFORM pg_sleep(600); END IF; RETURN true; END $$;
ALTER TABLE mana_ai.mission_snapshots ADD CONSTRAINT slow CHECK (public.slow(mission_snapshots));
END
my $victim = background($node, q{INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
    VALUES ('ai', 'aiMissions', 'g1', 'gerd', 'insert', 'c', '{"title": "Langsam"}')});
my $pid = '';
wait_until('a session is inside of the trigger', 20,
    sub { $pid = value($node, q{SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE 'INSERT INTO public.sync_changes%'}); $pid ne '' });
$position = log_position($node);
kill 9, $pid;
wait_until('the postmaster starts anew', 30, sub { log_since($node, $position) =~ /all server processes terminated; reinitializing/ });
wait_until('the server is back', 30, sub { accepts_sessions($node) });
$victim->finish(10);
my $crashes = $node->data_dir . '/mana_ai.crashes';
like(slurp_file($crashes), qr/gerd\0.*g1\0/s, 'a crash is on record with the mission that was in hand');
value($node, q{BEGIN; SELECT count(*) FROM mana_ai.erase_user('gerd'); ROLLBACK});
like(slurp_file($crashes), qr/gerd\0.*g1\0/s, 'an erasure that is rolled back leaves it so');
$erased = erase('gerd');
is($erased->{'file mana_ai.crashes'}{removed}, 1, 'the user is taken out of it');
unlike(slurp_file($crashes), qr/gerd|g1\0/, 'and of the file');
is($erased->{'mana_ai.mission_snapshots'}{removed}, 0, 'there was nothing else of theirs');
$node->stop;
$model->stop;
done_testing();
