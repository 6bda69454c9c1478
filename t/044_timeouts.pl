# Copyright (c) pool_worker contributors

# Time limits that a client cannot lift.  Each client is late in one way: the
# statement, the transaction, the pause within one or without.  It must be told
# which limit it was, not too early and not much too late; its locks must be
# gone; and the slot must be the same one afterwards.  Twins of each stay within
# the limit.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query);
use Test::More;
use Time::HiRes qw(time);

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 1
pool_worker.idle_in_transaction_timeout = 0
log_min_messages = info
},
	sql => 'CREATE TABLE held (x int); GRANT ALL ON held TO PUBLIC;');

my %setting = (
	statement           => 'pool_worker.statement_timeout',
	transaction         => 'pool_worker.transaction_timeout',
	idle_in_transaction => 'pool_worker.idle_in_transaction_timeout',
	client_idle         => 'pool_worker.client_idle_timeout');

# A role with limits of its own, in ms, and so a pool of its own.  Returns when
# they are in force.
sub role
{
	my ($role, %limits) = @_;

	$node->value("CREATE ROLE $role LOGIN");
	$node->client(user => $role)->terminate;
	limits($role, %limits);
	return $role;
}

sub limits
{
	my ($role, %limits) = @_;

	foreach my $kind (sort keys %limits)
	{
		$node->value(
			"ALTER ROLE $role SET $setting{$kind} = '$limits{$kind}ms'");
		$node->until(
			sub {
				$node->value(
					"SELECT setting FROM pool_settings() WHERE role = '$role' AND name = '$setting{$kind}'"
				) eq $limits{$kind};
			}) or die "$setting{$kind} of $role is not in force";
	}
	return;
}

# How often a limit was enforced in the pool of a role.
sub enforced
{
	my ($role, $kind) = @_;
	return $node->value(
		"SELECT ${kind}_timeouts FROM pool_status() WHERE role = '$role'");
}

# Milliseconds that a function takes.
sub ms_of
{
	my ($function) = @_;
	my $start = time;

	$function->();
	return 1000 * (time - $start);
}

# Do something that stays within a limit in ms, as long as the machine does:
# "attempt" returns nothing if it was not punished, else the ms that it took.
# Then it must have taken so long, and may try again.
sub in_time
{
	my ($limit, $name, $attempt) = @_;
	my ($took, @early);

	foreach (1 .. 5)
	{
		$took = $attempt->();
		last unless defined $took;
		push @early, $took if $took < $limit;
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is("@early", '', "$name: never early");
	return ok(!defined $took, "$name: who is in time is left alone");
}

# The end of a client that was told to go: the error's severity, SQLSTATE and
# message, and that nothing comes after it.
sub farewell
{
	my ($client) = @_;
	my $types = '';

	delete $client->{error};
	while (my $message = $client->read)
	{
		$types .= $message->[0];
		$client->{error} = PoolWorker::Wire::fields($message->[1])
		  if $message->[0] eq 'E';
	}
	return 'no error'             unless $client->{error};
	return "not the last: $types" unless $types =~ /E$/;
	return join ' ', @{ $client->{error} }{qw(S C M)};
}

my %farewell = (
	transaction =>
	  "FATAL 25P04 terminating connection due to $setting{transaction}",
	idle_in_transaction =>
	  "FATAL 25P03 terminating connection due to $setting{idle_in_transaction}",
	client_idle =>
	  "FATAL 57P05 terminating connection due to $setting{client_idle}");

# The slot of a role is still this one, and serves.
sub same_slot
{
	my ($role, $pid, $name) = @_;
	my $next = $node->client(user => $role);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($next->val('SELECT pg_backend_pid()'),
		$pid, "$name: the slot is still there");
	$next->terminate;
	return;
}

sub lock_is_free
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(
		$node->control->sqlstate(
			'BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT'),
		'',
		"$name: its locks are gone");
}

my $from = $node->log_end;

