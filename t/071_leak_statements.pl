# Copyright (c) pool_worker contributors

# Leak suite: prepared statements and pipelines.  Each client has its own
# statements, under names that others use as well, whatever slot it is on; a
# statement behaves as if it had always been in one backend, whatever happens to
# the tables meanwhile; an error in a pipeline skips to its own Sync and to
# nobody else's.  How that is tried says LeakSuite.pm.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use LeakSuite;
use Test::More;

my $suite = LeakSuite->new(
	sql => q{
	CREATE TABLE t (a int, b text);
	INSERT INTO t VALUES (1, 'one'), (2, NULL);
	CREATE TABLE filled (a int);
	CREATE TABLE secrets (owner name, secret text);
	INSERT INTO secrets VALUES ('alice', 'of alice'), ('other', 'of other');
	CREATE POLICY own ON secrets USING (owner = current_user);
	ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
	ALTER TABLE secrets FORCE ROW LEVEL SECURITY;
	GRANT ALL ON secrets TO other});

my $list =
  q{SELECT name, statement, parameter_types, from_sql, generic_plans, custom_plans
	FROM pg_prepared_statements ORDER BY name};
my $both = [ 'EXECUTE s', run_statement('s'), $list ];

# What another client gets for the same text.
sub prepared_anew
{
	my ($text) = @_;
	return [
		"PREPARE q AS $text",
		'EXECUTE q',
		'DEALLOCATE q',
		extended($text),
		'SELECT count(*) FROM filled'
	];
}

my $shown = { columns => [qw(name do check)] };

