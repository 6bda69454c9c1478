# Copyright (c) pool_worker contributors

# What an administrator does to pools that are in use.  A transaction that is
# under way when its pool is paused must end as if nothing had happened; nobody
# else may be served before pool_resume(), and everybody after it, in the order
# in which they came; what was done to the server meanwhile must be what they
# find.  Who is sent away must be told why, and leave nothing behind.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.pool_size = 3
pool_worker.max_pinned = 0
pool_worker.queue_notice_after = 0
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE boss IN ROLE bob;
	CREATE ROLE stranger;
	CREATE DATABASE shop;
	GRANT TEMPORARY ON DATABASE postgres TO alice, bob;
	CREATE TABLE held (x int);
	CREATE TABLE served (turn xid8 DEFAULT pg_current_xact_id(), who text);
	CREATE TABLE t (x int PRIMARY KEY);
	INSERT INTO t SELECT generate_series(1, 1000);
	GRANT ALL ON held, served, t TO PUBLIC;});
my $admin  = $node->direct(application_name => 'admin');
my $serial = 0;

sub about { return PoolWorker::about(@_); }

# A client with a name, of alice's if nothing else is said.
sub connected
{
	my (%params) = @_;
	my $name     = 'client' . ++$serial;
	my $client   = $node->client(
		user             => 'alice',
		application_name => $name,
		%params);

	$client->{name} = $name;
	return $client;
}

sub id { return $node->value(about($_[0], 'client')); }

sub status
{
	my ($columns, $role) = @_;
	return
		"SELECT $columns FROM pool_status() WHERE role = '"
	  . ($role || 'alice')
	  . q{' AND database = 'postgres'};
}

# What a function for administrators says: pool, clients, what remains to be
# done.
sub operate
{
	my ($function) = @_;
	my $columns = "concat_ws('/', datname, rolname), clients";

	$columns .= ', remaining' unless $function =~ /^pool_resume/;
	return $node->value("SELECT $columns FROM $function");
}

# The same in psql, with its warnings.
sub operate_in_psql
{
	my ($function) = @_;
	my ($out, $err) = ('', '');

	$node->psql(
		'postgres',
		"SELECT concat_ws('/', datname, rolname), clients, remaining FROM $function",
		stdout => \$out,
		stderr => \$err);
	return ($out, $err);
}

# Clients ask what time it is, and do not read the answer.
sub ask_time
{
	$_->send(query('SELECT clock_timestamp()')) foreach @_;
	return;
}

# They were answered after this time.
sub answered_after
{
	my ($time, $name, @clients) = @_;
	my @early;

	foreach my $client (@clients)
	{
		my $answer = text($client->answer);

		push @early, "$client->{name} at $answer"
		  if $node->value(
			"SELECT timestamptz '$answer' > timestamptz '$time'") ne 't';
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is("@early", '', "$name: nobody was served before");
}

# The end of a client: the error's severity, SQLSTATE and message, and that
# nothing comes after it.
sub farewell
{
	my ($client) = @_;
	my $types = '';

	delete $client->{error};
	while (my $message = $client->read)
	{
		$types .= $message->[0];
		$client->{error} = PoolWorker::Wire::fields($message->[1])
		  if $message->[0] eq 'E';
	}
	return 'no error'             unless $client->{error};
	return "not the last: $types" unless $types =~ /E$/;
	return join ' ', @{ $client->{error} }{qw(S C M)};
}
my $farewell =
  'FATAL 57P01 terminating connection due to administrator command';

note 'pool_pause(): who goes on, and who waits';
$node->set(
	'pool_worker.queue_timeout' => '200ms',
	'pool_worker.max_waiting'   => '1');
{
	my $busy = connected();
	$busy->val('BEGIN');
	$busy->val('INSERT INTO held VALUES (1)');
	my $pinned = connected();
	$pinned->val('CREATE TEMPORARY TABLE temporary (x int)');
	my $idle    = connected();
	my $sleeper = connected();
	$node->soon(about($_, 'state'), 'pinned', 'a slot is taken')
	  foreach $busy, $pinned;

	my $from = $node->log_end;
	my ($out, $err) = operate_in_psql('pool_pause(timeout => 100)');
	is($out, 'postgres/alice|4|1', 'what it says of a transaction');
	like(
		$err,
		qr/WARNING:  pool_pause\(\) is not done within 100 milliseconds\nDETAIL:  Transactions that are still open: 1\./,
		'and how it warns');
	$node->logged(
		qr/LOG:  connection pools paused by role "\w+", process \d+\n.*DETAIL:  Database any, role any\.  Pools at present: 1\./,
		$from,
		'it is logged');
	is($node->value(status('state, clients')),
		'paused|4', 'the pool is paused');

	# everybody but the one in a transaction
	my $newcomer = $node->raw('pool');
	$newcomer->{name} = 'newcomer';
	$newcomer->send_startup(
		user             => 'alice',
		database         => 'postgres',
		application_name => 'newcomer');
	ask_time($idle, $sleeper, $pinned);
	$node->soon(status('waiting'), 3, 'others wait, also who has just come');
	is($busy->val('INSERT INTO held VALUES (2) RETURNING x'),
		2, 'the transaction goes on');

	# waiting for that to end, in somebody else's session
	$admin->send(
		query('SELECT rolname, clients, remaining FROM pool_pause()'));
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'admin' AND wait_event_type = 'Extension'},
		1,
		'pool_pause() waits');
	ok(!$admin->wait_readable(0), 'and has not returned');
	$busy->val('COMMIT');
	is(text($admin->answer),
		'alice|5|0', 'it returns when the transaction ends');
	ask_time($busy);
	$node->soon(status('waiting'), 4, 'then this one waits as well');

	# longer than any limit of waiting, and more than max_waiting
	my $pid   = $node->value(about($pinned, 'pid'));
	my $ticks = PoolWorker::ticks($pid);
	$node->until(
		sub {
			$node->value(
				status(
					"waiting = 4 AND waiting_for > 500 AND turned_away = 0")
			) eq 't';
		}) or fail('nobody is turned away');
	cmp_ok(PoolWorker::ticks($pid) - $ticks,
		'<', 6, 'a slot that keeps its client sleeps');
	my $before = $node->value('SELECT clock_timestamp()');
	is(operate('pool_resume()'), 'postgres/alice|5', 'pool_resume()');
	ok($newcomer->finish_startup, 'the new client is greeted');
	answered_after($before, 'resume', $busy, $idle, $sleeper, $pinned);
	is($node->value(status('turned_away, state')),
		'0|ready', 'nobody was turned away');
	cmp_ok($node->value(status('longest_wait')),
		'<', 500, 'a pause is no wait for a slot');
	is($pinned->val('SELECT count(*) FROM temporary'),
		0, 'who was pinned has kept what pins it');
	is($node->value('SELECT count(*) FROM held'),
		2, 'the transaction was committed');
	$node->all_leave($busy, $pinned, $idle, $sleeper, $newcomer);
}
$node->set(
	'pool_worker.queue_timeout' => undef,
	'pool_worker.max_waiting'   => undef);

