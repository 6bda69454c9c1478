/*-------------------------------------------------------------------------
 *
 * pool.h
 *	  One (database, role): its slots, its size, its epoll set, and which
 *	  client goes to which slot.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_POOL_H
#define PW_POOL_H

/* Begin: sets up clients and slots as well, and takes over existing pools. */
extern void pw_pool_init(void);

/* Look at everything that slots may have left for us; once per wakeup. */
extern void pw_pool_work(void);

/* The configuration has changed. */
extern void pw_pool_reload(void);

#endif							/* PW_POOL_H */
