/*-------------------------------------------------------------------------
 *
 * pool.c
 *	  One (database, role): its clients, its slots, its epoll set, and which
 *	  client goes to which slot.
 *
 * Runs in: pool worker.
 *
 * This is the only file that knows both clients and slots.  How many slots a
 * pool has is decided in pool_size.c.
 *
 * Who serves the queue
 * --------------------
 *
 * The kernel is the queue: parked clients sit in the pool's epoll set with
 * EPOLLONESHOT, and whoever takes an event out of it and then swaps the
 * client's word from PARKED to ATTACHED has the client.
 *
 * Slots that are busy take their next client from the set themselves, when
 * they finish a transaction.  The worker steps in only for slots that sleep:
 * it claims an idle slot, takes one client out of the set, and assigns it.
 * While no slot of the pool is idle the worker does not look at the set at
 * all, or it would wake for every event that the slots are about to take.
 *
 * So that no client is overlooked: the worker clears "watched" and then looks
 * for idle slots once more; a slot declares itself idle and then looks at
 * "watched", and if that is clear sets "poked" and wakes the worker.  Both do
 * their store before their load with a full barrier between, so at least one
 * of them sees the other.
 *
 * A client that has not had its first ReadyForQuery sends nothing, yet needs
 * a slot.  It enters the set with EPOLLOUT, which is true at once, and queues
 * with the others.
 *
 * Two queues
 * ----------
 *
 * Clients whose application has high priority have a set of their own, and
 * everybody looks there first.  A counter of those who are parked in it saves
 * the look where there are none.  Slots of the reserve look nowhere else: so what
 * is said above is true for each set and the slots that serve it, and "watched"
 * says which of the two the worker looks at.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "client.h"
#include "enforce.h"
#include "operations.h"
#include "pool.h"
#include "pool_internal.h"
#include "pool_settings.h"
#include "priority.h"
#include "protocol.h"
#include "settings.h"
#include "shared_state.h"
#include "slot.h"
#include "waiting_command.h"

/* How long debug_always_switch holds a client back for another slot. */
#define HOLD_MS 100

PwPool	   *PwLocalPools = NULL;

static void client_authenticated(int client, const PwLogin *login);
static void login_refused(const char *database, const char *role);
static bool is_closed(const PwLogin *login, PwReport *why);
static void cancel_requested(const PwCancelKey *key);
static void client_closing(int client);
static void refuse_too_many(int client);
static bool is_over_cap(const PwLogin *login, PwReport *why);
static void slot_opened(int slot);
static void slot_gone(int slot);
static void slot_emptied(int pool);
static void return_clients_of(int slot);
static void requeue(int client, uint64 word);
static int	set_of(int client);
static PwPool *pool_find(const PwLogin *login);
static PwPool *pool_create(const PwLogin *login, PwReport *why);
static bool pool_open_sets(PwPool *pool);
static int	create_set(void);
static void close_set(int epfd);
static void pool_ready(void *arg, int ready);
static void pool_failed(void *arg);
static int	claim_idle_slot(PwPool *pool, int queues, int not_this_one);
static int	find_idle_slot(PwPool *pool, int queues, int not_this_one);
static bool is_idle(PwPool *pool, int slot);
static bool is_better_idle(const PwShmSlot *slot, const PwShmSlot *other);
static bool is_longer_idle(const PwShmSlot *slot, const PwShmSlot *other);
static int	claim_preferred_slot(int slot, int preferred);
static bool is_usable(const PwShmSlot *slot);
static bool claim_slot(int slot);
static void release_slot(int slot);
static int	take_client_for(PwPool *pool, int slot);
static int	take_ready_client(PwPool *pool, int queues);
static int	take_from_set(int epfd);
static int	take_held_client(PwPool *pool);
static void assign(int slot, int client);
static bool assign_elsewhere(PwPool *pool, int slot, int client);
static void end_hold(void *arg);
static bool another_slot_will_idle(PwPool *pool, int slot, int queue);
static bool has_unwatched_slot(PwPool *pool);
static int	parked_queues(PwPool *pool);
static int	queue_of(int client);
static int	worth_watching(PwPool *pool);
static void watch_queues(PwPool *pool, int queues);

static const PwClientEvents client_events = {
	.authenticated = client_authenticated,
	.refused = login_refused,
	.cancel = cancel_requested,
	.closing = client_closing,
};

static const PwSlotEvents slot_events = {
	.opened = slot_opened,
	.open_failed = pw_pool_open_failed,
	.gone = slot_gone,
	.emptied = slot_emptied,
};

