# Copyright (c) pool_worker contributors

# Bytes from strangers: everything that can be wrong before a client is
# authenticated.  Each broken connection must be closed, with the error that
# the server's own port gives or without a word; the others must not notice;
# and the worker must keep neither the client nor its descriptor.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	hba => [
		'host all asked 127.0.0.1/32 scram-sha-256',
		'host all md 127.0.0.1/32 md5',
		'host all clear 127.0.0.1/32 password',
		'host all all 127.0.0.1/32 trust',
		'local all all trust'
	],
	sql => q{
	CREATE ROLE asked LOGIN PASSWORD 'secret';
	CREATE ROLE clear LOGIN PASSWORD 'secret';
	CREATE ROLE alice LOGIN;
	GRANT CREATE ON SCHEMA public TO alice;
	SET password_encryption = 'md5';
	CREATE ROLE md LOGIN PASSWORD 'secret';});

my $ssl     = PoolWorker::Wire::SSL_REQUEST;
my $gss     = PoolWorker::Wire::GSS_REQUEST;
my $startup = PoolWorker::Wire::msg_startup(
	user     => 'alice',
	database => 'postgres');

# A first client, so that the pool and what the worker opens once exist.
my $witness = $node->client(user => 'alice');
is($witness->val('SELECT 1'), '1', 'a client is served');
$witness->terminate;
$node->soon('SELECT count(*) FROM pool_clients()', 0, 'and leaves');
my $worker   = $node->worker_pid;
my $fds      = $node->fd_count($worker);
my @slots    = $node->slot_pids;
my $log_from = $node->log_end;

# Send bytes and nothing more; what comes back until the end, as text: bytes
# that are no message as they are, an error in its fields.  AuthenticationOk is
# left out: the server sends it before it has found the role and the database,
# the pool when a slot speaks.
sub answer_to
{
	my ($port, $bytes, %params) = @_;
	my $wire = $node->raw($port, %params);

	$wire->send($bytes);
	$wire->shut_write;
	my $got = $wire->read_to_end;
	$wire->close;
	return describe($got);
}

sub describe
{
	my ($got) = @_;
	my @seen;

	while (length $got)
	{
		my ($type, $length) = unpack('a N', $got . "\0" x 5);

		if ($type =~ /[NG]/ && ($length < 4 || $length > 30000))
		{
			push @seen, substr($got, 0, 1, '');
			next;
		}
		my $payload = substr($got, 5, $length - 4);
		substr($got, 0, $length + 1, '');
		push @seen, $type . ($type eq 'E' ? error_of($payload) : '');
	}
	return join ' ', grep { $_ ne 'R' } @seen;
}

sub error_of
{
	my ($payload) = @_;
	my $error = PoolWorker::Wire::fields($payload);
	return "($error->{S} $error->{C} $error->{M})";
}

# The same bytes to both ports.
sub same_bytes
{
	my ($name, $bytes, $like, %params) = @_;
	my $direct = answer_to('direct', $bytes, %params);
	my $pool   = answer_to('pool',   $bytes, %params);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($direct, $like, "$name: the server's port");
	is($pool, $direct, "$name: the pool's port says the same");
	return;
}

# Anything but an answer that lets the client in.
sub turned_away
{
	my ($answer) = @_;
	return $answer eq '' || $answer =~ /^(N )*E\(FATAL \w{5} [^)]*\)$/;
}

