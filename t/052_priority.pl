# Copyright (c) pool_worker contributors

# More clients than slots, and some of them matter more.  They must be served
# before all others, in their own order, whoever finds them: the slot that comes
# free, or the worker.  A name that is not on the list must help nobody, nor one
# that is taken after the login.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 1
pool_worker.max_pinned = 0
pool_worker.queue_timeout = 0
pool_worker.queue_notice_after = 0
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE TABLE served (turn serial, who text);
	GRANT ALL ON served TO alice;
	GRANT ALL ON SEQUENCE served_turn_seq TO alice;});

# A client that says which application it is; it is known by a name of its own.
sub connected
{
	my ($name, $application, %params) = @_;
	my $client = $node->client(
		user             => 'alice',
		application_name => $application,
		%params);

	$client->{name} = $name;
	$client->{id}   = $node->value('SELECT max(client) FROM pool_clients()');
	return $client;
}

sub about
{
	my ($client, $columns) = @_;
	return "SELECT $columns FROM pool_clients() WHERE client = $client->{id}";
}

# The only slot is taken, by a transaction.
sub take_slot
{
	my ($holder) = @_;

	$holder->val('BEGIN');
	$node->soon(about($holder, 'state, pin_reason'),
		'pinned|transaction', 'the slot is taken');
	return;
}

# These clients ask, one after the other, and wait.
sub ask_and_wait
{
	foreach my $client (@_)
	{
		$client->send(
			query("INSERT INTO served (who) VALUES ('$client->{name}')"));
		$node->until(
			sub { $node->value(about($client, 'state')) eq 'waiting' })
		  or die "$client->{name} does not wait";
	}
	return;
}

# All of them are answered, in this order.
sub served_in_order
{
	my ($expected, @clients) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$_->answer foreach @clients;
	is( $node->value(
			q{SELECT string_agg(who, ' ' ORDER BY turn) FROM served}),
		$expected->[0],
		$expected->[1]);
	$node->value('TRUNCATE served');
	return;
}

note 'without a list';
{
	my @clients = (
		connected('n1', 'plain'),
		connected('h1', 'vip'),
		connected('n2', 'plain'));
	my $holder = connected('holder', 'plain');

	take_slot($holder);
	ask_and_wait(@clients);
	$holder->val('COMMIT');
	served_in_order([ 'n1 h1 n2', 'first come, first served' ], @clients);
	is($node->value('SELECT DISTINCT priority FROM pool_clients()'),
		'normal', 'nobody has priority');

	note 'the list is for those who log in from now on';
	$node->set(
		'pool_worker.priority_applications' => q{VIP, vip, "My App, too"});
	my $late = connected('h2', 'vip');
	is($node->value(about($clients[1], 'priority')),
		'normal', 'who was there before remains what he was');
	is($node->value(about($late, 'priority')), 'high', 'a new one');
	$node->all_leave(@clients, $holder, $late);
}

note 'names';
{
	my %priority = (
		'vip'         => 'high',
		'VIP'         => 'high',
		'Vip'         => 'normal',
		'vip '        => 'normal',
		'My App, too' => 'high',
		'My App'      => 'normal',
		''            => 'normal');

	foreach my $name (sort keys %priority)
	{
		my $client = connected('?', $name);

		is($node->value(about($client, 'priority')),
			$priority{$name}, "\"$name\" is $priority{$name}");
		$node->all_leave($client);
	}

	my $other = connected('?', 'other');
	$other->val(q{SET application_name = 'vip'});
	$other->val('SELECT 1');
	$node->soon(about($other, 'priority, application'),
		'normal|vip', 'a name taken later does not count');
	my $options = $node->client(
		user    => 'alice',
		options => '-c application_name=vip');
	is( $node->value(
			q{SELECT count(*) FROM pool_clients() WHERE priority = 'high'}),
		1,
		'one in the options does');
	my $nameless = $node->client(user => 'alice');
	is( $node->value(
			q{SELECT priority FROM pool_clients() ORDER BY client DESC LIMIT 1}
		),
		'normal',
		'who gives no name is normal');
	$node->all_leave($other, $options, $nameless);
}

