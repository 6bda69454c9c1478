/*-------------------------------------------------------------------------
 *
 * session_state.c
 *	  What a client leaves in its backend that cannot be taken along.
 *
 * Runs in: slots.
 *
 * Most of a session moves with its client (session.c).  A client with anything
 * else keeps its slot.  This file finds such state by looking at it where it
 * lives, never by guessing from SQL text; each kind is one row of
 * state_kinds[].  When the client has left, the session is cleaned as DISCARD
 * ALL does; what that cannot clean makes the slot retire.
 *
 * Looking costs a microsecond or two, so we do it only after something has
 * happened that can leave state.  "touched" says so, and the modules of
 * session.c are told at the same places.  It is set by
 *
 * - every utility statement, except for the few that are known not to,
 * - every call of a function that is not built in, and of those built-in ones
 *	 that leave state,
 * - every statement that can fire triggers, for these may be written in C.
 *
 * A kind of state that we do not know of is a bug; the first fix is a row that
 * pins.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_language.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/proclang.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "replication/origin.h"
#include "replication/slot.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "opaque_state.h"
#include "prepared_statements.h"
#include "session_libraries.h"
#include "session_sequences.h"
#include "session_settings.h"
#include "session_state.h"

/* Something happened that can have left state; reset by looking. */
static bool touched = false;

/* LISTEN or UNLISTEN was executed since we last looked. */
static bool listen_uncertain = false;

/* Facts that only hooks see, true until the session is cleaned. */
static bool seed_set = false;
static bool other_state = false;

/* Between pool_pin() and pool_unpin(), for what nobody can see. */
static bool pin_requested = false;

/* This backend is a slot. */
static bool watching = false;

/* The answer while nothing is touched, and what it is based on. */
static PwPinReason current_reason = PW_PIN_NONE;
static bool is_listening = false;

static ProcessUtility_hook_type prev_process_utility = NULL;
static ExecutorStart_hook_type prev_executor_start = NULL;
static object_access_hook_type prev_object_access = NULL;
static GucRealAssignHook prev_assign_seed = NULL;

static void watch_utility(PlannedStmt *pstmt, const char *queryString,
						  bool readOnlyTree, ProcessUtilityContext context,
						  ParamListInfo params, QueryEnvironment *queryEnv,
						  DestReceiver *dest, QueryCompletion *qc);
static void watch_executor_start(QueryDesc *queryDesc, int eflags);
static void watch_object_access(ObjectAccessType access, Oid classId,
								Oid objectId, int subId, void *arg);
static void discard(void);
static void reseed(void);
static void watch_seed(void);
static void assign_seed(double newval, void *extra);
static void note_utility(Node *statement);
static bool may_execute(Node *statement);
static void note_utility_done(Node *statement);
static void note_discard(DiscardStmt *discard);
static bool leaves_nothing(Node *statement);
static void note_target(Oid relid);
static void note_foreign_tables(List *rtable);
static bool draws_next_value(Plan *plan);
static bool list_draws_next_value(List *plans);
static bool find_next_value(Node *node, void *context);
static void note_copy(CopyStmt *copy);
static bool adds_identity(AlterTableStmt *alter);
static PwPinReason look(void);
static bool has_locked_sequences(void);
static bool has_temporary_objects(void);
static bool has_session_locks(void);
static bool has_server_state(void);
static bool has_cursors(void);
static bool has_listen(void);
static bool function_returns_rows(Oid function);

/*
 * The kinds of state that pin.  The first one found is the one shown.
 */
typedef struct PwStateKind
{
	PwPinReason reason;
	bool		(*present) (void);	/* looks at the state, or */
	bool	   *flag;			/* was noted by a hook */
	bool		cleanable;		/* by pw_session_clean() */
} PwStateKind;

static const PwStateKind state_kinds[] = {
	{PW_PIN_REQUESTED, NULL, &pin_requested, false},
	{PW_PIN_TEMPORARY_OBJECTS, has_temporary_objects, NULL, true},
	{PW_PIN_LISTEN, has_listen, NULL, true},
	{PW_PIN_CURSORS, has_cursors, NULL, true},
	{PW_PIN_SESSION_LOCKS, has_session_locks, NULL, true},
	{PW_PIN_RANDOM_SEED, NULL, &seed_set, true},
	{PW_PIN_OTHER, NULL, &other_state, false},
	{PW_PIN_OTHER, has_server_state, NULL, false},
	{PW_PIN_SEQUENCES, has_locked_sequences, NULL, true},
};

