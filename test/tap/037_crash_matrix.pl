# The crash matrix: at every failpoint the server is killed, fails, or waits, and every mission is planned
# exactly once (lib/ManaAi/CrashMatrix.pm lists the checks).
#
# needs: FAILPOINTS=1
#
# MANA_AI_MATRIX chooses the cases: "kill error sleep" for all of them (make crash-matrix), with a part of a
# failpoint's name only those. In make test it is every kill.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::RealBin/lib";
use ManaAi;
use ManaAi::CrashMatrix;
use Test::More;

my $matrix = ManaAi::CrashMatrix->new('matrix')
  or plan(skip_all => 'the server has no failpoints (make FAILPOINTS=1)');
my %wanted  = map { $_ => 1 } split ' ', $ENV{MANA_AI_MATRIX} // 'kill';
my @actions = grep { $wanted{$_} } qw(kill error sleep);
my ($only)  = grep { !/^(?:kill|error|sleep)$/ } keys %wanted;
@actions = qw(kill error sleep) unless @actions;

my @names = ManaAi::CrashMatrix::names();
cmp_ok(scalar @names, '>', 50, 'there are failpoints');
wait_for_worker($matrix->{node});
for my $name (@names)
{
    next if defined $only && index($name, $only) < 0;
    $matrix->run_case($name, $_) for @actions;
}
$matrix->finish;
done_testing();
