/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  Clients that wait for a slot: who they are, since when, and when they have
 *	  waited for long enough.
 *
 * Runs in: pool worker.
 *
 * The queue itself is the pool's epoll set, in the kernel, and slots that are
 * busy serve it without a word to the worker.  It cannot be looked into: whoever
 * takes an event out of it must serve that client, or its turn is lost.
 *
 * How we see who waits
 * --------------------
 *
 * So while all slots of a pool are in use, its clients are in a second set, one
 * that only we look into, every few milliseconds.  It is level-triggered: each
 * time it returns everybody who has sent something that nobody has read yet.
 * Those of them who are PARKED are waiting.  Clients that say nothing cost
 * nothing.  A client that has not been greeted yet has nothing to say, so it is
 * watched for EPOLLOUT as well, as in the queue.
 *
 * As long as a slot is idle, or could be opened, nobody waits: the worker is
 * called at once when somebody is ready, see dispatch.c.  So the looks begin when
 * there is a client and no slot for it.  They end when there is an idle slot; or
 * when nobody has waited for a while, by having ourselves called again.  The
 * second set is given up when it has not been needed for a while, because each
 * message of a client costs a little more with it.
 *
 * Since when
 * ----------
 *
 * A look that finds a client waiting notes the time in its entry, unless it has
 * been noted before and the client has not had a slot since: parked_at tells.
 * The time is that of the beginning of the look.  So what is known of a wait is
 * never more than the truth, and less by LOOK_MS at most.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/epoll.h>
#include <unistd.h>

#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "client.h"
#include "pool_internal.h"
#include "settings.h"
#include "shared_state.h"

/* from one look to the next, ms; sleeping adds one or two */
#define LOOK_MS 8

/* looks in a row that find nobody, before we have ourselves called instead */
#define QUIET_LOOKS 12

/* the same while the pool is paused: then it is only for notices, ms */
#define PAUSED_LOOK_MS 50

/* after a look that was not possible, ms */
#define LOOK_AGAIN_MS 1000

/* how long a set is kept that is not needed, ms */
#define KEEP_SET_MS (10 * 1000)

/* who has waited for less than this is not one too many yet, ms */
#define PATIENCE_MS 5

/* clients that are refused in one look; others may need the worker, too */
#define MAX_REFUSED 100

/* A client that waits. */
typedef struct PwWaiter
{
	bool		high;			/* has priority */
	TimestampTz since;
	int			place;			/* in the order of the kernel */
	int			client;
} PwWaiter;

/* What one look finds. */
typedef struct PwLook
{
	PwPool	   *pool;
	TimestampTz now;			/* when it began */
	int			nwaiters;
	int			refused;
	int			waiting;		/* are left in the end, */
	TimestampTz waiting_since;	/* the first of them since; or 0 */
	const char *detail;			/* for messages; NULL until there is one */
	const char *hint;
} PwLook;

/* What the slots of a pool do. */
typedef struct PwSlotUse
{
	int			total;
	int			free;			/* idle, or about to be */
	int			opening;
	int			in_transaction; /* idle in one */
	int			reserve;		/* of that, which is not counted above */
	int			pinned;			/* between transactions, */
	int			pinned_by[PW_PIN_NREASONS]; /* and why */
} PwSlotUse;

/* room for what the kernel returns, and for those of them who wait */
static struct epoll_event *events = NULL;
static PwWaiter *waiters = NULL;

/* by client: the value of ready_since for which it has had its notice */
static TimestampTz *noticed = NULL;