/*
 * Built-in functions that leave state in the session, and what is done about
 * it besides looking: a function is called, or a fact is noted.
 */
typedef struct PwStatefulFunction
{
	Oid			oid;
	void		(*touch) (void);	/* or NULL */
	bool	   *flag;			/* or NULL */
} PwStatefulFunction;

static const PwStatefulFunction stateful_functions[] = {
	{F_SET_CONFIG, pw_settings_touch, NULL},
	{F_SETSEED, NULL, &seed_set},
	{F_NEXTVAL, pw_sequences_drawn, NULL},
	{F_SETVAL_REGCLASS_INT8, pw_sequences_touch, NULL},
	{F_SETVAL_REGCLASS_INT8_BOOL, pw_sequences_touch, NULL},
	{F_PG_ADVISORY_LOCK_INT8, NULL, NULL},
	{F_PG_ADVISORY_LOCK_SHARED_INT8, NULL, NULL},
	{F_PG_TRY_ADVISORY_LOCK_INT8, NULL, NULL},
	{F_PG_TRY_ADVISORY_LOCK_SHARED_INT8, NULL, NULL},
	{F_PG_ADVISORY_UNLOCK_INT8, NULL, NULL},
	{F_PG_ADVISORY_UNLOCK_SHARED_INT8, NULL, NULL},
	{F_PG_ADVISORY_LOCK_INT4_INT4, NULL, NULL},
	{F_PG_ADVISORY_LOCK_SHARED_INT4_INT4, NULL, NULL},
	{F_PG_TRY_ADVISORY_LOCK_INT4_INT4, NULL, NULL},
	{F_PG_TRY_ADVISORY_LOCK_SHARED_INT4_INT4, NULL, NULL},
	{F_PG_ADVISORY_UNLOCK_INT4_INT4, NULL, NULL},
	{F_PG_ADVISORY_UNLOCK_SHARED_INT4_INT4, NULL, NULL},
	{F_PG_ADVISORY_UNLOCK_ALL, NULL, NULL},
	{F_PG_BACKUP_START, NULL, NULL},
	{F_PG_REPLICATION_ORIGIN_SESSION_SETUP, NULL, NULL},
	{F_PG_CREATE_PHYSICAL_REPLICATION_SLOT, NULL, NULL},
	{F_PG_CREATE_LOGICAL_REPLICATION_SLOT, NULL, NULL},
	{F_PG_COPY_LOGICAL_REPLICATION_SLOT_NAME_NAME_BOOL, NULL, NULL},
	{F_PG_COPY_LOGICAL_REPLICATION_SLOT_NAME_NAME_BOOL_NAME, NULL, NULL},
	{F_PG_COPY_PHYSICAL_REPLICATION_SLOT_NAME_NAME_BOOL, NULL, NULL},
	{F_PG_REPLICATION_ORIGIN_SESSION_RESET, NULL, NULL},
	{F_PG_BACKUP_STOP, NULL, NULL},
	{F_PG_DROP_REPLICATION_SLOT, NULL, NULL},
};

void
pw_session_state_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = watch_utility;
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = watch_executor_start;
	prev_object_access = object_access_hook;
	object_access_hook = watch_object_access;
	watch_seed();
	watching = true;
}

/*
 * Have the setting "seed" tell us of every way in which it is assigned.
 */
static void
watch_seed(void)
{
	int			count;
	struct config_generic **settings = pw_guc_variables(&count);

	for (int i = 0; i < count; i++)
	{
		struct config_real *seed = (struct config_real *) settings[i];

		if (strcmp(settings[i]->name, "seed") != 0)
			continue;
		prev_assign_seed = seed->assign_hook;
		seed->assign_hook = assign_seed;
	}
}

static void
assign_seed(double newval, void *extra)
{
	/* check_random_seed() marks what is set in a session; nothing else seeds */
	if (extra != NULL && *(int *) extra != 0)
		seed_set = touched = true;
	if (prev_assign_seed)
		prev_assign_seed(newval, extra);
}

void
pw_session_closed(void)
{
	if (current_reason != PW_PIN_NONE)
		touched = true;
}

bool
pw_session_request_pin(bool pin, bool *before)
{
	*before = pin_requested;
	if (watching)
		pin_requested = pin;
	touched = true;
	return watching;
}

PwPinReason
pw_session_pin_reason(void)
{
	if (touched)
	{
		touched = false;
		current_reason = look();
	}
	return current_reason;
}

