# Copyright (c) pool_worker contributors

# Who may log in.  Each attempt is made at the server's own port and at the
# pool's: whoever the server refuses, the pool must refuse with the same words
# and the same SQLSTATE, also while a slot of that role is warm; and what only
# the pool refuses must say where to go instead.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PostgreSQL::Test::Utils;
use Test::More;

my $os_user = getpwuid($<);
my @hba     = (
	'host all rejected 127.0.0.1/32 reject',
	'host all scram,expired,nologin,later 127.0.0.1/32 scram-sha-256',
	'host all md 127.0.0.1/32 md5',
	'host all md_scram 127.0.0.1/32 md5',
	'host all plain 127.0.0.1/32 password',
	'host all over_ldap 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapprefix="cn="',
	'host all over_ident 127.0.0.1/32 ident',
	'host all +tcp,dropped 127.0.0.1/32 trust',
	'local all mapped peer map=m',
	'local all unmapped peer',
	'local all no_slot reject',
	'host all no_slot 127.0.0.1/32 trust',
	'local all all trust');
my $node = PoolWorker->new('main')->setup(
	conf  => "pool_worker.pool_size = 4\n",
	hba   => \@hba,
	ident => ["m $os_user mapped"],
	sql   => q{
	CREATE ROLE tcp;
	CREATE ROLE trusted LOGIN IN ROLE tcp;
	CREATE ROLE rejected LOGIN;
	CREATE ROLE stranger LOGIN;
	CREATE ROLE scram LOGIN PASSWORD 'secret';
	CREATE ROLE md_scram LOGIN PASSWORD 'secret';
	CREATE ROLE plain LOGIN PASSWORD 'secret';
	CREATE ROLE expired LOGIN PASSWORD 'secret' VALID UNTIL '2001-01-01';
	CREATE ROLE later LOGIN PASSWORD 'secret';
	CREATE ROLE nologin PASSWORD 'secret';
	CREATE ROLE nologin_trusted IN ROLE tcp;
	CREATE ROLE over_ldap LOGIN;
	CREATE ROLE over_ident LOGIN;
	CREATE ROLE mapped LOGIN;
	CREATE ROLE unmapped LOGIN;
	CREATE ROLE no_slot LOGIN;
	CREATE ROLE once LOGIN CONNECTION LIMIT 1 IN ROLE tcp;
	CREATE ROLE never LOGIN CONNECTION LIMIT 0 IN ROLE tcp;
	CREATE ROLE dropped LOGIN;
	SET password_encryption = 'md5';
	CREATE ROLE md LOGIN PASSWORD 'secret';
	CREATE DATABASE closed;
	CREATE DATABASE forbidden;
	REVOKE CONNECT ON DATABASE forbidden FROM PUBLIC;
	CREATE DATABASE lone CONNECTION LIMIT 1;
	ALTER DATABASE closed ALLOW_CONNECTIONS false;});

my @tcp  = (host => '127.0.0.1');
my $good = qr/^ok$/;

note 'the methods';
foreach my $case (
	[ 'trusted',  'trust' ],
	[ 'scram',    'scram-sha-256' ],
	[ 'md',       'md5' ],
	[ 'md_scram', 'md5, with a SCRAM verifier' ],
	[ 'plain',    'password' ])
{
	my ($role, $method) = @$case;

	$node->same_answer(
		$method, $good, @tcp,
		user     => $role,
		password => 'secret');
	local $ENV{PGPASSWORD} = 'secret';
	my ($ret, $out) = $node->pool_psql(
		'postgres',
		'SELECT current_user',
		connstr => $node->pool_connstr('postgres', @tcp, user => $role));
	is($out, $role, "$method, by psql");
}
$node->same_answer('peer with a map', $good, user => 'mapped');
$node->same_answer(
	'peer as another',
	qr/C=28000 M=Peer authentication failed/,
	user => 'unmapped');
SKIP:
{
	skip 'this machine has no IPv6', 2 unless PoolWorker::has_ipv6();
	$node->same_answer(
		'IPv6 without a line',
		qr/C=28000 M=no pg_hba.conf entry for host "::1"/,
		host => '::1',
		user => 'trusted');
}

note 'the wrong password, with a slot of that role warm';
foreach my $role ('scram', 'md', 'md_scram', 'plain')
{
	my $warm = $node->client(@tcp, user => $role, password => 'secret');

	is($warm->val('SELECT 1'), '1', "$role is connected");
	foreach my $password ('wrong', 'secre', 'secret ', '', 'x' x 200, "\xff")
	{
		$node->same_answer(
			"$role, password '" . substr($password, 0, 9) . "'",
			qr/C=28P01 M=(password authentication failed|empty password)/,
			@tcp,
			user     => $role,
			password => $password);
	}
	is($warm->val('SELECT 2'), '2', 'and does not notice');
	$warm->terminate;
}