static void look(void *arg);
static void look_failed(void *arg);
static void arm_look(PwPool *pool, int ms);
static int	next_look_ms(const PwLook *look);
static bool is_paused(const PwLook *look);
static bool open_set(PwPool *pool);
static bool add_clients(PwPool *pool);
static bool watch_client(PwPool *pool, int client, int operation);
static void find_waiters(PwLook *look);
static bool is_waiting(PwLook *look, int client, const struct epoll_event *event);
static void judge_waiters(PwLook *look);
static int	compare_waiters(const void *a, const void *b);
static bool slot_is_coming(PwPool *pool);
static bool judge(PwLook *look, const PwWaiter *waiter, bool too_many);
static bool refuse(PwLook *look, const PwWaiter *waiter, const char *what);
static void notify(PwLook *look, const PwWaiter *waiter);
static const char *name_pool(PwPool *pool, const char *what);
static void describe(PwLook *look);
static void count_slots(PwPool *pool, PwSlotUse *use);
static int	count_active(const PwSlotUse *use);
static const char *list_pins(const PwSlotUse *use);
static const char *choose_hint(PwPool *pool, const PwSlotUse *use);

void
pw_queue_init(void)
{
	int			n = PwControl->max_clients;

	events = MemoryContextAlloc(TopMemoryContext, sizeof(struct epoll_event) * n);
	waiters = MemoryContextAlloc(TopMemoryContext, sizeof(PwWaiter) * n);
	noticed = MemoryContextAllocZero(TopMemoryContext, sizeof(TimestampTz) * n);
}

void
pw_queue_add(PwPool *pool, int client)
{
	if (pool->watch_epfd >= 0 && !watch_client(pool, client, EPOLL_CTL_ADD))
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not watch pool client: %m")));
}

void
pw_queue_remove(PwPool *pool, int client)
{
	if (pool->watch_epfd >= 0)
		(void) epoll_ctl(pool->watch_epfd, EPOLL_CTL_DEL, pw_client_fd(client), NULL);
}

void
pw_queue_begin(PwPool *pool)
{
	pool->quiet_looks = 0;
	if (pool->look.expires_at == 0)
		arm_look(pool, LOOK_MS);
}

static void
arm_look(PwPool *pool, int ms)
{
	pw_timer_arm(&pool->look, TimestampTzPlusMilliseconds(pw_loop_now(), ms),
				 look, look_failed, pool);
}

/*
 * The pool was paused.  That is no wait for a slot, and no reason to refuse
 * anybody.
 */
void
pw_queue_restart(PwPool *pool)
{
	int			index = pool->shared - PwPools;
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < PwControl->max_clients; i++)
		if (PwClients[i].pool == index && pw_client_waiting_since(&PwClients[i]) != 0)
			PwClients[i].ready_since = now;
}

void
pw_queue_tidy(PwPool *pool)
{
	if (pool->watch_epfd >= 0 && pool->look.expires_at == 0 &&
		(pool->shared->clients == 0 ||
		 TimestampDifferenceExceeds(pool->last_look, pw_loop_now(), KEEP_SET_MS)))
		pw_queue_close(pool);
}

void
pw_queue_close(PwPool *pool)
{
	pw_timer_disarm(&pool->look);
	if (pool->watch_epfd < 0)
		return;
	close(pool->watch_epfd);
	ReleaseExternalFD();
	pool->watch_epfd = -1;
}

/*
 * Timer callback: see who waits, and who has waited for too long.
 */
static void
look(void *arg)
{
	PwPool	   *pool = (PwPool *) arg;
	PwLook		look = {.pool = pool,.now = GetCurrentTimestamp()};

	pool->last_look = look.now;
	if (pg_atomic_read_u32(&pool->shared->watched) != PW_WATCH_ALL)
	{
		/* for the case that this one fails */
		arm_look(pool, LOOK_AGAIN_MS);
		if (!open_set(pool))
			return;
		find_waiters(&look);
		judge_waiters(&look);
		arm_look(pool, next_look_ms(&look));
		pool->quiet_looks = look.waiting > 0 ? 0 : pool->quiet_looks + 1;
	}
	pool->shared->waiting = look.waiting;
	pool->shared->waiting_since = look.waiting_since;

	if (look.waiting > 0)
		pw_pool_want_slot(pool);	/* more may be allowed than before */
	else if (pool->quiet_looks >= QUIET_LOOKS)
	{
		pw_timer_disarm(&pool->look);
		pw_pool_set_watched(pool, true);
	}
}

