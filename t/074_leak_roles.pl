# Copyright (c) pool_worker contributors

# Leak suite: roles and databases that change while slots of theirs are warm.
# Each change is made behind the back of an idle slot and of a client that is
# connected and says nothing.  Then somebody logs in, with both ports: they have
# to give the same answer, and if it is "welcome", the same session.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use LeakSuite;
use Test::More;


my $suite = LeakSuite->new(
	superuser_sql => [
		'CREATE TABLE granted AS SELECT 42 AS a',
		'CREATE ROLE third',
		q{SET password_encryption = 'scram-sha-256'},
	]);
my $node = $suite->node;

$suite->slots(1);

# Have a slot for a role in a database.  Returns a client that is parked.
sub warm
{
	my ($user, $database) = @_;
	my ($leaver, $parked) =
	  map { $suite->login('client', user => $user, database => $database) }
	  1 .. 2;

	$_->val('SELECT 1') foreach $parked, $leaver;
	$leaver->terminate;
	$suite->wait_for(
		"SELECT EXISTS (SELECT FROM pool_slots()
			WHERE role = '$user' AND database = '$database' AND state = 'idle')",
		'no slot is idle');
	return $parked;
}

# Both ports answer the same, and welcome to the same session.
sub same_session
{
	my ($name, %case) = @_;
	my %login = (
		user             => 'subject',
		application_name => 'next',
		%{ $case{login} || {} });
	my $direct = $node->attempt('direct', %login);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->attempt('pool', %login), $direct, "$name: the same answer");
	return if $direct ne 'ok';
	my ($expected, $found) = map {
		my (undef, @facts) =
		  $suite->new_session($_, \%login, @{ $case{probe} || [] });
		\@facts;
	} 'direct', 'client';
	is(LeakSuite::differences($found, $expected),
		'', "$name: the same session");
	return;
}

my %tcp    = (host => '127.0.0.1', password => 'old');
my $rights = q{SELECT rolsuper, rolcreatedb, pg_has_role('third', 'member'),
	has_table_privilege('granted', 'SELECT'), current_setting('is_superuser')
	FROM pg_roles WHERE rolname = session_user};

# 22. what is changed, who logs in afterwards, and what they look at
my @changes = (
	[ 'ALTER ROLE SET', q{ALTER ROLE subject SET work_mem = '91kB'} ],
	[
		'ALTER ROLE RESET',
		[
			q{ALTER ROLE subject SET work_mem = '91kB'},
			undef,
			'ALTER ROLE subject RESET work_mem'
		]
	],
	[
		'ALTER ROLE SET in the database',
		q{ALTER ROLE subject IN DATABASE postgres SET work_mem = '92kB'}
	],
	[
		'ALTER DATABASE SET',
		q{ALTER DATABASE postgres SET DateStyle = 'German'},
		after => 'ALTER DATABASE postgres RESET DateStyle'
	],
	[
		'ALTER ROLE ALL SET',
		q{ALTER ROLE ALL SET TimeZone = 'Asia/Tokyo'},
		after => 'ALTER ROLE ALL RESET TimeZone'
	],
	[
		'ALTER ROLE SET search_path',
		'ALTER ROLE subject SET search_path = elsewhere'
	],
	[
		'ALTER ROLE SET of a placeholder',
		q{ALTER ROLE subject SET my.var = 'of the role'}
	],
	[
		'ALTER ROLE SET role',
		'GRANT other TO subject; ALTER ROLE subject SET role = other',
		probe => [$rights]
	],
	[
		'ALTER ROLE SET of a library',
		'ALTER ROLE subject SET session_preload_libraries = auto_explain',
		probe => ['SHOW auto_explain.log_timing']
	],
	[
		'ALTER ROLE SET, and the startup packet',
		q{ALTER ROLE subject SET work_mem = '91kB'},
		login => { options => '-c work_mem=93kB' },
		probe => [ 'SHOW work_mem', 'RESET work_mem', 'SHOW work_mem' ]
	],
	[ 'SUPERUSER', 'ALTER ROLE subject SUPERUSER', probe => [$rights] ],
	[
		'NOSUPERUSER',
		[
			'ALTER ROLE subject SUPERUSER',
			undef,
			'ALTER ROLE subject NOSUPERUSER'
		],
		probe => [
			$rights,
			'SELECT 1 FROM pg_authid LIMIT 1',
			'SET log_statement = none'
		]
	],
	[
		'GRANT',
		'GRANT third TO subject; GRANT SELECT ON granted TO subject',
		probe => [ $rights, 'TABLE granted' ]
	],
	[
		'REVOKE',
		[
			'GRANT third TO subject; GRANT SELECT ON granted TO subject',
			undef,
			'REVOKE third FROM subject; REVOKE SELECT ON granted FROM subject'
		],
		probe => [ $rights, 'TABLE granted' ]
	],
	[ 'NOLOGIN',          'ALTER ROLE subject NOLOGIN' ],
	[ 'CONNECTION LIMIT', 'ALTER ROLE subject CONNECTION LIMIT 0' ],
	[ 'DROP ROLE',        'DROP ROLE subject' ],
	[
		'RENAME',
		'ALTER ROLE subject RENAME TO renamed',
		after => 'DROP ROLE renamed'
	],
	[
		'RENAME, the new name', 'ALTER ROLE subject RENAME TO renamed',
		login => { user => 'renamed' },
		after => 'DROP ROLE renamed'
	],
	[
		'another role of the name',
		[
			'GRANT third TO subject; GRANT SELECT ON granted TO subject; ALTER ROLE subject SUPERUSER',
			undef,
			'DROP OWNED BY subject; DROP ROLE subject; CREATE ROLE subject LOGIN'
		],
		probe => [
			$rights,
			'TABLE granted',
			'SELECT session_user::regrole = usesysid FROM pg_stat_activity WHERE pid = pg_backend_pid()'
		]
	],
	[
		'REVOKE CONNECT',
		'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC',
		after => 'GRANT CONNECT ON DATABASE postgres TO PUBLIC'
	],
	[
		'a password',
		q{ALTER ROLE subject PASSWORD 'new'},
		login => { %tcp, password => 'new' }
	],
	[
		'a password, the old one',
		q{ALTER ROLE subject PASSWORD 'new'},
		login => \%tcp
	],
	[ 'no password', 'ALTER ROLE subject PASSWORD NULL', login => \%tcp ],
	[
		'VALID UNTIL',
		q{ALTER ROLE subject VALID UNTIL '2001-01-01'},
		login => \%tcp
	],
	[
		'pg_hba.conf',
		sub {
			$node->hba(
				'local all all trust',
				'host all subject all reject',
				'host all all all scram-sha-256');
		},
		login => \%tcp
	],);

