/*-------------------------------------------------------------------------
 *
 * changes.c
 *	  Notices commands that change roles and databases under warm slots.
 *
 * Runs in: every backend (pw_changes_hold() in the pool worker as well).
 *
 * What a backend is told at its login, it never hears again: the settings of
 * its role and database, whether that role may log in at all, the name of the
 * database.  A slot goes on for long after that, so it has to end once any of
 * this has changed.
 *
 * Who decides
 * -----------
 *
 * The worker does, by reading the catalogs: see pool_changes.c.  All that is
 * done here is to tell it when to look, and at which pools.  So a command that
 * has changed nothing in the end, or was rolled back in part, costs a look and
 * no slot.
 *
 * Invalidation messages would not do: nobody is woken by them, and ALTER ROLE
 * ... SET sends none that a callback could receive, since pg_db_role_setting
 * has no syscache.  (Where no commands run, on a standby, the worker looks once
 * per second while WAL is being replayed.)  So we hook utility statements.
 * Which roles and databases they change we hear from object_access_hook, with
 * which PostgreSQL itself tells their OIDs; it is set for the length of such a
 * statement only, for it has a price elsewhere.
 *
 * The worker is told when the transaction has committed, its invalidation
 * messages have been sent, and its locks are released: then what it finds is
 * the new state, and it can open slots.  That moment is the last phase in
 * which resource owners are released, and it comes whichever way a transaction
 * ends.
 *
 * Commands that want a database for themselves
 * --------------------------------------------
 *
 * DROP DATABASE and its like fail if somebody else is connected to the
 * database, and a slot that idles would be.  Before such a command begins we
 * place a hold on the database: the worker then has the slots leave it as soon
 * as each is idle, their clients parked, and opens no others until the
 * transaction ends.  We wait a while for those that are idle now.  PostgreSQL
 * itself waits five seconds for the rest.
 *
 * Whoever is not allowed to carry out the command does not get that far: it
 * would be a way to disturb others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "changes.h"
#include "compat.h"
#include "shared_state.h"

/* How long to wait until the idle slots have left a database, ms. */
#define CLEAR_TIMEOUT_MS 4000

/* Changes of one transaction that are told apart; more are "all". */
#define MAX_CHANGES 16

/* How we learn what a statement changes. */
typedef enum PwChangeKind
{
	PW_CHANGES_NOTHING,			/* that a slot's login depends on */
	PW_CHANGES_OBJECTS,			/* object_access_hook says */
	PW_CHANGES_ANY,				/* nobody says: anything may have changed */
} PwChangeKind;

/* Something that has changed; InvalidOid stands for all. */
typedef struct PwChange
{
	Oid			dboid;
	Oid			roleoid;
} PwChange;

/* What this transaction has changed so far. */
static PwChange changes[MAX_CHANGES];
static int	nchanges = 0;

/* Holds of this transaction, and which part of it each belongs to. */
typedef struct PwOwnHold
{
	int			entry;			/* in control->holds */
	SubTransactionId part;
} PwOwnHold;

static PwOwnHold own_holds[PW_MAX_HOLDS];
static int	nholds = 0;

static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

static void watch_utility(PlannedStmt *pstmt, const char *queryString,
						  bool readOnlyTree, ProcessUtilityContext context,
						  ParamListInfo params, QueryEnvironment *queryEnv,
						  DestReceiver *dest, QueryCompletion *qc);
static PwChangeKind change_kind(Node *statement);
static void watch_transaction_end(void);
static void note_object(ObjectAccessType access, Oid classId, Oid objectId,
						int subId, void *arg);
static void note_change(Oid dboid, Oid roleoid);
static void at_release(ResourceReleasePhase phase, bool isCommit,
					   bool isTopLevel, void *arg);
static void at_part_end(SubXactEvent event, SubTransactionId part,
						SubTransactionId parent, void *arg);
