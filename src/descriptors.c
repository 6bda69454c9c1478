/*-------------------------------------------------------------------------
 *
 * descriptors.c
 *	  The clients' sockets that a slot holds, and what it waits on for them.
 *
 * Runs in: slots.
 *
 * A client's socket has the same number in every process.  A slot receives it
 * once, from the worker, and keeps it until the client has left: the worker
 * writes each departure into a ring in shared memory, and slots read it when
 * they pass by.  What makes a stale descriptor harmless is not the ring but
 * the generation, which is compared whenever a client is attached.
 *
 * The backend waits for its client in FeBeWaitSet.  Such a set costs a few
 * system calls to build and a descriptor to keep, so we keep those that were
 * used last, up to control->wait_sets.  CreateWaitEventSet() counts their
 * descriptors against max_safe_fds, where they would take the place of data
 * files; ours have numbers of their own, which the worker has put aside below
 * fd_base, so we take them out of that count.
 *
 * A client's number is soon another's, so when a client leaves we put its set
 * aside.  PostgreSQL has no way to put another socket into a set, not even one
 * with the same number.  But epoll has, and ModifyWaitEvent() then fills in the
 * rest; all it takes is to know the set's epoll descriptor.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "descriptors.h"
#include "fd_passing.h"
#include "shared_state.h"


typedef struct PwDescriptor
{
	bool		held;
	uint32		generation;		/* valid while held */
	WaitEventSet *set;			/* or NULL; the rest is valid if it is not */
	int			epfd;			/* the set's own descriptor, or -1 */
	bool		is_spare;		/* the set is put aside, without a socket */
	dlist_node	lru;
} PwDescriptor;

/* A slot keeps so many sets that are put aside. */
#define MAX_SPARE_SETS 16

static int	home_sock = -1;
static WaitEventSet *home_set = NULL;

/* by client index; grows as needed */
static PwDescriptor *descriptors = NULL;
static int	ndescriptors = 0;

/* wait sets, the one used last at the head */
static dlist_head wait_sets = DLIST_STATIC_INIT(wait_sets);
static int	nwait_sets = 0;
static int	nspare_sets = 0;

/* departures looked at so far */
static uint64 departures_seen = 0;

static PwDescriptor *descriptor_entry(int client);
static void grow_table(int client);
static bool receive_client(int client, uint32 generation);
static PwHomeResult receive_one(PwHomeMessage *message);
static bool wait_for_home(void);
static void keep_descriptor(const PwHomeMessage *message, int fd);
static void build_wait_set(PwDescriptor *entry, int fd);
static int	next_descriptor(void);
static bool put_aside(PwDescriptor *entry, int fd);
static bool use_again(PwDescriptor *entry, int fd);
static void fill_in_socket(WaitEventSet *set);
static void free_wait_set(PwDescriptor *entry);
static void drop_all_stale(void);

void
pw_descriptors_init(int home, WaitEventSet *set)
{
	home_sock = home;
	home_set = set;
	departures_seen = pg_atomic_read_u64(&PwControl->departures);
}

int
pw_descriptor_get(int client, uint32 generation)
{
	PwDescriptor *entry = descriptor_entry(client);

	if ((!entry->held || entry->generation != generation) &&
		!receive_client(client, generation))
		return -1;
	return PwControl->fd_base + client;
}

/*
 * The table's entry for a client.  The pointer is valid until the next call.
 */
static PwDescriptor *
descriptor_entry(int client)
{
	if (client >= ndescriptors)
		grow_table(client);
	return &descriptors[client];
}

/* The list links the entries, so moving them means linking them anew. */
static void
grow_table(int client)
{
	int			size = Min(Max(client + 1, Max(64, ndescriptors * 2)), PwControl->max_clients);
	PwDescriptor *grown = MemoryContextAllocZero(TopMemoryContext, sizeof(PwDescriptor) * size);
	dlist_mutable_iter iter;
	dlist_head	moved;

	dlist_init(&moved);
	if (descriptors != NULL)
		memcpy(grown, descriptors, sizeof(PwDescriptor) * ndescriptors);
	dlist_foreach_modify(iter, &wait_sets)
	{
		PwDescriptor *old = dlist_container(PwDescriptor, lru, iter.cur);

		dlist_delete(iter.cur);
		dlist_push_tail(&moved, &grown[old - descriptors].lru);
	}
	dlist_init(&wait_sets);
	dlist_foreach_modify(iter, &moved)
	{
		dlist_delete(iter.cur);
		dlist_push_tail(&wait_sets, iter.cur);
	}

	if (descriptors != NULL)
		pfree(descriptors);
	descriptors = grown;
	ndescriptors = size;
}