note 'who has sent several commands at once waits between them';
{
	my $client = connected();
	my $other  = connected();
	my $lock   = $node->direct;

	$lock->val('SELECT pg_advisory_lock(1)');
	$client->send(query('SELECT pg_advisory_lock(1), pg_advisory_unlock(1)')
		  . query('SELECT clock_timestamp()')
		  . query('SELECT clock_timestamp()'));
	$node->soon(
		q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted},
		1,
		'the first command runs');
	is(operate('pool_pause(timeout => 0)'),
		'postgres/alice|2|1', 'it is waited for');
	$lock->val('SELECT pg_advisory_unlock(1)');
	is(operate('pool_pause()'),
		'postgres/alice|2|0', 'the others do not count');
	is( $node->value(about($client, 'state, pin_reason')),
		'pinned|unread commands',
		'and keep the slot');
	is($node->value(status('pinned_sessions')),
		0, 'but not for the state of a session');

	my $before = $node->value('SELECT clock_timestamp()');
	operate('pool_resume()');
	text($client->answer);
	answered_after($before, 'between commands', $client, $client);
	$node->soon(about($client, 'pin_reason'),
		'', 'then it is not pinned any more');

	# who is waited for like that can be sent away, and can leave
	foreach my $way ('disconnect', 'terminate')
	{
		$lock->val('SELECT pg_advisory_lock(1)');
		$client->send(
				query('SELECT pg_advisory_lock(1), pg_advisory_unlock(1)')
			  . query('SELECT 1'));
		$node->soon(
			q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted},
			1,
			'the first command runs');
		operate('pool_pause(timeout => 0)');
		$lock->val('SELECT pg_advisory_unlock(1)');
		operate('pool_pause()');
		if ($way eq 'disconnect')
		{
			is( $node->value(
					"SELECT pool_disconnect(" . id($client) . ', 20000)'),
				't',
				'pool_disconnect() of a client that is kept');
			is(farewell($client), $farewell, 'it is told so');
			operate('pool_resume()');
		}
		else
		{
			$client->terminate;
			operate('pool_resume()');
			$node->soon(about($client, 'count(*)'), 0, 'it has left');
		}
		$client->close;
		$client = connected();
	}
	$lock->close;
	$node->all_leave($client, $other);
}

