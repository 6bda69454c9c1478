# Copyright (c) pool_worker contributors

# A cancel that arrives when its query is all but answered.  It may end the
# query or come too late, but must not do anything in between: an error behind
# ReadyForQuery is taken by the client for the answer to its next query, and
# each answer after that for the one to another question.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;
use Time::HiRes qw(time);

my $rounds  = 600;
my $seconds = 12;     # at most, on a machine that is busy with other things
my $seed    = 4711;
srand $seed;

my $node = PoolWorker->new('main')->setup(
	conf => 'pool_worker.pool_size = 1',
	sql  => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;});

# Send a query that takes about 4 ms, and a cancel after "delay" seconds.  The
# statement prepared in it gives the slot something to look at in its turn.
sub cancelled_after
{
	my ($client, $delay) = @_;

	$client->send(
		PoolWorker::Wire::msg_query(
			'DEALLOCATE ALL; PREPARE p AS SELECT 1; SELECT pg_sleep(0.004)'));
	$client->wait_readable($delay);
	$client->cancel;
	return $client->answer;
}

# What is wrong with an answer that was or was not cancelled; '' if nothing.
sub wrong
{
	my ($answer) = @_;

	return 'lost'                      if $answer->{lost};
	return "messages $answer->{types}" if $answer->{types} !~ /^[^Z]*Z$/;
	return "error $answer->{error}{C}"
	  if $answer->{error} && $answer->{error}{C} ne '57014';
	return '';
}

# Rounds at the edge: later after a cancel that came in time, earlier after one
# that did not, so that the speed of the machine does not matter.  After each
# round, "next" must be answered and nothing else.
sub rounds
{
	my ($name, $client, $next) = @_;
	my %seen     = (cancelled => 0, late => 0);
	my $deadline = time + $seconds;
	my $delay    = 0.003;
	my $n        = 0;
	my @wrong;

	while ($n++ < $rounds && time < $deadline && @wrong < 3)
	{
		my $answer = eval { cancelled_after($client, $delay) }
		  || { lost => 1 };
		my $wrong = wrong($answer);

		push @wrong, "round $n: $wrong" if $wrong;
		last if $answer->{lost};
		$seen{ $answer->{error} ? 'cancelled' : 'late' }++;
		$delay += ($answer->{error} ? 0.0003 : -0.0003) * rand;
		$delay = 0.0005 if $delay < 0.0005;

		my $value = eval { $next->val("SELECT 'tag $n'") } // $@;
		next if $value eq "tag $n";
		push @wrong, "round $n: the next query was answered by \"$value\"";
	}
	note(
		sprintf '%s: %d rounds, %d cancelled, %d too late, delay now %.1f ms',
		$name,
		$n - 1,
		@seen{ 'cancelled', 'late' },
		1000 * $delay);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join('', map { "$_\n" } @wrong),
		'', "$name: every answer is the one to its question");
	cmp_ok($seen{cancelled}, '>', 0, "$name: some cancels were in time");
	cmp_ok($seen{late},      '>', 0, "$name: some were too late");
	return;
}

my $from = $node->log_end;

note "seed $seed";
{
	my $client = $node->client(user => 'alice');

	rounds('the same client', $client, $client);
	$client->terminate;
}

# here the slot looks at what alice leaves, and serves bob, in the same turn
note 'another client waits for the slot';
{
	my ($alice, $other) = map { $node->client(user => 'bob') } 1 .. 2;
	my %seen;
	my @wrong;

	foreach my $n (1 .. 200)
	{
		$alice->send(
			PoolWorker::Wire::msg_query("SELECT $n, pg_sleep(0.004)"));
		$other->send(PoolWorker::Wire::msg_query("SELECT 'other $n'"));
		$alice->wait_readable(0.002 + 0.002 * rand);
		$alice->cancel;
		my $mine  = $alice->answer;
		my $value = eval { PoolWorker::Wire::text($other->answer) } // $@;

		push @wrong, "round $n: " . wrong($mine) if wrong($mine);
		push @wrong, "round $n: the other one got \"$value\""
		  if $value ne "other $n";
		$value = eval { $alice->val("SELECT 'mine $n'") } // $@;
		push @wrong, "round $n: then \"$value\"" if $value ne "mine $n";
		$seen{ $mine->{error} ? 'cancelled' : 'late' }++;
	}
	is(join("\n", @wrong), '', 'the cancel is for one client only');
	note(join ', ', map { "$seen{$_} $_" } sort keys %seen);
	$_->terminate foreach $alice, $other;
}

$node->soon('SELECT count(*) FROM pool_clients()', 0, 'nobody is left');
$node->not_logged(qr/PANIC|TRAP|FATAL/, $from, 'nothing has failed');

$node->stop;
done_testing();
