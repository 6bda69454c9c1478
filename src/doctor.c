/*-------------------------------------------------------------------------
 *
 * doctor.c
 *	  What stands in the way of the pool, and what to do about it.
 *
 * Runs in: any backend that calls pool_check().
 *
 * This is a table of checks; each reports one row or more.  They look at
 * settings, shared memory and limits of the operating system, and, if the
 * caller may, through SPI at what the server makes of pg_hba.conf.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/resource.h>

#include "catalog/pg_type.h"
#include "common/username.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "doctor.h"
#include "metrics.h"
#include "settings.h"
#include "shared_state.h"

/*
 * Descriptors the worker may want that are neither clients nor under
 * max_files_per_process; rather too many than too few.
 */
#define FILES_BESIDE_CLIENTS 200

/*
 * How long a pool may be paused before that looks like an oversight, if
 * queue_timeout does not say, ms.
 */
#define LONG_PAUSE_MS (60 * 1000)

/* no query of ours has more parameters */
#define MAX_ARGUMENTS 4

/* What the checks of pool_check() share. */
typedef struct Doctor
{
	ReturnSetInfo *rsinfo;
	const char *check;			/* name of the running check */
	PwShmControl *control;		/* a copy */
	int			npools;
	PwPoolSample *pools;
} Doctor;

/* One check: reports one row or more. */
typedef struct Check
{
	const char *name;			/* column "check" */
	void		(*run) (Doctor *doctor);
	bool		reads_hba;		/* through SPI, if the caller may */
} Check;

/* Answers of a check that could be made, or could not. */
typedef enum Verdict
{
	VERDICT_BAD,
	VERDICT_OK,
	VERDICT_UNKNOWN,			/* NULL in SQL */
} Verdict;

static PwShmControl *copy_control(void);
static void check_preload(Doctor *doctor);
static void check_worker(Doctor *doctor);
static void check_port(Doctor *doctor);
static void check_settings(Doctor *doctor);
static void check_max_connections(Doctor *doctor);
static int	reserved_connections(void);
static void check_open_files(Doctor *doctor);
static void check_slot_login(Doctor *doctor);
static void check_stopped(Doctor *doctor);
static bool has_stopped_pool(Doctor *doctor, const PwShmOrder *order);
static void report_stopped(Doctor *doctor, Verdict verdict, const char *database,
						   const char *role, PwService service, TimestampTz since,
						   const char *detail);
static Verdict judge_stop(TimestampTz since, int queue_timeout);
static void check_hba_errors(Doctor *doctor);
static void check_hba_host_names(Doctor *doctor);
static void check_hba_slots(Doctor *doctor);
static void report_hba_slot(Doctor *doctor, const PwPoolSample *pool);
static Verdict judge_hba_method(const char *method, const char *map, const char *role);
static Verdict judge_ident_map(const char *map, const char *role);
static char *hba_advice(const char *database, const char *role);
static char *quote_hba_name(const char *name);
static bool spi_may_read_hba(void);
static uint64 spi_select(const char *sql, int nargs, const char **args);
static char *spi_value(uint64 row, int column);
static void report(Doctor *doctor, Verdict verdict, const char *detail,
				   const char *hint);

/* The checks of pool_check(), in the order of their rows. */
static const Check checks[] = {
	{"preload", check_preload, false},
	{"worker", check_worker, false},
	{"port", check_port, false},
	{"settings", check_settings, false},
	{"max_connections", check_max_connections, false},
	{"open files", check_open_files, false},
	{"slot login", check_slot_login, false},
	{"stopped pools", check_stopped, false},
	{"pg_hba.conf", check_hba_errors, true},
	{"pg_hba.conf host names", check_hba_host_names, true},
	{"pg_hba.conf slots", check_hba_slots, true},
};

/*
 * The line of pg_hba.conf that decides over a Unix socket connection to
 * database $1 as role $2.
 *
 * XXX The server's own matching cannot be called, because backends throw the
 * parsed file away.  This differs from it in one thing: a superuser counts as
 * a member of every role.
 */