note 'in the order in which they came';
{
	my @clients = map { connected() } 1 .. 6;

	$node->value(q{ALTER ROLE alice SET pool_worker.pool_size = 1});
	$node->soon(status('pool_size'), 1, 'one slot');
	operate('pool_pause()');
	foreach my $client (@clients)
	{
		$client->send(
			query("INSERT INTO served (who) VALUES ('$client->{name}')"));
		$node->until(
			sub { $node->value(about($client, 'state')) eq 'waiting' })
		  or die "$client->{name} does not wait";
	}
	operate('pool_resume()');
	text($_->answer) foreach @clients;
	is( $node->value(
			q{SELECT string_agg(who, ' ' ORDER BY turn) FROM served}),
		join(' ', map { $_->{name} } @clients),
		'they are served in their order');
	$node->all_leave(@clients);
	$node->value(q{ALTER ROLE alice RESET pool_worker.pool_size});
	$node->soon(status('pool_size'), 3, 'three slots');
}

note 'clients that leave, are told, and are not idle';
$node->set('pool_worker.queue_notice_after' => '50ms');
{
	my $idle    = connected();
	my $gone    = connected();
	my $waiting = connected();
	my $pinned  = connected();
	my $notice  = '';

	$pinned->val('CREATE TEMPORARY TABLE temporary (x int)');

	$node->value(
		q{ALTER ROLE alice SET pool_worker.client_idle_timeout = '300ms'});
	operate('pool_pause()');
	$gone->close;
	$node->soon(status('clients'), 3, 'one that hangs up is seen');
	ask_time($waiting, $pinned);
	$notice = $waiting->read;
	is($notice->[0], 'N', 'one that waits gets a notice');
	is( PoolWorker::Wire::fields($notice->[1])->{M},
		'an administrator has paused connection pool "postgres/alice"',
		'which says for what');
	$node->soon(status('waiting_for > 600'), 't', 'a limit passes');
	is($node->value(status('clients, client_idle_timeouts')),
		'3|0', 'nobody is idle while nobody is served');

	my $resumed_at = time;
	operate('pool_resume()');
	text($_->answer) foreach $waiting, $pinned;
	my $ended = farewell($idle);
	cmp_ok(time - $resumed_at, '>=', 0.3, 'nor because of the pause');
	is( $_,
		'FATAL 57P05 terminating connection due to pool_worker.client_idle_timeout',
		'but afterwards'
	) foreach $ended, map { farewell($_) } $waiting, $pinned;
	$node->value(q{ALTER ROLE alice RESET pool_worker.client_idle_timeout});
	$_->close foreach $idle, $waiting, $pinned;
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'all are gone');
}
$node->set('pool_worker.queue_notice_after' => '0');

note 'which pools';
{
	my $alice = connected();
	my $bob   = connected(user => 'bob');

	is(operate(q{pool_pause(role => 'bob')}), 'postgres/bob|1|0', 'one role');
	is($alice->val('SELECT 1'),               1, 'others are served');
	ask_time($bob);
	$node->soon(about($bob, 'state'), 'waiting', 'but not that one');
	is( $node->value(
			q{SELECT role || ' ' || state FROM pool_status() WHERE role IN ('alice', 'bob') ORDER BY 1}
		),
		"alice ready\nbob paused",
		'what is seen');
	operate(q{pool_resume(role => 'alice')});
	is($node->value(status('state', 'bob')),
		'paused', 'another one is resumed');

	# not even those that do not exist yet
	operate(q{pool_pause('shop')});
	my $early = $node->raw('pool');
	$early->{name} = 'early';
	$early->send_startup(
		user             => 'bob',
		database         => 'shop',
		application_name => 'early');
	$node->soon(
		q{SELECT state, waiting FROM pool_status() WHERE database = 'shop'},
		'paused|1',
		'a pool that is made while its database is paused');
	is( $node->value(
			q{SELECT count(*) FROM pool_check() WHERE "check" = 'stopped pools'}
		),
		2,
		'pool_check() knows');

	my $before = $node->value('SELECT clock_timestamp()');
	operate('pool_resume()');
	ok($early->finish_startup, 'pool_resume() of all ends all pauses');
	answered_after($before, 'one role', $bob);

	# exceptions
	operate('pool_pause()');
	operate(q{pool_resume('shop')});
	is($early->val('SELECT 1'), 1, 'one database goes on');
	ask_time($bob);
	$node->soon(about($bob, 'state'), 'waiting', 'others do not');
	operate('pool_resume()');
	text($bob->answer);
	$node->all_leave($alice, $bob, $early);
}

note 'too many different orders';
{
	$node->value('CREATE ROLE "many' . $_ . '"') foreach 1 .. 33;
	operate("pool_pause(role => 'many$_')") foreach 1 .. 32;
	is( $node->control->sqlstate(
			q{SELECT * FROM pool_pause(role => 'many33')}),
		'53400',
		'one too many');
	operate(q{pool_pause(role => 'many1')});
	is( $node->value(
			q{SELECT count(*) FROM pool_check() WHERE "check" = 'stopped pools'}
		),
		32,
		'the same again is not one more');
	operate(q{pool_resume(role => 'many1')});
	operate(q{pool_pause(role => 'many33')});
	operate('pool_pause()');
	is( $node->value(
			q{SELECT count(*) FROM pool_check() WHERE "check" = 'stopped pools' AND detail ~ 'many'}
		),
		0,
		'one word for all replaces them');
	operate('pool_resume()');
	is( $node->value(
			q{SELECT detail FROM pool_check() WHERE "check" = 'stopped pools'}
		),
		'No pool is paused or being drained.',
		'and another one takes it back');
}

