/*-------------------------------------------------------------------------
 *
 * enforce.h
 *	  The time limits of the pool's clients, whatever their sessions set.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_ENFORCE_H
#define PW_ENFORCE_H

/* Begin to watch the clock. */
extern void pw_enforce_init(void);

/*
 * The limits of some pool have changed, or there is another pool: look at
 * everything again, at once.
 */
extern void pw_enforce_reschedule(void);

/*
 * An administrator wants this client to go: if it is attached to a slot, tell
 * that.  It may have been parked by then, or be just about to begin or end a
 * command, so call this again while the client is there.
 */
extern void pw_enforce_end(int client, bool even_in_transaction);

#endif							/* PW_ENFORCE_H */
