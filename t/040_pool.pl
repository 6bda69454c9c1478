# Copyright (c) pool_worker contributors

# How many slots there are, and whose: they come when they are wanted, or
# before; stay below each limit; go when nobody wants them; and are replaced
# when they die.  Pools must not be in each other's way while there is room.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 3
pool_worker.slot_idle_timeout = 0
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE warm LOGIN;
	CREATE ROLE switched LOGIN;
	CREATE DATABASE second;});

# Slots of a role, or of all.
sub slots
{
	my ($role) = @_;
	return 'SELECT count(*) FROM pool_slots() WHERE pid IS NOT NULL'
	  . ($role ? " AND role = '$role'" : '');
}

sub status
{
	my ($columns, $role, $database) = @_;
	$database //= 'postgres';
	return
	  "SELECT $columns FROM pool_status() WHERE role = '$role' AND database = '$database'";
}

note 'on demand';
{
	my @clients = map { $node->client(user => 'alice') } 1 .. 5;

	is($node->value(slots('alice')),
		'1', 'five clients who did nothing but log in have a slot');
	$clients[0]->val('SELECT 1') foreach 1 .. 20;
	is($node->value(slots('alice')), '1',
		'one who works alone needs no more');
	foreach my $n (0 .. 2)
	{
		$clients[$n]->val('BEGIN');
		is($node->value(slots('alice')),
			$n + 1, 'a transaction, a slot: ' . ($n + 1));
	}
	$clients[$_]->send(query("SELECT 'waited'")) foreach 3, 4;
	$node->soon(
		status(
			'slots, active + pinned, waiting, clients, pool_size', 'alice'),
		'3|3|2|5|3',
		'at the limit, others wait');
	is($node->value(status('utilization, peak_active', 'alice')),
		'100|3', 'and it shows');
	is(scalar(grep { $_->wait_readable(0) } @clients[ 3, 4 ]),
		0, 'nobody is served twice');
	$clients[0]->val('COMMIT');
	is(text($clients[$_]->answer),
		'waited', 'one slot is enough for all who wait')
	  foreach 3, 4;
	$clients[$_]->val('COMMIT') foreach 1, 2;
	$node->soon(status('slots, waiting, idle', 'alice'),
		'3|0|3', 'then all are idle');

	my $before = $node->value(status('transactions', 'alice'));
	$clients[ $_ % 5 ]->val('SELECT 1') foreach 1 .. 50;
	$node->soon(status("transactions - $before", 'alice'),
		'50', 'transactions are counted');
	$_->terminate foreach @clients;
	$node->soon(status('clients', 'alice'), '0', 'clients leave');
	is($node->value(slots('alice')), '3', 'slots stay');
	cmp_ok($node->value(status('reuse_rate', 'alice')), '>', 90,
		'reuse_rate');
}

note 'a larger and a smaller pool_size';
{
	$node->set('pool_worker.pool_size' => 5);
	my @clients = map { $node->client(user => 'alice') } 1 .. 5;
	$_->val('BEGIN') foreach @clients;
	is($node->value(slots('alice')), '5', 'more by reload');
	$node->set('pool_worker.pool_size' => 2);
	$_->val('SELECT 1; COMMIT') foreach @clients;
	$_->terminate foreach @clients;
	$node->soon(status('pool_size, slots', 'alice'), '2|2',
		'fewer by reload');
	$node->set('pool_worker.pool_size' => undef);
}

note 'two pools, and one role in two databases';
{
	my @greedy = map { $node->client(user => 'alice') } 1 .. 3;

	$_->val('BEGIN') foreach @greedy;
	my $waiting = $node->raw('pool');
	$waiting->send_startup(user => 'alice', database => 'postgres');
	my $bob    = $node->client(user => 'bob');
	my $second = $node->client(user => 'alice', database => 'second');
	is($bob->val('SELECT current_user'), 'bob', 'another role is served');
	is($second->val('SELECT current_database()'),
		'second', 'and another database');
	is($node->value(status('slots, clients, failed', 'bob')),
		'1|1|0', 'by pools of their own');
	$_->terminate foreach @greedy;
	ok($waiting->finish_startup, 'who waited is served');
	$_->terminate foreach $waiting, $bob, $second;
}

note 'slot_idle_timeout';
{
	$node->set('pool_worker.slot_idle_timeout' => '1s');
	$node->soon(slots(), '0', 'unused pools give their slots back');
	my $client = $node->client(user => 'alice');
	is($client->val('SELECT 1'), '1', 'and have them again');
	$client->terminate;
	$node->soon(slots(), '0', 'for a while');
}

note 'min_pool_size and prewarm';
{
	$node->set('pool_worker.prewarm' => 'postgres/warm');
	$node->soon(slots('warm'), '1', 'prewarm opens one slot');
	$node->set('pool_worker.min_pool_size' => 2);
	$node->soon(slots('warm'), '2', 'or min_pool_size of them');
	my $client = $node->client(user => 'warm');
	$client->val('SELECT 1');
	is($node->value(status('reuse_rate, slots', 'warm')),
		'100|2', 'which serve the first client');
	$client->terminate;

	my ($victim, $other) = $node->slot_pids('postgres', 'warm');
	$node->value("SELECT pg_terminate_backend($victim, 10000)");
	$node->soon(slots('warm') . " AND pid <> $victim",
		'2', 'a slot that dies is replaced');
	my @now = $node->slot_pids('postgres', 'warm');
	ok((grep { $_ eq $other } @now) ? 1 : 0, 'the other is untouched');

	my @warm = map { $node->client(user => 'warm') } 1 .. 3;
	$_->val('BEGIN') foreach @warm;
	is($node->value(slots('warm')), '3', 'three at work');
	$_->terminate foreach @warm;
	$node->soon(slots('warm'), '2', 'the third slot goes, the minimum stays');

	$node->restart;
	$node->wait_for_pool;
	$node->soon(slots('warm'), '2',
		'after a restart, before anybody has come');
	is($node->value(slots()), '2', 'and no others');
	$node->set(
		'pool_worker.min_pool_size' => undef,
		'pool_worker.prewarm'       => undef);
	$node->soon(slots('warm'), '0', 'no minimum, no slots');
	$node->set('pool_worker.slot_idle_timeout' => undef);
}

