/*-------------------------------------------------------------------------
 *
 * statement_cache.c
 *	  The plan sources of prepared statements, shared by the clients of a slot.
 *
 * Runs in: slots.
 *
 * A prepared statement is a name and a plan source.  Names come and go with
 * the clients (prepared_statements.c); plan sources stay, so that the next
 * client with the same statement finds it parsed and planned.
 *
 * What is the same
 * ----------------
 *
 * Two statements are the same if their definitions are, byte by byte: text,
 * types of parameters, the current user, the settings that parse analysis may
 * look at, and the columns of the result.  The last is not redundant: after
 * DDL, a client that has prepared a statement before must be told that its
 * result has changed, and one that has prepared the same text afterwards must
 * not.
 *
 * A plan source is behind one name only: a client that has the same statement
 * under two names needs two of them, since DEALLOCATE drops what is behind the
 * name.
 *
 * Preparing again
 * ---------------
 *
 * A client that comes to a slot which lacks one of its statements gets a plan
 * source that has been parsed, but is marked as invalid.  PostgreSQL analyzes
 * such a one at its first use, as it does after DDL, compares its result with
 * the old one, and reports to the client whatever is wrong.  So taking a
 * statement along needs no catalog, no transaction and no lock, and cannot
 * fail for a reason that is the statement's.
 *
 * What is kept
 * ------------
 *
 * The plans of the pool_worker.statement_cache_size statements that were used
 * last.  Of others, as long as they are not too many, we keep what parsing has
 * made: clients have many statements that they rarely use, and all of them go
 * with the client.  Which clients are remembered, and with them what they
 * refer to, is decided by statement_lists.c.
 *
 * Entries leave the cache when their plan source is dropped, by us or by
 * PostgreSQL: an entry lives in its plan source's memory context, and a reset
 * callback of that context takes it out.
 *
 * XXX An analysis that is repeated under other settings (after DDL, say) is
 * shared with clients whose settings are still the old ones.  It matters only
 * for constants in the text whose meaning depends on a setting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "commands/prepare.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "compat.h"
#include "settings.h"
#include "statement_cache.h"

/* A column of a result, as far as PostgreSQL compares it. */
typedef struct PwColumn
{
	Oid			type;
	int32		typmod;
	Oid			collation;
	int32		ndims;
	int16		len;
	bool		byval;
	char		align;
	char		storage;
	char		compression;
	int16		unused;			/* zero */
	NameData	name;
} PwColumn;

/* Allocated in the plan source's own context. */
struct PwPlan
{
	CachedPlanSource *source;
	PwDefinition *definition;
	uint64		hash;			/* of the definition */
	dlist_node	same_hash;		/* in PwPlanBucket */
	dlist_head	refs;			/* of PwPlanRef, the newest first */
	dlist_node	spare;			/* in spare_plans, if there are none */
	bool		planned;		/* has been used, and may have a plan */
	dlist_node	planned_lru;	/* in planned, if so */
	MemoryContextCallback dropped;
};

typedef struct PwPlanBucket
{
	uint64		hash;			/* key */
	dlist_head	plans;
} PwPlanBucket;

typedef struct PwPlanPointer
{
	CachedPlanSource *source;	/* key */
	PwPlan	   *plan;
} PwPlanPointer;

/* The settings that the meaning of a text can depend on. */
static const char *const parse_settings[] = {
	"array_nulls", "backslash_quote", "DateStyle", "default_text_search_config",
	"IntervalStyle", "lc_monetary", "lc_numeric", "lc_time", "search_path",
	"standard_conforming_strings", "TimeZone", "timezone_abbreviations",
	"transform_null_equals", "xmloption",
};

static HTAB *by_hash = NULL;
static HTAB *by_source = NULL;

static int	nplans = 0;

/* those that nobody refers to, the latest at the head */
static dlist_head spare_plans = DLIST_STATIC_INIT(spare_plans);

/* those with plans, the one used last at the head */
static dlist_head planned = DLIST_STATIC_INIT(planned);
static int	nplanned = 0;

/* For each plan, so many statements are kept parsed. */
#define PARSED_PER_PLAN 4

/* PostgreSQL's list of saved plan sources */
static dlist_head *saved_plans = NULL;

