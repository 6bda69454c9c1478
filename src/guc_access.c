/*-------------------------------------------------------------------------
 *
 * guc_access.c
 *	  PostgreSQL's settings, as the variables that they are.
 *
 * Runs in: slots; the lookups in every process.
 *
 * Hiding placeholders
 * -------------------
 *
 * A placeholder exists from its first use to the end of the backend, and
 * current_setting() tells one that has no value from one that does not exist.
 * So that the next client does not find what the last one has created, we
 * rename it: a name with a control character at its end can neither be written
 * in SQL nor be set.
 *
 * When a client creates a placeholder of which we have a hidden one, we do not
 * notice, and there are two.  That is harmless as long as the one that is shown
 * is the first in the array, but a backend that has thousands should be
 * replaced.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/shortest_dec.h"
#include "utils/memutils.h"

#include "compat.h"
#include "guc_access.h"

#define HIDDEN_MARK '\001'

/* A slot that has hidden so many placeholders is replaced. */
#define MANY_PLACEHOLDERS 1000

typedef struct PwHidden
{
	struct config_generic *setting;
	const char *original;		/* setting->name before, */
	char	   *name;			/* and what it said */
} PwHidden;

static List *hidden = NIL;

static int	compare_to_setting(const void *name, const void *setting);
static bool is_hidden(const struct config_generic *setting);
static PwHidden *find_hidden(const char *name);
static struct config_generic *first_hidden(const char *name);

int
pw_guc_compare_names(const char *a, const char *b)
{
	for (; *a != '\0' && *b != '\0'; a++, b++)
	{
		char		ca = *a >= 'A' && *a <= 'Z' ? *a + ('a' - 'A') : *a;
		char		cb = *b >= 'A' && *b <= 'Z' ? *b + ('a' - 'A') : *b;

		if (ca != cb)
			return ca - cb;
	}
	return (*a != '\0') - (*b != '\0');
}

struct config_generic *
pw_guc_find(const char *name)
{
	struct config_generic *setting;
	struct config_generic **settings;
	struct config_generic **found;
	int			count;

	if (pw_guc_find_option(name, &setting))
		return setting;
	settings = pw_guc_variables(&count);
	found = bsearch(name, settings, count, sizeof(struct config_generic *), compare_to_setting);
	return found == NULL ? NULL : *found;
}

static int
compare_to_setting(const void *name, const void *setting)
{
	return pw_guc_compare_names(name, (*(struct config_generic *const *) setting)->name);
}

/*
 * As serialize_variable() in guc.c does for parallel workers, but a placeholder
 * may have to show it.
 */
bool
pw_guc_append_value(StringInfo out, struct config_generic *setting)
{
	switch (setting->vartype)
	{
		case PGC_BOOL:
			appendStringInfoString(out, *((struct config_bool *) setting)->variable ?
								   "true" : "false");
			return true;
		case PGC_INT:
			appendStringInfo(out, "%d", *((struct config_int *) setting)->variable);
			return true;
		case PGC_REAL:
			{
				char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];

				(void) double_to_shortest_decimal_buf(*((struct config_real *) setting)->variable,
													  digits);
				appendStringInfoString(out, digits);
				return true;
			}
		case PGC_ENUM:
			{
				struct config_enum *conf = (struct config_enum *) setting;

				appendStringInfoString(out, config_enum_lookup_by_value(conf, *conf->variable));
				return true;
			}
		case PGC_STRING:
			{
				const char *value = *((struct config_string *) setting)->variable;

				if (value != NULL)
					appendStringInfoString(out, value);
				return value != NULL;
			}
	}
	return false;
}

bool
pw_placeholder_is_own(const struct config_generic *setting)
{
	return (setting->flags & GUC_CUSTOM_PLACEHOLDER) != 0 &&
		(setting->reset_source == PGC_S_DEFAULT || setting->reset_source == PGC_S_CLIENT) &&
		!is_hidden(setting);
}

static bool
is_hidden(const struct config_generic *setting)
{
	size_t		len = strlen(setting->name);

	return len > 0 && setting->name[len - 1] == HIDDEN_MARK;
}

void
pw_placeholder_hide(struct config_generic *setting)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	PwHidden   *entry = palloc(sizeof(PwHidden));

	Assert(setting->source == PGC_S_DEFAULT);
	entry->setting = setting;
	entry->original = setting->name;
	entry->name = pstrdup(setting->name);
	pw_guc_hide(setting, HIDDEN_MARK);

	/* a library that reserves the prefix would warn of it */
	setting->flags &= ~GUC_CUSTOM_PLACEHOLDER;
	hidden = lappend(hidden, entry);
	MemoryContextSwitchTo(oldcontext);
}

void
pw_placeholder_show(const char *name)
{
	PwHidden   *entry = find_hidden(name);

	if (entry == NULL)
		return;
	pw_guc_unhide(entry->setting, entry->original, entry->name);
	entry->setting->flags |= GUC_CUSTOM_PLACEHOLDER;
	hidden = list_delete_ptr(hidden, entry);
	pfree(entry->name);
	pfree(entry);
}

/*
 * One of the hidden ones of this name.  If guc.c keeps all settings in an array
 * it must be the first in there: another would end up behind a name with a mark,
 * where guc.c does not find it.
 */
static PwHidden *
find_hidden(const char *name)
{
	struct config_generic *first = PW_GUC_IS_ARRAY ? first_hidden(name) : NULL;
	ListCell   *cell;

	foreach(cell, hidden)
	{
		PwHidden   *entry = (PwHidden *) lfirst(cell);

		if (PW_GUC_IS_ARRAY ? entry->setting == first :
			pw_guc_compare_names(entry->name, name) == 0)
			return entry;
	}
	return NULL;
}

static struct config_generic *
first_hidden(const char *name)
{
	int			low = 0;
	int			high;
	struct config_generic **settings = pw_guc_variables(&high);
	int			count = high;

	/* no name sorts between this one and this one with a mark */
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (pw_guc_compare_names(settings[middle]->name, name) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == count || !is_hidden(settings[low]) ||
		strlen(settings[low]->name) != strlen(name) + 1 ||
		pg_strncasecmp(settings[low]->name, name, strlen(name)) != 0)
		return NULL;
	return settings[low];
}

bool
pw_placeholders_are_many(void)
{
	return list_length(hidden) > MANY_PLACEHOLDERS;
}
