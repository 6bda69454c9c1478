/*-------------------------------------------------------------------------
 *
 * slot.c
 *	  The worker's side of a slot: one libpq connection to our own server.
 *
 * Runs in: pool worker.
 *
 * libpq is used to log in, never blocking, over the server's own Unix socket
 * and as the pool's role: the server's own pg_hba.conf decides.  Once the
 * backend is ready, the connection changes its meaning: from then on it
 * carries the messages of fd_passing.h.  libpq is not asked to read or write
 * any more, only to close it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "libpq-fe.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "event_loop.h"
#include "fd_passing.h"
#include "settings.h"
#include "shared_state.h"
#include "slot.h"

/* The worker's own part of a slot; valid unless EMPTY. */
typedef struct PwSlot
{
	PGconn	   *conn;			/* NULL exactly when EMPTY, or an orphan */
	PwWatch		watch;			/* on the connection's socket */
	PwTimer		deadline;		/* connect_timeout */
	int			epfd;			/* the pool's epoll sets, sent to the slot */
	int			high_epfd;		/* when it is welcomed, */
	bool		opened;			/* and that has been done */
	uint8	   *holds;			/* bit per client: has its descriptor */
} PwSlot;

static const PwSlotEvents *events = NULL;
static PwSlot *slots = NULL;

static const char *begin_connection(PwSlot *slot, const char *database, const char *role);
static void init_entry(PwShmSlot *shared, const PwSlotOrder *order);
static void slot_watch_again(PwSlot *slot, int wanted);
static void connect_step(void *arg, int ready);
static void connect_timed_out(void *arg);
static void slot_failed(void *arg);
static void slot_open_failed(PwSlot *slot, const char *message);
static void read_failure(PwSlot *slot, PwSlotFailure *failure, StringInfo text);
static void slot_welcome(PwSlot *slot);
static bool send_welcome(PwSlot *slot);
static void home_ready(void *arg, int ready);
static void answer_want(int slot, const PwHomeMessage *message);
static void slot_close(PwSlot *slot);
static void slot_empty(int slot);
static const char *first_socket_directory(void);
static void set_holds(int slot, int client);

/* Environment variables that would change how libpq connects. */
static const char *const libpq_environment[] = {
	"PGOPTIONS", "PGAPPNAME", "PGCLIENTENCODING", "PGTZ", "PGDATESTYLE",
	"PGGEQO", "PGSERVICE", "PGSERVICEFILE", "PGREQUIREPEER", "PGSSLMODE",
	"PGTARGETSESSIONATTRS", "PGHOSTADDR", "PGPASSWORD", "PGCONNECT_TIMEOUT",
	"PGCHANNELBINDING", "PGGSSENCMODE", "PGLOADBALANCEHOSTS", "PGREQUIREAUTH",
};

void
pw_slot_init(const PwSlotEvents *slot_events)
{
	events = slot_events;
	slots = MemoryContextAllocZero(TopMemoryContext, sizeof(PwSlot) * PwControl->max_slots);
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		slots[i].watch.fd = -1;

		/* one that never reported finds our generation, and exits */
		if (PwSlots[i].pid == 0)
			slot_empty(i);
	}
	for (int i = 0; i < lengthof(libpq_environment); i++)
		unsetenv(libpq_environment[i]);
}

int
pw_slot_find_empty(void)
{
	for (int i = 0; i < PwControl->max_slots; i++)
		if (pg_atomic_read_u32(&PwSlots[i].activity) == PW_SLOT_EMPTY)
			return i;
	return PW_NONE;
}

bool
pw_slot_open(int index, const PwSlotOrder *order, PwSlotFailure *failure)
{
	PwSlot	   *slot = &slots[index];

	memset(failure, 0, sizeof(PwSlotFailure));
	failure->message = begin_connection(slot, order->database, order->role);
	if (failure->message != NULL)
		return false;
	slot->epfd = order->epfd;
	slot->high_epfd = order->high_epfd;
	slot->opened = false;
	slot->holds = MemoryContextAllocZero(TopMemoryContext, (PwControl->max_clients + 7) / 8);
	init_entry(&PwSlots[index], order);

	pw_timer_arm(&slot->deadline,
				 TimestampTzPlusMilliseconds(pw_loop_now(), pw_connect_timeout),
				 connect_timed_out, slot_failed, slot);

	/*
	 * If the first step has failed already, there is no socket to watch, and
	 * a deadline in the past brings us to slot_open_failed().
	 */
	if (PQstatus(slot->conn) == CONNECTION_BAD)
		pw_timer_arm(&slot->deadline, pw_loop_now(), connect_timed_out, slot_failed, slot);
	else
		slot_watch_again(slot, PW_WRITE);
	return true;
}

