# Copyright (c) pool_worker contributors

=pod

=head1 NAME

PoolWorker::Wire - a client that speaks bytes

=head1 SYNOPSIS

  my $wire = PoolWorker::Wire->login(host => '/tmp', port => 6432,
      user => 'alice', database => 'postgres');

  is($wire->val('SELECT 1'), '1');
  $wire->send(PoolWorker::Wire::msg_query('SELECT 2'));
  is(PoolWorker::Wire::text($wire->answer), '2');

=head1 DESCRIPTION

One connection, at the level of bytes.  The functions that build messages
(msg_query() and so on) return bytes; send() sends any bytes; the rest reads
messages.  A message is [type, payload].

A wait that lasts longer than $PoolWorker::timeout seconds dies.

=cut

package PoolWorker::Wire;

use strict;
use warnings FATAL => 'all';
use Digest::MD5 qw(md5_hex);
use Digest::SHA qw(hmac_sha256 sha256);
use Errno       qw(EAGAIN EINTR);
use Exporter    qw(import);
use IO::Select;
use IO::Socket::IP;
use IO::Socket::UNIX;
use MIME::Base64;
use Socket      qw(SOL_SOCKET SO_LINGER SOCK_STREAM MSG_NOSIGNAL);
use Time::HiRes qw(time);

our @EXPORT_OK = qw(query text);

use constant PROTOCOL_3  => 3 << 16;
use constant SSL_REQUEST => pack('NN', 8, 80877103);
use constant GSS_REQUEST => pack('NN', 8, 80877104);

# Messages, as bytes.  What tests ask most is query().
sub msg           { return $_[0] . pack('N', 4 + length $_[1]) . $_[1]; }
sub query         { return msg('Q', "$_[0]\0"); }
sub msg_query     { return query($_[0]); }
sub msg_sync      { return msg('S', ''); }
sub msg_flush     { return msg('H', ''); }
sub msg_terminate { return msg('X', ''); }
sub msg_copy_data { return msg('d', $_[0]); }
sub msg_copy_done { return msg('c', ''); }
sub msg_copy_fail { return msg('f', "$_[0]\0"); }

# Of a statement or portal: ('S' or 'P', name).
sub msg_describe { return msg('D', "$_[0]$_[1]\0"); }
sub msg_close    { return msg('C', "$_[0]$_[1]\0"); }

# Portal name, and how many rows at most.
sub msg_execute { return msg('E', "$_[0]\0" . pack('N', $_[1] || 0)); }

sub msg_parse
{
	my ($name, $sql, @types) = @_;
	return msg('P', "$name\0$sql\0" . pack('n N*', scalar @types, @types));
}

# All parameters and results in text format; undef is NULL.
sub msg_bind
{
	my ($portal, $statement, @values) = @_;
	my $payload = "$portal\0$statement\0" . pack('n n', 0, scalar @values);

	$payload .= defined $_ ? pack('N/a*', $_) : pack('N', 0xffffffff)
	  foreach @values;
	return msg('B', $payload . pack('n', 0));
}

# One statement by the extended protocol, with Sync.
sub msg_extended
{
	my ($sql, @values) = @_;

	return
		msg_parse('', $sql)
	  . msg_bind('', '', @values)
	  . msg_describe('P', '')
	  . msg_execute('')
	  . msg_sync();
}

# "protocol" may be given; every other pair goes into the packet.
sub msg_startup
{
	my (%params) = @_;
	my $version  = delete $params{protocol} // PROTOCOL_3;
	my $body     = join '', map { "$_\0$params{$_}\0" } sort keys %params;

	return pack('NN', 9 + length $body, $version) . "$body\0";
}

sub msg_cancel
{
	my ($pid, $key) = @_;
	return msg_cancel_bytes($pid, pack 'N', $key);
}

# The same with a key of any length, as since protocol 3.2.
sub msg_cancel_bytes
{
	my ($pid, $key) = @_;
	return pack('NNN', 12 + length $key, 80877102, $pid) . $key;
}

