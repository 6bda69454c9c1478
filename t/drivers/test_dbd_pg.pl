#!/usr/bin/perl
#
# Copyright (c) pool_worker contributors

# DBD::Pg, which prepares a statement under a name at its first execution here.
#
# Scenarios and facts are those of the other programs in this folder; what the
# environment says is described in t/060_drivers.pl.

use strict;
use warnings FATAL => 'all';
use utf8;
use DBD::Pg ':async';
use DBI;
use Encode;
use List::Util qw(uniq);
use Test::More;
use Time::HiRes qw(time usleep);

my $clients = $ENV{DRIVER_CLIENTS};
my $rounds  = $ENV{DRIVER_ROUNDS};
my $timeout = $ENV{DRIVER_TIMEOUT};
my $scenario;

sub same
{
	my ($fact, $got, $expected) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_deeply($got, $expected, "$scenario: $fact");
}

# The call fails with this SQLSTATE.
sub fails
{
	my ($fact, $sqlstate, $dbh, $sql, @values) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	eval { $dbh->do($sql, undef, @values); };
	return is($dbh->state, $sqlstate, "$scenario: $fact");
}

# At least one client, each given as a list of backends, has had several.
sub moved
{
	my ($fact, @clients) = @_;

	return unless $ENV{DRIVER_SWITCHES};
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok((grep { scalar uniq(@$_) > 1 } @clients) > 0,
		"$scenario: $fact");
}