static void tell_worker(void);
static bool is_affected(const PwShmPool *pool);
static Oid	database_to_clear(Node *statement);
static const char *option_value(List *options, const char *name);
static bool may_clear(Oid dboid, bool as_template, bool needs_createdb);
static bool may_create_databases(void);
static bool is_template(Oid dboid);
static void clear_database(Oid dboid);
static bool place_hold(Oid dboid);
static void release_holds(SubTransactionId part);
static bool has_idle_slots(Oid dboid);
static bool worker_is_in(Oid dboid);
static void explain_busy(void *arg);

void
pw_changes_register(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = watch_utility;
}

/*
 * ProcessUtility_hook.
 */
static void
watch_utility(PlannedStmt *pstmt, const char *queryString,
			  bool readOnlyTree, ProcessUtilityContext context,
			  ParamListInfo params, QueryEnvironment *queryEnv,
			  DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next = prev_process_utility ?
	prev_process_utility : standard_ProcessUtility;
	PwChangeKind kind = change_kind(pstmt->utilityStmt);
	bool		watch_objects = kind == PW_CHANGES_OBJECTS && object_access_hook != note_object;
	ErrorContextCallback busy = {.previous = error_context_stack,.callback = explain_busy};
	Oid			dboid;

	if (kind == PW_CHANGES_NOTHING || PwControl == NULL)
	{
		next(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
		return;
	}

	watch_transaction_end();
	if (kind == PW_CHANGES_ANY)
		note_change(InvalidOid, InvalidOid);
	dboid = database_to_clear(pstmt->utilityStmt);
	if (OidIsValid(dboid))
	{
		clear_database(dboid);
		busy.arg = &dboid;
		error_context_stack = &busy;
	}

	if (watch_objects)
	{
		prev_object_access = object_access_hook;
		object_access_hook = note_object;
	}
	PG_TRY();
	{
		next(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	}
	PG_FINALLY();
	{
		if (watch_objects)
			object_access_hook = prev_object_access;
	}
	PG_END_TRY();
	error_context_stack = busy.previous;
}

/*
 * Does a statement change what slots' logins depend on?  It is one of few that
 * do, and it is the only thing that all others pay for.
 */
static PwChangeKind
change_kind(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_AlterDatabaseSetStmt:
		case T_AlterDatabaseStmt:
		case T_AlterRoleSetStmt:
		case T_AlterRoleStmt:
		case T_CreatedbStmt:	/* wants its template for itself */
		case T_DropRoleStmt:
		case T_DropdbStmt:
			return PW_CHANGES_OBJECTS;
		case T_AlterOwnerStmt:
			return ((AlterOwnerStmt *) statement)->objectType == OBJECT_DATABASE ?
				PW_CHANGES_OBJECTS : PW_CHANGES_NOTHING;
		case T_RenameStmt:
			return ((RenameStmt *) statement)->renameType == OBJECT_DATABASE ||
				((RenameStmt *) statement)->renameType == OBJECT_ROLE ?
				PW_CHANGES_OBJECTS : PW_CHANGES_NOTHING;
		case T_GrantStmt:
			return ((GrantStmt *) statement)->objtype == OBJECT_DATABASE ?
				PW_CHANGES_ANY : PW_CHANGES_NOTHING;
		case T_DropOwnedStmt:
		case T_ReassignOwnedStmt:
			return PW_CHANGES_ANY;
		case T_TransactionStmt:
			return ((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED ?
				PW_CHANGES_ANY : PW_CHANGES_NOTHING;
		default:
			return PW_CHANGES_NOTHING;
	}
}

/* From its first statement that concerns us on, in each backend. */
static void
watch_transaction_end(void)
{
	static bool is_watching = false;

	if (is_watching)
		return;
	RegisterResourceReleaseCallback(at_release, NULL);
	RegisterSubXactCallback(at_part_end, NULL);
	is_watching = true;
}

/*
 * object_access_hook, while a statement runs that changes roles or databases.
 */
static void
note_object(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			void *arg)
{
	if (prev_object_access)
		prev_object_access(access, classId, objectId, subId, arg);
	if (access != OAT_POST_ALTER && access != OAT_DROP)
		return;

	if (classId == AuthIdRelationId)
		note_change(InvalidOid, objectId);
	else if (classId == DatabaseRelationId)
		note_change(objectId, InvalidOid);
	else if (classId == DbRoleSettingRelationId)
		note_change(objectId, ((ObjectAccessPostAlter *) arg)->auxiliary_id);
}

static void
note_change(Oid dboid, Oid roleoid)
{
	if (nchanges == MAX_CHANGES)
	{
		nchanges = 0;
		dboid = roleoid = InvalidOid;
	}
	changes[nchanges].dboid = dboid;
	changes[nchanges].roleoid = roleoid;
	nchanges++;
}

/*
 * Resource release callback: a transaction ends.
 */
static void
at_release(ResourceReleasePhase phase, bool isCommit, bool isTopLevel,
		   void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !isTopLevel)
		return;
	if (nholds > 0)
		release_holds(InvalidSubTransactionId);
	if (nchanges > 0 && isCommit)
		tell_worker();
	nchanges = 0;
}

/*
 * Subtransaction callback.  A part that is rolled back takes its locks with it,
 * and its holds.
 */
static void
at_part_end(SubXactEvent event, SubTransactionId part,
			SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && nholds > 0)
		release_holds(part);
	for (int i = 0; i < nholds && event == SUBXACT_EVENT_COMMIT_SUB; i++)
		if (own_holds[i].part == part)
			own_holds[i].part = parent;
}

/*
 * Have the worker look at the pools of what has changed.
 */
static void
tell_worker(void)
{
	bool		found = false;

	pg_atomic_fetch_add_u32(&PwControl->catalog_version, 1);
	LWLockAcquire(&PwControl->lock, LW_SHARED);
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		if (!PwPools[i].in_use || !is_affected(&PwPools[i]))
			continue;
		pg_atomic_fetch_add_u32(&PwPools[i].suspect, 1);
		found = true;
	}
	LWLockRelease(&PwControl->lock);

	if (!found)
		return;
	pg_atomic_exchange_u32(&PwControl->changed, 1);
	pw_wake_worker();
}