void
pw_pool_init(void)
{
	pw_client_init(&client_events);
	pw_slot_init(&slot_events);

	PwLocalPools = MemoryContextAllocZero(TopMemoryContext,
										  sizeof(PwPool) * PwControl->max_pools);
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		pool->shared = &PwPools[i];
		pool->epfd = pool->high_epfd = pool->watch_epfd = -1;
		pool->watch.fd = pool->high_watch.fd = -1;
		pg_atomic_write_u32(&pool->shared->parked, 0);
		pg_atomic_write_u32(&pool->shared->parked_high, 0);
		pg_atomic_write_u32(&pool->shared->yield, 0);
		pool->shared->slots = pool->shared->opening = pool->shared->share = 0;
		pool->shared->clients = pool->shared->waiting = 0;
		if (pool->shared->in_use && !pool_open_sets(pool))
			pool->shared->in_use = false;
	}
	pw_queue_init();
	pw_enforce_init();
	pw_slot_life_init();
	pw_operations_init();
	pw_pool_size_init();
}

/*
 * A wakeup may mean anything, so look at all that slots can tell us.
 */
void
pw_pool_work(void)
{
	uint32		next = pw_client_take_leavers();

	while (next != 0)
	{
		int			client = next - 1;

		next = PwClients[client].next_leaver;
		if (!pw_client_close_leaver(client))
			requeue(client, pg_atomic_read_u64(&PwClients[client].word));
	}
	pw_pool_changes_work();
	pw_operations_work();

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		if (!PwPools[i].in_use)
			continue;
		if (pg_atomic_read_u32(&PwPools[i].poked) != 0 &&
			pg_atomic_exchange_u32(&PwPools[i].poked, 0) != 0)
			pw_pool_look_after(&PwLocalPools[i]);
	}
}

void
pw_pool_reload(void)
{
	pw_pool_size_reload();
}

/*
 * A client has logged in: put it into its pool's queue.
 */
