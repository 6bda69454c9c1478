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
 * Two things change the values of clients that are parked.  A reload of the
 * configuration: then they are sent all of them.  And a promotion, which turns
 * in_hot_standby off.  guc.c has a variable for that which changes when the
 * promotion is reported, not when it happens; what a client knows is noted
 * when it is parked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqcomm.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "greeting.h"
#include "guc_access.h"
#include "protocol.h"

static void send_built(const PQcommMethods *methods, StringInfo message);
static void report_all(const PQcommMethods *methods);
static void report_one(const PQcommMethods *methods, const char *name);
static bool standby_is_reported(void);

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
	report_all(methods);
	pw_build_backend_key(&message, client->cancel_pid, client->cancel_key,
						 pw_cancel_key_size(client->protocol));
	send_built(methods, &message);
	pfree(message.data);
}

void
pw_greet_ready(const PQcommMethods *methods, PwShmClient *client)
{
	StringInfoData message;

	initStringInfo(&message);
	pw_build_ready(&message, 'I');
	send_built(methods, &message);
	pfree(message.data);

	client->said_hello = true;
	client->reload_seen = PgReloadTime;
	client->told_standby = standby_is_reported();
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

static void
report_all(const PQcommMethods *methods)
{
	int			count;
	struct config_generic **settings = pw_guc_variables(&count);

	for (int i = 0; i < count; i++)
		if ((settings[i]->flags & GUC_REPORT) != 0)
			report_one(methods, settings[i]->name);
}

/*
 * In the form in which SHOW would show it, as PostgreSQL reports it.
 */
static void
report_one(const PQcommMethods *methods, const char *name)
{
	StringInfoData message;

	initStringInfo(&message);
	pw_build_parameter_status(&message, name, GetConfigOptionByName(name, NULL, false));
	send_built(methods, &message);
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
	client->told_standby = standby_is_reported();
}

bool
pw_report_news(const PQcommMethods *methods, PwShmClient *client)
{
	if (client->reload_seen < PgReloadTime)
		report_all(methods);
	else if (client->told_standby && !standby_is_reported())
		report_one(methods, "in_hot_standby");
	else
		return false;
	pw_reported_remember(client);
	return true;
}

/*
 * What guc.c has reported last, not what is true now: SHOW tells that.
 */
static bool
standby_is_reported(void)
{
	static struct config_bool *setting = NULL;

	if (setting == NULL)
		setting = (struct config_bool *) pw_guc_find("in_hot_standby");
	return *setting->variable;
}
