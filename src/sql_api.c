/*-------------------------------------------------------------------------
 *
 * sql_api.c
 *	  The SQL functions: what the pool looks like from inside.
 *
 * Runs in: any backend that calls one of our functions.
 *
 * All of them read shared memory.  They copy one entry at a time under the
 * lock that protects it, and build the row after the lock is gone; so a row
 * is consistent in itself, and two rows may be a moment apart.  Whether an
 * entry is still what it was when its index was looked up shows in the
 * generation of a client's word.
 *
 * Rights come in two layers.  What only administrators may call is revoked
 * from PUBLIC in the install script.  pool_slots() and pool_clients() can be
 * called by everybody and leave out the rows that pg_stat_activity would show
 * without details: those of other roles, unless the caller has the privileges
 * of pg_read_all_stats, as members of pg_monitor do.
 *
 * pool_check(), the doctor, is the second half of the file.  It is a table of
 * checks; each reports one row or more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <sys/resource.h>

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "common/ip.h"
#include "common/username.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "metrics.h"
#include "settings.h"
#include "shared_state.h"

/*
 * Descriptors the worker may want that are neither clients nor under
 * max_files_per_process; rather too many than too few.
 */
#define FILES_BESIDE_CLIENTS 200

/* no function returns more columns than this */
#define MAX_COLUMNS 16

/* A row in the making. */
typedef struct Row
{
	int			ncolumns;
	Datum		values[MAX_COLUMNS];
	bool		nulls[MAX_COLUMNS];
} Row;

/* The identity of a pool, as copied with one of its slots or clients. */
typedef struct PoolName
{
	Oid			roleoid;		/* InvalidOid: no pool yet */
	NameData	database;
	NameData	role;
} PoolName;

/* A slot, its pool, and the client it is attached to. */
typedef struct SlotCopy
{
	PwShmSlot	slot;
	PwSlotActivity activity;
	PoolName	pool;
	PwShmClient client;			/* valid unless slot.client is PW_NONE */
} SlotCopy;

/* A client, its pool, and the slot it is attached to. */
typedef struct ClientCopy
{
	PwShmClient client;
	PwClientState state;
	PoolName	pool;
	int			slot;			/* or PW_NONE */
	int			pid;			/* of the slot, 0 if none */
} ClientCopy;

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

PG_FUNCTION_INFO_V1(pool_worker_status_1_0);
PG_FUNCTION_INFO_V1(pool_worker_slots_1_0);
PG_FUNCTION_INFO_V1(pool_worker_clients_1_0);
PG_FUNCTION_INFO_V1(pool_worker_check_1_0);

static void require_preload(void);
static char *preload_line(void);
static bool copy_slot(int index, SlotCopy *copy);
static void emit_slot(ReturnSetInfo *rsinfo, int index, SlotCopy *copy);
static bool copy_client(int index, ClientCopy *copy);
static void emit_client(ReturnSetInfo *rsinfo, ClientCopy *copy);
static const char *client_state_name(const ClientCopy *copy);
static void copy_pool_name(int pool, PoolName *name);
static bool may_see(const PoolName *pool);

static void row_null(Row *row);
static void row_datum(Row *row, Datum value);
static void row_int4_or_null(Row *row, int value, int null_value);
static void row_text(Row *row, const char *value);
static void row_time(Row *row, TimestampTz value);
static void row_pool_name(Row *row, PoolName *pool);
static void row_metric(Row *row, PwMetricKind kind, double value);
static void row_address(Row *row, const SockAddr *address);
static void row_port(Row *row, const SockAddr *address);
static void row_application(Row *row, PwShmClient *client);
static void row_pin_reason(Row *row, int reason);
static void row_emit(Row *row, ReturnSetInfo *rsinfo);

static PwShmControl *copy_control(void);
static void check_preload(Doctor *doctor);
static void check_worker(Doctor *doctor);
static void check_port(Doctor *doctor);
static void check_settings(Doctor *doctor);
static void check_max_connections(Doctor *doctor);
static int	reserved_connections(void);
static void check_open_files(Doctor *doctor);
static void check_slot_login(Doctor *doctor);
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
 * pool_status(): one row for each pool.
 */