bool
pw_session_state_clean(void)
{
	if (pw_session_pin_reason() == PW_PIN_NONE)
		return true;
	for (int i = 0; i < lengthof(state_kinds); i++)
	{
		const PwStateKind *kind = &state_kinds[i];

		if (!kind->cleanable && kind->flag != NULL && *kind->flag)
			return false;
	}
	discard();
	touched = true;
	return pw_session_pin_reason() == PW_PIN_NONE;
}

/*
 * What DiscardAll() does about the kinds of state that pin.
 */
static void
discard(void)
{
	MemoryContext oldcontext = CurrentMemoryContext;

	StartTransactionCommand();
	PortalHashTableDeleteAll();
	Async_UnlistenAll();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetTempTableNamespace();
	pw_sequences_forgotten();
	ResetSequenceCaches();
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
	listen_uncertain = true;
	if (seed_set)
		reseed();
}

/*
 * The next client must not be able to foretell what random() returns.  This
 * is the number of random bits that a seed can have.
 */
static void
reseed(void)
{
	uint64		bits;

	if (!pg_strong_random(&bits, sizeof(bits)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	(void) DirectFunctionCall1(setseed,
							   Float8GetDatum((double) (bits >> 11) / (UINT64CONST(1) << 53)));
	seed_set = false;
}

/*
 * ProcessUtility_hook: note what a utility statement may leave behind.
 *
 * It is noted before it runs, since a statement that fails half-way can have
 * left something as well.
 */
static void
watch_utility(PlannedStmt *pstmt, const char *queryString,
			  bool readOnlyTree, ProcessUtilityContext context,
			  ParamListInfo params, QueryEnvironment *queryEnv,
			  DestReceiver *dest, QueryCompletion *qc)
{
	note_utility(pstmt->utilityStmt);
	if (prev_process_utility)
		prev_process_utility(pstmt, queryString, readOnlyTree, context,
							 params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
	note_utility_done(pstmt->utilityStmt);
}

static void
note_utility(Node *statement)
{
	if (may_execute(statement))
		pw_statements_used();
	if (leaves_nothing(statement))
		return;
	touched = true;
	pw_settings_touch();
	if (pw_utility_is_opaque(statement))
		other_state = true;
	switch (nodeTag(statement))
	{
		case T_AlterTableStmt:
			if (adds_identity((AlterTableStmt *) statement))
				pw_sequences_drawn();
			break;
		case T_AlterSeqStmt:
			pw_sequences_touch();
			break;
		case T_DiscardStmt:
		case T_ListenStmt:
		case T_UnlistenStmt:
			listen_uncertain = true;
			break;
		case T_CopyStmt:
			note_copy((CopyStmt *) statement);
			break;
		default:
			break;
	}
}

/* EXECUTE, or a statement that it can be a part of. */
static bool
may_execute(Node *statement)
{
	return IsA(statement, ExecuteStmt) || IsA(statement, ExplainStmt) ||
		IsA(statement, CreateTableAsStmt);
}

/* What is known once a statement has succeeded. */
static void
note_utility_done(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_PrepareStmt:
			pw_statement_prepared(((PrepareStmt *) statement)->name);
			break;
		case T_DeallocateStmt:
			pw_statements_removed();
			break;
		case T_DiscardStmt:
			note_discard((DiscardStmt *) statement);
			break;
		case T_LoadStmt:
			pw_library_loaded(((LoadStmt *) statement)->filename);
			break;
		default:
			break;
	}
}

static void
note_discard(DiscardStmt *discard)
{
	if (discard->target == DISCARD_ALL)
	{
		pw_statements_removed();
		pin_requested = false;
	}
	if (discard->target == DISCARD_ALL || discard->target == DISCARD_SEQUENCES)
		pw_sequences_forgotten();
}

/* Statements that are frequent and known to leave nothing in the session. */
static bool
leaves_nothing(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_TransactionStmt:
		case T_VariableShowStmt:
		case T_ExecuteStmt:
		case T_FetchStmt:
		case T_LockStmt:
		case T_NotifyStmt:
			return true;
		case T_CopyStmt:
			return !((CopyStmt *) statement)->is_from;
		default:
			return false;
	}
}

/*
 * ExecutorStart_hook: note statements that can fire triggers or fill identity
 * columns.
 */
static void
watch_executor_start(QueryDesc *queryDesc, int eflags)
{
	PlannedStmt *statement = queryDesc->plannedstmt;
	ListCell   *cell;

	if (prev_executor_start)
		prev_executor_start(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);

	note_foreign_tables(statement->rtable);
	if (statement->resultRelations == NIL)
		return;
	foreach(cell, statement->resultRelations)
		note_target(rt_fetch(lfirst_int(cell), statement->rtable)->relid);
	if (draws_next_value(statement->planTree) || list_draws_next_value(statement->subplans))
	{
		pw_sequences_drawn();
		touched = true;
	}
}

static void
note_target(Oid relid)
{
	Relation	relation = RelationIdGetRelation(relid);

	if (relation == NULL)
		return;
	if (relation->trigdesc != NULL)
	{
		pw_settings_touch();
		touched = true;
		for (int i = 0; i < relation->trigdesc->numtriggers; i++)
			pw_session_note_function(relation->trigdesc->triggers[i].tgfoid);
	}
	RelationClose(relation);
}

/* Modules for foreign tables keep connections. */
static void
note_foreign_tables(List *rtable)
{
	ListCell   *cell;

	foreach(cell, rtable)
	{
		RangeTblEntry *entry = lfirst_node(RangeTblEntry, cell);

		if (entry->rtekind == RTE_RELATION && entry->relkind == RELKIND_FOREIGN_TABLE &&
			pw_foreign_table_is_opaque(entry->relid))
			other_state = touched = true;
	}
}

/*
 * Does a plan take the value of an identity column from its sequence?  That
 * calls no function that we could see; it is a kind of expression of its own,
 * found in target lists only.
 */
static bool
draws_next_value(Plan *plan)
{
	if (plan == NULL)
		return false;
	if (find_next_value((Node *) plan->targetlist, NULL) ||
		draws_next_value(outerPlan(plan)) || draws_next_value(innerPlan(plan)))
		return true;

	switch (nodeTag(plan))
	{
		case T_ModifyTable:
			return find_next_value((Node *) ((ModifyTable *) plan)->onConflictSet, NULL) ||
				find_next_value((Node *) ((ModifyTable *) plan)->mergeActionLists, NULL);
		case T_Append:
			return list_draws_next_value(((Append *) plan)->appendplans);
		case T_MergeAppend:
			return list_draws_next_value(((MergeAppend *) plan)->mergeplans);
		case T_SubqueryScan:
			return draws_next_value(((SubqueryScan *) plan)->subplan);
		case T_CustomScan:
			return list_draws_next_value(((CustomScan *) plan)->custom_plans);
		default:
			return false;
	}
}

static bool
list_draws_next_value(List *plans)
{
	ListCell   *cell;

	foreach(cell, plans)
		if (draws_next_value((Plan *) lfirst(cell)))
		return true;
	return false;
}

static bool
find_next_value(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, NextValueExpr) || expression_tree_walker(node, find_next_value, context);
}

