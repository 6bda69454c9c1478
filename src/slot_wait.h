/*-------------------------------------------------------------------------
 *
 * slot_wait.h
 *	  A slot with nothing to do: sleeping, and what the worker makes of that.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SLOT_WAIT_H
#define PW_SLOT_WAIT_H

#include "shared_state.h"

/*
 * Sleep until the attached client says something or is over a time limit, or
 * until the worker has given us another one, who is attached then, or none if
 * that has failed.
 * "reason" says why our client keeps us, if it does; without one, the worker
 * may take us away from it.  Ends the backend if the worker says so.  Raises
 * what an idle backend may raise.
 */
extern void pw_wait_for_work(PwPinReason reason);

/*
 * Say why our client keeps us, or that it does not.  To be called before it
 * could be parked, too.
 */
extern void pw_note_pin(PwPinReason reason);

/* Count ourselves in pool->active, or no longer; fine if that is so already. */
extern void pw_count_active(bool active);

/*
 * Without our worker nobody would give us clients or close those we have: end
 * with the current transaction.  Returns if the worker lives or a transaction
 * is open.
 */
extern void pw_check_worker(void);

/*
 * The worker may want to know how large we have grown, or just that we are
 * awake.  Cheap if it does not.
 */
extern void pw_answer_worker(void);

/*
 * A slot that is stale must not serve anybody any more: end.  To be called
 * while nothing pins our client, who is parked then.  Returns if we are not.
 */
extern void pw_check_ending(void);

/*
 * On a standby: if the attached client's transaction is in the way of recovery,
 * end the backend, as the server ends one that waits for its client.  Forgets
 * other cancels.  To be called when a command has been answered.
 */
extern void pw_heed_recovery(void);

/*
 * Is our client between transactions while its pool is not OPEN?  Then its next
 * command must not be read.  To be asked while our activity says that we are
 * BUSY, or after we have stored that.
 */
extern bool pw_is_held(void);

/*
 * The worker opens one slot at a time, and looks at the queue again when the
 * new slot says that it is idle.  To be called when a slot finds work without
 * that; tells the worker the first time.
 */
extern void pw_tell_growth(void);

#endif							/* PW_SLOT_WAIT_H */
