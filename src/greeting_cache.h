/*-------------------------------------------------------------------------
 *
 * greeting_cache.h
 *	  What a pool's last clients were told about their settings.
 *
 * Runs in: pool worker, slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_GREETING_CACHE_H
#define PW_GREETING_CACHE_H

#include "lib/stringinfo.h"

#include "shared_state.h"

/*
 * A slot has greeted a client with this list of startup settings by these
 * ParameterStatus messages.  Ignored if it is known already, or unusually long.
 */
extern void pw_greeting_store(PwShmPool *pool, const char *settings, uint32 settings_len,
							  const char *messages, uint32 messages_len);

/*
 * Append the messages for this list of startup settings to "out", and tell as
 * of when they are (a PgReloadTime).  False if they are not known.
 */
extern bool pw_greeting_find(PwShmPool *pool, const char *settings, uint32 settings_len,
							 StringInfo out, TimestampTz *as_of);

/* Forget what is known about this pool; only for the worker. */
extern void pw_greeting_forget(PwShmPool *pool);

#endif							/* PW_GREETING_CACHE_H */
