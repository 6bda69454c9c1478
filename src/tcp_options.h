/*-------------------------------------------------------------------------
 *
 * tcp_options.h
 *	  What the tcp_... settings have made of a client's socket.
 *
 * Runs in: pool worker, slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_TCP_OPTIONS_H
#define PW_TCP_OPTIONS_H

#include "shared_state.h"

/*
 * Do for the socket of a new client what the server does in StreamConnection().
 * The client's addresses must be known.  Worker only.
 */
extern void pw_tcp_options_init(int fd, PwShmClient *client);

/*
 * The backend's client is this one from now on, by the address in MyProcPort,
 * or it is nobody any more.  Slots only.
 */
extern void pw_tcp_options_assume(const PwShmClient *client);
extern void pw_tcp_options_drop(PwShmClient *client);

/*
 * Make the socket of the attached client what the settings say that are in
 * force in the slot.  Slots only.
 */
extern void pw_tcp_options_settle(void);

#endif							/* PW_TCP_OPTIONS_H */
