/*-------------------------------------------------------------------------
 *
 * operations.c
 *	  What an administrator has the pools do: pause, resume, drain, recycle; and
 *	  what becomes of a single client.
 *
 * Runs in: pool worker.
 *
 * Requests come from mailbox.c, one at a time.  What takes longer than a moment
 * is only begun here: whoever has asked looks by himself what is left of it,
 * see operations_api.c.
 *
 * Orders
 * ------
 *
 * Whether a pool serves its clients is in pool->service, and slots heed it: see
 * the header of slot_wait.c.  A request names pools that there may be later, too,
 * so it is kept as an order for pools to be made.  A later order goes first, and
 * replaces those that it covers.  Orders are by name, and are only asked when a
 * pool is made; they end with pool_resume(), or with the server.
 *
 * Sending away
 * ------------
 *
 * A client that is parked is the worker's to close.  If it is attached we tell
 * its slot, in the way that time limits use.  Between the two it can slip away:
 * a slot that has been told may have been about to park its client, and forgets
 * what it was told.  So we look again, until the client is gone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "client.h"
#include "enforce.h"
#include "mailbox.h"
#include "operations.h"
#include "pool_internal.h"

/* from one look at those who are being sent away to the next, ms */
#define CHASE_MS 50

/* clients closed at a time; others may need the worker, too */
#define MAX_CLOSED 100

/* How an operation is carried out. */
typedef PwAnswer (*PwOperationFn) (const PwRequest *request);

static PwTimer chase_timer;

/* clients that are to be disconnected, by their serial number */
static uint64 *condemned = NULL;
static int	ncondemned = 0;

static PwAnswer pause_pools(const PwRequest *request);
static PwAnswer resume_pools(const PwRequest *request);
static PwAnswer drain_pools(const PwRequest *request);
static PwAnswer recycle_pools(const PwRequest *request);
static PwAnswer set_services(const PwRequest *request, PwService service);
static bool give_order(const PwSelection *pools, PwService service);
static bool is_needed(const PwShmOrder *order, int nfirst);
static bool may_be_same(const NameData *name, const NameData *other);
static void set_service(PwPool *pool, PwService service);
static bool is_selected(const PwRequest *request, const PwPool *pool);
static void log_request(const PwRequest *request, const char *what, int npools);
static PwAnswer disconnect_client(const PwRequest *request);
static void condemn(uint64 id);
static PwAnswer cancel_client(const PwRequest *request);
static void log_client(const PwRequest *request, const char *what, int client);
static int	find_client(uint64 id);
static bool is_restricted(void);
static void chase_soon(int ms);
static void chase(void *arg);
static void chase_failed(void *arg);
static bool chase_condemned(void);
static bool chase_drained(PwPool *pool);
static bool send_away(int client, bool even_in_transaction);

static const PwOperationFn operations[] = {
	[PW_OPERATION_PAUSE] = pause_pools,
	[PW_OPERATION_RESUME] = resume_pools,
	[PW_OPERATION_DRAIN] = drain_pools,
	[PW_OPERATION_RECYCLE] = recycle_pools,
	[PW_OPERATION_DISCONNECT] = disconnect_client,
	[PW_OPERATION_CANCEL] = cancel_client,
};

StaticAssertDecl(lengthof(operations) == PW_NOPERATIONS,
				 "every operation needs a row in operations");

void
pw_operations_init(void)
{
	condemned = MemoryContextAlloc(TopMemoryContext,
								   sizeof(uint64) * PwControl->max_clients);
	pg_atomic_write_u32(&PwControl->mail, 1);
	chase_soon(0);
}

void
pw_operations_work(void)
{
	PwRequest	request;

	while (pw_mailbox_take(&request))
		pw_mailbox_answer(operations[request.operation] (&request));
	if (is_restricted())
		pw_mailbox_progress();
}

static PwAnswer
pause_pools(const PwRequest *request)
{
	return set_services(request, PW_SERVICE_PAUSED);
}

static PwAnswer
resume_pools(const PwRequest *request)
{
	return set_services(request, PW_SERVICE_OPEN);
}

static PwAnswer
drain_pools(const PwRequest *request)
{
	PwAnswer	answer = set_services(request, PW_SERVICE_DRAINING);

	chase_soon(0);
	return answer;
}

/*
 * Have all slots replaced; see slot_life.c.
 */
static PwAnswer
recycle_pools(const PwRequest *request)
{
	int			npools = 0;

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		if (!is_selected(request, &PwLocalPools[i]))
			continue;
		npools++;
		(void) pw_slot_life_recycle(&PwLocalPools[i]);
	}
	log_request(request, "recycled", npools);
	return npools > 0 ? PW_ANSWER_DONE : PW_ANSWER_NOBODY;
}

