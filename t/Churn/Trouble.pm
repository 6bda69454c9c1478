# Copyright (c) pool_worker contributors

=pod

=head1 NAME

Churn::Trouble - what is done to a pool while a crowd uses it

=head1 DESCRIPTION

Every now and then one of the things in the list below, over a connection of the
superuser to the server's own port.  stop() ends that and puts everything back.

Which connections may be lost because of it is noted in the crowd's
C<may_lose>, by role and SQLSTATE; whoever loses another one is reported.

=cut

package Churn::Trouble;

use strict;
use warnings FATAL => 'all';
use PoolWorker;

# What may happen, and how often that is drawn; what only happens on request is
# named by that.
my @troubles = (
	{ often => 6, what => \&terminate_slot },
	{ often => 4, what => \&resize },
	{ often => 4, what => \&resize_role },
	{ often => 6, what => \&change_setting },
	{ often => 3, what => \&change_role },
	{ often => 1, what => \&forbid_login },
	{ often => 2, what => \&change_table },
	{ often => 2, what => \&stop_process },
	{ often => 3, what => \&pause },
	{ often => 1, what => \&drain },
	{ often => 1, what => \&recycle },
	{ often => 2, what => \&disconnect_client },
	{ often => 1, what => \&end_worker, asked => 'end_worker' });

# Settings that may be changed while the pool is in use, and values for them.
my %settings = (
	'pool_worker.debug_always_switch'   => [ 'off',  'off', 'on' ],
	'pool_worker.health_check_interval' => [ '50ms', '30s' ],
	'pool_worker.log_min_duration'      => [ -1,     '10s' ],
	'pool_worker.max_opening'           => [ 1,      4 ],
	'pool_worker.max_pinned'            => [ -1,     0, 2 ],
	'pool_worker.max_session_size'      => [ '1kB',  '1MB' ],
	'pool_worker.min_idle'              => [ 0,      2 ],
	'pool_worker.min_pool_size'         => [ 0,      2, 20 ],
	'pool_worker.queue_notice_after'    => [ '20ms', '5s' ],
	'pool_worker.reserve_pool_size'     => [ 0,      2 ],
	'pool_worker.slot_idle_timeout'     => [ '1s',   '10min' ],
	'pool_worker.slot_lifetime'         => [ 0,      '2s' ],
	'pool_worker.slot_max_memory'       => [ 0,      '2MB' ],
	'pool_worker.slot_max_transactions' => [ 0,      300 ],
	'pool_worker.statement_cache_size'  => [ 0,      10, 100 ],
	'pool_worker.statement_timeout'     => [ 0,      '1h' ]);

# And such of one role.
my %role_settings = (
	'pool_worker.priority' => [ 'high', 'normal' ],
	'pool_worker.weight'   => [ 10,     100,   1000 ],
	'work_mem'             => [ '1MB',  '2MB', '3MB' ]);

# What a client may hear when it loses its connection.  Of the last role all are
# disconnected now and then, or not let in.
my @losses      = ('57P01', 'in an answer');
my @more_losses = ('28000', '57P03');

# "every" is the mean time between two of them, in seconds; "roles" are those
# that may be changed, of which the last may be forbidden to log in.
sub new
{
	my ($class, $node, %params) = @_;
	my $self = bless {
		node    => $node,
		every   => 0.1,
		done    => {},
		queue   => [],
		running => 0,
		%params,
	}, $class;

	$self->{troubles} = [
		map  { ($_) x $_->{often} }
		grep { !$_->{asked} || $params{ $_->{asked} } } @troubles
	];
	return $self;
}

sub start
{
	my ($self, $crowd) = @_;

	$self->{crowd}   = $crowd;
	$self->{wire}    = $self->{node}->direct(application_name => 'trouble');
	$self->{running} = 1;
	foreach my $role (@{ $self->{roles} })
	{
		my @may = (@losses, $role eq $self->{roles}[-1] ? @more_losses : ());

		# nobody had accepted its connection when the worker ended
		push @may, 'at the door' if $self->{end_worker};
		$crowd->{may_lose}{$role} = { map { $_ => 1 } @may };
	}
	$crowd->watch($self->{wire}, $self);
	$self->next_one;
	return;
}

sub next_one
{
	my ($self) = @_;

	return unless $self->{running};
	my $trouble = $self->{troubles}[ rand @{ $self->{troubles} } ];
	$trouble->{what}->($self) unless @{ $self->{queue} } > 10;
	$self->{crowd}->after(rand 2 * $self->{every}, sub { $self->next_one });
	return;
}

# No more of it, and everything as it was.
sub stop
{
	my ($self) = @_;
	my $crowd = $self->{crowd};

	$self->{running} = 0;
	$self->resume;
	$self->ask("ALTER ROLE $_ LOGIN", "ALTER ROLE $_ RESET ALL")
	  foreach @{ $self->{roles} };
	$self->ask('ALTER SYSTEM RESET ALL', 'SELECT pg_reload_conf()');
	$crowd->turn_until($PoolWorker::timeout, sub { !@{ $self->{queue} } })
	  or die 'the superuser is not answered';
	$crowd->unwatch($self->{wire});
	$self->{wire}->terminate;
	return;
}

# Say something on our connection, one after the other; the last may be a
# function, which gets the answer to what is before it.
sub ask
{
	my ($self, @sql) = @_;
	my $idle = !@{ $self->{queue} };

	while (defined(my $sql = shift @sql))
	{
		push @{ $self->{queue} },
		  { sql => $sql, then => ref $sql[0] ? shift @sql : undef };
	}
	$self->send_next if $idle;
	return;
}

sub send_next
{
	my ($self) = @_;

	$self->{wire}->send(PoolWorker::Wire::msg_query($self->{queue}[0]{sql}))
	  if @{ $self->{queue} };
	return;
}

