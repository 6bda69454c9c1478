# Copyright (c) pool_worker contributors

# The server stops, in each of its ways, or restarts after a crash.  A client of
# the pool, whatever it is doing, must hear why before its connection closes,
# and once, in the words that it would have heard without a pool; nothing may
# hold up the server, and nothing may be left behind.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PoolWorker;
use PostgreSQL::Test::Utils qw(system_log);
use Test::More;
use Time::HiRes qw(time);

$PoolWorker::file_timeout *= 2;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 4
restart_after_crash = on
},
	hba => [
		'host all carol 127.0.0.1/32 scram-sha-256',
		'host all dave 127.0.0.1/32 password',
		'local all all trust',
		'host all all 127.0.0.1/32 trust'
	],
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE busy LOGIN;
	ALTER ROLE busy SET pool_worker.pool_size = 1;
	CREATE ROLE carol LOGIN PASSWORD 'right';
	CREATE ROLE dave LOGIN PASSWORD 'right';
	CREATE TABLE t (id int);
	GRANT ALL ON t TO PUBLIC;});

sub query { return PoolWorker::Wire::msg_query($_[0]); }
sub as    { my $role = shift; return $node->client(user => $role, @_); }

# What a client is told until its connection closes: severity, SQLSTATE and
# message of each error or warning, one per line.
sub told
{
	my ($client) = @_;
	my @told;

	while (my $message = eval { $client->read })
	{
		my ($type, $payload) = @$message;
		my $fields =
		  $type =~ /[EN]/ ? PoolWorker::Wire::fields($payload) : {};

		push @told, "$fields->{S} $fields->{C} $fields->{M}" if %$fields;
	}
	push @told, 'not disconnected' unless $client->{eof};
	$client->close;
	return join "\n", @told;
}

# Clients that do everything that a client can be doing, each by what it does.
# Those whose name begins with "direct" are not clients of the pool.
sub busy_clients
{
	my %clients;

	# two pools of four slots; that of "busy" has one, for the queue
	$clients{'in a transaction'} = as('alice');
	$clients{'in a transaction'}->val('BEGIN; INSERT INTO t VALUES (1)');
	$clients{'in a failed transaction'} = as('alice');
	$clients{'in a failed transaction'}->ask('BEGIN; SELECT 1 / 0');
	$clients{'running a statement'} = as('alice');
	$clients{'running a statement'}->send(query('SELECT pg_sleep(600)'));
	my @idle = map { as('alice') } 1 .. 4;
	$_->val('SELECT 1') foreach @idle, @idle;
	$clients{"idle $_"} = shift @idle foreach 1 .. 4;

	$clients{'pinned by a lock'} = as('bob');
	$clients{'pinned by a lock'}->val('SELECT pg_advisory_lock(1)');
	$clients{'pinned by a table'} = as('bob');
	$clients{'pinned by a table'}->val('CREATE TEMP TABLE x ()');
	$clients{'waiting for a lock'} = as('bob');
	$clients{'waiting for a lock'}->send(query('SELECT pg_advisory_lock(1)'));
	$clients{'in a COPY'} = as('bob');
	$clients{'in a COPY'}->ask('COPY t FROM STDIN');

	$clients{'keeping others waiting'} = as('busy');
	$clients{'keeping others waiting'}->val('BEGIN; SELECT 1');
	foreach my $n (1 .. 3)
	{
		$clients{"waiting for a slot $n"} = $node->raw('pool');
		$clients{"waiting for a slot $n"}
		  ->send_startup(user => 'busy', database => 'postgres');
	}

	$clients{'having said nothing'}   = $node->raw('pool');
	$clients{'in its startup packet'} = $node->raw('pool');
	$clients{'in its startup packet'}->send(
		substr PoolWorker::Wire::msg_startup(
			user     => 'alice',
			database => 'postgres'),
		0, 20);
	foreach my $role ('carol', 'dave')
	{
		my $client = PoolWorker::Wire->new(
			host => '127.0.0.1',
			port => $node->pool_port);

		$client->send_startup(user => $role, database => 'postgres');
		is($client->read->[0], 'R', "$role is asked for a password");
		$clients{"at the password of $role"} = $client;
	}

	$clients{'directly, idle'} = $node->direct;
	$clients{'directly, idle'}->val('SELECT 1');
	$clients{'directly, in a transaction'} = $node->direct;
	$clients{'directly, in a transaction'}->val('BEGIN; SELECT 1');

	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity
			WHERE wait_event IN ('PgSleep', 'advisory')}, 2,
		'somebody at work');
	$node->soon(
		q{SELECT state, count(*) FROM pool_clients() GROUP BY 1 ORDER BY 1},
		qr/^admitting\|4\nattached\|4\nparked\|3\npinned\|5\nwaiting\|3$/,
		'clients of all kinds');
	return %clients;
}

