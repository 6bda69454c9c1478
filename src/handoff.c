/*-------------------------------------------------------------------------
 *
 * handoff.c
 *	  A slot's backend: takes a client's socket as its own for one transaction
 *	  after the other.
 *
 * Runs in: slots (and, to notice that it is one, every backend at its start).
 *
 * How a backend serves many clients
 * ---------------------------------
 *
 * PostgresMain() answers a command, sends ReadyForQuery, and reads the next
 * command from MyProcPort->sock.  All output goes through PqCommMethods, a
 * table of functions; we replace it with one whose functions call the old
 * ones.  putmessage() shows us the ReadyForQuery and its status.  The flush()
 * that follows is our turn: everything has been answered, and what the backend
 * reads next is read from whatever MyProcPort->sock and FeBeWaitSet are when
 * that flush() returns.  So within it we may let go of one client and attach
 * another, sleep until one of them says something, and in general do what the
 * backend would do while it is idle.
 *
 * What must not reach PostgresMain() is the end of a client: it would exit on
 * a Terminate message and on end of file.  So we look at the socket before we
 * return.  For the places where we cannot look first, see lost_client.c.
 *
 * Locking, and who owns what
 * --------------------------
 *
 * We own a client from the moment its word says ATTACHED with our number,
 * whether we or the worker have put that there, until we move it on.
 * slot->client is under slot->lock, which is what makes cancel requests safe:
 * see detach_client().
 *
 * Errors
 * ------
 *
 * An error raised during our turn goes to PostgresMain(), which reports it to
 * the attached client, aborts, and sends ReadyForQuery: our turn again.
 * PostgresMain() can do this at any time, so every step here leaves a state
 * from which the next turn can go on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/async.h"
#include "libpq/auth.h"
#include "libpq/libpq-be.h"
#include "libpq/libpq.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "descriptors.h"
#include "fd_passing.h"
#include "greeting.h"
#include "handoff.h"
#include "identity.h"
#include "lost_client.h"
#include "session_state.h"
#include "settings.h"
#include "shared_state.h"
#include "startup_settings.h"
#include "unnamed_statement.h"

/* The first bytes of a command, before PostgresMain() reads it. */
typedef struct PwPeek
{
	char		bytes[6];		/* type, length, and one byte of the body */
	int			n;				/* how many are there */
} PwPeek;

/* What was found at a client's socket. */
typedef enum PwSocketState
{
	PW_SOCKET_QUIET,			/* nothing to read */
	PW_SOCKET_READY,			/* a command, or a part of one */
	PW_SOCKET_LEFT,				/* Terminate, end of file, or an error */
} PwSocketState;

/* What this backend is as a slot; set once. */
static int	my_slot = PW_NONE;
static PwShmSlot *slot = NULL;
static PwShmPool *pool = NULL;
static int	pool_epfd = -1;
static uint32 worker_generation;
static pgsocket home = PGINVALID_SOCKET;
static WaitEventSet *home_set = NULL;

/* The client we own, or PW_NONE; attached unless the turn is just about that. */
static int	my_client = PW_NONE;

/* What passed since the last ReadyForQuery. */
static bool ready_sent = false;
static char transaction_status = 'I';
static int	parses = 0;
static bool bound = false;
static bool first_parse_unnamed = false;

/* We are counted in pool->active. */
static bool counted_active = false;

/* A client of ours has left, and the worker may not know yet. */
static bool worker_unaware = false;

/* How long we sleep before we make sure that it does, ms. */
#define UNAWARE_MS 10

/* Discard output: there is no client, or it must not see this. */
static bool discarding = false;

static const PQcommMethods *core_methods = NULL;
static ClientAuthentication_hook_type prev_client_authentication = NULL;

static void notice_slot(Port *port, int status);
static bool peer_is_worker(Port *port);
static void begin_being_slot(void);
static void receive_welcome(void);
static void raise_file_limit(void);
static void slot_exit(int code, Datum arg);

