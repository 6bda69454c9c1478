# Copyright (c) pool_worker contributors

# Settings of one role or database.  They must reach that one's pools and no
# others, the more special one must win, and what a session sets must reach
# nothing.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => 'pool_worker.pool_size = 9',
	sql  => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE DATABASE d1;
	CREATE DATABASE d2;});

# Value and source of pool_size in a pool.  Somebody knocks there, so that there
# is such a pool, and so that it has a reason to look.
sub pool_size
{
	my ($database, $role) = @_;

	$node->client(user => $role, database => $database)->terminate;
	return $node->value(
		qq{SELECT setting || ' ' || source FROM pool_settings()
		 WHERE (database, role, name) = ('$database', '$role', 'pool_worker.pool_size')}
	);
}

# All pools of both roles in both databases.
sub pool_sizes
{
	my ($name, @expected) = @_;
	my @found;

	$node->until(
		sub {
			@found = map {
				my $database = $_;
				map { pool_size($database, $_) } qw(alice bob)
			} qw(d1 d2);
			return "@found" eq "@expected";
		});
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join(', ', @found), join(', ', @expected), $name);
	return;
}

my $alter = 'SET pool_worker.pool_size =';
my $conf  = '9 configuration';

pool_sizes('configuration', $conf, $conf, $conf, $conf);
$node->value("ALTER ROLE ALL $alter 8");
pool_sizes('all roles', ('8 global') x 4);
$node->value("ALTER DATABASE d1 $alter 7");
pool_sizes('database over all roles',
	'7 database', '7 database', '8 global', '8 global');
$node->value("ALTER ROLE alice $alter 6");
pool_sizes('role over database',
	'6 user', '7 database', '6 user', '8 global');
$node->value("ALTER ROLE alice IN DATABASE d1 $alter 5");
pool_sizes(
	'role in database over role',
	'5 database user',
	'7 database', '6 user', '8 global');
$node->value('ALTER ROLE ALL RESET pool_worker.pool_size');
pool_sizes('... and back', '5 database user', '7 database', '6 user', $conf);
$node->set('pool_worker.pool_size' => 10);
pool_sizes(
	'a reload changes what nobody has set',
	'5 database user',
	'7 database', '6 user', '10 configuration');
$node->set('pool_worker.pool_size' => undef);
$node->value('ALTER ROLE alice IN DATABASE d1 RESET ALL');
$node->value('ALTER ROLE alice RESET ALL');
$node->value('ALTER DATABASE d1 RESET ALL');
pool_sizes('all gone', ($conf) x 4);

note 'values of every kind';
$node->value(q{ALTER ROLE alice SET POOL_WORKER.pool_mode = 'Session'});
$node->value(
	q{ALTER ROLE alice SET pool_worker.statement_timeout = '1.5min'});
$node->value(q{ALTER ROLE alice SET work_mem = '1MB'});
$node->client(user => 'alice', database => 'd1')->terminate;
$node->soon(
	q{SELECT string_agg(setting || coalesce(unit, ''), ' ' ORDER BY name) FROM pool_settings()
	  WHERE (database, role) = ('d1', 'alice') AND source <> 'configuration'},
	'session 90000ms',
	'an enum, and a number with a unit');

note 'they take effect';
{
	my ($alice, $bob) =
	  map { $node->client(user => $_, database => 'd1') } qw(alice bob);

	$_->val('SELECT 1') foreach $alice, $bob;
	$node->soon(q{SELECT pin_reason FROM pool_clients() WHERE role = 'alice'},
		'session mode', 'pool_mode of one role');
	is( $node->value(
			q{SELECT pin_reason IS NULL FROM pool_clients() WHERE role = 'bob'}
		),
		't',
		'... not of the other');
	$_->terminate foreach $alice, $bob;

	$node->value('ALTER ROLE bob SET pool_worker.min_pool_size = 3');
	$node->soon(
		q{SELECT database, slots FROM pool_status() WHERE role = 'bob' ORDER BY 1},
		"d1|3\nd2|3",
		'min_pool_size of a role');
	$node->value('ALTER ROLE bob SET pool_worker.pool_size = 1');
	$node->soon(
		q{SELECT database, slots, pool_size FROM pool_status() WHERE role = 'bob' ORDER BY 1},
		"d1|1|1\nd2|1|1",
		'pool_size of a role, whose slots above it close');
	$node->value('ALTER ROLE bob RESET pool_worker.min_pool_size');
	$node->value('ALTER ROLE bob SET pool_worker.slot_idle_timeout = 1');
	$node->soon(
		q{SELECT count(*) FROM pool_status() WHERE role = 'bob' AND slots > 0},
		0,
		'slot_idle_timeout of a role');
	cmp_ok(
		$node->value(
			q{SELECT count(*) FROM pool_status() WHERE role = 'alice' AND slots > 0}
		),
		'>', 0,
		'... the other one keeps its slots');
	$node->value('ALTER ROLE bob RESET ALL');
}

