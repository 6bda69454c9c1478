# Copyright (c) pool_worker contributors

=pod

=head1 NAME

Churn::Client - one of a crowd: asks, leaves at any moment, comes back

=head1 DESCRIPTION

What it does is a I<deed>, drawn at random from the list below: one or more
I<steps>, each sent when the one before has been answered.  A step is

  { bytes => ..., expected => [ {...}, ... ] }

with one expectation for each ReadyForQuery that the bytes ask for.  An
expectation says what the answer must be, to the letter:

  rows      as text, or undef: anything
  error     SQLSTATE that it must fail with
  may_fail  SQLSTATE that it may fail with instead
  status    transaction status after it, 'I' unless told
  commits   tokens of the rows that it commits
  copied    data of a COPY TO STDOUT
  check     a function of the client that finds what else is wrong

Every question has a token that nobody else ever uses, and asks for two
settings of the session besides, so an answer to another question, or from
another session, is seen.

=cut

package Churn::Client;

use strict;
use warnings FATAL => 'all';
use PoolWorker;
use Scalar::Util qw(weaken);
use Time::HiRes  qw(time);

# How often out of a hundred steps something rude happens at one.
my $rude = 6;

# What a client may do, and how often that is drawn.
my @deeds = map { my ($often, $deed) = @$_; ($deed) x $often } (
	[ 20, \&simple_query ],
	[ 12, \&extended_query ],
	[ 10, \&named_statement ],
	[ 6,  \&prepared_in_sql ],
	[ 6,  \&setting_kept ],
	[ 4,  \&setting_undone ],
	[ 12, \&transaction ],
	[ 4,  \&insert ],
	[ 4,  \&pipeline ],
	[ 4,  \&failure ],
	[ 3,  \&large_result ],
	[ 2,  \&copy_out ],
	[ 2,  \&copy_in ],
	[ 5,  \&cancelled ],
	[ 2,  \&cancelled_in_vain ],
	[ 1,  \&temporary_table ],
	[ 1,  \&session_lock ],
	[ 1,  \&listen_and_notify ],
	[ 1,  \&pinned ],
	[ 4,  \&leave_idle ],);

# Ways to leave.  After the last one we go on reading.
my @ways = ('reset', 'terminate', 'close', 'shut_write');

sub new
{
	my ($class, $crowd, $number, $role) = @_;
	my $self = bless {
		crowd   => $crowd,
		number  => $number,
		role    => $role,
		session => 0,
	}, $class;

	weaken $self->{crowd};
	return $self;
}