static void handoff_comm_reset(void);
static int	handoff_flush(void);
static int	handoff_flush_if_writable(void);
static bool handoff_is_send_pending(void);
static int	handoff_putmessage(char type, const char *data, size_t len);
static void handoff_putmessage_noblock(char type, const char *data, size_t len);
static void note_message(char type, const char *data);

static void take_turn(void);
static bool finish_injection(void);
static void find_command(void);
static void count_transaction(void);
static PwPinReason pin_reason(void);
static bool serve_buffered(void);
static void serve_next(void);
static bool is_passing_by(void);
static void tell_growth(void);
static bool try_queue(void);
static int	take_from_queue(void);
static bool start_command(void);
static bool injection_needed(const PwPeek *peek);
static PwSocketState look_at_socket(PwPeek *peek);
static void wait_for_work(PwPinReason reason);
static void tell_worker(void);
static void declare(PwSlotActivity activity, PwPinReason reason);
static bool undeclare(void);
static void set_active(bool active);
static bool take_assignment(void);
static void await_decision(void);
static void save_client(void);
static void service_interrupts(bool may_park);
static void check_worker(void);

static bool attach_client(int client);
static bool open_session(int client);
static uint64 own_word(int client);
static void park_client(uint32 ready_when);
static void leave_client(void);
static void detach_client(void);
static void return_client(int client);
static void set_slot_client(int client);
static void end_transaction_of_leaver(void);
static void refuse_client(ErrorData *error);
static void retire(void);

static const PQcommMethods handoff_methods = {
	.comm_reset = handoff_comm_reset,
	.flush = handoff_flush,
	.flush_if_writable = handoff_flush_if_writable,
	.is_send_pending = handoff_is_send_pending,
	.putmessage = handoff_putmessage,
	.putmessage_noblock = handoff_putmessage_noblock,
};

void
pw_handoff_register(void)
{
	prev_client_authentication = ClientAuthentication_hook;
	ClientAuthentication_hook = notice_slot;
}

/*
 * ClientAuthentication_hook: is it the pool worker who has logged in here?
 */
static void
notice_slot(Port *port, int status)
{
	if (prev_client_authentication)
		prev_client_authentication(port, status);
	if (status == STATUS_OK && peer_is_worker(port))
	{
		core_methods = PqCommMethods;
		PqCommMethods = &handoff_methods;
		pw_startup_settings_note_server();
	}
}

/*
 * The kernel says which process has connected, and shared memory which one is
 * the worker: no client can pretend.
 */
static bool
peer_is_worker(Port *port)
{
	struct ucred credentials;
	socklen_t	len = sizeof(credentials);

	return PwControl != NULL && PwControl->worker_pid != 0 &&
		port->raddr.addr.ss_family == AF_UNIX &&
		getsockopt(port->sock, SOL_SOCKET, SO_PEERCRED, &credentials, &len) == 0 &&
		credentials.pid == PwControl->worker_pid;
}

/*
 * Our first ReadyForQuery has gone out to libpq.  From now on the connection
 * carries the messages of fd_passing.h.
 */
static void
begin_being_slot(void)
{
	home = MyProcPort->sock;
	home_set = FeBeWaitSet;
	whereToSendOutput = DestNone;
	raise_file_limit();
	ModifyWaitEvent(home_set, FeBeWaitSetSocketPos, WL_SOCKET_READABLE, NULL);
	pw_descriptors_init(home, home_set);
	pw_lost_client_init();
	pw_identity_init();
	pw_session_init();
	receive_welcome();
}

/*
 * Wait for the worker to tell us which slot we are, and report to it.
 */
