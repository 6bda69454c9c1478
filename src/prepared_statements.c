/*-------------------------------------------------------------------------
 *
 * prepared_statements.c
 *	  The prepared statements of the client that is attached.
 *
 * Runs in: slots.
 *
 * Named statements
 * ----------------
 *
 * Their names are in a hash table of prepare.c, which core_tables.c finds for
 * us, and which only ever holds those of the attached client: so they do not
 * collide, pg_prepared_statements shows the client's own, and DEALLOCATE ALL
 * reaches no others.  What is behind the names is statement_cache.c's.
 *
 * "saved_names" is our own list of what is in that table, in the order of names,
 * as bytes that can be saved: one PwSavedStatement after the other.  When the
 * client's successor has the same statements, as is usual, nothing has to be
 * done but to exchange the counts.
 *
 * The unnamed statement
 * ---------------------
 *
 * It outlives its transaction too, and postgres.c keeps it in a static variable
 * that nobody can reach.  Mostly that does not matter: the next client begins
 * with a simple query, which drops it, or with a Parse that replaces it.  For
 * a client that begins with anything else PostgresMain() reads messages of our
 * own first (injection.c): a Close, or, if the client had an unnamed statement
 * where it comes from, a Parse of an empty text, of whose plan source we then
 * make that statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/prepare.h"
#include "common/hashfn.h"
#include "utils/memutils.h"

#include "core_tables.h"
#include "prepared_statements.h"
#include "protocol.h"
#include "statement_cache.h"

/* A named statement in a saved session. */
typedef struct PwSavedStatement
{
	uint32		size;			/* bytes, to the next one */
	bool		from_sql;		/* PREPARE, not a Parse message */
	char		name[NAMEDATALEN];
	TimestampTz prepare_time;
	uint64		hash;			/* of the definition */
	PwPlanCounts counts;
	/* the PwDefinition follows */
} PwSavedStatement;

#define saved_definition(saved) ((PwDefinition *) ((saved) + 1))
#define saved_next(saved) ((PwSavedStatement *) ((char *) (saved) + (saved)->size))

/* PostgreSQL's table of names */
static HTAB *names = NULL;

/* A name in there, and what is behind it. */
typedef struct PwInstalled
{
	PreparedStatement *entry;	/* of PostgreSQL's table */
	PwPlan	   *plan;
} PwInstalled;

/* What is in there, as last looked at: as it is saved, and where it is. */
static StringInfoData saved_names;
static PwInstalled *installed = NULL;
static int	ninstalled = 0;
static int	installed_size = 32;

/* Names were added or removed since; their number when we last counted. */
static bool names_changed = false;
static long names_count = 0;

/* Plans have been used since. */
static bool plans_used = false;

/*
 * The unnamed statement in this backend: its plan source, NULL if there is
 * none, and its definition, to be saved.
 */
static CachedPlanSource *unnamed_source = NULL;
static MemoryContextCallback unnamed_dropped;
static StringInfoData unnamed;
static bool unnamed_is_noted = true;	/* the bytes are those of the source */

/*
 * Is that the client's?  While it is not, "wanted" is what the client has: its
 * statement from elsewhere, or none.
 */
static bool unnamed_is_own = true;
static StringInfoData wanted_unnamed;
static bool unnamed_changed = false;

/* Messages of our own are on their way to set that right. */
static bool unnamed_expected = false;

static void note_unnamed(CachedPlanSource *source);
static void forget_unnamed(void *arg);
static void describe_unnamed(void);
static void look_at_names(void);
static int	compare_names(const void *a, const void *b);
static void append_statement(StringInfo part, const PwInstalled *name);
static void save_counts(void);
static void remove_unwanted(const char *part, size_t len);
static void install_wanted(void);
static bool is_same(const PwSavedStatement *a, const PwSavedStatement *b);
static void reserve_installed(int count);

void
pw_statements_init(void)
{
	initStringInfo(&saved_names);
	initStringInfo(&unnamed);
	initStringInfo(&wanted_unnamed);
	installed = palloc(sizeof(PwInstalled) * installed_size);
	pw_statement_cache_init();
	names = pw_core_table(PW_TABLE_PREPARED_STATEMENTS);
	if (names == NULL)
		elog(FATAL, "table of prepared statements not found");
	unnamed_dropped.func = forget_unnamed;
}

/*
 * A Parse message has been carried out.  It was for a named statement if there
 * are more names than before.
 */
void
pw_statements_parsed(void)
{
	CachedPlanSource *source = pw_newest_plan_source();

	if (hash_get_num_entries(names) > names_count)
	{
		(void) pw_plan_enter(source, false);
		pw_statements_removed();
	}
	else
		note_unnamed(source);
}

