/*-------------------------------------------------------------------------
 *
 * pool.c
 *	  One (database, role): its clients, its slots, its epoll sets.
 *
 * Runs in: pool worker.
 *
 * This is the only file that creates and forgets pools, and the one to which
 * clients and slots report what becomes of them.  Which client goes to which slot
 * is decided in dispatch.c, how many slots a pool has in pool_size.c.
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
static int	set_of(int client);
static PwPool *pool_find(const PwLogin *login);
static PwPool *pool_create(const PwLogin *login, PwReport *why);
static bool pool_open_sets(PwPool *pool);
static int	create_set(void);
static void close_set(int epfd);

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
			pw_pool_requeue(client, pg_atomic_read_u64(&PwClients[client].word));
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
			pw_pool_requeue(i, word);
	}
}

/*
 * Park a client again that the worker, or a slot that is gone, had taken out
 * of the queue.  It is made ready at once, so that somebody looks at it.
 */
void
pw_pool_requeue(int client, uint64 word)
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
	pw_watch_add(&pool->watch, pool->epfd, PW_READ, pw_pool_ready, pw_pool_ready_failed, pool);
	pw_watch_add(&pool->high_watch, pool->high_epfd, PW_READ, pw_pool_ready, pw_pool_ready_failed, pool);
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
