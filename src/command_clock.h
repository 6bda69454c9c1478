/*-------------------------------------------------------------------------
 *
 * command_clock.h
 *	  When a slot's commands begin and end, and what comes of a time limit
 *	  that has passed for one.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_COMMAND_CLOCK_H
#define PW_COMMAND_CLOCK_H

/* Begin. */
extern void pw_clock_init(void);

/*
 * The slot serves another client from now on, or none.  The caller holds
 * slot->lock.
 */
extern void pw_clock_switch(int client);

/*
 * The attached client has sent a command, which PostgresMain() is about to
 * read.  False if a limit has passed meanwhile: the client is to be expelled.
 */
extern bool pw_clock_begin(void);

/*
 * What PostgresMain() has read last has been answered, with status
 * PwSelf.transaction_status; there is a client.  If that was a command of the
 * client, it is too late from now on to cancel it.  Returns a PwTimeLimit for
 * which the client is to be expelled, or PW_NO_LIMIT.
 */
extern int	pw_clock_end(void);

/* Has a limit passed while the client says nothing?  Which, or PW_NO_LIMIT. */
extern int	pw_clock_passed(void);

/*
 * An error is about to be sent to the client.  If it is to be expelled, it is
 * told so in its place, and discarding is set for everything that follows.
 */
extern void pw_clock_error(void);

/*
 * Recovery from an error has begun, and the client is lost.  If that is because
 * it has stalled, tell it so.
 */
extern void pw_clock_lost(void);

/* A COPY FROM STDIN begins or ends. */
extern void pw_clock_copying(bool copying);

/* Tell the client that it is expelled.  Waits if "wait" is true. */
extern void pw_clock_tell(int limit, bool wait);

/*
 * See to it that errors of the next command say which limit has passed; to be
 * called at the end of each turn.
 */
extern void pw_clock_explain_errors(void);

#endif							/* PW_COMMAND_CLOCK_H */