note 'a statement';
{
	my $role   = role('s', statement => 200);
	my $client = $node->client(user => $role);
	my $pid    = $client->val('SELECT pg_backend_pid()');
	my @took;

	$client->val('SET statement_timeout = 0');
	foreach my $n (1 .. 10)
	{
		push @took, ms_of(
			sub {
				$n % 2
				  ? $client->ask('SELECT pg_sleep(60)')
				  : $client->ask_extended('SELECT pg_sleep($1)', 60);
			});
	}
	is($client->{error}{C}, '57014', 'a statement that takes too long');
	is($client->{error}{S}, 'ERROR', '... it is an error');
	is( $client->{error}{M},
		"canceling statement due to $setting{statement}",
		'... which names the limit');
	@took = sort { $a <=> $b } @took;
	cmp_ok($took[0], '>=', 200, '... never early');
	cmp_ok($took[5], '<=', 300, '... not much too late');
	note(sprintf 'cancelled after %.0f to %.0f ms', @took[ 0, -1 ]);
	is($client->val('SELECT pg_backend_pid()'),
		$pid, '... and the connection survives');
	is(enforced($role, 'statement'), 10, '... each is counted');

	$client->ask('BEGIN');
	is($client->sqlstate('SELECT pg_sleep(60)'),
		'57014', 'a statement in a transaction');
	is($client->{status}, 'E', '... as after any cancelled statement');
	$client->ask('ROLLBACK');

	is($client->sqlstate('SELECT 1; SELECT pg_sleep(60); SELECT 2'),
		'57014', 'several statements in one query');

	$client->val(q{SET statement_timeout = '50ms'});
	$client->ask('SELECT pg_sleep(60)');
	is( $client->{error}{M},
		'canceling statement due to statement timeout',
		'a shorter timeout of its own counts');
	$client->val('SET statement_timeout = 0');

	$client->send(query('SELECT pg_sleep(0.1)'));
	$node->soon(
		"SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event = 'PgSleep'",
		1,
		'... it sleeps');
	$client->cancel;
	$client->answer;
	is( $client->{error}{M},
		'canceling statement due to user request',
		'a cancel of its own has its own words');
	$client->terminate;
}

note 'a statement in time';
{
	my $role   = role('t', statement => 1000);
	my $client = $node->client(user => $role);

	in_time(
		1000,
		'statement',
		sub {
			my $took = ms_of(sub { $client->ask('SELECT pg_sleep(0.6)') });

			return $client->sqlstate('SELECT 1') || !$client->{error}
			  ? undef
			  : do { delete $client->{error}; $took };
		});

	# what a client waits for a slot does not count
	my $other = $node->client(user => $role);

	in_time(
		1000,
		'waiting',
		sub {
			my @answers;

			delete $_->{error} foreach $client, $other;
			my $took = ms_of(
				sub {
					$client->send(query('SELECT pg_sleep(0.7)'));
					$other->send(query('SELECT pg_sleep(0.7)'));
					@answers = map { $_->answer } $client, $other;
				});
			return (grep { $_->{error} } @answers) ? $took : undef;
		});

	# it may change while a statement runs
	$client->send(query('SELECT pg_sleep(60)'));
	limits($role, statement => 100);
	is($client->answer->{error}{C}, '57014', 'a limit that was lowered');
	limits($role, statement => 0);
	is($client->sqlstate('SELECT pg_sleep(0.3)'),
		'', 'a limit that was lifted');
	$_->terminate foreach $client, $other;
}

