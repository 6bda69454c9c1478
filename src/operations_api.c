/*-------------------------------------------------------------------------
 *
 * operations_api.c
 *	  The SQL functions for administrators: pool_pause() and the like.
 *
 * Runs in: any backend that calls one of them.
 *
 * They ask the worker, which carries out the operation, or begins it (see
 * operations.c).  What is left of it can be seen in shared memory, so we look
 * there ourselves until it is done or our time is up.  Whatever ends the wait,
 * the operation goes on: a pool that is paused stays so until pool_resume().
 *
 * Who may call the functions for pools is said in the install script.  Those for
 * a single client have the rules of pg_cancel_backend(): members of the client's
 * role and of pg_signal_backend may, but clients of superusers are for
 * superusers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "mailbox.h"
#include "shared_state.h"
#include "sql_api.h"

#define MAX_COLUMNS 5

/* What has become of a pool. */
typedef struct PoolCopy
{
	NameData	database;
	NameData	role;
	int			clients;
	int			slots;
	int			remaining;		/* what the operation still waits for */
} PoolCopy;

/* An operation on pools. */
typedef struct OperationInfo
{
	const char *name;			/* of the function */
	bool		needs_names;	/* what is named must exist */
	bool		shuts_out;		/* and whoever is served by the pool himself */
	bool		counts_clients; /* among what remains; or else, slots: */
	bool		(*remains) (const PwShmSlot *slot);
	const char *unfinished;		/* for a warning; format of what remains */
	const char *hint;
} OperationInfo;

PG_FUNCTION_INFO_V1(pool_worker_pause_1_0);
PG_FUNCTION_INFO_V1(pool_worker_resume_1_0);
PG_FUNCTION_INFO_V1(pool_worker_drain_1_0);
PG_FUNCTION_INFO_V1(pool_worker_recycle_1_0);
PG_FUNCTION_INFO_V1(pool_worker_disconnect_1_0);
PG_FUNCTION_INFO_V1(pool_worker_cancel_1_0);

static Datum operate_on_pools(FunctionCallInfo fcinfo, PwOperation operation);
static void read_selection(FunctionCallInfo fcinfo, PwSelection *pools);
static void check_names(const PwSelection *pools);
static void check_own_pool(const PwSelection *pools, const OperationInfo *info);
static PwAnswer ask(PwRequest *request, PwOperation operation);
static PoolCopy *await_end(const PwRequest *request, int64 timeout, int *npools);
static void explain_wait(void *arg);
static PoolCopy *copy_pools(const PwRequest *request, int *npools, int *remaining);
static void copy_pool(const PwRequest *request, int pool, PoolCopy *copy);
static void emit_pool(ReturnSetInfo *rsinfo, PoolCopy *pool);
static bool is_in_transaction(const PwShmSlot *slot);
static bool is_retiring(const PwShmSlot *slot);
static int64 check_timeout(int64 timeout);
static bool find_client(uint64 id, Oid *roleoid);
static bool may_signal(uint64 id, const char *action);
static void await_departure(uint64 id, int64 timeout);

static const OperationInfo operations[] = {
	[PW_OPERATION_PAUSE] = {
		"pool_pause()", true, true, false, is_in_transaction,
		"Transactions that are still open: %d.",
		"The pools are paused, and these transactions may end.  pool_resume() ends the pause."
	},
	[PW_OPERATION_RESUME] = {
		"pool_resume()", false, false, false, NULL, NULL, NULL
	},
	[PW_OPERATION_DRAIN] = {
		"pool_drain()", true, true, true, NULL,
		"Clients that are still in a transaction: %d.",
		"They are disconnected when it ends.  pool_disconnect() does not wait for that; pool_resume() lets them stay."
	},
	[PW_OPERATION_RECYCLE] = {
		"pool_recycle()", false, false, false, is_retiring,
		"Old slots that are still in use: %d.",
		"They end when they come free."
	},
};

/*
 * pool_pause(): clients wait when their transactions have ended.
 */
