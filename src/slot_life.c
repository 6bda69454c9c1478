/*-------------------------------------------------------------------------
 *
 * slot_life.c
 *	  When a slot has served for long enough, and whether it still answers.
 *
 * Runs in: pool worker.
 *
 * Once in a second we look at each slot.  A slot is due when it is too old, has
 * served too many transactions, has grown too large, has collected what it
 * cannot get rid of, or when somebody wants all slots replaced.
 *
 * Replaced before it retires
 * --------------------------
 *
 * For a slot that is due another one is opened first, beyond pool_size, at most
 * max_opening at a time.  When that is up, the old one is told to leave, which
 * it does as soon as nothing pins its client.  So a pool has at no time fewer
 * slots than before.  If there is no room for one more, the old one has to go
 * first.  If nobody would miss it, it goes without being replaced.
 *
 * A slot that a client keeps, maybe for hours, is told at once, and takes up its
 * place until that ends; else a pool would have two slots for each such client,
 * and after the next lifetime three.
 *
 * Asking
 * ------
 *
 * We cannot look into a backend.  We put a number into its shared entry, and
 * it repeats that together with what we want to know (answer_worker() in
 * slot_wait.c): a busy slot when it passes by, an idle one when it is woken for
 * it, every health_check_interval.  A slot that sleeps and does not answer then
 * is stopped, or stuck: its client is taken from it and queues again, and
 * another slot is opened in its place.  It ends when it wakes up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pool_internal.h"
#include "settings.h"
#include "shared_state.h"

/* Lifetimes are shorter than slot_lifetime by up to so much, percent. */
#define LIFETIME_JITTER 10

/* The worker's own part of the life of a slot; cleared when it is opened. */
typedef struct PwSlotLife
{
	int			jitter;			/* percent of slot_lifetime, to be left out */
	TimestampTz checked_at;		/* last asked while idle */
	TimestampTz answer_by;		/* that has to be answered by then; or 0 */
} PwSlotLife;

static PwSlotLife *lives = NULL;

static bool is_open(int slot, PwPool *pool);
static void set_due(int slot, PwRetireReason reason);
static PwRetireReason why_due(int slot, PwPool *pool);
static bool is_too_old(int slot, const PwPoolSettings *settings);
static void ask(int slot);
static bool has_answered(int slot);
static void check_health(int slot, PwPool *pool);
static void give_up(int slot, PwPool *pool);
static void replace_due(PwPool *pool);
static void retire_kept(PwPool *pool);
static bool retire_due(PwPool *pool);
static bool is_due(int slot, PwPool *pool);
static int	find_due(PwPool *pool);
static int	count_due(PwPool *pool);
static bool is_missed(PwPool *pool);

void
pw_slot_life_init(void)
{
	lives = MemoryContextAllocZero(TopMemoryContext,
								   sizeof(PwSlotLife) * PwControl->max_slots);
}

void
pw_slot_life_begin(int slot)
{
	memset(&lives[slot], 0, sizeof(PwSlotLife));
	lives[slot].jitter = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, LIFETIME_JITTER);
}

/*
 * Look at the slots of a pool; once in a second.
 */
void
pw_slot_life_tick(PwPool *pool)
{
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		if (!is_open(i, pool))
			continue;
		if (PwSlots[i].retire_reason == PW_RETIRE_NONE)
			set_due(i, why_due(i, pool));
		check_health(i, pool);
		if (lives[i].answer_by == 0)
			ask(i);
	}
	replace_due(pool);
}

int
pw_slot_life_recycle(PwPool *pool)
{
	int			n = 0;

	for (int i = 0; i < PwControl->max_slots; i++)
	{
		if (!is_open(i, pool))
			continue;
		n++;
		if (PwSlots[i].retire_reason == PW_RETIRE_NONE)
			set_due(i, PW_RETIRE_RECYCLED);
	}
	replace_due(pool);
	return n;
}

/*
 * A slot of this pool has been opened.  If that was to replace another one,
 * which one does not matter.
 */
void
pw_slot_life_opened(PwPool *pool)
{
	if (pool->replacing == 0)
		return;
	pool->replacing--;
	(void) retire_due(pool);
	replace_due(pool);
}

/* None could be opened; we will try again. */
void
pw_slot_life_not_opened(PwPool *pool)
{
	pool->replacing = Min(pool->replacing, pool->shared->opening);
}

/* Is it a slot of this pool, and up? */
static bool
is_open(int slot, PwPool *pool)
{
	uint32		activity = pg_atomic_read_u32(&PwSlots[slot].activity);

	return PwSlots[slot].pool == pool->shared - PwPools &&
		PwSlots[slot].worker_generation == PwControl->worker_generation &&
		activity != PW_SLOT_EMPTY && activity != PW_SLOT_OPENING &&
		activity != PW_SLOT_GONE && !PwSlots[slot].leaving;
}

/*
 * Note that a slot has to be replaced, unless there is no reason to.  One of
 * the reserve just goes: another one is opened when it is needed.
 */
static void
set_due(int slot, PwRetireReason reason)
{
	PwSlots[slot].retire_reason = reason;
	if (reason != PW_RETIRE_NONE && PwSlots[slot].reserve)
		pw_pool_retire(slot);
}

static PwRetireReason
why_due(int slot, PwPool *pool)
{
	const PwPoolSettings *settings = &pool->shared->settings;
	const PwShmSlot *shared = &PwSlots[slot];

	if (is_too_old(slot, settings))
		return PW_RETIRE_AGE;
	if (settings->slot_max_transactions > 0 &&
		shared->transactions >= (uint64) settings->slot_max_transactions)
		return PW_RETIRE_TRANSACTIONS;
	if (settings->slot_max_memory > 0 &&
		shared->memory / 1024 >= (uint64) settings->slot_max_memory)
		return PW_RETIRE_MEMORY;
	return shared->is_worn ? PW_RETIRE_WORN : PW_RETIRE_NONE;
}

