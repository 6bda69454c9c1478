# Copyright (c) pool_worker contributors

=pod

=head1 NAME

Churn - a crowd of clients that come, ask and go, while the pool is disturbed

=head1 SYNOPSIS

  use Churn;

  my $crowd = Churn->new($node, clients => 1000,
      roles => [ 'alice', 'bob' ], superuser => $node->superuser);

  $crowd->churn(60, $trouble);        # all at once
  my @hanging = $crowd->settle(30);   # everybody has been answered, and is quiet
  $crowd->dismiss;

=head1 DESCRIPTION

One process and one loop: sockets that have become readable, and what is to be
done after a while.  What the clients do is in Churn::Client, what is done to
the pool in Churn::Trouble.

=head2 What is counted

  certain    transactions that clients have been told the end of
  possible   what was asked for besides, by clients that left or lost their
             connection before they were answered
  committed  tokens of rows that were committed, as keys of a hash
  doubtful   tokens of rows for which that was not told
  lost       connections that the server has ended, by role and SQLSTATE
  left       connections that the client has ended, by how
  longest    seconds until an answer
  wrong      what must not be, as text

The pool counts a transaction when a slot has answered with ReadyForQuery and the
status says that none is open.  A client that has gone may have caused that
without seeing it, at most once for each ReadyForQuery that was to come.  So
what the pool has counted is at least C<certain> and at most C<certain> +
C<possible>, and for clients that are still there it is exactly what each of
them has counted.

=cut

package Churn;

use strict;
use warnings FATAL => 'all';
use Churn::Client;
use PoolWorker;
use Time::HiRes qw(time);

# Resolution of timers, seconds.
my $tick = 0.005;

sub new
{
	my ($class, $node, %params) = @_;
	my $self = bless {
		node   => $node,
		bound  => 3 * $PoolWorker::timeout,    # for any one answer
		think  => $params{clients} / 2000,     # seconds at most, after a deed
		calm   => 0,
		bits   => '',
		by_fd  => {},
		timers => {},
		(map { $_ => 0 } qw(certain possible answers cancels longest)),
		(map { $_ => {} } qw(committed doubtful lost left may_lose)),
		wrong => [],
	}, $class;
	my @roles = @{ $params{roles} };

	$self->{clients} =
	  [ map { Churn::Client->new($self, $_, $roles[ $_ % @roles ]) }
		  1 .. $params{clients} ];
	$_->connect foreach @{ $self->{clients} };
	return $self;
}

#
# The loop
#

# "who" is told by readable() when there is something to read.
sub watch
{
	my ($self, $wire, $who) = @_;
	my $fd = fileno $wire->{sock};

	$self->{by_fd}{$fd} = $who;
	vec($self->{bits}, $fd, 1) = 1;
	return;
}

sub unwatch
{
	my ($self, $wire) = @_;
	my $fd = $wire->{sock} && fileno $wire->{sock};

	return unless defined $fd;
	delete $self->{by_fd}{$fd};
	vec($self->{bits}, $fd, 1) = 0;
	return;
}

sub after
{
	my ($self, $seconds, $what) = @_;

	push @{ $self->{timers}{ int((time + $seconds) / $tick) + 1 } }, $what;
	return;
}

# One turn: whatever there is to be read, and whatever is due.
sub turn
{
	my ($self)  = @_;
	my $readers = $self->{bits};
	my ($first) = sort { $a <=> $b } keys %{ $self->{timers} };
	my $wait    = defined $first ? $first * $tick - time : 0.1;

	$wait = $wait < 0 ? 0 : $wait > 0.1 ? 0.1 : $wait;
	if (select($readers, undef, undef, $wait) > 0)
	{
		my $ready = unpack 'b*', $readers;
		my $fd    = -1;

		while (($fd = index $ready, '1', $fd + 1) >= 0)
		{
			my $who = $self->{by_fd}{$fd} or next;
			$who->readable;
		}
	}
	my $now = time / $tick;
	foreach my $due (sort { $a <=> $b } keys %{ $self->{timers} })
	{
		last if $due > $now;
		$_->() foreach @{ delete $self->{timers}{$due} };
	}
	return;
}

# Turn until a function says that it is enough.  False if that took longer than
# "seconds".
sub turn_until
{
	my ($self, $seconds, $enough) = @_;
	my $deadline = time + $seconds;

	until ($enough->())
	{
		return 0 if time > $deadline;
		$self->turn;
	}
	return 1;
}

