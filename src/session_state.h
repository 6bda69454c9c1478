/*-------------------------------------------------------------------------
 *
 * session_state.h
 *	  What a client has left in its backend beyond the end of a transaction.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SESSION_STATE_H
#define PW_SESSION_STATE_H

#include "shared_state.h"

/* Begin to watch what happens in this backend. */
extern void pw_session_init(void);

/*
 * Protocol messages that passed on their way to the client, as far as they
 * tell of prepared statements.  "named" is false if it is known that the
 * unnamed statement was meant.
 */
extern void pw_session_parsed(bool named);
extern void pw_session_closed(void);

/* Something happened that may have left state, in a way not seen from here. */
extern void pw_session_touch(void);

/*
 * Is there reason to keep the client in this backend?  Costs nothing while
 * nothing has happened since the last call that could change the answer.  Not
 * to be called inside a transaction; may open one of its own.
 */
extern PwPinReason pw_session_pin_reason(void);

/*
 * The client has left, and no transaction is open: make the session as good
 * as new.  False if that is not possible, and the backend must not serve
 * anybody else.
 */
extern bool pw_session_clean(void);

/*
 * Another client comes: see to it that nothing is left which does not pin but
 * could be seen.  Cheap.
 */
extern void pw_session_hand_over(void);

#endif							/* PW_SESSION_STATE_H */