static bool
is_too_old(int slot, const PwPoolSettings *settings)
{
	int64		ms = (int64) settings->slot_lifetime * 10 * (100 - lives[slot].jitter);

	return ms > 0 &&
		pw_loop_now() >= TimestampTzPlusMilliseconds(PwSlots[slot].opened_at, ms);
}

/*
 * Ask a slot how it is, unless the last question has not been answered yet.
 */
static void
ask(int slot)
{
	if (has_answered(slot))
		pg_atomic_write_u32(&PwSlots[slot].asked,
							pg_atomic_read_u32(&PwSlots[slot].asked) + 1);
}

static bool
has_answered(int slot)
{
	return pg_atomic_read_u32(&PwSlots[slot].answered) ==
		pg_atomic_read_u32(&PwSlots[slot].asked);
}

/*
 * If a slot has slept for long, make sure that it would wake up.
 */
static void
check_health(int slot, PwPool *pool)
{
	PwSlotLife *life = &lives[slot];
	TimestampTz slept_since = Max(life->checked_at, PwSlots[slot].state_since);

	if (pw_health_check_interval == 0 || has_answered(slot) ||
		pg_atomic_read_u32(&PwSlots[slot].activity) != PW_SLOT_IDLE)
		life->answer_by = 0;
	else if (life->answer_by != 0)
	{
		if (pw_loop_now() >= life->answer_by)
			give_up(slot, pool);
		return;
	}

	if (pw_health_check_interval == 0 ||
		pg_atomic_read_u32(&PwSlots[slot].activity) != PW_SLOT_IDLE ||
		!TimestampDifferenceExceeds(slept_since, pw_loop_now(), pw_health_check_interval))
		return;
	ask(slot);
	life->checked_at = pw_loop_now();
	life->answer_by = TimestampTzPlusMilliseconds(pw_loop_now(), pw_health_check_timeout);
	pw_wake_slot(slot);
}

/*
 * A slot does not answer.  If it wakes up after all it finds that it is to
 * retire, and that its client is somebody else's by now.
 */
static void
give_up(int slot, PwPool *pool)
{
	if (!pw_pool_take_away_client(slot))
		return;
	PwSlots[slot].retire_reason = PW_RETIRE_NO_ANSWER;
	PwSlots[slot].leaving = true;
	pool->shared->unanswered++;
	ereport(LOG,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("pool slot %d of pool \"%s/%s\" does not answer, and is replaced",
					slot, NameStr(pool->shared->database), NameStr(pool->shared->role)),
			 errdetail("Process %d has been asked %d ms ago.",
					   PwSlots[slot].pid, pw_health_check_timeout)));
	pw_pool_hand_over(slot, PW_NONE);
	if (!PwSlots[slot].reserve)
		pw_pool_open_another(pool);
}

/*
 * Open replacements for what is due, or let it go without.
 */
static void
replace_due(PwPool *pool)
{
	int			due = count_due(pool);

	retire_kept(pool);

	/* one that failed may have left the count to a slot that replaces none */
	pool->replacing = Min(pool->replacing, pool->shared->opening);

	for (; due > pool->replacing && !is_missed(pool); due--)
		if (!retire_due(pool))
			return;

	while (pool->replacing < Min(due, pw_max_opening) && pw_pool_open_another(pool))
		pool->replacing++;
	if (due > 0 && pool->replacing == 0 && pool->wants_slot && !pw_pool_has_room())
		(void) retire_due(pool);
}

/* Those that clients keep end when they do not any more. */
static void
retire_kept(PwPool *pool)
{
	for (int i = 0; i < PwControl->max_slots; i++)
		if (is_open(i, pool) && PwSlots[i].retire_reason != PW_RETIRE_NONE &&
			pw_pool_slot_is_kept(pool, i))
			pw_pool_retire(i);
}

/*
 * Tell one that is due to end.  False if there is none: slots end by themselves,
 * so whoever has been counted may be gone.
 */
static bool
retire_due(PwPool *pool)
{
	int			slot = find_due(pool);

	if (slot == PW_NONE)
		return false;
	pw_pool_retire(slot);
	return true;
}

/* Is a slot to be replaced now, and has not been told so? */
static bool
is_due(int slot, PwPool *pool)
{
	return is_open(slot, pool) && PwSlots[slot].retire_reason != PW_RETIRE_NONE &&
		!pw_pool_slot_is_kept(pool, slot);
}

/* A slot that is due, idle if there is one. */
static int
find_due(PwPool *pool)
{
	int			found = PW_NONE;

	for (int i = 0; i < PwControl->max_slots; i++)
	{
		if (!is_due(i, pool))
			continue;
		found = i;
		if (pg_atomic_read_u32(&PwSlots[i].activity) == PW_SLOT_IDLE)
			break;
	}
	return found;
}

static int
count_due(PwPool *pool)
{
	int			n = 0;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (is_due(i, pool))
			n++;
	return n;
}

/* Would the pool miss one of its slots?  Not while it serves nobody. */
static bool
is_missed(PwPool *pool)
{
	int			slots = pw_pool_usable_slots(pool);

	return pw_pool_service(pool->shared) == PW_SERVICE_OPEN &&
		(slots <= pool->min_slots ||
		 (pool->shared->clients > 0 && slots <= pw_pool_slot_limit(pool)));
}