static const char slot_line_sql[] =
"SELECT line_number, auth_method,"
"  (SELECT substr(o, 5) FROM unnest(options) o WHERE o LIKE 'map=%')"
" FROM pg_hba_file_rules"
" WHERE type = 'local' AND error IS NULL"
"  AND EXISTS (SELECT FROM unnest(database) d"
"    WHERE d IN ('all', $1) OR (d = 'sameuser' AND $1 = $2)"
"    OR (d LIKE '/%' AND $1 ~ substr(d, 2))"
"    OR (d IN ('samerole', 'samegroup') AND EXISTS"
"      (SELECT FROM pg_roles m, pg_roles g"
"       WHERE m.rolname = $2 AND g.rolname = $1"
"       AND pg_has_role(m.oid, g.oid, 'MEMBER'))))"
"  AND EXISTS (SELECT FROM unnest(user_name) u"
"    WHERE u IN ('all', $2)"
"    OR (u LIKE '/%' AND $2 ~ substr(u, 2))"
"    OR (u LIKE '+%' AND EXISTS"
"      (SELECT FROM pg_roles m, pg_roles g"
"       WHERE m.rolname = $2 AND g.rolname = substr(u, 2)"
"       AND pg_has_role(m.oid, g.oid, 'MEMBER'))))"
" ORDER BY line_number LIMIT 1";

/*
 * Does map $1 of pg_ident.conf let operating system user $3 be role $2?  Lines
 * with patterns are not for us to judge.
 */
static const char map_sql[] =
"SELECT CASE WHEN bool_or(sys_name = $3 AND pg_username = $2) THEN 'yes'"
"  WHEN bool_or(sys_name LIKE '/%' OR pg_username ~ '^([/+]|all$)') THEN 'maybe'"
"  ELSE 'no' END"
" FROM pg_ident_file_mappings"
" WHERE map_name = $1 AND error IS NULL";

/*
 * Make all checks; see doctor.h.
 */
void
pw_doctor_run(ReturnSetInfo *rsinfo)
{
	Doctor		doctor = {0};
	int			guc_level;
	bool		may_read_hba;

	doctor.rsinfo = rsinfo;
	doctor.control = copy_control();
	doctor.pools = pw_metrics_sample_pools(&doctor.npools);

	/* our queries must not find functions of the caller's schemas */
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	may_read_hba = spi_may_read_hba();

	for (int i = 0; i < lengthof(checks); i++)
	{
		doctor.check = checks[i].name;
		if (checks[i].reads_hba && !may_read_hba)
			report(&doctor, VERDICT_UNKNOWN,
				   "You may not read pg_hba_file_rules and pg_ident_file_mappings.",
				   "Call pool_check() as a superuser.");
		else
			checks[i].run(&doctor);
	}

	SPI_finish();
	AtEOXact_GUC(true, guc_level);
}

/*
 * Copy what is in the control structure.
 */
static PwShmControl *
copy_control(void)
{
	PwShmControl *copy = palloc(sizeof(PwShmControl));

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	*copy = *PwControl;
	LWLockRelease(&PwControl->lock);
	return copy;
}

/*
 * Check: are we loaded?  If we were not, this would not run.
 */
static void
check_preload(Doctor *doctor)
{
	report(doctor, VERDICT_OK,
		   "pool_worker is loaded via \"shared_preload_libraries\".", NULL);
}

/*
 * Check: does the worker run?
 */
static void
check_worker(Doctor *doctor)
{
	if (doctor->control->worker_pid == 0)
		report(doctor, VERDICT_BAD, "The pool worker does not run.",
			   "It is started again within a second.  If it does not stay, the server log says why; \"max_worker_processes\" must leave room for it.");
	else
		report(doctor, VERDICT_OK,
			   psprintf("The pool worker is process %d, since %s.",
						doctor->control->worker_pid,
						timestamptz_to_str(doctor->control->worker_started_at)),
			   NULL);
}

