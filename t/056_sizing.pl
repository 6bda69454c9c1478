# Copyright (c) pool_worker contributors

# How many slots there are, as load and settings change: ahead of demand, at
# most so many logins at a time, never more than allowed for long; and what
# becomes of those who wait while no slot can be opened.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 4
pool_worker.slot_idle_timeout = 0
pool_worker.queue_notice_after = 0
max_connections = 40
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE lone LOGIN;});

sub status
{
	my ($columns, $role) = @_;
	return "SELECT $columns FROM pool_status() WHERE role = '$role'";
}

note 'min_idle';
{
	$node->set('pool_worker.min_idle' => 2);
	my @clients = $node->client(user => 'alice');

	$node->soon(status('idle >= 2', 'alice'),
		't', 'so many are free before anybody asks for them');
	push @clients, map { $node->client(user => 'alice') } 2 .. 4;
	$clients[0]->val('BEGIN');
	$node->soon(status('idle >= 2, pinned', 'alice'),
		't|1', 'still, when one is taken');
	$clients[1]->val('BEGIN');
	$node->soon(status('idle, slots', 'alice'), '2|4', 'or two');
	$clients[2]->val('BEGIN');
	$clients[3]->val('SELECT 1');
	$node->soon(status('idle, slots', 'alice'),
		'1|4', 'but never more than pool_size');
	$clients[$_]->val('COMMIT') foreach 0 .. 2;
	$node->set('pool_worker.slot_idle_timeout' => '1s');
	$node->soon(status('idle, slots', 'alice'),
		'2|2', 'those beyond go when they are idle');
	$node->set('pool_worker.min_idle' => undef);
	$node->soon(status('slots', 'alice'), '0', 'and all without the setting');
	$node->set('pool_worker.slot_idle_timeout' => undef);
	$_->terminate foreach @clients;
}

note 'a smaller pool_size while everybody works';
{
	my @clients = map { $node->client(user => 'alice') } 1 .. 4;
	my $longest;

	$_->val('BEGIN') foreach @clients;
	is($node->value(status('slots', 'alice')), '4', 'four at work');
	$node->set('pool_worker.pool_size' => 1);
	$node->soon(
		q{SELECT count(*) FROM pool_slots() WHERE retiring = 'pool size'},
		3, 'three of them are to go');
	is($_->val('SELECT 1'), '1', 'after their transactions') foreach @clients;
	$_->val('COMMIT') foreach @clients;
	$node->soon(status('slots, pool_size, clients', 'alice'),
		'1|1|4', 'and do');
	is($_->val('SELECT 2'), '2', 'one serves all') foreach @clients;
	$node->set('pool_worker.pool_size' => undef);
	$node->soon(status('pool_size', 'alice'), '4', 'back again');
	$_->val('BEGIN')  foreach @clients;
	$_->val('COMMIT') foreach @clients;
	is($node->value(status('slots', 'alice')), '4', 'at once');
	$_->terminate foreach @clients;
}

note 'max_opening';
{
	my $most = 0;
	my @clients;

	# each login takes a second
	$node->set('post_auth_delay' => 1);
	@clients = map { $node->raw('pool') } 1 .. 12;
	$_->send_startup(user => 'bob', database => 'postgres') foreach @clients;
	ok( $node->until(
			sub {
				my ($opening, $slots) = split /\|/,
				  $node->value(status('opening, slots', 'bob'));
				$most = $opening if $opening > $most;
				return $slots > 0;
			}),
		'twelve clients come at once');
	is($most, 2, 'two logins at a time');
	ok($_->finish_startup, 'everybody is served') foreach @clients;
	$_->terminate foreach @clients;
	$node->set('post_auth_delay' => undef);
}

note 'everybody comes back after a restart';
{
	my $most = 0;
	my @clients;

	$node->restart;
	$node->wait_for_pool;
	@clients = map { $node->raw('pool') } 1 .. 500;
	foreach my $n (0 .. $#clients)
	{
		$clients[$n]->send_startup(
			user     => ('alice', 'bob', 'lone')[ $n % 3 ],
			database => 'postgres');
		next if $n % 20;
		my $opening =
		  $node->value('SELECT coalesce(sum(opening), 0) FROM pool_status()');
		$most = $opening if $opening > $most;
	}
	is(scalar(grep { $_->finish_startup } @clients),
		500, '500 clients are served');
	is(scalar(grep { $_->val('SELECT 1') eq '1' } @clients),
		500, 'and served again');
	cmp_ok($most, '<=', 2, 'with two logins at a time');
	is($node->value('SELECT sum(failed) FROM pool_status()'),
		0, 'none of which failed');
	$_->terminate foreach @clients;
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'they leave');
}

note 'no slot can be opened for a while';
{
	my $client = $node->client(user => 'lone');
	my @direct;

	$client->val('SELECT 1') foreach 1, 2;
	$node->value('ALTER ROLE lone CONNECTION LIMIT 2');
	$node->value(
		q{SELECT pg_terminate_backend(pid, 10000) FROM pool_slots()
			WHERE role = 'lone'});
	$node->soon(status('slots', 'lone'), '0', 'a client without a slot');
	@direct = map { $node->direct(user => 'lone') } 1, 2;
	$client->send(query('SELECT 42'));
	$node->until(sub { $node->value(status('failed >= 5', 'lone')) eq 't' })
	  or die 'logins do not fail';
	ok(!$client->wait_readable(0), 'who waits goes on waiting');
	$direct[0]->terminate;
	is(text($client->answer), '42', 'until there is room');
	$direct[1]->terminate;
	$client->terminate;
}

$node->stop;
done_testing();
