# Copyright (c) pool_worker contributors

# The unnamed prepared statement belongs to one client, although PostgreSQL
# keeps it when that client has gone to the queue.  Whatever another client
# sends first, it must be told that there is no such statement; whatever the
# client itself sends first when it comes back, or on another slot, it must be
# told what a connection to the server's own port is told.  And what the slot
# does about that must not fail when the client has gone already.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => 'pool_worker.pool_size = 1',
	sql  => 'CREATE ROLE alice LOGIN');

sub msg { return PoolWorker::Wire::msg(@_); }

my $sync    = PoolWorker::Wire::msg_sync();
my $bind    = PoolWorker::Wire::msg_bind('', '');
my $execute = PoolWorker::Wire::msg_execute('');

# A client that has an unnamed statement which returns a secret, and does not
# need the slot any more; of the pool, or "direct".
sub with_secret
{
	my ($how)  = @_;
	my $method = $how // 'client';
	my $client = $node->$method(user => 'alice');

	$client->send(
		PoolWorker::Wire::msg_parse('', q{SELECT 'secret'}) . $sync);
	is($client->answer->{types}, '1Z', 'a client has a statement');
	$client->send($bind . $execute . $sync);
	is(PoolWorker::Wire::text($client->answer), 'secret', 'and uses it');
	return $client;
}

# Send bytes and read so many answers; returns SQLSTATEs and rows of them all.
sub answers
{
	my ($client, $count, @parts) = @_;
	my @found;

	foreach my $part (@parts)
	{
		$client->send($part);
		$node->value('SELECT 1');    # time for a packet of its own
	}
	foreach (1 .. $count)
	{
		my $answer = eval { $client->answer } || { lost => 1, rows => [] };

		push @found, 'lost'              if $answer->{lost};
		push @found, $answer->{error}{C} if $answer->{error};
		push @found, map { @$_ } @{ $answer->{rows} };
		last if $answer->{lost};
	}
	return join ' ', @found;
}

# What a client sends, and the answers to one who has no unnamed statement: their
# number, and what is in them.  "broken" says that its first message cannot be
# read.  The server keeps the statement of a client that sends such a one; the
# pool, which knows only how the message begins, may have given it up.
my @first_words = (
	[ 'Bind',            [ $bind . $execute . $sync ], 1, '26000' ],
	[ 'Bind, in pieces', [ $bind, $execute, $sync ],   1, '26000' ],
	[
		'Bind, its first byte alone',
		[ substr($bind, 0, 1), substr($bind, 1) . $execute . $sync ],
		1, '26000'
	],
	[
		'Describe', [ PoolWorker::Wire::msg_describe('S', '') . $sync ],
		1,          '26000'
	],
	[ 'Sync, then Bind', [ $sync . $bind . $execute . $sync ], 2, '26000' ],
	[
		'Flush, then Bind',
		[ PoolWorker::Wire::msg_flush() . $bind . $execute . $sync ],
		1, '26000'
	],
	[
		'Execute, then Bind',
		[ $execute . $sync, $bind . $execute . $sync ],
		2, '34000 26000'
	],
	[
		'Parse with a name',
		[
			PoolWorker::Wire::msg_parse('mine', 'SELECT 1')
			  . $bind
			  . $execute
			  . $sync,
			PoolWorker::Wire::msg_close('S', 'mine') . $sync
		],
		2, '26000'
	],
	[
		'Parse that fails',
		[
			PoolWorker::Wire::msg_parse('', 'SELEKT') . $sync,
			$bind . $execute . $sync
		],
		2,
		'42601 26000'
	],
	[
		'Parse without its end',
		[ msg('P', "\0SELECT 1\0") . $sync, $bind . $execute . $sync ],
		2, '08P01 26000', 'broken'
	],
	[
		'Parse without a query',
		[ msg('P', "\0") . $sync, $bind . $execute . $sync ],
		2, '08P01 26000', 'broken'
	],
	[
		'a query without its end',
		[ msg('Q', 'SELECT 1'), $bind . $execute . $sync ],
		2, '08P01 26000', 'broken'
	],
	[
		'an empty query',
		[ PoolWorker::Wire::msg_query(''), $bind . $execute . $sync ],
		2, '26000'
	],
	[
		'a function call',
		[
			msg('F', pack('N n n n', 1299, 0, 0, 0)),
			$bind . $execute . $sync
		],
		2, '26000'
	],
	[
		'Parse of its own',
		[ PoolWorker::Wire::msg_extended(q{SELECT 'own'}) ],
		1, 'own'
	],
	[
		'Parse of its own, in pieces',
		[ PoolWorker::Wire::msg_extended(q{SELECT 'own'}) =~ /(.{1,3})/gs ],
		1, 'own'
	],);

