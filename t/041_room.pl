# Copyright (c) pool_worker contributors

# Fewer slots than pools, and slots that cannot be opened at all.  A pool that
# has none must get room from others as soon as they can spare it; and if there
# is none to be had the worker waits for it quietly, and says why.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use Test::More;
use Time::HiRes qw(time);

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.max_slots = 2
pool_worker.pool_size = 2
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE DATABASE d1;
	CREATE DATABASE d2;
	CREATE DATABASE d3;});

sub in { return $node->client(user => 'alice', database => $_[0]); }

# Somebody who wants to log in, and is not served yet.
sub wants
{
	my ($database) = @_;
	my $client = $node->raw('pool');

	$client->send_startup(user => 'alice', database => $database);
	$node->soon(
		qq{SELECT clients FROM pool_status() WHERE role = 'alice' AND database = '$database'},
		1,
		"$database is asked for");
	return $client;
}

sub served
{
	my ($client, $database, $name) = @_;
	my $start = time;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(eval { $client->finish_startup }, "$name: $database is served");
	cmp_ok(time - $start, '<', 5, "$name: soon");
	is(eval { $client->val('SELECT current_database()') } // $@,
		$database, "$name: ...");
	return;
}

sub all_leave
{
	my (@clients) = @_;

	$_->terminate foreach @clients;
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'all leave');
	$node->soon(
		q{SELECT count(*) <= 2 FROM pg_stat_activity WHERE datname ~ '^d[123]$'},
		't',
		'no more than max_slots were open');
	return;
}

note 'an idle slot is in the way';
{
	my ($d1, $d2) = (in('d1'), in('d2'));

	$d1->val(q{SET work_mem = '71kB'});
	$d2->val('BEGIN');
	my $d3 = wants('d3');
	served($d3, 'd3', 'one idle, one in a transaction');
	is($d2->val('SELECT 2'), '2', 'the transaction goes on');
	$d2->val('COMMIT');
	is($d1->val('SHOW work_mem'),
		'71kB', 'who made room is served again, and has its session');
	all_leave($d1, $d2, $d3);
}

note 'two idle slots of one pool are in the way';
{
	my @d1 = (in('d1'), in('d1'));

	$_->val('BEGIN')  foreach @d1;
	$_->val('COMMIT') foreach @d1;
	my $d3 = wants('d3');
	served($d3, 'd3', 'both idle');
	is($_->val('SELECT 1'), '1', 'the others go on') foreach @d1;
	all_leave(@d1, $d3);
}

note 'all slots are at work when it asks, and idle later';
foreach my $commits (2, 1)
{
	my @busy = (in('d1'), in('d2'));

	$_->val('BEGIN') foreach @busy;
	my $d3 = wants('d3');
	$node->soon(
		q{SELECT waiting FROM pool_status() WHERE role = 'alice' AND database = 'd3'},
		1,
		'd3 waits');
	ok(!$d3->wait_readable(0), 'd3 has nothing while both are at work');
	$busy[$_]->val('COMMIT') foreach 0 .. $commits - 1;
	served($d3, 'd3', "$commits of two have committed");
	is($busy[$_]->val('SELECT 4'), '4', 'the others go on') foreach 0 .. 1;
	$busy[1]->val('COMMIT') if $commits == 1;
	all_leave(@busy, $d3);
}

note 'all slots are pinned when it asks, and one client leaves';
{
	my ($d1, $d2) = (in('d1'), in('d2'));

	$_->val('SELECT pg_advisory_lock(7)') foreach $d1, $d2;
	my $d3 = wants('d3');
	$node->soon(
		q{SELECT waiting FROM pool_status() WHERE role = 'alice' AND database = 'd3'},
		1,
		'd3 waits');
	$d1->reset;
	served($d3, 'd3', 'one of two has left');
	is($d2->val('SELECT pg_advisory_unlock(7)'),
		't', 'the other keeps what it had');
	all_leave($d2, $d3);
}

note 'three pools in turn';
{
	my %client = map { $_ => in($_) } 'd1', 'd2', 'd3';
	my @wrong;

	foreach my $n (1 .. 5)
	{
		foreach my $database (sort keys %client)
		{
			my $value = eval {
				$client{$database}->val('BEGIN; SELECT current_database()');
			} // $@;
			push @wrong, "$n: $value" if $value ne $database;
			$client{$database}->val('COMMIT');
		}
	}
	is(join("\n", @wrong), '', 'each is served each time');
	all_leave(values %client);
}