# 7, 8. statements and their names
$suite->run(
	table(
		$shown,
		[
			'PREPARE', 'PREPARE s AS SELECT 1', $both, undo => 'DEALLOCATE s'
		],
		[
			'PREPARE with parameters',
			'PREPARE s (int, text) AS SELECT $1 + 1, $2, $3::date',
			[
				q{EXECUTE s(1, 'x', '2020-02-01')},
				run_statement('s', 2, 'y', undef),
				'EXECUTE s(1)',
				$list
			],
			undo => 'DEALLOCATE ALL'
		],
		[
			'Parse', group(Parse('s', 'SELECT 2')),
			$both,   undo => group(Close('S', 's'))
		],
		[
			'Parse with parameters',
			group(Parse('s', 'SELECT $1 + 1, $2', 0, 25), Describe('S', 's')),
			[
				group(Describe('S', 's')),
				run_statement('s', 41, 'x'),
				q{EXECUTE s(1, 'y')},
				$list
			],
			undo => 'DEALLOCATE s'
		],
		[
			'Parse with the name of a SQL statement',
			[
				'PREPARE s AS SELECT 1',
				group(Parse('s', 'SELECT 2')),
				group(Parse('p', 'SELECT 3')),
				'PREPARE p AS SELECT 4'
			],
			[ @$both, 'EXECUTE p' ],
			undo => [ group(Close('S', 's')), 'DEALLOCATE p' ]
		],
		[
			'the same name with another text',
			[
				group(Parse('s', 'SELECT 1')),
				group(Close('S', 's'), Parse('s', q{SELECT 'two'})),
				group(
					Bind('', 's'),
					Execute(''),
					Close('S', 's'),
					Parse('s', 'SELECT 3.0'))
			],
			$both,
			undo => 'DISCARD ALL'
		],
		[
			'the same text with many names',
			[ map { group(Parse("s$_", 'SELECT $1::int')) } 1 .. 20 ],
			[ $list, map { run_statement("s$_", $_) } 1 .. 20 ],
			undo => pipeline(map { group(Close('S', "s$_")) } 1 .. 20)
		],
		[
			'the same text with other types',
			[
				group(Parse('s',  'SELECT $1', 23)),
				group(Parse('s2', 'SELECT $1', 25)),
				'PREPARE s3 (date) AS SELECT $1'
			],
			[
				group(Describe('S', 's')),
				group(Describe('S', 's2')),
				run_statement('s',  7),
				run_statement('s2', 'seven'),
				run_statement('s',  'seven'),
				$list
			],
			undo => 'DEALLOCATE s3; DEALLOCATE s2; DEALLOCATE s'
		],
		[
			'the text that the intruder has',
			[
				q{PREPARE s AS SELECT 'intruder', place FROM place},
				group(Parse('p', q{SELECT 'intruder', place FROM place}))
			],
			[ @$both, run_statement('p') ]
		],
		[
			'DEALLOCATE ALL in a pipeline',
			pipeline(
				group(Parse('s', 'SELECT 1')), run_statement('s'),
				'DEALLOCATE ALL',              run_statement('s'),
				group(Parse('s', 'SELECT 2')), run_statement('s')),
			$both
		],
		[
			'DEALLOCATE ALL within a group',
			[
				group(Parse('s', 'SELECT 1'), Parse('p', 'SELECT 2')),
				group(
					Parse('', 'DEALLOCATE ALL'),
					Bind('', ''),
					Execute(''), Bind('', 's'),
					Execute(''))
			],
			[ @$both, 'EXECUTE p' ]
		],
		[
			'DEALLOCATE by a statement of its own',
			[
				group(Parse('s', 'SELECT 1')),
				group(Parse('d', 'DEALLOCATE s')),
				run_statement('d')
			],
			[ @$both, run_statement('d') ]
		],
		[
			'DISCARD ALL in a pipeline',
			pipeline(
				group(Parse('s', 'SELECT 1')),
				'DISCARD ALL',
				run_statement('s'),
				group(Parse('p', 'SELECT 2'))),
			[ @$both, run_statement('p') ]
		],
		[
			'DISCARD PLANS keeps statements',
			[ 'PREPARE s AS SELECT 1', 'EXECUTE s', 'DISCARD PLANS' ], $both
		],
		[
			'PREPARE in a transaction',
			[ 'BEGIN', 'PREPARE s AS SELECT 1', 'EXECUTE s', 'COMMIT' ],
			$both
		],
		[
			'PREPARE in a transaction that fails',
			[ 'BEGIN; PREPARE s AS SELECT 1', 'SELECT 1 / 0', 'ROLLBACK' ],
			$both
		],
		[
			'Parse in a transaction that fails',
			[
				'BEGIN',
				group(
					Parse('s', 'SELECT 1'),
					Parse('',  'SELECT 1 / 0'),
					Bind('', ''),
					Execute(''),
					Parse('p', 'SELECT 2')),
				group(Parse('p', 'SELECT 2')),
				'ROLLBACK'
			],
			[ @$both, run_statement('p') ]
		],
		[
			'DEALLOCATE in a transaction that fails',
			[ 'PREPARE s AS SELECT 1', 'BEGIN; DEALLOCATE s', 'ROLLBACK' ],
			$both
		],
		[
			'PREPARE beside an error in one query',
			'PREPARE s AS SELECT 1; SELECT 1 / 0',
			$both
		],
		[
			'PREPARE in DO',
			q{DO $$BEGIN EXECUTE 'PREPARE s AS SELECT 1'; END$$},
			$both,
			undo => q{DO $$BEGIN EXECUTE 'DEALLOCATE s'; END$$}
		],
		[
			'PREPARE that fails',
			[
				'PREPARE s AS SELECT 1',
				'PREPARE s AS SELECT 2',
				'PREPARE p AS SELECT nothing',
				group(Parse('p', 'SELEKT')),
				group(Parse('p', 'SELECT 1; SELECT 2'))
			],
			[ @$both, 'EXECUTE p' ]
		],
		[
			'long names',
			[
				group(Parse('s' x 70, q{SELECT 'by message'})),
				'PREPARE ' . ('t' x 70) . q{ AS SELECT 'by SQL'},
				group(Parse('s' x 64 . 'other', 'SELECT 1'))
			],
			[
				run_statement('s' x 70),
				run_statement('s' x 63),
				'EXECUTE ' . 't' x 70,
				$list
			]
		],
		[
			'odd names',
			[
				q{PREPARE "Odd ""name""" AS SELECT 'odd'},
				group(Parse("\xc3\xa4", 'SELECT 1')),
				group(Parse('S',        q{SELECT 'upper'}))
			],
			[
				q{EXECUTE "Odd ""name"""},
				run_statement("\xc3\xa4"),
				'EXECUTE "S"',
				'EXECUTE s',
				$list
			]
		],
		[
			'statements that are no queries',
			[
				group(Parse('empty',  '')),
				group(Parse('show',   'SHOW DateStyle')),
				group(Parse('set',    q{SET work_mem = '71kB'})),
				group(Parse('begin',  'BEGIN')),
				group(Parse('commit', 'COMMIT')),
				group(Parse('listen', 'UNLISTEN *'))
			],
			[
				(map { run_statement($_) } qw(empty show set begin)),
				'SHOW work_mem',
				(map { run_statement($_) } qw(show commit listen commit)),
				$list
			]
		],
		[
			'a statement that writes',
			group(
				Parse('s', 'INSERT INTO filled VALUES ($1) RETURNING a', 20)),
			[
				run_statement('s', 1),
				run_statement('s', 2),
				'BEGIN',
				run_statement('s', 3),
				'ROLLBACK',
				'SELECT * FROM filled ORDER BY a',
				$list
			],
			before => 'TRUNCATE filled'
		],
		[
			'a statement with a portal',
			group(Parse('s', 'SELECT generate_series(1, 5)')),
			[
				'BEGIN',
				group(Bind('p', 's'), Execute('p', 2)),
				group(Execute('p', 2)),
				group(Execute('p', 2), Close('P', 'p')),
				'COMMIT',
				group(Execute('p', 2)),
				group(Bind('p', 's'), Execute('p', 2)),
				group(Execute('p', 2))
			]
		],
		[
			'statements in statements',
			'PREPARE s (int) AS SELECT a, b FROM t WHERE a = $1',
			[
				'EXPLAIN (COSTS OFF) EXECUTE s(1)',
				'CREATE TABLE made AS EXECUTE s(1)',
				'TABLE made',
				'DROP TABLE made',
				q{DO $$DECLARE r record; BEGIN EXECUTE 'EXECUTE s(1)' INTO r; RAISE NOTICE '%', r; END$$},
				$list
			]
		],
		[
			'when it was prepared',
			[
				'PREPARE s AS SELECT 1',
				once(
					time => q{SELECT prepare_time FROM pg_prepared_statements}
				)
			],
			[
				once(
					time => q{SELECT prepare_time FROM pg_prepared_statements}
				),
				'EXECUTE s',
				once(
					time => q{SELECT prepare_time FROM pg_prepared_statements}
				)
			]
		],
		[
			'custom and generic plans',
			[
				'PREPARE s (int) AS SELECT a FROM t WHERE a = $1',
				('EXECUTE s(1)') x 3
			],
			[
				$list, 'EXECUTE s(1)', run_statement('s', 1),
				$list, 'EXECUTE s(1)', 'EXPLAIN (COSTS OFF) EXECUTE s(1)',
				$list
			],
			undo => 'DEALLOCATE s'
		],
		[
			'generic plans by a setting',
			[
				'SET plan_cache_mode = force_generic_plan',
				'PREPARE s (int) AS SELECT a FROM t WHERE a = $1'
			],
			[ 'EXECUTE s(1)', 'EXPLAIN (COSTS OFF) EXECUTE s(1)', $list ]
		],

	),
	# 7. lost in the middle; a Terminate in there can end a backend
	table(
		{ open => 1 },
		[
			'PREPARE, lost in a transaction',
			[ 'BEGIN', 'PREPARE s AS SELECT 1' ]
		],
		[
			'PREPARE, lost in a transaction that fails',
			[ 'BEGIN', 'PREPARE s AS SELECT 1', 'SELECT 1 / 0' ]
		],
		[
			'Parse, lost in a transaction',
			[ 'BEGIN', group(Parse('s', 'SELECT 1')) ]
		],
		[
			'Parse, lost before Sync',
			begun('1', Parse('s', 'SELECT 1')),
			retire => 'terminate'
		],
		[
			'an unnamed Parse, lost before Sync',
			begun('1', Parse('', 'SELECT 1')),
			retire => 'terminate'
		],
		[
			'Bind, lost before Sync',
			begun('2', Parse('s', 'INSERT INTO t VALUES (9)'), Bind('', 's')),
			retire => 'terminate'
		],
		[
			'Execute, lost before Sync',
			begun(
				'C',           Parse('s', 'INSERT INTO t VALUES (9)'),
				Bind('', 's'), Execute('')),
			retire => 'terminate'
		],
		[
			'Parse, lost in a COPY',
			[ group(Parse('s', 'SELECT 1')), 'COPY filled FROM STDIN' ],
			retire => 'terminate'
		]),);