Datum
pool_worker_status_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	PwPoolSample *pools;
	int			npools;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);

	pools = pw_metrics_sample_pools(&npools);
	for (int i = 0; i < npools; i++)
	{
		Row			row = {0};

		row_datum(&row, NameGetDatum(&pools[i].database));
		row_datum(&row, NameGetDatum(&pools[i].role));
		row_text(&row, pw_pool_health_names[pools[i].health]);
		for (int m = 0; m < PW_POOL_NMETRICS; m++)
			row_metric(&row, pw_pool_metrics[m].kind, pools[i].value[m]);
		row_emit(&row, rsinfo);
	}

	return (Datum) 0;
}

/*
 * pool_slots(): one row for each slot of a role the caller may see.
 */
Datum
pool_worker_slots_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);

	for (int i = 0; i < PwControl->max_slots; i++)
	{
		SlotCopy	copy;

		if (copy_slot(i, &copy) && may_see(&copy.pool))
			emit_slot(rsinfo, i, &copy);
		CHECK_FOR_INTERRUPTS();
	}

	return (Datum) 0;
}

/*
 * pool_clients(): one row for each client of a role the caller may see.
 */
Datum
pool_worker_clients_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);

	for (int i = 0; i < PwControl->max_clients; i++)
	{
		ClientCopy	copy;

		if (copy_client(i, &copy) && may_see(&copy.pool))
			emit_client(rsinfo, &copy);
		CHECK_FOR_INTERRUPTS();
	}

	return (Datum) 0;
}

/*
 * pool_check(): what stands in the way of the pool, and what to do about it.
 */
Datum
pool_worker_check_1_0(PG_FUNCTION_ARGS)
{
	Doctor		doctor = {0};
	int			guc_level;
	bool		may_read_hba;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);

	doctor.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
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
	return (Datum) 0;
}

/*
 * Raise an error unless the postmaster has loaded us.
 */
static void
require_preload(void)
{
	if (PwControl != NULL)
		return;

	if (has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_SETTINGS))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pool_worker must be loaded via \"shared_preload_libraries\""),
				 errhint("Set this in postgresql.conf and restart the server: %s",
						 preload_line())));

	/* what else is loaded is not for everybody to know */
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("pool_worker must be loaded via \"shared_preload_libraries\""),
			 errhint("Ask your administrator to add pool_worker to \"shared_preload_libraries\" and to restart the server.")));
}

/*
 * The line of postgresql.conf that loads us beside what is loaded already.
 */
static char *
preload_line(void)
{
	const char *loaded = GetConfigOption("shared_preload_libraries", false, false);
	StringInfoData libraries;

	initStringInfo(&libraries);
	appendStringInfoString(&libraries, loaded);
	if (libraries.len > 0)
		appendStringInfoString(&libraries, ", ");
	appendStringInfoString(&libraries, "pool_worker");

	return psprintf("shared_preload_libraries = %s",
					quote_literal_cstr(libraries.data));
}

/*
 * Copy a slot, with its pool and its client.  False if there is no slot.
 *
 * The slot's lock keeps its client attached, and an attached client keeps
 * what the worker wrote when it was admitted.
 */
static bool
copy_slot(int index, SlotCopy *copy)
{
	PwShmSlot  *slot = &PwSlots[index];

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	LWLockAcquire(&slot->lock, LW_SHARED);

	copy->slot = *slot;
	copy->activity = pg_atomic_read_u32(&slot->activity);
	copy_pool_name(slot->pool, &copy->pool);
	if (slot->client != PW_NONE)
		copy->client = PwClients[slot->client];

	LWLockRelease(&slot->lock);
	LWLockRelease(&PwControl->lock);

	return copy->activity != PW_SLOT_EMPTY && OidIsValid(copy->pool.roleoid);
}

/*
 * Add the row of a slot.
 */
static void
emit_slot(ReturnSetInfo *rsinfo, int index, SlotCopy *copy)
{
	bool		has_client = (copy->slot.client != PW_NONE);
	Row			row = {0};

	row_datum(&row, Int32GetDatum(index));
	row_int4_or_null(&row, copy->slot.pid, 0);
	row_pool_name(&row, &copy->pool);

	if (has_client)
	{
		row_datum(&row, Int64GetDatum((int64) copy->client.id));
		row_address(&row, &copy->client.raddr);
		row_application(&row, &copy->client);
	}
	else
	{
		row_null(&row);
		row_null(&row);
		row_null(&row);
	}

	row_text(&row, pw_slot_activity_names[copy->activity]);
	row_pin_reason(&row, copy->slot.pin_reason);
	row_time(&row, copy->slot.state_since);
	row_datum(&row, Int64GetDatum((int64) copy->slot.transactions));
	row_datum(&row, Int64GetDatum((int64) copy->slot.attaches));
	row_time(&row, copy->slot.opened_at);
	row_emit(&row, rsinfo);
}