static bool
is_affected(const PwShmPool *pool)
{
	for (int i = 0; i < nchanges; i++)
		if ((!OidIsValid(changes[i].dboid) || changes[i].dboid == pool->dboid) &&
			(!OidIsValid(changes[i].roleoid) || changes[i].roleoid == pool->roleoid))
			return true;
	return false;
}

/*
 * The database that this statement wants for itself; InvalidOid if there is
 * none, or if the statement is going to fail anyway.
 */
static Oid
database_to_clear(Node *statement)
{
	const char *name = NULL;
	bool		as_template = false;
	bool		needs_createdb = false;
	Oid			dboid;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			name = ((DropdbStmt *) statement)->dbname;
			break;
		case T_AlterDatabaseStmt:
			if (option_value(((AlterDatabaseStmt *) statement)->options, "tablespace"))
				name = ((AlterDatabaseStmt *) statement)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				name = ((RenameStmt *) statement)->subname;
			needs_createdb = true;
			break;
		case T_CreatedbStmt:
			name = option_value(((CreatedbStmt *) statement)->options, "template");
			if (name == NULL)
				name = "template1";
			as_template = needs_createdb = true;
			break;
		default:
			break;
	}

	if (name == NULL || RecoveryInProgress())
		return InvalidOid;
	dboid = get_database_oid(name, true);
	if (!OidIsValid(dboid) || (dboid == MyDatabaseId && !as_template) ||
		!may_clear(dboid, as_template, needs_createdb))
		return InvalidOid;
	return dboid;
}

/* NULL if the option is not there, or is the keyword DEFAULT. */
static const char *
option_value(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			return option->arg ? defGetString(option) : NULL;
	}
	return NULL;
}

