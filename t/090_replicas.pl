# Copyright (c) pool_worker contributors

# A primary and two hot standbys that stream from it, each with a pool.  What
# the pool of a standby says about itself must be what the standby says, or
# clients that look for a primary go to the wrong one; what is replayed must
# reach warm slots, to which no command is sent; recovery ends transactions that
# are in its way, and only these; and after a promotion every client has to hear
# of it, once, wherever it was at that moment, and can write.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PoolWorker;
use PoolWorker::Wire qw(query);
use PostgreSQL::Test::Utils;
use Test::More;

# three servers, and a virtual machine for Java
$PoolWorker::file_timeout *= 2;

my $primary = PoolWorker->new('primary')->setup(
	conf => q{
pool_worker.pool_size = 2
wal_level = replica
max_wal_senders = 6
wal_keep_size = 256MB
max_standby_streaming_delay = 50ms
allow_in_place_tablespaces = on
wal_receiver_status_interval = 1
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
	CREATE ROLE reader LOGIN;
	ALTER ROLE reader SET default_transaction_read_only = on;
	CREATE DATABASE d1;
	CREATE DATABASE d2;
	CREATE TABLE t (id int);
	CREATE SEQUENCE s;
	CREATE TABLE old AS SELECT generate_series(1, 10);
	GRANT ALL ON old TO PUBLIC;
	INSERT INTO t VALUES (1);
	GRANT ALL ON t, s TO PUBLIC;});
my $standby = PoolWorker->new('standby')->setup_standby($primary);
my $other   = PoolWorker->new('other')
  ->setup_standby($primary, conf => q{pool_worker.database = 'd1'});

# What a client reads that is sent away, as text; "" if it is not.
sub farewell
{
	my ($client) = @_;
	my $answer = eval { $client->answer } || {};

	return
		$answer->{error} ? $client->error_text
	  : $client->{eof}   ? 'closed'
	  :                    '';
}

# Wait until a standby has replayed everything.
sub replayed
{
	my ($on) = @_;
	return $primary->wait_for_catchup($on, 'replay', $primary->lsn('insert'));
}

# A client of each port of a node: the one directly connected is what we
# compare with.
sub twins
{
	my ($node, %params) = @_;
	return ($node->client(%params), $node->direct(%params));
}

sub login_reports
{
	my ($client) = @_;
	return join "\n", sort map { "$_=$client->{params}{$_}" }
	  keys %{ $client->{params} };
}

note 'a standby is a standby, through its pool as well';
foreach my $case ([ $primary, 'off' ], [ $standby, 'on' ], [ $other, 'on' ])
{
	my ($node, $in_standby) = @$case;

	foreach my $user ('alice', 'reader')
	{
		my ($pool, $direct) = twins($node, user => $user);
		my $name = $node->name . ", $user";

		is(login_reports($pool), login_reports($direct),
			"$name: what is reported at login");
		is($pool->{params}{in_hot_standby},
			$in_standby, "$name: in_hot_standby is $in_standby");
		foreach my $setting ('in_hot_standby', 'transaction_read_only',
			'default_transaction_read_only')
		{
			is( $pool->val("SHOW $setting"),
				$direct->val("SHOW $setting"),
				"$name: SHOW $setting");
		}
		$_->terminate foreach $pool, $direct;
	}
}
{
	my ($pool, $direct) = twins($standby, user => 'alice');

	is($pool->val('SELECT pg_is_in_recovery(), count(*) FROM t'),
		't|1', 'it can be read');
	foreach my $sql (
		'INSERT INTO t VALUES (2)',
		'CREATE TEMP TABLE x (a int)',
		q{SELECT nextval('s')},
		'SELECT * FROM t FOR UPDATE',
		'BEGIN READ WRITE',
		'SET transaction_read_only = off',
		'BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1',
		'LISTEN x',
		q{PREPARE TRANSACTION 'x'})
	{
		my @said;
		foreach my $client ($pool, $direct)
		{
			$client->{error} = undef;
			$client->ask($sql);
			push @said, $client->error_text;
			$client->ask('ROLLBACK');
		}
		is($said[0], $said[1], "as directly: $sql");
		isnt($said[1], 'none', 'it is an error') unless $sql =~ /PREPARE/;
	}
	is($pool->sqlstate('INSERT INTO t VALUES (2)'),
		'25006', 'it cannot be written');
	$_->terminate foreach $pool, $direct;
}
is( $standby->value(
		'SELECT extversion FROM pg_extension WHERE extname = \'pool_worker\''
	),
	'1.0',
	'the extension has come with the backup');