static void
client_authenticated(int client, const PwLogin *login)
{
	PwShmClient *shared = &PwClients[client];
	PwPool	   *pool;
	PwReport	why;
	struct epoll_event event;
	uint64		word;

	/* no slot from before a change for a client that logs in behind it */
	pw_pool_changes_work();

	if (PwControl->clients >= PwControl->client_limit)
	{
		refuse_too_many(client);
		return;
	}
	pw_pool_settings_refresh(false);
	if (is_closed(login, &why) || is_over_cap(login, &why))
	{
		(void) pw_client_refuse(client, &why);
		return;
	}
	pool = pool_find(login);
	if (pool == NULL)
		pool = pool_create(login, &why);
	else
		pw_pool_take_settings(pool);
	if (pool == NULL)
	{
		(void) pw_client_refuse(client, &why);
		return;
	}
	pw_pool_set_names(pool, login->database, login->role);

	shared->pool = pool->shared - PwPools;
	shared->high = pw_priority_is_high(&login->settings);
	pool->has_high = pool->has_high || shared->high;
	shared->parked_at = shared->ready_since = pw_loop_now();
	pool->shared->clients++;
	PwControl->clients++;
	word = pg_atomic_read_u64(&shared->word);
	(void) pw_client_move(shared, word, PW_CLIENT_PARKED, PW_NONE);

	event.events = EPOLLOUT | EPOLLONESHOT;
	event.data.u64 = PW_EPOLL_DATA(client, PW_WORD_GENERATION(word));
	if (epoll_ctl(set_of(client), EPOLL_CTL_ADD, pw_client_fd(client), &event) < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not park pool client: %m")));
	pw_queue_add(pool, client);
	pw_pool_dispatch(pool);
}

static void
refuse_too_many(int client)
{
	PwReport	report = {.sqlstate = ERRCODE_TOO_MANY_CONNECTIONS,
	.message = "sorry, too many clients already"};

	(void) pw_client_refuse(client, &report);
}

/*
 * Is the pool being drained?
 */
static bool
is_closed(const PwLogin *login, PwReport *why)
{
	PwPool	   *pool = pool_find(login);
	PwService	service = pool != NULL ? pw_pool_service(pool->shared) :
	pw_operations_ordered(login->database, login->role);

	if (service != PW_SERVICE_DRAINING)
		return false;
	memset(why, 0, sizeof(PwReport));
	why->sqlstate = ERRCODE_CANNOT_CONNECT_NOW;
	why->message = psprintf("connection pool \"%s/%s\" does not accept clients",
							login->database, login->role);
	why->hint = "An administrator has closed it with pool_drain(); pool_resume() opens it again.";
	return true;
}

/*
 * Has whoever max_pool_clients was set for as many clients already: the
 * database, the role, or else this role in this database?
 */
static bool
is_over_cap(const PwLogin *login, PwReport *why)
{
	PwPoolSettings settings = {0};
	GucSource	source;
	int			clients = 0;

	(void) pw_pool_settings_resolve(login->dboid, login->roleoid, &settings);
	if (settings.max_pool_clients < 0)
		return false;

	source = pw_pool_setting_source(&settings, offsetof(PwPoolSettings, max_pool_clients));
	for (int i = 0; i < PwControl->max_pools; i++)
		if (PwPools[i].in_use &&
			(source == PGC_S_USER || PwPools[i].dboid == login->dboid) &&
			(source == PGC_S_DATABASE || PwPools[i].roleoid == login->roleoid))
			clients += PwPools[i].clients;
	if (clients < settings.max_pool_clients)
		return false;

	memset(why, 0, sizeof(PwReport));
	why->sqlstate = ERRCODE_TOO_MANY_CONNECTIONS;
	if (source == PGC_S_DATABASE)
		why->message = psprintf("too many pool clients for database \"%s\"", login->database);
	else if (source == PGC_S_USER)
		why->message = psprintf("too many pool clients for role \"%s\"", login->role);
	else
		why->message = psprintf("too many pool clients for role \"%s\" in database \"%s\"",
								login->role, login->database);
	return true;
}

/* Count it where a pool is known by these names. */
static void
login_refused(const char *database, const char *role)
{
	if (database == NULL || role == NULL)
		return;
	for (int i = 0; i < PwControl->max_pools; i++)
		if (PwPools[i].in_use &&
			strcmp(NameStr(PwPools[i].database), database) == 0 &&
			strcmp(NameStr(PwPools[i].role), role) == 0)
			PwPools[i].failed++;
}

/*
 * Cancel what a client is doing.  False if it is not doing anything.
 *
 * The lock makes sure that the signal is on its way to the backend before the
 * slot can let go of this client; see detach_client() in attachment.c for how a
 * late one is kept from the next client.
 */
bool
pw_pool_cancel(int client)
{
	PwShmSlot  *slot;
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);
	bool		is_running;

	if (PW_WORD_STATE(word) == PW_CLIENT_PARKED)
		return pw_waiting_command_cancel(client);
	if (PW_WORD_STATE(word) != PW_CLIENT_ATTACHED)
		return false;

	slot = &PwSlots[PW_WORD_SLOT(word)];
	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	is_running = slot->client == client && slot->alive &&
		pg_atomic_read_u32(&slot->activity) == PW_SLOT_BUSY;
	if (is_running)
		pw_slot_signal(slot - PwSlots, SIGINT);
	LWLockRelease(&slot->lock);
	return is_running;
}

static void
cancel_requested(const PwCancelKey *key)
{
	int			client = pw_client_find_by_key(key);

	if (client != PW_NONE)
		(void) pw_pool_cancel(client);
}

/* A client is being closed. */
static void
client_closing(int client)
{
	PwPool	   *pool = &PwLocalPools[PwClients[client].pool];

	(void) epoll_ctl(set_of(client), EPOLL_CTL_DEL, pw_client_fd(client), NULL);
	pw_queue_remove(pool, client);
	pool->held = list_delete_int(pool->held, client);
	pool->shared->clients--;
	PwControl->clients--;
	pw_slot_forget_client(client);
}

static void
slot_opened(int slot)
{
	PwPool	   *pool = &PwLocalPools[PwSlots[slot].pool];

	pool->shared->opening--;
	pool->shared->slots++;
	pool->shared->opened++;
	if (PwSlots[slot].cold)
		pool->shared->cold_slots++;
	pw_pool_open_succeeded(pool, PwSlots[slot].reserve);
}

/*
 * The backend of a slot is gone.
 */
static void
slot_gone(int slot)
{
	PwPool	   *pool = &PwLocalPools[PwSlots[slot].pool];

	pool->shared->slots--;
	pw_pool_keep_counts(slot);
	return_clients_of(slot);
}

/*
 * What a slot has counted stays with its pool when it is gone.
 */
void
pw_pool_keep_counts(int slot)
{
	PwShmPool  *pool = &PwPools[PwSlots[slot].pool];

	pool->past_transactions += PwSlots[slot].transactions;
	pool->past_attaches += PwSlots[slot].attaches;
	pool->past_wait_time += PwSlots[slot].wait_time;
	pool->past_longest_wait = Max(pool->past_longest_wait, PwSlots[slot].longest_wait);
}