note 'requests for encryption';
foreach my $host ($node->host, '127.0.0.1')
{
	my $wire = $node->raw('pool', host => $host);

	foreach my $request ($ssl, $gss)
	{
		$wire->send($request);
		is($wire->read_bytes(1), 'N', 'SSLRequest and GSSENCRequest: no');
	}
	ok($wire->startup(user => 'alice', database => 'postgres'),
		'then in plain text');
	is($wire->val('SELECT 2'), '2', 'and it works');
	$wire->terminate;
}
same_bytes(
	'SSLRequest, and glued to it a startup packet',
	"$ssl$startup",
	qr/^N E\(FATAL 08P01 received unencrypted data/);
same_bytes(
	'GSSENCRequest, and glued to it a startup packet',
	"$gss$startup",
	qr/^N E\(FATAL 08P01 received unencrypted data/);
same_bytes('SSLRequest and one byte', "${ssl}x", qr/^N E\(FATAL 08P01/);

foreach my $twice ($ssl, $gss)
{
	my %seen;

	foreach my $port ('direct', 'pool')
	{
		my $wire = $node->raw($port);
		$wire->send($twice);
		$wire->read_bytes(1);
		$wire->send($twice);
		$seen{$port} = describe($wire->read_to_end);
		$wire->close;
	}
	like($seen{direct}, qr/E\(FATAL 0A000/, 'asked twice: the server');
	is($seen{pool}, $seen{direct}, 'asked twice: the pool says the same');
}

note 'lengths';
foreach my $length (
	0 .. 8,    63,            64,    8191,
	8192,      9999 .. 10004, 65535, 65536,
	2**24,     2**31 - 1,     2**31, 2**31 + 8,
	2**32 - 4, 2**32 - 1)
{
	my $answer = answer_to('pool', pack('NN', $length, 3 << 16) . 'user');
	ok(turned_away($answer), "startup packet of length $length: '$answer'");
}
foreach my $value (63, 64, 8192, 9900)
{
	my $packet = PoolWorker::Wire::msg_startup(
		user     => 'x' x $value,
		database => 'postgres');
	same_bytes("user name of $value bytes",
		$packet, qr/^E\(FATAL 28000 role "x{63}" does not exist\)$/);
}
same_bytes(
	'database name of 9000 bytes',
	PoolWorker::Wire::msg_startup(user => 'alice', database => 'd' x 9000),
	qr/^E\(FATAL 3D000/);

# whose last byte is the packet's end, not the list's
same_bytes(
	'no end of the list',
	pack('NN', 8 + 11, 3 << 16) . "user\0alice\0",
	qr/^E\(FATAL 08P01 invalid startup packet layout/);
same_bytes(
	'a name without value',
	pack('NN', 8 + 6, 3 << 16) . "user\0\0",
	qr/^E\(FATAL/);
same_bytes(
	'garbage behind the end of the list',
	pack('NN', 8 + 15, 3 << 16) . "user\0alice\0\0xxx",
	qr/^E\(FATAL 08P01 invalid startup packet layout/);
same_bytes(
	'no user',
	PoolWorker::Wire::msg_startup(database => 'postgres'),
	qr/^E\(FATAL 28000 no PostgreSQL user name specified/);
same_bytes('nothing but a version', pack('NN', 8, 3 << 16), qr/^E\(FATAL/);

note 'truncated at each byte';
my @let_in =
  grep { !turned_away(answer_to('pool', substr($startup, 0, $_))) }
  0 .. length($startup) - 1;
is("@let_in", '', 'a startup packet that is cut anywhere is not served');

note 'one byte at a time';
{
	my $wire = $node->raw('pool', host => '127.0.0.1');
	$wire->send($_) foreach split //, $startup;
	ok($wire->finish_startup, 'a startup packet in single bytes');
	$wire->send($_) foreach split //, PoolWorker::Wire::msg_query('SELECT 3');
	is(PoolWorker::Wire::text($wire->answer), '3', 'and a query');
	$wire->terminate;
}

note 'other protocols';

# protocol 2.0 has errors of another form, of which the server sends one
my $old = $node->raw('pool');
$old->send(pack('NN', 8, 2 << 16));
like($old->read_to_end, qr/^(|E.*unsupported.*protocol.*)$/s, 'protocol 2.0');
$old->close;
same_bytes('protocol 4.0', pack('NN', 8, 4 << 16), qr/^E\(FATAL 0A000/);
same_bytes(
	'protocol 1234.1',
	pack('NN', 8, (1234 << 16) + 1),
	qr/^E\(FATAL 0A000/);
my $hello = pack('H*', '16030100fa010000f60303' . '5a' x 64);
ok(turned_away(answer_to('pool', $hello)), 'a direct TLS hello');
ok(turned_away(answer_to('pool', "GET / HTTP/1.1\r\n\r\n")), 'a web browser');

foreach my $case (
	[ 'minor version 3.99',   protocol       => (3 << 16) + 99 ],
	[ 'minor version 3.9999', protocol       => (3 << 16) + 9999 ],
	[ 'a protocol option',    '_pq_.sparkle' => 'on' ],
	[ 'both', protocol => (3 << 16) + 2, '_pq_.a' => '1', '_pq_.b' => '2' ])
{
	my ($name, %extra) = @$case;
	my %seen;

	foreach my $port ('direct', 'pool')
	{
		my $wire = $node->raw($port);
		$wire->send_startup(user => 'alice', database => 'postgres', %extra);
		my $first = $wire->read;
		$seen{$port} = "$first->[0]:" . unpack('H*', $first->[1]);
		ok($wire->finish_startup && $wire->val('SELECT 4') eq '4',
			"$name: the $port port serves it");
		$wire->terminate;
	}
	like($seen{direct}, qr/^v:/, "$name: NegotiateProtocolVersion");
	is($seen{pool}, $seen{direct}, "$name: the pool negotiates the same");
}

note 'messages before authentication';
foreach my $role ('asked', 'md', 'clear')
{
	my %differs;

	foreach my $type (map { chr } 0, 1, 0x20 .. 0x7e, 0x80, 0xff)
	{
		next if $type eq 'p';
		my %seen;

		foreach my $port ('direct', 'pool')
		{
			my $wire = $node->raw($port, host => '127.0.0.1');
			$wire->send_startup(user => $role, database => 'postgres');
			$wire->read;
			$wire->send(PoolWorker::Wire::msg($type, "SELECT 1\0"));
			$seen{$port} = describe($wire->read_to_end);
			$wire->close;
		}
		$differs{ ord $type } = "$seen{direct} / $seen{pool}"
		  unless $seen{pool} =~ /^E\(FATAL 08P01/
		  && turned_away($seen{pool});
	}
	is_deeply(\%differs, {},
		"every message type instead of the answer of \"$role\"");
}

foreach my $case (
	[
		'asked',
		'no such mechanism',
		PoolWorker::Wire::msg('p', "SCRAM-SHA-1\0\0\0\0\0")
	],
	[ 'asked', 'an empty answer', PoolWorker::Wire::msg('p', '') ],
	[
		'asked',
		'a length that goes beyond the message',
		PoolWorker::Wire::msg(
			'p', "SCRAM-SHA-256\0" . pack('N', 2**31 - 1) . 'n,,n=,r=x')
	],
	[
		'asked',
		'a negative length other than -1',
		PoolWorker::Wire::msg(
			'p', "SCRAM-SHA-256\0" . pack('N', 2**32 - 2) . 'n,,n=,r=x')
	],
	[
		'asked',
		'a message that is no SCRAM',
		PoolWorker::Wire::msg('p', "SCRAM-SHA-256\0" . pack('N/a*', 'hello'))
	],
	[ 'asked', 'a message of length 3', 'p' . pack('N', 3) ],
	[ 'asked', 'a message of 2 GB',     'p' . pack('N', 2**31 - 1) . 'x' ],
	[
		'clear',
		'a password with a zero byte',
		PoolWorker::Wire::msg('p', "se\0cret\0")
	],
	[ 'clear', 'an empty password', PoolWorker::Wire::msg('p', "\0") ],
	[
		'clear',
		'a password that does not end',
		PoolWorker::Wire::msg('p', 'secret')
	],
	[ 'clear', 'a password of 2 GB',  'p' . pack('N', 2**31 - 1) . 'x' ],
	[ 'md',    'an empty md5 answer', PoolWorker::Wire::msg('p', "\0") ])
{
	my ($role, $name, $bytes) = @$case;
	my %seen;

	foreach my $port ('direct', 'pool')
	{
		my $wire = $node->raw($port, host => '127.0.0.1');
		$wire->send_startup(user => $role, database => 'postgres');
		$wire->read;
		$wire->send($bytes);
		$wire->shut_write;
		$seen{$port} = describe($wire->read_to_end);
		$wire->close;
	}
	is($seen{pool}, $seen{direct}, "$role, $name: as the server's port");
}

note 'queries that nobody has asked for yet';
foreach my $host ($node->host, '127.0.0.1')
{
	my $answer = answer_to(
		'pool',
		$startup . PoolWorker::Wire::msg_query('CREATE TABLE sneaked_in ()'),
		host => $host);
	unlike($answer, qr/C/, 'a query glued to the startup packet is not run');
}
is($node->value(q{SELECT to_regclass('sneaked_in') IS NULL}),
	't', 'and left no trace');

note 'cancel requests';
{
	my $client = $node->client(user => 'alice');

	$client->send(
		PoolWorker::Wire::msg_query('SELECT pg_advisory_xact_lock(1), 5'))
	  if $node->value('SELECT pg_advisory_lock(1)') eq '';
	$node->soon(q{SELECT count(*) FROM pg_locks WHERE NOT granted},
		1, 'a query is running');
	foreach my $wrong (
		[ $client->{pid},     $client->{key} ^ 1 ],
		[ $client->{pid} + 1, $client->{key} ],
		[ 0,                  0 ],
		[ 2**32 - 1,          2**32 - 1 ],
		[ $slots[0] // 1,     $client->{key} ])
	{
		$client->cancel(pid => $wrong->[0], key => $wrong->[1]);
	}
	my $cancel = PoolWorker::Wire::msg_cancel($client->{pid}, $client->{key});
	foreach my $length (4 .. 15, 17 .. 20)
	{
		my $bytes =
		  pack('N', $length) . substr($cancel . 'xxxx', 4, $length - 4);

		ok( turned_away(answer_to('pool', $bytes)),
			"CancelRequest of length $length");
	}
	$node->value('SELECT pg_advisory_unlock(1)');
	is(PoolWorker::Wire::text($client->answer),
		'|5', 'none of them cancelled it');
	$client->terminate;
}

note 'connected and silent, connected and gone';
{
	my @silent = map { $node->raw('pool') } 1 .. 20;
	my $client = $node->client(user => 'alice');

	is($client->val('SELECT 6'),
		'6', 'silent connections are in nobody\'s way');
	$client->terminate;
	$_->reset foreach @silent;
}

# what remains
is($node->worker_pid, $worker, 'the worker is the same process');
is_deeply([ $node->slot_pids ], \@slots, 'and so are the slots');
$node->no_leak($fds, 'after all that');
my $after =
  $node->client(user => 'asked', password => 'secret', host => '127.0.0.1');
is($after->val('SELECT current_user'), 'asked', 'a login works as before');
$after->terminate;
$node->not_logged(qr/PANIC|TRAP|signal|sneaked_in/,
	$log_from, 'nothing in the log that should not be there');

$node->stop;
done_testing();