static void find_saved_plans(void);
static PwPlan *enter(CachedPlanSource *source, PwDefinition *definition, uint64 hash);
static void forget_dropped(void *arg);
static void forget_planned(PwPlan *plan);
static void drop_plan(PwPlan *plan);
static void drop_analysis(CachedPlanSource *source);
static size_t definition_size(CachedPlanSource *source);
static void define(PwDefinition *definition, CachedPlanSource *source);
static void define_columns(PwColumn *columns, TupleDesc result);
static uint64 environment_hash(void);
static PwPlan *find_free(bool *lost, const PwDefinition *definition, uint64 hash);
static bool is_referred_by(PwPlan *plan, bool *lost);
static CachedPlanSource *rebuild(const PwDefinition *definition);
static RawStmt *parse_text(const PwDefinition *definition, const char *text);
static List *parse_as_then(const PwDefinition *definition, const char *text);
static RawStmt *find_prepare(List *statements, const PwDefinition *definition);
static TupleDesc rebuild_result(const PwDefinition *definition);
static bool result_is_fixed(const PwDefinition *definition);
static void complete_utility(CachedPlanSource *source);
static Oid *definition_types(const PwDefinition *definition);
static PwColumn *definition_columns(const PwDefinition *definition);
static char *definition_text(const PwDefinition *definition);

void
pw_statement_cache_init(void)
{
	HASHCTL		buckets = {.keysize = sizeof(uint64),.entrysize = sizeof(PwPlanBucket)};
	HASHCTL		pointers = {.keysize = sizeof(CachedPlanSource *),
	.entrysize = sizeof(PwPlanPointer)};

	by_hash = hash_create("pool_worker plans", 64, &buckets, HASH_ELEM | HASH_BLOBS);
	by_source = hash_create("pool_worker plan sources", 64, &pointers, HASH_ELEM | HASH_BLOBS);
	find_saved_plans();
}

/*
 * Saving a plan source puts it at the tail of plancache.c's list, so that what
 * follows it is the head of that list.  The statement that we prepare for this
 * also makes prepare.c create its table of names, which core_tables.c finds.
 */
static void
find_saved_plans(void)
{
	const char *name = "pool_worker";
	CachedPlanSource *source = CreateCachedPlan(NULL, "", CMDTAG_UNKNOWN);

	CompleteCachedPlan(source, NIL, NULL, NULL, 0, NULL, NULL, 0, true);
	StorePreparedStatement(name, source, false);
	saved_plans = (dlist_head *) source->node.next;
	DropPreparedStatement(name, true);
}

CachedPlanSource *
pw_newest_plan_source(void)
{
	CachedPlanSource *source = dlist_tail_element(CachedPlanSource, node, saved_plans);

	Assert(source->magic == CACHEDPLANSOURCE_MAGIC);
	return source;
}

PwPlan *
pw_plan_enter(CachedPlanSource *source, bool from_sql)
{
	PwDefinition *definition = MemoryContextAllocZero(source->context, definition_size(source));
	PwPlan	   *plan;

	define(definition, source);
	definition->role = GetUserId();
	definition->environment = environment_hash();
	if (from_sql)
	{
		definition->location = source->raw_parse_tree->stmt_location;
		definition->length = source->raw_parse_tree->stmt_len;
	}
	plan = enter(source, definition,
				 hash_bytes_extended((unsigned char *) definition, definition->size, 0));
	pw_plan_used(plan);
	return plan;
}

void
pw_plan_used(PwPlan *plan)
{
	if (plan->planned)
		dlist_move_head(&planned, &plan->planned_lru);
	else
	{
		dlist_push_head(&planned, &plan->planned_lru);
		nplanned++;
	}
	plan->planned = true;
}

static PwPlan *
enter(CachedPlanSource *source, PwDefinition *definition, uint64 hash)
{
	PwPlan	   *plan = MemoryContextAllocZero(source->context, sizeof(PwPlan));
	PwPlanBucket *bucket;
	PwPlanPointer *pointer;
	bool		found;

	plan->source = source;
	plan->definition = definition;
	plan->hash = hash;
	bucket = hash_search(by_hash, &hash, HASH_ENTER, &found);
	if (!found)
		dlist_init(&bucket->plans);

	/* the oldest comes first, so that all clients find the same one */
	dlist_push_tail(&bucket->plans, &plan->same_hash);
	pointer = hash_search(by_source, &source, HASH_ENTER, NULL);
	pointer->plan = plan;
	dlist_init(&plan->refs);
	dlist_push_head(&spare_plans, &plan->spare);
	nplans++;

	plan->dropped.func = forget_dropped;
	plan->dropped.arg = plan;
	MemoryContextRegisterResetCallback(source->context, &plan->dropped);
	return plan;
}

/*
 * Reset callback: PostgreSQL drops a plan source.  Must not fail.
 */