/* The rights that the statements ask for, too. */
static bool
may_clear(Oid dboid, bool as_template, bool needs_createdb)
{
	if (needs_createdb && !may_create_databases())
		return false;
	return pw_owns_database(dboid, GetUserId()) || (as_template && is_template(dboid));
}

static bool
may_create_databases(void)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool		may;

	if (!HeapTupleIsValid(tuple))
		return false;
	may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	ReleaseSysCache(tuple);
	return may || superuser();
}

static bool
is_template(Oid dboid)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	bool		is;

	if (!HeapTupleIsValid(tuple))
		return false;
	is = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	return is;
}

/*
 * Have the slots leave a database, and wait for those that are idle.  The
 * worker itself cannot leave its own.
 */
static void
clear_database(Oid dboid)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   CLEAR_TIMEOUT_MS);

	if (worker_is_in(dboid) || !place_hold(dboid))
		return;
	pg_atomic_exchange_u32(&PwControl->changed, 1);
	pw_wake_worker();

	ConditionVariablePrepareToSleep(&PwControl->slot_emptied);
	while (PwControl->worker_pid != 0 && has_idle_slots(dboid))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (left <= 0 ||
			ConditionVariableTimedSleep(&PwControl->slot_emptied, left, PG_WAIT_EXTENSION))
			break;
	}
	ConditionVariableCancelSleep();
}

/* False if there is no room for another one. */
static bool
place_hold(Oid dboid)
{
	int			entry = 0;

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	while (entry < PW_MAX_HOLDS && PwControl->holds[entry].pid != 0)
		entry++;
	if (entry < PW_MAX_HOLDS)
	{
		PwControl->holds[entry].pid = MyProcPid;
		PwControl->holds[entry].dboid = dboid;
	}
	LWLockRelease(&PwControl->lock);

	if (entry == PW_MAX_HOLDS)
		return false;
	own_holds[nholds].entry = entry;
	own_holds[nholds].part = GetCurrentSubTransactionId();
	nholds++;
	return true;
}

/* Those of one part of the transaction, or all. */
static void
release_holds(SubTransactionId part)
{
	int			left = 0;

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	for (int i = 0; i < nholds; i++)
	{
		if (part == InvalidSubTransactionId || own_holds[i].part == part)
			PwControl->holds[own_holds[i].entry].pid = 0;
		else
			own_holds[left++] = own_holds[i];
	}
	LWLockRelease(&PwControl->lock);
	nholds = left;
	pg_atomic_exchange_u32(&PwControl->changed, 1);
	pw_wake_worker();
}

bool
pw_changes_hold(Oid dboid)
{
	bool		found = false;

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	for (int i = 0; i < PW_MAX_HOLDS; i++)
		if (PwControl->holds[i].pid != 0 && PwControl->holds[i].dboid == dboid)
			found = true;
	LWLockRelease(&PwControl->lock);
	return found;
}

/*
 * Are there slots in this database that will leave it soon?  One that is at
 * work, or pinned, takes as long as its client wants; nor do we wait for
 * ourselves.
 */
static bool
has_idle_slots(Oid dboid)
{
	bool		found = false;

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		PwShmSlot  *slot = &PwSlots[i];
		PwSlotActivity activity = pg_atomic_read_u32(&slot->activity);

		if (slot->pool != PW_NONE && PwPools[slot->pool].dboid == dboid &&
			activity != PW_SLOT_EMPTY && activity != PW_SLOT_BUSY &&
			activity != PW_SLOT_PINNED)
			found = true;
	}
	LWLockRelease(&PwControl->lock);
	return found;
}

static bool
worker_is_in(Oid dboid)
{
	return PwControl->worker_pid != 0 && PwControl->worker_dboid == dboid;
}

/*
 * Error context callback: say who is in the way.
 */
static void
explain_busy(void *arg)
{
	if (geterrcode() == ERRCODE_OBJECT_IN_USE && worker_is_in(*(Oid *) arg))
		errhint("The pool worker is connected to this database.  Set \"pool_worker.database\" to another one and restart the server.");
}