/*
 * Get a client's socket.  The worker may have sent it already, together with
 * others; if not, ask for it.
 */
static bool
receive_client(int client, uint32 generation)
{
	PwHomeMessage want = {.kind = PW_HOME_WANT_CLIENT,.client = client,
	.generation = generation};
	bool		asked = false;

	for (;;)
	{
		PwHomeMessage message;
		PwDescriptor *entry;

		switch (receive_one(&message))
		{
			case PW_HOME_OK:
				break;
			case PW_HOME_WOULD_BLOCK:
				if (!asked && pw_home_send(home_sock, &want, -1) != PW_HOME_OK)
					return false;
				asked = true;
				if (!wait_for_home())
					return false;
				continue;
			case PW_HOME_CLOSED:
				return false;
		}

		entry = descriptor_entry(client);
		if (entry->held && entry->generation == generation)
			return true;
		if (message.kind == PW_HOME_CLIENT_GONE && message.client == client)
			return false;
	}
}

/*
 * Receive one message, and keep the descriptor it brings.
 */
static PwHomeResult
receive_one(PwHomeMessage *message)
{
	int			fd;
	PwHomeResult result = pw_home_receive(home_sock, message, &fd);

	if (result != PW_HOME_OK)
		return result;
	if (message->client >= PwControl->max_clients)
		elog(ERROR, "unexpected message from the pool worker");
	if (message->kind == PW_HOME_CLIENT && fd >= 0)
		keep_descriptor(message, fd);
	else if (fd >= 0)
		close(fd);
	return PW_HOME_OK;
}

/* If there is more than one message, the socket goes on being ready. */
bool
pw_descriptors_receive(void)
{
	PwHomeMessage message;

	return receive_one(&message) != PW_HOME_CLOSED;
}

/*
 * Sleep until the worker has said something.  False if there is no worker to
 * say anything.
 */
