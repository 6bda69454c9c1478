# Copyright (c) pool_worker contributors

# The worker ends again and again while clients come and go, in transactions
# and out of them.  They are disconnected, which is bad enough; no process may
# crash, and each new worker has to serve.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use IO::Select;
use POSIX ();
use PoolWorker;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 2
restart_after_crash = off
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE TABLE t (a int);
	GRANT ALL ON t TO alice;});

my $restarts = 5;
my $from     = $node->log_end;
my $started  = $node->value('SELECT pg_postmaster_start_time()');

# Processes that connect, work and leave in different ways, until our end of
# the pipe closes.  They use connections of their own only.
pipe(my $alive, my $our_end) or die "pipe: $!";
my @loads;
foreach my $n (1 .. 3)
{
	my $pid = fork // die "fork: $!";

	if ($pid != 0)
	{
		push @loads, $pid;
		next;
	}
	close $our_end;
	alarm $PoolWorker::file_timeout;
	reconnect($n) until IO::Select->new($alive)->can_read(0);
	POSIX::_exit(0);
}
close $alive;

sub reconnect
{
	my ($n) = @_;
	my @clients = eval {
		map { $node->client(user => 'alice') } 1 .. $n;
	};

	eval {
		foreach my $client (@clients)
		{
			$client->val('SELECT 1');
			$client->val('BEGIN; INSERT INTO t VALUES (1)');
			$client->val('SELECT count(*) FROM t');
			$client->val('COMMIT') if $n > 1;
			$client->ask_extended('SELECT $1', 2);
		}
	};
	foreach my $client (@clients)
	{
		$n % 2 ? $client->reset : $client->terminate;
	}
	return;
}

foreach my $n (1 .. $restarts)
{
	my $worker = $node->worker_pid;

	$node->soon(q{SELECT sum(transactions) > 20 FROM pool_status()},
		't', "round $n: a load");
	if ($n % 2)
	{
		# it ends with a client that has left and that it has not seen
		my $leaver = $node->client(user => 'alice');

		$leaver->val('BEGIN');
		kill 'STOP', $worker;
		$leaver->reset;
		$node->soon(
			q{SELECT count(*) > 0 FROM pool_clients() WHERE state = 'leaving'},
			't',
			"round $n: somebody leaves");
	}
	$node->value("SELECT pg_terminate_backend($worker)");
	kill 'CONT', $worker;
	ok( $node->until(
			sub { my $now = $node->worker_pid; $now && $now ne $worker }),
		"round $n: another worker");
	my $client;
	$node->until(sub { $client = $node->client(user => 'alice') });
	is($client && eval { $client->val('SELECT 1') }, '1', "round $n: serves");
	$client->terminate if $client;
}

close $our_end;
foreach my $pid (@loads)
{
	waitpid $pid, 0;
	is($?, 0, 'a load ends in good order');
}
is($node->value('SELECT pg_postmaster_start_time()'),
	$started, 'the server has not been restarted');
$node->not_logged(
	qr/PANIC|TRAP|was terminated by signal|all server processes terminated/,
	$from, 'no process has crashed');
$node->soon('SELECT count(*) FROM pool_clients()', 0, 'nobody is left');
$node->soon(
	q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice' AND pid NOT IN
	(SELECT pid FROM pool_slots() WHERE pid IS NOT NULL)},
	0, 'nor a slot of an earlier worker');
my $client = $node->client(user => 'alice');
is($client->val('SELECT 2'), '2', 'and the pool serves');
$client->terminate;

$node->stop;
done_testing();
