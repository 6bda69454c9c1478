/*-------------------------------------------------------------------------
 *
 * client.c
 *	  One accepted socket, from accept() to closed.
 *
 * Runs in: pool worker.
 *
 * This file moves bytes between the socket of a client that is being admitted
 * and auth.c, which understands them.  Once a client has logged in, its socket
 * is the business of pool.c and of the slots, until it comes back to be
 * closed.
 *
 * Entries of shared memory are used in the order in which they became free,
 * last one first, so that the descriptors in use stay dense.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/ip.h"
#include "libpq/libpq.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "storage/fd.h"
#include "storage/pmsignal.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "client.h"
#include "compat.h"
#include "event_loop.h"
#include "protocol.h"
#include "settings.h"
#include "shared_state.h"
#include "tcp_options.h"

/* Descriptors below the clients' that PostgreSQL's own accounting misses. */
#define PW_FD_MARGIN 128

/* Wait event sets that a slot keeps, if the limit of open files allows it. */
#define PW_WAIT_SETS 1024
#define PW_MIN_WAIT_SETS 16

/* BackendKeyData of a client: no process has a number as high as that. */
#define PW_CANCEL_PID_BASE (1 << 30)

/* The worker's own part of a client; valid unless FREE. */
typedef struct PwClient
{
	PwWatch		watch;			/* while being admitted */
	PwTimer		deadline;		/* authentication_timeout */
	MemoryContext context;		/* holds auth and out; NULL once admitted */
	PwAuth	   *auth;
	StringInfoData out;			/* not sent yet */
	int			sent;			/* bytes of "out" that are */
	bool		login_complete; /* goes to its pool once "out" is sent */
	bool		close_when_sent;
	bool		has_fd;			/* the descriptor is open in this process */
} PwClient;

static const PwClientEvents *events = NULL;
static PwClient *clients = NULL;

/* What pw_client_quit() sends, by reason. */
static StringInfoData last_words[PMQUIT_FOR_STOP + 1];
static int *free_entries = NULL;
static int	nfree = 0;
static uint64 next_id = 1;

/* the client that accept is working on, for the case of an error */
static int	accepting = PW_NONE;

static void raise_file_limit(void);
static void forget_earlier_clients(void);
static void find_last_words(void);
static bool is_orphan(int client, uint64 word, int slot);
static int	accept_one(int listener);
static void refuse_unseen(int fd);
static bool place_descriptor(int fd, int client);
static void init_entry(int client, const SockAddr *raddr);
static void find_local_address(int fd, const SockAddr *raddr, SockAddr *laddr);
static void name_address(PwShmClient *shared);
static void begin_admission(int client);
static int	peer_uid(int fd, const SockAddr *raddr);
static void client_ready(void *arg, int ready);
static void client_failed(void *arg);
static void admission_timed_out(void *arg);
static bool client_receive(int client);
static bool client_feed(int client, const char *data, size_t len);
static bool client_send(int client);
static void finish_admission(int client);
static void make_cancel_key(uint8 *key);
static void end_admission(PwClient *local);
static bool may_close(uint64 word);
static bool refuse(int client, uint64 word, const PwReport *report);
static bool try_close(int client, uint64 word);
static void free_entry(int client, bool was_shut_down);
static void free_session(PwShmClient *shared);
static void shut_down(int fd);
static void announce_departure(int client);
static void send_farewell(int client, const PwReport *report);

void
pw_client_init(const PwClientEvents *client_events)
{
	events = client_events;
	raise_file_limit();

	clients = MemoryContextAllocZero(TopMemoryContext,
									 sizeof(PwClient) * PwControl->max_clients);
	free_entries = MemoryContextAlloc(TopMemoryContext,
									  sizeof(int) * PwControl->max_clients);
	forget_earlier_clients();
	find_last_words();
}

/*
 * Raise the soft limit of open files to the hard one, and divide the numbers
 * between PostgreSQL's own files, below fd_base, and clients.
 *
 * PostgreSQL keeps itself below max_safe_fds.  If the limit leaves less than
 * that for both, we lower max_safe_fds in this process; slots do the same.
 */