$standby->soon(
	q{SELECT clients, failed FROM pool_status() WHERE role = 'alice'},
	'0|0', 'pool_status() on a standby');
is( $standby->value(
		'SELECT string_agg("check", \', \') FROM pool_check() WHERE NOT ok'),
	'',
	'pool_check() finds nothing wrong');
$standby->same_answer(
	'SCRAM', qr/^ok$/,
	user     => 'carol',
	host     => '127.0.0.1',
	password => 'right');
$standby->same_answer(
	'SCRAM, wrong password', qr/C=28P01 /,
	user     => 'carol',
	host     => '127.0.0.1',
	password => 'wrong');

# What target_session_attrs finds among several ports, by libpq.
sub choose
{
	my ($attrs, %params) = @_;
	my @nodes = @{ $params{among} };
	my $port  = $params{direct} ? 'port' : 'pool_port';
	my ($ret, $out, $err) = $primary->psql(
		'postgres',
		q{SELECT current_setting('port')},
		timeout => $PoolWorker::timeout,
		connstr => join ' ',
		'host=' . join(',', map { $_->host } @nodes),
		'port=' . join(',', map { $_->$port } @nodes),
		"dbname=postgres user=alice target_session_attrs=$attrs",
		$params{options} || '');
	my ($found) = grep { $_->port eq $out } @nodes;

	return $found ? $found->name : $err =~ s/.*failed: //sr;
}

note 'target_session_attrs';
foreach my $case (
	[ 'any',        [ $standby, $primary ],         'standby' ],
	[ 'any',        [ $primary, $standby ],         'primary' ],
	[ 'read-write', [ $standby, $primary ],         'primary' ],
	[ 'read-write', [ $other, $standby, $primary ], 'primary' ],
	[ 'read-write', [ $standby, $other ],   'session is read-only' ],
	[ 'read-only',  [ $primary, $other ],   'other' ],
	[ 'read-only',  [ $primary, $primary ], 'session is not read-only' ],
	[ 'primary',    [ $standby, $primary ], 'primary' ],
	[ 'primary',    [ $standby, $other ],   'server is in hot standby mode' ],
	[ 'standby',    [ $primary, $standby ], 'standby' ],
	[
		'standby', [ $primary, $primary ],
		'server is not in hot standby mode'
	],
	[ 'prefer-standby', [ $primary, $other ],   'other' ],
	[ 'prefer-standby', [ $primary, $primary ], 'primary' ])
{
	my ($attrs, $among, $expected) = @$case;
	my $name = "$attrs among " . join ', ', map { $_->name } @$among;

	is(choose($attrs, among => $among), $expected, $name);
	is(choose($attrs, among => $among, direct => 1),
		$expected, "$name: directly");
}

note 'load balancing';
SKIP:
{
	my $found = choose(
		'standby',
		among   => [ $primary, $standby, $other ],
		options => 'load_balance_hosts=random');

	skip 'libpq has no load_balance_hosts before version 16', 1
	  if $found =~ /invalid connection option/;
	my %seen;
	$primary->until(
		sub {
			$seen{
				choose(
					'standby',
					among   => [ $primary, $standby, $other ],
					options => 'load_balance_hosts=random')
			}++;
			return keys %seen == 2;
		});
	is_deeply(
		[ sort keys %seen ],
		[ 'other', 'standby' ],
		'libpq finds both standbys');
}

