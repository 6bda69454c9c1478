/*-------------------------------------------------------------------------
 *
 * fd_passing.h
 *	  What worker and slot say to each other over the slot's loopback
 *	  connection, once libpq has finished with it.
 *
 * Runs in: pool worker, slots.
 *
 * The connection between worker and slot is a Unix socket.  When the slot has
 * sent its first ReadyForQuery, it stops being a PostgreSQL connection and
 * carries these messages only, each of fixed size, some with a descriptor.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_FD_PASSING_H
#define PW_FD_PASSING_H

typedef enum PwHomeMessageKind
{
	PW_HOME_HIGH_SET,			/* worker to slot, with the pool's epoll set
								 * for high priority; then */
	PW_HOME_WELCOME,			/* worker to slot, with the one for normal */
	PW_HOME_CLIENT,				/* worker to slot, with a client's socket */
	PW_HOME_CLIENT_GONE,		/* worker to slot: asked for too late */
	PW_HOME_WANT_CLIENT,		/* slot to worker */
} PwHomeMessageKind;

typedef struct PwHomeMessage
{
	uint32		kind;			/* PwHomeMessageKind */
	uint32		slot;			/* index; WELCOME only */
	uint32		client;			/* index; CLIENT... only */
	uint32		generation;		/* of the client, or of the worker */
} PwHomeMessage;

typedef enum PwHomeResult
{
	PW_HOME_OK,
	PW_HOME_WOULD_BLOCK,		/* nothing was sent or received */
	PW_HOME_CLOSED,				/* the other side is gone, or talks nonsense */
} PwHomeResult;

/*
 * Send one message, with a descriptor unless "fd" is negative.  Never blocks;
 * a message is sent whole or not at all.
 */
extern PwHomeResult pw_home_send(int sock, const PwHomeMessage *message, int fd);

/*
 * Receive one message.  Never blocks.  *fd is a new descriptor, close-on-exec
 * and the caller's to close, or -1.
 */
extern PwHomeResult pw_home_receive(int sock, PwHomeMessage *message, int *fd);

#endif							/* PW_FD_PASSING_H */