static void
raise_file_limit(void)
{
	struct rlimit limit;
	int			wanted = PwControl->max_clients;
	int			base = max_safe_fds + PW_FD_MARGIN + PW_WAIT_SETS;
	int			room;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		elog(FATAL, "getrlimit failed: %m");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		elog(FATAL, "setrlimit failed: %m");

	PwControl->wait_sets = PW_WAIT_SETS;
	if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < base + wanted)
	{
		base = Min(max_safe_fds + PW_FD_MARGIN, (int) (limit.rlim_max / 2));
		PwControl->wait_sets = PW_MIN_WAIT_SETS;
	}
	room = (limit.rlim_max == RLIM_INFINITY || limit.rlim_max > INT_MAX) ?
		INT_MAX : (int) limit.rlim_max - base;

	PwControl->fd_base = base;
	PwControl->client_limit = Max(0, Min(pw_max_clients, room - PW_SPARE_CLIENTS));
	max_safe_fds = Min(max_safe_fds, base - Min(PW_FD_MARGIN, base / 4));

	if (PwControl->client_limit < pw_max_clients)
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("the connection pool can serve %d clients only", PwControl->client_limit),
				 errdetail("\"pool_worker.max_clients\" is %d, but the server may have %d files open in a process.",
						   pw_max_clients, (int) limit.rlim_max),
				 errhint("Raise the limit of open files (ulimit -n, LimitNOFILE) of the server, or lower \"pool_worker.max_clients\".")));
}

/*
 * Take over the entries.  Clients of an earlier worker were closed with it,
 * but for those that a slot of that worker still serves: such an entry stays
 * reserved until that slot is gone.
 */
static void
forget_earlier_clients(void)
{
	int			usable = Min(PwControl->max_clients,
							 PwControl->client_limit + PW_SPARE_CLIENTS);

	PwControl->clients = 0;
	(void) pw_client_take_leavers();
	for (int i = PwControl->max_clients - 1; i >= 0; i--)
	{
		uint64		word = pg_atomic_read_u64(&PwClients[i].word);
		PwClientState state = PW_WORD_STATE(word);

		clients[i].watch.fd = -1;
		if (state == PW_CLIENT_ATTACHED)
			continue;
		free_session(&PwClients[i]);
		PwClients[i].pool = PW_NONE;
		pg_atomic_write_u64(&PwClients[i].word,
							PW_CLIENT_WORD(PW_WORD_GENERATION(word), PW_CLIENT_FREE, PW_NONE));
		if (i < usable)
			free_entries[nfree++] = i;
	}
}

void
pw_client_forget_orphans(int slot)
{
	for (int i = 0; i < PwControl->max_clients; i++)
	{
		uint64		word = pg_atomic_read_u64(&PwClients[i].word);

		if (is_orphan(i, word, slot) &&
			pw_client_move(&PwClients[i], word, PW_CLIENT_CLOSING, PW_NONE))
			free_entry(i, true);
	}
}

/*
 * Is this a client of an earlier worker that the slot, or any slot that has
 * parked it after we had looked, has left behind?  Clients of ours have their
 * descriptor open.
 */
static bool
is_orphan(int client, uint64 word, int slot)
{
	if (clients[client].has_fd)
		return false;
	return (PW_WORD_STATE(word) == PW_CLIENT_ATTACHED && PW_WORD_SLOT(word) == slot) ||
		PW_WORD_STATE(word) == PW_CLIENT_PARKED;
}

int
pw_client_fd(int client)
{
	return PwControl->fd_base + client;
}

int
pw_client_find_by_key(const PwCancelKey *key)
{
	int64		client = (int64) key->pid - PW_CANCEL_PID_BASE;

	if (client < 0 || client >= PwControl->max_clients ||
		PwClients[client].pool == PW_NONE ||
		key->size != pw_cancel_key_size(PwClients[client].protocol) ||
		timingsafe_bcmp(key->bytes, PwClients[client].cancel_key, key->size) != 0)
		return PW_NONE;
	return (int) client;
}

/*
 * Accept whoever waits, a bounded number at a time so that a flood of new
 * clients does not hold up the others.
 */
void
pw_client_accept(int listener)
{
	for (int i = 0; i < 16; i++)
	{
		int			client = accept_one(listener);

		if (client == PW_NONE)
			break;
		accepting = client;
		begin_admission(client);
		accepting = PW_NONE;
	}
}

