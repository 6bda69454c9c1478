# Copyright (c) pool_worker contributors

# What newer major versions of PostgreSQL have added around a login and a
# transaction.  The pool's port does as the server's own, and what one client
# has coming does not hit another.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 1
},
	sql => 'CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN');
my $version = $node->pg_version;
my $worker  = $node->worker_pid;

# What bytes that are no startup packet are answered with, until the end.
sub answer_to
{
	my ($port, $bytes) = @_;
	my $wire = $node->raw($port, host => '127.0.0.1');

	$wire->send($bytes);
	my $answer = $wire->read_to_end;
	$wire->close;
	return $answer;
}

note 'versions of the protocol';
foreach my $minor (0, 1, 2, 3, 9999)
{
	my %seen;

	foreach my $port ('direct', 'pool')
	{
		my $client = $node->raw($port);

		ok( $client->startup(
				user     => 'alice',
				database => 'postgres',
				protocol => (3 << 16) + $minor),
			"3.$minor, $port: lets us in");
		$seen{$port} = join ' ',
		  map { $_ // 'none' } $client->{negotiated},
		  length $client->{key_bytes};
		is($client->val('SELECT 1'), '1', 'and is served');
		$client->terminate;
	}
	is($seen{pool}, $seen{direct},
		'negotiated, and the length of the cancel key');
}

note 'cancel keys';
foreach my $protocol (3 << 16, (3 << 16) + 2)
{
	my $client = $node->client(user => 'alice', protocol => $protocol);
	my $key    = $client->{key_bytes};
	my $other  = $key;

	substr($other, -1) ^= "\1";
	$client->send(
		PoolWorker::Wire::msg_query('SELECT pg_advisory_xact_lock(1), 5'))
	  if $node->value('SELECT pg_advisory_lock(1)') eq '';
	$node->soon(q{SELECT count(*) FROM pg_locks WHERE NOT granted},
		1, 'a query is running');
	$client->cancel(key_bytes => $_)
	  foreach $other, substr($key, 0, -1), "$key\0", '', substr($key, 0, 1),
	  $key x 64, $key x 65;
	$node->value('SELECT pg_advisory_unlock(1)');
	is(PoolWorker::Wire::text($client->answer),
		'|5', 'a key that is not quite right cancels nothing');

	$client->send(PoolWorker::Wire::msg_query('SELECT pg_sleep(600)'));
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		1,
		'a query is running');
	$client->cancel;
	is($client->answer->{error}{C}, '57014', 'the right one does');
	$client->terminate;
}

note 'TLS without asking first';
{
	my $from  = $node->log_end;
	my $hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" . 'r' x 500;

	is(answer_to('pool',   $hello), '', 'is answered with nothing at all');
	is(answer_to('direct', $hello),
		'', 'as at the port of a server without TLS');
	$node->logged(qr/invalid length of startup packet/, $from, 'and logged');

	my %said;
  SKIP:
	{
		skip 'libpq cannot do that before PostgreSQL 17', 1 if $version < 17;
		foreach my $port ('direct', 'pool')
		{
			my %target = $node->target($port);
			my ($rc, $out, $err) = $node->psql(
				'postgres', 'SELECT 1',
				timeout => $PoolWorker::timeout,
				connstr =>
				  "host=127.0.0.1 port=$target{port} dbname=postgres "
				  . 'sslmode=require sslnegotiation=direct');

			$said{$port} = $err =~ s/$target{port}/N/gr;
		}
		is($said{pool}, $said{direct}, 'libpq says the same of both ports');
	}
}

note 'a transaction timeout of the server';
SKIP:
{
	skip 'PostgreSQL has none before 17', 1 if $version < 17;
	my $client = $node->client(user => 'alice');
	my $other  = $node->client(user => 'alice');
	my $limit  = q{SET transaction_timeout = '100ms'};

	$client->val("$limit");
	$client->val('BEGIN');
	my $said = $client->read;
	is($said->[0], 'E', 'idle in a transaction: told');
	is(PoolWorker::Wire::fields($said->[1])->{C},
		'25P04', 'what the server says');
	ok($client->at_end, 'and ended');
	is($other->val('BEGIN; SELECT 1; COMMIT'),
		'1', 'another client of the pool goes on');

	# its limit does not stay in the slot, and comes back with it
	$client = $node->client(user => 'alice');
	$client->val("$limit");
	is($other->val('BEGIN; SELECT pg_sleep(0.3); COMMIT'),
		'', 'others have no such limit');
	is($client->ask('SELECT pg_sleep(600)')->{error}{C},
		'25P04', 'at work: told as well');
	ok($client->at_end, 'and ended');
	is($other->val('SHOW transaction_timeout'), '0', 'nobody else has it');

	# a limit of the role, and transactions that come close to it
	$node->value(q{ALTER ROLE bob SET transaction_timeout = '2s'});
	my @bobs = map { $node->client(user => 'bob') } 1 .. 3;
	is( join('',
			map { $bobs[ $_ % 3 ]->val('SELECT pg_sleep(0.2), 1') } 1 .. 15),
		'|1' x 15,
		'transactions of several clients do not add up');
	$_->terminate foreach $other, @bobs;

	# checking this password takes longer than that, within a transaction
	$node->value(
		'ALTER ROLE ' . $node->superuser . ' SET transaction_timeout = 0');
	$node->value(
		q{SET scram_iterations = 500000;
		CREATE ROLE carol LOGIN PASSWORD 'right'});
	$node->hba('host all all 127.0.0.1/32 password');
	$node->control->close;
	delete $node->{_control};
	$node->set('transaction_timeout' => '100ms');
	like(
		$node->attempt(
			'pool',
			user     => 'carol',
			host     => '127.0.0.1',
			password => 'wrong'),
		qr/FATAL C=28P01/,
		'the worker has no limit');
	is($node->worker_pid, $worker, 'and goes on');
	$node->set('transaction_timeout' => undef);
	$node->hba('local all all trust', 'host all all 127.0.0.1/32 trust');
}

