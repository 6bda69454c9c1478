# Copyright (c) pool_worker contributors

# Roles and databases change under warm slots, by commands that are executed
# anywhere in the server.  Whoever logs in or gets a slot afterwards must find
# the new state, nobody may lose a transaction or what he has pinned, clients
# that cannot be served any more must be told why, and a command that wants a
# database for itself must not be held up by slots that idle in it.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;
use Time::HiRes qw(time);

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 2
max_prepared_transactions = 2
wal_level = replica
max_wal_senders = 4
},
	hba => [
		'local all all trust',
		'local replication all trust',
		'host all carol 127.0.0.1/32 scram-sha-256',
		'host all all 127.0.0.1/32 trust'
	],
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE carol LOGIN PASSWORD 'right';
	CREATE ROLE owner LOGIN CREATEDB;
	CREATE DATABASE d1 OWNER owner;
	CREATE DATABASE d2 OWNER owner;
	SET allow_in_place_tablespaces = on;
	CREATE TABLESPACE elsewhere LOCATION '';
	GRANT CREATE ON TABLESPACE elsewhere TO owner;
	ALTER DATABASE d1 SET pw.of_all = 'no';
	ALTER ROLE bob IN DATABASE d2 SET pw.of_bob = '0';});

sub pid_of { return $_[0]->val('SELECT pg_backend_pid()'); }