Datum
pool_worker_pause_1_0(PG_FUNCTION_ARGS)
{
	return operate_on_pools(fcinfo, PW_OPERATION_PAUSE);
}

/*
 * pool_resume(): all is as before.
 */
Datum
pool_worker_resume_1_0(PG_FUNCTION_ARGS)
{
	return operate_on_pools(fcinfo, PW_OPERATION_RESUME);
}

/*
 * pool_drain(): clients are sent away.
 */
Datum
pool_worker_drain_1_0(PG_FUNCTION_ARGS)
{
	return operate_on_pools(fcinfo, PW_OPERATION_DRAIN);
}

/*
 * pool_recycle(): new slots for old ones.
 */
Datum
pool_worker_recycle_1_0(PG_FUNCTION_ARGS)
{
	return operate_on_pools(fcinfo, PW_OPERATION_RECYCLE);
}

/*
 * One row for each pool there is.  Arguments are a database and a role, NULL for
 * all, and for how long to wait, NULL for as long as it takes.
 */
static Datum
operate_on_pools(FunctionCallInfo fcinfo, PwOperation operation)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const OperationInfo *info = &operations[operation];
	PwRequest	request = {0};
	int64		timeout = PG_INT64_MAX;
	PoolCopy   *pools;
	int			npools;

	pw_require_preload();
	if (PG_NARGS() < 3)
		timeout = 0;
	else if (!PG_ARGISNULL(2))
		timeout = check_timeout(PG_GETARG_INT64(2));
	read_selection(fcinfo, &request.pools);
	if (info->needs_names)
		check_names(&request.pools);
	if (info->shuts_out)
		check_own_pool(&request.pools, info);
	InitMaterializedSRF(fcinfo, 0);

	if (ask(&request, operation) == PW_ANSWER_NOBODY)
		ereport(NOTICE,
				(errmsg("there is no such connection pool at present"),
				 info->needs_names ?
				 errdetail("It is remembered for pools that are made later.") : 0));
	pools = await_end(&request, timeout, &npools);
	for (int i = 0; i < npools; i++)
		emit_pool(rsinfo, &pools[i]);
	return (Datum) 0;
}

static void
read_selection(FunctionCallInfo fcinfo, PwSelection *pools)
{
	if (!PG_ARGISNULL(0))
		pools->database = *PG_GETARG_NAME(0);
	if (!PG_ARGISNULL(1))
		pools->role = *PG_GETARG_NAME(1);
}

/* What is remembered for later must not be a typing error. */
static void
check_names(const PwSelection *pools)
{
	if (NameStr(pools->database)[0] != '\0')
		(void) get_database_oid(NameStr(pools->database), false);
	if (NameStr(pools->role)[0] != '\0')
		(void) get_role_oid(NameStr(pools->role), false);
}

/*
 * Whoever is served by a pool could not wait until it has come to rest, nor ever
 * ask for its end.
 */
static void
check_own_pool(const PwSelection *pools, const OperationInfo *info)
{
	bool		is_own = false;

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		int			pool = PwSlots[i].pool;

		if (PwSlots[i].pid == MyProcPid && pool != PW_NONE &&
			pw_selection_covers(pools, &PwPools[pool].database, &PwPools[pool].role))
			is_own = true;
	}
	LWLockRelease(&PwControl->lock);

	if (is_own)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s cannot be called in a session of the pool that it would stop",
						info->name),
				 errhint("Connect to the server's own port, %d.", PostPortNumber)));
}

/*
 * Have the worker do it.  Returns that it has, or that there was nobody to do it
 * to.
 */
static PwAnswer
ask(PwRequest *request, PwOperation operation)
{
	PwAnswer	answer;

	request->operation = operation;
	request->pid = MyProcPid;
	namestrcpy(&request->role, GetUserNameFromId(GetUserId(), false));
	answer = pw_mailbox_ask(request);

	if (answer == PW_ANSWER_FULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many pools have been paused or drained one by one"),
				 errhint("Pause or drain all pools of a database, or all.")));
	if (answer == PW_ANSWER_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("the pool worker could not do that"),
				 errhint("The server log says why.")));
	return answer;
}

