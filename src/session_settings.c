/*-------------------------------------------------------------------------
 *
 * session_settings.c
 *	  What a client has set in its session, taken along from slot to slot.
 *
 * Runs in: slots.
 *
 * However a setting was changed for the session, by SET, set_config(), in a
 * function or a trigger: afterwards its source is PGC_S_SESSION.  So after
 * anything that can have changed settings we look at all of them, which takes
 * about a microsecond, and write down those with that source, in the order of
 * names: the list.  To exchange one client's list for another's we walk over
 * both, and set or reset what differs.  This happens outside of a transaction,
 * where guc.c neither stacks values nor looks into catalogs, as it does when
 * the configuration is read again.  What RESET goes back to is the business of
 * startup_settings.c.
 *
 * Permissions
 * -----------
 *
 * Whoever was allowed to set a value keeps it, as in any session: we set it
 * with superuser's rights, and then note as its setter who that was.  Who the
 * user is (session_authorization and role) is set as in a parallel worker,
 * whose leader's role may have been dropped since: from the OID.
 *
 * Placeholders
 * ------------
 *
 * A setting that no module has defined is part of the session even without a
 * value; see guc_access.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "guc_access.h"
#include "session_settings.h"

/* A setting of the list.  Its name and its value follow, as strings. */
typedef struct PwSavedSetting
{
	uint32		size;			/* bytes, to the next one */
	GucContext	scontext;		/* of whoever has set it, */
	Oid			srole;			/* and who that was */
	Oid			roleid;			/* for the settings that are a role */
	bool		is_superuser;	/* that role */
	bool		is_null;		/* has no value, but exists */
	bool		is_identity;	/* "session_authorization" or "role" */
	bool		is_transactions;	/* see is_transactions() */
} PwSavedSetting;

#define saved_name(saved) ((const char *) ((saved) + 1))
#define saved_value(saved) (saved_name(saved) + strlen(saved_name(saved)) + 1)
#define saved_next(saved) ((const PwSavedSetting *) ((const char *) (saved) + (saved)->size))

/* The list in force, unless settings_touched. */
static StringInfoData in_force;
static bool settings_touched = false;
static bool settings_changed = false;

static void allow_temp_buffers(void);
static void look_at_settings(void);
static bool belongs_to_session(const struct config_generic *setting);
static bool is_transactions(const char *name);
static void append_setting(struct config_generic *setting);
static void note_identity(PwSavedSetting *saved, const char *name);
static void apply_identity(const char *part, size_t len);
static const PwSavedSetting *find_saved(const char *list, size_t len, const char *name);
static bool is_same(const PwSavedSetting *a, const PwSavedSetting *b);
static void set_identity(const PwSavedSetting *saved);
static void apply_one(const PwSavedSetting *saved);
static void set_value(struct config_generic *setting, const PwSavedSetting *saved);
static void create_without_value(const char *name);
static void take_back(const PwSavedSetting *saved);
static void reset(const char *name);

void
pw_settings_init(void)
{
	initStringInfo(&in_force);
	allow_temp_buffers();
}

/*
 * Temporary buffers stay with the backend, so PostgreSQL does not let a session
 * change their number once it has used temporary tables.  Here it may have been
 * another session.
 */
static void
allow_temp_buffers(void)
{
	((struct config_int *) pw_guc_find("temp_buffers"))->check_hook = NULL;
}

void
pw_settings_touch(void)
{
	settings_touched = settings_changed = true;
}

bool
pw_settings_changed(void)
{
	return settings_changed;
}

void
pw_settings_capture(StringInfo part)
{
	look_at_settings();
	settings_changed = false;
	appendBinaryStringInfo(part, in_force.data, in_force.len);
}

/*
 * Bring "in_force" up to date.
 */
static void
look_at_settings(void)
{
	int			count;
	struct config_generic **settings;

	if (!settings_touched)
		return;
	settings_touched = false;

	resetStringInfo(&in_force);
	settings = pw_guc_variables(&count);
	for (int i = 0; i < count; i++)
		if (belongs_to_session(settings[i]))
			append_setting(settings[i]);
}