# 8. the unnamed statement
$suite->run(
	table(
		$shown,
		[
			'Parse',
			group(Parse('', 'SELECT 1')),
			[ run_statement(''), $list ]
		],
		[
			'Parse, and twice',
			group(Parse('', 'SELECT $1::int')),
			[ run_statement('', 1), run_statement('', 2) ]
		],
		[
			'Parse and Describe',
			group(Parse('', 'SELECT $1 + a FROM t', 23), Describe('S', '')),
			[ group(Describe('S', '')), run_statement('', 1) ]
		],
		[
			'Parse that fails, after another',
			[ group(Parse('', 'SELECT 1')), group(Parse('', 'SELEKT')) ],
			run_statement('')
		],
		[
			'Parse, then Execute that fails',
			[ group(Parse('', 'SELECT 1 / $1::int')), run_statement('', 0) ],
			run_statement('', 1)
		],
		[
			'Parse, then a query',
			[ group(Parse('', 'SELECT 1')), 'SELECT 2' ],
			run_statement('')
		],
		[
			'Parse, then Close',
			[ group(Parse('', 'SELECT 1')), group(Close('S', '')) ],
			run_statement('')
		],
		[
			'Parse, then a statement with a name',
			[ group(Parse('', 'SELECT 1')), group(Parse('s', 'SELECT 2')) ],
			[ run_statement('s'),           run_statement('') ]
		],
		[
			'Parse in a transaction',
			[
				group(Parse('',  'BEGIN'), Bind('', ''), Execute('')),
				group(Parse('',  q{SELECT 'unnamed'})),
				group(Parse('c', 'COMMIT')),
				run_statement('c')
			],
			run_statement('')
		],
		[
			'Parse, then DISCARD ALL by a statement with a name',
			[
				group(Parse('d', 'DISCARD ALL')),
				group(Parse('',  'SELECT 1')),
				run_statement('d')
			],
			[ run_statement(''), $list ]
		]));