note 'refused by pg_hba.conf';
$node->same_answer('reject', qr/C=28000 M=pg_hba.conf rejects/,
	@tcp, user => 'rejected');
$node->same_answer('no line', qr/C=28000 M=no pg_hba.conf entry/,
	@tcp, user => 'stranger');
foreach my $case ([ 'ldap', 'over_ldap' ], [ 'ident', 'over_ident' ])
{
	my ($method, $role) = @$case;
	my $answer = $node->attempt('pool', @tcp, user => $role, password => 'x');
	my $port   = $node->port;

	like(
		$answer,
		qr/^S=FATAL C=\w{5} M=.*"$method".*not supported/,
		"$method is not supported");
	like(
		$answer,
		qr/H=.*server's own port $port/,
		'and the hint says where to go');
}

note 'the role and the database';
$node->same_answer(
	'unknown role, trust',
	qr/C=28000 M=role "nobody" does not exist/,
	user => 'nobody');
$node->same_answer(
	'unknown role, password', qr/C=(28P01|28000)/,
	@tcp,
	user     => 'nobody',
	password => 'secret');
$node->same_answer(
	'NOLOGIN', qr/C=28000 M=role "nologin" is not permitted to log in/,
	@tcp,
	user     => 'nologin',
	password => 'secret');
$node->same_answer(
	'NOLOGIN and the wrong password', qr/C=28P01/,
	@tcp,
	user     => 'nologin',
	password => 'wrong');
$node->same_answer(
	'NOLOGIN, trust',
	qr/C=28000 M=role "nologin_trusted" is not permitted/,
	@tcp, user => 'nologin_trusted');
$node->same_answer(
	'expired', qr/C=28P01/, @tcp,
	user     => 'expired',
	password => 'secret');
$node->same_answer(
	'unknown database', qr/C=3D000 M=database "nowhere" does not exist/,
	@tcp,
	user     => 'trusted',
	database => 'nowhere');
$node->same_answer(
	'unknown database and unknown role', qr/C=28000/,
	user     => 'nobody',
	database => 'nowhere');
$node->same_answer(
	'datallowconn',
	qr/C=55000 M=database "closed" is not currently accepting/,
	@tcp,
	user     => 'trusted',
	database => 'closed');
$node->same_answer(
	'no CONNECT', qr/C=42501 M=permission denied for database "forbidden"/,
	@tcp,
	user     => 'trusted',
	database => 'forbidden');
$node->same_answer(
	'rolconnlimit 0',
	qr/C=53300 M=too many connections for role "never"/,
	@tcp, user => 'never');
$node->same_answer('the superuser, everywhere',
	$good, database => 'forbidden');

{
	my $holder = $node->direct(@tcp, user => 'once');
	$node->same_answer('rolconnlimit',
		qr/C=53300 M=too many connections for role "once"/,
		@tcp, user => 'once');
	$holder->terminate;
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'once'},
		0, 'the place is free');
	is($node->attempt('pool', @tcp, user => 'once'),
		'ok', 'the limit allows one');
}
{
	my $holder = $node->direct(@tcp, user => 'trusted', database => 'lone');
	$node->same_answer(
		'datconnlimit',
		qr/C=53300 M=too many connections for database "lone"/,
		@tcp,
		user     => 'trusted',
		database => 'lone');
	$holder->terminate;
}

note 'what changes while a slot is warm';
{
	my $warm = $node->client(@tcp, user => 'later', password => 'secret');
	$warm->val('SELECT 1');
	my @later = (@tcp, user => 'later', password => 'secret');

	$node->value(q{ALTER ROLE later PASSWORD 'changed'});
	$node->same_answer('password changed: the old one', qr/C=28P01/, @later);
	$node->same_answer('password changed: the new one',
		$good, @later, password => 'changed');
	$node->value(
		q{ALTER ROLE later PASSWORD 'secret' VALID UNTIL '2001-01-01'});
	$node->same_answer('expired now', qr/C=28P01/, @later);
	$node->value(q{ALTER ROLE later VALID UNTIL 'infinity' NOLOGIN});
	$node->same_answer('NOLOGIN now', qr/C=28000/, @later);
	$node->value(q{ALTER ROLE later LOGIN});
	$node->value(q{REVOKE CONNECT ON DATABASE postgres FROM PUBLIC});
	$node->same_answer('no CONNECT now', qr/C=42501/, @later);
	$node->value(q{GRANT CONNECT ON DATABASE postgres TO PUBLIC});
	$node->same_answer('and again', $good, @later);
	$node->value(q{ALTER ROLE later CONNECTION LIMIT 0});
	$node->same_answer('a connection limit now', qr/C=53300/, @later);
	is($warm->val('SELECT 1'), '1', 'who is connected stays connected');
	$warm->terminate;

	is($node->attempt('pool', @tcp, user => 'dropped'), 'ok', 'a role');
	$node->value('DROP ROLE dropped');
	$node->same_answer('is dropped',
		qr/C=28000 M=role "dropped" does not exist/,
		@tcp, user => 'dropped');
}

