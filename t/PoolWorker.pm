# Copyright (c) pool_worker contributors

=pod

=head1 NAME

PoolWorker - a server with the pool loaded

=head1 SYNOPSIS

  use FindBin;
  use lib $FindBin::RealBin;
  use PoolWorker;

  # a running server; the pool listens on a second free port
  my $node = PoolWorker->new('main')->setup(conf => 'pool_worker.pool_size = 1');

  # through the pool, and beside it
  my $client = $node->client(database => 'postgres', application_name => 'me');
  my $direct = $node->direct;
  is($client->val('SELECT 1'), '1');

  # wait for facts
  $node->soon(q{SELECT count(*) FROM pool_clients()}, 1, 'one client');

=head1 DESCRIPTION

A C<PoolWorker> is a C<PostgreSQL::Test::Cluster>; everything that class can do
is there, and talks to the server's own port.  What goes through the pool says
so: client(), pool_psql(), pool_connstr(), pool_port().  Clients are made by
PoolWorker::Wire.

Nothing in here sleeps for a guessed time, and nothing waits for ever: each
wait has a deadline of $PoolWorker::timeout seconds, and a test file as a whole
one of $PoolWorker::file_timeout.

=cut

package PoolWorker;

use strict;
use warnings FATAL => 'all';
use IO::Socket::IP;
use PoolWorker::Wire;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;
use Time::HiRes qw(time usleep);

our @ISA = ('PostgreSQL::Test::Cluster');

# Seconds that a single wait may take, and a whole test file.
our $timeout      = $ENV{POOL_WORKER_TEST_TIMEOUT} || 20;
our $file_timeout = 15 * $timeout;

# Make a node; setup() starts it.
sub new
{
	my ($class, $name, %params) = @_;
	my $self = $class->SUPER::new($name, %params);

	$self->{_pool_port}  = PostgreSQL::Test::Cluster::get_free_port();
	$self->{_hba_serial} = 0;
	$SIG{ALRM} = sub { die "test file takes longer than $file_timeout s\n" };
	alarm($file_timeout);
	return $self;
}

# Initialise, start, create the extension.  "conf" is appended to
# postgresql.conf, "hba" and "ident" (lists of lines) replace pg_hba.conf and
# pg_ident.conf, "preload", "start" and "extension" may be false, "sql" is run
# at the end.
sub setup
{
	my ($self, %params) = @_;
	my $port    = $self->pool_port;
	my $preload = $params{preload} // 1;
	my $listen  = has_ipv6() ? '127.0.0.1, ::1' : '127.0.0.1';

	$self->init;
	$self->append_conf(
		'postgresql.conf', qq{
listen_addresses = '$listen'
log_line_prefix = '%m [%p] %q%u\@%d <%h> <%a> '
log_statement = none
max_connections = 60
});
	$self->append_conf(
		'postgresql.conf', qq{
shared_preload_libraries = 'pool_worker'
pool_worker.port = $port
pool_worker.listen_addresses = '$listen'
}) if $preload;
	$self->append_conf('postgresql.conf', $params{conf}) if $params{conf};
	$self->_write_hba(@{ $params{hba} })                 if $params{hba};
	$self->append_conf('pg_ident.conf', $_) foreach @{ $params{ident} || [] };
	return $self if exists $params{start} && !$params{start};

	$self->start;
	$self->safe_psql('postgres', 'CREATE EXTENSION pool_worker')
	  unless exists $params{extension} && !$params{extension};
	$self->safe_psql('postgres', $params{sql}) if $params{sql};
	$self->wait_for_pool                       if $preload;
	return $self;
}

# A hot standby of a running node, from a backup of it, with a pool of its own.
# "conf" is appended to what the node has in postgresql.conf; "start" may be
# false.
sub setup_standby
{
	my ($self, $primary, %params) = @_;
	my $backup = 'for_' . $self->name;
	my $port   = $self->pool_port;

	$primary->backup($backup);
	$self->init_from_backup($primary, $backup, has_streaming => 1);
	$self->append_conf('postgresql.conf', "pool_worker.port = $port");
	$self->append_conf('postgresql.conf', $params{conf}) if $params{conf};
	return $self if exists $params{start} && !$params{start};

	$self->start;
	$self->wait_for_pool;
	return $self;
}

sub pool_port { return $_[0]->{_pool_port}; }
sub superuser { return scalar getpwuid($<); }

# Whether this machine has an IPv6 loopback address.
sub has_ipv6
{
	return defined IO::Socket::IP->new(
		LocalHost => '::1',
		Listen    => 1,
		Proto     => 'tcp');
}

# A conninfo string for libpq.  "host" among the extras moves it to TCP.
sub pool_connstr
{
	my ($self, $dbname, %extra) = @_;
	my %info = (
		host   => $self->host,
		port   => $self->pool_port,
		dbname => $dbname,
		%extra);

	return join ' ', map { "$_='$info{$_}'" } sort keys %info;
}