/* There is room for a slot again. */
static void
slot_emptied(int pool)
{
	pw_pool_slot_gone(&PwLocalPools[pool]);
}

/*
 * Decide what becomes of the clients of a slot that is gone.
 *
 * One that it was serving has seen its backend die, and is closed.  One that
 * was given to it but not attached yet has lost nothing, and queues again.
 */
static void
return_clients_of(int slot)
{
	for (int i = 0; i < PwControl->max_clients; i++)
	{
		uint64		word = pg_atomic_read_u64(&PwClients[i].word);

		if (PW_WORD_STATE(word) != PW_CLIENT_ATTACHED || PW_WORD_SLOT(word) != slot)
			continue;
		if (PwSlots[slot].client == i)
		{
			PwPools[PwClients[i].pool].failed++;
			pw_client_close_attached(i);
		}
		else
			requeue(i, word);
	}
}

/*
 * Park a client again that the worker, or a slot that is gone, had taken out
 * of the queue.  It is made ready at once, so that somebody looks at it.
 */
static void
requeue(int client, uint64 word)
{
	struct epoll_event event;

	if (PW_WORD_STATE(word) != PW_CLIENT_PARKED &&
		!pw_client_move(&PwClients[client], word, PW_CLIENT_PARKED, PW_NONE))
		return;
	event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLONESHOT;
	event.data.u64 = PW_EPOLL_DATA(client, PW_WORD_GENERATION(word));
	(void) epoll_ctl(set_of(client), EPOLL_CTL_MOD, pw_client_fd(client), &event);
}

/* The epoll set that a client queues in. */
static int
set_of(int client)
{
	PwPool	   *pool = &PwLocalPools[PwClients[client].pool];

	return PwClients[client].high ? pool->high_epfd : pool->epfd;
}

static PwPool *
pool_find(const PwLogin *login)
{
	PwCatalogNames names = {.dboid = login->dboid,.roleoid = login->roleoid};

	for (int i = 0; i < PwControl->max_pools; i++)
		if (PwPools[i].in_use && PwPools[i].dboid == login->dboid &&
			PwPools[i].roleoid == login->roleoid)
			return &PwLocalPools[i];
	namestrcpy(&names.database, login->database);
	namestrcpy(&names.role, login->role);
	return pw_pool_adopt(&names);
}

/*
 * Make a new pool.  NULL, with the reason in *why, if that cannot be.
 */
static PwPool *
pool_create(const PwLogin *login, PwReport *why)
{
	memset(why, 0, sizeof(PwReport));
	pw_pool_drop_unused();
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		if (pool->shared->in_use)
			continue;
		pool->shared->slots = pool->shared->opening = pool->shared->share = 0;
		pool->shared->clients = pool->shared->waiting = 0;
		pool->shared->failed = pool->shared->cold_slots = 0;
		pool->shared->opened = pool->shared->unanswered = 0;
		pool->shared->past_transactions = pool->shared->past_attaches = 0;
		pool->shared->past_wait_time = pool->shared->past_longest_wait = 0;
		pool->shared->waiting_since = 0;
		pool->shared->turned_away = 0;
		pool->shared->last_error_at = 0;
		pool->is_gone = pool->is_barred = pool->is_cleared = false;
		pg_atomic_write_u32(&pool->shared->parked, 0);
		pg_atomic_write_u32(&pool->shared->parked_high, 0);
		pg_atomic_write_u32(&pool->shared->active, 0);
		pg_atomic_write_u32(&pool->shared->peak_active, 0);
		pg_atomic_write_u32(&pool->shared->alarm_at, PG_UINT32_MAX);
		for (int limit = 0; limit < PW_NENDS; limit++)
			pg_atomic_write_u64(&pool->shared->enforced[limit], 0);
		memset(&pool->shared->settings, 0, sizeof(PwPoolSettings));
		pool->shared->service_since = pw_loop_now();
		pg_atomic_write_u32(&pool->shared->service,
							pw_operations_ordered(login->database, login->role));
		if (!pool_open_sets(pool))
		{
			why->sqlstate = ERRCODE_INSUFFICIENT_RESOURCES;
			why->message = "the connection pool has too many open files";
			why->hint = "Raise \"max_files_per_process\".";
			return NULL;
		}

		LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
		pool->shared->dboid = login->dboid;
		pool->shared->roleoid = login->roleoid;
		namestrcpy(&pool->shared->database, login->database);
		namestrcpy(&pool->shared->role, login->role);
		pool->shared->last_error[0] = '\0';
		pool->shared->in_use = true;
		LWLockRelease(&PwControl->lock);
		pw_pool_take_settings(pool);
		return pool;
	}

	why->sqlstate = ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
	why->message = "too many connection pools";
	why->hint = "Raise \"pool_worker.max_pools\", or wait until another pool is not used any more.";
	ereport(LOG,
			(errcode(why->sqlstate),
			 errmsg("%s", why->message),
			 errhint("%s", why->hint)));
	return NULL;
}