# What an owner of a statement is told who begins with these words, and then
# uses it.
sub told
{
	my ($owner, $case) = @_;
	my (undef, $parts, $count) = @$case;

	return join(', then ',
		answers($owner, $count, @$parts),
		answers($owner, 1,      $bind . $execute . $sync));
}

foreach my $case (@first_words)
{
	my ($name, $parts, $count, $expected, $broken) = @$case;
	my ($direct, $owner, $traveller) =
	  map { with_secret($_) } 'direct', 'client', 'client';
	my $other    = $node->client(user => 'alice');
	my $directly = told($direct, $case);

	is($directly, '08P01 secret, then secret', "$name: the server's answer")
	  if $broken;
	$directly = "$expected, then 26000" if $broken;

	is(answers($other, $count, @$parts),
		$expected, "another client that begins with: $name");
	is(told($owner, $case), $directly, "$name: an owner, who comes back");
	$node->replace_slot('alice');
	is(told($traveller, $case), $directly,
		"$name: an owner, on another slot");
	is($_->val(q{SELECT 'fine'}), 'fine', "$name: all go on")
	  foreach $owner, $traveller, $other;
	$_->terminate foreach $direct, $owner, $traveller, $other;
}

note 'who is alone keeps it';
{
	my $owner = with_secret();

	foreach (1 .. 3)
	{
		$owner->send($bind . $execute . $sync);
		is(answers($owner, 1), 'secret', 'used again');
	}
	$owner->terminate;
	my $other = $node->client(user => 'alice');
	is(answers($other, 1, $bind . $execute . $sync),
		'26000', 'until it has left');
	$other->terminate;
}

note 'one of any length, unless it is too long for a session';
{
	my $owner = $node->client(user => 'alice', application_name => 'owner');
	my $slot =
	  q{SELECT state, pin_reason FROM pool_slots() WHERE role = 'alice'};

	$owner->{name} = 'owner';
	foreach my $length (1, 70_000, 1_000_000, 1_100_000)
	{
		my $fits = $length < 1024 * 1024;

		$owner->send(
			PoolWorker::Wire::msg_parse('',
				q{SELECT length('} . 'x' x $length . q{')})
			  . $sync);
		is($owner->answer->{types}, '1Z', "a statement of $length bytes");
		$fits
		  ? $node->not_pinned($owner, 'alice', 'is not pinned')
		  : $node->soon($slot, 'pinned|session size', 'is pinned');
		$node->replace_slot('alice') if $fits;
		is(answers($owner, 1, $bind . $execute . $sync), $length, 'works');
	}
	is($owner->val('SELECT 1'), '1', 'a simple query drops it');
	$node->not_pinned($owner, 'alice', 'and it is no longer pinned');
	$owner->terminate;
}

note 'a client that has spoken and gone before its hello';
foreach my $how ('close', 'reset')
{
	foreach my $words ($sync, $bind . $execute . $sync, substr($bind, 0, 4))
	{
		my $owner  = with_secret();
		my $holder = $node->client(user => 'alice');

		# in a transaction, and with an unnamed statement of its own
		$holder->ask_extended('BEGIN');
		my ($slot) = $node->slot_pids('postgres', 'alice');
		my $hasty = $node->raw('pool');
		$hasty->send_startup(user => 'alice', database => 'postgres');
		$node->soon(
			q{SELECT count(*) FROM pool_clients() WHERE state = 'waiting'},
			1, 'somebody logs in');
		$hasty->send($words);
		$hasty->$how;
		my $before = PoolWorker::ticks($slot);

		$holder->ask_extended('COMMIT');
		my $name = length($words) . " bytes and a $how";
		my $next = eval { $node->client(user => 'alice') };
		is(($next && eval { $next->val('SELECT 1') }) // 'nothing',
			'1', "$name: the next client is served");
		$node->soon(q{SELECT state FROM pool_slots() WHERE role = 'alice'},
			'idle', "$name: then the slot is idle");
		cmp_ok(PoolWorker::ticks($slot) - $before,
			'<', 50, "$name: and has not been busy with nothing");
		is(eval { $holder->val('SELECT 2') } // 'nothing',
			'2', "$name: who was there is served");
		$_->terminate foreach grep { $_ } $next, $holder, $owner;
		$node->soon('SELECT count(*) FROM pool_clients()',
			0, "$name: nobody is left");
	}
}

$node->stop;
done_testing();
