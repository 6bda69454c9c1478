/*-------------------------------------------------------------------------
 *
 * enforce_direct.c
 *	  The time limits of clients that connect to the server directly.
 *
 * Runs in: pool worker.
 *
 * With pool_worker.enforce_on = all, backends that are not slots are held to
 * the limits of their role and database as well.  We have no code in them that
 * would help us, so the means are the server's: what pg_stat_activity knows,
 * and the signals of pg_cancel_backend() and pg_terminate_backend().  A session
 * of a superuser with track_activities off shows nothing, and is not our
 * business anyway.
 *
 * We read the entries of pg_stat_activity in place, by the protocol described
 * in backend_status.h, and once more right before a signal is sent.  A backend
 * that changes what it does between that and the arrival of the signal is hit
 * all the same, as with the SQL functions.
 *
 * Who is exempt is looked up only for a session that is over a limit.  That
 * takes catalogs, which we can read safely only while we are connected to a
 * database, see the header of catalog.c.  Without one nobody is held to
 * anything here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "catalog.h"
#include "compat.h"
#include "enforce_direct.h"
#include "event_loop.h"
#include "pool_settings.h"
#include "shared_state.h"
#include "time_limits.h"

/* The least and the most time between two looks, ms. */
#define MIN_PERIOD_MS 20
#define MAX_PERIOD_MS 1000

/* How long a backend that was signalled, or is exempt, is left alone, ms. */
#define SIGNALLED_MS 1000
#define EXEMPT_MS 10000

/* An entry that keeps changing belongs to a backend that is not late. */
#define READ_ATTEMPTS 100

/* A backend that is over a limit, and since when it has been doing that. */
typedef struct PwOffence
{
	int			pid;
	PwTimeLimit limit;
	TimestampTz since;
	TimestampTz leave_until;	/* we have seen to it */
} PwOffence;

/* by index of the entry */
static PwOffence *offences = NULL;
static PwTimer look_timer;

static void look(void *arg);
static void look_failed(void *arg);
static TimestampTz earliest_new(void);
static TimestampTz look_at_entry(int index);
static bool read_entry(int index, PgBackendStatus *entry);
static bool is_direct_client(const PgBackendStatus *entry);
static bool first_offence(const PgBackendStatus *entry, PwOffence *offence,
						  TimestampTz *deadline);
static void consider(PwTimeLimit limit, TimestampTz since, const PwPoolSettings *settings,
					 PwOffence *offence, TimestampTz *deadline);
static bool is_exempt(Oid roleoid);
static bool is_in_exempt_list(Oid roleoid);
static void punish(int index, const PwOffence *offence);

void
pw_enforce_direct_start(void)
{
	if (offences == NULL)
		offences = MemoryContextAllocZero(TopMemoryContext, sizeof(PwOffence) * MaxBackends);
	pw_timer_arm(&look_timer, pw_loop_now(), look, look_failed, NULL);
}

/* Timer callback: it is time to look at all backends. */
static void
look(void *arg)
{
	TimestampTz next = TimestampTzPlusMilliseconds(pw_loop_now(), MAX_PERIOD_MS);
	TimestampTz again;

	if (pw_enforce_on != PW_ENFORCE_ALL || !OidIsValid(MyDatabaseId))
		return;
	pw_timer_arm(&look_timer, next, look, look_failed, NULL);
	pw_pool_settings_refresh(false);
	again = earliest_new();
	next = Min(next, again);
	for (int i = 0; i < MaxBackends; i++)
	{
		again = look_at_entry(i);
		next = Min(next, again);
	}
	next = Max(next, TimestampTzPlusMilliseconds(pw_loop_now(), MIN_PERIOD_MS));
	pw_timer_arm(&look_timer, next, look, look_failed, NULL);
}

/* Timer callback: looking has raised an error.  The timer was armed before. */
static void
look_failed(void *arg)
{
}

/*
 * When the first limit can pass for something that begins now.  Whether a
 * client has stopped in the middle of a command only slots can tell.
 */
static TimestampTz
earliest_new(void)
{
	TimestampTz earliest = DT_NOEND;

	for (int limit = 0; limit < PW_LIMIT_CLIENT_MESSAGE; limit++)
	{
		int			ms = pw_pool_settings_smallest(pw_time_limits[limit].offset);

		if (ms > 0)
			earliest = Min(earliest, TimestampTzPlusMilliseconds(pw_loop_now(), ms));
	}
	return earliest;
}

/*
 * If a backend is over a limit, see to it.  Returns when to look again.
 */
