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
 * What is saved are a number for the list of statements, which changes when they
 * do; what each statement is (PwSavedStatement), which a slot reads once for
 * each number (statement_lists.c); and what is to be exchanged each time
 * (PwSavedUse), which is brought up to date at its place if nothing else has
 * changed.
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
#include "statement_lists.h"

/* The part begins with this, unless it is empty. */
typedef struct PwSavedStatements
{
	uint64		number;			/* of the list, see statement_lists.h */
	uint64		count;
	/* that many PwSavedUse follow, then that many PwSavedStatement */
} PwSavedStatements;

/* What changes when a statement is used, and what is its client's own. */
typedef struct PwSavedUse
{
	PwPlanCounts counts;
	TimestampTz prepare_time;
	uint64		from_sql;		/* PREPARE, not a Parse message: 1, else 0 */
} PwSavedUse;

#define saved_uses(part) ((PwSavedUse *) ((PwSavedStatements *) (part) + 1))

/* PostgreSQL's table of names */
static HTAB *names = NULL;

/*
 * What is in there, in the order of names, as last looked at; the number under
 * which that is saved, 0 if it has none yet; and, if it was put there from a
 * list, that list.
 */
static PreparedStatement **entries = NULL;
static int	nentries = 0;
static int	entries_size = 32;
static uint64 number = 0;
static const PwStatementList *installed = NULL;

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
static void append_use(StringInfo part, const PreparedStatement *statement);
static void append_statement(StringInfo part, const PreparedStatement *statement);
static void install(const PwStatementList *list);
static void remove_all_names(void);
static void exchange_uses(const PwSavedUse *uses);
static void reserve_entries(int count);

void
pw_statements_init(void)
{
	initStringInfo(&unnamed);
	initStringInfo(&wanted_unnamed);
	entries = palloc(sizeof(PreparedStatement *) * entries_size);
	pw_statement_cache_init();
	pw_statement_lists_init();
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
	/* a DISCARD ALL that failed half-way has not told us */
	pw_statements_removed();
	return names_changed || plans_used;
}

void
pw_statements_capture(StringInfo part)
{
	PwSavedStatements saved;

	if (names_changed)
		look_at_names();
	names_changed = plans_used = false;
	if (nentries == 0)
		return;
	if (number == 0)
		number = pw_statement_list_number();
	saved.number = number;
	saved.count = nentries;
	appendBinaryStringInfo(part, (char *) &saved, sizeof(saved));
	for (int i = 0; i < nentries; i++)
		append_use(part, entries[i]);
	for (int i = 0; i < nentries; i++)
		append_statement(part, entries[i]);
}

/*
 * Bring our list up to date with the table of names.
 */
static void
look_at_names(void)
{
	PreparedStatement *statement;
	HASH_SEQ_STATUS scan;

	number = 0;
	installed = NULL;
	nentries = 0;
	reserve_entries(hash_get_num_entries(names));
	hash_seq_init(&scan, names);
	while ((statement = hash_seq_search(&scan)) != NULL)
		entries[nentries++] = statement;
	qsort(entries, nentries, sizeof(PreparedStatement *), compare_names);

	/* an error right behind its making has kept it from us */
	for (int i = 0; i < nentries; i++)
		if (pw_plan_of(entries[i]->plansource) == NULL)
			(void) pw_plan_enter(entries[i]->plansource, entries[i]->from_sql);
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp((*(PreparedStatement *const *) a)->stmt_name,
				  (*(PreparedStatement *const *) b)->stmt_name);
}

static void
append_use(StringInfo part, const PreparedStatement *statement)
{
	PwSavedUse	use;

	pw_plan_get_counts(statement->plansource, &use.counts);
	use.prepare_time = statement->prepare_time;
	use.from_sql = statement->from_sql;
	appendBinaryStringInfo(part, (char *) &use, sizeof(use));
}