# 8. what is decided when a statement is prepared.  In one backend these
# decisions are made once; and they must not be those of another client.
# Not here: a literal 'now', which is a new one where the statement is analyzed
# again (docs/compatibility.md, "Known traces").
sub decided
{
	my ($name, $first, $text, $then) = @_;
	return {
		name   => $name,
		do     => [ $first, "PREPARE s AS $text", $then || () ],
		check  => [ 'EXECUTE s', $list ],
		probe  => prepared_anew($text),
		retire => $name eq 'a placeholder'
	};
}

my @decisions = (
	[
		'DateStyle',
		q{SET DateStyle = 'ISO, DMY'},
		q{SELECT date '01/02/2020'},
		q{SET DateStyle = 'ISO, MDY'}
	],
	[
		'TimeZone',
		q{SET TimeZone = 'Asia/Tokyo'},
		q{SELECT timestamptz '2020-01-01 00:00'},
		q{SET TimeZone = 'UTC'}
	],
	[
		'IntervalStyle',
		q{SET IntervalStyle = 'sql_standard'},
		q{SELECT interval '-1 2:03:04'},
		q{RESET IntervalStyle}
	],
	[
		'array_nulls',
		'SET array_nulls = off',
		q{SELECT '{NULL}'::text[] IS NULL, '{NULL}'::text[]},
		'RESET array_nulls'
	],
	[
		'transform_null_equals',
		'SET transform_null_equals = on',
		'SELECT a FROM t WHERE b = NULL',
		'RESET transform_null_equals'
	],
	[
		'standard_conforming_strings',
		'SET standard_conforming_strings = off',
		q{SELECT 'a\\\\b'},
		'RESET standard_conforming_strings'
	],
	[
		'a name in a constant',
		'SET search_path = elsewhere',
		q{SELECT 'place'::regclass::oid = 'elsewhere.place'::regclass},
		'RESET search_path'
	],
	[
		'search_path',
		'SET search_path = elsewhere, public',
		'SELECT place FROM place'
	],
	[
		'search_path that changes',
		'SET search_path = elsewhere, public',
		'SELECT place FROM place',
		'RESET search_path'
	],
	[
		'client_encoding',
		q{SET client_encoding = 'LATIN1'},
		"SELECT '\xe4', length('\xe4')",
		'RESET client_encoding'
	],
	[
		'row_security',
		'SET row_security = on',
		'SELECT * FROM secrets',
		'SET row_security = off'
	],
	[ 'the role', 'SET ROLE other', 'SELECT * FROM secrets ORDER BY 1' ],
	[
		'the role that changes',
		'SET ROLE other',
		'SELECT * FROM secrets ORDER BY 1',
		'RESET ROLE'
	],
	[
		'a placeholder',
		q{SET my.var = 'own'},
		q{SELECT current_setting('my.var', true)}
	]);

