# The tool catalogs: they match what clients check, each has the tools of its client, and an operator's changes
# survive a change of the catalog, a dump and an upgrade.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run ();
use ManaAi;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $model = start_model();
my $node  = new_cluster('tools', preload => 1, model => $model, conf => 'mana_ai.tick_enabled = off');

open my $file, '<', "$ENV{MANA_AI_TEST_DATA}/tool_facts.jsonl" or die $!;
my @facts = map { JSON::PP->new->utf8->decode($_) } <$file>;

sub tools { return { map { $_->{name} => $_ } @{ rows($node, 'SELECT name, default_policy, description, parameters, enabled, as_shipped, shipped IS NULL AS own FROM mana_ai.tools', $_[0] // 'mana_sync') } } }
sub offered { my $tools = tools(); return grep { $tools->{$_}{default_policy} eq 'propose' && $tools->{$_}{enabled} } sort keys %$tools }

# ---------------------------------------------------------------- what the descriptions say

for my $catalog ('2026-04', '2026-05')
{
    value($node, "SELECT mana_ai.set_tool_catalog('$catalog')");
    is(value($node, 'SELECT mana_ai.tool_catalog()'), $catalog, "catalog $catalog is chosen");
    my $tools = tools();
    my (%known, @wrong, %bounds);
    for my $fact (grep { grep { $_ eq $catalog } @{ $_->{catalogs} } } @facts)
    {
        my $tool = $tools->{ $fact->{tool} };
        $known{ $fact->{tool} } = 1;
        my $what = "$fact->{tool}" . ($fact->{parameter} ? ".$fact->{parameter}" : '') . " ($fact->{rule}; $fact->{from})";
        if (!$tool) { push @wrong, "$what: no such tool"; next }
        my $text = $tool->{description};
        if ($fact->{parameter})
        {
            my ($parameter) = grep { $_->{name} eq $fact->{parameter} } @{ $tool->{parameters} };
            if (!$parameter) { push @wrong, "$what: no such parameter"; next }
            $text = join ' ', $parameter->{description}, @{ $parameter->{enum} // [] };
            $bounds{"$fact->{tool}.$fact->{parameter}"} = $fact->{bounds} if $fact->{bounds};
        }
        push @wrong, map { "$what does not say: $_" } grep { index($text, $_) < 0 } @{ $fact->{says} };
        push @wrong, map { "$what says: $_" } grep { index($text, $_) >= 0 } @{ $fact->{never} };
    }
    is_deeply(\@wrong, [], "$catalog: descriptions say what clients check");
    is_deeply([ grep { !$known{$_} } offered() ], [], "$catalog: every tool that is offered was compared with its client");
    cmp_ok(scalar keys %known, '>=', 47, "$catalog: facts were read");
    my %ours;
    for my $tool (values %$tools)
    {
        for my $parameter (@{ $tool->{parameters} })
        {
            my %is = map { $_ => $parameter->{$_} } grep { exists $parameter->{$_} } qw(minimum maximum minLength maxLength);
            $ours{"$tool->{name}.$parameter->{name}"} = \%is if %is;
        }
    }
    is_deeply(\%ours, \%bounds, "$catalog: what clients refuse as too small or too large is refused here, and nothing else");
}

# ---------------------------------------------------------------- which tools there are

my @not_in_newest = qw(add_article_highlight archive_article create_place save_article save_news_article tag_article visit_place);
is(value($node, 'SELECT count(*) FROM mana_ai.tools'), 101, '2026-05: 26 more, 9 fewer');
is(scalar offered(), 53, 'of which 53 are offered');
is_deeply([ grep { my $name = $_; grep { $_ eq $name } @not_in_newest } offered() ], [], 'none that the newest client does not carry out');
push_mission($node, 'newest', cadence => { kind => 'manual' });
run_tick($node);
my %asked = map { $_->{function}{name} => 1 } @{ ($model->requests)[0]{body}{tools} };
ok($asked{create_draft} && $asked{forms_create} && !$asked{save_article}, 'models are offered those of the chosen catalog');
ok(!$asked{save_draft_as_article}, 'and none that no client carries out');

# A call that a client would refuse is not a step, and the model is told.
push_mission($node, 'bounds', cadence => { kind => 'manual' });
$model->reset;
$model->control({ steps => [
    { tool_calls => [
        { name => 'rate_library_entry', arguments => { entryId => 'e1', rating => 7 } },
        { name => 'capture_sign', arguments => { kind => 'omen', source => 'Amsel', claim => 'Regen', probability => 70 } },
        { name => 'create_website', arguments => { name => 'Lang', slug => 'a' x 41 } } ] },
    { tool_calls => [ { name => 'rate_library_entry', arguments => { entryId => 'e1', rating => 5 } } ] }, { content => 'Fertig.' } ] });
is(run_mission($node, 'bounds')->{steps}, 1, 'of calls out of range none is a step');
my @answers = map { JSON::PP->new->decode($_->{content}) } grep { $_->{role} eq 'tool' } @{ ($model->requests)[1]{body}{messages} };
is_deeply([ map { $_->{success} ? 1 : 0 } @answers ], [ 0, 0, 0 ], 'each is answered');
like($answers[0]{message}, qr/^Parameter „rating“ muss zwischen 1 und 5 sein; angegeben ist die Zahl 7\.$/, 'with what is right');
is(iterations_of($node, 'bounds')->[-1]{plan}[0]{intent}{params}{rating}, 5, 'and its better call is the step');
my ($result, $out, $error) = $node->psql('mana_sync', q(UPDATE mana_ai.tools SET parameters = '[{"name": "a", "type": "string", "required": true, "description": "d", "maximum": 5}]' WHERE name = 'create_note'));
my $refused = qr/bounds or properties of parameter "a" of tool "create_note" do not fit/;
like($error, $refused, 'bounds that do not fit the type are refused');
my $nested = '{"name": "x", "type": "object", "properties": [{"name": "y", "type": "object", "properties": [{"name": "z", "type": "object"%s}]}]}';
for my $bad ('"type": "string", "properties": []', '"type": "array", "items": "string", "properties": []', '"type": "object", "properties": {}', '"type": "object", "properties": [{"name": "x"}]',
    '"type": "object", "properties": [{"name": "x", "type": "text"}]', '"type": "object", "properties": [{"name": "x y", "type": "string"}]', '"type": "object", "properties": ["x"]',
    '"type": "object", "properties": [{"name": "x", "type": "string", "enum": []}]', '"type": "object", "properties": [{"name": "x", "type": "string", "enum": ["a", 1]}]',
    '"type": "object", "properties": [{"name": "x", "type": "array", "items": "text"}]', '"type": "object", "properties": [{"name": "x", "type": "number", "maxLength": 1}]',
    '"type": "object", "properties": [{"name": "x", "type": "string", "required": "yes"}]', '"type": "object", "properties": [{"name": "x", "type": "string"}, {"name": "x", "type": "number"}]',
    '"type": "string", "maxLength": 1e10', '"type": "object", "properties": [' . sprintf($nested, ', "properties": []') . ']')
{
    ($result, $out, $error) = $node->psql('mana_sync', qq(UPDATE mana_ai.tools SET parameters = '[{"name": "a", "required": true, "description": "d", $bad}]' WHERE name = 'create_note'));
    like($error, $refused, "so are properties that no object can have: $bad");
}
$node->safe_psql('mana_sync', sprintf q(UPDATE mana_ai.tools SET parameters = '[{"name": "a", "required": true, "description": "d", "type": "object", "properties": [%s, {"name": "e", "type": "string", "enum": ["", "v"]}, {"name": "l", "type": "array", "items": "number"}]}]' WHERE name = 'create_note'), sprintf $nested, '');
run_mission($node, 'newest');
unlike(log_since($node), qr/"create_note" in mana_ai.tools is left out/, 'what the table takes the worker takes');
$node->safe_psql('mana_sync', q(UPDATE mana_ai.tools SET parameters = shipped -> 'parameters' WHERE name = 'create_note'));
# An operator's tool with a schema that Gemini would refuse does not make plans fail.
$node->safe_psql('mana_sync', <<'END');
INSERT INTO mana_ai.tools (name, module, description, default_policy, parameters) VALUES
  ('order_pizza', 'food', 'Pizza bestellen.', 'propose', '[
    {"name": "pizza", "type": "object", "required": true, "description": "O"}, {"name": "extras", "type": "array", "required": false, "description": "L"},
    {"name": "grid", "type": "array", "items": "array", "required": false, "description": "M"},
    {"name": "size", "type": "string", "required": false, "enum": ["", "gross"], "description": "E"}]'),
  ('3d_print', 'own', 'Drucken.', 'propose', '[]')
END
push_mission($node, 'little', cadence => { kind => 'manual' });
$model->reset;
$model->control({ steps => [
    { tool_calls => [ { name => 'order_pizza', arguments => { pizza => { none => 'x', name => 'Funghi' }, extras => [ { none => '', name => 'Rucola' } ], grid => [ [1] ] } } ] }, { content => 'Fertig.' } ] });
is(run_mission($node, 'little')->{outcome}, 'planned', 'a tool that says little is taken');
is_deeply(iterations_of($node, 'little')->[-1]{plan}[0]{intent}{params}, { pizza => { name => 'Funghi' }, extras => [ { name => 'Rucola' } ], grid => [ [1] ] },
    'and placeholders stand in no step');
like(log_since($node), qr/tool "3d_print" in mana_ai.tools is left out/, 'one whose name providers refuse is left out');
$node->safe_psql('mana_sync', q(DELETE FROM mana_ai.tools WHERE name IN ('order_pizza', '3d_print')));

value($node, "SELECT mana_ai.set_tool_catalog('2026-04')");
is(value($node, 'SELECT count(*) FROM mana_ai.tools'), 84, '2026-04: 84');
is(scalar offered(), 47, 'of which 47 are offered');
is(value($node, 'SELECT count(*) FROM mana_ai.tools WHERE NOT as_shipped'), 0, 'and all are as they were');
($result, $out, $error) = $node->psql('mana_sync', q(SELECT mana_ai.set_tool_catalog('2027-01')));
like($error, qr/there is no tool catalog "2027-01".*HINT:  Catalogs are: 2026-04, 2026-05\./s, 'another catalog is refused');
is(value($node, 'SELECT mana_ai.tool_catalog()'), '2026-04', 'and changes nothing');

# ---------------------------------------------------------------- what an operator has changed

my $changes = <<'END';
UPDATE mana_ai.tools SET description = 'Unsere Notiz.' WHERE name = 'create_note';
UPDATE mana_ai.tools SET enabled = false WHERE name = 'create_task';
UPDATE mana_ai.tools SET description = 'Unser Ziel.' WHERE name = 'create_goal';
UPDATE mana_ai.tools SET description = 'Unser Artikel.' WHERE name = 'save_article';
INSERT INTO mana_ai.tools (name, module, description, default_policy) VALUES
  ('order_pizza', 'food', 'Pizza bestellen.', 'propose'), ('create_draft', 'own', 'Unser Entwurf.', 'propose');
END
sub is_kept
{
    my ($what, $database) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $tools = tools($database);
    is_deeply({ map { $_ => $tools->{$_}{description} } qw(create_note create_goal save_article order_pizza create_draft) },
        { create_note => 'Unsere Notiz.', create_goal => 'Unser Ziel.', save_article => 'Unser Artikel.', order_pizza => 'Pizza bestellen.',
            create_draft => 'Unser Entwurf.' }, "$what: texts of the operator stay");
    ok(!$tools->{create_task}{enabled}, "$what: what was switched off stays off");
}
$node->safe_psql('mana_sync', $changes);
($result, $out, $error) = $node->psql('mana_sync', q(SELECT mana_ai.set_tool_catalog('2026-05')));
like($error, qr/NOTICE:  tool "save_article" is not in catalog 2026-05 and stays, since it was changed here/, 'a changed tool that goes is said to stay');
like($error, qr/NOTICE:  tool "create_draft" of catalog 2026-05 is not taken, since there is another one of that name here/, 'and of one that is not taken why');
is_kept('another catalog');
unlike(encode_json(tools()->{create_goal}{parameters}), qr/tpl-meals-daily/, 'a column that was not changed follows the catalog');

my $dump = "$ENV{TESTDATADIR}/tools.sql";
command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-f', $dump, 'mana_sync' ], 'a dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
restore_ok([ 'psql', '-XAtq', '-h', $node->host, '-p', $node->port, '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ], 'restored');
is_kept('restored', 'restored');
is($node->safe_psql('restored', 'SELECT mana_ai.tool_catalog()'), '2026-05', 'with the catalog that was chosen');
is($node->safe_psql('restored', 'SELECT count(*) FROM mana_ai.tools'), value($node, 'SELECT count(*) FROM mana_ai.tools'), 'and its tools');

value($node, "SELECT mana_ai.set_tool_catalog('2026-04')");
is_kept('and back');
like(encode_json(tools()->{create_goal}{parameters}), qr/tpl-meals-daily/, 'the rest is as it was');

# ---------------------------------------------------------------- upgrade

SKIP:
{
    skip 'the install script of 0.1.0 is not installed', 1
      if value($node, "SELECT count(*) FROM pg_available_extension_versions WHERE name = 'mana_ai' AND version = '0.1.0'") == 0;
    create_sync_database($node, 'old', extension => 0);
    $node->safe_psql('old', "CREATE EXTENSION mana_ai VERSION '0.1.0'");
    $node->safe_psql('old', $changes . <<'END');
UPDATE mana_ai.tools SET description = 'Unsere Frage.' WHERE name = 'add_quiz_question';
UPDATE mana_ai.tools SET parameters = '[{"name": "clientName", "type": "string", "required": true, "description": "Unser Name"}]' WHERE name = 'create_invoice';
END
    my %members = (lax => q("minimum": "0", "maxLength": 5, "properties": {"x": {"type": "string"}}), proper => q("properties": [{"name": "x", "type": "string"}]),
        deep => q("properties": [{"name": "x", "type": "text"}]));
    $node->safe_psql('old', qq(INSERT INTO mana_ai.tools (name, module, description, default_policy, parameters)
                               VALUES ('$_', 'own', 'D', 'propose', '[{"name": "o", "type": "object", "required": true, "description": "O", $members{$_}}]'))) for sort keys %members;
    $node->safe_psql('old', <<'END');
INSERT INTO mana_ai.runs (run_id, user_id, mission_id, started_at, finished_at, outcome, decision) VALUES (gen_random_uuid(), 'u', 'm', now(), now(), 'planned', 'ran');
INSERT INTO mana_ai.token_usage (user_id, mission_id, tokens_used) VALUES ('u', 'm', 5);
INSERT INTO mana_ai.mission_research_jobs (user_id, mission_id, task_id) VALUES ('u', 'm', 't');
INSERT INTO mana_ai.decrypt_audit (user_id, mission_id, iteration_id, table_name, record_id, status) VALUES ('u', 'm', 'i', 'notes', 'r', 'ok');
END
    my $old_dump = "$ENV{TESTDATADIR}/old_tools.sql";
    command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-f', $old_dump, 'old' ], 'a dump of 0.1.0');
    $node->safe_psql('old', 'ALTER EXTENSION mana_ai UPDATE');
    $node->safe_psql('postgres', 'CREATE DATABASE from_old TEMPLATE template0');
    my $words = restore_ok([ 'psql', '-XAtq', '-h', $node->host, '-p', $node->port, '-v', 'ON_ERROR_STOP=1', '-f', $old_dump, 'from_old' ], 'is restored into 0.2.0');
    like($words, qr/WARNING:  bounds and properties of parameters of tool "lax" are left out, since they do not fit\nDETAIL:  Parameters: o\./, 'which says what it has left out');
    for my $database (qw(old from_old))
    {
        is_kept($database, $database);
        is_deeply([ map { join ' ', sort keys %{ tools($database)->{$_}{parameters}[0] } } qw(lax proper deep) ],
            [ 'description name required type', 'description name properties required type', 'description name required type' ],
            "$database: members that meant nothing go where they have another shape");
    }
    is_deeply(tools('from_old'), tools('old'), 'a dump that is restored has the tools that an upgrade has');
    is($node->safe_psql('from_old', "SELECT count(*) FROM mana_ai.$_"), 1, "and what is in $_") for qw(runs token_usage mission_research_jobs decrypt_audit);
    my ($old, $new) = (tools('old'), tools());
    is($old->{add_quiz_question}{description}, 'Unsere Frage.', 'upgrade: a changed description stays');
    is_deeply($old->{add_quiz_question}{parameters}, $new->{add_quiz_question}{parameters}, 'and its parameters are the new ones');
    is($old->{create_invoice}{parameters}[0]{description}, 'Unser Name', 'upgrade: changed parameters stay');
    is($old->{create_invoice}{description}, $new->{create_invoice}{description}, 'and its description is the new one');
    is_deeply($old->{rate_library_entry}, $new->{rate_library_entry}, 'what nobody has changed is new');
}

$node->stop;
$model->stop;
done_testing();