static TimestampTz
look_at_entry(int index)
{
	PgBackendStatus entry;
	PwOffence	offence;
	PwOffence  *known = &offences[index];
	TimestampTz deadline = DT_NOEND;

	if (!read_entry(index, &entry) || !is_direct_client(&entry) ||
		!first_offence(&entry, &offence, &deadline))
		return deadline;

	if (known->pid != offence.pid || known->limit != offence.limit ||
		known->since != offence.since || known->leave_until <= pw_loop_now())
	{
		bool		exempt = is_exempt(entry.st_userid);

		*known = offence;
		known->leave_until = TimestampTzPlusMilliseconds(pw_loop_now(),
														 exempt ? EXEMPT_MS : SIGNALLED_MS);
		if (!exempt)
			punish(index, &offence);
	}
	return known->leave_until;
}

/*
 * Copy an entry.  False if there is nobody in it, or the copy is not
 * consistent.  What its pointers point to is not copied.
 */
static bool
read_entry(int index, PgBackendStatus *entry)
{
	volatile PgBackendStatus *shared = pw_backend_status_array() + index;

	for (int i = 0; i < READ_ATTEMPTS; i++)
	{
		int			before;
		int			after;

		pgstat_begin_read_activity(shared, before);
		memcpy(entry, unvolatize(PgBackendStatus *, shared), sizeof(PgBackendStatus));
		pgstat_end_read_activity(shared, after);
		if (pgstat_read_activity_complete(before, after))
			return entry->st_procpid > 0;
	}
	return false;
}

static bool
is_direct_client(const PgBackendStatus *entry)
{
	if (entry->st_backendType != B_BACKEND || !OidIsValid(entry->st_userid))
		return false;
	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pid == entry->st_procpid)
			return false;
	return true;
}

/*
 * The limit that a backend is over, if any.  If it is not, *deadline is when it
 * will be.
 */
static bool
first_offence(const PgBackendStatus *entry, PwOffence *offence, TimestampTz *deadline)
{
	PwPoolSettings settings = {0};

	memset(offence, 0, sizeof(PwOffence));
	offence->pid = entry->st_procpid;
	(void) pw_pool_settings_resolve(entry->st_databaseid, entry->st_userid, &settings);

	if (entry->st_xact_start_timestamp != 0)
		consider(PW_LIMIT_TRANSACTION, entry->st_xact_start_timestamp, &settings,
				 offence, deadline);
	switch (entry->st_state)
	{
		case STATE_RUNNING:
		case STATE_FASTPATH:
			consider(PW_LIMIT_STATEMENT, entry->st_activity_start_timestamp, &settings,
					 offence, deadline);
			break;
		case STATE_IDLEINTRANSACTION:
		case STATE_IDLEINTRANSACTION_ABORTED:
			consider(PW_LIMIT_IDLE_IN_TRANSACTION, entry->st_state_start_timestamp,
					 &settings, offence, deadline);
			break;
		case STATE_IDLE:
			consider(PW_LIMIT_CLIENT_IDLE, entry->st_state_start_timestamp, &settings,
					 offence, deadline);
			break;
		default:
			break;
	}
	return *deadline <= pw_loop_now();
}

static void
consider(PwTimeLimit limit, TimestampTz since, const PwPoolSettings *settings,
		 PwOffence *offence, TimestampTz *deadline)
{
	int			ms = pw_time_limit_ms(settings, limit);
	TimestampTz at = TimestampTzPlusMilliseconds(since, ms);

	if (ms <= 0 || since == 0 || at >= *deadline)
		return;
	offence->limit = limit;
	offence->since = since;
	*deadline = at;
}

/*
 * Is this role not held to any limit?
 */
static bool
is_exempt(Oid roleoid)
{
	bool		exempt;

	pw_catalog_begin();
	exempt = superuser_arg(roleoid) || is_in_exempt_list(roleoid);
	pw_catalog_end();
	return exempt;
}

static bool
is_in_exempt_list(Oid roleoid)
{
	List	   *names = NIL;
	ListCell   *cell;

	if (!SplitIdentifierString(pstrdup(pw_enforce_exempt), ',', &names))
		return false;
	foreach(cell, names)
	{
		Oid			exempt = get_role_oid((char *) lfirst(cell), true);

		if (OidIsValid(exempt) && is_member_of_role_nosuper(roleoid, exempt))
			return true;
	}
	return false;
}

/*
 * Cancel what a backend does, or end it, if it is still at it.
 */
static void
punish(int index, const PwOffence *offence)
{
	const PwTimeLimitInfo *limit = &pw_time_limits[offence->limit];
	int			signal_number = limit->ends_client ? SIGTERM : SIGINT;
	PgBackendStatus entry;
	PwOffence	now;
	TimestampTz deadline = DT_NOEND;

	if (!read_entry(index, &entry) || !first_offence(&entry, &now, &deadline) ||
		now.pid != offence->pid || now.limit != offence->limit ||
		now.since != offence->since)
		return;
	kill(offence->pid, signal_number);
#ifdef HAVE_SETSID
	kill(-offence->pid, signal_number);
#endif
	ereport(LOG,
			(errmsg(limit->ends_client ? "terminating process %d due to %s" :
					"canceling statement of process %d due to %s",
					offence->pid, limit->name)));
}
