# Copyright (c) pool_worker contributors

# Clients that stop in the middle of a command: they have sent half a message, or
# owe a Sync, or do not read what they have asked for.  Each must go when its
# time is over and not before; its transaction must be rolled back; it must be
# told why if it can be; and the slot must be the same one afterwards.  Clients
# that are only slow, or have a right to be silent, must stay.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query);
use Socket           qw(SOL_SOCKET SO_RCVBUF);
use Test::More;
use Time::HiRes qw(time usleep);

my $setting = 'pool_worker.client_message_timeout';
my $fatal   = "FATAL 08006 terminating connection due to $setting";
my %hosts   = (TCP => [ host => '127.0.0.1' ], 'Unix socket' => []);

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 1
pool_worker.idle_in_transaction_timeout = 0
},
	sql => q{CREATE TABLE held (x int); GRANT ALL ON held TO PUBLIC;
		CREATE TABLE target (x text); GRANT ALL ON target TO PUBLIC;});

sub half { return substr $_[0], 0, length($_[0]) / 2; }

sub parse   { return PoolWorker::Wire::msg_parse('', @_); }
sub bind_it { return PoolWorker::Wire::msg_bind('', '', @_); }
my $execute = PoolWorker::Wire::msg_execute('');
my $flush   = PoolWorker::Wire::msg_flush();
my $sync    = PoolWorker::Wire::msg_sync();

# A role with a limit of its own, in ms, and so a pool of its own.  Returns when
# it is in force.
sub role
{
	my ($role, $limit, $slots) = @_;

	$node->value("CREATE ROLE $role LOGIN");
	$node->value("ALTER ROLE $role SET pool_worker.pool_size = $slots")
	  if $slots;
	$node->client(user => $role)->terminate;
	return limit($role, $limit);
}

sub limit
{
	my ($role, $limit) = @_;

	$node->value("ALTER ROLE $role SET $setting = '${limit}ms'");
	$node->until(
		sub {
			$node->value(
				"SELECT setting FROM pool_settings() WHERE role = '$role' AND name = '$setting'"
			) eq $limit;
		}) or die "$setting of $role is not in force";
	return $role;
}

sub count_of
{
	my ($role) = @_;
	return
	  "SELECT client_message_timeouts FROM pool_status() WHERE role = '$role'";
}

sub ms_of
{
	my ($function) = @_;
	my $start = time;

	$function->();
	return 1000 * (time - $start);
}

# The end of a client that was told to go: the error's severity, SQLSTATE and
# message, and that nothing comes after it.
sub farewell
{
	my ($client) = @_;
	my ($types, $error) = ('', '');

	while (my $message = $client->read)
	{
		$types .= $message->[0];
		next unless $message->[0] eq 'E';
		$error = join ' ',
		  @{ PoolWorker::Wire::fields($message->[1]) }{qw(S C M)};
	}
	return 'no error'             unless $error;
	return "not the last: $types" unless $types =~ /E$/;
	return $error;
}

# Nothing is left of a client of this role, whose only slot serves the next one.
sub gone
{
	my ($name, $role, $pid) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is( $node->control->sqlstate(
			'BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT'),
		'',
		"$name: it has no locks");
	my $next = $node->client(user => $role);
	is( $next->val(
			'SELECT pg_backend_pid() || (SELECT count(*)::text FROM held)'),
		$pid . '0',
		"$name: the slot is the same, and nothing was committed");
	$next->terminate;
	return;
}

