/*-------------------------------------------------------------------------
 *
 * waiting_command.c
 *	  A command that waits in its client's socket, because no slot is free.
 *
 * Runs in: pool worker.
 *
 * A client that is parked has no transaction, so what it has sent is the
 * beginning of one.  To cancel that, we answer in a slot's place: the error, and
 * that we are ready for the next command.  What is canceled is what an error
 * would end: one simple query, or everything up to Sync.
 *
 * Meanwhile the client is HELD, so that no slot reads the same bytes.  A slot
 * that comes upon it attaches it afterwards, and finds nothing to do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "utils/timestamp.h"

#include "client.h"
#include "protocol.h"
#include "shared_state.h"
#include "waiting_command.h"

/* longer ones are not looked for */
#define MAX_COMMAND (64 * 1024)

static size_t command_size(const char *data, size_t len);
static bool is_extended(char type);
static bool answer(int client, size_t size, char *buffer);

bool
pw_waiting_command_cancel(int client)
{
	char	   *buffer;
	bool		canceled = false;
	ssize_t		len;

	if (!PwClients[client].said_hello || pw_client_has_unsent_output(client))
		return false;
	buffer = palloc(MAX_COMMAND);
	if (!pw_client_hold(client, PW_WHENEVER))
		return false;
	len = recv(pw_client_fd(client), buffer, MAX_COMMAND, MSG_PEEK | MSG_DONTWAIT);
	if (len > 0)
	{
		size_t		size = command_size(buffer, len);

		canceled = size > 0 && answer(client, size, buffer);
	}
	if (PW_WORD_STATE(pg_atomic_read_u64(&PwClients[client].word)) == PW_CLIENT_HELD)
		pw_client_release(client);
	pfree(buffer);
	return canceled;
}

/*
 * The length of the first command, or 0 if that is not there as a whole, or
 * is not one that could be canceled.
 */
static size_t
command_size(const char *data, size_t len)
{
	size_t		total = 0;
	size_t		size;
	char		type;
	PwReader	body;

	while (pw_frame_message(data + total, len - total, MAX_COMMAND, &type, &size, &body) ==
		   PW_FRAME_COMPLETE)
	{
		bool		is_first = total == 0;

		total += size;
		if (type == 'S')
			return is_first ? 0 : total;
		if (is_first && (type == 'Q' || type == 'F'))
			return total;
		if (!is_extended(type))
			return 0;
	}
	return 0;
}

static bool
is_extended(char type)
{
	return type == 'P' || type == 'B' || type == 'D' || type == 'E' || type == 'C' ||
		type == 'H';
}

/*
 * Read the command, and answer it.  No error may be raised while the client is
 * HELD, but the answer is short.
 */
static bool
answer(int client, size_t size, char *buffer)
{
	PwReport	report = {.sqlstate = ERRCODE_QUERY_CANCELED,
	.message = _("canceling statement due to user request")};
	StringInfoData out;
	bool		told;

	initStringInfo(&out);
	pw_build_error(&out, "ERROR", &report);
	pw_build_ready(&out, 'I');
	told = recv(pw_client_fd(client), buffer, size, MSG_DONTWAIT) == (ssize_t) size;
	if (told)
	{
		PwClients[client].ready_since = 0;
		PwClients[client].idle_since = GetCurrentTimestamp();
		pw_client_send_or_close(client, out.data, out.len);
	}
	pfree(out.data);
	return told;
}
