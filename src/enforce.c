/*-------------------------------------------------------------------------
 *
 * enforce.c
 *	  The time limits of the pool's clients, whatever their sessions set.
 *
 * Runs in: pool worker.
 *
 * Slots write down when each command begins and ends (command_clock.c).  We
 * look at all of them from time to time, and say so in the command word of a
 * slot for which a limit has passed; what that word means is in time_limits.h.
 * Clients that are parked have no slot to tell, so we close them ourselves.
 *
 * When to look
 * ------------
 *
 * There is no timer for each statement.  We look when the first of the limits
 * passes that we saw running when we looked last, and not later than the
 * smallest limit of all from now: what begins after we have looked cannot be
 * over it before.  So with a limit of 30 s we look about every 30 s, however
 * many statements there are.
 *
 * Who does not heed
 * -----------------
 *
 * A cancel is an error that SQL can catch, and a backend that waits for its
 * client in the middle of a command does not see it.  So the cancel is
 * repeated, and who has not ended the command after a while is terminated.
 * One that has raised the error gets more time to end: it may have much to
 * roll back.  Then its client does not read the error, or owes it a Sync.
 * Terminating a backend costs the slot, and the pool opens another.
 *
 * A client that has stopped in the middle of a command is found, and its slot
 * got out of its wait, by stalled_clients.c.  For that we look more often.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/socket.h>

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "client.h"
#include "enforce.h"
#include "enforce_direct.h"
#include "event_loop.h"
#include "pool_settings.h"
#include "shared_state.h"
#include "slot.h"
#include "stalled_clients.h"
#include "time_limits.h"

/* The least time between two looks at the slots, and at parked clients, ms. */
#define SLOTS_PERIOD_MS 10
#define CLIENTS_PERIOD_MS 40

/*
 * After so long a signal is repeated, and a backend terminated that does not
 * heed it, or has been cancelled and does not come to an end, ms.
 */
#define REPEAT_MS 200
#define PATIENCE_MS 5000
#define LONG_PATIENCE_MS 30000

/* "never", as a deadline */
#define NEVER DT_NOEND

/* What we have done about the command, or the pause, that a slot is in. */
typedef struct PwMeasure
{
	uint64		serial;			/* of the command word */
	bool		running;
	TimestampTz first_at;		/* when we told the slot */
	TimestampTz next_at;		/* when to tell it once more */
} PwMeasure;

static PwMeasure *measures = NULL;
static PwTimer slots_timer;
static PwTimer clients_timer;

static void look_at_slots(void *arg);
static void look_at_clients(void *arg);
static void look_failed(void *arg);
static void arm(PwTimer *timer, PwFn fn, TimestampTz at, int period_ms);
static TimestampTz look_at_slot(int index);
static bool is_cut_short(int limit);
static PwTimeLimit first_limit(const PwShmSlot *slot, const PwShmClient *client,
							   uint64 word, TimestampTz *deadline);
static void consider(PwTimeLimit limit, TimestampTz since, const PwShmSlot *slot,
					 PwTimeLimit *first, TimestampTz *deadline);
static TimestampTz idle_since(const PwShmClient *client, const PwShmPool *pool);
static bool is_waiting_for_client(const PwShmSlot *slot);
static TimestampTz tell(int index, uint64 word, PwTimeLimit limit);
static TimestampTz insist(int index, uint64 word);
static void note_condemned(int index, PwTimeLimit limit);
static bool change_word(int index, uint64 word, uint64 new_word, int signal_number);
static TimestampTz next_look(void);
static TimestampTz smallest_limit(PwTimeLimit from, PwTimeLimit to, int parts);
static TimestampTz look_at_client(int client);
static void end_parked_client(int client, PwShmPool *pool);

void
pw_enforce_init(void)
{
	measures = MemoryContextAllocZero(TopMemoryContext,
									  sizeof(PwMeasure) * PwControl->max_slots);
	pw_stalled_init();
	pw_enforce_reschedule();
}

void
pw_enforce_reschedule(void)
{
	arm(&slots_timer, look_at_slots, pw_loop_now(), 0);
	arm(&clients_timer, look_at_clients, pw_loop_now(), 0);
	pw_enforce_direct_start();
}

/*
 * If the command word is the same in the end as it was in the beginning, what we
 * have read in between is of one and the same client and command.
 */
