/*-------------------------------------------------------------------------
 *
 * client.h
 *	  One accepted socket, from accept() to closed.
 *
 * Runs in: pool worker.
 *
 * A client is named by its index, and its descriptor has the same number,
 * fd_base + index, in every process that holds it: an epoll entry is keyed by
 * (open file, descriptor number), and a slot must be able to re-arm the entry
 * that the worker made.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_CLIENT_H
#define PW_CLIENT_H

#include "datatype/timestamp.h"

#include "auth.h"
#include "protocol.h"

/* What client.c tells its only user, pool.c. */
typedef struct PwClientEvents
{
	/*
	 * The client has proven who it is.  Its entry is ADMITTING and complete
	 * but for the pool; the receiver parks it or refuses it.
	 */
	void		(*authenticated) (int client, const PwLogin *login);

	/* A login was refused; names may be NULL. */
	void		(*refused) (const char *database, const char *role);

	/* Somebody asks to cancel what the client with this key is doing. */
	void		(*cancel) (const PwCancelKey *key);

	/*
	 * The client is CLOSING: take it out of its pool.  Its descriptor is
	 * still open.
	 */
	void		(*closing) (int client);
} PwClientEvents;

/*
 * Begin: raise the limit of open files, decide how many clients there can be
 * (logged if fewer than the setting says), forget the clients of an earlier
 * worker.
 */
extern void pw_client_init(const PwClientEvents *events);

/* Accept whoever waits on a listening socket; see listen.h. */
extern void pw_client_accept(int listener);
extern void pw_client_accept_failed(void);

/* The client's descriptor, in this and every other process that holds it. */
extern int	pw_client_fd(int client);

/* The client with this cancel key, or PW_NONE. */
extern int	pw_client_find_by_key(const PwCancelKey *key);

/*
 * Close a client that is the worker's: ADMITTING, HELD, LEAVING or CLOSING, or
 * PARKED if the word can still be swapped.  False if a slot was faster.
 */
extern bool pw_client_close(int client);

/*
 * Close a client that is ATTACHED to a slot whose backend is gone.
 */
extern void pw_client_close_attached(int client);

/*
 * The same as pw_client_close(), with a FATAL error as farewell.  A LEAVING
 * client does not get it if its slot has shut the connection down.
 */
extern bool pw_client_refuse(int client, const PwReport *report);

/*
 * Hold a PARKED client that has been waiting for a slot since then, for as long
 * as it takes to refuse it, or to release it; no error may be raised meanwhile.
 * False if it does not wait any more: it may have had a slot since we looked,
 * and be idle now.
 */
extern bool pw_client_hold(int client, TimestampTz since);
extern void pw_client_release(int client);

/* "since", if it does not matter whether it waits */
#define PW_WHENEVER DT_NOBEGIN

/*
 * Is there anything that a client has not taken yet?  If not, there is room for
 * a short message as a whole.
 */
extern bool pw_client_has_unsent_output(int client);

/*
 * Send something short to a HELD client.  If it does not take all of it at
 * once it is closed, for half a message cannot be mended; false then.
 */
extern bool pw_client_send_or_close(int client, const char *data, size_t len);

/*
 * Send a notice to such a client, which goes on waiting.  False if it does not,
 * or does not read what it is sent.
 */
extern bool pw_client_tell(int client, TimestampTz since, const PwReport *report);

/*
 * Has a PARKED client hung up, or said goodbye?  Then no slot needs to wake for
 * it.
 */
extern bool pw_client_has_left(int client);

/*
 * For the end of the worker: tell everybody who is not with a slot, and close
 * them.  Then, is there anybody who does not belong to us, but is not with a
 * slot either?
 */
extern void pw_client_close_all(void);
extern bool pw_client_is_on_the_way(void);

/*
 * The server crashes or stops immediately: only tell those who are parked; for a
 * signal handler.
 */
extern void pw_client_quit(void);

/*
 * Close a client that is on the leavers list.  False if it has hung up, but has
 * said something before that is not a goodbye: then somebody has to answer.
 */
extern bool pw_client_close_leaver(int client);

/* Free the entries that a slot of an earlier worker has left behind. */
extern void pw_client_forget_orphans(int slot);

#endif							/* PW_CLIENT_H */
