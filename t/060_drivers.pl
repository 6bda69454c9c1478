# Copyright (c) pool_worker contributors

# Real drivers: the programs in t/drivers do what applications do, each with
# its driver's own means, and say what came of it.  Whatever the pool does with
# a session that the driver does not expect (statements it believes prepared,
# settings it has seen reported, notifications, the end of a cancelled query)
# becomes a wrong answer there.
#
# They run three times: at the server's own port, to see that the expectations
# are those of PostgreSQL; through the pool; and through the pool while it gives
# every client another slot after each transaction.
#
# A program reads where to connect to from PGHOST, PGPORT, PGUSER, PGPASSWORD
# and PGDATABASE, and beside them
#
#   DRIVER_CLIENTS      how many clients there are at once in "interleaved"
#   DRIVER_ROUNDS       how many transactions each of them makes
#   DRIVER_SWITCHES     1: clients must be seen on more than one backend
#   DRIVER_TIMEOUT      seconds that it may wait for something
#
# and prints TAP, one line for each fact, named "scenario: fact".  How many
# facts of which scenario there are is the table in docs/drivers.md.
#
# A driver that is not installed is skipped, unless POOL_WORKER_REQUIRE_DRIVERS
# is set.  "dev/packages drivers", and for node "npm install" in t/drivers,
# install them; make check does that.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PoolWorker;
use PostgreSQL::Test::Utils qw(slurp_file);
use TAP::Parser;
use Test::More;

# As few slots as a client in a transaction and another one need.
my $slots   = 2;
my $clients = 5;
my $rounds  = 10;

my $folder  = "$FindBin::RealBin/drivers";
my $classes = PostgreSQL::Test::Utils::tempdir();
my $jar     = '/usr/share/java/postgresql.jar';
my @java =
  ('-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', '-XX:-UsePerfData');

# "present" fails where the driver is missing; "build" is done once.  Debian's
# modules for Python belong to Debian's Python.
my @drivers = (
	{
		name    => 'psycopg2',
		present => [ '/usr/bin/python3', '-c', 'import psycopg2' ],
		run     => [ '/usr/bin/python3', "$folder/test_psycopg2.py" ],
	},
	{
		name    => 'psycopg 3',
		present => [ '/usr/bin/python3', '-c', 'import psycopg' ],
		run     => [ '/usr/bin/python3', "$folder/test_psycopg3.py" ],
	},
	{
		name    => 'asyncpg',
		present => [ '/usr/bin/python3', '-c', 'import asyncpg' ],
		run     => [ '/usr/bin/python3', "$folder/test_asyncpg.py" ],
	},
	{
		name    => 'DBD::Pg',
		present => [ $^X, '-MDBD::Pg', '-e', '1' ],
		run     => [ $^X, "$folder/test_dbd_pg.pl" ],
	},
	{
		name    => 'node pg',
		present => [ 'node', '-e', qq{require('$folder/node_modules/pg')} ],
		run     => [ 'node', '--no-deprecation', "$folder/test_node_pg.js" ],
	},
	{
		name    => 'JDBC',
		present => [ 'sh', '-c', "command -v javac && ls $jar" ],
		build   => [
			'javac', (map { "-J$_" } @java),
			'-cp', $jar, '-d', $classes, "$folder/TestJdbc.java"
		],
		run => [ 'java', @java, '-cp', "$jar:$classes", 'TestJdbc' ],
	});

my @scenarios = (
	'transactions', 'prepared statements',
	'cursors',      'copy',
	'notify',       'cancel',
	'pipeline',     'pipeline error',
	'settings',     'startup',
	'reconnect',    'interleaved');

# Facts that were found true, by driver and scenario.
my %facts;

# many programs
$PoolWorker::file_timeout *= 2;
my $node = PoolWorker->new('main')->setup(
	conf => "pool_worker.pool_size = $slots",
	hba  =>
	  [ 'local all all trust', 'host all all 127.0.0.1/32 scram-sha-256' ],
	sql => q{
	CREATE ROLE drivers_other;
	CREATE ROLE drivers LOGIN PASSWORD 'secret' IN ROLE drivers_other;
	CREATE SCHEMA drivers_schema AUTHORIZATION drivers;
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE TABLE item (id int PRIMARY KEY, word text);
	GRANT ALL ON item TO drivers;}
);

