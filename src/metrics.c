/*-------------------------------------------------------------------------
 *
 * metrics.c
 *	  The numbers of a pool, and the one list that names them.
 *
 * Runs in: every process that shows numbers to somebody.
 *
 * Slots are counted by looking at each of them, so that the columns of a row
 * always add up.  Counters are those of the slots there are, plus what the
 * worker has kept of slots that are gone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/timestamp.h"

#include "metrics.h"

/* Numbers of a pool that only feed a rate. */
typedef struct RateParts
{
	uint64		attaches;
	uint64		cold_slots;
	int			reserve_in_use;
} RateParts;

const char *const pw_pool_health_names[PW_POOL_NHEALTHS] = {
	[PW_POOL_READY] = "ready",
	[PW_POOL_OPENING] = "opening",
	[PW_POOL_FAILING] = "failing",
	[PW_POOL_UNUSED] = "idle",
	[PW_POOL_PAUSED] = "paused",
	[PW_POOL_DRAINING] = "draining",
};

const PwMetricInfo pw_pool_metrics[] = {
	[PW_POOL_SLOTS] = {
		"slots", PW_METRIC_GAUGE,
		"Open slots: active, idle and pinned ones."
	},
	[PW_POOL_ACTIVE] = {
		"active", PW_METRIC_GAUGE,
		"Slots that are serving a client, or have just been given one."
	},
	[PW_POOL_IDLE] = {
		"idle", PW_METRIC_GAUGE,
		"Slots that can serve any client at once."
	},
	[PW_POOL_PINNED] = {
		"pinned", PW_METRIC_GAUGE,
		"Slots that wait for the next message of the one client that keeps them."
	},
	[PW_POOL_SLOTS_OPENING] = {
		"opening", PW_METRIC_GAUGE,
		"Slots that are logging in."
	},
	[PW_POOL_CLIENTS] = {
		"clients", PW_METRIC_GAUGE,
		"Clients that have logged in."
	},
	[PW_POOL_WAITING] = {
		"waiting", PW_METRIC_GAUGE,
		"Clients that want a slot and have none."
	},
	[PW_POOL_SIZE] = {
		"pool_size", PW_METRIC_GAUGE,
		"The most slots this pool may open."
	},
	[PW_POOL_UTILIZATION] = {
		"utilization", PW_METRIC_PERCENT,
		"Active and pinned slots that count against pool_size, in percent of it."
	},
	[PW_POOL_PEAK_ACTIVE] = {
		"peak_active", PW_METRIC_GAUGE,
		"The most slots that were ever active or pinned at once."
	},
	[PW_POOL_TRANSACTIONS] = {
		"transactions", PW_METRIC_COUNTER,
		"Transactions served."
	},
	[PW_POOL_REUSE_RATE] = {
		"reuse_rate", PW_METRIC_PERCENT,
		"Attaches that found an open slot, in percent of all attaches."
	},
	[PW_POOL_FAILED] = {
		"failed", PW_METRIC_COUNTER,
		"Logins refused, slot logins failed, and clients lost with their slot."
	},
	[PW_POOL_PINNED_SESSIONS] = {
		"pinned_sessions", PW_METRIC_GAUGE,
		"Slots, active or not, that are kept for the state of their client's session."
	},
	[PW_POOL_MAX_PINNED] = {
		"max_pinned", PW_METRIC_GAUGE,
		"The most of these that do not count against pool_size."
	},
	[PW_POOL_WAITING_FOR] = {
		"waiting_for", PW_METRIC_TIME,
		"How long the first of the waiting clients has been waiting."
	},
	[PW_POOL_WAIT_TIME] = {
		"wait_time", PW_METRIC_TIME,
		"How long all clients together have waited for slots."
	},
	[PW_POOL_LONGEST_WAIT] = {
		"longest_wait", PW_METRIC_TIME,
		"The longest that any client has waited for a slot."
	},
	[PW_POOL_TURNED_AWAY] = {
		"turned_away", PW_METRIC_COUNTER,
		"Clients that were refused because others had the slots."
	},
	[PW_POOL_STATEMENT_TIMEOUTS] = {
		"statement_timeouts", PW_METRIC_COUNTER,
		"Statements cancelled because of pool_worker.statement_timeout."
	},
	[PW_POOL_TRANSACTION_TIMEOUTS] = {
		"transaction_timeouts", PW_METRIC_COUNTER,
		"Clients disconnected because of pool_worker.transaction_timeout."
	},
	[PW_POOL_IDLE_IN_TRANSACTION_TIMEOUTS] = {
		"idle_in_transaction_timeouts", PW_METRIC_COUNTER,
		"Clients disconnected because of pool_worker.idle_in_transaction_timeout."
	},
	[PW_POOL_CLIENT_IDLE_TIMEOUTS] = {
		"client_idle_timeouts", PW_METRIC_COUNTER,
		"Clients disconnected because of pool_worker.client_idle_timeout."
	},
	[PW_POOL_CLIENT_MESSAGE_TIMEOUTS] = {
		"client_message_timeouts", PW_METRIC_COUNTER,
		"Clients disconnected because of pool_worker.client_message_timeout."
	},
	[PW_POOL_SLOTS_OPENED] = {
		"opened", PW_METRIC_COUNTER,
		"Slots opened, whether for the first time or in place of others."
	},
	[PW_POOL_UNANSWERED] = {
		"unanswered", PW_METRIC_COUNTER,
		"Slots given up because they did not answer a health check."
	},
	[PW_POOL_RESERVE] = {
		"reserve", PW_METRIC_GAUGE,
		"Open slots of the reserve, which serve high priority only."
	},
	[PW_POOL_SHARE] = {
		"share", PW_METRIC_GAUGE,
		"The slots that the pool is entitled to of max_slots, as many as it needs at most."
	},
};

