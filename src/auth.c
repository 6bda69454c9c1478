/*-------------------------------------------------------------------------
 *
 * auth.c
 *	  From the first byte of a connection to an authenticated login.
 *
 * Runs in: pool worker.
 *
 * Who may log in is for PostgreSQL's own code to decide: hba_getauthmethod(),
 * get_role_password(), the verifiers of crypt.c, pg_be_scram_mech and
 * check_usermap().  What the server has around them (ClientAuthentication()
 * and what it calls, in auth.c and auth-sasl.c) reads from a socket, waits,
 * and ends the process when a login fails.  This file is the same thing as a
 * state machine that is fed:
 *
 *		STARTUP --> PASSWORD ------------------+
 *		 |    \---> MD5 -----------------------+--> login checks --> OK
 *		 |     \--> SASL_INITIAL --> SASL -----+
 *		 |                                     |
 *		 +--> login checks --> OK              +--> REFUSED
 *		 +--> CANCEL, REFUSED
 *
 * and it has to be compared with those two files for each new major version.
 *
 * The rules:
 *
 * - A refusal has the words and the SQLSTATE that the server has for the same
 *	 case.  What only the administrator may know goes to the log: which line of
 *	 pg_hba.conf matched, that the role does not exist, that the password has
 *	 expired.  For an unknown role the whole exchange takes place, as if the
 *	 password were wrong.
 *
 * - A transaction is open only inside one call of pw_auth_feed(), never while
 *	 the client is waited for.  Whether the role may log in is looked at after
 *	 it has authenticated, as it may have changed while that took its time.
 *
 * - The rules of pg_hba.conf may be reloaded during an exchange, so what is
 *	 needed of a rule is copied.
 *
 * Caveats accepted on purpose:
 *
 * - ClientAuthentication_hook is not called.  It may sleep (auth_delay does)
 *	 or end the process, and here that would be everybody's.  Such a library
 *	 still sees the logins of the slots.
 *
 * - Lines of pg_hba.conf with a host name are not evaluated, since looking it
 *	 up can block.  A TCP client that the server would have looked up for them
 *	 is refused.
 *
 * - "peer" asks the system's user database for a name, and a service behind
 *	 that (LDAP, SSSD) can take its time, while others wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <pwd.h>
#include <unistd.h>

#include "commands/user.h"
#include "libpq/crypt.h"
#include "libpq/hba.h"
#include "libpq/libpq-be.h"
#include "libpq/sasl.h"
#include "libpq/scram.h"
#include "miscadmin.h"
#include "nodes/memnodes.h"
#include "postmaster/postmaster.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "auth.h"
#include "catalog.h"
#include "compat.h"
#include "protocol.h"
#include "server_state.h"
#include "startup_packet.h"

/*
 * The largest messages that are accepted during the exchange, length word
 * included: the server's PG_MAX_AUTH_TOKEN_LENGTH and
 * PG_MAX_SASL_MESSAGE_LENGTH, which are private to its files.
 */
#define MAX_PASSWORD_MESSAGE 65535
#define MAX_SASL_MESSAGE 1024

/* What the next message is expected to be; those of SASL come last. */
typedef enum PwAuthStage
{
	PW_STAGE_STARTUP,			/* startup packet or special request; next:
								 * any but SASL */
	PW_STAGE_PASSWORD,			/* password in clear text; the last */
	PW_STAGE_MD5,				/* answer to an MD5 challenge; the last */
	PW_STAGE_SASL_INITIAL,		/* choice of mechanism; next: SASL */
	PW_STAGE_SASL,				/* what that mechanism wants */
} PwAuthStage;

struct PwAuth
{
	MemoryContext context;		/* everything lives here */
	PwPeer		peer;
	PwAuthStage stage;

	StringInfoData input;		/* what has arrived and is not consumed */
	size_t		message_size;	/* of the message being handled, at the start
								 * of "input" */

	PwStartup	startup;

	/*
	 * What PostgreSQL's code wants to know about a client.  Valid after the
	 * startup packet; port->hba is our own copy, and only the fields that
	 * find_rule() copies are valid in it.
	 */
	Port	   *port;