# Connect.  A host with a slash is a directory of Unix sockets; "sockopts", for
# TCP, are set before that.
sub new
{
	my ($class, %params) = @_;
	my $sock;

	if ($params{host} =~ m{^/})
	{
		$sock = IO::Socket::UNIX->new(
			Type => SOCK_STREAM,
			Peer => "$params{host}/.s.PGSQL.$params{port}");
	}
	else
	{
		$sock = IO::Socket::IP->new(
			Type     => SOCK_STREAM,
			PeerHost => $params{host},
			PeerPort => $params{port},
			Sockopts => $params{sockopts} // [],
			Timeout  => $PoolWorker::timeout);
		$sock->sockopt(Socket::SO_KEEPALIVE, 0) if $sock;
		setsockopt($sock, Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)
		  if $sock;
	}
	die "could not connect to $params{host}:$params{port}: $!\n" unless $sock;
	$sock->blocking(0);
	return bless {
		sock          => $sock,
		host          => $params{host},
		port          => $params{port},
		in            => '',
		params        => {},
		reports       => [],
		notifications => [],
		notices       => [],
	}, $class;
}

# Connect and log in; dies if refused.
sub login
{
	my ($class, %params) = @_;
	my $self = $class->new(%params);

	$self->startup(%params) or die 'refused: ' . $self->error_text . "\n";
	return $self;
}

# Send the startup packet and do what the server asks for.  True when it is
# ready for a query; else error() tells why not.
sub startup
{
	my ($self, %params) = @_;

	$self->send_startup(%params);
	return $self->finish_startup(%params);
}

sub send_startup
{
	my ($self, %params) = @_;

	delete @params{qw(host port password sockopts)};
	return $self->send(msg_startup(%params));
}

sub finish_startup
{
	my ($self, %params) = @_;

	while (my $message = $self->read)
	{
		my ($type, $payload) = @$message;

		if ($type eq 'R')
		{
			$self->_authenticate($payload, %params);
		}
		elsif ($type eq 'E')
		{
			$self->{error} = fields($payload);
			return 0;
		}
		elsif ($type eq 'v')
		{
			$self->{negotiated} = unpack('N', $payload);
		}
		elsif ($type eq 'Z')
		{
			return 1;
		}
	}
	return 0;
}

# Answer an authentication request.
sub _authenticate
{
	my ($self, $payload, %params) = @_;
	my ($code, $rest) = unpack('N a*', $payload);
	my $password = $params{password} // '';

	$self->{asked} = $code if $code != 0 && $code != 11 && $code != 12;
	if ($code == 3)
	{
		$self->send(msg('p', "$password\0"));
	}
	elsif ($code == 5)
	{
		my $inner = md5_hex($password . $params{user});
		$self->send(msg('p', 'md5' . md5_hex($inner . $rest) . "\0"));
	}
	elsif ($code == 10)
	{
		my $first =
		  'n=,r=' . encode_base64(join('', map { chr rand 256 } 1 .. 18), '');

		$self->{scram} = $first;
		$self->send(msg('p', "SCRAM-SHA-256\0" . pack('N/a*', "n,,$first")));
	}
	elsif ($code == 11)
	{
		$self->send(msg('p', $self->_scram_final($rest, $password)));
	}
	return;
}

sub _scram_final
{
	my ($self,  $server_first, $password) = @_;
	my ($nonce, $salt, $rounds) = $server_first =~ /^r=(.*),s=(.*),i=(\d+)$/
	  or die "not a SCRAM message: $server_first";
	my $without_proof = "c=biws,r=$nonce";
	my $block  = hmac_sha256(decode_base64($salt) . pack('N', 1), $password);
	my $salted = $block;

	for (2 .. $rounds)
	{
		$block = hmac_sha256($block, $password);
		$salted ^= $block;
	}
	my $client_key = hmac_sha256('Client Key', $salted);
	my $signature = hmac_sha256("$self->{scram},$server_first,$without_proof",
		sha256($client_key));
	return "$without_proof,p=" . encode_base64($client_key ^ $signature, '');
}

# Send bytes, all of them; what arrives meanwhile is kept.  False if the other
# side has gone.
sub send
{
	my ($self, $bytes) = @_;
	my $deadline = time + $PoolWorker::timeout;
	my $select   = IO::Select->new($self->{sock});

	while (length $bytes)
	{
		my $sent = CORE::send($self->{sock}, $bytes, MSG_NOSIGNAL);

		if (defined $sent)
		{
			substr($bytes, 0, $sent) = '';
			next;
		}
		return 0 unless $! == EAGAIN || $! == EINTR;
		die "timed out sending\n" if time > $deadline;
		my ($read) =
		  IO::Select->select($select, $select, undef, $deadline - time);
		$self->_receive if $read && @$read;
	}
	return 1;
}

# Take what has arrived.  False at the end.
sub _receive
{
	my ($self) = @_;
	my $got =
	  sysread($self->{sock}, $self->{in}, 256 * 1024, length $self->{in});

	return 1 if $got || (!defined $got && ($! == EAGAIN || $! == EINTR));
	$self->{reset} = 1 unless defined $got;
	$self->{eof}   = 1;
	return 0;
}

