# health_latency.pl PORT: how long GET /health takes while 200 clients have begun a request and do not continue it.
use strict;
use warnings;
use IO::Socket::INET;
use Time::HiRes qw(time);

my ($port) = @ARGV;
sub connection { return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) || die "connect: $!" }

sub health
{
    my ($socket) = @_;
    syswrite $socket, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    my $answer = '';
    until ($answer =~ /\r\n\r\n.*\}$/s) { sysread($socket, $answer, 4096, length $answer) or die "closed after: $answer" }
    die $answer unless $answer =~ m{^HTTP/1.1 200};
    return;
}

sub measure
{
    my ($what, $socket_of) = @_;
    my @took;
    for (1 .. 1000)
    {
        my $start = time;
        health($socket_of->());
        push @took, (time - $start) * 1000;
    }
    @took = sort { $a <=> $b } @took;
    printf "  %s: median %.2f ms, 99 %% %.2f ms, longest %.2f ms\n", $what, $took[500], $took[990], $took[999];
    return;
}

my $kept = connection();
measure('no slow clients, kept connection', sub { $kept });
my @slow = map { connection() } 1 .. 200;
syswrite $_, "GET /health HTTP/1.1\r\nHo" for @slow;
health($kept);
measure('200 slow clients, kept connection', sub { $kept });
measure('200 slow clients, a connection per request', sub { connection() });
