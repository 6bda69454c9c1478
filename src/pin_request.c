/*-------------------------------------------------------------------------
 *
 * pin_request.c
 *	  pool_pin() and pool_unpin(): a client asks to keep its slot.
 *
 * Runs in: slots, and any backend that is none and says so.
 *
 * They are for state that nobody can see from outside: variables of a library
 * written in C, for instance.  Like a session-level advisory lock, a pin is not
 * undone by a rollback; unlike one, it does not count how often it was asked
 * for.  Nobody can clean what nobody can see, so a slot whose client leaves
 * without pool_unpin() does not serve another: see state_kinds[] in
 * session_state.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "session_state.h"

PG_FUNCTION_INFO_V1(pool_worker_pin_1_0);
PG_FUNCTION_INFO_V1(pool_worker_unpin_1_0);

static bool request(bool pin, bool *before);

/*
 * pool_pin(): true if the client now keeps its slot.
 */
Datum
pool_worker_pin_1_0(PG_FUNCTION_ARGS)
{
	bool		before;

	PG_RETURN_BOOL(request(true, &before));
}

/*
 * pool_unpin(): true if this ends what pool_pin() began.
 */
Datum
pool_worker_unpin_1_0(PG_FUNCTION_ARGS)
{
	bool		before;

	PG_RETURN_BOOL(request(false, &before) && before);
}

/*
 * A session without a pool has its backend for itself, so there a request is
 * needless rather than wrong: programs can do the same with and without a pool.
 */
static bool
request(bool pin, bool *before)
{
	if (pw_session_request_pin(pin, before))
		return true;
	ereport(NOTICE,
			(errmsg("this session is not served by the connection pool"),
			 errdetail("It has a backend of its own, and keeps it.")));
	return false;
}
