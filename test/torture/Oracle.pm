# Last-writer-wins once more, from docs/contract/data.md and not from the extension: what a record is, from the
# raw rows of sync_changes. For the data that torture.pl writes: no two rows of a record have equal stamps, so
# ties need no order.
package Oracle;

use strict;
use warnings;

use Time::Local qw(timegm_nocheck timegm_modern);

# Microseconds since 1970; undef when the text is not an instant.
sub instant
{
    my ($text) = @_;
    return unless defined $text && !ref $text;
    my ($year, $month, $day, $hour, $minute, $second, $fraction, $zone) =
      $text =~ /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)$/ or return;
    my $at = eval { timegm_modern($second // 0, $minute, $hour, $day, $month - 1, $year) };
    return unless defined $at;
    $at -= ($1 eq '-' ? -1 : 1) * ($2 * 3600 + $3 * 60) if $zone =~ /^([+-])(\d\d):(\d\d)$/;
    return $at * 1_000_000 + substr(($fraction // '') . '000000', 0, 6);
}

use constant OLDEST => -9e18;

# The record of these rows ({op, data, stamps, created_us}), undef when it is deleted or never was.
sub replay
{
    my ($id, @rows) = @_;
    my (%value, %clock);
    my $exists = 0;
    my $made_at = OLDEST;  # when the record was last made
    my $write = sub {
        my ($field, $value, $at) = @_;
        return if exists $clock{$field} && $at < $clock{$field};
        $value{$field} = $value;
        $clock{$field} = $at;
    };
    for my $row (sort { $a->{created_us} <=> $b->{created_us} || ($b->{op} eq 'insert') <=> ($a->{op} eq 'insert') } @rows)
    {
        $exists = 1;
        my $data = ref $row->{data} eq 'HASH' ? $row->{data} : {};
        my $stamps = ref $row->{stamps} eq 'HASH' ? $row->{stamps} : {};
        if ($row->{op} eq 'delete')
        {
            my $deleted = $data->{deletedAt};
            my $at = instant($deleted) // $row->{created_us};
            $write->('deletedAt', $deleted // 'deleted', $at) unless $made_at > $at;
            next;
        }
        my $record_time = $row->{op} eq 'insert' ? instant($data->{updatedAt}) // instant($data->{createdAt}) // OLDEST : $row->{created_us};
        for my $field (keys %$data)
        {
            next if $field =~ /^__/;
            my $stamp = $stamps->{$field};
            $stamp = $stamp->{at} if ref $stamp eq 'HASH';
            $write->($field, $data->{$field}, instant($stamp) // $record_time);
        }
        # A record that is made again, after it was deleted: whichever row comes first.
        next if $row->{op} ne 'insert' || exists $data->{deletedAt};
        $made_at = $record_time if $record_time > $made_at;
        delete $_->{deletedAt} for grep { exists $clock{deletedAt} && $made_at > $clock{deletedAt} } \%value;
    }
    return unless $exists;
    return if $value{deletedAt};
    delete $value{deletedAt};
    $value{id} = $id;
    return \%value;
}

1;
