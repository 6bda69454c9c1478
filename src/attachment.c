/*-------------------------------------------------------------------------
 *
 * attachment.c
 *	  A slot takes a client's socket as its own, and lets go of it.
 *
 * Runs in: slots, during their turn; see handoff.c.
 *
 * Who owns what
 * -------------
 *
 * We own a client from the moment its word says ATTACHED with our number,
 * whether we or the worker have put that there, until we move it on: to PARKED,
 * and it is anybody's, or to LEAVING, and it is the worker's.  Before we attach
 * a client or let go of it, own_word() makes sure that it is ours.
 *
 * What being attached means
 * -------------------------
 *
 * MyProcPort->sock and FeBeWaitSet are the client's, so that PostgreSQL reads,
 * writes and waits there, and output is not thrown away.  slot->client says so
 * to the worker, PwSelf.client to ourselves.  While nobody is attached, socket
 * and set are those of our connection to the worker, and output goes nowhere:
 * nothing may get between the messages of fd_passing.h.
 *
 * slot->client is under slot->lock, which is what makes cancel requests safe:
 * see detach_client().
 *
 * Errors
 * ------
 *
 * Once a client is attached, an error is reported to it.  What is wrong with
 * its startup settings is caught here, because it has to be refused with a
 * FATAL that ends the client and not the backend.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "access/xact.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "attachment.h"
#include "command_clock.h"
#include "descriptors.h"
#include "greeting.h"
#include "identity.h"
#include "login_triggers.h"
#include "lost_client.h"
#include "protocol.h"
#include "session.h"
#include "shared_state.h"
#include "slot_self.h"
#include "startup_settings.h"
#include "tcp_options.h"
#include "time_limits.h"

/* The session is the attached client's, which knows the values of settings. */
static bool session_is_open = false;

static void note_attached(PwShmClient *client);
static void return_client(int client);
static uint64 own_word(int client);
static bool is_own_word(uint64 word);
static void set_slot_client(int client);
static bool open_session(int client);
static void refuse_client(ErrorData *error);
static void tell_orphan(int client);
static void detach_client(void);
static void end_transaction_of_leaver(void);

/*
 * Make a client that we own the backend's client.
 */
bool
pw_attach_client(int client)
{
	uint64		word = own_word(client);
	int			fd = pw_descriptor_get(client, PW_WORD_GENERATION(word));
	WaitEventSet *wait_set;

	if (fd < 0)
	{
		return_client(client);
		return false;
	}
	wait_set = pw_descriptor_wait_set(client);

	/* nothing that was meant for another client */
	Assert(!PwSelf.core_methods->is_send_pending());

	/* from here on an error is this client's */
	PwSelf.client = client;
	session_is_open = false;
	set_slot_client(client);
	MyProcPort->sock = fd;
	FeBeWaitSet = wait_set;
	whereToSendOutput = DestRemote;
	pw_lost_client_watch(true);
	pw_identity_assume(&PwClients[client]);
	pw_tcp_options_assume(&PwClients[client]);
	note_attached(&PwClients[client]);
	return open_session(client);
}

/*
 * Note whom we have attached, and for how long it has waited for that.
 */
static void
note_attached(PwShmClient *client)
{
	PwShmSlot  *slot = PwSelf.slot;
	TimestampTz waiting_since = pw_client_waiting_since(client);

	client->last_slot = PwSelf.index;
	client->hung_up = false;	/* whatever it had said is being read */
	client->state_since = GetCurrentTimestamp();
	client->last_wait = waiting_since == 0 ? 0 : Max(0, client->state_since - waiting_since);
	slot->attaches++;
	slot->wait_time += client->last_wait;
	slot->longest_wait = Max(slot->longest_wait, client->last_wait);
}

/*
 * We own a client that we cannot serve, because the worker goes or is gone: it
 * is for the worker to tell it and to close it, or for the next one to forget.
 */
static void
return_client(int client)
{
	uint64		word = own_word(client);

	(void) pw_client_move(&PwClients[client], word, PW_CLIENT_LEAVING, PW_NONE);
	pw_client_push_leaver(client);
	PwSelf.worker_unaware = true;
}

/*
 * Nobody waits for an answer to a goodbye, so its socket need not be attached
 * to close it.  Whether it was one only the worker can see without asking for
 * the socket.
 */
void
pw_dismiss_client(int client)
{
	PwClients[client].hung_up = true;
	return_client(client);
	pw_wake_worker();
}

/*
 * The word of a client that must be ours.  If it is not, there is nothing that
 * this backend may still touch.
 */
