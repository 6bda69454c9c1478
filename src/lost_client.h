/*-------------------------------------------------------------------------
 *
 * lost_client.h
 *	  A client that vanishes costs a rollback, not a backend.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_LOST_CLIENT_H
#define PW_LOST_CLIENT_H

#include "libpq/libpq.h"

/* Begin to watch for lost clients. */
extern void pw_lost_client_init(void);

/* Whether there is a client to lose; tell at attach and detach. */
extern void pw_lost_client_watch(bool attached);

/* Has the attached client been lost?  Its output must be discarded then. */
extern bool pw_client_is_lost(void);

/* Has output to it failed?  Then it cannot be told anything. */
extern bool pw_client_is_deaf(void);

/*
 * To be called after output: if that has failed, the client is lost, and the
 * statement that is running is cancelled.
 */
extern void pw_lost_client_check(void);

/*
 * Give a client up as lost while PostgresMain() waits for it to send a command.
 * The caller raises an error next.
 */
extern void pw_lost_client_give_up(void);

/*
 * To be called when recovery from an error begins: if the error was that the
 * client vanished in the middle of a message, make the backend go on.
 */
extern void pw_lost_client_recover(void);

/* Throw away what a client has sent and nobody has read. */
extern void pw_lost_client_drop_input(void);

/*
 * Throw away what was to be sent to a client that has left, or the next one
 * would get it: an answer is not sent before it is complete, and it will not be
 * if the client vanishes in the middle of asking.  Its socket is shut down for
 * that.  "methods" are PostgreSQL's own.
 */
extern void pw_lost_client_drop_output(const PQcommMethods *methods);

#endif							/* PW_LOST_CLIENT_H */
