/*-------------------------------------------------------------------------
 *
 * greeting_cache.c
 *	  What a pool's last clients were told about their settings.
 *
 * Runs in: pool worker, slots.
 *
 * A client that asks for the same startup settings as one before it is told
 * the same reported parameters.  So the slot that greets a client leaves the
 * messages in shared memory, and the worker greets the next such client by
 * itself: it need not wait for a slot before it has something to say.
 *
 * The parameters may change afterwards.  A reload of the configuration makes
 * the worker forget all greetings; if a slot stores an old one after that, its
 * clients are told the new values when they are first attached, because the
 * greeting says as of when it is: see pw_reported_is_stale().  A new slot, which
 * may have other settings of its role or database, makes it forget the pool's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/timestamp.h"

#include "greeting_cache.h"

static PwShmGreeting *find_locked(PwShmPool *pool, const char *settings,
								  uint32 settings_len, bool in_recovery);

void
pw_greeting_store(PwShmPool *pool, const char *settings, uint32 settings_len,
				  const char *messages, uint32 messages_len)
{
	bool		in_recovery = RecoveryInProgress();
	PwShmGreeting *greeting;

	if (settings_len > PW_GREETING_SETTINGS_LEN || messages_len > PW_GREETING_MESSAGES_LEN)
		return;

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	if (find_locked(pool, settings, settings_len, in_recovery) == NULL)
	{
		greeting = &pool->greetings[pool->next_greeting];
		pool->next_greeting = (pool->next_greeting + 1) % PW_GREETINGS;
		greeting->as_of = PgReloadTime;
		greeting->in_recovery = in_recovery;
		greeting->settings_len = settings_len;
		greeting->messages_len = messages_len;
		memcpy(greeting->settings, settings, settings_len);
		memcpy(greeting->messages, messages, messages_len);
	}
	LWLockRelease(&PwControl->lock);
}

bool
pw_greeting_find(PwShmPool *pool, const char *settings, uint32 settings_len,
				 StringInfo out, TimestampTz *as_of)
{
	bool		in_recovery = RecoveryInProgress();
	char		messages[PW_GREETING_MESSAGES_LEN];
	uint32		len = 0;
	PwShmGreeting *greeting;

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	greeting = find_locked(pool, settings, settings_len, in_recovery);
	if (greeting != NULL)
	{
		len = greeting->messages_len;
		memcpy(messages, greeting->messages, len);
		*as_of = greeting->as_of;
	}
	LWLockRelease(&PwControl->lock);

	appendBinaryStringInfo(out, messages, len);
	return len > 0;
}

void
pw_greeting_forget(PwShmPool *pool)
{
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PW_GREETINGS; i++)
		pool->greetings[i].messages_len = 0;
	LWLockRelease(&PwControl->lock);
}

/* The caller holds control->lock. */
static PwShmGreeting *
find_locked(PwShmPool *pool, const char *settings, uint32 settings_len, bool in_recovery)
{
	for (int i = 0; i < PW_GREETINGS; i++)
	{
		PwShmGreeting *greeting = &pool->greetings[i];

		if (greeting->messages_len > 0 && greeting->settings_len == settings_len &&
			greeting->in_recovery == in_recovery &&
			memcmp(greeting->settings, settings, settings_len) == 0)
			return greeting;
	}
	return NULL;
}
