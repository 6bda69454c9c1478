# Copyright (c) pool_worker contributors

# How long a slot serves: what makes it due, that another one comes before it
# goes, and that a slot which does not wake up is replaced.  Clients must not
# notice anything of that.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 2
pool_worker.slot_lifetime = 0
pool_worker.health_check_interval = 0
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE TABLE counter (n int);
	INSERT INTO counter VALUES (0);
	GRANT ALL ON counter TO public;});

sub status
{
	my ($columns, $role) = @_;
	return "SELECT $columns FROM pool_status() WHERE role = '$role'";
}

# Alice's only slot, once it is idle.
sub only_slot
{
	$node->until(
		sub {
			$node->value(
				q{SELECT string_agg(state || (retiring IS NULL), ' ')
				FROM pool_slots() WHERE role = 'alice'}) eq 'idletrue';
		}) or die 'no idle slot: ' . $node->value('SELECT pool_slots()');
	return ($node->slot_pids('postgres', 'alice'))[0];
}

# Alice's slot becomes another one, and her client goes on.
sub is_replaced
{
	my ($pid, $client, $name) = @_;

	ok( $node->until(
			sub {
				my @pids = $node->slot_pids('postgres', 'alice');
				return @pids == 1 && $pids[0] != $pid;
			}),
		"$name: replaced");
	is($client->val(q{SELECT current_setting('work_mem')}),
		'123kB', "$name: her session goes on");
	return;
}

note 'what makes a slot due';
{
	my $client = $node->client(user => 'alice');
	my $slot;

	$client->val(q{SET work_mem = '123kB'});
	$slot = only_slot();
	$client->val('SELECT 1') foreach 1 .. 50;
	ok( $node->until(
			sub {
				$client->val('SELECT 1');
				return $node->value(
					q{SELECT memory FROM pool_slots() WHERE role = 'alice'})
				  > 100_000;
			}),
		'the size of a slot is known');
	is(only_slot(), $slot, 'without limits it stays');

	$node->set('pool_worker.slot_lifetime' => '1s');
	is_replaced($slot, $client, 'slot_lifetime');
	$node->set('pool_worker.slot_lifetime' => undef);

	$slot = only_slot();
	$node->set('pool_worker.slot_max_transactions' => 100);
	$client->val('SELECT 1') foreach 1 .. 110;
	is_replaced($slot, $client, 'slot_max_transactions');
	$node->set('pool_worker.slot_max_transactions' => undef);

	$slot = only_slot();
	$node->set('pool_worker.slot_max_memory' => '8MB');
	$client->val('SELECT 1');
	is(only_slot(), $slot, 'slot_max_memory: a small one stays');
	$client->val("PREPARE p$_ AS SELECT "
		  . join(', ', map { "n + $_" } 1 .. 500)
		  . ' FROM counter')
	  foreach 1 .. 20;
	$client->val("EXECUTE p$_") foreach 1 .. 20;
	$node->set('pool_worker.slot_max_memory' => '4MB');
	ok( $node->until(
			sub { ($node->slot_pids('postgres', 'alice'))[0] != $slot }),
		'slot_max_memory: a large one is replaced');
	is($client->val('EXECUTE p20') =~ /^20\|/ ? 1 : 2,
		2, 'her statements go on');
	$client->val('DEALLOCATE ALL');
	$node->set('pool_worker.slot_max_memory' => undef);
	$client->terminate;
}

note 'placeholders that cannot be removed';
{
	# on one slot, whatever the load
	$node->set('pool_worker.pool_size' => 1);
	my $client = $node->client(user => 'bob');
	my ($slot) = $node->slot_pids('postgres', 'bob');

	# each client makes some of its own, and leaves them behind
	foreach my $n (1 .. 6)
	{
		my $other = $node->client(user => 'bob');
		$other->val(
			"SELECT set_config('my$n.x' || i, 'a', false)
			FROM generate_series(1, 250) i");
		$other->terminate;
	}
	ok( $node->until(
			sub {
				my @pids = $node->slot_pids('postgres', 'bob');
				$client->val('SELECT 1');
				return !grep { $_ == $slot } @pids;
			}),
		'a slot with many of them is replaced');
	is($client->val('SELECT 1'), '1', 'and serves');
	$client->terminate;
	$node->set('pool_worker.pool_size' => undef);
}

note 'replaced before it retires';
{
	$node->restart;
	$node->wait_for_pool;
	my $client = $node->client(user => 'alice');
	my ($slot) = $node->slot_pids('postgres', 'alice');

	$client->val('BEGIN');
	$client->val('SELECT 1');
	$node->set('pool_worker.slot_lifetime' => '1s');
	$node->soon(
		"SELECT count(*), count(*) FILTER (WHERE retiring = 'slot_lifetime'
			AND pid = $slot) FROM pool_slots() WHERE role = 'alice'",
		'2|1', 'another one is there while the old one is in a transaction');
	is($client->val('SELECT pg_backend_pid() - ' . $slot),
		'0', 'which ends where it began');
	$node->set('pool_worker.slot_lifetime' => undef);
	$client->val('COMMIT');
	ok( $node->until(
			sub {
				!grep { $_ == $slot } $node->slot_pids('postgres', 'alice');
			}),
		'then the old one goes');
	is($client->val('SELECT 1'), '1', 'and the client stays');
	$client->terminate;
}