/*
 * The seed of random() is not the value of "seed".
 */
static bool
belongs_to_session(const struct config_generic *setting)
{
	if (setting->source != PGC_S_SESSION)
		return (setting->flags & GUC_CUSTOM_PLACEHOLDER) != 0 &&
			setting->source == PGC_S_DEFAULT && pw_placeholder_is_own(setting);
	return strcmp(setting->name, "seed") != 0;
}

/*
 * Characteristics of a transaction are settings too.  Each transaction starts
 * with others, but when SET has left them with the source of a session, that
 * remains.
 */
static bool
is_transactions(const char *name)
{
	static const char *const names[] = {
		"transaction_deferrable", "transaction_isolation", "transaction_read_only",
	};

	for (int i = 0; i < lengthof(names); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

static void
append_setting(struct config_generic *setting)
{
	int			start = in_force.len;
	PwSavedSetting saved;

	memset(&saved, 0, sizeof(saved));
	saved.scontext = setting->scontext;
	saved.srole = setting->srole;
	saved.is_transactions = is_transactions(setting->name);
	note_identity(&saved, setting->name);
	appendBinaryStringInfo(&in_force, (char *) &saved, sizeof(saved));
	appendStringInfoString(&in_force, setting->name);
	appendStringInfoChar(&in_force, '\0');
	if (saved.is_identity && !OidIsValid(saved.roleid))
		appendStringInfoString(&in_force, "none");
	else if (!saved.is_transactions)
		saved.is_null = !pw_guc_append_value(&in_force, setting);
	appendStringInfoChar(&in_force, '\0');
	while (in_force.len % MAXIMUM_ALIGNOF != 0)
		appendStringInfoChar(&in_force, '\0');
	saved.size = in_force.len - start;
	memcpy(in_force.data + start, &saved, sizeof(saved));
}

/*
 * SET SESSION AUTHORIZATION ends SET ROLE, and does not tell guc.c.
 */
static void
note_identity(PwSavedSetting *saved, const char *name)
{
	if (strcmp(name, "session_authorization") == 0)
	{
		saved->is_identity = true;
		saved->roleid = GetSessionUserId();
		saved->is_superuser = GetSessionUserIsSuperuser();
	}
	else if (strcmp(name, "role") == 0)
	{
		saved->is_identity = true;
		saved->roleid = GetCurrentRoleId();
		saved->is_superuser = current_role_is_superuser;
	}
}

void
pw_settings_apply(const char *part, size_t len)
{
	const PwSavedSetting *old;
	const PwSavedSetting *new = (const PwSavedSetting *) part;
	const char *old_end;
	const char *new_end = part + len;

	look_at_settings();
	settings_changed = false;
	if (in_force.len == len && memcmp(in_force.data, part, len) == 0)
		return;

	/* if this fails, we have to look at what there is */
	settings_touched = true;
	apply_identity(part, len);
	old = (const PwSavedSetting *) in_force.data;
	old_end = in_force.data + in_force.len;
	while ((const char *) old < old_end || (const char *) new < new_end)
	{
		int			order = (const char *) old >= old_end ? 1 :
		(const char *) new >= new_end ? -1 :
		pw_guc_compare_names(saved_name(old), saved_name(new));

		if (order < 0 && !old->is_identity)
			take_back(old);
		if (order >= 0 && !new->is_identity && (order > 0 || !is_same(old, new)))
			apply_one(new);
		if (order <= 0)
			old = saved_next(old);
		if (order >= 0)
			new = saved_next(new);
	}
	resetStringInfo(&in_force);
	appendBinaryStringInfo(&in_force, part, len);
	settings_touched = false;
}

/*
 * Who the user is comes before everything else, and in this order.
 */
static void
apply_identity(const char *part, size_t len)
{
	static const char *const names[] = {"session_authorization", "role"};
	bool		differs = false;

	for (int i = 0; i < lengthof(names); i++)
		if (!is_same(find_saved(in_force.data, in_force.len, names[i]),
					 find_saved(part, len, names[i])))
			differs = true;
	if (!differs)
		return;

	reset("role");
	reset("session_authorization");
	for (int i = 0; i < lengthof(names); i++)
	{
		const PwSavedSetting *saved = find_saved(part, len, names[i]);

		if (saved != NULL)
			set_identity(saved);
	}
}

static const PwSavedSetting *
find_saved(const char *list, size_t len, const char *name)
{
	const PwSavedSetting *saved = (const PwSavedSetting *) list;

	for (; (const char *) saved < list + len; saved = saved_next(saved))
		if (saved->is_identity && strcmp(saved_name(saved), name) == 0)
			return saved;
	return NULL;
}

static bool
is_same(const PwSavedSetting *a, const PwSavedSetting *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return a->size == b->size && memcmp(a, b, a->size) == 0;
}

/*
 * Become a user as parallel workers do: first in fact, then in guc.c, whose
 * check hooks take a process that InitializingParallelWorker at its word.
 */
static void
set_identity(const PwSavedSetting *saved)
{
	if (strcmp(saved_name(saved), "role") == 0)
		SetCurrentRoleId(saved->roleid, saved->is_superuser);
	else
		SetSessionAuthorization(saved->roleid, saved->is_superuser);
	PG_TRY();
	{
		InitializingParallelWorker = true;
		set_value(pw_guc_find(saved_name(saved)), saved);
	}
	PG_FINALLY();
	{
		InitializingParallelWorker = false;
	}
	PG_END_TRY();
}

static void
apply_one(const PwSavedSetting *saved)
{
	struct config_generic *setting = pw_guc_find(saved_name(saved));
	MemoryContext oldcontext = CurrentMemoryContext;

	/* finding the conversion functions takes a look into the catalog */
	bool		in_transaction = strcmp(saved_name(saved), "client_encoding") == 0;

	if (saved->is_transactions)
	{
		setting->source = PGC_S_SESSION;
		return;
	}
	if (setting == NULL)
	{
		pw_placeholder_show(saved_name(saved));
		setting = pw_guc_find(saved_name(saved));
	}
	if (saved->is_null)
	{
		create_without_value(saved_name(saved));
		return;
	}
	if (in_transaction)
		StartTransactionCommand();
	set_value(setting, saved);
	if (in_transaction)
		CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
}

/*
 * "setting" is NULL if there is none of that name yet.  There may still be none
 * afterwards: a library that another client has used here may have reserved the
 * prefix.
 */
static void
set_value(struct config_generic *setting, const PwSavedSetting *saved)
{
	(void) set_config_option(saved_name(saved), saved_value(saved), PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SET, true, setting == NULL ? DEBUG1 : ERROR, false);
	if (setting == NULL)
		setting = pw_guc_find(saved_name(saved));
	if (setting == NULL)
		return;
	setting->scontext = saved->scontext;
	setting->srole = saved->srole;
}

/*
 * A placeholder may exist without a value, after SET LOCAL for example.
 */
static void
create_without_value(const char *name)
{
	if (pw_guc_find(name) == NULL)
		(void) set_config_option(name, "", PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SET, true, DEBUG1, false);
	reset(name);
}

/*
 * The next client has not set this.
 */
static void
take_back(const PwSavedSetting *saved)
{
	struct config_generic *setting = pw_guc_find(saved_name(saved));

	if (saved->is_transactions)
	{
		setting->source = setting->reset_source;
		return;
	}
	reset(saved_name(saved));
	if (setting != NULL && setting->source == PGC_S_DEFAULT && pw_placeholder_is_own(setting))
		pw_placeholder_hide(setting);
}

static void
reset(const char *name)
{
	if (pw_guc_find(name) != NULL)
		(void) set_config_option(name, NULL, PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SET, true, ERROR, false);
}
