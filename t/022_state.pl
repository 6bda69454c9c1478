# Copyright (c) pool_worker contributors

# State that a session leaves in its backend.  What can be moved must go with
# its client to whatever slot serves it, and must not keep it on one; what
# cannot must, with the reason shown in pool_clients(), until the state is gone.
# Whoever gets the slot in between or afterwards must find a session like a new
# one.  The measures are a session at the server's own port that has done the
# same, and a new one.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use Churn::Facts;
use PoolWorker;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 1
pool_worker.max_pinned = 0
max_prepared_transactions = 2
},
	sql => q{
	CREATE ROLE boss LOGIN SUPERUSER;
	CREATE ROLE other;
	CREATE ROLE alice LOGIN IN ROLE other;
	GRANT CREATE, USAGE ON SCHEMA public TO alice, other;
	GRANT TEMPORARY ON DATABASE postgres TO alice;
	CREATE SEQUENCE seq;
	CREATE TABLE numbered (id serial, word text);
	GRANT ALL ON ALL TABLES IN SCHEMA public TO alice;
	GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO alice;
	CREATE FUNCTION sets() RETURNS text LANGUAGE sql AS
		$$SELECT set_config('work_mem', '77kB', false)$$;
	CREATE FUNCTION locks() RETURNS void LANGUAGE plpgsql AS
		$$BEGIN PERFORM pg_advisory_lock(3); END$$;
	CREATE FUNCTION sets_in_trigger() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN PERFORM set_config('work_mem', '78kB', false); RETURN NULL; END$$;
	CREATE TRIGGER sets BEFORE DELETE ON numbered EXECUTE FUNCTION sets_in_trigger();
	CREATE FUNCTION restores() RETURNS void LANGUAGE sql SET work_mem = '79kB' AS 'SELECT';}
);

# What a session can find out about its own state: one fact per line.  The
# settings of plpgsql are there once a backend has used it, so it does.
my @questions = (
	q{DO $$BEGIN END$$; SELECT name, setting, source FROM pg_settings ORDER BY name},
	q{SELECT 'users', session_user, current_user},
	q{SELECT 'statement', name, statement, parameter_types, from_sql FROM pg_prepared_statements},
	q{SELECT 'cursor', name FROM pg_cursors WHERE is_holdable},
	q{SELECT 'channel', pg_listening_channels()},
	q{SELECT 'lock', mode, objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()},
	q{SELECT 'temporary', relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()},
	q{SELECT 'temporary', proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema()},
	q{SELECT 'placeholder', current_setting('my.own', true) IS NULL,
		current_setting('auto_explain.log_min_duration', true) IS NULL},);

sub found_by
{
	my ($client) = @_;
	my %found;

	foreach my $question (@questions)
	{
		$found{$_} = 1 foreach split /\n/, $client->val($question);
	}
	foreach my $sql (
		'SELECT lastval()',
		q{SELECT currval('seq')},
		'EXECUTE s',
		'MOVE c',
		'TABLE pg_temp.temporary')
	{
		my $answer = $client->ask($sql);
		my $error  = $answer->{error};

		$found{ "$sql: "
			  . ($error ? $error->{C} : PoolWorker::Wire::text($answer)) } =
		  1;
	}
	$found{"reported: $_=$client->{params}{$_}"} = 1
	  foreach keys %{ $client->{params} };
	return \%found;
}