static bool
wait_for_home(void)
{
	WaitEvent	event;

	if (PwControl->worker_pid == 0)
		return false;
	(void) WaitEventSetWait(home_set, -1, &event, 1, PG_WAIT_EXTENSION);
	if (event.events & WL_POSTMASTER_DEATH)
		proc_exit(1);
	if (event.events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/*
 * Give a received socket its number.  F_DUPFD takes the number only if it is
 * free, and never closes what somebody else has there.
 */
static void
keep_descriptor(const PwHomeMessage *message, int fd)
{
	int			wanted = PwControl->fd_base + message->client;
	PwDescriptor *entry = descriptor_entry(message->client);
	int			got;

	if (entry->held && (int32) (message->generation - entry->generation) <= 0)
	{
		/* sent by itself and asked for as well, and the answer is late */
		close(fd);
		return;
	}
	pw_descriptor_drop(message->client);
	got = fcntl(fd, F_DUPFD_CLOEXEC, wanted);
	close(fd);
	if (got != wanted)
	{
		if (got >= 0)
			close(got);
		ereport(FATAL,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not give descriptor %d to a pool client", wanted)));
	}
	entry->held = true;
	entry->generation = message->generation;
}

WaitEventSet *
pw_descriptor_wait_set(int client)
{
	PwDescriptor *entry = descriptor_entry(client);

	Assert(entry->held);
	if (entry->set != NULL && entry->is_spare && !use_again(entry, PwControl->fd_base + client))
		free_wait_set(entry);
	if (entry->set != NULL)
	{
		dlist_move_head(&wait_sets, &entry->lru);
		return entry->set;
	}

	if (nwait_sets >= PwControl->wait_sets)
		free_wait_set(dlist_container(PwDescriptor, lru, dlist_tail_node(&wait_sets)));
	build_wait_set(entry, PwControl->fd_base + client);
	dlist_push_head(&wait_sets, &entry->lru);
	nwait_sets++;
	return entry->set;
}

/*
 * The same events at the same places as in pq_init().
 *
 * The set's own descriptor should be the next one that the kernel gives out.  It
 * is if our socket is in there.
 */
static void
build_wait_set(PwDescriptor *entry, int fd)
{
	struct epoll_event nothing = {0};

	entry->is_spare = false;
	entry->epfd = next_descriptor();
	entry->set = pw_wait_event_set_new(FeBeWaitSetNEvents);
	ReleaseExternalFD();
	AddWaitEventToSet(entry->set, WL_SOCKET_READABLE, fd, NULL, NULL);
	AddWaitEventToSet(entry->set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(entry->set, WL_POSTMASTER_DEATH, PGINVALID_SOCKET, NULL, NULL);
	if (entry->epfd >= 0 && epoll_ctl(entry->epfd, EPOLL_CTL_MOD, fd, &nothing) == 0)
		fill_in_socket(entry->set);
	else
		entry->epfd = -1;
}

static int
next_descriptor(void)
{
	int			fd = fcntl(home_sock, F_DUPFD_CLOEXEC, 0);

	if (fd >= 0)
		close(fd);
	return fd;
}

/*
 * Take the socket out of a set.  False if the set must go.
 */
static bool
put_aside(PwDescriptor *entry, int fd)
{
	if (entry->epfd < 0 || nspare_sets >= MAX_SPARE_SETS ||
		epoll_ctl(entry->epfd, EPOLL_CTL_DEL, fd, NULL) < 0)
		return false;
	entry->is_spare = true;
	nspare_sets++;
	return true;
}

/*
 * Put the socket that has the number now into a set.  False if that fails.
 */
static bool
use_again(PwDescriptor *entry, int fd)
{
	struct epoll_event nothing = {0};

	if (epoll_ctl(entry->epfd, EPOLL_CTL_ADD, fd, &nothing) < 0)
		return false;
	fill_in_socket(entry->set);
	entry->is_spare = false;
	nspare_sets--;
	return true;
}

/*
 * Have PostgreSQL tell epoll what it wants to know of the socket.  It does so if
 * that is something else than before.  Whoever waits says for what.
 */
static void
fill_in_socket(WaitEventSet *set)
{
	ModifyWaitEvent(set, FeBeWaitSetSocketPos, WL_SOCKET_READABLE, NULL);
	ModifyWaitEvent(set, FeBeWaitSetSocketPos, WL_SOCKET_WRITEABLE, NULL);
}

static void
free_wait_set(PwDescriptor *entry)
{
	if (entry->is_spare)
		nspare_sets--;
	dlist_delete(&entry->lru);
	ReserveExternalFD();
	FreeWaitEventSet(entry->set);
	entry->set = NULL;
	nwait_sets--;
}

void
pw_descriptor_drop(int client)
{
	PwDescriptor *entry = descriptor_entry(client);

	if (!entry->held)
		return;
	if (entry->set != NULL && !put_aside(entry, PwControl->fd_base + client))
		free_wait_set(entry);
	close(PwControl->fd_base + client);
	entry->held = false;
}

/*
 * An entry of the ring may be overwritten while we read it, if we are a whole
 * round behind.  So look at the count again afterwards, and if that has
 * happened, look at everything we hold instead.
 */
void
pw_descriptors_drop_departed(void)
{
	uint64		count = pg_atomic_read_u64(&PwControl->departures);

	if (count == departures_seen)
		return;
	pg_read_barrier();

	while (departures_seen < count &&
		   pg_atomic_read_u64(&PwControl->departures) - departures_seen < PW_DEPARTURES)
	{
		uint32		client = PwControl->departed[departures_seen % PW_DEPARTURES];
		uint64		word;

		departures_seen++;
		if (client >= ndescriptors || !descriptors[client].held)
			continue;
		word = pg_atomic_read_u64(&PwClients[client].word);
		if (PW_WORD_GENERATION(word) != descriptors[client].generation ||
			PW_WORD_STATE(word) == PW_CLIENT_FREE ||
			PW_WORD_STATE(word) == PW_CLIENT_CLOSING)
			pw_descriptor_drop(client);
	}
	if (departures_seen < count)
	{
		departures_seen = count;
		drop_all_stale();
	}
}

static void
drop_all_stale(void)
{
	for (int i = 0; i < ndescriptors; i++)
	{
		uint64		word = pg_atomic_read_u64(&PwClients[i].word);

		if (descriptors[i].held &&
			(PW_WORD_GENERATION(word) != descriptors[i].generation ||
			 PW_WORD_STATE(word) == PW_CLIENT_FREE))
			pw_descriptor_drop(i);
	}
}