	/* Valid in the stages after STARTUP. */
	char	   *secret;			/* from pg_authid; NULL dooms the exchange */
	const char *log_detail;		/* why it is doomed or failed, or NULL */
	char		md5_salt[4];
	void	   *sasl;			/* state of pg_be_scram_mech */

	PwCatalogNames names;
	PwLogin		login;			/* valid once the login is complete */
};

static bool next_message(PwAuth *auth, PwReader *body, StringInfo out,
						 PwAuthStatus *status);
static PwAuthStatus bad_length(PwAuth *auth, StringInfo out);
static PwAuthStatus handle_message(PwAuth *auth, PwReader *body,
								   StringInfo out);
static PwAuthStatus take_startup(PwAuth *auth, PwReader *body, StringInfo out);
static PwAuthStatus decline_encryption(PwAuth *auth, const char *message,
									   StringInfo out);
static PwAuthStatus begin_session(PwAuth *auth, StringInfo out);
static PwAuthStatus refuse_stopping(PwAuth *auth, StringInfo out);
static void apply_user_namespace(PwAuth *auth);
static void fill_port(PwAuth *auth);
static void find_rule(PwAuth *auth);
static PwAuthStatus start_method(PwAuth *auth, StringInfo out);
static PwAuthStatus reject_host(PwAuth *auth, StringInfo out);
static PwAuthStatus refuse_host_names(PwAuth *auth, StringInfo out);
static PwAuthStatus refuse_method(PwAuth *auth, StringInfo out);
static PwAuthStatus check_peer(PwAuth *auth, StringInfo out);
static bool peer_name(int uid, char *name, size_t size);
static PwAuthStatus start_challenge(PwAuth *auth, StringInfo out);
static PwAuthStatus start_md5(PwAuth *auth, StringInfo out);
static PwAuthStatus start_sasl(PwAuth *auth, StringInfo out);
static PwAuthStatus take_password(PwAuth *auth, PwReader *body,
								  StringInfo out);
static PwAuthStatus take_sasl(PwAuth *auth, PwReader *body, StringInfo out);
static const char *read_sasl(PwAuth *auth, PwReader *body,
							 const char **mechanism, char **input,
							 int *input_len);
static PwAuthStatus exchange_sasl(PwAuth *auth, const char *input,
								  int input_len, StringInfo out);
static PwAuthStatus authenticated(PwAuth *auth, StringInfo out);
static bool collect_settings(PwAuth *auth, PwReport *why);
static PwAuthStatus auth_failed(PwAuth *auth, StringInfo out);
static const char *matched_line(PwAuth *auth);
static PwAuthStatus violation(PwAuth *auth, const char *message,
							  StringInfo out);
static PwAuthStatus refuse(PwAuth *auth, const PwReport *report,
						   StringInfo out);
static void log_report(PwAuth *auth, const PwReport *report);
static void log_identity(PwAuth *auth, const char *identity);
static void log_authorized(PwAuth *auth);

PwAuth *
pw_auth_create(MemoryContext context, const PwPeer *peer)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	PwAuth	   *auth = palloc0(sizeof(PwAuth));

	auth->context = context;
	auth->peer = *peer;
	auth->stage = PW_STAGE_STARTUP;
	initStringInfo(&auth->input);
	fill_port(auth);
	MemoryContextSwitchTo(oldcontext);
	return auth;
}

PwAuthStatus
pw_auth_feed(PwAuth *auth, const char *data, size_t len, StringInfo out)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(auth->context);
	PwAuthStatus status = PW_AUTH_CONTINUE;
	PwReader	body;

	appendBinaryStringInfo(&auth->input, data, len);
	while (status == PW_AUTH_CONTINUE &&
		   next_message(auth, &body, out, &status))
	{
		status = handle_message(auth, &body, out);
		pw_buffer_discard(&auth->input, auth->message_size);
	}

	MemoryContextSwitchTo(oldcontext);
	return status;
}

const PwLogin *
pw_auth_login(PwAuth *auth)
{
	return &auth->login;
}

const PwCancelKey *
pw_auth_cancel_key(PwAuth *auth)
{
	return &auth->startup.cancel;
}

const char *
pw_auth_database(PwAuth *auth)
{
	return auth->port->database_name;
}

