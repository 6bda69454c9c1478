/*-------------------------------------------------------------------------
 *
 * client_pid.c
 *	  Preloaded into the isolation tester when it runs through the pool.
 *
 * The tester takes what PQbackendPID() says for the process that will serve
 * the session for good, and looks for that process among those that wait for
 * locks.  A client of the pool has no such process.  So we let PQbackendPID()
 * return the number that pool_clients() shows, and isolation.sql translates it
 * each time it is looked for.
 *
 * The tester also compares the number with the sender of a notification.  One
 * of the session's own bears what the real PQbackendPID() returns.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include <libpq-fe.h>

/* as many as a test has sessions, and some */
#define MAX_SESSIONS 64

static struct
{
	const PGconn *conn;
	int			client;
}			sessions[MAX_SESSIONS];

static int	nsessions = 0;

/* The function of libpq in whose place another one of ours is called. */
static void *
real(const char *name)
{
	void	   *function = dlsym(RTLD_NEXT, name);

	if (function == NULL)
	{
		fprintf(stderr, "client_pid: there is no %s\n", name);
		exit(1);
	}
	return function;
}

static int
ask_for_client(PGconn *conn)
{
	PGresult   *result;
	int			client;

	result = PQexec(conn,
					"SELECT client FROM pool_worker_check.pool_clients()"
					" WHERE pid = pg_catalog.pg_backend_pid()");
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1)
	{
		fprintf(stderr, "client_pid: which client of the pool is this? %s\n",
				PQerrorMessage(conn));
		exit(1);
	}
	client = atoi(PQgetvalue(result, 0, 0));
	PQclear(result);
	return client;
}

/* The tester calls it once for each session, before the first step. */
int
PQbackendPID(const PGconn *conn)
{
	if (nsessions == MAX_SESSIONS)
	{
		fprintf(stderr, "client_pid: too many sessions\n");
		exit(1);
	}
	sessions[nsessions].conn = conn;
	sessions[nsessions].client = ask_for_client((PGconn *) conn);
	return sessions[nsessions++].client;
}

PGnotify *
PQnotifies(PGconn *conn)
{
	PGnotify   *(*real_notifies) (PGconn *) = real("PQnotifies");
	int			(*real_pid) (const PGconn *) = real("PQbackendPID");
	PGnotify   *notify = real_notifies(conn);

	if (notify == NULL || notify->be_pid != real_pid(conn))
		return notify;
	for (int i = 0; i < nsessions; i++)
	{
		if (sessions[i].conn == conn)
			notify->be_pid = sessions[i].client;
	}
	return notify;
}
