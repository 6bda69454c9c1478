/*-------------------------------------------------------------------------
 *
 * statement_cache.h
 *	  The plan sources of prepared statements, shared by the clients of a slot.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_STATEMENT_CACHE_H
#define PW_STATEMENT_CACHE_H

#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "utils/plancache.h"

/*
 * Everything that decides what a prepared statement is, in one piece of
 * memory: two statements with the same bytes are the same.  Behind the fixed
 * part come nparams Oids, ncolumns PwColumns, and the text.
 */
typedef struct PwDefinition
{
	uint32		size;			/* bytes, with all that follows */
	Oid			role;			/* current user when it was prepared */
	uint64		environment;	/* hash of settings that parsing depends on */
	int32		location;		/* of PREPARE in the text; -1 if the text is
								 * from a Parse message */
	int32		length;			/* of PREPARE, 0 for the rest of the text */
	int32		nparams;
	int32		ncolumns;		/* of the result; -1 if it returns none */
	int32		cursor_options;
	int8		standard_strings;	/* standard_conforming_strings */
	int8		backslash_quote;	/* as an integer */
	int16		unused;			/* zero */
} PwDefinition;

/* What a plan source has learned about its plans, on behalf of one client. */
typedef struct PwPlanCounts
{
	int64		generic_plans;
	int64		custom_plans;
	double		total_custom_cost;
	double		generic_cost;
} PwPlanCounts;

/* A plan source in the cache. */
typedef struct PwPlan PwPlan;

/*
 * A plan source that its owner wants to find again.  The cache drops it only
 * when nobody refers to it; if PostgreSQL does, the owner is told.
 */
typedef struct PwPlanRef
{
	PwPlan	   *plan;			/* NULL if it has been dropped */
	bool	   *lost;			/* set when it is; tells owners apart */
	dlist_node	node;			/* in the plan's list */
} PwPlanRef;

extern void pw_statement_cache_init(void);

/*
 * The plan source that the last Parse message or PREPARE of this backend has
 * made.
 */
extern CachedPlanSource *pw_newest_plan_source(void);

/*
 * Put a plan source that was just made, and is stored under a name, into the
 * cache.  "from_sql" tells PREPARE from a Parse message.  It leaves the cache
 * by itself when PostgreSQL drops it.
 */
extern PwPlan *pw_plan_enter(CachedPlanSource *source, bool from_sql);

/* The cache's entry for a plan source; NULL if it is not in there. */
extern PwPlan *pw_plan_of(CachedPlanSource *source);

/*
 * Refer to a plan source for this definition: one that this owner does not
 * refer to yet, or a new one, which is analyzed when it is first used.  "hash"
 * is that of the definition.  Needs no transaction.
 */
extern void pw_plan_refer(PwPlanRef *ref, bool *lost,
						  const PwDefinition *definition, uint64 hash);
extern void pw_plan_unrefer(PwPlanRef *ref);

/*
 * For the unnamed statement, which is not in the cache: append its definition,
 * which is then aligned if "out" was; and make another plan source the same,
 * to be analyzed when it is first used.
 */
extern void pw_plan_source_describe(StringInfo out, CachedPlanSource *source);
extern void pw_plan_source_become(CachedPlanSource *source, const PwDefinition *definition);

extern CachedPlanSource *pw_plan_source(PwPlan *plan);
extern const PwDefinition *pw_plan_definition(PwPlan *plan);
extern uint64 pw_plan_hash(PwPlan *plan);

extern void pw_plan_get_counts(CachedPlanSource *source, PwPlanCounts *counts);
extern void pw_plan_set_counts(CachedPlanSource *source, const PwPlanCounts *counts);

/* The statement has been used, so it may have a plan. */
extern void pw_plan_used(PwPlan *plan);

/*
 * Drop what is beyond pool_worker.statement_cache_size and behind no name now,
 * if nobody refers to it.  False if that was not enough.  To be called when
 * somebody refers to everything that is behind a name.
 */
extern bool pw_statement_cache_trim(void);

#endif							/* PW_STATEMENT_CACHE_H */