note 'what is promised to those who wait';
{
	my @pools = map { { user => $_, database => 'd2' } } qw(alice bob);

	$node->value("ALTER ROLE ALL $alter 1");
	$node->value('ALTER ROLE alice RESET pool_worker.pool_mode');
	$node->value(q{ALTER ROLE alice SET pool_worker.queue_timeout = '100ms'});
	$node->value(
		q{ALTER ROLE bob SET pool_worker.queue_notice_after = '100ms'});

	my @busy    = map { $node->client(%$_) } @pools;
	my @waiting = map { $node->client(%$_) } @pools;

	$_->val('BEGIN') foreach @busy;
	$_->send(PoolWorker::Wire::msg_query(q{SELECT 'served'}))
	  foreach @waiting;
	my $answer = $waiting[0]->answer;
	is($answer->{error}{C}, '53300', 'queue_timeout of one role');
	my $message = $waiting[1]->read;
	is($message->[0], 'N', '... the other one waits, and has its notice');
	$_->val('COMMIT') foreach @busy;
	is(PoolWorker::Wire::text($waiting[1]->answer),
		'served', '... until it is served');
	$_->terminate foreach @busy, $waiting[1];
	$node->value("ALTER ROLE $_ RESET ALL") foreach qw(ALL alice bob);
}

note 'the database that the worker is connected to';
{
	my $worker = $node->worker_pid;

	$node->value("ALTER DATABASE postgres $alter 4");
	$node->value("ALTER ROLE ${\$node->superuser} $alter 3");
	$node->value("SELECT pg_terminate_backend($worker)");
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pool worker'}
		  . " AND pid <> $worker",
		1,
		'another worker');
	$node->wait_for_pool;
	pool_sizes('its settings are not those of the pool', ($conf) x 4);
	is(pool_size('postgres', 'bob'), '4 database',
		'... but of its own pools');
	is(pool_size('postgres', $node->superuser),
		'3 user', '... and of the pools of its role');
	$node->value('ALTER DATABASE postgres RESET ALL');
	$node->value("ALTER ROLE ${\$node->superuser} RESET ALL");
}

note 'who may set them';
{
	my $boss  = $node->client(database => 'd1');
	my $alice = $node->client(user     => 'alice', database => 'd1');
	my $set   = 'SET pool_worker.statement_timeout = 0';

	is($boss->sqlstate($set), '55P02', 'not a session, be it a superuser\'s');
	is( $boss->error_text,
		'S=ERROR C=55P02 M=settings of the connection pool cannot be changed for a session'
		  . ' H=Use ALTER SYSTEM, ALTER DATABASE or ALTER ROLE.',
		'... with a hint');
	is($alice->sqlstate($set), '42501', 'not an ordinary one');
	is( $alice->sqlstate(
			q{SELECT set_config('pool_worker.pool_size', '1', true)}),
		'42501',
		'... by no function');
	like(
		$node->attempt(
			'pool',
			database => 'd1',
			options  => '-c pool_worker.statement_timeout=0'),
		qr/^S=FATAL C=55P02 /,
		'not in a startup packet');
	is($alice->sqlstate("ALTER ROLE alice $set"),
		'42501', 'not ALTER ROLE, for oneself');
	$node->value(
		'GRANT SET ON PARAMETER pool_worker.statement_timeout TO alice');
	is($alice->sqlstate("ALTER ROLE alice $set"),
		'', '... unless one has been given the right');
	is($alice->sqlstate($set),
		'55P02', '... which is not one for the session');
	is( $node->control->sqlstate(
			'ALTER ROLE bob SET pool_worker.pool_size = 0'),
		'22023',
		'a value that cannot be is refused');
	is( $node->control->sqlstate(
			'ALTER ROLE bob SET pool_worker.max_slots = 1'),
		'55P02',
		'what is not for one role is refused');
	$_->terminate foreach $boss, $alice;
	$node->value('ALTER ROLE alice RESET ALL');
}

