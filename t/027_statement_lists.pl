# Copyright (c) pool_worker contributors

# A slot remembers which of its plans are behind the names of which client, and
# clients with the same statement share a plan.  What one of them drops, prepares
# anew or executes must not show in what the others have, whether the slot still
# remembers them or had to forget them, and whether they stay on this slot or
# have been on another one meanwhile.  The measure is a connection to the
# server's own port for each client, which does the same.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;

my $list =
  q{SELECT name, statement, parameter_types, from_sql, generic_plans, custom_plans
	FROM pg_prepared_statements ORDER BY name};
my $times =
  'SELECT name, prepare_time FROM pg_prepared_statements ORDER BY name';

my $node = PoolWorker->new('main')->setup(
	conf => 'pool_worker.pool_size = 1',
	sql  => 'CREATE TABLE t AS SELECT 1 AS a');

# Clients that prepare the same statements, by PREPARE and by Parse; each with
# its twin at the server's own port.
sub equal_clients
{
	my ($count, $prefix) = @_;
	my @clients =
	  map { { pool => $node->client, direct => $node->direct } } 1 .. $count;

	foreach my $client (@clients)
	{
		both($client, prepare($prefix));
		$client->{times} = $client->{pool}->val($times);
	}
	return @clients;
}

# Let a client and its twin do the same; true if they are told the same.  A
# reference is to bytes that are sent.
sub both
{
	my ($client, @steps) = @_;

	return told($client->{pool}, @steps) eq told($client->{direct}, @steps);
}

sub told
{
	my ($wire, @steps) = @_;
	my $told = '';

	foreach my $step (@steps)
	{
		$wire->send(ref $step ? $$step : PoolWorker::Wire::msg_query($step));
		my $answer = $wire->answer;
		my @words  = map {
			map { $_ // 'NULL' }
			  @{$_}
		} @{ $answer->{rows} };

		push @words, $answer->{error}{M} if $answer->{error};
		$told .= join(' ', $answer->{types}, @words) . "\n";
	}
	return $told;
}

sub prepare
{
	my ($prefix) = @_;

	return (
		"PREPARE ${prefix}_sql AS SELECT '$prefix', a FROM t",
		\(  PoolWorker::Wire::msg_parse("${prefix}_wire",
				"SELECT '$prefix' FROM t")
			  . PoolWorker::Wire::msg_sync()));
}

sub execute
{
	my ($prefix) = @_;

	return (
		"EXECUTE ${prefix}_sql",
		\(      PoolWorker::Wire::msg_bind('', "${prefix}_wire")
			  . PoolWorker::Wire::msg_execute('')
			  . PoolWorker::Wire::msg_sync()));
}

# Each client in turn, so that the slot changes hands each time, finds its own.
sub own_ok
{
	my ($name, $prefix, @clients) = @_;
	my $equal = grep { both($_, execute($prefix), $list) } @clients,
	  reverse @clients;

	is($equal, 2 * @clients, $name);
	return;
}

sub close_all
{
	my (@clients) = @_;

	foreach my $wire (map { @$_{qw(pool direct)} } @clients)
	{
		$wire->terminate;
		$wire->close;
	}
	return;
}

# Whatever they do with what they share, and however many slots there are.
sub shared_ok
{
	my ($name, $prefix) = @_;
	my @clients = equal_clients(4, $prefix);

	own_ok("$name: the same statements", $prefix, @clients) foreach 1 .. 2;
	both($clients[0], execute($prefix), execute($prefix), execute($prefix));
	own_ok("$name: one has used them more often than the others",
		$prefix, @clients);
	both($clients[1], "DEALLOCATE ${prefix}_sql");
	own_ok("$name: one has dropped a statement", $prefix, @clients);
	both($clients[1], "PREPARE ${prefix}_sql AS SELECT 'another'");
	own_ok("$name: and prepared another one", $prefix, @clients);
	both($clients[2], 'DEALLOCATE ALL');
	own_ok("$name: one has dropped all", $prefix, @clients);
	both($clients[2], prepare($prefix));
	own_ok("$name: and prepared them again", $prefix, @clients);
	both(
		$clients[3],
		"PREPARE a_$prefix AS SELECT '$prefix', a FROM t",
		"PREPARE z_$prefix AS SELECT '$prefix', a FROM t");
	own_ok("$name: one has the same under three names", $prefix, @clients);
	both(
		$clients[3],
		"EXECUTE a_$prefix",
		"DEALLOCATE ${prefix}_sql",
		"EXECUTE z_$prefix");
	own_ok("$name: and drops one of them", $prefix, @clients);
	is( $clients[0]{pool}->val($times),
		$clients[0]{times},
		"$name: when it was prepared remains");
	close_all(@clients);
	return;
}

shared_ok('one slot', 'one');

# Nothing is remembered but the client that is here, or only few others.
foreach my $size (0, 1)
{
	$node->set('pool_worker.statement_cache_size' => $size);
	shared_ok("a cache of $size", "size$size");
}
$node->set('pool_worker.statement_cache_size' => 1000);

# After each transaction a client goes to the slot that is free.
$node->set(
	'pool_worker.pool_size'           => 3,
	'pool_worker.debug_always_switch' => 'on');
shared_ok('three slots', 'three');

# What a slot remembers of those who have left must not grow without end.
$node->set(
	'pool_worker.pool_size'            => 1,
	'pool_worker.debug_always_switch'  => 'off',
	'pool_worker.statement_cache_size' => 2);
my $watcher = $node->client;
my $sizes   = q{SELECT sum(total_bytes) FROM pg_backend_memory_contexts
	WHERE name ~ 'CachedPlan|pool_worker' OR ident ~ 'pool_worker'};
my @bytes;
foreach my $round (1 .. 60)
{
	my @clients = equal_clients(2, "round$round");

	both($_, execute("round$round")) foreach @clients, @clients;
	close_all(@clients);
	push @bytes, $watcher->val($sizes) if $round % 20 == 0;
}
cmp_ok(
	$bytes[2], '<=',
	$bytes[1] + 16 * 1024,
	'what is remembered of clients that have left is limited');

$watcher->close;
$node->stop('fast');
done_testing();
