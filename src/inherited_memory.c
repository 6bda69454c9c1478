/*-------------------------------------------------------------------------
 *
 * inherited_memory.c
 *	  Keep what the postmaster has parsed alive in the worker.
 *
 * Runs in: postmaster; the fork handler in each of its children.
 *
 * hba.c keeps pointers to the rules of pg_hba.conf and pg_ident.conf, and
 * pqcomm.c a list of socket files, in memory below PostmasterContext.  A
 * background worker deletes that context before any code of ours runs in it
 * (do_start_bgworker(), and BackgroundWorkerMain() since PostgreSQL 17),
 * because no other worker reads those rules or listens.  In ours the pointers
 * would dangle: load_hba() would free the old rules a second time, and
 * StreamServerPort() append to a list that is gone.
 *
 * So right after the fork, before anything else, each child of the postmaster
 * puts an empty context in the place of PostmasterContext.  That is what it
 * deletes then.  The old context stays below TopMemoryContext: in the worker it
 * is as valid as it was in the postmaster, and in other children it is some
 * kilobytes that nobody touches, shared with the postmaster until the end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <pthread.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "inherited_memory.h"

static void keep_in_child(void);

void
pw_inherited_memory_keep(void)
{
	static bool is_registered = false;

	if (is_registered || !IsPostmasterEnvironment || IsUnderPostmaster)
		return;
	if (pthread_atfork(NULL, NULL, keep_in_child) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not register a fork handler")));
	is_registered = true;
}

/*
 * Fork handler.  It also runs when a backend forks, and then has nothing to do.
 */
static void
keep_in_child(void)
{
	if (IsUnderPostmaster || PostmasterContext == NULL)
		return;
	PostmasterContext = AllocSetContextCreate(TopMemoryContext, "Postmaster",
											  ALLOCSET_SMALL_SIZES);
}