note
  'placeholders that come and go with their clients do not wear a slot out';
{
	$node->set('pool_worker.pool_size' => '1');
	$node->soon('SELECT count(*) <= 1 FROM pool_slots()', 't', 'one slot');
	my @clients = map { $node->client(user => 'alice') } 1 .. 2;
	my $wrong   = 0;

	$clients[$_]->val("SET my.own = '$_'") foreach 0, 1;
	my $pid = $clients[0]->val('SELECT pg_backend_pid()');
	# such a name is hidden when a client without it comes
	push @clients, $node->client(user => 'alice');
	foreach my $n (1 .. 4000)
	{
		$wrong++
		  if $clients[2]
		  ->val(q{SELECT current_setting('my.own', true) IS NULL}) ne 't';
		$wrong++ if $clients[ $n % 2 ]->val('SHOW my.own') ne ($n % 2);
	}
	is($wrong, 0, 'each client has its own, or none');
	is($clients[0]->val('SELECT pg_backend_pid()'),
		$pid, 'and the slot is the same');
	$_->terminate foreach @clients;
	$node->set('pool_worker.pool_size' => undef);
}

note 'a slot that is pinned is not taken away';
{
	my $client = $node->client(user => 'alice');
	my $pid;

	$client->val('CREATE TEMP TABLE mine AS SELECT 42 AS n');
	$pid = $client->val('SELECT pg_backend_pid()');
	$node->set('pool_worker.slot_max_transactions' => 1);
	$node->soon("SELECT retiring FROM pool_slots() WHERE pid = $pid",
		'slot_max_transactions', 'it is due');
	is($client->val('SELECT n FROM mine'), '42', 'but its client keeps it');
	$client->val('DROP TABLE mine');
	$node->set('pool_worker.slot_max_transactions' => undef);
	$node->soon("SELECT count(*) FROM pool_slots() WHERE pid = $pid",
		0, 'until nothing pins any more');
	$client->terminate;
}

note 'under load';
{
	my $before = $node->value(status('transactions', 'alice'));
	my $opened = $node->value(status('opened',       'alice'));
	my $script = $node->basedir . '/count.sql';

	append_to_file($script, 'UPDATE counter SET n = n + 1;');
	$node->set('pool_worker.slot_max_transactions' => 10);
	$node->command_ok(
		[
			'pgbench', '-n',             '-c', 8,
			'-t',      400,              '-R', 1000,
			'-f',      $script,          '-h', $node->host,
			'-p',      $node->pool_port, '-U', 'alice',
			'postgres'
		],
		'nobody loses anything while slots come and go');
	is($node->value('SELECT n FROM counter'), 3200, 'all is done');
	cmp_ok($node->value(status("opened - $opened", 'alice')),
		'>', 0, 'slots have been replaced');
	$node->set('pool_worker.slot_max_transactions' => undef);
	$node->soon(status("transactions - $before", 'alice'),
		3200, 'and counted, whatever slot they were on');
}

