# Copyright (c) pool_worker contributors

# Fixed sequences of commands, each through the pool, changing the slot after
# each transaction, and directly: the answers must be the same.  Many were
# found by 080_random_sessions.pl and made short by its MINIMISE=1.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use SessionTwins;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.debug_always_switch = on
pool_worker.pool_size = 3
session_preload_libraries = 'plpgsql'
autovacuum = off
});

SessionTwins->prepare_cluster($node);

sub query { return [ [ Query => $_[0] ] ]; }

# By the extended protocol, in one group.
sub extended
{
	my ($sql) = @_;
	return [
		[ Parse    => '',  $sql ],
		[ Bind     => '',  '' ],
		[ Describe => 'P', '' ],
		[ Execute  => '' ],
		['Sync']
	];
}

sub connects { return [ [ Connect => 'terminate', {@_} ] ]; }

my $counts =
  'SELECT name, generic_plans, custom_plans FROM pg_prepared_statements';

# A name, and what is said one after the other, each time by the pair with the
# number before it.
my @cases = (
	[
		'lastval() of a sequence that was only set',
		0,
		query('INSERT INTO u (a) VALUES (1), (2) RETURNING id'),
		0,
		query(q{SELECT nextval('s2')}),
		0,
		query('SELECT 1'),
		1,
		query(q{SELECT setval('s2', 5, true)}),
		(1, query('SELECT lastval()')) x 3,
	],
	[
		'lastval() of a sequence that is gone',
		0,
		query(q{SELECT nextval('s2')}),
		0,
		query(q{SELECT nextval('s1'); DROP SEQUENCE s1}),
		(0, query('SELECT lastval()')) x 3,
		0,
		query(q{SELECT currval('s2')}),
		0,
		query(q{SELECT nextval('s2'), lastval()}),
		1,
		query(q{SELECT setval('s2', 5, true)}),
		(1, query('SELECT lastval()')) x 3,
	],
	[
		'nextval() that fails',
		0,
		query(q{SELECT nextval('s2')}),
		0,
		query(q{SELECT nextval('s4')}),
		0,
		query(q{ALTER SEQUENCE s1 MAXVALUE 1; SELECT nextval('s1')}),
		0,
		query(q{SELECT nextval('s2')}),
		0,
		query(q{SELECT nextval('s1')}),
		(0, query('SELECT lastval()')) x 3,
	],
	[
		'what a client has sent for a COPY that failed',
		0,
		[
			[ Query    => 'COPY nowhere FROM STDIN' ],
			[ CopyData => "1\n" ],
			['CopyDone']
		],
		0,
		[
			[ Query    => 'COPY u (a) FROM STDIN' ],
			[ CopyData => "x\n" ],
			[ CopyFail => 'no' ]
		],
		0,
		[
			[ Query => 'COPY u (a) FROM STDIN' ], [ CopyData => "1\n" ],
			['CopyDone'],                         ['Flush']
		],
		0,
		query('SELECT count(*) FROM u'),
		0,
		query('BEGIN'),
		0,
		[
			[ Query    => 'COPY nowhere FROM STDIN' ],
			[ CopyData => "1\n" ],
			['CopyDone']
		],
		0,
		query('ROLLBACK'),
	],
	[
		'temp_buffers where others have used temporary tables',
		(   0, query('CREATE TEMP TABLE tmp AS SELECT 1 AS a'),
			0, query('DROP TABLE tmp')) x 3,
		1,
		query(q{SET temp_buffers = '900kB'}),
		(1, query('SHOW temp_buffers')) x 3,
		2,
		query('SHOW temp_buffers'),
	],
	[
		'plans of an EXECUTE that fails',                          0,
		[ [ Parse => 'a', 'CALL commits(2)' ], ['Sync'] ],         0,
		query('EXECUTE a'),                                        0,
		query($counts),                                            0,
		query('PREPARE b (int) AS SELECT fails($1)'),              0,
		query('EXECUTE b(0)'),                                     0,
		[ [ Bind => '', 'b', '0' ], [ Execute => '' ], ['Sync'] ], 0,
		query($counts),                                            0,
		query('EXPLAIN (COSTS OFF) EXECUTE b(1)'),                 0,
		query($counts),
	],
	[
		'reported settings as SHOW has them',
		0,
		connects(options => '-c TimeZone=-3'),
		0,
		connects(options => '-c TimeZone=UTC'),
	],
	[
		'a startup setting twice', 0,
		connects(options => '-c DateStyle=SQL,\\ DMY -c DateStyle=YMD'), 1,
		connects(options => '-c DateStyle=German', DateStyle => 'MDY'),  0,
		query('SHOW DateStyle'),
	],
	[
		'a startup setting twice, with one difference',
		2,
		connects(options => '-c TimeZone=UTC -c TimeZone=Asia/Tokyo'),
		3,
		connects(options => '-c TimeZone=Asia/Kabul -c TimeZone=Asia/Tokyo'),
		map({ ($_, query('SHOW TimeZone')) } (2, 3) x 3),
	],);

# What is different, and whether all slots are free in time.
sub difference
{
	my (@moves) = @_;
	my $twins = SessionTwins->new($node, pairs => 4, super => 1);

	while (@moves)
	{
		my $mismatch = $twins->round([ splice @moves, 0, 2 ]);

		return
		  "directly:\n$mismatch->{direct}through the pool:\n$mismatch->{pool}"
		  if $mismatch;
		return $@ unless eval { $twins->holders; 1 };
	}
	$twins->leave;
	return '';
}

foreach my $case (@cases)
{
	my ($name, @moves) = @$case;

	is(difference(@moves), '', $name);
}

$node->stop('immediate');
done_testing();
