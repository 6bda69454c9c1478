/*-------------------------------------------------------------------------
 *
 * pool_changes.c
 *	  What becomes of a pool when its role or database changes.
 *
 * Runs in: pool worker.
 *
 * A slot must not outlive what its login depended on: its role, its database,
 * and the settings of both.  A backend that changes one of them tells us to
 * look (changes.c).  We then read these rows; if one is not the same as before,
 * the pool gets another version, and every slot that began to log in before
 * that is stale.  A stale slot is given to nobody any more, and ends when
 * nothing pins its client, who is parked and waits for the next slot.
 *
 * Before a slot is opened we ask as well whether it may log in at all.  If not,
 * and no slot is left that could serve them, those who wait are told why, in
 * the words of the server: clients of a role that may not log in any more, or
 * that has been dropped, are not served any more.  It differs from what a
 * direct connection would see, which goes on until it ends.  But a pool that
 * kept its old slots for them would keep the old settings and rights as well.
 *
 * A pool that is not OPEN is different: while it is paused its database may be
 * replaced by another of the same name, and its clients are to go on in that.
 * So nobody is refused, and when its clients are to be served again, or somebody
 * logs in, it becomes the pool of what has its names by then.  Likewise with its
 * role.
 *
 * On a standby no backend executes such commands.  There we look whenever WAL
 * has been replayed, at most once per second.
 *
 * Without a database (see catalog.c) we cannot read the settings, and take
 * every change that we are told of for a real one; on a standby, changed
 * settings go unnoticed then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlogrecovery.h"
#include "miscadmin.h"

#include "catalog.h"
#include "changes.h"
#include "pool_internal.h"
#include "pool_settings.h"
#include "server_state.h"

static void look_where_told(void);
static void look_at_pool(PwPool *pool);
static void explain_stop(PwReport *why);
static bool ask_catalogs(PwPool *pool, PwReport *why);
static void note_verdict(PwPool *pool, PwCatalogVerdict verdict, const PwReport *why);
static void make_stale(PwPool *pool);
static bool has_usable_slot(PwPool *pool);
static PwPool *find_pool(Oid dboid, Oid roleoid);
static void rebind(PwPool *pool, const PwCatalogNames *names);

/*
 * Look at what backends have told us to look at; once per wakeup.
 */
void
pw_pool_changes_work(void)
{
	if (pg_atomic_read_u32(&PwControl->changed) != 0 &&
		pg_atomic_exchange_u32(&PwControl->changed, 0) != 0)
		look_where_told();
}

/*
 * A pool counts as looked at when that has been done without an error; until
 * then it is tried again each second.
 */
static void
look_where_told(void)
{
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];
		uint32		suspect = pg_atomic_read_u32(&pool->shared->suspect);
		bool		hold;

		if (!pool->shared->in_use)
			continue;
		hold = pw_changes_hold(pool->shared->dboid);
		if (suspect == pool->looked_at && hold == pool->is_cleared)
			continue;
		if ((hold && !pool->is_cleared) ||
			(suspect != pool->looked_at && !OidIsValid(MyDatabaseId)))
			make_stale(pool);
		pool->is_cleared = hold;
		look_at_pool(pool);
		pool->looked_at = suspect;
	}
}

/*
 * Once per second: look at all pools if WAL has been replayed.
 */
void
pw_pool_changes_tick(void)
{
	static XLogRecPtr seen = InvalidXLogRecPtr;
	XLogRecPtr	replayed = GetXLogReplayRecPtr(NULL);

	look_where_told();
	if (replayed == seen)
		return;
	seen = replayed;
	for (int i = 0; i < PwControl->max_pools; i++)
		if (PwPools[i].in_use)
			look_at_pool(&PwLocalPools[i]);
}

/* The pool may be gone afterwards. */
static void
look_at_pool(PwPool *pool)
{
	PwReport	why;

	(void) ask_catalogs(pool, &why);
	pw_pool_settings_refresh(false);
	pw_pool_take_settings(pool);
	pool->wants_slot = false;
	pw_pool_look_after(pool);
}

/*
 * May a slot be opened for this pool?  If not, those who wait have been told.
 */
bool
pw_pool_may_open(PwPool *pool)
{
	PwReport	why;

	/* we are about to end */
	if (PwControl->worker_pid == 0)
		return false;

	/* look_at_pool() comes when the hold has been released */
	if (pw_changes_hold(pool->shared->dboid))
	{
		pool->wants_slot = true;
		return false;
	}
	if (pw_server_is_stopping())
		explain_stop(&why);
	else if (ask_catalogs(pool, &why))
		return true;
	if (has_usable_slot(pool))
		pool->wants_slot = true;	/* ask again, but not all the time */
	else
		pw_pool_refuse_ready(pool, &why);
	return false;
}

/*
 * The server stops, and what is left of the pool's slots is all there will be.
 */
static void
explain_stop(PwReport *why)
{
	memset(why, 0, sizeof(*why));
	why->sqlstate = ERRCODE_ADMIN_SHUTDOWN;
	why->message = "terminating connection due to administrator command";
	why->detail = "The server is shutting down, and opens no connections any more.";
}

/*
 * Read what the slots of a pool depend on.  False, with *why filled in, if they
 * may not log in.
 */
