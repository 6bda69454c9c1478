/*-------------------------------------------------------------------------
 *
 * slot_wait.c
 *	  A slot with nothing to do: sleeping, and what the worker makes of that.
 *
 * Runs in: slots, during their turn; see handoff.c.
 *
 * A slot sleeps in FeBeWaitSet like any idle backend, with its last client
 * still attached, or in that of its connection to the worker if there is none.
 * It does there what PostgresMain() does for an idle backend: see
 * service_interrupts().
 *
 * Who gives us our next client
 * ----------------------------
 *
 * slot->activity says; the picture is in shared_state.h.  While we are BUSY or
 * PINNED, only we do.  When we store IDLE, both sides may act, and one
 * compare-and-swap decides: ours to BUSY because our client has said something,
 * or the worker's to CLAIMED because another one waits.  CLAIMED is short, and
 * we wait for its end: IDLE again, or ASSIGNED with the client we are to serve.
 *
 * So that no client is overlooked, we store IDLE before we look whether the
 * worker watches the queue, with a full barrier between; see the header of
 * dispatch.c for its half.
 *
 * A pool that is paused
 * ---------------------
 *
 * Between transactions we look at pool->service before we read a command, and
 * hold our client if it is not OPEN: one that nothing pins is parked, and from
 * one that is pinned we read nothing until we are woken.
 *
 * An administrator who waits for the end of all transactions must not overlook
 * us.  The worker stores PAUSED, and then somebody looks whether we are BUSY or
 * in a transaction; we store BUSY, and then look at pool->service.  Both have a
 * full barrier between.  So either we see that the pool is paused, or we are
 * seen, and waited for.  In the same way, when we have stored that we are not
 * BUSY any more, we look whether there is somebody to be told.
 *
 * Errors
 * ------
 *
 * The interrupts of an idle backend raise errors while our activity says IDLE
 * or PINNED.  It still says so when our next turn comes, and the worker may
 * have claimed us by then, so pw_wait_for_work() begins with that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/async.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/sinval.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "attachment.h"
#include "command_clock.h"
#include "compat.h"
#include "descriptors.h"
#include "guc_access.h"
#include "identity.h"
#include "settings.h"
#include "shared_state.h"
#include "slot_self.h"
#include "slot_wait.h"
#include "time_limits.h"

/* How long we sleep before we make sure that the worker knows who left, ms. */
#define UNAWARE_MS 10

/* We are counted in pool->active. */
static bool counted_active = false;

static bool is_worker_unaware(void);
static void tell_worker(void);
static void declare(PwSlotActivity activity, PwPinReason reason);
static bool is_keeping(PwPinReason reason);
static bool is_queue_watched(void);
static bool undeclare(void);
static bool take_assignment(void);
static void await_decision(void);
static void service_interrupts(bool may_park);
static bool must_yield(void);
pg_noreturn static void end_slot(void);
static void raise_alarm(void);

/*
 * Sleep until there may be something to do.
 */
void
pw_wait_for_work(PwPinReason reason)
{
	/* an error may have taken us out of the last wait while we were idle */
	while (!undeclare())
	{
		await_decision();
		if (take_assignment())
			return;
	}

	declare(reason == PW_PIN_NONE ? PW_SLOT_IDLE : PW_SLOT_PINNED, reason);
	for (;;)
	{
		bool		keeping = is_keeping(reason);
		WaitEventSet *set = keeping ? PwSelf.home_set : FeBeWaitSet;
		WaitEvent	event;

		if (take_assignment())
			return;
		if (pw_clock_passed() != PW_NO_LIMIT || (reason == PW_PIN_INPUT && !keeping))
		{
			if (undeclare())
				return;
			await_decision();
			continue;
		}
		if (reason == PW_PIN_NONE && pw_slot_is_ending(PwSelf.slot, PwSelf.pool))
		{
			if (undeclare())
				end_slot();
			await_decision();
			continue;
		}
		ModifyWaitEvent(set, FeBeWaitSetSocketPos, WL_SOCKET_READABLE, NULL);
		if (WaitEventSetWait(set, is_worker_unaware() ? UNAWARE_MS : -1,
							 &event, 1, WAIT_EVENT_CLIENT_READ) == 0)
		{
			tell_worker();
			continue;
		}

		if (event.events & WL_POSTMASTER_DEATH)
			proc_exit(1);
		if (event.events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			service_interrupts(reason == PW_PIN_NONE);
			pw_check_worker();
			pw_answer_worker();
			if (PwSelf.client == PW_NONE)
				pw_descriptors_drop_departed();
			continue;
		}
		if (PwSelf.client == PW_NONE || keeping)
		{
			/* from the worker: a descriptor, or the end */
			if (!pw_descriptors_receive())
			{
				pw_check_worker();
				pw_retire();
			}
			continue;
		}
		if (undeclare())
			return;
		await_decision();
	}
}

