/*-------------------------------------------------------------------------
 *
 * slot_failure.c
 *	  Slots that could not be opened: trying again, and telling those who wait.
 *
 * Runs in: pool worker.
 *
 * A login that failed is tried again after a while, as long as somebody waits
 * for it or the pool is below its minimum.  If it has failed a few times and
 * the pool has no slot at all, those who wait are told why.  But not if the
 * server has just no room at the moment, or is starting: then they wait as for
 * any slot, until queue_timeout.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "common/pg_prng.h"
#include "common/username.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "client.h"
#include "pool_internal.h"

/* delays before the next login after so many that failed, ms */
static const int retry_delays[] = {0, 100, 500, 2000};

/*
 * The last delay is longer or shorter by up to so much, percent, so that pools
 * which failed together do not come back together for ever.
 */
#define RETRY_JITTER 20

static int	retry_delay(int failures);
static void retry(void *arg);
static void retry_failed(void *arg);
static void remember_failure(PwPool *pool, const PwSlotFailure *failure);
static const char *failure_hint(PwPool *pool, const PwSlotFailure *failure);
static bool is_temporary(const PwSlotFailure *failure);
static void refuse_waiting(PwPool *pool, const PwSlotFailure *failure);
static bool is_waiting(int client);

void
pw_slot_failure_note(PwPool *pool, const PwSlotFailure *failure)
{
	int			last = lengthof(retry_delays) - 1;

	pool->shared->failed++;
	remember_failure(pool, failure);
	pool->failures++;
	if ((pool->failures > last || failure->needs_password) && !is_temporary(failure))
		refuse_waiting(pool, failure);
	if (failure->needs_password)
		pool->failures = last;
	pool->failures = Min(pool->failures, last);
	pw_timer_arm(&pool->retry,
				 TimestampTzPlusMilliseconds(pw_loop_now(), retry_delay(pool->failures)),
				 retry, retry_failed, pool);
}

void
pw_slot_failure_forget(PwPool *pool)
{
	pool->failures = 0;
	pw_timer_disarm(&pool->retry);
	pool->shared->last_error_at = 0;
}

static int
retry_delay(int failures)
{
	int			ms = retry_delays[failures];
	int			jitter = ms * RETRY_JITTER / 100;

	if (failures < (int) lengthof(retry_delays) - 1)
		return ms;
	return ms - jitter + (int) pg_prng_uint64_range(&pg_global_prng_state, 0, 2 * jitter);
}

/* Timer callback: it is time to try again, if anybody still wants it. */
static void
retry(void *arg)
{
	PwPool	   *pool = (PwPool *) arg;

	if (pool->shared->in_use)
		pw_pool_look_after(pool);
}

/* Who still wants a slot asks again. */
static void
retry_failed(void *arg)
{
}

/*
 * Keep the server's words for pool_check(), and log them once per series.
 */
static void
remember_failure(PwPool *pool, const PwSlotFailure *failure)
{
	const char *hint = failure_hint(pool, failure);

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	strlcpy(pool->shared->last_error, failure->message, PW_POOL_ERROR_LEN);
	pool->shared->last_error_at = pw_loop_now();
	LWLockRelease(&PwControl->lock);

	if (pool->failures == 0)
		ereport(LOG,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not open a connection for pool \"%s/%s\"",
						NameStr(pool->shared->database), NameStr(pool->shared->role)),
				 errdetail_internal("%s", failure->message),
				 hint ? errhint("%s", hint) : 0));
}

/*
 * What to do about a login that pg_hba.conf does not let pass.
 *
 * The slot logs in as the pool's role over the server's Unix socket, as the
 * operating system's user of the server.  The method "peer" with a user map is
 * the line that lets just that user in and nobody else.
 */
static const char *
failure_hint(PwPool *pool, const PwSlotFailure *failure)
{
	char	   *trouble = NULL;
	const char *os_user = get_user_name(&trouble);

	if (!failure->needs_password && strncmp(failure->sqlstate, "28", 2) != 0)
		return NULL;
	return psprintf("Add this line to pg_hba.conf before the one that applies now: local \"%s\" \"%s\" peer map=pool_worker\n"
					"and this line to pg_ident.conf: pool_worker \"%s\" \"%s\"",
					NameStr(pool->shared->database), NameStr(pool->shared->role),
					os_user ? os_user : "postgres", NameStr(pool->shared->role));
}

/*
 * Is it a matter of time?  Out of resources, such as connections, or the
 * server is starting, or stopping.
 */
static bool
is_temporary(const PwSlotFailure *failure)
{
	return strncmp(failure->sqlstate, "53", 2) == 0 ||
		strcmp(failure->sqlstate, "57P03") == 0;
}

/*
 * Tell those who wait for a slot why they do not get one.  If the pool has
 * slots already they go on waiting for these.
 */
static void
refuse_waiting(PwPool *pool, const PwSlotFailure *failure)
{
	PwReport	report = {.sqlstate = ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION};

	if (pool->shared->slots > 0 || pw_pool_service(pool->shared) != PW_SERVICE_OPEN)
		return;
	report.message = psprintf("the connection pool could not open a connection to database \"%s\" as role \"%s\"",
							  NameStr(pool->shared->database), NameStr(pool->shared->role));
	report.detail = failure->message;
	report.hint = failure_hint(pool, failure);
	for (int i = 0; i < PwControl->max_clients; i++)
		if (PwClients[i].pool == pool->shared - PwPools && is_waiting(i))
			(void) pw_client_refuse(i, &report);
}

/* Does this client want a slot, and has none? */
static bool
is_waiting(int client)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);
	char		byte;

	if (PW_WORD_STATE(word) != PW_CLIENT_PARKED)
		return false;
	return !PwClients[client].said_hello ||
		recv(pw_client_fd(client), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}