note 'event triggers for logins';
SKIP:
{
	skip 'PostgreSQL has none before 17', 1 if $version < 17;
	$node->value(
		q{
		CREATE TABLE logins (who text, application text, is_local bool, backend int);
		GRANT ALL ON logins TO PUBLIC;
		CREATE FUNCTION login() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN
			INSERT INTO logins SELECT session_user, current_setting('application_name'),
				inet_client_addr() IS NULL, pg_backend_pid();
			PERFORM set_config('work_mem', '77kB', false),
				set_config('DateStyle', 'German', false);
			IF current_setting('application_name') = 'unwanted' THEN
				PERFORM pg_advisory_lock(77);
				RAISE EXCEPTION 'not today';
			END IF;
			RAISE NOTICE 'welcome';
		END$$;
		CREATE EVENT TRIGGER greet ON login EXECUTE FUNCTION login();
		ALTER EVENT TRIGGER greet ENABLE ALWAYS});
	$node->value('SELECT pool_recycle()');
	my %heard;

	foreach my $port ('direct', 'pool')
	{
		foreach my $n (1, 2)
		{
			my $client = $node->raw($port);
			$client->startup(
				user             => 'alice',
				database         => 'postgres',
				application_name => "$port $n");
			is($client->val('SHOW work_mem'),
				'77kB', "$port: what it sets is the client's");
			$heard{"$port $n"} = join ' ',
			  (map { $_->{M} } @{ $client->{notices} }),
			  $client->{params}{DateStyle};
			$client->terminate;
		}
	}
	is($heard{$_}, 'welcome German, DMY', "$_: has heard of it")
	  foreach sort keys %heard;
	is( $node->value(
			q{SELECT string_agg(application, ',' ORDER BY application)
			FROM logins WHERE who = 'alice'}
		),
		'direct 1,direct 2,pool 1,pool 2',
		'fired once for each client, and for no slot');

	my $client = $node->client(user => 'alice', application_name => 'a');
	my $other  = $node->client(
		user             => 'alice',
		application_name => 'b',
		host             => '127.0.0.1');
	is( $node->value(q{SELECT is_local FROM logins WHERE application = 'b'}),
		'f', 'sees where the client is');
	$client->val(q{SET work_mem = '66kB'});
	is($other->val('SHOW work_mem'),  '77kB', 'a session moves with it');
	is($client->val('SHOW work_mem'), '66kB', 'as with its own settings');
	$client->val('RESET ALL');
	unlike($client->val('SHOW work_mem'), qr/[67]{2}kB/, 'RESET as ever');

	$node->same_answer(
		'a trigger that refuses',
		qr/FATAL C=P0001 M=not today/,
		user             => 'alice',
		application_name => 'unwanted');
	is($other->val('SELECT 1'), '1', 'refuses that client, and nobody else');
	is($node->value('SELECT count(*) FROM pg_locks WHERE objid = 77'),
		'0', 'and leaves nothing');
	is( $node->value(
			q{SELECT count(*) FROM logins WHERE application = 'unwanted'}),
		'0',
		'not even its row');

	$node->value('DROP EVENT TRIGGER greet');
	my $late = $node->client(user => 'alice', application_name => 'late');
	isnt($late->val('SHOW work_mem'),
		'77kB', 'when it is gone, the next client does without');
	$_->terminate foreach $client, $other, $late;
}

note 'OAuth';
SKIP:
{
	skip 'PostgreSQL has none before 18', 1 if $version < 18;
	$node->set('oauth_validator_libraries' => 'none');
	$node->hba(
		'local all all trust',
		'host all all 127.0.0.1/32 oauth issuer="https://example.com" scope="x"'
	);
	like(
		$node->attempt('pool', user => 'alice', host => '127.0.0.1'),
		qr/FATAL C=0A000 M=authentication method "oauth" is not supported on the pool's port/,
		'is refused by name');
	$node->hba('local all all trust');
}

note 'which lines about connections are logged';
SKIP:
{
	skip 'all or none before 18', 1 if $version < 18;
	# backends keep what they had when they began, and so does the worker
	$node->append_conf('postgresql.conf',
		q{log_connections = 'receipt, authorization'});
	$node->restart;
	$node->wait_for_pool;
	$worker = $node->worker_pid;
	my $from = $node->log_end;

	$node->value(q{CREATE ROLE dave LOGIN PASSWORD 'right'});
	$node->hba('local all all trust',
		'host all all 127.0.0.1/32 scram-sha-256');
	$node->client(
		user     => 'dave',
		password => 'right',
		host     => '127.0.0.1')->terminate;
	$node->logged(qr/pool connection received/, $from, 'receipt');
	$node->logged(qr/<127\.0\.0\.1> .*connection authorized: user=dave/,
		$from, 'authorization');
	$node->not_logged(qr/connection authenticated: .*dave/,
		$from, 'and not what is between them');
}

is($node->worker_pid, $worker, 'the worker is the same process');
$node->stop;
done_testing();