note 'a pause for too long';
$node->set('pool_worker.queue_timeout' => '100ms');
{
	my $checked =
	  q{SELECT ok FROM pool_check() WHERE "check" = 'stopped pools'};

	is($node->value($checked), 't', 'nothing is paused');
	operate(q{pool_pause(role => 'alice')});
	$node->soon($checked, 'f', 'longer than anybody would have waited');
	operate('pool_resume()');
	is($node->value($checked), 't', 'nothing is paused any more');
}
$node->set('pool_worker.queue_timeout' => undef);

note 'maintenance';
{
	my $client = connected();
	my $before = $client->val('SHOW work_mem');

	operate('pool_pause()');
	ask_time($client);
	$node->soon(about($client, 'state'), 'waiting', 'a client waits');
	my $index = $node->value(q{SELECT pg_relation_filenode('t_pkey')});
	$node->value('REINDEX TABLE t');
	isnt($node->value(q{SELECT pg_relation_filenode('t_pkey')}),
		$index, 'REINDEX');
	$node->set('work_mem' => '17MB');
	operate('pool_resume()');
	text($client->answer);
	is($client->val('SHOW work_mem'), '17MB', 'ALTER SYSTEM and a reload');
	is($client->val('SELECT count(*) FROM t WHERE x = 500'),
		1, 'the client goes on');
	$node->set('work_mem' => undef);
	$node->all_leave($client);
}

note 'another database of the same name';
$node->set('pool_worker.prewarm' => 'shop/bob');
{
	my $idle   = connected(database => 'shop', user => 'bob');
	my $asking = connected(database => 'shop', user => 'bob');
	my $gone   = connected(database => 'shop', user => 'alice');

	$idle->val(q{SET my.setting = 'kept'});
	operate(q{pool_pause('shop')});
	ask_time($asking, $gone);
	$node->soon(about($asking, 'state'), 'waiting', 'a client waits');
	$node->value('DROP DATABASE shop');
	$node->soon(q{SELECT count(*) FROM pool_slots() WHERE database = 'shop'},
		0, 'DROP DATABASE');
	like(
		$node->attempt('pool', user => 'bob', database => 'shop'),
		qr/database "shop" does not exist/,
		'there is none for those who come now');
	is($node->value(about($asking, 'state')),
		'waiting', 'but who waits, waits');

	$node->value('CREATE DATABASE shop');
	$node->value('REVOKE CONNECT ON DATABASE shop FROM PUBLIC');
	$node->value('GRANT CONNECT ON DATABASE shop TO bob');
	my $newcomer = $node->raw('pool');
	$newcomer->send_startup(user => 'bob', database => 'shop');
	$node->soon(
		q{SELECT role, clients FROM pool_status() WHERE database = 'shop' ORDER BY 1},
		"alice|1\nbob|3",
		'who logs in to the new one comes into the same pool');

	my $before = $node->value('SELECT clock_timestamp()');
	operate(q{pool_resume('shop')});
	answered_after($before, 'the new database', $asking);
	ok($newcomer->finish_startup, 'the new client is greeted');
	my $here =
	  q{SELECT oid, current_setting('my.setting', true) FROM pg_database WHERE datname = current_database()};
	is( $idle->val($here),
		$node->value(q{SELECT oid FROM pg_database WHERE datname = 'shop'})
		  . '|kept',
		'a client is in the new database, with its session');
	is( farewell($gone),
		'FATAL 3D000 database "shop" does not exist',
		'who may not enter the new one is told that the old one is gone');

	# as if it had never been paused
	operate(q{pool_pause('shop')});
	ask_time($idle);
	$node->value('DROP DATABASE shop');
	operate(q{pool_resume('shop')});
	is( farewell($idle),
		'FATAL 3D000 database "shop" does not exist',
		'without a new database a client is told so');
	$node->value('CREATE DATABASE shop');
	$_->close foreach $idle, $gone;
	$node->all_leave($asking, $newcomer);
}

$node->set('pool_worker.prewarm' => undef);

note 'another role of the same name';
{
	$node->value('CREATE ROLE temp LOGIN');
	my $client = connected(user => 'temp');
	my $old =
	  $client->val('SELECT oid FROM pg_roles WHERE rolname = current_user');

	operate(q{pool_pause(role => 'temp')});
	ask_time($client);
	$node->value('DROP ROLE temp');
	$node->value('CREATE ROLE temp LOGIN');
	my $before = $node->value('SELECT clock_timestamp()');
	operate(q{pool_resume(role => 'temp')});
	answered_after($before, 'the new role', $client);
	isnt(
		$client->val('SELECT oid FROM pg_roles WHERE rolname = current_user'),
		$old, 'a client is the new role');
	$node->all_leave($client);
}

