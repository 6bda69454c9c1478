/*-------------------------------------------------------------------------
 *
 * pool_size.c
 *	  How many slots a pool has: growing and shrinking.
 *
 * Runs in: pool worker.
 *
 * A pool grows when a client is ready and no slot is idle, nor will be in a
 * moment, up to pool_size and the slots that are pinned besides; and before that
 * if min_idle wants some to be free.  Logins take the processor from those who
 * work, so there are few at a time.  It shrinks when slots have been idle for
 * long, when another pool needs the room under max_slots, and when it has more
 * than it may, since settings can change at any time.
 *
 * Ahead of demand
 * ---------------
 *
 * Slots become busy without a word to the worker.  So the worker leaves a mark,
 * alarm_at: whoever makes the number of active slots that large wakes it, and
 * takes the mark away.  The worker sets the mark, then looks at the number; a
 * slot counts itself, then looks at the mark; both with a full barrier between.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "client.h"
#include "enforce.h"
#include "pool_internal.h"
#include "pool_settings.h"
#include "server_state.h"
#include "settings.h"

/* how often to look for what no event tells us, ms */
#define TICK_MS 1000
#define BUSY_TICK_MS 250

/* how long somebody has to wait before a pool with slots grows, ms */
#define GROWTH_DELAY_MS 5

static PwTimer tick_timer;
static int	slots_in_use = 0;	/* open or opening, of all pools */

static void tick(void *arg);
static void check_pool(PwPool *pool);
static int	wanted_slots(PwPool *pool);
static void set_alarm(PwPool *pool);
static int	count_ending(PwPool *pool, bool kept);
static int	coming_slots(PwPool *pool);
static int	total_opening(void);
static bool is_surplus(const PwShmSlot *slot);
static void retire_surplus(PwPool *pool);
static void retire_useless(PwPool *pool);
static bool is_unused(PwPool *pool);
static bool is_forgotten(PwPool *pool);
static void retire_slots(PwPool *pool);
static void release_claimed_slots(void);
static void retire_idle(PwPool *pool);
static bool has_queue(PwPool *pool);
static void grow(void *arg);
static void grow_failed(void *arg);
static void login_failed(PwPool *pool, const PwSlotFailure *failure);
static void prewarm_pair(const char *database, const char *role, void *arg);
static void serve_wanting_pools(void);
static void serve_wanting_pool(PwPool *pool);
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
	pool->shared->max_pinned = settings->max_pinned < 0 ? settings->pool_size : settings->max_pinned;
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
	pw_share_compute();

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		if (!pool->shared->in_use)
			continue;
		pw_pool_settings_refresh(false);
		pw_pool_take_settings(pool);
		pw_queue_tidy(pool);
		busy = busy || pool->shared->waiting > 0;
		if (pw_server_is_stopping())
		{
			retire_useless(pool);
			busy = true;
			continue;
		}
		retire_idle(pool);
		retire_surplus(pool);
		pw_slot_life_tick(pool);
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

	while ((slot = pw_pool_claim_idle(pool, false)) != PW_NONE ||
		   (slot = pw_pool_claim_idle(pool, true)) != PW_NONE)
		pw_pool_hand_over(slot, PW_NONE);
	pool->last_used_at = 0;
}

/*
 * The server stops as soon as the last client backend has gone.  Slots of a pool
 * that serves clients are not retired, however long they are idle: there will be
 * no others.
 */
