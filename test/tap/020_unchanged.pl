# mana_ai.skip_unchanged: a recurring mission without changes is postponed without a model
# call; a change of anything that a plan depends on makes it run again. And registered resolvers, which take part in that.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use Test::More;

my $model = start_model();
my $node  = new_cluster('unchanged', preload => 1, model => $model,
    conf => "mana_ai.tick_enabled = off\nmana_ai.skip_unchanged = on\nmana_ai.max_unreviewed = 0\nmana_ai.api_url = 'http://127.0.0.1:9'\n");

# A resolver of the operator's own, owned by a role that may only read its table.
$node->safe_psql('mana_sync', <<'END');
CREATE ROLE weather_owner;
CREATE TABLE public.weather (place text PRIMARY KEY, said text);
INSERT INTO public.weather VALUES ('bonn', 'Regen ab Mittag');
GRANT SELECT ON public.weather TO weather_owner;
CREATE FUNCTION public.weather_of(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql STABLE AS
  $$ SELECT jsonb_build_object('title', 'Wetter für ' || user_id, 'content', said) FROM public.weather WHERE place = ref ->> 'id' $$;
CREATE FUNCTION public.slow(user_id text, ref jsonb) RETURNS jsonb LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_sleep(60); RETURN '{"content": "nie"}'; END $$;
CREATE FUNCTION public.writes(user_id text, ref jsonb) RETURNS jsonb LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.weather VALUES ('x', 'y'); RETURN '{"content": "geschrieben"}'; END $$;
CREATE FUNCTION public.odd(user_id text, ref jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '[1]'::jsonb $$;
CREATE FUNCTION public.loud(user_id text, ref jsonb) RETURNS jsonb LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'Privates-in-der-Meldung'; END $$;
ALTER FUNCTION public.weather_of(text, jsonb) OWNER TO weather_owner;
ALTER FUNCTION public.slow(text, jsonb) OWNER TO weather_owner;
ALTER FUNCTION public.writes(text, jsonb) OWNER TO weather_owner;
ALTER FUNCTION public.odd(text, jsonb) OWNER TO weather_owner;
ALTER FUNCTION public.loud(text, jsonb) OWNER TO weather_owner;
GRANT INSERT ON public.weather TO weather_owner;
SELECT mana_ai.register_resolver('weather', 'public.weather_of(text, jsonb)');
SELECT mana_ai.register_resolver('slow', 'public.slow(text, jsonb)');
SELECT mana_ai.register_resolver('writes', 'public.writes(text, jsonb)');
SELECT mana_ai.register_resolver('odd', 'public.odd(text, jsonb)');
SELECT mana_ai.register_resolver('loud', 'public.loud(text, jsonb)');
END

push_change($node, app => 'notes', table => 'notes', id => 'n1', op => 'insert',
    data => { id => 'n1', title => 'Notiz', content => 'Anfang', updatedAt => iso(-200) });
push_agent($node, 'a1');
push_mission($node, 'm1', agentId => 'a1',
    inputs => [ { module => 'notes', table => 'notes', id => 'n1' }, { module => 'weather', table => 'forecast', id => 'bonn' },
        map { { module => $_, table => 't', id => 'x' } } qw(slow writes odd loud) ]);

my $clock = 1;

# The mission is due again, as time alone makes it.
sub make_due
{
    value($node, "UPDATE mana_ai.mission_schedule SET due_at = now(), wake_at = now(), not_before = NULL WHERE mission_id = 'm1'");
    return;
}

sub runs_again
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    make_due();
    my $before = $model->count;
    is(run_tick($node)->{plans_written_back}, 1, "$what: the mission runs");
    cmp_ok($model->count, '>', $before, 'with model calls');
    is_put_off('and once more');
    return;
}

sub is_put_off
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    make_due();
    my $before = $model->count;
    my $iterations = scalar @{ iterations_of($node, 'm1') };
    my $tick = run_tick($node);
    is("$tick->{skipped} $tick->{plans_written_back}", '1 0', "$what: it is put off") or diag(explain last_run($node, 'm1'));
    is($model->count, $before, 'without a model call');
    is(scalar @{ iterations_of($node, 'm1') }, $iterations, 'and without an iteration');
    is(last_run($node, 'm1')->{decision}, 'skipped-unchanged', 'as skipped-unchanged');
    cmp_ok(value($node, "SELECT due_at > now() + interval '50 minutes' FROM mana_ai.mission_schedule WHERE mission_id = 'm1'"), 'eq', 't',
        'until its next run');
    return;
}

