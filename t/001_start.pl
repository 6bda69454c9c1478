# Copyright (c) pool_worker contributors

# From nothing to the first query, and what can be in the way: the library not
# preloaded, a port or a socket file taken, a socket file left behind.  The
# server must start in any case, the log must say what to change, and the
# change must take effect with a reload.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use File::stat;
use IO::Socket::IP;
use IO::Socket::UNIX;
use POSIX ();
use PoolWorker;
use PostgreSQL::Test::Utils;
use Test::More;

my @addresses = ('127.0.0.1', PoolWorker::has_ipv6() ? '::1' : ());

note 'the first queries';
my $node = PoolWorker->new('main');
is($node->setup(sql => 'CREATE ROLE alice LOGIN'), $node,
	'the server starts');
is( $node->value(
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pool worker'}
	),
	1,
	'pg_stat_activity has one pool worker');

foreach my $host ($node->host, @addresses)
{
	my ($ret, $out, $err) = $node->pool_psql(
		'postgres',
		'SELECT 6 * 7',
		connstr =>
		  $node->pool_connstr('postgres', host => $host, user => 'alice'));
	is("$out$err", '42', "psql by $host");
	my $client =
	  $node->client(host => $host, user => 'alice', application_name => 'me');
	is($client->val('SELECT current_user'), 'alice', "bytes by $host");

	# after its first transaction a client is parked, then it stays attached
	$client->val('SELECT 2');
	is( $node->value(
			q{SELECT application_name, coalesce(host(client_addr), 'local')
			FROM pg_stat_activity WHERE usename = 'alice' AND application_name = 'me'}
		),
		'me|' . ($host =~ m{^/} ? 'local' : $host),
		'the slot is shown in the name of its client');
	$client->terminate;
}
SKIP:
{
	skip 'this machine has no IPv6', 1 unless @addresses == 2;
	is($node->attempt('pool', host => '::1', user => 'alice'), 'ok', 'IPv6');
}
$node->soon(
	q{SELECT database, role, clients, failed FROM pool_status()
	WHERE role = 'alice'}, 'postgres|alice|0|0', 'pool_status() has the pool');
is( $node->value(
		'SELECT string_agg("check", \', \') FROM pool_check() WHERE NOT ok'),
	'',
	'pool_check() finds nothing wrong');

note 'which settings need a restart';
is( $node->value(
		q{SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings
		WHERE name LIKE 'pool\_worker.%' AND context = 'postmaster'}),
	'pool_worker.database pool_worker.max_clients pool_worker.max_pools pool_worker.max_slots',
	'those that size shared memory, and where the worker looks things up');
is( $node->value(
		q{SELECT count(*) FROM pg_settings
		WHERE name LIKE 'pool\_worker.%' AND context NOT IN ('postmaster', 'sighup', 'superuser')}
	),
	'0',
	'the others follow a reload, or also ALTER ROLE');
foreach my $bad (
	'port = 0',
	'port = 65536',
	'pool_size = 0',
	'min_pool_size = -1',
	"prewarm = 'nowhere'",
	"prewarm = '/'",
	"pool_mode = 'statement'",
	'connect_timeout = 0',
	'slot_idle_timeout = -1',
	'nonsense = 1')
{
	isnt($node->control->sqlstate("ALTER SYSTEM SET pool_worker.$bad"),
		'', "refused: $bad");
}

# The effects of the other settings are in 022 (pool_mode) and 040.
note 'settings that change where the pool listens';
my $client = $node->client(host => '127.0.0.1', user => 'alice');