# psql through the pool; the result is that of psql().
sub pool_psql
{
	my ($self, $dbname, $sql, %params) = @_;

	return $self->psql(
		$dbname, $sql,
		connstr => $self->pool_connstr($dbname),
		timeout => $timeout,
		%params);
}

# Connected and authenticated clients: of the pool, and of the server itself.
# Dies if refused; see PoolWorker::Wire for the parameters.
sub client
{
	my ($self, %params) = @_;

	return PoolWorker::Wire->login(
		$self->target('pool'),
		database => 'postgres',
		user     => $self->superuser,
		%params);
}

sub direct
{
	my ($self, %params) = @_;

	return PoolWorker::Wire->login(
		$self->target('direct'),
		database => 'postgres',
		user     => $self->superuser,
		%params);
}

# Where to connect to; $port is 'pool' or 'direct'.
sub target
{
	my ($self, $port) = @_;

	return (
		host => $self->host,
		port => $port eq 'pool' ? $self->pool_port : $self->port);
}

# A connection whose startup packet has not been sent.
sub raw
{
	my ($self, $port, %params) = @_;
	return PoolWorker::Wire->new($self->target($port), %params);
}

# Try to log in at "pool" or "direct" and say what came of it: "ok", or the
# error's severity, SQLSTATE, message, detail and hint.
sub attempt
{
	my ($self, $port, %params) = @_;
	my $wire = $self->raw($port, %params);
	my $ok   = $wire->startup(
		database => 'postgres',
		user     => $self->superuser,
		%params);
	my $answer = $ok ? 'ok' : $wire->error_text;

	$wire->terminate if $ok;
	$wire->close;
	return $answer;
}

# The pool and the server answer the same to the same attempt.
sub same_answer
{
	my ($self, $name, $like, %params) = @_;
	my $direct = $self->attempt('direct', %params);
	my $pool   = $self->attempt('pool',   %params);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($direct, $like, "$name: the server's port");
	is($pool, $direct, "$name: the pool's port says the same");
	return;
}

# The control connection: the superuser's, to the server's own port.
sub control
{
	my ($self) = @_;
	my $control = $self->{_control};

	# after a restart of the server there is a farewell to read
	$control->_receive
	  if $control && $control->{sock} && $control->wait_readable(0);
	if (!$control || $control->{eof} || length $control->{in})
	{
		$control->close if $control;
		$self->{_control} = undef;
		$self->{_control} = $self->direct(application_name => 'control');
	}
	return $self->{_control};
}

# What a query returns on the control connection: columns separated by "|",
# rows by newlines.
sub value
{
	my ($self, $sql) = @_;
	return $self->control->val($sql);
}

# Call a function until it returns true.  Returns what it returned, or false
# when time is up.  An error counts as "not yet".
sub until
{
	my ($self, $function, $seconds) = @_;
	my $deadline = time + ($seconds || $timeout);

	while (1)
	{
		my $result = eval { $function->() };

		return $result if $result;
		if (time > $deadline)
		{
			diag("last error while waiting: $@") if $@;
			return $result;
		}
		usleep(20_000);
	}
	return;
}

# A query's answer becomes what is expected (a string or a regexp) soon: as a
# test.
sub soon
{
	my ($self, $sql, $expected, $name) = @_;
	my $last;

	$self->until(
		sub {
			$last = $self->value($sql);
			return ref $expected ? $last =~ $expected : $last eq $expected;
		});
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ref $expected
	  ? like($last, $expected, $name)
	  : is($last, $expected, $name);
}

# Wait until the pool answers; dies if it never does.  The attempt is one that
# needs no slot, so that no pool is made.
sub wait_for_pool
{
	my ($self) = @_;

	$self->until(
		sub {
			$self->attempt('pool', user => 'pool_worker_nobody') =~ /FATAL/;
		}) or die 'the pool does not answer';
	return $self;
}

sub worker_pid
{
	my ($self) = @_;
	return $self->value(
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pool worker'}
	);
}

# Columns of pool_clients() for a client that has its {name} as application_name.
sub about
{
	my ($client, $columns) = @_;
	return
	  "SELECT $columns FROM pool_clients() WHERE application = '$client->{name}'";
}

# Say goodbye to these clients, and nobody is left: as a test.
sub all_leave
{
	my ($self, @clients) = @_;

	$_->terminate foreach @clients;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return $self->soon('SELECT count(*) FROM pool_clients()', 0, 'all leave');
}

