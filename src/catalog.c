/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  What the shared catalogs say about a login.
 *
 * Runs in: pool worker.
 *
 * A client of the pool does not become a backend, so nobody else makes the
 * checks of InitPostgres(), InitializeSessionUserId() and CheckMyDatabase()
 * for it; and a warm slot has made them too long ago to count.  They are all
 * repeated here for every login, with the server's own lookups and words.
 * What is left to the server is what only opening a slot can find out, such
 * as a missing database directory.
 *
 * A common login costs a transaction and three hits in the syscache.  Invalidation messages are read when the transaction starts, so
 * what has been committed before the login is seen by it.
 *
 * Without a database
 * ------------------
 *
 * A worker that is connected to the shared catalogs only cannot read a value
 * that is stored out of line, such as the verifier of a password with an
 * enormous salt, which everybody may set for himself: opening the TOAST table
 * takes pg_class, and trying to is a FATAL error, the end of the worker.  So a
 * name is then looked up in the table itself before the syscache is asked for
 * it, and refused if its row has such a value.
 *
 * XXX That does not cover the roles that a role is a member of, and those that
 * pg_hba.conf names as groups.  A worker that is connected to some database
 * does not have the problem at all.
 *
 * Connection limits
 * -----------------
 *
 * A role's or database's limit is one for its users, so it counts clients of
 * the pool, parked or not, plus backends that are not slots.  The slots
 * themselves do not count: their clients do.  (To the server a slot is a
 * backend as any other, so it will not open more slots than the limit.)  A
 * slot counts as a direct backend from the start of its login until its
 * backend has reported; like the server's own count, ours is approximate.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "shared_state.h"

/* Makes the stamp of a row, which it may change, and notes a name in it. */
typedef uint64 (*PwRowStamp) (HeapTuple tuple, PwCatalogNames *names);

/* The caller's memory context, while a transaction is open. */
static MemoryContext caller_context = NULL;

static void watch_memberships(void);
static bool check_role(const char *role, bool with_limits,
					   PwCatalogNames *names, bool *is_superuser,
					   PwReport *why);
static bool check_database(const char *database, bool with_limits,
						   PwCatalogNames *names, bool is_superuser,
						   PwReport *why);
static bool check_names(const char *database, const char *role,
						bool with_limits, PwCatalogNames *names,
						PwReport *why);
static void read_stamp(PwCatalogNames *names, PwCatalogStamp *stamp);
static uint64 read_row(Oid relid, Oid index, ScanKey keys, int nkeys,
					   PwRowStamp stamp_of, PwCatalogNames *names);
static uint64 stamp_of_role(HeapTuple tuple, PwCatalogNames *names);
static uint64 stamp_of_database(HeapTuple tuple, PwCatalogNames *names);
static uint64 stamp_of_settings(HeapTuple tuple, PwCatalogNames *names);
static uint64 hash_row(HeapTuple tuple);
static Oid	find_database(const char *database, PwReport *why);
static bool scan_for_name(Oid relid, Oid index, AttrNumber column,
						  const char *name, Oid *oid);
static bool is_over_limit(int limit, Oid dboid, Oid roleoid);
static void fail(PwReport *why, int sqlstate, char *message);

void
pw_catalog_begin(void)
{
	caller_context = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	watch_memberships();
	MemoryContextSwitchTo(caller_context);
}

void
pw_catalog_end(void)
{
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller_context);
}

/*
 * Make sure that the cache of role memberships notices changes.
 *
 * InitPostgres() takes care of that only for processes that connect to a
 * database.  Without it a role that was once found to be a member of another
 * would stay one for us, after REVOKE too.
 */
static void
watch_memberships(void)
{
	static bool is_watching = false;

	if (is_watching)
		return;
	initialize_acl();
	is_watching = true;
}

bool
pw_catalog_check_login(const char *database, const char *role,
					   PwCatalogNames *names, PwReport *why)
{
	return check_names(database, role, true, names, why);
}

