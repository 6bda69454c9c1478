# Copyright (c) pool_worker contributors

# PostgreSQL's own tools, through the pool, changing the slot after each
# transaction.  A dump and its restore must be the same as without the pool, a
# script must print the same, and pgbench must not fail in any protocol.  What
# the tools set for themselves (pg_dump empties search_path) must not reach
# another client.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.debug_always_switch = on
pool_worker.pool_size = 3
fsync = off
},
	sql => 'CREATE ROLE alice; CREATE DATABASE shop');
my $dir = PostgreSQL::Test::Utils::tempdir();

# A bit of everything that a dump has to put into words.
$node->safe_psql(
	'shop', q{
	CREATE SCHEMA "Odd schema" AUTHORIZATION alice;
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE SEQUENCE numbers INCREMENT 3 CACHE 5;
	CREATE TABLE customers (
		id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL DEFAULT 'nobody',
		at timestamptz, feels mood, bytes bytea, real float8, many int[]);
	INSERT INTO customers (name, at, feels, bytes, real, many)
		SELECT 'naïve ' || n, timestamptz '2024-03-31 00:00+00' + n * interval '1 hour',
			'happy', decode(md5(n::text), 'hex'), 1.0 / n, ARRAY[n, NULL]
		FROM generate_series(1, 300) n;
	CREATE TABLE "Odd schema"."orders; DROP" (
		id bigint DEFAULT nextval('numbers'), customer int REFERENCES customers, amount positive
	) PARTITION BY RANGE (id);
	CREATE TABLE "Odd schema".orders_1 PARTITION OF "Odd schema"."orders; DROP"
		FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
	INSERT INTO "Odd schema"."orders; DROP" (customer, amount) SELECT n, n FROM generate_series(1, 99) n;
	CREATE INDEX by_mood ON customers (feels, lower(name)) WHERE feels <> 'sad';
	CREATE FUNCTION count_of(mood) RETURNS bigint LANGUAGE sql STABLE
		SET search_path = public AS 'SELECT count(*) FROM customers WHERE feels = $1';
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
	CREATE TRIGGER note BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION note();
	CREATE VIEW moods AS SELECT feels, count(*) FROM customers GROUP BY feels;
	CREATE MATERIALIZED VIEW counted AS SELECT count_of('happy') AS happy;
	ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
	CREATE POLICY few ON customers TO alice USING (id < 10);
	GRANT SELECT (name) ON customers TO alice;
	COMMENT ON TABLE customers IS 'it''s a table';
	SELECT lo_from_bytea(4711, 'large');
	ALTER DATABASE shop SET search_path = public, "Odd schema";});

sub through { return '-h', $node->host, '-p', $_[0]; }

my @pool   = through($node->pool_port);
my @direct = through($node->port);

# Run a tool; it must succeed and complain about nothing.  Returns what it
# prints.
sub run_tool
{
	my ($name, @command) = @_;
	my ($out,  $err)     = ('', '');
	my $ok = IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err,
		IPC::Run::timeout(10 * $PoolWorker::timeout));

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($ok && $err eq '', $name) or diag $err;
	return $out;
}

# What an ordinary client finds by unqualified names, whatever slot it is on.
my $bystander = $node->client(database => 'shop');

sub path_is_clean
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is( join(
			' ',
			map {
				eval { $bystander->val('SELECT count(*) FROM customers') }
				  // $@
			} 1 .. 6),
		'300 300 300 300 300 300',
		"$name: another client finds its tables");
	is( $bystander->val('SHOW search_path'),
		'public, "Odd schema"',
		"$name: ... by its search_path");
	return;
}

# A dump as text, without the word that each pg_dump makes up for \restrict.
sub dump_by
{
	my ($name, @command) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return run_tool($name, @command) =~ s/^(\\(un)?restrict) \w+$/$1/gmr;
}

# Two texts are equal; else show the lines that only one of them has.
sub same_text
{
	my ($got, $expected, $name) = @_;
	my %got      = map { $_ => 1 } split /\n/, $got;
	my %expected = map { $_ => 1 } split /\n/, $expected;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($got eq $expected && $got ne '', $name)
	  || diag join "\n",
	  (map { "+ $_" } grep { !$expected{$_} } sort keys %got),
	  (map { "- $_" } grep { !$got{$_} } sort keys %expected);
}

note 'dump';
my %dumps = (
	'pg_dump'              => [ 'pg_dump', 'shop' ],
	'pg_dump --create'     => [ 'pg_dump', '--create',  'shop' ],
	'pg_dump --inserts'    => [ 'pg_dump', '--inserts', 'shop' ],
	'pg_dump of one table' => [ 'pg_dump', '-t', '"Odd schema".*', 'shop' ],
	'pg_dumpall'           =>
	  [ 'pg_dumpall', '-l', 'shop', '--exclude-database=template*' ]);
my %text;

