# Kills, fails and delays the server at each failpoint (include/mana_ai/pg/failpoint_names.hpp) and checks
# the mission in work, and one that its user changes at that moment:
#
#   - each is planned once, and its user is told of nothing twice: one iteration of the server's, one row in the log, one run with outcome "planned",
#     which name each other; what its user wrote is all there
#   - no lease, no running run and no mark is left; snapshots and schedule are what the log says
#   - the ledger holds what the model server was asked for, except what a cut run was still waiting for, and no
#     more was asked for than the runs explain
#
# A failpoint that its scenario does not reach is a failure.
package ManaAi::CrashMatrix;

use strict;
use warnings;
use utf8;

use JSON::PP;
use ManaAi;
use ManaAi::Device;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $true = JSON::PP::true;

# What makes the server reach it. Keys:
#   settings   mana_ai.NAME => value while the case runs
#   also       further entries of mana_ai.failpoints, until the failpoint was reached
#   fields     of the missions: a hash, or sub (self, id)
#   cure       fields that the users write once the failpoint was reached; then the mission can be planned
#   start      sub (self, case): what is done in place of pushing the missions
#   in_session the failpoint is set for this role only: sub (self, case) does the work there
#   iterations of the server's that each mission has in the end
my %scenario = (
    plan => {},
    worker_start => {
        start => sub {
            my ($self, $case) = @_;
            my $pid = $self->ask('SELECT worker_pid FROM mana_ai.status()');
            $self->ask("SELECT pg_terminate_backend($pid, 10000)") if $pid ne '';
            $self->push_both($case);
        },
    },
    by_hand => {
        settings => { tick_enabled => 'off' },
        start => sub {
            my ($self, $case) = @_;
            $self->push_both($case);
            $self->in_background('SELECT * FROM mana_ai.run_tick()');
        },
        after => sub { $_[0]->ask('SELECT * FROM mana_ai.run_tick()') },
    },
    one_by_hand => {
        settings => { tick_enabled => 'off' },
        start => sub {
            my ($self, $case) = @_;
            $self->push_both($case);
            $self->in_background("SELECT * FROM mana_ai.run_mission('$case->{user}', '$_')") for @{ $case->{ids} };
        },
        after => sub {
            my ($self, $case) = @_;
            $self->ask("SELECT * FROM mana_ai.run_mission('$case->{user}', '$_')") for grep { !$self->is_planned($case, $_) } @{ $case->{ids} };
        },
    },
    large => { fields => { blob => 'x' x 100_000 } },
    # Somebody holds the records, so their changes are marked and repaired later.
    marked => {
        start => sub {
            my ($self, $case) = @_;
            $self->settings_now(tick_enabled => 'off');
            $self->push_both($case);
            $self->in_background("BEGIN; SELECT 1 FROM mana_ai.mission_snapshots WHERE user_id = '$case->{user}' FOR UPDATE;"
                  . ' SELECT pg_sleep(1.5); COMMIT');
            $self->until('the records are held', 10, sub {
                $self->ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") > 0 });
            $self->write_fields($case, { title => 'Während andere warten' }, @{ $case->{ids} });
            $self->settings_now(tick_enabled => undef);
        },
    },
    # Of somebody else, while these missions are planned.
    erase => {
        start => sub {
            my ($self, $case) = @_;
            $self->push_both($case);
            $self->ask("SELECT count(*) FROM mana_ai.erase_user('erased-$case->{user}')");
        },
    },
    # The batch of steps fails, so each runs alone; and there too, so they are tried again.
    alone => { also => 'write_back.locked=error:40001@1' },
    retry => { also => 'write_back.locked=error:55P03' },
    inputs => {
        fields => sub {
            my ($self, $id) = @_;
            my $device = ManaAi::Device->new($self->{key}, $id, ["notes:n-$id"]);
            $self->push_row(app => 'notes', table => 'notes', id => "n-$id", op => 'insert',
                data => { id => "n-$id", title => 'Notiz', content => $device->seal('Tresor'), updatedAt => iso(-200) });
            return { inputs => [ { module => 'notes', table => 'notes', id => "n-$id" } ], grant => $device->grant };
        },
    },
    unreadable => {
        fields => sub {
            my ($self, $id) = @_;
            my $stranger = ManaAi::Device->new($self->{key}, $id, []);
            my $device   = ManaAi::Device->new($self->{key}, $id, []);
            return { title => $stranger->seal('Fremd'), grant => $device->grant };
        },
        cure => { title => 'Klartext' },
    },
    unchanged => {
        settings   => { skip_unchanged => 'on' },
        fields     => { cadence => { kind => 'interval', everyMinutes => 60 } },
        before     => sub {
            my ($self, $case) = @_;
            $self->push_both($case);
            $self->until('the missions are planned', 30, sub { $self->is_planned($case, @{ $case->{ids} }) });
        },
        start => sub {
            my ($self, $case) = @_;
            $self->ask('UPDATE mana_ai.mission_schedule SET due_at = now(), wake_at = now(), not_before = NULL'
                  . " WHERE user_id = '$case->{user}'");
            $self->ask('SELECT pg_reload_conf()');
        },
        cure       => { objective => 'Etwas anderes', nextRunAt => iso(-60) },
        iterations => 2,
    },
    lost => {
        before => sub {
            my ($self, $case) = @_;
            $self->push_both($case);
            $self->until('the missions are planned', 30, sub { $self->is_planned($case, @{ $case->{ids} }) });
        },
        start => sub {
            my ($self, $case) = @_;
            for my $id (@{ $case->{ids} })
            {
                $self->write_fields($case, { iterations => [ { id => "it-$id", plan => [], summary => 'Gesehen', overallStatus => 'approved' } ] }, $id);
            }
        },
    },
    retried  => { fields => { objective => '[[szenario:503-once]]' } },
    away     => { fields => { objective => '[[szenario:503]]' }, cure => { objective => 'Geht wieder' } },
    refused  => { fields => { objective => '[[szenario:400]]' }, cure => { objective => 'Geht wieder' } },
    compacts => {
        settings => { compact_max_context_tokens => 300 },
        fields   => { objective => '[[szenario:lang]]' },
    },
    budget => {
        also   => 'run.begin=sleep:700',
        fields => { agentId => 'AGENT' },
        start  => sub {
            my ($self, $case) = @_;
            my $position = $self->log_size;
            $self->push_row(user => $case->{user}, table => 'agents', id => "agent-$case->{user}", op => 'insert',
                data => { id => "agent-$case->{user}", name => 'Ada', role => 'Assistenz', policy => { tools => {}, defaultForAi => 'propose' },
                    state => 'active', maxConcurrentMissions => 5, maxTokensPerDay => 1000, createdAt => iso(-120), updatedAt => iso(-120) });
            $self->push_both($case);
            $self->until('a run has begun', 20, sub { $self->log_has($position, 'failpoint run.begin: sleep') });
            $self->ask("INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used) VALUES ('$case->{user}', 'agent-$case->{user}', 'other', 2000)");
        },
        after => sub {
            my ($self, $case) = @_;
            $self->push_row(user => $case->{user}, table => 'agents', id => "agent-$case->{user}",
                data => { maxTokensPerDay => 1000000 }, stamps => { maxTokensPerDay => iso(0) });
        },
    },
    # Its agent is archived, which its user is told of, once: when it has been held back for minutes.
    told => {
        settings => { tick_interval => '300ms' },
        fields   => { agentId => 'AGENT', nextRunAt => iso(-600) },
        start    => sub {
            my ($self, $case) = @_;
            $self->push_row(user => $case->{user}, table => 'agents', id => "agent-$case->{user}", op => 'insert',
                data => { id => "agent-$case->{user}", name => 'Ada', role => 'Assistenz', policy => { tools => {}, defaultForAi => 'propose' },
                    state => 'archived', maxConcurrentMissions => 5, createdAt => iso(-120), updatedAt => iso(-120) });
            $self->push_both($case);
            my $held = "mana_ai.mission_schedule WHERE user_id = '$case->{user}' AND decision = 'skipped-archived'";
            $self->until('the missions are held back', 30, sub { $self->ask("SELECT count(*) FROM $held") eq '2' });
            $self->ask("UPDATE mana_ai.mission_schedule SET held_since = held_since - interval '10 min' WHERE user_id = '$case->{user}'");
        },
        after => sub {
            my ($self, $case) = @_;
            $self->push_row(user => $case->{user}, table => 'agents', id => "agent-$case->{user}",
                data => { state => 'active' }, stamps => { state => iso(0) });
        },
    },
    web  => { fields => { objective => 'Bitte recherchiere' } },
    deep => {
        settings => { deep_research_enabled => 'on', tick_interval => '300ms' },
        fields   => { objective => 'Bitte eine umfassende Recherche' },
        research => { polls => 1 },
    },
    no_research => {
        settings => { deep_research_enabled => 'on', tick_interval => '300ms' },
        fields   => { objective => 'Bitte eine umfassende Recherche' },
        research => { submit => { steps => [ { status => 400 } ], repeat => 'last' } },
    },
    stop => {
        model => { latency_ms => 1500 },
        start => sub {
            my ($self, $case) = @_;
            $self->push_both($case);
            $self->until('calls are in flight', 30, sub { $self->{model}->in_flight >= 1 });
            $self->{model}->control({ latency_ms => 20 });
            my $pid = $self->ask('SELECT worker_pid FROM mana_ai.status()');
            $self->in_background("SELECT pg_terminate_backend($pid, 10000)");
        },
    },
    brake => {
        model => { latency_ms => 1500 },
        start => sub {
            my ($self, $case) = @_;
            $self->push_both($case);
            $self->until('calls are in flight', 30, sub { $self->{model}->in_flight >= 1 });
            $self->{model}->control({ latency_ms => 20 });
            $self->in_background("SELECT mana_ai.stop('user:$case->{user}', 'Test')");
        },
        after => sub {
            my ($self, $case) = @_;
            $self->ask("SELECT mana_ai.resume(scope) FROM mana_ai.stops WHERE scope = 'user:$case->{user}' AND resumed_at IS NULL");
        },
    },
    push => { in_session => sub { my ($self, $case) = @_; $self->push_both($case, unless_there => 1) } },
    push_marked => {
        also       => 'trigger.row=error:XX001',
        in_session => sub { my ($self, $case) = @_; $self->push_both($case, unless_there => 1) },
    },
    refresh => {
        before     => sub { my ($self, $case) = @_; $self->push_both($case) },
        in_session => sub { $_[0]->ask('SELECT mana_ai.refresh_snapshots()', user => 'matrix_admin') },
    },
    # As if the log had not been folded before: the worker folds it in batches, and plans when it has.
    batches => {
        settings => { fold_at_once => 0, tick_interval => '300ms' },
        start    => sub {
            my ($self, $case) = @_;
            $self->ask('TRUNCATE mana_ai.folded_log');
            $self->push_both($case);
        },
    },
    attach => {
        before     => sub {
            my ($self, $case) = @_;
            $self->ask('SELECT mana_ai.detach()');
            $self->push_both($case);
        },
        in_session => sub {
            my ($self) = @_;
            $self->ask("SELECT CASE WHEN mana_ai.attached_table() IS NULL THEN mana_ai.attach('public.sync_changes')::text END", user => 'matrix_admin');
        },
    },
);

# failpoint => scenario
my %place = (
    (map { $_ => 'push' } qw(trigger.row trigger.folded)),
    (map { $_ => 'push_marked' } qw(trigger.mark trigger.marked)),
    'fold.begin' => 'refresh', 'fold.record' => 'refresh', 'fold.folded' => 'refresh', 'fold.repaired' => 'refresh',
    'attach.trigger_created' => 'attach',
    (map { $_ => 'batches' } qw(batch.read batch.before_commit batch.after_commit)),
    'worker.started'         => 'worker_start',
    (map { $_ => 'marked' } qw(repair.record repair.before_commit repair.after_commit)),
    (map { $_ => 'plan' } qw(house.before_commit house.after_commit claim.before_commit claim.after_commit
          tools.before_commit tools.after_commit tick.before_commit tick.after_commit
          jobs.step_done jobs.before_commit jobs.after_commit jobs.resumed
          run.begin run.read run.reserved run.before_call run.after_call usage.recorded usage.committed run.before_write_back
          run.after_write_back write_back.locked write_back.inserted write_back.finished run.ended)),
    (map { $_ => 'large' } qw(claim.announced claim.read)),
    (map { $_ => 'one_by_hand' } qw(claim_one.before_commit claim_one.after_commit)),
    (map { $_ => 'by_hand' } qw(hand.started hand.before_answer hand.after_answer)),
    (map { $_ => 'alone' } qw(jobs.alone_before_commit jobs.alone_after_commit)),
    'jobs.retry' => 'retry',
    (map { $_ => 'inputs' } qw(run.fetched run.opened audit.recorded audit.committed inputs.recorded)),
    (map { $_ => 'unreadable' } qw(run.before_unreadable run.after_unreadable)),
    (map { $_ => 'unchanged' } qw(run.before_put_off run.after_put_off)),
    (map { $_ => 'lost' } qw(restore.inserted restore.committed)),
    'run.retry_call'       => 'retried',
    'run.after_compaction' => 'compacts',
    (map { $_ => 'refused' } qw(run.before_failure run.after_failure)),
    'run.turn' => 'plan',
    (map { $_ => 'away' } qw(run.before_service_end run.after_service_end)),
    (map { $_ => 'budget' } qw(run.before_budget_end run.after_budget_end)),
    (map { $_ => 'told' } qw(run.before_notice run.after_notice notice.inserted)),
    (map { $_ => 'deep' } qw(research.intended research.answered research.stored research.before_wait research.after_wait
          research.offered research.fetched poll.before_commit poll.after_commit poll.answered poll.recorded)),
    'research.given_up' => 'no_research',
    (map { $_ => 'web' } qw(research.charged research.settled research.web)),
    (map { $_ => 'erase' } qw(erasure.before_commit erasure.after_commit)),
    (map { $_ => 'brake' } qw(stop.before_commit stop.after_commit)),
    (map { $_ => 'stop' } qw(abandon.before_commit abandon.after_commit)),
);

# The names in failpoint_names.hpp.
sub names
{
    my $header = slurp_file("$ENV{MANA_AI_TEST_DATA}/../../include/mana_ai/pg/failpoint_names.hpp");
    return $header =~ /^    "([a-z_.]+)",/mg;
}

# Undef when the server has no failpoints.
sub new
{
    my ($class, $name) = @_;
    my $self = bless { number => 0 }, $class;
    $self->{model}    = start_model(latency_ms => 20);
    $self->{research} = start_research();
    my $url = $self->{research}->url;
    my $conf = <<"END";
restart_after_crash = on
mana_ai.api_url = '$url'
mana_ai.research_url = '$url'
mana_ai.compact_model = 'test/compact'
mana_ai.max_unreviewed = 0
fsync = off
END
    # Safe mode is not what is tested here.
    my $node = $self->{node} = new_cluster($name, preload => 1, model => $self->{model}, conf => $conf);
    return if $self->ask("SELECT count(*) FROM pg_settings WHERE name = 'mana_ai.failpoints'") eq '0';
    settings($node, 'mana_ai.crash_limit' => 0)
      if $self->ask("SELECT count(*) FROM pg_settings WHERE name = 'mana_ai.crash_limit'") eq '1';
    $self->{key} = ManaAi::Device::new_key($node, 'server');
    settings($node, 'mana_ai.grant_private_key_file' => $self->{key});
    $node->safe_psql('postgres', 'CREATE ROLE matrix_admin SUPERUSER LOGIN');
    return $self;
}

# ---------------------------------------------------------------- the server, which may be gone for a moment

# One value. Tried again while the server is starting; dies after 60 seconds. fail_ok: returns undef at once.
sub ask
{
    my ($self, $sql, %options) = @_;
    my $end = time + 60;
    while (1)
    {
        my ($out, $err) = ('', '');
        # A session that the server refuses can break the pipe to psql.
        local $SIG{PIPE} = 'IGNORE';
        my $status = eval {
            $self->{node}->psql('mana_sync', ManaAi::encoded($sql), stdout => \$out, stderr => \$err,
                extra_params => [ '-U', $options{user} // 'postgres' ]);
        } // 2;
        utf8::decode($out);
        return $out if $status == 0;
        return undef if $options{fail_ok};
        die "$sql: $err" if time > $end || ($status != 2 && $err !~ /starting up|recovery mode|shutting down|terminat|closed the connection/);
        sleep 0.05;
    }
}

sub in_background
{
    my ($self, $sql) = @_;
    push @{ $self->{sessions} }, background($self->{node}, $sql);
    return;
}

sub end_sessions
{
    my ($self) = @_;
    $_->finish(40) for @{ delete $self->{sessions} // [] };
    return;
}

sub until
{
    my ($self, $what, $seconds, $check) = @_;
    my $end = time + $seconds;
    while (time < $end)
    {
        return 1 if $check->();
        sleep 0.03;
    }
    $self->{trouble} //= "waited $seconds s: $what";
    return 0;
}

sub log_size { return -s $_[0]{node}->logfile }

sub log_has
{
    my ($self, $position, $text) = @_;
    return index(slurp_file($self->{node}->logfile, $position), $text) >= 0;
}

sub settings_now
{
    my ($self, %values) = @_;
    my $sql = '';
    for my $name (sort keys %values)
    {
        $sql .= defined $values{$name} ? "ALTER SYSTEM SET mana_ai.$name = '$values{$name}';\n" : "ALTER SYSTEM RESET mana_ai.$name;\n";
    }
    return $self->ask("${sql}SELECT pg_reload_conf();");
}

# ---------------------------------------------------------------- what users do

sub push_row
{
    my ($self, %row) = @_;
    my $sql = ManaAi::change_sql(user => $self->{case}{user}, %row);
    return $self->ask($sql, user => 'mana_sync_service');
}

# Both missions, each with an iteration that its user has reviewed. unless_there: a client that does not know whether
# its push arrived looks first.
sub push_both
{
    my ($self, $case, %options) = @_;
    my $sql = '';
    for my $id (@{ $case->{ids} })
    {
        next if $options{unless_there}
          && $self->ask("SELECT count(*) FROM public.sync_changes WHERE record_id = '$id' AND user_id = '$case->{user}'") ne '0';
        my $fields = $case->{scenario}{fields} // {};
        $fields = $fields->($self, $id) if ref $fields eq 'CODE';
        my %fields = (
            cadence    => { kind => 'manual' },
            objective  => "Ziel",
            iterations => [ { id => "it-$id", plan => [], summary => 'Gesehen', overallStatus => 'approved' } ],
            %$fields);
        $fields{agentId} = "agent-$case->{user}" if ($fields{agentId} // '') eq 'AGENT';
        # Distinguishes the model server's requests.
        $fields{conceptMarkdown} = "Marke-$id-Ende";
        $sql .= ManaAi::change_sql(%{ ManaAi::mission_change($id, user => $case->{user}, %fields) });
    }
    return if $sql eq '';
    return $self->ask($sql, user => 'mana_sync_service');
}

# Fields of missions, stamped now.
sub write_fields
{
    my ($self, $case, $data, @ids) = @_;
    my $at = iso(0);
    my $sql = join '', map {
        ManaAi::change_sql(user => $case->{user}, id => $_, data => $data, stamps => { map { $_ => $at } keys %$data })
    } @ids;
    return $self->ask($sql, user => 'mana_sync_service');
}

# A user looks at the iterations, gives feedback, and pauses the mission: as one step, so that no plan comes in
# between, of which the device would have known nothing.
sub edit
{
    my ($self, $case, $id) = @_;
    my $answer = $self->ask(<<"END");
BEGIN;
SET LOCAL app.current_user_id = '$case->{user}';
DO \$\$
DECLARE old jsonb; at text;
BEGIN
  FOR i IN 1..40 LOOP
    SELECT record INTO old FROM mana_ai.mission_snapshots WHERE user_id = '$case->{user}' AND mission_id = '$id' FOR UPDATE;
    EXIT WHEN old IS NOT NULL;
    PERFORM pg_sleep(0.05);
  END LOOP;
  old := coalesce(old, mana_ai.replay('$case->{user}', 'ai', 'aiMissions', '$id'));
  -- A plan that is in the log already may be stamped up to a millisecond ahead.
  at := to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '5 ms', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
  INSERT INTO public.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, field_timestamps)
  VALUES ('ai', 'aiMissions', '$id', '$case->{user}', 'update', 'browser-1',
    jsonb_build_object('state', 'paused', 'note', 'Anmerkung',
      'iterations', (SELECT jsonb_agg(CASE WHEN i ->> 'id' = 'it-$id' THEN i || '{"userFeedback": "Danke"}' ELSE i END)
                       FROM jsonb_array_elements(old -> 'iterations') i)),
    jsonb_build_object('state', at, 'note', at, 'iterations', at));
END \$\$;
COMMIT;
END
    # So that what is written next has a later stamp.
    sleep 0.01;
    return $answer;
}

# ---------------------------------------------------------------- what has come of it

sub is_planned
{
    my ($self, $case, @ids) = @_;
    my $list = join ', ', map { "'$_'" } @ids;
    my $want = $case->{wanted} // 1;
    return $self->ask(<<"END") eq 't';
SELECT count(*) = ${\scalar @ids} FROM mana_ai.mission_snapshots m JOIN mana_ai.mission_schedule s USING (user_id, mission_id)
 WHERE m.user_id = '$case->{user}' AND m.mission_id IN ($list) AND s.lease_owner IS NULL
   AND (SELECT count(*) FROM jsonb_array_elements(m.record -> 'iterations') i
         WHERE i ->> 'source' = 'server' AND NOT i ? 'errorDetails') >= $want
END
}

sub check
{
    my ($self, $case) = @_;
    my @wrong;
    my $user = $case->{user};
    my $found = JSON::PP->new->decode($self->ask(<<"END"));
SELECT json_object_agg(m.id, json_build_object(
  'record', mana_ai.replay('$user', 'ai', 'aiMissions', m.id),
  'runs', (SELECT json_agg(r ORDER BY started_at) FROM mana_ai.runs r WHERE r.user_id = '$user' AND r.mission_id = m.id),
  'plans', (SELECT count(*) FROM public.sync_changes c WHERE c.user_id = '$user' AND c.record_id = m.id
               AND c.client_id = 'mana-ai-runner' AND c.data ?& '{iterations,nextRunAt}'),
  'notices', (SELECT count(*) FROM public.sync_changes c WHERE c.user_id = '$user' AND c.record_id = m.id
                 AND c.client_id = 'mana-ai-runner' AND c.data ? 'iterations' AND NOT c.data ? 'nextRunAt'),
  'charges', (SELECT count(*) FROM mana_ai.token_usage u
               WHERE u.user_id = '$user' AND u.mission_id = m.id AND u.model NOT IN ('web-research', 'deep-research')),
  'searches', (SELECT count(*) FROM mana_ai.token_usage u
                WHERE u.user_id = '$user' AND u.mission_id = m.id AND u.model = 'web-research'),
  'orders', (SELECT count(*) FROM mana_ai.token_usage u
              WHERE u.user_id = '$user' AND u.mission_id = m.id AND u.model = 'deep-research'),
  'audited', (SELECT count(*) FROM mana_ai.decrypt_audit d WHERE d.user_id = '$user' AND d.mission_id = m.id AND status = 'ok'),
  'left', (SELECT count(*) FROM mana_ai.mission_research_jobs j WHERE j.user_id = '$user' AND j.mission_id = m.id)
        + (SELECT count(*) FROM mana_ai.dirty_records d WHERE d.user_id = '$user' AND d.record_id = m.id),
  'leased', (SELECT lease_owner IS NOT NULL OR run_id IS NOT NULL FROM mana_ai.mission_schedule s
              WHERE s.user_id = '$user' AND s.mission_id = m.id)))
FROM unnest('{$case->{ids}[0],$case->{ids}[1]}'::text[]) AS m(id)
END
    my @requests = $self->{model}->requests;
    my $wanted = $case->{wanted};
    for my $id (@{ $case->{ids} })
    {
        my ($record, $runs) = @{ $found->{$id} }{qw(record runs)};
        $runs //= [];
        my $is = sub { my ($what, $got, $expected) = @_; push @wrong, "$id: $what is $got, not $expected" if $got ne $expected };
        my @ours = grep { ($_->{source} // '') eq 'server' && !$_->{errorDetails} } @{ $record->{iterations} };
        my $told = grep { $_->{errorDetails} } @{ $record->{iterations} };
        push @wrong, "$id: its user was told $told times" if $told > ($case->{name} eq 'told' ? 1 : 0);
        my %ids = map { $_->{id} => 1 } @{ $record->{iterations} };
        $is->('number of iterations', scalar @{ $record->{iterations} }, $wanted + $told + 1);
        $is->('number of different iterations', scalar keys %ids, $wanted + $told + 1);
        $is->('plans in the log', $found->{$id}{plans}, $wanted);
        $is->('notices in the log', $found->{$id}{notices}, $told) if $case->{name} eq 'told';
        my @planned = grep { $_->{outcome} eq 'planned' } @$runs;
        $is->('ids of planned runs', join(' ', sort map { $_->{iteration_id} } @planned), join(' ', sort map { $_->{id} } @ours));
        $is->('running runs', scalar(grep { $_->{outcome} eq 'running' } @$runs), 0);
        $is->('lease', $found->{$id}{leased} ? 'held' : 'free', 'free');
        $is->('jobs and marks left', $found->{$id}{left}, 0);
        if ($id eq $case->{edited})
        {
            my ($first) = grep { $_->{id} eq "it-$id" } @{ $record->{iterations} };
            $is->('feedback', $first->{userFeedback} // 'none', 'Danke');
            $is->('note', $record->{note} // 'none', 'Anmerkung');
        }
        my @asked = grep { index($_, "Marke-$id-Ende") >= 0 } map { JSON::PP->new->encode($_->{body}) } @requests;
        my $asked = @asked;
        my $cut = grep { $_->{outcome} =~ /^(?:crashed|canceled|failed|discarded)$/ } @$runs;
        my $charged = $found->{$id}{charges};
        # A compaction's request does not have the mark.
        my $hidden = $case->{name} eq 'compacts' ? @$runs : 0;
        push @wrong, "$id: charged $charged times for $asked calls" if $charged > $asked + $hidden;
        # Of each cut run the reply under way may be unrecorded; and those that were no success cost nothing. How often
        # a service that is away is asked depends on how long it is.
        my $free = $case->{name} =~ /^(?:retried|refused|compacts)$/ ? 4 : 0;
        $free = grep { /szenario:503/ } @asked if $case->{name} eq 'away';
        push @wrong, "$id: charged $charged times for $asked calls, $cut runs were cut" if $charged < $asked - $cut - $free;
        my $searched = $found->{$id}{searches};
        push @wrong, "$id: charged for research on the web $searched times in " . @$runs . ' runs' if $searched > @$runs;
        push @wrong, "$id: not charged for research on the web" if $case->{name} eq 'web' && $searched == 0;
        my $orders = $found->{$id}{orders};
        push @wrong, "$id: charged for long research $orders times in " . @$runs . ' runs' if $orders > @$runs;
        push @wrong, "$id: not charged for long research" if $case->{name} eq 'deep' && $orders == 0;
        my $ended = grep { $_->{outcome} ne 'skipped' } @$runs;
        push @wrong, "$id: $asked calls of $ended runs" if $asked > 2 * $ended + $free;
        push @wrong, "$id: " . scalar(@$runs) . ' runs: ' . join(' ', map { $_->{outcome} } @$runs) if @$runs > $wanted + 4;
        if ($case->{action} eq 'kill')
        {
            my $crashed = grep { $_->{outcome} eq 'crashed' } @$runs;
            push @wrong, "$id: $crashed crashed runs of one kill" if $crashed > 1;
        }
        push @wrong, "$id: decrypted, but not on record" if $case->{name} eq 'inputs' && !$found->{$id}{audited};
    }
    return @wrong;
}

# ---------------------------------------------------------------- a case

sub run_case
{
    my ($self, $failpoint, $action) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $good = eval { $self->try_case($failpoint, $action) };
    return defined $good ? $good : fail("$action at $failpoint: $@");
}

sub try_case
{
    my ($self, $failpoint, $action) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 2;
    my $name     = $place{$failpoint} or return fail("$failpoint: no scenario comes by it");
    my $scenario = $scenario{$name};
    my $number   = ++$self->{number};
    my $case     = $self->{case} = {
        user => "u$number", ids => [ "a$number", "b$number" ], edited => "b$number", action => $action, name => $name,
        scenario => $scenario, wanted => 1 };
    delete $self->{trouble};
    my $what = "$action at $failpoint";
    my $began = time;
    my $node = $self->{node};

    $self->{model}->reset;
    $self->{model}->control({ latency_ms => 20, %{ $scenario->{model} // {} } });
    my @long = map { { tool_calls => [ map { { name => 'create_task', arguments => { title => $_ } } } @$_ ],
            usage => { prompt_tokens => 90, completion_tokens => 60, total_tokens => 150 } } } [qw(A B)], [qw(C D E)], [qw(F)];
    $self->{model}->control({ scenario => 'lang', per_mission => $true,
            steps => [ @long[ 0, 1 ], { content => "## Goal\nEinkaufen", usage => { prompt_tokens => 9, completion_tokens => 1, total_tokens => 10 } }, $long[2], { content => 'Fertig.' } ] })
      if $name eq 'compacts';
    $self->{research}->reset;
    $self->{research}->control($scenario->{research}) if $scenario->{research};

    my %settings = %{ $scenario->{settings} // {} };
    unlink $node->data_dir . "/mana_ai_failpoint.$failpoint";
    my $points = "$failpoint=" . { kill => 'kill@once', error => 'error', sleep => $scenario->{cure} ? 'sleep:1500' : 'sleep:400' }->{$action};
    $points .= ", $scenario->{also}" if $scenario->{also};

    # Whatever is undone at the end of the last case is undone together with this one's beginning.
    my %all = (failpoints => undef, (map { $_ => undef } @{ $self->{changed} // [] }), %settings);
    $self->{changed} = [ keys %settings ];
    if ($scenario->{before})
    {
        $self->settings_now(%all);
        $scenario->{before}->($self, $case);
    }
    my $position = $self->log_size;
    my $reached  = "failpoint $failpoint: $action";
    if ($scenario->{in_session})
    {
        $self->settings_now(%all) unless $scenario->{before};
        $self->ask("ALTER ROLE $_ SET mana_ai.failpoints = '$points'") for qw(mana_sync_service matrix_admin);
        my $ended = eval { $scenario->{in_session}->($self, $case); 1 };
        # A push must get through; a repair or a fold may fail.
        push @{ $case->{wrong} }, "the push failed: $@" if !$ended && $action ne 'kill' && $name =~ /push/;
    }
    else
    {
        $self->settings_now($scenario->{before} ? () : %all, failpoints => $points);
        ($scenario->{start} // \&push_both)->($self, $case);
    }
    $self->until("$reached", 40, sub { $self->log_has($position, $reached) });
    $self->{reached}{$failpoint}++ unless $self->{trouble};

    # The user's change, while the server waits, fails or starts anew.
    my $lift = sub {
        $self->settings_now(failpoints => undef);
        $self->ask("ALTER ROLE $_ RESET mana_ai.failpoints") for $scenario->{in_session} ? qw(mana_sync_service matrix_admin) : ();
    };
    $lift->() if $scenario->{in_session};
    if ($scenario->{in_session} && ($name eq 'refresh' || $name eq 'attach' || $action eq 'kill'))
    {
        $scenario->{in_session}->($self, $case);
    }
    # What a run that is about to end has not seen must not be held back by its end.
    $self->write_fields($case, { %{ $scenario->{cure} } }, @{ $case->{ids} }) if $scenario->{cure} && $action eq 'sleep' && !$scenario->{iterations};
    $self->edit($case, $case->{edited});
    $lift->() unless $scenario->{in_session};
    $self->end_sessions;
    # Who is put off while the change is on its way would write a later time than the change has.
    $self->until('nobody is being put off', 30, sub { $self->ask(<<"END") eq 't' }) if $scenario->{iterations} && $action eq 'kill';
SELECT bool_and(lease_owner IS NULL AND coalesce(wake_at, 'infinity') > now()) FROM mana_ai.mission_schedule WHERE user_id = '$case->{user}'
END
    my $again = { state => 'active', lastSeen => iso(0), %{ $scenario->{cure} // {} } };
    if ($scenario->{iterations})
    {
        $case->{wanted} = $scenario->{iterations};
    }
    $self->write_fields($case, $again, @{ $case->{ids} });
    my $next = time;
    $self->until('both missions are planned', 60, sub {
        if ($scenario->{after} && time >= $next)
        {
            $scenario->{after}->($self, $case);
            $next = time + 2;
        }
        return $self->is_planned($case, @{ $case->{ids} });
    });
    my @wrong = (@{ $case->{wrong} // [] }, $self->{trouble} // ());
    push @wrong, eval { $self->check($case) };
    push @wrong, $@ if $@;
    ok(!@wrong, sprintf '%s (%s, %.1f s)', $what, $name, time - $began)
      or diag(join "\n", @wrong, (map { "$_: " . ($self->ask("SELECT mana_ai.why('$case->{user}', '$_')", fail_ok => 1) // '?') } @{ $case->{ids} }),
        $self->ask("SELECT string_agg(format('%s %s %s %s', mission_id, outcome, decision, error_message), E'\\n' ORDER BY started_at) FROM mana_ai.runs WHERE user_id = '$case->{user}'", fail_ok => 1) // '');
    return @wrong ? 0 : 1;
}

# For all cases together.
sub finish
{
    my ($self) = @_;
    my $node = $self->{node};
    $self->settings_now(failpoints => undef, map { $_ => undef } @{ $self->{changed} // [] });
    $self->until('nothing waits for repair', 60, sub { $self->ask('SELECT count(*) FROM mana_ai.dirty_records') eq '0' });
    is($self->{trouble} // '', '', 'the server comes to rest');
    is(snapshots_differ($node), '', 'snapshots and schedule are what the log says');
    is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running'"), 0, 'no run is left');
    is(value($node, 'SELECT count(*) FROM mana_ai.mission_schedule WHERE lease_owner IS NOT NULL OR run_id IS NOT NULL'), 0, 'no lease is left');
    is(value($node, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid > 28000"
          . ' AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type LIKE \'mana_ai%\')'), 0, 'no lock is left');
    my $log = slurp_file($node->logfile);
    my $kills = () = $log =~ /failpoint \S+: kill/g;
    my $died  = () = $log =~ /was terminated by signal 9/g;
    is($died, $kills, "all $kills that died were killed");
    unlike($log, qr/PANIC|TRAP|terminated by signal (?!9\b)/, 'and nothing else crashed');
    $node->stop;
    return;
}

1;
