# All faults at once: users edit, services fail, processes are killed, servers stop, tables are altered, rewritten
# and locked, clocks jump. After each round all of that ends, and a checker that uses none of the extension's code
# compares the result with the expected state:
#
#   - each record is what Oracle.pm makes of the raw rows; so is the schedule
#   - iterations, rows of the worker's and planned runs name each other, each once; feedback that was acknowledged
#     is there
#   - no lease, no running run, no mark, no lock is left; every mission can be planned
#   - each mission's ledger is the sum of its runs, and not more than the model server was asked for; and exactly
#     that in rounds without kills, stops and failing services
#
#   TORTURE_MINUTES   how long (default 2)
#   TORTURE_SEED      determines the actions, but not how they interleave; a seed that has failed once
#                     usually fails again
#   TORTURE_KILLS     this many kills and stops with 40 running missions, instead of the above
#   TORTURE_SMALL     a folder on a separate small file system, for a full disk
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin", "$FindBin::RealBin/../tap/lib";
use IO::Handle;
use IO::Socket::UNIX;
use IPC::Run;
use JSON::PP;
use ManaAi;
use Oracle;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $kills_wanted = $ENV{TORTURE_KILLS} // 0;
my $seed    = $ENV{TORTURE_SEED} || int(time * 1000) % 1_000_000;
my $minutes = $ENV{TORTURE_MINUTES} || 2;
my $small   = $ENV{TORTURE_SMALL} // '';
my $json    = JSON::PP->new->canonical->allow_nonref;
my $true    = JSON::PP::true;
my $missions_per_user = $kills_wanted ? 10 : 5;
my @owners = 1 .. 4;
STDOUT->autoflush(1);
note("seed $seed");