# Everything that a client can stop within, while it sends.  "first" is done
# before that; then the client sends "bytes", and the slot waits for the rest.
my $open = 'BEGIN; LOCK TABLE held; INSERT INTO held VALUES (1)';
my %half = (
	'one byte'                      => { bytes => 'Q' },
	'half a length'                 => { bytes => "Q\0\0" },
	'half a query'                  => { bytes => half(query('SELECT 1')) },
	'half a query in a transaction' =>
	  { first => $open, bytes => half(query('COMMIT')) },
	'half a query in a failed one' =>
	  { first => "$open; SELECT 1/0", bytes => half(query('COMMIT')) },
	'a query and a half' =>
	  { bytes => query('SELECT 1') . half(query('SELECT 2')) },
	'a transaction and a half' =>
	  { bytes => query($open) . half(query('COMMIT')) },
	'a large query' =>
	  { bytes => half(query('SELECT 1 /* ' . 'x' x 300_000 . ' */')) },
	'Parse'                 => { bytes => parse('SELECT 1') },
	'Parse and Flush'       => { bytes => parse('SELECT 1') . $flush },
	'Parse and half a Bind' =>
	  { bytes => parse('SELECT 1') . half(bind_it()) },
	'half a Parse'         => { bytes => half(parse('SELECT 1')) },
	'half a Sync'          => { bytes => parse('SELECT 1') . half($sync) },
	'Execute with no Sync' => {
			bytes => parse('INSERT INTO held VALUES (1)')
		  . bind_it()
		  . $execute
		  . $flush
	},
	'Execute in a transaction, no Sync' =>
	  { first => $open, bytes => parse('SELECT 1') . bind_it() . $execute },
	'ROLLBACK with no Sync' => {
		first => $open,
		bytes => parse('ROLLBACK') . bind_it() . $execute . $flush
	},
	'Close with no Sync' =>
	  { bytes => PoolWorker::Wire::msg_close('S', '') . $flush },
	'an error with no Sync'     => { bytes => parse('bad') . $flush },
	'an error with half a Bind' =>
	  { bytes => parse('bad') . half(bind_it()) },
	'an error in a transaction, no Sync' =>
	  { first => $open, bytes => parse('bad') . $flush },
	'COPY with no Sync' => {
		copy => parse('COPY target FROM STDIN')
		  . bind_it()
		  . $execute
		  . $flush,
		bytes => PoolWorker::Wire::msg_copy_done()
	},
	'half a CopyData behind a COPY' =>
	  { bytes => half(PoolWorker::Wire::msg_copy_data('x' x 20)) },);

my $from = $node->log_end;

note 'clients that stop sending';
{
	my $limit = 150;
	my $role  = role('s', $limit);
	my $first = $node->client(user => $role);
	my $pid   = $first->val('SELECT pg_backend_pid()');
	my ($n, @took) = 0;

	$first->terminate;

	foreach my $name (map { ("$_, TCP", "$_, Unix socket") } sort keys %half)
	{
		my ($what, $host) = $name =~ /(.*), (.*)/;
		my $case   = $half{$what};
		my $client = $node->client(user => $role, @{ $hosts{$host} });
		my $said;

		$client->ask($case->{first}) if $case->{first};
		if ($case->{copy})
		{
			$client->send($case->{copy});
			my $message;
			1 while ($message = $client->read) && $message->[0] ne 'G';
		}
		push @took, ms_of(
			sub {
				$client->send($case->{bytes});
				$said = farewell($client);
			});
		is($said,                         $fatal, "$name: it is told");
		is($node->value(count_of($role)), ++$n,   "$name: it is counted");
		gone($name, $role, $pid);
	}
	@took = sort { $a <=> $b } @took;
	cmp_ok($took[0],           '>=', $limit,             'never early');
	cmp_ok($took[ @took / 4 ], '<=', 1.1 * $limit + 100, 'not much too late');
	note(sprintf 'ended after %.0f to %.0f ms', @took[ 0, -1 ]);
	$node->logged(
		qr/s\@postgres <127.0.0.1> <.*> LOG:  terminating connection due to $setting/,
		$from,
		'they are logged');
	$node->not_logged(qr/level: \d/, $from, 'and nothing else');
}

# The same for clients that do not read.  Each asks for much more than fits into
# its socket.
my $much   = q{SELECT repeat('x', 1000) FROM generate_series(1, 50000)};
my %unread = (
	'a result'                  => query($much),
	'a result in a transaction' => query("$open; $much"),
	'one large value'           => query(q{SELECT repeat('x', 50000000)}),
	'COPY TO'                   => query("COPY ($much) TO STDOUT"),
	'an extended query' => parse($much) . bind_it() . $execute . $sync,
	'an extended query with no Sync' => parse('INSERT INTO held VALUES (1)')
	  . bind_it()
	  . $execute
	  . parse($much)
	  . bind_it()
	  . $execute,
	'many queries at once' => query(q{SELECT repeat('x', 100000)}) x 1000,);

