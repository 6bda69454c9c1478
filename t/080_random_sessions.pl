# Copyright (c) pool_worker contributors

# Clients do at random what changes a session, each through the pool and, with
# a twin, directly.  They are more than the pool has slots, and change the slot
# after each transaction.  If a session arrives at its next slot changed, or
# leaves something behind for another, some answer differs.
#
#   SEED=n          begin with this seed instead of a random one
#   STEPS=n         rounds for each seed; then comes the next one
#   SOAK_SECONDS=n  how long; make soak sets it
#   MINIMISE=1      after a failure, look for fewer steps that fail as well

use strict;
use warnings FATAL => 'all';
use Data::Dumper;
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use RandomSession;
use SessionTwins;
use Test::More;
use Time::HiRes qw(time);

my $seed    = $ENV{SEED}         || 1 + int rand 1_000_000_000;
my $rounds  = $ENV{STEPS}        || 500;
my $seconds = $ENV{SOAK_SECONDS} || ($ENV{SEED} ? 0 : 8);

my $pairs = 6;
my $node  = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.debug_always_switch = on
pool_worker.pool_size = 3
session_preload_libraries = 'plpgsql'
autovacuum = off
fsync = off
});
my $slots = 3;

SessionTwins->prepare_cluster($node);
alarm($seconds + 30 * $PoolWorker::timeout);

my $deadline = time + $seconds;
my $mismatch;

do
{
	diag "SEED=$seed STEPS=$rounds";
	$mismatch = run_seed($seed);
	ok(!$mismatch, "seed $seed: the same answers") or report($mismatch);
	$seed++;
} while (!$mismatch && time < $deadline);
$node->stop('immediate');
done_testing();

# Everything that follows from a seed.  Returns undef or the first mismatch,
# with all that was done until then.
sub run_seed
{
	my ($number) = @_;

	srand($number);
	$node->set(
		'pool_worker.statement_cache_size' =>
		  RandomSession::one_of(0, 2, 1000),
		'pool_worker.max_session_size' => RandomSession::one_of(1, 1024, 1024)
	);
	my @sessions = map { RandomSession->new($_) } 0 .. $pairs - 1;
	my %start    = (
		pairs   => $pairs,
		super   => rand() < 0.5,
		connect => [ map { $_->connect_params } @sessions ]);
	my $twins = SessionTwins->new($node, %start);
	my @history;

	my $found = eval {
		foreach my $round (1 .. $rounds)
		{
			my @moves = draw_moves($twins, \@sessions);

			push @history, \@moves;
			my $found = $twins->round(@moves);
			return $found if $found;
		}
		$twins->leave;
		undef;
	};

	$found = { died => $@ } if $@;
	return $found
	  && { %$found, seed => $number, start => \%start, history => \@history };
}

# Who moves in this round, and how.  Whoever keeps a slot may; of the others no
# more than there are slots left, because each of them may keep his.
sub draw_moves
{
	my ($twins, $sessions) = @_;
	my %holds = map { $_ => 1 } $twins->holders;
	my $free  = $slots - keys %holds;
	my %moves;

	while (!%moves)
	{
		foreach (0 .. rand 3)
		{
			my $pair   = int rand $pairs;
			my $status = $twins->status($pair);

			next if $moves{$pair} || (!$holds{$pair} && --$free < 0);
			$moves{$pair} =
				$holds{$pair} && rand() < ($free <= 0 ? 0.5 : 0.1)
			  ? $sessions->[$pair]->give_up($status)
			  : $sessions->[$pair]->step($status);
		}
	}
	return map { [ $_, $moves{$_} ] } sort keys %moves;
}

sub report
{
	my ($failure) = @_;
	my @history = @{ $failure->{history} };

	diag "seed $failure->{seed}, round " . @history;
	diag show_failure($failure);
	diag $failure->{state} if $failure->{state};
	return unless $ENV{MINIMISE};
	my $smaller = minimise($failure);
	diag "fewer steps that fail, " . Dumper($failure->{start});
	foreach my $moves (@{ $smaller->{history} })
	{
		diag "pair $_->[0]: " . show_step($_->[1]) foreach @$moves;
	}
	diag show_failure($smaller);
	return;
}

# Do the same rounds again, with new sessions.
sub replay
{
	my ($start, @history) = @_;
	my $twins = SessionTwins->new($node, %$start);
	my @done;

	foreach my $moves (@history)
	{
		return undef unless has_room($twins, $moves);
		push @done, $moves;
		my $found =
		  eval { $twins->round(@$moves) } // ($@ ? { died => $@ } : undef);
		return { %$found, start => $start, history => \@done } if $found;
	}
	$twins->leave;
	return undef;
}

# Is there a slot for everybody who moves?
sub has_room
{
	my ($twins, $moves) = @_;
	my %holds = map { $_ => 1 } $twins->holders;

	return $slots - keys %holds >= grep { !$holds{ $_->[0] } } @$moves;
}

# Leave out ever smaller parts, as long as there is a difference.
sub minimise
{
	my ($failure) = @_;
	my $best      = $failure;
	my $size      = int(@{ $best->{history} } / 2) || 1;
	local $PoolWorker::timeout = 4;

	alarm(1800);
	$best->{history} = [
		map {
			my $m = $_;
			map { [$_] } @$m
		} @{ $best->{history} }
	  ]
	  if replay(
		$best->{start},
		map {
			my $m = $_;
			map { [$_] } @$m
		} @{ $best->{history} });
	while (1)
	{
		my $smaller = 0;

		for (my $at = @{ $best->{history} }; $at > 0; $at -= $size)
		{
			my @rest = @{ $best->{history} };
			my $from = $at > $size ? $at - $size : 0;

			splice @rest, $from, $at - $from;
			my $found = replay($best->{start}, @rest);
			next if !$found || !!$found->{died} != !!$failure->{died};
			$best    = $found;
			$smaller = 1;
			$at      = @{ $best->{history} } if $at > @{ $best->{history} };
		}
		last if $size == 1 && !$smaller;
		$size = int($size / 2) || 1;
	}
	return $best;
}

sub show_failure
{
	my ($failure) = @_;
	my $pair = $failure->{pair};
	my @steps;

	return "died: $failure->{died}" . join(
		"\n",
		map {
			my $m = $_;
			map { "pair $_->[0]: " . show_step($_->[1]) } @$m
		} @{ $failure->{history} }[ -20 .. -1 ]) if $failure->{died};
	foreach my $moves (@{ $failure->{history} })
	{
		push @steps, map { $_->[1] } grep { $_->[0] == $pair } @$moves;
	}
	splice @steps, 0, @steps - 20 if @steps > 20;
	return join "\n", "pair $pair:", (map { show_step($_) } @steps),
	  'difference:', differences($failure->{direct}, $failure->{pool});
}

sub differences
{
	my ($direct, $pool) = @_;
	my @direct = split /\n/, $direct;
	my @pool   = split /\n/, $pool;

	my %direct = map { $_ => 1 } @direct;
	my %pool   = map { $_ => 1 } @pool;

	# if only the order differs, all of it
	return ((map { "  direct: $_" } @direct), (map { "  pool:   $_" } @pool))
	  if join("\n", sort @direct) eq join("\n", sort @pool);
	return (
		(map { "  direct: $_" } grep { !$pool{$_} } @direct),
		(map { "  pool:   $_" } grep { !$direct{$_} } @pool));
}

sub show_step
{
	my ($step) = @_;
	local $Data::Dumper::Indent = 0;
	local $Data::Dumper::Terse  = 1;
	local $Data::Dumper::Useqq  = 1;
	return '  ' . Dumper($step);
}