/* Find the pool of a login, or make it; for prewarming. */
PwPool *
pw_pool_for_login(const PwLogin *login)
{
	PwPool	   *pool = pool_find(login);
	PwReport	why;

	return pool != NULL ? pool : pool_create(login, &why);
}

/*
 * Create the epoll sets, and watch them.  False, and logged, if that fails.
 */
static bool
pool_open_sets(PwPool *pool)
{
	pool->epfd = create_set();
	pool->high_epfd = pool->epfd < 0 ? -1 : create_set();
	if (pool->high_epfd < 0)
	{
		close_set(pool->epfd);
		pool->epfd = -1;
		return false;
	}
	pool->has_high = false;
	pool->last_used_at = pw_loop_now();
	pg_atomic_write_u32(&pool->shared->watched, PW_WATCH_ALL);
	pw_watch_add(&pool->watch, pool->epfd, PW_READ, pool_ready, pool_failed, pool);
	pw_watch_add(&pool->high_watch, pool->high_epfd, PW_READ, pool_ready, pool_failed, pool);
	return true;
}

static int
create_set(void)
{
	int			epfd;

	if (!AcquireExternalFD())
	{
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not create a connection pool"),
				 errdetail("There are too many open files on the server."),
				 errhint("Raise \"max_files_per_process\".")));
		return -1;
	}
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (epfd < 0)
	{
		ReleaseExternalFD();
		ereport(LOG,
				(errcode_for_socket_access(),
				 errmsg("could not create epoll descriptor: %m")));
	}
	return epfd;
}

static void
close_set(int epfd)
{
	if (epfd < 0)
		return;
	close(epfd);
	ReleaseExternalFD();
}

/* Forget a pool that has neither clients nor slots. */
void
pw_pool_drop(PwPool *pool)
{
	pw_queue_close(pool);
	pw_watch_remove(&pool->watch);
	pw_watch_remove(&pool->high_watch);
	pw_timer_disarm(&pool->retry);
	pw_timer_disarm(&pool->growth);
	pw_timer_disarm(&pool->hold);
	close_set(pool->epfd);
	close_set(pool->high_epfd);
	pool->epfd = pool->high_epfd = -1;
	pool->min_slots = pool->failures = pool->replacing = 0;
	pool->wants_slot = false;

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	pool->shared->in_use = false;
	LWLockRelease(&PwControl->lock);
}

/* A database or role may have been renamed since the pool was made. */
void
pw_pool_set_names(PwPool *pool, const char *database, const char *role)
{
	if (strcmp(NameStr(pool->shared->database), database) == 0 &&
		strcmp(NameStr(pool->shared->role), role) == 0)
		return;
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	namestrcpy(&pool->shared->database, database);
	namestrcpy(&pool->shared->role, role);
	LWLockRelease(&PwControl->lock);
}

/* Watch callback: a parked client of this pool is ready. */
static void
pool_ready(void *arg, int ready)
{
	pw_pool_dispatch((PwPool *) arg);
}

/*
 * Watch callback: an error was raised while dispatching.  It belongs to the
 * client that was being dispatched, which remains parked or assigned, and the
 * next event finds it there.
 */
static void
pool_failed(void *arg)
{
	((PwPool *) arg)->hold_over = false;
}

/*
 * Bring ready clients and idle slots together, until either is used up.
 */
void
pw_pool_dispatch(PwPool *pool)
{
	pool->last_used_at = pw_loop_now();
	if (pw_pool_service(pool->shared) != PW_SERVICE_OPEN)
	{
		/* nobody is served; but see who leaves, and tell those who wait */
		pw_queue_begin(pool);
		pw_pool_set_watched(pool, false);
		return;
	}
	for (;;)
	{
		int			slot;
		int			client;

		if (pg_atomic_read_u32(&pool->shared->parked) == 0)
		{
			/* nobody is in the queue */
			pw_pool_set_watched(pool, true);
			return;
		}
		slot = claim_idle_slot(pool, parked_queues(pool), PW_NONE);
		client = slot == PW_NONE ? PW_NONE : take_client_for(pool, slot);
		if (slot != PW_NONE && client == PW_NONE)
			release_slot(slot);
		if (slot == PW_NONE ||
			(client == PW_NONE && pw_slot_serves(&PwSlots[slot], pool->shared) != PW_WATCH_ALL))
		{
			/* clear the flag first, then look again: see the file header */
			pw_pool_want_slot(pool);
			pw_queue_begin(pool);
			watch_queues(pool, worth_watching(pool));
			if (!has_unwatched_slot(pool))
				return;
			continue;
		}
		if (client == PW_NONE)
		{
			pw_pool_set_watched(pool, true);
			return;
		}
		if (pw_debug_always_switch)
		{
			if (!assign_elsewhere(pool, slot, client))
				return;
		}
		else
			assign(claim_preferred_slot(slot, PwClients[client].last_slot), client);
	}
}

