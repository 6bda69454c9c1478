# Copyright (c) pool_worker contributors

# Clients that have to wait for a slot, because others have them all.  Each must
# be told after the time set for that, refused after its own, and neither a
# moment earlier nor if it has not been waiting; the others keep their turn.

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
pool_worker.pool_size = 1
pool_worker.max_pinned = 0
pool_worker.queue_timeout = 0
pool_worker.queue_notice_after = 0
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE cold LOGIN;
	CREATE TABLE served (turn xid8 DEFAULT pg_current_xact_id(), who text);
	GRANT ALL ON served TO alice;
	GRANT TEMPORARY ON DATABASE postgres TO alice;});

my $queue_message =
  'a connection slot of pool "postgres/alice"';    # ends each message
my $serial = 0;

sub status
{
	my ($columns) = @_;
	return qq{SELECT $columns FROM pool_status() WHERE role = 'alice'};
}

sub about { return PoolWorker::about(@_); }

# A client with a name, greeted, so that it is seen in pool_clients().
sub connected
{
	my $name   = 'client' . ++$serial;
	my $client = $node->client(user => 'alice', application_name => $name);

	$client->{name} = $name;
	return $client;
}

# The only slot is taken, by a transaction.
sub holder
{
	my $holder = connected();

	$holder->val('BEGIN');
	$node->soon(about($holder, 'state, pin_reason'),
		'pinned|transaction', 'the slot is taken');
	return $holder;
}

# These clients ask for something, one after the other, and wait.
sub ask_and_wait
{
	my ($sql, @clients) = @_;

	foreach my $client (@clients)
	{
		$client->send(query($sql =~ s/\$name/$client->{name}/r));
		$node->until(
			sub { $node->value(about($client, 'state')) eq 'waiting' })
		  or die "$client->{name} does not wait";
	}
	return;
}

# It has been waiting for so many seconds by the server's own clock.
sub has_waited
{
	my ($client, $seconds) = @_;
	my $waits = about($client,
		"state = 'waiting' AND clock_timestamp() - since > interval '$seconds s'"
	);

	return $node->until(sub { $node->value($waits) eq 't' });
}

# How often a process has gone to sleep, and woken again.
sub wakeups
{
	my ($pid)   = @_;
	my ($count) = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~
	  /^voluntary_ctxt_switches:\s+(\d+)/m;

	return $count;
}

sub all_leave
{
	$_->terminate foreach @_;
	$node->soon('SELECT count(*) FROM pool_clients()', 0,     'all leave');
	$node->soon(status('waiting, waiting_for'),        '0|0', 'nobody waits');
	return;
}

note 'queue_timeout';
$node->set('pool_worker.queue_timeout' => '300ms');
{
	my $from   = $node->log_end;
	my $silent = connected();
	my $waiter = connected();
	my $holder = holder();

	my $start = time;
	$waiter->send(query('SELECT 1'));
	my $error = $waiter->answer->{error};
	cmp_ok(time - $start, '>=', 0.3, 'not refused before its time');
	is( "$error->{S} $error->{C} $error->{M}",
		"FATAL 53300 timed out waiting for $queue_message",
		'who waits for too long is refused');
	is( $error->{D},
		'Clients waiting: 1.  Slots: 1 of at most 1 (active: 0, opening: 0, idle in transaction: 1, pinned: 0).',
		'and told what the slots do');
	like(
		$error->{H},
		qr/transactions open.*pool_worker\.pool_size/,
		'and what to do');
	ok($waiter->at_end, 'the connection is closed');
	$node->logged(
		qr/LOG:  pool client refused: timed out waiting for $queue_message\n.*DETAIL:  Client \d+ at \[local\] has waited for 3\d\d ms.  Clients waiting: 1/,
		$from,
		'and the log says so');

	$start = time;
	like(
		$node->attempt('pool', user => 'alice'),
		qr/^S=FATAL C=53300 M=timed out waiting for $queue_message D=.*Clients waiting: 1/,
		'so is who waits for its login');
	cmp_ok(time - $start, '>=', 0.3, 'not before its time');

	is($node->value(about($silent, 'state, last_wait < 300')),
		'parked|t', 'who says nothing does not wait');
	is($holder->val('SELECT 2; COMMIT'), '2', 'the transaction goes on');
	is($silent->val('SELECT 3'), '3', 'and then the silent one is served');
	$node->soon(status('turned_away, longest_wait >= 300, wait_time >= 600'),
		'2|t|t', 'waits are counted');
	all_leave($holder, $silent);
}

