/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The only place where pool_worker looks at PG_VERSION_NUM.
 *
 * Every difference between supported major versions gets one wrapper here,
 * spelled like the newest API, with one line saying what changed and when.
 * When a major version leaves support, delete its branches and, if a wrapper
 * is left with nothing to choose, the wrapper.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_COMPAT_H
#define PW_COMPAT_H

#include "access/tupdesc.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "commands/event_trigger.h"
#include "libpq/hba.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "postmaster/postmaster.h"
#if PG_VERSION_NUM < 170000
#include "storage/backendid.h"
#endif
#include "storage/proc.h"
#if PG_VERSION_NUM >= 180000
#include "tcop/backend_startup.h"
#endif
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/evtcache.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "pool_worker needs PostgreSQL 15 or later"
#endif

/* PG18 spells it as C11 does, in front of the declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn __attribute__((noreturn))
#endif

/* PG18 has a mask for what to log about connections; before, it is all or nothing. */
#if PG_VERSION_NUM < 180000
#define LOG_CONNECTION_RECEIPT 1
#define LOG_CONNECTION_AUTHENTICATION 1
#define LOG_CONNECTION_AUTHORIZATION 1
#define log_connections ((uint32) Log_connections)
#endif

/* PG17 has a macro for this; before that, everybody wrote it out. */
#if PG_VERSION_NUM < 170000
#define GetPGProcByNumber(n) (&ProcGlobal->allProcs[(n)])
#endif

/* PG17 moved a process's own number out of its PGPROC. */
#if PG_VERSION_NUM < 170000
#define MyProcNumber (MyProc->pgprocno)
#endif

/* PG17 numbers processes for signals as for everything else. */
#if PG_VERSION_NUM < 170000
#define INVALID_PROC_NUMBER InvalidBackendId
#endif

/*
 * The entries of pg_stat_activity, MaxBackends of them.  The array has no
 * name outside of its file, but we have an entry in it.  PG17 numbers the
 * entries by process.
 */
static inline PgBackendStatus *
pw_backend_status_array(void)
{
#if PG_VERSION_NUM >= 170000
	return MyBEEntry - MyProcNumber;
#else
	return MyBEEntry - (MyBackendId - 1);
#endif
}

/* PG17 has a transaction_timeout of its own, and a SQLSTATE for it. */
#ifndef ERRCODE_TRANSACTION_TIMEOUT
#define ERRCODE_TRANSACTION_TIMEOUT MAKE_SQLSTATE('2', '5', 'P', '0', '4')
#endif

/*
 * Is this backend to end?  On a standby that can be because its database was
 * dropped, and since PG16 postgres.c keeps that to itself until it acts upon it;
 * so it can be any interrupt.
 */
static inline bool
pw_may_be_ending(void)
{
#if PG_VERSION_NUM >= 160000
	return ProcDiePending || (InterruptPending && RecoveryInProgress());
#else
	return ProcDiePending;
#endif
}

/*
 * PG17 times transactions by itself.  If its timer goes off when a transaction
 * is just ending, that is remembered, and must not hit the next client.
 */
static inline void
pw_forget_transaction_timeout(void)
{
#if PG_VERSION_NUM >= 170000
	TransactionTimeoutPending = false;
#endif
}

/* That limit is for clients, and would end the process that serves all of them. */
static inline void
pw_without_transaction_timeout(void)
{
#if PG_VERSION_NUM >= 170000
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
#endif
}

/*
 * PG17 has event triggers for logins, and remembers whether this database has
 * any.
 */
#if PG_VERSION_NUM >= 170000
#define PW_HAS_LOGIN_TRIGGERS true
#define pw_login_triggers_switch(on) (MyDatabaseHasLoginEventTriggers = (on))
#define pw_login_triggers() EventCacheLookup(EVT_Login)
#define pw_event_trigger_on_login() EventTriggerOnLogin()
#else
#define PW_HAS_LOGIN_TRIGGERS false
#define pw_login_triggers_switch(on) ((void) (on))
#define pw_login_triggers() NIL
#define pw_event_trigger_on_login() ((void) 0)
#endif

