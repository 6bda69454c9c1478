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

typedef struct PwShmGreeting
{
	TimestampTz as_of;			/* PgReloadTime of the slot */
	bool		in_recovery;	/* in_hot_standby is among the parameters */
	uint32		settings_len;
	uint32		messages_len;
	char		data[FLEXIBLE_ARRAY_MEMBER];	/* settings, then messages */
} PwShmGreeting;

static PwShmGreeting *find_locked(PwShmPool *pool, const char *settings, uint32 settings_len);

void
pw_greeting_store(PwShmPool *pool, const char *settings, uint32 settings_len,
				  const char *messages, uint32 messages_len)
{
	dsa_area   *area = pw_shared_area();
	dsa_pointer fresh;
	dsa_pointer old;
	PwShmGreeting *greeting;
	bool		known;

	LWLockAcquire(&PwControl->lock, LW_SHARED);
	known = find_locked(pool, settings, settings_len) != NULL;
	LWLockRelease(&PwControl->lock);
	if (known)
		return;

	fresh = dsa_allocate_extended(area, offsetof(PwShmGreeting, data) + settings_len + messages_len,
								  DSA_ALLOC_NO_OOM);
	if (!DsaPointerIsValid(fresh))
		return;
	greeting = dsa_get_address(area, fresh);
	greeting->as_of = PgReloadTime;
	greeting->in_recovery = RecoveryInProgress();
	greeting->settings_len = settings_len;
	greeting->messages_len = messages_len;
	memcpy(greeting->data, settings, settings_len);
	memcpy(greeting->data + settings_len, messages, messages_len);

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	old = pool->greetings[pool->next_greeting];
	pool->greetings[pool->next_greeting] = fresh;
	pool->next_greeting = (pool->next_greeting + 1) % PW_GREETINGS;
	LWLockRelease(&PwControl->lock);
	if (DsaPointerIsValid(old))
		dsa_free(area, old);
}

bool
pw_greeting_find(PwShmPool *pool, const char *settings, uint32 settings_len,
				 StringInfo out, TimestampTz *as_of)
{
	char		messages[PW_GREETING_SIZE];
	uint32		len = 0;
	PwShmGreeting *greeting;

	(void) pw_shared_area();
	LWLockAcquire(&PwControl->lock, LW_SHARED);
	greeting = find_locked(pool, settings, settings_len);
	if (greeting != NULL && greeting->messages_len <= sizeof(messages))
	{
		len = greeting->messages_len;
		memcpy(messages, greeting->data + settings_len, len);
		*as_of = greeting->as_of;
	}
	LWLockRelease(&PwControl->lock);

	appendBinaryStringInfo(out, messages, len);
	return len > 0;
}

void
pw_greeting_forget(PwShmPool *pool)
{
	dsa_pointer old[PW_GREETINGS];

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	memcpy(old, pool->greetings, sizeof(old));
	for (int i = 0; i < PW_GREETINGS; i++)
		pool->greetings[i] = InvalidDsaPointer;
	LWLockRelease(&PwControl->lock);

	for (int i = 0; i < PW_GREETINGS; i++)
		if (DsaPointerIsValid(old[i]))
			dsa_free(pw_shared_area(), old[i]);
}

/*
 * The caller holds control->lock, and has attached to the area.
 */
static PwShmGreeting *
find_locked(PwShmPool *pool, const char *settings, uint32 settings_len)
{
	for (int i = 0; i < PW_GREETINGS; i++)
	{
		PwShmGreeting *greeting;

		if (!DsaPointerIsValid(pool->greetings[i]))
			continue;
		greeting = dsa_get_address(pw_shared_area(), pool->greetings[i]);
		if (greeting->settings_len == settings_len &&
			greeting->in_recovery == RecoveryInProgress() &&
			memcmp(greeting->data, settings, settings_len) == 0)
			return greeting;
	}
	return NULL;
}
