/*-------------------------------------------------------------------------
 *
 * core_tables.c
 *	  Hash tables of PostgreSQL's own that no function leads to.
 *
 * Runs in: slots.
 *
 * To move a session we must put its prepared statements and the values of its
 * sequences where PostgreSQL keeps them: in hash tables whose pointers are
 * static variables of prepare.c and sequence.c.  The tables can be found
 * nevertheless.  hash_create() gives each one a memory context, whose
 * identifier is the name of the table, and that name lies directly behind the
 * table's header, in one piece of memory (dynahash.c, PostgreSQL 15 to 18).
 * How large the header is nobody says, but a table of our own tells.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "core_tables.h"

#define PROBE_NAME "pool_worker probe"

static Size header_size(void);
static MemoryContext find_context(const char *ident);

HTAB *
pw_core_table(const char *name)
{
	MemoryContext context = find_context(name);

	return context == NULL ? NULL : (HTAB *) (context->ident - header_size());
}

/*
 * How far behind a table's address its name begins.
 */
static Size
header_size(void)
{
	static Size size = 0;
	HASHCTL		control = {.keysize = sizeof(Oid),.entrysize = sizeof(Oid)};
	HTAB	   *probe;
	MemoryContext context;

	if (size != 0)
		return size;
	probe = hash_create(PROBE_NAME, 1, &control, HASH_ELEM | HASH_BLOBS);
	context = find_context(PROBE_NAME);
	if (context == NULL || context->ident <= (char *) probe)
		elog(FATAL, "hash tables do not look as expected");
	size = context->ident - (char *) probe;
	hash_destroy(probe);
	return size;
}

static MemoryContext
find_context(const char *ident)
{
	for (MemoryContext child = TopMemoryContext->firstchild; child != NULL; child = child->nextchild)
		if (child->ident != NULL && strcmp(child->name, "dynahash") == 0 &&
			strcmp(child->ident, ident) == 0)
			return child;
	return NULL;
}
