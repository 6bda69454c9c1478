/*-------------------------------------------------------------------------
 *
 * identity.h
 *	  Who is asking: what the backend shows as its client.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_IDENTITY_H
#define PW_IDENTITY_H

#include "shared_state.h"

/* Note the identity the backend was started with: the pool worker's. */
extern void pw_identity_init(void);

/*
 * Be this client, for log lines, pg_stat_activity and inet_client_addr().
 * The entry must stay in place until another identity is assumed.
 */
extern void pw_identity_assume(PwShmClient *client);

/* Be nobody again.  Cheap: pg_stat_activity keeps showing the last client. */
extern void pw_identity_drop(void);

/* Have pg_stat_activity show that there is no client, until there is one. */
extern void pw_identity_show_nobody(void);

#endif							/* PW_IDENTITY_H */