sub reachable
{
	my ($host, $port) = @_;
	my $wire = eval {
		PoolWorker::Wire->new(
			host => $host,
			port => $port // $node->pool_port);
	};
	my $ok = $wire
	  && eval { $wire->startup(user => 'alice', database => 'postgres') };

	$wire->close if $wire;
	return $ok ? 1 : 0;
}
my $other_dir = PostgreSQL::Test::Utils::tempdir_short();
my $old_port  = $node->pool_port;
my $new_port  = PostgreSQL::Test::Cluster::get_free_port();

$node->set('pool_worker.listen_addresses' => '');
ok($node->until(sub { !reachable('127.0.0.1') }),
	'listen_addresses empty: no TCP');
ok(reachable($node->host), 'the Unix socket is there');
$node->set('pool_worker.listen_addresses' => '127.0.0.1');
ok($node->until(sub { reachable('127.0.0.1') }), 'listen_addresses back');

$node->set(
	'pool_worker.unix_socket_directories' => $node->host . ", $other_dir");
ok($node->until(sub { reachable($other_dir) }),
	'another directory for sockets');
ok(reachable($node->host), 'beside the first');
$node->set('pool_worker.unix_socket_directories' => undef);
ok( $node->until(sub { !-e "$other_dir/.s.PGSQL.$old_port" }),
	'its socket file is removed when it is no longer wanted');

$node->value("ALTER SYSTEM SET pool_worker.port = $new_port");
$node->reload;
ok($node->until(sub { reachable('127.0.0.1',  $new_port) }), 'another port');
ok($node->until(sub { !reachable('127.0.0.1', $old_port) }),
	'and no longer the first');
ok(!-e $node->host . "/.s.PGSQL.$old_port", 'nor its socket file');
is($client->val('SELECT 1'), '1', 'who is connected stays connected');
$client->terminate;
$node->value('ALTER SYSTEM RESET pool_worker.port');
$node->reload;
$node->wait_for_pool;

note 'socket files';

sub mode_of
{
	my $st = stat($_[0]);
	return $st ? sprintf('%04o', $st->mode & 07777) : 'none';
}
my $socket = $node->host . "/.s.PGSQL.$old_port";
is( mode_of($socket),
	mode_of($node->host . '/.s.PGSQL.' . $node->port),
	'permissions as those of the server\'s');
$node->append_conf('postgresql.conf', 'unix_socket_permissions = 0700');
$node->restart;
$node->wait_for_pool;
is(mode_of($socket), '0700', 'and as unix_socket_permissions says');
$node->stop;
ok(!-e $socket && !-e "$socket.lock",
	'none is left when the server has stopped');

# a socket and a lock file that a process left which is no more
sub leave_socket
{
	my ($pid) = @_;
	my $listener = IO::Socket::UNIX->new(
		Type   => SOCK_STREAM,
		Local  => $socket,
		Listen => 1) or die "could not listen: $!";
	append_to_file(
		"$socket.lock",
		join("\n",
			$pid,             $node->data_dir, time,
			$node->pool_port, $node->host,     '')
		  . "\n");
	return $listener;
}

sub take_port
{
	return IO::Socket::IP->new(
		LocalHost => '127.0.0.1',
		LocalPort => $old_port,
		ReuseAddr => 1,
		Listen    => 1) || die "could not listen: $!";
}

my $dead = fork() // die "could not fork: $!";
POSIX::_exit(0) if $dead == 0;
waitpid $dead, 0;
leave_socket($dead)->close;
ok(-e $socket, 'a stale socket file');
$node->start;
$node->wait_for_pool;
ok(reachable($node->host), 'is not in the way');
my ($postmaster) =
  slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
$node->kill9;
ok($node->until(sub { !reachable('127.0.0.1') }), 'the server is killed');
# its parent is the system's first process, which takes a moment to bury it
ok($node->until(sub { !kill 0, $postmaster }), 'and gone');
$node->start;
$node->wait_for_pool;
ok( reachable($node->host) && reachable('127.0.0.1'),
	'what it left is not in the way either');
$node->stop;

note 'a socket file and a port that somebody has';
my $holder = leave_socket($$);
my $tcp    = take_port();
my $from   = $node->log_end;
$node->start;
pass('the server starts');
$node->logged(qr/socket file ".*" is in use by process $$/,
	$from, 'the log says whose it is');
$node->logged(qr/could not bind IPv4 address "127.0.0.1"/,
	$from, 'and about the port');
$node->logged(
	qr/the connection pool could not listen.*\n.*DETAIL.*\n.*HINT: .*"pool_worker.port"/,
	$from,
	'and what to change');
is(slurp_file("$socket.lock") =~ /^$$\n/ && -S $socket ? 1 : 0,
	1, 'the files are left alone');
is( $node->value(
		q{SELECT NOT ok AND hint ~ 'pool_worker.port' FROM pool_check() WHERE "check" ~ 'port'}
	),
	't',
	'pool_check() says it too');
$node->value("ALTER SYSTEM SET pool_worker.port = $new_port");
$node->reload;
ok($node->until(sub { reachable('127.0.0.1', $new_port) }),
	'another port by reload');
ok(reachable($node->host, $new_port), 'with its socket file');
$_->close foreach $holder, $tcp;
unlink $socket, "$socket.lock";
$node->value('ALTER SYSTEM RESET pool_worker.port');
$node->reload;
ok($node->until(sub { reachable('127.0.0.1', $old_port) }),
	'and the first, free again');
$node->stop;

note 'only TCP is taken';
$tcp  = take_port();
$from = $node->log_end;
$node->start;
$node->logged(
	qr/could not listen on all addresses of port $old_port.*\n(.*DETAIL.*\n)?.*HINT: .*"pool_worker/,
	$from,
	'the log says what is missing');
ok($node->until(sub { reachable($node->host) }), 'the Unix socket serves');
$tcp->close;
$node->stop;
$node->not_logged(qr/PANIC|TRAP|terminated by signal/, 0, 'nobody crashed');

note 'not preloaded';
my $plain = PoolWorker->new('plain')->setup(preload => 0);
foreach my $function ('pool_status()', 'pool_slots()', 'pool_clients()',
	'pool_check()')
{
	my $error = $plain->control->ask("SELECT * FROM $function")->{error};

	is($error->{C}, '55000', "$function without preload");
	like($error->{M},
		qr/pool_worker must be loaded via "shared_preload_libraries"/,
		'says so');
	like(
		$error->{H} // '',
		qr/shared_preload_libraries.*restart|restart.*shared_preload/,
		'and what to do');
}
is( $plain->value(
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pool worker'}
	),
	'0',
	'and there is no worker');
$plain->stop;

done_testing();