note 'statements that do not heed';
{
	my $client = $node->client(user => role('u', statement => 100));

	$client->ask(
		q{
		DO $$ BEGIN
			PERFORM pg_sleep(60);
		EXCEPTION WHEN query_canceled THEN
			RAISE NOTICE '%', SQLERRM;
		END $$});
	is( $client->{notices}[0]{M},
		"canceling statement due to $setting{statement}",
		'SQL that catches the error sees its words');
	$client->terminate;

	my %late = (
		'catches it for ever' => query(
			q{
			DO $$ BEGIN
				LOOP
					BEGIN
						PERFORM pg_sleep(60);
					EXCEPTION WHEN query_canceled THEN NULL;
					END;
				END LOOP;
			END $$}),
		'stalls in the middle of a message' =>
		  substr(query('SELECT 1'), 0, 9),
		'stalls before the Sync' =>
		  PoolWorker::Wire::msg_parse('', 'SELECT 1'),
		'stalls in a COPY' => query('COPY held FROM STDIN'),
		'does not read'    =>
		  query(q{SELECT repeat('x', 1000), generate_series(1, 1000000)}));
	my %client;

	foreach my $name (sort keys %late)
	{
		my $role = role('u' . keys %client, statement => 100);

		$client{$name} = $node->client(user => $role);
		$client{$name}{slot} = $client{$name}->val('SELECT pg_backend_pid()');
		$client{$name}->send($late{$name});
	}
	foreach my $name (sort keys %late)
	{
		my $client = $client{$name};

		$node->soon(
			"SELECT count(*) FROM pool_slots() WHERE pid = $client->{slot}",
			0, "one that $name costs the slot");
		my $said = farewell($client);
		like(
			$said,
			$name eq 'does not read'
			? qr/^no error$/
			: qr/^FATAL 57P01 terminating connection due to \Q$setting{statement}\E$/,
			'... and ends');
	}
	is(enforced('u0', 'statement'), 1, '... it is counted');
}

note 'idle in a transaction';
{
	my $role   = role('i', idle_in_transaction => 300);
	my $client = $node->client(user => $role);
	my $pid    = $client->val('SELECT pg_backend_pid()');
	my $said;

	$client->val('SET idle_in_transaction_session_timeout = 0');
	$client->val('BEGIN; LOCK TABLE held');
	my $took = ms_of(sub { $said = farewell($client) });
	is($said, $farewell{idle_in_transaction}, 'idle in a transaction');
	cmp_ok($took, '>=', 295,  '... never early');
	cmp_ok($took, '<',  5000, '... not for ever');
	lock_is_free('idle in a transaction');
	same_slot($role, $pid, 'idle in a transaction');
	is(enforced($role, 'idle_in_transaction'), 1, '... it is counted');

	$client = $node->client(user => $role);
	$client->ask('BEGIN; SELECT 1/0');
	is( farewell($client),
		$farewell{idle_in_transaction},
		'idle in one that has failed');

	$client = $node->client(user => $role);
	$client->val(q{SET idle_in_transaction_session_timeout = '50ms'});
	$client->val('BEGIN');
	is( farewell($client),
		'FATAL 25P03 terminating connection due to idle-in-transaction timeout',
		'a shorter timeout of its own counts');

	# so does one that has said something, but not all of it
	$client = $node->client(user => $role);
	$client->val('BEGIN');
	my @pids = $node->slot_pids('postgres', $role);
	$client->wait_readable(0.2);
	$client->terminate;
	same_slot($role, $pids[0], 'one that leaves in time');
}

note 'idle in a transaction, in time';
{
	my $role   = role('j', idle_in_transaction => 1000);
	my $client = $node->client(user => $role);

	in_time(
		1000,
		'idle in a transaction',
		sub {
			my $took;

			$client->{sock} && !$client->{eof}
			  or $client = $node->client(user => $role);
			my $before = time;
			$client->val('BEGIN');
			foreach (1 .. 3)
			{
				my $since = $before;

				$client->wait_readable(0.5);
				$before = time;
				$took //= 1000 * (time - $since)
				  unless eval { $client->val("SELECT 'tag'") eq 'tag' };
			}
			eval { $client->val('COMMIT') };
			return $took;
		});

	# between transactions it may be silent for as long as it likes
	limits($role, idle_in_transaction => 50);
	$client->val('CREATE TEMPORARY TABLE pinned ()');
	$client->wait_readable(0.3);
	is($client->val("SELECT 'still here'"),
		'still here', 'idle outside of a transaction');
	$client->terminate;
}

