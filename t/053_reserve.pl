# Copyright (c) pool_worker contributors

# A pool whose slots are all taken, by transactions that do not end.  Who has
# high priority must get through, in the slots of the reserve, and nobody else
# must; the reserve must be there when it may be needed, and go when it is not.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 5
pool_worker.queue_timeout = 0
pool_worker.queue_notice_after = 0
pool_worker.priority_applications = 'vip'
pool_worker.reserve_threshold = 80
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	GRANT TEMPORARY ON DATABASE postgres TO alice;});

sub plain
{
	return $node->client(user => 'alice', application_name => 'plain');
}
sub vip { return $node->client(user => 'alice', application_name => 'vip'); }

sub status
{
	my ($columns) = @_;
	return qq{SELECT $columns FROM pool_status() WHERE role = 'alice'};
}

# So many clients, each of which blocks a slot in a transaction.
sub blockers
{
	my ($n) = @_;
	my @blockers = map { plain() } 1 .. $n;

	foreach my $blocker (@blockers)
	{
		$blocker->val('BEGIN');
		$blocker->send(query('SELECT pg_sleep(1000)'));
	}
	return @blockers;
}

sub unblock
{
	foreach my $blocker (@_)
	{
		$blocker->cancel;
		$blocker->answer;
		$blocker->val('ROLLBACK');
	}
	return;
}

note 'no reserve';
{
	my @blockers = blockers(5);
	my $vip      = $node->raw('pool');

	$vip->send_startup(
		user             => 'alice',
		database         => 'postgres',
		application_name => 'vip');
	$node->soon(status('waiting, slots, reserve'),
		'1|5|0', 'who has priority waits');
	unblock($blockers[0]);
	$vip->finish_startup;
	is($vip->val('SELECT 1'), '1', 'until there is a slot');
	unblock(@blockers[ 1 .. 4 ]);
	$node->all_leave(@blockers, $vip);
}

note 'an exhausted pool';
$node->value('ALTER ROLE alice SET pool_worker.reserve_pool_size = 2');
{
	my @early    = (plain(), vip());
	my @blockers = blockers(5);

	$early[0]->send(query('SELECT 2'));
	$node->soon(status('waiting'), '1', 'a normal client waits');
	my $vip = vip();
	is($vip->val('SELECT 3'),      '3', 'a new one with priority is served');
	is($early[1]->val('SELECT 4'), '4', 'and one that was there');
	$node->soon(status('slots, reserve, utilization, active'),
		'7|2|100|5', 'the reserve is open, beyond pool_size');
	is( $node->value(
			q{SELECT reserve, count(*) FROM pool_slots() GROUP BY 1 ORDER BY 1}
		),
		"f|5\nt|2",
		'and can be told from the others');
	$node->soon(status('waiting'), '1', 'the normal one still waits');

	# now the reserve is taken as well
	$_->val('BEGIN') foreach $vip, $early[1];
	my $third = $node->raw('pool');
	$third->send_startup(
		user             => 'alice',
		database         => 'postgres',
		application_name => 'vip');
	$node->soon(status('waiting, slots'), '2|7', 'there is no more of it');
	$vip->val('COMMIT');
	$third->finish_startup;
	is($third->val('SELECT 5'), '5', 'its next slot is for the next of them');
	$node->soon(status('waiting'), '1', 'and not for the normal one');
	$early[1]->val('COMMIT');
	ok(!$early[0]->wait_readable(0), 'who has nothing yet');
	unblock($blockers[0]);
	is(text($early[0]->answer), '2', 'until an ordinary slot is free');

	note 'a slot that is free is taken before the reserve';
	is( $vip->val(
			'SELECT reserve FROM pool_slots() WHERE pid = pg_backend_pid()'),
		'f',
		'an ordinary one');
	$node->soon(
		q{SELECT count(*) FROM pool_slots() WHERE reserve AND client IS NOT NULL},
		0,
		'the reserve keeps nobody');
	unblock(@blockers[ 1 .. 4 ]);
	$node->all_leave(@early, @blockers, $vip, $third);
}

note 'the worker replaces a slot that is lost';
{
	my @blockers = blockers(5);
	my $vip      = vip();

	$node->soon(status('reserve'), 2, 'the reserve is open');
	$vip->send(query('SELECT pg_sleep(1000)'));
	$node->soon(
		q{SELECT count(*) FROM pool_slots() WHERE reserve AND state = 'active'},
		1,
		'and used');
	$node->value(
		q{SELECT pg_terminate_backend(pid, 20000) FROM pool_slots() WHERE reserve}
	);
	$node->soon(status('slots, reserve'), '7|2', 'it comes back');
	$vip->read_to_end;
	my $another = vip();
	is($another->val('SELECT 6'), '6', 'and serves');
	unblock(@blockers);
	$node->all_leave(@blockers, $another);
}