my $model = start_model(latency_ms => 40);
my $node = new_cluster('torture', preload => 1, model => $model, clock => 1, database => undef, conf => <<"END");
restart_after_crash = on
fsync = off
max_connections = 40
max_prepared_transactions = 10
deadlock_timeout = 200ms
mana_ai.max_unreviewed = 0
mana_ai.tick_interval = '2s'
mana_ai.llm_timeout = '3s'
END
create_sync_database($node, 'mana_sync');
# Many kills are what this is about.
settings($node, 'mana_ai.crash_limit' => 0) if value($node, "SELECT count(*) FROM pg_settings WHERE name = 'mana_ai.crash_limit'") eq '1';
value($node, <<'END');
CREATE EXTENSION IF NOT EXISTS mana_ai;
-- A device reads the newest record, and writes fields with a stamp later than all that it has seen.
CREATE FUNCTION public.device_edit(who text, mission text, patch jsonb, feedback text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  old jsonb; seen timestamptz; at text;
BEGIN
  PERFORM set_config('app.current_user_id', who, true);
  FOR i IN 1..100 LOOP
    SELECT record, mana_ai.newest_clock(record, clocks, ARRAY(SELECT jsonb_object_keys(record))) INTO old, seen
      FROM mana_ai.mission_snapshots WHERE user_id = who AND mission_id = mission FOR UPDATE;
    EXIT WHEN old IS NOT NULL;
    PERFORM pg_sleep(0.05);
  END LOOP;
  IF old IS NULL THEN RAISE EXCEPTION 'no mission %', mission; END IF;
  at := to_char((greatest(clock_timestamp(), seen) + interval '2 ms') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
  IF patch ? 'nextRunAt' THEN
    patch := jsonb_set(patch, '{nextRunAt}', to_jsonb(to_char((clock_timestamp() - interval '1 minute') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')));
  END IF;
  IF feedback IS NOT NULL AND jsonb_array_length(old -> 'iterations') > 0 THEN
    patch := patch || jsonb_build_object('iterations', jsonb_set(old -> 'iterations', '{-1,userFeedback}', to_jsonb(feedback)));
  END IF;
  -- It has not seen the newest one.
  IF patch ? 'iterations' AND feedback IS NULL THEN
    patch := patch || jsonb_build_object('iterations', (old -> 'iterations') - -1);
  END IF;
  EXECUTE format('INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, %I) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)',
      (SELECT attname FROM pg_attribute WHERE attrelid = 'public.sync_changes'::regclass AND attname IN ('field_timestamps', 'field_meta')))
    USING 'ai', 'aiMissions', mission, who, 'update', 'browser-1', patch, (SELECT jsonb_object_agg(k, at) FROM jsonb_object_keys(patch) k);
END $$;
END

# ---------------------------------------------------------------- asking a server that may be gone

# Status and output. Waits for nothing.
sub sql
{
    my ($text, %options) = @_;
    my ($out, $err) = ('', '');
    local $SIG{PIPE} = 'IGNORE';
    my @command = ($node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-U', $options{user} // 'postgres',
        '-d', $node->connstr($options{database} // 'mana_sync'), '-f', '-');
    my $status = eval {
        IPC::Run::run(\@command, '<', \ManaAi::encoded($text), '>', \$out, '2>', \$err, IPC::Run::timeout($options{timeout} // 60)) ? 0 : $? >> 8
    } // 2;
    chomp $out;
    utf8::decode($out);
    return ($status, $out, $err);
}

# One value, however long it takes for the server to come back.
sub ask
{
    my ($text) = @_;
    my $end = time + 120;
    while (1)
    {
        my ($status, $out, $err) = sql($text);
        return $out if $status == 0;
        die "$text: $err" if time > $end;
        sleep 0.1;
    }
}

sub worker { return (sql('SELECT worker_pid FROM mana_ai.status()'))[1] =~ /^(\d+)$/ ? $1 : undef }

sub process_of
{
    my ($type) = @_;
    my (undef, $pids) = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
    my @pids = split /\n/, $pids;
    return $pids[ int rand @pids ];
}

sub start_node
{
    local $ENV{LD_PRELOAD}         = "$ENV{MANA_AI_BIN}/clock_shift.so";
    local $ENV{MANA_AI_CLOCK_FILE} = ManaAi::clock_file($node);
    my $end = time + 60;
    until ($node->start(fail_ok => 1))
    {
        die 'the server does not start' if time > $end;
        sleep 0.3;
    }
    return;
}

# ---------------------------------------------------------------- users

my $round = 0;

sub missions_of { my ($owner) = @_; return map { "r$round-m$owner-$_" } 1 .. $missions_per_user }
sub user_of { return "r$round-u$_[0]" }
sub quoted { my ($text) = @_; $text =~ s/'/''/g; return "'$text'" }

sub edit_sql
{
    my ($owner, $mission, $patch, $feedback) = @_;
    return sprintf "SELECT public.device_edit('%s', '%s', %s, %s);\n", user_of($owner), $mission, quoted($json->encode($patch)),
      defined $feedback ? "'$feedback'" : 'NULL';
}

# Those of the last round do not run any more, so that each call of the model belongs to this one.
sub forget_last_round
{
    my $last = $round - 1;
    ask(join '', map {
        ManaAi::change_sql(user => "r$last-u$_", id => "r$last-d$_", op => 'delete', data => { deletedAt => iso(1) })
    } @owners) if $last;
    my $end = time + 60;
    sleep 0.1 until ask("SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'") eq '0' || time > $end;
    $model->reset;
    return;
}

sub make_missions
{
    my @changes;
    for my $owner (@owners)
    {
        push @changes, ManaAi::agent_change("r$round-agent-$_", user => user_of($owner), maxConcurrentMissions => 3) for 1, 2;
        push @changes, ManaAi::mission_change($_, user => user_of($owner), cadence => { kind => 'manual' }, title => "Mission $_", conceptMarkdown => "Marke $_ Ende")
          for missions_of($owner);
        # Deleted and made again, so iterations go with it.
        push @changes, ManaAi::mission_change("r$round-d$owner", user => user_of($owner), cadence => { kind => 'manual' });
    }
    ask(join '', map { ManaAi::change_sql(%$_) } @changes);
    return;
}

my %forgotten;

# What one user does next, as SQL; and the token of the feedback that it gives.
sub next_deed
{
    my ($owner, $count) = @_;
    my $user = user_of($owner);
    my @missions = missions_of($owner);
    my $mission = $missions[ int rand @missions ];
    my $other = $missions[ int rand @missions ];
    my $own = "SELECT set_config('app.current_user_id', '$user', true);\n";
    my $roll = int rand 100;
    return ("BEGIN;\n" . edit_sql($owner, $mission, { nextRunAt => 1, state => 'active' }, $count) . "COMMIT;\n", $mission, $count) if $roll < 45;
    return ("BEGIN;\n" . edit_sql($owner, $mission, { title => "Titel $count" }) . edit_sql($owner, $other, { nextRunAt => 1 })
          . edit_sql($owner, $mission, { state => 'paused' }) . edit_sql($owner, $mission, { state => 'active', nextRunAt => 1 }) . "COMMIT;\n") if $roll < 60;
    return ("BEGIN;\n" . edit_sql($owner, $mission, { objective => "Ziel $count" }) . "SAVEPOINT a;\n" . edit_sql($owner, $mission, { objective => 'Verworfen' })
          . "ROLLBACK TO a;\n" . edit_sql($owner, $other, { agentId => "r$round-agent-" . (1 + int rand 2) }) . "COMMIT;\n") if $roll < 70;
    # Once for each mission: what is taken away is put back at once then.
    return ("BEGIN;\n" . edit_sql($owner, $mission, { iterations => [], title => "Veraltet $count" }) . "COMMIT;\n") if $roll < 73 && !$forgotten{$mission}++;
    return ("BEGIN;\n" . edit_sql($owner, $mission, { title => 'Nie' }) . "ROLLBACK;\n") if $roll < 74;
    return ("BEGIN;\n" . edit_sql($owner, $mission, { title => "Vorbereitet $count" }) . "PREPARE TRANSACTION 'p$round-$owner-$count';\nSELECT pg_sleep(0.1);\nCOMMIT PREPARED 'p$round-$owner-$count';\n")
      if $roll < 78;
    return ("BEGIN;\n" . edit_sql($owner, $mission, { note => "Langsam $count" }) . 'SELECT pg_sleep(' . (0.1 + rand 0.6) . ");\nCOMMIT;\n") if $roll < 83;
    my $id = "r$round-d$owner";
    my $new = ManaAi::mission_change($id, user => $user, cadence => { kind => 'manual' }, updatedAt => iso(0.01), createdAt => iso(0.01));
    my $delete = "INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data) VALUES ('ai', 'aiMissions', '$id', '$user', 'delete', 'b', "
      . quoted($json->encode({ deletedAt => iso(0) })) . ");\n";
    (my $insert = ManaAi::change_sql(%$new)) =~ s/^(?:BEGIN|COMMIT);\n//mg;
    return ("BEGIN;\n$own$delete" . (rand() < 0.5 ? "COMMIT;\nSELECT pg_sleep(0.05);\nBEGIN;\n$own" : '') . "${insert}COMMIT;\n") if $roll < 88;
    return (join '', map { ManaAi::change_sql(user => $user, app => 'todo', table => 'tasks', id => "t$_-$count", op => 'insert', data => { title => 'x' }) } 1 .. 5) if $roll < 92;
    return ManaAi::change_sql(user => $user, table => 'agents', id => "r$round-agent-" . (1 + int rand 2), data => { memory => "Neu $count", maxConcurrentMissions => 1 + int rand 4 },
        stamps => { memory => iso(0.001 * ($count % 500)), maxConcurrentMissions => iso(0.001 * ($count % 500)) })
      if $roll < 96;
    return ('SELECT * FROM mana_ai.run_tick()') if $roll < 98;
    return ('SELECT * FROM mana_ai.refresh_snapshots()');
}

# A process that is one user. What was acknowledged stands in its file: "mission token".
sub start_user
{
    my ($owner, $until) = @_;
    my $pid = fork // die "fork: $!";
    return $pid if $pid;
    srand($seed * 1000 + $round * 10 + $owner);
    open my $acknowledged, '>>', $node->basedir . "/acknowledged-$round" or POSIX::_exit(1);
    $acknowledged->autoflush(1);
    for (my $count = 1; time < $until; $count++)
    {
        my ($text, $mission, $token) = next_deed($owner, $count);
        my ($status) = sql($text, timeout => 30);
        print $acknowledged "$mission $token\n" if $status == 0 && defined $token;
        sleep rand 0.1;
    }
    POSIX::_exit(0);
}

# ---------------------------------------------------------------- what goes wrong

my %done;
my $cuts = 0;      # kills, stops and cancels: replies under way may be lost
my $signals = 0;   # processes that we have killed
my $background_sql = sub {
    my ($text) = @_;
    my $pid = fork // die "fork: $!";
    return if $pid;
    sql($text, timeout => 30);
    POSIX::_exit(0);
};

sub kill_process
{
    my ($signal, $pid) = @_;
    return unless $pid;
    $cuts++;
    $signals += kill $signal, $pid;
    return;
}

sub fill_disk
{
    my $file = "$small/ballast";
    open my $handle, '>:raw', $file or return;
    my $block = "\0" x 65536;
    1 while syswrite $handle, $block;
    close $handle;
    sleep 3;
    unlink $file;
    return;
}

# The table is somewhere else for a moment.
sub with_undo { my ($do, $undo) = @_; return sub { sql("SET lock_timeout = '3s'; $do"); sleep 0.5 + rand 1.5; ask("SET lock_timeout = '20s'; $undo") } }

my %faults = (
    'kill worker'    => sub { kill_process('KILL', worker()) },
    'kill launcher'  => sub { kill_process('KILL', process_of('mana_ai launcher')) },
    'kill backend'   => sub { kill_process('KILL', process_of('client backend')) },
    'kill tick'      => sub { $background_sql->('SELECT * FROM mana_ai.run_tick()'); sleep 0.1; kill_process('KILL', process_of('mana_ai tick')) },
    'kill walwriter' => sub { kill_process('KILL', process_of('walwriter')) },
    'segv worker'    => sub { kill_process('SEGV', worker()) },
    'term worker'    => sub { my $pid = worker(); if ($pid) { $cuts++; kill 'TERM', $pid } },
    'int worker'     => sub { my $pid = worker(); if ($pid) { $cuts++; kill 'INT', $pid } },
    'term launcher'  => sub { my $pid = process_of('mana_ai launcher'); kill 'TERM', $pid if $pid },
    'stop fast'      => sub { $cuts++; $node->stop('fast'); start_node() },
    'stop immediate' => sub { $cuts++; $node->stop('immediate'); start_node() },
    'pause worker'   => sub { my $pid = worker() or return; kill 'STOP', $pid; sleep 0.5 + rand 2; kill 'CONT', $pid },
    'reload storm'   => sub {
        for (1 .. 8)
        {
            sql("ALTER SYSTEM SET mana_ai.max_concurrency = " . (1 + int rand 80) . ';'
                  . "ALTER SYSTEM SET mana_ai.tick_interval = '" . (300 + int rand 3000) . "ms'; SELECT pg_reload_conf()");
        }
        ask("ALTER SYSTEM RESET mana_ai.max_concurrency; ALTER SYSTEM RESET mana_ai.tick_interval; SELECT pg_reload_conf()");
    },
    'off and on' => sub { ask("ALTER SYSTEM SET mana_ai.tick_enabled = off; SELECT pg_reload_conf()"); sleep 1;
        ask("ALTER SYSTEM RESET mana_ai.tick_enabled; SELECT pg_reload_conf()") },
    'vacuum full log' => sub { sql("SET lock_timeout = '5s'; VACUUM FULL public.sync_changes") },
    'cluster log'     => sub { sql("SET lock_timeout = '5s'; CLUSTER public.sync_changes USING sync_changes_record") },
    'reindex log'     => sub { sql("SET lock_timeout = '5s'; REINDEX TABLE public.sync_changes") },
    'vacuum full ours' => sub { sql("SET lock_timeout = '5s'; VACUUM FULL mana_ai.$_") for qw(mission_snapshots mission_schedule runs token_usage) },
    'reindex ours'    => sub { sql("SET lock_timeout = '5s'; REINDEX SCHEMA mana_ai") },
    'add column'      => with_undo('ALTER TABLE public.sync_changes ADD extra text DEFAULT \'x\'', 'ALTER TABLE public.sync_changes DROP COLUMN IF EXISTS extra'),
    'add column ours' => with_undo('ALTER TABLE mana_ai.mission_snapshots ADD extra text NOT NULL DEFAULT \'x\'', 'ALTER TABLE mana_ai.mission_snapshots DROP COLUMN IF EXISTS extra'),
    'rename data'     => with_undo('ALTER TABLE public.sync_changes RENAME data TO payload;'
          . " INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, payload) VALUES ('ai', 'aiMissions', 'renamed', 'nobody', 'insert', 'c', '{\"title\": \"x\"}')",
        "DO \$\$ BEGIN IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'public.sync_changes'::regclass AND attname = 'payload') THEN ALTER TABLE public.sync_changes RENAME payload TO data; END IF; END \$\$"),
    'retype data'     => with_undo('ALTER TABLE public.sync_changes ALTER data TYPE json;'
          . " INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data) VALUES ('ai', 'aiMissions', 'retyped', 'nobody', 'insert', 'c', '{\"title\": \"x\"}')",
        'ALTER TABLE public.sync_changes ALTER data TYPE jsonb USING data::jsonb'),
    'field_meta'      => with_undo('ALTER TABLE public.sync_changes RENAME field_timestamps TO field_meta',
        "DO \$\$ BEGIN IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'public.sync_changes'::regclass AND attname = 'field_meta') THEN ALTER TABLE public.sync_changes RENAME field_meta TO field_timestamps; END IF; END \$\$"),
    'table away'      => with_undo('ALTER TABLE public.sync_changes RENAME TO sync_changes_away', 'ALTER TABLE IF EXISTS public.sync_changes_away RENAME TO sync_changes'),
    'partition'       => with_undo('BEGIN; ALTER TABLE public.sync_changes RENAME TO sync_changes_part;'
          . ' CREATE TABLE public.sync_changes (LIKE public.sync_changes_part INCLUDING DEFAULTS) PARTITION BY LIST (app_id);'
          . ' ALTER TABLE public.sync_changes ATTACH PARTITION public.sync_changes_part DEFAULT; COMMIT',
        "DO \$\$ BEGIN IF EXISTS (SELECT FROM pg_class WHERE oid = 'public.sync_changes'::regclass AND relkind = 'p') THEN"
          . ' ALTER TABLE public.sync_changes DETACH PARTITION public.sync_changes_part; DROP TABLE public.sync_changes;'
          . " ALTER TABLE public.sync_changes_part RENAME TO sync_changes; END IF; END \$\$"),
    'publication'     => with_undo('CREATE PUBLICATION torture FOR ALL TABLES', 'DROP PUBLICATION IF EXISTS torture'),
    'trigger off'     => with_undo('ALTER TABLE public.sync_changes DISABLE TRIGGER mana_ai_fold',
        'ALTER TABLE public.sync_changes ENABLE ALWAYS TRIGGER mana_ai_fold; SELECT mana_ai.refresh_snapshots()'),
    # It must not happen later, when what it waits for (a prepared transaction, say) is over.
    'attach again'    => sub { sql("SET statement_timeout = '10s'; SELECT mana_ai.detach()"); sleep 0.3;
        ask("SELECT CASE WHEN mana_ai.attached_table() IS NULL THEN mana_ai.attach('public.sync_changes')::text END") },
    'lock log'        => sub { sql("SET lock_timeout = '3s'; BEGIN; LOCK TABLE public.sync_changes; SELECT pg_sleep(1.5); COMMIT") },
    'lock ours'       => sub { my @tables = qw(mission_snapshots mission_schedule runs dirty_records token_usage); my $table = $tables[ int rand @tables ];
        sql("SET lock_timeout = '3s'; BEGIN; LOCK TABLE mana_ai.$table; SELECT pg_sleep(1.5); COMMIT") },
    'lock rows'       => sub { sql('BEGIN; SELECT 1 FROM mana_ai.mission_snapshots FOR UPDATE; SELECT pg_sleep(1.5); COMMIT') },
    'lock schedule'   => sub { sql('BEGIN; SELECT 1 FROM mana_ai.mission_schedule FOR UPDATE; SELECT pg_sleep(1.5); COMMIT') },
    'no connections'  => sub {
        my @sessions = map { IO::Socket::UNIX->new($node->host . '/.s.PGSQL.' . $node->port) } 1 .. 45;
        $background_sql->('SELECT pg_sleep(2)') for 1 .. 40;
        sleep 2.2;
        undef @sessions;
    },
    'clock forward'   => sub { shift_clock($node, 3600 * (1 + int rand 3)); sleep 1.5; shift_clock($node, 0) },
    'clock back'      => sub { shift_clock($node, -3600); sleep 1.5; shift_clock($node, 0) },
    'clock a bit'     => sub { shift_clock($node, 30 - int rand 60); sleep 1; shift_clock($node, 0) },
);
my %model_faults = (
    'model 503'     => { steps => [ { status => 503 }, { plan => $true } ], repeat => 'all' },
    'model 429'     => { steps => [ { status => 429, retry_after => '1' }, { plan => $true }, { plan => $true } ], repeat => 'all' },
    'model 401'     => { steps => [ { status => 401 }, { plan => $true }, { plan => $true } ], repeat => 'all' },
    'model 422'     => { steps => [ { status => 422 }, { plan => $true } ], repeat => 'all' },
    'model resets'  => { steps => [ { reset => $true }, { plan => $true } ], repeat => 'all' },
    'model hangs'   => { steps => [ { hang => $true }, { plan => $true }, { plan => $true } ], repeat => 'all' },
    'model garbage' => { steps => [ { garbage => $true }, { raw_garbage => $true }, { truncate => $true }, { plan => $true } ], repeat => 'all' },
    'model slow'    => { steps => [ { slow_ms => 1500 }, { plan => $true } ], repeat => 'all' },
);

if ($small ne '')
{
    # Everything of mana_ai lives on the small disk.
    sql("CREATE TABLESPACE small LOCATION '$small/space'") if mkdir "$small/space";
    sql(join '', map { "ALTER TABLE mana_ai.$_ SET TABLESPACE small;" } split /\n/,
        ask("SELECT relname FROM pg_class WHERE relnamespace = 'mana_ai'::regnamespace AND relkind = 'r'"));
    $faults{'disk full'} = \&fill_disk;
}

# ---------------------------------------------------------------- the checker

sub rest
{
    shift_clock($node, 0);
    $model->control({ steps => [], repeat => 'none' });
    ask("ALTER SYSTEM RESET mana_ai.tick_enabled; SELECT pg_reload_conf()");
    for my $name (split /\n/, ask('SELECT gid FROM pg_prepared_xacts'))
    {
        ask("COMMIT PREPARED '$name'");
    }
    return;
}

# Every mission is planned once more; true when that has happened.
sub all_can_be_planned
{
    my $before = ask("SELECT count(*) FROM mana_ai.runs WHERE outcome = 'planned'");
    my @deeds;
    for my $owner (@owners)
    {
        push @deeds, edit_sql($owner, $_, { state => 'active', nextRunAt => 1, agentId => undef }) for missions_of($owner);
    }
    my $end = time + 150;
    for my $deed (@deeds)
    {
        my ($status, undef, $err);
        until ((($status, undef, $err) = sql($deed)) && $status == 0)
        {
            return fail("round $round: an edit is not taken: $err") if time > $end;
            sleep 0.2;
        }
    }
    my $left = "SELECT count(*) FROM mana_ai.mission_snapshots m JOIN mana_ai.mission_schedule s USING (user_id, mission_id)"
      . " WHERE m.mission_id LIKE 'r$round-m%' AND (s.due_at IS NOT NULL OR s.lease_owner IS NOT NULL)";
    my $got = '';
    while (time < $end)
    {
        $got = ask($left);
        return pass("round $round: every mission can be planned") if $got eq '0';
        sleep 0.2;
    }
    fail("round $round: every mission can be planned");
    diag(ask("SELECT string_agg(mission_id || ': ' || mana_ai.why(user_id, mission_id), E'\\n') FROM mana_ai.mission_schedule WHERE mission_id LIKE 'r$round-m%' AND (due_at IS NOT NULL OR lease_owner IS NOT NULL)"));
    diag(ask('SELECT row_to_json(s)::text FROM mana_ai.status() s'));
    return 0;
}

sub check_round
{
    my ($asked, $faulty_model) = @_;
    my $like = "LIKE 'r$round-%'";
    my @wrong;

    # Records, from the raw rows.
    my %rows;
    for my $line (split /\n/, ask("SELECT json_build_object('u', user_id, 't', table_name, 'r', record_id, 'op', op, 'data', data, 'stamps', field_timestamps,"
          . " 'created_us', (extract(epoch FROM created_at) * 1000000)::bigint, 'client', client_id) FROM public.sync_changes WHERE app_id = 'ai' AND record_id $like ORDER BY ctid"))
    {
        my $row = $json->decode($line);
        push @{ $rows{"$row->{u}/$row->{t}/$row->{r}"} }, $row;
    }
    my %kept;
    for my $line (split /\n/, ask("SELECT json_build_object('k', user_id || '/aiMissions/' || mission_id, 'record', record) FROM mana_ai.mission_snapshots WHERE mission_id $like"
          . " UNION ALL SELECT json_build_object('k', user_id || '/agents/' || agent_id, 'record', record) FROM mana_ai.agent_snapshots WHERE agent_id $like"))
    {
        my $row = $json->decode($line);
        delete $row->{record}{deletedAt} unless $row->{record}{deletedAt};
        $kept{ $row->{k} } = $row->{record};
    }
    my %schedule = map { my $row = $json->decode($_); ("$row->{u}/aiMissions/$row->{m}" => $row) } split /\n/,
      ask("SELECT json_build_object('u', user_id, 'm', mission_id, 'due', (extract(epoch FROM due_at) * 1000000)::bigint, 'agent', agent_id, 'lease', lease_owner) FROM mana_ai.mission_schedule WHERE mission_id $like");
    for my $key (sort keys %{ { %rows, %kept } })
    {
        my ($id) = $key =~ m{([^/]*)$};
        my $expected = Oracle::replay($id, @{ $rows{$key} // [] });
        my $got = $kept{$key};
        if ($json->encode($expected) ne $json->encode($got))
        {
            my ($x, $y) = ($expected // {}, $got // {});
            my @fields = grep { $json->encode($x->{$_}) ne $json->encode($y->{$_}) } sort keys %{ { %$x, %$y } };
            push @wrong, "$key: the snapshot differs in @fields" . ($expected ? '' : ' (deleted by the log)') . ($got ? '' : ' (no snapshot)');
        }
        next unless $key =~ m{/aiMissions/};
        my $plan = $schedule{$key};
        push @wrong, "$key: in the schedule: " . ($plan ? 'yes' : 'no') if !!$plan ne !!$expected;
        next unless $plan && $expected;
        # Without either it is not a mission.
        my $is_mission = grep { defined $expected->{$_} && $expected->{$_} ne '' } qw(title objective);
        my $due = $is_mission && ($expected->{state} // '') eq 'active' ? Oracle::instant($expected->{nextRunAt}) : undef;
        push @wrong, "$key: due at " . ($plan->{due} // 'never') . ', not ' . ($due // 'never') if ($plan->{due} // 'never') ne ($due // 'never');
        push @wrong, "$key: agent in the schedule" if ($plan->{agent} // '') ne ($expected->{agentId} // '');
    }
    push @wrong, 'no rows' unless %rows;

    # Plans: iterations, rows of the log, runs.
    my (%planned, %tokens);
    for my $line (split /\n/, ask("SELECT json_build_object('m', mission_id, 'outcome', outcome, 'i', iteration_id, 'tokens', total_tokens) FROM mana_ai.runs WHERE mission_id $like"))
    {
        my $run = $json->decode($line);
        push @{ $planned{ $run->{m} } }, $run->{i} if $run->{outcome} eq 'planned';
        push @wrong, "$run->{m}: a run is left running" if $run->{outcome} eq 'running';
        $tokens{ $run->{m} } += $run->{tokens};
    }
    my %acknowledged;
    if (open my $file, '<', $node->basedir . "/acknowledged-$round")
    {
        while (<$file>) { my ($mission, $token) = split; $acknowledged{$mission} = $token if $token > ($acknowledged{$mission} // 0) }
    }
    my $plans = 0;
    for my $owner (@owners)
    {
        for my $id (missions_of($owner))
        {
            my $key = user_of($owner) . "/aiMissions/$id";
            my @written = grep { ($_->{source} // '') eq 'server' } @{ ($kept{$key} // {})->{iterations} // [] };
            # The others tell the user why there was no plan.
            my @ours = grep { !$_->{errorDetails} } @written;
            my $ids = join ' ', sort map { $_->{id} } @ours;
            my $runs = join ' ', sort @{ $planned{$id} // [] };
            push @wrong, "$id: iterations $ids, planned runs $runs" if $ids ne $runs;
            # Plans set the next run. The other rows are notices, and what was put back after a device had taken it away.
            my @rows = grep { $_->{client} eq 'mana-ai-runner' && ref $_->{data} eq 'HASH' && $_->{data}{iterations} } @{ $rows{$key} // [] };
            my $rows = grep { exists $_->{data}{nextRunAt} } @rows;
            push @wrong, "$id: $rows rows for " . scalar(@ours) . ' plans' if $rows != @ours;
            push @wrong, "$id: a notice is in no row" if @rows - $rows < @written - @ours;
            my %once = map { $_->{id} => 1 } @written;
            push @wrong, "$id: an iteration is there twice" if keys %once != @written;
            # A device gives it to the newest, whatever that is.
            my ($feedback) = sort { $b <=> $a } map { $_->{userFeedback} // 0 } @written;
            push @wrong, "$id: feedback $acknowledged{$id} is lost, there is " . ($feedback // 0) if @written > 1 && ($acknowledged{$id} // 0) > ($feedback // 0) && $acknowledged{$id} > 0 && $feedback;
            $plans += @ours;
        }
    }

    # Money.
    my $charges = 0;
    for my $line (split /\n/, ask("SELECT json_build_object('m', mission_id, 'n', count(*), 'tokens', sum(tokens_used)) FROM mana_ai.token_usage WHERE mission_id $like AND model <> 'web-research' GROUP BY mission_id"))
    {
        my $sum = $json->decode($line);
        $charges += $sum->{n};
        push @wrong, "$sum->{m}: the ledger says $sum->{tokens} tokens, its runs " . ($tokens{ $sum->{m} } // 0) if $sum->{tokens} != ($tokens{ $sum->{m} } // 0);
    }
    push @wrong, "$charges replies are charged, $asked calls were made" if $charges > $asked;
    push @wrong, "$charges replies are charged, $asked calls were made, and nothing went wrong with them" if $charges != $asked && !$cuts && !$faulty_model;
    my $bound = $cuts * @owners * ($missions_per_user + 1);
    push @wrong, "$charges replies are charged of $asked calls after $cuts cuts" if !$faulty_model && $charges < $asked - $bound;

    # What must not be left.
    push @wrong, 'leases are left' if ask('SELECT count(*) FROM mana_ai.mission_schedule WHERE lease_owner IS NOT NULL OR run_id IS NOT NULL') ne '0';
    push @wrong, 'locks are left' if ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'mana_ai%')") ne '0';
    ok(!@wrong, sprintf 'round %d: %d records, %d plans, %d calls, %d charged', $round, scalar keys %rows, $plans, $asked, $charges)
      or diag(join "\n", "seed $seed", @wrong > 25 ? (@wrong[ 0 .. 24 ], '...') : @wrong);
    return !@wrong;
}

# What nobody but a kill of this test may do to the server.
sub check_log
{
    my ($position) = @_;
    my $text = slurp_file($node->logfile, $position);
    my $died = () = $text =~ /was terminated by signal (?:9|11)\b/g;
    cmp_ok($died, '<=', $signals, "round $round: no process died that was not killed ($signals)");
    unlike($text, qr/PANIC|TRAP:|terminated by signal (?!9\b|11\b)/, "round $round: no panic");
    return;
}

sub quiet
{
    my $end = time + 90;
    my $marks;
    while (time < $end)
    {
        $marks = ask('SELECT (SELECT count(*) FROM mana_ai.dirty_records) + (SELECT count(*) FROM mana_ai.mission_schedule WHERE check_iterations_at IS NOT NULL)');
        return pass("round $round: nothing waits for repair") if $marks eq '0';
        sleep 0.2;
    }
    diag(ask("SELECT string_agg(to_jsonb(s)::text, E'\\n') FROM (SELECT * FROM mana_ai.mission_schedule WHERE check_iterations_at IS NOT NULL LIMIT 5) s"));
    diag(ask("SELECT string_agg(to_jsonb(d)::text, E'\\n') FROM (SELECT * FROM mana_ai.dirty_records LIMIT 5) d"));
    return is($marks, 0, "round $round: nothing waits for repair");
}

# ---------------------------------------------------------------- rounds

my $started = time;
my $total = { rounds => 0, kills => 0 };

# Returns where the log of the round begins.
sub begin_round
{
    $round++;
    srand($seed * 1000 + $round);
    ($cuts, $signals) = (0, 0);
    forget_last_round();
    my $position = -s $node->logfile;
    make_missions();
    return $position;
}

sub end_round
{
    my ($position, $charges_may_be_lost) = @_;
    rest();
    all_can_be_planned();
    quiet();
    check_round($model->count, $charges_may_be_lost);
    check_log($position);
    $total->{rounds}++;
    return;
}

if ($kills_wanted)
{
    # Kills and stops while all missions are at work; users make them due again each time. Twenty to a set of
    # missions, since each plan writes all iterations of its mission again.
    my @ways = ('kill worker', 'kill worker', 'kill worker', 'kill launcher', 'kill backend', 'segv worker', 'stop fast', 'stop immediate', 'term worker', 'int worker');
    while ($total->{kills} < $kills_wanted)
    {
        my $position = begin_round();
        for (1 .. 20)
        {
            last if $total->{kills} == $kills_wanted;
            my $kill = ++$total->{kills};
            ask(join '', map { my $owner = $_; map { edit_sql($owner, $_, { state => 'active', nextRunAt => 1 }, $kill) } missions_of($owner) } @owners);
            sleep rand 0.4;
            my $way = $ways[ int rand @ways ];
            $faults{$way}->();
            $done{$way}++;
            ask('SELECT 1');
        }
        note("$total->{kills} kills and stops");
        end_round($position, 0);
    }
}
until ($kills_wanted || time > $started + 60 * $minutes)
{
    my $position = begin_round();
    # Some rounds leave processes and services alone, so that money can be counted exactly.
    my $gentle = $round % 3 == 0;
    my @names = sort grep { !$gentle || !/kill|segv|term|int|stop|pause|clock|trigger off|attach|away|partition|rename|retype|connections/ } keys %faults;
    my $faulty = !$gentle && rand() < 0.6 ? (sort keys %model_faults)[ int rand keys %model_faults ] : '';
    $model->control($model_faults{$faulty}) if $faulty ne '';
    my $length = 12;
    my @users = map { start_user($_, time + $length) } @owners;
    my $until = time + $length;
    my @log;
    while (time < $until)
    {
        my $name = $names[ int rand @names ];
        push @log, $name;
        $done{$name}++;
        eval { $faults{$name}->(); 1 } or diag("$name: $@");
        sleep rand 1.2;
    }
    $done{$faulty}++ if $faulty ne '';
    waitpid $_, 0 for @users;
    1 while waitpid(-1, POSIX::WNOHANG()) > 0;
    note("round $round (seed $seed): " . join(', ', $faulty || (), @log));
    end_round($position, $faulty ne '');
}
is(snapshots_differ($node), '', 'at the end, snapshots and schedule are what the log says');
note(join ', ', map { "$_ $done{$_}" } sort keys %done);
note("$total->{rounds} rounds, $total->{kills} kills and stops, " . int(time - $started) . " s, seed $seed");
diag("again: make torture SEED=$seed MINUTES=$minutes") unless Test::More->builder->is_passing;
$node->stop('immediate');
$model->stop;
done_testing();
