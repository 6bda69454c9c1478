/*-------------------------------------------------------------------------
 *
 * unnamed_statement.h
 *	  Keep one client's unnamed prepared statement from the next one.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_UNNAMED_STATEMENT_H
#define PW_UNNAMED_STATEMENT_H

/* The client with this id may have left an unnamed statement. */
extern void pw_unnamed_statement_note(uint64 client_id);

/* There is none any more. */
extern void pw_unnamed_statement_forget(void);

/* Is there one that may belong to somebody else than this client? */
extern bool pw_unnamed_statement_is_foreign(uint64 client_id);

/*
 * Have PostgresMain() drop it: returns a socket to be read instead of the
 * client's.  The ReadyForQuery that follows ends the detour; output until then
 * is to be discarded.
 */
extern int	pw_unnamed_statement_inject(void);

/* Is the detour under way?  And it has ended: */
extern bool pw_unnamed_statement_injected(void);
extern void pw_unnamed_statement_finish(void);

#endif							/* PW_UNNAMED_STATEMENT_H */
