# Copyright (c) pool_worker contributors

# Statements that end just when their time is over.  Each may be cancelled or
# not, but the cancel must not come after its answer, and must not hit the next
# statement, of the same client or of the one that gets the slot.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;
use Time::HiRes qw(time);

my $limit   = 15;     # ms
my $rounds  = 400;
my $seconds = 20;     # at most, on a machine that is busy with other things
my $seed    = 4712;
srand $seed;

my $node = PoolWorker->new('main')->setup(
	conf => qq{
pool_worker.pool_size = 1
pool_worker.statement_timeout = '${limit}ms'
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;});

# What is wrong with an answer that should be "value" (any if undef) and took
# so long; '' if nothing.  On a machine that is busy with other things anything
# may take too long.
sub wrong
{
	my ($answer, $ms, $value) = @_;
	my $error = $answer->{error} ? $answer->{error}{C} : '';

	return 'lost' if $answer->{lost};
	return "messages $answer->{types}" if $answer->{types} !~ /^[^Z]*Z$/;
	return "error $error" unless $error =~ /^(?:57014)?$/;
	return sprintf('cancelled after %.1f ms', $ms) if $error && $ms < $limit;
	return '' if $error || !defined $value;

	my $text = PoolWorker::Wire::text($answer);
	return $text eq $value ? '' : "answered by \"$text\"";
}

# Rounds at the edge: shorter after a statement that was cancelled, longer after
# one that was not.  "first" sends it; each of "next" asks for a value when that
# has been answered.  "together" sends the others before that.
sub rounds
{
	my ($name, $first, $together, @next) = @_;
	my %seen     = (cancelled => 0, answered => 0);
	my $deadline = time + $seconds;
	my $sleep    = $limit / 1000 - 0.002;
	my $n        = 0;
	my @wrong;

	while ($n++ < $rounds && time < $deadline && @wrong < 3)
	{
		my $start = time;
		$first->send(PoolWorker::Wire::msg_query("SELECT pg_sleep($sleep)"));
		if ($together)
		{
			$_->send(PoolWorker::Wire::msg_query("SELECT 'tag $n'"))
			  foreach @next;
		}
		my $answer = eval { $first->answer } || { lost => 1 };
		my $wrong  = wrong($answer, 1000 * (time - $start));

		push @wrong, "round $n: $wrong" if $wrong;
		$seen{ $answer->{error} ? 'cancelled' : 'answered' }++;
		$sleep += ($answer->{error} ? -0.0006 : 0.0006) * rand;

		# those who have waited begin now
		$start = time;
		foreach my $next (@next)
		{
			$start = time unless $together;
			$next->send(PoolWorker::Wire::msg_query("SELECT 'tag $n'"))
			  unless $together;
			$answer = eval { $next->answer } || { lost => 1 };
			$wrong  = wrong($answer, 1000 * (time - $start), "tag $n");
			push @wrong, "round $n: the next was $wrong" if $wrong;
		}
		last if $answer->{lost};
	}
	note(
		sprintf '%s: %d rounds, %d cancelled, %d answered, sleep now %.1f ms',
		$name,
		$n - 1,
		@seen{ 'cancelled', 'answered' },
		1000 * $sleep);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join('', map { "$_\n" } @wrong), '', "$name: nobody else is hit");
	cmp_ok($seen{cancelled}, '>', 0, "$name: some were cancelled");
	cmp_ok($seen{answered},  '>', 0, "$name: some were in time");
	return;
}

my $from = $node->log_end;

note "seed $seed";
{
	my $client = $node->client(user => 'alice');

	rounds('the same client', $client, 0, $client);
	$client->terminate;
}
{
	my @clients = map { $node->client(user => 'bob') } 1 .. 3;

	rounds('others wait for the slot', $clients[0], 1, @clients[ 1, 2 ]);
	rounds('others come next',         $clients[0], 0, @clients[ 1, 2 ]);
	$_->terminate foreach @clients;
}

$node->soon('SELECT count(*) FROM pool_clients()', 0, 'nobody is left');
$node->not_logged(qr/PANIC|TRAP|FATAL/, $from, 'nothing has failed');

$node->stop;
done_testing();