static void
receive_welcome(void)
{
	PwHomeMessage welcome;
	bool		accepted = false;

	for (;;)
	{
		PwHomeResult result = pw_home_receive(home, &welcome, &pool_epfd);
		WaitEvent	event;

		if (result == PW_HOME_OK && welcome.kind == PW_HOME_WELCOME &&
			welcome.slot < PwControl->max_slots)
			break;
		if (result != PW_HOME_WOULD_BLOCK)
			proc_exit(0);
		(void) WaitEventSetWait(home_set, -1, &event, 1, PG_WAIT_EXTENSION);
		if (event.events & WL_POSTMASTER_DEATH)
			proc_exit(1);
		if (event.events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}

	before_shmem_exit(slot_exit, (Datum) 0);
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	if (PwControl->worker_generation == welcome.generation && PwControl->worker_pid != 0)
	{
		my_slot = welcome.slot;
		slot = &PwSlots[my_slot];
		pool = &PwPools[slot->pool];
		worker_generation = welcome.generation;
		slot->pid = MyProcPid;
		slot->pgprocno = MyProcNumber;
		slot->alive = true;
		accepted = true;
	}
	LWLockRelease(&PwControl->lock);
	if (!accepted)
		proc_exit(0);
}

/*
 * Make room for the clients' descriptors above PostgreSQL's own; see
 * raise_file_limit() in client.c.
 */
static void
raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
	{
		limit.rlim_cur = limit.rlim_max;
		(void) setrlimit(RLIMIT_NOFILE, &limit);
	}
	max_safe_fds = Min(max_safe_fds, PwControl->fd_base - 64);
}

/*
 * Exit callback: nobody may signal us or hand us a client any more.  What
 * becomes of the client we have is for the worker to decide, when it sees our
 * end of the connection closed; see return_clients_of() in pool.c.
 */
static void
slot_exit(int code, Datum arg)
{
	if (slot == NULL)
		return;
	LWLockReleaseAll();
	set_active(false);
	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	slot->alive = false;
	LWLockRelease(&slot->lock);
	pg_atomic_exchange_u32(&slot->activity, PW_SLOT_GONE);
	pw_wake_worker();
}

/*
 * comm_reset is called first when PostgresMain() recovers from an error.  If
 * that error was a client that vanished in the middle of a message, this is
 * where the backend can still be saved.
 */
static void
handoff_comm_reset(void)
{
	core_methods->comm_reset();
	discarding = false;
	if (my_client != PW_NONE)
		pw_lost_client_recover();
	else if (slot != NULL)
	{
		/* nobody to report to, nobody to read from */
		EmitErrorReport();
		proc_exit(1);
	}
}

static int
handoff_flush(void)
{
	int			result = 0;

	if (!discarding && !pw_client_is_lost())
	{
		result = core_methods->flush();
		pw_lost_client_check();
	}
	if (ready_sent)
	{
		ready_sent = false;
		take_turn();
		result = 0;
	}
	return result;
}

static int
handoff_flush_if_writable(void)
{
	int			result;

	if (discarding || pw_client_is_lost())
		return 0;
	result = core_methods->flush_if_writable();
	pw_lost_client_check();
	return result;
}

static bool
handoff_is_send_pending(void)
{
	return core_methods->is_send_pending();
}

static int
handoff_putmessage(char type, const char *data, size_t len)
{
	int			result;

	note_message(type, data);
	if (discarding || pw_client_is_lost())
		return 0;
	result = core_methods->putmessage(type, data, len);
	pw_lost_client_check();
	return pw_client_is_lost() ? 0 : result;
}

static void
handoff_putmessage_noblock(char type, const char *data, size_t len)
{
	note_message(type, data);
	if (discarding || pw_client_is_lost())
		return;
	core_methods->putmessage_noblock(type, data, len);
	pw_lost_client_check();
}

/*
 * Note what a message tells about the state of the session.
 */
static void
note_message(char type, const char *data)
{
	switch (type)
	{
		case 'Z':
			ready_sent = true;
			transaction_status = data[0];
			break;
		case '1':				/* ParseComplete */
			parses++;
			bound = false;
			break;
		case '2':				/* BindComplete */
			bound = true;
			break;
		case '3':				/* CloseComplete */
			pw_session_closed();
			break;
		default:
			break;
	}
}