#
# What a crowd does
#

# Let all of it go on for a while.  Ends early if something is wrong.  Without
# trouble, nobody may lose a connection, and slots are left in peace.
sub churn
{
	my ($self, $seconds, $trouble) = @_;
	my $deadline = time + $seconds;
	my $look     = time + 1;

	$self->{calm}     = 0;
	$self->{may_lose} = {};
	$self->{gentle}   = !$trouble;
	$_->begin foreach grep { $_->{rest} } @{ $self->{clients} };
	$trouble->start($self) if $trouble;
	while (time < $deadline && !@{ $self->{wrong} })
	{
		$self->turn;
		next if time < $look;
		$look = time + 1;
		push @{ $self->{wrong} }, 'has no answer: ' . $_->describe
		  foreach $self->kept_waiting;
	}
	$trouble->stop if $trouble;
	return;
}

# Who has been waiting for longer than anybody may.
sub kept_waiting
{
	my ($self) = @_;
	my $since = time - $self->{bound};

	return
	  grep { ($_->{said_at} // $since) < $since && @{ $_->{pending} || [] } }
	  @{ $self->{clients} };
}

# Everybody finishes what he is doing, and is then connected and quiet.
# Returns who is not.
sub settle
{
	my ($self) = @_;
	my $restless = sub {
		grep { !$_->{rest} || !$_->{wire} } @{ $self->{clients} };
	};

	$self->{calm} = 1;
	$self->turn_until($self->{bound},
		sub { @{ $self->{wrong} } || !$restless->() });
	return $restless->();
}

# Each client, at rest, asks once more.  Returns who has not been answered.
sub roll_call
{
	my ($self) = @_;
	my @clients = @{ $self->{clients} };

	$_->begin(\&Churn::Client::question) foreach @clients;
	return $self->settle;
}

# All leave at once, in good order or not.
sub dismiss
{
	my ($self) = @_;

	$self->{bits} = '';
	foreach my $client (@{ $self->{clients} })
	{
		my $wire = $client->{wire};

		$client->settle_account;
		$client->{number} % 2 ? $wire->terminate : $wire->reset;
	}
	return;
}

#
# For clients and trouble
#

# A connection to the pool, or undef if nobody listens.
sub connect
{
	my ($self, $by_tcp) = @_;
	my $wire = eval {
		$self->{node}->raw('pool', $by_tcp ? (host => '127.0.0.1') : ());
	};

	return $wire;
}

# Ask for a cancel; "then" is called when the server has closed the connection
# on which that was done.
sub cancel
{
	my ($self, $pid, $key, $then) = @_;
	my $wire = $self->connect;

	$self->{cancels}++;
	if (!$wire)
	{
		$then->() if $then;
		return;
	}
	$wire->send(PoolWorker::Wire::msg_cancel($pid, $key));
	$self->watch($wire, Churn::Farewell->new($self, $wire, $then));
	return;
}

# How long somebody has waited for all that was asked.
sub note_wait
{
	my ($self, $seconds) = @_;

	$self->{longest} = $seconds if $seconds > $self->{longest};
	return;
}

# The server has ended a client's connection.  A backend that ends while it waits
# for its client to read does so in the middle of the answer, and cannot say more.
sub lost
{
	my ($self, $client, $answer) = @_;
	my ($next) = @{ $client->{pending} };
	my $why =
		$answer->{error} ? $answer->{error}{C}
	  : length $answer->{types} || length $client->{wire}{in} ? 'in an answer'
	  : $next && $next->{login}                               ? 'at the door'
	  :   'without a word';

	$self->{lost}{ $client->{role} }{$why}++;
	$self->wrong($client, "lost: $why")
	  unless $self->{may_lose}{ $client->{role} }{$why};
	return;
}

sub wrong
{
	my ($self, $client, $what) = @_;

	push @{ $self->{wrong} }, $client->describe . ": $what";
	return;
}

# Waits for a connection to be closed by the server.
package Churn::Farewell;

use strict;
use warnings FATAL => 'all';

sub new
{
	my ($class, $crowd, $wire, $then) = @_;
	return bless { crowd => $crowd, wire => $wire, then => $then }, $class;
}

sub readable
{
	my ($self) = @_;

	return if $self->{wire}->take;
	$self->{crowd}->unwatch($self->{wire});
	$self->{wire}->close;
	$self->{then}->() if $self->{then};
	return;
}

1;