bool
pw_catalog_find(const char *database, const char *role,
				PwCatalogNames *names, PwReport *why)
{
	bool		found;

	pw_catalog_begin();
	found = pw_catalog_can_read_role(role, why) &&
		check_names(database, role, false, names, why);
	pw_catalog_end();
	return found;
}

PwCatalogVerdict
pw_catalog_look(PwCatalogNames *names, PwCatalogStamp *stamp, PwReport *why)
{
	PwCatalogNames found = *names;
	PwCatalogVerdict verdict = PW_CATALOG_GONE;

	memset(why, 0, sizeof(*why));
	pw_catalog_begin();
	read_stamp(names, stamp);

	if (stamp->role == 0)
		fail(why, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
			 psprintf(_("role \"%s\" does not exist"), NameStr(names->role)));
	else if (stamp->database == 0)
		fail(why, ERRCODE_UNDEFINED_DATABASE,
			 psprintf(_("database \"%s\" does not exist"), NameStr(names->database)));
	else
		verdict = pw_catalog_can_read_role(NameStr(names->role), why) &&
			check_names(NameStr(names->database), NameStr(names->role),
						false, &found, why) ? PW_CATALOG_OK : PW_CATALOG_BARRED;

	if (verdict == PW_CATALOG_GONE)
		why->detail = "It has been dropped since this connection was opened.";
	pw_catalog_end();
	return verdict;
}

/*
 * Read the rows themselves, and correct the names by what they say.
 */
static void
read_stamp(PwCatalogNames *names, PwCatalogStamp *stamp)
{
	const Oid	pairs[][2] = {{names->dboid, names->roleoid},
	{names->dboid, InvalidOid}, {InvalidOid, names->roleoid},
	{InvalidOid, InvalidOid}};
	ScanKeyData keys[2];

	StaticAssertStmt(lengthof(pairs) == lengthof(stamp->settings),
					 "every kind of settings needs a place in the stamp");

	memset(stamp, 0, sizeof(*stamp));
	ScanKeyInit(&keys[0], Anum_pg_authid_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(names->roleoid));
	stamp->role = read_row(AuthIdRelationId, AuthIdOidIndexId, keys, 1,
						   stamp_of_role, names);
	ScanKeyInit(&keys[0], Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(names->dboid));
	stamp->database = read_row(DatabaseRelationId, DatabaseOidIndexId, keys, 1,
							   stamp_of_database, names);

	for (int i = 0; i < lengthof(pairs) && OidIsValid(MyDatabaseId); i++)
	{
		ScanKeyInit(&keys[0], Anum_pg_db_role_setting_setdatabase,
					BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(pairs[i][0]));
		ScanKeyInit(&keys[1], Anum_pg_db_role_setting_setrole,
					BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(pairs[i][1]));
		stamp->settings[i] = read_row(DbRoleSettingRelationId,
									  DbRoleSettingDatidRolidIndexId,
									  keys, 2, stamp_of_settings, names);
	}
}