/*
 * Check: can clients connect where the settings say?
 */
static void
check_port(Doctor *doctor)
{
	int			port = doctor->control->listening_port;

	if (port == 0)
		report(doctor, VERDICT_BAD,
			   psprintf("Nothing listens on port %d.", pw_port),
			   "The server log says why.  Change \"pool_worker.port\" or \"pool_worker.listen_addresses\" and reload.");
	else if (port != pw_port)
		report(doctor, VERDICT_BAD,
			   psprintf("The pool listens on port %d, but \"pool_worker.port\" is %d.",
						port, pw_port),
			   "The server log says why the new port could not be used.");
	else
		report(doctor, VERDICT_OK,
			   psprintf("The pool listens on port %d, sockets: %d.",
						port, doctor->control->listening_sockets),
			   NULL);
}

/*
 * Check: do the settings agree that no check hook can compare?
 */
static void
check_settings(Doctor *doctor)
{
	int			max_slots = doctor->control->max_slots;

	if (pw_min_pool_size > pw_pool_size)
		report(doctor, VERDICT_BAD,
			   psprintf("\"pool_worker.min_pool_size\" is %d, more than \"pool_worker.pool_size\", %d.",
						pw_min_pool_size, pw_pool_size),
			   "The smaller one counts.");
	else if (pw_pool_size > max_slots)
		report(doctor, VERDICT_BAD,
			   psprintf("\"pool_worker.pool_size\" is %d, more than all pools together may have: %d.",
						pw_pool_size, max_slots),
			   "Raise \"pool_worker.max_slots\" or lower \"pool_worker.pool_size\".");
	else
		report(doctor, VERDICT_OK,
			   psprintf("A pool has %d to %d slots, all pools together at most %d.",
						pw_min_pool_size, pw_pool_size, max_slots),
			   NULL);
}

/*
 * Check: is there room beside the slots for those who connect directly?
 */
static void
check_max_connections(Doctor *doctor)
{
	int			max_slots = doctor->control->max_slots;
	int			reserved = reserved_connections();
	char	   *detail;

	detail = psprintf("\"max_connections\" is %d: %d for slots, %d reserved, %d for direct connections.",
					  MaxConnections, max_slots, reserved,
					  MaxConnections - max_slots - reserved);

	if (max_slots + reserved >= MaxConnections)
		report(doctor, VERDICT_BAD, detail,
			   "Raise \"max_connections\" or lower \"pool_worker.max_slots\", and restart.");
	else
		report(doctor, VERDICT_OK, detail, NULL);
}

/*
 * Connections that ordinary roles, and thus slots, cannot have.
 */
static int
reserved_connections(void)
{
	const char *superuser = GetConfigOption("superuser_reserved_connections",
											false, false);

	/* there is no such setting before PG16 */
	const char *reserved = GetConfigOption("reserved_connections", true, false);

	return atoi(superuser) + (reserved ? atoi(reserved) : 0);
}

/*
 * Check: may the worker hold as many sockets as there may be clients?
 */
static void
check_open_files(Doctor *doctor)
{
	PwShmControl *control = doctor->control;
	struct rlimit limit;
	char	   *detail;

	if (control->fd_base == 0)
	{
		report(doctor, VERDICT_UNKNOWN,
			   "The worker has not said yet how many clients it can take.", NULL);
		return;
	}

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		limit.rlim_max = 0;
	detail = psprintf("There is room for %d of %d clients; the hard limit of open files is %llu.",
					  control->client_limit, pw_max_clients,
					  (unsigned long long) limit.rlim_max);

	if (control->client_limit < pw_max_clients)
		report(doctor, VERDICT_BAD, detail,
			   psprintf("Raise that limit to %d (\"ulimit -Hn\", or LimitNOFILE= for systemd) or lower \"pool_worker.max_clients\", and restart.",
						max_files_per_process + pw_max_clients + FILES_BESIDE_CLIENTS));
	else
		report(doctor, VERDICT_OK, detail, NULL);
}