static int
next_look_ms(const PwLook *look)
{
	if (look->refused >= MAX_REFUSED)
		return 0;
	return is_paused(look) ? PAUSED_LOOK_MS : LOOK_MS;
}

static bool
is_paused(const PwLook *look)
{
	return pw_pool_service(look->pool->shared) != PW_SERVICE_OPEN;
}

/* The next look is on its way already. */
static void
look_failed(void *arg)
{
}

/*
 * Make the second set if there is none.  False, and logged, if that fails.
 */
static bool
open_set(PwPool *pool)
{
	if (pool->watch_epfd >= 0)
		return true;
	pool->watch_epfd = epoll_create1(EPOLL_CLOEXEC);
	if (pool->watch_epfd >= 0)
	{
		ReserveExternalFD();
		if (add_clients(pool))
			return true;
	}
	ereport(LOG,
			(errcode_for_socket_access(),
			 errmsg("could not watch who waits for connection pool \"%s/%s\": %m",
					NameStr(pool->shared->database), NameStr(pool->shared->role))));
	if (pool->watch_epfd >= 0)
	{
		close(pool->watch_epfd);
		ReleaseExternalFD();
	}
	pool->watch_epfd = -1;
	return false;
}

static bool
add_clients(PwPool *pool)
{
	int			index = pool->shared - PwPools;

	for (int i = 0; i < PwControl->max_clients; i++)
	{
		/* those of an earlier worker have no descriptor here */
		if (PwClients[i].pool == index &&
			!watch_client(pool, i, EPOLL_CTL_ADD) && errno != EBADF)
			return false;
	}
	return true;
}

static bool
watch_client(PwPool *pool, int client, int operation)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);
	struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP,
	.data.u64 = PW_EPOLL_DATA(client, PW_WORD_GENERATION(word))};

	if (!PwClients[client].said_hello)
		event.events |= EPOLLOUT;
	return epoll_ctl(pool->watch_epfd, operation, pw_client_fd(client), &event) == 0;
}

/*
 * Find those who wait, and fill waiters[].  The kernel returns them in about
 * the order in which they have become ready.
 */
static void
find_waiters(PwLook *look)
{
	int			n = epoll_wait(look->pool->watch_epfd, events, PwControl->max_clients, 0);

	for (int i = 0; i < n; i++)
	{
		int			client = PW_EPOLL_CLIENT(events[i].data.u64);

		if (is_waiting(look, client, &events[i]))
		{
			waiters[look->nwaiters].high = pw_client_is_high(&PwClients[client],
															 look->pool->shared);
			waiters[look->nwaiters].since = PwClients[client].ready_since;
			waiters[look->nwaiters].place = i;
			waiters[look->nwaiters++].client = client;
		}
	}
}

/*
 * Does a client wait?  If so, note since when.
 */
