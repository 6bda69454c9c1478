/*-------------------------------------------------------------------------
 *
 * event_loop.c
 *	  Descriptors and deadlines become callbacks; the only place where the
 *	  worker catches errors.
 *
 * Runs in: pool worker.
 *
 * Descriptors live in an epoll set of our own, because a WaitEventSet cannot
 * drop a single entry.  But we must sleep inside a WaitEventSet: SetLatch()
 * sends no signal to a process that is not marked as sleeping there, so a bare
 * epoll_wait() sleeps right through it.  An epoll descriptor can itself be
 * waited for, so the set holds just three things: our latch, the postmaster's
 * death, and the epoll descriptor.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/epoll.h>
#include <unistd.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "event_loop.h"

/* events taken from the kernel in one turn */
#define MAX_READY 64

static int	loop_epfd = -1;
static WaitEventSet *sleep_set = NULL;
static pairingheap *timers = NULL;
static MemoryContext turn_context = NULL;
static void (*latch_fn) (void) = NULL;
static bool stopped = false;
static TimestampTz now = 0;
static uint32 wait_event = 0;

/* the error that was caught last */
static ErrorData *last_error = NULL;

static void loop_turn(void);
static long loop_sleep_msecs(void);
static void run_watch(PwWatch *watch, uint32 reported);
static void run_timers(void);
static void call_watch(PwWatch *watch, int ready);
static void call_latch(void);
static void call_timer(PwTimer *timer);
static void clean_up_after_error(void);
static int	ready_mask(const PwWatch *watch, uint32 reported);
static uint32 epoll_mask(int events);
static int	timer_cmp(const pairingheap_node *a, const pairingheap_node *b, void *arg);