/*
 * Do we keep a client from which nothing is to be read?
 */
static bool
is_keeping(PwPinReason reason)
{
	return reason != PW_PIN_NONE && PwSelf.client != PW_NONE && pw_is_held();
}

/*
 * Is there a client of ours that has left, and the worker may not know?
 */
static bool
is_worker_unaware(void)
{
	if (PwSelf.worker_unaware && !pw_client_has_leavers())
		PwSelf.worker_unaware = false;
	return PwSelf.worker_unaware;
}

/*
 * The worker closes clients that have left when it wakes for whatever reason.
 * There was none for a while, so give it one.
 */
static void
tell_worker(void)
{
	PwSelf.worker_unaware = false;
	if (pw_client_has_leavers())
		pw_wake_worker();
}

/*
 * Say what we do while we sleep.
 *
 * The exchange is a full barrier between telling that we are idle and looking
 * whether the worker watches the queue; see the header of dispatch.c.
 */
static void
declare(PwSlotActivity activity, PwPinReason reason)
{
	PwSelf.slot->state_since = GetCurrentTimestamp();
	pw_note_pin(reason);
	if (PwSelf.client != PW_NONE)
	{
		PwShmClient *client = &PwClients[PwSelf.client];

		client->state_since = PwSelf.slot->state_since;
		strlcpy(client->application_name, application_name, NAMEDATALEN);
	}
	else
		pw_identity_show_nobody();
	pw_count_active(activity == PW_SLOT_PINNED);

	/* a slot has no session that could be idle for too long */
	if (activity == PW_SLOT_IDLE &&
		get_timeout_active(IDLE_SESSION_TIMEOUT))
		disable_timeout(IDLE_SESSION_TIMEOUT, false);

	/* under debug_always_switch the worker may count on us to be idle soon */
	(void) pg_atomic_exchange_u32(&PwSelf.slot->activity, activity);
	if (((activity == PW_SLOT_IDLE || pw_debug_always_switch) &&
		 !is_queue_watched()) ||
		pw_pool_service(PwSelf.pool) != PW_SERVICE_OPEN)
	{
		pg_atomic_write_u32(&PwSelf.pool->poked, 1);
		pw_wake_worker();
	}
}

/*
 * Does the worker look at all of the queue that we could serve?
 */
static bool
is_queue_watched(void)
{
	uint32		serves = pw_slot_serves(PwSelf.slot, PwSelf.pool);

	return (pg_atomic_read_u32(&PwSelf.pool->watched) & serves) == serves;
}

/*
 * A pin begins when the client begins to keep its slot, and goes on while there
 * is any reason to, not always the same.  What pins its session keeps counting
 * while a transaction is open, for it will still be there afterwards.
 */
void
pw_note_pin(PwPinReason reason)
{
	PwShmClient *client;

	if (reason == PW_PIN_SESSION_MODE || reason == PW_PIN_INPUT)
		PwSelf.slot->session_pin = PW_PIN_NONE;
	else if (reason != PW_PIN_TRANSACTION)
		PwSelf.slot->session_pin = reason;
	PwSelf.slot->pin_reason = reason;
	if (PwSelf.client == PW_NONE)
		return;

	client = &PwClients[PwSelf.client];
	if (client->pin_reason == reason)
		return;
	client->pin_reason = reason;
	if (reason == PW_PIN_NONE)
		client->pinned_since = 0;
	else if (client->pinned_since == 0)
		client->pinned_since = GetCurrentTimestamp();
}