# Two sessions find the same.
sub same_facts
{
	my ($found, $expected, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(
		join("\n",
			(map { "+ $_" } grep { !$expected->{$_} } sort keys %$found),
			(map { "- $_" } grep { !$found->{$_} } sort keys %$expected)),
		'', $name);
}

# A client that may have had to move finds what it should.
sub finds
{
	my ($client, $expected, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return same_facts(eval { found_by($client) } || { "+ $@" => 1 },
		$expected, $name);
}

# A new client sees what a new session would.  Both have an application_name,
# because the pool sets one for those who give none.
sub clean
{
	my ($name, $user) = @_;
	my $direct = $node->direct(user => $user, application_name => 'probe');
	my $client =
	  eval { $node->client(user => $user, application_name => 'probe') };

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return fail("$name: the next client is not served: $@") unless $client;
	finds($client, found_by($direct),
		"$name: the next client sees nothing of it");
	$_->terminate foreach $client, $direct;
	return;
}

sub pin_reason
{
	my ($client) = @_;
	return qq{SELECT coalesce(pin_reason, '') FROM pool_clients()
		WHERE application = '$client->{name}'};
}

my $serial = 0;

sub connected
{
	my ($user) = @_;
	my $name   = 'client' . ++$serial;
	my $client = $node->client(user => $user, application_name => $name);

	$client->{name} = $name;
	return $client;
}

sub act
{
	my ($client, $what) = @_;
	return ref $what ? $what->($client) : $client->val($what);
}

# Whoever draws from a sequence now gets the same values.
sub restart_sequences
{
	$node->value(
		q{SELECT setval('seq', 1000), setval('numbered_id_seq', 2000)});
	return;
}

# What a session at the server's own port finds after "on", and then after
# "off".
sub found_directly
{
	my ($state, $name) = @_;
	my $direct = $node->direct(
		user             => $state->{user} || 'alice',
		application_name => $name);
	my %found;

	restart_sequences();
	foreach my $step (grep { $state->{$_} } 'on', 'off')
	{
		act($direct, $state->{$step});
		$found{$step} = found_by($direct);
	}
	$direct->terminate;
	restart_sequences();
	return \%found;
}

# "on" makes the state and "off" ends it: SQL, or functions of a client.
# Without "off" only leaving ends it.  "pins" is the reason why the client has to
# keep its slot; without, it moves.  "random" says that the state is what
# random() returns next, "retires" that the slot ends with its client.
my @states = (
	{
		name => 'SET',
		on   => q{SET work_mem = '71kB'},
		off  => 'RESET work_mem'
	},
	{
		name => 'SET, back to what it was',
		on   => q{SET work_mem = '71kB'},
		off  => 'SET work_mem TO DEFAULT'
	},
	{
		name => 'SET of a reported setting',
		on   => q{SET DateStyle = 'German'; SET TIME ZONE 'Asia/Tokyo'},
		off  => 'RESET DateStyle; RESET TIME ZONE'
	},
	{
		name => 'SET NAMES',
		on   => q{SET NAMES 'LATIN1'},
		off  => 'RESET client_encoding'
	},
	{
		name => 'SET in a transaction',
		on   => q{BEGIN; SET search_path = 'nowhere'; COMMIT},
		off  => 'RESET ALL'
	},
	{
		name => 'SET SESSION CHARACTERISTICS',
		on   => 'SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY',
		off  => 'RESET default_transaction_read_only'
	},
	{
		name => 'SET of what belongs to a transaction',
		on   => q{SET transaction_isolation = serializable;
			BEGIN; SET TRANSACTION READ ONLY; COMMIT},
		off => 'DISCARD ALL'
	},
	{
		name => 'set_config()',
		on   => q{SELECT set_config('work_mem', '72kB', false)},
		off  => 'RESET work_mem'
	},
	{
		name => 'set_config() with a parameter',
		on   => sub {
			$_[0]->ask_extended(q{SELECT set_config('work_mem', $1, false)},
				'73kB');
		},
		off => 'DISCARD ALL'
	},
	{
		name => 'set_config() in a function',
		on   => 'SELECT sets()',
		off  => 'RESET work_mem'
	},
	{
		name => 'set_config() in a trigger',
		on   => 'DELETE FROM numbered',
		off  => 'RESET work_mem'
	},
	{
		name => 'SET in DO',
		on   => q{DO $$BEGIN SET work_mem = '74kB'; END$$},
		off  => 'RESET work_mem'
	},
	{
		name => 'a placeholder',
		on   => q{SET my.own = 'secret'},
		off  => 'RESET my.own'
	},
	{
		name => 'SET ROLE',
		on   => 'SET ROLE other',
		off  => 'RESET ROLE'
	},
	{
		name => 'SET ROLE, then DISCARD',
		on   => 'SET ROLE other',
		off  => 'DISCARD ALL'
	},
	{
		name => 'SET SESSION AUTHORIZATION',
		user => 'boss',
		on   => 'SET SESSION AUTHORIZATION other',
		off  => 'RESET SESSION AUTHORIZATION'
	},
	{
		name => 'PREPARE',
		on   => 'PREPARE s AS SELECT 1',
		off  => 'DEALLOCATE s'
	},
	{
		name => 'PREPARE and DISCARD',
		on   => 'PREPARE s AS SELECT 1',
		off  => 'DISCARD ALL'
	},
	{
		name => 'a named Parse',
		on   => sub {
			$_[0]->send(PoolWorker::Wire::msg_parse('s', 'SELECT 1')
				  . PoolWorker::Wire::msg_sync());
			$_[0]->answer;
		},
		off => sub {
			$_[0]->send(PoolWorker::Wire::msg_close('S', 's')
				  . PoolWorker::Wire::msg_sync());
			$_[0]->answer;
		}
	},
	{
		name => 'PREPARE in a transaction that fails',
		on   => sub {
			$_[0]->ask('BEGIN; PREPARE s AS SELECT 1; SELECT 1/0');
			$_[0]->ask('ROLLBACK');
		},
		off => 'DEALLOCATE ALL'
	},
	{
		name => 'a temporary table',
		pins => 'temporary objects',
		on   => 'CREATE TEMPORARY TABLE temporary (a int)',
		off  => 'DROP TABLE temporary'
	},
	{
		name => 'a temporary table and DISCARD',
		pins => 'temporary objects',
		on   => 'CREATE TEMPORARY TABLE temporary AS SELECT 1',
		off  => 'DISCARD TEMP'
	},
	{
		name => 'a temporary view',
		pins => 'temporary objects',
		on   => 'CREATE TEMPORARY VIEW temporary AS SELECT 1',
		off  => 'DROP VIEW temporary'
	},
	{
		name => 'a temporary function',
		pins => 'temporary objects',
		on   =>
		  q{CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'},
		off => 'DROP FUNCTION pg_temp.f()'
	},
	{
		name => 'an advisory lock',
		pins => 'session locks',
		on   => 'SELECT pg_advisory_lock(1)',
		off  => 'SELECT pg_advisory_unlock(1)'
	},
	{
		name => 'a shared advisory lock',
		pins => 'session locks',
		on   => 'SELECT pg_advisory_lock_shared(1)',
		off  => 'SELECT pg_advisory_unlock_all()'
	},
	{
		name => 'an advisory lock, tried',
		pins => 'session locks',
		on   => 'SELECT pg_try_advisory_lock(2, 2)',
		off  => 'SELECT pg_advisory_unlock(2, 2)'
	},
	{
		name => 'an advisory lock in a function',
		pins => 'session locks',
		on   => 'SELECT locks()',
		off  => 'DISCARD ALL'
	},
	{
		name => 'an advisory lock in a transaction that fails',
		pins => 'session locks',
		on   => sub {
			$_[0]->ask('BEGIN; SELECT pg_advisory_lock(1)');
			$_[0]->ask('ROLLBACK');
		},
		off => 'SELECT pg_advisory_unlock(1)'
	},
	{
		name => 'a holdable cursor',
		pins => 'holdable cursors',
		on   => 'DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 9)',
		off  => 'CLOSE c'
	},
	{
		name => 'LISTEN',
		pins => 'listen',
		on   => 'LISTEN news',
		off  => 'UNLISTEN news'
	},
	{
		name => 'LISTEN in a transaction',
		pins => 'listen',
		on   => 'BEGIN; LISTEN a; LISTEN b; COMMIT',
		off  => 'UNLISTEN *'
	},
	{
		name => 'nextval()',
		on   => q{SELECT nextval('seq')},
		off  => 'DISCARD SEQUENCES'
	},
	{
		name => 'a serial column',
		on   => q{INSERT INTO numbered (word) VALUES ('x')},
		off  => 'DISCARD ALL'
	},
	{
		name => 'setval()',
		on   => q{SELECT setval('seq', 100)},
		off  => 'DISCARD SEQUENCES'
	},
	{
		name    => 'LOAD',
		user    => 'boss',
		on      => q{LOAD 'auto_explain'},
		retires => 1
	},
	{
		name   => 'setseed()',
		pins   => 'random seed',
		random => 1,
		on     => 'SELECT setseed(0.5)'
	},
	{
		name   => 'SET seed',
		pins   => 'random seed',
		random => 1,
		on     => 'SET seed = 0.25'
	},
	{
		name   => 'setseed() in DO',
		pins   => 'random seed',
		random => 1,
		on     => 'DO $$BEGIN PERFORM setseed(0.5); END$$'
	},);

# What random() returns after "on", the first two times.
sub random_directly
{
	my ($state) = @_;
	my $direct = $node->direct;

	act($direct, $state->{on});
	my @numbers = map { $direct->val('SELECT random()') } 1, 2;
	$direct->terminate;
	return @numbers;
}

my %leave = (
	'reset'                 => sub { $_[0]->reset; },
	'terminate'             => sub { $_[0]->terminate; },
	'mid-transaction reset' =>
	  sub { $_[0]->ask('BEGIN; SELECT 1'); $_[0]->reset; },);
my @ways = sort keys %leave;

# Others have its slot, and it gets another one: the client has its state.
sub moves
{
	my ($client, $user, $name, $expected) = @_;

	$node->not_pinned($client, $user, "$name: not pinned");
	clean("$name, while its client is there", $user);
	finds($client, $expected, "$name: its client has it afterwards");
	$node->replace_slot($user);
	finds($client, $expected, "$name: and on another slot");
	return;
}

foreach my $n (0 .. $#states)
{
	my $state    = $states[$n];
	my $name     = $state->{name};
	my $user     = $state->{user} || 'alice';
	my $client   = connected($user);
	my $directly = found_directly($state, $client->{name});
	my @numbers  = $state->{random} ? random_directly($state) : ();

	act($client, $state->{on});
	if ($state->{pins})
	{
		$node->soon(pin_reason($client), $state->{pins}, "$name: pinned");
		finds($client, $directly->{on}, "$name: its client has it");
	}
	else
	{
		moves($client, $user, $name, $directly->{on});
	}
	if ($state->{off})
	{
		act($client, $state->{off});
		$node->not_pinned($client, $user, "$name, ended: not pinned");
		clean("$name, ended", $user);
		finds($client, $directly->{off}, "$name, ended: it is gone");
		act($client, $state->{on});
	}
	is($client->val('SELECT random()'), $numbers[0], "$name: it is its own")
	  if @numbers;

	my ($slot) = $node->slot_pids('postgres', $user);
	my $how = $ways[ $n % @ways ];
	$leave{$how}->($client);
	if (@numbers)
	{
		my $next = $node->client(user => $user);
		isnt($next->val('SELECT random()'),
			$numbers[1], "$name: nobody can foretell what is next");
		$next->terminate;
	}
	clean("$name, left by $how", $user);
	my ($now) = $node->slot_pids('postgres', $user);
	$state->{retires}
	  ? isnt($now, $slot, "$name: the slot is replaced")
	  : is($now, $slot, "$name: the slot is kept");
}

note 'what leaves nothing behind does not pin';
{
	my $client = connected('alice');

	foreach my $sql (
		'SELECT 1',
		q{SET LOCAL work_mem = '71kB'},
		q{BEGIN; SET work_mem = '71kB'; ROLLBACK},
		q{BEGIN; SET LOCAL work_mem = '71kB'; SET LOCAL ROLE other; COMMIT},
		q{SELECT set_config('work_mem', '71kB', true)},
		'SELECT restores()',
		'SELECT pg_advisory_xact_lock(1)',
		'BEGIN; SELECT pg_advisory_lock(1), pg_advisory_unlock(1); COMMIT',
		'BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT',
		'BEGIN; CREATE TEMPORARY TABLE gone (a int) ON COMMIT DROP; COMMIT',
		'BEGIN; CREATE TEMPORARY TABLE gone (a int); ROLLBACK',
		'BEGIN; LISTEN nothing; ROLLBACK',
		'SELECT random()',
		q{BEGIN; PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'},
		'DISCARD ALL')
	{
		$client->ask($sql);
		$node->not_pinned($client, 'alice', "not pinned by $sql");
	}
	$client->ask_extended('SELECT $1', 1);
	$node->not_pinned($client, 'alice', 'not pinned by an unnamed statement');
	$client->terminate;
	clean('after all these', 'alice');
}

note 'an advisory lock counts';
{
	my $client = connected('alice');

	$client->val('SELECT pg_advisory_lock(1), pg_advisory_lock(1)');
	$client->val('SELECT pg_advisory_unlock(1)');
	$node->soon(
		pin_reason($client),
		'session locks',
		'unlocked once of twice');
	$client->val('SELECT pg_advisory_unlock(1)');
	$node->not_pinned($client, 'alice', 'unlocked twice');
	$client->terminate;
}

# To find out which sequence was the last one we need locks on all of them.
note 'lastval() while somebody has locked a sequence';
{
	my $client = connected('alice');
	my $locker = $node->direct;

	$client->val('BEGIN');
	$client->val(q{SELECT nextval('numbered_id_seq')});
	my $last = $client->val(q{SELECT nextval('seq')});
	$locker->send(
		PoolWorker::Wire::msg_query(
			'BEGIN; ALTER SEQUENCE numbered_id_seq CACHE 1'));
	$node->soon(
		"SELECT wait_event_type FROM pg_stat_activity WHERE pid = $locker->{pid}",
		'Lock',
		'somebody wants it');
	$client->val('COMMIT');
	is($locker->answer->{types}, 'CCZ', 'and gets it');
	$node->soon(pin_reason($client), 'sequence values', 'pinned');
	$locker->val('COMMIT');
	$client->val('SELECT 1');
	$node->not_pinned($client, 'alice', 'until it is unlocked');
	clean('two sequences', 'alice');
	$node->replace_slot('alice');
	is($client->val('SELECT lastval()'), $last, 'it has its own');
	$_->terminate foreach $client, $locker;
}

note 'the reason is gone when the client has no slot';
{
	my ($first, $second) = map { connected('alice') } 1, 2;

	$first->val('BEGIN');
	$node->soon(pin_reason($first), 'transaction', 'a client is pinned');
	$node->value('SELECT pg_advisory_lock(5)');
	$second->send(
		PoolWorker::Wire::msg_query('SELECT pg_advisory_xact_lock(5)'));
	$first->val('COMMIT');
	$node->soon(
		q{SELECT c.application, s.state, s.pin_reason FROM pool_slots() s
			JOIN pool_clients() c USING (client) WHERE s.role = 'alice'},
		"$second->{name}|active|",
		'another one has its slot, for no reason but to work');
	is( $node->value(
			"SELECT state, pin_reason FROM pool_clients()
			WHERE application = '$first->{name}'"),
		'parked|',
		'and it is parked, for no reason');
	$node->value('SELECT pg_advisory_unlock(5)');
	is($second->answer->{types}, 'TDCZ', 'the other one is done');
	$_->terminate foreach $first, $second;
}

note 'the one slot is pinned, others wait';
{
	my ($holder, @waiting) = map { connected('alice') } 1 .. 6;

	$holder->val('CREATE TEMPORARY TABLE temporary AS SELECT 42 AS a');
	$_->send(PoolWorker::Wire::msg_query('SELECT 1')) foreach @waiting;
	is($holder->val('TABLE temporary'), '42', 'the holder has what it made')
	  foreach 1 .. 3;
	$node->soon(
		q{SELECT state, pin_reason FROM pool_slots() WHERE role = 'alice'},
		'pinned|temporary objects',
		'pool_slots() tells why');
	is(scalar(grep { $_->wait_readable(0) } @waiting),
		0, 'nobody else is served');
	$holder->val('DROP TABLE temporary');
	is(PoolWorker::Wire::text($_->answer), '1', 'until it is dropped')
	  foreach @waiting;
	$_->terminate foreach $holder, @waiting;
}

note 'a session that is too large to be moved';
$node->set('pool_worker.max_session_size' => '8kB');
{
	my $client = connected('alice');
	my $sql    = q{SELECT length(current_setting('my.own'))};
	my $grow   = sub {
		$client->val(
			"SELECT set_config('my.own', repeat('x', $_[0]), false)");
	};

	$grow->(7000);
	$node->not_pinned($client, 'alice', 'one that is not moves');
	clean('while it is small', 'alice');
	is($client->val($sql), '7000', 'whole');
	$grow->(9000);
	$node->soon(pin_reason($client), 'session size', 'one that is pins');
	is($client->val($sql), '9000', 'and goes on');
	$grow->(100);
	$node->not_pinned($client, 'alice', 'until it is small again');
	clean('small again', 'alice');
	is($client->val($sql), '100', 'its client has it');
	$grow->(9000);
	$client->terminate;
	clean('too large, and left', 'alice');
}
$node->set('pool_worker.max_session_size' => undef);

note 'sessions that move leave no memory behind';
$node->set('pool_worker.statement_cache_size' => 0);
{
	my @clients =
	  map { $node->client(user => 'boss', options => "-c work_mem=9$_") } 1,
	  2;
	my $used = q{SELECT used_bytes FROM pg_backend_memory_contexts
		WHERE name = 'TopMemoryContext'};
	my @bytes;

	$clients[0]->val("PREPARE of_the_first AS $used");
	foreach my $round (1 .. 600)
	{
		push @bytes, $clients[0]->val('EXECUTE of_the_first')
		  if $round % 200 == 0;
		$_->val('SELECT 1') foreach @clients;
	}
	cmp_ok($bytes[-1] - $bytes[0],
		'<', 4000, "hundreds of moves: @bytes bytes");
	$_->terminate foreach @clients;
}
$node->set('pool_worker.statement_cache_size' => undef);

note 'nor do clients that come and say nothing';
{
	my ($slot) = $node->slot_pids('postgres', 'boss');
	my @bytes;

	foreach my $round (1 .. 3)
	{
		foreach my $n (1 .. 250)
		{
			$node->client(user => 'boss', application_name => "client $n")
			  ->terminate;
		}
		push @bytes, Churn::Facts::memory_contexts($node, $slot)->{$slot};
	}
	cmp_ok($bytes[-1] - $bytes[0],
		'<', 60000, "hundreds of logins: @bytes bytes");
}

note 'session mode';
$node->set('pool_worker.pool_mode' => 'session');
{
	my $first = connected('alice');
	is($first->val(q{SET work_mem = '80kB'; SHOW work_mem}),
		'80kB', 'a client');
	$node->soon(pin_reason($first), 'session mode', 'is pinned by the mode');
	my ($slot) = $node->slot_pids('postgres', 'alice');
	my $second = $node->raw('pool');
	$second->send_startup(user => 'alice', database => 'postgres');
	$node->soon(
		q{SELECT count(*) FROM pool_clients() WHERE state = 'waiting'},
		1, 'the second waits');
	is($first->val('SHOW work_mem'), '80kB', 'as long as the first is there');
	$first->terminate;
	ok($second->finish_startup, 'and then has the slot');
	is($second->val('SHOW work_mem'), '4MB', 'clean');
	$second->terminate;
	clean('session mode', 'alice');
	is(($node->slot_pids('postgres', 'alice'))[0], $slot, 'and reused');
}

$node->stop;
done_testing();