/*
 * Have libpq take the first step.  Returns NULL, or what is in the way.
 */
static const char *
begin_connection(PwSlot *slot, const char *database, const char *role)
{
	char		port[16];
	const char *keywords[] = {"host", "port", "dbname", "user", "gssencmode", NULL};
	const char *values[] = {first_socket_directory(), port, database, role, "disable", NULL};

	StaticAssertStmt(lengthof(keywords) == lengthof(values),
					 "connection keywords and values must pair up");

	if (values[0] == NULL)
		return "the server has no Unix socket: set \"unix_socket_directories\"";

	/* libpq's socket counts against max_files_per_process like any other */
	if (!AcquireExternalFD())
		return "too many open files: raise \"max_files_per_process\" or lower \"pool_worker.max_slots\"";

	snprintf(port, sizeof(port), "%d", PostPortNumber);
	slot->conn = PQconnectStartParams(keywords, values, false);
	if (slot->conn == NULL)
	{
		ReleaseExternalFD();
		return "out of memory";
	}
	PQsetErrorVerbosity(slot->conn, PQERRORS_VERBOSE);
	return NULL;
}

/* Make the shared entry that of a slot which is being opened. */
static void
init_entry(PwShmSlot *shared, const PwSlotOrder *order)
{
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	shared->pid = 0;
	shared->pool = order->pool;
	shared->worker_generation = PwControl->worker_generation;
	shared->version = pg_atomic_read_u32(&PwPools[order->pool].version);
	shared->reserve = order->reserve;
	LWLockRelease(&PwControl->lock);
	shared->client = shared->assigned = PW_NONE;
	shared->opened_at = shared->state_since = pw_loop_now();
	shared->pin_reason = shared->session_pin = PW_PIN_NONE;
	shared->wait_time = shared->longest_wait = 0;
	shared->cold = order->cold;
	shared->leaving = false;
	shared->retire_reason = PW_RETIRE_NONE;
	shared->is_worn = false;
	shared->memory = 0;
	pg_atomic_write_u32(&shared->answered, pg_atomic_read_u32(&shared->asked));
	shared->transactions = shared->attaches = 0;
	pg_atomic_write_u32(&shared->activity, PW_SLOT_OPENING);
}

/*
 * Watch whatever socket libpq is using now.
 *
 * libpq may replace its socket between two polls.  The number can even come
 * out the same, so comparing it proves nothing: always start a fresh watch.
 */
static void
slot_watch_again(PwSlot *slot, int wanted)
{
	pw_watch_remove(&slot->watch);
	pw_watch_add(&slot->watch, PQsocket(slot->conn), wanted,
				 connect_step, slot_failed, slot);
}

/*
 * Watch callback: let libpq take one step of the connection handshake.
 */
static void
connect_step(void *arg, int ready)
{
	PwSlot	   *slot = (PwSlot *) arg;

	/* libpq may close its socket in there */
	pw_watch_remove(&slot->watch);
	switch (PQconnectPoll(slot->conn))
	{
		case PGRES_POLLING_READING:
			slot_watch_again(slot, PW_READ);
			break;
		case PGRES_POLLING_WRITING:
			slot_watch_again(slot, PW_WRITE);
			break;
		case PGRES_POLLING_OK:
			slot_welcome(slot);
			break;
		default:
			slot_open_failed(slot, NULL);
			break;
	}
}

/* Timer callback: connect_timeout has passed. */
static void
connect_timed_out(void *arg)
{
	PwSlot	   *slot = (PwSlot *) arg;

	slot_open_failed(slot, PQstatus(slot->conn) == CONNECTION_BAD ? NULL : "timeout expired");
}

/*
 * Watch and timer callback: an error was raised in this slot's name.  A backend
 * that is up may be serving a client, so ask it to end; home_ready() sees that
 * it has.
 */