static void
retire_useless(PwPool *pool)
{
	if (pool->shared->clients == 0 || pw_pool_service(pool->shared) != PW_SERVICE_OPEN)
		retire_slots(pool);
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

/* Open what is wanted ahead of demand, or forget the pool if nobody needs it. */
static void
check_pool(PwPool *pool)
{
	int			missing;

	pw_reserve_look(pool);
	set_alarm(pool);
	missing = wanted_slots(pool) - pw_pool_usable_slots(pool) - pool->shared->opening;
	while (missing-- > 0 && pw_pool_open_another(pool))
		 /* one more */ ;
	if (is_unused(pool) && (pool->is_gone || is_forgotten(pool)))
		pw_pool_drop(pool);
}

/* How many slots should there be, whether anybody waits or not? */
static int
wanted_slots(PwPool *pool)
{
	int			active = pg_atomic_read_u32(&pool->shared->active);
	int			min_idle = pool->shared->settings.min_idle;

	if (min_idle == 0 || pool->shared->clients == 0 || pool->is_gone)
		return pool->min_slots;
	return Max(pool->min_slots, Min(active + min_idle, pw_pool_slot_limit(pool)));
}

/*
 * Have ourselves woken when there will be too few idle slots, or the reserve has
 * to be opened, if we could do anything about it.
 */
static void
set_alarm(PwPool *pool)
{
	int			slots = pw_pool_usable_slots(pool) + pool->shared->opening;
	int			min_idle = pool->shared->settings.min_idle;
	uint32		mark = PG_UINT32_MAX;

	if (min_idle > 0 && slots < pw_pool_slot_limit(pool) && !pool->wants_slot &&
		pool->retry.expires_at == 0)
		mark = Max(slots - min_idle, 0) + 1;
	mark = Min(mark, pw_reserve_alarm(pool));
	pg_atomic_exchange_u32(&pool->shared->alarm_at, mark);
}

bool
pw_pool_open_another(PwPool *pool)
{
	int			before = pool->shared->opening;

	if (pool->retry.expires_at == 0)
		pw_pool_open_slot(pool, false, false);
	return pool->shared->opening > before;
}

/*
 * Slots that are open and go on serving, without the reserve.  Those that are to
 * end do not count, unless a client keeps them for as long as it likes.
 */
int
pw_pool_usable_slots(PwPool *pool)
{
	return Max(pool->shared->slots - pw_reserve_slots(pool) - count_ending(pool, false), 0);
}

/* Slots that are to end, and that a client keeps, or does not. */
static int
count_ending(PwPool *pool, bool kept)
{
	int			index = pool->shared - PwPools;
	int			ending = 0;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index &&
			PwSlots[i].worker_generation == PwControl->worker_generation &&
			pg_atomic_read_u32(&PwSlots[i].activity) != PW_SLOT_OPENING &&
			!PwSlots[i].reserve && pw_slot_is_ending(&PwSlots[i], pool->shared) &&
			pw_pool_slot_is_kept(pool, i) == kept)
			ending++;
	return ending;
}

/* Does a client keep this slot beyond its transaction? */
bool
pw_pool_slot_is_kept(PwPool *pool, int slot)
{
	return PwSlots[slot].session_pin != PW_PIN_NONE ||
		(pool->shared->settings.pool_mode == PW_MODE_SESSION &&
		 PwSlots[slot].client != PW_NONE);
}

/*
 * Somebody is ready and no slot is idle.
 */
void
pw_pool_want_slot(PwPool *pool)
{
	if (!pw_pool_can_grow(pool))
	{
		pw_reserve_want(pool);
		return;
	}
	if (!has_queue(pool))
		return;
	if (pw_pool_usable_slots(pool) == 0 || pool->shared->opening > 0 || pool->growth_due)
		pw_pool_open_slot(pool, true, false);
	else
		pw_timer_arm(&pool->growth,
					 TimestampTzPlusMilliseconds(pw_loop_now(), GROWTH_DELAY_MS),
					 grow, grow_failed, pool);
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

/* The next look at the queue arms the timer again. */
static void
grow_failed(void *arg)
{
}

/*
 * Could the pool open another slot now?  While it could, the worker has to
 * look at the pool's queue even if no slot is idle.
 *
 * More than one at a time only if more than one client is known to wait.
 */
bool
pw_pool_can_grow(PwPool *pool)
{
	PwShmPool  *shared = pool->shared;
	int			coming = coming_slots(pool);

	return pw_pool_service(shared) == PW_SERVICE_OPEN &&
		(coming == 0 || shared->waiting > coming) &&
		pool->retry.expires_at == 0 &&
		pool->growth.expires_at == 0 && !pool->wants_slot &&
		pw_pool_usable_slots(pool) + shared->opening < pw_pool_slot_limit(pool);
}

/*
 * Slots that log in, or have and will say in a moment that they are idle.  One
 * that has not said so in time is stuck: nobody should wait for it.
 */
static int
coming_slots(PwPool *pool)
{
	int			index = pool->shared - PwPools;
	int			coming = 0;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index && !PwSlots[i].reserve &&
			pg_atomic_read_u32(&PwSlots[i].activity) == PW_SLOT_OPENING &&
			!TimestampDifferenceExceeds(PwSlots[i].opened_at, pw_loop_now(), pw_connect_timeout))
			coming++;
	return coming;
}

/*
 * How many slots the pool may have, beside the reserve.  Up to max_pinned of
 * those that are kept for a client's session do not count, for they are no use
 * to anybody else.
 */
int
pw_pool_slot_limit(PwPool *pool)
{
	int			index = pool->shared - PwPools;
	int			pinned = 0;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index && !PwSlots[i].reserve &&
			PwSlots[i].worker_generation == PwControl->worker_generation &&
			PwSlots[i].session_pin != PW_PIN_NONE)
			pinned++;
	return pool->shared->pool_size + Min(pinned, pool->shared->max_pinned);
}

/* Does anybody wait in the pool's queue? */
static bool
has_queue(PwPool *pool)
{
	struct pollfd sets[] = {
		{.fd = pool->epfd,.events = POLLIN},
		{.fd = pool->high_epfd,.events = POLLIN},
	};

	return pool->held != NIL || poll(sets, lengthof(sets), 0) > 0;
}

