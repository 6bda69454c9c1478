/*-------------------------------------------------------------------------
 *
 * login_triggers.c
 *	  Event triggers for logins fire when a client logs in, not when a slot does.
 *
 * Runs in: slots.
 *
 * PostgreSQL 17 fires them when a backend starts, right before it waits for the
 * first command.  A slot is nobody's login, so there they are switched off, and
 * the slot that first attaches a client fires them: with its settings in force
 * and its address shown, between its cancel key and its first ReadyForQuery.
 * What a trigger sets is the client's, and its error refuses that client.
 *
 * Whether there are any is asked anew each time.  What PostgreSQL remembers of
 * that for the database is as old as the backend.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/event_trigger.h"
#include "miscadmin.h"
#include "utils/evtcache.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "login_triggers.h"
#include "session_state.h"

static bool note_triggers(void);

void
pw_login_triggers_postpone(void)
{
	pw_login_triggers_switch(false);
}

ErrorData *
pw_login_triggers_fire(void)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	if (!PW_HAS_LOGIN_TRIGGERS)
		return NULL;

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		if (note_triggers())
		{
			pw_login_triggers_switch(true);
			pw_event_trigger_on_login();
			ReportChangedGUCOptions();
		}
	}
	PG_CATCH();
	{
		/* an error lets cancels through again */
		HOLD_CANCEL_INTERRUPTS();
		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		AbortOutOfAnyTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	return error;
}

/*
 * Are there any?  Nobody else hears that their functions are called.
 */
static bool
note_triggers(void)
{
	List	   *triggers;
	ListCell   *cell;

	StartTransactionCommand();
	triggers = pw_login_triggers();
	foreach(cell, triggers)
		pw_session_note_function(((EventTriggerCacheItem *) lfirst(cell))->fnoid);
	CommitTransactionCommand();
	return triggers != NIL;
}
