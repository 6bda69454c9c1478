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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_authid.h"
#include "common/ip.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "doctor.h"
#include "guc_access.h"
#include "metrics.h"
#include "settings.h"
#include "shared_state.h"
#include "sql_api.h"

/* no function returns more columns than this */
#define MAX_COLUMNS 64

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
	bool		high;			/* has priority */
} ClientCopy;

PG_FUNCTION_INFO_V1(pool_worker_status_1_0);
PG_FUNCTION_INFO_V1(pool_worker_slots_1_0);
PG_FUNCTION_INFO_V1(pool_worker_clients_1_0);
PG_FUNCTION_INFO_V1(pool_worker_check_1_0);
PG_FUNCTION_INFO_V1(pool_worker_settings_1_0);

static char *preload_line(void);
static bool copy_slot(int index, SlotCopy *copy);
static void emit_slot(ReturnSetInfo *rsinfo, int index, SlotCopy *copy);
static bool copy_client(int index, ClientCopy *copy);
static void emit_client(ReturnSetInfo *rsinfo, ClientCopy *copy);
static bool client_waits(const ClientCopy *copy);
static const char *client_state_name(const ClientCopy *copy);
static TimestampTz client_state_since(const ClientCopy *copy);
static bool copy_settings(int pool, PoolName *name, PwPoolSettings *settings);
static void emit_setting(ReturnSetInfo *rsinfo, PoolName *pool,
						 PwPoolSettings *settings, int setting);
static const char *unit_name(int flags);
static const char *source_name(GucSource source);
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
static void row_retire_reason(Row *row, const PwShmSlot *slot);
static void row_emit(Row *row, ReturnSetInfo *rsinfo);

/*
 * pool_status(): one row for each pool.
 */
Datum
pool_worker_status_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	PwPoolSample *pools;
	int			npools;

	pw_require_preload();
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

	pw_require_preload();
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

	pw_require_preload();
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
	pw_require_preload();
	InitMaterializedSRF(fcinfo, 0);

	pw_doctor_run((ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/*
 * pool_settings(): what is in force for each pool.
 */
Datum
pool_worker_settings_1_0(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	pw_require_preload();
	InitMaterializedSRF(fcinfo, 0);

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PoolName	pool;
		PwPoolSettings settings;

		if (!copy_settings(i, &pool, &settings))
			continue;
		for (int setting = 0; setting < PW_POOL_NSETTINGS; setting++)
			emit_setting(rsinfo, &pool, &settings, setting);
	}

	return (Datum) 0;
}

void
pw_require_preload(void)
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
	row_datum(&row, Int64GetDatum((int64) copy->slot.memory));
	row_retire_reason(&row, &copy->slot);
	row_datum(&row, BoolGetDatum(copy->slot.reserve));
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
	copy->high = copy->client.pool != PW_NONE &&
		pw_client_is_high(&copy->client, &PwPools[copy->client.pool]);
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
	row_time(&row, client_state_since(copy));
	row_time(&row, client->connected_at);
	row_datum(&row, Int64GetDatum((int64) client->transactions));
	row_datum(&row, Float8GetDatum(client->last_wait / 1000.0));
	row_text(&row, copy->client.pool == PW_NONE ? NULL : copy->high ? "high" : "normal");
	row_emit(&row, rsinfo);
}

/*
 * Does a client want a slot, and has none?
 */
static bool
client_waits(const ClientCopy *copy)
{
	return (copy->state == PW_CLIENT_PARKED || copy->state == PW_CLIENT_HELD) &&
		pw_client_waiting_since(&copy->client) != 0;
}

/*
 * The state of a client.  To its user it makes a difference whether the slot
 * it is attached to can be taken away, and whether it wants one, so these get
 * words of their own.
 */
static const char *
client_state_name(const ClientCopy *copy)
{
	if (copy->state == PW_CLIENT_ATTACHED &&
		copy->client.pin_reason != PW_PIN_NONE)
		return "pinned";
	if (client_waits(copy))
		return "waiting";
	return pw_client_state_names[copy->state];
}

static TimestampTz
client_state_since(const ClientCopy *copy)
{
	if (client_waits(copy))
		return pw_client_waiting_since(&copy->client);
	if (copy->client.pin_reason != PW_PIN_NONE && copy->client.pinned_since != 0)
		return copy->client.pinned_since;
	return copy->client.state_since;
}

/*
 * Copy the settings of a pool.  False if it is not in use.
 */
static bool
copy_settings(int pool, PoolName *name, PwPoolSettings *settings)
{
	LWLockAcquire(&PwControl->lock, LW_SHARED);
	copy_pool_name(pool, name);
	*settings = PwPools[pool].settings;
	LWLockRelease(&PwControl->lock);

	return OidIsValid(name->roleoid);
}

/*
 * Add the row of a setting of a pool.
 */
static void
emit_setting(ReturnSetInfo *rsinfo, PoolName *pool, PwPoolSettings *settings,
			 int setting)
{
	const PwPoolSettingInfo *info = &pw_pool_setting_info[setting];
	struct config_generic *variable = pw_guc_find(info->name);
	int			value = *(int *) ((char *) settings + info->offset);
	Row			row = {0};

	row_pool_name(&row, pool);
	row_text(&row, info->name);
	if (variable->vartype == PGC_ENUM)
		row_text(&row, config_enum_lookup_by_value((struct config_enum *) variable, value));
	else
		row_text(&row, psprintf("%d", value));
	row_text(&row, unit_name(variable->flags));
	row_text(&row, source_name(settings->source[setting]));
	row_emit(&row, rsinfo);
}

/*
 * The name of a unit that a setting of a pool has, or NULL.
 */
static const char *
unit_name(int flags)
{
	switch (flags & GUC_UNIT)
	{
		case GUC_UNIT_MS:
			return "ms";
		case GUC_UNIT_S:
			return "s";
		case GUC_UNIT_KB:
			return "kB";
		default:
			return NULL;
	}
}

/*
 * What has set a setting of a pool, in the words of pg_settings.
 */
static const char *
source_name(GucSource source)
{
	return (source <= PGC_S_ARGV) ? "configuration" : GucSource_Names[source];
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
 * Add why a slot will be replaced to a row, or NULL if it will not.
 */
static void
row_retire_reason(Row *row, const PwShmSlot *slot)
{
	PwRetireReason reason = slot->retire_reason;

	if (reason == PW_RETIRE_NONE && pw_slot_is_stale(slot, &PwPools[slot->pool]))
		row_text(row, "role or database changed");
	else
		row_text(row, pw_retire_reason_names[reason]);
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