/*
 * Check: could slots log in when they last tried?  One row for each pool.
 */
static void
check_slot_login(Doctor *doctor)
{
	for (int i = 0; i < doctor->npools; i++)
	{
		PwPoolSample *pool = &doctor->pools[i];
		const char *database = NameStr(pool->database);
		const char *role = NameStr(pool->role);

		if (pool->last_error[0] == '\0')
			report(doctor, VERDICT_OK,
				   psprintf("Database \"%s\", role \"%s\": slots open: %d.",
							database, role, (int) pool->value[PW_POOL_SLOTS]),
				   NULL);
		else
			report(doctor, VERDICT_BAD,
				   psprintf("Database \"%s\", role \"%s\": %s",
							database, role, pool->last_error),
				   psprintf("If this is about authentication: %s",
							hba_advice(database, role)));
	}

	if (doctor->npools == 0)
		report(doctor, VERDICT_OK, "There is no pool yet.", NULL);
}

/*
 * Check: has somebody forgotten pool_resume()?  One row for each pool that is
 * paused or being drained, and for each order that is about no pool yet.
 */
static void
check_stopped(Doctor *doctor)
{
	int			nstopped = 0;

	for (int i = 0; i < doctor->npools; i++)
	{
		PwPoolSample *pool = &doctor->pools[i];

		if (pool->service == PW_SERVICE_OPEN)
			continue;
		report_stopped(doctor, judge_stop(pool->service_since, PwPools[pool->pool].settings.queue_timeout),
					   NameStr(pool->database), NameStr(pool->role), pool->service,
					   pool->service_since,
					   psprintf("Clients: %d, waiting: %d.",
								(int) pool->value[PW_POOL_CLIENTS],
								(int) pool->value[PW_POOL_WAITING]));
		nstopped++;
	}
	for (int i = 0; i < doctor->control->norders; i++)
	{
		PwShmOrder *order = &doctor->control->orders[i];

		if (order->service == PW_SERVICE_OPEN || has_stopped_pool(doctor, order))
			continue;
		report_stopped(doctor, judge_stop(order->since, pw_queue_timeout),
					   NameStr(order->pools.database), NameStr(order->pools.role), order->service, order->since, "There is no pool yet.");
		nstopped++;
	}
	if (nstopped == 0)
		report(doctor, VERDICT_OK, "No pool is paused or being drained.", NULL);
}

/* Is one of the pools that this order is about paused or being drained? */
static bool
has_stopped_pool(Doctor *doctor, const PwShmOrder *order)
{
	for (int i = 0; i < doctor->npools; i++)
		if (doctor->pools[i].service != PW_SERVICE_OPEN &&
			pw_selection_covers(&order->pools, &doctor->pools[i].database,
								&doctor->pools[i].role))
			return true;
	return false;
}

/* An empty name stands for all. */
static void
report_stopped(Doctor *doctor, Verdict verdict, const char *database,
			   const char *role, PwService service, TimestampTz since, const char *detail)
{
	report(doctor, verdict,
		   psprintf("Database %s, role %s: %s since %s.  %s",
					database[0] ? psprintf("\"%s\"", database) : "any",
					role[0] ? psprintf("\"%s\"", role) : "any",
					service == PW_SERVICE_PAUSED ? "paused" : "draining",
					timestamptz_to_str(since), detail),
		   "pool_resume() ends that.");
}

/* A client would have waited for so long, at most, for a slot. */
static Verdict
judge_stop(TimestampTz since, int queue_timeout)
{
	int			patience = queue_timeout > 0 ? queue_timeout : LONG_PAUSE_MS;

	return TimestampDifferenceExceeds(since, GetCurrentTimestamp(), patience) ?
		VERDICT_BAD : VERDICT_OK;
}

/*
 * Check: is pg_hba.conf free of errors?  One row for each that is not.
 */
