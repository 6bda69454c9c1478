/*-------------------------------------------------------------------------
 *
 * metrics.h
 *	  The numbers of a pool, and the one list that names them.
 *
 * Runs in: every process that shows numbers to somebody.
 *
 * Whoever shows the numbers of a pool takes a sample and walks the list; no
 * caller knows a number by anything but its place in it.  So two displays of
 * the same pool cannot disagree about a name, a unit or a definition.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_METRICS_H
#define PW_METRICS_H

#include "shared_state.h"

/* How a pool does, in one word. */
typedef enum PwPoolHealth
{
	PW_POOL_READY,				/* serves its clients */
	PW_POOL_OPENING,			/* no slot is open yet, the first is coming */
	PW_POOL_FAILING,			/* the last login of a slot failed */
	PW_POOL_UNUSED,				/* has no clients */
	PW_POOL_PAUSED,				/* an administrator wants its clients to wait, */
	PW_POOL_DRAINING,			/* or to go */
} PwPoolHealth;

#define PW_POOL_NHEALTHS (PW_POOL_DRAINING + 1)

/*
 * Append only.  The order is the order of the columns of pool_status(), and
 * older versions of that function stay callable.
 */
typedef enum PwPoolMetric
{
	PW_POOL_SLOTS,
	PW_POOL_ACTIVE,
	PW_POOL_IDLE,
	PW_POOL_PINNED,
	PW_POOL_SLOTS_OPENING,
	PW_POOL_CLIENTS,
	PW_POOL_WAITING,
	PW_POOL_SIZE,
	PW_POOL_UTILIZATION,
	PW_POOL_PEAK_ACTIVE,
	PW_POOL_TRANSACTIONS,
	PW_POOL_REUSE_RATE,
	PW_POOL_FAILED,
	PW_POOL_PINNED_SESSIONS,
	PW_POOL_MAX_PINNED,
	PW_POOL_WAITING_FOR,
	PW_POOL_WAIT_TIME,
	PW_POOL_LONGEST_WAIT,
	PW_POOL_TURNED_AWAY,
	PW_POOL_STATEMENT_TIMEOUTS,
	PW_POOL_TRANSACTION_TIMEOUTS,
	PW_POOL_IDLE_IN_TRANSACTION_TIMEOUTS,
	PW_POOL_CLIENT_IDLE_TIMEOUTS,
	PW_POOL_CLIENT_MESSAGE_TIMEOUTS,
	PW_POOL_SLOTS_OPENED,
	PW_POOL_UNANSWERED,
	PW_POOL_RESERVE,
	PW_POOL_SHARE,

	PW_POOL_NMETRICS			/* keep last */
} PwPoolMetric;

typedef enum PwMetricKind
{
	PW_METRIC_GAUGE,			/* a number now; int4 in SQL */
	PW_METRIC_COUNTER,			/* only grows while there is the pool; int8 in
								 * SQL */
	PW_METRIC_PERCENT,			/* one digit after the point; float8 in SQL */
	PW_METRIC_TIME,				/* ms; float8 in SQL */
} PwMetricKind;

typedef struct PwMetricInfo
{
	const char *name;			/* SQL column; Prometheus adds a prefix */
	PwMetricKind kind;
	const char *help;			/* one sentence */
} PwMetricInfo;

/* The numbers of one pool, copied at one moment. */
typedef struct PwPoolSample
{
	int			pool;			/* index */
	NameData	database;
	NameData	role;
	PwPoolHealth health;
	char		last_error[PW_POOL_ERROR_LEN];	/* of its slots; "" if the
												 * last of them could log in */
	PwService	service;		/* what an administrator wants of it, */
	TimestampTz service_since;	/* and since when */

	/*
	 * By PwPoolMetric.  A double counts exactly up to 2^53, which is enough.
	 * NaN where there is no number, such as a rate of nothing.
	 */
	double		value[PW_POOL_NMETRICS];
} PwPoolSample;

extern const char *const pw_pool_health_names[PW_POOL_NHEALTHS];
extern const PwMetricInfo pw_pool_metrics[PW_POOL_NMETRICS];

/*
 * Sample all pools.  Returns an array of *npools samples, in the order of
 * their indexes, in the current memory context.  Takes control->lock shared,
 * for as long as it takes to look at each pool and each slot once.
 */
extern PwPoolSample *pw_metrics_sample_pools(int *npools);

#endif							/* PW_METRICS_H */
