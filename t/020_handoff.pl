# Copyright (c) pool_worker contributors

# Many clients on one slot.  Whatever they say, simple, extended, pipelined or
# copied, each must get its own answers, all of them, and in order; each must
# see itself in what the server knows about its client; and a cancel must reach
# its own client's query or none.

use strict;
use warnings FATAL => 'all';
use Digest::MD5 qw(md5_hex);
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => 'pool_worker.pool_size = 1',
	sql  => q{
	CREATE ROLE alice LOGIN;
	GRANT CREATE ON SCHEMA public TO alice;
	CREATE TABLE copied (id int, word text);
	GRANT ALL ON copied TO alice;
	CREATE SCHEMA elsewhere;});

sub alice { return $node->client(user => 'alice', @_); }

# Everything a client asks for in one packet.
sub packet { return join '', @_; }

note 'forty clients, each with its own questions';
{
	my $rounds  = 25;
	my @clients = map { alice() } 1 .. 40;
	my (%wrong, %pids, %round, %tag);

	my $ask = sub {
		my ($client) = @_;
		my $n        = $round{$client}++;
		my $sql      = "SELECT '$tag{$client}-$n', pg_backend_pid()";

		return $n % 2
		  ? query($sql)
		  : PoolWorker::Wire::msg_extended(
			'SELECT $1 || $2, pg_backend_pid()',
			"$tag{$client}-", $n);
	};
	my $served = sub {
		my ($client, $answer) = @_;
		my $row = $answer->{rows}[0] || ['nothing'];

		$wrong{ $tag{$client} } = $row->[0]
		  if $row->[0] ne "$tag{$client}-" . ($round{$client} - 1);
		$pids{ $row->[1] // 0 }++;
		return 0 if $answer->{lost} || $round{$client} == $rounds;
		return $client->send($ask->($client));
	};

	$tag{ $clients[$_] } = "client$_" foreach 0 .. $#clients;
	$_->send($ask->($_)) foreach @clients;
	my @stuck = PoolWorker::Wire->pump(\@clients, $served);
	is(scalar @stuck, 0, 'all are served');
	is_deeply(\%wrong, {}, 'each gets its own answers');
	is_deeply(
		\%pids,
		{ ($node->slot_pids)[0] => 40 * $rounds },
		'by the one slot');
	is($node->value(q{SELECT count(*) FROM pool_clients()}),
		40, 'pool_clients() has them all');
	$_->terminate foreach @clients;
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'and none later');
}

