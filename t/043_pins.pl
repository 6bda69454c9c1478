# Copyright (c) pool_worker contributors

# Clients that keep their slots between transactions: because they ask for it,
# with pool_pin(), or because of what is in their sessions.  What they were
# promised must hold, be visible, and end; and others must not starve, as long
# as there are slots that the pool may open instead.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 2
pool_worker.max_slots = 6
pool_worker.queue_notice_after = 0
},
	sql => q{
	CREATE ROLE alice LOGIN;
	GRANT TEMPORARY ON DATABASE postgres TO alice;});

my $serial = 0;

sub status
{
	my ($columns) = @_;
	return qq{SELECT $columns FROM pool_status() WHERE role = 'alice'};
}

sub about { return PoolWorker::about(@_); }

sub connected
{
	my $name   = 'client' . ++$serial;
	my $client = $node->client(user => 'alice', application_name => $name);

	$client->{name} = $name;
	return $client;
}

# A client that has pinned itself, by a temporary table or what else is said.
sub pinned
{
	my ($sql) = @_;
	my $client = connected();

	$client->val($sql // 'CREATE TEMPORARY TABLE mine AS SELECT 42 AS a');
	$node->soon(about($client, 'state'),
		'pinned', "$client->{name} keeps its slot");
	return $client;
}

# It asks for something and has to wait.
sub waits
{
	my ($client, $sql) = @_;

	$client->send(query($sql));
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return $node->soon(about($client, 'state'),
		'waiting', "$client->{name} waits");
}

note 'pool_pin() and pool_unpin()';
{
	my ($client, $other) = (connected(), connected());

	is($client->val('SELECT pool_pin()'), 't', 'a client asks for its slot');
	$node->soon(
		about($client, 'state, pin_reason'),
		'pinned|requested by pool_pin()',
		'it has it, and says why');
	my $pid = $client->val('SELECT pg_backend_pid()');
	foreach my $n (1 .. 5)
	{
		isnt($other->val('SELECT pg_backend_pid()'),
			$pid, 'nobody else has it');
		is($client->val('SELECT pg_backend_pid()'), $pid, 'it keeps it');
	}
	is($client->val('SELECT pool_pin()'),   't', 'twice is like once');
	is($client->val('SELECT pool_unpin()'), 't', 'it ends it');
	$node->soon(about($client, q{coalesce(pin_reason, '')}),
		'', 'nothing pins it any more');
	is($client->val('SELECT pool_unpin()'), 'f', 'there is nothing to end');

	$client->val('SELECT pool_pin()');
	$client->val('DISCARD ALL');
	$node->soon(about($client, q{coalesce(pin_reason, '')}),
		'', 'DISCARD ALL ends it, too');
	is($client->val('SELECT pool_unpin()'), 'f', 'completely');

	$client->val('BEGIN; SELECT pool_pin(); ROLLBACK');
	$node->soon(
		about($client, 'pin_reason'),
		'requested by pool_pin()',
		'a rollback does not');
	$client->val('BEGIN; SELECT pool_unpin(); COMMIT');
	$node->soon(about($client, q{coalesce(pin_reason, '')}),
		'', 'it can be ended in a transaction');
	$node->all_leave($client, $other);
}

note 'who leaves with what nobody can see';
{
	my $client = pinned('SELECT pool_pin()');
	my ($pid) = $client->val('SELECT pg_backend_pid()');

	$node->all_leave($client);
	$node->soon("SELECT count(*) FROM pool_slots() WHERE pid = $pid",
		'0', 'its slot serves nobody else');
	$client = connected();
	$pid = $client->val('SELECT pool_pin(), pool_unpin(), pg_backend_pid()');
	$pid =~ s/.*\|//;
	$node->all_leave($client);
	is($node->value("SELECT state FROM pool_slots() WHERE pid = $pid"),
		'idle', 'if it has ended that, it does');
	$node->value('SELECT pg_terminate_backend(pid, 10000) FROM pool_slots()');
}

note 'without a pool';
{
	my $direct = $node->direct(user => 'alice');

	is($direct->val('SELECT pool_pin(), pool_unpin()'),
		'f|f', 'both do nothing');
	is( $direct->{notices}[0]{M},
		'this session is not served by the connection pool',
		'and say so');
	$direct->terminate;
}

note 'since when, and why';
{
	my $client = connected();

	$client->val('BEGIN');
	$node->soon(about($client, 'state, pin_reason'),
		'pinned|transaction', 'a transaction');
	my $began = $node->value(about($client, 'since'));
	$client->val('SELECT 1') foreach 1 .. 3;
	is($node->value(about($client, 'since')), $began, 'since it has begun');
	$client->val('COMMIT');
	$node->soon(about($client, "coalesce(pin_reason, ''), since > '$began'"),
		'|t', 'then it is not pinned any more');

	$client->val('CREATE TEMPORARY TABLE mine AS SELECT 1');
	$node->soon(about($client, 'pin_reason'), 'temporary objects', 'a table');
	my $pinned = $node->value(about($client, 'since'));
	foreach my $sql ('SELECT 1', 'BEGIN; SELECT 1; COMMIT', 'TABLE mine')
	{
		$client->val($sql);
		$node->soon(
			about($client, "pin_reason, since = '$pinned'"),
			'temporary objects|t',
			"and some transactions: $sql");
	}
	$client->val('BEGIN');
	$node->soon(about($client, "pin_reason, since = '$pinned'"),
		'transaction|t', 'another reason is the same pin');
	is($node->value(status('pinned_sessions')),
		'1', 'what will still be there afterwards counts');
	$client->val('COMMIT; LISTEN news; DROP TABLE mine');
	$node->soon(about($client, "pin_reason, since = '$pinned'"),
		'listen|t', 'and so is the next');
	is( $node->value(
			q{SELECT pin_reason FROM pool_slots() WHERE pid = }
			  . $client->val('SELECT pg_backend_pid()')),
		'listen',
		'its slot says the same');
	$client->val('UNLISTEN *');
	$node->soon(about($client, "coalesce(pin_reason, ''), since > '$pinned'"),
		'|t', 'until there is none');
	$node->all_leave($client);
}

note 'who has been parked is not pinned';
{
	$node->set('pool_worker.pool_size' => '1');
	$node->soon('SELECT count(*) <= 1 FROM pool_slots()',
		't', 'a pool of one slot');
	my ($client, $other) = (connected(), connected());

	$client->val('BEGIN');
	waits($other, 'SELECT 1');
	$client->val('COMMIT');
	is(text($other->answer), '1', 'the slot goes over to another one');
	is($node->value(about($client, q{state, coalesce(pin_reason, '')})),
		'parked|', 'and its last client says nothing else');
	$node->all_leave($client, $other);
	$node->set('pool_worker.pool_size' => undef);
}

note 'pinned slots are apart from others';
{
	my @pinned = map { pinned() } 1 .. 2;
	my @others = map { connected() } 1 .. 3;

	$_->val('BEGIN') foreach @others[ 0, 1 ];
	is( $node->value(
			status('slots, pinned_sessions, max_pinned, utilization')),
		'4|2|2|100',
		'two are pinned, two others are there for everybody else');
	waits($others[2], 'SELECT 3');
	is($_->val('SELECT a FROM mine'), '42', 'the pinned have their slots')
	  foreach @pinned;
	$node->soon(status('slots, waiting'), '4|1', 'and that is all');
	$pinned[0]->send(query('SELECT pg_sleep(1000)'));
	$node->soon(status('active, pinned_sessions'),
		'1|2', 'who is pinned is so while it works');
	$pinned[0]->cancel;
	$pinned[0]->answer;
	$others[0]->val('COMMIT');
	is(text($others[2]->answer), '3', 'who waits is served by another');
	$others[1]->val('COMMIT');

	$_->val('DROP TABLE mine') foreach @pinned;
	$node->soon(status('slots, pinned_sessions'),
		'2|0', 'without pins there are no more slots than before');
	is($_->val('SELECT 4'), '4', 'which are enough') foreach @pinned, @others;
	$node->all_leave(@pinned, @others);
}

note 'a pin that comes while somebody waits';
{
	my @busy   = map { connected() } 1 .. 2;
	my $waiter = connected();

	$_->val('BEGIN') foreach @busy;
	waits($waiter, 'SELECT 5');
	$busy[0]->val('CREATE TEMPORARY TABLE mine AS SELECT 42 AS a; COMMIT');
	is(text($waiter->answer), '5', 'makes room for who waits');
	is( $node->value(about($busy[0], 'pin_reason')),
		'temporary objects',
		'beside it');
	$node->all_leave(@busy, $waiter);
}

note 'max_pinned';
$node->set(
	'pool_worker.max_pinned'    => '1',
	'pool_worker.queue_timeout' => '300ms');
{
	my $table   = pinned();
	my $listens = pinned('LISTEN news');
	my ($third, $fourth) = (connected(), connected());

	$third->val('BEGIN');
	is($node->value(status('slots, pinned_sessions, max_pinned')),
		'3|2|1', 'one of two pinned slots leaves room for another');
	my $error = $fourth->ask('SELECT 6')->{error};
	is( "$error->{C} $error->{M}",
		'53300 timed out waiting for a connection slot of pool "postgres/alice"',
		'the other does not');
	is( $error->{D},
		'Clients waiting: 1.  Slots: 3 of at most 3 (active: 0, opening: 0, idle in transaction: 1, pinned: 2 by temporary objects 1, listen 1).',
		'which the error explains');
	like($error->{H}, qr/pool_clients\(\).*max_pinned/, 'with a hint');

	$fourth = $node->raw('pool');
	$fourth->send_startup(user => 'alice', database => 'postgres');
	$node->set('pool_worker.max_pinned' => '2');
	ok($fourth->finish_startup, 'a higher limit is in force at once')
	  or diag($fourth->error_text);
	$node->soon(status('slots, max_pinned'), '4|2', 'with a new slot');
	$node->all_leave($table, $listens, $third, $fourth);
	$node->soon(status('slots, pinned_sessions'),
		'2|0', 'which goes when they go');
}

note 'max_slots is for all of them';
$node->set('pool_worker.max_pinned' => '10');
{
	my @pinned = map { pinned() } 1 .. 6;

	is($node->value(status('slots, pinned_sessions')),
		'6|6', 'all slots are pinned');
	like(
		$node->attempt('pool', user => 'alice'),
		qr/C=53300 M=timed out .*Slots: 6 of at most 8.*H=All slots.*max_slots/,
		'nobody else is served, and is told why');
	$node->all_leave(@pinned);
}

note 'session mode';
$node->set(
	'pool_worker.max_pinned' => undef,
	'pool_worker.pool_mode'  => 'session');
{
	my @clients = map { connected() } 1 .. 2;

	$_->val('SELECT 7') foreach @clients;
	$node->soon(status('slots, pinned_sessions'),
		'2|0', 'what pins by itself does not count');
	like(
		$node->attempt('pool', user => 'alice'),
		qr/timed out .*Slots: 2 of at most 2 .*pinned: 2 by session mode 2/,
		'no more clients than slots');
	$node->all_leave(@clients);
}

$node->stop;
done_testing();