note 'a transaction';
{
	my $role   = role('x', transaction => 300);
	my $client = $node->client(user => $role);
	my $pid    = $client->val('SELECT pg_backend_pid()');
	my $said;

	$client->val('BEGIN; LOCK TABLE held');
	my $took = ms_of(
		sub {
			$client->send(query('SELECT pg_sleep(60)'));
			$said = farewell($client);
		});
	is($said, $farewell{transaction}, 'in a statement');
	cmp_ok($took, '>=', 200,  '... never early');
	cmp_ok($took, '<',  5000, '... not for ever');
	lock_is_free('in a statement');
	same_slot($role, $pid, 'in a statement');

	$client = $node->client(user => $role);
	$took   = ms_of(
		sub {
			$client->send(query('SELECT pg_sleep(60)'));
			$said = farewell($client);
		});
	is($said, $farewell{transaction}, 'a transaction of one statement');
	cmp_ok($took, '>=', 300, '... never early');

	$client = $node->client(user => $role);
	$client->val('BEGIN; LOCK TABLE held');
	is(farewell($client), $farewell{transaction}, 'in a pause');
	lock_is_free('in a pause');

	$client = $node->client(user => $role);
	$client->send(query('BEGIN'));
	$took = ms_of(
		sub {
			1 while !$client->sqlstate('SELECT 1');
		});
	is(join(' ', @{ $client->{error} }{qw(S C)}),
		'FATAL 25P04', 'in many short statements');

	# it has asked for an answer, and waits with the Sync
	$client = $node->client(user => $role);
	$client->send(PoolWorker::Wire::msg_parse('', 'SELECT pg_sleep(60)')
		  . PoolWorker::Wire::msg_bind('', '')
		  . PoolWorker::Wire::msg_execute('')
		  . PoolWorker::Wire::msg_flush());
	my $message;
	1 while ($message = $client->read) && $message->[0] ne 'E';
	$client->{error} = PoolWorker::Wire::fields($message->[1]);
	is(join(' ', @{ $client->{error} }{qw(S C M)}),
		$farewell{transaction}, 'in an extended query without a Sync');
	$client->send(PoolWorker::Wire::msg_sync());
	ok($client->at_end, '... and then it ends');

	is(enforced($role, 'transaction'), 5, '... each is counted');
	same_slot($role, $pid, 'after all that');
}

note 'transactions in time';
{
	my $role   = role('y', transaction => 1000);
	my $client = $node->client(user => $role);

	in_time(
		1000,
		'transaction',
		sub {
			my $took;

			$client->{sock} && !$client->{eof}
			  or $client = $node->client(user => $role);
			foreach (1 .. 3)
			{
				my $this = ms_of(
					sub {
						eval {
							$client->val('BEGIN');
							$client->val('SELECT pg_sleep(0.4)');
							$client->val('COMMIT');
						};
					});
				$took //= $this if $client->{eof};
			}
			return $took;
		});
	$client->terminate;
}

note 'an idle client';
{
	my $role   = role('c', client_idle => 300);
	my $client = $node->client(user => $role);
	my $pid    = $client->val('SELECT pg_backend_pid()');
	my $said;

	my $took = ms_of(
		sub {
			$client->val('SET idle_session_timeout = 0');
			$said = farewell($client);
		});
	is($said, $farewell{client_idle}, 'in its slot');
	cmp_ok($took, '>=', 300, '... never early');
	same_slot($role, $pid, 'in its slot');

	my @clients = map { $node->client(user => $role) } 1 .. 3;
	is(farewell($_), $farewell{client_idle}, 'parked, or in its slot')
	  foreach @clients;
	$node->logged(
		qr/LOG:  pool client \d+: terminating connection due to \Q$setting{client_idle}\E/,
		$from,
		'a parked one is logged');

	$client = $node->client(user => $role);
	$client->val('CREATE TEMPORARY TABLE pinned ()');
	is(farewell($client), $farewell{client_idle}, 'pinned');
	same_slot($role, $pid, 'pinned');
	is(enforced($role, 'client_idle'), 5, '... each is counted');
}

