# Copyright (c) pool_worker contributors

# Clients that go away, at every point of their lives and in every manner.
# The slot must be usable for the next client afterwards, and be the same
# process where nothing forces it to be another; nothing of the one that left
# may remain: no row, no lock, no descriptor, no line in pool_clients().

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query);
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => 'pool_worker.pool_size = 1',
	sql  => q{
	CREATE ROLE alice LOGIN;
	CREATE TABLE t (id int PRIMARY KEY, word text);
	INSERT INTO t VALUES (1, 'kept');
	GRANT ALL ON t TO alice;});

sub alice { return $node->client(user => 'alice', @_); }

my $first = alice();
$first->val('SELECT 1');
$first->terminate;
$node->soon('SELECT count(*) FROM pool_clients()', 0, 'the first has left');
my $worker = $node->worker_pid;
my $fds    = $node->fd_count($worker);

# A client that has sent bytes, and of whose slot something is true.
sub sent
{
	my ($client, $bytes, $fact) = @_;

	$client->send($bytes);
	$node->until(sub { $node->value($fact) eq 't' })
	  or die "never true: $fact"
	  if $fact;
	return $client;
}

sub state_is
{
	my ($where) = @_;
	return qq{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE usename = 'alice' AND $where};
}

my %leave = (
	'a reset'      => sub { $_[0]->reset; },
	'a close'      => sub { $_[0]->close; },
	'Terminate'    => sub { $_[0]->terminate; },
	'half a close' => sub { $_[0]->shut_write; $_[0]->at_end; $_[0]->close; },
);

# Let a client leave, and look at what remains.  "same" says that the slot is
# still the same process.
sub leaves
{
	my ($name, %case) = @_;

	foreach my $how (@{ $case{how} || [ sort keys %leave ] })
	{
		my $slot   = ($node->slot_pids('postgres', 'alice'))[0] // 'none';
		my $label  = "$name, $how";
		my $client = $case{client}->();

		$leave{$how}->($client);
		my $next = eval { alice() };
		is($next && eval { $next->val('SELECT word FROM t ORDER BY id') },
			'kept', "$label: the next client is served and sees nothing");
		$next->terminate if $next;
		$node->soon('SELECT count(*) FROM pool_clients()',
			0, "$label: nobody is left");
		$node->soon(
			q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity USING (pid)
				WHERE usename = 'alice' AND l.locktype <> 'virtualxid'},
			0, "$label: no lock");
		$node->soon(
			q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'
				AND state <> 'idle'}, 0, "$label: no transaction");
		my $now = ($node->slot_pids('postgres', 'alice'))[0] // 'none';
		is($now, $slot, "$label: the slot is the same process")
		  if $case{same};
		note("$label: the slot was " . ($now eq $slot ? 'kept' : 'replaced'));
	}
	return;
}

note 'before there is a session';
leaves(
	'before the startup packet',
	same   => 1,
	client => sub { $node->raw('pool') });
leaves(
	'in the startup packet',
	same   => 1,
	client => sub {
		my $wire = $node->raw('pool');
		$wire->send(substr PoolWorker::Wire::msg_startup(user => 'alice'),
			0, 11);
		return $wire;
	});
leaves(
	'right behind the startup packet',
	same   => 1,
	client => sub {
		my $wire = $node->raw('pool');
		$wire->send_startup(user => 'alice', database => 'postgres');
		return $wire;
	});

note 'between transactions';
leaves('after the login', same => 1, client => \&alice);
leaves(
	'after a query',
	same   => 1,
	client => sub { my $client = alice(); $client->val('SELECT 1'); $client }
);
leaves(
	'after an error',
	same   => 1,
	client =>
	  sub { my $client = alice(); $client->ask('SELECT 1/0'); $client });

note 'in a transaction';
my $open =
  q{BEGIN; LOCK TABLE t IN SHARE MODE; INSERT INTO t VALUES (0, 'lost');
	SELECT pg_advisory_xact_lock(5)};
leaves(
	'idle in transaction',
	same   => 1,
	client => sub { my $client = alice(); $client->val($open); $client });
leaves(
	'in a failed transaction',
	same   => 1,
	client => sub {
		my $client = alice();
		$client->val($open);
		$client->ask('SELECT 1/0');
		return $client;
	});
leaves(
	'with an open cursor and a savepoint',
	same   => 1,
	client => sub {
		my $client = alice();
		$client->val(
			"$open; DECLARE c CURSOR FOR TABLE t; FETCH c; SAVEPOINT s");
		return $client;
	});