/* The stamp of the one row with these keys; 0 if there is none. */
static uint64
read_row(Oid relid, Oid index, ScanKey keys, int nkeys, PwRowStamp stamp_of,
		 PwCatalogNames *names)
{
	Relation	relation = table_open(relid, AccessShareLock);
	SysScanDesc scan = systable_beginscan(relation, index,
										  criticalSharedRelcachesBuilt,
										  NULL, nkeys, keys);
	HeapTuple	tuple = systable_getnext(scan);
	uint64		stamp = 0;

	if (HeapTupleIsValid(tuple))
	{
		HeapTuple	copy = heap_copytuple(tuple);

		stamp = stamp_of(copy, names);
		heap_freetuple(copy);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return stamp;
}

/*
 * Connection limits are for those who log in; the clients who are in already
 * need slots all the same, and may have no more than they have now.
 */
static uint64
stamp_of_role(HeapTuple tuple, PwCatalogNames *names)
{
	Form_pg_authid form = (Form_pg_authid) GETSTRUCT(tuple);

	names->role = form->rolname;
	form->rolconnlimit = 0;
	return hash_row(tuple);
}

static uint64
stamp_of_database(HeapTuple tuple, PwCatalogNames *names)
{
	Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

	names->database = form->datname;
	form->datconnlimit = 0;
	/* these are VACUUM's */
	form->datfrozenxid = InvalidTransactionId;
	form->datminmxid = InvalidMultiXactId;
	return hash_row(tuple);
}

/*
 * Here the transaction that has made the row is enough, and tells a value that
 * is set again from the same one before.
 */
static uint64
stamp_of_settings(HeapTuple tuple, PwCatalogNames *names)
{
	return HeapTupleHeaderGetRawXmin(tuple->t_data);
}

/* All columns, as they are stored: nothing is detoasted. */
static uint64
hash_row(HeapTuple tuple)
{
	return hash_bytes_extended((unsigned char *) tuple->t_data + SizeofHeapTupleHeader,
							   tuple->t_len - SizeofHeapTupleHeader, 0) | 1;
}

/*
 * All checks, in the server's order.
 */
static bool
check_names(const char *database, const char *role, bool with_limits,
			PwCatalogNames *names, PwReport *why)
{
	bool		is_superuser;

	memset(why, 0, sizeof(*why));
	return check_role(role, with_limits, names, &is_superuser, why) &&
		check_database(database, with_limits, names, is_superuser, why);
}

/*
 * The checks of InitializeSessionUserId().
 */
static bool
check_role(const char *role, bool with_limits, PwCatalogNames *names,
		   bool *is_superuser, PwReport *why)
{
	HeapTuple	tuple = SearchSysCache1(AUTHNAME, PointerGetDatum(role));
	Form_pg_authid form;
	bool		may_login;
	int			limit;

	if (!HeapTupleIsValid(tuple))
	{
		fail(why, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
			 psprintf(_("role \"%s\" does not exist"), role));
		return false;
	}

	form = (Form_pg_authid) GETSTRUCT(tuple);
	names->roleoid = form->oid;
	names->role = form->rolname;
	*is_superuser = form->rolsuper;
	may_login = form->rolcanlogin;
	limit = form->rolconnlimit;
	ReleaseSysCache(tuple);

	if (!may_login)
	{
		fail(why, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
			 psprintf(_("role \"%s\" is not permitted to log in"), role));
		return false;
	}
	if (with_limits && !*is_superuser &&
		is_over_limit(limit, InvalidOid, names->roleoid))
	{
		fail(why, ERRCODE_TOO_MANY_CONNECTIONS,
			 psprintf(_("too many connections for role \"%s\""), role));
		return false;
	}
	return true;
}

/*
 * The checks of InitPostgres() and CheckMyDatabase().
 */
static bool
check_database(const char *database, bool with_limits, PwCatalogNames *names,
			   bool is_superuser, PwReport *why)
{
	HeapTuple	tuple = NULL;
	FormData_pg_database form;

	names->dboid = find_database(database, why);
	if (why->message != NULL)
		return false;
	if (OidIsValid(names->dboid))
		tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(names->dboid));
	if (!HeapTupleIsValid(tuple))
	{
		fail(why, ERRCODE_UNDEFINED_DATABASE,
			 psprintf(_("database \"%s\" does not exist"), database));
		return false;
	}
	memcpy(&form, GETSTRUCT(tuple), sizeof(form));
	ReleaseSysCache(tuple);
	names->database = form.datname;

	if (database_is_invalid_form(&form))
	{
		fail(why, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			 psprintf(_("cannot connect to invalid database \"%s\""), database));
		why->hint = _("Use DROP DATABASE to drop invalid databases.");
		return false;
	}
	if (!form.datallowconn)
	{
		fail(why, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			 psprintf(_("database \"%s\" is not currently accepting connections"),
					  database));
		return false;
	}
	if (!is_superuser &&
		object_aclcheck(DatabaseRelationId, names->dboid, names->roleoid,
						ACL_CONNECT) != ACLCHECK_OK)
	{
		fail(why, ERRCODE_INSUFFICIENT_PRIVILEGE,
			 psprintf(_("permission denied for database \"%s\""), database));
		why->detail = _("User does not have CONNECT privilege.");
		return false;
	}
	if (with_limits && !is_superuser &&
		is_over_limit(form.datconnlimit, names->dboid, InvalidOid))
	{
		fail(why, ERRCODE_TOO_MANY_CONNECTIONS,
			 psprintf(_("too many connections for database \"%s\""), database));
		return false;
	}
	return true;
}