note 'clients that do not read';
{
	my $role  = role('r', 150);
	my $first = $node->client(user => $role);
	my $pid   = $first->val('SELECT pg_backend_pid()');
	my $n     = 0;

	$first->terminate;
	foreach
	  my $name (map { ("$_, TCP", "$_, Unix socket") } sort keys %unread)
	{
		my ($what, $host) = $name =~ /(.*), (.*)/;
		my $client = $node->client(user => $role, @{ $hosts{$host} });

		$client->send($unread{$what});
		$node->soon(count_of($role), ++$n, "$name: it is ended and counted");
		gone($name, $role, $pid);
		ok($client->at_end, "$name: it sees the end");
	}
}

note 'a client that does not read what it listens to';
{
	my $role   = role('l', 150);
	my $client = $node->client(user => $role);

	$client->val('LISTEN news');
	foreach my $n (1 .. 400)
	{
		$node->value("SELECT pg_notify('news', '$n' || repeat('x', 7000))");
	}
	$node->soon(count_of($role), 1, 'it is ended and counted');
	$node->soon("SELECT count(*) FROM pool_clients() WHERE role = '$role'",
		0, 'it is gone');
}

note 'a client whose function does not want to end';
{
	my $role   = role('f', 150);
	my $client = $node->client(user => $role);

	$client->send(
		query(
			q{DO $$ BEGIN LOOP
				BEGIN
					RAISE NOTICE '%', repeat('x', 8000);
				EXCEPTION WHEN query_canceled THEN
					NULL;
				END;
			END LOOP; END $$}));
	$node->soon("SELECT count(*) FROM pool_clients() WHERE role = '$role'",
		0, 'it is gone');
	my $next = $node->client(user => $role);
	is($next->val('SELECT 1'), 1, '... and the next one is served');
	$next->terminate;
}

note 'others wait no longer than that';
{
	my $role    = role('q', 500, 2);
	my @clients = map { $node->client(user => $role) } 1 .. 2;
	my $waiting = $node->client(user => $role);

	$_->send(half(query('SELECT 1'))) foreach @clients;
	$node->soon(
		"SELECT count(*) FROM pg_stat_activity WHERE usename = '$role' AND state = 'active'
			OR usename = '$role' AND wait_event = 'ClientRead'",
		2, 'all slots are in use');
	my $took = ms_of(sub { $waiting->val('SELECT 1') });
	cmp_ok($took, '<', 5000, 'one that waits is served');
	is(farewell($_), $fatal, '... for the others were told to go')
	  foreach @clients;
	$waiting->terminate;
}

note 'never, and then a limit';
{
	my $role   = role('z', 0);
	my $client = $node->client(user => $role);
	my $other  = $node->client(user => 's');

	$_->send(half(query('SELECT 1'))) foreach $client, $other;
	is(farewell($other), $fatal, 'another role has a limit');
	ok(!$client->wait_readable(0), '... this one has none');
	limit($role, 150);
	is(farewell($client), $fatal, '... until it is set');
}

note 'when no log message reaches us, the slot is lost, but the client goes';
{
	my $role = role('m', 150);

	$node->value("ALTER ROLE $role SET log_min_messages = fatal");
	$node->until(
		sub {
			my $client = $node->client(user => $role);
			$client->val('SHOW log_min_messages') eq 'fatal';
		}) or die 'log_min_messages is not in force';
	my $client = $node->client(user => $role);
	$client->send(half(query('SELECT 1')));
	ok($client->at_end, 'it sees the end');
	my $next = $node->client(user => $role);
	is($next->val('SELECT 1'), 1, '... and the next one is served');
	$next->terminate;
}

# Clients that are slow, or silent where they may be.  Each is what it does ten
# times a second, and the bytes that it sends in the end.
sub reads
{
	my ($client, $sql) = @_;

	$client->send(query($sql));
	return {
		client => $client,
		step   => sub {
			sysread $client->{sock}, $client->{in}, 1024,
			  length $client->{in};
		}
	};
}

sub sends
{
	my ($client, $bytes, $at_most) = @_;
	my $self = { client => $client, rest => $bytes };

	$self->{step} = sub {
		$client->send(substr $self->{rest}, 0, 1, '') if $at_most-- > 0;
	};
	return $self;
}

sub copies
{
	my ($client, $at_most) = @_;

	$client->ask('COPY target FROM STDIN');
	return sends(
		$client,
		PoolWorker::Wire::msg_copy_data("slow\n") x 200
		  . PoolWorker::Wire::msg_copy_done(),
		$at_most);
}