const char *
pw_auth_role(PwAuth *auth)
{
	return auth->port->user_name;
}

/*
 * Find the next complete message.  False if there is none yet, or if what is
 * there cannot become one: then *status is no longer PW_AUTH_CONTINUE.
 */
static bool
next_message(PwAuth *auth, PwReader *body, StringInfo out,
			 PwAuthStatus *status)
{
	const StringInfoData *input = &auth->input;
	bool		is_sasl = auth->stage >= PW_STAGE_SASL_INITIAL;
	PwFrame		frame;
	char		type;

	if (auth->stage == PW_STAGE_STARTUP)
		frame = pw_frame_startup(input->data, input->len,
								 &auth->message_size, body);
	else
	{
		frame = pw_frame_message(input->data, input->len,
								 is_sasl ? MAX_SASL_MESSAGE : MAX_PASSWORD_MESSAGE,
								 &type, &auth->message_size, body);

		/* every message of every method is of this type */
		if (input->len > 0 && type != 'p')
		{
			*status = violation(auth,
								psprintf(is_sasl ? _("expected SASL response, got message type %d")
										 : _("expected password response, got message type %d"),
										 (unsigned char) type), out);
			return false;
		}
	}

	if (frame == PW_FRAME_BAD_LENGTH)
		*status = bad_length(auth, out);
	return frame == PW_FRAME_COMPLETE;
}

/*
 * Give up on a client that says an impossible length.  As in the server, only
 * a SASL exchange ends with an answer.
 */
static PwAuthStatus
bad_length(PwAuth *auth, StringInfo out)
{
	PwReport	report = {
		.sqlstate = ERRCODE_PROTOCOL_VIOLATION,
		.message = _("invalid message length"),
	};

	if (auth->stage == PW_STAGE_STARTUP)
		report.message = _("invalid length of startup packet");
	log_report(auth, &report);

	if (auth->stage >= PW_STAGE_SASL_INITIAL)
		return auth_failed(auth, out);
	return PW_AUTH_REFUSED;
}

/*
 * Handle one complete message, by the stage that the exchange is in, and in a
 * transaction of its own.  The catalogs need one, and so does cryptography:
 * its hash contexts belong to a resource owner.
 */
static PwAuthStatus
handle_message(PwAuth *auth, PwReader *body, StringInfo out)
{
	PwAuthStatus status = PW_AUTH_REFUSED;

	pw_catalog_begin();
	switch (auth->stage)
	{
		case PW_STAGE_STARTUP:
			status = take_startup(auth, body, out);
			break;
		case PW_STAGE_PASSWORD:
		case PW_STAGE_MD5:
			status = take_password(auth, body, out);
			break;
		case PW_STAGE_SASL_INITIAL:
		case PW_STAGE_SASL:
			status = take_sasl(auth, body, out);
			break;
	}
	pw_catalog_end();
	return status;
}

/*
 * Handle a startup packet, or what came in its place.
 */
static PwAuthStatus
take_startup(PwAuth *auth, PwReader *body, StringInfo out)
{
	PwStartup  *startup = &auth->startup;
	PwStartupKind kind = pw_startup_parse(startup, body);

	switch (kind)
	{
		case PW_STARTUP_SSL_REQUEST:
			return decline_encryption(auth,
									  _("received unencrypted data after SSL request"),
									  out);
		case PW_STARTUP_GSS_REQUEST:
			return decline_encryption(auth,
									  _("received unencrypted data after GSSAPI encryption request"),
									  out);
		case PW_STARTUP_CANCEL:
			return PW_AUTH_CANCEL;
		case PW_STARTUP_MALFORMED:
			log_report(auth, &startup->problem);
			return PW_AUTH_REFUSED;
		case PW_STARTUP_REFUSED:
		case PW_STARTUP_SESSION:
			break;
	}

	auth->port->proto = startup->protocol;
	auth->port->database_name = startup->database;
	auth->port->user_name = startup->user;
	if (pw_startup_negotiates(startup))
		pw_build_negotiate_version(out, Min(startup->protocol, PG_PROTOCOL_LATEST),
								   startup->nunknown,
								   startup->unknown.data, startup->unknown.len);
	if (kind == PW_STARTUP_REFUSED)
		return refuse(auth, &startup->problem, out);
	return begin_session(auth, out);
}