void
pw_enforce_end(int client, bool even_in_transaction)
{
	uint64		owner = pg_atomic_read_u64(&PwClients[client].word);
	int			index = PW_WORD_SLOT(owner);
	PwShmSlot  *slot;
	uint64		word;
	TimestampTz next;

	if (PW_WORD_STATE(owner) != PW_CLIENT_ATTACHED)
		return;
	slot = &PwSlots[index];
	word = pg_atomic_read_u64(&slot->command);
	pg_read_barrier();
	if (slot->client != client || is_cut_short(pw_command_limit(word)))
		return;
	if (!even_in_transaction &&
		((word & PW_COMMAND_RUNNING) != 0 || slot->transaction_at != 0))
		return;

	next = tell(index, word, PW_LIMIT_ADMINISTRATOR);
	if (slots_timer.expires_at == 0 || slots_timer.expires_at > next)
		arm(&slots_timer, look_at_slots, next, 0);
}

/*
 * Timer callback: looking has raised an error, which it should not.  The timer
 * has been armed before that.
 */
static void
look_failed(void *arg)
{
}

/*
 * Look again at this time, but not too soon.
 */
static void
arm(PwTimer *timer, PwFn fn, TimestampTz at, int period_ms)
{
	TimestampTz earliest = TimestampTzPlusMilliseconds(pw_loop_now(), period_ms);

	if (at == NEVER)
		pw_timer_disarm(timer);
	else
		pw_timer_arm(timer, Max(at, earliest), fn, look_failed, NULL);
}

/* Timer callback: it is time to look at the slots. */
static void
look_at_slots(void *arg)
{
	TimestampTz next = next_look();

	arm(&slots_timer, look_at_slots, next, SLOTS_PERIOD_MS);
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		TimestampTz again = look_at_slot(i);

		next = Min(next, again);
	}
	arm(&slots_timer, look_at_slots, next, SLOTS_PERIOD_MS);
}

/* Timer callback: it is time to look at parked clients. */
static void
look_at_clients(void *arg)
{
	TimestampTz next = smallest_limit(PW_LIMIT_CLIENT_IDLE, PW_LIMIT_CLIENT_IDLE + 1, 1);

	arm(&clients_timer, look_at_clients, next, CLIENTS_PERIOD_MS);
	if (next == NEVER)
		return;
	for (int i = 0; i < PwControl->max_clients; i++)
	{
		TimestampTz again = look_at_client(i);

		next = Min(next, again);
	}
	arm(&clients_timer, look_at_clients, next, CLIENTS_PERIOD_MS);
}

/*
 * If a limit has passed for a slot, see to it.  Returns when to look again.
 */
static TimestampTz
look_at_slot(int index)
{
	PwShmSlot  *slot = &PwSlots[index];
	uint64		word = pg_atomic_read_u64(&slot->command);
	TimestampTz deadline = NEVER;
	PwTimeLimit limit;
	int			client;

	pg_read_barrier();
	client = slot->client;
	if (slot->pool == PW_NONE || client == PW_NONE || !slot->alive)
		return NEVER;
	if (is_cut_short(pw_command_limit(word)))
		return insist(index, word);
	limit = first_limit(slot, &PwClients[client], word, &deadline);
	if (deadline > pw_loop_now())
		return deadline;
	return pw_command_limit(word) == limit ? insist(index, word) : tell(index, word, limit);
}

/*
 * Has this ended a client, so that no other limit matters to it any more?
 */
static bool
is_cut_short(int limit)
{
	return limit == PW_LIMIT_ADMINISTRATOR || limit == PW_LIMIT_CLIENT_MESSAGE;
}

/*
 * The first limit that passes for what a slot is doing, and when.
 *
 * A slot that has just been given a client, or lets go of one, is neither
 * running a command nor waiting for the next.  We will look again.
 */
