/*-------------------------------------------------------------------------
 *
 * changes.h
 *	  Notices commands that change roles and databases under warm slots.
 *
 * Runs in: every backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_CHANGES_H
#define PW_CHANGES_H

/* Have every backend notice (postmaster, from _PG_init). */
extern void pw_changes_register(void);

/*
 * Is some backend carrying out a command for which nobody else may be
 * connected to this database?  Then do not open slots in it.  Takes
 * control->lock.
 */
extern bool pw_changes_hold(Oid dboid);

#endif							/* PW_CHANGES_H */