void
pw_client_accept_failed(void)
{
	if (accepting != PW_NONE)
		client_failed(&clients[accepting]);
	accepting = PW_NONE;
}

/*
 * Accept one client and give it an entry.  Returns PW_NONE if nobody waits or
 * there was no room.
 */
static int
accept_one(int listener)
{
	SockAddr	raddr;
	int			fd;
	int			client;

	raddr.salen = sizeof(raddr.addr);
	fd = accept4(listener, (struct sockaddr *) &raddr.addr, &raddr.salen,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0)
	{
		/* the other errors are those of a client that has left already */
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			ereport(LOG,
					(errcode_for_socket_access(),
					 errmsg("could not accept new pool connection: %m")));
		return PW_NONE;
	}

	if (nfree == 0)
	{
		refuse_unseen(fd);
		return PW_NONE;
	}
	client = free_entries[nfree - 1];
	if (!place_descriptor(fd, client))
		return PW_NONE;
	nfree--;
	init_entry(client, &raddr);
	return client;
}

/*
 * Turn away a client for which there is not even an entry to read its startup
 * packet.  What it sends is a bare ErrorResponse, as from a postmaster that
 * cannot fork.
 */
static void
refuse_unseen(int fd)
{
	StringInfoData out;
	PwReport	report = {.sqlstate = ERRCODE_TOO_MANY_CONNECTIONS,.message = "sorry, too many clients already"};

	initStringInfo(&out);
	pw_build_error(&out, "FATAL", &report);
	(void) send(fd, out.data, out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	close(fd);
	pfree(out.data);
}

/*
 * Give the socket its number.  F_DUPFD takes the number if it is free and a
 * higher one if not; it never closes what somebody else has there.
 */
static bool
place_descriptor(int fd, int client)
{
	int			wanted = pw_client_fd(client);
	int			got = fcntl(fd, F_DUPFD_CLOEXEC, wanted);

	close(fd);
	if (got == wanted)
		return true;
	if (got >= 0)
		close(got);
	ereport(LOG,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not give descriptor %d to a pool client", wanted)));
	return false;
}

static void
init_entry(int client, const SockAddr *raddr)
{
	PwShmClient *shared = &PwClients[client];
	PwClient   *local = &clients[client];
	int			fd = pw_client_fd(client);

	(void) pw_client_move(shared, pg_atomic_read_u64(&shared->word),
						  PW_CLIENT_ADMITTING, PW_NONE);
	memset(local, 0, sizeof(PwClient));
	local->watch.fd = -1;
	local->has_fd = true;

	shared->pool = PW_NONE;
	shared->id = next_id++;
	shared->raddr = *raddr;
	shared->connected_at = shared->state_since = pw_loop_now();
	shared->idle_since = shared->connected_at;
	shared->told_ok = shared->said_hello = shared->told_standby = false;
	shared->hung_up = false;
	shared->pin_reason = PW_PIN_NONE;
	shared->pinned_since = 0;
	shared->last_slot = PW_NONE;
	shared->parked_at = shared->ready_since = 0;
	shared->last_wait = 0;
	shared->transactions = 0;
	shared->application_name[0] = '\0';
	shared->settings = shared->session = InvalidDsaPointer;
	shared->settings_len = shared->session_len = shared->session_size = 0;
	find_local_address(fd, &shared->raddr, &shared->laddr);
	pw_tcp_options_init(fd, shared);
	name_address(shared);
}

/*
 * Our end of the connection.
 */
static void
find_local_address(int fd, const SockAddr *raddr, SockAddr *laddr)
{
	if (raddr->addr.ss_family == AF_UNIX)
	{
		/* that it is one is all that anybody asks of it */
		laddr->addr.ss_family = AF_UNIX;
		laddr->salen = sizeof(laddr->addr.ss_family);
		return;
	}
	laddr->salen = sizeof(laddr->addr);
	if (getsockname(fd, (struct sockaddr *) &laddr->addr, &laddr->salen) < 0)
		laddr->salen = 0;
}

static void
name_address(PwShmClient *shared)
{
	if (shared->raddr.addr.ss_family == AF_UNIX)
	{
		strlcpy(shared->remote_host, "[local]", PW_REMOTE_HOST_LEN);
		shared->remote_port[0] = '\0';
	}
	else if (pg_getnameinfo_all(&shared->raddr.addr, shared->raddr.salen,
								shared->remote_host, PW_REMOTE_HOST_LEN,
								shared->remote_port, PW_REMOTE_PORT_LEN,
								NI_NUMERICHOST | NI_NUMERICSERV) != 0)
	{
		strlcpy(shared->remote_host, "???", PW_REMOTE_HOST_LEN);
		shared->remote_port[0] = '\0';
	}
}

/*
 * Start reading from a new client.  Its startup packet is often here already,
 * so try before going to sleep.
 */
static void
begin_admission(int client)
{
	PwShmClient *shared = &PwClients[client];
	PwClient   *local = &clients[client];
	PwPeer		peer;
	MemoryContext oldcontext;

	local->context = AllocSetContextCreate(TopMemoryContext, "pool client admission",
										   ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(local->context);
	initStringInfo(&local->out);
	peer.raddr = shared->raddr;
	peer.laddr = shared->laddr;
	peer.remote_host = shared->remote_host;
	peer.remote_port = shared->remote_port;
	peer.peer_uid = peer_uid(pw_client_fd(client), &shared->raddr);
	local->auth = pw_auth_create(local->context, &peer);
	MemoryContextSwitchTo(oldcontext);

	if (log_connections & LOG_CONNECTION_RECEIPT)
		ereport(LOG,
				(errmsg("pool connection received: host=%s%s%s",
						shared->remote_host,
						shared->remote_port[0] ? " port=" : "",
						shared->remote_port)));

	pw_timer_arm(&local->deadline,
				 TimestampTzPlusMilliseconds(pw_loop_now(), (int64) AuthenticationTimeout * 1000),
				 admission_timed_out, client_failed, local);
	if (client_receive(client))
		pw_watch_add(&local->watch, pw_client_fd(client),
					 local->sent < local->out.len ? PW_WRITE : PW_READ,
					 client_ready, client_failed, local);
}

/* Who is at the other end of a Unix socket; -1 if that cannot be told. */
static int
peer_uid(int fd, const SockAddr *raddr)
{
	struct ucred credentials;
	socklen_t	len = sizeof(credentials);

	if (raddr->addr.ss_family != AF_UNIX ||
		getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &len) < 0)
		return -1;
	return (int) credentials.uid;
}

/*
 * Watch callback: the socket of a client in admission is ready.
 */
static void
client_ready(void *arg, int ready)
{
	PwClient   *local = (PwClient *) arg;
	int			client = local - clients;
	bool		going_on;

	if (local->sent < local->out.len)
		going_on = client_send(client);
	else
		going_on = client_receive(client);

	if (going_on)
		pw_watch_set_events(&local->watch,
							local->sent < local->out.len ? PW_WRITE : PW_READ);
}

/*
 * Watch and timer callback: an error was raised in this client's name.
 *
 * An error in what the client said is told to it, as the server does.  What
 * else went wrong in here is for the log only.
 */
static void
client_failed(void *arg)
{
	int			client = (PwClient *) arg - clients;
	PwReport	report = {.sqlstate = pw_loop_error_code(),
	.message = pw_loop_error_message()};

	if (report.sqlstate != ERRCODE_PROTOCOL_VIOLATION)
	{
		report.sqlstate = ERRCODE_INTERNAL_ERROR;
		report.message = "the connection pool could not serve this client";
	}
	if (!pw_client_refuse(client, &report))
		(void) pw_client_close(client);
}

/* Timer callback: authentication_timeout has passed. */
static void
admission_timed_out(void *arg)
{
	PwClient   *local = (PwClient *) arg;
	int			client = local - clients;

	ereport(LOG,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("canceling authentication of pool client due to timeout"),
			 errdetail("Client address: %s.", PwClients[client].remote_host)));
	(void) pw_client_close(client);
}

/*
 * Read what is there and let auth.c have it.  True if the client is still
 * being admitted and must be watched.
 */
static bool
client_receive(int client)
{
	char		buffer[8192];
	ssize_t		received;

	received = recv(pw_client_fd(client), buffer, sizeof(buffer), MSG_DONTWAIT);
	if (received > 0)
	{
		bool		going_on = client_feed(client, buffer, received);

		explicit_bzero(buffer, received);	/* may have been a password */
		return going_on;
	}
	if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return true;

	(void) pw_client_close(client);
	return false;
}

static bool
client_feed(int client, const char *data, size_t len)
{
	PwClient   *local = &clients[client];

	switch (pw_auth_feed(local->auth, data, len, &local->out))
	{
		case PW_AUTH_CONTINUE:
			break;
		case PW_AUTH_OK:
			local->login_complete = true;
			break;
		case PW_AUTH_REFUSED:
			events->refused(pw_auth_database(local->auth), pw_auth_role(local->auth));
			local->close_when_sent = true;
			break;
		case PW_AUTH_CANCEL:
			events->cancel(pw_auth_cancel_key(local->auth));
			local->close_when_sent = true;
			break;
	}
	return client_send(client);
}

/*
 * Send what is waiting to be sent, and then do what was waiting for that.
 * True if the client is still being admitted and must be watched.
 */
static bool
client_send(int client)
{
	PwClient   *local = &clients[client];

	while (local->sent < local->out.len)
	{
		ssize_t		n = send(pw_client_fd(client), local->out.data + local->sent,
							 local->out.len - local->sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0)
			local->sent += n;
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return true;
		else
		{
			local->close_when_sent = true;
			break;
		}
	}

	if (local->close_when_sent)
	{
		(void) pw_client_close(client);
		return false;
	}
	if (local->login_complete)
	{
		finish_admission(client);
		return false;
	}
	resetStringInfo(&local->out);
	local->sent = 0;
	return true;
}

/*
 * The client has logged in: from now on it is a socket and an entry.
 */
static void
finish_admission(int client)
{
	PwShmClient *shared = &PwClients[client];
	PwClient   *local = &clients[client];
	const PwLogin *login = pw_auth_login(local->auth);

	shared->cancel_pid = PW_CANCEL_PID_BASE + client;
	make_cancel_key(shared->cancel_key);
	shared->protocol = login->protocol;
	shared->settings = dsa_allocate(pw_shared_area(), login->settings.len);
	shared->settings_len = login->settings.len;
	memcpy(dsa_get_address(pw_shared_area(), shared->settings),
		   login->settings.data, login->settings.len);

	pw_watch_remove(&local->watch);
	pw_timer_disarm(&local->deadline);
	events->authenticated(client, login);
	end_admission(local);
}

/*
 * Asking for many random bytes at once costs as much as for a few.
 */
static void
make_cancel_key(uint8 *key)
{
	static uint8 keys[64][PW_CANCEL_KEY_SIZE];
	static int	nkeys = 0;

	if (nkeys == 0)
	{
		if (!pg_strong_random(keys, sizeof(keys)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random cancel key")));
		nkeys = lengthof(keys);
	}
	memcpy(key, keys[--nkeys], PW_CANCEL_KEY_SIZE);
	explicit_bzero(keys[nkeys], PW_CANCEL_KEY_SIZE);
}

/* Forget everything that was needed for the admission only. */
static void
end_admission(PwClient *local)
{
	pw_watch_remove(&local->watch);
	pw_timer_disarm(&local->deadline);
	if (local->context != NULL)
		MemoryContextDelete(local->context);
	local->context = NULL;
	local->auth = NULL;
}

bool
pw_client_close(int client)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);

	return may_close(word) && try_close(client, word);
}

bool
pw_client_close_leaver(int client)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);

	if (PW_WORD_STATE(word) != PW_CLIENT_LEAVING)
		return true;
	if (PwClients[client].hung_up && !pw_client_has_left(client))
		return false;
	return try_close(client, word);
}

