/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings of pool_worker: variables, limits and checks.
 *
 * Runs in: postmaster at load, which defines them.  The check hooks run in
 * every process that reads the configuration again.
 *
 * There is one define_... function for each section of docs/settings.md, with
 * the settings in alphabetical order.  What a setting means to one database
 * or role is none of this file's business.
 *
 * Only what sizes shared memory needs a restart.  Everything else follows a
 * reload, so a check hook must hold for itself: it cannot compare its value
 * with another setting's, because nobody knows which of the two a reload
 * changes first.  Where two settings must agree, their user takes the smaller
 * one.
 *
 * Settings that may differ from pool to pool are PGC_SUSET, so that ALTER ROLE
 * and ALTER DATABASE take them; refuse_session() keeps sessions from changing
 * them for themselves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "lib/stringinfo.h"
#include "libpq/pqcomm.h"
#include "nodes/pg_list.h"
#include "parser/scansup.h"
#include "utils/varlena.h"

#include "settings.h"

/* More slots than this no server has use for. */
#define MAX_POOL_SIZE 10000

/* Beyond this, seconds do not fit into an int as milliseconds. */
#define MAX_SECONDS (INT_MAX / 1000)

/* The server's own limit for max_connections, whatever header has it. */
#define MAX_CONNECTIONS_LIMIT 262143

/* One pair of pool_worker.prewarm. */
typedef struct PrewarmPair
{
	char	   *database;
	char	   *role;
} PrewarmPair;

/* clients */
char	   *pw_listen_addresses;
int			pw_max_clients;
int			pw_port;
char	   *pw_unix_socket_directories;

/* pools */
int			pw_max_pinned;
int			pw_max_pool_clients;
int			pw_max_pools;
int			pw_max_session_size;
int			pw_min_idle;
int			pw_min_pool_size;
int			pw_pool_mode;
int			pw_pool_size;
char	   *pw_prewarm;

/* slots */
int			pw_connect_timeout;
int			pw_health_check_interval;
int			pw_health_check_timeout;
int			pw_max_opening;
int			pw_max_slots;
int			pw_slot_idle_timeout;
int			pw_slot_lifetime;
int			pw_slot_max_memory;
int			pw_slot_max_transactions;
int			pw_statement_cache_size;

/* priority */
int			pw_priority;
char	   *pw_priority_applications;
int			pw_reserve_pool_size;
int			pw_reserve_threshold;
int			pw_weight;

/* waiting */
int			pw_max_waiting;
int			pw_queue_notice_after;
int			pw_queue_timeout;

/* time limits */
int			pw_client_idle_timeout;
int			pw_client_message_timeout;
char	   *pw_enforce_exempt;
int			pw_enforce_on;
int			pw_idle_in_transaction_timeout;
int			pw_log_min_duration;
int			pw_statement_timeout;
int			pw_transaction_timeout;

/* the worker itself */
char	   *pw_database;

/* developer options */
bool		pw_debug_always_switch;

static const struct config_enum_entry pool_mode_options[] = {
	{"transaction", PW_MODE_TRANSACTION, false},
	{"session", PW_MODE_SESSION, false},
	{NULL, 0, false}
};

static const struct config_enum_entry priority_options[] = {
	{"normal", PW_PRIORITY_NORMAL, false},
	{"high", PW_PRIORITY_HIGH, false},
	{NULL, 0, false}
};

static const struct config_enum_entry enforce_on_options[] = {
	{"pool", PW_ENFORCE_POOL, false},
	{"all", PW_ENFORCE_ALL, false},
	{NULL, 0, false}
};