note 'under load, again and again';
{
	my $before = $node->value(status('coalesce(sum(transactions), 0)'));
	my $file   = $node->basedir . '/pgbench.sql';
	my ($out, $err) = ('', '');

	PostgreSQL::Test::Utils::append_to_file($file,
		"INSERT INTO held VALUES (10);\n");
	$node->value('TRUNCATE held');
	my $pgbench = IPC::Run::start(
		[
			'pgbench', '-n',        '-c', 20,
			'-j',      2,           '-t', 1000,
			'-f',      $file,       '-U', 'alice',
			'-h',      $node->host, '-p', $node->pool_port,
			'postgres'
		],
		'>',
		\$out,
		'2>',
		\$err);
	$node->soon(status('clients'), 20, 'pgbench has begun');

	# while the pool is paused nothing is done
	my ($pauses, @wrong) = (0);
	while ($node->value(status('clients')) > 0)
	{
		my $result = operate('pool_pause()');
		my $first  = $node->value('SELECT count(*) FROM held');

		push @wrong, $result
		  if $result !~ /\|0$/ || $node->value(status('active')) != 0;
		push @wrong, 'somebody was served'
		  if $node->value('SELECT count(*) FROM held') != $first;
		operate('pool_resume()');
		$pauses++;
		usleep(1000);
	}
	my $ok = IPC::Run::finish($pgbench);

	note "$pauses pauses";
	cmp_ok($pauses, '>', 5, 'there were pauses');
	is("@wrong", '', 'nobody was served during one');
	ok($ok, 'no client had an error') or diag($err);
	is($node->value('SELECT count(*) FROM held'),
		20000, 'everything was done once');
	is($node->value(status('transactions')) - $before,
		20000, 'and counted once');
	$node->soon(status('clients, waiting'), '0|0', 'all are gone');
}

note 'pool_drain()';
{
	my $busy = connected();
	$busy->val('BEGIN');
	my $pinned = connected();
	$pinned->val('CREATE TEMPORARY TABLE temporary (x int)');
	my $parked = connected();
	my $asking = connected();
	my $bob    = connected(user => 'bob');
	my @pids   = $node->slot_pids('postgres', 'alice');

	$node->soon(about($_, 'state'), 'pinned', 'a slot is taken')
	  foreach $busy, $pinned;
	ask_time($asking);
	my ($out, $err) =
	  operate_in_psql(q{pool_drain(role => 'alice', timeout => 500)});
	is($out, 'postgres/alice|1|1', 'what it says of a transaction');
	like(
		$err,
		qr/WARNING:  pool_drain\(\) is not done within 500 milliseconds\nDETAIL:  Clients that are still in a transaction: 1\./,
		'and how it warns');
	is(farewell($_), $farewell, 'who is in no transaction is told to go')
	  foreach $pinned, $parked, $asking;
	is($busy->val('SELECT 1'),        1,          'who is in one goes on');
	is($node->value(status('state')), 'draining', 'what is seen');
	like(
		$node->attempt('pool', user => 'alice'),
		qr/S=FATAL C=57P03 M=connection pool "postgres\/alice" does not accept clients.*pool_resume/,
		'nobody is accepted');
	is($bob->val('SELECT 1'), 1, 'but in another pool');

	$admin->send(
		query(
			q{SELECT rolname, clients, remaining FROM pool_drain(role => 'alice')}
		));
	$busy->send(query('COMMIT'));
	is(text($busy->answer),  '',        'the transaction is committed');
	is(farewell($busy),      $farewell, 'and then the client is told to go');
	is(text($admin->answer), 'alice|0|0', 'pool_drain() returns');
	is(join(' ', $node->slot_pids('postgres', 'alice')),
		"@pids", 'the slots are still there');
	like($node->attempt('pool', user => 'alice'), qr/C=57P03/, 'it stays so');
	is(operate(q{pool_resume(role => 'alice')}),
		'postgres/alice|0', 'pool_resume()');
	is($node->attempt('pool', user => 'alice'), 'ok', 'clients are accepted');
	$_->close foreach $busy, $pinned, $parked, $asking;

	# a pool that is paused
	my $waiting = connected();
	operate('pool_pause()');
	ask_time($waiting);
	$node->soon(about($waiting, 'state'), 'waiting', 'a client waits');
	is(operate(q{pool_drain(role => 'alice')}),
		'postgres/alice|0|0', 'pool_drain() of a paused pool');
	is(farewell($waiting), $farewell, 'who waits is told to go');
	ask_time($bob);
	$node->soon(about($bob, 'state'), 'waiting', 'others still wait');
	operate('pool_resume()');
	text($bob->answer);

	# one that does not exist
	operate(q{pool_drain('shop')});
	like($node->attempt('pool', user => 'bob', database => 'shop'),
		qr/C=57P03/, 'also if there is no pool yet');
	operate(q{pool_resume('shop')});
	is($node->attempt('pool', user => 'bob', database => 'shop'),
		'ok', 'as long as that is said');
	$waiting->close;
	$node->all_leave($bob);
}

