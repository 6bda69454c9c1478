/*-------------------------------------------------------------------------
 *
 * pool_reserve.c
 *	  The reserve of a pool: slots beyond pool_size, for high priority only.
 *
 * Runs in: pool worker.
 *
 * The reserve is opened when so much of pool_size is in use that it may be
 * needed soon, and at once when a client of high priority has to wait.  It is
 * closed when less is in use and nobody has needed it for slot_idle_timeout.
 *
 * Its slots look into the epoll set of high priority only, and the worker gives
 * them nobody else: see pw_slot_serves().  In a pool whose role or database has
 * high priority they are for everybody.  They keep no client: after each
 * transaction it queues again, and has an ordinary slot next if one is free.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>

#include "utils/timestamp.h"

#include "pool_internal.h"
#include "settings.h"
#include "shared_state.h"

/* Slots of a pool that are active or pinned. */
typedef struct PwReserveUse
{
	int			counted;		/* against pool_size, */
	int			beside;			/* and of the reserve, or pinned beside it */
	int			threshold;		/* with so many, the reserve is open */
} PwReserveUse;

static bool is_wanted(PwPool *pool);
static void count_use(PwPool *pool, PwReserveUse *use);
static bool is_in_use(const PwShmSlot *slot);
static void retire_idle(PwPool *pool, bool passed);
static void retire_surplus(PwPool *pool);

/*
 * How many slots of the reserve there are, open or opening.
 */
int
pw_reserve_slots(PwPool *pool)
{
	int			index = pool->shared - PwPools;
	int			count = 0;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index && PwSlots[i].reserve &&
			PwSlots[i].worker_generation == PwControl->worker_generation)
			count++;
	return count;
}

/*
 * For which queues could another slot of the reserve be opened now?
 */
int
pw_reserve_can_grow(PwPool *pool)
{
	if (pw_pool_service(pool->shared) != PW_SERVICE_OPEN ||
		pool->shared->opening > 0 || pool->retry.expires_at != 0 ||
		pool->growth.expires_at != 0 || pool->wants_slot ||
		pw_reserve_slots(pool) >= pool->shared->settings.reserve_pool_size)
		return 0;
	return pool->shared->settings.priority == PW_PRIORITY_HIGH ?
		PW_WATCH_ALL : PW_WATCH_HIGH;
}

/*
 * Somebody is ready, no slot is idle, and the pool cannot grow otherwise.
 */
void
pw_reserve_want(PwPool *pool)
{
	if (pw_reserve_can_grow(pool) != 0 && is_wanted(pool))
		pw_pool_open_slot(pool, true, true);
}

/* Does anybody wait who may use the reserve? */
static bool
is_wanted(PwPool *pool)
{
	struct pollfd sets[] = {
		{.fd = pool->high_epfd,.events = POLLIN},
		{.fd = pool->epfd,.events = POLLIN},
	};
	bool		for_all = pool->shared->settings.priority == PW_PRIORITY_HIGH;

	return poll(sets, for_all ? 2 : 1, 0) > 0;
}

/*
 * Open the reserve, or close it, as the use of the pool demands.
 */
void
pw_reserve_look(PwPool *pool)
{
	PwReserveUse use;

	if (pool->shared->settings.reserve_pool_size == 0 && pw_reserve_slots(pool) == 0)
		return;
	count_use(pool, &use);
	retire_surplus(pool);
	retire_idle(pool, use.counted >= use.threshold);
	if (use.counted >= use.threshold && pw_reserve_can_grow(pool) != 0)
		pw_pool_open_slot(pool, false, true);
}

/*
 * The number of active slots at which the reserve has to be opened, for
 * shared->alarm_at.  That counts all slots, so we add those that do not count
 * for us.
 */
uint32
pw_reserve_alarm(PwPool *pool)
{
	PwReserveUse use;

	if (pw_reserve_can_grow(pool) == 0)
		return PG_UINT32_MAX;
	count_use(pool, &use);
	if (use.counted >= use.threshold)
		return PG_UINT32_MAX;	/* there is no room for it */
	return use.threshold + use.beside;
}

/*
 * How much of pool_size is in use?  What is pinned beside it does not count.
 */
static void
count_use(PwPool *pool, PwReserveUse *use)
{
	int			index = pool->shared - PwPools;
	int			pinned = 0;

	memset(use, 0, sizeof(PwReserveUse));
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		if (PwSlots[i].pool != index || !is_in_use(&PwSlots[i]))
			continue;
		if (PwSlots[i].reserve)
			use->beside++;
		else
			use->counted++;
		if (PwSlots[i].session_pin != PW_PIN_NONE && !PwSlots[i].reserve)
			pinned++;
	}
	pinned = Min(pinned, pool->shared->max_pinned);
	use->counted -= pinned;
	use->beside += pinned;
	use->threshold = (pool->shared->pool_size * pw_reserve_threshold + 99) / 100;
}

static bool
is_in_use(const PwShmSlot *slot)
{
	uint32		activity = pg_atomic_read_u32((pg_atomic_uint32 *) &slot->activity);

	return activity >= PW_SLOT_CLAIMED && activity <= PW_SLOT_PINNED;
}

/*
 * Unless the threshold is passed, close those that have been idle for too long.
 */
static void
retire_idle(PwPool *pool, bool passed)
{
	int			timeout = pool->shared->settings.slot_idle_timeout;
	int			slot;

	while (!passed && timeout > 0 && (slot = pw_pool_claim_idle(pool, true)) != PW_NONE)
	{
		if (!TimestampDifferenceExceeds(PwSlots[slot].state_since, pw_loop_now(),
										timeout * 1000))
		{
			pw_pool_release(slot);
			return;
		}
		pw_pool_hand_over(slot, PW_NONE);
	}
}

/*
 * Close the slots that are too many, when their transactions end: they may have
 * so much to do that they are never idle.
 */
static void
retire_surplus(PwPool *pool)
{
	int			index = pool->shared - PwPools;
	int			allowed = pool->shared->settings.reserve_pool_size;

	for (int i = 0; i < PwControl->max_slots; i++)
	{
		uint32		activity = pg_atomic_read_u32(&PwSlots[i].activity);

		if (PwSlots[i].pool != index || !PwSlots[i].reserve || PwSlots[i].leaving ||
			PwSlots[i].worker_generation != PwControl->worker_generation ||
			activity == PW_SLOT_OPENING || activity == PW_SLOT_GONE || allowed-- > 0)
			continue;
		PwSlots[i].retire_reason = PW_RETIRE_SURPLUS;
		pw_pool_retire(i);
	}
}