/*
 * Our turn: a command has been answered.  Returns when there is a command to
 * be read from MyProcPort->sock.
 */
static void
take_turn(void)
{
	/*
	 * The command has been answered, so it is too late to cancel it.  A
	 * signal that comes late must not raise an error here: the client would
	 * get it behind ReadyForQuery, and take it for the answer to its next
	 * command.
	 */
	HOLD_CANCEL_INTERRUPTS();
	if (slot == NULL)
		begin_being_slot();
	if (!finish_injection())
		find_command();
	QueryCancelPending = false;
	RESUME_CANCEL_INTERRUPTS();
}

/*
 * If the command was one that we put in: it has been carried out, and now the
 * client's own is to be read.  True if that is so.
 */
static bool
finish_injection(void)
{
	if (!pw_unnamed_statement_injected())
		return false;
	pw_unnamed_statement_finish();
	discarding = false;
	MyProcPort->sock = PwControl->fd_base + my_client;
	return true;
}

static void
find_command(void)
{
	if (my_client != PW_NONE)
		count_transaction();

	if (parses > 0 && my_client != PW_NONE)
	{
		pw_session_parsed(!(parses == 1 && first_parse_unnamed));
		pw_unnamed_statement_note(PwClients[my_client].id);
	}
	if (my_client != PW_NONE && pw_client_is_lost())
		leave_client();
	if (!serve_buffered())
		serve_next();
	parses = 0;
	bound = false;
}

static void
count_transaction(void)
{
	if (transaction_status != 'I')
		return;
	slot->transactions++;
	PwClients[my_client].transactions++;
}

/*
 * Why the client must keep its slot now; PW_PIN_NONE if it need not.
 */
static PwPinReason
pin_reason(void)
{
	PwPinReason reason;

	if (my_client == PW_NONE)
		return PW_PIN_NONE;
	if (transaction_status != 'I')
		return PW_PIN_TRANSACTION;
	if (pw_pool_mode == PW_MODE_SESSION)
		return PW_PIN_SESSION_MODE;
	reason = pw_session_pin_reason();
	if (reason == PW_PIN_NONE && parses > 0 && !bound)
		return PW_PIN_PARSED;
	return reason;
}

/*
 * The client has sent more than one command at once, and the backend has read
 * all of it: go on with that.  False if there is nothing left, or only a
 * goodbye.
 */
static bool
serve_buffered(void)
{
	if (my_client == PW_NONE || !pw_input_is_buffered())
		return false;
	if (pq_peekbyte() == 'X')
	{
		leave_client();
		return false;
	}
	first_parse_unnamed = false;
	return true;
}

/*
 * Find the next command: of our client, of the next one in the queue, or of
 * one the worker gives us.
 */
static void
serve_next(void)
{
	for (;;)
	{
		PwPinReason reason;

		check_worker();
		pw_descriptors_drop_departed();
		if (my_client == PW_NONE)
			transaction_status = 'I';
		reason = pin_reason();

		/* another client first, if somebody waits */
		if (reason == PW_PIN_NONE && try_queue())
		{
			tell_growth();
			if (start_command())
				return;
		}
		else if (reason == PW_PIN_NONE && is_passing_by())
			park_client(0);

		wait_for_work(my_client == PW_NONE ? PW_PIN_NONE : pin_reason());
		if (my_client != PW_NONE && start_command())
			return;
	}
}

/*
 * Many clients connect for one transaction and leave.  So after the first one
 * we do not wait for the next: if it is a goodbye, the worker can hear that as
 * well, together with the next client who knocks.
 */
static bool
is_passing_by(void)
{
	return my_client != PW_NONE && PwClients[my_client].said_hello &&
		PwClients[my_client].transactions == 1;
}