/*
 * Answer an encryption request: not here.
 *
 * Bytes glued behind the request would be processed as if they had come
 * through the encrypted channel that the client asked for, so they are
 * refused, with "message".
 */
static PwAuthStatus
decline_encryption(PwAuth *auth, const char *message, StringInfo out)
{
	PwReport	report = {
		.sqlstate = ERRCODE_PROTOCOL_VIOLATION,
		.message = message,
		.detail = _("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."),
	};

	appendStringInfoChar(out, 'N');
	if ((size_t) auth->input.len > auth->message_size)
		return refuse(auth, &report, out);
	return PW_AUTH_CONTINUE;
}

/*
 * The client has said who it wants to be: find the rule for it and begin what
 * that asks for.
 */
static PwAuthStatus
begin_session(PwAuth *auth, StringInfo out)
{
	PwReport	why;

	if (pw_server_is_stopping())
		return refuse_stopping(auth, out);
	if (Db_user_namespace)
		apply_user_namespace(auth);

	if (!pw_catalog_can_read_role(auth->port->user_name, &why))
		return refuse(auth, &why, out);
	find_rule(auth);
	return start_method(auth, out);
}

/*
 * The postmaster lets nobody in any more, and nor do we.
 */
static PwAuthStatus
refuse_stopping(PwAuth *auth, StringInfo out)
{
	PwReport	report = {
		.sqlstate = ERRCODE_CANNOT_CONNECT_NOW,
		.message = _("the database system is shutting down"),
	};

	return refuse(auth, &report, out);
}

/*
 * The obsolete db_user_namespace, as in ProcessStartupPacket(): "joe" is a
 * user of one database, and stored as "joe@database"; "joe@" is "joe".
 */
static void
apply_user_namespace(PwAuth *auth)
{
	char	   *user = auth->port->user_name;
	char	   *at = strchr(user, '@');

	if (at != NULL && at[1] == '\0')
	{
		*at = '\0';
		return;
	}
	user = psprintf("%s@%s", user, auth->port->database_name);
	if (strlen(user) >= NAMEDATALEN)
		user[NAMEDATALEN - 1] = '\0';
	auth->port->user_name = user;
}

/*
 * Make the Port with what is known from the start.  Its socket is nobody's.
 */
static void
fill_port(PwAuth *auth)
{
	Port	   *port = palloc0(sizeof(Port));

	port->sock = PGINVALID_SOCKET;
	port->raddr = auth->peer.raddr;
	port->laddr = auth->peer.laddr;
	port->remote_host = pstrdup(auth->peer.remote_host);
	port->remote_port = pstrdup(auth->peer.remote_port);
	auth->port = port;
}

/*
 * Find the line of pg_hba.conf that is for this client, and copy what we need
 * of it: by the time of the next message the rules may have been reloaded.
 *
 * A line with a host name would make hba.c ask the resolver, for many seconds
 * if it pleases whoever owns the client's address.  So we hide the length of
 * the address, which only the resolver needs: it gives up before it asks
 * anybody, the line does not match, and hba.c notes the failure.  The rule
 * found must not be used then, as an earlier one might have been the right one.
 */
static void
find_rule(PwAuth *auth)
{
	HbaLine    *copy = palloc0(sizeof(HbaLine));
	const HbaLine *rule;

	auth->port->raddr.salen = 0;
	hba_getauthmethod(auth->port);
	auth->port->raddr.salen = auth->peer.raddr.salen;
	rule = auth->port->hba;

	copy->auth_method = rule->auth_method;
	copy->conntype = rule->conntype;
	copy->linenumber = rule->linenumber;
	copy->rawline = rule->rawline ? pstrdup(rule->rawline) : NULL;
	pw_hba_copy_file(copy, rule);
	copy->usermap = rule->usermap ? pstrdup(rule->usermap) : NULL;
	auth->port->hba = copy;
}

/*
 * Do what the rule asks for.
 */