leaves(
	'after Parse and Flush, with no Sync',
	client => sub {
		my $client = alice();
		$client->send(PoolWorker::Wire::msg_parse('', 'SELECT 1')
			  . PoolWorker::Wire::msg_flush());
		$client->read;
		return $client;
	});
leaves(
	'after Parse and Sync, with nothing bound',
	same   => 1,
	client => sub {
		my $client = alice();
		$client->send(PoolWorker::Wire::msg_parse('', 'SELECT 1')
			  . PoolWorker::Wire::msg_sync());
		$client->answer;
		return $client;
	});
leaves(
	'with a portal half read',
	client => sub {
		my $client = alice();
		$client->val($open);
		$client->send(
			PoolWorker::Wire::msg_parse('', 'SELECT generate_series(1, 100)')
			  . PoolWorker::Wire::msg_bind('', '')
			  . PoolWorker::Wire::msg_execute('', 10)
			  . PoolWorker::Wire::msg_flush());
		$client->read foreach 1 .. 13;
		return $client;
	});

note 'with the end in the same packet';
leaves(
	'query and Terminate in one packet',
	same   => 1,
	how    => [ 'a close', 'a reset' ],
	client => sub {
		my $client = alice();
		$client->send(query('SELECT 1') . PoolWorker::Wire::msg_terminate());
		return $client;
	});
leaves(
	'BEGIN, a row and Terminate in one packet',
	same   => 1,
	how    => ['a close'],
	client => sub {
		my $client = alice();
		$client->send(query($open) . PoolWorker::Wire::msg_terminate());
		ok($client->at_end, 'the connection is closed');
		return $client;
	});

note 'in the middle of something';
leaves(
	'in half a message',
	how    => [ 'a close', 'a reset' ],
	client => sub {
		my $client = alice();
		$client->send(substr query("SELECT 'half'"), 0, 9);
		return $client;
	});
leaves(
	'in half a message of a transaction',
	how    => [ 'a close', 'a reset' ],
	client => sub {
		my $client = alice();
		$client->val($open);
		$client->send(substr query("SELECT 'half'"), 0, 3);
		return $client;
	});
leaves(
	'in half a Bind',
	same   => 1,
	how    => [ 'a close', 'a reset' ],
	client => sub {
		my $client = alice();
		$client->send(PoolWorker::Wire::msg_parse('', 'SELECT 1')
			  . PoolWorker::Wire::msg_flush());
		$client->read;
		return sent(
			$client,
			substr(PoolWorker::Wire::msg_bind('', ''), 0, 7),
			state_is(q{wait_event = 'ClientRead' AND state = 'active'}));
	});
leaves(
	'with a message of an impossible length',
	how    => ['a close'],
	client => sub {
		my $client = alice();
		$client->send('Q' . pack('N', 2**31 - 1));
		return $client;
	});
leaves(
	'with a message that is none',
	how    => ['a close'],
	client => sub {
		my $client = alice();
		$client->send("\xff" . pack('N', 4));
		return $client;
	});

# the query goes on until it tries to send; the lock shows that it is running
sub waits_for_lock
{
	my ($sql) = @_;
	$node->value('SELECT pg_advisory_lock(9)');
	my $client = sent(alice(), query($sql),
		q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted});
	return $client;
}
foreach my $how ('a reset', 'a close')
{
	my $leave = $leave{$how};

	local $leave{$how} = sub {
		$leave->(@_);
		$node->value('SELECT pg_advisory_unlock(9)');
	};
	leaves(
		'in a query',
		how    => [$how],
		client => sub { waits_for_lock('SELECT pg_advisory_xact_lock(9)') });
	leaves(
		'in a query of a transaction',
		how    => [$how],
		client => sub {
			waits_for_lock("$open; SELECT pg_advisory_xact_lock(9)");
		});
}
leaves(
	'in a large result',
	how    => [ 'a reset', 'a close' ],
	client => sub {
		my $client = alice();
		$client->send(
			query(q{SELECT repeat('x', 1000) FROM generate_series(1, 50000)})
		);
		$client->read foreach 1 .. 100;
		return sent($client, '', state_is(q{wait_event = 'ClientWrite'}));
	});
leaves(
	'in COPY TO',
	how    => [ 'a reset', 'a close' ],
	client => sub {
		my $client = alice();
		$client->send(
			query(
				q{COPY (SELECT repeat('x', 1000) FROM generate_series(1, 50000)) TO STDOUT}
			));
		return sent($client, '', state_is(q{wait_event = 'ClientWrite'}));
	});
