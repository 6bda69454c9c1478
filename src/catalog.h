/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  What the shared catalogs say about a login.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_CATALOG_H
#define PW_CATALOG_H

#include "protocol.h"

/* A role in a database: what a pool is of. */
typedef struct PwCatalogNames
{
	Oid			dboid;
	Oid			roleoid;
	NameData	database;		/* as stored in the catalogs */
	NameData	role;
} PwCatalogNames;

/*
 * What the catalogs have in their rows of a role, a database and their
 * settings, in short: another one once something has changed that a login
 * depends on.  Compare it as bytes.
 */
typedef struct PwCatalogStamp
{
	uint64		role;			/* 0 if there is no row */
	uint64		database;
	uint64		settings[4];	/* of the role in the database, of the
								 * database, of the role, of all */
} PwCatalogStamp;

/* May slots of a pool log in? */
typedef enum PwCatalogVerdict
{
	PW_CATALOG_OK,
	PW_CATALOG_BARRED,			/* not as it is now */
	PW_CATALOG_GONE,			/* role or database has been dropped */
} PwCatalogVerdict;

/*
 * Open a transaction for catalog lookups, and close it.  The current memory
 * context is the caller's in between and afterwards, so what is allocated
 * there stays.  The two may not be nested, and nothing may wait in between.
 *
 * An error raised in between leaves the transaction open: who catches it has
 * to abort it, as AbortOutOfAnyTransaction() does.
 */
extern void pw_catalog_begin(void);
extern void pw_catalog_end(void);

/*
 * May "role" log in to "database" as one more client of the pool?
 *
 * Makes the checks that the server makes behind authentication, in its order
 * and with its words.  If all pass, returns true and fills *names; else
 * returns false and fills *why, whose strings are allocated in the current
 * memory context.  Call it between pw_catalog_begin() and pw_catalog_end().
 */
extern bool pw_catalog_check_login(const char *database, const char *role,
								   PwCatalogNames *names, PwReport *why);

/*
 * Is it safe to ask the syscache for this role?  To be called before anything
 * else does, between pw_catalog_begin() and pw_catalog_end().  A role that does
 * not exist is fine.  If not, returns false and fills *why.
 */
extern bool pw_catalog_can_read_role(const char *role, PwReport *why);

/*
 * Look up a pool that no client asked for, as one of pool_worker.prewarm.
 * The same checks and results, except that connection limits do not matter:
 * it is the slots' own logins that they apply to then.  To be called outside
 * of pw_catalog_begin(), opens its own transaction.
 */
extern bool pw_catalog_find(const char *database, const char *role,
							PwCatalogNames *names, PwReport *why);

/*
 * What has become of a role and a database that we know by their OIDs?  Sets
 * *stamp, and unless they are gone their names of today.  The checks are those
 * of pw_catalog_find(); if the answer is not PW_CATALOG_OK fills *why.  To be
 * called outside of pw_catalog_begin(), opens its own transaction.
 *
 * Connected to no database, we cannot read the settings.
 */
extern PwCatalogVerdict pw_catalog_look(PwCatalogNames *names,
										PwCatalogStamp *stamp, PwReport *why);

#endif							/* PW_CATALOG_H */
