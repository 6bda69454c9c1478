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
 * PostgresMain() read a Close message of our own first, from a socket pair.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>
#include <unistd.h>

#include "storage/fd.h"

#include "unnamed_statement.h"

/* Close of the unnamed statement, and Sync */
static const char close_and_sync[] = {
	'C', 0, 0, 0, 6, 'S', 0,
	'S', 0, 0, 0, 4,
};

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
	if (pair[0] < 0)
	{
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
			ereport(FATAL,
					(errcode_for_socket_access(),
					 errmsg("could not create socket pair: %m")));
		ReserveExternalFD();
		ReserveExternalFD();
	}
	if (write(pair[1], close_and_sync, sizeof(close_and_sync)) != sizeof(close_and_sync))
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