static bool
is_waiting(PwLook *look, int client, const struct epoll_event *event)
{
	PwShmClient *shared = &PwClients[client];
	uint64		word = pg_atomic_read_u64(&shared->word);
	TimestampTz parked_at;

	if (PW_WORD_GENERATION(word) != PW_EPOLL_GENERATION(event->data.u64) ||
		PW_WORD_STATE(word) != PW_CLIENT_PARKED)
		return false;
	if ((event->events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0 &&
		pw_client_has_left(client))
	{
		(void) pw_client_close(client);
		return false;
	}
	if ((event->events & EPOLLOUT) != 0 && shared->said_hello)
	{
		(void) watch_client(look->pool, client, EPOLL_CTL_MOD);
		if ((event->events & EPOLLIN) == 0)
			return false;
	}

	/* at least as new as the word; if it has had a slot since, then later */
	pg_read_barrier();
	parked_at = shared->parked_at;
	if (parked_at > look->now)
		return false;
	if (shared->ready_since < parked_at || shared->ready_since > look->now)
		shared->ready_since = look->now;
	return true;
}

/*
 * Tell each of them what there is to tell, and refuse whoever has waited for
 * too long, or is one too many.  Those with priority, and of the others the first
 * come, are the last to be refused.
 */
static void
judge_waiters(PwLook *look)
{
	int			limit = look->nwaiters;
	int			max_waiting = look->pool->shared->settings.max_waiting;

	if (max_waiting >= 0 && look->nwaiters > max_waiting &&
		!is_paused(look) && !slot_is_coming(look->pool))
	{
		qsort(waiters, look->nwaiters, sizeof(PwWaiter), compare_waiters);
		limit = max_waiting;
	}
	for (int i = 0; i < look->nwaiters; i++)
	{
		const PwWaiter *waiter = &waiters[i];

		if (!judge(look, waiter, i >= limit))
			continue;
		look->waiting++;
		if (look->waiting_since == 0 || waiter->since < look->waiting_since)
			look->waiting_since = waiter->since;
	}
}

static int
compare_waiters(const void *a, const void *b)
{
	const PwWaiter *left = (const PwWaiter *) a;
	const PwWaiter *right = (const PwWaiter *) b;

	if (left->high != right->high)
		return left->high ? -1 : 1;
	if (left->since != right->since)
		return left->since < right->since ? -1 : 1;
	return left->place - right->place;
}

/*
 * Will there be another slot in a moment?  Then it is too early to say who is
 * one too many.
 */
static bool
slot_is_coming(PwPool *pool)
{
	PwSlotUse	use;

	count_slots(pool, &use);
	return use.opening > 0 || use.free > 0 || pool->growth.expires_at != 0;
}

/*
 * True if the client goes on waiting.
 */
static bool
judge(PwLook *look, const PwWaiter *waiter, bool too_many)
{
	int64		waited_ms = (look->now - waiter->since) / 1000;
	const PwPoolSettings *settings = &look->pool->shared->settings;

	if (look->refused >= MAX_REFUSED)
		return true;
	if (settings->queue_timeout > 0 && !is_paused(look) && waited_ms >= settings->queue_timeout)
		return !refuse(look, waiter, "timed out waiting for a connection slot of pool");
	if (too_many && waited_ms >= PATIENCE_MS)
		return !refuse(look, waiter, "too many clients are waiting for a connection slot of pool");
	if (settings->queue_notice_after > 0 && waited_ms >= settings->queue_notice_after)
		notify(look, waiter);
	return true;
}

/*
 * Send a client away.  False if it has got a slot in the last moment.
 */
static bool
refuse(PwLook *look, const PwWaiter *waiter, const char *what)
{
	PwShmPool  *pool = look->pool->shared;
	uint64		id = PwClients[waiter->client].id;
	const char *host = pstrdup(PwClients[waiter->client].remote_host);
	PwReport	report = {.sqlstate = ERRCODE_TOO_MANY_CONNECTIONS};

	describe(look);
	report.message = name_pool(look->pool, what);
	report.detail = look->detail;
	report.hint = look->hint;
	if (!pw_client_hold(waiter->client, waiter->since) ||
		!pw_client_refuse(waiter->client, &report))
		return false;

	look->refused++;
	pool->turned_away++;
	pool->past_wait_time += look->now - waiter->since;
	pool->past_longest_wait = Max(pool->past_longest_wait, look->now - waiter->since);
	ereport(LOG,
			(errcode(report.sqlstate),
			 errmsg("pool client refused: %s", report.message),
			 errdetail("Client %llu at %s has waited for %lld ms.  %s",
					   (unsigned long long) id, host,
					   (long long) (look->now - waiter->since) / 1000, look->detail),
			 errhint("%s", look->hint)));
	return true;
}

/*
 * Tell a client, once, that it has to wait.
 */
static void
notify(PwLook *look, const PwWaiter *waiter)
{
	PwReport	report = {.sqlstate = ERRCODE_SUCCESSFUL_COMPLETION};

	if (noticed[waiter->client] == waiter->since)
		return;
	describe(look);
	report.message = name_pool(look->pool, is_paused(look) ?
							   "an administrator has paused connection pool" :
							   "waiting for a connection slot of pool");
	report.detail = look->detail;
	if (pw_client_tell(waiter->client, waiter->since, &report))
		noticed[waiter->client] = waiter->since;
}

static const char *
name_pool(PwPool *pool, const char *what)
{
	return psprintf("%s \"%s/%s\"", what, NameStr(pool->shared->database),
					NameStr(pool->shared->role));
}

/*
 * Put into words what the slots do, so that somebody who waits knows for what.
 */
static void
describe(PwLook *look)
{
	PwPool	   *pool = look->pool;
	PwSlotUse	use;

	if (look->detail != NULL)
		return;
	count_slots(pool, &use);
	look->detail = psprintf("Clients waiting: %d.  Slots: %d of at most %d (active: %d, opening: %d, idle in transaction: %d, pinned: %d%s).%s",
							look->nwaiters, use.total, pw_pool_slot_limit(pool),
							count_active(&use), use.opening, use.in_transaction,
							use.pinned, list_pins(&use),
							use.reserve == 0 ? "" :
							psprintf("  Reserve for high priority: %d.", use.reserve));
	if (pool->shared->last_error_at != 0)
		look->detail = psprintf("%s  The last login of a slot failed: %s",
								look->detail, pool->shared->last_error);
	look->hint = choose_hint(pool, &use);
}

static void
count_slots(PwPool *pool, PwSlotUse *use)
{
	int			index = pool->shared - PwPools;

	memset(use, 0, sizeof(PwSlotUse));
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		uint32		activity = pg_atomic_read_u32(&PwSlots[i].activity);
		uint8		reason = PwSlots[i].pin_reason;

		if (PwSlots[i].pool != index ||
			PwSlots[i].worker_generation != PwControl->worker_generation)
			continue;
		if (PwSlots[i].reserve && activity != PW_SLOT_OPENING)
		{
			use->reserve++;
			continue;
		}
		use->total++;
		if (activity == PW_SLOT_OPENING)
			use->opening++;
		else if (activity == PW_SLOT_IDLE || activity == PW_SLOT_CLAIMED)
			use->free++;
		else if (activity == PW_SLOT_PINNED && reason == PW_PIN_TRANSACTION)
			use->in_transaction++;
		else if (activity == PW_SLOT_PINNED)
		{
			use->pinned++;
			use->pinned_by[reason]++;
		}
	}
}