static PwAnswer
set_services(const PwRequest *request, PwService service)
{
	static const char *const words[] = {
		[PW_SERVICE_OPEN] = "resumed",
		[PW_SERVICE_PAUSED] = "paused",
		[PW_SERVICE_DRAINING] = "drained",
	};
	int			npools = 0;

	if (!give_order(&request->pools, service))
		return PW_ANSWER_FULL;
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		if (!is_selected(request, &PwLocalPools[i]))
			continue;
		npools++;
		set_service(&PwLocalPools[i], service);
	}
	log_request(request, words[service], npools);
	pw_enforce_reschedule();
	return npools > 0 ? PW_ANSWER_DONE : PW_ANSWER_NOBODY;
}

/*
 * Remember what pools are to do that do not exist yet.  False if there is no
 * room for that.
 */
static bool
give_order(const PwSelection *pools, PwService service)
{
	PwShmOrder	order = {.pools = *pools,.service = service,.since = pw_loop_now()};
	PwShmOrder *orders = PwControl->orders;
	int			kept = 0;
	bool		has_room;

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PwControl->norders; i++)
		if (!pw_selection_covers(pools, &orders[i].pools.database, &orders[i].pools.role) &&
			is_needed(&orders[i], kept))
			orders[kept++] = orders[i];
	has_room = kept < PW_MAX_ORDERS || !is_needed(&order, kept);
	if (has_room && is_needed(&order, kept))
		orders[kept++] = order;
	PwControl->norders = kept;
	LWLockRelease(&PwControl->lock);
	return has_room;
}

/*
 * Pools are OPEN anyway, unless they are among those of one of the first orders.
 */
static bool
is_needed(const PwShmOrder *order, int nfirst)
{
	for (int i = 0; i < nfirst; i++)
	{
		const PwShmOrder *first = &PwControl->orders[i];

		if (first->service != PW_SERVICE_OPEN &&
			may_be_same(&first->pools.database, &order->pools.database) &&
			may_be_same(&first->pools.role, &order->pools.role))
			return true;
	}
	return order->service != PW_SERVICE_OPEN;
}

/* An empty name stands for all. */
static bool
may_be_same(const NameData *name, const NameData *other)
{
	return NameStr(*name)[0] == '\0' || NameStr(*other)[0] == '\0' ||
		strcmp(NameStr(*name), NameStr(*other)) == 0;
}

PwService
pw_operations_ordered(const char *database, const char *role)
{
	PwService	service = PW_SERVICE_OPEN;
	PwSelection names;

	namestrcpy(&names.database, database);
	namestrcpy(&names.role, role);
	for (int i = 0; i < PwControl->norders; i++)
		if (pw_selection_covers(&PwControl->orders[i].pools, &names.database, &names.role))
			service = PwControl->orders[i].service;
	return service;
}

/*
 * Change what a pool does.  It may be gone afterwards.
 *
 * Those who have been waiting for the end of a pause have not been waiting for
 * a slot, so that begins now; before slots can take them.
 */
static void
set_service(PwPool *pool, PwService service)
{
	PwShmPool  *shared = pool->shared;
	int			index = shared - PwPools;

	if (pw_pool_service(shared) == service)
		return;
	if (service == PW_SERVICE_OPEN)
	{
		pw_pool_find_again(pool);
		pw_queue_restart(pool);
	}
	shared->service_since = GetCurrentTimestamp();

	/* a full barrier; see the header of slot_wait.c */
	(void) pg_atomic_exchange_u32(&shared->service, service);
	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index)
			pw_wake_slot(i);
	pw_pool_look_after(pool);
}

static bool
is_selected(const PwRequest *request, const PwPool *pool)
{
	return pool->shared->in_use &&
		pw_selection_covers(&request->pools, &pool->shared->database, &pool->shared->role);
}

static void
log_request(const PwRequest *request, const char *what, int npools)
{
	const char *database = NameStr(request->pools.database);
	const char *role = NameStr(request->pools.role);

	ereport(LOG,
			(errmsg("connection pools %s by role \"%s\", process %d", what,
					NameStr(request->role), request->pid),
			 errdetail("Database %s, role %s.  Pools at present: %d.",
					   database[0] ? psprintf("\"%s\"", database) : "any",
					   role[0] ? psprintf("\"%s\"", role) : "any", npools)));
}

/*
 * Send a client away, and in the middle of a transaction too.
 */