void
pw_client_close_attached(int client)
{
	(void) try_close(client, pg_atomic_read_u64(&PwClients[client].word));
}

bool
pw_client_refuse(int client, const PwReport *report)
{
	uint64		word = pg_atomic_read_u64(&PwClients[client].word);

	return may_close(word) && refuse(client, word, report);
}

/*
 * Is it a client that we may close as soon as we like?  One that is LEAVING is on
 * the list of leavers: if its entry was used again before we have taken that, it
 * could get onto the list once more, which would have no end then.
 */
static bool
may_close(uint64 word)
{
	PwClientState state = PW_WORD_STATE(word);

	return state == PW_CLIENT_ADMITTING || state == PW_CLIENT_PARKED ||
		state == PW_CLIENT_HELD;
}

static bool
refuse(int client, uint64 word, const PwReport *report)
{
	if (!pw_client_move(&PwClients[client], word, PW_CLIENT_CLOSING, PW_NONE))
		return false;
	send_farewell(client, report);
	free_entry(client, false);
	return true;
}

bool
pw_client_hold(int client, TimestampTz since)
{
	PwShmClient *shared = &PwClients[client];
	uint64		word = pg_atomic_read_u64(&shared->word);

	if (PW_WORD_STATE(word) != PW_CLIENT_PARKED ||
		!pw_client_move(shared, word, PW_CLIENT_HELD, PW_NONE))
		return false;
	if (since == PW_WHENEVER || pw_client_waiting_since(shared) == since)
		return true;
	pw_client_release(client);
	return false;
}