static void
check_hba_errors(Doctor *doctor)
{
	uint64		n = spi_select("SELECT line_number, error"
							   " FROM pg_hba_file_rules"
							   " WHERE error IS NOT NULL ORDER BY line_number",
							   0, NULL);

	for (uint64 i = 0; i < n; i++)
		report(doctor, VERDICT_BAD,
			   psprintf("Line %s: %s.", spi_value(i, 1), spi_value(i, 2)),
			   "Correct it and reload; until then the file as it was before is in force.");

	if (n == 0)
		report(doctor, VERDICT_OK, "There are no errors in the file.", NULL);
}

/*
 * Check: does pg_hba.conf make the worker ask a name server?  It would serve
 * nobody while it waits for the answer.
 */
static void
check_hba_host_names(Doctor *doctor)
{
	uint64		n = spi_select("SELECT line_number, address"
							   " FROM pg_hba_file_rules"
							   " WHERE netmask IS NULL"
							   " AND address NOT IN ('all', 'samehost', 'samenet')"
							   " ORDER BY line_number",
							   0, NULL);

	for (uint64 i = 0; i < n; i++)
		report(doctor, VERDICT_BAD,
			   psprintf("Line %s: \"%s\" is a host name; no client of the pool is served while it is looked up.",
						spi_value(i, 1), spi_value(i, 2)),
			   "Use an address range, or move the line below those that the pool's clients match.");

	if (n == 0)
		report(doctor, VERDICT_OK, "There are no host names in the file.", NULL);
}

/*
 * Check: does pg_hba.conf let the slots of each pool in?
 */
static void
check_hba_slots(Doctor *doctor)
{
	for (int i = 0; i < doctor->npools; i++)
		report_hba_slot(doctor, &doctor->pools[i]);

	if (doctor->npools == 0)
		report(doctor, VERDICT_OK, "There is no pool yet.", NULL);
}

/*
 * Find the line of pg_hba.conf that decides over a pool's slots, and say what
 * it decides.
 */
static void
report_hba_slot(Doctor *doctor, const PwPoolSample *pool)
{
	const char *names[] = {NameStr(pool->database), NameStr(pool->role)};
	char	   *pair = psprintf("database \"%s\", role \"%s\"", names[0], names[1]);
	char	   *line;
	char	   *method;
	char	   *map;

	if (spi_select(slot_line_sql, lengthof(names), names) == 0)
	{
		report(doctor, VERDICT_BAD,
			   psprintf("No \"local\" line matches %s.", pair),
			   hba_advice(names[0], names[1]));
		return;
	}

	line = spi_value(0, 1);
	method = spi_value(0, 2);
	map = spi_value(0, 3);
	switch (judge_hba_method(method, map, names[1]))
	{
		case VERDICT_OK:
			report(doctor, VERDICT_OK,
				   psprintf("Line %s lets slots in for %s: \"%s\".", line, pair, method),
				   NULL);
			break;
		case VERDICT_UNKNOWN:
			report(doctor, VERDICT_UNKNOWN,
				   psprintf("Line %s decides for %s, with map \"%s\", whose patterns are not checked here.",
							line, pair, map),
				   NULL);
			break;
		case VERDICT_BAD:
			report(doctor, VERDICT_BAD,
				   psprintf("Line %s keeps slots out for %s: \"%s\".", line, pair, method),
				   psprintf("It must come before that line.  %s", hba_advice(names[0], names[1])));
			break;
	}
}

/*
 * Can a slot of this role log in with this method?  It runs as the operating
 * system user of the server and has no password.
 */
static Verdict
judge_hba_method(const char *method, const char *map, const char *role)
{
	char	   *errstr;
	const char *os_user;

	if (strcmp(method, "trust") == 0)
		return VERDICT_OK;
	if (strcmp(method, "peer") != 0)
		return VERDICT_BAD;
	if (map != NULL)
		return judge_ident_map(map, role);

	os_user = get_user_name(&errstr);
	return (os_user != NULL && strcmp(os_user, role) == 0) ?
		VERDICT_OK : VERDICT_BAD;
}