static void
forget_dropped(void *arg)
{
	PwPlan	   *plan = (PwPlan *) arg;
	PwPlanBucket *bucket = hash_search(by_hash, &plan->hash, HASH_FIND, NULL);

	while (!dlist_is_empty(&plan->refs))
	{
		PwPlanRef  *ref = dlist_head_element(PwPlanRef, node, &plan->refs);

		*ref->lost = true;
		pw_plan_unrefer(ref);
	}
	dlist_delete(&plan->same_hash);
	if (bucket != NULL && dlist_is_empty(&bucket->plans))
		(void) hash_search(by_hash, &plan->hash, HASH_REMOVE, NULL);
	(void) hash_search(by_source, &plan->source, HASH_REMOVE, NULL);
	dlist_delete(&plan->spare);
	nplans--;
	forget_planned(plan);
}

static void
forget_planned(PwPlan *plan)
{
	if (!plan->planned)
		return;
	dlist_delete(&plan->planned_lru);
	plan->planned = false;
	nplanned--;
}

PwPlan *
pw_plan_of(CachedPlanSource *source)
{
	PwPlanPointer *pointer = hash_search(by_source, &source, HASH_FIND, NULL);

	return pointer == NULL ? NULL : pointer->plan;
}

static size_t
definition_size(CachedPlanSource *source)
{
	return sizeof(PwDefinition) + sizeof(Oid) * source->num_params +
		sizeof(PwColumn) * (source->resultDesc == NULL ? 0 : source->resultDesc->natts) +
		strlen(source->query_string) + 1;
}

/*
 * Write down what a plan source is, into definition_size() bytes of zeros; all
 * but where it comes from and what was in force then.
 */
static void
define(PwDefinition *definition, CachedPlanSource *source)
{
	TupleDesc	result = source->resultDesc;

	definition->size = definition_size(source);
	definition->location = -1;
	definition->nparams = source->num_params;
	definition->ncolumns = result == NULL ? -1 : result->natts;
	definition->cursor_options = source->cursor_options;
	definition->standard_strings = standard_conforming_strings;
	definition->backslash_quote = backslash_quote;
	if (source->num_params > 0)
		memcpy(definition_types(definition), source->param_types,
			   sizeof(Oid) * source->num_params);
	if (result != NULL)
		define_columns(definition_columns(definition), result);
	strcpy(definition_text(definition), source->query_string);
}

static void
define_columns(PwColumn *columns, TupleDesc result)
{
	for (int i = 0; i < result->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(result, i);

		columns[i].type = attribute->atttypid;
		columns[i].typmod = attribute->atttypmod;
		columns[i].collation = attribute->attcollation;
		columns[i].ndims = attribute->attndims;
		columns[i].len = attribute->attlen;
		columns[i].byval = attribute->attbyval;
		columns[i].align = attribute->attalign;
		columns[i].storage = attribute->attstorage;
		columns[i].compression = attribute->attcompression;
		namestrcpy(&columns[i].name, NameStr(attribute->attname));
	}
}

static uint64
environment_hash(void)
{
	uint64		hash = 0;

	for (int i = 0; i < lengthof(parse_settings); i++)
	{
		const char *value = GetConfigOption(parse_settings[i], true, false);

		if (value != NULL)
			hash = hash_combine64(hash, hash_bytes_extended((const unsigned char *) value,
															strlen(value), 0));
	}
	return hash;
}

void
pw_plan_refer(PwPlanRef *ref, bool *lost, const PwDefinition *definition, uint64 hash)
{
	PwPlan	   *plan = find_free(lost, definition, hash);

	if (plan == NULL)
	{
		CachedPlanSource *source = rebuild(definition);
		PwDefinition *copy = MemoryContextAlloc(source->context, definition->size);

		memcpy(copy, definition, definition->size);
		plan = enter(source, copy, hash);
		SaveCachedPlan(source);
	}
	if (dlist_is_empty(&plan->refs))
		dlist_delete(&plan->spare);
	ref->plan = plan;
	ref->lost = lost;
	dlist_push_head(&plan->refs, &ref->node);
}

void
pw_plan_unrefer(PwPlanRef *ref)
{
	PwPlan	   *plan = ref->plan;

	if (plan == NULL)
		return;
	ref->plan = NULL;
	dlist_delete(&ref->node);
	if (dlist_is_empty(&plan->refs))
		dlist_push_head(&spare_plans, &plan->spare);
}