sub says_nothing
{
	my ($client, $sql) = @_;

	$client->val($sql);
	return { client => $client, rest => query('SELECT') };
}

sub waits
{
	my ($client, $seconds) = @_;

	$client->send(query("SELECT FROM pg_sleep($seconds)"));
	return { client => $client };
}

# All of them, by name, with what each is answered in the end.
my $rows = 10000;
my $wide = "SELECT repeat('x', 1000) FROM generate_series(1, $rows)";

sub slow_clients
{
	my ($role, $seconds) = @_;
	my @small = (sockopts => [ [ SOL_SOCKET, SO_RCVBUF, 4096 ] ]);
	my %clients;

	foreach my $host (sort keys %hosts)
	{
		my $new =
		  sub { $node->client(user => $role, @{ $hosts{$host} }, @_) };
		my %these = (
			'reads a result' =>
			  [ reads($new->(@small), $wide), "SELECT $rows" ],
			'reads a COPY' => [
				reads($new->(@small), "COPY ($wide) TO STDOUT"),
				"COPY $rows"
			],
			'sends a query' => [
				sends($new->(), query('SELECT ' . ' ' x 1000), 1000),
				'SELECT 1'
			],
			'sends a COPY'         => [ copies($new->(), 1000), 'COPY 200' ],
			'pauses in a COPY'     => [ copies($new->(), 10),   'COPY 200' ],
			'pauses in a CopyData' => [ copies($new->(), 1),    'COPY 200' ],
			'waits for its result' =>
			  [ waits($new->(), $seconds), 'SELECT 1' ],
			'is idle' => [ says_nothing($new->(), 'SELECT'), 'SELECT 1' ],
			'is idle in transaction' =>
			  [ says_nothing($new->(), 'BEGIN'), 'SELECT 1' ],
			'is idle and listens' =>
			  [ says_nothing($new->(), 'LISTEN news'), 'SELECT 1' ]);
		foreach my $name (keys %these)
		{
			my ($client, $expected) = @{ $these{$name} };

			$client->{expected} = $expected;
			$clients{"$name, $host"} = $client;
		}
	}
	return %clients;
}

# Go on like that for so many seconds.  Returns the longest time in ms for which
# they were not looked at.
sub go_on
{
	my ($seconds, @clients) = @_;
	my $end     = time + $seconds;
	my $last    = time;
	my $longest = 0;

	while (time < $end)
	{
		$_->{step} && $_->{step}->() foreach @clients;
		usleep(100_000);
		$longest = 1000 * (time - $last) if $longest < 1000 * (time - $last);
		$last    = time;
	}
	return $longest;
}

# Let them come to an end.
sub finish
{
	my (@clients) = @_;
	my %by_wire = map { $_->{client} => $_ } @clients;

	foreach my $client (@clients)
	{
		$client->{client}->send($client->{rest}) if $client->{rest};
	}
	PoolWorker::Wire->pump(
		[ map { $_->{client} } @clients ],
		sub {
			my ($wire, $answer) = @_;

			$by_wire{$wire}{answered} =
			  $answer->{error} ? $answer->{error}{M} : $answer->{tags}[0]
			  // 'lost';
			return 0;
		});
	$_->{client}->close foreach @clients;
	return;
}

note 'clients that are slow or silent';
{
	my $limit = 2000;
	my $role  = role('slow', $limit, 20);
	my $long  = 3 * $limit / 1000;
	my %clients;

	# on a machine that is too busy for us they are not slow, but stalled
	foreach my $attempt (1 .. 5)
	{
		%clients = slow_clients($role, $long);
		$node->soon(
			"SELECT count(*) FROM pg_stat_activity WHERE usename = '$role' AND wait_event = 'ClientWrite'",
			4,
			'nobody reads as fast as the server writes');
		my $longest = go_on($long, values %clients);
		finish(values %clients);
		note(sprintf 'looked at within %.0f ms', $longest);
		last if $longest < $limit / 4;
	}
	is($clients{$_}{answered}, $clients{$_}{expected}, "one that $_")
	  foreach sort keys %clients;
}

$node->not_logged(qr/PANIC|TRAP/, $from, 'nothing has failed');
$node->stop;
done_testing();
