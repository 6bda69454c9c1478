/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The only place where pool_worker looks at PG_VERSION_NUM.
 *
 * Every difference between supported major versions gets one wrapper here,
 * spelled like the newest API, with one line saying what changed and when.
 * When a major version leaves support, delete its branches and, if a wrapper
 * is left with nothing to choose, the wrapper.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_COMPAT_H
#define PW_COMPAT_H

#include "access/tupdesc.h"
#include "libpq/libpq.h"
#include "parser/analyze.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "pool_worker needs PostgreSQL 15 or later"
#endif

/* PG17 has a macro for this; before that, everybody wrote it out. */
#if PG_VERSION_NUM < 170000
#define GetPGProcByNumber(n) (&ProcGlobal->allProcs[(n)])
#endif

/* PG17 moved a process's own number out of its PGPROC. */
#if PG_VERSION_NUM < 170000
#define MyProcNumber (MyProc->pgprocno)
#endif

/*
 * PG17 ties a wait event set to a resource owner instead of a memory context.
 * Ours live as long as we want them to, so neither is interesting.
 */
static inline WaitEventSet *
pw_wait_event_set_new(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/*
 * PG17 lets an extension name its wait events; before that, every extension
 * shows up in pg_stat_activity as the anonymous "Extension".
 */
static inline uint32
pw_wait_event_new(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	(void) name;
	return PG_WAIT_EXTENSION;
#endif
}

/* PG17 counts the bytes that are left; before that, it said only whether. */
static inline bool
pw_input_is_buffered(void)
{
#if PG_VERSION_NUM >= 170000
	return pq_buffer_remaining_data() > 0;
#else
	return pq_buffer_has_data();
#endif
}

/*
 * All settings of this process.  PG16 keeps them in a hash table and returns
 * a sorted copy; before that, it was the live array.  Either way the caller
 * gets an array that it must not change and need not free, valid until a
 * setting comes into being.
 */
static inline struct config_generic **
pw_guc_variables(int *count)
{
#if PG_VERSION_NUM >= 160000
	static struct config_generic **variables = NULL;
	static int	nvariables = 0;
	MemoryContext oldcontext;

	if (variables == NULL || nvariables != GetNumConfigOptions())
	{
		if (variables != NULL)
			pfree(variables);
		oldcontext = MemoryContextSwitchTo(TopMemoryContext);
		variables = get_guc_variables(&nvariables);
		MemoryContextSwitchTo(oldcontext);
	}
	*count = nvariables;
	return variables;
#else
	*count = GetNumConfigOptions();
	return get_guc_variables();
#endif
}

/* PG16 made the list of a process's locks in one partition an ordinary one. */
static inline bool
pw_lock_list_is_empty(PGPROC *proc, int partition)
{
#if PG_VERSION_NUM >= 160000
	return dlist_is_empty(&proc->myProcLocks[partition]);
#else
	return SHMQueueEmpty(&proc->myProcLocks[partition]);
#endif
}

/* PG17 counts the sockets it has added; before that, it marked free places. */
static inline int
pw_stream_server_port(int family, const char *host, uint16 port,
					  const char *socket_dir, pgsocket sockets[],
					  int *nsockets, int max)
{
#if PG_VERSION_NUM >= 170000
	return StreamServerPort(family, host, port, socket_dir, sockets, nsockets, max);
#else
	int			status;

	for (int i = *nsockets; i < max; i++)
		sockets[i] = PGINVALID_SOCKET;
	status = StreamServerPort(family, host, port, socket_dir, sockets, max);
	while (*nsockets < max && sockets[*nsockets] != PGINVALID_SOCKET)
		(*nsockets)++;
	return status;
#endif
}

/*
 * PG18 keeps the fields of a column that are used most a second time, in a
 * compact form, to be made anew when they have changed.
 */
static inline void
pw_attribute_changed(TupleDesc desc, int i)
{
#if PG_VERSION_NUM >= 180000
	populate_compact_attribute(desc, i);
#else
	(void) desc;
	(void) i;
#endif
}

/*
 * May a plan source of this statement be marked as invalid?  Others are never
 * analyzed again.  Since 15.3, these are all but statements that need analysis.
 */
static inline bool
pw_plan_can_be_invalid(RawStmt *statement)
{
	return stmt_requires_parse_analysis(statement);
}

#endif							/* PW_COMPAT_H */