void
pw_client_release(int client)
{
	PwShmClient *shared = &PwClients[client];

	(void) pw_client_move(shared, pg_atomic_read_u64(&shared->word),
						  PW_CLIENT_PARKED, PW_NONE);
}

bool
pw_client_tell(int client, TimestampTz since, const PwReport *report)
{
	PwShmClient *shared = &PwClients[client];
	StringInfoData out;
	int			notice_at;		/* where in "out" */
	int			start;
	bool		told = false;

	initStringInfo(&out);
	pw_build_authentication(&out, AUTH_REQ_OK, NULL, 0);
	notice_at = out.len;
	pw_build_notice(&out, "NOTICE", report);

	if (!pw_client_hold(client, since))
		return false;
	start = shared->said_hello || shared->told_ok ? notice_at : 0;
	if (!pw_client_has_unsent_output(client))
	{
		shared->told_ok = told = true;
		if (!pw_client_send_or_close(client, out.data + start, out.len - start))
			return false;
	}
	pw_client_release(client);
	return told;
}

bool
pw_client_send_or_close(int client, const char *data, size_t len)
{
	if (send(pw_client_fd(client), data, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t) len)
		return true;
	(void) pw_client_close(client);
	return false;
}

/*
 * Is there anything that the client has not taken yet?  If not, there is room
 * for a short message as a whole.
 */