static PwAnswer
disconnect_client(const PwRequest *request)
{
	int			client = find_client(request->client);

	if (client == PW_NONE)
		return PW_ANSWER_NOBODY;
	log_client(request, "disconnected", client);
	if (!send_away(client, true))
	{
		condemn(request->client);
		chase_soon(CHASE_MS);
	}
	return PW_ANSWER_DONE;
}

/*
 * There is room for all who are connected; who has left meanwhile is forgotten
 * by the next look.
 */
static void
condemn(uint64 id)
{
	for (int i = 0; i < ncondemned; i++)
		if (condemned[i] == id)
			return;
	if (ncondemned == PwControl->max_clients)
		(void) chase_condemned();
	condemned[ncondemned++] = id;
}

/* Cancel the statement of a client, running or waiting, if there is one. */
static PwAnswer
cancel_client(const PwRequest *request)
{
	int			client = find_client(request->client);

	if (client == PW_NONE || !pw_pool_cancel(client))
		return PW_ANSWER_NOBODY;
	log_client(request, "canceled", client);
	return PW_ANSWER_DONE;
}

static void
log_client(const PwRequest *request, const char *what, int client)
{
	const PwShmClient *shared = &PwClients[client];
	const PwShmPool *pool = shared->pool == PW_NONE ? NULL : &PwPools[shared->pool];

	ereport(LOG,
			(errmsg("pool client " UINT64_FORMAT " %s by role \"%s\", process %d",
					shared->id, what, NameStr(request->role), request->pid),
			 errdetail("Database \"%s\", role \"%s\", address %s.",
					   pool ? NameStr(pool->database) : "",
					   pool ? NameStr(pool->role) : "", shared->remote_host)));
}

/* PW_NONE if it is gone, or as good as. */
static int
find_client(uint64 id)
{
	for (int i = 0; i < PwControl->max_clients; i++)
	{
		PwClientState state = PW_WORD_STATE(pg_atomic_read_u64(&PwClients[i].word));

		if (PwClients[i].id == id && state != PW_CLIENT_FREE &&
			state != PW_CLIENT_LEAVING && state != PW_CLIENT_CLOSING)
			return i;
	}
	return PW_NONE;
}

/* Is there a pool that does not serve its clients? */
static bool
is_restricted(void)
{
	for (int i = 0; i < PwControl->max_pools; i++)
		if (PwPools[i].in_use && pw_pool_service(&PwPools[i]) != PW_SERVICE_OPEN)
			return true;
	return false;
}

static void
chase_soon(int ms)
{
	pw_timer_arm(&chase_timer, TimestampTzPlusMilliseconds(pw_loop_now(), ms),
				 chase, chase_failed, NULL);
}

/* Timer callback: send away whoever has to go and is still there. */
static void
chase(void *arg)
{
	bool		going_on;

	chase_soon(CHASE_MS);
	going_on = chase_condemned();
	for (int i = 0; i < PwControl->max_pools; i++)
		if (PwPools[i].in_use && pw_pool_service(&PwPools[i]) == PW_SERVICE_DRAINING &&
			PwPools[i].clients > 0)
			going_on |= chase_drained(&PwLocalPools[i]);
	if (!going_on)
		pw_timer_disarm(&chase_timer);
	pw_mailbox_progress();
}

/* Timer callback: the next look is on its way already. */
static void
chase_failed(void *arg)
{
}

/* True if there is somebody left. */
static bool
chase_condemned(void)
{
	int			left = 0;

	for (int i = 0; i < ncondemned; i++)
	{
		int			client = find_client(condemned[i]);

		if (client != PW_NONE && !send_away(client, true))
			condemned[left++] = condemned[i];
	}
	ncondemned = left;
	return left > 0;
}

static bool
chase_drained(PwPool *pool)
{
	int			index = pool->shared - PwPools;
	int			closed = 0;

	for (int i = 0; i < PwControl->max_clients && closed < MAX_CLOSED; i++)
		if (PwClients[i].pool == index && send_away(i, false))
			closed++;
	if (closed == MAX_CLOSED)
		chase_soon(0);
	return pool->shared->clients > 0;
}

/*
 * Close a client, or have its slot do it.  True if it is closed.
 */
static bool
send_away(int client, bool even_in_transaction)
{
	PwReport	report = {.sqlstate = pw_time_limits[PW_LIMIT_ADMINISTRATOR].sqlstate,
	.message = psprintf(PW_END_WORDS, pw_time_limits[PW_LIMIT_ADMINISTRATOR].name)};

	if (pw_client_refuse(client, &report))
		return true;
	(void) pw_enforce_end(client, even_in_transaction);
	return false;
}