note 'clients that are not idle';
{
	my $role = role('d', client_idle => 1000);
	my ($client, $other);

	in_time(
		1000, 'idle',
		sub {
			my $took;

			$_ && !$_->{eof}
			  or $_ = $node->client(user => $role)
			  foreach $client, $other;
			my $before = time;
			foreach (1 .. 4)
			{
				my $since = $before;

				$before = time;
				eval { $_->val('SELECT 1') } foreach $client, $other;
				$client->wait_readable(0.4);
				$_->wait_readable(0) and $_->_receive foreach $client, $other;
				$took //= 1000 * (time - $since)
				  if $client->{eof} || $other->{eof};
			}
			return $took;
		});

	# one that works, one that waits for it to end, one in a transaction
	limits($role, client_idle => 100);
	($client, $other) = map { $node->client(user => $role) } 1 .. 2;
	$client->send(query('SELECT pg_sleep(0.3); BEGIN'));
	$node->soon(
		"SELECT count(*) FROM pg_stat_activity WHERE usename = '$role' AND wait_event = 'PgSleep'",
		1,
		'one is at work');
	$other->send(query(q{SELECT 'served'}));
	is($client->answer->{error}, undef, 'one that works');
	$client->wait_readable(0.3);
	is($client->sqlstate('COMMIT'), '', 'one in a transaction');
	is(PoolWorker::Wire::text($other->answer),
		'served', 'one that waits for a slot');
}

note 'slow statements';
{
	my $role   = role('l');
	my $client = $node->client(user => $role, application_name => 'shop');
	my $logged = $node->log_end;

	$client->val("SELECT 'not logged'");
	my $id =
	  $node->value(
		q{SELECT client FROM pool_clients() WHERE application = 'shop'});
	$node->value(
		"ALTER ROLE $role SET pool_worker.log_min_duration = '100ms'");
	$node->soon(
		"SELECT setting FROM pool_settings() WHERE role = '$role' AND name = 'pool_worker.log_min_duration'",
		100,
		'log_min_duration of a role');
	$client->val("SELECT 'too fast'");
	$client->ask_extended(q{SELECT pg_sleep($1), 'slow'}, 0.1);
	$node->logged(
		qr/<shop> LOG:  pool client $id: duration: 1\d\d\.\d+ ms  wait: \d+\.\d+ ms  statement: SELECT pg_sleep\(\$1\), 'slow'\n.*DETAIL:  Database "postgres", role "l", address \[local\], application "shop"\.\n/,
		$logged,
		'... a slow statement is logged');
	$node->not_logged(qr/not logged/, $logged, '... and none before');

	# a client that has waited for the slot
	my $other = $node->client(user => $role, application_name => 'late');
	my $logged_late =
	  qr/<late> LOG:  pool client \d+: duration: 1\d\d\.\d+ ms  wait: (\d+)\.\d+ ms /;
	$client->val('BEGIN');
	$other->send(query('SELECT pg_sleep(0.1)'));
	$node->soon(
		"SELECT waiting_for > 50 FROM pool_status() WHERE role = '$role'",
		't', '... one waits for the slot');
	$client->val('COMMIT');
	$other->answer;
	$node->logged($logged_late, $logged, '... it is logged');
	my ($wait) = $node->log_since($logged) =~ $logged_late;
	cmp_ok($wait // 0, '>=', 50, '... with its wait');
	$other->terminate;

	my $too_fast =
	  $node->log_since($logged) =~ /duration: ([\d.]+) ms .*'too fast'/;
	ok(!$too_fast || $1 >= 100, '... and none that is faster');
	$client->terminate;
}

note 'who has waited for a slot, and given up';
{
	role('patient', client_idle => 3000);
	role('brief',   client_idle => 1);
	my $waiter  = $node->client(user => 'patient');
	my $blocker = $node->client(user => 'patient');

	$blocker->val('BEGIN');
	$waiter->send(query('SELECT 1'));
	$node->soon(
		q{SELECT waiting_for > 4000 FROM pool_status() WHERE role = 'patient'},
		't',
		'a client waits for longer than it may be idle');
	$waiter->cancel;
	is($waiter->answer->{error}{C}, '57014', 'its command is canceled');

	# the worker looks at all clients then
	$node->client(user => 'brief')->read_to_end;
	$blocker->val('COMMIT');
	is(eval { $waiter->val('SELECT 2') } // $@,
		'2', 'it has not been idle until then');
	$_->terminate foreach $waiter, $blocker;
}

$node->not_logged(qr/PANIC|TRAP/, $from, 'nothing has failed');
$node->stop;
done_testing();