/*
 * We are busy again, unless the worker has claimed us for another client.
 */
static bool
undeclare(void)
{
	uint32		activity = PW_SLOT_IDLE;

	/* on failure this tells what it is instead, which only we can change */
	if (!pg_atomic_compare_exchange_u32(&PwSelf.slot->activity, &activity, PW_SLOT_BUSY))
	{
		if (activity == PW_SLOT_CLAIMED || activity == PW_SLOT_ASSIGNED)
			return false;
		pg_atomic_write_u32(&PwSelf.slot->activity, PW_SLOT_BUSY);
	}
	pw_count_active(true);
	return true;
}

/*
 * If the worker has decided what we do next, do that.  True if we have another
 * client now, or none.
 */
static bool
take_assignment(void)
{
	int			next;

	if (pg_atomic_read_u32(&PwSelf.slot->activity) != PW_SLOT_ASSIGNED)
		return false;
	pg_read_barrier();
	next = PwSelf.slot->assigned;
	pg_atomic_write_u32(&PwSelf.slot->activity, PW_SLOT_BUSY);
	pw_count_active(true);

	if (next == PW_NONE)
	{
		/* if we were asleep for long it may have been taken from us */
		if (PwSelf.client != PW_NONE && pw_client_is_ours())
			pw_park_client(0);
		pw_retire();
	}
	if (PwSelf.client != PW_NONE)
		pw_park_client(0);
	(void) pw_attach_client(next);
	return true;
}

/*
 * The worker has claimed us while our client became ready.  It decides at once
 * and then sets our latch, seeing that we wait; our socket would not let us
 * sleep.
 */
static void
await_decision(void)
{
	/*
	 * a full barrier before we look again; pw_pool_release() has its
	 * counterpart
	 */
	(void) pg_atomic_exchange_u32(&PwSelf.slot->contended, 1);
	while (pg_atomic_read_u32(&PwSelf.slot->activity) == PW_SLOT_CLAIMED)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 100, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		service_interrupts(false);
	}
}

/*
 * Do what an idle backend does when its latch is set.
 */
static void
service_interrupts(bool may_park)
{
	/* we are to end, and our client need not notice */
	if (may_park && PwSelf.client != PW_NONE && pw_may_be_ending())
		pw_park_client(0);

	/*
	 * There is nothing to cancel while we wait, but for a transaction that is
	 * in the way of recovery.
	 */
	pw_heed_recovery();
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();

	if (IdleStatsUpdateTimeoutPending && !IsTransactionOrTransactionBlock())
	{
		/* left to the command loop, which we are not in */
		IdleStatsUpdateTimeoutPending = false;
		(void) pgstat_report_stat(true);
	}
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	if (notifyInterruptPending)
		ProcessNotifyInterrupt(true);
	if (ConfigReloadPending && PwSelf.transaction_status == 'I')
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	MemoryContextSwitchTo(PwSelf.turn_context);
}

/*
 * On a standby, a transaction can be in the way of recovery.  PostgreSQL then
 * cancels a statement, and ends the connection if it waits for its client; but
 * that it does so is known to postgres.c alone, which does not know that we
 * wait.  So we let it cancel, and make of its error what the server would say.
 *
 * Outside of a transaction nothing is in the way any more, and a conflict that
 * came too late must not be taken for the next client's.
 */
void
pw_heed_recovery(void)
{
	uint32		holdoff = QueryCancelHoldoffCount;
	MemoryContext oldcontext = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	if (!InterruptPending || ProcDiePending || !RecoveryInProgress())
		return;
	PG_TRY();
	{
		QueryCancelHoldoffCount = 0;
		CHECK_FOR_INTERRUPTS();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	QueryCancelHoldoffCount = holdoff;

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE &&
		PwSelf.transaction_status != 'I')
		ereport(FATAL,
				(errcode(error->sqlerrcode),
				 errmsg("terminating connection due to conflict with recovery"),
				 errdetail_internal("%s", error->detail),
				 errhint("In a moment you should be able to reconnect to the database and repeat your command.")));
	FreeErrorData(error);
}