/*
 * The worker opens one slot at a time, and looks at the queue again when the
 * new slot says that it is idle.  If it goes to work at once, it says so here.
 */
static void
tell_growth(void)
{
	static bool told = false;

	if (told)
		return;
	told = true;
	pg_atomic_write_u32(&pool->poked, 1);
	pw_wake_worker();
}

/*
 * Exchange our client for the first one in the queue.  False if nobody waits.
 */
static bool
try_queue(void)
{
	int			next;

	/* under this switch the worker gives us our clients, and nobody else */
	if (pw_debug_always_switch)
	{
		if (my_client != PW_NONE)
			park_client(0);
		return false;
	}
	if (pg_atomic_read_u32(&pool->parked) == 0)
		return false;
	next = take_from_queue();
	if (next == PW_NONE)
		return false;
	if (my_client != PW_NONE)
		park_client(0);
	return attach_client(next);
}

/*
 * Take the first client out of the pool's epoll set that we can get.
 */
static int
take_from_queue(void)
{
	struct epoll_event event;

	while (epoll_wait(pool_epfd, &event, 1, 0) > 0)
	{
		int			client = PW_EPOLL_CLIENT(event.data.u64);
		uint64		word = pg_atomic_read_u64(&PwClients[client].word);

		if (PW_WORD_GENERATION(word) == PW_EPOLL_GENERATION(event.data.u64) &&
			PW_WORD_STATE(word) == PW_CLIENT_PARKED &&
			pw_client_move(&PwClients[client], word, PW_CLIENT_ATTACHED, my_slot))
			return client;
	}
	return PW_NONE;
}

/*
 * Look whether our client has sent a command.  True if PostgresMain() is to
 * read it now.
 */
static bool
start_command(void)
{
	PwPeek		peek;
	PwSocketState found = look_at_socket(&peek);

	switch (pw_client_is_lost() ? PW_SOCKET_LEFT : found)
	{
		case PW_SOCKET_QUIET:
			return false;
		case PW_SOCKET_LEFT:
			leave_client();
			return false;
		case PW_SOCKET_READY:
			break;
	}

	first_parse_unnamed = peek.n == sizeof(peek.bytes) &&
		peek.bytes[0] == 'P' && peek.bytes[5] == '\0';
	set_active(true);
	pg_atomic_write_u32(&slot->activity, PW_SLOT_BUSY);
	if (injection_needed(&peek))
	{
		discarding = true;
		MyProcPort->sock = pw_unnamed_statement_inject();
	}
	return true;
}

/*
 * Might this command see the unnamed statement of another client?  A simple
 * query drops it, and Parse of the unnamed statement replaces it.
 */
static bool
injection_needed(const PwPeek *peek)
{
	if (!pw_unnamed_statement_is_foreign(PwClients[my_client].id))
		return false;
	if (peek->bytes[0] == 'Q' || first_parse_unnamed)
	{
		pw_unnamed_statement_forget();
		return false;
	}
	return true;
}

static PwSocketState
look_at_socket(PwPeek *peek)
{
	ssize_t		n;

	peek->n = 0;
	do
		n = recv(MyProcPort->sock, peek->bytes, sizeof(peek->bytes), MSG_PEEK | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);

	if (n > 0)
	{
		peek->n = (int) n;
		return peek->bytes[0] == 'X' ? PW_SOCKET_LEFT : PW_SOCKET_READY;
	}
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return PW_SOCKET_QUIET;
	return PW_SOCKET_LEFT;
}

/*
 * Sleep until our client says something, or we have been given another one.
 * "reason" says why our client keeps us, if it does.
 */
