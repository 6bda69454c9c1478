/*-------------------------------------------------------------------------
 *
 * stalled_clients.c
 *	  Clients that have stopped in the middle of a command.
 *
 * Runs in: pool worker.
 *
 * Such a client has sent half a message, or Parse and no Sync, or does not
 * read its result.  Its slot is blocked on the socket, and would be for ever.
 *
 * How it is found
 * ---------------
 *
 * The slot does nothing for it.  Each time that we look at one that is in the
 * middle of something, PostgreSQL's own wait event says whether it waits for
 * its client.  If it still does at the next look, and nothing has moved, the
 * client has stalled, since the first of these looks.  enforce.c knows how long
 * is too long.
 *
 * What has moved is what the kernel counts: over TCP, the bytes of the client
 * that have arrived, or ours that it has acknowledged.  Unix sockets have no
 * such counters.  There it is how often the slot's backend has slept, and, if
 * it writes, what is left in the socket.  So somebody who wakes the backend,
 * say a NOTIFY, postpones the end.  What nothing is known of has not stalled.
 *
 * A client that reads shows that in steps: over TCP when its system opens the
 * window again, for which it may want to have a good part of its buffer free;
 * over a Unix socket when it has read the whole of what was sent at once.
 *
 * In COPY FROM STDIN a client may pause for as long as it likes, and whether
 * it does so between messages or within one, only PostgreSQL knows.  So there
 * we do not look.
 *
 * How it is ended
 * ---------------
 *
 * Nothing but the backend itself can get it out of there, and only at a place
 * where it can raise an error and go on as a slot:
 *
 * - It writes.  We shut the socket down, its next attempt fails, and
 *	 lost_client.c makes an error of that.
 *
 * - It reads.  At end of file it would exit, unless it is in the middle of a
 *	 message or a transaction.  So before we shut down that half of the socket,
 *	 we ask for a log of its memory contexts: the only interrupt that a backend
 *	 heeds while it reads a command and that leads to code of ours, by way of
 *	 emit_log_hook, see command_clock.c.  Nothing gets logged.  (Outside of a
 *	 command it is in our own code, and the end of file does.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "storage/fd.h"
#include "storage/procsignal.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "client.h"
#include "compat.h"
#include "shared_state.h"
#include "stalled_clients.h"
#include "time_limits.h"

/* What a slot was doing when we looked last. */
typedef struct PwStall
{
	TimestampTz since;			/* we have seen that first; 0 if it was not
								 * waiting for its client */
	uint64		serial;			/* of the command word */
	uint32		wait;			/* a wait event of class PG_WAIT_CLIENT */
	uint64		progress;		/* grows, or changes, as something moves */
} PwStall;

/*
 * The beginning of what the kernel calls struct tcp_info, and never changes.
 * The C library has less of it, and does not go together with the kernel's
 * header.
 */
typedef struct PwTcpInfo
{
	uint8		flags[8];
	uint32		numbers[24];
	uint64		pacing_rate;
	uint64		max_pacing_rate;
	uint64		bytes_acked;
	uint64		bytes_received;
} PwTcpInfo;

StaticAssertDecl(offsetof(PwTcpInfo, bytes_received) == 128,
				 "PwTcpInfo must be as in linux/tcp.h");

static PwStall *stalls = NULL;

static uint32 wait_for_client(const PwShmSlot *slot, uint64 word);
static bool measure_progress(const PwShmSlot *slot, uint32 wait, uint64 *progress);
static bool measure_tcp(int fd, uint32 wait, uint64 *progress);
static bool count_sleeps(int pid, uint64 *count);

void
pw_stalled_init(void)
{
	stalls = MemoryContextAllocZero(TopMemoryContext,
									sizeof(PwStall) * PwControl->max_slots);
}