static uint64
own_word(int client)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);

	if (!is_own_word(word))
	{
		whereToSendOutput = DestNone;
		elog(FATAL, "pool slot %d does not own client %d", PwSelf.index, client);
	}
	return word;
}

bool
pw_client_is_ours(void)
{
	return is_own_word(pg_atomic_read_u64(&PwClients[PwSelf.client].word));
}

static bool
is_own_word(uint64 word)
{
	return PW_WORD_STATE(word) == PW_CLIENT_ATTACHED && PW_WORD_SLOT(word) == PwSelf.index;
}

/*
 * Say whom we serve, which is whose cancel requests may reach us.
 */
static void
set_slot_client(int client)
{
	LWLockAcquire(&PwSelf.slot->lock, LW_EXCLUSIVE);
	PwSelf.slot->client = client;
	pw_clock_switch(client);
	LWLockRelease(&PwSelf.slot->lock);
}

/*
 * Make the session the client's, and at its first attach say hello.  What is
 * wrong with its settings is its own fault: it is refused, and the slot goes
 * on.
 */
static bool
open_session(int client)
{
	PwShmClient *shared = &PwClients[client];
	MemoryContext oldcontext = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	if (!pw_session_can_enter(shared))
	{
		pw_park_client(EPOLLOUT);
		pw_retire();
	}

	PwSelf.discarding = true;
	PG_TRY();
	{
		pw_session_enter(shared);
		pw_reported_settle();
	}
	PG_CATCH();
	{
		/* an error lets cancels through again */
		HOLD_CANCEL_INTERRUPTS();
		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		if (pw_startup_settings_are_stuck())
			EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	PwSelf.discarding = false;

	if (pw_startup_settings_are_stuck())
	{
		/* not this client's fault: let another slot have it */
		pw_park_client(EPOLLOUT);
		pw_retire();
	}
	if (error != NULL)
	{
		refuse_client(error);
		return false;
	}
	pw_tcp_options_settle();
	strlcpy(shared->application_name, application_name, NAMEDATALEN);
	if (!shared->said_hello)
	{
		pw_greet(PwSelf.core_methods, shared);
		error = pw_login_triggers_fire();
		if (error != NULL)
		{
			refuse_client(error);
			return false;
		}
		pw_greet_ready(PwSelf.core_methods, shared);
		(void) PwSelf.core_methods->flush();
		pw_lost_client_check();
	}
	else if (pw_report_news(PwSelf.core_methods, shared))
	{
		(void) PwSelf.core_methods->flush();
		pw_lost_client_check();
	}
	session_is_open = true;
	return true;
}

/*
 * A startup setting is bad: the FATAL that the server would send, to this
 * client only.
 */
static void
refuse_client(ErrorData *error)
{
	error->elevel = FATAL;
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("pool client refused: %s", error->message)));
	pw_greet_with_error(PwSelf.core_methods, error);
	(void) PwSelf.core_methods->flush();
	pw_lost_client_check();
	FreeErrorData(error);
	pw_leave_client();
}

/*
 * Put our client back into the queue.
 */
void
pw_park_client(uint32 ready_when)
{
	int			client = PwSelf.client;
	PwShmClient *shared = &PwClients[client];
	uint64		word = own_word(client);
	bool		high = shared->high;
	struct epoll_event event = {.events = ready_when | EPOLLIN | EPOLLRDHUP | EPOLLONESHOT,
	.data.u64 = PW_EPOLL_DATA(client, PW_WORD_GENERATION(word))};

	if (session_is_open)
		pw_reported_remember(shared);
	shared->pin_reason = PW_PIN_NONE;
	shared->pinned_since = 0;
	detach_client();
	shared->parked_at = shared->state_since = GetCurrentTimestamp();
	(void) pw_client_move(shared, word, PW_CLIENT_PARKED, PW_NONE);

	/*
	 * From here on the client is anybody's.  If the worker has closed it in
	 * between, it has taken it out of the set, and this fails: fine.
	 */
	(void) epoll_ctl(high ? PwSelf.high_epfd : PwSelf.pool_epfd, EPOLL_CTL_MOD,
					 PwControl->fd_base + client, &event);
	if (PwControl->worker_pid == 0)
		tell_orphan(client);

	/*
	 * Any cancel for this client was sent before detach_client() had the
	 * lock, and a signal that is pending arrives at the latest when a system
	 * call returns, as one just has.
	 */
	QueryCancelPending = false;
}

/*
 * The worker has gone, and our client is parked.
 *
 * The worker first says that it goes, then closes whoever is parked; we first
 * park, then look whether it goes.  So if it has not seen the client, we see
 * that, and tell the client ourselves.
 */
