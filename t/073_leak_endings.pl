# Copyright (c) pool_worker contributors

# Leak suite: what a client has begun and not finished when it ends, and what
# outlives its transaction by itself.  Open transactions with their locks, half
# a message, COPY, large objects, prepared transactions; a cancel that comes
# after the slot has gone on to somebody else; pg_dump, whose settings would
# ruin the next client's queries.  How that is tried says LeakSuite.pm.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use LeakSuite;
use PostgreSQL::Test::Utils qw(run_command slurp_file append_to_file);
use Test::More;

my $suite = LeakSuite->new(
	conf => 'max_prepared_transactions = 2',
	sql  => q{
	CREATE TABLE t (a int PRIMARY KEY, b text);
	INSERT INTO t VALUES (1, 'one'), (2, 'two')});
my $node = $suite->node;

# Bytes that get no answer.
sub bytes
{
	my ($bytes) = @_;
	return sub { $_[0]->send($bytes); return ''; };
}

sub copy_data { return PoolWorker::Wire::msg_copy_data(@_); }
sub query     { return PoolWorker::Wire::msg_query(@_); }

# 15. the end in the middle of a transaction, or of a message
my $unlocked = [
	'SELECT * FROM t ORDER BY a',
	'BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT',
	'SHOW transaction_isolation'
];
my $insert = q{INSERT INTO t VALUES (3, 'three')};
my $large =
  'SELECT repeat(md5(n::text), 100) FROM generate_series(1, 5000) n';

$suite->run(
	table(
		{ probe => $unlocked, open => 1 },
		[ 'a transaction', [ 'BEGIN', 'SELECT * FROM t ORDER BY a' ] ],
		[
			'LOCK TABLE', [ 'BEGIN', 'LOCK TABLE t IN ACCESS EXCLUSIVE MODE' ]
		],
		[ 'a row', [ 'BEGIN', $insert ] ],
		[
			'a row that is locked',
			[ 'BEGIN', 'SELECT * FROM t WHERE a = 1 FOR UPDATE' ]
		],
		[
			'a transaction that has failed',
			[ 'BEGIN', $insert, 'SELECT 1 / 0' ]
		],
		[
			'savepoints',
			[ 'BEGIN; SAVEPOINT a', $insert, 'SAVEPOINT b', 'SELECT 1 / 0' ]
		],
		[
			'a serializable transaction',
			[
				'BEGIN ISOLATION LEVEL SERIALIZABLE',
				'SELECT * FROM t ORDER BY a',
				$insert
			]
		],
		[ 'a read-only transaction', [ 'BEGIN READ ONLY', 'SELECT 1' ] ],
		[
			'an exported snapshot',
			[
				'BEGIN ISOLATION LEVEL REPEATABLE READ',
				'SELECT pg_export_snapshot() IS NULL'
			]
		],
		[ 'a table',  [ 'BEGIN', 'CREATE TABLE made (a int)' ] ],
		[ 'a cursor', [ 'BEGIN; DECLARE c CURSOR FOR TABLE t', 'FETCH c' ] ],
		[
			'a portal',
			[
				'BEGIN',
				group(Parse('s', 'TABLE t'), Bind('c', 's'), Execute('c', 1))
			]
		],
		[ 'a chain', [ 'BEGIN', $insert, 'ROLLBACK AND CHAIN', $insert ] ],
		[
			'everything',
			[
				'BEGIN',
				q{SET work_mem = '71kB'; SET LOCAL TimeZone = 'UTC'},
				q{SET ROLE other; SET my.var = 'own'},
				'CREATE TEMPORARY TABLE temporary (a int)',
				'PREPARE s AS SELECT 1',
				'LISTEN news',
				'DECLARE c CURSOR WITH HOLD FOR SELECT 1',
				'SELECT pg_advisory_lock(1)',
				'RESET ROLE',
				$insert
			],
			retire => 1
		],
		# nobody reads the answer
		[ 'a large answer', bytes(query($large)) ],
		[
			'a large answer in a transaction',
			[ 'BEGIN', $insert, bytes(query($large)) ]
		]));

# A message that never ends.  What follows, Terminate also, becomes part of it.
# A backend that has lost its place within an extended query ends.
my @halves = (
	[ 'the type of a message',    'Q' ],
	[ 'half a length',            "Q\0\0" ],
	[ 'a length',                 "Q\0\0\1\0" ],
	[ 'half a query',             substr(query($insert), 0, 12) ],
	[ 'a length of a megabyte',   "Q\0\x10\0\0SELECT 1" ],
	[ 'half a Parse',             substr(Parse('s', $insert), 0, 12), 1 ],
	[ 'a Parse, and half a Bind', Parse('s', $insert) . "B\0\0\1\0",  1 ]);

