/*-------------------------------------------------------------------------
 *
 * injection.h
 *	  Messages of our own that PostgresMain() reads before the client's.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_INJECTION_H
#define PW_INJECTION_H

#include "lib/stringinfo.h"

/*
 * Let PostgresMain() read these messages, which must end with Sync, and then
 * what it has read of the client's already.  Returns the descriptor to read
 * from.
 */
extern int	pw_inject(StringInfo messages);

/* Is it reading them?  And: it has read them. */
extern bool pw_is_injecting(void);
extern void pw_injection_finish(void);

/* It may not have read all of them, and does not need to any more. */
extern void pw_injection_abandon(void);

#endif							/* PW_INJECTION_H */
