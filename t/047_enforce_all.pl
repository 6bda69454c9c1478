# Copyright (c) pool_worker contributors

# Time limits for those who connect to the server's own port, with
# pool_worker.enforce_on = all.  Who is late must be cancelled or ended as by
# pg_cancel_backend() and pg_terminate_backend(); superusers and exempt roles
# are left alone, and so is everybody while it says "pool".

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query);
use Test::More;
use Time::HiRes qw(time);

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.enforce_on = all
pool_worker.enforce_exempt = 'staff, "No Such Role"'
pool_worker.idle_in_transaction_timeout = 0
},
	sql => q{
	CREATE ROLE staff;
	CREATE ROLE carol LOGIN IN ROLE staff;
	CREATE ROLE s LOGIN;
	CREATE ROLE i LOGIN;
	CREATE ROLE x LOGIN;
	CREATE ROLE c LOGIN;
	CREATE TABLE held (x int); GRANT ALL ON held TO PUBLIC;
	ALTER ROLE s SET pool_worker.statement_timeout = '200ms';
	ALTER ROLE i SET pool_worker.idle_in_transaction_timeout = '200ms';
	ALTER ROLE x SET pool_worker.transaction_timeout = '200ms';
	ALTER ROLE c SET pool_worker.client_idle_timeout = '200ms';
	ALTER ROLE carol SET pool_worker.statement_timeout = '200ms';
	ALTER ROLE carol SET pool_worker.idle_in_transaction_timeout = '200ms';
	ALTER ROLE carol SET pool_worker.transaction_timeout = '200ms';
	ALTER ROLE carol SET pool_worker.client_idle_timeout = '200ms';});

my $from = $node->log_end;
my $killed =
  'FATAL 57P01 terminating connection due to administrator command';

# What ends a connection; "alive" if nothing does.
sub ends
{
	my ($client) = @_;
	my $error;

	while (my $message = eval { $client->read })
	{
		$error = PoolWorker::Wire::fields($message->[1])
		  if $message->[0] eq 'E';
	}
	return 'alive' unless $client->{eof};
	return $error ? join(' ', @$error{qw(S C M)}) : 'no error';
}

# "late" is done until its time is over, which must not be too early.
sub ended
{
	my ($name, $role, $late) = @_;
	my $start  = time;
	my $client = $node->direct(user => $role);

	$client->send(query($late)) if $late;
	my $how = ends($client);
	my $ms  = 1000 * (time - $start);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($how, $killed, $name);
	cmp_ok($ms, '>=', 200, "$name: never early");
	return;
}

# What carol has been told when somebody else is late with the same.
sub left_alone
{
	my ($name, $client) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(eval { $client->val("SELECT 'here'") } // $@, 'here', $name);
}

note 'statements';
{
	my $client = $node->direct(user => 's');
	my $carol  = $node->direct(user => 'carol');
	my $boss   = $node->direct;
	my $start  = time;

	$carol->send(query('SELECT pg_sleep(0.5)'));
	$client->val('SET statement_timeout = 0');
	my $answer = $client->ask('SELECT pg_sleep(60)');
	my $ms     = 1000 * (time - $start);

	is( join(' ', @{ $answer->{error} }{qw(S C M)}),
		'ERROR 57014 canceling statement due to user request',
		'a statement');
	cmp_ok($ms, '>=', 200, '... never early');
	is($client->val("SELECT 'here'"), 'here', '... and goes on');
	$node->logged(
		qr/LOG:  canceling statement of process \d+ due to pool_worker.statement_timeout/,
		$from,
		'... it is logged');
	is($carol->answer->{error}, undef, 'one of an exempt role');
	is($client->sqlstate('SELECT pg_sleep(0.01)'), '', 'one in time');
	$_->terminate foreach $client, $carol, $boss;
}

note 'sessions';
{
	my @carols = map { $node->direct(user => 'carol') } 1 .. 2;
	my $boss   = $node->direct;

	$node->value(
		"ALTER ROLE ${\$node->superuser} SET pool_worker.idle_in_transaction_timeout = '100ms'"
	);
	$_->val('BEGIN') foreach $carols[1], $boss;
	ended('idle in a transaction', 'i', 'BEGIN; LOCK TABLE held');
	is( $node->control->sqlstate(
			'BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT'),
		'',
		'... its locks are gone');
	ended('idle in one that has failed',  'i', 'BEGIN; SELECT 1/0');
	ended('a transaction in a statement', 'x', 'SELECT pg_sleep(60)');
	ended('a transaction in a pause',     'x', 'BEGIN');
	ended('an idle session',              'c');
	left_alone('an exempt role, idle',             $carols[0]);
	left_alone('an exempt role, in a transaction', $carols[1]);
	left_alone('a superuser',                      $boss);
	$node->logged(
		qr/LOG:  terminating process \d+ due to pool_worker.client_idle_timeout/,
		$from,
		'it is logged');

	my $client = $node->direct(user => 'i');
	$client->val('BEGIN');
	left_alone('one in time', $client);
	$client->val('COMMIT');
	$client->wait_readable(0.3);
	left_alone('one that is idle outside of a transaction', $client);
	$_->terminate foreach $client, $boss, @carols;
}

note 'slots are not direct clients';
{
	my $client = $node->client(user => 'c');
	my ($pid) = $node->slot_pids('postgres', 'c');

	ends($client);
	$node->direct(user => 'c')->wait_readable(0.5);
	is_deeply([ $node->slot_pids('postgres', 'c') ],
		[$pid], 'an idle slot stays');
}

note 'a limit that was set later, and switched off';
{
	my $client = $node->direct(user => 's');

	$client->send(query('SELECT pg_sleep(60)'));
	is($client->answer->{error}{C}, '57014', 'a limit');
	$node->set('pool_worker.enforce_on' => 'pool');
	is($client->sqlstate('SELECT pg_sleep(0.5)'), '', 'not for everybody');

	my $pooled = $node->client(user => 's');
	is($pooled->sqlstate('SELECT pg_sleep(60)'),
		'57014', '... but for clients of the pool');
	$node->set('pool_worker.enforce_on' => 'all');
	is($client->sqlstate('SELECT pg_sleep(60)'), '57014', 'for all again');

	$node->set('pool_worker.enforce_exempt' => 's');
	is($client->sqlstate('SELECT pg_sleep(0.5)'), '', 'unless exempt');
	$_->terminate foreach $client, $pooled;
}

$node->stop;
done_testing();
