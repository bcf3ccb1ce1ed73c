# What several tests do with missions: records that they read, and what reached the model.
package ManaAi::Missions;

use strict;
use warnings;
use utf8;

use Exporter 'import';
use ManaAi;

our @EXPORT = qw(push_record newest_prompt inputs_of);

# A record that the client has created a while ago.
sub push_record
{
    my ($node, $app, $table, $id, $data, %options) = @_;
    push_change($node, app => $app, table => $table, id => $id, op => 'insert',
        data => { id => $id, createdAt => iso(-300), updatedAt => iso(-200), %$data }, %options);
    return;
}

# The prompts of the model's newest request, joined.
sub newest_prompt
{
    my ($model) = @_;
    my ($request) = reverse $model->requests;
    return join "\n", map { $_->{content} // '' } @{ $request->{body}{messages} };
}

# What the mission's last run has read: "table:id=used" or the reason why not.
sub inputs_of
{
    my ($node, $mission) = @_;
    my $inputs = last_run($node, $mission)->{inputs} // [];
    return join ' ', map { "$_->{table}:$_->{id}=" . ($_->{used} ? 'used' : $_->{reason}) } @$inputs;
}

1;
