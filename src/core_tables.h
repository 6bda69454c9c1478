/*-------------------------------------------------------------------------
 *
 * core_tables.h
 *	  Hash tables of PostgreSQL's own that no function leads to.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_CORE_TABLES_H
#define PW_CORE_TABLES_H

#include "utils/hsearch.h"

/* The names under which PostgreSQL creates them. */
#define PW_TABLE_PREPARED_STATEMENTS "Prepared Queries"
#define PW_TABLE_SEQUENCES "Sequence values"

/*
 * The hash table of this backend that was created with this name and without
 * a memory context of the creator's; NULL if there is none now.  The caller
 * must know what its entries look like, and whether it may be destroyed.
 */
extern HTAB *pw_core_table(const char *name);

#endif							/* PW_CORE_TABLES_H */