# The same by a driver that has it, see t/drivers/TestReplicas.java.
SKIP:
{
	my $jar     = '/usr/share/java/postgresql.jar';
	my $classes = PostgreSQL::Test::Utils::tempdir();
	my @java =
	  ('-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', '-XX:-UsePerfData');
	my ($out, $err) = ('', '');

	my $present = -e $jar
	  && IPC::Run::run([ 'sh', '-c', 'command -v javac' ], '>', \$out);

	ok($present, 'JDBC is installed') if $ENV{POOL_WORKER_REQUIRE_DRIVERS};
	skip 'JDBC is not installed', 1 unless $present;
	IPC::Run::run(
		[
			'javac', (map { "-J$_" } @java),
			'-cp', $jar, '-d', $classes,
			"$FindBin::RealBin/drivers/TestReplicas.java"
		],
		'>&',
		\$err,
		IPC::Run::timeout(5 * $PoolWorker::timeout)) or diag($err);

	foreach my $ports ('port', 'pool_port')
	{
		local $ENV{PGUSER} = 'alice';
		my $ok = IPC::Run::run(
			[
				'java', @java, '-cp', "$jar:$classes", 'TestReplicas',
				map { '127.0.0.1:' . $_->$ports } $primary,
				$standby, $other
			],
			'>',
			\($out = ''),
			'2>',
			\($err = ''),
			IPC::Run::timeout(5 * $PoolWorker::timeout));

		is( $out, "primary: t
secondary: f f
preferSecondary: f f
any: t f f
write: 25006
", "JDBC, $ports: targetServerType and loadBalanceHosts") or diag($err);
	}
}

note 'changes of roles and databases that are replayed';
{
	my $pool_size = "SELECT pool_size FROM pool_status()
		WHERE role = 'bob' AND database = 'postgres'";
	my $client = $standby->client(user => 'bob');
	my $pid    = $client->val('SELECT pg_backend_pid()');

	$primary->value('ALTER ROLE bob SET pool_worker.pool_size = 7');
	$standby->soon($pool_size, 7, 'ALTER ROLE SET pool_size');
	$primary->value('ALTER ROLE bob RESET pool_worker.pool_size');
	$primary->value('ALTER DATABASE postgres SET pool_worker.pool_size = 6');
	$standby->soon($pool_size, 6, 'ALTER DATABASE SET pool_size');
	$primary->value('ALTER DATABASE postgres RESET pool_worker.pool_size');
	$standby->soon($pool_size, 2, 'RESET');

	$primary->value(q{ALTER ROLE bob SET work_mem = '17MB'});
	ok($standby->until(sub { $client->val('SHOW work_mem') eq '17MB' }),
		'ALTER ROLE SET of a setting of the server');

	$primary->value('ALTER ROLE bob RENAME TO robert');
	ok( $standby->until(
			sub { $client->val('SELECT current_user') eq 'robert' }),
		'ALTER ROLE RENAME');
	is($standby->attempt('pool', user => 'robert'), 'ok', 'the new name');
	like($standby->attempt('pool', user => 'bob'),
		qr/C=28000 /, 'not the old one');
	$primary->value('ALTER ROLE robert RENAME TO bob');
	replayed($standby);

	my $busy = $standby->client(user => 'bob');
	$busy->val('BEGIN; SELECT 1');
	$primary->value('ALTER ROLE bob NOLOGIN');
	replayed($standby);
	$standby->same_answer('NOLOGIN', qr/C=28000 /, user => 'bob');
	ok( $standby->until(
			sub {
				$client->ask('SELECT 1');
				$client->{error}
				  && $client->error_text =~
				  /S=FATAL C=28000 M=role "bob" is not permitted to log in/;
			}),
		'a client that is connected is told');
	is($busy->val('SELECT 2'), '2', 'a transaction goes on');
	$_->close foreach $client, $busy;
	$primary->value('ALTER ROLE bob LOGIN');
	replayed($standby);
	$standby->same_answer('LOGIN', qr/^ok$/, user => 'bob');

	$primary->value(q{ALTER ROLE carol PASSWORD 'other'});
	replayed($standby);
	$standby->same_answer(
		'the new password', qr/^ok$/,
		user     => 'carol',
		host     => '127.0.0.1',
		password => 'other');
	$standby->same_answer(
		'the old one', qr/C=28P01 /,
		user     => 'carol',
		host     => '127.0.0.1',
		password => 'right');
}

note 'recovery conflicts: what is in the way of a lock is ended';
{
	my $conflicts = q{SELECT confl_lock FROM pg_stat_database_conflicts
		WHERE datname = 'postgres'};
	my $before = $standby->value($conflicts);
	my %doing  = (
		'a long query'        => 'SELECT pg_sleep(600) FROM t',
		'idle in transaction' => 'BEGIN; SELECT * FROM t',
		'in a subtransaction' =>
		  'BEGIN; SAVEPOINT a; SELECT * FROM t; SAVEPOINT b',
		'a query in a transaction' => 'BEGIN; SELECT pg_sleep(600) FROM t');
	my %clients;
	my $n = 0;

	foreach my $what (sort keys %doing)
	{
		# a pool for each
		$primary->value("CREATE ROLE conflict$n LOGIN");
		replayed($standby);
		$clients{$what} = [ twins($standby, user => "conflict$n") ];
		foreach my $client (@{ $clients{$what} })
		{
			$client->send(query($doing{$what}));
			$client->answer unless $doing{$what} =~ /sleep/;
		}
		$clients{$what}[2] = $standby->client(user => "conflict$n");
		$clients{$what}[2]->val('SELECT 1');
		$clients{$what}[3] = "conflict$n";
		$n++;
	}
	$standby->soon(
		q{SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass},
		2 * keys %doing,
		'all are in the way');
	my $from = $standby->log_end;
	$primary->value('ALTER TABLE t ADD COLUMN conflict int');
	foreach my $what (sort keys %doing)
	{
		my ($pool, $direct, $idle, $role) = @{ $clients{$what} };
		my $like =
		  $what eq 'a long query' || $what eq 'a query in a transaction'
		  ? qr/^S=ERROR C=40001 M=canceling statement due to conflict/
		  : qr/^S=FATAL C=40001 M=terminating connection due to conflict/;
		my $said = farewell($direct);

		like($said, $like, "$what: directly");
		is(farewell($pool), $said, "$what: the same in the pool");
		if ($said =~ /FATAL/)
		{
			ok($pool->at_end, 'and disconnected');
		}
		else
		{
			is($pool->{status}, $direct->{status},
				'its transaction is as directly');
			$pool->ask('ROLLBACK');
			is($pool->val('SELECT count(*) FROM t'), '1', 'and it goes on');
		}
		is($idle->val('SELECT count(*) FROM t'),
			'1', "$what: another client of this pool goes on");
		is($idle->val('SELECT count(*) FROM t'), '1', 'and on');
		$_->close foreach $pool, $direct, $idle;
	}
	replayed($standby);
	$standby->soon(
		$conflicts,
		$before + 2 * keys %doing,
		'and all are in the statistics');
	$standby->not_logged(qr/PANIC|TRAP|terminated by signal/,
		$from, 'no process has crashed');
	$standby->soon(
		q{SELECT sum(clients) FROM pool_status()
		WHERE role LIKE 'conflict%'}, 0, 'no client is left over');
}

note 'recovery conflicts: a snapshot';
{
	my ($pool, $direct) = twins($standby, user => 'alice');
	my $idle = $standby->client(user => 'alice');
	my $said;

	foreach my $client ($pool, $direct)
	{
		$client->val('BEGIN ISOLATION LEVEL REPEATABLE READ');
		is($client->val('SELECT count(*) FROM old'), '10', 'a snapshot');
	}
	$primary->value('DELETE FROM old');
	$primary->value('VACUUM (TRUNCATE false) old');
	$said = farewell($direct);
	like($said, qr/^S=FATAL C=40001 .* D=.*row versions/, 'directly');
	is(farewell($pool), $said, 'the same in the pool');
	replayed($standby);
	is($idle->val('SELECT count(*) FROM old'), '0', 'others go on');
	$_->close foreach $pool, $direct, $idle;
}

note 'DROP DATABASE is replayed';
{
	my $worker    = $standby->worker_pid;
	my $in_there  = $other->worker_pid;
	my $bystander = $other->client(database => 'd2', user => 'alice');
	my ($busy, $busy_twin)       = twins($standby, database => 'd1');
	my ($running, $running_twin) = twins($standby, database => 'd1');

	# both slots of this pool are taken; these share two others
	my @idle =
	  map { $standby->client(database => 'd1', user => 'alice') } 1 .. 4;
	my $elsewhere = $standby->client(database => 'd2', user => 'alice');

	$_->val('BEGIN; SELECT 1')              foreach $busy,    $busy_twin;
	$_->send(query('SELECT pg_sleep(600)')) foreach $running, $running_twin;
	$_->val('SELECT 1')                     foreach @idle, @idle, $elsewhere;
	$standby->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		2,
		'somebody at work');
	$standby->soon(
		q{SELECT state, count(*) FROM pool_clients() WHERE database = 'd1'
		AND role = 'alice' GROUP BY 1 ORDER BY 1},
		qr/^attached\|[12]\nparked\|[23]$/,
		'some are attached, some are parked');

	$primary->value('DROP DATABASE d1');
	replayed($standby);
	my $said = farewell($busy_twin);
	like($said, qr/^S=FATAL C=57P04 /, 'in a transaction: directly');
	is(farewell($busy), $said, 'the same in the pool');
	$said = farewell($running_twin);
	like($said, qr/^S=FATAL C=57P04 /, 'at work: directly');
	is(farewell($running), $said, 'the same in the pool');

	ok(!$_->wait_readable(0), 'who is idle has not been told anything')
	  foreach @idle;
	foreach my $client (@idle)
	{
		$client->ask('SELECT 1');
		like(
			$client->error_text,
			qr/^S=FATAL C=3D000 M=database "d1" does not exist/,
			'until it asks');
	}
	is($elsewhere->val('SELECT 1'), '1',     'the other database is served');
	is($standby->worker_pid,        $worker, 'by the same worker');

	# the only way to be in the way of it as a worker
	replayed($other);
	like(
		farewell($bystander),
		qr/^S=FATAL C=57P01 /,
		'a worker in that database ends');
	ok( $other->until(
			sub { my $now = $other->worker_pid; $now && $now ne $in_there }),
		'another one starts');
	$other->wait_for_pool;
	is($other->attempt('pool', user => 'alice'), 'ok', 'and serves');
	$_->close
	  foreach $busy, $busy_twin, $running, $running_twin, @idle, $elsewhere;
	$standby->soon(
		q{SELECT count(*) FROM pool_status() WHERE database = 'd1'},
		0, 'and the pools go');
}

