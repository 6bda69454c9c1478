/*-------------------------------------------------------------------------
 *
 * pool_size.c
 *	  How many slots a pool has: growing, shrinking, retrying.
 *
 * Runs in: pool worker.
 *
 * A pool grows by one slot when a client is ready and no slot is idle, nor will
 * be in a moment, with few logins at a time, up to pool_size and the slots that
 * are pinned besides.  It shrinks when slots have been idle for long, and when
 * another pool needs the room under max_slots.  A login that failed is tried
 * again after a while, as long as somebody waits for it; in the end the waiting
 * clients are told why.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>
#include <sys/socket.h>

#include "common/username.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "client.h"
#include "enforce.h"
#include "pool_internal.h"
#include "pool_settings.h"
#include "settings.h"

/* logins under way at the same time, in a pool and in all of them */
#define MAX_OPENING_PER_POOL 2
#define MAX_OPENING 4

/* how often to look for what no event tells us, ms */
#define TICK_MS 1000
#define BUSY_TICK_MS 250

/* how long somebody has to wait before a pool with slots grows, ms */
#define GROWTH_DELAY_MS 5

/* delays before the next login after so many that failed, ms */
static const int retry_delays[] = {0, 100, 500, 2000};

static PwTimer tick_timer;
static int	slots_in_use = 0;	/* open or opening, of all pools */

static void tick(void *arg);
static void check_pool(PwPool *pool);
static bool is_unused(PwPool *pool);
static bool is_forgotten(PwPool *pool);
static void retire_slots(PwPool *pool);
static void release_claimed_slots(void);
static void open_slot(PwPool *pool, bool cold);
static void make_room(PwPool *needy);
static void retire_idle(PwPool *pool);
static bool is_waiting(int client);
static bool has_queue(PwPool *pool);
static void grow(void *arg);
static void count_failure(PwPool *pool, const PwSlotFailure *failure);
static void retry_open(void *arg);
static void retry_failed(void *arg);
static void remember_failure(PwPool *pool, const PwSlotFailure *failure);
static const char *failure_hint(PwPool *pool, const PwSlotFailure *failure);
static void refuse_waiting(PwPool *pool, const PwSlotFailure *failure);
static void prewarm_pair(const char *database, const char *role, void *arg);
static void serve_wanting_pools(void);
static void reclaimed(int slot);

void
pw_pool_size_init(void)
{
	slots_in_use = 0;
	for (int i = 0; i < PwControl->max_slots; i++)
		if (pg_atomic_read_u32(&PwSlots[i].activity) != PW_SLOT_EMPTY)
			slots_in_use++;		/* left by an earlier worker */
	pw_pool_size_reload();
	tick(NULL);
}

/*
 * Bring limits and minimum of all pools in line with the settings.
 */
void
pw_pool_size_reload(void)
{
	pw_pool_settings_refresh(true);
	pw_enforce_reschedule();
	for (int i = 0; i < PwControl->max_pools; i++)
		PwLocalPools[i].prewarmed = false;
	(void) pw_settings_foreach_prewarm(pw_prewarm, prewarm_pair, NULL);

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		if (!pool->shared->in_use)
			continue;
		pw_pool_take_settings(pool);
		pw_pool_look_after(pool);
	}
}

/* One pair of pool_worker.prewarm: make sure that its pool exists. */
static void
prewarm_pair(const char *database, const char *role, void *arg)
{
	PwCatalogNames names;
	PwReport	why;
	PwLogin		login;
	PwPool	   *pool;

	if (!pw_catalog_find(database, role, &names, &why))
	{
		ereport(LOG,
				(errcode(why.sqlstate),
				 errmsg("could not prewarm connection pool \"%s/%s\": %s",
						database, role, why.message)));
		return;
	}
	memset(&login, 0, sizeof(login));
	login.dboid = names.dboid;
	login.roleoid = names.roleoid;
	login.database = NameStr(names.database);
	login.role = NameStr(names.role);
	pool = pw_pool_for_login(&login);
	if (pool != NULL)
		pool->prewarmed = true;
}

/*
 * Bring a pool in line with its settings, as far as the worker knows them.
 */