$suite->run(map({ decided(@$_) } @decisions), table($shown));

# 24. what happens to tables under plans, made by others or by the client
my $table = q{DROP TABLE IF EXISTS ddl, moved, elsewhere.ddl CASCADE;
	CREATE TABLE ddl (a int, b text);
	INSERT INTO ddl VALUES (1, 'one'), (2, 'two');
	GRANT ALL ON ddl TO PUBLIC;
	CREATE OR REPLACE VIEW seen AS SELECT a, b FROM ddl;
	GRANT ALL ON seen TO PUBLIC;
	DROP FUNCTION IF EXISTS called();
	CREATE FUNCTION called() RETURNS text IMMUTABLE LANGUAGE sql RETURN 'before'};
my $insert = q{INSERT INTO ddl (a) VALUES (9) RETURNING *};

sub changed
{
	my ($name, $text, @ddl) = @_;
	return {
		name   => "$name: $text",
		before => $table,
		do     => [
			"PREPARE s AS $text",
			group(Parse('n', $text)),
			'EXECUTE s',
			run_statement('n'),
			group(Parse('', $text)),
			aside(@ddl)
		],
		check => [
			run_statement(''),
			'EXECUTE s',
			group(Describe('S', 'n')),
			run_statement('n'),
			'BEGIN',
			'EXECUTE s',
			'ROLLBACK',
			run_statement('n'),
			'SELECT name FROM pg_prepared_statements ORDER BY name'
		],
		probe => prepared_anew($text)
	};
}