note 'pool_drain() under load';
{
	my @clients = map { connected() } 1 .. 40;

	foreach my $round (1 .. 5)
	{
		ask_time(@clients);
	}
	is(operate(q{pool_drain(role => 'alice')}),
		'postgres/alice|0|0', 'everybody goes');
	my @told = map { farewell($_) } @clients;
	is(scalar(grep { $_ eq $farewell } @told),
		40, 'and is told so, behind what it was answered')
	  or diag(join "\n", @told);
	operate('pool_resume()');
	$_->close foreach @clients;
}

# Clients in each situation, to be sent away.
my %situation = (
	'parked'          => sub { return connected(); },
	'idle, on a slot' => sub {
		my $client = connected();
		$client->val('SELECT 1') foreach 1 .. 2;
		$node->soon(about($client, 'state'), 'attached', 'it has a slot');
		return $client;
	},
	'in a transaction' => sub {
		my $client = connected();
		$client->val($_) foreach 'BEGIN', 'LOCK held';
		return $client;
	},
	'in a failed transaction' => sub {
		my $client = connected();
		$client->val($_) foreach 'BEGIN', 'LOCK held';
		$client->sqlstate('SELECT 1/0');
		return $client;
	},
	'running' => sub {
		my $client = connected();
		$client->val($_) foreach 'BEGIN', 'LOCK held';
		$client->send(query('SELECT pg_sleep(1000)'));
		$node->soon(
			q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
			1,
			'a statement runs');
		return $client;
	},
	'pinned' => sub {
		my $client = connected();
		$client->val('CREATE TEMPORARY TABLE temporary (x int)');
		return $client;
	});

note 'pool_disconnect()';
foreach my $name (sort keys %situation)
{
	my $from   = $node->log_end;
	my $client = $situation{$name}->();
	my $id     = id($client);
	my @pids   = $node->slot_pids('postgres', 'alice');

	is($node->value("SELECT pool_disconnect($id, 20000)"), 't', $name);
	is(farewell($client), $farewell,                "$name: it is told so");
	is($node->value(about($client, 'count(*)')), 0, "$name: it is gone");
	$node->logged(
		qr/LOG:  pool client $id disconnected by role "\w+", process \d+\n.*DETAIL:  Database "postgres", role "alice"/,
		$from,
		"$name: it is logged");
	is($node->value('BEGIN; LOCK held NOWAIT; COMMIT'),
		'', "$name: its locks are gone");
	is(join(' ', $node->slot_pids('postgres', 'alice')),
		"@pids", "$name: its slot is not");
	$client->close;
}

note 'pool_disconnect() of clients that have no slot yet, or one for good';
{
	my $waiting = connected();
	my @busy    = map { connected() } 1 .. 3;
	$_->val('BEGIN') foreach @busy;
	ask_time($waiting);
	$node->soon(about($waiting, 'state'), 'waiting', 'a client waits');
	is($node->value('SELECT pool_disconnect(' . id($waiting) . ')'),
		't', 'pool_disconnect() of one that waits for a slot');
	is(farewell($waiting),  $farewell, 'it is told so');
	is($_->val('SELECT 1'), 1,         'the others go on') foreach @busy;
	$node->all_leave(@busy);

	my $newcomer = $node->raw('pool');
	$node->soon(
		q{SELECT state FROM pool_clients()},
		'admitting',
		'a client has connected');
	is( $node->value(
			q{SELECT pool_disconnect(client, 20000) FROM pool_clients()}),
		't',
		'pool_disconnect() of one that has not logged in');
	is(farewell($newcomer), $farewell, 'it is told so');
	is($node->value('SELECT pool_disconnect(1)'),
		'f', 'pool_disconnect() of one that has left');

	# one that has caught the cancel, and goes on
	my $catcher = connected();
	$catcher->send(
		query(
			q{DO $$ BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN NULL; END $$}
		));
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		1,
		'a statement runs');
	$node->value('TRUNCATE served');
	$catcher->send(query(q{INSERT INTO served (who) VALUES ('catcher')}));
	is($node->value('SELECT pool_disconnect(' . id($catcher) . ', 20000)'),
		't', 'pool_disconnect() of one that catches the cancel');
	is($catcher->answer->{tags}[0], 'DO',      'it has its answer');
	is(farewell($catcher),          $farewell, 'and is told to go');
	is($node->value('SELECT count(*) FROM served'),
		0, 'nothing more is done for it');

	# nobody can do better than to end the backend
	my $stubborn = connected();
	$stubborn->send(
		query(
			q{DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN END; END LOOP; END $$}
		));
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		1,
		'a statement runs');
	my $id = id($stubborn);
	my ($out, $err);
	$node->psql(
		'postgres', "SELECT pool_disconnect($id, 100)",
		stdout => \$out,
		stderr => \$err);
	is($out, 'f', 'one that does not heed a cancel stays for a while');
	like(
		$err,
		qr/WARNING:  pool client $id did not leave within 100 milliseconds/,
		'there is a warning');
	is(farewell($stubborn), $farewell, 'in the end it is gone as well');
	$_->close foreach $waiting, $newcomer, $catcher, $stubborn;
}

