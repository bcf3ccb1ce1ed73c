# What the TAP tests share: clusters with mana_ai, a database as mana-sync has it, what clients push,
# the scripted model server, and waiting with a bound.
#
# Times are seconds. Every wait that runs out is a failed test that says what it waited for, and what
# the database looked like then.
package ManaAi;

use strict;
use warnings;
use utf8;

use Exporter 'import';
use Fcntl ();
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX qw(strftime);
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  new_cluster settings shift_clock key_file create_sync_database start_model start_research
  push_change push_changes push_mission push_missions push_agent mission_change agent_change
  iso value json_value rows run_tick run_mission record_of iterations_of why_of last_run
  is_sanitized wait_until wait_for wait_for_iterations wait_for_worker wait_for_checks worker_pid
  background fails_like timed is_faster_than store_plainly
  snapshots_differ log_since log_position count_due accepts_sessions restore_ok
  USER_ID
);

use constant USER_ID => 'user-1';

binmode(Test::More->builder->$_, ':encoding(UTF-8)') for qw(output failure_output todo_output);

my $json = JSON::PP->new->canonical->allow_nonref;

# ---------------------------------------------------------------- clusters and databases

# A running cluster.
#   preload    shared_preload_libraries has mana_ai
#   conf       further lines of postgresql.conf
#   streaming  standbys can follow
#   clock      shift_clock() can set the server's wall clock
#   model      llm_url is this server's
#   database   name of a database to create with sync_changes and the extension; default mana_sync,
#              undef = none
#   shape      "field_meta" for the newer form of sync_changes
#   initdb     further arguments of initdb
sub new_cluster
{
    my ($name, %options) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(
        allows_streaming => $options{streaming} ? 1 : 0,
        extra            => [ '-U', 'postgres', '-E', 'UTF8', '--no-locale', @{ $options{initdb} // [] } ]);
    # Which user runs the tests must not matter.
    $ENV{PGUSER} = 'postgres';
    my @lines = (
        "shared_buffers = 16MB",
        "max_connections = 60",
        "max_worker_processes = 16",
        "log_statement = none",
        # Tests kill often. Those of safe mode set a limit.
        "mana_ai.crash_limit = 0",
        "mana_ai.tick_interval = '30s'");
    push @lines, "shared_preload_libraries = 'mana_ai'" if $options{preload};
    push @lines, "mana_ai.llm_url = '" . $options{model}->url . "'" if $options{model};
    push @lines, $options{conf} if $options{conf};
    $node->append_conf('postgresql.conf', join("\n", @lines) . "\n");
    shift_clock($node, 0) if $options{clock};
    {
        # The server and what it starts keep the clock; a later start() does not have it.
        local $ENV{LD_PRELOAD}         = "$ENV{MANA_AI_BIN}/clock_shift.so" if $options{clock};
        local $ENV{MANA_AI_CLOCK_FILE} = clock_file($node) if $options{clock};
        $node->start;
    }
    $node->safe_psql('postgres',
        'CREATE ROLE mana_sync_service LOGIN; CREATE ROLE nobody_special LOGIN');
    my $database = exists $options{database} ? $options{database} : 'mana_sync';
    create_sync_database($node, $database, %options) if defined $database;
    return $node;
}

# Changes settings for all sessions and reloads.
sub settings
{
    my ($node, %values) = @_;
    # ALTER SYSTEM knows our settings only when the library is loaded.
    my $sql = "LOAD 'mana_ai';\n";
    for my $name (sort keys %values)
    {
        $sql .=
          defined $values{$name}
          ? "ALTER SYSTEM SET $name = '$values{$name}';\n"
          : "ALTER SYSTEM RESET $name;\n";
    }
    $node->safe_psql('postgres', "${sql}SELECT pg_reload_conf();");
    return;
}

sub clock_file { return $_[0]->basedir . '/clock' }

# Sets the wall clock of a server that was made with clock => 1 to the machine's plus that many
# seconds. Its monotonic clock is not affected.
sub shift_clock
{
    my ($node, $seconds) = @_;
    my $file = clock_file($node);
    sysopen(my $handle, $file, Fcntl::O_RDWR | Fcntl::O_CREAT) or die "$file: $!";
    syswrite $handle, pack('q', $seconds * 1_000_000);
    close $handle;
    return;
}

# A file for mana_ai.service_key_file.
sub key_file
{
    my ($key) = @_;
    my $file = PostgreSQL::Test::Utils::tempdir() . '/service_key';
    append_to_file($file, "$key\n");
    chmod 0600, $file;
    return $file;
}

# A database as mana-sync has it. extension => 0 leaves CREATE EXTENSION to the caller.
sub create_sync_database
{
    my ($node, $database, %options) = @_;
    my $file = $options{shape} ? "sync_changes_$options{shape}.sql" : 'sync_changes.sql';
    my $ddl  = slurp_file("$ENV{MANA_AI_TEST_DATA}/$file");
    my $invariants = slurp_file("$ENV{MANA_AI_TEST_DATA}/invariants.sql");
    my $extension = ($options{extension} // 1) ? 'CREATE EXTENSION mana_ai;' : '';
    $node->safe_psql('postgres', qq{CREATE DATABASE "$database"}) unless $options{exists};
    $node->safe_psql($database, <<"END");
SET client_min_messages = warning;
$ddl
$invariants
GRANT SELECT, INSERT ON public.sync_changes TO mana_sync_service;
$extension
END
    return;
}

# ---------------------------------------------------------------- what clients push

# toISOString() of a moment that many seconds from now.
sub iso
{
    my ($offset) = @_;
    my $at = time + ($offset // 0);
    my $millis = int(($at - int $at) * 1000);
    return strftime('%Y-%m-%dT%H:%M:%S', gmtime(int $at)) . sprintf('.%03dZ', $millis);
}

sub literal
{
    my ($text) = @_;
    return 'NULL' unless defined $text;
    $text =~ s/'/''/g;
    $text =~ s/\\/\\\\/g;
    return " E'$text'";
}

# Texts here are characters, what psql reads and writes are bytes.
sub encoded
{
    my ($text) = @_;
    utf8::encode($text);
    return $text;
}

# SQL of one change, in a separate transaction, as mana-sync does it.
#   user, app, table, id, op, data, stamps, client, space, actor, origin; stamps_column when it is field_meta
sub change_sql
{
    my (%row) = @_;
    my %columns = (
        app_id     => literal($row{app}   // 'ai'),
        table_name => literal($row{table} // 'aiMissions'),
        record_id  => literal($row{id}),
        user_id    => literal($row{user} // USER_ID),
        op         => literal($row{op}   // 'update'),
        client_id  => literal($row{client} // 'browser-1'),
        data       => literal(ref $row{data} ? $json->encode($row{data}) : $row{data}) . '::jsonb');
    $columns{space_id} = literal($row{space}) if defined $row{space};
    $columns{actor} = literal($json->encode($row{actor})) . '::jsonb' if defined $row{actor};
    $columns{origin} = literal($row{origin}) if defined $row{origin};
    $columns{ $row{stamps_column} // 'field_timestamps' } =
      literal($json->encode($row{stamps})) . '::jsonb'
      if defined $row{stamps};
    my @names = sort keys %columns;
    return
        "BEGIN;\n"
      . "SELECT set_config('app.current_user_id', "
      . literal($row{user} // USER_ID)
      . ", true);\n"
      . "INSERT INTO public.sync_changes ("
      . join(', ', @names)
      . ") VALUES ("
      . join(', ', @columns{@names})
      . ");\nCOMMIT;\n";
}

# Pushes changes (hashes for change_sql) as mana-sync's role.
sub push_changes
{
    my ($node, @rows) = @_;
    my $database = 'mana_sync';
    $database = shift @rows if @rows && !ref $rows[0];
    my $sql = encoded(join '', map { change_sql(%$_) } @rows);
    $node->safe_psql($database, $sql, extra_params => [ '-U', 'mana_sync_service' ]);
    return;
}

sub push_change
{
    my ($node, %row) = @_;
    push_changes($node, $row{database} // 'mana_sync', \%row);
    return;
}

# The insert of a whole mission that has been due for a minute; fields of the record are overridden
# by %fields, undef included. "user" and "space" belong to the change.
sub mission_change
{
    my ($id, %fields) = @_;
    my %change = (id => $id, op => 'insert');
    for my $key (qw(user space stamps_column database))
    {
        $change{$key} = delete $fields{$key} if exists $fields{$key};
    }
    $change{data} = {
        id              => $id,
        title           => "Mission $id",
        objective       => "Ziel von $id",
        conceptMarkdown => '',
        state           => 'active',
        cadence         => { kind => 'interval', everyMinutes => 60 },
        inputs          => [],
        iterations      => [],
        nextRunAt       => iso(-60),
        createdAt       => iso(-120),
        updatedAt       => iso(-120),
        %fields
    };
    return \%change;
}

sub agent_change
{
    my ($id, %fields) = @_;
    my %change = (id => $id, op => 'insert', table => 'agents');
    for my $key (qw(user space stamps_column database))
    {
        $change{$key} = delete $fields{$key} if exists $fields{$key};
    }
    $change{data} = {
        id                    => $id,
        name                  => "Agent $id",
        role                  => 'Assistenz',
        policy                => { tools => {}, defaultForAi => 'propose' },
        state                 => 'active',
        maxConcurrentMissions => 1,
        createdAt             => iso(-120),
        updatedAt             => iso(-120),
        %fields
    };
    return \%change;
}

sub push_mission
{
    my ($node, $id, %fields) = @_;
    my $change = mission_change($id, %fields);
    push_changes($node, $change->{database} // 'mana_sync', $change);
    return;
}

# Many missions in one session: push_missions($node, [ids], %fields).
sub push_missions
{
    my ($node, $ids, %fields) = @_;
    my $database = $fields{database} // 'mana_sync';
    push_changes($node, $database, map { mission_change($_, %fields) } @$ids);
    return;
}

sub push_agent
{
    my ($node, $id, %fields) = @_;
    my $change = agent_change($id, %fields);
    push_changes($node, $change->{database} // 'mana_sync', $change);
    return;
}

# Stores values as they are: a text that is compressed is no text to whoever looks for it in files.
sub store_plainly
{
    my ($node) = @_;
    $node->safe_psql('mana_sync', <<'END');
DO $$
DECLARE
  c record;
BEGIN
  FOR c IN SELECT a.attrelid::regclass AS tab, a.attname FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid
            WHERE r.relkind = 'r' AND r.relnamespace IN ('mana_ai'::regnamespace, 'public'::regnamespace)
              AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage IN ('x', 'm') LOOP
    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE EXTERNAL', c.tab, c.attname);
  END LOOP;
END $$
END
    return;
}

# ---------------------------------------------------------------- looking

# One value as text. The database is mana_sync unless a third argument says otherwise.
sub value
{
    my ($node, $sql, $database) = @_;
    my $text = $node->safe_psql($database // 'mana_sync', encoded($sql));
    utf8::decode($text);
    return $text;
}

# One json value, decoded; undef for SQL null.
sub json_value
{
    my ($node, $sql, $database) = @_;
    my $text = value($node, $sql, $database);
    return $text eq '' ? undef : JSON::PP->new->allow_nonref->decode($text);
}

# All rows of a query as hashes.
sub rows
{
    my ($node, $sql, $database) = @_;
    return json_value($node, "SELECT coalesce(json_agg(q), '[]') FROM ($sql) q", $database);
}

sub run_tick
{
    my ($node, $database) = @_;
    return rows($node, 'SELECT * FROM mana_ai.run_tick()', $database)->[0];
}

sub run_mission
{
    my ($node, $id, $user) = @_;
    return rows($node,
        'SELECT * FROM mana_ai.run_mission(' . literal($user // USER_ID) . ', ' . literal($id) . ')')->[0];
}

# A mission as every client sees it: the replay of its rows.
sub record_of
{
    my ($node, $id, $user, $database) = @_;
    return json_value($node,
        'SELECT mana_ai.replay(' . literal($user // USER_ID) . ", 'ai', 'aiMissions', " . literal($id) . ')',
        $database);
}

sub iterations_of
{
    my $record = record_of(@_);
    return defined $record ? $record->{iterations} : undef;
}

sub why_of
{
    my ($node, $id, $user) = @_;
    return value($node, 'SELECT mana_ai.why(' . literal($user // USER_ID) . ', ' . literal($id) . ')');
}

# The newest row of mana_ai.runs of a mission.
sub last_run
{
    my ($node, $id, $user) = @_;
    return rows($node,
            'SELECT * FROM mana_ai.runs WHERE mission_id = '
          . literal($id)
          . ' AND user_id = '
          . literal($user // USER_ID)
          . ' ORDER BY started_at DESC LIMIT 1')->[0];
}

sub worker_pid
{
    my ($node, $database) = @_;
    return value($node, 'SELECT worker_pid FROM mana_ai.status()', $database);
}

sub count_due
{
    my ($node) = @_;
    return value($node,
        "SELECT count(*) FROM mana_ai.mission_schedule WHERE wake_at <= clock_timestamp()");
}

# Differences from the log, one line each (test/data/invariants.sql); empty when the invariant of
# docs/contract/data.md holds.
sub snapshots_differ
{
    my ($node, $database) = @_;
    return value($node, <<'END', $database);
SELECT string_agg(format('%s/%s of %s: %s is %s, not %s', table_name, record_id, user_id, problem,
                         coalesce(found, 'null'), coalesce(expected, 'null')), E'\n')
  FROM public.broken_invariants()
END
}

# ---------------------------------------------------------------- waiting and timing

# A command that restores a dump. pg_dump before 14.11, 15.6 and 16.2 repeats the policies of an extension's table: with these
# no error but that may occur.
sub restore_ok
{
    my ($command, $what) = @_;
    my ($major, $minor) = `pg_dump --version` =~ /(\d+)\.(\d+)/;
    my %mended = (14 => 11, 15 => 6, 16 => 2);
    my $repeats = defined $major && $minor < ($mended{$major} // 0);
    my @command = $repeats ? grep { !/^(?:-v|ON_ERROR_STOP=1|--exit-on-error)$/ } @$command : @$command;
    my ($out, $said) = ('', '');
    IPC::Run::run(\@command, '>', \$out, '2>', \$said);
    my $status = $?;
    my @errors = grep { /ERROR:|FATAL:/ && !($repeats && /policy "\w+" for table "\w+" already exists/) } split /\n/, $said;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok(!@errors && ($status == 0 || $repeats), $what) or diag($said);
    return $said;
}

# Whether the extension that is tested is the one of `make sanitize`.
sub is_sanitized
{
    return ($ENV{MANA_AI_VARIANT} // '') eq 'SANITIZE';
}

# Whether the server is there again after a crash. A psql that is turned away before it has read the query breaks the pipe
# to it, which is an exception here.
sub accepts_sessions
{
    my ($node) = @_;
    return eval { $node->psql('mana_sync', 'SELECT 1', stdout => \my $out, stderr => \my $err) == 0 };
}

# Calls $check until it is true, at most $seconds long. A failed test if it never is.
sub wait_until
{
    my ($what, $seconds, $check) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    # Under the sanitizers everything is several times slower.
    $seconds *= 4 if is_sanitized();
    my $end = time + $seconds;
    my $got;
    while (1)
    {
        $got = $check->();
        return pass($what) if $got;
        last if time > $end;
        sleep 0.02;
    }
    return fail("$what (waited $seconds s)");
}

# Until the query's value is $expected.
sub wait_for
{
    my ($node, $what, $seconds, $sql, $expected, $database) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $got = '';
    my $ok = wait_until($what, $seconds,
        sub { $got = value($node, $sql, $database); return $got eq $expected; });
    diag("last value: $got, expected: $expected") unless $ok;
    return $ok;
}

# Until the mission has that many iterations.
sub wait_for_iterations
{
    my ($node, $id, $count, $seconds) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = wait_for(
        $node,
        "mission $id has $count iteration" . ($count == 1 ? '' : 's'),
        $seconds // 10,
        "SELECT coalesce(max(jsonb_array_length(record -> 'iterations')), -1) FROM mana_ai.mission_snapshots "
          . 'WHERE mission_id = ' . literal($id),
        $count);
    diag(why_of($node, $id)) unless $ok;
    return $ok;
}

# Until no mission is to be checked for lost plans.
sub wait_for_checks
{
    my ($node) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, 'all suspects were looked at', 20,
        'SELECT count(*) FROM mana_ai.mission_schedule WHERE check_iterations_at <= clock_timestamp()', 0);
}

# Until the worker of the database runs; returns its pid.
sub wait_for_worker
{
    my ($node, $database, $seconds) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    wait_for($node, 'the worker runs', $seconds // 10,
        "SELECT worker_pid IS NOT NULL AND worker_state <> 'starting' FROM mana_ai.status()",
        't', $database);
    return worker_pid($node, $database);
}

# Runs the code, returns the seconds that it took.
sub timed
{
    my ($code) = @_;
    my $start = time;
    $code->();
    return time - $start;
}

sub is_faster_than
{
    my ($seconds, $what, $code) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $took = timed($code);
    return ok($took < $seconds, "$what in less than $seconds s") || diag("took $took s");
}

sub log_position
{
    my ($node) = @_;
    return -s $node->logfile;
}

sub log_since
{
    my ($node, $position) = @_;
    return slurp_file($node->logfile, $position // 0);
}

# ---------------------------------------------------------------- sessions

# The statement fails with a message (with SQLSTATE, DETAIL and HINT) that the pattern matches.
#   user => role, database => name
sub fails_like
{
    my ($node, $sql, $pattern, $what, %options) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($stdout, $stderr) = ('', '');
    my $result = $node->psql(
        $options{database} // 'mana_sync', encoded("\\set VERBOSITY verbose\n$sql"),
        stdout       => \$stdout,
        stderr       => \$stderr,
        extra_params => [ '-U', $options{user} // 'postgres' ]);
    return like($result == 0 ? "no error; output: $stdout" : $stderr, $pattern, $what);
}

# Starts psql with the statements and does not wait: ->finish($seconds) returns (status, stdout,
# stderr), ->running tells whether it still runs, ->kill ends it with a signal.
sub background
{
    my ($node, $sql, %options) = @_;
    return ManaAi::Session->new($node, $sql, %options);
}

sub start_model
{
    return ManaAi::Model->new(@_);
}

sub start_research
{
    return ManaAi::Research->new(@_);
}

# ----------------------------------------------------------------
package ManaAi::Session;

use Time::HiRes qw(sleep time);

my $sessions = 0;

sub new
{
    my ($class, $node, $sql, %options) = @_;
    my $self = bless { out => '', err => '' }, $class;
    my $file = $node->basedir . '/session_' . ++$sessions . '.sql';
    PostgreSQL::Test::Utils::append_to_file($file, ManaAi::encoded("$sql\n;\n"));
    my @command = (
        $node->installed_command('psql'),
        '-XAtq', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose',
        '-U', $options{user} // 'postgres',
        '-d', $node->connstr($options{database} // 'mana_sync'),
        '-f', $file);
    $self->{run} =
      IPC::Run::start(\@command, '<', \undef, '>', \$self->{out}, '2>', \$self->{err});
    return $self;
}

sub running
{
    my ($self) = @_;
    return 0 unless $self->{run}->pumpable;
    eval { $self->{run}->pump_nb };
    return $self->{run}->pumpable;
}

sub finish
{
    my ($self, $seconds) = @_;
    my $end = time + ($seconds // 30);
    while ($self->running)
    {
        if (time > $end)
        {
            $self->{run}->kill_kill(grace => 2);
            Test::More::fail('a background session has not ended in time');
            last;
        }
        sleep 0.01;
    }
    eval { $self->{run}->finish };
    my $status = eval { ($self->{run}->full_results)[0] } // -1;
    return ($status, $self->{out}, $self->{err});
}

sub kill
{
    my ($self, $signal) = @_;
    $self->{run}->signal($signal);
    return;
}

# ---------------------------------------------------------------- the scripted model server
package ManaAi::Model;

use HTTP::Tiny;
use Time::HiRes qw(sleep time);

my @running;

# start_model(latency_ms => 200)
sub new
{
    my ($class, %options) = @_;
    my $self = bless { out => '', err => '', port => $options{port} // 0 }, $class;
    my @command = ($options{program} // $self->program, '--port', $self->{port});
    push @command, '--latency-ms', $options{latency_ms} if $options{latency_ms};
    $self->{run} = IPC::Run::start(\@command, '<', \undef, '>', \$self->{out}, '2>', \$self->{err});
    my $end = time + 10;
    $self->{run}->pump_nb, sleep 0.01 until $self->{out} =~ /\n/ || time > $end;
    die "the model server does not start: $self->{err}" unless $self->{out} =~ /^(\d+)\n/;
    $self->{port} = $1;
    push @running, $self;
    return $self;
}

sub program { return $ENV{MANA_AI_MODEL_SERVER} }
sub port { return $_[0]->{port} }
sub url { return "http://127.0.0.1:$_[0]->{port}" }

# Each call has a separate connection, so that the server's statistics are those of mana_ai.
sub call
{
    my ($self, $method, $path, $content) = @_;
    my $client = HTTP::Tiny->new(timeout => 10, keep_alive => 0, proxy => undef, http_proxy => undef);
    my $response =
      $client->request($method, $self->url . $path,
        defined $content ? { content => JSON::PP->new->utf8->encode($content) } : {});
    die "$method $path: $response->{status} $response->{content}" unless $response->{success};
    return JSON::PP->new->utf8->decode($response->{content});
}

# The default script, see test/servers/script.hpp: control({steps => [...]}) or control({latency_ms => 5}).
sub control { my ($self, $script) = @_; return $self->call('POST', '/control', $script) }
sub reset { return $_[0]->call('POST', '/control/reset', {}) }
sub requests { return @{ $_[0]->call('GET', '/control/requests') } }
# As they were sent; in bytes.
sub bodies { my ($self) = @_; my @bodies = @{ $self->call('GET', '/control/bodies') }; utf8::encode($_) for @bodies; return @bodies }
sub stats { return $_[0]->call('GET', '/control/stats') }
sub in_flight { return $_[0]->stats->{in_flight} }
sub count { return $_[0]->stats->{requests} }

sub wait_in_flight
{
    my ($self, $count, $seconds) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ManaAi::wait_until("$count model calls are in flight", $seconds // 5,
        sub { return $self->in_flight == $count });
}

sub stop
{
    my ($self) = @_;
    return unless $self->{run};
    $self->{run}->kill_kill(grace => 2);
    delete $self->{run};
    return;
}

# ---------------------------------------------------------------- scripted mana-api and mana-research
# See test/servers/research_server.cpp: control({polls => 3, outcome => 'failed', submit => {steps => [...]}}).
package ManaAi::Research;

our @ISA = ('ManaAi::Model');

sub program { return "$ENV{MANA_AI_BIN}/research_server" }

# Requests of one endpoint: discover, search, submit or poll.
sub requests_of
{
    my ($self, $endpoint) = @_;
    return grep { $_->{endpoint} eq $endpoint } $self->requests;
}

package ManaAi::Model;

END
{
    my $status = $?;
    $_->stop for @running;
    $? = $status;
}

1;
