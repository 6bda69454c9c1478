# Copyright (c) pool_worker contributors

=pod

=head1 NAME

RandomSession - what a client might do that changes its session

=head1 SYNOPSIS

  srand($seed);
  my $session = RandomSession->new(0);
  my $step    = $session->step('I');    # transaction status

=head1 DESCRIPTION

Steps are those of SessionTwins.  They are drawn from tables of commands, each
with a weight.  Most of them make sense, and it does no harm that some do not:
an error is an answer like any other.  But the answer must depend on nothing
outside of the session: no times, no process numbers, no order of rows that is
not asked for, nothing that another pair could see or change.

A client keeps its slot because of some of the things it does; give_up() draws
a step that ends that, sooner or later.

=cut

package RandomSession;

use strict;
use warnings FATAL => 'all';

# One element of a list, and one of a list with weights before each element.
sub one_of { return $_[ rand @_ ]; }

sub weighted
{
	my (@table) = @_;
	my $sum = 0;

	$sum += $table[ 2 * $_ ] foreach 0 .. @table / 2 - 1;
	my $at = rand $sum;
	while (@table)
	{
		my ($weight, $what) = splice @table, 0, 2;

		return $what if ($at -= $weight) < 0;
	}
	return;
}

sub maybe { return rand() < $_[0]; }

# -----------------------------------------------------------------------
# Statements that are prepared: text, and what its parameters can be.

