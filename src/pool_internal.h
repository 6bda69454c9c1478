/*-------------------------------------------------------------------------
 *
 * pool_internal.h
 *	  What pool.c, dispatch.c, operations.c, pool_size.c, pool_reserve.c,
 *	  pool_share.c, slot_life.c, slot_failure.c, pool_changes.c and queue.c
 *	  share.  Nobody else includes this.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_POOL_INTERNAL_H
#define PW_POOL_INTERNAL_H

#include "nodes/pg_list.h"

#include "auth.h"
#include "catalog.h"
#include "event_loop.h"
#include "shared_state.h"
#include "slot.h"

/* The worker's own part of a pool; valid while the pool is in use. */
typedef struct PwPool
{
	PwShmPool  *shared;			/* always valid; the index is the same */
	int			epfd;			/* the queue; -1 while not in use */
	int			high_epfd;		/* of those with high priority, likewise */
	PwWatch		watch;			/* on epfd, */
	PwWatch		high_watch;		/* and on high_epfd */
	bool		has_high;		/* somebody has been in that set */
	List	   *held;			/* clients debug_always_switch holds back */
	PwTimer		hold;			/* armed while it does */
	bool		hold_over;		/* busy slots have had enough time */
	TimestampTz last_used_at;

	/* pool_size.c's */
	int			min_slots;		/* to be kept open */
	int			need;			/* slots, see pool_share.c */
	bool		prewarmed;		/* listed in pool_worker.prewarm */
	bool		wants_slot;		/* had to wait for room under max_slots */
	PwTimer		growth;			/* armed while waiting whether it must grow */
	bool		growth_due;		/* it must, if somebody still waits */

	/* slot_life.c's */
	int			replacing;		/* slots being opened in place of others */

	/* slot_failure.c's */
	int			failures;		/* slot logins that failed in a row */
	PwTimer		retry;			/* armed while waiting to try again */

	/* pool_changes.c's */
	PwCatalogStamp stamp;		/* of what a slot's login depends on */
	uint32		looked_at;		/* value of shared->suspect by then */
	bool		is_barred;		/* no slot may log in, when last asked */
	bool		is_gone;		/* and never will */
	bool		is_cleared;		/* slots have been told to leave the database */

	/* queue.c's */
	int			watch_epfd;		/* its clients once more; -1 while not needed */
	PwTimer		look;			/* armed while somebody may be waiting */
	TimestampTz last_look;
	int			quiet_looks;	/* so many in a row have found nobody */
} PwPool;

/* By index, like PwPools. */
extern PwPool *PwLocalPools;

/* in pool.c */
extern PwPool *pw_pool_for_login(const PwLogin *login);
extern void pw_pool_drop(PwPool *pool);
extern void pw_pool_set_names(PwPool *pool, const char *database, const char *role);
extern void pw_pool_requeue(int client, uint64 word);
extern void pw_pool_keep_counts(int slot);
extern bool pw_pool_cancel(int client);

/* in dispatch.c */
extern void pw_pool_ready(void *arg, int ready);	/* somebody in its queue
													 * is */
extern void pw_pool_ready_failed(void *arg);
extern void pw_pool_dispatch(PwPool *pool);
extern void pw_pool_set_watched(PwPool *pool, bool watched);
extern void pw_pool_refuse_ready(PwPool *pool, const PwReport *why);
extern int	pw_pool_claim_idle(PwPool *pool, bool reserve);
extern void pw_pool_release(int slot);
extern void pw_pool_retire(int slot);
extern bool pw_pool_take_away_client(int slot);
extern void pw_pool_hand_over(int slot, int client);

/* in pool_size.c */
extern void pw_pool_size_init(void);
extern void pw_pool_size_reload(void);
extern void pw_pool_take_settings(PwPool *pool);
extern void pw_pool_want_slot(PwPool *pool);
extern void pw_pool_drop_unused(void);
extern bool pw_pool_can_grow(PwPool *pool);
extern int	pw_pool_slot_limit(PwPool *pool);
extern int	pw_pool_usable_slots(PwPool *pool);
extern bool pw_pool_slot_is_kept(PwPool *pool, int slot);
extern bool pw_pool_open_another(PwPool *pool);
extern bool pw_pool_has_room(void);
extern void pw_pool_open_succeeded(PwPool *pool, bool reserve);
extern void pw_pool_open_failed(int slot, int pool, const PwSlotFailure *failure);
extern void pw_pool_slot_gone(PwPool *pool);
extern void pw_pool_look_after(PwPool *pool);
extern void pw_pool_open_slot(PwPool *pool, bool cold, bool reserve);

/* in slot_failure.c */
extern void pw_slot_failure_note(PwPool *pool, const PwSlotFailure *failure);
extern void pw_slot_failure_forget(PwPool *pool);

/* in slot_life.c */
extern void pw_slot_life_init(void);
extern void pw_slot_life_begin(int slot);	/* is being opened */
extern void pw_slot_life_tick(PwPool *pool);	/* once in a second */
extern int	pw_slot_life_recycle(PwPool *pool); /* how many will be replaced */
extern void pw_slot_life_opened(PwPool *pool);
extern void pw_slot_life_not_opened(PwPool *pool);

/* in pool_reserve.c */
extern int	pw_reserve_slots(PwPool *pool);
extern int	pw_reserve_can_grow(PwPool *pool);
extern uint32 pw_reserve_alarm(PwPool *pool);
extern void pw_reserve_want(PwPool *pool);
extern void pw_reserve_look(PwPool *pool);

/* in pool_share.c */
extern void pw_share_compute(void);
extern void pw_share_serve(void (*serve) (PwPool *pool));
extern void pw_share_make_room(PwPool *needy, bool cold);

/* in pool_changes.c */
extern void pw_pool_changes_work(void);
extern void pw_pool_changes_tick(void);
extern bool pw_pool_may_open(PwPool *pool);
extern PwPool *pw_pool_adopt(const PwCatalogNames *names);
extern void pw_pool_find_again(PwPool *pool);

/* in queue.c */
extern void pw_queue_init(void);
extern void pw_queue_add(PwPool *pool, int client); /* enters the pool */
extern void pw_queue_remove(PwPool *pool, int client);	/* is being closed */
extern void pw_queue_begin(PwPool *pool);	/* ready clients, no idle slot */
extern void pw_queue_restart(PwPool *pool); /* all waits begin now */
extern void pw_queue_tidy(PwPool *pool);	/* once in a second */
extern void pw_queue_close(PwPool *pool);

#endif							/* PW_POOL_INTERNAL_H */
