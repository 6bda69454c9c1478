/*-------------------------------------------------------------------------
 *
 * stalled_clients.h
 *	  Clients that have stopped in the middle of a command.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_STALLED_CLIENTS_H
#define PW_STALLED_CLIENTS_H

#include "datatype/timestamp.h"

/* To be looked at so often while a timeout passes, which is as late as it gets. */
#define PW_STALLED_LOOKS 10

extern void pw_stalled_init(void);

/*
 * Look at a slot whose command word is this.  Returns since when it has been
 * waiting for its client in the middle of something, and has got nothing of
 * it, as far as we have looked; 0 if it has not, or that cannot be told.
 */
extern TimestampTz pw_stalled_since(int slot, uint64 word);

/*
 * Make the slot see that nothing will come of its client any more.  The caller
 * holds slot->lock, and has just noted the limit in the command word, which
 * is now this.
 */
extern void pw_stalled_end(int slot, uint64 word);

#endif							/* PW_STALLED_CLIENTS_H */
