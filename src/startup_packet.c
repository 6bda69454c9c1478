/*-------------------------------------------------------------------------
 *
 * startup_packet.c
 *	  What a client says first: parse it.
 *
 * Runs in: pool worker, and the unit tests, which have no server.
 *
 * The server's own functions for this read from a socket, or set the values
 * as they go, in the process that runs them.  We need the same understanding
 * of the same bytes, but as data: the settings are applied later, by the slot
 * that first serves the client.  So this file follows, and has to be compared
 * with each new major version of,
 *
 *		ProcessStartupPacket() in postmaster.c
 *		process_postgres_switches() in postgres.c
 *
 * One deliberate difference: a packet whose last byte is the first and only
 * letter of a parameter name passes there for a terminated one, and not here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "miscadmin.h"
#include "pg_getopt.h"
#include "utils/builtins.h"

#include "startup_packet.h"

/* as in process_postgres_switches() */
#define SERVER_SWITCHES "B:bc:C:D:d:EeFf:h:ijk:lN:nOPp:r:S:sTt:v:W:-:"

/* A switch that stands for one setting, or for nothing. */
typedef struct PwSwitch
{
	char		flag;
	const char *name;			/* NULL: accepted and ignored */
	const char *value;			/* NULL: the switch's argument */
} PwSwitch;

/* The switches which mean something to the postmaster only are ignored. */
static const PwSwitch switch_settings[] = {
	{'B', "shared_buffers", NULL},
	{'C', NULL, NULL},
	{'D', NULL, NULL},
	{'E', NULL, NULL},
	{'F', "fsync", "false"},
	{'N', "max_connections", NULL},
	{'O', "allow_system_table_mods", "true"},
	{'P', "ignore_system_indexes", "true"},
	{'S', "work_mem", NULL},
	{'T', NULL, NULL},
	{'W', "post_auth_delay", NULL},
	{'b', NULL, NULL},
	{'e', "datestyle", "euro"},
	{'h', "listen_addresses", NULL},
	{'i', "listen_addresses", "*"},
	{'j', NULL, NULL},
	{'k', "unix_socket_directories", NULL},
	{'l', "ssl", "true"},
	{'n', NULL, NULL},
	{'p', "port", NULL},
	{'r', NULL, NULL},
	{'s', "log_statement_stats", "true"},
	{'v', NULL, NULL},
};

/* -f: which kind of plan to disable */
static const PwSwitch plan_settings[] = {
	{'b', "enable_bitmapscan", "false"},
	{'h', "enable_hashjoin", "false"},
	{'i', "enable_indexscan", "false"},
	{'m', "enable_mergejoin", "false"},
	{'n', "enable_nestloop", "false"},
	{'o', "enable_indexonlyscan", "false"},
	{'s', "enable_seqscan", "false"},
	{'t', "enable_tidscan", "false"},
};

static PwStartupKind read_cancel(PwStartup *startup, PwReader *body);
static void read_parameters(PwStartup *startup, PwReader *body,
							const char **replication);
static bool is_physical_or_logical(PwStartup *startup, const char *replication);
static PwStartupKind refuse(PwStartup *startup, int sqlstate,
							const char *message, const char *hint);
static bool apply_switch(int flag, const char *argument, StringInfo settings,
						 PwReport *problem);
static bool apply_long_option(int flag, const char *argument,
							  StringInfo settings, PwReport *problem);
static bool apply_table(const PwSwitch *table, int nrows, int flag,
						const char *argument, StringInfo settings);
static void apply_debug_level(int level, StringInfo settings);
static bool apply_statistics(const char *argument, StringInfo settings);

PwStartupKind
pw_startup_parse(PwStartup *startup, PwReader *body)
{
	uint32		code = pw_read_uint32(body);
	const char *replication = NULL;

	startup->problem = (PwReport)
	{
		.sqlstate = ERRCODE_PROTOCOL_VIOLATION,
			.message = _("invalid length of startup packet"),
	};

	if (code == CANCEL_REQUEST_CODE)
		return read_cancel(startup, body);
	if (code == NEGOTIATE_SSL_CODE && !startup->ssl_requested)
	{
		startup->ssl_requested = true;
		return PW_STARTUP_SSL_REQUEST;
	}
	if (code == NEGOTIATE_GSS_CODE && !startup->gss_requested)
	{
		startup->gss_requested = true;
		return PW_STARTUP_GSS_REQUEST;
	}

	startup->protocol = code;
	if (PG_PROTOCOL_MAJOR(code) != PG_PROTOCOL_MAJOR(PG_PROTOCOL_LATEST))
		return refuse(startup, ERRCODE_FEATURE_NOT_SUPPORTED,
					  psprintf(_("unsupported frontend protocol %u.%u: server supports %u.0 to %u.%u"),
							   PG_PROTOCOL_MAJOR(code), PG_PROTOCOL_MINOR(code),
							   PG_PROTOCOL_MAJOR(PG_PROTOCOL_LATEST),
							   PG_PROTOCOL_MAJOR(PG_PROTOCOL_LATEST),
							   PG_PROTOCOL_MINOR(PG_PROTOCOL_LATEST)),
					  NULL);

	read_parameters(startup, body, &replication);
	if (!pw_reader_done(body))
	{
		/* the server does not get as far as negotiating either */
		startup->nunknown = 0;
		startup->protocol = PG_PROTOCOL_LATEST;
		return refuse(startup, ERRCODE_PROTOCOL_VIOLATION,
					  _("invalid startup packet layout: expected terminator as last byte"),
					  NULL);
	}
	if (replication != NULL && is_physical_or_logical(startup, replication))
		return PW_STARTUP_REFUSED;
	if (startup->user == NULL || startup->user[0] == '\0')
		return refuse(startup, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
					  _("no PostgreSQL user name specified in startup packet"),
					  NULL);
	if (startup->database == NULL || startup->database[0] == '\0')
		startup->database = pstrdup(startup->user);

	return PW_STARTUP_SESSION;
}

