/*-------------------------------------------------------------------------
 *
 * protocol_test.c
 *	  Tests of protocol.c and startup_packet.c without a server.
 *
 * Runs in: a program of its own, built with AddressSanitizer and
 * UndefinedBehaviorSanitizer.  Output is TAP.
 *
 * Each packet is also given truncated at every byte, every length field with
 * every length at which something could go wrong, and all of them shaken by a
 * random generator with a fixed seed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "protocol.h"
#include "startup_packet.h"
#include "unit.h"

/* a string constant with null bytes in it */
#define BYTES(literal) literal, sizeof(literal) - 1

#if PG_PROTOCOL_LATEST == PG_PROTOCOL(3, 0)
#define SUPPORTED "3.0 to 3.0"
#else
#define SUPPORTED "3.0 to 3.2"
#endif

#define V3 "\0\3\0\0"
#define FUZZ_ROUNDS 200000
#define FUZZ_MAX_SIZE 400

typedef struct PwPacketCase
{
	const char *name;
	const char *bytes;			/* from behind the length word */
	size_t		len;
	PwStartupKind kind;
	const char *user;			/* of a session; or of a refusal, the message */
	const char *database;		/* or the hint */
	const char *options;
} PwPacketCase;

static const PwPacketCase packet_cases[] = {
	{"user only", BYTES(V3 "user\0joe\0\0"),
	PW_STARTUP_SESSION, "joe", "joe", NULL},
	{"user and database", BYTES(V3 "user\0joe\0database\0shop\0\0"),
	PW_STARTUP_SESSION, "joe", "shop", NULL},
	{"empty database", BYTES(V3 "database\0\0user\0joe\0\0"),
	PW_STARTUP_SESSION, "joe", "joe", NULL},
	{"the last of several users", BYTES(V3 "user\0eve\0user\0joe\0\0"),
	PW_STARTUP_SESSION, "joe", "joe", NULL},
	{"options", BYTES(V3 "user\0joe\0options\0-c geqo=off\0\0"),
	PW_STARTUP_SESSION, "joe", "joe", "-c geqo=off"},
	{"replication off", BYTES(V3 "user\0joe\0replication\0off\0\0"),
	PW_STARTUP_SESSION, "joe", "joe", NULL},
	{"newer minor version", BYTES("\0\3\0\2user\0joe\0\0"),
	PW_STARTUP_SESSION, "joe", "joe", NULL},
	{"overlong names",
		BYTES(V3 "user\0"
			  "a123456789b123456789c123456789d123456789e123456789f123456789g123456789\0\0"),
		PW_STARTUP_SESSION,
		"a123456789b123456789c123456789d123456789e123456789f123456789g12",
	"a123456789b123456789c123456789d123456789e123456789f123456789g12", NULL},

	{"SSLRequest", BYTES("\x04\xd2\x16\x2f"), PW_STARTUP_SSL_REQUEST},
	{"GSSENCRequest", BYTES("\x04\xd2\x16\x30"), PW_STARTUP_GSS_REQUEST},
	{"CancelRequest", BYTES("\x04\xd2\x16\x2e\0\0\1\2\xff\xff\xff\xfe"),
	PW_STARTUP_CANCEL},

	{"CancelRequest with a longer key",
		BYTES("\x04\xd2\x16\x2e\0\0\1\2\xff\xff\xff\xfe\0"),
	PW_STARTUP_CANCEL},

	{"CancelRequest without a key", BYTES("\x04\xd2\x16\x2e\0\0\1\2"),
		PW_STARTUP_MALFORMED,
	"invalid length of startup packet"},
	{"no user", BYTES(V3 "\0"), PW_STARTUP_REFUSED,
	"no PostgreSQL user name specified in startup packet"},
	{"empty user", BYTES(V3 "user\0\0\0"), PW_STARTUP_REFUSED,
	"no PostgreSQL user name specified in startup packet"},
	{"no terminator", BYTES(V3 "user\0joe\0"), PW_STARTUP_REFUSED,
	"invalid startup packet layout: expected terminator as last byte"},
	{"bytes behind the terminator", BYTES(V3 "user\0joe\0\0\0"),
		PW_STARTUP_REFUSED,
	"invalid startup packet layout: expected terminator as last byte"},
	{"name without value", BYTES(V3 "user\0"), PW_STARTUP_REFUSED,
	"invalid startup packet layout: expected terminator as last byte"},
	{"version 2", BYTES("\0\2\0\0shop\0"), PW_STARTUP_REFUSED,
	"unsupported frontend protocol 2.0: server supports " SUPPORTED},
	{"version 65535", BYTES("\xff\xff\xff\xff"), PW_STARTUP_REFUSED,
	"unsupported frontend protocol 65535.65535: server supports " SUPPORTED},
	{"replication", BYTES(V3 "user\0joe\0replication\0true\0\0"),
		PW_STARTUP_REFUSED, "replication connections cannot be pooled",
	"Connect to the server's own port."},
	{"logical replication", BYTES(V3 "user\0joe\0replication\0database\0\0"),
		PW_STARTUP_REFUSED, "replication connections cannot be pooled",
	"Connect to the server's own port."},
	{"replication, nonsense", BYTES(V3 "user\0joe\0replication\0maybe\0\0"),
		PW_STARTUP_REFUSED,
		"invalid value for parameter \"replication\": \"maybe\"",
	"Valid values are: \"false\", 0, \"true\", 1, \"database\"."},
};