bool
pw_client_has_unsent_output(int client)
{
	int			unsent;

	return ioctl(pw_client_fd(client), SIOCOUTQ, &unsent) != 0 || unsent > 0;
}

bool
pw_client_has_left(int client)
{
	char		byte;
	ssize_t		n = recv(pw_client_fd(client), &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n > 0)
		return byte == 'X';
	return n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

void
pw_client_close_all(void)
{
	PwReport	report = {.sqlstate = ERRCODE_ADMIN_SHUTDOWN,
	.message = "terminating connection due to administrator command"};

	/* nobody is let in any more, so leavers need not wait for their turn */
	for (int i = 0; i < PwControl->max_clients; i++)
	{
		uint64		word = pg_atomic_read_u64(&PwClients[i].word);

		if (clients[i].has_fd &&
			(may_close(word) || PW_WORD_STATE(word) == PW_CLIENT_LEAVING))
			(void) refuse(i, word, &report);
	}
}

/*
 * The messages of quickdie() in postgres.c.
 */
static void
find_last_words(void)
{
	const PwReport crash = {
		.sqlstate = ERRCODE_CRASH_SHUTDOWN,
		.message = _("terminating connection because of crash of another server process"),
		.detail = _("The postmaster has commanded this server process to roll back"
					" the current transaction and exit, because another"
					" server process exited abnormally and possibly corrupted"
					" shared memory."),
		.hint = _("In a moment you should be able to reconnect to the"
				  " database and repeat your command."),
	};
	const PwReport stop = {
		.sqlstate = ERRCODE_ADMIN_SHUTDOWN,
		.message = _("terminating connection due to immediate shutdown command"),
	};
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

	for (int i = 0; i < lengthof(last_words); i++)
		initStringInfo(&last_words[i]);
	pw_build_notice(&last_words[PMQUIT_FOR_CRASH], "WARNING", &crash);
	pw_build_notice(&last_words[PMQUIT_FOR_STOP], "WARNING", &stop);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Not to those who are being admitted, as in the server: nothing may come
 * before AuthenticationOk.
 */
void
pw_client_quit(void)
{
	QuitSignalReason reason = GetQuitSignalReason();

	for (int i = 0; clients != NULL && i < PwControl->max_clients; i++)
	{
		PwClientState state = PW_WORD_STATE(pg_atomic_read_u64(&PwClients[i].word));

		if (clients[i].has_fd &&
			(state == PW_CLIENT_PARKED || state == PW_CLIENT_HELD) &&
			(PwClients[i].said_hello || PwClients[i].told_ok))
			(void) send(pw_client_fd(i), last_words[reason].data, last_words[reason].len,
						MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

bool
pw_client_is_on_the_way(void)
{
	for (int i = 0; i < PwControl->max_clients; i++)
	{
		uint64		word = pg_atomic_read_u64(&PwClients[i].word);

		if (!clients[i].has_fd)
			continue;
		if (PW_WORD_STATE(word) != PW_CLIENT_ATTACHED ||
			PwSlots[PW_WORD_SLOT(word)].client != i)
			return true;
	}
	return false;
}

static bool
try_close(int client, uint64 word)
{
	if (!pw_client_move(&PwClients[client], word, PW_CLIENT_CLOSING, PW_NONE))
		return false;
	free_entry(client, PW_WORD_STATE(word) == PW_CLIENT_LEAVING && !PwClients[client].hung_up);
	return true;
}

/*
 * Close a client that is CLOSING, and free its entry.
 *
 * Slots may hold the descriptor as well, so closing ours would not be noticed
 * at the other end: shut the connection down first, unless a slot has.
 */
static void
free_entry(int client, bool was_shut_down)
{
	PwShmClient *shared = &PwClients[client];
	PwClient   *local = &clients[client];

	end_admission(local);
	if (shared->pool != PW_NONE && local->has_fd)
		events->closing(client);
	if (local->has_fd)
	{
		if (!was_shut_down)
			shut_down(pw_client_fd(client));
		close(pw_client_fd(client));
	}
	local->has_fd = false;
	if (shared->pool != PW_NONE)
		announce_departure(client);

	free_session(shared);
	shared->pool = PW_NONE;
	(void) pw_client_move(shared, pg_atomic_read_u64(&shared->word),
						  PW_CLIENT_FREE, PW_NONE);
	free_entries[nfree++] = client;
}

/*
 * Free what a client has in the DSA area.
 */
static void
free_session(PwShmClient *shared)
{
	if (DsaPointerIsValid(shared->settings))
		dsa_free(pw_shared_area(), shared->settings);
	if (DsaPointerIsValid(shared->session))
		dsa_free(pw_shared_area(), shared->session);
	shared->settings = shared->session = InvalidDsaPointer;
	shared->session_len = shared->session_size = 0;
}

/*
 * Shut a connection down.  First read what the client has sent and nobody
 * wants any more: closing a TCP socket with unread input resets the connection,
 * and the client might never see the error that we have just sent.
 */
static void
shut_down(int fd)
{
	char		buffer[4096];

	for (int i = 0; i < 16; i++)
		if (recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) < (ssize_t) sizeof(buffer))
			break;
	(void) shutdown(fd, SHUT_RDWR);
}

/*
 * Let the slots know that they can drop their copies of the descriptor.
 */
static void
announce_departure(int client)
{
	uint64		count = pg_atomic_read_u64(&PwControl->departures);

	PwControl->departed[count % PW_DEPARTURES] = client;
	pg_write_barrier();
	pg_atomic_write_u64(&PwControl->departures, count + 1);
}

static void
send_farewell(int client, const PwReport *report)
{
	StringInfoData out;

	if (!clients[client].has_fd)
		return;
	initStringInfo(&out);
	pw_build_error(&out, "FATAL", report);
	(void) send(pw_client_fd(client), out.data, out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	pfree(out.data);
}
