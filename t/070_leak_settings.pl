# Copyright (c) pool_worker contributors

# Leak suite: settings.  A client sets something, in every way there is, to
# every kind of setting; the next client on its slot must have the values of a
# new session, and the client itself its own, on whatever slot it is served.
# How that is tried says LeakSuite.pm.

use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::RealBin;
use LeakSuite;

my $suite = LeakSuite->new(
	sql => q{
	CREATE TABLE t (a int);
	CREATE TABLE row_trigger (a int);
	CREATE TABLE statement_trigger (a int);
	CREATE TABLE at_commit (a int);
	CREATE TABLE by_default (a int, b text DEFAULT set_config('work_mem', '72kB', false));
	CREATE TABLE by_policy AS SELECT 1 AS a;
	CREATE FUNCTION in_sql(value text) RETURNS text LANGUAGE sql AS
		$$SELECT set_config('work_mem', value, false)$$;
	CREATE FUNCTION in_atomic(value text) RETURNS text
		BEGIN ATOMIC SELECT set_config('work_mem', value, false); END;
	CREATE FUNCTION in_plpgsql(value text) RETURNS text LANGUAGE plpgsql AS
		$$BEGIN RETURN set_config('work_mem', value, false); END$$;
	CREATE FUNCTION by_execute(value text) RETURNS void LANGUAGE plpgsql AS
		$$BEGIN EXECUTE format('SET work_mem = %L', value); END$$;
	CREATE FUNCTION in_block(value text) RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM set_config('work_mem', value, false);
			PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN
			RETURN current_setting('work_mem');
		END$$;
	CREATE FUNCTION with_setting() RETURNS text LANGUAGE plpgsql SET work_mem = '90kB' AS
		$$BEGIN RETURN current_setting('work_mem'); END$$;
	CREATE FUNCTION with_setting_changed(value text) RETURNS text LANGUAGE plpgsql
		SET work_mem = '90kB' AS $$BEGIN RETURN set_config('work_mem', value, false); END$$;
	CREATE FUNCTION called(value text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
		$$BEGIN RETURN set_config('work_mem', value, false) IS NOT NULL; END$$;
	CREATE FUNCTION joined(a text, value text) RETURNS text LANGUAGE plpgsql AS
		$$BEGIN RETURN set_config('work_mem', value, false); END$$;
	CREATE OPERATOR =>> (FUNCTION = joined, LEFTARG = text, RIGHTARG = text);
	CREATE AGGREGATE in_aggregate(text) (SFUNC = joined, STYPE = text, INITCOND = '');
	CREATE DOMAIN in_domain AS text CHECK (called(VALUE));
	CREATE TABLE by_check (a text CHECK (called(a)));
	CREATE TABLE by_index (a text);
	CREATE INDEX ON by_index (called(a));
	CREATE TABLE generated (a text, b bool GENERATED ALWAYS AS (called(a)) STORED);
	CREATE VIEW in_view AS SELECT set_config('work_mem', '72kB', false);
	CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN PERFORM set_config('work_mem', '72kB', false); RETURN NEW; END$$;
	CREATE TRIGGER fires BEFORE INSERT ON row_trigger FOR EACH ROW EXECUTE FUNCTION fires();
	CREATE TRIGGER fires AFTER DELETE ON statement_trigger EXECUTE FUNCTION fires();
	CREATE CONSTRAINT TRIGGER fires AFTER INSERT ON at_commit
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fires();
	ALTER TABLE by_policy ENABLE ROW LEVEL SECURITY;
	ALTER TABLE by_policy FORCE ROW LEVEL SECURITY;
	CREATE POLICY sets ON by_policy USING (called('72kB'));
	CREATE PROCEDURE commits(fails bool) LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM set_config('work_mem', '72kB', false);
			COMMIT;
			PERFORM set_config('work_mem', '73kB', false);
			IF fails THEN PERFORM 1 / 0; END IF;
		END$$},
	superuser_sql => [
		'CREATE EXTENSION pg_trgm',
		'CREATE ROLE configured LOGIN IN ROLE other',
		q{ALTER ROLE configured SET work_mem = '65kB'},
		q{ALTER ROLE configured SET my.role = 'of the role'},
		q{ALTER ROLE configured SET application_name = 'of the role'},
		q{ALTER ROLE configured IN DATABASE postgres SET lock_timeout = '66s'},
		q{ALTER DATABASE postgres SET my.database = 'of the database'},
		'GRANT USAGE ON SCHEMA public TO configured',
		q{CREATE FUNCTION alias(text, text, bool) RETURNS text
			LANGUAGE internal AS 'set_config_by_name'},
		q{CREATE FUNCTION as_definer(text, text) RETURNS text
			LANGUAGE sql SECURITY DEFINER AS 'SELECT set_config($1, $2, false)'},
	]);

my $work_mem =
  q{SELECT setting, source, reset_val FROM pg_settings WHERE name = 'work_mem'};
my $var =
  q{SELECT current_setting('my.var'), current_setting('my.var', true)};
my $who = q{SELECT session_user, current_user, current_setting('role'),
	current_setting('session_authorization'), current_setting('is_superuser'),
	pg_has_role('pg_monitor', 'member')};
my $path = [ 'SHOW search_path', 'SELECT place FROM place' ];

sub setting
{
	my $names = join ', ', map { "'$_'" } @_;
	return qq{SELECT name, setting, reset_val, source FROM pg_settings
		WHERE name IN ($names) ORDER BY name};
}

# One of every kind, and those that others depend on.
my %values = (
	array_nulls                         => 'off',
	backslash_quote                     => 'on',
	bytea_output                        => 'escape',
	check_function_bodies               => 'off',
	client_min_messages                 => 'warning',
	cursor_tuple_fraction               => '0.25',
	default_text_search_config          => 'simple',
	default_transaction_deferrable      => 'on',
	default_transaction_isolation       => 'serializable',
	enable_seqscan                      => 'off',
	escape_string_warning               => 'off',
	extra_float_digits                  => '-3',
	geqo_seed                           => '0.125',
	idle_in_transaction_session_timeout => '63s',
	idle_session_timeout                => '64s',
	IntervalStyle                       => 'sql_standard',
	jit_above_cost                      => '123456',
	lc_monetary                         => 'POSIX',
	lock_timeout                        => '62s',
	maintenance_work_mem                => '2MB',
	plan_cache_mode                     => 'force_custom_plan',
	quote_all_identifiers               => 'on',
	row_security                        => 'off',
	standard_conforming_strings         => 'off',
	statement_timeout                   => '61s',
	synchronous_commit                  => 'local',
	temp_buffers                        => '1MB',
	transform_null_equals               => 'on',
	vacuum_cost_delay                   => '2.5',
	xmloption                           => 'document',);
my @every = sort keys %values;

my %configured = (
	user  => 'configured',
	check => [
		setting(
			qw(work_mem lock_timeout extra_float_digits TimeZone DateStyle search_path application_name)
		),
		q{SELECT current_setting('my.role'), current_setting('my.database'),
		current_setting('my.var', true)}
	],
	probe =>
	  q{SELECT current_setting('my.role'), current_setting('my.database')},
	retire => 1);
my $shown = { columns => [qw(name do check)] };

$suite->run(
	# 1. SET
	table(
		$shown,
		[
			'SET',     q{SET work_mem = '71kB'},
			$work_mem, undo => 'RESET work_mem'
		],
		[
			'SET to the value it has',
			q{SET work_mem = '4MB'},
			$work_mem,
			undo => 'SET work_mem TO DEFAULT'
		],
		[
			'SET and RESET',
			[ q{SET work_mem = '71kB'}, 'RESET work_mem' ], $work_mem
		],
		[
			'SET of one of every kind',
			[ map { "SET $_ = '$values{$_}'" } @every ],
			setting(@every),
			undo => 'RESET ALL'
		],
		[
			'all in one query',
			join('; ', map { "SET $_ = '$values{$_}'" } @every),
			setting(@every), undo => 'DISCARD ALL'
		],
		[
			'SET that fails',
			[
				q{SET work_mem = '1'},
				q{SET work_mem = 'much'},
				'SET nothing = 1',
				q{SET work_mem = '71kB'},
				q{SET work_mem = '1'}
			],
			$work_mem
		],
		[
			'SET by the extended protocol',
			extended(q{SET work_mem = '71kB'}),
			$work_mem
		],
		[ 'an empty search_path', q{SET search_path = ''}, $path ],
		[
			'a search_path with quotes',
			q{SET search_path = "no ""such"" place", elsewhere, pg_temp},
			$path
		],
		[
			'search_path by set_config()',
			q{SELECT set_config('search_path', '', false)},
			$path,
			undo => 'RESET search_path'
		],
		[
			'a setting with an empty value',
			q{SET default_tablespace = ''},
			'SHOW default_tablespace'
		],
		[
			'session characteristics',
			'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY',
			[
				'SHOW transaction_isolation',
				'CREATE TABLE no (a int); DROP TABLE no',
				'BEGIN',
				'SHOW transaction_read_only',
				'ROLLBACK'
			],
			undo => 'SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE'
		],
		[
			'transaction characteristics',
			'BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY; COMMIT',
			[ 'SHOW transaction_isolation', 'SHOW transaction_read_only' ]
		],
		[
			'settings of the connection, by TCP',
			'SET tcp_keepalives_idle = 99; SET tcp_user_timeout = 98000',
			[ 'SHOW tcp_keepalives_idle', 'SHOW tcp_user_timeout' ],
			startup => { host => '127.0.0.1' },
			probe   => [ 'SHOW tcp_keepalives_idle', 'SHOW tcp_user_timeout' ]
		],

		# 1. SET of what no module has defined, or not yet
		[
			'a placeholder', q{SET my.var = 'own'}, $var,
			undo   => 'RESET my.var',
			retire => 1
		],
		[
			'placeholders, by DISCARD',
			q{SET my.var = 'own'; SET "my".other = ''},
			[ $var, 'SHOW my.other' ],
			undo   => 'DISCARD ALL',
			probe  => 'SHOW my.other',
			retire => 1
		],
		[
			'a placeholder in a transaction that fails',
			[ q{BEGIN; SET my.var = 'own'}, 'ROLLBACK' ],
			$var,
			retire => 1
		],
		[
			'a placeholder set locally',
			q{BEGIN; SET LOCAL my.var = 'own'; COMMIT},
			$var, retire => 1
		],
		[
			'a placeholder by set_config(), locally',
			q{SELECT set_config('my.var', 'own', true)},
			$var, retire => 1
		],
		[
			'a placeholder, local over session',
			[
				q{BEGIN; SET my.var = 'own'; SET LOCAL my.var = 'local'},
				$var, 'COMMIT'
			],
			$var,
			retire => 1
		],
		[
			'a placeholder in a function with a setting',
			[
				q{CREATE FUNCTION with_var() RETURNS text LANGUAGE sql SET my.var = 'inside' AS
				$$SELECT current_setting('my.var')$$},
				'SELECT with_var()'
			],
			$var,
			after  => 'DROP FUNCTION IF EXISTS with_var()',
			retire => 1
		],
		[
			'a placeholder with all bytes that there are',
			q{SELECT set_config('my.var', E'quote '' "\\\\ \n\t' || chr(127), false)},
			$var,
			retire => 1
		],
		[
			'a long placeholder',
			q{SELECT length(set_config('my.var', repeat('long ', 20000), false))},
			q{SELECT md5(current_setting('my.var'))},
			retire => 1
		],
		[
			'many placeholders',
			q{SELECT count(set_config('my.n' || n, n::text, false)) FROM generate_series(1, 200) n},
			[
				q{SELECT sum(current_setting('my.n' || n)::int) FROM generate_series(1, 200) n},
				'SHOW my.n201'
			],
			probe  => 'SHOW my.n1',
			retire => 1
		],
		[
			'a name that cannot be',
			[
				q{SET my.3d = 'no'},
				q{SELECT set_config('my.bad name', 'no', false)}
			],
			[ 'SHOW "my.bad name"', $var ]
		],
		[
			'a setting of an extension that is not loaded',
			q{SET pg_trgm.similarity_threshold = 0.9},
			[
				'SHOW pg_trgm.similarity_threshold',
				q{SELECT public.show_limit(), 'word' OPERATOR(public.%) 'words'}
			],
			probe  => 'SELECT show_limit()',
			retire => 1
		],
		[
			'a setting of an extension that is loaded',
			[
				'SELECT show_limit()',
				'SET pg_trgm.similarity_threshold = 0.9'
			],
			[
				'SHOW pg_trgm.similarity_threshold',
				q{SELECT public.show_limit(), 'word' OPERATOR(public.%) 'words'}
			],
			undo   => 'RESET pg_trgm.similarity_threshold',
			probe  => 'SELECT show_limit()',
			retire => 1
		],
		[
			'a setting that a function of its extension sets',
			'SELECT set_limit(0.8)',
			'SELECT show_limit()',
			undo   => 'RESET ALL',
			probe  => 'SELECT show_limit()',
			retire => 1
		],
		[
			'a string of an extension',
			[
				'DO $$BEGIN END$$',
				q{SET plpgsql.extra_warnings = 'shadowed_variables'}
			],
			[
				'SHOW plpgsql.extra_warnings',
				q{DO $$DECLARE a int; BEGIN DECLARE a int; BEGIN END; END$$}
			],
			undo  => 'RESET plpgsql.extra_warnings',
			probe =>
			  q{DO $$DECLARE a int; BEGIN DECLARE a int; BEGIN END; END$$}
		],

		# 1. with other rights than those with which it was set
		[
			'what only superusers may set',
			q{SET log_min_duration_statement = '99s'; SET session_replication_role = replica},
			setting(qw(log_min_duration_statement session_replication_role)),
			user => 'boss',
			undo => 'RESET ALL'
		],
		[
			'what only superusers may set, as another role',
			[
				q{SET log_min_duration_statement = '99s'},
				'SET lc_messages = "C"',
				'SET ROLE other'
			],
			[
				setting(qw(log_min_duration_statement lc_messages)),
				$who,
				'RESET log_min_duration_statement',
				q{SET log_min_duration_statement = '98s'}
			],
			user => 'boss',
			undo => 'RESET ROLE; RESET ALL'
		],
		[
			'what only superusers may set, as another user',
			[ 'SET log_lock_waits = on', 'SET SESSION AUTHORIZATION other' ],
			[ setting('log_lock_waits'), $who, 'RESET log_lock_waits' ],
			user => 'boss',
			undo => 'RESET SESSION AUTHORIZATION; RESET log_lock_waits'
		],
		[
			'what only superusers may set, by a function that is one',
			q{SELECT as_definer('log_min_duration_statement', '97s')},
			[
				setting('log_min_duration_statement'),
				'RESET log_min_duration_statement',
				'RESET ALL',
				setting('log_min_duration_statement')
			]
		],
		[
			'a right that is revoked meanwhile',
			[
				q{SET log_min_duration_statement = '96s'},
				aside(
					'REVOKE SET ON PARAMETER log_min_duration_statement FROM alice'
				)
			],
			[
				setting('log_min_duration_statement'),
				q{SET log_min_duration_statement = '95s'}
			],
			before =>
			  'GRANT SET ON PARAMETER log_min_duration_statement TO alice'
		],
		[
			'a value that is no longer valid',
			[
				q{SET default_text_search_config = 'public.doomed'},
				aside('DROP TEXT SEARCH CONFIGURATION doomed')
			],
			[
				'SHOW default_text_search_config',
				q{SELECT to_tsvector('words')}
			],
			before =>
			  'CREATE TEXT SEARCH CONFIGURATION doomed (COPY = simple)',
			undo => 'RESET default_text_search_config'
		],

	),
	# 2. set_config() and its like, wherever a function may be called
	table(
		{ check => $work_mem },
		[ 'set_config()', q{SELECT set_config('work_mem', '72kB', false)} ],
		[ '... locally',  q{SELECT set_config('work_mem', '72kB', true)} ],
		[
			'... for many rows',
			q{SELECT set_config('work_mem', n || 'kB', false) FROM generate_series(70, 79) n}
		],
		[
			'... in WHERE',
			q{SELECT 1 WHERE set_config('work_mem', '72kB', false) = ''}
		],
		[
			'... in a query of a query',
			q{WITH c AS MATERIALIZED (SELECT set_config('work_mem', '72kB', false)) TABLE c}
		],
		[
			'... with a parameter',
			extended(q{SELECT set_config('work_mem', $1, $2)}, '72kB', 'f')
		],
		[
			'... by a function call message',
			call(2078, 'work_mem', '72kB', 'f')
		],
		[ '... in an SQL function',         q{SELECT in_sql('72kB')} ],
		[ '... in a standard SQL function', q{SELECT in_atomic('72kB')} ],
		[ '... in plpgsql',                 q{SELECT in_plpgsql('72kB')} ],
		[ '... by another name', q{SELECT alias('work_mem', '72kB', false)} ],
		[ 'SET by EXECUTE',      q{SELECT by_execute('72kB')} ],
		[ 'SET in DO',           q{DO $$BEGIN SET work_mem = '72kB'; END$$} ],
		[ 'set_config() in a block that fails', q{SELECT in_block('72kB')} ],
		[
			'... before it',
			[ q{SET work_mem = '73kB'}, q{SELECT in_block('72kB')} ]
		],
		[ 'a function with the setting', 'SELECT with_setting()' ],
		[
			'a function with the setting, which it changes',
			q{SELECT with_setting_changed('72kB')}
		],
		[ 'set_config() in an operator', q{SELECT '' =>> '72kB'} ],
		[ '... in an aggregate',         q{SELECT in_aggregate('72kB')} ],
		[ '... in a domain',             q{SELECT '72kB'::in_domain} ],
		[ '... in a view',               'TABLE in_view' ],
		[ '... in a policy',             'TABLE by_policy' ],
		[ '... in a default', 'INSERT INTO by_default (a) VALUES (1)' ],
		[ '... in a check',   q{INSERT INTO by_check VALUES ('72kB')} ],
		[ '... in an index',  q{INSERT INTO by_index VALUES ('72kB')} ],
		[
			'... in a generated column',
			q{INSERT INTO generated VALUES ('72kB')}
		],
		[
			'... in RETURNING',
			q{INSERT INTO t VALUES (1) RETURNING in_sql('72kB')}
		],
		[
			'... in MERGE',
			q{MERGE INTO t USING (SELECT -1 AS b) s ON a = b
				WHEN NOT MATCHED AND called('72kB') THEN DO NOTHING}
		],
		[
			'... in a trigger for a row',
			'INSERT INTO row_trigger VALUES (1)'
		],
		[ '... for a statement', 'DELETE FROM statement_trigger' ],
		[
			'... at COMMIT',
			[ 'BEGIN', 'INSERT INTO at_commit VALUES (1)', 'COMMIT' ]
		],
		[
			'... by COPY',
			sub {
				my ($wire) = @_;
				$wire->ask('COPY row_trigger FROM STDIN');
				$wire->send(PoolWorker::Wire::msg_copy_data("1\n2\n")
					  . PoolWorker::Wire::msg_copy_done());
				return $wire->answer->{types};
			}
		],
		[
			'... in COPY of a query',
			q{COPY (SELECT set_config('work_mem', '72kB', false)) TO STDOUT}
		],
		[
			'... in EXPLAIN ANALYZE',
			q{DO $$BEGIN EXECUTE 'EXPLAIN ANALYZE SELECT in_plpgsql(''72kB'')'; END$$}
		],
		[
			'... in CREATE TABLE AS',
			q{CREATE TABLE made AS SELECT in_plpgsql('72kB'); DROP TABLE made}
		],
		[
			'... in EXECUTE',
			q{PREPARE sets AS SELECT set_config('work_mem', '72kB', false); EXECUTE sets; DEALLOCATE sets}
		],
		[
			'... by FETCH',
			[
				q{BEGIN; DECLARE c CURSOR FOR SELECT set_config('work_mem', '72kB', false)},
				'FETCH c',
				'COMMIT'
			]
		],
		[
			'... by holding a cursor',
			[
				q{BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT set_config('work_mem', '72kB', false)},
				'COMMIT; CLOSE c'
			]
		],
		[ '... in a procedure that commits', 'CALL commits(false)' ],
		[ '... and fails afterwards',        'CALL commits(true)' ],
		[
			'... beside an error',
			q{SELECT set_config('work_mem', '72kB', false), 1 / (random() < 0)::int}
		]),

	# 3. in transactions
	table(
		{ check => [ $work_mem, 'SHOW DateStyle' ] },
		[
			'BEGIN, SET, COMMIT',
			[
				'BEGIN',                     q{SET work_mem = '73kB'},
				q{SET DateStyle = 'German'}, 'COMMIT'
			]
		],
		[
			'BEGIN, SET, ROLLBACK',
			[
				'BEGIN',                     q{SET work_mem = '73kB'},
				q{SET DateStyle = 'German'}, 'ROLLBACK'
			]
		],
		[
			'SET before a transaction that fails',
			[
				q{SET work_mem = '73kB'},
				'BEGIN',
				q{SET work_mem = '74kB'; SET DateStyle = 'German'},
				'SELECT 1 / 0',
				q{SET work_mem = '75kB'},
				'COMMIT'
			]
		],
		[
			'SET beside an error in one query',
			q{SET work_mem = '73kB'; SET DateStyle = 'German'; SELECT 1 / 0}
		],
		[
			'SET before COMMIT in one query, then an error',
			q{BEGIN; SET work_mem = '73kB'; COMMIT; SET work_mem = '74kB'; SELECT 1 / 0}
		],
		[
			'SET in a savepoint',
			[
				'BEGIN',
				q{SET work_mem = '73kB'},
				'SAVEPOINT a',
				q{SET work_mem = '74kB'; SET DateStyle = 'German'},
				'ROLLBACK TO a',
				'COMMIT'
			]
		],
		[
			'SET in a savepoint that is released',
			[
				'BEGIN; SAVEPOINT a',
				q{SET work_mem = '74kB'},
				'RELEASE a',
				'COMMIT'
			]
		],
		[
			'SET LOCAL',
			[
				'BEGIN',         q{SET LOCAL work_mem = '73kB'},
				'SHOW work_mem', 'COMMIT'
			]
		],
		[ 'SET LOCAL outside', q{SET LOCAL work_mem = '73kB'} ],
		[
			'SET, then SET LOCAL',
			[
				'BEGIN',
				q{SET work_mem = '73kB'; SET LOCAL work_mem = '74kB'},
				'SHOW work_mem', 'COMMIT'
			]
		],
		[
			'SET LOCAL, then SET',
			[
				'BEGIN',
				q{SET LOCAL work_mem = '74kB'; SET work_mem = '73kB'},
				'SHOW work_mem', 'COMMIT'
			]
		],
		[
			'RESET in a transaction that fails',
			[ q{SET work_mem = '73kB'}, 'BEGIN; RESET work_mem', 'ROLLBACK' ]
		],
		[
			'DISCARD ALL in a transaction',
			[ q{SET work_mem = '73kB'}, 'BEGIN', 'DISCARD ALL', 'ROLLBACK' ]
		],
		[
			'SET in a pipeline that fails',
			pipeline(
				extended(q{SET work_mem = '73kB'}),
				group(
					Parse('', q{SET work_mem = '74kB'}),
					Bind('', ''),
					Execute(''),
					Parse('', 'SELECT 1 / 0'),
					Bind('', ''),
					Execute('')))
		],
		[
			'a transaction in a pipeline',
			pipeline(
				'BEGIN',
				extended(q{SET work_mem = '73kB'}),
				extended(q{SET LOCAL DateStyle = 'German'}), 'COMMIT')
		],
		[
			'COMMIT AND CHAIN',
			[
				'BEGIN',
				q{SET work_mem = '73kB'; SET LOCAL DateStyle = 'German'},
				'COMMIT AND CHAIN',
				'SHOW DateStyle', 'ROLLBACK'
			]
		]),

	# 5. what RESET goes back to
	table(
		{ columns => [qw(name startup do)], %configured },
		[ 'settings of a role', {}, [] ],
		[
			'RESET to that of a role',
			{}, [ q{SET work_mem = '75kB'}, 'RESET work_mem' ]
		],
		[ 'SET to that of a role', {}, q{SET work_mem = '65kB'} ],
		[
			'RESET of a placeholder of a role',
			{},
			[
				q{SET my.role = 'mine'; SET my.database = 'mine'},
				'RESET my.role'
			]
		],
		[
			'DISCARD ALL, back to those of a role',
			{},
			[
				q{SET work_mem = '75kB'; SET lock_timeout = 0; SET my.role = 'mine'},
				'DISCARD ALL'
			]
		],
		[ 'options', { options => '-c work_mem=77kB' }, [] ],
		[
			'options, SET',
			{ options => '-c work_mem=77kB --lock-timeout=7s' },
			q{SET work_mem = '78kB'; SET lock_timeout = '8s'}
		],
		[
			'options, RESET',
			{ options => '-c work_mem=77kB' },
			[ q{SET work_mem = '78kB'}, 'RESET work_mem' ]
		],
		[
			'options, RESET ALL',
			{ options => '-c work_mem=77kB', TimeZone => 'Asia/Tokyo' },
			[ q{SET work_mem = '78kB'; SET TIME ZONE 'UTC'}, 'RESET ALL' ]
		],
		[
			'options, DISCARD ALL',
			{ options => '-c work_mem=77kB -c my.var=packet' },
			[
				q{SET work_mem = '78kB'; SET my.var = 'session'},
				'DISCARD ALL'
			]
		],
		[
			'options, DISCARD ALL in a transaction that fails',
			{ options => '-c work_mem=77kB' },
			[
				q{SET work_mem = '78kB'},               'BEGIN',
				q{SET work_mem = '79kB'; SELECT 1 / 0}, 'ROLLBACK'
			]
		],
		[ 'a placeholder in the packet', { 'my.var' => 'packet' }, [] ],
		[
			'a placeholder in the packet, RESET',
			{ 'my.var' => 'packet' },
			[ q{SET my.var = 'session'}, 'RESET my.var' ]
		],
		[
			'a placeholder in the packet, SET LOCAL',
			{ 'my.var' => 'packet' },
			q{BEGIN; SET LOCAL my.var = 'local'; COMMIT}
		],
		[
			'options with spaces',
			{
				options =>
				  '-c search_path=elsewhere,\\ public -c my.var=a\\\\b\\ c'
			},
			[]
		],
		[
			'what drivers send',
			{
				extra_float_digits => 2,
				DateStyle          => 'ISO, DMY',
				TimeZone           => 'Europe/Berlin',
				client_encoding    => 'LATIN1'
			},
			[ q{SET DateStyle = 'SQL'}, 'SHOW client_encoding' ]
		],
		[
			'application_name',
			{ application_name => 'mine' },
			[ q{SET application_name = 'other'}, 'RESET application_name' ]
		],
		[ 'an empty application_name', { application_name => '' },     [] ],
		[ 'no application_name',       { application_name => undef },  [] ],
		[ 'the role',                  { options => '-c role=other' }, $who ],
		[
			'the role, RESET',
			{ role => 'other' },
			[ 'SET ROLE NONE', $who, 'RESET ROLE', $who ]
		],
		[
			'isolation',
			{ options => '-c default_transaction_isolation=serializable' },
			[ 'SHOW transaction_isolation', 'RESET ALL' ]
		],
		[
			'what only a new session may set',
			{ options => '-c ignore_system_indexes=on' },
			'SHOW ignore_system_indexes'
		]),

	# 25. what clients are told of
	table(
		$shown,
		[
			'DateStyle, one half after the other',
			[ q{SET DateStyle = 'German'}, q{SET DateStyle = 'MDY'} ],
			[ 'SHOW DateStyle',            q{SELECT date '1999-02-01'} ],
			undo => 'SET DateStyle TO DEFAULT'
		],
		[
			'TimeZone by name',
			q{SET TIME ZONE 'America/New_York'},
			[ 'SHOW TimeZone', q{SELECT timestamptz '2020-07-01 12:00 UTC'} ],
			undo => 'SET TIME ZONE LOCAL'
		],
		[
			'TimeZone by number',
			'SET TIME ZONE -7.5',
			[ 'SHOW TimeZone', q{SELECT timestamptz '2020-07-01 12:00 UTC'} ],
			undo => 'RESET TIME ZONE'
		],
		[
			'TimeZone by interval',
			q{SET TIME ZONE INTERVAL '+05:30' HOUR TO MINUTE},
			[ 'SHOW TimeZone', q{SELECT timestamptz '2020-07-01 12:00 UTC'} ]
		],
		[
			'TimeZone by rule',
			q{SET TimeZone = 'XYZ3ABC,M3.2.0,M11.1.0'},
			[ 'SHOW TimeZone', q{SELECT timestamptz '2020-07-01 12:00 UTC'} ]
		],
		[
			'client_encoding',
			q{SET NAMES 'LATIN1'},
			[
				'SHOW client_encoding',
				q{SELECT chr(228), U&'\\20ac'},
				"SELECT '\xe4'"
			],
			undo => 'RESET client_encoding'
		],
		[
			'client_encoding in a transaction that fails',
			[
				q{BEGIN; SET client_encoding = 'LATIN1'},
				'SELECT chr(228)',
				'SELECT 1 / 0', 'ROLLBACK'
			],
			[ 'SHOW client_encoding', 'SELECT chr(228)' ]
		],
		[
			'standard_conforming_strings',
			'SET standard_conforming_strings = off',
			q{SELECT 'a\\\\b'},
			undo => 'RESET standard_conforming_strings'
		],
		[
			'application_name',
			q{SET application_name = 'another'},
			[
				'SHOW application_name',
				'SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()'
			],
			undo => 'RESET application_name'
		],
		[
			'set twice to the same',
			[ (q{SET DateStyle = 'German'}) x 2 ],
			'SHOW DateStyle'
		],
		[
			'set and set back',
			q{SET DateStyle = 'German'; SET DateStyle = 'ISO, MDY'},
			'SHOW DateStyle'
		],
		[
			'set locally',
			[
				'BEGIN',    q{SET LOCAL DateStyle = 'German'},
				'SELECT 1', 'COMMIT'
			],
			'SHOW DateStyle'
		],
		[
			'set in a function',
			[q{SELECT set_config('IntervalStyle', 'iso_8601', false)}],
			q{SELECT interval '1 day 2 hours'}
		],
		[
			'a reload of the configuration',
			[
				q{SET TIME ZONE 'Asia/Tokyo'},
				sub {
					$suite->node->set(
						TimeZone  => 'Europe/Paris',
						DateStyle => 'German',
						work_mem  => '70kB');
					return '';
				},
				'SELECT 1'
			],
			[
				setting(qw(TimeZone DateStyle work_mem)),
				'SELECT 1',
				'RESET TIME ZONE',
				setting('TimeZone')
			],
			after => sub {
				$suite->node->set(map { $_ => undef }
					  qw(TimeZone DateStyle work_mem));
			}
		]));

# 4. roles
$suite->run(
	table(
		$shown,
		[ 'SET ROLE', 'SET ROLE other', $who, undo => 'RESET ROLE' ],
		[ 'SET ROLE NONE', [ 'SET ROLE other', 'SET ROLE NONE' ], $who ],
		[
			'SET ROLE, then DISCARD',
			'SET ROLE other',
			$who,
			undo => 'DISCARD ALL'
		],
		[
			'SET ROLE by set_config()',
			q{SELECT set_config('role', 'other', false)},
			$who,
			undo => 'RESET ALL; RESET ROLE'
		],
		[
			'SET ROLE in a transaction that fails',
			[ 'BEGIN; SET ROLE other', $who, 'ROLLBACK' ],
			$who
		],
		[
			'SET LOCAL ROLE',
			[ 'BEGIN; SET LOCAL ROLE other', $who, 'COMMIT' ], $who
		],
		[
			'SET ROLE in a savepoint',
			[
				'BEGIN; SET ROLE other',
				'SAVEPOINT a; RESET ROLE',
				$who,
				'ROLLBACK TO a; COMMIT'
			],
			$who,
			undo => 'RESET ROLE'
		],
		[ 'SET ROLE that is refused', 'SET ROLE boss', $who ],
		[
			'SET ROLE, which RESET ALL does not end',
			[ 'SET ROLE other', 'RESET ALL' ],
			$who,
			undo => q{SELECT set_config('role', 'none', false)}
		],
		[
			'SET ROLE and what it makes',
			[ 'SET ROLE other', 'CREATE TABLE made (a int)' ],
			q{SELECT tableowner FROM pg_tables WHERE tablename = 'made'},
			undo  => 'RESET ROLE; DROP TABLE made',
			after => 'DROP TABLE IF EXISTS made'
		],
		[
			'SET ROLE with less rights, and a setting',
			[
				q{SET work_mem = '71kB'; SET ROLE other; SET lock_timeout = '5s'}
			],
			[ $who, setting(qw(work_mem lock_timeout)) ],
			undo => 'RESET ROLE'
		],
		[
			'SET ROLE of a superuser', 'SET ROLE alice', $who,
			user => 'boss',
			undo => 'RESET ROLE'
		],
		[
			'SET ROLE to a superuser', 'SET ROLE boss', $who,
			before => 'GRANT boss TO alice',
			after  => 'REVOKE boss FROM alice',
			undo   => 'RESET ROLE'
		],
		[
			'SET ROLE, then the right to it is revoked',
			[ 'SET ROLE visited', aside('REVOKE visited FROM alice') ],
			[ $who, 'SET ROLE NONE', 'SET ROLE visited', $who ],
			before => [ 'CREATE ROLE visited', 'GRANT visited TO alice' ],
			after  => 'DROP ROLE visited'
		],
		[
			'SET ROLE, then it is renamed',
			[
				'SET ROLE visited',
				aside('ALTER ROLE visited RENAME TO renamed')
			],
			q{SELECT session_user, current_user},
			before => [ 'CREATE ROLE visited', 'GRANT visited TO alice' ],
			after  => 'DROP ROLE renamed'
		],
		[
			'SET ROLE, then it is dropped',
			[ 'SET ROLE visited', aside('DROP ROLE visited') ],
			sub {
				my $error = $_[0]->ask('SELECT current_user')->{error}
				  or return 'ok';
				return $error->{M} =~ s/\d+/N/r;
			},
			before => [ 'CREATE ROLE visited', 'GRANT visited TO alice' ],
			undo   => 'RESET ROLE'
		],
		[
			'SET SESSION AUTHORIZATION',
			'SET SESSION AUTHORIZATION other',
			$who,
			user => 'boss',
			undo => 'RESET SESSION AUTHORIZATION'
		],
		[
			'SET SESSION AUTHORIZATION, then DISCARD',
			'SET SESSION AUTHORIZATION other',
			$who,
			user => 'boss',
			undo => 'DISCARD ALL'
		],
		[
			'SET SESSION AUTHORIZATION DEFAULT',
			[
				'SET SESSION AUTHORIZATION other',
				'SET SESSION AUTHORIZATION DEFAULT'
			],
			$who,
			user => 'boss'
		],
		[
			'SET SESSION AUTHORIZATION, then SET ROLE',
			[ 'SET SESSION AUTHORIZATION alice', 'SET ROLE other' ],
			$who,
			user => 'boss',
			undo => 'RESET ROLE; RESET SESSION AUTHORIZATION'
		],
		[
			'SET ROLE, then SET SESSION AUTHORIZATION',
			[ 'SET ROLE other', 'SET SESSION AUTHORIZATION alice' ],
			$who,
			user => 'boss',
			undo => 'RESET SESSION AUTHORIZATION'
		],
		[
			'SET SESSION AUTHORIZATION in a transaction that fails',
			[ 'BEGIN; SET SESSION AUTHORIZATION other', $who, 'ROLLBACK' ],
			$who,
			user => 'boss'
		],
		[
			'SET LOCAL SESSION AUTHORIZATION',
			[
				'BEGIN; SET LOCAL SESSION AUTHORIZATION other', $who,
				'COMMIT'
			],
			$who,
			user => 'boss'
		],
		[
			'SET SESSION AUTHORIZATION to a role that could not log in again',
			[
				'SET SESSION AUTHORIZATION visited',
				aside('ALTER ROLE visited NOLOGIN')
			],
			$who,
			user   => 'boss',
			before => 'CREATE ROLE visited LOGIN',
			after  => 'DROP ROLE visited',
			undo   => 'RESET SESSION AUTHORIZATION'
		],
		[
			'a superuser as somebody else, who is told so',
			'SET SESSION AUTHORIZATION alice; SET SESSION AUTHORIZATION other',
			[ $who, 'SET SESSION AUTHORIZATION boss', $who ],
			user => 'boss'
		]));

$suite->done;
