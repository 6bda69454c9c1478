# Copyright (c) pool_worker contributors

# Who a client is.  What it asked for when it connected must hold for it and
# for nobody else on the same slot; a setting that the server refuses costs
# that client its connection and nobody anything; and pg_stat_activity, the
# address functions and the log must name the client, not the pool.

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
	CREATE ROLE tuned LOGIN;
	CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
	ALTER ROLE tuned SET work_mem = '3MB';
	ALTER DATABASE postgres SET statement_timeout = '45s';
	ALTER ROLE tuned IN DATABASE postgres SET DateStyle = 'German';
	CREATE SCHEMA elsewhere;
	CREATE TABLE elsewhere.here (a int);
	GRANT USAGE ON SCHEMA elsewhere TO alice;
	GRANT SELECT ON elsewhere.here TO alice;});

# An empty application_name is the same whether it was asked for or not.
my $settings =
  q{SELECT string_agg(format('%s=%s', name, setting), ' ' ORDER BY name)
	FROM pg_settings WHERE source IN ('client', 'session', 'user', 'database',
	'database user') AND NOT (name = 'application_name' AND setting = '')};

note 'what a client is told, and has, when it has connected';
my @hellos = (
	['nothing special'],
	[ 'application_name',        application_name => "who's there" ],
	[ 'a long application_name', application_name => 'x' x 100 ],
	[
		'an application_name with other bytes',
		application_name => "caf\xc3\xa9\x01"
	],
	[ 'client_encoding',          client_encoding    => 'LATIN1' ],
	[ 'DateStyle',                DateStyle          => 'SQL, DMY' ],
	[ 'datestyle, in lower case', datestyle          => 'German' ],
	[ 'TimeZone',                 TimeZone           => 'America/New_York' ],
	[ 'search_path',              search_path        => 'elsewhere, public' ],
	[ 'extra_float_digits',       extra_float_digits => '-2' ],
	[ 'a custom setting',         'my.own'           => 'yes' ],
	[ 'options', options => '-c work_mem=123kB -c enable_seqscan=off' ],
	[
		'options, the long form',
		options => '--work-mem=124kB --TimeZone=UTC'
	],
	[
		'options with spaces',
		options => '-c search_path=elsewhere,\\ public'
	],
	[
		'options against pairs',
		options  => '-c TimeZone=Asia/Tokyo -c work_mem=125kB',
		TimeZone => 'UTC',
		work_mem => '126kB'
	],
	[
		'IntervalStyle and bytea_output',
		IntervalStyle => 'iso_8601',
		bytea_output  => 'escape'
	],
	[ 'read only',            default_transaction_read_only => 'on' ],
	[ 'a role with settings', user                          => 'tuned' ],
	[
		'a role with settings, and others',
		user      => 'tuned',
		work_mem  => '127kB',
		DateStyle => 'ISO'
	],
	[
		'role by options',
		user    => $node->superuser,
		options => '-c role=alice'
	],);
foreach my $hello (@hellos)
{
	my ($name, %params) = @$hello;
	my %seen;

	foreach my $port ('direct', 'pool')
	{
		my $method = $port eq 'pool' ? 'client' : 'direct';
		my $client = $node->$method(user => 'alice', %params);

		$seen{$port} = {
			%{ $client->{params} },
			settings => $client->val($settings),
			who      => $client->val('SELECT session_user, current_user')
		};
		$client->terminate;
	}
	is_deeply($seen{pool}, $seen{direct}, "$name: as at the server's port");
}

note 'two clients with different wishes, in turn on one slot';
{
	my $a = $node->client(
		user             => 'alice',
		work_mem         => '1001kB',
		TimeZone         => 'Asia/Tokyo',
		application_name => 'a');
	my ($slot) = $node->slot_pids('postgres', 'alice');
	my $b = $node->raw('pool');
	my $sql =
	  q{SELECT current_setting('work_mem'), current_setting('TimeZone'),
		current_setting('application_name')};

	$b->send_startup(
		user      => 'alice',
		database  => 'postgres',
		DateStyle => 'German');
	if (ok($b->finish_startup, 'the second is not kept out by the first'))
	{
		foreach my $round (1 .. 3)
		{
			is($a->val($sql), '1001kB|Asia/Tokyo|a', 'the first');
			is($b->val($sql), '4MB|Etc/UTC|',        'the second');
		}
		is($b->val(q{SELECT date '2001-02-03'}), '03.02.2001', 'its dates');
		is($a->val(q{SELECT date '2001-02-03'}),
			'2001-02-03', 'not for the first');
		$b->terminate;
	}
	$a->terminate;
	is(($node->slot_pids('postgres', 'alice'))[0], $slot, 'on the same slot');
}