my @changes = (
	[ 'nothing', 'TABLE ddl' ],
	[
		'ADD COLUMN', 'TABLE ddl',
		'ALTER TABLE ddl ADD COLUMN c int DEFAULT 3'
	],
	[
		'ADD COLUMN',
		'SELECT a FROM ddl',
		'ALTER TABLE ddl ADD COLUMN c int DEFAULT 3'
	],
	[ 'ADD COLUMN', $insert, 'ALTER TABLE ddl ADD COLUMN c int DEFAULT 3' ],
	[
		'ADD and DROP COLUMN',
		'TABLE ddl',
		'ALTER TABLE ddl ADD COLUMN c int',
		'ALTER TABLE ddl DROP COLUMN c'
	],
	[ 'DROP COLUMN', 'TABLE ddl', 'ALTER TABLE ddl DROP COLUMN b CASCADE' ],
	[
		'DROP COLUMN',
		'SELECT b FROM ddl',
		'ALTER TABLE ddl DROP COLUMN b CASCADE'
	],
	[
		'another type',
		'SELECT a FROM ddl ORDER BY a',
		'DROP VIEW seen',
		'ALTER TABLE ddl ALTER a TYPE bigint'
	],
	[ 'RENAME COLUMN', 'TABLE ddl', 'ALTER TABLE ddl RENAME a TO z' ],
	[ 'RENAME',        'TABLE ddl', 'ALTER TABLE ddl RENAME TO moved' ],
	[
		'RENAME, and another',
		'TABLE ddl',
		'ALTER TABLE ddl RENAME TO moved',
		q{CREATE TABLE ddl AS SELECT 7 AS a, 'seven'::text AS b},
		'GRANT ALL ON ddl TO PUBLIC'
	],
	[ 'SET SCHEMA', 'TABLE ddl', 'ALTER TABLE ddl SET SCHEMA elsewhere' ],
	[ 'DROP',       'TABLE ddl', 'DROP TABLE ddl CASCADE' ],
	[
		'DROP, and the same again',
		'TABLE ddl',
		'DROP TABLE ddl CASCADE',
		'CREATE TABLE ddl (a int, b text)',
		'GRANT ALL ON ddl TO PUBLIC'
	],
	[
		'DROP, and another',
		'TABLE ddl',
		'DROP TABLE ddl CASCADE',
		'CREATE TABLE ddl (x date)',
		'GRANT ALL ON ddl TO PUBLIC'
	],
	[
		'CREATE INDEX',
		'SELECT a FROM ddl WHERE a = 1',
		'CREATE INDEX ON ddl (a)'
	],
	[ 'REVOKE', 'TABLE ddl', 'REVOKE ALL ON ddl FROM PUBLIC' ],
	[
		'a policy',
		'TABLE ddl',
		'CREATE POLICY p ON ddl USING (a = 1)',
		'ALTER TABLE ddl ENABLE ROW LEVEL SECURITY'
	],
	[
		'a trigger', $insert,
		q{CREATE OR REPLACE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS
			$$BEGIN NEW.b := 'by trigger'; RETURN NEW; END$$;
		CREATE TRIGGER f BEFORE INSERT ON ddl FOR EACH ROW EXECUTE FUNCTION pg_temp.f()}
	],
	[
		'a rule', $insert,
		'CREATE RULE r AS ON INSERT TO ddl DO INSTEAD NOTHING'
	],
	[
		'a default', $insert,
		q{ALTER TABLE ddl ALTER b SET DEFAULT 'by default'}
	],
	[
		'another view', 'TABLE seen',
		q{CREATE OR REPLACE VIEW seen AS SELECT a + 100 AS a, b FROM ddl}
	],
	[
		'a wider view', 'TABLE seen',
		q{CREATE OR REPLACE VIEW seen AS SELECT a, b, 'wide' AS c FROM ddl}
	],
	[
		'another function',
		'SELECT called()',
		q{CREATE OR REPLACE FUNCTION called() RETURNS text IMMUTABLE LANGUAGE sql RETURN 'after'}
	],
	[
		'a function of another type',
		'SELECT called()',
		'DROP FUNCTION called()',
		'CREATE FUNCTION called() RETURNS int IMMUTABLE LANGUAGE sql RETURN 42'
	],
	[ 'TRUNCATE and ANALYZE', 'TABLE ddl', 'TRUNCATE ddl', 'ANALYZE ddl' ]);

$suite->run(map { changed(@$_) } @changes);


$suite->run(
	{
		name   => 'the client itself adds a column',
		before => 'DROP TABLE IF EXISTS made',
		do     => [
			'CREATE TABLE made (a int)',
			'PREPARE s AS TABLE made',
			'EXECUTE s',
			'ALTER TABLE made ADD b int'
		],
		check => [ 'EXECUTE s',    'DISCARD PLANS', 'EXECUTE s' ],
		undo  => [ 'DEALLOCATE s', 'PREPARE s AS TABLE made' ],
		after => 'DROP TABLE IF EXISTS made'
	},
	{
		name   => 'the client itself adds a column, and does not commit',
		before => 'DROP TABLE IF EXISTS made',
		do     => [
			'CREATE TABLE made (a int)',
			'PREPARE s AS TABLE made',
			'EXECUTE s',
			'BEGIN; ALTER TABLE made ADD b int',
			'EXECUTE s',
			'ROLLBACK'
		],
		check => 'EXECUTE s',
		after => 'DROP TABLE IF EXISTS made'
	},);