note 'a wait that is shorter';
$node->set('pool_worker.queue_timeout' => '3s');
{
	my $waiter = connected();
	my $holder = holder();

	# together they are longer
	foreach my $n (1 .. 3)
	{
		my $start = time;
		ask_and_wait('SELECT 4', $waiter);
		my $asked = time;
		ok(has_waited($waiter, 1.2), "waits, time $n");
		my $let_go = time;
		$holder->val('COMMIT');
		is(text($waiter->answer), '4', 'and is served');
		my $most  = int((time - $start) * 1000) + 1;
		my $least = int(($let_go - $asked) * 1000) - 10;
		is( $node->value(
				about($waiter, "last_wait BETWEEN $least AND $most")),
			't',
			'its wait is known');
		$holder->val('BEGIN');
	}
	is($node->value(status('turned_away')), '2', 'nobody was refused');
	$holder->val('COMMIT');
	all_leave($holder, $waiter);
}

note 'no queue_timeout, and one that comes into force';
$node->set('pool_worker.queue_timeout' => '0');
{
	my $waiter  = connected();
	my $patient = connected();
	my $holder  = holder();

	ask_and_wait('SELECT 5', $patient);
	ok(has_waited($patient, 1), 'waits for ever');
	is($node->value(status('waiting, waiting_for > 1000')),
		'1|t', 'and everybody can see it');
	$holder->val('COMMIT');
	is(text($patient->answer), '5', 'until it is served');
	$holder->val('BEGIN');
	ask_and_wait('SELECT 6', $waiter);
	ok(has_waited($waiter, 0.5), 'another one waits');
	$node->set('pool_worker.queue_timeout' => '400ms');
	like($waiter->answer->{error}{M},
		qr/^timed out/,
		'a shorter limit is for those, too, who have begun to wait');
	$holder->val('COMMIT');
	all_leave($holder, $patient);
}

note 'what the slots do, in words';
$node->set('pool_worker.queue_timeout' => '200ms');
{
	my ($waiter, $holder) = (connected(), connected());

	$holder->send(query('SELECT pg_sleep(1000)'));
	$node->soon(status('active'), '1', 'a long statement');
	my $error = $node->attempt('pool', user => 'alice');
	like($error,
		qr/\(active: 1, opening: 0, idle in transaction: 0, pinned: 0\)/,
		'active');
	like($error, qr/H=.*pool_size.*queue_timeout/, 'the hint for that');
	$holder->cancel;
	$holder->answer;

	$holder->val('CREATE TEMPORARY TABLE mine AS SELECT 1');
	$node->soon(about($holder, 'state'), 'pinned', 'a pinned session');
	$error = $node->attempt('pool', user => 'alice');
	like(
		$error,
		qr/\(active: 0, opening: 0, idle in transaction: 0, pinned: 1 by temporary objects 1\)/,
		'pinned');
	like($error, qr/H=.*pins.*pool_worker.max_pinned/, 'the hint for that');
	$holder->val('DROP TABLE mine');
	all_leave($holder, $waiter);
}

note 'who hangs up while waiting';
$node->set('pool_worker.queue_timeout' => '0');
{
	my ($gone, $shut, $stays) = map { connected() } 1 .. 3;
	my $holder = holder();
	my $login  = $node->raw('pool');

	ask_and_wait('SELECT 7', $stays);
	$login->send_startup(user => 'alice', database => 'postgres');
	$node->soon(status('waiting, clients'), '2|5', 'two wait');
	$login->reset;
	$gone->reset;
	$shut->terminate;
	$node->soon(status('waiting, clients'),
		'1|2', 'those who have left do so without a slot');
	$holder->val('COMMIT');
	is(text($stays->answer), '7', 'who has stayed is served');
	all_leave($holder, $stays);
}

