# Code of others that runs in our processes (what the owner of sync_changes has put on it, resolvers): it
# runs with its owner's rights, leaves nothing behind, and delays nobody for long.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('foreign_code', preload => 1, model => $model);

sub as_owner
{
    my ($sql) = @_;
    $node->safe_psql('mana_sync', $sql, extra_params => [ '-U', 'sync_owner' ]);
    return;
}

# sync_owner owns the table as mana-sync's migration role does. Wherever her code runs in a process of
# ours, it tries to get more than it has and to leave something behind.
value($node, <<'END');
CREATE ROLE sync_owner LOGIN;
GRANT CREATE, TEMPORARY ON DATABASE mana_sync TO sync_owner;
GRANT CREATE ON SCHEMA public TO sync_owner;
ALTER TABLE public.sync_changes OWNER TO sync_owner;
END
as_owner(<<'END');
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE TABLE evil.seen (place text, who text, trick text, worked boolean, why text);
CREATE FUNCTION evil.is_super() RETURNS boolean LANGUAGE sql AS
  $$ SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user $$;
CREATE FUNCTION evil.eq(a text, b text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF evil.is_super() THEN ALTER ROLE sync_owner SUPERUSER; END IF;
  RETURN a OPERATOR(pg_catalog.=) b;
END $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE FUNCTION evil.try(place text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  of_user text := current_setting('app.current_user_id', true);
  attempt text;
  problem text;
BEGIN
  IF current_setting('application_name') NOT IN ('mana_ai worker', 'mana_ai tick', 'owned') THEN
    RETURN true;
  END IF;
  IF evil.is_super() THEN ALTER ROLE sync_owner SUPERUSER; END IF;
  FOREACH attempt IN ARRAY ARRAY[
    'SET statement_timeout = 1', 'SET lock_timeout = 1', 'SET row_security = off',
    'SET idle_in_transaction_session_timeout = 1', 'SET synchronous_commit = off', 'SET TimeZone = ''Asia/Tokyo''',
    'SET client_encoding = LATIN1', 'SET default_transaction_isolation = serializable',
    'SET session_replication_role = replica', 'SET log_min_messages = panic', 'SET log_statement = ''all''',
    'SET ROLE postgres', 'SET SESSION AUTHORIZATION postgres', 'RESET ROLE', 'RESET ALL',
    'SET mana_ai.llm_url = ''http://evil''', 'ALTER ROLE sync_owner SUPERUSER',
    'SELECT pg_advisory_lock(4711), pg_advisory_lock(4711), pg_advisory_lock_shared(47, 11)',
    'SELECT pg_advisory_xact_lock(815)',
    'LISTEN evil', 'PREPARE evil AS SELECT 1', 'DEALLOCATE ALL', 'CREATE TEMP TABLE kept (a int)',
    'DECLARE kept CURSOR WITH HOLD FOR SELECT 1', 'SET CONSTRAINTS ALL DEFERRED', 'DISCARD PLANS']
  LOOP
    problem := NULL;
    BEGIN
      EXECUTE attempt;
    EXCEPTION WHEN OTHERS THEN
      problem := SQLSTATE || ' ' || SQLERRM;
    END;
    INSERT INTO evil.seen VALUES (place, current_user, attempt, problem IS NULL, problem);
  END LOOP;
  -- Without it the table's policy would refuse the row.
  PERFORM set_config('app.current_user_id', of_user, false);
  PERFORM set_config('application_name', 'owned', false), set_config('default_transaction_read_only', 'on', false),
    set_config('app.current_user_space_ids', 'all', false), set_config('evil.mark', 'set', false),
    set_config('search_path', 'evil, pg_catalog', false);
  RETURN true;
END $$;
CREATE FUNCTION evil.in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM evil.try(TG_NAME);
  RETURN NEW;
END $$;
CREATE FUNCTION evil.constant(place text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN RETURN evil.try(place); END $$;
END

my $pid = wait_for_worker($node);
my $number = 0;

# A role that is not a superuser cannot stop us.
for my $process (split /\n/, value($node, "SELECT pid || ' ' || backend_type FROM pg_stat_activity WHERE backend_type LIKE 'mana_ai%'"))
{
    my ($of, $type) = $process =~ /^(\d+) (.*)$/;
    for my $function (qw(pg_terminate_backend pg_cancel_backend))
    {
        my ($status, $out, $errors) = $node->psql('mana_sync', "SELECT $function($of)", extra_params => [ '-U', 'sync_owner' ]);
        like($errors, qr/must be a superuser|must be a member|permission denied/, "$function() of a $type is refused");
    }
}
is(worker_pid($node), $pid, 'the worker goes on');

# What a worker must look like after foreign code has run in it.
sub is_untouched
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(value($node, "SELECT rolsuper FROM pg_roles WHERE rolname = 'sync_owner'"), 'f', "$what: nobody became superuser");
    is(worker_pid($node), $pid, "$what: the worker goes on");
    is(value($node, "SELECT application_name FROM pg_stat_activity WHERE pid = $pid"), 'mana_ai worker',
        "$what: as what it is");
    is(value($node, "SELECT string_agg(classid || ' ' || objid || ' ' || objsubid, ', ') FROM pg_locks "
              . "WHERE pid = $pid AND locktype = 'advisory' AND objsubid IN (1, 2)"), '', "$what: without locks of others");
    cmp_ok(value($node, "SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype = 'advisory' AND objsubid = 28001"),
        '>', 0, "$what: with its own");
    return;
}

# The code is put in place, a mission of a user is written back with it, and two of others after it.
sub is_harmless
{
    my ($place, $sql, $undo) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    as_owner("TRUNCATE evil.seen; $sql");
    for my $user (qw(first second third))
    {
        push_mission($node, ++$number, user => $user);
        wait_for_iterations($node, $number, 1, 30);
    }
    cmp_ok(value($node, "SELECT count(*) FROM evil.seen WHERE place = '$place' AND trick = 'LISTEN evil'"), '>=', 1,
        "$place: the code has run");
    is(value($node, "SELECT string_agg(DISTINCT who, ', ') FROM evil.seen"), 'sync_owner', "$place: as its owner");
    is(value($node, "SELECT string_agg(DISTINCT trick, '; ') FROM evil.seen WHERE worked AND trick ~ "
              . "'ROLE|AUTHORIZATION|replica|log_|llm_url|LISTEN|PREPARE|DEALLOCATE|TEMP|HOLD'"), '',
        "$place: what would outlast it was refused");
    is_untouched($place);
    as_owner($undo);
    return;
}

is_harmless('before_insert',
    'CREATE TRIGGER before_insert BEFORE INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION evil.in_trigger()',
    'DROP TRIGGER before_insert ON public.sync_changes');
is_harmless('after_insert',
    'CREATE TRIGGER after_insert AFTER INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION evil.in_trigger()',
    'DROP TRIGGER after_insert ON public.sync_changes');
is_harmless('each_statement',
    'CREATE TRIGGER each_statement AFTER INSERT ON public.sync_changes FOR EACH STATEMENT EXECUTE FUNCTION evil.in_trigger()',
    'DROP TRIGGER each_statement ON public.sync_changes');
is_harmless('late',
    'CREATE CONSTRAINT TRIGGER late AFTER INSERT ON public.sync_changes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW '
      . 'EXECUTE FUNCTION evil.in_trigger()',
    'DROP TRIGGER late ON public.sync_changes');
is_harmless('default',
    "ALTER TABLE public.sync_changes ADD COLUMN note boolean DEFAULT evil.try('default')",
    'ALTER TABLE public.sync_changes DROP COLUMN note');
is_harmless('check',
    "ALTER TABLE public.sync_changes ADD CONSTRAINT evil CHECK (op <> 'none' AND evil.try('check'))",
    'ALTER TABLE public.sync_changes DROP CONSTRAINT evil');
is_harmless('policy',
    "CREATE POLICY evil ON public.sync_changes AS RESTRICTIVE FOR INSERT WITH CHECK (evil.try('policy'))",
    'DROP POLICY evil ON public.sync_changes');
is_harmless('expression',
    "CREATE INDEX evil ON public.sync_changes ((evil.constant('expression')))",
    'DROP INDEX evil');
is_harmless('predicate',
    "CREATE INDEX evil ON public.sync_changes (record_id) WHERE evil.constant('predicate')",
    'DROP INDEX evil');

# A policy for reading: what a mission refers to is read under it.
push_change($node, app => 'notes', table => 'notes', id => 'n1', op => 'insert', user => 'reader',
    data => { id => 'n1', title => 'Einkauf', content => 'Milch' });
as_owner("TRUNCATE evil.seen; CREATE POLICY evil ON public.sync_changes AS RESTRICTIVE FOR SELECT USING (evil.try('reading'))");
push_mission($node, 'reads', user => 'reader', inputs => [ { module => 'notes', table => 'notes', id => 'n1' } ]);
wait_for_iterations($node, 'reads', 1, 30);
is(last_run($node, 'reads', 'reader')->{inputs}[0]{used}, JSON::PP::true, 'reading: the record was read');
is_untouched('reading');
as_owner('DROP POLICY evil ON public.sync_changes');

# Every insert runs the owner's code as well; our trigger must not run it with our rights.
as_owner("CREATE INDEX evil ON public.sync_changes (record_id) WHERE evil.constant('insert')");
push_mission($node, 'client', user => 'first', nextRunAt => iso(3600));
is(value($node, "SELECT rolsuper FROM pg_roles WHERE rolname = 'sync_owner'"), 'f', 'our trigger gives no rights away');
as_owner('DROP INDEX evil');

# ---------------------------------------------------------------- a resolver

as_owner(<<'END');
CREATE FUNCTION evil.resolve(user_id text, ref jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_lock(4711), pg_advisory_lock_shared(47, 11), set_config('search_path', 'evil, pg_catalog', false),
    set_config('application_name', 'owned', false), set_config('default_transaction_read_only', 'on', false);
  RETURN '{"content": "Erledigt"}';
END $$;
END
value($node, "SELECT mana_ai.register_resolver('evil', 'evil.resolve(text, jsonb)')");
push_mission($node, 'resolved', user => 'first', inputs => [ { module => 'evil', table => 'x', id => '1' } ]);
wait_for_iterations($node, 'resolved', 1, 30);
is(last_run($node, 'resolved', 'first')->{inputs}[0]{used}, JSON::PP::true, 'resolver: it was asked');
is_untouched('resolver');
value($node, "SELECT mana_ai.unregister_resolver('evil')");

# ---------------------------------------------------------------- an error that looks like an interrupt

as_owner(<<'END');
CREATE FUNCTION evil.pretend() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.user_id = 'pretender' AND NEW.client_id = 'mana-ai-runner' THEN
    RAISE EXCEPTION 'canceling statement due to user request' USING ERRCODE = 'query_canceled';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER pretend BEFORE INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION evil.pretend();
END
my $position = log_position($node);
push_mission($node, 'pretended', user => 'pretender');
wait_until('a pretended cancel fails one write-back', 30,
    sub { log_since($node, $position) =~ /mission pretended could not be written and are tried again: SQLSTATE 38000/ });
push_mission($node, 'beside', user => 'second');
wait_for_iterations($node, 'beside', 1, 30);
unlike(log_since($node, $position), qr/runs canceled/, 'and cancels nothing else');
as_owner('DROP TRIGGER pretend ON public.sync_changes');
wait_for_iterations($node, 'pretended', 1, 60);

# ---------------------------------------------------------------- slow code

settings($node, 'mana_ai.sync_table_timeout' => '1s');
as_owner(<<'END');
CREATE FUNCTION evil.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.client_id = 'mana-ai-runner' AND NEW.user_id = 'sleeper' THEN PERFORM pg_sleep(600); END IF;
  IF NEW.client_id = 'mana-ai-runner' AND NEW.user_id = 'dawdler' THEN PERFORM pg_sleep(0.8); END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER dawdle BEFORE INSERT ON public.sync_changes FOR EACH ROW EXECUTE FUNCTION evil.dawdle();
END
$position = log_position($node);
push_mission($node, 'asleep', user => 'sleeper');
push_mission($node, 'awake', user => 'third');
wait_for_iterations($node, 'awake', 1, 30);
wait_until('a write-back that does not end is ended', 30,
    sub { log_since($node, $position) =~ /mission asleep was not written within mana_ai\.sync_table_timeout/ });
is(last_run($node, 'asleep', 'sleeper')->{outcome}, 'running', 'its plan is kept and tried again');
unlike(log_since($node, $position), qr/runs canceled/, 'other runs go on');

# Many missions of one user, each slow but within the limit: that user waits, the others do not.
push_missions($node, [ map { "slow-$_" } 1 .. 30 ], user => 'dawdler');
wait_for($node, 'slow write-backs have begun', 30,
    "SELECT count(*) > 0 FROM public.sync_changes WHERE user_id = 'dawdler' AND client_id = 'mana-ai-runner'", 't');
push_mission($node, 'quick', user => 'fourth');
wait_for_iterations($node, 'quick', 1, 30);
cmp_ok(value($node, "SELECT count(*) FROM public.sync_changes WHERE user_id = 'dawdler' AND client_id = 'mana-ai-runner'"),
    '<', 6, 'a user whose rows are slow does not go before all others');
as_owner('DROP TRIGGER dawdle ON public.sync_changes');
wait_for_iterations($node, 'asleep', 1, 90);
is_untouched('slow code');

# A policy that is slow to read.
as_owner(<<'END');
CREATE FUNCTION evil.ponder() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('app.current_user_id') = 'ponderer' AND current_setting('application_name') = 'mana_ai worker' THEN
    PERFORM pg_sleep(600);
  END IF;
  RETURN true;
END $$;
CREATE POLICY evil ON public.sync_changes AS RESTRICTIVE FOR SELECT USING (evil.ponder());
END
push_change($node, app => 'notes', table => 'notes', id => 'n2', op => 'insert', user => 'ponderer',
    data => { id => 'n2', title => 'Einkauf', content => 'Milch' });
push_mission($node, 'ponders', user => 'ponderer', inputs => [ { module => 'notes', table => 'notes', id => 'n2' } ]);
wait_for_iterations($node, 'ponders', 1, 90);
is(last_run($node, 'ponders', 'ponderer')->{inputs}[0]{reason}, 'failed-54000', 'a record that is not read in time is left out');
as_owner('DROP POLICY evil ON public.sync_changes');

# ---------------------------------------------------------------- settings that were changed all the same

# A trigger that an administrator has put on a table of mana_ai runs as we do, to the end of its transaction. What it
# changes is noticed before the next one.
value($node, <<'END');
CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config(TG_ARGV[0], TG_ARGV[1], false);
  RETURN NEW;
END $$;
END
for my $case ([ search_path => 'public, pg_catalog' ], [ default_transaction_read_only => 'on' ], [ session_replication_role => 'replica' ])
{
    my ($name, $value) = @$case;
    $position = log_position($node);
    # One that ends as soon as it has begun is started again later.
    wait_for($node, "$name: the worker has run for a while", 60,
        "SELECT coalesce(max(clock_timestamp() - backend_start), '0') > '3 s' FROM pg_stat_activity WHERE backend_type = 'mana_ai worker'", 't');
    my $before = worker_pid($node);
    value($node, "CREATE TRIGGER meddle AFTER INSERT ON mana_ai.runs FOR EACH ROW EXECUTE FUNCTION public.meddle('$name', '$value')");
    push_mission($node, "meddled-$name", user => 'first');
    wait_until("$name: the process ends", 30,
        sub { log_since($node, $position) =~ /FATAL:  mana_ai: setting "$name" of this process has been changed from within/ });
    value($node, 'DROP TRIGGER meddle ON mana_ai.runs');
    wait_for($node, "$name: another one begins", 60, "SELECT worker_pid IS NOT NULL AND worker_pid <> $before FROM mana_ai.status()", 't');
    wait_for_iterations($node, "meddled-$name", 1, 60);
}

is(value($node, "SELECT rolsuper FROM pg_roles WHERE rolname = 'sync_owner'"), 'f', 'nobody became superuser');
is(snapshots_differ($node), '', 'all snapshots are replays');
unlike(log_since($node), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$node->stop;
$model->stop;
done_testing();