static void
wait_for_work(PwPinReason reason)
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
		WaitEvent	event;

		if (take_assignment())
			return;
		ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_READABLE, NULL);
		if (WaitEventSetWait(FeBeWaitSet, worker_unaware ? UNAWARE_MS : -1,
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
			check_worker();
			if (my_client == PW_NONE)
				pw_descriptors_drop_departed();
			continue;
		}
		if (my_client == PW_NONE)
		{
			/* from the worker: a descriptor, or the end */
			if (!pw_descriptors_receive())
				retire();
			continue;
		}
		if (undeclare())
			return;
		await_decision();
	}
}

/*
 * The worker closes clients that have left when it wakes for whatever reason.
 * There was none for a while, so give it one.
 */
static void
tell_worker(void)
{
	worker_unaware = false;
	if (pw_client_has_leavers())
		pw_wake_worker();
}

/*
 * Say what we do while we sleep.
 *
 * The exchange is a full barrier between telling that we are idle and looking
 * whether the worker watches the queue; see the header of pool.c.
 */
static void
declare(PwSlotActivity activity, PwPinReason reason)
{
	slot->state_since = GetCurrentTimestamp();
	slot->pin_reason = reason;
	if (my_client != PW_NONE)
	{
		PwShmClient *client = &PwClients[my_client];

		if (client->pin_reason != reason)
			client->pinned_since = reason == PW_PIN_NONE ? 0 : slot->state_since;
		client->pin_reason = reason;
		client->state_since = slot->state_since;
		strlcpy(client->application_name, application_name, NAMEDATALEN);
	}
	else
		pw_identity_show_nobody();
	set_active(activity == PW_SLOT_PINNED);

	/* a slot has no session that could be idle for too long */
	if (activity == PW_SLOT_IDLE &&
		get_timeout_active(IDLE_SESSION_TIMEOUT))
		disable_timeout(IDLE_SESSION_TIMEOUT, false);

	(void) pg_atomic_exchange_u32(&slot->activity, activity);
	if (activity == PW_SLOT_IDLE && pg_atomic_read_u32(&pool->watched) == 0)
	{
		pg_atomic_write_u32(&pool->poked, 1);
		pw_wake_worker();
	}
}

/*
 * We are busy again, unless the worker has claimed us for another client.
 */
static bool
undeclare(void)
{
	uint32		activity = PW_SLOT_IDLE;

	/* on failure this tells what it is instead, which only we can change */
	if (!pg_atomic_compare_exchange_u32(&slot->activity, &activity, PW_SLOT_BUSY))
	{
		if (activity == PW_SLOT_CLAIMED || activity == PW_SLOT_ASSIGNED)
			return false;
		pg_atomic_write_u32(&slot->activity, PW_SLOT_BUSY);
	}
	set_active(true);
	return true;
}

/* Count ourselves in pool->active, or no longer. */
static void
set_active(bool active)
{
	uint32		count;
	uint32		peak;

	if (active == counted_active)
		return;
	counted_active = active;
	if (!active)
	{
		pg_atomic_fetch_sub_u32(&pool->active, 1);
		return;
	}
	count = pg_atomic_fetch_add_u32(&pool->active, 1) + 1;
	peak = pg_atomic_read_u32(&pool->peak_active);
	while (count > peak &&
		   !pg_atomic_compare_exchange_u32(&pool->peak_active, &peak, count))
		 /* somebody else raised it; "peak" is the new one */ ;
}

/*
 * If the worker has decided what we do next, do that.  True if we have another
 * client now, or none.
 */
static bool
take_assignment(void)
{
	int			next;

	if (pg_atomic_read_u32(&slot->activity) != PW_SLOT_ASSIGNED)
		return false;
	pg_read_barrier();
	next = slot->assigned;
	pg_atomic_write_u32(&slot->activity, PW_SLOT_BUSY);
	set_active(true);

	if (next == PW_NONE)
	{
		if (my_client != PW_NONE)
			park_client(0);
		retire();
	}
	if (my_client != PW_NONE)
		park_client(0);
	(void) attach_client(next);
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
	/* a full barrier before we look again; release_slot() has its counterpart */
	(void) pg_atomic_exchange_u32(&slot->contended, 1);
	while (pg_atomic_read_u32(&slot->activity) == PW_SLOT_CLAIMED)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 100, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		service_interrupts(false);
	}
}

