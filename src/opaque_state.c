/*-------------------------------------------------------------------------
 *
 * opaque_state.c
 *	  What may leave state in a session that nobody can look at.
 *
 * Runs in: slots.
 *
 * The languages that have global variables (PL/Perl, PL/Python, ...), the
 * connections of dblink, and those that modules for foreign tables keep.  A
 * client that has used such a thing keeps its slot, and when it leaves, the
 * slot ends.
 *
 * XXX A function in C may keep anything in a static variable.  Most do not, and
 * pinning for all of them would pin for every extension; pool_pin() is for
 * those who need one that does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "commands/event_trigger.h"
#include "commands/proclang.h"
#include "foreign/foreign.h"
#include "nodes/parsenodes.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/evtcache.h"
#include "utils/fmgrtab.h"
#include "utils/syscache.h"

#include "opaque_state.h"

static bool language_is_opaque(Oid language);
static bool do_is_opaque(DoStmt *statement);
static bool event_triggers_are_opaque(void);

bool
pw_function_is_opaque(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->prolang == ClanguageId)
		result = strncmp(NameStr(proc->proname), "dblink_connect", strlen("dblink_connect")) == 0;
	else
		result = language_is_opaque(proc->prolang);
	ReleaseSysCache(tuple);
	return result;
}

static bool
language_is_opaque(Oid language)
{
	return language != INTERNALlanguageId && language != SQLlanguageId &&
		language != ClanguageId && language != get_language_oid("plpgsql", true);
}

Oid
pw_function_behind(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			result = InvalidOid;
	bool		is_null;
	Datum		source;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	if (((Form_pg_proc) GETSTRUCT(tuple))->prolang == INTERNALlanguageId)
	{
		source = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &is_null);
		if (!is_null)
			result = fmgr_internal_function(TextDatumGetCString(source));
	}
	ReleaseSysCache(tuple);
	return result;
}

/*
 * file_fdw, as the only one of those that come with PostgreSQL, keeps nothing.
 */
bool
pw_foreign_table_is_opaque(Oid relid)
{
	ForeignServer *server = GetForeignServer(GetForeignTable(relid)->serverid);

	return strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, "file_fdw") != 0;
}

bool
pw_utility_is_opaque(Node *statement)
{
	if (!IsTransactionState())
		return false;
	if (IsA(statement, ImportForeignSchemaStmt))
		return true;
	if (IsA(statement, DoStmt))
		return do_is_opaque((DoStmt *) statement);
	return GetCommandLogLevel(statement) == LOGSTMT_DDL && event_triggers_are_opaque();
}

static bool
do_is_opaque(DoStmt *statement)
{
	ListCell   *cell;

	foreach(cell, statement->args)
	{
		DefElem    *argument = lfirst_node(DefElem, cell);
		Oid			language;

		if (strcmp(argument->defname, "language") != 0)
			continue;
		language = get_language_oid(strVal(argument->arg), true);
		return OidIsValid(language) && language_is_opaque(language);
	}
	return false;
}

/*
 * Functions of event triggers are called without a word to object_access_hook.
 * Which statement fires which is not worth finding out.
 */
static bool
event_triggers_are_opaque(void)
{
	static const EventTriggerEvent events[] = {
		EVT_DDLCommandStart, EVT_DDLCommandEnd, EVT_SQLDrop, EVT_TableRewrite,
	};

	for (int i = 0; i < lengthof(events); i++)
	{
		ListCell   *cell;

		foreach(cell, EventCacheLookup(events[i]))
			if (pw_function_is_opaque(((EventTriggerCacheItem *) lfirst(cell))->fnoid))
			return true;
	}
	return false;
}