sub failed
{
	my ($role) = @_;
	return $node->value(
		"SELECT coalesce(sum(failed), 0) FROM pool_status() WHERE role = '$role'"
	);
}

# So many attempts have failed.  They must have come one by one, with delays
# between them, and not have filled the log or kept the worker busy.
sub quiet_failures
{
	my ($name, $role, $count, $from, $ticks) = @_;
	my $failed;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->until(sub { ($failed = failed($role)) >= $count }),
		"$name: tried again");
	cmp_ok($failed, '<', $count + 5, "$name: but not all the time");
	my @lines = grep { /could not open a connection for pool/ }
	  split /\n/, $node->log_since($from);
	cmp_ok(scalar @lines, '>', 0,  "$name: the log says so");
	cmp_ok(scalar @lines, '<', 10, "$name: but not all the time");
	cmp_ok(
		-s $node->logfile,
		'<',
		$from + 100_000,
		"$name: nor anything else");
	cmp_ok(PoolWorker::ticks($node->worker_pid) - $ticks,
		'<', 100, "$name: the worker sleeps in between");
	return;
}

note 'too few files for the slots';
$node->append_conf(
	'postgresql.conf', q{
max_files_per_process = 64
pool_worker.max_slots = 50
pool_worker.pool_size = 40
});
$node->restart;
$node->wait_for_pool;
{
	my $from    = $node->log_end;
	my $ticks   = PoolWorker::ticks($node->worker_pid);
	my @clients = map { $node->client(user => 'alice') } 1 .. 30;

	$_->send(query('BEGIN')) foreach @clients;
	quiet_failures('a pool with slots', 'alice', 4, $from, $ticks);
	my @served  = grep { $_->wait_readable(0) } @clients;
	my @waiting = grep { !$_->wait_readable(0) } @clients;
	cmp_ok(scalar @served,  '>', 4, 'some are served: ' . @served);
	cmp_ok(scalar @waiting, '>', 5, 'others wait: ' . @waiting);
	is(text($_->answer), '', 'in a transaction') foreach @served;

	like(
		$node->attempt('pool', user => 'bob'),
		qr/S=FATAL .*(too many open files|max_files_per_process)/,
		'a pool without slots refuses, and names the cause');
	$served[0]->val('COMMIT');
	while (@waiting)
	{
		my $client;

		# in whatever order they come
		$node->until(
			sub {
				($client) = grep { $_->wait_readable(0) } @waiting;
			}) or last;
		is(text($client->answer),
			'', 'who waits is served by the slots there are');
		$client->val('COMMIT');
		@waiting = grep { $_ != $client } @waiting;
	}
	is(scalar @waiting, 0, 'all of them');
	is($_->val('SELECT 5'), '5', 'and all go on') foreach @clients;
	$_->terminate foreach @clients;
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'all leave');
}

# by TCP from here on, and slots need the Unix socket
note 'no Unix socket';
$node->append_conf(
	'postgresql.conf', q{
unix_socket_directories = ''
max_files_per_process = 1000
});
$node->stop;
$node->{_host} = '127.0.0.1';
$node->start;
$node->wait_for_pool;
{
	my $from  = $node->log_end;
	my $ticks = PoolWorker::ticks($node->worker_pid);

	foreach my $n (1 .. 2)
	{
		my $start = time;

		like(
			$node->attempt('pool', user => 'alice'),
			qr/S=FATAL C=08001 .*no Unix socket.*unix_socket_directories/,
			"client $n is refused, and told why");
		cmp_ok(time - $start, '<', 10, 'soon');
	}
	quiet_failures('no slots', 'alice', 4, $from, $ticks);
	like(
		$node->value(
			q{SELECT string_agg(detail, ' ') FROM pool_check() WHERE NOT ok}),
		qr/unix_socket_directories|Unix socket/,
		'pool_check() says so');
	is( $node->value(
			'SELECT count(*) FROM pool_slots() WHERE pid IS NOT NULL'),
		'0',
		'no slot is there');
	$node->no_leak($node->fd_count($node->worker_pid), 'and');
}
$node->stop;

done_testing();