note 'two clients whose wishes have the same names, in turn on one slot';
{
	my %a = (user => 'alice', TimeZone => 'Asia/Tokyo',   search_path => 'a');
	my %b = (user => 'alice', TimeZone => 'Europe/Paris', search_path => 'b');
	my $a = $node->client(%a, application_name => 'a');
	my $b = $node->client(%b, application_name => 'b');
	my ($slot) = $node->slot_pids('postgres', 'alice');
	my $sql =
	  q{SELECT string_agg(concat_ws('/', setting, reset_val, source), ' ' ORDER BY name)
		FROM pg_settings WHERE name IN ('TimeZone', 'search_path', 'application_name')};
	my $of_b = 'Europe/Paris/Europe/Paris/client b/b/client b/b/client';

	# hides what comes from the startup packet
	$a->val(q{SET TimeZone = 'UTC'});
	foreach my $round (1 .. 3)
	{
		is( $a->val($sql),
			'UTC/Asia/Tokyo/session a/a/client a/a/client',
			'the first, who has set one of them');
		is($b->val($sql), $of_b, 'the second');
	}
	$a->val('RESET TimeZone');
	is($a->val('SHOW TimeZone'), 'Asia/Tokyo', 'RESET goes back to its own');

	my $bad = $node->raw('pool');
	$bad->send_startup(
		%b,
		database         => 'postgres',
		search_path      => 'bad',
		application_name => 'bad',
		TimeZone         => 'Nowhere/Land');
	ok(!$bad->finish_startup, 'a third one is refused');
	is($b->val($sql), $of_b, 'and leaves nothing to the second');
	$a->terminate;
	$b->terminate;
	is(($node->slot_pids('postgres', 'alice'))[0], $slot, 'on the same slot');
}

