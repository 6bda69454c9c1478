/*-------------------------------------------------------------------------
 *
 * pool_settings.c
 *	  What a setting is for one (database, role).
 *
 * Runs in: pool worker.
 *
 * Settings of a pool resolve like any setting of PostgreSQL: the server's
 * configuration, then ALTER ROLE ALL, ALTER DATABASE, ALTER ROLE, and ALTER
 * ROLE IN DATABASE ... SET, each of them over the ones before.  The worker has
 * the first of these in its own variables, and reads the others from
 * pg_db_role_setting, all rows at a time and nothing but our own settings.
 * What a session does with SET is not looked at, and refused anyway: see
 * refuse_session() in settings.c.
 *
 * Backends tell us when they have changed the catalog, see changes.c.  On a
 * standby nobody does, so there it is read again once in a while, and for the
 * last time when it is no standby any more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "guc_access.h"
#include "pool_settings.h"
#include "shared_state.h"

/* When to read again if nobody tells us of changes, or after an error, ms. */
#define READ_AGAIN_MS 900

/* What the catalog says about one setting. */
typedef struct PwOverride
{
	Oid			dboid;			/* InvalidOid: in all databases */
	Oid			roleoid;		/* InvalidOid: for all roles */
	GucSource	source;			/* says how strong it is */
	int			setting;		/* index in pw_pool_setting_info[] */
	int			value;
} PwOverride;

/* as read last: an array in a context of its own, the weakest first */
static PwOverride *overrides = NULL;
static int	noverrides = 0;
static MemoryContext overrides_context = NULL;
static uint32 read_version = 0;
static TimestampTz read_at = 0;
static bool read_in_recovery = false;

/* Set while the catalog is read, and left so by an error. */
static bool has_failed = false;

static void keep_overrides(List *found);
static List *read_catalog(void);
static List *read_row(List *found, Oid dboid, Oid roleoid, ArrayType *settings);
static GucSource source_of(Oid dboid, Oid roleoid);
static int	find_setting(const char *name);
static struct config_generic *variable_of(int setting);
static bool parse_value(int setting, const char *value, int *result);
static int	by_source(const void *left, const void *right);
static int *field_of(PwPoolSettings *settings, int setting);

/*
 * When a process connects to a database, it applies what pg_db_role_setting
 * says about that database and about its role.  In the worker, that would
 * become the value for everybody.  A value that seems to have been set for the
 * session already is left alone.
 *
 * guc.c may keep lists by source, but does not look at them meanwhile.
 */
void
pw_pool_settings_shield(bool up)
{
	static GucSource source[PW_POOL_NSETTINGS];
	static GucSource reset_source[PW_POOL_NSETTINGS];

	for (int i = 0; i < PW_POOL_NSETTINGS; i++)
	{
		struct config_generic *variable = variable_of(i);

		if (up)
		{
			source[i] = variable->source;
			reset_source[i] = variable->reset_source;
		}
		variable->source = up ? PGC_S_SESSION : source[i];
		variable->reset_source = up ? PGC_S_SESSION : reset_source[i];
	}
}

void
pw_pool_settings_refresh(bool anyway)
{
	uint32		version = pg_atomic_read_u32(&PwControl->catalog_version);
	bool		is_recent = !TimestampDifferenceExceeds(read_at, GetCurrentTimestamp(),
														READ_AGAIN_MS);

	if (!anyway && version == read_version && (is_recent || !read_in_recovery))
		return;
	if (has_failed && is_recent)
		return;

	has_failed = true;
	read_at = GetCurrentTimestamp();
	read_in_recovery = RecoveryInProgress();
	keep_overrides(read_catalog());
	has_failed = false;
	read_version = version;
}

/*
 * Replace what was read before.
 */
static void
keep_overrides(List *found)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pool settings",
												  ALLOCSET_SMALL_SIZES);
	PwOverride *copy = MemoryContextAlloc(context,
										  sizeof(PwOverride) * Max(list_length(found), 1));
	ListCell   *cell;

	overrides = copy;
	noverrides = 0;
	foreach(cell, found)
		overrides[noverrides++] = *(PwOverride *) lfirst(cell);
	qsort(overrides, noverrides, sizeof(PwOverride), by_source);
	list_free_deep(found);

	if (overrides_context != NULL)
		MemoryContextDelete(overrides_context);
	overrides_context = context;
}

/*
 * Everything that the catalog says about our settings: a list of PwOverride
 * in the current memory context.
 *
 * Without a database it cannot be read at all: finding out what the table looks
 * like takes pg_class.  Then there is only the configuration.
 */
