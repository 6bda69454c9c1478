/*-------------------------------------------------------------------------
 *
 * mailbox.h
 *	  What backends ask of the worker, and what it answers.
 *
 * Runs in: pool worker, and any backend that asks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_MAILBOX_H
#define PW_MAILBOX_H

#include "shared_state.h"

/*
 * Ask the worker, and wait until it has answered.  For backends.  Can be
 * interrupted at any time; what has not been begun by then will not be.  An
 * error if there is no worker.
 */
extern PwAnswer pw_mailbox_ask(const PwRequest *request);

/*
 * Wait for something to change because of a request, a moment at most; "ms" if
 * that is less.  For backends.  After the last time, call pw_mailbox_done(),
 * unless an error was raised.
 */
extern void pw_mailbox_wait(int64 ms);
extern void pw_mailbox_done(void);

/*
 * The next request, in the order in which they came; false if there is none.
 * For the worker, which answers it before it takes another one; if it has not,
 * the operation has failed.
 */
extern bool pw_mailbox_take(PwRequest *request);
extern void pw_mailbox_answer(PwAnswer answer);

/* Whoever waits is to look again.  For the worker. */
extern void pw_mailbox_progress(void);

#endif							/* PW_MAILBOX_H */
