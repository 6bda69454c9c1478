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
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>

#include <libpq-fe.h>

int
PQbackendPID(const PGconn *conn)
{
	PGresult   *result;
	int			client;

	result = PQexec((PGconn *) conn,
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
