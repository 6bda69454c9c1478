/*-------------------------------------------------------------------------
 *
 * protocol.h
 *	  Frame, read and build messages of the wire protocol, in memory.
 *
 * Runs in: pool worker, slots, and the unit tests, which have no server.
 *
 * Nothing here knows a socket or takes a decision.  A framer tells where the
 * first message of a buffer ends, a PwReader walks over the inside of one, and
 * the builders append one to a StringInfo.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_PROTOCOL_H
#define PW_PROTOCOL_H

#include "lib/stringinfo.h"
#include "libpq/pqcomm.h"
#include "port/pg_bswap.h"

/* The longest cancel key of protocol 3.2; before, all have four bytes. */
#define PW_CANCEL_KEY_LIMIT 256

/* A cancel request: whom it means. */
typedef struct PwCancelKey
{
	int32		pid;			/* as in BackendKeyData */
	const uint8 *bytes;
	size_t		size;			/* 1 to PW_CANCEL_KEY_LIMIT */
} PwCancelKey;

/*
 * A cursor over one message that has arrived completely.
 *
 * A read that would pass the end returns zero and sets "broken", which stays
 * set.  So a parser reads all its fields first and asks pw_reader_done() once,
 * before it believes any of them.
 */
typedef struct PwReader
{
	const char *pos;
	const char *end;
	bool		broken;
} PwReader;

/* What a framer sees at the start of a buffer. */
typedef enum PwFrame
{
	PW_FRAME_INCOMPLETE,		/* feed more and ask again */
	PW_FRAME_COMPLETE,			/* one message, of "size" bytes */
	PW_FRAME_BAD_LENGTH,		/* says a length that is impossible or over
								 * the limit; nothing behind it can be trusted */
} PwFrame;

/*
 * What is wrong, in the parts that an ErrorResponse has.  Strings may be NULL
 * where noted; a report does not own them.
 */
typedef struct PwReport
{
	int			sqlstate;		/* as made by MAKE_SQLSTATE */
	const char *message;
	const char *detail;			/* or NULL */
	const char *detail_log;		/* what the log gets instead of "detail", or
								 * NULL; never sent to a client */
	const char *hint;			/* or NULL */
} PwReport;

/*
 * Frame a startup packet, or one of the special requests that may come in its
 * place: a length word, then the body.  On PW_FRAME_COMPLETE, *size is the
 * number of bytes it takes and *body covers what follows the length word.
 */
extern PwFrame pw_frame_startup(const char *data, size_t len,
								size_t *size, PwReader *body);

/*
 * Frame an ordinary message: type byte, length word, body.  "limit" is the
 * largest length word to accept.  *type is set as soon as there is one byte,
 * and is 0 before.
 */
extern PwFrame pw_frame_message(const char *data, size_t len, uint32 limit,
								char *type, size_t *size, PwReader *body);

/*
 * Remove the first "size" bytes of a buffer and overwrite what they leave
 * behind, since they may have held a password.
 */
extern void pw_buffer_discard(StringInfo buffer, size_t size);

/* Reading; see PwReader. */
extern void pw_reader_init(PwReader *reader, const char *data, size_t len);
extern uint32 pw_read_uint32(PwReader *reader);

/* "len" bytes in place, or NULL if there are fewer. */
extern const char *pw_read_bytes(PwReader *reader, size_t len);

/* A null-terminated string in place, or "" if there is no terminator. */
extern const char *pw_read_string(PwReader *reader);

/* The number of bytes not read yet. */
static inline size_t
pw_reader_left(const PwReader *reader)
{
	return reader->end - reader->pos;
}

/* True if everything read so far was there, and nothing is left over. */
static inline bool
pw_reader_done(const PwReader *reader)
{
	return !reader->broken && reader->pos == reader->end;
}

/*
 * Building.  Each appends one complete message to "out".
 */

/* "severity" as the server spells it untranslated, for instance "FATAL" */
extern void pw_build_error(StringInfo out, const char *severity,
						   const PwReport *report);
extern void pw_build_notice(StringInfo out, const char *severity,
							const PwReport *report);

/* An error as protocol version 2 and older had it: text without fields. */
extern void pw_build_old_error(StringInfo out, const char *severity,
							   const PwReport *report);

/* An authentication request; AUTH_REQ_OK is AuthenticationOk. */
extern void pw_build_authentication(StringInfo out, uint32 request,
									const char *data, size_t len);

/*
 * "options" holds "noptions" null-terminated names, one behind the other,
 * options_len bytes in all.
 */
extern void pw_build_negotiate_version(StringInfo out, uint32 newest,
									   uint32 noptions, const char *options,
									   size_t options_len);
extern void pw_build_parameter_status(StringInfo out, const char *name,
									  const char *value);
extern void pw_build_backend_key(StringInfo out, int32 pid, const uint8 *key,
								 size_t key_size);

/* "status" is 'I', 'T' or 'E'. */
extern void pw_build_ready(StringInfo out, char status);

/*
 * Messages of a client: Parse of an empty text as the unnamed statement, Close
 * of the unnamed statement, Sync.
 */
extern void pw_build_parse_unnamed(StringInfo out);
extern void pw_build_close_unnamed(StringInfo out);
extern void pw_build_sync(StringInfo out);

#endif							/* PW_PROTOCOL_H */
