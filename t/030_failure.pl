# Copyright (c) pool_worker contributors

# What breaks: slots, the worker, the server, descriptors, and clients by the
# hundred.  Each time the one who was hit is told, nobody else is, and the pool
# comes back by itself within a bounded time.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 4
pool_worker.max_clients = 600
restart_after_crash = on
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE TABLE t (id int);
	INSERT INTO t VALUES (1);
	GRANT ALL ON t TO alice;});

sub alice { return $node->client(user => 'alice', @_); }

# What a client reads that the server sends away.
sub farewell
{
	my ($client) = @_;
	my $answer = eval { $client->answer } || {};

	return
		$answer->{error} ? $answer->{error}{C}
	  : $client->{eof}   ? 'closed'
	  :                    'nothing';
}

sub pool_is_back
{
	my ($name) = @_;
	my $client;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->until(
		sub {
			$client = eval { alice() }
		});
	is($client && eval { $client->val('SELECT count(*) FROM t') },
		'1', "$name: the pool serves");
	$client->terminate if $client;
	$node->soon(q{SELECT count(*) FROM pool_clients()},
		0, "$name: no client is left over");
	return;
}

my $from = $node->log_end;

note 'pg_terminate_backend() of an idle slot';
{
	my $client = alice();
	my $slot   = $client->val('SELECT pg_backend_pid()');

	$node->value("SELECT pg_terminate_backend($slot, 10000)");
	isnt(eval { $client->val('SELECT pg_backend_pid()') } // $@,
		$slot, 'its client gets another');
	$client->terminate;
}

note 'pg_terminate_backend() of a slot at work';
{
	my ($client, $other) = (alice(), alice());

	$client->send(
		query('BEGIN; INSERT INTO t VALUES (2); SELECT pg_sleep(600)'));
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		1,
		'at work');
	$node->value(
		q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}
	);
	is(farewell($client), '57P01', 'its client is told');
	ok($client->at_end, 'and disconnected');
	is($other->val('SELECT count(*) FROM t'), '1', 'others are served');
	$other->terminate;
	pool_is_back('after that');
}

note 'pg_terminate_backend() of a slot in a transaction';
{
	my $client = alice();
	my $slot   = $client->val('BEGIN; SELECT pg_backend_pid()');

	$node->value("SELECT pg_terminate_backend($slot, 10000)");
	is(farewell($client), '57P01', 'its client is told');
	$client->close;
	pool_is_back('after that');
}

note 'pg_cancel_backend() is for the query only';
{
	my $client = alice();

	$client->send(query('SELECT pg_sleep(600)'));
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		1,
		'at work');
	$node->value(
		q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}
	);
	is(farewell($client),        '57014', 'cancelled');
	is($client->val('SELECT 1'), '1',     'and still there');
	$client->terminate;
}