void
pw_pool_take_settings(PwPool *pool)
{
	PwPoolSettings *settings = &pool->shared->settings;

	if (pw_pool_settings_resolve(pool->shared->dboid, pool->shared->roleoid, settings))
		pw_enforce_reschedule();
	pool->shared->pool_size = settings->pool_size;
	pool->shared->max_pinned = pw_max_pinned < 0 ? settings->pool_size : pw_max_pinned;
	pool->min_slots = pool->is_gone ? 0 : Min(settings->min_pool_size, settings->pool_size);
	if (pool->prewarmed)
		pool->min_slots = Max(pool->min_slots, 1);
}

/* Timer callback: look after what no event tells us. */
static void
tick(void *arg)
{
	bool		busy = false;

	pw_timer_arm(&tick_timer, TimestampTzPlusMilliseconds(pw_loop_now(), TICK_MS),
				 tick, tick, NULL);
	release_claimed_slots();
	(void) pw_slot_reclaim_orphans(reclaimed);
	pw_pool_changes_tick();
	serve_wanting_pools();

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		if (!pool->shared->in_use)
			continue;
		pw_pool_settings_refresh(false);
		pw_pool_take_settings(pool);
		pw_queue_tidy(pool);
		busy = busy || pool->shared->waiting > 0;
		retire_idle(pool);
		check_pool(pool);
	}
	if (busy)
		pw_timer_arm(&tick_timer, TimestampTzPlusMilliseconds(pw_loop_now(), BUSY_TICK_MS),
					 tick, tick, NULL);
}

/*
 * A slot is CLAIMED only within one callback.  One that still is has been left
 * so by an error.
 */
static void
release_claimed_slots(void)
{
	for (int i = 0; i < PwControl->max_slots; i++)
		if (pg_atomic_read_u32(&PwSlots[i].activity) == PW_SLOT_CLAIMED)
			pw_pool_release(i);
}

/*
 * If no place for a pool is left, forget those that have neither clients nor
 * slots before their time.  If there are none, retire the slots of those that
 * have no clients, so that there will be.
 */
void
pw_pool_drop_unused(void)
{
	bool		found = false;

	for (int i = 0; i < PwControl->max_pools; i++)
		if (!PwPools[i].in_use)
			return;
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		if (!is_unused(&PwLocalPools[i]))
			continue;
		pw_pool_drop(&PwLocalPools[i]);
		found = true;
	}
	for (int i = 0; i < PwControl->max_pools && !found; i++)
		if (PwPools[i].clients == 0 && PwLocalPools[i].min_slots == 0)
			retire_slots(&PwLocalPools[i]);
}

static void
retire_slots(PwPool *pool)
{
	int			slot;

	while ((slot = pw_pool_claim_idle(pool)) != PW_NONE)
		pw_pool_hand_over(slot, PW_NONE);
	pool->last_used_at = 0;
}

static bool
is_unused(PwPool *pool)
{
	return pool->shared->slots + pool->shared->opening == 0 &&
		pool->shared->clients == 0 && !pool->prewarmed;
}

static bool
is_forgotten(PwPool *pool)
{
	return pool->shared->settings.slot_idle_timeout > 0 &&
		TimestampDifferenceExceeds(pool->last_used_at, pw_loop_now(),
								   pool->shared->settings.slot_idle_timeout * 1000);
}

/* Open what the minimum wants, or forget the pool if nobody needs it. */
static void
check_pool(PwPool *pool)
{
	PwShmPool  *shared = pool->shared;

	if (shared->slots + shared->opening < pool->min_slots)
	{
		if (pool->retry.expires_at == 0)
			open_slot(pool, false);
	}
	else if (is_unused(pool) && (pool->is_gone || is_forgotten(pool)))
		pw_pool_drop(pool);
}

/*
 * Somebody is ready and no slot is idle.
 */
void
pw_pool_want_slot(PwPool *pool)
{
	if (!pw_pool_can_grow(pool) || !has_queue(pool))
		return;
	if (pool->shared->slots == 0 || pool->growth_due)
		open_slot(pool, true);
	else
		pw_timer_arm(&pool->growth,
					 TimestampTzPlusMilliseconds(pw_loop_now(), GROWTH_DELAY_MS),
					 grow, retry_failed, pool);
}

/*
 * Timer callback: a slot that was about to be idle is so by now.  If somebody
 * still waits, the pool does need another one.
 */
static void
grow(void *arg)
{
	PwPool	   *pool = (PwPool *) arg;

	pool->growth_due = true;
	pw_pool_dispatch(pool);
	pool->growth_due = false;
}

