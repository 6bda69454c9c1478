/*-------------------------------------------------------------------------
 *
 * waiting_command.h
 *	  A command that waits in its client's socket, because no slot is free.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_WAITING_COMMAND_H
#define PW_WAITING_COMMAND_H

/*
 * Cancel the command of a PARKED client that waits for a slot: it is read and
 * thrown away, and the client told so.  False if there is none, if it has not
 * arrived completely or is very long, or if a slot was faster.
 */
extern bool pw_waiting_command_cancel(int client);

#endif							/* PW_WAITING_COMMAND_H */
