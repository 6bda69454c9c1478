/*-------------------------------------------------------------------------
 *
 * attachment.h
 *	  A slot takes a client's socket as its own, and lets go of it.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_ATTACHMENT_H
#define PW_ATTACHMENT_H

#include "compat.h"

/*
 * Attach a client whose word says that it is ours; none is attached.  Brings
 * its settings in force, and greets it if that has not been done.  May wait
 * for the worker to send its socket.
 *
 * False if it was refused or its socket is gone: it has been given to the
 * worker to be closed, and none is attached.  Ends the backend if the settings
 * of the client before cannot be undone; then the client queues again.
 */
extern bool pw_attach_client(int client);

/*
 * A client that we have taken out of the queue has hung up: leave it to the
 * worker.
 */
extern void pw_dismiss_client(int client);

/*
 * Is the attached client still ours?  The worker takes a client only from a slot
 * that did not wake up for long: see slot_life.c.
 */
extern bool pw_client_is_ours(void);

/*
 * Let go of the attached client, which goes back into the pool's queue: to be
 * ready again when it says something (0) or at once (EPOLLOUT).  If the worker
 * has gone, there is no queue: then the client is told, and disconnected.
 */
extern void pw_park_client(uint32 ready_when);

/*
 * The attached client has left: roll back what it has begun, give its socket to
 * the worker to be closed, and clean the session for the next one.  Ends the
 * backend if that cannot be done.
 */
extern void pw_leave_client(void);

/*
 * The attached client is over a time limit, a PwTimeLimit: tell it, unless that
 * has been done (discarding is set then), and end it as one that has left.
 */
extern void pw_expel_client(int limit);

/* End this backend: it must not or need not serve anybody else. */
pg_noreturn extern void pw_retire(void);

#endif							/* PW_ATTACHMENT_H */
