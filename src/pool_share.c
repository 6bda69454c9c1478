/*-------------------------------------------------------------------------
 *
 * pool_share.c
 *	  How pools share max_slots: who is entitled to how many slots, and who makes
 *	  room.
 *
 * Runs in: pool worker.
 *
 * While there is room, every pool has what it needs.  When there is none left,
 * each is entitled to a share: max_slots by weight among the pools that need
 * slots, at least one, and no more than it needs.  What one does not need is
 * shared by the others in the same way.
 *
 * A pool needs the slots that are in use, or have been so a moment ago, and one
 * for each client that waits.  The moment keeps slots from being carried to and
 * fro between pools that are busy now and then: each time would cost a login.
 *
 * A pool that wants a slot and has fewer than its share gets one from the pool
 * that is most above its own.  If that has an idle one, this is closed.  Else
 * the pool is asked to yield: the first of its slots that comes to the end of a
 * transaction and is not pinned ends (must_yield() in slot_wait.c).  So it does
 * not matter how long some of its transactions are.  A pool without any slot may
 * have one that is idle right now wherever it finds it.  And if there are more
 * pools than slots, one that has waited for a moment without any gets one even
 * where there is none to spare, if that has been there for a moment: so they take
 * turns.
 *
 * Room goes to those who have less than their share first; of these, and of the
 * others, to high priority first.  So priority says who is served sooner, and
 * weight who gets how much.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/timestamp.h"

#include "pool_internal.h"
#include "settings.h"
#include "shared_state.h"

/* A slot that was used so short a time ago is still needed, ms. */
#define RECENT_MS 1000

/* So many pools have asked for room since pw_share_serve() began. */
static int	promised = 0;

static void count_needs(void);
static bool is_needed(const PwShmSlot *slot);
static int	need_of(PwPool *pool);
static void share_out(PwPool **pools, int npools);
static int	compare_needs(const void *a, const void *b);
static int	compare_claims(const void *a, const void *b);
static TimestampTz waiting_since(const PwPool *pool);
static bool is_entitled(PwPool *pool);
static int	surplus(PwPool *pool);
static int	slots_of(PwPool *pool);
static int	coming_room(void);
static bool retire_idle_of_others(PwPool *needy, bool urgent);
static bool is_better_victim(PwPool *pool, PwPool *other);
static int	claim_idle(PwPool *pool);
static void ask_to_yield(PwPool *needy);
static bool can_spare(PwPool *pool, bool last_one);
static bool is_past(TimestampTz since);
static bool can_yield(PwPool *pool);
static TimestampTz oldest_slot(PwPool *pool);

/*
 * Find out to how many slots each pool is entitled.
 */
void
pw_share_compute(void)
{
	PwPool	  **needy = palloc(sizeof(PwPool *) * PwControl->max_pools);
	int			n = 0;

	count_needs();
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		if (!pool->shared->in_use)
			continue;
		pool->need = need_of(pool);
		if (pool->need > 0)
			needy[n++] = pool;
		else
			pool->shared->share = 0;
	}
	share_out(needy, n);
	pfree(needy);
}

/* Count the slots that each pool uses; need_of() adds the rest. */
static void
count_needs(void)
{
	for (int i = 0; i < PwControl->max_pools; i++)
		PwLocalPools[i].need = 0;
	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool != PW_NONE && is_needed(&PwSlots[i]))
			PwLocalPools[PwSlots[i].pool].need++;
}

static bool
is_needed(const PwShmSlot *slot)
{
	switch (pg_atomic_read_u32((pg_atomic_uint32 *) &slot->activity))
	{
		case PW_SLOT_CLAIMED:
		case PW_SLOT_ASSIGNED:
		case PW_SLOT_BUSY:
		case PW_SLOT_PINNED:
			return true;
		case PW_SLOT_IDLE:
			return !TimestampDifferenceExceeds(slot->state_since, pw_loop_now(), RECENT_MS);
		default:
			return false;
	}
}

/*
 * How many slots a pool needs.  One that wants a slot needs one more than it
 * has, whether or not we have seen its client wait.
 */
static int
need_of(PwPool *pool)
{
	PwShmPool  *shared = pool->shared;
	int			need = pool->need + shared->waiting;

	if (pw_pool_service(shared) != PW_SERVICE_OPEN)
		return pool->need;
	if (shared->clients == 0)
		return pool->min_slots;
	if (pool->wants_slot)
		need = Max(need, slots_of(pool) + shared->opening + 1);
	need = Min(need, pw_pool_slot_limit(pool) + shared->settings.reserve_pool_size);
	return Max(need, pool->min_slots);
}

