# An issuer of users' tokens: keys, the key set that it serves over HTTP, and tokens, good ones and bad ones.
package TokenIssuer;

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use POSIX ();

my $json = JSON::PP->new->canonical;
my @running;

# Keys and files live in the folder.
sub new
{
    my ($class, $folder) = @_;
    mkdir $folder;
    my $self = bless { folder => $folder, keys => {} }, $class;
    $self->{listener} = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "listen: $!";
    $self->serve_keys([]);
    $self->{pid} = fork // die "fork: $!";
    $self->serve if $self->{pid} == 0;
    push @running, $self;
    return $self;
}

sub url { return 'http://127.0.0.1:' . $_[0]->{listener}->sockport }

sub write_file
{
    my ($path, $content) = @_;
    open my $file, '>:raw', "$path.new" or die "$path: $!";
    print $file $content;
    close $file;
    rename "$path.new", $path;
    return;
}

sub read_file
{
    my ($path) = @_;
    open my $file, '<:raw', $path or return '';
    local $/;
    return <$file> // '';
}

# The child: answers every request with the key set as it is now, and notes which path was asked for.
sub serve
{
    my ($self) = @_;
    local $SIG{TERM} = sub { POSIX::_exit(0) };
    while (my $client = $self->{listener}->accept)
    {
        my $line = <$client> // '';
        while (defined(my $header = <$client>)) { last if $header =~ /^\r?\n/ }
        open my $asked, '>>', "$self->{folder}/asked" or POSIX::_exit(1);
        print $asked $line;
        close $asked;
        my $body = read_file("$self->{folder}/jwks.json");
        my $status = $line =~ m{^GET /api/v1/auth/jwks } ? '200 OK' : '404 Not Found';
        print $client "HTTP/1.1 $status\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "
          . length($body) . "\r\n\r\n$body";
        close $client;
    }
    POSIX::_exit(0);
}

# How often the keys were asked for.
sub asked { my @lines = split /\n/, read_file("$_[0]->{folder}/asked"); return scalar @lines }

sub openssl
{
    my (@arguments) = @_;
    open my $pipe, '-|:raw', 'openssl', @arguments or die "openssl: $!";
    local $/;
    my $output = <$pipe> // '';
    close $pipe or die "openssl @arguments failed";
    return $output;
}

# kind: ed25519, rsa, ec
sub new_key
{
    my ($self, $name, $kind) = @_;
    my $path = "$self->{folder}/$name.pem";
    my @how = $kind eq 'rsa' ? ('-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048')
      : $kind eq 'ec' ? ('-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256')
      : ('-algorithm', 'ed25519');
    system("openssl genpkey -out '$path' @how 2>/dev/null") == 0 or die 'openssl genpkey';
    $self->{keys}{$name} = { path => $path, kind => $kind };
    return;
}

sub public_pem { my ($self, $name) = @_; return openssl('pkey', '-in', $self->{keys}{$name}{path}, '-pubout') }

sub jwk
{
    my ($self, $name) = @_;
    my $key = $self->{keys}{$name};
    my $der = openssl('pkey', '-in', $key->{path}, '-pubout', '-outform', 'DER');
    my %jwk = (kid => $name, use => 'sig');
    if ($key->{kind} eq 'rsa')
    {
        my ($modulus) = openssl('rsa', '-in', $key->{path}, '-noout', '-modulus') =~ /Modulus=([0-9A-F]+)/;
        return { %jwk, kty => 'RSA', e => 'AQAB', n => encode_base64url(pack 'H*', $modulus) };
    }
    return { %jwk, kty => 'EC', crv => 'P-256', x => encode_base64url(substr $der, -64, 32), y => encode_base64url(substr $der, -32) }
      if $key->{kind} eq 'ec';
    return { %jwk, kty => 'OKP', crv => 'Ed25519', x => encode_base64url(substr $der, -32) };
}

# These keys, by name or as they are, are what the server gives out from now on.
sub serve_keys
{
    my ($self, $keys) = @_;
    write_file("$self->{folder}/jwks.json", $json->encode({ keys => [ map { ref $_ ? $_ : $self->jwk($_) } @$keys ] }));
    return;
}

sub signed_with
{
    my ($self, $name, $text) = @_;
    my $key = $self->{keys}{$name};
    write_file("$self->{folder}/text", $text);
    my @digest = $key->{kind} eq 'ed25519' ? () : ('-digest', 'sha256');
    my $signature = openssl('pkeyutl', '-sign', '-rawin', @digest, '-inkey', $key->{path}, '-in', "$self->{folder}/text");
    return $signature unless $key->{kind} eq 'ec';
    # DER to both numbers side by side
    my ($r, $s) = unpack 'x3 C/a x C/a', $signature;
    return join '', map { substr(("\0" x 32) . $_, -32) } $r, $s;
}

# key, kid (undef = none), alg, secret (HMAC with this instead), signature, and claims that differ from good ones.
sub token
{
    my ($self, %options) = @_;
    my $key = $options{key} // 'ed';
    my %header = (typ => 'JWT', alg => $options{alg} // 'EdDSA');
    $header{kid} = exists $options{kid} ? $options{kid} : $key;
    delete $header{kid} unless defined $header{kid};
    %header = (%header, %{ $options{header} // {} });
    my %claims = (iss => $self->url, aud => 'mana', sub => 'user-1', exp => time + 300, %{ $options{claims} // {} });
    delete $claims{$_} for grep { !defined $claims{$_} } keys %claims;
    my $text = encode_base64url($json->encode(\%header)) . '.' . encode_base64url($json->encode(\%claims));
    my $signature = $options{signature};
    $signature //= defined $options{secret} ? hmac_sha256($text, $options{secret}) : $self->signed_with($key, $text);
    return "$text." . encode_base64url($signature);
}

# A proxy that adds a header to every request, as an operator's does for those whom it knows.
sub forward_with_header
{
    my ($port, $header) = @_;
    my $listener = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "listen: $!";
    my $pid = fork // die "fork: $!";
    return { pid => $pid, url => 'http://127.0.0.1:' . $listener->sockport . '/' } if $pid;
    $SIG{TERM} = sub { POSIX::_exit(0) };
    local $SIG{CHLD} = 'IGNORE';
    while (my $client = $listener->accept)
    {
        next if fork;
        my $request = '';
        while (defined(my $line = <$client>))
        {
            next if $line =~ /^Connection:/i;
            last if $line =~ /^\r?\n/;
            $request .= $line;
        }
        my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or POSIX::_exit(1);
        print $server "$request$header\r\nConnection: close\r\n\r\n";
        while (sysread $server, my $part, 65536) { syswrite $client, $part }
        POSIX::_exit(0);
    }
    POSIX::_exit(0);
}

sub stop
{
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    kill 'TERM', $pid;
    waitpid $pid, 0;
    return;
}

END
{
    my $status = $?;
    $_->stop for @running;
    $? = $status;
}

1;
