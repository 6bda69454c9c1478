# Copyright (c) pool_worker contributors

# A crowd of clients asks, leaves at any moment and comes back, while slots are
# terminated and stopped, sizes and settings change, roles are altered.  Nobody
# may hang, or get an answer that is another's; what the clients counted is what
# the pool counted; and nothing grows.
#
#   SEED=n          begin with this seed instead of a random one
#   SOAK_SECONDS=n  how long; make soak sets it
#   CLIENTS=n       how many, 1000 for a soak and 150 otherwise
#   END_WORKER=1    end the worker as well, now and then

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use Churn;
use Churn::Facts;
use Churn::Trouble;
use POSIX ();
use PoolWorker;
use Test::More;
use Time::HiRes qw(time);

my $soak    = $ENV{SOAK_SECONDS} || 0;
my $seconds = $soak              || 9;
my $clients = $ENV{CLIENTS}      || ($soak ? 1000 : 150);
my $seed    = $ENV{SEED}         || 1 + int rand 1_000_000_000;
my @roles   = ('alice', 'bob', 'carol');

raise_file_limit($clients + 200);
diag "SEED=$seed CLIENTS=$clients SECONDS=$seconds";
srand $seed;

my $limit = $clients + 100;
my $node  = PoolWorker->new('main')->setup(
	conf => qq{
pool_worker.max_clients = $limit
pool_worker.pool_size = 6
pool_worker.max_slots = 24
pool_worker.queue_timeout = 0
pool_worker.statement_cache_size = 20
temp_buffers = 100
fsync = off
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE carol LOGIN;
	CREATE TABLE done (token text);
	GRANT ALL ON done TO alice, bob, carol;});
my $from = $node->log_end;

alarm($seconds + 20 * $PoolWorker::timeout);

my $trouble = Churn::Trouble->new(
	$node,
	roles      => \@roles,
	end_worker => $ENV{END_WORKER});
my $crowd = Churn->new($node, clients => $clients, roles => \@roles);

# The first time, until sessions and caches are as large as they get.  Then with
# the same trouble once more.  Then without, so that slots become old.
my @facts;
foreach my $stage (
	[ 'trouble',       3, $trouble ],
	[ 'trouble again', 3, $trouble ],
	[ 'no trouble',    6 ],
	[ 'nor now',       6 ])
{
	my ($name, $part, @trouble) = @$stage;

	$crowd->churn($seconds / $part, @trouble);
	is_deeply(at_rest(), [], "$name: everybody has been answered")
	  or finish();
	push @facts, Churn::Facts->gather($node);
	note "$name: ", $facts[-1]->describe;
}
is_deeply([ map { $_->describe } $crowd->roll_call ],
	[], 'and once more, now that it is quiet');
note explain
{
	map { $_ => $crowd->{$_} }
	  qw(answers certain possible lost left cancels longest)
};
note explain $trouble->{done};

cmp_ok(connections_lost(), '<=', connections_ended(),
	'a slot that is terminated takes one client along');
counters_add_up();
rows_are_there();
nothing_is_stuck();
nothing_has_grown();

$crowd->dismiss;
nothing_is_left();
only_expected_lines();
$node->stop;
done_testing();

#
# What has to be true
#

# What was wrong, and who is not at rest.
sub at_rest
{
	my @restless = $crowd->settle;

	return [
		@{ $crowd->{wrong} },
		map { 'not at rest: ' . $_->describe } @restless
	];
}