leaves(
	'in COPY FROM',
	client => sub {
		my $client = alice();
		$client->ask('COPY t FROM STDIN');
		$client->send(PoolWorker::Wire::msg_copy_data("7\tlost\n"));
		return sent($client, '',
			state_is(q{wait_event = 'ClientRead' AND state = 'active'}));
	});
leaves(
	'in half a CopyData',
	how    => [ 'a reset', 'a close' ],
	client => sub {
		my $client = alice();
		$client->ask('COPY t FROM STDIN');
		$client->send(substr PoolWorker::Wire::msg_copy_data("7\tlost\n"),
			0, 6);
		return $client;
	});

note 'who leaves while another is served, and while others wait';
{
	my ($a, @others) = map { alice() } 1 .. 6;

	$a->val('BEGIN');
	$_->send(query('SELECT 1')) foreach @others;
	$node->until(
		sub {
			$node->value(
				q{SELECT waiting > 0 FROM pool_status() WHERE role = 'alice'})
			  eq 't';
		});
	$others[$_]->reset foreach 0 .. 2;
	is($a->val('SELECT 2'), '2',
		'clients that leave the queue are not missed');
	$a->val('COMMIT');
	is(PoolWorker::Wire::text($others[$_]->answer),
		'1', 'the others are served')
	  foreach 3, 4;
	$_->terminate foreach $a, @others[ 3, 4 ];
}

note 'who hangs up in the queue, and what was said before';
{
	my ($a, $half, $gone, $bye) = map { alice() } 1 .. 4;
	my $attaches =
	  q{SELECT sum(attaches) FROM pool_slots() WHERE role = 'alice'};

	$_->val('SELECT 1') foreach $half, $gone, $bye, $a;
	$a->val('BEGIN');
	my $before = $node->value($attaches);
	$half->send(query(q{INSERT INTO t VALUES (2, 'half') RETURNING word}));
	$half->shut_write;
	$gone->send(query(q{INSERT INTO t VALUES (3, 'gone')}));
	$gone->close;
	$bye->terminate;
	$bye->close;
	$a->val('COMMIT');
	is(PoolWorker::Wire::text($half->answer),
		'half', 'half a close: the answer can still be heard');
	$node->soon(
		'SELECT word FROM t WHERE id = 3',
		'gone',
		'a close: what was said is done');
	$node->soon('SELECT count(*) FROM pool_clients()', 1, 'all have left');
	is( $node->value($attaches),
		$before + 2,
		'no slot was needed for a goodbye');
	$a->val('DELETE FROM t WHERE id > 1');
	$_->close foreach $half, $a;
}

note 'an answer that nobody was there to hear is for nobody else';
foreach my $how (sort keys %leave)
{
	my ($other, $client) = (alice(), alice());

	$client->send(
		PoolWorker::Wire::msg_parse('', q{SELECT 'a secret'})
		  . PoolWorker::Wire::msg_bind('', '')
		  . PoolWorker::Wire::msg_describe('P', '')
		  . PoolWorker::Wire::msg_execute('')
		  . substr PoolWorker::Wire::msg_sync(),
		0, 3);
	$node->soon(
		q{SELECT state FROM pool_slots() WHERE role = 'alice'},
		'active',
		"$how: executed, and not flushed");
	$leave{$how}->($client);
	my $answer = $other->ask(q{SELECT 'mine'});

	is_deeply(
		[ @$answer{qw(types rows)} ],
		[ 'TDCZ', [ ['mine'] ] ],
		"$how: the next client hears its own");
	$other->terminate;
}

note 'a hundred come and go in every way';
{
	my @ways = sort keys %leave;

	foreach my $n (0 .. 99)
	{
		my $client = alice();
		$client->send(query('BEGIN; TABLE t')) if $n % 3;
		$leave{ $ways[ $n % @ways ] }->($client);
	}
}

is($node->worker_pid, $worker, 'the worker is the same process');
$node->no_leak($fds, 'in the end');
$node->soon('SELECT count(*) FROM t', 1, 'one row is what there was');
my $next = alice();
is($next->val('SELECT word FROM t'), 'kept', 'and clients are served');

# a slot drops the descriptors of those who left as it goes along
my ($slot) = $node->slot_pids('postgres', 'alice');
ok( $node->until(
		sub { $next->val('SELECT 1') && $node->fd_count($slot) < 60 }),
	'the slot has not kept their descriptors: ' . $node->fd_count($slot));
$next->terminate;

$node->stop;
done_testing();