sub readable
{
	my ($self) = @_;

	$self->{wire}->take;
	while (my $answer = $self->{wire}->next_answer)
	{
		my $asked = $self->{queue}[0];

		if (   $answer->{error}
			&& $answer->{error}{M} eq 'the pool worker is not running')
		{
			$self->{crowd}->after(0.1, sub { $self->send_next });
			next;
		}
		my $text = eval { PoolWorker::Wire::text($answer) };

		die "$asked->{sql}: $@" unless defined $text;
		$asked->{then}->($text) if $asked->{then};
		shift @{ $self->{queue} };
		$self->send_next;
	}
	return;
}

sub count
{
	my ($self, $what, $n) = @_;

	$self->{done}{$what} += $n // 1;
	return;
}

sub one_of { return $_[ rand @_ ]; }

#
# The troubles
#

sub terminate_slot
{
	my ($self) = @_;

	$self->ask(
		q{SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pool_slots()
			WHERE pid IS NOT NULL ORDER BY random() LIMIT 1) s},
		sub { $self->count('slots terminated', $_[0]) });
	return;
}

sub resize
{
	my ($self) = @_;

	$self->set('pool_worker.pool_size', 1 + int rand 20);
	$self->count('sizes changed');
	return;
}

sub set
{
	my ($self, $name, $value) = @_;

	$self->ask("ALTER SYSTEM SET $name = '$value'",
		'SELECT pg_reload_conf()');
	return;
}

sub resize_role
{
	my ($self) = @_;
	my $role = one_of(@{ $self->{roles} });

	$self->ask(
		rand(2) < 1
		? "ALTER ROLE $role RESET pool_worker.pool_size"
		: "ALTER ROLE $role SET pool_worker.pool_size = " . (1 + int rand 20)
	);
	$self->count('sizes of a role changed');
	return;
}

sub change_setting
{
	my ($self) = @_;
	my $name = one_of(sort keys %settings);

	$self->set($name, one_of(@{ $settings{$name} }));
	$self->count('settings changed');
	return;
}

# Most of these make all slots of the role stale.
sub change_role
{
	my ($self) = @_;
	my $role   = one_of(@{ $self->{roles} });
	my $name   = one_of(sort keys %role_settings);
	my $value  = one_of(@{ $role_settings{$name} });

	$self->ask("ALTER ROLE $role SET $name = '$value'");
	$self->count('roles changed');
	return;
}

# For a moment; its clients lose their connections when they need a slot.
sub forbid_login
{
	my ($self) = @_;
	my $role = $self->{roles}[-1];

	$self->ask("ALTER ROLE $role NOLOGIN");
	$self->{crowd}->after(rand 0.3,
		sub { $self->ask("ALTER ROLE $role LOGIN") if $self->{running}; });
	$self->count('logins forbidden');
	return;
}

# Plans become invalid.
sub change_table
{
	my ($self) = @_;

	$self->ask(
		'ALTER TABLE done ALTER COLUMN token SET STATISTICS ' . int rand 100);
	$self->count('tables changed');
	return;
}

# The worker or a slot does not get to run for a moment, wherever it is.  Somebody
# else wakes it, because we may come to wait for it.
sub stop_process
{
	my ($self) = @_;

	$self->ask(
		q{SELECT pid FROM (SELECT pid FROM pool_slots() UNION ALL
			SELECT pid FROM pg_stat_activity WHERE backend_type = 'pool worker') p
			WHERE pid IS NOT NULL ORDER BY random() LIMIT 1},
		sub {
			my ($pid)   = @_;
			my $seconds = sprintf '%.3f', rand 0.2;

			return unless $pid && kill 'STOP', $pid;
			system(
				"(sleep $seconds; kill -CONT $pid) </dev/null >/dev/null 2>&1 &"
			);
			$self->count('processes stopped for a moment');
		});
	return;
}

# All pools or one of them, for a moment.  We do not wait until it is done: that
# may need what we do next.
sub pause
{
	my ($self) = @_;
	my $role = one_of('NULL', map { "'$_'" } @{ $self->{roles} });

	return if $self->{paused};
	$self->{paused} = 1;
	$self->ask("SELECT count(*) FROM pool_pause(NULL, $role, 0)");
	$self->{crowd}
	  ->after(rand 0.5, sub { $self->resume if $self->{running} });
	$self->count('pauses');
	return;
}

sub resume
{
	my ($self) = @_;

	$self->{paused} = 0;
	$self->ask('SELECT count(*) FROM pool_resume()');
	return;
}

# Everybody of the last role has to go.
sub drain
{
	my ($self) = @_;

	return if $self->{paused};
	$self->{paused} = 1;
	$self->ask(
		"SELECT count(*) FROM pool_drain(NULL, '$self->{roles}[-1]', 0)");
	$self->{crowd}
	  ->after(rand 0.3, sub { $self->resume if $self->{running} });
	$self->count('pools drained');
	return;
}

sub disconnect_client
{
	my ($self) = @_;

	$self->ask(
		q{SELECT count(*) FILTER (WHERE pool_disconnect(client)) FROM (SELECT client
			FROM pool_clients() ORDER BY random() LIMIT 1) c},
		sub { $self->count('clients disconnected', $_[0]) });
	return;
}

sub recycle
{
	my ($self) = @_;

	$self->ask('SELECT count(*) FROM pool_recycle(NULL, NULL, 0)');
	$self->count('pools recycled');
	return;
}

sub end_worker
{
	my ($self) = @_;

	$self->ask(
		q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE backend_type = 'pool worker'},
		sub { $self->count('workers ended', $_[0]) });
	return;
}

1;
