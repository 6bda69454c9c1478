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
extern void pw_session_state_init(void);

/*
 * The client asks to be kept in this backend, or no longer.  *before says what
 * it asked for last.  False if this backend is not a slot, and nobody would take
 * it away.
 */
extern bool pw_session_request_pin(bool pin, bool *before);

/*
 * Is there state that keeps the client in this backend?  Costs nothing while
 * nothing has happened since the last call that could change the answer.  Not
 * to be called inside a transaction; may open one of its own.
 */
extern PwPinReason pw_session_pin_reason(void);

/*
 * This function is about to be called in a way that PostgreSQL's hooks do not
 * see.  Inside a transaction.
 */
extern void pw_session_note_function(Oid function);

/* A Close message has been carried out: maybe the state was a cursor. */
extern void pw_session_closed(void);

/*
 * The client has left, and no transaction is open: remove such state.  False
 * if that is not possible, and the backend must not serve anybody else.
 */
extern bool pw_session_state_clean(void);

#endif							/* PW_SESSION_STATE_H */