/*
 * Open one more slot, or if there is no room under max_slots see to it that
 * some is made.
 */
void
pw_pool_open_slot(PwPool *pool, bool cold, bool reserve)
{
	int			slot;
	PwSlotOrder order = {.pool = pool->shared - PwPools,
		.database = NameStr(pool->shared->database),
		.role = NameStr(pool->shared->role),
		.epfd = pool->epfd,
		.high_epfd = pool->high_epfd,
	.cold = cold,.reserve = reserve};
	PwSlotFailure failure;

	/* nobody is served, and its database may be about to be replaced */
	if (pw_pool_service(pool->shared) != PW_SERVICE_OPEN)
		return;
	if (total_opening() >= pw_max_opening)
	{
		pool->wants_slot = true;
		return;
	}
	if (!pw_pool_may_open(pool))
		return;

	if (!pw_pool_has_room())
	{
		/* nobody has to make room for a reserve that is not needed yet */
		if (reserve && !cold)
			return;
		pool->wants_slot = true;
		pw_share_make_room(pool, cold);
		return;
	}
	pool->wants_slot = false;
	slots_in_use++;
	pool->shared->opening++;
	slot = pw_slot_find_empty();
	pw_slot_life_begin(slot);
	if (!pw_slot_open(slot, &order, &failure))
		login_failed(pool, &failure);
}

static int
total_opening(void)
{
	int			opening = 0;

	for (int i = 0; i < PwControl->max_pools; i++)
		opening += PwPools[i].in_use ? PwPools[i].opening : 0;
	return opening;
}

/* Is there room for another slot under max_slots? */
bool
pw_pool_has_room(void)
{
	return slots_in_use < PwControl->max_slots && pw_slot_find_empty() != PW_NONE;
}

/*
 * Retire the slots above the minimum that have been idle for too long.
 */
static void
retire_idle(PwPool *pool)
{
	int			spare = pw_pool_usable_slots(pool) - wanted_slots(pool);
	int			over = pw_pool_usable_slots(pool) - pool->replacing - pw_pool_slot_limit(pool);
	int			timeout = pool->shared->settings.slot_idle_timeout;

	while (spare-- > 0)
	{
		int			slot = pw_pool_claim_idle(pool, false);

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

/*
 * If the pool still has more slots than it may, some of them end when their
 * transaction does.  Those that are pinned for a session are left alone.
 */
static void
retire_surplus(PwPool *pool)
{
	int			index = pool->shared - PwPools;
	int			over = pw_pool_usable_slots(pool) - pool->replacing -
	count_ending(pool, true) - pw_pool_slot_limit(pool);

	for (int i = 0; i < PwControl->max_slots && over > 0; i++)
	{
		if (PwSlots[i].pool != index || !is_surplus(&PwSlots[i]))
			continue;
		PwSlots[i].retire_reason = PW_RETIRE_SURPLUS;
		pw_pool_retire(i);
		over--;
	}
}

static bool
is_surplus(const PwShmSlot *slot)
{
	uint32		activity = pg_atomic_read_u32((pg_atomic_uint32 *) &slot->activity);

	return slot->worker_generation == PwControl->worker_generation &&
		!slot->leaving && !slot->reserve && slot->session_pin == PW_PIN_NONE &&
		(activity == PW_SLOT_IDLE || activity == PW_SLOT_BUSY || activity == PW_SLOT_PINNED);
}

void
pw_pool_open_succeeded(PwPool *pool, bool reserve)
{
	pw_slot_failure_forget(pool);
	if (!reserve)
		pw_slot_life_opened(pool);
	serve_wanting_pools();
	check_pool(pool);
}

/*
 * A slot could not be opened.
 */
void
pw_pool_open_failed(int slot, int index, const PwSlotFailure *failure)
{
	login_failed(&PwLocalPools[index], failure);
	serve_wanting_pools();
}

/* A slot that was being opened will not be. */
static void
login_failed(PwPool *pool, const PwSlotFailure *failure)
{
	slots_in_use--;
	pool->shared->opening--;
	pw_slot_life_not_opened(pool);
	pw_slot_failure_note(pool, failure);
}

void
pw_pool_slot_gone(PwPool *pool)
{
	slots_in_use--;
	serve_wanting_pools();
	if (pool->shared->in_use)
		pw_pool_look_after(pool);
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
	pw_share_serve(serve_wanting_pool);
}

/* It has waited long enough for one of its own slots to come free. */
static void
serve_wanting_pool(PwPool *pool)
{
	pool->growth_due = true;
	pw_pool_look_after(pool);
	pool->growth_due = false;
}

/* A slot of an earlier worker has gone. */
static void
reclaimed(int slot)
{
	slots_in_use--;
	pw_pool_keep_counts(slot);
	pw_client_forget_orphans(slot);
}