note 'how many clients';
{
	my $max = 'SET pool_worker.max_pool_clients =';

	# Log in until one is refused; at most four.  What was set a moment ago may
	# come into force while we try.
	my $logins = sub {
		my (@logins) = @_;
		my @clients;
		my $answer = 'ok';

		foreach my $login (@logins)
		{
			my $client = $node->raw('pool');

			push @clients, $client;
			$client->startup(%$login) and next;
			$answer = $client->error_text;
			pop @clients;
			last;
		}
		my $n = @clients;
		$_->terminate foreach @clients;
		$node->until(
			sub {
				$node->value(
					q{SELECT count(*) FROM pool_clients() WHERE role IN ('alice', 'bob')}
				) == 0;
			});
		return "$n, then $answer";
	};
	my $becomes = sub {
		my ($name, $expected, @logins) = @_;
		my $found;

		$node->until(sub { ($found = $logins->(@logins)) eq $expected });
		local $Test::Builder::Level = $Test::Builder::Level + 1;
		return is($found, $expected, $name);
	};
	my @logins = (
		{ user => 'alice', database => 'd1' },
		{ user => 'alice', database => 'd2' },
		{ user => 'bob',   database => 'd1' },
		{ user => 'alice', database => 'd1' });

	$becomes->('no limit', '4, then ok', @logins);
	$node->value("ALTER DATABASE d1 $max 2");
	$becomes->(
		'of a database',
		'3, then S=FATAL C=53300 M=too many pool clients for database "d1"',
		@logins);
	$node->value("ALTER ROLE alice $max 1");
	$becomes->(
		'of a role, in all databases',
		'1, then S=FATAL C=53300 M=too many pool clients for role "alice"',
		@logins);
	$node->value("ALTER ROLE alice IN DATABASE d1 $max 1");
	$node->value('ALTER ROLE alice RESET pool_worker.max_pool_clients');
	$becomes->(
		'of a role in a database',
		'3, then S=FATAL C=53300 M=too many pool clients for role "alice" in database "d1"',
		@logins);
	$node->value('ALTER ROLE alice IN DATABASE d1 RESET ALL');
	$node->value('ALTER DATABASE d1 RESET ALL');
	$becomes->('no limit again', '4, then ok', @logins);

	$node->set('pool_worker.max_pool_clients' => 1);
	$becomes->(
		'of any one pool',
		'3, then S=FATAL C=53300 M=too many pool clients for role "alice" in database "d1"',
		@logins);
	$node->value("ALTER ROLE alice $max -1");
	$becomes->('... but for a role without a limit', '4, then ok', @logins);
	$node->value("ALTER ROLE alice $max 0");
	$becomes->(
		'nobody',
		'0, then S=FATAL C=53300 M=too many pool clients for role "alice"',
		@logins);
	$node->set('pool_worker.max_pool_clients' => undef);

	# those who are there count, and stay
	$node->value("ALTER ROLE alice $max 2");
	my $try = sub {
		return $node->attempt('pool', %{ $logins[0] }) =~ s/^.*M=//r;
	};
	$node->until(sub { $try->() eq 'ok' }) or die 'alice may not log in';
	$node->soon(q{SELECT count(*) FROM pool_clients() WHERE role = 'alice'},
		0, 'nobody is there');
	my @clients = map { $node->client(%$_) } @logins[ 0, 1 ];
	is($try->(), 'too many pool clients for role "alice"', 'two are there');
	$node->value("ALTER ROLE alice $max 1");
	$node->soon(
		q{SELECT setting FROM pool_settings() WHERE name = 'pool_worker.max_pool_clients' AND (database, role) = ('d1', 'alice')},
		1,
		'there may be one');
	is($_->val('SELECT 1'), 1, '... who is there stays') foreach @clients;
	(shift @clients)->terminate;
	$node->soon(q{SELECT count(*) FROM pool_clients() WHERE role = 'alice'},
		1, '... one has left');
	is( $try->(),
		'too many pool clients for role "alice"',
		'... and has left no room');
	(shift @clients)->terminate;
	ok($node->until(sub { $try->() eq 'ok' }), '... the other one has');
	$node->value('ALTER ROLE alice RESET ALL');
}

$node->stop;
done_testing();