static PwStartupKind
read_cancel(PwStartup *startup, PwReader *body)
{
	PwCancelKey *cancel = &startup->cancel;
	uint8	   *copy;

	cancel->pid = (int32) pw_read_uint32(body);
	cancel->size = pw_reader_left(body);
	if (body->broken || cancel->size == 0 || cancel->size > PW_CANCEL_KEY_LIMIT)
		return PW_STARTUP_MALFORMED;

	/* the packet will be gone */
	copy = palloc(cancel->size);
	memcpy(copy, pw_read_bytes(body, cancel->size), cancel->size);
	cancel->bytes = copy;
	return PW_STARTUP_CANCEL;
}

/*
 * Read the name/value pairs up to the terminator.  If they are malformed, the
 * reader is broken afterwards or has bytes left over.
 */
static void
read_parameters(PwStartup *startup, PwReader *body, const char **replication)
{
	initStringInfo(&startup->parameters);
	initStringInfo(&startup->unknown);

	for (;;)
	{
		const char *name = pw_read_string(body);
		const char *value;

		if (name[0] == '\0')
			return;				/* terminator, or broken */
		value = pw_read_string(body);
		if (body->broken)
			return;

		/* overlong names would not be found, so the server truncates them */
		if (strcmp(name, "database") == 0)
			startup->database = pnstrdup(value, NAMEDATALEN - 1);
		else if (strcmp(name, "user") == 0)
			startup->user = pnstrdup(value, NAMEDATALEN - 1);
		else if (strcmp(name, "options") == 0)
			startup->options = pstrdup(value);
		else if (strcmp(name, "replication") == 0)
			*replication = value;
		else if (strncmp(name, "_pq_.", 5) == 0)
		{
			appendBinaryStringInfo(&startup->unknown, name, strlen(name) + 1);
			startup->nunknown++;
		}
		else
			pw_startup_append_setting(&startup->parameters, name, value);
	}
}

/*
 * Does the client ask for replication?  Then refuse it, as also a value that
 * is nothing.
 */
static bool
is_physical_or_logical(PwStartup *startup, const char *replication)
{
	bool		wanted;

	if (strcmp(replication, "database") == 0)
		wanted = true;
	else if (!parse_bool(replication, &wanted))
	{
		refuse(startup, ERRCODE_INVALID_PARAMETER_VALUE,
			   psprintf(_("invalid value for parameter \"%s\": \"%s\""),
						"replication", replication),
			   _("Valid values are: \"false\", 0, \"true\", 1, \"database\"."));
		return true;
	}

	if (wanted)
		refuse(startup, ERRCODE_FEATURE_NOT_SUPPORTED,
			   "replication connections cannot be pooled",
			   "Connect to the server's own port.");
	return wanted;
}

/*
 * Note what is wrong with a packet, for the caller to report.
 */
static PwStartupKind
refuse(PwStartup *startup, int sqlstate, const char *message, const char *hint)
{
	startup->problem.sqlstate = sqlstate;
	startup->problem.message = message;
	startup->problem.hint = hint;
	return PW_STARTUP_REFUSED;
}

bool
pw_startup_negotiates(const PwStartup *startup)
{
	return PG_PROTOCOL_MAJOR(startup->protocol) == PG_PROTOCOL_MAJOR(PG_PROTOCOL_LATEST) &&
		(startup->protocol > PG_PROTOCOL_LATEST || startup->nunknown > 0);
}