#define ROW(field) \
	{"pool_worker." #field, &pw_##field, offsetof(PwPoolSettings, field)}

const PwPoolSettingInfo pw_pool_setting_info[] = {
	ROW(client_idle_timeout),
	ROW(client_message_timeout),
	ROW(idle_in_transaction_timeout),
	ROW(log_min_duration),
	ROW(max_pinned),
	ROW(max_pool_clients),
	ROW(max_waiting),
	ROW(min_idle),
	ROW(min_pool_size),
	ROW(pool_mode),
	ROW(pool_size),
	ROW(priority),
	ROW(queue_notice_after),
	ROW(queue_timeout),
	ROW(reserve_pool_size),
	ROW(slot_idle_timeout),
	ROW(slot_lifetime),
	ROW(slot_max_memory),
	ROW(slot_max_transactions),
	ROW(statement_timeout),
	ROW(transaction_timeout),
	ROW(weight),
};

#undef ROW

StaticAssertDecl(lengthof(pw_pool_setting_info) == PW_POOL_NSETTINGS,
				 "every setting of a pool needs a row in pw_pool_setting_info");

static void define_client_settings(void);
static void define_pool_settings(void);
static void define_slot_settings(void);
static void define_slot_life_settings(void);
static void define_priority_settings(void);
static void define_waiting_settings(void);
static void define_time_settings(void);
static void define_enforcement_settings(void);
static void define_worker_settings(void);
static void define_developer_settings(void);
static bool refuse_session(int *newval, void **extra, GucSource source);
static bool check_role_list(char **newval, void **extra, GucSource source);
static bool check_list(char **newval, void **extra, GucSource source);
static bool check_socket_directories(char **newval, void **extra, GucSource source);
static bool check_prewarm(char **newval, void **extra, GucSource source);
static bool check_max_slots(int *newval, void **extra, GucSource source);
static List *parse_prewarm(const char *list, const char **problem);
static PrewarmPair *parse_prewarm_pair(const char **pos, const char **problem);
static char *parse_prewarm_name(const char **pos, const char **problem);
static const char *read_quoted_name(const char *pos, StringInfo name);
static const char *read_plain_name(const char *pos, StringInfo name);
static const char *skip_space(const char *pos);

/*
 * Define all settings.  Called once, from _PG_init().
 */
void
pw_settings_define(void)
{
	define_client_settings();
	define_pool_settings();
	define_slot_settings();
	define_slot_life_settings();
	define_priority_settings();
	define_waiting_settings();
	define_time_settings();
	define_enforcement_settings();
	define_worker_settings();
	define_developer_settings();

	MarkGUCPrefixReserved("pool_worker");
}

/*
 * Section "Clients": where they connect, and how many may.
 */
static void
define_client_settings(void)
{
	DefineCustomStringVariable("pool_worker.listen_addresses",
							   "Sets the host names or IP addresses the pool listens on.",
							   "An empty string means Unix sockets only, \"*\" all addresses.",
							   &pw_listen_addresses,
							   "localhost",
							   PGC_SIGHUP,
							   GUC_LIST_INPUT,
							   check_list, NULL, NULL);

	DefineCustomIntVariable("pool_worker.max_clients",
							"Sets the maximum number of clients connected to the pool.",
							"The open file limit of the server may allow fewer; see pool_check().",
							&pw_max_clients,
							10000,
							1, MAX_CONNECTIONS_LIMIT,
							PGC_POSTMASTER,
							0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("pool_worker.port",
							"Sets the port the pool listens on.",
							"It also names the pool's Unix sockets, and must differ from the server's own port.",
							&pw_port,
							6432,
							1, 65535,
							PGC_SIGHUP,
							0,
							NULL, NULL, NULL);

	DefineCustomStringVariable("pool_worker.unix_socket_directories",
							   "Sets the directories where the pool creates Unix sockets.",
							   "An empty string means those of unix_socket_directories.",
							   &pw_unix_socket_directories,
							   "",
							   PGC_SIGHUP,
							   GUC_LIST_INPUT | GUC_SUPERUSER_ONLY,
							   check_socket_directories, NULL, NULL);
}

/*
 * Section "Pools": how many there are, how large, and how they share.
 */
static void
define_pool_settings(void)
{
	DefineCustomIntVariable("pool_worker.max_pinned",
							"Sets the number of slots a pool may open in place of those that their clients keep.",
							"Slots kept for the state of a session do not count against pool_size, up to this number.  -1 means pool_size.",
							&pw_max_pinned,
							-1,
							-1, MAX_POOL_SIZE,
							PGC_SUSET,
							0,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.max_pool_clients",
							"Sets the maximum number of clients of a database, of a role, or of one pool.",
							"It counts the clients of what it is set for: of one pool if in the configuration.  -1 means no limit.",
							&pw_max_pool_clients,
							-1,
							-1, MAX_CONNECTIONS_LIMIT,
							PGC_SUSET,
							0,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.max_pools",
							"Sets the maximum number of pools.",
							"There is one pool for each database and role that clients use together.",
							&pw_max_pools,
							256,
							1, 10000,
							PGC_POSTMASTER,
							0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("pool_worker.min_idle",
							"Sets the number of slots a pool with clients keeps free, ahead of demand.",
							"It opens more when fewer are free, up to pool_size.",
							&pw_min_idle,
							0,
							0, MAX_POOL_SIZE,
							PGC_SUSET,
							0,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.min_pool_size",
							"Sets the number of slots a pool keeps open when nobody uses them.",
							"0 lets a pool close all its slots.  More than pool_size has no effect.",
							&pw_min_pool_size,
							0,
							0, MAX_POOL_SIZE,
							PGC_SUSET,
							0,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.max_session_size",
							"Sets the maximum size of a session that moves from slot to slot.",
							"A client whose settings and prepared statements take more keeps its slot.",
							&pw_max_session_size,
							1024,
							0, 1024 * 1024,
							PGC_SIGHUP,
							GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomEnumVariable("pool_worker.pool_mode",
							 "Sets how long a client keeps its slot.",
							 "\"transaction\" gives it to the next client after each transaction, \"session\" when its client leaves.",
							 &pw_pool_mode,
							 PW_MODE_TRANSACTION,
							 pool_mode_options,
							 PGC_SUSET,
							 0,
							 refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.pool_size",
							"Sets the maximum number of slots in one pool.",
							NULL,
							&pw_pool_size,
							20,
							1, MAX_POOL_SIZE,
							PGC_SUSET,
							0,
							refuse_session, NULL, NULL);

	DefineCustomStringVariable("pool_worker.prewarm",
							   "Sets the pools to open before their first client comes.",
							   "A list of database/role.  Each pool opens min_pool_size slots, or one if that is 0.",
							   &pw_prewarm,
							   "",
							   PGC_SIGHUP,
							   GUC_LIST_INPUT,
							   check_prewarm, NULL, NULL);
}

/*
 * Section "Slots": the connections behind all pools.
 */
static void
define_slot_settings(void)
{
	DefineCustomIntVariable("pool_worker.connect_timeout",
							"Sets the maximum time to wait for a slot to open.",
							NULL,
							&pw_connect_timeout,
							5000,
							1, 3600 * 1000,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("pool_worker.max_opening",
							"Sets the maximum number of slots that are being opened at the same time.",
							"It counts those of all pools together.",
							&pw_max_opening,
							2,
							1, MAX_POOL_SIZE,
							PGC_SIGHUP,
							0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("pool_worker.max_slots",
							"Sets the maximum number of slots of all pools together.",
							"Slots count against max_connections.  -1 means three quarters of max_connections less superuser_reserved_connections.",
							&pw_max_slots,
							-1,
							-1, MAX_CONNECTIONS_LIMIT,
							PGC_POSTMASTER,
							0,
							check_max_slots, NULL, NULL);

	DefineCustomIntVariable("pool_worker.slot_idle_timeout",
							"Sets the time after which an unused slot is closed.",
							"0 means never.  A pool keeps min_pool_size slots in any case.",
							&pw_slot_idle_timeout,
							600,
							0, MAX_SECONDS,
							PGC_SUSET,
							GUC_UNIT_S,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.statement_cache_size",
							"Sets the number of prepared statements whose plans a slot keeps for its next clients.",
							"Those of the client it serves are kept in any case.",
							&pw_statement_cache_size,
							1000,
							0, INT_MAX,
							PGC_SIGHUP,
							0,
							NULL, NULL, NULL);
}

/*
 * Section "Slots", continued: when one has served for long enough.
 */
static void
define_slot_life_settings(void)
{
	DefineCustomIntVariable("pool_worker.health_check_interval",
							"Sets the time after which a slot that sleeps is asked whether it would wake up.",
							"0 means never.",
							&pw_health_check_interval,
							30 * 1000,
							0, INT_MAX,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("pool_worker.health_check_timeout",
							"Sets the maximum time for a slot to answer that.",
							"One that does not is replaced.",
							&pw_health_check_timeout,
							5000,
							1, INT_MAX,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("pool_worker.slot_lifetime",
							"Sets the age at which a slot is replaced.",
							"Each slot is replaced a little earlier, by chance.  0 means never.",
							&pw_slot_lifetime,
							3600,
							0, MAX_SECONDS,
							PGC_SUSET,
							GUC_UNIT_S,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.slot_max_memory",
							"Sets the size of its memory contexts at which a slot is replaced.",
							"0 means that there is no limit.",
							&pw_slot_max_memory,
							0,
							0, MAX_KILOBYTES,
							PGC_SUSET,
							GUC_UNIT_KB,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.slot_max_transactions",
							"Sets the number of transactions after which a slot is replaced.",
							"0 means that there is no limit.",
							&pw_slot_max_transactions,
							0,
							0, INT_MAX,
							PGC_SUSET,
							0,
							refuse_session, NULL, NULL);
}

/*
 * Section "Priority and fair sharing": who goes first, and who gets how much.
 */
static void
define_priority_settings(void)
{
	DefineCustomEnumVariable("pool_worker.priority",
							 "Sets whether the clients of a pool have priority.",
							 "High goes first where room is short, and may use the reserve.",
							 &pw_priority,
							 PW_PRIORITY_NORMAL,
							 priority_options,
							 PGC_SUSET,
							 0,
							 refuse_session, NULL, NULL);

	DefineCustomStringVariable("pool_worker.priority_applications",
							   "Sets the applications whose clients have high priority.",
							   "A list of application names, as clients give them when they connect.",
							   &pw_priority_applications,
							   "",
							   PGC_SIGHUP,
							   GUC_LIST_INPUT,
							   check_list, NULL, NULL);

	DefineCustomIntVariable("pool_worker.reserve_pool_size",
							"Sets the number of slots beyond pool_size that serve high priority only.",
							"They are opened when use passes reserve_threshold, or when a client of high priority has to wait.",
							&pw_reserve_pool_size,
							0,
							0, MAX_POOL_SIZE,
							PGC_SUSET,
							0,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.reserve_threshold",
							"Sets the part of pool_size in use from which on the reserve is open, in percent.",
							NULL,
							&pw_reserve_threshold,
							80,
							1, 100,
							PGC_SIGHUP,
							0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("pool_worker.weight",
							"Sets the weight of a pool when pools share max_slots.",
							"A pool with twice the weight of another is entitled to twice as many slots.",
							&pw_weight,
							100,
							1, 1000,
							PGC_SUSET,
							0,
							refuse_session, NULL, NULL);
}

/*
 * Section "Waiting": clients that want a slot while all are in use.
 */
static void
define_waiting_settings(void)
{
	DefineCustomIntVariable("pool_worker.max_waiting",
							"Sets the maximum number of clients of one pool that may wait for a slot.",
							"One more is refused at once.  -1 means that there is no limit.",
							&pw_max_waiting,
							-1,
							-1, MAX_CONNECTIONS_LIMIT,
							PGC_SUSET,
							0,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.queue_notice_after",
							"Sets the time after which a client that waits for a slot is told so.",
							"0 means never.",
							&pw_queue_notice_after,
							5000,
							0, INT_MAX,
							PGC_SUSET,
							GUC_UNIT_MS,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.queue_timeout",
							"Sets the maximum time a client may wait for a slot.",
							"0 means for ever.",
							&pw_queue_timeout,
							30 * 1000,
							0, INT_MAX,
							PGC_SUSET,
							GUC_UNIT_MS,
							refuse_session, NULL, NULL);
}

/*
 * Section "Time limits".
 */
static void
define_time_settings(void)
{
	DefineCustomIntVariable("pool_worker.client_idle_timeout",
							"Sets the time after which a client that says nothing is disconnected.",
							"It counts outside of transactions.  0 means never.",
							&pw_client_idle_timeout,
							0,
							0, INT_MAX,
							PGC_SUSET,
							GUC_UNIT_MS,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.client_message_timeout",
							"Sets the time after which a client that has stopped in the middle of a command is disconnected.",
							"It owes the rest of a message or a Sync, or does not read its result.  0 means never.",
							&pw_client_message_timeout,
							30 * 1000,
							0, INT_MAX,
							PGC_SUSET,
							GUC_UNIT_MS,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.idle_in_transaction_timeout",
							"Sets the time after which a client that is idle in a transaction is disconnected.",
							"0 means never.",
							&pw_idle_in_transaction_timeout,
							5 * 60 * 1000,
							0, INT_MAX,
							PGC_SUSET,
							GUC_UNIT_MS,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.log_min_duration",
							"Sets the time from which on a client's statement is logged.",
							"0 logs all of them, -1 none.",
							&pw_log_min_duration,
							-1,
							-1, INT_MAX,
							PGC_SUSET,
							GUC_UNIT_MS,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.statement_timeout",
							"Sets the time after which a client's statement is cancelled.",
							"0 means never.",
							&pw_statement_timeout,
							0,
							0, INT_MAX,
							PGC_SUSET,
							GUC_UNIT_MS,
							refuse_session, NULL, NULL);

	DefineCustomIntVariable("pool_worker.transaction_timeout",
							"Sets the time after which a client whose transaction has not ended is disconnected.",
							"0 means never.",
							&pw_transaction_timeout,
							0,
							0, INT_MAX,
							PGC_SUSET,
							GUC_UNIT_MS,
							refuse_session, NULL, NULL);
}

/*
 * Section "Time limits", continued: whom they are for.
 */
static void
define_enforcement_settings(void)
{
	DefineCustomStringVariable("pool_worker.enforce_exempt",
							   "Sets the roles to which time limits do not apply when they connect directly.",
							   "Members of these roles are exempt too, and so are superusers.",
							   &pw_enforce_exempt,
							   "",
							   PGC_SIGHUP,
							   GUC_LIST_INPUT,
							   check_role_list, NULL, NULL);

	DefineCustomEnumVariable("pool_worker.enforce_on",
							 "Sets whether time limits are for clients of the pool or for all.",
							 "\"all\" includes clients that connect to the server directly.",
							 &pw_enforce_on,
							 PW_ENFORCE_POOL,
							 enforce_on_options,
							 PGC_SIGHUP,
							 0,
							 NULL, NULL, NULL);
}

/*
 * Section "Worker".
 */
static void
define_worker_settings(void)
{
	DefineCustomStringVariable("pool_worker.database",
							   "Sets the database that the pool worker connects to.",
							   "It reads the catalogs of roles and databases only, which are the same in all of them.  Empty connects to none.",
							   &pw_database,
							   "postgres",
							   PGC_POSTMASTER,
							   0,
							   NULL, NULL, NULL);
}

/*
 * Section "Developer options": for testing the pool, of no use to others.
 */
static void
define_developer_settings(void)
{
	DefineCustomBoolVariable("pool_worker.debug_always_switch",
							 "Enables a change of slot after each transaction, needed or not.",
							 "It slows every client down and shows whether anything depends on the slot.",
							 &pw_debug_always_switch,
							 false,
							 PGC_SIGHUP,
							 GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);
}

/*
 * Check hook: not for a session.
 *
 * The worker reads the configuration and the catalogs, and nothing that a
 * session might set for itself would reach it.  Better to say so than to
 * accept it.  PGC_S_TEST is what ALTER ROLE and ALTER DATABASE try a value with.
 */
static bool
refuse_session(int *newval, void **extra, GucSource source)
{
	if (source < PGC_S_CLIENT || source == PGC_S_TEST)
		return true;

	GUC_check_errcode(ERRCODE_CANT_CHANGE_RUNTIME_PARAM);
	GUC_check_errmsg("settings of the connection pool cannot be changed for a session");
	GUC_check_errhint("Use ALTER SYSTEM, ALTER DATABASE or ALTER ROLE.");
	return false;
}

/*
 * Check hook: a list of names.  Whether there are such roles is not ours to
 * say here.
 */
static bool
check_role_list(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *roles = NIL;
	bool		is_list = SplitIdentifierString(copy, ',', &roles);

	if (!is_list)
		GUC_check_errdetail("List syntax is invalid.");

	list_free(roles);
	pfree(copy);
	return is_list;
}

/*
 * Check hook: a list as the server's own listen_addresses takes it.
 *
 * The server finds a bad list when it starts to listen.  We can be reloaded,
 * so we say it before the old value is lost.
 */
static bool
check_list(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *items = NIL;
	bool		is_list = SplitGUCList(copy, ',', &items);

	if (!is_list)
		GUC_check_errdetail("List syntax is invalid.");

	list_free(items);
	pfree(copy);
	return is_list;
}

/*
 * Check hook: a list of directories, none too long to put a socket in.
 */
static bool
check_socket_directories(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *directories = NIL;
	ListCell   *lc;
	bool		ok = SplitDirectoriesString(copy, ',', &directories);

	if (!ok)
		GUC_check_errdetail("List syntax is invalid.");

	foreach(lc, directories)
	{
		char	   *directory = (char *) lfirst(lc);
		char		path[MAXPGPATH + 32];

		UNIXSOCK_PATH(path, 65535, directory);
		if (strlen(path) >= UNIXSOCK_PATH_BUFLEN)
		{
			GUC_check_errdetail("A Unix socket in directory \"%s\" would have a path longer than %d bytes.",
								directory, (int) (UNIXSOCK_PATH_BUFLEN - 1));
			ok = false;
		}
	}

	list_free_deep(directories);
	pfree(copy);
	return ok;
}

/*
 * Check hook: a list of pairs.  Whether database and role exist is not ours
 * to say here; the worker finds out when it opens the slots.
 */
static bool
check_prewarm(char **newval, void **extra, GucSource source)
{
	const char *problem = NULL;

	(void) parse_prewarm(*newval, &problem);
	if (problem == NULL)
		return true;

	GUC_check_errdetail("%s", problem);
	return false;
}

/*
 * Check hook: a pool without slots serves nobody.
 */
static bool
check_max_slots(int *newval, void **extra, GucSource source)
{
	if (*newval != 0)
		return true;

	GUC_check_errdetail("The pool cannot work without slots; -1 chooses a number of them.");
	return false;
}

GucSource
pw_pool_setting_source(const PwPoolSettings *settings, size_t offset)
{
	for (int i = 0; i < PW_POOL_NSETTINGS; i++)
		if (pw_pool_setting_info[i].offset == offset)
			return settings->source[i];
	return PGC_S_DEFAULT;
}

/*
 * Call "fn" for each pair of a list in the form of pool_worker.prewarm.
 */
bool
pw_settings_foreach_prewarm(const char *list, PwPrewarmFn fn, void *arg)
{
	const char *problem = NULL;
	List	   *pairs = parse_prewarm(list, &problem);
	ListCell   *lc;

	if (problem != NULL)
		return false;

	foreach(lc, pairs)
	{
		PrewarmPair *pair = (PrewarmPair *) lfirst(lc);

		fn(pair->database, pair->role, arg);
	}
	return true;
}

/*
 * Parse a comma-separated list of database/role into PrewarmPairs.
 *
 * An empty list is fine.  If it is malformed, *problem says why and the
 * result is NIL.  What has been allocated is left to the caller's memory
 * context, which a reload or a turn of the worker's loop empties.
 */
static List *
parse_prewarm(const char *list, const char **problem)
{
	List	   *pairs = NIL;
	const char *pos = skip_space(list);

	if (*pos == '\0')
		return NIL;

	for (;;)
	{
		PrewarmPair *pair = parse_prewarm_pair(&pos, problem);

		if (pair == NULL)
			return NIL;
		pairs = lappend(pairs, pair);

		pos = skip_space(pos);
		if (*pos == '\0')
			return pairs;
		if (*pos != ',')
		{
			*problem = psprintf("Expected a comma before \"%s\".", pos);
			return NIL;
		}
		pos = skip_space(pos + 1);
	}
}

/*
 * Parse one pair at *pos and move *pos behind it.  NULL and *problem if there
 * is none.
 */
static PrewarmPair *
parse_prewarm_pair(const char **pos, const char **problem)
{
	const char *start = *pos;
	PrewarmPair *pair = palloc(sizeof(PrewarmPair));

	pair->database = parse_prewarm_name(pos, problem);
	if (pair->database == NULL)
		return NULL;

	*pos = skip_space(*pos);
	if (**pos != '/')
	{
		*problem = psprintf("Expected \"database/role\", but there is no slash in \"%s\".",
							start);
		return NULL;
	}
	*pos = skip_space(*pos + 1);

	pair->role = parse_prewarm_name(pos, problem);
	return (pair->role == NULL) ? NULL : pair;
}

/*
 * Parse one name at *pos and move *pos behind it.  NULL and *problem if there
 * is none.
 *
 * Names are those of SQL: lower case unless in double quotes.  Only ASCII
 * letters are folded, because the postmaster has no database encoding.
 */
static char *
parse_prewarm_name(const char **pos, const char **problem)
{
	const char *p = *pos;
	StringInfoData name;

	initStringInfo(&name);
	if (*p == '"')
		p = read_quoted_name(p, &name);
	else
		p = read_plain_name(p, &name);

	if (p == NULL)
	{
		*problem = psprintf("A double quote is not closed in \"%s\".", *pos);
		return NULL;
	}

	if (name.len == 0 && *p == '\0')
		*problem = "Expected \"database/role\", but a name is missing at the end.";
	else if (name.len == 0)
		*problem = psprintf("Expected \"database/role\", but a name is missing before \"%s\".",
							p);
	else if (name.len >= NAMEDATALEN)
		*problem = psprintf("Name \"%s\" is longer than %d bytes.",
							name.data, NAMEDATALEN - 1);

	*pos = p;
	return (*problem == NULL) ? name.data : NULL;
}

/*
 * Append the name in double quotes at "pos" to "name".  Returns the position
 * behind the closing quote, or NULL if there is none.
 */
static const char *
read_quoted_name(const char *pos, StringInfo name)
{
	for (pos++; *pos != '\0'; pos++)
	{
		if (*pos == '"')
		{
			pos++;
			if (*pos != '"')	/* two of them stand for one */
				return pos;
		}
		appendStringInfoChar(name, *pos);
	}
	return NULL;
}

/*
 * Append the name at "pos" to "name", in lower case.  Returns the position
 * behind it.
 */
static const char *
read_plain_name(const char *pos, StringInfo name)
{
	for (; *pos != '\0'; pos++)
	{
		if (scanner_isspace(*pos) || strchr(",/\"", *pos) != NULL)
			break;
		appendStringInfoChar(name, pg_ascii_tolower((unsigned char) *pos));
	}
	return pos;
}

/*
 * The first character at or after "pos" that is not a space.
 */
static const char *
skip_space(const char *pos)
{
	while (scanner_isspace(*pos))
		pos++;
	return pos;
}