/*
 * COPY FROM does not pass the executor.  It may draw from a sequence for every
 * identity column.
 */
static void
note_copy(CopyStmt *copy)
{
	Oid			relid = InvalidOid;
	Relation	relation;

	if (copy->is_from && copy->relation != NULL)
		relid = RangeVarGetRelid(copy->relation, NoLock, true);
	relation = OidIsValid(relid) ? RelationIdGetRelation(relid) : NULL;
	if (relation == NULL)
		return;
	for (int i = 0; i < RelationGetNumberOfAttributes(relation); i++)
		if (TupleDescAttr(RelationGetDescr(relation), i)->attidentity != '\0')
			pw_sequences_drawn();
	RelationClose(relation);
}

/*
 * Does ALTER TABLE add an identity column?  Filling it passes neither a
 * function nor the executor.
 */
static bool
adds_identity(AlterTableStmt *alter)
{
	ListCell   *cell;

	foreach(cell, alter->cmds)
	{
		AlterTableCmd *command = (AlterTableCmd *) lfirst(cell);
		ListCell   *constraint;

		if (command->subtype != AT_AddColumn)
			continue;
		foreach(constraint, ((ColumnDef *) command->def)->constraints)
			if (((Constraint *) lfirst(constraint))->contype == CONSTR_IDENTITY)
			return true;
	}
	return false;
}

/*
 * object_access_hook: note calls of functions that may leave state.
 */
static void
watch_object_access(ObjectAccessType access, Oid classId,
					Oid objectId, int subId, void *arg)
{
	if (access == OAT_FUNCTION_EXECUTE)
		pw_session_note_function(objectId);
	if (prev_object_access)
		prev_object_access(access, classId, objectId, subId, arg);
}