note 'debug_always_switch';
{
	$node->set('pool_worker.debug_always_switch' => 'on');
	foreach my $sql ('SELECT pg_backend_pid()',
		'BEGIN; SELECT pg_backend_pid(); COMMIT')
	{
		my $client = $node->client(user => 'switched');
		my @pids   = map  { $client->val($sql) } 1 .. 20;
		my $stayed = grep { $pids[$_] eq $pids[ $_ - 1 ] } 1 .. $#pids;

		is($stayed, 0, "another slot after each transaction: $sql");
		$client->val('BEGIN');
		my %in = map { $client->val('SELECT pg_backend_pid()') => 1 } 1 .. 5;
		is(scalar keys %in, 1, 'but not within one');
		$client->val('COMMIT');
		$client->terminate;
	}

	# all slots but one are busy, and not before this client is served they end
	my $direct  = $node->direct;
	my @waiting = map { $node->client(user => 'switched') } 1, 2;
	my $client  = $node->client(user => 'switched');

	$direct->val('SELECT pg_advisory_lock(1)');
	$_->send(query('SELECT pg_advisory_xact_lock_shared(1)'))
	  foreach @waiting;
	$node->soon(q{SELECT count(*) FROM pg_locks WHERE NOT granted},
		2, 'two of three slots are busy');
	is($client->val("SELECT $_"), $_, 'the third one serves for two')
	  foreach 1, 2;
	$direct->terminate;
	$_->answer foreach @waiting;
	$_->terminate foreach @waiting, $client;
	$node->set('pool_worker.debug_always_switch' => undef);
}

note 'connect_timeout';
{
	my $from = $node->log_end;

	$node->value('SELECT 1');    # the control connection is there already
	$node->append_conf('postgresql.conf', "post_auth_delay = 3\n");
	$node->value(q{ALTER SYSTEM SET pool_worker.connect_timeout = '300ms'});
	$node->value('SELECT pg_reload_conf()');
	$node->logged(qr/parameter "pool_worker.connect_timeout" changed/,
		$from, 'slots take longer than allowed');
	$node->value('CREATE ROLE slow LOGIN');
	my $answer = $node->attempt('pool', user => 'slow');
	like(
		$answer,
		qr/S=FATAL C=\w{5} M=.*(slow|timeout|time)/i,
		'who waits is told');
	like(
		$answer,
		qr/timeout|timed out|in time|too long/i,
		'that it took too long');
	$node->append_conf('postgresql.conf', "post_auth_delay = 0\n");
	$node->value('ALTER SYSTEM RESET pool_worker.connect_timeout');
	$node->value('SELECT pg_reload_conf()');
	ok( $node->until(sub { $node->attempt('pool', user => 'slow') eq 'ok' }),
		'later it works');
}

note 'max_slots and max_pools';
$node->append_conf(
	'postgresql.conf', q{
pool_worker.max_slots = 3
pool_worker.max_pools = 3
pool_worker.pool_size = 5
});
$node->restart;
$node->wait_for_pool;
{
	my @alice = map { $node->client(user => 'alice') } 1 .. 4;

	$alice[$_]->val('BEGIN') foreach 0 .. 2;
	is($node->value(slots()), '3', 'three slots and no more');
	$alice[3]->send(query('SELECT 4'));
	my $bob = $node->raw('pool');
	$bob->send_startup(user => 'bob', database => 'postgres');
	$node->soon(status('waiting', 'bob'),
		'1', 'all at work: another pool waits');
	is($node->value(slots()), '3', 'with no slot of its own');
	$alice[0]->val('COMMIT');
	is(text($alice[3]->answer), '4', 'its own clients are served');
	ok($bob->finish_startup, 'and an idle slot makes room');
	is($bob->val('SELECT current_user'), 'bob', 'for the other pool');
	cmp_ok($node->value(slots()), '<=', 3, 'within the limit');
	$alice[$_]->val('COMMIT') foreach 1, 2;
	is($alice[$_]->val('SELECT 5'), '5', 'the first pool goes on')
	  foreach 0 .. 3;
	$_->terminate foreach @alice, $bob;
}
{
	my @clients = map { $node->client(user => $_) } 'alice', 'bob', 'warm';

	like(
		$node->attempt('pool', user => 'switched'),
		qr/S=FATAL C=53\w{3} M=.*pools.*H=.*max_pools/,
		'a pool too many is refused');
	is($_->val('SELECT 1'), '1', 'three pools share three slots')
	  foreach (@clients) x 3;
	$_->terminate foreach @clients;
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'all leave');
	ok( $node->until(
			sub { $node->attempt('pool', user => 'switched') eq 'ok' }),
		'an unused pool makes room for another');
}

$node->stop;
done_testing();
