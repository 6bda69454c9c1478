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

#endif							/* PW_ENFORCE_H */