# 26. errors in pipelines
my $fails = [ Parse('', 'SELECT 1 / 0'), Bind('', ''), Execute('') ];
my $fill =
  [ Parse('', 'INSERT INTO filled VALUES (1)'), Bind('', ''), Execute('') ];

$suite->run(
	table(
		{
			before => 'TRUNCATE filled',
			check  => [ 'SELECT count(*) FROM filled', @$both ],
			probe  => 'SELECT count(*) FROM filled'
		},
		[ 'an error in a group', group(@$fill, @$fails, @$fill) ],
		[
			'groups before and after one with an error',
			pipeline(group(@$fill), group(@$fill, @$fails), group(@$fill))
		],
		[
			'a statement before the error, and one after',
			group(Parse('s', 'SELECT 1'), @$fails, Parse('p', 'SELECT 2'))
		],
		[
			'Close before the error, and one after',
			[
				group(Parse('s', 'SELECT 1'), Parse('p', 'SELECT 2')),
				group(Close('S', 'p'), @$fails, Close('S', 's'))
			]
		],
		[
			'an error, and its Sync later',
			[ begun('E', @$fill, @$fails), group(@$fill) ]
		],
		[
			'an error, more, and its Sync later',
			[
				begun('E', @$fill, @$fails),
				sub {
					$_[0]->send(join '', @$fill, Parse('s', 'SELECT 1'));
					'';
				},
				messages(1, Sync()),
				group(@$fill)
			]
		],
		[
			'no Sync for long',
			[
				begun('1', Parse('s', 'SELECT 7')),
				begun('2', Bind('', 's')),
				begun('C', Execute('')),
				messages(1, Sync())
			]
		],
		[
			'an error in a transaction',
			[
				'BEGIN',
				pipeline(
					group(@$fill, @$fails), group(@$fill),
					'COMMIT',               group(@$fill))
			]
		],
		[
			'a transaction that ends in a pipeline',
			pipeline(
				'BEGIN',
				group(@$fill),
				'ROLLBACK; BEGIN',
				group(@$fill),
				'COMMIT',
				group(Parse('s', 'SELECT 1')))
		],
		[
			'a group with a transaction of its own',
			group(
				Parse('', 'BEGIN'),
				Bind('', ''),
				Execute(''),
				@$fill,
				Parse('', 'COMMIT'),
				Bind('', ''),
				Execute(''),
				@$fill,
				@$fails)
		],
		[
			'a message in pieces',
			sub {
				my ($wire) = @_;
				my $bytes  = join '', Parse('s', 'SELECT 3'), @$fill, Sync();

				foreach my $piece ($bytes =~ /(.{1,7})/gs)
				{
					$wire->send($piece);
					$suite->node->value('SELECT 1')
					  ;    # time for a packet of its own
				}
				return LeakSuite::read_answer($wire);
			}
		],
		[
			'a wrong number of parameters',
			group(Parse('s', 'SELECT $1'), Bind('', 's', 1, 2))
		]));

# 8. more statements than slots keep plans for
ok(eval { $suite->node->set('pool_worker.statement_cache_size' => 3); 1 },
	'the cache of statements can be small');
$suite->run(
	table(
		$shown,
		[
			'more statements than fit',
			[
				(map { "PREPARE s$_ (int) AS SELECT $_ + \$1" } 1 .. 8),
				(map { group(Parse("n$_", "SELECT $_ - \$1", 23)) } 1 .. 8)
			],
			[
				(map { "EXECUTE s$_(10)" } 1 .. 8),
				(map { run_statement("n$_", 10) } 1 .. 8),
				(map { "EXECUTE s$_(20)" } reverse 1 .. 8),
				$list
			],
			undo => 'DEALLOCATE ALL'
		]));

$suite->done;
