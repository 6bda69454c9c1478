/*-------------------------------------------------------------------------
 *
 * slot.h
 *	  The worker's side of a slot: one libpq connection to our own server.
 *
 * Runs in: pool worker.
 *
 * The other side, the backend, is handoff.c and slot_wait.c.  Who is doing what
 * with a slot is said by its activity, see shared_state.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SLOT_H
#define PW_SLOT_H

/* Why a slot could not be opened; strings are valid during the call only. */
typedef struct PwSlotFailure
{
	char		sqlstate[6];	/* "" if the server did not say */
	const char *message;		/* the server's words, or libpq's */
	bool		needs_password; /* the server asked for one */
} PwSlotFailure;

/* What a slot is opened for. */
typedef struct PwSlotOrder
{
	int			pool;			/* index */
	const char *database;
	const char *role;
	int			epfd;			/* the pool's epoll sets: normal */
	int			high_epfd;		/* and high priority */
	bool		cold;			/* a client waits for it */
	bool		reserve;		/* for high priority only */
} PwSlotOrder;

/* What slot.c tells its only user, pool.c. */
typedef struct PwSlotEvents
{
	/* The slot's backend is up; it will report itself idle. */
	void		(*opened) (int slot);

	/* It could not be opened, and is EMPTY again. */
	void		(*open_failed) (int slot, int pool, const PwSlotFailure *failure);

	/*
	 * The backend is gone.  The slot is GONE and still has its pool and what
	 * it has counted; after this it will be EMPTY.
	 */
	void		(*gone) (int slot);

	/* A slot of this pool was gone and is EMPTY now. */
	void		(*emptied) (int pool);
} PwSlotEvents;

/* Begin.  Slots of an earlier worker are left alone until they are gone. */
extern void pw_slot_init(const PwSlotEvents *events);

/*
 * Begin to open an EMPTY slot for a pool.  Returns at once; one of the events
 * follows, but not before this has returned.  False, with *failure filled, if
 * no attempt could be made; the slot is EMPTY then.
 */
extern bool pw_slot_open(int slot, const PwSlotOrder *order, PwSlotFailure *failure);

/* Find an EMPTY slot, or PW_NONE. */
extern int	pw_slot_find_empty(void);

/*
 * Send the client's descriptor to the slot, unless it has been sent before.
 * True if it was sent now.  If it cannot be, the slot will ask for it.
 */
extern bool pw_slot_send_client(int slot, int client);

/* No slot holds this client's descriptor any more, or will soon not. */
extern void pw_slot_forget_client(int client);

/*
 * Signal the slot's backend, as pg_cancel_backend() does.  To be called while
 * slot->lock is held and slot->alive is true.
 */
extern void pw_slot_signal(int slot, int signal_number);

/* Reclaim the slots of an earlier worker that have gone; true if any had. */
extern bool pw_slot_reclaim_orphans(void (*reclaimed) (int slot));

#endif							/* PW_SLOT_H */
