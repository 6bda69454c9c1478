# Copyright (c) pool_worker contributors

# One pool has all slots of the server, and more clients than that.  Another one
# must get its share all the same, by its weight, and soon; nobody may lose more
# than that, nor slots that are pinned, nor slots to and fro; and what is idle
# goes first.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PoolWorker;
use PoolWorker::Wire qw(query text);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PoolWorker->new('main')->setup(
	conf => q{
pool_worker.max_slots = 8
pool_worker.pool_size = 8
pool_worker.queue_timeout = 0
pool_worker.queue_notice_after = 0
},
	sql => q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE carol LOGIN;
	GRANT TEMPORARY ON DATABASE postgres TO alice;});

my $serial = 0;

sub clients
{
	my ($role, $n) = @_;
	return
	  map { $node->client(user => $role, application_name => $role) } 1 .. $n;
}

# The same, but they are only asking to be let in: for when there is no slot.
sub knockers
{
	my ($role, $n) = @_;
	my @clients = map { $node->raw('pool') } 1 .. $n;

	$_->send_startup(user => $role, database => 'postgres') foreach @clients;
	$node->soon("SELECT clients FROM pool_status() WHERE role = '$role'",
		$n, "$role knocks");
	return @clients;
}

# Slots of a role, or of each.
sub slots
{
	return $node->value(
		q{SELECT string_agg(role || ' ' || slots, ', ' ORDER BY role)
		  FROM pool_status() WHERE slots > 0});
}

sub become
{
	my ($expected, $name) = @_;
	my $last;

	$node->until(sub { ($last = slots()) eq $expected });
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($last, $expected, $name);
}

sub pids
{
	return $node->value(
		q{SELECT string_agg(role || pid, ' ' ORDER BY pid) FROM pool_slots()}
	);
}

# All of these clients ask again and again for something short, until something
# is so; everybody's last question is answered in the end.
sub busy_until
{
	my ($condition, @clients) = @_;
	my $answers = 0;
	my @wrong;
	my $done;
	my $ask = sub { $_[0]->send(query('SELECT 1 FROM pg_sleep(0.005)')) };

	$ask->($_) foreach @clients;
	my @unfinished = PoolWorker::Wire->pump(
		\@clients,
		sub {
			my ($client, $answer) = @_;
			my $text = eval { text($answer) } // $@;

			push @wrong, $text if $text ne '1';
			return 0                       if $done;
			$done = $condition->($answers) if ++$answers % 20 == 0;
			$ask->($client);
			return 1;
		},
		2 * $PoolWorker::timeout);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(scalar @unfinished, 0,  'everybody is served');
	is(join("\n", @wrong), '', 'and gets answers');
	ok($done, 'what was waited for has come');
	return;
}

# While they are busy, slots are divided in this way, and then stay so: no slot is
# closed or opened during many transactions more.
sub settles
{
	my ($expected, $name, @clients) = @_;
	my ($last, $pids, $since);

	note $name;
	busy_until(
		sub {
			my ($answers) = @_;

			$last = slots();
			if ($last ne $expected || !defined $pids || $pids ne pids())
			{
				$pids  = pids();
				$since = $answers;
			}
			return $answers - $since > 1500;
		},
		@clients);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($last, $expected, $name);
}

# Close all slots, so that the next one begins as if for the first time.  A role
# that is as it was before when the worker looks has not changed; and once more
# if a slot was just being opened.
sub start_anew
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( $node->until(
			sub {
				my $work_mem = 4096 + ++$serial;

				foreach my $role (qw(alice bob carol))
				{
					$node->value("ALTER ROLE $role RESET ALL");
					$node->value("ALTER ROLE $role SET work_mem = $work_mem");
				}
				return slots() eq '';
			}),
		'no slot is open');
	return;
}

my @alice = clients('alice', 16);
settles('alice 8', 'one pool alone has all', @alice);

my @bob = clients('bob', 16);
settles('alice 4, bob 4', 'two share', @alice, @bob);
is( $node->value(
		q{SELECT string_agg(role || ' ' || share, ', ' ORDER BY role) FROM pool_status()
		  WHERE role IN ('alice', 'bob')}),
	'alice 4, bob 4',
	'pool_status() says so');

settles(
	'alice 6, bob 2',
	'what one does not need goes to the other',
	@alice, @bob[ 0, 1 ]);

settles('alice 8', 'it has all again when the others are idle', @alice);

note 'weights';
$node->value('ALTER ROLE alice SET pool_worker.weight = 300');
settles('alice 6, bob 2', 'three to one', @alice, @bob);
$node->value('ALTER ROLE bob SET pool_worker.weight = 900');
settles('alice 2, bob 6', 'one to three, while they run', @alice, @bob);
$node->value('ALTER ROLE bob SET pool_worker.weight = 1000');
$node->value('ALTER ROLE alice SET pool_worker.weight = 1');
settles('alice 1, bob 7', 'nobody is left without', @alice, @bob);
$node->value('ALTER ROLE bob SET pool_worker.pool_size = 3');
settles('alice 5, bob 3', 'nobody gets more than pool_size', @alice, @bob);
$node->all_leave(@alice, @bob);
start_anew();