TimestampTz
pw_stalled_since(int slot, uint64 word)
{
	PwStall    *before = &stalls[slot];
	PwStall		now = {.serial = word >> PW_COMMAND_SERIAL_SHIFT,
	.wait = wait_for_client(&PwSlots[slot], word)};

	if (now.wait != 0 && measure_progress(&PwSlots[slot], now.wait, &now.progress))
	{
		if (before->since != 0 && before->serial == now.serial &&
			before->wait == now.wait && before->progress == now.progress)
			now.since = before->since;
		else
			now.since = GetCurrentTimestamp();	/* pw_loop_now() may be before
												 * it has begun */
	}
	*before = now;
	return now.since;
}

/*
 * The event of its client that a slot waits for in the middle of something, or
 * 0.
 *
 * One that is IDLE or PINNED waits for the next command, which may take as long
 * as it likes.  One that is BUSY and runs none skips the rest of a COPY that
 * has failed.
 */
static uint32
wait_for_client(const PwShmSlot *slot, uint64 word)
{
	uint32		wait = *(volatile uint32 *) &GetPGProcByNumber(slot->pgprocno)->wait_event_info;
	uint32		activity = pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &slot->activity));

	if (wait == WAIT_EVENT_CLIENT_WRITE)
		return wait;
	if (wait != WAIT_EVENT_CLIENT_READ || slot->copying)
		return 0;
	return (word & PW_COMMAND_RUNNING) != 0 || activity == PW_SLOT_BUSY ? wait : 0;
}

/*
 * How far the slot and its client have come.  False if that is unknown.
 */
static bool
measure_progress(const PwShmSlot *slot, uint32 wait, uint64 *progress)
{
	int			client = slot->client;
	int			fd;
	int			unread = 0;

	if (client == PW_NONE)
		return false;
	fd = pw_client_fd(client);
	if (PwClients[client].raddr.addr.ss_family != AF_UNIX)
		return measure_tcp(fd, wait, progress);

	if (!count_sleeps(slot->pid, progress) ||
		(wait == WAIT_EVENT_CLIENT_WRITE && ioctl(fd, SIOCOUTQ, &unread) < 0))
		return false;
	*progress = (*progress << 32) + (uint32) unread;
	return true;
}

static bool
measure_tcp(int fd, uint32 wait, uint64 *progress)
{
	PwTcpInfo	info;
	socklen_t	len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 || len < sizeof(info))
		return false;
	*progress = wait == WAIT_EVENT_CLIENT_READ ? info.bytes_received : info.bytes_acked;
	return true;
}

/*
 * How often a process has gone to sleep.
 */
static bool
count_sleeps(int pid, uint64 *count)
{
	static const char field[] = "\nvoluntary_ctxt_switches:";
	char		path[64];
	char		status[8192];
	const char *found;
	ssize_t		len;
	int			fd;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	fd = OpenTransientFile(path, O_RDONLY);
	if (fd < 0)
		return false;
	len = read(fd, status, sizeof(status) - 1);
	CloseTransientFile(fd);
	if (len <= 0)
		return false;
	status[len] = '\0';
	found = strstr(status, field);
	if (found == NULL)
		return false;
	*count = strtoull(found + strlen(field), NULL, 10);
	return true;
}

/*
 * Shutting a socket down never waits.  A slot that has just got what it waited
 * for will see the limit in its command word.
 */
void
pw_stalled_end(int slot, uint64 word)
{
	int			fd = pw_client_fd(PwSlots[slot].client);

	switch (wait_for_client(&PwSlots[slot], word))
	{
		case WAIT_EVENT_CLIENT_WRITE:
			(void) shutdown(fd, SHUT_RDWR);
			break;
		case WAIT_EVENT_CLIENT_READ:
			/* in this order: at end of file it looks for interrupts first */
			if ((word & PW_COMMAND_RUNNING) != 0)
				(void) SendProcSignal(PwSlots[slot].pid, PROCSIG_LOG_MEMORY_CONTEXT,
									  INVALID_PROC_NUMBER);
			(void) shutdown(fd, SHUT_RD);
			break;
		default:
			break;
	}
}
