/*-------------------------------------------------------------------------
 *
 * operations.h
 *	  What an administrator has the pools do: pause, resume, drain, recycle; and
 *	  what becomes of a single client.
 *
 * Runs in: pool worker.
 *
 * Those who ask are in operations_api.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_OPERATIONS_H
#define PW_OPERATIONS_H

#include "shared_state.h"

/* Begin; an earlier worker may have left things undone. */
extern void pw_operations_init(void);

/* Carry out what has been asked for, and go on with what takes longer. */
extern void pw_operations_work(void);

/* What a pool of these names is to do when it is made. */
extern PwService pw_operations_ordered(const char *database, const char *role);

#endif							/* PW_OPERATIONS_H */