static PwTimeLimit
first_limit(const PwShmSlot *slot, const PwShmClient *client, uint64 word,
			TimestampTz *deadline)
{
	PwTimeLimit first = PW_NO_LIMIT;
	TimestampTz transaction_at = slot->transaction_at;
	TimestampTz stalled_since = 0;

	if (PwPools[slot->pool].settings.client_message_timeout > 0)
		stalled_since = pw_stalled_since(slot - PwSlots, word);
	if (stalled_since != 0)
		consider(PW_LIMIT_CLIENT_MESSAGE, stalled_since, slot, &first, deadline);

	/* who begins a transaction has said before that it does not wait */
	pg_read_barrier();
	if (transaction_at != 0)
		consider(PW_LIMIT_TRANSACTION, transaction_at, slot, &first, deadline);

	if ((word & PW_COMMAND_RUNNING) != 0)
		consider(PW_LIMIT_STATEMENT, slot->command_at, slot, &first, deadline);
	else if (!is_waiting_for_client(slot))
		*deadline = Min(*deadline,
						TimestampTzPlusMilliseconds(pw_loop_now(), SLOTS_PERIOD_MS));
	else if (transaction_at != 0)
		consider(PW_LIMIT_IDLE_IN_TRANSACTION, slot->answered_at, slot, &first, deadline);
	else if (pw_pool_service(&PwPools[slot->pool]) == PW_SERVICE_OPEN)
		consider(PW_LIMIT_CLIENT_IDLE, idle_since(client, &PwPools[slot->pool]),
				 slot, &first, deadline);
	return first;
}

static void
consider(PwTimeLimit limit, TimestampTz since, const PwShmSlot *slot,
		 PwTimeLimit *first, TimestampTz *deadline)
{
	int			ms = pw_time_limit_ms(&PwPools[slot->pool].settings, limit);
	TimestampTz at = TimestampTzPlusMilliseconds(since, ms);

	if (ms <= 0 || at >= *deadline)
		return;
	*first = limit;
	*deadline = at;
}

/*
 * While its pool is not OPEN nobody is idle, for nobody would be served.
 */
static TimestampTz
idle_since(const PwShmClient *client, const PwShmPool *pool)
{
	return Max(client->idle_since, pool->service_since);
}

static bool
is_waiting_for_client(const PwShmSlot *slot)
{
	uint32		activity = pg_atomic_read_u32((pg_atomic_uint32 *) &slot->activity);

	return activity == PW_SLOT_IDLE || activity == PW_SLOT_PINNED;
}

/*
 * Tell a slot that a limit has passed.  Returns when to look again.
 */
static TimestampTz
tell(int index, uint64 word, PwTimeLimit limit)
{
	PwMeasure  *measure = &measures[index];
	uint64		new_word = pw_command_with_limit(word, limit) & ~PW_COMMAND_HEEDED;

	/* if that fails it is doing something else by now */
	if (!change_word(index, word, new_word, SIGINT))
		return pw_loop_now();
	measure->serial = word >> PW_COMMAND_SERIAL_SHIFT;
	measure->running = (word & PW_COMMAND_RUNNING) != 0;
	measure->first_at = pw_loop_now();
	measure->next_at = TimestampTzPlusMilliseconds(pw_loop_now(), REPEAT_MS);
	return measure->next_at;
}

/*
 * A slot has been told, by us or by an earlier worker, and has not got there
 * yet.  Tell it again, or lose patience.  Returns when to look again.
 */
static TimestampTz
insist(int index, uint64 word)
{
	PwMeasure  *measure = &measures[index];
	bool		running = (word & PW_COMMAND_RUNNING) != 0;
	bool		heeded = (word & PW_COMMAND_HEEDED) != 0;
	int			patience = heeded && !pw_time_limits[pw_command_limit(word)].ends_client ?
	LONG_PATIENCE_MS : PATIENCE_MS;

	if (measure->serial != word >> PW_COMMAND_SERIAL_SHIFT || measure->running != running)
		return tell(index, word, pw_command_limit(word));
	if (measure->next_at > pw_loop_now())
		return measure->next_at;
	measure->next_at = TimestampTzPlusMilliseconds(pw_loop_now(), REPEAT_MS);

	if (running &&
		pw_loop_now() >= TimestampTzPlusMilliseconds(measure->first_at, patience))
	{
		if ((word & PW_COMMAND_CONDEMNED) == 0 &&
			change_word(index, word, word | PW_COMMAND_CONDEMNED, SIGTERM))
			note_condemned(index, pw_command_limit(word));
	}
	else if (!heeded)
		(void) change_word(index, word, word, SIGINT);
	return measure->next_at;
}

static void
note_condemned(int index, PwTimeLimit limit)
{
	pg_atomic_fetch_add_u64(&PwPools[PwSlots[index].pool].enforced[limit], 1);
	ereport(LOG,
			(errmsg("pool slot %d does not heed %s, terminating process %d",
					index, pw_time_limits[limit].name, PwSlots[index].pid)));
}

