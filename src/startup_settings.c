/*-------------------------------------------------------------------------
 *
 * startup_settings.c
 *	  The settings that clients ask for in their startup packets, in a backend
 *	  that serves one client after the other.
 *
 * Runs in: slots.
 *
 * A setting from a startup packet has the source PGC_S_CLIENT, and with it
 * comes the value that RESET goes back to.  guc.c has no way to take such a
 * value back, because no connection ever needed one.  So before we give a
 * client's value to a setting, we note what it was and where that came from:
 * the baseline.  Restoring it means setting the value once more, with the
 * sources lowered first so that guc.c accepts it; the fields of config_generic
 * that this needs are the same in PostgreSQL 15 to 18.
 *
 * Most clients differ in their application_name, if at all.  So if two lists have
 * the same names, and other values only of settings that are of no consequence
 * for others, nothing is restored and only these are set.
 *
 * What the client sets later, in its session, is session_settings.c's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc_access.h"
#include "startup_settings.h"

/* What a setting was before the first client asked for another value. */
typedef struct PwBaseline
{
	char	   *name;
	char	   *value;			/* NULL for a string without one */
	bool		is_placeholder; /* did not exist; the rest is void */
	GucSource	source;
	GucSource	reset_source;
	GucContext	scontext;
	GucContext	reset_scontext;
	bool		overridden;		/* a client's value is in force */
} PwBaseline;

/*
 * Settings that anybody may set, whose check hooks look at nothing but the value,
 * and which no other setting depends on.
 */
static const char *const simple_settings[] = {
	"application_name", "DateStyle", "extra_float_digits", "search_path",
	"statement_timeout", "TimeZone",
};

static List *baselines = NIL;

/* the list in force, in TopMemoryContext */
static char *applied = NULL;
static size_t applied_len = 0;

/* Set while baselines are being restored, and left so by an error. */
static bool restoring = false;

/*
 * DateStyle before the settings of role and database.  A value may have one of
 * its two parts only, and takes the other from the value before; for a startup
 * setting that is the server's, whatever the role has.
 */
static char *server_datestyle = NULL;

/* PgReloadTime when the baselines were last known to be right */
static TimestampTz baseline_reload_time = 0;

static void change(const char *old, size_t old_len, const char *new, size_t new_len);
static bool differ_simply(const char *old, size_t old_len, const char *new, size_t new_len);
static bool is_simple(const char *name);
static bool occurs_before(const char *list, const char *name);
static const char *next_string(const char *string);
static void apply_differences(const char *old, const char *new, size_t new_len);
static void restore_all(void);
static void apply_list(const char *settings, size_t len);
static void apply_one(const char *name, const char *value, GucContext context, bool first);
static PwBaseline *remember_baseline(const char *name);
static void take_placeholder_back(const char *name);
static void restore_baseline(PwBaseline *baseline);
static void lower_source(struct config_generic *setting, GucSource source,
						 GucSource reset_source);

void
pw_startup_settings_note_server(void)
{
	server_datestyle = MemoryContextStrdup(TopMemoryContext,
										   GetConfigOption("datestyle", false, false));
}

bool
pw_startup_settings_differ(const char *settings, size_t len)
{
	return applied == NULL || len != applied_len || memcmp(settings, applied, len) != 0;
}

void
pw_startup_settings_apply(const char *settings, size_t len)
{
	char	   *old = applied;
	char	   *new;

	if (!pw_startup_settings_differ(settings, len))
		return;

	new = MemoryContextAlloc(TopMemoryContext, Max(len, 1));
	memcpy(new, settings, len);

	/* if this fails, the next call takes back what has been applied */
	applied = NULL;
	PG_TRY();
	{
		change(old, applied_len, new, len);
		applied = new;
		applied_len = len;
	}
	PG_FINALLY();
	{
		if (old != NULL)
			pfree(old);
		if (applied == NULL)
			pfree(new);
	}
	PG_END_TRY();
}

/*
 * From one list to another; "old" is NULL if it is not known what is applied.
 */
