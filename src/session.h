/*-------------------------------------------------------------------------
 *
 * session.h
 *	  A client's session, saved when it leaves a slot and brought to the next.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SESSION_H
#define PW_SESSION_H

#include "shared_state.h"

extern void pw_session_init(void);

/*
 * Save what has changed in the attached client's session, so that any slot
 * can go on with it.  False if the session is larger than
 * pool_worker.max_session_size: then the client must stay.  Costs nothing if
 * nothing has changed.  To be called outside of a transaction, while we own
 * the client.
 */
extern bool pw_session_save(PwShmClient *client);

/*
 * May a client see what cannot be removed from this backend?  If not, the
 * client needs another slot, and this one must end.
 */
extern bool pw_session_can_enter(PwShmClient *client);

/*
 * Make this backend's session that of a client: startup settings, and what
 * pw_session_save() has saved.  Costs nothing if it is that already.  Raises
 * an error if something is no longer valid; the next call then starts from
 * what there is.  To be called outside of a transaction.
 */
extern void pw_session_enter(PwShmClient *client);

/*
 * The client has left, and no transaction is open: make the session as good as
 * new.  False if that is not possible, and the backend must not serve anybody
 * else.
 */
extern bool pw_session_clean(void);

#endif							/* PW_SESSION_H */