note 'pool_disconnect() of a client that its slot is just about to park';
$node->value(q{ALTER ROLE alice SET pool_worker.pool_size = 1});
{
	my $other  = connected();
	my $client = connected();
	my $id     = id($client);

	$node->soon(status('pool_size, slots'), '1|1', 'one slot');
	$client->val('SELECT 1') foreach 1 .. 2;
	$node->soon(about($client, 'state'), 'attached', 'it has a slot');
	my ($pid) = $node->slot_pids('postgres', 'alice');
	kill 'STOP', $pid;
	$other->send(query('SELECT 42'));
	$node->soon(
		"SELECT state FROM pool_slots() WHERE pid = $pid",
		'assigned',
		'which is given to another one');
	is($node->value("SELECT pool_disconnect($id)"), 't', 'pool_disconnect()');
	kill 'CONT', $pid;
	is(text($other->answer), '42',   'the other one is served');
	is(farewell($client), $farewell, 'and the client is gone all the same');
	$client->close;
	$node->all_leave($other);
}
$node->value(q{ALTER ROLE alice RESET pool_worker.pool_size});
$node->soon(status('pool_size'), 3, 'three slots');

note 'pool_cancel()';
{
	my $client = connected();
	my $id     = id($client);
	my $cancel = "SELECT pool_cancel($id)";
	my $from   = $node->log_end;

	is($node->value($cancel), 'f', 'there is nothing to cancel');
	$client->val('BEGIN');
	$node->soon(about($client, 'state'), 'pinned', 'a transaction is open');
	is($node->value($cancel),    'f', 'nor between its statements');
	is($client->val('SELECT 1'), 1,   'which goes on');
	$client->send(query('SELECT pg_sleep(1000)'));
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		1,
		'a statement runs');
	is($node->value($cancel),         't',     'it is canceled');
	is($client->answer->{error}{C},   '57014', 'with an error');
	is($client->sqlstate('SELECT 1'), '25P02', 'as any statement');
	is($client->val('ROLLBACK'),      '',      'the client is still there');
	$node->logged(
		qr/LOG:  pool client $id canceled by role "\w+", process \d+/,
		$from, 'it is logged');

	operate('pool_pause()');
	ask_time($client);
	$node->soon(about($client, 'state'), 'waiting', 'it waits');
	is($node->value($cancel),       't',     'which can be canceled, too');
	is($client->answer->{error}{C}, '57014', 'at once');
	operate('pool_resume()');
	is($client->val('SELECT 2'), 2, 'and goes on');
	$node->all_leave($client);
}

note 'members of the role of a client may do that';
{
	my $alice = connected();
	my $bob   = connected(user => 'bob');
	my %id    = (alice => id($alice), bob => id($bob));

	$admin->val('SET ROLE boss');
	is($admin->sqlstate("SELECT pool_disconnect($id{alice})"),
		'42501', 'not the role of this client');
	is($admin->sqlstate("SELECT pool_cancel($id{alice})"),
		'42501', 'nor that');
	is($admin->val("SELECT pool_cancel($id{bob})"),
		'f', 'but of this one, who does nothing');
	is($admin->val("SELECT pool_disconnect($id{bob}, 20000)"),
		't', 'and is gone now');
	is(farewell($bob),          $farewell, 'it is told so');
	is($alice->val('SELECT 1'), 1,         'the other is still there');
	$admin->val('RESET ROLE');
	$bob->close;
	$node->all_leave($alice);
}

note 'pool_recycle()';
{
	my $pid    = 'SELECT pg_backend_pid()';
	my $idle   = connected();
	my $busy   = connected();
	my $pinned = connected();
	my %before;

	$before{busy} = $busy->val("BEGIN; $pid");
	$pinned->val('CREATE TEMPORARY TABLE temporary (x int)');
	$before{pinned} = $pinned->val($pid);
	$node->soon(about($_, 'state'), 'pinned', 'a slot is taken')
	  foreach $busy, $pinned;
	my @old = $node->slot_pids('postgres', 'alice');

	my ($out, $err) =
	  operate_in_psql(q{pool_recycle(role => 'alice', timeout => 500)});
	is($out, 'postgres/alice|3|2', 'two slots remain');
	like(
		$err,
		qr/DETAIL:  Old slots that are still in use: 2\./,
		'there is a warning');
	is($busy->val($pid), $before{busy}, 'a transaction keeps its slot');
	$busy->val('COMMIT');
	isnt($busy->val($pid), $before{busy}, 'the next one has a new slot');
	is($pinned->val($pid), $before{pinned}, 'what pins a client does so');
	$pinned->val('DROP TABLE temporary');
	isnt($pinned->val($pid), $before{pinned}, 'as long as it is there');
	is($idle->val('SELECT 1'), 1, 'nobody has noticed');
	is(operate(q{pool_recycle(role => 'bob')}) =~ /\|0$/,
		1, 'in a pool that nobody uses it is done at once');

	# nobody misses a slot of a pool that is paused
	push @old, $node->slot_pids('postgres', 'alice');
	operate('pool_pause()');
	is(operate(q{pool_recycle(role => 'alice')}),
		'postgres/alice|3|0', 'nor does it take long in one that is paused');
	operate('pool_resume()');
	is($_->val('SELECT 1'), 1, 'all are served')
	  foreach $idle, $busy, $pinned;

	my %old = map { $_ => 1 } @old;
	is(scalar(grep { $old{$_} } $node->slot_pids('postgres', 'alice')),
		0, 'no old slot is left');
	$node->all_leave($idle, $busy, $pinned);
}