note 'a setting that no module knows, which nothing can remove again';
{
	my $a = $node->client(
		user             => 'alice',
		'my.own'         => 'of a',
		application_name => 'a');
	my ($slot)  = $node->slot_pids('postgres', 'alice');
	my $sql     = q{SELECT current_setting('my.own', true)};
	my $exists  = q{SELECT current_setting('my.own', true) IS NOT NULL};
	my $b       = $node->client(user => 'alice');
	my $c       = $node->client(user => 'alice', 'my.own' => 'of c');
	my @clients = ([ $a, 'of a|t' ], [ $b, '|f' ], [ $c, 'of c|t' ]);

	$a->{name} = 'a';
	foreach my $round (1 .. 3)
	{
		is(join('|', $_->[0]->val($sql), $_->[0]->val($exists)),
			$_->[1], 'each has its own, or none')
		  foreach @clients;
	}
	is(($node->slot_pids('postgres', 'alice'))[0], $slot, 'on the same slot');
	is($a->val($sql),                              'of a', 'the first');
	$node->not_pinned($a, 'alice', 'is not pinned');
	$node->replace_slot('alice');
	is($_->[0]->val($sql), $_->[1] =~ s/\|.*//r, 'also on another slot')
	  foreach @clients;
	$_->terminate foreach $a, $c;
	is($b->val($exists), 'f', 'it is gone with its clients');
	$b->terminate;
}

note 'another, of clients who set it and of clients who ask for it';
{
	my $sql = q{SELECT current_setting('my.other', true)};
	my $set = $node->client(user => 'alice');

	$set->val(q{SET my.other = 'of a'});
	$set->terminate;
	foreach (1, 2)
	{
		my $a = $node->client(user => 'alice', 'my.other' => 'of a');
		my $b = $node->client(user => 'alice');
		my $c = $node->client(user => 'alice');

		$b->val(q{SET my.other = 'of b'});
		foreach my $round (1 .. 3)
		{
			is($a->val($sql), 'of a', "asked for, round $round");
			is($b->val($sql), 'of b', "set, round $round");
			is($c->val("$sql IS NULL"),
				't', "does not exist for others, round $round");
		}
		$_->terminate foreach $a, $b, $c;
	}
}

note 'what the server refuses';
foreach my $case (
	[ 'an unknown setting',   qr/42704/, options  => '-c no_such_setting=1' ],
	[ 'a value out of range', qr/22023/, work_mem => '1kB' ],
	[ 'a value that is none', qr/22023/, TimeZone => 'Nowhere/Land' ],
	[ 'an unknown encoding',      qr/22023/, client_encoding  => 'KLINGON' ],
	[ 'a setting for superusers', qr/42501/, log_min_messages => 'debug5' ],
	[ 'a setting of the server',  qr/55P02/, options => '-c port=1' ],
	[ 'a role it is not',         qr/42501/, options => '-c role=tuned' ],
	[ 'malformed options',        qr/42601/, options => '-c work_mem' ],
	[ 'an unknown option',        qr/42601/, options => '-Z' ],
	[ 'a bad name',               qr/FATAL/, options => '-c 1bad.name=x' ])
{
	my ($name, $like, %params) = @$case;
	my $witness = $node->client(user => 'alice');
	my ($slot) = $node->slot_pids('postgres', 'alice');

	$node->same_answer($name, $like, user => 'alice', %params);
	is($witness->val('SELECT current_user'),
		'alice', 'and nobody else suffers');
	is(($node->slot_pids('postgres', 'alice'))[0], $slot, 'nor the slot');
	$witness->terminate;
}

note 'in pg_stat_activity while attached, and in the address functions';
foreach my $host ($node->host, '127.0.0.1')
{
	my $client = $node->client(
		user             => 'alice',
		host             => $host,
		application_name => 'seen');
	my ($addr, $port) =
	  $host =~ m{^/} ? ('', '') : ('127.0.0.1', $client->{sock}->sockport);

	is($client->val('SELECT host(inet_client_addr()), inet_client_port()'),
		"$addr|$port", "$host: the address functions");
	is( $client->val(
			q{SELECT host(client_addr), client_port, application_name, usename
			FROM pg_stat_activity WHERE pid = pg_backend_pid()}),
		join('|', $addr, $host =~ m{^/} ? -1 : $port, 'seen', 'alice'),
		"$host: pg_stat_activity");
	is($node->value(q{SELECT application FROM pool_clients()}),
		'seen', "$host: pool_clients()");
	my $from = $node->log_end;
	is($client->sqlstate('SELECT 1/0'), '22012', "$host: an error");
	my $name = $host =~ m{^/} ? '\[local\]' : '127\.0\.0\.1';
	$node->logged(qr/alice\@postgres <$name> <seen> ERROR:  division by zero/,
		$from, "$host: which the log has in the client's name");
	$client->val(q{SET application_name = 'renamed'});
	$client->val('BEGIN');
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'renamed'
			AND state = 'idle in transaction'},
		1, "$host: a new name, and the state");
	$client->val('COMMIT');
	$client->terminate;
}

# two clients at different addresses, by turns
{
	my $a = $node->client(
		user             => 'alice',
		host             => '127.0.0.1',
		application_name => 'a');
	my $b   = $node->client(user => 'alice', application_name => 'b');
	my $sql = q{SELECT coalesce(host(inet_client_addr()), 'local'),
		coalesce(inet_client_port()::text, 'local'), application_name
		FROM pg_stat_activity WHERE pid = pg_backend_pid()};

	foreach my $round (1 .. 3)
	{
		is($a->val($sql), join('|', '127.0.0.1', $a->{sock}->sockport, 'a'),
			'the first');
		is($b->val($sql), 'local|local|b', 'the second');
	}
	$_->terminate foreach $a, $b;
}

note 'a slot without a client says what it is';
$node->soon('SELECT count(*) FROM pool_clients()', 0, 'all have left');
my ($slot) = $node->slot_pids('postgres', 'alice');
$node->soon("SELECT application_name FROM pg_stat_activity WHERE pid = $slot",
	qr/pool|slot/, 'its application_name');

$node->stop;
done_testing();