void
pw_statement_prepared(const char *name)
{
	(void) pw_plan_enter(FetchPreparedStatement(name, true)->plansource, true);
	pw_statements_removed();
}

void
pw_statements_removed(void)
{
	long		count = hash_get_num_entries(names);

	names_changed = names_changed || count != names_count;
	names_count = count;
}

void
pw_statements_used(void)
{
	plans_used = true;
}

bool
pw_statements_changed(void)
{
	return names_changed || plans_used;
}

void
pw_statements_capture(StringInfo part)
{
	if (names_changed)
		look_at_names();
	else if (plans_used)
		save_counts();
	names_changed = plans_used = false;
	appendBinaryStringInfo(part, saved_names.data, saved_names.len);
}

/*
 * Bring our list up to date with the table of names.
 */
static void
look_at_names(void)
{
	PreparedStatement *statement;
	HASH_SEQ_STATUS scan;

	ninstalled = 0;
	hash_seq_init(&scan, names);
	while ((statement = hash_seq_search(&scan)) != NULL)
	{
		PwPlan	   *plan = pw_plan_of(statement->plansource);

		/* an error right behind its making has kept it from us */
		if (plan == NULL)
			plan = pw_plan_enter(statement->plansource, statement->from_sql);
		reserve_installed(ninstalled + 1);
		installed[ninstalled].entry = statement;
		installed[ninstalled++].plan = plan;
	}
	qsort(installed, ninstalled, sizeof(PwInstalled), compare_names);

	resetStringInfo(&saved_names);
	for (int i = 0; i < ninstalled; i++)
		append_statement(&saved_names, &installed[i]);
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(((const PwInstalled *) a)->entry->stmt_name,
				  ((const PwInstalled *) b)->entry->stmt_name);
}

static void
append_statement(StringInfo part, const PwInstalled *name)
{
	PreparedStatement *statement = name->entry;
	PwPlan	   *plan = name->plan;
	const PwDefinition *definition = pw_plan_definition(plan);
	PwSavedStatement saved;

	memset(&saved, 0, sizeof(saved));
	saved.size = sizeof(saved) + MAXALIGN(definition->size);
	saved.from_sql = statement->from_sql;
	strlcpy(saved.name, statement->stmt_name, NAMEDATALEN);
	saved.prepare_time = statement->prepare_time;
	saved.hash = pw_plan_hash(plan);
	pw_plan_get_counts(plan, &saved.counts);
	appendBinaryStringInfo(part, (char *) &saved, sizeof(saved));
	appendBinaryStringInfo(part, (const char *) definition, definition->size);
	while (part->len % MAXIMUM_ALIGNOF != 0)
		appendStringInfoChar(part, '\0');
}

/*
 * A count that has changed tells that the statement was used.
 */
static void
save_counts(void)
{
	PwSavedStatement *saved = (PwSavedStatement *) saved_names.data;

	for (int i = 0; i < ninstalled; i++)
	{
		PwPlanCounts counts;

		pw_plan_get_counts(installed[i].plan, &counts);
		if (counts.generic_plans != saved->counts.generic_plans ||
			counts.custom_plans != saved->counts.custom_plans)
		{
			pw_plan_used(installed[i].plan);
			saved->counts = counts;
		}
		saved = saved_next(saved);
	}
}

/*
 * Both lists are in the order of names.  First everything goes that is not
 * wanted, then what is missing comes: what is taken from one name may be needed
 * for another.
 */
void
pw_statements_apply(const char *part, size_t len)
{
	if (names_changed)
		look_at_names();

	/* until all is well, and if this fails */
	names_changed = true;
	remove_unwanted(part, len);
	resetStringInfo(&saved_names);
	appendBinaryStringInfo(&saved_names, part, len);
	install_wanted();
	names_count = hash_get_num_entries(names);
	names_changed = plans_used = false;
	pw_statement_cache_trim();
}

/*
 * Make "installed" a list of the wanted names, and keep in it what there is
 * already: the entry of a name that was in the old list, and its plan if it
 * was for the same statement.  The rest goes.
 */
static void
remove_unwanted(const char *part, size_t len)
{
	const PwSavedStatement *old = (const PwSavedStatement *) saved_names.data;
	const PwSavedStatement *wanted = (const PwSavedStatement *) part;
	const char *end = part + len;
	PwInstalled *before = palloc(sizeof(PwInstalled) * Max(ninstalled, 1));
	int			nbefore = ninstalled;
	int			i = 0;

	memcpy(before, installed, sizeof(PwInstalled) * nbefore);
	ninstalled = 0;
	while (i < nbefore || (const char *) wanted < end)
	{
		int			order = i >= nbefore ? 1 : (const char *) wanted >= end ? -1 :
		strcmp(old->name, wanted->name);
		PwInstalled found = {NULL, NULL};

		if (order == 0)
			found = before[i];
		else if (order < 0)
			(void) hash_search(names, old->name, HASH_REMOVE, NULL);
		if (order < 0 || (order == 0 && !is_same(old, wanted)))
		{
			pw_plan_release(before[i].plan);
			found.plan = NULL;
		}
		if (order >= 0)
		{
			reserve_installed(ninstalled + 1);
			installed[ninstalled++] = found;
			wanted = saved_next(wanted);
		}
		if (order <= 0)
		{
			old = saved_next(old);
			i++;
		}
	}
	pfree(before);
}