static PwAuthStatus
start_method(PwAuth *auth, StringInfo out)
{
	if (auth->port->remote_hostname_resolv != 0)
		return refuse_host_names(auth, out);

	switch (auth->port->hba->auth_method)
	{
		case uaReject:
		case uaImplicitReject:
			return reject_host(auth, out);
		case uaTrust:
			return authenticated(auth, out);
		case uaPeer:
			return check_peer(auth, out);
		case uaPassword:
			auth->stage = PW_STAGE_PASSWORD;
			pw_build_authentication(out, AUTH_REQ_PASSWORD, NULL, 0);
			return PW_AUTH_CONTINUE;
		case uaMD5:
		case uaSCRAM:
			return start_challenge(auth, out);
		default:
			return refuse_method(auth, out);
	}
}

/*
 * A line says "reject", or no line matches.  The client knows everything that
 * the message says.
 */
static PwAuthStatus
reject_host(PwAuth *auth, StringInfo out)
{
	const Port *port = auth->port;
	bool		is_explicit = port->hba->auth_method == uaReject;
	PwReport	report = {
		.sqlstate = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
		.message = psprintf(is_explicit ? _("pg_hba.conf rejects connection for host \"%s\", user \"%s\", database \"%s\", %s")
							: _("no pg_hba.conf entry for host \"%s\", user \"%s\", database \"%s\", %s"),
							port->remote_host, port->user_name,
							port->database_name, _("no encryption")),
	};

	return refuse(auth, &report, out);
}

/*
 * A line with a host name comes before the one that matches; see find_rule().
 */
static PwAuthStatus
refuse_host_names(PwAuth *auth, StringInfo out)
{
	PwReport	report = {
		.sqlstate = ERRCODE_FEATURE_NOT_SUPPORTED,
		.message = "host names in pg_hba.conf are not supported on the pool's port",
		.detail_log = "A line with a host name comes before any other that matches the client.",
		.hint = psprintf("Write addresses in pg_hba.conf, or connect to the server's own port %d.",
						 PostPortNumber),
	};

	return refuse(auth, &report, out);
}

/*
 * The rule asks for a method that needs more than the client's own bytes.
 */
static PwAuthStatus
refuse_method(PwAuth *auth, StringInfo out)
{
	const HbaLine *rule = auth->port->hba;
	PwReport	report = {
		.sqlstate = ERRCODE_FEATURE_NOT_SUPPORTED,
		.message = psprintf("authentication method \"%s\" is not supported on the pool's port",
							hba_authname(rule->auth_method)),
		.detail_log = matched_line(auth),
		.hint = psprintf("Connect to the server's own port %d.", PostPortNumber),
	};

	return refuse(auth, &report, out);
}

/*
 * "peer": the operating system knows who is at the other end of the socket.
 */
static PwAuthStatus
check_peer(PwAuth *auth, StringInfo out)
{
	const Port *port = auth->port;
	char		name[NAMEDATALEN * 4];

	if (!peer_name(auth->peer.peer_uid, name, sizeof(name)))
		return auth_failed(auth, out);
	log_identity(auth, name);
	if (check_usermap(port->hba->usermap, port->user_name, name, false) != STATUS_OK)
		return auth_failed(auth, out);
	return authenticated(auth, out);
}

/*
 * Translate a user id of the operating system to a name.  False, with the
 * reason in the log, if it has none.
 */
static bool
peer_name(int uid, char *name, size_t size)
{
	char		buffer[8192];
	struct passwd entry;
	struct passwd *found = NULL;
	int			error;

	if (uid < 0)
	{
		ereport(LOG,
				(errmsg("could not get peer credentials")));
		return false;
	}
	error = getpwuid_r((uid_t) uid, &entry, buffer, sizeof(buffer), &found);
	if (found == NULL)
	{
		ereport(LOG,
				(errmsg("could not look up local user ID %ld: %s", (long) uid,
						error ? strerror(error) : _("user does not exist"))));
		return false;
	}
	return strlcpy(name, found->pw_name, size) < size;
}

/*
 * "md5" or "scram-sha-256": which of the two it is depends on the password's
 * verifier, too.
 *
 * For a role that has none, or does not exist, choose what most roles are
 * likely to have, and fail at the end.
 */