void
pw_loop_init(void (*on_latch) (void))
{
	latch_fn = on_latch;
	now = GetCurrentTimestamp();
	timers = pairingheap_allocate(timer_cmp, NULL);
	turn_context = AllocSetContextCreate(TopMemoryContext, "pool worker turn",
										 ALLOCSET_DEFAULT_SIZES);
	wait_event = pw_wait_event_new("PoolWorkerMain");

	loop_epfd = epoll_create1(EPOLL_CLOEXEC);
	if (loop_epfd < 0)
		ereport(FATAL,
				(errcode_for_socket_access(),
				 errmsg("could not create epoll descriptor: %m")));
	ReserveExternalFD();

	sleep_set = pw_wait_event_set_new(3);
	AddWaitEventToSet(sleep_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(sleep_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(sleep_set, WL_SOCKET_READABLE, loop_epfd, NULL, NULL);
}

void
pw_loop_run(void)
{
	MemoryContextSwitchTo(turn_context);
	while (!stopped)
		loop_turn();
}

void
pw_loop_stop(void)
{
	stopped = true;
}

int
pw_loop_error_code(void)
{
	return last_error->sqlerrcode;
}

const char *
pw_loop_error_message(void)
{
	return last_error->message;
}

TimestampTz
pw_loop_now(void)
{
	return now;
}

/*
 * One turn: sleep until something is due, then run everything that is ready.
 */
static void
loop_turn(void)
{
	WaitEvent	woken;
	struct epoll_event ready[MAX_READY];
	int			nready;

	(void) WaitEventSetWait(sleep_set, loop_sleep_msecs(), &woken, 1, wait_event);
	now = GetCurrentTimestamp();
	call_latch();

	nready = epoll_wait(loop_epfd, ready, MAX_READY, 0);
	if (nready < 0 && errno != EINTR)
		ereport(FATAL,
				(errcode_for_socket_access(),
				 errmsg("could not wait for pool sockets: %m")));

	for (int i = 0; i < nready; i++)
		run_watch((PwWatch *) ready[i].data.ptr, ready[i].events);
	run_timers();

	MemoryContextReset(turn_context);
}

/*
 * How long to sleep: until the first deadline, rounded up so that it has
 * passed when we wake; -1 if there is none.
 */
static long
loop_sleep_msecs(void)
{
	PwTimer    *first;
	TimestampTz current;

	if (pairingheap_is_empty(timers))
		return -1;
	first = pairingheap_container(PwTimer, node, pairingheap_first(timers));
	current = GetCurrentTimestamp();
	if (first->expires_at <= current)
		return 0;
	return (long) Min((first->expires_at - current + 999) / 1000, INT_MAX);
}

/*
 * Run the callback of a watch, unless an earlier one of this turn removed it.
 */
static void
run_watch(PwWatch *watch, uint32 reported)
{
	if (watch->fd >= 0)
		call_watch(watch, ready_mask(watch, reported));
}

/*
 * Run the timers that are due.  One that is armed in a turn for a time that has
 * passed waits for the next turn, so that others come first: "now" stands still
 * during a turn, and pw_timer_arm() makes it later than that.
 */
static void
run_timers(void)
{
	TimestampTz until = now;

	while (!pairingheap_is_empty(timers))
	{
		PwTimer    *timer = pairingheap_container(PwTimer, node,
												  pairingheap_first(timers));

		if (timer->expires_at > until)
			break;
		pw_timer_disarm(timer);
		call_timer(timer);
	}
}

/*
 * Run one callback of a watch.
 *
 * Here and in the two functions below are the only places where the worker
 * catches errors.  An error belongs to the client or slot in whose name it was raised:
 * it costs that one its connection, and never anybody else's.
 */
static void
call_watch(PwWatch *watch, int ready)
{
	PwFn		failed = watch->failed;
	void	   *arg = watch->arg;

	PG_TRY();
	{
		watch->fn(arg, ready);
	}
	PG_CATCH();
	{
		clean_up_after_error();
		failed(arg);
	}
	PG_END_TRY();
}

/* What signals and slots have left for us is nobody's in particular. */
static void
call_latch(void)
{
	PG_TRY();
	{
		latch_fn();
	}
	PG_CATCH();
	{
		clean_up_after_error();
	}
	PG_END_TRY();
}

static void
call_timer(PwTimer *timer)
{
	PwFn		failed = timer->failed;
	void	   *arg = timer->arg;

	PG_TRY();
	{
		timer->fn(arg);
	}
	PG_CATCH();
	{
		clean_up_after_error();
		failed(arg);
	}
	PG_END_TRY();
}

/*
 * Log the error at hand and leave the worker as it was before the callback:
 * no lock, no transaction, no half-reported error.
 */
static void
clean_up_after_error(void)
{
	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(turn_context);
	EmitErrorReport();
	last_error = CopyErrorData();
	FlushErrorState();
	LWLockReleaseAll();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(turn_context);
	RESUME_INTERRUPTS();
}

void
pw_watch_add(PwWatch *watch, int fd, int events,
			 PwWatchFn fn, PwFn failed, void *arg)
{
	struct epoll_event event = {.events = epoll_mask(events),.data.ptr = watch};

	Assert(watch->fd < 0);
	if (epoll_ctl(loop_epfd, EPOLL_CTL_ADD, fd, &event) < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not watch pool socket: %m")));
	watch->fd = fd;
	watch->events = events;
	watch->fn = fn;
	watch->failed = failed;
	watch->arg = arg;
}

void
pw_watch_set_events(PwWatch *watch, int events)
{
	struct epoll_event event = {.events = epoll_mask(events),.data.ptr = watch};

	Assert(watch->fd >= 0);
	if (watch->events == events)
		return;
	if (epoll_ctl(loop_epfd, EPOLL_CTL_MOD, watch->fd, &event) < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not watch pool socket: %m")));
	watch->events = events;
}

void
pw_watch_remove(PwWatch *watch)
{
	if (watch->fd < 0)
		return;
	(void) epoll_ctl(loop_epfd, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->fd = -1;
}

void
pw_timer_arm(PwTimer *timer, TimestampTz at, PwFn fn, PwFn failed, void *arg)
{
	pw_timer_disarm(timer);
	timer->expires_at = Max(at, now + 1);	/* not in this turn: see
											 * run_timers() */
	timer->fn = fn;
	timer->failed = failed;
	timer->arg = arg;
	pairingheap_add(timers, &timer->node);
}

void
pw_timer_disarm(PwTimer *timer)
{
	if (timer->expires_at == 0)
		return;
	pairingheap_remove(timers, &timer->node);
	timer->expires_at = 0;
}

/*
 * Translate what epoll reported.
 *
 * EPOLLERR and EPOLLHUP come even if nobody asked.  We pass them on as
 * readiness, so that the next read or write finds the error; a watch that
 * wanted nothing is told it can read, lest we spin on it.
 */
static int
ready_mask(const PwWatch *watch, uint32 reported)
{
	int			ready = 0;

	if (reported & EPOLLIN)
		ready |= PW_READ;
	if (reported & EPOLLOUT)
		ready |= PW_WRITE;
	if (reported & (EPOLLERR | EPOLLHUP))
		ready |= (watch->events != 0) ? watch->events : PW_READ;

	return ready;
}

static uint32
epoll_mask(int events)
{
	return ((events & PW_READ) ? EPOLLIN : 0) |
		((events & PW_WRITE) ? EPOLLOUT : 0);
}

/* A pairing heap has the largest on top; we want the earliest. */
static int
timer_cmp(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz left = pairingheap_const_container(PwTimer, node, a)->expires_at;
	TimestampTz right = pairingheap_const_container(PwTimer, node, b)->expires_at;

	return (left < right) ? 1 : (left > right) ? -1 : 0;
}