# The files of the pool's Unix socket.
sub socket_files
{
	return join ' ', glob $node->host . '/.s.PGSQL.' . $node->pool_port . '*';
}

# The server's segments of dynamic shared memory: those that it has mapped.
sub segments
{
	my %files;

	foreach my $pid ($node->{_pid}, $node->worker_pid, $node->slot_pids)
	{
		open my $maps, '<', "/proc/$pid/maps" or next;
		while (<$maps>)
		{
			$files{$1} = 1 if m{(/dev/shm/PostgreSQL\.\d+)$};
		}
		close $maps;
	}
	return sort keys %files;
}

my $from = $node->log_end;

note 'fast shutdown';
{
	my %clients = busy_clients();
	my @fifth   = map { as('alice') } 1 .. 20;
	my $start   = time;

	$node->stop('fast');
	cmp_ok(time - $start, '<', $PoolWorker::timeout / 2, 'the server stops');
	is( told($clients{$_}),
		'FATAL 57P01 terminating connection due to administrator command',
		"$_: is told why") foreach sort keys %clients;
	is(scalar(grep { told($_) !~ /^FATAL 57P01 [^\n]+$/ } @fifth),
		0, 'and many others');
	is(socket_files(), '', 'no socket file is left');
	$node->not_logged(
		qr/PANIC|TRAP|WARNING|was terminated by|exited with exit code [^1]|could not|restarted/,
		$from,
		'the log says nothing else');
	$node->logged(qr/LOG: .*connection pool stops/, $from, 'the log says it');
	$node->start;
	$node->wait_for_pool;
	is(as('alice')->val('SELECT count(*) FROM t'),
		'0', 'nothing was committed, and the pool serves');
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'nobody is left');
}

# SIGQUIT to all processes: those who log in see their connection closed, as
# they would without a pool.
sub check_quit
{
	my ($words, %clients) = @_;

	foreach my $what (sort keys %clients)
	{
		my $told =
		  told($clients{$what}) =~ s/^NOTICE 00000 waiting[^\n]*\n?//r;

		# one that waits has been told already that it is in, or not
		like(
			$told,
			$what   =~ /password|startup|nothing/ ? qr/^$/
			: $what =~ /for a slot/               ? qr/^(\Q$words\E)?$/
			: qr/^\Q$words\E$/,
			"$what: is told why");
	}
	return;
}

note 'immediate shutdown';
{
	my %clients  = busy_clients();
	my @segments = segments();

	$from = $node->log_end;
	cmp_ok(scalar @segments, '>', 0, 'the server has dynamic shared memory');
	$node->stop('immediate');
	check_quit(
		'WARNING 57P01 terminating connection due to immediate shutdown command',
		%clients);
	is(socket_files(),                      '', 'no socket file is left');
	is(join(' ', grep { -e $_ } @segments), '', 'nor shared memory');
	$node->not_logged(qr/PANIC|TRAP|WARNING/, $from, 'in good order');
	$node->start;
	$node->wait_for_pool;
	is(as('alice')->val('SELECT count(*) FROM t'), '0', 'the pool serves');
}

foreach my $victim ('a client backend', 'a slot', 'the worker')
{
	note "crash of $victim";
	my %clients  = busy_clients();
	my @segments = segments();
	my $worker   = $node->worker_pid;
	my $pid =
		$victim eq 'the worker' ? $worker
	  : $victim eq 'a slot'
	  ? $clients{'in a transaction'}->val('SELECT pg_backend_pid()')
	  : $clients{'directly, idle'}->val('SELECT pg_backend_pid()');
	my $words =
	  'WARNING 57P02 terminating connection because of crash of another server process';

	$from = $node->log_end;
	kill 'KILL', $pid;
	$node->logged(qr/all server processes terminated; reinitializing/,
		$from, 'a crash');

	# who was with the victim is not told anything; the worker has those who
	# are parked
	foreach my $what (sort keys %clients)
	{
		my $is_victims =
			$victim eq 'a slot'           ? $what eq 'in a transaction'
		  : $victim eq 'a client backend' ? $what eq 'directly, idle'
		  :                                 $what =~ /^idle|for a slot/;

		next unless $is_victims;
		like(told(delete $clients{$what}),
			qr/^(\Q$words\E)?$/, "$what: disconnected");
	}
	check_quit($words, %clients);
	ok( $node->until(
			sub { my $now = $node->worker_pid; $now && $now ne $worker }),
		'another worker');
	$node->wait_for_pool;
	is(as('alice')->val('SELECT count(*) FROM t'), '0', 'which serves');
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'nobody is left');
	is(join(' ', grep { -e $_ } @segments), '', 'nor shared memory');
	$node->not_logged(qr/PANIC|TRAP/, $from, 'in good order');
}

$node->stop;
done_testing();