note 'a database is moved: on a standby that ends its connections';
{
	my @in     = (database => 'd2', user => 'alice');
	my $client = $standby->client(@in);
	my $pid    = $client->val('SELECT pg_backend_pid()');

	$primary->value(q{CREATE TABLESPACE elsewhere LOCATION ''});
	$primary->value('ALTER DATABASE d2 SET TABLESPACE elsewhere');
	replayed($standby);
	isnt($client->val('SELECT pg_backend_pid()'), $pid, 'another slot');
	is( $client->val(
			'SELECT spcname FROM pg_database d, pg_tablespace s
			WHERE datname = current_database() AND dattablespace = s.oid'),
		'elsewhere',
		'where it is now');
	$client->terminate;
}

note 'the standby is restarted';
{
	my @clients = map { $standby->client(user => 'alice') } 1 .. 4;

	$_->val('SELECT 1') foreach @clients, @clients;
	$standby->restart;
	like(farewell($_), qr/^S=FATAL C=57P01 /, 'its clients are told')
	  foreach @clients;
	$_->close foreach @clients;
	$standby->wait_for_pool;
	my $client = $standby->client(user => 'alice');
	is($client->{params}{in_hot_standby}, 'on', 'and it is a standby again');
	$client->terminate;
}

note 'before a standby is consistent';
{
	my $late = PoolWorker->new('late')->setup_standby(
		$primary,
		conf  => q{primary_conninfo = 'host=/nonexistent'},
		start => 0);
	my $from;

	# without the end of the backup it cannot become consistent
	PostgreSQL::Test::Utils::system_log('rm', '-r',
		$late->data_dir . '/pg_wal');
	mkdir $late->data_dir . '/pg_wal';
	mkdir $late->data_dir . '/pg_wal/archive_status';
	chmod 0700, $late->data_dir . '/pg_wal';
	PostgreSQL::Test::Utils::system_log('pg_ctl', '--no-wait', '-D',
		$late->data_dir, '-l', $late->logfile, 'start');
	$late->_update_pid(1)
	  if $late->until(sub { -s $late->data_dir . '/postmaster.pid' });
	ok( $late->until(
			sub { $late->attempt('direct', user => 'alice') =~ /C=57P03 / }),
		'the server is not ready');
	is(eval { $late->raw('pool') },
		undef, 'nobody listens at the port of the pool');
	$late->append_conf('postgresql.conf',
			qq{primary_conninfo = 'host=}
		  . $primary->host
		  . ' port='
		  . $primary->port
		  . qq{ application_name=late'});
	$late->reload;
	$late->wait_for_pool;
	$late->logged(
		qr/consistent recovery state reached.*connection pool started/s,
		0, 'the pool starts when it is consistent');
	my $client = $late->client(user => 'alice');
	is($client->{params}{in_hot_standby}, 'on', 'and serves');
	$client->terminate;

	$primary->value('CREATE DATABASE d3');
	$primary->safe_psql('d3', 'CREATE EXTENSION pool_worker');
	replayed($late);
	$client = $late->client(user => 'alice', database => 'd3');
	is( $client->val(
			q{SELECT clients FROM pool_status() WHERE database = 'd3'}),
		'1',
		'CREATE EXTENSION is replayed');
	$client->terminate;

	# not held up by slots
	$late->control->terminate;
	$late->stop('smart');
}

note 'promotion';
{
	my @as = (user => 'alice');
	my %clients;

	# how often a client has been told since its login
	my $told = sub {
		my ($client) = @_;
		my $n = grep { $_ eq 'in_hot_standby=off' } @{ $client->{reports} };
		return "$n $client->{params}{in_hot_standby}";
	};

	# one slot is in a transaction, the others share one
	$clients{'in a transaction'} = $standby->client(@as);
	$clients{'in a transaction'}->val('BEGIN; SELECT 1');
	$clients{"parked $_"} = $standby->client(@as) foreach 1 .. 3;
	$clients{attached}    = $standby->client(@as);
	$clients{directly}    = $standby->direct(@as);
	$clients{$_}->val('SELECT 1')
	  foreach ('directly', (map { "parked $_" } 1 .. 3),
		'attached', 'attached');
	$clients{'in a pool of its own'} = $standby->client(user => 'bob');
	$clients{'in a pool of its own'}->val('SELECT 1');
	$clients{'session settings'} = $standby->client(
		user    => 'reader',
		options => '-c transaction_isolation=repeatable\ read');
	$clients{'session settings'}->val('SET work_mem = 12345');
	$standby->soon(
		q{SELECT state, count(*) FROM pool_clients() WHERE role = 'alice'
			GROUP BY 1 ORDER BY 1}, "attached|1\nparked|3\npinned|1",
		'some are attached, some are parked');
	is($told->($clients{$_}), '0 on', "$_: a standby")
	  foreach sort keys %clients;

	# the last change that is replayed
	$primary->value('ALTER ROLE bob SET pool_worker.pool_size = 5');
	replayed($standby);
	is($standby->value('SELECT pg_promote(true)'), 't', 'promoted');
	$primary->stop;
	is($told->($clients{$_}), '0 on', "$_: has not been told yet")
	  foreach sort keys %clients;

	$standby->soon(q{SELECT pool_size FROM pool_status() WHERE role = 'bob'},
		5, 'what was replayed last has been seen');

	# a slot that has not noticed, and a login on it
	my $new = $standby->client(@as);
	is($new->{params}{in_hot_standby},
		'off', 'a new client hears it at its login');
	is($new->val('INSERT INTO t VALUES (2) RETURNING id'), '2', 'and writes');
	is($told->($new), '1 off', 'it is told once');

	foreach my $round (1 .. 3)
	{
		foreach my $name (sort keys %clients)
		{
			my $client = $clients{$name};

			is($client->sqlstate('SELECT 1'), '',      "round $round: $name");
			is($told->($client),              '1 off', 'is told, once');
		}
	}
	my $old = $clients{'in a transaction'};
	is($old->sqlstate('INSERT INTO t VALUES (3)'),
		'25006', 'a transaction remains what it was');
	$old->ask('ROLLBACK');
	foreach my $name (sort keys %clients)
	{
		my $client    = $clients{$name};
		my $is_reader = $name eq 'session settings';

		$client->{error} = undef;
		$client->ask('SET transaction_read_only = off') if $is_reader;
		$client->ask('BEGIN READ WRITE')                if $is_reader;
		$client->ask('INSERT INTO t VALUES (4)');
		is($client->error_text, 'none', "$name: writes now");
		$client->ask('COMMIT') if $is_reader;
		is( $client->val('SHOW transaction_read_only'),
			$is_reader ? 'on' : 'off',
			'read only no more');
	}
	is($clients{'session settings'}->val('SHOW work_mem'),
		'12345kB', 'a session is what it was');
	is($told->($clients{$_}), '1 off', "$_: still told once")
	  foreach sort keys %clients;
	$_->terminate foreach $new, values %clients;

	is(choose('read-write', among => [ $other, $standby ]),
		'standby', 'target_session_attrs finds the new primary');
	is(choose('standby', among => [ $standby, $other ]),
		'other', 'and who is a standby still');

	# it is a primary in every respect
	$standby->value('CREATE ROLE dora LOGIN');
	my $client = $standby->client(user => 'dora');
	$standby->value('ALTER ROLE dora SET pool_worker.pool_size = 3');
	$standby->soon(q{SELECT pool_size FROM pool_status() WHERE role = 'dora'},
		3, 'commands reach the pool');
	$client->terminate;
	$standby->value('DROP DATABASE d2');
}

note 'promotion, with another slot after each transaction';
{
	$other->append_conf(
		'postgresql.conf', q{
pool_worker.debug_always_switch = on
primary_conninfo = ''
pool_worker.database = 'postgres'
});
	$other->restart;
	$other->wait_for_pool;
	my @clients = map { $other->client(user => 'alice') } 1 .. 6;
	my $rounds  = sub {
		my %slots;
		foreach my $round (1 .. 4)
		{
			$slots{ $_->val('SELECT pg_backend_pid()') } = 1 foreach @clients;
		}
		return scalar keys %slots;
	};

	is($rounds->(), 2, 'two slots');
	my $waiting = $other->client(user => 'bob');
	$other->value('SELECT pg_advisory_lock(1)');
	$waiting->send(query('SELECT pg_advisory_xact_lock(1), 11'));
	$other->soon('SELECT count(*) FROM pg_locks WHERE NOT granted',
		1, 'somebody at work');
	my $promoter = $other->client;
	is($promoter->val('SELECT pg_promote(true)'),
		't', 'promoted by a client of the pool');
	is($rounds->(), 2, 'the same two');
	$other->value('SELECT pg_advisory_unlock(1)');
	is(PoolWorker::Wire::text($waiting->answer),
		'|11', 'a query runs to its end');
	push @clients, $waiting, $promoter;
	is_deeply(
		[
			map {
				my $client = $_;
				join ' ', grep { /in_hot_standby/ } @{ $client->{reports} }
			} @clients
		],
		[ ('in_hot_standby=on in_hot_standby=off') x @clients ],
		'each client is told once');
	is( join(' ',
			map { $_->val('INSERT INTO t VALUES (5) RETURNING id') }
			  @clients),
		join(' ', (5) x @clients),
		'and writes');
	$_->terminate foreach @clients;
}

$_->stop foreach $standby, $other;
done_testing();
