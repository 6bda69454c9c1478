# Copyright (c) pool_worker contributors

# What the tcp_... settings make of a client's socket.  A socket must have what
# its client's session says, whatever the slot had before, and must never get
# what another client has set; a reload must reach new clients and those who are
# there; and SHOW must tell the truth.  The kernel is asked for it, from within
# the slot, and the server's own port is the model.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => 'pool_worker.pool_size = 1',
	sql  => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE carol LOGIN;
	ALTER ROLE carol SET tcp_user_timeout = 4000;
	CREATE EXTENSION plpython3u;
	-- SO_KEEPALIVE, idle, interval, count and user timeout of the client's socket
	CREATE FUNCTION sockopts(port int) RETURNS text LANGUAGE plpython3u AS
	$$
		import os, socket
		for fd in os.listdir('/proc/self/fd'):
			try:
				s = socket.socket(fileno = os.dup(int(fd)))
			except OSError:
				continue
			with s:
				if s.family not in (socket.AF_INET, socket.AF_INET6):
					continue
				try:
					if s.getpeername()[1] != port:
						continue
				except OSError:
					continue
				return ' '.join(str(s.getsockopt(*o)) for o in (
					(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
					(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
					(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
					(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
					(socket.IPPROTO_TCP, 18)))
		return 'no such socket'
	$$;});

my @names =
  qw(tcp_keepalives_idle tcp_keepalives_interval tcp_keepalives_count tcp_user_timeout);

sub new_client
{
	my ($user, $port) = @_;
	my %params = (
		user     => $user || 'alice',
		database => 'postgres',
		host     => '127.0.0.1');

	return $port ? $node->direct(%params) : $node->client(%params);
}

# What a client is shown, and what its socket has.  The function keeps the slot
# for its client, so that one is done with after this.
sub shown
{
	my ($client) = @_;
	return join ' ', map { $client->val("SHOW $_") =~ s/(?:ms|s)$//r } @names;
}

sub sockopts
{
	my ($client) = @_;
	my $found = $client->val('SELECT sockopts(inet_client_port())');

	$client->terminate;
	return $found;
}

# The same of a client that connects to the server's own port.
sub as_directly
{
	my ($name, $user, $set) = @_;
	my ($direct, $pooled) = map { new_client($user, $_) } 1, 0;
	my $expected;

	$_->val($set) foreach grep { $set } $direct, $pooled;
	$expected = shown($direct);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(shown($pooled), $expected, "$name: what is shown");
	$expected = sockopts($direct);
	is(sockopts($pooled), $expected, "$name: the socket");
	return $expected;
}

# Other clients of the slot come and go, so that whoever it had is parked.
sub others_come
{
	my $other = new_client();

	$other->val('SET tcp_user_timeout = 7777; SET tcp_keepalives_idle = 77');
	$other->terminate;
	$other = new_client();
	is(shown($other), '33 11 3 3000', 'another one has what is configured');
	return $other;
}

as_directly('the system\'s own');

$node->set(
	tcp_keepalives_idle     => 33,
	tcp_keepalives_interval => 11,
	tcp_keepalives_count    => 3,
	tcp_user_timeout        => 3000);
is(as_directly('after a reload'), '1 33 11 3 3000', '... as configured');
is(as_directly('a role\'s own', 'carol'), '1 33 11 3 4000', '... as set');
is( as_directly(
		'set by the client',
		'alice', 'SET tcp_keepalives_idle = 44; SET tcp_user_timeout = 5000'),
	'1 44 11 3 5000',
	'... as set');
as_directly('set to the system\'s own',
	'alice', join '; ', map { "SET $_ = 0" } @names);
as_directly('... and from something else',
	'alice', join '; ', map { ("SET $_ = 9", "SET $_ = 0") } @names);

note 'it stays with its client';
{
	my $client = new_client();

	$client->val('SET tcp_user_timeout = 5000');
	$client->val('SET tcp_keepalives_count = 5');
	my $other = others_come();
	is(shown($client), '33 11 5 5000', 'one that has set something');
	is(shown($other),  '33 11 3 3000', 'one that has not');
	$other->val('SET tcp_user_timeout = 5000');
	is(shown($client), '33 11 5 5000', 'one that has set the same');
	$client->val('RESET tcp_keepalives_count');
	is(sockopts($client), '1 33 11 3 5000', 'the socket of the first');
	is(sockopts($other),  '1 33 11 3 5000', 'the socket of the second');
}

note 'it moves to another slot';
{
	my $client = new_client();

	$client->val('SET tcp_user_timeout = 5000');
	$node->replace_slot('alice');
	is(shown($client), '33 11 3 5000', 'what is shown');
	$node->replace_slot('alice');
	$client->val('SET tcp_keepalives_idle = 66');
	is(sockopts($client), '1 66 11 3 5000', 'the socket');
}

note 'a reload reaches those who are there';
{
	my ($parked, $other, $direct) =
	  (new_client(), new_client(), new_client('alice', 1));

	$_->val('SELECT 1') foreach $parked, $other;
	$other->val('SET tcp_keepalives_interval = 22');
	$node->set(tcp_user_timeout => 6000, tcp_keepalives_interval => 12);
	foreach my $client ($direct, $other, $parked)
	{
		my $interval = $client == $other ? 22 : 12;

		$node->until(sub { shown($client) eq "33 $interval 3 6000" });
		is(shown($client), "33 $interval 3 6000", 'what is shown');
	}
	is(sockopts($other),  '1 33 22 3 6000', 'the socket of one');
	is(sockopts($parked), '1 33 12 3 6000', 'the socket of another');
	is( sockopts($direct),
		'1 33 12 3 6000',
		'the socket of one without the pool');
}

$node->stop;
done_testing();
