# Copyright (c) pool_worker contributors

=pod

=head1 NAME

LeakSuite - does a session's state stay with its client, and only there?

=head1 SYNOPSIS

  use LeakSuite;

  my $suite = LeakSuite->new(sql => 'CREATE TABLE mine (a int)');

  $suite->run(
      {
          name  => 'SET',
          do    => [q{SET work_mem = '71kB'}],
          check => ['SHOW work_mem']
      },
      {
          name  => 'a temporary table',
          pin   => 'temporary objects',
          do    => ['CREATE TEMPORARY TABLE t AS SELECT 1 AS a'],
          check => ['TABLE t'],
          undo  => ['DROP TABLE t'],
          probe => ['TABLE t']
      });
  $suite->done;

=head1 DESCRIPTION

Every case is run three times, by a client A with the same words: at the
server's own port, at the pool's port with two slots, and at the pool's port
with one slot.  What A is told by the pool, to the last message, has to be what
it is told by the server.

=over

=item Move: two slots

A is served by another slot after each transaction (debug_always_switch), and
between two of its steps an intruder of the same pool is, by each of them: a
client with settings, statements and sequences of its own, of which A must see
nothing, and which must see nothing of A's.  See move().

A session that can be moved must have been moved: moved_ok().  One that cannot
has C<pin>: then the reason must be shown with a time that is true, and
be gone after C<undo>: pinned_ok().

=item Leak: one slot

The next client gets the slot while A is parked, and again when A has left, and
has to find what a new session at the server's own port finds: facts(), and
C<probe>.  It must be the same backend, unless C<retire> says that what A left
cannot be removed.  See leak().

=back

=head2 Cases

  name     what is done
  user     who does it: alice (the default), or boss, who is a superuser
  startup  parameters for A's startup packet; undef takes one out
  before   SQL statements at the server's port before each run
  after    the same, afterwards
  do       steps that leave the state
  check    steps that show it
  undo     steps that end it
  probe    steps by which the next client could see it, besides facts()
  pin      the reason for which A keeps its slot, while there is state; or
           "any", where it may keep it or not
  retire   the slot need not be the same afterwards; or only if A left this way
  alone    there may be no other slot to move to
  stays    the pin does not end with "undo"
  open     "do" ends in the middle of something: A does nothing but leave

What holds steps or statements may hold one or a list.

Cases that have much in common are written as a table.  What they have in common
comes first, and what the columns are (name and do unless given); a row may go on
with pairs of its own.

  table({ columns => [qw(name do undo)], pin => 'listen', check => ... },
      [ 'LISTEN', 'LISTEN a', 'UNLISTEN a' ],
      [ 'DISCARD', 'LISTEN a', 'DISCARD ALL', probe => ... ])

=head2 Steps

  'SELECT 1'                  a simple query
  extended('SELECT $1', 1)    an extended query with the unnamed statement
  group(Parse('s', ...))      messages, and a Sync
  call(1299)                  a function by its oid, without any statement
  pipeline(STEP, ...)         the bytes of several steps in one packet
  aside('SELECT 1', ...)      not said by A, but at the server's port
  begun('1', Parse(...))      messages, a Flush, and answers up to ParseComplete
  messages(1, Parse(...))     messages as they are, and how many answers they get
  sub { ... }                 is passed the client; returns what to compare

=cut

package LeakSuite;

use strict;
use warnings FATAL => 'all';
use Exporter 'import';
use PoolWorker;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(Parse Bind Describe Execute Close Flush Sync
  begun call group extended messages pipeline aside run_statement once table);

# Does moved_ok() insist?  There is no reason to change this, but to see what
# else fails while a kind of state cannot be moved yet.
our $must_move = 1;

# The suite that runs, for steps.
our $suite;

# How A leaves: of its own accord, or lost in a transaction, in turns; and in
# each of these ways if it is in the middle of something already.
my @ways      = qw(terminate transaction);
my @ways_open = qw(terminate close reset);