static PwPlan *
find_free(bool *lost, const PwDefinition *definition, uint64 hash)
{
	PwPlanBucket *bucket = hash_search(by_hash, &hash, HASH_FIND, NULL);
	dlist_iter	iter;

	if (bucket == NULL)
		return NULL;
	dlist_foreach(iter, &bucket->plans)
	{
		PwPlan	   *plan = dlist_container(PwPlan, same_hash, iter.cur);

		if (!is_referred_by(plan, lost) && plan->definition->size == definition->size &&
			memcmp(plan->definition, definition, definition->size) == 0)
			return plan;
	}
	return NULL;
}

/*
 * By this owner, who is the last to have referred to anything?
 */
static bool
is_referred_by(PwPlan *plan, bool *lost)
{
	return !dlist_is_empty(&plan->refs) &&
		dlist_head_element(PwPlanRef, node, &plan->refs)->lost == lost;
}

/*
 * Make a plan source from its definition: complete, but not valid.
 */
static CachedPlanSource *
rebuild(const PwDefinition *definition)
{
	CachedPlanSource *source = CreateCachedPlan(NULL, "", CMDTAG_UNKNOWN);

	source->is_complete = true;
	pw_plan_source_become(source, definition);
	return source;
}

void
pw_plan_source_become(CachedPlanSource *source, const PwDefinition *definition)
{
	RawStmt    *parsed = parse_text(definition, definition_text(definition));
	MemoryContext oldcontext = MemoryContextSwitchTo(source->context);

	drop_analysis(source);
	source->raw_parse_tree = copyObject(parsed);
	source->query_string = pstrdup(definition_text(definition));
	MemoryContextSetIdentifier(source->context, source->query_string);
	source->commandTag = parsed == NULL ? CMDTAG_UNKNOWN : CreateCommandTag(parsed->stmt);
	source->num_params = definition->nparams;
	if (definition->nparams > 0)
	{
		source->param_types = palloc(sizeof(Oid) * definition->nparams);
		memcpy(source->param_types, definition_types(definition),
			   sizeof(Oid) * definition->nparams);
	}
	source->cursor_options = definition->cursor_options;
	source->fixed_result = result_is_fixed(definition);
	source->resultDesc = rebuild_result(definition);
	if (parsed == NULL || !pw_plan_can_be_invalid(parsed))
		complete_utility(source);
	MemoryContextSwitchTo(oldcontext);
}

void
pw_plan_source_describe(StringInfo out, CachedPlanSource *source)
{
	size_t		size = definition_size(source);

	enlargeStringInfo(out, size);
	memset(out->data + out->len, 0, size);
	define((PwDefinition *) (out->data + out->len), source);
	out->len += size;
}

/*
 * The statement of a definition, as PostgreSQL has parsed it; NULL if its text
 * is empty.
 */
static RawStmt *
parse_text(const PwDefinition *definition, const char *text)
{
	List	   *statements = parse_as_then(definition, text);

	if (definition->location >= 0)
		return find_prepare(statements, definition);
	return statements == NIL ? NULL : linitial_node(RawStmt, statements);
}

/*
 * Parse a text under the settings that parsing itself looks at, as they were
 * when the statement was prepared.  Warnings have been given then.
 */
static List *
parse_as_then(const PwDefinition *definition, const char *text)
{
	bool		now_standard_strings = standard_conforming_strings;
	int			now_backslash_quote = backslash_quote;
	bool		now_warning = escape_string_warning;
	List	   *statements = NIL;

	PG_TRY();
	{
		standard_conforming_strings = definition->standard_strings;
		backslash_quote = definition->backslash_quote;
		escape_string_warning = false;
		statements = raw_parser(text, RAW_PARSE_DEFAULT);
	}
	PG_FINALLY();
	{
		standard_conforming_strings = now_standard_strings;
		backslash_quote = now_backslash_quote;
		escape_string_warning = now_warning;
	}
	PG_END_TRY();
	return statements;
}

/*
 * PREPARE keeps the whole text that it was a part of, and where in there it
 * was.  Make of it what PrepareQuery() does.
 */
static RawStmt *
find_prepare(List *statements, const PwDefinition *definition)
{
	ListCell   *cell;

	foreach(cell, statements)
	{
		RawStmt    *statement = lfirst_node(RawStmt, cell);

		if (statement->stmt_location != definition->location ||
			!IsA(statement->stmt, PrepareStmt))
			continue;
		statement->stmt = ((PrepareStmt *) statement->stmt)->query;
		return statement;
	}
	elog(ERROR, "PREPARE not found at its place in the text");
}

static bool
result_is_fixed(const PwDefinition *definition)
{
	PwColumn   *columns = definition_columns(definition);

	/* what an anonymous record looks like is known in its own backend only */
	for (int i = 0; i < definition->ncolumns; i++)
		if (columns[i].type == RECORDOID && columns[i].typmod >= 0)
			return false;
	return true;
}

