# Copyright (c) pool_worker contributors

# A client whose startup settings are known is greeted by the worker, without a
# slot.  So it must not have to wait for one; it must be told the same as by a
# slot; and when something has changed since, it must be told that before its
# first answer.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use PoolWorker;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => 'pool_worker.pool_size = 1',
	sql  => 'CREATE ROLE alice LOGIN');
my @settings = (user => 'alice', application_name => 'known');

note 'the only slot is taken';
my $first = $node->client(@settings);
is($first->val('BEGIN; SELECT 1'), '1', 'by a transaction');

my $known = $node->raw('pool');
$known->send_startup(@settings, database => 'postgres');
ok($known->finish_startup, 'who asks for known settings is greeted');
is_deeply($known->{params}, $first->{params}, 'in the same words');
$known->send(PoolWorker::Wire::msg_query('SELECT 2'));

my $unknown = $node->raw('pool');
$unknown->send_startup(
	user             => 'alice',
	application_name => 'unknown',
	database         => 'postgres');
$node->soon('SELECT count(*) FROM pool_clients()', 3, 'others have to wait');
is( $node->value(
		q{SELECT count(*) FROM pool_clients() WHERE state = 'parked'}),
	'2',
	'both wait');

$first->val('COMMIT');
is(PoolWorker::Wire::text($known->answer), '2', 'the known one is served');
ok($unknown->finish_startup, 'the other is greeted by the slot');
is($unknown->{params}{application_name},   'unknown', 'in its own words');
is($unknown->val('SHOW application_name'), 'unknown', 'which are true');
is($known->val('SHOW application_name'),   'known', 'for the first as well');

note 'the configuration changes between greeting and first attach';
$first->val('BEGIN; SELECT 1');
my $early = $node->raw('pool');
$early->send_startup(@settings, database => 'postgres');
ok($early->finish_startup, 'a client is greeted');
isnt($early->{params}{TimeZone}, 'Asia/Tokyo', 'with the old value');
$node->value(q{ALTER SYSTEM SET TimeZone = 'Asia/Tokyo'});
$node->reload;
$node->soon('SHOW TimeZone', 'Asia/Tokyo', 'another one is in force');
$early->send(PoolWorker::Wire::msg_query('SHOW TimeZone'));
$first->val('COMMIT');
is(PoolWorker::Wire::text($early->answer), 'Asia/Tokyo',
	'it has the new one');
is($early->{params}{TimeZone}, 'Asia/Tokyo', 'and has been told');

my $late = $node->client(@settings);
is($late->{params}{TimeZone},   'Asia/Tokyo', 'as the next one is at once');
is($late->val('SHOW TimeZone'), 'Asia/Tokyo', 'and has');

note 'settings of the role change';
$_->terminate foreach $first, $known, $unknown, $early, $late;
$node->value(q{ALTER ROLE alice SET TimeZone = 'Europe/Paris'});
$node->value(q{SELECT pg_terminate_backend(pid, 10000) FROM pool_slots()});
my $again;
$node->until(
	sub {
		$again = eval { $node->client(@settings) }
	});
is($again->val('SHOW TimeZone'), 'Europe/Paris', 'a new slot has them');
my $next = $node->client(@settings);
is($next->{params}{TimeZone}, 'Europe/Paris', 'and its clients are told');
$_->terminate foreach $again, $next;

$node->stop;
done_testing();