static bool
ask_catalogs(PwPool *pool, PwReport *why)
{
	PwShmPool  *shared = pool->shared;
	PwCatalogNames names = {.dboid = shared->dboid,.roleoid = shared->roleoid,
	.database = shared->database,.role = shared->role};
	PwCatalogStamp stamp;
	PwCatalogVerdict verdict = pw_catalog_look(&names, &stamp, why);

	if (memcmp(&stamp, &pool->stamp, sizeof(stamp)) != 0)
	{
		pool->stamp = stamp;
		make_stale(pool);
	}
	pw_pool_set_names(pool, NameStr(names.database), NameStr(names.role));
	note_verdict(pool, verdict, why);
	return verdict == PW_CATALOG_OK;
}

/*
 * Remember what was answered, for pool_check() as well, and log it once.
 */
static void
note_verdict(PwPool *pool, PwCatalogVerdict verdict, const PwReport *why)
{
	PwShmPool  *shared = pool->shared;
	bool		was_barred = pool->is_barred;

	pool->is_barred = verdict != PW_CATALOG_OK;
	pool->is_gone = verdict == PW_CATALOG_GONE;
	if (pool->is_gone && pw_pool_service(shared) == PW_SERVICE_OPEN)
	{
		pool->prewarmed = false;
		pool->min_slots = 0;
	}
	if (pool->is_barred == was_barred)
		return;

	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	if (pool->is_barred)
		strlcpy(shared->last_error, why->message, PW_POOL_ERROR_LEN);
	shared->last_error_at = pool->is_barred ? pw_loop_now() : 0;
	LWLockRelease(&PwControl->lock);

	if (pool->is_barred)
		ereport(LOG,
				(errcode(why->sqlstate),
				 errmsg("connection pool \"%s/%s\" cannot open connections any more",
						NameStr(shared->database), NameStr(shared->role)),
				 errdetail_internal("%s", why->message)));
}

/*
 * Every slot that is open or being opened is to end.  Those that are idle are
 * asleep and have to be woken for that.
 */
static void
make_stale(PwPool *pool)
{
	int			index = pool->shared - PwPools;

	pg_atomic_fetch_add_u32(&pool->shared->version, 1);
	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index)
			pw_wake_slot(i);
}

/* Is there a slot, or about to be one, that can serve those who wait? */
static bool
has_usable_slot(PwPool *pool)
{
	int			index = pool->shared - PwPools;

	for (int i = 0; i < PwControl->max_slots; i++)
		if (PwSlots[i].pool == index && !pw_slot_is_stale(&PwSlots[i], pool->shared) &&
			pg_atomic_read_u32(&PwSlots[i].activity) != PW_SLOT_GONE)
			return true;
	return false;
}

/*
 * Somebody logs in for whom there is no pool.  A pool that is not OPEN and has
 * lost its database or role, and had the same names, takes the client up.
 */
PwPool *
pw_pool_adopt(const PwCatalogNames *names)
{
	for (int i = 0; i < PwControl->max_pools; i++)
	{
		PwPool	   *pool = &PwLocalPools[i];
		PwShmPool  *shared = pool->shared;

		if (!shared->in_use || !pool->is_gone ||
			pw_pool_service(shared) == PW_SERVICE_OPEN ||
			strcmp(NameStr(shared->database), NameStr(names->database)) != 0 ||
			strcmp(NameStr(shared->role), NameStr(names->role)) != 0)
			continue;
		rebind(pool, names);
		return pool;
	}
	return NULL;
}

/*
 * The clients of a pool are about to be served again.  If its database or role
 * is gone, look for what has its names now.  If there is nothing, or it has a
 * pool already, then these clients will be told what has been dropped.
 */
void
pw_pool_find_again(PwPool *pool)
{
	PwShmPool  *shared = pool->shared;
	PwCatalogNames names;
	PwReport	why;

	(void) ask_catalogs(pool, &why);
	if (pool->is_gone &&
		pw_catalog_find(NameStr(shared->database), NameStr(shared->role), &names, &why) &&
		find_pool(names.dboid, names.roleoid) == NULL)
		rebind(pool, &names);
}

static PwPool *
find_pool(Oid dboid, Oid roleoid)
{
	for (int i = 0; i < PwControl->max_pools; i++)
		if (PwPools[i].in_use && PwPools[i].dboid == dboid && PwPools[i].roleoid == roleoid)
			return &PwLocalPools[i];
	return NULL;
}

/*
 * Make it the pool of another role or database.  Its slots are stale by that,
 * if there are any left.
 */
static void
rebind(PwPool *pool, const PwCatalogNames *names)
{
	PwReport	why;

	ereport(LOG,
			(errmsg("connection pool \"%s/%s\" goes on in what has these names now",
					NameStr(names->database), NameStr(names->role))));
	LWLockAcquire(&PwControl->lock, LW_EXCLUSIVE);
	pool->shared->dboid = names->dboid;
	pool->shared->roleoid = names->roleoid;
	LWLockRelease(&PwControl->lock);
	(void) ask_catalogs(pool, &why);
	pw_pool_settings_refresh(false);
	pw_pool_take_settings(pool);
}