# Of the roles of which not all are disconnected at once.
sub connections_lost
{
	my $lost = 0;

	foreach my $role (@roles[ 0 .. $#roles - 1 ])
	{
		$lost += $_ foreach values %{ $crowd->{lost}{$role} || {} };
	}
	return $lost;
}

sub connections_ended
{
	return 'Inf' if $trouble->{done}{'workers ended'};
	return ($trouble->{done}{'slots terminated'} // 0) +
	  ($trouble->{done}{'clients disconnected'}  // 0);
}

# Of those who are here, exactly; of all, within what nobody was told.
sub counters_add_up
{
	my %theirs =
	  map { split /\|/ }
	  split /\n/,
	  $node->value(
		q{SELECT application, transactions FROM pool_clients() WHERE application LIKE 'client %'}
	  );
	my %ours =
	  map { ("client $_->{id}" => $_->{answered}) } @{ $crowd->{clients} };

	is_deeply(\%theirs, \%ours, 'each client and the pool count the same');

	my $present = 0;
	$present += $_ foreach values %ours;
	my ($counted, $slots) = split /\|/,
	  $node->value(
		q{SELECT sum(transactions), (SELECT sum(transactions) FROM pool_slots()) FROM pool_status()}
	  );
	my $certain = $crowd->{certain} + $present;

	cmp_ok($counted, '>=', $certain, 'the pool has counted all of them');
	cmp_ok(
		$counted, '<=',
		$certain + $crowd->{possible},
		'and no more than what may have been done unseen');
	cmp_ok($slots, '<=', $counted, 'slots have not done more than the pool');

	# exactly, from here on
	$crowd->roll_call;
	$node->soon(
		'SELECT sum(transactions) FROM pool_status()',
		$counted + $clients,
		'one more each, and the pools count just these');
	$node->soon(
		'SELECT sum(transactions) FROM pool_clients()',
		$present + $clients,
		'and so do the clients');
	return;
}

# Each row that was committed is there once, and of the others only those whose
# end nobody was told.
sub rows_are_there
{
	my %there;
	my @odd;

	$there{$_}++ foreach split /\n/, $node->value('TABLE done');
	foreach my $token (keys %there)
	{
		push @odd, "$token is there $there{$token} times"
		  if $there{$token} > 1;
		push @odd, "$token should not be there"
		  unless $crowd->{committed}{$token} || $crowd->{doubtful}{$token};
	}
	push @odd, map { "$_ is lost" }
	  grep { !$there{$_} } keys %{ $crowd->{committed} };
	is_deeply(\@odd, [], 'each row that was committed is there, once');
	note scalar(keys %there), ' rows, ', scalar(keys %{ $crowd->{doubtful} }),
	  ' in doubt';
	return;
}

sub nothing_is_stuck
{
	$node->soon(
		q{SELECT count(*) FROM pool_slots() WHERE state <> 'idle'
		OR pin_reason IS NOT NULL}, 0, 'all slots are idle');
	$node->soon(
		'SELECT sum(waiting), sum(opening), sum(clients) FROM pool_status()',
		"0|0|$clients",
		'nobody waits');
	is( $node->value(
			q{SELECT count(*) FROM pg_stat_activity WHERE usename IN ('alice', 'bob', 'carol')
			AND (state <> 'idle' OR pid NOT IN (SELECT pid FROM pool_slots()))}
		),
		'0',
		'no backend does anything');
	is( $node->value(
			q{SELECT count(*) FROM pg_locks WHERE pid IN (SELECT pid FROM pool_slots())}
		),
		'0',
		'or holds a lock');
	return;
}

sub nothing_has_grown
{
	my ($first, $second, $old, $older) = @facts;

	# one descriptor for each slot's connection
	no_more($first, $second, worker_fds     => $second->{slots});
	no_more($first, $second, worker_memory  => 256 * 1024);
	no_more($first, $second, worker_private => 1024 * 1024);
	# one more segment
	no_more($first, $second, area => $first->{area} + 1024 * 1024);
	# and in a slot one for each client of its pool
	no_more({ slot_fds => $clients / @roles }, $second, slot_fds => 100);
	no_more($first, $second, slot_memory  => 2 * 1024 * 1024);
	no_more($first, $second, slot_private => 4 * 1024 * 1024);

	# and slots, now old, do not go on growing; in a short run they are still
	# filling their caches
	ok((grep { exists $older->{of_slot}{$_} } keys %{ $old->{of_slot} }),
		'slots have grown old');
	no_more($old, $older, slot_memory   => ($soak ? 0.5 : 2) * 1024 * 1024);
	no_more($old, $older, worker_memory => 64 * 1024);
	return;
}

sub no_more
{
	my ($before, $now, $what, $margin) = @_;

	return cmp_ok(
		$now->{$what}, '<=',
		$before->{$what} + $margin,
		"$what: $now->{$what} after $before->{$what}");
}

# The clients have gone.
sub nothing_is_left
{
	my $worker = $node->worker_pid;

	$node->soon('SELECT count(*) FROM pool_clients()', 0,
		'no client is left');
	ok( $node->until(
			sub {
				$node->fd_count($worker) <
				  $facts[0]{worker_fds} - $clients + 50;
			}),
		'nor a descriptor in the worker');
	foreach my $role (@roles)
	{
		my $client = $node->client(user => $role);
		my @slots  = $node->slot_pids('postgres', $role);

		ok( $node->until(
				sub {
					$client->val('SELECT 1');
					return !grep { $node->fd_count($_) > 100 } @slots;
				}),
			"nor in a slot of $role");
		$client->terminate;
	}
	return;
}

# What a server says to all this, and nothing else.
sub only_expected_lines
{
	my @expected = (
		qr/LOG:  (received SIGHUP, reloading|parameter ".*" (changed|removed))/,
		qr/LOG:  checkpoint /,
		qr/LOG:  (background worker "pool worker" .* exited|connection pool started|listening on)/,
		qr/FATAL:  terminating connection because the connection pool was restarted/,
		qr/LOG:  connection pools? .*(paused|drained|resumed|recycled) by role/,
		qr/LOG:  pool client \d+ disconnected by role/,
		qr/ERROR:  the pool worker is not running/,
		qr/LOG:  connection pool stops/,
		qr/ERROR:  (unexpected message type 0x58 during COPY|division by zero|canceling statement due to user request)/,
		qr/(LOG|FATAL):  terminating connection due to administrator command/,
		qr/(LOG|FATAL):  role "carol" is not permitted to log in/,
		qr/LOG:  connection pool "postgres\/carol" cannot open connections any more/,
		qr/LOG:  could not open a connection for pool "postgres\/carol"/,
		qr/LOG:  incomplete startup packet/,
		qr/LOG:  could not (receive|send) data (from|to) client: (Connection reset by peer|Broken pipe)/,
		qr/(LOG|ERROR):  unexpected EOF (on client connection with an open transaction|within message length word)/,
		qr/ERROR:  (could not receive data from|incomplete message from) client/,
		# a slot or a client that has gone between two questions of ours
		qr/WARNING:  there is no pool client/,
		qr/WARNING:  PID \d+ is not a PostgreSQL (server|backend) process/,
		qr/LOG:  (logging memory contexts|level: \d|Grand total)/,);
	my %odd;

	# slots that were still logging in when the worker ended
	push @expected, qr/FATAL:  connection to client lost/,
	  qr/FATAL:  invalid frontend message type 0/
	  if $ENV{END_WORKER};
	foreach my $line (split /\n/, $node->log_since($from))
	{
		next unless $line =~ / (LOG|ERROR|FATAL|PANIC|WARNING):  /;
		next if grep { $line =~ $_ } @expected;
		$odd{ $line =~ s/^.*? (\w+:  .*)/$1/r }++;
	}
	is_deeply(\%odd, {}, 'the log has only what was to be expected');
	return;
}

# End here: what follows would not mean anything.
sub finish
{
	diag $node->value(
		q{SELECT s.*, c.state, c.application FROM pool_slots() s LEFT JOIN pool_clients() c ON c.client = s.client}
	);
	diag $node->value(
		'SELECT database, role, state, slots, active, idle, pinned,
		opening, clients, waiting, pool_size FROM pool_status()');
	$node->stop('immediate');
	done_testing();
	exit 1;
}

# Each client needs a descriptor.  If there may not be as many, begin again with
# a higher limit.
sub raise_file_limit
{
	my ($needed) = @_;

	return if POSIX::sysconf(POSIX::_SC_OPEN_MAX()) >= $needed;
	die "could not have $needed open files\n" if $ENV{RAISED_FILE_LIMIT}++;
	exec('sh', '-c', 'ulimit -n "$1" && shift && exec "$@"',
		'sh', $needed, $^X, (map { "-I$_" } @INC), $0)
	  or die "exec: $!";
}