is(run_tick($node)->{plans_written_back}, 1, 'the first run plans');
my ($request) = reverse $model->requests;
my $prompt = join "\n", map { $_->{content} // '' } @{ $request->{body}{messages} };
like($prompt, qr/Wetter für user-1.*Regen ab Mittag/s, 'a registered resolver\'s input is in the prompt');
unlike($prompt, qr/geschrieben|nie\b/, 'those of failing ones are not');
is(join(' ', map { ($_->{used} ? 'used' : $_->{reason}) } @{ last_run($node, 'm1')->{inputs} }),
    'used used resolver-failed resolver-failed resolver-failed resolver-failed', 'as the run says');
is(value($node, 'SELECT string_agg(module || \' \' || failures || \' \' || last_failure, \', \' ORDER BY module) FROM mana_ai.resolvers WHERE failures > 0'),
    'loud 1 P0001, odd 1 invalid output, slow 1 timeout, writes 1 25006', 'failures are counted by resolver');
is(value($node, 'SELECT count(*) FROM public.weather'), 1, 'a resolver cannot write');
unlike(log_since($node), qr/ERROR.*Privates-in-der-Meldung/, 'what its error says is not logged');
$node->safe_psql('mana_sync', "SELECT mana_ai.unregister_resolver(m) FROM unnest(ARRAY['slow', 'writes', 'odd', 'loud']) m");

is_put_off('nothing has changed');
is_put_off('still nothing');
push_change($node, app => 'notes', table => 'notes', id => 'n1', data => { content => 'Neu' }, stamps => { content => iso($clock++) });
runs_again('an input has changed');
# Written on a device that was offline: newer than what was there, older than the record's newest field.
push_change($node, app => 'notes', table => 'notes', id => 'n1', data => { title => 'Später angekommen' }, stamps => { title => iso(-100) });
runs_again('an older edit of an input has come in');
value($node, "UPDATE public.weather SET said = 'Sonne'");
runs_again('a resolver says something else');
push_change($node, id => 'm1', data => { objective => 'Ein anderes Ziel' }, stamps => { objective => iso($clock++) });
runs_again('the objective has changed');
push_change($node, table => 'agents', id => 'a1', data => { memory => 'Merkt sich etwas' }, stamps => { memory => iso($clock++) });
runs_again('the agent has changed');
my $iterations = iterations_of($node, 'm1');
$iterations->[-1]{overallStatus} = 'rejected';
$iterations->[-1]{userFeedback}  = 'Zu viel auf einmal';
push_change($node, id => 'm1', data => { iterations => $iterations }, stamps => { iterations => iso($clock++ + 5) });
runs_again('the user has answered');
settings($node, 'mana_ai.planner_model' => 'other/model');
runs_again('another model plans');

my $explained = rows($node, "SELECT decision FROM mana_ai.explain('user-1', 'm1')")->[0];
is($explained->{decision}, 'skipped-unchanged', 'explain() says that it would be put off');
is(run_mission($node, 'm1')->{outcome}, 'planned', 'a mission that is asked for by name runs all the same');
push_change($node, id => 'm1', data => { cadence => { kind => 'manual' } }, stamps => { cadence => iso($clock++ + 6) });
make_due();
is(run_tick($node)->{plans_written_back}, 1, 'a mission that does not recur runs');

# Research finds something new every day.
push_mission($node, 'm2', objective => 'Suche aktuelle Nachrichten');
is(run_tick($node)->{plans_written_back}, 1, 'a mission that researches is planned');
value($node, "UPDATE mana_ai.mission_schedule SET due_at = now(), wake_at = now() WHERE mission_id = 'm2'");
is(run_tick($node)->{plans_written_back}, 1, 'and never put off');

settings($node, 'mana_ai.skip_unchanged' => 'off');

# A resolver that waits for a lock ends by its own limit; nobody else's run is canceled, and a module that is
# slow is not called again and again.
$node->safe_psql('mana_sync', "SELECT mana_ai.register_resolver('slow', 'public.slow(text, jsonb)')");
my $locker = background($node, 'BEGIN; LOCK TABLE public.weather; SELECT pg_sleep(30)');
wait_for($node, 'the table is locked', 5, "SELECT count(*) FROM pg_locks WHERE relation = 'public.weather'::regclass AND mode = 'AccessExclusiveLock' AND granted", 1);
$model->control({ latency_ms => 1500 });
push_mission($node, 'beside');
push_mission($node, 'waits', inputs => [ map { { module => 'weather', table => 'forecast', id => $_ } } qw(bonn berlin) ]);
push_mission($node, 'slows', inputs => [ map { { module => 'slow', table => 't', id => "x$_" } } 1 .. 50 ]);
my $tick = run_tick($node);
is($tick->{plans_written_back}, 3, 'missions are planned although resolvers do not answer') or diag(explain $tick);
is(join(' ', map { $_->{reason} } @{ last_run($node, 'waits')->{inputs} }), 'resolver-failed resolver-failed', 'without their input');
is(value($node, "SELECT last_failure FROM mana_ai.resolvers WHERE module = 'weather'"), 'timeout', 'whose resolver waited for a lock too long');
is(value($node, "SELECT failures FROM mana_ai.resolvers WHERE module = 'slow'"), 1, 'a resolver that times out is asked once a run');
$locker->kill('TERM');

# Slow inputs of many missions do not add up: once the module is known to be slow, it is left alone.
push_missions($node, [ map { "many$_" } 1 .. 20 ], inputs => [ { module => 'slow', table => 't', id => 'x' } ]);
$tick = run_tick($node);
is($tick->{plans_written_back}, 20, 'twenty missions with an input of a slow module are planned');
is(value($node, "SELECT failures FROM mana_ai.resolvers WHERE module = 'slow'"), 1 + 3, 'which was asked three times in all');
is(value($node, "SELECT count(*) FROM mana_ai.runs WHERE mission_id LIKE 'many%' AND inputs -> 0 ->> 'reason' = 'resolver-paused'"), 17,
    'and then left alone');
$model->control({ latency_ms => 0 });

push_mission($node, 'm3');
for (1 .. 2)
{
    is(run_tick($node)->{plans_written_back}, 1, 'when the setting is off, every run plans');
    value($node, "UPDATE mana_ai.mission_schedule SET due_at = now(), wake_at = now() WHERE mission_id = 'm3'");
}

$node->stop;
$model->stop;
done_testing();
