/*-------------------------------------------------------------------------
 *
 * event_loop.h
 *	  Descriptors and deadlines become callbacks.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_EVENT_LOOP_H
#define PW_EVENT_LOOP_H

#include "datatype/timestamp.h"
#include "lib/pairingheap.h"

#define PW_READ		(1 << 0)
#define PW_WRITE	(1 << 1)

typedef struct PwWatch PwWatch;
typedef struct PwTimer PwTimer;

typedef void (*PwWatchFn) (void *arg, int ready);
typedef void (*PwFn) (void *arg);

/*
 * Interest in one descriptor.  It is embedded in its owner, which must not be
 * freed before the turn of the loop has ended: an event of that turn may
 * already name it.  Owners here live in arrays that are never freed.
 */
struct PwWatch
{
	int			fd;				/* -1 while not watching */
	int			events;			/* PW_READ, PW_WRITE; 0 keeps it registered */
	PwWatchFn	fn;
	PwFn		failed;
	void	   *arg;
};

/*
 * A deadline.  It is embedded in the object it guards, so that setting one
 * never allocates and therefore never fails.  Zeroed memory is disarmed.
 */
struct PwTimer
{
	pairingheap_node node;		/* meaningful only while armed */
	TimestampTz expires_at;		/* absolute; 0 while not armed */
	PwFn		fn;
	PwFn		failed;
	void	   *arg;
};

/* Create the loop.  "on_latch" is called once per turn, before any callback. */
extern void pw_loop_init(void (*on_latch) (void));

/* Run until pw_loop_stop(). */
extern void pw_loop_run(void);
extern void pw_loop_stop(void);

/*
 * While a "failed" callback runs: the SQLSTATE and the message of the error.
 */
extern int	pw_loop_error_code(void);
extern const char *pw_loop_error_message(void);

/* The time at which this turn began; cheap. */
extern TimestampTz pw_loop_now(void);

/*
 * Watch "fd" for "events".  The loop does not own the descriptor: remove the
 * watch before closing it.  A descriptor has at most one watch.
 *
 * If "fn" raises an error, the loop logs it and calls "failed" instead, which
 * must give up on the owner and must not raise another one.
 */
extern void pw_watch_add(PwWatch *watch, int fd, int events,
						 PwWatchFn fn, PwFn failed, void *arg);

/* Change what is watched; cheap when nothing changes. */
extern void pw_watch_set_events(PwWatch *watch, int events);

/* Stop watching.  Doing so twice is fine. */
extern void pw_watch_remove(PwWatch *watch);

/*
 * Arm, or move, a timer.  A deadline in the past fires on the next turn.  If
 * "fn" raises an error, "failed" is called as for a watch.
 */
extern void pw_timer_arm(PwTimer *timer, TimestampTz at,
						 PwFn fn, PwFn failed, void *arg);

/* Disarm.  Disarming a timer that is not armed is fine. */
extern void pw_timer_disarm(PwTimer *timer);

#endif							/* PW_EVENT_LOOP_H */
