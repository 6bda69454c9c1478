/*-------------------------------------------------------------------------
 *
 * dispatch.c
 *	  Which client goes to which slot of its pool.
 *
 * Runs in: pool worker.
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

#include <sys/epoll.h>

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "client.h"
#include "pool_internal.h"
#include "priority.h"
#include "settings.h"
#include "shared_state.h"
#include "slot.h"

/* How long debug_always_switch holds a client back for another slot. */
#define HOLD_MS 100

static int	claim_idle_slot(PwPool *pool, int queues, int not_this_one);
static int	find_idle_slot(PwPool *pool, int queues, int not_this_one);
static bool is_idle(PwPool *pool, int slot);
static bool is_better_idle(const PwShmSlot *slot, const PwShmSlot *other);
static bool is_longer_idle(const PwShmSlot *slot, const PwShmSlot *other);
static int	claim_preferred_slot(int slot, int preferred);
static bool is_usable(const PwShmSlot *slot);
static bool claim_slot(int slot);
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

/* Watch callback: a parked client of this pool is ready. */
void
pw_pool_ready(void *arg, int ready)
{
	pw_pool_dispatch((PwPool *) arg);
}

/*
 * Watch callback: an error was raised while dispatching.  It belongs to the
 * client that was being dispatched, which remains parked or assigned, and the
 * next event finds it there.
 */
void
pw_pool_ready_failed(void *arg)
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
			pw_pool_release(slot);
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
	pw_pool_release(slot);
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
void
pw_pool_release(int slot)
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
 * Tell all clients that want a slot why they will never have one.  Those who come
 * while we do that ask for themselves: it may not be true any more.
 */
void
pw_pool_refuse_ready(PwPool *pool, const PwReport *why)
{
	List	   *ready = NIL;
	ListCell   *cell;
	int			client;

	while ((client = take_held_client(pool)) != PW_NONE ||
		   (client = take_ready_client(pool, PW_WATCH_ALL)) != PW_NONE)
		ready = lappend_int(ready, client);

	foreach(cell, ready)
	{
		pool->shared->failed++;
		(void) pw_client_refuse(lfirst_int(cell), why);
	}
	list_free(ready);
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
		pw_pool_release(slot);
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
 * away, which queues again.  False if it does not sleep any more, or has been
 * stopped just while it held its lock, for which we must not wait.
 */
bool
pw_pool_take_away_client(int slot)
{
	int			client;

	if (!claim_slot(slot))
		return false;
	if (!LWLockConditionalAcquire(&PwSlots[slot].lock, LW_EXCLUSIVE))
	{
		pw_pool_release(slot);
		return false;
	}
	client = PwSlots[slot].client;
	PwSlots[slot].client = PW_NONE;
	PwSlots[slot].alive = false;
	LWLockRelease(&PwSlots[slot].lock);
	if (client != PW_NONE)
	{
		/* what it has waited for before is over: it has had that slot */
		PwClients[client].parked_at = PwClients[client].state_since = pw_loop_now();
		pw_pool_requeue(client, pg_atomic_read_u64(&PwClients[client].word));
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
	pw_pool_release(slot);
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
					 end_hold, pw_pool_ready_failed, pool);

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