note 'whoever asks goes away';
{
	my $client = connected();

	# while he waits for the end; more often than there is room for requests
	$client->val('BEGIN');
	foreach (1 .. 10)
	{
		$admin->send(query('SELECT * FROM pool_pause()'));
		$node->soon(
			q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'admin' AND wait_event_type = 'Extension'},
			1,
			'he waits');
		$node->value(
			q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'admin'}
		);
		is($admin->answer->{error}{C}, '57014', 'his statement is canceled');
	}
	$admin->val(q{SET statement_timeout = '500ms'});
	is( $admin->ask('SELECT * FROM pool_pause()')->{error}{W},
		'waiting for the end of what pool_pause() has begun; it goes on without',
		'he is told that nothing else is');
	$admin->val(q{RESET statement_timeout});
	$client->val('COMMIT');
	ask_time($client);
	$node->soon(about($client, 'state'), 'waiting', 'the pool is paused');
	operate('pool_resume()');
	text($client->answer);

	# before the worker has begun with it
	my $worker = $node->worker_pid;
	kill 'STOP', $worker;
	foreach my $i (1 .. 10)
	{
		my $asking = $node->direct(application_name => 'asking');
		$asking->send(query('SELECT * FROM pool_pause()'));
		$node->soon(
			q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asking' AND wait_event_type = 'Extension'},
			1,
			'he waits for the worker');
		$node->value(
			(   $i % 2
				? 'SELECT pg_terminate_backend(pid, 20000)'
				: 'SELECT pg_cancel_backend(pid)')
			. q{ FROM pg_stat_activity WHERE application_name = 'asking'});
		$asking->answer;
		$asking->close;
		$node->soon(
			q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asking'},
			0,
			'he does not any more');
	}
	kill 'CONT', $worker;
	is($client->val('SELECT 1'), 1, 'what was not begun is not done');
	is(operate('pool_pause()') =~ /alice\|1\|0/,
		1, 'there is room for the next one');
	operate('pool_resume()');
	$node->all_leave($client);
}

note 'many at once';
{
	my $client = connected();
	my @admins = map { $node->direct } 1 .. 20;

	foreach my $admin (@admins)
	{
		$admin->send(query("SELECT count(*) FROM pool_pause()")
			  . query("SELECT count(*) FROM pool_resume()"));
	}
	my @wrong;
	foreach my $admin (@admins)
	{
		push @wrong, grep { !/^\d+$/ } map { text($admin->answer) } 1, 2;
		$admin->close;
	}
	is("@wrong",                      '',      'all are answered');
	is($node->value(status('state')), 'ready', 'the last word counts');
	is($client->val('SELECT 1'),      1,       'the client is served');
	$node->all_leave($client);
}

note 'another worker';
{
	my $client = connected();

	operate('pool_pause()');
	ask_time($client);
	$node->soon(about($client, 'state'), 'waiting', 'a client waits');
	my $worker = $node->worker_pid;
	kill 'TERM', $worker;
	$node->until(
		sub { $admin->sqlstate('SELECT * FROM pool_pause()') eq '55000'; })
	  or fail('without a worker there is no operation');
	is( $admin->{error}{M},
		'the pool worker is not running',
		'without a worker nothing can be done');
	is(farewell($client), $farewell, 'its clients have been told to go');
	$node->until(sub { $node->worker_pid }) or die 'there is no other worker';
	$node->wait_for_pool;

	my $newcomer = $node->raw('pool');
	$newcomer->{name} = 'newcomer';
	$newcomer->send_startup(
		user             => 'alice',
		database         => 'postgres',
		application_name => 'newcomer');
	$node->soon(status('state, waiting'),
		'paused|1', 'the pool is still paused');
	operate('pool_resume()');
	ok($newcomer->finish_startup, 'the next one ends that');
	is($newcomer->val('SELECT 1'), 1, 'clients are served');
	$client->close;
	$node->all_leave($newcomer);
}

$admin->close;
$node->stop;
done_testing();