# The next message, undef at the end of the stream.  Dies when there is none
# in time.
sub read
{
	my ($self, $seconds) = @_;
	my $deadline = time + ($seconds || $PoolWorker::timeout);

	while (1)
	{
		my $message = $self->_next_message;

		return $message if $message;
		return undef    if $self->{eof};
		$self->wait_readable($deadline - time)
		  or die "timed out waiting for a message\n";
		$self->_receive;
	}
	return;
}

# A message that has arrived completely, or undef.
sub _next_message
{
	my ($self) = @_;

	return undef if length $self->{in} < 5;
	my ($type, $length) = unpack('a N', $self->{in});
	return undef if length $self->{in} < $length + 1;
	my $payload = substr($self->{in}, 5, $length - 4);
	substr($self->{in}, 0, $length + 1) = '';
	$self->_notice_message($type, $payload);
	return [ $type, $payload ];
}

# Remember what has a meaning beyond the current query.
sub _notice_message
{
	my ($self, $type, $payload) = @_;

	if ($type eq 'S')
	{
		my ($name, $value) = split /\0/, $payload, -1;
		$self->{params}{$name} = $value;
		push @{ $self->{reports} }, "$name=$value";
	}
	elsif ($type eq 'K')
	{
		@$self{ 'pid', 'key' } = unpack('NN', $payload);
		$self->{key_bytes} = substr $payload, 4;
	}
	elsif ($type eq 'Z')
	{
		$self->{status} = $payload;
	}
	elsif ($type eq 'A')
	{
		my ($pid, $rest) = unpack('N a*', $payload);
		my ($channel, $text) = split /\0/, $rest, -1;
		push @{ $self->{notifications} }, [ $channel, $text, $pid ];
	}
	elsif ($type eq 'N')
	{
		push @{ $self->{notices} }, fields($payload);
	}
	return;
}

sub wait_readable
{
	my ($self, $seconds) = @_;
	return IO::Select->new($self->{sock})
	  ->can_read($seconds > 0 ? $seconds : 0);
}

# Exactly so many bytes that are not messages (the answer to an SSLRequest);
# fewer at the end of the stream.
sub read_bytes
{
	my ($self, $count) = @_;
	my $deadline = time + $PoolWorker::timeout;

	while (length $self->{in} < $count && !$self->{eof})
	{
		$self->wait_readable($deadline - time) or die "timed out reading\n";
		$self->_receive;
	}
	return substr($self->{in}, 0, $count, '');
}

# Everything until the end of the stream.
sub read_to_end
{
	my ($self) = @_;
	return $self->read_bytes(~0 >> 1);
}

# True if the stream ends now; messages before that are thrown away.
sub at_end
{
	my ($self) = @_;

	1 while !$self->{eof} && $self->read;
	return $self->{eof};
}

# Read one answer, up to ReadyForQuery (or the end, or what COPY asks for).
# Returns a hash: rows, tags, error (the first), types (of all messages, as a
# string), copied (the COPY data).
sub answer
{
	my ($self) = @_;
	my %answer = (rows => [], tags => [], types => '', copied => '');

	while (my $message = $self->read)
	{
		$self->collect(\%answer, $message) and last;
	}
	$answer{lost} = $self->{eof} && $answer{types} !~ /[ZGW]$/;
	return \%answer;
}

# Add one message to an answer; true if that completes it.
sub collect
{
	my ($self, $answer, $message) = @_;
	my ($type, $payload) = @$message;

	return 0 if $type =~ /[SNA]/;
	$answer->{types} .= $type;
	push @{ $answer->{rows} }, row($payload)        if $type eq 'D';
	push @{ $answer->{tags} }, $payload =~ s/\0$//r if $type eq 'C';
	$answer->{copied} .= $payload                          if $type eq 'd';
	$answer->{error} //= $self->{error} = fields($payload) if $type eq 'E';
	return $type =~ /[ZGW]/;
}

# Simple and extended query, each with its answer.
sub ask
{
	my ($self, $sql) = @_;
	$self->send(msg_query($sql));
	return $self->answer;
}

sub ask_extended
{
	my ($self, $sql, @values) = @_;
	$self->send(msg_extended($sql, @values));
	return $self->answer;
}

# The rows of a query as text; dies on an error.
sub val
{
	my ($self, $sql) = @_;
	return text($self->ask($sql));
}