note 'some transactions are long';
{
	my @long  = clients('alice', 7);
	my @short = clients('alice', 4);

	$_->val('BEGIN') foreach @long;
	settles('alice 8', 'all slots are taken, seven for long', @short);
	my ($bob) = knockers('bob', 1);
	my $slots;
	busy_until(
		sub {
			return 0 unless $bob->wait_readable(0);
			$bob->finish_startup;
			$bob->val('BEGIN');
			$slots = slots();
			$bob->val('COMMIT');
			return 1;
		},
		@short);
	is($slots, 'alice 7, bob 1', 'the eighth makes room, and no other');
	$long[0]->val('COMMIT');
	is(text($short[0]->ask('SELECT 2')), '2', 'the others wait for theirs');
	$_->val('COMMIT') foreach @long[ 1 .. 6 ];
	$node->all_leave(@long, @short, $bob);
	start_anew();
}

note 'slots that are pinned';
{
	my @pinned = clients('alice', 8);

	$_->val('CREATE TEMPORARY TABLE mine ()') foreach @pinned;
	become('alice 8', 'all slots are pinned');
	my $pids = pids();
	my @bob  = knockers('bob', 1);
	$node->soon(
		q{SELECT waiting, share FROM pool_status() WHERE role = 'bob'},
		'1|1', 'another pool is entitled to one');
	$_->val('BEGIN; COMMIT') foreach @pinned;
	$node->reload_and_wait;
	is(pids(),                               $pids, 'but gets none');
	is($_->val('SELECT count(*) FROM mine'), '0', 'everybody has what he had')
	  foreach @pinned;
	ok(!$bob[0]->wait_readable(0), 'it waits');
	$pinned[3]->val('DROP TABLE mine');
	ok($bob[0]->finish_startup, 'until one is not pinned any more');
	become('alice 7, bob 1', 'which makes room');
	$node->all_leave(@pinned, @bob);
	start_anew();
}

note 'slots that are idle go first';
{
	my @busy = clients('alice', 5);
	my @idle = clients('carol', 3);

	$_->val('BEGIN')  foreach @busy;
	$_->val('BEGIN')  foreach @idle;
	$_->val('COMMIT') foreach @idle;
	become('alice 5, carol 3', 'five in transactions, three idle');
	my $pids = join ' ', $node->slot_pids('postgres', 'alice');
	my @bob  = knockers('bob', 2);
	ok($_->finish_startup, 'room is made') foreach @bob;
	$_->val('BEGIN') foreach @bob;
	become('alice 5, bob 2, carol 1', 'by the one who is idle');
	is(join(' ', $node->slot_pids('postgres', 'alice')),
		$pids, 'not by those at work');
	$_->val('COMMIT') foreach @busy;
	is($_->val('SELECT 1'), '1', 'all are served') foreach @idle;
	$node->all_leave(@busy, @idle, @bob);
	start_anew();
}

# Who wants room first gets it first, unless the other one goes first.
foreach my $priority ('normal', 'high')
{
	note "room for two, priority of the second: $priority";
	$node->value("ALTER ROLE carol SET pool_worker.priority = '$priority'");
	my @busy = clients('alice', 8);
	$_->val('BEGIN') foreach @busy;
	my @bob = knockers('bob', 1);
	$node->soon(q{SELECT waiting FROM pool_status() WHERE role = 'bob'},
		1, 'one waits');
	my @carol = knockers('carol', 1);
	$node->soon(
		q{SELECT role, waiting FROM pool_status() WHERE role <> 'alice' AND clients > 0 ORDER BY 1},
		"bob|1\ncarol|1",
		'two wait');
	my ($first, $second) =
	  $priority eq 'high' ? ($carol[0], $bob[0]) : ($bob[0], $carol[0]);

	# nothing else to be closed than the one slot that comes free
	$busy[0]->send(query('COMMIT'));
	ok($first->finish_startup, 'the one who has the better claim is served');
	is($first->val('BEGIN; SELECT 1'), '1', 'it is');
	ok(!$second->wait_readable(0), 'not the other');
	$busy[1]->val('COMMIT');
	ok($second->finish_startup, 'it has the next');
	$first->val('COMMIT');
	$_->val('COMMIT') foreach @busy[ 2 .. 7 ];
	$busy[0]->answer;
	$node->all_leave(@busy, @bob, @carol);
	start_anew();
}

note 'more pools than slots';
{
	my $script = $node->basedir . '/busy.sql';

	append_to_file($script, 'SELECT pg_sleep(0.02);');
	$node->value('ALTER ROLE carol RESET pool_worker.priority');
	$node->append_conf('postgresql.conf', 'pool_worker.max_slots = 2');
	$node->restart;
	$node->wait_for_pool;

	# nobody ever rests, so no slot is idle at any time
	my @busy = map {
		IPC::Run::start(
			[
				'pgbench', '-n', '-c', 16, '-T', $PoolWorker::timeout, '-f',
				$script,   $node->pool_connstr('postgres', user => $_)
			],
			'>&',
			\my $output)
	} qw(alice bob carol);

	$node->soon(
		'SELECT count(*), min(opened) > 2, sum(turned_away) FROM pool_status()',
		'3|t|0',
		'they take turns');
	$_->kill_kill foreach @busy;
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'all leave');
}

$node->stop;
done_testing();
