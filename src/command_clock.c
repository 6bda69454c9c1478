/*-------------------------------------------------------------------------
 *
 * command_clock.c
 *	  When a slot's commands begin and end, and what comes of a time limit
 *	  that has passed for one.
 *
 * Runs in: slots.
 *
 * A command is what the client sends up to the ReadyForQuery that answers it:
 * a simple query, or everything up to Sync.  It begins when it has begun to
 * arrive and the slot is about to read it; what the client waits for a slot
 * does not count.
 *
 * The worker watches the clock; all that we do for it is to write down two
 * times for each command.  When a limit has passed it says so in the slot's
 * command word, see time_limits.h, and sends a cancel to a backend that is
 * running a command, or sets the latch of one that sleeps.
 *
 * A cancelled statement
 * ---------------------
 *
 * For PostgreSQL this is a cancel request like any other.  An error context
 * callback, which runs before anybody sees the error, replaces the words.  It
 * is the outermost one, below everything that PostgresMain() calls.
 *
 * If it is the transaction's time that is over, the client is told so with a
 * FATAL error in place of that ERROR.  What the backend sends after that goes
 * nowhere, and in our turn the client leaves.
 *
 * A stalled client
 * ----------------
 *
 * While it reads a command PostgreSQL ignores cancels, so the worker sends
 * another interrupt, see stalled_clients.c, and a hook makes an error of that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "command_clock.h"
#include "lost_client.h"
#include "protocol.h"
#include "shared_state.h"
#include "slot_self.h"
#include "time_limits.h"

static uint64 next_serial(uint64 word);
static void await_signals(void);
static void log_if_slow(TimestampTz now);
static void explain_error(void *arg);
static void watch_log(ErrorData *edata);
static bool has_stalled(uint64 word);

/* The next command is the first since the client was attached. */
static bool is_first = false;

/* How long the client has waited for a slot with the running one, usecs. */
static int64 waited = 0;

/* The outermost error context; see the file header. */
static ErrorContextCallback error_context = {.callback = explain_error};

static emit_log_hook_type prev_emit_log = NULL;

void
pw_clock_init(void)
{
	prev_emit_log = emit_log_hook;
	emit_log_hook = watch_log;
}

void
pw_clock_switch(int client)
{
	PwShmSlot  *slot = PwSelf.slot;
	uint64		word = pg_atomic_read_u64(&slot->command);

	slot->transaction_at = 0;
	slot->copying = false;
	pg_atomic_write_u64(&slot->command, PW_COMMAND_IDLE(next_serial(word)));

	is_first = true;

	/* one that has never been greeted has been waiting, not idle */
	if (client != PW_NONE && !PwClients[client].said_hello)
		PwClients[client].idle_since = GetCurrentTimestamp();
}

static uint64
next_serial(uint64 word)
{
	return (word >> PW_COMMAND_SERIAL_SHIFT) + 1;
}

bool
pw_clock_begin(void)
{
	PwShmSlot  *slot = PwSelf.slot;
	uint64		word = pg_atomic_read_u64(&slot->command);

	/* first our activity, then the times: see first_limit() in enforce.c */
	pg_write_barrier();
	slot->command_at = GetCurrentTimestamp();
	if (slot->transaction_at == 0)
		slot->transaction_at = slot->command_at;
	waited = is_first ? PwClients[PwSelf.client].last_wait : 0;
	is_first = false;
	return pw_command_limit(word) == PW_NO_LIMIT &&
		pg_atomic_compare_exchange_u64(&slot->command, &word,
									   PW_COMMAND_IDLE(next_serial(word)) | PW_COMMAND_RUNNING);
}

int
pw_clock_end(void)
{
	PwShmSlot  *slot = PwSelf.slot;
	uint64		word = pg_atomic_read_u64(&slot->command);
	TimestampTz now;
	int			limit;

	/* only we change what is tested here */
	if ((word & PW_COMMAND_RUNNING) == 0)
		return has_stalled(word) ? PW_LIMIT_CLIENT_MESSAGE : PW_NO_LIMIT;

	now = GetCurrentTimestamp();
	slot->answered_at = PwClients[PwSelf.client].idle_since = now;
	if (PwSelf.transaction_status == 'I')
		slot->transaction_at = 0;
	word = pg_atomic_exchange_u64(&slot->command,
								  PW_COMMAND_IDLE(word >> PW_COMMAND_SERIAL_SHIFT));
	log_if_slow(now);

	limit = pw_command_limit(word);
	if (limit == PW_NO_LIMIT)
		return PW_NO_LIMIT;
	await_signals();

	/* it may have been answered just in time, but for one who is cut off */
	if ((word & PW_COMMAND_HEEDED) == 0 &&
		limit != PW_LIMIT_ADMINISTRATOR && !has_stalled(word) &&
		(!pw_time_limits[limit].ends_client || PwSelf.transaction_status == 'I'))
		return PW_NO_LIMIT;
	if (pw_time_limits[limit].ends_client)
		return limit;
	pg_atomic_fetch_add_u64(&PwSelf.pool->enforced[limit], 1);
	return PW_NO_LIMIT;
}

/*
 * Wait until every signal has arrived that the worker sends because of the
 * command that has just ended.
 *
 * It sends them while it holds our lock, and after that only if the command
 * word is still the one that has been replaced.  A signal that is pending
 * arrives at the latest when a system call returns.
 */
