/*-------------------------------------------------------------------------
 *
 * lost_client.c
 *	  A client that vanishes costs a rollback, not a backend.
 *
 * Runs in: slots.
 *
 * A backend whose client is gone exits, sooner or later.  A slot must not.
 * Between commands handoff.c looks at the socket before PostgresMain() does;
 * these are the other places where PostgreSQL notices, and what we do there:
 *
 * - Output fails.  pqcomm.c sets ClientConnectionLost, and the next
 *	 CHECK_FOR_INTERRUPTS() would exit.  We clear the flag and cancel the
 *	 statement instead.  Before pqcomm.c sets it, it logs the failure, and then
 *	 a cancel that is pending would leave it half done.
 *
 * - End of file in the middle of a message, or between the messages of an
 *	 extended query.  pqcomm.c or postgres.c log it with COMMERROR, and then
 *	 PostgresMain() exits.  We turn that log message into an error, from
 *	 emit_log_hook, so that PostgresMain() aborts and sends ReadyForQuery.
 *
 * - End of file during COPY FROM STDIN.  That is an error already, but
 *	 PostgresMain() exits after it because the stream of messages is out of
 *	 step; with nobody at the other end there is no step to keep.
 *
 * After an error in an extended query PostgresMain() skips messages until Sync,
 * which will not come any more: handoff.c puts one in.
 *
 * What remains: with log_min_messages at fatal or panic, no log message reaches
 * the hook.  With client_connection_check_interval, PostgreSQL may notice
 * during a statement that the client is gone, and exits then.  And while it
 * waits for the next message of an extended query outside of a transaction (after
 * an error, for one), an end of file makes it exit without a word, and so does
 * a Terminate message in the middle of an extended query.  The pool then opens
 * another slot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "libpq/libpq-be.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "compat.h"
#include "lost_client.h"

static bool client_attached = false;
static bool client_lost = false;
static bool client_deaf = false;

/* pqcomm.c is made to fail, and that is not worth a log message. */
static bool dropping_output = false;

static emit_log_hook_type prev_emit_log = NULL;

static void watch_log(ErrorData *edata);
static bool tells_of_failed_output(const ErrorData *edata);
static bool tells_of_lost_client(const ErrorData *edata);
static bool socket_is_dead(void);

void
pw_lost_client_init(void)
{
	prev_emit_log = emit_log_hook;
	emit_log_hook = watch_log;
}

void
pw_lost_client_watch(bool attached)
{
	client_attached = attached;
	client_lost = client_deaf = false;
}

bool
pw_client_is_lost(void)
{
	return client_lost;
}

bool
pw_client_is_deaf(void)
{
	return client_deaf;
}

void
pw_lost_client_check(void)
{
	if (!ClientConnectionLost)
		return;
	ClientConnectionLost = false;
	client_lost = client_deaf = true;
	QueryCancelPending = true;
	InterruptPending = true;
}

void
pw_lost_client_give_up(void)
{
	client_lost = true;
	if (pq_is_reading_msg())
		pq_endmsgread();
}

void
pw_lost_client_recover(void)
{
	if (!client_attached || !pq_is_reading_msg())
		return;
	if (!client_lost && !socket_is_dead())
		return;
	client_lost = true;
	pq_endmsgread();
	pw_lost_client_drop_input();
}

void
pw_lost_client_drop_input(void)
{
	if (!pw_input_is_buffered())
		return;
	pq_startmsgread();
	while (pw_input_is_buffered())
		(void) pq_getbyte();
	pq_endmsgread();
}

/*
 * Only pqcomm.c gets at its buffer, and only sending empties it, or trying to:
 * at a socket that has been shut down.
 */
void
pw_lost_client_drop_output(const PQcommMethods *methods)
{
	if (!methods->is_send_pending())
		return;
	(void) shutdown(MyProcPort->sock, SHUT_RDWR);
	dropping_output = true;
	(void) methods->flush();
	dropping_output = false;
	pw_lost_client_check();
}

/*
 * emit_log_hook: make an error of a message that announces the backend's end.
 *
 * elog.c allows for errors in here.  Once is enough: if PostgresMain() reads
 * on after this, it has to exit.
 */
static void
watch_log(ErrorData *edata)
{
	char	   *message;

	if (prev_emit_log)
		prev_emit_log(edata);
	if (dropping_output)
		edata->output_to_server = false;
	if (!client_attached || client_lost)
		return;
	if (tells_of_failed_output(edata))
		QueryCancelPending = false;
	if (!tells_of_lost_client(edata))
		return;

	pw_lost_client_give_up();

	/* an error within ereport() resets the context that the text is in */
	message = MemoryContextStrdup(MessageContext, edata->message);
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg_internal("%s", message)));
}

static bool
tells_of_failed_output(const ErrorData *edata)
{
	return edata->elevel == COMMERROR && edata->message_id != NULL &&
		strcmp(edata->message_id, "could not send data to client: %m") == 0;
}

/*
 * The messages of pqcomm.c and postgres.c after which SocketBackend() returns
 * EOF, by their untranslated text.
 */
static bool
tells_of_lost_client(const ErrorData *edata)
{
	static const char *const messages[] = {
		"could not receive data from client: %m",
		"incomplete message from client",
		"invalid message length",
		"unexpected EOF on client connection with an open transaction",
		"unexpected EOF within message length word",
	};

	if (edata->elevel != COMMERROR || edata->message_id == NULL)
		return false;
	for (int i = 0; i < lengthof(messages); i++)
		if (strcmp(edata->message_id, messages[i]) == 0)
			return true;
	return false;
}

/* Is there nobody left at the other end of the socket? */
static bool
socket_is_dead(void)
{
	char		byte;
	ssize_t		n = recv(MyProcPort->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}