/*
 * Could the pool open another slot now?  While it could, the worker has to
 * look at the pool's queue even if no slot is idle.
 */
bool
pw_pool_can_grow(PwPool *pool)
{
	PwShmPool  *shared = pool->shared;

	return shared->opening == 0 && pool->retry.expires_at == 0 &&
		pool->growth.expires_at == 0 && !pool->wants_slot &&
		(shared->slots < shared->pool_size || shared->slots < pw_pool_slot_limit(pool));
}

/*
 * How many slots the pool may have.  Up to max_pinned of those that are kept for
 * a client's session do not count, for they are no use to anybody else.
 */
int
pw_pool_slot_limit(PwPool *pool)
{
	int			index = pool->shared - PwPools;
	int			pinned = 0;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index &&
			PwSlots[i].worker_generation == PwControl->worker_generation &&
			PwSlots[i].session_pin != PW_PIN_NONE)
			pinned++;
	return pool->shared->pool_size + Min(pinned, pool->shared->max_pinned);
}

/* Does anybody wait in the pool's queue? */
static bool
has_queue(PwPool *pool)
{
	struct pollfd pfd = {.fd = pool->epfd,.events = POLLIN};

	return pool->held != NIL || poll(&pfd, 1, 0) > 0;
}

/*
 * Open one more slot, or if there is no room under max_slots see to it that
 * some is made.
 */
static void
open_slot(PwPool *pool, bool cold)
{
	int			total_opening = 0;
	int			slot;
	PwSlotFailure failure;

	for (int i = 0; i < PwControl->max_pools; i++)
		total_opening += PwPools[i].in_use ? PwPools[i].opening : 0;
	if (pool->shared->opening >= MAX_OPENING_PER_POOL || total_opening >= MAX_OPENING)
	{
		pool->wants_slot = true;
		return;
	}
	if (!pw_pool_may_open(pool))
		return;

	slot = pw_slot_find_empty();
	if (slot == PW_NONE || slots_in_use >= PwControl->max_slots)
	{
		pool->wants_slot = true;
		make_room(pool);
		return;
	}
	pool->wants_slot = false;
	slots_in_use++;
	pool->shared->opening++;
	if (!pw_slot_open(slot, pool->shared - PwPools, NameStr(pool->shared->database),
					  NameStr(pool->shared->role), pool->epfd, cold, &failure))
		count_failure(pool, &failure);
}

/*
 * Retire the longest idle slot of a pool that has more than its minimum.
 */
static void
make_room(PwPool *needy)
{
	PwPool	   *victim = NULL;
	int			slot;

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		if (!pool->shared->in_use || pool == needy ||
			pool->shared->slots <= pool->min_slots)
			continue;
		if (victim == NULL || pool->last_used_at < victim->last_used_at)
		{
			slot = pw_pool_claim_idle(pool);
			if (slot == PW_NONE)
				continue;
			pw_pool_release(slot);
			victim = pool;
		}
	}
	if (victim == NULL)
		return;
	slot = pw_pool_claim_idle(victim);
	if (slot != PW_NONE)
		pw_pool_hand_over(slot, PW_NONE);
}

/*
 * Retire the slots above the minimum that have been idle for too long.
 */
static void
retire_idle(PwPool *pool)
{
	int			spare = pool->shared->slots - pool->min_slots;
	int			over = pool->shared->slots - pw_pool_slot_limit(pool);
	int			timeout = pool->shared->settings.slot_idle_timeout;

	while (spare-- > 0)
	{
		int			slot = pw_pool_claim_idle(pool);

		if (slot == PW_NONE)
			return;
		if (over-- <= 0 &&
			(timeout == 0 ||
			 !TimestampDifferenceExceeds(PwSlots[slot].state_since, pw_loop_now(),
										 timeout * 1000)))
		{
			pw_pool_release(slot);
			return;
		}
		pw_pool_hand_over(slot, PW_NONE);
	}
}

