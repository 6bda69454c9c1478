/*-------------------------------------------------------------------------
 *
 * pool_internal.h
 *	  What pool.c and pool_size.c share.  Nobody else includes this.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_POOL_INTERNAL_H
#define PW_POOL_INTERNAL_H

#include "nodes/pg_list.h"

#include "auth.h"
#include "event_loop.h"
#include "shared_state.h"
#include "slot.h"

/* The worker's own part of a pool; valid while the pool is in use. */
typedef struct PwPool
{
	PwShmPool  *shared;			/* always valid; the index is the same */
	int			epfd;			/* the queue; -1 while not in use */
	PwWatch		watch;			/* on epfd */
	List	   *held;			/* clients debug_always_switch holds back */
	TimestampTz last_used_at;

	/* pool_size.c's */
	int			min_slots;		/* to be kept open */
	bool		prewarmed;		/* listed in pool_worker.prewarm */
	bool		wants_slot;		/* had to wait for room under max_slots */
	int			failures;		/* slot logins that failed in a row */
	PwTimer		retry;			/* armed while waiting to try again */
	PwTimer		growth;			/* armed while waiting whether it must grow */
	bool		growth_due;		/* it must, if somebody still waits */
} PwPool;

/* By index, like PwPools. */
extern PwPool *PwLocalPools;

/* in pool.c */
extern PwPool *pw_pool_for_login(const PwLogin *login);
extern void pw_pool_drop(PwPool *pool);
extern void pw_pool_dispatch(PwPool *pool);
extern int	pw_pool_claim_idle(PwPool *pool);
extern void pw_pool_release(int slot);
extern void pw_pool_hand_over(int slot, int client);

/* in pool_size.c */
extern void pw_pool_size_init(void);
extern void pw_pool_size_reload(void);
extern void pw_pool_want_slot(PwPool *pool);
extern void pw_pool_drop_unused(void);
extern bool pw_pool_can_grow(PwPool *pool);
extern void pw_pool_open_succeeded(PwPool *pool);
extern void pw_pool_open_failed(int slot, int pool, const PwSlotFailure *failure);
extern void pw_pool_slot_gone(PwPool *pool);

#endif							/* PW_POOL_INTERNAL_H */
