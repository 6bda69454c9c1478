/*-------------------------------------------------------------------------
 *
 * descriptors.h
 *	  The clients' sockets that a slot holds, and what it waits on for them.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_DESCRIPTORS_H
#define PW_DESCRIPTORS_H

#include "storage/latch.h"

/*
 * Begin.  "home" is the socket to the worker, "home_set" waits on it, on our
 * latch and on the postmaster's death.
 */
extern void pw_descriptors_init(int home, WaitEventSet *home_set);

/*
 * Make sure that we hold the socket of this client, asking the worker for it
 * if need be, which waits for the answer.  The caller owns the client.
 * Returns the descriptor, or -1 if the worker no longer has it or is gone.
 */
extern int	pw_descriptor_get(int client, uint32 generation);

/*
 * A wait event set like FeBeWaitSet for a socket that we hold: socket, latch,
 * postmaster death.  Valid until the descriptor is dropped or another client's
 * set is asked for.
 */
extern WaitEventSet *pw_descriptor_wait_set(int client);

/*
 * Take in a message that the worker has sent without being asked.  False if it
 * has closed our connection.
 */
extern bool pw_descriptors_receive(void);

/* Let go of a client's socket.  Fine if we do not hold it. */
extern void pw_descriptor_drop(int client);

/* Let go of the sockets of all clients that have left since the last call. */
extern void pw_descriptors_drop_departed(void);

#endif							/* PW_DESCRIPTORS_H */