# What a command prints.  A virtual machine may take long to start on a busy one.
sub output_of
{
	my (@command) = @_;
	my ($out, $err) = ('', '');
	my $ok = eval {
		IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err,
			IPC::Run::timeout(5 * $PoolWorker::timeout));
	};

	$err .= $@ if $@;
	return ($ok, $out, $err);
}

# The program of a driver as a subtest.
sub run_driver
{
	my ($name, $driver) = @_;
	my ($ok, $out, $err) = output_of(@{ $driver->{run} });
	my $parser = TAP::Parser->new({ tap => $out });

	return subtest "$driver->{name}, $name" => sub {
		while (my $result = $parser->next)
		{
			diag($result->as_string) if $result->is_comment;
			next unless $result->is_test;
			my $fact = $result->description =~ s/^- //r;
			ok($result->is_ok, $fact);
			$facts{ $driver->{name} }{$1}{$2} = 1 if $fact =~ /^(.*?): (.*)/s;
		}
		ok($ok && $parser->is_good_plan, 'the program has come to its end')
		  or diag($err);
	};
}

sub run_drivers
{
	my ($name, $port, $switches) = @_;
	my $log = $node->log_end;

	local $ENV{PGHOST}                  = '127.0.0.1';
	local $ENV{PGPORT}                  = $port;
	local $ENV{PGUSER}                  = 'drivers';
	local $ENV{PGPASSWORD}              = 'secret';
	local $ENV{PGDATABASE}              = 'postgres';
	local $ENV{DRIVER_CLIENTS}          = $clients;
	local $ENV{DRIVER_ROUNDS}           = $rounds;
	local $ENV{DRIVER_SWITCHES}         = $switches;
	local $ENV{DRIVER_TIMEOUT}          = $PoolWorker::timeout;
	local $ENV{PYTHONDONTWRITEBYTECODE} = 1;

	run_driver($name, $_) foreach grep { !$_->{missing} } @drivers;
	$node->not_logged(qr/WARNING|PANIC|TRAP|terminated by signal/,
		$log, "$name: nothing bad in the server's log");
	return;
}

# What is there, and ready to run.
foreach my $driver (@drivers)
{
	my ($ok, undef, $err) = output_of(@{ $driver->{present} });

	$driver->{missing} = !$ok;
	if (!$ok && $ENV{POOL_WORKER_REQUIRE_DRIVERS})
	{
		fail("$driver->{name} is installed");
		diag($err);
	}
  SKIP:
	{
		skip "$driver->{name} is not installed", 1 unless $ok;
		next unless $driver->{build};
		($ok, undef, $err) = output_of(@{ $driver->{build} });
		ok($ok, "the program for $driver->{name} is built") or diag($err);
	}
}

run_drivers('directly',         $node->port,      0);
run_drivers('through the pool', $node->pool_port, 0);

# once was enough for each driver's own way to a password
$node->hba('local all all trust', 'host all all 127.0.0.1/32 trust');
$node->set('pool_worker.debug_always_switch' => 'on');
run_drivers('always switching', $node->pool_port, 1);
$node->soon(q{SELECT count(*) FROM pool_clients()}, 0, 'no client is left');
$node->soon(q{SELECT count(*) FROM pool_slots() WHERE state = 'pinned'},
	0, 'and no slot is pinned');

# The table in the manual: to be replaced by the one that is found.
SKIP:
{
	skip 'not all drivers are installed', 1
	  if grep { $_->{missing} } @drivers;
	my @names = map { $_->{name} } @drivers;
	my $table = join '',
	  map { '| ' . join(' | ', @$_) . " |\n" }[ 'scenario', @names ],
	  [ ('---') x (1 + @names) ], map {
		my $scenario = $_;
		[ $scenario, map { scalar keys %{ $facts{$_}{$scenario} } } @names ]
	  } @scenarios;
	my $manual = slurp_file("$FindBin::RealBin/../docs/drivers.md");

	is(($manual =~ /<!-- facts: begin -->\n(.*)<!-- facts: end -->/s)[0],
		$table, 'docs/drivers.md says what was found');
}

$node->stop;
done_testing();