static void
append_statement(StringInfo part, const PreparedStatement *statement)
{
	PwPlan	   *plan = pw_plan_of(statement->plansource);
	const PwDefinition *definition = pw_plan_definition(plan);
	PwSavedStatement saved;

	memset(&saved, 0, sizeof(saved));
	saved.size = sizeof(saved) + MAXALIGN(definition->size);
	saved.hash = pw_plan_hash(plan);
	strlcpy(saved.name, statement->stmt_name, NAMEDATALEN);
	appendBinaryStringInfo(part, (char *) &saved, sizeof(saved));
	appendBinaryStringInfo(part, (const char *) definition, definition->size);
	while (part->len % MAXIMUM_ALIGNOF != 0)
		appendStringInfoChar(part, '\0');
}

/*
 * A count that has changed tells that the statement was used.
 */
bool
pw_statements_update(char *part, size_t len)
{
	if (names_changed || len == 0)
		return false;

	for (int i = 0; i < nentries; i++)
	{
		PwSavedUse *use = &saved_uses(part)[i];
		PwPlanCounts counts;

		pw_plan_get_counts(entries[i]->plansource, &counts);
		if (counts.generic_plans == use->counts.generic_plans &&
			counts.custom_plans == use->counts.custom_plans)
			continue;
		pw_plan_used(pw_plan_of(entries[i]->plansource));
		use->counts = counts;
	}
	plans_used = false;
	return true;
}

void
pw_statements_apply(const char *part, size_t len)
{
	const PwSavedStatements *saved = (const PwSavedStatements *) part;
	const PwStatementList *list;

	pw_statements_removed();
	if (names_changed)
		look_at_names();
	if (len == 0)
		remove_all_names();
	else
	{
		list = pw_statement_list_get(saved->number, saved->count,
									 (const PwSavedStatement *) (saved_uses(part) + saved->count));
		if (list != installed)
			install(list);
		number = saved->number;
		exchange_uses(saved_uses(part));
	}
	names_changed = plans_used = false;
	pw_statement_lists_trim();
}

/*
 * Make the table of names that of a list.  Both are in the order of names.
 */
static void
install(const PwStatementList *list)
{
	int			count = pw_statement_list_count(list);
	const char *name = pw_statement_list_names(list);
	CachedPlanSource *const *sources = pw_statement_list_sources(list);
	PreparedStatement **before;
	int			nbefore = nentries;
	int			done = 0;

	reserve_entries(nbefore + count);
	before = entries + count;
	memmove(before, entries, sizeof(PreparedStatement *) * nbefore);

	/* until all is well, and if this fails */
	names_changed = true;
	for (nentries = 0; nentries < count; nentries++)
	{
		PreparedStatement *entry = NULL;

		while (entry == NULL && done < nbefore)
		{
			int			order = strcmp(before[done]->stmt_name, name);

			if (order > 0)
				break;
			if (order == 0)
				entry = before[done];
			else
				(void) hash_search(names, before[done]->stmt_name, HASH_REMOVE, NULL);
			done++;
		}
		if (entry == NULL)
			entry = hash_search(names, name, HASH_ENTER, NULL);
		entry->plansource = sources[nentries];
		entries[nentries] = entry;
		name += strlen(name) + 1;
	}
	for (; done < nbefore; done++)
		(void) hash_search(names, before[done]->stmt_name, HASH_REMOVE, NULL);
	names_count = count;
	installed = list;
}

static void
remove_all_names(void)
{
	for (int i = 0; i < nentries; i++)
		(void) hash_search(names, entries[i]->stmt_name, HASH_REMOVE, NULL);
	nentries = 0;
	names_count = 0;
	number = 0;
	installed = NULL;
}

static void
exchange_uses(const PwSavedUse *uses)
{
	for (int i = 0; i < nentries; i++)
	{
		entries[i]->from_sql = uses[i].from_sql != 0;
		entries[i]->prepare_time = uses[i].prepare_time;
		pw_plan_set_counts(entries[i]->plansource, &uses[i].counts);
	}
}

static void
reserve_entries(int count)
{
	if (count <= entries_size)
		return;
	entries_size = count * 2;
	entries = repalloc(entries, sizeof(PreparedStatement *) * entries_size);
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