# Is this backend still a slot?  As a test, and as a fact to be waited for.
sub ends
{
	my ($pid, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return $node->soon(
		"SELECT count(*) FROM pg_stat_activity WHERE pid = $pid",
		0, "$name: the slot ends");
}

# Everything that was to end because of earlier commands has been told so, for
# a slot that ends because of a later one has.
my $bob = $node->client(user => 'bob', database => 'd2');

sub all_told
{
	my $pid = pid_of($bob);

	$node->value('ALTER ROLE bob IN DATABASE d2 SET pw.of_bob = '
		  . $node->value('SELECT clock_timestamp()::text') =~ s/(.*)/'$1'/r);
	$node->until(
		sub {
			$node->value(
				"SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") ==
			  0;
		}) or die 'the worker does not look at changes';
	return;
}

my $alice = $node->client(user => 'alice', database => 'd1');

note 'what changes a slot, and what does not';
foreach my $case (
	[ 'ALTER ROLE SET',       q{ALTER ROLE alice SET pw.test = '1'},  1 ],
	[ 'ALTER ROLE RESET',     q{ALTER ROLE alice RESET pw.test},      1 ],
	[ 'ALTER DATABASE SET',   q{ALTER DATABASE d1 SET pw.test = '2'}, 1 ],
	[ 'ALTER DATABASE RESET', q{ALTER DATABASE d1 RESET ALL},         1 ],
	[
		'ALTER ROLE IN DATABASE',
		q{ALTER ROLE alice IN DATABASE d1 SET pw.test = '3'}, 1
	],
	[
		'ALTER ROLE IN DATABASE RESET',
		q{ALTER ROLE alice IN DATABASE d1 RESET ALL}, 1
	],
	[ 'ALTER ROLE ALL SET',   q{ALTER ROLE ALL SET pw.test = '4'},       1 ],
	[ 'ALTER ROLE ALL RESET', q{ALTER ROLE ALL RESET ALL},               1 ],
	[ 'PASSWORD',             q{ALTER ROLE alice PASSWORD 'new'},        1 ],
	[ 'VALID UNTIL',      q{ALTER ROLE alice VALID UNTIL '2100-01-01'},  1 ],
	[ 'ROLE RENAME',      q{ALTER ROLE alice RENAME TO alicia},          1 ],
	[ 'ROLE RENAME back', q{ALTER ROLE alicia RENAME TO alice},          1 ],
	[ 'GRANT on the database', q{GRANT CONNECT ON DATABASE d1 TO alice}, 1 ],
	[
		'REVOKE on the database',
		q{REVOKE TEMPORARY ON DATABASE d1 FROM PUBLIC}, 1
	],
	[ 'the owner of the database', q{ALTER DATABASE d1 OWNER TO bob}, 1 ],
	[ 'REASSIGN OWNED',            q{REASSIGN OWNED BY bob TO owner}, 1 ],
	[ 'GRANT to another', q{GRANT CREATE ON DATABASE d1 TO carol},    1 ],
	[ 'DROP OWNED',       q{DROP OWNED BY carol},                     1 ],
	[
		'inside a function',
		q{DO $$BEGIN ALTER ROLE alice SET pw.test = '5'; END$$}, 1
	],
	[ 'another role',     q{ALTER ROLE carol SET pw.test = '6'},  0 ],
	[ 'another database', q{ALTER DATABASE d2 SET pw.test = '7'}, 0 ],
	[
		'this role elsewhere',
		q{ALTER ROLE alice IN DATABASE d2 SET pw.test = '8'}, 0
	],
	[ 'GRANT elsewhere', q{GRANT CREATE ON DATABASE d2 TO carol}, 0 ],
	[
		'GRANT of nothing new',
		q{CREATE TABLE t(); GRANT SELECT ON t TO alice; DROP TABLE t}, 0
	],
	[
		'rolled back',
		q{BEGIN; ALTER ROLE alice SET pw.test = '9'; ROLLBACK}, 0
	],
	[
		'rolled back in part',
		q{BEGIN; SAVEPOINT s; ALTER ROLE alice SET pw.test = '10'; ROLLBACK TO s; COMMIT},
		0
	],
	[
		'prepared, and rolled back',
		q{BEGIN; ALTER ROLE alice SET pw.test = '11'; PREPARE TRANSACTION 'a'; ROLLBACK PREPARED 'a'},
		0
	],
	[
		'prepared, and committed',
		q{BEGIN; ALTER ROLE alice SET pw.test = '12'; PREPARE TRANSACTION 'a'; COMMIT PREPARED 'a'},
		1
	],
	[
		'connection limits',
		'ALTER ROLE alice CONNECTION LIMIT 9; ALTER DATABASE d1 CONNECTION LIMIT 9',
		0
	],
	[ 'vacuumed', q{VACUUM pg_database; VACUUM FREEZE pg_authid}, 0 ],
	[
		'many at once',
		join(';',
			'BEGIN',
			(map { "ALTER ROLE carol SET pw.v$_ = '$_'" } 1 .. 40),
			q{ALTER ROLE alice SET pw.test = '13'}, 'COMMIT'),
		1
	],)
{
	my ($name, $sql, $ends) = @$case;
	my $pid = pid_of($alice);

	$node->value($_) foreach $sql =~ /\$\$/ ? $sql : split /;\s*/, $sql;
	if ($ends)
	{
		ends($pid, $name);
		isnt(pid_of($alice), $pid,
			"$name: the client is served by another one");
	}
	else
	{
		all_told();
		is(pid_of($alice), $pid, "$name: the slot stays");
	}
}
is($alice->val('SHOW pw.test'), '13', 'a client finds the new setting');

note 'who logs in after a change finds it';
{
	my @wrong;

	foreach my $i (1 .. 20)
	{
		$node->value("ALTER ROLE alice SET pw.test = 'v$i'");
		my $client = $node->client(user => 'alice', database => 'd1');
		my $seen   = $client->val('SHOW pw.test');

		push @wrong, "$seen for v$i" if $seen ne "v$i";
		$client->terminate;
	}
	is("@wrong", '', 'in each of 20 tries');

	# also when the old slots have no time to notice
	my @pids = $node->slot_pids('d1', 'alice');
	cmp_ok(scalar @pids, '>', 0, 'there is a slot');
	kill 'STOP', @pids;
	$node->value(q{ALTER ROLE alice SET pw.test = 'stopped'});
	my $client = $node->client(user => 'alice', database => 'd1');
	is($client->val('SHOW pw.test'), 'stopped', 'it is not given to anybody');
	kill 'CONT', @pids;
	ends($_, 'stopped') foreach @pids;
	$client->terminate;
}

note 'a transaction, and state that pins, keep the slot';
foreach my $case (
	[ 'a transaction', 'BEGIN', 'COMMIT' ],
	[
		'a pin',
		'CREATE TEMPORARY TABLE kept AS SELECT 1 AS a',
		'DROP TABLE kept'
	])
{
	my ($name, $begin, $end) = @$case;

	$node->value("GRANT TEMPORARY ON DATABASE d1 TO PUBLIC");
	all_told();
	my $before = $alice->val('SHOW pw.test');

	$alice->val($begin);
	my $pid = pid_of($alice);
	$node->value("ALTER ROLE alice SET pw.test = '$name'");
	all_told();
	is(pid_of($alice),              $pid,    "$name: the slot stays");
	is($alice->val('SHOW pw.test'), $before, "$name: and is as it was");

	my $other = $node->client(user => 'alice', database => 'd1');
	is($other->val('SHOW pw.test'), $name, "$name: not for the next client");
	$other->terminate;
	$alice->val($end);
	ends($pid, $name);
	is($alice->val('SHOW pw.test'), $name, "$name: afterwards it is new");
}

note 'a session moves to the next slot';
{
	$alice->val(q{SET work_mem = '77kB'});
	$alice->val('PREPARE p AS SELECT 5');
	my $pid = pid_of($alice);
	$node->value(q{ALTER ROLE alice SET work_mem = '88kB'});
	ends($pid, 'a session');
	is($alice->val('SHOW work_mem'), '77kB', 'with what it has set');
	is($alice->val('EXECUTE p'),     '5',    'and prepared');
	$alice->val('RESET work_mem');
	is($alice->val('SHOW work_mem'), '88kB', 'the default is the new one');
	$alice->val('DEALLOCATE p');
}

note 'logins to a warm pool are checked as the role is now';
{
	my @carol = (host => '127.0.0.1', user => 'carol', database => 'd1');
	my $carol = $node->client(@carol, password => 'right');
	my $check = sub {
		my ($name, $sql, $like, $password) = @_;

		$node->value($sql);
		$node->same_answer($name, $like, @carol,
			password => $password || 'right');
		return;
	};

	$carol->val('SELECT 1');
	$check->('wrong password', 'SELECT 1', qr/28P01/, 'wrong');
	$check->('new password', q{ALTER ROLE carol PASSWORD 'next'}, qr/28P01/);
	$check->('new password', 'SELECT 1', qr/^ok/, 'next');
	is($carol->val('SELECT 2'), '2', 'who is in stays in');
	$check->(
		'expired',
		q{ALTER ROLE carol PASSWORD 'right' VALID UNTIL '2000-01-01'},
		qr/28P01/);
	is($carol->val('SELECT 3'), '3', 'who is in stays in');
	$check->(
		'valid again', q{ALTER ROLE carol VALID UNTIL 'infinity'}, qr/^ok/);
	$check->(
		'NOLOGIN',
		'ALTER ROLE carol NOLOGIN',
		qr/not permitted to log in/);
	$check->('LOGIN', 'ALTER ROLE carol LOGIN', qr/^ok/);
	$check->(
		'REVOKE CONNECT',
		'REVOKE CONNECT ON DATABASE d1 FROM PUBLIC',
		qr/permission denied/);
	$check->(
		'GRANT CONNECT',
		'GRANT CONNECT ON DATABASE d1 TO PUBLIC', qr/^ok/);
	$check->(
		'no connections',
		'ALTER DATABASE d1 ALLOW_CONNECTIONS false',
		qr/not currently accepting/);
	$check->(
		'connections', 'ALTER DATABASE d1 ALLOW_CONNECTIONS true', qr/^ok/);
	is($carol->val('SELECT 4'), '4', 'who said nothing meanwhile stays in');
	$carol->terminate;
}

note 'clients whose role or database does not let them in any more';
foreach my $case (
	[
		'NOLOGIN',
		'ALTER ROLE alice NOLOGIN',
		'ALTER ROLE alice LOGIN',
		qr/28000.*role "alice" is not permitted to log in/
	],
	[
		'REVOKE CONNECT',
		'REVOKE CONNECT ON DATABASE d1 FROM PUBLIC, alice',
		'GRANT CONNECT ON DATABASE d1 TO PUBLIC',
		qr/42501.*permission denied for database "d1"/
	])
{
	my ($name, $sql, $undo, $like) = @$case;
	my @clients =
	  map { $node->client(user => 'alice', database => 'd1') } 1 .. 3;
	my $from = $node->log_end;
	my $pid;

	$clients[0]->val('BEGIN');
	$pid = pid_of($clients[0]);
	$node->value($sql);
	all_told();
	like($clients[1]->ask('SELECT 1') && $clients[1]->error_text,
		$like, "$name: a client is told");
	ok($clients[1]->at_end, "$name: and closed");
	is(pid_of($clients[0]), $pid, "$name: a transaction goes on");
	$node->logged(
		qr/connection pool "d1\/alice" cannot open connections any more/,
		$from, "$name: logged");
	is( $node->value(
			q{SELECT state FROM pool_status() WHERE role = 'alice' AND database = 'd1'}
		),
		'failing',
		"$name: and shown");
	$clients[0]->val('COMMIT');
	ends($pid, $name);
	like($clients[0]->ask('SELECT 1') && $clients[0]->error_text,
		$like, "$name: but not the next one");

	$node->value($undo);
	is($clients[2]->val('SELECT 1'),
		'1', "$name: who did not notice is served again");
	$node->not_logged(qr/could not open a connection for pool/,
		$from, "$name: no slot was tried in vain");
	$_->close foreach @clients;
	$alice = $node->client(user => 'alice', database => 'd1')
	  if $alice->{eof};
}

note 'a role that is dropped';
{
	$node->value('CREATE ROLE dora LOGIN');
	my $dora = $node->client(user => 'dora', database => 'd1');
	my $pid  = pid_of($dora);

	$node->value('DROP ROLE dora');
	ends($pid, 'dropped');
	is( $node->value(
			q{SELECT clients FROM pool_status() WHERE role = 'dora'}),
		'1',
		'its pool stays as long as it has a client');
	$node->value('CREATE ROLE dora LOGIN');
	like(
		$dora->ask('SELECT 1') && $dora->error_text,
		qr/S=FATAL C=28000 M=role "dora" does not exist D=It has been dropped/,
		'the client is told');
	$node->soon(q{SELECT count(*) FROM pool_status() WHERE role = 'dora'},
		0, 'and its pool goes');
	is($node->client(user => 'dora', database => 'd1')->val('SELECT 1'),
		'1', 'another role of that name has a pool of its own');
}

note 'slots of the minimum are replaced';
{
	my $client = $node->client(user => 'alice', database => 'd1');
	$node->set('pool_worker.min_pool_size' => 1);
	my @pids = $node->slot_pids('d1', 'alice');

	cmp_ok(scalar @pids, '>', 0, 'there is a slot');
	$_->terminate foreach $client, $alice;
	$node->value(q{ALTER ROLE alice SET pw.test = 'minimum'});
	ends($_, 'minimum') foreach @pids;
	$node->soon(
		q{SELECT slots > 0 FROM pool_status() WHERE role = 'alice' AND database = 'd1'},
		't',
		'there is another one');
	my @new = $node->slot_pids('d1', 'alice');
	$alice = $node->client(user => 'alice', database => 'd1');
	my $pid = pid_of($alice);
	is(scalar(grep { $_ == $pid } @new), 1, 'which serves the next client');
	is($alice->val('SHOW pw.test'),      'minimum', 'and is new');
	$node->set('pool_worker.min_pool_size' => undef);
}

note 'under a load that leaves no slot idle';
{
	my @clients =
	  map { $node->client(user => 'alice', database => 'd1') } 1 .. 6;
	my $query = PoolWorker::Wire::msg_query(
		q{SELECT current_setting('pw.test') FROM pg_sleep(0.05)});
	my $wanted  = 0;
	my $answers = 0;
	my @errors;

	# each client goes on until it has seen the last value
	$_->send($query) foreach @clients;
	my @late = PoolWorker::Wire->pump(
		\@clients,
		sub {
			my ($client, $answer) = @_;

			push @errors, $client->error_text
			  if $answer->{error} || $answer->{lost};
			$node->value(
				"ALTER ROLE alice SET pw.test = 'load " . ++$wanted . q{'})
			  if ++$answers % 6 == 0 && $wanted < 5;
			return 0 if @errors || $answer->{rows}[0][0] eq 'load 5';
			return $client->send($query);
		});
	is("@errors",    '', 'nobody gets an error');
	is(scalar @late, 0,  'everybody finds the new setting');
	$_->terminate foreach @clients;
}

note 'who may connect as a member of a role that he leaves';
{
	$node->value('CREATE ROLE members');
	$node->value('GRANT members TO carol');
	$node->value('REVOKE CONNECT ON DATABASE d2 FROM PUBLIC');
	$node->value('GRANT CONNECT ON DATABASE d2 TO members, bob');
	my @carol   = (user => 'carol', database => 'd2');
	my @clients = map { $node->client(@carol) } 1 .. 2;

	$clients[0]->val('BEGIN');
	$node->value('REVOKE members FROM carol');
	$node->same_answer('a member no more', qr/permission denied/, @carol);
	$clients[1]->send(PoolWorker::Wire::msg_query('SELECT 1'));
	$node->soon(
		q{SELECT waiting FROM pool_status() WHERE role = 'carol' AND database = 'd2'},
		1,
		'a second slot is not opened');
	$clients[0]->val('COMMIT');
	is(PoolWorker::Wire::text($clients[1]->answer),
		'1', 'the first goes on, for both');
	$_->terminate foreach @clients;
	$node->value('GRANT CONNECT ON DATABASE d2 TO PUBLIC');
}

note 'databases that are dropped, renamed and copied';
foreach my $how ('direct', 'pool')
{
	my @boss = (database => 'd2', $how eq 'pool' ? () : (user => 'owner'));
	my $boss = $how eq 'pool' ? $node->client(@boss) : $node->direct(@boss);
	my @in   = (user => 'alice', database => 'd3');
	my $drop =
	  $how eq 'pool' ? 'DROP DATABASE d5 WITH (FORCE)' : 'DROP DATABASE d5';

	$boss->val('CREATE DATABASE d3');
	my @clients = map { $node->client(@in) } 1 .. 2;
	$_->val('BEGIN')  foreach @clients;
	$_->val('COMMIT') foreach @clients;
	$node->soon(q{SELECT idle FROM pool_status() WHERE database = 'd3'},
		'2', "$how: two idle slots");

	my $start = time;
	is($boss->sqlstate('CREATE DATABASE d4 TEMPLATE d3'), '', "$how: copied");
	is($clients[0]->val('SELECT current_database()'),
		'd3', "$how: the client did not notice");
	is($boss->sqlstate("ALTER DATABASE d3 SET TABLESPACE elsewhere"),
		'', "$how: moved");
	is($clients[0]->val('SELECT current_database()'),
		'd3', "$how: the client did not notice");
	is($boss->sqlstate('CREATE DATABASE d9 TEMPLATE d2'),
		'', "$how: copied where it is itself");
	$boss->val('DROP DATABASE d9');
	is($boss->sqlstate('ALTER DATABASE d3 RENAME TO d5'), '',
		"$how: renamed");
	cmp_ok(time - $start, '<', 4, "$how: nobody had to wait for slots");
	is($_->val('SELECT current_database()'),
		'd5', "$how: the client is there")
	  foreach @clients;
	is( $node->value(
			q{SELECT clients FROM pool_status() WHERE database = 'd5'}),
		'2',
		"$how: the pool has the new name");

	my $from = $node->log_end;
	$clients[0]->val('BEGIN') if $drop =~ /FORCE/;
	is($boss->sqlstate($drop), '', "$how: dropped");
	is($clients[0]->sqlstate('SELECT 1'),
		'57P01', "$how: who was at work is terminated")
	  if $drop =~ /FORCE/;
	like(
		$clients[1]->ask('SELECT 1') && $clients[1]->error_text,
		qr/S=FATAL C=3D000 M=database "d5" does not exist D=It has been dropped/,
		"$how: the client is told");
	$node->not_logged(qr/could not open a connection for pool/,
		$from, "$how: no slot was tried in vain");
	$_->close foreach @clients;
	$node->soon(q{SELECT count(*) FROM pool_status() WHERE database = 'd5'},
		0, "$how: the pool goes");
	$boss->val('DROP DATABASE d4');
	$boss->terminate;
}

$node->value('DROP TABLESPACE elsewhere');

note 'a rename that is not committed yet';
foreach my $case (
	[ 'COMMIT',     'BEGIN; RENAME' ],
	[ 'ROLLBACK',   'BEGIN; RENAME' ],
	[ 'terminated', 'BEGIN; RENAME' ],
	[ 'COMMIT',     'BEGIN; RENAME; SAVEPOINT s; SELECT 1/0; ROLLBACK TO s' ],
	[
		'COMMIT',
		'BEGIN; SAVEPOINT s; RENAME; RELEASE s; SAVEPOINT t; SELECT 1/0; ROLLBACK TO t'
	],
	[ 'ROLLBACK TO s', 'BEGIN; SAVEPOINT s; RENAME' ])
{
	my ($end, $begin) = @$case;
	my $boss   = $node->direct(user => 'owner', database => 'd2');
	my $client = $node->client(user => 'alice', database => 'd1');
	my $pid    = pid_of($boss);

	$client->val('SELECT 1');
	$boss->ask(s/RENAME/ALTER DATABASE d1 RENAME TO d6/r)
	  foreach split /; /, $begin;
	$client->send(PoolWorker::Wire::msg_query('SELECT current_database()'));
	$node->soon(
		q{SELECT waiting FROM pool_status() WHERE role = 'alice' AND database = 'd1'},
		1,
		"$begin: a client waits");
	is( $node->value(
			q{SELECT slots + opening FROM pool_status() WHERE role = 'alice' AND database = 'd1'}
		),
		'0',
		"$begin: no slot is tried");

	$end eq 'terminated'
	  ? $node->value("SELECT pg_terminate_backend($pid)")
	  : $boss->val($end);
	my $now = $end eq 'COMMIT' ? 'd6' : 'd1';
	is(PoolWorker::Wire::text($client->answer), $now, "$end: it is served");
	$client->terminate;
	$boss->close;
	$node->value('ALTER DATABASE d6 RENAME TO d1') if $end eq 'COMMIT';
}
$node->soon(q{SELECT count(*) FROM pool_status() WHERE database = 'd6'},
	0, 'no pool of that name is left');

note 'busy slots leave when they are idle';
{
	my @clients =
	  map { $node->client(user => 'alice', database => 'd1') } 1 .. 2;
	my $boss = $node->direct(user => 'owner', database => 'd2');

	$_->val('BEGIN') foreach @clients;
	$boss->send(
		PoolWorker::Wire::msg_query('ALTER DATABASE d1 RENAME TO d7'));
	$node->soon(
		q{SELECT wait_event IS NULL AND state = 'active' FROM pg_stat_activity WHERE query ~ 'd7$'},
		't',
		'the command counts the others');
	$_->val('COMMIT') foreach @clients;
	is(PoolWorker::Wire::text($boss->answer),
		'', 'it gets the database within the five seconds of the server');
	is($_->val('SELECT current_database()'), 'd7', 'and they go on')
	  foreach @clients;
	$_->val('BEGIN') foreach @clients;
	is($boss->sqlstate('ALTER DATABASE d7 RENAME TO d1'),
		'55006', 'a transaction that takes longer is respected');
	is($_->val('SELECT 1'), '1', 'and goes on') foreach @clients;
	$_->val('COMMIT') foreach @clients;
	is($boss->sqlstate('ALTER DATABASE d7 RENAME TO d1'), '',
		'then it works');
	$_->terminate foreach @clients, $boss;
}

note 'who may not do it disturbs nobody';
{
	my $client = $node->client(user => 'alice', database => 'd1');
	my $pid    = pid_of($client);

	is($bob->sqlstate($_), '42501', $_)
	  foreach 'DROP DATABASE d1', 'ALTER DATABASE d1 RENAME TO d8',
	  'CREATE DATABASE d8 TEMPLATE d1',
	  'ALTER DATABASE d1 SET TABLESPACE pg_default';
	all_told();
	is(pid_of($client), $pid, 'the slot stays');
	$client->terminate;
}

note q{the worker's own database};
{
	my $boss = $node->direct(database => 'd2');

	like(
		$boss->ask('DROP DATABASE postgres') && $boss->error_text,
		qr/C=55006.*H=.*pool_worker.database/,
		'the hint says what to do');
	$boss->terminate;
}

$_->terminate foreach $bob, $alice;
note 'a worker that is connected to no database';
{
	$node->append_conf('postgresql.conf', q{pool_worker.database = ''});
	$node->restart;
	$node->wait_for_pool;
	my @in     = (user => 'alice', database => 'd1');
	my $client = $node->client(@in);

	foreach my $case (
		[ 'settings', q{ALTER ROLE alice SET pw.test = 'no database'}, 'd1' ],
		[ 'rights',   'REVOKE TEMPORARY ON DATABASE d1 FROM PUBLIC',   'd1' ],
		[ 'name',     'ALTER DATABASE d1 RENAME TO d8',                'd8' ],
		[ 'name',     'ALTER DATABASE d8 RENAME TO d1',                'd1' ])
	{
		my ($name, $sql, $now) = @$case;
		my $pid = pid_of($client);

		$node->value($sql);
		ends($pid, $name);
		is($client->val('SELECT current_database()'),
			$now, "$name: the client is served by another");
	}
	is($client->val('SHOW pw.test'), 'no database', 'the setting is new');
	$client->terminate;
}

note 'a standby';
{
	$node->append_conf('postgresql.conf',
		q{pool_worker.database = 'postgres'});
	$node->restart;
	my $standby = PoolWorker->new('standby')->setup_standby($node);
	my $client  = $standby->client(user => 'alice', database => 'd1');
	my $pid     = pid_of($client);
	my $is_new  = sub {
		my ($name) = @_;
		ok( $standby->until(
				sub {
					$standby->value(
						"SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"
					) == 0;
				}),
			"$name: the slot ends");
		return;
	};

	$node->value(q{ALTER ROLE alice SET pw.test = 'replayed'});
	$is_new->('ALTER ROLE SET');
	is($client->val('SHOW pw.test'), 'replayed', 'the client finds it');

	$pid = pid_of($client);
	$node->value('DROP DATABASE d1');
	$is_new->('DROP DATABASE');
	my $error = $client->ask('SELECT 1') && $client->error_text;
	like(
		$error,
		qr/FATAL C=3D000/,
		'and is told when the database is dropped');
	$standby->soon(
		q{SELECT count(*) FROM pool_status() WHERE database = 'd1'},
		0, 'and the pool goes');
	$standby->stop;
}

$node->stop;
done_testing();