/*
 * Look up a database by name; InvalidOid if there is none, or with *why filled
 * in if its row cannot be read.
 *
 * There is no syscache on the name, so remember the last answer.  It is
 * checked against the row, which is in the syscache: as long as that has the
 * name, no other can.
 */
static Oid
find_database(const char *database, PwReport *why)
{
	static Oid	last_oid = InvalidOid;
	HeapTuple	tuple = NULL;
	bool		is_same = false;

	if (OidIsValid(last_oid) && OidIsValid(MyDatabaseId))
		tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(last_oid));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		is_same = strcmp(NameStr(form->datname), database) == 0;
		ReleaseSysCache(tuple);
	}
	if (is_same)
		return last_oid;

	if (!scan_for_name(DatabaseRelationId, DatabaseNameIndexId,
					   Anum_pg_database_datname, database, &last_oid))
		fail(why, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
			 psprintf("privileges of database \"%s\" are too long", database));
	return last_oid;
}

bool
pw_catalog_can_read_role(const char *role, PwReport *why)
{
	Oid			roleoid;

	memset(why, 0, sizeof(*why));
	if (OidIsValid(MyDatabaseId) ||
		scan_for_name(AuthIdRelationId, AuthIdRolnameIndexId,
					  Anum_pg_authid_rolname, role, &roleoid))
		return true;

	fail(why, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
		 psprintf("password of role \"%s\" is too long", role));
	return false;
}

/*
 * Look for a name in pg_database or pg_authid itself.  Sets *oid, to
 * InvalidOid if there is no such row.  False, with *oid InvalidOid, if the row
 * is there but we must not let the syscache read it; see "Without a database".
 *
 * Without a database there may also be no relcache entry for the index, hence
 * criticalSharedRelcachesBuilt; GetDatabaseTuple() in postinit.c does the same.
 */
static bool
scan_for_name(Oid relid, Oid index, AttrNumber column, const char *name,
			  Oid *oid)
{
	Relation	relation = table_open(relid, AccessShareLock);
	bool		is_readable = true;
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key[0], column, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(name));
	scan = systable_beginscan(relation, index, criticalSharedRelcachesBuilt,
							  NULL, lengthof(key), key);
	tuple = systable_getnext(scan);

	*oid = InvalidOid;
	if (HeapTupleIsValid(tuple))
	{
		is_readable = OidIsValid(MyDatabaseId) || !HeapTupleHasExternal(tuple);
		/* both kinds of row begin with their OID */
		if (is_readable)
			*oid = *(Oid *) GETSTRUCT(tuple);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return is_readable;
}

/*
 * Would one more client of a database, or of a role, be one too many?  The
 * other of the two is InvalidOid.
 */
static bool
is_over_limit(int limit, Oid dboid, Oid roleoid)
{
	int			clients = 0;
	int			slots = 0;
	int			backends;

	if (limit < 0)
		return false;

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		const PwShmPool *pool = &PwPools[i];

		if (pool->in_use && (pool->dboid == dboid || pool->roleoid == roleoid))
			clients += pool->clients;
	}
	for (int i = 0; i < PwControl->max_slots; i++)
	{
		const PwShmSlot *slot = &PwSlots[i];

		if (slot->pid == 0 || slot->pool == PW_NONE)
			continue;
		if (PwPools[slot->pool].dboid == dboid ||
			PwPools[slot->pool].roleoid == roleoid)
			slots++;
	}
	LWLockRelease(&PwControl->lock);

	backends = OidIsValid(dboid) ? CountDBConnections(dboid)
		: CountUserBackends(roleoid);
	return clients + Max(backends - slots, 0) >= limit;
}

/*
 * Fill in a report.
 */
static void
fail(PwReport *why, int sqlstate, char *message)
{
	why->sqlstate = sqlstate;
	why->message = message;
}