void
pw_session_note_function(Oid function)
{
	if (function >= FirstNormalObjectId)
	{
		touched = true;
		pw_settings_touch();
		if (pw_function_is_opaque(function))
			other_state = true;

		/* another name for a built-in one? */
		function = pw_function_behind(function);
	}
	for (int i = 0; i < lengthof(stateful_functions); i++)
	{
		if (stateful_functions[i].oid != function)
			continue;
		touched = true;
		if (stateful_functions[i].touch != NULL)
			stateful_functions[i].touch();
		if (stateful_functions[i].flag != NULL)
			*stateful_functions[i].flag = true;
	}
}

/*
 * Look at every kind of state; the first one that is present counts.
 */
static PwPinReason
look(void)
{
	PwPinReason reason = PW_PIN_NONE;
	MemoryContext oldcontext = CurrentMemoryContext;

	StartTransactionCommand();
	for (int i = 0; i < lengthof(state_kinds) && reason == PW_PIN_NONE; i++)
	{
		const PwStateKind *kind = &state_kinds[i];

		if (kind->flag != NULL ? *kind->flag : kind->present())
			reason = kind->reason;
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
	return reason;
}

/*
 * Ask again after the next transaction: the lock may be gone.
 */
static bool
has_locked_sequences(void)
{
	if (pw_sequences_look())
		return false;
	touched = true;
	return true;
}

static bool
has_listen(void)
{
	if (listen_uncertain)
		is_listening = function_returns_rows(F_PG_LISTENING_CHANNELS);
	listen_uncertain = false;
	return is_listening;
}

/*
 * Every object in a schema depends on the schema, whatever its kind.
 */
static bool
has_temporary_objects(void)
{
	Oid			namespace;
	Oid			toast_namespace;
	Relation	depend;
	ScanKeyData keys[2];
	SysScanDesc scan;
	bool		found;

	GetTempNamespaceState(&namespace, &toast_namespace);
	if (!OidIsValid(namespace))
		return false;

	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(namespace));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return found;
}

/*
 * Locks that are held while no user transaction is open belong to the session.
 * We look at our own lists in shared memory: others may add to them only while
 * they move one of our fast-path locks there, and those are never advisory.
 */
static bool
has_session_locks(void)
{
	for (int i = 0; i < NUM_LOCK_PARTITIONS; i++)
		if (!pw_lock_list_is_empty(MyProc, i))
			return true;
	return false;
}

/*
 * What functions for backups and replication keep for the session: a backup
 * that has begun, the origin of its changes, temporary replication slots.
 */
static bool
has_server_state(void)
{
	if (get_backup_status() != SESSION_BACKUP_NONE ||
		replorigin_session_origin != InvalidRepOriginId)
		return true;

	/* slots of ours only we acquire and release */
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		if (slot->in_use && slot->active_pid == MyProcPid)
			return true;
	}
	return false;
}

static bool
has_cursors(void)
{
	if (ThereAreNoReadyPortals())
		return false;

	/*
	 * It leaves its scan of the portals open when it finds one, since its
	 * other callers raise an error then.  Ours ends a transaction, which
	 * would warn the client of it.
	 */
	AtEOXact_HashTables(false);
	return true;
}

/*
 * Call a set-returning function of the catalog without arguments, and see
 * whether it returns anything.
 */
static bool
function_returns_rows(Oid function)
{
	ExprContext *econtext = CreateStandaloneExprContext();
	MemoryContext arguments = AllocSetContextCreate(CurrentMemoryContext, "arguments",
													ALLOCSET_SMALL_SIZES);
	FuncExpr   *call = makeFuncExpr(function, get_func_rettype(function), NIL,
									InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	SetExprState *state;
	Tuplestorestate *rows;
	TupleDesc	desc;
	Oid			rettype;
	bool		found;

	call->funcretset = true;
	if (get_expr_result_type((Node *) call, &rettype, &desc) == TYPEFUNC_SCALAR)
	{
		desc = CreateTemplateTupleDesc(1);
		TupleDescInitEntry(desc, 1, "value", rettype, -1, 0);
	}
	state = ExecInitTableFunctionResult((Expr *) call, econtext, NULL);
	rows = ExecMakeTableFunctionResult(state, econtext, arguments, desc, false);
	found = tuplestore_tuple_count(rows) > 0;
	tuplestore_end(rows);
	FreeExprContext(econtext, true);
	return found;
}
