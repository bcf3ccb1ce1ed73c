# The collector of traces (test/servers/collector_server.cpp), and a strict reading of what it was sent.
package ManaAi::Collector;

use strict;
use warnings;

use JSON::PP;
use ManaAi;

our @ISA = ('ManaAi::Model');

sub new
{
    my ($class, %options) = @_;
    return $class->SUPER::new(program => "$ENV{MANA_AI_BIN}/collector_server", %options);
}

# All spans that were taken, as hashes: attributes as {key => value}, the rest as it was sent.
sub spans
{
    my ($self) = @_;
    my @spans;
    for my $request (grep { $_->{taken} } $self->requests)
    {
        push @spans, map { @{ $_->{spans} } } map { @{ $_->{scopeSpans} } } @{ $request->{body}{resourceSpans} };
    }
    for my $span (@spans)
    {
        $span->{attributes} = { map { $_->{key} => (values %{ $_->{value} })[0] } @{ $span->{attributes} // [] } };
    }
    return @spans;
}

# ---------------------------------------------------------------- the JSON mapping of OTLP, strictly

my $scalar = JSON::PP->new->allow_nonref;

sub is_string { return defined $_[0] && !ref $_[0] && $scalar->encode($_[0]) =~ /^"/ }
sub is_integer { return defined $_[0] && !ref $_[0] && $scalar->encode($_[0]) =~ /^-?\d+$/ }
sub is_number { return defined $_[0] && !ref $_[0] && $scalar->encode($_[0]) =~ /^-?\d/ }
sub is_hex { return is_string($_[0]) && $_[0] =~ /^[0-9a-f]{$_[1]}$/ && $_[0] !~ /^0+$/ }

my %rules = (
    stringValue => sub { is_string($_[0]) && length($_[0]) <= 256 },
    intValue    => sub { is_string($_[0]) && $_[0] =~ /^-?(?:0|[1-9]\d{0,18})$/ },
    doubleValue => sub { is_number($_[0]) || (is_string($_[0]) && $_[0] =~ /^(?:NaN|-?Infinity)$/) },
    boolValue   => sub { JSON::PP::is_bool($_[0]) });

sub only_keys
{
    my ($what, $object, @allowed) = @_;
    return ("$what is not an object") unless ref $object eq 'HASH';
    my %allowed = map { $_ => 1 } @allowed;
    return map { "$what has the unknown field $_" } grep { !$allowed{$_} } sort keys %$object;
}

sub attribute_problems
{
    my ($what, $attributes) = @_;
    return () unless defined $attributes;
    return ("$what: attributes are not a list") unless ref $attributes eq 'ARRAY';
    my @problems;
    my %seen;
    for my $attribute (@$attributes)
    {
        push @problems, only_keys("$what: an attribute", $attribute, qw(key value));
        my $key = $attribute->{key};
        push @problems, "$what: an attribute without a key" unless is_string($key) && length $key;
        push @problems, "$what: $key twice" if $seen{$key}++;
        my @kinds = keys %{ $attribute->{value} };
        push @problems, "$what: $key has not one value" unless @kinds == 1;
        my $rule = $rules{ $kinds[0] };
        push @problems, "$what: $key has the wrong type: " . $scalar->encode($attribute->{value})
          unless $rule && $rule->($attribute->{value}{ $kinds[0] });
    }
    return @problems;
}

sub span_problems
{
    my ($span) = @_;
    my $what = 'span ' . ($span->{name} // '?');
    my @problems = (
        only_keys($what, $span,
            qw(traceId spanId parentSpanId name kind startTimeUnixNano endTimeUnixNano attributes
              droppedAttributesCount status)),
        attribute_problems($what, $span->{attributes}));
    push @problems, "$what: traceId" unless is_hex($span->{traceId}, 32);
    push @problems, "$what: spanId"  unless is_hex($span->{spanId}, 16);
    push @problems, "$what: parentSpanId"
      if exists $span->{parentSpanId} && !is_hex($span->{parentSpanId}, 16);
    push @problems, "$what: name" unless is_string($span->{name}) && length $span->{name};
    push @problems, "$what: kind" unless is_integer($span->{kind}) && $span->{kind} =~ /^[1-5]$/;
    for my $time (qw(startTimeUnixNano endTimeUnixNano))
    {
        # A nanosecond of this century.
        push @problems, "$what: $time" unless is_string($span->{$time}) && $span->{$time} =~ /^[1-9]\d{18}$/;
    }
    push @problems, "$what: ends before it starts" if $span->{endTimeUnixNano} lt $span->{startTimeUnixNano};
    if (exists $span->{status})
    {
        push @problems, only_keys("$what: status", $span->{status}, qw(code message));
        push @problems, "$what: status.code"
          unless is_integer($span->{status}{code}) && $span->{status}{code} =~ /^[012]$/;
        push @problems, "$what: status.message"
          if exists $span->{status}{message} && !is_string($span->{status}{message});
    }
    return @problems;
}

# What is wrong with the requests by the published mapping; empty = nothing.
sub problems
{
    my ($self) = @_;
    my @problems;
    my (%spans, @children);
    for my $request ($self->requests)
    {
        my %headers = map { lc($_) => $request->{headers}{$_} } keys %{ $request->{headers} };
        push @problems, "content-type $headers{'content-type'}" unless $headers{'content-type'} eq 'application/json';
        my $body = $request->{body};
        push(@problems, 'a body that is not JSON'), next unless ref $body eq 'HASH';
        push @problems, only_keys('the request', $body, 'resourceSpans');
        for my $resource (@{ $body->{resourceSpans} })
        {
            push @problems, only_keys('resourceSpans', $resource, qw(resource scopeSpans));
            push @problems, only_keys('resource', $resource->{resource}, 'attributes');
            push @problems, attribute_problems('resource', $resource->{resource}{attributes});
            for my $scope (@{ $resource->{scopeSpans} })
            {
                push @problems, only_keys('scopeSpans', $scope, qw(scope spans));
                push @problems, only_keys('scope', $scope->{scope}, qw(name version));
                push @problems, 'no spans' unless @{ $scope->{spans} };
                push @problems, 'more than 512 spans' if @{ $scope->{spans} } > 512;
                for my $span (@{ $scope->{spans} })
                {
                    push @problems, span_problems($span);
                    my $id = "$span->{traceId}/$span->{spanId}";
                    push @problems, "span $id twice" if $spans{$id}++ && $request->{taken};
                    push @children, "$span->{traceId}/$span->{parentSpanId}" if exists $span->{parentSpanId};
                }
            }
        }
    }
    push @problems, map { "there is no parent $_" } grep { !$spans{$_} } @children;
    return @problems;
}

1;