/*
 * An idle client survives the end of the slot it happened to sleep at.
 *
 * Unless the worker ends as well.  It first says that it does, then closes
 * whoever is parked; we first park, then look whether it does.  So if it has
 * not seen the client, we see that it goes, and take the client back to tell
 * it ourselves.
 */
static void
save_client(void)
{
	int			client = my_client;
	uint64		word;

	park_client(0);
	if (PwControl->worker_pid != 0)
		return;
	word = pg_atomic_read_u64(&PwClients[client].word);
	if (PW_WORD_STATE(word) == PW_CLIENT_PARKED &&
		pw_client_move(&PwClients[client], word, PW_CLIENT_ATTACHED, my_slot))
		(void) attach_client(client);
}

/*
 * Do what an idle backend does when its latch is set.
 */
static void
service_interrupts(bool may_park)
{
	if (ProcDiePending && may_park && my_client != PW_NONE)
		save_client();

	/*
	 * There is nothing to cancel while we wait, but for a transaction that is
	 * in the way of recovery.
	 */
	if (QueryCancelPending && transaction_status != 'I' && RecoveryInProgress())
		ereport(FATAL,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("terminating connection due to conflict with recovery")));
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
	if (ConfigReloadPending && transaction_status == 'I')
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	MemoryContextSwitchTo(MessageContext);
}

/*
 * Without our worker nobody would give us clients or close those we have: end
 * with the current transaction.
 */
static void
check_worker(void)
{
	if (PwControl->worker_generation == worker_generation && PwControl->worker_pid != 0)
		return;
	if (transaction_status != 'I')
		return;
	if (my_client == PW_NONE)
		proc_exit(0);
	ereport(FATAL,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("terminating connection because the connection pool was restarted")));
}

/*
 * Make a client that we own the backend's client.  False if it was refused or
 * has gone; then we have none.
 */
static bool
attach_client(int client)
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

	/* from here on an error is this client's */
	my_client = client;
	set_slot_client(client);
	MyProcPort->sock = fd;
	FeBeWaitSet = wait_set;
	whereToSendOutput = DestRemote;
	pw_lost_client_watch(true);
	parses = 0;
	bound = false;
	pw_identity_assume(&PwClients[client]);
	PwClients[client].last_slot = my_slot;
	PwClients[client].state_since = slot->state_since;
	slot->attaches++;
	pw_session_hand_over();
	return open_session(client);
}

/*
 * Bring the client's startup settings in force, and at its first attach say
 * hello.  What is wrong with its settings is its own fault: it is refused, and
 * the slot goes on.
 */
static bool
open_session(int client)
{
	PwShmClient *shared = &PwClients[client];
	MemoryContext oldcontext = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	discarding = true;
	PG_TRY();
	{
		pw_startup_settings_reload();
		pw_startup_settings_apply(dsa_get_address(pw_shared_area(), shared->settings),
								  shared->settings_len);
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
	discarding = false;

	if (pw_startup_settings_are_stuck())
	{
		/* not this client's fault: let another slot have it */
		park_client(EPOLLOUT);
		retire();
	}
	if (error != NULL)
	{
		refuse_client(error);
		return false;
	}
	strlcpy(shared->application_name, application_name, NAMEDATALEN);
	if (!shared->said_hello)
	{
		pw_greet(core_methods, shared);
		(void) core_methods->flush();
		pw_lost_client_check();
	}
	else if (pw_reported_is_stale(shared))
	{
		pw_report_all(core_methods);
		pw_reported_remember(shared);
		(void) core_methods->flush();
		pw_lost_client_check();
	}
	return true;
}

/*
 * The word of a client that must be ours.  If it is not, there is nothing that
 * this backend may still touch.
 */
static uint64
own_word(int client)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);

	if (PW_WORD_STATE(word) != PW_CLIENT_ATTACHED || PW_WORD_SLOT(word) != my_slot)
	{
		whereToSendOutput = DestNone;
		elog(FATAL, "pool slot %d does not own client %d", my_slot, client);
	}
	return word;
}