foreach
  my $place ([ 'idle', [] ], [ 'in a transaction', [ 'BEGIN', $insert ] ])
{
	my ($where, $before) = @$place;
	$suite->run(
		table(
			{
				columns => [qw(name do retire)],
				probe   => $unlocked,
				open    => 1
			},
			map {
				my ($name, $half, $ends) = @$_;
				[ "$name, $where", [ @$before, bytes($half) ], $ends ]
			} @halves));
}

# 16. COPY.  A Terminate in it ends a backend, as does being lost in one that
# was begun by an extended query.
my $copy = 'COPY t FROM STDIN';

$suite->run(
	table(
		{ probe => $unlocked, open => 1, retire => 'terminate' },
		[ 'COPY FROM',       $copy ],
		[ 'COPY FROM, data', [ $copy, bytes(copy_data("3\tthree\n")) ] ],
		[ 'COPY FROM, half a line', [ $copy, bytes(copy_data("3\tth")) ] ],
		[
			'COPY FROM, half a message',
			[ $copy, bytes(substr copy_data("3\tthree\n"), 0, 8) ]
		],
		[
			'COPY FROM, bad data',
			[ $copy, bytes(copy_data("no number\n") x 3) ]
		],
		[
			'COPY FROM in a transaction',
			[ 'BEGIN', $copy, bytes(copy_data("3\tthree\n")) ]
		],
		[
			'COPY FROM by messages',
			begun('G', Parse('', $copy), Bind('', ''), Execute('')),
			retire => 1
		],
		[ 'COPY TO, not read', bytes(query("COPY ($large) TO STDOUT")) ]));

# 17. large objects
my $lo = [
	'SELECT loread(0, 5)',
	'SELECT lo_close(0)',
	'SELECT lo_get(4711)',
	'BEGIN',
	'SELECT lo_open(4711, 262144)',
	'SELECT loread(0, 5)',
	'COMMIT'
];
my @lo_open =
  ('BEGIN', 'SELECT lo_open(4711, 393216)', q{SELECT lowrite(0, 'hello')});

my %lo = (
	before => [
		q{SELECT lo_from_bytea(4711, 'content')},
		'ALTER LARGE OBJECT 4711 OWNER TO alice'
	],
	after => 'SELECT lo_unlink(oid) FROM pg_largeobject_metadata',
	probe => $lo);

$suite->run(
	table(
		{ %lo, check => $lo },
		[ 'a large object',              [ @lo_open, 'COMMIT' ] ],
		[ 'a large object, rolled back', [ @lo_open, 'ROLLBACK' ] ],
		[
			'a large object in a savepoint',
			[
				'BEGIN; SAVEPOINT a',
				@lo_open[ 1, 2 ],
				'ROLLBACK TO a',
				'SELECT loread(0, 1)',
				'COMMIT'
			]
		],
		[
			'a large object without a transaction',
			[ 'SELECT lo_open(4711, 393216)', q{SELECT lowrite(0, 'hello')} ]
		],
		[
			'a large object by function calls',
			[ 'BEGIN', call(952, 4711, 393216), call(954, 0, 3), 'COMMIT' ]
		]),
	{ name => 'a large object, lost', do => \@lo_open, open => 1, %lo });

# 18. prepared transactions
my $prepared =
  [ 'SELECT gid, owner FROM pg_prepared_xacts', 'SELECT count(*) FROM t' ];

sub roll_back
{
	my $gids = $node->value('SELECT gid FROM pg_prepared_xacts');
	$suite->sql(map { "ROLLBACK PREPARED '$_'" } split /\n/, $gids);
	return;
}

$suite->run(
	table(
		{
			check => $prepared,
			probe => $prepared,
			after => [ \&roll_back, 'DELETE FROM t WHERE a > 2' ]
		},
		[
			'rolled back',
			[ 'BEGIN', $insert, q{PREPARE TRANSACTION 'p'} ],
			undo => q{ROLLBACK PREPARED 'p'}
		],
		[
			'committed',
			[ 'BEGIN', $insert, q{PREPARE TRANSACTION 'p'} ],
			undo => q{COMMIT PREPARED 'p'}
		],
		[
			'in one query',
			"BEGIN; $insert; PREPARE TRANSACTION 'p'",
			undo => extended(q{COMMIT PREPARED 'p'})
		],
		[
			'settings',
			[
				'BEGIN', q{SET work_mem = '71kB'; SET LOCAL TimeZone = 'UTC'},
				$insert, q{PREPARE TRANSACTION 'p'}
			],
			check => [ @$prepared, 'SHOW work_mem', 'SHOW TimeZone' ],
			undo  => q{ROLLBACK PREPARED 'p'}
		],
		[
			'a lock',
			[
				'BEGIN; SELECT pg_advisory_xact_lock(1)',
				q{PREPARE TRANSACTION 'p'}
			],
			check => 'SELECT pg_try_advisory_xact_lock(1)',
			probe => 'SELECT pg_try_advisory_xact_lock(1)',
			undo  => q{ROLLBACK PREPARED 'p'}
		],
		[
			'a statement',
			[
				'BEGIN; PREPARE s AS SELECT 1',
				$insert,
				q{PREPARE TRANSACTION 'p'}
			],
			check => [ @$prepared, 'EXECUTE s' ],
			undo  => q{ROLLBACK PREPARED 'p'}
		],
		[
			'after an error',
			[ 'BEGIN', $insert, 'SELECT 1 / 0', q{PREPARE TRANSACTION 'p'} ]
		],
		[
			'a temporary table',
			[
				'BEGIN; CREATE TEMPORARY TABLE temporary (a int)',
				q{PREPARE TRANSACTION 'p'}
			]
		],
		[ 'LISTEN', [ 'BEGIN; LISTEN news', q{PREPARE TRANSACTION 'p'} ] ],
		[
			'a cursor',
			[
				'BEGIN; DECLARE c CURSOR WITH HOLD FOR TABLE t',
				q{PREPARE TRANSACTION 'p'}
			]
		],
		[
			'of nothing',
			[ q{PREPARE TRANSACTION 'p'}, q{COMMIT PREPARED 'p'} ]
		],
		[
			'a name that is taken',
			[ ('BEGIN', q{PREPARE TRANSACTION 'p'}) x 2 ],
			undo => q{ROLLBACK PREPARED 'p'}
		]));