static void
change(const char *old, size_t old_len, const char *new, size_t new_len)
{
	MemoryContext oldcontext = CurrentMemoryContext;

	if (old != NULL && differ_simply(old, old_len, new, new_len))
	{
		apply_differences(old, new, new_len);
		return;
	}

	/* some check hooks look things up in catalogs */
	StartTransactionCommand();
	restore_all();
	apply_list(new, new_len);
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Do these lists have the same names, in the same order and each of them once,
 * and values that differ for simple_settings only?
 */
static bool
differ_simply(const char *old, size_t old_len, const char *new, size_t new_len)
{
	const char *old_end = old + old_len;
	const char *new_end = new + new_len;
	const char *list = new;

	while (old < old_end && new < new_end)
	{
		const char *name = new;

		if (strcmp(old, name) != 0 || occurs_before(list, name))
			return false;
		old = next_string(old);
		new = next_string(new);
		if (strcmp(old, new) != 0 && !is_simple(name))
			return false;
		old = next_string(old);
		new = next_string(new);
	}
	return old == old_end && new == new_end;
}

static bool
is_simple(const char *name)
{
	for (int i = 0; i < lengthof(simple_settings); i++)
		if (pg_strcasecmp(name, simple_settings[i]) == 0)
			return true;
	return false;
}

/*
 * Is the name at this place of a list also at an earlier one?
 */
static bool
occurs_before(const char *list, const char *name)
{
	for (; list < name; list = next_string(next_string(list)))
		if (pg_strcasecmp(list, name) == 0)
			return true;
	return false;
}

static const char *
next_string(const char *string)
{
	return string + strlen(string) + 1;
}

static void
apply_differences(const char *old, const char *new, size_t new_len)
{
	const char *end = new + new_len;

	while (new < end)
	{
		const char *name = new;

		old = next_string(old);
		new = next_string(new);
		if (strcmp(old, new) != 0)
			apply_one(name, new, PGC_BACKEND, true);
		old = next_string(old);
		new = next_string(new);
	}
}

bool
pw_startup_settings_are_stuck(void)
{
	return restoring;
}

bool
pw_startup_settings_are_stale(void)
{
	return baseline_reload_time != PgReloadTime;
}

/*
 * While a client's value is in force, a reload of the configuration does not
 * reach the value below it.  Take the client's values away and read the
 * configuration again; the caller applies the client's settings anew.
 */
void
pw_startup_settings_reload(void)
{
	if (!pw_startup_settings_are_stale())
		return;
	if (baselines != NIL)
	{
		MemoryContext oldcontext = CurrentMemoryContext;

		StartTransactionCommand();
		restore_all();
		CommitTransactionCommand();
		MemoryContextSwitchTo(oldcontext);
		if (applied != NULL)
			pfree(applied);
		applied = NULL;
		list_free_deep(baselines);
		baselines = NIL;
		ProcessConfigFile(PGC_SIGHUP);
	}
	baseline_reload_time = PgReloadTime;
}

static void
apply_list(const char *settings, size_t len)
{
	const char *next = settings;

	while (next < settings + len)
	{
		const char *name = next;
		const char *value = next_string(name);

		apply_one(name, value, superuser() ? PGC_SU_BACKEND : PGC_BACKEND,
				  !occurs_before(settings, name));
		next = next_string(value);
	}
}

/*
 * Set one setting as process_startup_options() does.  It may have been set
 * before by the same list.
 */
static void
apply_one(const char *name, const char *value, GucContext context, bool first)
{
	PwBaseline *baseline = remember_baseline(name);

	/* after that, because a hidden one does not exist for this client */
	if (pw_guc_find(name) == NULL)
		pw_placeholder_show(name);
	baseline->overridden = true;
	if (first && pg_strcasecmp(name, "datestyle") == 0)
		SetConfigOption(name, server_datestyle, PGC_BACKEND, PGC_S_CLIENT);
	(void) set_config_option(name, value, context, PGC_S_CLIENT, GUC_ACTION_SET, true, 0,
							 false);
}

/*
 * Note what a setting is, unless we have.
 */
static PwBaseline *
remember_baseline(const char *name)
{
	struct config_generic *setting;
	PwBaseline *baseline;
	const char *value;
	MemoryContext oldcontext;
	ListCell   *cell;

	foreach(cell, baselines)
	{
		baseline = (PwBaseline *) lfirst(cell);
		if (pg_strcasecmp(baseline->name, name) == 0)
			return baseline;
	}

	setting = pw_guc_find(name);
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	baseline = palloc0(sizeof(PwBaseline));
	baselines = lappend(baselines, baseline);
	baseline->name = pstrdup(name);
	baseline->is_placeholder = setting == NULL;
	if (setting == NULL)
	{
		MemoryContextSwitchTo(oldcontext);
		return baseline;
	}
	value = GetConfigOption(setting->name, false, false);
	baseline->value = value == NULL ? NULL : pstrdup(value);
	baseline->source = setting->source;
	baseline->reset_source = setting->reset_source;
	baseline->scontext = setting->scontext;
	baseline->reset_scontext = setting->reset_scontext;
	MemoryContextSwitchTo(oldcontext);
	return baseline;
}

static void
restore_all(void)
{
	ListCell   *cell;

	restoring = true;
	foreach(cell, baselines)
	{
		PwBaseline *baseline = (PwBaseline *) lfirst(cell);

		if (baseline->overridden)
			restore_baseline(baseline);
		baseline->overridden = false;
	}
	restoring = false;
}

/*
 * Bring a setting back to its baseline.  The context PGC_POSTMASTER passes all
 * of guc.c's checks of who may set what; the value was in force before.
 */
static void
restore_baseline(PwBaseline *baseline)
{
	struct config_generic *setting = pw_guc_find(baseline->name);

	if (setting == NULL)
		return;
	if (baseline->is_placeholder)
	{
		take_placeholder_back(baseline->name);
		return;
	}
	lower_source(setting, PGC_S_DEFAULT, PGC_S_DEFAULT);
	(void) set_config_option(baseline->name, baseline->value, PGC_POSTMASTER,
							 PGC_S_CLIENT, GUC_ACTION_SET, true, ERROR, true);
	lower_source(setting, baseline->source, baseline->reset_source);
	setting->scontext = baseline->scontext;
	setting->reset_scontext = baseline->reset_scontext;
}

/*
 * A setting that did not exist: take its value, and hide it unless a module
 * has defined it in between.
 */
static void
take_placeholder_back(const char *name)
{
	struct config_generic *setting = pw_guc_find(name);

	lower_source(setting, PGC_S_DEFAULT, PGC_S_DEFAULT);
	(void) set_config_option(name, NULL, PGC_POSTMASTER, PGC_S_DEFAULT,
							 GUC_ACTION_SET, true, ERROR, true);
	if (pw_placeholder_is_own(setting))
		pw_placeholder_hide(setting);
}

static void
lower_source(struct config_generic *setting, GucSource source, GucSource reset_source)
{
	pw_guc_set_source(setting, source);
	setting->reset_source = reset_source;
}