/*
 * Does this map of pg_ident.conf let the server's operating system user be
 * this role?
 */
static Verdict
judge_ident_map(const char *map, const char *role)
{
	char	   *errstr;
	const char *args[] = {map, role, get_user_name(&errstr)};
	const char *answer;

	if (args[2] == NULL || spi_select(map_sql, lengthof(args), args) == 0)
		return VERDICT_UNKNOWN;

	answer = spi_value(0, 1);
	if (strcmp(answer, "maybe") == 0)
		return VERDICT_UNKNOWN;
	return (strcmp(answer, "yes") == 0) ? VERDICT_OK : VERDICT_BAD;
}

/*
 * The lines that let the slots of one pool in, and nobody else.
 */
static char *
hba_advice(const char *database, const char *role)
{
	char	   *errstr;
	const char *os_user = get_user_name(&errstr);

	return psprintf("Add to pg_hba.conf: local %s %s peer map=pool_worker; and to pg_ident.conf: pool_worker %s %s; then reload.",
					quote_hba_name(database), quote_hba_name(role),
					os_user ? os_user : "postgres", quote_hba_name(role));
}

/*
 * A name in double quotes, as pg_hba.conf and pg_ident.conf read it.
 */
static char *
quote_hba_name(const char *name)
{
	StringInfoData quoted;

	initStringInfo(&quoted);
	appendStringInfoChar(&quoted, '"');
	for (const char *c = name; *c != '\0'; c++)
	{
		if (*c == '"')
			appendStringInfoChar(&quoted, '"');
		appendStringInfoChar(&quoted, *c);
	}
	appendStringInfoChar(&quoted, '"');
	return quoted.data;
}

/*
 * May the caller read pg_hba.conf and pg_ident.conf?  Both the views and the
 * functions behind them want a privilege.
 */
static bool
spi_may_read_hba(void)
{
	(void) spi_select("SELECT has_table_privilege('pg_hba_file_rules', 'SELECT')"
					  " AND has_table_privilege('pg_ident_file_mappings', 'SELECT')"
					  " AND has_function_privilege('pg_hba_file_rules()', 'EXECUTE')"
					  " AND has_function_privilege('pg_ident_file_mappings()', 'EXECUTE')",
					  0, NULL);
	return strcmp(spi_value(0, 1), "t") == 0;
}

/*
 * Run a query whose parameters are texts.  Returns the number of rows; they
 * stay available to spi_value() until the next query.
 */
static uint64
spi_select(const char *sql, int nargs, const char **args)
{
	Oid			types[MAX_ARGUMENTS];
	Datum		values[MAX_ARGUMENTS];

	Assert(nargs <= MAX_ARGUMENTS);

	for (int i = 0; i < nargs; i++)
	{
		types[i] = TEXTOID;
		values[i] = CStringGetTextDatum(args[i]);
	}

	if (SPI_execute_with_args(sql, nargs, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run query: %s", sql);
	return SPI_processed;
}

/*
 * One value of the last query, as text; NULL if it is.  Columns count from 1.
 */
static char *
spi_value(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/*
 * Add a row to the result of pool_check().
 */
static void
report(Doctor *doctor, Verdict verdict, const char *detail, const char *hint)
{
	Datum		values[4] = {0};
	bool		nulls[4] = {0};

	values[0] = CStringGetTextDatum(doctor->check);
	if (verdict == VERDICT_UNKNOWN)
		nulls[1] = true;
	else
		values[1] = BoolGetDatum(verdict == VERDICT_OK);
	values[2] = CStringGetTextDatum(detail);
	if (hint == NULL)
		nulls[3] = true;
	else
		values[3] = CStringGetTextDatum(hint);

	tuplestore_putvalues(doctor->rsinfo->setResult, doctor->rsinfo->setDesc,
						 values, nulls);
}