note 'a cancel request for a command that waits';
{
	my $client = connected();
	my $holder = holder();

	ask_and_wait(q{INSERT INTO served (who) VALUES ('canceled')}, $client);
	$client->cancel;
	my $answer = $client->answer;
	is( "$answer->{error}{C} $answer->{error}{M}",
		'57014 canceling statement due to user request',
		'is heard before there is a slot');
	$node->soon(about($client, 'state'), 'parked', 'who does not wait then');

	# an extended query, up to its Sync; what is behind it waits on
	$client->send(
		PoolWorker::Wire::msg_extended(
			q{INSERT INTO served (who) VALUES ('canceled')})
		  . query('SELECT 8'));
	$node->soon(about($client, 'state'), 'waiting', 'two commands wait');
	$client->cancel;
	is($client->answer->{error}{C}, '57014', 'the first is canceled');
	$node->soon(about($client, 'state'), 'waiting', 'the second waits on');
	$holder->val('COMMIT');
	is(text($client->answer), '8', 'and is carried out');
	is($client->val(q{SELECT count(*) FROM served WHERE who = 'canceled'}),
		'0', 'those that were canceled have not been');

	# half a command, or none
	$holder->val('BEGIN');
	my $half = query('SELECT 9');
	$client->cancel;
	$client->send(substr($half, 0, 7));
	$node->soon(about($client, 'state'), 'waiting', 'half of one waits');
	$client->cancel;
	$client->send(substr($half, 7));
	$holder->val('COMMIT');
	is(text($client->answer),     '9',  'nothing else is canceled');
	is($client->val('SELECT 10'), '10', 'not later, either');
	all_leave($holder, $client);
}