/*
 * Give each of these pools its share.  Those come first who need least for their
 * weight: as long as that is no more than their weight gives them, they get it,
 * and leave the rest to the others.
 */
static void
share_out(PwPool **pools, int npools)
{
	int64		room = PwControl->max_slots;
	int64		weight = 0;

	qsort(pools, npools, sizeof(PwPool *), compare_needs);
	for (int i = 0; i < npools; i++)
		weight += pools[i]->shared->settings.weight;
	for (int i = 0; i < npools; i++)
	{
		PwPool	   *pool = pools[i];
		int64		own = pool->shared->settings.weight;
		int64		by_weight = room * own / weight;

		if (pool->need <= by_weight)
		{
			pool->shared->share = pool->need;
			room -= pool->need;
			weight -= own;
		}
		else
			pool->shared->share = Max(by_weight, 1);
	}
}

static int
compare_needs(const void *a, const void *b)
{
	const PwPool *left = *(PwPool *const *) a;
	const PwPool *right = *(PwPool *const *) b;
	int64		lhs = (int64) left->need * right->shared->settings.weight;
	int64		rhs = (int64) right->need * left->shared->settings.weight;

	return lhs < rhs ? -1 : lhs > rhs;
}

/*
 * There may be room, or a way to make some: call "serve" for each pool that
 * wants a slot, whoever has the best claim first.  Those who still want one
 * afterwards have asked for it anew.
 */
void
pw_share_serve(void (*serve) (PwPool *pool))
{
	PwPool	  **wanting = palloc(sizeof(PwPool *) * PwControl->max_pools);
	int			n = 0;

	promised = 0;
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		if (pg_atomic_read_u32(&PwPools[i].yield) != 0)
			pg_atomic_write_u32(&PwPools[i].yield, 0);
		if (PwPools[i].in_use && PwLocalPools[i].wants_slot)
			wanting[n++] = &PwLocalPools[i];
	}
	if (n > 1)
	{
		pw_share_compute();
		qsort(wanting, n, sizeof(PwPool *), compare_claims);
	}
	for (int i = 0; i < n; i++)
	{
		if (!wanting[i]->shared->in_use)
			continue;
		wanting[i]->wants_slot = false;
		serve(wanting[i]);
	}
	pfree(wanting);
}

/* Who comes first if both want a slot? */
static int
compare_claims(const void *a, const void *b)
{
	PwPool	   *left = *(PwPool *const *) a;
	PwPool	   *right = *(PwPool *const *) b;
	int64		lhs;
	int64		rhs;

	if (is_entitled(left) != is_entitled(right))
		return is_entitled(left) ? -1 : 1;
	if (left->shared->settings.priority != right->shared->settings.priority)
		return left->shared->settings.priority == PW_PRIORITY_HIGH ? -1 : 1;
	lhs = (int64) left->shared->slots * right->shared->settings.weight;
	rhs = (int64) right->shared->slots * left->shared->settings.weight;
	if (lhs != rhs)
		return lhs < rhs ? -1 : 1;
	if (waiting_since(left) != waiting_since(right))
		return waiting_since(left) < waiting_since(right) ? -1 : 1;
	return 0;
}

static TimestampTz
waiting_since(const PwPool *pool)
{
	TimestampTz since = pool->shared->waiting_since;

	return since == 0 ? DT_NOEND : since;
}

/* Has the pool fewer slots than its share? */
static bool
is_entitled(PwPool *pool)
{
	return slots_of(pool) + pool->shared->opening < pool->shared->share;
}

/* How many slots has it beyond its share, or what it keeps in any case? */
static int
surplus(PwPool *pool)
{
	return slots_of(pool) - Max(pool->shared->share, pool->min_slots);
}

/* Those that are about to end are the room of others already. */
static int
slots_of(PwPool *pool)
{
	return pw_pool_usable_slots(pool) + pw_reserve_slots(pool);
}

/*
 * A pool wants a slot, and max_slots are open: see that there will be room, if
 * it is entitled to that.  "cold" says that a client waits for it.
 */