note 'extended protocol';
{
	my ($a, $b) = (alice(), alice());

	# as drivers do: parse and describe first, bind and execute later
	$a->send(
		packet(
			PoolWorker::Wire::msg_parse('', 'SELECT $1 || \'-a\'', 25),
			PoolWorker::Wire::msg_describe('S', ''),
			PoolWorker::Wire::msg_sync()));
	is($a->answer->{types}, '1tTZ', 'a statement is parsed and described');
	$b->send(query(q{SELECT 'b'}));
	$a->send(
		packet(
			PoolWorker::Wire::msg_bind('', '', 'bound'),
			PoolWorker::Wire::msg_execute(''),
			PoolWorker::Wire::msg_sync()));
	is(text($a->answer), 'bound-a', 'and bound by the next group');
	is(text($b->answer), 'b',       'while another client waited');

	$a->send(
		packet(
			PoolWorker::Wire::msg_parse('', 'SELECT generate_series(1, 5)'),
			PoolWorker::Wire::msg_bind('p', ''),
			PoolWorker::Wire::msg_execute('p', 2),
			PoolWorker::Wire::msg_execute('p', 2),
			PoolWorker::Wire::msg_execute('p', 2),
			PoolWorker::Wire::msg_close('P', 'p'),
			PoolWorker::Wire::msg_sync()));
	is($a->answer->{types}, '12DDsDDsDC3Z', 'a portal in pieces');

	$a->send(
		packet(
			PoolWorker::Wire::msg_parse('', 'SELECT 7'),
			PoolWorker::Wire::msg_bind('', ''),
			PoolWorker::Wire::msg_execute(''),
			PoolWorker::Wire::msg_flush()));
	is(join('', map { $a->read->[0] } 1 .. 4),
		'12DC', 'Flush, and no Sync yet');
	$b->send(query(q{SELECT 'b2'}));
	$a->send(PoolWorker::Wire::msg_sync());
	is($a->answer->{types}, 'Z',  'Sync');
	is(text($b->answer),    'b2', 'and the next client');

	$a->send(
		packet(
			map { PoolWorker::Wire::msg_extended('SELECT $1', "p$_") }
			  1 .. 50));
	$b->send(packet(map { query("SELECT 'q$_'") } 1 .. 50));
	is( join(' ', map { text($a->answer) } 1 .. 50),
		join(' ', map { "p$_" } 1 .. 50),
		'fifty groups in one packet');
	is( join(' ', map { text($b->answer) } 1 .. 50),
		join(' ', map { "q$_" } 1 .. 50),
		'fifty simple queries in one packet');

	$a->send(
		packet(
			PoolWorker::Wire::msg_extended('SELECT 1/$1::int', 0),
			PoolWorker::Wire::msg_extended('SELECT $1',        'after')));
	is($a->answer->{error}{C}, '22012', 'an error in a pipeline');
	is(text($a->answer),       'after', 'ends with its group');
	my $group = join '',
	  map { PoolWorker::Wire::msg_extended($_) } 'SELECT 1', 'SELECT 1/0',
	  'SELECT 2';
	$group =~ s/S\x00\x00\x00\x04//g;
	$a->send($group . PoolWorker::Wire::msg_sync());
	my $answer = $a->answer;
	is($answer->{types} =~ s/E.*//r, '12TDC1', 'or skips to the one Sync');
	is(scalar @{ $answer->{rows} },  1,        'with what came before it');

	$a->send(
		packet(
			query('BEGIN'),    PoolWorker::Wire::msg_sync(),
			query('SELECT 1'), query('COMMIT')));
	is(join('', map { $a->answer; $a->{status} } 1 .. 4),
		'TTTI', 'the state of the transaction is reported as it is');
	is($a->ask('')->{types}, 'IZ', 'an empty query');
	is( join(' ', @{ $a->ask('SELECT 1; SELECT 2; SELECT 3')->{tags} }),
		'SELECT 1 SELECT 1 SELECT 1',
		'several statements in one query');
	$_->terminate foreach $a, $b;
}

note 'COPY, in pieces that have nothing to do with lines';
{
	my ($a, $b) = (alice(), alice());
	my $data = join '',
	  map { "$_\tword " . 'x' x ($_ % 97) . "\n" } 1 .. 20000;
	my $rest = $data;

	is($a->ask('COPY copied FROM STDIN')->{types}, 'G', 'COPY FROM STDIN');
	$b->send(query('SELECT count(*) FROM copied'));
	$a->send(PoolWorker::Wire::msg_copy_data(substr $rest, 0, 4999, ''))
	  while length $rest;
	$a->send(PoolWorker::Wire::msg_copy_done());
	is_deeply($a->answer->{tags}, ['COPY 20000'], 'copies in');
	is(text($b->answer), '20000', 'and the next client sees all of it');
	is( md5_hex(
			$a->ask('COPY (SELECT * FROM copied ORDER BY id) TO STDOUT')
			  ->{copied}),
		md5_hex($data),
		'copies out what came in');
	$a->ask('COPY copied FROM STDIN');
	$a->send(PoolWorker::Wire::msg_copy_data("1\tone\n")
		  . PoolWorker::Wire::msg_copy_fail('changed my mind'));
	is($a->answer->{error}{C}, '57014', 'CopyFail');
	$a->ask('COPY copied FROM STDIN');
	$a->send(PoolWorker::Wire::msg_copy_data("not a number\n") x 3
		  . PoolWorker::Wire::msg_copy_done());
	is($a->answer->{error}{C},                 '22P02', 'bad data');
	is($a->val('SELECT count(*) FROM copied'), '20000', 'are not kept');
	$_->terminate foreach $a, $b;
}

note 'large';
{
	my ($a, $b) = (alice(), alice());

	my %whole;

	# read both at once: a slot waits for a client that does not read
	$a->send(query(q{SELECT repeat('a', 8000000)}));
	$b->send(query(q{SELECT repeat('b', 8000000)}));
	PoolWorker::Wire->pump([ $a, $b ],
		sub { $whole{ $_[0] } = $_[1]->{rows}[0][0]; return 0; });
	ok(($whole{$a} // '') eq 'a' x 8_000_000, 'a value of 8 MB');
	ok(($whole{$b} // '') eq 'b' x 8_000_000, 'and one of another client');
	is(scalar @{ $a->ask('SELECT generate_series(1, 200000)')->{rows} },
		200_000, 'a result of 200000 rows');
	my $value = join '', map { chr(97 + $_ % 26) } 1 .. 5_000_000;
	is(text($a->ask_extended('SELECT md5($1)', $value)),
		md5_hex($value), 'a parameter of 5 MB');
	is($a->val("SELECT md5('$value')"), md5_hex($value), 'a query of 5 MB');
	$_->terminate foreach $a, $b;
}

note 'large objects and their descriptors';
{
	my ($a, $b) = (alice(), alice());
	my $oid = $a->val('SELECT lo_create(0)');

	is($a->val("BEGIN; SELECT lo_open($oid, 393216)"), '0', 'opened');
	is($a->val(q{SELECT lowrite(0, 'hello')}),
		'5', 'written in a later query');
	$a->val('COMMIT');
	is($b->sqlstate('SELECT loread(0, 5)'),
		'42704', 'the descriptor is not there for the next');
	is($b->val("SELECT lo_get($oid)"), '\x68656c6c6f', 'the contents are');
	$b->val("SELECT lo_unlink($oid)");
	$_->terminate foreach $a, $b;
}

note 'cancel';
{
	my ($a, $b) = (alice(), alice());

	$a->send(query('SELECT pg_sleep(600)'));
	$node->soon(
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		1,
		'a query is running');
	$a->cancel;
	is($a->answer->{error}{C}, '57014', 'a cancel reaches it');
	is($a->val('SELECT 1'),    '1',     'and its client lives on');

	# b serves itself on the slot that a has just left
	$node->value('SELECT pg_advisory_lock(7)');
	$b->send(query('SELECT pg_advisory_xact_lock(7), 77'));
	$node->soon(q{SELECT count(*) FROM pg_locks WHERE NOT granted},
		1, 'another client is running on the same slot');
	$a->cancel foreach 1 .. 20;
	$node->value('SELECT pg_advisory_unlock(7)');
	is(text($b->answer), '|77', 'a late cancel of the first is not its own');

	# cancelled between two transactions, many times
	my $hit = 0;
	foreach my $n (1 .. 50)
	{
		$a->send(query('SELECT 1'));
		$a->cancel;
		$hit++ if $a->answer->{error};
		my $mine = $b->ask("SELECT $n");
		is($mine->{rows}[0][0], $n, 'undisturbed') if $mine->{error};
	}
	pass("cancelled in passing, of 50 hit: $hit");
	isnt($a->{key}, $b->{key}, 'each client has a key of its own');
	$_->terminate foreach $a, $b;
}

note 'LISTEN and NOTIFY';
$node->set('pool_worker.pool_size' => 2);
{
	my ($a, $b) = (alice(), alice());

	$a->val('LISTEN news');
	is($b->val(q{NOTIFY news, 'extra'}), '', 'notified by another client');
	my $message = $a->read;
	is($message->[0], 'A', 'an idle listener is told at once');
	is_deeply(
		[ @{ $a->{notifications}[0] }[ 0, 1 ] ],
		[ 'news', 'extra' ],
		'what was said');
	$a->val('UNLISTEN *');
	$b->val(q{NOTIFY news, 'more'});
	is($a->val('SELECT 1'),             '1', 'no longer listening');
	is(scalar @{ $a->{notifications} }, 1,   'and not told');
	is(scalar @{ $b->{notifications} }, 0,   'nor is anybody else');
	$_->terminate foreach $a, $b;
}

$node->stop;
done_testing();