# Backends of the slots of a (database, role), oldest first.
sub slot_pids
{
	my ($self, $database, $role) = @_;
	my $where = 'pid IS NOT NULL';

	$where .= " AND database = '$database'" if $database;
	$where .= " AND role = '$role'"         if $role;
	return split /\n/,
	  $self->value("SELECT pid FROM pool_slots() WHERE $where ORDER BY pid");
}

# A client does not keep its role's only slot: as a test.  We look when the slot
# has come to rest; what it says while it works is from before.
sub not_pinned
{
	my ($self, $client, $role, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return $self->soon(
		"SELECT s.state, c.pin_reason FROM pool_slots() s, pool_clients() c
			WHERE s.role = '$role' AND c.application = '$client->{name}'",
		'idle|', $name);
}

# End the backend of a role's only slot while it is idle, so that whoever is
# served next is served by another one.
sub replace_slot
{
	my ($self, $role) = @_;
	my $of_role = "FROM pool_slots() WHERE role = '$role'";

	$self->until(sub { $self->value("SELECT state $of_role") eq 'idle' })
	  or die 'the slot is not idle';
	$self->value("SELECT pg_terminate_backend(pid, 20000) $of_role");
	$self->until(sub { $self->value("SELECT count(*) $of_role") eq '0' })
	  or die 'the slot does not go';
	return;
}

# Clock ticks that a process has used.
sub ticks
{
	my ($pid) = @_;

	open my $stat, '<', "/proc/$pid/stat" or return 0;
	my @fields = split ' ', (<$stat> =~ s/.*\) //sr);
	close $stat;
	return $fields[11] + $fields[12];
}

# Number of open descriptors of a process of ours.
sub fd_count
{
	my ($self, $pid) = @_;

	opendir(my $dir, "/proc/$pid/fd") or return -1;
	my @fds = grep { !/^\./ } readdir $dir;
	closedir $dir;
	return scalar @fds;
}

# No client is left, and the worker holds no more descriptors than before.
sub no_leak
{
	my ($self, $fds, $name) = @_;
	my $worker = $self->worker_pid;
	my $now;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$self->soon('SELECT count(*) FROM pool_clients()',
		0, "$name: no client is left");
	$self->until(sub { ($now = $self->fd_count($worker)) <= $fds });
	cmp_ok($now, '<=', $fds, "$name: the worker has no descriptor left over");
	return;
}

# Settings by ALTER SYSTEM; undef resets.  Returns when the worker has seen
# them.
sub set
{
	my ($self, %settings) = @_;

	foreach my $name (sort keys %settings)
	{
		my $value = $settings{$name};

		$self->value(
			defined $value
			? "ALTER SYSTEM SET $name = '$value'"
			: "ALTER SYSTEM RESET $name");
	}
	$self->reload_and_wait;
	return;
}

# Replace pg_hba.conf; the superuser may always come in over the Unix socket.
# Returns when the server and the worker have read it.
sub hba
{
	my ($self, @lines) = @_;

	$self->{_hba_lines} = [@lines];
	$self->reload_and_wait;
	return;
}

# Reload, and return when postmaster and worker have done so.  That is seen by
# the first line of pg_hba.conf, which names a role that changes each time.
sub reload_and_wait
{
	my ($self) = @_;
	my $role = 'hba_serial_' . ++$self->{_hba_serial};

	$self->_write_hba(
		@{
			$self->{_hba_lines}
			  || [
				'local all all trust',
				'host all all 127.0.0.1/32 trust',
				'host all all ::1/128 trust'
			  ]
		});
	$self->reload;
	foreach my $port ('direct', 'pool')
	{
		$self->until(
			sub {
				$self->attempt($port, user => $role) =~
				  /pg_hba.conf rejects connection/;
			}) or die "$port port does not see the reload";
	}
	return;
}

sub _write_hba
{
	my ($self, @lines) = @_;
	my $file = $self->data_dir . '/pg_hba.conf';

	$self->{_hba_lines} = [@lines];
	open my $hba, '>', $file or die "could not write $file: $!";
	print $hba "local all hba_serial_$self->{_hba_serial} reject\n";
	print $hba 'local all ' . $self->superuser . " trust\n";
	print $hba "$_\n" foreach @lines;
	close $hba;
	return;
}

# Where the server's log ends now, what came after that, and two tests: a line
# comes soon, and no such line has come.
sub log_end
{
	my ($self) = @_;
	return -s $self->logfile;
}

sub log_since
{
	my ($self, $offset) = @_;
	return slurp_file($self->logfile, $offset);
}

sub logged
{
	my ($self, $regexp, $offset, $name) = @_;
	my $found = $self->until(sub { $self->log_since($offset) =~ $regexp });

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($found, $name);
}

sub not_logged
{
	my ($self, $regexp, $offset, $name) = @_;
	my @found = grep { /$regexp/ } split /\n/, $self->log_since($offset);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(join("\n", @found), '', $name);
}

1;
