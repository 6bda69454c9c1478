/*-------------------------------------------------------------------------
 *
 * time_limits.h
 *	  The time limits of clients: which there are, when each counts, and the
 *	  words when one passes.
 *
 * Runs in: every process.
 *
 * The worker watches the clock (enforce.c for slots and parked clients,
 * enforce_direct.c for those who connect directly), and the slot does what is
 * to be done (command_clock.c).  This is what they agree on.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_TIME_LIMITS_H
#define PW_TIME_LIMITS_H

#include "settings.h"

typedef enum PwTimeLimit
{
	PW_LIMIT_STATEMENT,			/* a command is running */
	PW_LIMIT_TRANSACTION,		/* a transaction is open, or a command runs */
	PW_LIMIT_IDLE_IN_TRANSACTION,	/* one is open and no command runs */
	PW_LIMIT_CLIENT_IDLE,		/* neither */
	PW_LIMIT_CLIENT_MESSAGE,	/* the client owes us something: the rest of a
								 * command, or to read the answer; see
								 * stalled_clients.c */
} PwTimeLimit;

#define PW_NLIMITS (PW_LIMIT_CLIENT_MESSAGE + 1)

/*
 * What ends a client is said in the same way when it is no limit of time, but
 * an administrator: see operations.c.  A command that is answered just in time
 * makes no difference then.
 */
#define PW_LIMIT_ADMINISTRATOR PW_NLIMITS
#define PW_NENDS (PW_LIMIT_ADMINISTRATOR + 1)

/* "no limit has passed" */
#define PW_NO_LIMIT PW_NENDS

typedef struct PwTimeLimitInfo
{
	const char *name;			/* of the setting, or who it is */
	size_t		offset;			/* of its value, ms, in PwPoolSettings */
	int			sqlstate;		/* of the error, unless connecting directly */
	bool		ends_client;	/* a FATAL error that ends the connection */
} PwTimeLimitInfo;

extern const PwTimeLimitInfo pw_time_limits[PW_NENDS];

/* What a limit is in a pool: ms, 0 is never. */
static inline int
pw_time_limit_ms(const PwPoolSettings *settings, PwTimeLimit limit)
{
	return *(const int *) ((const char *) settings + pw_time_limits[limit].offset);
}

/*
 * The words: of the error that cancels a statement, and of the FATAL that ends
 * a client.  Format strings for the name of the setting.
 */
#define PW_CANCEL_WORDS "canceling statement due to %s"
#define PW_END_WORDS "terminating connection due to %s"

/*
 * The word that says what a slot is doing, command by command.
 *
 * It holds a serial number, whether a command is running, and whether a limit
 * has passed for just that command, or for the pause after it.  The slot
 * changes the serial number with every command it begins and with every change
 * of client, and clears the rest when a command ends.  The worker may only add
 * to what it has found there, by compare-and-swap under slot->lock, and signals
 * the slot's backend before it gives that lock back.
 *
 * So what the worker adds is about the command it has looked at, or it fails.
 * A slot that finds something added when its command ends takes the lock once:
 * then all signals meant for that command have been sent.
 */
#define PW_COMMAND_RUNNING		UINT64CONST(0x01)
#define PW_COMMAND_HEEDED		UINT64CONST(0x02)	/* the slot: an error went
													 * out */
#define PW_COMMAND_CONDEMNED	UINT64CONST(0x04)	/* the worker: the backend
													 * was told to end */
#define PW_COMMAND_LIMIT_SHIFT	8
#define PW_COMMAND_LIMIT_MASK	UINT64CONST(0xff00)
#define PW_COMMAND_SERIAL_SHIFT 16

#define PW_COMMAND_IDLE(serial) ((uint64) (serial) << PW_COMMAND_SERIAL_SHIFT)

/* A limit in the word is 0 for none, so that a fresh one has none. */
static inline uint64
pw_command_with_limit(uint64 word, PwTimeLimit limit)
{
	return (word & ~PW_COMMAND_LIMIT_MASK) | ((uint64) (limit + 1) << PW_COMMAND_LIMIT_SHIFT);
}

/* The limit that has passed, or PW_NO_LIMIT. */
static inline int
pw_command_limit(uint64 word)
{
	int			limit = (int) ((word & PW_COMMAND_LIMIT_MASK) >> PW_COMMAND_LIMIT_SHIFT);

	return limit == 0 ? PW_NO_LIMIT : limit - 1;
}

#endif							/* PW_TIME_LIMITS_H */