static void
tell_orphan(int client)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);
	PwReport	report = {.sqlstate = ERRCODE_ADMIN_SHUTDOWN,
	.message = "terminating connection due to administrator command"};
	StringInfoData message;

	if (PW_WORD_STATE(word) != PW_CLIENT_PARKED ||
		!pw_client_move(&PwClients[client], word, PW_CLIENT_ATTACHED, PwSelf.index))
		return;
	initStringInfo(&message);
	pw_build_error(&message, "FATAL", &report);
	(void) send(PwControl->fd_base + client, message.data, message.len,
				MSG_DONTWAIT | MSG_NOSIGNAL);
	(void) shutdown(PwControl->fd_base + client, SHUT_RDWR);
	pfree(message.data);
	return_client(client);
}

/*
 * Stop being this client.
 *
 * A cancel request is turned into a signal by the worker while it holds
 * slot->lock and slot->client is the client that was meant.  So once we have
 * had the lock, every signal for this client has been sent.
 */
static void
detach_client(void)
{
	PwSelf.slot->pin_reason = PW_PIN_NONE;
	pw_tcp_options_drop(&PwClients[PwSelf.client]);
	set_slot_client(PW_NONE);
	PwSelf.client = PW_NONE;
	MyProcPort->sock = PwSelf.home;
	FeBeWaitSet = PwSelf.home_set;
	whereToSendOutput = DestNone;
	pw_lost_client_watch(false);
	pw_identity_drop();
}

/*
 * Our client has left: undo what it has begun, and give its socket to the
 * worker to be closed.
 */
void
pw_leave_client(void)
{
	int			client = PwSelf.client;
	PwShmClient *shared = &PwClients[client];
	uint64		word = own_word(client);
	bool		clean;

	pw_lost_client_drop_input();
	end_transaction_of_leaver();
	pw_lost_client_drop_output(PwSelf.core_methods);
	detach_client();

	/* some drivers wait for this after they have said goodbye */
	(void) shutdown(PwControl->fd_base + client, SHUT_RDWR);
	pw_descriptor_drop(client);

	/* whatever it says now is for nobody */
	shared->hung_up = false;
	(void) pw_client_move(shared, word, PW_CLIENT_LEAVING, PW_NONE);
	pw_client_push_leaver(client);
	PwSelf.worker_unaware = true;

	/* as in pw_park_client(); pw_descriptor_drop() was the system call */
	QueryCancelPending = false;

	PwSelf.discarding = true;
	clean = pw_session_clean();
	MemoryContextSwitchTo(PwSelf.turn_context);
	PwSelf.discarding = false;
	if (!clean)
		pw_retire();
}

/*
 * End a client that is over a time limit.
 *
 * It may be one that does not read what we send.  We do not wait for that: if
 * the error does not fit into its socket it goes without, and what was not
 * sent is thrown away, which is what pqcomm.c does when sending has failed.
 */
void
pw_expel_client(int limit)
{
	int			fd = MyProcPort->sock;

	ereport(LOG_SERVER_ONLY,
			(errcode(pw_time_limits[limit].sqlstate),
			 errmsg(PW_END_WORDS, pw_time_limits[limit].name),
			 errhidestmt(true)));
	pg_atomic_fetch_add_u64(&PwSelf.pool->enforced[limit], 1);

	/* who is lost has been told so, or cannot hear it */
	if (!PwSelf.discarding && !pw_client_is_lost())
		pw_clock_tell(limit, false);
	PwSelf.discarding = false;
	if (PwSelf.core_methods->is_send_pending())
	{
		(void) shutdown(fd, SHUT_RDWR);
		(void) PwSelf.core_methods->flush();
		pw_lost_client_check();
	}
	pw_leave_client();
}

/*
 * Roll back what a client left open.  No portal is running here, so this is
 * what PostgresMain() does when it recovers from an error.
 */
static void
end_transaction_of_leaver(void)
{
	if (IsTransactionOrTransactionBlock() || IsTransactionState())
	{
		PwSelf.discarding = true;
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(PwSelf.turn_context);
		PwSelf.discarding = false;
	}
	if (get_timeout_active(IDLE_IN_TRANSACTION_SESSION_TIMEOUT))
		disable_timeout(IDLE_IN_TRANSACTION_SESSION_TIMEOUT, false);
	PwSelf.transaction_status = 'I';
	set_ps_display("idle");
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* End this backend, which nobody is attached to. */
void
pw_retire(void)
{
	whereToSendOutput = DestNone;
	proc_exit(0);
}