/*
 * Copy a client, with its pool and its slot's pid.  False if there is none,
 * or if it left while we looked.
 */
static bool
copy_client(int index, ClientCopy *copy)
{
	PwShmClient *client = &PwClients[index];
	uint64		before = pg_atomic_read_u64(&client->word);
	uint64		after;

	/* most entries are free; do not take the lock for them */
	if (PW_WORD_STATE(before) == PW_CLIENT_FREE)
		return false;

	LWLockAcquire(&PwControl->lock, LW_SHARED);

	copy->client = *client;
	pg_read_barrier();
	after = pg_atomic_read_u64(&client->word);

	copy->state = PW_WORD_STATE(after);
	copy->slot = PW_WORD_SLOT(after);
	copy->pid = (copy->slot == PW_NONE) ? 0 : PwSlots[copy->slot].pid;
	copy_pool_name(copy->client.pool, &copy->pool);

	LWLockRelease(&PwControl->lock);

	return copy->state != PW_CLIENT_FREE &&
		PW_WORD_GENERATION(before) == PW_WORD_GENERATION(after);
}

/*
 * Add the row of a client.
 */
static void
emit_client(ReturnSetInfo *rsinfo, ClientCopy *copy)
{
	PwShmClient *client = &copy->client;
	Row			row = {0};

	row_datum(&row, Int64GetDatum((int64) client->id));
	row_int4_or_null(&row, copy->slot, PW_NONE);
	row_int4_or_null(&row, copy->pid, 0);
	row_pool_name(&row, &copy->pool);
	row_address(&row, &client->raddr);
	row_port(&row, &client->raddr);
	row_application(&row, client);
	row_text(&row, client_state_name(copy));
	row_pin_reason(&row, client->pin_reason);
	row_time(&row, (client->pin_reason != PW_PIN_NONE && client->pinned_since != 0) ?
			 client->pinned_since : client->state_since);
	row_time(&row, client->connected_at);
	row_datum(&row, Int64GetDatum((int64) client->transactions));
	row_emit(&row, rsinfo);
}

/*
 * The state of a client.  To its user it makes a difference whether the slot
 * it is attached to can be taken away, so that gets a word of its own.
 */
static const char *
client_state_name(const ClientCopy *copy)
{
	if (copy->state == PW_CLIENT_ATTACHED &&
		copy->client.pin_reason != PW_PIN_NONE)
		return "pinned";
	return pw_client_state_names[copy->state];
}

/*
 * Copy the identity of a pool.  The caller holds control->lock.
 */
static void
copy_pool_name(int pool, PoolName *name)
{
	if (pool == PW_NONE || !PwPools[pool].in_use)
	{
		name->roleoid = InvalidOid;
		return;
	}

	name->roleoid = PwPools[pool].roleoid;
	name->database = PwPools[pool].database;
	name->role = PwPools[pool].role;
}

/*
 * May the caller see the slots and clients of this pool?  The same rule as
 * pg_stat_activity's.  A client without a pool has not proven who it is.
 */
static bool
may_see(const PoolName *pool)
{
	if (has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS))
		return true;
	return OidIsValid(pool->roleoid) &&
		has_privs_of_role(GetUserId(), pool->roleoid);
}

/*
 * Add a NULL to a row.
 */
static void
row_null(Row *row)
{
	Assert(row->ncolumns < MAX_COLUMNS);
	row->nulls[row->ncolumns++] = true;
}

/*
 * Add a value of any type to a row.
 */
static void
row_datum(Row *row, Datum value)
{
	Assert(row->ncolumns < MAX_COLUMNS);
	row->values[row->ncolumns++] = value;
}

/*
 * Add an int4 to a row, or NULL if it is "null_value".
 */
static void
row_int4_or_null(Row *row, int value, int null_value)
{
	if (value == null_value)
		row_null(row);
	else
		row_datum(row, Int32GetDatum(value));
}