/*
 * Wait until nothing remains to be done, or the time is up.  Returns what was
 * seen in the end.
 */
static PoolCopy *
await_end(const PwRequest *request, int64 timeout, int *npools)
{
	const OperationInfo *info = &operations[request->operation];
	TimestampTz start = GetCurrentTimestamp();
	ErrorContextCallback context = {.previous = error_context_stack,
	.callback = explain_wait,.arg = unconstify(OperationInfo *, info)};
	PoolCopy   *pools;
	int			remaining;

	error_context_stack = &context;
	for (;;)
	{
		int64		left = timeout - (GetCurrentTimestamp() - start) / 1000;

		pools = copy_pools(request, npools, &remaining);
		if (remaining == 0 || left <= 0)
			break;
		pfree(pools);
		pw_mailbox_wait(left);
	}
	pw_mailbox_done();
	error_context_stack = context.previous;

	if (remaining > 0 && timeout > 0)
		ereport(WARNING,
				(errmsg("%s is not done within %lld milliseconds", info->name,
						(long long) timeout),
				 errdetail_internal(info->unfinished, remaining),
				 errhint("%s", info->hint)));
	return pools;
}

/*
 * Error context callback: the wait may end, but what has been asked for does
 * not.
 */
static void
explain_wait(void *arg)
{
	errcontext("waiting for the end of what %s has begun; it goes on without",
			   ((OperationInfo *) arg)->name);
}

/*
 * Copy all pools that the request is about.
 */
static PoolCopy *
copy_pools(const PwRequest *request, int *npools, int *remaining)
{
	PoolCopy   *copies = palloc0(sizeof(PoolCopy) * PwControl->max_pools);

	*npools = *remaining = 0;
	LWLockAcquire(&PwControl->lock, LW_SHARED);
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		if (!PwPools[i].in_use ||
			!pw_selection_covers(&request->pools, &PwPools[i].database, &PwPools[i].role))
			continue;
		copy_pool(request, i, &copies[*npools]);
		*remaining += copies[*npools].remaining;
		(*npools)++;
	}
	LWLockRelease(&PwControl->lock);
	return copies;
}

/*
 * The caller holds control->lock.
 */
static void
copy_pool(const PwRequest *request, int pool, PoolCopy *copy)
{
	const OperationInfo *info = &operations[request->operation];

	copy->database = PwPools[pool].database;
	copy->role = PwPools[pool].role;
	copy->clients = PwPools[pool].clients;
	copy->slots = PwPools[pool].slots;
	if (info->counts_clients)
		copy->remaining = copy->clients;
	for (int i = 0; i < PwControl->max_slots && info->remains != NULL; i++)
		if (PwSlots[i].pool == pool && PwSlots[i].pid != MyProcPid &&
			info->remains(&PwSlots[i]))
			copy->remaining++;
}

/*
 * Add the row of a pool, with as many columns as the function has.
 */
static void
emit_pool(ReturnSetInfo *rsinfo, PoolCopy *pool)
{
	Datum		values[MAX_COLUMNS] = {NameGetDatum(&pool->database),
		NameGetDatum(&pool->role), Int32GetDatum(pool->clients),
	Int32GetDatum(pool->slots), Int32GetDatum(pool->remaining)};
	bool		nulls[MAX_COLUMNS] = {0};

	if (rsinfo->setDesc->natts > MAX_COLUMNS)
		elog(ERROR, "function with too many columns");
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * May a slot be in a transaction, or begin one although its pool is paused?  See
 * the header of slot_wait.c.
 */
static bool
is_in_transaction(const PwShmSlot *slot)
{
	switch (pg_atomic_read_u32((pg_atomic_uint32 *) &slot->activity))
	{
		case PW_SLOT_BUSY:
		case PW_SLOT_CLAIMED:
		case PW_SLOT_ASSIGNED:
			return true;
		case PW_SLOT_PINNED:
			pg_read_barrier();
			return slot->pin_reason == PW_PIN_TRANSACTION;
		default:
			return false;
	}
}

/* Not one that has gone, and waits for the worker to notice. */
static bool
is_retiring(const PwShmSlot *slot)
{
	return slot->retire_reason != PW_RETIRE_NONE &&
		pg_atomic_read_u32((pg_atomic_uint32 *) &slot->activity) != PW_SLOT_GONE;
}

static int64
check_timeout(int64 timeout)
{
	if (timeout < 0)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("\"timeout\" must not be negative")));
	return timeout;
}