note 'slots that clients keep are not replaced beside them';
foreach my $mode (qw(session transaction))
{
	$node->restart;
	$node->wait_for_pool;
	$node->set(
		'pool_worker.pool_mode'             => $mode,
		'pool_worker.max_pinned'            => 0,
		'pool_worker.slot_max_transactions' => 1);
	my @keepers = map { $node->client(user => 'alice') } 1 .. 2;
	my $other   = $node->raw('pool');

	# a client of the pool is on either slot, and each is due
	foreach my $keeper (@keepers)
	{
		$keeper->val('BEGIN');
		$keeper->val('CREATE TEMP TABLE mine AS SELECT 42 AS n');
	}
	$_->val('COMMIT') foreach @keepers;
	$node->soon(
		q{SELECT count(*) FROM pool_slots()
		  WHERE role = 'alice' AND retiring = 'slot_max_transactions'},
		2, "$mode: both are due");
	$other->send_startup(user => 'alice', database => 'postgres');
	$node->soon(status('waiting', 'alice'), 1, "$mode: somebody waits");
	$node->set('pool_worker.queue_timeout' => '3s');
	$node->soon(status('turned_away, slots', 'alice'),
		'1|2', "$mode: there is no third slot");
	$node->set('pool_worker.queue_timeout' => undef);
	is($_->val('SELECT n FROM mine'), '42', "$mode: nobody has lost his")
	  foreach @keepers;
	$_->terminate foreach @keepers;
	is($node->client(user => 'alice')->val('SELECT 1'),
		'1', "$mode: when they have left there are others");
	$node->soon(
		q{SELECT count(*) FROM pool_slots()
		  WHERE role = 'alice' AND transactions > 1},
		0, "$mode: the old ones are gone");
	$node->set(
		'pool_worker.pool_mode'             => undef,
		'pool_worker.max_pinned'            => undef,
		'pool_worker.slot_max_transactions' => undef);
}

note 'health checks';
{
	$node->restart;
	$node->wait_for_pool;
	my $from   = $node->log_end;
	my $client = $node->client(user => 'alice');
	my ($busy, $stopped);

	# the first transaction ends without a client attached
	$client->val('SELECT 1') foreach 1 .. 3;
	$client->val(q{SET work_mem = '123kB'});
	$stopped = only_slot();
	kill 'STOP', $stopped;
	$node->set(
		'pool_worker.health_check_interval' => '200ms',
		'pool_worker.health_check_timeout'  => '1s');
	$node->soon(status('unanswered, slots, idle', 'alice'),
		'1|1|1', 'a slot that does not wake up is replaced');
	$node->logged(
		qr/pool slot \d+ of pool "postgres\/alice" does not answer, and is replaced/,
		$from,
		'and logged');
	is($client->val(q{SELECT current_setting('work_mem')}),
		'123kB', 'its client goes on with another');
	$from = $node->log_end;
	kill 'CONT', $stopped;
	ok($node->until(sub { !kill 0, $stopped }), 'when it wakes up, it ends');
	$node->not_logged(qr/FATAL|does not own/, $from, 'without a word');
	is($client->val('SELECT 2'), '2', 'and without harm');

	# who works or waits inside a transaction is not asked
	$client->send(query('SELECT pg_sleep(3)'));
	my $bob = $node->client(user => 'bob');
	$bob->val('BEGIN');
	$client->answer;
	is($bob->val('SELECT 3'), '3', 'a slot in a transaction is left alone');
	$bob->val('COMMIT');
	is($node->value('SELECT sum(unanswered) FROM pool_status()'),
		1, 'nor is one that works');
	$_->terminate foreach $client, $bob;
	$node->set(
		'pool_worker.health_check_interval' => undef,
		'pool_worker.health_check_timeout'  => undef);
}

note 'a wait that is over';
{
	$node->restart;
	$node->wait_for_pool;
	$node->set('pool_worker.pool_size' => 1);
	my $hog    = $node->client(user => 'alice');
	my $client = $node->client(user => 'alice', application_name => 'me');
	my $stopped;

	# not the first transaction, after which it would be parked
	$client->val('SELECT 1') foreach 1 .. 3;
	$hog->val('BEGIN');
	$client->send(query('SELECT 1'));
	$node->soon(status('waiting', 'alice'), 1, 'a client waits');
	$hog->val('COMMIT');
	$client->answer;

	$stopped = only_slot();
	kill 'STOP', $stopped;
	$node->set(
		'pool_worker.health_check_interval' => '200ms',
		'pool_worker.health_check_timeout'  => '1s');
	$node->soon(status('unanswered, slots, idle', 'alice'),
		'1|1|1', 'and loses its slot when it has nothing to say');
	is($client->val('SELECT 2'), '2', 'another one serves it');
	is( $node->value(
			q{SELECT last_wait FROM pool_clients() WHERE application = 'me'}),
		'0',
		'for which it has not waited');
	kill 'CONT', $stopped;
	$_->terminate foreach $client, $hog;
	$node->set(
		'pool_worker.pool_size'             => undef,
		'pool_worker.health_check_interval' => undef,
		'pool_worker.health_check_timeout'  => undef);
}

$node->stop;
done_testing();