/*
 * Add a text to a row, or NULL for a NULL pointer.
 */
static void
row_text(Row *row, const char *value)
{
	if (value == NULL)
		row_null(row);
	else
		row_datum(row, CStringGetTextDatum(value));
}

/*
 * Add a time to a row, or NULL for 0, "never".
 */
static void
row_time(Row *row, TimestampTz value)
{
	if (value == 0)
		row_null(row);
	else
		row_datum(row, TimestampTzGetDatum(value));
}

/*
 * Add the two columns that name a pool to a row.
 */
static void
row_pool_name(Row *row, PoolName *pool)
{
	if (!OidIsValid(pool->roleoid))
	{
		row_null(row);
		row_null(row);
		return;
	}

	row_datum(row, NameGetDatum(&pool->database));
	row_datum(row, NameGetDatum(&pool->role));
}

/*
 * Add a number of the pool to a row, in the type that its kind has in SQL.
 */
static void
row_metric(Row *row, PwMetricKind kind, double value)
{
	if (isnan(value))
		row_null(row);
	else if (kind == PW_METRIC_GAUGE)
		row_datum(row, Int32GetDatum((int32) value));
	else if (kind == PW_METRIC_COUNTER)
		row_datum(row, Int64GetDatum((int64) value));
	else
		row_datum(row, Float8GetDatum(value));
}

/*
 * Add an address as inet to a row, or NULL if it is a Unix socket's.
 */
static void
row_address(Row *row, const SockAddr *address)
{
	char		host[NI_MAXHOST];
	int			family = address->addr.ss_family;

	if ((family != AF_INET && family != AF_INET6) ||
		pg_getnameinfo_all(&address->addr, address->salen, host, sizeof(host),
						   NULL, 0, NI_NUMERICHOST) != 0)
	{
		row_null(row);
		return;
	}

	clean_ipv6_addr(family, host);
	row_datum(row, DirectFunctionCall1(inet_in, CStringGetDatum(host)));
}

/*
 * Add a port to a row: -1 for a Unix socket, as in pg_stat_activity.
 */
static void
row_port(Row *row, const SockAddr *address)
{
	char		port[NI_MAXSERV];

	if (address->addr.ss_family == AF_UNIX)
		row_datum(row, Int32GetDatum(-1));
	else if (pg_getnameinfo_all(&address->addr, address->salen, NULL, 0,
								port, sizeof(port), NI_NUMERICSERV) != 0)
		row_null(row);
	else
		row_datum(row, Int32GetDatum(atoi(port)));
}

/*
 * Add a client's application_name to a row.
 *
 * Its owner may be writing it while we read.  Settle for what can be shown:
 * the server allows nothing but printable ASCII in it either.
 */
static void
row_application(Row *row, PwShmClient *client)
{
	char	   *name = client->application_name;

	name[NAMEDATALEN - 1] = '\0';
	for (char *c = name; *c != '\0'; c++)
	{
		if (*c < 32 || *c > 126)
			*c = '?';
	}
	row_text(row, name);
}

/*
 * Add why a client keeps its slot to a row, or NULL if it does not.
 */
static void
row_pin_reason(Row *row, int reason)
{
	row_text(row, (reason == PW_PIN_NONE) ? NULL : pw_pin_reason_names[reason]);
}

/*
 * Add a complete row to the result.
 */
static void
row_emit(Row *row, ReturnSetInfo *rsinfo)
{
	if (row->ncolumns != rsinfo->setDesc->natts)
		elog(ERROR, "row of %d columns for a function that returns %d",
			 row->ncolumns, rsinfo->setDesc->natts);

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
						 row->values, row->nulls);
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
			   psprintf("The pool listens on port %d with %d sockets.",
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

		if (pool->health != PW_POOL_FAILING)
			report(doctor, VERDICT_OK,
				   psprintf("Database \"%s\", role \"%s\": %d slots are open.",
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
	Oid			types[MAX_COLUMNS];
	Datum		values[MAX_COLUMNS];

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
	Row			row = {0};

	row_text(&row, doctor->check);
	if (verdict == VERDICT_UNKNOWN)
		row_null(&row);
	else
		row_datum(&row, BoolGetDatum(verdict == VERDICT_OK));
	row_text(&row, detail);
	row_text(&row, hint);
	row_emit(&row, doctor->rsinfo);
}
