/*-------------------------------------------------------------------------
 *
 * opaque_state.h
 *	  What may leave state in a session that nobody can look at.
 *
 * Runs in: slots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_OPAQUE_STATE_H
#define PW_OPAQUE_STATE_H

#include "nodes/nodes.h"

/*
 * All of these look into catalogs, and so must be called in a transaction that
 * has not failed.
 */

/* May a function that is not built in leave such state? */
extern bool pw_function_is_opaque(Oid function);

/*
 * The built-in function that a function is another name for (LANGUAGE
 * internal); InvalidOid if it is not.
 */
extern Oid	pw_function_behind(Oid function);

/* May the access to a foreign table? */
extern bool pw_foreign_table_is_opaque(Oid relid);

/* May a utility statement, by what it is, or by a trigger on events? */
extern bool pw_utility_is_opaque(Node *statement);

#endif							/* PW_OPAQUE_STATE_H */
