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
use PoolWorker::Wire        qw(query);
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

sub as { my $role = shift; return $node->client(user => $role, @_); }

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

	# but for a slot that was just logging in, and finds the worker gone
	$node->not_logged(
		qr/PANIC|TRAP|WARNING|was terminated by|exited with exit code [^1]|could not (?!send data to client: Broken pipe)|restarted/,
		$from,
		'the log says nothing else');
	$node->logged(qr/LOG: .*connection pool stops/, $from, 'the log says it');
	$node->start;
	$node->wait_for_pool;
	is(as('alice')->val('SELECT count(*) FROM t'),
		'0', 'nothing was committed, and the pool serves');
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'nobody is left');
}

# Clients that change slots all the time: whoever is between two of them when
# worker and slots end.
note 'fast shutdown under load';
foreach my $round (1 .. 6)
{
	my @clients = map { as('alice') } 1 .. 40;
	my ($answers, $out, $stop) = (0, '');
	my %end;

	$_->send(query('SELECT 1')) foreach @clients;
	PoolWorker::Wire->pump(
		\@clients,
		sub {
			my ($client, $answer) = @_;

			if ($answer->{lost})
			{
				$end{ $answer->{error} ? $answer->{error}{C} : 'nothing' }++;
				return 0;
			}
			$stop = IPC::Run::start(
				[
					'pg_ctl',   '--mode=fast',
					'--pgdata', $node->data_dir,
					'stop'
				],
				'>&',
				\$out) if ++$answers == 500;
			$client->send(query('SELECT 1'));
			return 1;
		});
	is_deeply(
		\%end,
		{ '57P01' => scalar @clients },
		"round $round: each is told, $answers answers");
	$_->close foreach @clients;
	$stop->finish;
	$node->_update_pid(0);
	$node->start;
	$node->wait_for_pool;
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

		# One that waits has been told already that it is in, or not; and
		# the worker may see the end of the slots before its own.
		like(
			$told,
			$what   =~ /password|startup|nothing/ ? qr/^$/
			: $what =~ /for a slot/ ? qr/^(\Q$words\E|FATAL 57P01 [^\n]+)?$/
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

# Ask for a smart shutdown, and return when the postmaster has begun it.
sub begin_smart_shutdown
{
	$from = $node->log_end;
	system_log('pg_ctl', '--no-wait', '--mode=smart', '--pgdata',
		$node->data_dir, 'stop');
	return $node->logged(qr/received smart shutdown request/,
		$from, 'a smart shutdown begins');
}

# The server has stopped by itself.
sub has_stopped
{
	my ($name) = @_;
	my $pid    = $node->{_pid};
	my $start  = time;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->until(sub { !kill 0, $pid }), "$name: the server stops");
	$node->_update_pid(0);
	$node->not_logged(qr/PANIC|TRAP|WARNING|was terminated by|fast shutdown/,
		$from, 'in good order');
	is(socket_files(), '', 'no socket file is left');
	return;
}

note 'smart shutdown: warm slots, and nobody whom they serve';
$node->append_conf(
	'postgresql.conf', q{
pool_worker.prewarm = 'postgres/alice, postgres/bob'
pool_worker.min_pool_size = 3
});
$node->restart;
$node->soon(q{SELECT count(*) FROM pool_slots() WHERE state = 'idle'},
	6, 'slots that are kept warm');
$node->control->terminate;
begin_smart_shutdown();
has_stopped('without clients');

note 'smart shutdown: clients go on until they leave';
$node->start;
$node->wait_for_pool;
$node->set('pool_worker.slot_idle_timeout' => '100ms');
{
	my $busy    = as('alice');
	my $pinned  = as('alice');
	my @idle    = map { as('alice') } 1 .. 6;
	my $only    = as('busy');
	my $slotted = as('carol');

	$_->val('SELECT 1') foreach @idle, @idle, $only, $slotted;
	$busy->val('BEGIN; INSERT INTO t VALUES (1)');
	$pinned->val('CREATE TEMP TABLE x (a int)');
	$node->soon(q{SELECT count(*) FROM pool_slots() WHERE role = 'bob'},
		3, 'slots without clients');
	begin_smart_shutdown();
	$node->logged(
		qr/connection pool lets nobody in any more, because the server is shutting down/,
		$from,
		'the log says it');
	$node->same_answer(
		'a new login',
		qr/S=FATAL C=57P03 M=the database system is shutting down/,
		user => 'alice');
	$node->soon(q{SELECT count(*) FROM pool_slots() WHERE role = 'bob'},
		0, 'slots that serve nobody end');
	is( $node->value(
			q{SELECT count(*) > 0 FROM pool_slots() WHERE role = 'busy'}),
		't',
		'but not those of clients, however long they idle');

	foreach my $round (1 .. 3)
	{
		is( join(
				' ', map { $_->val("SELECT $round") } @idle, $only, $slotted),
			join(' ', ($round) x (@idle + 2)),
			"round $round: clients are served");
	}
	is($busy->val('COMMIT; SELECT count(*) FROM t'),
		'1', 'a transaction commits');
	is($pinned->val('SELECT count(*) FROM x'),
		'0', 'a session keeps what it has');

	# a pool that has lost its slots cannot open others
	my ($pid) = $node->slot_pids('postgres', 'busy');
	$node->value("SELECT pg_terminate_backend($pid, 10000)");
	$only->send(query('SELECT 1'));
	is( told($only),
		'FATAL 57P01 terminating connection due to administrator command',
		'a client without a slot is told');

	$_->terminate foreach $busy, $pinned, @idle;
	$node->soon(
		q{SELECT role FROM pool_slots() GROUP BY 1},
		'carol',
		'slots end when their last client has left');
	$node->control->terminate;
	is($slotted->val('SELECT count(*) FROM t'),
		'1', 'one client keeps the server waiting, as directly');
	$slotted->terminate;
	has_stopped('the last client leaves');
}

note 'smart shutdown of a pool that is paused';
$node->start;
$node->wait_for_pool;
{
	my ($silent, $waiting, $busy) = map { as('alice') } 1 .. 3;

	$_->val('SELECT 1') foreach $silent, $waiting, $busy;
	$busy->val('BEGIN; SELECT 1');
	$node->value(q{SELECT pool_pause('postgres', 'alice', timeout => '0')});
	$waiting->send(query('SELECT 2'));
	begin_smart_shutdown();
	$node->soon(
		q{SELECT state FROM pool_slots() WHERE role = 'alice'},
		'pinned',
		'only the slot of a transaction is left');
	is($busy->val('INSERT INTO t VALUES (3) RETURNING id'),
		'3', 'which goes on');
	$busy->val('COMMIT');
	$node->control->terminate;
	has_stopped('all transactions have ended');
	is( told($_),
		'FATAL 57P01 terminating connection due to administrator command',
		'its clients are told') foreach $silent, $waiting, $busy;
}

note 'a smart shutdown takes too long';
$node->start;
$node->wait_for_pool;
{
	my @clients = map { as('alice') } 1 .. 6;

	$_->val('SELECT 1') foreach @clients, @clients;
	begin_smart_shutdown();
	$node->stop('fast');
	is( told($_),
		'FATAL 57P01 terminating connection due to administrator command',
		'a fast one ends it') foreach @clients;
	is(socket_files(), '', 'no socket file is left');
}

done_testing();
