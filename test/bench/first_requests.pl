# first_requests.pl MODEL_URL FILE: how long after they were due missions first reached the model server.
# FILE has lines "mission due", due in microseconds since 1970; the prompts contain "mission;".
use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP;

my ($url, $file) = @ARGV;
open my $lines, '<', $file or die "$file: $!\n";
my %due = map { split } <$lines>;
my $answer = HTTP::Tiny->new(max_size => 1 << 30)->get("$url/control/requests");
die "model server: $answer->{status} $answer->{content}\n" unless $answer->{success};

my %first;
for my $request (@{ decode_json($answer->{content}) })
{
    my ($mission) = map { $_->{content} // '' } grep { $_->{role} eq 'user' } @{ $request->{body}{messages} };
    next unless defined $mission && $mission =~ /(late-\d+);/;
    $first{$1} //= $request->{arrived_us};
}
my @lags = sort { $a <=> $b } map { ($first{$_} - $due{$_}) / 1000 } grep { exists $due{$_} } keys %first;
die "no mission has reached the model server\n" unless @lags;
printf "latency: due until the first request arrived, %d of %d missions: median %.1f ms, 99th percentile %.1f ms, worst %.1f ms\n",
  scalar @lags, scalar keys %due, $lags[@lags / 2], $lags[ int(@lags * 0.99) ], $lags[-1];