/*
 * Claim a slot that sleeps and serves one of these queues.
 */
static int
claim_idle_slot(PwPool *pool, int queues, int not_this_one)
{
	int			slot;

	do
		slot = find_idle_slot(pool, queues, not_this_one);
	while (slot != PW_NONE && !claim_slot(slot));
	return slot;
}

static int
find_idle_slot(PwPool *pool, int queues, int not_this_one)
{
	int			best = PW_NONE;

	for (int i = 0; i < PwControl->max_slots; i++)
	{
		if (!is_idle(pool, i) || i == not_this_one ||
			(pw_slot_serves(&PwSlots[i], pool->shared) & queues) == 0)
			continue;
		if (best == PW_NONE || is_better_idle(&PwSlots[i], &PwSlots[best]))
			best = i;
	}
	return best;
}

static bool
is_idle(PwPool *pool, int slot)
{
	return PwSlots[slot].pool == pool->shared - PwPools && is_usable(&PwSlots[slot]) &&
		pg_atomic_read_u32(&PwSlots[slot].activity) == PW_SLOT_IDLE;
}

/*
 * Which of two idle slots is to be used first?  The reserve last.  One whose
 * sticky client is gone, for nobody loses a slot then; of two such, the one that
 * has worked last, whose caches are warm.  If both have a client, the one whose
 * client has been silent for longer.
 */
static bool
is_better_idle(const PwShmSlot *slot, const PwShmSlot *other)
{
	if (slot->reserve != other->reserve)
		return other->reserve;
	if ((slot->client == PW_NONE) != (other->client == PW_NONE))
		return slot->client == PW_NONE;
	if (slot->client == PW_NONE)
		return slot->state_since > other->state_since;
	return is_longer_idle(slot, other);
}

/*
 * The slot that a client was last attached to knows its session and has its
 * descriptor: prefer it to the one already claimed if it sleeps as well.  The
 * reserve is for when there is no other.
 */
static int
claim_preferred_slot(int slot, int preferred)
{
	if (preferred == PW_NONE || preferred == slot ||
		PwSlots[preferred].pool != PwSlots[slot].pool || PwSlots[preferred].reserve ||
		!is_usable(&PwSlots[preferred]) ||
		!claim_slot(preferred))
		return slot;
	release_slot(slot);
	return preferred;
}

/* Not one that is about to end anyway. */
static bool
is_usable(const PwShmSlot *slot)
{
	return slot->worker_generation == PwControl->worker_generation &&
		!pw_slot_is_ending(slot, &PwPools[slot->pool]);
}

static bool
claim_slot(int slot)
{
	uint32		idle = PW_SLOT_IDLE;

	return pg_atomic_compare_exchange_u32(&PwSlots[slot].activity, &idle, PW_SLOT_CLAIMED);
}

/*
 * Give a claimed slot back.  If it has found its client ready meanwhile and
 * waits for our decision, wake it.
 */
static void
release_slot(int slot)
{
	uint32		claimed = PW_SLOT_CLAIMED;

	/* not if the backend has gone in the meantime */
	if (pg_atomic_compare_exchange_u32(&PwSlots[slot].activity, &claimed, PW_SLOT_IDLE) &&
		pg_atomic_read_u32(&PwSlots[slot].contended) != 0)
	{
		pg_atomic_write_u32(&PwSlots[slot].contended, 0);
		pw_wake_slot(slot);
	}
}

/* The next client for this slot, or PW_NONE. */
static int
take_client_for(PwPool *pool, int slot)
{
	int			queues = pw_slot_serves(&PwSlots[slot], pool->shared);
	int			client = queues == PW_WATCH_ALL ? take_held_client(pool) : PW_NONE;

	return client != PW_NONE ? client : take_ready_client(pool, queues);
}

/*
 * Take the next ready client out of these queues of the pool; it is still
 * PARKED.  Returns PW_NONE if there is none.
 */
