/*-------------------------------------------------------------------------
 *
 * unnamed_statement.c
 *	  Keep one client's unnamed prepared statement from the next one.
 *
 * Runs in: slots.
 *
 * The unnamed statement outlives its transaction, and postgres.c keeps it in a
 * static variable that nobody else can reach.  Mostly that does not matter:
 * the next client begins with a simple query, which drops it, or with a Parse
 * that replaces it.  For a client that begins with anything else we let
 * PostgresMain() read a Close message of our own first, from a socket pair, and
 * behind it what it had read of the client's messages already.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>
#include <unistd.h>

#include "libpq/libpq.h"
#include "storage/fd.h"

#include "compat.h"
#include "unnamed_statement.h"

/* Close of the unnamed statement, and Sync */
static const char close_and_sync[] = {
	'C', 0, 0, 0, 6, 'S', 0,
	'S', 0, 0, 0, 4,
};

/* at least as large as the receive buffer of pqcomm.c, PQ_RECV_BUFFER_SIZE */
#define PW_RECEIVE_BUFFER_SIZE 8192

static uint64 owner = 0;		/* client id, 0 if there is no statement */
static bool injected = false;
static int	pair[2] = {-1, -1};

void
pw_unnamed_statement_note(uint64 client_id)
{
	owner = client_id;
}

void
pw_unnamed_statement_forget(void)
{
	owner = 0;
}

bool
pw_unnamed_statement_is_foreign(uint64 client_id)
{
	return owner != 0 && owner != client_id;
}

int
pw_unnamed_statement_inject(void)
{
	/* what the backend has read already comes after our own */
	char		bytes[sizeof(close_and_sync) + PW_RECEIVE_BUFFER_SIZE];
	size_t		len = sizeof(close_and_sync);

	memcpy(bytes, close_and_sync, len);
	if (pw_input_is_buffered())
		pq_startmsgread();
	for (; pw_input_is_buffered() && len < sizeof(bytes); len++)
		bytes[len] = (char) pq_getbyte();
	if (len > sizeof(close_and_sync))
		pq_endmsgread();

	if (pair[0] < 0)
	{
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
			ereport(FATAL,
					(errcode_for_socket_access(),
					 errmsg("could not create socket pair: %m")));
		ReserveExternalFD();
		ReserveExternalFD();
	}
	if (write(pair[1], bytes, len) != len)
		ereport(FATAL,
				(errcode_for_socket_access(),
				 errmsg("could not write to socket pair: %m")));
	injected = true;
	return pair[0];
}

bool
pw_unnamed_statement_injected(void)
{
	return injected;
}

void
pw_unnamed_statement_finish(void)
{
	injected = false;
	owner = 0;
}