typedef struct PwOptionsCase
{
	const char *options;
	const char *settings;		/* "name=value" joined by "|", or NULL */
	const char *message;		/* of the failure */
} PwOptionsCase;

static const PwOptionsCase options_cases[] = {
	{"", ""},
	{"-c geqo=off", "geqo=off"},
	{"-cgeqo=off", "geqo=off"},
	{"--geqo=off --work-mem=1MB", "geqo=off|work_mem=1MB"},
	{"-c search_path=a\\ b,c", "search_path=a b,c"},
	{"-c a.b=\\\\x", "a.b=\\x"},
	{"-c x= -c y=1=2", "x=|y=1=2"},
	{"-Fs -S 64", "fsync=false|log_statement_stats=true|work_mem=64"},
	{"-e -fs -fm -tpa -tpl -te",
		"datestyle=euro|enable_seqscan=false|enable_mergejoin=false|"
	"log_parser_stats=true|log_planner_stats=true|log_executor_stats=true"},
	{"-d 0", "log_min_messages=notice"},
	{"-d3", "log_min_messages=debug3|log_statement=all|debug_print_parse=true"},
	{"-b -E -j -n -T -D /x -r y -v 1 -C z", ""},

	{"-c geqo", NULL, "-c geqo requires a value"},
	{"--geqo", NULL, "--geqo requires a value"},
	{"-fq", NULL, "invalid command-line argument for server process: -fq"},
	{"-tp", NULL, "invalid command-line argument for server process: -tp"},
	{"-z", NULL, "invalid command-line argument for server process: -z"},
	{"-S", NULL, "invalid command-line argument for server process: -S"},
	{"shop", NULL, "invalid command-line argument for server process: shop"},
	{"-- shop", NULL, "invalid command-line argument for server process: shop"},
};

/* where a comparison of lengths could be wrong by one, or by a sign */
static const uint32 lengths[] = {
	0, 1, 3, 4, 5, 7, 8, 9, 63, 64, 1023, 1024, 1025, 8192, 10000, 10001, 10004,
	10005, 65534, 65535, 65536, 0x7ffffffb, 0x7fffffff, 0x80000000, 0x80000004,
	0xfffffffb, 0xfffffffc, 0xffffffff,
};

static int	ntests = 0;
static int	nfailed = 0;

/*
 * Report one test.
 */
