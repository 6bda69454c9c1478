/*-------------------------------------------------------------------------
 *
 * protocol.c
 *	  Frame, read and build messages of the wire protocol, in memory.
 *
 * Runs in: pool worker, slots, and the unit tests, which have no server.
 *
 * Many of these bytes come from people who have not proven who they are.
 * Nothing outside this file does arithmetic on a length that came off the
 * wire, and in here every such length is compared as an unsigned number with
 * what has really arrived before it is used.
 *
 * This file uses nothing of the server but StringInfo, so that
 * t/unit/protocol_test.c can run it alone, under sanitizers and a fuzzer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "postgres_ext.h"

#include "protocol.h"

/* A length word counts itself. */
#define LENGTH_WORD sizeof(uint32)

/*
 * The limits of a startup packet's length word.  The server's own limit does
 * not count the word itself.
 */
#define STARTUP_LENGTH_MIN (LENGTH_WORD + sizeof(ProtocolVersion))
#define STARTUP_LENGTH_MAX (LENGTH_WORD + MAX_STARTUP_PACKET_LENGTH)

static PwFrame frame_body(const char *data, size_t len, uint32 min, uint32 max,
						  size_t *size, PwReader *body);
static void build_report(StringInfo out, char type, const char *severity,
						 const PwReport *report);
static void append_field(StringInfo out, char code, const char *value);
static const char *sqlstate_text(int sqlstate, char *buffer);
static int	message_begin(StringInfo out, char type);
static void message_end(StringInfo out, int start);
static void append_uint32(StringInfo out, uint32 value);
static void append_string(StringInfo out, const char *value);

/*
 * A client that begins a TLS handshake at once sends 0x16 as its first byte.
 * That makes a length of more than 350 million, so it needs no case of its
 * own.
 */
PwFrame
pw_frame_startup(const char *data, size_t len, size_t *size, PwReader *body)
{
	return frame_body(data, len, STARTUP_LENGTH_MIN, STARTUP_LENGTH_MAX,
					  size, body);
}

PwFrame
pw_frame_message(const char *data, size_t len, uint32 limit,
				 char *type, size_t *size, PwReader *body)
{
	PwFrame		frame;

	*type = 0;
	if (len == 0)
		return PW_FRAME_INCOMPLETE;

	*type = data[0];
	frame = frame_body(data + 1, len - 1, LENGTH_WORD, limit, size, body);
	if (frame == PW_FRAME_COMPLETE)
		*size += 1;
	return frame;
}

/*
 * Frame what begins with a length word between "min" and "max".
 */
static PwFrame
frame_body(const char *data, size_t len, uint32 min, uint32 max,
		   size_t *size, PwReader *body)
{
	PwReader	header;
	uint32		length;

	pw_reader_init(&header, data, len);
	length = pw_read_uint32(&header);
	if (header.broken)
		return PW_FRAME_INCOMPLETE;
	if (length < min || length > max)
		return PW_FRAME_BAD_LENGTH;
	if (length > len)
		return PW_FRAME_INCOMPLETE;

	*size = length;
	pw_reader_init(body, data + LENGTH_WORD, length - LENGTH_WORD);
	return PW_FRAME_COMPLETE;
}

void
pw_buffer_discard(StringInfo buffer, size_t size)
{
	size_t		rest = buffer->len - size;

	Assert(size <= (size_t) buffer->len);
	memmove(buffer->data, buffer->data + size, rest);
	explicit_bzero(buffer->data + rest, size);
	buffer->len = (int) rest;
}

void
pw_reader_init(PwReader *reader, const char *data, size_t len)
{
	reader->pos = data;
	reader->end = data + len;
	reader->broken = false;
}

uint32
pw_read_uint32(PwReader *reader)
{
	const char *raw = pw_read_bytes(reader, sizeof(uint32));
	uint32		value;

	if (raw == NULL)
		return 0;
	memcpy(&value, raw, sizeof(value));
	return pg_ntoh32(value);
}

const char *
pw_read_bytes(PwReader *reader, size_t len)
{
	const char *bytes = reader->pos;

	if (reader->broken || pw_reader_left(reader) < len)
	{
		reader->broken = true;
		reader->pos = reader->end;
		return NULL;
	}
	reader->pos += len;
	return bytes;
}

const char *
pw_read_string(PwReader *reader)
{
	const char *string = reader->pos;
	const char *terminator = NULL;

	if (!reader->broken && pw_reader_left(reader) > 0)
		terminator = memchr(string, '\0', pw_reader_left(reader));
	if (terminator == NULL)
	{
		reader->broken = true;
		reader->pos = reader->end;
		return "";
	}
	reader->pos = terminator + 1;
	return string;
}

void
pw_build_error(StringInfo out, const char *severity, const PwReport *report)
{
	build_report(out, 'E', severity, report);
}

