/*-------------------------------------------------------------------------
 *
 * pool_worker.c
 *	  Connection pool inside the server: entry point of the module.
 *
 * Runs in: postmaster at load (and, without shared_preload_libraries, any
 * backend that loads the library, where it does nothing).
 *
 * See docs/architecture.md for which file does what.
 *
 * Copyright (c) 2026, pool_worker contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "changes.h"
#include "handoff.h"
#include "inherited_memory.h"
#include "settings.h"
#include "shared_state.h"
#include "worker.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

/*
 * Module load callback.  Loaded too late, there is no shared memory to be had:
 * define nothing; the SQL functions say so when called.
 */
void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	pw_settings_define();
	pw_shared_state_request();
	pw_inherited_memory_keep();
	pw_handoff_register();
	pw_changes_register();
	pw_worker_register();
}
