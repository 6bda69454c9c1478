/*-------------------------------------------------------------------------
 *
 * time_limits.c
 *	  The time limits of clients: which there are, and the words when one
 *	  passes.
 *
 * Runs in: every process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "time_limits.h"

#define LIMIT(setting) "pool_worker." #setting, offsetof(PwPoolSettings, setting)

const PwTimeLimitInfo pw_time_limits[] = {
	[PW_LIMIT_STATEMENT] = {
		LIMIT(statement_timeout), ERRCODE_QUERY_CANCELED, false
	},
	[PW_LIMIT_TRANSACTION] = {
		LIMIT(transaction_timeout), ERRCODE_TRANSACTION_TIMEOUT, true
	},
	[PW_LIMIT_IDLE_IN_TRANSACTION] = {
		LIMIT(idle_in_transaction_timeout), ERRCODE_IDLE_IN_TRANSACTION_SESSION_TIMEOUT, true
	},
	[PW_LIMIT_CLIENT_IDLE] = {
		LIMIT(client_idle_timeout), ERRCODE_IDLE_SESSION_TIMEOUT, true
	},
	[PW_LIMIT_CLIENT_MESSAGE] = {
		LIMIT(client_message_timeout), ERRCODE_CONNECTION_FAILURE, true
	},
	[PW_LIMIT_ADMINISTRATOR] = {
		"administrator command", 0, ERRCODE_ADMIN_SHUTDOWN, true
	},
};

StaticAssertDecl(lengthof(pw_time_limits) == PW_NENDS,
				 "every limit needs a row in pw_time_limits");