static PwAuthStatus
start_challenge(PwAuth *auth, StringInfo out)
{
	PasswordType type = Password_encryption;

	auth->secret = get_role_password(auth->port->user_name, &auth->log_detail);
	if (auth->secret != NULL)
		type = get_password_type(auth->secret);

	if (auth->port->hba->auth_method == uaMD5 && type == PASSWORD_TYPE_MD5)
		return start_md5(auth, out);
	return start_sasl(auth, out);
}

/*
 * Send an MD5 challenge.
 */
static PwAuthStatus
start_md5(PwAuth *auth, StringInfo out)
{
	if (Db_user_namespace)
	{
		PwReport	report = {
			.sqlstate = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
			.message = _("MD5 authentication is not supported when \"db_user_namespace\" is enabled"),
		};

		return refuse(auth, &report, out);
	}
	if (!pg_strong_random(auth->md5_salt, sizeof(auth->md5_salt)))
	{
		ereport(LOG,
				(errmsg("could not generate random MD5 salt")));
		return auth_failed(auth, out);
	}

	auth->stage = PW_STAGE_MD5;
	pw_build_authentication(out, AUTH_REQ_MD5, auth->md5_salt,
							sizeof(auth->md5_salt));
	return PW_AUTH_CONTINUE;
}

/*
 * Offer the SASL mechanisms that there are.
 */
static PwAuthStatus
start_sasl(PwAuth *auth, StringInfo out)
{
	StringInfoData mechanisms;

	initStringInfo(&mechanisms);
	pg_be_scram_mech.get_mechanisms(auth->port, &mechanisms);
	appendStringInfoChar(&mechanisms, '\0');

	auth->stage = PW_STAGE_SASL_INITIAL;
	pw_build_authentication(out, AUTH_REQ_SASL, mechanisms.data,
							mechanisms.len);
	return PW_AUTH_CONTINUE;
}

/*
 * Check a password, or the answer to an MD5 challenge.
 */
static PwAuthStatus
take_password(PwAuth *auth, PwReader *body, StringInfo out)
{
	const char *user = auth->port->user_name;
	const char *password = pw_read_string(body);
	int			result = STATUS_ERROR;

	if (!pw_reader_done(body))
		return violation(auth, _("invalid password packet size"), out);
	if (password[0] == '\0')
	{
		PwReport	report = {
			.sqlstate = ERRCODE_INVALID_PASSWORD,
			.message = _("empty password returned by client"),
		};

		return refuse(auth, &report, out);
	}

	if (auth->stage == PW_STAGE_PASSWORD)
	{
		auth->secret = get_role_password(user, &auth->log_detail);
		if (auth->secret != NULL)
			result = plain_crypt_verify(user, auth->secret, password,
										&auth->log_detail);
	}
	else if (auth->secret != NULL)
		result = md5_crypt_verify(user, auth->secret, password,
								  (void *) auth->md5_salt, sizeof(auth->md5_salt),
								  &auth->log_detail);

	if (result != STATUS_OK)
		return auth_failed(auth, out);
	log_identity(auth, user);
	return authenticated(auth, out);
}

/*
 * Take one message of a SASL exchange.
 */
static PwAuthStatus
take_sasl(PwAuth *auth, PwReader *body, StringInfo out)
{
	const char *mechanism;
	const char *wrong;
	char	   *input = NULL;
	int			input_len = -1;

	wrong = read_sasl(auth, body, &mechanism, &input, &input_len);
	if (wrong != NULL)
		return violation(auth, wrong, out);

	if (auth->stage == PW_STAGE_SASL_INITIAL)
	{
		auth->sasl = pg_be_scram_mech.init(auth->port, mechanism, auth->secret);
		auth->stage = PW_STAGE_SASL;
	}
	return exchange_sasl(auth, input, input_len, out);
}

/*
 * Read such a message.  The first one names a mechanism, and then has a
 * response or the length -1, which leaves *input and *input_len alone; the
 * others are a response and nothing else.  Returns NULL, or what is wrong.
 *
 * The mechanism wants its input copied, with a null byte behind it.
 */