static int
take_ready_client(PwPool *pool, int queues)
{
	int			client = PW_NONE;

	if ((queues & PW_WATCH_HIGH) != 0 && pg_atomic_read_u32(&pool->shared->parked_high) != 0)
		client = take_from_set(pool->high_epfd);
	if ((queues & PW_WATCH_NORMAL) != 0 && client == PW_NONE)
		client = take_from_set(pool->epfd);
	return client;
}

static int
take_from_set(int epfd)
{
	struct epoll_event event;

	while (epoll_wait(epfd, &event, 1, 0) > 0)
	{
		int			client = PW_EPOLL_CLIENT(event.data.u64);
		uint64		word = pg_atomic_read_u64(&PwClients[client].word);

		if (PW_WORD_GENERATION(word) != PW_EPOLL_GENERATION(event.data.u64) ||
			PW_WORD_STATE(word) != PW_CLIENT_PARKED)
			continue;
		if (PwClients[client].said_hello && pw_client_has_left(client))
		{
			(void) pw_client_close(client);
			continue;
		}
		return client;
	}
	return PW_NONE;
}

/* Clients that debug_always_switch holds back until another slot is idle. */
static int
take_held_client(PwPool *pool)
{
	int			client;

	if (pool->held == NIL)
		return PW_NONE;
	client = linitial_int(pool->held);
	pool->held = list_delete_first(pool->held);
	return client;
}

/*
 * Tell all clients that want a slot why they will never have one.
 */
void
pw_pool_refuse_ready(PwPool *pool, const PwReport *why)
{
	int			client;

	while ((client = take_held_client(pool)) != PW_NONE ||
		   (client = take_ready_client(pool, PW_WATCH_ALL)) != PW_NONE)
	{
		pool->shared->failed++;
		(void) pw_client_refuse(client, why);
	}
}

/*
 * Give a PARKED client to a claimed slot.
 */
static void
assign(int slot, int client)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);

	if (PW_WORD_STATE(word) != PW_CLIENT_PARKED ||
		!pw_client_move(&PwClients[client], word, PW_CLIENT_ATTACHED, slot))
	{
		release_slot(slot);
		return;
	}
	pw_pool_hand_over(slot, client);
}

/*
 * Tell a claimed slot what to do next: serve this client, or retire.  If its
 * backend has gone in the meantime, slot_gone() finds the client.
 *
 * A slot without a client waits for its connection to us, so the descriptor
 * wakes it, and one wakeup is enough.
 */
void
pw_pool_hand_over(int slot, int client)
{
	uint32		claimed = PW_SLOT_CLAIMED;
	bool		has_client = PwSlots[slot].client != PW_NONE;

	if (client == PW_NONE)
		PwSlots[slot].leaving = true;	/* does not count any more */
	PwSlots[slot].assigned = client;
	if (!pg_atomic_compare_exchange_u32(&PwSlots[slot].activity, &claimed, PW_SLOT_ASSIGNED))
		return;
	pg_atomic_write_u32(&PwSlots[slot].contended, 0);
	if (client == PW_NONE || !pw_slot_send_client(slot, client) || has_client)
		pw_wake_slot(slot);
}

/*
 * Have a slot end when nothing pins its client.  The client is parked first,
 * and does not notice.
 */
void
pw_pool_retire(int slot)
{
	PwSlots[slot].leaving = true;
	pw_wake_slot(slot);			/* a full barrier lies between */
}

/*
 * Claim a slot that sleeps and has not answered for long, and take its client
 * away, which queues again.  False if it does not sleep any more.
 */
bool
pw_pool_take_away_client(int slot)
{
	int			client;

	if (!claim_slot(slot))
		return false;
	LWLockAcquire(&PwSlots[slot].lock, LW_EXCLUSIVE);
	client = PwSlots[slot].client;
	PwSlots[slot].client = PW_NONE;
	PwSlots[slot].alive = false;
	LWLockRelease(&PwSlots[slot].lock);
	if (client != PW_NONE)
	{
		/* what it has waited for before is over: it has had that slot */
		PwClients[client].parked_at = PwClients[client].state_since = pw_loop_now();
		requeue(client, pg_atomic_read_u64(&PwClients[client].word));
	}
	return true;
}

/*
 * Claim the slot that has been idle longest, of the reserve or of the others,
 * to be retired.
 */
int
pw_pool_claim_idle(PwPool *pool, bool reserve)
{
	int			best = PW_NONE;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (is_idle(pool, i) && PwSlots[i].reserve == reserve &&
			(best == PW_NONE || is_longer_idle(&PwSlots[i], &PwSlots[best])))
			best = i;
	return best != PW_NONE && claim_slot(best) ? best : PW_NONE;
}