/*
 * pool_disconnect(): true if the client is gone; or if it will be, and we do not
 * wait for that.
 */
Datum
pool_worker_disconnect_1_0(PG_FUNCTION_ARGS)
{
	PwRequest	request = {.client = (uint64) PG_GETARG_INT64(0)};
	int64		timeout = check_timeout(PG_GETARG_INT64(1));
	Oid			roleoid;

	pw_require_preload();
	if (!may_signal(request.client, "disconnect"))
		PG_RETURN_BOOL(false);
	if (ask(&request, PW_OPERATION_DISCONNECT) == PW_ANSWER_DONE && timeout > 0)
		await_departure(request.client, timeout);
	PG_RETURN_BOOL(timeout == 0 || !find_client(request.client, &roleoid));
}

/*
 * pool_cancel(): true if a statement was running, and the signal has been sent.
 */
Datum
pool_worker_cancel_1_0(PG_FUNCTION_ARGS)
{
	PwRequest	request = {.client = (uint64) PG_GETARG_INT64(0)};

	pw_require_preload();
	if (!may_signal(request.client, "cancel"))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(ask(&request, PW_OPERATION_CANCEL) == PW_ANSWER_DONE);
}

/*
 * Is there a client with this number, and of which role?  InvalidOid while it
 * logs in.
 */
static bool
find_client(uint64 id, Oid *roleoid)
{
	bool		found = false;

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	for (int i = 0; i < PwControl->max_clients && !found; i++)
	{
		uint64		word = pg_atomic_read_u64(&PwClients[i].word);
		int			pool = PwClients[i].pool;

		if (PwClients[i].id != id || PW_WORD_STATE(word) == PW_CLIENT_FREE)
			continue;
		*roleoid = pool == PW_NONE ? InvalidOid : PwPools[pool].roleoid;
		found = true;
	}
	LWLockRelease(&PwControl->lock);
	return found;
}

/*
 * False, with a warning, if there is no such client.  An error if the caller may
 * not do that to it.  Who is logging in is nobody's yet but a superuser's.
 */
static bool
may_signal(uint64 id, const char *action)
{
	Oid			roleoid;

	if (!find_client(id, &roleoid))
	{
		ereport(WARNING,
				(errmsg("there is no pool client " UINT64_FORMAT, id)));
		return false;
	}
	if (superuser())
		return true;
	if (!OidIsValid(roleoid) || superuser_arg(roleoid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be a superuser to %s this pool client", action)));
	if (!has_privs_of_role(GetUserId(), roleoid) &&
		!has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be a member of the role whose client it is, or of pg_signal_backend, to %s this pool client",
						action)));
	return true;
}

/*
 * Wait until a client is gone, with a warning if that takes too long.
 */
static void
await_departure(uint64 id, int64 timeout)
{
	TimestampTz start = GetCurrentTimestamp();
	Oid			roleoid;

	while (find_client(id, &roleoid))
	{
		int64		left = timeout - (GetCurrentTimestamp() - start) / 1000;

		if (left <= 0)
		{
			ereport(WARNING,
					(errmsg("pool client " UINT64_FORMAT " did not leave within %lld milliseconds",
							id, (long long) timeout)));
			break;
		}
		pw_mailbox_wait(left);
	}
	pw_mailbox_done();
}
