/*-------------------------------------------------------------------------
 *
 * pool_settings.h
 *	  What a setting is for one (database, role).
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_POOL_SETTINGS_H
#define PW_POOL_SETTINGS_H

#include "settings.h"

/*
 * Keep what ALTER DATABASE and ALTER ROLE have set from reaching the worker's
 * own variables: to be called with true before the worker connects to its
 * database, and with false afterwards.
 */
extern void pw_pool_settings_shield(bool up);

/*
 * Read the catalog again if it has changed, or anyway.  Cheap if not; else
 * opens a transaction of its own.  If it raises an error, what was read before
 * remains.
 */
extern void pw_pool_settings_refresh(bool anyway);

/*
 * What is in force for a role in a database, by the catalog as it was read
 * last and the configuration as it is now.  True if *settings was something
 * else before.  Cheap; never fails.
 */
extern bool pw_pool_settings_resolve(Oid dboid, Oid roleoid, PwPoolSettings *settings);

/*
 * The smallest value above 0 that any role has for a setting in any database,
 * or 0 if nobody has one.  The setting is named by its offset in
 * PwPoolSettings.
 */
extern int	pw_pool_settings_smallest(size_t offset);

#endif							/* PW_POOL_SETTINGS_H */
