/*-------------------------------------------------------------------------
 *
 * greeting.c
 *	  What a client hears between its login and its first ReadyForQuery, and
 *	  how reported parameters stay its own.
 *
 * Runs in: slots.
 *
 * The worker has authenticated the client, but AuthenticationOk is sent by the
 * slot: it goes out together with everything that follows, in one packet.  Only a
 * client that has to wait for so long that it is told so gets it before, because
 * nothing else may come first.
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
#include "protocol.h"

static void send_built(const PQcommMethods *methods, StringInfo message);

void
pw_greet(const PQcommMethods *methods, PwShmClient *client)
{
	StringInfoData message;

	initStringInfo(&message);
	if (!client->told_ok)
	{
		pw_build_authentication(&message, AUTH_REQ_OK, NULL, 0);
		send_built(methods, &message);
	}
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

/*
 * In the form in which SHOW would show them, as PostgreSQL reports them.
 */
void
pw_report_all(const PQcommMethods *methods)
{
	int			count;
	struct config_generic **settings = pw_guc_variables(&count);
	StringInfoData message;

	initStringInfo(&message);
	for (int i = 0; i < count; i++)
	{
		if ((settings[i]->flags & GUC_REPORT) == 0)
			continue;
		pw_build_parameter_status(&message, settings[i]->name,
								  GetConfigOptionByName(settings[i]->name, NULL, false));
		send_built(methods, &message);
	}
	pfree(message.data);
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
