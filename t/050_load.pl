# Copyright (c) pool_worker contributors

# Load, by pgbench and by clients that behave at random: each client gets all of
# its own answers, none hangs, the counters add up to what was done, and nothing
# is left when they have gone.  The seed of a run is printed; set
# POOL_WORKER_TEST_SEED to repeat it.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query);
use Test::More;
use Time::HiRes qw(time);

my $node = PoolWorker->new('main')->setup(
	conf => 'pool_worker.pool_size = 4',
	sql  => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bench LOGIN;
	CREATE TABLE done (client int, n int);
	GRANT ALL ON done TO alice;
	GRANT CREATE ON SCHEMA public TO bench;});
my $seed = $ENV{POOL_WORKER_TEST_SEED} || time ^ $$;

srand $seed;
note "seed $seed";

# A number of the pool of a role.
sub number
{
	my ($column, $role) = @_;
	return $node->value(
		"SELECT coalesce(sum($column), 0) FROM pool_status() WHERE role = '$role'"
	);
}

note 'pgbench';
$node->command_ok(
	[
		'pgbench',        '-i', '-q',        '-U',
		'bench',          '-h', $node->host, '-p',
		$node->pool_port, 'postgres'
	],
	'pgbench makes its tables through the pool');
foreach my $case (
	[ 'select only, simple',                64, 100, '-S', '-M', 'simple' ],
	[ 'select only, extended',              64, 50,  '-S', '-M', 'extended' ],
	[ 'transactions of several statements', 32, 20,  '-N', '-M', 'simple' ],
	[ 'prepared statements',                64, 50,  '-S', '-M', 'prepared' ],
	# each has its own thread, because pgbench waits for PREPARE with the thread,
	# also when the slots are held by other clients of that
	[
		'transactions of prepared statements',
		32, 20, '-N', '-M', 'prepared', '-j', 32
	],
	[ 'a new connection for each transaction', 8, 20, '-S', '-C' ])
{
	my ($name, $clients, $transactions, @options) = @$case;
	my $before = number('transactions', 'bench');
	my ($out, $err) = ('', '');
	my $wanted = $clients * $transactions;
	my $ok     = eval {
		IPC::Run::run(
			[
				'pgbench',        '-n',
				'-j',             2,
				'-c',             $clients,
				'-t',             $transactions,
				@options,         '-U',
				'bench',          '-h',
				$node->host,      '-p',
				$node->pool_port, 'postgres'
			],
			'>',
			\$out,
			'2>',
			\$err,
			IPC::Run::timeout(2 * $PoolWorker::timeout));
	};

	ok($ok, "$name: no failure") or diag($err, $@);
	like(
		$out,
		qr/actually processed: $wanted\/$wanted/,
		"$name: all transactions are done");
	$node->soon('SELECT count(*) FROM pool_clients()',
		0, "$name: nobody is left");
	my $counted = number('transactions', 'bench') - $before;
	cmp_ok($counted, '>=', $wanted,
		"$name: counted $counted of $wanted and pgbench's own few");
	cmp_ok($counted, '<=', $wanted + 2 * $clients + 20,
		"$name: and not more");
	cmp_ok(number('slots', 'bench'), '<=', 4, "$name: within the limit");
}

note 'two hundred clients that behave at random';
my $number    = 200;
my $rounds    = 20;
my %finished  = (transactions => 0, logins => 0);
my $committed = 0;
my (%wrong, @thinking);
my $worker = $node->worker_pid;

# all slots first, because the worker has a descriptor for each
my @first = map { $node->client(user => 'alice') } 1 .. 4;
$_->val('BEGIN') foreach @first;
$_->terminate foreach @first;
$node->soon('SELECT count(*) FROM pool_clients()', 0, 'four slots are open');
my $fds = $node->fd_count($worker);

# What a client may do: bytes to send, how many answers come, and what the last
# of them is (a value, or an SQLSTATE).
my @deeds = (
	sub { my ($tag) = @_; return (query("SELECT '$tag'"), 1, $tag, 1); },
	sub {
		my ($tag) = @_;
		return (PoolWorker::Wire::msg_extended('SELECT $1', $tag), 1, $tag,
			1);
	},
	sub {
		my ($tag) = @_;
		return (query('BEGIN') . query("SELECT '$tag'") . query('COMMIT'),
			3, undef, 1);
	},
	sub {
		my ($tag) = @_;
		return (query("BEGIN; SELECT '$tag'; COMMIT"), 1, $tag, 1);
	},
	sub { return (query('SELECT 1/0'), 1, '22012', 1); },
	sub {
		my ($tag, $client) = @_;
		return (
			query(
				"INSERT INTO done VALUES ($client->{number}, $client->{round}) RETURNING '$tag'"
			),
			1, $tag, 1);
	},
	sub {
		my ($tag) = @_;
		return (query("SELECT '$tag' || repeat('x', 50000)"),
			1, $tag . 'x' x 50000, 1);
	},
	sub { my ($tag) = @_; return (query("SELECT '$tag'") x 7, 7, $tag, 7); },
);

