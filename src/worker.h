/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The background worker.
 *
 * Runs in: postmaster (registration), pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_WORKER_H
#define PW_WORKER_H

/* Register the worker with the postmaster, from _PG_init(). */
extern void pw_worker_register(void);

extern PGDLLEXPORT void pool_worker_main(Datum main_arg);

#endif							/* PW_WORKER_H */