static const char *
read_sasl(PwAuth *auth, PwReader *body, const char **mechanism,
		  char **input, int *input_len)
{
	uint32		len = pw_reader_left(body);
	const char *bytes = NULL;

	*mechanism = NULL;
	if (auth->stage == PW_STAGE_SASL_INITIAL)
	{
		*mechanism = pw_read_string(body);
		if (body->broken)
			return _("invalid string in message");
		len = pw_read_uint32(body);
	}

	if (auth->stage != PW_STAGE_SASL_INITIAL || len != PG_UINT32_MAX)
	{
		bytes = pw_read_bytes(body, len);
		if (bytes == NULL)
			return _("insufficient data left in message");
		*input = palloc0(len + 1);
		memcpy(*input, bytes, len);
		*input_len = (int) len;
	}
	return pw_reader_done(body) ? NULL : _("invalid message format");
}

/*
 * Hand one message to the mechanism and pass on its answer.
 *
 * Raises an error if the message makes no sense to the mechanism; the server
 * does the same, and loses the client by it.
 */
static PwAuthStatus
exchange_sasl(PwAuth *auth, const char *input, int input_len, StringInfo out)
{
	char	   *output = NULL;
	int			output_len = 0;
	int			result = PG_SASL_EXCHANGE_FAILURE;

	/* since PG18 it leaves there what postgres_fdw can log in with */
	MyProcPort = auth->port;
	PG_TRY();
	{
		result = pg_be_scram_mech.exchange(auth->sasl, input, input_len, &output,
										   &output_len, &auth->log_detail);
	}
	PG_FINALLY();
	{
		MyProcPort = NULL;
	}
	PG_END_TRY();
	if (result != PG_SASL_EXCHANGE_CONTINUE && result != PG_SASL_EXCHANGE_SUCCESS)
		return auth_failed(auth, out);
	if (output != NULL)
		pw_build_authentication(out, result == PG_SASL_EXCHANGE_SUCCESS ?
								AUTH_REQ_SASL_FIN : AUTH_REQ_SASL_CONT,
								output, output_len);
	if (result == PG_SASL_EXCHANGE_CONTINUE)
		return PW_AUTH_CONTINUE;

	/* without a secret the mechanism must have failed */
	if (auth->secret == NULL)
		elog(ERROR, "SASL exchange succeeded without a password");
	log_identity(auth, auth->port->user_name);
	return authenticated(auth, out);
}

/*
 * The client is who it says.  Is it also welcome?
 *
 * A client whose login fails from here on has been authenticated, and is told
 * so first.
 */
static PwAuthStatus
authenticated(PwAuth *auth, StringInfo out)
{
	PwReport	why;

	log_authorized(auth);

	if (!pw_catalog_check_login(auth->port->database_name,
								auth->port->user_name, &auth->names, &why) ||
		!collect_settings(auth, &why))
	{
		pw_build_authentication(out, AUTH_REQ_OK, NULL, 0);
		return refuse(auth, &why, out);
	}
	if ((size_t) auth->input.len > auth->message_size)
		return violation(auth, "client sent data before the connection was ready",
						 out);

	auth->login.dboid = auth->names.dboid;
	auth->login.roleoid = auth->names.roleoid;
	auth->login.database = NameStr(auth->names.database);
	auth->login.role = NameStr(auth->names.role);
	auth->login.protocol = Min(auth->startup.protocol, PG_PROTOCOL_LATEST);
	return PW_AUTH_OK;
}

/*
 * Collect what the client wants its session to be set to.  False if its
 * "options" cannot be understood.
 */
static bool
collect_settings(PwAuth *auth, PwReport *why)
{
	const PwStartup *startup = &auth->startup;
	StringInfo	settings = &auth->login.settings;

	initStringInfo(settings);
	if (startup->options != NULL &&
		!pw_startup_options(startup->options, settings, why))
		return false;
	if (startup->parameters.len > 0)
		appendBinaryStringInfo(settings, startup->parameters.data,
							   startup->parameters.len);
	return true;
}

/*
 * Authentication failed.  The client learns that, and the log learns why.
 */
