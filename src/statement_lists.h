/*-------------------------------------------------------------------------
 *
 * statement_lists.h
 *	  Which plan sources of this slot are behind the names of which client.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_STATEMENT_LISTS_H
#define PW_STATEMENT_LISTS_H

#include "statement_cache.h"

/*
 * A named statement as it is saved.  The PwDefinition follows, and then the
 * next one.
 */
typedef struct PwSavedStatement
{
	uint32		size;			/* bytes, to the next one; aligned */
	uint32		unused;			/* zero */
	uint64		hash;			/* of the definition */
	char		name[NAMEDATALEN];
} PwSavedStatement;

#define pw_saved_definition(saved) ((PwDefinition *) ((saved) + 1))
#define pw_saved_next(saved) ((PwSavedStatement *) ((char *) (saved) + (saved)->size))

/* The same in this slot. */
typedef struct PwStatementList PwStatementList;

/* To be called once. */
extern void pw_statement_lists_init(void);

/*
 * A number for the statements that a client has now.  No other list ever had
 * it, in any slot.
 */
extern uint64 pw_statement_list_number(void);

/*
 * The list with this number, remembered or made from what was saved: "count"
 * statements in the order of their names.  Valid until the next call of
 * anything that may drop a plan source.
 */
extern PwStatementList *pw_statement_list_get(uint64 number, int count,
											  const PwSavedStatement *saved);

extern int	pw_statement_list_count(const PwStatementList *list);

/* Its names, one string behind the other, and what is behind them. */
extern const char *pw_statement_list_names(const PwStatementList *list);
extern CachedPlanSource *const *pw_statement_list_sources(const PwStatementList *list);

/*
 * Forget lists and drop plans of which there are too many; but not of the list
 * that was asked for last, which has to be the one that is in force.
 */
extern void pw_statement_lists_trim(void);

#endif							/* PW_STATEMENT_LISTS_H */
