/*-------------------------------------------------------------------------
 *
 * sql_api.h
 *	  The SQL functions: what they have in common.
 *
 * Runs in: any backend that calls one of our functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_SQL_API_H
#define PW_SQL_API_H

/* Raise an error unless the postmaster has loaded us. */
extern void pw_require_preload(void);

#endif							/* PW_SQL_API_H */
