/*-------------------------------------------------------------------------
 *
 * priority.c
 *	  Who has high priority by the application it says it is.
 *
 * Runs in: pool worker.
 *
 * Who has it by its role or database is a setting of the pool; see
 * pw_client_is_high() in shared_state.h.  This one is asked once, when a client
 * logs in: a client stays in the epoll set that it has entered.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/varlena.h"

#include "priority.h"
#include "settings.h"
#include "startup_packet.h"

bool
pw_priority_is_high(const StringInfoData *settings)
{
	const char *application;
	char	   *names;
	List	   *list = NIL;
	ListCell   *cell;
	bool		found = false;

	if (pw_priority_applications[0] == '\0')
		return false;
	application = pw_startup_find_setting(settings, "application_name");
	if (application == NULL)
		return false;

	/* the check hook has seen that it is a list */
	names = pstrdup(pw_priority_applications);
	(void) SplitGUCList(names, ',', &list);
	foreach(cell, list)
		found = found || strcmp((const char *) lfirst(cell), application) == 0;
	list_free(list);
	pfree(names);
	return found;
}