static List *
read_catalog(void)
{
	List	   *found = NIL;
	Relation	relation;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(MyDatabaseId))
		return NIL;
	pw_catalog_begin();
	relation = table_open(DbRoleSettingRelationId, AccessShareLock);
	scan = systable_beginscan(relation, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_db_role_setting form = (Form_pg_db_role_setting) GETSTRUCT(tuple);
		bool		is_null;
		Datum		settings;

		settings = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
								RelationGetDescr(relation), &is_null);
		if (!is_null)
			found = read_row(found, form->setdatabase, form->setrole,
							 DatumGetArrayTypeP(settings));
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	pw_catalog_end();
	return found;
}

/* Add what one row says: an array of name=value. */
static List *
read_row(List *found, Oid dboid, Oid roleoid, ArrayType *settings)
{
	Datum	   *items;
	int			nitems;

	deconstruct_array(settings, TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, &nitems);
	for (int i = 0; i < nitems; i++)
	{
		char	   *name = TextDatumGetCString(items[i]);
		char	   *value = strchr(name, '=');
		PwOverride	override = {.dboid = dboid,.roleoid = roleoid};

		if (value == NULL)
			continue;
		*value++ = '\0';
		override.setting = find_setting(name);
		if (override.setting < 0 || !parse_value(override.setting, value, &override.value))
			continue;
		override.source = source_of(dboid, roleoid);
		found = lappend(found, memcpy(palloc(sizeof(PwOverride)), &override,
									  sizeof(PwOverride)));
	}
	return found;
}

static GucSource
source_of(Oid dboid, Oid roleoid)
{
	if (OidIsValid(dboid))
		return OidIsValid(roleoid) ? PGC_S_DATABASE_USER : PGC_S_DATABASE;
	return OidIsValid(roleoid) ? PGC_S_USER : PGC_S_GLOBAL;
}

/* Index in pw_pool_setting_info[], or -1. */
static int
find_setting(const char *name)
{
	for (int i = 0; i < PW_POOL_NSETTINGS; i++)
		if (pg_strcasecmp(pw_pool_setting_info[i].name, name) == 0)
			return i;
	return -1;
}

/* guc.c's own record of one of our settings; it never moves. */
static struct config_generic *
variable_of(int setting)
{
	static struct config_generic *variables[PW_POOL_NSETTINGS];

	if (variables[setting] == NULL)
		variables[setting] = pw_guc_find(pw_pool_setting_info[setting].name);
	return variables[setting];
}

/*
 * Read a value as guc.c would.  False if it is not one: ALTER ROLE has checked
 * it, but that may have been under other limits.
 */
static bool
parse_value(int setting, const char *value, int *result)
{
	struct config_generic *variable = variable_of(setting);
	struct config_int *number = (struct config_int *) variable;

	switch (variable->vartype)
	{
		case PGC_ENUM:
			return config_enum_lookup_by_name((struct config_enum *) variable,
											  value, result);
		case PGC_INT:
			return parse_int(value, result, variable->flags, NULL) &&
				*result >= number->min && *result <= number->max;
		default:
			return false;
	}
}

static int
by_source(const void *left, const void *right)
{
	return (int) ((const PwOverride *) left)->source -
		(int) ((const PwOverride *) right)->source;
}

bool
pw_pool_settings_resolve(Oid dboid, Oid roleoid, PwPoolSettings *settings)
{
	PwPoolSettings now;
	bool		changed;

	memset(&now, 0, sizeof(now));
	for (int i = 0; i < PW_POOL_NSETTINGS; i++)
	{
		*field_of(&now, i) = *pw_pool_setting_info[i].variable;
		now.source[i] = PGC_S_FILE;
	}
	for (int i = 0; i < noverrides; i++)
	{
		const PwOverride *override = &overrides[i];

		if ((OidIsValid(override->dboid) && override->dboid != dboid) ||
			(OidIsValid(override->roleoid) && override->roleoid != roleoid))
			continue;
		*field_of(&now, override->setting) = override->value;
		now.source[override->setting] = override->source;
	}

	changed = memcmp(settings, &now, sizeof(now)) != 0;
	memcpy(settings, &now, sizeof(now));
	return changed;
}

static int *
field_of(PwPoolSettings *settings, int setting)
{
	return (int *) ((char *) settings + pw_pool_setting_info[setting].offset);
}

int
pw_pool_settings_smallest(size_t offset)
{
	int			smallest = 0;

	for (int i = 0; i < PW_POOL_NSETTINGS; i++)
		if (pw_pool_setting_info[i].offset == offset)
			smallest = Max(0, *pw_pool_setting_info[i].variable);
	for (int i = 0; i < noverrides; i++)
		if (pw_pool_setting_info[overrides[i].setting].offset == offset &&
			overrides[i].value > 0 &&
			(smallest == 0 || overrides[i].value < smallest))
			smallest = overrides[i].value;
	return smallest;
}
