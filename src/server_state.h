/*-------------------------------------------------------------------------
 *
 * server_state.h
 *	  Whether the server is about to stop.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SERVER_STATE_H
#define PW_SERVER_STATE_H

/*
 * Has the postmaster been asked to stop?  What it does about it is known a tenth
 * of a second late.  Cheap; logs it when it is true for the first time.
 */
extern bool pw_server_is_stopping(void);

#endif							/* PW_SERVER_STATE_H */