note 'the worker is terminated';
{
	my ($busy, $idle, $running) = (alice(), alice(), alice());
	my $worker = $node->worker_pid;

	$busy->val('BEGIN; INSERT INTO t VALUES (3)');
	$idle->val('SELECT 1');
	$node->value('SELECT pg_advisory_lock(1)');
	$running->send(query('SELECT pg_advisory_xact_lock(1), 11'));
	$node->soon('SELECT count(*) FROM pg_locks WHERE NOT granted',
		1, 'somebody at work');
	# parked for certain: its slot has served another client since
	my @others = map { alice() } 1 .. 8;
	$_->send(query('SELECT 1')) foreach @others;
	$_->answer foreach @others;
	my @old     = $node->slot_pids('postgres', 'alice');
	my $counted = $node->value('SELECT sum(transactions) FROM pool_status()');

	my $start = time;
	$node->value("SELECT pg_terminate_backend($worker)");
	is($busy->val('SELECT 2'), '2', 'a transaction goes on');
	my $client;

	# the old one may still let somebody in, and say goodbye
	$node->until(
		sub {
			$client = eval { alice() };
			return $client && eval { $client->val('SELECT 1') };
		});
	my $took = time - $start;
	ok($client && $client->val('SELECT 1'), 'a new worker serves');
	cmp_ok($took, '<', 4, sprintf('after %.2f s', $took));
	isnt($node->worker_pid, $worker, 'another process');
	my %told;
	$told{ farewell($_) }++ foreach @others, $idle;
	is_deeply([ sort keys %told ], ['57P01'], 'who was idle has been told');
	$node->value('SELECT pg_advisory_unlock(1)');
	is(text($running->answer), '|11', 'a query runs to its end');
	is($busy->val('SELECT count(*) FROM t'), '2',
		'and the transaction still');
	is(eval { $busy->val('COMMIT') } // $@, '', 'which commits');
	$node->soon(
		'SELECT count(*) FROM pg_stat_activity WHERE pid IN ('
		  . join(',', @old) . ')',
		0,
		'then the old slots are gone');
	$node->soon(
		q{SELECT count(*) FROM pool_slots() WHERE pid IN (}
		  . join(',', @old) . ')',
		0,
		'the new worker has seen that');
	cmp_ok($node->value('SELECT sum(transactions) FROM pool_status()'),
		'>=', $counted, 'and their transactions are still counted');
	ok($_->at_end, 'and their clients disconnected') foreach $busy, $running;
	is($node->value('SELECT count(*) FROM t'),
		'2', 'what was committed is there');
	$node->value('DELETE FROM t WHERE id = 3');
	$_->close foreach $busy, $running, $idle, @others, $client;
	pool_is_back('with a new worker');
}

note '500 clients vanish at once in mid-transaction';
{
	my $warm = alice();
	$warm->val('SELECT 1');
	$warm->terminate;
	my @clients = map { alice() } 1 .. 500;
	my @slots   = $node->slot_pids('postgres', 'alice');
	my $fds     = $node->fd_count($node->worker_pid);

	$_->send(query('BEGIN; INSERT INTO t VALUES (5); SELECT 1'))
	  foreach @clients;
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'
		AND state = 'idle in transaction'}, 4, 'all slots are in a transaction');
	@slots = $node->slot_pids('postgres', 'alice');
	$_->reset foreach @clients;
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'all are gone');
	is_deeply([ $node->slot_pids('postgres', 'alice') ],
		\@slots, 'the slots are the same');
	pool_is_back('after that');
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'
		AND state <> 'idle'}, 0, 'no transaction is left');
	is($node->value('SELECT count(*) FROM t'), '1', 'and no row');
	ok( $node->until(
			sub { $node->fd_count($node->worker_pid) <= $fds - 490 }),
		'nor a descriptor in the worker');
	my $client = alice();
	foreach my $slot (@slots)
	{
		ok( $node->until(
				sub {
					$client->val('SELECT 1') && $node->fd_count($slot) < 100;
				}),
			"nor in slot $slot");
	}
	$client->terminate;
}

note 'half a message';
{
	my ($slow, $other) = (alice(), alice());
	my $bytes = query('SELECT 21 * 2');

	$slow->send(substr $bytes, 0, 7, '');
	is($other->val('SELECT 1'),
		'1', 'a client that hesitates does not keep others waiting');
	$slow->send(substr $bytes, 0, 1, '') while length $bytes;
	is(text($slow->answer), '42',
		'and is served when it has said everything');
	$_->terminate foreach $slow, $other;
}

note 'reload under load';
$node->command_ok(
	[
		'pgbench',   '-i', '-q',        '-p',
		$node->port, '-h', $node->host, 'postgres'
	],
	'tables for it');
$node->value('GRANT ALL ON ALL TABLES IN SCHEMA public TO alice');
{
	my ($out, $err) = ('', '');
	my $bench = IPC::Run::start(
		[
			'pgbench', '-n', '-S', '-c', 8, '-T', 4, '-h', $node->host, '-p',
			$node->pool_port, '-U', 'alice', 'postgres'
		],
		'>',
		\$out,
		'2>',
		\$err,
		IPC::Run::timeout($PoolWorker::timeout));

	$node->soon(q{SELECT clients FROM pool_status() WHERE role = 'alice'},
		8, 'a load');
	foreach my $n (1 .. 10)
	{
		$node->set(
			'pool_worker.slot_idle_timeout' => "${n}min",
			'pool_worker.pool_size'         => 4 + $n % 3);
	}
	ok($bench->finish, 'ends without an error') or diag($err);
	unlike("$out$err", qr/error|abort/i, 'nobody noticed ten reloads');
	$node->set(
		'pool_worker.slot_idle_timeout' => undef,
		'pool_worker.pool_size'         => undef);
}
$node->not_logged(qr/PANIC|TRAP|terminated by signal|was terminated/,
	$from, 'no process has crashed so far');

