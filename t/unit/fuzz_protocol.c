/*-------------------------------------------------------------------------
 *
 * fuzz_protocol.c
 *	  Feed arbitrary bytes to the parsers.
 *
 * Runs in: test programs without a server; as a libFuzzer target, and called
 * by protocol_test.c with inputs of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "protocol.h"
#include "startup_packet.h"
#include "unit.h"

/* A promise of the parsers; not Assert(), which may be compiled out. */
#define PROMISE(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: broken promise: %s\n", \
					__FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

#define MESSAGE_LIMIT 65535

static void fuzz_stream(const char *data, size_t size);
static void fuzz_messages(const char *data, size_t size);
static void fuzz_packet(PwStartup *startup, PwReader *body);
static void fuzz_options(const char *options);
static void check_session(const PwStartup *startup);
static void check_settings(const StringInfoData *settings);
static void check_report(const PwReport *report);

int
LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	PwStartup	startup;
	PwReader	body;
	char	   *copy;

	if (size == 0)
		return 0;

	/* an allocation of exactly this size, for AddressSanitizer */
	copy = palloc(size - 1);
	memcpy(copy, data + 1, size - 1);
	memset(&startup, 0, sizeof(startup));

	switch (data[0] % UNIT_NINPUTS)
	{
		case UNIT_STREAM:
			fuzz_stream(copy, size - 1);
			break;
		case UNIT_PACKET:
			pw_reader_init(&body, copy, size - 1);
			fuzz_packet(&startup, &body);
			break;
		case UNIT_MESSAGES:
			fuzz_messages(copy, size - 1);
			break;
		case UNIT_OPTIONS:
			fuzz_options(pnstrdup(copy, size - 1));
			break;
	}

	unit_reset_memory();
	return 0;
}

/*
 * As auth.c does: startup packets until one is not an encryption request, then
 * messages.
 */
static void
fuzz_stream(const char *data, size_t size)
{
	PwStartup	startup;
	StringInfoData input;
	PwReader	body;
	size_t		used;

	memset(&startup, 0, sizeof(startup));
	initStringInfo(&input);
	appendBinaryStringInfo(&input, data, size);

	while (pw_frame_startup(input.data, input.len, &used, &body) == PW_FRAME_COMPLETE)
	{
		bool		ssl_before = startup.ssl_requested;
		bool		gss_before = startup.gss_requested;

		PROMISE(used >= 8 && used <= input.len);
		PROMISE(body.end - input.data == used);
		fuzz_packet(&startup, &body);
		pw_buffer_discard(&input, used);
		if (ssl_before == startup.ssl_requested &&
			gss_before == startup.gss_requested)
			break;
	}
	fuzz_messages(input.data, input.len);
}

/*
 * Walk over messages, and read the inside of each in the ways there are.
 */
static void
fuzz_messages(const char *data, size_t size)
{
	PwReader	body;
	size_t		used;
	char		type;

	while (pw_frame_message(data, size, MESSAGE_LIMIT, &type, &used, &body) == PW_FRAME_COMPLETE)
	{
		PwReader	again = body;

		PROMISE(used >= 5 && used <= size && used <= MESSAGE_LIMIT + 1);
		PROMISE(body.end == data + used);

		/* a SASLInitialResponse */
		(void) strlen(pw_read_string(&body));
		(void) pw_read_bytes(&body, pw_read_uint32(&body));
		PROMISE(body.pos <= body.end);
		if (body.broken)
			PROMISE(body.pos == body.end && !pw_reader_done(&body));

		/* anything that is a list of strings */
		while (pw_reader_left(&again) > 0)
			(void) strlen(pw_read_string(&again));
		PROMISE(again.pos == again.end);

		data += used;
		size -= used;
	}
}

/*
 * Parse one startup packet and look at what comes out.
 */
static void
fuzz_packet(PwStartup *startup, PwReader *body)
{
	StringInfoData out;

	initStringInfo(&out);
	switch (pw_startup_parse(startup, body))
	{
		case PW_STARTUP_SSL_REQUEST:
			PROMISE(startup->ssl_requested);
			break;
		case PW_STARTUP_GSS_REQUEST:
			PROMISE(startup->gss_requested);
			break;
		case PW_STARTUP_CANCEL:
			PROMISE(pw_reader_done(body));
			break;
		case PW_STARTUP_SESSION:
			check_session(startup);
			break;
		case PW_STARTUP_REFUSED:
		case PW_STARTUP_MALFORMED:
			check_report(&startup->problem);
			break;
	}
	if (pw_startup_negotiates(startup))
	{
		uint32		named = 0;

		pw_build_negotiate_version(&out, PG_PROTOCOL_LATEST,
								   startup->nunknown, startup->unknown.data,
								   startup->unknown.len);
		for (int i = 0; i < startup->unknown.len; i++)
			named += startup->unknown.data[i] == '\0';
		PROMISE(named == startup->nunknown);
	}
}

/*
 * What holds for every packet that was accepted.
 */
static void
check_session(const PwStartup *startup)
{
	PROMISE(startup->protocol >> 16 == 3);
	PROMISE(startup->user[0] != '\0' && strlen(startup->user) < NAMEDATALEN);
	PROMISE(startup->database[0] != '\0' &&
			strlen(startup->database) < NAMEDATALEN);
	check_settings(&startup->parameters);
	(void) pw_startup_find_setting(&startup->parameters, "application_name");
	if (startup->options)
		fuzz_options(startup->options);
}

/*
 * Translate switches.
 */
static void
fuzz_options(const char *options)
{
	StringInfoData settings;
	PwReport	problem = {0};

	initStringInfo(&settings);
	if (!pw_startup_options(options, &settings, &problem))
		check_report(&problem);
	check_settings(&settings);
}

/*
 * A list of settings is pairs of strings and nothing else.
 */
static void
check_settings(const StringInfoData *settings)
{
	PwReader	reader;

	pw_reader_init(&reader, settings->data, settings->len);
	while (pw_reader_left(&reader) > 0)
	{
		(void) pw_read_string(&reader);
		(void) pw_read_string(&reader);
	}
	PROMISE(pw_reader_done(&reader));
}

/*
 * A report can be sent, as a message that can be read.
 */
static void
check_report(const PwReport *report)
{
	StringInfoData out;
	PwReader	body;
	size_t		used;
	char		type;

	PROMISE(report->message != NULL && report->sqlstate != 0);
	initStringInfo(&out);
	pw_build_error(&out, "FATAL", report);
	PROMISE(pw_frame_message(out.data, out.len, MESSAGE_LIMIT,
							 &type, &used, &body) == PW_FRAME_COMPLETE);
	PROMISE(type == 'E' && used == out.len);
}
