/*-------------------------------------------------------------------------
 *
 * injection.c
 *	  Messages of our own that PostgresMain() reads before the client's.
 *
 * Runs in: slots.
 *
 * Some of a session's state only PostgresMain() can reach, in answer to a
 * message.  So for a moment we let it read from a socket pair what we have
 * written there, with the answers thrown away.  What it had read of the
 * client's messages already lies in pqcomm.c's receive buffer; we take it out
 * and put it behind our own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>
#include <unistd.h>

#include "libpq/libpq.h"
#include "storage/fd.h"

#include "compat.h"
#include "injection.h"

static bool injecting = false;
static int	pair[2] = {-1, -1};

static void take_back_input(StringInfo messages);
static void open_pair(void);

int
pw_inject(StringInfo messages)
{
	take_back_input(messages);
	if (pair[0] < 0)
		open_pair();
	if (write(pair[1], messages->data, messages->len) != messages->len)
		ereport(FATAL,
				(errcode_for_socket_access(),
				 errmsg("could not write to socket pair: %m")));
	injecting = true;
	return pair[0];
}

static void
take_back_input(StringInfo messages)
{
	if (!pw_input_is_buffered())
		return;
	pq_startmsgread();
	while (pw_input_is_buffered())
		appendStringInfoChar(messages, (char) pq_getbyte());
	pq_endmsgread();
}

static void
open_pair(void)
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		ereport(FATAL,
				(errcode_for_socket_access(),
				 errmsg("could not create socket pair: %m")));
	ReserveExternalFD();
	ReserveExternalFD();
}

bool
pw_is_injecting(void)
{
	return injecting;
}

void
pw_injection_finish(void)
{
	injecting = false;
}

void
pw_injection_abandon(void)
{
	char		left[64];

	injecting = false;
	while (recv(pair[0], left, sizeof(left), MSG_DONTWAIT) > 0)
		 /* not wanted */ ;
}
