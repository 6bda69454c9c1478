/*-------------------------------------------------------------------------
 *
 * prepared_statements.h
 *	  The prepared statements of the client that is attached.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_PREPARED_STATEMENTS_H
#define PW_PREPARED_STATEMENTS_H

#include "lib/stringinfo.h"

/* To be called once, in a memory context that remains. */
extern void pw_statements_init(void);

/*
 * What happened to prepared statements: ParseComplete or PREPARE, CloseComplete
 * or DEALLOCATE or DISCARD, and use of one.  Each is to be told at once.
 */
extern void pw_statements_parsed(void);
extern void pw_statement_prepared(const char *name);
extern void pw_statements_removed(void);
extern void pw_statements_used(void);

/*
 * The named statements, as parts of a session (see session.c).  Apply makes
 * the names in PostgreSQL's table those of the part; capture appends them, as
 * they are, and may be called as often as one likes.  Update does the same with
 * bytes that were captured, or applied, last; false if the names are others.
 */
extern bool pw_statements_changed(void);
extern void pw_statements_capture(StringInfo part);
extern void pw_statements_apply(const char *part, size_t len);
extern bool pw_statements_update(char *part, size_t len);

/*
 * The unnamed statement, as a part too.  PostgreSQL lets nobody put one in its
 * place, so apply only notes what is wanted: pw_unnamed_message() builds what
 * PostgresMain() is to read before the client's own command.
 */
extern bool pw_unnamed_changed(void);
extern void pw_unnamed_capture(StringInfo part);
extern void pw_unnamed_apply(const char *part, size_t len);

/* The client's next command drops or replaces its unnamed statement. */
extern void pw_unnamed_void(void);

/*
 * If the unnamed statement in this backend is not the client's, append the
 * messages by which it can be made so, and return true.  When they have been
 * carried out, settle makes it so.
 */
extern bool pw_unnamed_message(StringInfo messages);
extern void pw_unnamed_settle(void);

#endif							/* PW_PREPARED_STATEMENTS_H */
