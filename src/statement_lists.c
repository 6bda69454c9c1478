/*-------------------------------------------------------------------------
 *
 * statement_lists.c
 *	  Which plan sources of this slot are behind the names of which client.
 *
 * Runs in: slots.
 *
 * Whenever a client has other prepared statements than before, its slot gives
 * them a number that no other list has.  When the client comes to another slot,
 * that one finds a plan source for each definition, and remembers what it has
 * found under that number.  As long as the client prepares nothing else, no
 * slot has to look at the definitions again: what is behind its names is an
 * array of pointers.
 *
 * A list whose client is gone, or has prepared something else, is never asked
 * for again; nobody tells us.  So those that have not been used for longest
 * are forgotten when there are many.  If a plan source of a list is dropped,
 * the list is made again when it is needed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/atomics.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "settings.h"
#include "shared_state.h"
#include "statement_lists.h"

struct PwStatementList
{
	uint64		number;
	bool		lost;			/* a plan source was dropped, or never found */
	int			count;			/* of everything below */
	PwPlanRef  *refs;
	CachedPlanSource **sources;
	char	   *names;			/* strings */
	dlist_node	lru;			/* in all_lists */
};

typedef struct PwListPointer
{
	uint64		number;			/* key */
	PwStatementList *list;
} PwListPointer;

/* For each plan that the cache may hold, so many names are remembered. */
#define NAMES_PER_PLAN 16

static MemoryContext lists_context = NULL;
static HTAB *by_number = NULL;

/* the one asked for last at the head */
static dlist_head all_lists = DLIST_STATIC_INIT(all_lists);
static int64 nnames = 0;

static PwStatementList *find_list(uint64 number);
static PwStatementList *remember(uint64 number, int count, const PwSavedStatement *saved);
static Size names_size(int count, const PwSavedStatement *saved);
static void forget(PwStatementList *list);
static bool forget_oldest(void);

void
pw_statement_lists_init(void)
{
	HASHCTL		pointers = {.keysize = sizeof(uint64),.entrysize = sizeof(PwListPointer)};

	by_number = hash_create("pool_worker statement lists", 64, &pointers,
							HASH_ELEM | HASH_BLOBS);
	lists_context = AllocSetContextCreate(TopMemoryContext, "pool_worker statement lists",
										  ALLOCSET_DEFAULT_SIZES);
}

uint64
pw_statement_list_number(void)
{
	return pg_atomic_add_fetch_u64(&PwControl->statement_lists, 1);
}

PwStatementList *
pw_statement_list_get(uint64 number, int count, const PwSavedStatement *saved)
{
	PwStatementList *list = find_list(number);

	if (list != NULL && list->lost)
	{
		forget(list);
		list = NULL;
	}
	if (list == NULL)
		return remember(number, count, saved);
	dlist_move_head(&all_lists, &list->lru);
	return list;
}

static PwStatementList *
find_list(uint64 number)
{
	PwListPointer *pointer = hash_search(by_number, &number, HASH_FIND, NULL);

	return pointer == NULL ? NULL : pointer->list;
}

/*
 * Find plan sources for what was saved.  If that fails half-way, what there is
 * of the list is marked as lost.
 */
static PwStatementList *
remember(uint64 number, int count, const PwSavedStatement *saved)
{
	Size		refs_size = sizeof(PwPlanRef) * count;
	Size		sources_size = sizeof(CachedPlanSource *) * count;
	PwStatementList *list = MemoryContextAllocZero(lists_context,
												   sizeof(PwStatementList) + refs_size +
												   sources_size + names_size(count, saved));
	char	   *name;

	list->number = number;
	list->lost = true;
	list->count = count;
	list->refs = (PwPlanRef *) (list + 1);
	list->sources = (CachedPlanSource **) (list->refs + count);
	list->names = name = (char *) (list->sources + count);
	dlist_push_head(&all_lists, &list->lru);
	nnames += count;
	((PwListPointer *) hash_search(by_number, &number, HASH_ENTER, NULL))->list = list;

	for (int i = 0; i < count; i++)
	{
		pw_plan_refer(&list->refs[i], &list->lost, pw_saved_definition(saved), saved->hash);
		list->sources[i] = pw_plan_source(list->refs[i].plan);
		name = stpcpy(name, saved->name) + 1;
		saved = pw_saved_next(saved);
	}
	list->lost = false;
	return list;
}

static Size
names_size(int count, const PwSavedStatement *saved)
{
	Size		size = 0;

	for (int i = 0; i < count; i++, saved = pw_saved_next(saved))
		size += strlen(saved->name) + 1;
	return size;
}

static void
forget(PwStatementList *list)
{
	for (int i = 0; i < list->count; i++)
		pw_plan_unrefer(&list->refs[i]);
	(void) hash_search(by_number, &list->number, HASH_REMOVE, NULL);
	dlist_delete(&list->lru);
	nnames -= list->count;
	pfree(list);
}

int
pw_statement_list_count(const PwStatementList *list)
{
	return list->count;
}

const char *
pw_statement_list_names(const PwStatementList *list)
{
	return list->names;
}

CachedPlanSource *const *
pw_statement_list_sources(const PwStatementList *list)
{
	return list->sources;
}

void
pw_statement_lists_trim(void)
{
	int64		limit = (int64) pw_statement_cache_size * NAMES_PER_PLAN;

	while ((!pw_statement_cache_trim() || nnames > limit) && forget_oldest())
		 /* until there is room, or nothing else to forget */ ;
}

/* False if there is only the list that was asked for last. */
static bool
forget_oldest(void)
{
	PwStatementList *oldest;

	if (dlist_is_empty(&all_lists))
		return false;
	oldest = dlist_tail_element(PwStatementList, lru, &all_lists);
	if (oldest == dlist_head_element(PwStatementList, lru, &all_lists))
		return false;
	forget(oldest);
	return true;
}
