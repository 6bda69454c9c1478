/*-------------------------------------------------------------------------
 *
 * mailbox.c
 *	  What backends ask of the worker, and what it answers.
 *
 * Runs in: pool worker, and any backend that asks.
 *
 * A request has an entry in control->requests, under control->lock, from when
 * it is put there until its backend has read the answer.  The backend frees it,
 * whatever happens to it; the worker then finds nobody to answer.  The entry of
 * a request that the worker has taken is marked, so that one during which it
 * raises an error, or ends, is not tried for ever.
 *
 * While a backend waits it sleeps on control->progress, like those who wait for
 * what their request has begun.  It looks again after a moment in any case: not
 * everything that ends a wait tells so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"

#include "mailbox.h"

/* how long to sleep at most, ms */
#define MOMENT_MS 100

/* in the worker: the request that is being carried out, or 0 */
static uint64 current = 0;

static int	post(const PwRequest *request);
static PwAnswer read_answer(int entry);
static void withdraw(int code, Datum entry);
static void require_worker(void);

PwAnswer
pw_mailbox_ask(const PwRequest *request)
{
	PwAnswer	answer;
	int			entry;

	require_worker();
	while ((entry = post(request)) == PW_NONE)
		pw_mailbox_wait(MOMENT_MS);

	PG_ENSURE_ERROR_CLEANUP(withdraw, Int32GetDatum(entry));
	{
		pg_atomic_exchange_u32(&PwControl->mail, 1);
		pw_wake_worker();
		while ((answer = read_answer(entry)) == PW_ANSWER_PENDING)
		{
			require_worker();
			pw_mailbox_wait(MOMENT_MS);
		}
	}
	PG_END_ENSURE_ERROR_CLEANUP(withdraw, Int32GetDatum(entry));
	withdraw(0, Int32GetDatum(entry));
	pw_mailbox_done();
	return answer;
}

/* PW_NONE if there is no room. */
static int
post(const PwRequest *request)
{
	int			entry = 0;

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	while (entry < PW_MAX_REQUESTS && PwControl->requests[entry].serial != 0)
		entry++;
	if (entry < PW_MAX_REQUESTS)
	{
		PwShmRequest *shared = &PwControl->requests[entry];

		shared->serial = ++PwControl->last_request;
		shared->taken = false;
		shared->answer = PW_ANSWER_PENDING;
		shared->request = *request;
	}
	LWLockRelease(&PwControl->lock);
	return entry < PW_MAX_REQUESTS ? entry : PW_NONE;
}

static PwAnswer
read_answer(int entry)
{
	PwAnswer	answer;

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	answer = PwControl->requests[entry].answer;
	LWLockRelease(&PwControl->lock);
	return answer;
}

/* Also an exit callback. */
static void
withdraw(int code, Datum entry)
{
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	PwControl->requests[DatumGetInt32(entry)].serial = 0;
	LWLockRelease(&PwControl->lock);
}

static void
require_worker(void)
{
	if (PwControl->worker_pid == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the pool worker is not running"),
				 errhint("It is started again within a second.  If it does not stay, the server log says why.")));
}

void
pw_mailbox_wait(int64 ms)
{
	ConditionVariableTimedSleep(&PwControl->progress, (long) Max(1, Min(ms, MOMENT_MS)),
								PG_WAIT_EXTENSION);
}

void
pw_mailbox_done(void)
{
	ConditionVariableCancelSleep();
}

bool
pw_mailbox_take(PwRequest *request)
{
	PwShmRequest *next = NULL;

	if (current != 0)
		pw_mailbox_answer(PW_ANSWER_FAILED);
	if (pg_atomic_read_u32(&PwControl->mail) == 0)
		return false;

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PW_MAX_REQUESTS; i++)
	{
		PwShmRequest *shared = &PwControl->requests[i];

		if (shared->serial != 0 && shared->taken && shared->answer == PW_ANSWER_PENDING)
			shared->answer = PW_ANSWER_FAILED;	/* by an earlier worker */
		if (shared->serial != 0 && !shared->taken &&
			(next == NULL || shared->serial < next->serial))
			next = shared;
	}
	if (next != NULL)
	{
		next->taken = true;
		current = next->serial;
		*request = next->request;
	}
	else
		pg_atomic_write_u32(&PwControl->mail, 0);
	LWLockRelease(&PwControl->lock);
	return next != NULL;
}

void
pw_mailbox_answer(PwAnswer answer)
{
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PW_MAX_REQUESTS; i++)
		if (PwControl->requests[i].serial == current)
			PwControl->requests[i].answer = answer;
	LWLockRelease(&PwControl->lock);
	current = 0;
	pw_mailbox_progress();
}

void
pw_mailbox_progress(void)
{
	ConditionVariableBroadcast(&PwControl->progress);
}