void
pw_share_make_room(PwPool *needy, bool cold)
{
	bool		urgent = cold || slots_of(needy) < needy->min_slots;

	pw_share_compute();
	if (!is_entitled(needy) || ++promised <= coming_room())
		return;
	if (!retire_idle_of_others(needy, urgent) && urgent)
		ask_to_yield(needy);
}

/* How many slots will have ended in a moment? */
static int
coming_room(void)
{
	int			coming = 0;

	for (int i = 0; i < PwControl->max_slots; i++)
	{
		uint32		activity = pg_atomic_read_u32(&PwSlots[i].activity);

		if (activity == PW_SLOT_GONE ||
			(activity == PW_SLOT_ASSIGNED && PwSlots[i].leaving) ||
			(activity == PW_SLOT_BUSY && PwSlots[i].retire_reason == PW_RETIRE_YIELDS))
			coming++;
	}
	return coming;
}

/*
 * Retire the longest idle slot of the pool that is most above its share; if
 * several are, of the one that has not been used for longest.
 */
static bool
retire_idle_of_others(PwPool *needy, bool urgent)
{
	/* who has no slot at all does not have to wait for what is too much */
	int			least = urgent && slots_of(needy) == 0 ? INT_MIN : 1;
	PwPool	   *victim = NULL;
	int			slot;

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		if (!pool->shared->in_use || pool == needy ||
			slots_of(pool) <= pool->min_slots || surplus(pool) < least ||
			(victim != NULL && !is_better_victim(pool, victim)))
			continue;
		slot = claim_idle(pool);
		if (slot == PW_NONE)
			continue;
		pw_pool_release(slot);
		victim = pool;
	}
	slot = victim == NULL ? PW_NONE : claim_idle(victim);
	if (slot == PW_NONE)
		return false;
	pw_pool_hand_over(slot, PW_NONE);
	return true;
}

static bool
is_better_victim(PwPool *pool, PwPool *other)
{
	if (surplus(pool) != surplus(other))
		return surplus(pool) > surplus(other);
	return pool->last_used_at < other->last_used_at;
}

/* An ordinary slot if there is one, else one of the reserve. */
static int
claim_idle(PwPool *pool)
{
	int			slot = pw_pool_claim_idle(pool, false);

	return slot != PW_NONE ? slot : pw_pool_claim_idle(pool, true);
}

/*
 * No slot is idle: the pool that is most above its share is to give one up as
 * soon as it can; if several are, the one that has had its own for longest.  It
 * is not asked for more than it has too many.
 */
static void
ask_to_yield(PwPool *needy)
{
	/* who has no slot at all, for long, takes turns with the others */
	bool		takes_turns = slots_of(needy) == 0 && is_past(waiting_since(needy));
	PwPool	   *victim = NULL;

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];

		if (!pool->shared->in_use || pool == needy ||
			slots_of(pool) <= pool->min_slots ||
			!can_spare(pool, takes_turns) || !can_yield(pool))
			continue;
		if (victim == NULL || surplus(pool) > surplus(victim) ||
			(surplus(pool) == surplus(victim) && oldest_slot(pool) < oldest_slot(victim)))
			victim = pool;
	}
	if (victim != NULL)
		pg_atomic_fetch_add_u32(&victim->shared->yield, 1);
}

/* Has it more than it is to keep, or has it had that for long enough? */
static bool
can_spare(PwPool *pool, bool last_one)
{
	int			spare = surplus(pool) - (int) pg_atomic_read_u32(&pool->shared->yield);

	return spare > 0 || (spare == 0 && last_one && is_past(oldest_slot(pool)));
}

/* Is that longer ago than a moment? */
static bool
is_past(TimestampTz since)
{
	return TimestampDifferenceExceeds(since, pw_loop_now(), RECENT_MS);
}

/* When was the oldest slot of the pool opened? */
static TimestampTz
oldest_slot(PwPool *pool)
{
	int			index = pool->shared - PwPools;
	TimestampTz oldest = DT_NOEND;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index)
			oldest = Min(oldest, PwSlots[i].opened_at);
	return oldest;
}

/* Does it have slots that come free when a transaction ends? */
static bool
can_yield(PwPool *pool)
{
	int			index = pool->shared - PwPools;

	if (pool->shared->settings.pool_mode == PW_MODE_SESSION)
		return false;
	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index && !PwSlots[i].reserve &&
			PwSlots[i].session_pin == PW_PIN_NONE &&
			PwSlots[i].worker_generation == PwControl->worker_generation)
			return true;
	return false;
}