sub say_hello
{
	my ($number, $round) = @_;
	my $client = $node->raw('pool', $number % 2 ? (host => '127.0.0.1') : ());

	@$client{qw(number round expected answers done)} =
	  ($number, $round, undef, 1, 0);
	$client->{hello} = 1;
	$client->send_startup(user => 'alice', database => 'postgres');
	return $client;
}

sub act
{
	my ($client) = @_;
	my $tag = "client $client->{number} round $client->{round}";
	my ($bytes, $answers, $expected, $transactions) =
	  $deeds[ rand @deeds ]->($tag, $client);

	@$client{qw(answers expected transactions)} =
	  ($answers, $expected, $transactions);
	$committed++ if $bytes =~ /INSERT/;
	return $client->send($bytes);
}

# One complete answer.  False if the client has nothing more to do, or is to be
# connected again.
sub answered
{
	my ($client, $answer) = @_;

	if ($answer->{lost})
	{
		$wrong{"client $client->{number}"} = 'lost: ' . $client->error_text;
		return 0;
	}
	return 1 if --$client->{answers} > 0;
	if (delete $client->{hello})
	{
		$finished{logins}++;
	}
	else
	{
		my $got =
		  $answer->{error} ? $answer->{error}{C} : $answer->{rows}[0][0];

		$wrong{"client $client->{number} in round $client->{round}"} = $got
		  // 'nothing'
		  if defined $client->{expected}
		  && ($got // '') ne $client->{expected};
		$client->{done} += $client->{transactions};
		$finished{transactions} += $client->{transactions};
		$client->{round}++;
	}
	return 0                        if $client->{round} >= $rounds;
	return leave_at_random($client) if rand(10) < 1;
	return think($client)           if rand(4) < 1;
	return act($client);
}

# Rude or polite, in the middle of something or not.
sub leave_at_random
{
	my ($client) = @_;

	$client->send(query('BEGIN; SELECT pg_advisory_xact_lock(1)'))
	  if rand(3) < 1;
	rand(2) < 1 ? $client->reset : $client->terminate;
	$client->{again} = 1;
	return 0;
}

# Say nothing until others have been served.
sub think
{
	my ($client) = @_;

	push @thinking, $client;
	if (@thinking > 40)
	{
		my ($awake) = splice @thinking, rand @thinking, 1;
		act($awake);
	}
	return 1;
}

my @clients = map { say_hello($_, 0) } 1 .. $number;
my @alive;
my $deadline = time + 4 * $PoolWorker::timeout;
while (@clients && time < $deadline)
{
	PoolWorker::Wire->pump(\@clients, \&answered, 0.05);
	push @alive, grep { $_->{sock} && $_->{round} >= $rounds } @clients;
	@clients = map { $_->{again} ? say_hello($_->{number}, $_->{round}) : $_ }
	  grep { $_->{round} < $rounds && ($_->{sock} || $_->{again}) } @clients;
	act($_) foreach splice @thinking;
	last if %wrong;
}
is(scalar @clients, 0, 'nobody hangs');
is_deeply(\%wrong, {}, 'each client gets its own answers');
is(scalar @alive, $number, 'all have done their rounds');
note explain \%finished;

$node->soon('SELECT count(*) FROM pool_clients()', $number, 'all are known');
$node->soon(
	'SELECT sum(transactions) FROM pool_clients()',
	(eval { my $sum = 0; $sum += $_->{done} foreach @alive; $sum }),
	'their transactions add up');
cmp_ok(number('transactions', 'alice'),
	'>=', $finished{transactions}, 'those of the pool too');
is($node->value('SELECT count(*) FROM done'),
	$committed, 'each row was written once');
is(number('slots',   'alice'), 4, 'by four slots');
is(number('waiting', 'alice'), 0, 'nobody waits');

# served evenly: a hundred rounds for all, and who is ahead of whom
my %served = map { $_->{number} => 0 } @alive;
my @unfair;
$_->send(query('SELECT 1')) foreach @alive;
my @stuck = PoolWorker::Wire->pump(
	\@alive,
	sub {
		my ($client) = @_;
		my $n = ++$served{ $client->{number} };

		if ($n == 50)
		{
			@unfair = grep { $served{$_} < 10 } keys %served unless @unfair;
			return 0;
		}
		return $client->send(query('SELECT 1'));
	},
	2 * $PoolWorker::timeout);
is(scalar @stuck,  0, 'fifty more rounds for each');
is(scalar @unfair, 0, 'nobody was left far behind by another');

$_->terminate foreach @alive;
$node->no_leak($fds, 'in the end');
is($node->worker_pid, $worker, 'the worker is the same process');
$node->not_logged(qr/PANIC|TRAP|terminated by signal/,
	0, 'nothing has crashed');

$node->stop;
done_testing();
