# A user's device, as far as it encrypts: the server's key pair, mission key grants and encrypted
# values (docs/contract/inputs.md, Mission key grant).
package ManaAi::Device;

use strict;
use warnings;
use utf8;

use IPC::Run;
use JSON::PP;
use ManaAi;

# The server's private key, in a separate file.
sub new_key
{
    my ($node, $name) = @_;
    my $file = $node->basedir . "/$name.pem";
    run_client(undef, 'keygen', $file);
    return $file;
}

# A grant for these records ("table:id"), wrapped for the key in that file. Options: expires (seconds
# from now), mission (for another one than it is used with).
sub new
{
    my ($class, $key_file, $mission, $records, %options) = @_;
    my $made = JSON::PP->new->decode(
        run_client(undef, 'grant', $key_file, $options{mission} // $mission,
            iso($options{expires} // 3600), @$records));
    return bless { grant => $made->{grant}, key => $made->{key} }, $class;
}

sub grant { return $_[0]->{grant} }
sub key_hex { return $_[0]->{key} }

# A text, or any JSON value if it is a reference, as a client stores it.
sub seal
{
    my ($self, $value) = @_;
    my $text = ref $value ? JSON::PP->new->canonical->encode($value) : $value;
    utf8::encode($text);
    my $sealed = run_client("$text\n", 'seal', $self->{key}, ref $value ? '--json' : ());
    chomp $sealed;
    return $sealed;
}

sub run_client
{
    my ($input, @arguments) = @_;
    my ($out, $err) = ('', '');
    IPC::Run::run([ $ENV{MANA_AI_CLIENT}, @arguments ], '<', \($input // ''), '>', \$out, '2>', \$err)
      or die "mana_client @arguments: $err";
    return $out;
}

1;