/*
 * TupleDescInitEntry() would look up the types, which may be gone.
 */
static TupleDesc
rebuild_result(const PwDefinition *definition)
{
	PwColumn   *columns = definition_columns(definition);
	TupleDesc	result;

	if (definition->ncolumns < 0)
		return NULL;
	result = CreateTemplateTupleDesc(definition->ncolumns);
	for (int i = 0; i < definition->ncolumns; i++)
	{
		PwColumn   *column = &columns[i];
		Form_pg_attribute attribute = TupleDescAttr(result, i);

		TupleDescInitBuiltinEntry(result, i + 1, NameStr(column->name), INT4OID,
								  column->typmod, column->ndims);
		attribute->atttypid = column->type;
		attribute->attcollation = column->collation;
		attribute->attlen = column->len;
		attribute->attbyval = column->byval;
		attribute->attalign = column->align;
		attribute->attstorage = column->storage;
		attribute->attcompression = column->compression;
		pw_attribute_changed(result, i);
	}
	return result;
}

/*
 * A statement that PostgreSQL never analyzes again must be valid from the
 * start.  Its analysis looks at nothing.
 */
static void
complete_utility(CachedPlanSource *source)
{
	source->query_context = AllocSetContextCreate(source->context, "CachedPlanQuery",
												  ALLOCSET_START_SMALL_SIZES);
	MemoryContextSwitchTo(source->query_context);
	if (source->raw_parse_tree != NULL)
		source->query_list = pg_analyze_and_rewrite_fixedparams(copyObject(source->raw_parse_tree),
																source->query_string,
																source->param_types,
																source->num_params, NULL);
	source->is_valid = true;
	MemoryContextSwitchTo(source->context);
}

CachedPlanSource *
pw_plan_source(PwPlan *plan)
{
	return plan->source;
}

const PwDefinition *
pw_plan_definition(PwPlan *plan)
{
	return plan->definition;
}

uint64
pw_plan_hash(PwPlan *plan)
{
	return plan->hash;
}

void
pw_plan_get_counts(CachedPlanSource *source, PwPlanCounts *counts)
{
	counts->generic_plans = source->num_generic_plans;
	counts->custom_plans = source->num_custom_plans;
	counts->total_custom_cost = source->total_custom_cost;
	counts->generic_cost = source->generic_cost;
}

/*
 * The cost of a generic plan is known to whoever has that plan.
 */
void
pw_plan_set_counts(CachedPlanSource *source, const PwPlanCounts *counts)
{
	source->num_generic_plans = counts->generic_plans;
	source->num_custom_plans = counts->custom_plans;
	source->total_custom_cost = counts->total_custom_cost;
	if (source->gplan == NULL)
		source->generic_cost = counts->generic_cost;
}

bool
pw_statement_cache_trim(void)
{
	int64		parsed_limit = (int64) pw_statement_cache_size * PARSED_PER_PLAN;

	while (nplanned > pw_statement_cache_size)
		drop_plan(dlist_tail_element(PwPlan, planned_lru, &planned));
	while (nplans > parsed_limit && !dlist_is_empty(&spare_plans))
		DropCachedPlan(dlist_tail_element(PwPlan, spare, &spare_plans)->source);
	return nplans <= parsed_limit;
}

/*
 * Drop what PostgreSQL makes again when the statement is used: its generic plan
 * and its analysis.
 */
static void
drop_plan(PwPlan *plan)
{
	CachedPlanSource *source = plan->source;

	forget_planned(plan);
	if (source->raw_parse_tree != NULL && pw_plan_can_be_invalid(source->raw_parse_tree))
		drop_analysis(source);
}

static void
drop_analysis(CachedPlanSource *source)
{
	source->is_valid = false;
	if (source->gplan != NULL)
	{
		CachedPlan *generic = source->gplan;

		source->gplan = NULL;
		ReleaseCachedPlan(generic, NULL);
	}
	if (source->query_context != NULL)
		MemoryContextDelete(source->query_context);
	source->query_context = NULL;
	source->query_list = NIL;
	source->relationOids = NIL;
	source->invalItems = NIL;
	source->search_path = NULL;
}

static Oid *
definition_types(const PwDefinition *definition)
{
	return (Oid *) (definition + 1);
}

static PwColumn *
definition_columns(const PwDefinition *definition)
{
	return (PwColumn *) (definition_types(definition) + definition->nparams);
}

static char *
definition_text(const PwDefinition *definition)
{
	return (char *) (definition_columns(definition) + Max(definition->ncolumns, 0));
}
