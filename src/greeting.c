/*-------------------------------------------------------------------------
 *
 * greeting.c
 *	  What a client hears between its login and its first ReadyForQuery, and
 *	  how reported parameters stay its own.
 *
 * Runs in: slots.
 *
 * The worker has authenticated the client, but AuthenticationOk is sent by the
 * slot: it goes out together with everything that follows, in one packet.
 *
 * A backend reports a parameter when its value differs from what it reported
 * last, which may have been to another client.  Each client knows its own
 * values, so after a change of hands we let guc.c believe that they have been
 * reported, with the output discarded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqcomm.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "greeting.h"
#include "greeting_cache.h"
#include "protocol.h"

static void send_built(const PQcommMethods *methods, StringInfo message);
static void build_report(StringInfo messages);
static void store_report(PwShmClient *client);

void
pw_greet(const PQcommMethods *methods, PwShmClient *client)
{
	StringInfoData message;

	initStringInfo(&message);
	pw_build_authentication(&message, AUTH_REQ_OK, NULL, 0);
	send_built(methods, &message);
	store_report(client);
	pw_report_all(methods);
	pw_build_backend_key(&message, client->cancel_pid, client->cancel_key);
	send_built(methods, &message);
	pw_build_ready(&message, 'I');
	send_built(methods, &message);
	pfree(message.data);

	client->said_hello = true;
	client->reload_seen = PgReloadTime;
}

void
pw_greet_with_error(const PQcommMethods *methods, const ErrorData *error)
{
	StringInfoData message;
	PwReport	report = {.sqlstate = error->sqlerrcode,.message = error->message,
	.detail = error->detail,.hint = error->hint};

	initStringInfo(&message);
	pw_build_error(&message, "FATAL", &report);
	send_built(methods, &message);
	pfree(message.data);
}

/*
 * Pass on a message as built by protocol.c: type, length, body.
 */
static void
send_built(const PQcommMethods *methods, StringInfo message)
{
	(void) methods->putmessage(message->data[0], message->data + 5, message->len - 5);
	resetStringInfo(message);
}

void
pw_report_all(const PQcommMethods *methods)
{
	StringInfoData messages;
	PwReader	body;
	size_t		size;
	char		type;

	initStringInfo(&messages);
	build_report(&messages);
	for (int done = 0;
		 pw_frame_message(messages.data + done, messages.len - done,
						  PG_INT32_MAX, &type, &size, &body) == PW_FRAME_COMPLETE;
		 done += size)
		(void) methods->putmessage(type, body.pos, pw_reader_left(&body));
	pfree(messages.data);
}

/* One ParameterStatus message for each reported parameter. */
static void
build_report(StringInfo messages)
{
	int			count;
	struct config_generic **settings = pw_guc_variables(&count);

	for (int i = 0; i < count; i++)
		if ((settings[i]->flags & GUC_REPORT) != 0)
			pw_build_parameter_status(messages, settings[i]->name,
									  GetConfigOption(settings[i]->name, false, false));
}

/* Let the worker greet the next client with the same settings. */
static void
store_report(PwShmClient *client)
{
	StringInfoData messages;

	initStringInfo(&messages);
	build_report(&messages);
	pw_greeting_store(&PwPools[client->pool],
					  dsa_get_address(pw_shared_area(), client->settings),
					  client->settings_len, messages.data, messages.len);
	pfree(messages.data);
}

void
pw_reported_settle(void)
{
	ReportChangedGUCOptions();
}

void
pw_reported_remember(PwShmClient *client)
{
	client->reload_seen = Max(client->reload_seen, PgReloadTime);
}

bool
pw_reported_is_stale(PwShmClient *client)
{
	return client->reload_seen < PgReloadTime;
}