StaticAssertDecl(lengthof(pw_pool_metrics) == PW_POOL_NMETRICS,
				 "every metric needs a row in pw_pool_metrics");

/* Which metric counts what was done about a time limit. */
static const PwPoolMetric metric_of_limit[PW_NLIMITS] = {
	[PW_LIMIT_STATEMENT] = PW_POOL_STATEMENT_TIMEOUTS,
	[PW_LIMIT_TRANSACTION] = PW_POOL_TRANSACTION_TIMEOUTS,
	[PW_LIMIT_IDLE_IN_TRANSACTION] = PW_POOL_IDLE_IN_TRANSACTION_TIMEOUTS,
	[PW_LIMIT_CLIENT_IDLE] = PW_POOL_CLIENT_IDLE_TIMEOUTS,
	[PW_LIMIT_CLIENT_MESSAGE] = PW_POOL_CLIENT_MESSAGE_TIMEOUTS,
};

static void sample_pool(PwPoolSample *sample, RateParts *parts, int pool);
static void sample_slot(PwPoolSample *sample, RateParts *parts,
						const PwShmSlot *slot);
static void sample_rates(PwPoolSample *sample, const RateParts *parts);
static PwPoolHealth sample_health(const PwPoolSample *sample);
static int64 waiting_for(const PwShmPool *pool);
static double milliseconds(int64 usecs);
static double percent(double part, double whole);

/*
 * Sample all pools: copy and add up under the lock, compute afterwards.
 */
PwPoolSample *
pw_metrics_sample_pools(int *npools)
{
	int			max_pools = PwControl->max_pools;
	PwPoolSample *samples = palloc0(max_pools * sizeof(PwPoolSample));
	RateParts  *parts = palloc0(max_pools * sizeof(RateParts));
	int			n = 0;

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	for (int i = 0; i < max_pools; i++)
		sample_pool(&samples[i], &parts[i], i);
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		int			pool = PwSlots[i].pool;

		if (pool != PW_NONE)
			sample_slot(&samples[pool], &parts[pool], &PwSlots[i]);
	}
	LWLockRelease(&PwControl->lock);

	/* close the gaps that pools not in use leave */
	for (int i = 0; i < max_pools; i++)
	{
		if (samples[i].pool == PW_NONE)
			continue;
		sample_rates(&samples[i], &parts[i]);
		samples[i].health = sample_health(&samples[i]);
		samples[n++] = samples[i];
	}

	pfree(parts);
	*npools = n;
	return samples;
}

/*
 * Copy what a pool knows of itself.  The sample's pool is PW_NONE if it is not
 * in use.  The caller holds control->lock.
 */
static void
sample_pool(PwPoolSample *sample, RateParts *parts, int pool)
{
	const PwShmPool *shared = &PwPools[pool];

	if (!shared->in_use)
	{
		sample->pool = PW_NONE;
		return;
	}

	sample->pool = pool;
	sample->database = shared->database;
	sample->role = shared->role;
	sample->service = pw_pool_service((PwShmPool *) shared);
	sample->service_since = shared->service_since;
	if (shared->last_error_at != 0)
	{
		sample->health = PW_POOL_FAILING;
		strlcpy(sample->last_error, shared->last_error, PW_POOL_ERROR_LEN);
	}

	sample->value[PW_POOL_SLOTS_OPENING] = shared->opening;
	sample->value[PW_POOL_CLIENTS] = shared->clients;
	sample->value[PW_POOL_WAITING] = shared->waiting;
	sample->value[PW_POOL_SIZE] = shared->pool_size;
	sample->value[PW_POOL_SHARE] = shared->share;
	sample->value[PW_POOL_PEAK_ACTIVE] =
		pg_atomic_read_u32((pg_atomic_uint32 *) &shared->peak_active);
	sample->value[PW_POOL_TRANSACTIONS] = shared->past_transactions;
	sample->value[PW_POOL_FAILED] = shared->failed;
	sample->value[PW_POOL_MAX_PINNED] = shared->max_pinned;
	sample->value[PW_POOL_WAITING_FOR] = milliseconds(waiting_for(shared));
	sample->value[PW_POOL_WAIT_TIME] = milliseconds(shared->past_wait_time);
	sample->value[PW_POOL_LONGEST_WAIT] = milliseconds(shared->past_longest_wait);
	sample->value[PW_POOL_TURNED_AWAY] = shared->turned_away;
	sample->value[PW_POOL_SLOTS_OPENED] = shared->opened;
	sample->value[PW_POOL_UNANSWERED] = shared->unanswered;
	for (int limit = 0; limit < PW_NLIMITS; limit++)
		sample->value[metric_of_limit[limit]] =
			pg_atomic_read_u64((pg_atomic_uint64 *) &shared->enforced[limit]);
	parts->attaches = shared->past_attaches;
	parts->cold_slots = shared->cold_slots;
}

