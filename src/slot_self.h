/*-------------------------------------------------------------------------
 *
 * slot_self.h
 *	  What a slot's backend knows about itself.  handoff.c, slot_wait.c,
 *	  attachment.c and command_clock.c share this; nobody else includes it.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SLOT_SELF_H
#define PW_SLOT_SELF_H

#include "libpq/libpq.h"
#include "storage/latch.h"

#include "shared_state.h"

/*
 * Everything here is this process's own.  What the worker and others may see
 * is in *slot and *pool.
 */
typedef struct PwSlotSelf
{
	/* PostgreSQL's methods, behind ours; set when the worker has logged in. */
	const PQcommMethods *core_methods;

	/* The connection to the worker; set once, after its first ReadyForQuery. */
	pgsocket	home;
	WaitEventSet *home_set;		/* home, our latch, postmaster death */

	/* Which slot we are, as the worker has welcomed us; set once. */
	int			index;			/* of the slot; PW_NONE until then */
	PwShmSlot  *slot;			/* NULL until then */
	PwShmPool  *pool;			/* NULL until then */
	int			pool_epfd;		/* the pool's epoll sets, our copies; or -1: */
	int			high_epfd;		/* normal and high priority */
	uint32		worker_generation;	/* of the worker that opened us */

	/*
	 * The client that is attached, or PW_NONE.  attachment.c sets it,
	 * together with slot->client, MyProcPort->sock and FeBeWaitSet.
	 */
	int			client;

	/*
	 * A client of ours has left, and the worker may not know yet.  Set by
	 * attachment.c, cleared by slot_wait.c when it has seen to that.
	 */
	bool		worker_unaware;

	/* Discard output: there is no client, or it must not see this. */
	bool		discarding;

	/*
	 * Current during our turn, and emptied whenever we look for the next
	 * client: many may come and go before there is a command, at which
	 * PostgresMain() would empty its own.
	 */
	MemoryContext turn_context;

	/* As in the last ReadyForQuery; 'I' while no client is attached. */
	char		transaction_status;
} PwSlotSelf;

/* Defined in handoff.c, which also fills in what is set once. */
extern PwSlotSelf PwSelf;

#endif							/* PW_SLOT_SELF_H */