/* Free ones will be so in a moment, if somebody waits. */
static int
count_active(const PwSlotUse *use)
{
	return use->total - use->opening - use->in_transaction - use->pinned;
}

/* " by temporary objects 2, listen 1", or nothing. */
static const char *
list_pins(const PwSlotUse *use)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int reason = 0; reason < PW_PIN_NREASONS; reason++)
		if (use->pinned_by[reason] > 0)
			appendStringInfo(&list, "%s %s %d", list.len == 0 ? " by" : ",",
							 pw_pin_reason_names[reason], use->pinned_by[reason]);
	return list.data;
}

static const char *
choose_hint(PwPool *pool, const PwSlotUse *use)
{
	int			active = count_active(use);

	if (pool->shared->last_error_at != 0)
		return "pool_check() says why no other slot can be opened.";
	if (pool->wants_slot)
		return "All slots of the server are in use: raise \"pool_worker.max_slots\", or lower \"pool_worker.pool_size\".";
	if (use->pinned > 0 && use->pinned >= use->in_transaction && use->pinned >= active)
		return "pool_clients() says what pins them.  End that where it is not needed, or raise \"pool_worker.max_pinned\" or \"pool_worker.pool_size\".";
	if (use->in_transaction > 0 && use->in_transaction >= active)
		return "pool_clients() says who has left transactions open.  End them earlier, or raise \"pool_worker.pool_size\".";
	return "Raise \"pool_worker.pool_size\" or \"pool_worker.queue_timeout\".";
}