my @numbers = (0, 1, 2, 3, 7, 10, 20, 'NULL', 'x');
my @words   = (q{one}, q{it's}, q{na\xc3\xafve}, '', 'happy', 'sad');

sub number { return one_of(@numbers); }
sub word   { return one_of(@words); }

my @queries = (
	['SELECT * FROM t ORDER BY a'],
	[ 'SELECT b FROM t WHERE a = $1',        \&number ],
	[ 'SELECT count(*) FROM t WHERE a > $1', \&number ],
	[ 'SELECT t FROM t WHERE a = $1',        \&number ],
	[ 'SELECT $1 || $2',                     \&word, \&word ],
	[ 'SELECT $1',                           \&word ],
	[ 'SELECT f($1)',                        \&number ],
	[ 'SELECT g($1)',                        \&word ],
	[ 'SELECT fails($1)',                    \&number ],
	['SELECT catches()'],
	[
		'SELECT current_user, session_user, current_setting(\'search_path\'), current_schemas(false)'
	],
	[q{SELECT 'a\\\\b', E'a\\\\b'}],
	[ 'SELECT count(*) FROM t WHERE b IS NULL OR a = $1', \&number ],
	[q{SELECT 'happy'::mood}],
	[ 'SELECT $1::mood',                              \&word ],
	[ 'INSERT INTO t VALUES ($1, $2) RETURNING a',    \&number, \&word ],
	[ 'UPDATE t SET b = $2 WHERE a = $1 RETURNING *', \&number, \&word ],
	[ 'DELETE FROM t WHERE a = $1',                   \&number ],
	[ 'INSERT INTO u (a) VALUES ($1) RETURNING id',   \&number ],
	[ 'INSERT INTO logged VALUES ($1)',               \&number ],
	['SELECT owner, a FROM r ORDER BY a'],
	[q{SELECT nextval('s2')}],
	[q{SELECT to_tsvector('the dogs are barking')}],
	['SELECT ROW(1, \'x\')'],
	['VALUES (1), (2), (3)'],
	[ 'SELECT n FROM generate_series(1, $1) n', \&number ],
	['TABLE tmp'],
	['SELECT 1 FROM nowhere'],
	['SELECT 10 / 0'],
	[ 'SELECT set_config(\'my.a\', $1, false)', \&word ],
	['SELECT current_setting(\'my.a\', true), current_setting(\'work_mem\')'],
);

# Those that only the extended protocol can prepare.
my @utilities = (
	[''],
	['SHOW TimeZone'],
	['SHOW work_mem'],
	['SET work_mem = \'6MB\''],
	['SET LOCAL TimeZone = \'Asia/Tokyo\''],
	['RESET ALL'],
	['BEGIN'],
	['COMMIT'],
	['ROLLBACK'],
	['SAVEPOINT a'],
	['DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t ORDER BY a'],
	['FETCH 2 FROM c'],
	['EXPLAIN (COSTS OFF) SELECT * FROM t WHERE a = 1'],
	['DEALLOCATE a'],
	['DEALLOCATE ALL'],
	['DISCARD ALL'],
	['DISCARD PLANS'],
	['CALL commits(2)'],
	['LOCK TABLE u'],
	['SELEKT'],
	['LISTEN pair'],
	['SELECT 1; SELECT 2'],);

my @names = ('a', 'b', 'c', 'd', 'Long Name');

# A name to prepare a statement under, and one that is in use, if any is.
sub new_name { return one_of(@names); }

sub used_name
{
	my ($self) = @_;
	return one_of(
		maybe(0.9)
		  && %{ $self->{prepared} }
		? sort keys %{ $self->{prepared} }
		: @names);
}

# As a word of SQL, and as an identifier.
sub literal
{
	my ($value) = @_;

	return $value if $value eq 'NULL' || $value =~ /^\d+$/;
	return q{'} . $value =~ s/'/''/gr . q{'};
}

sub identifier { return $_[0] =~ /^[a-z]\w*$/ ? $_[0] : qq{"$_[0]"}; }

# -----------------------------------------------------------------------
# Settings: name, and values that are worth setting; some are not allowed.

my %settings = (
	'TimeZone'  => [qw(UTC Asia/Tokyo Europe/Berlin -3 nowhere)],
	'DateStyle' =>
	  [ 'ISO', 'German', 'SQL, DMY', 'Postgres, MDY', 'YMD', 'bad' ],
	'IntervalStyle'                 => [qw(postgres sql_standard iso_8601)],
	'client_encoding'               => [qw(UTF8 LATIN1 SQL_ASCII nothing)],
	'application_name'              => [ '', 'other', "na\xc3\xafve" ],
	'standard_conforming_strings'   => [qw(on off)],
	'search_path'                   => [],
	'work_mem'                      => [qw(64kB 1MB 3MB 10)],
	'statement_timeout'             => [qw(100s 200s 0)],
	'lock_timeout'                  => [qw(100s 0)],
	'idle_session_timeout'          => [qw(100s 0)],
	'extra_float_digits'            => [qw(0 3 17)],
	'bytea_output'                  => [qw(hex escape)],
	'default_transaction_isolation' =>
	  [ 'serializable', 'read committed', 'repeatable read' ],
	'default_transaction_read_only' => [qw(on off)],
	'plan_cache_mode' => [qw(auto force_generic_plan force_custom_plan)],
	'backslash_quote' => [qw(on off safe_encoding)],
	'escape_string_warning'      => [qw(on off)],
	'row_security'               => [qw(on off)],
	'client_min_messages'        => [qw(notice warning error log)],
	'default_text_search_config' =>
	  [qw(pg_catalog.english pg_catalog.simple none)],
	'xmloption'                  => [qw(document content)],
	'lc_monetary'                => [qw(C POSIX nowhere)],
	'lc_time'                    => [qw(C POSIX)],
	'enable_seqscan'             => [qw(on off)],
	'enable_indexscan'           => [qw(on off)],
	'default_tablespace'         => [ '', 'nowhere' ],
	'session_replication_role'   => [qw(replica origin)],
	'log_min_duration_statement' => [qw(-1 1000s)],
	'max_connections'            => [7],
	'server_version'             => [7],
	'nowhere'                    => [7],
	'my.a'                       => [ '',  '1', q{it's}, 'x' x 200 ],
	'my.b'                       => [ '',  '2', "na\xc3\xafve" ],
	'other.c'                    => [ '3', '4' ],
	'plpgsql.variable_conflict'  => [qw(error use_column)],
	'role' => [qw(none twins_a twins_b twins_owner nobody)],);
my @settings = sort keys %settings;

# Most of the time, settings that matter to other commands.
sub setting
{
	return weighted(
		30 => one_of(@settings),
		10 => one_of(qw(search_path TimeZone DateStyle client_encoding)),
		10 => one_of(qw(my.a my.b other.c my.f)),
		5  => 'work_mem',
		2  => 'plan_cache_mode');
}

sub value_of
{
	my ($self, $setting) = @_;

	return one_of(@{ $self->{paths} }) if $setting eq 'search_path';
	return one_of(@{ $settings{$setting} || [ '5', '' ] });
}

# The value in SQL; lists are not to be quoted as a whole.
sub set_value
{
	my ($self, $setting) = @_;
	my $value = $self->value_of($setting);

	return weighted(1 => 'DEFAULT', 9 => $value) if $setting eq 'search_path';
	return weighted(1 => 'DEFAULT', 9 => literal($value));
}

sub set_command
{
	my ($self)  = @_;
	my $setting = setting();
	my $value   = $self->set_value($setting);
	my $local   = one_of('true', 'false', 'false');

	return weighted(
		20 => "SET $setting = $value",
		3  => "SET SESSION $setting TO $value",
		8  => "SET LOCAL $setting = $value",
		5  => "RESET $setting",
		2  => 'RESET ALL',
		2  => 'SET TIME ZONE '
		  . one_of('LOCAL', 'DEFAULT', '5',
			q{INTERVAL '2:30' HOUR TO MINUTE}),
		1 => 'SET NAMES ' . one_of(q{'LATIN1'}, 'DEFAULT'),
		1 => "SET SCHEMA '$self->{paths}[0]'",
		1 => 'SET SESSION CHARACTERISTICS AS TRANSACTION '
		  . one_of('READ ONLY', 'READ WRITE', 'ISOLATION LEVEL SERIALIZABLE'),
		8 => "SELECT set_config('$setting', "
		  . literal($self->value_of($setting))
		  . ", $local)",
		2 => "UPDATE pg_settings SET setting = "
		  . literal($self->value_of($setting))
		  . " WHERE name = '$setting'",
		3 => "DO \$\$BEGIN SET $setting = $value; END\$\$",
		3 => "DO \$\$BEGIN SET $setting = $value; RAISE 'no'; END\$\$",
		3 =>
		  "DO \$\$BEGIN SET $setting = $value; RAISE 'no'; EXCEPTION WHEN raise_exception THEN SET LOCAL my.b = 'caught'; END\$\$",
		2 => 'SELECT f(' . one_of(1, 2) . ')',
		2 => 'SELECT fails(' . one_of(0, 2) . ')',
		2 => 'SELECT catches()',
		2 => 'INSERT INTO logged VALUES (' . one_of(1, 2, q{'x'}) . ')',
		2 => 'CALL commits(' . one_of(1, 2) . ')',);
}

# -----------------------------------------------------------------------
# Other commands, as SQL.

sub prepare_command
{
	my ($self) = @_;
	my $name   = new_name();
	my $query  = one_of(@queries);
	my ($text, @parameters) = @$query;
	my $types =
	  @parameters && maybe(0.7)
	  ? ' ('
	  . join(', ',
		map { $_ == \&number ? one_of('int', 'bigint') : 'text' } @parameters)
	  . ')'
	  : '';

	$self->{prepared}{$name} = $query;
	return 'PREPARE ' . identifier($name) . "$types AS $text";
}

sub execute_command
{
	my ($self) = @_;
	my $name = one_of(@names);
	my (undef, @parameters) = @{ $self->{prepared}{$name} || [''] };
	my @values = map { literal($_->()) } @parameters;

	push @values, '1' if maybe(0.03);
	return
		(maybe(0.15) ? 'EXPLAIN (COSTS OFF) ' : '')
	  . 'EXECUTE '
	  . identifier($name)
	  . (@values ? '(' . join(', ', @values) . ')' : '');
}

sub statement_command
{
	my ($self) = @_;

	return weighted(
		10 => $self->prepare_command,
		20 => $self->execute_command,
		2  => 'DEALLOCATE ' . identifier($self->used_name),
		1  => 'DEALLOCATE ALL',
		1  => 'DISCARD PLANS',
		1  => 'CREATE TEMP TABLE made AS ' . $self->execute_command =~
		  s/EXPLAIN .*OFF. //r,);
}

sub identity_command
{
	my ($self) = @_;
	my $role = one_of(
		qw(twins_a twins_b twins_owner twins_plain twins_super none nobody));

	return weighted(
		5 => "SET ROLE $role",
		2 => "SET LOCAL ROLE $role",
		3 => 'RESET ROLE',
		3 => 'SET SESSION AUTHORIZATION '
		  . ($role eq 'none' ? 'DEFAULT' : $role),
		1 => "SET LOCAL SESSION AUTHORIZATION $role",
		2 => 'RESET SESSION AUTHORIZATION',
		1 => "SELECT set_config('session_authorization', '$role', false)",);
}

sub sequence_command
{
	my $sequence = one_of(qw(s1 s2 s2 s3 u_id_seq));

	return weighted(
		10 => "SELECT nextval('$sequence')",
		5  => "SELECT currval('$sequence')",
		5  => 'SELECT lastval()',
		2  => "SELECT setval('$sequence', "
		  . one_of(1, 5, 7) . ', '
		  . one_of('true', 'false') . ')',
		3 => 'INSERT INTO u (a) VALUES (1), (2) RETURNING id',
		1 => "ALTER SEQUENCE $sequence RESTART" . one_of('', ' WITH 3'),
		1 => 'DISCARD SEQUENCES',
		1 => 'TRUNCATE u RESTART IDENTITY',
		1 => "SELECT nextval('s1'), nextval('s2'), lastval()",);
}

sub cursor_command
{
	my $cursor = one_of('c', 'd');

	return weighted(
		3 => "DECLARE $cursor CURSOR FOR SELECT * FROM t ORDER BY a",
		4 => "DECLARE $cursor "
		  . one_of('', 'BINARY ', 'SCROLL ')
		  . "CURSOR WITH HOLD FOR SELECT a, b, current_user FROM t ORDER BY a",
		6 => 'FETCH '
		  . one_of('1', 'ALL', 'BACKWARD 1', '3')
		  . " FROM $cursor",
		2 => "MOVE 2 IN $cursor",
		4 => "CLOSE $cursor",
		2 => 'CLOSE ALL',);
}

sub temporary_command
{
	return weighted(
		5 => 'CREATE TEMP TABLE tmp (a int, b text)'
		  . one_of('', '', ' ON COMMIT DROP', ' ON COMMIT DELETE ROWS'),
		2 => 'CREATE TEMP VIEW tmp AS SELECT 1 AS a',
		4 => 'INSERT INTO tmp VALUES (1, \'x\')',
		4 => 'SELECT * FROM tmp ORDER BY a',
		6 => 'DROP TABLE IF EXISTS tmp',
		2 => 'DROP VIEW IF EXISTS tmp',
		3 => 'DISCARD TEMP',);
}

# Keys of this pair only, for locks are visible in the whole database.
sub lock_command
{
	my ($self) = @_;
	my $key    = $self->{number} * 10 + int rand 2;
	my $shared = one_of('', '_shared');

	return weighted(
		4 => "SELECT pg_advisory_lock$shared($key)",
		2 => "SELECT pg_try_advisory_lock$shared($key, 1)",
		2 => "SELECT pg_advisory_xact_lock$shared($key)",
		6 => "SELECT pg_advisory_unlock$shared($key)",
		2 => "SELECT pg_advisory_unlock$shared($key, 1)",
		4 => 'SELECT pg_advisory_unlock_all()',);
}

sub listen_command
{
	my ($self) = @_;
	my $channel = "channel_$self->{number}" . one_of('', '', '_b');

	return weighted(
		4 => "LISTEN $channel",
		5 => "NOTIFY $channel, 'hello'",
		2 => "SELECT pg_notify('$channel', 'function')",
		4 => "UNLISTEN $channel",
		4 => 'UNLISTEN *',
		2 => 'SELECT pg_listening_channels()',);
}

# What is done to tables under the statements that use them.
sub definition_command
{
	my ($self) = @_;
	my $schema = one_of("p$self->{number}", "q$self->{number}");

	return weighted(
		4 => "ALTER TABLE $schema.t ADD COLUMN c int DEFAULT 5",
		4 => "ALTER TABLE $schema.t DROP COLUMN IF EXISTS c",
		1 => "ALTER TABLE $schema.t ALTER COLUMN b TYPE varchar(100)",
		1 => "ALTER TABLE $schema.t ALTER COLUMN b TYPE text",
		1 => "ALTER TABLE $schema.t RENAME COLUMN b TO bb",
		1 => "ALTER TABLE $schema.t RENAME COLUMN bb TO b",
		1 =>
		  "CREATE OR REPLACE FUNCTION $schema.g(text) RETURNS text LANGUAGE sql AS 'SELECT ''replaced'''",
		1 => "DROP SEQUENCE IF EXISTS $schema.s1",
		1 => "CREATE SEQUENCE IF NOT EXISTS $schema.s1",
		1 => "CREATE INDEX ON $schema.t (b)",
		1 => "ANALYZE $schema.t",
		1 =>
		  "ALTER TABLE $schema.u ADD COLUMN n int GENERATED ALWAYS AS IDENTITY",
		1 => "ALTER TABLE $schema.u DROP COLUMN IF EXISTS n",
		1 => "GRANT SELECT ON $schema.u TO twins_a",
		1 => "REVOKE SELECT ON $schema.t FROM twins_a",
		1 => "TRUNCATE $schema.logged",);
}

# Questions whose answers tell how the session is.
my @questions = (
	q{SELECT name, statement, parameter_types::text, from_sql, generic_plans, custom_plans
		FROM pg_prepared_statements ORDER BY name},
	q{SELECT name, setting, reset_val FROM pg_settings WHERE source = 'session' AND name !~ '^auto_explain' ORDER BY name},
	q{SELECT name, setting, reset_val, source, boot_val FROM pg_settings WHERE name !~ '^auto_explain' ORDER BY name},
	q{SELECT name, statement, is_holdable, is_binary, is_scrollable FROM pg_cursors ORDER BY name},
	q{SELECT objid, objsubid, mode FROM pg_locks
		WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1, 2, 3},
	q{SELECT current_user, session_user, current_schemas(true) IS NOT NULL},
	q{SELECT current_setting('my.a', true), current_setting('my.b', true),
		current_setting('other.c', true), current_setting('my.f', true)},
	q{SELECT current_setting('my.trigger', true), current_setting('my.kept', true),
		current_setting('my.lost', true), current_setting('my.before', true)},
	q{SELECT current_setting('search_path'), current_setting('TimeZone'),
		current_setting('role'), current_setting('is_superuser'), current_setting('transaction_isolation')},
	q{SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() ORDER BY 1},
	q{SELECT pg_listening_channels()},
	q{SELECT b FROM t ORDER BY a LIMIT 1},
	q{SELECT timestamptz '2024-01-01 12:00+00', interval '36 hours', 1.1::float4, '\x00'::bytea},
);

sub other_command
{
	return weighted(
		2 => 'SELECT 10 / 0',
		1 => 'SELEKT 1',
		1 => 'SELECT 1; SELECT 2; SELECT nowhere',
		1 =>
		  'BEGIN; SET LOCAL my.a = \'in\'; SET my.b = \'stays\'; COMMIT; SHOW my.a',
		1 => 'SET my.a = \'implicit\'; SELECT 10 / 0',
		1 =>
		  'PREPARE a AS SELECT 1; EXECUTE a; PREPARE b AS SELECT \'behind\'; EXECUTE b',
		1 => 'DEALLOCATE ALL; PREPARE d AS SELECT 2; SELECT 1',
		3 => 'DISCARD ALL',
		2 => '',
		1 => 'LOAD \'auto_explain\'',
		1 => 'PREPARE TRANSACTION \'x\'',
		1 => 'VACUUM t',
		1 => 'SHOW ' . one_of(@settings),
		1 => 'SET TRANSACTION ISOLATION LEVEL SERIALIZABLE',
		1 => 'SET CONSTRAINTS ALL DEFERRED',
		1 => 'CHECKPOINT',);
}

sub transaction_command
{
	my ($self, $status) = @_;
	my $name = one_of('a', 'b');

	return weighted(
		8 => 'BEGIN'
		  . one_of('', '', ' READ ONLY', ' ISOLATION LEVEL REPEATABLE READ'),
		1 => 'COMMIT') if $status eq 'I';
	return weighted(
		6 => 'COMMIT',
		6 => 'ROLLBACK',
		1 => 'COMMIT AND CHAIN',
		1 => 'BEGIN',
		5 => "SAVEPOINT $name",
		3 => "RELEASE $name",
		6 => "ROLLBACK TO $name",);
}

# -----------------------------------------------------------------------
# Steps

sub new
{
	my ($class, $number) = @_;

	return bless {
		number => $number,
		paths  => [
			"p$number",           "q$number",
			"q$number, p$number", 'public',
			"p$number, public",   '""'
		],
		prepared => {},
		given_up => 0,
	}, $class;
}

# What a pair connects with: always a schema of its own.
sub connect_params
{
	my ($self) = @_;
	my @options;

	foreach (1 .. rand 4)
	{
		my $setting = setting();
		my $value   = $self->value_of($setting);

		push @options, "-c $setting=" . $value =~ s/([ \\])/\\$1/gr
		  if $setting =~
		  /Style|TimeZone|work_mem|my|other|plan_cache|extra|bytea/
		  && $value !~ /nowhere|bad/;
	}
	return {
		options => join(' ', "-c search_path=$self->{paths}[0]", @options),
		maybe(0.3) ? (client_encoding => one_of(qw(UTF8 LATIN1))) : (),
		maybe(0.5)
		? (application_name => one_of('startup', 'settings', undef))
		: (),
		maybe(0.2) ? (DateStyle => one_of('SQL', 'German', 'MDY')) : (),
	};
}

sub step
{
	my ($self, $status) = @_;

	$self->{given_up} = 0;
	return [ [ Query => $self->transaction_command($status) ] ]
	  if maybe($status eq 'E' ? 0.6 : $status eq 'T' ? 0.15 : 0.06);
	my $kind = weighted(
		20 => 'set_command',
		15 => 'statement_command',
		4  => 'identity_command',
		6  => 'sequence_command',
		3  => 'cursor_command',
		3  => 'temporary_command',
		3  => 'lock_command',
		3  => 'listen_command',
		3  => 'definition_command',
		5  => 'other_command',
		15 => 'question',
		25 => 'messages',
		3  => 'copy',
		2  => 'call',
		1  => 'reconnect',);

	return $self->$kind($status) if $kind !~ /command/;
	my $sql = $self->$kind;
	$self->{prepared} = {} if $sql =~ /(DISCARD|DEALLOCATE) ALL/;
	delete $self->{prepared}{''};
	return [ [ Query => $sql ] ] if maybe(0.7);
	return [
		[ Parse    => '',  $sql ],
		[ Bind     => '',  '' ],
		[ Describe => 'P', '' ],
		[ Execute  => '' ],
		['Sync']
	];
}

sub question
{
	my ($self) = @_;
	return [ [ Query => one_of(@questions) ] ];
}

sub reconnect
{
	my ($self) = @_;

	$self->{prepared} = {};
	return [
		[
			Connect => one_of(qw(terminate terminate close reset)),
			$self->connect_params
		]
	];
}

# A step towards not keeping a slot any more.
sub give_up
{
	my ($self, $status) = @_;
	my $tries = $self->{given_up}++;

	return [ [ Query => one_of('COMMIT', 'ROLLBACK', 'ROLLBACK') ] ]
	  if $status ne 'I';
	return $self->reconnect if $tries > 1;
	$self->{prepared} = {};
	return [ [ Query => 'DISCARD ALL' ] ];
}

# set_config(), current_setting(), and a function that does not exist.
sub call
{
	my ($self) = @_;
	my $setting = setting();

	return [
		weighted(
			3 => [ Call => 2078, $setting, $self->value_of($setting), 'f' ],
			2 => [ Call => 2077, $setting ],
			1 => [ Call => 1 ])
	];
}

sub copy
{
	my ($self) = @_;
	# nobody may execute COPY FROM who does not send data
	my @data = (
		[ CopyData => "5\t1\n6\t2\n" ],
		maybe(0.3) ? [ CopyData => "x\tno\n" ] : (),
		maybe(0.8) ? ['CopyDone'] : [ CopyFail => 'no more' ]);

	return weighted(
		2 => [ [ Query => 'COPY (SELECT * FROM t ORDER BY a) TO STDOUT' ] ],
		2 => [ [ Query => 'COPY u (id, a) FROM STDIN' ], @data ],
		1 => [
			[ Query => 'COPY u (a) FROM STDIN' ],
			map { [ $_->[0], ($_->[1] // '') =~ s/\t.//gr ] } @data
		],
		1 => [
			[ Parse   => '', 'COPY u (id, a) FROM STDIN' ],
			[ Bind    => '', '' ],
			[ Execute => '' ],
			@data, [ Close => 'S', '' ], ['Sync']
		],
		1 => [
			[ Parse   => '', 'COPY (SELECT * FROM t ORDER BY a) TO STDOUT' ],
			[ Bind    => '', '' ],
			[ Execute => '' ], ['Sync']
		]);
}

# Messages of the extended protocol, in groups that make some sense.
sub messages
{
	my ($self) = @_;
	my @messages;

	foreach (0 .. rand 5)
	{
		my $name   = weighted(2 => '', 3 => $self->used_name);
		my $portal = weighted(5 => '', 1 => one_of('x', 'y'));

		push @messages,
		  @{
			weighted(
				6 =>
				  $self->parse_messages(weighted(2 => '', 3 => new_name())),
				8 => $self->run_messages($name, $portal),
				2 => [ [ Describe => 'S',              $name ] ],
				1 => [ [ Execute  => one_of('x', 'y'), int rand 3 ] ],
				1 => [ [ Describe => 'P',              $portal ] ],
				1 => [ [ Close    => 'S',              $name ] ],
				1 => [ [ Close    => 'P',              $portal ] ],
				1 => [ ['Flush'] ],
				2 => [ ['Sync'] ],
				1 => [ ['Sync'], [ Query => $self->statement_command ] ])
		  };
	}
	return [ @messages, ['Sync'] ];
}

sub parse_messages
{
	my ($self, $name) = @_;
	my $query = maybe(0.15) ? one_of(@utilities) : one_of(@queries);
	my ($text, @parameters) = @$query;
	my @types = map { maybe(0.7) ? 0 : $_ == \&number ? 23 : 25 } @parameters;

	$self->{prepared}{$name} = $query;
	return [
		$name ne '' && maybe(0.6) ? [ Close => 'S', $name ] : (),
		[ Parse => $name, $text, maybe(0.5) ? @types : () ]
	];
}

sub run_messages
{
	my ($self, $name, $portal) = @_;
	my (undef, @parameters) = @{ $self->{prepared}{$name} || [''] };
	my @values = map { my $value = $_->(); $value eq 'NULL' ? undef : $value }
	  @parameters;

	push @values, '1' if maybe(0.03);
	return [
		[ Bind => $portal, $name, @values ],
		maybe(0.6) ? [ Describe => 'P', $portal ] : (),
		[ Execute => $portal, maybe(0.8) ? 0 : 1 ],
		maybe(0.2) ? [ Execute => $portal, 0 ] : ()
	];
}

1;