static void
await_signals(void)
{
	LWLockAcquire(&PwSelf.slot->lock, LW_SHARED);
	LWLockRelease(&PwSelf.slot->lock);
	(void) kill(MyProcPid, 0);
	QueryCancelPending = false;
	LogMemoryContextPending = false;
}

int
pw_clock_passed(void)
{
	return pw_command_limit(pg_atomic_read_u64(&PwSelf.slot->command));
}

void
pw_clock_error(void)
{
	PwShmSlot  *slot = PwSelf.slot;
	uint64		word;
	int			limit;

	if (slot == NULL || PwSelf.client == PW_NONE)
		return;
	word = pg_atomic_read_u64(&slot->command);
	limit = pw_command_limit(word);
	if (limit == PW_NO_LIMIT || (word & PW_COMMAND_RUNNING) == 0)
		return;

	pg_atomic_fetch_or_u64(&slot->command, PW_COMMAND_HEEDED);
	if (!pw_time_limits[limit].ends_client || (word & PW_COMMAND_CONDEMNED) != 0)
		return;
	pw_clock_tell(limit, true);
	PwSelf.discarding = true;
}

void
pw_clock_lost(void)
{
	if (!has_stalled(pg_atomic_read_u64(&PwSelf.slot->command)))
		return;
	pg_atomic_fetch_or_u64(&PwSelf.slot->command, PW_COMMAND_HEEDED);
	if (!pw_client_is_deaf())
		pw_clock_tell(PW_LIMIT_CLIENT_MESSAGE, false);
}

static bool
has_stalled(uint64 word)
{
	return pw_command_limit(word) == PW_LIMIT_CLIENT_MESSAGE;
}

void
pw_clock_copying(bool copying)
{
	if (PwSelf.slot != NULL)
		PwSelf.slot->copying = copying;
}

/*
 * The message is made in protocol.c and not by ereport(), which would end the
 * backend.
 */
void
pw_clock_tell(int limit, bool wait)
{
	char		message[128];
	PwReport	report = {.sqlstate = pw_time_limits[limit].sqlstate,.message = message};
	StringInfoData error;

	snprintf(message, sizeof(message), PW_END_WORDS, pw_time_limits[limit].name);
	initStringInfo(&error);
	pw_build_error(&error, "FATAL", &report);
	(void) PwSelf.core_methods->putmessage(error.data[0], error.data + 5, error.len - 5);
	if (wait)
		(void) PwSelf.core_methods->flush();
	else
		(void) PwSelf.core_methods->flush_if_writable();
	pfree(error.data);
}

/*
 * Log the command that has just been answered, if it took so long.  The client
 * is still attached, so the prefix of the line says who it is as well.
 */
static void
log_if_slow(TimestampTz now)
{
	int			threshold = PwSelf.pool->settings.log_min_duration;
	PwShmClient *client = &PwClients[PwSelf.client];
	TimestampTz took = now - PwSelf.slot->command_at;

	if (threshold < 0 || took < (TimestampTz) threshold * 1000)
		return;
	ereport(LOG_SERVER_ONLY,
			(errmsg("pool client " UINT64_FORMAT ": duration: %.3f ms  wait: %.3f ms  statement: %s",
					client->id, took / 1000.0, waited / 1000.0,
					MyBEEntry ? pgstat_clip_activity(MyBEEntry->st_activity_raw) : ""),
			 errdetail("Database \"%s\", role \"%s\", address %s%s%s, application \"%s\".",
					   NameStr(PwSelf.pool->database), NameStr(PwSelf.pool->role),
					   client->remote_host, client->remote_port[0] ? ":" : "",
					   client->remote_port, application_name),
			 errhidestmt(true)));
}

void
pw_clock_explain_errors(void)
{
	if (error_context_stack == NULL)
		error_context_stack = &error_context;
}

/*
 * Error context callback: put the name of the limit into the error that it
 * has caused.
 */
static void
explain_error(void *arg)
{
	uint64		word = pg_atomic_read_u64(&PwSelf.slot->command);
	int			limit = pw_command_limit(word);

	if (limit == PW_NO_LIMIT || (word & PW_COMMAND_RUNNING) == 0)
		return;
	if (geterrcode() == ERRCODE_QUERY_CANCELED)
		errmsg(PW_CANCEL_WORDS, pw_time_limits[limit].name);
	else if (geterrcode() == ERRCODE_ADMIN_SHUTDOWN && (word & PW_COMMAND_CONDEMNED) != 0)
		errmsg(PW_END_WORDS, pw_time_limits[limit].name);
}

/*
 * emit_log_hook: if our client has stalled, the worker has asked for this log
 * message so that we can raise an error where the backend waits.
 *
 * elog.c allows for errors in here.
 */
static void
watch_log(ErrorData *edata)
{
	uint64		word;

	if (prev_emit_log)
		prev_emit_log(edata);
	if (PwSelf.slot == NULL || PwSelf.client == PW_NONE || edata->message_id == NULL ||
		strcmp(edata->message_id, "logging memory contexts of PID %d") != 0)
		return;
	word = pg_atomic_read_u64(&PwSelf.slot->command);

	/* it may have been canceled before that, and be waiting for a Sync now */
	if (!has_stalled(word) || (word & PW_COMMAND_RUNNING) == 0 || pw_client_is_lost())
		return;

	pw_lost_client_give_up();
	ereport(ERROR,
			(errcode(pw_time_limits[PW_LIMIT_CLIENT_MESSAGE].sqlstate),
			 errmsg(PW_END_WORDS, pw_time_limits[PW_LIMIT_CLIENT_MESSAGE].name)));
}