static void
ok(bool passed, const char *name, const char *what)
{
	ntests++;
	if (!passed)
		nfailed++;
	printf("%sok %d - %s: %s\n", passed ? "" : "not ", ntests, name, what);
}

/*
 * Are these equal, or both missing?
 */
static bool
same(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

/*
 * A copy without slack, so that AddressSanitizer sees a step too far.
 */
static const char *
exact(const char *bytes, size_t len)
{
	return memcpy(palloc(len), bytes, len);
}

/*
 * Parse a packet in a fresh connection.
 */
static PwStartupKind
parse(const char *bytes, size_t len, PwStartup *startup)
{
	PwReader	body;

	memset(startup, 0, sizeof(*startup));
	pw_reader_init(&body, exact(bytes, len), len);
	return pw_startup_parse(startup, &body);
}

/*
 * Is no truncation of a packet taken for a session or a cancel request?  Those
 * that are refused whole may be, of course: some have a byte too many.
 */
static bool
truncations_are_refused(const PwPacketCase *packet)
{
	PwStartup	startup;

	for (size_t len = 0; len < packet->len; len++)
	{
		PwStartupKind kind = parse(packet->bytes, len, &startup);

		/* a key may have any length, and nobody has one that is shorter */
		if (kind == PW_STARTUP_CANCEL && startup.cancel.size > 0 &&
			startup.cancel.size == len - 8)
			continue;
		if ((kind == PW_STARTUP_SESSION || kind == PW_STARTUP_CANCEL) &&
			packet->kind < PW_STARTUP_REFUSED)
			return false;
	}
	return true;
}

/*
 * Does the framer wait for every byte of a packet, and then frame it whole,
 * also with something behind it?
 */
static bool
is_framed(const PwPacketCase *packet)
{
	StringInfoData stream;
	uint32		length = pg_hton32(packet->len + 4);
	PwReader	body;
	size_t		used;

	initStringInfo(&stream);
	appendBinaryStringInfo(&stream, (char *) &length, sizeof(length));
	appendBinaryStringInfo(&stream, packet->bytes, packet->len);
	appendBinaryStringInfo(&stream, "behind", 6);

	for (size_t len = 0; len < packet->len + 4; len++)
	{
		if (pw_frame_startup(exact(stream.data, len), len, &used, &body) != PW_FRAME_INCOMPLETE)
			return false;
	}
	return pw_frame_startup(stream.data, stream.len, &used, &body) == PW_FRAME_COMPLETE &&
		used == packet->len + 4 && pw_reader_left(&body) == packet->len;
}

/*
 * Every row of packet_cases.
 */
static void
test_packets(void)
{
	for (int i = 0; i < lengthof(packet_cases); i++)
	{
		const PwPacketCase *packet = &packet_cases[i];
		PwStartup	startup;
		PwStartupKind kind = parse(packet->bytes, packet->len, &startup);
		bool		as_expected = kind == packet->kind;

		if (as_expected && kind == PW_STARTUP_SESSION)
			as_expected = same(startup.user, packet->user) &&
				same(startup.database, packet->database) &&
				same(startup.options, packet->options);
		else if (as_expected && packet->user != NULL)
			as_expected = same(startup.problem.message, packet->user) &&
				same(startup.problem.hint, packet->database);

		ok(as_expected, packet->name, "parsed");
		ok(truncations_are_refused(packet), packet->name, "truncated");
		ok(is_framed(packet), packet->name, "framed");
		unit_reset_memory();
	}
}

/*
 * What has more to it than a row can say.
 */
static void
test_packet_details(void)
{
	PwStartup	startup;
	PwReader	body;

	parse(BYTES("\x04\xd2\x16\x2e\0\0\1\2\xff\xff\xff\xfe"), &startup);
	ok(startup.cancel.pid == 258 && startup.cancel.size == 4 &&
	   memcmp(startup.cancel.bytes, "\xff\xff\xff\xfe", 4) == 0,
	   "CancelRequest", "key");

	parse(BYTES("\x04\xd2\x16\x2f"), &startup);
	pw_reader_init(&body, BYTES("\x04\xd2\x16\x2f"));
	ok(pw_startup_parse(&startup, &body) == PW_STARTUP_REFUSED &&
	   same(startup.problem.message,
			"unsupported frontend protocol 1234.5679: server supports " SUPPORTED),
	   "SSLRequest", "refused the second time");
	ok(!pw_startup_negotiates(&startup), "SSLRequest", "negotiates nothing");

	parse(BYTES(V3 "user\0joe\0\0"), &startup);
	ok(!pw_startup_negotiates(&startup), "version 3.0", "negotiates nothing");
	parse(BYTES("\0\3\0\x09user\0joe\0\0"), &startup);
	ok(pw_startup_negotiates(&startup) && startup.nunknown == 0,
	   "version 3.9", "negotiates");
	parse(BYTES(V3 "user\0joe\0_pq_.a\0" "1\0_pq_.b\0\0\0"), &startup);
	ok(pw_startup_negotiates(&startup) && startup.nunknown == 2 &&
	   startup.unknown.len == 14 &&
	   memcmp(startup.unknown.data, "_pq_.a\0_pq_.b\0", 14) == 0,
	   "protocol options", "named");

	parse(BYTES(V3 "geqo\0off\0user\0joe\0Application_Name\0x\0\0"), &startup);
	ok(startup.parameters.len == 28 &&
	   memcmp(startup.parameters.data, "geqo\0off\0Application_Name\0x\0", 28) == 0,
	   "parameters", "in order");
	ok(same(pw_startup_find_setting(&startup.parameters, "application_name"), "x"),
	   "parameters", "found without regard to case");
	ok(pw_startup_find_setting(&startup.parameters, "off") == NULL,
	   "parameters", "a value is not a name");
	unit_reset_memory();
}

/*
 * "name=value" of each setting, joined by "|".
 */
static const char *
joined(const StringInfoData *settings)
{
	StringInfoData text;
	PwReader	reader;

	initStringInfo(&text);
	pw_reader_init(&reader, settings->data, settings->len);
	while (pw_reader_left(&reader) > 0)
	{
		const char *name = pw_read_string(&reader);
		const char *value = pw_read_string(&reader);

		appendStringInfo(&text, "%s%s=%s", text.len > 0 ? "|" : "", name, value);
	}
	return text.data;
}

/*
 * Every row of options_cases.  A failure must not disturb the next one, which
 * getopt(3) is known for.
 */
static void
test_options(void)
{
	for (int i = 0; i < lengthof(options_cases); i++)
	{
		const PwOptionsCase *c = &options_cases[i];
		StringInfoData settings;
		PwReport	problem = {0};
		bool		understood;

		initStringInfo(&settings);
		understood = pw_startup_options(c->options, &settings, &problem);
		if (c->settings != NULL)
			ok(understood && same(joined(&settings), c->settings),
			   "options", c->options);
		else
			ok(!understood && same(problem.message, c->message) &&
			   problem.sqlstate == ERRCODE_SYNTAX_ERROR,
			   "options", c->options);
		unit_reset_memory();
	}
}

/*
 * Give each of "lengths" to both framers.
 */
static void
test_lengths(void)
{
	static const uint32 limits[] = {4, 1024, 65535};

	for (int i = 0; i < lengthof(lengths); i++)
	{
		char		header[5] = {'p'};
		uint32		length = pg_hton32(lengths[i]);
		bool		as_expected = true;
		PwFrame		frame;
		PwReader	body;
		size_t		used;
		char		type;

		memcpy(header + 1, &length, sizeof(length));
		frame = pw_frame_startup(exact(header + 1, 4), 4, &used, &body);
		ok(frame == (lengths[i] < 8 || lengths[i] > 10004
					 ? PW_FRAME_BAD_LENGTH : PW_FRAME_INCOMPLETE),
		   "startup packet of length", psprintf("%u", lengths[i]));

		for (int j = 0; j < lengthof(limits); j++)
		{
			PwFrame		expected = PW_FRAME_INCOMPLETE;

			if (lengths[i] < 4 || lengths[i] > limits[j])
				expected = PW_FRAME_BAD_LENGTH;
			else if (lengths[i] == 4)
				expected = PW_FRAME_COMPLETE;
			frame = pw_frame_message(exact(header, 5), 5, limits[j],
									 &type, &used, &body);
			as_expected &= frame == expected && type == 'p';
		}
		ok(as_expected, "message of length", psprintf("%u", lengths[i]));
		unit_reset_memory();
	}
}

/*
 * The reader: also with a length from inside the message, as SASL has it.
 */
static void
test_reader(void)
{
	PwReader	reader;
	bool		safe = true;

	pw_reader_init(&reader, exact("\0\0\1\0ab\0cd", 9), 9);
	ok(pw_read_uint32(&reader) == 256, "reader", "number");
	ok(same(pw_read_string(&reader), "ab"), "reader", "string");
	ok(memcmp(pw_read_bytes(&reader, 2), "cd", 2) == 0 && pw_reader_done(&reader),
	   "reader", "bytes up to the end");
	ok(pw_read_bytes(&reader, 0) != NULL && pw_reader_done(&reader),
	   "reader", "no bytes at the end");
	ok(pw_read_uint32(&reader) == 0 && reader.broken && !pw_reader_done(&reader),
	   "reader", "number behind the end");
	ok(same(pw_read_string(&reader), "") && pw_read_bytes(&reader, 0) == NULL,
	   "reader", "stays broken");

	pw_reader_init(&reader, exact("ab", 2), 2);
	ok(same(pw_read_string(&reader), "") && reader.broken,
	   "reader", "string without terminator");
	pw_reader_init(&reader, exact("ab", 2), 2);
	ok(pw_read_uint32(&reader) == 0 && reader.broken,
	   "reader", "half a number");

	for (int i = 0; i < lengthof(lengths); i++)
	{
		pw_reader_init(&reader, exact("abc", 3), 3);
		if (pw_read_bytes(&reader, lengths[i]) != NULL)
			safe &= lengths[i] <= 3;
		else
			safe &= lengths[i] > 3 && reader.broken;
	}
	ok(safe, "reader", "every length of bytes");
	unit_reset_memory();
}

/*
 * Does "out" hold exactly these bytes?
 */
static bool
built(const StringInfoData *out, const char *bytes, size_t len)
{
	return out->len == len && memcmp(out->data, bytes, len) == 0;
}

/*
 * The builders, byte for byte.
 */
static void
test_builders(void)
{
	PwReport	report = {
		.sqlstate = ERRCODE_TOO_MANY_CONNECTIONS,
		.message = "m",.detail = "d",.detail_log = "secret",.hint = "h",
	};
	StringInfoData out;

	initStringInfo(&out);
	pw_build_error(&out, "FATAL", &report);
	ok(built(&out, BYTES("E\0\0\0\x23SFATAL\0VFATAL\0C53300\0Mm\0Dd\0Hh\0\0")),
	   "builders", "ErrorResponse");
	report.detail = report.hint = NULL;
	resetStringInfo(&out);
	pw_build_notice(&out, "LOG", &report);
	ok(built(&out, BYTES("N\0\0\0\x19SLOG\0VLOG\0C53300\0Mm\0\0")),
	   "builders", "NoticeResponse");
	resetStringInfo(&out);
	pw_build_old_error(&out, "FATAL", &report);
	ok(built(&out, BYTES("EFATAL:  m\n\0")), "builders", "error of version 2");

	resetStringInfo(&out);
	pw_build_authentication(&out, AUTH_REQ_OK, NULL, 0);
	pw_build_authentication(&out, AUTH_REQ_MD5, "salt", 4);
	ok(built(&out, BYTES("R\0\0\0\x08\0\0\0\0R\0\0\0\x0c\0\0\0\x05salt")),
	   "builders", "authentication");
	resetStringInfo(&out);
	pw_build_negotiate_version(&out, PG_PROTOCOL(3, 0), 1, "_pq_.a", 7);
	ok(built(&out, BYTES("v\0\0\0\x13\0\3\0\0\0\0\0\1_pq_.a\0")),
	   "builders", "NegotiateProtocolVersion");
	resetStringInfo(&out);
	pw_build_parameter_status(&out, "a", "bc");
	pw_build_backend_key(&out, 258, (const uint8 *) "\xff\xff\xff\xfe", 4);
	pw_build_ready(&out, 'I');
	ok(built(&out, BYTES("S\0\0\0\x09" "a\0bc\0"
						 "K\0\0\0\x0c\0\0\1\2\xff\xff\xff\xfe"
						 "Z\0\0\0\5I")),
	   "builders", "ParameterStatus, BackendKeyData, ReadyForQuery");

	resetStringInfo(&out);
	appendBinaryStringInfo(&out, "secretrest", 10);
	pw_buffer_discard(&out, 6);
	ok(built(&out, "rest", 4) && memcmp(out.data, "rest\0\0\0\0\0\0", 10) == 0,
	   "buffer", "what was discarded is wiped");
	unit_reset_memory();
}

/*
 * xorshift64: the same numbers in every run.
 */
static uint64
next_random(void)
{
	static uint64 state = UINT64CONST(0x9e3779b97f4a7c15);

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/*
 * Make up an input for the fuzzer: a packet or an options string from the
 * tables, with a length word in front as often as not, and some damage.
 */
static size_t
make_input(unsigned char *input)
{
	size_t		size = 0;
	int			mode = next_random() % UNIT_NINPUTS;
	int			damage = next_random() % 6;

	input[size++] = mode;
	while (size < FUZZ_MAX_SIZE / 2 && (size == 1 || next_random() % 3 == 0))
	{
		const PwPacketCase *packet = &packet_cases[next_random() % lengthof(packet_cases)];
		const char *options = options_cases[next_random() % lengthof(options_cases)].options;
		bool		is_options = mode == UNIT_OPTIONS || next_random() % 8 == 0;
		const char *bytes = is_options ? options : packet->bytes;
		size_t		len = is_options ? strlen(options) : packet->len;
		uint32		length = pg_hton32(len + 4);

		if (next_random() % 8 == 0)
			length = pg_hton32(lengths[next_random() % lengthof(lengths)]);
		if (mode == UNIT_MESSAGES)
			input[size++] = 'p';
		if (mode == UNIT_MESSAGES || mode == UNIT_STREAM)
		{
			memcpy(input + size, &length, sizeof(length));
			size += sizeof(length);
		}
		memcpy(input + size, bytes, len);
		size += len;
	}
	while (damage-- > 0)
		input[next_random() % size] = next_random();
	if (next_random() % 4 == 0)
		size = 1 + next_random() % size;
	return size;
}

/*
 * Shake.  A broken promise aborts the program.
 */
static void
test_random(void)
{
	unsigned char input[FUZZ_MAX_SIZE];

	for (int i = 0; i < FUZZ_ROUNDS; i++)
		(void) LLVMFuzzerTestOneInput(input, make_input(input));
	ok(true, "random input", psprintf("%d rounds", FUZZ_ROUNDS));
	unit_reset_memory();
}

int
main(void)
{
	test_packets();
	test_packet_details();
	test_options();
	test_lengths();
	test_reader();
	test_builders();
	test_random();
	printf("1..%d\n", ntests);
	return nfailed == 0 ? 0 : 1;
}