my @hba = ('local all all trust', 'host all all all scram-sha-256');

foreach my $row (@changes)
{
	my ($name, $change, %case) = @$row;
	my @steps = ref $change eq 'ARRAY' ? @$change : (undef, $change);

	note $name;
	$node->hba(@hba);
	$suite->sql(q{CREATE ROLE subject LOGIN PASSWORD 'old'});

	# before the slots are warm, and afterwards
	my $parked;
	foreach my $step (@steps)
	{
		$parked = warm('subject', 'postgres') unless defined $step;
		$suite->sql($step) if defined $step;
	}
	same_session($name, %case);
	$parked->close;
	$suite->sql($case{after}) if $case{after};
	$suite->sql('DROP OWNED BY subject', 'DROP ROLE subject')
	  if $node->value(
		q{SELECT count(*) FROM pg_roles WHERE rolname = 'subject'});
}
$node->hba(@hba);

# 23. databases
sub database
{
	my ($name, $change, @logins) = @_;

	note $name;
	$suite->sql('CREATE DATABASE first', 'CREATE DATABASE second');
	warm('alice', 'first')->terminate;
	$node->soon(q{SELECT count(*) FROM pool_clients()},
		0, "$name: nobody is connected");
	is(eval { $suite->sql(@$change); '' } // $@,
		'', "$name: is not in the way");
	same_session("$name, $_", login => { user => 'alice', database => $_ })
	  foreach @logins;
	$suite->sql(map { "DROP DATABASE IF EXISTS $_ WITH (FORCE)" }
		  qw(first second third));
	return;
}

database('DROP DATABASE', ['DROP DATABASE first'], 'first', 'second');
database(
	'another database of the name',
	[
		'DROP DATABASE first',
		'CREATE DATABASE first',
		q{ALTER DATABASE first SET work_mem = '94kB'}
	],
	'first');
database(
	'ALTER DATABASE RENAME',
	['ALTER DATABASE first RENAME TO third'],
	'first', 'third');
database(
	'one for the other',
	[
		'ALTER DATABASE first RENAME TO third',
		'ALTER DATABASE second RENAME TO first',
		q{ALTER DATABASE first SET my.var = 'second'}
	],
	'first', 'third');
database(
	'CREATE DATABASE TEMPLATE',
	['CREATE DATABASE third TEMPLATE first'],
	'first', 'third');
database('ALLOW_CONNECTIONS',
	['ALTER DATABASE first ALLOW_CONNECTIONS false'], 'first');
database('ALTER DATABASE SET',
	[q{ALTER DATABASE first SET work_mem = '95kB'}], 'first');
database('ALTER DATABASE CONNECTION LIMIT',
	['ALTER DATABASE first CONNECTION LIMIT 0'], 'first');

note 'DROP DATABASE of somebody who is connected';
foreach my $how ('direct', 'client')
{
	$suite->sql('CREATE DATABASE first');
	my $wire = $suite->login($how, user => 'alice', database => 'first');

	$wire->val('SELECT 1');
	$suite->sql('DROP DATABASE first WITH (FORCE)');

	# whom it hits in mid-air is told that it is ended, others that it is gone
	like($wire->sqlstate('SELECT 1'),
		qr/^(57P01|3D000)$/, "$how: is told to go");
	$wire->close;
}

$suite->done;