/*
 * Change a slot's command word and make its backend look at it: by a signal if
 * it runs a command, else by its latch.  False if the word has become another.
 */
static bool
change_word(int index, uint64 word, uint64 new_word, int signal_number)
{
	PwShmSlot  *slot = &PwSlots[index];
	bool		running = (word & PW_COMMAND_RUNNING) != 0;
	bool		changed = false;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	if (slot->client != PW_NONE && slot->alive)
		changed = pg_atomic_compare_exchange_u64(&slot->command, &word, new_word);
	if (changed && running)
		pw_slot_signal(index, signal_number);
	if (changed && pw_command_limit(new_word) == PW_LIMIT_CLIENT_MESSAGE)
		pw_stalled_end(index, new_word);
	LWLockRelease(&slot->lock);

	if (changed && !running)
		pw_wake_slot(index);
	return changed;
}

/*
 * When to look at the slots again, whatever they are doing.
 */
static TimestampTz
next_look(void)
{
	TimestampTz limits = smallest_limit(0, PW_LIMIT_CLIENT_MESSAGE, 1);
	TimestampTz stalled = smallest_limit(PW_LIMIT_CLIENT_MESSAGE, PW_NLIMITS,
										 PW_STALLED_LOOKS);

	return Min(limits, stalled);
}

/*
 * The earliest time at which one of these limits can pass for something that
 * begins now, or so large a part of it.
 */
static TimestampTz
smallest_limit(PwTimeLimit from, PwTimeLimit to, int parts)
{
	int			smallest = 0;

	for (int i = 0; i < PwControl->max_pools; i++)
	{
		if (!PwPools[i].in_use)
			continue;
		for (int limit = from; limit < to; limit++)
		{
			int			ms = pw_time_limit_ms(&PwPools[i].settings, limit);

			if (ms > 0 && (smallest == 0 || ms < smallest))
				smallest = ms;
		}
	}
	return smallest == 0 ? NEVER :
		TimestampTzPlusMilliseconds(pw_loop_now(), Max(smallest / parts, 1));
}

/*
 * If a client is parked and has been idle for too long, end it.  Returns when
 * to look again.
 */
static TimestampTz
look_at_client(int client)
{
	PwShmClient *shared = &PwClients[client];
	uint64		word = pg_atomic_read_u64(&shared->word);
	PwShmPool  *pool;
	TimestampTz deadline;
	char		byte;
	int			ms;

	if (PW_WORD_STATE(word) != PW_CLIENT_PARKED || !shared->said_hello)
		return NEVER;
	pool = &PwPools[shared->pool];
	ms = pw_time_limit_ms(&pool->settings, PW_LIMIT_CLIENT_IDLE);
	if (ms <= 0 || pw_pool_service(pool) != PW_SERVICE_OPEN)
		return NEVER;
	deadline = TimestampTzPlusMilliseconds(idle_since(shared, pool), ms);
	if (deadline > pw_loop_now())
		return deadline;

	/* who has said something is waiting, or leaves */
	if (recv(pw_client_fd(client), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
		(errno == EAGAIN || errno == EWOULDBLOCK))
		end_parked_client(client, pool);
	return TimestampTzPlusMilliseconds(pw_loop_now(), REPEAT_MS);
}

/*
 * XXX A slot may take the client, answer it and park it again between our look
 * at its time and this; then a client is ended that was not idle just now.
 */
static void
end_parked_client(int client, PwShmPool *pool)
{
	const PwTimeLimitInfo *limit = &pw_time_limits[PW_LIMIT_CLIENT_IDLE];
	PwReport	report = {.sqlstate = limit->sqlstate,
	.message = psprintf(PW_END_WORDS, limit->name)};
	char	   *address = pstrdup(PwClients[client].remote_host);
	uint64		id = PwClients[client].id;

	if (!pw_client_refuse(client, &report))
		return;
	pg_atomic_fetch_add_u64(&pool->enforced[PW_LIMIT_CLIENT_IDLE], 1);
	ereport(LOG,
			(errcode(limit->sqlstate),
			 errmsg("pool client " UINT64_FORMAT ": %s", id, report.message),
			 errdetail("Database \"%s\", role \"%s\", address %s.",
					   NameStr(pool->database), NameStr(pool->role), address)));
}