/*
 * End if there is nothing left to serve.
 */
void
pw_check_worker(void)
{
	if (PwControl->worker_generation == PwSelf.worker_generation && PwControl->worker_pid != 0)
		return;
	if (PwSelf.transaction_status != 'I')
		return;
	if (PwSelf.client == PW_NONE)
		proc_exit(0);

	/* if it is the server that stops, it has its own words for it */
	CHECK_FOR_INTERRUPTS();
	ereport(FATAL,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("terminating connection because the connection pool was restarted")));
}

bool
pw_is_held(void)
{
	if (PwSelf.transaction_status != 'I')
		return false;
	pg_memory_barrier();
	return pw_pool_service(PwSelf.pool) != PW_SERVICE_OPEN;
}

/*
 * If the worker asks how we are, answer: see slot_life.c.
 */
void
pw_answer_worker(void)
{
	PwShmSlot  *slot = PwSelf.slot;
	uint32		asked = pg_atomic_read_u32(&slot->asked);

	if (pg_atomic_read_u32(&slot->answered) == asked)
		return;
	slot->memory = MemoryContextMemAllocated(TopMemoryContext, true);
	slot->is_worn = pw_placeholders_are_many();
	pg_write_barrier();
	pg_atomic_write_u32(&slot->answered, asked);
}

/*
 * End if our role or database has changed, or the worker wants us, or any slot
 * of our pool, to; our client does not notice.
 *
 * The worker first says so, then sets our latch; we first say that we are idle,
 * then look.
 */
void
pw_check_ending(void)
{
	if (pw_slot_is_ending(PwSelf.slot, PwSelf.pool) || must_yield())
		end_slot();
}

/*
 * Is this slot to end, because another pool is entitled to the room?  Whichever
 * of the pool's slots asks first is the one; it need not be asked twice.
 */
static bool
must_yield(void)
{
	uint32		count = pg_atomic_read_u32(&PwSelf.pool->yield);

	while (count > 0 && !PwSelf.slot->reserve)
	{
		if (!pg_atomic_compare_exchange_u32(&PwSelf.pool->yield, &count, count - 1))
			continue;
		PwSelf.slot->retire_reason = PW_RETIRE_YIELDS;
		PwSelf.slot->leaving = true;
		return true;
	}
	return false;
}

static void
end_slot(void)
{
	if (PwSelf.client != PW_NONE)
		pw_park_client(0);
	pw_retire();
}

/*
 * Say, once, that we have found work.
 */
void
pw_tell_growth(void)
{
	static bool told = false;

	if (told)
		return;
	told = true;
	pg_atomic_write_u32(&PwSelf.pool->poked, 1);
	pw_wake_worker();
}

/*
 * So many of the pool's slots are active that the worker wants to know.  It
 * sets the next mark when it has seen to that.
 */
static void
raise_alarm(void)
{
	pg_atomic_write_u32(&PwSelf.pool->alarm_at, PG_UINT32_MAX);
	pg_atomic_write_u32(&PwSelf.pool->poked, 1);
	pw_wake_worker();
}

/* Count ourselves in pool->active, or no longer. */
void
pw_count_active(bool active)
{
	uint32		count;
	uint32		peak;

	if (active == counted_active)
		return;
	counted_active = active;
	if (!active)
	{
		pg_atomic_fetch_sub_u32(&PwSelf.pool->active, 1);
		return;
	}
	count = pg_atomic_fetch_add_u32(&PwSelf.pool->active, 1) + 1;
	if (count >= pg_atomic_read_u32(&PwSelf.pool->alarm_at))
		raise_alarm();
	peak = pg_atomic_read_u32(&PwSelf.pool->peak_active);
	while (count > peak &&
		   !pg_atomic_compare_exchange_u32(&PwSelf.pool->peak_active, &peak, count))
		 /* somebody else raised it; "peak" is the new one */ ;
}