static bool
is_longer_idle(const PwShmSlot *slot, const PwShmSlot *other)
{
	return slot->state_since < other->state_since;
}

void
pw_pool_release(int slot)
{
	release_slot(slot);
}

/*
 * Under debug_always_switch: give the client to any slot but the last one it
 * had.  If there is none, hold the client until there is; false then.
 *
 * Not for ever, because what the other slots do may not end before this client
 * has been served: wait for a lock of its own, or for its cancel request.
 */
static bool
assign_elsewhere(PwPool *pool, int slot, int client)
{
	int			queue = queue_of(client);
	int			other;
	MemoryContext oldcontext;

	if (slot != PwClients[client].last_slot || pool->shared->pool_size == 1 ||
		!another_slot_will_idle(pool, slot, queue))
	{
		assign(slot, client);
		return true;
	}

	other = claim_idle_slot(pool, queue, slot);
	release_slot(slot);
	if (other != PW_NONE)
	{
		assign(other, client);
		return true;
	}
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	pool->held = lappend_int(pool->held, client);
	MemoryContextSwitchTo(oldcontext);
	pw_pool_want_slot(pool);
	pw_queue_begin(pool);
	if (pool->hold.expires_at == 0)
		pw_timer_arm(&pool->hold, TimestampTzPlusMilliseconds(pw_loop_now(), HOLD_MS),
					 end_hold, pool_failed, pool);

	/* clear the flag first, then look again: see the file header */
	pw_pool_set_watched(pool, false);
	return find_idle_slot(pool, queue, slot) != PW_NONE ||
		!another_slot_will_idle(pool, slot, queue);
}

/*
 * Timer callback: do not wait for busy slots any longer.
 */
static void
end_hold(void *arg)
{
	PwPool	   *pool = (PwPool *) arg;

	pool->hold_over = true;
	pw_pool_dispatch(pool);
	pool->hold_over = false;
}

/*
 * Will a slot other than this one come free by itself for this queue, or could
 * it?
 */
static bool
another_slot_will_idle(PwPool *pool, int slot, int queue)
{
	int			index = pool->shared - PwPools;
	PwSlotActivity last = pool->hold_over ? PW_SLOT_CLAIMED : PW_SLOT_BUSY;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (i != slot && PwSlots[i].pool == index &&
			(pw_slot_serves(&PwSlots[i], pool->shared) & queue) != 0 &&
			pg_atomic_read_u32(&PwSlots[i].activity) <= last)
			return true;
	return pw_pool_can_grow(pool) || pool->growth.expires_at != 0;
}

/* Is a slot idle that serves a queue which we do not look at? */
static bool
has_unwatched_slot(PwPool *pool)
{
	int			unwatched = PW_WATCH_ALL & ~pg_atomic_read_u32(&pool->shared->watched);

	return find_idle_slot(pool, unwatched, PW_NONE) != PW_NONE;
}

/* The queues that somebody may be in. */
static int
parked_queues(PwPool *pool)
{
	return pg_atomic_read_u32(&pool->shared->parked_high) != 0 ?
		PW_WATCH_ALL : PW_WATCH_NORMAL;
}

static int
queue_of(int client)
{
	return PwClients[client].high ? PW_WATCH_HIGH : PW_WATCH_NORMAL;
}

/*
 * No slot is idle, but maybe of the reserve: in which queues would a client be
 * served, or have a slot opened for it?
 */
static int
worth_watching(PwPool *pool)
{
	if (pw_pool_can_grow(pool))
		return PW_WATCH_ALL;
	if (find_idle_slot(pool, PW_WATCH_HIGH, PW_NONE) != PW_NONE)
		return PW_WATCH_HIGH;
	return pw_reserve_can_grow(pool);
}

void
pw_pool_set_watched(PwPool *pool, bool watched)
{
	watch_queues(pool, watched ? PW_WATCH_ALL : 0);
}

/*
 * Look at these of the pool's epoll sets from now on, and at no other.  A full
 * barrier follows the store; see the file header.
 */
static void
watch_queues(PwPool *pool, int queues)
{
	pg_atomic_exchange_u32(&pool->shared->watched, queues);
	pw_watch_set_events(&pool->watch, queues & PW_WATCH_NORMAL ? PW_READ : 0);

	/* a set in which nobody can be stays watched, which costs nothing */
	if (pool->has_high)
		pw_watch_set_events(&pool->high_watch, queues & PW_WATCH_HIGH ? PW_READ : 0);
}
