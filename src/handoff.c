/*-------------------------------------------------------------------------
 *
 * handoff.c
 *	  A slot's backend: serves one client's transaction after the other's.
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
 * another (attachment.c), sleep until one of them says something (slot_wait.c),
 * and in general do what the backend would do while it is idle.
 *
 * What must not reach PostgresMain() is the end of a client: it would exit on
 * a Terminate message and on end of file.  So we look at the socket before we
 * return.  For the places where we cannot look first, see lost_client.c.
 *
 * Who is next
 * -----------
 *
 * Our client, as long as the backend has read more commands than it has
 * answered.  Then, unless something pins our client, whoever has waited longest
 * in the pool's epoll sets, that of high priority first: busy slots serve the
 * queue by themselves.  If nobody waits, our client stays attached, and we sleep
 * until it says something or the worker has somebody else for us.
 *
 * A slot of the reserve serves high priority only; see pool_reserve.c.
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

#include "libpq/auth.h"
#include "libpq/libpq-be.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#include "attachment.h"
#include "command_clock.h"
#include "compat.h"
#include "descriptors.h"
#include "fd_passing.h"
#include "handoff.h"
#include "identity.h"
#include "injection.h"
#include "login_triggers.h"
#include "lost_client.h"
#include "prepared_statements.h"
#include "protocol.h"
#include "session.h"
#include "session_state.h"
#include "settings.h"
#include "shared_state.h"
#include "slot_self.h"
#include "slot_wait.h"
#include "startup_settings.h"
#include "time_limits.h"

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

PwSlotSelf	PwSelf = {
	.home = PGINVALID_SOCKET,
	.index = PW_NONE,
	.pool_epfd = -1,
	.high_epfd = -1,
	.client = PW_NONE,
	.transaction_status = 'I',
};

/* A ReadyForQuery has passed: the flush that follows is our turn. */
static bool ready_sent = false;

/* A Sync has been put in for a client that is lost and may owe it. */
static bool sync_put_in = false;

static ClientAuthentication_hook_type prev_client_authentication = NULL;

static void notice_slot(Port *port, int status);
static bool peer_is_worker(Port *port);
static void begin_being_slot(void);
static void receive_welcome(void);
static void await_welcome(PwHomeMessage *welcome);
static void raise_file_limit(void);
static void slot_exit(int code, Datum arg);

static void handoff_comm_reset(void);
static void put_in_sync(void);
static int	handoff_flush(void);
static int	handoff_flush_if_writable(void);
static bool handoff_is_send_pending(void);
static int	handoff_putmessage(char type, const char *data, size_t len);
static int	put_notification(const char *data, size_t len);
static void handoff_putmessage_noblock(char type, const char *data, size_t len);
static void note_message(char type, const char *data);

static void take_turn(void);
static bool finish_injection(void);
static void find_command(void);
static void count_transaction(void);
static PwPinReason pin_reason(void);
static bool serve_buffered(void);
static bool is_leftover(char type);
static void skip_message(void);
static void serve_next(void);
static bool is_passing_by(void);
static bool try_queue(void);
static int	take_from_queue(void);
static int	take_from_set(int epfd);
static bool has_hung_up(PwShmClient *client, uint32 events);
static uint64 settled_word(int client);
static bool start_command(void);
static bool must_wait(void);
static bool replaces_unnamed(const PwPeek *peek);
static void inject_if_needed(void);
static PwSocketState look_at_socket(PwPeek *peek);

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
		PwSelf.core_methods = PqCommMethods;
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
	PwSelf.home = MyProcPort->sock;
	PwSelf.home_set = FeBeWaitSet;
	whereToSendOutput = DestNone;
	PwSelf.turn_context = AllocSetContextCreate(TopMemoryContext, "pool_worker turn",
												ALLOCSET_DEFAULT_SIZES);
	raise_file_limit();
	ModifyWaitEvent(PwSelf.home_set, FeBeWaitSetSocketPos, WL_SOCKET_READABLE, NULL);
	pw_descriptors_init(PwSelf.home, PwSelf.home_set);
	pw_lost_client_init();
	pw_clock_init();
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

	await_welcome(&welcome);
	before_shmem_exit(slot_exit, (Datum) 0);
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	if (PwControl->worker_generation == welcome.generation && PwControl->worker_pid != 0)
	{
		PwSelf.index = welcome.slot;
		PwSelf.slot = &PwSlots[PwSelf.index];
		PwSelf.pool = &PwPools[PwSelf.slot->pool];
		PwSelf.worker_generation = welcome.generation;
		PwSelf.slot->pid = MyProcPid;
		PwSelf.slot->pgprocno = MyProcNumber;
		PwSelf.slot->alive = true;
		accepted = true;
	}
	LWLockRelease(&PwControl->lock);
	if (!accepted)
		proc_exit(0);
}