bool
pw_startup_options(const char *options, StringInfo settings, PwReport *problem)
{
	/* pg_split_opts() finds at most one argument in every two bytes */
	char	  **argv = palloc(sizeof(char *) * (2 + (strlen(options) + 1) / 2));
	int			argc = 0;
	int			flag;

	argv[argc++] = pstrdup("postgres");
	pg_split_opts(argv, &argc, options);
	argv[argc] = NULL;

	/* zero makes glibc forget where the last client's options ended */
	optind = 0;
	opterr = 0;
	while ((flag = getopt(argc, argv, SERVER_SWITCHES)) != -1)
	{
		problem->message = NULL;
		if (apply_switch(flag, optarg, settings, problem))
			continue;
		if (problem->message != NULL)
			return false;
		optind--;				/* complain about the previous argument */
		break;
	}
	if (flag == -1 && optind == argc)
		return true;

	*problem = (PwReport)
	{
		.sqlstate = ERRCODE_SYNTAX_ERROR,
			.message = psprintf(_("invalid command-line argument for server process: %s"),
								argv[optind]),
			.hint = psprintf(_("Try \"%s --help\" for more information."), argv[0]),
	};
	return false;
}

/*
 * Append what one switch stands for.  False if it is none, or if its argument
 * is bad; in the latter case *problem may say why.
 */
static bool
apply_switch(int flag, const char *argument, StringInfo settings,
			 PwReport *problem)
{
	switch (flag)
	{
		case 'c':
		case '-':
			return apply_long_option(flag, argument, settings, problem);
		case 'd':
			apply_debug_level(atoi(argument), settings);
			return true;
		case 'f':
			return apply_table(plan_settings, lengthof(plan_settings),
							   argument[0], NULL, settings);
		case 't':
			return apply_statistics(argument, settings);
		default:
			return apply_table(switch_settings, lengthof(switch_settings),
							   flag, argument, settings);
	}
}

/*
 * "-c name=value" or "--name=value"
 */
static bool
apply_long_option(int flag, const char *argument, StringInfo settings,
				  PwReport *problem)
{
	const char *equals = strchr(argument, '=');
	char	   *name;

	if (equals == NULL)
	{
		*problem = (PwReport)
		{
			.sqlstate = ERRCODE_SYNTAX_ERROR,
				.message = psprintf(flag == '-' ? _("--%s requires a value")
									: _("-c %s requires a value"), argument),
		};
		return false;
	}

	name = pnstrdup(argument, equals - argument);
	for (char *letter = name; *letter; letter++)
	{
		if (*letter == '-')
			*letter = '_';
	}
	pw_startup_append_setting(settings, name, equals + 1);
	return true;
}

/*
 * Append the setting that "flag" stands for in "table".  False if there is no
 * such row.
 */
static bool
apply_table(const PwSwitch *table, int nrows, int flag,
			const char *argument, StringInfo settings)
{
	for (int i = 0; i < nrows; i++)
	{
		if (table[i].flag != flag)
			continue;
		if (table[i].name != NULL)
			pw_startup_append_setting(settings, table[i].name,
									  table[i].value ? table[i].value : argument);
		return true;
	}
	return false;
}

/*
 * -d: a level that stands for several settings, as in set_debug_options()
 */
static void
apply_debug_level(int level, StringInfo settings)
{
	static const char *const from_two[][2] = {
		{"log_statement", "all"},
		{"debug_print_parse", "true"},
		{"debug_print_plan", "true"},
		{"debug_print_rewritten", "true"},
	};

	pw_startup_append_setting(settings, "log_min_messages",
							  level > 0 ? psprintf("debug%d", level) : "notice");
	for (int i = 0; i < lengthof(from_two) && level >= i + 2; i++)
		pw_startup_append_setting(settings, from_two[i][0], from_two[i][1]);
}

/*
 * -t: which statistics to log, as in get_stats_option_name()
 */
static bool
apply_statistics(const char *argument, StringInfo settings)
{
	const char *name;

	if (argument[0] == 'e')
		name = "log_executor_stats";
	else if (argument[0] == 'p' && argument[1] == 'a')
		name = "log_parser_stats";
	else if (argument[0] == 'p' && argument[1] == 'l')
		name = "log_planner_stats";
	else
		return false;

	pw_startup_append_setting(settings, name, "true");
	return true;
}

void
pw_startup_append_setting(StringInfo settings, const char *name,
						  const char *value)
{
	appendBinaryStringInfo(settings, name, strlen(name) + 1);
	appendBinaryStringInfo(settings, value, strlen(value) + 1);
}

const char *
pw_startup_find_setting(const StringInfoData *settings, const char *name)
{
	const char *found = NULL;
	PwReader	reader;

	pw_reader_init(&reader, settings->data, settings->len);
	while (pw_reader_left(&reader) > 0)
	{
		const char *this_name = pw_read_string(&reader);
		const char *value = pw_read_string(&reader);

		if (reader.broken)
			break;
		if (pg_strcasecmp(this_name, name) == 0)
			found = value;
	}
	return found;
}
