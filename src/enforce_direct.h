/*-------------------------------------------------------------------------
 *
 * enforce_direct.h
 *	  The time limits of clients that connect to the server directly.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_ENFORCE_DIRECT_H
#define PW_ENFORCE_DIRECT_H

/*
 * Begin to look, or look again at once because limits have changed.  Ends by
 * itself when pool_worker.enforce_on does not say "all".
 */
extern void pw_enforce_direct_start(void);

#endif							/* PW_ENFORCE_DIRECT_H */