/*
 * Fill in what is missing in "installed", and for all names what is this
 * client's own.
 */
static void
install_wanted(void)
{
	PwSavedStatement *saved = (PwSavedStatement *) saved_names.data;

	for (int i = 0; i < ninstalled; i++)
	{
		PwInstalled *name = &installed[i];

		if (name->plan == NULL)
			name->plan = pw_plan_take(saved_definition(saved), saved->hash);
		if (name->entry == NULL)
			name->entry = hash_search(names, saved->name, HASH_ENTER, NULL);
		name->entry->plansource = pw_plan_source(name->plan);
		name->entry->from_sql = saved->from_sql;
		name->entry->prepare_time = saved->prepare_time;
		pw_plan_set_counts(name->plan, &saved->counts);
		saved = saved_next(saved);
	}
}

static bool
is_same(const PwSavedStatement *a, const PwSavedStatement *b)
{
	const PwDefinition *definition_a = saved_definition(a);
	const PwDefinition *definition_b = saved_definition(b);

	return a->hash == b->hash && definition_a->size == definition_b->size &&
		memcmp(definition_a, definition_b, definition_a->size) == 0;
}

static void
reserve_installed(int count)
{
	if (count <= installed_size)
		return;
	installed_size = count * 2;
	installed = repalloc(installed, sizeof(PwInstalled) * installed_size);
}

/*
 * A Parse message has made a new unnamed statement.
 */
static void
note_unnamed(CachedPlanSource *source)
{
	unnamed_source = source;
	unnamed_is_noted = false;
	unnamed_is_own = unnamed_changed = !unnamed_expected;
	MemoryContextRegisterResetCallback(source->context, &unnamed_dropped);
}

/*
 * Reset callback: PostgreSQL drops the unnamed statement, because the client
 * has said something that does.
 */
static void
forget_unnamed(void *arg)
{
	unnamed_source = NULL;
	unnamed_is_noted = false;
	unnamed_is_own = unnamed_changed = !unnamed_expected;
}

bool
pw_unnamed_changed(void)
{
	return unnamed_changed;
}

void
pw_unnamed_capture(StringInfo part)
{
	const StringInfoData *current = &wanted_unnamed;

	if (unnamed_is_own)
	{
		describe_unnamed();
		current = &unnamed;
	}
	appendBinaryStringInfo(part, current->data, current->len);
	unnamed_changed = false;
}

/*
 * Bring "unnamed" up to date.
 */
static void
describe_unnamed(void)
{
	if (unnamed_is_noted)
		return;
	resetStringInfo(&unnamed);
	unnamed_is_noted = true;
	if (unnamed_source == NULL)
		return;
	pw_plan_source_describe(&unnamed, unnamed_source);
}

void
pw_unnamed_apply(const char *part, size_t len)
{
	describe_unnamed();
	unnamed_is_own = unnamed.len == len && memcmp(unnamed.data, part, len) == 0;
	unnamed_changed = false;
	resetStringInfo(&wanted_unnamed);
	if (!unnamed_is_own)
		appendBinaryStringInfo(&wanted_unnamed, part, len);
}

void
pw_unnamed_void(void)
{
	if (unnamed_is_own || wanted_unnamed.len == 0)
		return;
	resetStringInfo(&wanted_unnamed);
	unnamed_changed = true;
}

bool
pw_unnamed_message(StringInfo messages)
{
	if (unnamed_is_own || (wanted_unnamed.len == 0 && unnamed_source == NULL))
		return false;
	unnamed_expected = true;
	if (wanted_unnamed.len == 0)
		pw_build_close_unnamed(messages);
	else
		pw_build_parse_unnamed(messages);
	pw_build_sync(messages);
	return true;
}

void
pw_unnamed_settle(void)
{
	unnamed_expected = false;
	if (wanted_unnamed.len > 0 && unnamed_source != NULL)
	{
		pw_plan_source_become(unnamed_source, (const PwDefinition *) wanted_unnamed.data);
		unnamed_is_noted = false;
	}
	unnamed_is_own = true;
	unnamed_changed = false;
}