foreach my $victim ('a slot', 'the worker')
{
	note "kill -9 of $victim";
	my ($busy, $idle) = (alice(), alice());
	my $slot   = $busy->val('BEGIN; SELECT pg_backend_pid()');
	my $worker = $node->worker_pid;

	$idle->val('SELECT 1');
	$from = $node->log_end;
	kill 'KILL', $victim eq 'a slot' ? $slot : $worker;
	$node->logged(qr/all server processes terminated; reinitializing/,
		$from, 'a crash');
	ok(eval { $_->at_end }, 'its clients are disconnected')
	  foreach $busy, $idle;
	$_->close foreach $busy, $idle;
	ok( $node->until(
			sub { my $now = $node->worker_pid; $now && $now ne $worker }),
		'a new worker');
	pool_is_back("after kill -9 of $victim");
}

foreach my $mode ('fast', 'immediate')
{
	note "$mode shutdown";
	my ($busy, $running, @idle) = map { alice() } 1 .. 12;

	$busy->val('BEGIN; INSERT INTO t VALUES (6)');
	$running->send(query('SELECT pg_sleep(600)'));
	$_->send(query('SELECT 1')) foreach @idle;
	$_->answer foreach @idle;
	my $start = time;
	$from = $node->log_end;
	$node->stop($mode);
	cmp_ok(time - $start, '<', $PoolWorker::timeout, 'the server stops');
	my %told;
	$told{ farewell($_) }++ foreach $busy, $running, @idle;
	is_deeply([ grep { !/^(57P01|57P02|closed)$/ } keys %told ],
		[], 'the clients are told');
	is_deeply([ keys %told ], ['57P01'], 'all of them') if $mode eq 'fast';
	ok(eval { $_->at_end }, 'and disconnected')
	  foreach $busy, $running, $idle[0];
	$_->close foreach $busy, $running, @idle;
	$node->not_logged(qr/PANIC|TRAP/, $from, 'in good order');
	$node->not_logged(
		qr/server process .* exited with exit code|was terminated by/,
		$from, 'no process fails')
	  if $mode eq 'fast';
	$node->start;
	$node->wait_for_pool;
	pool_is_back("after a $mode shutdown");
}
$node->stop;

note 'few descriptors';
{
	my $limit = 170;

	$from = $node->log_end;
	system_or_bail('bash', '-c',
			"ulimit -n $limit && exec pg_ctl -w -D '"
		  . $node->data_dir
		  . "' -l '"
		  . $node->logfile
		  . "' start");
	$node->_update_pid(1);
	$node->wait_for_pool;
	$node->logged(
		qr/the connection pool can serve (\d+) clients only.*\n.*DETAIL.*\n.*HINT: .*open files/,
		$from,
		'the log says how many clients can be served');
	my ($can) = $node->log_since($from) =~ /can serve (\d+) clients only/;
	cmp_ok($can // 0, '>', 20, 'some can: ' . ($can // 'none'));
	my @clients;
	my $error;

	while (@clients < $limit)
	{
		my $client = $node->raw('pool');
		if (!eval { $client->startup(user => 'alice', database => 'postgres') }
		  )
		{
			$error = $client->error_text;
			$client->close;
			last;
		}
		push @clients, $client;
	}
	like($error // 'none', qr/S=FATAL C=53300 /, 'one more is refused');
	is(scalar @clients, $can, 'and no fewer are served than the log says');
	my @failed = grep {
		(eval { $_->val('SELECT count(*) FROM t') } // '') ne '1'
	} @clients;
	is(scalar @failed, 0, 'each of them works');
	$_->terminate foreach @clients;
	pool_is_back('with few descriptors');
}

$node->stop;
done_testing();