void
pw_build_notice(StringInfo out, const char *severity, const PwReport *report)
{
	build_report(out, 'N', severity, report);
}

/*
 * Append an ErrorResponse or a NoticeResponse, with the fields in the
 * server's order.
 */
static void
build_report(StringInfo out, char type, const char *severity,
			 const PwReport *report)
{
	int			start = message_begin(out, type);
	char		sqlstate[6];

	append_field(out, PG_DIAG_SEVERITY, _(severity));
	append_field(out, PG_DIAG_SEVERITY_NONLOCALIZED, severity);
	append_field(out, PG_DIAG_SQLSTATE,
				 sqlstate_text(report->sqlstate, sqlstate));
	append_field(out, PG_DIAG_MESSAGE_PRIMARY, report->message);
	if (report->detail)
		append_field(out, PG_DIAG_MESSAGE_DETAIL, report->detail);
	if (report->hint)
		append_field(out, PG_DIAG_MESSAGE_HINT, report->hint);
	appendStringInfoChar(out, '\0');
	message_end(out, start);
}

/*
 * Append one field of an ErrorResponse.
 */
static void
append_field(StringInfo out, char code, const char *value)
{
	appendStringInfoChar(out, code);
	append_string(out, value);
}

/*
 * Spell out an SQLSTATE into "buffer", which has room for six bytes.
 */
static const char *
sqlstate_text(int sqlstate, char *buffer)
{
	for (int i = 0; i < 5; i++)
	{
		buffer[i] = PGUNSIXBIT(sqlstate);
		sqlstate >>= 6;
	}
	buffer[5] = '\0';
	return buffer;
}

/* The old format has a type byte, but neither length nor fields. */
void
pw_build_old_error(StringInfo out, const char *severity,
				   const PwReport *report)
{
	appendStringInfo(out, "E%s:  %s\n", _(severity), report->message);
	appendStringInfoChar(out, '\0');
}

void
pw_build_authentication(StringInfo out, uint32 request,
						const char *data, size_t len)
{
	int			start = message_begin(out, 'R');

	append_uint32(out, request);
	if (len > 0)
		appendBinaryStringInfo(out, data, len);
	message_end(out, start);
}

void
pw_build_negotiate_version(StringInfo out, uint32 newest, uint32 noptions,
						   const char *options, size_t options_len)
{
	int			start = message_begin(out, 'v');

	append_uint32(out, newest);
	append_uint32(out, noptions);
	if (options_len > 0)
		appendBinaryStringInfo(out, options, options_len);
	message_end(out, start);
}

void
pw_build_parameter_status(StringInfo out, const char *name, const char *value)
{
	int			start = message_begin(out, 'S');

	append_string(out, name);
	append_string(out, value);
	message_end(out, start);
}

void
pw_build_backend_key(StringInfo out, int32 pid, const uint8 *key, size_t key_size)
{
	int			start = message_begin(out, 'K');

	append_uint32(out, (uint32) pid);
	appendBinaryStringInfo(out, (const char *) key, key_size);
	message_end(out, start);
}

void
pw_build_ready(StringInfo out, char status)
{
	int			start = message_begin(out, 'Z');

	appendStringInfoChar(out, status);
	message_end(out, start);
}

void
pw_build_parse_unnamed(StringInfo out)
{
	int			start = message_begin(out, 'P');

	append_string(out, "");
	append_string(out, "");
	appendBinaryStringInfo(out, "\0\0", 2);
	message_end(out, start);
}

void
pw_build_close_unnamed(StringInfo out)
{
	int			start = message_begin(out, 'C');

	appendStringInfoChar(out, 'S');
	append_string(out, "");
	message_end(out, start);
}

void
pw_build_sync(StringInfo out)
{
	message_end(out, message_begin(out, 'S'));
}

/*
 * Append a message's type byte and room for its length, and return where that
 * room is, for message_end().
 */
static int
message_begin(StringInfo out, char type)
{
	int			start;

	appendStringInfoChar(out, type);
	start = out->len;
	append_uint32(out, 0);
	return start;
}

/*
 * Write the length of the message that has been appended since
 * message_begin() returned "start".
 */
static void
message_end(StringInfo out, int start)
{
	uint32		length = pg_hton32((uint32) (out->len - start));

	memcpy(out->data + start, &length, sizeof(length));
}

/*
 * Append a number in network byte order.
 */
static void
append_uint32(StringInfo out, uint32 value)
{
	uint32		raw = pg_hton32(value);

	appendBinaryStringInfo(out, (const char *) &raw, sizeof(raw));
}

/*
 * Append a string and its terminator.
 */
static void
append_string(StringInfo out, const char *value)
{
	appendBinaryStringInfo(out, value, strlen(value) + 1);
}
