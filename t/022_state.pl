# Copyright (c) pool_worker contributors

# State that a session leaves in its backend.  A client that has any must keep
# its slot, with the reason shown in pool_clients(), until the state is gone;
# and whoever gets the slot afterwards must find a session like a new one.  The
# measure is a new session at the server's own port.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 1
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

# What a session can find out about its own state: one fact per line.
my @questions = (
	q{SELECT name, setting, source FROM pg_settings ORDER BY name},
	q{SELECT 'users', session_user, current_user},
	q{SELECT 'statement', name FROM pg_prepared_statements},
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

	# so that the settings of plpgsql are there in any session
	$client->val('DO $$BEGIN END$$');
	foreach my $question (@questions)
	{
		$found{$_} = 1 foreach split /\n/, $client->val($question);
	}
	foreach my $sql (
		'SELECT lastval()',
		q{SELECT currval('seq')},
		'EXECUTE s',
		'FETCH c',
		'TABLE pg_temp.temporary')
	{
		$found{ "$sql: " . $client->sqlstate($sql) } = 1;
	}
	return \%found;
}

# A new client sees what a new session would.  Both have an application_name,
# because the pool sets one for those who give none.
sub clean
{
	my ($name, $user) = @_;
	my $direct   = $node->direct(user => $user, application_name => 'probe');
	my $expected = found_by($direct);
	my $client =
	  eval { $node->client(user => $user, application_name => 'probe') };

	$direct->terminate;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return fail("$name: the next client is not served: $@") unless $client;
	my $found   = eval { found_by($client) } || {};
	my @differs = (
		(map { "+ $_" } grep { !$expected->{$_} } sort keys %$found),
		(map { "- $_" } grep { !$found->{$_} } sort keys %$expected));
	$client->terminate;
	return is(join("\n", @differs),
		'', "$name: the next client sees nothing of it");
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

# "on" makes the state and "off" ends it: SQL, or functions of a client.
# Without "off" only leaving ends it.  "retired" says that the slot may not
# serve anybody else.
my @states = (
	{
		name   => 'SET',
		reason => 'settings',
		on     => q{SET work_mem = '71kB'},
		off    => 'RESET work_mem'
	},
	{
		name   => 'SET, back to what it was',
		reason => 'settings',
		on     => q{SET work_mem = '71kB'},
		off    => 'SET work_mem TO DEFAULT'
	},
	{
		name   => 'SET of a reported setting',
		reason => 'settings',
		on     => q{SET DateStyle = 'German'; SET TIME ZONE 'Asia/Tokyo'},
		off    => 'RESET DateStyle; RESET TIME ZONE'
	},
	{
		name   => 'SET NAMES',
		reason => 'settings',
		on     => q{SET NAMES 'LATIN1'},
		off    => 'RESET client_encoding'
	},
	{
		name   => 'SET in a transaction',
		reason => 'settings',
		on     => q{BEGIN; SET search_path = 'nowhere'; COMMIT},
		off    => 'RESET ALL'
	},
	{
		name   => 'SET SESSION CHARACTERISTICS',
		reason => 'settings',
		on     => 'SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY',
		off    => 'RESET default_transaction_read_only'
	},
	{
		name   => 'set_config()',
		reason => 'settings',
		on     => q{SELECT set_config('work_mem', '72kB', false)},
		off    => 'RESET work_mem'
	},
	{
		name   => 'set_config() with a parameter',
		reason => 'settings',
		on     => sub {
			$_[0]->ask_extended(q{SELECT set_config('work_mem', $1, false)},
				'73kB');
		},
		off => 'DISCARD ALL'
	},
	{
		name   => 'set_config() in a function',
		reason => 'settings',
		on     => 'SELECT sets()',
		off    => 'RESET work_mem'
	},
	{
		name   => 'set_config() in a trigger',
		reason => 'settings',
		on     => 'DELETE FROM numbered',
		off    => 'RESET work_mem'
	},
	{
		name   => 'SET in DO',
		reason => 'settings',
		on     => q{DO $$BEGIN SET work_mem = '74kB'; END$$},
		off    => 'RESET work_mem'
	},
	{
		name    => 'a placeholder',
		reason  => 'settings',
		retired => 1,
		on      => q{SET my.own = 'secret'}
	},
	{
		name   => 'SET ROLE',
		reason => 'settings',
		on     => 'SET ROLE other',
		off    => 'RESET ROLE'
	},
	{
		name   => 'SET ROLE, then DISCARD',
		reason => 'settings',
		on     => 'SET ROLE other',
		off    => 'DISCARD ALL'
	},
	{
		name   => 'SET SESSION AUTHORIZATION',
		reason => 'settings',
		user   => 'boss',
		on     => 'SET SESSION AUTHORIZATION other',
		off    => 'RESET SESSION AUTHORIZATION'
	},
	{
		name   => 'PREPARE',
		reason => 'prepared statements',
		on     => 'PREPARE s AS SELECT 1',
		off    => 'DEALLOCATE s'
	},
	{
		name   => 'PREPARE and DISCARD',
		reason => 'prepared statements',
		on     => 'PREPARE s AS SELECT 1',
		off    => 'DISCARD ALL'
	},
	{
		name   => 'a named Parse',
		reason => 'prepared statements',
		on     => sub {
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
		name   => 'PREPARE in a transaction that fails',
		reason => 'prepared statements',
		on     => sub {
			$_[0]->ask('BEGIN; PREPARE s AS SELECT 1; SELECT 1/0');
			$_[0]->ask('ROLLBACK');
		},
		off => 'DEALLOCATE ALL'
	},
	{
		name   => 'a temporary table',
		reason => 'temporary objects',
		on     => 'CREATE TEMPORARY TABLE temporary (a int)',
		off    => 'DROP TABLE temporary'
	},
	{
		name   => 'a temporary table and DISCARD',
		reason => 'temporary objects',
		on     => 'CREATE TEMPORARY TABLE temporary AS SELECT 1',
		off    => 'DISCARD TEMP'
	},
	{
		name   => 'a temporary view',
		reason => 'temporary objects',
		on     => 'CREATE TEMPORARY VIEW temporary AS SELECT 1',
		off    => 'DROP VIEW temporary'
	},
	{
		name   => 'a temporary function',
		reason => 'temporary objects',
		on     =>
		  q{CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'},
		off => 'DROP FUNCTION pg_temp.f()'
	},
	{
		name   => 'an advisory lock',
		reason => 'session locks',
		on     => 'SELECT pg_advisory_lock(1)',
		off    => 'SELECT pg_advisory_unlock(1)'
	},
	{
		name   => 'a shared advisory lock',
		reason => 'session locks',
		on     => 'SELECT pg_advisory_lock_shared(1)',
		off    => 'SELECT pg_advisory_unlock_all()'
	},
	{
		name   => 'an advisory lock, tried',
		reason => 'session locks',
		on     => 'SELECT pg_try_advisory_lock(2, 2)',
		off    => 'SELECT pg_advisory_unlock(2, 2)'
	},
	{
		name   => 'an advisory lock in a function',
		reason => 'session locks',
		on     => 'SELECT locks()',
		off    => 'DISCARD ALL'
	},
	{
		name   => 'an advisory lock in a transaction that fails',
		reason => 'session locks',
		on     => sub {
			$_[0]->ask('BEGIN; SELECT pg_advisory_lock(1)');
			$_[0]->ask('ROLLBACK');
		},
		off => 'SELECT pg_advisory_unlock(1)'
	},
	{
		name   => 'a holdable cursor',
		reason => 'holdable cursors',
		on  => 'DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 9)',
		off => 'CLOSE c'
	},
	{
		name   => 'LISTEN',
		reason => 'listen',
		on     => 'LISTEN news',
		off    => 'UNLISTEN news'
	},
	{
		name   => 'LISTEN in a transaction',
		reason => 'listen',
		on     => 'BEGIN; LISTEN a; LISTEN b; COMMIT',
		off    => 'UNLISTEN *'
	},
	{
		name   => 'nextval()',
		reason => 'sequence values',
		on     => q{SELECT nextval('seq')},
		off    => 'DISCARD SEQUENCES'
	},
	{
		name   => 'a serial column',
		reason => 'sequence values',
		on     => q{INSERT INTO numbered (word) VALUES ('x')},
		off    => 'DISCARD ALL'
	},
	{
		name   => 'setval()',
		reason => 'sequence values',
		on     => q{SELECT setval('seq', 100)},
		off    => 'DISCARD SEQUENCES'
	},
	{
		name    => 'LOAD',
		reason  => 'loaded libraries',
		user    => 'boss',
		retired => 1,
		on      => q{LOAD 'auto_explain'}
	},
	{
		name    => 'setseed()',
		reason  => 'random seed',
		retired => 1,
		on      => 'SELECT setseed(0.5)'
	},
	{
		name    => 'SET seed',
		reason  => 'random seed',
		retired => 1,
		on      => 'SET seed = 0.25'
	},
	{
		name    => 'setseed() in DO',
		reason  => 'random seed',
		retired => 1,
		on      => 'DO $$BEGIN PERFORM setseed(0.5); END$$'
	},);

sub act
{
	my ($client, $what) = @_;
	return ref $what ? $what->($client) : $client->val($what);
}

my %leave = (
	'reset'                 => sub { $_[0]->reset; },
	'terminate'             => sub { $_[0]->terminate; },
	'mid-transaction reset' =>
	  sub { $_[0]->ask('BEGIN; SELECT 1'); $_[0]->reset; },);
my @ways = sort keys %leave;

foreach my $n (0 .. $#states)
{
	my $state  = $states[$n];
	my $name   = $state->{name};
	my $user   = $state->{user} || 'alice';
	my $client = connected($user);
	my ($slot) = $node->slot_pids('postgres', $user);

	act($client, $state->{on});
	$node->soon(pin_reason($client), $state->{reason}, "$name: pinned");
	if ($state->{off})
	{
		act($client, $state->{off});
		$node->soon(pin_reason($client), '', "$name: no longer pinned");
		clean("$name, ended", $user);
		act($client, $state->{on});
	}
	my $how = $ways[ $n % @ways ];
	$leave{$how}->($client);
	clean("$name, left by $how", $user);
	my ($now) = $node->slot_pids('postgres', $user);
	isnt($now, $slot, "$name: the slot is retired") if $state->{retired};
	is($now, $slot, "$name: the slot is kept")      if $state->{off};
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
		is($node->value(pin_reason($client)), '', "not pinned by $sql");
	}
	$client->ask_extended('SELECT $1', 1);
	is($node->value(pin_reason($client)),
		'', 'not pinned by an unnamed statement');
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
	$node->soon(pin_reason($client), '', 'unlocked twice');
	$client->terminate;
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
	$node->soon(q{SELECT count(*) FROM pool_clients() WHERE state = 'parked'},
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