/*
 * Wait for the worker's welcome, and keep the epoll sets that come with it.
 */
static void
await_welcome(PwHomeMessage *welcome)
{
	for (;;)
	{
		int			fd;
		PwHomeResult result = pw_home_receive(PwSelf.home, welcome, &fd);
		WaitEvent	event;

		if (result == PW_HOME_OK && welcome->kind == PW_HOME_HIGH_SET)
		{
			PwSelf.high_epfd = fd;
			continue;
		}
		if (result == PW_HOME_OK && welcome->kind == PW_HOME_WELCOME &&
			welcome->slot < PwControl->max_slots)
		{
			PwSelf.pool_epfd = fd;
			return;
		}
		if (result != PW_HOME_WOULD_BLOCK)
			proc_exit(0);
		(void) WaitEventSetWait(PwSelf.home_set, -1, &event, 1, PG_WAIT_EXTENSION);
		if (event.events & WL_POSTMASTER_DEATH)
			proc_exit(1);
		if (event.events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
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
	if (PwSelf.slot == NULL)
		return;
	LWLockReleaseAll();
	pw_count_active(false);
	LWLockAcquire(&PwSelf.slot->lock, LW_EXCLUSIVE);
	PwSelf.slot->alive = false;
	LWLockRelease(&PwSelf.slot->lock);
	pg_atomic_exchange_u32(&PwSelf.slot->activity, PW_SLOT_GONE);
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
	PwSelf.core_methods->comm_reset();
	PwSelf.discarding = false;
	if (PwSelf.client != PW_NONE)
	{
		pw_lost_client_recover();
		if (pw_client_is_lost())
			put_in_sync();
	}
	else if (PwSelf.slot != NULL)
	{
		/* nobody to report to, nobody to read from */
		EmitErrorReport();
		proc_exit(1);
	}
}

/*
 * Our client is lost, and after an error in an extended query PostgresMain()
 * reads on until its Sync: let it have one.  If it wants none, our turn comes
 * first.
 */
static void
put_in_sync(void)
{
	StringInfoData sync;

	if (pw_is_injecting())
		return;
	pw_clock_lost();
	pw_lost_client_drop_input();
	initStringInfo(&sync);
	pw_build_sync(&sync);
	PwSelf.discarding = true;
	MyProcPort->sock = pw_inject(&sync);
	sync_put_in = true;
	pfree(sync.data);
}

/*
 * The end of a command's answer is at a flush: our turn comes within it.
 */
static int
handoff_flush(void)
{
	int			result = 0;

	if (!PwSelf.discarding && !pw_client_is_lost())
	{
		result = PwSelf.core_methods->flush();
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

	if (PwSelf.discarding || pw_client_is_lost())
		return 0;
	result = PwSelf.core_methods->flush_if_writable();
	pw_lost_client_check();
	return result;
}

static bool
handoff_is_send_pending(void)
{
	return PwSelf.core_methods->is_send_pending();
}

static int
handoff_putmessage(char type, const char *data, size_t len)
{
	int			result;

	note_message(type, data);
	if (PwSelf.discarding || pw_client_is_lost())
		return 0;
	if (type == 'A' && PwSelf.client != PW_NONE)
		result = put_notification(data, len);
	else
		result = PwSelf.core_methods->putmessage(type, data, len);
	pw_lost_client_check();
	return pw_client_is_lost() ? 0 : result;
}

/*
 * A notification begins with the pid of who has sent it.  A client knows its
 * own as the number that it was given with its cancel key.
 */
static int
put_notification(const char *data, size_t len)
{
	uint32		pid;
	char	   *copy;
	int			result;

	memcpy(&pid, data, sizeof(pid));
	if (pg_ntoh32(pid) != MyProcPid)
		return PwSelf.core_methods->putmessage('A', data, len);

	copy = palloc(len);
	memcpy(copy, data, len);
	pid = pg_hton32(PwClients[PwSelf.client].cancel_pid);
	memcpy(copy, &pid, sizeof(pid));
	result = PwSelf.core_methods->putmessage('A', copy, len);
	pfree(copy);
	return result;
}

static void
handoff_putmessage_noblock(char type, const char *data, size_t len)
{
	note_message(type, data);
	if (PwSelf.discarding || pw_client_is_lost())
		return;
	PwSelf.core_methods->putmessage_noblock(type, data, len);
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
			PwSelf.transaction_status = data[0];
			break;
		case '1':				/* ParseComplete */
			pw_statements_parsed();
			break;
		case '2':				/* BindComplete */
			pw_statements_used();
			break;
		case '3':				/* CloseComplete */
			pw_statements_removed();
			pw_session_closed();
			break;
		case 'G':				/* CopyInResponse */
			pw_clock_copying(true);
			break;
		case 'C':				/* CommandComplete */
			pw_clock_copying(false);
			break;
		case 'E':				/* ErrorResponse */
			pw_clock_copying(false);
			/* maybe of a Bind that had its plan already */
			pw_statements_used();
			if (!PwSelf.discarding)
				pw_clock_error();
			break;
		case 'K':				/* BackendKeyData */
			pw_login_triggers_postpone();
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
	MemoryContext oldcontext = CurrentMemoryContext;

	/*
	 * The command has been answered, so it is too late to cancel it.  A
	 * signal that comes late must not raise an error here: the client would
	 * get it behind ReadyForQuery, and take it for the answer to its next
	 * command.
	 */
	HOLD_CANCEL_INTERRUPTS();
	if (PwSelf.slot == NULL)
		begin_being_slot();
	MemoryContextSwitchTo(PwSelf.turn_context);
	if (PwSelf.transaction_status == 'I')
		pw_forget_transaction_timeout();
	pw_heed_recovery();
	if (!finish_injection())
		find_command();
	QueryCancelPending = false;
	pw_clock_explain_errors();
	MemoryContextSwitchTo(oldcontext);
	RESUME_CANCEL_INTERRUPTS();
}

/*
 * If the command was one that we put in: it has been carried out, and now the
 * client's own is to be read.  True if that is so; a Sync for a client that is
 * lost was the end of that one's own.
 */
static bool
finish_injection(void)
{
	if (!pw_is_injecting())
		return false;
	PwSelf.discarding = false;
	MyProcPort->sock = PwControl->fd_base + PwSelf.client;
	if (sync_put_in)
	{
		sync_put_in = false;
		pw_injection_abandon();
		return false;
	}
	pw_injection_finish();
	pw_unnamed_settle();
	return true;
}

/*
 * Settle what is to be remembered of the command that has been answered, and
 * find the next one.
 */
static void
find_command(void)
{
	int			limit = PW_NO_LIMIT;

	if (PwSelf.client != PW_NONE)
	{
		limit = pw_clock_end();
		count_transaction();
	}
	if (limit == PW_LIMIT_CLIENT_MESSAGE)
		pw_expel_client(limit);
	else if (PwSelf.client != PW_NONE && pw_client_is_lost())
		pw_leave_client();
	else if (limit != PW_NO_LIMIT)
		pw_expel_client(limit);
	if (!serve_buffered())
		serve_next();
}

/* If a transaction has ended, count it. */
static void
count_transaction(void)
{
	if (PwSelf.transaction_status != 'I')
		return;
	PwSelf.slot->transactions++;
	PwClients[PwSelf.client].transactions++;
}

/*
 * Why the client must keep its slot now; PW_PIN_NONE if it need not.
 */
static PwPinReason
pin_reason(void)
{
	PwPinReason reason;

	if (PwSelf.client == PW_NONE)
		return PW_PIN_NONE;
	if (PwSelf.transaction_status != 'I')
		return PW_PIN_TRANSACTION;
	if (pw_input_is_buffered())
		return PW_PIN_INPUT;	/* see serve_buffered() */
	if (PwSelf.pool->settings.pool_mode == PW_MODE_SESSION)
		return PW_PIN_SESSION_MODE;
	reason = pw_session_pin_reason();
	if (reason == PW_PIN_NONE && !pw_session_save(&PwClients[PwSelf.client]))
		return PW_PIN_SESSION_SIZE;
	return reason;
}

/*
 * The client has sent more than one command at once, and the backend has read
 * all of it: go on with that.  False if there is nothing left, or only a
 * goodbye; or if the client has to wait now, which it can only do here.
 */
static bool
serve_buffered(void)
{
	while (PwSelf.client != PW_NONE && pw_input_is_buffered())
	{
		char		type = pq_peekbyte();

		if (type == 'X')
			pw_leave_client();
		else if (is_leftover(type))
			skip_message();
		else if (pw_is_held() && pw_clock_passed() == PW_NO_LIMIT)
			return false;
		else if (!pw_clock_begin())
			pw_expel_client(pw_clock_passed());
		else
		{
			inject_if_needed();
			return true;
		}
	}
	return false;
}

/*
 * Between commands, PostgresMain() ignores a Flush and whatever a client has
 * sent for a COPY before it heard of an error, and goes on reading, without a
 * turn for us: a client that then says nothing would keep its slot.
 */
static bool
is_leftover(char type)
{
	return type == 'd' || type == 'c' || type == 'f' || type == 'H';
}

static void
skip_message(void)
{
	StringInfoData message;

	initStringInfo(&message);
	pq_startmsgread();
	(void) pq_getbyte();
	if (pq_getmessage(&message, PQ_LARGE_MESSAGE_LIMIT) != 0)
	{
		pq_endmsgread();
		pw_leave_client();
	}
	pfree(message.data);
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

		MemoryContextReset(PwSelf.turn_context);
		pw_check_worker();
		pw_answer_worker();
		pw_descriptors_drop_departed();
		if (PwSelf.client == PW_NONE)
			PwSelf.transaction_status = 'I';
		reason = pin_reason();
		pw_note_pin(reason);
		if (reason == PW_PIN_NONE)
			pw_check_ending();

		/* another client first, if somebody waits */
		if (reason == PW_PIN_NONE && pw_is_held())
		{
			if (PwSelf.client != PW_NONE)
				pw_park_client(0);
		}
		else if (reason == PW_PIN_NONE && try_queue())
		{
			pw_tell_growth();
			if (start_command())
				return;
		}
		else if (reason == PW_PIN_NONE && is_passing_by())
			pw_park_client(0);

		pw_wait_for_work(PwSelf.client == PW_NONE ? PW_PIN_NONE : pin_reason());
		if (serve_buffered())
			return;
		if (PwSelf.client != PW_NONE && !pw_input_is_buffered() && start_command())
			return;
	}
}

/*
 * Many clients connect for one transaction and leave.  So after the first one
 * we do not wait for the next: if it is a goodbye, the worker can hear that as
 * well, together with the next client who knocks.  And a slot of the reserve
 * keeps nobody.
 */
static bool
is_passing_by(void)
{
	return PwSelf.client != PW_NONE && PwClients[PwSelf.client].said_hello &&
		(PwClients[PwSelf.client].transactions == 1 || PwSelf.slot->reserve);
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
		if (PwSelf.client != PW_NONE)
			pw_park_client(0);
		return false;
	}
	if (pg_atomic_read_u32(&PwSelf.pool->parked) == 0)
		return false;
	next = take_from_queue();
	if (next == PW_NONE)
		return false;
	if (PwSelf.client != PW_NONE)
		pw_park_client(0);
	return pw_attach_client(next);
}

/*
 * Take the first client that we can get and may serve, high priority first.
 */
static int
take_from_queue(void)
{
	int			client = PW_NONE;

	if (pg_atomic_read_u32(&PwSelf.pool->parked_high) != 0)
		client = take_from_set(PwSelf.high_epfd);
	if (client == PW_NONE &&
		(pw_slot_serves(PwSelf.slot, PwSelf.pool) & PW_WATCH_NORMAL) != 0)
		client = take_from_set(PwSelf.pool_epfd);
	return client;
}

/*
 * Take the first client out of an epoll set that we can get.
 */
static int
take_from_set(int epfd)
{
	struct epoll_event event;

	while (epoll_wait(epfd, &event, 1, 0) > 0)
	{
		int			client = PW_EPOLL_CLIENT(event.data.u64);
		uint64		word = settled_word(client);

		if (PW_WORD_GENERATION(word) == PW_EPOLL_GENERATION(event.data.u64) &&
			PW_WORD_STATE(word) == PW_CLIENT_PARKED &&
			pw_client_move(&PwClients[client], word, PW_CLIENT_ATTACHED, PwSelf.index))
		{
			if (!has_hung_up(&PwClients[client], event.events))
				return client;
			pw_dismiss_client(client);
		}
	}
	return PW_NONE;
}

/*
 * Has a client hung up that was parked?  Most have said goodbye first, but not
 * those that the worker has given back.
 */
static bool
has_hung_up(PwShmClient *client, uint32 events)
{
	return (events & (EPOLLHUP | EPOLLRDHUP)) != 0 && client->said_hello && !client->hung_up;
}

/*
 * The word of a client that may be HELD.  It has come to the head of the queue
 * while the worker tells it that it has to wait, which takes as long as a system
 * call.  If we left it, it would have to start again at the end.
 */
static uint64
settled_word(int client)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);

	while (PW_WORD_STATE(word) == PW_CLIENT_HELD)
	{
		pg_usleep(10);
		word = pg_atomic_read_u64(&PwClients[client].word);
	}
	return word;
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

	if (pw_client_is_lost() || found == PW_SOCKET_LEFT)
	{
		if (pw_clock_passed() == PW_LIMIT_CLIENT_MESSAGE)
			pw_expel_client(PW_LIMIT_CLIENT_MESSAGE);
		else
			pw_leave_client();
		return false;
	}
	if (found == PW_SOCKET_QUIET || must_wait())
	{
		if (pw_clock_passed() != PW_NO_LIMIT)
			pw_expel_client(pw_clock_passed());
		return false;
	}
	if (is_leftover(peek.bytes[0]))
	{
		skip_message();
		return serve_buffered();
	}
	if (!pw_clock_begin())
	{
		pw_expel_client(pw_clock_passed());
		return false;
	}
	if (replaces_unnamed(&peek))
		pw_unnamed_void();
	else
		inject_if_needed();
	return true;
}

/*
 * A command has come.  Say that we are going to read it, and then look whether
 * we may: see the header of slot_wait.c.
 */
static bool
must_wait(void)
{
	pw_count_active(true);
	pg_atomic_write_u32(&PwSelf.slot->activity, PW_SLOT_BUSY);
	return pw_is_held();
}

/*
 * A simple query drops the unnamed statement, and Parse of the unnamed
 * statement replaces it.
 */
static bool
replaces_unnamed(const PwPeek *peek)
{
	return peek->bytes[0] == 'Q' ||
		(peek->n == sizeof(peek->bytes) && peek->bytes[0] == 'P' && peek->bytes[5] == '\0');
}

/*
 * The next command may need the unnamed statement, and it must not see that of
 * another client.
 */
static void
inject_if_needed(void)
{
	StringInfoData messages;

	initStringInfo(&messages);
	if (pw_unnamed_message(&messages))
	{
		PwSelf.discarding = true;
		MyProcPort->sock = pw_inject(&messages);
	}
	pfree(messages.data);
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