# From here on in the configuration: a change of the role would replace the slots.
note 'when it opens, and when it closes';
$node->set('pool_worker.reserve_pool_size' => 2);
$node->value('ALTER ROLE alice RESET ALL');
$node->value('ALTER ROLE alice SET pool_worker.slot_idle_timeout = 1');
$node->soon(status('slots'), 0, 'all slots close after a while');
{
	my @blockers = blockers(3);

	$node->soon(status('active, utilization'), '3|60', 'not enough in use');
	$node->reload_and_wait;
	is($node->value(status('slots, reserve')), '3|0', 'no reserve');

	push @blockers, blockers(1);
	$node->soon(status('slots, reserve, utilization'),
		'6|2|80', 'enough in use: it opens before anybody needs it');
	$node->soon(
		q{SELECT bool_and(clock_timestamp() - since > '1.5 s') FROM pool_slots() WHERE reserve},
		't',
		'it is idle for longer than slot_idle_timeout');
	$node->reload_and_wait;
	is($node->value(status('reserve')),
		'2', 'it stays while it may be needed');

	unblock($blockers[3]);
	$node->soon(status('slots, reserve'),
		'3|0', 'less in use: it closes, and so does the slot that is free');
	$node->set('pool_worker.reserve_threshold' => 60);
	$node->soon(status('slots, reserve'), '5|2', 'another threshold');
	$node->set('pool_worker.reserve_pool_size' => 1);
	$node->soon(status('slots, reserve'), '4|1', 'a smaller reserve');
	$node->set('pool_worker.reserve_pool_size' => undef);
	$node->soon(status('slots, reserve'), '3|0', 'none');
	unblock(@blockers[ 0 .. 2 ]);
	$node->all_leave(@blockers);
	$node->set('pool_worker.reserve_threshold' => undef);
}

note 'a pool with priority';
$node->value('ALTER ROLE alice RESET ALL');
$node->set('pool_worker.reserve_pool_size' => 1);
{
	my @blockers = blockers(5);
	my $waiter   = $node->raw('pool');

	$waiter->send_startup(user => 'alice', database => 'postgres');
	$node->soon(status('waiting, slots, reserve'),
		'1|6|1', 'the reserve is open, and not for everybody');
	$node->set('pool_worker.priority' => 'high');
	$waiter->finish_startup;
	is($waiter->val('SELECT 7'), '7', 'until the pool has priority');
	is($waiter->val('SELECT 8'), '8', 'again');
	$node->set('pool_worker.priority' => undef);
	$node->soon(
		q{SELECT DISTINCT priority FROM pool_clients() WHERE role = 'alice'},
		'normal',
		'then it has not any more');
	$waiter->send(query('SELECT 9'));
	$node->soon(status('waiting'), 1, 'and they wait again');
	unblock(@blockers);
	is(text($waiter->answer), '9', 'for an ordinary slot');
	$node->all_leave(@blockers, $waiter);
}

note 'a reserve that never rests goes as well';
{
	my @blockers = blockers(5);
	my $script   = $node->basedir . '/busy.sql';

	append_to_file($script, 'SELECT pg_sleep(0.02);');
	my $vips = IPC::Run::start(
		[
			'pgbench',
			'-n', '-c', 16, '-T',
			$PoolWorker::timeout,
			'-f', $script,
			$node->pool_connstr(
				'postgres',
				user             => 'alice',
				application_name => 'vip')
		],
		'>&',
		\my $output);
	$node->soon('SELECT transactions > 20 FROM pool_slots() WHERE reserve',
		't', 'it is busy');
	$node->set('pool_worker.reserve_pool_size' => undef);
	$node->soon(status('reserve'), 0,
		'when it is taken away it ends between two transactions');
	unblock(@blockers);
	$vips->kill_kill;
	$node->set('pool_worker.reserve_pool_size' => 1);
	$node->all_leave(@blockers);
}

note 'what is pinned beside pool_size does not count as use';
{
	$node->value(q{ALTER ROLE alice SET work_mem = '5MB'});
	$node->soon(status('slots'), 0, 'all slots close');
	my @pinned = map { plain() } 1 .. 4;

	$_->val('CREATE TEMPORARY TABLE mine ()') foreach @pinned;
	$node->soon(status('pinned, pinned_sessions, utilization'),
		'4|4|0', 'four are pinned');
	$node->reload_and_wait;
	is($node->value(status('reserve')), '0', 'no reserve is opened');
	$node->all_leave(@pinned);
}

$node->stop;
done_testing();