sub text
{
	my ($answer) = @_;

	die "lost the connection\n" if $answer->{lost} && !$answer->{error};
	die "$answer->{error}{C}: $answer->{error}{M}\n" if $answer->{error};
	return join "\n", map {
		join '|',
		  map { $_ // '' }
		  @$_
	} @{ $answer->{rows} };
}

# SQLSTATE of a query's error, or "" if it had none.
sub sqlstate
{
	my ($self, $sql) = @_;
	my $answer = $self->ask($sql);

	return 'lost' if $answer->{lost} && !$answer->{error};
	return $answer->{error} ? $answer->{error}{C} : '';
}

# Values of a DataRow.
sub row
{
	my ($payload) = @_;
	my ($count)   = unpack('n', $payload);
	my $at        = 2;
	my @values;

	while ($count-- > 0)
	{
		my $length = unpack('N', substr($payload, $at, 4));

		$at += 4;
		push @values,
		  $length == 0xffffffff ? undef : substr($payload, $at, $length);
		$at += $length if defined $values[-1];
	}
	return \@values;
}

# Fields of an ErrorResponse or NoticeResponse, by their letters.
sub fields
{
	my ($payload) = @_;
	return {
		map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/,
		$payload
	};
}

# The last error as text, to be compared: what a client can see, but not where
# in the source it was raised.
sub error_text
{
	my ($self) = @_;
	my $error = $self->{error} or return $self->{eof} ? 'closed' : 'none';

	return join ' ',
	  map { "$_=$error->{$_}" } grep { defined $error->{$_} } qw(S C M D H);
}

# Ask for a cancel of what this client does, as libpq does: over a connection
# of its own.  Returns when the server has closed that.
sub cancel
{
	my ($self, %other) = @_;
	my $wire = ref($self)->new(host => $self->{host}, port => $self->{port});

	$wire->send(
		msg_cancel_bytes(
			$other{pid}       // $self->{pid},
			$other{key_bytes} // (
				defined $other{key}
				? pack('N', $other{key})
				: $self->{key_bytes})));
	$wire->read_to_end;
	return $wire->close;
}

# Ways to leave: in good order; the socket only; half of it; by a reset.
sub terminate
{
	my ($self) = @_;
	$self->send(msg_terminate());
	return $self->close;
}

sub close
{
	my ($self) = @_;
	CORE::close($self->{sock}) if $self->{sock};
	$self->{sock} = undef;
	$self->{eof}  = 1;
	return;
}

sub shut_write
{
	my ($self) = @_;
	return shutdown($self->{sock}, 1);
}

sub reset
{
	my ($self) = @_;
	setsockopt($self->{sock}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
	return $self->close;
}

# Serve many clients at once: calls $on_answer->($client, $answer) for each
# complete answer, until it has returned false for all of them.  A client that
# is gone is passed an answer that is "lost".  Returns the clients that did not
# finish in time.
sub pump
{
	my ($class, $clients, $on_answer, $seconds) = @_;
	my $deadline = time + ($seconds || $PoolWorker::timeout);
	my %by_fd    = map { fileno($_->{sock}) => $_ } @$clients;
	my $select   = IO::Select->new(map { $_->{sock} } @$clients);

	while (%by_fd && time < $deadline)
	{
		foreach my $sock ($select->can_read($deadline - time))
		{
			my $fd   = fileno $sock;
			my $more = $by_fd{$fd}->_pump_one($on_answer);

			next if $more;
			$select->remove($fd);    # the socket may be closed
			delete $by_fd{$fd};
		}
	}
	return values %by_fd;
}

sub _pump_one
{
	my ($self, $on_answer) = @_;

	$self->_receive;
	while (my $answer = $self->next_answer)
	{
		return 0 unless $on_answer->($self, $answer);
		return 0 unless $self->{sock} && !$answer->{lost};
	}
	return 1;
}

# Take what has arrived, without waiting; next_answer() has it then.
sub take
{
	my ($self) = @_;
	return $self->_receive;
}

# The next answer, if it has arrived completely, or undef.  The last one of a
# client that is gone is "lost".
sub next_answer
{
	my ($self) = @_;
	my $answer = $self->{partial} ||=
	  { rows => [], tags => [], types => '', copied => '' };

	while (my $message = $self->_next_message)
	{
		next unless $self->collect($answer, $message);
		$self->{partial} = undef;
		return $answer;
	}
	return undef unless $self->{eof};
	$self->{partial} = undef;
	return { %$answer, lost => 1 };
}

1;