/*
 * Add a slot to the sample of its pool.  The caller holds control->lock.
 */
static void
sample_slot(PwPoolSample *sample, RateParts *parts, const PwShmSlot *slot)
{
	/* what a slot in each state counts as; in the others, as nothing */
	static const PwPoolMetric counts_as[PW_SLOT_NACTIVITIES] = {
		[PW_SLOT_EMPTY] = PW_POOL_NMETRICS,
		[PW_SLOT_OPENING] = PW_POOL_NMETRICS,	/* the pool knows */
		[PW_SLOT_IDLE] = PW_POOL_IDLE,
		[PW_SLOT_CLAIMED] = PW_POOL_ACTIVE,
		[PW_SLOT_ASSIGNED] = PW_POOL_ACTIVE,
		[PW_SLOT_BUSY] = PW_POOL_ACTIVE,
		[PW_SLOT_PINNED] = PW_POOL_PINNED,
		[PW_SLOT_GONE] = PW_POOL_NMETRICS,
	};
	uint32		activity = pg_atomic_read_u32((pg_atomic_uint32 *) &slot->activity);
	PwPoolMetric metric = slot->retire_reason == PW_RETIRE_NO_ANSWER ?
	PW_POOL_NMETRICS : counts_as[activity];

	if (sample->pool == PW_NONE || activity == PW_SLOT_EMPTY)
		return;

	if (metric != PW_POOL_NMETRICS)
	{
		sample->value[metric] += 1;
		sample->value[PW_POOL_SLOTS] += 1;
	}

	if (slot->reserve && metric != PW_POOL_NMETRICS)
		sample->value[PW_POOL_RESERVE] += 1;
	if (slot->reserve && (metric == PW_POOL_ACTIVE || metric == PW_POOL_PINNED))
		parts->reserve_in_use++;

	if (slot->session_pin != PW_PIN_NONE && !slot->reserve)
		sample->value[PW_POOL_PINNED_SESSIONS] += 1;
	sample->value[PW_POOL_WAIT_TIME] += milliseconds(slot->wait_time);
	sample->value[PW_POOL_LONGEST_WAIT] = Max(sample->value[PW_POOL_LONGEST_WAIT],
											  milliseconds(slot->longest_wait));
	sample->value[PW_POOL_TRANSACTIONS] += slot->transactions;
	parts->attaches += slot->attaches;
}

/*
 * Compute the percentages of a sample.
 *
 * An attach that had to wait for its slot to be opened is counted once for
 * each slot that was opened because somebody waited.
 */
static void
sample_rates(PwPoolSample *sample, const RateParts *parts)
{
	uint64		opened = Min(parts->cold_slots, parts->attaches);
	double		apart = Min(sample->value[PW_POOL_PINNED_SESSIONS],
							sample->value[PW_POOL_MAX_PINNED]);
	double		in_use = sample->value[PW_POOL_ACTIVE] + sample->value[PW_POOL_PINNED] -
	parts->reserve_in_use;

	sample->value[PW_POOL_UTILIZATION] =
		percent(Max(in_use - apart, 0), sample->value[PW_POOL_SIZE]);
	sample->value[PW_POOL_REUSE_RATE] =
		percent(parts->attaches - opened, parts->attaches);
}

/*
 * Say in one word how a pool does.  What an administrator wants comes first,
 * then trouble.
 */
static PwPoolHealth
sample_health(const PwPoolSample *sample)
{
	if (sample->service == PW_SERVICE_PAUSED)
		return PW_POOL_PAUSED;
	if (sample->service == PW_SERVICE_DRAINING)
		return PW_POOL_DRAINING;
	if (sample->health == PW_POOL_FAILING)
		return PW_POOL_FAILING;
	if (sample->value[PW_POOL_CLIENTS] == 0)
		return PW_POOL_UNUSED;
	if (sample->value[PW_POOL_SLOTS] == 0 &&
		sample->value[PW_POOL_SLOTS_OPENING] > 0)
		return PW_POOL_OPENING;
	return PW_POOL_READY;
}

/* How long the one who has waited longest has been waiting; usecs. */
static int64
waiting_for(const PwShmPool *pool)
{
	TimestampTz since = pool->waiting_since;

	return since == 0 ? 0 : Max(0, GetCurrentTimestamp() - since);
}

/* Microseconds as milliseconds, to one digit after the point. */
static double
milliseconds(int64 usecs)
{
	return rint(usecs / 100.0) / 10.0;
}

/*
 * The part in percent of the whole, to one digit after the point; NaN if
 * there is no whole.
 */
static double
percent(double part, double whole)
{
	return (whole > 0) ? rint(part / whole * 1000.0) / 10.0 : NAN;
}