/*
 * PG17 ties a wait event set to a resource owner instead of a memory context.
 * Ours live as long as we want them to, so neither is interesting.
 */
static inline WaitEventSet *
pw_wait_event_set_new(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/*
 * PG17 lets an extension name its wait events; before that, every extension
 * shows up in pg_stat_activity as the anonymous "Extension".
 */
static inline uint32
pw_wait_event_new(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	(void) name;
	return PG_WAIT_EXTENSION;
#endif
}

/* PG16 has one function for the owners of all kinds of objects. */
static inline bool
pw_owns_database(Oid dboid, Oid roleoid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, dboid, roleoid);
#else
	return pg_database_ownercheck(dboid, roleoid);
#endif
}

/* PG17 counts the bytes that are left; before that, it said only whether. */
static inline bool
pw_input_is_buffered(void)
{
#if PG_VERSION_NUM >= 170000
	return pq_buffer_remaining_data() > 0;
#else
	return pq_buffer_has_data();
#endif
}

/*
 * All settings of this process.  PG16 keeps them in a hash table and returns
 * a sorted copy; before that, it was the live array.  Either way the caller
 * gets an array that it must not change and need not free, valid until the
 * next call.
 */
static inline struct config_generic **
pw_guc_variables(int *count)
{
#if PG_VERSION_NUM >= 160000
	static struct config_generic **variables = NULL;
	MemoryContext oldcontext;

	if (variables != NULL)
		pfree(variables);
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	variables = get_guc_variables(count);
	MemoryContextSwitchTo(oldcontext);
	return variables;
#else
	*count = GetNumConfigOptions();
	return get_guc_variables();
#endif
}

/* PG16 made the list of a process's locks in one partition an ordinary one. */
static inline bool
pw_lock_list_is_empty(PGPROC *proc, int partition)
{
#if PG_VERSION_NUM >= 160000
	return dlist_is_empty(&proc->myProcLocks[partition]);
#else
	return SHMQueueEmpty(&proc->myProcLocks[partition]);
#endif
}

/*
 * PG17 has another name for this, and counts the sockets it has added; before
 * that, it marked free places.
 */
static inline int
pw_stream_server_port(int family, const char *host, uint16 port,
					  const char *socket_dir, pgsocket sockets[],
					  int *nsockets, int max)
{
#if PG_VERSION_NUM >= 170000
	return ListenServerPort(family, host, port, socket_dir, sockets, nsockets, max);
#else
	int			status;

	for (int i = *nsockets; i < max; i++)
		sockets[i] = PGINVALID_SOCKET;
	status = StreamServerPort(family, host, port, socket_dir, sockets, max);
	while (*nsockets < max && sockets[*nsockets] != PGINVALID_SOCKET)
		(*nsockets)++;
	return status;
#endif
}

/*
 * PG18 keeps the fields of a column that are used most a second time, in a
 * compact form, to be made anew when they have changed.
 */
static inline void
pw_attribute_changed(TupleDesc desc, int i)
{
#if PG_VERSION_NUM >= 180000
	populate_compact_attribute(desc, i);
#else
	(void) desc;
	(void) i;
#endif
}

/*
 * May a plan source of this statement be marked as invalid?  Others are never
 * analyzed again.  Since 15.3, these are all but statements that need analysis.
 */
static inline bool
pw_plan_can_be_invalid(RawStmt *statement)
{
	return stmt_requires_parse_analysis(statement);
}

/*
 * PG16 lets pg_hba.conf include other files, so that a line of it is in one of
 * several.
 */
static inline const char *
pw_hba_file(const HbaLine *rule)
{
#if PG_VERSION_NUM >= 160000
	return rule->sourcefile;
#else
	(void) rule;
	return HbaFileName;
#endif
}

static inline void
pw_hba_copy_file(HbaLine *copy, const HbaLine *rule)
{
#if PG_VERSION_NUM >= 160000
	copy->sourcefile = rule->sourcefile ? pstrdup(rule->sourcefile) : NULL;
#else
	(void) copy;
	(void) rule;
#endif
}

