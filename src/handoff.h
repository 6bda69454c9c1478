/*-------------------------------------------------------------------------
 *
 * handoff.h
 *	  A slot's backend: takes a client's socket as its own for one transaction
 *	  after the other.
 *
 * Runs in: slots (and, to notice that it is one, every backend at its start).
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_HANDOFF_H
#define PW_HANDOFF_H

/* Set up the hook by which a backend finds out that it is a slot. */
extern void pw_handoff_register(void);

#endif							/* PW_HANDOFF_H */