# 21. cancel
sub waiting
{
	my ($name) = @_;
	return $node->soon(
		q{SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'},
		1,
		"$name: a query is running");
}

my $wait  = query('SELECT 7 FROM pg_advisory_xact_lock(7)');
my %slots = (
	'on the same slot'         => 1,
	'when slots always change' => 2);

foreach my $name (sort keys %slots)
{
	$suite->slots($slots{$name});
	my ($first, $second, $gone) =
	  map { $suite->login('client', user => 'alice') } 1 .. 3;
	$_->val('SELECT 1') foreach $gone, ($first) x 4;
	$gone->terminate;

	$node->value('SELECT pg_advisory_lock(7)');
	$second->send($wait);
	waiting("cancel, $name");
	$first->cancel(%$_)
	  foreach ({}) x 5, { pid => $gone->{pid}, key => $gone->{key} };
	$node->value('SELECT pg_advisory_unlock(7)');
	is( LeakSuite::read_answer($second),
		'T(?column?:23) D(7) C(SELECT 1) Z(I)',
		"cancel, $name: does not hit who has the slot now");
	is( LeakSuite::answer($first, 'SELECT 1'),
		'T(?column?:23) D(1) C(SELECT 1) Z(I)',
		"cancel, $name: does not hit the client later");

	$node->value('SELECT pg_advisory_lock(7)');
	$second->send($wait);
	waiting("cancel, $name");
	$second->cancel;
	like(LeakSuite::read_answer($second),
		qr/C=57014/, "cancel, $name: hits its own client");
	is($second->val('SELECT 1'), '1', "cancel, $name: which lives on");
	$node->value('SELECT pg_advisory_unlock(7)');
	$_->terminate foreach $first, $second;
}

# 27. programs that change settings for their own purposes.  They log in while A
# is connected, to the port that A is at.
sub program
{
	my ($wire, @command) = @_;
	my ($out,  $err)     = run_command(
		[
			@command, '--no-password', '--host',     $wire->{host},
			'--port', $wire->{port},   '--username', 'boss'
		]);

	# the key of \restrict is random
	return join "\n", $err, grep { !/^\\(un)?restrict/ } split /\n/, $out;
}

my $script = $node->basedir . '/script.sql';
append_to_file(
	$script, q{
SELECT pg_catalog.set_config('search_path', '', false);
SET client_encoding = 'SQL_ASCII';
SET standard_conforming_strings = off;
SET row_security = off;
SET SESSION AUTHORIZATION other;
PREPARE s AS SELECT 'script';
});
my $archive = $node->basedir . '/archive';
run_command(
	[
		'pg_dump',   '--format=custom', '--file',    $archive,
		'--table',   'public.place',    '--clean',   '--port',
		$node->port, '--host',          $node->host, '--username',
		'boss',      'postgres'
	]);
my @programs = (
	[
		'pg_dump',  '--dbname',
		'postgres', '--schema=public',
		'--schema=elsewhere'
	],
	[ 'pg_dumpall', '--roles-only', '--no-role-passwords' ],
	[
		'pg_restore',  '--dbname', 'postgres', '--clean',
		'--if-exists', $archive
	],
	[
		'psql',     '--no-psqlrc', '--quiet', '--dbname',
		'postgres', '--file',      $script
	]);

$suite->run(
	table(
		{
			user  => 'boss',
			check =>
			  [ 'SELECT place FROM place', 'SELECT current_schemas(false)' ]
		},
		map {
			my $command = $_;
			[ $command->[0], sub { program($_[0], @$command) } ]
		} @programs));

$suite->done;
