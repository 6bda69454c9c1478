/*-------------------------------------------------------------------------
 *
 * startup_packet.h
 *	  What a client says first: parse it.
 *
 * Runs in: pool worker, and the unit tests, which have no server.
 *
 * Functions of bytes: they decide what the packet means and what is wrong
 * with it, as the server's ProcessStartupPacket() and process_postgres_switches()
 * do, but they do not act on it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_STARTUP_PACKET_H
#define PW_STARTUP_PACKET_H

#include "lib/stringinfo.h"

#include "protocol.h"

typedef enum PwStartupKind
{
	PW_STARTUP_SSL_REQUEST,		/* to be answered with one byte; another
								 * packet follows */
	PW_STARTUP_GSS_REQUEST,		/* likewise */
	PW_STARTUP_CANCEL,			/* "cancel" is set */
	PW_STARTUP_SESSION,			/* all fields are set */
	PW_STARTUP_REFUSED,			/* "problem" is to be reported */
	PW_STARTUP_MALFORMED,		/* "problem" is for the log; just hang up */
} PwStartupKind;

/*
 * Zero it before the first packet of a connection, and keep it for the next
 * one after an encryption request.  Everything is allocated in the memory
 * context that is current during the calls.
 */
typedef struct PwStartup
{
	bool		ssl_requested;	/* each encryption request is allowed once */
	bool		gss_requested;

	uint32		protocol;		/* as the client asked; 0 while unknown */
	PwCancelKey cancel;

	char	   *database;		/* at most NAMEDATALEN - 1 bytes, as is user */
	char	   *user;
	char	   *options;		/* command-line switches, or NULL */

	/* generic parameters: pairs of null-terminated name and value */
	StringInfoData parameters;

	/* names of protocol options ("_pq_.") that nobody knows */
	uint32		nunknown;
	StringInfoData unknown;

	PwReport	problem;		/* valid if refused or malformed */
} PwStartup;

/*
 * Parse one startup packet, from behind its length word.
 *
 * PW_STARTUP_REFUSED may come after the point where the server would already
 * have sent NegotiateProtocolVersion; pw_startup_negotiates() tells.
 */
extern PwStartupKind pw_startup_parse(PwStartup *startup, PwReader *body);

/* Does the client have to be told what we do not speak? */
extern bool pw_startup_negotiates(const PwStartup *startup);

/*
 * Translate the switches in an "options" parameter to the settings they stand
 * for, and append these to "settings" as pairs of null-terminated name and
 * value.  On failure returns false, with the server's words in *problem.
 *
 * Whether the settings exist and the values fit is for the server to say.
 */
extern bool pw_startup_options(const char *options, StringInfo settings,
							   PwReport *problem);

/* Append one pair. */
extern void pw_startup_append_setting(StringInfo settings, const char *name,
									  const char *value);

/* The value that "name" has at last in such a list, or NULL. */
extern const char *pw_startup_find_setting(const StringInfoData *settings,
										   const char *name);

#endif							/* PW_STARTUP_PACKET_H */
