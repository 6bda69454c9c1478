/*-------------------------------------------------------------------------
 *
 * session.c
 *	  A client's session, saved when it leaves a slot and brought to the next.
 *
 * Runs in: slots.
 *
 * A session has parts; each is a row of session_parts[] and has a module that
 * knows where PostgreSQL keeps it.  A module can capture its part as bytes and
 * apply such bytes, which changes as little as possible; some can also bring
 * bytes up to date that were saved before.  The bytes of all
 * parts, one behind the other, are the saved session.  It is in the DSA area,
 * and belongs to whoever owns the client.  A client that has set nothing has
 * none, and most have not.
 *
 * What cannot be saved pins the client instead; see session_state.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/dsa.h"
#include "utils/memutils.h"

#include "prepared_statements.h"
#include "session.h"
#include "session_libraries.h"
#include "session_sequences.h"
#include "session_settings.h"
#include "session_state.h"
#include "settings.h"
#include "startup_settings.h"

typedef struct PwSessionPart
{
	void		(*init) (void);
	bool		(*changed) (void);	/* since it was captured or applied */
	void		(*capture) (StringInfo part);
	void		(*apply) (const char *part, size_t len);

	/* bring saved bytes up to date; false if it takes more; or NULL */
	bool		(*update) (char *part, size_t len);
} PwSessionPart;

/*
 * In the order in which they are applied: settings may be a library's.  The
 * libraries must be the first, see pw_session_can_enter().
 */
static const PwSessionPart session_parts[] = {
	{pw_libraries_init, pw_libraries_changed, pw_libraries_capture, pw_libraries_apply},
	{pw_settings_init, pw_settings_changed, pw_settings_capture, pw_settings_apply},
	{pw_sequences_init, pw_sequences_changed, pw_sequences_capture, pw_sequences_apply},
	{pw_statements_init, pw_statements_changed, pw_statements_capture, pw_statements_apply,
	pw_statements_update},
	{NULL, pw_unnamed_changed, pw_unnamed_capture, pw_unnamed_apply},
};

#define NPARTS lengthof(session_parts)

/* A saved session begins with this. */
typedef struct PwSavedSession
{
	uint32		part_len[lengthof(session_parts)];	/* bytes, each part is
													 * aligned */
} PwSavedSession;

#define SAVED_HEADER_SIZE MAXALIGN(sizeof(PwSavedSession))

/* Where a session is put together. */
static StringInfoData scratch;

/* Has anything of a saved session been applied, and not been taken back? */
static bool in_use = false;

/* The attached client's session is too large to be saved. */
static bool too_large = false;

static bool has_changed(void);
static bool update_saved(PwShmClient *client);
static bool capture_all(void);
static bool store(PwShmClient *client, const char *bytes, size_t len);
static void apply_all(const char *bytes);
static void apply_nothing(void);

void
pw_session_init(void)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

	initStringInfo(&scratch);
	for (int i = 0; i < NPARTS; i++)
		if (session_parts[i].init != NULL)
			session_parts[i].init();
	MemoryContextSwitchTo(oldcontext);
	pw_session_state_init();
}

bool
pw_session_save(PwShmClient *client)
{
	if (!has_changed())
		return !too_large;
	if (!too_large && update_saved(client))
		return true;
	in_use = capture_all();
	too_large = in_use && scratch.len > pw_max_session_size * (Size) 1024;
	if (!too_large)
		too_large = !store(client, scratch.data, in_use ? scratch.len : 0);
	return !too_large;
}

static bool
has_changed(void)
{
	for (int i = 0; i < NPARTS; i++)
		if (session_parts[i].changed())
			return true;
	return false;
}

/*
 * Make the saved session right where it is.  False if that does not suffice.
 */
static bool
update_saved(PwShmClient *client)
{
	PwSavedSession *saved;
	char	   *part;
	bool		suffices = true;

	if (client->session_len == 0)
		return false;
	saved = dsa_get_address(pw_shared_area(), client->session);
	part = (char *) saved + SAVED_HEADER_SIZE;
	for (int i = 0; i < NPARTS; i++)
	{
		if (session_parts[i].changed() &&
			(session_parts[i].update == NULL ||
			 !session_parts[i].update(part, saved->part_len[i])))
			suffices = false;
		part += MAXALIGN(saved->part_len[i]);
	}
	return suffices;
}

/*
 * Put the session together in "scratch".  False if there is nothing in it.
 */
static bool
capture_all(void)
{
	PwSavedSession header = {{0}};
	bool		any = false;

	resetStringInfo(&scratch);
	enlargeStringInfo(&scratch, SAVED_HEADER_SIZE);
	memset(scratch.data, 0, SAVED_HEADER_SIZE);
	scratch.len = SAVED_HEADER_SIZE;
	for (int i = 0; i < NPARTS; i++)
	{
		int			start = scratch.len;

		session_parts[i].capture(&scratch);
		header.part_len[i] = scratch.len - start;
		any = any || header.part_len[i] > 0;
		while (scratch.len % MAXIMUM_ALIGNOF != 0)
			appendStringInfoChar(&scratch, '\0');
	}
	memcpy(scratch.data, &header, sizeof(header));
	return any;
}

/*
 * Write a saved session to where the client's is, with some room to grow.
 * False if there is no memory.
 */
static bool
store(PwShmClient *client, const char *bytes, size_t len)
{
	dsa_area   *area = pw_shared_area();

	if (len > client->session_size)
	{
		dsa_pointer grown = dsa_allocate_extended(area, len + len / 2, DSA_ALLOC_NO_OOM);

		if (!DsaPointerIsValid(grown))
			return false;
		if (DsaPointerIsValid(client->session))
			dsa_free(area, client->session);
		client->session = grown;
		client->session_size = len + len / 2;
	}
	if (len > 0)
		memcpy(dsa_get_address(area, client->session), bytes, len);
	client->session_len = len;
	return true;
}

bool
pw_session_can_enter(PwShmClient *client)
{
	const char *bytes;

	if (client->session_len == 0)
		return !pw_libraries_are_foreign("", 0);
	bytes = dsa_get_address(pw_shared_area(), client->session);
	return !pw_libraries_are_foreign(bytes + SAVED_HEADER_SIZE,
									 ((const PwSavedSession *) bytes)->part_len[0]);
}

void
pw_session_enter(PwShmClient *client)
{
	const char *startup = dsa_get_address(pw_shared_area(), client->settings);

	if (pw_startup_settings_are_stale() ||
		pw_startup_settings_differ(startup, client->settings_len))
	{
		/* what was set in the session hides what is below it */
		pw_settings_apply("", 0);
		pw_startup_settings_reload();
		pw_startup_settings_apply(startup, client->settings_len);
	}
	if (client->session_len > 0)
		apply_all(dsa_get_address(pw_shared_area(), client->session));
	else
		apply_nothing();
	too_large = false;
}

static void
apply_all(const char *bytes)
{
	const PwSavedSession *saved = (const PwSavedSession *) bytes;
	const char *part = bytes + SAVED_HEADER_SIZE;

	in_use = true;
	for (int i = 0; i < NPARTS; i++)
	{
		session_parts[i].apply(part, saved->part_len[i]);
		part += MAXALIGN(saved->part_len[i]);
	}
}

static void
apply_nothing(void)
{
	if (!in_use && !has_changed())
		return;
	for (int i = 0; i < NPARTS; i++)
		session_parts[i].apply("", 0);
	in_use = false;
}

bool
pw_session_clean(void)
{
	if (!pw_session_state_clean() || pw_libraries_are_foreign("", 0))
		return false;
	apply_nothing();
	return true;
}