/*
 * Put our client back into the queue, to be ready again when it says something
 * or, with EPOLLOUT, at once.
 */
static void
park_client(uint32 ready_when)
{
	int			client = my_client;
	PwShmClient *shared = &PwClients[client];
	uint64		word = own_word(client);
	struct epoll_event event = {.events = ready_when | EPOLLIN | EPOLLRDHUP | EPOLLONESHOT,
	.data.u64 = PW_EPOLL_DATA(client, PW_WORD_GENERATION(word))};

	pw_reported_remember(shared);
	detach_client();
	(void) pw_client_move(shared, word, PW_CLIENT_PARKED, PW_NONE);

	/*
	 * From here on the client is anybody's.  If the worker has closed it in
	 * between, it has taken it out of the set, and this fails: fine.
	 */
	(void) epoll_ctl(pool_epfd, EPOLL_CTL_MOD, PwControl->fd_base + client, &event);

	/*
	 * Any cancel for this client was sent before detach_client() had the
	 * lock, and a signal that is pending arrives at the latest when a system
	 * call returns, as one just has.
	 */
	QueryCancelPending = false;
}

/*
 * Our client has left: undo what it has begun, and give its socket to the
 * worker to be closed.
 */
static void
leave_client(void)
{
	int			client = my_client;
	PwShmClient *shared = &PwClients[client];
	uint64		word = own_word(client);
	bool		clean;

	pw_lost_client_drop_input();
	end_transaction_of_leaver();
	detach_client();

	/* some drivers wait for this after they have said goodbye */
	(void) shutdown(PwControl->fd_base + client, SHUT_RDWR);
	pw_descriptor_drop(client);
	(void) pw_client_move(shared, word, PW_CLIENT_LEAVING, PW_NONE);
	pw_client_push_leaver(client);
	worker_unaware = true;

	/* as in park_client(0); pw_descriptor_drop() was the system call */
	QueryCancelPending = false;
	parses = 0;

	discarding = true;
	clean = pw_session_clean();
	MemoryContextSwitchTo(MessageContext);
	discarding = false;
	if (!clean)
		retire();
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
	set_slot_client(PW_NONE);
	my_client = PW_NONE;
	MyProcPort->sock = home;
	FeBeWaitSet = home_set;
	whereToSendOutput = DestNone;
	pw_lost_client_watch(false);
	pw_identity_drop();
}

/*
 * We own a client but could not get its descriptor: the worker is gone, and
 * has shut the connection down.
 */
static void
return_client(int client)
{
	uint64		word = own_word(client);

	(void) pw_client_move(&PwClients[client], word, PW_CLIENT_LEAVING, PW_NONE);
	pw_client_push_leaver(client);
	worker_unaware = true;
}

static void
set_slot_client(int client)
{
	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	slot->client = client;
	LWLockRelease(&slot->lock);
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
		discarding = true;
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(MessageContext);
		discarding = false;
	}
	if (get_timeout_active(IDLE_IN_TRANSACTION_SESSION_TIMEOUT))
		disable_timeout(IDLE_IN_TRANSACTION_SESSION_TIMEOUT, false);
	transaction_status = 'I';
	set_ps_display("idle");
	pgstat_report_activity(STATE_IDLE, NULL);
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
	pw_greet_with_error(core_methods, error);
	(void) core_methods->flush();
	pw_lost_client_check();
	FreeErrorData(error);
	leave_client();
}

/* This backend must not or need not serve anybody else. */
static void
retire(void)
{
	whereToSendOutput = DestNone;
	proc_exit(0);
}