foreach my $name (sort keys %dumps)
{
	my ($tool, @options) = @{ $dumps{$name} };

	$text{$name} =
	  dump_by("$name, directly", $tool, '--no-sync', @direct, @options);
	same_text(dump_by($name, $tool, '--no-sync', @pool, @options),
		$text{$name}, "$name: the same");
	path_is_clean($name);
}

note 'restore';

# the workers take over the leader's snapshot: its transaction must stay open
run_tool('pg_dump by parallel workers',
	'pg_dump',          '--no-sync', '--format=directory', '--jobs=2',
	"--file=$dir/dump", @pool,       'shop');
foreach my $case (
	[ 'pg_restore'                     => 'shop_1' ],
	[ 'pg_restore by parallel workers' => 'shop_2', '--jobs=2' ],
	[ 'pg_restore in one transaction'  => 'shop_3', '--single-transaction' ])
{
	my ($name, $database, @options) = @$case;

	run_tool("createdb $database", 'createdb', @pool, $database);
	run_tool($name, 'pg_restore', @options, @pool, '-d', $database,
		"$dir/dump");
	is_restored($name, $database);
}
append_to_file("$dir/dump.sql",
	$text{'pg_dump --create'} =~ s/^\\(un)?restrict$//gmr =~
	  s/shop/shop_4/gr);
run_tool('psql', 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', @pool,
	'-d', 'shop', '-o', '/dev/null', '-f', "$dir/dump.sql");
is_restored('psql', 'shop_4');
path_is_clean('restore');

sub is_restored
{
	my ($name, $database) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return same_text(
		dump_by(
			"pg_dump of $database", 'pg_dump',
			'--no-sync',            @direct,
			$database),
		$text{'pg_dump'},
		"$name: as before");
}

note 'a script';
{
	my %said;

	append_to_file("$dir/talk.sql", talk());
	foreach my $side ('pool', 'direct')
	{
		my ($out, $err) = ('', '');

		IPC::Run::run(
			[
				'psql', '-X', '-a', '-d', 'shop', '-f', "$dir/talk.sql",
				$side eq 'pool' ? @pool : @direct
			],
			'<',
			\undef,
			'>',
			\$out,
			'2>',
			\$err);
		$said{$side} = "$out\n$err";
	}
	same_text($said{pool}, $said{direct}, 'psql: a script says the same');
	like($said{pool}, qr/large.*division by zero/s, 'psql: and not nothing');
}
path_is_clean('psql');

sub talk
{
	return q{
\set ON_ERROR_ROLLBACK on
\encoding LATIN1
SET DateStyle = 'German'; SET my.name = 'a';
\d customers
BEGIN;
SELECT 10 / 0;
SELECT at FROM customers ORDER BY id LIMIT 1;
COMMIT;
\set AUTOCOMMIT off
SELECT current_setting('my.name');
ROLLBACK;
\set AUTOCOMMIT on
PREPARE p AS SELECT name FROM customers WHERE id = $1;
EXECUTE p(3);
\set FETCH_COUNT 7
SELECT id FROM customers ORDER BY id LIMIT 20;
\unset FETCH_COUNT
\copy (SELECT id, feels FROM customers ORDER BY id LIMIT 3) TO STDOUT
CREATE TEMP TABLE mine (a int);
\copy mine FROM STDIN
1
2
\.
SELECT max(a) AS a FROM mine \gset last_
\echo :last_a
SELECT format('SELECT %s', n) FROM generate_series(1, 3) n \gexec
\df count_of
DISCARD ALL;
SHOW DateStyle;
\c shop_1
SELECT count(*) FROM customers;
\lo_list
SELECT convert_from(lo_get(4711), 'UTF8');
};
}

note 'pgbench';

# Its clients prepare their statements one after the other, each waiting for
# the server, while others have transactions open; so no more of them than slots
# are in transactions at a time.
run_tool('createdb bench', 'createdb', @pool, 'bench');
ok( IPC::Run::run(
		[ 'pgbench', '-i', '-q', @pool, 'bench' ],
		'>', '/dev/null', '2>', '/dev/null'),
	'pgbench -i');
foreach my $protocol ('simple', 'extended', 'prepared')
{
	foreach my $case (
		[ 'selects',               '-S', '-c', 8 ],
		[ 'TPC-B',                 '-c', 3 ],
		[ 'selects, reconnecting', '-S', '-C', '-c', 8 ],
		[ 'TPC-B, reconnecting',   '-C', '-c', 3 ])
	{
		my ($name, @options) = @$case;
		my $count = $name =~ /reconnecting/ ? 10 : 50;
		my $out   = run_tool("pgbench -M $protocol, $name",
			'pgbench', '-n', '-M', $protocol, '-t', $count, @options, @pool,
			'bench');

		like(
			$out,
			qr{actually processed: (\d+)/\1\n.*failed transactions: 0 }s,
			"pgbench -M $protocol, $name: all transactions");
	}
}
is( $node->safe_psql(
		'bench',
		'SELECT count(*), sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts) FROM pgbench_history'
	),
	3 * (3 * 50 + 3 * 10) . '|t',
	'pgbench: the books are right');

$bystander->terminate;
$node->stop;
done_testing();