# For people: who it is and what it is doing.
sub describe
{
	my ($self) = @_;
	my $waits = @{ $self->{pending} || [] };

	return
		"$self->{id} of $self->{role}: "
	  . ($self->{wire} ? "$waits answers to come" : 'not connected') . ', '
	  . ($self->{said} // 'nothing said')
	  . sprintf(', for %.1f s', time - ($self->{said_at} || time));
}

#
# Coming and going
#

sub connect
{
	my ($self) = @_;
	my $crowd  = $self->{crowd};
	my $wire   = $crowd->connect($self->{number} % 4 == 0)
	  or return $self->come_back;

	@$self{qw(wire serial questions answered pending named cancelling)} =
	  ($wire, 0, 0, 0, [], 0, 0);
	delete @$self{qw(gone rest half)};
	$self->{id} = "$self->{number}." . ++$self->{session};
	$crowd->watch($wire, $self);
	return $self->log_in;
}

# Most say who they are in the startup packet, the others with SET.  These are
# few, because a slot in which a thousand settings have been made up is replaced,
# and we want slots to grow old.
sub log_in
{
	my ($self)  = @_;
	my $id      = $self->{id};
	my %startup = (
		user             => $self->{role},
		database         => 'postgres',
		application_name => "client $id");

	$self->{steps} = [ question($self) ];
	if ($self->{number} % 16)
	{
		$startup{options} = "-c app.id=$id -c app.serial=0";
	}
	else
	{
		unshift @{ $self->{steps} }, command("SET app.id = '$id'"),
		  command('SET app.serial = 0');
	}
	return $self->say(
		{
			name     => 'login',
			bytes    => PoolWorker::Wire::msg_startup(%startup),
			expected => [ { login => 1 } ]
		});
}

sub come_back
{
	my ($self) = @_;

	$self->{wire} = undef;
	$self->later(rand 0.2, \&connect);
	return;
}

# Leave now, whatever there is to come.
sub leave
{
	my ($self, $how) = @_;
	my $wire = $self->{wire};

	# in half a message a Terminate would be taken for the other half
	$how = 'reset' if $how eq 'terminate' && $self->{half};
	$self->{crowd}{left}{$how}++;
	$self->{gone} = $how;
	return $wire->shut_write if $how eq 'shut_write';
	$self->{crowd}->unwatch($wire);
	$self->settle_account;
	$wire->$how;

	# a request that comes late must find nobody
	$self->{crowd}->cancel($wire->{pid}, $wire->{key})
	  if $wire->{pid} && rand(8) < 1;
	return $self->come_back;
}

# The server has ended the connection.
sub ended
{
	my ($self, $answer) = @_;

	$self->{crowd}->unwatch($self->{wire});
	$self->{wire}->close;
	$self->{crowd}->lost($self, $answer) unless $self->{gone};
	$self->settle_account;
	return $self->come_back;
}

# What this session has been told for certain, and what may have happened.
sub settle_account
{
	my ($self) = @_;
	my $crowd  = $self->{crowd};
	my @open   = grep { !$_->{login} } @{ $self->{pending} };

	$crowd->{certain}  += $self->{answered};
	$crowd->{possible} += @open;
	$crowd->{doubtful}{$_} = 1 foreach map { @{ $_->{commits} || [] } } @open;
	$self->{pending}       = [];
	$self->{steps}         = [];
	return;
}

#
# Asking and being answered
#

# Do something after a while, unless the session has ended by then.
sub later
{
	my ($self, $seconds, $what, @arguments) = @_;
	my $session = $self->{session};

	$self->{crowd}->after(
		$seconds,
		sub {
			$what->($self, @arguments) if $self->{session} == $session;
		});
	return;
}

# Send a step; now and then not quite as it should be.
sub say
{
	my ($self, $step) = @_;
	my $bytes = $step->{bytes};
	my $r     = $self->{crowd}{calm} ? 100 : rand 100;

	push @{ $self->{pending} }, @{ $step->{expected} };
	@$self{qw(said said_at copy)} = (
		$step->{name} || substr($bytes, 0, 60) =~ s/[^ -~]/./gr,
		time, $step->{copy});
	if ($r < $rude / 3)
	{
		# say it, and leave without waiting for all of the answer
		$self->{wire}->send($bytes);
		$self->later(rand 0.03, \&leave_if_there);
	}
	elsif ($r < $rude * 2 / 3)
	{
		# say a part of it; the rest later, or never
		$self->{wire}->send(substr $bytes, 0, rand length $bytes, '');
		$self->{half} = 1;
		$self->later(
			rand 0.05,
			$self->may_leave_in($step)
			? \&leave_if_there
			: (\&send_rest, $bytes));
	}
	elsif ($r < $rude)
	{
		# say it, and do not listen for a while
		$self->{wire}->send($bytes);
		$self->{crowd}->unwatch($self->{wire});
		$self->later(rand 0.1, \&listen_again);
	}
	else
	{
		$self->{wire}->send($bytes);
	}
	return;
}

# Will it leave in the middle of this step?  In half of an extended query a client
# takes its backend along: see lost_client.c.  Not if slots are to grow old.
sub may_leave_in
{
	my ($self, $step) = @_;

	return 0
	  if $self->{crowd}{gentle} && $step->{bytes} =~ /(\A|\0)[PB]\0\0/;
	return rand(2) < 1;
}

sub leave_if_there
{
	my ($self) = @_;

	$self->leave($ways[ rand @ways ]) if $self->{wire} && !$self->{gone};
	return;
}

sub send_rest
{
	my ($self, $bytes) = @_;

	$self->{half} = 0;
	$self->{wire}->send($bytes) if $self->{wire};
	return;
}

sub listen_again
{
	my ($self) = @_;

	$self->{crowd}->watch($self->{wire}, $self) if $self->{wire};
	return;
}

# Something has arrived.
sub readable
{
	my ($self) = @_;
	my $wire = $self->{wire} or return;

	$wire->take;
	while (my $answer = $wire->next_answer)
	{
		$self->{crowd}{answers}++;
		return $self->ended($answer) if $answer->{lost};
		if ($answer->{types} =~ /G$/)
		{
			$wire->send($self->{copy});
			next;
		}
		$self->answered($answer);
		return unless $self->{wire} && $self->{wire} == $wire;
	}
	return;
}

# One answer is complete.
sub answered
{
	my ($self, $answer) = @_;
	my $expected = shift @{ $self->{pending} };
	my $problem =
	  $expected ? $self->problem($expected, $answer) : 'nothing was asked';

	if ($problem)
	{
		$self->{crowd}->wrong($self, $problem);
		return;
	}
	$self->{answered}++
	  if $self->{wire}{status} eq 'I'
	  && !$expected->{login}
	  && !is_from_worker($answer);
	$self->{crowd}{committed}{$_} = 1
	  foreach $answer->{error} ? () : @{ $expected->{commits} || [] };
	return if @{ $self->{pending} };
	$self->{crowd}->note_wait(time - $self->{said_at});
	return $self->go_on;
}

# What is canceled while it waits for a slot is answered by the worker, and is no
# transaction.  The worker's errors do not name a place in PostgreSQL's source.
sub is_from_worker
{
	my ($answer) = @_;
	return $answer->{error} && !defined $answer->{error}{R};
}

# What is wrong with an answer, if anything.
sub problem
{
	my ($self, $expected, $answer) = @_;
	my $status = $self->{wire}{status};
	my $error  = $answer->{error} ? $answer->{error}{C} : '';

	return "status $status" if $status ne ($expected->{status} // 'I');
	return ''               if $expected->{login};
	return '' if $error && $error eq ($expected->{may_fail} // '');
	return "error '$error' " . $self->{wire}->error_text
	  if $error ne ($expected->{error} // '');
	return '' if $error;

	my $rows = PoolWorker::Wire::text($answer);
	return
		'answer '
	  . shorten($rows)
	  . ' instead of '
	  . shorten($expected->{rows})
	  if defined $expected->{rows} && $rows ne $expected->{rows};
	return 'copied ' . shorten($answer->{copied})
	  if defined $expected->{copied}
	  && $answer->{copied} ne $expected->{copied};
	return $expected->{check} ? $expected->{check}->($self) : '';
}

sub shorten
{
	my ($text) = @_;
	return length $text > 200 ? substr($text, 0, 200) . '...' : $text;
}

# All that was asked has been answered: the next step, or the next deed.
sub go_on
{
	my ($self) = @_;

	return if $self->{gone} || $self->{cancelling};
	if (my $step = shift @{ $self->{steps} })
	{
		$step->{before}->($self) if $step->{before};
		return $step->{pause}
		  ? $self->later(rand 0.02, \&say_if_there, $step)
		  : $self->say($step);
	}
	$self->{said_at} = undef;
	if ($self->{crowd}{calm})
	{
		$self->{rest} = 1;
		return;
	}
	return $self->later(rand $self->{crowd}{think}, \&begin);
}

sub say_if_there
{
	my ($self, $step) = @_;

	$self->say($step) if $self->{wire} && !$self->{gone};
	return;
}

# The next deed, unless there is to be rest.
sub begin
{
	my ($self, $deed) = @_;

	return if !$self->{wire} || $self->{gone};
	if ($self->{crowd}{calm} && !$deed)
	{
		$self->{rest} = 1;
		return;
	}
	delete $self->{rest};
	$deed ||= $deeds[ rand @deeds ];
	$self->{steps} = [ $deed->($self) ];
	return $self->{wire} ? $self->go_on : undef;
}

#
# Deeds
#

sub query { return PoolWorker::Wire::msg_query($_[0]); }

# A new token, and what everybody who asks with it is to be told.
sub token
{
	my ($self) = @_;
	return "$self->{id}." . ++$self->{questions};
}

sub me
{
	my ($self, $token) = @_;
	return "$token|$self->{id}|$self->{serial}";
}

my $who = q{current_setting('app.id'), current_setting('app.serial')};

# A step with one query, whose answer says who we are.
sub question
{
	my ($self, %expected) = @_;
	my $token = $self->token;

	return {
		bytes    => query("SELECT '$token', $who"),
		expected => [ { rows => $self->me($token), %expected } ]
	};
}

sub command
{
	my ($sql, %expected) = @_;
	return {
		bytes    => query($sql),
		expected => [ { rows => '', %expected } ],
		pause    => rand(2) < 1
	};
}

sub simple_query { return question($_[0]); }

sub extended_query
{
	my ($self) = @_;
	my $token = $self->token;

	return {
		bytes => PoolWorker::Wire::msg_extended("SELECT \$1, $who", $token),
		expected => [ { rows => $self->me($token) } ]
	};
}

# Everybody's statement has the same name, and a text of its own.
sub named_statement
{
	my ($self) = @_;
	my $token  = $self->token;
	my $bytes  = '';

	$bytes =
	  PoolWorker::Wire::msg_parse('q',
		"SELECT \$1::text || ' $self->{number}', $who")
	  unless $self->{named}++;
	$bytes .=
		PoolWorker::Wire::msg_bind('', 'q', $token)
	  . PoolWorker::Wire::msg_execute('')
	  . PoolWorker::Wire::msg_sync();
	return {
		bytes    => $bytes,
		expected => [ { rows => $self->me("$token $self->{number}") } ]
	};
}

sub prepared_in_sql
{
	my ($self) = @_;
	my $token = $self->token;

	return (
		command("PREPARE p AS SELECT \$1::text || ' $self->{number}', $who"),
		{
			bytes    => query("EXECUTE p('$token')"),
			expected => [ { rows => $self->me("$token $self->{number}") } ],
			pause    => 1
		},
		command('DEALLOCATE p'));
}

sub setting_kept
{
	my ($self) = @_;

	$self->{serial}++;
	return (command("SET app.serial = '$self->{serial}'"), question($self));
}

sub setting_undone
{
	my ($self) = @_;

	return (
		command('BEGIN',                    status => 'T'),
		command("SET app.serial = 'never'", status => 'T'),
		command('ROLLBACK'), question($self));
}

sub insert
{
	my ($self) = @_;
	my $token = $self->token;

	return {
		bytes =>
		  query("INSERT INTO done VALUES ('$token') RETURNING token, $who"),
		expected => [ { rows => $self->me($token), commits => [$token] } ]
	};
}

# Several rows that are committed together, or not at all.
sub transaction
{
	my ($self) = @_;
	my (@steps, @tokens);

	foreach (0 .. rand 4)
	{
		my $step     = rand(2) < 1 ? insert($self) : question($self);
		my $expected = $step->{expected}[0];

		push @tokens, @{ delete $expected->{commits} || [] };
		$expected->{status} = 'T';
		$step->{pause}      = rand(2) < 1;
		push @steps, $step;
	}
	return (
		command('BEGIN', status => 'T'),
		@steps,
		rand(4) < 1
		? command('ROLLBACK')
		: command('COMMIT', commits => \@tokens));
}

sub pipeline
{
	my ($self) = @_;
	my @parts = map { rand(2) < 1 ? question($self) : extended_query($self) }
	  1 .. 2 + rand 6;

	return {
		bytes    => join('', map { $_->{bytes} } @parts),
		expected => [ map { @{ $_->{expected} } } @parts ]
	};
}

sub failure
{
	my ($self) = @_;
	return (
		{
			bytes    => query('SELECT 1 / 0'),
			expected => [ { error => '22012' } ]
		},
		question($self));
}

sub large_result
{
	my ($self) = @_;
	my $token  = $self->token;
	my $length = int 10**(3 + rand 3);

	return {
		bytes    => query("SELECT '$token' || repeat('x', $length), $who"),
		expected => [ { rows => $self->me($token . 'x' x $length) } ],
		name     => "$length bytes"
	};
}

sub copy_out
{
	my ($self) = @_;
	my $token = $self->token;

	return {
		bytes => query(
			"COPY (SELECT '$token', i FROM generate_series(1, 500) i) TO STDOUT"
		),
		expected => [ { copied => join '', map { "$token\t$_\n" } 1 .. 500 } ]
	};
}

sub copy_in
{
	my ($self) = @_;
	my @tokens = map { $self->token } 1 .. 5;

	return {
		bytes => query('COPY done FROM STDIN'),
		copy  =>
		  PoolWorker::Wire::msg_copy_data(join '', map { "$_\n" } @tokens)
		  . PoolWorker::Wire::msg_copy_done(),
		expected => [ { commits => \@tokens } ]
	};
}

# A query that takes a while, and at some time a request to cancel it.  We go
# on when both have been answered: then it can hit nothing else.
sub cancelled
{
	my ($self)  = @_;
	my $token   = $self->token;
	my $seconds = sprintf '%.3f', rand 0.03;

	return (
		{
			before => sub {
				my ($self) = @_;

				$self->{cancelling} = 1;
				$self->later(rand 0.04, \&send_cancel);
			},
			bytes => query("SELECT '$token', $who FROM pg_sleep($seconds)"),
			expected => [ { rows => $self->me($token), may_fail => '57014' } ]
		},
		question($self));
}

sub send_cancel
{
	my ($self) = @_;
	my $wire = $self->{wire} or return;

	return if $self->{gone};
	$self->{crowd}->cancel(
		$wire->{pid},
		$wire->{key},
		sub {
			return unless $self->{wire} && $self->{wire} == $wire;
			$self->{cancelling} = 0;
			$self->go_on unless @{ $self->{pending} };
		});
	return;
}

# With a wrong key, which must have no effect.
sub cancelled_in_vain
{
	my ($self) = @_;
	my $wire   = $self->{wire};
	my $key    = $wire->{key} ^ 1 << int rand 32;

	$self->{crowd}->cancel($wire->{pid}, $key);
	return question($self);
}

# Sessions that keep their slot for a while.
sub temporary_table
{
	my ($self) = @_;
	my $token = $self->token;

	return (
		command("CREATE TEMPORARY TABLE own AS SELECT '$token' AS token"),
		{
			bytes    => query("SELECT token, $who FROM own"),
			expected => [ { rows => $self->me($token) } ],
			pause    => 1
		},
		command('DROP TABLE own'));
}

sub session_lock
{
	my ($self) = @_;
	my $number = $self->{number};

	return (
		command("SELECT pg_advisory_lock($number)"),
		{ pause => 1, %{ question($self) } },
		command("SELECT pg_advisory_unlock($number)", rows => 't'));
}

sub listen_and_notify
{
	my ($self)  = @_;
	my $token   = $self->token;
	my $channel = "c$self->{number}";
	my $heard   = sub {
		my ($self) = @_;
		my @got    = splice @{ $self->{wire}{notifications} };
		my $got    = join ' ', map { @$_ } @got;

		return $got eq "$channel $token $self->{wire}{pid}"
		  ? ''
		  : "heard '$got'";
	};

	return (
		command("LISTEN $channel"),
		command("NOTIFY $channel, '$token'", check => $heard),
		command('UNLISTEN *'), question($self));
}

sub pinned
{
	my ($self) = @_;
	return (command('SELECT pool_pin()', rows => undef),
		question($self), command('SELECT pool_unpin()', rows => undef));
}

sub leave_idle
{
	my ($self) = @_;

	$self->leave($ways[ rand @ways ]);
	return;
}

1;