note 'the slot serves them first';
{
	my @normal = map { connected("n$_", 'plain') } 1 .. 3;
	my @high   = map { connected("h$_", 'vip') } 1 .. 3;
	my $holder = connected('holder', 'plain');

	take_slot($holder);
	ask_and_wait(@normal[ 0, 1 ], @high[ 1, 0 ], $normal[2], $high[2]);
	$holder->val('COMMIT');
	served_in_order(
		[ 'h2 h1 h3 n1 n2 n3', 'high first, and both in their order' ],
		@normal, @high);

	# a high client keeps the slot from a high one no longer than others do
	take_slot($high[0]);
	ask_and_wait($normal[0], $high[1]);
	$high[0]->val('COMMIT');
	served_in_order([ 'h2 n1', 'also after one of them' ],
		$normal[0], $high[1]);

	note 'a login goes first as well';
	take_slot($holder);
	$node->value('SELECT pg_advisory_lock(1)');
	$normal[0]->send(query('SELECT pg_advisory_lock(1)'));
	$node->soon('SELECT waiting FROM pool_status()', 1, 'somebody waits');
	my $login = $node->raw('pool');
	$login->send_startup(
		user             => 'alice',
		database         => 'postgres',
		application_name => 'vip');
	$node->soon('SELECT waiting FROM pool_status()', 2, 'it waits, too');
	$holder->val('COMMIT');
	ok($login->finish_startup,
		'it is let in before the other keeps the slot');
	$node->value('SELECT pg_advisory_unlock(1)');
	$normal[0]->answer;
	$node->all_leave(@normal, @high, $holder, $login);
}

note 'the worker gives them their slot first';
{
	my @normal = map { connected("n$_", 'plain') } 1 .. 2;
	my $high   = connected('h1',     'vip');
	my $holder = connected('holder', 'plain');

	$node->value('SELECT pool_pause()');
	ask_and_wait(@normal, $high);
	$node->value('SELECT pool_resume()');
	served_in_order([ 'h1 n1 n2', 'one that sleeps' ], @normal, $high);

	take_slot($holder);
	ask_and_wait(@normal, $high);
	$node->value(
		q{SELECT pg_terminate_backend(pid, 20000) FROM pool_slots() WHERE role = 'alice'}
	);
	served_in_order([ 'h1 n1 n2', 'a slot that was opened for all of them' ],
		@normal, $high);
	$holder->read_to_end;
	$node->all_leave(@normal, $high);
}

note 'who is refused first';
$node->set('pool_worker.max_waiting' => 2);
{
	my @normal = map { connected("n$_", 'plain') } 1 .. 2;
	my $high   = connected('h1',     'vip');
	my $holder = connected('holder', 'plain');

	take_slot($holder);
	ask_and_wait(@normal);
	$high->send(query(q{INSERT INTO served (who) VALUES ('h1')}));
	like(
		$normal[1]->answer->{error}{M},
		qr/^too many clients are waiting/,
		'a normal client, though it was there before');
	$holder->val('COMMIT');
	served_in_order([ 'h1 n1', 'the others are served' ], $normal[0], $high);
	$node->all_leave($normal[0], $high, $holder);
}
$node->set('pool_worker.max_waiting' => undef);

note 'a role with priority';
{
	my $alice = connected('a', 'plain');
	my $bob   = connected('b', 'plain', user => 'bob');

	$node->value(q{ALTER ROLE bob SET pool_worker.priority = 'high'});
	$node->soon(about($bob, 'priority'), 'high', 'at once');
	is($node->value(about($alice, 'priority')), 'normal', 'not for others');
	$node->value('ALTER ROLE bob RESET pool_worker.priority');
	$node->soon(about($bob, 'priority'), 'normal', 'and back');
	is($bob->sqlstate(q{SET pool_worker.priority = 'high'}),
		'42501', 'nobody gives it to himself');
	$node->all_leave($alice, $bob);
}

# Silent ones, too, and those that come and go: nobody is forgotten in either
# queue, in either kind of switching.
foreach my $always ('off', 'on')
{
	note "many of both, debug_always_switch = $always";
	$node->set(
		'pool_worker.pool_size'           => 2,
		'pool_worker.debug_always_switch' => $always);
	my @clients =
	  map { connected("c$_", $_ % 3 ? 'plain' : 'vip') } 1 .. 24;
	my %rounds;
	my @wrong;
	my $ask = sub {
		$_[0]->send(query("SELECT '$_[0]->{name}' FROM pg_sleep(0.001)"));
	};

	$ask->($_) foreach @clients[ 0 .. 17 ];
	my @unfinished = PoolWorker::Wire->pump(
		[ @clients[ 0 .. 17 ] ],
		sub {
			my ($client, $answer) = @_;
			my $text = eval { text($answer) } // $@;

			push @wrong, "$client->{name}: $text" if $text ne $client->{name};
			return 0 if ++$rounds{ $client->{name} } == 30;
			$ask->($client);
			return 1;
		},
		60);
	is(scalar @unfinished,  0,   'everybody is served');
	is(join("\n", @wrong),  '',  'and hears its own answers');
	is($_->val('SELECT 1'), '1', 'the silent ones, too')
	  foreach @clients[ 18 .. 23 ];
	$_->reset foreach @clients[ 0 .. 11 ];
	$node->all_leave(@clients[ 12 .. 23 ]);
}

$node->no_leak($node->fd_count($node->worker_pid), 'in the end');
$node->stop;
done_testing();
