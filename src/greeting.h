/*-------------------------------------------------------------------------
 *
 * greeting.h
 *	  What a client hears between its login and its first ReadyForQuery.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_GREETING_H
#define PW_GREETING_H

#include "libpq/libpq.h"

#include "shared_state.h"

/*
 * Say hello to the attached client: AuthenticationOk, all reported parameters,
 * the key for cancel requests; and at last ReadyForQuery.  Neither flushes.
 * "methods" are PostgreSQL's own, so that this is not taken for the end of a
 * command.
 */
extern void pw_greet(const PQcommMethods *methods, PwShmClient *client);
extern void pw_greet_ready(const PQcommMethods *methods, PwShmClient *client);

/* Send an error to a client instead, or in between.  Does not flush. */
extern void pw_greet_with_error(const PQcommMethods *methods, const ErrorData *error);

/*
 * Reported parameters and changes of hands.  Settle: what the settings are now
 * counts as reported.  Remember: a client for whom that is true is about to be
 * parked.
 */
extern void pw_reported_settle(void);
extern void pw_reported_remember(PwShmClient *client);

/*
 * Send a client what has changed while it was parked, other than by itself: the
 * configuration was reloaded, or the server promoted.  After settling.  Does not
 * flush; false if there is nothing to be sent.
 */
extern bool pw_report_news(const PQcommMethods *methods, PwShmClient *client);

#endif							/* PW_GREETING_H */