static PwAuthStatus
auth_failed(PwAuth *auth, StringInfo out)
{
	bool		is_peer = auth->port->hba->auth_method == uaPeer;
	PwReport	report = {
		.sqlstate = is_peer ? ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION
		: ERRCODE_INVALID_PASSWORD,
		.message = psprintf(is_peer ? _("Peer authentication failed for user \"%s\"")
							: _("password authentication failed for user \"%s\""),
							auth->port->user_name),
		.detail_log = matched_line(auth),
	};

	if (auth->log_detail != NULL)
		report.detail_log = psprintf("%s\n%s", auth->log_detail,
									 report.detail_log);
	return refuse(auth, &report, out);
}

/*
 * The line of pg_hba.conf that decided, for the log.
 */
static const char *
matched_line(PwAuth *auth)
{
	return pw_hba_matched(auth->port->hba);
}

/*
 * The client did not keep to the protocol.
 */
static PwAuthStatus
violation(PwAuth *auth, const char *message, StringInfo out)
{
	PwReport	report = {
		.sqlstate = ERRCODE_PROTOCOL_VIOLATION,
		.message = message,
	};

	return refuse(auth, &report, out);
}

/*
 * Refuse the client: tell it, in the format that it understands, and the log.
 */
static PwAuthStatus
refuse(PwAuth *auth, const PwReport *report, StringInfo out)
{
	uint32		protocol = auth->startup.protocol;

	log_report(auth, report);
	if (protocol != 0 && PG_PROTOCOL_MAJOR(protocol) < 3)
		pw_build_old_error(out, "FATAL", report);
	else
		pw_build_error(out, "FATAL", report);
	return PW_AUTH_REFUSED;
}

/*
 * Log what went wrong with a client.
 *
 * While we do, we pretend to be that client's backend, so that log_line_prefix
 * and the structured logs say who it was.
 */
static void
log_report(PwAuth *auth, const PwReport *report)
{
	MyProcPort = auth->port;
	ereport(LOG,
			(errcode(report->sqlstate),
			 errmsg_internal("%s", report->message),
			 report->detail ? errdetail_internal("%s", report->detail) : 0,
			 report->detail_log ? errdetail_log("%s", report->detail_log) : 0,
			 report->hint ? errhint("%s", report->hint) : 0));
	MyProcPort = NULL;
}

/*
 * Log who the client has proven to be, as the server's set_authn_id() does.
 */
static void
log_identity(PwAuth *auth, const char *identity)
{
	const HbaLine *rule = auth->port->hba;

	if (!(log_connections & LOG_CONNECTION_AUTHENTICATION))
		return;
	MyProcPort = auth->port;
	ereport(LOG,
			errmsg("connection authenticated: identity=\"%s\" method=%s (%s:%d)",
				   identity, hba_authname(rule->auth_method), pw_hba_file(rule),
				   rule->linenumber));
	MyProcPort = NULL;
}

/*
 * Log that authentication has succeeded, as PerformAuthentication() does.
 */
static void
log_authorized(PwAuth *auth)
{
	const char *application;
	StringInfoData message;

	if (!(log_connections & LOG_CONNECTION_AUTHORIZATION))
		return;

	initStringInfo(&message);
	appendStringInfo(&message, _("connection authorized: user=%s"),
					 auth->port->user_name);
	appendStringInfo(&message, _(" database=%s"), auth->port->database_name);
	application = pw_startup_find_setting(&auth->startup.parameters,
										  "application_name");
	if (application != NULL)
	{
		int			start;

		appendStringInfo(&message, _(" application_name=%s"), "");
		start = message.len;
		appendStringInfoString(&message, application);
		for (int i = start; i < message.len; i++)
		{
			/* as pg_clean_ascii() */
			if (message.data[i] < 32 || message.data[i] > 126)
				message.data[i] = '?';
		}
	}

	MyProcPort = auth->port;
	ereport(LOG, errmsg_internal("%s", message.data));
	MyProcPort = NULL;
}

/*
 * load_hba() and load_ident() parse into children of PostmasterContext, which
 * background workers do not have.
 */
void
pw_auth_load_rules(void)
{
	if (PostmasterContext == NULL)
		PostmasterContext = AllocSetContextCreate(TopMemoryContext,
												  "Postmaster",
												  ALLOCSET_DEFAULT_SIZES);

	if (!load_hba())
		ereport(LOG,
				(errmsg("%s was not reloaded", HbaFileName)));

	/* has said in the log what is wrong, if anything is */
	(void) load_ident();
}