/* Does this client want a slot, and has none? */
static bool
is_waiting(int client)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);
	char		byte;

	if (PW_WORD_STATE(word) != PW_CLIENT_PARKED)
		return false;
	return !PwClients[client].said_hello ||
		recv(pw_client_fd(client), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

void
pw_pool_open_succeeded(PwPool *pool)
{
	pool->failures = 0;
	pw_timer_disarm(&pool->retry);
	pool->shared->last_error_at = 0;
	serve_wanting_pools();
	check_pool(pool);
}

/*
 * A slot could not be opened.
 */
void
pw_pool_open_failed(int slot, int index, const PwSlotFailure *failure)
{
	count_failure(&PwLocalPools[index], failure);
	serve_wanting_pools();
}

/*
 * A slot that was being opened will not be.  Try again later; when that has
 * been done often enough, tell those who wait.
 */
static void
count_failure(PwPool *pool, const PwSlotFailure *failure)
{
	slots_in_use--;
	pool->shared->opening--;
	pool->shared->failed++;
	remember_failure(pool, failure);

	if (++pool->failures >= (int) lengthof(retry_delays) || failure->needs_password)
	{
		refuse_waiting(pool, failure);
		pool->failures = lengthof(retry_delays) - 1;
	}
	pw_timer_arm(&pool->retry,
				 TimestampTzPlusMilliseconds(pw_loop_now(), retry_delays[pool->failures]),
				 retry_open, retry_failed, pool);
}

/* Timer callback: it is time to try again, if anybody still wants it. */
static void
retry_open(void *arg)
{
	PwPool	   *pool = (PwPool *) arg;

	if (pool->shared->in_use)
		pw_pool_look_after(pool);
}

static void
retry_failed(void *arg)
{
}

/*
 * Keep the server's words for pool_check(), and log them once per series.
 */
static void
remember_failure(PwPool *pool, const PwSlotFailure *failure)
{
	const char *hint = failure_hint(pool, failure);

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	strlcpy(pool->shared->last_error, failure->message, PW_POOL_ERROR_LEN);
	pool->shared->last_error_at = pw_loop_now();
	LWLockRelease(&PwControl->lock);

	if (pool->failures == 0)
		ereport(LOG,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not open a connection for pool \"%s/%s\"",
						NameStr(pool->shared->database), NameStr(pool->shared->role)),
				 errdetail_internal("%s", failure->message),
				 hint ? errhint("%s", hint) : 0));
}

/*
 * What to do about a login that pg_hba.conf does not let pass.
 *
 * The slot logs in as the pool's role over the server's Unix socket, as the
 * operating system's user of the server.  The method "peer" with a user map is
 * the line that lets just that user in and nobody else.
 */
static const char *
failure_hint(PwPool *pool, const PwSlotFailure *failure)
{
	char	   *trouble = NULL;
	const char *os_user = get_user_name(&trouble);

	if (!failure->needs_password && strncmp(failure->sqlstate, "28", 2) != 0)
		return NULL;
	return psprintf("Add this line to pg_hba.conf before the one that applies now: local \"%s\" \"%s\" peer map=pool_worker\n"
					"and this line to pg_ident.conf: pool_worker \"%s\" \"%s\"",
					NameStr(pool->shared->database), NameStr(pool->shared->role),
					os_user ? os_user : "postgres", NameStr(pool->shared->role));
}

/*
 * Tell those who wait for a slot why they do not get one.  If the pool has
 * slots already they go on waiting for these.
 */
static void
refuse_waiting(PwPool *pool, const PwSlotFailure *failure)
{
	PwReport	report = {.sqlstate = ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION};

	if (pool->shared->slots > 0)
		return;
	report.message = psprintf("the connection pool could not open a connection to database \"%s\" as role \"%s\"",
							  NameStr(pool->shared->database), NameStr(pool->shared->role));
	report.detail = failure->message;
	report.hint = failure_hint(pool, failure);
	for (int i = 0; i < PwControl->max_clients; i++)
		if (PwClients[i].pool == pool->shared - PwPools && is_waiting(i))
			(void) pw_client_refuse(i, &report);
}

void
pw_pool_slot_gone(PwPool *pool)
{
	slots_in_use--;
	pw_pool_look_after(pool);
	serve_wanting_pools();
}

/* Something has changed for this pool; it may be gone afterwards. */
void
pw_pool_look_after(PwPool *pool)
{
	check_pool(pool);
	if (pool->shared->in_use)
		pw_pool_dispatch(pool);
}

/* There may be room for another slot now. */
static void
serve_wanting_pools(void)
{
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		if (!pool->shared->in_use || !pool->wants_slot)
			continue;
		pool->wants_slot = false;
		pw_pool_look_after(pool);
	}
}

/* A slot of an earlier worker has gone. */
static void
reclaimed(int slot)
{
	slots_in_use--;
	pw_client_forget_orphans(slot);
}
