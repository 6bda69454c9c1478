/*-------------------------------------------------------------------------
 *
 * auth.h
 *	  From the first byte of a connection to an authenticated login.
 *
 * Runs in: pool worker.
 *
 * A PwAuth is a function of bytes: the caller feeds what the client sent and
 * sends what comes out.  It never sees a socket and never blocks on one.
 * Who may log in is decided by PostgreSQL's own code for pg_hba.conf, SCRAM,
 * MD5 and user maps; see auth.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_AUTH_H
#define PW_AUTH_H

#include "lib/stringinfo.h"
#include "libpq/pqcomm.h"

#include "protocol.h"

typedef struct PwAuth PwAuth;

/* What the transport knows about the client. */
typedef struct PwPeer
{
	SockAddr	raddr;			/* the client's address */
	SockAddr	laddr;			/* ours */
	const char *remote_host;	/* numeric, or "[local]"; outlives the PwAuth */
	const char *remote_port;	/* likewise, may be "" */
	int			peer_uid;		/* of a Unix socket's other end, else -1 */
} PwPeer;

/* The result of a successful admission. */
typedef struct PwLogin
{
	Oid			dboid;
	Oid			roleoid;
	const char *database;		/* the names as stored in the catalogs */
	const char *role;
	uint32		protocol;		/* version to be used, after negotiation */

	/*
	 * The startup settings as pairs of null-terminated name and value, in the
	 * order in which they must be applied: those from "options" first, as the
	 * server does.  application_name is always among them, empty if the
	 * client gave none.
	 */
	StringInfoData settings;
} PwLogin;

typedef enum PwAuthStatus
{
	PW_AUTH_CONTINUE,			/* send "out", then feed more */
	PW_AUTH_OK,					/* send "out", then attach to a slot, which
								 * goes on with AuthenticationOk */
	PW_AUTH_REFUSED,			/* send "out", which ends in an ErrorResponse,
								 * if not empty; then close */
	PW_AUTH_CANCEL,				/* a CancelRequest: see pw_auth_cancel_key();
								 * close without an answer */
} PwAuthStatus;

/*
 * Begin.  Everything is allocated in "context", which the caller deletes; the
 * PwAuth needs no other clean-up.
 */
extern PwAuth *pw_auth_create(MemoryContext context, const PwPeer *peer);

/*
 * Feed bytes as they came from the socket, in pieces of any size.  Returns
 * what to do next; appends to "out" what is to be sent first.  After anything
 * but PW_AUTH_CONTINUE it must not be called again.
 *
 * Bytes that the client sent behind the message that completed the login
 * would belong to its session; a client may not send them before it has seen
 * ReadyForQuery, so they are refused.
 *
 * May raise an error for internal trouble (catalog access, out of memory),
 * which costs this client its connection.
 */
extern PwAuthStatus pw_auth_feed(PwAuth *auth, const char *data, size_t len,
								 StringInfo out);

/* Valid after PW_AUTH_OK, until the context is deleted. */
extern const PwLogin *pw_auth_login(PwAuth *auth);

/* Valid after PW_AUTH_CANCEL. */
extern const PwCancelKey *pw_auth_cancel_key(PwAuth *auth);

/* Valid after PW_AUTH_REFUSED: what was refused, for the pool's counters. */
extern const char *pw_auth_database(PwAuth *auth);	/* NULL if unknown */
extern const char *pw_auth_role(PwAuth *auth);	/* NULL if unknown */

/*
 * Load pg_hba.conf and pg_ident.conf, at start and at each reload.  Keeps the
 * old rules if a file has errors, as the server does, and logs them.
 */
extern void pw_auth_load_rules(void);

#endif							/* PW_AUTH_H */