# In AutoCommit mode unless begin_work() is called; $info is for libpq.
sub connected
{
	my ($info, %attributes) = @_;

	return DBI->connect(
		'dbi:Pg:' . ($info // ''),
		undef, undef,
		{
			RaiseError         => 1,
			PrintError         => 0,
			pg_server_prepare  => 1,
			pg_switch_prepared => 1,
			%attributes
		});
}

sub value
{
	my ($dbh, $sql, @values) = @_;
	return ($dbh->selectrow_array($sql, undef, @values))[0];
}

sub ids
{
	my ($dbh) = @_;
	return $dbh->selectcol_arrayref('SELECT id FROM item ORDER BY id');
}

sub readable
{
	my ($dbh) = @_;
	my $sockets = '';

	vec($sockets, $dbh->{pg_socket}, 1) = 1;
	return select($sockets, undef, undef, $timeout);
}

sub transactions
{
	my ($one, $other) = (connected(), connected());

	$one->begin_work;
	$one->do(q{INSERT INTO item VALUES (1, 'one')});
	same('not seen before the commit', ids($other), []);
	$one->commit;
	same('seen after the commit', ids($other), [1]);

	$one->begin_work;
	$one->do(q{INSERT INTO item VALUES (2, 'two')});
	$one->rollback;
	same('gone after a rollback', ids($one), [1]);

	$one->begin_work;
	$one->do('INSERT INTO item VALUES (?)', undef, 3);
	$one->pg_savepoint('s');
	fails("an error is the statement's",
		'23505', $one, 'INSERT INTO item VALUES (1)');
	fails("and the transaction's", '25P02', $one, 'SELECT 1');
	$one->pg_rollback_to('s');
	$one->do('INSERT INTO item VALUES (?)', undef, 4);
	$one->commit;
	same('a savepoint keeps what was before it', ids($other), [ 1, 3, 4 ]);
	moved('another backend after a transaction',
		[ map { value($other, 'SELECT pg_backend_pid()') } 1 .. 4 ]);
	$_->disconnect foreach $one, $other;
	return;
}

sub prepared_statements
{
	my ($one, $other) = (connected(), connected());
	my $add    = $one->prepare('SELECT ?::int + 1');
	my $concat = $other->prepare(q{SELECT 'a' || ?::text});

	foreach my $number (0 .. 3)
	{
		$add->execute($number);
		same(
			'the statement of one',
			$add->fetchall_arrayref,
			[ [ $number + 1 ] ]);
		$concat->execute($number);
		same(
			'the statement of the other',
			$concat->fetchall_arrayref,
			[ ["a$number"] ]);
	}
	my $own =
	  'SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE ';
	$one->{pg_server_prepare} = $other->{pg_server_prepare} = 0;
	same('a session has its own',
		value($one, "$own 'SELECT \$1::int + 1'"), 1);
	same('and no others', value($other, "$own 'SELECT \$1::int + 1'"), 0);
	undef $add;
	same('the driver deallocates it',
		value($one, "$own 'SELECT \$1::int + 1'"), 0);
	$one->do('PREPARE add (int, int) AS SELECT $1 + $2');
	$other->do('PREPARE add (text, text) AS SELECT $1 || $2');
	same('PREPARE',           value($one,   'EXECUTE add (1, 2)'),      3);
	same('is the session\'s', value($other, q{EXECUTE add ('a', 'b')}), 'ab');

	my $divide =
	  $other->prepare('SELECT 1 / ?::int', { pg_server_prepare => 1 });
	eval { $divide->execute(0); };
	same('an error leaves the statement as it is', $divide->state, '22012');
	$divide->execute(1);
	same('so that it can be used again', $divide->fetchall_arrayref, [ [1] ]);
	undef $_ foreach $divide, $concat;
	$_->disconnect foreach $one, $other;
	return;
}

sub cursors
{
	my ($one, $other) = (connected(), connected());
	my @found;

	$one->begin_work;
	$one->do('DECLARE rows CURSOR FOR SELECT generate_series(1, 10)');
	my $portion;
	do
	{
		$portion = $one->selectcol_arrayref('FETCH 3 FROM rows');
		push @found, @$portion;
		value($other, 'SELECT 1');
	} while (@$portion);
	same('a cursor returns its rows in portions', \@found, [ 1 .. 10 ]);
	$one->commit;

	$one->do(
		'DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT generate_series(1, 10)'
	);
	same(
		'WITH HOLD outlives its transaction',
		$one->selectcol_arrayref('FETCH 2 FROM held'),
		[ 1, 2 ]);
	value($other, 'SELECT 1');
	$one->do('MOVE BACKWARD 2 FROM held');
	same(
		'and can be scrolled afterwards',
		$one->selectcol_arrayref('FETCH 3 FROM held'),
		[ 1, 2, 3 ]);
	$one->do('CLOSE held');
	same(
		'nothing is left of them',
		$one->selectcol_arrayref(
			q{SELECT name FROM pg_cursors WHERE name <> ''}),
		[]);
	$_->disconnect foreach $one, $other;
	return;
}

sub copy_in
{
	my ($dbh, @lines) = @_;

	$dbh->do('COPY item FROM STDIN');
	$dbh->pg_putcopydata("$_\n") foreach @lines;
	return $dbh->pg_putcopyend;
}

sub copy
{
	my ($one,  $other) = (connected(), connected());
	my ($line, @lines);

	$one->begin_work;
	copy_in($one, "1\tone", "2\t\\N");
	same('what is copied in is not seen before the commit', ids($other), []);
	$one->commit;
	$one->do('COPY item TO STDOUT');
	push @lines, $line while $one->pg_getcopydata($line) >= 0;
	same('what is copied in comes out', \@lines, [ "1\tone\n", "2\t\\N\n" ]);
	eval { copy_in($one, '3'); };
	same('bad data is an error', $one->state, '22P04');
	copy_in($one, map { "$_\t" . 'x' x 100 } 3 .. 5002);
	same('much data as well',
		value($other, 'SELECT count(*) FROM item'), 5002);
	$_->disconnect foreach $one, $other;
	return;
}

sub notify
{
	my ($listener, $other) = (connected(), connected());

	$listener->do('LISTEN news');
	foreach my $number (0 .. 2)
	{
		$other->do(q{SELECT pg_notify('news', ?)}, undef, $number);
		readable($listener);
		my $note = $listener->pg_notifies;
		same(
			'an idle client is notified',
			$note && [ @$note[ 0, 2 ] ],
			[ 'news', $number ]);
	}
	$listener->do('UNLISTEN news');
	$other->do('NOTIFY news');
	value($listener, 'SELECT 1');
	same('but not after UNLISTEN', $listener->pg_notifies, undef);
	$_->disconnect foreach $listener, $other;
	return;
}

sub cancel
{
	my ($sleeper, $other) =
	  (connected('application_name=sleeper'), connected());
	my $deadline = time + $timeout;

	$sleeper->do('INSERT INTO item VALUES (1)');
	$sleeper->do('SELECT pg_sleep(' . 2 * $timeout . ')',
		{ pg_async => PG_ASYNC });
	usleep(10_000) until value(
		$other, q{SELECT count(*) FROM pg_stat_activity
			WHERE state = 'active' AND wait_event = 'PgSleep' AND application_name = 'sleeper'}
	) || time > $deadline;
	same('the statement ends',      $sleeper->pg_cancel, 1);
	same('and the session goes on', ids($sleeper),       [1]);
	$_->disconnect foreach $sleeper, $other;
	return;
}

sub pipeline
{
	my $one = connected();

	$one->do(join ';', map { "INSERT INTO item VALUES ($_)" } 1 .. 10);
	same('several statements in one message', ids($one), [ 1 .. 10 ]);
	my $update = $one->prepare('UPDATE item SET word = ? WHERE id = ?');
	$update->execute_array(undef, [ 1 .. 10 ], [ 1 .. 10 ]);
	same('execute_array', value($one, 'SELECT sum(word::int) FROM item'), 55);
	undef $update;
	$one->disconnect;
	return;
}

sub pipeline_error
{
	my $one = connected();

	fails('one of several statements fails', '22012', $one,
		'INSERT INTO item VALUES (1); SELECT 1 / 0; INSERT INTO item VALUES (2)'
	);
	same('then none has had an effect', ids($one), []);
	fails('except those before a COMMIT', '22012', $one,
		'BEGIN; INSERT INTO item VALUES (1); COMMIT; SELECT 1 / 0; INSERT INTO item VALUES (2)'
	);
	same('which are kept', ids($one), [1]);
	my $insert = $one->prepare('INSERT INTO item VALUES (6 / ?::int)');
	eval {
		$insert->execute_array({ ArrayTupleStatus => \my @status },
			[ 2, 0, 3 ]);
	};
	same('execute_array: each is for itself', ids($one), [ 1, 2, 3 ]);
	undef $insert;
	$one->disconnect;
	return;
}

sub settings
{
	my ($one, $other) = (connected(), connected());

	$one->do(q{SET work_mem = '1111kB'});
	$one->do(q{SELECT set_config('drivers.mine', ?, false)}, undef, 'mine');
	$one->begin_work;
	$one->do(q{SET work_mem = '2222kB'; SET LOCAL drivers.mine = 'local'});
	$one->rollback;
	foreach (1 .. 3)
	{
		same('SET stays, unless it is rolled back',
			value($one, 'SHOW work_mem'), '1111kB');
		same('set_config stays', value($one, 'SHOW drivers.mine'), 'mine');
		same('others have the default', value($other, 'SHOW work_mem'),
			'4MB');
	}
	$one->do(q{SET ROLE drivers_other; SET TIME ZONE 'Asia/Tokyo'});
	value($other, 'SELECT 1');
	same(
		'SET ROLE',
		[ $one->selectrow_array('SELECT session_user, current_user') ],
		[ 'drivers', 'drivers_other' ]);
	same('SET TIME ZONE', value($one, 'SHOW timezone'), 'Asia/Tokyo');
	$one->do('RESET ROLE; RESET ALL');
	same('RESET ALL', value($one, 'SHOW work_mem'), '4MB');

	$one->do(q{SET client_encoding = 'LATIN1'});
	value($other, 'SELECT 1');
	same('SET client_encoding', value($one, 'SHOW client_encoding'),
		'LATIN1');
	$one->{pg_enable_utf8} = 0;
	same(
		'and what it is for',
		value($one, q{SELECT chr(233)}),
		encode('iso-8859-1', 'é'));
	$_->disconnect foreach $one, $other;
	return;
}

sub startup
{
	my $one = connected("application_name='my name';client_encoding=LATIN1;"
		  . "options='-c work_mem=3333kB -c drivers.mine=started'");
	my $other = connected();

	foreach (1 .. 3)
	{
		same('application_name', value($one, 'SHOW application_name'),
			'my name');
		same('client_encoding', value($one, 'SHOW client_encoding'),
			'LATIN1');
		same('options', value($one, 'SHOW work_mem'), '3333kB');
		same('options, of no module',
			value($one, 'SHOW drivers.mine'), 'started');
		same('others have the default', value($other, 'SHOW work_mem'),
			'4MB');
	}
	$one->do(q{SET work_mem = '1MB'});
	$one->do('RESET work_mem');
	same('RESET goes back to them', value($one, 'SHOW work_mem'), '3333kB');
	$_->disconnect foreach $one, $other;
	return;
}

sub reconnect
{
	foreach my $number (1 .. $rounds)
	{
		my $one = connected();

		# waits for the one before, if it still holds it
		$one->do('SELECT pg_advisory_lock(1)');
		die "connection $number has inherited something"
		  if value($one, 'SHOW work_mem') ne '4MB' || @{ ids($one) };
		$one->do(q{SET work_mem = '1MB'});
		$one->do('PREPARE p AS SELECT 1; CREATE TEMPORARY TABLE t (i int)');
		$one->begin_work;
		$one->do('INSERT INTO item VALUES (1)');
		$one->disconnect;
	}
	return pass(
		"$scenario: no connection finds what the one before has left");
}

# One of many, whose session differs from all others'.
sub client
{
	my ($number) = @_;
	my $dbh = connected("application_name='client $number'");

	$dbh->do('SET work_mem = ' . (100 + $number));
	$dbh->do(q{SELECT set_config('drivers.mine', ?, false)},
		undef, "value $number");
	return {
		dbh      => $dbh,
		backends => [],
		expected => [
			"client $number",
			(100 + $number) . 'kB',
			"value $number",
			$number + 1
		],
		prepared => $dbh->prepare(
			"SELECT current_setting('application_name'), current_setting('work_mem'),
				current_setting('drivers.mine'), $number + ?::int, pg_backend_pid()",
			{ pg_async => PG_ASYNC })
	};
}

sub interleaved
{
	my @clients = map { client($_) } 1 .. $clients;

	foreach (1 .. $rounds)
	{
		# all ask, and then all listen
		$_->{prepared}->execute(1) foreach @clients;
		foreach my $client (@clients)
		{
			# since DBD::Pg 3.21 there are two answers to the first execution
			select(undef, undef, undef, 0.001) until $client->{dbh}->pg_ready;
			$client->{dbh}->pg_result;
			my ($row) = @{ $client->{prepared}->fetchall_arrayref };
			push @{ $client->{backends} }, pop @$row;
			push @{ $client->{found} },    $row;
		}
	}
	moved('sessions have moved', map { $_->{backends} } @clients);
	foreach my $client (@clients)
	{
		same('each client finds its own session',
			$client->{found}, [ ($client->{expected}) x $rounds ]);
		delete $client->{prepared};
		$client->{dbh}->disconnect;
	}
	return;
}

# One that dies has failed, and the next one is run.
foreach my $pair (
	[ 'transactions',        \&transactions ],
	[ 'prepared statements', \&prepared_statements ],
	[ 'cursors',             \&cursors ],
	[ 'copy',                \&copy ],
	[ 'notify',              \&notify ],
	[ 'cancel',              \&cancel ],
	[ 'pipeline',            \&pipeline ],
	[ 'pipeline error',      \&pipeline_error ],
	[ 'settings',            \&settings ],
	[ 'startup',             \&startup ],
	[ 'reconnect',           \&reconnect ],
	[ 'interleaved',         \&interleaved ])
{
	($scenario, my $function) = @$pair;
	my $ok = eval {
		my $dbh = connected();
		$dbh->do('DELETE FROM item');
		$dbh->disconnect;
		$function->();
		1;
	};
	fail("$scenario: no unexpected error: $@") unless $ok;
}
done_testing();