note 'queue_notice_after';
$node->set('pool_worker.queue_notice_after' => '200ms');
{
	my ($waiter, $quick) = (connected(), connected());
	my $holder = holder();
	my $start  = time;

	$waiter->send(query('SELECT 8'));
	my $notice = $waiter->read;
	cmp_ok(time - $start, '>=', 0.2, 'no notice before its time');
	is($notice->[0], 'N', 'who waits gets a notice');
	is( join('|', @{ $waiter->{notices}[0] }{qw(S V C M)}),
		"NOTICE|NOTICE|00000|waiting for $queue_message",
		'that says so');
	like(
		$waiter->{notices}[0]{D},
		qr/^Clients waiting: 1\.  Slots: 1 of at most 1 \(/,
		'and what the slots do');
	my $login = $node->raw('pool');
	$login->send_startup(user => 'alice', database => 'postgres');
	is($login->read->[0], 'R', 'who waits for its login first hears');
	is($login->read->[0], 'N', 'that it has one, then that it has to wait');
	ok(has_waited($waiter, 1), 'they go on waiting');
	$holder->val('COMMIT');
	is(text($waiter->answer), '8', 'until they are served');
	my $types = '';
	$types .= $login->read->[0] while $types !~ /Z$/;
	like($types, qr/^S+KZ$/, 'both of them');
	is($login->val('SELECT 9'), '9', 'and are clients like others');
	is(join('|', map { scalar @{ $_->{notices} } } $waiter, $login),
		'1|1', 'they had one notice each');
	$holder->val('BEGIN');
	ask_and_wait('SELECT 10', $waiter);
	ok(has_waited($waiter, 0.5), 'the next wait');
	$holder->val('COMMIT');
	is(text($waiter->answer),          '10', 'ends like the first');
	is(scalar @{ $waiter->{notices} }, 2,    'with a notice of its own');

	$node->set('pool_worker.queue_notice_after' => '20s');
	$holder->val('BEGIN');
	ask_and_wait('SELECT 11', $quick);
	ok(has_waited($quick, 0.5), 'a wait that is shorter');
	$holder->val('COMMIT');
	is(text($quick->answer),          '11', 'ends');
	is(scalar @{ $quick->{notices} }, 0,    'without a notice');

	my $remote = $node->client(user => 'alice', host => '127.0.0.1');
	$node->set(
		'pool_worker.queue_notice_after' => '100ms',
		'pool_worker.queue_timeout'      => '300ms');
	$holder->val('BEGIN');
	like($remote->ask('SELECT 12')->{error}{M},
		qr/^timed out/, 'a client by TCP waits in vain');
	is(scalar @{ $remote->{notices} }, 1, 'with a notice before that');
	$node->set('pool_worker.queue_timeout' => '0');
	$holder->val('COMMIT');
	all_leave($holder, $waiter, $quick, $login);
}

note 'a notice does not cost a client its turn';
$node->set('pool_worker.queue_notice_after' => '50ms');
{
	my @waiters = map { connected() } 1 .. 6;
	my $holder  = holder();

	ask_and_wait(q{INSERT INTO served (who) VALUES ('$name')}, @waiters);
	is($_->read->[0], 'N', 'all have been told') foreach @waiters;
	$holder->val('COMMIT');
	text($_->answer) foreach @waiters;
	is( $node->value(
			q{SELECT string_agg(who, ' ' ORDER BY turn) FROM served}),
		join(' ', map { $_->{name} } @waiters),
		'and are served in the order in which they came');
	all_leave($holder, @waiters);
}

note 'max_waiting';
$node->set(
	'pool_worker.queue_notice_after' => '0',
	'pool_worker.max_waiting'        => '2');
{
	my ($first, $second, $third, $silent) = map { connected() } 1 .. 4;
	my $holder = holder();
	my $before = $node->value(status('turned_away'));

	ask_and_wait('SELECT 12', $first, $second);
	$third->send(query('SELECT 12'));
	my $error = $third->answer->{error};
	is( "$error->{S} $error->{C} $error->{M}",
		"FATAL 53300 too many clients are waiting for $queue_message",
		'one too many is refused at once');
	like($error->{D}, qr/^Clients waiting: 3\./, 'and told how many wait');
	like(
		$node->attempt('pool', user => 'alice'),
		qr/^S=FATAL C=53300 M=too many clients are waiting/,
		'who logs in as well');
	is($node->value(status("waiting, turned_away - $before")),
		'2|2', 'as many as may wait do');
	$holder->val('COMMIT');
	is(text($_->answer), '12', 'and are served') foreach $first, $second;

	$holder->val('BEGIN');
	ask_and_wait('SELECT 13', $silent, $second);
	$node->set('pool_worker.max_waiting' => '1');
	like($second->answer->{error}{M},
		qr/^too many/, 'under a lower limit the last one has to go');
	$holder->val('COMMIT');
	is(text($silent->answer), '13', 'and not the first');
	all_leave($holder, $first, $silent);

	# a slot that is being opened is not one that others have
	$node->set('pool_worker.max_waiting' => '0');
	my $cold = $node->client(user => 'cold');
	$cold->val('BEGIN');
	like(
		$node->attempt('pool', user => 'cold'),
		qr/too many clients/,
		'nobody may wait for others');
	$cold->val('COMMIT');
	$cold->terminate;
	$node->set('pool_worker.max_waiting' => undef);
}

note 'long after somebody has waited';
$node->set('pool_worker.queue_timeout' => '200ms');
{
	my $waiter = connected();
	my $holder = holder();

	like($node->attempt('pool', user => 'alice'),
		qr/timed out/, 'somebody waits, while all slots are taken');
	$node->soon(status('waiting'), '0', 'then nobody does');
	my $wakeups = wakeups($node->worker_pid);
	$node->value('SELECT pg_sleep(1)');
	cmp_ok(wakeups($node->worker_pid) - $wakeups,
		'<', 60, 'and the worker sleeps');
	like($waiter->ask('SELECT 14')->{error}{M},
		qr/timed out/, 'until somebody waits again');
	$holder->val('COMMIT');
	all_leave($holder);
}

note 'many wait, and are told so all the time';
$node->set(
	'pool_worker.pool_size'          => '2',
	'pool_worker.queue_timeout'      => '0',
	'pool_worker.queue_notice_after' => '1ms');
{
	my @clients = map { connected() } 1 .. 60;
	my %rounds;
	my @wrong;

	# each answer is its own, whole, and followed by nothing but notices
	my $ask = sub {
		$_[0]->send(query("SELECT '$_[0]->{name}' FROM pg_sleep(0.001)"));
	};
	$ask->($_) foreach @clients;
	my @unfinished = PoolWorker::Wire->pump(
		\@clients,
		sub {
			my ($client, $answer) = @_;
			my $text = eval { text($answer) } // $@;

			push @wrong, "$client->{name}: $text"
			  if $text ne $client->{name} || $answer->{types} ne 'TDCZ';
			return 0 if ++$rounds{ $client->{name} } == 50;
			$ask->($client);
			return 1;
		},
		60);
	is(scalar @unfinished, 0,  'everybody is served');
	is(join("\n", @wrong), '', 'and hears nothing but its own answers');
	my $notices = 0;
	$notices += @{ $_->{notices} } foreach @clients;
	cmp_ok($notices, '>', 100, "beside notices: $notices");
	all_leave(@clients);
}

$node->stop;
done_testing();
