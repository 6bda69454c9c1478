/*-------------------------------------------------------------------------
 *
 * handoff.h
 *	  A slot's backend: serves one client's transaction after the other's.
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
