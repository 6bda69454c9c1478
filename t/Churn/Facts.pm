# Copyright (c) pool_worker contributors

=pod

=head1 NAME

Churn::Facts - what the pool's processes hold: descriptors and memory

=head1 SYNOPSIS

  my $before = Churn::Facts->gather($node);
  ...
  my $after = Churn::Facts->gather($node);
  print $after->growth($before);

=head1 DESCRIPTION

  worker_fds      descriptors of the worker
  worker_memory   bytes of its memory contexts
  worker_private  bytes of memory that is not shared with another process
  area            bytes of dynamic shared memory: where sessions are kept
  slot_fds        the most descriptors of any slot
  slot_memory     the most memory in contexts of any slot
  of_slot         and that of each, by its pid
  slot_private    the most private memory of any slot

Bytes of memory contexts are what pg_log_backend_memory_contexts() writes into
the log.

=cut

package Churn::Facts;

use strict;
use warnings FATAL => 'all';
use List::Util qw(max);
use PoolWorker;

# The pools have come back to their sizes first.  A slot may end all the same,
# and is not counted then.
sub gather
{
	my ($class, $node) = @_;

	$node->until(
		sub {
			$node->value(
				'SELECT count(*) FROM pool_status() WHERE slots > pool_size')
			  eq '0';
		}) or die 'a pool remains too large';
	my $worker  = $node->worker_pid;
	my @slots   = $node->slot_pids;
	my $context = memory_contexts($node, $worker, @slots);

	return bless {
		worker_fds     => $node->fd_count($worker),
		worker_memory  => $context->{$worker},
		worker_private => private_memory($worker),
		area           => dynamic_shared_memory($worker),
		slots          => scalar @slots,
		slot_fds       => max(0, map { $node->fd_count($_) } @slots),
		slot_memory    => max(0, map { $context->{$_} // 0 } @slots),
		of_slot        => { map { $_ => $context->{$_} // 0 } @slots },
		slot_private   => max(0, map { private_memory($_) } @slots),
	}, $class;
}

# Bytes that each of these processes has in memory contexts.
sub memory_contexts
{
	my ($node, @pids) = @_;
	my $from = $node->log_end;
	my %bytes;

	$node->value("SELECT pg_log_backend_memory_contexts($_)") foreach @pids;
	$node->until(
		sub {
			my $log = $node->log_since($from);

			%bytes = $log =~ /\[(\d+)\] .*Grand total: (\d+) bytes/g;
			return !grep { !defined $bytes{$_} && kill 0, $_ } @pids;
		}) or die "not all processes have logged their memory";
	return \%bytes;
}

sub private_memory
{
	my ($pid) = @_;
	my $rollup = contents("/proc/$pid/smaps_rollup");

	return $rollup =~ /^Anonymous:\s+(\d+) kB/m ? 1024 * $1 : 0;
}

# Segments that a process has mapped, by their names in dsm_impl.c.
sub dynamic_shared_memory
{
	my ($pid) = @_;
	my $maps  = contents("/proc/$pid/maps");
	my $bytes = 0;

	no warnings 'portable';    # addresses have more than 32 bits
	$bytes += hex($2) - hex($1)
	  while $maps =~ m{^(\w+)-(\w+) .*/PostgreSQL\.\d+}mg;
	return $bytes;
}

# Of a file of a process; empty if that has ended.
sub contents
{
	my ($file) = @_;
	local $/;

	open(my $in, '<', $file) or return '';
	my $text = <$in> // '';
	close $in;
	return $text;
}

sub describe
{
	my ($self) = @_;
	return join ', ',
	  map { "$_ $self->{$_}" } grep { !ref $self->{$_} } sort keys %$self;
}

1;