# What a client of the suite is told about, and how it is written down.
my %told = (
	S => sub { report_of(@_) },
	T => sub { 'T(' . join(', ', columns($_[1])) . ')' },
	t => sub { 't(' . join(', ', unpack 'x2 N*', $_[1]) . ')' },
	D => sub {
		my $row = PoolWorker::Wire::row($_[1]);
		'D(' . join('|', map { $_ // '\N' } @$row) . ')';
	},
	C => sub { 'C(' . $_[1] =~ s/\0$//r . ')' },
	E => sub { 'E(' . report($_[1]) . ')' },
	N => sub { 'N(' . report($_[1]) . ')' },
	A => sub { 'A(' . join(', ', notification(@_)) . ')' },
	V => sub { 'V(' . $_[1] =~ s/^....//sr . ')' },
	Z => sub { "Z($_[1])" },
	d => sub { "d($_[1])" =~ s/\n//r },
	G => sub { 'G' },
	H => sub { 'H' },);

# -----------------------------------------------------------------------
# Steps

sub Parse    { return PoolWorker::Wire::msg_parse(@_); }
sub Bind     { return PoolWorker::Wire::msg_bind(@_); }
sub Describe { return PoolWorker::Wire::msg_describe(@_); }
sub Execute  { return PoolWorker::Wire::msg_execute(@_); }
sub Close    { return PoolWorker::Wire::msg_close(@_); }
sub Flush    { return PoolWorker::Wire::msg_flush(); }
sub Sync     { return PoolWorker::Wire::msg_sync(); }

sub group
{
	my $bytes = join '', @_, Sync();
	return bless { bytes => $bytes, answers => 1 }, 'LeakSuite::Messages';
}

# One statement by the extended protocol: Parse, Bind, Describe, Execute, Sync.
sub extended
{
	return bless {
		bytes   => PoolWorker::Wire::msg_extended(@_),
		answers => 1
	  },
	  'LeakSuite::Messages';
}

# A function call message: the function by its oid, the arguments as text.
sub call
{
	my ($oid, @arguments) = @_;
	my $payload = pack 'N n n', $oid, 0, scalar @arguments;

	$payload .= pack 'N/a*', $_ foreach @arguments;
	return messages(1, PoolWorker::Wire::msg('F', $payload . pack 'n', 0));
}

# Messages without a Sync, and the number of answers they get.
sub messages
{
	my ($answers, @messages) = @_;
	return bless { bytes => join('', @messages), answers => $answers },
	  'LeakSuite::Messages';
}

sub pipeline
{
	my @groups = map { as_messages($_) } @_;
	my $all    = { bytes => '', answers => 0 };

	foreach my $group (@groups)
	{
		$all->{bytes} .= $group->{bytes};
		$all->{answers} += $group->{answers};
	}
	return bless $all, 'LeakSuite::Messages';
}

# The beginning of a group: messages, a Flush, and the answers up to a type.
sub begun
{
	my ($type, @messages) = @_;

	return sub {
		my ($wire) = @_;
		my $types = '';

		$wire->send(join '', @messages, Flush());
		$wire->{status} = 'in a group';
		while ($types !~ /$type/)
		{
			my $message = $wire->read or return "$types lost";
			$types .= $message->[0] if $message->[0] !~ /[SNA]/;
		}
		return $types;
	};
}

# Execute a statement that has been prepared.
sub run_statement
{
	my ($name, @values) = @_;
	return group(Bind('', $name, @values), Describe('P', ''), Execute(''));
}

sub aside
{
	my @sql = @_;
	return bless sub { $suite->sql(@sql); '' }, 'LeakSuite::Aside';
}

# The answer of a step, as what it is compared with the first time: for values
# that are different in each session.
sub once
{
	my ($key, $step) = @_;

	return sub {
		my ($wire) = @_;
		my $answer = answer($wire, $step);

		$wire->{once}{$key} //= $answer;
		return $answer eq $wire->{once}{$key}
		  ? "$key as before"
		  : "$key: $answer, before: $wire->{once}{$key}";
	};
}

# The bytes to send for a step, and the number of answers to read.
sub as_messages
{
	my ($step) = @_;

	return { bytes => PoolWorker::Wire::msg_query($step), answers => 1 }
	  unless ref $step;
	return $step;
}

sub label
{
	my ($step) = @_;

	return $step unless ref $step;
	return '(at the other port)' if ref $step eq 'LeakSuite::Aside';
	return '(function)'          if ref $step eq 'CODE';
	return join ' ', $step->{bytes} =~ /[ -~]+/g;
}

# Have a client take a step.  Returns what it was told, as text.
sub answer
{
	my ($wire, $step) = @_;

	return $step->($wire)
	  if ref $step eq 'CODE' || ref $step eq 'LeakSuite::Aside';
	my $messages = as_messages($step);
	$wire->send($messages->{bytes});
	return join "\n", map { read_answer($wire) } 1 .. $messages->{answers};
}

sub read_answer
{
	my ($wire) = @_;
	my (@said, @reported);

	while (my $message = $wire->read)
	{
		my ($type, $payload) = @$message;
		my @what = $told{$type} ? $told{$type}->($wire, $payload) : $type;

		return join ' ', @said, @reported, @what if $type =~ /[ZGW]/;

		# parameters may be reported at any time before the end
		push @{ $type eq 'S' ? \@reported : \@said }, @what;
	}
	return join ' ', @said, @reported, 'lost';
}

# A parameter that is reported, unless the client knows that value already:
# nobody can tell how often it was said.
sub report_of
{
	my ($wire, $payload) = @_;
	my ($name, $value) = split /\0/, $payload, -1;
	my $known = $wire->{known}{$name} // '';

	$wire->{known}{$name} = $value;
	return $known eq $value ? () : "S($name=$value)";
}

sub columns
{
	my ($payload) = @_;
	my @fields    = unpack 'n/(Z* N n N n N n)', $payload;
	my @columns;

	while (my ($name, undef, undef, $type) = splice @fields, 0, 7)
	{
		push @columns, "$name:$type";
	}
	return @columns;
}

# An error or notice, without the place in the server's source.
sub report
{
	my $fields = PoolWorker::Wire::fields($_[0]);
	return join ' ',
	  map { "$_=$fields->{$_}" } grep { !/[FLR]/ } sort keys %$fields;
}

sub notification
{
	my ($wire, $payload) = @_;
	my ($pid, $rest) = unpack 'N a*', $payload;

	return ((split /\0/, $rest), $pid == $wire->{pid} ? 'itself' : 'another');
}

# -----------------------------------------------------------------------
# The suite

# A server, with what all files of the suite have in common.  "sql" is run by
# alice, "superuser_sql" is a list of statements.
sub new
{
	my ($class, %params) = @_;
	my $node = PoolWorker->new('main')->setup(
		conf => "pool_worker.pool_size = 1\npool_worker.max_pinned = 0\n"
		  . ($params{conf} // ''),
		sql => q{
	CREATE ROLE boss LOGIN SUPERUSER;
	CREATE ROLE other;
	CREATE ROLE alice LOGIN IN ROLE other;
	GRANT CREATE, USAGE ON SCHEMA public TO alice, other;
	GRANT CREATE, TEMPORARY ON DATABASE postgres TO alice;
	CREATE SCHEMA elsewhere;
	CREATE SEQUENCE elsewhere.intruders;
	CREATE TABLE elsewhere.place AS SELECT 'elsewhere' AS place;
	CREATE TABLE place AS SELECT 'public' AS place;
	GRANT USAGE ON SCHEMA elsewhere TO PUBLIC;
	GRANT ALL ON ALL TABLES IN SCHEMA public, elsewhere TO PUBLIC;
	GRANT ALL ON ALL SEQUENCES IN SCHEMA public, elsewhere TO PUBLIC;}
	);

	$suite = bless { node => $node, wires => [] }, $class;
	$suite->sql(@{ $params{superuser_sql} || [] });
	$suite->sql("SET ROLE alice; $params{sql}; RESET ROLE") if $params{sql};
	return $suite;
}

sub node { return $_[0]{node}; }

# Statements at the server's own port, by the superuser.
sub sql
{
	my ($self, @sql) = @_;

	ref $_ ? $_->() : $self->{node}->control->val($_) foreach @sql;
	return;
}

sub run
{
	my ($self, @cases) = @_;

	@cases = map { complete($_) } @cases;
	foreach my $case (@cases)
	{
		$self->with($case, 'directly', sub { $self->directly($case) });
	}
	$self->slots(1);
	foreach my $case (@cases)
	{
		push @ways, shift @ways;
		foreach my $way ($case->{open} ? @ways_open : $ways[0])
		{
			$self->with($case, "leak, $way",
				sub { $self->leak($case, $way, $_[0]) });
		}
	}
	$self->slots(2);
	foreach my $case (grep { !$_->{open} } @cases)
	{
		$self->with($case, 'move', sub { $self->move($case, $_[0]) });
	}
	return;
}

# Cases from a table.
sub table
{
	my ($common, @rows) = @_;
	my %common  = %$common;
	my @columns = @{ delete $common{columns} || [qw(name do)] };
	my @cases;

	foreach my $row (@rows)
	{
		my @row  = @$row;
		my %case = %common;

		@case{@columns} = splice @row, 0, @columns;
		push @cases, { %case, @row };
	}
	return @cases;
}

# A case with all that it needs, and lists where it may have one thing.
sub complete
{
	my ($case) = @_;
	my %case = %$case;

	$case{user} //= 'alice';
	foreach my $list (grep { defined $case{$_} }
		qw(do check undo probe before after))
	{
		$case{$list} = [ $case{$list} ] unless ref $case{$list} eq 'ARRAY';
	}
	return \%case;
}

sub done
{
	my ($self) = @_;
	my $node = $self->{node};

	$self->send_away_intruders;
	$node->soon('SELECT count(*) FROM pool_clients()', 0, 'nobody is left');
	$node->stop;
	return done_testing();
}

# Do one run of a case, between its "before" and "after".  Whatever happens,
# none of its clients is left.
sub with
{
	my ($self, $case, $run, $function) = @_;
	my $name = "$run: $case->{name}";

	note $name;
	eval {
		$self->sql(@{ $case->{before} || [] });
		$function->($name);
		1;
	} or do
	{
		fail("$name: $@");
		$self->send_away_intruders;
	};
	$self->leave($_, 'close') foreach my @left = @{ $self->{wires} };
	eval {
		$self->sql(@{ $case->{after} || [] });
		$self->intruder_is_well($case, $name);
		1;
	} or fail("$name, afterwards: $@");
	return;
}

# How many slots each pool has, and whether they change hands all the time.
sub slots
{
	my ($self, $count) = @_;

	$self->send_away_intruders;
	$self->{slots} = $count;
	$self->{node}->set(
		'pool_worker.pool_size'           => $count,
		'pool_worker.min_pool_size'       => $count,
		'pool_worker.debug_always_switch' => $count > 1 ? 'on' : 'off');
	$self->wait_for(
		"SELECT NOT EXISTS (SELECT FROM pool_slots()
			GROUP BY database, role HAVING count(*) > $count)",
		'too many slots');
	return;
}

# A client at the "client" (the pool's) or the "direct" port.
sub login
{
	my ($self, $how, %params) = @_;
	my $node = $self->{node};
	my $wire = $node->$how(%params);

	$wire->{known} = { %{ $wire->{params} } };
	$wire->{id}    = $node->value('SELECT max(client) FROM pool_clients()')
	  if $how eq 'client';
	return $wire;
}

# One that is A.
sub connect
{
	my ($self, $case, $how) = @_;
	my %params = (
		user             => $case->{user},
		application_name => 'A',
		%{ $case->{startup} || {} });
	my $wire = $self->login($how,
		map { $_ => $params{$_} } grep { defined $params{$_} } keys %params);

	push @{ $self->{wires} }, $wire;
	return $wire;
}

# Leave, and wait until nothing of the client is left.
sub leave
{
	my ($self, $wire, $how) = @_;
	my $gone =
	  $wire->{id}
	  ? "SELECT count(*) = 0 FROM pool_clients() WHERE client = $wire->{id}"
	  : "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $wire->{pid}";

	@{ $self->{wires} } = grep { $_ != $wire } @{ $self->{wires} };
	$wire->ask('BEGIN; SELECT 1') if $how eq 'transaction';
	$how = 'reset'                if $how eq 'transaction';
	$wire->$how;
	$self->wait_for($gone, 'a client is still there');
	return;
}

# What A is told: by the server's own port,
sub directly
{
	my ($self, $case) = @_;
	my $wire = $self->connect($case, 'direct');
	my $told = $case->{told} = { greeting => greeting($wire) };

	$told->{do} = $self->tell($wire, $case->{do});
	return $self->leave($wire, 'close') if $case->{open};
	$told->{check} = $self->tell($wire, $case->{check});
	$told->{undo}  = $self->tell($wire, $case->{undo});
	$told->{ended} = $self->tell($wire, $case->{check});
	return $self->leave($wire, 'terminate');
}

# and by the pool, as a test.
sub told
{
	my ($self, $wire, $case, $part, $name) = @_;
	my $steps = $part eq 'ended' ? 'check' : $part;
	my $told  = $self->tell($wire, $case->{$steps}, $case);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($told, $case->{told}{$part}, "$name: $part");
}

# Take steps.  With a $case, the intruder comes in between.
sub tell
{
	my ($self, $wire, $steps, $case) = @_;
	my @told;

	foreach my $step (@{ $steps || [] })
	{
		$self->intrude($case, $wire) if $case;
		push @told, '> ' . label($step), answer($wire, $step);
	}
	$self->intrude($case, $wire) if $case;
	return join "\n", @told;
}

# Parameters that a client was told when it logged in.
sub greeting
{
	my ($wire) = @_;
	return join "\n",
	  map { "$_=$wire->{params}{$_}" } sort keys %{ $wire->{params} };
}

# -----------------------------------------------------------------------
# Two slots: does A keep what it has?

sub move
{
	my ($self, $case, $name) = @_;
	my $since = $self->{node}->value('SELECT clock_timestamp()');

	$self->intruder($case->{user});
	my $wire = $self->connect($case, 'client');

	is(greeting($wire), $case->{told}{greeting}, "$name: greeting");
	$self->told($wire, $case, 'do', $name);
	$self->state_ok($wire, $case, $since, $name);
	$self->told($wire, $case, 'check', $name);
	if ($case->{undo})
	{
		$self->told($wire, $case, 'undo', $name);
		$self->moved_ok($wire, "$name, ended") unless $case->{stays};
		$self->told($wire, $case, 'ended', $name);
	}
	return $self->leave($wire, 'terminate');
}

sub state_ok
{
	my ($self, $wire, $case, $since, $name) = @_;
	my $pin = $case->{pin};

	return if $pin && $pin eq 'any';
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return $self->pinned_ok($wire, $pin, $since, $name) if $pin;
	return 1                                            if $case->{alone};
	return $self->moved_ok($wire, $name);
}

# A client that can be moved is not pinned, and not on the same slot twice.
sub moved_ok
{
	my ($self, $wire, $name) = @_;
	my ($state, $reason) = $self->settled($wire);
	my @pids = map { pid($wire) } 1 .. 2;
	my $how =
		$reason                ? "$state, pin reason $reason"
	  : $self->{slots} == 1    ? 'moves'
	  : ($pids[0] != $pids[1]) ? 'moves'
	  :                          'stays';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($how, 'moves', "MOVED $name") if $must_move;
	note "MOVED $name: $how";
	return $how eq 'moves';
}

# A client that cannot be moved says why, and since when.
sub pinned_ok
{
	my ($self, $wire, $expected, $earliest, $name) = @_;
	my ($state, $reason, $since) = $self->settled($wire);
	my @pids = map { pid($wire) } 1 .. 2;
	my (undef, undef, $later) = $self->settled($wire);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is("$state, $reason", "pinned, $expected", "$name: pinned");
	is($pids[0],          $pids[1],            "$name: to one slot");
	is( $self->{node}->value(
			"SELECT '$since' BETWEEN '$earliest'::timestamptz AND clock_timestamp()"
		),
		't',
		"$name: since a time that is true");
	is($later, $since, "$name: which does not change");
	return;
}

# State, pin reason and "since" of a client that says nothing, when its slot
# has come to rest.
sub settled
{
	my ($self, $wire) = @_;
	my $client = "FROM pool_clients() WHERE client = $wire->{id}";

	$self->wait_for(
		"SELECT s.state IS NULL OR s.state IN ('idle', 'pinned')
			FROM (SELECT slot $client) c LEFT JOIN pool_slots() s USING (slot)",
		'a slot does not come to rest');
	return split /\|/,
	  $self->{node}->value("SELECT state, pin_reason, since $client");
}

# Wait until a query says "t".  That is a matter of microseconds mostly, so we
# look more often than PoolWorker does.
sub wait_for
{
	my ($self, $sql, $complaint) = @_;
	my $deadline = time + $PoolWorker::timeout;

	while ($self->{node}->value($sql) ne 't')
	{
		die "$complaint\n" if time > $deadline;
		usleep(1000);
	}
	return;
}

# The backend that serves a client, by a function call message: that disturbs
# nothing, not even an unnamed statement.
sub pid
{
	my ($wire) = @_;

	return answer($wire, call(2026)) =~ /V\((\d+)\)/
	  ? $1
	  : die "no answer to a function call\n";
}

# -----------------------------------------------------------------------
# One slot: does the next client see anything of A?

sub leak
{
	my ($self, $case, $way, $name) = @_;

	$self->intruder($case->{user});
	my $wire = $self->connect($case, 'client');
	my ($pid) = $self->{node}->slot_pids('postgres', $case->{user});

	$self->told($wire, $case, 'do', $name);
	if (!$case->{open} && !$case->{pin} && $self->moved_ok($wire, $name))
	{
		$self->next_client($case, $pid, 'parked', "$name, parked");
		$self->told($wire, $case, 'check', $name);
	}
	$self->leave($wire, $way);
	return $self->next_client($case, $pid, $way, $name);
}

# The next client finds what a new session finds, in the same backend.
sub next_client
{
	my ($self, $case, $pid, $way, $name) = @_;
	my @probes = @{ $case->{probe} || [] };
	my %login  = (user => $case->{user}, application_name => 'next');
	my (undef, @expected) = @{ $case->{fresh} //=
		  [ $self->new_session('direct', \%login, @probes) ] };
	my ($now, @found) = $self->new_session('client', \%login, @probes);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(differences(\@found, \@expected),
		'', "$name: the next client sees nothing of it");
	is($now, $pid, "$name: on the same slot")
	  unless ($case->{retire} // '') =~ /^(1|$way)$/;
	return;
}

# The backend of a new session at a port, and what it finds.
sub new_session
{
	my ($self, $how, $login, @probes) = @_;
	my $wire   = $self->login($how, %$login);
	my $pid    = pid($wire);
	my @found  = facts($wire);
	my $reason = $wire->{id} ? ($self->settled($wire))[1] : '';

	push @found, "pinned: $reason", probed($wire, @probes);
	$wire->terminate;
	return ($pid, @found);
}

# What a session can find out about its own state: one fact per line.
my @questions = (
	run_statement(''),
	'DO $$BEGIN END$$',    # so that any session has the settings of plpgsql
	q{SELECT name, setting, reset_val, source FROM pg_settings
		WHERE (name !~ '[.]' OR name ~ '^plpgsql') AND
		(source <> 'default' OR (setting, reset_val) IS DISTINCT FROM (boot_val, boot_val))
		ORDER BY name},
	q{SELECT current_setting('my.var')},
	q{SELECT 'users', session_user, current_user},
	q{SELECT 'place', place FROM place},
	q{SELECT 'statement', * FROM pg_prepared_statements},
	q{SELECT 'cursor', name, statement FROM pg_cursors WHERE name <> ''},
	q{SELECT 'channel', pg_listening_channels()},
	q{SELECT 'lock', locktype, mode, objid FROM pg_locks
		WHERE pid = pg_backend_pid() AND locktype NOT IN ('relation', 'virtualxid')},
	q{SELECT 'temporary', relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()},
	q{SELECT 'temporary', proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema()},
	q{SELECT 'temporary', typname FROM pg_type WHERE typnamespace = pg_my_temp_schema()},
	'TABLE temporary',
	'SELECT lastval()',
	q{SELECT currval('elsewhere.intruders')},
	'EXECUTE s',
	run_statement('s'),
	'FETCH c',
	'SELECT pg_advisory_unlock(1)',
	'SELECT pg_advisory_unlock_shared(1)',
	'SELECT loread(0, 1)',
	'COMMIT',);

sub facts
{
	my ($wire) = @_;
	my @facts  = split /\n/, greeting($wire);

	$wire->send(pipeline(@questions)->{bytes});
	push @facts, answered($_, read_answer($wire)) foreach @questions;
	return @facts;
}

sub probed
{
	my ($wire, @probes) = @_;
	return map { answered($_, answer($wire, $_)) } @probes;
}

sub answered
{
	my ($question, $answer) = @_;
	my $label = label($question);

	return map { "$label: $_" } split / (?=D\()/, $answer;
}

# What has been found only, with "+", and what has been expected only.
sub differences
{
	my ($found, $expected) = @_;
	my (%found, %expected) = ();
	@found{@$found}       = ();
	@expected{@$expected} = ();

	return join "\n",
	  (map { "+ $_" } grep { !exists $expected{$_} } @$found),
	  (map { "- $_" } grep { !exists $found{$_} } @$expected);
}

# -----------------------------------------------------------------------
# The intruder: another client of A's pool

# It has what many clients have, with the names that cases use,
my @intruders_own = (
	q{SET work_mem = '7777kB'},
	q{SET TIME ZONE 'Asia/Tokyo'},
	q{SET DateStyle = 'SQL, DMY'},
	q{SET search_path = elsewhere, public},
	q{SET my.var = 'intruder'},
	q{PREPARE s AS SELECT 'intruder', place FROM place},
	group(Parse('p', q{SELECT 'intruder', place FROM place})),
	q{SELECT setval('elsewhere.intruders', 41)},
	q{SELECT nextval('elsewhere.intruders')},);

# and it looks at that again and again.
my @intruders_facts = (
	q{SELECT current_setting('work_mem'), current_setting('TimeZone'),
		current_setting('DateStyle'), current_setting('search_path'),
		current_setting('my.var'), session_user, current_user},
	'EXECUTE s',
	run_statement('p'),
	q{SELECT lastval(), currval('elsewhere.intruders')},
	'SELECT name, statement FROM pg_prepared_statements ORDER BY name',
	q{SELECT '1999-02-01'::date, place FROM place},);

# The intruder of a role's pool.  False where it cannot be moved: then it would
# be in everybody's way.
sub intruder
{
	my ($self, $user) = @_;

	return $self->{intruders}{$user} //= $self->make_intruder($user);
}

sub make_intruder
{
	my ($self, $user) = @_;
	my ($direct, $wire) =
	  map { $self->login($_, user => $user, application_name => 'intruder') }
	  'direct', 'client';

	foreach my $client ($direct, $wire)
	{
		answer($client, $_) foreach @intruders_own;
	}
	$wire->{correct} = [ map { answer($direct, $_) } @intruders_facts ];
	$wire->{looks}   = 0;
	$wire->{wrong}   = [];
	$direct->terminate;
	return $wire if $self->moved_ok($wire, "the intruder among ${user}'s");
	$wire->terminate;
	return 0;
}

sub send_away_intruders
{
	my ($self) = @_;

	$_->terminate foreach grep { $_ } values %{ $self->{intruders} };
	$self->{intruders} = {};
	return;
}

# The intruder takes its turn before A's next step.  With two slots it is
# served by each of them.  With one it has to wait while A keeps that; else
# every other time we let A speak as well before we listen, so that the slot
# finds its next client in the queue.
sub intrude
{
	my ($self, $case, $wire) = @_;
	my $intruder = $self->intruder($case->{user}) or return;

	return if $wire->{status} eq 'in a group';
	return map { look($intruder); listen_to($intruder) } 1 .. 2
	  if $self->{slots} == 2;
	return
	  if $intruder->{pending} && !$intruder->wait_readable(0);
	listen_to($intruder);
	look($intruder);
	listen_to($intruder)
	  if $intruder->{looks} % 2 && $self->is_free($case, $wire);
	return;
}

# Could another client have A's slot?
sub is_free
{
	my ($self, $case, $wire) = @_;

	return 0 if $case->{pin} || $case->{open} || $wire->{status} ne 'I';
	my (undef, $reason) = $self->settled($wire);
	return !$reason;
}

sub look
{
	my ($intruder) = @_;
	my $n = $intruder->{looks}++ % @intruders_facts;

	$intruder->send(as_messages($intruders_facts[$n])->{bytes});
	$intruder->{pending} = $intruder->{correct}[$n];
	return;
}

sub listen_to
{
	my ($intruder) = @_;
	my $correct    = delete $intruder->{pending} // return;
	my $told       = read_answer($intruder);

	push @{ $intruder->{wrong} }, "$told instead of $correct"
	  if $told ne $correct;
	return;
}

sub intruder_is_well
{
	my ($self, $case, $name) = @_;
	my $intruder = $self->{intruders}{ $case->{user} } or return;

	listen_to($intruder);
	my (undef, $reason) = $self->settled($intruder);
	push @{ $intruder->{wrong} }, "pinned: $reason" if $reason;
	is(join("\n", splice @{ $intruder->{wrong} }),
		'', "$name: the intruder has its own");
	return;
}

1;