note 'replication connections';
foreach my $replication ('true', 'database', 'on')
{
	my $answer = $node->attempt('pool', replication => $replication);
	like($answer, qr/^S=FATAL C=\w{5} M=.*replication.*H=.*port/,
		"replication=$replication");
}
is($node->attempt('pool', @tcp, user => 'trusted', replication => 'false'),
	'ok', 'replication=false is none');

note 'a slot that pg_hba.conf refuses';
{
	my $answer = $node->attempt('pool', @tcp, user => 'no_slot');

	like(
		$answer,
		qr/^S=FATAL C=\w{5} M=.*"postgres".*"no_slot"/,
		'its client is told');
	like(
		$answer,
		qr/pg_hba.conf rejects connection for host "\[local\]", user "no_slot"/,
		'the cause, in the server\'s words');
	my ($line)  = $answer =~ /(local +"?postgres"? +"?no_slot"? +[^\n]*)/;
	my ($ident) = $answer =~ /pg_ident.conf: ([^\n]*)/;
	ok($line, "and the line to add: " . ($line // $answer));
	$node->soon(
		q{SELECT state, failed > 0 FROM pool_status() WHERE role = 'no_slot'},
		'failing|t',
		'pool_status() shows it');
	$node->soon(
		q{SELECT bool_or(detail ~ 'no_slot' OR hint ~ 'no_slot') FROM pool_check() WHERE NOT ok},
		't',
		'and pool_check()');

	ok($ident, 'and the line for pg_ident.conf: ' . ($ident // ''))
	  if $line && $line =~ /map=/;
	$node->append_conf('pg_ident.conf', $ident) if $ident;
	$node->hba($line // 'local postgres no_slot trust', @hba);
	ok( $node->until(
			sub { $node->attempt('pool', @tcp, user => 'no_slot') eq 'ok' }),
		'with that line it works');
}

note 'pg_hba.conf changes for new logins';
{
	my $before = $node->client(@tcp, user => 'trusted');

	is($before->val('SELECT 1'), '1', 'a client from before');
	$node->hba('host all trusted 127.0.0.1/32 reject', @hba);
	$node->same_answer('rejected now', qr/C=28000 M=pg_hba.conf rejects/,
		@tcp, user => 'trusted');
	is($before->val('SELECT 1'), '1', 'the one from before stays');
	$node->_write_hba('host all all 127.0.0.1/32 no_such_method');
	my $from = $node->log_end;
	$node->reload;
	$node->logged(qr/pg_hba.conf was not reloaded/,
		$from, 'a broken file is not used');
	is($before->val('SELECT 1'), '1', 'and does no harm');
	like(
		$node->attempt('pool', @tcp, user => 'trusted'),
		qr/pg_hba.conf rejects/,
		'the old rules stay in force');
	$node->hba(@hba);
	$node->same_answer('allowed again', $good, @tcp, user => 'trusted');
	$before->terminate;
}

note 'authentication_timeout';
$node->set(authentication_timeout => '1s');
{
	my @late = map { $node->raw('pool', @tcp) } 1 .. 4;

	$late[1]->send(pack('N', 100));
	$late[2]->send_startup(user => 'scram', database => 'postgres');
	$late[3]->send(PoolWorker::Wire::SSL_REQUEST);
	ok($_->at_end, 'a silent client is closed') foreach @late[ 0, 1, 2 ];
	$late[3]->read_to_end;
	ok($late[3]->{eof}, 'also after SSLRequest');
	$_->close foreach @late;
	$node->set(authentication_timeout => undef);
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'nobody is left');
}

note 'max_clients';
$node->append_conf('postgresql.conf', "pool_worker.max_clients = 5\n");
$node->restart;
$node->wait_for_pool;
{
	my @clients = map { $node->client(@tcp, user => 'trusted') } 1 .. 5;
	my $answer  = $node->attempt('pool', @tcp, user => 'trusted');

	like($answer, qr/^S=FATAL C=53300 M=sorry, too many clients already/,
		'one too many');
	is($_->val('SELECT 1'), '1', 'the others are served') foreach @clients;
	(pop @clients)->terminate;
	ok( $node->until(
			sub { $node->attempt('pool', @tcp, user => 'trusted') eq 'ok' }),
		'one leaves, one comes');

	# who is not authenticated counts as well, and is not kept for ever
	my @silent = map { $node->raw('pool', @tcp) } 1 .. 10;
	is($_->val('SELECT 1'), '1', 'silent ones beside them') foreach @clients;
	$_->reset foreach @silent;
	ok( $node->until(
			sub { $node->attempt('pool', @tcp, user => 'trusted') eq 'ok' }),
		'and when they are gone, clients come in');
	$_->terminate foreach @clients;
}

$node->stop;
done_testing();
