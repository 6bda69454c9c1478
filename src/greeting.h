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
 * the key for cancel requests, ReadyForQuery.  Does not flush.  "methods" are
 * PostgreSQL's own, so that this is not taken for the end of a command.
 */
extern void pw_greet(const PQcommMethods *methods, PwShmClient *client);

/* Send an error to a client that is not greeted.  Does not flush. */
extern void pw_greet_with_error(const PQcommMethods *methods, const ErrorData *error);

/*
 * Reported parameters and changes of hands.  Settle: what the settings are now
 * counts as reported.  Remember: the client is about to be parked.  Stale: the
 * configuration has been reloaded since the client was last told.
 */
extern void pw_reported_settle(void);
extern void pw_reported_remember(PwShmClient *client);
extern bool pw_reported_is_stale(PwShmClient *client);

/* Send all reported parameters. */
extern void pw_report_all(const PQcommMethods *methods);

#endif							/* PW_GREETING_H */