/* For the log: which line it was. */
static inline char *
pw_hba_matched(const HbaLine *rule)
{
#if PG_VERSION_NUM >= 160000
	return psprintf(_("Connection matched file \"%s\" line %d: \"%s\""),
					rule->sourcefile, rule->linenumber, rule->rawline);
#else
	return psprintf(_("Connection matched pg_hba.conf line %d: \"%s\""),
					rule->linenumber, rule->rawline);
#endif
}

/* PG17 has lost db_user_namespace. */
#if PG_VERSION_NUM >= 170000
#define Db_user_namespace false
#endif

/* PG16 reserves connections for two kinds of roles, PG15 for one. */
#if PG_VERSION_NUM >= 160000
#define PW_RESERVED_CONNECTIONS (SuperuserReservedConnections + ReservedConnections)
#else
#define PW_RESERVED_CONNECTIONS ReservedBackends
#endif

/* PG17 renamed the variable behind the setting is_superuser. */
#if PG_VERSION_NUM < 170000
#define current_role_is_superuser session_auth_is_superuser
#endif

/* PG16 has one function for the privileges of most kinds of objects. */
#if PG_VERSION_NUM < 160000
#define object_aclcheck(classid, objectid, roleid, mode) \
	(AssertMacro((classid) == DatabaseRelationId), \
	 pg_database_aclcheck(objectid, roleid, mode))
#endif

/* PG16 finds settings through a hash table; before that, in a sorted array. */
#define PW_GUC_IS_ARRAY (PG_VERSION_NUM < 160000)

/*
 * Make a setting unknown to guc.c under its name, and known again.  "mark" is
 * a character that no name has; it then is the last one of setting->name.
 *
 * The key of PG16's hash table is that very string: so we write into it, and it
 * is no longer equal to what it was entered as.  In the array, the name is
 * replaced by one that sorts right behind it.
 */
static inline void
pw_guc_hide(struct config_generic *setting, char mark)
{
#if PG_VERSION_NUM >= 160000
	unconstify(char *, setting->name)[strlen(setting->name) - 1] = mark;
#else
	char	   *hidden = MemoryContextAlloc(TopMemoryContext, strlen(setting->name) + 2);

	sprintf(hidden, "%s%c", setting->name, mark);
	setting->name = hidden;
#endif
}

/* "original" is what setting->name was, and "copy" what it said. */
static inline void
pw_guc_unhide(struct config_generic *setting, const char *original, const char *copy)
{
#if PG_VERSION_NUM >= 160000
	Assert(setting->name == original);
	strcpy(unconstify(char *, setting->name), copy);
#else
	(void) copy;
	pfree(unconstify(char *, setting->name));
	setting->name = original;
#endif
}

/*
 * PG16 lets others look up a setting.  False before that: search the array of
 * pw_guc_variables(), which is in the order of names.
 */
static inline bool
pw_guc_find_option(const char *name, struct config_generic **setting)
{
#if PG_VERSION_NUM >= 160000
	*setting = find_option(name, false, true, DEBUG5);
	return true;
#else
	(void) name;
	(void) setting;
	return false;
#endif
}

/*
 * Say where the value of a setting comes from.  PG16 keeps a list of those that
 * do not have their default; to get into it we need some other member, which
 * "config_file" always is.
 */
static inline void
pw_guc_set_source(struct config_generic *setting, GucSource source)
{
#if PG_VERSION_NUM >= 160000
	if (setting->source != PGC_S_DEFAULT && source == PGC_S_DEFAULT)
		dlist_delete(&setting->nondef_link);
	else if (setting->source == PGC_S_DEFAULT && source != PGC_S_DEFAULT)
	{
		struct config_generic *member = find_option("config_file", false, false, ERROR);

		dlist_insert_after(&member->nondef_link, &setting->nondef_link);
	}
#endif
	setting->source = source;
}

#endif							/* PW_COMPAT_H */
