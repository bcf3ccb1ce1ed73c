# What users change in a grant or a policy reaches us as writes to parts of it. What is then opened and offered follows
# the newest state: a grant that is narrowed, renewed or taken back, a tool that is denied and allowed again.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP;
use ManaAi;
use ManaAi::Device;
use Test::More;

my $model = start_model();
my $node  = new_cluster('edited_parts', preload => 1, model => $model, conf => "mana_ai.tick_enabled = off\nmana_ai.max_unreviewed = 0");
my $key   = ManaAi::Device::new_key($node, 'server');
settings($node, 'mana_ai.grant_private_key_file' => $key);

# The key paths that the web app's database finds between two objects: objects are compared part by part, lists are one
# value, and what is gone is null on the wire.
sub key_paths
{
    my ($prefix, $old, $new) = @_;
    my %paths;
    for my $name (keys %{ { %$old, %$new } })
    {
        my ($from, $to) = ($old->{$name}, $new->{$name});
        if (ref $from eq 'HASH' && ref $to eq 'HASH') { %paths = (%paths, key_paths("$prefix.$name", $from, $to)) }
        elsif (ref $from eq 'ARRAY' || ref $to eq 'ARRAY' || ($from // "\0") ne ($to // "\0")) { $paths{"$prefix.$name"} = $to }
    }
    return %paths;
}

sub edit_part
{
    my ($table, $id, $field, $old, $new) = @_;
    my %paths = key_paths($field, $old, $new);
    my $now = iso(0);
    push_change($node, table => $table, id => $id, data => \%paths, stamps => { map { $_ => $now } keys %paths });
    return sort keys %paths;
}

sub inputs_of
{
    my ($id) = @_;
    my $outcome = run_mission($node, $id)->{outcome};
    return $outcome if $outcome ne 'planned';
    return join ' ', map { "$_->{id}=" . ($_->{used} ? 'used' : $_->{reason}) } @{ last_run($node, $id)->{inputs} };
}

# ---------------------------------------------------------------- a grant

my %records = map { $_ => "notes:$_" } qw(n1 n2);
my $wide    = ManaAi::Device->new($key, 'm', [ @records{qw(n1 n2)} ], expires => 3600);
my $narrow  = ManaAi::Device->new($key, 'm', [ $records{n1} ], expires => 7200);
my $expired = ManaAi::Device->new($key, 'm', [ $records{n1} ], expires => -60);

sub push_note
{
    my ($device, $id, $offset) = @_;
    push_change($node, app => 'notes', table => 'notes', id => $id, op => 'insert',
        data => { title => $device->seal("Titel $id"), content => $device->seal("Text $id"), createdAt => iso($offset), updatedAt => iso($offset) });
    return;
}

push_note($wide, $_, -300) for qw(n1 n2);
push_change($node, app => 'notes', table => 'notes', id => 'clear', op => 'insert', data => { title => 'Offen', content => 'In Klarschrift', createdAt => iso(-300) });
push_mission($node, 'm', cadence => { kind => 'manual' }, grant => $wide->grant, inputs => [ map { { module => 'notes', table => 'notes', id => $_ } } qw(n1 n2 clear) ]);
is(inputs_of('m'), 'n1=used n2=used clear=used', 'a grant for two records opens both');

my @paths = edit_part('aiMissions', 'm', 'grant', $wide->grant, $narrow->grant);
is_deeply([ grep { !/(?:At|tables)$/ } @paths ], [qw(grant.derivation.recordIds grant.wrappedKey)], 'a grant for one of them is pushed as writes to its parts');
push_note($narrow, 'n1', -200);
is(inputs_of('m'), 'n1=used n2=record-not-in-grant-allowlist clear=used', 'a narrowed grant opens only what is left, with its new key');
unlike(join('', map { $_->{content} // '' } @{ ($model->requests)[-2]{body}{messages} }), qr/Text n2/, 'and nothing else reaches the model');
is(value($node, "SELECT string_agg(labels ->> 'table' || ' ' || value, ', ') FROM mana_ai.metrics WHERE name = 'mana_ai_grant_scope_violations_total'"), 'notes 1',
    'the metric that an alert reads counts what needed a key, not what is in clear');

edit_part('aiMissions', 'm', 'grant', $narrow->grant, $expired->grant);
is(inputs_of('m'), 'n1=expired n2=expired clear=used', 'one that has expired opens nothing');

my $renewed = ManaAi::Device->new($key, 'm', [ @records{qw(n1 n2)} ], expires => 3600);
@paths = edit_part('aiMissions', 'm', 'grant', $expired->grant, $renewed->grant);
push_note($renewed, $_, -100) for qw(n1 n2);
is(inputs_of('m'), 'n1=used n2=used clear=used', 'a renewed one opens again');
is_deeply(record_of($node, 'm')->{grant}, $renewed->grant, 'and the record has the grant as the device does');

my $before = iso(0);
push_change($node, id => 'm', data => { grant => undef }, stamps => { grant => iso(0.001) });
is(inputs_of('m'), 'n1=no-grant n2=no-grant clear=used', 'a grant that is taken back opens nothing');
push_change($node, id => 'm', data => { 'grant.expiresAt' => iso(9000) }, stamps => { 'grant.expiresAt' => $before });
is(inputs_of('m'), 'n1=no-grant n2=no-grant clear=used', 'nor does a part of it that was written before and comes late');
push_change($node, id => 'm', data => { 'grant.expiresAt' => iso(9000) }, stamps => { 'grant.expiresAt' => iso(1) });
is(inputs_of('m'), 'n1=malformed n2=malformed clear=used', 'and a part alone is no grant');

# ---------------------------------------------------------------- a policy

my $policy = { tools => { create_task => 'propose' }, defaultsByModule => { habits => 'propose' }, defaultForAi => 'propose' };
push_agent($node, 'ada', policy => $policy);
push_mission($node, 'p', agentId => 'ada', cadence => { kind => 'manual' });

# Which of these are offered after the user has changed the policy to this.
sub offered_under
{
    my ($new) = @_;
    edit_part('agents', 'ada', 'policy', $policy, $new) if $new;
    $policy = $new // $policy;
    $model->reset;
    run_mission($node, 'p');
    my %offered = map { $_->{function}{name} => 1 } @{ ($model->requests)[0]{body}{tools} // [] };
    return join ' ', grep { $offered{$_} } qw(create_habit create_note create_task);
}

is(offered_under(undef), 'create_habit create_note create_task', 'a policy that proposes all tools');
is(offered_under({ %$policy, tools => { create_task => 'deny' } }), 'create_habit create_note', 'a tool is denied');
is(offered_under({ %$policy, defaultsByModule => { habits => 'deny' } }), 'create_note', 'a module is denied');
is(offered_under({ %$policy, tools => {} }), 'create_note create_task', 'a tool that is named no more follows the default');
is(offered_under({ %$policy, defaultForAi => 'deny' }), '', 'everything else is denied');
is(offered_under({ %$policy, tools => { create_habit => 'propose' }, defaultsByModule => {} }), 'create_habit', 'but one tool');
is(offered_under({ tools => {}, defaultsByModule => { notes => 'auto' }, defaultForAi => 'propose' }), 'create_habit create_note create_task', 'and all is offered again');

is(snapshots_differ($node), '', 'snapshots equal the log');
unlike(log_since($node), qr/Text n|Titel n/, 'nothing private is in the log');
$node->stop;
$model->stop;
done_testing();