static void
slot_failed(void *arg)
{
	PwSlot	   *slot = (PwSlot *) arg;

	if (!slot->opened)
		slot_open_failed(slot, "internal error");
	else if (PwSlots[slot - slots].pid != 0)
		kill(PwSlots[slot - slots].pid, SIGTERM);
}

/*
 * Give up opening.  "message" is NULL if libpq knows what went wrong.
 */
static void
slot_open_failed(PwSlot *slot, const char *message)
{
	int			index = slot - slots;
	int			pool = PwSlots[index].pool;
	PwSlotFailure failure = {.message = message};
	StringInfoData text;

	initStringInfo(&text);
	if (message == NULL)
		read_failure(slot, &failure, &text);
	slot_empty(index);
	events->open_failed(index, pool, &failure);
}

/*
 * Find the SQLSTATE in what libpq says.
 *
 * libpq offers no function for the SQLSTATE of a failed login.  But with
 * PQERRORS_VERBOSE the text begins with it, behind the severity, whatever the
 * language: "FATAL:  28000: no pg_hba.conf entry for ...", and the lines after
 * the first one say where in the sources.
 */
static void
read_failure(PwSlot *slot, PwSlotFailure *failure, StringInfo text)
{
	const char *start = PQerrorMessage(slot->conn);
	const char *code;
	const char *end;

	failure->needs_password = PQconnectionNeedsPassword(slot->conn);
	for (code = start; (code = strstr(code, ":  ")) != NULL; code += 3)
	{
		if (strspn(code + 3, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 &&
			strncmp(code + 8, ": ", 2) == 0)
		{
			memcpy(failure->sqlstate, code + 3, 5);
			start = code + 10;
			break;
		}
	}
	end = strchr(start, '\n');
	appendBinaryStringInfo(text, start, end ? end - start : strlen(start));
	failure->message = text->data;
}

/*
 * The backend has sent its first ReadyForQuery.  Welcome it; it then reports
 * itself idle.
 */
static void
slot_welcome(PwSlot *slot)
{
	pw_timer_disarm(&slot->deadline);
	if (!send_welcome(slot))
	{
		slot_open_failed(slot, "could not greet the slot's backend");
		return;
	}
	slot->opened = true;
	pw_watch_add(&slot->watch, PQsocket(slot->conn), PW_READ, home_ready, slot_failed, slot);
	events->opened(slot - slots);
}

/*
 * Tell a backend which slot it is, and give it the pool's epoll sets.
 */
static bool
send_welcome(PwSlot *slot)
{
	PwHomeMessage message = {.kind = PW_HOME_HIGH_SET,.slot = slot - slots,
	.generation = PwControl->worker_generation};
	int			sock = PQsocket(slot->conn);

	if (pw_home_send(sock, &message, slot->high_epfd) != PW_HOME_OK)
		return false;
	message.kind = PW_HOME_WELCOME;
	return pw_home_send(sock, &message, slot->epfd) == PW_HOME_OK;
}

/*
 * Watch callback: the slot's backend says something, or is gone.
 */
static void
home_ready(void *arg, int ready)
{
	PwSlot	   *slot = (PwSlot *) arg;
	PwHomeMessage message;
	int			fd;

	for (;;)
	{
		switch (pw_home_receive(slot->watch.fd, &message, &fd))
		{
			case PW_HOME_OK:
				if (fd >= 0)
					close(fd);	/* slots have none to give */
				answer_want(slot - slots, &message);
				break;
			case PW_HOME_WOULD_BLOCK:
				return;
			case PW_HOME_CLOSED:
				slot_close(slot);
				return;
		}
	}
}

/*
 * A slot has taken a client out of the epoll set and lacks its descriptor.
 *
 * The slot owns the client then, so the entry cannot change under us; if it
 * has, the slot asks for one that is no longer its own.
 */
static void
answer_want(int index, const PwHomeMessage *message)
{
	PwSlot	   *slot = &slots[index];
	PwHomeMessage answer = *message;
	int			fd = -1;
	uint64		word;

	if (message->kind != PW_HOME_WANT_CLIENT || message->client >= PwControl->max_clients)
		elog(ERROR, "unexpected message from pool slot %d", index);

	word = pg_atomic_read_u64(&PwClients[message->client].word);
	answer.kind = PW_HOME_CLIENT_GONE;
	if (PW_WORD_GENERATION(word) == message->generation &&
		PW_WORD_STATE(word) == PW_CLIENT_ATTACHED && PW_WORD_SLOT(word) == index)
	{
		answer.kind = PW_HOME_CLIENT;
		fd = PwControl->fd_base + message->client;
		set_holds(index, message->client);
	}

	/* a slot asks one thing at a time, so there is room for the answer */
	if (pw_home_send(PQsocket(slot->conn), &answer, fd) != PW_HOME_OK)
		elog(ERROR, "could not answer pool slot %d", index);
}

bool
pw_slot_send_client(int index, int client)
{
	PwHomeMessage message = {.kind = PW_HOME_CLIENT,.client = client,
	.generation = PW_WORD_GENERATION(pg_atomic_read_u64(&PwClients[client].word))};

	if (slots[index].holds[client / 8] & (1 << (client % 8)))
		return false;
	if (pw_home_send(PQsocket(slots[index].conn), &message,
					 PwControl->fd_base + client) != PW_HOME_OK)
		return false;
	set_holds(index, client);
	return true;
}

static void
set_holds(int slot, int client)
{
	slots[slot].holds[client / 8] |= (1 << (client % 8));
}

void
pw_slot_forget_client(int client)
{
	for (int i = 0; i < PwControl->max_slots; i++)
		if (slots[i].holds != NULL)
			slots[i].holds[client / 8] &= ~(1 << (client % 8));
}

void
pw_slot_signal(int slot, int signal_number)
{
	kill(PwSlots[slot].pid, signal_number);
#ifdef HAVE_SETSID
	kill(-PwSlots[slot].pid, signal_number);
#endif
}

/*
 * The backend of a slot is gone.
 */
static void
slot_close(PwSlot *slot)
{
	int			index = slot - slots;
	int			pool;

	pg_atomic_write_u32(&PwSlots[index].activity, PW_SLOT_GONE);
	pw_watch_remove(&slot->watch);
	pool = PwSlots[index].pool;
	events->gone(index);
	slot_empty(index);
	events->emptied(pool);
}

/*
 * Forget the slot's connection; the slot is EMPTY afterwards.
 */
static void
slot_empty(int index)
{
	PwSlot	   *slot = &slots[index];
	PwShmSlot  *shared = &PwSlots[index];

	/* the loop must forget the descriptor before libpq closes it */
	pw_watch_remove(&slot->watch);
	pw_timer_disarm(&slot->deadline);
	if (slot->conn != NULL)
	{
		/* not PQfinish alone: it would send a Terminate message */
		if (PQsocket(slot->conn) >= 0)
			shutdown(PQsocket(slot->conn), SHUT_RDWR);
		PQfinish(slot->conn);
		ReleaseExternalFD();
	}
	slot->conn = NULL;
	if (slot->holds != NULL)
		pfree(slot->holds);
	slot->holds = NULL;

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	shared->pid = 0;
	shared->pool = PW_NONE;
	LWLockRelease(&PwControl->lock);
	shared->client = shared->assigned = PW_NONE;
	shared->alive = false;
	pg_atomic_write_u32(&shared->activity, PW_SLOT_EMPTY);
	ConditionVariableBroadcast(&PwControl->slot_emptied);
}

/*
 * A slot of an earlier worker finishes its transaction and exits; until then
 * its entry stays as it is.  Its backend sets GONE on the way out.
 */
bool
pw_slot_reclaim_orphans(void (*reclaimed) (int slot))
{
	bool		found = false;

	for (int i = 0; i < PwControl->max_slots; i++)
	{
		if (PwSlots[i].worker_generation == PwControl->worker_generation)
			continue;
		if (pg_atomic_read_u32(&PwSlots[i].activity) != PW_SLOT_GONE)
			continue;
		reclaimed(i);
		slot_empty(i);
		found = true;
	}
	return found;
}

/* Where the server's own Unix socket is, or NULL if it has none. */
static const char *
first_socket_directory(void)
{
	List	   *directories;

	if (!SplitDirectoriesString(pstrdup(Unix_socket_directories), ',', &directories) ||
		directories == NIL)
		return NULL;
	return (const char *) linitial(directories);
}
